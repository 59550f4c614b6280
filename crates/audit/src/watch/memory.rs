//! What the watch remembers.

use super::Rule;
use crate::{Called, Entry, LogError, Usage, UsageKey, UsageQuery};
use async_trait::async_trait;
use xylem_ids::{AgentId, Namespace, ToolName};

/// An agent in a namespace.
#[derive(Debug, Clone, Copy)]
pub struct Of<'a> {
    /// The namespace.
    pub namespace: &'a Namespace,
    /// The agent.
    pub agent: &'a AgentId,
}

/// What was known of a network before it was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Used {
    /// When it was used last, in milliseconds since 1970.
    pub last: Option<u64>,
    /// How many networks were known.
    pub networks: u64,
}

/// How far the delivery of an alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// It is tried again.
    Pending,
    /// It was received.
    Delivered,
    /// It is not tried any more.
    GivenUp,
}

impl Delivery {
    /// The stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::GivenUp => "given_up",
        }
    }

    /// The value with this code.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        [Self::Pending, Self::Delivered, Self::GivenUp]
            .into_iter()
            .find(|delivery| delivery.code() == code)
    }
}

/// An alert that is to be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Its entry.
    pub seq: u64,
    /// How often it was tried.
    pub attempts: u32,
}

/// Begins transactions.
#[async_trait]
pub trait Watch: Send + Sync {
    /// One transaction: dropped without [`Memory::commit`], it has changed nothing. Whoever has one
    /// has it alone.
    ///
    /// # Errors
    /// The storage did not answer.
    async fn begin_watch(&self) -> Result<Box<dyn Memory>, LogError>;

    /// How far the delivery of alerts is: of those of these entries that are to be delivered.
    ///
    /// # Errors
    /// The storage did not answer.
    async fn deliveries(
        &self,
        namespace: &Namespace,
        first: u64,
        last: u64,
    ) -> Result<Vec<(u64, Delivery, u32)>, LogError>;

    /// Up to where the log was looked at.
    ///
    /// # Errors
    /// The storage did not answer.
    async fn watched(&self, namespace: &Namespace) -> Result<u64, LogError>;

    /// At most so many counts of calls, in the order of what they are of, behind `after`.
    ///
    /// # Errors
    /// The storage did not answer.
    async fn usage(
        &self,
        namespace: &Namespace,
        query: &UsageQuery,
        after: Option<&UsageKey>,
        limit: u32,
    ) -> Result<Vec<Usage>, LogError>;
}

/// What the watch remembers, in one transaction. Times are milliseconds since 1970, hours are
/// counted from there.
#[async_trait]
#[expect(
    missing_docs,
    reason = "what is remembered is what the parameters name"
)]
pub trait Memory: Send {
    /// Makes the changes durable, with the entries of what was raised.
    async fn commit(self: Box<Self>, entries: &[Entry]) -> Result<(), LogError>;

    async fn cursor(&mut self, namespace: &Namespace) -> Result<u64, LogError>;
    async fn move_cursor(&mut self, namespace: &Namespace, seq: u64) -> Result<(), LogError>;

    async fn add_denials(
        &mut self,
        of: Of<'_>,
        seq: u64,
        at: u64,
        count: u64,
    ) -> Result<(), LogError>;
    /// How many there were after `after` and not after `until`, and the first entry that says so.
    async fn denials(&mut self, of: Of<'_>, after: u64, until: u64)
    -> Result<(u64, u64), LogError>;

    /// Answers what was known before.
    async fn use_network(&mut self, of: Of<'_>, network: &str, at: u64) -> Result<Used, LogError>;

    /// Where the tool is new, answers how many others are known.
    async fn use_tool(
        &mut self,
        of: Of<'_>,
        tool: &ToolName,
        at: u64,
    ) -> Result<Option<u64>, LogError>;

    /// Answers how many calls the hour has with these.
    async fn add_calls(&mut self, of: Of<'_>, hour: u64, calls: u64) -> Result<u64, LogError>;
    /// How many calls each hour had from `first` up to and without `end`; hours without are left out.
    async fn calls(&mut self, of: Of<'_>, first: u64, end: u64) -> Result<Vec<u64>, LogError>;

    /// Counts a call that ended, or was denied.
    async fn add_usage(&mut self, called: &Called<'_>) -> Result<(), LogError>;
    /// Adds up the hours of each day before `hour`, which begins one.
    async fn fold_usage(&mut self, namespace: &Namespace, hour: u64) -> Result<(), LogError>;

    /// Whether something may be said that was not said since `quiet_since`; then it is said now.
    async fn may_say(
        &mut self,
        namespace: &Namespace,
        rule: Rule,
        about: &str,
        at: u64,
        quiet_since: u64,
    ) -> Result<bool, LogError>;

    /// Forgets denials and what was said before `at`, and calls before `hour`.
    async fn forget(&mut self, namespace: &Namespace, at: u64, hour: u64) -> Result<(), LogError>;

    /// Has an alert delivered from now on.
    async fn deliver(&mut self, namespace: &Namespace, seq: u64, at: u64) -> Result<(), LogError>;
    /// What is to be delivered by now, oldest first.
    async fn due(
        &mut self,
        namespace: &Namespace,
        now: u64,
        limit: u32,
    ) -> Result<Vec<Due>, LogError>;
    /// Notes an attempt that begins; the next one is at `again` unless this one is settled.
    async fn attempt(
        &mut self,
        namespace: &Namespace,
        due: Due,
        again: u64,
    ) -> Result<(), LogError>;
    async fn settle(
        &mut self,
        namespace: &Namespace,
        seq: u64,
        delivery: Delivery,
    ) -> Result<(), LogError>;
}
