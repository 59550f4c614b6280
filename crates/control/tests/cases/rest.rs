//! The REST form: errors, limits, streams, and the routes beside it.

use crate::common::{self, Stack, TOKEN_1, id, new_key};
use reqwest::{Method, Response, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::time::{Duration, UNIX_EPOCH};
use xylem_audit::{Entry, Kind, Verdict};
use xylem_client::v1;
use xylem_ids::{Role, Scope};
use xylem_vault::Clock;

const CANARY: &str = "canary-in-a-body-77aa";

struct Rest(Stack, reqwest::Client);

impl Rest {
    async fn start() -> Self {
        Self(Stack::start().await, reqwest::Client::new())
    }

    async fn send(&self, method: Method, path: &str, body: impl Into<reqwest::Body>) -> Response {
        let request = self
            .1
            .request(method, format!("{}{path}", self.0.address))
            .bearer_auth(self.0.admin_key())
            .header("content-type", "application/json")
            .body(body);
        request.send().await.expect("an answer")
    }

    async fn get(&self, path: &str) -> Response {
        self.send(Method::GET, path, "").await
    }
}

async fn json_of(answer: Response) -> Value {
    let text = answer.text().await.expect("a body");
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}"))
}

fn reason(body: &Value) -> &str {
    body["details"][0]["reason"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_tree_is_started_rotated_and_looked_at_over_rest() {
    let rest = Rest::start().await;
    rest.0.worker().await;
    rest.0.tool().await;
    let start = json!({
        "workflowId": "release/1",
        "workflowType": "Train",
        "taskQueue": common::QUEUE,
        "tokens": [{ "token": TOKEN_1, "audiences": [common::API] }],
        "tools": ["acme.deploy"],
    });
    let started = rest
        .send(Method::POST, "/v1/trees", start.to_string())
        .await;
    assert_eq!(started.status(), StatusCode::OK);
    let started = json_of(started).await;
    assert_eq!(started["tree"]["state"], "TREE_STATE_ACTIVE");
    assert!(!started.to_string().contains("canary"));
    let rotate = json!({ "token": common::TOKEN_2 }).to_string();
    let path = "/v1/trees/release%2F1/tokens/default/rotate";
    let rotated = json_of(rest.send(Method::POST, path, rotate).await).await;
    assert_eq!(rotated["version"]["order"]["version"], 2, "{rotated}");
    let view = json_of(rest.get("/v1/trees/release%2F1").await).await;
    assert_eq!(view["converged"], true, "{view}");
    let status = json_of(rest.get("/v1/trees/release%2F1/tokens").await).await;
    assert_eq!(status["versions"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn a_page_of_tools_is_answered_again_until_something_about_it_changes() {
    let rest = Rest::start().await;
    let tool = rest.0.tool().await;
    let page = async |key: &str, query: &str| {
        let url = format!("{}/v1/tools{query}", rest.0.address);
        let answer = rest.1.get(url).bearer_auth(key).send().await;
        let answer = answer.expect("an answer");
        (answer.status(), json_of(answer).await)
    };
    let admin = rest.0.admin_key();
    let first = page(admin, "").await;
    assert_eq!(first.1["tools"][0]["name"], "acme.deploy");
    // What is asked for again is remembered from then on.
    for _ in 0..2 {
        assert_eq!(page(admin, "").await, first);
    }
    assert_eq!(page(admin, "?query=nothing").await.1, json!({}));
    // Who may not ask is not answered from memory either.
    let user = rest.0.key_for(Role::User, "somebody").await;
    assert!(page(user.expose_secret(), "").await.0.is_success());
    let mut narrow = new_key("somebody", false);
    narrow.scopes = [Scope::TreesRead].into_iter().collect();
    let narrow = rest.0.issue(narrow).await;
    let (status, refused) = page(narrow.expose_secret(), "").await;
    assert_eq!((status, reason(&refused)), (StatusCode::FORBIDDEN, "scope"));
    // Mistakes are said each time.
    for _ in 0..2 {
        let (status, refused) = page(admin, "?page_size=-1").await;
        assert_eq!(
            (status, reason(&refused)),
            (StatusCode::BAD_REQUEST, "malformed")
        );
    }
    let changed = v1::Tool {
        description: "Deploys".to_owned(),
        ..tool
    };
    let updated = rest.0.admin().await.update_tool(changed, false).await;
    updated.expect("updated");
    assert_ne!(page(admin, "").await, first);
}

#[tokio::test]
async fn a_check_is_answered_again_until_something_about_it_changes() {
    let rest = Rest::start().await;
    let admin = rest.0.admin().await;
    rest.0.tool().await;
    let check = async |key: &str, query: &str, body: Value| {
        let url = format!("{}/v1/access/check{query}", rest.0.address);
        let asked = rest.1.post(url).bearer_auth(key).body(body.to_string());
        let answer = asked.send().await.expect("an answer");
        (answer.status(), json_of(answer).await)
    };
    let key = rest.0.admin_key();
    let user = rest.0.key_for(Role::User, "somebody").await;
    let deploy = || json!({"tool": "acme.deploy", "taskQueue": "deploys"});
    let allowed = check(key, "", deploy()).await;
    assert_eq!(allowed.1["policy"], "everybody@1", "{allowed:?}");
    assert_eq!(check(key, "", deploy()).await, allowed);
    // Who asks, and what a query says beside the body, make another question.
    let other = check(key, "?agent=nobody", deploy()).await;
    assert_eq!(other.0, StatusCode::NOT_FOUND, "{other:?}");
    let theirs = json!({"tool": "acme.deploy", "taskQueue": "deploys", "agent": "admin"});
    assert!(check(key, "", theirs.clone()).await.0.is_success());
    let refused = check(user.expose_secret(), "", theirs).await;
    assert_eq!(reason(&refused.1), "other_agent");
    // A larger question is answered too, and what is no question is said to be none.
    let large = json!({"tool": "acme.deploy", "parametersJson": json!({"a": "a".repeat(20_000)}).to_string()});
    assert_eq!(check(key, "", large).await.1["allowed"], true);
    for _ in 0..2 {
        let (status, refused) = check(key, "", json!({"tool": "acme.deploy", "tols": 1})).await;
        assert_eq!(
            (status, reason(&refused)),
            (StatusCode::BAD_REQUEST, "malformed")
        );
    }
    // The clock is no change, and is looked at each time.
    let night = json!({"name": "night", "effect": "deny", "band": 900, "who": {"anyone": true},
        "what": {"all": true}, "actions": ["execute"],
        "when": {"time": [{"zone": "UTC", "from": "00:00", "to": "12:00"}]}});
    let night = serde_json::from_value(night).expect("a policy");
    admin.create_policy(night).await.expect("stored");
    let mut seen = Vec::new();
    for _ in 0..2 {
        seen.push(check(key, "", deploy()).await.1["allowed"] == true);
        rest.0.clock.advance(Duration::from_secs(12 * 3600));
    }
    seen.sort_unstable();
    assert_eq!(seen, [false, true]);
}

#[tokio::test]
async fn a_secret_in_a_broken_body_is_not_echoed() {
    let rest = Rest::start().await;
    rest.0.tree("train").await;
    let path = "/v1/trees/train/tokens/default";
    for body in [
        format!("{{\"token\":\"{CANARY}\""),
        CANARY.to_owned(),
        format!("{{\"token\":{{\"value\":\"{CANARY}\"}}}}"),
        format!("{{\"token\":\"x\",\"allowShort\":\"{CANARY}\"}}"),
        format!("{{\"token\":\"x\",\"{CANARY}\":1}}"),
        format!("{{\"token\":\"x\",\"audiences\":[\"{CANARY}\"]}}"),
        format!("{{\"token\":\"x\",\"ttl\":\"{CANARY}\"}}"),
        format!(
            "{{\"token\":\"{CANARY}\\u0000\",\"audiences\":[\"{}\"]}}",
            common::API
        ),
        format!("[\"{CANARY}\"]"),
    ] {
        let answer = rest.send(Method::PUT, path, body.clone()).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{body}");
        let said = answer.text().await.expect("a body");
        assert!(!said.contains("canary"), "{body} → {said}");
    }
    let answer = rest
        .send(
            Method::PUT,
            &format!("/v1/trees/{CANARY}%00/tokens/x"),
            "{}",
        )
        .await;
    assert!(!answer.text().await.expect("a body").contains("canary"));
}

#[tokio::test]
async fn an_error_names_field_reason_and_request() {
    let rest = Rest::start().await;
    rest.0.tree("train").await;
    let body = json!({ "token": TOKEN_1, "audiences": ["ftp://x"] }).to_string();
    let answer = rest
        .send(Method::PUT, "/v1/trees/train/tokens/default", body)
        .await;
    let request_id = answer.headers()["x-request-id"]
        .to_str()
        .expect("text")
        .to_owned();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let body = json_of(answer).await;
    assert_eq!(body["code"], 3);
    assert_eq!(reason(&body), "invalid");
    let metadata = &body["details"][0]["metadata"];
    assert_eq!(metadata["field"], "audiences");
    assert_eq!(metadata["requestId"], request_id);
    let unknown = rest
        .send(Method::POST, "/v1/trees/train/stop", r#"{"terminat":true}"#)
        .await;
    let unknown = json_of(unknown).await;
    assert_eq!(reason(&unknown), "malformed");
    assert!(
        unknown["message"]
            .as_str()
            .is_some_and(|m| m.contains("`terminat`")),
        "{unknown}"
    );
    let missing = rest.get("/v1/trees/nobody").await;
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    assert_eq!(reason(&json_of(missing).await), "not_found");
    let nowhere = rest.get("/v1/nowhere").await;
    assert_eq!(nowhere.status(), StatusCode::NOT_FOUND);
    assert_eq!(reason(&json_of(nowhere).await), "no_such_call");
    let refused = json!({ "version": 1 }).to_string();
    let refused = rest
        .send(
            Method::POST,
            "/v1/trees/train/tokens/default/revoke",
            refused,
        )
        .await;
    let refused = json_of(refused).await;
    assert_eq!(refused["code"], 9, "{refused}");
    assert_eq!(reason(&refused), "version_active");
}

#[tokio::test]
async fn large_and_deep_bodies_are_refused_and_others_are_served() {
    let rest = Rest::start().await;
    let large = format!("{{\"name\":\"{}\"}}", "a".repeat(2 << 20));
    let answer = rest.send(Method::POST, "/v1/agents", large).await;
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let deep = "[".repeat(100_000);
    let answer = rest.send(Method::POST, "/v1/agents", deep).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert_eq!(rest.get("/v1/status").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_stream_comes_as_server_sent_events() {
    let rest = Rest::start().await;
    rest.0.worker().await;
    rest.0.tree("train").await;
    let answer = rest
        .1
        .get(format!("{}/v1/trees/train/watch", rest.0.address))
        .bearer_auth(rest.0.admin_key())
        .header("accept", "text/event-stream")
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let text = answer
        .text()
        .await
        .expect("the stream ends when the tree has converged");
    let data = text
        .lines()
        .find_map(|line| line.strip_prefix("data:"))
        .expect("an event");
    let view: Value = serde_json::from_str(data).expect("JSON");
    assert_eq!(view["converged"], true);
}

#[tokio::test]
async fn a_verification_of_the_audit_log_ends_with_what_it_found() {
    let rest = Rest::start().await;
    rest.0.worker().await;
    rest.0.tool().await;
    let verified = async || {
        let answer = rest
            .1
            .get(format!("{}/v1/audit/verify", rest.0.address))
            .bearer_auth(rest.0.admin_key())
            .header("accept", "text/event-stream")
            .send()
            .await
            .expect("an answer");
        let text = answer.text().await.expect("the stream ends");
        let mut data = text.lines().filter_map(|line| line.strip_prefix("data:"));
        let last: Value = serde_json::from_str(data.next_back().expect("an event")).expect("JSON");
        last["result"].clone()
    };
    let intact = verified().await;
    assert_eq!(intact["intact"], true, "{intact}");
    assert!(intact["entries"].as_u64() > Some(0), "{intact}");
    assert!(intact.get("finding").is_none(), "{intact}");

    std::fs::write(rest.0.checkpoint_file(), "no checkpoint\n").expect("edited");
    let edited = verified().await;
    assert_eq!(
        edited["finding"]["what"], "checkpoint_file_forged",
        "{edited}"
    );
    assert!(edited.get("intact").is_none(), "{edited}");
}

#[tokio::test]
async fn an_export_ends_with_the_log_and_is_in_the_next() {
    let rest = Rest::start().await;
    rest.0.worker().await;
    rest.0.tool().await;
    let export = async |query: &str| {
        let answer = rest
            .1
            .get(format!("{}/v1/audit/export?{query}", rest.0.address))
            .bearer_auth(rest.0.admin_key())
            .header("accept", "text/event-stream")
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK, "{query}");
        let text = answer.text().await.expect("the stream ends");
        let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
        let lines = data.map(|data| {
            let sent: Value = serde_json::from_str(data).expect("JSON");
            let line = sent["line"].as_str().expect("a line");
            assert!(!line.contains('\n'), "{line}");
            serde_json::from_str(line).expect("JSON")
        });
        lines.collect::<Vec<Value>>()
    };
    let entries = export("").await;
    assert_eq!(entries[0]["id"], "1");
    let tools = entries
        .iter()
        .filter(|entry| entry["action"] == "tool_registered");
    assert!(tools.count() > 0, "{entries:?}");
    let last = entries.last().and_then(|entry| entry["id"].as_str());
    let last = last.expect("an id");
    let events = export(&format!("format=AUDIT_FORMAT_OCSF&after={last}")).await;
    let [event] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!(event["metadata"]["event_code"], "audit_exported");
    assert_eq!(event["metadata"]["version"], "1.6.0");
    assert_eq!(event["class_uid"], 3004);
    assert_eq!(event["status_detail"], "json_lines");
}

#[tokio::test]
async fn the_contract_and_the_page_need_no_key_and_the_metrics_any() {
    let rest = Rest::start().await;
    let get = async |path: &str| {
        let answer = reqwest::get(format!("{}{path}", rest.0.address)).await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.text().await.expect("a body")
    };
    let document: Value = serde_json::from_str(&get("/openapi.json").await).expect("JSON");
    assert_eq!(document["openapi"], "3.1.0");
    assert!(
        get("/")
            .await
            .contains("/v1/trees/{tree}/tokens/{slot}/rotate")
    );
    assert_eq!(get("/healthz").await, "ok\n");
    rest.get("/v1/status").await;
    let metrics = rest.get("/metrics").await.text().await.expect("a body");
    assert!(
        metrics.contains("xylem_calls_total{rpc=\"GetStatus\",code=\"Ok\"} 1"),
        "{metrics}"
    );
    assert!(!metrics.contains("xyk_"));
    let anonymous = reqwest::get(format!("{}/metrics", rest.0.address)).await;
    let anonymous = anonymous.expect("an answer");
    assert_eq!(anonymous.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn status_says_what_works_and_what_to_do() {
    let rest = Rest::start().await;
    // The first entries here are from 1970: nobody has looked at them for long.
    let status = rest.0.admin().await.status().await.expect("a status");
    let failing: Vec<_> = status.checks.iter().filter(|check| !check.ok).collect();
    assert!(
        matches!(*failing, [watch] if watch.name == "watch" && !watch.advice.is_empty()),
        "{failing:?}"
    );
    rest.0.control.watch().await.expect("watched");
    let status = rest.0.admin().await.status().await.expect("a status");
    assert!(
        status.checks.iter().all(|check| check.ok),
        "{:?}",
        status.checks
    );
    rest.0.temporal.down(true);
    let status = rest.0.admin().await.status().await.expect("a status");
    let temporal = status.checks.iter().find(|check| check.name == "temporal");
    let temporal: &v1::Check = temporal.expect("a check");
    assert!(!temporal.ok && !temporal.advice.is_empty(), "{temporal:?}");
}

#[tokio::test]
async fn refused_calls_are_counted_and_not_written_one_by_one() {
    let rest = Rest::start().await;
    for _ in 0..20 {
        let answer = reqwest::get(format!("{}/v1/status", rest.0.address)).await;
        assert_eq!(
            answer.expect("an answer").status(),
            StatusCode::UNAUTHORIZED
        );
    }
    let request = v1::ListAuditRequest {
        filter: Some(v1::AuditFilter {
            action: "authentication_failed".to_owned(),
            ..v1::AuditFilter::default()
        }),
        ..v1::ListAuditRequest::default()
    };
    let listed = rest
        .0
        .admin()
        .await
        .list_audit(request)
        .await
        .expect("entries");
    assert!(listed.entries.len() <= 1, "{:?}", listed.entries);
}

#[tokio::test]
async fn each_field_of_a_filter_narrows_by_what_it_says() {
    let stack = Stack::start().await;
    let start = stack.clock.now();
    // Each names the other's agent as its owner, so that fields that are mixed up are noticed.
    let entry = |after: u64, [agent, owner, tool, slot]: [&str; 4]| {
        let at = start + Duration::from_secs(after);
        let mut entry = Entry::new(at, Kind::Redeem, Verdict::Denied).by(&id(agent));
        entry.namespace = Some(common::namespace());
        entry.owner = Some(id(owner));
        entry.tool = Some(id(tool));
        entry.slot = Some(id(slot));
        entry
    };
    stack
        .write(&[
            entry(10, ["one", "two", "acme.one", "first"]),
            entry(20, ["two", "one", "acme.two", "second"]),
        ])
        .await;
    let admin = stack.admin().await;
    let at = |after: u64| {
        let since = (start + Duration::from_secs(after)).duration_since(UNIX_EPOCH);
        let seconds = i64::try_from(since.expect("a time").as_secs());
        Some(xylem_client::Timestamp {
            seconds: seconds.expect("a time"),
            nanos: 0,
        })
    };
    let all = || v1::AuditFilter {
        action: "redeem".to_owned(),
        ..v1::AuditFilter::default()
    };
    let text = |set: fn(&mut v1::AuditFilter, String), text: &str| {
        let mut filter = all();
        set(&mut filter, text.to_owned());
        filter
    };
    for (what, filter, tools) in [
        ("all", all(), &["acme.one", "acme.two"][..]),
        ("agent", text(|it, is| it.agent = is, "one"), &["acme.one"]),
        ("owner", text(|it, is| it.owner = is, "one"), &["acme.two"]),
        (
            "tool",
            text(|it, is| it.tool = is, "acme.two"),
            &["acme.two"],
        ),
        ("slot", text(|it, is| it.slot = is, "first"), &["acme.one"]),
        (
            "since",
            v1::AuditFilter {
                since: at(15),
                ..all()
            },
            &["acme.two"],
        ),
        (
            "until",
            v1::AuditFilter {
                until: at(15),
                ..all()
            },
            &["acme.one"],
        ),
    ] {
        let request = v1::ListAuditRequest {
            filter: Some(filter),
            ..v1::ListAuditRequest::default()
        };
        let entries = admin.list_audit(request).await.expect("entries").entries;
        let mut found: Vec<_> = entries.into_iter().map(|entry| entry.tool).collect();
        found.sort();
        assert_eq!(found, tools, "{what}");
    }
}
