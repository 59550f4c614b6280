//! Bringing every workflow of a tree to its end.

use crate::{
    fault::Fault,
    plane::Plane,
    temporal::{Stop, TemporalError},
    walk::{Look, Node},
};
use std::{collections::BTreeSet, time::Duration};
use tokio::time::Instant;
use xylem_ids::{RunId, TreeId, WorkflowId};
use xylem_vault::Tree;

/// Nodes are asked for their children for at most so long in one round: a tree whose workers are
/// gone is stopped all the same.
const ASK_FOR: Duration = Duration::from_secs(3);
/// So many rounds in a row that find nothing open make a tree stopped: a list may lag.
const QUIET_ROUNDS: u32 = 2;

/// A tree that is being stopped, round by round.
#[derive(Debug)]
pub(crate) struct Stopping {
    tree: TreeId,
    how: Stop,
    reason: String,
    /// Runs that were asked to end, or were ended.
    asked: BTreeSet<RunId>,
    /// Children that a parent was about to start: they may run by now, and no list may show them.
    starting: BTreeSet<WorkflowId>,
    quiet: u32,
}

impl Stopping {
    /// `reason` is what Temporal is told; where it is empty, that the tree was stopped.
    pub(crate) fn new(tree: TreeId, how: Stop, reason: &str) -> Self {
        let reason = match reason {
            "" => "the tree was stopped",
            reason => reason,
        };
        Self {
            tree,
            how,
            reason: reason.to_owned(),
            asked: BTreeSet::new(),
            starting: BTreeSet::new(),
            quiet: 0,
        }
    }

    /// How, by what was said last about a stopped tree.
    pub(crate) fn of(tree: &Tree) -> Option<Self> {
        let how = if tree.is_to_terminate() {
            Stop::Terminate
        } else {
            Stop::Cancel
        };
        tree.id().map(|id| Self::new(id, how, ""))
    }

    /// How many runs were asked to end.
    pub(crate) fn asked(&self) -> usize {
        self.asked.len()
    }

    /// Whether the last round found nothing open.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet > 0
    }

    /// Whether nothing runs any more.
    pub(crate) fn is_over(&self) -> bool {
        self.quiet >= QUIET_ROUNDS
    }
}

/// An open workflow of the tree.
struct Open<'a> {
    workflow_id: &'a WorkflowId,
    first_run_id: RunId,
    run_id: RunId,
}

impl Plane {
    /// Asks every open workflow of a tree to end, and answers how many are still open. Each node
    /// is asked for its children first: one that has just started is on no list yet.
    ///
    /// One that cannot be ended fails the round, after the others.
    pub(crate) async fn stop_round(&self, stopping: &mut Stopping) -> Result<usize, Fault> {
        let look = Look {
            until: Some(Instant::now() + ASK_FOR),
            ..Look::default()
        };
        let walk = self.walk(&stopping.tree, look).await?;
        let mut open = 0;
        let mut failed = None;
        for node in walk.nodes.iter().filter(|node| node.is_open()) {
            open += 1;
            if node.status.is_none() {
                stopping.starting.insert(node.workflow_id.clone());
                continue;
            }
            if let Err(error) = self.end_node(stopping, node).await {
                failed = Some(error);
            }
        }
        let listed: BTreeSet<_> = walk.nodes.iter().map(|node| &node.workflow_id).collect();
        for child in stopping.starting.clone() {
            match self.end_started(stopping, &child).await {
                Ok(true) if !listed.contains(&child) => open += 1,
                Ok(_) => {}
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            return Err(error.into());
        }
        let quiet = open == 0 && !walk.truncated;
        stopping.quiet = if quiet { stopping.quiet + 1 } else { 0 };
        Ok(open)
    }

    async fn end_node(&self, stopping: &mut Stopping, node: &Node) -> Result<(), TemporalError> {
        let Some(first_run_id) = self.first_run_of(node).await? else {
            return Ok(());
        };
        let run_id = node.run_id.clone().unwrap_or_else(|| first_run_id.clone());
        let open = Open {
            workflow_id: &node.workflow_id,
            first_run_id,
            run_id,
        };
        self.end(stopping, open).await
    }

    /// Ends a child whose start its parent had not confirmed, if it runs and is of this tree and
    /// not somebody else's under the same id. Answers whether it was open.
    async fn end_started(
        &self,
        stopping: &mut Stopping,
        child: &WorkflowId,
    ) -> Result<bool, TemporalError> {
        let found = match self.temporal.describe(child, None).await {
            Err(TemporalError::NotFound) => return Ok(false),
            answer => answer?.execution,
        };
        let ours = found.root.0 == stopping.tree.workflow_id
            && self.is_member(&stopping.tree, &found).await?;
        let (true, true, Some(first_run_id)) = (ours, found.status.is_open(), found.first_run_id)
        else {
            return Ok(false);
        };
        let open = Open {
            workflow_id: child,
            first_run_id,
            run_id: found.run_id,
        };
        self.end(stopping, open).await?;
        Ok(true)
    }

    /// By run: a run that continued as new before it noticed has lost the request.
    async fn end(&self, stopping: &mut Stopping, open: Open<'_>) -> Result<(), TemporalError> {
        if stopping.asked.contains(&open.run_id) {
            return Ok(());
        }
        let (how, reason) = (stopping.how, &stopping.reason);
        let ended = self
            .temporal
            .stop(open.workflow_id, &open.first_run_id, how, reason);
        match ended.await {
            Ok(()) => {
                stopping.asked.insert(open.run_id);
                Ok(())
            }
            Err(TemporalError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
