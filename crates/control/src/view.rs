//! A walk as it goes over the wire.

use crate::{
    convert,
    walk::{Asked, Node, Standing, Walk},
};
use std::time::SystemTime;
use xylem_grant::UnixSeconds;
use xylem_ids::Slot;
use xylem_proto::v1;

/// A tree as one walk saw it; without a walk there is nothing to see yet.
pub(crate) fn tree(record: v1::Tree, walk: Option<&Walk>, at: SystemTime) -> v1::TreeView {
    let mut view = v1::TreeView {
        tree: Some(record),
        observed_at: Some(convert::time(at)),
        ..v1::TreeView::default()
    };
    let Some(walk) = walk else {
        return view;
    };
    for node in &walk.nodes {
        let counter = match walk.worst(node) {
            Standing::Current => &mut view.current,
            Standing::Behind(_) => &mut view.behind,
            Standing::Unselected(_) => &mut view.unselected,
            Standing::Unknown(_) => &mut view.unknown,
            Standing::Closed => continue,
        };
        *counter += 1;
    }
    view.converged = view.behind == 0 && view.unknown == 0 && !walk.truncated;
    view.nodes = walk
        .nodes
        .iter()
        .map(|node| wire_node(walk, node))
        .collect();
    view.truncated = walk.truncated;
    view
}

fn wire_node(walk: &Walk, node: &Node) -> v1::Node {
    let answer = node.answer();
    let text = |id: Option<String>| id.unwrap_or_default();
    v1::Node {
        workflow_id: node.workflow_id.to_string(),
        first_run_id: text(node.first_run_id.as_ref().map(ToString::to_string)),
        run_id: text(node.run_id.as_ref().map(ToString::to_string)),
        workflow_type: node.workflow_type.to_string(),
        task_queue: text(node.task_queue.as_ref().map(ToString::to_string)),
        parent_workflow_id: text(node.parent.as_ref().map(ToString::to_string)),
        depth: node.depth,
        status: node
            .status
            .map_or("starting", |status| status.word())
            .to_owned(),
        state: state(walk.worst(node)).into(),
        slots: walk
            .newest
            .keys()
            .map(|slot| wire_slot(walk, node, slot))
            .collect(),
        forwards_pending: answer.map_or(0, |answer| answer.forwards_pending),
        rejected: answer
            .map(|answer| answer.rejected.clone().into_iter().collect())
            .unwrap_or_default(),
        stateful: node.stateful,
        started_at: node.started_at.map(convert::time),
    }
}

fn wire_slot(walk: &Walk, node: &Node, slot: &Slot) -> v1::NodeSlot {
    let standing = walk.standing(node, slot);
    let held = node.answer().and_then(|answer| answer.slots.get(slot));
    let order = match &node.asked {
        Asked::Starting(delivered) => delivered.get(slot).copied(),
        _ => held.and_then(|held| held.order()),
    };
    let adopted_at = held.and_then(|held| held.adopted_at());
    v1::NodeSlot {
        slot: slot.to_string(),
        order: order.map(convert::order),
        state: state(standing).into(),
        reason: standing.reason().to_owned(),
        adopted_at: adopted_at.map(|at| convert::seconds(UnixSeconds(at))),
        transit: node.transit.contains(slot),
    }
}

fn state(standing: Standing) -> v1::NodeState {
    match standing {
        Standing::Current => v1::NodeState::Current,
        Standing::Behind(_) => v1::NodeState::Behind,
        Standing::Unselected(_) => v1::NodeState::Unselected,
        Standing::Unknown(_) => v1::NodeState::Unknown,
        Standing::Closed => v1::NodeState::Closed,
    }
}

/// Whether there is nothing more to watch: no workflow of the tree runs.
pub(crate) fn ended(view: &v1::TreeView) -> bool {
    view.current + view.behind + view.unselected + view.unknown == 0
}
