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

mod auth;
mod definition;
pub mod openapi;
mod page;
mod record;
mod registry;
mod retry;
mod schema;
mod storage;
mod tls;
mod tool;
mod tools;

pub use auth::Auth;
pub use definition::WorkflowDefinition;
pub use page::Listing;
pub use record::{
    Approval, Approver, Callable, Edited, Editor, NotCallable, Published, RecordRow, Retirement,
    ToolRecord, ToolSeal, ToolState, Unchanged,
};
pub use registry::{Registry, RegistryError};
pub use schema::MAX_SCHEMA_BYTES;
pub use storage::{Storage, StorageError};
pub use tls::Tls;
pub use tool::{DefinitionHash, Invalid, Method, Place, Tool, ToolDefinition};
pub use tools::{
    Act, Decided, Decision, Import, Imported, KnownTool, ToolChange, ToolFilter, ToolStorage,
    ToolVersion, Tools,
};
