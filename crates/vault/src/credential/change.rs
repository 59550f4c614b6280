//! Making and rotating credentials.

use super::{
    Credential, CredentialRow, CredentialVersion, Fruitless, NewSource, Turn,
    rows::{data_key_place, value_place, version_place},
};
use crate::{
    Audiences, CredentialVersionRow, RequestId, Transaction, Vault, VaultError, VersionState,
    deposit::{check_token, invalid},
    storage::{KeyRow, Purpose},
};
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;
use xylem_audit::{Entry, Kind, Reason, SubjectKind, Verdict};
use xylem_grant::UnixSeconds;
use xylem_ids::{AgentId, CredentialName, Fingerprint, KeyId, Namespace, Version};
use xylem_seal::CipherKey;

/// An end that moves by no more than so many seconds has not moved.
const JITTER: u64 = 5;

/// A credential to make. Its `Debug` shows everything but the value.
#[derive(Debug)]
pub struct NewCredential {
    /// The namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: CredentialName,
    /// Who answers for it.
    pub owner: AgentId,
    /// Where its value may be sent.
    pub audiences: Audiences,
    /// How often it is to be rotated.
    pub rotate_every: Option<Duration>,
    /// The first value: 16 bytes to 16 KiB of visible ASCII.
    pub value: SecretString,
    /// When the value ends by itself.
    pub expires_at: Option<UnixSeconds>,
    /// Take a value that is shorter than 16 bytes.
    pub accept_short: bool,
    /// What the next values are obtained with, where that is done by itself.
    pub source: Option<NewSource>,
    /// Who makes it.
    pub by: AgentId,
    /// The same when the same credential is made again.
    pub request: RequestId,
}

/// The next value of a credential. Its `Debug` shows everything but the value.
#[derive(Debug)]
pub struct Rotation {
    /// The namespace.
    pub namespace: Namespace,
    /// The credential.
    pub name: CredentialName,
    /// The value: 16 bytes to 16 KiB of visible ASCII.
    pub value: SecretString,
    /// When the value ends by itself.
    pub expires_at: Option<UnixSeconds>,
    /// Take a value that is shorter than 16 bytes.
    pub accept_short: bool,
    /// What the next values are obtained with, where the value was.
    pub source: Option<NewSource>,
    /// Only where this is the active version: somebody else may have been faster.
    pub if_version: Option<Version>,
    /// Who rotates it.
    pub by: AgentId,
    /// The same when the same value is brought again.
    pub request: RequestId,
}

/// What a rotation made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// The version.
    pub version: CredentialVersion,
    /// The version that was active before.
    pub superseded: Option<Version>,
    /// Whether it was there before: the same request had made it, or its provider has given the active
    /// version's value, with the same end. Then nothing changed.
    pub repeated: bool,
}

/// A value that was checked.
struct Next<'a> {
    value: &'a SecretString,
    fingerprint: Fingerprint,
    expires_at: Option<UnixSeconds>,
    by: &'a AgentId,
    request: &'a RequestId,
}

impl Vault {
    /// Makes a credential with its first version. A name that was removed can be used again; the
    /// numbers of its versions go on.
    ///
    /// # Errors
    /// There is one of that name, or a field breaks its rule.
    pub async fn create_credential(&self, new: NewCredential) -> Result<Rotated, VaultError> {
        let fingerprint = self.checked_value(&new.value, new.accept_short, new.expires_at)?;
        let mut tx = self.begin().await?;
        let mut last = 0;
        if let Some(known) = tx.credential(&new.namespace, &new.name).await? {
            let known = self.derived.check_credential(known)?;
            if known.credential.removed_at.is_none() {
                return self
                    .created_before(&mut *tx, &known, &new, &fingerprint)
                    .await;
            }
            last = known.credential.last;
        }
        let credential = Credential {
            namespace: new.namespace,
            name: new.name,
            owner: new.owner,
            audiences: new.audiences.as_slice().to_vec(),
            rotate_every: new.rotate_every,
            last,
            created_at: self.seconds(),
            removed_at: None,
        };
        if let Some(source) = &new.source {
            source.check()?;
        }
        let data_key = self.new_credential_key(&mut *tx, &credential).await?;
        let next = Next {
            value: &new.value,
            fingerprint,
            expires_at: new.expires_at,
            by: &new.by,
            request: &new.request,
        };
        let row = self.derived.seal_credential(credential, Some(data_key));
        let version = self
            .add_credential_version(&mut *tx, row, next, new.source.as_ref())
            .await?;
        let entry = self.credential_entry(Kind::CredentialCreated, &version, &new.by);
        tx.audit(&entry).await?;
        tx.commit().await?;
        Ok(Rotated {
            version,
            superseded: None,
            repeated: false,
        })
    }

    /// Makes the next version of a credential. The one before gives nothing to new trees from that
    /// moment; it is good for what still holds it until it is revoked.
    ///
    /// # Errors
    /// There is no such credential, another version is active than the one that was named, or a
    /// field breaks its rule.
    pub async fn rotate_credential(&self, rotation: Rotation) -> Result<Rotated, VaultError> {
        self.next_credential_version(rotation, None).await
    }

    /// Makes the next version of a credential of what was obtained in a turn. Where somebody has rotated
    /// it meanwhile, or changed what its value is obtained with, theirs stands.
    ///
    /// # Errors
    /// As with a rotation; it is not what it was when the turn began.
    pub async fn end_renewal(
        &self,
        rotation: Rotation,
        turn: &Turn,
    ) -> Result<Rotated, VaultError> {
        self.next_credential_version(rotation, Some(turn)).await
    }

    async fn next_credential_version(
        &self,
        rotation: Rotation,
        turn: Option<&Turn>,
    ) -> Result<Rotated, VaultError> {
        let Rotation { value, by, .. } = &rotation;
        let fingerprint = self.checked_value(value, rotation.accept_short, rotation.expires_at)?;
        let mut tx = self.begin().await?;
        let row = self
            .credential_in(&mut *tx, &rotation.namespace, &rotation.name)
            .await?;
        let versions = self.credential_versions(&mut *tx, &row.credential).await?;
        if let Some(known) = repeated(&versions, &rotation.request, &fingerprint)? {
            return Ok(known);
        }
        let active = versions.iter().find(|version| version.is_active());
        let current = active.map(|active| active.info.version);
        let is_expected = rotation
            .if_version
            .is_none_or(|expected| Some(expected) == current);
        let is_turn = match turn {
            Some(turn) => self.is_turn(&mut *tx, &row, turn, current).await?,
            None => true,
        };
        if !is_expected || !is_turn {
            return Err(VaultError::OtherVersion(current.unwrap_or(Version(0))));
        }
        if let Some(source) = &rotation.source
            && let Some(active) = may_be_given(&versions, &fingerprint, source, turn)?
            && active.info.expires_at.is_some() == rotation.expires_at.is_some()
        {
            let known = self.given_again(&mut *tx, &row, &rotation, source, active);
            let known = known.await?;
            tx.commit().await?;
            return Ok(known);
        }
        if let Some(active) = versions.into_iter().find(|version| version.is_active()) {
            let mut info = active.info;
            info.state = VersionState::Superseded;
            info.state_since = self.seconds();
            let superseded = self.derived.seal_credential_version(info, active.secret);
            tx.put_credential_version(&superseded).await?;
        }
        let next = Next {
            value,
            fingerprint,
            expires_at: rotation.expires_at,
            by,
            request: &rotation.request,
        };
        let source = rotation.source.as_ref();
        let version = self
            .add_credential_version(&mut *tx, row, next, source)
            .await?;
        let entry = self.credential_entry(Kind::CredentialRotated, &version, by);
        tx.audit(&entry).await?;
        tx.commit().await?;
        Ok(Rotated {
            version,
            superseded: current,
            repeated: false,
        })
    }

    /// A provider has given the value that is there already. Where it ends at another time by now, the
    /// version does: a version of its own would have the same value, which could then be revoked with
    /// the one before.
    async fn given_again(
        &self,
        tx: &mut dyn Transaction,
        row: &CredentialRow,
        rotation: &Rotation,
        source: &NewSource,
        active: &CredentialVersionRow,
    ) -> Result<Rotated, VaultError> {
        let mut info = active.info.clone();
        let is_moved = is_moved(info.expires_at, rotation.expires_at);
        if is_moved {
            info.expires_at = rotation.expires_at;
            info.state_since = self.seconds();
            let secret = active.secret.clone();
            let moved = self.derived.seal_credential_version(info.clone(), secret);
            tx.put_credential_version(&moved).await?;
            let entry = self.credential_entry(Kind::Reissue, &info, &rotation.by);
            tx.audit(&entry).await?;
        }
        let is_late = !is_moved && info.expires_at.is_some();
        let fruitless = Fruitless {
            at: self.seconds(),
            reason: is_late.then(|| Reason::of("value_unchanged")),
        };
        self.put_new_source(tx, row, source, Some(fruitless))
            .await?;
        Ok(Rotated {
            version: info,
            superseded: None,
            repeated: !is_moved,
        })
    }

    /// What the same request made before; another one finds the name taken.
    async fn created_before(
        &self,
        tx: &mut dyn Transaction,
        known: &CredentialRow,
        new: &NewCredential,
        fingerprint: &Fingerprint,
    ) -> Result<Rotated, VaultError> {
        let versions = self.credential_versions(tx, &known.credential).await?;
        let same = known.credential.audiences == new.audiences.as_slice();
        match repeated(&versions, &new.request, fingerprint)? {
            Some(known) if same => Ok(known),
            Some(_) => Err(VaultError::RequestReused),
            None => Err(VaultError::CredentialExists),
        }
    }

    fn checked_value(
        &self,
        value: &SecretString,
        accept_short: bool,
        expires_at: Option<UnixSeconds>,
    ) -> Result<Fingerprint, VaultError> {
        check_token(value, accept_short)?;
        if expires_at.is_some_and(|at| at <= self.seconds()) {
            return Err(invalid("expires_at", "in the future"));
        }
        self.derived.fingerprint(value.expose_secret())
    }

    /// Writes the credential and its next version, which is the active one.
    async fn add_credential_version(
        &self,
        tx: &mut dyn Transaction,
        row: CredentialRow,
        next: Next<'_>,
        source: Option<&NewSource>,
    ) -> Result<CredentialVersion, VaultError> {
        let key = self.credential_key(tx, &row).await?;
        let CredentialRow {
            mut credential,
            data_key,
            ..
        } = row;
        credential.last = credential
            .last
            .checked_add(1)
            .ok_or(VaultError::Exhausted)?;
        let now = self.seconds();
        let info = CredentialVersion {
            namespace: credential.namespace.clone(),
            name: credential.name.clone(),
            version: Version(credential.last),
            state: VersionState::Active,
            state_since: now,
            fingerprint: next.fingerprint,
            expires_at: next.expires_at,
            depositor: next.by.clone(),
            deposited_at: now,
            request: next.request.clone(),
        };
        let owner = self.derived.seal_credential(credential, data_key);
        tx.put_credential(&owner).await?;
        if let Some(source) = source {
            self.put_new_source(tx, &owner, source, None).await?;
        }
        let place = value_place(&info, key.id());
        let value = next.value.expose_secret();
        let secret = self.store_token(tx, &key, &place, value).await?;
        let row = self.derived.seal_credential_version(info, Some(secret));
        tx.put_credential_version(&row).await?;
        Ok(row.info)
    }

    async fn new_credential_key(
        &self,
        tx: &mut dyn Transaction,
        credential: &Credential,
    ) -> Result<KeyId, VaultError> {
        let key = CipherKey::generate()?;
        let place = data_key_place(&credential.namespace, &credential.name, key.id());
        let provider = self.provider();
        let row = KeyRow {
            id: key.id().clone(),
            purpose: Purpose::Credential,
            generation: 0,
            wrapped_by: provider.current().clone(),
            wrapped: provider.wrap(place.as_bytes(), key.bytes()).await?,
        };
        tx.put_key(&row).await?;
        Ok(row.id)
    }

    pub(super) async fn credential_key(
        &self,
        tx: &mut dyn Transaction,
        row: &CredentialRow,
    ) -> Result<CipherKey, VaultError> {
        const MISSING: VaultError = VaultError::NotFound { what: "credential" };
        let id = row.data_key.as_ref().ok_or(MISSING)?;
        let Credential {
            namespace, name, ..
        } = &row.credential;
        let place = data_key_place(namespace, name, id);
        self.unwrapped(tx, id, &place).await
    }

    /// Decrypts a version's value.
    pub(crate) async fn open_value(
        &self,
        tx: &mut dyn Transaction,
        row: &CredentialRow,
        version: &CredentialVersionRow,
    ) -> Result<SecretString, VaultError> {
        let missing = || VaultError::tampered("value of credential", version_place(&version.info));
        let key = self.credential_key(tx, row).await?;
        let id = version.secret.as_ref().ok_or_else(missing)?;
        let stored = tx.secret(id).await?.ok_or_else(missing)?;
        let place = value_place(&version.info, key.id());
        let plain = key.open(&place, &stored.sealed)?.ok_or_else(missing)?;
        let text = std::str::from_utf8(&plain).map_err(|_| missing())?;
        Ok(SecretString::from(text))
    }

    /// An entry about a version of a credential.
    pub(super) fn credential_entry(
        &self,
        kind: Kind,
        version: &CredentialVersion,
        by: &AgentId,
    ) -> Entry {
        let entry = self.entry(kind, Verdict::Succeeded, by);
        let mut entry = entry.regarding(SubjectKind::Credential, version_place(version));
        entry.namespace = Some(version.namespace.clone());
        entry.fingerprint = Some(version.fingerprint.clone());
        entry
    }
}

/// Whether a value that a provider gives may be stored; the active version where that has it.
fn may_be_given<'a>(
    versions: &'a [CredentialVersionRow],
    fingerprint: &Fingerprint,
    source: &NewSource,
    turn: Option<&Turn>,
) -> Result<Option<&'a CredentialVersionRow>, VaultError> {
    let active = versions.iter().find(|version| version.is_active());
    let same = |version: &&CredentialVersionRow| version.info.fingerprint == *fingerprint;
    if active.as_ref().is_some_and(same) {
        return Ok(active);
    }
    let had = |state| {
        versions
            .iter()
            .filter(same)
            .any(|row| row.info.state == state)
    };
    if had(VersionState::Revoked) {
        return Err(VaultError::ValueRevoked);
    }
    // Another control plane's file may not be renewed yet: both would take turns without end.
    let is_local = matches!(source, NewSource::Provider(_));
    let is_kept = turn.is_some_and(Turn::is_kept);
    if is_local && is_kept && active.is_some() && had(VersionState::Superseded) {
        return Err(VaultError::ValueSuperseded);
    }
    Ok(None)
}

/// Whether a value ends at another time than it did. What is counted from the time of the question
/// comes out a little different each time.
fn is_moved(before: Option<UnixSeconds>, after: Option<UnixSeconds>) -> bool {
    let seconds = |at: Option<UnixSeconds>| at.map_or(0, |UnixSeconds(at)| at);
    seconds(before).abs_diff(seconds(after)) > JITTER
}

/// What the same request made before, if it did.
fn repeated(
    versions: &[CredentialVersionRow],
    request: &RequestId,
    fingerprint: &Fingerprint,
) -> Result<Option<Rotated>, VaultError> {
    let known = versions.iter().find(|row| row.info.request == *request);
    match known {
        Some(known) if known.info.fingerprint == *fingerprint => Ok(Some(Rotated {
            version: known.info.clone(),
            superseded: None,
            repeated: true,
        })),
        Some(_) => Err(VaultError::RequestReused),
        None => Ok(None),
    }
}
