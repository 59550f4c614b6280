//! After a backup was loaded: a new epoch, and nothing is handed out before somebody has confirmed
//! that what was revoked since the backup was made is revoked again.

use crate::{KeyProvider, Transaction, Vault, VaultError, storage::EpochState};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;
use xylem_audit::{Kind, Note, Verdict};
use xylem_ids::{AgentId, Epoch, KeyId, Namespace, TreeId};
use xylem_seal::{Fields, Sealed};

impl Vault {
    /// Begins a new epoch where a backup was loaded, and signs every active grant again in it: nodes
    /// hold grants that were issued after the backup was made, and the new ones outrank those.
    /// Answers the trees that have new grants; `None` where no backup was loaded.
    ///
    /// # Errors
    /// The storage failed, or a row was edited; then nothing has changed.
    pub async fn settle_restore(
        &self,
        namespace: &Namespace,
        by: &AgentId,
    ) -> Result<Option<(Epoch, Vec<TreeId>)>, VaultError> {
        let mut tx = self.begin().await?;
        let (epoch, state) = self.epoch_and_state(&mut *tx).await?;
        if state != EpochState::Restored {
            return Ok(None);
        }
        let epoch = epoch.next().ok_or(VaultError::Exhausted)?;
        tx.put_epoch(&self.derived.seal_epoch(epoch, EpochState::Held))
            .await?;
        let signing = self.signing(&mut *tx).await?;
        let trees = self.renew_all(&mut *tx, &signing, by).await?;
        let mut entry = self.entry(Kind::EpochRaised, Verdict::Succeeded, by);
        entry.namespace = Some(namespace.clone());
        tx.audit(&entry.because("restored")).await?;
        tx.commit().await?;
        Ok(Some((epoch, trees)))
    }

    /// Whether tokens are held back because a backup was loaded.
    ///
    /// # Errors
    /// The storage failed, or the epoch was edited.
    pub async fn is_held(&self) -> Result<bool, VaultError> {
        if !self.held.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let mut tx = self.begin_read().await?;
        self.held_in(&mut *tx).await
    }

    /// Hands tokens out again after a restore: `by` confirms that everything that was revoked since
    /// the backup was made is revoked again.
    ///
    /// # Errors
    /// No restore waits for it, or the storage failed.
    pub async fn confirm_restore(
        &self,
        namespace: &Namespace,
        by: &AgentId,
        note: Option<Note>,
    ) -> Result<(), VaultError> {
        let mut tx = self.begin().await?;
        let (epoch, state) = self.epoch_and_state(&mut *tx).await?;
        if state != EpochState::Held {
            return Err(VaultError::NotFound {
                what: "restore that waits to be confirmed",
            });
        }
        tx.put_epoch(&self.derived.seal_epoch(epoch, EpochState::Current))
            .await?;
        let mut entry = self.entry(Kind::RestoreConfirmed, Verdict::Succeeded, by);
        entry.namespace = Some(namespace.clone());
        entry.note = note;
        tx.audit(&entry).await?;
        tx.commit().await?;
        self.held.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Refuses while tokens are held back. A database is loaded into while nobody has it open, so
    /// one that was found to hold nothing back is not looked at again.
    pub(crate) async fn check_held(&self, tx: &mut dyn Transaction) -> Result<(), VaultError> {
        if self.held.load(Ordering::Relaxed) && self.held_in(tx).await? {
            return Err(VaultError::Held);
        }
        Ok(())
    }

    async fn held_in(&self, tx: &mut dyn Transaction) -> Result<bool, VaultError> {
        let (_, state) = self.epoch_and_state(tx).await?;
        let held = state != EpochState::Current;
        self.held.store(held, Ordering::Relaxed);
        Ok(held)
    }

    async fn epoch_and_state(
        &self,
        tx: &mut dyn Transaction,
    ) -> Result<(Epoch, EpochState), VaultError> {
        let row = tx.epoch().await?;
        let row = row.ok_or_else(|| VaultError::tampered("epoch", "row"))?;
        Ok((self.derived.check_epoch(row)?, row.state))
    }
}

/// What a backup ends with: that somebody made it who has a key-encryption key of this vault. Whoever
/// has the public key of the backups could make any other.
#[derive(Serialize, Deserialize)]
struct Attestation {
    by: KeyId,
    nonce: String,
    wrapped: String,
}

fn attested(digest: &[u8]) -> Fields {
    Fields::new("xylem backup").bytes(digest)
}

impl Vault {
    /// Text that confirms that a backup with this digest is one of this vault.
    ///
    /// # Errors
    /// The key provider did not answer.
    pub async fn attest(&self, digest: &[u8]) -> Result<String, VaultError> {
        let place = attested(digest);
        let sealed = self.provider().wrap(place.as_bytes(), digest).await?;
        let attestation = Attestation {
            by: self.provider().current().clone(),
            nonce: URL_SAFE_NO_PAD.encode(sealed.nonce),
            wrapped: URL_SAFE_NO_PAD.encode(sealed.ciphertext),
        };
        serde_json::to_string(&attestation).map_err(|_| VaultError::Crypto)
    }
}

/// Whether text confirms that a backup with this digest was made by a vault with these keys.
///
/// # Errors
/// The key provider did not answer, or does not have the key.
pub async fn is_attested(
    provider: &dyn KeyProvider,
    attestation: &[u8],
    digest: &[u8],
) -> Result<bool, VaultError> {
    let Ok(given) = serde_json::from_slice::<Attestation>(attestation) else {
        return Ok(false);
    };
    let nonce = URL_SAFE_NO_PAD.decode(given.nonce).ok();
    let nonce = nonce.and_then(|nonce| nonce.try_into().ok());
    let (Some(nonce), Ok(ciphertext)) = (nonce, URL_SAFE_NO_PAD.decode(given.wrapped)) else {
        return Ok(false);
    };
    let place = attested(digest);
    let sealed = Sealed { nonce, ciphertext };
    let plain = provider
        .unwrap(&given.by, place.as_bytes(), &sealed)
        .await?;
    Ok(plain.is_some_and(|plain| plain.as_slice() == digest))
}
