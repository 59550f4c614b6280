//! The main job on everything at once: a token rotated at the root reaches every workflow while
//! they work, and the old one can be revoked.

use serde_json::json;
use std::time::Duration;
use xylem_client::{Error, v1};
use xylem_testkit::{Order, Stack, Tree, branch, eventually, working};

const NOW: Duration = Duration::from_secs(0);
/// Longer than a lease that nobody released: it lasts 15 s more than the tool's 30 s.
const PATIENCE: Duration = Duration::from_secs(60);
/// The nodes of the tree `train`.
const TRAIN: [&str; 3] = ["train", "train/a", "train/a/b"];

/// Waits until the API has counted so many more calls of a version.
async fn calls(tree: &Tree<'_>, version: u32, more: u64) -> anyhow::Result<()> {
    let before = tree.stats("default", version).calls;
    let what = format!("{more} more calls under version {version}");
    let count = || async { Ok(tree.stats("default", version).calls) };
    eventually(&what, count, |count| *count >= before + more).await?;
    Ok(())
}

/// How the calls of a node ended, as the audit log tells.
async fn outcomes(stack: &Stack, node: &str) -> anyhow::Result<Vec<v1::AuditEntry>> {
    let filter = v1::AuditFilter {
        workflow_id: node.to_owned(),
        action: "outcome".to_owned(),
        ..v1::AuditFilter::default()
    };
    stack.audit(filter).await
}

/// Waits until every node has called under a version: many calls may all be one node's.
async fn all_have_called(stack: &Stack, version: u32) -> anyhow::Result<()> {
    for node in TRAIN {
        let what = format!("{node} has called under version {version}");
        let is_so = |outcomes: &Vec<v1::AuditEntry>| {
            let mut orders = outcomes.iter().filter_map(|entry| entry.order.as_ref());
            orders.any(|order| order.version == version)
        };
        eventually(&what, || outcomes(stack, node), is_so).await?;
    }
    Ok(())
}

fn reason(refused: Result<v1::RevokeTokenResponse, Error>) -> String {
    match refused {
        Err(error) => error
            .answer()
            .and_then(|a| a.reason.clone())
            .unwrap_or_default(),
        Ok(revoked) => format!("{revoked:?}"),
    }
}

#[tokio::test]
async fn a_rotated_token_reaches_a_working_tree_and_the_old_one_is_revoked() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let input = working(vec![branch("a", vec![branch("b", Vec::new())])]);
    let tree = stack.tree("train").start("ToolTree", &input).await?;
    calls(&tree, 1, 6).await?;
    all_have_called(&stack, 1).await?;
    assert_eq!(
        reason(tree.revoke("default", 1, NOW).await),
        "version_active"
    );

    assert_eq!(tree.rotate("default").await?, 2);
    let view = tree.converged(2).await?;
    assert_eq!((view.nodes.len(), view.current), (3, 3), "{view:?}");
    let revoked = tree.revoke("default", 1, PATIENCE).await?;
    assert!(
        revoked.stragglers.is_empty() && revoked.breaks.is_empty(),
        "{revoked:?}"
    );
    assert_eq!(revoked.current, 3);
    let under_v1 = tree.stats("default", 1).calls;
    assert!(stack.acme.revoke(&tree.label("default", 1)));
    calls(&tree, 2, 12).await?;
    all_have_called(&stack, 2).await?;

    assert_eq!(tree.stats("default", 1).calls, under_v1);
    let refusals: u64 = stack.acme.stats().iter().map(|stats| stats.refusals).sum();
    assert_eq!(refusals, 0, "{:?}", stack.acme.stats());
    for id in TRAIN {
        let outcomes = outcomes(&stack, id).await?;
        let under = |version| {
            let orders = outcomes.iter().filter_map(|entry| entry.order.as_ref());
            orders.filter(|order| order.version == version).count()
        };
        assert!(under(1) > 0 && under(2) > 0, "{id}: {outcomes:?}");
        assert!(
            outcomes.iter().all(|entry| entry.outcome == "succeeded"),
            "{outcomes:?}"
        );
        assert!(
            outcomes
                .iter()
                .all(|e| e.http_status == Some(200) && e.tool == "acme.status")
        );
    }
    let status = tree.status("default").await?;
    assert!(status.iter().all(|version| !version.exposed), "{status:?}");

    // That it would find them: see `stack_search`.
    let searched = stack.search(&stack.issued()).await?;
    assert_eq!(searched.found_in(), [""; 0]);
    assert!(searched.bytes() > 100_000);
    stack.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_version_whose_lease_is_open_is_not_revoked() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let tree = stack.tree("slow").walk(Vec::new()).await?;
    // The call outlasts the rotation on a slow machine too, and ends within its tool's 30 s.
    let slow = acme_api::Behaviour::Slow { ms: 20_000 };
    stack.acme.behave_times(None, slow, 1);
    let root = tree.node("");
    let call = root.begin("acme.status", "default").await?;
    let begun = || async { Ok(tree.stats("default", 1).calls) };
    eventually("the call is under way", begun, |calls| *calls == 1).await?;

    tree.rotate("default").await?;
    tree.converged(2).await?;
    assert_eq!(reason(tree.revoke("default", 1, NOW).await), "leases_open");
    let open = tree.status("default").await?;
    assert_eq!(
        open.iter().map(|version| version.open_leases).sum::<u32>(),
        1
    );
    tree.revoke("default", 1, PATIENCE).await?;
    // It had waited for the call, which ended well and under the version it began with.
    assert_eq!(root.called(call).await?.version()?, 1);
    assert_eq!(root.call("acme.status", "default").await?.version()?, 2);
    stack.stop().await;
    Ok(())
}

#[tokio::test]
async fn slots_are_rotated_apart_and_the_newest_wins() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let tree = stack
        .tree("two")
        .slots(&["default", "github"])
        .walk(Vec::new())
        .await?;
    let root = tree.node("");
    assert_eq!(root.call("acme.repository", "github").await?.version()?, 1);
    assert_eq!(tree.stats("github", 1).calls, 1);
    assert_eq!(tree.rotate("github").await?, 2);
    tree.slot_converged("github", 2).await?;
    assert_eq!(root.call("acme.repository", "github").await?.version()?, 2);
    assert_eq!(root.call("acme.status", "default").await?.version()?, 1);

    // Three at once: nobody waits for a cascade, and all end on the last.
    for version in [2, 3, 4] {
        assert_eq!(tree.rotate("default").await?, version);
    }
    tree.converged(4).await?;
    assert_eq!(root.call("acme.status", "default").await?.version()?, 4);
    assert_eq!(root.call("acme.repository", "github").await?.version()?, 2);
    // A tool goes with its own slot's token only.
    let wrong = root.call("acme.repository", "default").await?;
    assert!(wrong.failure()?.contains("github"), "{wrong:?}");
    stack.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_reissue_keeps_a_tree_alive_without_a_rotation() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    // Long enough for the first call and the reissue on a slow machine.
    let ttl = Duration::from_secs(30);
    let tree = stack.tree("brief").ttl(ttl).walk(Vec::new()).await?;
    let root = tree.node("");
    assert_eq!(root.call("acme.status", "default").await?.version()?, 1);
    let slot = "default".parse()?;
    let longer = Some(Duration::from_secs(3600));
    let changed = stack
        .control
        .reissue_token(tree.id(), &slot, longer)
        .await?;
    let order = changed
        .version
        .and_then(|version| version.order)
        .unwrap_or_default();
    assert_eq!((order.version, order.serial), (1, 2));
    let expired = || async {
        let first = tree.status("default").await?;
        let deposited = first[0].deposited_at.as_ref().map_or(0, |at| at.seconds);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        Ok(now.as_secs() > u64::try_from(deposited)? + ttl.as_secs())
    };
    eventually("the first grant has expired", expired, |expired| *expired).await?;
    assert_eq!(root.call("acme.status", "default").await?.version()?, 1);
    assert_eq!(tree.status("default").await?.len(), 1);
    stack.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_retried_child_calls_under_the_newest_version() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let call = Order::Call {
        tool: "acme.status".to_owned(),
        slot: "default".to_owned(),
        parameters: json!({}),
    };
    let grow = Order::GrowRetried {
        name: "a".to_owned(),
        orders: vec![call],
        attempts: 2,
    };
    let tree = stack.tree("retry").walk(vec![grow]).await?;
    let child = tree.node("a");
    child.runs().await?;
    assert_eq!(child.called(0).await?.version()?, 1);
    tree.rotate("default").await?;
    tree.converged(2).await?;

    // The second attempt begins with the first one's header, and with a call.
    child.order(Order::Fail).await?;
    let attempt = || child.attempt();
    eventually("the child is retried", attempt, |attempt| *attempt == 2).await?;
    assert_eq!(child.called(0).await?.version()?, 2);
    assert_eq!(tree.stats("default", 1).calls, 1);
    // Its parent has not lost it.
    tree.rotate("default").await?;
    child.holds(3, PATIENCE).await?;
    assert_eq!(child.call("acme.status", "default").await?.version()?, 3);
    stack.stop().await;
    Ok(())
}
