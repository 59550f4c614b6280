//! The histories of all workflows, as the server has them.

use anyhow::{Context, Result};
use futures::TryStreamExt;
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};
use temporalio_client::{
    Client, NamespacedClient, WorkflowExecutionInfo, WorkflowFetchHistoryOptions,
    WorkflowListOptions,
};
use temporalio_common::protos::temporal::api::history::v1::{
    HistoryEvent, history_event::Attributes,
};

/// One run of one workflow.
pub(crate) struct Run {
    pub(crate) workflow_id: String,
    pub(crate) workflow_type: String,
    pub(crate) events: Vec<HistoryEvent>,
}

/// Every run of every workflow in the namespace, oldest first.
pub(crate) async fn fetch_all(client: &Client) -> Result<Vec<Run>> {
    let listed = client.list_workflows("", WorkflowListOptions::default());
    let mut listed: Vec<_> = listed
        .try_collect()
        .await
        .context("listing the workflows")?;
    listed.sort_by_key(|execution| execution.start_time());
    let mut runs = Vec::with_capacity(listed.len());
    for execution in listed {
        let handle = WorkflowExecutionInfo::builder()
            .namespace(client.namespace())
            .workflow_id(execution.id())
            .run_id(execution.run_id())
            .build()
            .bind_untyped(client.clone());
        let history = handle.fetch_history(WorkflowFetchHistoryOptions::default());
        runs.push(Run {
            workflow_id: execution.id().to_owned(),
            workflow_type: execution.workflow_type().to_owned(),
            events: history.into_events().await?,
        });
    }
    Ok(runs)
}

/// How a version went through a tree, by the server's clock.
pub(crate) struct Cascade {
    pub(crate) began: SystemTime,
    /// When each node had adopted the version.
    pub(crate) adopted: BTreeMap<String, SystemTime>,
}

impl Cascade {
    /// From the signal to the root to the last workflow task in which a node adopted.
    pub(crate) fn duration(&self) -> Duration {
        let last = self.adopted.values().max().copied();
        let last = last.unwrap_or(self.began);
        last.duration_since(self.began).unwrap_or_default()
    }
}

/// Finds the cascade of a version of the slot `default`. A node that adopts says so in its search
/// attribute, in the same workflow task.
pub(crate) fn cascade(runs: &[Run], root: &str, version: u32) -> Result<Cascade> {
    let value = format!("\"default@{version}\"");
    let mut adopted = BTreeMap::new();
    let mut began = None;
    for run in runs {
        let Some(task) = adopting_task(run, &value) else {
            continue;
        };
        let completed = run.events.iter().find(|event| event.event_id == task);
        let Some(at) = completed.and_then(time) else {
            continue;
        };
        if run.workflow_id == root && began.is_none() {
            let signals = run.events.iter().take_while(|event| event.event_id < task);
            began = signals
                .filter(|event| is_api_token(event))
                .last()
                .and_then(time);
        }
        adopted.entry(run.workflow_id.clone()).or_insert(at);
    }
    let began = began.context("the root's history shows no signal with the new version")?;
    Ok(Cascade { began, adopted })
}

/// The id of the WorkflowTaskCompleted event in which the run adopted.
fn adopting_task(run: &Run, value: &str) -> Option<i64> {
    run.events.iter().find_map(|event| {
        let Some(Attributes::UpsertWorkflowSearchAttributesEventAttributes(upsert)) =
            &event.attributes
        else {
            return None;
        };
        let fields = &upsert.search_attributes.as_ref()?.indexed_fields;
        let tokens = String::from_utf8_lossy(&fields.get("XylemTokens")?.data);
        tokens
            .contains(value)
            .then_some(upsert.workflow_task_completed_event_id)
    })
}

fn is_api_token(event: &HistoryEvent) -> bool {
    matches!(
        &event.attributes,
        Some(Attributes::WorkflowExecutionSignaledEventAttributes(signal))
            if signal.signal_name == "apiToken"
    )
}

fn time(event: &HistoryEvent) -> Option<SystemTime> {
    let at = event.event_time.as_ref()?;
    let seconds = Duration::from_secs(u64::try_from(at.seconds).ok()?);
    let nanos = Duration::from_nanos(u64::try_from(at.nanos).ok()?);
    Some(SystemTime::UNIX_EPOCH + seconds + nanos)
}
