//! What goes on in a node beside its author's code: adopting, forwarding, asking, watching.
//!
//! All of it runs in the workflow's main routine, next to `run`, as a few loops that each wait for
//! a condition of the node's state. They are polled at every activation and again after every
//! change, so the waits need no wakers. Every activity is started under a cancellation token of
//! its own: cancelling the workflow must not cut a cascade short.

use crate::{
    activity::{
        AskIssuers, Delivery, FORWARD_BUDGET, Forward, NodeActivities, ReportRejected,
        WatchChildren,
    },
    state::{Inner, Intake, NodeState, Task},
};
use futures::{FutureExt, pin_mut, select_biased};
use std::{future::poll_fn, task::Poll, time::Duration};
use temporalio_workflow::{
    ActivityOptions, LocalActivityOptions, RetryPolicy, TimerOptions, WorkflowCancellationToken,
    WorkflowContext, WorkflowResult, WorkflowTermination,
};
use xylem_ids::NodeId;
use xylem_node::{Outcome, Plan, Source, Stage};

/// How long a node waits before it asks a control plane again that did not answer.
const BACK_OFF: Duration = Duration::from_secs(10);

/// How long apart rejected signals are reported; in between they are counted.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Appended to the task queue for the activity that watches children: it runs as long as they do
/// and must not hold the slots of others.
pub const WATCH_QUEUE_SUFFIX: &str = "-watch";

/// Runs the author's workflow and its node, until both have nothing left to do.
///
/// # Errors
/// Whatever the author's `run` ends with. A continue-as-new carries the node's headers.
pub async fn drive<W: 'static, T>(
    ctx: WorkflowContext<W>,
    author: impl Future<Output = WorkflowResult<T>>,
) -> WorkflowResult<T> {
    let Some(state) = NodeState::of(&ctx) else {
        ctx.force_task_fail(
            "this workflow type is a StatefulWorkflow: register it with xylem_stateful::Workflows",
        );
        return std::future::pending().await;
    };
    let author = author.fuse();
    let housekeeping = housekeep(&ctx, &state).fuse();
    pin_mut!(author, housekeeping);
    let ended = select_biased! {
        ended = author => ended,
        () = housekeeping => unreachable!("housekeeping ends after the author's run only"),
    };
    state.update(&ctx, |inner| inner.is_closing = true);
    housekeeping.await;
    match ended {
        Err(WorkflowTermination::ContinueAsNew(mut next)) => {
            // Built after the wait: the registry is complete now.
            let headers = state.headers().map_err(|error| {
                temporalio_common::error::ApplicationFailure::non_retryable(error)
            })?;
            next.headers.extend(headers);
            Err(WorkflowTermination::ContinueAsNew(next))
        }
        other => other,
    }
}

async fn housekeep<W: 'static>(ctx: &WorkflowContext<W>, state: &NodeState) {
    futures::join!(
        tasks(ctx, state),
        decisions(ctx, state),
        stragglers(ctx, state),
        back_off(ctx, state),
        watch(ctx, state),
    );
}

/// Whether the run may end now.
fn is_finished<W>(ctx: &WorkflowContext<W>, inner: &Inner) -> bool {
    inner.is_closing
        && inner.node.is_settled()
        && inner.raw.is_empty()
        && !inner.ask_issuers
        && inner.tasks.is_empty()
        && ctx.all_handlers_finished()
}

async fn until(state: &NodeState, mut condition: impl FnMut(&mut Inner) -> bool) {
    poll_fn(|_| {
        if state.with(&mut condition) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// Polls the work that was handed over. What still runs when the run may end are waits for the
/// results of children that outlive it.
///
/// A plain list, polled whole: the combinators that poll only what was woken wake the workflow by
/// themselves, which the SDK takes for nondeterminism.
async fn tasks<W>(ctx: &WorkflowContext<W>, state: &NodeState) {
    let mut running: Vec<Task> = Vec::new();
    poll_fn(|cx| {
        loop {
            let new = state.with(|inner| std::mem::take(&mut inner.tasks));
            let has_new = !new.is_empty();
            running.extend(new);
            running.retain_mut(|task| task.as_mut().poll(cx).is_pending());
            if !has_new {
                break;
            }
        }
        if state.with(|inner| is_finished(ctx, inner)) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// What the node has to do next, apart from stragglers.
enum Job {
    AskIssuers,
    TakeIn,
    Forward(Plan),
    Report,
    End,
}

fn next_job<W>(ctx: &WorkflowContext<W>, inner: &mut Inner) -> Option<Job> {
    inner.notice_time(ctx.workflow_time());
    if inner.ask_issuers && !inner.backing_off {
        return Some(Job::AskIssuers);
    }
    if inner.intake == Intake::On && !inner.raw.is_empty() && !inner.backing_off {
        return Some(Job::TakeIn);
    }
    if let Some(plan) = inner.node.next_forward(Stage::Local) {
        return Some(Job::Forward(plan));
    }
    let long_ago = |at| inner.now >= xylem_grant::UnixSeconds::plus(at, REPORT_INTERVAL);
    if (inner.is_closing || inner.reported_at.is_none_or(long_ago))
        && !inner.unreported().is_empty()
    {
        return Some(Job::Report);
    }
    is_finished(ctx, inner).then_some(Job::End)
}

async fn decisions<W>(ctx: &WorkflowContext<W>, state: &NodeState) {
    loop {
        upsert(ctx, state);
        let mut job = None;
        until(state, |inner| {
            job = next_job(ctx, inner);
            // A change of what is held must reach the search attribute in this same task.
            job.is_some() || (inner.search_attribute && is_unpublished(inner))
        })
        .await;
        match job {
            None => {}
            Some(Job::End) => return upsert(ctx, state),
            Some(Job::AskIssuers) => ask_issuers(ctx, state).await,
            Some(Job::TakeIn) => take_in(ctx, state).await,
            Some(Job::Report) => report(ctx, state).await,
            Some(Job::Forward(plan)) => {
                upsert(ctx, state);
                forward_locally(ctx, state, plan).await;
            }
        }
    }
}

fn is_unpublished(inner: &Inner) -> bool {
    inner.node.search_attribute() != inner.upserted
}

fn upsert<W>(ctx: &WorkflowContext<W>, state: &NodeState) {
    let changed = state.with(|inner| {
        if !inner.search_attribute || !is_unpublished(inner) {
            return None;
        }
        inner.upserted = inner.node.search_attribute();
        Some(inner.upserted.clone())
    });
    if let Some(values) = changed
        && let Ok(update) = crate::SEARCH_ATTRIBUTE.try_value_set(values)
    {
        ctx.upsert_search_attributes([update]);
    }
}

/// Local activities that a node relies on: within the workflow task, and never retried inside.
fn local(budget: Duration) -> LocalActivityOptions {
    LocalActivityOptions::builder()
        .start_to_close_timeout(budget)
        .schedule_to_close_timeout(budget)
        .retry_policy(RetryPolicy::builder().maximum_attempts(1).build())
        .cancellation_token(WorkflowCancellationToken::new())
        .build()
}

async fn ask_issuers<W>(ctx: &WorkflowContext<W>, state: &NodeState) {
    let question = ctx.execute_local_activity(
        NodeActivities::issuers,
        AskIssuers {},
        local(Duration::from_secs(5)),
    );
    let answer = question.await;
    state.update(ctx, |inner| match answer {
        Ok(answer) => {
            inner.ask_issuers = false;
            inner.search_attribute |= answer.search_attribute;
            if inner.intake == Intake::Unknown {
                inner.set_intake(answer.intake);
            }
            let now = inner.now;
            inner.node.trust(Some(answer.tree), answer.issuers, now);
        }
        // Nobody answers and the run ends: what cannot be verified is refused.
        Err(_) if inner.is_closing => {
            inner.ask_issuers = false;
            inner.set_intake(false);
            let now = inner.now;
            inner.node.trust(None, [], now);
        }
        Err(_) => inner.backing_off = true,
    });
}

async fn take_in<W>(ctx: &WorkflowContext<W>, state: &NodeState) {
    let Some(raw) = state.with(|inner| inner.raw.front().cloned()) else {
        return;
    };
    let deposit =
        ctx.execute_local_activity(NodeActivities::take_in, raw, local(Duration::from_secs(5)));
    let taken = deposit.await;
    state.update(ctx, |inner| match taken {
        Ok(taken) => {
            inner.raw.pop_front();
            inner.receive(&taken.grant, Source::Intake);
        }
        Err(_) if inner.is_closing => inner.set_intake(false),
        Err(_) => inner.backing_off = true,
    });
}

async fn report<W>(ctx: &WorkflowContext<W>, state: &NodeState) {
    let rejected = state.with(|inner| {
        let rejected = inner.unreported();
        inner.reported = inner.node.rejected().clone();
        inner.reported_at = Some(inner.now);
        rejected
    });
    let report = ctx.execute_local_activity(
        NodeActivities::report_rejected,
        ReportRejected { rejected },
        local(Duration::from_secs(3)),
    );
    // The counts stay in the status whether or not the audit log could be reached.
    drop(report.await);
}

async fn forward_locally<W>(ctx: &WorkflowContext<W>, state: &NodeState, plan: Plan) {
    let Some(request) = state.with(|inner| request(inner, &plan)) else {
        return;
    };
    let grace = FORWARD_BUDGET + Duration::from_secs(1);
    let forward = ctx.execute_local_activity(NodeActivities::forward, request, local(grace));
    let outcome = forward.await;
    state.update(ctx, |inner| {
        inner
            .node
            .forwarded(plan.clone(), &outcome_of(outcome, &plan));
    });
}

/// Forwards to the children that the local activity did not reach.
async fn stragglers<W>(ctx: &WorkflowContext<W>, state: &NodeState) {
    loop {
        let mut next = None;
        until(state, |inner| {
            next = inner.node.next_forward(Stage::Regular);
            next.is_some() || is_finished(ctx, inner)
        })
        .await;
        let Some(plan) = next else { return };
        let Some(request) = state.with(|inner| request(inner, &plan)) else {
            continue;
        };
        let options = ActivityOptions::with_schedule_to_close_timeout(Duration::from_secs(60))
            .heartbeat_timeout(Duration::from_secs(15))
            .cancellation_token(WorkflowCancellationToken::new())
            .build();
        let forward = ctx.execute_activity(NodeActivities::forward, request, options);
        let outcome = forward.await;
        state.update(ctx, |inner| {
            inner
                .node
                .forwarded(plan.clone(), &outcome_of(outcome, &plan));
        });
    }
}

fn outcome_of<E>(result: Result<crate::activity::Forwarded, E>, plan: &Plan) -> Outcome {
    match result {
        Ok(forwarded) => Outcome {
            undelivered: forwarded.undelivered.into_iter().collect(),
            gone: forwarded.gone.into_iter().collect(),
        },
        Err(_) => Outcome::failed(plan),
    }
}

/// The plan as the activity's argument; `None` cannot happen, since only a tree has grants.
fn request(inner: &Inner, plan: &Plan) -> Option<Forward> {
    let mut grants: Vec<String> = Vec::new();
    let mut children = Vec::with_capacity(plan.due.len());
    for due in &plan.due {
        let mut indices = Vec::with_capacity(due.grants.len());
        for grant in &due.grants {
            let known = grants.iter().position(|text| text == grant.as_str());
            indices.push(known.unwrap_or_else(|| {
                grants.push(grant.as_str().to_owned());
                grants.len() - 1
            }));
        }
        children.push(Delivery {
            child: due.child.clone(),
            grants: indices,
        });
    }
    Some(Forward {
        tree: inner.node.tree()?.clone(),
        grants,
        children,
    })
}

async fn back_off<W>(ctx: &WorkflowContext<W>, state: &NodeState) {
    loop {
        until(state, |inner| inner.backing_off || is_finished(ctx, inner)).await;
        if state.with(|inner| !inner.backing_off) {
            return;
        }
        let timer = TimerOptions::builder(BACK_OFF)
            .cancellation_token(WorkflowCancellationToken::new())
            .build();
        let fired = ctx.timer(timer).fuse();
        let closing = until(state, |inner| inner.is_closing).fuse();
        pin_mut!(fired, closing);
        select_biased! { _ = fired => {}, () = closing => {} };
        state.update(ctx, |inner| inner.backing_off = false);
    }
}

/// Learns of the ends of children that an earlier run started: Temporal delivers those to the run
/// that started them, which is no more (our measurement, server 1.32).
async fn watch<W>(ctx: &WorkflowContext<W>, state: &NodeState) {
    loop {
        until(state, |inner| {
            inner.is_closing || !inner.node.inherited().is_empty()
        })
        .await;
        let children = state.with(|inner| inner.node.inherited());
        if state.with(|inner| inner.is_closing) {
            return;
        }
        let token = WorkflowCancellationToken::new();
        let options = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(86_400))
            .heartbeat_timeout(Duration::from_secs(30))
            .task_queue(format!("{}{WATCH_QUEUE_SUFFIX}", ctx.task_queue()))
            .cancellation_token(token.clone())
            .build();
        let request = WatchChildren {
            children: children.clone(),
        };
        let watching = ctx
            .execute_activity(NodeActivities::watch_children, request, options)
            .fuse();
        let changed = until(state, |inner| {
            inner.is_closing || has_more(&inner.node.inherited(), &children)
        })
        .fuse();
        pin_mut!(watching, changed);
        select_biased! {
            ended = watching => state.update(ctx, |inner| {
                for end in ended.into_iter().flatten() {
                    let NodeId { workflow_id, first_run_id } = end.child;
                    inner.node.child_ended(&workflow_id, Some(&first_run_id));
                    inner.ends.insert(workflow_id, (first_run_id, end.outcome));
                }
            }),
            () = changed => token.cancel(),
        }
    }
}

fn has_more(now: &[NodeId], watched: &[NodeId]) -> bool {
    now.iter().any(|child| !watched.contains(child))
}
