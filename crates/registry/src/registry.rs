//! The registry's rules.

use crate::{Invalid, NotCallable, Storage, StorageError, Unchanged, WorkflowDefinition};
use std::sync::Arc;
use xylem_audit::{Entry, SubjectKind};
use xylem_ids::{Namespace, TaskQueue, ToolName};
use xylem_seal::CryptoError;

/// Why the registry did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A field breaks its rule.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// A tool has this name, or had it.
    #[error("a tool of this name exists already, or did: update it, or choose another name")]
    ToolExists,
    /// A tool may not be changed so.
    #[error(transparent)]
    Unchanged(#[from] Unchanged),
    /// A tool is not called.
    #[error(transparent)]
    NotCallable(NotCallable),
    /// A tool cannot be imported, and with it none is.
    #[error("{tool} cannot be imported")]
    Import {
        /// The tool.
        tool: ToolName,
        /// Why.
        #[source]
        error: Box<RegistryError>,
    },
    /// Something relies on it.
    #[error(
        "trees that are not stopped may still call the tool: stop them first, or leave it retired"
    )]
    InUse,
    /// There is no such thing in this namespace.
    #[error("no such {what} in this namespace")]
    NotFound {
        /// What kind of thing.
        what: &'static str,
    },
    /// The cryptographic library failed.
    #[error("the registry could not name the next page")]
    Crypto(#[from] CryptoError),
    /// What is stored is not what was written.
    #[error(
        "stored {what} {which} is not what was written: restore it from a backup and look who edited it"
    )]
    Tampered {
        /// What kind of row.
        what: &'static str,
        /// Its key.
        which: String,
    },
    /// The storage failed.
    #[error("the registry could not use its storage")]
    Storage(#[source] StorageError),
}

impl From<StorageError> for RegistryError {
    fn from(error: StorageError) -> Self {
        match error {
            // A row that cannot even be read was edited too.
            StorageError::Unreadable { what } => Self::Tampered {
                what,
                which: "row".to_owned(),
            },
            other => Self::Storage(other),
        }
    }
}

/// Workflow definitions.
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

    /// Stores what the workflow types on a task queue declare, and the entry about it: about the queue,
    /// counting the types.
    ///
    /// # Errors
    /// A type names a slot both as redeemable and as transit, or the storage failed. Nothing is changed then.
    pub async fn register_definitions(
        &self,
        namespace: &Namespace,
        queue: &TaskQueue,
        definitions: &[WorkflowDefinition],
        entry: Entry,
    ) -> Result<(), RegistryError> {
        if definitions.len() > 1000 {
            return Err(Invalid::new("definitions", "at most 1000").into());
        }
        if !definitions.iter().all(|d| d.slots.is_disjoint(&d.transit)) {
            return Err(
                Invalid::new("transit", "slots that are not declared as redeemable too").into(),
            );
        }
        let mut entry = entry.regarding(SubjectKind::Queue, queue);
        entry.count = u64::try_from(definitions.len()).unwrap_or(u64::MAX).max(1);
        let entries = [entry];
        let stored = self
            .storage
            .put_definitions(namespace, queue, definitions, &entries);
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
