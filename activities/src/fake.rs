//! A Temporal of the imagination, for tests of what asks it.

use crate::{
    executions::{Close, Description, Executions, Unanswered},
    ports::TaskClaims,
};
use async_trait::async_trait;
use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};
use uuid::Uuid;
use xylem_ids::{NodeId, TreeId};
use xylem_stateful::activity::ChildOutcome;

pub(crate) fn tree() -> TreeId {
    TreeId {
        namespace: "default".parse().expect("a namespace"),
        workflow_id: "train".parse().expect("an id"),
        first_run_id: "train-first".parse().expect("a run id"),
    }
}

/// A node whose first run id is its workflow id and `-first`.
pub(crate) fn node(id: &str) -> NodeId {
    NodeId {
        workflow_id: id.parse().expect("an id"),
        first_run_id: format!("{id}-first").parse().expect("a run id"),
    }
}

pub(crate) fn claims() -> TaskClaims {
    TaskClaims {
        namespace: "default".to_owned(),
        workflow_id: "parent".to_owned(),
        run_id: "run-2".to_owned(),
        workflow_type: "Train".to_owned(),
        task_queue: "queue".to_owned(),
        activity_id: "7".to_owned(),
        attempt: 1,
        local: false,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Starting,
    Closed,
    Replaced,
    Busy,
    Hanging,
}

pub(crate) type Signal = (String, String, Uuid);

#[derive(Default)]
pub(crate) struct Fake {
    states: Mutex<HashMap<String, State>>,
    described: HashMap<String, (String, (String, String))>,
    runs: HashMap<(String, String), String>,
    closes: Mutex<HashMap<(String, String), Close>>,
    signals: Mutex<Vec<Signal>>,
    hints: Mutex<Vec<String>>,
    hintless: bool,
    attempts: AtomicUsize,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

impl Fake {
    fn with(self, id: &str, state: State) -> Self {
        self.set(id, state);
        self
    }

    fn set(&self, id: &str, state: State) {
        let mut states = self.states.lock().expect("not poisoned");
        states.insert(id.to_owned(), state);
    }

    pub(crate) fn running(self, id: &str) -> Self {
        self.with(id, State::Running)
    }

    /// Takes no signal yet, but is described as running.
    pub(crate) fn starting(self, id: &str) -> Self {
        self.with(id, State::Starting)
    }

    pub(crate) fn closed(self, id: &str) -> Self {
        self.with(id, State::Closed)
    }

    /// Another workflow has taken the id, and has closed.
    pub(crate) fn replaced(self, id: &str) -> Self {
        self.with(id, State::Replaced)
    }

    /// Answers "resource exhausted" to everything.
    pub(crate) fn busy(self, id: &str) -> Self {
        self.with(id, State::Busy)
    }

    /// Never answers.
    pub(crate) fn hanging(self, id: &str) -> Self {
        self.with(id, State::Hanging)
    }

    pub(crate) fn child(mut self, id: &str, kind: &str, parent: (&str, &str)) -> Self {
        let parent = (parent.0.to_owned(), parent.1.to_owned());
        self.described
            .insert(id.to_owned(), (kind.to_owned(), parent));
        self
    }

    pub(crate) fn run(mut self, id: &str, run: &str, first: &str) -> Self {
        self.runs
            .insert((id.to_owned(), run.to_owned()), first.to_owned());
        self
    }

    pub(crate) fn close(self, id: &str, run: &str, close: Close) -> Self {
        self.set_close(id, run, close);
        self
    }

    fn set_close(&self, id: &str, run: &str, close: Close) {
        let mut closes = self.closes.lock().expect("not poisoned");
        closes.insert((id.to_owned(), run.to_owned()), close);
    }

    pub(crate) fn without_hints(mut self) -> Self {
        self.hintless = true;
        self
    }

    pub(crate) fn end(&self, id: &str, outcome: ChildOutcome) {
        self.set(id, State::Closed);
        self.set_close(id, &format!("{id}-last"), Close::Ended(outcome));
        self.hints.lock().expect("not poisoned").push(id.to_owned());
    }

    pub(crate) fn signals(&self) -> Vec<Signal> {
        self.signals.lock().expect("not poisoned").clone()
    }

    pub(crate) fn attempts(&self) -> usize {
        self.attempts.load(Ordering::SeqCst)
    }

    pub(crate) fn most_in_flight(&self) -> usize {
        self.most_in_flight.load(Ordering::SeqCst)
    }

    fn state(&self, id: &str) -> Option<State> {
        self.states.lock().expect("not poisoned").get(id).copied()
    }
}

#[async_trait]
impl Executions for Fake {
    async fn signal(
        &self,
        workflow_id: &str,
        grant: &str,
        request_id: Uuid,
        _: Duration,
    ) -> Result<(), Unanswered> {
        self.attempts.fetch_add(1, Ordering::SeqCst);
        let in_flight = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_in_flight.fetch_max(in_flight, Ordering::SeqCst);
        tokio::task::yield_now().await;
        let state = self.state(workflow_id);
        if state == Some(State::Hanging) {
            std::future::pending::<()>().await;
        }
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        match state {
            Some(State::Running) => {
                let signal = (workflow_id.to_owned(), grant.to_owned(), request_id);
                self.signals.lock().expect("not poisoned").push(signal);
                Ok(())
            }
            Some(State::Busy | State::Hanging) => Err(Unanswered::Unavailable),
            _ => Err(Unanswered::NotFound),
        }
    }

    async fn describe(
        &self,
        workflow_id: &str,
        run_id: Option<&str>,
    ) -> Result<Description, Unanswered> {
        if let Some(run_id) = run_id {
            let key = (workflow_id.to_owned(), run_id.to_owned());
            let first = self.runs.get(&key).ok_or(Unanswered::NotFound)?;
            return Ok(Description {
                is_open: false,
                run_id: run_id.to_owned(),
                first_run_id: first.clone(),
                workflow_type: "Train".to_owned(),
                parent: None,
            });
        }
        let state = match self.state(workflow_id) {
            None => return Err(Unanswered::NotFound),
            Some(State::Busy | State::Hanging) => return Err(Unanswered::Unavailable),
            Some(state) => state,
        };
        let first_run_id = match state {
            State::Replaced => "somebody-else".to_owned(),
            _ => format!("{workflow_id}-first"),
        };
        let described = self.described.get(workflow_id);
        Ok(Description {
            is_open: matches!(state, State::Running | State::Starting),
            run_id: format!("{workflow_id}-last"),
            first_run_id,
            workflow_type: described.map_or_else(|| "Deploy".to_owned(), |d| d.0.clone()),
            parent: described.map(|d| d.1.clone()),
        })
    }

    async fn close_of(&self, workflow_id: &str, run_id: &str) -> Result<Close, Unanswered> {
        let key = (workflow_id.to_owned(), run_id.to_owned());
        let closes = self.closes.lock().expect("not poisoned");
        closes.get(&key).cloned().ok_or(Unanswered::NotFound)
    }

    async fn ended_since(&self, _: &str, _: SystemTime) -> Result<Vec<String>, Unanswered> {
        if self.hintless {
            return Err(Unanswered::Unavailable);
        }
        Ok(self.hints.lock().expect("not poisoned").clone())
    }
}
