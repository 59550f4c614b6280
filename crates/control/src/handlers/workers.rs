//! What workers run.

use super::{Handlers, answer};
use crate::{caller::caller, convert, fault::Fault};
use tonic::{Request, Response, Status};
use v1::workers_server::Workers;
use xylem_audit::Kind;
use xylem_ids::TaskQueue;
use xylem_proto::v1;
use xylem_registry::WorkflowDefinition;

#[tonic::async_trait]
impl Workers for Handlers {
    async fn register_definitions(
        &self,
        request: Request<v1::RegisterDefinitionsRequest>,
    ) -> Result<Response<v1::RegisterDefinitionsResponse>, Status> {
        answer(self.register(request.into_inner()).await)
    }
}

impl Handlers {
    async fn register(
        &self,
        request: v1::RegisterDefinitionsRequest,
    ) -> Result<v1::RegisterDefinitionsResponse, Fault> {
        let principal = caller()?;
        let queue: TaskQueue = convert::id(request.task_queue, "task_queue")?;
        if !principal.queues().contains(&queue) {
            return Err(Fault::denied(
                "queue_not_served",
                "the API key does not serve this task queue: enrol it for the queue",
            ));
        }
        let definitions = request
            .definitions
            .into_iter()
            .map(definition)
            .collect::<Result<Vec<_>, _>>()?;
        let entry = self.change(Kind::DefinitionsRegistered);
        let namespace = &self.settings.namespace;
        self.registry
            .register_definitions(namespace, &queue, &definitions, entry)
            .await?;
        Ok(v1::RegisterDefinitionsResponse {})
    }
}

fn definition(given: v1::Definition) -> Result<WorkflowDefinition, Fault> {
    Ok(WorkflowDefinition {
        workflow_type: convert::id(given.workflow_type, "definitions.workflow_type")?,
        slots: convert::ids(given.slots, "definitions.slots")?,
        transit: convert::ids(given.transit, "definitions.transit")?,
    })
}
