//! Tools, and what workflow types declare.
//!
//! The rules live here; storage is declared as [`Storage`] and implemented in `store`. Everything
//! belongs to one Temporal namespace, and another one's is not found. Errors name the field and the
//! rule and never quote what was put into it.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic
    )
)]

mod definition;
mod registry;
mod schema;
mod storage;
mod tool;

pub use definition::WorkflowDefinition;
pub use registry::{Existing, Registered, Registry, RegistryError};
pub use schema::MAX_SCHEMA_BYTES;
pub use storage::{Storage, StorageError};
pub use tool::{Auth, DefinitionHash, Invalid, Method, Place, Tool, ToolDefinition};
