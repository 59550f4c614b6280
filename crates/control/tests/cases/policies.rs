//! Policies over gRPC and REST: what is stored, what is refused, what a check says, and that it holds.

use crate::common::{self, Stack, id};
use serde_json::{Value, json};
use std::time::Duration;
use xylem_client::{Client, Error, Redeem, v1};
use xylem_ids::Role;

fn policy(json: Value) -> v1::Policy {
    serde_json::from_value(json).expect("a policy")
}

fn guardrail(name: &str) -> v1::Policy {
    policy(
        json!({"name": name, "effect": "deny", "guardrail": true, "who": {"anyone": true},
                  "what": {"tools": ["acme.deploy"]}, "actions": ["execute"]}),
    )
}

fn check(agent: &str) -> v1::CheckAccessRequest {
    v1::CheckAccessRequest {
        agent: agent.to_owned(),
        tool: "acme.deploy".to_owned(),
        ..v1::CheckAccessRequest::default()
    }
}

/// What a node asks that is running an activity.
fn call(stack: &Stack, parameters: Option<&str>) -> Redeem {
    Redeem {
        claims: stack.claims("train", "7"),
        grant: stack.temporal.signals("train").remove(0),
        tool: id("acme.deploy"),
        slot: Some(id("default")),
        api_url: None,
        parameters_json: parameters.map(str::to_owned),
        request_id: String::new(),
    }
}

/// How many entries the audit log has.
async fn entries(admin: &Client) -> usize {
    let request = v1::ListAuditRequest {
        page_size: Some(1000),
        ..v1::ListAuditRequest::default()
    };
    let page = admin.list_audit(request).await.expect("a page");
    // Calls are counted by the minute, whatever they do.
    let other = |entry: &&v1::AuditEntry| entry.action != "authenticated";
    page.entries.iter().filter(other).count()
}

async fn running() -> (Stack, Client) {
    let stack = Stack::start().await;
    let worker = stack.worker().await;
    stack.tree("train").await;
    stack.temporal.activity("train", "7", 1);
    (stack, worker)
}

async fn only(stack: &Stack, policy: v1::Policy) {
    let admin = stack.admin().await;
    admin.create_policy(policy).await.expect("stored");
    let everybody = id("everybody");
    admin
        .retire_policy(&everybody, None, "")
        .await
        .expect("retired");
}

#[tokio::test]
async fn a_policy_is_written_changed_and_retired() {
    let stack = Stack::start().await;
    let admin = stack.admin().await;
    let first = admin
        .create_policy(guardrail("freeze"))
        .await
        .expect("stored");
    assert_eq!((first.version, first.retired), (1, false));
    assert!(first.compiled.starts_with("forbid("), "{}", first.compiled);
    assert_eq!(first.policy, Some(guardrail("freeze")));
    let taken = admin
        .create_policy(guardrail("freeze"))
        .await
        .expect_err("taken");
    assert_eq!(taken.reason(), Some("exists"));

    let mut next = guardrail("freeze");
    next.description = "no deployments".to_owned();
    let stale = admin
        .update_policy(next.clone(), Some(9))
        .await
        .expect_err("stale");
    assert_eq!(stale.reason(), Some("version_changed"));
    let second = admin
        .update_policy(next.clone(), Some(1))
        .await
        .expect("stored");
    assert_eq!(second.version, 2);
    let name = id("freeze");
    let old = admin.get_policy(&name, Some(1)).await.expect("kept");
    assert_eq!(old.policy, Some(guardrail("freeze")));
    let gone = admin.get_policy(&id("nobody"), None).await;
    assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");

    admin
        .retire_policy(&name, Some(2), "over")
        .await
        .expect("retired");
    let list = async |include_retired| {
        let request = v1::ListPoliciesRequest {
            include_retired,
            ..v1::ListPoliciesRequest::default()
        };
        let listed = admin.list_policies(request).await.expect("a list").policies;
        let name = |record: v1::PolicyRecord| record.policy.expect("a policy").name;
        listed.into_iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(list(false).await, ["everybody"]);
    assert_eq!(list(true).await, ["everybody", "freeze"]);
    let schema = admin.policy_schema().await.expect("a schema");
    assert!(schema.contains("entity Agent in [Role]"), "{schema}");
}

#[tokio::test]
async fn fields_are_named_with_their_rules() {
    let stack = Stack::start().await;
    let admin = stack.admin().await;
    let whole = || {
        json!({"name": "p", "effect": "allow", "who": {"anyone": true}, "what": {"all": true},
               "actions": ["execute"]})
    };
    for (field, value, named) in [
        ("name", json!("Secret Name"), "name"),
        ("effect", json!("maybe"), "effect"),
        ("actions", json!(["execute", "fly"]), "actions[1]"),
        ("who", json!({"roles": ["root"]}), "who.roles[0]"),
        ("what", json!({"tools": ["../x"]}), "what.tools[0]"),
        ("band", json!(70_000), "band"),
        (
            "when",
            json!({"time": [{"zone": "Mars/Base", "from": "08:00", "to": "09:00"}]}),
            "when.time[0].zone",
        ),
        (
            "when",
            json!({"time": [{"zone": "UTC", "from": "8", "to": "09:00"}]}),
            "when.time[0].from",
        ),
        (
            "when",
            json!({"networks": {"anyOf": ["10.0.0.0/64"]}}),
            "when.networks.any_of",
        ),
        (
            "when",
            json!({"tokenAge": {"atMost": "old"}}),
            "when.token_age.at_most",
        ),
        (
            "when",
            json!({"parameters": [{"pointer": "x", "present": true}]}),
            "when.parameters[0].pointer",
        ),
        (
            "requests",
            json!([{"atMost": 5, "per": "year", "of": "agent"}]),
            "requests[0].per",
        ),
        ("inherits", json!("nobody"), "inherits"),
    ] {
        let mut json = whole();
        json[field] = value;
        let error = admin.create_policy(policy(json)).await.expect_err(named);
        assert!(matches!(error, Error::Invalid(_)), "{named}: {error}");
        let answer = error.answer().expect("an answer");
        assert_eq!(answer.field.as_deref(), Some(named), "{error}");
        assert!(
            answer.message.starts_with(&format!("{named} must be")),
            "{error}"
        );
        assert!(!answer.message.contains("Secret"), "{error}");
    }
}

#[tokio::test]
async fn an_unknown_field_is_an_error_at_every_depth() {
    let stack = Stack::start().await;
    let http = reqwest::Client::new();
    let tool = |field: &str, value: Value| {
        let mut tool = json!({"name": "acme.deploy", "method": "POST", "baseUrl": common::API,
            "path": "/deploys"});
        tool[field] = value;
        ("tools", tool)
    };
    for (what, body) in [
        ("policies", json!({"name": "p", "colour": 1})),
        ("policies", json!({"name": "p", "when": {"tyme": []}})),
        (
            "policies",
            json!({"name": "p", "when": {"parameters": [{"pointer": "/a", "is": 1}]}}),
        ),
        tool("colour", json!(1)),
        tool("auth", json!({"colour": 1})),
        tool("tls", json!({"colour": 1})),
        tool("rateLimit", json!({"calls": 5, "colour": 1})),
    ] {
        let request = http
            .post(format!("{}/v1/{what}", stack.address))
            .bearer_auth(stack.admin_key())
            .header("content-type", "application/json")
            .body(body.to_string());
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 400, "{what} {body}");
    }
}

#[tokio::test]
async fn a_change_holds_for_the_next_call() {
    let (stack, worker) = running().await;
    worker.redeem(call(&stack, None)).await.expect("a token");
    let admin = stack.admin().await;
    admin
        .create_policy(guardrail("freeze"))
        .await
        .expect("stored");
    let refused = worker.redeem(call(&stack, None)).await.expect_err("frozen");
    assert_eq!(refused.reason(), Some("guardrail"));
    assert!(refused.to_string().contains("freeze@1"), "{refused}");
}

#[tokio::test]
async fn parameters_and_the_address_of_a_call_decide() {
    let (stack, worker) = running().await;
    let deploys = json!({"name": "deploys", "effect": "allow", "who": {"anyone": true}, "what": {"all": true},
        "actions": ["execute"], "when": {"networks": {"anyOf": ["127.0.0.0/8"]},
            "parameters": [{"pointer": "/region", "oneOf": ["eu-1"]}]}});
    only(&stack, policy(deploys)).await;
    let here = call(&stack, Some(r#"{"region":"eu-1"}"#));
    worker.redeem(here).await.expect("a token");
    for parameters in [Some(r#"{"region":"us-1"}"#), None] {
        let refused = worker.redeem(call(&stack, parameters)).await;
        let refused = refused.expect_err("another region");
        assert_eq!(refused.reason(), Some("no_policy"));
        assert!(!refused.to_string().contains("us-1"), "{refused}");
    }
    let broken = worker.redeem(call(&stack, Some("[]"))).await;
    let broken = broken.expect_err("no object");
    assert_eq!(
        broken.answer().and_then(|a| a.field.as_deref()),
        Some("parameters_json")
    );
}

#[tokio::test]
async fn a_limit_answers_with_when() {
    let (stack, worker) = running().await;
    let limited = json!({"name": "limited", "effect": "allow", "who": {"anyone": true}, "what": {"all": true},
        "actions": ["execute"], "requests": [{"atMost": 2, "per": "minute", "of": "tool"}]});
    only(&stack, policy(limited)).await;
    for _ in 0..2 {
        worker.redeem(call(&stack, None)).await.expect("a token");
    }
    let refused = worker
        .redeem(call(&stack, None))
        .await
        .expect_err("too often");
    let answer = refused.answer().expect("an answer");
    assert_eq!(answer.reason.as_deref(), Some("limit_reached"));
    let minute = Duration::from_secs(1)..=Duration::from_secs(60);
    assert!(
        answer
            .retry_after
            .is_some_and(|after| minute.contains(&after)),
        "{answer:?}"
    );
    assert!(refused.is_retryable());
    let admin = stack.admin().await;
    let report = admin.check_access(check("admin")).await.expect("a report");
    assert_eq!(report.reason, "limit_reached");
    let counted = &report.findings[0].conditions[0];
    assert_eq!(counted.found.as_deref(), Some("2 of 2"));
}

#[tokio::test]
async fn a_check_says_why_and_changes_nothing() {
    let stack = Stack::start().await;
    stack.tool().await;
    let admin = stack.admin().await;
    let deploys = json!({"name": "deploys", "effect": "allow", "band": 700, "requiresApproval": true,
        "who": {"agents": ["release-bot"]}, "what": {"tools": ["acme.deploy"]}, "actions": ["execute"],
        "when": {"parameters": [{"pointer": "/region", "oneOf": ["eu-1"]}],
                 "time": [{"zone": "Europe/Berlin", "days": ["mon"], "from": "08:00", "to": "18:00"}]}});
    only(&stack, policy(deploys)).await;
    stack.key_for(Role::User, "release-bot").await;
    let before = entries(&admin).await;
    let mut asked = check("release-bot");
    asked.parameters_json = r#"{"region":"us-1"}"#.to_owned();
    asked.at = Some(xylem_client::Timestamp {
        seconds: 1_795_348_800,
        nanos: 0,
    });
    let report = admin.check_access(asked.clone()).await.expect("a report");
    assert!(!report.allowed);
    assert_eq!(report.reason, "no_policy");
    assert!(
        report.message.contains("deploys@1 (time, parameters)"),
        "{}",
        report.message
    );
    let finding = &report.findings[0];
    assert_eq!(
        (finding.policy.as_str(), finding.place.as_str()),
        ("deploys@1", "band 700")
    );
    let found: Vec<_> = finding.conditions.iter().map(|c| c.found.clone()).collect();
    assert_eq!(found[0].as_deref(), Some("sun 13:00 Europe/Berlin"));
    assert_eq!(found[1].as_deref(), Some("us-1"));

    asked.with = Some(guardrail("freeze"));
    let report = admin.check_access(asked).await.expect("a report");
    assert_eq!(
        (report.reason.as_str(), report.policy.as_str()),
        ("guardrail", "freeze@1")
    );
    assert_eq!(entries(&admin).await, before);
    let unknown = v1::CheckAccessRequest {
        tool: "acme.other".to_owned(),
        ..check("release-bot")
    };
    let error = admin.check_access(unknown).await.expect_err("no such tool");
    assert!(matches!(error, Error::NotFound(_)), "{error}");
    let nobody = admin.check_access(check("nobody")).await;
    let nobody = nobody.expect_err("no such agent");
    assert!(matches!(nobody, Error::NotFound(_)), "{nobody}");
}

#[tokio::test]
async fn an_agent_checks_itself_only() {
    let stack = Stack::start().await;
    stack.tool().await;
    let user = stack.client(Role::User).await;
    let itself = user.check_access(check("")).await.expect("a report");
    assert!(itself.allowed, "{itself:?}");
    let other = user
        .check_access(check("admin"))
        .await
        .expect_err("another");
    assert_eq!(other.reason(), Some("other_agent"));
}

#[tokio::test]
async fn only_who_may_write_a_policy_tries_one() {
    let stack = Stack::start().await;
    stack.tool().await;
    let mut asked = check("");
    asked.with = Some(guardrail("freeze"));
    let author = stack.client(Role::PolicyAdmin).await;
    let report = author.check_access(asked.clone()).await.expect("a report");
    assert_eq!(report.policy, "freeze@1");
    for role in [Role::User, Role::ToolPublisher] {
        let client = stack.client(role).await;
        let refused = client.check_access(asked.clone()).await;
        let refused = refused.expect_err("not their business");
        assert!(matches!(refused, Error::Denied(_)), "{refused}");
        assert_eq!(refused.reason(), Some("role"));
        assert!(refused.to_string().contains("policy_admin"), "{refused}");
    }
}
