//! Revoking a version of a credential, and removing the credential.

use super::{CredentialMark, CredentialVersion, CredentialVersionRow};
use crate::{Transaction, Vault, VaultError, VersionState};
use xylem_audit::{Kind, Note};
use xylem_ids::{AgentId, CredentialName, Namespace, Version};

/// Which version of a credential to revoke, and how.
#[derive(Debug, Clone)]
pub struct VersionRevocation {
    /// The namespace.
    pub namespace: Namespace,
    /// The credential.
    pub name: CredentialName,
    /// The version.
    pub version: Version,
    /// Revoke it although it is the active one. Copies that trees hold are in the way all the same.
    pub force: bool,
    /// Who revokes it.
    pub by: AgentId,
    /// What they say about it, for the audit log.
    pub note: Option<Note>,
}

/// Which credential to remove.
#[derive(Debug, Clone)]
pub struct Removal {
    /// The namespace.
    pub namespace: Namespace,
    /// The credential.
    pub name: CredentialName,
    /// Who removes it.
    pub by: AgentId,
    /// What they say about it, for the audit log.
    pub note: Option<Note>,
}

impl Vault {
    /// Revokes a version of a credential for good and destroys its ciphertext. Revoking it again
    /// changes nothing.
    ///
    /// # Errors
    /// A tree still holds a copy that was not revoked; or, unless forced, it is the active version, or
    /// a tool that sends it itself is being called.
    /// Both are checked in the transaction that revokes it: no copy is made in between.
    pub async fn revoke_credential_version(
        &self,
        revocation: VersionRevocation,
    ) -> Result<CredentialVersion, VaultError> {
        let VersionRevocation {
            namespace,
            name,
            version,
            force,
            by,
            note,
        } = revocation;
        let mut tx = self.begin().await?;
        let owner = self.credential_in(&mut *tx, &namespace, &name).await?;
        let versions = self
            .credential_versions(&mut *tx, &owner.credential)
            .await?;
        let found = versions.into_iter().find(|row| row.info.version == version);
        let row = found.ok_or(VaultError::NotFound {
            what: "version of this credential",
        })?;
        if row.info.state == VersionState::Revoked {
            return Ok(row.info);
        }
        if row.info.state == VersionState::Active && !force {
            return Err(VaultError::StillActive(version));
        }
        let mut copies = self.copies_in(&mut *tx, &owner.credential).await?;
        copies.retain(|copy| copy.mark == version);
        if !copies.is_empty() {
            return Err(VaultError::HeldByTrees(copies.len()));
        }
        if !force {
            self.check_leases(&mut *tx, &row.info).await?;
        }
        let forced = row.info.state == VersionState::Active;
        let info = self.destroy_value(&mut *tx, row).await?;
        let mut entry = self.credential_entry(Kind::CredentialRevoked, &info, &by);
        if forced {
            entry = entry.because("forced");
        }
        entry.note = note;
        tx.audit(&entry).await?;
        tx.commit().await?;
        Ok(info)
    }

    /// Removes a credential: its versions are revoked, and its data key is destroyed, so that nothing
    /// that was encrypted under it can be read again.
    ///
    /// # Errors
    /// There is none, a workflow type starts with it, a tree holds a copy that was not revoked, or a
    /// tool that sends it itself is being called.
    pub async fn remove_credential(&self, removal: Removal) -> Result<(), VaultError> {
        let Removal {
            namespace,
            name,
            by,
            note,
        } = removal;
        let mut tx = self.begin().await?;
        let row = self.credential_in(&mut *tx, &namespace, &name).await?;
        let bindings = self.bindings_in(&mut *tx, &namespace).await?;
        if bindings.iter().any(|binding| binding.credential == name) {
            return Err(VaultError::CredentialBound);
        }
        let copies = self.copies_in(&mut *tx, &row.credential).await?;
        if !copies.is_empty() {
            return Err(VaultError::HeldByTrees(copies.len()));
        }
        let mut newest = None;
        for version in self.credential_versions(&mut *tx, &row.credential).await? {
            newest = Some(if version.info.state == VersionState::Revoked {
                version.info
            } else {
                self.check_leases(&mut *tx, &version.info).await?;
                self.destroy_value(&mut *tx, version).await?
            });
        }
        self.destroy_source(&mut *tx, &row).await?;
        let mut credential = row.credential;
        credential.removed_at = Some(self.seconds());
        tx.put_credential(&self.derived.seal_credential(credential, None))
            .await?;
        if let Some(key) = &row.data_key {
            tx.delete_key(key).await?;
        }
        if let Some(newest) = &newest {
            let mut entry = self.credential_entry(Kind::CredentialRemoved, newest, &by);
            entry.note = note;
            tx.audit(&entry).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Whether no call of a tool that sends this credential itself is under way.
    async fn check_leases(
        &self,
        tx: &mut dyn Transaction,
        info: &CredentialVersion,
    ) -> Result<(), VaultError> {
        let mark = CredentialMark {
            name: info.name.clone(),
            version: info.version,
        };
        let open = tx.open_credential_leases(&info.namespace, &mark, self.seconds());
        let open = open.await?;
        if open.count == 0 {
            return Ok(());
        }
        Err(VaultError::OpenLeases {
            version: info.version,
            count: open.count,
            until: open.until,
        })
    }

    /// Marks a version revoked and deletes its ciphertext.
    async fn destroy_value(
        &self,
        tx: &mut dyn Transaction,
        mut row: CredentialVersionRow,
    ) -> Result<CredentialVersion, VaultError> {
        row.info.state = VersionState::Revoked;
        row.info.state_since = self.seconds();
        let secret = row.secret.take();
        let row = self.derived.seal_credential_version(row.info, None);
        tx.put_credential_version(&row).await?;
        if let Some(secret) = secret {
            tx.delete_secret(&secret).await?;
        }
        Ok(row.info)
    }
}
