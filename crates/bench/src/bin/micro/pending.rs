//! An activity that is running, on a real Temporal server: what a redemption's claims are checked
//! against. This program is workflow and activity worker for it, task by task.

use anyhow::{Context, Result};
use std::time::Duration;
use temporalio_client::{Client, UntypedWorkflow, WorkflowStartOptions};
use temporalio_common::{
    data_converters::RawValue,
    protos::temporal::api::{
        command::v1::{Command, ScheduleActivityTaskCommandAttributes, command::Attributes},
        common::v1::ActivityType,
        enums::v1::CommandType,
        taskqueue::v1::TaskQueue,
        workflowservice::v1::{
            PollActivityTaskQueueRequest, PollWorkflowTaskQueueRequest,
            RespondWorkflowTaskCompletedRequest,
        },
    },
};
use tonic::Request;
use xylem_audit::Activity;
use xylem_vault::Claims;

/// The workflow's type.
pub(crate) const TYPE: &str = "Leaf";

/// The task queue.
pub(crate) const QUEUE: &str = "bench";

const NAMESPACE: &str = "default";

/// Starts a workflow with one activity and takes the activity's task: it runs from then on.
pub(crate) async fn start(client: &Client, workflow_id: &str) -> Result<Claims> {
    let options = WorkflowStartOptions::new(QUEUE, workflow_id).build();
    let input = RawValue::new(Vec::new());
    let workflow = UntypedWorkflow::new(TYPE);
    let handle = client.start_workflow(workflow, input, options).await?;
    let run_id = handle
        .run_id()
        .context("the start has no run id")?
        .to_owned();
    schedule(client).await?;
    let poll = PollActivityTaskQueueRequest {
        namespace: NAMESPACE.to_owned(),
        task_queue: Some(queue()),
        identity: "bench".to_owned(),
        ..PollActivityTaskQueueRequest::default()
    };
    let mut service = client.connection().workflow_service();
    let task = service
        .poll_activity_task_queue(Request::new(poll))
        .await?
        .into_inner();
    let attempt = u32::try_from(task.attempt)?;
    let activity = Activity::new(&task.activity_id, attempt);
    Ok(Claims {
        namespace: NAMESPACE.parse()?,
        workflow_id: workflow_id.parse()?,
        run_id: run_id.parse()?,
        workflow_type: TYPE.parse()?,
        task_queue: QUEUE.parse()?,
        activity: activity.context("the activity's id is none")?,
    })
}

/// Answers the first workflow task with the command to schedule an activity.
async fn schedule(client: &Client) -> Result<()> {
    let mut service = client.connection().workflow_service();
    let poll = PollWorkflowTaskQueueRequest {
        namespace: NAMESPACE.to_owned(),
        task_queue: Some(queue()),
        identity: "bench".to_owned(),
        ..PollWorkflowTaskQueueRequest::default()
    };
    let task = service
        .poll_workflow_task_queue(Request::new(poll))
        .await?
        .into_inner();
    let activity = ScheduleActivityTaskCommandAttributes {
        activity_id: "1".to_owned(),
        activity_type: Some(ActivityType {
            name: "xylem.call_tool".to_owned(),
        }),
        task_queue: Some(queue()),
        start_to_close_timeout: Duration::from_secs(3600).try_into().ok(),
        ..ScheduleActivityTaskCommandAttributes::default()
    };
    let command = Command {
        command_type: CommandType::ScheduleActivityTask.into(),
        attributes: Some(Attributes::ScheduleActivityTaskCommandAttributes(activity)),
        ..Command::default()
    };
    let answer = RespondWorkflowTaskCompletedRequest {
        namespace: NAMESPACE.to_owned(),
        task_token: task.task_token,
        commands: vec![command],
        identity: "bench".to_owned(),
        ..RespondWorkflowTaskCompletedRequest::default()
    };
    service
        .respond_workflow_task_completed(Request::new(answer))
        .await?;
    Ok(())
}

fn queue() -> TaskQueue {
    TaskQueue {
        name: QUEUE.to_owned(),
        ..TaskQueue::default()
    }
}
