//! Who may do what.
//!
//! Until policies exist the rule is the smallest that is safe: a tree calls the tools it was
//! allowed by name, each with the slot the tool is registered for, and nothing else. Nothing is
//! allowed because no rule says otherwise.
//!
//! A [`Permit`] is the proof that the rule was asked. Only [`decide`] makes one, and it is bound to
//! the tree, node, slot and tool it was made for.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic
    )
)]

use std::collections::BTreeSet;
use xylem_ids::{NodeId, Slot, ToolName, TreeId};

/// Who asks for what.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The tree.
    pub tree: &'a TreeId,
    /// The node that wants to call.
    pub node: &'a NodeId,
    /// The slot whose token the call would use.
    pub slot: &'a Slot,
    /// The tool.
    pub tool: &'a ToolName,
}

/// What the decision rests on. Whoever asks reads it in the transaction that acts on the answer.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The tools the tree was allowed.
    pub allowed: &'a BTreeSet<ToolName>,
    /// The slot the tool is registered for.
    pub tool_slot: &'a Slot,
}

/// Proof that a node may call one tool with the token of one slot.
///
/// ```compile_fail,E0451
/// fn forge(tree: xylem_ids::TreeId, node: xylem_ids::NodeId) {
///     let (slot, tool) = ("default".parse().unwrap(), "acme.deploy".parse().unwrap());
///     xylem_policy::Permit { tree, node, slot, tool };
/// }
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    tree: TreeId,
    node: NodeId,
    slot: Slot,
    tool: ToolName,
}

impl Permit {
    /// The tree it was made for.
    #[must_use]
    pub fn tree(&self) -> &TreeId {
        &self.tree
    }

    /// The node it was made for.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// The slot whose token may be used.
    #[must_use]
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// The tool that may be called.
    #[must_use]
    pub fn tool(&self) -> &ToolName {
        &self.tool
    }
}

/// Why there is no permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The tree was not allowed this tool.
    #[error("the tree is not allowed this tool: name it when the tree is started, or allow it")]
    ToolNotAllowed,
    /// The tool is registered for another slot.
    #[error("the tool is registered for another slot: call it with that one")]
    OtherSlot,
}

impl Denied {
    /// The stable code: it stands in audit entries and error details, and is never reused.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::ToolNotAllowed => "tool_not_allowed",
            Self::OtherSlot => "tool_of_other_slot",
        }
    }
}

/// Decides whether the node may call the tool.
///
/// # Errors
/// Says why not.
pub fn decide(request: Request<'_>, facts: Facts<'_>) -> Result<Permit, Denied> {
    if !facts.allowed.contains(request.tool) {
        return Err(Denied::ToolNotAllowed);
    }
    if facts.tool_slot != request.slot {
        return Err(Denied::OtherSlot);
    }
    Ok(Permit {
        tree: request.tree.clone(),
        node: request.node.clone(),
        slot: request.slot.clone(),
        tool: request.tool.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> TreeId {
        TreeId {
            namespace: "default".parse().unwrap(),
            workflow_id: "train".parse().unwrap(),
            first_run_id: "run-1".parse().unwrap(),
        }
    }

    fn node() -> NodeId {
        NodeId {
            workflow_id: "train/leaf".parse().unwrap(),
            first_run_id: "run-2".parse().unwrap(),
        }
    }

    fn ask(allowed: &[&str], tool: &str, slot: &str, tool_slot: &str) -> Result<Permit, Denied> {
        decide(
            Request {
                tree: &tree(),
                node: &node(),
                slot: &slot.parse().unwrap(),
                tool: &tool.parse().unwrap(),
            },
            Facts {
                allowed: &allowed.iter().map(|name| name.parse().unwrap()).collect(),
                tool_slot: &tool_slot.parse().unwrap(),
            },
        )
    }

    #[test]
    fn a_named_tool_is_permitted_and_the_permit_is_bound() {
        let permit = ask(&["acme.deploy"], "acme.deploy", "default", "default").unwrap();
        assert_eq!(permit.tree(), &tree());
        assert_eq!(permit.node(), &node());
        assert_eq!(permit.slot().as_str(), "default");
        assert_eq!(permit.tool().as_str(), "acme.deploy");
    }

    #[test]
    fn nothing_is_allowed_because_nothing_says_otherwise() {
        let denied = ask(&[], "acme.deploy", "default", "default").unwrap_err();
        assert_eq!(denied, Denied::ToolNotAllowed);
        let denied = ask(&["acme.list"], "acme.deploy", "default", "default").unwrap_err();
        assert_eq!(denied.code(), "tool_not_allowed");
    }

    #[test]
    fn a_tool_gets_the_token_of_its_own_slot_only() {
        let denied = ask(&["acme.deploy"], "acme.deploy", "github", "default").unwrap_err();
        assert_eq!(denied.code(), "tool_of_other_slot");
    }
}
