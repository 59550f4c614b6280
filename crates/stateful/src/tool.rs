//! Calling a registered tool from a workflow.

use crate::{
    activity::{NodeActivities, ToolAnswer, ToolCall},
    cancellable::execute,
    state::{Intake, NodeState},
};
use futures::{FutureExt, pin_mut, select_biased};
use serde_json::Value;
use std::time::Duration;
use temporalio_common::error::{ActivityExecutionError, ApplicationFailure};
use temporalio_workflow::{
    ActivityCloseTimeouts, ActivityOptions, RetryPolicy, TimerOptions, WorkflowCancellationToken,
    WorkflowContext, WorkflowTermination,
};
use xylem_ids::{IdError, Slot, ToolName};
use xylem_node::Source;

/// How long a node waits for the push of a grant it is missing, before it asks for it: while a tree
/// is being started every node would ask otherwise. A run that begins again asks at once, where
/// that can be told from its start; after a reset it cannot.
const PUSH_PATIENCE: Duration = Duration::from_secs(10);

/// A call that has shown no sign of life for so long is tried again: its worker is gone.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(20);

/// Why a tool call has no answer. None of the variants carries a token.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The tool's or the slot's name breaks a rule.
    #[error("the tool cannot be called")]
    Name(#[from] IdError),
    /// The workflow's type does not take the slot.
    #[error("this workflow type does not declare the slot {0}: add it to #[stateful(slots(...))]")]
    UndeclaredSlot(Slot),
    /// The call was refused or failed for good; the cause names tree, slot, version and what to do.
    #[error("the tool call failed")]
    Failed(#[source] Box<ActivityExecutionError>),
    /// The workflow was cancelled while it waited for a token.
    #[error("the workflow was cancelled while it waited for a token")]
    Cancelled,
}

impl From<ToolError> for WorkflowTermination {
    fn from(error: ToolError) -> Self {
        match error {
            ToolError::Failed(error) => (*error).into(),
            ToolError::Cancelled => Self::cancelled(),
            other => Self::failed_application(ApplicationFailure::non_retryable(other)),
        }
    }
}

/// One call of a tool, to be completed with [`Tool::call`].
#[must_use = "nothing is called before `call`"]
pub struct Tool<'a, W> {
    ctx: &'a WorkflowContext<W>,
    state: NodeState,
    name: String,
    slot: Option<String>,
    parameters: Value,
    timeout: Duration,
    give_up_after: Duration,
}

impl<'a, W> Tool<'a, W> {
    pub(crate) fn new(ctx: &'a WorkflowContext<W>, state: NodeState, name: String) -> Self {
        Self {
            ctx,
            state,
            name,
            slot: Some("default".to_owned()),
            parameters: Value::Object(serde_json::Map::new()),
            timeout: Duration::from_secs(60),
            give_up_after: Duration::from_secs(3600),
        }
    }

    /// The slot whose token is used; `default` where this is not called.
    pub fn slot(mut self, slot: impl Into<String>) -> Self {
        self.slot = Some(slot.into());
        self
    }

    /// Takes no token of the tree: for tools that are registered with a stored credential, or that
    /// need none.
    pub fn without_slot(mut self) -> Self {
        self.slot = None;
        self
    }

    /// The parameters, an object that the tool's JSON Schema describes.
    pub fn parameters(mut self, parameters: Value) -> Self {
        self.parameters = parameters;
        self
    }

    /// How long one attempt may take; 60 s where this is not called.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long to go on retrying what may be retried; one hour where this is not called.
    pub fn give_up_after(mut self, duration: Duration) -> Self {
        self.give_up_after = duration;
        self
    }

    /// Calls the tool. Waits first, for as long as it takes, until the node has a grant for the
    /// slot: asks the control plane for it once and otherwise waits for a signal. `apiToken` shows
    /// the slot as `missing` meanwhile; [`Tool::give_up_after`] counts from there on.
    ///
    /// # Errors
    /// See [`ToolError`]. What may be retried has been retried by then.
    pub async fn call(self) -> Result<ToolAnswer, ToolError> {
        let tool: ToolName = self.name.parse()?;
        let slot: Option<Slot> = self.slot.as_deref().map(str::parse).transpose()?;
        let grant = match &slot {
            Some(slot) => self.grant(slot).await?,
            None => String::new(),
        };
        let call = ToolCall {
            tool,
            slot,
            parameters: self.parameters,
            api_url: self.state.with(|inner| inner.api_url.clone()),
            grant,
        };
        let retries = RetryPolicy::builder()
            .initial_interval(Duration::from_millis(500))
            .maximum_interval(Duration::from_secs(30))
            .build();
        let timeouts = ActivityCloseTimeouts::ScheduleAndStartToClose {
            schedule_to_close: self.give_up_after,
            start_to_close: self.timeout,
        };
        let options = ActivityOptions::with_close_timeouts(timeouts)
            .retry_policy(retries)
            .heartbeat_timeout(HEARTBEAT_TIMEOUT)
            .build();
        let answer = execute(self.ctx, NodeActivities::call_tool, call, options)
            .await
            .map_err(|error| ToolError::Failed(Box::new(error)))?;
        if let Some(newer) = &answer.newer_grant {
            self.state
                .update(self.ctx, |inner| inner.receive(newer, Source::Redemption));
        }
        Ok(answer)
    }

    async fn grant(&self, slot: &Slot) -> Result<String, ToolError> {
        let held = || {
            self.state
                .with(|inner| inner.node.held(slot).map(|grant| grant.as_str().to_owned()))
        };
        if let Some(grant) = held() {
            return Ok(grant);
        }
        let (is_taken, is_on_its_way) = self.state.with(|inner| {
            // A root that was started without a header makes itself known to the control plane.
            let may_come = !inner.is_again && inner.intake != Intake::Unknown;
            (inner.node.takes().contains(slot), may_come)
        });
        if !is_taken {
            return Err(ToolError::UndeclaredSlot(slot.clone()));
        }
        let has_come = || held().is_some();
        if !(is_on_its_way && self.comes_within(PUSH_PATIENCE, has_come).await?) {
            self.state
                .update(self.ctx, |inner| inner.wanted.insert(slot.clone()));
            let come = self.ctx.wait_condition(|_| has_come()).await;
            come.map_err(|_| ToolError::Cancelled)?;
        }
        held().ok_or(ToolError::Cancelled)
    }

    /// Waits for something, for so long at most.
    async fn comes_within(
        &self,
        time: Duration,
        has_come: impl Fn() -> bool,
    ) -> Result<bool, ToolError> {
        let token = WorkflowCancellationToken::new();
        let timer = TimerOptions::builder(time).cancellation_token(token.clone());
        let timer = self.ctx.timer(timer.build()).fuse();
        let come = self.ctx.wait_condition(|_| has_come()).fuse();
        pin_mut!(timer, come);
        select_biased! {
            _ = timer => Ok(has_come()),
            come = come => {
                token.cancel();
                come.map(|()| true).map_err(|_| ToolError::Cancelled)
            }
        }
    }
}
