//! Where requests come from, and how many are taken: addresses behind proxies, and limits.

use crate::common::{self, Stack, id, new_key};
use reqwest::{Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::{fmt::Write, net::IpAddr};
use xylem_client::{Client, Error, v1};
use xylem_control::{ProxyHeader, Settings};
use xylem_identity::NewKey;
use xylem_ids::Role;

const CLIENT: &str = "203.0.113.7";
const OTHER: &str = "203.0.113.8";

/// A control plane behind proxies that write this header. Everything here comes over loopback.
async fn behind(header: ProxyHeader, change: impl FnOnce(&mut Settings)) -> Stack {
    Stack::with(|settings| {
        settings.proxies.trusted = vec![id("127.0.0.0/8"), id("10.0.0.0/8")];
        settings.proxies.header = header;
        change(settings);
    })
    .await
}

async fn ask(stack: &Stack, path: &str, key: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = reqwest::Client::new()
        .get(format!("{}{path}", stack.address))
        .bearer_auth(key);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.expect("an answer")
}

/// A key that works from one network alone.
async fn narrow(stack: &Stack) -> SecretString {
    let agent = format!("narrow-{}", uuid::Uuid::new_v4());
    stack.key_for(Role::Auditor, &agent).await;
    let new = NewKey {
        networks: vec![id("203.0.113.7/32")],
        ..new_key(&agent, false)
    };
    stack.issue(new).await
}

#[tokio::test]
async fn a_key_for_a_network_works_from_there_whatever_a_client_writes_into_headers() {
    let believed = behind(ProxyHeader::XForwardedFor, |_| {}).await;
    let standard = behind(ProxyHeader::Forwarded, |_| {}).await;
    let nobody = Stack::start().await;
    const XFF: &str = "x-forwarded-for";
    for (stack, headers, expected) in [
        (&believed, &[(XFF, CLIENT)][..], 200),
        (&believed, &[(XFF, "203.0.113.7, 10.1.2.3")], 200),
        (&believed, &[(XFF, "lies"), (XFF, CLIENT)], 200),
        (&believed, &[], 401),
        (&believed, &[(XFF, OTHER)], 401),
        // Written by the client, and appended to by the proxy.
        (&believed, &[(XFF, "203.0.113.7, 203.0.113.8")], 401),
        (&believed, &[(XFF, CLIENT), (XFF, OTHER)], 401),
        // Not the header that this proxy writes.
        (&believed, &[("forwarded", "for=203.0.113.7")], 401),
        (&believed, &[("x-real-ip", CLIENT)], 401),
        (
            &believed,
            &[("forwarded", "for=203.0.113.7"), (XFF, OTHER)],
            401,
        ),
        (
            &standard,
            &[("forwarded", "for=\"203.0.113.7:99\";proto=https")],
            200,
        ),
        (
            &standard,
            &[("forwarded", "for=203.0.113.7, for=203.0.113.8")],
            401,
        ),
        (&standard, &[(XFF, CLIENT)], 401),
        // Nobody is believed where no proxy is trusted.
        (&nobody, &[(XFF, CLIENT)], 401),
        (&nobody, &[("forwarded", "for=203.0.113.7")], 401),
        // A proxy that does not say where it comes from is told so.
        (&believed, &[(XFF, "unknown")], 400),
        (&standard, &[("forwarded", "by=10.0.0.1")], 400),
    ] {
        let key = narrow(stack).await;
        let answer = ask(stack, "/v1/status", key.expose_secret(), headers).await;
        assert_eq!(answer.status(), expected, "{headers:?}");
        if expected == 400 {
            let body: Value = answer.json().await.expect("JSON");
            let said = body["message"].as_str().expect("a message");
            assert!(
                said.contains("proxy") && !said.contains("unknown"),
                "{said}"
            );
        }
    }
}

#[tokio::test]
async fn the_audit_log_names_the_client_and_not_the_proxy() {
    let stack = behind(ProxyHeader::XForwardedFor, |_| {}).await;
    let form = "grant_type=client_credentials&client_id=admin&client_secret=";
    let asked = reqwest::Client::new()
        .post(format!("{}/token", stack.address))
        .header("x-forwarded-for", CLIENT)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(format!("{form}{}", stack.admin_key()))
        .send();
    assert_eq!(asked.await.expect("an answer").status(), StatusCode::OK);
    let client = stack.admin().await;
    let issued = client.list_audit(entries("token_issued")).await;
    assert_eq!(issued.expect("entries").entries[0].address, CLIENT);
}

fn entries(action: &str) -> v1::ListAuditRequest {
    let action = action.to_owned();
    v1::ListAuditRequest {
        filter: Some(v1::AuditFilter {
            action,
            ..v1::AuditFilter::default()
        }),
        ..v1::ListAuditRequest::default()
    }
}

/// Asks until it is refused; that one answer.
async fn until_refused(stack: &Stack, path: &str, key: &str, from: &str) -> (usize, Response) {
    until_refused_with(stack, path, key, &[("x-forwarded-for", from)]).await
}

async fn until_refused_with(
    stack: &Stack,
    path: &str,
    key: &str,
    headers: &[(&str, &str)],
) -> (usize, Response) {
    let mut last = None;
    for taken in 0..1_000 {
        let answer = ask(stack, path, key, headers).await;
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            return (taken, answer);
        }
        last = Some(answer.status());
    }
    panic!("everything was taken: {path} answered {last:?}");
}

async fn metric(stack: &Stack, name: &str) -> u64 {
    let key = stack.key(Role::Auditor).await;
    let from = [("x-forwarded-for", "198.51.100.1")];
    let answer = ask(stack, "/metrics", key.expose_secret(), &from).await;
    let text = answer.text().await.expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.expect(name).trim().parse().expect("a number")
}

#[tokio::test]
async fn an_address_that_asks_too_often_waits_and_others_are_served() {
    let stack = behind(ProxyHeader::XForwardedFor, |settings| {
        settings.limits.requests_per_address = 1;
    })
    .await;
    let mut body = String::new();
    // Whether somebody is known makes no difference, nor what is asked for.
    for (path, key) in [("/v1/status", stack.admin_key()), ("/healthz", "nothing")] {
        let from = if path == "/healthz" { OTHER } else { CLIENT };
        let (taken, refused) = until_refused(&stack, path, key, from).await;
        assert!(taken >= 5, "{taken} at once");
        let after = refused.headers()["retry-after"].to_str().expect("text");
        assert_eq!(after, "1");
        assert_eq!(refused.headers()["x-content-type-options"], "nosniff");
        assert!(refused.headers().contains_key("x-request-id"));
        let _ = write!(body, "{}", refused.text().await.expect("a body"));
        assert!(body.contains("too_many_requests"), "{body}");
        assert!(body.contains("of this address: 1 a second"), "{body}");
    }
    let (_, refused) = until_refused(&stack, "/token", "nothing", CLIENT).await;
    assert_eq!(refused.headers()["content-type"], "application/json");
    assert_eq!(refused.headers()["cache-control"], "no-store");
    assert_eq!(refused.headers()["retry-after"], "1");
    let body: Value = refused.json().await.expect("JSON");
    assert_eq!(body["error"], "temporarily_unavailable", "RFC 6749: {body}");
    assert!(body["error_description"].is_string(), "{body}");
    let other = [("x-forwarded-for", "203.0.113.9")];
    let served = ask(&stack, "/v1/status", stack.admin_key(), &other).await;
    assert_eq!(served.status(), StatusCode::OK);
    assert!(metric(&stack, "xylem_requests_limited_by_address_total").await >= 3);
}

#[tokio::test]
async fn a_page_of_another_origin_can_read_that_it_has_to_wait() {
    const OPS: &str = "https://ops.example";
    let stack = behind(ProxyHeader::XForwardedFor, |settings| {
        settings.limits.requests_per_address = 1;
        settings.cors_origins = vec![id(OPS)];
    })
    .await;
    let origin = "access-control-allow-origin";
    for (path, readable) in [("/v1/status", true), ("/metrics", true), ("/token", false)] {
        until_refused(&stack, path, stack.admin_key(), CLIENT).await;
        let asked = [("x-forwarded-for", CLIENT), ("origin", OPS)];
        let (_, refused) = until_refused_with(&stack, path, stack.admin_key(), &asked).await;
        let headers = refused.headers();
        assert_eq!(
            headers.contains_key(origin),
            readable,
            "{path}: {headers:?}"
        );
        let exposed = headers.get("access-control-expose-headers");
        let exposed = exposed.map(|names| names.to_str().expect("text").contains("retry-after"));
        assert_eq!(exposed, readable.then_some(true), "{path}");
        // What the browser asks before it asks is refused as well.
        let url = format!("{}{path}", stack.address);
        let mut statuses = Vec::new();
        for _ in 0..20 {
            let preflight = reqwest::Client::new()
                .request(reqwest::Method::OPTIONS, &url)
                .header("x-forwarded-for", CLIENT)
                .header("origin", OPS)
                .header("access-control-request-method", "GET");
            let answer = preflight.send().await.expect("an answer");
            statuses.push(answer.status());
        }
        assert!(
            statuses.contains(&StatusCode::TOO_MANY_REQUESTS),
            "{path}: {statuses:?}"
        );
    }
}

#[tokio::test]
async fn an_agent_that_asks_too_often_waits_over_all_its_keys_and_others_are_served() {
    let stack = behind(ProxyHeader::XForwardedFor, |settings| {
        settings.limits.requests_per_agent = 1;
    })
    .await;
    let busy = stack.key_for(Role::Auditor, "busy").await;
    let second = stack.issue(new_key("busy", false)).await;
    let (taken, refused) = until_refused(&stack, "/v1/status", busy.expose_secret(), CLIENT).await;
    assert!(taken >= 5, "{taken} at once");
    let text = refused.text().await.expect("a body");
    assert!(text.contains("of this agent: 1 a second"), "{text}");
    // From elsewhere and with another key it is the same agent; over gRPC, too.
    until_refused(&stack, "/v1/status", second.expose_secret(), OTHER).await;
    let client = Client::connect(&stack.address, &busy).await;
    let client = client.expect("a connection");
    let mut refused = None;
    for _ in 0..1_000 {
        refused = client.status().await.err();
        if refused.is_some() {
            break;
        }
    }
    let refused = refused.expect("not everything is taken");
    assert!(matches!(refused, Error::Unavailable(_)), "{refused:?}");
    assert_eq!(refused.reason(), Some("too_many_requests"));
    let after = refused.answer().and_then(|answer| answer.retry_after);
    assert!(after.is_some(), "{refused:?}");
    let calm = stack.key(Role::Auditor).await;
    let served = ask(&stack, "/v1/status", calm.expose_secret(), &[]).await;
    assert_eq!(served.status(), StatusCode::OK);
    assert!(metric(&stack, "xylem_requests_limited_by_agent_total").await >= 3);
}

#[tokio::test]
async fn what_was_refused_is_counted_in_the_audit_log() {
    let stack = behind(ProxyHeader::XForwardedFor, |settings| {
        settings.limits.requests_per_address = 1;
    })
    .await;
    until_refused(&stack, "/v1/status", stack.admin_key(), CLIENT).await;
    // Counts are written when their minute is over.
    stack.clock.advance(std::time::Duration::from_secs(120));
    let client = stack.admin().await;
    let entry = common::eventually("the count", async || {
        // Whoever reads is limited, too.
        let seen = client.list_audit(entries("requests_limited")).await;
        let seen = seen.map_err(|error| error.to_string())?.entries;
        seen.into_iter().next().ok_or_else(String::new)
    })
    .await;
    assert_eq!(entry.address.parse::<IpAddr>(), CLIENT.parse());
    assert!(entry.count >= 1);
}

#[tokio::test]
async fn the_connections_of_a_proxy_are_those_of_many() {
    let stack = behind(ProxyHeader::XForwardedFor, |settings| {
        settings.limits.connections_per_address = 1;
    })
    .await;
    let address = stack.address.strip_prefix("http://").expect("plain");
    let mut open = Vec::new();
    for _ in 0..5 {
        open.push(tokio::net::TcpStream::connect(address).await.expect("open"));
    }
    let from = [("x-forwarded-for", CLIENT)];
    let served = ask(&stack, "/v1/status", stack.admin_key(), &from).await;
    assert_eq!(served.status(), StatusCode::OK);
}

#[tokio::test]
async fn who_guesses_behind_a_proxy_slows_nobody_else_down() {
    const PASSWORD: &str = "kolibri tanzt auf neun Booten";
    let stack = behind(ProxyHeader::XForwardedFor, |settings| {
        settings.open_registration = true;
    })
    .await;
    let http = reqwest::Client::new();
    let post = |path: &str, kind: &str, from: &str, body: String| {
        let request = http.post(format!("{}{path}", stack.address));
        let request = request.header("content-type", kind.to_owned());
        request
            .header("x-forwarded-for", from.to_owned())
            .body(body)
            .send()
    };
    let account = format!(r#"{{"name":"one","password":"{PASSWORD}"}}"#);
    let made = post("/register", "application/json", CLIENT, account).await;
    assert_eq!(made.expect("an answer").status(), StatusCode::CREATED);
    let sign_in = async |password: &str, from: &str| {
        let form = format!("grant_type=password&username=one&password={password}&client_id=cli");
        let kind = "application/x-www-form-urlencoded";
        let answer = post("/token", kind, from, form.replace(' ', "+")).await;
        answer.expect("an answer").status()
    };
    // Another address on the left of one's own each time is of no help.
    for (guess, expected) in [400, 400, 400, 400, 400, 429].into_iter().enumerate() {
        let from = format!("198.51.100.{guess}, {OTHER}");
        assert_eq!(sign_in("guess", &from).await, expected, "guess {guess}");
    }
    assert_eq!(sign_in(PASSWORD, OTHER).await, 429);
    assert_eq!(sign_in(PASSWORD, CLIENT).await, 200);
}

#[tokio::test]
async fn a_policy_decides_by_the_network_that_the_proxy_names() {
    let stack = behind(ProxyHeader::XForwardedFor, |_| {}).await;
    stack.worker().await;
    stack.tree("train").await;
    stack.temporal.activity("train", "7", 1);
    let admin = stack.admin().await;
    let policy = json!({"name": "deploys", "effect": "allow", "who": {"anyone": true}, "what": {"all": true},
        "actions": ["execute"], "when": {"networks": {"anyOf": ["203.0.113.7/32"]}}});
    let policy = serde_json::from_value(policy).expect("a policy");
    admin.create_policy(policy).await.expect("stored");
    let retired = admin.retire_policy(&id("everybody"), None, "").await;
    retired.expect("retired");
    let key = stack.key(Role::Worker).await;
    let call = v1::RedeemRequest {
        claims: Some(stack.claims("train", "7").into()),
        grant: stack.temporal.signals("train").remove(0),
        tool: "acme.deploy".to_owned(),
        slot: "default".to_owned(),
        ..v1::RedeemRequest::default()
    };
    let call = serde_json::to_string(&call).expect("JSON");
    for (from, expected) in [(CLIENT, 200), (OTHER, 403)] {
        let asked = reqwest::Client::new()
            .post(format!("{}/v1/grants/redeem", stack.address))
            .bearer_auth(key.expose_secret())
            .header("x-forwarded-for", from)
            .header("content-type", "application/json")
            .body(call.clone());
        let answer = asked.send().await.expect("an answer");
        assert_eq!(answer.status(), expected, "{from}");
    }
}
