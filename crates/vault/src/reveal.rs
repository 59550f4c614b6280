//! Break-glass: a token is shown to a person.

use crate::{Refusal, Transaction, TreeRow, TreeState, Vault, VaultError, redeem::refuse};
use secrecy::SecretString;
use std::net::IpAddr;
use xylem_audit::{Entry, Kind, Label, Verdict};
use xylem_ids::{AgentId, Fingerprint, Order, Slot, TreeId};
use xylem_policy::{Policies, Reveal, ToolFacts};
use xylem_registry::Edited;

/// What somebody wants to be shown.
#[derive(Debug, Clone)]
pub struct Revelation {
    /// The tree.
    pub tree: TreeId,
    /// The slot.
    pub slot: Slot,
    /// Who wants to see it.
    pub agent: AgentId,
    /// Where the caller is.
    pub address: Option<IpAddr>,
    /// Seconds since the caller signed in; none for a key.
    pub signed_in: Option<u64>,
    /// Whether it did with a second factor.
    pub second_factor: bool,
    /// The entry that the audit log gets, with the reason. What is decided is added here.
    pub entry: Entry,
}

/// A token for somebody's eyes. Its `Debug` shows everything but the token.
#[derive(Debug)]
pub struct Revealed {
    /// The token.
    pub token: SecretString,
    /// Its version.
    pub order: Order,
    /// Its keyed digest.
    pub fingerprint: Fingerprint,
}

impl Vault {
    /// Shows the newest active token of a slot, where policies allow it to this caller. Whatever is
    /// decided is in the audit log, in the transaction that opened the token or would have.
    ///
    /// # Errors
    /// Refused, or the vault could not decide: then the token stays closed.
    pub async fn reveal(
        &self,
        wanted: Revelation,
        policies: &Policies,
    ) -> Result<Revealed, VaultError> {
        let mut tx = self.begin().await?;
        self.check_held(&mut *tx).await?;
        let mut entry = wanted.entry.clone().by(&wanted.agent).of_tree(&wanted.tree);
        (entry.kind, entry.verdict) = (Kind::TokenRevealed, Verdict::Denied);
        entry.slot = Some(wanted.slot.clone());
        entry.second_factor = wanted.second_factor;
        match self.show(&mut *tx, &wanted, policies, &mut entry).await {
            Ok(revealed) => {
                entry.verdict = Verdict::Granted;
                tx.audit(&entry).await?;
                tx.commit().await?;
                Ok(revealed)
            }
            Err(error) => Err(refuse(tx, entry, error).await?),
        }
    }

    async fn show(
        &self,
        tx: &mut dyn Transaction,
        wanted: &Revelation,
        policies: &Policies,
        entry: &mut Entry,
    ) -> Result<Revealed, VaultError> {
        let row = tx.tree_by_id(&wanted.tree).await?;
        let owner = self.derived.check_tree(row.ok_or(Refusal::UnknownTree)?)?;
        if !matches!(owner.tree.state, TreeState::Bound { .. }) {
            return Err(Refusal::TreeStopped.into());
        }
        entry.owner = Some(owner.tree.owner.clone());
        let tools = self.tools_of(tx, &owner, &wanted.slot).await?;
        let now = self.seconds().0;
        let version = self.redeemable(tx, &owner, &wanted.slot).await;
        let deposited = version.as_ref().ok().map(|row| row.info.deposited_at);
        let reveal = Reveal {
            agent: &wanted.agent,
            tree: &wanted.tree,
            slot: &wanted.slot,
            tools: &tools,
            now,
            address: wanted.address,
            signed_in: wanted.signed_in,
            second_factor: wanted.second_factor,
            token_age: deposited.map(|at| now.saturating_sub(at.0)),
        };
        let permit = policies.permit_reveal(tx, reveal).await?;
        let permit = permit.map_err(Refusal::from)?;
        entry.policy = Label::new(&permit.by().to_string());
        let version = version?;
        *entry = self.about(entry.clone(), &version.info);
        // Looked at last: whom no policy allows anything is told nothing about the slot.
        if version.info.credential.is_some() {
            return Err(Refusal::StoredCredential.into());
        }
        let key = self.data_key(tx, &owner).await?;
        Ok(Revealed {
            token: self.open_token(tx, &key, &owner.tree, &version).await?,
            order: version.info.order(),
            fingerprint: version.info.fingerprint,
        })
    }

    /// What policies can say about the tools of the tree that were approved for the slot, whether they
    /// may be called now or not: what a tool is tagged with goes on protecting its token.
    async fn tools_of(
        &self,
        tx: &mut dyn Transaction,
        owner: &TreeRow,
        slot: &Slot,
    ) -> Result<Vec<ToolFacts>, VaultError> {
        let namespace = &owner.tree.namespace;
        let mut found = Vec::new();
        for name in &owner.tree.tools {
            let edited = || VaultError::tampered("tool", name);
            let Some(stored) = tx.tool(namespace, name).await? else {
                continue;
            };
            let tool = self.tools.open(namespace, stored.record);
            let tool = tool.map_err(|Edited| edited())?;
            let approval = tool.row().approval.as_ref();
            let approval =
                approval.filter(|it| it.of.slot.as_ref() == Some(slot) && !tool.row().deleted);
            let Some(approval) = approval else {
                continue;
            };
            let approved = stored.approved.filter(|it| it.hash() == approval.of.hash);
            let approved = approved.ok_or_else(edited)?;
            found.push(tool.facts(&approved).map_err(|_| edited())?);
        }
        Ok(found)
    }
}
