//! One newtype per entity of Xylem.
//!
//! Every identifier that crosses a room boundary has a type here, so that a slot is never passed
//! where a tool is meant. Parsing checks the rule of the identifier once; a value of the type is
//! proof that the rule holds. Nothing here does I/O or reads a clock.
//!
//! Beside them are the few rules that rooms on both sides of a line must keep alike: what a tool's
//! definition may say about HTTP and about calls that are made again, and how a signal with a grant is
//! named.

mod address;
mod http;
mod name;
mod order;
mod pin;
mod retry;
mod role;
mod signal;
mod template;
mod tree;

pub use address::{Audience, Origin};
pub use http::{
    MAX_RESPONSE_BYTES, is_user_name, may_carry_parameter, may_carry_token, may_reach_workflow,
};
pub use name::{
    AccessId, AgentId, AuditId, ClientId, CredentialName, Fingerprint, IdError, KeyId, LeaseId,
    PolicyName, SessionId, Slot, TaskQueue, ToolName, ToolTag, WorkflowType,
};
pub use order::{Epoch, Order, Serial, Version};
pub use pin::KeyPin;
pub use retry::RetryClass;
pub use role::{AgentKind, Role, Roles, Scope, Scopes};
pub use signal::signal_request_id;
pub use template::{PathTemplate, Segment, is_parameter_name};
pub use tree::{Namespace, NodeId, RunId, TreeId, WorkflowId};
