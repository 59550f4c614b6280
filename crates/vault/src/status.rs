//! What is deposited, as far as it may be told.

use crate::{StartId, Transaction, Vault, VaultError, VersionInfo, VersionState};
use xylem_grant::{UnixSeconds, VerifiedGrant};
use xylem_ids::TreeId;

/// A version and who is using it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionStatus {
    /// The version.
    pub info: VersionInfo,
    /// Calls that hold it now.
    pub open_leases: u64,
    /// When the last of them ends by itself.
    pub leases_until: Option<UnixSeconds>,
}

impl Vault {
    /// The versions of a tree, in the order of their slots and numbers.
    ///
    /// # Errors
    /// The tree is unknown, or a row was edited.
    pub async fn status(&self, tree: &TreeId) -> Result<Vec<VersionStatus>, VaultError> {
        let mut tx = self.begin_read().await?;
        let owner = self.tree_in(&mut *tx, tree).await?;
        let mut found = Vec::new();
        for row in tx.versions(&owner.tree.start).await? {
            let row = self.derived.check_version(row)?;
            let open = self.open_leases(&mut *tx, &row).await?;
            found.push(VersionStatus {
                info: row.info,
                open_leases: open.count,
                leases_until: (open.count > 0).then_some(open.until),
            });
        }
        Ok(found)
    }

    /// The current grants of a tree, one per slot that has an active version: what a rotation or a
    /// sweep signals.
    ///
    /// # Errors
    /// The tree is unknown, or a row was edited.
    pub async fn grants(&self, tree: &TreeId) -> Result<Vec<VerifiedGrant>, VaultError> {
        let mut tx = self.begin_read().await?;
        let owner = self.tree_in(&mut *tx, tree).await?;
        self.grants_in(&mut *tx, &owner.tree.start).await
    }

    pub(crate) async fn grants_in(
        &self,
        tx: &mut dyn Transaction,
        start: &StartId,
    ) -> Result<Vec<VerifiedGrant>, VaultError> {
        let mut grants = Vec::new();
        for row in tx.versions(start).await? {
            let row = self.derived.check_version(row)?;
            if row.info.state == VersionState::Active && row.info.grant.is_some() {
                grants.push(self.grant_of(&row)?);
            }
        }
        Ok(grants)
    }
}
