//! The vault itself: its keys, and what every operation shares.

use crate::{
    Clock, KeyProvider, KeyRow, Purpose, Refusal, Room, StartId, Storage, Transaction, TreeRow,
    VaultError,
    derived::Derived,
    issue::Issuers,
    rewrap::check_wrapped,
    rows::{key_place, tampered_key, token_place, version_place},
    storage::{EpochState, SecretRow, VersionRow},
    view::Tree,
};
use secrecy::SecretString;
use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock, atomic::AtomicBool},
    time::SystemTime,
};
use xylem_audit::{Entry, Kind, Verdict};
use xylem_grant::{IssuerKey, IssuerSet, Reject, UnixSeconds, UnverifiedGrant, VerifiedGrant};
use xylem_ids::{AgentId, Epoch, KeyId, TreeId};
use xylem_registry::ToolSeal;
use xylem_seal::{CipherKey, Fields, SubKey, random_id, random_key};
use zeroize::Zeroizing;

/// Keeps tokens, and hands them out against proof.
pub struct Vault {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) derived: Derived,
    pub(crate) tools: ToolSeal,
    provider: Arc<dyn KeyProvider>,
    issuers: RwLock<Arc<Issuers>>,
    audit_keys: xylem_audit::Keys,
    /// Whether tokens may be held back: nobody asks the database where they are not.
    pub(crate) held: AtomicBool,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault")
            .field("issuer", self.issuers().key().public())
            .finish_non_exhaustive()
    }
}

impl Vault {
    /// Opens the vault that lies in this storage, and makes its keys where it is new.
    ///
    /// # Errors
    /// The storage or the key provider failed, a key-encryption key that is still needed is not here, or
    /// stored keys are not what was written.
    pub async fn open(
        storage: Arc<dyn Storage>,
        provider: Arc<dyn KeyProvider>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, VaultError> {
        let mut tx = storage.begin().await?;
        let others = tx.wrapped_by_others(provider.current()).await?;
        check_wrapped(&*provider, &others)?;
        let derived = root(&mut *tx, &*provider).await?;
        let issuers = Issuers::load_or_new(&mut *tx, &*provider).await?;
        let audit_keys = audit_keys(&mut *tx, &*provider, &derived).await?;
        let held = match tx.epoch().await? {
            Some(row) => row.state != EpochState::Current,
            None => {
                let first = derived.seal_epoch(Epoch::FIRST, EpochState::Current);
                tx.put_epoch(&first).await?;
                false
            }
        };
        tx.commit().await?;
        Ok(Self {
            tools: ToolSeal::new(&derived.room(Room::Registry)?)?,
            storage,
            clock,
            derived,
            provider,
            issuers: RwLock::new(Arc::new(issuers)),
            audit_keys,
            held: AtomicBool::new(held),
        })
    }

    /// The keys that the audit log is sealed and its checkpoints are signed with. One is derived
    /// from the vault's root secret, the other lies in the database only wrapped: who can edit the
    /// log there has neither.
    #[must_use]
    pub fn audit_keys(&self) -> xylem_audit::Keys {
        self.audit_keys.clone()
    }

    /// The issuer keys that nodes trust, and those they are to trust no more.
    ///
    /// # Errors
    /// The storage or the key provider failed, or a stored key is not what was written.
    pub async fn issuer_set(&self) -> Result<IssuerSet, VaultError> {
        drop(self.begin_read().await?);
        Ok(self.issuers().trusted().clone())
    }

    /// Verifies text as a grant of this vault, of whatever age.
    ///
    /// A grant under a retired key verifies too: what a node presents entitles it to nothing, and
    /// the answer to an outdated grant is the newest one.
    ///
    /// # Errors
    /// Refused: says why it is none. Or the storage or the key provider failed.
    pub async fn verify(&self, text: &str) -> Result<VerifiedGrant, VaultError> {
        if let Ok(grant) = self.verified(text) {
            return Ok(grant);
        }
        // Another process may have begun to sign with another key.
        drop(self.begin_read().await?);
        self.verified(text)
            .map_err(|reject| Refusal::from(reject).into())
    }

    /// Verifies a grant under the keys that were known when the transaction at hand began.
    pub(crate) fn verified(&self, text: &str) -> Result<VerifiedGrant, Reject> {
        UnverifiedGrant::parse(text)?.verify(self.issuers().known())
    }

    /// The key that a room seals its rows and encrypts its secrets under. It is derived from the
    /// vault's root secret, so it lies in the database only wrapped.
    ///
    /// # Errors
    /// The cryptographic library failed.
    pub fn subkey(&self, room: Room) -> Result<SubKey, VaultError> {
        self.derived.room(room)
    }

    /// Seals what is known of tools. A redemption checks the same seal.
    ///
    /// # Errors
    /// The cryptographic library failed.
    pub fn tool_seal(&self) -> Result<ToolSeal, VaultError> {
        Ok(ToolSeal::new(&self.subkey(Room::Registry)?)?)
    }

    /// The epoch that grants are issued in.
    ///
    /// # Errors
    /// The storage failed, or the epoch was edited.
    pub async fn epoch(&self) -> Result<Epoch, VaultError> {
        let mut tx = self.begin_read().await?;
        self.epoch_in(&mut *tx).await
    }

    /// The time by the vault's clock, for whoever decides beside it: two clocks in one process
    /// would disagree.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        self.clock.now()
    }

    pub(crate) fn seconds(&self) -> UnixSeconds {
        self.now().into()
    }

    pub(crate) fn entry(&self, kind: Kind, verdict: Verdict, by: &AgentId) -> Entry {
        Entry::new(self.now(), kind, verdict).by(by)
    }

    /// A turn to write. Issuers are looked at anew: another process may have rotated them.
    pub(crate) async fn begin(&self) -> Result<Box<dyn Transaction>, VaultError> {
        let mut tx = self.storage.begin().await?;
        let issuers = self.issuers_in(&mut *tx).await?;
        self.set_issuers(issuers);
        Ok(tx)
    }

    /// A look at what is committed, with the issuers as they are then or later.
    pub(crate) async fn begin_read(&self) -> Result<Box<dyn Transaction>, VaultError> {
        let mut tx = self.storage.begin_read().await?;
        let issuers = self.issuers_in(&mut *tx).await?;
        self.set_issuers(issuers);
        Ok(tx)
    }

    fn issuers(&self) -> Arc<Issuers> {
        let current = self.issuers.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current)
    }

    /// Keeps what was committed, unless what is kept is newer.
    pub(crate) fn set_issuers(&self, issuers: Arc<Issuers>) {
        let mut current = self.issuers.write().unwrap_or_else(PoisonError::into_inner);
        if issuers.generation() > current.generation() {
            *current = issuers;
        }
    }

    /// The issuers as this transaction sees them.
    pub(crate) async fn issuers_in(
        &self,
        tx: &mut dyn Transaction,
    ) -> Result<Arc<Issuers>, VaultError> {
        let cached = self.issuers();
        let signing = tx.key(&cached.key().public().key_id).await?;
        if signing.is_some_and(|row| row.purpose == Purpose::Issuer) {
            return Ok(cached);
        }
        let stored = Issuers::load(tx, &*self.provider).await?;
        stored
            .map(Arc::new)
            .ok_or_else(|| VaultError::tampered("key", "issuer"))
    }

    pub(crate) async fn epoch_in(&self, tx: &mut dyn Transaction) -> Result<Epoch, VaultError> {
        let row = tx.epoch().await?;
        let row = row.ok_or_else(|| VaultError::tampered("epoch", "row"))?;
        self.derived.check_epoch(row)
    }

    /// The tree of this identity.
    pub(crate) async fn tree_in(
        &self,
        tx: &mut dyn Transaction,
        id: &TreeId,
    ) -> Result<TreeRow, VaultError> {
        let row = tx.tree_by_id(id).await?;
        self.derived
            .check_tree(row.ok_or(VaultError::NotFound { what: "tree" })?)
    }

    /// The tree with this start.
    pub(crate) async fn start_in(
        &self,
        tx: &mut dyn Transaction,
        start: &StartId,
    ) -> Result<TreeRow, VaultError> {
        let row = tx.tree(start).await?;
        self.derived
            .check_tree(row.ok_or(VaultError::NotFound { what: "start" })?)
    }

    /// The tree of this identity, if its tokens may change.
    pub(crate) async fn living_tree(
        &self,
        tx: &mut dyn Transaction,
        id: &TreeId,
    ) -> Result<TreeRow, VaultError> {
        let row = self.tree_in(tx, id).await?;
        if row.tree.is_bound() {
            Ok(row)
        } else {
            Err(VaultError::Stopped)
        }
    }

    /// A fresh data key for a tree, stored.
    pub(crate) async fn new_data_key(
        &self,
        tx: &mut dyn Transaction,
        start: &StartId,
    ) -> Result<KeyId, VaultError> {
        let key = CipherKey::generate()?;
        let place = key_place(Purpose::Tree, key.id(), 0, Some(start));
        let wrapped = self.provider.wrap(place.as_bytes(), key.bytes()).await?;
        let row = KeyRow {
            id: key.id().clone(),
            purpose: Purpose::Tree,
            generation: 0,
            wrapped_by: self.provider.current().clone(),
            wrapped,
        };
        tx.put_key(&row).await?;
        Ok(row.id)
    }

    /// A tree's data key.
    pub(crate) async fn data_key(
        &self,
        tx: &mut dyn Transaction,
        row: &TreeRow,
    ) -> Result<CipherKey, VaultError> {
        let id = row.data_key.as_ref().ok_or(VaultError::Stopped)?;
        let place = key_place(Purpose::Tree, id, 0, Some(&row.tree.start));
        self.unwrapped(tx, id, &place).await
    }

    /// The stored key of this id, if it was wrapped for this place.
    pub(crate) async fn unwrapped(
        &self,
        tx: &mut dyn Transaction,
        id: &KeyId,
        place: &Fields,
    ) -> Result<CipherKey, VaultError> {
        let missing = || VaultError::tampered("key", id);
        let stored = tx.key(id).await?.ok_or_else(missing)?;
        let plain = unwrap(&*self.provider, &stored, place.as_bytes()).await?;
        Ok(CipherKey::new(
            id.clone(),
            thirty_two(&plain).ok_or_else(missing)?,
        ))
    }

    /// Decrypts a version's token.
    pub(crate) async fn open_token(
        &self,
        tx: &mut dyn Transaction,
        key: &CipherKey,
        tree: &Tree,
        version: &VersionRow,
    ) -> Result<SecretString, VaultError> {
        let missing = || VaultError::tampered("token of version", version_place(&version.info));
        let id = version.secret.as_ref().ok_or_else(missing)?;
        let row = tx.secret(id).await?.ok_or_else(missing)?;
        let place = token_place(tree, &version.info, key.id());
        let plain = key.open(&place, &row.sealed)?.ok_or_else(missing)?;
        let text = std::str::from_utf8(&plain).map_err(|_| missing())?;
        Ok(SecretString::from(text))
    }

    /// Encrypts a token for its place and stores it.
    pub(crate) async fn store_token(
        &self,
        tx: &mut dyn Transaction,
        key: &CipherKey,
        place: &Fields,
        token: &str,
    ) -> Result<crate::SecretId, VaultError> {
        let id: crate::SecretId = random_id()?.parse().map_err(|_| VaultError::Crypto)?;
        let row = SecretRow {
            id: id.clone(),
            data_key: key.id().clone(),
            sealed: key.seal(place, token.as_bytes())?,
        };
        tx.put_secret(&row).await?;
        Ok(id)
    }

    pub(crate) fn provider(&self) -> &dyn KeyProvider {
        &*self.provider
    }
}

/// The root secret's keys; made where there is none.
async fn root(tx: &mut dyn Transaction, provider: &dyn KeyProvider) -> Result<Derived, VaultError> {
    if let Some(row) = tx.keys(Purpose::Root).await?.first() {
        let place = key_place(Purpose::Root, &row.id, 0, None);
        return Derived::from_root(&unwrap(provider, row, place.as_bytes()).await?);
    }
    let secret = random_key()?;
    let id: KeyId = random_id()?.parse().map_err(|_| VaultError::Crypto)?;
    let place = key_place(Purpose::Root, &id, 0, None);
    let wrapped = provider.wrap(place.as_bytes(), secret.as_slice()).await?;
    tx.put_key(&KeyRow {
        id,
        purpose: Purpose::Root,
        generation: 0,
        wrapped_by: provider.current().clone(),
        wrapped,
    })
    .await?;
    Derived::from_root(secret.as_slice())
}

/// The audit log's keys; the one that signs is made where there is none.
async fn audit_keys(
    tx: &mut dyn Transaction,
    provider: &dyn KeyProvider,
    derived: &Derived,
) -> Result<xylem_audit::Keys, VaultError> {
    let place = |id: &KeyId| key_place(Purpose::Checkpoint, id, 0, None);
    if let Some(row) = tx.keys(Purpose::Checkpoint).await?.first() {
        let pkcs8 = unwrap(provider, row, place(&row.id).as_bytes()).await?;
        let keys = xylem_audit::Keys::new(derived.audit(), derived.people(), &pkcs8);
        return keys.map_err(|_| tampered_key(row));
    }
    let pkcs8 = xylem_audit::new_checkpoint_key().map_err(|_| VaultError::Crypto)?;
    let keys = xylem_audit::Keys::new(derived.audit(), derived.people(), &pkcs8);
    let keys = keys.map_err(|_| VaultError::Crypto)?;
    let id = keys.checkpoint_key().id().clone();
    let wrapped = provider.wrap(place(&id).as_bytes(), &pkcs8).await?;
    tx.put_key(&KeyRow {
        id,
        purpose: Purpose::Checkpoint,
        generation: 0,
        wrapped_by: provider.current().clone(),
        wrapped,
    })
    .await?;
    Ok(keys)
}

pub(crate) async fn unwrap(
    provider: &dyn KeyProvider,
    row: &KeyRow,
    place: &[u8],
) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let plain = provider
        .unwrap(&row.wrapped_by, place, &row.wrapped)
        .await?;
    plain.ok_or_else(|| tampered_key(row))
}

pub(crate) async fn unwrap_issuer(
    provider: &dyn KeyProvider,
    row: &KeyRow,
) -> Result<IssuerKey, VaultError> {
    let place = key_place(row.purpose, &row.id, row.generation, None);
    let pkcs8 = unwrap(provider, row, place.as_bytes()).await?;
    let key = IssuerKey::from_pkcs8(&pkcs8, row.generation)?;
    if key.public().key_id == row.id {
        Ok(key)
    } else {
        Err(tampered_key(row))
    }
}

fn thirty_two(bytes: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0; 32]);
    if bytes.len() != key.len() {
        return None;
    }
    key.copy_from_slice(bytes);
    Some(key)
}
