//! The role check, the deadline and the count of every call.

use crate::{
    access,
    caller::{self, Reach},
    fault::Fault,
    plane::Plane,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tonic::{Code, Response, Status};
use xylem_audit::{Kind, Source, Subject, SubjectKind};
use xylem_identity::{Credential, Principal};
use xylem_proto::{Gate, v1::Rpc};

/// Lets a call pass whose caller has one of the roles for it, and whose key has its scope.
#[derive(Debug, Clone)]
pub(crate) struct RoleGate(Arc<Plane>);

impl RoleGate {
    pub(crate) fn new(plane: Arc<Plane>) -> Self {
        Self(plane)
    }

    fn admit(&self, rpc: Rpc) -> Result<Reach, Fault> {
        let principal = caller::caller()?;
        let rule = access::rule(rpc);
        let refuse = |reason, message| {
            self.count(rpc, reason, &principal);
            Err(Fault::denied(reason, message))
        };
        let Some(reach) = rule.reach(&principal) else {
            let names: Vec<_> = rule
                .all
                .iter()
                .chain(rule.own)
                .map(|role| role.code())
                .collect();
            let message = format!("this call needs the role {}", names.join(" or "));
            return refuse("role", message);
        };
        match rule.scope {
            Some(scope) if !principal.may(scope) && principal.lacks_second_factor() => refuse(
                "second_factor_required",
                second_factor_of(&principal).to_owned(),
            ),
            Some(scope) if !principal.may(scope) => {
                let message = format!("this key is narrowed: the call needs the scope {scope}");
                refuse("scope", message)
            }
            _ => Ok(reach),
        }
    }

    fn count(&self, rpc: Rpc, reason: &'static str, principal: &Principal) {
        let mut source = Source::agent(principal.agent());
        source.subject = Some(Subject::new(SubjectKind::Call, rpc.name()));
        self.0.refused(Kind::PermissionDenied, reason, source);
    }
}

impl Gate for RoleGate {
    async fn pass<T: Send>(
        &self,
        rpc: Rpc,
        call: impl Future<Output = Result<Response<T>, Status>> + Send,
    ) -> Result<Response<T>, Status> {
        let began = Instant::now();
        let _in_flight = self.0.metrics.begin();
        let result = match self.admit(rpc) {
            Ok(reach) => {
                let handled = tokio::time::timeout(deadline(rpc), caller::reaching(reach, call));
                match handled.await {
                    Ok(handled) => handled.map_err(Status::from).flatten(),
                    Err(_) => Err(too_late(rpc)),
                }
            }
            Err(fault) => Err(fault.into()),
        };
        let code = result.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.0.metrics.call(rpc, code, began.elapsed());
        if let Some(passage) = caller::passage() {
            passage.was(rpc, code);
            if let (Some(reason), Ok(principal)) = (passage.why_not_let(), caller::caller()) {
                self.count(rpc, reason, &principal);
            }
        }
        result
    }
}

/// What whoever needs a second factor is told to do for one.
fn second_factor_of(principal: &Principal) -> &'static str {
    match principal.credential() {
        Credential::Provider(_) => {
            "your role needs a second factor: sign in with one at your identity provider, whose tokens \
             have to say so"
        }
        Credential::Key(_) | Credential::Session(_) => {
            "your role needs a second factor: sign in with one, and before that enrol one with `xylem \
             account second-factor enrol`"
        }
    }
}

/// How long a call may take until its answer, or the first item of its stream, is there.
fn deadline(rpc: Rpc) -> Duration {
    let seconds = match rpc {
        // Wait for leases and nodes, as long as they are asked to.
        Rpc::RevokeToken | Rpc::RevokeCredential => 5 * 60 + 45,
        // Write as much as there is.
        Rpc::BackUp | Rpc::ArchiveAudit | Rpc::RotateIssuerKey => 60 * 60,
        // Ask a provider, whose other credentials may have their turn first, and a probe.
        Rpc::CreateCredential | Rpc::RotateCredential | Rpc::RenewCredential => 150,
        Rpc::StopTree | Rpc::GetTree | Rpc::WatchTree => 115,
        _ => 25,
    };
    Duration::from_secs(seconds)
}

fn too_late(rpc: Rpc) -> Status {
    let message = format!("{} took too long: try again", rpc.name());
    Fault::unavailable("deadline", message, "the handler was given up").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{oauth, provider};

    #[test]
    fn whoever_has_a_provider_asked_is_given_the_time_that_it_may_take() {
        let asked = provider::LONGEST_TIMEOUT + oauth::TIMEOUT;
        for rpc in [
            Rpc::CreateCredential,
            Rpc::RotateCredential,
            Rpc::RenewCredential,
        ] {
            // One that another credential began, and its own.
            assert!(deadline(rpc) > asked + provider::LONGEST_TIMEOUT, "{rpc:?}");
        }
        // Signs as many grants as there are.
        assert!(deadline(Rpc::RotateIssuerKey) >= Duration::from_secs(60 * 60));
    }
}
