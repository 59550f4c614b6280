//! Looks at children, and watches them until one has ended.

use crate::{
    executions::{Close, Description, Executions, Unanswered},
    failure::Failure,
    ports::TaskClaims,
};
use futures::StreamExt;
use std::{
    collections::HashSet,
    time::{Duration, SystemTime},
};
use xylem_ids::NodeId;
use xylem_stateful::activity::{ChildEnd, ChildOutcome, FindChild, FoundChild};

/// How often a watcher looks.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Children looked at in each round whether or not the visibility store hints at them. Up to so
/// many are seen within one round; a hint that never comes costs the others a few rounds more.
const LOOKED_AT: usize = 20;

/// Looks in flight.
const IN_FLIGHT: usize = 16;

/// The visibility store is behind, and clocks differ.
const HINT_OVERLAP: Duration = Duration::from_secs(60);

/// Ends are reported until their results fill this; the others are reported next. A payload may
/// have 2 MiB.
const MAX_REPORT_BYTES: usize = 1024 * 1024;

/// Longer chains of runs are followed next time from where they are then.
const MOST_RUNS: usize = 1000;

/// Whose a taken workflow id is.
pub(crate) async fn find(
    executions: &dyn Executions,
    claims: &TaskClaims,
    ask: &FindChild,
) -> Result<FoundChild, Failure> {
    let found = match executions.describe(ask.workflow_id.as_str(), None).await {
        Ok(found) => found,
        Err(Unanswered::NotFound) => return Ok(FoundChild::Closed),
        Err(Unanswered::Unavailable) => return Err(unavailable()),
    };
    if !found.is_open {
        return Ok(FoundChild::Closed);
    }
    let mine = found.workflow_type == ask.workflow_type.as_str()
        && is_child_of(executions, &found, claims).await?;
    match found.first_run_id.parse() {
        Ok(first_run_id) if mine => Ok(FoundChild::Mine { first_run_id }),
        _ => Ok(FoundChild::Foreign),
    }
}

fn unavailable() -> Failure {
    Failure::Temporal {
        what: "it could not describe a workflow",
    }
}

/// A child names the run of its parent that started it. That may be an earlier run of the asking
/// workflow: then both have the same first run.
async fn is_child_of(
    executions: &dyn Executions,
    child: &Description,
    claims: &TaskClaims,
) -> Result<bool, Failure> {
    let Some((parent, run_id)) = &child.parent else {
        return Ok(false);
    };
    if *parent != claims.workflow_id {
        return Ok(false);
    }
    if *run_id == claims.run_id {
        return Ok(true);
    }
    let then = first_run(executions, parent, run_id).await?;
    let now = first_run(executions, parent, &claims.run_id).await?;
    Ok(then.is_some() && then == now)
}

async fn first_run(
    executions: &dyn Executions,
    workflow_id: &str,
    run_id: &str,
) -> Result<Option<String>, Failure> {
    match executions.describe(workflow_id, Some(run_id)).await {
        Ok(found) => Ok(Some(found.first_run_id)),
        Err(Unanswered::NotFound) => Ok(None),
        Err(Unanswered::Unavailable) => Err(unavailable()),
    }
}

/// Watches children by turns; each call of [`Watch::look`] is one round.
pub(crate) struct Watch<'a> {
    executions: &'a dyn Executions,
    parent: &'a str,
    children: Vec<NodeId>,
    since: SystemTime,
    turn: usize,
    is_first: bool,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(
        executions: &'a dyn Executions,
        parent: &'a str,
        children: Vec<NodeId>,
    ) -> Self {
        Self {
            executions,
            parent,
            children,
            since: SystemTime::now() - HINT_OVERLAP,
            turn: 0,
            is_first: true,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.children.is_empty()
    }

    /// The children found to have ended. The first round looks at all of them, later ones at
    /// those the visibility store names and at some more.
    pub(crate) async fn look(&mut self) -> Vec<ChildEnd> {
        let round = if std::mem::take(&mut self.is_first) {
            self.children.clone()
        } else {
            self.next_round().await
        };
        let executions = self.executions;
        let mut looks = futures::stream::iter(round)
            .map(|child| async move {
                let outcome = end_of(executions, &child).await?;
                Some(ChildEnd { child, outcome })
            })
            .buffer_unordered(IN_FLIGHT);
        let (mut ends, mut bytes) = (Vec::new(), 0);
        while let Some(look) = looks.next().await {
            let Some(end) = look else { continue };
            bytes += size(&end);
            if bytes > MAX_REPORT_BYTES && !ends.is_empty() {
                break;
            }
            ends.push(end);
        }
        ends
    }

    async fn next_round(&mut self) -> Vec<NodeId> {
        let mut names = HashSet::new();
        if self.children.len() > LOOKED_AT {
            let hints = self.executions.ended_since(self.parent, self.since).await;
            names.extend(hints.unwrap_or_default());
        }
        let by_turn = self.children.iter().cycle().skip(self.turn);
        let by_turn = by_turn.take(LOOKED_AT.min(self.children.len()));
        names.extend(by_turn.map(|child| child.workflow_id.to_string()));
        self.turn = (self.turn + LOOKED_AT) % self.children.len().max(1);
        let named = |child: &&NodeId| names.contains(child.workflow_id.as_str());
        self.children.iter().filter(named).cloned().collect()
    }
}

fn size(end: &ChildEnd) -> usize {
    serde_json::to_string(end).map_or(0, |text| text.len())
}

/// How a child ended, if it did. Whatever could not be found out now is found out next time.
async fn end_of(executions: &dyn Executions, child: &NodeId) -> Option<ChildOutcome> {
    let workflow_id = child.workflow_id.as_str();
    let first_run_id = child.first_run_id.as_str();
    let run_id = match executions.describe(workflow_id, None).await {
        Ok(found) if found.first_run_id != first_run_id => first_run_id.to_owned(),
        Ok(found) if found.is_open => return None,
        Ok(found) => found.run_id,
        Err(Unanswered::NotFound) => return Some(forgotten()),
        Err(Unanswered::Unavailable) => return None,
    };
    last_of(executions, workflow_id, run_id).await
}

/// Follows the runs of a workflow to the last one's end.
async fn last_of(
    executions: &dyn Executions,
    workflow_id: &str,
    mut run_id: String,
) -> Option<ChildOutcome> {
    for _ in 0..MOST_RUNS {
        match executions.close_of(workflow_id, &run_id).await {
            Ok(Close::Ended(outcome)) => return Some(outcome),
            Ok(Close::Continued(next)) => run_id = next,
            Err(Unanswered::NotFound) => return Some(forgotten()),
            Ok(Close::Open) | Err(Unanswered::Unavailable) => return None,
        }
    }
    None
}

/// A child that had started and is known no more: it has closed, and its history was deleted.
fn forgotten() -> ChildOutcome {
    ChildOutcome::Failed {
        message: "the child has closed and Temporal has deleted its history: how it ended is not \
                  known; raise the namespace's retention if that matters"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, claims, node};
    use serde_json::json;

    fn ask(id: &str) -> FindChild {
        FindChild {
            workflow_id: id.parse().expect("an id"),
            workflow_type: "Deploy".parse().expect("a type"),
        }
    }

    #[tokio::test]
    async fn only_a_running_child_of_the_asking_workflow_and_type_is_mine() {
        let fake = Fake::default()
            .running("mine")
            .child("mine", "Deploy", ("parent", "run-2"))
            .running("earlier")
            .child("earlier", "Deploy", ("parent", "run-1"))
            .running("other-type")
            .child("other-type", "Test", ("parent", "run-2"))
            .running("other-parent")
            .child("other-parent", "Deploy", ("stranger", "run-2"))
            .running("other-tree")
            .child("other-tree", "Deploy", ("parent", "run-0"))
            .running("orphan")
            .closed("closed")
            .run("parent", "run-2", "run-1")
            .run("parent", "run-1", "run-1")
            .run("parent", "run-0", "run-0");
        for (id, mine) in [
            ("mine", true),
            ("earlier", true),
            ("other-type", false),
            ("other-parent", false),
            ("other-tree", false),
            ("orphan", false),
        ] {
            let found = find(&fake, &claims(), &ask(id)).await.expect("an answer");
            let expected = if mine {
                let first_run_id = node(id).first_run_id;
                FoundChild::Mine { first_run_id }
            } else {
                FoundChild::Foreign
            };
            assert_eq!(found, expected, "{id}");
        }
        for id in ["closed", "never"] {
            let found = find(&fake, &claims(), &ask(id)).await.expect("an answer");
            assert_eq!(found, FoundChild::Closed, "{id}");
        }
    }

    #[tokio::test]
    async fn a_chain_of_runs_is_followed_to_its_end() {
        let result = json!({ "deployed": true });
        let done = Close::Ended(ChildOutcome::Completed {
            result: result.clone(),
        });
        let fake = Fake::default()
            .running("alive")
            .closed("done")
            .close("done", "done-last", done.clone())
            .replaced("reused")
            .close(
                "reused",
                "reused-first",
                Close::Continued("reused-2".to_owned()),
            )
            .close("reused", "reused-2", done)
            .closed("lost")
            .busy("busy");
        let children = ["alive", "done", "reused", "lost", "busy", "never"]
            .map(node)
            .to_vec();
        let mut watch = Watch::new(&fake, "parent", children);
        let mut ends = watch.look().await;
        ends.sort_by(|a, b| a.child.cmp(&b.child));
        let ids: Vec<_> = ends
            .iter()
            .map(|end| end.child.workflow_id.as_str())
            .collect();
        assert_eq!(ids, ["done", "lost", "never", "reused"]);
        let completed = ChildOutcome::Completed { result };
        assert_eq!(ends[0].outcome, completed);
        assert_eq!(ends[3].outcome, completed);
        assert!(
            matches!(&ends[1].outcome, ChildOutcome::Failed { message } if message.contains("retention"))
        );
    }

    #[tokio::test]
    async fn a_hint_finds_an_end_among_many_at_once() {
        let ids: Vec<String> = (0..200).map(|n| format!("c{n:03}")).collect();
        let mut fake = Fake::default();
        for id in &ids {
            fake = fake.running(id);
        }
        let children: Vec<_> = ids.iter().map(|id| node(id)).collect();
        let mut watch = Watch::new(&fake, "parent", children);
        assert_eq!(watch.look().await, []);
        fake.end("c150", ChildOutcome::Cancelled);
        let ends = watch.look().await;
        assert_eq!(ends.len(), 1);
        assert_eq!(ends[0].child, node("c150"));
    }

    #[tokio::test]
    async fn without_hints_every_child_has_its_turn() {
        let ids: Vec<String> = (0..50).map(|n| format!("c{n:02}")).collect();
        let mut fake = Fake::default().without_hints();
        for id in &ids {
            fake = fake.running(id);
        }
        let children: Vec<_> = ids.iter().map(|id| node(id)).collect();
        let mut watch = Watch::new(&fake, "parent", children);
        assert_eq!(watch.look().await, []);
        fake.end("c45", ChildOutcome::Terminated);
        let mut rounds = 0;
        while watch.look().await.is_empty() {
            rounds += 1;
            assert!(rounds < 4, "every child within three rounds");
        }
    }

    #[tokio::test]
    async fn a_report_has_a_bound_and_at_least_one_end() {
        let mut fake = Fake::default();
        for id in ["a", "b", "c"] {
            let result = json!("x".repeat(700_000));
            fake = fake.closed(id).close(
                id,
                &format!("{id}-last"),
                Close::Ended(ChildOutcome::Completed { result }),
            );
        }
        let mut watch = Watch::new(&fake, "parent", ["a", "b", "c"].map(node).to_vec());
        assert_eq!(watch.look().await.len(), 1);
    }
}
