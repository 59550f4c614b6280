#![allow(unused_imports)]

use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{WorkflowContext, WorkflowResult};
use xylem_stateful::stateful;

#[workflow]
#[derive(Default)]
pub struct Deploy;

#[stateful(tokens("default"))]
#[workflow_methods]
impl Deploy {
    #[run]
    pub async fn run(_ctx: &mut WorkflowContext<Self>) -> WorkflowResult<()> {
        Ok(())
    }
}

fn main() {}
