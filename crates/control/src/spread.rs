//! Giving a credential's newest version to the trees that hold an older one.

use crate::{fault::Fault, keeper::Occasion, plane::Plane};
use futures::{StreamExt, stream};
use std::sync::Arc;
use xylem_ids::CredentialName;
use xylem_vault::{Copied, CopyStatus, Target, VaultError};

/// Trees that are given it at a time.
const TREES: usize = 16;
/// Credentials per page.
const PAGE: u32 = 200;

impl Plane {
    /// Deposits a credential's active version wherever an older one fills a slot, and signals it.
    /// Whoever is given it already is not given it again, so that a spread that was killed goes on
    /// with the rest. Answers how many could not be given it.
    pub(crate) async fn spread(self: &Arc<Self>, name: &CredentialName) -> Result<u32, Fault> {
        let namespace = &self.settings.namespace;
        let status = match self.vault.credential(namespace, name).await {
            Err(VaultError::NotFound { .. }) => return Ok(0),
            status => status?,
        };
        let behind: Vec<_> = status.behind().cloned().collect();
        let failed = stream::iter(behind)
            .map(|copy| self.give(name, copy))
            .buffer_unordered(TREES)
            .filter(|given| std::future::ready(!given))
            .count()
            .await;
        Ok(u32::try_from(failed).unwrap_or(u32::MAX))
    }

    /// What credentials need from time to time: the next value, where it is obtained and the one there
    /// is ends soon, and whatever a spread has left. Answers how much of it failed.
    pub(crate) async fn tend_credentials(self: &Arc<Self>) -> Result<u32, Fault> {
        let mut failed: u32 = 0;
        let mut after = None;
        loop {
            let namespace = &self.settings.namespace;
            let page = self
                .vault
                .credentials(namespace, None, after.as_ref(), PAGE);
            let page = page.await?;
            let Some(last) = page.last() else {
                return Ok(failed);
            };
            after = Some(last.credential.name.clone());
            for status in &page {
                // Whoever keeps it may have been ended by somebody: a sweep looks, too.
                if status.source.is_some() {
                    let name = &status.credential.name;
                    self.keeper_runs(name).await;
                    let kept = self.keep_credential(name, Occasion::Sweep).await;
                    let is_fine = kept.is_ok_and(|kept| !kept.has_failed());
                    failed += u32::from(!is_fine);
                }
                if self.has_stragglers(&status.credential.name).await? {
                    failed = failed.saturating_add(self.spread(&status.credential.name).await?);
                }
            }
        }
    }

    async fn has_stragglers(&self, name: &CredentialName) -> Result<bool, Fault> {
        let status = self
            .vault
            .credential(&self.settings.namespace, name)
            .await?;
        Ok(status.behind().next().is_some())
    }

    async fn give(self: &Arc<Self>, name: &CredentialName, copy: CopyStatus) -> bool {
        let target = match &copy.tree {
            Some(tree) => Target::Tree(tree.clone()),
            None => Target::Start(copy.start.clone()),
        };
        let copied = Copied {
            target,
            slot: copy.slot.clone(),
            credential: name.clone(),
            lifetime: self.settings.lifetime,
            by: self.system.clone(),
        };
        match self.vault.copy_credential(&copied).await {
            Ok(given) => {
                if let (false, Some(tree)) = (given.repeated, &copy.tree) {
                    self.announce(tree).await;
                }
                true
            }
            Err(VaultError::Stopped) => true,
            Err(error) => {
                tracing::warn!(
                    %error,
                    credential.name = %name,
                    token.slot = %copy.slot,
                    "a tree could not be given the newest version: the next sweep tries again"
                );
                false
            }
        }
    }
}
