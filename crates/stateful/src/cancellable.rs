//! Activities that end with the workflow's cancellation.

use futures::{FutureExt, pin_mut, select_biased};
use temporalio_common::{
    ActivityDefinition, data_converters::TemporalDeserializable, error::ActivityExecutionError,
};
use temporalio_workflow::{ActivityOptions, WorkflowCancellationToken, WorkflowContext};

/// Executes an activity under a token of its own, which is cancelled when the workflow is.
///
/// SDK 1.1.1 panics when one activation brings both the cancellation of a token and the result of
/// an operation under it (our measurement): the cancellation has forgotten the operation by then.
/// Here the result is looked at first, since all of an activation is applied before anything is
/// polled.
pub(crate) async fn execute<W, A>(
    ctx: &WorkflowContext<W>,
    activity: A,
    input: A::Input,
    mut options: ActivityOptions,
) -> Result<A::Output, ActivityExecutionError>
where
    A: ActivityDefinition,
    A::Output: TemporalDeserializable,
{
    let token = WorkflowCancellationToken::new();
    options.cancellation_token = Some(token.clone());
    let running = ctx.execute_activity(activity, input, options).fuse();
    let cancelled = ctx.cancelled().fuse();
    pin_mut!(running, cancelled);
    select_biased! {
        result = running => return result,
        _ = cancelled => token.cancel(),
    }
    running.await
}
