//! Whether a call is made again that may have reached the API: one that hears it and does not answer.

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, Uri},
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};
use temporalio_client::UntypedWorkflow;
use tokio::net::TcpListener;
use xylem_client::{Deposit, InitialToken, NewKey, StartTree, v1};
use xylem_testkit::{Stack, eventually};

const CLASSES: [(&str, v1::RetryClass); 3] = [
    ("idempotent", v1::RetryClass::Idempotent),
    ("idempotency-key", v1::RetryClass::IdempotencyKey),
    ("at-most-once", v1::RetryClass::AtMostOnce),
];

/// The `Idempotency-Key` of each request, by path.
type Heard = Arc<Mutex<BTreeMap<String, Vec<Option<String>>>>>;

/// An API that never answers the first request to a path.
struct Api {
    url: String,
    heard: Heard,
}

impl Api {
    async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let heard = Heard::default();
        let routes = Router::new().fallback(answer).with_state(heard.clone());
        // It ends with the test's runtime.
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Ok(Self { url, heard })
    }

    /// A tool of a class, named after it.
    fn tool(&self, name: &str, class: v1::RetryClass, seconds: i64) -> v1::Tool {
        v1::Tool {
            name: format!("api.{name}"),
            method: "POST".to_owned(),
            base_url: self.url.clone(),
            path: format!("/{name}"),
            retry: class.into(),
            timeout: Some(xylem_client::Duration { seconds, nanos: 0 }),
            ..v1::Tool::default()
        }
    }

    fn heard(&self, name: &str) -> Vec<Option<String>> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.get(&format!("/{name}")).cloned().unwrap_or_default()
    }

    /// Each class was kept to: what came of it is the caller's to look at.
    fn check(&self) {
        assert_eq!(self.heard("idempotent"), [None, None]);
        let keys = self.heard("idempotency-key");
        assert_eq!(keys.len(), 2);
        assert!(keys[0].is_some() && keys[0] == keys[1], "{keys:?}");
        assert_eq!(self.heard("at-most-once"), [None]);
    }
}

async fn answer(State(heard): State<Heard>, uri: Uri, headers: HeaderMap) -> Json<Value> {
    let key = headers.get("idempotency-key");
    let key = key.and_then(|key| key.to_str().ok()).map(str::to_owned);
    let is_first = {
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        let of_path = heard.entry(uri.path().to_owned()).or_default();
        of_path.push(key);
        of_path.len() == 1
    };
    if is_first {
        std::future::pending::<()>().await;
    }
    Json(json!({ "done": true }))
}

#[tokio::test]
async fn a_call_whose_answer_is_lost_is_made_again_as_its_class_says() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let api = Api::start().await?;
    for (name, class) in CLASSES {
        stack.offer(api.tool(name, class, 1)).await?;
    }
    let tools = CLASSES.map(|(name, _)| format!("api.{name}"));
    let tools = tools.each_ref().map(String::as_str);
    let tree = stack.tree("lost").tools(&tools).audiences(&[&api.url]);
    let tree = tree.walk(Vec::new()).await?;
    let root = tree.node("");
    for tool in &tools[..2] {
        assert_eq!(root.call(tool, "default").await?.version()?, 1);
    }
    let unknown = root.call(tools[2], "default").await?;
    let told = unknown.failure()?;
    assert!(told.contains("called at most once"), "{told}");
    api.check();
    stack.stop().await;
    Ok(())
}

/// A worker in a process of its own. Dropping it is `kill -9`.
struct Worker(Child);

impl Worker {
    fn start(stack: &Stack, queue: &str, key: &str) -> anyhow::Result<Self> {
        let process = Command::new(env!("CARGO_BIN_EXE_testkit-xylem"))
            .args(["worker", "--task-queue", queue, "--data-dir"])
            .arg(stack.data().path())
            .env("XYLEM_API_KEY", key)
            .env_remove("XYLEM_ADDRESS")
            .env_remove("XYLEM_KEY_FILE")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self(process))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_call_of_a_killed_worker_is_made_again_as_its_class_says() -> anyhow::Result<()> {
    const QUEUE: &str = "doomed";
    let stack = Stack::start().await?;
    let api = Api::start().await?;
    let agent: xylem_ids::AgentId = "doomed-worker".parse()?;
    let create = v1::CreateAgentRequest {
        name: agent.to_string(),
        roles: vec![v1::Role::Worker.into()],
        kind: v1::AgentKind::Service.into(),
    };
    stack.control.create_agent(create).await?;
    let key = NewKey::new(agent, vec![QUEUE.parse()?]);
    let (key, _) = stack.control.create_api_key(key).await?;
    let doomed = Worker::start(&stack, QUEUE, key.expose_secret())?;
    for (name, class) in CLASSES {
        stack.offer(api.tool(name, class, 60)).await?;
        let tool = format!("api.{name}");
        let token = InitialToken {
            slot: "default".parse()?,
            deposit: Deposit {
                token: stack.issue(name),
                audiences: vec![api.url.parse()?],
                ttl: None,
                allow_short: false,
                request_id: format!("token-{name}"),
            },
        };
        let start = StartTree {
            workflow_id: name.parse()?,
            workflow_type: "ToolTree".parse()?,
            task_queue: QUEUE.parse()?,
            input_json: json!({ "rounds": 1, "steps": [{ "tool": tool }] }).to_string(),
            tokens: vec![token],
            tools: vec![tool.parse()?],
            intake: Some(false),
            request_id: String::new(),
        };
        stack.control.start_tree(start).await?;
    }
    let heard = || async { Ok(CLASSES.map(|(name, _)| api.heard(name).len())) };
    eventually("the API hears of all", heard, |all| *all == [1; 3]).await?;

    drop(doomed);
    let _worker = Worker::start(&stack, QUEUE, key.expose_secret())?;
    for (name, class) in CLASSES {
        let tree = stack.temporal.get_workflow_handle::<UntypedWorkflow>(name);
        let ended = tree.get_result(Default::default()).await;
        if class != v1::RetryClass::AtMostOnce {
            assert!(ended.is_ok(), "{name}: {ended:?}");
            continue;
        }
        let failed = format!("{:?}", ended.expect_err("it is made once"));
        assert!(failed.contains("xylem.outcome_unknown"), "{failed}");
    }
    api.check();
    stack.stop().await;
    Ok(())
}
