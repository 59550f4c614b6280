//! Confirming with Temporal what a worker claims about the activity it is running.

use crate::temporal::{Description, Execution, Temporal, TemporalError};
use async_trait::async_trait;
use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use xylem_ids::{RunId, TreeId, WorkflowId};
use xylem_vault::{ClaimCheck, ClaimError, ClaimRefusal, Claims, Lineage};

/// How long a confirmation counts.
const CONFIRMED_FOR: Duration = Duration::from_secs(5);
/// At most so many confirmations, and so many facts about runs, are kept.
const MOST: usize = 20_000;
/// No tree is deeper: Temporal's own limits end long before.
const DEEPEST: usize = 100;

type Run = (WorkflowId, RunId);

/// Checks claims. What it remembers of runs never changes; confirmations count for 5 s.
pub struct ClaimChecker {
    temporal: Arc<dyn Temporal>,
    confirmed: Memory<(Claims, bool), (Instant, Lineage)>,
    /// A run's first run.
    firsts: Memory<Run, RunId>,
    /// A run's parent; none for a root.
    parents: Memory<Run, Option<Run>>,
}

impl ClaimChecker {
    /// One that remembers nothing yet.
    #[must_use]
    pub fn new(temporal: Arc<dyn Temporal>) -> Self {
        Self {
            temporal,
            confirmed: Memory::default(),
            firsts: Memory::default(),
            parents: Memory::default(),
        }
    }

    /// A check for claims of a local activity, which Temporal does not list as pending.
    pub(crate) fn local(&self) -> impl ClaimCheck + '_ {
        Local(self)
    }

    /// The first run of the chain that a run belongs to.
    pub(crate) async fn first_run(
        &self,
        run: &Run,
        child: &Execution,
    ) -> Result<Option<RunId>, TemporalError> {
        if let Some(first) = self.firsts.get(run) {
            return Ok(Some(first));
        }
        let found = self.run_or_chain(run, child).await?;
        let first = found.and_then(|found| found.execution.first_run_id);
        if let Some(first) = &first {
            self.firsts.put(run.clone(), first.clone());
        }
        Ok(first)
    }

    /// A run that a child names as its root or parent. Where Temporal has forgotten the run, any
    /// later run of the same chain does: that is the workflow open under the id now, if it was open
    /// already when the child started, because an id has one open workflow at a time.
    async fn run_or_chain(
        &self,
        run: &Run,
        child: &Execution,
    ) -> Result<Option<Description>, TemporalError> {
        match self.temporal.describe(&run.0, Some(&run.1)).await {
            Err(TemporalError::NotFound) => {}
            other => return other.map(Some),
        }
        let now = match self.temporal.describe(&run.0, None).await {
            Err(TemporalError::NotFound) => return Ok(None),
            other => other?,
        };
        let since = now.execution.chain_started_at;
        let same = since.is_some_and(|since| Some(since) <= child.chain_started_at);
        Ok((same && now.execution.status.is_open()).then_some(now))
    }

    async fn check(&self, claims: &Claims, local: bool) -> Result<Lineage, ClaimError> {
        let key = (claims.clone(), local);
        if let Some((at, lineage)) = self.confirmed.get(&key)
            && at.elapsed() < CONFIRMED_FOR
        {
            return Ok(lineage);
        }
        let asked = Instant::now();
        let described = self
            .temporal
            .describe(&claims.workflow_id, Some(&claims.run_id));
        let described = match described.await {
            Err(TemporalError::NotFound) => return Err(ClaimRefusal::NotRunning.into()),
            other => other.map_err(not_checked)?,
        };
        hold(claims, &described, local)?;
        let lineage = self.lineage(claims, &described.execution).await?;
        self.confirmed.put(key, (asked, lineage.clone()));
        Ok(lineage)
    }

    async fn lineage(&self, claims: &Claims, node: &Execution) -> Result<Lineage, ClaimError> {
        let first_run_id = node.first_run_id.clone();
        let first_run_id = first_run_id
            .ok_or_else(|| not_checked(TemporalError::Unintelligible("first run id")))?;
        let root_first = if node.root.0 == node.workflow_id {
            Some(first_run_id.clone())
        } else {
            self.first_run(&node.root, node)
                .await
                .map_err(not_checked)?
        };
        Ok(Lineage {
            tree: TreeId {
                namespace: claims.namespace.clone(),
                workflow_id: node.root.0.clone(),
                first_run_id: root_first.ok_or(ClaimRefusal::NotOfTree)?,
            },
            first_run_id,
            workflow_queue: node.task_queue.clone(),
            ancestors: self.ancestors(node).await?,
        })
    }

    /// The workflow ids above a node. A chain with a hole in it is no chain: what is excluded above
    /// the hole would be redeemable below it.
    async fn ancestors(&self, node: &Execution) -> Result<Vec<WorkflowId>, ClaimError> {
        let mut ancestors = Vec::new();
        let mut next = node.parent.clone();
        while let Some(run) = next {
            if ancestors.len() >= DEEPEST {
                return Err(ClaimRefusal::NotOfTree.into());
            }
            ancestors.push(run.0.clone());
            next = match self.parents.get(&run) {
                Some(parent) => parent,
                None => self.parent_of(run, node).await?,
            };
        }
        Ok(ancestors)
    }

    async fn parent_of(&self, run: Run, child: &Execution) -> Result<Option<Run>, ClaimError> {
        let found = self.run_or_chain(&run, child).await.map_err(not_checked)?;
        let found = found.ok_or(ClaimRefusal::NotOfTree)?;
        let parent = found.execution.parent;
        self.parents.put(run, parent.clone());
        Ok(parent)
    }
}

#[async_trait]
impl ClaimCheck for ClaimChecker {
    async fn confirm(&self, claims: &Claims) -> Result<Lineage, ClaimError> {
        self.check(claims, false).await
    }
}

struct Local<'a>(&'a ClaimChecker);

#[async_trait]
impl ClaimCheck for Local<'_> {
    async fn confirm(&self, claims: &Claims) -> Result<Lineage, ClaimError> {
        self.0.check(claims, true).await
    }
}

/// Whether Temporal says what was claimed.
fn hold(claims: &Claims, described: &Description, local: bool) -> Result<(), ClaimRefusal> {
    let run = &described.execution;
    if !run.status.is_open() {
        return Err(ClaimRefusal::NotRunning);
    }
    if run.workflow_type != claims.workflow_type {
        return Err(ClaimRefusal::OtherType);
    }
    if local {
        // A local activity runs where its workflow task runs.
        return if run.task_queue == claims.task_queue {
            Ok(())
        } else {
            Err(ClaimRefusal::OtherQueue)
        };
    }
    let claimed = &claims.activity;
    let pending = described
        .activities
        .iter()
        .find(|activity| activity.activity_id == claimed.id());
    let pending = pending.ok_or(ClaimRefusal::NotPending)?;
    if !pending.started || pending.attempt != claimed.attempt() {
        return Err(ClaimRefusal::NotPending);
    }
    let queue = pending.task_queue.as_ref().unwrap_or(&run.task_queue);
    if *queue != claims.task_queue {
        return Err(ClaimRefusal::OtherQueue);
    }
    Ok(())
}

fn not_checked(error: TemporalError) -> ClaimError {
    ClaimError::NotChecked(Box::new(error))
}

/// A bounded map. When it is full it is emptied: everything in it can be asked for again.
struct Memory<K, V>(Mutex<HashMap<K, V>>);

impl<K, V> Default for Memory<K, V> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<K: Eq + Hash, V: Clone> Memory<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.get(key).cloned()
    }

    fn put(&self, key: K, value: V) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= MOST {
            map.clear();
        }
        map.insert(key, value);
    }
}
