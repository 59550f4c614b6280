//! The rows that credentials need.

use super::{Binding, Credential, CredentialVersion, Source};
use crate::{SecretId, StorageError, VersionState, storage::VersionRow};
use async_trait::async_trait;
use xylem_grant::UnixSeconds;
use xylem_ids::{AgentId, CredentialName, KeyId, Namespace, Slot, WorkflowType};
use xylem_seal::Mac;

type Stored<T> = Result<T, StorageError>;

/// A credential and its seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialRow {
    /// What is said about it.
    pub credential: Credential,
    /// Its data key; absent once it is destroyed.
    pub data_key: Option<KeyId>,
    /// Covers everything above.
    pub mac: Mac,
}

/// A version of a credential and its seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialVersionRow {
    /// What is said about it.
    pub info: CredentialVersion,
    /// Where its ciphertext lies; absent once it is destroyed.
    pub secret: Option<SecretId>,
    /// Covers everything above.
    pub mac: Mac,
}

impl CredentialVersionRow {
    pub(crate) fn is_active(&self) -> bool {
        self.info.state == VersionState::Active
    }
}

/// A binding and its seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingRow {
    /// What is bound.
    pub binding: Binding,
    /// Covers everything above.
    pub mac: Mac,
}

/// Where a credential's value comes from, and its seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceRow {
    /// The namespace of the credential.
    pub namespace: Namespace,
    /// The credential.
    pub name: CredentialName,
    /// What is said about it.
    pub source: Source,
    /// Where the ciphertext of the client's secret lies, where there is a client.
    pub client: Option<SecretId>,
    /// Where that of the refresh token lies.
    pub refresh: Option<SecretId>,
    /// Until when somebody is obtaining a value. Not sealed: forged, it only delays.
    pub renewing_until: UnixSeconds,
    /// Covers everything above that, but the last question: forged, it only delays as well.
    pub mac: Mac,
}

/// The part of a transaction that credentials need.
#[async_trait]
#[expect(missing_docs, reason = "rows are found by what the parameters name")]
pub trait CredentialRows: Send {
    async fn credential(
        &mut self,
        namespace: &Namespace,
        name: &CredentialName,
    ) -> Stored<Option<CredentialRow>>;
    /// Credentials that were not removed, of this owner or of all, by name, beginning after `after`.
    async fn credentials(
        &mut self,
        namespace: &Namespace,
        owner: Option<&AgentId>,
        after: Option<&CredentialName>,
        limit: u32,
    ) -> Stored<Vec<CredentialRow>>;
    async fn put_credential(&mut self, row: &CredentialRow) -> Stored<()>;

    /// Versions in the order of their numbers.
    async fn credential_versions(
        &mut self,
        namespace: &Namespace,
        name: &CredentialName,
    ) -> Stored<Vec<CredentialVersionRow>>;
    async fn put_credential_version(&mut self, row: &CredentialVersionRow) -> Stored<()>;

    async fn source(
        &mut self,
        namespace: &Namespace,
        name: &CredentialName,
    ) -> Stored<Option<SourceRow>>;
    async fn put_source(&mut self, row: &SourceRow) -> Stored<()>;
    async fn delete_source(&mut self, namespace: &Namespace, name: &CredentialName) -> Stored<()>;

    /// Every binding of a namespace.
    async fn bindings(&mut self, namespace: &Namespace) -> Stored<Vec<BindingRow>>;
    async fn put_binding(&mut self, row: &BindingRow) -> Stored<()>;
    async fn delete_binding(
        &mut self,
        namespace: &Namespace,
        workflow_type: &WorkflowType,
        slot: &Slot,
    ) -> Stored<()>;

    /// Versions of trees that were made of a credential and not revoked.
    async fn copies(
        &mut self,
        namespace: &Namespace,
        name: &CredentialName,
    ) -> Stored<Vec<VersionRow>>;
}
