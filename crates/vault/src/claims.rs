//! What a worker claims about the activity it is running, and the proof that it is so.

use async_trait::async_trait;
use xylem_audit::{Activity, NodeRun};
use xylem_ids::{Namespace, NodeId, RunId, TaskQueue, TreeId, WorkflowId, WorkflowType};

/// Who asks, as the worker reads it from the activity task. Worth nothing until it is confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claims {
    /// The namespace.
    pub namespace: Namespace,
    /// The workflow that scheduled the activity.
    pub workflow_id: WorkflowId,
    /// Its run.
    pub run_id: RunId,
    /// Its type.
    pub workflow_type: WorkflowType,
    /// The task queue the activity was polled from.
    pub task_queue: TaskQueue,
    /// The activity and its attempt.
    pub activity: Activity,
}

impl Claims {
    /// Has the claims confirmed.
    ///
    /// # Errors
    /// They do not hold, or could not be checked.
    pub async fn confirm(self, check: &dyn ClaimCheck) -> Result<ConfirmedClaims, ClaimError> {
        let lineage = check.confirm(&self).await?;
        if lineage.tree.namespace != self.namespace {
            return Err(ClaimRefusal::NotOfTree.into());
        }
        Ok(ConfirmedClaims {
            claims: self,
            lineage,
        })
    }

    pub(crate) fn node_run(&self) -> NodeRun {
        NodeRun {
            workflow_id: self.workflow_id.clone(),
            run_id: Some(self.run_id.clone()),
        }
    }
}

/// Where a confirmed node stands, as the Temporal server reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    /// The tree: the root's workflow id and first run id.
    pub tree: TreeId,
    /// The node's own first run id.
    pub first_run_id: RunId,
    /// The queue its workflow tasks run on: whose declarations count.
    pub workflow_queue: TaskQueue,
    /// The workflow ids above the node, its parent first, the root last.
    pub ancestors: Vec<WorkflowId>,
}

/// Confirms claims with the Temporal server: the workflow is running, of that type and queue, the
/// activity is pending in that attempt, and this is its root.
#[async_trait]
pub trait ClaimCheck: Send + Sync {
    /// Confirms claims and says where the node stands.
    ///
    /// # Errors
    /// The claims do not hold, or could not be checked.
    async fn confirm(&self, claims: &Claims) -> Result<Lineage, ClaimError>;
}

/// Claims that a [`ClaimCheck`] has confirmed. Only [`Claims::confirm`] makes them.
///
/// ```compile_fail,E0451
/// fn forge(claims: xylem_vault::Claims, lineage: xylem_vault::Lineage) {
///     xylem_vault::ConfirmedClaims { claims, lineage };
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfirmedClaims {
    claims: Claims,
    lineage: Lineage,
}

impl ConfirmedClaims {
    /// What was claimed.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The tree the node belongs to.
    #[must_use]
    pub fn tree(&self) -> &TreeId {
        &self.lineage.tree
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        NodeId {
            workflow_id: self.claims.workflow_id.clone(),
            first_run_id: self.lineage.first_run_id.clone(),
        }
    }

    /// The queue its workflow tasks run on.
    #[must_use]
    pub fn workflow_queue(&self) -> &TaskQueue {
        &self.lineage.workflow_queue
    }

    /// The workflow ids above the node, its parent first.
    #[must_use]
    pub fn ancestors(&self) -> &[WorkflowId] {
        &self.lineage.ancestors
    }
}

/// Why claims are not confirmed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// They do not hold.
    #[error(transparent)]
    Refused(#[from] ClaimRefusal),
    /// Nobody could be asked.
    #[error("the claims could not be checked: try again")]
    NotChecked(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why claims do not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ClaimRefusal {
    /// The activity belongs to no workflow.
    #[error("the activity belongs to no workflow")]
    NoWorkflow,
    /// There is no such run, or it has closed.
    #[error("the workflow run is not running")]
    NotRunning,
    /// The activity is not pending in that attempt.
    #[error("the activity is not pending in this attempt")]
    NotPending,
    /// The workflow is of another type.
    #[error("the workflow is of another type")]
    OtherType,
    /// The activity is not on that task queue.
    #[error("the activity is not on this task queue")]
    OtherQueue,
    /// The workflow is in no tree that the claim could mean.
    #[error("the workflow belongs to another tree")]
    NotOfTree,
}

impl ClaimRefusal {
    /// The stable code: it stands in audit entries and error details, and is never reused.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NoWorkflow => "no_workflow",
            Self::NotRunning => "not_running",
            Self::NotPending => "activity_not_pending",
            Self::OtherType => "other_type",
            Self::OtherQueue => "other_queue",
            Self::NotOfTree => "not_of_tree",
        }
    }
}
