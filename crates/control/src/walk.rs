//! Looking at a tree: who belongs to it, what each node holds, and how that stands to the newest.

use crate::{
    plane::Plane,
    temporal::{API_TOKEN, Execution, RunStatus, TemporalError},
};
use futures::{StreamExt, stream};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::SystemTime,
};
use tokio::time::{Instant, timeout_at};
use xylem_grant::VerifiedGrant;
use xylem_ids::{
    Epoch, Namespace, Order, RunId, Serial, Slot, TaskQueue, TreeId, Version, WorkflowId,
    WorkflowType,
};
use xylem_registry::WorkflowDefinition;
use xylem_vault::{Exclusion, VaultError};

/// The most workflows one walk looks at.
pub(crate) const MOST_NODES: usize = 10_000;
/// Queries under way at a time. Each workflow gets one: Temporal buffers no more.
const QUERIES: usize = 8;
/// Rounds of asking about children that only their parents know.
const ROUNDS: usize = 16;

/// What to look at.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Look {
    pub(crate) closed_too: bool,
    pub(crate) without_queries: bool,
    /// Who has not answered by then is silent.
    pub(crate) until: Option<Instant>,
}

/// What a node answers to the `apiToken` query, as far as a walk needs it. Unknown fields are
/// ignored: nodes run other versions of the library.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Answer {
    pub(crate) tree: Option<Told>,
    pub(crate) slots: BTreeMap<Slot, Held>,
    pub(crate) children: Vec<Child>,
    pub(crate) forwards_pending: u32,
    pub(crate) rejected: BTreeMap<String, u32>,
}

/// The tree that a node takes itself to belong to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Told {
    namespace: Namespace,
    workflow_id: WorkflowId,
    first_run_id: RunId,
}

impl Told {
    fn is(&self, tree: &TreeId) -> bool {
        self.namespace == tree.namespace
            && self.workflow_id == tree.workflow_id
            && self.first_run_id == tree.first_run_id
    }
}

/// What a node holds in a slot.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Held {
    version: Option<Version>,
    epoch: Option<Epoch>,
    serial: Option<Serial>,
    adopted_at: Option<u64>,
}

impl Held {
    pub(crate) fn order(&self) -> Option<Order> {
        Some(Order {
            epoch: self.epoch?,
            version: self.version?,
            serial: self.serial?,
        })
    }

    pub(crate) fn adopted_at(&self) -> Option<u64> {
        self.adopted_at
    }
}

/// A child, as its parent knows it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Child {
    workflow_id: WorkflowId,
    #[serde(default)]
    first_run_id: Option<RunId>,
    workflow_type: WorkflowType,
    status: String,
    #[serde(default)]
    delivered: BTreeMap<Slot, Order>,
}

/// What came of asking a node.
#[derive(Debug, Clone)]
pub(crate) enum Asked {
    /// It answered.
    Answered(Box<Answer>),
    /// It is a `StatefulWorkflow`, runs, and did not answer.
    Silent(&'static str),
    /// Its start is not confirmed; this is what its parent hands it.
    Starting(BTreeMap<Slot, Order>),
    /// There was nothing to ask: it has closed, or is of a type that nobody registered.
    Not,
}

/// One workflow of a tree.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) workflow_id: WorkflowId,
    pub(crate) first_run_id: Option<RunId>,
    pub(crate) run_id: Option<RunId>,
    pub(crate) workflow_type: WorkflowType,
    pub(crate) task_queue: Option<TaskQueue>,
    pub(crate) parent: Option<WorkflowId>,
    /// None while its start is not confirmed.
    pub(crate) status: Option<RunStatus>,
    pub(crate) started_at: Option<SystemTime>,
    pub(crate) stateful: bool,
    pub(crate) transit: BTreeSet<Slot>,
    pub(crate) asked: Asked,
    pub(crate) depth: u32,
    ancestors: Vec<WorkflowId>,
}

impl Node {
    fn of(execution: Execution) -> Self {
        Self {
            parent: execution.parent.map(|(workflow_id, _)| workflow_id),
            workflow_id: execution.workflow_id,
            first_run_id: execution.first_run_id,
            run_id: Some(execution.run_id),
            workflow_type: execution.workflow_type,
            task_queue: Some(execution.task_queue),
            status: Some(execution.status),
            started_at: execution.started_at,
            stateful: false,
            transit: BTreeSet::new(),
            asked: Asked::Not,
            depth: 0,
            ancestors: Vec::new(),
        }
    }

    fn starting(child: Child, parent: &WorkflowId) -> Self {
        Self {
            workflow_id: child.workflow_id,
            first_run_id: child.first_run_id,
            run_id: None,
            workflow_type: child.workflow_type,
            task_queue: None,
            parent: Some(parent.clone()),
            status: None,
            started_at: None,
            stateful: true,
            transit: BTreeSet::new(),
            asked: Asked::Starting(child.delivered),
            depth: 0,
            ancestors: Vec::new(),
        }
    }

    /// Whether it runs, or is about to.
    pub(crate) fn is_open(&self) -> bool {
        self.status.is_none_or(RunStatus::is_open)
    }

    pub(crate) fn answer(&self) -> Option<&Answer> {
        match &self.asked {
            Asked::Answered(answer) => Some(answer),
            _ => None,
        }
    }
}

/// How a node stands to the newest of one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    Closed,
    Unselected(&'static str),
    Current,
    Behind(&'static str),
    Unknown(&'static str),
}

impl Standing {
    /// Whether a revocation has to wait for it.
    pub(crate) fn blocks(self) -> bool {
        matches!(self, Self::Behind(_) | Self::Unknown(_))
    }

    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Closed | Self::Current => "",
            Self::Unselected(reason) | Self::Behind(reason) | Self::Unknown(reason) => reason,
        }
    }
}

/// A tree, looked at once.
#[derive(Debug, Clone)]
pub(crate) struct Walk {
    pub(crate) nodes: Vec<Node>,
    pub(crate) truncated: bool,
    /// The newest of each slot when the walk began.
    pub(crate) newest: BTreeMap<Slot, Order>,
    /// The newest of each slot when the walk ended. Nobody can hold more: who does holds what the
    /// vault never issued.
    known: BTreeMap<Slot, Order>,
    exclusions: Vec<(Slot, Exclusion)>,
}

impl Walk {
    /// How a node stands to the newest of one slot.
    pub(crate) fn standing(&self, node: &Node, slot: &Slot) -> Standing {
        let Some(newest) = self.newest.get(slot) else {
            return Standing::Unselected("no_token");
        };
        if !node.is_open() {
            return Standing::Closed;
        }
        if !node.stateful {
            return Standing::Unselected("not_registered");
        }
        if self.excluded(node, slot) {
            return Standing::Unselected("excluded");
        }
        let known = self.known.get(slot).unwrap_or(newest);
        match &node.asked {
            Asked::Answered(answer) => match answer.slots.get(slot) {
                None => Standing::Unselected("not_selected"),
                Some(held) => {
                    standing_of(held.order(), (*newest, *known), "holds_older", "holds_none")
                }
            },
            Asked::Starting(delivered) => {
                let order = delivered.get(slot).copied();
                standing_of(order, (*newest, *known), "starting", "starting")
            }
            Asked::Silent(reason) => Standing::Unknown(reason),
            Asked::Not => Standing::Unknown("not_asked"),
        }
    }

    /// Whether a node holds an earlier issue of the newest version: the same token, but a grant
    /// that expires sooner. It is current all the same and blocks no revocation.
    pub(crate) fn outlived(&self, node: &Node, slot: &Slot) -> bool {
        let held = node.answer().and_then(|answer| answer.slots.get(slot));
        let held = held.and_then(Held::order);
        self.standing(node, slot) == Standing::Current && held.as_ref() < self.newest.get(slot)
    }

    /// A node's standing over all slots: the worst of them.
    pub(crate) fn worst(&self, node: &Node) -> Standing {
        if !node.is_open() {
            return Standing::Closed;
        }
        self.newest
            .keys()
            .map(|slot| self.standing(node, slot))
            .max()
            .unwrap_or(Standing::Unselected("no_token"))
    }

    /// Whether nothing of the tree runs, as far as was seen.
    pub(crate) fn is_over(&self) -> bool {
        !self.truncated && !self.nodes.iter().any(Node::is_open)
    }

    fn excluded(&self, node: &Node, slot: &Slot) -> bool {
        self.exclusions.iter().any(|(of, exclusion)| {
            of == slot && exclusion.covers(&node.workflow_id, &node.ancestors)
        })
    }

    /// Fills in who is above whom, and puts parents before their children.
    fn arrange(&mut self) {
        let parents: HashMap<_, _> = self
            .nodes
            .iter()
            .map(|node| (node.workflow_id.clone(), node.parent.clone()))
            .collect();
        for node in &mut self.nodes {
            let mut next = node.parent.clone();
            while let Some(above) = next {
                if node.ancestors.contains(&above) {
                    break;
                }
                next = parents.get(&above).cloned().flatten();
                node.ancestors.push(above);
            }
            node.depth = u32::try_from(node.ancestors.len()).unwrap_or(u32::MAX);
        }
        self.nodes
            .sort_by(|a, b| (a.depth, &a.workflow_id).cmp(&(b.depth, &b.workflow_id)));
    }
}

/// A re-issue of the same version is the same token: only epoch and version count here. What was
/// rotated while the walk went on is known at its end; more than that was signed by somebody else,
/// with a stolen key for instance, and a new issuer key takes it back.
fn standing_of(
    order: Option<Order>,
    (newest, known): (Order, Order),
    older: &'static str,
    none: &'static str,
) -> Standing {
    let token = |order: Order| (order.epoch, order.version);
    match order {
        None => Standing::Behind(none),
        Some(order) if token(order) < token(newest) => Standing::Behind(older),
        Some(order) if token(order) > token(newest.max(known)) => Standing::Behind("holds_unknown"),
        Some(_) => Standing::Current,
    }
}

impl Plane {
    /// Walks a tree.
    pub(crate) async fn walk(
        &self,
        tree: &TreeId,
        look: Look,
    ) -> Result<Walk, crate::fault::Fault> {
        let newest = self.orders(tree).await?;
        let definitions = self.registry.definitions(&tree.namespace).await?;
        let (members, truncated) = self.members(tree, look).await?;
        let mut walk = Walk {
            known: newest.clone(),
            newest,
            exclusions: self.vault.exclusions(tree).await?,
            nodes: members.into_iter().map(Node::of).collect(),
            truncated,
        };
        for node in &mut walk.nodes {
            declare(node, &definitions);
        }
        if !look.without_queries {
            self.ask_all(tree, &mut walk, &definitions, look.until)
                .await;
            walk.known = self.orders(tree).await?;
        }
        walk.arrange();
        Ok(walk)
    }

    /// The newest of each slot.
    async fn orders(&self, tree: &TreeId) -> Result<BTreeMap<Slot, Order>, VaultError> {
        let grants = self.vault.grants(tree).await?;
        let order = |grant: &VerifiedGrant| (grant.slot().clone(), grant.order());
        Ok(grants.iter().map(order).collect())
    }

    /// The workflows that Temporal lists for the tree, the root among them.
    async fn members(
        &self,
        tree: &TreeId,
        look: Look,
    ) -> Result<(Vec<Execution>, bool), TemporalError> {
        let listing = self
            .temporal
            .list(&tree.workflow_id, look.closed_too, MOST_NODES)
            .await?;
        let mut members = BTreeMap::new();
        for execution in listing.executions {
            if execution.workflow_id == tree.workflow_id
                || execution.status == RunStatus::ContinuedAsNew
                || !self.is_member(tree, &execution).await?
            {
                continue;
            }
            let newer = members
                .get(&execution.workflow_id)
                .is_none_or(|known: &Execution| known.started_at <= execution.started_at);
            if newer {
                members.insert(execution.workflow_id.clone(), execution);
            }
        }
        if let Some(root) = self.root(tree).await? {
            members.insert(root.workflow_id.clone(), root);
        }
        Ok((members.into_values().collect(), listing.truncated))
    }

    /// The root's current or last run; visibility may not have it yet.
    pub(crate) async fn root(&self, tree: &TreeId) -> Result<Option<Execution>, TemporalError> {
        let of_tree =
            |execution: &Execution| execution.first_run_id.as_ref() == Some(&tree.first_run_id);
        for run in [None, Some(&tree.first_run_id)] {
            match self.temporal.describe(&tree.workflow_id, run).await {
                Ok(found) if of_tree(&found.execution) => return Ok(Some(found.execution)),
                Ok(_) | Err(TemporalError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Whether a listed workflow is of this tree and not of another one whose root bore the same
    /// id. Where Temporal has forgotten the root's run it counts as one: its own answer decides.
    pub(crate) async fn is_member(
        &self,
        tree: &TreeId,
        execution: &Execution,
    ) -> Result<bool, TemporalError> {
        if execution.root.1 == tree.first_run_id {
            return Ok(true);
        }
        let first = match self.claims.first_run(&execution.root, execution).await {
            // A node that ends between the list and this question must not fail the walk.
            Err(TemporalError::NotFound) => None,
            answer => answer?,
        };
        Ok(first.is_none_or(|first| first == tree.first_run_id))
    }

    async fn ask_all(
        &self,
        tree: &TreeId,
        walk: &mut Walk,
        definitions: &[(TaskQueue, WorkflowDefinition)],
        until: Option<Instant>,
    ) {
        let mut answered = Vec::new();
        let mut ask = std::mem::take(&mut walk.nodes);
        for _ in 0..ROUNDS {
            if ask.is_empty() {
                break;
            }
            let round: Vec<_> = stream::iter(ask)
                .map(|node| self.ask_until(node, until))
                .buffer_unordered(QUERIES)
                .collect()
                .await;
            // A node that names another tree got into the list by its root's reused id.
            let ours = |node: &Node| {
                let named = node.answer().and_then(|answer| answer.tree.as_ref());
                named.is_none_or(|named| named.is(tree))
            };
            answered.extend(round.into_iter().filter(ours));
            ask = self.missing(&answered, definitions).await;
        }
        for mut node in ask {
            if matches!(node.asked, Asked::Not) {
                node.asked = Asked::Silent("not_asked");
            }
            answered.push(node);
        }
        walk.nodes = answered;
    }

    async fn ask_until(&self, node: Node, until: Option<Instant>) -> Node {
        let Some(until) = until else {
            return self.ask(node).await;
        };
        let mut silent = node.clone();
        silent.asked = Asked::Silent("no_answer");
        timeout_at(until, self.ask(node)).await.unwrap_or(silent)
    }

    async fn ask(&self, mut node: Node) -> Node {
        let run = node.run_id.clone();
        let (true, true, Some(run)) = (node.stateful, node.is_open(), run) else {
            return node;
        };
        let asked = self.temporal.query(&node.workflow_id, &run, API_TOKEN);
        node.asked = match asked.await.map(serde_json::from_value::<Answer>) {
            Ok(Ok(answer)) => Asked::Answered(Box::new(answer)),
            Ok(Err(_)) => Asked::Silent("answer_not_understood"),
            Err(TemporalError::NotFound) => {
                // It has closed, or gone on as another run, since it was listed.
                return self.look_again(node).await;
            }
            Err(TemporalError::NoAnswer(_)) => Asked::Silent("no_answer"),
            Err(TemporalError::Busy(_)) => Asked::Silent("temporal_busy"),
            Err(_) => Asked::Silent("temporal_unavailable"),
        };
        node
    }

    async fn look_again(&self, mut node: Node) -> Node {
        node.asked = Asked::Silent("moving");
        match self.temporal.describe(&node.workflow_id, None).await {
            Ok(now) if !now.execution.status.is_open() => {
                node.status = Some(now.execution.status);
                node.asked = Asked::Not;
            }
            Ok(now) => {
                let run = now.execution.run_id;
                let asked = self
                    .temporal
                    .query(&node.workflow_id, &run, API_TOKEN)
                    .await;
                if let Ok(Ok(answer)) = asked.map(serde_json::from_value) {
                    node.asked = Asked::Answered(Box::new(answer));
                    node.run_id = Some(run);
                }
            }
            Err(TemporalError::NotFound) => {
                node.status = Some(RunStatus::Completed);
                node.asked = Asked::Not;
            }
            Err(_) => {}
        }
        node
    }

    /// Children that their parents know and the list does not.
    async fn missing(
        &self,
        answered: &[Node],
        definitions: &[(TaskQueue, WorkflowDefinition)],
    ) -> Vec<Node> {
        let known: BTreeSet<_> = answered.iter().map(|node| &node.workflow_id).collect();
        let mut missing = Vec::new();
        for parent in answered {
            let children = parent
                .answer()
                .into_iter()
                .flat_map(|answer| &answer.children);
            for child in children.filter(|child| !known.contains(&child.workflow_id)) {
                let child = child.clone();
                if child.status == "starting" {
                    missing.push(Node::starting(child, &parent.workflow_id));
                } else if let Some(mut node) = self.find(child, &parent.workflow_id).await {
                    declare(&mut node, definitions);
                    missing.push(node);
                }
            }
        }
        missing
    }

    async fn find(&self, child: Child, parent: &WorkflowId) -> Option<Node> {
        match self.temporal.describe(&child.workflow_id, None).await {
            Ok(found) => {
                let same = found.execution.first_run_id == child.first_run_id;
                (same && found.execution.status.is_open()).then(|| Node::of(found.execution))
            }
            Err(TemporalError::NotFound) => None,
            Err(_) => {
                let mut node = Node::starting(child, parent);
                node.asked = Asked::Silent("temporal_unavailable");
                Some(node)
            }
        }
    }
}

fn declare(node: &mut Node, definitions: &[(TaskQueue, WorkflowDefinition)]) {
    let found = definitions.iter().find(|(queue, definition)| {
        node.task_queue.as_ref() == Some(queue) && definition.workflow_type == node.workflow_type
    });
    if let Some((_, definition)) = found {
        node.stateful = true;
        node.transit = definition.transit.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(version: u32, serial: u32) -> Order {
        Order {
            epoch: Epoch::FIRST,
            version: Version(version),
            serial: Serial(serial),
        }
    }

    #[test]
    fn a_reissue_does_not_make_a_node_behind() {
        let of = |held| standing_of(held, (order(2, 3), order(3, 1)), "older", "none");
        assert_eq!(of(Some(order(2, 1))), Standing::Current);
        assert_eq!(of(Some(order(3, 1))), Standing::Current);
        assert_eq!(of(Some(order(1, 9))), Standing::Behind("older"));
        assert_eq!(of(None), Standing::Behind("none"));
    }

    #[test]
    fn more_than_the_vault_knows_is_not_current() {
        let known = |known| move |held| standing_of(Some(held), (order(2, 1), known), "older", "");
        // Rotated while the walk went on, or not.
        assert_eq!(known(order(3, 1))(order(3, 2)), Standing::Current);
        let unknown = Standing::Behind("holds_unknown");
        assert_eq!(known(order(2, 1))(order(3, 1)), unknown);
        assert_eq!(known(order(3, 1))(order(u32::MAX, 1)), unknown);
        let later = Order {
            epoch: Epoch(2),
            ..order(1, 1)
        };
        assert_eq!(known(order(3, 1))(later), unknown);
        // The newest was revoked meanwhile: what the walk began with counts.
        assert_eq!(known(order(1, 1))(order(2, 1)), Standing::Current);
    }

    #[test]
    fn the_worst_standing_is_the_greatest() {
        assert!(Standing::Unknown("") > Standing::Behind(""));
        assert!(Standing::Behind("") > Standing::Current);
        assert!(Standing::Current > Standing::Unselected(""));
        assert!(Standing::Unselected("") > Standing::Closed);
    }

    #[test]
    fn an_answer_of_another_version_of_the_library_is_read() {
        let answer: Answer = serde_json::from_value(serde_json::json!({
            "protocol": 7,
            "novelty": true,
            "tree": { "namespace": "default", "workflowId": "t", "firstRunId": "r", "new": 1 },
            "slots": {
                "default": { "state": "current", "version": 2, "epoch": 1, "serial": 1 },
                "github": { "state": "missing" },
            },
            "children": [],
            "forwardsPending": 1,
            "rejected": { "stale": 3 },
        }))
        .unwrap();
        let held = |slot: &str| answer.slots[&slot.parse::<Slot>().unwrap()].order();
        assert_eq!(held("default"), Some(order(2, 1)));
        assert_eq!(held("github"), None);
        let tree = TreeId {
            namespace: "default".parse().unwrap(),
            workflow_id: "t".parse().unwrap(),
            first_run_id: "r".parse().unwrap(),
        };
        assert!(answer.tree.unwrap().is(&tree));
    }
}
