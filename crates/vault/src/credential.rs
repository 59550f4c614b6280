//! Stored credentials: a secret under a name of its own, for the trees that are bound to it.
//!
//! A credential has versions like a slot has. What a tree redeems is a copy, encrypted under the
//! tree's own data key and marked with the version that it was made of: redemption, exclusion and
//! stopping know nothing of credentials, and a version is gone when its last copy is.

mod bind;
mod change;
mod retire;
mod rows;
mod source;
mod storage;

pub use bind::{Copied, CopyStatus};
pub use change::{NewCredential, Rotated, Rotation};
pub use retire::{Removal, VersionRevocation};
pub(crate) use rows::data_key_place;
pub use source::{
    Asker, Fruitless, NewSource, NotObtained, OAuth, OAuthClient, OAuthGrant, Provided, Renewal,
    Source, Supply, Turn,
};
pub use storage::{BindingRow, CredentialRow, CredentialRows, CredentialVersionRow, SourceRow};

use crate::{RequestId, Transaction, Vault, VaultError, VersionState};
use std::time::Duration;
use xylem_grant::UnixSeconds;
use xylem_ids::{
    AgentId, Audience, CredentialName, Fingerprint, Namespace, Slot, Version, WorkflowType,
};

/// The most credentials a list answers at a time.
const MAX_PAGE: u32 = 500;

/// A stored credential, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The Temporal namespace whose trees it is for.
    pub namespace: Namespace,
    /// Its name.
    pub name: CredentialName,
    /// Who answers for it, and may rotate it.
    pub owner: AgentId,
    /// Where its value may be sent.
    pub audiences: Vec<Audience>,
    /// How often it is to be rotated; no rule where absent.
    pub rotate_every: Option<Duration>,
    /// The last number that was given to a version.
    pub last: u32,
    /// When it was made.
    pub created_at: UnixSeconds,
    /// When it was removed; its name can be used again.
    pub removed_at: Option<UnixSeconds>,
}

/// A version of a credential, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialVersion {
    /// The namespace of the credential.
    pub namespace: Namespace,
    /// The credential.
    pub name: CredentialName,
    /// Its number.
    pub version: Version,
    /// Where it is in its life.
    pub state: VersionState,
    /// Since when; where it is active, since it is known when the value ends.
    pub state_since: UnixSeconds,
    /// The value's keyed digest: the same that a copy has in its tree.
    pub fingerprint: Fingerprint,
    /// When the value ends by itself; unknown where absent.
    pub expires_at: Option<UnixSeconds>,
    /// Who deposited it.
    pub depositor: AgentId,
    /// When.
    pub deposited_at: UnixSeconds,
    /// The request that deposited it.
    pub request: RequestId,
}

/// Which version of which credential something was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialMark {
    /// The credential.
    pub name: CredentialName,
    /// The version.
    pub version: Version,
}

impl CredentialMark {
    /// How audit entries name it.
    pub(crate) fn place(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }
}

/// A slot that every new tree of a workflow type gets from a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The namespace of the trees.
    pub namespace: Namespace,
    /// The type of the roots.
    pub workflow_type: WorkflowType,
    /// The slot.
    pub slot: Slot,
    /// The credential.
    pub credential: CredentialName,
    /// Who bound it.
    pub created_by: AgentId,
    /// When.
    pub created_at: UnixSeconds,
}

/// A credential, and what hangs on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialStatus {
    /// The credential.
    pub credential: Credential,
    /// Its versions, in the order of their numbers.
    pub versions: Vec<CredentialVersion>,
    /// The types that start with it.
    pub bindings: Vec<Binding>,
    /// What trees hold of it.
    pub copies: Vec<CopyStatus>,
    /// Where its value comes from, if it is obtained by itself.
    pub source: Option<Source>,
}

impl CredentialStatus {
    /// The version that trees start with, if it was not revoked.
    #[must_use]
    pub fn active(&self) -> Option<&CredentialVersion> {
        let mut versions = self.versions.iter();
        versions.find(|version| version.state == VersionState::Active)
    }

    /// Whether a request has made one of its versions.
    #[must_use]
    pub fn made_by(&self, request: &RequestId) -> bool {
        let mut versions = self.versions.iter();
        versions.any(|version| version.request == *request)
    }

    /// When it is to be rotated by its own rule.
    #[must_use]
    pub fn rotate_due(&self) -> Option<UnixSeconds> {
        let since = self.active()?.deposited_at;
        self.credential.rotate_every.map(|every| since.plus(every))
    }

    /// Running trees whose slot is filled by an older version than the active one, or whose grant was
    /// not issued again since the value's end was moved.
    pub fn behind(&self) -> impl Iterator<Item = &CopyStatus> {
        let newest = self.active();
        let is_behind = move |copy: &&CopyStatus| {
            newest.is_some_and(|newest| {
                let is_short = copy.ends.is_some_and(|ends| Some(ends) < newest.expires_at);
                copy.mark < newest.version || (copy.mark == newest.version && is_short)
            })
        };
        self.copies
            .iter()
            .filter(|copy| copy.is_active())
            .filter(is_behind)
    }
}

impl Vault {
    /// A credential of this name.
    ///
    /// # Errors
    /// There is none, or a row was edited.
    pub async fn credential(
        &self,
        namespace: &Namespace,
        name: &CredentialName,
    ) -> Result<CredentialStatus, VaultError> {
        let mut tx = self.begin_read().await?;
        let row = self.credential_in(&mut *tx, namespace, name).await?;
        self.credential_status(&mut *tx, row).await
    }

    /// Credentials of a namespace, of this owner or of all, by name, beginning after `after`; at most 500.
    ///
    /// # Errors
    /// The storage failed, or a row was edited.
    pub async fn credentials(
        &self,
        namespace: &Namespace,
        owner: Option<&AgentId>,
        after: Option<&CredentialName>,
        limit: u32,
    ) -> Result<Vec<CredentialStatus>, VaultError> {
        let mut tx = self.begin_read().await?;
        let limit = limit.clamp(1, MAX_PAGE);
        let mut found = Vec::new();
        for row in tx.credentials(namespace, owner, after, limit).await? {
            let row = self.derived.check_credential(row)?;
            found.push(self.credential_status(&mut *tx, row).await?);
        }
        Ok(found)
    }

    async fn credential_status(
        &self,
        tx: &mut dyn Transaction,
        row: CredentialRow,
    ) -> Result<CredentialStatus, VaultError> {
        let source = self.source_in(tx, &row).await?;
        let credential = row.credential;
        let versions = self.credential_versions(tx, &credential).await?;
        let copies = self.copies_in(tx, &credential).await?;
        let mut bindings = self.bindings_in(tx, &credential.namespace).await?;
        bindings.retain(|binding| binding.credential == credential.name);
        Ok(CredentialStatus {
            versions: versions.into_iter().map(|row| row.info).collect(),
            bindings,
            copies,
            source: source.map(|row| row.source),
            credential,
        })
    }

    /// The credential of this name, unless it was removed.
    pub(crate) async fn credential_in(
        &self,
        tx: &mut dyn Transaction,
        namespace: &Namespace,
        name: &CredentialName,
    ) -> Result<CredentialRow, VaultError> {
        const MISSING: VaultError = VaultError::NotFound { what: "credential" };
        let row = tx.credential(namespace, name).await?.ok_or(MISSING)?;
        let row = self.derived.check_credential(row)?;
        if row.credential.removed_at.is_some() {
            return Err(MISSING);
        }
        Ok(row)
    }

    pub(crate) async fn credential_versions(
        &self,
        tx: &mut dyn Transaction,
        credential: &Credential,
    ) -> Result<Vec<CredentialVersionRow>, VaultError> {
        let rows = tx
            .credential_versions(&credential.namespace, &credential.name)
            .await?;
        rows.into_iter()
            .map(|row| self.derived.check_credential_version(row))
            .collect()
    }
}
