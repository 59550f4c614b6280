//! What the activities need from outside. The binary plugs in the control plane; tests plug in
//! fakes.

use crate::tool::Tool;
use async_trait::async_trait;
use secrecy::SecretString;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use temporalio_sdk::activities::ActivityInfo;
use xylem_ids::{Audience, Fingerprint, LeaseId, Order, Slot, ToolName, TreeId};
use xylem_stateful::activity::{Issuers, Select, TakenIn};

/// Who asks, as the activity task says. Workflow code cannot write these; the control plane
/// confirms them with Temporal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskClaims {
    /// The Temporal namespace.
    pub namespace: String,
    /// The asking workflow.
    pub workflow_id: String,
    /// Its run.
    pub run_id: String,
    /// Its type.
    pub workflow_type: String,
    /// The task queue the activity was polled from.
    pub task_queue: String,
    /// The activity's id within the run.
    pub activity_id: String,
    /// The attempt, from 1.
    pub attempt: u32,
    /// Whether it is a local activity: Temporal does not list those as pending.
    pub local: bool,
}

impl TaskClaims {
    /// The claims of an activity task; none for an activity that no workflow started.
    #[must_use]
    pub fn of(info: &ActivityInfo) -> Option<Self> {
        Some(Self {
            namespace: info.namespace.clone(),
            workflow_id: filled(info.workflow_id.as_deref())?,
            run_id: filled(info.workflow_run_id.as_deref())?,
            workflow_type: filled(info.workflow_type.as_deref())?,
            task_queue: info.task_queue.clone(),
            activity_id: info.activity_id.clone(),
            attempt: info.attempt,
            local: info.is_local,
        })
    }
}

fn filled(text: Option<&str>) -> Option<String> {
    text.filter(|text| !text.is_empty()).map(str::to_owned)
}

/// Why a port did not do what it was asked. No variant may carry a secret: the text reaches
/// workflow history.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// No decision was made: unreachable, overloaded, this worker's key not accepted, an internal
    /// error. The activity is retried.
    #[error("{what}")]
    Unavailable {
        /// What could not be reached or did not work, and what to do.
        what: String,
    },
    /// Refused for now: the slot is empty, a revocation is under way. The activity is retried.
    #[error("{why}")]
    NotYet {
        /// A stable code, such as `slot_empty`.
        reason: String,
        /// Why, and what to do.
        why: String,
        /// When to ask again; the activity's retry policy decides without it.
        after: Option<Duration>,
    },
    /// Refused for good. The activity fails.
    #[error("{why}")]
    Refused {
        /// A stable code, such as `not_entitled`.
        reason: String,
        /// Why, and what to do.
        why: String,
    },
}

/// A grant to redeem, for one tool call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redeem {
    /// The newest grant the node has, in its wire form; empty where there is no slot.
    pub grant: String,
    /// The tool to be called.
    pub tool: ToolName,
    /// The slot whose token the call uses, if it is one of the tree's.
    pub slot: Option<Slot>,
    /// The workflow's own `apiUrl`, if it has one.
    pub api_url: Option<String>,
    /// The parameters of the call: policies can decide by them.
    pub parameters: serde_json::Value,
    /// Another one for each attempt. Asked again under the same, the vault answers with the lease that
    /// the attempt has.
    pub request: String,
}

/// A token for one call. Nothing of it is kept when the call has ended.
#[derive(Debug)]
pub struct Redeemed {
    /// The secret; empty where the tool takes none.
    pub token: SecretString,
    /// The lease; to be released when the call has ended.
    pub lease: LeaseId,
    /// How long the lease lasts from now on.
    pub lease_for: Duration,
    /// What was redeemed; nothing where the tool takes no token.
    pub order: Option<Order>,
    /// Its fingerprint.
    pub fingerprint: Option<Fingerprint>,
    /// The newest grant, where it is not the one presented.
    pub newer_grant: Option<String>,
    /// The hash of the tool's definition as the decision saw it.
    pub tool_hash: String,
    /// Where the token may be sent.
    pub audiences: Vec<Audience>,
    /// The tree.
    pub tree: TreeId,
}

/// How a call ended, as far as the token is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The API answered with success.
    Succeeded,
    /// The API answered 401.
    Refused401,
    /// The API answered another error.
    ApiError,
    /// No usable answer came: connection, timeout, redirect, too large, unreadable.
    NoAnswer,
    /// The request was never sent.
    NotSent,
    /// The activity was cancelled, or ended without saying how.
    Cancelled,
}

/// The end of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The lease.
    pub lease: LeaseId,
    /// How the call ended.
    pub outcome: Outcome,
    /// The HTTP status, if one came.
    pub http_status: Option<u16>,
    /// How long the call took.
    pub duration: Duration,
    /// How much was sent and came back.
    pub bytes: Bytes,
}

/// Sizes of bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bytes {
    /// Of the request, if it was sent or may have been.
    pub sent: u64,
    /// Of the answer, as it came.
    pub received: u64,
}

/// What is known once a lease is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Released {
    /// The newest active version of what was redeemed: another one than was redeemed means that a
    /// repetition of the call is worth it.
    pub newest: Option<Order>,
}

/// The vault, as far as a worker sees it.
#[async_trait]
pub trait TokenSource: Send + Sync {
    /// Exchanges a grant for the token, for one tool call.
    async fn redeem(&self, claims: &TaskClaims, redeem: Redeem) -> Result<Redeemed, PortError>;

    /// Ends a lease and records how the call went.
    async fn release(&self, release: Release) -> Result<Released, PortError>;

    /// Deposits a raw token that was signalled.
    async fn take_in(
        &self,
        claims: &TaskClaims,
        slot: Slot,
        token: SecretString,
    ) -> Result<TakenIn, PortError>;

    /// Tells which tree the asking workflow belongs to, whose grants it trusts, and the current
    /// grants of some slots.
    async fn issuers(&self, claims: &TaskClaims, slots: Vec<Slot>) -> Result<Issuers, PortError>;

    /// Records what a child of the asking workflow may redeem; holds from the answer on.
    async fn select(&self, claims: &TaskClaims, select: Select) -> Result<(), PortError>;
}

/// The registered tools.
#[async_trait]
pub trait ToolDirectory: Send + Sync {
    /// The definition of a tool. The caller keeps it for a few seconds and drops it as soon as a
    /// redemption names another hash.
    async fn tool(&self, claims: &TaskClaims, name: &ToolName) -> Result<Tool, PortError>;
}

/// Where a worker reports what happened beside the vault.
#[async_trait]
pub trait AuditSink: Send + Sync {
    /// Records rejected signals, counted by reason.
    async fn rejected(
        &self,
        claims: &TaskClaims,
        by_reason: BTreeMap<String, u64>,
    ) -> Result<(), PortError>;

    /// Records a tool call that was refused on the worker, before the vault was asked.
    async fn tool_refused(
        &self,
        claims: &TaskClaims,
        tool: &ToolName,
        slot: Option<&Slot>,
        reason: &'static str,
    ) -> Result<(), PortError>;
}

/// All ports. One object may stand behind several of them.
#[derive(Clone)]
pub struct Ports {
    /// The vault.
    pub tokens: Arc<dyn TokenSource>,
    /// The registered tools.
    pub tools: Arc<dyn ToolDirectory>,
    /// The audit log.
    pub audit: Arc<dyn AuditSink>,
}

impl Ports {
    /// One object for all ports.
    #[must_use]
    pub fn all<P: TokenSource + ToolDirectory + AuditSink + 'static>(port: Arc<P>) -> Self {
        Self {
            tokens: port.clone(),
            tools: port.clone(),
            audit: port,
        }
    }
}
