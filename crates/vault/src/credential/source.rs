//! Credentials whose value is obtained by itself: OAuth 2.0 client credentials and refresh tokens.

use super::{CredentialRow, CredentialStatus, rows::source_place, storage::SourceRow};
use crate::{
    SecretId, Transaction, Vault, VaultError,
    deposit::{encrypted_url, invalid},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use xylem_audit::{Entry, Kind, Reason, SubjectKind, Verdict};
use xylem_grant::UnixSeconds;
use xylem_ids::{AgentId, CredentialName, Namespace, Version};
use xylem_seal::CipherKey;

/// For so long nobody else obtains a value, if whoever began does not come to an end.
const LEASE: Duration = Duration::from_secs(2 * 60);
const LONGEST_TEXT: usize = 2000;
const MOST_SCOPES: usize = 50;
/// Longer secrets are refused.
const LONGEST_SECRET: usize = 16 * 1024;

/// How a value is obtained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OAuthGrant {
    /// With the client's own secret (RFC 6749, section 4.4).
    ClientCredentials,
    /// With a refresh token (RFC 6749, section 6).
    RefreshToken,
}

/// Where an access token comes from. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OAuth {
    /// The provider's token endpoint.
    pub token_url: String,
    /// What it is asked with.
    pub grant: OAuthGrant,
    /// Who asks.
    pub client_id: String,
    /// Whether the client's secret goes into the form and not into the `Authorization` header.
    pub secret_in_form: bool,
    /// What is asked for.
    pub scopes: Vec<String>,
    /// For which API (RFC 8707).
    pub resource: Option<String>,
    /// How long a token lives of which the provider does not say it, in seconds.
    pub assume_lifetime: Option<u64>,
    /// What is asked with a new token before anything else gets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_url: Option<String>,
    /// Whether a version is revoked when no tree needs it any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revoke_old: bool,
}

impl OAuth {
    fn check(&self) -> Result<(), VaultError> {
        let printable = |text: &str| {
            (1..=LONGEST_TEXT).contains(&text.len()) && !text.chars().any(char::is_control)
        };
        if !printable(&self.token_url) || !encrypted_url(&self.token_url) {
            return Err(invalid(
                "oauth.token_url",
                "an https URL, or an http one on a loopback host",
            ));
        }
        if !printable(&self.client_id) {
            return Err(invalid("oauth.client_id", "1 to 2000 printable characters"));
        }
        let scopes = &self.scopes;
        let scope = |scope: &String| printable(scope) && !scope.contains(' ');
        if scopes.len() > MOST_SCOPES || !scopes.iter().all(scope) {
            return Err(invalid("oauth.scopes", "at most 50 words"));
        }
        if self
            .resource
            .as_deref()
            .is_some_and(|text| !printable(text))
        {
            return Err(invalid("oauth.resource", "1 to 2000 printable characters"));
        }
        if self
            .probe_url
            .as_deref()
            .is_some_and(|url| !printable(url) || !encrypted_url(url))
        {
            return Err(invalid(
                "oauth.probe_url",
                "an https URL, or an http one on a loopback host",
            ));
        }
        Ok(())
    }
}

/// How a credential is obtained, with what it takes. Its `Debug` shows everything but the secrets.
#[derive(Debug, Clone)]
pub struct NewSource {
    /// Where the value comes from.
    pub oauth: OAuth,
    /// The client's secret.
    pub client_secret: SecretString,
    /// The refresh token, where that is the grant.
    pub refresh_token: Option<SecretString>,
}

impl NewSource {
    /// Checks every field.
    ///
    /// # Errors
    /// Names the field that breaks its rule.
    pub fn check(&self) -> Result<(), VaultError> {
        self.oauth.check()?;
        check_secret(&self.client_secret, "secret")?;
        match (self.oauth.grant, &self.refresh_token) {
            (OAuthGrant::ClientCredentials, None) => Ok(()),
            (OAuthGrant::RefreshToken, Some(token)) => check_secret(token, "refresh_token"),
            _ => Err(invalid(
                "refresh_token",
                "given where the grant is a refresh token, and only there",
            )),
        }
    }
}

fn check_secret(secret: &SecretString, field: &'static str) -> Result<(), VaultError> {
    let text = secret.expose_secret();
    let fine =
        (1..=LONGEST_SECRET).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if fine {
        Ok(())
    } else {
        Err(invalid(field, "1 to 16384 visible ASCII characters"))
    }
}

/// How a credential is obtained, without its secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Where the value comes from.
    pub oauth: OAuth,
    /// Why the provider will not give another one until somebody changes something.
    pub broken: Option<Reason>,
}

/// A turn to obtain the next value. Its `Debug` shows everything but the secrets.
#[derive(Debug)]
pub struct Renewal {
    /// Where it comes from, and with what.
    pub source: NewSource,
    /// The version that is active now.
    pub version: Option<Version>,
}

impl CredentialStatus {
    /// From when on its next value is to be obtained by itself: in the last third of its life, at
    /// the latest two minutes before its end, and never in its first half.
    #[must_use]
    pub fn renewal_due(&self) -> Option<UnixSeconds> {
        self.source
            .as_ref()
            .filter(|source| source.broken.is_none())?;
        let Some(active) = self.active() else {
            return Some(UnixSeconds(0));
        };
        let UnixSeconds(ends) = active.expires_at?;
        let life = ends.saturating_sub(active.deposited_at.0);
        let left = (life / 3).max(120).min(life / 2);
        Some(UnixSeconds(ends.saturating_sub(left)))
    }

    /// Whether its next value is to be obtained now.
    #[must_use]
    pub fn is_renewal_due(&self, now: UnixSeconds) -> bool {
        self.renewal_due().is_some_and(|due| due <= now)
    }
}

impl Vault {
    /// Begins to obtain the next value of a credential. `None` where somebody else has begun a moment
    /// ago: whoever asks a provider twice may invalidate what the first one got.
    ///
    /// # Errors
    /// There is no such credential, or its value is not obtained by itself.
    pub async fn begin_renewal(
        &self,
        namespace: &Namespace,
        name: &CredentialName,
    ) -> Result<Option<Renewal>, VaultError> {
        let mut tx = self.begin().await?;
        let row = self.credential_in(&mut *tx, namespace, name).await?;
        let mut source = self
            .source_in(&mut *tx, &row)
            .await?
            .ok_or(VaultError::NotObtained)?;
        let now = self.seconds();
        if source.renewing_until > now {
            return Ok(None);
        }
        source.renewing_until = now.plus(LEASE);
        let key = self.credential_key(&mut *tx, &row).await?;
        let client_secret = self
            .open_source(&mut *tx, &key, &row, &source.client)
            .await?;
        let refresh_token = match &source.refresh {
            Some(id) => Some(self.open_source(&mut *tx, &key, &row, id).await?),
            None => None,
        };
        let versions = self.credential_versions(&mut *tx, &row.credential).await?;
        let active = versions.iter().find(|version| version.is_active());
        let renewal = Renewal {
            source: NewSource {
                oauth: source.source.oauth.clone(),
                client_secret,
                refresh_token,
            },
            version: active.map(|active| active.info.version),
        };
        tx.put_source(&source).await?;
        tx.commit().await?;
        Ok(Some(renewal))
    }

    /// Notes that a value could not be obtained. With a reason the provider has refused, and is not
    /// asked again by itself; without one it is asked again. What it is obtained with takes the place
    /// of what it was, where the provider has given something else.
    ///
    /// # Errors
    /// There is no such credential, or its value is not obtained by itself.
    pub async fn fail_renewal(
        &self,
        namespace: &Namespace,
        name: &CredentialName,
        refused: Option<Reason>,
        next: Option<&NewSource>,
        by: &AgentId,
    ) -> Result<(), VaultError> {
        let mut tx = self.begin().await?;
        let row = self.credential_in(&mut *tx, namespace, name).await?;
        if let Some(next) = next {
            self.put_new_source(&mut *tx, &row, next).await?;
        }
        let found = self.source_in(&mut *tx, &row).await?;
        let mut source = found.ok_or(VaultError::NotObtained)?;
        source.renewing_until = UnixSeconds(0);
        if let Some(reason) = refused {
            let mut entry = self.source_entry(&row, by);
            entry.reason = Some(reason.clone());
            tx.audit(&entry).await?;
            source.source.broken = Some(reason);
        }
        tx.put_source(&self.derived.seal_source(source)).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Stores what the next values are obtained with. What it replaces is deleted.
    pub(super) async fn put_new_source(
        &self,
        tx: &mut dyn Transaction,
        row: &CredentialRow,
        new: &NewSource,
    ) -> Result<(), VaultError> {
        let key = self.credential_key(tx, row).await?;
        let before = self.source_in(tx, row).await?;
        let client = self.store_source(tx, &key, row, &new.client_secret).await?;
        let refresh = match &new.refresh_token {
            Some(token) => Some(self.store_source(tx, &key, row, token).await?),
            None => None,
        };
        let source = SourceRow {
            namespace: row.credential.namespace.clone(),
            name: row.credential.name.clone(),
            source: Source {
                oauth: new.oauth.clone(),
                broken: None,
            },
            client,
            refresh,
            renewing_until: UnixSeconds(0),
            mac: xylem_seal::Mac([0; 32]),
        };
        tx.put_source(&self.derived.seal_source(source)).await?;
        if let Some(before) = before {
            self.delete_source_secrets(tx, &before).await?;
        }
        Ok(())
    }

    /// Forgets how a credential is obtained.
    pub(super) async fn destroy_source(
        &self,
        tx: &mut dyn Transaction,
        row: &CredentialRow,
    ) -> Result<(), VaultError> {
        if let Some(source) = self.source_in(tx, row).await? {
            tx.delete_source(&source.namespace, &source.name).await?;
            self.delete_source_secrets(tx, &source).await?;
        }
        Ok(())
    }

    async fn delete_source_secrets(
        &self,
        tx: &mut dyn Transaction,
        source: &SourceRow,
    ) -> Result<(), VaultError> {
        tx.delete_secret(&source.client).await?;
        if let Some(refresh) = &source.refresh {
            tx.delete_secret(refresh).await?;
        }
        Ok(())
    }

    pub(crate) async fn source_in(
        &self,
        tx: &mut dyn Transaction,
        row: &CredentialRow,
    ) -> Result<Option<SourceRow>, VaultError> {
        let credential = &row.credential;
        let source = tx.source(&credential.namespace, &credential.name).await?;
        source.map(|row| self.derived.check_source(row)).transpose()
    }

    async fn store_source(
        &self,
        tx: &mut dyn Transaction,
        key: &CipherKey,
        row: &CredentialRow,
        secret: &SecretString,
    ) -> Result<SecretId, VaultError> {
        let place = source_place(&row.credential, key.id());
        self.store_token(tx, key, &place, secret.expose_secret())
            .await
    }

    async fn open_source(
        &self,
        tx: &mut dyn Transaction,
        key: &CipherKey,
        row: &CredentialRow,
        id: &SecretId,
    ) -> Result<SecretString, VaultError> {
        let missing = || VaultError::tampered("source of credential", &row.credential.name);
        let stored = tx.secret(id).await?.ok_or_else(missing)?;
        let place = source_place(&row.credential, key.id());
        let plain = key.open(&place, &stored.sealed)?.ok_or_else(missing)?;
        let text = std::str::from_utf8(&plain).map_err(|_| missing())?;
        Ok(SecretString::from(text))
    }

    fn source_entry(&self, row: &CredentialRow, by: &AgentId) -> Entry {
        let entry = self.entry(Kind::CredentialRefused, Verdict::Failed, by);
        let mut entry = entry.regarding(SubjectKind::Credential, &row.credential.name);
        entry.namespace = Some(row.credential.namespace.clone());
        entry
    }
}
