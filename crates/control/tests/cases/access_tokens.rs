//! Access tokens over HTTP.

use crate::common::{self, ISSUER, Stack};
use axum::body::Body;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, Request, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::time::Duration;
use tower::ServiceExt;
use xylem_client::{Client, Error, v1};
use xylem_ids::{Role, Scope};

const MINUTE: Duration = Duration::from_secs(60);
const FORM: &str = "application/x-www-form-urlencoded";

async fn ask(stack: &Stack, request: Request<Body>) -> (StatusCode, HeaderMap, Value) {
    let answer = stack.control.router().oneshot(request).await;
    let (parts, body) = answer.expect("an answer").into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
    let body = serde_json::from_slice(&body).unwrap_or_default();
    (parts.status, parts.headers, body)
}

fn form(path: &str, fields: &[(&str, &str)]) -> Request<Body> {
    let body = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .finish();
    let request = Request::builder().method("POST").uri(path);
    request
        .header("content-type", FORM)
        .body(Body::from(body))
        .expect("a request")
}

fn credentials<'k>(id: &'k str, key: &'k str) -> [(&'k str, &'k str); 3] {
    [
        ("grant_type", "client_credentials"),
        ("client_id", id),
        ("client_secret", key),
    ]
}

/// A user's key, and a token for it.
async fn exchanged(stack: &Stack) -> (SecretString, String) {
    let key = stack.key_for(Role::User, "one").await;
    let fields = credentials("one", key.expose_secret());
    let (status, _, body) = ask(stack, form("/token", &fields)).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let token = body["access_token"].as_str().expect("a token").to_owned();
    (key, token)
}

async fn client(stack: &Stack, token: &str) -> Client {
    let client = Client::connect(&stack.address, &SecretString::from(token)).await;
    client.expect("a connection")
}

async fn works(stack: &Stack, token: &str) -> bool {
    match client(stack, token).await.status().await {
        Ok(status) => status.agent == "one",
        Err(Error::Unauthenticated(_)) => false,
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_key_is_exchanged_for_a_token_of_fifteen_minutes() {
    let stack = Stack::start().await;
    let (_, token) = exchanged(&stack).await;
    assert!(works(&stack, &token).await);
    stack.clock.advance(15 * MINUTE - Duration::from_secs(1));
    assert!(works(&stack, &token).await);
    stack.clock.advance(Duration::from_secs(1));
    assert!(!works(&stack, &token).await);
}

#[tokio::test]
async fn what_a_token_says_is_the_profile_and_no_role() {
    let stack = Stack::start().await;
    let key = stack.key_for(Role::User, "one").await;
    let mut fields = credentials("one", key.expose_secret()).to_vec();
    fields.push(("scope", "trees:read tokens"));
    let (_, headers, body) = ask(&stack, form("/token", &fields)).await;
    assert_eq!(headers["cache-control"], "no-store");
    assert_eq!(headers["pragma"], "no-cache");
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["expires_in"], 900);
    assert_eq!(body["scope"], "trees:read tokens");
    let token = body["access_token"].as_str().expect("a token");
    let part = |at| {
        let part: &str = token.split('.').nth(at).expect("a part");
        let part = URL_SAFE_NO_PAD.decode(part).expect("base64url");
        serde_json::from_slice::<Value>(&part).expect("JSON")
    };
    let (header, claims) = (part(0), part(1));
    assert_eq!(
        (&header["alg"], &header["typ"]),
        (&json!("EdDSA"), &json!("at+jwt"))
    );
    let names: std::collections::BTreeSet<_> = claims.as_object().expect("claims").keys().collect();
    let names: Vec<_> = names.into_iter().collect();
    let expected = [
        "aud",
        "client_id",
        "exp",
        "iat",
        "iss",
        "jti",
        "ns",
        "scope",
        "sub",
    ];
    assert_eq!(names, expected);
    assert_eq!(
        (&claims["iss"], &claims["aud"]),
        (&json!(ISSUER), &json!(ISSUER))
    );
    assert_eq!(
        (&claims["sub"], &claims["ns"]),
        (&json!("one"), &json!("default"))
    );
    let (_, _, keys) = ask(&stack, get("/.well-known/jwks.json")).await;
    assert_eq!(keys["keys"][0]["kid"], header["kid"]);
    assert!(keys["keys"][0]["d"].is_null());
    let user = client(&stack, token).await;
    assert!(user.list_trees(Default::default()).await.is_ok());
    let narrowed = user.list_api_keys(Default::default()).await;
    assert_eq!(narrowed.expect_err("narrowed").reason(), Some("scope"));
}

fn get(path: &str) -> Request<Body> {
    Request::builder()
        .uri(path)
        .body(Body::empty())
        .expect("a request")
}

#[tokio::test]
async fn what_is_no_token_of_ours_is_refused() {
    let stack = Stack::start().await;
    let (_, token) = exchanged(&stack).await;
    let parts: Vec<&str> = token.split('.').collect();
    let decoded = |at: usize| {
        let bytes = URL_SAFE_NO_PAD.decode(parts[at]).expect("base64url");
        serde_json::from_slice::<Value>(&bytes).expect("JSON")
    };
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let with_header = |name: &str, value: Value| {
        let mut header = decoded(0);
        header[name] = value;
        format!("{}.{}.{}", encode(&header), parts[1], parts[2])
    };
    let with_claim = |name: &str, value: Value| {
        let mut claims = decoded(1);
        claims[name] = value;
        format!("{}.{}.{}", parts[0], encode(&claims), parts[2])
    };
    stack.worker().await;
    stack.tree("train").await;
    let grant = stack.temporal.signals("train").remove(0).to_string();
    for wrong in [
        with_header("alg", json!("none")),
        with_header("alg", json!("HS256")),
        with_header("typ", json!("JWT")),
        with_header("typ", Value::Null),
        with_header("kid", json!("other")),
        with_header("crit", json!(["exp"])),
        with_header("jku", json!("https://evil.example/keys")),
        with_claim("sub", json!("admin")),
        with_claim("exp", json!("9999999999")),
        with_claim("exp", json!(9_999_999_999_u64)),
        with_claim("aud", json!(["https://other.example"])),
        format!("{}.{}.", parts[0], parts[1]),
        token[..token.len() - 2].to_owned(),
        format!("{token}{}", "A".repeat(9000)),
        grant.trim_matches('"').to_owned(),
        grant
            .trim_matches('"')
            .trim_start_matches("xylem1.")
            .to_owned(),
    ] {
        let error = client(&stack, &wrong).await.status().await;
        let error = error.expect_err("not ours");
        assert!(matches!(error, Error::Unauthenticated(_)), "{error}");
        assert_eq!(error.reason(), Some("key_not_valid"));
    }
    assert!(works(&stack, &token).await);
}

#[tokio::test]
async fn a_token_ends_at_once_when_it_or_its_key_is_revoked() {
    let stack = Stack::start().await;
    let (key, token) = exchanged(&stack).await;
    let (status, _, _) = ask(&stack, form("/revoke", &[("token", &token)])).await;
    assert_eq!(status, StatusCode::OK);
    assert!(!works(&stack, &token).await);
    let fields = credentials("one", key.expose_secret());
    let (_, _, body) = ask(&stack, form("/token", &fields)).await;
    let second = body["access_token"].as_str().expect("a token").to_owned();
    assert!(works(&stack, &second).await);
    let admin = stack.admin().await;
    let keys = admin
        .list_api_keys(Default::default())
        .await
        .expect("a list");
    let id = keys
        .keys
        .iter()
        .find(|key| key.agent == "one")
        .expect("a key");
    admin.revoke_api_key(&id.id).await.expect("revoked");
    assert!(!works(&stack, &second).await);
}

#[tokio::test]
async fn an_administrator_replaces_the_key_that_signs() {
    let stack = Stack::start().await;
    let (_, token) = exchanged(&stack).await;
    let published = async || {
        let (_, _, body) = ask(&stack, get("/.well-known/jwks.json")).await;
        let keys = body["keys"].as_array().expect("keys").clone();
        keys.into_iter().map(|key| key["kid"].clone())
    };
    let one = client(&stack, &token).await;
    let refused = one.rotate_signing_key(true).await;
    assert_eq!(refused.expect_err("no role").reason(), Some("role"));
    let admin = stack.admin().await;
    let next = admin.rotate_signing_key(false).await.expect("rotated");
    assert_eq!(published().await.count(), 2);
    assert!(works(&stack, &token).await);
    let last = admin.rotate_signing_key(true).await.expect("rotated");
    assert!(published().await.eq([json!(last.key_id)]));
    assert!(!works(&stack, &token).await);
    let page = admin.list_audit(v1::ListAuditRequest {
        filter: Some(v1::AuditFilter {
            agent: "admin".to_owned(),
            action: "signing_key_made".to_owned(),
            ..v1::AuditFilter::default()
        }),
        ..v1::ListAuditRequest::default()
    });
    let entries = page.await.expect("entries").entries;
    let noted: Vec<_> = entries
        .iter()
        .map(|entry| (entry.subject.clone(), entry.reason.as_str()))
        .collect();
    let of = |key: &str| format!("key:{key}");
    let expected = [(of(&next.key_id), ""), (of(&last.key_id), "compromised")];
    assert_eq!(noted, expected);
}

#[tokio::test]
async fn another_thing_than_a_token_is_no_error_but_a_key_is() {
    let stack = Stack::start().await;
    let (status, _, _) = ask(&stack, form("/revoke", &[("token", "whatever")])).await;
    assert_eq!(status, StatusCode::OK);
    let key = stack.admin_key().to_owned();
    let (status, _, body) = ask(&stack, form("/revoke", &[("token", &key)])).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(body["error"], "unsupported_token_type");
}

#[tokio::test]
async fn errors_are_those_of_rfc_6749() {
    let stack = Stack::start().await;
    let key = stack.key_for(Role::User, "one").await;
    let key = key.expose_secret();
    let good = credentials("one", key);
    let with = |extra: &[(&'static str, &'static str)]| {
        let mut fields = good.to_vec();
        fields.extend(extra);
        form("/token", &fields)
    };
    let mut json_body = with(&[]);
    let json_kind = "application/json".parse().expect("a value");
    json_body.headers_mut().insert("content-type", json_kind);
    let mut both = with(&[]);
    let basic = "Basic b25lOnR3bw==".parse().expect("a value");
    both.headers_mut().insert("authorization", basic);
    let in_url = form("/token?client_id=one", &good);
    for (request, status, error) in [
        (form("/token", &good[1..]), 400, "invalid_request"),
        (with(&[("client_id", "one")]), 400, "invalid_request"),
        (in_url, 400, "invalid_request"),
        (json_body, 400, "invalid_request"),
        (both, 400, "invalid_request"),
        (
            form("/token", &[("grant_type", "implicit")]),
            400,
            "unsupported_grant_type",
        ),
        (with(&[("scope", "tree")]), 400, "invalid_scope"),
        (form("/token", &good[..1]), 401, "invalid_client"),
        (
            form("/token", &credentials("two", key)),
            401,
            "invalid_client",
        ),
        (
            form("/token", &credentials("one", "xyk_wrong")),
            401,
            "invalid_client",
        ),
    ] {
        let (answered, headers, body) = ask(&stack, request).await;
        assert_eq!(
            (answered.as_u16(), &body["error"]),
            (status, &json!(error)),
            "{body}"
        );
        assert_eq!(headers["cache-control"], "no-store");
        assert_eq!(headers.contains_key("www-authenticate"), status == 401);
        assert!(headers.contains_key("x-request-id"));
        assert!(!body.to_string().contains(key));
    }
}

#[tokio::test]
async fn a_narrowed_key_gives_no_wider_token() {
    let stack = Stack::start().await;
    stack.key_for(Role::User, "one").await;
    let new = xylem_identity::NewKey {
        scopes: [Scope::TreesRead].into_iter().collect(),
        ..common::new_key("one", false)
    };
    let key = stack.issue(new).await;
    let mut fields = credentials("one", key.expose_secret()).to_vec();
    let (_, _, body) = ask(&stack, form("/token", &fields)).await;
    assert_eq!(body["scope"], "trees:read");
    fields.push(("scope", "trees"));
    let (_, _, body) = ask(&stack, form("/token", &fields)).await;
    assert_eq!(body["error"], "invalid_scope");
}

#[tokio::test]
async fn the_metadata_names_what_is_there() {
    let stack = Stack::start().await;
    let path = "/.well-known/oauth-authorization-server";
    let (status, _, document) = ask(&stack, get(path)).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(document["issuer"], ISSUER);
    let (_, _, keys) = ask(&stack, get("/.well-known/jwks.json")).await;
    assert_eq!(keys["keys"].as_array().map(Vec::len), Some(1));
    for name in ["token_endpoint", "revocation_endpoint", "jwks_uri"] {
        let url = document[name].as_str().expect("a URL");
        let path = url.strip_prefix(ISSUER).expect("below the issuer");
        let request = Request::builder().method("OPTIONS").uri(path);
        let request = request.body(Body::empty()).expect("a request");
        let (status, _, _) = ask(&stack, request).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
}

#[tokio::test]
async fn the_log_that_people_read_says_that_a_signing_key_was_made() {
    let stack = Stack::start().await;
    exchanged(&stack).await;
    let filter = xylem_client::v1::AuditFilter {
        action: "signing_key_made".to_owned(),
        ..Default::default()
    };
    let request = xylem_client::v1::ListAuditRequest {
        filter: Some(filter),
        ..Default::default()
    };
    let page = stack.admin().await.list_audit(request).await;
    assert_eq!(page.expect("a page").entries.len(), 1);
}
