//! A rotation on its way through a tree, as the walks of the control plane see it.

use super::{
    failure::{Exit, Failure},
    output::{Output, plain, table},
    tree::wire,
};
use futures::StreamExt;
use indicatif::ProgressBar;
use serde::Serialize;
use std::time::Duration;
use tokio::time::Instant;
use xylem_client::{
    Client,
    v1::{Node, NodeState, Order, TreeView, WatchTreeRequest},
};
use xylem_ids::{Slot, WorkflowId};

/// How long to rest between two walks: each queries every node.
const INTERVAL: Duration = Duration::from_millis(500);

/// How far a rotation came.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cascade {
    /// Whether every running, selected node has adopted it.
    pub(crate) converged: bool,
    /// How long that took, or how long was waited.
    pub(crate) elapsed_ms: u64,
    /// Nodes that have adopted it.
    pub(crate) current: usize,
    /// Nodes that need nothing of this slot.
    pub(crate) unselected: usize,
    /// Nodes that have not.
    pub(crate) stragglers: Vec<Straggler>,
}

/// A node that has not adopted what was rotated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Straggler {
    /// The node.
    pub(crate) workflow_id: String,
    /// The version it holds; none where nothing or unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<u32>,
    /// Why.
    pub(crate) reason: String,
}

/// What is waited for: this version of this slot, or a newer one.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) tree: WorkflowId,
    pub(crate) slot: Slot,
    pub(crate) order: Order,
}

/// Follows the cascade until it has converged or `timeout` has passed.
pub(crate) async fn follow(
    client: &Client,
    target: &Target,
    timeout: Duration,
    output: &Output,
) -> Result<Cascade, Failure> {
    let since = Instant::now();
    let bar = output.progress("{msg} {bar:40} {pos}/{len} nodes {elapsed}");
    bar.set_message(format!("{}@{}", target.slot, target.order.version));
    let mut seen = None;
    let watched = tokio::time::timeout(timeout, watch(client, target, &bar, &mut seen)).await;
    bar.finish_and_clear();
    if let Ok(failed) = watched {
        failed?;
    }
    let Some(mut cascade) = seen else {
        return Err(Failure::new(
            Exit::Unavailable,
            format!(
                "the tree was not walked within {}",
                humantime::format_duration(timeout)
            ),
        )
        .hint("the rotation itself is done; `xylem tree show` draws the tree"));
    };
    cascade.elapsed_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(cascade)
}

async fn watch(
    client: &Client,
    target: &Target,
    bar: &ProgressBar,
    seen: &mut Option<Cascade>,
) -> Result<(), Failure> {
    let request = WatchTreeRequest {
        tree: target.tree.to_string(),
        interval: Some(wire(INTERVAL)),
        keep_watching: true,
    };
    let views = client.watch_tree(request).await?;
    futures::pin_mut!(views);
    while let Some(view) = views.next().await {
        let cascade = Cascade::of(&view?, target);
        let selected = cascade.current + cascade.stragglers.len();
        bar.set_length(selected as u64);
        bar.set_position(cascade.current as u64);
        let converged = cascade.converged;
        *seen = Some(cascade);
        if converged {
            break;
        }
    }
    Ok(())
}

impl Cascade {
    /// What one walk says about the target.
    pub(crate) fn of(view: &TreeView, target: &Target) -> Self {
        let mut cascade = Self::default();
        for node in &view.nodes {
            match stands(node, target) {
                Stand::Current => cascade.current += 1,
                Stand::Unselected => cascade.unselected += 1,
                Stand::Closed => {}
                Stand::Behind(straggler) => cascade.stragglers.push(straggler),
            }
        }
        cascade.converged = cascade.stragglers.is_empty() && !view.truncated;
        cascade
    }

    /// Says how it went.
    pub(crate) fn text(&self, target: &Target) -> String {
        let elapsed = Duration::from_millis(self.elapsed_ms);
        let elapsed = humantime::format_duration(elapsed);
        let Target { tree, slot, order } = target;
        let version = order.version;
        if self.converged {
            let nodes = count(self.current);
            return format!("{tree} has converged on {slot}@{version}: {nodes} in {elapsed}");
        }
        let mut text = format!(
            "{tree} has not converged on {slot}@{version} after {elapsed}: {} of {} behind\n\n",
            self.stragglers.len(),
            count(self.stragglers.len() + self.current),
        );
        text.push_str(&stragglers(&self.stragglers));
        text
    }
}

fn count(nodes: usize) -> String {
    match nodes {
        1 => "1 node".to_owned(),
        nodes => format!("{nodes} nodes"),
    }
}

/// The nodes that are behind, each with its reason.
pub(crate) fn stragglers(stragglers: &[Straggler]) -> String {
    let row = |straggler: &Straggler| {
        let version = straggler.version.map(|version| version.to_string());
        [
            plain(&straggler.workflow_id),
            version.unwrap_or_else(|| "-".to_owned()),
            plain(&straggler.reason),
        ]
    };
    let rows = stragglers.iter().map(row).collect();
    table(["NODE", "VERSION", "REASON"], rows)
}

enum Stand {
    Current,
    Unselected,
    Closed,
    Behind(Straggler),
}

fn stands(node: &Node, target: &Target) -> Stand {
    if !matches!(node.status.as_str(), "running" | "paused" | "") {
        return Stand::Closed;
    }
    let slot = node
        .slots
        .iter()
        .find(|slot| slot.slot == target.slot.as_str());
    let behind = |version: Option<u32>, reason: &str| {
        Stand::Behind(Straggler {
            workflow_id: node.workflow_id.clone(),
            version,
            reason: reason.to_owned(),
        })
    };
    match slot {
        None if node.state() == NodeState::Unknown => behind(None, "did not answer"),
        None => Stand::Unselected,
        Some(slot) => match slot.state() {
            NodeState::Unselected => Stand::Unselected,
            NodeState::Closed => Stand::Closed,
            NodeState::Current => Stand::Current,
            _ if slot.order.is_some_and(|order| reached(order, target.order)) => Stand::Current,
            state => {
                let version = slot.order.map(|order| order.version);
                behind(version, reason(state, &slot.reason, node))
            }
        },
    }
}

/// Newest wins, compared from first to last.
fn reached(order: Order, target: Order) -> bool {
    let key = |order: Order| (order.epoch, order.version, order.serial);
    key(order) >= key(target)
}

fn reason<'a>(state: NodeState, said: &'a str, node: &Node) -> &'a str {
    if !said.is_empty() {
        return said;
    }
    match state {
        NodeState::Unknown => "did not answer",
        _ if node.status == "paused" => "is paused",
        _ => "has not adopted it yet",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::draw;

    fn target(version: u32) -> Target {
        Target {
            tree: "train-1".parse().expect("an id"),
            slot: Slot::default_slot(),
            order: Order {
                epoch: 0,
                version,
                serial: 0,
            },
        }
    }

    #[test]
    fn selected_nodes_count_and_closed_ones_do_not() {
        let mut view = draw::tests::view();
        let mut closed = draw::tests::node("old", "train-1", 1, NodeState::Closed);
        closed.status = "completed".into();
        view.nodes.push(closed);
        let cascade = Cascade::of(&view, &target(2));
        assert_eq!((cascade.current, cascade.unselected), (3, 2));
        assert_eq!(cascade.stragglers.len(), 1);
        assert!(!cascade.converged);
    }

    #[test]
    fn a_node_that_went_on_to_a_newer_version_is_not_behind() {
        let cascade = Cascade::of(&draw::tests::view(), &target(1));
        assert!(cascade.converged, "{cascade:?}");
    }

    #[test]
    fn a_node_that_does_not_answer_is_a_straggler() {
        let mut silent = draw::tests::node("silent", "train-1", 0, NodeState::Unknown);
        silent.slots.clear();
        let view = TreeView {
            nodes: vec![silent],
            ..TreeView::default()
        };
        let cascade = Cascade::of(&view, &target(1));
        assert_eq!(cascade.stragglers[0].reason, "did not answer");
    }

    #[test]
    fn more_nodes_than_a_walk_lists_are_not_converged() {
        let view = TreeView {
            truncated: true,
            ..TreeView::default()
        };
        assert!(!Cascade::of(&view, &target(1)).converged);
    }

    #[test]
    fn stragglers_are_listed_with_their_reasons() {
        let mut cascade = Cascade::of(&draw::tests::view(), &target(2));
        cascade.elapsed_ms = 30_000;
        insta::assert_snapshot!(cascade.text(&target(2)));
    }
}
