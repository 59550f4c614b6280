//! Redemption for tools that take no token of the tree: those with a stored credential, and those
//! that send none at all. Both are decided about, counted and audited like any other call.

use crate::{
    ClaimCheck, ConfirmedClaims, CredentialMark, CredentialVersionRow, LeaseRow, Leased,
    OAuthGrant, Redemption, Refusal, Supply, Transaction, TreeRow, Vault, VaultError, VersionState,
    redeem::{ApprovedTool, Decided, REPEATED, check_audience, check_repeated, confirmed, refuse},
};
use secrecy::SecretString;
use xylem_audit::{Entry, Label, Reason, SubjectKind, Verdict};
use xylem_grant::UnixSeconds;
use xylem_ids::{Audience, CredentialName, Fingerprint, LeaseId, Order, Serial, TreeId};
use xylem_policy::{Call, Policies};
use xylem_registry::Auth;

/// What a call may use. Its `Debug` shows everything but the token.
#[derive(Debug)]
pub struct Slotless {
    /// The token of the stored credential; none where the tool sends none.
    pub token: Option<OwnToken>,
    /// The lease, to be released when the call has ended.
    pub lease: LeaseId,
    /// When the lease ends by itself.
    pub lease_expires_at: UnixSeconds,
    /// The hash of the tool's approved definition as this transaction saw it.
    pub tool_hash: String,
    /// The tree that the call belongs to.
    pub tree: TreeId,
}

/// The token of a tool's own stored credential.
#[derive(Debug)]
pub struct OwnToken {
    /// The token.
    pub secret: SecretString,
    /// Which version of which credential it is.
    pub mark: CredentialMark,
    /// The same as a slot's version would say it: serials do not count.
    pub order: Order,
    /// The token's keyed digest.
    pub fingerprint: Fingerprint,
    /// Where the token may be sent.
    pub audiences: Vec<Audience>,
}

impl Vault {
    /// Decides about a call of a tool that takes no token of the tree, and hands out that of the
    /// tool's stored credential, if it has one. The redemption's grant does not matter. Whatever is
    /// decided is in the audit log, in the transaction that wrote the lease or would have.
    ///
    /// # Errors
    /// Refused, or the vault could not decide: then there is no lease either.
    pub async fn redeem_slotless(
        &self,
        redemption: Redemption,
        check: &dyn ClaimCheck,
        policies: &Policies,
    ) -> Result<Slotless, VaultError> {
        let confirmed = confirmed(&redemption, check).await?;
        let mut tx = self.begin().await?;
        self.check_held(&mut *tx).await?;
        let mut entry = self.redeem_entry(&redemption);
        let decided = match confirmed {
            Err(refusal) => Err(refusal.into()),
            Ok(claims) => {
                entry = entry.of_tree(claims.tree());
                self.decide_slotless(&mut *tx, &redemption, &claims, policies, &mut entry)
                    .await
            }
        };
        match decided {
            Ok(Decided { handed, opens }) => {
                self.open_lease(&mut *tx, policies, opens).await?;
                tx.audit(&granted(entry, &handed)).await?;
                tx.commit().await?;
                Ok(handed)
            }
            Err(error) => Err(refuse(tx, entry, error).await?),
        }
    }

    async fn decide_slotless(
        &self,
        tx: &mut dyn Transaction,
        redemption: &Redemption,
        claims: &ConfirmedClaims,
        policies: &Policies,
        entry: &mut Entry,
    ) -> Result<Decided<Slotless>, VaultError> {
        let owner = self.entitled_tree(tx, claims, &redemption.worker).await?;
        entry.owner = Some(owner.tree.owner.clone());
        let tool = self.callable(tx, &owner, &redemption.tool).await?;
        let open = tool.check_attempts(tx, redemption, self.seconds()).await?;
        let stored = self.stored(tx, &owner, &tool).await;
        if let Some(lease) = open {
            entry.reason = Some(Reason::of(REPEATED));
            let token = self.opened(tx, redemption, stored?).await?;
            check_repeated(&lease, &owner, &leased(token.as_ref()))?;
            return Ok(Decided {
                handed: slotless(token, &lease, &tool, claims),
                opens: None,
            });
        }
        let version = stored.as_ref().ok().and_then(Option::as_ref);
        let deposited = version.map(|(_, version)| version.info.deposited_at);
        let facts = self.facts(redemption, claims, &owner, &tool.about, deposited);
        let call = Call {
            tree: claims.tree(),
            node: &claims.node(),
            slot: None,
            tool: &redemption.tool,
        };
        let permit = policies
            .permit(tx, call, tool.bounds(&owner), facts)
            .await?;
        let permit = permit.map_err(Refusal::from)?;
        entry.policy = Label::new(&permit.by().to_string());
        let token = self.opened(tx, redemption, stored?).await?;
        let of = leased(token.as_ref());
        let lease = self.lease(redemption, claims, &owner, of, &permit)?;
        tool.note_attempt(tx, &lease, redemption.request.as_ref())
            .await?;
        Ok(Decided {
            handed: slotless(token, &lease, &tool, claims),
            opens: Some((lease, permit)),
        })
    }

    /// The token of a stored credential, if there is one and it may be sent there.
    async fn opened(
        &self,
        tx: &mut dyn Transaction,
        redemption: &Redemption,
        stored: Option<(crate::CredentialRow, CredentialVersionRow)>,
    ) -> Result<Option<OwnToken>, VaultError> {
        let Some((credential, version)) = stored else {
            return Ok(None);
        };
        check_audience(&credential.credential.audiences, &redemption.destination)?;
        let secret = self.open_value(tx, &credential, &version).await?;
        let audiences = credential.credential.audiences;
        let token = self.own_token(tx, audiences, version, secret).await?;
        Ok(Some(token))
    }

    /// The tool's stored credential with its active version, if it names one.
    async fn stored(
        &self,
        tx: &mut dyn Transaction,
        owner: &TreeRow,
        tool: &ApprovedTool,
    ) -> Result<Option<(crate::CredentialRow, CredentialVersionRow)>, VaultError> {
        let Some(name) = &tool.definition.credential else {
            return Ok(None);
        };
        let credential = self.credential_in(tx, &owner.tree.namespace, name).await;
        let credential = match credential {
            Err(VaultError::NotFound { .. }) => return Err(Refusal::UnknownCredential.into()),
            found => found?,
        };
        if tool.definition.auth == Auth::ClientCredentials {
            let source = self.source_in(tx, &credential).await?;
            let supply = source.map(|row| row.source.supply);
            let is_granted = |supply: Supply| match supply {
                Supply::OAuth(oauth) => oauth.grant == OAuthGrant::ClientCredentials,
                Supply::Provider(_) => false,
            };
            if !supply.is_some_and(is_granted) {
                return Err(Refusal::NotClientCredentials.into());
            }
        }
        let mut versions = self
            .credential_versions(tx, &credential.credential)
            .await?
            .into_iter();
        let holds = |row: &CredentialVersionRow| {
            row.info.state == VersionState::Active
                && row.info.expires_at.is_none_or(|at| at > self.seconds())
        };
        let active = versions.find(holds).ok_or(Refusal::CredentialEnded)?;
        Ok(Some((credential, active)))
    }

    async fn own_token(
        &self,
        tx: &mut dyn Transaction,
        audiences: Vec<Audience>,
        version: CredentialVersionRow,
        secret: SecretString,
    ) -> Result<OwnToken, VaultError> {
        let order = Order {
            epoch: self.epoch_in(tx).await?,
            version: version.info.version,
            serial: Serial(0),
        };
        Ok(OwnToken {
            secret,
            mark: CredentialMark {
                name: version.info.name,
                version: version.info.version,
            },
            order,
            fingerprint: version.info.fingerprint,
            audiences,
        })
    }

    /// The active version of a stored credential, as [`OwnToken::order`] says it.
    ///
    /// # Errors
    /// There is no such credential, or a row was edited.
    pub async fn newest_stored(
        &self,
        namespace: &xylem_ids::Namespace,
        name: &CredentialName,
    ) -> Result<Option<Order>, VaultError> {
        let mut tx = self.begin_read().await?;
        let credential = self.credential_in(&mut *tx, namespace, name).await?;
        let epoch = self.epoch_in(&mut *tx).await?;
        let versions = self.credential_versions(&mut *tx, &credential.credential);
        let mut versions = versions.await?.into_iter();
        let active = versions.find(|row| row.info.state == VersionState::Active);
        Ok(active.map(|row| Order {
            epoch,
            version: row.info.version,
            serial: Serial(0),
        }))
    }
}

fn leased(token: Option<&OwnToken>) -> Leased {
    token.map_or(Leased::Nothing, |token| {
        Leased::Credential(token.mark.clone())
    })
}

fn slotless(
    token: Option<OwnToken>,
    lease: &LeaseRow,
    tool: &ApprovedTool,
    claims: &ConfirmedClaims,
) -> Slotless {
    Slotless {
        token,
        lease: lease.id.clone(),
        lease_expires_at: lease.expires_at,
        tool_hash: tool.callable.hash().to_string(),
        tree: claims.tree().clone(),
    }
}

fn granted(mut entry: Entry, slotless: &Slotless) -> Entry {
    entry.verdict = Verdict::Granted;
    entry.lease = Some(slotless.lease.clone());
    let Some(token) = &slotless.token else {
        return entry;
    };
    entry.fingerprint = Some(token.fingerprint.clone());
    entry.regarding(SubjectKind::Credential, token.mark.place())
}
