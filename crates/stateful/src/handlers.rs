//! What the handlers that `#[stateful]` adds to a workflow do.
//!
//! Outsiders reach them with any payload. They never fail and never quote what they were sent: a
//! signal whose payload does not convert would fail the workflow task for ever, and the error
//! would put the payload into log and history (our measurement, SDK 1.1.1).

use crate::{interceptor::NodeKey, state::NodeState};
use serde_json::{Value, json};
use std::rc::Rc;
use temporalio_common::data_converters::RawValue;
use temporalio_workflow::{SyncWorkflowContext, WorkflowContextView};

/// Longer API endpoints are ignored.
const MAX_API_URL_BYTES: usize = 2048;

fn inside<W>(ctx: &SyncWorkflowContext<W>) -> Option<Rc<NodeState>> {
    ctx.context_value::<NodeKey>()
}

/// The signal `apiToken`.
pub fn api_token<W>(ctx: &SyncWorkflowContext<W>, payloads: RawValue) {
    if let Some(state) = inside(ctx) {
        state.with(|inner| {
            inner.notice_time(ctx.workflow_time());
            inner.receive_signal(&payloads.payloads);
        });
    }
}

/// The query `apiToken`.
#[must_use]
pub fn api_token_status(ctx: &WorkflowContextView) -> Value {
    answer(ctx, |state| {
        state.with(|inner| serde_json::to_value(inner.node.status(inner.protocol, inner.now)))
    })
}

/// The signal `apiUrl`: an http(s) URL without user and fragment, or the empty string to go back
/// to what the tool is registered with. Anything else changes nothing.
pub fn set_api_url<W>(ctx: &SyncWorkflowContext<W>, payloads: RawValue) {
    let Some(text) = crate::payload::one_string(&payloads.payloads) else {
        return;
    };
    let is_usable = text.len() <= MAX_API_URL_BYTES && text.parse::<xylem_ids::Audience>().is_ok();
    if let Some(state) = inside(ctx)
        && (text.is_empty() || is_usable)
    {
        state.with(|inner| inner.api_url = (!text.is_empty()).then_some(text));
    }
}

/// The query `apiUrl`.
#[must_use]
pub fn api_url(ctx: &WorkflowContextView) -> Value {
    answer(ctx, |state| {
        Ok(state.with(|inner| inner.api_url.clone().map_or(Value::Null, Value::String)))
    })
}

/// The query `children`.
#[must_use]
pub fn child_list(ctx: &WorkflowContextView) -> Value {
    answer(ctx, |state| {
        state.with(|inner| serde_json::to_value(inner.node.child_list()))
    })
}

fn answer(
    ctx: &WorkflowContextView,
    f: impl FnOnce(&NodeState) -> Result<Value, serde_json::Error>,
) -> Value {
    let unavailable = |why: &str| json!({ "error": why });
    match ctx.context_value::<NodeKey>() {
        None => unavailable(
            "this worker did not register the workflow type with xylem_stateful::Workflows",
        ),
        Some(state) => f(&state).unwrap_or_else(|_| unavailable("the status is not JSON")),
    }
}
