//! What a node knows of its children.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use xylem_grant::VerifiedGrant;
use xylem_ids::{KeyId, NodeId, Order, RunId, Slot, WorkflowId, WorkflowType};

/// Which slots a parent passes to a child.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// Every slot the child takes.
    #[default]
    All,
    /// None.
    None,
    /// These, as far as the child takes them.
    Named(BTreeSet<Slot>),
    /// Every slot the child takes; these it passes on and may not redeem itself.
    Transit(BTreeSet<Slot>),
}

impl Selection {
    /// The named slots.
    pub fn named(slots: impl IntoIterator<Item = Slot>) -> Self {
        Self::Named(slots.into_iter().collect())
    }

    /// All slots, the named ones in transit.
    pub fn transit(slots: impl IntoIterator<Item = Slot>) -> Self {
        Self::Transit(slots.into_iter().collect())
    }

    /// Whether grants of the slot are passed to the child.
    #[must_use]
    pub fn contains(&self, slot: &Slot) -> bool {
        match self {
            Self::All | Self::Transit(_) => true,
            Self::None => false,
            Self::Named(slots) => slots.contains(slot),
        }
    }

    /// Whether the child itself may redeem them.
    #[must_use]
    pub fn redeems(&self, slot: &Slot) -> bool {
        match self {
            Self::Transit(slots) => !slots.contains(slot),
            _ => self.contains(slot),
        }
    }
}

/// Where a child is in its life, as its parent knows it. A child that has ended is forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChildState {
    /// Its start is asked for and not yet confirmed; it cannot be signalled.
    Starting,
    /// It runs.
    Running {
        /// Its first run id.
        first_run_id: RunId,
    },
}

/// The last grant of a slot that was delivered to a child: compared by key too, because a grant
/// that retires a stolen key may rank below what that key signed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Delivered {
    pub(crate) order: Order,
    pub(crate) key_id: KeyId,
}

impl Delivered {
    pub(crate) fn of(grant: &VerifiedGrant) -> Self {
        Self {
            order: grant.order(),
            key_id: grant.key_id().clone(),
        }
    }
}

/// One child of a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Child {
    pub(crate) workflow_type: WorkflowType,
    pub(crate) state: ChildState,
    /// What its type declares, narrowed to what this node takes.
    pub(crate) takes: BTreeSet<Slot>,
    pub(crate) selection: Selection,
    pub(crate) delivered: BTreeMap<Slot, Delivered>,
    /// Started by an earlier run of this node: its end is not delivered to this run.
    pub(crate) inherited: bool,
    /// Part of a forward that has not ended.
    #[serde(skip)]
    pub(crate) in_flight: bool,
    /// Not reached by the last forward.
    #[serde(skip)]
    pub(crate) missed: Missed,
}

/// What became of the attempts to reach a child with the current grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Missed {
    /// Nothing failed yet.
    #[default]
    No,
    /// The local activity did not reach it: the regular activity is next.
    Once,
    /// The regular activity did not reach it either: the sweep is next, or a newer grant.
    LeftToSweep,
}

impl Child {
    /// Its workflow type.
    #[must_use]
    pub fn workflow_type(&self) -> &WorkflowType {
        &self.workflow_type
    }

    /// Where it is in its life.
    #[must_use]
    pub fn state(&self) -> &ChildState {
        &self.state
    }

    /// The slots it takes grants for.
    #[must_use]
    pub fn takes(&self) -> &BTreeSet<Slot> {
        &self.takes
    }

    /// What its parent selects for it.
    #[must_use]
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// The order last delivered to it, by slot.
    pub fn delivered(&self) -> impl Iterator<Item = (&Slot, Order)> {
        self.delivered.iter().map(|(slot, d)| (slot, d.order))
    }

    /// The slots it takes and its parent selects.
    pub fn selected(&self) -> impl Iterator<Item = &Slot> {
        self.takes
            .iter()
            .filter(|slot| self.selection.contains(slot))
    }

    pub(crate) fn node_id(&self, workflow_id: &WorkflowId) -> Option<NodeId> {
        match &self.state {
            ChildState::Starting => None,
            ChildState::Running { first_run_id } => Some(NodeId {
                workflow_id: workflow_id.clone(),
                first_run_id: first_run_id.clone(),
            }),
        }
    }

    /// The held grants that are selected for it and were not delivered.
    pub(crate) fn due<'a>(
        &'a self,
        held: impl Iterator<Item = &'a VerifiedGrant> + 'a,
    ) -> impl Iterator<Item = &'a VerifiedGrant> + 'a {
        held.filter(|grant| {
            self.takes.contains(grant.slot())
                && self.selection.contains(grant.slot())
                && self.delivered.get(grant.slot()) != Some(&Delivered::of(grant))
        })
    }
}
