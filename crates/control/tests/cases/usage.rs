//! How often tools were called, as callers are told.

use crate::common::{API, Stack, id, start};
use std::time::Duration;
use xylem_client::{Client, Error, Redeem, v1};
use xylem_ids::Role;

/// A call of `acme.deploy` for the tree `train`, which the administrator owns.
async fn call(stack: &Stack, worker: &Client) {
    stack.temporal.activity("train", "7", 1);
    let redeem = Redeem {
        claims: stack.claims("train", "7"),
        grant: stack.temporal.signals("train").remove(0),
        tool: id("acme.deploy"),
        slot: Some(id("default")),
        api_url: None,
        parameters_json: None,
        request_id: String::new(),
    };
    let redeemed = worker.redeem(redeem).await.expect("a token");
    let end = xylem_client::CallEnd {
        outcome: v1::CallOutcome::ApiError,
        http_status: Some(503),
        duration: Duration::from_millis(12),
        bytes_out: 512,
        bytes_in: 2048,
    };
    worker.release(redeemed.lease, end).await.expect("released");
    stack.control.watch().await.expect("watched");
}

async fn told(client: &Client, request: v1::ListUsageRequest) -> Vec<v1::ToolUsage> {
    client.list_usage(request).await.expect("usage").usage
}

fn of(agent: &str, tool: &str) -> v1::ListUsageRequest {
    v1::ListUsageRequest {
        agent: agent.to_owned(),
        tool: tool.to_owned(),
        ..v1::ListUsageRequest::default()
    }
}

#[tokio::test]
async fn a_call_is_counted_once_with_its_time_and_its_bytes() {
    let stack = Stack::start().await;
    let worker = stack.worker().await;
    stack.tree("train").await;
    call(&stack, &worker).await;
    stack.control.watch().await.expect("watched again");
    let admin = stack.admin().await;
    let usage = told(&admin, v1::ListUsageRequest::default()).await;
    let [usage] = usage.as_slice() else {
        panic!("{usage:?}")
    };
    assert_eq!(usage.tool, "acme.deploy");
    assert_eq!((usage.calls, usage.failures, usage.denials), (1, 1, 0));
    assert_eq!((usage.p50_ms, usage.p99_ms), (Some(12), Some(12)));
    assert_eq!((usage.bytes_out, usage.bytes_in), (512, 2048));
    assert_eq!((&usage.since, &usage.lasts), (&None, &None));
    let by_day = v1::ListUsageRequest {
        period: v1::UsagePeriod::Day.into(),
        group: v1::UsageGroup::Agent.into(),
        ..v1::ListUsageRequest::default()
    };
    let days = told(&admin, by_day).await;
    assert_eq!((days[0].tool.as_str(), days[0].calls), ("", 1));
    assert_eq!(
        days[0].lasts.as_ref().map(|lasts| lasts.seconds),
        Some(86_400)
    );
}

#[tokio::test]
async fn who_sees_not_everything_sees_its_own_usage_and_that_of_its_tools() {
    let stack = Stack::start().await;
    let worker = stack.worker().await;
    let admin = stack.admin().await;
    let publisher = stack.client(Role::ToolPublisher).await;
    let tool = v1::Tool {
        name: "acme.deploy".to_owned(),
        method: "POST".to_owned(),
        base_url: API.to_owned(),
        path: "/deploys".to_owned(),
        ..v1::Tool::default()
    };
    let proposed = publisher.register_tool(tool).await.expect("a tool");
    admin.approve_tool(&proposed).await.expect("approved");
    admin.start_tree(start("train")).await.expect("a tree");
    call(&stack, &worker).await;
    let owner = told(&admin, v1::ListUsageRequest::default()).await;
    let owner = owner[0].agent.clone();
    let user = stack.client(Role::User).await;
    for other in [&publisher, &user] {
        assert_eq!(told(other, of("", "")).await, []);
        let refused = other.list_usage(of(&owner, "")).await;
        assert!(matches!(refused, Err(Error::NotFound(_))), "{refused:?}");
    }
    // Its owner is told who calls the tool.
    let own = told(&publisher, of("", "acme.deploy")).await;
    assert_eq!(
        own.first().map(|usage| usage.agent.as_str()),
        Some(owner.as_str())
    );
    assert_eq!(told(&user, of("", "acme.deploy")).await, []);
    for nobody in [&worker, &stack.client(Role::PolicyAdmin).await] {
        let refused = nobody.list_usage(of("", "")).await;
        assert!(matches!(refused, Err(Error::Denied(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn what_is_asked_wrongly_is_named() {
    let stack = Stack::start().await;
    let admin = stack.admin().await;
    let at = |seconds| Some(xylem_client::Timestamp { seconds, nanos: 0 });
    let none = v1::ListUsageRequest::default;
    let wrong = [
        (
            "period",
            v1::ListUsageRequest {
                period: 9,
                ..none()
            },
        ),
        ("group", v1::ListUsageRequest { group: 9, ..none() }),
        (
            "page_token",
            v1::ListUsageRequest {
                page_token: "x".into(),
                ..none()
            },
        ),
        (
            "page_size",
            v1::ListUsageRequest {
                page_size: Some(201),
                ..none()
            },
        ),
        ("agent", of("not a name", "")),
        (
            "until",
            v1::ListUsageRequest {
                since: at(100),
                until: at(99),
                ..none()
            },
        ),
    ];
    for (field, request) in wrong {
        let refused = admin.list_usage(request).await.expect_err("refused");
        let Error::Invalid(answer) = &refused else {
            panic!("{field}: {refused:?}")
        };
        assert_eq!(answer.field.as_deref(), Some(field));
    }
}
