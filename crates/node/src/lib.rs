//! The pure state machine of one node of a tree: adopt, reject, select, forward, coalesce, close.
//!
//! Events go in through the methods of [`Node`], decisions come out as their results. There is no
//! Temporal here, no clock and no I/O: `stateful` translates Temporal into these events and acts
//! on the decisions. Everything about adopting and forwarding can therefore be tested, and is
//! explored exhaustively by the model in `tests/model.rs`, without a server.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic
    )
)]

mod child;
mod forward;
mod node;
mod reject;
mod status;

pub use child::{Child, ChildState, Selection};
pub use forward::{Due, Outcome, Plan, Stage};
pub use node::{Carried, ChildStart, Node, Received, Source, Start};
pub use reject::{Counts, Rejection};
pub use status::{ChildPhase, ChildStatus, GrantStatus, SlotState, SlotStatus, Status, TreeStatus};
