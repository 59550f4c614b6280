//! Writes `tests/histories` of this crate anew, from runs on a Temporal server of its own.
//!
//! To be used after a change that is meant to break the replay and raises the protocol number:
//! `cargo run -p xylem-testkit --bin record-histories`.

use anyhow::Result;
use serde_json::{Value, json};
use std::{fs, path::PathBuf};
use temporalio_client::{
    Client, NamespacedClient, WorkflowExecutionInfo, WorkflowFetchHistoryOptions,
};
use temporalio_common::protos::temporal::api::common::v1::Payload;
use xylem_stateful::Selection;
use xylem_testkit::{
    AbsentPlane, BareTree, NodeWorker, Order, Orders, TemporalServer, events, eventually,
    json_payload, query, signal,
};
use xylem_workflows::{Branch, ToolTreeInput};

const QUEUE: &str = "replay";

fn place() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/histories"))
}

#[tokio::main]
async fn main() -> Result<()> {
    let server = TemporalServer::start().await?;
    let _worker = NodeWorker::start(&server, QUEUE, &AbsentPlane::new())?;
    let recorder = Recorder {
        client: server.client(),
        server,
    };
    record_cascade(&recorder).await?;
    record_continued(&recorder).await?;
    record_selection(&recorder).await?;
    record_malformed(&recorder).await
}

struct Recorder {
    server: TemporalServer,
    client: Client,
}

impl Recorder {
    async fn order(&self, id: &str, order: Order) -> Result<()> {
        signal(&self.client, id, "order", vec![json_payload(&order)]).await
    }

    async fn walker(&self, id: &str, orders: Vec<Order>) -> Result<BareTree> {
        let input = Orders {
            orders: orders.into(),
        };
        BareTree::start(&self.client, QUEUE, "Walker", id, &input).await
    }

    /// Waits until the workflow's current run has closed.
    async fn closed(&self, id: &str) -> Result<()> {
        let last = || async {
            let events = events(&self.client, id).await?;
            Ok(format!(
                "{:?}",
                events.last().map(|event| event.event_type())
            ))
        };
        let is_end = |last: &String| {
            ["Completed)", "Canceled)"]
                .iter()
                .any(|end| last.ends_with(end))
                && last.contains("WorkflowExecution")
        };
        eventually(&format!("{id} has closed"), last, is_end).await?;
        Ok(())
    }

    /// Writes down one run, the current one where it is empty.
    async fn write(&self, name: &str, id: &str, run: &str) -> Result<()> {
        let run = WorkflowExecutionInfo::builder()
            .namespace(self.client.namespace())
            .workflow_id(id)
            .run_id(run)
            .build();
        let handle = run.bind_untyped(self.client.clone());
        let history = handle.fetch_history(WorkflowFetchHistoryOptions::default());
        let mut history: Value = serde_json::from_slice(&history.to_json().await?)?;
        anonymize(&mut history);
        fs::create_dir_all(place())?;
        Ok(fs::write(
            place().join(name).with_extension("json"),
            history.to_string(),
        )?)
    }
}

/// Without the process and the machine that made it.
fn anonymize(history: &mut Value) {
    match history {
        Value::Array(items) => items.iter_mut().for_each(anonymize),
        Value::Object(fields) => {
            let is_sticky = fields.get("normal_name").is_some_and(|name| name != "");
            for (name, value) in fields {
                if name == "identity" || is_sticky && name == "name" {
                    *value = "worker".into();
                }
                anonymize(value);
            }
        }
        _ => {}
    }
}

async fn holds(tree: &BareTree, id: &str, version: u32) -> Result<()> {
    let what = format!("{id} at version {version}");
    eventually(&what, || tree.version(id), |seen| *seen == Some(version)).await?;
    Ok(())
}

fn grow(selection: Selection) -> Order {
    Order::Grow {
        name: "a".to_owned(),
        orders: Vec::new(),
        selection,
    }
}

fn select(selection: Selection) -> Order {
    Order::Select {
        name: "a".to_owned(),
        selection,
    }
}

async fn record_cascade(recorder: &Recorder) -> Result<()> {
    let branch = |index| Branch {
        name: format!("leaf-{index}"),
        node: ToolTreeInput::default(),
        selection: Selection::All,
    };
    let input = ToolTreeInput {
        children: (0..3).map(branch).collect(),
        ..ToolTreeInput::default()
    };
    let tree = BareTree::start(&recorder.client, QUEUE, "ToolTree", "cascade", &input).await?;
    for version in 1..=3 {
        tree.rotate(version).await?;
        for id in [
            "cascade",
            "cascade/leaf-0",
            "cascade/leaf-1",
            "cascade/leaf-2",
        ] {
            holds(&tree, id, version).await?;
        }
    }
    // A child outlives its parent: a tree is stopped node by node.
    for id in ["cascade", "cascade/leaf-0"] {
        recorder
            .server
            .run_cli(&["workflow", "cancel", "-w", id])
            .await?;
        recorder.closed(id).await?;
    }
    recorder.write("cascade-root", "cascade", "").await?;
    recorder.write("cascade-leaf", "cascade/leaf-0", "").await
}

async fn record_continued(recorder: &Recorder) -> Result<()> {
    let tree = recorder
        .walker("continued", vec![grow(Selection::All)])
        .await?;
    let first = tree.claims(1)?.tree.first_run_id;
    tree.rotate(1).await?;
    holds(&tree, "continued/a", 1).await?;
    recorder.order("continued", Order::Continue).await?;
    tree.rotate(2).await?;
    holds(&tree, "continued/a", 2).await?;
    let wait = Order::Await {
        name: "a".to_owned(),
    };
    recorder.order("continued", wait).await?;
    recorder.order("continued/a", Order::Finish).await?;
    recorder.closed("continued").await?;
    recorder
        .write("continued-first", "continued", first.as_str())
        .await?;
    recorder.write("continued-second", "continued", "").await
}

async fn record_selection(recorder: &Recorder) -> Result<()> {
    let tree = recorder
        .walker("selection", vec![grow(Selection::None)])
        .await?;
    tree.rotate(1).await?;
    holds(&tree, "selection", 1).await?;
    recorder.order("selection", select(Selection::All)).await?;
    holds(&tree, "selection/a", 1).await?;
    recorder.order("selection", select(Selection::None)).await?;
    tree.rotate(2).await?;
    holds(&tree, "selection", 2).await?;
    recorder.order("selection/a", Order::Finish).await?;
    recorder.order("selection", Order::Finish).await?;
    recorder.closed("selection").await?;
    recorder.write("selection", "selection", "").await?;
    recorder.write("unselected-child", "selection/a", "").await
}

async fn record_malformed(recorder: &Recorder) -> Result<()> {
    let tree = recorder
        .walker("malformed", vec![grow(Selection::All)])
        .await?;
    tree.rotate(1).await?;
    holds(&tree, "malformed/a", 1).await?;
    let raw = |encoding: &str, data: &[u8]| Payload {
        metadata: [("encoding".to_owned(), encoding.as_bytes().to_vec())].into(),
        data: data.to_vec(),
        ..Payload::default()
    };
    let text = || json_payload(&"words");
    let malformed = [
        vec![],
        vec![text(), text()],
        vec![text()],
        vec![raw("binary/plain", &[0xff, 0xfe])],
        vec![raw("json/plain", b"{")],
        vec![json_payload(&json!({ "token": null }))],
        vec![Payload::default()],
        vec![json_payload(&"xylem1.words")],
    ];
    let sent = malformed.len() as u64;
    for payloads in malformed {
        signal(&recorder.client, "malformed", "apiToken", payloads.clone()).await?;
        signal(&recorder.client, "malformed", "apiUrl", payloads).await?;
    }
    let rejected = || async {
        let status = query(&recorder.client, "malformed", "apiToken").await?;
        let counts = status["rejected"].as_object().cloned().unwrap_or_default();
        Ok(counts.values().filter_map(Value::as_u64).sum::<u64>())
    };
    eventually("all were counted", rejected, |count| *count >= sent).await?;
    recorder.order("malformed/a", Order::Finish).await?;
    recorder.order("malformed", Order::Finish).await?;
    recorder.closed("malformed").await?;
    recorder.write("malformed", "malformed", "").await
}
