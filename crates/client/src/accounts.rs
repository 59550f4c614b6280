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

    /// Begins to enrol a second factor. The answer is the secret and a URI with it.
    ///
    /// # Errors
    /// [`Error::Denied`] where the password is another, [`Error::Conflict`] where there is one already.
    pub async fn enrol_second_factor(
        &self,
        password: &SecretString,
    ) -> Result<(SecretString, SecretString), Error> {
        let message = v1::EnrolSecondFactorRequest {
            password: password.expose_secret().to_owned(),
        };
        let mut accounts = AccountsClient::new(self.channel.clone());
        let begun = call(message, CALL_TIMEOUT, |request| {
            accounts.enrol_second_factor(request)
        });
        let begun = begun.await?;
        Ok((
            SecretString::from(begun.secret),
            SecretString::from(begun.uri),
        ))
    }

    /// Ends enrolling with the first code. The answer are the recovery codes.
    ///
    /// # Errors
    /// [`Error::Denied`] where the code is another.
    pub async fn confirm_second_factor(
        &self,
        code: &SecretString,
    ) -> Result<Vec<SecretString>, Error> {
        let message = v1::ConfirmSecondFactorRequest {
            code: code.expose_secret().to_owned(),
        };
        let mut accounts = AccountsClient::new(self.channel.clone());
        let confirmed = call(message, CALL_TIMEOUT, |request| {
            accounts.confirm_second_factor(request)
        });
        let codes = confirmed.await?.recovery_codes;
        Ok(codes.into_iter().map(SecretString::from).collect())
    }

    /// Makes the caller's recovery codes anew; the ones before are good no more.
    ///
    /// # Errors
    /// [`Error::Denied`] where the password or the code is another, [`Error::NotFound`] where there is no
    /// second factor.
    pub async fn renew_recovery_codes(
        &self,
        password: &SecretString,
        code: &SecretString,
    ) -> Result<Vec<SecretString>, Error> {
        let message = v1::RenewRecoveryCodesRequest {
            password: password.expose_secret().to_owned(),
            code: code.expose_secret().to_owned(),
        };
        let mut accounts = AccountsClient::new(self.channel.clone());
        let renewed = call(message, CALL_TIMEOUT, |request| {
            accounts.renew_recovery_codes(request)
        });
        let codes = renewed.await?.recovery_codes;
        Ok(codes.into_iter().map(SecretString::from).collect())
    }

    /// Removes the caller's second factor.
    ///
    /// # Errors
    /// [`Error::Denied`] where the code is another, [`Error::Invalid`] where the password is too short
    /// without it.
    pub async fn remove_second_factor(&self, code: &SecretString) -> Result<(), Error> {
        let message = v1::RemoveSecondFactorRequest {
            code: code.expose_secret().to_owned(),
        };
        let mut accounts = AccountsClient::new(self.channel.clone());
        let removed = call(message, CALL_TIMEOUT, |request| {
            accounts.remove_second_factor(request)
        });
        removed.await.map(drop)
    }

    /// Takes the second factor from an agent that has lost it, and the password with it.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no such agent, or it has none.
    pub async fn reset_second_factor(&self, agent: &AgentId) -> Result<(), Error> {
        let message = v1::ResetSecondFactorRequest {
            name: agent.to_string(),
        };
        let mut accounts = AccountsClient::new(self.channel.clone());
        let reset = call(message, CALL_TIMEOUT, |request| {
            accounts.reset_second_factor(request)
        });
        reset.await.map(drop)
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
