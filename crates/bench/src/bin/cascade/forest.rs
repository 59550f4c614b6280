//! Workflows that are watched together, and what a rotation adds to their histories.
//!
//! Times are those of the server's events. Nothing is queried, and nearly nothing read, while a
//! rotation goes on: one node of a few at a time is looked at twice a second. Only when the last
//! of those is done, and a second more has passed, are all histories read.

use crate::shape::{Node, Role};
use anyhow::{Result, bail};
use futures::{StreamExt, TryStreamExt};
use std::time::Duration;
use temporalio_client::Client;
use temporalio_common::protos::temporal::api::{
    enums::v1::EventType,
    history::v1::{HistoryEvent, history_event::Attributes},
};
use tokio::time::{Instant, sleep};
use xylem_testkit::events;

/// How many nodes are looked at while a rotation goes on.
const SAMPLE: usize = 10;

/// How long apart they are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// How long after the last of them is done everything is read.
const QUIET: Duration = Duration::from_secs(1);

/// Histories read at the same time.
const READS: usize = 16;

/// How long a rotation may take before the benchmark gives up.
const PATIENCE: Duration = Duration::from_secs(180);

/// Workflows that change together.
pub(crate) struct Forest {
    client: Client,
    pub(crate) nodes: Vec<Node>,
    /// How many events of each are known, in the order of `nodes`.
    known: Vec<usize>,
}

/// What was added to one history.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Added {
    /// Events.
    pub(crate) events: usize,
    /// Workflow tasks, failed ones included.
    pub(crate) tasks: usize,
    /// Adoptions, where they show: upserts of the search attribute.
    pub(crate) upserts: usize,
    /// What the last upsert says is held.
    pub(crate) held: Vec<String>,
    /// The first signal, by the server's clock.
    pub(crate) signaled: Option<Duration>,
    /// The end of the last workflow task.
    pub(crate) completed: Option<Duration>,
    /// Whether anything is still going on in the workflow.
    is_busy: bool,
    /// Length of the whole history.
    total: usize,
}

impl Forest {
    pub(crate) fn new(client: Client, nodes: Vec<Node>) -> Self {
        let known = vec![0; nodes.len()];
        Self {
            client,
            nodes,
            known,
        }
    }

    /// What was added since the last time, once `is_done` holds of every node and nothing goes on
    /// in any.
    pub(crate) async fn settled(&mut self, is_done: impl Fn(&Added) -> bool) -> Result<Vec<Added>> {
        let deadline = Instant::now() + PATIENCE;
        let is_done = |added: &Added| !added.is_busy && is_done(added);
        for index in sample(self.nodes.len()) {
            while !self.added(index).await.is_ok_and(|added| is_done(&added)) {
                give_up_after(deadline, &self.nodes[index].id)?;
                sleep(LOOK).await;
            }
        }
        loop {
            sleep(QUIET).await;
            let reads = (0..self.nodes.len()).map(|index| self.added(index));
            let reads = futures::stream::iter(reads).buffered(READS);
            let all: Result<Vec<Added>> = reads.try_collect().await;
            let late = match &all {
                Ok(all) => all.iter().position(|added| !is_done(added)),
                Err(_) => Some(0),
            };
            match (late, all) {
                (None, Ok(all)) => {
                    self.known = all.iter().map(|added| added.total).collect();
                    return Ok(all);
                }
                (late, _) => give_up_after(deadline, &self.nodes[late.unwrap_or_default()].id)?,
            }
        }
    }

    async fn added(&self, index: usize) -> Result<Added> {
        let history = events(&self.client, &self.nodes[index].id).await?;
        Ok(added(&history, self.known[index]))
    }
}

fn give_up_after(deadline: Instant, node: &str) -> Result<()> {
    if Instant::now() >= deadline {
        bail!("{node} is not done after {} s", PATIENCE.as_secs());
    }
    Ok(())
}

/// Nodes spread over the whole, the last one included.
fn sample(nodes: usize) -> impl Iterator<Item = usize> {
    let stride = nodes.div_ceil(SAMPLE).max(1);
    (0..nodes).rev().step_by(stride)
}

fn added(history: &[HistoryEvent], known: usize) -> Added {
    let mut added = Added {
        total: history.len(),
        is_busy: is_busy(history),
        ..Added::default()
    };
    for event in history.iter().skip(known) {
        added.events += 1;
        match event.event_type() {
            EventType::WorkflowExecutionSignaled => {
                added.signaled = added.signaled.or(time(event));
            }
            EventType::WorkflowTaskStarted => added.tasks += 1,
            EventType::WorkflowTaskCompleted => added.completed = time(event),
            EventType::UpsertWorkflowSearchAttributes => {
                added.upserts += 1;
                added.held = held(event);
            }
            _ => {}
        }
    }
    added
}

/// Whether a workflow task or an activity is open.
fn is_busy(history: &[HistoryEvent]) -> bool {
    let mut task = true;
    let mut activities = 0_i64;
    for event in history {
        match event.event_type() {
            EventType::WorkflowTaskCompleted => task = false,
            EventType::WorkflowTaskScheduled | EventType::WorkflowExecutionSignaled => task = true,
            EventType::ActivityTaskScheduled => activities += 1,
            EventType::ActivityTaskCompleted
            | EventType::ActivityTaskFailed
            | EventType::ActivityTaskTimedOut
            | EventType::ActivityTaskCanceled => activities -= 1,
            _ => {}
        }
    }
    task || activities > 0
}

fn time(event: &HistoryEvent) -> Option<Duration> {
    let time = event.event_time.as_ref()?;
    let seconds = u64::try_from(time.seconds).ok()?;
    Some(Duration::new(seconds, u32::try_from(time.nanos).ok()?))
}

fn held(event: &HistoryEvent) -> Vec<String> {
    let Some(Attributes::UpsertWorkflowSearchAttributesEventAttributes(upsert)) = &event.attributes
    else {
        return Vec::new();
    };
    let fields = upsert
        .search_attributes
        .as_ref()
        .map(|all| &all.indexed_fields);
    fields
        .and_then(|fields| fields.get("XylemTokens"))
        .and_then(|payload| serde_json::from_slice(&payload.data).ok())
        .unwrap_or_default()
}

/// From the first signal to the end of the last workflow task, over all nodes, in milliseconds.
pub(crate) fn convergence_ms(all: &[Added]) -> f64 {
    let begin = all.iter().filter_map(|added| added.signaled).min();
    let end = all.iter().filter_map(|added| added.completed).max();
    match (begin, end) {
        (Some(begin), Some(end)) => end.saturating_sub(begin).as_secs_f64() * 1e3,
        _ => f64::NAN,
    }
}

/// The most that was added to any node of a role: events, workflow tasks.
pub(crate) fn most(nodes: &[Node], all: &[Added], role: Role) -> Option<(usize, usize)> {
    let of = nodes.iter().zip(all).filter(|(node, _)| node.role == role);
    of.map(|(_, added)| (added.events, added.tasks))
        .reduce(|a, b| (a.0.max(b.0), a.1.max(b.1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(types: &[EventType]) -> Vec<HistoryEvent> {
        let event = |(at, kind): (usize, &EventType)| {
            let mut event = HistoryEvent {
                event_time: Some(Default::default()),
                ..HistoryEvent::default()
            };
            event.set_event_type(*kind);
            if let Some(time) = &mut event.event_time {
                time.seconds = i64::try_from(at).unwrap();
            }
            event
        };
        types.iter().enumerate().map(event).collect()
    }

    const LEAF: [EventType; 9] = [
        EventType::WorkflowExecutionStarted,
        EventType::WorkflowTaskScheduled,
        EventType::WorkflowTaskStarted,
        EventType::WorkflowTaskCompleted,
        EventType::WorkflowExecutionSignaled,
        EventType::WorkflowTaskScheduled,
        EventType::WorkflowTaskStarted,
        EventType::WorkflowTaskCompleted,
        EventType::UpsertWorkflowSearchAttributes,
    ];

    #[test]
    fn what_a_rotation_adds_is_counted_and_timed() {
        let added = added(&history(&LEAF), 4);
        assert_eq!((added.events, added.tasks, added.upserts), (5, 1, 1));
        assert!(!added.is_busy);
        assert_eq!(convergence_ms(&[added]), 3000.0);
    }

    #[test]
    fn a_workflow_is_busy_until_its_task_and_activities_are_done() {
        assert!(is_busy(&[]));
        assert!(is_busy(&history(&LEAF[..3])));
        assert!(!is_busy(&history(&LEAF[..4])));
        assert!(is_busy(&history(&LEAF[..5])));
        let mut with_activity = LEAF.to_vec();
        with_activity.push(EventType::ActivityTaskScheduled);
        assert!(is_busy(&history(&with_activity)));
        with_activity.push(EventType::ActivityTaskCompleted);
        assert!(!is_busy(&history(&with_activity)));
    }

    #[test]
    fn samples_are_few_and_spread() {
        assert_eq!(sample(3).collect::<Vec<_>>(), [2, 1, 0]);
        let of_many: Vec<_> = sample(1501).collect();
        assert_eq!((of_many[0], of_many.len()), (1500, 10));
    }
}
