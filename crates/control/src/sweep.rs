//! Finding what the cascade missed, and healing it.

use crate::{
    fault::Fault,
    metrics::add,
    plane::Plane,
    temporal::{Stop, TemporalError},
    walk::{Look, Node, Standing, Walk},
};
use futures::{FutureExt, StreamExt, stream};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use xylem_grant::{UnixSeconds, VerifiedGrant};
use xylem_ids::{RunId, TreeId};
use xylem_vault::{StartId, Tree, VersionState};

/// Signals under way at a time in one sweep.
const SIGNALS: usize = 16;
/// Trees per page.
const PAGE: u32 = 200;
/// A start that is this old and neither bound nor given up was left behind by a crash.
const LEFT_BEHIND: Duration = Duration::from_secs(60);
/// A node that stays behind is signalled again this often, under another request id: it may have
/// been reset to before the last signal.
const AGAIN: u64 = 5 * 60;

/// What one sweep of one tree did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Nodes that needed nothing.
    pub fine: u32,
    /// Nodes that were signalled.
    pub signalled: u32,
    /// Nodes that could not be signalled, or did not answer.
    pub failed: u32,
}

impl Plane {
    /// Signals the current grants to the nodes of a tree that are behind or silent.
    pub(crate) async fn sweep_tree(&self, tree: &TreeId) -> Result<(Walk, Swept), Fault> {
        let walk = self.walk(tree, Look::default()).await?;
        let grants = self.vault.grants(tree).await?;
        let mut swept = Swept::default();
        let mut due = Vec::new();
        for node in walk
            .nodes
            .iter()
            .filter(|node| node.status.is_some() && node.is_open())
        {
            let needed: Vec<_> = grants
                .iter()
                .filter(|grant| walk.standing(node, grant.slot()).blocks())
                .collect();
            if needed.is_empty() {
                swept.fine += 1;
            } else {
                due.push((node, needed));
            }
        }
        // Named beforehand: the compiler cannot see through a closure over borrowed pairs here.
        let healing: Vec<_> = due
            .into_iter()
            .map(|(node, grants)| self.heal(&walk, node, grants).boxed())
            .collect();
        let healed: Vec<bool> = stream::iter(healing)
            .buffer_unordered(SIGNALS)
            .collect()
            .await;
        for healed in healed {
            let count = if healed {
                &mut swept.signalled
            } else {
                &mut swept.failed
            };
            *count += 1;
        }
        add(&self.metrics.sweeps, 1);
        add(&self.metrics.swept, swept.signalled.into());
        Ok((walk, swept))
    }

    async fn heal(&self, walk: &Walk, node: &Node, grants: Vec<&VerifiedGrant>) -> bool {
        let Ok(Some(first_run_id)) = self.first_run_of(node).await else {
            return false;
        };
        for grant in grants {
            // A silent node may have the signal in its queue: the same request adds nothing. One
            // that answered has not adopted what was sent before.
            let again = match walk.standing(node, grant.slot()) {
                Standing::Behind(_) => window(SystemTime::now()),
                _ => String::new(),
            };
            let to = (&node.workflow_id, &first_run_id);
            match self.signal_grant(to, grant, &again).await {
                Ok(()) | Err(TemporalError::NotFound) => {}
                Err(_) => return false,
            }
        }
        true
    }

    async fn first_run_of(&self, node: &Node) -> Result<Option<RunId>, TemporalError> {
        if let Some(first) = &node.first_run_id {
            return Ok(Some(first.clone()));
        }
        match self
            .temporal
            .describe(&node.workflow_id, node.run_id.as_ref())
            .await
        {
            Ok(found) => Ok(found.execution.first_run_id),
            Err(TemporalError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Everything that is to be done from time to time: starts that a crash left, grants that
    /// expire, nodes that are behind. What fails for one tree does not keep the others waiting.
    pub(crate) async fn sweep_all(self: &Arc<Self>) -> Result<Swept, Fault> {
        self.settle_starts().await?;
        self.renew_expiring().await?;
        self.vault.tidy().await?;
        let mut total = Swept::default();
        let mut after: Option<StartId> = None;
        loop {
            let namespace = &self.settings.namespace;
            let page = self.vault.trees(namespace, after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else {
                return Ok(total);
            };
            after = Some(last.start.clone());
            for tree in page.iter().filter(|tree| tree.is_bound()) {
                let swept = self.sweep_known(tree).await;
                total.fine += swept.fine;
                total.signalled += swept.signalled;
                total.failed += swept.failed;
            }
        }
    }

    async fn sweep_known(&self, tree: &Tree) -> Swept {
        let Some(id) = tree.id() else {
            return Swept::default();
        };
        match self.sweep_tree(&id).await {
            Ok((_, swept)) => swept,
            Err(fault) => {
                tracing::warn!(reason = fault.reason(), tree.id = %id, "a tree could not be swept");
                Swept {
                    failed: 1,
                    ..Swept::default()
                }
            }
        }
    }

    /// Binds the starts whose root runs after all, and gives up those whose root does not.
    async fn settle_starts(&self) -> Result<(), Fault> {
        let old = UnixSeconds::from(SystemTime::now() - LEFT_BEHIND);
        for tree in self.vault.starting().await? {
            if tree.namespace != self.settings.namespace || tree.opened_at > old {
                continue;
            }
            match self.temporal.describe(&tree.workflow_id, None).await {
                Ok(found)
                    if found
                        .start_requests
                        .iter()
                        .any(|r| r == tree.start.as_str()) =>
                {
                    if let Some(first) = found.execution.first_run_id {
                        let bound = self.vault.bind(&tree.start, first).await?;
                        self.signal_grants(&bound.tree, &bound.grants).await;
                    }
                }
                Ok(_) | Err(TemporalError::NotFound) => {
                    self.vault.abandon(&tree.start, &self.system).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Issues again the grants that live for as long as the server says, before they expire. A
    /// grant whose depositor said how long it lives ends when they said.
    async fn renew_expiring(self: &Arc<Self>) -> Result<(), Fault> {
        let lifetime = self.settings.lifetime;
        for (tree, slot) in self.vault.expiring(lifetime / 3).await? {
            let status = self.vault.status(&tree).await?;
            let ours = status.iter().map(|version| &version.info).any(|info| {
                info.slot == slot
                    && info.state == VersionState::Active
                    && info.issued_at.plus(lifetime) == info.expires_at
            });
            if ours
                && self
                    .root(&tree)
                    .await?
                    .is_some_and(|root| root.status.is_open())
            {
                self.vault
                    .reissue(&tree, &slot, lifetime, &self.system)
                    .await?;
                self.announce(&tree).await;
            }
        }
        Ok(())
    }

    /// Asks every open workflow of a tree to end, and answers how many were asked and how many
    /// are still open. `asked` remembers who was.
    pub(crate) async fn stop_round(
        &self,
        tree: &TreeId,
        how: Stop,
        reason: &str,
        asked: &mut BTreeSet<RunId>,
    ) -> Result<usize, Fault> {
        let look = Look {
            closed_too: false,
            without_queries: true,
        };
        let walk = self.walk(tree, look).await?;
        let mut open = 0;
        for node in walk.nodes.iter().filter(|node| node.is_open()) {
            open += 1;
            let Some(first) = self.first_run_of(node).await? else {
                continue;
            };
            // By run: a run that continued as new before it noticed has lost the request.
            let run = node.run_id.clone().unwrap_or_else(|| first.clone());
            if asked.contains(&run) {
                continue;
            }
            match self
                .temporal
                .stop(&node.workflow_id, &first, how, reason)
                .await
            {
                Ok(()) => {
                    asked.insert(run);
                }
                Err(TemporalError::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(open)
    }
}

fn window(now: SystemTime) -> String {
    let seconds = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    (seconds / AGAIN).to_string()
}
