//! [`Temporal`] over the raw services of the official client: request ids and first-run guards,
//! which everything here relies on, are not in its typed calls.

use super::{
    Description, Execution, Listing, PendingActivity, RunStatus, SEARCH_ATTRIBUTE, Signal,
    StartWorkflow, Stop, Temporal, TemporalError, listable,
};
use async_trait::async_trait;
use serde_json::Value;
use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};
use temporalio_client::{Client, NamespacedClient, grpc::WorkflowService};
use temporalio_common::protos::temporal::api::{
    common::v1::{Header, Payload, Payloads, WorkflowExecution, WorkflowType as ProtoType},
    enums::v1::{
        IndexedValueType, PendingActivityState, QueryRejectCondition, WorkflowExecutionStatus,
        WorkflowIdConflictPolicy, WorkflowIdReusePolicy,
    },
    operatorservice::v1::{AddSearchAttributesRequest, ListSearchAttributesRequest},
    query::v1::WorkflowQuery,
    taskqueue::v1::TaskQueue as ProtoQueue,
    workflow::v1::{PendingActivityInfo, WorkflowExecutionInfo},
    workflowservice::v1::{
        DescribeWorkflowExecutionRequest, ListWorkflowExecutionsRequest, QueryWorkflowRequest,
        RequestCancelWorkflowExecutionRequest, SignalWorkflowExecutionRequest,
        StartWorkflowExecutionRequest, TerminateWorkflowExecutionRequest,
    },
};
use tonic::{Code, Request, Status};
use xylem_ids::{RunId, WorkflowId};

/// How long one request may take, the client's own repetitions included.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a query may take: a worker has to answer it.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// How many workflows one page of a list has.
const PAGE: usize = 500;

/// A namespace of a real cluster.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("namespace", &self.client.namespace())
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// Uses this client and its namespace.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The client, for a worker beside.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    async fn page(
        &self,
        query: &str,
        size: usize,
        next_page_token: Vec<u8>,
    ) -> Result<(Vec<WorkflowExecutionInfo>, Vec<u8>), TemporalError> {
        let message = ListWorkflowExecutionsRequest {
            namespace: self.client.namespace(),
            page_size: i32::try_from(size).unwrap_or(i32::MAX),
            next_page_token,
            query: query.to_owned(),
        };
        let mut client = self.client.clone();
        let answer =
            WorkflowService::list_workflow_executions(&mut client, within(message, TIMEOUT));
        let answer = answer.await.map_err(error)?.into_inner();
        Ok((answer.executions, answer.next_page_token))
    }
}

#[async_trait]
impl Temporal for Cluster {
    async fn start(&self, start: StartWorkflow) -> Result<RunId, TemporalError> {
        let fields = start.headers.iter();
        let header = Header {
            fields: fields
                .map(|(name, value)| ((*name).to_owned(), json(value)))
                .collect(),
        };
        let message = StartWorkflowExecutionRequest {
            namespace: self.client.namespace(),
            workflow_id: start.workflow_id.into(),
            workflow_type: Some(ProtoType {
                name: start.workflow_type.into(),
            }),
            task_queue: Some(ProtoQueue {
                name: start.task_queue.into(),
                ..ProtoQueue::default()
            }),
            input: start.input.as_ref().map(payloads),
            workflow_execution_timeout: start.execution_timeout.and_then(|t| t.try_into().ok()),
            identity: self.client.identity(),
            request_id: start.request_id,
            workflow_id_reuse_policy: WorkflowIdReusePolicy::AllowDuplicate.into(),
            workflow_id_conflict_policy: WorkflowIdConflictPolicy::Fail.into(),
            header: Some(header),
            workflow_start_delay: start.delay.and_then(|delay| delay.try_into().ok()),
            ..StartWorkflowExecutionRequest::default()
        };
        let mut client = self.client.clone();
        let answer = client
            .start_workflow_execution(within(message, TIMEOUT))
            .await;
        let answer = answer.map_err(error)?.into_inner();
        let first = match answer.first_execution_run_id {
            first if first.is_empty() => answer.run_id,
            first => first,
        };
        first
            .parse()
            .map_err(|_| TemporalError::Unintelligible("run id"))
    }

    async fn signal(&self, signal: Signal<'_>) -> Result<(), TemporalError> {
        let message = SignalWorkflowExecutionRequest {
            namespace: self.client.namespace(),
            workflow_execution: Some(execution(signal.workflow_id, signal.run_id)),
            signal_name: signal.name.to_owned(),
            input: Some(payloads(&signal.payload)),
            identity: self.client.identity(),
            request_id: signal.request_id,
            ..SignalWorkflowExecutionRequest::default()
        };
        let mut client = self.client.clone();
        let answer = client.signal_workflow_execution(within(message, TIMEOUT));
        answer.await.map_err(error)?;
        Ok(())
    }

    async fn describe(
        &self,
        workflow_id: &WorkflowId,
        run_id: Option<&RunId>,
    ) -> Result<Description, TemporalError> {
        let message = DescribeWorkflowExecutionRequest {
            namespace: self.client.namespace(),
            execution: Some(execution(workflow_id, run_id)),
        };
        let mut client = self.client.clone();
        let answer = client
            .describe_workflow_execution(within(message, TIMEOUT))
            .await;
        let answer = answer.map_err(error)?.into_inner();
        let info = answer.workflow_execution_info;
        let mut execution =
            read_execution(info.ok_or(TemporalError::Unintelligible("description"))?)?;
        if let Some(config) = answer.execution_config {
            let queue = config.task_queue.map(|queue| queue.name);
            execution.task_queue = queue
                .and_then(|name| name.parse().ok())
                .unwrap_or(execution.task_queue);
        }
        let extended = answer.workflow_extended_info.unwrap_or_default();
        execution.chain_started_at = extended
            .original_start_time
            .and_then(|time| SystemTime::try_from(time).ok());
        Ok(Description {
            execution,
            activities: answer
                .pending_activities
                .into_iter()
                .map(activity)
                .collect(),
            start_requests: extended.request_id_infos.into_keys().collect(),
        })
    }

    async fn list(
        &self,
        root: &WorkflowId,
        closed_too: bool,
        limit: usize,
    ) -> Result<Listing, TemporalError> {
        let mut query = format!("RootWorkflowId = {}", quoted(root.as_str())?);
        if !closed_too {
            query += " AND ExecutionStatus = 'Running'";
        }
        let mut listing = Listing::default();
        let mut token = Vec::new();
        loop {
            let room = limit.saturating_sub(listing.executions.len());
            let (page, next) = self.page(&query, room.min(PAGE), token).await?;
            for info in page {
                listing.executions.push(read_execution(info)?);
            }
            let full = listing.executions.len() >= limit;
            if next.is_empty() || full {
                listing.truncated = full && !next.is_empty();
                listing.executions.truncate(limit);
                return Ok(listing);
            }
            token = next;
        }
    }

    async fn query(
        &self,
        workflow_id: &WorkflowId,
        run_id: &RunId,
        name: &'static str,
    ) -> Result<Value, TemporalError> {
        let message = QueryWorkflowRequest {
            namespace: self.client.namespace(),
            execution: Some(execution(workflow_id, Some(run_id))),
            query: Some(WorkflowQuery {
                query_type: name.to_owned(),
                ..WorkflowQuery::default()
            }),
            query_reject_condition: QueryRejectCondition::NotOpen.into(),
        };
        let mut client = self.client.clone();
        let asked = client.query_workflow(within(message, QUERY_TIMEOUT));
        // A worker that is gone makes the server wait as long as it is let.
        let answer = tokio::time::timeout(QUERY_TIMEOUT, asked)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no worker answered in time")));
        let answer = answer.map_err(query_error)?.into_inner();
        if answer.query_rejected.is_some() {
            return Err(TemporalError::NotFound);
        }
        let payload = answer
            .query_result
            .and_then(|result| result.payloads.into_iter().next());
        let data = payload
            .ok_or(TemporalError::Unintelligible("query result"))?
            .data;
        serde_json::from_slice(&data).map_err(|_| TemporalError::Unintelligible("JSON"))
    }

    async fn stop(
        &self,
        workflow_id: &WorkflowId,
        first_run_id: &RunId,
        how: Stop,
        reason: &str,
    ) -> Result<(), TemporalError> {
        let mut client = self.client.clone();
        match how {
            Stop::Cancel => {
                let message = RequestCancelWorkflowExecutionRequest {
                    namespace: self.client.namespace(),
                    workflow_execution: Some(execution(workflow_id, None)),
                    identity: self.client.identity(),
                    request_id: format!("xylem-stop-{first_run_id}"),
                    first_execution_run_id: first_run_id.to_string(),
                    reason: reason.to_owned(),
                    ..RequestCancelWorkflowExecutionRequest::default()
                };
                let answer = client.request_cancel_workflow_execution(within(message, TIMEOUT));
                answer.await.map_err(error)?;
            }
            Stop::Terminate => {
                let message = TerminateWorkflowExecutionRequest {
                    namespace: self.client.namespace(),
                    workflow_execution: Some(execution(workflow_id, None)),
                    identity: self.client.identity(),
                    first_execution_run_id: first_run_id.to_string(),
                    reason: reason.to_owned(),
                    ..TerminateWorkflowExecutionRequest::default()
                };
                let answer = client.terminate_workflow_execution(within(message, TIMEOUT));
                answer.await.map_err(error)?;
            }
        }
        Ok(())
    }

    async fn has_search_attribute(&self) -> Result<bool, TemporalError> {
        let message = ListSearchAttributesRequest {
            namespace: self.client.namespace(),
        };
        let mut service = self.client.connection().operator_service();
        let answer = service
            .list_search_attributes(within(message, TIMEOUT))
            .await;
        let custom = answer.map_err(error)?.into_inner().custom_attributes;
        Ok(custom.get(SEARCH_ATTRIBUTE) == Some(&(IndexedValueType::KeywordList as i32)))
    }

    async fn register_search_attribute(&self) -> Result<(), TemporalError> {
        let kind = IndexedValueType::KeywordList as i32;
        let message = AddSearchAttributesRequest {
            namespace: self.client.namespace(),
            search_attributes: HashMap::from([(SEARCH_ATTRIBUTE.to_owned(), kind)]),
        };
        let mut service = self.client.connection().operator_service();
        match service
            .add_search_attributes(within(message, TIMEOUT))
            .await
        {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            Err(status) => Err(error(status)),
        }
    }
}

fn within<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

fn execution(workflow_id: &WorkflowId, run_id: Option<&RunId>) -> WorkflowExecution {
    WorkflowExecution {
        workflow_id: workflow_id.to_string(),
        run_id: run_id.map(RunId::to_string).unwrap_or_default(),
    }
}

/// A visibility query's string literal.
fn quoted(text: &str) -> Result<String, TemporalError> {
    if !listable(text) {
        let status = Status::invalid_argument("the workflow id cannot stand in a list query");
        return Err(TemporalError::Rejected(status));
    }
    Ok(format!("'{}'", text.replace('\'', "''")))
}

fn json(value: &Value) -> Payload {
    Payload {
        metadata: HashMap::from([("encoding".to_owned(), b"json/plain".to_vec())]),
        data: value.to_string().into_bytes(),
        ..Payload::default()
    }
}

fn payloads(value: &Value) -> Payloads {
    Payloads {
        payloads: vec![json(value)],
    }
}

fn activity(info: PendingActivityInfo) -> PendingActivity {
    let started = [
        PendingActivityState::Started,
        PendingActivityState::CancelRequested,
        PendingActivityState::PauseRequested,
    ];
    PendingActivity {
        started: started.contains(&info.state()),
        attempt: u32::try_from(info.attempt).unwrap_or(0),
        task_queue: info
            .activity_options
            .and_then(|options| options.task_queue)
            .and_then(|queue| queue.name.parse().ok()),
        activity_id: info.activity_id,
    }
}

fn read_execution(info: WorkflowExecutionInfo) -> Result<Execution, TemporalError> {
    let status = status(info.status());
    let started_at = info
        .start_time
        .and_then(|time| SystemTime::try_from(time).ok());
    let this = info
        .execution
        .ok_or(TemporalError::Unintelligible("execution"))?;
    let this = read_ids(this)?;
    Ok(Execution {
        first_run_id: info.first_run_id.parse().ok(),
        workflow_type: info
            .r#type
            .and_then(|kind| kind.name.parse().ok())
            .ok_or(TemporalError::Unintelligible("workflow type"))?,
        task_queue: info
            .task_queue
            .parse()
            .map_err(|_| TemporalError::Unintelligible("task queue"))?,
        status,
        parent: info.parent_execution.map(read_ids).transpose()?,
        root: info
            .root_execution
            .map_or_else(|| Ok(this.clone()), read_ids)?,
        started_at,
        chain_started_at: None,
        workflow_id: this.0,
        run_id: this.1,
    })
}

fn read_ids(execution: WorkflowExecution) -> Result<(WorkflowId, RunId), TemporalError> {
    let workflow_id = execution.workflow_id.parse();
    let run_id = execution.run_id.parse();
    match (workflow_id, run_id) {
        (Ok(workflow_id), Ok(run_id)) => Ok((workflow_id, run_id)),
        _ => Err(TemporalError::Unintelligible("workflow id")),
    }
}

fn status(status: WorkflowExecutionStatus) -> RunStatus {
    match status {
        // A server that does not say is asked about a workflow that runs.
        WorkflowExecutionStatus::Unspecified | WorkflowExecutionStatus::Running => {
            RunStatus::Running
        }
        WorkflowExecutionStatus::Completed => RunStatus::Completed,
        WorkflowExecutionStatus::Failed => RunStatus::Failed,
        WorkflowExecutionStatus::Canceled => RunStatus::Canceled,
        WorkflowExecutionStatus::Terminated => RunStatus::Terminated,
        WorkflowExecutionStatus::ContinuedAsNew => RunStatus::ContinuedAsNew,
        WorkflowExecutionStatus::TimedOut => RunStatus::TimedOut,
        WorkflowExecutionStatus::Paused => RunStatus::Paused,
    }
}

fn error(status: Status) -> TemporalError {
    match status.code() {
        Code::NotFound => TemporalError::NotFound,
        Code::AlreadyExists => TemporalError::AlreadyRunning,
        Code::ResourceExhausted => TemporalError::Busy(status),
        Code::PermissionDenied | Code::Unauthenticated => TemporalError::NotPermitted(status),
        Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition => {
            TemporalError::Rejected(status)
        }
        _ => TemporalError::Unavailable(status),
    }
}

/// A query fails with `InvalidArgument` where the handler fails or does not exist, and with
/// `FailedPrecondition` where the workflow task keeps failing. The client's own deadline ends it as
/// `Cancelled`.
fn query_error(status: Status) -> TemporalError {
    match status.code() {
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::DeadlineExceeded
        | Code::Cancelled => TemporalError::NoAnswer(status),
        _ => error(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workflow_id_cannot_leave_its_literal() {
        let literal = |text| quoted(text).ok();
        assert_eq!(literal("release/1").as_deref(), Some("'release/1'"));
        let doubled = "'x'' OR WorkflowId != '''";
        assert_eq!(literal("x' OR WorkflowId != '").as_deref(), Some(doubled));
        assert_eq!(literal(r"x\"), None);
        assert_eq!(literal("x\""), None);
    }

    #[test]
    fn overload_and_outage_are_told_apart_from_refusal() {
        let of = |code| error(Status::new(code, ""));
        assert!(matches!(
            of(Code::ResourceExhausted),
            TemporalError::Busy(_)
        ));
        assert!(matches!(
            of(Code::Unavailable),
            TemporalError::Unavailable(_)
        ));
        assert!(matches!(
            of(Code::DeadlineExceeded),
            TemporalError::Unavailable(_)
        ));
        assert!(matches!(
            of(Code::PermissionDenied),
            TemporalError::NotPermitted(_)
        ));
        assert!(matches!(of(Code::NotFound), TemporalError::NotFound));
    }
}
