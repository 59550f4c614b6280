//! Revoking a version, behind its gate.

use crate::{
    OpenLeases, Transaction, Vault, VaultError, VersionInfo, VersionState, storage::VersionRow,
};
use xylem_audit::{Kind, Note, Verdict};
use xylem_ids::{AgentId, Slot, TreeId, Version};

/// Which version to revoke, and how.
#[derive(Debug, Clone)]
pub struct Revocation {
    /// The tree.
    pub tree: TreeId,
    /// The slot.
    pub slot: Slot,
    /// The version.
    pub version: Version,
    /// Revoke it although it is the active one, or leases on it are open. Audited as forced.
    pub force: bool,
    /// Who revokes it.
    pub by: AgentId,
    /// What they say about it, for the audit log.
    pub note: Option<Note>,
}

/// What a revocation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// The version as it is now.
    pub version: VersionInfo,
    /// Leases that were open all the same: their calls may still be using the token.
    pub open_leases: u64,
    /// Whether it had been revoked before; then nothing changed.
    pub before: bool,
}

impl Vault {
    /// Revokes a version for good and destroys its ciphertext.
    ///
    /// # Errors
    /// The version is unknown; or, unless forced, it is the active one or leases on it are open.
    /// Both are checked in the transaction that revokes it: no lease can begin in between.
    pub async fn revoke(&self, revocation: Revocation) -> Result<Revoked, VaultError> {
        let mut tx = self.begin().await?;
        let owner = self.tree_in(&mut *tx, &revocation.tree).await?;
        let row = self.version_in(&mut *tx, &owner, &revocation.slot, revocation.version);
        let row = row.await?;
        if row.info.state == VersionState::Revoked {
            return Ok(Revoked {
                version: row.info,
                open_leases: 0,
                before: true,
            });
        }
        let open = self.open_leases(&mut *tx, &row).await?;
        let needs_force = gate(&row, open).err();
        let kind = match needs_force {
            Some(error) if !revocation.force => return Err(error),
            Some(_) => Kind::ForcedRevoke,
            None => Kind::Revoke,
        };
        let row = self.destroy_version(&mut *tx, row).await?;
        let entry = self.entry(kind, Verdict::Succeeded, &revocation.by);
        let mut entry = self.about(entry.of_tree(&revocation.tree), &row.info);
        entry.note = revocation.note;
        tx.audit(&entry).await?;
        tx.commit().await?;
        Ok(Revoked {
            version: row.info,
            open_leases: open.count,
            before: false,
        })
    }

    pub(crate) async fn open_leases(
        &self,
        tx: &mut dyn Transaction,
        row: &VersionRow,
    ) -> Result<OpenLeases, VaultError> {
        let info = &row.info;
        let open = tx.open_leases(&info.start, &info.slot, info.version, self.seconds());
        Ok(open.await?)
    }

    /// Marks a version revoked and deletes its ciphertext.
    pub(crate) async fn destroy_version(
        &self,
        tx: &mut dyn Transaction,
        mut row: VersionRow,
    ) -> Result<VersionRow, VaultError> {
        row.info.state = VersionState::Revoked;
        row.info.state_since = self.seconds();
        let secret = row.secret.take();
        let row = self.derived.seal_version(row.info, None);
        tx.put_version(&row).await?;
        if let Some(secret) = secret {
            tx.delete_secret(&secret).await?;
        }
        Ok(row)
    }
}

fn gate(row: &VersionRow, open: OpenLeases) -> Result<(), VaultError> {
    if row.info.state == VersionState::Active {
        return Err(VaultError::StillActive(row.info.version));
    }
    if open.count > 0 {
        return Err(VaultError::OpenLeases {
            version: row.info.version,
            count: open.count,
            until: open.until,
        });
    }
    Ok(())
}
