//! Binding a credential to a slot by workflow type, and the copies that trees hold.

use super::{Binding, Credential, CredentialMark};
use crate::{
    Deposited, RequestId, StartId, Target, Transaction, TreeRow, Vault, VaultError, VersionState,
    deposit::Next,
};
use std::time::Duration;
use xylem_audit::{Kind, SubjectKind, Verdict};
use xylem_grant::UnixSeconds;
use xylem_ids::{AgentId, CredentialName, Namespace, Slot, TreeId, Version, WorkflowType};

/// A version of a tree's slot that was made of a credential, and not revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyStatus {
    /// The tree's start.
    pub start: StartId,
    /// The tree; absent while its root has not started.
    pub tree: Option<TreeId>,
    /// The slot.
    pub slot: Slot,
    /// The version of the slot.
    pub version: Version,
    /// Where it is in its life.
    pub state: VersionState,
    /// The version of the credential.
    pub mark: Version,
    /// When its grant ends; absent where somebody rolled the slot back to it, who said how long.
    pub ends: Option<UnixSeconds>,
}

impl CopyStatus {
    /// Whether the slot is filled by it.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.state == VersionState::Active
    }
}

/// A copy to make of a credential's active version.
#[derive(Debug, Clone)]
pub struct Copied {
    /// For which tree.
    pub target: Target,
    /// For which slot.
    pub slot: Slot,
    /// Of which credential.
    pub credential: CredentialName,
    /// How long its grant lives where nobody knows when the value ends.
    pub lifetime: Duration,
    /// Who has it made.
    pub by: AgentId,
}

impl Vault {
    /// Binds a credential to a slot: every tree whose root is of that type starts with it. Binding it
    /// again changes nothing.
    ///
    /// # Errors
    /// There is no such credential, or another one is bound to the slot.
    pub async fn bind_credential(
        &self,
        namespace: &Namespace,
        credential: &CredentialName,
        workflow_type: &WorkflowType,
        slot: &Slot,
        by: &AgentId,
    ) -> Result<Binding, VaultError> {
        let mut tx = self.begin().await?;
        let row = self.credential_in(&mut *tx, namespace, credential).await?;
        let known = self.bindings_in(&mut *tx, namespace).await?;
        let known = known
            .into_iter()
            .find(|known| known.workflow_type == *workflow_type && known.slot == *slot);
        match known {
            Some(known) if known.credential == *credential => return Ok(known),
            Some(_) => return Err(VaultError::SlotBound),
            None => {}
        }
        let binding = Binding {
            namespace: namespace.clone(),
            workflow_type: workflow_type.clone(),
            slot: slot.clone(),
            credential: row.credential.name,
            created_by: by.clone(),
            created_at: self.seconds(),
        };
        let row = self.derived.seal_binding(binding);
        tx.put_binding(&row).await?;
        tx.audit(&self.binding_entry(Kind::CredentialBound, &row.binding, by))
            .await?;
        tx.commit().await?;
        Ok(row.binding)
    }

    /// Takes a binding away: trees that start from here on are not given the credential. Trees that
    /// run keep it.
    ///
    /// # Errors
    /// The credential is not bound there.
    pub async fn unbind_credential(
        &self,
        namespace: &Namespace,
        credential: &CredentialName,
        workflow_type: &WorkflowType,
        slot: &Slot,
        by: &AgentId,
    ) -> Result<Binding, VaultError> {
        let mut tx = self.begin().await?;
        let known = self.bindings_in(&mut *tx, namespace).await?;
        let binding = known
            .into_iter()
            .find(|known| {
                known.credential == *credential
                    && known.workflow_type == *workflow_type
                    && known.slot == *slot
            })
            .ok_or(VaultError::NotFound {
                what: "binding of this credential",
            })?;
        tx.delete_binding(namespace, workflow_type, slot).await?;
        tx.audit(&self.binding_entry(Kind::CredentialUnbound, &binding, by))
            .await?;
        tx.commit().await?;
        Ok(binding)
    }

    /// What trees of this type start with.
    ///
    /// # Errors
    /// The storage failed, or a row was edited.
    pub async fn bindings(
        &self,
        namespace: &Namespace,
        workflow_type: &WorkflowType,
    ) -> Result<Vec<Binding>, VaultError> {
        let mut tx = self.begin_read().await?;
        let mut bindings = self.bindings_in(&mut *tx, namespace).await?;
        bindings.retain(|binding| binding.workflow_type == *workflow_type);
        Ok(bindings)
    }

    /// Deposits a credential's active version into a tree's slot, encrypted under the tree's own key
    /// and marked with where it comes from. The same version is deposited once into the same slot;
    /// where the value's end was moved since, its grant is issued again.
    ///
    /// # Errors
    /// There is no such credential or nothing active in it, its value has ended, or the tree is
    /// unknown or stopped.
    pub async fn copy_credential(&self, copied: &Copied) -> Result<Deposited, VaultError> {
        let namespace = self.namespace_of(&copied.target).await?;
        let mut tx = self.begin().await?;
        let owner = self.target(&mut *tx, &copied.target).await?;
        let row = self
            .credential_in(&mut *tx, &namespace, &copied.credential)
            .await?;
        let versions = self.credential_versions(&mut *tx, &row.credential).await?;
        let active = versions
            .iter()
            .find(|version| version.info.state == VersionState::Active)
            .ok_or(VaultError::NotFound {
                what: "active version of this credential",
            })?;
        let lifetime = match active.info.expires_at {
            None => copied.lifetime,
            Some(at) => Duration::from_secs(at.0.saturating_sub(self.seconds().0)),
        };
        if lifetime.is_zero() {
            return Err(VaultError::CredentialExpired);
        }
        let mark = CredentialMark {
            name: active.info.name.clone(),
            version: active.info.version,
        };
        let request = request_of(&mark, &copied.slot)?;
        let token = self.open_value(&mut *tx, &row, active).await?;
        let next = Next {
            slot: &copied.slot,
            token: &token,
            fingerprint: active.info.fingerprint.clone(),
            audiences: row.credential.audiences.clone(),
            lifetime,
            exposed: false,
            depositor: &copied.by,
            request: &request,
            credential: Some(mark),
        };
        if let Some(known) = self.repeated(&mut *tx, &owner, &next).await? {
            if active.info.expires_at.is_none() {
                return Ok(known);
            }
            let prolonged = self.prolonged(&mut *tx, &owner, &next).await?;
            tx.commit().await?;
            return Ok(prolonged.unwrap_or(known));
        }
        let made = self.add_version(&mut *tx, &owner, next, true).await?;
        let entry = self.tree_entry(Kind::Deposit, &owner.tree, &copied.by);
        let entry = entry.regarding(
            SubjectKind::Credential,
            super::rows::version_place(&active.info),
        );
        tx.audit(&self.about(entry, &made.info)).await?;
        let deposited = self.deposited(made, None, false)?;
        tx.commit().await?;
        Ok(deposited)
    }

    /// The grant of a copy again, where the value that it was made of lives longer by now.
    async fn prolonged(
        &self,
        tx: &mut dyn Transaction,
        owner: &TreeRow,
        next: &Next<'_>,
    ) -> Result<Option<Deposited>, VaultError> {
        let active = self.active(tx, &owner.tree.start, next.slot).await?;
        let ends = self.seconds().plus(next.lifetime);
        match (active, owner.tree.id()) {
            (Some(copy), Some(tree))
                if copy.info.request == *next.request && copy.info.expires_at < ends =>
            {
                self.prolong(tx, &tree, copy, next.lifetime, next.depositor)
                    .await?;
            }
            _ => return Ok(None),
        }
        let active = self.active(tx, &owner.tree.start, next.slot).await?;
        active
            .map(|active| self.deposited(active, None, false))
            .transpose()
    }

    async fn namespace_of(&self, target: &Target) -> Result<Namespace, VaultError> {
        match target {
            Target::Tree(tree) => Ok(tree.namespace.clone()),
            Target::Start(start) => {
                let mut tx = self.begin_read().await?;
                Ok(self.start_in(&mut *tx, start).await?.tree.namespace)
            }
        }
    }

    pub(super) async fn bindings_in(
        &self,
        tx: &mut dyn Transaction,
        namespace: &Namespace,
    ) -> Result<Vec<Binding>, VaultError> {
        let rows = tx.bindings(namespace).await?;
        rows.into_iter()
            .map(|row| self.derived.check_binding(row).map(|row| row.binding))
            .collect()
    }

    pub(super) async fn copies_in(
        &self,
        tx: &mut dyn Transaction,
        credential: &Credential,
    ) -> Result<Vec<CopyStatus>, VaultError> {
        let rows = tx.copies(&credential.namespace, &credential.name).await?;
        let mut copies = Vec::with_capacity(rows.len());
        for row in rows {
            let info = self.derived.check_version(row)?.info;
            let Some(mark) = info.credential else {
                continue;
            };
            let owner = self.start_in(tx, &info.start).await?;
            copies.push(CopyStatus {
                start: info.start,
                tree: owner.tree.id(),
                ends: (info.request == request_of(&mark, &info.slot)?).then_some(info.expires_at),
                slot: info.slot,
                version: info.version,
                state: info.state,
                mark: mark.version,
            });
        }
        Ok(copies)
    }

    fn binding_entry(&self, kind: Kind, binding: &Binding, by: &AgentId) -> xylem_audit::Entry {
        let entry = self.entry(kind, Verdict::Succeeded, by);
        let mut entry = entry.regarding(SubjectKind::Credential, &binding.credential);
        entry.namespace = Some(binding.namespace.clone());
        entry.slot = Some(binding.slot.clone());
        entry
    }
}

/// The request that gives a version of a credential to a slot. No agent's name begins so: no request of an
/// agent is the same.
fn request_of(mark: &CredentialMark, slot: &Slot) -> Result<RequestId, VaultError> {
    let request = format!("@credential/{}/{}/{slot}", mark.name, mark.version);
    request.parse().map_err(|_| VaultError::Crypto)
}
