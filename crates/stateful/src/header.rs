//! What travels in Temporal headers: what a parent hands to a child at start, and what a run hands
//! to the next run of the same node.

use serde::{Deserialize, Serialize};
use xylem_grant::IssuerSet;
use xylem_ids::{Slot, TreeId};
use xylem_node::Carried;

/// The header's name.
pub const TREE_HEADER: &str = "xylem-tree";

/// The behaviour this library was written for. A run follows the number in its header; the number
/// is raised only when a node continues as new.
pub const PROTOCOL: u32 = 1;

/// What a node is told when it starts.
///
/// A root has no `tree` in it: its first run id is not known before it runs, and it learns the
/// rest from its own start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeHeader {
    /// See [`PROTOCOL`].
    pub protocol: u32,
    /// The tree, for every node but the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<TreeId>,
    /// Whose grants the node trusts.
    pub issuers: IssuerSet,
    /// The slots the node takes grants for, whoever sends them.
    pub slots: Slots,
    /// Grants of the slots selected for it, in their wire form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<String>,
    /// Whether the search attribute `XylemTokens` is registered: upserting one that is not fails
    /// the workflow task for ever.
    #[serde(default)]
    pub search_attribute: bool,
    /// Whether raw tokens are taken in from signals; decided when the tree is started. Absent where
    /// the root was started by somebody who did not say: the control plane is asked then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intake: Option<bool>,
}

/// The slots a node may take grants for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slots {
    /// Whatever its type declares: a root.
    #[default]
    Declared,
    /// These.
    Named(Vec<Slot>),
}

/// The name of the header a run hands to the next run of the same node.
pub const NODE_HEADER: &str = "xylem-node";

/// What a run hands to the next run of the same node, beside [`TreeHeader`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeHeader {
    /// The child registry and what else the node knows.
    pub carried: Carried,
    /// The workflow's own API endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_url: Option<String>,
}
