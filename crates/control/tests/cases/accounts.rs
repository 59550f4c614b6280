//! Local accounts over HTTP and gRPC.

use crate::common::{Stack, TOKEN_1, id};
use axum::body::Body;
use http::{Request, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::time::Duration;
use tower::ServiceExt;
use xylem_client::{Client, Error};
use xylem_identity::NewAgent;
use xylem_ids::{AgentKind, Role};
use xylem_testkit::device::code;
use xylem_vault::Clock;

const GOOD: &str = "kolibri tanzt auf neun Booten";
const OTHER: &str = "vier Elche stehen im Nebel";

async fn ask(stack: &Stack, request: Request<Body>) -> (StatusCode, http::HeaderMap, Value) {
    let answer = stack.control.router().oneshot(request).await;
    let (parts, body) = answer.expect("an answer").into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
    let body = serde_json::from_slice(&body).unwrap_or_default();
    (parts.status, parts.headers, body)
}

async fn register(stack: &Stack, body: &Value) -> (StatusCode, Value) {
    let request = Request::builder().method("POST").uri("/register");
    let request = request.header("content-type", "application/json");
    let request = request
        .body(Body::from(body.to_string()))
        .expect("a request");
    let (status, _, body) = ask(stack, request).await;
    (status, body)
}

async fn token(stack: &Stack, fields: &[(&str, &str)]) -> (StatusCode, http::HeaderMap, Value) {
    let body = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .finish();
    let request = Request::builder().method("POST").uri("/token");
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    ask(stack, request.body(Body::from(body)).expect("a request")).await
}

fn password<'a>(name: &'a str, password: &'a str) -> [(&'a str, &'a str); 4] {
    [
        ("grant_type", "password"),
        ("username", name),
        ("password", password),
        ("client_id", "cli"),
    ]
}

async fn open() -> Stack {
    let stack = Stack::with(|settings| settings.open_registration = true).await;
    let (status, body) = register(&stack, &json!({ "name": "one", "password": GOOD })).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    assert_eq!(body, json!({ "name": "one", "roles": ["user"] }));
    stack
}

async fn signed_in(stack: &Stack) -> (Client, Value) {
    let (status, headers, body) = token(stack, &password("one", GOOD)).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(headers["cache-control"], "no-store");
    let access = SecretString::from(body["access_token"].as_str().expect("a token"));
    let client = Client::connect(&stack.address, &access).await;
    (client.expect("a connection"), body)
}

#[tokio::test]
async fn who_registers_signs_in_and_is_a_user() {
    let stack = open().await;
    let (client, body) = signed_in(&stack).await;
    let status = client.status().await.expect("a status");
    assert_eq!(
        (status.agent.as_str(), status.roles),
        ("one", vec!["user".to_owned()])
    );
    let refresh = body["refresh_token"].as_str().expect("a refresh token");
    assert!(refresh.starts_with("xyr_"));
    assert!(
        body["device_token"]
            .as_str()
            .expect("a token")
            .starts_with("xyd_")
    );
    let fields = [
        ("grant_type", "refresh_token"),
        ("refresh_token", refresh),
        ("client_id", "cli"),
    ];
    let (status, _, next) = token(&stack, &fields).await;
    assert_eq!(status, StatusCode::OK, "{next}");
    assert_ne!(next["refresh_token"], body["refresh_token"]);
    stack.clock.advance(Duration::from_secs(11));
    let (status, _, reused) = token(&stack, &fields).await;
    assert_eq!(
        (status.as_u16(), &reused["error"]),
        (400, &json!("invalid_grant"))
    );
    assert!(matches!(
        client.status().await,
        Err(Error::Unauthenticated(_))
    ));
}

#[tokio::test]
async fn registration_is_closed_and_an_invitation_opens_it() {
    let stack = Stack::start().await;
    let (status, body) = register(&stack, &json!({ "name": "one", "password": GOOD })).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(
        body["details"][0]["reason"], "registration_closed",
        "{body}"
    );
    let new = NewAgent {
        id: id("one"),
        kind: AgentKind::User,
        roles: [Role::Auditor].into(),
    };
    stack.agent(new).await;
    let admin = stack.admin().await;
    let (invitation, _) = admin.invite_agent(&id("one")).await.expect("an invitation");
    let mut body =
        json!({ "name": "one", "password": GOOD, "invitation": invitation.expose_secret() });
    body["password"] = "kurz".into();
    let (status, weak) = register(&stack, &body).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{weak}");
    assert!(!weak.to_string().contains("kurz"));
    body["password"] = GOOD.into();
    let (status, made) = register(&stack, &body).await;
    assert_eq!(
        (status, &made["roles"]),
        (StatusCode::CREATED, &json!(["auditor"]))
    );
    let (status, _) = register(&stack, &body).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    signed_in(&stack).await;
    let service = admin.invite_agent(&id("admin")).await;
    assert!(matches!(service, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn what_is_wrong_is_not_told_apart_and_too_much_of_it_waits() {
    let stack = open().await;
    let mut answers = Vec::new();
    for (name, word) in [("one", OTHER), ("nobody", GOOD), ("No Name!", GOOD)] {
        let (status, _, body) = token(&stack, &password(name, word)).await;
        answers.push((status.as_u16(), body));
    }
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
    assert_eq!(answers[0].1["error"], "invalid_grant");
    for _ in 0..5 {
        token(&stack, &password("one", OTHER)).await;
    }
    let (status, headers, body) = token(&stack, &password("one", GOOD)).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(body["error"], "temporarily_unavailable");
    assert!(headers.contains_key("retry-after"));
}

#[tokio::test]
async fn forms_that_are_not_complete_are_refused() {
    let stack = open().await;
    for fields in [
        &[("grant_type", "password"), ("username", "one")] as &[_],
        &[("grant_type", "refresh_token")],
        &[
            ("grant_type", "refresh_token"),
            ("refresh_token", "x"),
            ("client_id", "no/client"),
        ],
    ] {
        let (status, _, body) = token(&stack, fields).await;
        assert_eq!(
            (status.as_u16(), &body["error"]),
            (400, &json!("invalid_request"))
        );
    }
    for body in [
        json!({ "name": "two" }),
        json!([]),
        json!({ "name": "two", "password": GOOD, "role": "admin" }),
    ] {
        let (status, answer) = register(&stack, &body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
        assert!(!answer.to_string().contains(GOOD));
    }
}

#[tokio::test]
async fn people_see_and_end_their_own_sessions_and_change_their_password() {
    let stack = open().await;
    let (first, _) = signed_in(&stack).await;
    let (second, _) = signed_in(&stack).await;
    let sessions = second.list_sessions().await.expect("sessions");
    assert_eq!(sessions.len(), 2);
    assert_eq!(sessions.iter().filter(|session| session.current).count(), 1);
    let other = sessions
        .iter()
        .find(|session| !session.current)
        .expect("the first");
    let admin = stack.admin().await;
    let foreign = admin.end_session(&other.id).await;
    assert!(matches!(foreign, Err(Error::NotFound(_))));
    second.end_session(&other.id).await.expect("ended");
    assert!(matches!(
        first.status().await,
        Err(Error::Unauthenticated(_))
    ));
    let (good, new) = (SecretString::from(GOOD), SecretString::from(OTHER));
    let wrong = second.change_password(&new, &new).await;
    assert_eq!(wrong.expect_err("another").reason(), Some("password_wrong"));
    second.change_password(&good, &new).await.expect("changed");
    assert!(matches!(
        second.status().await,
        Err(Error::Unauthenticated(_))
    ));
    let (status, _, _) = token(&stack, &password("one", OTHER)).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn a_person_who_is_signed_in_makes_keys_that_live_longer_than_the_token() {
    let stack = open().await;
    let (client, _) = signed_in(&stack).await;
    let new = xylem_client::NewKey {
        agent: id("one"),
        task_queues: Vec::new(),
        scopes: Vec::new(),
        ttl: Some(Duration::from_secs(24 * 3600)),
        name: String::new(),
        networks: Vec::new(),
        never_expires: false,
    };
    client.create_api_key(new).await.expect("a key");
}

/// Somebody with an authenticator: its secret, and the recovery codes.
struct Factor {
    secret: SecretString,
    recovery: Vec<SecretString>,
}

/// Enrols a second factor, and goes on to the step after.
async fn enrolled(stack: &Stack, client: &Client) -> Factor {
    let good = SecretString::from(GOOD);
    let (secret, uri) = client.enrol_second_factor(&good).await.expect("begun");
    assert!(uri.expose_secret().contains(secret.expose_secret()));
    let first = code(&secret, stack.clock.now());
    let recovery = client.confirm_second_factor(&first).await;
    stack.clock.advance(Duration::from_secs(30));
    Factor {
        secret,
        recovery: recovery.expect("confirmed"),
    }
}

async fn with_code(stack: &Stack, name: &str, code: &SecretString) -> (StatusCode, Value) {
    let mut fields = password(name, GOOD).to_vec();
    fields.push(("otp", code.expose_secret()));
    let (status, _, body) = token(stack, &fields).await;
    (status, body)
}

async fn client(stack: &Stack, body: &Value) -> Client {
    let access = SecretString::from(body["access_token"].as_str().expect("a token"));
    let client = Client::connect(&stack.address, &access).await;
    client.expect("a connection")
}

/// An administrator who is a person, and has a password.
async fn boss(stack: &Stack) {
    let new = NewAgent {
        id: id("boss"),
        kind: AgentKind::User,
        roles: [Role::Admin].into(),
    };
    stack.agent(new).await;
    let admin = stack.admin().await;
    let (invitation, _) = admin.invite_agent(&id("boss")).await.expect("invited");
    let body =
        json!({ "name": "boss", "password": GOOD, "invitation": invitation.expose_secret() });
    let (status, body) = register(stack, &body).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
}

async fn by_password(stack: &Stack, name: &str) -> Client {
    let (status, _, body) = token(stack, &password(name, GOOD)).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    client(stack, &body).await
}

async fn by_recovery_code(stack: &Stack, factor: &Factor) -> Client {
    let (status, body) = with_code(stack, "one", &factor.recovery[0]).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    client(stack, &body).await
}

#[tokio::test]
async fn an_account_with_a_second_factor_signs_in_with_a_code_that_is_good_once() {
    let stack = open().await;
    let factor = enrolled(&stack, &by_password(&stack, "one").await).await;
    let (alone, _, body) = token(&stack, &password("one", GOOD)).await;
    let (wrong, _, same) = token(&stack, &password("one", OTHER)).await;
    assert_eq!((alone.as_u16(), &body), (400, &same), "nobody learns which");
    assert_eq!((wrong, &body["error"]), (alone, &json!("invalid_grant")));

    let now = code(&factor.secret, stack.clock.now());
    let (status, body) = with_code(&stack, "one", &now).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let shown = client(&stack, &body).await.status().await.expect("status");
    assert!(shown.second_factor && shown.signed_in_at.is_some());
    let (replayed, body) = with_code(&stack, "one", &now).await;
    assert_eq!(
        (replayed.as_u16(), &body["error"]),
        (400, &json!("invalid_grant"))
    );
    let recovery = &factor.recovery[0];
    let (status, body) = with_code(&stack, "one", recovery).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let (again, _) = with_code(&stack, "one", recovery).await;
    assert_eq!(again, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn recovery_codes_are_made_anew_by_whoever_has_password_and_device() {
    let stack = open().await;
    let factor = enrolled(&stack, &by_password(&stack, "one").await).await;
    let (_, body) = with_code(&stack, "one", &factor.recovery[0]).await;
    let one = client(&stack, &body).await;
    let (good, other) = (SecretString::from(GOOD), SecretString::from(OTHER));
    let device = code(&factor.secret, stack.clock.now());
    for (password, code, reason) in [
        (&other, &device, "password_wrong"),
        (&good, &factor.recovery[1], "code_wrong"),
    ] {
        let refused = one.renew_recovery_codes(password, code).await;
        assert_eq!(refused.expect_err(reason).reason(), Some(reason));
    }
    let codes = one.renew_recovery_codes(&good, &device).await;
    let codes = codes.expect("other codes");
    let (old, _) = with_code(&stack, "one", &factor.recovery[1]).await;
    let (new, _) = with_code(&stack, "one", &codes[0]).await;
    assert_eq!((old.as_u16(), new.as_u16()), (400, 200));
    let nobodys = stack.client(Role::User).await;
    let refused = nobodys.renew_recovery_codes(&good, &device).await;
    assert!(refused.is_err(), "a key has no password");
}

#[tokio::test]
async fn a_second_factor_is_enrolled_removed_and_reset_by_whom_it_concerns() {
    let stack = open().await;
    let one = by_password(&stack, "one").await;
    let wrong = one.enrol_second_factor(&SecretString::from(OTHER)).await;
    let wrong = wrong.expect_err("another password");
    assert_eq!(wrong.reason(), Some("password_wrong"));
    let code_of_none = SecretString::from("123456");
    let nothing = one.confirm_second_factor(&code_of_none).await;
    assert!(matches!(nothing, Err(Error::NotFound(_))));
    let factor = enrolled(&stack, &one).await;
    let ended = one.status().await;
    let ended = ended.expect_err("a session from before");
    assert!(matches!(ended, Error::Unauthenticated(_)), "{ended}");
    let one = by_recovery_code(&stack, &factor).await;
    let wrong = one
        .remove_second_factor(&SecretString::from("no code"))
        .await;
    assert_eq!(wrong.expect_err("no code").reason(), Some("code_wrong"));
    stack.clock.advance(Duration::from_secs(30));
    let now = code(&factor.secret, stack.clock.now());
    one.remove_second_factor(&now).await.expect("removed");
    by_password(&stack, "one").await;

    stack.clock.advance(Duration::from_secs(3600));
    let factor = enrolled(&stack, &by_password(&stack, "one").await).await;
    let one = by_recovery_code(&stack, &factor).await;
    let other = one.reset_second_factor(&id("one")).await;
    assert!(matches!(other, Err(Error::Denied(_))), "{other:?}");
    let admin = stack.admin().await;
    let own = admin.reset_second_factor(&id("admin")).await;
    let own = own.expect_err("their own");
    assert_eq!(own.reason(), Some("own_second_factor"));
    admin.reset_second_factor(&id("one")).await.expect("reset");
    assert!(matches!(one.status().await, Err(Error::Unauthenticated(_))));
    let none = admin.reset_second_factor(&id("one")).await;
    assert!(matches!(none, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn a_role_that_needs_a_second_factor_only_enrols_one_without_it() {
    let stack = Stack::strict([Role::Admin].into(), |_| {}).await;
    boss(&stack).await;
    let alone = by_password(&stack, "boss").await;
    let refused = alone
        .list_agents(xylem_client::v1::ListAgentsRequest::default())
        .await
        .expect_err("no second factor");
    assert_eq!(refused.reason(), Some("second_factor_required"));
    let status = alone.status().await.expect("a status");
    assert!(status.narrowed);
    assert_eq!(status.scopes, ["account"]);
    let mut reader = password("boss", GOOD).to_vec();
    reader.push(("scope", "trees:read"));
    let (_, _, body) = token(&stack, &reader).await;
    let status = client(&stack, &body).await.status().await;
    let status = status.expect("a status");
    assert!(status.narrowed && status.scopes.is_empty(), "{status:?}");
    let whole = stack.admin().await.status().await.expect("a status");
    assert!(!whole.narrowed && whole.scopes.is_empty());
    let factor = enrolled(&stack, &alone).await;
    let refused = alone
        .list_agents(xylem_client::v1::ListAgentsRequest::default())
        .await;
    refused.expect_err("that session has shown none, and is over");
    let now = code(&factor.secret, stack.clock.now());
    let (status, body) = with_code(&stack, "boss", &now).await;
    assert_eq!((status, &body["scope"]), (StatusCode::OK, &Value::Null));
    let enough = client(&stack, &body).await;
    enough
        .list_agents(xylem_client::v1::ListAgentsRequest::default())
        .await
        .expect("agents");
}

#[tokio::test]
async fn a_policy_asks_for_the_second_factor_before_a_token_is_shown() {
    let stack = Stack::start().await;
    stack.tree("train").await;
    boss(&stack).await;
    let policy = json!({"name": "break-glass", "effect": "allow", "who": {"agents": ["boss"]},
        "what": {"all": true}, "actions": ["reveal"],
        "when": {"second_factor": true, "signed_in": {"at_most": "5m"}}});
    let policy = serde_json::from_value(policy).expect("a policy");
    let admin = stack.admin().await;
    admin.create_policy(policy).await.expect("stored");
    let (tree, slot) = (id("train"), id("default"));

    let alone = by_password(&stack, "boss").await;
    let refused = alone.reveal_token(&tree, &slot, "incident 4711").await;
    let refused = refused.expect_err("no second factor");
    assert_eq!(refused.reason(), Some("second_factor_required"));
    let factor = enrolled(&stack, &alone).await;
    let now = code(&factor.secret, stack.clock.now());
    let (status, body) = with_code(&stack, "boss", &now).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let enough = client(&stack, &body).await;
    let revealed = enough.reveal_token(&tree, &slot, "incident 4711").await;
    let revealed = revealed.expect("shown");
    assert_eq!(revealed.token.expose_secret(), TOKEN_1);
    stack.clock.advance(Duration::from_secs(301));
    let late = enough.reveal_token(&tree, &slot, "incident 4711").await;
    late.expect_err("signed in too long ago");
}
