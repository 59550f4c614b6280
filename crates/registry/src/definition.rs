//! What workflow types declare.

use std::collections::BTreeSet;
use xylem_ids::{Slot, WorkflowType};

/// The slots of a workflow type, as the worker that runs it registers them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkflowDefinition {
    /// The type.
    pub workflow_type: WorkflowType,
    /// Slots its nodes may redeem.
    pub slots: BTreeSet<Slot>,
    /// Slots its nodes forward without redeeming them.
    pub transit: BTreeSet<Slot>,
}
