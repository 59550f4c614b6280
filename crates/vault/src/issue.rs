//! Signing grants: issuer keys, re-issue, and what makes every grant new.

use crate::{
    KeyProvider, KeyRow, Purpose, Transaction, TreeRow, Vault, VaultError, VersionInfo,
    rows::key_place, storage::VersionRow, vault::unwrap_issuer,
};
use std::{sync::Arc, time::Duration};
use xylem_audit::{Kind, Verdict};
use xylem_grant::{Claims, IssuerKey, IssuerPublicKey, IssuerSet, VerifiedGrant};
use xylem_ids::{AgentId, Epoch, KeyId, Namespace, RunId, Slot, TreeId};

/// The key that signs, and the sets that verify.
pub(crate) struct Issuers {
    key: IssuerKey,
    retired: Vec<KeyId>,
    trusted: IssuerSet,
    known: IssuerSet,
}

impl Issuers {
    pub(crate) fn key(&self) -> &IssuerKey {
        &self.key
    }

    /// What nodes are told.
    pub(crate) fn trusted(&self) -> &IssuerSet {
        &self.trusted
    }

    /// Every key this vault ever signed with.
    pub(crate) fn known(&self) -> &IssuerSet {
        &self.known
    }

    /// Counts keys: the set with the higher one is the newer set.
    pub(crate) fn generation(&self) -> u32 {
        self.key.public().generation
    }

    /// `None` where there is no key to sign with.
    pub(crate) async fn load(
        tx: &mut dyn Transaction,
        provider: &dyn KeyProvider,
    ) -> Result<Option<Self>, VaultError> {
        let keys = tx.keys(Purpose::Issuer).await?;
        let Some(row) = keys.first() else {
            return Ok(None);
        };
        let retired = retired(tx, provider).await?;
        Ok(Some(Self::new(
            unwrap_issuer(provider, row).await?,
            retired,
        )))
    }

    pub(crate) async fn load_or_new(
        tx: &mut dyn Transaction,
        provider: &dyn KeyProvider,
    ) -> Result<Self, VaultError> {
        if let Some(issuers) = Self::load(tx, provider).await? {
            return Ok(issuers);
        }
        let retired = retired(tx, provider).await?;
        let key = new_key(tx, provider, &retired).await?;
        Ok(Self::new(key, retired))
    }

    fn new(key: IssuerKey, retired: Vec<IssuerPublicKey>) -> Self {
        let known = IssuerSet::new(retired.iter().chain([key.public()]).cloned());
        let mut trusted = known.clone();
        for public in &retired {
            trusted.retire(&public.key_id, &key.public().key_id);
        }
        Self {
            key,
            retired: retired.into_iter().map(|public| public.key_id).collect(),
            trusted,
            known,
        }
    }

    /// Signs a version's grant and writes it into the version.
    pub(crate) fn sign(
        &self,
        tree: &TreeId,
        info: &mut VersionInfo,
    ) -> Result<VerifiedGrant, VaultError> {
        let grant = self.key.issue(Claims {
            tree: tree.clone(),
            slot: info.slot.clone(),
            order: info.order(),
            issued_at: info.issued_at,
            expires_at: info.expires_at,
            audiences: info.audiences.clone(),
            fingerprint: info.fingerprint.clone(),
            exposed: info.exposed,
            retires: self.retired.clone(),
        })?;
        info.grant = Some(grant.as_str().to_owned());
        info.issuer = Some(grant.key_id().clone());
        Ok(grant)
    }

    /// Whether the grant of this version will fit, before there is a first run to sign it for.
    pub(crate) fn check_size(&self, row: &TreeRow, info: &VersionInfo) -> Result<(), VaultError> {
        let longest: RunId = "0".repeat(64).parse().map_err(|_| VaultError::Crypto)?;
        let tree = TreeId {
            namespace: row.tree.namespace.clone(),
            workflow_id: row.tree.workflow_id.clone(),
            first_run_id: longest,
        };
        self.sign(&tree, &mut info.clone()).map(drop)
    }
}

async fn retired(
    tx: &mut dyn Transaction,
    provider: &dyn KeyProvider,
) -> Result<Vec<IssuerPublicKey>, VaultError> {
    let mut retired = Vec::new();
    for row in tx.keys(Purpose::RetiredIssuer).await? {
        retired.push(unwrap_issuer(provider, &row).await?.public().clone());
    }
    Ok(retired)
}

async fn new_key(
    tx: &mut dyn Transaction,
    provider: &dyn KeyProvider,
    retired: &[IssuerPublicKey],
) -> Result<IssuerKey, VaultError> {
    let last = retired.iter().map(|public| public.generation).max();
    let generation = last
        .unwrap_or(0)
        .checked_add(1)
        .ok_or(VaultError::Exhausted)?;
    let key = IssuerKey::generate(generation)?;
    tx.put_key(&issuer_row(provider, &key, Purpose::Issuer).await?)
        .await?;
    Ok(key)
}

async fn issuer_row(
    provider: &dyn KeyProvider,
    key: &IssuerKey,
    purpose: Purpose,
) -> Result<KeyRow, VaultError> {
    let public = key.public();
    let place = key_place(purpose, &public.key_id, public.generation, None);
    Ok(KeyRow {
        id: public.key_id.clone(),
        purpose,
        generation: public.generation,
        wrapped_by: provider.current().clone(),
        wrapped: provider.wrap(place.as_bytes(), &key.to_pkcs8()).await?,
    })
}

/// An issuer key that replaced the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RotatedIssuer {
    /// Its id.
    pub key: KeyId,
    /// The trees that have new grants.
    pub trees: Vec<TreeId>,
}

/// What grants are signed with. It is looked up once for all that one transaction signs: a key may lie
/// at a service that is asked for it.
pub(crate) struct Signing {
    issuers: Arc<Issuers>,
    epoch: Epoch,
}

/// What makes a grant new although its token stays.
enum Renewal {
    /// A lifetime that begins now.
    For(Duration),
    /// What is left of the old lifetime, under what has changed in the vault.
    Again,
}

impl Vault {
    /// Issues the active version's grant again, so that it lives at least `lifetime` from now. Where
    /// it does already, nothing changes: asking twice is asking once.
    ///
    /// # Errors
    /// The tree is unknown or stopped, or the slot has no active version.
    pub async fn reissue(
        &self,
        tree: &TreeId,
        slot: &Slot,
        lifetime: Duration,
        by: &AgentId,
    ) -> Result<VerifiedGrant, VaultError> {
        let mut tx = self.begin().await?;
        let owner = self.living_tree(&mut *tx, tree).await?;
        let active = tx.active_version(&owner.tree.start, slot).await?;
        let active = active.ok_or(VaultError::NotFound {
            what: "active version in this slot",
        })?;
        let version = self.derived.check_version(active)?;
        if version.info.expires_at >= self.seconds().plus(lifetime) {
            return self.grant_of(&version);
        }
        let grant = self.prolong(&mut *tx, tree, version, lifetime, by).await?;
        tx.commit().await?;
        Ok(grant)
    }

    /// The slots whose active grant expires within `within`, for whoever re-issues them.
    ///
    /// # Errors
    /// The storage failed, or a row was edited.
    pub async fn expiring(&self, within: Duration) -> Result<Vec<(TreeId, Slot)>, VaultError> {
        let before = self.seconds().plus(within);
        let mut tx = self.begin_read().await?;
        let mut found = Vec::new();
        for version in tx.active_versions(Some(before)).await? {
            let version = self.derived.check_version(version)?;
            let owner = self.start_in(&mut *tx, &version.info.start).await?;
            found.extend(owner.tree.id().map(|id| (id, version.info.slot)));
        }
        Ok(found)
    }

    /// Retires the issuer key and signs every active grant again under a new one. The new grants
    /// tell nodes to trust the old key no more. Who asked for it, and in which namespace, stands in that
    /// one's audit log.
    ///
    /// # Errors
    /// The storage or key provider failed, or a row was edited; then nothing has changed.
    pub async fn rotate_issuer(
        &self,
        namespace: &Namespace,
        by: &AgentId,
    ) -> Result<RotatedIssuer, VaultError> {
        let mut tx = self.begin().await?;
        for row in tx.keys(Purpose::Issuer).await? {
            let key = unwrap_issuer(self.provider(), &row).await?;
            let retired = issuer_row(self.provider(), &key, Purpose::RetiredIssuer).await?;
            tx.put_key(&retired).await?;
        }
        let issuers = Arc::new(Issuers::load_or_new(&mut *tx, self.provider()).await?);
        let signing = Signing {
            issuers: Arc::clone(&issuers),
            epoch: self.epoch_in(&mut *tx).await?,
        };
        let trees = self.renew_all(&mut *tx, &signing, by).await?;
        let mut entry = self.entry(Kind::IssuerRotated, Verdict::Succeeded, by);
        entry.namespace = Some(namespace.clone());
        tx.audit(&entry).await?;
        tx.commit().await?;
        let key = issuers.key().public().key_id.clone();
        self.set_issuers(issuers);
        Ok(RotatedIssuer { key, trees })
    }

    /// What grants are signed with in this transaction.
    pub(crate) async fn signing(&self, tx: &mut dyn Transaction) -> Result<Signing, VaultError> {
        Ok(Signing {
            issuers: self.issuers_in(tx).await?,
            epoch: self.epoch_in(tx).await?,
        })
    }

    pub(crate) async fn renew_all(
        &self,
        tx: &mut dyn Transaction,
        signing: &Signing,
        by: &AgentId,
    ) -> Result<Vec<TreeId>, VaultError> {
        let mut trees = Vec::new();
        for version in tx.active_versions(None).await? {
            let version = self.derived.check_version(version)?;
            let owner = self.start_in(tx, &version.info.start).await?;
            let Some(tree) = owner.tree.id() else {
                continue;
            };
            self.renew(tx, &tree, version, &Renewal::Again, signing, by)
                .await?;
            trees.push(tree);
        }
        trees.dedup();
        Ok(trees)
    }

    async fn renew(
        &self,
        tx: &mut dyn Transaction,
        tree: &TreeId,
        version: VersionRow,
        renewal: &Renewal,
        signing: &Signing,
        by: &AgentId,
    ) -> Result<VerifiedGrant, VaultError> {
        let VersionRow {
            mut info, secret, ..
        } = version;
        info.serial = info.serial.next().ok_or(VaultError::Exhausted)?;
        info.epoch = signing.epoch;
        if let Renewal::For(lifetime) = renewal {
            info.issued_at = self.seconds();
            info.expires_at = info.issued_at.plus(*lifetime);
        }
        let grant = signing.issuers.sign(tree, &mut info)?;
        let row = self.derived.seal_version(info, secret);
        tx.put_version(&row).await?;
        let entry = self.entry(Kind::Reissue, Verdict::Succeeded, by);
        tx.audit(&self.about(entry.of_tree(tree), &row.info))
            .await?;
        Ok(grant)
    }

    /// Signs the active version's grant again for a lifetime that begins now.
    pub(crate) async fn prolong(
        &self,
        tx: &mut dyn Transaction,
        tree: &TreeId,
        version: VersionRow,
        lifetime: Duration,
        by: &AgentId,
    ) -> Result<VerifiedGrant, VaultError> {
        let signing = self.signing(tx).await?;
        self.renew(tx, tree, version, &Renewal::For(lifetime), &signing, by)
            .await
    }

    /// Notes that the active version's token lies in a history, and signs its grant again.
    pub(crate) async fn mark_exposed(
        &self,
        tx: &mut dyn Transaction,
        tree: &TreeId,
        mut version: VersionRow,
        by: &AgentId,
    ) -> Result<VerifiedGrant, VaultError> {
        version.info.exposed = true;
        let signing = self.signing(tx).await?;
        self.renew(tx, tree, version, &Renewal::Again, &signing, by)
            .await
    }

    /// The grant of a version that has one.
    pub(crate) fn grant_of(&self, version: &VersionRow) -> Result<VerifiedGrant, VaultError> {
        let tampered = || {
            VaultError::tampered(
                "grant of version",
                crate::rows::version_place(&version.info),
            )
        };
        let text = version.info.grant.as_deref().ok_or_else(tampered)?;
        self.verified(text).map_err(|_| tampered())
    }
}
