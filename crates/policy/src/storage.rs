//! The storage that policies need. Implementations keep and find rows; every rule is elsewhere.

use crate::{Access, Counter, CounterKey};
use async_trait::async_trait;
use xylem_audit::Entry;
use xylem_identity::Agent;
use xylem_ids::{AccessId, AgentId, Namespace, PolicyName, ToolName};
use xylem_seal::Mac;

/// Why the storage did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// It did not answer; the call may be tried again.
    #[error("the policies' storage is not available: try again")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A stored row cannot be read.
    #[error("a stored {what} cannot be read: it is not what was written")]
    Unreadable {
        /// What kind of row.
        what: &'static str,
    },
}

/// One version of a policy, and its seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRow {
    /// The namespace it holds in.
    pub namespace: Namespace,
    /// Its name.
    pub name: PolicyName,
    /// Counted from 1.
    pub version: u32,
    /// The document, as JSON.
    pub document: String,
    /// Whether it holds no more.
    pub retired: bool,
    /// Who wrote it.
    pub author: AgentId,
    /// When, in seconds since 1970.
    pub at: u64,
    /// Covers everything above.
    pub seal: Mac,
}

/// Which policies a namespace has: the seal covers the newest version of each, so that one that was
/// deleted or put back to an older version is noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetRow {
    /// The namespace.
    pub namespace: Namespace,
    /// Raised with every change.
    pub generation: u64,
    /// Covers everything above, and the seals of the policies.
    pub seal: Mac,
}

/// Which requests for access.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted<'a> {
    /// Those that this agent asked for, or that are for it.
    pub of: Option<&'a AgentId>,
    /// Those that wait to be decided at this time, in seconds since 1970.
    pub pending_at: Option<u64>,
    /// Those after this one.
    pub after: Option<&'a AccessId>,
}

type Stored<T> = Result<T, StorageError>;

/// What a transaction reads and writes of policies. `put_` methods insert a row or replace the one
/// with the same key.
#[async_trait]
#[expect(missing_docs, reason = "rows are found by what the parameters name")]
pub trait Rows: Send {
    async fn policy_set(&mut self, namespace: &Namespace) -> Stored<Option<SetRow>>;
    async fn put_policy_set(&mut self, row: &SetRow) -> Stored<()>;
    /// The newest version of every policy, retired ones too, in the order of their names.
    async fn policies(&mut self, namespace: &Namespace) -> Stored<Vec<PolicyRow>>;
    async fn policy(
        &mut self,
        namespace: &Namespace,
        name: &PolicyName,
        version: u32,
    ) -> Stored<Option<PolicyRow>>;
    async fn insert_policy(&mut self, row: &PolicyRow) -> Stored<()>;

    /// Those of these counters that exist.
    async fn usage(
        &mut self,
        namespace: &Namespace,
        keys: &[CounterKey],
    ) -> Stored<Vec<(CounterKey, Counter)>>;
    async fn put_usage(
        &mut self,
        namespace: &Namespace,
        key: &CounterKey,
        counter: Counter,
    ) -> Stored<()>;
    /// Forgets counters whose window began before `before`; answers how many.
    async fn delete_usage(&mut self, before: u64) -> Stored<u64>;

    async fn access(&mut self, namespace: &Namespace, id: &AccessId) -> Stored<Option<Access>>;
    async fn put_access(&mut self, access: &Access) -> Stored<()>;
    /// What was approved for this agent, and for this tool where one is named, and has not ended at
    /// that time.
    async fn approvals(
        &mut self,
        namespace: &Namespace,
        agent: &AgentId,
        tool: Option<&ToolName>,
        now: u64,
    ) -> Stored<Vec<Access>>;
    /// In the order of their ids.
    async fn accesses(
        &mut self,
        namespace: &Namespace,
        wanted: Wanted<'_>,
        limit: u32,
    ) -> Stored<Vec<Access>>;
    /// Those that waited or allowed until `now` or earlier.
    async fn lapsed_accesses(
        &mut self,
        namespace: &Namespace,
        now: u64,
        limit: u32,
    ) -> Stored<Vec<Access>>;

    /// The agent as it is now.
    async fn owner(&mut self, namespace: &Namespace, agent: &AgentId) -> Stored<Option<Agent>>;
}

/// A transaction of its own; dropped without [`Changes::commit`], it changes nothing.
#[async_trait]
pub trait Changes: Rows {
    /// Appends an audit entry to the same transaction.
    async fn note(&mut self, entry: &Entry) -> Stored<()>;

    /// Makes the changes durable, with their audit entries.
    async fn commit(self: Box<Self>) -> Stored<()>;
}

/// Begins transactions.
#[async_trait]
pub trait Storage: Send + Sync {
    /// A transaction that writes. One at a time: what it reads stays as it is until it ends.
    async fn begin_changes(&self) -> Stored<Box<dyn Changes>>;

    /// A transaction that only reads.
    async fn begin_look(&self) -> Stored<Box<dyn Rows>>;
}
