//! What activities ask on behalf of a node.

use super::{Handlers, answer, wire_definition, worker};
use crate::{
    caller::{caller, caller_address, during_call, not_let},
    convert,
    fault::Fault,
    plane::On,
};
use secrecy::{ExposeSecret, SecretString};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tonic::{Request, Response, Status};
use v1::grants_server::Grants;
use xylem_audit::{Entry, Kind, Reason, Verdict};
use xylem_grant::{UnixSeconds, VerifiedGrant};
use xylem_identity::Principal;
use xylem_ids::{Audience, LeaseId, Order, Origin, Slot, ToolName, TreeId, WorkflowId};
use xylem_proto::v1::{self, CallOutcome};
use xylem_registry::{KnownTool, RegistryError, Tool};
use xylem_vault::{
    Audiences, CallEnd, Claims, ConfirmedClaims, Redeemed, Redemption, Refusal, Released,
    RequestId, SelectedBy, Selection, Slotless, TakeIn, Tree, VaultError,
};

/// A lease outlasts the tool's timeout by what redaction, audit and release take.
const LEASE_MARGIN: Duration = Duration::from_secs(15);
/// How often a tool's definition may change under a redemption before it is given up.
const TOOL_READS: usize = 3;

#[tonic::async_trait]
impl Grants for Handlers {
    async fn redeem(
        &self,
        request: Request<v1::RedeemRequest>,
    ) -> Result<Response<v1::RedeemResponse>, Status> {
        answer(self.redeem(request.into_inner()).await)
    }

    async fn release(
        &self,
        request: Request<v1::ReleaseRequest>,
    ) -> Result<Response<v1::ReleaseResponse>, Status> {
        answer(self.release(request.into_inner()).await)
    }

    async fn take_in(
        &self,
        request: Request<v1::TakeInRequest>,
    ) -> Result<Response<v1::TakeInResponse>, Status> {
        answer(self.take_in(request.into_inner()).await)
    }

    async fn issuers(
        &self,
        request: Request<v1::IssuersRequest>,
    ) -> Result<Response<v1::IssuersResponse>, Status> {
        answer(self.issuers(request.into_inner()).await)
    }

    async fn select(
        &self,
        request: Request<v1::SelectRequest>,
    ) -> Result<Response<v1::SelectResponse>, Status> {
        answer(self.select(request.into_inner()).await)
    }
}

/// Redeeming.
impl Handlers {
    async fn redeem(&self, given: v1::RedeemRequest) -> Result<v1::RedeemResponse, Fault> {
        let principal = caller()?;
        let (claims, local) = convert::claims(given.claims)?;
        if local {
            let rule =
                "a token is redeemed by an ordinary activity: a local one cannot be confirmed";
            return Err(Fault::invalid("claims.local", rule));
        }
        self.check_namespace(&claims)?;
        let tool: ToolName = convert::id(given.tool, "tool")?;
        let parameters = given.parameters_json.as_deref();
        let asked = Asked {
            principal,
            claims,
            tool,
            api_url: given.api_url,
            parameters: parameters.map(convert::parameters).transpose()?,
            request: match given.request_id.as_str() {
                "" => None,
                id => Some(super::request(&*caller()?, id, "")?),
            },
        };
        if given.grant.is_empty() && given.slot.is_empty() {
            return self.redeem_slotless(asked).await;
        }
        let slot = convert::slot(given.slot, "slot")?;
        self.redeem_slot(asked, given.grant, slot).await
    }

    async fn redeem_slot(
        &self,
        asked: Asked,
        grant: String,
        slot: Slot,
    ) -> Result<v1::RedeemResponse, Fault> {
        let presented = match self.vault.verify(&grant).await {
            Err(VaultError::Refused(_)) => None,
            verified => Some(verified?),
        };
        if presented
            .as_ref()
            .is_some_and(|grant| *grant.slot() != slot)
        {
            let rule = "slot must be the grant's slot";
            return Err(Fault::invalid("slot", rule));
        }
        let what = call(&asked.claims, &asked.tool, presented.as_ref());
        for _ in 0..TOOL_READS {
            let (known, redemption) = self.redemption(&asked, &grant, &what).await?;
            let destination = redemption.destination.clone();
            let redeemed = self
                .vault
                .redeem(redemption, &self.claims, &self.policies)
                .await;
            let redeemed = redeemed.map_err(|error| Fault::from(error).about(&what))?;
            let of = redeemed.grant.claims();
            let on = On::Slot(of.tree.clone(), of.slot.clone());
            self.remember(&redeemed.lease, redeemed.lease_expires_at, on);
            if redeemed.tool_hash == known.hash().as_str() {
                return Ok(wire_redeemed(redeemed, &known, &slot, &destination));
            }
            // The tool was registered anew in between: the decision was about another definition.
            self.give_back(&asked.principal, &redeemed.lease).await?;
        }
        Err(changing())
    }

    /// The same for a tool that takes no token of the tree.
    async fn redeem_slotless(&self, asked: Asked) -> Result<v1::RedeemResponse, Fault> {
        let what = call(&asked.claims, &asked.tool, None);
        for _ in 0..TOOL_READS {
            let (known, redemption) = self.redemption(&asked, "", &what).await?;
            let destination = redemption.destination.clone();
            let decided = self
                .vault
                .redeem_slotless(redemption, &self.claims, &self.policies)
                .await;
            let decided = decided.map_err(|error| Fault::from(error).about(&what))?;
            if let Some(token) = &decided.token {
                let on = On::Stored(token.mark.name.clone());
                self.remember(&decided.lease, decided.lease_expires_at, on);
            }
            if decided.tool_hash == known.hash().as_str() {
                return Ok(wire_slotless(decided, &known, &destination));
            }
            self.give_back(&asked.principal, &decided.lease).await?;
        }
        Err(changing())
    }

    /// The tool as it is now, and what the vault is to decide about.
    async fn redemption(
        &self,
        asked: &Asked,
        grant: &str,
        what: &str,
    ) -> Result<(Tool, Redemption), Fault> {
        let api_url = asked.api_url.as_deref();
        let callable = self.callable(&asked.principal, &asked.claims, &asked.tool, api_url);
        let (known, destination) = callable.await.map_err(|fault| fault.about(what))?;
        let timeout = Duration::from_secs(known.definition().timeout_seconds.into());
        let redemption = Redemption {
            worker: worker(&asked.principal),
            claims: asked.claims.clone(),
            grant: grant.to_owned(),
            tool: asked.tool.clone(),
            destination,
            lease_for: timeout + LEASE_MARGIN,
            address: caller_address(),
            parameters: asked.parameters.clone(),
            request: asked.request.clone(),
        };
        Ok((known, redemption))
    }

    fn check_namespace(&self, claims: &Claims) -> Result<(), Fault> {
        if claims.namespace == self.settings.namespace {
            Ok(())
        } else {
            not_let("other_namespace");
            Err(Fault::denied(
                "other_namespace",
                "this control plane does not serve that namespace",
            ))
        }
    }

    /// The tool and where a call to it goes. What is refused here is audited like what the vault
    /// refuses.
    async fn callable(
        &self,
        principal: &Principal,
        claims: &Claims,
        name: &ToolName,
        api_url: Option<&str>,
    ) -> Result<(Tool, Origin), Fault> {
        let tool = match self.tools.callable(&self.settings.namespace, name).await {
            Ok(known) => known.tool,
            Err(error) => return Err(self.not_callable(principal, claims, name, error).await?),
        };
        match tool.destination(api_url) {
            Ok(destination) => Ok((tool, destination)),
            Err(invalid) => {
                self.note_denied(principal, claims, name, "api_url").await?;
                Err(Fault::denied("api_url", invalid.to_string()))
            }
        }
    }

    async fn not_callable(
        &self,
        principal: &Principal,
        claims: &Claims,
        name: &ToolName,
        error: RegistryError,
    ) -> Result<Fault, Fault> {
        let refusal = match error {
            RegistryError::NotFound { .. } => Refusal::UnknownTool,
            RegistryError::NotCallable(why) => Refusal::Tool(why),
            RegistryError::Tampered { what, .. } => {
                let mut entry = call_entry(self.now(), principal, claims, name).because(what);
                entry.kind = Kind::Tampered;
                self.log.append(&[entry]).await?;
                // Without the error itself, which would be counted as well.
                return Ok(Fault::internal(error.to_string()));
            }
            error => return Ok(error.into()),
        };
        self.note_denied(principal, claims, name, refusal.code())
            .await?;
        Ok(Fault::denied(refusal.code(), refusal.to_string()))
    }

    async fn note_denied(
        &self,
        principal: &Principal,
        claims: &Claims,
        tool: &ToolName,
        reason: &'static str,
    ) -> Result<(), Fault> {
        let entry = call_entry(self.now(), principal, claims, tool).because(reason);
        Ok(self.log.append(&[entry]).await?)
    }

    fn remember(&self, lease: &LeaseId, until: UnixSeconds, on: On) {
        let now = UnixSeconds::from(self.now());
        let lasts = Duration::from_secs(until.0.saturating_sub(now.0));
        self.leases.opened(lease.clone(), lasts, on);
    }

    async fn give_back(&self, principal: &Principal, lease: &LeaseId) -> Result<(), Fault> {
        let end = CallEnd {
            succeeded: false,
            reason: Some(Reason::of("tool_changed")),
            status: None,
            duration: Duration::ZERO,
            undone: true,
            bytes_out: 0,
            bytes_in: 0,
        };
        self.vault.release(lease, &worker(principal), &end).await?;
        Ok(())
    }

    async fn release(&self, given: v1::ReleaseRequest) -> Result<v1::ReleaseResponse, Fault> {
        let principal = caller()?;
        let lease: LeaseId = convert::id(given.lease_id.clone(), "lease_id")?;
        let end = call_end(given)?;
        let released = self
            .vault
            .release(&lease, &worker(&principal), &end)
            .await?;
        let newest = match self.leases.released(&lease) {
            Some(On::Slot(tree, slot)) => self.newest_order(&tree, &slot).await?,
            Some(On::Stored(name)) => {
                let namespace = &self.settings.namespace;
                self.vault.newest_stored(namespace, &name).await?
            }
            None => None,
        };
        Ok(v1::ReleaseResponse {
            released: released == Released::Now,
            newest: newest.map(convert::order),
        })
    }

    async fn newest_order(&self, tree: &TreeId, slot: &Slot) -> Result<Option<Order>, Fault> {
        let grants = self.vault.grants(tree).await?;
        let of_slot = grants.iter().find(|grant| grant.slot() == slot);
        Ok(of_slot.map(|grant| grant.order()))
    }
}

/// A call that wants to be made.
struct Asked {
    principal: Arc<Principal>,
    claims: Claims,
    tool: ToolName,
    api_url: Option<String>,
    parameters: Option<serde_json::Value>,
    request: Option<RequestId>,
}

fn changing() -> Fault {
    Fault::unavailable(
        "tool_changing",
        "the tool's definition is changing: try again",
        "the definition changed under every redemption",
    )
}

/// The entry for a redemption that is refused before the vault is asked.
fn call_entry(at: SystemTime, principal: &Principal, claims: &Claims, tool: &ToolName) -> Entry {
    let entry = during_call(Entry::new(at, Kind::Redeem, Verdict::Denied));
    let mut entry = entry.by(principal.agent());
    entry.namespace = Some(claims.namespace.clone());
    entry.node = Some(xylem_audit::NodeRun {
        workflow_id: claims.workflow_id.clone(),
        run_id: Some(claims.run_id.clone()),
    });
    entry.activity = Some(claims.activity.clone());
    entry.tool = Some(tool.clone());
    entry
}

/// What a refused redemption is about: what the node wanted to call, and under which grant.
fn call(claims: &Claims, tool: &ToolName, presented: Option<&VerifiedGrant>) -> String {
    let Some(grant) = presented.map(VerifiedGrant::claims) else {
        return format!("tool {tool} for workflow {}", claims.workflow_id);
    };
    let (slot, tree) = (&grant.slot, &grant.tree.workflow_id);
    let version = grant.order.version;
    format!("tool {tool}, slot {slot} of tree {tree}, version {version}")
}

fn wire_redeemed(
    redeemed: Redeemed,
    tool: &Tool,
    slot: &Slot,
    destination: &Origin,
) -> v1::RedeemResponse {
    let tree = redeemed.grant.claims().tree.clone();
    let agreed: Vec<Audience> = redeemed
        .audiences
        .into_iter()
        .filter(|audience| audience.origin() == destination)
        .collect();
    v1::RedeemResponse {
        token: redeemed.token.expose_secret().to_owned(),
        lease_id: redeemed.lease.into(),
        lease_expires_at: Some(convert::seconds(redeemed.lease_expires_at)),
        slot: slot.to_string(),
        order: Some(convert::order(redeemed.order)),
        fingerprint: redeemed.fingerprint.into(),
        newer_grant: redeemed.newer.then(|| redeemed.grant.as_str().to_owned()),
        tool: Some(wire_definition(tool)),
        audiences: convert::audiences(&agreed),
        tree: Some(convert::tree_id(tree)),
    }
}

fn wire_slotless(decided: Slotless, tool: &Tool, destination: &Origin) -> v1::RedeemResponse {
    let mut response = v1::RedeemResponse {
        lease_id: decided.lease.into(),
        lease_expires_at: Some(convert::seconds(decided.lease_expires_at)),
        tool: Some(wire_definition(tool)),
        audiences: vec![destination.to_string()],
        tree: Some(convert::tree_id(decided.tree)),
        ..v1::RedeemResponse::default()
    };
    if let Some(token) = decided.token {
        let mut audiences = token.audiences;
        audiences.retain(|audience| audience.origin() == destination);
        response.audiences = convert::audiences(&audiences);
        response.order = Some(convert::order(token.order));
        response.fingerprint = token.fingerprint.into();
        response.token = token.secret.expose_secret().to_owned();
    }
    response
}

fn call_end(given: v1::ReleaseRequest) -> Result<CallEnd, Fault> {
    let outcome = given.outcome();
    let reason = match outcome {
        CallOutcome::Unspecified => {
            return Err(Fault::invalid("outcome", "outcome must be stated"));
        }
        CallOutcome::Succeeded => None,
        CallOutcome::Refused401 => Some("refused_401"),
        CallOutcome::ApiError => Some("api_error"),
        CallOutcome::NoAnswer => Some("no_answer"),
        CallOutcome::NotSent => Some("not_sent"),
        CallOutcome::Cancelled => Some("cancelled"),
    };
    let status = match given.http_status {
        None => None,
        Some(status @ 100..=999) => u16::try_from(status).ok(),
        Some(_) => {
            return Err(Fault::invalid(
                "http_status",
                "http_status must have three digits",
            ));
        }
    };
    let longest = Duration::from_secs(24 * 60 * 60);
    let duration = convert::duration(given.duration, "duration", Duration::ZERO, longest)?;
    Ok(CallEnd {
        succeeded: reason.is_none(),
        reason: reason.map(Reason::of),
        status,
        duration: duration.unwrap_or_default(),
        undone: matches!(outcome, CallOutcome::NotSent | CallOutcome::Refused401)
            || status == Some(429),
        bytes_out: given.bytes_out,
        bytes_in: given.bytes_in,
    })
}

/// What is not about one call.
impl Handlers {
    /// Has a worker's claims confirmed, those of a local activity as far as Temporal can.
    pub(super) async fn confirmed(
        &self,
        principal: &Principal,
        given: Option<v1::ActivityClaims>,
    ) -> Result<ConfirmedClaims, Fault> {
        let (claims, local) = convert::claims(given)?;
        self.check_namespace(&claims)?;
        if !principal.queues().contains(&claims.task_queue) {
            let refusal = Refusal::QueueNotServed;
            not_let(refusal.code());
            return Err(Fault::denied(refusal.code(), refusal.to_string()));
        }
        let confirmed = if local {
            claims.confirm(&self.claims.local()).await
        } else {
            claims.confirm(&self.claims).await
        };
        Ok(confirmed?)
    }

    /// The record of a confirmed node's tree; made now, where its root was started by somebody who
    /// did not ask.
    async fn tree_of(&self, claims: &ConfirmedClaims) -> Result<Tree, Fault> {
        let id = claims.tree();
        match self.vault.tree(id).await {
            Err(VaultError::NotFound { .. }) => {
                self.adopt(id.workflow_id.clone(), id.first_run_id.clone())
                    .await
            }
            found => Ok(found?),
        }
    }

    async fn issuers(&self, given: v1::IssuersRequest) -> Result<v1::IssuersResponse, Fault> {
        let principal = caller()?;
        let claims = self.confirmed(&principal, given.claims).await?;
        let slots: Vec<Slot> = convert::ids(given.slots, "slots")?;
        let tree = self.tree_of(&claims).await?;
        let grants = self.grants_for(&claims, &slots).await?;
        let key = |key: xylem_grant::IssuerPublicKey| v1::IssuerPublicKey {
            key_id: key.key_id.into(),
            x: key.x,
            generation: key.generation,
        };
        let issuers = self.vault.issuer_set().await?;
        Ok(v1::IssuersResponse {
            tree: Some(convert::tree_id(claims.tree().clone())),
            issuers: issuers.keys().iter().cloned().map(key).collect(),
            intake: tree.intake,
            search_attribute: self.search_attribute(),
            grants,
        })
    }

    /// The current grants of some slots, for a node that is missing them. A node that may only
    /// pass a slot on gets its grant too.
    async fn grants_for(
        &self,
        claims: &ConfirmedClaims,
        slots: &[Slot],
    ) -> Result<Vec<String>, Fault> {
        if slots.is_empty() {
            return Ok(Vec::new());
        }
        let (node, above) = (&claims.claims().workflow_id, claims.ancestors());
        let exclusions = self.vault.exclusions(claims.tree()).await?;
        let excluded = |slot: &Slot| {
            let of_slot = exclusions.iter().filter(|(of, _)| of == slot);
            let mut closed = of_slot.filter(|(_, exclusion)| exclusion.subtree);
            closed.any(|(_, exclusion)| exclusion.covers(node, above))
        };
        let grants = self.vault.grants(claims.tree()).await?;
        let wanted = grants
            .iter()
            .filter(|grant| slots.contains(grant.slot()) && !excluded(grant.slot()));
        Ok(wanted.map(|grant| grant.as_str().to_owned()).collect())
    }

    async fn take_in(&self, given: v1::TakeInRequest) -> Result<v1::TakeInResponse, Fault> {
        let principal = caller()?;
        let token = SecretString::from(given.token);
        let slot = convert::slot(given.slot, "slot")?;
        let claims = self.confirmed(&principal, given.claims).await?;
        let tree = self.tree_of(&claims).await?;
        let audiences = self.intake_audiences(&tree, &slot).await?;
        let claimed = claims.claims();
        let request = format!("take-in/{}/{}", claimed.run_id, claimed.activity.id());
        let taken = self.vault.take_in(TakeIn {
            request: request.parse().map_err(|_| {
                Fault::invalid(
                    "claims.activity_id",
                    "claims.activity_id must be at most 120 characters",
                )
            })?,
            claims,
            worker: worker(&principal),
            slot,
            token,
            audiences,
            lifetime: self.settings.lifetime,
        });
        let grant = taken.await?.grant;
        let grant = grant.ok_or_else(|| Fault::internal("a bound tree's deposit has no grant"))?;
        Ok(v1::TakeInResponse {
            grant: grant.as_str().to_owned(),
        })
    }

    /// Nobody said where a signalled token may go. It goes where the slot's last token went, or
    /// where the tools of the tree send it.
    async fn intake_audiences(&self, tree: &Tree, slot: &Slot) -> Result<Audiences, Fault> {
        let namespace = &self.settings.namespace;
        if let Some(id) = tree.id() {
            let versions = self.vault.status(&id).await?;
            let last = versions
                .into_iter()
                .rfind(|status| status.info.slot == *slot);
            if let Some(last) = last {
                return Ok(Audiences::new(last.info.audiences)?);
            }
        }
        let mut list = Vec::new();
        for name in &tree.tools {
            let known = self.tools.callable(namespace, name).await;
            if let Ok(KnownTool { tool, .. }) = known
                && tool.slot() == Some(slot)
            {
                list.extend(tool.definition().base_url.parse::<Audience>());
            }
        }
        if list.is_empty() {
            list.clone_from(&self.settings.intake_audiences);
        }
        if list.is_empty() {
            return Err(Fault::refused(
                "no_audience",
                "nothing says where the token may be sent: allow the tree a tool, or set the token",
            ));
        }
        Ok(Audiences::new(list)?)
    }

    async fn select(&self, given: v1::SelectRequest) -> Result<v1::SelectResponse, Fault> {
        let principal = caller()?;
        let node: WorkflowId = convert::id(given.child_workflow_id, "child_workflow_id")?;
        let selection = Selection {
            node,
            exclude: convert::ids(given.exclude, "exclude")?,
            include: convert::ids(given.include, "include")?,
            subtree: given.subtree,
        };
        let claims = self.confirmed(&principal, given.claims).await?;
        let tree = claims.tree().clone();
        let by = SelectedBy::Node(Box::new(claims), worker(&principal));
        self.vault.select(&tree, &selection, &by).await?;
        Ok(v1::SelectResponse {})
    }
}
