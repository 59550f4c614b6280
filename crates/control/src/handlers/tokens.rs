//! The tokens of a tree.

use super::{Handlers, answer, request, started, trees::audiences};
use crate::{
    caller::{caller, caller_address, check_reach, during_call},
    convert,
    fault::Fault,
    walk::{Node, Standing, Walk},
};
use secrecy::{ExposeSecret, SecretString};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use v1::tokens_server::Tokens;
use xylem_audit::{Entry, Kind, Verdict};
use xylem_ids::{Slot, TreeId, Version};
use xylem_proto::v1;
use xylem_vault::{
    Audiences, Deposit, Revelation, Revocation, Target, Tree, VaultError, VersionInfo,
    VersionState, VersionStatus,
};

/// Between two looks at a tree whose revocation has to wait.
pub(super) const FIRST_REST: Duration = Duration::from_millis(250);
const LONGEST_REST: Duration = Duration::from_secs(2);
/// Why nothing can be said about some nodes.
const UNSEEN: &str = "the tree has more workflows than one walk looks at: some were not looked at";
/// So many stragglers are named in an answer.
const NAMED: usize = 200;

#[tonic::async_trait]
impl Tokens for Handlers {
    async fn set_token(
        &self,
        request: Request<v1::SetTokenRequest>,
    ) -> Result<Response<v1::TokenChanged>, Status> {
        answer(self.set(request.into_inner()).await)
    }

    async fn rotate_token(
        &self,
        request: Request<v1::RotateTokenRequest>,
    ) -> Result<Response<v1::TokenChanged>, Status> {
        answer(self.rotate(request.into_inner()).await)
    }

    async fn get_token_status(
        &self,
        request: Request<v1::GetTokenStatusRequest>,
    ) -> Result<Response<v1::TokenStatus>, Status> {
        answer(self.token_status(request.into_inner()).await)
    }

    async fn reissue_token(
        &self,
        request: Request<v1::ReissueTokenRequest>,
    ) -> Result<Response<v1::TokenChanged>, Status> {
        answer(self.reissue(request.into_inner()).await)
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        answer(self.revoke(request.into_inner()).await)
    }

    async fn rollback_token(
        &self,
        request: Request<v1::RollbackTokenRequest>,
    ) -> Result<Response<v1::TokenChanged>, Status> {
        answer(self.roll_back(request.into_inner()).await)
    }

    async fn reveal_token(
        &self,
        request: Request<v1::RevealTokenRequest>,
    ) -> Result<Response<v1::RevealTokenResponse>, Status> {
        answer(self.reveal(request.into_inner()).await)
    }
}

impl Handlers {
    /// Break-glass. The audit log has it, and raises an alert, whatever comes of it.
    async fn reveal(
        &self,
        given: v1::RevealTokenRequest,
    ) -> Result<v1::RevealTokenResponse, Fault> {
        let principal = caller()?;
        let slot = convert::slot(given.slot, "slot")?;
        let note = convert::note(&given.reason, "reason")?;
        let rule = "reason must say why, in 1 to 500 printable characters";
        let note = note.ok_or_else(|| Fault::invalid("reason", rule))?;
        let tree = self.anybodys_tree(&given.tree).await?;
        let now = self.now();
        let mut entry = self.change(Kind::TokenRevealed);
        entry.note = Some(note);
        if let Err(hidden) = check_reach(&tree.owner, "tree") {
            self.log.append(&[not_shown(entry, &tree, slot)]).await?;
            return Err(hidden);
        }
        let tree = started(&tree)?;
        let signed_in = principal.signed_in();
        let wanted = Revelation {
            agent: principal.agent().clone(),
            address: caller_address(),
            signed_in: signed_in.map(|at| now.duration_since(at).unwrap_or_default().as_secs()),
            second_factor: principal.second_factor(),
            entry,
            slot: slot.clone(),
            tree: tree.clone(),
        };
        let revealed = self.vault.reveal(wanted, &self.policies).await;
        let revealed = revealed.map_err(|error| Fault::from(error).about(&place(&tree, &slot)))?;
        Ok(v1::RevealTokenResponse {
            token: revealed.token.expose_secret().to_owned(),
            order: Some(convert::order(revealed.order)),
            fingerprint: revealed.fingerprint.into(),
        })
    }

    async fn set(&self, given: v1::SetTokenRequest) -> Result<v1::TokenChanged, Fault> {
        let principal = caller()?;
        let token = SecretString::from(given.token);
        let slot = convert::slot(given.slot, "slot")?;
        let audiences = audiences(given.audiences, "audiences")?;
        let lifetime = self.lifetime(given.ttl, "ttl")?;
        let request = request(&principal, &given.request_id, "")?;
        let tree = self.named_or_adopted(&given.tree).await?;
        let deposit = Deposit {
            target: Target::Tree(tree.clone()),
            slot,
            token,
            audiences,
            lifetime,
            depositor: principal.agent().clone(),
            request,
            accept_short: given.allow_short,
        };
        let what = place(&tree, &deposit.slot);
        let set = self.deposit(tree, deposit).await;
        set.map_err(|fault| fault.about(&what))
    }

    async fn rotate(&self, given: v1::RotateTokenRequest) -> Result<v1::TokenChanged, Fault> {
        let principal = caller()?;
        let token = SecretString::from(given.token);
        let slot = convert::slot(given.slot, "slot")?;
        let lifetime = self.lifetime(given.ttl, "ttl")?;
        let request = request(&principal, &given.request_id, "")?;
        let tree = self.named_id(&given.tree).await?;
        let what = place(&tree, &slot);
        let before = self.newest(&tree, &slot).await?.ok_or_else(|| {
            Fault::refused("no_token", "the slot holds no token yet: set one first").about(&what)
        })?;
        let audiences = if given.audiences.is_empty() {
            Audiences::new(before.info.audiences)?
        } else {
            audiences(given.audiences, "audiences")?
        };
        let deposit = Deposit {
            target: Target::Tree(tree.clone()),
            slot,
            token,
            audiences,
            lifetime,
            depositor: principal.agent().clone(),
            request,
            accept_short: given.allow_short,
        };
        let rotated = self.deposit(tree, deposit).await;
        rotated.map_err(|fault| fault.about(&what))
    }

    /// The version before is superseded when this returns, whether or not the signal arrived.
    async fn deposit(&self, tree: TreeId, deposit: Deposit) -> Result<v1::TokenChanged, Fault> {
        let slot = deposit.slot.clone();
        let before = self.active(&tree, &slot).await?;
        let deposited = self.vault.deposit(deposit).await?;
        let signalled = !deposited.repeated && self.announce(&tree).await;
        self.changed(&tree, &slot, deposited.order.version, before, signalled)
            .await
    }

    async fn reissue(&self, given: v1::ReissueTokenRequest) -> Result<v1::TokenChanged, Fault> {
        let principal = caller()?;
        let slot = convert::slot(given.slot, "slot")?;
        let lifetime = self.lifetime(given.ttl, "ttl")?;
        let tree = self.named_id(&given.tree).await?;
        let grant = self
            .vault
            .reissue(&tree, &slot, lifetime, principal.agent())
            .await
            .map_err(|error| reissuing(error).about(&place(&tree, &slot)))?;
        let signalled = self.announce(&tree).await;
        self.changed(&tree, &slot, grant.order().version, None, signalled)
            .await
    }

    async fn roll_back(&self, given: v1::RollbackTokenRequest) -> Result<v1::TokenChanged, Fault> {
        let principal = caller()?;
        let slot = convert::slot(given.slot, "slot")?;
        let request = request(&principal, &given.request_id, "")?;
        let tree = self.named_id(&given.tree).await?;
        let before = self.active(&tree, &slot).await?;
        let what = place(&tree, &slot);
        let to = match given.version {
            Some(version) => Version(version),
            None => {
                let last = self.last_superseded(&tree, &slot).await;
                last.map_err(|fault| fault.about(&what))?
            }
        };
        let lifetime = self.settings.lifetime;
        let by = principal.agent();
        let deposited = self
            .vault
            .rollback(&tree, &slot, to, lifetime, by, &request)
            .await
            .map_err(|error| Fault::from(error).about(&what))?;
        let signalled = !deposited.repeated && self.announce(&tree).await;
        self.changed(&tree, &slot, deposited.order.version, before, signalled)
            .await
    }

    async fn changed(
        &self,
        tree: &TreeId,
        slot: &Slot,
        version: Version,
        before: Option<VersionInfo>,
        signalled: bool,
    ) -> Result<v1::TokenChanged, Fault> {
        let now = self.now();
        let of_slot = self.versions(tree, Some(slot)).await?;
        let find = |wanted: Version| {
            let found = of_slot.iter().find(|status| status.info.version == wanted);
            found.map(|status| convert::version_status(status.clone(), now))
        };
        let superseded = before.filter(|before| before.version != version);
        Ok(v1::TokenChanged {
            version: find(version),
            superseded: superseded.and_then(|before| find(before.version)),
            signalled,
        })
    }

    async fn token_status(
        &self,
        given: v1::GetTokenStatusRequest,
    ) -> Result<v1::TokenStatus, Fault> {
        let slot: Option<Slot> = convert::optional(given.slot, "slot")?;
        let tree = self.named_id(&given.tree).await?;
        let now = self.now();
        let mut versions = self.versions(&tree, slot.as_ref()).await?;
        versions.sort_by(|a, b| {
            let newest_first = b.info.version.cmp(&a.info.version);
            a.info.slot.cmp(&b.info.slot).then(newest_first)
        });
        Ok(v1::TokenStatus {
            versions: versions
                .into_iter()
                .map(|status| convert::version_status(status, now))
                .collect(),
        })
    }

    async fn versions(
        &self,
        tree: &TreeId,
        slot: Option<&Slot>,
    ) -> Result<Vec<VersionStatus>, Fault> {
        let mut versions = self.vault.status(tree).await?;
        versions.retain(|status| slot.is_none_or(|slot| status.info.slot == *slot));
        Ok(versions)
    }

    async fn newest(&self, tree: &TreeId, slot: &Slot) -> Result<Option<VersionStatus>, Fault> {
        let versions = self.versions(tree, Some(slot)).await?;
        Ok(versions
            .into_iter()
            .max_by_key(|status| status.info.version))
    }

    async fn active(&self, tree: &TreeId, slot: &Slot) -> Result<Option<VersionInfo>, Fault> {
        let versions = self.versions(tree, Some(slot)).await?;
        let mut infos = versions.into_iter().map(|status| status.info);
        Ok(infos.find(|info| info.state == VersionState::Active))
    }

    async fn last_superseded(&self, tree: &TreeId, slot: &Slot) -> Result<Version, Fault> {
        let versions = self.versions(tree, Some(slot)).await?;
        let superseded = versions
            .into_iter()
            .filter(|status| status.info.state == VersionState::Superseded)
            .map(|status| status.info.version);
        superseded.max().ok_or_else(|| {
            Fault::refused(
                "nothing_to_roll_back_to",
                "the slot has no earlier version that is not revoked: rotate to a new token",
            )
        })
    }
}

/// The entry about somebody who wanted to be shown a token of a tree that is another's.
fn not_shown(mut entry: Entry, tree: &Tree, slot: Slot) -> Entry {
    entry.verdict = Verdict::Denied;
    entry.owner = Some(tree.owner.clone());
    entry.tree = tree.id();
    entry.slot = Some(slot);
    entry.because("other_owner")
}

/// What an error is about.
fn place(tree: &TreeId, slot: &Slot) -> String {
    format!("slot {slot} of tree {}", tree.workflow_id)
}

/// Nothing can be re-issued where nothing is active.
fn reissuing(error: VaultError) -> Fault {
    match error {
        VaultError::NotFound { .. } => {
            Fault::not_found("active version in this slot: set or rotate its token")
        }
        error => error.into(),
    }
}

/// What a revocation found when it went ahead.
#[derive(Default)]
pub(super) struct Evidence {
    current: u32,
    unselected: u32,
    stragglers: Vec<v1::Straggler>,
    /// Whether the tree has nodes that the walk did not reach.
    unseen: bool,
}

impl Evidence {
    pub(super) fn of(walk: &Walk, slot: &Slot) -> Self {
        let mut evidence = Self {
            unseen: walk.truncated,
            ..Self::default()
        };
        for node in &walk.nodes {
            match walk.standing(node, slot) {
                Standing::Current => evidence.current += 1,
                Standing::Unselected(_) => evidence.unselected += 1,
                Standing::Closed => {}
                standing @ (Standing::Behind(_) | Standing::Unknown(_)) => {
                    evidence.stragglers.push(straggler(node, slot, standing));
                }
            }
        }
        evidence
    }

    /// What is in the way of a revocation, as a code.
    pub(super) fn blocked(&self) -> Option<&'static str> {
        if !self.stragglers.is_empty() {
            Some("nodes_behind")
        } else if self.unseen {
            Some("nodes_unseen")
        } else {
            None
        }
    }

    fn fault(&self, reason: &'static str) -> Fault {
        if self.stragglers.is_empty() {
            return Fault::refused(reason, format!("{UNSEEN}; force it if they may be behind"));
        }
        let few: Vec<_> = self
            .stragglers
            .iter()
            .take(5)
            .map(|straggler| format!("{} ({})", straggler.workflow_id, straggler.reason))
            .collect();
        let more = self.stragglers.len() - few.len();
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        Fault::refused(
            reason,
            format!(
                "{} nodes have not adopted the newest version: {}{more}; wait for them, stop them, or force it",
                self.stragglers.len(),
                few.join(", "),
            ),
        )
    }
}

fn straggler(node: &Node, slot: &Slot, standing: Standing) -> v1::Straggler {
    let held = node.answer().and_then(|answer| answer.slots.get(slot));
    v1::Straggler {
        workflow_id: node.workflow_id.to_string(),
        order: held.and_then(|held| held.order()).map(convert::order),
        reason: standing.reason().to_owned(),
    }
}

impl Handlers {
    /// Sweeps until nothing of the tree is behind, then revokes behind the vault's own gate. What
    /// is in the way when the wait is over refuses the revocation, or is what force breaks.
    async fn revoke(
        &self,
        given: v1::RevokeTokenRequest,
    ) -> Result<v1::RevokeTokenResponse, Fault> {
        let principal = caller()?;
        let slot = convert::slot(given.slot, "slot")?;
        let longest = Duration::from_secs(5 * 60);
        let wait = convert::duration(given.wait, "wait", Duration::ZERO, longest)?;
        let deadline = Instant::now() + wait.unwrap_or(Duration::from_secs(30));
        let note = convert::note(&given.reason, "reason")?;
        let tree = self.named_id(&given.tree).await?;
        let version = Version(given.version);
        let what = format!("{}, version {version}", place(&tree, &slot));
        let revocation = Revocation {
            tree,
            slot,
            version,
            force: false,
            by: principal.agent().clone(),
            note,
        };
        let revoked = self.revoke_by(revocation, given.force, deadline).await;
        revoked.map_err(|fault| fault.about(&what))
    }

    /// Revokes at the latest when the deadline has passed, by force if that is allowed then.
    pub(super) async fn revoke_by(
        &self,
        mut revocation: Revocation,
        force: bool,
        deadline: Instant,
    ) -> Result<v1::RevokeTokenResponse, Fault> {
        let (tree, slot) = (revocation.tree.clone(), revocation.slot.clone());
        self.revocable(&revocation, force).await?;
        let mut rest = FIRST_REST;
        loop {
            let (walk, _) = self.sweep_tree(&tree).await?;
            let evidence = Evidence::of(&walk, &slot);
            let over = Instant::now() + rest > deadline;
            if let Some(reason) = evidence.blocked() {
                if !over {
                    rest = pause(rest).await;
                    continue;
                }
                if !force {
                    return Err(evidence.fault(reason));
                }
                let nodes = evidence.stragglers.len();
                self.note_forced(&revocation, reason, nodes).await?;
            }
            revocation.force = force && over;
            match self.vault.revoke(revocation.clone()).await {
                Ok(revoked) => return Ok(answer_of(revoked, evidence, self.now())),
                Err(VaultError::OpenLeases { .. }) if !over => rest = pause(rest).await,
                Err(VaultError::StillActive(_)) if force && !over => {
                    rest = pause(rest).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Refuses at once what no waiting changes.
    async fn revocable(&self, revocation: &Revocation, force: bool) -> Result<(), Fault> {
        let version = revocation.version;
        let versions = self
            .versions(&revocation.tree, Some(&revocation.slot))
            .await?;
        let found = versions
            .iter()
            .find(|status| status.info.version == version);
        let found = found.ok_or_else(|| {
            Fault::not_found("version in this slot: name one that the token's status lists")
        })?;
        if found.info.state == VersionState::Active && !force {
            return Err(VaultError::StillActive(version).into());
        }
        Ok(())
    }

    /// The vault's own entry says that a version was revoked by force; this one, written before,
    /// says over how many nodes.
    async fn note_forced(
        &self,
        revocation: &Revocation,
        reason: &'static str,
        nodes: usize,
    ) -> Result<(), Fault> {
        let entry = Entry::new(self.now(), Kind::ForcedRevoke, Verdict::Granted);
        let mut entry = during_call(entry)
            .by(&revocation.by)
            .of_tree(&revocation.tree)
            .because(reason);
        entry.slot = Some(revocation.slot.clone());
        entry.note.clone_from(&revocation.note);
        entry.count = u64::try_from(nodes).unwrap_or(u64::MAX).max(1);
        Ok(self.log.append(&[entry]).await?)
    }
}

pub(super) async fn pause(rest: Duration) -> Duration {
    tokio::time::sleep(rest).await;
    (rest * 2).min(LONGEST_REST)
}

fn answer_of(
    revoked: xylem_vault::Revoked,
    evidence: Evidence,
    now: SystemTime,
) -> v1::RevokeTokenResponse {
    let mut breaks = Vec::new();
    let behind = evidence.stragglers.len();
    if behind > 0 {
        breaks.push(format!(
            "{behind} nodes were behind or silent: their next call redeems the newest version, if there is one they are entitled to"
        ));
    }
    if evidence.unseen {
        breaks.push(UNSEEN.to_owned());
    }
    if revoked.open_leases > 0 {
        breaks.push(format!(
            "{} calls were still using the token",
            revoked.open_leases
        ));
    }
    let mut stragglers = evidence.stragglers;
    stragglers.truncate(NAMED);
    v1::RevokeTokenResponse {
        version: Some(convert::version(revoked.version, now)),
        current: evidence.current,
        unselected: evidence.unselected,
        stragglers,
        breaks,
    }
}
