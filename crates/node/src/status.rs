//! What a node tells of itself: the answers of the `apiToken` and `children` queries.

use crate::{Child, ChildState, Counts, Node, Rejection, Selection, Source, node::Held};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use xylem_grant::UnixSeconds;
use xylem_ids::{
    Audience, Epoch, Fingerprint, KeyId, Namespace, Order, RunId, Serial, Slot, TreeId, Version,
    WorkflowId, WorkflowType,
};

/// The answer to the `apiToken` query. There is no token in it, nor a part of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The tree; absent until a root without a header has learned it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<TreeStatus>,
    /// The issuer key trusted now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_key_id: Option<KeyId>,
    /// The protocol number the run follows.
    pub protocol: u32,
    /// What is held, by slot; slots without a token are named with the state `missing`.
    pub slots: BTreeMap<Slot, SlotStatus>,
    /// The children, those still starting included.
    pub children: Vec<ChildStatus>,
    /// Children that a grant is due to or on its way to.
    pub forwards_pending: usize,
    /// Rejected signals, by reason.
    pub rejected: Counts,
    /// Whether a raw token was signalled where intake is off: it lies in history and must be
    /// rotated at its issuer.
    pub exposed: bool,
}

/// The tree a node belongs to, spelled as the rest of the answer; grants spell it their own way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TreeStatus {
    /// Where the tree runs.
    pub namespace: Namespace,
    /// The root's workflow id.
    pub workflow_id: WorkflowId,
    /// The root's first run id.
    pub first_run_id: RunId,
}

impl From<TreeId> for TreeStatus {
    fn from(tree: TreeId) -> Self {
        Self {
            namespace: tree.namespace,
            workflow_id: tree.workflow_id,
            first_run_id: tree.first_run_id,
        }
    }
}

/// Where a slot stands at workflow time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotState {
    /// No grant is held.
    Missing,
    /// A grant is held and has not expired.
    Current,
    /// The grant held has expired; the next call redeems whatever is newest.
    Expired,
}

/// One slot of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlotStatus {
    /// Where it stands.
    pub state: SlotState,
    /// The grant held.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantStatus>,
}

/// The grant held in a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantStatus {
    /// Its version.
    pub version: Version,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its serial.
    pub serial: Serial,
    /// The token's keyed digest.
    pub fingerprint: Fingerprint,
    /// Where the token may be sent.
    pub audiences: Vec<Audience>,
    /// When the grant was issued, in seconds since 1970.
    pub issued_at: UnixSeconds,
    /// When it expires, in seconds since 1970.
    pub expires_at: UnixSeconds,
    /// When this node adopted it, in seconds since 1970.
    pub adopted_at: UnixSeconds,
    /// Where it came from.
    pub source: Source,
    /// Whether the token came in through a signal.
    pub exposed: bool,
}

/// Where a child is in its life; one that has ended is not listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChildPhase {
    /// Its start is not confirmed yet.
    Starting,
    /// It runs.
    Running,
}

/// One child, as its parent knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChildStatus {
    /// Its workflow id.
    pub workflow_id: WorkflowId,
    /// Its first run id, once its start is confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_run_id: Option<RunId>,
    /// Its workflow type.
    pub workflow_type: WorkflowType,
    /// Where it is in its life.
    pub status: ChildPhase,
    /// What its parent selects for it.
    pub selection: Selection,
    /// The version last delivered to it, by slot.
    pub delivered: BTreeMap<Slot, Order>,
}

impl Node {
    /// The answer to the `apiToken` query at workflow time `now`.
    #[must_use]
    pub fn status(&self, protocol: u32, now: UnixSeconds) -> Status {
        let slot = |slot: &Slot| (slot.clone(), slot_status(self.held.get(slot), now));
        Status {
            tree: self.tree.clone().map(TreeStatus::from),
            issuer_key_id: self.issuer_key_id().cloned(),
            protocol,
            slots: self.takes.iter().map(slot).collect(),
            children: self.child_list(),
            forwards_pending: self.forwards_pending(),
            rejected: self.rejected.clone(),
            exposed: self.rejected.of(Rejection::RawToken) > 0,
        }
    }

    /// The answer to the `children` query.
    #[must_use]
    pub fn child_list(&self) -> Vec<ChildStatus> {
        let list = self.children.iter();
        list.map(|(id, child)| child_status(id, child)).collect()
    }

    /// The values of the search attribute `XylemTokens`: `slot@version` for every slot held.
    #[must_use]
    pub fn search_attribute(&self) -> Vec<String> {
        let held = self.held.iter();
        held.map(|(slot, held)| format!("{slot}@{}", held.grant.order().version))
            .collect()
    }
}

fn slot_status(held: Option<&Held>, now: UnixSeconds) -> SlotStatus {
    let Some(held) = held else {
        return SlotStatus {
            state: SlotState::Missing,
            grant: None,
        };
    };
    let claims = held.grant.claims();
    SlotStatus {
        state: if claims.expires_at < now {
            SlotState::Expired
        } else {
            SlotState::Current
        },
        grant: Some(GrantStatus {
            version: claims.order.version,
            epoch: claims.order.epoch,
            serial: claims.order.serial,
            fingerprint: claims.fingerprint.clone(),
            audiences: claims.audiences.clone(),
            issued_at: claims.issued_at,
            expires_at: claims.expires_at,
            adopted_at: held.adopted_at,
            source: held.source,
            exposed: claims.exposed,
        }),
    }
}

fn child_status(id: &WorkflowId, child: &Child) -> ChildStatus {
    let (status, first_run_id) = match &child.state {
        ChildState::Starting => (ChildPhase::Starting, None),
        ChildState::Running { first_run_id } => (ChildPhase::Running, Some(first_run_id.clone())),
    };
    ChildStatus {
        workflow_id: id.clone(),
        first_run_id,
        workflow_type: child.workflow_type.clone(),
        status,
        selection: child.selection.clone(),
        delivered: child
            .delivered()
            .map(|(slot, order)| (slot.clone(), order))
            .collect(),
    }
}
