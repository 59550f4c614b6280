//! Keeps histories, so that changes of workflow code can be checked against them.

use crate::history::Run;
use anyhow::Result;
use std::{collections::BTreeMap, fs, path::Path};
use temporalio_client::WorkflowHistory;
use temporalio_common::protos::temporal::api::history::v1::History;

/// How many runs of each workflow type are kept.
const RUNS: usize = 2;

/// Writes histories of every workflow type of the train: the first run of some workflow and the
/// one that continued it, where there is one. `first` names workflows that something special has
/// happened to. Who polled is left out.
pub(crate) async fn record(mut runs: Vec<Run>, first: &[&str], directory: &Path) -> Result<()> {
    runs.sort_by_key(|run| !first.contains(&run.workflow_id.as_str()));
    fs::create_dir_all(directory)?;
    let mut kept: BTreeMap<String, (String, usize)> = BTreeMap::new();
    for run in runs {
        if !is_of_the_train(&run.workflow_type) {
            continue;
        }
        let (workflow_id, count) = kept
            .entry(run.workflow_type.clone())
            .or_insert_with(|| (run.workflow_id.clone(), 0));
        if *workflow_id != run.workflow_id || *count == RUNS {
            continue;
        }
        *count += 1;
        let file = directory.join(format!("{}-{count}.json", run.workflow_type.to_lowercase()));
        let history = WorkflowHistory::from(History { events: run.events });
        let mut json: serde_json::Value = serde_json::from_slice(&history.to_json().await?)?;
        forget_who(&mut json);
        fs::write(file, serde_json::to_vec(&json)?)?;
    }
    Ok(())
}

fn is_of_the_train(workflow_type: &str) -> bool {
    let types = release_train::workflows().map(|workflows| workflows.definitions().to_vec());
    types.is_ok_and(|types| {
        types
            .iter()
            .any(|of| of.workflow_type.as_str() == workflow_type)
    })
}

/// Identities name a process and a machine.
fn forget_who(json: &mut serde_json::Value) {
    match json {
        serde_json::Value::Object(members) => {
            for (name, value) in members {
                match name.as_str() {
                    "identity" => *value = "recorded".into(),
                    _ => forget_who(value),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(forget_who),
        _ => {}
    }
}
