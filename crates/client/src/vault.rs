//! What the control plane keeps: its backups and its keys.

use crate::{
    Client, Error,
    client::{CALL_TIMEOUT, call},
};
use std::time::Duration;
use v1::system_client::SystemClient;
use xylem_proto::v1;

/// What reads or writes all there is takes as long as the database is large.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// Backups and keys.
impl Client {
    /// Makes a backup now. It takes as long as the database is large.
    ///
    /// # Errors
    /// As the control plane's status maps.
    pub async fn back_up(&self) -> Result<v1::Backup, Error> {
        let mut system = SystemClient::new(self.channel.clone());
        let message = v1::BackUpRequest {};
        call(message, WHOLE_TIMEOUT, |request| system.back_up(request)).await
    }

    /// Hands tokens out again after a restore.
    ///
    /// # Errors
    /// As the control plane's status maps.
    pub async fn confirm_restore(&self, reason: String) -> Result<(), Error> {
        let mut system = SystemClient::new(self.channel.clone());
        let message = v1::ConfirmRestoreRequest { reason };
        let confirmed = call(message, CALL_TIMEOUT, |request| {
            system.confirm_restore(request)
        });
        confirmed.await.map(drop)
    }

    /// Makes the next key that signs access tokens; it signs at once where the present one is
    /// `compromised`, and what was signed before is refused then.
    ///
    /// # Errors
    /// As the control plane's status maps.
    pub async fn rotate_signing_key(
        &self,
        compromised: bool,
    ) -> Result<v1::RotateSigningKeyResponse, Error> {
        let mut system = SystemClient::new(self.channel.clone());
        let message = v1::RotateSigningKeyRequest { compromised };
        call(message, CALL_TIMEOUT, |request| {
            system.rotate_signing_key(request)
        })
        .await
    }

    /// Makes the next key that signs grants, and signs every grant again, which takes as long as there are
    /// many. It is done also where nobody waits for it.
    ///
    /// # Errors
    /// As the control plane's status maps.
    pub async fn rotate_issuer_key(&self) -> Result<v1::RotateIssuerKeyResponse, Error> {
        let mut system = SystemClient::new(self.channel.clone());
        let message = v1::RotateIssuerKeyRequest {};
        call(message, WHOLE_TIMEOUT, |request| {
            system.rotate_issuer_key(request)
        })
        .await
    }

    /// Wraps some of the stored keys anew under the current key-encryption key. `current` is that key and
    /// `after` where to begin, as the answer before says it; both are empty at first.
    ///
    /// # Errors
    /// As the control plane's status maps.
    pub async fn rewrap_keys(
        &self,
        current: &str,
        after: &str,
    ) -> Result<v1::RewrapKeysResponse, Error> {
        let mut system = SystemClient::new(self.channel.clone());
        let message = v1::RewrapKeysRequest {
            current_key_id: current.to_owned(),
            after_key_id: after.to_owned(),
        };
        call(message, CALL_TIMEOUT, |request| system.rewrap_keys(request)).await
    }
}
