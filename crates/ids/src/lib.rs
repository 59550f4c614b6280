//! One newtype per entity of Xylem.
//!
//! Every identifier that crosses a room boundary has a type here, so that a slot is never passed
//! where a tool is meant. Parsing checks the rule of the identifier once; a value of the type is
//! proof that the rule holds. Nothing here does I/O or reads a clock.

mod address;
mod name;
mod order;
mod signal;
mod tree;

pub use address::{Audience, Origin};
pub use name::{
    AgentId, AuditId, Fingerprint, IdError, KeyId, LeaseId, Slot, TaskQueue, ToolName, WorkflowType,
};
pub use order::{Epoch, Order, Serial, Version};
pub use signal::signal_request_id;
pub use tree::{Namespace, NodeId, RunId, TreeId, WorkflowId};
