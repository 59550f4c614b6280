//! The children of a node, as far as their ends matter to it.

use crate::tool_tree::{ToolTree, ToolTreeInput, ToolTreeResult};
use futures::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};
use std::{
    future::poll_fn,
    task::{Context, Poll},
};
use temporalio_common::error::IncomingError;
use temporalio_workflow::{WorkflowContext, WorkflowResult, WorkflowTermination};
use xylem_ids::WorkflowId;
use xylem_stateful::{Child, ChildError, StatefulContext, activity::ChildOutcome};

/// The longest message of a failure that is carried to the next run, in characters.
const MAX_MESSAGE: usize = 1000;

/// A child that did not return.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Failed {
    /// The child.
    pub workflow_id: WorkflowId,
    /// How it ended.
    pub outcome: ChildOutcome,
}

type End = Result<ToolTreeResult, ChildError>;

/// The children, and what is known of those that have ended in this run.
///
/// They are polled whole, in order: what combinators that poll only what was woken do by
/// themselves, SDK 1.1.1 takes for nondeterminism.
#[derive(Default)]
pub(crate) struct Offspring {
    pending: Vec<(WorkflowId, LocalBoxFuture<'static, End>)>,
    /// The workflow was cancelled while it waited for one of them.
    cancelled: bool,
    calls: u64,
    failed: Option<(WorkflowId, ChildError)>,
}

impl Offspring {
    /// What earlier runs have started and does not count as ended.
    pub(crate) fn inherited(ctx: &WorkflowContext<ToolTree>) -> Self {
        let mut offspring = Self::default();
        for child in ctx.children() {
            if let Some(child) = ctx.inherited_child(ToolTree, &child.workflow_id) {
                offspring.add(child);
            }
        }
        offspring
    }

    pub(crate) fn add(&mut self, child: Child<ToolTreeResult>) {
        let id = child.workflow_id().clone();
        self.pending.push((id, Box::pin(child.result())));
    }

    /// Takes note of those that have ended by now.
    ///
    /// # Errors
    /// The workflow was cancelled.
    pub(crate) async fn look(&mut self) -> WorkflowResult<()> {
        self.until(|_| true).await
    }

    /// Waits until another one has ended.
    ///
    /// # Errors
    /// The workflow was cancelled.
    pub(crate) async fn next_end(&mut self) -> WorkflowResult<()> {
        let known = self.pending.len();
        self.until(|pending| pending < known).await
    }

    /// Waits until all have ended, or until `enough`. Says whether all have.
    ///
    /// # Errors
    /// The workflow was cancelled.
    pub(crate) async fn ended(&mut self, enough: impl Fn() -> bool) -> WorkflowResult<bool> {
        self.until(|pending| pending == 0 || enough()).await?;
        Ok(self.pending.is_empty())
    }

    async fn until(&mut self, enough: impl Fn(usize) -> bool) -> WorkflowResult<()> {
        poll_fn(|cx| {
            self.poll(cx);
            if self.cancelled || enough(self.pending.len()) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        if self.cancelled {
            Err(WorkflowTermination::cancelled())
        } else {
            Ok(())
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        let mut ends = Vec::new();
        self.pending
            .retain_mut(|(id, end)| match end.as_mut().poll(cx) {
                Poll::Ready(end) => {
                    ends.push((id.clone(), end));
                    false
                }
                Poll::Pending => true,
            });
        for (id, end) in ends {
            match end {
                Ok(result) => self.calls = self.calls.saturating_add(result.calls),
                Err(ChildError::Cancelled) => self.cancelled = true,
                Err(error) => {
                    self.failed.get_or_insert((id, error));
                }
            }
        }
    }

    /// The input of the next run: with what the children counted that have ended in this one, and
    /// with the first failure.
    pub(crate) fn carry(&self, mut input: ToolTreeInput) -> ToolTreeInput {
        input.calls = input.calls.saturating_add(self.calls);
        if input.failed.is_none() {
            input.failed = self.failed.as_ref().map(|(id, error)| Failed {
                workflow_id: id.clone(),
                outcome: outcome(error),
            });
        }
        input
    }

    /// The node's own result, once all have ended.
    ///
    /// # Errors
    /// A child has failed, in this run or an earlier one.
    pub(crate) fn result(self, input: ToolTreeInput) -> WorkflowResult<ToolTreeResult> {
        if let Some(Failed {
            workflow_id,
            outcome,
        }) = input.failed
        {
            let id = workflow_id;
            return Err(ChildError::Ended { id, outcome }.into());
        }
        match self.failed {
            Some((_, error)) => Err(error.into()),
            None => Ok(ToolTreeResult {
                calls: input.calls.saturating_add(self.calls),
            }),
        }
    }
}

/// How the child ended, without what an error has beside it.
fn outcome(error: &ChildError) -> ChildOutcome {
    let failed = |message: &str| ChildOutcome::Failed {
        message: message.chars().take(MAX_MESSAGE).collect(),
    };
    match error {
        ChildError::Ended {
            outcome: ChildOutcome::Failed { message },
            ..
        } => failed(message),
        ChildError::Ended { outcome, .. } => outcome.clone(),
        ChildError::Execution(error) => match error.cause() {
            Some(IncomingError::Timeout(_)) => ChildOutcome::TimedOut,
            Some(IncomingError::Cancelled(_)) => ChildOutcome::Cancelled,
            Some(IncomingError::Terminated(_)) => ChildOutcome::Terminated,
            Some(cause) => failed(&cause.failure().message),
            None => failed(&error.to_string()),
        },
        ChildError::Result(_) | ChildError::Cancelled => failed(&error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt, channel::oneshot};

    fn id(text: &str) -> WorkflowId {
        text.parse().expect("a workflow id")
    }

    fn failed(text: &str) -> End {
        Err(ChildError::Ended {
            id: id(text),
            outcome: ChildOutcome::TimedOut,
        })
    }

    /// Children that end when told so.
    fn children<const N: usize>(names: [&str; N]) -> (Offspring, [oneshot::Sender<End>; N]) {
        let mut offspring = Offspring::default();
        let tell = names.map(|name| {
            let (tell, told) = oneshot::channel();
            let end = told.map(|end| end.unwrap_or(Err(ChildError::Cancelled)));
            offspring.pending.push((id(name), end.boxed_local()));
            tell
        });
        (offspring, tell)
    }

    fn now<T>(future: impl Future<Output = T>) -> Option<T> {
        std::pin::pin!(future).as_mut().now_or_never()
    }

    fn look(offspring: &mut Offspring) {
        let looked = now(offspring.look()).expect("it does not wait");
        assert!(looked.is_ok());
    }

    fn all_ended(offspring: &mut Offspring) -> Option<bool> {
        now(offspring.ended(|| false)).map(|ended| ended.expect("not cancelled"))
    }

    fn completed(calls: u64) -> End {
        Ok(ToolTreeResult { calls })
    }

    #[test]
    fn what_ended_is_counted_once_over_runs() {
        let (mut first, [a, b]) = children(["a", "b"]);
        a.send(completed(3)).expect("waited for");
        look(&mut first);
        look(&mut first);
        let input = ToolTreeInput {
            calls: 10,
            ..ToolTreeInput::default()
        };
        let next = first.carry(input);
        assert_eq!((next.calls, &next.failed), (13, &None));
        // The next run inherits the other one only.
        assert_eq!(first.pending.len(), 1);
        drop(b);
        let (mut second, [b]) = children(["b"]);
        assert_eq!(all_ended(&mut second), None);
        b.send(completed(4)).expect("waited for");
        assert_eq!(all_ended(&mut second), Some(true));
        let result = second.result(next).expect("no child failed");
        assert_eq!(result.calls, 17);
    }

    #[test]
    fn a_failure_is_carried_and_ends_the_node() {
        let (mut first, [a, b, _c]) = children(["a", "b", "c"]);
        b.send(failed("b")).expect("waited for");
        look(&mut first);
        a.send(failed("a")).expect("waited for");
        look(&mut first);
        let next = first.carry(ToolTreeInput::default());
        let expected = Failed {
            workflow_id: id("b"),
            outcome: ChildOutcome::TimedOut,
        };
        assert_eq!(next.failed.as_ref(), Some(&expected), "the first one");
        let (mut second, [c]) = children(["c"]);
        c.send(completed(1)).expect("waited for");
        assert_eq!(all_ended(&mut second), Some(true));
        // Also a run that is continued again remembers it.
        let next = second.carry(next);
        assert_eq!(next.failed.as_ref(), Some(&expected));
        let ended = second.result(next).expect_err("a child failed");
        let text = ended.to_string();
        assert!(text.contains("the child workflow b timed out"), "{text}");
    }

    #[test]
    fn an_end_during_a_wait_is_noticed() {
        let (mut offspring, [a, _b]) = children(["a", "b"]);
        assert!(now(offspring.next_end()).is_none());
        a.send(completed(2)).expect("waited for");
        assert!(now(offspring.next_end()).is_some());
        assert_eq!(offspring.carry(ToolTreeInput::default()).calls, 2);
        assert!(now(offspring.next_end()).is_none());
    }

    #[test]
    fn the_wait_for_children_ends_early_when_told() {
        let (mut offspring, [_a]) = children(["a"]);
        let ended = now(offspring.ended(|| true)).expect("it does not wait");
        assert!(matches!(ended, Ok(false)));
    }

    #[test]
    fn a_cancellation_of_the_node_is_no_failure_of_a_child() {
        let (mut offspring, [a, _b]) = children(["a", "b"]);
        a.send(Err(ChildError::Cancelled)).expect("waited for");
        let ended = now(offspring.ended(|| false)).expect("it does not wait");
        assert!(
            matches!(ended, Err(WorkflowTermination::Cancelled { .. })),
            "{ended:?}"
        );
        assert!(offspring.failed.is_none());
    }

    #[test]
    fn a_long_message_is_cut() {
        let outcome = outcome(&ChildError::Ended {
            id: id("a"),
            outcome: ChildOutcome::Failed {
                message: "x".repeat(5000),
            },
        });
        let message = "x".repeat(MAX_MESSAGE);
        assert_eq!(outcome, ChildOutcome::Failed { message });
    }
}
