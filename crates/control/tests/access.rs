//! Every call × every role × both protocols.

mod common;

use axum::body::Body;
use common::Stack;
use http::{Request, Response, StatusCode};
use secrecy::ExposeSecret;
use std::{collections::BTreeMap, time::Duration};
use tower::ServiceExt;
use xylem_proto::v1::Rpc;
use xylem_registry::{NewKey, Role};
use xylem_vault::Clock;

const TABLE: &str = include_str!("../src/access.golden");

/// The reviewed table: which roles may make which call.
fn table() -> BTreeMap<&'static str, Vec<bool>> {
    let line = |line: &'static str| {
        let mut cells = line.split_whitespace();
        let rpc = cells.next().expect("a name");
        (rpc, cells.map(|cell| cell != "-").collect())
    };
    TABLE.lines().map(line).collect()
}

async fn rest(stack: &Stack, rpc: Rpc, key: Option<&str>) -> Response<Body> {
    let (verb, path) = rpc.http();
    let path = path.replace(['{', '}'], "");
    let mut request = Request::builder().method(verb).uri(path);
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let body = if verb == "GET" { "" } else { "{}" };
    let request = request
        .header("content-type", "application/json")
        .body(Body::from(body));
    let answer = stack
        .control
        .router()
        .oneshot(request.expect("a request"))
        .await;
    answer.expect("an answer")
}

async fn grpc(stack: &Stack, rpc: Rpc, key: Option<&str>) -> (i32, String) {
    let mut request = Request::builder()
        .method("POST")
        .uri(rpc.grpc_path())
        .header("te", "trailers")
        .header("content-type", "application/grpc");
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    // An empty message, not compressed.
    let request = request.body(Body::from(vec![0_u8; 5])).expect("a request");
    let answer = stack
        .control
        .router()
        .oneshot(request)
        .await
        .expect("an answer");
    let header = |name: &str| {
        let value = answer.headers().get(name)?.to_str().ok()?;
        Some(value.to_owned())
    };
    assert!(header("x-request-id").is_some(), "{rpc:?}");
    let code = header("grpc-status").map_or(0, |code| code.parse().expect("a number"));
    (code, header("xylem-reason").unwrap_or_default())
}

async fn reason(answer: Response<Body>) -> String {
    if answer.status().is_success() {
        return String::new();
    }
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20)
        .await
        .expect("a body");
    let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    let info = &body["details"][0];
    assert!(
        !info["metadata"]["requestId"]
            .as_str()
            .unwrap_or_default()
            .is_empty(),
        "{body}"
    );
    info["reason"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn nobody_gets_in_without_a_key() {
    let stack = Stack::start().await;
    let almost = stack.admin_key().replace("xyk_", "xyk-");
    for rpc in Rpc::ALL {
        for key in [None, Some("xyk_wrong"), Some(almost.as_str())] {
            let answer = rest(&stack, *rpc, key).await;
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{rpc:?}");
            assert!(reason(answer).await.starts_with("key_"), "{rpc:?}");
            let (code, reason) = grpc(&stack, *rpc, key).await;
            assert_eq!(code, 16, "{rpc:?}");
            assert!(reason.starts_with("key_"), "{rpc:?}");
        }
    }
}

#[tokio::test]
async fn each_role_makes_the_calls_of_the_table_and_no_other() {
    let stack = Stack::start().await;
    let table = table();
    assert_eq!(table.len(), Rpc::ALL.len());
    for (at, role) in Role::ALL.into_iter().enumerate() {
        let key = stack.key(role).await;
        let key = Some(key.expose_secret());
        for rpc in Rpc::ALL {
            let allowed = table[rpc.name()][at];
            let answer = rest(&stack, *rpc, key).await;
            let forbidden = answer.status() == StatusCode::FORBIDDEN;
            assert_ne!(answer.status(), StatusCode::UNAUTHORIZED, "{role} {rpc:?}");
            let refused = forbidden && reason(answer).await == "role";
            assert_eq!(refused, !allowed, "REST {role} {rpc:?}");
            let (code, reason) = grpc(&stack, *rpc, key).await;
            assert_ne!(code, 16, "{role} {rpc:?}");
            assert_eq!(
                code == 7 && reason == "role",
                !allowed,
                "gRPC {role} {rpc:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_revoked_key_is_out_at_once() {
    let stack = Stack::start().await;
    let admin = stack.admin().await;
    let agent = xylem_client::v1::CreateAgentRequest {
        name: "bot".to_owned(),
        roles: vec![xylem_client::v1::Role::Operator.into()],
    };
    admin.create_agent(agent).await.expect("an agent");
    let made = admin
        .create_api_key(&common::id("bot"), Vec::new(), None)
        .await;
    let (secret, key) = made.expect("a key");
    let bot = xylem_client::Client::connect(&stack.address, &secret)
        .await
        .expect("connected");
    assert_eq!(bot.status().await.expect("in").agent, "bot");
    let revoked = admin.revoke_api_key(&key.id).await.expect("revoked");
    assert!(revoked.revoked_at.is_some());
    let error = bot.status().await.expect_err("out");
    assert!(
        matches!(error, xylem_client::Error::Unauthenticated(_)),
        "{error}"
    );
}

#[tokio::test]
async fn a_key_ends_by_the_clock_of_the_control_plane() {
    let stack = Stack::start().await;
    stack.key_for(Role::Operator, "brief").await;
    let minute = Duration::from_secs(60);
    let now = stack.clock.now();
    let new = NewKey {
        agent: common::id("brief"),
        roles: [Role::Operator].into(),
        queues: [].into(),
        expires_at: Some(now + minute),
    };
    let namespace = common::namespace();
    let issued = stack.registry.create_key(&namespace, new, now).await;
    let key = issued.expect("a key").secret;
    let ask = async || rest(&stack, Rpc::ListTools, Some(key.expose_secret())).await;
    stack.clock.advance(minute - Duration::from_secs(1));
    assert_eq!(ask().await.status(), StatusCode::OK);
    stack.clock.advance(Duration::from_secs(1));
    let answer = ask().await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(reason(answer).await, "key_not_valid");
}
