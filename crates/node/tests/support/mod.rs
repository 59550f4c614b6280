//! What the tests of a node share: one tree, one issuer, grants of any version.

use std::{collections::BTreeSet, sync::OnceLock, time::Duration};
use xylem_grant::{Claims, IssuerKey, IssuerSet, UnixSeconds, VerifiedGrant};
use xylem_ids::{Epoch, Order, RunId, Serial, Slot, TreeId, Version, WorkflowId, WorkflowType};
use xylem_node::{Node, Start};

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
