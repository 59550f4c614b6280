//! Where a node meets the SDK: one interceptor per workflow instance carries the node's state to
//! every handler, and puts the header on its children.

use crate::{definition::Definition, header::TREE_HEADER, state::NodeState};
use temporalio_common::protos::temporal::api::common::v1::Payload;
use temporalio_workflow::{
    WorkflowContextKey, WorkflowContextView,
    workflow_interceptors::{
        CancellableWorkflowOutboundFuture, ExecuteWorkflowInput, ExecuteWorkflowResult,
        HandleQueryInput, HandleQueryResult, HandleSignalInput, HandleSignalResult,
        HandleUpdateInput, HandleUpdateResult, StartChildWorkflowInput, StartChildWorkflowResult,
        SyncWorkflowInterceptorContext, ValidateUpdateInput, ValidateUpdateResult,
        WorkflowInterceptor, WorkflowInterceptorConstructor, WorkflowInterceptorContext,
        WorkflowInterceptorFuture, WorkflowNext,
    },
};

/// The node of the workflow that runs.
pub(crate) struct NodeKey;

impl WorkflowContextKey for NodeKey {
    type Value = NodeState;
}

/// The header of the child that is being started.
pub(crate) struct ChildHeaderKey;

impl WorkflowContextKey for ChildHeaderKey {
    type Value = Payload;
}

pub(crate) fn constructor(definitions: Vec<Definition>) -> WorkflowInterceptorConstructor {
    WorkflowInterceptorConstructor::new(move |view: &WorkflowContextView| {
        let definition = definitions
            .iter()
            .find(|definition| definition.workflow_type.as_str() == view.workflow_type());
        NodeInterceptor {
            node: definition.map(|definition| NodeState::new(definition, view)),
        }
    })
}

/// `None` on workflows of other types that share the worker.
struct NodeInterceptor {
    node: Option<NodeState>,
}

impl NodeInterceptor {
    fn inside<'a, I: 'a, T: 'a>(
        &self,
        ctx: &WorkflowInterceptorContext,
        input: I,
        next: WorkflowNext<'a, I, WorkflowInterceptorFuture<'a, T>>,
    ) -> WorkflowInterceptorFuture<'a, T> {
        match &self.node {
            None => next.run(input),
            // Run inside the scope, not before it: a synchronous handler runs when it is called.
            Some(node) => WorkflowInterceptorFuture::new(ctx.with_context_value::<NodeKey, _>(
                node.clone(),
                async move { next.run(input).await },
            )),
        }
    }

    fn inside_sync<T>(&self, ctx: &SyncWorkflowInterceptorContext, f: impl FnOnce() -> T) -> T {
        match &self.node {
            None => f(),
            Some(node) => ctx.with_context_value::<NodeKey, _>(node.clone(), f),
        }
    }
}

impl WorkflowInterceptor for NodeInterceptor {
    fn execute<'a>(
        &'a self,
        ctx: WorkflowInterceptorContext,
        input: ExecuteWorkflowInput,
        next: WorkflowNext<
            'a,
            ExecuteWorkflowInput,
            WorkflowInterceptorFuture<'a, ExecuteWorkflowResult>,
        >,
    ) -> WorkflowInterceptorFuture<'a, ExecuteWorkflowResult> {
        self.inside(&ctx, input, next)
    }

    fn handle_signal<'a>(
        &'a self,
        ctx: WorkflowInterceptorContext,
        input: HandleSignalInput,
        next: WorkflowNext<
            'a,
            HandleSignalInput,
            WorkflowInterceptorFuture<'a, HandleSignalResult>,
        >,
    ) -> WorkflowInterceptorFuture<'a, HandleSignalResult> {
        self.inside(&ctx, input, next)
    }

    fn handle_update<'a>(
        &'a self,
        ctx: WorkflowInterceptorContext,
        input: HandleUpdateInput,
        next: WorkflowNext<
            'a,
            HandleUpdateInput,
            WorkflowInterceptorFuture<'a, HandleUpdateResult>,
        >,
    ) -> WorkflowInterceptorFuture<'a, HandleUpdateResult> {
        self.inside(&ctx, input, next)
    }

    fn handle_query(
        &self,
        ctx: SyncWorkflowInterceptorContext,
        input: HandleQueryInput,
        next: WorkflowNext<'_, HandleQueryInput, HandleQueryResult>,
    ) -> HandleQueryResult {
        self.inside_sync(&ctx, || next.run(input))
    }

    fn validate_update(
        &self,
        ctx: SyncWorkflowInterceptorContext,
        input: ValidateUpdateInput,
        next: WorkflowNext<'_, ValidateUpdateInput, ValidateUpdateResult>,
    ) -> ValidateUpdateResult {
        self.inside_sync(&ctx, || next.run(input))
    }

    fn start_child_workflow(
        &self,
        ctx: WorkflowInterceptorContext,
        mut input: StartChildWorkflowInput,
        next: WorkflowNext<
            'static,
            StartChildWorkflowInput,
            CancellableWorkflowOutboundFuture<StartChildWorkflowResult>,
        >,
    ) -> CancellableWorkflowOutboundFuture<StartChildWorkflowResult> {
        if let Some(header) = ctx.context_value::<ChildHeaderKey>() {
            input
                .headers_mut()
                .insert(TREE_HEADER.to_owned(), Payload::clone(&header));
        }
        next.run(input)
    }
}
