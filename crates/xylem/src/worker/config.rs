//! What a worker is told.

use crate::{
    data::{self, DataDir, DataError, Endpoints},
    temporal::TemporalOptions,
    trust::Trust,
};
use ipnet::IpNet;
use secrecy::SecretString;
use std::{env, path::Path};
use xylem_client::Tls;
use xylem_ids::TaskQueue;

/// How many workflows a worker keeps in memory if it is not told.
pub(crate) const CACHED_WORKFLOWS: usize = 2_000;

/// What a worker needs in order to run.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// The Temporal server.
    pub temporal: TemporalOptions,
    /// The task queue to poll.
    pub task_queue: TaskQueue,
    /// The control plane, `https://host:port`, or `http://host:port` on loopback.
    pub control_plane: String,
    /// What TLS to the control plane goes by.
    pub tls: Tls,
    /// An API key in the worker role that serves the task queue.
    pub api_key: SecretString,
    /// Lets tools be at loopback addresses and over plain HTTP: for `xylem dev`, never in
    /// production.
    pub development: bool,
    /// Networks of private addresses that tools may be at.
    pub private_networks: Vec<IpNet>,
    /// How much runs at the same time.
    pub slots: WorkerSlots,
    /// How many workflows are kept in memory. A tree larger than this replays histories at every
    /// cascade.
    pub max_cached_workflows: usize,
}

/// How many tasks a worker runs at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerSlots {
    /// Workflow tasks.
    pub workflow_tasks: usize,
    /// Activities: tool calls above all.
    pub activities: usize,
    /// Local activities: forwards.
    pub local_activities: usize,
    /// Nodes whose children are watched after they have continued as new: one activity each, for
    /// as long as the children live.
    pub watchers: usize,
}

impl Default for WorkerSlots {
    fn default() -> Self {
        Self {
            workflow_tasks: 200,
            activities: 200,
            local_activities: 200,
            watchers: 10_000,
        }
    }
}

/// Why there is no configuration for a worker.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// No API key.
    #[error(
        "no API key for the worker: make one with `xylem key create --role worker --task-queue \
         {0}`, and name it with XYLEM_API_KEY or XYLEM_KEY_FILE"
    )]
    NoKey(TaskQueue),
}

impl WorkerConfig {
    /// A worker with the usual limits.
    #[must_use]
    pub fn new(
        temporal: TemporalOptions,
        task_queue: TaskQueue,
        control_plane: impl Into<String>,
        api_key: SecretString,
    ) -> Self {
        Self {
            temporal,
            task_queue,
            control_plane: control_plane.into(),
            tls: Tls::new(),
            api_key,
            development: false,
            private_networks: Vec::new(),
            slots: WorkerSlots::default(),
            max_cached_workflows: CACHED_WORKFLOWS,
        }
    }

    /// A worker as the environment describes it: `XYLEM_ADDRESS`, `XYLEM_API_KEY` or
    /// `XYLEM_KEY_FILE`, `XYLEM_CA_FILE` and its siblings, and `TEMPORAL_ADDRESS` with its siblings. What is not set is that of
    /// `xylem dev` on this machine, whose data directory `XYLEM_DATA_DIR` may name; a tool may be
    /// at a loopback address then.
    ///
    /// # Errors
    /// There is no API key for the task queue, or a file cannot be read.
    pub fn from_environment(task_queue: TaskQueue) -> Result<Self, ConfigError> {
        let data = match variable("XYLEM_DATA_DIR") {
            Some(path) => DataDir::at(path),
            None => DataDir::dev()?,
        };
        let api_key = match (variable("XYLEM_API_KEY"), variable("XYLEM_KEY_FILE")) {
            (Some(key), _) => SecretString::from(key),
            (None, Some(path)) => data::read_secret(Path::new(&path))?,
            (None, None) => dev_key(&data, &task_queue)?,
        };
        let dev = data.endpoints()?;
        let at_dev = variable("XYLEM_ADDRESS").is_none() && dev.is_some();
        let address = variable("XYLEM_ADDRESS")
            .or_else(|| dev.as_ref().map(|dev| dev.control_plane.clone()))
            .unwrap_or_else(|| "http://127.0.0.1:7243".to_owned());
        let temporal = temporal(dev.as_ref());
        Ok(Self {
            tls: Trust::from_environment().tls()?,
            development: at_dev && dev.is_some_and(|dev| dev.web_ui.is_some()),
            ..Self::new(temporal, task_queue, address, api_key)
        })
    }
}

/// The worker's key of `xylem dev`, where it serves this queue.
fn dev_key(data: &DataDir, queue: &TaskQueue) -> Result<SecretString, ConfigError> {
    let path = data.worker_key();
    let serves = data
        .endpoints()?
        .is_some_and(|dev| dev.task_queue == queue.as_str());
    if !serves || !path.exists() {
        return Err(ConfigError::NoKey(queue.clone()));
    }
    Ok(data::read_secret(&path)?)
}

fn temporal(dev: Option<&Endpoints>) -> TemporalOptions {
    match dev {
        Some(dev) if variable("TEMPORAL_ADDRESS").is_none() => {
            TemporalOptions::at(&dev.temporal_address, &dev.namespace)
        }
        _ => TemporalOptions::default(),
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}
