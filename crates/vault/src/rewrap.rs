//! Another key-encryption key takes over, while everything runs.

use crate::{
    KeyError, KeyOwner, KeyProvider, KeyRow, OwnedKey, Purpose, Transaction, Vault, VaultError,
    Wraps, credential::data_key_place, rows::key_place,
};
use std::collections::{BTreeMap, BTreeSet};
use xylem_audit::{Kind, Reason, SubjectKind, Verdict};
use xylem_ids::{AgentId, KeyId, Namespace};
use xylem_seal::Fields;

/// One batch of stored keys that are to be wrapped anew.
#[derive(Debug, Clone)]
pub struct Rewrap {
    /// Refuses where this is not the current key-encryption key: two control planes that wrap under
    /// different ones would undo each other's work for ever.
    pub current: Option<KeyId>,
    /// The last stored key that was looked at before; absent at the beginning.
    pub after: Option<KeyId>,
    /// How many are looked at, at most.
    pub limit: u32,
    /// In whose audit log it is said.
    pub namespace: Namespace,
    /// Who asks.
    pub by: AgentId,
}

/// What a batch came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrapped {
    /// The key that wraps.
    pub current: KeyId,
    /// How many stored keys it wraps since this batch.
    pub rewrapped: u64,
    /// Every other key, and what it still wraps.
    pub older: Vec<OlderKey>,
    /// Stored keys that do not open.
    pub unopened: Vec<Unopened>,
    /// Where the next batch begins; absent at the end.
    pub next: Option<KeyId>,
}

/// A key-encryption key that is not the current one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OlderKey {
    /// Its id.
    pub id: KeyId,
    /// How many stored keys it wraps.
    pub wraps: u64,
    /// Whether it is here to unwrap them.
    pub here: bool,
}

/// A stored key that could not be wrapped anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unopened {
    /// Its id.
    pub id: KeyId,
    /// Whose it is, where that can be told.
    pub owner: Option<KeyOwner>,
    /// The key-encryption key that is not here; absent where the row is not what the vault wrote.
    pub missing: Option<KeyId>,
}

/// A stored key as it was read, and as it is to be.
struct Anew {
    read: KeyRow,
    row: KeyRow,
}

/// What was done of a batch outside of any transaction.
#[derive(Default)]
struct Opened {
    anew: Vec<Anew>,
    unopened: Vec<Unopened>,
    last: Option<KeyId>,
    /// Whether the provider failed in the midst of it.
    stopped: bool,
}

/// Refuses where a key-encryption key that still wraps something is not here: what it wraps would be
/// missed one by one, and late.
///
/// # Errors
/// [`KeyError::Needed`] names the first.
pub fn check_wrapped(provider: &dyn KeyProvider, others: &[Wraps]) -> Result<(), KeyError> {
    let here = provider.older();
    let missing = |wraps: &&Wraps| wraps.by != *provider.current() && !here.contains(&wraps.by);
    match others.iter().find(missing) {
        None => Ok(()),
        Some(Wraps { by, keys }) => Err(KeyError::Needed {
            id: by.clone(),
            wraps: *keys,
        }),
    }
}

impl Vault {
    /// Wraps some of the stored keys that an older key-encryption key wraps under the current one. The
    /// provider is asked in no transaction, so nobody waits for it, and a key that was changed or
    /// destroyed meanwhile stays as it is then. One that does not open is named, and the others go on.
    ///
    /// # Errors
    /// Another key is the current one, or the storage or the provider failed; then nothing has changed.
    pub async fn rewrap(&self, ask: Rewrap) -> Result<Rewrapped, VaultError> {
        let current = self.provider().current();
        if ask.current.is_some_and(|wanted| wanted != *current) {
            return Err(VaultError::OtherCurrentKey(current.clone()));
        }
        let mut tx = self.begin_read().await?;
        let found = tx.keys_of_others(current, ask.after.as_ref(), ask.limit);
        let found = found.await?;
        drop(tx);
        let full = u32::try_from(found.len()).is_ok_and(|found| found == ask.limit);
        let opened = self.wrap_anew(found).await?;
        let (rewrapped, older) = self.keep_anew(&opened, &ask.namespace, &ask.by).await?;
        Ok(Rewrapped {
            current: current.clone(),
            rewrapped,
            older,
            unopened: opened.unopened,
            next: opened.last.filter(|_| full || opened.stopped),
        })
    }

    /// Every key-encryption key but the current one, and what it wraps.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn older_keys(&self) -> Result<Vec<OlderKey>, VaultError> {
        let mut tx = self.begin_read().await?;
        self.older_keys_in(&mut *tx).await
    }

    async fn older_keys_in(&self, tx: &mut dyn Transaction) -> Result<Vec<OlderKey>, VaultError> {
        let provider = self.provider();
        let others = tx.wrapped_by_others(provider.current()).await?;
        let wrapped: BTreeMap<_, _> = others.into_iter().map(|it| (it.by, it.keys)).collect();
        let here: BTreeSet<_> = provider.older().into_iter().collect();
        let all: BTreeSet<_> = here.iter().chain(wrapped.keys()).collect();
        let older = all.into_iter().map(|id| OlderKey {
            id: id.clone(),
            wraps: wrapped.get(id).copied().unwrap_or(0),
            here: here.contains(id),
        });
        Ok(older.collect())
    }

    /// Where the provider fails, what it did before counts.
    async fn wrap_anew(&self, found: Vec<OwnedKey>) -> Result<Opened, VaultError> {
        let mut opened = Opened::default();
        for key in found {
            let missing = match self.wrapped_anew(&key).await {
                Ok(anew) => {
                    opened.anew.push(anew);
                    opened.last = Some(key.id);
                    continue;
                }
                Err(VaultError::Tampered(_)) => None,
                Err(VaultError::Keys(KeyError::Unknown(missing))) => Some(missing),
                Err(error) if opened.last.is_none() => return Err(error),
                Err(_) => {
                    opened.stopped = true;
                    break;
                }
            };
            opened.last = Some(key.id.clone());
            let OwnedKey { id, owner, .. } = key;
            opened.unopened.push(Unopened { id, owner, missing });
        }
        Ok(opened)
    }

    async fn wrapped_anew(&self, key: &OwnedKey) -> Result<Anew, VaultError> {
        let tampered = || VaultError::tampered("key", &key.id);
        let read = key.row.clone().ok_or_else(tampered)?;
        let place = key.owner.as_ref().and_then(|owner| place(&read, owner));
        let place = place.ok_or_else(tampered)?;
        let provider = self.provider();
        let plain = provider.unwrap(&read.wrapped_by, place.as_bytes(), &read.wrapped);
        let plain = plain.await?.ok_or_else(tampered)?;
        let row = KeyRow {
            wrapped_by: provider.current().clone(),
            wrapped: provider.wrap(place.as_bytes(), &plain).await?,
            ..read.clone()
        };
        Ok(Anew { read, row })
    }

    /// Answers how many are kept, and what the older keys still wrap.
    async fn keep_anew(
        &self,
        opened: &Opened,
        namespace: &Namespace,
        by: &AgentId,
    ) -> Result<(u64, Vec<OlderKey>), VaultError> {
        let edited = opened.unopened.iter().filter(|key| key.missing.is_none());
        let edited: Vec<_> = edited.map(|key| &key.id).collect();
        if opened.anew.is_empty() && edited.is_empty() {
            return Ok((0, self.older_keys().await?));
        }
        let mut tx = self.begin().await?;
        let mut kept: u64 = 0;
        for Anew { read, row } in &opened.anew {
            let replaced = tx.replace_key(read, row).await?;
            kept = kept.saturating_add(replaced.into());
        }
        let older = self.older_keys_in(&mut *tx).await?;
        if kept > 0 {
            let entry = self.entry(Kind::KeysRewrapped, Verdict::Succeeded, by);
            let current = self.provider().current();
            let mut entry = entry.regarding(SubjectKind::KeyEncryptionKey, current);
            entry.namespace = Some(namespace.clone());
            let left = older.iter().map(|key| key.wraps).sum();
            let numbers = [("rewrapped", kept), ("remaining", left)];
            let numbers = numbers.map(|(name, number)| (Reason::of(name), number));
            entry.numbers = numbers.into();
            tx.audit(&entry).await?;
        }
        for id in edited {
            let mut entry = self.entry(Kind::Tampered, Verdict::Denied, by);
            entry.namespace = Some(namespace.clone());
            let entry = entry.regarding(SubjectKind::WrappedKey, id);
            tx.audit(&entry.because("key")).await?;
        }
        tx.commit().await?;
        Ok((kept, older))
    }
}

/// What a stored key is bound to; none where its purpose is not one that its owner has keys for.
fn place(row: &KeyRow, owner: &KeyOwner) -> Option<Fields> {
    let KeyRow {
        id,
        purpose,
        generation,
        ..
    } = row;
    match (purpose, owner) {
        (Purpose::Issuer | Purpose::RetiredIssuer, KeyOwner::Vault) => {
            Some(key_place(*purpose, id, *generation, None))
        }
        (Purpose::Root | Purpose::Checkpoint, KeyOwner::Vault) => {
            Some(key_place(*purpose, id, 0, None))
        }
        (Purpose::Tree, KeyOwner::Tree(start, _)) => Some(key_place(*purpose, id, 0, Some(start))),
        (Purpose::Credential, KeyOwner::Credential(namespace, name)) => {
            Some(data_key_place(namespace, name, id))
        }
        _ => None,
    }
}
