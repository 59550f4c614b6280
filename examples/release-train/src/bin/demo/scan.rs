//! The search for secrets in everything that was written, and the canary that proves it sees.

use crate::{
    history::{self, Run},
    needle::{Finds, Form, Search, Secret},
    stack::Stack,
};
use anyhow::{Context, Result};
use prost::Message;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};
use xylem_client::v1::Tool;

/// The label of the canary.
const CANARY: &str = "canary";

/// A place that was searched.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Place {
    pub(crate) place: String,
    /// Files, or runs of workflows.
    pub(crate) parts: usize,
    pub(crate) bytes: u64,
    #[serde(skip)]
    pub(crate) finds: Finds,
}

/// Plants a canary in every place, in every form, by ordinary means: the input of a workflow, the
/// description of a tool, a line in each log, a file in the data directory.
pub(crate) async fn plant(stack: &Stack, canary: &SecretString) -> Result<()> {
    let forms: Vec<String> = Form::ALL
        .iter()
        .map(|form| form.write(canary.expose_secret()))
        .collect();
    let input = json!(forms).to_string();
    // Nobody polls this task queue: the workflow does nothing but keep its input.
    let arguments = [
        "workflow",
        "start",
        "--type",
        "Canary",
        "--task-queue",
        "canary",
    ];
    let named = ["--workflow-id", "canary", "--input", input.as_str()];
    stack
        .temporal_cli(&[&arguments[..], &named[..]].concat())
        .await?;

    for (index, forms) in forms.chunks(4).enumerate() {
        let tool = Tool {
            name: format!("canary.{index}"),
            description: forms.join(" "),
            method: "GET".to_owned(),
            base_url: stack.acme.url().to_owned(),
            path: "/v1/status".to_owned(),
            ..Tool::default()
        };
        stack
            .client
            .register_tool(tool)
            .await
            .context("planting the canary in a tool")?;
    }

    let line = forms.join(" ");
    for log in files(stack.directory())?
        .iter()
        .filter(|file| kind(file) == Kind::Log)
    {
        let mut log = OpenOptions::new().append(true).open(log)?;
        writeln!(log, "{line}")?;
    }
    fs::write(stack.data().path().join("canary.txt"), line)?;
    Ok(())
}

/// Searches all places. What is searched grows while it is: nothing is left out for that.
pub(crate) async fn search(stack: &Stack, secrets: &[Secret]) -> Result<Vec<Place>> {
    let search = Search::new(secrets)?;
    let mut places = BTreeMap::new();
    for run in history::fetch_all(&stack.temporal).await? {
        look(&mut places, "histories", &search, &bytes(&run));
    }
    let directory = stack.directory().to_owned();
    let files = files(&directory)?;
    let searched = tokio::task::spawn_blocking(move || {
        for file in files {
            // A file may be gone by now: SQLite removes its journals.
            if let Ok(bytes) = fs::read(&file) {
                look(&mut places, &place(&directory, &file), &search, &bytes);
            }
        }
        places
    });
    Ok(searched.await?.into_values().collect())
}

/// The forms of the canary that were found and those that should have been, over all places.
pub(crate) fn canaries(places: &[Place]) -> (usize, usize) {
    let found = places.iter().map(|place| place.finds.len());
    (found.sum(), places.len() * Form::ALL.len())
}

/// The canary as a secret to search for.
pub(crate) fn canary(value: &SecretString) -> Secret {
    Secret {
        label: CANARY,
        value: value.clone(),
    }
}

fn look(places: &mut BTreeMap<String, Place>, name: &str, search: &Search, bytes: &[u8]) {
    let place = places.entry(name.to_owned()).or_insert_with(|| Place {
        place: name.to_owned(),
        ..Place::default()
    });
    place.parts += 1;
    place.bytes += bytes.len() as u64;
    place.finds.extend(search.run(bytes));
}

/// A run as bytes: strings and payloads stand in it as they are.
fn bytes(run: &Run) -> Vec<u8> {
    let mut bytes = Vec::new();
    for event in &run.events {
        bytes.extend(event.encode_to_vec());
    }
    bytes
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    TemporalDatabase,
    XylemDatabase,
    Log,
    Other,
}

fn kind(file: &Path) -> Kind {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    match name.as_ref() {
        name if name.starts_with("temporal.db") => Kind::TemporalDatabase,
        name if name.starts_with("xylem.db") => Kind::XylemDatabase,
        name if name.ends_with(".log") || name.ends_with(".out") => Kind::Log,
        _ => Kind::Other,
    }
}

/// What the report calls the place of a file. A database is one place with its journals; each log
/// is a place of its own, so that the canary must be found in each.
fn place(directory: &Path, file: &Path) -> String {
    match kind(file) {
        Kind::TemporalDatabase => "database of the Temporal server".to_owned(),
        Kind::XylemDatabase => "database of Xylem".to_owned(),
        Kind::Log => {
            let name = file.strip_prefix(directory).unwrap_or(file);
            format!("log {}", name.display())
        }
        Kind::Other => "other files".to_owned(),
    }
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Where secrets were found, for people and programs.
pub(crate) fn described(places: &[Place]) -> Vec<Value> {
    let finds = places.iter().flat_map(|place| {
        let finds = place.finds.iter();
        finds.map(|(secret, form)| {
            json!({ "place": place.place, "secret": secret, "form": format!("{form:?}") })
        })
    });
    finds.collect()
}

/// Places where a form of the canary was missed.
pub(crate) fn blind(places: &[Place]) -> Vec<String> {
    let missed = places
        .iter()
        .filter(|place| place.finds.len() < Form::ALL.len());
    missed.map(|place| place.place.clone()).collect()
}
