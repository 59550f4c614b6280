//! Recorded histories of the train's workflows still replay: what runs now goes on after a new
//! version of this package is deployed.
//!
//! Record anew, after a change that is meant to break this (see README.md):
//! `cargo xtask demo` builds the programs, then `demo --record examples/release-train/histories`.

use anyhow::{Context, Result};
use release_train::{
    Build, Fleet, Note, Paperwork, Rollout, Stage, Suite, TASK_QUEUE, Train, workflows,
};
use serde_json::Value;
use std::{collections::BTreeSet, fs, path::PathBuf};
use temporalio_client::WorkflowHistory;
use temporalio_sdk::workflow_replayer::{WorkflowReplayer, WorkflowReplayerOptions};

fn replayer() -> Result<WorkflowReplayer> {
    let options = WorkflowReplayerOptions::new()
        // A grant is for a tree, and a tree is in a namespace.
        .namespace("default")
        .task_queue(TASK_QUEUE)
        .workflow_interceptor(workflows()?.interceptor())
        .register_workflow::<Train>()?
        .register_workflow::<Stage>()?
        .register_workflow::<Fleet>()?
        .register_workflow::<Paperwork>()?
        .register_workflow::<Build>()?
        .register_workflow::<Suite>()?
        .register_workflow::<Rollout>()?
        .register_workflow::<Note>()?
        .build();
    Ok(WorkflowReplayer::new(options)?)
}

fn recorded() -> Result<Vec<(String, Vec<u8>)>> {
    let directory = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/histories"));
    let mut histories = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_stem().context("a file name")?.to_string_lossy();
        histories.push((name.into_owned(), fs::read(&path)?));
    }
    histories.sort();
    Ok(histories)
}

async fn replay(history: &[u8]) -> Result<()> {
    let history = WorkflowHistory::from_json(history)?;
    Ok(replayer()?.replay_workflow(history).await?)
}

#[tokio::test]
async fn recorded_histories_replay() -> Result<()> {
    for (name, history) in recorded()? {
        replay(&history).await.with_context(|| name)?;
    }
    Ok(())
}

#[test]
fn every_workflow_type_is_recorded_and_a_continued_run_too() -> Result<()> {
    let names: BTreeSet<String> = recorded()?.into_iter().map(|(name, _)| name).collect();
    for definition in workflows()?.definitions() {
        let name = format!("{}-1", definition.workflow_type.as_str().to_lowercase());
        assert!(names.contains(&name), "{name}");
    }
    assert!(names.iter().any(|name| name.ends_with("-2")), "{names:?}");
    Ok(())
}

/// A recorded history, changed.
fn tampered(name: &str, change: impl Fn(&mut Value)) -> Result<Vec<u8>> {
    let found = recorded()?
        .into_iter()
        .find(|(recorded, _)| recorded == name);
    let (_, history) = found.with_context(|| format!("no history {name}"))?;
    let mut json: Value = serde_json::from_slice(&history)?;
    let before = json.clone();
    let events = json["events"].as_array_mut().context("events")?;
    events.iter_mut().for_each(change);
    anyhow::ensure!(json != before, "nothing was changed");
    Ok(serde_json::to_vec(&json)?)
}

async fn does_not_replay(history: Vec<u8>) {
    let error = replay(&history).await.expect_err("the history is another");
    assert!(error.to_string().contains("nondeterministic"), "{error}");
}

#[tokio::test]
async fn a_history_of_other_code_does_not_replay() -> Result<()> {
    let name = "/attributes/ActivityTaskScheduledEventAttributes/activity_type/name";
    let history = tampered("build-1", |event| {
        if let Some(name) = event.pointer_mut(name) {
            *name = "xylem.other".into();
        }
    })?;
    does_not_replay(history).await;
    Ok(())
}

#[tokio::test]
async fn a_history_with_another_grant_does_not_replay() -> Result<()> {
    // What a node adopts follows from its history alone: where no grant can be read, no tool is
    // called, which is not what this history shows.
    let grant = "/attributes/WorkflowExecutionSignaledEventAttributes/input/payloads/0/data";
    let history = tampered("train-1", |event| {
        if let Some(data) = event.pointer_mut(grant) {
            // `"forged"`, as base64.
            *data = "ImZvcmdlZCI=".into();
        }
    })?;
    does_not_replay(history).await;
    Ok(())
}
