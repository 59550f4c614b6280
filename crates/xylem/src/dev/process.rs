//! A Temporal dev server as a child process.

use super::DevError;
use crate::{data::DataDir, logging, temporal::TemporalOptions};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use temporalio_common::protos::temporal::api::workflowservice::v1::DescribeNamespaceRequest;
use tokio::time::Instant;
use tonic::IntoRequest;

/// How long the server may take to answer. A cold start with a large database takes seconds.
const START: Duration = Duration::from_secs(60);
/// How long it may take to end when it is asked to.
const STOP: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The program's name where `TEMPORAL_CLI` does not name another.
const PROGRAM: &str = "temporal";

/// 20 per second and shard by default, and the dev server has one shard: starting or signalling
/// workflows one at a time would go no faster than that.
const TRANSFER_RATE: &str = "history.transferProcessorMaxPollRPS=10000";

/// Where a Temporal dev server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TemporalPorts {
    pub(crate) frontend: u16,
    pub(crate) web_ui: u16,
}

/// A running Temporal dev server. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct TemporalServer {
    child: Child,
    group: Pid,
}

/// How a start went wrong.
pub(crate) enum StartFailure {
    /// A port was taken between the look and the start.
    PortTaken,
    /// Anything else.
    Other(DevError),
}

/// Finds the Temporal CLI: the one that is named, `TEMPORAL_CLI`, or `temporal` on the `PATH`.
pub(crate) fn find(named: Option<&Path>) -> Result<PathBuf, DevError> {
    if let Some(path) = named {
        return executable(path).ok_or_else(|| DevError::NoTemporalCli(Some(path.to_owned())));
    }
    if let Some(path) = std::env::var_os("TEMPORAL_CLI").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        return executable(&path).ok_or(DevError::NoTemporalCli(Some(path)));
    }
    let search = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&search)
        .find_map(|directory| executable(&directory.join(PROGRAM)))
        .ok_or(DevError::NoTemporalCli(None))
}

fn executable(path: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = fs::metadata(path).ok()?;
    let runs = metadata.is_file() && metadata.permissions().mode() & 0o111 != 0;
    runs.then(|| path.to_owned())
}

/// The lock of a Temporal database. The server inherits it as its standard input and so holds it
/// for as long as it lives, whatever becomes of the process that started it; the file says which
/// process that is.
#[derive(Debug)]
pub(crate) struct DatabaseLock(File);

impl DatabaseLock {
    /// Takes the lock. A server that a crashed `xylem dev` has left behind is ended first.
    pub(crate) async fn take(data: &DataDir) -> Result<Self, DevError> {
        let path = data.path().join("temporal.lock");
        let failed = |source| DevError::io("lock", &path, source);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        let deadline = Instant::now() + STOP;
        let mut signal = Signal::INT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
                Err(TryLockError::WouldBlock) => {}
            }
            let holder = holder(&mut file).map_err(failed)?;
            let left = deadline.saturating_duration_since(Instant::now());
            let (Some(group), false) = (holder, left.is_zero()) else {
                return Err(DevError::DatabaseInUse(data.temporal_database()));
            };
            tracing::warn!(process.id = %group.as_raw_nonzero(), "ending a Temporal server that was left behind");
            // It holds the lock, so it lives and its number was not given to another process.
            let _ = kill_process_group(group, signal);
            signal = if left < STOP / 2 {
                Signal::KILL
            } else {
                Signal::INT
            };
            tokio::time::sleep(LOOK_EVERY * 5).await;
        }
    }

    fn say(&mut self, holder: Pid) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.seek(SeekFrom::Start(0))?;
        writeln!(self.0, "{}", holder.as_raw_nonzero())
    }
}

fn holder(file: &mut File) -> io::Result<Option<Pid>> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(32).read_to_string(&mut text)?;
    // 1 would be every process of this user.
    let number = text.trim().parse().ok().filter(|number| *number > 1);
    Ok(number.and_then(Pid::from_raw))
}

impl TemporalServer {
    /// Starts a server and waits until it answers.
    pub(crate) async fn start(
        cli: &Path,
        data: &DataDir,
        namespace: &str,
        ports: TemporalPorts,
        lock: &mut DatabaseLock,
    ) -> Result<Self, StartFailure> {
        let log = data.temporal_log();
        let said = logging::open(&log).map_err(|error| other("open", &log, error))?;
        let from = said.metadata().map_or(0, |metadata| metadata.len());
        let mut server = Self::spawn(cli, data, namespace, ports, lock, said)?;
        match server.answers(namespace, ports.frontend).await {
            Ok(()) => Ok(server),
            Err(ended) => {
                server.kill();
                Err(why(&log, from, ended))
            }
        }
    }

    fn spawn(
        cli: &Path,
        data: &DataDir,
        namespace: &str,
        ports: TemporalPorts,
        lock: &mut DatabaseLock,
        log: File,
    ) -> Result<Self, StartFailure> {
        let inherited = lock
            .0
            .try_clone()
            .map_err(|error| other("lock", cli, error))?;
        let errors = log.try_clone().map_err(|error| other("open", cli, error))?;
        let child = Command::new(cli)
            .args(arguments(data, namespace, ports))
            .stdin(Stdio::from(inherited))
            .stdout(Stdio::from(log))
            .stderr(Stdio::from(errors))
            // A group of its own: Ctrl-C reaches this program only, which stops the server last.
            .process_group(0)
            .spawn()
            .map_err(|error| other("run", cli, error))?;
        let group = Pid::from_child(&child);
        lock.say(group)
            .map_err(|error| other("write", cli, error))?;
        Ok(Self { child, group })
    }

    /// Waits until the namespace can be described; the error says whether the server has ended.
    async fn answers(&mut self, namespace: &str, port: u16) -> Result<(), Ended> {
        let deadline = Instant::now() + START;
        let options = TemporalOptions::at(format!("127.0.0.1:{port}"), namespace);
        loop {
            if self.has_ended() {
                return Err(Ended(true));
            }
            if described(&options, namespace).await {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Ended(false));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Whether the server has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until the server ends by itself.
    pub(crate) async fn ended(&mut self) {
        while !self.has_ended() {
            tokio::time::sleep(LOOK_EVERY * 5).await;
        }
    }

    /// Asks the server to end, and kills it where it does not.
    pub(crate) async fn stop(mut self) {
        let _ = kill_process_group(self.group, Signal::INT);
        let deadline = Instant::now() + STOP;
        while !self.has_ended() && Instant::now() < deadline {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn kill(&mut self) {
        if !self.has_ended() {
            let _ = kill_process_group(self.group, Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

impl Drop for TemporalServer {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Ended(bool);

fn arguments(data: &DataDir, namespace: &str, ports: TemporalPorts) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = ["server", "start-dev", "--ip", "127.0.0.1"]
        .map(OsString::from)
        .into();
    for (option, value) in [
        ("--port", ports.frontend.to_string()),
        ("--ui-port", ports.web_ui.to_string()),
        ("--namespace", namespace.to_owned()),
        ("--search-attribute", "XylemTokens=KeywordList".to_owned()),
        ("--dynamic-config-value", TRANSFER_RATE.to_owned()),
        ("--log-level", "warn".to_owned()),
        ("--log-format", "json".to_owned()),
        // With a rollback journal a tree of 50 nodes waits for the disk (our measurement: about
        // ten times slower). What this gives up is the last transactions before a power cut.
        ("--sqlite-pragma", "journal_mode=wal".to_owned()),
        ("--sqlite-pragma", "synchronous=normal".to_owned()),
    ] {
        arguments.push(option.into());
        arguments.push(value.into());
    }
    arguments.push("--ui-disable-news-fetch".into());
    arguments.push("--db-filename".into());
    arguments.push(data.temporal_database().into());
    arguments
}

async fn described(options: &TemporalOptions, namespace: &str) -> bool {
    let request = DescribeNamespaceRequest {
        namespace: namespace.to_owned(),
        ..DescribeNamespaceRequest::default()
    };
    let Ok(client) = options.connect().await else {
        return false;
    };
    let mut service = client.connection().workflow_service();
    let answer = service.describe_namespace(request.into_request()).await;
    answer.is_ok()
}

/// Why a start failed, from the last thing the server said.
fn why(log: &Path, from: u64, ended: Ended) -> StartFailure {
    let said = last_line(log, from);
    if said.contains("address already in use") {
        return StartFailure::PortTaken;
    }
    StartFailure::Other(DevError::TemporalStart {
        what: if ended.0 {
            "ended right after its start"
        } else {
            "did not answer within 60 s"
        },
        said,
        log: log.to_owned(),
    })
}

fn last_line(log: &Path, from: u64) -> String {
    let read = || -> io::Result<String> {
        let mut text = Vec::new();
        let mut file = File::open(log)?;
        file.seek(SeekFrom::Start(from))?;
        file.take(1024 * 1024).read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        let line = text.lines().rfind(|line| !line.trim().is_empty());
        Ok(line.unwrap_or_default().chars().take(500).collect())
    };
    read().unwrap_or_default()
}

fn other(verb: &'static str, path: &Path, source: io::Error) -> StartFailure {
    StartFailure::Other(DevError::io(verb, path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another process writes it: what a test beside starts while this process has it open inherits
    /// it for a moment, and what is open for writing cannot be run.
    fn script(directory: &Path, text: &str) -> PathBuf {
        let path = directory.join("temporal");
        let write = r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 755 "$0""#;
        let mut shell = Command::new("sh");
        let written = shell.args(["-c", write]).arg(&path).arg(text).status();
        assert!(written.expect("a shell").success());
        path
    }

    fn place() -> (tempfile::TempDir, DataDir) {
        let guard = tempfile::tempdir().expect("a directory");
        let data = DataDir::at(guard.path().join("data"));
        data.create().expect("made");
        (guard, data)
    }

    const PORTS: TemporalPorts = TemporalPorts {
        frontend: 9,
        web_ui: 9,
    };

    #[test]
    fn a_program_that_cannot_run_is_not_found() {
        let (guard, _) = place();
        let path = guard.path().join("temporal");
        fs::write(&path, "text").expect("written");
        assert!(matches!(find(Some(&path)), Err(DevError::NoTemporalCli(_))));
        let path = script(guard.path(), "exit 0");
        assert_eq!(find(Some(&path)).expect("runs"), path);
    }

    #[tokio::test]
    async fn a_server_that_ends_says_why() {
        let (guard, data) = place();
        let cli = script(
            guard.path(),
            "echo starting; echo database is damaged >&2; exit 1",
        );
        let mut lock = DatabaseLock::take(&data).await.expect("free");
        let started = TemporalServer::start(&cli, &data, "default", PORTS, &mut lock).await;
        let Err(StartFailure::Other(error)) = started else {
            panic!("it started");
        };
        assert!(error.to_string().contains("database is damaged"), "{error}");
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_told_apart() {
        let (guard, data) = place();
        let cli = script(
            guard.path(),
            "echo 'listen: address already in use'; exit 1",
        );
        let mut lock = DatabaseLock::take(&data).await.expect("free");
        let started = TemporalServer::start(&cli, &data, "default", PORTS, &mut lock).await;
        assert!(matches!(started, Err(StartFailure::PortTaken)));
    }

    #[tokio::test]
    async fn a_server_that_was_left_behind_is_ended_before_the_next() {
        let (guard, data) = place();
        let cli = script(guard.path(), "exec sleep 600");
        let mut lock = DatabaseLock::take(&data).await.expect("free");
        let log = logging::open(&data.temporal_log()).expect("opened");
        let spawned = TemporalServer::spawn(&cli, &data, "default", PORTS, &mut lock, log);
        let Ok(mut left_behind) = spawned else {
            panic!("it did not start");
        };
        drop(lock);
        assert!(!left_behind.has_ended());
        let reaper = tokio::task::spawn_blocking(move || left_behind.child.wait());
        DatabaseLock::take(&data).await.expect("taken over");
        let status = reaper.await.expect("reaped").expect("its status");
        assert!(!status.success());
    }
}
