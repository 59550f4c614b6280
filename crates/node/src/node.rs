//! The node itself: what it holds, and how that changes.

use crate::{
    Child, ChildState, Counts, Rejection, Selection,
    child::{Delivered, Missed},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use xylem_grant::{
    IssuerPublicKey, IssuerSet, Reject, UnixSeconds, UnverifiedGrant, VerifiedGrant,
};
use xylem_ids::{KeyId, NodeId, RunId, Slot, TreeId, WorkflowId, WorkflowType};

/// How far a node's workflow time may be behind the issuer's clock.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// How long after one question about unknown issuer keys the next one may be asked: a flood of
/// forged grants must not become a flood of questions.
const ASK_INTERVAL: Duration = Duration::from_secs(60);

/// Grants that wait for the answer to such a question; more are rejected.
const MAX_WAITING: usize = 4;

/// Narrowed children, ended ones included, that a node remembers: they travel in its header.
const MAX_NARROWED: usize = 1_000;

/// Where a held grant came from. The words are part of the `apiToken` query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The header the node started with.
    Start,
    /// A signal.
    Signal,
    /// A redemption that answered with a newer grant than the one presented.
    Redemption,
    /// A raw token that was taken in.
    Intake,
    /// The answer to a question: a call waited and no grant was held.
    ControlPlane,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Held {
    pub(crate) grant: VerifiedGrant,
    pub(crate) adopted_at: UnixSeconds,
    pub(crate) source: Source,
}

/// What came of a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// It is held now, and due to the selected children.
    Adopted(Slot),
    /// It changed nothing and was counted.
    Rejected(Rejection),
    /// It is signed by a key that is not known yet and waits until [`Node::trust`] brings an
    /// answer; [`Node::should_ask_issuers`] is true now.
    Waiting,
}

/// What a node is told at its start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Start {
    /// The tree, if it is known.
    pub tree: Option<TreeId>,
    /// Whose grants it trusts.
    pub issuers: IssuerSet,
    /// The slots it takes grants for.
    pub takes: BTreeSet<Slot>,
    /// The grants it starts with, in their wire form.
    pub grants: Vec<String>,
    /// What the previous run of the node handed on.
    pub carried: Carried,
}

/// What one run of a node hands to the next when it continues as new, besides its header.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Carried {
    /// The child registry; every child in it runs.
    #[serde(default)]
    pub(crate) children: BTreeMap<WorkflowId, Child>,
    /// Rejected signals so far.
    #[serde(default)]
    pub(crate) rejected: Counts,
    /// Where each slot's grant came from, and when it was adopted.
    #[serde(default)]
    pub(crate) adopted: BTreeMap<Slot, (UnixSeconds, Source)>,
    /// See [`Node::was_narrowed`].
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) narrowed: BTreeSet<WorkflowId>,
}

impl Carried {
    /// Rejected signals of earlier runs, by reason.
    #[must_use]
    pub fn rejected(&self) -> &Counts {
        &self.rejected
    }
}

/// What goes into a child's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildStart {
    /// The slots it takes.
    pub takes: BTreeSet<Slot>,
    /// The grants selected for it.
    pub grants: Vec<VerifiedGrant>,
}

/// One node of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    pub(crate) tree: Option<TreeId>,
    pub(crate) issuers: IssuerSet,
    pub(crate) takes: BTreeSet<Slot>,
    pub(crate) held: BTreeMap<Slot, Held>,
    pub(crate) children: BTreeMap<WorkflowId, Child>,
    pub(crate) rejected: Counts,
    narrowed: BTreeSet<WorkflowId>,
    /// Grants in their wire form that wait for their issuer key.
    waiting: Vec<(String, Source)>,
    asked_at: Option<UnixSeconds>,
}

impl Node {
    /// A node at the beginning of a run, at workflow time `now`.
    ///
    /// Grants in the header were chosen by whoever started the node; they are verified like any
    /// other, and what does not verify is counted. An expired one is kept out: the first
    /// redemption or the sweep brings a newer one. What the previous run held stays held, expired
    /// or not: if it were forgotten, an older grant that has not expired could take its place.
    #[must_use]
    pub fn new(start: Start, now: UnixSeconds) -> Self {
        let mut node = Self {
            tree: start.tree,
            issuers: start.issuers,
            takes: start.takes,
            held: BTreeMap::new(),
            children: start.carried.children,
            rejected: start.carried.rejected,
            narrowed: start.carried.narrowed,
            waiting: Vec::new(),
            asked_at: None,
        };
        for text in &start.grants {
            node.take(text, Source::Start, now, &start.carried.adopted);
        }
        for child in node.children.values_mut() {
            child.inherited = true;
        }
        node
    }

    /// What the next run of this node is to be told. Complete once [`Node::is_settled`].
    #[must_use]
    pub fn carry(&self) -> Carried {
        let adopted = |(slot, held): (&Slot, &Held)| (slot.clone(), (held.adopted_at, held.source));
        Carried {
            children: self.children.clone(),
            rejected: self.rejected.clone(),
            adopted: self.held.iter().map(adopted).collect(),
            narrowed: self.narrowed.clone(),
        }
    }

    /// Takes in a grant in its wire form, at workflow time `now`.
    pub fn receive(&mut self, text: &str, source: Source, now: UnixSeconds) -> Received {
        self.take(text, source, now, &BTreeMap::new())
    }

    /// The same; a slot that was filled `earlier` is filled again as of that time.
    fn take(
        &mut self,
        text: &str,
        source: Source,
        now: UnixSeconds,
        earlier: &BTreeMap<Slot, (UnixSeconds, Source)>,
    ) -> Received {
        match UnverifiedGrant::parse(text).and_then(|grant| grant.verify(&self.issuers)) {
            Ok(grant) => {
                let known = earlier.get(grant.slot()).copied();
                let (adopted_at, source) = known.unwrap_or((now, source));
                self.adopt(grant, source, adopted_at)
            }
            Err(Reject::UnknownKey) if self.may_wait(now) => {
                self.waiting.push((text.to_owned(), source));
                Received::Waiting
            }
            Err(reject) => self.reject(reject.into()),
        }
    }

    fn may_wait(&self, now: UnixSeconds) -> bool {
        let soon = |asked: UnixSeconds| now < asked.plus(ASK_INTERVAL);
        self.waiting.len() < MAX_WAITING
            && (!self.waiting.is_empty() || !self.asked_at.is_some_and(soon))
    }

    /// Adopts a verified grant, if it is newer than what is held.
    pub fn adopt(&mut self, grant: VerifiedGrant, source: Source, now: UnixSeconds) -> Received {
        if let Err(reason) = self.admissible(&grant, now) {
            return self.reject(reason);
        }
        for key_id in &grant.claims().retires {
            if self.issuers.retire(key_id, grant.key_id()) {
                self.held.retain(|_, held| held.grant.key_id() != key_id);
            }
        }
        let slot = grant.slot().clone();
        if let Some(reason) = self
            .held
            .get(&slot)
            .and_then(|held| not_newer(&grant, held))
        {
            return self.reject(reason);
        }
        for child in self.children.values_mut() {
            child.missed = Missed::No;
        }
        self.held.insert(
            slot.clone(),
            Held {
                grant,
                adopted_at: now,
                source,
            },
        );
        Received::Adopted(slot)
    }

    fn admissible(&self, grant: &VerifiedGrant, now: UnixSeconds) -> Result<(), Rejection> {
        let claims = grant.claims();
        if self.tree.as_ref() != Some(&claims.tree) {
            Err(Rejection::OtherTree)
        } else if !self.takes.contains(&claims.slot) {
            Err(Rejection::SlotNotTaken)
        } else if claims.expires_at.plus(CLOCK_TOLERANCE) < now {
            Err(Rejection::Expired)
        } else {
            Ok(())
        }
    }

    /// Counts a signal that carried no grant, or a grant that changed nothing.
    pub fn reject(&mut self, reason: Rejection) -> Received {
        self.rejected.count(reason);
        Received::Rejected(reason)
    }

    /// Whether somebody must ask the control plane whose grants to trust: a grant waits for it.
    #[must_use]
    pub fn should_ask_issuers(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The answer to that question, or none where there was no answer; the waiting grants are
    /// decided by it.
    pub fn trust(
        &mut self,
        tree: Option<TreeId>,
        keys: impl IntoIterator<Item = IssuerPublicKey>,
        now: UnixSeconds,
    ) -> Vec<Received> {
        self.asked_at = Some(now);
        if self.tree.is_none() {
            self.tree = tree;
        }
        for key in keys {
            self.issuers.trust(key);
        }
        let waiting = std::mem::take(&mut self.waiting);
        waiting
            .into_iter()
            .map(|(text, source)| self.decide(&text, source, now))
            .collect()
    }

    fn decide(&mut self, text: &str, source: Source, now: UnixSeconds) -> Received {
        match UnverifiedGrant::parse(text).and_then(|grant| grant.verify(&self.issuers)) {
            Ok(grant) => self.adopt(grant, source, now),
            Err(reject) => self.reject(reject.into()),
        }
    }

    /// The newest grant of a slot.
    #[must_use]
    pub fn held(&self, slot: &Slot) -> Option<&VerifiedGrant> {
        self.held.get(slot).map(|held| &held.grant)
    }

    /// All held grants, one per slot.
    pub fn grants(&self) -> impl Iterator<Item = &VerifiedGrant> {
        self.held.values().map(|held| &held.grant)
    }

    /// The tree, once it is known.
    #[must_use]
    pub fn tree(&self) -> Option<&TreeId> {
        self.tree.as_ref()
    }

    /// The keys the node trusts.
    #[must_use]
    pub fn issuers(&self) -> &IssuerSet {
        &self.issuers
    }

    /// The slots the node takes grants for.
    #[must_use]
    pub fn takes(&self) -> &BTreeSet<Slot> {
        &self.takes
    }

    /// Rejected signals, by reason.
    #[must_use]
    pub fn rejected(&self) -> &Counts {
        &self.rejected
    }

    /// The children, by workflow id.
    #[must_use]
    pub fn children(&self) -> &BTreeMap<WorkflowId, Child> {
        &self.children
    }

    /// A child is about to be started. What it gets is what its type declares, narrowed to what
    /// this node takes and to the selection.
    pub fn child_starting(
        &mut self,
        id: WorkflowId,
        workflow_type: WorkflowType,
        declares: &BTreeSet<Slot>,
        selection: Selection,
    ) -> ChildStart {
        self.note_narrowed(&id, &selection);
        let mut child = Child {
            workflow_type,
            state: ChildState::Starting,
            takes: declares.intersection(&self.takes).cloned().collect(),
            selection,
            delivered: BTreeMap::new(),
            inherited: false,
            in_flight: false,
            missed: Missed::No,
        };
        let grants: Vec<_> = child.due(self.grants()).cloned().collect();
        for grant in &grants {
            child
                .delivered
                .insert(grant.slot().clone(), Delivered::of(grant));
        }
        let takes = child.takes.clone();
        self.children.insert(id, child);
        ChildStart { takes, grants }
    }

    /// The start of a child is confirmed; what was adopted meanwhile is due to it now.
    pub fn child_started(&mut self, id: &WorkflowId, first_run_id: RunId) {
        if let Some(child) = self.children.get_mut(id) {
            child.state = ChildState::Running { first_run_id };
        }
    }

    /// A workflow that bore the child's id already turned out to be a child of this node: it may
    /// hold anything, so everything is due to it.
    pub fn child_found(&mut self, id: &WorkflowId, first_run_id: RunId) {
        if let Some(child) = self.children.get_mut(id) {
            child.state = ChildState::Running { first_run_id };
            child.delivered.clear();
            child.inherited = true;
        }
    }

    /// The running children that an earlier run of this node started.
    #[must_use]
    pub fn inherited(&self) -> Vec<NodeId> {
        let inherited = self.children.iter().filter(|(_, child)| child.inherited);
        inherited
            .filter_map(|(id, child)| child.node_id(id))
            .collect()
    }

    /// A child has ended, or was never started.
    pub fn child_ended(&mut self, id: &WorkflowId, first_run_id: Option<&RunId>) {
        let same = |child: &Child| match (&child.state, first_run_id) {
            (
                ChildState::Running {
                    first_run_id: known,
                },
                Some(ended),
            ) => known == ended,
            (ChildState::Starting, None) => true,
            _ => false,
        };
        if self.children.get(id).is_some_and(same) {
            self.children.remove(id);
        }
    }

    /// Changes the selection of a child. Newly selected slots are due to it at once. The vault
    /// must have recorded what is deselected before this is called.
    pub fn select(&mut self, id: &WorkflowId, selection: Selection) {
        self.note_narrowed(id, &selection);
        if let Some(child) = self.children.get_mut(id) {
            let again = |slot: &Slot| selection.contains(slot) && !child.selection.contains(slot);
            child.delivered.retain(|slot, _| !again(slot));
            child.selection = selection;
            child.missed = Missed::No;
        }
    }

    fn note_narrowed(&mut self, id: &WorkflowId, selection: &Selection) {
        if *selection == Selection::All {
            self.narrowed.remove(id);
        } else {
            if self.narrowed.len() < MAX_NARROWED {
                self.narrowed.insert(id.clone());
            }
        }
    }

    /// Whether the last selection for a child of this id, which may have ended since, was less
    /// than everything. The vault knows exclusions by workflow id: a child that is started under
    /// the same id with more must be included again. Beyond 1,000 of them the answer is yes for
    /// every id.
    #[must_use]
    pub fn was_narrowed(&self, id: &WorkflowId) -> bool {
        self.narrowed.contains(id) || self.narrowed.len() >= MAX_NARROWED
    }

    /// Whether the run may end without losing anything: no child start is unconfirmed, nothing is
    /// in flight or due, and no grant waits for its issuer.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.waiting.is_empty() && self.children.values().all(|child| self.is_at_rest(child))
    }

    fn is_at_rest(&self, child: &Child) -> bool {
        let due = || child.due(self.grants()).next().is_some();
        !child.in_flight
            && child.state != ChildState::Starting
            && (child.missed == Missed::LeftToSweep || !due())
    }

    /// How many children a grant is due to or on its way to.
    #[must_use]
    pub fn forwards_pending(&self) -> usize {
        let pending = |child: &&Child| child.in_flight || child.due(self.grants()).next().is_some();
        self.children.values().filter(pending).count()
    }

    /// The key that signed the newest grant held, or the newest one trusted.
    #[must_use]
    pub fn issuer_key_id(&self) -> Option<&KeyId> {
        self.held
            .values()
            .max_by_key(|held| held.grant.order())
            .map(|held| held.grant.key_id())
            .or_else(|| {
                let newest = self.issuers.keys().iter().max_by_key(|key| key.generation);
                newest.map(|key| &key.key_id)
            })
    }
}

/// Why a grant does not replace the held one, if it does not.
fn not_newer(grant: &VerifiedGrant, held: &Held) -> Option<Rejection> {
    match grant.order().cmp(&held.grant.order()) {
        std::cmp::Ordering::Greater => None,
        std::cmp::Ordering::Less => Some(Rejection::Stale),
        std::cmp::Ordering::Equal if *grant == held.grant => Some(Rejection::Duplicate),
        std::cmp::Ordering::Equal => Some(Rejection::Conflict),
    }
}
