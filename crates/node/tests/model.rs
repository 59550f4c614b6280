//! A bounded, exhaustive model of a parent and its children on an unreliable Temporal.
//!
//! Every interleaving of rotations, late and repeated signals, child starts, forwards that crash
//! half way and are repeated, forwards that do not reach a child, selections that change,
//! continue-as-new, retries and resets is explored within small budgets; a parent that was reset or
//! retried asks again for children that run already. The races of the design show here, not on a
//! server.

#[allow(
    dead_code,
    reason = "each of the tests that share it needs other parts of it"
)]
mod support;

use stateright::{Checker, Model, Property};
use std::{collections::BTreeSet, sync::OnceLock, time::Duration};
use support::{NOW, child_id, child_type, github, issuer, run, sign, slot, start};
use xylem_grant::VerifiedGrant;
use xylem_ids::{Slot, WorkflowId};
use xylem_node::{Node, Outcome, Plan, Selection, Source, Stage, Start};

const CHILDREN: [&str; 2] = ["a", "b"];

/// Longer than any grant is valid.
const A_DAY: Duration = Duration::from_secs(86_400);

/// A version of a slot, named by its place among the tree's slots.
type Token = (usize, u8);

fn slot_at(place: usize) -> Slot {
    match place {
        0 => slot(),
        _ => github(),
    }
}

fn grant(token: Token) -> &'static VerifiedGrant {
    static GRANTS: OnceLock<Vec<Vec<VerifiedGrant>>> = OnceLock::new();
    let of_slot = |place| {
        let version = |number| {
            sign(issuer(), |claims| {
                claims.slot = slot_at(place);
                claims.order = support::order(number, 1);
            })
        };
        (1..=4).map(version).collect()
    };
    let grants = GRANTS.get_or_init(|| (0..2).map(of_slot).collect());
    &grants[token.0][usize::from(token.1) - 1]
}

/// The version held in a slot; 0 where none is.
fn held(node: &Node, place: usize) -> u8 {
    let held = node.held(&slot_at(place));
    held.map_or(0, |grant| number(grant.order().version.0))
}

fn number(version: u32) -> u8 {
    u8::try_from(version).expect("small versions")
}

fn wire<'a>(grants: impl IntoIterator<Item = &'a VerifiedGrant>) -> Vec<String> {
    let grants = grants.into_iter();
    grants.map(|grant| grant.as_str().to_owned()).collect()
}

fn begun(takes: BTreeSet<Slot>, header: Vec<String>) -> Start {
    Start {
        takes,
        ..start(header)
    }
}

fn named(child: usize) -> WorkflowId {
    child_id(CHILDREN[child])
}

fn place_of(id: &WorkflowId) -> usize {
    let place = CHILDREN.iter().position(|name| *name == id.as_str());
    place.expect("a child of the model")
}

/// A child as Temporal sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Life {
    Absent,
    /// The parent asked for the start; the header was built then.
    Asked {
        header: Vec<String>,
    },
    Running {
        node: Box<Node>,
        header: Vec<String>,
        inbox: Vec<Token>,
        parent_knows: bool,
        /// A retry brought back its first header, which no parent hears of.
        retried: bool,
    },
    Closed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Forwarding {
    plan: Plan,
    reached: BTreeSet<WorkflowId>,
    /// The run that planned it is gone: it goes on, and nobody hears how it ended.
    orphaned: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    /// The newest version of each slot.
    newest: Vec<u8>,
    parent: Node,
    parent_inbox: Vec<Token>,
    forwards: Vec<Forwarding>,
    children: [Life; 2],
    /// The parent has asked for the start of a child that runs already, and does not know it yet.
    asked_again: [bool; 2],
    /// The parent lost its registry: children it does not ask for again are found by the sweep
    /// alone.
    parent_restarted: bool,
    /// The version of the first slot with which a forward did not reach the child.
    missed: [u8; 2],
    regressed: bool,
    budget: Budget,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Budget {
    repeats: u8,
    crashes: u8,
    misses: u8,
    closes: u8,
    retries: u8,
    restarts: u8,
    asks: u8,
    continues: u8,
    selections: u8,
    pulls: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Step {
    Rotate(usize),
    ParentReceives {
        at: usize,
        again: bool,
    },
    ChildReceives {
        child: usize,
        at: usize,
        again: bool,
    },
    StartChild(usize, Selection),
    ServerStartsChild(usize),
    ParentLearnsOfStart(usize),
    /// A parent that was reset or retried starts its children as it did before.
    AskAgain(usize),
    /// The server's answer to that, and the search that follows it.
    ParentFindsChild(usize),
    PlanForward,
    ForwardReaches {
        forward: usize,
        due: usize,
    },
    /// A worker dies: the activity runs once more from its beginning.
    ForwardCrashes(usize),
    ForwardEnds(usize),
    ChildCloses(usize),
    ChildRetries(usize),
    ChildPulls(usize, usize),
    ParentContinuesAsNew,
    /// Without a header to a point before its first signal, with one to its first start: a reset
    /// or a retry.
    ParentRestarts {
        header: bool,
    },
    Choose(usize, Selection),
    SweepChild(usize),
    SweepParent,
}

struct Cascade {
    /// How many versions each slot gets.
    versions: &'static [u8],
    budget: Budget,
    sweeps: bool,
}

impl Cascade {
    fn is_rotated(&self, world: &World) -> bool {
        world.newest == self.versions
    }
}

impl World {
    fn slots(&self) -> std::ops::Range<usize> {
        0..self.newest.len()
    }

    fn declared(&self) -> BTreeSet<Slot> {
        self.slots().map(slot_at).collect()
    }

    fn next_plan(&self) -> Option<(Plan, Node)> {
        let mut parent = self.parent.clone();
        let plan = parent
            .next_forward(Stage::Local)
            .or_else(|| parent.next_forward(Stage::Regular))?;
        Some((plan, parent))
    }

    fn child(&self, child: usize) -> Option<&Node> {
        match &self.children[child] {
            Life::Running { node, .. } => Some(node),
            _ => None,
        }
    }

    fn known(&self, child: usize) -> Option<&xylem_node::Child> {
        self.parent.children().get(&named(child))
    }

    fn is_selected(&self, child: usize, slot: usize) -> bool {
        let known = self.known(child);
        known.is_none_or(|known| known.selection().contains(&slot_at(slot)))
    }

    /// The slots that are selected for a running child and in which it is behind.
    fn behind(&self, child: usize) -> Vec<usize> {
        let Some(node) = self.child(child) else {
            return Vec::new();
        };
        let is_behind = |slot: &usize| held(node, *slot) != self.newest[*slot];
        let selected = self.slots().filter(|slot| self.is_selected(child, *slot));
        selected.filter(is_behind).collect()
    }

    fn parent_behind(&self) -> Vec<usize> {
        let is_behind = |slot: &usize| held(&self.parent, *slot) != self.newest[*slot];
        self.slots().filter(is_behind).collect()
    }

    /// Nothing is on its way any more.
    fn is_quiet(&self) -> bool {
        let quiet = |life: &Life| match life {
            Life::Absent | Life::Closed => true,
            Life::Asked { .. } => false,
            Life::Running {
                inbox,
                parent_knows,
                ..
            } => inbox.is_empty() && *parent_knows,
        };
        self.parent_inbox.is_empty()
            && self.forwards.is_empty()
            && !self.asked_again.contains(&true)
            && self.children.iter().all(quiet)
            && self.next_plan().is_none()
    }

    fn converged(&self) -> bool {
        self.parent_behind().is_empty() && (0..2).all(|child| self.behind(child).is_empty())
    }

    fn watched(&mut self, before: &World) {
        let fell = |old: &Node, new: &Node| self.slots().any(|at| held(new, at) < held(old, at));
        let mut regressed = fell(&before.parent, &self.parent);
        for child in 0..2 {
            if let (Some(old), Some(new)) = (before.child(child), self.child(child)) {
                regressed |= fell(old, new);
            }
        }
        self.regressed |= regressed;
    }

    /// What may be selected for a child.
    fn selections(&self) -> Vec<Selection> {
        let mut selections = vec![Selection::All, Selection::None];
        if self.newest.len() > 1 {
            selections.push(Selection::named([slot()]));
        }
        selections
    }
}

impl Model for Cascade {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let mut world = World {
            newest: vec![1; self.versions.len()],
            parent: support::node(),
            parent_inbox: Vec::new(),
            forwards: Vec::new(),
            children: [Life::Absent, Life::Absent],
            asked_again: [false, false],
            parent_restarted: false,
            missed: [0, 0],
            regressed: false,
            budget: self.budget,
        };
        world.parent = Node::new(begun(world.declared(), Vec::new()), NOW);
        world.parent_inbox = world.slots().map(|slot| (slot, 1)).collect();
        vec![world]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        let budget = world.budget;
        for slot in world.slots() {
            if world.newest[slot] < self.versions[slot] {
                steps.push(Step::Rotate(slot));
            }
        }
        for at in 0..world.parent_inbox.len() {
            steps.push(Step::ParentReceives { at, again: false });
            if budget.repeats > 0 {
                steps.push(Step::ParentReceives { at, again: true });
            }
        }
        if world.next_plan().is_some() {
            steps.push(Step::PlanForward);
        }
        for (forward, running) in world.forwards.iter().enumerate() {
            for (due, whom) in running.plan.due.iter().enumerate() {
                if !running.reached.contains(&whom.child.workflow_id) {
                    steps.push(Step::ForwardReaches { forward, due });
                }
            }
            if budget.crashes > 0 && !running.reached.is_empty() {
                steps.push(Step::ForwardCrashes(forward));
            }
            let all = running.reached.len() == running.plan.due.len();
            if all || running.orphaned || budget.misses > 0 {
                steps.push(Step::ForwardEnds(forward));
            }
        }
        let forwards = world.forwards.iter().any(|forward| !forward.orphaned);
        if budget.continues > 0 && world.parent.is_settled() && !forwards {
            steps.push(Step::ParentContinuesAsNew);
        }
        if budget.restarts > 0 {
            steps.push(Step::ParentRestarts { header: false });
            steps.push(Step::ParentRestarts { header: true });
        }
        for child in 0..2 {
            self.child_actions(world, child, steps);
        }
        // The sweep also finds a root that a reset has put back.
        let is_lost = |behind: Vec<usize>| !behind.is_empty() && world.is_quiet();
        if self.sweeps && self.is_rotated(world) {
            if is_lost(world.parent_behind()) {
                steps.push(Step::SweepParent);
            }
            let lost = (0..2).filter(|child| is_lost(world.behind(*child)));
            steps.extend(lost.map(Step::SweepChild));
        }
    }

    fn next_state(&self, before: &World, step: Step) -> Option<World> {
        let mut world = before.clone();
        let is_restart = matches!(step, Step::ChildRetries(_) | Step::ParentRestarts { .. });
        world.take(step);
        if !is_restart {
            world.watched(before);
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no node ever falls back", |_, world: &World| {
                !world.regressed
            }),
            Property::always(
                "what is quiet and was pushed has arrived",
                |_, world: &World| {
                    !world.is_quiet() || (0..2).all(|child| world.push_kept_its_promise(child))
                },
            ),
            Property::always(
                "only what could not be reached is left to the sweep",
                |_, world: &World| {
                    !world.is_quiet() || (0..2).all(|child| world.is_left_with_reason(child))
                },
            ),
            Property::always("a quiet parent may end its run", |_, world: &World| {
                !world.is_quiet() || world.parent.is_settled()
            }),
            Property::always(
                "a quiet parent is current or has restarted",
                |_, world: &World| {
                    !world.is_quiet() || world.parent_restarted || world.parent_behind().is_empty()
                },
            ),
            Property::eventually("the tree converges", |model: &Cascade, world: &World| {
                !model.sweeps || (model.is_rotated(world) && world.converged())
            }),
            Property::sometimes(
                "both children are current at the end",
                |model, world: &World| {
                    let runs = |child| world.child(child).is_some();
                    model.is_rotated(world) && (0..2).all(runs) && world.converged()
                },
            ),
            Property::sometimes(
                "a child that runs is asked for again",
                |model, world: &World| model.budget.asks == 0 || world.asked_again.contains(&true),
            ),
        ]
    }
}

impl Cascade {
    fn child_actions(&self, world: &World, child: usize, steps: &mut Vec<Step>) {
        let budget = world.budget;
        if world.asked_again[child] {
            steps.push(Step::ParentFindsChild(child));
        }
        if let Some(known) = world.known(child)
            && budget.selections > 0
        {
            let others = world.selections().into_iter();
            let others = others.filter(|selection| selection != known.selection());
            steps.extend(others.map(|selection| Step::Choose(child, selection)));
        }
        match &world.children[child] {
            Life::Absent => {
                // Of the starts without a grant those are enough that a second slot brings.
                if world.slots().any(|slot| held(&world.parent, slot) > 0) {
                    let mut selections = world.selections();
                    selections.truncate(if budget.selections > 0 { 3 } else { 1 });
                    let starts = selections.into_iter();
                    steps.extend(starts.map(|selection| Step::StartChild(child, selection)));
                }
            }
            Life::Asked { .. } => steps.push(Step::ServerStartsChild(child)),
            Life::Closed => {}
            Life::Running {
                inbox,
                parent_knows,
                ..
            } => {
                if !parent_knows {
                    steps.push(Step::ParentLearnsOfStart(child));
                }
                if world.known(child).is_none() && budget.asks > 0 {
                    steps.push(Step::AskAgain(child));
                }
                for at in 0..inbox.len() {
                    let receives = |again| Step::ChildReceives { child, at, again };
                    steps.push(receives(false));
                    if budget.repeats > 0 {
                        steps.push(receives(true));
                    }
                }
                if budget.closes > 0 {
                    steps.push(Step::ChildCloses(child));
                }
                if budget.retries > 0 {
                    steps.push(Step::ChildRetries(child));
                }
                if budget.pulls > 0 {
                    // What is not selected is refused.
                    let may = world.slots().filter(|slot| world.is_selected(child, *slot));
                    steps.extend(may.map(|slot| Step::ChildPulls(child, slot)));
                }
            }
        }
    }
}

impl World {
    /// A child the parent takes for current is current, unless it was put back by a retry.
    fn push_kept_its_promise(&self, child: usize) -> bool {
        let Life::Running { node, retried, .. } = &self.children[child] else {
            return true;
        };
        let Some(known) = self.known(child) else {
            return true;
        };
        let kept = |slot| {
            let delivered = known.delivered().find(|(of, _)| **of == slot_at(slot));
            let believed = delivered.map_or(0, |(_, order)| number(order.version.0));
            !self.is_selected(child, slot) || believed <= held(node, slot)
        };
        *retried || self.slots().all(kept)
    }

    /// A child that is behind its parent was missed with the very version it lacks, and has not
    /// been selected anew since.
    fn is_left_with_reason(&self, child: usize) -> bool {
        let Life::Running { node, retried, .. } = &self.children[child] else {
            return true;
        };
        let current = held(&self.parent, 0);
        *retried
            || self.known(child).is_none()
            || !self.is_selected(child, 0)
            || held(node, 0) >= current
            || self.missed[child] == current
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Rotate(slot) => {
                self.newest[slot] += 1;
                self.parent_inbox.push((slot, self.newest[slot]));
            }
            Step::ParentReceives { at, again } => {
                let token = take_from(&mut self.parent_inbox, at, again, &mut self.budget);
                receive(&mut self.parent, token);
            }
            Step::ChildReceives { child, at, again } => {
                if let Life::Running { node, inbox, .. } = &mut self.children[child] {
                    let token = take_from(inbox, at, again, &mut self.budget);
                    receive(node, token);
                }
            }
            Step::StartChild(child, selection) => self.start_child(child, selection),
            Step::ServerStartsChild(child) => self.server_starts_child(child),
            Step::ParentLearnsOfStart(child) => {
                if let Life::Running { parent_knows, .. } = &mut self.children[child] {
                    *parent_knows = true;
                    self.parent
                        .child_started(&named(child), run(CHILDREN[child]));
                }
            }
            Step::PlanForward => {
                if let Some((plan, parent)) = self.next_plan() {
                    self.parent = parent;
                    self.forwards.push(Forwarding {
                        plan,
                        reached: BTreeSet::new(),
                        orphaned: false,
                    });
                }
            }
            Step::ForwardReaches { forward, due } => self.reach(forward, due),
            Step::ForwardCrashes(forward) => {
                self.budget.crashes -= 1;
                self.forwards[forward].reached.clear();
            }
            Step::ForwardEnds(forward) => self.end_forward(forward),
            Step::SweepChild(child) => {
                let behind = self.behind(child);
                let newest = behind.into_iter().map(|slot| (slot, self.newest[slot]));
                let newest: Vec<_> = newest.collect();
                if let Life::Running { inbox, .. } = &mut self.children[child] {
                    inbox.extend(newest);
                }
            }
            Step::SweepParent => {
                for slot in self.parent_behind() {
                    self.parent_inbox.push((slot, self.newest[slot]));
                }
            }
            other => self.disturb(other),
        }
    }

    fn disturb(&mut self, step: Step) {
        match step {
            Step::ChildCloses(child) => {
                self.budget.closes -= 1;
                let (id, first) = (named(child), run(CHILDREN[child]));
                // The parent hears of both, one after the other.
                if let Life::Running {
                    parent_knows: false,
                    ..
                } = self.children[child]
                {
                    self.parent.child_started(&id, first.clone());
                }
                self.children[child] = Life::Closed;
                self.parent.child_ended(&id, Some(&first));
            }
            Step::ChildRetries(child) => {
                self.budget.retries -= 1;
                let declared = self.declared();
                if let Life::Running {
                    node,
                    header,
                    retried,
                    ..
                } = &mut self.children[child]
                {
                    **node = Node::new(begun(declared, header.clone()), NOW);
                    *retried = true;
                }
            }
            Step::ChildPulls(child, slot) => {
                self.budget.pulls -= 1;
                let newest = grant((slot, self.newest[slot])).clone();
                if let Life::Running { node, .. } = &mut self.children[child] {
                    node.adopt(newest, Source::Redemption, NOW);
                }
            }
            Step::ParentContinuesAsNew => {
                self.budget.continues -= 1;
                let again = Start {
                    carried: self.parent.carry(),
                    ..begun(self.declared(), wire(self.parent.grants()))
                };
                // So late that all it holds has expired: that must not make it fall back.
                self.parent = Node::new(again, NOW.plus(A_DAY));
            }
            Step::ParentRestarts { header } => self.restart_parent(header),
            Step::AskAgain(child) => {
                self.budget.asks -= 1;
                self.asked_again[child] = true;
                let declared = self.declared();
                self.parent
                    .child_starting(named(child), child_type(), &declared, Selection::All);
            }
            Step::ParentFindsChild(child) => {
                self.asked_again[child] = false;
                match self.children[child] {
                    Life::Running { .. } => {
                        self.parent.child_found(&named(child), run(CHILDREN[child]));
                    }
                    _ => self.parent.child_ended(&named(child), None),
                }
            }
            Step::Choose(child, selection) => {
                self.budget.selections -= 1;
                self.missed[child] = 0;
                self.parent.select(&named(child), selection);
            }
            _ => unreachable!("handled by the caller"),
        }
    }

    fn restart_parent(&mut self, header: bool) {
        self.budget.restarts -= 1;
        let first = self.slots().map(|slot| grant((slot, 1)));
        let header = if header { wire(first) } else { Vec::new() };
        self.parent = Node::new(begun(self.declared(), header), NOW);
        self.parent_restarted = true;
        self.asked_again = [false, false];
        for forwarding in &mut self.forwards {
            forwarding.orphaned = true;
        }
        for life in &mut self.children {
            match life {
                // A start that was never confirmed is never made.
                Life::Asked { .. } => *life = Life::Absent,
                Life::Running { parent_knows, .. } => *parent_knows = true,
                Life::Absent | Life::Closed => {}
            }
        }
    }

    fn start_child(&mut self, child: usize, selection: Selection) {
        if selection != Selection::All {
            self.budget.selections -= 1;
        }
        let declared = self.declared();
        let begun = self
            .parent
            .child_starting(named(child), child_type(), &declared, selection);
        self.children[child] = Life::Asked {
            header: wire(&begun.grants),
        };
    }

    fn server_starts_child(&mut self, child: usize) {
        if let Life::Asked { header } = self.children[child].clone() {
            self.children[child] = Life::Running {
                node: Box::new(Node::new(begun(self.declared(), header.clone()), NOW)),
                header,
                inbox: Vec::new(),
                parent_knows: false,
                retried: false,
            };
        }
    }

    fn reach(&mut self, forward: usize, due: usize) {
        let forwarding = &mut self.forwards[forward];
        let whom = &forwarding.plan.due[due];
        forwarding.reached.insert(whom.child.workflow_id.clone());
        let child = place_of(&whom.child.workflow_id);
        if let Life::Running { inbox, .. } = &mut self.children[child] {
            for sent in &whom.grants {
                let place = usize::from(*sent.slot() != slot());
                let token = (place, number(sent.order().version.0));
                // The request id makes a repeated signal a single one.
                if !inbox.contains(&token) {
                    inbox.push(token);
                }
            }
        }
    }

    fn end_forward(&mut self, forward: usize) {
        let ended = self.forwards.remove(forward);
        if ended.orphaned {
            return;
        }
        let mut outcome = Outcome::default();
        for due in &ended.plan.due {
            let id = &due.child.workflow_id;
            if self.children[place_of(id)] == Life::Closed {
                outcome.gone.insert(id.clone());
            } else if !ended.reached.contains(id) {
                outcome.undelivered.insert(id.clone());
                let tried = due.grants.iter().find(|grant| *grant.slot() == slot());
                let tried = tried.map_or(0, |grant| number(grant.order().version.0));
                self.missed[place_of(id)] = tried;
            }
        }
        if !outcome.undelivered.is_empty() {
            self.budget.misses = self.budget.misses.saturating_sub(1);
        }
        self.parent.forwarded(ended.plan, &outcome);
    }
}

fn take_from(inbox: &mut Vec<Token>, at: usize, again: bool, budget: &mut Budget) -> Token {
    if again {
        budget.repeats -= 1;
        inbox[at]
    } else {
        inbox.remove(at)
    }
}

fn receive(node: &mut Node, token: Token) {
    node.adopt(grant(token).clone(), Source::Signal, NOW);
}

fn explore(model: Cascade) {
    let checker = model.checker().threads(2).spawn_bfs().join();
    assert!(
        checker.unique_state_count() > 1_000,
        "the budgets explore too little"
    );
    checker.assert_properties();
}

const CALM: Budget = Budget {
    repeats: 0,
    crashes: 0,
    misses: 0,
    closes: 0,
    retries: 0,
    restarts: 0,
    asks: 0,
    continues: 0,
    selections: 0,
    pulls: 0,
};

#[test]
fn late_repeated_and_reordered_signals() {
    explore(Cascade {
        versions: &[3],
        budget: Budget { repeats: 1, ..CALM },
        sweeps: false,
    });
}

#[test]
fn children_that_are_not_reached() {
    explore(Cascade {
        versions: &[3],
        budget: Budget { misses: 2, ..CALM },
        sweeps: true,
    });
}

#[test]
fn forwards_that_crash_and_do_not_reach_children() {
    explore(Cascade {
        versions: &[2],
        budget: Budget {
            crashes: 1,
            misses: 2,
            ..CALM
        },
        sweeps: true,
    });
}

#[test]
fn children_that_close_or_retry() {
    explore(Cascade {
        versions: &[3],
        budget: Budget {
            closes: 1,
            retries: 1,
            ..CALM
        },
        sweeps: true,
    });
}

#[test]
fn parents_that_continue_or_restart() {
    explore(Cascade {
        versions: &[2],
        budget: Budget {
            continues: 2,
            restarts: 1,
            ..CALM
        },
        sweeps: true,
    });
}

#[test]
fn parents_that_ask_again_for_children_that_run_or_close() {
    explore(Cascade {
        versions: &[2],
        budget: Budget {
            restarts: 1,
            asks: 2,
            closes: 1,
            ..CALM
        },
        sweeps: true,
    });
}

#[test]
fn parents_that_ask_again_and_continue() {
    explore(Cascade {
        versions: &[2],
        budget: Budget {
            restarts: 1,
            asks: 1,
            continues: 1,
            ..CALM
        },
        sweeps: true,
    });
}

#[test]
fn selections_that_change_and_children_that_pull() {
    explore(Cascade {
        versions: &[2],
        budget: Budget {
            selections: 2,
            pulls: 1,
            continues: 1,
            ..CALM
        },
        sweeps: true,
    });
}

#[test]
fn selections_that_change_while_a_forward_crashes() {
    explore(Cascade {
        versions: &[2],
        budget: Budget {
            selections: 2,
            crashes: 1,
            misses: 2,
            ..CALM
        },
        sweeps: true,
    });
}

#[test]
fn two_slots_of_which_children_get_some() {
    explore(Cascade {
        versions: &[2, 1],
        budget: Budget {
            selections: 1,
            ..CALM
        },
        sweeps: true,
    });
}

#[test]
fn two_slots_and_a_parent_that_asks_again() {
    explore(Cascade {
        versions: &[1, 1],
        budget: Budget {
            restarts: 1,
            asks: 1,
            ..CALM
        },
        sweeps: true,
    });
}
