//! The state of a node beside the author's workflow: a handle that every handler shares.

use crate::{
    activity::{ChildOutcome, TakeIn},
    definition::Definition,
    header::{NODE_HEADER, NodeHeader, PROTOCOL, Slots, TREE_HEADER, TreeHeader},
    interceptor::NodeKey,
    payload,
};
use futures::future::LocalBoxFuture;
use serde::Deserialize;
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
    time::SystemTime,
};
use temporalio_common::protos::temporal::api::common::v1::Payload;
use temporalio_workflow::{WorkflowContext, WorkflowContextView};
use xylem_grant::{IssuerSet, UnixSeconds};
use xylem_ids::{RunId, Slot, TreeId, WorkflowId};
use xylem_node::{Counts, Node, Rejection, Source, Start};

/// Raw tokens that wait to be taken in; more are rejected.
const MAX_RAW: usize = 4;

/// Whether raw tokens are taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intake {
    On,
    Off,
    /// A root without a header has not asked yet.
    Unknown,
}

/// One node. Cloning it clones the handle.
#[derive(Clone)]
pub(crate) struct NodeState(Rc<RefCell<Inner>>);

/// Work that goes on beside the author's code until the run ends.
pub(crate) type Task = LocalBoxFuture<'static, ()>;

pub(crate) struct Inner {
    pub(crate) node: Node,
    pub(crate) protocol: u32,
    pub(crate) search_attribute: bool,
    pub(crate) intake: Intake,
    pub(crate) api_url: Option<String>,
    /// Slots that a call waits for, and whose grant the control plane was not asked for yet.
    pub(crate) wanted: BTreeSet<Slot>,
    pub(crate) raw: VecDeque<TakeIn>,
    /// An outage: nothing is asked or taken in until the timer has fired.
    pub(crate) backing_off: bool,
    /// Questions and intakes in a row that an outage has met.
    pub(crate) outages: u32,
    /// What the search attribute says.
    pub(crate) upserted: Vec<String>,
    pub(crate) reported: Counts,
    pub(crate) reported_at: Option<UnixSeconds>,
    /// How children ended that an earlier run had started.
    pub(crate) ends: BTreeMap<WorkflowId, (RunId, ChildOutcome)>,
    pub(crate) tasks: Vec<Task>,
    /// The author's `run` has ended.
    pub(crate) is_closing: bool,
    /// A retry or a cron run: what an earlier run did is not known here.
    pub(crate) is_again: bool,
    /// Why the run cannot be carried on by this worker.
    pub(crate) unusable: Option<String>,
    pub(crate) now: UnixSeconds,
}

impl NodeState {
    /// The node of a workflow at the beginning of a run.
    pub(crate) fn new(definition: &Definition, view: &WorkflowContextView) -> Self {
        let now = view.start_time().map_or(UnixSeconds(0), UnixSeconds::from);
        let (header, carried, unusable) = read_headers(view);
        // Decided by the start event alone: the run id is another one after a reset.
        let is_again = carried.is_none() && !view.raw().continued_from_execution_run_id.is_empty();
        let carried = carried.unwrap_or_default();
        // What an earlier run has rejected, it has reported.
        let reported = carried.carried.rejected().clone();
        let header = header.unwrap_or_else(no_header);
        let intake = match header.intake {
            None => Intake::Unknown,
            Some(true) => Intake::On,
            Some(false) => Intake::Off,
        };
        let start = Start {
            tree: header.tree.or_else(|| own_tree(view)),
            issuers: header.issuers,
            takes: match header.slots {
                Slots::Declared => definition.takes(),
                Slots::Named(slots) => slots.into_iter().collect::<BTreeSet<_>>(),
            },
            grants: header.grants,
            carried: carried.carried,
        };
        let node = Node::new(start, now);
        Self(Rc::new(RefCell::new(Inner {
            upserted: initial_search_attribute(view),
            reported,
            node,
            protocol: header.protocol,
            search_attribute: header.search_attribute,
            intake,
            api_url: carried.api_url,
            wanted: BTreeSet::new(),
            raw: VecDeque::new(),
            backing_off: false,
            outages: 0,
            reported_at: None,
            ends: BTreeMap::new(),
            tasks: Vec::new(),
            is_closing: false,
            is_again,
            unusable,
            now,
        })))
    }

    /// The node of the workflow whose code runs, if its type is a StatefulWorkflow that was
    /// registered through [`crate::Workflows`].
    pub(crate) fn of<W>(ctx: &WorkflowContext<W>) -> Option<Self> {
        ctx.context_value::<NodeKey>().map(|state| (*state).clone())
    }

    /// Looks at the node, or changes it. The borrow ends with `f`.
    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.0.borrow_mut())
    }

    /// Changes the node and lets everybody who waits look again.
    pub(crate) fn update<W, T>(
        &self,
        ctx: &WorkflowContext<W>,
        f: impl FnOnce(&mut Inner) -> T,
    ) -> T {
        let result = self.with(|inner| {
            inner.notice_time(ctx.workflow_time());
            f(inner)
        });
        ctx.state_mut(|_| ());
        result
    }

    /// Hands work to the driver: it goes on even if the author drops the future that asked for it.
    pub(crate) fn spawn<W>(&self, ctx: &WorkflowContext<W>, task: Task) {
        self.update(ctx, |inner| inner.tasks.push(task));
    }

    /// The headers of the next run: complete when nothing is pending.
    pub(crate) fn headers(&self) -> Result<Vec<(String, Payload)>, serde_json::Error> {
        self.with(|inner| {
            let node = NodeHeader {
                carried: inner.node.carry(),
                api_url: inner.api_url.clone(),
            };
            let grants = inner.node.grants().map(|g| g.as_str().to_owned()).collect();
            let tree = TreeHeader {
                // Here, and nowhere else, the number is raised to what this worker knows.
                protocol: PROTOCOL,
                ..inner.tree_header(inner.node.takes().clone(), grants)
            };
            Ok(vec![
                (TREE_HEADER.to_owned(), payload::to_json(&tree)?),
                (NODE_HEADER.to_owned(), payload::to_json(&node)?),
            ])
        })
    }
}

impl Inner {
    pub(crate) fn notice_time(&mut self, now: Option<SystemTime>) {
        if let Some(now) = now {
            self.now = now.into();
        }
    }

    /// Takes in what a signal carried.
    pub(crate) fn receive_signal(&mut self, payloads: &[Payload]) {
        let Some(text) = payload::one_string(payloads) else {
            self.node.reject(Rejection::NotAString);
            return;
        };
        if xylem_grant::UnverifiedGrant::is_grant(&text) {
            self.node.receive(&text, Source::Signal, self.now);
        } else if self.intake == Intake::Off || self.raw.len() >= MAX_RAW {
            self.node.reject(Rejection::RawToken);
        } else {
            self.raw.push_back(TakeIn::new(Slot::default_slot(), text));
        }
    }

    /// Takes note that the control plane did not answer.
    pub(crate) fn meet_outage(&mut self) {
        self.outages = self.outages.saturating_add(1);
        self.backing_off = true;
    }

    /// Takes in a grant that did not come in a signal.
    pub(crate) fn receive(&mut self, text: &str, source: Source) {
        self.node.receive(text, source, self.now);
    }

    /// Whether the control plane must be asked: about an unknown issuer key, about intake, or for
    /// the grant of a slot that a call waits for.
    pub(crate) fn has_question(&self) -> bool {
        self.node.should_ask_issuers()
            || (self.intake == Intake::Unknown && !self.raw.is_empty())
            || !self.missing().is_empty()
    }

    /// The slots that a call waits for and nobody was asked about.
    pub(crate) fn missing(&self) -> Vec<Slot> {
        let wanted = self.wanted.iter();
        let missing = wanted.filter(|slot| self.node.held(slot).is_none());
        missing.cloned().collect()
    }

    /// Takes note of the answer whether intake is on.
    pub(crate) fn set_intake(&mut self, on: bool) {
        self.intake = if on { Intake::On } else { Intake::Off };
        if !on {
            self.reject_raw();
        }
    }

    /// Refuses the raw tokens that wait. They lie in history.
    pub(crate) fn reject_raw(&mut self) {
        for _ in self.raw.drain(..) {
            self.node.reject(Rejection::RawToken);
        }
    }

    /// The header for a child, or for the next run of this node.
    pub(crate) fn tree_header(&self, takes: BTreeSet<Slot>, grants: Vec<String>) -> TreeHeader {
        TreeHeader {
            protocol: self.protocol,
            tree: self.node.tree().cloned(),
            issuers: self.node.issuers().clone(),
            slots: Slots::Named(takes.into_iter().collect()),
            grants,
            search_attribute: self.search_attribute,
            intake: match self.intake {
                Intake::On => Some(true),
                Intake::Off => Some(false),
                Intake::Unknown => None,
            },
        }
    }

    /// Rejections that the audit log has not heard of, by reason.
    pub(crate) fn unreported(&self) -> BTreeMap<String, u64> {
        let new = |(reason, count): (Rejection, u64)| {
            let fresh = count.saturating_sub(self.reported.of(reason));
            (reason.is_suspicious() && fresh > 0).then(|| (reason.to_string(), fresh))
        };
        self.node.rejected().iter().filter_map(new).collect()
    }
}

/// A root that was started by the stock CLI or another SDK knows nothing yet.
fn no_header() -> TreeHeader {
    TreeHeader {
        protocol: PROTOCOL,
        tree: None,
        issuers: IssuerSet::default(),
        slots: Slots::Declared,
        grants: Vec::new(),
        search_attribute: false,
        intake: None,
    }
}

/// The headers, and what makes them unusable. One that cannot be read is not one that is absent:
/// a node that forgot its children would leave them behind.
fn read_headers(
    view: &WorkflowContextView,
) -> (Option<TreeHeader>, Option<NodeHeader>, Option<String>) {
    let headers = &view.raw().headers;
    let tree = headers.get(TREE_HEADER).map(payload::json::<TreeHeader>);
    let node = headers.get(NODE_HEADER).map(payload::json::<NodeHeader>);
    let spoken = headers.get(TREE_HEADER).and_then(payload::json::<Spoken>);
    let unusable = match (spoken, &tree, &node) {
        (Some(Spoken { protocol }), _, _) if protocol > PROTOCOL => Some(format!(
            "the run follows protocol {protocol}, this worker knows up to {PROTOCOL}: update the \
             worker"
        )),
        (_, Some(None), _) => Some(unreadable(TREE_HEADER)),
        (_, _, Some(None)) => Some(unreadable(NODE_HEADER)),
        _ => None,
    };
    (tree.flatten(), node.flatten(), unusable)
}

/// The part of [`TreeHeader`] that every protocol has.
#[derive(Deserialize)]
struct Spoken {
    protocol: u32,
}

fn unreadable(header: &str) -> String {
    format!("the header {header} cannot be read: it was not written by this library")
}

/// The tree, where this workflow is its root.
fn own_tree(view: &WorkflowContextView) -> Option<TreeId> {
    if view.root().is_some() {
        return None;
    }
    Some(TreeId {
        namespace: view.namespace().parse().ok()?,
        workflow_id: view.workflow_id().parse().ok()?,
        first_run_id: view.first_execution_run_id().parse().ok()?,
    })
}

fn initial_search_attribute(view: &WorkflowContextView) -> Vec<String> {
    view.search_attributes()
        .and_then(|attributes| attributes.get(&crate::SEARCH_ATTRIBUTE))
        .unwrap_or_default()
}
