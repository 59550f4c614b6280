//! The registry's rules.

use crate::{Invalid, Storage, StorageError, Tool, WorkflowDefinition};
use std::{sync::Arc, time::SystemTime};
use xylem_ids::{Namespace, TaskQueue, ToolName};

/// The most items a list answers at a time.
const MAX_PAGE: u32 = 500;

/// What to do where a tool of the same name but another definition exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Refuse.
    Refuse,
    /// Replace it.
    Replace,
}

/// What became of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// The tool is new.
    Created,
    /// The same definition was there already.
    Unchanged,
    /// Another definition was replaced.
    Replaced,
}

/// Why the registry did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A field breaks its rule.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Something else exists under this name.
    #[error("{what} exists already: choose another name")]
    Exists {
        /// What kind of thing.
        what: &'static str,
    },
    /// There is no such thing in this namespace.
    #[error("no such {what} in this namespace")]
    NotFound {
        /// What kind of thing.
        what: &'static str,
    },
    /// The storage failed.
    #[error("the registry could not use its storage")]
    Storage(#[source] StorageError),
}

impl From<StorageError> for RegistryError {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

/// Tools and workflow definitions.
#[derive(Clone)]
pub struct Registry {
    storage: Arc<dyn Storage>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registry")
    }
}

impl Registry {
    /// A registry over this storage.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage }
    }

    /// Registers a tool.
    ///
    /// # Errors
    /// [`RegistryError::Exists`] where another definition has the name and may not be replaced.
    pub async fn register_tool(
        &self,
        namespace: &Namespace,
        tool: &Tool,
        existing: Existing,
        now: SystemTime,
    ) -> Result<Registered, RegistryError> {
        let stored = self.storage.put_tool(namespace, tool, existing, now).await;
        stored.map_err(exists("another tool of this name"))
    }

    /// The tool of this name.
    ///
    /// # Errors
    /// There is none in this namespace, or the storage failed.
    pub async fn tool(
        &self,
        namespace: &Namespace,
        name: &ToolName,
    ) -> Result<Tool, RegistryError> {
        let tool = self.storage.tool(namespace, name).await?;
        tool.ok_or(RegistryError::NotFound { what: "tool" })
    }

    /// Tools in the order of their names, beginning after `after`; at most 500.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn tools(
        &self,
        namespace: &Namespace,
        after: Option<&ToolName>,
        limit: u32,
    ) -> Result<Vec<Tool>, RegistryError> {
        let limit = limit.clamp(1, MAX_PAGE);
        Ok(self.storage.tools(namespace, after, limit).await?)
    }

    /// Stores what the workflow types on a task queue declare.
    ///
    /// # Errors
    /// A type names a slot both as redeemable and as transit, or the storage failed.
    pub async fn register_definitions(
        &self,
        namespace: &Namespace,
        queue: &TaskQueue,
        definitions: &[WorkflowDefinition],
    ) -> Result<(), RegistryError> {
        if definitions.len() > 1000 {
            return Err(Invalid::new("definitions", "at most 1000").into());
        }
        if !definitions.iter().all(|d| d.slots.is_disjoint(&d.transit)) {
            return Err(
                Invalid::new("transit", "slots that are not declared as redeemable too").into(),
            );
        }
        let stored = self.storage.put_definitions(namespace, queue, definitions);
        Ok(stored.await?)
    }

    /// What the workflow types declare, by task queue.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn definitions(
        &self,
        namespace: &Namespace,
    ) -> Result<Vec<(TaskQueue, WorkflowDefinition)>, RegistryError> {
        Ok(self.storage.definitions(namespace).await?)
    }
}

fn exists(what: &'static str) -> impl FnOnce(StorageError) -> RegistryError {
    move |error| match error {
        StorageError::Exists => RegistryError::Exists { what },
        other => RegistryError::Storage(other),
    }
}
