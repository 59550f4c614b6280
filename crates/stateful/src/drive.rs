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
use temporalio_common::{
    error::ActivityExecutionError, protos::temporal::api::failure::v1::failure::FailureInfo,
};
use temporalio_workflow::{
    ActivityOptions, LocalActivityOptions, RetryPolicy, TimerOptions, WorkflowCancellationToken,
    WorkflowContext, WorkflowResult, WorkflowTermination,
};
use xylem_ids::NodeId;
use xylem_node::{Outcome, Plan, Rejection, Source, Stage};

/// How long a node waits before it asks a control plane again that did not answer; twice as long
/// every time.
const BACK_OFF: Duration = Duration::from_secs(5);

/// The longest of these waits. Every question adds some 6 events to the history of a node that has
/// nothing else to do: a day's outage stays far below the limit of 51,200.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(300);

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
    if let Some(why) = state.with(|inner| inner.unusable.clone()) {
        // The task, not the workflow: another worker may be able to carry it on.
        ctx.force_task_fail(why);
        return std::future::pending().await;
    }
    let author = author.fuse();
    let housekeeping = housekeep(&ctx, &state).fuse();
    pin_mut!(author, housekeeping);
    let ended = select_biased! {
        ended = author => ended,
        () = housekeeping => unreachable!("housekeeping ends after the author's run only"),
    };
    state.update(&ctx, |inner| {
        inner.is_closing = true;
        inner.wanted.clear();
    });
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
        report_later(ctx, state),
        watch(ctx, state),
    );
}

/// Whether the run may end now.
fn is_finished<W>(ctx: &WorkflowContext<W>, inner: &Inner) -> bool {
    inner.is_closing
        && inner.node.is_settled()
        && inner.raw.is_empty()
        && !inner.has_question()
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
    // First of all: in an outage of the control plane the others take until their timeout.
    if let Some(plan) = inner.node.next_forward(Stage::Local) {
        return Some(Job::Forward(plan));
    }
    if inner.has_question() && !inner.backing_off {
        return Some(Job::AskIssuers);
    }
    if inner.intake == Intake::On && !inner.raw.is_empty() && !inner.backing_off {
        return Some(Job::TakeIn);
    }
    if until_report(inner).is_some_and(|wait| inner.is_closing || wait.is_zero()) {
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
    let slots = state.with(|inner| inner.missing());
    let question = ctx.execute_local_activity(
        NodeActivities::issuers,
        AskIssuers {
            slots: slots.clone(),
        },
        local(Duration::from_secs(5)),
    );
    let answer = question.await;
    state.update(ctx, |inner| {
        if let Err(error) = &answer
            && !(inner.is_closing || is_final(error))
        {
            return inner.meet_outage();
        }
        inner.outages = 0;
        // Asked once for every call that waits: what comes later is pushed.
        inner.wanted.retain(|slot| !slots.contains(slot));
        let now = inner.now;
        let Ok(answer) = answer else {
            // Nobody answers: what cannot be verified is refused.
            inner.node.trust(None, [], now);
            if inner.intake == Intake::Unknown {
                inner.reject_raw();
            }
            return;
        };
        inner.search_attribute |= answer.search_attribute;
        if inner.intake == Intake::Unknown {
            inner.set_intake(answer.intake);
        }
        inner.node.trust(Some(answer.tree), answer.issuers, now);
        for grant in answer.grants {
            inner.receive(&grant, Source::ControlPlane);
        }
    });
}

/// Whether the same will be refused again. The failure of a local activity comes as it was made,
/// without the wrapper that a regular one has (our measurement, SDK 1.1.1).
fn is_final(error: &ActivityExecutionError) -> bool {
    let info = error
        .failure()
        .and_then(|failure| failure.failure_info.as_ref());
    matches!(info, Some(FailureInfo::ApplicationFailureInfo(info)) if info.non_retryable)
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
            inner.outages = 0;
            inner.raw.pop_front();
            inner.receive(&taken.grant, Source::Intake);
        }
        // Not a token that could be used: counted and reported like any other rejection.
        Err(error) if is_final(&error) => {
            inner.outages = 0;
            inner.raw.pop_front();
            inner.node.reject(Rejection::RawToken);
        }
        Err(_) if inner.is_closing => inner.reject_raw(),
        Err(_) => inner.meet_outage(),
    });
}

/// How long rejected signals that the audit log has not heard of have to wait; `None` where there
/// are none.
fn until_report(inner: &Inner) -> Option<Duration> {
    if inner.unreported().is_empty() {
        return None;
    }
    let due = inner.reported_at.map_or(0, |at| at.plus(REPORT_INTERVAL).0);
    Some(Duration::from_secs(due.saturating_sub(inner.now.0)))
}

/// Wakes a node when the rejections that are still to be reported are due: after a flood nothing
/// else might happen in it for long.
async fn report_later<W: 'static>(ctx: &WorkflowContext<W>, state: &NodeState) {
    loop {
        let mut wait = None;
        until(state, |inner| {
            inner.notice_time(ctx.workflow_time());
            let later = until_report(inner).filter(|wait| !wait.is_zero());
            wait = later.filter(|_| !inner.is_closing);
            wait.is_some() || inner.is_closing
        })
        .await;
        let Some(wait) = wait else { return };
        pause(ctx, state, wait).await;
        state.update(ctx, |_| ());
    }
}

async fn report<W>(ctx: &WorkflowContext<W>, state: &NodeState) {
    let (rejected, counts) = state.with(|inner| {
        inner.reported_at = Some(inner.now);
        (inner.unreported(), inner.node.rejected().clone())
    });
    let report = ctx.execute_local_activity(
        NodeActivities::report_rejected,
        ReportRejected { rejected },
        local(Duration::from_secs(3)),
    );
    let reported = report.await;
    state.update(ctx, |inner| {
        // What the audit log has not taken is part of the next report. The counts stay in the
        // status either way.
        if inner.is_closing || reported.as_ref().map_or_else(is_final, |_| true) {
            inner.reported = counts;
        }
    });
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

fn back_off_time(outages: u32) -> Duration {
    let doubled = BACK_OFF.saturating_mul(1 << outages.saturating_sub(1).min(16));
    doubled.min(LONGEST_BACK_OFF)
}

async fn back_off<W>(ctx: &WorkflowContext<W>, state: &NodeState) {
    loop {
        until(state, |inner| inner.backing_off || is_finished(ctx, inner)).await;
        if state.with(|inner| !inner.backing_off) {
            return;
        }
        pause(ctx, state, state.with(|inner| back_off_time(inner.outages))).await;
        state.update(ctx, |inner| inner.backing_off = false);
    }
}

/// Lets time pass, unless the run is about to end.
async fn pause<W>(ctx: &WorkflowContext<W>, state: &NodeState, time: Duration) {
    let timer = TimerOptions::builder(time)
        .cancellation_token(WorkflowCancellationToken::new())
        .build();
    let fired = ctx.timer(timer).fuse();
    let closing = until(state, |inner| inner.is_closing).fuse();
    pin_mut!(fired, closing);
    select_biased! { _ = fired => {}, () = closing => {} };
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
