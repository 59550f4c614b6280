//! The control plane itself.

use super::{Handlers, answer};
use crate::{caller::caller, convert, fault::Fault};
use futures::{StreamExt, stream};
use std::sync::Arc;
use tonic::{Request, Response, Status};
use v1::system_server::System;
use xylem_audit::Kind;
use xylem_proto::v1;
use xylem_vault::Rewrap;

/// Trees that are told of a new key at a time.
const ANNOUNCED: usize = 8;
/// Stored keys that are wrapped anew in one call: others wait for their turn to write meanwhile, and a
/// provider of keys may be asked twice for each.
const REWRAPPED: u32 = 200;

#[tonic::async_trait]
impl System for Handlers {
    async fn get_status(
        &self,
        _: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::SystemStatus>, Status> {
        answer(self.status().await)
    }

    async fn back_up(&self, _: Request<v1::BackUpRequest>) -> Result<Response<v1::Backup>, Status> {
        answer(self.make_backup().await)
    }

    async fn confirm_restore(
        &self,
        request: Request<v1::ConfirmRestoreRequest>,
    ) -> Result<Response<v1::ConfirmRestoreResponse>, Status> {
        answer(self.confirm(request.into_inner()).await)
    }

    async fn rotate_signing_key(
        &self,
        request: Request<v1::RotateSigningKeyRequest>,
    ) -> Result<Response<v1::RotateSigningKeyResponse>, Status> {
        answer(self.rotate_signing(request.into_inner()).await)
    }

    async fn rotate_issuer_key(
        &self,
        _: Request<v1::RotateIssuerKeyRequest>,
    ) -> Result<Response<v1::RotateIssuerKeyResponse>, Status> {
        answer(self.rotate_issuer().await)
    }

    async fn rewrap_keys(
        &self,
        request: Request<v1::RewrapKeysRequest>,
    ) -> Result<Response<v1::RewrapKeysResponse>, Status> {
        answer(self.rewrap(request.into_inner()).await)
    }
}

impl Handlers {
    async fn status(&self) -> Result<v1::SystemStatus, Fault> {
        let principal = caller()?;
        let roles = principal.roles().iter();
        let narrowed = principal.scopes().codes();
        let mut checks = self.checks().await;
        checks.extend(self.provider_checks().await);
        Ok(v1::SystemStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            namespace: self.settings.namespace.to_string(),
            agent: principal.agent().to_string(),
            roles: roles.map(|role| role.code().to_owned()).collect(),
            checks,
            signed_in_at: principal.signed_in().map(convert::time),
            second_factor: principal.second_factor(),
            single_operator: self.settings.single_operator,
            narrowed: narrowed.is_some(),
            scopes: narrowed.into_iter().flatten().map(str::to_owned).collect(),
        })
    }

    async fn make_backup(&self) -> Result<v1::Backup, Fault> {
        let backup = self.take_backup(caller()?.agent()).await?;
        Ok(v1::Backup {
            file: backup.file.display().to_string(),
            at: Some(convert::time(backup.at)),
            bytes: backup.bytes,
        })
    }

    async fn confirm(
        &self,
        given: v1::ConfirmRestoreRequest,
    ) -> Result<v1::ConfirmRestoreResponse, Fault> {
        let principal = caller()?;
        if given.reason.trim().is_empty() {
            let rule = "reason must say what was looked at: it stands in the audit log";
            return Err(Fault::invalid("reason", rule));
        }
        let note = convert::note(&given.reason, "reason")?;
        let (namespace, by) = (&self.settings.namespace, principal.agent());
        self.vault.confirm_restore(namespace, by, note).await?;
        Ok(v1::ConfirmRestoreResponse {})
    }

    async fn rotate_signing(
        &self,
        given: v1::RotateSigningKeyRequest,
    ) -> Result<v1::RotateSigningKeyResponse, Fault> {
        let entry = self.change(Kind::SigningKeyMade);
        let made = if given.compromised {
            self.identity.replace_signing_keys(entry).await?
        } else {
            self.identity.rotate_signing_key(entry).await?
        };
        Ok(v1::RotateSigningKeyResponse {
            key_id: made.id.to_string(),
            signs_from: Some(convert::time(made.signs_from)),
        })
    }

    /// Nobody waits for the trees to hear of it: a worker that redeems a grant of before is handed the
    /// new one, and the sweep tells whoever does not ask. Trees of other namespaces are told by the sweep of
    /// their own control plane: only there do workflows of these names belong to them.
    async fn rotate_issuer(&self) -> Result<v1::RotateIssuerKeyResponse, Fault> {
        let (vault, by) = (Arc::clone(&self.vault), caller()?.agent().clone());
        let namespace = self.settings.namespace.clone();
        let rotated =
            self.to_the_end(async move { Ok(vault.rotate_issuer(&namespace, &by).await?) });
        let mut rotated = rotated.await?;
        let namespace = &self.settings.namespace;
        rotated.trees.retain(|tree| tree.namespace == *namespace);
        let trees = u32::try_from(rotated.trees.len()).unwrap_or(u32::MAX);
        let plane = Arc::clone(&self.0);
        self.tasks.spawn(async move {
            let told = stream::iter(rotated.trees).for_each_concurrent(ANNOUNCED, async |tree| {
                // The root alone: the scheduled sweep follows, and not one for each of all trees.
                plane.signal_root(&tree).await;
            });
            told.await;
        });
        Ok(v1::RotateIssuerKeyResponse {
            key_id: rotated.key.to_string(),
            trees,
        })
    }

    async fn rewrap(&self, given: v1::RewrapKeysRequest) -> Result<v1::RewrapKeysResponse, Fault> {
        let ask = Rewrap {
            current: convert::optional(given.current_key_id, "current_key_id")?,
            after: convert::optional(given.after_key_id, "after_key_id")?,
            limit: REWRAPPED,
            namespace: self.settings.namespace.clone(),
            by: caller()?.agent().clone(),
        };
        let done = self.vault.rewrap(ask).await?;
        let remaining = done.older.iter().map(|key| key.wraps).sum();
        let older = done.older.into_iter().map(|key| v1::OlderKey {
            key_id: key.id.into(),
            wraps: convert::count(key.wraps),
            missing: !key.here,
        });
        let unopened = done.unopened.into_iter().map(|key| v1::UnopenedKey {
            key_id: key.id.into(),
            missing_key_id: key.missing.map(Into::into).unwrap_or_default(),
            owner: key.owner.map(|owner| owner.to_string()).unwrap_or_default(),
        });
        Ok(v1::RewrapKeysResponse {
            current_key_id: done.current.into(),
            rewrapped: convert::count(done.rewrapped),
            remaining: convert::count(remaining),
            older: older.collect(),
            unopened: unopened.collect(),
            next_key_id: done.next.map(Into::into).unwrap_or_default(),
        })
    }
}
