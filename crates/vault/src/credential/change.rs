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
    /// Whether it was there before: the same request had made it, or a file or a command has given the
    /// active version's value. Then nothing changed.
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
        if let Some(NewSource::Provider(_)) = &rotation.source {
            let gone = |row: &CredentialVersionRow| row.info.state == VersionState::Revoked;
            if versions
                .iter()
                .any(|row| gone(row) && row.info.fingerprint == fingerprint)
            {
                return Err(VaultError::ValueRevoked);
            }
        }
        let active = versions
            .into_iter()
            .find(|version| version.info.state == VersionState::Active);
        let current = active.as_ref().map(|active| active.info.version);
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
        if let (Some(NewSource::Provider(_)), Some(active)) = (&rotation.source, &active)
            && active.info.fingerprint == fingerprint
            && active.info.expires_at == rotation.expires_at
        {
            return self
                .unchanged(tx, &row, &rotation, active.info.clone())
                .await;
        }
        if let Some(mut active) = active {
            active.info.state = VersionState::Superseded;
            active.info.state_since = self.seconds();
            let superseded = self
                .derived
                .seal_credential_version(active.info, active.secret);
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

    /// A file or a command has given what is there already.
    async fn unchanged(
        &self,
        mut tx: Box<dyn Transaction>,
        row: &CredentialRow,
        rotation: &Rotation,
        active: CredentialVersion,
    ) -> Result<Rotated, VaultError> {
        if let Some(source) = &rotation.source {
            let ends = active.expires_at.is_some();
            let fruitless = Fruitless {
                at: self.seconds(),
                reason: ends.then(|| Reason::of("value_unchanged")),
            };
            self.put_new_source(&mut *tx, row, source, Some(fruitless))
                .await?;
        }
        tx.commit().await?;
        Ok(Rotated {
            version: active,
            superseded: None,
            repeated: true,
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
        let place = data_key_place(credential, key.id());
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
        let place = data_key_place(&row.credential, id);
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
