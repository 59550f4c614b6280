//! `xylem server` as whatever runs it sees it: a process that is told to end.

mod support {
    pub(crate) mod command;
}

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{fs, io::Write, net::TcpStream, path::PathBuf, time::Duration};
use support::command::Xylem;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, ChildStderr},
    time::timeout,
};
use xylem_testkit::{TemporalServer, eventually};

/// How long it may take until it listens; a slow machine needs most of it.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// How long it may take to end: the 10 s that it waits for others, and what a slow machine needs.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// A data directory that `xylem server init` has made.
struct Place {
    directory: TempDir,
    key: String,
}

impl Place {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let data = directory.path().join("data");
        let xylem = Xylem::default().variable("XYLEM_DATA_DIR", data.to_str().expect("text"));
        let made = xylem.run(&["server", "init"]).await;
        assert_eq!(made.status, 0, "{}", made.err);
        let key = fs::read_to_string(data.join("admin.key")).expect("written");
        Self {
            directory,
            key: key.trim().to_owned(),
        }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn spawn(&self, temporal: &str) -> Child {
        let data = self.data();
        let xylem = Xylem::default().variable("XYLEM_DATA_DIR", data.to_str().expect("text"));
        let arguments = ["server", "--listen", "127.0.0.1:0", "--output", "json"];
        let temporal = ["--temporal-address", temporal];
        let arguments = [&arguments[..], &temporal].concat();
        let mut command = xylem.command(self.directory.path(), &arguments);
        command.kill_on_drop(true).spawn().expect("it starts")
    }

    /// Holds up whatever would write to the database until this is dropped.
    fn occupy(&self) -> rusqlite::Connection {
        let database = self.data().join("xylem.db");
        let database = rusqlite::Connection::open(database).expect("the database");
        database.execute_batch("BEGIN IMMEDIATE").expect("its turn");
        database
    }

    fn agent(&self, address: &str, name: &str) -> reqwest::RequestBuilder {
        reqwest::Client::new()
            .post(format!("{address}/v1/agents"))
            .bearer_auth(&self.key)
            .json(&json!({ "name": name, "roles": ["ROLE_WORKER"] }))
    }

    /// How many calls are being handled.
    async fn in_flight(&self, address: &str) -> u64 {
        let metrics = reqwest::Client::new().get(format!("{address}/metrics"));
        let metrics = metrics.bearer_auth(&self.key).send().await;
        let metrics = metrics.expect("an answer").text().await.expect("text");
        let mut lines = metrics.lines();
        let count = lines.find_map(|line| line.strip_prefix("xylem_calls_in_flight "));
        let count = count.unwrap_or_else(|| panic!("not counted: {metrics}"));
        count.parse().expect("a number")
    }
}

/// Waits for the line that says where it listens.
async fn ready(process: &mut Child) -> String {
    let out = process.stdout.take().expect("piped");
    let mut lines = BufReader::new(out).lines();
    let line = timeout(READY_WITHIN, lines.next_line()).await;
    let line = line.expect("ready in time").expect("readable");
    let Some(line) = line else {
        let said = all(process.stderr.take()).await;
        panic!("it ended: {said}");
    };
    let answer: Value = serde_json::from_str(&line).expect("JSON");
    answer["controlPlane"]
        .as_str()
        .expect("an address")
        .to_owned()
}

async fn all(err: Option<ChildStderr>) -> String {
    let mut said = String::new();
    let read = err.expect("piped").read_to_string(&mut said).await;
    read.expect("text");
    said
}

fn tell(process: &Child, signal: Signal) {
    let id = process
        .id()
        .and_then(|id| Pid::from_raw(id.try_into().ok()?));
    kill_process(id.expect("it runs"), signal).expect("signalled");
}

/// Fails unless it ends in time, and as what has done what it was told.
async fn ends(mut process: Child) {
    let ended = timeout(ENDS_WITHIN, process.wait()).await;
    let ended = ended.expect("ended in time").expect("waited for");
    let said = all(process.stderr.take()).await;
    assert_eq!(ended.code(), Some(0), "{said}");
}

#[tokio::test]
async fn a_signal_ends_it_once_it_has_answered() {
    let temporal = TemporalServer::start().await.expect("Temporal");
    let place = Place::new().await;
    for (signal, name) in [(Signal::TERM, "asked-1"), (Signal::INT, "asked-2")] {
        let mut process = place.spawn(&temporal.address());
        let address = ready(&mut process).await;
        // A peer that began to ask and goes no further.
        let listened = address.strip_prefix("http://").expect("plain");
        let mut silent = TcpStream::connect(listened).expect("somebody listens");
        silent.write_all(b"GET /healthz HT").expect("sent");
        // When a key was used last is written once in a while, which has to be over.
        assert_eq!(place.in_flight(&address).await, 0);
        let occupied = place.occupy();
        let asked = tokio::spawn(place.agent(&address, name).send());
        let handled = || async { Ok(place.in_flight(&address).await) };
        eventually("the call is being handled", handled, |count| *count == 1)
            .await
            .expect("asked");

        tell(&process, signal);
        let refused = || async { Ok(TcpStream::connect(listened).is_err()) };
        eventually("nobody else is let in", refused, |refused| *refused)
            .await
            .expect("told");
        assert_eq!(process.try_wait().expect("looked"), None, "not waited for");
        drop(occupied);
        let answer = timeout(ENDS_WITHIN, asked).await.expect("answered");
        let answer = answer.expect("no panic").expect("an answer");
        assert_eq!(answer.status(), 200, "{signal:?}");
        ends(process).await;
        // What it answered stands in the database.
        let database = rusqlite::Connection::open(place.data().join("xylem.db"));
        let query = "SELECT COUNT(*) FROM agents WHERE id = ?1";
        let count = database
            .expect("the database")
            .query_row(query, [name], |row| row.get(0));
        assert_eq!(count, Ok(1), "{signal:?}");
    }
}

#[tokio::test]
async fn a_signal_ends_it_while_it_starts() {
    let place = Place::new().await;
    // Somebody who takes the connection and says nothing.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let process = place.spawn(&mute.local_addr().expect("bound").to_string());
    let (connection, _) = tokio::task::spawn_blocking(move || mute.accept())
        .await
        .expect("no panic")
        .expect("it asks for Temporal");
    tell(&process, Signal::TERM);
    ends(process).await;
    drop(connection);
}
