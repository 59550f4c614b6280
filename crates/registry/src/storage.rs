//! The storage that the registry needs.

use crate::{Existing, Registered, Tool, WorkflowDefinition};
use async_trait::async_trait;
use std::time::SystemTime;
use xylem_ids::{Namespace, TaskQueue, ToolName};

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
}

/// What the registry keeps. Every method is one transaction.
#[async_trait]
pub trait Storage: Send + Sync {
    /// Stores a tool.
    ///
    /// # Errors
    /// [`StorageError::Exists`] where another definition has the name and [`Existing::Refuse`] was
    /// asked for.
    async fn put_tool(
        &self,
        namespace: &Namespace,
        tool: &Tool,
        existing: Existing,
        now: SystemTime,
    ) -> Result<Registered, StorageError>;

    /// The tool of this name.
    ///
    /// # Errors
    /// The storage did not answer, or the row cannot be read.
    async fn tool(
        &self,
        namespace: &Namespace,
        name: &ToolName,
    ) -> Result<Option<Tool>, StorageError>;

    /// Tools in the order of their names, beginning after `after`.
    ///
    /// # Errors
    /// The storage did not answer, or a row cannot be read.
    async fn tools(
        &self,
        namespace: &Namespace,
        after: Option<&ToolName>,
        limit: u32,
    ) -> Result<Vec<Tool>, StorageError>;

    /// Stores what types on a task queue declare, each replacing what that type declared there.
    ///
    /// # Errors
    /// The storage did not answer.
    async fn put_definitions(
        &self,
        namespace: &Namespace,
        queue: &TaskQueue,
        definitions: &[WorkflowDefinition],
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
