//! What the control plane needs of Temporal. The seam is [`Temporal`]: tests put a fake in its
//! place, the server a [`Cluster`].

mod cluster;

pub use cluster::Cluster;

use async_trait::async_trait;
use serde_json::Value;
use std::time::{Duration, SystemTime};
use xylem_ids::{RunId, TaskQueue, WorkflowId, WorkflowType};

/// The signal that carries a grant.
pub(crate) const API_TOKEN: &str = "apiToken";

/// The search attribute that shows who holds what.
pub(crate) const SEARCH_ATTRIBUTE: &str = "XylemTokens";

/// Whether lists can be asked for a workflow id. The server writes backslashes and quotation marks
/// of a query's literals anew before it hands them to its database, and not every database reads
/// them as they were meant (tried: server 1.32 on SQLite finds neither).
pub(crate) fn listable(workflow_id: &str) -> bool {
    !workflow_id.contains(['\\', '"'])
}

/// Why Temporal did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum TemporalError {
    /// No such workflow, or not the one of that first run, or it has closed.
    #[error("Temporal has no such running workflow")]
    NotFound,
    /// A workflow of that id is running.
    #[error("a workflow of that id is running")]
    AlreadyRunning,
    /// Too many requests at this moment.
    #[error("Temporal is busy")]
    Busy(#[source] tonic::Status),
    /// It cannot be reached or did not answer in time.
    #[error("Temporal is not available")]
    Unavailable(#[source] tonic::Status),
    /// This process may not do that in the namespace.
    #[error("Temporal does not permit this")]
    NotPermitted(#[source] tonic::Status),
    /// A query was not answered: no worker, a failing workflow task, a paused workflow, no handler.
    #[error("the workflow did not answer the query")]
    NoAnswer(#[source] tonic::Status),
    /// A request that Temporal does not accept.
    #[error("Temporal did not accept the request")]
    Rejected(#[source] tonic::Status),
    /// An answer that lacks what every answer has.
    #[error("Temporal's answer has no {0}")]
    Unintelligible(&'static str),
}

/// A workflow to start.
#[derive(Debug, Clone)]
pub struct StartWorkflow {
    /// Its id; must not be running.
    pub workflow_id: WorkflowId,
    /// Its type.
    pub workflow_type: WorkflowType,
    /// Its task queue.
    pub task_queue: TaskQueue,
    /// Its input, where it has one.
    pub input: Option<Value>,
    /// Its headers, as JSON.
    pub headers: Vec<(&'static str, Value)>,
    /// How long it may take, continued runs included.
    pub execution_timeout: Option<Duration>,
    /// The same request finds the workflow that it started.
    pub request_id: String,
    /// How long the server waits before it starts it.
    pub delay: Option<Duration>,
}

/// One signal.
#[derive(Debug, Clone)]
pub struct Signal<'a> {
    /// Whom.
    pub workflow_id: &'a WorkflowId,
    /// The run it is meant for; the current one where absent.
    pub run_id: Option<&'a RunId>,
    /// Its name.
    pub name: &'static str,
    /// What it carries, as JSON.
    pub payload: Value,
    /// The same request is delivered once.
    pub request_id: String,
}

/// What Temporal calls the state of a workflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunStatus {
    /// Runs.
    Running,
    /// Returned.
    Completed,
    /// Failed.
    Failed,
    /// Was cancelled.
    Canceled,
    /// Was terminated.
    Terminated,
    /// Goes on as another run.
    ContinuedAsNew,
    /// Ran out of time.
    TimedOut,
    /// Runs, and is paused.
    Paused,
}

impl RunStatus {
    /// The word the API uses.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
            Self::Terminated => "terminated",
            Self::ContinuedAsNew => "continued_as_new",
            Self::TimedOut => "timed_out",
            Self::Paused => "paused",
        }
    }

    /// Whether it has not closed.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

/// One run of one workflow, as Temporal lists or describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// The workflow.
    pub workflow_id: WorkflowId,
    /// The run.
    pub run_id: RunId,
    /// The first run; a list may not tell it.
    pub first_run_id: Option<RunId>,
    /// Its type.
    pub workflow_type: WorkflowType,
    /// Its task queue.
    pub task_queue: TaskQueue,
    /// Its state.
    pub status: RunStatus,
    /// Its parent and the parent's run; none for a root.
    pub parent: Option<(WorkflowId, RunId)>,
    /// The root and the root's run when this workflow was started; itself for a root.
    pub root: (WorkflowId, RunId),
    /// When the run started.
    pub started_at: Option<SystemTime>,
    /// When the first run of its chain started; a list does not tell it.
    pub chain_started_at: Option<SystemTime>,
}

/// An activity that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingActivity {
    /// Its id.
    pub activity_id: String,
    /// The attempt, from 1.
    pub attempt: u32,
    /// Whether a worker has it.
    pub started: bool,
    /// Its task queue, where the server tells it.
    pub task_queue: Option<TaskQueue>,
}

/// A workflow in detail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The run that was described.
    pub execution: Execution,
    /// Its pending activities.
    pub activities: Vec<PendingActivity>,
    /// The request ids it was started with.
    pub start_requests: Vec<String>,
}

/// What a list found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The workflows.
    pub executions: Vec<Execution>,
    /// Whether there are more.
    pub truncated: bool,
}

/// How a workflow is brought to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Asks it to cancel.
    Cancel,
    /// Ends it without asking.
    Terminate,
}

/// One namespace of a Temporal cluster. Every call is bounded in time.
#[async_trait]
pub trait Temporal: Send + Sync {
    /// Starts a workflow and tells its first run.
    ///
    /// # Errors
    /// [`TemporalError::AlreadyRunning`] where a workflow of that id is running that another
    /// request started.
    async fn start(&self, start: StartWorkflow) -> Result<RunId, TemporalError>;

    /// Signals a running workflow.
    ///
    /// # Errors
    /// [`TemporalError::NotFound`] where it does not run.
    async fn signal(&self, signal: Signal<'_>) -> Result<(), TemporalError>;

    /// Describes a run; the current or last one where none is named.
    ///
    /// # Errors
    /// [`TemporalError::NotFound`] where there is none.
    async fn describe(
        &self,
        workflow_id: &WorkflowId,
        run_id: Option<&RunId>,
    ) -> Result<Description, TemporalError>;

    /// Lists at most `limit` workflows with this root, the running ones or all. What has just
    /// started or ended may be missing or still there.
    ///
    /// # Errors
    /// Temporal did not answer.
    async fn list(
        &self,
        root: &WorkflowId,
        closed_too: bool,
        limit: usize,
    ) -> Result<Listing, TemporalError>;

    /// Asks a workflow without arguments and answers with the JSON it returns.
    ///
    /// # Errors
    /// [`TemporalError::NoAnswer`] where the workflow could not answer.
    async fn query(
        &self,
        workflow_id: &WorkflowId,
        run_id: &RunId,
        name: &'static str,
    ) -> Result<Value, TemporalError>;

    /// Ends a workflow, unless another than that of `first_run_id` runs under the id.
    ///
    /// # Errors
    /// [`TemporalError::NotFound`] where it does not run.
    async fn stop(
        &self,
        workflow_id: &WorkflowId,
        first_run_id: &RunId,
        how: Stop,
        reason: &str,
    ) -> Result<(), TemporalError>;

    /// Whether `XylemTokens` is registered.
    ///
    /// # Errors
    /// [`TemporalError::NotPermitted`] where this process may not look.
    async fn has_search_attribute(&self) -> Result<bool, TemporalError>;

    /// Registers `XylemTokens`.
    ///
    /// # Errors
    /// [`TemporalError::NotPermitted`] where this process may not.
    async fn register_search_attribute(&self) -> Result<(), TemporalError>;
}
