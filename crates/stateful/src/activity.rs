//! The signatures of the activities a node relies on. The `activities` room implements them
//! against these definitions, so drift does not compile.
//!
//! Nothing in a request says who is asking: the worker takes the claims (workflow, run, activity,
//! attempt, task queue) from the activity task, where workflow code cannot write them.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeMap, fmt};
use temporalio_common::ActivityError;
use temporalio_macros::activity_definitions;
use xylem_grant::IssuerPublicKey;
use xylem_ids::{NodeId, Order, RunId, Slot, ToolName, TreeId, WorkflowId, WorkflowType};

/// Declarations only; see the `activities` room for what they do.
pub struct NodeActivities;

#[activity_definitions]
impl NodeActivities {
    /// Signals grants to children, with bounded concurrency and within [`FORWARD_BUDGET`].
    #[activity(name = "xylem.forward")]
    pub fn forward(_: Forward) -> Result<Forwarded, ActivityError> {
        unimplemented!()
    }

    /// Redeems a grant and calls a tool with the token.
    #[activity(name = "xylem.call_tool")]
    pub fn call_tool(_: ToolCall) -> Result<ToolAnswer, ActivityError> {
        unimplemented!()
    }

    /// Deposits a raw token that was signalled, and answers with the grant for it.
    #[activity(name = "xylem.take_in")]
    pub fn take_in(_: TakeIn) -> Result<TakenIn, ActivityError> {
        unimplemented!()
    }

    /// Asks the control plane whose grants this tree trusts, and for grants that are missing.
    #[activity(name = "xylem.issuers")]
    pub fn issuers(_: AskIssuers) -> Result<Issuers, ActivityError> {
        unimplemented!()
    }

    /// Records in the vault what a child may redeem, before it counts as done.
    #[activity(name = "xylem.select")]
    pub fn select(_: Select) -> Result<(), ActivityError> {
        unimplemented!()
    }

    /// Looks at a workflow whose id was already taken when a child was started under it.
    #[activity(name = "xylem.find_child")]
    pub fn find_child(_: FindChild) -> Result<FoundChild, ActivityError> {
        unimplemented!()
    }

    /// Waits until at least one of the children has ended.
    #[activity(name = "xylem.watch_children")]
    pub fn watch_children(_: WatchChildren) -> Result<Vec<ChildEnd>, ActivityError> {
        unimplemented!()
    }

    /// Writes rejected signals to the audit log, counted by reason.
    #[activity(name = "xylem.report_rejected")]
    pub fn report_rejected(_: ReportRejected) -> Result<(), ActivityError> {
        unimplemented!()
    }
}

/// How long one forward may take before it ends with what is undelivered. It runs as a local
/// activity, which holds the node's workflow task: at 80 % of the 10 s task timeout the worker
/// would heartbeat the task and add events to history (our measurement, Temporal server 1.32).
pub const FORWARD_BUDGET: std::time::Duration = std::time::Duration::from_secs(6);

/// Which grants go to which children.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// The tree; part of every signal's request id.
    pub tree: TreeId,
    /// The grants, in their wire form, each once.
    pub grants: Vec<String>,
    /// The children.
    pub children: Vec<Delivery>,
}

/// What one child is due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The child.
    pub child: NodeId,
    /// Indices into [`Forward::grants`].
    pub grants: Vec<usize>,
}

/// How a forward ended. A child named in neither list has everything it was due.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Forwarded {
    /// Not reached within the budget; to be tried again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undelivered: Vec<WorkflowId>,
    /// Closed, or replaced by another workflow under the same id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<WorkflowId>,
}

/// One call of a registered tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The tool's registered name.
    pub tool: ToolName,
    /// The slot whose token the call uses; must be the slot the tool is registered with, and absent
    /// where that takes no token of the tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<Slot>,
    /// The parameters, checked against the tool's JSON Schema.
    pub parameters: Value,
    /// The workflow's own `apiUrl`, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_url: Option<String>,
    /// The newest grant the node has for the slot; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub grant: String,
}

/// What a tool answered, redacted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The body: JSON where it is JSON, a string otherwise.
    pub body: Value,
    /// The response headers that the tool's registration lists.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The version of the token that was used; absent where the tool takes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// The newest grant, where the node presented an older one: the node adopts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newer_grant: Option<String>,
}

/// A raw token that somebody signalled. It is already in history, in the signal; it goes to the
/// vault and nowhere else. Its `Debug` shows nothing.
#[derive(Clone, Serialize, Deserialize)]
pub struct TakeIn {
    /// The slot it is meant for.
    pub slot: Slot,
    token: String,
}

impl TakeIn {
    /// Wraps a signalled string.
    #[must_use]
    pub fn new(slot: Slot, token: String) -> Self {
        Self { slot, token }
    }

    /// The token, for the vault.
    #[must_use]
    pub fn into_token(self) -> String {
        self.token
    }
}

impl fmt::Debug for TakeIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TakeIn")
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}

/// The grant for a token that was taken in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenIn {
    /// In its wire form, marked exposed.
    pub grant: String,
}

/// What a node asks the control plane. Who asks is in the activity task.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AskIssuers {
    /// Slots that a call waits for although the node holds no grant: the run was retried, reset or
    /// started by cron, and the push went to an earlier one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<Slot>,
}

/// What a node needs in order to verify, as the control plane knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuers {
    /// The tree the asking workflow belongs to.
    pub tree: TreeId,
    /// The keys whose grants the tree trusts.
    pub issuers: Vec<IssuerPublicKey>,
    /// Whether raw tokens are taken in from signals.
    pub intake: bool,
    /// Whether the search attribute `XylemTokens` is registered.
    pub search_attribute: bool,
    /// The current grants of the slots that were asked for, as far as the node may have them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<String>,
}

/// A change of what a child may redeem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Select {
    /// The child's workflow id; its first run id is not known before it has started.
    pub child: WorkflowId,
    /// Slots it may not redeem from now on.
    pub exclude: Vec<Slot>,
    /// Slots it may redeem again.
    pub include: Vec<Slot>,
    /// Whether the exclusion covers everything below the child too.
    pub subtree: bool,
}

/// A workflow id that was already taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindChild {
    /// The id.
    pub workflow_id: WorkflowId,
    /// The type the child was to have.
    pub workflow_type: WorkflowType,
}

/// Whose the taken id is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "found", rename_all = "snake_case")]
pub enum FoundChild {
    /// A running child of the asking workflow, of the expected type: it can be adopted.
    Mine {
        /// Its first run id.
        first_run_id: RunId,
    },
    /// Somebody else's, or of another type.
    Foreign,
    /// It has closed in the meantime.
    Closed,
}

/// Children to watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchChildren {
    /// Children started by an earlier run of the node: their ends are not delivered to this one.
    pub children: Vec<NodeId>,
}

/// A child that has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChildEnd {
    /// The child.
    pub child: NodeId,
    /// How it ended.
    pub outcome: ChildOutcome,
}

/// How a child ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum ChildOutcome {
    /// It returned; the result is JSON `null` where it returned nothing.
    Completed {
        /// What it returned.
        result: Value,
    },
    /// It failed.
    Failed {
        /// The failure's message.
        message: String,
    },
    /// It was cancelled.
    Cancelled,
    /// It was terminated.
    Terminated,
    /// It ran out of time.
    TimedOut,
}

/// Rejected signals since the last report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportRejected {
    /// How many, by reason.
    pub rejected: BTreeMap<String, u64>,
}

/// The definitions as types, for `#[activity(definition = ...)]` in the room that implements them.
pub mod definitions {
    pub use super::node_activities::{
        CallTool, FindChild, Forward, Issuers, ReportRejected, Select, TakeIn, WatchChildren,
    };
}
