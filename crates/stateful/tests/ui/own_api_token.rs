#![allow(unused_imports)]

use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{SyncWorkflowContext, WorkflowContext, WorkflowResult};
use xylem_stateful::stateful;

#[workflow]
#[derive(Default)]
pub struct Deploy;

#[stateful(slots("default"))]
#[workflow_methods]
impl Deploy {
    #[run]
    pub async fn run(_ctx: &mut WorkflowContext<Self>) -> WorkflowResult<()> {
        Ok(())
    }

    #[signal(name = "apiToken")]
    pub fn token(&mut self, _ctx: &mut SyncWorkflowContext<Self>, _token: String) {}
}

fn main() {}
