//! The rows that credentials need.

use super::{Binding, Credential, CredentialVersion};
use crate::{SecretId, StorageError, storage::VersionRow};
use async_trait::async_trait;
use xylem_ids::{CredentialName, KeyId, Namespace, Slot, WorkflowType};
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

/// A binding and its seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingRow {
    /// What is bound.
    pub binding: Binding,
    /// Covers everything above.
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
    /// Credentials that were not removed, by name, beginning after `after`.
    async fn credentials(
        &mut self,
        namespace: &Namespace,
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
