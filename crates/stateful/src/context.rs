//! What a StatefulWorkflow can do beyond the SDK's own context.

use crate::{
    Child, ChildOptions, SelectError, StartChildError, StatefulWorkflow, Tool,
    children::{inherited, select, start},
    state::NodeState,
};
use temporalio_common::{
    WorkflowDefinition,
    data_converters::{TemporalDeserializable, TemporalSerializable},
};
use temporalio_workflow::{
    ContinueAsNewOptions, WorkflowContext, WorkflowResult, WorkflowTermination,
    workflows::WorkflowImplementation,
};
use xylem_ids::{Slot, Version, WorkflowId};
use xylem_node::{ChildStatus, Selection};

/// A history this long is due for a checkpoint even if the server does not suggest one yet: it
/// suggests at 4,096 events by default, and one wide node adds thousands by starting children.
const CHECKPOINT_EVENTS: u32 = 10_000;

/// The node behind a workflow context. Everything of the SDK keeps working beside it.
///
/// # Panics
/// The methods panic, which fails the workflow task with a message, in a workflow whose type was
/// not registered through [`crate::Workflows`].
pub trait StatefulContext<W> {
    /// Starts a child that belongs to the tree: it gets the current grants of the slots that its
    /// type declares and the selection passes, and follows every rotation.
    ///
    /// The start goes on even if this future is dropped. A workflow that bears the child's id
    /// already is taken for the child if it is one: after a retry or reset of this workflow.
    fn start_child<C>(
        &self,
        workflow: C,
        input: impl Into<C::Input>,
        options: impl Into<ChildOptions>,
    ) -> impl Future<Output = Result<Child<C::Output>, StartChildError>>
    where
        C: StatefulWorkflow + 'static,
        C::Output: TemporalDeserializable + TemporalSerializable;

    /// A child that an earlier run of this workflow has started, whether it still runs or has
    /// ended since. [`StatefulContext::children`] names them at the beginning of a run.
    fn inherited_child<C>(&self, workflow: C, id: &WorkflowId) -> Option<Child<C::Output>>
    where
        C: StatefulWorkflow + 'static,
        C::Output: TemporalDeserializable;

    /// The children that run or start.
    fn children(&self) -> Vec<ChildStatus>;

    /// Changes which slots a running child may have. When this returns, the vault refuses what was
    /// deselected; what was selected is on its way.
    ///
    /// # Errors
    /// There is no such child, or the change could not be recorded; nothing has changed then.
    fn select(
        &self,
        child: &WorkflowId,
        selection: Selection,
    ) -> impl Future<Output = Result<(), SelectError>>;

    /// A call of a registered tool.
    fn tool(&self, name: impl Into<String>) -> Tool<'_, W>;

    /// The version of the token this node holds for a slot.
    fn token_version(&self, slot: &Slot) -> Option<Version>;

    /// The workflow's own API endpoint, as the signal `apiUrl` has set it.
    fn api_url(&self) -> Option<String>;

    /// Whether the history has grown long enough to continue as new.
    fn is_checkpoint_due(&self) -> bool;

    /// Marks a place where the workflow may continue as new: if that is due, waits until nothing
    /// is pending and continues with `next_input`; returns at once if it is not.
    ///
    /// A child that ends before the run does, this wait included, tells its handle in this run and
    /// nobody in the next: wait for the handles beside the checkpoint where results matter. What
    /// runs on is an [inherited child](StatefulContext::inherited_child) of the next run.
    ///
    /// ```text
    /// ctx.checkpoint(progress.clone()).await?;
    /// ```
    ///
    /// # Errors
    /// The continue-as-new, which `run` must return.
    fn checkpoint(
        &self,
        next_input: <<W as WorkflowImplementation>::Run as WorkflowDefinition>::Input,
    ) -> impl Future<Output = WorkflowResult<()>>
    where
        W: WorkflowImplementation;

    /// Continues as new whether or not it is due, once nothing is pending.
    ///
    /// # Errors
    /// The continue-as-new, which `run` must return.
    fn checkpoint_now(
        &self,
        next_input: <<W as WorkflowImplementation>::Run as WorkflowDefinition>::Input,
    ) -> impl Future<Output = WorkflowResult<()>>
    where
        W: WorkflowImplementation;
}

fn node<W>(ctx: &WorkflowContext<W>) -> NodeState {
    let state = NodeState::of(ctx);
    assert!(
        state.is_some(),
        "this workflow has no node: give its impl block #[stateful] and register it with xylem_stateful::Workflows"
    );
    state.unwrap_or_else(|| unreachable!("asserted above"))
}

impl<W: 'static> StatefulContext<W> for WorkflowContext<W> {
    async fn start_child<C>(
        &self,
        workflow: C,
        input: impl Into<C::Input>,
        options: impl Into<ChildOptions>,
    ) -> Result<Child<C::Output>, StartChildError>
    where
        C: StatefulWorkflow + 'static,
        C::Output: TemporalDeserializable + TemporalSerializable,
    {
        start(self, node(self), workflow, input.into(), options.into()).await
    }

    fn inherited_child<C>(&self, _workflow: C, id: &WorkflowId) -> Option<Child<C::Output>>
    where
        C: StatefulWorkflow + 'static,
        C::Output: TemporalDeserializable,
    {
        inherited::<W, C>(self, &node(self), id)
    }

    fn children(&self) -> Vec<ChildStatus> {
        node(self).with(|inner| inner.node.child_list())
    }

    async fn select(&self, child: &WorkflowId, selection: Selection) -> Result<(), SelectError> {
        select(self, &node(self), child, selection).await
    }

    fn tool(&self, name: impl Into<String>) -> Tool<'_, W> {
        Tool::new(self, node(self), name.into())
    }

    fn token_version(&self, slot: &Slot) -> Option<Version> {
        node(self).with(|inner| inner.node.held(slot).map(|grant| grant.order().version))
    }

    fn api_url(&self) -> Option<String> {
        node(self).with(|inner| inner.api_url.clone())
    }

    fn is_checkpoint_due(&self) -> bool {
        self.continue_as_new_suggested() || self.history_length() >= CHECKPOINT_EVENTS
    }

    async fn checkpoint(
        &self,
        next_input: <<W as WorkflowImplementation>::Run as WorkflowDefinition>::Input,
    ) -> WorkflowResult<()>
    where
        W: WorkflowImplementation,
    {
        if self.is_checkpoint_due() {
            self.checkpoint_now(next_input).await?;
        }
        Ok(())
    }

    async fn checkpoint_now(
        &self,
        next_input: <<W as WorkflowImplementation>::Run as WorkflowDefinition>::Input,
    ) -> WorkflowResult<()>
    where
        W: WorkflowImplementation,
    {
        let state = node(self);
        self.wait_condition(|_| {
            state.with(|inner| inner.node.is_settled()) && self.all_handlers_finished()
        })
        .await?;
        // A cancellation that came in this very task would not reach the next run.
        if self.cancellation_token().is_cancelled() {
            return Err(WorkflowTermination::cancelled());
        }
        self.continue_as_new(next_input, ContinueAsNewOptions::default())
            .map(|never| match never {})
    }
}
