//! The role check, the deadline and the count of every call.

use crate::{access, caller, fault::Fault, plane::Plane};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tonic::{Code, Response, Status};
use xylem_audit::Kind;
use xylem_proto::{Gate, v1::Rpc};

/// Lets a call pass whose caller has one of the roles for it.
#[derive(Debug, Clone)]
pub(crate) struct RoleGate(Arc<Plane>);

impl RoleGate {
    pub(crate) fn new(plane: Arc<Plane>) -> Self {
        Self(plane)
    }

    fn admit(&self, rpc: Rpc) -> Result<(), Fault> {
        let principal = caller::caller()?;
        let roles = access::roles(rpc);
        if roles.iter().any(|role| principal.has(*role)) {
            return Ok(());
        }
        let agent = principal.agent().as_str();
        self.0.note(Kind::PermissionDenied, "role", agent);
        let names: Vec<_> = roles.iter().map(|role| role.code()).collect();
        let message = format!("this call needs the role {}", names.join(" or "));
        Err(Fault::denied("role", message))
    }
}

impl Gate for RoleGate {
    async fn pass<T: Send>(
        &self,
        rpc: Rpc,
        call: impl Future<Output = Result<Response<T>, Status>> + Send,
    ) -> Result<Response<T>, Status> {
        let began = Instant::now();
        let result = match self.admit(rpc) {
            Ok(()) => tokio::time::timeout(deadline(rpc), call)
                .await
                .unwrap_or_else(|_| Err(too_late(rpc))),
            Err(fault) => Err(fault.into()),
        };
        let code = result.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.0.metrics.call(rpc, code, began.elapsed());
        result
    }
}

/// How long a call may take until its answer, or the first item of its stream, is there.
fn deadline(rpc: Rpc) -> Duration {
    let seconds = match rpc {
        // Wait for leases and nodes, as long as they are asked to.
        Rpc::RevokeToken => 5 * 60 + 45,
        Rpc::StopTree | Rpc::GetTree | Rpc::WatchTree => 115,
        _ => 25,
    };
    Duration::from_secs(seconds)
}

fn too_late(rpc: Rpc) -> Status {
    let message = format!("{} took too long: try again", rpc.name());
    Fault::unavailable("deadline", message, "the handler was given up").into()
}
