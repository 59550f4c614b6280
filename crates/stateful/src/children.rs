//! Starting children so that they belong to the tree, and learning how they end.

use crate::{
    activity::{ChildOutcome, FindChild, FoundChild, NodeActivities, Select},
    cancellable::execute,
    definition::StatefulWorkflow,
    interceptor::ChildHeaderKey,
    payload,
    state::NodeState,
};
use futures::{FutureExt, future::LocalBoxFuture};
use std::{cell::RefCell, collections::BTreeSet, fmt, rc::Rc, time::Duration};
use temporalio_common::{
    WorkflowDefinition,
    data_converters::{TemporalDeserializable, TemporalSerializable},
    error::{ActivityExecutionError, ApplicationFailure},
};
use temporalio_workflow::{
    ActivityOptions, ChildWorkflowExecutionError, ChildWorkflowOptions, ChildWorkflowStartError,
    ParentClosePolicy, StartChildWorkflowExecutionFailedCause, WorkflowCancellationToken,
    WorkflowContext, WorkflowTermination,
};
use xylem_ids::{IdError, RunId, Slot, WorkflowId, WorkflowType};
use xylem_node::Selection;

/// How a child is started: the SDK's own options, and which slots are passed to it.
#[derive(Debug, Clone, Default)]
pub struct ChildOptions {
    workflow: ChildWorkflowOptions,
    selection: Selection,
}

impl ChildOptions {
    /// Options for a child with this workflow id.
    #[must_use]
    pub fn workflow_id(id: impl Into<String>) -> Self {
        ChildWorkflowOptions::builder()
            .workflow_id(id.into())
            .build()
            .into()
    }

    /// Passes only these slots, or none, instead of all that the child's type declares.
    #[must_use]
    pub fn select(mut self, selection: Selection) -> Self {
        self.selection = selection;
        self
    }
}

impl From<ChildWorkflowOptions> for ChildOptions {
    fn from(workflow: ChildWorkflowOptions) -> Self {
        Self {
            workflow,
            selection: Selection::All,
        }
    }
}

/// Why a child was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartChildError {
    /// Temporal refused the start.
    #[error("the child workflow could not be started")]
    Start(#[source] Box<ChildWorkflowStartError>),
    /// Its workflow id is taken by a workflow that is not a child of this one.
    #[error("the workflow id {0} is taken by a workflow outside this tree: choose another id")]
    Foreign(WorkflowId),
    /// Its workflow id was taken, and the workflow that bore it has closed.
    #[error(
        "the workflow id {0} was taken by a workflow that has closed since: start the child again, \
         or choose another id where its reuse is not allowed"
    )]
    Closed(WorkflowId),
    /// Its workflow id is taken, and nobody could say by whom.
    #[error("the workflow id {id} is taken by a workflow that could not be looked at")]
    Taken {
        /// The id.
        id: WorkflowId,
        /// Why not.
        source: Box<ActivityExecutionError>,
    },
    /// Its id or type breaks a rule.
    #[error("the child workflow has no usable name")]
    Name(#[from] IdError),
    /// The narrowed selection could not be recorded in the vault, so the child was not started.
    #[error("the selection of the child could not be recorded")]
    Select(#[source] Box<ActivityExecutionError>),
    /// The workflow was cancelled while the start was under way.
    #[error("the workflow was cancelled while it started a child")]
    Cancelled,
    /// The header of the child is not JSON.
    #[error("the header of the child could not be written")]
    Header(#[source] serde_json::Error),
}

/// Why a selection was not changed.
#[derive(Debug, thiserror::Error)]
pub enum SelectError {
    /// No child of this id runs or starts.
    #[error("there is no running child {0}")]
    NoChild(WorkflowId),
    /// The change could not be recorded in the vault.
    #[error("the selection could not be recorded")]
    Refused(#[source] Box<ActivityExecutionError>),
}

impl From<SelectError> for WorkflowTermination {
    fn from(error: SelectError) -> Self {
        match error {
            SelectError::Refused(error) => (*error).into(),
            other => Self::failed_application(ApplicationFailure::non_retryable(other)),
        }
    }
}

/// How a child ended otherwise than by returning.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// It failed, was cancelled, terminated or timed out.
    #[error("the child workflow did not complete")]
    Execution(#[source] Box<ChildWorkflowExecutionError>),
    /// The same of a child that an earlier run of this workflow had started.
    #[error("the child workflow {id} {}", describe(.outcome))]
    Ended {
        /// The child.
        id: WorkflowId,
        /// How it ended.
        outcome: ChildOutcome,
    },
    /// Its result is not of the expected type.
    #[error("the result of the child workflow {0} is not of the expected type")]
    Result(WorkflowId),
    /// This workflow was cancelled while it waited.
    #[error("the workflow was cancelled while it waited for a child")]
    Cancelled,
}

fn describe(outcome: &ChildOutcome) -> &'static str {
    match outcome {
        ChildOutcome::Completed { .. } => "completed",
        ChildOutcome::Failed { .. } => "failed",
        ChildOutcome::Cancelled => "was cancelled",
        ChildOutcome::Terminated => "was terminated",
        ChildOutcome::TimedOut => "timed out",
    }
}

impl From<StartChildError> for WorkflowTermination {
    fn from(error: StartChildError) -> Self {
        match error {
            StartChildError::Start(error) => (*error).into(),
            StartChildError::Select(error) => (*error).into(),
            StartChildError::Cancelled => Self::cancelled(),
            other => Self::failed_application(ApplicationFailure::non_retryable(other)),
        }
    }
}

impl From<ChildError> for WorkflowTermination {
    fn from(error: ChildError) -> Self {
        match error {
            ChildError::Execution(error) => (*error).into(),
            ChildError::Cancelled => Self::cancelled(),
            other => Self::failed_application(ApplicationFailure::non_retryable(other)),
        }
    }
}

/// A child that was started. Dropping the handle changes nothing: the node goes on knowing the
/// child, and the child outlives this run.
pub struct Child<T> {
    id: WorkflowId,
    first_run_id: RunId,
    cancellation: WorkflowCancellationToken,
    result: LocalBoxFuture<'static, Result<T, ChildError>>,
}

impl<T> Child<T> {
    /// Its workflow id.
    #[must_use]
    pub fn workflow_id(&self) -> &WorkflowId {
        &self.id
    }

    /// Its first run id.
    #[must_use]
    pub fn first_run_id(&self) -> &RunId {
        &self.first_run_id
    }

    /// Asks it to cancel. Has no effect on a child of an earlier run: use
    /// `ctx.external_workflow(..).cancel(..)` there.
    pub fn cancel(&self, reason: impl Into<String>) {
        self.cancellation.cancel_with_reason(reason);
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// It did not complete, or this workflow was cancelled meanwhile.
    pub async fn result(self) -> Result<T, ChildError> {
        self.result.await
    }
}

impl<T> fmt::Debug for Child<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("id", &self.id)
            .field("first_run_id", &self.first_run_id)
            .finish_non_exhaustive()
    }
}

/// What the task that starts a child tells the handle that waits for it. A child can begin and end
/// within one activation.
struct Told<T> {
    /// Its first run id, also where it was running already.
    begun: Option<Result<RunId, StartChildError>>,
    /// Not for a child that was running already: its end comes through the watcher.
    ended: Option<Result<T, ChildWorkflowExecutionError>>,
}

type Shared<T> = Rc<RefCell<Told<T>>>;

fn nothing_told<T>() -> Shared<T> {
    Rc::new(RefCell::new(Told {
        begun: None,
        ended: None,
    }))
}

/// Everything a start needs, so that it can go on without the author's future.
struct Starting<W, C: WorkflowDefinition> {
    ctx: WorkflowContext<W>,
    state: NodeState,
    workflow: C,
    input: C::Input,
    id: WorkflowId,
    workflow_type: WorkflowType,
    options: ChildOptions,
    shared: Shared<C::Output>,
}

pub(crate) async fn start<W, C>(
    ctx: &WorkflowContext<W>,
    state: NodeState,
    workflow: C,
    input: C::Input,
    options: ChildOptions,
) -> Result<Child<C::Output>, StartChildError>
where
    W: 'static,
    C: StatefulWorkflow + 'static,
    C::Output: TemporalDeserializable + TemporalSerializable,
{
    let workflow_type: WorkflowType = workflow.name().parse()?;
    let named = options.workflow.workflow_id.clone();
    let id =
        named.unwrap_or_else(|| format!("{}/{workflow_type}/{}", ctx.workflow_id(), ctx.uuid4()));
    let id: WorkflowId = id.parse()?;
    // Not the workflow's own token: cancelling a node leaves its children alone, as abandoning
    // them does. A tree is stopped deliberately.
    let cancellation = WorkflowCancellationToken::new();
    let shared = nothing_told();
    let starting = Starting {
        ctx: ctx.clone(),
        state: state.clone(),
        workflow,
        input,
        id: id.clone(),
        workflow_type,
        options: with_token(options, cancellation.clone()),
        shared: shared.clone(),
    };
    state.spawn(ctx, starting.run().boxed_local());

    let waited = ctx
        .wait_condition(|_| shared.borrow().begun.is_some())
        .await;
    let begun = shared.borrow_mut().begun.take();
    let first_run_id = match begun {
        Some(begun) => begun?,
        None => {
            drop(waited);
            return Err(StartChildError::Cancelled);
        }
    };
    let result = result_of::<W, C>(ctx.clone(), state, id.clone(), shared);
    Ok(Child {
        id,
        first_run_id,
        cancellation,
        result: result.boxed_local(),
    })
}

fn with_token(mut options: ChildOptions, token: WorkflowCancellationToken) -> ChildOptions {
    options.workflow.cancellation_token.get_or_insert(token);
    // Under the default policy the children of a node that continues as new are terminated.
    options.workflow.parent_close_policy = ParentClosePolicy::Abandon;
    options
}

/// A handle for a child that an earlier run started, whether or not it has ended since.
pub(crate) fn inherited<W: 'static, C>(
    ctx: &WorkflowContext<W>,
    state: &NodeState,
    id: &WorkflowId,
) -> Option<Child<C::Output>>
where
    C: StatefulWorkflow + 'static,
    C::Output: TemporalDeserializable,
{
    let first_run_id = state.with(|inner| {
        let running = inner.node.inherited();
        let running = running.into_iter().find(|child| child.workflow_id == *id);
        let ended = || {
            inner
                .ends
                .get(id)
                .map(|(first_run_id, _)| first_run_id.clone())
        };
        running.map(|child| child.first_run_id).or_else(ended)
    })?;
    let shared = nothing_told();
    let result = result_of::<W, C>(ctx.clone(), state.clone(), id.clone(), shared);
    Some(Child {
        id: id.clone(),
        first_run_id,
        cancellation: WorkflowCancellationToken::new(),
        result: result.boxed_local(),
    })
}

/// Waits for the end of a child, from wherever it becomes known.
async fn result_of<W, C>(
    ctx: WorkflowContext<W>,
    state: NodeState,
    id: WorkflowId,
    shared: Shared<C::Output>,
) -> Result<C::Output, ChildError>
where
    C: StatefulWorkflow,
    C::Output: TemporalDeserializable,
{
    let told = || shared.borrow().ended.is_some();
    let watched = || state.with(|inner| inner.ends.contains_key(&id));
    let waited = ctx.wait_condition(|_| told() || watched()).await;
    let ended = shared.borrow_mut().ended.take();
    if let Some(result) = ended {
        return result.map_err(|error| ChildError::Execution(Box::new(error)));
    }
    waited.map_err(|_| ChildError::Cancelled)?;
    let outcome = state.with(|inner| inner.ends.get(&id).map(|(_, outcome)| outcome.clone()));
    match outcome {
        Some(ChildOutcome::Completed { result }) => {
            decode(&ctx, &result).ok_or(ChildError::Result(id))
        }
        Some(outcome) => Err(ChildError::Ended { id, outcome }),
        None => Err(ChildError::Cancelled),
    }
}

fn decode<W, T: TemporalDeserializable + 'static>(
    ctx: &WorkflowContext<W>,
    result: &serde_json::Value,
) -> Option<T> {
    use temporalio_common::data_converters::{
        GenericPayloadConverter, SerializationContext, SerializationContextData,
        WorkflowSerializationContext,
    };
    let data = SerializationContextData::Workflow(WorkflowSerializationContext::new());
    let converter = ctx.payload_converter();
    let context = SerializationContext::new(&data, converter);
    let payload = payload::to_json(result).ok()?;
    converter.from_payload(&context, payload).ok()
}

impl<W, C> Starting<W, C>
where
    W: 'static,
    C: StatefulWorkflow + 'static,
    C::Output: TemporalDeserializable + TemporalSerializable,
{
    /// Starts the child, and stays with it until it has ended.
    async fn run(self) {
        let Self {
            ctx,
            state,
            workflow,
            input,
            id,
            workflow_type,
            mut options,
            shared,
        } = self;
        let begin_with = |begun| {
            shared.borrow_mut().begun = Some(begun);
            ctx.state_mut(|_| ());
        };
        let declares = slots_of::<C>();
        let choice = Choice {
            id: &id,
            declares: &declares,
            selection: &options.selection.clone(),
        };
        if let Err(error) = choice.exclude(&ctx).await {
            return begin_with(Err(StartChildError::Select(Box::new(error))));
        }
        if state.with(|inner| inner.is_again || inner.node.was_narrowed(&id)) {
            choice.include(&ctx).await;
        }
        let header = state.update(&ctx, |inner| {
            let selection = options.selection.clone();
            let kind = workflow_type.clone();
            let start = inner
                .node
                .child_starting(id.clone(), kind, &declares, selection);
            let grants = start.grants.iter().map(|g| g.as_str().to_owned()).collect();
            if inner.search_attribute {
                publish(&mut options.workflow, &start.grants);
            }
            payload::to_json(&inner.tree_header(start.takes, grants))
        });
        let header = match header {
            Ok(header) => header,
            Err(error) => return begin_with(Err(StartChildError::Header(error))),
        };
        options.workflow.workflow_id = Some(id.to_string());
        let begin = ctx.with_context_value_sync::<ChildHeaderKey, _>(header, || {
            ctx.start_child_workflow(workflow, input, options.workflow)
        });
        match begin.await {
            Ok(started) => {
                let first_run_id = run_id(&started.run_id);
                state.update(&ctx, |inner| {
                    if let Some(first_run_id) = &first_run_id {
                        inner.node.child_started(&id, first_run_id.clone());
                    }
                });
                let Some(first_run_id) = first_run_id else {
                    return;
                };
                begin_with(Ok(first_run_id.clone()));
                let result = started.result().await;
                shared.borrow_mut().ended = Some(result);
                state.update(&ctx, |inner| {
                    // Nobody in this run learns of it any more: the next one's watcher will.
                    if !inner.is_closing {
                        inner.node.child_ended(&id, Some(&first_run_id));
                    }
                });
            }
            Err(ChildWorkflowStartError::StartFailed {
                cause: StartChildWorkflowExecutionFailedCause::WorkflowAlreadyExists,
                ..
            }) => {
                let found = adopt_running(&ctx, &state, id.clone(), workflow_type).await;
                if found.is_ok() {
                    choice.include(&ctx).await;
                }
                begin_with(found);
            }
            Err(error) => {
                state.update(&ctx, |inner| inner.node.child_ended(&id, None));
                begin_with(Err(StartChildError::Start(Box::new(error))));
            }
        }
    }
}

fn run_id(text: &str) -> Option<RunId> {
    text.parse().ok()
}

pub(crate) fn slots_of<C: StatefulWorkflow>() -> BTreeSet<Slot> {
    let names = C::SLOTS.iter().chain(C::TRANSIT);
    names.filter_map(|name| name.parse().ok()).collect()
}

/// A child's search attribute is set by its start: no event of its own.
fn publish(options: &mut ChildWorkflowOptions, grants: &[xylem_grant::VerifiedGrant]) {
    let version =
        |grant: &xylem_grant::VerifiedGrant| format!("{}@{}", grant.slot(), grant.order().version);
    let values: Vec<String> = grants.iter().map(version).collect();
    if let Ok(update) = crate::SEARCH_ATTRIBUTE.try_value_set(values) {
        options
            .search_attributes
            .get_or_insert_with(|| temporalio_common::search_attributes::SearchAttributes::new([]))
            .apply(update);
    }
}

/// After a retry or reset of the parent, its children may still run under the ids it uses again.
async fn adopt_running<W>(
    ctx: &WorkflowContext<W>,
    state: &NodeState,
    id: WorkflowId,
    workflow_type: WorkflowType,
) -> Result<RunId, StartChildError> {
    let question = FindChild {
        workflow_id: id.clone(),
        workflow_type,
    };
    let options = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(10))
        .cancellation_token(WorkflowCancellationToken::new())
        .build();
    let found = ctx.execute_activity(NodeActivities::find_child, question, options);
    match found.await {
        Ok(FoundChild::Mine { first_run_id }) => {
            state.update(ctx, |inner| {
                inner.node.child_found(&id, first_run_id.clone())
            });
            Ok(first_run_id)
        }
        other => {
            state.update(ctx, |inner| inner.node.child_ended(&id, None));
            Err(match other {
                Ok(FoundChild::Closed) => StartChildError::Closed(id),
                Err(error) => StartChildError::Taken {
                    id,
                    source: Box::new(error),
                },
                Ok(_) => StartChildError::Foreign(id),
            })
        }
    }
}

/// What a child that is being started may have.
struct Choice<'a> {
    id: &'a WorkflowId,
    declares: &'a BTreeSet<Slot>,
    selection: &'a Selection,
}

impl Choice<'_> {
    fn slots(&self, redeemed: bool) -> Vec<Slot> {
        let slots = self.declares.iter();
        let chosen = slots.filter(|slot| self.selection.redeems(slot) == redeemed);
        chosen.cloned().collect()
    }

    /// Records in the vault what the selection takes away, before the child can run.
    async fn exclude<W>(&self, ctx: &WorkflowContext<W>) -> Result<(), ActivityExecutionError> {
        let change = Select {
            child: self.id.clone(),
            exclude: self.slots(false),
            include: Vec::new(),
            subtree: covers_subtree(self.selection),
        };
        record(ctx, change).await
    }

    /// Takes back what was recorded for an earlier child of the same id. A refusal is no reason
    /// not to start the child: it means that this node may not have the slot either.
    async fn include<W>(&self, ctx: &WorkflowContext<W>) {
        let change = Select {
            child: self.id.clone(),
            exclude: Vec::new(),
            include: self.slots(true),
            subtree: false,
        };
        drop(record(ctx, change).await);
    }
}

/// Whether what is excluded is excluded for everything below the child too.
fn covers_subtree(selection: &Selection) -> bool {
    !matches!(selection, Selection::Transit(_))
}

async fn record<W>(ctx: &WorkflowContext<W>, change: Select) -> Result<(), ActivityExecutionError> {
    if change.exclude.is_empty() && change.include.is_empty() {
        return Ok(());
    }
    let options = ActivityOptions::start_to_close_timeout(Duration::from_secs(10));
    execute(ctx, NodeActivities::select, change, options).await
}

/// Changes what a running child may have. The whole selection is recorded, not what differs from
/// the last one: an earlier run may have recorded something else.
pub(crate) async fn select<W>(
    ctx: &WorkflowContext<W>,
    state: &NodeState,
    id: &WorkflowId,
    selection: Selection,
) -> Result<(), SelectError> {
    let takes = state.with(|inner| {
        let child = inner.node.children().get(id);
        child.map(|child| child.takes().clone())
    });
    let takes = takes.ok_or_else(|| SelectError::NoChild(id.clone()))?;
    let choice = Choice {
        id,
        declares: &takes,
        selection: &selection,
    };
    let change = Select {
        child: id.clone(),
        exclude: choice.slots(false),
        include: choice.slots(true),
        subtree: covers_subtree(&selection),
    };
    let recorded = record(ctx, change).await;
    recorded.map_err(|error| SelectError::Refused(Box::new(error)))?;
    state.update(ctx, |inner| inner.node.select(id, selection));
    Ok(())
}
