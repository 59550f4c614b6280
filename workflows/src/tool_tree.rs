//! A tree that is described by its input: every node calls tools in rounds and has children of the
//! same kind.

use crate::offspring::{Failed, Offspring};
use futures::FutureExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{
    TimerOptions, WorkflowCancellationToken, WorkflowContext, WorkflowResult, WorkflowTermination,
    workflows::{join_all, select},
};
use xylem_stateful::{ChildOptions, Selection, StatefulContext, stateful};

/// A node that only waits continues as new when its history has so many events; the server's limit
/// is 51,200. It is in no hurry: every child of an earlier run has to be watched.
const LONG_WAIT_EVENTS: u32 = 20_000;

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
    /// Calls that earlier runs of the node have made, and children that ended in them.
    #[serde(default)]
    pub calls: u64,
    /// How many steps of the round under way earlier runs have made.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub done: usize,
    /// The first child that has failed in an earlier run. The node fails with it at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<Failed>,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl ToolTreeInput {
    /// The step that is next in the round under way.
    fn next_step(&self) -> Option<&Step> {
        self.steps.get(self.done)
    }

    fn step_made(&mut self) {
        self.done += 1;
        self.calls = self.calls.saturating_add(1);
    }

    fn round_made(&mut self) {
        self.done = 0;
        self.rounds = self.rounds.map(|left| left.saturating_sub(1));
    }
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
        let mut offspring = Offspring::inherited(ctx);
        plant(ctx, std::mem::take(&mut input.children), &mut offspring).await?;
        while input.rounds != Some(0) {
            round(ctx, &mut input, &mut offspring).await?;
        }
        while !offspring.ended(|| is_long(ctx)).await? {
            checkpoint(ctx, &input, &mut offspring).await?;
        }
        offspring.result(input)
    }
}

async fn plant(
    ctx: &WorkflowContext<ToolTree>,
    branches: Vec<Branch>,
    offspring: &mut Offspring,
) -> WorkflowResult<()> {
    let starts = branches.into_iter().map(|branch| {
        let id = format!("{}/{}", ctx.workflow_id(), branch.name);
        let options = ChildOptions::workflow_id(id).select(branch.selection);
        ctx.start_child(ToolTree, branch.node, options)
    });
    for started in join_all(starts).await {
        offspring.add(started?);
    }
    Ok(())
}

async fn round(
    ctx: &WorkflowContext<ToolTree>,
    input: &mut ToolTreeInput,
    offspring: &mut Offspring,
) -> WorkflowResult<()> {
    while let Some(step) = input.next_step() {
        ctx.tool(&step.tool)
            .parameters(step.parameters.clone())
            .call()
            .await?;
        input.step_made();
        checkpoint(ctx, input, offspring).await?;
    }
    if input.steps.is_empty() && input.rounds.is_none() {
        ctx.wait_condition(|_| is_long(ctx)).await?;
        return checkpoint(ctx, input, offspring).await;
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
    input.round_made();
    checkpoint(ctx, input, offspring).await
}

fn is_long(ctx: &WorkflowContext<ToolTree>) -> bool {
    ctx.is_checkpoint_due() && ctx.history_length() >= LONG_WAIT_EVENTS
}

/// Continues as new if that is due. The next run goes on where this one is, and knows what the
/// children that have ended here counted, or how they failed: Temporal tells it no more.
async fn checkpoint(
    ctx: &WorkflowContext<ToolTree>,
    input: &ToolTreeInput,
    offspring: &mut Offspring,
) -> WorkflowResult<()> {
    if !ctx.is_checkpoint_due() {
        return Ok(());
    }
    loop {
        offspring.look().await?;
        let next = ctx.checkpoint(offspring.carry(input.clone()));
        // It waits until nothing is pending; whoever ends meanwhile has to be carried too.
        select! {
            changed = offspring.next_end().fuse() => changed?,
            continued = next.fuse() => return continued,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn input(json: Value) -> ToolTreeInput {
        serde_json::from_value(json).expect("an input")
    }

    #[test]
    fn a_run_goes_on_within_a_round() {
        let mut node = input(json!({ "steps": [{ "tool": "a" }, { "tool": "b" }], "rounds": 2 }));
        let mut made = Vec::new();
        while node.rounds != Some(0) {
            while let Some(step) = node.next_step() {
                made.push(step.tool.clone());
                node.step_made();
                // What a continued run starts with.
                node = input(json!(node));
            }
            node.round_made();
        }
        assert_eq!(made, ["a", "b", "a", "b"]);
        assert_eq!((node.calls, node.done), (4, 0));
    }

    #[test]
    fn more_steps_than_there_are_end_the_round() {
        let node = input(json!({ "steps": [{ "tool": "a" }], "done": 7 }));
        assert_eq!(node.next_step(), None);
    }

    /// What earlier versions wrote is read, and what they cannot read is written only where a run
    /// has something to carry.
    #[test]
    fn the_input_of_earlier_versions_is_understood_both_ways() {
        let old = json!({ "steps": [], "rounds": 1, "pauseMs": 5, "children": [], "calls": 3 });
        let node = input(old.clone());
        assert_eq!((node.calls, node.done, &node.failed), (3, 0, &None));
        assert_eq!(json!(node), old);
        assert_eq!(input(json!({})), ToolTreeInput::default());
    }

    #[test]
    fn what_is_carried_has_a_form() {
        let carried = json!({
            "steps": [], "pauseMs": 0, "children": [], "calls": 1, "done": 1,
            "failed": { "workflowId": "train/a", "outcome": { "outcome": "timed_out" } },
        });
        assert_eq!(json!(input(carried.clone())), carried);
    }
}
