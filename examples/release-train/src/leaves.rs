//! The leaves.

use crate::{
    plan::Task,
    work::{Progress, Works, checkpoint, pause, work},
};
use serde_json::{Value, json};
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{WorkflowContext, WorkflowContextView, WorkflowResult};
use xylem_stateful::stateful;

/// The build that a train ships.
const BUILD: &str = "build-42";

async fn toil<W>(ctx: &WorkflowContext<W>, task: Task) -> WorkflowResult<Progress>
where
    W: Works,
    W::Run: temporalio_common::WorkflowDefinition<Input = Task>,
{
    let next = |progress| Task {
        progress,
        ..task.clone()
    };
    work(ctx, &task.subject, &task.pace, task.progress, next).await
}

/// Asks for the state of a build, again and again.
#[workflow]
#[derive(Default)]
pub struct Build {
    progress: Progress,
}

#[stateful(slots("default"))]
#[workflow_methods]
impl Build {
    /// Works until the rounds are done.
    ///
    /// # Errors
    /// A call failed for good, or the workflow was cancelled.
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>, task: Task) -> WorkflowResult<Progress> {
        toil(ctx, task).await
    }

    /// What it has done so far.
    #[query]
    pub fn progress(&self, _ctx: &WorkflowContextView) -> Progress {
        self.progress
    }
}

impl Works for Build {
    const TOOL: &'static str = "acme.build";

    fn parameters(subject: &str) -> Value {
        json!({ "id": subject })
    }

    fn progress_mut(&mut self) -> &mut Progress {
        &mut self.progress
    }
}

/// Runs a test suite, again and again.
#[workflow]
#[derive(Default)]
pub struct Suite {
    progress: Progress,
}

#[stateful(slots("default"))]
#[workflow_methods]
impl Suite {
    /// Works until the rounds are done.
    ///
    /// # Errors
    /// A call failed for good, or the workflow was cancelled.
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>, task: Task) -> WorkflowResult<Progress> {
        toil(ctx, task).await
    }

    /// What it has done so far.
    #[query]
    pub fn progress(&self, _ctx: &WorkflowContextView) -> Progress {
        self.progress
    }
}

impl Works for Suite {
    const TOOL: &'static str = "acme.test";

    fn parameters(subject: &str) -> Value {
        json!({ "suite": subject, "build": BUILD })
    }

    fn progress_mut(&mut self) -> &mut Progress {
        &mut self.progress
    }
}

/// Deploys a service, again and again.
#[workflow]
#[derive(Default)]
pub struct Rollout {
    progress: Progress,
}

#[stateful(slots("default"))]
#[workflow_methods]
impl Rollout {
    /// Works until the rounds are done.
    ///
    /// # Errors
    /// A call failed for good, or the workflow was cancelled.
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>, task: Task) -> WorkflowResult<Progress> {
        toil(ctx, task).await
    }

    /// What it has done so far.
    #[query]
    pub fn progress(&self, _ctx: &WorkflowContextView) -> Progress {
        self.progress
    }
}

impl Works for Rollout {
    const TOOL: &'static str = "acme.deploy";

    fn parameters(subject: &str) -> Value {
        json!({ "service": subject, "environment": "production" })
    }

    fn progress_mut(&mut self) -> &mut Progress {
        &mut self.progress
    }
}

/// Writes a release note: no tool, no slot, no token.
#[workflow]
#[derive(Default)]
pub struct Note {
    progress: Progress,
}

#[stateful]
#[workflow_methods]
impl Note {
    /// Writes until the rounds are done.
    ///
    /// # Errors
    /// The workflow was cancelled.
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>, task: Task) -> WorkflowResult<Progress> {
        let next = |progress| Task {
            progress,
            ..task.clone()
        };
        let mut progress = task.progress;
        while task.pace.goes_on_after(progress) {
            pause(ctx, &task.pace, 1).await?;
            progress.rounds += 1;
            ctx.state_mut(|note| note.progress = progress);
            checkpoint(ctx, &task.pace, progress, next).await?;
        }
        Ok(progress)
    }

    /// What it has done so far.
    #[query]
    pub fn progress(&self, _ctx: &WorkflowContextView) -> Progress {
        self.progress
    }
}
