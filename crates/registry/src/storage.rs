//! The storage that the registry needs.

use crate::WorkflowDefinition;
use async_trait::async_trait;
use xylem_audit::Entry;
use xylem_ids::{Namespace, TaskQueue};

/// Why the storage did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// It did not answer; the call may be tried again.
    #[error("the registry's storage is not available: try again")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A stored row is not what was written.
    #[error("a stored {what} is not what was written")]
    Unreadable {
        /// What kind of row.
        what: &'static str,
    },
    /// Something else exists under this name.
    #[error("something else exists under this name")]
    Exists,
    /// Somebody else changed it in between.
    #[error("somebody else changed it in between")]
    Changed,
    /// Something relies on it.
    #[error("something relies on it")]
    InUse,
}

/// What the registry keeps. Every method is one transaction.
#[async_trait]
pub trait Storage: Send + Sync {
    /// Stores what types on a task queue declare, each replacing what that type declared there, and the
    /// entries about it.
    ///
    /// # Errors
    /// The storage did not answer, or the log did not take the entries.
    async fn put_definitions(
        &self,
        namespace: &Namespace,
        queue: &TaskQueue,
        definitions: &[WorkflowDefinition],
        entries: &[Entry],
    ) -> Result<(), StorageError>;

    /// What the types on a task queue declare.
    ///
    /// # Errors
    /// The storage did not answer, or a row cannot be read.
    async fn definitions(
        &self,
        namespace: &Namespace,
    ) -> Result<Vec<(TaskQueue, WorkflowDefinition)>, StorageError>;
}
