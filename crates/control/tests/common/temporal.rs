//! A Temporal in memory: workflows that adopt what they are signalled and forward it to their
//! children, unless they are told not to.

use async_trait::async_trait;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};
use tokio::sync::watch;
use tonic::Status;
use xylem_control::temporal::{
    Description, Execution, Listing, PendingActivity, RunStatus, Signal, StartWorkflow, Stop,
    Temporal, TemporalError,
};
use xylem_ids::{RunId, WorkflowId};

/// What a test makes a workflow do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mood {
    /// Adopts and forwards.
    #[default]
    Good,
    /// Takes signals and adopts nothing.
    Deaf,
    /// Does not answer queries.
    Silent,
    /// Never ends a query, with an answer or without.
    Frozen,
    /// Adopts and does not forward.
    Lonely,
    /// Ignores cancellation.
    Stubborn,
}

#[derive(Debug, Clone)]
struct Workflow {
    execution: Execution,
    start_requests: Vec<String>,
    activities: Vec<PendingActivity>,
    mood: Mood,
    slots: BTreeMap<String, Value>,
    listed: bool,
    /// Not on the lists up to this one.
    listed_after: u32,
    /// Selected by its parent.
    selected: bool,
}

#[derive(Default)]
struct State {
    workflows: BTreeMap<WorkflowId, Workflow>,
    closed: Vec<Workflow>,
    starts: Vec<StartWorkflow>,
    signals: Vec<(WorkflowId, String)>,
    requests: BTreeSet<(WorkflowId, String)>,
    down: bool,
    lose_answers: bool,
    truncates: bool,
    search_attribute: bool,
    /// How often it was looked for.
    looks: usize,
    runs: u32,
    lists: u32,
    /// Children that their parents have not seen start.
    unconfirmed: BTreeSet<WorkflowId>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct FakeTemporal(Mutex<State>, watch::Sender<bool>);

impl FakeTemporal {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often the search attribute was looked for, and whether it is registered.
    pub(crate) fn search_attribute(&self) -> (usize, bool) {
        let state = self.state();
        (state.looks, state.search_attribute)
    }

    /// Whether signals wait.
    pub(crate) fn hold_signals(&self, hold: bool) {
        self.1.send_replace(hold);
    }

    /// Signals that wait.
    pub(crate) fn held_signals(&self) -> usize {
        self.1.receiver_count()
    }

    /// Whether calls fail as if nobody were there.
    pub(crate) fn down(&self, down: bool) {
        self.state().down = down;
    }

    /// Whether starts happen and their answers are lost.
    pub(crate) fn lose_answers(&self, lose: bool) {
        self.state().lose_answers = lose;
    }

    /// Whether lists claim that there are more workflows than fit.
    pub(crate) fn truncate(&self, truncates: bool) {
        self.state().truncates = truncates;
    }

    pub(crate) fn mood(&self, workflow_id: &str, mood: Mood) {
        self.change(workflow_id, |workflow| workflow.mood = mood);
    }

    pub(crate) fn unselect(&self, workflow_id: &str) {
        self.change(workflow_id, |workflow| {
            workflow.selected = false;
            workflow.slots.clear();
        });
    }

    /// Has a workflow hold another version than it was signalled.
    pub(crate) fn hold(&self, workflow_id: &str, version: u32) {
        self.change(workflow_id, |workflow| {
            let held = workflow.slots.get_mut("default").expect("it holds one");
            held["version"] = version.into();
        });
    }

    /// Hides a workflow from lists, as visibility does for a moment.
    pub(crate) fn hide(&self, workflow_id: &str) {
        self.change(workflow_id, |workflow| workflow.listed = false);
    }

    /// Has lists show a workflow again.
    pub(crate) fn show(&self, workflow_id: &str) {
        self.change(workflow_id, |workflow| workflow.listed = true);
    }

    /// Brings a closed workflow back as another run of its chain.
    pub(crate) fn reset(&self, mut execution: Execution) {
        let mut state = self.state();
        execution.run_id = new_run(&mut state);
        insert(&mut state, execution, String::new());
    }

    /// Hides a workflow from so many lists.
    pub(crate) fn hide_for(&self, workflow_id: &str, lists: u32) {
        let mut state = self.state();
        let until = state.lists + lists;
        let workflow = state.workflows.get_mut(&id::<WorkflowId>(workflow_id));
        workflow.expect("it runs").listed_after = until;
    }

    /// Makes a workflow somebody else's, although its parent still takes it for a child.
    pub(crate) fn rob(&self, workflow_id: &str) {
        self.change(workflow_id, |workflow| {
            let execution = &mut workflow.execution;
            execution.root = (execution.workflow_id.clone(), execution.run_id.clone());
        });
    }

    /// Has a workflow's parent say that it is still starting it, and hides it from lists.
    pub(crate) fn unconfirm(&self, workflow_id: &str) {
        self.hide(workflow_id);
        self.state().unconfirmed.insert(id(workflow_id));
    }

    /// How often workflows were listed.
    pub(crate) fn lists(&self) -> u32 {
        self.state().lists
    }

    pub(crate) fn complete(&self, workflow_id: &str) {
        close(&mut self.state(), &id(workflow_id), RunStatus::Completed);
    }

    /// Goes on as a new run of the same chain.
    pub(crate) fn continue_as_new(&self, workflow_id: &str) {
        let mut state = self.state();
        let run = new_run(&mut state);
        let found = state.workflows.get(&id::<WorkflowId>(workflow_id)).cloned();
        let mut old = found.expect("it runs");
        old.execution.status = RunStatus::ContinuedAsNew;
        state.closed.push(old);
        let workflow = state.workflows.get_mut(&id::<WorkflowId>(workflow_id));
        let workflow = workflow.expect("it runs");
        workflow.execution.run_id = run;
        // The server keeps the request with the run that it started.
        workflow.start_requests.clear();
    }

    /// A root that somebody starts without asking.
    pub(crate) fn start_root(&self, workflow_id: &str, kind: &str) {
        let mut state = self.state();
        let run = new_run(&mut state);
        let execution = execution(id(workflow_id), run, kind, None, None);
        insert(&mut state, execution, String::new());
    }

    /// A child, holding what its parent holds.
    pub(crate) fn start_child(&self, parent: &str, workflow_id: &str, kind: &str) {
        let mut state = self.state();
        let run = new_run(&mut state);
        let parent = state
            .workflows
            .get(&id::<WorkflowId>(parent))
            .cloned()
            .expect("it runs");
        let above = (
            parent.execution.workflow_id.clone(),
            parent.execution.run_id.clone(),
        );
        let root = Some(parent.execution.root.clone());
        let execution = execution(id(workflow_id), run, kind, Some(above), root);
        insert(&mut state, execution, String::new());
        let child = state.workflows.get_mut(&id::<WorkflowId>(workflow_id));
        child.expect("inserted").slots = parent.slots;
    }

    /// Gives a workflow a pending activity.
    pub(crate) fn activity(&self, workflow_id: &str, activity_id: &str, attempt: u32) {
        self.change(workflow_id, |workflow| {
            workflow
                .activities
                .retain(|activity| activity.activity_id != activity_id);
            workflow.activities.push(PendingActivity {
                activity_id: activity_id.to_owned(),
                attempt,
                started: true,
                task_queue: None,
            });
        });
    }

    pub(crate) fn run(&self, workflow_id: &str) -> Execution {
        let state = self.state();
        let found = state.workflows.get(&id::<WorkflowId>(workflow_id));
        found.expect("it runs").execution.clone()
    }

    pub(crate) fn running(&self) -> usize {
        self.state().workflows.len()
    }

    pub(crate) fn starts(&self) -> Vec<StartWorkflow> {
        self.state().starts.clone()
    }

    /// The grants that were signalled to a workflow, in order.
    pub(crate) fn signals(&self, workflow_id: &str) -> Vec<String> {
        let to: WorkflowId = id(workflow_id);
        let state = self.state();
        let of = state
            .signals
            .iter()
            .filter(|(workflow_id, _)| *workflow_id == to);
        of.map(|(_, payload)| payload.clone()).collect()
    }

    fn change(&self, workflow_id: &str, change: impl FnOnce(&mut Workflow)) {
        let mut state = self.state();
        change(
            state
                .workflows
                .get_mut(&id::<WorkflowId>(workflow_id))
                .expect("it runs"),
        );
    }

    fn is_frozen(&self, workflow_id: &WorkflowId) -> bool {
        let state = self.state();
        let workflow = state.workflows.get(workflow_id);
        workflow.is_some_and(|workflow| workflow.mood == Mood::Frozen)
    }

    fn up(&self) -> Result<MutexGuard<'_, State>, TemporalError> {
        let state = self.state();
        if state.down {
            return Err(TemporalError::Unavailable(Status::unavailable("down")));
        }
        Ok(state)
    }
}

fn id<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect(text)
}

fn new_run(state: &mut State) -> RunId {
    state.runs += 1;
    id(&format!("run-{}", state.runs))
}

fn execution(
    workflow_id: WorkflowId,
    run_id: RunId,
    kind: &str,
    parent: Option<(WorkflowId, RunId)>,
    root: Option<(WorkflowId, RunId)>,
) -> Execution {
    let now = Some(SystemTime::now());
    Execution {
        first_run_id: Some(run_id.clone()),
        workflow_type: id(kind),
        task_queue: id(super::QUEUE),
        status: RunStatus::Running,
        parent,
        root: root.unwrap_or_else(|| (workflow_id.clone(), run_id.clone())),
        started_at: now,
        chain_started_at: now,
        workflow_id,
        run_id,
    }
}

fn insert(state: &mut State, execution: Execution, request: String) {
    let workflow = Workflow {
        start_requests: vec![request],
        activities: Vec::new(),
        mood: Mood::Good,
        slots: BTreeMap::new(),
        listed: true,
        listed_after: 0,
        selected: true,
        execution,
    };
    state
        .workflows
        .insert(workflow.execution.workflow_id.clone(), workflow);
}

fn close(state: &mut State, workflow_id: &WorkflowId, status: RunStatus) {
    let mut workflow = state.workflows.remove(workflow_id).expect("it runs");
    workflow.execution.status = status;
    state.closed.push(workflow);
}

/// What a node holds after it has adopted a grant, whose claims are read without verifying them.
fn held(grant: &str) -> (String, Value) {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let claims = grant
        .split('.')
        .nth(2)
        .expect("a compact JWS behind a prefix");
    let claims = URL_SAFE_NO_PAD.decode(claims).expect("base64url");
    let claims: Value = serde_json::from_slice(&claims).expect("JSON");
    let slot = claims["slot"].as_str().expect("a slot").to_owned();
    let order = &claims["order"];
    let held = json!({
        "state": "current",
        "version": order["version"],
        "epoch": order["epoch"],
        "serial": order["serial"],
        "adoptedAt": 1_800_000_000,
    });
    (slot, held)
}

fn adopt(state: &mut State, workflow_id: &WorkflowId, grant: &str) {
    let Some(workflow) = state.workflows.get_mut(workflow_id) else {
        return;
    };
    if workflow.mood == Mood::Deaf || !workflow.selected {
        return;
    }
    let (slot, held) = held(grant);
    workflow.slots.insert(slot, held);
    if workflow.mood == Mood::Lonely {
        return;
    }
    for child in children(state, workflow_id) {
        adopt(state, &child, grant);
    }
}

fn children(state: &State, parent: &WorkflowId) -> Vec<WorkflowId> {
    let of = |workflow: &&Workflow| {
        workflow
            .execution
            .parent
            .as_ref()
            .is_some_and(|(id, _)| id == parent)
    };
    let found = state.workflows.values().filter(of);
    found
        .map(|workflow| workflow.execution.workflow_id.clone())
        .collect()
}

#[async_trait]
impl Temporal for FakeTemporal {
    async fn start(&self, start: StartWorkflow) -> Result<RunId, TemporalError> {
        let mut state = self.up()?;
        if let Some(running) = state.workflows.get(&start.workflow_id) {
            let same = running.start_requests.contains(&start.request_id);
            let first = running.execution.first_run_id.clone();
            return first.filter(|_| same).ok_or(TemporalError::AlreadyRunning);
        }
        let run = new_run(&mut state);
        let kind = start.workflow_type.to_string();
        let execution = execution(start.workflow_id.clone(), run.clone(), &kind, None, None);
        insert(&mut state, execution, start.request_id.clone());
        state.starts.push(start);
        if state.lose_answers {
            return Err(TemporalError::Unavailable(Status::unavailable("lost")));
        }
        Ok(run)
    }

    async fn signal(&self, signal: Signal<'_>) -> Result<(), TemporalError> {
        let mut held = self.1.subscribe();
        let _ = held.wait_for(|held| !held).await;
        let mut state = self.up()?;
        let workflow_id = signal.workflow_id.clone();
        if !state.workflows.contains_key(&workflow_id) {
            return Err(TemporalError::NotFound);
        }
        if state
            .requests
            .insert((workflow_id.clone(), signal.request_id))
        {
            let grant = signal.payload.as_str().expect("a grant").to_owned();
            state.signals.push((workflow_id.clone(), grant.clone()));
            adopt(&mut state, &workflow_id, &grant);
        }
        Ok(())
    }

    async fn describe(
        &self,
        workflow_id: &WorkflowId,
        run_id: Option<&RunId>,
    ) -> Result<Description, TemporalError> {
        let state = self.up()?;
        let all = state.workflows.values().chain(state.closed.iter().rev());
        let found = all
            .filter(|workflow| workflow.execution.workflow_id == *workflow_id)
            .find(|workflow| run_id.is_none_or(|run| workflow.execution.run_id == *run));
        let found = found.ok_or(TemporalError::NotFound)?;
        Ok(Description {
            execution: found.execution.clone(),
            activities: found.activities.clone(),
            start_requests: found.start_requests.clone(),
        })
    }

    async fn list(
        &self,
        root: &WorkflowId,
        closed_too: bool,
        limit: usize,
    ) -> Result<Listing, TemporalError> {
        let mut state = self.up()?;
        state.lists += 1;
        let closed = state.closed.iter().filter(|_| closed_too);
        let executions: Vec<_> = state
            .workflows
            .values()
            .chain(closed)
            .filter(|workflow| workflow.listed && workflow.listed_after < state.lists)
            .filter(|workflow| workflow.execution.root.0 == *root)
            .map(|workflow| Execution {
                first_run_id: None,
                chain_started_at: None,
                ..workflow.execution.clone()
            })
            .collect();
        Ok(Listing {
            truncated: state.truncates || executions.len() > limit,
            executions: executions.into_iter().take(limit).collect(),
        })
    }

    async fn query(
        &self,
        workflow_id: &WorkflowId,
        run_id: &RunId,
        _: &'static str,
    ) -> Result<Value, TemporalError> {
        if self.is_frozen(workflow_id) {
            std::future::pending::<()>().await;
        }
        let state = self.up()?;
        let found = state.workflows.get(workflow_id);
        let found = found.filter(|workflow| workflow.execution.run_id == *run_id);
        let workflow = found.ok_or(TemporalError::NotFound)?;
        if workflow.mood == Mood::Silent {
            let status = Status::failed_precondition("workflow task in failed state");
            return Err(TemporalError::NoAnswer(status));
        }
        let mut slots = workflow.slots.clone();
        if workflow.selected {
            slots
                .entry("default".to_owned())
                .or_insert(json!({ "state": "missing" }));
        }
        let child = |id: &WorkflowId| {
            let child = &state.workflows[id].execution;
            let starting = state.unconfirmed.contains(id);
            json!({
                "workflowId": id,
                "firstRunId": child.first_run_id.as_ref().filter(|_| !starting),
                "workflowType": child.workflow_type,
                "status": if starting { "starting" } else { "running" },
                "selection": "declared",
                "delivered": {},
            })
        };
        let children: Vec<_> = children(&state, workflow_id).iter().map(child).collect();
        Ok(json!({
            "protocol": 1,
            "slots": slots,
            "children": children,
            "forwardsPending": 0,
            "rejected": {},
            "exposed": false,
        }))
    }

    async fn stop(
        &self,
        workflow_id: &WorkflowId,
        first_run_id: &RunId,
        how: Stop,
        _: &str,
    ) -> Result<(), TemporalError> {
        let mut state = self.up()?;
        let found = state.workflows.get(workflow_id).cloned();
        let found = found.filter(|w| w.execution.first_run_id.as_ref() == Some(first_run_id));
        let found = found.ok_or(TemporalError::NotFound)?;
        match how {
            Stop::Cancel if found.mood == Mood::Stubborn => {}
            Stop::Cancel => close(&mut state, workflow_id, RunStatus::Canceled),
            Stop::Terminate => close(&mut state, workflow_id, RunStatus::Terminated),
        }
        Ok(())
    }

    async fn has_search_attribute(&self) -> Result<bool, TemporalError> {
        let mut state = self.up()?;
        state.looks += 1;
        Ok(state.search_attribute)
    }

    async fn register_search_attribute(&self) -> Result<(), TemporalError> {
        self.up()?.search_attribute = true;
        Ok(())
    }
}
