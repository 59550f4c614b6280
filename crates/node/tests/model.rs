//! A bounded, exhaustive model of a parent and its children on an unreliable Temporal.
//!
//! Every interleaving of rotations, late and repeated signals, child starts, forwards that crash
//! half way and are repeated, forwards that do not reach a child, continue-as-new, retries and
//! resets is explored within small budgets. The races of the design show here, not on a server.

#[allow(
    dead_code,
    reason = "each of the tests that share it needs other parts of it"
)]
mod support;

use stateright::{Checker, Model, Property};
use std::{collections::BTreeSet, sync::OnceLock, time::Duration};
use support::{NOW, child_id, child_type, grant, held_version, node, run, slots, start};
use xylem_grant::VerifiedGrant;
use xylem_ids::WorkflowId;
use xylem_node::{Node, Outcome, Plan, Selection, Source, Stage, Start};

const CHILDREN: [&str; 2] = ["a", "b"];

/// Longer than any grant is valid.
const A_DAY: Duration = Duration::from_secs(86_400);

fn version(number: u8) -> &'static VerifiedGrant {
    static GRANTS: OnceLock<Vec<VerifiedGrant>> = OnceLock::new();
    let grants = GRANTS.get_or_init(|| (1..=4).map(grant).collect());
    &grants[usize::from(number) - 1]
}

/// A child as Temporal sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Life {
    Absent,
    /// The parent asked for the start; the header was built then.
    Asked {
        header: Vec<String>,
        takes: BTreeSet<xylem_ids::Slot>,
    },
    Running {
        node: Box<Node>,
        header: Vec<String>,
        inbox: Vec<u8>,
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
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    rotations: u8,
    parent: Node,
    parent_inbox: Vec<u8>,
    forwards: Vec<Forwarding>,
    children: [Life; 2],
    /// The parent lost its registry: its children are found by the sweep alone.
    parent_was_reset: bool,
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
    resets: u8,
    continues: u8,
    selections: u8,
    pulls: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Step {
    Rotate,
    ParentReceives {
        at: usize,
        again: bool,
    },
    ChildReceives {
        child: usize,
        at: usize,
        again: bool,
    },
    StartChild(usize),
    ServerStartsChild(usize),
    ParentLearnsOfStart(usize),
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
    ChildPulls(usize),
    ParentContinuesAsNew,
    ParentIsReset,
    Deselect(usize),
    Select(usize),
    Sweep(usize),
}

struct Cascade {
    rotations: u8,
    budget: Budget,
    sweeps: bool,
}

impl World {
    fn next_plan(&self) -> Option<(Plan, Node)> {
        let mut parent = self.parent.clone();
        let plan = parent
            .next_forward(Stage::Local)
            .or_else(|| parent.next_forward(Stage::Regular))?;
        Some((plan, parent))
    }

    fn newest(&self) -> u8 {
        self.rotations
    }

    fn child(&self, index: usize) -> Option<&Node> {
        match &self.children[index] {
            Life::Running { node, .. } => Some(node),
            _ => None,
        }
    }

    fn is_selected(&self, index: usize) -> bool {
        let id = child_id(CHILDREN[index]);
        let known = self.parent.children().get(&id);
        known.is_none_or(|child| child.selection().contains(&support::slot()))
    }

    fn is_behind(&self, index: usize) -> bool {
        self.child(index)
            .is_some_and(|node| held_version(node) != Some(u32::from(self.newest())))
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
            && self.next_plan().is_none()
            && self.children.iter().all(quiet)
    }

    fn converged(&self) -> bool {
        held_version(&self.parent) == Some(u32::from(self.newest()))
            && (0..2).all(|index| !self.is_behind(index) || !self.is_selected(index))
    }

    fn watched(&mut self, before: &World) {
        let fell = |old: Option<u32>, new: Option<u32>| new < old;
        self.regressed |= fell(held_version(&before.parent), held_version(&self.parent));
        for index in 0..2 {
            if let (Some(old), Some(new)) = (before.child(index), self.child(index)) {
                self.regressed |= fell(held_version(old), held_version(new));
            }
        }
    }
}

impl Model for Cascade {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            rotations: 1,
            parent: node(),
            parent_inbox: vec![1],
            forwards: Vec::new(),
            children: [Life::Absent, Life::Absent],
            parent_was_reset: false,
            regressed: false,
            budget: self.budget,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        let budget = world.budget;
        if world.rotations < self.rotations {
            steps.push(Step::Rotate);
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
            if all || budget.misses > 0 {
                steps.push(Step::ForwardEnds(forward));
            }
        }
        if budget.continues > 0 && world.parent.is_settled() && world.forwards.is_empty() {
            steps.push(Step::ParentContinuesAsNew);
        }
        if budget.resets > 0 {
            steps.push(Step::ParentIsReset);
        }
        for child in 0..2 {
            self.child_actions(world, child, steps);
        }
    }

    fn next_state(&self, before: &World, step: Step) -> Option<World> {
        let mut world = before.clone();
        let is_restart = matches!(step, Step::ChildRetries(_) | Step::ParentIsReset);
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
                    !world.is_quiet() || (0..2).all(|index| world.push_kept_its_promise(index))
                },
            ),
            Property::always(
                "a quiet parent is current or was reset",
                |_, world: &World| {
                    !world.is_quiet()
                        || world.parent_was_reset
                        || held_version(&world.parent) == Some(u32::from(world.newest()))
                },
            ),
            Property::eventually("the tree converges", |model: &Cascade, world: &World| {
                !model.sweeps || (world.rotations == model.rotations && world.converged())
            }),
            Property::sometimes(
                "both children are current at the end",
                |model, world: &World| {
                    world.rotations == model.rotations
                        && (0..2)
                            .all(|index| world.child(index).is_some() && !world.is_behind(index))
                },
            ),
        ]
    }
}

impl Cascade {
    fn child_actions(&self, world: &World, child: usize, steps: &mut Vec<Step>) {
        let budget = world.budget;
        match &world.children[child] {
            Life::Absent => {
                if held_version(&world.parent).is_some() {
                    steps.push(Step::StartChild(child));
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
                for at in 0..inbox.len() {
                    let receives = |again| Step::ChildReceives { child, at, again };
                    steps.push(receives(false));
                    if budget.repeats > 0 {
                        steps.push(receives(true));
                    }
                }
                let known = world
                    .parent
                    .children()
                    .contains_key(&child_id(CHILDREN[child]));
                let spends = [
                    (budget.closes, Step::ChildCloses(child)),
                    (budget.retries, Step::ChildRetries(child)),
                    (budget.pulls, Step::ChildPulls(child)),
                ];
                steps.extend(
                    spends
                        .into_iter()
                        .filter(|(left, _)| *left > 0)
                        .map(|(_, s)| s),
                );
                if known && *parent_knows && budget.selections > 0 {
                    steps.push(if world.is_selected(child) {
                        Step::Deselect(child)
                    } else {
                        Step::Select(child)
                    });
                }
                let lost = world.is_quiet() && world.is_behind(child) && world.is_selected(child);
                if self.sweeps && lost && world.rotations == self.rotations {
                    steps.push(Step::Sweep(child));
                }
            }
        }
        // The sweep also finds a root that a reset has put back.
        let parent_lost =
            world.is_quiet() && held_version(&world.parent) != Some(u32::from(world.newest()));
        if child == 0 && self.sweeps && parent_lost {
            steps.push(Step::Sweep(2));
        }
    }
}

impl World {
    /// A child the parent takes for current is current, unless it was put back by a retry.
    fn push_kept_its_promise(&self, index: usize) -> bool {
        let Life::Running { node, retried, .. } = &self.children[index] else {
            return true;
        };
        let Some(known) = self.parent.children().get(&child_id(CHILDREN[index])) else {
            return true;
        };
        let believed = known.delivered().map(|(_, order)| order.version.0).max();
        *retried || !self.is_selected(index) || believed <= held_version(node)
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Rotate => {
                self.rotations += 1;
                self.parent_inbox.push(self.rotations);
            }
            Step::ParentReceives { at, again } => {
                let number = take_from(&mut self.parent_inbox, at, again, &mut self.budget);
                receive(&mut self.parent, number);
            }
            Step::ChildReceives { child, at, again } => {
                if let Life::Running { node, inbox, .. } = &mut self.children[child] {
                    let number = take_from(inbox, at, again, &mut self.budget);
                    receive(node, number);
                }
            }
            Step::StartChild(child) => self.start_child(child),
            Step::ServerStartsChild(child) => self.server_starts_child(child),
            Step::ParentLearnsOfStart(child) => {
                if let Life::Running { parent_knows, .. } = &mut self.children[child] {
                    *parent_knows = true;
                    let id = child_id(CHILDREN[child]);
                    self.parent.child_started(&id, run(CHILDREN[child]));
                }
            }
            Step::PlanForward => {
                if let Some((plan, parent)) = self.next_plan() {
                    self.parent = parent;
                    self.forwards.push(Forwarding {
                        plan,
                        reached: BTreeSet::new(),
                    });
                }
            }
            Step::ForwardReaches { forward, due } => self.reach(forward, due),
            Step::ForwardCrashes(forward) => {
                self.budget.crashes -= 1;
                self.forwards[forward].reached.clear();
            }
            Step::ForwardEnds(forward) => self.end_forward(forward),
            Step::Sweep(child) => self.sweep(child),
            other => self.disturb(other),
        }
    }

    fn disturb(&mut self, step: Step) {
        match step {
            Step::ChildCloses(child) => {
                self.budget.closes -= 1;
                self.children[child] = Life::Closed;
                let first = run(CHILDREN[child]);
                self.parent
                    .child_ended(&child_id(CHILDREN[child]), Some(&first));
            }
            Step::ChildRetries(child) => {
                self.budget.retries -= 1;
                if let Life::Running {
                    node,
                    header,
                    retried,
                    ..
                } = &mut self.children[child]
                {
                    **node = Node::new(start(header.clone()), NOW);
                    *retried = true;
                }
            }
            Step::ChildPulls(child) => {
                self.budget.pulls -= 1;
                let newest = version(self.rotations).clone();
                if let Life::Running { node, .. } = &mut self.children[child] {
                    node.adopt(newest, Source::Redemption, NOW);
                }
            }
            Step::ParentContinuesAsNew => {
                self.budget.continues -= 1;
                let grants = self
                    .parent
                    .grants()
                    .map(|g| g.as_str().to_owned())
                    .collect();
                let carried = self.parent.carry();
                let again = Start {
                    carried,
                    ..start(grants)
                };
                // So late that all it holds has expired: that must not make it fall back.
                self.parent = Node::new(again, NOW.plus(A_DAY));
            }
            Step::ParentIsReset => {
                self.budget.resets -= 1;
                self.parent = node();
                self.forwards.clear();
                self.parent_was_reset = true;
                for life in &mut self.children {
                    match life {
                        // A start that was never confirmed is never made.
                        Life::Asked { .. } => *life = Life::Absent,
                        Life::Running { parent_knows, .. } => *parent_knows = true,
                        Life::Absent | Life::Closed => {}
                    }
                }
            }
            Step::Deselect(child) => self.choose(child, Selection::None),
            Step::Select(child) => self.choose(child, Selection::All),
            _ => unreachable!("handled by the caller"),
        }
    }

    fn choose(&mut self, child: usize, selection: Selection) {
        self.budget.selections -= 1;
        self.parent.select(&child_id(CHILDREN[child]), selection);
    }

    fn start_child(&mut self, child: usize) {
        let id = child_id(CHILDREN[child]);
        let begun = self
            .parent
            .child_starting(id, child_type(), &slots(), Selection::All);
        let header = begun.grants.iter().map(|g| g.as_str().to_owned()).collect();
        self.children[child] = Life::Asked {
            header,
            takes: begun.takes,
        };
    }

    fn server_starts_child(&mut self, child: usize) {
        if let Life::Asked { header, takes } = self.children[child].clone() {
            let told = Start {
                takes,
                ..start(header.clone())
            };
            self.children[child] = Life::Running {
                node: Box::new(Node::new(told, NOW)),
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
        let index = CHILDREN
            .iter()
            .position(|name| *name == whom.child.workflow_id.as_str());
        if let Some(Life::Running { inbox, .. }) = index.map(|i| &mut self.children[i]) {
            for sent in &whom.grants {
                let number = u8::try_from(sent.order().version.0).expect("small versions");
                // The request id makes a repeated signal a single one.
                if !inbox.contains(&number) {
                    inbox.push(number);
                }
            }
        }
    }

    fn end_forward(&mut self, forward: usize) {
        let Forwarding { plan, reached } = self.forwards.remove(forward);
        let mut outcome = Outcome::default();
        for due in &plan.due {
            let id = &due.child.workflow_id;
            let index = CHILDREN.iter().position(|name| *name == id.as_str());
            if index.is_some_and(|i| self.children[i] == Life::Closed) {
                outcome.gone.insert(id.clone());
            } else if !reached.contains(id) {
                outcome.undelivered.insert(id.clone());
            }
        }
        if !outcome.undelivered.is_empty() {
            self.budget.misses = self.budget.misses.saturating_sub(1);
        }
        self.parent.forwarded(plan, &outcome);
    }

    fn sweep(&mut self, child: usize) {
        let newest = self.rotations;
        match self.children.get_mut(child) {
            Some(Life::Running { inbox, .. }) => inbox.push(newest),
            Some(_) => {}
            None => self.parent_inbox.push(newest),
        }
    }
}

fn take_from(inbox: &mut Vec<u8>, at: usize, again: bool, budget: &mut Budget) -> u8 {
    if again {
        budget.repeats -= 1;
        inbox[at]
    } else {
        inbox.remove(at)
    }
}

fn receive(node: &mut Node, number: u8) {
    node.adopt(version(number).clone(), Source::Signal, NOW);
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
    resets: 0,
    continues: 0,
    selections: 0,
    pulls: 0,
};

#[test]
fn late_repeated_and_reordered_signals() {
    explore(Cascade {
        rotations: 3,
        budget: Budget { repeats: 1, ..CALM },
        sweeps: false,
    });
}

#[test]
fn crashes_and_children_that_are_not_reached() {
    explore(Cascade {
        rotations: 2,
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
        rotations: 2,
        budget: Budget {
            closes: 1,
            retries: 1,
            ..CALM
        },
        sweeps: true,
    });
}

#[test]
fn parents_that_continue_or_are_reset() {
    explore(Cascade {
        rotations: 2,
        budget: Budget {
            continues: 2,
            resets: 1,
            ..CALM
        },
        sweeps: true,
    });
}

#[test]
fn selections_that_change_and_children_that_pull() {
    explore(Cascade {
        rotations: 2,
        budget: Budget {
            selections: 2,
            pulls: 1,
            continues: 1,
            ..CALM
        },
        sweeps: true,
    });
}
