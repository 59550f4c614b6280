//! What an author writes beside `#[stateful]` stays the author's: input and output types, and
//! handlers of every kind. That this file compiles is the test.
#![expect(
    missing_docs,
    reason = "the SDK macro generates undocumented constants"
)]

use serde::{Deserialize, Serialize};
use serde_json::json;
use std::time::Duration;
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{
    SyncWorkflowContext, WorkflowContext, WorkflowContextView, WorkflowResult,
};
use xylem_stateful::{ChildOptions, Selection, StatefulContext, Workflows, stateful};

#[derive(Clone, Serialize, Deserialize)]
pub struct Build {
    pub commit: String,
}

#[derive(Serialize, Deserialize)]
pub struct Shipped {
    pub status: u16,
}

/// Declares two slots, passes a third on, and has a signal, a query and an update of its own.
#[workflow]
#[derive(Default)]
pub struct Ship {
    approved: bool,
}

#[stateful(slots("default", "github"), transit("aws"))]
#[workflow_methods]
impl Ship {
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>, build: Build) -> WorkflowResult<Shipped> {
        ctx.wait_condition(|ship| ship.approved).await?;
        ctx.timer(Duration::from_secs(1)).await;
        let options = ChildOptions::workflow_id("notify").select(Selection::None);
        let notify = ctx
            .start_child(Notify::run, build.commit.clone(), options)
            .await?;
        notify.result().await?;
        let parameters = json!({ "commit": build.commit });
        let answer = ctx
            .tool("acme.deploy")
            .slot("github")
            .parameters(parameters)
            .call()
            .await?;
        ctx.checkpoint(build).await?;
        Ok(Shipped {
            status: answer.status,
        })
    }

    #[signal]
    pub fn approve(&mut self, _ctx: &mut SyncWorkflowContext<Self>) {
        self.approved = true;
    }

    #[signal(name = "apiTokens")]
    pub async fn another(ctx: &mut WorkflowContext<Self>, _count: u32) {
        ctx.timer(Duration::from_secs(1)).await;
    }

    #[query]
    pub fn is_approved(&self, _ctx: &WorkflowContextView) -> bool {
        self.approved
    }

    #[update]
    pub fn set_approved(&mut self, _ctx: &mut SyncWorkflowContext<Self>, approved: bool) -> bool {
        std::mem::replace(&mut self.approved, approved)
    }
}

/// Declares nothing, and calls its `run` otherwise.
#[workflow]
#[derive(Default)]
pub struct Notify;

#[stateful]
#[workflow_methods]
impl Notify {
    #[run]
    pub async fn run(_ctx: &mut WorkflowContext<Self>, _commit: String) -> WorkflowResult<()> {
        Ok(())
    }
}

#[test]
fn declarations_reach_the_worker() {
    let workflows = Workflows::default();
    let workflows = workflows
        .with::<Ship>()
        .expect("a name")
        .with::<Notify>()
        .expect("a name");
    let [ship, notify] = workflows.definitions() else {
        panic!("two definitions");
    };
    let names = |slots: &std::collections::BTreeSet<xylem_ids::Slot>| {
        slots.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(names(&ship.slots), ["default", "github"]);
    assert_eq!(names(&ship.transit), ["aws"]);
    assert_eq!(names(&ship.takes()), ["aws", "default", "github"]);
    assert_eq!(notify.workflow_type.as_str(), "Notify");
    assert!(notify.takes().is_empty());
}
