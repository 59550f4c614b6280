//! Local accounts.

use crate::{
    Client, Error,
    client::{CALL_TIMEOUT, call},
};
use secrecy::{ExposeSecret, SecretString};
use v1::accounts_client::AccountsClient;
use xylem_ids::AgentId;
use xylem_proto::{Timestamp, v1};

/// Accounts.
impl Client {
    /// Invites an agent to choose a password: whoever has the answer can, once, within three days.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no such agent, [`Error::Invalid`] where it is no user.
    pub async fn invite_agent(
        &self,
        agent: &AgentId,
    ) -> Result<(SecretString, Option<Timestamp>), Error> {
        let message = v1::InviteAgentRequest {
            name: agent.to_string(),
        };
        let mut accounts = AccountsClient::new(self.channel.clone());
        let invited = call(message, CALL_TIMEOUT, |request| {
            accounts.invite_agent(request)
        });
        let invited = invited.await?;
        Ok((SecretString::from(invited.secret), invited.expires_at))
    }

    /// Changes the caller's password. Every session that was opened with the one before ends.
    ///
    /// # Errors
    /// [`Error::Denied`] where the present one is another, [`Error::Invalid`] where the new one is not
    /// good enough.
    pub async fn change_password(
        &self,
        present: &SecretString,
        new: &SecretString,
    ) -> Result<(), Error> {
        let message = v1::ChangePasswordRequest {
            password: present.expose_secret().to_owned(),
            new_password: new.expose_secret().to_owned(),
        };
        let mut accounts = AccountsClient::new(self.channel.clone());
        let changed = call(message, CALL_TIMEOUT, |request| {
            accounts.change_password(request)
        });
        changed.await.map(drop)
    }

    /// The caller's sessions, the newest first.
    ///
    /// # Errors
    /// As the control plane's status maps.
    pub async fn list_sessions(&self) -> Result<Vec<v1::Session>, Error> {
        let mut accounts = AccountsClient::new(self.channel.clone());
        let listed = call(v1::ListSessionsRequest {}, CALL_TIMEOUT, |request| {
            accounts.list_sessions(request)
        });
        Ok(listed.await?.sessions)
    }

    /// Ends a session of the caller.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the caller has no such session.
    pub async fn end_session(&self, id: &str) -> Result<(), Error> {
        let message = v1::EndSessionRequest { id: id.to_owned() };
        let mut accounts = AccountsClient::new(self.channel.clone());
        let ended = call(message, CALL_TIMEOUT, |request| {
            accounts.end_session(request)
        });
        ended.await.map(drop)
    }
}
