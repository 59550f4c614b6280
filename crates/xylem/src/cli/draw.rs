//! A tree, drawn.

use super::output::{plain, slot_at};
use std::collections::HashMap;
use xylem_client::v1::{Node, NodeSlot, NodeState, Tree, TreeState, TreeView};

/// The tree's nodes, one per line, with what each holds.
pub(crate) fn tree(view: &TreeView) -> String {
    let rows: Vec<_> = ordered(&view.nodes)
        .into_iter()
        .map(|(branch, node)| row(&branch, node))
        .collect();
    let mut lines = vec![headline(view)];
    if rows.is_empty() {
        lines.push("no workflow of this tree is running".to_owned());
    } else {
        lines.extend(aligned(&rows));
    }
    lines.push(String::new());
    lines.push(summary(view));
    lines.join("\n")
}

/// How far a tree is, in one line.
pub(crate) fn summary(view: &TreeView) -> String {
    let counts = [
        (view.current, "current"),
        (view.behind, "behind"),
        (view.unselected, "unselected"),
        (view.unknown, "unknown"),
    ];
    let counts: Vec<_> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let nodes = match view.nodes.len() {
        1 => "1 node".to_owned(),
        count => format!("{count} nodes"),
    };
    let counts = match counts.is_empty() {
        true => String::new(),
        false => format!(": {}", counts.join(", ")),
    };
    let stopped = view.tree.as_ref().map(|tree| tree.state()) == Some(TreeState::Stopped);
    let state = match (stopped, view.converged) {
        (true, _) => "stopped",
        (false, true) => "converged",
        (false, false) => "not converged",
    };
    let left_out = if view.truncated {
        "; more nodes than one walk lists"
    } else {
        ""
    };
    format!("{nodes}{counts}; {state}{left_out}")
}

/// A lifecycle state in a word.
pub(crate) fn tree_state(tree: &Tree) -> &'static str {
    match tree.state() {
        TreeState::Unspecified => "unknown",
        TreeState::Starting => "starting",
        TreeState::Active => "active",
        TreeState::Stopped => "stopped",
    }
}

/// How a node stands, in a word.
pub(crate) fn node_state(state: NodeState) -> &'static str {
    match state {
        NodeState::Unspecified => "-",
        NodeState::Current => "current",
        NodeState::Behind => "behind",
        NodeState::Unselected => "unselected",
        NodeState::Closed => "closed",
        NodeState::Unknown => "unknown",
    }
}

fn headline(view: &TreeView) -> String {
    let Some(tree) = &view.tree else {
        return String::new();
    };
    let id = tree.id.as_ref().map(|id| plain(&id.workflow_id));
    let newest: Vec<_> = tree
        .tokens
        .iter()
        .map(|token| slot_at(&token.slot, token.order))
        .collect();
    let newest = match newest.is_empty() {
        true => "no token yet: `xylem token set`".to_owned(),
        false => format!("newest {}", newest.join(" ")),
    };
    let id = id.unwrap_or_default();
    format!("tree {id}  {}  {newest}\n", tree_state(tree))
}

struct Row {
    name: String,
    workflow_type: String,
    slots: String,
    state: String,
    why: String,
}

fn row(branch: &str, node: &Node) -> Row {
    let running = node.status == "running" || node.status.is_empty();
    let state = node_state(node.state()).to_owned();
    Row {
        name: format!("{branch}{}", plain(&node.workflow_id)),
        workflow_type: plain(&node.workflow_type),
        slots: slots(node),
        state: if running { state } else { plain(&node.status) },
        why: why(node),
    }
}

fn slots(node: &Node) -> String {
    if node.slots.is_empty() {
        return "-".to_owned();
    }
    let slot = |slot: &NodeSlot| {
        let transit = if slot.transit { " (transit)" } else { "" };
        format!("{}{transit}", slot_at(&slot.slot, slot.order))
    };
    node.slots.iter().map(slot).collect::<Vec<_>>().join(" ")
}

fn why(node: &Node) -> String {
    let mut notes: Vec<_> = node
        .slots
        .iter()
        .filter(|slot| !slot.reason.is_empty())
        .map(|slot| match node.slots.len() {
            1 => plain(&slot.reason),
            _ => format!("{}: {}", plain(&slot.slot), plain(&slot.reason)),
        })
        .collect();
    if !node.stateful {
        notes.push("no StatefulWorkflow".to_owned());
    }
    match node.forwards_pending {
        0 => {}
        1 => notes.push("forwards to 1 child".to_owned()),
        children => notes.push(format!("forwards to {children} children")),
    }
    match node
        .rejected
        .values()
        .fold(0_u32, |sum, count| sum.saturating_add(*count))
    {
        0 => {}
        1 => notes.push("1 signal rejected".to_owned()),
        signals => notes.push(format!("{signals} signals rejected")),
    }
    notes.join("; ")
}

/// The nodes as they are drawn, each with the lines that lead to it. A node whose parent is not
/// in the list (closed, or left out) stands beside the root.
fn ordered(nodes: &[Node]) -> Vec<(String, &Node)> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (place, node) in nodes.iter().enumerate() {
        places.entry(&node.workflow_id).or_insert(place);
    }
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    let mut tops = Vec::new();
    for (place, node) in nodes.iter().enumerate() {
        // Parents come before their children; anything else would be a circle.
        match places.get(node.parent_workflow_id.as_str()) {
            Some(&parent) if parent < place => children[parent].push(place),
            _ => tops.push(place),
        }
    }
    // A stack instead of recursion: a chain of workflows can be long.
    let mut stack: Vec<(usize, String, String)> = tops
        .into_iter()
        .rev()
        .map(|place| (place, String::new(), String::new()))
        .collect();
    let mut drawn = Vec::with_capacity(nodes.len());
    while let Some((place, branch, below)) = stack.pop() {
        let last = children[place].len().saturating_sub(1);
        for (index, &child) in children[place].iter().enumerate().rev() {
            let (joint, rest) = if index == last {
                ("└── ", "    ")
            } else {
                ("├── ", "│   ")
            };
            stack.push((child, format!("{below}{joint}"), format!("{below}{rest}")));
        }
        drawn.push((branch, &nodes[place]));
    }
    drawn
}

fn aligned(rows: &[Row]) -> Vec<String> {
    let width = |cell: fn(&Row) -> &String| {
        let widths = rows.iter().map(|row| cell(row).chars().count());
        widths.max().unwrap_or(0)
    };
    let name = width(|row| &row.name);
    let workflow_type = width(|row| &row.workflow_type);
    let slots = width(|row| &row.slots);
    let state = width(|row| &row.state);
    rows.iter()
        .map(|row| {
            let line = format!(
                "{:name$}  {:workflow_type$}  {:slots$}  {:state$}  {}",
                row.name, row.workflow_type, row.slots, row.state, row.why
            );
            line.trim_end().to_owned()
        })
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use xylem_client::v1::{Order, TokenVersion, TreeId};

    fn order(version: u32) -> Option<Order> {
        Some(Order {
            epoch: 0,
            version,
            serial: 0,
        })
    }

    pub(crate) fn node(id: &str, parent: &str, version: u32, state: NodeState) -> Node {
        Node {
            workflow_id: id.into(),
            parent_workflow_id: parent.into(),
            workflow_type: if parent.is_empty() { "Train" } else { "Stage" }.into(),
            status: "running".into(),
            state: state.into(),
            stateful: true,
            slots: vec![NodeSlot {
                slot: "default".into(),
                order: order(version),
                state: state.into(),
                ..NodeSlot::default()
            }],
            ..Node::default()
        }
    }

    pub(crate) fn view() -> TreeView {
        let mut behind = node("stage-1-a", "stage-1", 1, NodeState::Behind);
        behind.slots[0].reason = "its parent has not delivered yet".into();
        let mut transit = node("stage-1", "train-1", 2, NodeState::Current);
        transit.slots[0].transit = true;
        transit.forwards_pending = 1;
        let mut excluded = node("stage-2", "train-1", 0, NodeState::Unselected);
        excluded.slots.clear();
        let mut plain = node("report", "train-1", 0, NodeState::Unselected);
        plain.slots.clear();
        plain.stateful = false;
        TreeView {
            tree: Some(Tree {
                id: Some(TreeId {
                    namespace: "default".into(),
                    workflow_id: "train-1".into(),
                    first_run_id: "run".into(),
                }),
                state: TreeState::Active.into(),
                tokens: vec![TokenVersion {
                    slot: "default".into(),
                    order: order(2),
                    ..TokenVersion::default()
                }],
                ..Tree::default()
            }),
            nodes: vec![
                node("train-1", "", 2, NodeState::Current),
                transit,
                excluded,
                plain,
                behind,
                node("stage-1-b", "stage-1", 2, NodeState::Current),
            ],
            current: 3,
            behind: 1,
            unselected: 2,
            ..TreeView::default()
        }
    }

    #[test]
    fn a_tree_with_everything() {
        insta::assert_snapshot!(tree(&view()));
    }

    #[test]
    fn a_tree_with_nothing() {
        insta::assert_snapshot!(tree(&TreeView {
            converged: true,
            nodes: Vec::new(),
            ..view()
        }));
    }

    #[test]
    fn a_node_without_its_parent_and_one_in_a_circle_are_drawn_once() {
        let nodes = [
            node("train-1", "", 1, NodeState::Current),
            node("orphan", "closed", 1, NodeState::Current),
            node("a", "b", 1, NodeState::Current),
            node("b", "a", 1, NodeState::Current),
            node("self", "self", 1, NodeState::Current),
        ];
        let drawn: Vec<_> = ordered(&nodes)
            .into_iter()
            .map(|(branch, node)| format!("{branch}{}", node.workflow_id))
            .collect();
        assert_eq!(drawn, ["train-1", "orphan", "a", "└── b", "self"]);
    }

    #[test]
    fn a_long_chain_is_drawn() {
        let mut nodes = vec![node("0", "", 1, NodeState::Current)];
        for depth in 1..2_000 {
            let parent = (depth - 1).to_string();
            nodes.push(node(&depth.to_string(), &parent, 1, NodeState::Current));
        }
        assert_eq!(ordered(&nodes).len(), 2_000);
    }
}
