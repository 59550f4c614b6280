//! The work that most workflows of the train do: call a tool, pause, again and again.

use crate::plan::Pace;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;
use temporalio_common::{
    WorkflowDefinition,
    error::{ActivityExecutionError, IncomingError},
};
use temporalio_workflow::{
    TimerOptions, WorkflowCancellationToken, WorkflowContext, WorkflowResult, WorkflowTermination,
    workflows::{WorkflowImplementation, select},
};
use xylem_stateful::{StatefulContext, ToolError};

/// How long to leave off after a refusal, in pauses.
const REFUSED_PAUSES: u32 = 3;

/// What a workflow has done: the answer to the query `progress`, and its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Progress {
    /// Rounds.
    pub rounds: u32,
    /// Tool calls that were answered.
    pub calls: u32,
    /// Tool calls that were refused, because the workflow was excluded.
    pub refused: u32,
}

/// A workflow that calls one tool.
pub(crate) trait Works: WorkflowImplementation + 'static {
    /// The tool.
    const TOOL: &'static str;
    /// Its parameters.
    fn parameters(subject: &str) -> Value;
    /// Where the progress is kept.
    fn progress_mut(&mut self) -> &mut Progress;
}

/// The input type of a workflow.
pub(crate) type Input<W> = <<W as WorkflowImplementation>::Run as WorkflowDefinition>::Input;

/// Works until the rounds are done. `next` makes the input of the run that follows a checkpoint.
///
/// # Errors
/// A call failed for good, the workflow was cancelled, or it continues as new.
pub(crate) async fn work<W: Works>(
    ctx: &WorkflowContext<W>,
    subject: &str,
    pace: &Pace,
    mut progress: Progress,
    next: impl Fn(Progress) -> Input<W>,
) -> WorkflowResult<Progress> {
    ctx.state_mut(|workflow| *workflow.progress_mut() = progress);
    while pace.goes_on_after(progress) {
        let pauses = call(ctx, subject, &mut progress).await?;
        progress.rounds += 1;
        ctx.state_mut(|workflow| *workflow.progress_mut() = progress);
        pause(ctx, pace, pauses).await?;
        checkpoint(ctx, pace, progress, &next).await?;
    }
    Ok(progress)
}

/// One call; the answer is how many pauses to make after it. A workflow that its parent has
/// excluded does not fail: it may be included again.
async fn call<W: Works>(
    ctx: &WorkflowContext<W>,
    subject: &str,
    progress: &mut Progress,
) -> WorkflowResult<u32> {
    let call = ctx.tool(W::TOOL).parameters(W::parameters(subject));
    match call.call().await {
        Ok(_) => progress.calls += 1,
        Err(ToolError::Failed(error)) if is_refusal(&error) => {
            progress.refused += 1;
            return Ok(REFUSED_PAUSES);
        }
        Err(error) => return Err(error.into()),
    }
    Ok(1)
}

fn is_refusal(error: &ActivityExecutionError) -> bool {
    let Some(IncomingError::Application(failure)) = error.cause() else {
        return false;
    };
    failure.type_name() == Some("xylem.refused")
}

/// Pauses, unless the workflow is cancelled. The timer has a cancellation token of its own: one that
/// fires in the very task that cancels the workflow is taken for nondeterminism by SDK 1.1.1
/// otherwise.
pub(crate) async fn pause<W>(
    ctx: &WorkflowContext<W>,
    pace: &Pace,
    pauses: u32,
) -> WorkflowResult<()> {
    let timer = TimerOptions::builder(Duration::from_millis(pace.pause_ms) * pauses)
        .cancellation_token(WorkflowCancellationToken::new())
        .build();
    select! {
        _ = ctx.cancelled() => Err(WorkflowTermination::cancelled()),
        _ = ctx.timer(timer) => Ok(()),
    }
}

/// The one place where a workflow of the train may continue as new.
pub(crate) async fn checkpoint<W: WorkflowImplementation + 'static>(
    ctx: &WorkflowContext<W>,
    pace: &Pace,
    progress: Progress,
    next: impl Fn(Progress) -> Input<W>,
) -> WorkflowResult<()> {
    if !pace.goes_on_after(progress) {
        return Ok(());
    }
    if pace.is_run_over_after(progress) {
        return ctx.checkpoint_now(next(progress)).await;
    }
    ctx.checkpoint(next(progress)).await
}

impl Pace {
    pub(crate) fn goes_on_after(&self, progress: Progress) -> bool {
        self.rounds.is_none_or(|rounds| progress.rounds < rounds)
    }

    fn is_run_over_after(&self, progress: Progress) -> bool {
        let run = self.rounds_per_run.filter(|rounds| *rounds > 0);
        run.is_some_and(|rounds| progress.rounds.is_multiple_of(rounds))
    }
}

impl Progress {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            rounds: self.rounds + other.rounds,
            calls: self.calls + other.calls,
            refused: self.refused + other.refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_ends_after_its_rounds() {
        let pace = Pace {
            rounds: Some(5),
            rounds_per_run: Some(2),
            ..Pace::steady()
        };
        let after = |rounds| Progress {
            rounds,
            ..Progress::default()
        };
        assert!(pace.is_run_over_after(after(2)) && !pace.is_run_over_after(after(3)));
        assert!(pace.goes_on_after(after(4)) && !pace.goes_on_after(after(5)));
    }
}
