//! Local accounts: passwords, and who is signed in.

use super::{Handlers, answer};
use crate::{
    caller::{caller, caller_address},
    convert,
    fault::Fault,
};
use secrecy::{ExposeSecret, SecretString};
use tonic::{Request, Response, Status};
use v1::accounts_server::Accounts;
use xylem_audit::{Kind, Source};
use xylem_identity::{Credential, IdentityError, Session};
use xylem_ids::{AgentId, SessionId};
use xylem_proto::v1;

#[tonic::async_trait]
impl Accounts for Handlers {
    async fn invite_agent(
        &self,
        request: Request<v1::InviteAgentRequest>,
    ) -> Result<Response<v1::InviteAgentResponse>, Status> {
        answer(self.invite(request.into_inner()).await)
    }

    async fn change_password(
        &self,
        request: Request<v1::ChangePasswordRequest>,
    ) -> Result<Response<v1::ChangePasswordResponse>, Status> {
        answer(self.change_password(request.into_inner()).await)
    }

    async fn enrol_second_factor(
        &self,
        request: Request<v1::EnrolSecondFactorRequest>,
    ) -> Result<Response<v1::EnrolSecondFactorResponse>, Status> {
        answer(self.enrol_factor(request.into_inner()).await)
    }

    async fn confirm_second_factor(
        &self,
        request: Request<v1::ConfirmSecondFactorRequest>,
    ) -> Result<Response<v1::ConfirmSecondFactorResponse>, Status> {
        answer(self.confirm_factor(request.into_inner()).await)
    }

    async fn renew_recovery_codes(
        &self,
        request: Request<v1::RenewRecoveryCodesRequest>,
    ) -> Result<Response<v1::RenewRecoveryCodesResponse>, Status> {
        answer(self.renew_recovery(request.into_inner()).await)
    }

    async fn remove_second_factor(
        &self,
        request: Request<v1::RemoveSecondFactorRequest>,
    ) -> Result<Response<v1::RemoveSecondFactorResponse>, Status> {
        answer(self.remove_factor(request.into_inner()).await)
    }

    async fn reset_second_factor(
        &self,
        request: Request<v1::ResetSecondFactorRequest>,
    ) -> Result<Response<v1::ResetSecondFactorResponse>, Status> {
        answer(self.reset_factor(request.into_inner()).await)
    }

    async fn list_sessions(
        &self,
        _: Request<v1::ListSessionsRequest>,
    ) -> Result<Response<v1::ListSessionsResponse>, Status> {
        answer(self.sessions().await)
    }

    async fn end_session(
        &self,
        request: Request<v1::EndSessionRequest>,
    ) -> Result<Response<v1::EndSessionResponse>, Status> {
        answer(self.end_session(request.into_inner()).await)
    }
}

impl Handlers {
    async fn invite(
        &self,
        request: v1::InviteAgentRequest,
    ) -> Result<v1::InviteAgentResponse, Fault> {
        let name: AgentId = convert::id(request.name, "name")?;
        let entry = self.change(Kind::AgentInvited);
        let namespace = &self.settings.namespace;
        let (secret, ends) = self.identity.invite(namespace, &name, entry).await?;
        Ok(v1::InviteAgentResponse {
            secret: secret.expose_secret().to_owned(),
            expires_at: Some(convert::time(ends)),
        })
    }

    async fn change_password(
        &self,
        request: v1::ChangePasswordRequest,
    ) -> Result<v1::ChangePasswordResponse, Fault> {
        let caller = caller()?;
        let present = SecretString::from(request.password);
        let new = SecretString::from(request.new_password);
        let entry = self.change(Kind::PasswordChanged);
        let namespace = &self.settings.namespace;
        let (agent, address) = (caller.agent(), caller_address());
        let changed = self
            .identity
            .change_password(namespace, agent, &present, &new, address, entry);
        self.proven(changed.await)?;
        Ok(v1::ChangePasswordResponse {})
    }

    /// What came of proving once more who one is. Failures are counted as those of signing in are.
    fn proven<T>(&self, result: Result<T, IdentityError>) -> Result<T, Fault> {
        let reason = match &result {
            Err(IdentityError::PasswordWrong) => "password_wrong",
            Err(IdentityError::CodeWrong) => "code_wrong",
            Err(IdentityError::TooMany(_)) => "throttled",
            _ => return Ok(result?),
        };
        let source = Source::agent(caller()?.agent());
        self.refused(Kind::AuthenticationFailed, reason, source);
        Ok(result?)
    }

    async fn enrol_factor(
        &self,
        request: v1::EnrolSecondFactorRequest,
    ) -> Result<v1::EnrolSecondFactorResponse, Fault> {
        let caller = caller()?;
        let password = SecretString::from(request.password);
        let namespace = &self.settings.namespace;
        let (agent, address, now) = (caller.agent(), caller_address(), self.now());
        let enrolment = self
            .identity
            .enrol_factor(namespace, agent, &password, address, now);
        let enrolment = self.proven(enrolment.await)?;
        Ok(v1::EnrolSecondFactorResponse {
            secret: enrolment.secret.expose_secret().to_owned(),
            uri: enrolment.uri.expose_secret().to_owned(),
        })
    }

    async fn confirm_factor(
        &self,
        request: v1::ConfirmSecondFactorRequest,
    ) -> Result<v1::ConfirmSecondFactorResponse, Fault> {
        let caller = caller()?;
        let entry = self.change(Kind::SecondFactorEnrolled);
        let namespace = &self.settings.namespace;
        let (agent, address) = (caller.agent(), caller_address());
        let codes = self
            .identity
            .confirm_factor(namespace, agent, &request.code, address, entry);
        let codes = self.proven(codes.await)?;
        Ok(v1::ConfirmSecondFactorResponse {
            recovery_codes: shown(&codes),
        })
    }

    async fn renew_recovery(
        &self,
        request: v1::RenewRecoveryCodesRequest,
    ) -> Result<v1::RenewRecoveryCodesResponse, Fault> {
        let caller = caller()?;
        let password = SecretString::from(request.password);
        let entry = self.change(Kind::RecoveryCodesRenewed);
        let namespace = &self.settings.namespace;
        let (agent, address) = (caller.agent(), caller_address());
        let given = (&password, request.code.as_str());
        let codes = self
            .identity
            .renew_recovery_codes(namespace, agent, given, address, entry);
        let codes = self.proven(codes.await)?;
        Ok(v1::RenewRecoveryCodesResponse {
            recovery_codes: shown(&codes),
        })
    }

    async fn remove_factor(
        &self,
        request: v1::RemoveSecondFactorRequest,
    ) -> Result<v1::RemoveSecondFactorResponse, Fault> {
        let caller = caller()?;
        let entry = self.change(Kind::SecondFactorRemoved);
        let namespace = &self.settings.namespace;
        let (agent, address) = (caller.agent(), caller_address());
        let removed = self
            .identity
            .remove_factor(namespace, agent, &request.code, address, entry);
        self.proven(removed.await)?;
        Ok(v1::RemoveSecondFactorResponse {})
    }

    async fn reset_factor(
        &self,
        request: v1::ResetSecondFactorRequest,
    ) -> Result<v1::ResetSecondFactorResponse, Fault> {
        let name: AgentId = convert::id(request.name, "name")?;
        if name == *caller()?.agent() {
            let message = "nobody resets their own second factor: another administrator does";
            return Err(Fault::denied("own_second_factor", message));
        }
        let entry = self.change(Kind::SecondFactorReset);
        let namespace = &self.settings.namespace;
        self.identity.reset_factor(namespace, &name, entry).await?;
        Ok(v1::ResetSecondFactorResponse {})
    }

    async fn sessions(&self) -> Result<v1::ListSessionsResponse, Fault> {
        let caller = caller()?;
        let namespace = &self.settings.namespace;
        let sessions = self
            .identity
            .sessions(namespace, caller.agent(), self.now());
        let wire = |session: Session| {
            let shown = Credential::Session(session.id.clone());
            wire_session(&session, *caller.credential() == shown)
        };
        Ok(v1::ListSessionsResponse {
            sessions: sessions.await?.into_iter().map(wire).collect(),
        })
    }

    async fn end_session(
        &self,
        request: v1::EndSessionRequest,
    ) -> Result<v1::EndSessionResponse, Fault> {
        let id: SessionId = convert::id(request.id, "id")?;
        let caller = caller()?;
        let entry = self.change(Kind::SessionEnded);
        let namespace = &self.settings.namespace;
        let ended = self
            .identity
            .end_session(namespace, caller.agent(), &id, entry);
        ended.await?;
        Ok(v1::EndSessionResponse {})
    }
}

fn shown(codes: &[SecretString]) -> Vec<String> {
    let codes = codes.iter().map(|code| code.expose_secret().to_owned());
    codes.collect()
}

fn wire_session(session: &Session, current: bool) -> v1::Session {
    let scopes = session.scopes.codes().unwrap_or_default();
    v1::Session {
        id: session.id.to_string(),
        client: session.client.to_string(),
        opened_at: Some(convert::time(session.opened_at)),
        refreshed_at: Some(convert::time(session.rotated_at)),
        idle_until: Some(convert::time(session.idle_until)),
        ends_at: Some(convert::time(session.ends_at)),
        scopes: scopes.into_iter().map(str::to_owned).collect(),
        second_factor: session.second_factor,
        current,
    }
}
