//! Redemption: a grant for a token, for one tool call, in one transaction.

use crate::{
    ClaimCheck, ClaimError, Claims, ConfirmedClaims, LeaseRow, Leased, Refusal, RequestId, SlotUse,
    ToolFacts, Transaction, TreeRow, TreeState, Vault, VaultError, VersionState,
    exclusion::excluded, storage::VersionRow,
};
use secrecy::SecretString;
use std::{collections::BTreeSet, net::IpAddr, time::Duration};
use xylem_audit::{Entry, Kind, Label, Reason, SubjectKind, Verdict};
use xylem_grant::{UnixSeconds, VerifiedGrant};
use xylem_ids::{
    AgentId, Audience, Fingerprint, LeaseId, Order, Origin, RetryClass, Slot, TaskQueue, ToolName,
};
use xylem_policy::{Bounds, Call, CallFacts, Denied, Permit, Policies, PolicyError, Refused};
use xylem_registry::{Callable, DefinitionHash, Edited, ToolDefinition};
use xylem_seal::random_id;

/// Leases that get their outcome in one transaction when nobody released them.
const LAPSED: u32 = 200;
/// That a call was made which is made at most once is known for so long, in seconds. Attempts of one
/// activity are not further apart, unless no worker runs for a season.
const SINGLE_CALLS: u64 = 90 * 24 * 60 * 60;
/// No lease lasts longer.
pub const MAX_LEASE: Duration = Duration::from_secs(15 * 60);

/// The authenticated worker that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// Its agent.
    pub agent: AgentId,
    /// The task queues its API key serves.
    pub queues: BTreeSet<TaskQueue>,
}

/// What an activity asks for.
#[derive(Debug, Clone)]
pub struct Redemption {
    /// The worker, from its API key.
    pub worker: Worker,
    /// Who asks, from the activity task.
    pub claims: Claims,
    /// The grant the node presents, as it came.
    pub grant: String,
    /// The tool it wants to call.
    pub tool: ToolName,
    /// Where the tool would send the token.
    pub destination: Origin,
    /// How long the call may take; at most [`MAX_LEASE`].
    pub lease_for: Duration,
    /// Where the worker is; not known behind a proxy that does not say.
    pub address: Option<IpAddr>,
    /// The parameters of the call, as the worker says them. They decide and are not kept.
    pub parameters: Option<serde_json::Value>,
    /// Under which the worker asks again where the answer gets lost, within the same attempt: of a
    /// tool that is called at most once it is given the lease that it has, and no other.
    pub request: Option<RequestId>,
}

/// A token for one call. Its `Debug` shows everything but the token.
#[derive(Debug)]
pub struct Redeemed {
    /// The token.
    pub token: SecretString,
    /// The lease, to be released when the call has ended.
    pub lease: LeaseId,
    /// When the lease ends by itself.
    pub lease_expires_at: UnixSeconds,
    /// The version that was handed out.
    pub order: Order,
    /// The token's keyed digest.
    pub fingerprint: Fingerprint,
    /// Where the token may be sent.
    pub audiences: Vec<Audience>,
    /// The hash of the tool's approved definition as this transaction saw it.
    pub tool_hash: String,
    /// The newest grant.
    pub grant: VerifiedGrant,
    /// Whether that is another grant than the one presented: the node adopts it.
    pub newer: bool,
}

/// How the call that a lease was for ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallEnd {
    /// Whether it ended well.
    pub succeeded: bool,
    /// A stable word, such as `refused_401`; none where there is nothing to say.
    pub reason: Option<Reason>,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// How long it took.
    pub duration: Duration,
    /// Whether the API is known to have done nothing: it was not reached, or refused to.
    pub undone: bool,
    /// How many bytes of body were sent.
    pub bytes_out: u64,
    /// How many bytes of body came back.
    pub bytes_in: u64,
}

/// What became of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// The lease is over and the outcome is in the log.
    Now,
    /// It was released before; nothing changed.
    Before,
}

/// A tool whose definition was approved and may be called.
pub(crate) struct ApprovedTool {
    pub(crate) callable: Callable,
    /// What policies can say about it.
    pub(crate) about: xylem_policy::ToolFacts,
    pub(crate) definition: ToolDefinition,
}

impl ApprovedTool {
    /// Whether an activity may call it: where that is at most once, not after an attempt that may have
    /// reached the API. Answers the lease that this very request opened before, if it still holds:
    /// whoever asks again has not heard of it, and has sent nothing.
    pub(crate) async fn check_attempts(
        &self,
        tx: &mut dyn Transaction,
        redemption: &Redemption,
        now: UnixSeconds,
    ) -> Result<Option<LeaseRow>, VaultError> {
        let claims = &redemption.claims;
        if !self.is_called_once() {
            return Ok(None);
        }
        let Some(call) = tx.single_call(&claims.run_id, claims.activity.id()).await? else {
            return Ok(None);
        };
        let mut lease = None;
        if call.request.is_some() && call.request == redemption.request {
            lease = tx.lease(&call.lease).await?;
        }
        let lease = lease.filter(|lease| opened_by(lease, redemption, now));
        Ok(Some(lease.ok_or(Refusal::CalledBefore)?))
    }

    /// Notes that an attempt may reach the API from now on. The last of what can fail.
    pub(crate) async fn note_attempt(
        &self,
        tx: &mut dyn Transaction,
        lease: &LeaseRow,
        request: Option<&RequestId>,
    ) -> Result<(), VaultError> {
        if self.is_called_once() {
            tx.put_single_call(lease, request).await?;
        }
        Ok(())
    }

    fn is_called_once(&self) -> bool {
        self.definition.retry == RetryClass::AtMostOnce
    }

    pub(crate) fn bounds<'a>(&'a self, owner: &'a TreeRow) -> Bounds<'a> {
        Bounds {
            allowed: &owner.tree.tools,
            tool_slot: self.callable.slot(),
            limit: self.definition.rate_limit,
        }
    }
}

/// Whether a lease is open, and of this worker, attempt and tool.
fn opened_by(lease: &LeaseRow, redemption: &Redemption, now: UnixSeconds) -> bool {
    let claims = &redemption.claims;
    let open = lease.released_at.is_none() && lease.expires_at > now;
    let same_attempt = lease.workflow_id == claims.workflow_id
        && lease.run_id == claims.run_id
        && lease.activity == claims.activity;
    open && same_attempt && lease.agent == redemption.worker.agent && lease.tool == redemption.tool
}

/// What was decided in favour of a call.
pub(crate) struct Decided<T> {
    /// What is handed out.
    pub(crate) handed: T,
    /// What it is handed out under, where that is yet to be written: not where the same was handed out
    /// before.
    pub(crate) opens: Option<(LeaseRow, Permit)>,
}

impl Vault {
    /// Exchanges a grant for the newest active token that the node is entitled to. Whatever is
    /// decided is in the audit log, in the transaction that wrote the lease or would have.
    ///
    /// # Errors
    /// Refused, or the vault could not decide: then there is no lease either.
    pub async fn redeem(
        &self,
        redemption: Redemption,
        check: &dyn ClaimCheck,
        policies: &Policies,
    ) -> Result<Redeemed, VaultError> {
        let confirmed = confirmed(&redemption, check).await?;
        let mut tx = self.begin().await?;
        self.check_held(&mut *tx).await?;
        let mut entry = self.redeem_entry(&redemption);
        let decided = match (confirmed, self.verified(&redemption.grant)) {
            (Err(refusal), _) => Err(refusal.into()),
            (Ok(_), Err(reject)) => Err(Refusal::from(reject).into()),
            (Ok(claims), Ok(grant)) => {
                entry = entry.of_tree(claims.tree());
                entry.slot = Some(grant.slot().clone());
                entry.presented = Some(grant.order());
                self.decide(&mut *tx, &redemption, &claims, grant, policies, &mut entry)
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

    /// Writes a lease, and that its permit was used.
    pub(crate) async fn open_lease(
        &self,
        tx: &mut dyn Transaction,
        policies: &Policies,
        opens: Option<(LeaseRow, Permit)>,
    ) -> Result<(), VaultError> {
        if let Some((lease, permit)) = opens {
            tx.put_lease(&lease).await?;
            policies.count(tx, &permit, self.seconds().0).await?;
        }
        Ok(())
    }

    /// Ends a lease and notes how its call ended. Only the worker that redeemed can.
    ///
    /// # Errors
    /// There is no such lease of this worker.
    pub async fn release(
        &self,
        lease: &LeaseId,
        worker: &Worker,
        end: &CallEnd,
    ) -> Result<Released, VaultError> {
        let mut tx = self.begin().await?;
        let found = tx.lease(lease).await?;
        let mut row = found
            .filter(|row| row.agent == worker.agent)
            .ok_or(VaultError::NotFound { what: "lease" })?;
        if row.released_at.is_some() {
            return Ok(Released::Before);
        }
        let entry = self.outcome(&mut *tx, &row, end).await?;
        row.released_at = Some(self.seconds());
        tx.put_lease(&row).await?;
        if end.undone {
            tx.delete_single_call(&row).await?;
        }
        tx.audit(&entry).await?;
        tx.commit().await?;
        Ok(Released::Now)
    }

    /// Forgets leases that ended more than a day ago. One that was never released gets its outcome
    /// first, failed because of `lease_expired`: every decision in the log has one. Answers how many
    /// were forgotten.
    ///
    /// # Errors
    /// The storage failed. Leases that have their outcome keep it; the next call goes on.
    pub async fn tidy(&self) -> Result<u64, VaultError> {
        const DAY: u64 = 24 * 60 * 60;
        let before = UnixSeconds(self.seconds().0.saturating_sub(DAY));
        loop {
            let mut tx = self.begin().await?;
            let lapsed = tx.lapsed_leases(before, LAPSED).await?;
            if lapsed.is_empty() {
                let forgotten = tx.delete_leases(before).await?;
                // No window of calls is longer than a day.
                let ended = before.0.saturating_sub(DAY);
                tx.delete_usage(ended).await.map_err(PolicyError::from)?;
                let called = UnixSeconds(self.seconds().0.saturating_sub(SINGLE_CALLS));
                tx.delete_single_calls(called).await?;
                tx.commit().await?;
                return Ok(forgotten);
            }
            for mut lease in lapsed {
                let entry = self.lapse(&mut *tx, &lease).await?;
                tx.audit(&entry).await?;
                lease.released_at = Some(lease.expires_at);
                tx.put_lease(&lease).await?;
            }
            tx.commit().await?;
        }
    }

    /// The tree of a confirmed node, if its worker serves its queue and it was not stopped.
    pub(crate) async fn entitled_tree(
        &self,
        tx: &mut dyn Transaction,
        claims: &ConfirmedClaims,
        worker: &Worker,
    ) -> Result<TreeRow, VaultError> {
        if !worker.queues.contains(&claims.claims().task_queue) {
            return Err(Refusal::QueueNotServed.into());
        }
        let row = tx.tree_by_id(claims.tree()).await?;
        let row = self.derived.check_tree(row.ok_or(Refusal::UnknownTree)?)?;
        match row.tree.state {
            TreeState::Bound { .. } => Ok(row),
            TreeState::Starting => Err(Refusal::UnknownTree.into()),
            TreeState::Stopped { .. } => Err(Refusal::TreeStopped.into()),
        }
    }

    /// Gathers the proofs in this transaction's view, in the order of what is cheapest to say. What
    /// is learned on the way is noted in the entry.
    async fn decide(
        &self,
        tx: &mut dyn Transaction,
        redemption: &Redemption,
        claims: &ConfirmedClaims,
        grant: VerifiedGrant,
        policies: &Policies,
        entry: &mut Entry,
    ) -> Result<Decided<Redeemed>, VaultError> {
        let owner = self.entitled_tree(tx, claims, &redemption.worker).await?;
        entry.owner = Some(owner.tree.owner.clone());
        if grant.claims().tree != *claims.tree() {
            return Err(Refusal::OtherTree.into());
        }
        self.check_entitled(tx, &owner, claims, grant.slot())
            .await?;
        let tool = self.callable(tx, &owner, &redemption.tool).await?;
        let open = tool.check_attempts(tx, redemption, self.seconds()).await?;
        let version = self.redeemable(tx, &owner, grant.slot()).await;
        if let Some(lease) = open {
            let version = version?;
            entry.reason = Some(Reason::of(REPEATED));
            let of = Leased::Slot(grant.slot().clone(), version.info.version);
            check_repeated(&lease, &owner, &of)?;
            check_audience(&version.info.audiences, &redemption.destination)?;
            let hash = tool.callable.hash();
            let handed = self.hand_out(tx, &owner, version, &lease, &grant, hash);
            let handed = handed.await?;
            return Ok(Decided {
                handed,
                opens: None,
            });
        }
        let deposited = version.as_ref().ok().map(|row| row.info.deposited_at);
        let facts = self.facts(redemption, claims, &owner, &tool.about, deposited);
        let call = Call {
            tree: claims.tree(),
            node: &claims.node(),
            slot: Some(grant.slot()),
            tool: &redemption.tool,
        };
        let bounds = tool.bounds(&owner);
        let permit = policies.permit(tx, call, bounds, facts).await?;
        let permit = permit.map_err(Refusal::from)?;
        entry.policy = Label::new(&permit.by().to_string());
        let version = version?;
        if version.info.version != grant.order().version {
            entry.behind_s = self.behind(tx, &owner, &grant).await?;
        }
        check_audience(&version.info.audiences, &redemption.destination)?;
        let of = Leased::Slot(grant.slot().clone(), version.info.version);
        let lease = self.lease(redemption, claims, &owner, of, &permit)?;
        let handed = self
            .hand_out(tx, &owner, version, &lease, &grant, tool.callable.hash())
            .await?;
        tool.note_attempt(tx, &lease, redemption.request.as_ref())
            .await?;
        Ok(Decided {
            handed,
            opens: Some((lease, permit)),
        })
    }

    /// What is known about the call, for whoever decides by policies. The caller is the tree's owner:
    /// a worker has neither signed in nor a second factor.
    pub(crate) fn facts<'a>(
        &self,
        redemption: &'a Redemption,
        claims: &'a ConfirmedClaims,
        owner: &'a TreeRow,
        about: &'a xylem_policy::ToolFacts,
        deposited: Option<UnixSeconds>,
    ) -> CallFacts<'a> {
        let now = self.seconds().0;
        CallFacts {
            owner: &owner.tree.owner,
            tool: about,
            now,
            workflow_type: &claims.claims().workflow_type,
            task_queue: &claims.claims().task_queue,
            token_age: deposited.map(|at| now.saturating_sub(at.0)),
            address: redemption.address,
            parameters: redemption.parameters.as_ref(),
        }
    }

    /// For how many seconds the presented version has been superseded, if it is: at least, where it
    /// was revoked since.
    async fn behind(
        &self,
        tx: &mut dyn Transaction,
        owner: &TreeRow,
        grant: &VerifiedGrant,
    ) -> Result<Option<u64>, VaultError> {
        let (start, slot) = (&owner.tree.start, grant.slot());
        let presented = tx.version(start, slot, grant.order().version).await?;
        let presented = presented
            .map(|row| self.derived.check_version(row))
            .transpose()?;
        Ok(presented
            .filter(|row| row.info.state != VersionState::Active)
            .map(|row| self.seconds().0.saturating_sub(row.info.state_since.0)))
    }

    /// The tool, if its definition was approved and may be called.
    pub(crate) async fn callable(
        &self,
        tx: &mut dyn Transaction,
        owner: &TreeRow,
        name: &ToolName,
    ) -> Result<ApprovedTool, VaultError> {
        let edited = || VaultError::tampered("tool", name);
        let namespace = &owner.tree.namespace;
        let facts = tx.tool(namespace, name).await?;
        let ToolFacts { record, approved } = facts.ok_or(Refusal::UnknownTool)?;
        let tool = self.tools.open(namespace, record);
        let tool = tool.map_err(|Edited| edited())?;
        if tool.row().deleted {
            return Err(Refusal::UnknownTool.into());
        }
        let callable = tool.callable().map_err(Refusal::from)?;
        let approved = approved.filter(|approved| approved.hash() == *callable.hash());
        let approved = approved.ok_or_else(edited)?;
        let about = tool.facts(&approved).map_err(|_| edited())?;
        Ok(ApprovedTool {
            callable,
            about,
            definition: approved,
        })
    }

    async fn check_entitled(
        &self,
        tx: &mut dyn Transaction,
        owner: &TreeRow,
        claims: &ConfirmedClaims,
        slot: &Slot,
    ) -> Result<(), VaultError> {
        let of_type = tx
            .slot_use(
                &owner.tree.namespace,
                claims.workflow_queue(),
                &claims.claims().workflow_type,
                slot,
            )
            .await?;
        match of_type {
            SlotUse::Redeems => {}
            SlotUse::Transit => return Err(Refusal::TransitOnly.into()),
            SlotUse::Undeclared => return Err(Refusal::Undeclared.into()),
        }
        let row = self.slot_in(tx, &owner.tree.start, slot).await?;
        let node = &claims.claims().workflow_id;
        if excluded(&row.exclusions, node, claims.ancestors()) {
            return Err(Refusal::Excluded.into());
        }
        Ok(())
    }

    /// The active version, if its grant has not expired. Whatever was presented, it is the newest.
    pub(crate) async fn redeemable(
        &self,
        tx: &mut dyn Transaction,
        owner: &TreeRow,
        slot: &Slot,
    ) -> Result<VersionRow, VaultError> {
        let Some(active) = self.active(tx, &owner.tree.start, slot).await? else {
            let last = self.slot_in(tx, &owner.tree.start, slot).await?.last;
            let refusal = if last == 0 {
                Refusal::NoToken
            } else {
                Refusal::TokenRevoked
            };
            return Err(refusal.into());
        };
        if active.info.expires_at <= self.seconds() {
            return Err(Refusal::TokenExpired.into());
        }
        Ok(active)
    }

    /// The lease that the proofs allow: confirmed claims, a living tree, an active version of what is
    /// handed out, and a permit for exactly this node and tool.
    pub(crate) fn lease(
        &self,
        redemption: &Redemption,
        claims: &ConfirmedClaims,
        owner: &TreeRow,
        of: Leased,
        permit: &Permit,
    ) -> Result<LeaseRow, VaultError> {
        let now = self.seconds();
        let lasts = redemption
            .lease_for
            .clamp(Duration::from_secs(1), MAX_LEASE);
        Ok(LeaseRow {
            id: random_id()?.parse().map_err(|_| VaultError::Crypto)?,
            start: owner.tree.start.clone(),
            of,
            tool: permit.tool().clone(),
            workflow_id: permit.node().workflow_id.clone(),
            run_id: claims.claims().run_id.clone(),
            activity: claims.claims().activity.clone(),
            agent: redemption.worker.agent.clone(),
            opened_at: now,
            expires_at: now.plus(lasts),
            released_at: None,
        })
    }

    async fn hand_out(
        &self,
        tx: &mut dyn Transaction,
        owner: &TreeRow,
        version: VersionRow,
        lease: &LeaseRow,
        presented: &VerifiedGrant,
        approved: &DefinitionHash,
    ) -> Result<Redeemed, VaultError> {
        let key = self.data_key(tx, owner).await?;
        let token = self.open_token(tx, &key, &owner.tree, &version).await?;
        let current = version.info.grant.as_deref() == Some(presented.as_str());
        let grant = if current {
            presented.clone()
        } else {
            self.grant_of(&version)?
        };
        Ok(Redeemed {
            token,
            lease: lease.id.clone(),
            lease_expires_at: lease.expires_at,
            order: version.info.order(),
            fingerprint: version.info.fingerprint,
            audiences: version.info.audiences,
            tool_hash: approved.to_string(),
            grant,
            newer: !current,
        })
    }

    pub(crate) fn redeem_entry(&self, redemption: &Redemption) -> Entry {
        let claims = &redemption.claims;
        let mut entry = self.entry(Kind::Redeem, Verdict::Denied, &redemption.worker.agent);
        entry.namespace = Some(claims.namespace.clone());
        entry.node = Some(claims.node_run());
        entry.activity = Some(claims.activity.clone());
        entry.tool = Some(redemption.tool.clone());
        entry
    }

    async fn outcome(
        &self,
        tx: &mut dyn Transaction,
        lease: &LeaseRow,
        end: &CallEnd,
    ) -> Result<Entry, VaultError> {
        let verdict = if end.succeeded {
            Verdict::Succeeded
        } else {
            Verdict::Failed
        };
        let mut entry = self.lease_entry(lease, verdict);
        entry.reason = end.reason.clone();
        entry.status = end.status;
        entry.duration_ms = u64::try_from(end.duration.as_millis()).ok();
        (entry.bytes_out, entry.bytes_in) = (Some(end.bytes_out), Some(end.bytes_in));
        self.of_lease(tx, entry, lease).await
    }

    /// The outcome of a call whose worker never said how it ended. Where the rows that the lease
    /// refers to were edited, it says what the lease does: the others must not wait for it.
    async fn lapse(&self, tx: &mut dyn Transaction, lease: &LeaseRow) -> Result<Entry, VaultError> {
        let entry = self.lease_entry(lease, Verdict::Failed);
        let entry = entry.because("lease_expired");
        match self.of_lease(tx, entry.clone(), lease).await {
            Err(VaultError::Tampered(_) | VaultError::NotFound { .. }) => Ok(entry),
            answer => answer,
        }
    }

    fn lease_entry(&self, lease: &LeaseRow, verdict: Verdict) -> Entry {
        let mut entry = self.entry(Kind::Outcome, verdict, &lease.agent);
        entry.node = Some(xylem_audit::NodeRun {
            workflow_id: lease.workflow_id.clone(),
            run_id: Some(lease.run_id.clone()),
        });
        entry.activity = Some(lease.activity.clone());
        entry.tool = Some(lease.tool.clone());
        if let Leased::Slot(slot, _) = &lease.of {
            entry.slot = Some(slot.clone());
        }
        entry.lease = Some(lease.id.clone());
        entry
    }

    /// The same entry, about the tree and version of a lease.
    async fn of_lease(
        &self,
        tx: &mut dyn Transaction,
        mut entry: Entry,
        lease: &LeaseRow,
    ) -> Result<Entry, VaultError> {
        let owner = self.start_in(tx, &lease.start).await?;
        entry.namespace = Some(owner.tree.namespace.clone());
        entry.tree = owner.tree.id();
        entry.owner = Some(owner.tree.owner.clone());
        match &lease.of {
            Leased::Slot(slot, version) => {
                let version = self.version_in(tx, &owner, slot, *version).await?;
                Ok(self.about(entry, &version.info))
            }
            Leased::Credential(mark) => Ok(entry.regarding(SubjectKind::Credential, mark.place())),
            Leased::Nothing => Ok(entry),
        }
    }
}

/// The claims of a redemption as Temporal confirms them, or why it does not.
pub(crate) async fn confirmed(
    redemption: &Redemption,
    check: &dyn ClaimCheck,
) -> Result<Result<ConfirmedClaims, Refusal>, VaultError> {
    match redemption.claims.clone().confirm(check).await {
        Err(ClaimError::NotChecked(cause)) => Err(VaultError::ClaimsNotChecked(cause)),
        Err(ClaimError::Refused(refusal)) => Ok(Err(Refusal::from(refusal))),
        Ok(claims) => Ok(Ok(claims)),
    }
}

/// What is said of a token that is handed out again.
pub(crate) const REPEATED: &str = "repeated";

/// Under a lease no other token is handed out than the first time; what was rotated since is none.
pub(crate) fn check_repeated(
    lease: &LeaseRow,
    owner: &TreeRow,
    of: &Leased,
) -> Result<(), Refusal> {
    if lease.start == owner.tree.start && lease.of == *of {
        Ok(())
    } else {
        Err(Refusal::CalledBefore)
    }
}

pub(crate) fn check_audience(audiences: &[Audience], destination: &Origin) -> Result<(), Refusal> {
    let named = audiences
        .iter()
        .any(|audience| audience.origin() == destination);
    if named {
        Ok(())
    } else {
        Err(Refusal::OtherAudience)
    }
}

fn granted(mut entry: Entry, redeemed: &Redeemed) -> Entry {
    entry.verdict = Verdict::Granted;
    entry.order = Some(redeemed.order);
    entry.presented = entry.presented.filter(|order| *order != redeemed.order);
    entry.fingerprint = Some(redeemed.fingerprint.clone());
    entry.lease = Some(redeemed.lease.clone());
    entry
}

/// Writes why nothing is handed out into the log, where that was decided; and answers it.
pub(crate) async fn refuse(
    mut tx: Box<dyn Transaction>,
    entry: Entry,
    error: VaultError,
) -> Result<VaultError, VaultError> {
    let Some(denied) = denied(entry, &error) else {
        return Ok(error);
    };
    tx.audit(&denied).await?;
    tx.commit().await?;
    Ok(error.audited())
}

/// The entry for what was decided against; none where nothing could be decided.
fn denied(mut entry: Entry, error: &VaultError) -> Option<Entry> {
    match error {
        VaultError::Refused(refusal) => {
            if let Refusal::Policy(Denied::ByPolicy(Refused { by: Some(by), .. })) = refusal {
                entry.policy = Label::new(&by.to_string());
            }
            Some(entry.because(refusal.code()))
        }
        VaultError::Tampered(place) => {
            entry.kind = Kind::Tampered;
            entry.reason = Reason::parse(&place.what.replace(' ', "_"));
            Some(entry)
        }
        _ => None,
    }
}
