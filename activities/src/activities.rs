//! The activities as Temporal sees them: claims and deadlines in, failures out.

use crate::{
    call::{Attempt, ToolCaller},
    children::{self, LOOK_EVERY, Watch},
    executions::Server,
    failure::Failure,
    forward,
    ports::{Ports, TaskClaims},
    refusals::Refusals,
};
use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime},
};
use temporalio_macros::activities;
use temporalio_sdk::activities::{ActivityContext, ActivityError};
use tokio::time::Instant;
use xylem_outbound::{AddressPolicy, Outbound, OutboundError};
use xylem_stateful::activity::{
    AskIssuers, ChildEnd, FORWARD_BUDGET, FindChild, Forward, Forwarded, FoundChild, Issuers,
    ReportRejected, Select, TakeIn, TakenIn, ToolAnswer, ToolCall, WatchChildren, definitions,
};

/// How long a forward may take where the activity has no deadline of its own.
const REGULAR_FORWARD_BUDGET: Duration = Duration::from_secs(60);

/// How long before its own deadline a regular forward ends, so that its answer still counts.
const FORWARD_MARGIN: Duration = Duration::from_secs(5);

/// How often an activity shows that it is alive.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(5);

/// What a worker decides by itself.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Which addresses tools may be at.
    pub addresses: AddressPolicy,
}

/// The activities a node relies on. Register them with every worker that runs StatefulWorkflows.
pub struct Activities {
    caller: ToolCaller,
}

impl Activities {
    /// Activities over the given ports.
    ///
    /// # Errors
    /// The TLS root certificates could not be loaded.
    pub fn new(ports: Ports, settings: Settings) -> Result<Self, OutboundError> {
        let outbound = Outbound::new(settings.addresses)?;
        Ok(Self {
            caller: ToolCaller::new(ports, outbound),
        })
    }

    fn ports(&self) -> &Ports {
        self.caller.ports()
    }
}

fn claims(ctx: &ActivityContext) -> Result<TaskClaims, ActivityError> {
    TaskClaims::of(ctx.info()).ok_or_else(|| Failure::NotInWorkflow.into_activity())
}

fn server(ctx: &ActivityContext) -> Server {
    Server(ctx.client())
}

fn failed(failure: impl Into<Failure>) -> ActivityError {
    failure.into().into_activity()
}

#[activities]
impl Activities {
    /// Signals grants to children.
    #[activity(definition = definitions::Forward)]
    pub async fn forward(ctx: ActivityContext, due: Forward) -> Result<Forwarded, ActivityError> {
        claims(&ctx)?;
        let server = server(&ctx);
        let deadline = forward_deadline(&ctx);
        let forwarding = forward::forward(&server, due, deadline);
        alive(&ctx, forwarding).await
    }

    /// Redeems a grant and calls a tool with the token.
    #[activity(definition = definitions::CallTool)]
    pub async fn call_tool(
        self: Arc<Self>,
        ctx: ActivityContext,
        call: ToolCall,
    ) -> Result<ToolAnswer, ActivityError> {
        let claims = claims(&ctx)?;
        let attempt = Attempt {
            // Details that cannot be read are somebody else's: counting starts anew.
            refusals: ctx.heartbeat_details().deserialize().ok().flatten(),
            deadline: ctx.info().deadline,
        };
        let called = self.caller.call(&claims, call, attempt, ctx.cancelled());
        let called = tokio::select! {
            biased;
            called = called => called,
            never = beat(&ctx, attempt.refusals) => match never {},
        };
        let failure = match called {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        if let Failure::Unauthorized { refusals, .. } = &failure {
            remember(&ctx, *refusals).await;
        }
        Err(failure.into_activity())
    }

    /// Deposits a raw token that was signalled.
    #[activity(definition = definitions::TakeIn)]
    pub async fn take_in(
        self: Arc<Self>,
        ctx: ActivityContext,
        raw: TakeIn,
    ) -> Result<TakenIn, ActivityError> {
        let claims = claims(&ctx)?;
        let slot = raw.slot.clone();
        let token = raw.into_token().into();
        let taken = self.ports().tokens.take_in(&claims, slot, token).await;
        taken.map_err(failed)
    }

    /// Asks whose grants the tree trusts, and for grants that are missing.
    #[activity(definition = definitions::Issuers)]
    pub async fn issuers(
        self: Arc<Self>,
        ctx: ActivityContext,
        asked: AskIssuers,
    ) -> Result<Issuers, ActivityError> {
        let claims = claims(&ctx)?;
        let answer = self.ports().tokens.issuers(&claims, asked.slots).await;
        answer.map_err(failed)
    }

    /// Records what a child may redeem.
    #[activity(definition = definitions::Select)]
    pub async fn select(
        self: Arc<Self>,
        ctx: ActivityContext,
        select: Select,
    ) -> Result<(), ActivityError> {
        let claims = claims(&ctx)?;
        let selected = self.ports().tokens.select(&claims, select).await;
        selected.map_err(failed)
    }

    /// Looks at a workflow whose id was already taken.
    #[activity(definition = definitions::FindChild)]
    pub async fn find_child(
        ctx: ActivityContext,
        ask: FindChild,
    ) -> Result<FoundChild, ActivityError> {
        let claims = claims(&ctx)?;
        let found = children::find(&server(&ctx), &claims, &ask).await;
        found.map_err(failed)
    }

    /// Waits until at least one of the children has ended.
    #[activity(definition = definitions::WatchChildren)]
    pub async fn watch_children(
        ctx: ActivityContext,
        watched: WatchChildren,
    ) -> Result<Vec<ChildEnd>, ActivityError> {
        let claims = claims(&ctx)?;
        let server = server(&ctx);
        let mut watch = Watch::new(&server, &claims.workflow_id, watched.children);
        if watch.is_empty() {
            return Ok(Vec::new());
        }
        loop {
            let ends = alive(&ctx, watch.look()).await?;
            if !ends.is_empty() {
                return Ok(ends);
            }
            alive(&ctx, tokio::time::sleep(LOOK_EVERY)).await?;
        }
    }

    /// Writes rejected signals to the audit log.
    #[activity(definition = definitions::ReportRejected)]
    pub async fn report_rejected(
        self: Arc<Self>,
        ctx: ActivityContext,
        report: ReportRejected,
    ) -> Result<(), ActivityError> {
        let claims = claims(&ctx)?;
        let reported = self.ports().audit.rejected(&claims, report.rejected).await;
        reported.map_err(failed)
    }
}

/// A local forward holds its node's workflow task and keeps to the budget of that; a regular one
/// has the activity's own deadline.
fn forward_deadline(ctx: &ActivityContext) -> Instant {
    let info = ctx.info();
    let budget = if info.is_local {
        FORWARD_BUDGET
    } else {
        info.deadline.map_or(REGULAR_FORWARD_BUDGET, |deadline| {
            let left = deadline.duration_since(SystemTime::now());
            left.unwrap_or_default().saturating_sub(FORWARD_MARGIN)
        })
    };
    Instant::now() + budget
}

/// Does the work while showing that the activity is alive, and stops when it is cancelled.
async fn alive<T>(
    ctx: &ActivityContext,
    work: impl Future<Output = T>,
) -> Result<T, ActivityError> {
    tokio::pin!(work);
    let mut beat = tokio::time::interval(HEARTBEAT_EVERY);
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            () = ctx.cancelled() => return Err(Failure::Cancelled.into_activity()),
            _ = beat.tick() => {
                // Without details nothing is converted, so nothing can fail.
                drop(ctx.record_heartbeat(()).await);
            }
        }
    }
}

/// Heartbeats while a call goes on, with the refusals that earlier attempts met: the details of the
/// last heartbeat are what the next attempt sees. Without heartbeats a call would not learn that it
/// was cancelled, nor the server that the worker is gone. A call that ends soon sends none.
async fn beat(ctx: &ActivityContext, refusals: Option<Refusals>) -> Infallible {
    loop {
        tokio::time::sleep(HEARTBEAT_EVERY).await;
        if ctx.record_heartbeat(refusals).await.is_err() {
            tracing::warn!("a tool call could not show that it is alive");
        }
    }
}

/// Leaves the count for the next attempt. A failure report carries the last heartbeat's details.
async fn remember(ctx: &ActivityContext, refusals: Refusals) {
    if ctx.record_heartbeat(refusals).await.is_err() {
        tracing::warn!("refusals could not be counted: the next attempt starts counting anew");
    }
}
