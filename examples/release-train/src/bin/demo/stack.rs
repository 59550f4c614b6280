//! Everything that runs: `xylem dev`, the external API, the worker of the train.

use crate::{
    acme::Acme,
    process::{self, Program},
};
use anyhow::{Context, Result, bail};
use release_train::TASK_QUEUE;
use serde_json::Value;
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use xylem::{
    data::{self, DataDir, Endpoints},
    temporal::TemporalOptions,
};

const READY_WITHIN: Duration = Duration::from_secs(90);

/// What would lead the programs to another installation than this one.
const ELSEWHERE: [&str; 6] = [
    "XYLEM_ADDRESS",
    "XYLEM_API_KEY",
    "XYLEM_KEY_FILE",
    "TEMPORAL_ADDRESS",
    "TEMPORAL_NAMESPACE",
    "TEMPORAL_PROFILE",
];

/// The definitions of the tools, as `xylem tool add --file` takes them.
const TOOLS: &str = include_str!("../../../tools.json");

/// The running stack. Dropping it stops everything.
pub(crate) struct Stack {
    // Stopped in this order.
    worker: Program,
    xylem: Program,
    api: Program,
    pub(crate) endpoints: Endpoints,
    pub(crate) acme: Acme,
    pub(crate) client: xylem_client::Client,
    pub(crate) temporal: temporalio_client::Client,
    directory: PathBuf,
}

impl Stack {
    /// Starts everything in a directory, from nothing.
    pub(crate) async fn start(directory: &Path, progress: impl Fn(&str)) -> Result<Self> {
        let data = DataDir::at(directory.join("data"));
        let logs = directory.join("logs");
        fs::create_dir_all(&logs)?;

        progress("starting Temporal, the control plane and the external API");
        let mut api = start_api(directory, &logs)?;
        let mut xylem = Program::start(
            "xylem-dev",
            xylem_command(&data)?
                .args(["dev", "--output", "json"])
                .args(["--temporal-port", "0", "--ui-port", "0", "--port", "0"]),
            &logs,
        )?;
        let line = api.first_line(READY_WITHIN).await?;
        let acme = Acme::connect(&line)?;
        let line = xylem.first_line(READY_WITHIN).await?;
        let endpoints: Endpoints = serde_json::from_str(&line).context("xylem dev's addresses")?;

        progress("starting the worker of the train");
        let key = enrol(directory, &data).await?;
        let mut worker = start_worker(&data, &key, &logs)?;
        worker.logged("worker started", READY_WITHIN).await?;

        let key = data::read_secret(&data.admin_key())?;
        let client = xylem_client::Client::connect(&endpoints.control_plane, &key).await?;
        let options = TemporalOptions::at(&endpoints.temporal_address, &endpoints.namespace);
        Ok(Self {
            worker,
            xylem,
            api,
            acme,
            client,
            temporal: options.connect().await?,
            endpoints,
            directory: directory.to_owned(),
        })
    }

    /// Registers the operations of the external API as tools, and approves them.
    pub(crate) async fn register_tools(&self) -> Result<()> {
        let mut tools: Vec<Value> = serde_json::from_str(TOOLS)?;
        for tool in &mut tools {
            tool["baseUrl"] = self.acme.url().into();
        }
        let file = self.directory.join("tools.json");
        fs::write(&file, serde_json::to_vec_pretty(&tools)?)?;
        let mut command = self.xylem_command()?;
        command
            .args(["tool", "add", "--approve", "--file"])
            .arg(file);
        process::run("xylem tool add", command).await?;
        Ok(())
    }

    /// Has `xylem doctor` check the stack; fails where one of its checks does.
    pub(crate) async fn examine(&self) -> Result<()> {
        process::run("xylem doctor", self.xylem(&["doctor"])?).await?;
        Ok(())
    }

    /// Has the whole audit log checked; fails where an entry is not what was written. Answers with what
    /// was found.
    pub(crate) async fn verify_audit(&self) -> Result<String> {
        let verify = self.xylem(&["audit", "verify"])?;
        let found = process::run("xylem audit verify", verify).await?;
        Ok(found.lines().next().unwrap_or_default().to_owned())
    }

    /// A command of `xylem`, aimed at this stack.
    pub(crate) fn xylem(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.xylem_command()?;
        command.args(arguments);
        Ok(command)
    }

    /// `xylem`, aimed at this stack.
    fn xylem_command(&self) -> Result<Command> {
        xylem_command(&self.data())
    }

    /// Runs the stock Temporal CLI against this stack.
    pub(crate) async fn temporal_cli(&self, arguments: &[&str]) -> Result<String> {
        let program = env::var_os("TEMPORAL_CLI").unwrap_or_else(|| "temporal".into());
        let mut command = Command::new(program);
        command.args(arguments).args([
            "--address",
            &self.endpoints.temporal_address,
            "--namespace",
            &self.endpoints.namespace,
        ]);
        let name = arguments
            .iter()
            .take(3)
            .copied()
            .collect::<Vec<_>>()
            .join(" ");
        process::run(&format!("temporal {name}"), command).await
    }

    /// Fails where a program has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.worker.check()?;
        self.xylem.check()?;
        self.api.check()
    }

    /// The data directory of `xylem dev`.
    pub(crate) fn data(&self) -> DataDir {
        DataDir::at(self.directory.join("data"))
    }

    /// Where everything is kept.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Stops everything; the error names what did not end as it should.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.worker.stop()?;
        self.xylem.stop()?;
        self.api.stop()
    }
}

fn program(variable: &str) -> Result<PathBuf> {
    let path = env::var_os(variable).map(PathBuf::from);
    path.with_context(|| format!("{variable} is not set: run `cargo xtask demo`"))
}

fn xylem_command(data: &DataDir) -> Result<Command> {
    let mut command = Command::new(program("XYLEM_BIN")?);
    at_this_stack(&mut command, data);
    Ok(command)
}

fn at_this_stack(command: &mut Command, data: &DataDir) {
    for variable in ELSEWHERE {
        command.env_remove(variable);
    }
    command.env("XYLEM_DATA_DIR", data.path());
}

fn start_api(directory: &Path, logs: &Path) -> Result<Program> {
    let mut command = Command::new(program("ACME_API_BIN")?);
    command.args(["--listen", "127.0.0.1:0", "--admin-key-file"]);
    command.arg(directory.join("acme-admin.key"));
    Program::start("acme-api", &mut command, logs)
}

/// Makes a key that serves the train's task queue and nothing else.
async fn enrol(directory: &Path, data: &DataDir) -> Result<PathBuf> {
    let key = directory.join("train-worker.key");
    let mut command = xylem_command(data)?;
    command
        .args([
            "key",
            "create",
            "--agent",
            "train-worker",
            "--role",
            "worker",
        ])
        .args(["--task-queue", TASK_QUEUE, "--to"])
        .arg(&key);
    process::run("xylem key create", command).await?;
    Ok(key)
}

fn start_worker(data: &DataDir, key: &Path, logs: &Path) -> Result<Program> {
    // Cargo puts the programs of a package side by side.
    let here = env::current_exe().context("where this program is")?;
    let worker = here.with_file_name("release-train-worker");
    if !worker.is_file() {
        bail!("there is no {}: run `cargo xtask demo`", worker.display());
    }
    let mut command = Command::new(worker);
    at_this_stack(&mut command, data);
    command.env("XYLEM_KEY_FILE", key);
    Program::start("release-train-worker", &mut command, logs)
}
