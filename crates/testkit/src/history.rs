//! Looking at histories.

use temporalio_client::{
    Client, NamespacedClient, UntypedWorkflow, WorkflowExecutionInfo, WorkflowFetchHistoryOptions,
};
use temporalio_common::protos::temporal::api::{enums::v1::EventType, history::v1::HistoryEvent};

/// The events of a workflow's current run.
///
/// # Errors
/// The server does not know it.
pub async fn events(client: &Client, workflow_id: &str) -> anyhow::Result<Vec<HistoryEvent>> {
    let handle = client.get_workflow_handle::<UntypedWorkflow>(workflow_id);
    let history = handle.fetch_history(WorkflowFetchHistoryOptions::default());
    Ok(history.into_events().await?)
}

/// The events of one run.
///
/// # Errors
/// The server does not know it.
pub(crate) async fn events_of_run(
    client: &Client,
    workflow_id: &str,
    run_id: &str,
) -> anyhow::Result<Vec<HistoryEvent>> {
    let run = WorkflowExecutionInfo::builder()
        .namespace(client.namespace())
        .workflow_id(workflow_id)
        .run_id(run_id)
        .build();
    let handle = run.bind_untyped(client.clone());
    let history = handle.fetch_history(WorkflowFetchHistoryOptions::default());
    Ok(history.into_events().await?)
}

/// The types of the events after the first `known`.
///
/// # Errors
/// The server does not know the workflow.
pub async fn added_since(
    client: &Client,
    workflow_id: &str,
    known: usize,
) -> anyhow::Result<Vec<EventType>> {
    let events = events(client, workflow_id).await?;
    Ok(events
        .iter()
        .skip(known)
        .map(HistoryEvent::event_type)
        .collect())
}

/// A history as text, for searching.
#[must_use]
pub fn payload_strings(events: &[HistoryEvent]) -> String {
    events.iter().map(|event| format!("{event:?}\n")).collect()
}
