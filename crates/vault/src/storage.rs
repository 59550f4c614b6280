//! The storage that the vault needs. Implementations keep and find rows; every rule is elsewhere.

use crate::{
    CredentialMark, CredentialRows, Exclusion, RequestId, SecretId, StartId, Tree, VersionInfo,
};
use async_trait::async_trait;
use std::fmt;
use xylem_audit::{Activity, Entry};
use xylem_grant::UnixSeconds;
use xylem_ids::{
    AgentId, CredentialName, Epoch, KeyId, LeaseId, Namespace, RunId, Slot, TaskQueue, ToolName,
    TreeId, Version, WorkflowId, WorkflowType,
};
use xylem_registry::{RecordRow, ToolDefinition};
use xylem_seal::{Mac, Sealed};

/// Why the storage did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// It did not answer; the call may be tried again.
    #[error("the vault's storage is not available: try again")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A stored row cannot be read.
    #[error("a stored {what} cannot be read: it is not what was written")]
    Unreadable {
        /// What kind of row.
        what: &'static str,
    },
}

/// What a stored key is for. The codes are persisted and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The root secret that seals and fingerprints derive from.
    Root,
    /// The key that signs grants now.
    Issuer,
    /// A key that signed grants and is trusted no more.
    RetiredIssuer,
    /// A tree's data key.
    Tree,
    /// A stored credential's data key.
    Credential,
    /// The key that signs checkpoints of the audit log.
    Checkpoint,
}

impl Purpose {
    /// The stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Issuer => "issuer",
            Self::RetiredIssuer => "retired_issuer",
            Self::Tree => "tree",
            Self::Credential => "credential",
            Self::Checkpoint => "checkpoint",
        }
    }

    /// The purpose with this code.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        [
            Self::Root,
            Self::Issuer,
            Self::RetiredIssuer,
            Self::Tree,
            Self::Credential,
            Self::Checkpoint,
        ]
        .into_iter()
        .find(|purpose| purpose.code() == code)
    }
}

/// A key, wrapped by a key-encryption key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// Its id.
    pub id: KeyId,
    /// What it is for.
    pub purpose: Purpose,
    /// Which issuer key is newer; 0 for other keys.
    pub generation: u32,
    /// The key-encryption key.
    pub wrapped_by: KeyId,
    /// The wrapped key.
    pub wrapped: Sealed,
}

/// Whose a stored key is: what it is bound to, beside its purpose and id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyOwner {
    /// The vault's own.
    Vault,
    /// A tree's, with the id of its root.
    Tree(StartId, WorkflowId),
    /// A stored credential's.
    Credential(Namespace, CredentialName),
}

impl fmt::Display for KeyOwner {
    /// `vault`, `tree:train-1`, `credential:acme`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vault => f.write_str("vault"),
            Self::Tree(_, workflow_id) => write!(f, "tree:{workflow_id}"),
            Self::Credential(_, name) => write!(f, "credential:{name}"),
        }
    }
}

/// A stored key that somebody has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedKey {
    /// Its id.
    pub id: KeyId,
    /// The key; absent where it cannot be read.
    pub row: Option<KeyRow>,
    /// Whose it is; absent where that cannot be read.
    pub owner: Option<KeyOwner>,
}

/// How many stored keys a key-encryption key wraps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wraps {
    /// The key-encryption key.
    pub by: KeyId,
    /// How many.
    pub keys: u64,
}

/// How an epoch stands. The codes are persisted and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EpochState {
    /// Tokens are handed out.
    Current,
    /// A backup was loaded, and its epoch is not raised yet.
    Restored,
    /// It was raised, and tokens are held back until somebody confirms the revocations.
    Held,
}

impl EpochState {
    /// The stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Restored => "restored",
            Self::Held => "held",
        }
    }

    /// The state with this code.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        let all = [Self::Current, Self::Restored, Self::Held];
        all.into_iter().find(|state| state.code() == code)
    }
}

/// The vault's epoch and its seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochRow {
    /// Raised at every restore.
    pub epoch: Epoch,
    /// Whether tokens are handed out in it.
    pub state: EpochState,
    /// Covers both, but for a backup that was just loaded.
    pub mac: Mac,
}

/// A tree and its seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeRow {
    /// What is said about it.
    pub tree: Tree,
    /// Its data key; absent once it is destroyed.
    pub data_key: Option<KeyId>,
    /// Covers everything above.
    pub mac: Mac,
}

/// What holds for a slot of a tree, whatever its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotRow {
    /// The tree.
    pub start: StartId,
    /// The slot.
    pub slot: Slot,
    /// The last number that was given to a version; 0 before the first.
    pub last: u32,
    /// Who is excluded, in order and without repetition.
    pub exclusions: Vec<Exclusion>,
    /// Covers everything above.
    pub mac: Mac,
}

/// A version and its seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRow {
    /// What is said about it.
    pub info: VersionInfo,
    /// Where its ciphertext lies; absent once it is destroyed.
    pub secret: Option<SecretId>,
    /// Covers everything above.
    pub mac: Mac,
}

/// A token's ciphertext.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRow {
    /// Its id.
    pub id: SecretId,
    /// The data key it is encrypted under.
    pub data_key: KeyId,
    /// The ciphertext.
    pub sealed: Sealed,
}

/// What a lease is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leased {
    /// A version of a slot of the tree.
    Slot(Slot, Version),
    /// A version of a stored credential.
    Credential(CredentialMark),
    /// Nothing: the tool takes no token.
    Nothing,
}

/// One redemption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRow {
    /// Its id.
    pub id: LeaseId,
    /// The tree.
    pub start: StartId,
    /// What was handed out.
    pub of: Leased,
    /// The tool it is for.
    pub tool: ToolName,
    /// The workflow that asked.
    pub workflow_id: WorkflowId,
    /// Its run.
    pub run_id: RunId,
    /// The activity that asked.
    pub activity: Activity,
    /// The worker's agent.
    pub agent: AgentId,
    /// When it began.
    pub opened_at: UnixSeconds,
    /// When it ends by itself.
    pub expires_at: UnixSeconds,
    /// When it was released.
    pub released_at: Option<UnixSeconds>,
}

/// A call of a tool that is called at most once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SingleCall {
    /// Its lease.
    pub lease: LeaseId,
    /// The id that its worker asked under, if it gave one.
    pub request: Option<RequestId>,
}

/// Leases that are neither released nor expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenLeases {
    /// How many.
    pub count: u64,
    /// When the last one ends by itself.
    pub until: UnixSeconds,
}

/// What a workflow type, as a task queue's workers registered it, does with a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotUse {
    /// Nothing, or the type is not registered.
    Undeclared,
    /// Forwards it.
    Transit,
    /// May redeem it.
    Redeems,
}

/// What the registry knows of a tool, in the same transaction.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolFacts {
    /// What is known of it, as it is stored.
    pub record: RecordRow,
    /// The definition that was approved, as it is stored.
    pub approved: Option<ToolDefinition>,
}

type Stored<T> = Result<T, StorageError>;

/// Begins transactions.
#[async_trait]
pub trait Storage: Send + Sync {
    /// A transaction that writes. One at a time: what it reads stays as it is until it ends.
    async fn begin(&self) -> Stored<Box<dyn Transaction>>;

    /// A transaction that only reads.
    async fn begin_read(&self) -> Stored<Box<dyn Transaction>>;
}

/// One transaction; dropped without [`Transaction::commit`], it changes nothing. `put_` methods
/// insert a row or replace the one with the same key.
#[async_trait]
#[expect(missing_docs, reason = "rows are found by what the parameters name")]
pub trait Transaction: CredentialRows + xylem_policy::Rows {
    /// Makes the changes durable, with their audit entries: they survive a crash from here on. Where
    /// the entries cannot be written, nothing has changed.
    async fn commit(self: Box<Self>) -> Stored<()>;

    /// Appends an audit entry. It is written by [`Transaction::commit`], as the last thing: whoever
    /// appends waits for whoever appended before, and that wait is to be short.
    async fn audit(&mut self, entry: &Entry) -> Stored<()>;

    async fn epoch(&mut self) -> Stored<Option<EpochRow>>;
    async fn put_epoch(&mut self, row: &EpochRow) -> Stored<()>;

    async fn keys(&mut self, purpose: Purpose) -> Stored<Vec<KeyRow>>;
    async fn key(&mut self, id: &KeyId) -> Stored<Option<KeyRow>>;
    async fn put_key(&mut self, row: &KeyRow) -> Stored<()>;
    async fn delete_key(&mut self, id: &KeyId) -> Stored<()>;
    /// What is wrapped by others than `current`, by their ids. A data key that neither a tree nor a
    /// credential has is nobody's: nothing can open it any more, and it does not count.
    async fn wrapped_by_others(&mut self, current: &KeyId) -> Stored<Vec<Wraps>>;
    /// The same keys by their own ids, beginning after `after`.
    async fn keys_of_others(
        &mut self,
        current: &KeyId,
        after: Option<&KeyId>,
        limit: u32,
    ) -> Stored<Vec<OwnedKey>>;
    /// Puts a key in the place of what was read of it, and says whether that was still there.
    async fn replace_key(&mut self, read: &KeyRow, with: &KeyRow) -> Stored<bool>;

    async fn tree(&mut self, start: &StartId) -> Stored<Option<TreeRow>>;
    async fn tree_by_id(&mut self, id: &TreeId) -> Stored<Option<TreeRow>>;
    async fn tree_by_request(
        &mut self,
        namespace: &Namespace,
        request: &RequestId,
    ) -> Stored<Option<TreeRow>>;
    /// The tree that was opened last under this workflow id. One that was given up before its
    /// root was confirmed counts only where there is no other.
    async fn newest_tree(
        &mut self,
        namespace: &Namespace,
        workflow_id: &WorkflowId,
    ) -> Stored<Option<TreeRow>>;
    /// Trees, the one that was opened last first, beginning after `after`.
    async fn trees(
        &mut self,
        namespace: &Namespace,
        after: Option<&StartId>,
        limit: u32,
    ) -> Stored<Vec<TreeRow>>;
    /// Trees that are neither bound nor stopped, oldest first.
    async fn starting_trees(&mut self) -> Stored<Vec<TreeRow>>;
    async fn put_tree(&mut self, row: &TreeRow) -> Stored<()>;

    async fn slot(&mut self, start: &StartId, slot: &Slot) -> Stored<Option<SlotRow>>;
    async fn slots(&mut self, start: &StartId) -> Stored<Vec<SlotRow>>;
    async fn put_slot(&mut self, row: &SlotRow) -> Stored<()>;

    /// Versions in the order of their slots and numbers.
    async fn versions(&mut self, start: &StartId) -> Stored<Vec<VersionRow>>;
    async fn version(
        &mut self,
        start: &StartId,
        slot: &Slot,
        version: Version,
    ) -> Stored<Option<VersionRow>>;
    async fn active_version(&mut self, start: &StartId, slot: &Slot) -> Stored<Option<VersionRow>>;
    async fn version_by_request(
        &mut self,
        start: &StartId,
        request: &RequestId,
    ) -> Stored<Option<VersionRow>>;
    /// Active versions of bound trees whose grant expires before `before`, or, without it, all.
    async fn active_versions(&mut self, before: Option<UnixSeconds>) -> Stored<Vec<VersionRow>>;
    async fn put_version(&mut self, row: &VersionRow) -> Stored<()>;

    async fn secret(&mut self, id: &SecretId) -> Stored<Option<SecretRow>>;
    async fn put_secret(&mut self, row: &SecretRow) -> Stored<()>;
    async fn delete_secret(&mut self, id: &SecretId) -> Stored<()>;

    async fn lease(&mut self, id: &LeaseId) -> Stored<Option<LeaseRow>>;
    async fn put_lease(&mut self, row: &LeaseRow) -> Stored<()>;
    async fn open_leases(
        &mut self,
        start: &StartId,
        slot: &Slot,
        version: Version,
        now: UnixSeconds,
    ) -> Stored<OpenLeases>;
    /// The same for a version of a stored credential.
    async fn open_credential_leases(
        &mut self,
        namespace: &Namespace,
        mark: &CredentialMark,
        now: UnixSeconds,
    ) -> Stored<OpenLeases>;
    /// The call by which an activity may have reached the API of a tool that it calls at most once.
    async fn single_call(&mut self, run: &RunId, activity: &str) -> Stored<Option<SingleCall>>;
    /// Notes that it may have, under its lease.
    async fn put_single_call(
        &mut self,
        lease: &LeaseRow,
        request: Option<&RequestId>,
    ) -> Stored<()>;
    /// Forgets it: under this lease the API did nothing.
    async fn delete_single_call(&mut self, lease: &LeaseRow) -> Stored<()>;
    /// Forgets those that began before `before`.
    async fn delete_single_calls(&mut self, before: UnixSeconds) -> Stored<()>;
    /// Leases that ended by themselves before `before` and were never released, oldest first.
    async fn lapsed_leases(&mut self, before: UnixSeconds, limit: u32) -> Stored<Vec<LeaseRow>>;
    /// Forgets leases that ended before `before`; answers how many.
    async fn delete_leases(&mut self, before: UnixSeconds) -> Stored<u64>;

    /// What the registry knows of a workflow type.
    async fn slot_use(
        &mut self,
        namespace: &Namespace,
        queue: &TaskQueue,
        workflow_type: &WorkflowType,
        slot: &Slot,
    ) -> Stored<SlotUse>;
    /// What the registry knows of a tool.
    async fn tool(&mut self, namespace: &Namespace, name: &ToolName) -> Stored<Option<ToolFacts>>;
}
