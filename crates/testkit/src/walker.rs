//! A workflow that does as it is told, one order after the other: the tests' way to put a node
//! into any situation. It has a signal, a query and an update of its own beside the library's.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::VecDeque, error::Error, time::Duration};
use temporalio_common::error::ApplicationFailure;
use temporalio_macros::{workflow, workflow_methods};
use temporalio_workflow::{
    ActivityOptions, ChildWorkflowOptions, RetryPolicy, SyncWorkflowContext, WorkflowContext,
    WorkflowContextView, WorkflowResult,
};
use xylem_ids::Slot;
use xylem_stateful::{
    Child, ChildOptions, Selection, StatefulContext,
    activity::{NodeActivities, ToolCall},
    stateful,
};

/// What a [`Walker`] can be told to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    /// Start a child `<own id>/<name>` with these orders.
    Grow {
        /// The name.
        name: String,
        /// Its first orders.
        #[serde(default)]
        orders: Vec<Order>,
        /// Which slots are passed to it.
        #[serde(default)]
        selection: Selection,
    },
    /// Start a child as [`Order::Grow`] does, with a retry policy that waits 100 ms at first.
    GrowRetried {
        /// The name.
        name: String,
        /// Its first orders, in every attempt.
        #[serde(default)]
        orders: Vec<Order>,
        /// How many attempts it has.
        attempts: u32,
    },
    /// Ask for a child as [`Order::Grow`] does, and do not wait until it has started.
    Seed {
        /// The name.
        name: String,
    },
    /// Change what a child may have.
    Select {
        /// The child's name.
        name: String,
        /// Which slots are passed to it.
        selection: Selection,
    },
    /// Call a tool; the query `answers` shows what came of it.
    Call {
        /// The tool.
        tool: String,
        /// The slot.
        #[serde(default = "default_slot")]
        slot: String,
        /// Its parameters.
        #[serde(default = "no_parameters")]
        parameters: Value,
    },
    /// Call `acme.status` with a grant from anywhere, past the library; the query `answers` shows
    /// what came of it.
    CallWith {
        /// The grant.
        grant: String,
    },
    /// Continue as new.
    Continue,
    /// Wait for a child of an earlier run and return its result.
    Await {
        /// The child's name.
        name: String,
    },
    /// Let a timer of one's own pass.
    Sleep {
        /// How long, in milliseconds.
        ms: u64,
    },
    /// Return the own workflow id.
    Finish,
    /// Fail.
    Fail,
}

impl Order {
    /// [`Order::Grow`].
    #[must_use]
    pub fn grow(name: &str, orders: Vec<Self>, selection: Selection) -> Self {
        Self::Grow {
            name: name.to_owned(),
            orders,
            selection,
        }
    }

    /// [`Order::Select`].
    #[must_use]
    pub fn select(name: &str, selection: Selection) -> Self {
        Self::Select {
            name: name.to_owned(),
            selection,
        }
    }
}

fn default_slot() -> String {
    "default".to_owned()
}

fn no_parameters() -> Value {
    json!({})
}

/// A workflow's first orders.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Orders {
    /// Carried out one after the other; more come by the signal `order`.
    #[serde(default)]
    pub orders: VecDeque<Order>,
}

/// See [`Order`].
#[workflow]
#[derive(Default)]
pub struct Walker {
    orders: VecDeque<Order>,
    notes: u32,
    answers: Vec<Value>,
}

#[stateful(slots("default", "github"), transit("aws"))]
#[workflow_methods]
impl Walker {
    /// Carries out orders until one of them ends the workflow.
    ///
    /// # Errors
    /// As ordered, or when the workflow is cancelled.
    #[run]
    pub async fn run(ctx: &mut WorkflowContext<Self>, input: Orders) -> WorkflowResult<String> {
        ctx.state_mut(|walker| walker.orders.extend(input.orders));
        let mut children = Vec::new();
        loop {
            ctx.wait_condition(|walker| !walker.orders.is_empty())
                .await?;
            let Some(order) = ctx.state_mut(|walker| walker.orders.pop_front()) else {
                continue;
            };
            if let Some(result) = carry_out(ctx, order, &mut children).await? {
                return Ok(result);
            }
        }
    }

    /// One more order.
    #[signal]
    pub fn order(&mut self, _ctx: &mut SyncWorkflowContext<Self>, order: Order) {
        self.orders.push_back(order);
    }

    /// An update of the author's own: counts.
    #[update]
    pub fn note(&mut self, _ctx: &mut SyncWorkflowContext<Self>, count: u32) -> u32 {
        self.notes += count;
        self.notes
    }

    /// A query of the author's own.
    #[query]
    pub fn notes(&self, _ctx: &WorkflowContextView) -> u32 {
        self.notes
    }

    /// What came of the calls of this run: answers, or `{"error": ".."}`.
    #[query]
    pub fn answers(&self, _ctx: &WorkflowContextView) -> Vec<Value> {
        self.answers.clone()
    }
}

fn child_id(ctx: &WorkflowContext<Walker>, name: &str) -> String {
    format!("{}/{name}", ctx.workflow_id())
}

async fn carry_out(
    ctx: &WorkflowContext<Walker>,
    order: Order,
    children: &mut Vec<Child<String>>,
) -> WorkflowResult<Option<String>> {
    match order {
        Order::Grow {
            name,
            orders,
            selection,
        } => {
            let options = ChildOptions::workflow_id(child_id(ctx, &name)).select(selection);
            let input = Orders {
                orders: orders.into(),
            };
            children.push(ctx.start_child(Walker::run, input, options).await?);
        }
        Order::GrowRetried {
            name,
            orders,
            attempts,
        } => {
            let retry = RetryPolicy::builder()
                .initial_interval(Duration::from_millis(100))
                .maximum_attempts(attempts)
                .build();
            let options = ChildWorkflowOptions::builder()
                .workflow_id(child_id(ctx, &name))
                .retry_policy(retry)
                .build();
            let input = Orders {
                orders: orders.into(),
            };
            children.push(ctx.start_child(Walker::run, input, options).await?);
        }
        Order::Seed { name } => {
            let options = ChildOptions::workflow_id(child_id(ctx, &name));
            let mut start = Box::pin(ctx.start_child(Walker::run, Orders::default(), options));
            // Asked for, and dropped before it is confirmed.
            let _ = futures::poll!(start.as_mut());
        }
        Order::Select { name, selection } => {
            let id = child_id(ctx, &name).parse();
            let id = id.map_err(ApplicationFailure::non_retryable)?;
            ctx.select(&id, selection).await?;
        }
        Order::Call {
            tool,
            slot,
            parameters,
        } => {
            let tool = ctx.tool(tool).parameters(parameters);
            let tool = match slot.as_str() {
                "" => tool.without_slot(),
                slot => tool.slot(slot),
            };
            let answer = match tool.call().await {
                Ok(answer) => json!(answer),
                Err(error) => json!({ "error": in_full(&error) }),
            };
            ctx.state_mut(|walker| walker.answers.push(answer));
        }
        Order::CallWith { grant } => {
            let tool = "acme.status".parse();
            let call = ToolCall {
                tool: tool.map_err(ApplicationFailure::non_retryable)?,
                slot: Some(Slot::default_slot()),
                parameters: no_parameters(),
                api_url: None,
                grant,
            };
            let options = ActivityOptions::with_start_to_close_timeout(Duration::from_secs(10));
            let called = ctx.execute_activity(NodeActivities::call_tool, call, options.build());
            let answer = match called.await {
                Ok(answer) => json!(answer),
                Err(error) => json!({ "error": in_full(&error) }),
            };
            ctx.state_mut(|walker| walker.answers.push(answer));
        }
        Order::Continue => {
            let orders = ctx.state_mut(|walker| std::mem::take(&mut walker.orders));
            ctx.checkpoint_now(Orders { orders }).await?;
        }
        Order::Await { name } => {
            let id = child_id(ctx, &name).parse();
            let id = id.map_err(ApplicationFailure::non_retryable)?;
            let child = ctx.inherited_child(Walker::run, &id);
            let child = child.ok_or_else(|| {
                ApplicationFailure::non_retryable(anyhow::anyhow!("{name} is not inherited"))
            })?;
            return Ok(Some(child.result().await?));
        }
        Order::Sleep { ms } => {
            ctx.timer(Duration::from_millis(ms)).await;
        }
        Order::Finish => return Ok(Some(ctx.workflow_id().to_owned())),
        Order::Fail => {
            return Err(ApplicationFailure::new(anyhow::anyhow!("told to fail")).into());
        }
    }
    Ok(None)
}

/// An error and everything that caused it, in one line.
fn in_full(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
