//! What the tests of a node share: one tree, one issuer, grants of any version.

use std::{collections::BTreeSet, sync::OnceLock, time::Duration};
use xylem_grant::{Claims, IssuerKey, IssuerSet, UnixSeconds, VerifiedGrant};
use xylem_ids::{Epoch, Order, RunId, Serial, Slot, TreeId, Version, WorkflowId, WorkflowType};
use xylem_node::{Due, Node, Outcome, Received, Selection, Source, Stage, Start};

pub(crate) const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

pub(crate) fn tree() -> TreeId {
    TreeId {
        namespace: "default".parse().expect("namespace"),
        workflow_id: "root".parse().expect("workflow id"),
        first_run_id: "run-1".parse().expect("run id"),
    }
}

pub(crate) fn slot() -> Slot {
    Slot::default_slot()
}

pub(crate) fn slots() -> BTreeSet<Slot> {
    BTreeSet::from([slot()])
}

pub(crate) fn order(version: u32, serial: u32) -> Order {
    Order {
        epoch: Epoch(1),
        version: Version(version),
        serial: Serial(serial),
    }
}

pub(crate) fn issuer() -> &'static IssuerKey {
    static KEY: OnceLock<IssuerKey> = OnceLock::new();
    KEY.get_or_init(|| IssuerKey::generate(1).expect("key"))
}

pub(crate) fn claims(version: u32) -> Claims {
    Claims {
        tree: tree(),
        slot: slot(),
        order: order(version, 1),
        issued_at: NOW,
        expires_at: NOW.plus(Duration::from_secs(3600)),
        audiences: vec!["https://api.acme.example".parse().expect("audience")],
        fingerprint: "0123456789abcdef".parse().expect("fingerprint"),
        exposed: false,
        retires: Vec::new(),
    }
}

pub(crate) fn grant(version: u32) -> VerifiedGrant {
    issuer().issue(claims(version)).expect("issued")
}

pub(crate) fn start(grants: Vec<String>) -> Start {
    Start {
        tree: Some(tree()),
        issuers: IssuerSet::new([issuer().public().clone()]),
        takes: slots(),
        grants,
        ..Start::default()
    }
}

pub(crate) fn node() -> Node {
    Node::new(start(Vec::new()), NOW)
}

pub(crate) fn held_version(node: &Node) -> Option<u32> {
    node.held(&slot()).map(|grant| grant.order().version.0)
}

pub(crate) fn child_id(name: &str) -> WorkflowId {
    name.parse().expect("workflow id")
}

pub(crate) fn child_type() -> WorkflowType {
    "Leaf".parse().expect("workflow type")
}

pub(crate) fn run(name: &str) -> RunId {
    name.parse().expect("run id")
}

pub(crate) fn receive(node: &mut Node, grant: &VerifiedGrant) -> Received {
    node.receive(grant.as_str(), Source::Signal, NOW)
}

pub(crate) fn sign(key: &IssuerKey, change: impl FnOnce(&mut Claims)) -> VerifiedGrant {
    let mut claims = claims(1);
    change(&mut claims);
    key.issue(claims).expect("issued")
}

pub(crate) fn later(seconds: u64) -> UnixSeconds {
    NOW.plus(Duration::from_secs(seconds))
}

pub(crate) fn github() -> Slot {
    "github".parse().expect("slot")
}

/// A node that holds version 1 and has one running child, `a`, which holds it too.
pub(crate) fn parent() -> Node {
    let mut node = node();
    receive(&mut node, &grant(1));
    grow(&mut node, "a", Selection::All);
    node
}

pub(crate) fn grow(node: &mut Node, name: &str, selection: Selection) {
    node.child_starting(child_id(name), child_type(), &slots(), selection);
    node.child_started(&child_id(name), run(name));
}

/// The versions planned, by child; the forward then ends as `outcome` says.
pub(crate) fn forward(node: &mut Node, stage: Stage, outcome: &Outcome) -> Vec<(String, Vec<u32>)> {
    let Some(plan) = node.next_forward(stage) else {
        return Vec::new();
    };
    let versions = |due: &Due| due.grants.iter().map(|g| g.order().version.0).collect();
    let of = |due: &Due| (due.child.workflow_id.to_string(), versions(due));
    let planned = plan.due.iter().map(of).collect();
    node.forwarded(plan, outcome);
    planned
}

pub(crate) fn undelivered(name: &str) -> Outcome {
    Outcome {
        undelivered: BTreeSet::from([child_id(name)]),
        ..Outcome::default()
    }
}

pub(crate) fn to(name: &str, version: u32) -> Vec<(String, Vec<u32>)> {
    vec![(name.to_owned(), vec![version])]
}
