//! What the activities ask Temporal about other workflows, and tell them.

use async_trait::async_trait;
use futures::StreamExt;
use serde_json::Value;
use std::time::{Duration, SystemTime};
use temporalio_client::{
    Client, HistoryEventFilterType, NamespacedClient, RetryOptions, RpcOptions, UntypedSignal,
    UntypedWorkflowHandle, WorkflowDescribeOptions, WorkflowExecutionInfo,
    WorkflowFetchHistoryOptions, WorkflowListOptions, WorkflowSignalOptions,
    errors::WorkflowInteractionError,
};
use temporalio_common::{
    data_converters::{
        DataConverter, RawValue, SerializationContextData, WorkflowSerializationContext,
    },
    protos::temporal::api::{
        common::v1::{Payload, Payloads},
        enums::v1::WorkflowExecutionStatus as StatusProto,
        failure::v1::Failure as FailureProto,
        history::v1::history_event::Attributes,
    },
};
use uuid::Uuid;
use xylem_stateful::activity::ChildOutcome;

/// The signal that carries a grant.
const API_TOKEN: &str = "apiToken";

/// How long any other call than a signal may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// No more ended workflows are listed at a time; the rest is found later.
const MOST_LISTED: usize = 1000;

/// How much of a failure's message is passed on, in characters.
const MAX_MESSAGE_CHARS: usize = 2048;

/// Why Temporal did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// It knows no such workflow, or none that still takes signals.
    NotFound,
    /// It could not answer now.
    Unavailable,
}

/// A workflow as Temporal describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) is_open: bool,
    pub(crate) run_id: String,
    pub(crate) first_run_id: String,
    pub(crate) workflow_type: String,
    /// Workflow id and run id of the parent as of the start.
    pub(crate) parent: Option<(String, String)>,
}

/// How a run stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Close {
    /// It has not closed.
    Open,
    /// Another run of the same workflow follows.
    Continued(String),
    /// It was the last.
    Ended(ChildOutcome),
}

/// Temporal, as far as the activities need it.
#[async_trait]
pub(crate) trait Executions: Send + Sync {
    /// Signals a grant. Without retries.
    async fn signal(
        &self,
        workflow_id: &str,
        grant: &str,
        request_id: Uuid,
        timeout: Duration,
    ) -> Result<(), Unanswered>;

    /// Describes a run, or the current one.
    async fn describe(
        &self,
        workflow_id: &str,
        run_id: Option<&str>,
    ) -> Result<Description, Unanswered>;

    /// How a run closed, if it did.
    async fn close_of(&self, workflow_id: &str, run_id: &str) -> Result<Close, Unanswered>;

    /// Ids of children of a workflow that have closed since, as far as the visibility store knows
    /// already. A hint and nothing more.
    async fn ended_since(
        &self,
        parent_workflow_id: &str,
        since: SystemTime,
    ) -> Result<Vec<String>, Unanswered>;
}

/// The Temporal server behind a client.
pub(crate) struct Server(pub(crate) Client);

impl Server {
    fn handle(&self, workflow_id: &str, run_id: Option<&str>) -> UntypedWorkflowHandle<Client> {
        WorkflowExecutionInfo::builder()
            .namespace(self.0.namespace())
            .workflow_id(workflow_id)
            .maybe_run_id(run_id)
            .build()
            .bind_untyped(self.0.clone())
    }
}

fn within(timeout: Duration) -> RpcOptions {
    RpcOptions::builder()
        .timeout(timeout)
        .retry_options(RetryOptions::no_retries())
        .build()
}

#[async_trait]
impl Executions for Server {
    async fn signal(
        &self,
        workflow_id: &str,
        grant: &str,
        request_id: Uuid,
        timeout: Duration,
    ) -> Result<(), Unanswered> {
        let converter = self.0.data_converter().payload_converter();
        let input = RawValue::from_value(&grant.to_owned(), converter);
        let options = WorkflowSignalOptions::builder()
            .request_id(request_id.to_string())
            .rpc_options(within(timeout))
            .build();
        let signal = UntypedSignal::new(API_TOKEN);
        let handle = self.handle(workflow_id, None);
        let sent = handle.signal(signal, input, options).await;
        sent.map_err(|error| unanswered(&error))
    }

    async fn describe(
        &self,
        workflow_id: &str,
        run_id: Option<&str>,
    ) -> Result<Description, Unanswered> {
        let options = WorkflowDescribeOptions::builder()
            .rpc_options(within(CALL_TIMEOUT))
            .build();
        let described = self.handle(workflow_id, run_id).describe(options).await;
        let described = described.map_err(|error| unanswered(&error))?.into_raw();
        let info = described.workflow_execution_info;
        let info = info.ok_or(Unanswered::Unavailable)?;
        let execution = info.execution.unwrap_or_default();
        let status = StatusProto::try_from(info.status).unwrap_or_default();
        Ok(Description {
            is_open: !is_closed(status),
            run_id: execution.run_id,
            first_run_id: info.first_run_id,
            workflow_type: info.r#type.unwrap_or_default().name,
            parent: info
                .parent_execution
                .map(|parent| (parent.workflow_id, parent.run_id)),
        })
    }

    async fn close_of(&self, workflow_id: &str, run_id: &str) -> Result<Close, Unanswered> {
        let options = WorkflowFetchHistoryOptions::builder()
            .skip_archival(true)
            .event_filter_type(HistoryEventFilterType::CloseEvent)
            .rpc_options(within(CALL_TIMEOUT))
            .build();
        let handle = self.handle(workflow_id, Some(run_id));
        let events = handle.fetch_history(options).into_events().await;
        let last = events.map_err(|error| unanswered(&error))?.pop();
        match last.and_then(|event| event.attributes) {
            Some(attributes) => close(attributes, self.0.data_converter()).await,
            None => Ok(Close::Open),
        }
    }

    async fn ended_since(
        &self,
        parent_workflow_id: &str,
        since: SystemTime,
    ) -> Result<Vec<String>, Unanswered> {
        // Not worth escaping for a hint.
        if parent_workflow_id.contains(['\'', '"', '\\', '`']) {
            return Ok(Vec::new());
        }
        let query = format!(
            "ParentWorkflowId = '{parent_workflow_id}' AND CloseTime >= '{}' \
             AND ExecutionStatus != 'ContinuedAsNew'",
            humantime::format_rfc3339_seconds(since)
        );
        let options = WorkflowListOptions::builder()
            .limit(MOST_LISTED)
            .rpc_options(within(CALL_TIMEOUT))
            .build();
        let mut listed = self.0.list_workflows(query, options);
        let mut ids = Vec::new();
        while let Some(next) = listed.next().await {
            let next = next.map_err(|_| Unanswered::Unavailable)?;
            ids.push(next.id().to_owned());
        }
        Ok(ids)
    }
}

/// A status that is not known here proves nothing, and a run that continued as new lives on.
fn is_closed(status: StatusProto) -> bool {
    matches!(
        status,
        StatusProto::Completed
            | StatusProto::Failed
            | StatusProto::Canceled
            | StatusProto::Terminated
            | StatusProto::TimedOut
    )
}

fn unanswered(error: &WorkflowInteractionError) -> Unanswered {
    match error {
        WorkflowInteractionError::NotFound(_) => Unanswered::NotFound,
        _ => Unanswered::Unavailable,
    }
}

/// Reads a close event. Any other event says that the run is open.
async fn close(attributes: Attributes, converter: &DataConverter) -> Result<Close, Unanswered> {
    let next = |run_id: String| (!run_id.is_empty()).then_some(Close::Continued(run_id));
    Ok(match attributes {
        Attributes::WorkflowExecutionCompletedEventAttributes(done) => {
            match next(done.new_execution_run_id) {
                Some(continued) => continued,
                None => Close::Ended(ChildOutcome::Completed {
                    result: result(done.result, converter).await?,
                }),
            }
        }
        Attributes::WorkflowExecutionFailedEventAttributes(failed) => {
            next(failed.new_execution_run_id).unwrap_or_else(|| {
                let message = message(failed.failure.as_ref());
                Close::Ended(ChildOutcome::Failed { message })
            })
        }
        Attributes::WorkflowExecutionTimedOutEventAttributes(timed_out) => {
            next(timed_out.new_execution_run_id).unwrap_or(Close::Ended(ChildOutcome::TimedOut))
        }
        Attributes::WorkflowExecutionContinuedAsNewEventAttributes(continued) => {
            Close::Continued(continued.new_execution_run_id)
        }
        Attributes::WorkflowExecutionCanceledEventAttributes(_) => {
            Close::Ended(ChildOutcome::Cancelled)
        }
        Attributes::WorkflowExecutionTerminatedEventAttributes(_) => {
            Close::Ended(ChildOutcome::Terminated)
        }
        _ => Close::Open,
    })
}

/// A result as JSON; `null` where there is none, or none that is JSON.
async fn result(
    payloads: Option<Payloads>,
    converter: &DataConverter,
) -> Result<Value, Unanswered> {
    let context = SerializationContextData::Workflow(WorkflowSerializationContext::new());
    let payloads = payloads.unwrap_or_default().payloads;
    let decoded = converter.codec().decode(&context, payloads).await;
    let decoded = decoded.map_err(|_| Unanswered::Unavailable)?;
    Ok(decoded.into_iter().next().map_or(Value::Null, json))
}

fn json(payload: Payload) -> Value {
    let encoding = payload.metadata.get("encoding");
    match encoding.map(Vec::as_slice) {
        Some(b"json/plain") => serde_json::from_slice(&payload.data).unwrap_or_default(),
        _ => Value::Null,
    }
}

/// A failure's message with those of its causes.
fn message(failure: Option<&FailureProto>) -> String {
    let chain = std::iter::successors(failure, |failure| failure.cause.as_deref());
    let messages: Vec<&str> = chain.map(|failure| failure.message.as_str()).collect();
    messages
        .join(": ")
        .chars()
        .take(MAX_MESSAGE_CHARS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_json_or_null() {
        let payload = |encoding: &str, data: &str| Payload {
            metadata: [("encoding".to_owned(), encoding.as_bytes().to_vec())].into(),
            data: data.as_bytes().to_vec(),
            ..Payload::default()
        };
        assert_eq!(
            json(payload("json/plain", "{\"a\":1}")),
            serde_json::json!({ "a": 1 })
        );
        assert_eq!(json(payload("binary/null", "")), Value::Null);
        assert_eq!(json(payload("binary/encrypted", "x")), Value::Null);
        assert_eq!(json(Payload::default()), Value::Null);
    }

    #[test]
    fn a_failure_is_told_with_its_causes() {
        let failure = FailureProto {
            message: "activity failed".to_owned(),
            cause: Some(Box::new(FailureProto {
                message: "x".repeat(5000),
                ..FailureProto::default()
            })),
            ..FailureProto::default()
        };
        let told = message(Some(&failure));
        assert!(told.starts_with("activity failed: xxx"), "{told}");
        assert_eq!(told.len(), MAX_MESSAGE_CHARS);
        assert_eq!(message(None), "");
    }
}
