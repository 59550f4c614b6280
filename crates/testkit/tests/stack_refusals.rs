//! What the whole stack refuses: tools a tree does not name, places a token may not go to, forged
//! claims; and how it meets an API that answers 401.

use serde_json::json;
use std::{net::Ipv4Addr, time::Duration};
use xylem::data::read_secret;
use xylem_client::{ActivityClaims, Client, Error, NewKey, Redeem, v1};
use xylem_testkit::{Called, Order, Stack, eventually, eventually_within};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_token_goes_where_tree_tool_and_audience_agree_and_nowhere_else() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let other = acme_api::AcmeApi::start((Ipv4Addr::LOCALHOST, 0).into()).await?;
    let attacker = acme_api::AcmeApi::start((Ipv4Addr::LOCALHOST, 0).into()).await?;
    let regional = v1::Tool {
        name: "acme.regional".to_owned(),
        method: "GET".to_owned(),
        base_url: stack.acme.url(),
        path: "/v1/status".to_owned(),
        allowed_api_urls: vec![other.url()],
        ..v1::Tool::default()
    };
    stack.offer(regional).await?;
    let tree = stack
        .tree("places")
        .tools(&["acme.status", "acme.regional"])
        .audiences(&[&stack.acme.url(), &other.url()])
        .walk(Vec::new())
        .await?;
    let root = tree.node("");

    // A tool the tree does not name.
    let unnamed = root.call("acme.build", "default").await?;
    assert!(unnamed.failure()?.contains("acme.build"), "{unnamed:?}");
    let denied = tree.audit("redeem").await?;
    assert!(
        denied.iter().all(|entry| entry.outcome != "granted"),
        "{denied:?}"
    );

    // An `apiUrl` that tool and audience do not both name.
    for url in [
        attacker.url(),
        "http://169.254.169.254".to_owned(),
        "https://acme.example".into(),
    ] {
        root.signal("apiUrl", &url).await?;
        let refused = root.call("acme.status", "default").await?;
        assert!(refused.failure().is_ok(), "{url}: {refused:?}");
    }
    root.signal("apiUrl", &other.url()).await?;
    let unregistered = root.call("acme.status", "default").await?;
    assert!(unregistered.failure().is_ok(), "{unregistered:?}");
    assert_eq!(stack.acme.stats_of("unknown").refusals, 0);
    assert_eq!(
        (attacker.stats()[0].calls, attacker.stats()[0].refusals),
        (0, 0)
    );

    // One that both name is used: the token arrives there, where nobody knows it.
    let call = root.begin("acme.regional", "default").await?;
    let reached = || async { Ok(other.stats_of("unknown").refusals) };
    eventually("the other place is called", reached, |count| *count > 0).await?;
    let unknown_there = root.called(call).await?;
    assert!(
        unknown_there.failure()?.contains("rotate"),
        "{unknown_there:?}"
    );
    assert_eq!(attacker.stats_of("unknown").refusals, 0);

    // A redirect is not followed.
    root.signal("apiUrl", &stack.acme.url()).await?;
    let location = format!("{}/v1/status", attacker.url());
    stack
        .acme
        .behave(None, acme_api::Behaviour::Redirect { location });
    assert!(root.call("acme.status", "default").await?.failure().is_ok());
    assert_eq!(attacker.stats_of("unknown").refusals, 0);
    stack.stop().await;
    Ok(())
}

#[tokio::test]
async fn what_an_api_echoes_is_redacted() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let tree = stack.tree("echo").walk(Vec::new()).await?;
    let root = tree.node("");
    for encoding in acme_api::Encoding::ALL {
        stack.acme.behave(
            None,
            acme_api::Behaviour::Echo {
                encoding,
                status: 200,
            },
        );
        let Called::Answered { body, .. } = root.call("acme.status", "default").await? else {
            anyhow::bail!("{encoding:?}: the call failed");
        };
        assert!(!body.is_null(), "{encoding:?}");
    }
    let searched = stack.search(&stack.issued()).await?;
    assert_eq!(searched.found_in(), [""; 0]);
    stack.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_401_is_retried_until_a_newer_token_comes_and_not_for_ever() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let tree = stack.tree("early").walk(Vec::new()).await?;
    let root = tree.node("");
    assert_eq!(root.call("acme.status", "default").await?.version()?, 1);
    // The API refuses before anybody rotates. Three refusals in a row are over in less than a
    // second: it wants to be left alone after the first one, for longer than a rotation takes.
    let patience = acme_api::Behaviour::Throttle {
        retry_after: Some(15),
    };
    stack.acme.behave_times(None, patience, 1);
    let refuse = acme_api::Behaviour::Refuse;
    stack.acme.behave_times(Some("/v1/status"), refuse, 1);
    let call = root.begin("acme.status", "default").await?;
    let counted = || async {
        let stats = tree.stats("default", 1);
        Ok((stats.refusals, stats.calls))
    };
    let tried_again = |counts: &(u64, u64)| *counts == (1, 2);
    eventually("the API refuses, and is asked again", counted, tried_again).await?;
    assert!(stack.acme.revoke(&tree.label("default", 1)));
    tree.rotate("default").await?;
    assert_eq!(root.called(call).await?.version()?, 2);

    // Nobody rotates: it ends, and says why.
    assert!(stack.acme.revoke(&tree.label("default", 2)));
    let failed = root.call("acme.status", "default").await?;
    assert!(failed.failure()?.contains("rotate the token"), "{failed:?}");
    assert_eq!(tree.stats("default", 2).refusals, 3);
    // The workflow lives on, and so does the tree after a rotation.
    tree.rotate("default").await?;
    assert_eq!(root.call("acme.status", "default").await?.version()?, 3);
    let outcomes = tree.audit("outcome").await?;
    let refused = |version| {
        let refused = outcomes
            .iter()
            .filter(|entry| entry.http_status == Some(401));
        let orders = refused.filter_map(|entry| entry.order.as_ref());
        orders.filter(|order| order.version == version).count()
    };
    assert_eq!(refused(2), 3, "{outcomes:?}");
    assert_eq!(refused(1) as u64, tree.stats("default", 1).refusals);
    stack.stop().await;
    Ok(())
}

/// A redemption as a thief would write it, who has read a grant in a history.
struct Forgery {
    claims: ActivityClaims,
    grant: String,
}

impl Forgery {
    async fn of(stack: &Stack, workflow_id: &str) -> anyhow::Result<Self> {
        let tree = stack.running_tree(workflow_id)?;
        let described = tree.node("").describe().await?;
        let info = &described["workflowExecutionInfo"];
        let run_id = info["execution"]["runId"].as_str().unwrap_or_default();
        Ok(Self {
            claims: ActivityClaims {
                namespace: "default".parse()?,
                workflow_id: workflow_id.parse()?,
                run_id: run_id.parse()?,
                workflow_type: "Walker".parse()?,
                task_queue: stack.task_queue().parse()?,
                activity_id: "77".to_owned(),
                attempt: 1,
                local: false,
            },
            grant: tree.node("").grant_in_history().await?,
        })
    }

    async fn refused(&self, client: &Client, claims: ActivityClaims) -> anyhow::Result<String> {
        let redeem = Redeem {
            claims,
            grant: self.grant.clone(),
            tool: "acme.status".parse()?,
            slot: Some("default".parse()?),
            api_url: None,
            parameters_json: None,
            request_id: String::new(),
        };
        let error = match client.redeem(redeem).await {
            Ok(redeemed) => anyhow::bail!("redeemed {:?}", redeemed.order),
            Err(error) => error,
        };
        assert!(
            matches!(error, Error::Denied(_) | Error::Refused(_)),
            "{error:?}"
        );
        let answer = error.answer().cloned().unwrap_or_default();
        assert!(answer.request_id.is_some(), "{answer:?}");
        Ok(answer.reason.unwrap_or_default())
    }
}

#[tokio::test]
async fn a_forged_redemption_is_refused_and_audited() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let tree = stack.tree("target").walk(Vec::new()).await?;
    let root = tree.node("");
    assert_eq!(root.call("acme.status", "default").await?.version()?, 1);
    let forgery = Forgery::of(&stack, "target").await?;
    let key = read_secret(&stack.data().worker_key())?;
    let thief = Client::connect(stack.control_plane(), &key).await?;
    let claims = || forgery.claims.clone();

    let mut reasons = Vec::new();
    // No such activity is pending, however honest the rest is.
    reasons.push(forgery.refused(&thief, claims()).await?);
    // A workflow that nobody runs; a type it is not.
    let stranger = ActivityClaims {
        workflow_id: "nobody".parse()?,
        ..claims()
    };
    reasons.push(forgery.refused(&thief, stranger).await?);
    let other_type = ActivityClaims {
        workflow_type: "ToolTree".parse()?,
        ..claims()
    };
    reasons.push(forgery.refused(&thief, other_type).await?);

    // The grant of another tree, and the worker of another queue.
    let other = stack.tree("other").walk(Vec::new()).await?;
    other.node("").holds(1, PATIENCE).await?;
    let foreign = Forgery::of(&stack, "other").await?;
    let agent: xylem_ids::AgentId = "elsewhere-worker".parse()?;
    let create = v1::CreateAgentRequest {
        name: agent.to_string(),
        roles: vec![v1::Role::Worker.into()],
        kind: v1::AgentKind::Service.into(),
    };
    stack.control.create_agent(create).await?;
    let queues = vec!["elsewhere".parse()?];
    let (key, _) = stack
        .control
        .create_api_key(NewKey::new(agent, queues))
        .await?;
    let elsewhere = Client::connect(stack.control_plane(), &key).await?;

    // Now a call is pending, for as long as a slow machine needs for what follows, and the thief
    // knows everything about it.
    let slow = acme_api::Behaviour::Slow { ms: 20_000 };
    stack.acme.behave_times(None, slow, 1);
    let call = root.begin("acme.status", "default").await?;
    let begun = || async { Ok(tree.stats("default", 1).calls) };
    eventually("a call is pending", begun, |calls| *calls == 2).await?;
    let pending = root.pending().await?.expect("a call is pending");
    let pending = ActivityClaims {
        activity_id: serde_json::from_value(pending["activityId"].clone())?,
        attempt: serde_json::from_value(pending["attempt"].clone())?,
        ..claims()
    };
    let later = ActivityClaims {
        attempt: pending.attempt + 1,
        ..pending.clone()
    };
    reasons.push(forgery.refused(&thief, later).await?);
    reasons.push(foreign.refused(&thief, pending.clone()).await?);
    // The other worker, honest about the queue and not.
    reasons.push(forgery.refused(&elsewhere, pending.clone()).await?);
    let moved = ActivityClaims {
        task_queue: "elsewhere".parse()?,
        ..pending.clone()
    };
    reasons.push(forgery.refused(&elsewhere, moved).await?);
    // Somebody who is no worker at all.
    reasons.push(forgery.refused(&stack.control, pending).await?);
    assert_eq!(root.called(call).await?.version()?, 1);

    let denied = || {
        stack.audit(v1::AuditFilter {
            outcome: "denied".to_owned(),
            ..Default::default()
        })
    };
    let all = |entries: &Vec<v1::AuditEntry>| {
        reasons
            .iter()
            .all(|reason| entries.iter().any(|entry| entry.reason == *reason))
    };
    // Refusals for the role are counted by the minute, and written up to 15 s after it.
    let minutes = Duration::from_secs(120);
    let what = format!("{reasons:?} are audited");
    eventually_within(minutes, &what, denied, all).await?;
    let expected = [
        "activity_not_pending",
        "not_running",
        "other_type",
        "activity_not_pending",
        "other_tree",
        "queue_not_served",
        "other_queue",
        "role",
    ];
    assert_eq!(reasons, expected);
    assert_eq!(tree.stats("default", 1).calls, 2);
    stack.stop().await;
    Ok(())
}

#[tokio::test]
async fn an_activity_without_a_workflow_gets_nothing() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let tree = stack.tree("target").walk(Vec::new()).await?;
    tree.node("").holds(1, PATIENCE).await?;
    let grant = Forgery::of(&stack, "target").await?.grant;
    let call = json!({
        "tool": "acme.status", "slot": "default", "parameters": {}, "grant": grant,
    });
    let start = [
        "activity",
        "execute",
        "--activity-id",
        "alone",
        "--type",
        "xylem.call_tool",
        "--task-queue",
        stack.task_queue(),
        "--start-to-close-timeout",
        "10s",
        "--input",
        &call.to_string(),
    ];
    let failed = stack.run_cli(&start).await;
    let said = failed.expect_err("it has no workflow").to_string();
    assert!(said.contains("was not started by a workflow"), "{said}");
    assert_eq!(tree.stats("default", 1).calls, 0);
    let granted = tree.audit("redeem").await?;
    assert!(
        granted.iter().all(|entry| entry.outcome == "denied"),
        "{granted:?}"
    );
    stack.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_call_with_bad_parameters_fails_without_a_token_being_sent() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let tree = stack.tree("params").walk(Vec::new()).await?;
    let root = tree.node("");
    // `acme.build` needs an `id` for its path.
    let refused = root.call("acme.build", "default").await?;
    assert!(refused.failure()?.contains("id"), "{refused:?}");
    assert_eq!(tree.stats("default", 1).calls, 0);
    let order = Order::Call {
        tool: "acme.build".to_owned(),
        slot: "default".to_owned(),
        parameters: json!({ "id": "../../admin/tokens" }),
    };
    root.order(order).await?;
    let Called::Answered { body, .. } = root.called(1).await? else {
        anyhow::bail!("the identifier is a part of the path, whatever it holds");
    };
    assert_eq!(body["id"], "../../admin/tokens");
    stack.stop().await;
    Ok(())
}
