//! What workers ask, on behalf of activities.

use crate::{
    Client, Error,
    client::{CALL_TIMEOUT, call},
    convert,
};
use secrecy::{ExposeSecret, SecretString};
use std::time::{Duration, SystemTime};
use v1::{audit_client::AuditClient, grants_client::GrantsClient, workers_client::WorkersClient};
use xylem_ids::{
    Audience, Fingerprint, KeyId, LeaseId, Namespace, Order, RunId, Slot, TaskQueue, ToolName,
    TreeId, WorkflowId, WorkflowType,
};
use xylem_proto::v1;

/// Who asks, taken from the activity task; the control plane confirms it with Temporal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActivityClaims {
    /// The Temporal namespace.
    pub namespace: Namespace,
    /// The asking workflow.
    pub workflow_id: WorkflowId,
    /// Its run.
    pub run_id: RunId,
    /// Its type.
    pub workflow_type: WorkflowType,
    /// The task queue the activity was polled from.
    pub task_queue: TaskQueue,
    /// The activity's id within the run.
    pub activity_id: String,
    /// The attempt, from 1.
    pub attempt: u32,
    /// Whether it is a local activity, which Temporal does not list as pending.
    pub local: bool,
}

impl From<ActivityClaims> for v1::ActivityClaims {
    fn from(claims: ActivityClaims) -> Self {
        Self {
            namespace: claims.namespace.into(),
            workflow_id: claims.workflow_id.into(),
            run_id: claims.run_id.into(),
            workflow_type: claims.workflow_type.into(),
            task_queue: claims.task_queue.into(),
            activity_id: claims.activity_id,
            attempt: claims.attempt,
            local: claims.local,
        }
    }
}

/// A grant to redeem for one call of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redeem {
    /// Who asks.
    pub claims: ActivityClaims,
    /// The newest grant the node has, in its wire form; empty where there is no slot.
    pub grant: String,
    /// The tool to be called.
    pub tool: ToolName,
    /// The slot whose token the call uses, if it is one of the tree's.
    pub slot: Option<Slot>,
    /// The workflow's own `apiUrl`, where it has one.
    pub api_url: Option<String>,
    /// The parameters of the call as a JSON object, for policies that decide by them.
    pub parameters_json: Option<String>,
    /// Chosen at random for each attempt, so that asking again within it is harmless; none where empty.
    pub request_id: String,
}

/// A token, for one call.
#[derive(Debug)]
pub struct Redeemed {
    /// The secret; empty where the tool takes none.
    pub token: SecretString,
    /// To be released when the call has ended.
    pub lease: LeaseId,
    /// When the lease ends by itself.
    pub lease_expires_at: SystemTime,
    /// The slot, if it is one of the tree's.
    pub slot: Option<Slot>,
    /// What was redeemed; nothing where the tool takes no token.
    pub order: Option<Order>,
    /// Its fingerprint.
    pub fingerprint: Option<Fingerprint>,
    /// The newest grant, where it is not the one presented.
    pub newer_grant: Option<String>,
    /// The tool, as the decision saw it.
    pub tool: v1::Tool,
    /// Where the token may be sent.
    pub audiences: Vec<Audience>,
    /// The tree.
    pub tree: TreeId,
}

/// How a call ended, as far as the token is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallEnd {
    /// How.
    pub outcome: v1::CallOutcome,
    /// The HTTP status, where one came.
    pub http_status: Option<u16>,
    /// How long the call took.
    pub duration: Duration,
    /// How many bytes of body were sent.
    pub bytes_out: u64,
    /// How many bytes of body came back.
    pub bytes_in: u64,
}

/// The public half of a key that signs grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// The id a grant names in its header.
    pub key_id: KeyId,
    /// The 32 bytes of the Ed25519 public key, base64url without padding.
    pub x: String,
    /// Counts the keys of a vault: only a newer key may retire an older one.
    pub generation: u32,
}

/// What a node needs in order to verify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuers {
    /// The tree the asking workflow belongs to.
    pub tree: TreeId,
    /// The keys whose grants the tree trusts.
    pub issuers: Vec<PublicKey>,
    /// Whether raw tokens are taken in from signals.
    pub intake: bool,
    /// Whether the search attribute `XylemTokens` is registered.
    pub search_attribute: bool,
    /// The current grants of the slots that were asked for, as far as the node may have them.
    pub grants: Vec<String>,
}

/// A change of what a child of the asking workflow may redeem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Select {
    /// Who asks: the parent.
    pub claims: ActivityClaims,
    /// The child.
    pub child: WorkflowId,
    /// Slots it may not redeem from now on.
    pub exclude: Vec<Slot>,
    /// Slots it may redeem again.
    pub include: Vec<Slot>,
    /// Whether the exclusion covers everything below the child too.
    pub subtree: bool,
}

/// A workflow type that a worker runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The type.
    pub workflow_type: WorkflowType,
    /// Slots it may redeem.
    pub slots: Vec<Slot>,
    /// Slots it only forwards.
    pub transit: Vec<Slot>,
}

/// Each call fails with the [`Error`] that the control plane's status maps to.
impl Client {
    /// Exchanges a grant for the token, for one tool call.
    ///
    /// # Errors
    /// [`Error::Denied`] with the reason where the node is not entitled or the policy does not
    /// allow the call; [`Error::Unavailable`] where nobody can decide now.
    pub async fn redeem(&self, redeem: Redeem) -> Result<Redeemed, Error> {
        let message = v1::RedeemRequest {
            claims: Some(redeem.claims.into()),
            grant: redeem.grant,
            tool: redeem.tool.into(),
            slot: redeem.slot.map(String::from).unwrap_or_default(),
            api_url: redeem.api_url,
            parameters_json: redeem.parameters_json,
            request_id: redeem.request_id,
        };
        let mut grants = GrantsClient::new(self.channel.clone());
        redeemed(call(message, CALL_TIMEOUT, |request| grants.redeem(request)).await?)
    }

    /// Ends a lease, and tells the newest version of the slot, where there is an active one.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no such lease of this worker.
    pub async fn release(&self, lease: LeaseId, end: CallEnd) -> Result<Option<Order>, Error> {
        let message = v1::ReleaseRequest {
            lease_id: lease.into(),
            outcome: end.outcome.into(),
            http_status: end.http_status.map(u32::from),
            duration: Some(convert::duration(end.duration)),
            bytes_out: end.bytes_out,
            bytes_in: end.bytes_in,
        };
        let mut grants = GrantsClient::new(self.channel.clone());
        let answer = call(message, CALL_TIMEOUT, |request| grants.release(request)).await?;
        Ok(answer.newest.map(convert::order))
    }

    /// Deposits a raw token that was signalled, and answers with the grant for it.
    ///
    /// # Errors
    /// [`Error::Denied`] where the tree does not take such tokens in.
    pub async fn take_in(
        &self,
        claims: ActivityClaims,
        slot: Slot,
        token: &SecretString,
    ) -> Result<String, Error> {
        let message = v1::TakeInRequest {
            claims: Some(claims.into()),
            slot: slot.into(),
            token: token.expose_secret().to_owned(),
        };
        let mut grants = GrantsClient::new(self.channel.clone());
        let answer = call(message, CALL_TIMEOUT, |request| grants.take_in(request)).await?;
        Ok(answer.grant)
    }

    /// Asks which tree the workflow belongs to, whose grants it trusts, and for the current grants
    /// of some slots.
    ///
    /// # Errors
    /// [`Error::Denied`] where the claims are not confirmed.
    pub async fn issuers(
        &self,
        claims: ActivityClaims,
        slots: Vec<Slot>,
    ) -> Result<Issuers, Error> {
        let message = v1::IssuersRequest {
            claims: Some(claims.into()),
            slots: convert::texts(slots),
        };
        let mut grants = GrantsClient::new(self.channel.clone());
        let answer = call(message, CALL_TIMEOUT, |request| grants.issuers(request)).await?;
        let key = |key: v1::IssuerPublicKey| {
            Ok(PublicKey {
                key_id: convert::id(key.key_id, "key id")?,
                x: key.x,
                generation: key.generation,
            })
        };
        Ok(Issuers {
            tree: convert::tree(answer.tree)?,
            issuers: answer
                .issuers
                .into_iter()
                .map(key)
                .collect::<Result<_, Error>>()?,
            intake: answer.intake,
            search_attribute: answer.search_attribute,
            grants: answer.grants,
        })
    }

    /// Records what a child may redeem; holds from the answer on.
    ///
    /// # Errors
    /// [`Error::Denied`] where the claims are not confirmed.
    pub async fn select(&self, select: Select) -> Result<(), Error> {
        let message = v1::SelectRequest {
            claims: Some(select.claims.into()),
            child_workflow_id: select.child.into(),
            exclude: convert::texts(select.exclude),
            include: convert::texts(select.include),
            subtree: select.subtree,
        };
        let mut grants = GrantsClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| grants.select(request)).await?;
        Ok(())
    }

    /// Tells what this worker runs on a task queue.
    ///
    /// # Errors
    /// [`Error::Denied`] where the queue is not one of the key's.
    pub async fn register_definitions(
        &self,
        task_queue: TaskQueue,
        definitions: Vec<Definition>,
    ) -> Result<(), Error> {
        let definition = |definition: Definition| v1::Definition {
            workflow_type: definition.workflow_type.into(),
            slots: convert::texts(definition.slots),
            transit: convert::texts(definition.transit),
        };
        let message = v1::RegisterDefinitionsRequest {
            task_queue: task_queue.into(),
            definitions: definitions.into_iter().map(definition).collect(),
        };
        let mut workers = WorkersClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| {
            workers.register_definitions(request)
        })
        .await?;
        Ok(())
    }

    /// Adds entries to the audit log: rejected signals, refused calls.
    ///
    /// # Errors
    /// [`Error::Denied`] where the claims are not confirmed.
    pub async fn append_audit(
        &self,
        claims: ActivityClaims,
        entries: Vec<v1::NewAuditEntry>,
    ) -> Result<(), Error> {
        let message = v1::AppendAuditRequest {
            claims: Some(claims.into()),
            entries,
        };
        let mut audit = AuditClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| audit.append_audit(request)).await?;
        Ok(())
    }
}

fn given<T: TryFrom<String>>(text: String, what: &'static str) -> Result<Option<T>, Error> {
    match text.is_empty() {
        true => Ok(None),
        false => convert::id(text, what).map(Some),
    }
}

fn redeemed(answer: v1::RedeemResponse) -> Result<Redeemed, Error> {
    // First of all, so that no error below drops the secret as an ordinary string.
    let token = SecretString::from(answer.token);
    Ok(Redeemed {
        token,
        lease: convert::id(answer.lease_id, "lease id")?,
        lease_expires_at: convert::time(answer.lease_expires_at)?,
        slot: given(answer.slot, "slot")?,
        order: answer.order.map(convert::order),
        fingerprint: given(answer.fingerprint, "fingerprint")?,
        newer_grant: answer.newer_grant,
        tool: answer.tool.ok_or(Error::Unintelligible("tool"))?,
        audiences: convert::ids(answer.audiences, "audience")?,
        tree: convert::tree(answer.tree)?,
    })
}
