//! An installation: its processes, its files, and those who operate it.

use crate::command::{Ran, Xylem};
use acme_api::AcmeApi;
use clap::Command;
use rustix::process::{Pid, Signal, kill_process};
use secrecy::SecretString;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    iter,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use xylem::{
    data::{DataDir, read_secret},
    temporal::TemporalOptions,
    worker::{self, WorkerConfig, WorkerError},
};
use xylem_testkit::{Searcher, TemporalServer, eventually};

/// They run in the foreground until they are told to end: `tests/dev.rs` runs the one, and the other needs
/// an external API beyond this machine.
const FOREGROUND: [&str; 2] = ["dev", "worker"];
/// They ask no control plane: they are about files of this machine, or say themselves that none is there.
const ALONE: [&str; 5] = [
    "doctor",
    "logout",
    "server init",
    "vault key",
    "vault restore",
];
/// They bring a password and an invitation in place of a key.
const WITHOUT_KEY: [&str; 2] = ["account register", "login"];
const READY_WITHIN: Duration = Duration::from_secs(60);

pub(crate) struct Installation {
    place: TempDir,
    pub(crate) acme: AcmeApi,
    temporal: TemporalServer,
    /// The commands that ended as they should.
    ran: Mutex<BTreeSet<String>>,
    /// What may lie nowhere but in the files that it was written to.
    secrets: Mutex<Vec<String>>,
}

impl Installation {
    pub(crate) async fn new() -> Self {
        let installation = Self {
            place: tempfile::tempdir().expect("a directory"),
            acme: AcmeApi::start((Ipv4Addr::LOCALHOST, 0).into())
                .await
                .expect("a port"),
            temporal: TemporalServer::start().await.expect("a Temporal server"),
            ran: Mutex::default(),
            secrets: Mutex::default(),
        };
        installation.write("stranger.key", "xyk_nobody-has-ever-made-this-one");
        installation
    }

    /// Where a file of this name is, or is to be.
    pub(crate) fn file(&self, name: &str) -> String {
        let path = self.place.path().join(name);
        path.to_str().expect("text").to_owned()
    }

    /// A file for its owner alone.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.file(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("private");
        path
    }

    /// A file with something that nothing else may hold.
    pub(crate) fn secret(&self, name: &str, text: &str) -> String {
        self.keep(text);
        self.write(name, text)
    }

    pub(crate) fn keep(&self, text: &str) {
        let mut secrets = self.secrets.lock().expect("nobody panicked");
        secrets.push(text.to_owned());
    }

    /// A file with a token of the external API.
    pub(crate) fn token(&self, label: &str) -> String {
        self.secret(&format!("{label}.token"), &self.acme.issue(label))
    }

    pub(crate) fn read(&self, name: &str) -> String {
        let path = self.file(name);
        let mode = fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name} can be read by others");
        fs::read_to_string(path).expect("text").trim().to_owned()
    }

    pub(crate) fn temporal(&self) -> String {
        self.temporal.address()
    }

    /// The administrator, on the machine of the control plane.
    pub(crate) fn admin(&self) -> Operator<'_> {
        self.admin_of("data")
    }

    pub(crate) fn admin_of(&self, data: &str) -> Operator<'_> {
        self.operator(Xylem::default().variable("XYLEM_DATA_DIR", &self.file(data)))
    }

    /// Somebody with a home directory, and no key.
    pub(crate) fn person(&self, name: &str, server: &Server<'_>) -> Operator<'_> {
        let home = self.file(&format!("home-of-{name}"));
        let xylem = Xylem::default().variable("HOME", &home);
        let xylem = xylem.variable("XYLEM_DATA_DIR", &format!("{home}/nothing"));
        self.operator(xylem.variable("XYLEM_ADDRESS", &server.address))
    }

    fn operator(&self, xylem: Xylem) -> Operator<'_> {
        Operator {
            installation: self,
            xylem,
        }
    }

    /// Makes it, and starts its control plane.
    pub(crate) async fn begins(&self) -> Server<'_> {
        let value = self.secret("acme.value", &self.acme.issue("provided-1"));
        let given = format!("[[file]]\nname = \"acme-file\"\npath = \"{value}\"\n");
        let providers = self.write("providers.toml", &given);
        let (backups, archive) = (self.file("backups"), self.file("archive"));
        fs::create_dir(&archive).expect("made");
        let public = self.read("backup.public");
        let init = format!(
            "server init --listen 127.0.0.1:0 --temporal-address {} --backup-dir {backups} \
             --backup-public-key {public} --audit-archive {archive} --credential-providers {providers}",
            self.temporal()
        );
        let admin = self.admin();
        let made = admin.answer(&init).await;
        assert_eq!(made["namespace"], "default", "{made}");
        for name in ["admin.key", "keys/kek"] {
            self.keep(&self.read(&format!("data/{name}")));
        }
        assert_eq!(made["adminKeyFile"], self.file("data/admin.key"), "{made}");
        assert_eq!(
            made["keyEncryptionKeyFile"],
            self.file("data/keys/kek"),
            "{made}"
        );
        assert!(Path::new(made["configFile"].as_str().expect("a path")).exists());
        admin.refused(1, "nothing was changed", &init).await;
        self.serve("data").await
    }

    /// Starts the control plane of a data directory.
    pub(crate) async fn serve(&self, data: &str) -> Server<'_> {
        let arguments = ["server", "--output", "json", "--data-dir", &self.file(data)];
        let mut command = Xylem::default().command(self.place.path(), &arguments);
        let log = self.file(&format!("{data}.log"));
        command.stderr(File::create(&log).expect("a log"));
        let mut process = command.kill_on_drop(true).spawn().expect("it starts");
        let mut out = BufReader::new(process.stdout.take().expect("piped"));
        let mut line = String::new();
        let read = timeout(READY_WITHIN, out.read_line(&mut line)).await;
        read.expect("ready in time").expect("readable");
        let said: Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("{error}: {line}{}", read_all(&log)));
        Server {
            installation: self,
            address: said["controlPlane"].as_str().expect("a URL").to_owned(),
            process,
            out,
            log,
        }
    }

    /// A worker with a key that a command has made. It may reach this machine, as that of `xylem dev` may.
    pub(crate) async fn work(&self, admin: &Operator<'_>, server: &Server<'_>) -> Work {
        let file = self.file("worker.key");
        let line = format!("key create --role worker --task-queue xylem --to {file}");
        let made = admin.answer(&line).await;
        assert_eq!(made["key"]["agent"], "worker", "{made}");
        assert_eq!(made["key"]["taskQueues"][0], "xylem", "{made}");
        self.keep(&self.read("worker.key"));
        let key: SecretString = read_secret(Path::new(&file)).expect("a key");
        let temporal = TemporalOptions::at(self.temporal(), "default");
        let queue = "xylem".parse().expect("a queue");
        let config = WorkerConfig {
            development: true,
            ..WorkerConfig::new(temporal, queue, &server.address, key)
        };
        let stop = CancellationToken::new();
        let workflows = xylem_workflows::shipped().expect("the shipped workflows");
        let running = tokio::spawn(worker::run(config, workflows, stop.clone()));
        Work { stop, running }
    }

    /// Fails where something that may lie nowhere else lies in the data directory or in the log.
    pub(crate) fn holds_no_secret(&self, server: &Server<'_>) {
        let mut secrets = self.secrets.lock().expect("nobody panicked").clone();
        // The administrator's key and that of the database are there, in files of their own.
        let data = DataDir::at(self.place.path().join("data"));
        let kept = [data.admin_key(), data.kek()].map(|path| read_all(&path));
        secrets.retain(|secret| !kept.iter().any(|kept| kept.trim() == secret));
        assert!(secrets.len() > 15, "{} secrets", secrets.len());
        let mut searcher = Searcher::new(&secrets).expect("patterns");
        searcher.look_below(data.path()).expect("searched");
        searcher.look("the log", read_all(&server.log).as_bytes());
        assert_eq!(searcher.found_in(), [""; 0]);
    }

    /// Names the commands that were never run.
    pub(crate) fn has_run_every_command(&self) {
        let mut all = BTreeSet::new();
        leaves(&xylem::cli::command(), "", &mut all);
        assert!(all.len() > 80, "{all:?}");
        let ran = self.ran.lock().expect("nobody panicked");
        let known = |name: &String| !FOREGROUND.contains(&name.as_str());
        let never: Vec<_> = all.difference(&ran).filter(|name| known(name)).collect();
        assert!(never.is_empty(), "never run: {never:?}");
    }

    /// Whether a command is run for the first time.
    fn is_new(&self, name: &str) -> bool {
        let mut ran = self.ran.lock().expect("nobody panicked");
        ran.insert(name.to_owned())
    }
}

fn read_all(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).expect("readable")
}

fn leaves(command: &Command, before: &str, all: &mut BTreeSet<String>) {
    for below in command.get_subcommands() {
        let name = format!("{before}{}", below.get_name());
        match below.has_subcommands() {
            true => leaves(below, &format!("{name} "), all),
            false => drop(all.insert(name)),
        }
    }
}

/// A running worker.
pub(crate) struct Work {
    stop: CancellationToken,
    running: JoinHandle<Result<(), WorkerError>>,
}

impl Work {
    /// Before what it works for.
    pub(crate) async fn ends(self) {
        self.stop.cancel();
        let ended = timeout(READY_WITHIN, self.running).await;
        let ended = ended.expect("ended in time").expect("no panic");
        ended.expect("it worked until then");
    }
}

/// A running `xylem server`.
pub(crate) struct Server<'a> {
    pub(crate) installation: &'a Installation,
    pub(crate) address: String,
    process: Child,
    out: BufReader<ChildStdout>,
    log: String,
}

impl<'a> Server<'a> {
    /// An agent with the API key in a file of its name.
    pub(crate) fn agent(&self, name: &str) -> Operator<'a> {
        self.with_key(&format!("{name}.key"))
    }

    pub(crate) fn with_key(&self, file: &str) -> Operator<'a> {
        let file = self.installation.file(file);
        let xylem = Xylem::default().variable("XYLEM_ADDRESS", &self.address);
        self.installation
            .operator(xylem.variable("XYLEM_KEY_FILE", &file))
    }

    /// Asks it to end, as a service manager does.
    pub(crate) async fn stop(mut self) {
        let id = self
            .process
            .id()
            .and_then(|id| Pid::from_raw(id.try_into().ok()?));
        kill_process(id.expect("it runs"), Signal::TERM).expect("signalled");
        let ended = timeout(READY_WITHIN, self.process.wait()).await;
        let ended = ended.expect("ended in time").expect("waited for");
        assert_eq!(ended.code(), Some(0), "{}", read_all(&self.log));
        let mut more = String::new();
        self.out.read_line(&mut more).await.expect("text");
        assert_eq!(more, "", "standard output carries one line of JSON");
    }
}

/// Somebody who runs commands.
pub(crate) struct Operator<'a> {
    pub(crate) installation: &'a Installation,
    xylem: Xylem,
}

impl Operator<'_> {
    /// The same one, who gives a command this on its standard input.
    pub(crate) fn giving(&self, text: &str) -> Self {
        Self {
            installation: self.installation,
            xylem: self.xylem.clone().standard_input(text),
        }
    }

    /// What a command answers: one JSON document.
    pub(crate) async fn answer(&self, line: &str) -> Value {
        let mut all = self.lines(line).await;
        assert_eq!(all.len(), 1, "{line}: {all:?}");
        all.remove(0)
    }

    /// What a command answers: JSON, one document on each line.
    pub(crate) async fn lines(&self, line: &str) -> Vec<Value> {
        let ran = self.done(line, "json").await;
        assert!(ran.out.ends_with('\n'), "{line}: {}", ran.out);
        let read = |text| serde_json::from_str(text);
        let read = |text| read(text).unwrap_or_else(|error| panic!("{line}: {error}: {text}"));
        ran.out.lines().map(read).collect()
    }

    /// What a command tells people.
    pub(crate) async fn told(&self, line: &str) -> String {
        let ran = self.done(line, "text").await;
        assert!(!ran.out.trim().is_empty(), "{line}: nothing was said");
        ran.out
    }

    /// Fails unless a command ends with this status and a message that says so much. Its answer, where
    /// it has one all the same.
    pub(crate) async fn refused(&self, status: i32, says: &str, line: &str) -> String {
        let ran = run(&self.xylem, line, "json").await;
        assert_eq!(ran.status, status, "{line}: {}{}", ran.out, ran.err);
        assert!(ran.err.contains("error: "), "{line}: {}", ran.err);
        assert!(ran.err.contains(says), "{line}: {}", ran.err);
        ran.out
    }

    /// Starts a command that goes on until somebody ends it.
    pub(crate) fn begin(&self, line: &str) -> (Child, BufReader<ChildStdout>) {
        let arguments = words(line);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let mut command = self
            .xylem
            .command(self.installation.place.path(), &arguments);
        let mut child = command.kill_on_drop(true).spawn().expect("it starts");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        self.installation.is_new(&name_of(line));
        (child, out)
    }

    /// Runs a command that must succeed. The first time it is run where no control plane is, and with a
    /// key that nobody has, too.
    async fn done(&self, line: &str, output: &str) -> Ran {
        let name = name_of(line);
        if self.installation.is_new(&name) && !ALONE.contains(&name.as_str()) {
            self.is_refused_elsewhere(&name, line).await;
        }
        // Whoever signs in and shows codes faster than people do is told to wait.
        let ask = || async { Ok(run(&self.xylem, line, output).await) };
        let ran = eventually(line, ask, |ran| !ran.err.contains("(reason too_many,")).await;
        let ran = ran.expect("not for long");
        assert_eq!(ran.status, 0, "{line}: {}{}", ran.out, ran.err);
        let drawn = |c| c == '\r' || c == '\u{1b}';
        assert!(!ran.err.contains(drawn), "{line}: progress in a pipe");
        ran
    }

    async fn is_refused_elsewhere(&self, name: &str, line: &str) {
        let stranger = self.installation.file("stranger.key");
        let stranger = self.xylem.clone().variable("XYLEM_KEY_FILE", &stranger);
        let nowhere = stranger
            .clone()
            .variable("XYLEM_ADDRESS", "http://127.0.0.1:9");
        let mut elsewhere = vec![(nowhere, 5)];
        if !WITHOUT_KEY.contains(&name) {
            elsewhere.push((stranger, 3));
        }
        for (xylem, status) in elsewhere {
            let ran = run(&xylem, line, "json").await;
            assert_eq!(ran.status, status, "{line}: {}{}", ran.out, ran.err);
            assert_eq!(ran.out, "", "{line}");
            assert!(ran.err.starts_with("error: "), "{line}: {}", ran.err);
            // What to do next.
            assert!(ran.err.contains('`'), "{line}: {}", ran.err);
            assert!(!ran.err.contains("xyk_"), "{line}: {}", ran.err);
        }
    }
}

async fn run(xylem: &Xylem, line: &str, output: &str) -> Ran {
    let mut arguments = words(line);
    arguments.extend(["--output".to_owned(), output.to_owned()]);
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    xylem.run(&arguments).await
}

fn words(line: &str) -> Vec<String> {
    shlex::split(line).expect("words")
}

/// The command that a line runs, without its options.
fn name_of(line: &str) -> String {
    let words = iter::once("xylem".to_owned()).chain(words(line));
    let matches = xylem::cli::command().try_get_matches_from(words);
    let matches = matches.unwrap_or_else(|error| panic!("{line}: {error}"));
    let (mut names, mut at) = (Vec::new(), &matches);
    while let Some((name, below)) = at.subcommand() {
        names.push(name);
        at = below;
    }
    names.join(" ")
}

/// Asks until an answer is as it should be.
pub(crate) async fn until(
    operator: &Operator<'_>,
    line: &str,
    is_so: impl Fn(&Value) -> bool,
) -> Value {
    let ask = || async { Ok(operator.answer(line).await) };
    eventually(line, ask, is_so)
        .await
        .expect("it came to be so")
}

/// A list of an answer.
pub(crate) fn list(answer: &Value) -> &[Value] {
    answer.as_array().map_or(&[], Vec::as_slice)
}

/// What the items of a list have under a name.
pub(crate) fn each<'a>(answer: &'a Value, name: &str) -> Vec<&'a str> {
    let items = list(answer).iter();
    items
        .map(|item| item[name].as_str().unwrap_or(""))
        .collect()
}

/// How many seconds lie between two times of an answer.
pub(crate) fn seconds(from: &Value, to: &Value) -> u64 {
    let [from, to] = [from, to].map(|at| {
        let text = at.as_str().expect("a time").replace("+00:00", "Z");
        humantime::parse_rfc3339(&text).expect("RFC 3339")
    });
    to.duration_since(from).expect("later").as_secs()
}

/// The newest file of a folder.
pub(crate) fn newest(folder: &str) -> PathBuf {
    let files = fs::read_dir(folder).expect("a folder");
    let files = files.map(|file| file.expect("a file").path());
    files.max().expect("a file")
}
