//! Trees and their nodes, in Temporal's terms.

use crate::name::{name, printable};
use serde::{Deserialize, Serialize};
use std::{borrow::Borrow, fmt, str::FromStr};

name!(
    /// A Temporal namespace.
    Namespace,
    "namespace",
    "1 to 255 printable characters",
    |text| printable(text, 255)
);

name!(
    /// A Temporal workflow id.
    WorkflowId,
    "workflow id",
    "1 to 1000 printable characters",
    |text| printable(text, 1000)
);

name!(
    /// A Temporal run id. As the *first* run id of a workflow it stays the same over
    /// continue-as-new, retry, cron and reset.
    RunId,
    "run id",
    "1 to 64 characters of A-Z, a-z, 0-9 and '-'",
    |text| (1..=64).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
);

/// A tree: a root workflow and all its descendants.
///
/// The first run id tells two trees apart that bear the same workflow id one after the other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeId {
    /// Where the tree runs.
    pub namespace: Namespace,
    /// The root's workflow id: what people call the tree.
    pub workflow_id: WorkflowId,
    /// The root's first run id.
    pub first_run_id: RunId,
}

impl fmt::Display for TreeId {
    /// `namespace/workflow-id/first-run-id`: unambiguous to a reader, not meant to be parsed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}/{}",
            self.namespace, self.workflow_id, self.first_run_id
        )
    }
}

/// One workflow of a tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeId {
    /// The workflow id.
    pub workflow_id: WorkflowId,
    /// The first run id: another workflow under the same id is another node.
    pub first_run_id: RunId,
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.workflow_id.as_str())
    }
}
