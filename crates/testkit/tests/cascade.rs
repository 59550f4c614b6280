//! Cascades on a real server: what one rotation costs, and that newest wins.

use std::time::Duration;
use temporalio_client::Client;
use temporalio_common::protos::temporal::api::enums::v1::EventType::{
    self, MarkerRecorded, UpsertWorkflowSearchAttributes, WorkflowExecutionSignaled,
    WorkflowTaskCompleted, WorkflowTaskScheduled, WorkflowTaskStarted,
};
use xylem_stateful::activity::Issuers;
use xylem_testkit::{
    AbsentPlane, BareTree, NodeWorker, Settings, TemporalServer, added_since, events, eventually,
    eventually_within, status,
};
use xylem_workflows::{Branch, ToolTreeInput};

const QUEUE: &str = "cascade";

fn leaves(count: usize) -> ToolTreeInput {
    let leaf = |index: usize| Branch {
        name: format!("leaf-{index}"),
        node: ToolTreeInput::default(),
        selection: xylem_stateful::Selection::All,
    };
    ToolTreeInput {
        children: (0..count).map(leaf).collect(),
        ..ToolTreeInput::default()
    }
}

fn ids(root: &str, count: usize) -> Vec<String> {
    let leaf = |index| format!("{root}/leaf-{index}");
    std::iter::once(root.to_owned())
        .chain((0..count).map(leaf))
        .collect()
}

async fn all_at(tree: &BareTree, ids: &[String], version: u32) -> anyhow::Result<()> {
    for id in ids {
        let what = format!("{id} at version {version}");
        eventually(&what, || tree.version(id), |seen| *seen == Some(version)).await?;
    }
    Ok(())
}

/// Waits until the root has nothing more to learn of its children: one can hold a grant before the
/// root has been told that it has started, which is a task of the root's own.
async fn at_rest(client: &Client, children: usize) -> anyhow::Result<()> {
    let ask = || status(client, "root");
    eventually("the root is at rest", ask, |root| {
        let mut known = root.children.iter();
        root.children.len() == children
            && known.all(|child| child.first_run_id.is_some())
            && root.forwards_pending == 0
    })
    .await?;
    Ok(())
}

fn count(events: &[EventType], of: EventType) -> usize {
    events.iter().filter(|event| **event == of).count()
}

#[tokio::test]
async fn a_rotation_costs_a_parent_six_events_and_a_leaf_five() -> anyhow::Result<()> {
    let server = TemporalServer::start().await?;
    let _worker = NodeWorker::start(&server, QUEUE, &AbsentPlane::new())?;
    let client = server.client();
    let tree = BareTree::start(&client, QUEUE, "ToolTree", "root", &leaves(20)).await?;
    let ids = ids("root", 20);
    tree.rotate(1).await?;
    all_at(&tree, &ids, 1).await?;
    at_rest(&client, 20).await?;
    let root_before = events(&client, "root").await?.len();
    let leaf_before = events(&client, "root/leaf-7").await?.len();

    tree.rotate(2).await?;
    all_at(&tree, &ids, 2).await?;

    let parent = added_since(&client, "root", root_before).await?;
    let task = [
        WorkflowTaskScheduled,
        WorkflowTaskStarted,
        WorkflowTaskCompleted,
    ];
    let mut expected = vec![WorkflowExecutionSignaled];
    expected.extend(task);
    expected.push(UpsertWorkflowSearchAttributes);
    let leaf = added_since(&client, "root/leaf-7", leaf_before).await?;
    assert_eq!(leaf, expected);
    expected.push(MarkerRecorded);
    assert_eq!(parent, expected);
    Ok(())
}

#[tokio::test]
async fn without_the_search_attribute_nothing_is_upserted() -> anyhow::Result<()> {
    let settings = Settings {
        search_attribute: false,
        ..Settings::default()
    };
    let server = TemporalServer::start_with(&settings).await?;
    let _worker = NodeWorker::start(&server, QUEUE, &AbsentPlane::new())?;
    let client = server.client();
    let input = leaves(2);
    let tree =
        BareTree::without_search_attribute(&client, QUEUE, "ToolTree", "root", &input).await?;
    let ids = ids("root", 2);
    tree.rotate(1).await?;
    all_at(&tree, &ids, 1).await?;
    let before = events(&client, "root/leaf-0").await?.len();
    tree.rotate(2).await?;
    all_at(&tree, &ids, 2).await?;
    let added = added_since(&client, "root/leaf-0", before).await?;
    assert_eq!(added.len(), 4, "{added:?}");
    assert_eq!(count(&added, WorkflowTaskCompleted), 1);
    Ok(())
}

#[tokio::test]
async fn a_hundred_rotations_at_once_are_few_cascades() -> anyhow::Result<()> {
    let server = TemporalServer::start().await?;
    let _worker = NodeWorker::start(&server, QUEUE, &AbsentPlane::new())?;
    let client = server.client();
    let tree = BareTree::start(&client, QUEUE, "ToolTree", "root", &leaves(10)).await?;
    let ids = ids("root", 10);
    tree.rotate(1).await?;
    all_at(&tree, &ids, 1).await?;
    let before = events(&client, "root/leaf-3").await?.len();

    let rotations = (2..=101).map(|version| tree.rotate(version));
    futures::future::try_join_all(rotations).await?;
    all_at(&tree, &ids, 101).await?;

    // One signal is one forwarded grant: those in between were overtaken at the root.
    let added = added_since(&client, "root/leaf-3", before).await?;
    let signals = count(&added, WorkflowExecutionSignaled);
    assert!(
        (1..=20).contains(&signals),
        "{signals} signals reached the leaf"
    );
    Ok(())
}

#[tokio::test]
async fn duplicates_stale_and_foreign_grants_change_nothing() -> anyhow::Result<()> {
    let server = TemporalServer::start().await?;
    let plane = AbsentPlane::new();
    let _worker = NodeWorker::start(&server, QUEUE, &plane)?;
    let client = server.client();
    let tree = BareTree::start(&client, QUEUE, "ToolTree", "a", &leaves(1)).await?;
    let other = BareTree::start(&client, QUEUE, "ToolTree", "b", &leaves(0)).await?;
    tree.rotate(1).await?;
    tree.rotate(3).await?;
    let ids = ids("a", 1);
    all_at(&tree, &ids, 3).await?;
    let before = events(&client, "a/leaf-0").await?.len();

    plane.answer(Issuers {
        tree: tree.claims(1)?.tree,
        issuers: vec![tree.issuer().public().clone()],
        intake: false,
        search_attribute: true,
        grants: Vec::new(),
    });
    tree.rotate(2).await?;
    tree.signal("a", &other.grant(9)?).await?;
    let mut foreign = tree.claims(9)?;
    foreign.tree = other.claims(1)?.tree;
    tree.signal("a", &tree.issuer().issue(foreign)?).await?;
    let mut elsewhere = tree.claims(9)?;
    elsewhere.slot = "github".parse()?;
    tree.signal("a", &tree.issuer().issue(elsewhere)?).await?;
    let mut conflict = tree.claims(3)?;
    conflict.fingerprint = "ffffffffffffffff".parse()?;
    tree.signal("a", &tree.issuer().issue(conflict)?).await?;

    let expected = [
        "conflict",
        "other_tree",
        "slot_not_taken",
        "stale",
        "unknown_key",
    ];
    let counted = || async {
        let status = xylem_testkit::query(&client, "a", "apiToken").await?;
        Ok(status["rejected"].clone())
    };
    eventually("every rejection counted", counted, |rejected| {
        expected.iter().all(|reason| rejected.get(reason).is_some())
    })
    .await?;
    all_at(&tree, &ids, 3).await?;
    assert_eq!(added_since(&client, "a/leaf-0", before).await?, []);
    // Reports are a minute apart: which reasons are in the first one depends on what came together,
    // and what it did not bring to its end in time is part of the second one.
    eventually_within(
        Duration::from_secs(150),
        "the audit log heard of it",
        || async { Ok(plane.reported()) },
        |reported| expected.iter().any(|reason| reported.contains_key(*reason)),
    )
    .await?;
    Ok(())
}
