//! The proof that a call was allowed.

use crate::{Ask, By, CounterKey, Engine, Facts, RateLimit, Refused};
use std::{collections::BTreeSet, time::Duration};
use xylem_ids::{NodeId, Slot, ToolName, TreeId};

/// The call that a permit is for.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The tree.
    pub tree: &'a TreeId,
    /// The node that wants to call.
    pub node: &'a NodeId,
    /// The slot whose token the call would use; none where it takes no token of the tree.
    pub slot: Option<&'a Slot>,
    /// The tool.
    pub tool: &'a ToolName,
}

/// What tree and tool say themselves: policies allow no more than they do.
#[derive(Debug, Clone, Copy)]
pub struct Bounds<'a> {
    /// The tools the tree was allowed.
    pub allowed: &'a BTreeSet<ToolName>,
    /// The slot the tool is registered for, if it takes a token of the tree.
    pub tool_slot: Option<&'a Slot>,
    /// How many calls the tool takes.
    pub limit: Option<RateLimit>,
}

/// Proof that a node may call one tool with the token of one slot. Only [`Engine::permit`] makes one.
///
/// ```compile_fail,E0451
/// fn forge(tree: xylem_ids::TreeId, node: xylem_ids::NodeId, by: xylem_policy::By) {
///     let (slot, tool) = ("default".parse().ok(), "acme.deploy".parse().unwrap());
///     xylem_policy::Permit { tree, node, slot, tool, by, uses: vec![] };
/// }
/// ```
///
/// It is good for one call:
///
/// ```compile_fail,E0599
/// fn twice(permit: &xylem_policy::Permit) -> xylem_policy::Permit {
///     permit.clone()
/// }
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    tree: TreeId,
    node: NodeId,
    slot: Option<Slot>,
    tool: ToolName,
    by: By,
    uses: Vec<CounterKey>,
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

    /// The slot whose token may be used, if it is one of the tree's.
    #[must_use]
    pub fn slot(&self) -> Option<&Slot> {
        self.slot.as_ref()
    }

    /// The tool that may be called.
    #[must_use]
    pub fn tool(&self) -> &ToolName {
        &self.tool
    }

    /// What allowed it.
    #[must_use]
    pub fn by(&self) -> &By {
        &self.by
    }

    /// The counters that count the call, once it is granted.
    #[must_use]
    pub fn uses(&self) -> &[CounterKey] {
        &self.uses
    }
}

/// Why there is no permit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The tree was not allowed this tool.
    #[error("the tree is not allowed this tool: name it when the tree is started, or allow it")]
    ToolNotAllowed,
    /// The tool is registered for another slot.
    #[error(
        "the tool is registered for another slot, or for none: call it with that one, or without"
    )]
    OtherSlot,
    /// The tool takes no more calls at present.
    #[error("all trees together have made the calls that the tool takes: wait {} s", .0.as_secs())]
    ToolLimit(Duration),
    /// The agent that owns the tree is retired.
    #[error(
        "the agent that owns the tree is retired: `xylem tree transfer` gives it another owner"
    )]
    OwnerRetired,
    /// Showing a token takes more than a policy.
    #[error("a token is shown to whoever has signed in with a second factor: a key has none")]
    NoSecondFactor,
    /// The caller signed in too long ago.
    #[error("a token is shown within five minutes of a sign-in: sign in again")]
    SignedInTooLongAgo,
    /// The policies say so.
    #[error(transparent)]
    ByPolicy(#[from] Refused),
}

impl Denied {
    /// The stable code: it stands in audit entries and error details, and is never reused.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::ToolNotAllowed => "tool_not_allowed",
            Self::OtherSlot => "tool_of_other_slot",
            Self::ToolLimit(_) => "tool_limit_reached",
            Self::OwnerRetired => "owner_retired",
            Self::NoSecondFactor => "second_factor_required",
            Self::SignedInTooLongAgo => "sign_in_again",
            Self::ByPolicy(refused) => refused.reason.code(),
        }
    }
}

impl Denied {
    /// When the same call can succeed, where that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::ToolLimit(after) => Some(*after),
            Self::ByPolicy(refused) => refused.retry_after,
            _ => None,
        }
    }
}

impl Engine {
    /// Decides whether the node may call the tool: what the tree says and a policy, both.
    ///
    /// # Errors
    /// Says why not.
    pub fn permit(
        &self,
        call: Call<'_>,
        bounds: Bounds<'_>,
        ask: &Ask<'_>,
        facts: &Facts<'_>,
    ) -> Result<Permit, Denied> {
        if !bounds.allowed.contains(call.tool) {
            return Err(Denied::ToolNotAllowed);
        }
        if bounds.tool_slot != call.slot {
            return Err(Denied::OtherSlot);
        }
        let allowed = self.decide(ask, facts)?;
        let mut uses = allowed.uses;
        if let Some(limit) = bounds.limit {
            let key = limit.key(call.tool);
            if let Some(after) = limit.reached(facts.usage, &key, facts.now) {
                return Err(Denied::ToolLimit(after));
            }
            uses.push(key);
        }
        Ok(Permit {
            tree: call.tree.clone(),
            node: call.node.clone(),
            slot: call.slot.cloned(),
            tool: call.tool.clone(),
            by: allowed.by,
            uses,
        })
    }
}
