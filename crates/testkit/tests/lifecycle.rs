//! The claims about Temporal that the design leans on, each tried on a real server with a node:
//! whatever happens to a run, the tree ends on the newest version.

use serde_json::{Value, json};
use std::time::Duration;
use temporalio_client::{Client, WorkflowStartOptions};
use temporalio_common::{RetryPolicy, protos::temporal::api::common::v1::Payload};
use xylem_stateful::Selection;
use xylem_testkit::{
    AbsentPlane, BareTree, NodeWorker, Order, Orders, TemporalServer, events, eventually,
    json_payload, query, signal,
};

const QUEUE: &str = "lifecycle";

struct Scene {
    // First: a worker that has lost its server takes 10 s to end.
    _worker: NodeWorker,
    server: TemporalServer,
    client: Client,
    plane: std::sync::Arc<AbsentPlane>,
}

impl Scene {
    async fn new() -> anyhow::Result<Self> {
        let server = TemporalServer::start().await?;
        let plane = AbsentPlane::new();
        let worker = NodeWorker::start(&server, QUEUE, &plane)?;
        Ok(Self {
            client: server.client(),
            server,
            plane,
            _worker: worker,
        })
    }

    async fn tree(&self, orders: Vec<Order>) -> anyhow::Result<BareTree> {
        let input = Orders {
            orders: orders.into(),
        };
        BareTree::start(&self.client, QUEUE, "Walker", "root", &input).await
    }

    async fn order(&self, id: &str, order: Order) -> anyhow::Result<()> {
        signal(&self.client, id, "order", vec![json_payload(&order)]).await
    }

    async fn child_is_known(&self, id: &str) -> anyhow::Result<()> {
        let children = || query(&self.client, "root", "children");
        let running = |list: &Value| {
            list.as_array().is_some_and(|list| {
                list.iter()
                    .any(|child| child["workflowId"] == id && child["status"] == "running")
            })
        };
        eventually(&format!("{id} is a running child"), children, running).await?;
        Ok(())
    }

    /// Waits for the second run of the root.
    async fn continued(&self, tree: &BareTree) -> anyhow::Result<()> {
        let first = tree.claims(1)?.tree.first_run_id;
        let run = || async {
            let started = events(&self.client, "root").await?;
            Ok(format!("{:?}", started.first()))
        };
        eventually("a new run", run, |event| {
            event.contains("continued_execution_run_id: \"0")
                && event.contains(&format!("first_execution_run_id: \"{first}\""))
        })
        .await?;
        Ok(())
    }

    async fn result(&self, id: &str) -> anyhow::Result<String> {
        let shown = || async {
            let arguments = ["workflow", "describe", "-w", id, "--output", "json"];
            let described: Value = serde_json::from_str(&self.server.run_cli(&arguments).await?)?;
            Ok(described)
        };
        let closed = |described: &Value| {
            described["workflowExecutionInfo"]["status"] == "WORKFLOW_EXECUTION_STATUS_COMPLETED"
        };
        let described = eventually("the workflow completed", shown, closed).await?;
        Ok(described["result"].to_string())
    }
}

fn grow(name: &str) -> Order {
    Order::grow(name, Vec::new(), Selection::All)
}

async fn holds(tree: &BareTree, id: &str, version: u32) -> anyhow::Result<()> {
    let what = format!("{id} at version {version}");
    eventually(&what, || tree.version(id), |seen| *seen == Some(version)).await?;
    Ok(())
}

#[tokio::test]
async fn a_node_that_continues_as_new_keeps_its_grants_and_its_children() -> anyhow::Result<()> {
    let scene = Scene::new().await?;
    let tree = scene.tree(vec![grow("a")]).await?;
    tree.rotate(1).await?;
    holds(&tree, "root/a", 1).await?;

    scene.order("root", Order::Continue).await?;
    scene.continued(&tree).await?;
    holds(&tree, "root", 1).await?;
    scene.child_is_known("root/a").await?;

    tree.rotate(2).await?;
    holds(&tree, "root/a", 2).await?;
    Ok(())
}

#[tokio::test]
async fn the_end_of_a_child_of_an_earlier_run_is_learned() -> anyhow::Result<()> {
    let scene = Scene::new().await?;
    let tree = scene
        .tree(vec![grow("a"), grow("b"), Order::Continue])
        .await?;
    tree.rotate(1).await?;
    holds(&tree, "root/b", 1).await?;
    // An end that the first run learns of is not the second one's to learn.
    scene.continued(&tree).await?;
    let wait = Order::Await {
        name: "b".to_owned(),
    };
    scene.order("root", wait).await?;
    scene.order("root/b", Order::Finish).await?;
    assert!(scene.result("root").await?.contains("root/b"));
    Ok(())
}

#[tokio::test]
async fn a_child_asked_for_at_the_very_end_is_started_and_current() -> anyhow::Result<()> {
    let scene = Scene::new().await?;
    let tree = scene.tree(Vec::new()).await?;
    tree.rotate(1).await?;
    holds(&tree, "root", 1).await?;
    let seed = Order::Seed {
        name: "late".to_owned(),
    };
    scene.order("root", seed).await?;
    scene.order("root", Order::Finish).await?;
    scene.result("root").await?;
    holds(&tree, "root/late", 1).await?;
    Ok(())
}

#[tokio::test]
async fn a_child_started_during_a_cascade_ends_on_the_newest_version() -> anyhow::Result<()> {
    let scene = Scene::new().await?;
    let tree = scene.tree(vec![grow("a")]).await?;
    tree.rotate(1).await?;
    holds(&tree, "root/a", 1).await?;
    let mut version = 1;
    for name in ["b", "c", "d", "e"] {
        version += 1;
        let (grown, rotated) = tokio::join!(scene.order("root", grow(name)), tree.rotate(version));
        grown?;
        rotated?;
    }
    for name in ["a", "b", "c", "d", "e"] {
        holds(&tree, &format!("root/{name}"), version).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_retried_root_finds_its_children_again() -> anyhow::Result<()> {
    let scene = Scene::new().await?;
    let retry = RetryPolicy::builder()
        .initial_interval(Duration::from_millis(100))
        .maximum_attempts(3)
        .build();
    let options = WorkflowStartOptions::new(QUEUE, "root")
        .retry_policy(retry)
        .build();
    let input = Orders {
        orders: vec![grow("a")].into(),
    };
    let tree = BareTree::start_with(&scene.client, options, "Walker", &input, true).await?;
    tree.rotate(1).await?;
    holds(&tree, "root/a", 1).await?;
    scene.order("root", Order::Fail).await?;
    let restarted = || async {
        let started = events(&scene.client, "root").await?;
        Ok(format!("{:?}", started.first()))
    };
    eventually("a second attempt", restarted, |event| {
        event.contains("attempt: 2")
    })
    .await?;

    // The second run starts from the first header: no grant, no registry. It asks for `a` again.
    scene.child_is_known("root/a").await?;
    tree.rotate(2).await?;
    holds(&tree, "root", 2).await?;
    holds(&tree, "root/a", 2).await?;
    Ok(())
}

#[tokio::test]
async fn the_next_run_of_a_cron_root_finds_its_children_again() -> anyhow::Result<()> {
    let scene = Scene::new().await?;
    let options = WorkflowStartOptions::new(QUEUE, "root")
        .cron_schedule("@every 1s")
        .build();
    let input = Orders {
        orders: vec![grow("a")].into(),
    };
    let tree = BareTree::start_with(&scene.client, options, "Walker", &input, true).await?;
    tree.rotate(1).await?;
    holds(&tree, "root/a", 1).await?;
    let started = async |id| anyhow::Ok(events(&scene.client, id).await?.into_iter().next());
    let (root, child) = (started("root").await?, started("root/a").await?);
    scene.order("root", Order::Finish).await?;
    let again = || started("root");
    eventually("a second run", again, |event| *event != root).await?;

    // It has neither grant nor registry. It asks for `a` again, which has run on.
    scene.child_is_known("root/a").await?;
    tree.rotate(2).await?;
    holds(&tree, "root", 2).await?;
    holds(&tree, "root/a", 2).await?;
    assert_eq!(started("root/a").await?, child);
    Ok(())
}

#[tokio::test]
async fn a_reset_root_finds_its_children_again() -> anyhow::Result<()> {
    let scene = Scene::new().await?;
    let tree = scene.tree(vec![grow("a")]).await?;
    tree.rotate(1).await?;
    holds(&tree, "root/a", 1).await?;
    let reset = [
        "workflow",
        "reset",
        "-w",
        "root",
        "--type",
        "FirstWorkflowTask",
        "--reason",
        "test",
    ];
    scene.server.run_cli(&reset).await?;
    scene.child_is_known("root/a").await?;
    tree.rotate(2).await?;
    holds(&tree, "root", 2).await?;
    holds(&tree, "root/a", 2).await?;
    Ok(())
}

#[tokio::test]
async fn selection_narrows_at_the_start_and_widens_while_it_runs() -> anyhow::Result<()> {
    let scene = Scene::new().await?;
    let closed = Order::Grow {
        name: "a".to_owned(),
        orders: Vec::new(),
        selection: Selection::None,
    };
    let tree = scene.tree(vec![closed, grow("b")]).await?;
    tree.rotate(1).await?;
    holds(&tree, "root/b", 1).await?;
    let held = || tree.version("root/a");
    let held = eventually("root/a tells what it holds", held, |_| true).await?;
    assert_eq!(held, None);
    let recorded = scene.plane.selects();
    assert_eq!(recorded.len(), 1, "{recorded:?}");
    assert!(recorded[0].child.as_str() == "root/a" && recorded[0].include.is_empty());

    let open = Order::Select {
        name: "a".to_owned(),
        selection: Selection::All,
    };
    scene.order("root", open).await?;
    holds(&tree, "root/a", 1).await?;
    let close = Order::Select {
        name: "a".to_owned(),
        selection: Selection::None,
    };
    scene.order("root", close).await?;
    // Recorded before the root knows: a rotation in between would still reach the child.
    let children = || query(&scene.client, "root", "children");
    eventually("the root has deselected it", children, |list| {
        list.as_array().is_some_and(|list| {
            list.iter()
                .any(|child| child["workflowId"] == "root/a" && child["selection"] == "none")
        })
    })
    .await?;
    assert_eq!(scene.plane.selects().len(), 3);
    tree.rotate(2).await?;
    holds(&tree, "root/b", 2).await?;
    assert_eq!(tree.version("root/a").await?, Some(1));
    Ok(())
}

#[tokio::test]
async fn malformed_signals_fail_no_task_and_are_quoted_nowhere() -> anyhow::Result<()> {
    let scene = Scene::new().await?;
    let tree = scene.tree(vec![grow("a")]).await?;
    tree.rotate(1).await?;
    holds(&tree, "root/a", 1).await?;
    let secret = "tok-malformed-0123456789";
    let raw = |encoding: &str, data: Vec<u8>| Payload {
        metadata: [("encoding".to_owned(), encoding.as_bytes().to_vec())].into(),
        data,
        ..Payload::default()
    };
    let text = || json_payload(&secret);
    let malformed: Vec<Vec<Payload>> = vec![
        vec![],
        vec![text(), text()],
        vec![raw("binary/plain", secret.into())],
        vec![raw("json/plain", format!("{{{secret}").into())],
        vec![json_payload(&json!({ "token": secret }))],
        vec![raw(
            "json/plain",
            format!("\"{}\"", "x".repeat(1024 * 1024)).into(),
        )],
        vec![raw("binary/encrypted", vec![0xff, 0xfe])],
        vec![Payload::default()],
        vec![text()],
        vec![json_payload(&format!("xylem1.{secret}"))],
    ];
    let sent = malformed.len();
    for payloads in malformed {
        for name in ["apiToken", "apiUrl"] {
            signal(&scene.client, "root", name, payloads.clone()).await?;
        }
    }
    let rejected = || async {
        let status = query(&scene.client, "root", "apiToken").await?;
        let counts = status["rejected"].as_object().cloned().unwrap_or_default();
        Ok(counts.values().filter_map(Value::as_u64).sum::<u64>())
    };
    eventually("all were counted", rejected, |count| *count >= sent as u64).await?;
    tree.rotate(2).await?;
    holds(&tree, "root/a", 2).await?;

    for event in events(&scene.client, "root").await? {
        let shown = format!("{event:?}");
        assert!(!shown.contains("WorkflowTaskFailed"), "{shown}");
        let is_the_signal = shown.contains("WorkflowExecutionSignaledEventAttributes");
        let bytes = format!("{:?}", secret.as_bytes());
        let inner = bytes.trim_matches(['[', ']']);
        assert!(
            is_the_signal || !(shown.contains(secret) || shown.contains(inner)),
            "{shown}"
        );
    }
    let status = query(&scene.client, "root", "apiToken").await?.to_string();
    assert!(!status.contains(secret));
    assert!(status.contains("\"exposed\":true"), "{status}");
    Ok(())
}

#[tokio::test]
async fn signals_queries_updates_and_timers_of_the_author_keep_working() -> anyhow::Result<()> {
    let scene = Scene::new().await?;
    let sleep = Order::Sleep { ms: 50 };
    let tree = scene.tree(vec![sleep, grow("a")]).await?;
    tree.rotate(1).await?;
    holds(&tree, "root/a", 1).await?;
    let update = [
        "workflow", "update", "execute", "-w", "root", "--name", "note", "--input", "4",
    ];
    scene.server.run_cli(&update).await?;
    assert_eq!(query(&scene.client, "root", "notes").await?, json!(4));
    let url = vec![json_payload(&"https://eu.api.acme.example/v1")];
    signal(&scene.client, "root/a", "apiUrl", url).await?;
    eventually(
        "its own apiUrl",
        || query(&scene.client, "root/a", "apiUrl"),
        |url| url == "https://eu.api.acme.example/v1",
    )
    .await?;
    assert_eq!(query(&scene.client, "root", "apiUrl").await?, Value::Null);
    Ok(())
}

#[tokio::test]
async fn stock_tooling_reads_what_a_node_holds() -> anyhow::Result<()> {
    let scene = Scene::new().await?;
    let tree = scene.tree(vec![grow("a")]).await?;
    tree.rotate(1).await?;
    holds(&tree, "root/a", 1).await?;
    let ask = ["workflow", "query", "-w", "root/a", "--type", "apiToken"];
    let answer = scene.server.run_cli(&ask).await?;
    assert!(answer.contains("\"version\":1"), "{answer}");
    let list = [
        "workflow",
        "list",
        "-q",
        "XylemTokens='default@1'",
        "--output",
        "json",
    ];
    let listed = || async { scene.server.run_cli(&list).await };
    eventually("both are listed", listed, |text| {
        text.contains("\"root\"") && text.contains("\"root/a\"")
    })
    .await?;
    let tree_query = [
        "workflow",
        "list",
        "-q",
        "RootWorkflowId='root'",
        "--output",
        "json",
    ];
    assert!(
        scene
            .server
            .run_cli(&tree_query)
            .await?
            .contains("\"root/a\"")
    );
    Ok(())
}

#[tokio::test]
async fn a_cancelled_root_still_forwards_what_it_has_adopted() -> anyhow::Result<()> {
    let scene = Scene::new().await?;
    let tree = scene.tree(vec![grow("a"), grow("b")]).await?;
    tree.rotate(1).await?;
    holds(&tree, "root/b", 1).await?;
    let cancel = ["workflow", "cancel", "-w", "root"];
    tree.rotate(2).await?;
    scene.server.run_cli(&cancel).await?;
    let ended = || async {
        let events = events(&scene.client, "root").await?;
        Ok(format!(
            "{:?}",
            events.last().map(|event| event.event_type())
        ))
    };
    eventually("the root is cancelled", ended, |last| {
        last.contains("WorkflowExecutionCanceled")
    })
    .await?;
    // Its children live on, on what it had adopted.
    for id in ["root/a", "root/b"] {
        holds(&tree, id, 2).await?;
    }
    Ok(())
}
