//! Every call × every role × both protocols.

use crate::common::{self, Stack, last};
use axum::body::Body;
use futures::StreamExt;
use http::{Request, Response, StatusCode};
use secrecy::ExposeSecret;
use std::{collections::BTreeMap, time::Duration};
use tower::ServiceExt;
use xylem_client::{Client, Error, NewKey, v1};
use xylem_control::Control;
use xylem_ids::{AgentKind, Role, Scope};
use xylem_proto::v1::Rpc;
use xylem_vault::Clock;

const TABLE: &str = include_str!("../../src/access.golden");

/// The reviewed table: for each call its scope, and for each role whether it reaches all, its own, or
/// nothing.
fn table() -> BTreeMap<&'static str, (Option<Scope>, Vec<&'static str>)> {
    let line = |line: &'static str| {
        let mut cells = line.split_whitespace();
        let rpc = cells.next().expect("a name");
        let scope = cells.next().expect("a scope").parse().ok();
        (rpc, (scope, cells.collect()))
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
            let allowed = table[rpc.name()].1[at] != "-";
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

/// The routes beside the calls, and who may ask there.
const PLAIN: &str = include_str!("../../src/plain.golden");

async fn plain(stack: &Stack, verb: &str, path: &str, key: Option<&str>) -> StatusCode {
    let mut request = Request::builder().method(verb).uri(path);
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let request = request.body(Body::empty()).expect("a request");
    let answer = stack.control.router().oneshot(request).await;
    answer.expect("an answer").status()
}

#[tokio::test]
async fn what_is_served_beside_the_calls_asks_for_a_key_as_the_table_says() {
    let stack = Stack::start().await;
    let mut keys = Vec::new();
    for role in Role::ALL {
        keys.push(stack.key(role).await);
    }
    let refused = |status| matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    for line in PLAIN.lines() {
        let cells: Vec<_> = line.split_whitespace().collect();
        let [verb, path, who] = cells[..] else {
            panic!("{line}")
        };
        let unknown = plain(&stack, verb, path, None).await;
        assert_eq!(refused(unknown), who == "key", "{line} {unknown}");
        assert_ne!(unknown, StatusCode::NOT_FOUND, "{line}");
        assert_ne!(unknown, StatusCode::METHOD_NOT_ALLOWED, "{line}");
        for key in &keys {
            let known = plain(&stack, verb, path, Some(key.expose_secret())).await;
            assert!(!refused(known), "{line} {known}");
        }
    }
}

/// Whoever adds a route says in the table who may ask there.
#[test]
fn every_route_beside_the_calls_is_in_the_table() {
    let sources = [
        include_str!("../../src/serve.rs"),
        include_str!("../../src/serve/oauth.rs"),
        include_str!("../../src/serve/register.rs"),
    ];
    let mut served: Vec<_> = sources
        .iter()
        .flat_map(|source| source.split(".route(\"").skip(1))
        .filter_map(|rest| rest.split('"').next())
        .collect();
    let mut listed: Vec<_> = PLAIN
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .collect();
    served.sort_unstable();
    listed.sort_unstable();
    assert_eq!(served, listed);
}

#[tokio::test]
async fn a_scope_takes_away_what_the_role_gives() {
    let stack = Stack::start().await;
    let table = table();
    for scope in [
        Scope::Trees,
        Scope::TreesRead,
        Scope::Tools,
        Scope::AuditRead,
    ] {
        let new = xylem_identity::NewKey {
            scopes: [scope].into_iter().collect(),
            ..common::new_key("admin", false)
        };
        let key = stack.issue(new).await;
        for rpc in Rpc::ALL {
            let (needed, cells) = &table[rpc.name()];
            if cells[..4].iter().all(|cell| *cell == "-") {
                continue;
            }
            let allowed = needed.is_none_or(|needed| scope.includes(needed));
            let answer = rest(&stack, *rpc, Some(key.expose_secret())).await;
            let forbidden = answer.status() == StatusCode::FORBIDDEN;
            let refused = forbidden && reason(answer).await == "scope";
            assert_eq!(refused, !allowed, "{scope} {rpc:?}");
        }
    }
}

#[tokio::test]
async fn a_user_sees_its_own_keys_alone() {
    let stack = Stack::start().await;
    let connect = async |name| {
        let key = stack.key_for(Role::User, name).await;
        let client = Client::connect(&stack.address, &key).await;
        client.expect("a connection")
    };
    let (one, other) = (connect("one").await, connect("other").await);
    let keys = one.list_api_keys(Default::default()).await.expect("a list");
    assert!(keys.keys.iter().all(|key| key.agent == "one"));
    let id = &keys.keys[0].id;
    let hidden = other.revoke_api_key(id).await.expect_err("not found");
    assert!(
        matches!(hidden, xylem_client::Error::NotFound(_)),
        "{hidden}"
    );
    let foreign = NewKey::new(common::id("one"), Vec::new());
    let hidden = other.create_api_key(foreign).await.expect_err("not found");
    assert!(
        matches!(hidden, xylem_client::Error::NotFound(_)),
        "{hidden}"
    );
    one.revoke_api_key(id).await.expect("its own");
}

#[tokio::test]
async fn nobody_makes_or_rotates_the_keys_of_another_person() {
    let stack = Stack::start().await;
    let person = xylem_identity::NewAgent {
        id: common::id("maria"),
        kind: AgentKind::User,
        roles: [Role::User].into(),
    };
    stack.agent(person).await;
    let key = stack.issue(common::new_key("maria", false)).await;
    let maria = Client::connect(&stack.address, &key).await;
    let maria = maria.expect("a connection");
    let admin = stack.admin().await;
    let new = || NewKey::new(common::id("maria"), Vec::new());
    let error = admin.create_api_key(new()).await.expect_err("hers");
    let field = |error: &xylem_client::Error| {
        let answer = error.answer().and_then(|answer| answer.field.clone());
        answer.unwrap_or_default()
    };
    assert_eq!(field(&error), "agent", "{error}");
    let (_, own) = maria.create_api_key(new()).await.expect("her own");
    let error = admin.rotate_api_key(&own.id, None).await;
    let error = error.expect_err("hers");
    assert_eq!(field(&error), "id", "{error}");
    maria.rotate_api_key(&own.id, None).await.expect("her own");
    admin.revoke_api_key(&own.id).await.expect("revoked");
}

async fn answered(control: &Control, request: Request<Body>) -> (StatusCode, serde_json::Value) {
    let answer = control.router().oneshot(request).await.expect("an answer");
    let (parts, body) = answer.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
    (parts.status, serde_json::from_slice(&body).expect("JSON"))
}

#[tokio::test]
async fn a_key_of_another_namespace_is_none_here() {
    let stack = Stack::start().await;
    let other = stack.beside("other");
    let key = stack.admin_key();
    let ask = async |control: &Control, secret: &str| {
        let request = Request::builder()
            .uri("/v1/agents")
            .header("authorization", format!("Bearer {secret}"));
        let request = request.body(Body::empty()).expect("a request");
        answered(control, request).await
    };
    let exchange = async |control: &Control| {
        let body = format!("grant_type=client_credentials&client_id=admin&client_secret={key}");
        let request = Request::builder()
            .method("POST")
            .uri("/token")
            .header("content-type", "application/x-www-form-urlencoded");
        let request = request.body(Body::from(body)).expect("a request");
        answered(control, request).await
    };
    let (status, body) = exchange(&stack.control).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let token = body["access_token"].as_str().expect("a token");
    for secret in [key, token] {
        let (status, body) = ask(&stack.control, secret).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let (status, body) = ask(&other, secret).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{body}");
        assert_eq!(body["details"][0]["reason"], "key_not_valid", "{body}");
    }
    let (status, body) = exchange(&other).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{body}");
    assert_eq!(body["error"], "invalid_client", "{body}");
}

#[tokio::test]
async fn everybody_looks_at_their_own_agent_and_at_others_who_may_list_them() {
    let stack = Stack::start().await;
    let client = async |role, name: &str| {
        let key = stack.key_for(role, name).await;
        let client = Client::connect(&stack.address, &key).await;
        client.expect("a connection")
    };
    let one = client(Role::User, "one").await;
    let worker = client(Role::Worker, "worker").await;
    let auditor = client(Role::Auditor, "auditor").await;
    let admin = stack.admin().await;
    let own = one.get_agent(&common::id("one")).await.expect("its own");
    assert_eq!(own.name, "one");
    let worker = worker.get_agent(&common::id("worker")).await;
    assert_eq!(worker.expect("its own").name, "worker");
    for other in ["worker", "nobody"] {
        let error = one.get_agent(&common::id(other)).await.expect_err(other);
        assert!(
            matches!(&error, xylem_client::Error::NotFound(_)),
            "{error}"
        );
        assert!(error.to_string().contains("no such agent"), "{error}");
    }
    for who in [admin, auditor] {
        let seen = who.get_agent(&common::id("one")).await.expect("another");
        assert_eq!(seen, own);
        let error = who.get_agent(&common::id("nobody")).await;
        let error = error.expect_err("there is none");
        assert!(
            matches!(&error, xylem_client::Error::NotFound(_)),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_revoked_key_is_out_at_once() {
    let stack = Stack::start().await;
    let admin = stack.admin().await;
    let agent = v1::CreateAgentRequest {
        name: "bot".to_owned(),
        roles: vec![v1::Role::User.into()],
        kind: v1::AgentKind::Bot.into(),
    };
    admin.create_agent(agent).await.expect("an agent");
    let made = admin.create_api_key(NewKey::new(common::id("bot"), Vec::new()));
    let made = made.await;
    let (secret, key) = made.expect("a key");
    let bot = Client::connect(&stack.address, &secret)
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
    stack.key_for(Role::User, "brief").await;
    let minute = Duration::from_secs(60);
    let new = xylem_identity::NewKey {
        expires_at: Some(stack.clock.now() + minute),
        ..common::new_key("brief", false)
    };
    let key = stack.issue(new).await;
    let ask = async || rest(&stack, Rpc::ListTools, Some(key.expose_secret())).await;
    stack.clock.advance(minute - Duration::from_secs(1));
    assert_eq!(ask().await.status(), StatusCode::OK);
    stack.clock.advance(Duration::from_secs(1));
    let answer = ask().await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(reason(answer).await, "key_not_valid");
}

#[tokio::test]
async fn a_key_ends_by_default_and_none_outlives_the_one_it_was_made_with() {
    let stack = Stack::start().await;
    let day = Duration::from_secs(24 * 60 * 60);
    let admin = stack.admin().await;
    stack.key_for(Role::User, "one").await;
    let new = || NewKey::new(common::id("one"), Vec::new());
    let life = |key: &v1::ApiKey| {
        let seconds = |time: Option<xylem_client::Timestamp>| time.map(|time| time.seconds);
        seconds(key.expires_at).map(|end| end - seconds(key.created_at).unwrap_or_default())
    };
    let (_, usual) = admin.create_api_key(new()).await.expect("a key");
    assert_eq!(life(&usual), Some(90 * 86_400));
    let never = NewKey {
        never_expires: true,
        ..new()
    };
    let (_, endless) = admin.create_api_key(never.clone()).await.expect("a key");
    assert_eq!(life(&endless), None);
    let brief = NewKey {
        ttl: Some(7 * day),
        scopes: vec![Scope::Keys, Scope::TreesRead],
        ..new()
    };
    let (secret, _) = admin.create_api_key(brief).await.expect("a key");
    let user = Client::connect(&stack.address, &secret).await;
    let user = user.expect("a connection");
    let narrow = NewKey {
        scopes: vec![Scope::TreesRead],
        ..new()
    };
    let (_, made) = user.create_api_key(narrow.clone()).await.expect("a key");
    assert_eq!(life(&made), Some(7 * 86_400));
    let longer = NewKey {
        ttl: Some(8 * day),
        ..narrow.clone()
    };
    let endless = NewKey {
        never_expires: true,
        ..narrow
    };
    for (new, field) in [
        (longer, "ttl"),
        (endless, "never_expires"),
        (new(), "scopes"),
    ] {
        let error = user.create_api_key(new).await.expect_err("too much");
        assert!(matches!(&error, xylem_client::Error::Invalid(_)), "{error}");
        assert!(error.to_string().contains(field), "{error}");
    }
    let keys = user
        .list_api_keys(Default::default())
        .await
        .expect("a list");
    let wide = keys.keys.iter().find(|key| key.scopes.is_empty());
    let wide = &wide.expect("the first one").id;
    let error = user.rotate_api_key(wide, None).await.expect_err("wider");
    assert!(matches!(&error, xylem_client::Error::Invalid(_)), "{error}");
}

#[tokio::test]
async fn the_successor_of_a_key_ends_with_the_key_that_it_was_had_with() {
    let stack = Stack::start().await;
    stack.key_for(Role::User, "one").await;
    let start = stack.clock.now();
    let day = Duration::from_secs(24 * 60 * 60);
    let ending = async |days: u32, name: &str| {
        let new = xylem_identity::NewKey {
            expires_at: Some(start + day * days),
            name: name.to_owned(),
            ..common::new_key("one", false)
        };
        stack.issue(new).await
    };
    let brief = ending(1, "brief").await;
    ending(90, "long").await;
    let one = Client::connect(&stack.address, &brief).await;
    let one = one.expect("a connection");
    let keys = one.list_api_keys(Default::default()).await.expect("a list");
    let named = |name: &str| keys.keys.iter().find(|key| key.name == name).expect("it");
    let seconds = |key: &v1::ApiKey| key.expires_at.as_ref().expect("an end").seconds;
    stack.clock.advance(day / 2);
    let long = one.rotate_api_key(&named("long").id, None).await;
    let (_, long) = long.expect("rotated");
    assert_eq!(seconds(&long), seconds(named("brief")));
    let itself = one.rotate_api_key(&named("brief").id, None).await;
    let (_, itself) = itself.expect("rotated");
    assert_eq!(seconds(&itself), seconds(named("brief")) + 86_400 / 2);
}

#[tokio::test]
async fn none_that_is_made_or_replaced_with_a_key_works_from_elsewhere() {
    let stack = Stack::start().await;
    stack.key_for(Role::User, "one").await;
    let new = xylem_identity::NewKey {
        networks: vec!["127.0.0.0/8".parse().expect("a network")],
        ..common::new_key("one", false)
    };
    let key = stack.issue(new).await;
    let one = Client::connect(&stack.address, &key).await;
    let one = one.expect("a connection");
    let make = async |networks: &[&str]| {
        let networks = networks.iter().map(|text| common::id(text)).collect();
        let new = NewKey {
            networks,
            ..NewKey::new(common::id("one"), Vec::new())
        };
        one.create_api_key(new).await
    };
    for elsewhere in [
        &[] as &[_],
        &["0.0.0.0/0"],
        &["127.0.0.0/9", "192.0.2.0/24"],
        &["::/0"],
    ] {
        let error = make(elsewhere).await.expect_err("elsewhere");
        assert!(error.to_string().contains("networks"), "{error}");
    }
    make(&["127.0.0.1/32", "127.128.0.0/9"])
        .await
        .expect("a key");
    let keys = one.list_api_keys(Default::default()).await.expect("a list");
    let anywhere = keys.keys.iter().find(|key| key.networks.is_empty());
    let anywhere = &anywhere.expect("the first one").id;
    let error = one.rotate_api_key(anywhere, None).await;
    let error = error.expect_err("elsewhere");
    assert!(error.to_string().contains("networks"), "{error}");
}

#[tokio::test]
async fn a_workers_key_replaces_none_of_other_queues() {
    let stack = Stack::start().await;
    let key = stack.key_for(Role::Worker, "hand").await;
    let both = xylem_identity::NewKey {
        queues: [common::id(common::QUEUE), common::id("payments")].into(),
        ..common::new_key("hand", true)
    };
    stack.issue(both).await;
    let hand = Client::connect(&stack.address, &key).await;
    let hand = hand.expect("a connection");
    let keys = hand.list_api_keys(Default::default()).await;
    for key in keys.expect("a list").keys {
        let rotated = hand.rotate_api_key(&key.id, None).await;
        assert_eq!(rotated.is_ok(), key.task_queues.len() == 1, "{rotated:?}");
    }
}

#[tokio::test]
async fn an_agent_is_changed_and_retired_over_the_wire() {
    let stack = Stack::start().await;
    let admin = stack.admin().await;
    stack.key_for(Role::User, "one").await;
    let request = v1::UpdateAgentRequest {
        name: "one".to_owned(),
        add_roles: vec![v1::Role::Auditor.into()],
        kind: v1::AgentKind::Bot.into(),
        ..Default::default()
    };
    let agent = admin.update_agent(request).await.expect("updated");
    assert_eq!(agent.roles().count(), 2);
    assert_eq!(agent.kind(), v1::AgentKind::Bot);
    let retired = admin.retire_agent(&common::id("one")).await;
    assert!(retired.expect("retired").retired_at.is_some());
    let refused = admin.retire_agent(&common::id("admin")).await;
    let refused = refused.expect_err("the last one");
    assert_eq!(refused.reason(), Some("last_administrator"));
}

#[tokio::test]
async fn a_stream_ends_when_its_key_is_revoked_or_its_role_is_gone() {
    let stack = Stack::start().await;
    let admin = stack.admin().await;
    let auditor = stack.key_for(Role::Auditor, "auditor-1").await;
    let auditor = Client::connect(&stack.address, &auditor).await;
    let auditor = auditor.expect("a connection");
    let tail = auditor.tail_audit(Default::default()).await;
    let follow = v1::ExportAuditRequest {
        follow: true,
        ..v1::ExportAuditRequest::default()
    };
    let other = stack.key_for(Role::Auditor, "auditor-2").await;
    let other = Client::connect(&stack.address, &other).await;
    let export = other.expect("a connection").export_audit(follow).await;
    let (tail, export) = (tail.expect("a stream"), export.expect("a stream"));
    let keys = admin.list_api_keys(Default::default()).await.expect("keys");
    let key = keys.keys.iter().find(|key| key.agent == "auditor-1");
    let revoked = admin.revoke_api_key(&key.expect("a key").id).await;
    revoked.expect("revoked");
    let update = v1::UpdateAgentRequest {
        name: "auditor-2".to_owned(),
        add_roles: vec![v1::Role::User.into()],
        remove_roles: vec![v1::Role::Auditor.into()],
        ..v1::UpdateAgentRequest::default()
    };
    admin.update_agent(update).await.expect("updated");
    stack.clock.advance(Duration::from_secs(61));
    let ended = last(Box::pin(tail)).await;
    assert!(matches!(ended, Error::Unauthenticated(_)), "{ended:?}");
    assert_eq!(last(Box::pin(export)).await.reason(), Some("role"));
}

#[tokio::test]
async fn a_stream_ends_with_its_key_although_the_clock_was_set_back() {
    let stack = Stack::start().await;
    let auditor = stack.key_for(Role::Auditor, "auditor-1").await;
    let auditor = Client::connect(&stack.address, &auditor).await;
    let auditor = auditor.expect("a connection");
    let tail = auditor.tail_audit(Default::default()).await;
    let tail = tail.expect("a stream");
    let admin = stack.admin().await;
    stack.clock.set_back(Duration::from_secs(6 * 60 * 60));
    admin
        .retire_agent(&common::id("auditor-1"))
        .await
        .expect("retired");
    let ended = last(Box::pin(tail)).await;
    assert!(matches!(ended, Error::Unauthenticated(_)), "{ended:?}");
}

#[tokio::test]
async fn the_last_entry_that_matches_and_later_ones_come_to_whoever_follows_the_log() {
    let stack = Stack::start().await;
    let admin = stack.admin().await;
    let create = |name: &str| {
        admin.create_agent(v1::CreateAgentRequest {
            name: name.to_owned(),
            roles: vec![v1::Role::User.into()],
            ..v1::CreateAgentRequest::default()
        })
    };
    create("earlier").await.expect("created");
    // Others follow it.
    admin
        .retire_agent(&common::id("earlier"))
        .await
        .expect("retired");
    let filter = v1::AuditFilter {
        action: "agent_created".to_owned(),
        ..v1::AuditFilter::default()
    };
    let request = v1::TailAuditRequest {
        filter: Some(filter),
        last: 1,
    };
    let tail = admin.tail_audit(request).await.expect("a stream");
    let mut tail = Box::pin(tail);
    for name in ["earlier", "later"] {
        if name == "later" {
            create(name).await.expect("created");
        }
        let next = tokio::time::timeout(Duration::from_secs(60), tail.next()).await;
        let entry = next.expect("in time").expect("an entry").expect("intact");
        assert_eq!(entry.subject, format!("agent:{name}"));
    }
}

/// What is asked of a tree, in a form that is valid.
fn of_a_tree(rpc: Rpc) -> &'static str {
    match rpc {
        Rpc::SetToken | Rpc::RotateToken => {
            r#"{"token":"canary-of-another","audiences":["http://127.0.0.1:9"]}"#
        }
        Rpc::RollbackToken | Rpc::RevokeToken => r#"{"version":1}"#,
        Rpc::AllowTools => r#"{"tools":["acme.deploy"]}"#,
        Rpc::TransferTree => r#"{"to":"admin"}"#,
        Rpc::ReissueToken => r#"{"ttl":"7200s"}"#,
        Rpc::StopTree => r#"{"reason":"mine"}"#,
        _ => "{}",
    }
}

#[tokio::test]
async fn the_tree_of_another_is_not_there_for_any_call() {
    let stack = Stack::start().await;
    stack.worker().await;
    stack.tree("train").await;
    let key = stack.key(Role::User).await;
    let table = table();
    let user = Role::ALL.iter().position(|role| *role == Role::User);
    let mut asked = 0;
    for rpc in Rpc::ALL {
        let (verb, path) = rpc.http();
        // That one asks for a second factor before it looks.
        let own = table[rpc.name()].1[user.expect("a role")] == "own";
        if !own || !path.starts_with("/v1/trees/{tree}") || *rpc == Rpc::RevealToken {
            continue;
        }
        asked += 1;
        let path = path.replace("{tree}", "train").replace("{slot}", "default");
        let body = if verb == "GET" { "" } else { of_a_tree(*rpc) };
        let request = Request::builder()
            .method(verb)
            .uri(path)
            .header("authorization", format!("Bearer {}", key.expose_secret()))
            .header("content-type", "application/json")
            .body(Body::from(body));
        let router = stack.control.router();
        let answer = router.oneshot(request.expect("a request")).await;
        let answer = answer.expect("an answer");
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{rpc:?}");
        assert_eq!(reason(answer).await, "not_found", "{rpc:?}");
    }
    assert!(asked >= 9, "{asked}");
    let request = v1::GetTreeRequest {
        tree: "train".to_owned(),
        ..v1::GetTreeRequest::default()
    };
    let tree = stack.admin().await.get_tree(request).await;
    tree.expect("it runs on");
}
