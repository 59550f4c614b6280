//! A tree that is described by its input: every node calls tools in rounds and has children of the
//! same kind.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{
    TimerOptions, WorkflowCancellationToken, WorkflowContext, WorkflowResult, WorkflowTermination,
    workflows::{join_all, select},
};
use xylem_stateful::{Child, ChildOptions, Selection, StatefulContext, stateful};

/// One tool call of a round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Step {
    /// The registered name of the tool.
    pub tool: String,
    /// Its parameters; an empty object where they are left out.
    #[serde(default = "no_parameters")]
    pub parameters: Value,
}

fn no_parameters() -> Value {
    Value::Object(serde_json::Map::new())
}

/// A child of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Branch {
    /// Appended to the parent's workflow id after a slash.
    pub name: String,
    /// What the child does.
    #[serde(default)]
    pub node: ToolTreeInput,
    /// Which slots are passed to it.
    #[serde(default)]
    pub selection: Selection,
}

/// What a node does.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ToolTreeInput {
    /// The calls of one round, one after the other.
    #[serde(default)]
    pub steps: Vec<Step>,
    /// How many rounds; without end where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounds: Option<u32>,
    /// How long to pause after a round, in milliseconds.
    #[serde(default)]
    pub pause_ms: u64,
    /// The children; started before the first round, awaited after the last one.
    #[serde(default)]
    pub children: Vec<Branch>,
    /// Calls that earlier runs of the node have made.
    #[serde(default)]
    pub calls: u64,
}

/// What a node has done.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ToolTreeResult {
    /// Its own calls and those of its children.
    pub calls: u64,
}

/// See [`ToolTreeInput`].
#[workflow]
#[derive(Default)]
pub struct ToolTree;

#[stateful(slots("default"))]
#[workflow_methods]
impl ToolTree {
    /// Starts the children, does the rounds, waits for the children.
    ///
    /// # Errors
    /// A call or a child has failed, or the workflow was cancelled.
    #[run]
    pub async fn run(
        ctx: &mut WorkflowContext<Self>,
        mut input: ToolTreeInput,
    ) -> WorkflowResult<ToolTreeResult> {
        let inherited = ctx.children();
        let inherited = inherited.iter().map(|child| &child.workflow_id);
        let mut children: Vec<_> = inherited
            .filter_map(|id| ctx.inherited_child(Self, id))
            .collect();
        children.extend(plant(ctx, std::mem::take(&mut input.children)).await?);
        while input.rounds != Some(0) {
            round(ctx, &mut input).await?;
        }
        let results = join_all(children.into_iter().map(Child::result)).await;
        let results: Vec<_> = results.into_iter().collect::<Result<_, _>>()?;
        let calls = results.iter().map(|result| result.calls);
        Ok(ToolTreeResult {
            calls: input.calls + calls.sum::<u64>(),
        })
    }
}

async fn plant(
    ctx: &WorkflowContext<ToolTree>,
    branches: Vec<Branch>,
) -> WorkflowResult<Vec<Child<ToolTreeResult>>> {
    let starts = branches.into_iter().map(|branch| {
        let id = format!("{}/{}", ctx.workflow_id(), branch.name);
        let options = ChildOptions::workflow_id(id).select(branch.selection);
        ctx.start_child(ToolTree, branch.node, options)
    });
    let started = join_all(starts).await;
    Ok(started.into_iter().collect::<Result<_, _>>()?)
}

async fn round(ctx: &WorkflowContext<ToolTree>, input: &mut ToolTreeInput) -> WorkflowResult<()> {
    for step in &input.steps {
        ctx.tool(&step.tool)
            .parameters(step.parameters.clone())
            .call()
            .await?;
        input.calls += 1;
    }
    input.rounds = input.rounds.map(|left| left - 1);
    if input.steps.is_empty() && input.rounds.is_none() {
        ctx.cancelled().await;
        return Err(WorkflowTermination::cancelled());
    }
    // A token of its own: SDK 1.1.1 panics where the workflow's cancellation and the timer come in
    // one activation.
    let pause = TimerOptions::builder(Duration::from_millis(input.pause_ms))
        .cancellation_token(WorkflowCancellationToken::new())
        .build();
    select! {
        _ = ctx.cancelled() => return Err(WorkflowTermination::cancelled()),
        _ = ctx.timer(pause) => {},
    }
    ctx.checkpoint(input.clone()).await
}
