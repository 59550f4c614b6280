//! Everything at once: `xylem dev` in the test's own process with the workflows of the tests, and
//! an external API.

use crate::{
    Order, Orders, Searcher, eventually, eventually_within, history, json_payload, query,
    server::{connect, temporal_cli},
    signal, test_workflows,
};
use acme_api::AcmeApi;
use anyhow::{Context, bail, ensure};
use futures::TryStreamExt;
use prost::Message;
use secrecy::SecretString;
use serde_json::{Value, json};
use std::{
    net::Ipv4Addr,
    process::Stdio,
    sync::{Mutex, Once, PoisonError},
    time::Duration,
};
use tempfile::TempDir;
use temporalio_client::Client;
use temporalio_common::protos::temporal::api::history::v1::history_event::Attributes;
use xylem::{
    data::{DataDir, read_secret},
    dev::{Dev, DevConfig},
};
use xylem_client::{Deposit, InitialToken, StartTree, v1};
use xylem_ids::{Slot, ToolName, WorkflowId};

/// How long after a rotation the stack sweeps the tree.
const SWEEP_AFTER: Duration = Duration::from_secs(2);

/// A running stack with an external API whose operations are registered as tools: `acme.status`,
/// `acme.build` and `acme.deploy` with the slot `default`, `acme.repository` with `github`.
pub struct Stack {
    dev: Dev,
    data: DataDir,
    /// The external API.
    pub acme: AcmeApi,
    /// The control plane, as its administrator.
    pub control: xylem_client::Client,
    /// Temporal, as anybody who may write to the namespace.
    pub temporal: Client,
    issued: Mutex<Vec<String>>,
    _place: TempDir,
}

impl Stack {
    /// Starts everything in a directory of its own, on free ports.
    ///
    /// # Errors
    /// Something did not start.
    pub async fn start() -> anyhow::Result<Self> {
        Self::with(|_| {}).await
    }

    /// The same, otherwise than usual.
    ///
    /// # Errors
    /// Something did not start.
    pub async fn with(change: impl FnOnce(&mut DevConfig)) -> anyhow::Result<Self> {
        keep_logs();
        let place = tempfile::tempdir()?;
        let data = DataDir::at(place.path().join("data"));
        let mut config = DevConfig {
            temporal_cli: Some(temporal_cli()?),
            temporal_port: Some(0),
            web_ui_port: Some(0),
            control_port: Some(0),
            sweep_after_rotation: Some(SWEEP_AFTER),
            ..DevConfig::new(data.clone())?
        };
        change(&mut config);
        let dev = Dev::start(config, test_workflows()?, |_| {}).await?;
        let endpoints = dev.endpoints();
        let port = endpoints.temporal_address.rsplit(':').next();
        let port = port.context("Temporal has no port")?.parse()?;
        let key = read_secret(&data.admin_key())?;
        let stack = Self {
            control: xylem_client::Client::connect(&endpoints.control_plane, &key).await?,
            temporal: connect(port).await?,
            acme: AcmeApi::start((Ipv4Addr::LOCALHOST, 0).into()).await?,
            issued: Mutex::default(),
            dev,
            data,
            _place: place,
        };
        for tool in acme_tools(&stack.acme.url()) {
            stack.offer(tool).await?;
        }
        Ok(stack)
    }

    /// Registers a tool and approves it.
    ///
    /// # Errors
    /// The definition breaks a rule, or the control plane does not answer.
    pub async fn offer(&self, tool: v1::Tool) -> anyhow::Result<v1::Tool> {
        let proposed = self.control.register_tool(tool).await?;
        Ok(self.control.approve_tool(&proposed).await?)
    }

    /// Stops everything and waits for it.
    pub async fn stop(self) {
        self.dev.stop().await;
    }

    /// The control plane's address, `http://host:port`.
    #[must_use]
    pub fn control_plane(&self) -> &str {
        &self.dev.endpoints().control_plane
    }

    /// Where keys, databases and logs are.
    #[must_use]
    pub fn data(&self) -> &DataDir {
        &self.data
    }

    /// The task queue of the worker.
    #[must_use]
    pub fn task_queue(&self) -> &str {
        &self.dev.endpoints().task_queue
    }

    /// A tree to be started.
    pub fn tree(&self, workflow_id: &str) -> Start<'_> {
        Start {
            stack: self,
            workflow_id: workflow_id.to_owned(),
            slots: vec!["default".to_owned()],
            tools: [
                "acme.status",
                "acme.build",
                "acme.deploy",
                "acme.repository",
            ]
            .map(str::to_owned)
            .into(),
            audiences: vec![self.acme.url()],
            ttl: None,
            intake: Some(false),
        }
    }

    /// A tree that runs already, whoever started it.
    ///
    /// # Errors
    /// The workflow id breaks a rule.
    pub fn running_tree(&self, workflow_id: &str) -> anyhow::Result<Tree<'_>> {
        Ok(Tree {
            stack: self,
            id: workflow_id.parse()?,
        })
    }

    /// A token of the external API, under a label; remembered for [`Stack::search`].
    pub fn issue(&self, label: &str) -> SecretString {
        let token = self.acme.issue(label);
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.push(token.clone());
        token.into()
    }

    /// A token of the external API as a deposit that may go there.
    ///
    /// # Errors
    /// None in practice: the API's address is an audience.
    pub fn deposit(&self, label: &str) -> anyhow::Result<Deposit> {
        deposit(self.issue(label), &[self.acme.url()], None)
    }

    /// Every token issued so far.
    #[must_use]
    pub fn issued(&self) -> Vec<String> {
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.clone()
    }

    /// Runs the stock CLI to its end and answers with what it printed.
    ///
    /// # Errors
    /// It did not succeed; the error shows what it said.
    pub async fn run_cli(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = tokio::process::Command::new(temporal_cli()?)
            .args(arguments)
            .args(["--address", &self.dev.endpoints().temporal_address])
            .stdin(Stdio::null())
            .output()
            .await?;
        let printed = String::from_utf8(output.stdout)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("temporal {}: {said}{printed}", arguments[..2].join(" "));
        }
        Ok(printed)
    }

    /// The audit entries that match, all of them.
    ///
    /// # Errors
    /// The control plane refused.
    pub async fn audit(&self, filter: v1::AuditFilter) -> anyhow::Result<Vec<v1::AuditEntry>> {
        let mut entries = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListAuditRequest {
                filter: Some(filter.clone()),
                page_size: Some(1000),
                page_token,
            };
            let page = self.control.list_audit(request).await?;
            entries.extend(page.entries);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(entries);
            }
        }
    }

    /// Searches everything that outlives a call for some secrets: the histories of all runs, the
    /// databases, the logs of every part.
    ///
    /// # Errors
    /// Something cannot be read.
    pub async fn search(&self, secrets: &[String]) -> anyhow::Result<Searcher> {
        let mut searcher = Searcher::new(secrets)?;
        let all = self.temporal.list_workflows("", Default::default());
        let all: Vec<_> = all.try_collect().await?;
        ensure!(!all.is_empty(), "no workflow is listed");
        for run in all {
            let place = format!("history of {} {}", run.id(), run.run_id());
            for event in history::events_of_run(&self.temporal, run.id(), run.run_id()).await? {
                searcher.look(&place, &event.encode_to_vec());
            }
        }
        searcher.look_below(self.data.path())?;
        searcher.look("the program's log", &logs());
        Ok(searcher)
    }
}

/// How a tree is to be started.
pub struct Start<'a> {
    stack: &'a Stack,
    workflow_id: String,
    slots: Vec<String>,
    tools: Vec<String>,
    audiences: Vec<String>,
    ttl: Option<Duration>,
    intake: Option<bool>,
}

impl<'a> Start<'a> {
    /// The slots that get a token; `default` where this is not called.
    #[must_use]
    pub fn slots(mut self, slots: &[&str]) -> Self {
        self.slots = owned(slots);
        self
    }

    /// The tools it may call; all of the external API's where this is not called.
    #[must_use]
    pub fn tools(mut self, tools: &[&str]) -> Self {
        self.tools = owned(tools);
        self
    }

    /// Where its tokens may go; the external API where this is not called.
    #[must_use]
    pub fn audiences(mut self, audiences: &[&str]) -> Self {
        self.audiences = owned(audiences);
        self
    }

    /// How long its grants live.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Whether it takes in raw tokens; not where this is not called.
    #[must_use]
    pub fn intake(mut self, intake: bool) -> Self {
        self.intake = Some(intake);
        self
    }

    /// Starts it as the control plane's administrator, with one token per slot. The tokens are
    /// labelled `TREE/SLOT@1` at the external API.
    ///
    /// # Errors
    /// The control plane refused.
    pub async fn start(
        self,
        workflow_type: &str,
        input: &impl serde::Serialize,
    ) -> anyhow::Result<Tree<'a>> {
        let stack = self.stack;
        let tree = stack.running_tree(&self.workflow_id)?;
        let token = |slot: &String| -> anyhow::Result<InitialToken> {
            let label = tree.label(slot, 1);
            Ok(InitialToken {
                slot: slot.parse()?,
                deposit: deposit(stack.issue(&label), &self.audiences, self.ttl)?,
            })
        };
        let start = StartTree {
            workflow_id: tree.id.clone(),
            workflow_type: workflow_type.parse()?,
            task_queue: stack.task_queue().parse()?,
            input_json: serde_json::to_string(input)?,
            tokens: self.slots.iter().map(token).collect::<Result<_, _>>()?,
            tools: parsed(&self.tools)?,
            intake: self.intake,
            request_id: String::new(),
        };
        stack.control.start_tree(start).await?;
        Ok(tree)
    }

    /// Starts it as a [`crate::Walker`] with these orders.
    ///
    /// # Errors
    /// The control plane refused.
    pub async fn walk(self, orders: Vec<Order>) -> anyhow::Result<Tree<'a>> {
        let orders = orders.into();
        self.start("Walker", &Orders { orders }).await
    }
}

/// A tree on a stack.
#[derive(Clone)]
pub struct Tree<'a> {
    stack: &'a Stack,
    id: WorkflowId,
}

impl Tree<'_> {
    /// Its root's workflow id.
    #[must_use]
    pub fn id(&self) -> &WorkflowId {
        &self.id
    }

    /// Under what the external API counts the calls of a version.
    #[must_use]
    pub fn label(&self, slot: &str, version: u32) -> String {
        format!("{}/{slot}@{version}", self.id)
    }

    /// What the external API has counted for a version.
    #[must_use]
    pub fn stats(&self, slot: &str, version: u32) -> acme_api::TokenStats {
        self.stack.acme.stats_of(&self.label(slot, version))
    }

    /// Gets the next token from the external API and rotates to it; answers with its version.
    ///
    /// # Errors
    /// The control plane refused.
    pub async fn rotate(&self, slot: &str) -> anyhow::Result<u32> {
        let slot: Slot = slot.parse()?;
        let status = self.status(slot.as_str()).await?;
        let next = 1 + status.iter().map(version_of).max().unwrap_or(0);
        let label = self.label(slot.as_str(), next);
        let deposit = deposit(self.stack.issue(&label), &[], None)?;
        let control = &self.stack.control;
        let changed = control.rotate_token(&self.id, &slot, deposit).await?;
        let version = changed.version.as_ref().map_or(0, version_of);
        ensure!(version == next, "rotated to {version} instead of {next}");
        Ok(version)
    }

    /// The versions of a slot, as the control plane tells them.
    ///
    /// # Errors
    /// The control plane refused.
    pub async fn status(&self, slot: &str) -> anyhow::Result<Vec<v1::TokenVersion>> {
        let control = &self.stack.control;
        Ok(control.token_status(&self.id, Some(&slot.parse()?)).await?)
    }

    /// Walks the tree.
    ///
    /// # Errors
    /// The control plane refused.
    pub async fn view(&self) -> anyhow::Result<v1::TreeView> {
        let request = v1::GetTreeRequest {
            tree: self.id.to_string(),
            ..v1::GetTreeRequest::default()
        };
        Ok(self.stack.control.get_tree(request).await?)
    }

    /// Waits until the tree has converged on a version of the slot `default`.
    ///
    /// # Errors
    /// It has not within a minute.
    pub async fn converged(&self, version: u32) -> anyhow::Result<v1::TreeView> {
        self.slot_converged("default", version).await
    }

    /// Waits until the tree has converged on a version of a slot.
    ///
    /// # Errors
    /// It has not within a minute.
    pub async fn slot_converged(&self, slot: &str, version: u32) -> anyhow::Result<v1::TreeView> {
        let what = format!("{} converged on {slot}@{version}", self.id);
        let is_so = |view: &v1::TreeView| {
            let slots = view.nodes.iter().flat_map(|node| &node.slots);
            let held = slots.filter(|held| held.slot == slot);
            let mut held = held.filter_map(|held| held.order.as_ref());
            view.converged && held.any(|order| order.version == version)
        };
        eventually(&what, || self.view(), is_so).await
    }

    /// Revokes a version, with so much patience.
    ///
    /// # Errors
    /// The gate is closed.
    pub async fn revoke(
        &self,
        slot: &str,
        version: u32,
        patience: Duration,
    ) -> Result<v1::RevokeTokenResponse, xylem_client::Error> {
        let revoke = self.revocation(slot, version, patience);
        self.stack.control.revoke_token(revoke).await
    }

    /// Revokes a version at once, whatever is in the way.
    ///
    /// # Errors
    /// The control plane refused.
    pub async fn force_revoke(
        &self,
        slot: &str,
        version: u32,
    ) -> anyhow::Result<v1::RevokeTokenResponse> {
        let revoke = v1::RevokeTokenRequest {
            force: true,
            ..self.revocation(slot, version, Duration::ZERO)
        };
        Ok(self.stack.control.revoke_token(revoke).await?)
    }

    fn revocation(&self, slot: &str, version: u32, patience: Duration) -> v1::RevokeTokenRequest {
        v1::RevokeTokenRequest {
            tree: self.id.to_string(),
            slot: slot.to_owned(),
            version,
            wait: Some(wire(patience)),
            ..v1::RevokeTokenRequest::default()
        }
    }

    /// Stops the tree with cancellation.
    ///
    /// # Errors
    /// The control plane refused.
    pub async fn stop(&self) -> anyhow::Result<v1::StopTreeResponse> {
        self.end(false).await
    }

    /// Stops the tree with termination.
    ///
    /// # Errors
    /// The control plane refused.
    pub async fn terminate(&self) -> anyhow::Result<v1::StopTreeResponse> {
        self.end(true).await
    }

    async fn end(&self, terminate: bool) -> anyhow::Result<v1::StopTreeResponse> {
        let request = v1::StopTreeRequest {
            tree: self.id.to_string(),
            terminate,
            wait: Some(wire(Duration::from_secs(60))),
            ..v1::StopTreeRequest::default()
        };
        Ok(self.stack.control.stop_tree(request).await?)
    }

    /// A node of the tree: the root for an empty path, else what is below it, such as `a/b`.
    #[must_use]
    pub fn node(&self, path: &str) -> Node<'_> {
        let id = match path {
            "" => self.id.to_string(),
            path => format!("{}/{path}", self.id),
        };
        Node {
            stack: self.stack,
            id,
        }
    }

    /// The audit entries about the tree.
    ///
    /// # Errors
    /// The control plane refused.
    pub async fn audit(&self, action: &str) -> anyhow::Result<Vec<v1::AuditEntry>> {
        let filter = v1::AuditFilter {
            tree: self.id.to_string(),
            action: action.to_owned(),
            ..v1::AuditFilter::default()
        };
        self.stack.audit(filter).await
    }
}

/// A node of a tree on a stack. Orders and calls are for those that run [`crate::Walker`].
pub struct Node<'a> {
    stack: &'a Stack,
    id: String,
}

impl Node<'_> {
    /// Its workflow id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Gives it an order.
    ///
    /// # Errors
    /// Temporal refused the signal.
    pub async fn order(&self, order: Order) -> anyhow::Result<()> {
        self.signal("order", &order).await
    }

    /// Sends it any signal with a JSON payload, as anybody can.
    ///
    /// # Errors
    /// Temporal refused the signal.
    pub async fn signal(&self, name: &str, value: &impl serde::Serialize) -> anyhow::Result<()> {
        let payloads = vec![json_payload(value)];
        signal(&self.stack.temporal, &self.id, name, payloads).await
    }

    /// Asks it a query.
    ///
    /// # Errors
    /// It did not answer.
    pub async fn ask(&self, name: &str) -> anyhow::Result<Value> {
        query(&self.stack.temporal, &self.id, name).await
    }

    /// Orders a call without parameters, and waits for what comes of it.
    ///
    /// # Errors
    /// Nothing came of it within a minute.
    pub async fn call(&self, tool: &str, slot: &str) -> anyhow::Result<Called> {
        let called = self.begin(tool, slot).await?;
        self.called(called).await
    }

    /// Orders a call without parameters; [`Node::called`] waits for what comes of it.
    ///
    /// # Errors
    /// The node takes no orders.
    pub async fn begin(&self, tool: &str, slot: &str) -> anyhow::Result<usize> {
        let before = eventually("it tells its answers", || self.answers(), |_| true).await?;
        let order = Order::Call {
            tool: tool.to_owned(),
            slot: slot.to_owned(),
            parameters: json!({}),
        };
        self.order(order).await?;
        Ok(before.len())
    }

    /// What came of a call that was begun.
    ///
    /// # Errors
    /// Nothing came of it within a minute.
    pub async fn called(&self, call: usize) -> anyhow::Result<Called> {
        let what = format!("{} has called", self.id);
        let answers = eventually(&what, || self.answers(), |all| all.len() > call).await?;
        Called::read(&answers[call])
    }

    async fn answers(&self) -> anyhow::Result<Vec<Value>> {
        Ok(serde_json::from_value(self.ask("answers").await?)?)
    }

    /// The grant that its history holds last, as anybody reads it who may read histories.
    ///
    /// # Errors
    /// There is none.
    pub async fn grant_in_history(&self) -> anyhow::Result<String> {
        let mut last = None;
        for event in history::events(&self.stack.temporal, &self.id).await? {
            let bytes = event.encode_to_vec();
            let text = String::from_utf8_lossy(&bytes);
            let grant = text.rfind("\"xylem1.").map(|start| &text[start + 1..]);
            let grant = grant.and_then(|text| text.split('"').next());
            last = grant.map(str::to_owned).or(last);
        }
        last.with_context(|| format!("no grant in the history of {}", self.id))
    }

    /// Waits until it holds a version of the slot `default`.
    ///
    /// # Errors
    /// It does not within the bound.
    pub async fn holds(&self, version: u32, within: Duration) -> anyhow::Result<()> {
        let what = format!("{} holds version {version}", self.id);
        let held = || async {
            let status = crate::status(&self.stack.temporal, &self.id).await?;
            let slot = status.slots.get(&Slot::default_slot());
            let grant = slot.and_then(|slot| slot.grant.as_ref());
            Ok(grant.map(|grant| grant.version.0))
        };
        eventually_within(within, &what, held, |held| *held == Some(version)).await?;
        Ok(())
    }

    /// What it tells of a slot.
    ///
    /// # Errors
    /// It did not answer.
    pub async fn slot(&self, slot: &str) -> anyhow::Result<Value> {
        Ok(self.ask("apiToken").await?["slots"][slot].clone())
    }

    /// Takes it back to its first task with the stock CLI, without the signals since: it has
    /// neither grant nor registry then.
    ///
    /// # Errors
    /// Temporal refused.
    pub async fn reset(&self) -> anyhow::Result<()> {
        let reset = ["workflow", "reset", "-w", &self.id, "--reason", "test"];
        let how = ["--type", "FirstWorkflowTask", "--reapply-exclude", "Signal"];
        self.stack.run_cli(&[&reset[..], &how].concat()).await?;
        Ok(())
    }

    /// What the stock CLI tells about its current run.
    ///
    /// # Errors
    /// There is no such workflow.
    pub async fn describe(&self) -> anyhow::Result<Value> {
        let describe = ["workflow", "describe", "-w", &self.id, "--output", "json"];
        Ok(serde_json::from_str(&self.stack.run_cli(&describe).await?)?)
    }

    /// The activity it waits for, as the stock CLI tells about it.
    ///
    /// # Errors
    /// There is no such workflow.
    pub async fn pending(&self) -> anyhow::Result<Option<Value>> {
        let described = self.describe().await?;
        Ok(described["pendingActivities"].get(0).cloned())
    }

    /// Which attempt its current run is, under a retry policy.
    ///
    /// # Errors
    /// There is no such workflow.
    pub async fn attempt(&self) -> anyhow::Result<i32> {
        let events = history::events(&self.stack.temporal, &self.id).await?;
        let first = events.into_iter().next().and_then(|event| event.attributes);
        match first {
            Some(Attributes::WorkflowExecutionStartedEventAttributes(started)) => {
                Ok(started.attempt)
            }
            other => bail!("the history of {} begins with {other:?}", self.id),
        }
    }

    /// Waits until it runs.
    ///
    /// # Errors
    /// It does not within a minute.
    pub async fn runs(&self) -> anyhow::Result<()> {
        let what = format!("{} runs", self.id);
        eventually(&what, || self.ask("apiToken"), |_| true).await?;
        Ok(())
    }
}

/// What came of a tool call.
#[derive(Debug, Clone, PartialEq)]
pub enum Called {
    /// The API answered.
    Answered {
        /// Under which version the call was made.
        version: u64,
        /// Its body, redacted.
        body: Value,
    },
    /// It failed for good; all that is known of why.
    Failed(String),
}

impl Called {
    fn read(answer: &Value) -> anyhow::Result<Self> {
        if let Some(error) = answer["error"].as_str() {
            return Ok(Self::Failed(error.to_owned()));
        }
        let version = answer["order"]["version"].as_u64();
        Ok(Self::Answered {
            version: version.with_context(|| format!("no version in {answer}"))?,
            body: answer["body"].clone(),
        })
    }

    /// The version, where the API answered.
    ///
    /// # Errors
    /// The call failed.
    pub fn version(&self) -> anyhow::Result<u64> {
        match self {
            Self::Answered { version, .. } => Ok(*version),
            Self::Failed(error) => bail!("the call failed: {error}"),
        }
    }

    /// Why it failed.
    ///
    /// # Errors
    /// It did not.
    pub fn failure(&self) -> anyhow::Result<&str> {
        match self {
            Self::Failed(error) => Ok(error),
            Self::Answered { body, .. } => bail!("the call was answered: {body}"),
        }
    }
}

/// A deposit of a token.
fn deposit(
    token: SecretString,
    audiences: &[String],
    ttl: Option<Duration>,
) -> anyhow::Result<Deposit> {
    let audiences = audiences.iter().map(|text| text.parse());
    Ok(Deposit {
        token,
        audiences: audiences.collect::<Result<_, _>>()?,
        ttl,
        allow_short: false,
        request_id: String::new(),
    })
}

fn version_of(version: &v1::TokenVersion) -> u32 {
    version.order.as_ref().map_or(0, |order| order.version)
}

fn wire(duration: Duration) -> xylem_client::Duration {
    xylem_client::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: 0,
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn parsed(tools: &[String]) -> anyhow::Result<Vec<ToolName>> {
    let tools = tools.iter().map(|tool| tool.parse());
    Ok(tools.collect::<Result<_, _>>()?)
}

fn acme_tools(url: &str) -> Vec<v1::Tool> {
    let tool = |name: &str, method: &str, path: &str, slot: &str| v1::Tool {
        name: name.to_owned(),
        method: method.to_owned(),
        base_url: url.to_owned(),
        path: path.to_owned(),
        slot: slot.to_owned(),
        ..v1::Tool::default()
    };
    let id = json!({ "type": "object", "properties": { "id": { "type": "string" } }, "required": ["id"] });
    let build = v1::Tool {
        parameters_schema_json: id.to_string(),
        ..tool("acme.build", "GET", "/v1/builds/{id}", "default")
    };
    vec![
        build,
        tool("acme.status", "GET", "/v1/status", "default"),
        tool("acme.deploy", "POST", "/v1/deploys", "default"),
        tool("acme.repository", "GET", "/v1/status", "github"),
    ]
}

static LOGS: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Keeps everything that this process logs, in memory, for [`Stack::search`].
fn keep_logs() {
    struct Log;
    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let mut logs = LOGS.lock().unwrap_or_else(PoisonError::into_inner);
            logs.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
            .with_writer(|| Log);
        let _ = subscriber.try_init();
    });
}

/// What was logged so far.
fn logs() -> Vec<u8> {
    LOGS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
