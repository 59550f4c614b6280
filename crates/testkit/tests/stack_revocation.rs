//! The gate of a revocation on the whole stack: what closes it, what force breaks, and how calls
//! wait for the token that comes after.

use serde_json::Value;
use std::time::Duration;
use xylem_client::v1;
use xylem_stateful::Selection;
use xylem_testkit::{Order, Stack, Tree, eventually};

const PATIENCE: Duration = Duration::from_secs(60);

fn leaf(name: &str) -> Order {
    Order::Grow {
        name: name.to_owned(),
        orders: Vec::new(),
        selection: Selection::All,
    }
}

async fn state(tree: &Tree<'_>, version: u32) -> anyhow::Result<v1::VersionState> {
    let versions = tree.status("default").await?;
    let mut versions = versions.into_iter();
    let found =
        versions.find(|found| found.order.as_ref().map(|order| order.version) == Some(version));
    Ok(found.map(|version| version.state()).unwrap_or_default())
}

#[tokio::test]
async fn a_node_that_does_not_answer_closes_the_gate_until_it_is_forced() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let tree = stack
        .tree("gate")
        .walk(vec![leaf("well"), leaf("stuck")])
        .await?;
    let stuck = tree.node("stuck");
    stuck.holds(1, PATIENCE).await?;
    // Its author's handler cannot read this: from now on every task of the node fails.
    stuck.signal("order", &"nonsense").await?;
    tree.rotate("default").await?;
    for path in ["", "well"] {
        tree.node(path).holds(2, PATIENCE).await?;
    }

    let refused = tree.revoke("default", 1, Duration::from_secs(2)).await;
    let refused = refused.expect_err("a node is silent");
    assert_eq!(refused.reason(), Some("nodes_behind"));
    let said = refused.to_string();
    assert!(
        said.contains("1 nodes") && said.contains("gate/stuck ("),
        "{said}"
    );
    assert!(!said.contains("gate/well"), "{said}");
    assert_eq!(state(&tree, 1).await?, v1::VersionState::Superseded);
    assert!(tree.audit("forced_revoke").await?.is_empty());

    let forced = tree.force_revoke("default", 1).await?;
    let stragglers: Vec<_> = forced
        .stragglers
        .iter()
        .map(|node| node.workflow_id.as_str())
        .collect();
    assert_eq!((stragglers, forced.current), (vec!["gate/stuck"], 2));
    assert!(
        forced.breaks[0].contains("1 nodes were behind"),
        "{forced:?}"
    );
    assert_eq!(state(&tree, 1).await?, v1::VersionState::Revoked);
    let entries = tree.audit("forced_revoke").await?;
    let [entry] = entries.as_slice() else {
        anyhow::bail!("not one entry: {entries:?}");
    };
    assert_eq!((entry.reason.as_str(), entry.count), ("nodes_behind", 1));
    assert_eq!(
        (entry.agent.as_str(), entry.slot.as_str()),
        ("admin", "default")
    );

    // Brought back to before the signal, it presents what it had, and gets the newest.
    stuck.reset().await?;
    tree.rotate("default").await?;
    assert_eq!(stuck.call("acme.status", "default").await?.version()?, 3);
    tree.converged(3).await?;
    stack.stop().await;
    Ok(())
}

#[tokio::test]
async fn force_does_not_wait_for_a_call_and_says_so() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let tree = stack.tree("hasty").walk(Vec::new()).await?;
    // The call outlasts the rotation and the revocation on a slow machine too, and ends within
    // its tool's 30 s.
    let slow = acme_api::Behaviour::Slow { ms: 20_000 };
    stack.acme.behave_times(None, slow, 1);
    let root = tree.node("");
    let call = root.begin("acme.status", "default").await?;
    let begun = || async { Ok(tree.stats("default", 1).calls) };
    eventually("the call is under way", begun, |calls| *calls == 1).await?;
    tree.rotate("default").await?;
    tree.converged(2).await?;

    let forced = tree.force_revoke("default", 1).await?;
    assert!(forced.stragglers.is_empty(), "{forced:?}");
    assert!(forced.breaks[0].contains("1 calls"), "{forced:?}");
    let entries = tree.audit("forced_revoke").await?;
    let [entry] = entries.as_slice() else {
        anyhow::bail!("not one entry: {entries:?}");
    };
    assert_eq!(entry.order.as_ref().map(|order| order.version), Some(1));
    assert_eq!(entry.outcome, "succeeded");
    assert_eq!(root.called(call).await?.version()?, 1);
    assert_eq!(root.call("acme.status", "default").await?.version()?, 2);
    stack.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_call_waits_visibly_for_the_token_after_a_revoked_one() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let tree = stack.tree("between").walk(Vec::new()).await?;
    let root = tree.node("");
    assert_eq!(root.call("acme.status", "default").await?.version()?, 1);
    let active = tree.revoke("default", 1, Duration::ZERO).await;
    assert_eq!(
        active.expect_err("it is in use").reason(),
        Some("version_active")
    );
    tree.force_revoke("default", 1).await?;

    let call = root.begin("acme.status", "default").await?;
    let says_why = |pending: &Option<Value>| {
        let failure = pending.as_ref().map(|activity| &activity["lastFailure"]);
        failure.is_some_and(|failure| failure.to_string().contains("token_revoked"))
    };
    eventually("the call waits and says why", || root.pending(), says_why).await?;
    assert_eq!(tree.stats("default", 1).calls, 1);
    tree.rotate("default").await?;
    assert_eq!(root.called(call).await?.version()?, 2);
    stack.stop().await;
    Ok(())
}
