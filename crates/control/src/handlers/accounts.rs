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
use xylem_audit::Kind;
use xylem_identity::{Credential, Session};
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
        self.identity
            .change_password(namespace, agent, &present, &new, address, entry)
            .await?;
        Ok(v1::ChangePasswordResponse {})
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
