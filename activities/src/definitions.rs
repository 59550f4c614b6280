//! Tool definitions, kept for a few seconds.

use crate::{
    failure::Failure,
    ports::{TaskClaims, ToolDirectory},
    tool::ReadyTool,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;
use xylem_ids::ToolName;

/// A definition is asked for again after so long. A change shows at once where it matters: a
/// redemption names the hash of what was decided about.
const KEPT_FOR: Duration = Duration::from_secs(5);

/// No more are kept: a tree calls a handful of tools.
const MOST_KEPT: usize = 256;

type Key = (String, ToolName);
type Kept = HashMap<Key, (Instant, Arc<ReadyTool>)>;

/// Definitions by namespace and name.
pub(crate) struct Definitions {
    directory: Arc<dyn ToolDirectory>,
    kept: Mutex<Kept>,
}

impl Definitions {
    pub(crate) fn new(directory: Arc<dyn ToolDirectory>) -> Self {
        Self {
            directory,
            kept: Mutex::default(),
        }
    }

    pub(crate) async fn ready(
        &self,
        claims: &TaskClaims,
        name: &ToolName,
    ) -> Result<Arc<ReadyTool>, Failure> {
        let key = (claims.namespace.clone(), name.clone());
        let fresh = |since: &Instant| since.elapsed() < KEPT_FOR;
        if let Some((since, ready)) = self.kept().get(&key)
            && fresh(since)
        {
            return Ok(ready.clone());
        }
        let tool = self.directory.tool(claims, name).await?;
        let ready = Arc::new(ReadyTool::new(tool)?);
        let mut kept = self.kept();
        if kept.len() >= MOST_KEPT {
            kept.retain(|_, (since, _)| fresh(since));
        }
        if kept.len() < MOST_KEPT {
            kept.insert(key, (Instant::now(), ready.clone()));
        }
        Ok(ready)
    }

    pub(crate) fn forget(&self, claims: &TaskClaims, name: &ToolName) {
        let key = (claims.namespace.clone(), name.clone());
        self.kept().remove(&key);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
