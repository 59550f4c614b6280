//! Who may have a token: selection, and what becomes of nodes whose parents are gone, on the whole
//! stack.

use anyhow::Context;
use std::time::Duration;
use xylem_client::v1;
use xylem_stateful::Selection;
use xylem_testkit::{Order, Stack, Tree, eventually, eventually_within};

/// Beyond the minute between two scheduled sweeps: one that was under way when a rotation came
/// replaces the one after the rotation.
const PATIENCE: Duration = Duration::from_secs(150);

async fn denials(tree: &Tree<'_>, node: &str) -> anyhow::Result<Vec<String>> {
    let entries = tree.audit("redeem").await?;
    let denied = entries
        .into_iter()
        .filter(|entry| entry.outcome == "denied");
    let of_node = denied.filter(|entry| entry.workflow_id == node);
    Ok(of_node.map(|entry| entry.reason).collect())
}

#[tokio::test]
async fn a_child_has_what_its_parent_selects_from_the_moment_it_selects_it() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let orders = vec![
        Order::grow("open", Vec::new(), Selection::All),
        Order::grow(
            "closed",
            vec![Order::grow("below", Vec::new(), Selection::All)],
            Selection::None,
        ),
        Order::grow("late", Vec::new(), Selection::None),
    ];
    let tree = stack.tree("choice").walk(orders).await?;
    let (root, open, closed) = (tree.node(""), tree.node("open"), tree.node("closed"));
    let (below, late) = (tree.node("closed/below"), tree.node("late"));
    open.holds(1, PATIENCE).await?;
    for node in [&closed, &below, &late] {
        node.runs().await?;
        let status = node.ask("apiToken").await?;
        assert_eq!(status["slots"]["default"]["state"], "missing", "{status}");
    }
    let view = tree.converged(1).await?;
    assert_eq!((view.current, view.unselected), (2, 3), "{view:?}");

    // A grant out of a history entitles it to nothing, nor anything below it.
    closed
        .signal("apiToken", &root.grant_in_history().await?)
        .await?;
    for (node, path) in [(&closed, "choice/closed"), (&below, "choice/closed/below")] {
        node.holds(1, PATIENCE).await?;
        let refused = node.call("acme.status", "default").await?;
        assert!(refused.failure()?.contains("excluded"), "{refused:?}");
        assert_eq!(denials(&tree, path).await?, ["excluded"]);
    }

    // Selected at run time, it has the current grant at once.
    root.order(Order::select("late", Selection::All)).await?;
    late.holds(1, PATIENCE).await?;
    assert_eq!(late.call("acme.status", "default").await?.version()?, 1);
    assert_eq!(open.call("acme.status", "default").await?.version()?, 1);

    // Deselected, it is refused although it still holds a grant.
    root.order(Order::select("open", Selection::None)).await?;
    let excluded = || async {
        let entries = tree.audit("exclude").await?;
        Ok(entries
            .iter()
            .filter(|entry| entry.slot == "default")
            .count())
    };
    eventually("the vault has recorded it", excluded, |count| *count == 3).await?;
    let refused = open.call("acme.status", "default").await?;
    let failure = refused.failure()?;
    assert!(
        failure.contains("slot default of tree choice, version 1"),
        "{failure}"
    );
    assert_eq!(
        denials(&tree, "choice/open").await?,
        ["excluded"],
        "not retried"
    );
    tree.rotate("default").await?;
    late.holds(2, PATIENCE).await?;
    assert!(open.call("acme.status", "default").await?.failure().is_ok());
    assert_eq!(tree.stats("default", 2).calls, 0);
    stack.stop().await;
    Ok(())
}

#[tokio::test]
async fn nodes_whose_parent_is_gone_are_swept() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let leaf = |name: &str| Order::grow(name, Vec::new(), Selection::All);
    let orders = vec![
        Order::grow("killed", vec![leaf("x")], Selection::All),
        Order::grow("done", vec![leaf("y")], Selection::All),
        leaf("reset"),
    ];
    let tree = stack.tree("orphans").walk(orders).await?;
    let (x, y, reset) = (
        tree.node("killed/x"),
        tree.node("done/y"),
        tree.node("reset"),
    );
    for node in [&x, &y, &reset] {
        node.holds(1, PATIENCE).await?;
    }
    let kill = ["workflow", "terminate", "-w", "orphans/killed"];
    stack.run_cli(&kill).await?;
    tree.node("done").order(Order::Finish).await?;
    let running = || async {
        let view = tree.view().await?;
        Ok(view
            .nodes
            .iter()
            .filter(|node| node.status == "running")
            .count())
    };
    eventually("two parents have ended", running, |count| *count == 4).await?;

    tree.rotate("default").await?;
    x.holds(2, PATIENCE).await?;
    y.holds(2, PATIENCE).await?;
    tree.converged(2).await?;

    // A reset takes the node back to a history without grants; the sweep brings it to the newest.
    reset.reset().await?;
    tree.rotate("default").await?;
    reset.holds(3, PATIENCE).await?;
    for node in [&x, &y, &reset] {
        assert_eq!(node.call("acme.status", "default").await?.version()?, 3);
    }
    tree.converged(3).await?;
    stack.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_node_with_an_old_grant_heals_at_its_next_call() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let tree = stack.tree("pull").walk(Vec::new()).await?;
    let root = tree.node("");
    root.holds(1, PATIENCE).await?;
    // The order was given before the rotation reached the node: the call presents version 1. No
    // attempt succeeds before the rotation, however long that takes.
    let unavailable = acme_api::Behaviour::Status { status: 503 };
    stack.acme.behave(None, unavailable);
    let call = root.begin("acme.status", "default").await?;
    let first = || async { Ok(tree.stats("default", 1).calls) };
    eventually("a first attempt", first, |calls| *calls >= 1).await?;
    tree.rotate("default").await?;
    stack.acme.behave_well();
    assert_eq!(root.called(call).await?.version()?, 2);
    let filter = v1::AuditFilter {
        tree: "pull".to_owned(),
        action: "outcome".to_owned(),
        ..v1::AuditFilter::default()
    };
    let outcomes = stack.audit(filter).await?;
    let statuses: Vec<_> = outcomes.iter().map(|entry| entry.http_status).collect();
    let (last, earlier) = statuses.split_last().context("no outcome is audited")?;
    assert_eq!(*last, Some(200));
    assert!(!earlier.is_empty(), "the first attempt is audited");
    assert!(earlier.iter().all(|status| *status == Some(503)));
    let calls = [1, 2].map(|version| tree.stats("default", version).calls);
    assert_eq!(statuses.len() as u64, calls.iter().sum::<u64>());
    stack.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_stopped_tree_is_over_and_its_name_gives_nothing_to_another() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let leaf = |name: &str| Order::grow(name, Vec::new(), Selection::All);
    let tree = stack.tree("end").walk(vec![leaf("a"), leaf("b")]).await?;
    tree.node("b").holds(1, PATIENCE).await?;
    let grant = tree.node("").grant_in_history().await?;
    let late = tree.node("a");
    let (stopped, grown) = tokio::join!(tree.stop(), late.order(leaf("late")));
    // The order may have come too late: then there is no child to stop.
    drop(grown);
    let stopped = stopped?;
    assert_eq!(stopped.still_running, 0, "{stopped:?}");
    assert!(stopped.stopped >= 3, "{stopped:?}");
    let of_tree = "RootWorkflowId='end' AND ExecutionStatus='Running'";
    let running = || async {
        Ok(stack
            .temporal
            .count_workflows(of_tree, Default::default())
            .await?
            .count())
    };
    // What started while the tree was being stopped may be left to the sweep.
    eventually_within(PATIENCE, "nothing runs", running, |count| *count == 0).await?;

    // Somebody starts another workflow under the id and hands it the old grant.
    let input = r#"{"orders":[]}"#;
    let start = [
        "workflow",
        "start",
        "-w",
        "end",
        "--type",
        "Walker",
        "--task-queue",
        stack.task_queue(),
        "--input",
        input,
    ];
    stack.run_cli(&start).await?;
    let other = tree.node("");
    other.signal("apiToken", &grant).await?;
    let status = || other.ask("apiToken");
    let counted = |status: &serde_json::Value| {
        status["rejected"]
            .as_object()
            .is_some_and(|counts| !counts.is_empty())
    };
    let seen = eventually("the grant is rejected", status, counted).await?;
    assert!(
        !seen["slots"].to_string().contains("\"version\":1"),
        "{seen}"
    );
    assert_eq!(tree.stats("default", 1).calls, 0);
    stack.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_terminated_tree_is_over_for_a_reset_run_and_for_whoever_has_its_grant()
-> anyhow::Result<()> {
    let stack = Stack::start().await?;
    // It would end what runs of a stopped tree, such as the run that is reset below.
    let sweep = ["schedule", "toggle", "--schedule-id", "xylem-sweep"];
    let pause = [&sweep[..], &["--pause", "--reason", "test"]].concat();
    let paused = || stack.run_cli(&pause);
    eventually("the scheduled sweep is paused", paused, |_| true).await?;
    let below = vec![Order::grow("b", Vec::new(), Selection::All)];
    let orders = vec![Order::grow("a", below, Selection::All)];
    let tree = stack.tree("gone").walk(orders).await?;
    let (root, last) = (tree.node(""), tree.node("a/b"));
    last.holds(1, PATIENCE).await?;
    assert_eq!(root.call("acme.status", "default").await?.version()?, 1);
    let grant = root.grant_in_history().await?;
    let other = stack.tree("other").walk(Vec::new()).await?;
    other.node("").holds(1, PATIENCE).await?;

    let stopped = tree.terminate().await?;
    assert_eq!((stopped.stopped, stopped.still_running), (3, 0));
    for node in [&root, &tree.node("a"), &last] {
        let described = node.describe().await?;
        let status = &described["workflowExecutionInfo"]["status"];
        assert_eq!(status, "WORKFLOW_EXECUTION_STATUS_TERMINATED");
    }

    // Reset, the root runs again as what it was, and is handed its old grant.
    root.reset().await?;
    root.signal("apiToken", &grant).await?;
    root.holds(1, PATIENCE).await?;
    let refused = root.call("acme.status", "default").await?;
    assert!(refused.failure()?.contains("tree_stopped"), "{refused:?}");
    assert_eq!(denials(&tree, "gone").await?, ["tree_stopped"]);

    // A node of another tree, which runs, presents it as its own.
    let stranger = other.node("");
    stranger.order(Order::CallWith { grant }).await?;
    let refused = stranger.called(0).await?;
    assert!(refused.failure()?.contains("other_tree"), "{refused:?}");
    assert_eq!(denials(&other, "other").await?, ["other_tree"]);
    assert_eq!(tree.stats("default", 1).calls, 1);
    assert_eq!(stranger.call("acme.status", "default").await?.version()?, 1);
    stack.stop().await;
    Ok(())
}
