//! Signals grants to children: many at once, in order per child, until a deadline, without
//! retries.

use crate::executions::{Executions, Unanswered};
use futures::StreamExt;
use std::time::Duration;
use tokio::time::Instant;
use xylem_ids::{NodeId, signal_request_id};
use xylem_stateful::activity::{Delivery, Forward, Forwarded};

/// Signals in flight. More does not help: the server is the limit (our measurement, Temporal
/// server 1.32 on 2 cores).
const IN_FLIGHT: usize = 32;

/// A signal that takes longer counts as undelivered.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(3);

/// How one child fared.
enum Fared {
    Delivered,
    Undelivered,
    Gone,
}

/// Signals what is due and says what is not delivered by the deadline.
pub(crate) async fn forward(
    executions: &dyn Executions,
    forward: Forward,
    deadline: Instant,
) -> Forwarded {
    let Forward {
        grants, children, ..
    } = forward;
    let mut fared = futures::stream::iter(children)
        .map(|delivery| {
            let grants = &grants;
            async move {
                let fared = deliver(executions, grants, &delivery, deadline).await;
                (delivery.child.workflow_id, fared)
            }
        })
        .buffer_unordered(IN_FLIGHT);
    let mut forwarded = Forwarded::default();
    while let Some((child, fared)) = fared.next().await {
        match fared {
            Fared::Delivered => {}
            Fared::Undelivered => forwarded.undelivered.push(child),
            Fared::Gone => forwarded.gone.push(child),
        }
    }
    forwarded
}

/// All grants that are due to one child, in order.
async fn deliver(
    executions: &dyn Executions,
    grants: &[String],
    delivery: &Delivery,
    deadline: Instant,
) -> Fared {
    for index in &delivery.grants {
        let left = deadline.saturating_duration_since(Instant::now());
        let Some(grant) = grants.get(*index).filter(|_| !left.is_zero()) else {
            return Fared::Undelivered;
        };
        let timeout = left.min(SIGNAL_TIMEOUT);
        let NodeId {
            workflow_id,
            first_run_id,
        } = &delivery.child;
        let request_id = signal_request_id(grant, workflow_id, first_run_id, "");
        let signal = executions.signal(workflow_id.as_str(), grant, request_id, timeout);
        match tokio::time::timeout(timeout, signal).await {
            Ok(Ok(())) => {}
            Ok(Err(Unanswered::NotFound)) => return missing(executions, delivery, deadline).await,
            Ok(Err(Unanswered::Unavailable)) | Err(_) => return Fared::Undelivered,
        }
    }
    Fared::Delivered
}

/// `NotFound` can mean not started yet, closed, or never existed: only a description that says
/// closed, or names another first run, proves that the child is gone.
async fn missing(executions: &dyn Executions, delivery: &Delivery, deadline: Instant) -> Fared {
    let child = &delivery.child;
    let description = executions.describe(child.workflow_id.as_str(), None);
    match tokio::time::timeout_at(deadline, description).await {
        Ok(Ok(found)) if found.first_run_id != child.first_run_id.as_str() => Fared::Gone,
        Ok(Ok(found)) if !found.is_open => Fared::Gone,
        _ => Fared::Undelivered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, node, tree};
    use std::collections::HashSet;

    fn due(children: &[(&str, &[usize])]) -> Forward {
        Forward {
            tree: tree(),
            grants: vec!["xylem1.a".to_owned(), "xylem1.b".to_owned()],
            children: children
                .iter()
                .map(|(child, grants)| Delivery {
                    child: node(child),
                    grants: grants.to_vec(),
                })
                .collect(),
        }
    }

    async fn run(fake: &Fake, due: Forward, budget: Duration) -> (Vec<String>, Vec<String>) {
        let forwarded = forward(fake, due, Instant::now() + budget).await;
        let texts = |ids: Vec<xylem_ids::WorkflowId>| {
            let mut texts: Vec<String> = ids.into_iter().map(String::from).collect();
            texts.sort();
            texts
        };
        (texts(forwarded.undelivered), texts(forwarded.gone))
    }

    const BUDGET: Duration = Duration::from_secs(6);

    #[tokio::test]
    async fn grants_reach_a_child_in_order_and_with_stable_request_ids() {
        let fake = Fake::default().running("c1").running("c2");
        for _ in 0..2 {
            let ended = run(&fake, due(&[("c1", &[1, 0]), ("c2", &[0])]), BUDGET).await;
            assert_eq!(ended, (vec![], vec![]));
        }
        let signals = fake.signals();
        let to_c1: Vec<_> = signals.iter().filter(|s| s.0 == "c1").collect();
        assert_eq!(to_c1.len(), 4);
        assert_eq!((&*to_c1[0].1, &*to_c1[1].1), ("xylem1.b", "xylem1.a"));
        assert_eq!(
            to_c1[0].2, to_c1[2].2,
            "a repetition has the same request id"
        );
        let ids: HashSet<_> = signals.iter().map(|s| s.2).collect();
        assert_eq!(ids.len(), 3, "every grant and child has its own");
    }

    #[tokio::test]
    async fn only_a_proven_end_prunes() {
        let fake = Fake::default()
            .running("alive")
            .closed("closed")
            .replaced("replaced")
            .starting("starting")
            .busy("busy");
        let all = ["alive", "closed", "replaced", "starting", "busy", "never"];
        let all: Vec<_> = all.iter().map(|child| (*child, &[0][..])).collect();
        let (undelivered, gone) = run(&fake, due(&all), BUDGET).await;
        assert_eq!(undelivered, ["busy", "never", "starting"]);
        assert_eq!(gone, ["closed", "replaced"]);
    }

    #[tokio::test]
    async fn it_ends_within_its_budget_with_what_is_undelivered() {
        let fake = Fake::default().running("quick").hanging("slow");
        let start = Instant::now();
        let due = due(&[("quick", &[0]), ("slow", &[0, 1])]);
        let (undelivered, gone) = run(&fake, due, Duration::from_secs(1)).await;
        assert_eq!((undelivered, gone), (vec!["slow".to_owned()], vec![]));
        assert!(start.elapsed() < SIGNAL_TIMEOUT);
    }

    #[tokio::test]
    async fn no_more_than_32_are_in_flight_and_none_is_repeated() {
        let ids: Vec<String> = (0..100).map(|n| format!("c{n}")).collect();
        let mut fake = Fake::default();
        for id in &ids {
            fake = fake.busy(id);
        }
        let all: Vec<_> = ids.iter().map(|id| (id.as_str(), &[0][..])).collect();
        let (undelivered, _) = run(&fake, due(&all), BUDGET).await;
        assert_eq!(undelivered.len(), 100);
        assert_eq!(fake.attempts(), 100);
        assert!(fake.most_in_flight() <= IN_FLIGHT);
    }
}
