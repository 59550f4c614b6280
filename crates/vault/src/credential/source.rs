//! Credentials whose value is obtained by itself: with OAuth 2.0 client credentials and refresh tokens, or
//! from a file or a command of the control plane's machine.

use super::{
    CredentialRow, CredentialStatus, CredentialVersionRow, rows::source_place, storage::SourceRow,
};
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

/// For so long nobody else obtains a value, if whoever began is not heard of any more.
const LEASE: Duration = Duration::from_secs(30);
/// No clock that is right notes the end of a lease that is further ahead, even where clocks differ.
const LONGEST_LEASE: Duration = Duration::from_secs(4 * 60);
/// A value whose end nobody knows is looked for so often; and no sweep asks more often where the last
/// question brought nothing.
const LOOK_EVERY: Duration = Duration::from_secs(5 * 60);
const LONGEST_NAME: usize = 64;
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
        check_probe(self.probe_url.as_deref(), "oauth.probe_url")
    }
}

fn printable(text: &str) -> bool {
    (1..=LONGEST_TEXT).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn check_probe(url: Option<&str>, field: &'static str) -> Result<(), VaultError> {
    if url.is_some_and(|url| !printable(url) || !encrypted_url(url)) {
        let rule = "an https URL, or an http one on a loopback host";
        return Err(invalid(field, rule));
    }
    Ok(())
}

/// A file or a command that gives a value. Which one is said where the control plane runs: what is kept
/// here is a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provided {
    /// The name.
    pub name: String,
    /// What is asked with a new value before anything else gets it.
    pub probe_url: Option<String>,
    /// Whether a version is revoked when no tree needs it any more.
    pub revoke_old: bool,
}

impl Provided {
    /// Whether a provider may be called that.
    #[must_use]
    pub fn is_name(text: &str) -> bool {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(allowed)
    }

    fn check(&self) -> Result<(), VaultError> {
        if !Self::is_name(&self.name) {
            let rule = "1 to 64 lower-case letters, digits and hyphens";
            return Err(invalid("provider.name", rule));
        }
        check_probe(self.probe_url.as_deref(), "provider.probe_url")
    }
}

/// Where a value comes from. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Supply {
    /// An OAuth 2.0 provider.
    OAuth(OAuth),
    /// A file or a command.
    Provider(Provided),
}

impl Supply {
    /// Whether a version is revoked when no tree needs it any more.
    #[must_use]
    pub fn revokes_old(&self) -> bool {
        match self {
            Self::OAuth(oauth) => oauth.revoke_old,
            Self::Provider(provided) => provided.revoke_old,
        }
    }
}

/// How a value is obtained, with what it takes. Its `Debug` shows everything but the secrets.
#[derive(Debug, Clone)]
pub enum NewSource {
    /// From an OAuth 2.0 provider.
    OAuth(OAuthClient),
    /// From a file or a command.
    Provider(Provided),
}

impl NewSource {
    /// Checks every field.
    ///
    /// # Errors
    /// Names the field that breaks its rule.
    pub fn check(&self) -> Result<(), VaultError> {
        match self {
            Self::OAuth(client) => client.check(),
            Self::Provider(provided) => provided.check(),
        }
    }

    /// Where the value comes from, without the secrets.
    #[must_use]
    pub fn supply(&self) -> Supply {
        match self {
            Self::OAuth(client) => Supply::OAuth(client.oauth.clone()),
            Self::Provider(provided) => Supply::Provider(provided.clone()),
        }
    }

    /// What is asked with a new value before anything else gets it.
    #[must_use]
    pub fn probe_url(&self) -> Option<&str> {
        match self {
            Self::OAuth(client) => client.oauth.probe_url.as_deref(),
            Self::Provider(provided) => provided.probe_url.as_deref(),
        }
    }
}

/// A client of an OAuth 2.0 provider. Its `Debug` shows everything but the secrets.
#[derive(Debug, Clone)]
pub struct OAuthClient {
    /// Where the value comes from.
    pub oauth: OAuth,
    /// The client's secret.
    pub client_secret: SecretString,
    /// The refresh token, where that is the grant.
    pub refresh_token: Option<SecretString>,
}

impl OAuthClient {
    fn check(&self) -> Result<(), VaultError> {
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
    pub supply: Supply,
    /// Why the provider gives no other one: it has refused. One of OAuth 2.0 is not asked again by itself
    /// then.
    pub broken: Option<Reason>,
    /// The last question, if it brought nothing new.
    pub fruitless: Option<Fruitless>,
}

impl Source {
    /// When the last question was asked that brought nothing new, unless a clock noted it that was ahead.
    fn asked_in_vain(&self, now: UnixSeconds) -> Option<UnixSeconds> {
        let asked = self.fruitless.as_ref().map(|last| last.at);
        asked.filter(|at| !is_ahead(*at, LOOK_EVERY, now))
    }
}

/// A question that brought nothing new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fruitless {
    /// When it was asked.
    pub at: UnixSeconds,
    /// Why it did not; absent where nothing new was needed yet.
    pub reason: Option<Reason>,
}

/// Why a value could not be obtained.
#[derive(Debug)]
pub struct NotObtained {
    /// As a code.
    pub reason: Reason,
    /// Whether the provider has refused, and is not just out of reach.
    pub refused: bool,
    /// What the next value is obtained with, where the provider has given that.
    pub next: Option<NewSource>,
}

/// Who asks for the next value of a credential.
#[derive(Debug, Clone, Copy)]
pub enum Asker<'a> {
    /// Somebody who may, and wants it now.
    Somebody,
    /// A keeper of credentials, which anybody may have asked: no sooner than `rest` after the last value
    /// that it stored, and after the last question that brought nothing.
    Keeper {
        /// As whom it stores values.
        agent: &'a AgentId,
        /// How long the provider is left alone.
        rest: Duration,
    },
}

impl Asker<'_> {
    /// Whether the provider is to be left alone yet.
    fn is_early(
        self,
        source: &Source,
        versions: &[CredentialVersionRow],
        now: UnixSeconds,
    ) -> bool {
        let Self::Keeper { agent, rest } = self else {
            return false;
        };
        let stored = versions.iter().map(|version| &version.info);
        let stored = stored.filter(|info| info.depositor == *agent);
        let stored = stored.map(|info| info.deposited_at);
        let fruitless = source.fruitless.as_ref().map(|last| last.at);
        stored
            .chain(fruitless)
            .any(|at| at.plus(rest) > now && !is_ahead(at, rest, now))
    }
}

/// Whether a time is so far ahead that the clock which noted it was wrong: nothing is put off by it.
fn is_ahead(at: UnixSeconds, at_most: Duration, now: UnixSeconds) -> bool {
    at > now.plus(at_most)
}

/// A turn to obtain the next value. Its `Debug` shows everything but the secrets.
#[derive(Debug)]
pub struct Renewal {
    /// Where it comes from, and with what.
    pub source: NewSource,
    /// What it was when the turn began.
    pub turn: Turn,
}

/// What a credential was when the turn to obtain its next value began: somebody may change it while the
/// provider is asked, and what they gave stands.
#[derive(Debug)]
pub struct Turn {
    version: Option<Version>,
    supply: Supply,
    client: Option<SecretId>,
    refresh: Option<SecretId>,
    until: UnixSeconds,
    /// Whether a keeper asked for it, and nobody who decides.
    is_kept: bool,
}

impl Turn {
    pub(super) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Whether what the value is obtained with is still what it was. Secrets that are given anew have other
    /// ids.
    fn is_of(&self, source: &SourceRow) -> bool {
        (&self.supply, &self.client, &self.refresh)
            == (&source.source.supply, &source.client, &source.refresh)
    }
}

impl CredentialStatus {
    /// From when on its next value is to be obtained by itself: in the last third of its life, at
    /// the latest two minutes before its end, and never in its first half. A file or a command is asked
    /// every five minutes where it does not say when its value ends, and after it has refused. What a
    /// clock noted that was ahead puts nothing off.
    #[must_use]
    pub fn renewal_due(&self, now: UnixSeconds) -> Option<UnixSeconds> {
        let source = self.source.as_ref()?;
        let asked = source.asked_in_vain(now).unwrap_or(UnixSeconds(0));
        let again = match &source.supply {
            Supply::OAuth(_) => None,
            Supply::Provider(_) => Some(asked.plus(LOOK_EVERY)),
        };
        if source.broken.is_some() {
            return again;
        }
        let active = self.active();
        let Some(active) = active.filter(|it| !is_ahead(it.state_since, LOOK_EVERY, now)) else {
            return Some(again.unwrap_or(UnixSeconds(0)));
        };
        let Some(UnixSeconds(ends)) = active.expires_at else {
            return again.map(|again| again.max(active.state_since.plus(LOOK_EVERY)));
        };
        // Since its end was last moved.
        let life = ends.saturating_sub(active.state_since.0);
        let left = (life / 3).max(120).min(life / 2);
        Some(UnixSeconds(ends.saturating_sub(left)))
    }

    /// Whether its next value is to be obtained now.
    #[must_use]
    pub fn is_renewal_due(&self, now: UnixSeconds) -> bool {
        self.renewal_due(now).is_some_and(|due| due <= now)
    }

    /// Whether it was asked for a moment ago, and nothing came of it.
    #[must_use]
    pub fn was_asked_in_vain(&self, now: UnixSeconds) -> bool {
        let source = self.source.as_ref();
        let last = source.and_then(|source| source.asked_in_vain(now));
        last.is_some_and(|at| at.plus(LOOK_EVERY) > now)
    }
}

impl Vault {
    /// Begins to obtain the next value of a credential of which `seen` was the active version. `None` where
    /// somebody else has begun a moment ago, or has made another version since: whoever asks a provider
    /// twice may invalidate what the first one got. `None` also where a keeper is to wait: how often
    /// it asks is decided here, as there may be many of them.
    ///
    /// # Errors
    /// There is no such credential, its value is not obtained by itself, or a restore waits to be confirmed:
    /// what a backup holds may have been used since, and a provider may take a refresh token that comes back
    /// for stolen.
    pub async fn begin_renewal(
        &self,
        namespace: &Namespace,
        name: &CredentialName,
        seen: Option<Version>,
        asker: Asker<'_>,
    ) -> Result<Option<Renewal>, VaultError> {
        let mut tx = self.begin().await?;
        self.check_held(&mut *tx).await?;
        let row = self.credential_in(&mut *tx, namespace, name).await?;
        let mut source = self
            .source_in(&mut *tx, &row)
            .await?
            .ok_or(VaultError::NotObtained)?;
        let now = self.seconds();
        let versions = self.credential_versions(&mut *tx, &row.credential).await?;
        let active = versions.iter().find(|version| version.is_active());
        let version = active.map(|active| active.info.version);
        let is_taken =
            source.renewing_until > now && !is_ahead(source.renewing_until, LONGEST_LEASE, now);
        if is_taken || version != seen || asker.is_early(&source.source, &versions, now) {
            return Ok(None);
        }
        source.renewing_until = now.plus(LEASE);
        let opened = match &source.source.supply {
            Supply::Provider(provided) => NewSource::Provider(provided.clone()),
            Supply::OAuth(oauth) => {
                let oauth = oauth.clone();
                NewSource::OAuth(self.open_client(&mut *tx, &row, &source, oauth).await?)
            }
        };
        let renewal = Renewal {
            turn: Turn {
                version,
                supply: source.source.supply.clone(),
                client: source.client.clone(),
                refresh: source.refresh.clone(),
                until: source.renewing_until,
                is_kept: matches!(asker, Asker::Keeper { .. }),
            },
            source: opened,
        };
        tx.put_source(&source).await?;
        tx.commit().await?;
        Ok(Some(renewal))
    }

    /// Says that whoever has a turn goes on: nobody else begins for as long again.
    ///
    /// # Errors
    /// There is no such credential.
    pub async fn hold_renewal(
        &self,
        namespace: &Namespace,
        name: &CredentialName,
        turn: &mut Turn,
    ) -> Result<(), VaultError> {
        let mut tx = self.begin().await?;
        let row = self.credential_in(&mut *tx, namespace, name).await?;
        let found = self.source_in(&mut *tx, &row).await?;
        // Whoever was thought to be gone does not take the turn of another.
        let Some(mut source) = found.filter(|source| source.renewing_until == turn.until) else {
            return Ok(());
        };
        source.renewing_until = self.seconds().plus(LEASE);
        tx.put_source(&source).await?;
        tx.commit().await?;
        turn.until = source.renewing_until;
        Ok(())
    }

    /// Takes over what a provider has given for the next values, before what came with it is tried: from
    /// then on it is what they are obtained with, and the turn goes on. What somebody has given since the
    /// turn began stands.
    ///
    /// # Errors
    /// There is no such credential.
    pub async fn take_over(
        &self,
        namespace: &Namespace,
        name: &CredentialName,
        turn: &mut Turn,
        next: &NewSource,
    ) -> Result<(), VaultError> {
        let mut tx = self.begin().await?;
        let row = self.credential_in(&mut *tx, namespace, name).await?;
        let found = self.source_in(&mut *tx, &row).await?;
        let Some(before) = found.filter(|source| turn.is_of(source)) else {
            return Ok(());
        };
        let mut source = self.put_new_source(&mut *tx, &row, next, None).await?;
        source.source.broken = before.source.broken;
        source.source.fruitless = before.source.fruitless;
        source.renewing_until = before.renewing_until;
        let source = self.derived.seal_source(source);
        tx.put_source(&source).await?;
        tx.commit().await?;
        (turn.client, turn.refresh) = (source.client, source.refresh);
        Ok(())
    }

    /// Notes that a value could not be obtained, and why. What it is obtained with takes the place of what
    /// it was, where the provider has given something else. Nothing of this is noted where somebody has
    /// changed what it is obtained with since the turn began.
    ///
    /// # Errors
    /// There is no such credential, or its value is not obtained by itself.
    pub async fn fail_renewal(
        &self,
        namespace: &Namespace,
        name: &CredentialName,
        turn: &Turn,
        failed: NotObtained,
        by: &AgentId,
    ) -> Result<(), VaultError> {
        let mut tx = self.begin().await?;
        let row = self.credential_in(&mut *tx, namespace, name).await?;
        let found = self.source_in(&mut *tx, &row).await?;
        let mut source = found.ok_or(VaultError::NotObtained)?;
        if !turn.is_of(&source) {
            return Ok(());
        }
        if let Some(next) = &failed.next {
            source = self.put_new_source(&mut *tx, &row, next, None).await?;
        }
        // Whoever took longer than a turn does not end that of another.
        if source.renewing_until == turn.until {
            source.renewing_until = UnixSeconds(0);
        }
        source.source.fruitless = Some(Fruitless {
            at: self.seconds(),
            reason: Some(failed.reason.clone()),
        });
        // A file or a command is asked again: the same refusal is not new.
        if failed.refused && source.source.broken.as_ref() != Some(&failed.reason) {
            let mut entry = self.source_entry(&row, by);
            entry.reason = Some(failed.reason.clone());
            tx.audit(&entry).await?;
        }
        source.source.broken = failed.refused.then_some(failed.reason);
        tx.put_source(&self.derived.seal_source(source)).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn open_client(
        &self,
        tx: &mut dyn Transaction,
        row: &CredentialRow,
        source: &SourceRow,
        oauth: OAuth,
    ) -> Result<OAuthClient, VaultError> {
        let missing = || VaultError::tampered("source of credential", &row.credential.name);
        let client = source.client.as_ref().ok_or_else(missing)?;
        let key = self.credential_key(tx, row).await?;
        let refresh_token = match &source.refresh {
            Some(id) => Some(self.open_source(tx, &key, row, id).await?),
            None => None,
        };
        Ok(OAuthClient {
            oauth,
            client_secret: self.open_source(tx, &key, row, client).await?,
            refresh_token,
        })
    }

    /// Whether a credential is still what it was when the turn began: its active version, and what its
    /// value is obtained with.
    pub(super) async fn is_turn(
        &self,
        tx: &mut dyn Transaction,
        row: &CredentialRow,
        turn: &Turn,
        version: Option<Version>,
    ) -> Result<bool, VaultError> {
        let source = self.source_in(tx, row).await?;
        Ok(turn.version == version && source.is_some_and(|source| turn.is_of(&source)))
    }

    /// Stores what the next values are obtained with. What it replaces is deleted.
    pub(super) async fn put_new_source(
        &self,
        tx: &mut dyn Transaction,
        row: &CredentialRow,
        new: &NewSource,
        fruitless: Option<Fruitless>,
    ) -> Result<SourceRow, VaultError> {
        let key = self.credential_key(tx, row).await?;
        let before = self.source_in(tx, row).await?;
        let (mut client, mut refresh) = (None, None);
        if let NewSource::OAuth(new) = new {
            client = Some(self.store_source(tx, &key, row, &new.client_secret).await?);
            if let Some(token) = &new.refresh_token {
                refresh = Some(self.store_source(tx, &key, row, token).await?);
            }
        }
        let source = SourceRow {
            namespace: row.credential.namespace.clone(),
            name: row.credential.name.clone(),
            source: Source {
                supply: new.supply(),
                broken: None,
                fruitless,
            },
            client,
            refresh,
            renewing_until: UnixSeconds(0),
            mac: xylem_seal::Mac([0; 32]),
        };
        let source = self.derived.seal_source(source);
        tx.put_source(&source).await?;
        if let Some(before) = before {
            self.delete_source_secrets(tx, &before).await?;
        }
        Ok(source)
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
        for secret in source.client.iter().chain(&source.refresh) {
            tx.delete_secret(secret).await?;
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
