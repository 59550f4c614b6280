//! What the design claims about the worst moments, tried on a real server: a worker that is killed
//! in the middle of a wide forward, and a walk over nodes while they start and end children.

use anyhow::bail;
use std::{
    cell::RefCell,
    collections::BTreeSet,
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime},
};
use temporalio_client::Client;
use temporalio_common::protos::temporal::api::{
    enums::v1::EventType::{self, UpsertWorkflowSearchAttributes, WorkflowExecutionSignaled},
    history::v1::{HistoryEvent, history_event::Attributes},
};
use xylem_grant::VerifiedGrant;
use xylem_stateful::{ChildStatus, Selection};
use xylem_testkit::{
    AbsentPlane, BareTree, NodeWorker, Order, Orders, Settings, TemporalServer, added_since,
    events, eventually, eventually_within, json_payload, signal, status,
};
use xylem_workflows::{Branch, ToolTreeInput};

const QUEUE: &str = "crash";

/// Wide enough that one forward takes the better part of a second.
const LEAVES: usize = 150;

/// The last version. Something is killed in each rotation, until that was in the middle of one.
const ROTATIONS: u32 = 7;

/// Workflow tasks that the dead worker held are given to another one after 10 s, and what was
/// scheduled for its cache after 10 s more.
const AFTER_A_CRASH: Duration = Duration::from_secs(120);

/// A worker process. Dropping it kills it.
struct Worker(Child);

impl Worker {
    fn start(server: &TemporalServer) -> anyhow::Result<Self> {
        let process = Command::new(env!("CARGO_BIN_EXE_testkit-worker"))
            .args([&server.address(), QUEUE])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self(process))
    }
}

impl Drop for Worker {
    /// `kill -9`.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn leaf(index: usize) -> String {
    format!("root/leaf-{index:03}")
}

fn wide() -> ToolTreeInput {
    let branch = |index| Branch {
        name: format!("leaf-{index:03}"),
        node: ToolTreeInput::default(),
        selection: Selection::All,
    };
    ToolTreeInput {
        children: (0..LEAVES).map(branch).collect(),
        ..ToolTreeInput::default()
    }
}

async fn all_at(tree: &BareTree, version: u32) -> anyhow::Result<()> {
    for id in std::iter::once("root".to_owned()).chain((0..LEAVES).map(leaf)) {
        let what = format!("{id} at version {version}");
        let held = || tree.version(&id);
        eventually_within(AFTER_A_CRASH, &what, held, |seen| *seen == Some(version)).await?;
    }
    Ok(())
}

/// How often this grant was signalled to a workflow.
fn signals(events: &[HistoryEvent], grant: &str) -> usize {
    let text = serde_json::to_vec(grant).unwrap_or_default();
    let is_grant = |event: &&HistoryEvent| match &event.attributes {
        Some(Attributes::WorkflowExecutionSignaledEventAttributes(signal)) => {
            let payloads = signal.input.as_ref().map(|input| input.payloads.as_slice());
            payloads
                .unwrap_or_default()
                .iter()
                .any(|payload| payload.data == text)
        }
        _ => false,
    };
    events.iter().filter(is_grant).count()
}

/// When a workflow was signalled last, by the server's clock.
fn last_signal(events: &[HistoryEvent]) -> Option<SystemTime> {
    let mut signals = events.iter().rev();
    let last = signals.find(|event| event.event_type() == WorkflowExecutionSignaled)?;
    SystemTime::try_from(last.event_time?).ok()
}

fn count(events: &[EventType], of: EventType) -> usize {
    events.iter().filter(|event| **event == of).count()
}

/// The leaves that have not been sent the grant.
async fn missed(client: &Client, grant: &str) -> anyhow::Result<usize> {
    let mut missed = 0;
    for index in 0..LEAVES {
        let events = events(client, &leaf(index)).await?;
        missed += usize::from(signals(&events, grant) == 0);
    }
    Ok(missed)
}

/// Waits until a forward has begun. The first leaf is among the first that are signalled.
async fn first_is_reached(client: &Client, grant: &VerifiedGrant) -> anyhow::Result<()> {
    let first = leaf(0);
    let sent = || async {
        let events = events(client, &first).await?;
        Ok(signals(&events, grant.as_str()))
    };
    eventually("the first leaf was reached", sent, |sent| *sent == 1).await?;
    Ok(())
}

#[tokio::test]
async fn a_worker_killed_in_the_middle_of_a_wide_forward_loses_and_repeats_nothing()
-> anyhow::Result<()> {
    let server = TemporalServer::start().await?;
    let mut worker = Worker::start(&server)?;
    let client = server.client();
    let tree = BareTree::start(&client, QUEUE, "ToolTree", "root", &wide()).await?;
    tree.rotate(1).await?;
    all_at(&tree, 1).await?;

    // A test that is slow to look kills the worker after the forward: that is tried again.
    for version in 2..=ROTATIONS {
        let before = events(&client, "root").await?.len();
        let grant = tree.grant(version)?;
        tree.signal("root", &grant).await?;
        first_is_reached(&client, &grant).await?;
        drop(worker);
        let missed = missed(&client, grant.as_str()).await?;

        worker = Worker::start(&server)?;
        all_at(&tree, version).await?;
        for index in 0..LEAVES {
            let events = events(&client, &leaf(index)).await?;
            assert_eq!(signals(&events, grant.as_str()), 1, "{}", leaf(index));
        }
        let root = added_since(&client, "root", before).await?;
        assert_eq!(count(&root, WorkflowExecutionSignaled), 1, "{root:?}");
        assert_eq!(count(&root, UpsertWorkflowSearchAttributes), 1, "{root:?}");
        if missed > 0 {
            return Ok(());
        }
    }
    bail!("every forward had ended before the worker was killed");
}

#[tokio::test]
async fn a_temporal_server_killed_in_the_middle_of_a_wide_forward_loses_and_repeats_nothing()
-> anyhow::Result<()> {
    let place = tempfile::tempdir()?;
    let settings = Settings {
        database: Some(place.path().join("temporal.db")),
        ..Settings::default()
    };
    let mut server = TemporalServer::start_with(&settings).await?;
    let _worker = NodeWorker::start(&server, QUEUE, &AbsentPlane::new())?;
    let client = server.client();
    let tree = BareTree::start(&client, QUEUE, "ToolTree", "root", &wide()).await?;
    tree.rotate(1).await?;
    all_at(&tree, 1).await?;

    let mut was_in_the_middle = false;
    for version in 2..=ROTATIONS {
        let before = events(&client, "root").await?.len();
        let grant = tree.grant(version)?;
        tree.signal("root", &grant).await?;
        first_is_reached(&client, &grant).await?;
        let killed_at = SystemTime::now();
        server.kill_and_restart().await?;
        all_at(&tree, version).await?;
        for index in 0..LEAVES {
            let events = events(&client, &leaf(index)).await?;
            assert_eq!(signals(&events, grant.as_str()), 1, "{}", leaf(index));
            was_in_the_middle |= last_signal(&events).is_some_and(|at| at > killed_at);
        }
        let root = added_since(&client, "root", before).await?;
        assert_eq!(count(&root, WorkflowExecutionSignaled), 1, "{root:?}");
        if was_in_the_middle {
            return Ok(());
        }
    }
    bail!("every forward had ended before the server was killed");
}

/// Children that the root has named while they were starting, and all it has named.
#[derive(Default)]
struct Seen {
    starting: BTreeSet<String>,
    all: BTreeSet<String>,
}

impl Seen {
    fn note(&mut self, children: &[ChildStatus]) {
        for child in children {
            let id = child.workflow_id.to_string();
            if child.first_run_id.is_none() {
                self.starting.insert(id.clone());
            }
            self.all.insert(id);
        }
    }
}

#[tokio::test]
async fn a_walk_sees_every_child_while_children_start_and_end() -> anyhow::Result<()> {
    const CHILDREN: usize = 30;
    let settings = Settings {
        // Children start slowly then, one after the other.
        fast_transfer_queue: false,
        ..Settings::default()
    };
    let server = TemporalServer::start_with(&settings).await?;
    let _worker = NodeWorker::start(&server, QUEUE, &AbsentPlane::new())?;
    let client = server.client();
    let tree = BareTree::start(&client, QUEUE, "Walker", "root", &Orders::default()).await?;
    tree.rotate(1).await?;
    eventually(
        "the root at version 1",
        || tree.version("root"),
        |seen| *seen == Some(1),
    )
    .await?;

    let child = |index: usize| format!("root/{index}");
    let seen = RefCell::new(Seen::default());
    let disturb = async {
        for index in 0..CHILDREN {
            let name = index.to_string();
            let seed = json_payload(&Order::Seed { name });
            signal(&client, "root", "order", vec![seed]).await?;
        }
        for index in 0..CHILDREN {
            let id = child(index);
            // Not before a walk had the time to see it.
            let is_seen = || async { Ok(seen.borrow().all.contains(&id)) };
            eventually(&format!("{id} is seen"), is_seen, |is_seen| *is_seen).await?;
            let finish = || signal(&client, &id, "order", vec![json_payload(&Order::Finish)]);
            eventually(&format!("{id} can be told to finish"), finish, |()| true).await?;
        }
        anyhow::Ok(())
    };
    let walk = async {
        loop {
            // One query at a time; every one must be answered, whatever the root is doing.
            let children = status(&client, "root").await?.children;
            let mut seen = seen.borrow_mut();
            seen.note(&children);
            if seen.all.len() == CHILDREN && children.is_empty() {
                return anyhow::Ok(());
            }
        }
    };
    let walk = tokio::time::timeout(Duration::from_secs(300), walk);
    let (disturbed, walked) = tokio::join!(disturb, walk);
    disturbed?;
    walked??;
    let seen = seen.into_inner();
    assert_eq!(seen.all, (0..CHILDREN).map(child).collect());
    assert!(
        !seen.starting.is_empty(),
        "no child was seen while it started"
    );
    Ok(())
}
