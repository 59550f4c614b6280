//! Tools, agents, API keys and what workflow types declare.
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

mod agent;
mod definition;
mod key;
mod registry;
mod schema;
mod storage;
mod tool;

pub use agent::{Agent, Role, Roles};
pub use definition::WorkflowDefinition;
pub use key::{ApiKey, IssuedKey, KEY_PREFIX, KeyHasher, NewKey, PresentedKey, Principal};
pub use registry::{Existing, Registered, Registry, RegistryError, Unauthenticated};
pub use schema::MAX_SCHEMA_BYTES;
pub use storage::{Storage, StorageError};
pub use tool::{Auth, DefinitionHash, Invalid, Method, Place, Tool, ToolDefinition};
