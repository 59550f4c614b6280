//! The activities on a real Temporal server, started by plain workflows.

use acme_api::{AcmeApi, Behaviour};
use async_trait::async_trait;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use temporalio_client::{
    ActivityStartOptions, Client, NamespacedClient, WorkflowExecutionInfo, WorkflowStartOptions,
};
use temporalio_common::protos::temporal::api::history::v1::{
    HistoryEvent, history_event::Attributes,
};
use temporalio_macros::{workflow, workflow_methods};
use temporalio_sdk::{
    ActivityOptions, ChildWorkflowOptions, ContinueAsNewOptions, LocalActivityOptions,
    SignalWorkflowOptions, SyncWorkflowContext, WorkerOptions, WorkflowContext, WorkflowResult,
};
use xylem_activities::{
    Activities, AddressPolicy, AuditSink, Auth, Connecting, Outcome, PortError, Ports, Redeem,
    Redeemed, Release, Released, Settings, TaskClaims, TokenSource, Tool, ToolDirectory,
};
use xylem_ids::{Epoch, NodeId, Order, RetryClass, Serial, Slot, ToolName, TreeId, Version};
use xylem_stateful::activity::{
    ChildEnd, ChildOutcome, Delivery, FindChild, Forward, Forwarded, FoundChild, Issuers,
    NodeActivities, Select, TakenIn, ToolCall, WatchChildren,
};
use xylem_testkit::{TemporalServer, TestWorker, events};

const QUEUE: &str = "activities";

fn order() -> Order {
    Order {
        epoch: Epoch(1),
        version: Version(1),
        serial: Serial(1),
    }
}

fn tree() -> TreeId {
    TreeId {
        namespace: "default".parse().expect("a namespace"),
        workflow_id: "parent".parse().expect("an id"),
        first_run_id: "first".parse().expect("a run id"),
    }
}

/// A control plane with one tool and one token.
struct Plane {
    tool: Tool,
    audience: String,
    token: String,
    seen: Mutex<Vec<TaskClaims>>,
    outcomes: Mutex<Vec<Outcome>>,
}

impl Plane {
    fn new(acme: &AcmeApi) -> Self {
        Self {
            tool: Tool {
                name: "acme.status".parse().expect("a tool name"),
                hash: "h".to_owned(),
                method: "GET".to_owned(),
                base_url: acme.url(),
                path: "/v1/status".to_owned(),
                slot: Some(Slot::default_slot()),
                auth: Auth::Bearer,
                parameters_schema: None,
                response_schema: None,
                retry: RetryClass::default(),
                places: BTreeMap::new(),
                timeout: None,
                max_response_bytes: None,
                connecting: Connecting::default(),
                response_headers: Vec::new(),
                allowed_api_urls: Vec::new(),
            },
            audience: acme.url(),
            token: acme.issue("v1"),
            seen: Mutex::default(),
            outcomes: Mutex::default(),
        }
    }
}

#[async_trait]
impl TokenSource for Plane {
    async fn redeem(&self, claims: &TaskClaims, _: Redeem) -> Result<Redeemed, PortError> {
        self.seen.lock().expect("not poisoned").push(claims.clone());
        Ok(Redeemed {
            token: SecretString::from(self.token.as_str()),
            lease: "lease".parse().expect("an id"),
            lease_for: Duration::from_secs(30),
            order: Some(order()),
            fingerprint: "0123456789abcdef".parse().ok(),
            newer_grant: None,
            tool_hash: self.tool.hash.clone(),
            audiences: vec![self.audience.parse().expect("an audience")],
            tree: tree(),
        })
    }

    async fn release(&self, release: Release) -> Result<Released, PortError> {
        let mut outcomes = self.outcomes.lock().expect("not poisoned");
        outcomes.push(release.outcome);
        let newest = Some(order());
        Ok(Released { newest })
    }

    async fn take_in(
        &self,
        _: &TaskClaims,
        _: Slot,
        _: SecretString,
    ) -> Result<TakenIn, PortError> {
        unreachable!("no token is taken in here")
    }

    async fn issuers(&self, _: &TaskClaims, _: Vec<Slot>) -> Result<Issuers, PortError> {
        unreachable!("no issuer is asked for here")
    }

    async fn select(&self, _: &TaskClaims, _: Select) -> Result<(), PortError> {
        unreachable!("nothing is selected here")
    }
}

#[async_trait]
impl ToolDirectory for Plane {
    async fn tool(&self, _: &TaskClaims, _: &ToolName) -> Result<Tool, PortError> {
        Ok(self.tool.clone())
    }
}

#[async_trait]
impl AuditSink for Plane {
    async fn rejected(&self, _: &TaskClaims, _: BTreeMap<String, u64>) -> Result<(), PortError> {
        unreachable!("no signal is rejected here")
    }

    async fn tool_refused(
        &self,
        _: &TaskClaims,
        _: &ToolName,
        _: Option<&Slot>,
        _: &'static str,
    ) -> Result<(), PortError> {
        unreachable!("no call is refused here")
    }
}

/// Waits for one grant and until it may go on, continues as new, and returns the grant.
#[workflow]
#[derive(Default)]
struct Leaf {
    grants: Vec<String>,
    may_go_on: bool,
}

#[workflow_methods]
impl Leaf {
    #[run(name = "Leaf")]
    async fn run(
        ctx: &mut WorkflowContext<Self>,
        earlier: Option<String>,
    ) -> WorkflowResult<Value> {
        if let Some(grant) = earlier {
            return Ok(json!({ "grant": grant }));
        }
        ctx.wait_condition(|leaf| leaf.may_go_on && !leaf.grants.is_empty())
            .await?;
        let grant = ctx.state(|leaf| leaf.grants.first().cloned());
        ctx.continue_as_new(grant, ContinueAsNewOptions::default())?;
        Ok(Value::Null)
    }

    #[signal(name = "apiToken")]
    fn api_token(&mut self, _: &mut SyncWorkflowContext<Self>, grant: String) {
        self.grants.push(grant);
    }

    #[signal(name = "goOn")]
    fn go_on(&mut self, _: &mut SyncWorkflowContext<Self>) {
        self.may_go_on = true;
    }
}

/// What [`Parent`] saw.
#[derive(Debug, Serialize, Deserialize)]
struct Seen {
    child: NodeId,
    found: FoundChild,
    found_self: FoundChild,
    forwarded: Forwarded,
    ends: Vec<ChildEnd>,
    forwarded_late: Forwarded,
    found_late: FoundChild,
}

fn find(id: &str, kind: &str) -> FindChild {
    FindChild {
        workflow_id: id.parse().expect("an id"),
        workflow_type: kind.parse().expect("a type"),
    }
}

/// Starts a leaf and does to it all that activities do to children.
#[workflow]
#[derive(Default)]
struct Parent;

#[workflow_methods]
impl Parent {
    #[run(name = "Parent")]
    async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<Seen> {
        let id = "leaf".to_owned();
        let options = ChildWorkflowOptions::workflow_id(id.clone());
        let leaf = ctx.start_child_workflow(Leaf::run, None, options).await?;
        let child = NodeId {
            workflow_id: id.parse().expect("an id"),
            first_run_id: leaf.run_id.parse().expect("a run id"),
        };
        let regular = || {
            ActivityOptions::with_start_to_close_timeout(Duration::from_secs(60))
                .heartbeat_timeout(Duration::from_secs(15))
                .build()
        };
        let forward = |grant: &str| Forward {
            tree: tree(),
            grants: vec![grant.to_owned()],
            children: vec![Delivery {
                child: child.clone(),
                grants: vec![0, 0],
            }],
        };
        let ask = find("leaf", "Leaf");
        let found = ctx
            .execute_activity(NodeActivities::find_child, ask.clone(), regular())
            .await?;
        let ask_self = find("parent", "Parent");
        let found_self = ctx
            .execute_activity(NodeActivities::find_child, ask_self, regular())
            .await?;
        let local = LocalActivityOptions::builder()
            .start_to_close_timeout(Duration::from_secs(7))
            .build();
        let forwarded = ctx
            .execute_local_activity(NodeActivities::forward, forward("xylem1.grant"), local)
            .await?;
        // Not earlier: the second of the two signals would find another run, or none.
        leaf.signal(Leaf::go_on, (), SignalWorkflowOptions::default())
            .await?;
        let watch = WatchChildren {
            children: vec![child.clone()],
        };
        let ends = ctx
            .execute_activity(NodeActivities::watch_children, watch, regular())
            .await?;
        let forwarded_late = ctx
            .execute_activity(NodeActivities::forward, forward("xylem1.newer"), regular())
            .await?;
        let found_late = ctx
            .execute_activity(NodeActivities::find_child, ask, regular())
            .await?;
        Ok(Seen {
            child,
            found,
            found_self,
            forwarded,
            ends,
            forwarded_late,
            found_late,
        })
    }
}

/// Calls the tool and tells how that ended.
#[workflow]
#[derive(Default)]
struct Caller;

#[workflow_methods]
impl Caller {
    #[run(name = "Caller")]
    async fn run(ctx: &mut WorkflowContext<Self>) -> WorkflowResult<u16> {
        let options =
            ActivityOptions::with_schedule_to_close_timeout(Duration::from_secs(60)).build();
        let answer = ctx
            .execute_activity(NodeActivities::call_tool, tool_call(), options)
            .await?;
        Ok(answer.status)
    }
}

fn tool_call() -> ToolCall {
    ToolCall {
        tool: "acme.status".parse().expect("a tool name"),
        slot: Some(Slot::default_slot()),
        parameters: json!({}),
        api_url: None,
        grant: "xylem1.grant".to_owned(),
    }
}

struct Stage {
    acme: AcmeApi,
    plane: Arc<Plane>,
    client: Client,
    _worker: TestWorker,
    _server: TemporalServer,
}

impl Stage {
    async fn start() -> anyhow::Result<Self> {
        let server = TemporalServer::start().await?;
        let client = server.client();
        let acme = AcmeApi::start("127.0.0.1:0".parse()?).await?;
        let plane = Arc::new(Plane::new(&acme));
        let addresses = AddressPolicy {
            development: true,
            private: Vec::new(),
        };
        let activities = Activities::new(Ports::all(plane.clone()), Settings { addresses })?;
        let options = WorkerOptions::new(QUEUE)
            .register_activities(activities)
            .register_workflow::<Leaf>()?
            .register_workflow::<Parent>()?
            .register_workflow::<Caller>()?
            .build();
        let worker = TestWorker::start(&server, options)?;
        Ok(Self {
            acme,
            plane,
            client,
            _worker: worker,
            _server: server,
        })
    }

    /// What the failure of a run of `Caller` says, or its result.
    async fn call(&self, id: &str) -> anyhow::Result<Result<u16, String>> {
        let options = WorkflowStartOptions::new(QUEUE, id).build();
        let run = self.client.start_workflow(Caller::run, (), options).await?;
        let ended = run.get_result(Default::default()).await;
        Ok(ended.map_err(|error| format!("{error:?}")))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_are_found_signalled_and_watched_across_their_runs() -> anyhow::Result<()> {
    let stage = Stage::start().await?;
    let options = WorkflowStartOptions::new(QUEUE, "parent").build();
    let run = stage
        .client
        .start_workflow(Parent::run, (), options)
        .await?;
    let seen = run.get_result(Default::default()).await?;
    let first_run_id = seen.child.first_run_id.clone();
    assert_eq!(seen.found, FoundChild::Mine { first_run_id });
    assert_eq!(seen.found_self, FoundChild::Foreign);
    assert_eq!(seen.forwarded, Forwarded::default());
    let result = json!({ "grant": "xylem1.grant" });
    let end = ChildEnd {
        child: seen.child.clone(),
        outcome: ChildOutcome::Completed { result },
    };
    assert_eq!(seen.ends, [end]);
    assert_eq!(seen.forwarded_late.gone, [seen.child.workflow_id]);
    assert_eq!(seen.found_late, FoundChild::Closed);
    // The grant was sent twice, with one request id: once in the history of the run it reached.
    let reached = grants(&stage.client, "leaf", seen.child.first_run_id.as_str()).await?;
    assert_eq!(reached, 1);
    Ok(())
}

/// Grants that were signalled, in the history of one run.
async fn grants(client: &Client, workflow_id: &str, run_id: &str) -> anyhow::Result<usize> {
    let handle = WorkflowExecutionInfo::builder()
        .namespace(client.namespace())
        .workflow_id(workflow_id)
        .run_id(run_id)
        .build()
        .bind_untyped(client.clone());
    let events = handle
        .fetch_history(Default::default())
        .into_events()
        .await?;
    let is_grant = |event: &&HistoryEvent| match &event.attributes {
        Some(Attributes::WorkflowExecutionSignaledEventAttributes(signal)) => {
            signal.signal_name == "apiToken"
        }
        _ => false,
    };
    Ok(events.iter().filter(is_grant).count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_counted_over_attempts_and_claims_come_from_the_task() -> anyhow::Result<()> {
    let stage = Stage::start().await?;
    assert_eq!(stage.call("caller-1").await?, Ok(200));
    let claims = stage.plane.seen.lock().expect("not poisoned")[0].clone();
    assert_eq!(claims.workflow_id, "caller-1");
    assert_eq!(claims.workflow_type, "Caller");
    assert_eq!(claims.task_queue, QUEUE);
    assert_eq!((claims.attempt, claims.local), (1, false));

    // Two refusals are survived, with the retries in the activity.
    stage.acme.behave_times(None, Behaviour::Refuse, 2);
    assert_eq!(stage.call("caller-2").await?, Ok(200));

    // Three of the newest version are not.
    stage.acme.behave(None, Behaviour::Refuse);
    let failed = stage.call("caller-3").await?.expect_err("refused");
    assert!(failed.contains("xylem.token_refused"), "{failed}");
    assert!(failed.contains("rotate the token"), "{failed}");
    assert!(!failed.contains(&stage.plane.token), "{failed}");
    assert_eq!(stage.acme.stats_of("v1").refusals, 5);
    let outcomes = stage.plane.outcomes.lock().expect("not poisoned").clone();
    let refused = outcomes.iter().filter(|o| **o == Outcome::Refused401);
    assert_eq!((refused.count(), outcomes.len()), (5, 7));
    assert!(events(&stage.client, "caller-3").await?.len() < 20);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_activity_without_a_workflow_redeems_nothing() -> anyhow::Result<()> {
    let stage = Stage::start().await?;
    let options = ActivityStartOptions::with_start_to_close_timeout(
        QUEUE,
        "standalone",
        Duration::from_secs(10),
    )
    .build();
    let started = stage
        .client
        .start_activity(NodeActivities::call_tool, tool_call(), options)
        .await?;
    let failed = match started.result().await {
        Ok(answer) => panic!("answered {answer:?}"),
        Err(error) => format!("{error:?}"),
    };
    assert!(failed.contains("xylem.not_in_workflow"), "{failed}");
    assert!(stage.plane.seen.lock().expect("not poisoned").is_empty());
    assert_eq!(stage.acme.stats_of("v1").calls, 0);
    Ok(())
}
