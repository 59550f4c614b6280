use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{WorkflowContext, WorkflowResult};
use xylem_stateful::{ChildOptions, StatefulContext, stateful};

#[workflow]
#[derive(Default)]
pub struct Plain;

#[workflow_methods]
impl Plain {
    #[run]
    pub async fn run(_ctx: &mut WorkflowContext<Self>) -> WorkflowResult<()> {
        Ok(())
    }
}

#[workflow]
#[derive(Default)]
pub struct Deploy;

#[stateful(slots("default"))]
#[workflow_methods]
impl Deploy {
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<()> {
        let _ = ctx.start_child(Plain::run, (), ChildOptions::workflow_id("plain"));
        Ok(())
    }
}

fn main() {}
