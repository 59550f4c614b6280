//! Recorded histories of nodes still replay: what runs now goes on after a new version of the
//! library is deployed.
//!
//! Record anew, after a change that is meant to break this and raises the protocol number:
//! `cargo run -p xylem-testkit --bin record-histories`. Those of keepers are taken from the whole stack:
//! `stack_keeper.rs` leaves them in the folder that `RECORD_KEEPERS` names.

use anyhow::{Context, Result};
use serde_json::Value;
use std::{fs, path::PathBuf};
use temporalio_client::WorkflowHistory;
use temporalio_sdk::workflow_replayer::{WorkflowReplayer, WorkflowReplayerOptions};
use xylem_control::TokenKeeper;
use xylem_testkit::{Walker, payload_strings, test_workflows};
use xylem_workflows::ToolTree;

const QUEUE: &str = "replay";

/// What is recorded: workflows whose histories differ in kind.
const RECORDED: [&str; 10] = [
    "cascade-leaf",
    "cascade-root",
    "continued-first",
    "continued-second",
    "keeper",
    "keeper-asked",
    "keeper-late",
    "malformed",
    "selection",
    "unselected-child",
];

/// How tokens begin that secret scanners know, ours among them, and private keys.
const SECRETS: [&str; 8] = [
    "xyk_",
    "ghp_",
    "github_pat_",
    "AKIA",
    "sk-",
    "xoxb-",
    "Bearer ",
    "PRIVATE KEY",
];

fn place() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/histories"))
}

fn read(name: &str) -> Result<Vec<u8>> {
    let path = place().join(name).with_extension("json");
    fs::read(path).with_context(|| name.to_owned())
}

async fn replay(history: &[u8]) -> Result<()> {
    let options = WorkflowReplayerOptions::new()
        // A grant is for a tree, and a tree is in a namespace.
        .namespace("default")
        .task_queue(QUEUE)
        .workflow_interceptor(test_workflows()?.interceptor())
        .register_workflow::<Walker>()?
        .register_workflow::<ToolTree>()?
        .register_workflow::<TokenKeeper>()?
        .build();
    let history = WorkflowHistory::from_json(history)?;
    Ok(WorkflowReplayer::new(options)?
        .replay_workflow(history)
        .await?)
}

#[tokio::test]
async fn recorded_histories_replay() -> Result<()> {
    for name in RECORDED {
        replay(&read(name)?).await.with_context(|| name)?;
    }
    Ok(())
}

/// What replays whatever it contains would prove nothing.
#[tokio::test]
async fn a_history_without_its_grants_does_not_replay() -> Result<()> {
    let mut history: Value = serde_json::from_slice(&read("cascade-root")?)?;
    let grant = "/attributes/WorkflowExecutionSignaledEventAttributes/input/payloads/0/data";
    for event in history["events"].as_array_mut().context("events")? {
        if let Some(data) = event.pointer_mut(grant) {
            // `"forged"`, in Base64.
            *data = "ImZvcmdlZCI=".into();
        }
    }
    let error = replay(&serde_json::to_vec(&history)?)
        .await
        .expect_err("another history");
    assert!(error.to_string().contains("nondeterministic"), "{error}");
    Ok(())
}

#[tokio::test]
async fn no_recorded_history_holds_what_looks_like_a_secret() -> Result<()> {
    for name in RECORDED {
        let events = WorkflowHistory::from_json(&read(name)?)?
            .into_events()
            .await?;
        assert!(events.len() > 5, "{name}");
        // Payloads are shown as lists of bytes.
        let text = payload_strings(&events);
        for secret in SECRETS {
            let bytes = format!("{:?}", secret.as_bytes());
            let bytes = bytes.trim_matches(['[', ']']);
            assert!(
                !text.contains(secret) && !text.contains(bytes),
                "{secret} in {name}"
            );
        }
    }
    Ok(())
}
