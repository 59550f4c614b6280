//! The same job by other clients: REST and JSON, and the stock Temporal CLI.

use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::time::Duration;
use xylem::data::read_secret;
use xylem_client::v1;
use xylem_ids::{Slot, WorkflowId};
use xylem_testkit::{Stack, eventually};

const PATIENCE: Duration = Duration::from_secs(60);

/// A client that knows HTTP and JSON, and nothing else of Xylem.
struct Rest<'a> {
    http: reqwest::Client,
    base: &'a str,
    key: SecretString,
}

impl<'a> Rest<'a> {
    fn of(stack: &'a Stack) -> anyhow::Result<Self> {
        Ok(Self {
            http: reqwest::Client::new(),
            base: stack.control_plane(),
            key: read_secret(&stack.data().admin_key())?,
        })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<(StatusCode, Value)> {
        let url = format!("{}{path}", self.base);
        let request = self.http.request(method, url);
        let mut request = request.bearer_auth(self.key.expose_secret());
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        Ok((answer.status(), answer.json().await?))
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let (status, body) = self.send(Method::GET, path, None).await?;
        anyhow::ensure!(status == StatusCode::OK, "GET {path}: {status} {body}");
        Ok(body)
    }

    async fn post(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        let (status, body) = self.send(Method::POST, path, Some(body)).await?;
        anyhow::ensure!(status == StatusCode::OK, "POST {path}: {status} {body}");
        Ok(body)
    }
}

#[tokio::test]
async fn a_tree_is_started_rotated_and_revoked_over_rest() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let rest = Rest::of(&stack)?;
    let secret = stack.issue("rest@1");
    let input = json!({
        "steps": [{ "tool": "acme.status" }],
        "pauseMs": 100,
        "children": [{ "name": "a", "node": { "steps": [{ "tool": "acme.status" }], "pauseMs": 100 } }],
    });
    let mut start = json!({
        "workflowId": "rest",
        "workflowType": "ToolTree",
        "taskQueue": stack.task_queue(),
        "inputJson": input.to_string(),
        "tools": ["acme.status"],
        "tokens": [{ "token": secret.expose_secret(), "audiences": [stack.acme.url()] }],
    });
    let tree = rest.post("/v1/trees", start.clone()).await?;
    assert_eq!(tree["tree"]["id"]["workflowId"], "rest", "{tree}");
    let converged_on = |version: u32| {
        move |view: &Value| {
            let nodes = view["nodes"].as_array().cloned().unwrap_or_default();
            let current = nodes
                .iter()
                .all(|node| node["slots"][0]["order"]["version"] == json!(version));
            view["converged"] == json!(true) && nodes.len() == 2 && current
        }
    };
    let view = || rest.get("/v1/trees/rest");
    eventually("the tree has its first version", view, converged_on(1)).await?;

    let next = stack.issue("rest@2");
    let path = "/v1/trees/rest/tokens/default/rotate";
    let changed = rest
        .post(path, json!({ "token": next.expose_secret() }))
        .await?;
    assert_eq!(
        changed["version"]["order"]["version"],
        json!(2),
        "{changed}"
    );
    eventually("the tree has its second version", view, converged_on(2)).await?;
    let path = "/v1/trees/rest/tokens/default/revoke";
    let refused = rest.send(
        Method::POST,
        path,
        Some(json!({ "version": 2, "wait": "0s" })),
    );
    let (status, refused) = refused.await?;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{refused}");
    assert!(refused.to_string().contains("version_active"), "{refused}");
    // Longer than a lease that nobody released.
    rest.post(path, json!({ "version": 1, "wait": "60s" }))
        .await?;
    let versions = rest.get("/v1/trees/rest/tokens/default").await?;
    let shown = versions.to_string();
    assert!(
        shown.contains("REVOKED") && shown.contains("ACTIVE"),
        "{shown}"
    );
    let used = || async { Ok(stack.acme.stats_of("rest@2").calls) };
    eventually("calls go on", used, |calls| *calls > 4).await?;

    // What is wrong is named: field, reason, request id; what was sent is not repeated.
    let nowhere = json!([{ "token": "acme_unrepeated_0123456789" }]);
    let no_name = json!("");
    for (field, name, wrong) in [
        ("workflow_id", "workflowId", no_name),
        ("tokens.audiences", "tokens", nowhere),
    ] {
        start["workflowId"] = json!("another");
        start[name] = wrong;
        let (status, body) = rest
            .send(Method::POST, "/v1/trees", Some(start.clone()))
            .await?;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        let info = &body["details"][0];
        assert!(info["reason"].is_string(), "{body}");
        assert_eq!(info["metadata"]["field"], field, "{body}");
        assert!(info["metadata"]["requestId"].is_string(), "{body}");
        let text = body.to_string();
        assert!(
            !text.contains("unrepeated") && !text.contains(secret.expose_secret()),
            "{text}"
        );
    }
    let nobody = reqwest::get(format!("{}/v1/trees/rest", stack.control_plane())).await?;
    assert_eq!(nobody.status(), StatusCode::UNAUTHORIZED);
    for open in ["/openapi.json", "/healthz", "/readyz"] {
        let answer = reqwest::get(format!("{}{open}", stack.control_plane())).await?;
        assert_eq!(answer.status(), StatusCode::OK, "{open}");
    }
    let searched = stack.search(&stack.issued()).await?;
    assert_eq!(searched.found_in(), [""; 0]);
    stack.stop().await;
    Ok(())
}

/// Starts a root as somebody does who has the stock CLI and has never heard of Xylem.
async fn start_stock(stack: &Stack, id: &str) -> anyhow::Result<()> {
    let start = [
        "workflow",
        "start",
        "-w",
        id,
        "--type",
        "Walker",
        "--task-queue",
        stack.task_queue(),
        "--input",
        r#"{"orders":[]}"#,
    ];
    stack.run_cli(&start).await?;
    Ok(())
}

/// Signals a raw token with the stock CLI, as StatefulWorkflows were used in the beginning.
async fn signal_raw(stack: &Stack, id: &str, token: &SecretString) -> anyhow::Result<()> {
    let input = json!(token.expose_secret()).to_string();
    let signal = [
        "workflow", "signal", "-w", id, "--name", "apiToken", "--input", &input,
    ];
    stack.run_cli(&signal).await?;
    Ok(())
}

#[tokio::test]
async fn a_root_started_with_the_stock_cli_has_no_token_until_it_is_given_one() -> anyhow::Result<()>
{
    let stack = Stack::start().await?;
    start_stock(&stack, "stock").await?;
    let tree = stack.running_tree("stock")?;
    let root = tree.node("");
    root.runs().await?;
    let call = root.begin("acme.status", "default").await?;
    let missing = |state: &Value| state["state"] == "missing";
    eventually("the slot is missing", || root.slot("default"), missing).await?;
    assert_eq!(root.ask("answers").await?, json!([]));

    let (id, slot): (WorkflowId, Slot) = ("stock".parse()?, "default".parse()?);
    stack
        .control
        .allow_tools(&id, vec!["acme.status".parse()?])
        .await?;
    assert_eq!(root.slot("default").await?["state"], "missing");
    stack
        .control
        .set_token(&id, &slot, stack.deposit("stock/default@1")?)
        .await?;
    // The call has waited for it.
    assert_eq!(root.called(call).await?.version()?, 1);
    assert_eq!(root.call("acme.status", "default").await?.version()?, 1);
    tree.rotate("default").await?;
    tree.converged(2).await?;
    assert_eq!(root.call("acme.status", "default").await?.version()?, 2);
    let searched = stack.search(&stack.issued()).await?;
    assert_eq!(searched.found_in(), [""; 0]);
    stack.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_raw_token_is_taken_in_where_intake_is_on_and_never_wins() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let (id, slot): (WorkflowId, Slot) = ("raw".parse()?, "default".parse()?);
    start_stock(&stack, "raw").await?;
    let tree = stack.running_tree("raw")?;
    let root = tree.node("");
    root.runs().await?;
    stack
        .control
        .allow_tools(&id, vec!["acme.status".parse()?])
        .await?;
    signal_raw(&stack, "raw", &stack.issue("raw/default@1")).await?;
    root.holds(1, PATIENCE).await?;
    assert_eq!(root.slot("default").await?["exposed"], json!(true));
    assert_eq!(root.call("acme.status", "default").await?.version()?, 1);
    assert_eq!(tree.stats("default", 1).calls, 1);

    // Somebody with a key deposits the next one; a raw token after that does not replace it.
    stack
        .control
        .set_token(&id, &slot, stack.deposit("raw/default@2")?)
        .await?;
    root.holds(2, PATIENCE).await?;
    signal_raw(&stack, "raw", &stack.issue("raw/default@3")).await?;
    let versions = || tree.status("default");
    let taken = |versions: &Vec<v1::TokenVersion>| versions.len() == 3;
    let versions = eventually("it is taken in", versions, taken).await?;
    let exposed: Vec<_> = versions.iter().map(|version| version.exposed).collect();
    assert_eq!(
        exposed.iter().filter(|exposed| **exposed).count(),
        2,
        "{versions:?}"
    );
    assert_eq!(root.call("acme.status", "default").await?.version()?, 2);
    assert_eq!(root.slot("default").await?["exposed"], json!(false));
    assert_eq!(tree.stats("default", 3).calls, 0);
    assert!(!tree.audit("exposure").await?.is_empty());
    stack.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_raw_token_is_rejected_where_intake_is_off() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let tree = stack.tree("strict").walk(Vec::new()).await?;
    let root = tree.node("");
    root.holds(1, PATIENCE).await?;
    signal_raw(&stack, "strict", &stack.issue("signalled")).await?;
    let status = || root.ask("apiToken");
    let rejected = |status: &Value| status["exposed"] == json!(true);
    let status = eventually("it is rejected", status, rejected).await?;
    assert_eq!(status["rejected"]["raw_token"], json!(1), "{status}");
    assert_eq!(status["slots"]["default"]["version"], json!(1), "{status}");
    let audited = || tree.audit("signals_rejected");
    let is_raw = |entries: &Vec<v1::AuditEntry>| entries.iter().any(|e| e.reason == "raw_token");
    eventually("it is audited", audited, is_raw).await?;
    assert_eq!(tree.status("default").await?.len(), 1);
    assert_eq!(root.call("acme.status", "default").await?.version()?, 1);
    assert_eq!(stack.acme.stats_of("signalled").calls, 0);
    stack.stop().await;
    Ok(())
}
