//! Forwards: which grants go to which children next, and what came of it.

use crate::{
    Node,
    child::{Delivered, Missed},
};
use std::collections::{BTreeMap, BTreeSet};
use xylem_grant::VerifiedGrant;
use xylem_ids::{NodeId, WorkflowId};

/// By which activity a forward goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// A local activity: a constant number of history events whatever the fan-out, but bounded in
    /// time, because it holds the workflow task.
    Local,
    /// A regular activity, for the children the local one did not reach.
    Regular,
}

/// What one child is due.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Due {
    /// The child.
    pub child: NodeId,
    /// The grants, at most one per slot.
    pub grants: Vec<VerifiedGrant>,
}

/// A forward to carry out. Its children are in flight until [`Node::forwarded`] is told.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[must_use = "the children stay in flight until Node::forwarded is told the outcome"]
pub struct Plan {
    /// By which activity.
    pub stage: Stage,
    /// To whom.
    pub due: Vec<Due>,
}

/// How a forward ended; a child named in neither list has what it was due.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Outcome {
    /// Children it did not reach.
    pub undelivered: BTreeSet<WorkflowId>,
    /// Children that are known to have closed.
    pub gone: BTreeSet<WorkflowId>,
}

impl Outcome {
    /// A forward that failed as a whole.
    #[must_use]
    pub fn failed(plan: &Plan) -> Self {
        Self {
            undelivered: plan
                .due
                .iter()
                .map(|due| due.child.workflow_id.clone())
                .collect(),
            gone: BTreeSet::new(),
        }
    }
}

impl Node {
    /// The next forward of a stage, if a running child is behind and not in flight already.
    ///
    /// Grants that were overtaken while a forward was under way are never planned: only what is
    /// held now goes out, so that many rotations in a row make few forwards.
    pub fn next_forward(&mut self, stage: Stage) -> Option<Plan> {
        let wanted = match stage {
            Stage::Local => Missed::No,
            Stage::Regular => Missed::Once,
        };
        let held = &self.held;
        let mut due = Vec::new();
        for (id, child) in &mut self.children {
            if child.in_flight || child.missed != wanted {
                continue;
            }
            let Some(node) = child.node_id(id) else {
                continue;
            };
            let grants: Vec<_> = child
                .due(held.values().map(|h| &h.grant))
                .cloned()
                .collect();
            if !grants.is_empty() {
                child.in_flight = true;
                due.push(Due {
                    child: node,
                    grants,
                });
            }
        }
        (!due.is_empty()).then_some(Plan { stage, due })
    }

    /// Takes note of how a forward ended.
    pub fn forwarded(&mut self, plan: Plan, outcome: &Outcome) {
        let mut ended = BTreeMap::new();
        for due in plan.due {
            ended.insert(due.child, due.grants);
        }
        for (node, grants) in ended {
            let Some(child) = self.children.get_mut(&node.workflow_id) else {
                continue;
            };
            if child.node_id(&node.workflow_id).as_ref() != Some(&node) {
                continue; // Another child under the same id.
            }
            child.in_flight = false;
            if outcome.gone.contains(&node.workflow_id) {
                self.children.remove(&node.workflow_id);
            } else if outcome.undelivered.contains(&node.workflow_id) {
                let held = self.held.values().map(|held| &held.grant);
                let is_overtaken = child.due(held).any(|grant| !grants.contains(grant));
                child.missed = match plan.stage {
                    // What is due now has not been tried.
                    _ if is_overtaken => Missed::No,
                    Stage::Local => Missed::Once,
                    Stage::Regular => Missed::LeftToSweep,
                };
            } else {
                child.missed = Missed::No;
                for grant in &grants {
                    child
                        .delivered
                        .insert(grant.slot().clone(), Delivered::of(grant));
                }
            }
        }
    }
}
