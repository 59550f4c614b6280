//! Stored credentials.

use crate::{
    Client, Error,
    client::{CALL_TIMEOUT, call},
};
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;
use v1::credentials_client::CredentialsClient;
use xylem_proto::v1;

/// A provider may be asked first, for longer than the control plane takes otherwise.
const OBTAIN_TIMEOUT: Duration = Duration::from_secs(160);

impl Client {
    /// Stores a credential; the message's own secret is left empty.
    ///
    /// # Errors
    /// [`Error::Conflict`] where there is one of that name, [`Error::Invalid`] where a field breaks
    /// its rule.
    pub async fn create_credential(
        &self,
        mut request: v1::CreateCredentialRequest,
        secret: &SecretString,
    ) -> Result<v1::Credential, Error> {
        secret.expose_secret().clone_into(&mut request.secret);
        let mut credentials = CredentialsClient::new(self.channel.clone());
        call(request, OBTAIN_TIMEOUT, |request| {
            credentials.create_credential(request)
        })
        .await
    }

    /// Stores the next version of a credential; the message's own secret is left empty.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no such credential, [`Error::Refused`] where another version
    /// is active than the one that was named.
    pub async fn rotate_credential(
        &self,
        mut request: v1::RotateCredentialRequest,
        secret: &SecretString,
    ) -> Result<v1::Credential, Error> {
        secret.expose_secret().clone_into(&mut request.secret);
        let mut credentials = CredentialsClient::new(self.channel.clone());
        call(request, OBTAIN_TIMEOUT, |request| {
            credentials.rotate_credential(request)
        })
        .await
    }

    /// Obtains the next version of a credential from its provider, now.
    ///
    /// # Errors
    /// [`Error::Refused`] where the provider refused, or the secret is not obtained from one;
    /// [`Error::Unavailable`] where it does not answer.
    pub async fn renew_credential(&self, name: &str) -> Result<v1::Credential, Error> {
        let request = v1::RenewCredentialRequest {
            name: name.to_owned(),
        };
        let mut credentials = CredentialsClient::new(self.channel.clone());
        call(request, OBTAIN_TIMEOUT, |request| {
            credentials.renew_credential(request)
        })
        .await
    }

    /// Tells about a credential.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no such credential.
    pub async fn get_credential(&self, name: &str) -> Result<v1::Credential, Error> {
        let request = v1::GetCredentialRequest {
            name: name.to_owned(),
        };
        let mut credentials = CredentialsClient::new(self.channel.clone());
        call(request, CALL_TIMEOUT, |request| {
            credentials.get_credential(request)
        })
        .await
    }

    /// One page of credentials, by name.
    ///
    /// # Errors
    /// As the control plane's status maps.
    pub async fn list_credentials(
        &self,
        request: v1::ListCredentialsRequest,
    ) -> Result<v1::ListCredentialsResponse, Error> {
        let mut credentials = CredentialsClient::new(self.channel.clone());
        call(request, CALL_TIMEOUT, |request| {
            credentials.list_credentials(request)
        })
        .await
    }

    /// Revokes a version of a credential in every tree that holds it. Waits for as long as the request
    /// says.
    ///
    /// # Errors
    /// [`Error::Refused`] where a tree still needs it.
    pub async fn revoke_credential(
        &self,
        request: v1::RevokeCredentialRequest,
    ) -> Result<v1::RevokeCredentialResponse, Error> {
        let wait = request.wait.as_ref().map_or(30, |wait| wait.seconds);
        let wait = Duration::from_secs(u64::try_from(wait).unwrap_or_default());
        let mut credentials = CredentialsClient::new(self.channel.clone());
        call(request, CALL_TIMEOUT * 4 + wait, |request| {
            credentials.revoke_credential(request)
        })
        .await
    }

    /// Removes a credential.
    ///
    /// # Errors
    /// [`Error::Refused`] where something is bound to it, or a tree holds it.
    pub async fn remove_credential(
        &self,
        request: v1::RemoveCredentialRequest,
    ) -> Result<(), Error> {
        let mut credentials = CredentialsClient::new(self.channel.clone());
        let removed = call(request, CALL_TIMEOUT, |request| {
            credentials.remove_credential(request)
        });
        removed.await.map(drop)
    }

    /// Binds a credential to a slot of a workflow type.
    ///
    /// # Errors
    /// [`Error::Conflict`] where another one is bound there.
    pub async fn bind_credential(
        &self,
        request: v1::BindCredentialRequest,
    ) -> Result<v1::Credential, Error> {
        let mut credentials = CredentialsClient::new(self.channel.clone());
        call(request, CALL_TIMEOUT, |request| {
            credentials.bind_credential(request)
        })
        .await
    }

    /// Takes a binding away.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the credential is not bound there.
    pub async fn unbind_credential(
        &self,
        request: v1::BindCredentialRequest,
    ) -> Result<v1::Credential, Error> {
        let mut credentials = CredentialsClient::new(self.channel.clone());
        call(request, CALL_TIMEOUT, |request| {
            credentials.unbind_credential(request)
        })
        .await
    }
}
