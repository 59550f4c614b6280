//! Requests for access over gRPC and REST: who asks, who decides, what is told.

use crate::common::{Stack, id};
use secrecy::ExposeSecret;
use serde_json::json;
use std::time::Duration;
use xylem_client::{Client, Error, Redeem, v1};
use xylem_ids::Role;

async fn stack() -> Stack {
    Stack::with(|settings| settings.single_operator = false).await
}

async fn named(stack: &Stack, role: Role, name: &str) -> Client {
    let key = stack.key_for(role, name).await;
    let client = Client::connect(&stack.address, &key).await;
    client.expect("a connection")
}

fn request() -> v1::RequestAccessRequest {
    v1::RequestAccessRequest {
        tool: "acme.deploy".to_owned(),
        reason: "release 42".to_owned(),
        ..v1::RequestAccessRequest::default()
    }
}

fn call(stack: &Stack) -> Redeem {
    Redeem {
        claims: stack.claims("train", "7"),
        grant: stack.temporal.signals("train").remove(0),
        tool: id("acme.deploy"),
        slot: Some(id("default")),
        api_url: None,
        parameters_json: None,
        request_id: String::new(),
    }
}

/// Only what was approved may be called.
async fn only_approved(admin: &Client) {
    let policy = json!({"name": "deploys", "effect": "allow", "requiresApproval": true,
        "who": {"anyone": true}, "what": {"tools": ["acme.deploy"]}, "actions": ["execute"]});
    let policy = serde_json::from_value(policy).expect("a policy");
    admin.create_policy(policy).await.expect("stored");
    let retired = admin.retire_policy(&id("everybody"), None, "").await;
    retired.expect("retired");
}

#[tokio::test]
async fn a_call_waits_until_somebody_else_approves() {
    let stack = stack().await;
    let worker = stack.worker().await;
    stack.tree("train").await;
    stack.temporal.activity("train", "7", 1);
    let admin = stack.admin().await;
    only_approved(&admin).await;
    let waits = worker.redeem(call(&stack)).await.expect_err("not approved");
    assert_eq!(waits.reason(), Some("approval_required"));
    assert!(
        waits.to_string().contains("xylem access request"),
        "{waits}"
    );

    let asked = admin.request_access(request()).await.expect("asked");
    assert_eq!(
        (asked.state.as_str(), asked.policy.as_str()),
        ("pending", "deploys")
    );
    let asked_id = id(&asked.id);
    let own = admin.decide_access(&asked_id, true, "mine").await;
    assert_eq!(own.expect_err("own").reason(), Some("own_request"));
    let approver = named(&stack, Role::PolicyAdmin, "approver").await;
    let nothing = approver.decide_access(&asked_id, true, "").await;
    let nothing = nothing.expect_err("without a reason");
    assert_eq!(
        nothing.answer().and_then(|a| a.field.as_deref()),
        Some("reason")
    );
    let approved = approver.decide_access(&asked_id, true, "planned").await;
    let approved = approved.expect("approved");
    assert_eq!(
        (approved.state.as_str(), approved.decided_by.as_str()),
        ("approved", "approver")
    );
    let again = approver.decide_access(&asked_id, false, "no").await;
    assert_eq!(again.expect_err("decided").reason(), Some("access_decided"));
    worker.redeem(call(&stack)).await.expect("a token");

    let check = v1::CheckAccessRequest {
        agent: "admin".to_owned(),
        tool: "acme.deploy".to_owned(),
        ..v1::CheckAccessRequest::default()
    };
    assert!(admin.check_access(check).await.expect("a report").allowed);
    admin.end_access(&asked_id, "done").await.expect("ended");
    let over = worker.redeem(call(&stack)).await.expect_err("ended");
    assert_eq!(over.reason(), Some("approval_required"));
}

#[tokio::test]
async fn the_sweep_writes_down_what_is_over() {
    let stack = stack().await;
    stack.tool().await;
    let admin = stack.admin().await;
    let asked = admin.request_access(request()).await.expect("asked");
    stack.clock.advance(Duration::from_secs(7 * 24 * 3600));
    stack.sweep().await;
    let read = admin.get_access_request(&id(&asked.id)).await.expect("it");
    assert_eq!(read.state, "expired");
    let wanted = v1::ListAuditRequest {
        filter: Some(v1::AuditFilter {
            subject: format!("access:{}", asked.id),
            ..v1::AuditFilter::default()
        }),
        ..v1::ListAuditRequest::default()
    };
    let page = admin.list_audit(wanted).await.expect("a page");
    let actions: Vec<_> = page
        .entries
        .iter()
        .map(|entry| entry.action.as_str())
        .collect();
    assert!(actions.contains(&"access_expired"), "{actions:?}");
}

#[tokio::test]
async fn an_agent_asks_for_itself_and_sees_its_own() {
    let stack = stack().await;
    stack.tool().await;
    let (one, other) = (
        named(&stack, Role::User, "one").await,
        named(&stack, Role::User, "other").await,
    );
    let asked = one.request_access(request()).await.expect("asked");
    let asked_id = id(&asked.id);
    let foreign = v1::RequestAccessRequest {
        agent: "one".to_owned(),
        ..request()
    };
    let refused = other.request_access(foreign.clone()).await;
    assert_eq!(refused.expect_err("another").reason(), Some("other_agent"));
    let hidden = other.get_access_request(&asked_id).await;
    assert!(matches!(hidden, Err(Error::NotFound(_))), "{hidden:?}");
    let hidden = other.end_access(&asked_id, "mine").await;
    assert!(matches!(hidden, Err(Error::NotFound(_))), "{hidden:?}");
    let list = async |client: &Client, agent: &str| {
        let request = v1::ListAccessRequestsRequest {
            agent: agent.to_owned(),
            pending: true,
            ..v1::ListAccessRequestsRequest::default()
        };
        let listed = client.list_access_requests(request).await;
        listed.map(|page| page.requests.len())
    };
    assert_eq!(list(&one, "").await.expect("a list"), 1);
    assert_eq!(list(&other, "").await.expect("a list"), 0);
    assert!(list(&other, "one").await.is_err());
    let auditor = stack.client(Role::Auditor).await;
    assert_eq!(list(&auditor, "").await.expect("a list"), 1);
    let admin = stack.admin().await;
    admin.request_access(foreign).await.expect("for another");
    let nobody = v1::RequestAccessRequest {
        agent: "nobody".to_owned(),
        ..request()
    };
    let nobody = admin.request_access(nobody).await;
    assert!(matches!(nobody, Err(Error::NotFound(_))), "{nobody:?}");
    one.end_access(&asked_id, "not needed")
        .await
        .expect("its own");
    assert_eq!(list(&auditor, "").await.expect("a list"), 0);
}

#[tokio::test]
async fn what_is_rejected_stays_closed_and_is_in_the_log() {
    let stack = stack().await;
    let worker = stack.worker().await;
    stack.tree("train").await;
    stack.temporal.activity("train", "7", 1);
    let admin = stack.admin().await;
    only_approved(&admin).await;
    let owner = v1::RequestAccessRequest {
        agent: "admin".to_owned(),
        ..request()
    };
    let judge = named(&stack, Role::PolicyAdmin, "judge").await;
    let asked = admin.request_access(owner).await.expect("asked");
    let rejected = judge.decide_access(&id(&asked.id), false, "not now").await;
    assert_eq!(rejected.expect("rejected").state, "rejected");
    let refused = worker.redeem(call(&stack)).await.expect_err("closed");
    assert_eq!(refused.reason(), Some("approval_required"));
    let filter = v1::AuditFilter {
        action: "access_rejected".to_owned(),
        subject: format!("access:{}", asked.id),
        ..v1::AuditFilter::default()
    };
    let written = v1::ListAuditRequest {
        filter: Some(filter),
        ..v1::ListAuditRequest::default()
    };
    let entries = admin.list_audit(written).await.expect("listed").entries;
    let [entry] = entries.as_slice() else {
        panic!("{entries:?}")
    };
    assert_eq!(entry.agent, "judge");
}

#[tokio::test]
async fn fields_are_named_with_their_rules() {
    let stack = stack().await;
    stack.tool().await;
    let admin = stack.admin().await;
    let with = |change: fn(&mut v1::RequestAccessRequest)| {
        let mut request = request();
        change(&mut request);
        request
    };
    for (request, field) in [
        (with(|r| r.reason.clear()), "reason"),
        (with(|r| r.action = "fly".to_owned()), "action"),
        (with(|r| r.action = "admin".to_owned()), "action"),
        (with(|r| r.policy = "none".to_owned()), "policy"),
        (
            with(|r| r.lasts = Some(Duration::from_secs(1).into())),
            "lasts",
        ),
        (
            with(|r| r.lasts = Some(Duration::from_secs(31 * 86_400).into())),
            "lasts",
        ),
        (with(|r| r.tool = "../x".to_owned()), "tool"),
    ] {
        let error = admin.request_access(request).await.expect_err(field);
        let named = error.answer().and_then(|answer| answer.field.clone());
        assert_eq!(named.as_deref(), Some(field), "{error}");
    }
    let http = reqwest::Client::new();
    let post = async |path: &str, body: serde_json::Value| {
        let request = http
            .post(format!("{}{path}", stack.address))
            .bearer_auth(stack.admin_key())
            .header("content-type", "application/json")
            .body(body.to_string());
        request.send().await.expect("an answer")
    };
    let answer = post(
        "/v1/access/requests",
        json!({"tool": "acme.deploy", "why": "x"}),
    )
    .await;
    assert_eq!(answer.status(), 400);
    let answer = post(
        "/v1/access/requests",
        json!({"tool": "acme.deploy", "reason": "x", "lasts": "3600s"}),
    )
    .await;
    assert_eq!(answer.status(), 200);
    let asked: serde_json::Value = answer.json().await.expect("JSON");
    assert_eq!(
        (&asked["state"], &asked["lasts"]),
        (&json!("pending"), &json!("3600s"))
    );
    let key = stack.key_for(Role::PolicyAdmin, "approver").await;
    let path = format!(
        "/v1/access/requests/{}/decide",
        asked["id"].as_str().unwrap_or_default()
    );
    let decided = http
        .post(format!("{}{path}", stack.address))
        .bearer_auth(key.expose_secret())
        .header("content-type", "application/json")
        .body(json!({"approve": true, "reason": "yes"}).to_string());
    assert_eq!(decided.send().await.expect("an answer").status(), 200);
}
