//! Finding what the cascade missed, and healing it.

use crate::{
    Control,
    fault::Fault,
    metrics::add,
    plane::Plane,
    stop::Stopping,
    temporal::TemporalError,
    walk::{Look, Node, Standing, Walk},
};
use futures::{FutureExt, StreamExt, stream};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tonic::Status;
use xylem_grant::{UnixSeconds, VerifiedGrant};
use xylem_ids::{RunId, Slot, TreeId};
use xylem_vault::{StartId, Tree, TreeState, VersionState};

/// Signals under way at a time in one sweep.
const SIGNALS: usize = 16;
/// Trees per page.
const PAGE: u32 = 200;
/// A start that is this old and neither bound nor given up was left behind by a crash: no call
/// takes so long.
const LEFT_BEHIND: Duration = Duration::from_secs(60);
/// A node that stays behind is signalled again this often, under another request id: it may have
/// been reset to before the last signal.
const AGAIN: u64 = 5 * 60;
/// A tree of which nothing runs is looked at again this often: a reset can bring its root back.
const OVER_FOR: Duration = Duration::from_secs(60 * 60);
/// So many sweeps in a row have to find nothing running: a list may lag.
const OVER_SWEEPS: u32 = 2;

/// What a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Nodes that needed nothing.
    pub fine: u32,
    /// Nodes that were signalled.
    pub signalled: u32,
    /// Nodes that could not be signalled, starts that could not be settled, grants that could not
    /// be renewed, trees that could not be given a credential or be looked at. The log has the reasons.
    pub failed: u32,
    /// Workflows of stopped trees that still ran and were asked to end, or were ended.
    pub stopped: u32,
}

/// Trees of which nothing runs. Only this process remembers them, so that no sweep has to look at
/// every tree there ever was.
#[derive(Debug, Default)]
pub(crate) struct Over(Mutex<HashMap<TreeId, (u32, UnixSeconds)>>);

impl Over {
    /// Notes whether something of a tree runs.
    fn note(&self, tree: &TreeId, over: bool, now: UnixSeconds) {
        let mut trees = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if over {
            let seen = trees.entry(tree.clone()).or_insert((0, now));
            *seen = (seen.0.saturating_add(1), now);
        } else {
            trees.remove(tree);
        }
    }

    /// Whether a tree need not be looked at.
    fn rests(&self, tree: &TreeId, now: UnixSeconds) -> bool {
        let trees = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        trees
            .get(tree)
            .is_some_and(|(times, at)| *times >= OVER_SWEEPS && now < at.plus(OVER_FOR))
    }
}

impl Control {
    /// Sweeps everything once, as the schedule has it done every [`Settings::sweep_every`]: settles
    /// starts that a crash left more than a minute ago, renews grants of which a third of the
    /// lifetime is left, signals nodes that are behind, and ends what still runs of stopped trees.
    ///
    /// # Errors
    /// The database did not answer. What fails for a single tree is counted in the answer.
    ///
    /// [`Settings::sweep_every`]: crate::Settings::sweep_every
    pub async fn sweep(&self) -> Result<Swept, Status> {
        Ok(self.plane().sweep_all().await?)
    }
}

impl Plane {
    /// Signals the current grants to the nodes of a tree that are behind or silent, or hold one that
    /// was renewed.
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
                .filter(|grant| {
                    let slot = grant.slot();
                    walk.standing(node, slot).blocks() || walk.outlived(node, slot)
                })
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
            // A silent node may have the signal in its queue, and the cascade of a renewal may be
            // on its way: the same request adds nothing. A node behind has not adopted what was
            // sent before.
            let again = match walk.standing(node, grant.slot()) {
                Standing::Behind(_) => window(self.now().into()),
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

    pub(crate) async fn first_run_of(&self, node: &Node) -> Result<Option<RunId>, TemporalError> {
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

    /// Everything that is to be done from time to time: starts that a crash left, credentials that
    /// did not reach every tree, grants that expire, nodes that are behind. What fails for one tree does not keep the others waiting.
    pub(crate) async fn sweep_all(self: &Arc<Self>) -> Result<Swept, Fault> {
        let unsettled = self.settle_starts().await?;
        let unspread = self.tend_credentials().await?;
        let unrenewed = self.renew_expiring().await?;
        self.vault.tidy().await?;
        self.identity.tidy(self.now()).await?;
        self.expire_accesses().await?;
        let mut swept = self.sweep_trees().await?;
        swept.failed += unsettled + unspread + unrenewed;
        Ok(swept)
    }

    async fn sweep_trees(&self) -> Result<Swept, Fault> {
        let mut total = Swept::default();
        let mut after: Option<StartId> = None;
        loop {
            let namespace = &self.settings.namespace;
            let page = self.vault.trees(namespace, after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else {
                return Ok(total);
            };
            after = Some(last.start.clone());
            for tree in &page {
                let swept = self.sweep_known(tree).await;
                total.fine += swept.fine;
                total.signalled += swept.signalled;
                total.failed += swept.failed;
                total.stopped += swept.stopped;
            }
        }
    }

    /// Sweeps a tree of which something may run.
    async fn sweep_known(&self, tree: &Tree) -> Swept {
        let now = UnixSeconds::from(self.now());
        let Some(id) = tree.id().filter(|id| !self.over.rests(id, now)) else {
            return Swept::default();
        };
        let swept = match tree.state {
            TreeState::Stopped { .. } => self.finish(tree).await,
            _ => self
                .sweep_tree(&id)
                .await
                .map(|(walk, swept)| (walk.is_over(), swept)),
        };
        match swept {
            Ok((over, swept)) => {
                self.over.note(&id, over, now);
                swept
            }
            Err(fault) => {
                self.met(&fault);
                tracing::warn!(reason = fault.reason(), tree.id = %id, "a tree could not be swept");
                Swept {
                    failed: 1,
                    ..Swept::default()
                }
            }
        }
    }

    /// Ends what still runs of a stopped tree: the call that stopped it did not wait for the end,
    /// or did not live to see it. Answers whether there was nothing.
    async fn finish(&self, tree: &Tree) -> Result<(bool, Swept), Fault> {
        let Some(mut stopping) = Stopping::of(tree) else {
            return Ok((true, Swept::default()));
        };
        self.stop_round(&mut stopping).await?;
        let swept = Swept {
            stopped: u32::try_from(stopping.asked()).unwrap_or(u32::MAX),
            ..Swept::default()
        };
        Ok((stopping.is_quiet(), swept))
    }

    /// Settles the starts that a crash left; answers how many could not be.
    async fn settle_starts(&self) -> Result<u32, Fault> {
        let now = UnixSeconds::from(self.now());
        let mut failed = 0;
        for tree in self.vault.starting().await? {
            let left_behind = tree.opened_at.plus(LEFT_BEHIND) <= now;
            if !left_behind || tree.namespace != self.settings.namespace {
                continue;
            }
            if let Err(fault) = self.settle(&tree).await {
                self.met(&fault);
                tracing::warn!(
                    reason = fault.reason(),
                    workflow.id = %tree.workflow_id,
                    "a start that a crash left could not be settled: the next sweep tries again"
                );
                failed += 1;
            }
        }
        Ok(failed)
    }

    /// Binds a start whose root was started after all, and gives up one whose root was not.
    async fn settle(&self, tree: &Tree) -> Result<(), Fault> {
        match self.started_by(tree).await? {
            Some(first_run_id) => {
                let bound = self.vault.bind(&tree.start, first_run_id).await?;
                self.signal_grants(&bound.tree, &bound.grants).await;
            }
            None => self.vault.abandon(&tree.start, &self.system).await?,
        }
        Ok(())
    }

    /// The first run of the workflow under a start's id, if this start made it and not somebody
    /// else. Only the first run knows the request that started it.
    async fn started_by(&self, tree: &Tree) -> Result<Option<RunId>, TemporalError> {
        let mut found = match self.temporal.describe(&tree.workflow_id, None).await {
            Err(TemporalError::NotFound) => return Ok(None),
            answer => answer?,
        };
        let Some(first) = found.execution.first_run_id.clone() else {
            return Ok(None);
        };
        if found.execution.run_id != first {
            let described = self.temporal.describe(&tree.workflow_id, Some(&first));
            found = match described.await {
                Err(TemporalError::NotFound) => return Ok(None),
                answer => answer?,
            };
        }
        let mut requests = found.start_requests.iter();
        let ours = requests.any(|request| request == tree.start.as_str());
        Ok(ours.then_some(first))
    }

    /// Issues again the grants that live for as long as the server says, before they expire;
    /// answers how many could not be.
    async fn renew_expiring(self: &Arc<Self>) -> Result<u32, Fault> {
        let soon = self.settings.lifetime / 3;
        let now = UnixSeconds::from(self.now());
        let mut failed = 0;
        for (tree, slot) in self.vault.expiring(soon).await? {
            if tree.namespace != self.settings.namespace || self.over.rests(&tree, now) {
                continue;
            }
            if let Err(fault) = self.renew(&tree, &slot).await {
                self.met(&fault);
                tracing::warn!(
                    reason = fault.reason(),
                    tree.id = %tree,
                    token.slot = %slot,
                    "a grant that expires could not be renewed: the next sweep tries again"
                );
                failed += 1;
            }
        }
        Ok(failed)
    }

    /// Renews a grant and signals it, unless its depositor said when it ends or the root has
    /// closed.
    async fn renew(self: &Arc<Self>, tree: &TreeId, slot: &Slot) -> Result<(), Fault> {
        let lifetime = self.settings.lifetime;
        let status = self.vault.status(tree).await?;
        let ours = status.iter().map(|version| &version.info).any(|info| {
            info.slot == *slot
                && info.state == VersionState::Active
                && info.issued_at.plus(lifetime) == info.expires_at
        });
        if !ours {
            return Ok(());
        }
        let root = self.root(tree).await?;
        if root.is_some_and(|root| root.status.is_open()) {
            self.vault
                .reissue(tree, slot, lifetime, &self.system)
                .await?;
            self.announce(tree).await;
        }
        Ok(())
    }
}

fn window(now: UnixSeconds) -> String {
    (now.0 / AGAIN).to_string()
}
