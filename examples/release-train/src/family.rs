//! The workflows that have children.

use crate::{
    leaves::{Build, Note, Rollout, Suite},
    plan::{Pace, StageKind, StagePlan, Task, TrainPlan},
    work::{Progress, Works, work},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::error::Error;
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{
    WorkflowContext, WorkflowContextView, WorkflowResult, workflows::join_all,
};
use xylem_ids::WorkflowId;
use xylem_stateful::{Child, ChildOptions, Selection, StartChildError, StatefulContext, stateful};

/// The root: starts the stages, and asks again and again whether the platform is up.
#[workflow]
#[derive(Default)]
pub struct Train {
    progress: Progress,
}

#[stateful(slots("default"))]
#[workflow_methods]
impl Train {
    /// Starts the stages, works, waits for the stages.
    ///
    /// # Errors
    /// A call or a stage failed, or the workflow was cancelled.
    #[run]
    pub async fn run(
        ctx: &mut WorkflowContext<Self>,
        mut plan: TrainPlan,
    ) -> WorkflowResult<Progress> {
        let mut children = rejoin(ctx);
        for stage in &mut plan.stages {
            stage.pace.get_or_insert_with(|| plan.pace.clone());
        }
        let stages = std::mem::take(&mut plan.stages);
        let starts = stages.into_iter().map(|stage| start_stage(ctx, stage));
        children.extend(all(starts).await?);
        let next = |progress| TrainPlan {
            progress,
            ..plan.clone()
        };
        let own = work(ctx, "", &plan.pace, plan.progress, next).await?;
        sum(own, children).await
    }

    /// What it has done so far, without its children.
    #[query]
    pub fn progress(&self, _ctx: &WorkflowContextView) -> Progress {
        self.progress
    }
}

impl Works for Train {
    const TOOL: &'static str = "acme.status";

    fn parameters(_: &str) -> Value {
        json!({})
    }

    fn progress_mut(&mut self) -> &mut Progress {
        &mut self.progress
    }
}

/// Builds or tests: starts its leaves, and asks again and again whether the platform is up.
#[workflow]
#[derive(Default)]
pub struct Stage {
    progress: Progress,
}

#[stateful(slots("default"))]
#[workflow_methods]
impl Stage {
    /// Starts the leaves, works, waits for the leaves.
    ///
    /// # Errors
    /// A call or a leaf failed, or the workflow was cancelled.
    #[run]
    pub async fn run(
        ctx: &mut WorkflowContext<Self>,
        mut plan: StagePlan,
    ) -> WorkflowResult<Progress> {
        let children = begin(ctx, &mut plan).await?;
        let pace = plan.pace.clone().unwrap_or_else(Pace::steady);
        let next = |progress| StagePlan {
            progress,
            ..plan.clone()
        };
        let own = work(ctx, "", &pace, plan.progress, next).await?;
        sum(own, children).await
    }

    /// What it has done so far, without its children.
    #[query]
    pub fn progress(&self, _ctx: &WorkflowContextView) -> Progress {
        self.progress
    }
}

impl Works for Stage {
    const TOOL: &'static str = "acme.status";

    fn parameters(_: &str) -> Value {
        json!({})
    }

    fn progress_mut(&mut self) -> &mut Progress {
        &mut self.progress
    }
}

/// The update `hold`: a service and whether it is to be held back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Held {
    /// The service.
    pub service: String,
    /// Whether it is held.
    pub held: bool,
}

/// A fleet of machines: starts the rollouts to it. It calls no tool itself, so it declares the
/// token as transit: it passes grants on and could not redeem one.
#[workflow]
#[derive(Default)]
pub struct Fleet;

#[stateful(transit("default"))]
#[workflow_methods]
impl Fleet {
    /// Starts the rollouts and waits for them.
    ///
    /// # Errors
    /// A rollout failed.
    #[run]
    pub async fn run(
        ctx: &mut WorkflowContext<Self>,
        mut plan: StagePlan,
    ) -> WorkflowResult<Progress> {
        let children = begin(ctx, &mut plan).await?;
        sum(plan.progress, children).await
    }

    /// Holds a service back, or releases it: while it is held, its rollout is not selected for the
    /// token. When the update has completed, the vault refuses what was held.
    ///
    /// # Errors
    /// There is no such rollout, or the change could not be recorded; nothing has changed then.
    #[update]
    pub async fn hold(
        ctx: &mut WorkflowContext<Self>,
        change: Held,
    ) -> Result<Held, Box<dyn Error + Send + Sync>> {
        let id: WorkflowId = format!("{}/{}", ctx.workflow_id(), change.service).parse()?;
        if !ctx.children().iter().any(|child| child.workflow_id == id) {
            return Err(format!("no rollout {id}").into());
        }
        let selection = match change.held {
            true => Selection::None,
            false => Selection::All,
        };
        ctx.select(&id, selection).await?;
        Ok(change)
    }
}

/// Release notes and the like: none of it needs the token.
#[workflow]
#[derive(Default)]
pub struct Paperwork;

#[stateful]
#[workflow_methods]
impl Paperwork {
    /// Starts the notes and waits for them.
    ///
    /// # Errors
    /// A note failed.
    #[run]
    pub async fn run(
        ctx: &mut WorkflowContext<Self>,
        mut plan: StagePlan,
    ) -> WorkflowResult<Progress> {
        let children = begin(ctx, &mut plan).await?;
        sum(plan.progress, children).await
    }
}

async fn start_stage(
    ctx: &WorkflowContext<Train>,
    stage: StagePlan,
) -> Result<Child<Progress>, StartChildError> {
    let options = below(ctx, &stage.name);
    match stage.kind {
        StageKind::Build | StageKind::Test => ctx.start_child(Stage::run, stage, options).await,
        StageKind::Deploy => ctx.start_child(Fleet::run, stage, options).await,
        StageKind::Paperwork => ctx.start_child(Paperwork::run, stage, options).await,
    }
}

/// The leaves of a stage: those an earlier run has started, or new ones.
async fn begin<W: 'static>(
    ctx: &WorkflowContext<W>,
    plan: &mut StagePlan,
) -> WorkflowResult<Vec<Child<Progress>>> {
    let mut children = rejoin(ctx);
    let pace = plan.pace.clone().unwrap_or_else(Pace::steady);
    let kind = plan.kind;
    let leaves = std::mem::take(&mut plan.leaves);
    let starts = leaves.into_iter().map(|subject| {
        let task = Task {
            subject,
            pace: pace.clone(),
            progress: Progress::default(),
        };
        start_leaf(ctx, kind, task)
    });
    children.extend(all(starts).await?);
    Ok(children)
}

async fn start_leaf<W: 'static>(
    ctx: &WorkflowContext<W>,
    kind: StageKind,
    task: Task,
) -> Result<Child<Progress>, StartChildError> {
    let options = below(ctx, &task.subject);
    match kind {
        StageKind::Build => ctx.start_child(Build::run, task, options).await,
        StageKind::Test => ctx.start_child(Suite::run, task, options).await,
        StageKind::Deploy => ctx.start_child(Rollout::run, task, options).await,
        StageKind::Paperwork => ctx.start_child(Note::run, task, options).await,
    }
}

fn below<W>(ctx: &WorkflowContext<W>, name: &str) -> ChildOptions {
    ChildOptions::workflow_id(format!("{}/{name}", ctx.workflow_id()))
}

/// The children that an earlier run of this workflow has started.
fn rejoin<W: 'static>(ctx: &WorkflowContext<W>) -> Vec<Child<Progress>> {
    let inherited = ctx.children();
    let again = inherited.iter().filter_map(|child| {
        let id = &child.workflow_id;
        match child.workflow_type.as_str() {
            "Stage" => ctx.inherited_child(Stage::run, id),
            "Fleet" => ctx.inherited_child(Fleet::run, id),
            "Paperwork" => ctx.inherited_child(Paperwork::run, id),
            "Build" => ctx.inherited_child(Build::run, id),
            "Suite" => ctx.inherited_child(Suite::run, id),
            "Rollout" => ctx.inherited_child(Rollout::run, id),
            _ => ctx.inherited_child(Note::run, id),
        }
    });
    again.collect()
}

async fn all(
    starts: impl Iterator<Item = impl Future<Output = Result<Child<Progress>, StartChildError>>>,
) -> Result<Vec<Child<Progress>>, StartChildError> {
    join_all(starts).await.into_iter().collect()
}

async fn sum(own: Progress, children: Vec<Child<Progress>>) -> WorkflowResult<Progress> {
    let results = join_all(children.into_iter().map(Child::result)).await;
    let mut total = own;
    for result in results {
        total = total.and(result?);
    }
    Ok(total)
}
