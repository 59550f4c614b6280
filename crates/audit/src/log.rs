//! Appending and listing.

use crate::{ChainError, Entry, Finding, Intact, Kind, Record, Segment, Subject, Verdict};
use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use std::{fmt, io, ops::ControlFlow, str::FromStr, sync::Arc, time::SystemTime};
use xylem_ids::{AgentId, Namespace, Slot, ToolName, TreeId, WorkflowId};

/// The most records a page holds; larger requests are cut to it.
pub const MAX_PAGE: u32 = 1_000;

/// Why the log did not answer.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The storage did not answer; the call may be tried again.
    #[error("the audit log is not available: try again")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Something that is stored is not what was written.
    #[error(
        "the audit log is not what was written, {0}: look who can write to its database, keep what \
         is there, and restore it from a backup"
    )]
    Tampered(Finding),
    /// An entry could not be chained.
    #[error("the audit entry could not be chained")]
    Chain(#[from] ChainError),
    /// Checkpoints could not be written outside the database for longer than is allowed.
    #[error(
        "the audit log's checkpoints cannot be written to their file: make room there, or correct \
         its permissions"
    )]
    CheckpointFile(#[source] Arc<io::Error>),
    /// More calls wait to append than it takes; the call may be tried again.
    #[error("the audit log is busy: try again")]
    Busy,
    /// The log has no keys yet.
    #[error("the audit log is not open")]
    NotOpen,
    /// The page token was not made by this log.
    #[error("the page token is not valid: begin again without one")]
    PageToken,
}

/// Which records to list. An absent field matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// In this namespace.
    pub namespace: Option<Namespace>,
    /// Of this tree.
    pub tree: Option<TreeId>,
    /// Concerning this workflow.
    pub workflow_id: Option<WorkflowId>,
    /// Of this kind.
    pub kind: Option<Kind>,
    /// With this verdict.
    pub verdict: Option<Verdict>,
    /// By this agent.
    pub agent: Option<AgentId>,
    /// For this agent.
    pub owner: Option<AgentId>,
    /// About this subject.
    pub subject: Option<Subject>,
    /// About this tool.
    pub tool: Option<ToolName>,
    /// About this slot.
    pub slot: Option<Slot>,
    /// Not before.
    pub since: Option<SystemTime>,
    /// Before.
    pub until: Option<SystemTime>,
}

/// Where a page ended. Opaque to callers; only the log reads it.
#[derive(Clone, PartialEq, Eq)]
pub struct PageToken(u64);

impl PageToken {
    /// The token of the page after the record at this place.
    #[must_use]
    pub fn after(place: u64) -> Self {
        Self(place)
    }

    /// The place it was made of.
    #[must_use]
    pub fn place(&self) -> u64 {
        self.0
    }
}

impl fmt::Display for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(format!("audit1:{}", self.0)))
    }
}

impl fmt::Debug for PageToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageToken({})", self.0)
    }
}

impl FromStr for PageToken {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        let bytes = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| LogError::PageToken)?;
        let place = std::str::from_utf8(&bytes)
            .ok()
            .and_then(|plain| plain.strip_prefix("audit1:"))
            .and_then(|place| place.parse().ok());
        place.map(Self).ok_or(LogError::PageToken)
    }
}

/// One page of the log, oldest record first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The records.
    pub records: Vec<Record>,
    /// Where the next page begins; absent at the end.
    pub next: Option<PageToken>,
}

/// The audit log as the rest of the house uses it.
#[async_trait]
pub trait Log: Send + Sync {
    /// Appends entries, all or none, in this order.
    ///
    /// # Errors
    /// The storage did not answer; nothing was appended.
    async fn append(&self, entries: &[Entry]) -> Result<(), LogError>;

    /// Lists matching records, oldest first, at most [`MAX_PAGE`] of them.
    ///
    /// # Errors
    /// The storage did not answer, or a record cannot be read.
    async fn list(
        &self,
        filter: &Filter,
        after: Option<&PageToken>,
        size: u32,
    ) -> Result<Page, LogError>;

    /// The token of the end of the log as it is now: what follows is new. For tailing.
    ///
    /// # Errors
    /// The storage did not answer.
    async fn end(&self) -> Result<PageToken, LogError>;

    /// The token of the page that begins with the last `count` matching records, or with the first
    /// where there are fewer; of the end of the log where there is none.
    ///
    /// # Errors
    /// The storage did not answer.
    async fn before_last(&self, filter: &Filter, count: u32) -> Result<PageToken, LogError>;

    /// How the log stands: cheap enough to be asked by a readiness check.
    ///
    /// # Errors
    /// The storage did not answer, or the log takes no entries: its head is not what was written,
    /// or its checkpoints cannot be written outside the database.
    async fn standing(&self) -> Result<Standing, LogError>;

    /// The newest segment that was archived: entries up to its last are not listed any more.
    ///
    /// # Errors
    /// The storage did not answer, or the record of it is not what was written.
    async fn archived(&self) -> Result<Option<Segment>, LogError>;

    /// Reads the whole log, from the first entry that is kept, and checks every entry, every checkpoint
    /// and the end. `progress` hears from time to time how far it is, and may end it.
    ///
    /// # Errors
    /// The storage did not answer. That something was edited is no error but a [`Verified`].
    async fn verify(&self, progress: &mut Watcher<'_>) -> Result<Verified, LogError>;
}

/// Hears how far a verification is; [`ControlFlow::Break`] ends it.
pub type Watcher<'a> = dyn FnMut(Progress) -> ControlFlow<()> + Send + 'a;

/// How far a verification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Entries that were checked.
    pub checked: u64,
    /// Entries there are.
    pub of: u64,
}

/// What a verification found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// Everything is as it was written.
    Intact(Intact),
    /// The first thing that is not.
    Broken(Finding),
    /// It was ended by whoever heard of its progress.
    Stopped,
}

/// How the log stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// How many entries it has.
    pub entries: u64,
    /// The entry that the last checkpoint was taken at; 0 before the first.
    pub checkpoint: u64,
    /// When that was; when the log was begun before the first.
    pub checkpoint_at: SystemTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_reads_back_and_others_are_refused() {
        let token = PageToken::after(42);
        assert_eq!(
            token.to_string().parse::<PageToken>().unwrap().place(),
            token.place()
        );
        for bad in ["", "42", "YXVkaXQxOng", "!!"] {
            assert!(bad.parse::<PageToken>().is_err(), "{bad}");
        }
    }
}
