//! `xylem dev` and the commands beside it as a shell sees them: processes, a real Temporal server,
//! an external API.

mod support {
    pub(crate) mod command;
}

use acme_api::AcmeApi;
use rustix::process::{Pid, Signal, kill_process};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::ErrorKind,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::PathBuf,
    process::ExitStatus,
    sync::Mutex,
    thread,
    time::{Duration, Instant, SystemTime},
};
use support::command::{Ran, Xylem};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines},
    process::{Child, ChildStdout},
    task::JoinHandle,
    time::timeout,
};
use xylem_testkit::{Searcher, device, eventually, temporal_cli};

/// How long `xylem dev` may take until it is ready; a slow machine needs most of it.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// How long it may take to end.
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// A directory, an external API, and everything that was said by any process.
struct Place {
    directory: TempDir,
    acme: AcmeApi,
    /// Every process is told to use it, and none may.
    proxy: TcpListener,
    issued: Mutex<Vec<String>>,
    said: Mutex<String>,
}

impl Place {
    async fn new() -> Self {
        let anywhere = (Ipv4Addr::LOCALHOST, 0).into();
        Self {
            directory: tempfile::tempdir().expect("a directory"),
            acme: AcmeApi::start(anywhere).await.expect("a port"),
            proxy: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"),
            issued: Mutex::default(),
            said: Mutex::default(),
        }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn xylem(&self) -> Xylem {
        let data = self.data();
        let proxy = self.proxy.local_addr().expect("bound");
        let xylem = Xylem::default().variable("XYLEM_DATA_DIR", data.to_str().expect("text"));
        ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"]
            .into_iter()
            .fold(xylem, |xylem, name| {
                xylem.variable(name, &format!("http://{proxy}"))
            })
    }

    /// A token would go there in clear.
    fn proxy_saw_nothing(&self) {
        self.proxy.set_nonblocking(true).expect("a listener");
        let seen = self.proxy.accept().expect_err("nobody connected");
        assert_eq!(seen.kind(), ErrorKind::WouldBlock);
    }

    /// A token of the external API.
    fn issue(&self, label: &str) -> String {
        let token = self.acme.issue(label);
        let mut issued = self.issued.lock().expect("nobody panicked");
        issued.push(token.clone());
        token
    }

    fn hear(&self, said: &str) {
        self.said.lock().expect("nobody panicked").push_str(said);
    }

    async fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with("", arguments).await
    }

    /// Runs a command with this on its standard input.
    async fn run_with(&self, input: &str, arguments: &[&str]) -> Ran {
        let ran = self.xylem().standard_input(input).run(arguments).await;
        self.hear(&ran.out);
        self.hear(&ran.err);
        ran
    }

    /// What a command answers as JSON. It must succeed and print nothing else.
    async fn answer(&self, arguments: &[&str]) -> Value {
        self.answer_with("", arguments).await
    }

    async fn answer_with(&self, input: &str, arguments: &[&str]) -> Value {
        let arguments = [arguments, &["--output", "json"]].concat();
        let ran = self.run_with(input, &arguments).await;
        assert_eq!(ran.status, 0, "{arguments:?}: {}{}", ran.out, ran.err);
        let answer = serde_json::from_str(&ran.out);
        answer.unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", ran.out))
    }

    /// Fails unless a command ends with this status and a message that says so much.
    async fn refused(&self, status: i32, says: &str, arguments: &[&str]) {
        let token = "tok-canary-0123456789";
        let ran = self.run_with(token, arguments).await;
        assert_eq!(ran.status, status, "{arguments:?}: {}{}", ran.out, ran.err);
        assert!(ran.out.is_empty(), "{arguments:?}: {}", ran.out);
        assert!(ran.err.contains(says), "{arguments:?}: {}", ran.err);
        assert!(!ran.err.contains("canary"), "{arguments:?}: {}", ran.err);
    }

    /// Registers an operation of the external API as a tool.
    async fn register(&self) -> Value {
        let tool = json!([{
            "name": "acme.status",
            "baseUrl": self.acme.url(),
            "method": "GET",
            "path": "/v1/status",
            "parametersSchema": { "type": "object", "additionalProperties": false },
        }]);
        let file = self.directory.path().join("tools.json");
        fs::write(&file, tool.to_string()).expect("written");
        let file = file.to_str().expect("text");
        self.answer(&["tool", "add", "--approve", "--file", file])
            .await
    }

    /// Starts a tree of a root and three children that call the tool again and again.
    async fn plant(&self, id: &str) -> Value {
        let calls = json!({ "steps": [{ "tool": "acme.status" }], "pauseMs": 500 });
        let mut input = calls.clone();
        input["children"] = ["a", "b", "c"]
            .map(|name| json!({ "name": name, "node": calls }))
            .into();
        let (input, audience) = (input.to_string(), self.acme.url());
        let arguments = [
            &["tree", "start", "--workflow-id", id, "--type", "ToolTree"][..],
            &["--input", &input, "--tool", "acme.status"],
            &["--audience", &audience, "--token-stdin"],
        ];
        let token = self.issue("v1");
        let started = self.answer_with(&token, &arguments.concat()).await;
        let what = format!("{id} has grown");
        let shown = || async { Ok(self.answer(&["tree", "show", id]).await) };
        let grown = |view: &Value| view["converged"] == true && nodes(view).len() == 4;
        eventually(&what, shown, grown).await.expect("grown");
        started
    }

    /// Rotates to a new token of the external API and follows the cascade to its end.
    async fn rotate(&self, id: &str, label: &str) -> Value {
        let arguments = ["token", "rotate", id, "--token-stdin", "--wait"];
        self.answer_with(&self.issue(label), &arguments).await
    }

    /// Fails where a check does not come to be as it should be: that a stack is ready does not
    /// wait for whoever polls for workflows and for the sweep.
    async fn is_healthy(&self) {
        let asked = || async {
            let ran = self.run(&["doctor", "--output", "json"]).await;
            Ok(serde_json::from_str::<Value>(&ran.out).expect("JSON alone"))
        };
        let healthy = |report: &Value| {
            let mut checks = list(&report["checks"]).iter();
            report["ok"] == true && checks.all(|check| check["verdict"] == "ok")
        };
        let report = eventually("healthy", asked, healthy).await;
        let report = report.expect("healthy");
        assert!(list(&report["checks"]).len() >= 10, "{report}");
        // Who develops alone approves alone, and is told so.
        let approvals = list(&report["checks"]).iter();
        let mut approvals = approvals.filter(|check| check["check"] == "server: approvals");
        let approvals = approvals.next().expect("a check of approvals");
        let told = approvals["detail"].as_str().expect("text");
        assert!(told.contains("single operator"), "{approvals}");
    }

    /// Searches what was said, and what lies in the data directory, for the tokens.
    fn search(&self) {
        let issued = self.issued.lock().expect("nobody panicked");
        let said = self.said.lock().expect("nobody panicked");
        let key = fs::read_to_string(self.data().join("admin.key")).expect("the key");
        let mut keys = Searcher::new(&[key.trim().to_owned()]).expect("patterns");
        keys.look("what was said", said.as_bytes());
        assert!(keys.found_in().is_empty(), "a key was shown");

        let mut tokens = Searcher::new(&issued).expect("patterns");
        tokens.look("what was said", said.as_bytes());
        tokens.look_below(&self.data()).expect("searched");
        assert!(tokens.found_in().is_empty(), "{:?}", tokens.found_in());
        let canary = self.directory.path().join("data").join("canary");
        fs::write(&canary, format!("a token: {}", issued[0])).expect("written");
        tokens.look_below(&self.data()).expect("searched");
        assert_eq!(tokens.found_in(), [canary.display().to_string()]);
    }
}

/// A running `xylem dev`. Dropping it stops it.
struct Dev<'a> {
    place: &'a Place,
    process: Child,
    out: Lines<BufReader<ChildStdout>>,
    err: JoinHandle<String>,
    endpoints: Value,
}

impl<'a> Dev<'a> {
    /// Starts it and waits for the line that says where everything is.
    async fn start(place: &'a Place) -> Self {
        let mut dev = Self::spawn(place);
        let line = timeout(READY_WITHIN, dev.out.next_line()).await;
        let line = line.expect("ready in time").expect("readable");
        let line = line.expect("a line");
        place.hear(&line);
        dev.endpoints = serde_json::from_str(&line).expect("JSON");
        dev
    }

    fn spawn(place: &'a Place) -> Self {
        let cli = temporal_cli().expect("a Temporal CLI");
        let arguments = [
            &["dev", "--output", "json", "--temporal-port", "0"][..],
            &["--ui-port", "0", "--port", "0"],
        ];
        let xylem = place
            .xylem()
            .variable("TEMPORAL_CLI", cli.to_str().expect("text"));
        let mut command = xylem.command(place.directory.path(), &arguments.concat());
        let mut process = command.spawn().expect("it starts");
        let out = process.stdout.take().expect("piped");
        let mut err = process.stderr.take().expect("piped");
        Self {
            place,
            process,
            out: BufReader::new(out).lines(),
            err: tokio::spawn(async move {
                let mut said = String::new();
                err.read_to_string(&mut said).await.expect("text");
                said
            }),
            endpoints: Value::Null,
        }
    }

    fn address(&self, name: &str) -> &str {
        let address = self.endpoints[name].as_str();
        let address = address.unwrap_or_else(|| panic!("no {name} in {}", self.endpoints));
        address.strip_prefix("http://").unwrap_or(address)
    }

    /// Presses Ctrl-C, and sees that all of it ends.
    async fn interrupt(mut self) {
        let listened = ["temporalAddress", "webUi", "controlPlane"];
        let listened = listened.map(|name| self.address(name).to_owned());
        for address in &listened {
            TcpStream::connect(address).expect("somebody listens");
        }
        assert_eq!(self.end().await.code(), Some(0));
        let more = self.out.next_line().await.expect("text");
        assert_eq!(more, None, "standard output carries one line of JSON");
        for address in &listened {
            TcpStream::connect(address).expect_err("nobody listens any more");
        }
        self.place.is_left();
    }

    /// Interrupts it and waits for its end.
    async fn end(&mut self) -> ExitStatus {
        interrupt(&self.process);
        let ended = timeout(STOP_WITHIN, self.process.wait()).await;
        let said = (&mut self.err).await.expect("read");
        self.place.hear(&said);
        ended.expect("ended in time").expect("waited for")
    }
}

fn interrupt(process: &Child) {
    let id = process
        .id()
        .and_then(|id| Pid::from_raw(id.try_into().ok()?));
    kill_process(id.expect("it runs"), Signal::INT).expect("signalled");
}

impl Drop for Dev<'_> {
    /// Killing it would leave its Temporal server behind.
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) {
            interrupt(&self.process);
            let deadline = Instant::now() + STOP_WITHIN;
            while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(50));
            }
            let _ = self.process.start_kill();
        }
    }
}

impl Place {
    /// Fails while a process holds a lock of the data directory: the server of Temporal inherits
    /// one, and keeps it as long as it lives.
    fn is_left(&self) {
        for name in ["xylem.lock", "temporal.lock"] {
            let lock = File::open(self.data().join(name)).expect("a lock");
            lock.try_lock().unwrap_or_else(|_| panic!("{name} is held"));
        }
    }
}

fn nodes(view: &Value) -> &[Value] {
    view["nodes"].as_array().map_or(&[], Vec::as_slice)
}

fn list(answer: &Value) -> &[Value] {
    answer.as_array().expect("a list")
}

/// The states of a tree's versions, by version.
fn states(versions: &Value) -> Vec<(u64, &str)> {
    let state = |version: &'_ Value| version["order"]["version"].as_u64().expect("a number");
    let mut states: Vec<_> = list(versions)
        .iter()
        .map(|version| (state(version), version["state"].as_str().expect("a state")))
        .collect();
    states.sort_unstable();
    states
}

#[tokio::test]
async fn the_commands_take_a_tree_from_its_first_token_to_its_end() {
    let place = Place::new().await;
    let dev = Dev::start(&place).await;
    assert_eq!(dev.endpoints["dataDirectory"], json!(place.data()));
    assert_eq!(dev.endpoints["taskQueue"], "xylem");
    assert_eq!(dev.endpoints["namespace"], "default");
    place.is_healthy().await;

    // Tools.
    assert_eq!(list(&place.answer(&["tool", "list"]).await).len(), 0);
    assert_eq!(place.register().await[0]["name"], "acme.status");
    let listed = place.answer(&["tool", "list"]).await;
    assert_eq!(list(&listed).len(), 1);
    let shown = place.answer(&["tool", "show", "acme.status"]).await;
    assert_eq!(shown, listed[0]);
    assert_eq!(shown["path"], "/v1/status");

    // A tree.
    assert_eq!(list(&place.answer(&["tree", "list"]).await).len(), 0);
    let started = place.plant("train-1").await;
    assert_eq!(started["id"]["workflowId"], "train-1");
    let listed = place.answer(&["tree", "list"]).await;
    assert_eq!(list(&listed).len(), 1);
    assert_eq!(listed[0]["id"], started["id"]);
    let status = place.answer(&["token", "status", "train-1"]).await;
    assert_eq!(states(&status), [(1, "VERSION_STATE_ACTIVE")]);

    // Its rotation, and the end of the first token.
    let rotated = place.rotate("train-1", "v2").await;
    assert_eq!(rotated["change"]["version"]["order"]["version"], 2);
    assert_eq!(rotated["cascade"]["converged"], true);
    assert_eq!(rotated["cascade"]["current"], 4);
    let shown = place.answer(&["tree", "show", "train-1"]).await;
    for node in nodes(&shown) {
        assert_eq!(node["state"], "NODE_STATE_CURRENT", "{node}");
        assert_eq!(node["slots"][0]["order"]["version"], 2, "{node}");
    }
    place.refuses().await;
    place.makes_a_key_for_a_queue().await;
    // A lease whose release was lost lasts 45 s.
    let revoke = ["token", "revoke", "train-1", "--version", "1"];
    place
        .answer(&[&revoke[..], &["--wait", "60s"]].concat())
        .await;
    let status = place.answer(&["token", "status", "train-1"]).await;
    let expected = [(1, "VERSION_STATE_REVOKED"), (2, "VERSION_STATE_ACTIVE")];
    assert_eq!(states(&status), expected);
    let counted = || async { Ok(place.acme.stats_of("v2")) };
    eventually("calls with v2", counted, |stats| stats.calls >= 4)
        .await
        .expect("called");

    // What was written down about it.
    for action in ["deposit", "redeem", "outcome", "revoke"] {
        // One by one: the calls until now may be more than a list shows.
        let listed = ["audit", "list", "--tree", "train-1", "--action", action];
        let entries = place.answer(&listed).await;
        let has = |entry: &Value| entry["action"] == action;
        assert!(list(&entries).iter().any(has), "{action}");
    }

    // A root that nobody can carry out does not hear that it is to end.
    let start = ["tree", "start", "--workflow-id", "stuck", "--type"];
    let start = [&start[..], &["Unknown", "--no-token"]].concat();
    place.answer(&start).await;
    let stop = ["tree", "stop", "stuck", "--wait", "0s"];
    let ran = place.run(&stop).await;
    assert_eq!(ran.status, 1, "{}", ran.err);
    assert!(ran.err.contains("--terminate"), "{}", ran.err);
    place
        .answer(&["tree", "stop", "stuck", "--terminate", "--wait", "60s"])
        .await;

    // Its end.
    let stop = ["tree", "stop", "train-1", "--wait", "60s"];
    let stopped = place.answer(&stop).await;
    // Not always all four: a node ends by itself where its call is refused before it is asked to.
    let asked = stopped["stopped"].as_u64();
    assert!(matches!(asked, Some(1..=4)), "{stopped}");
    assert_eq!(stopped.get("stillRunning"), None);
    let shown = place.answer(&["tree", "show", "train-1"]).await;
    assert_eq!(shown["tree"]["state"], "TREE_STATE_STOPPED");
    for node in nodes(&shown) {
        assert_eq!(node["state"], "NODE_STATE_CLOSED", "{node}");
    }
    place.is_healthy().await;
    dev.interrupt().await;
    place.search();
    place.proxy_saw_nothing();
}

impl Place {
    /// One command makes a key for the workers of a queue, and their agent where there is none.
    async fn makes_a_key_for_a_queue(&self) {
        let file = self.directory.path().join("trains.key");
        let file = file.to_str().expect("text");
        let worker = ["key", "create", "--role", "worker"];
        self.refused(
            2,
            "task_queues",
            &[&worker[..], &["--agent", "trains"]].concat(),
        )
        .await;
        let create = ["--agent", "trains", "--task-queue", "trains", "--to", file];
        let made = self.answer(&[&worker[..], &create].concat()).await;
        assert_eq!(made["key"]["agent"], "trains", "{made}");
        assert_eq!(made["key"]["taskQueues"], json!(["trains"]), "{made}");
        let secret = std::fs::read_to_string(file).expect("written");
        assert!(!made.to_string().contains(secret.trim()));
        // It is that of a worker, and of nobody else.
        let worker = self.xylem().variable("XYLEM_KEY_FILE", file);
        let ran = worker.run(&["tree", "list"]).await;
        assert_eq!(ran.status, 3, "{}", ran.err);
        assert!(ran.err.contains("role"), "{}", ran.err);
    }

    /// What is refused while `train-1` runs, by exit status.
    async fn refuses(&self) {
        let audience = self.acme.url();
        let start = |id| ["tree", "start", "--workflow-id", id, "--type", "ToolTree"];
        let spare = ["--no-token", "--input", "{}"];
        let spare = [&start("spare")[..], &spare].concat();
        self.answer(&spare).await;
        self.refused(1, "already_running", &spare).await;
        let anywhere = [&start("t")[..], &["--token-stdin", "--input", "{}"]].concat();
        self.refused(2, "--audience", &anywhere).await;
        let input = ["--no-token", "--input", "text"];
        let input = [&start("t")[..], &input].concat();
        self.refused(2, "JSON", &input).await;
        let input = [&start("t")[..], &["--no-token"]].concat();
        self.refused(2, "--input", &input).await;
        let absent = [
            &["--token-file", "/nowhere/token", "--audience", &audience][..],
            &["--input", "{}"],
        ]
        .concat();
        let absent = [&start("t")[..], &absent].concat();
        self.refused(1, "/nowhere/token", &absent).await;
        let active = [
            "token",
            "revoke",
            "train-1",
            "--version",
            "2",
            "--wait",
            "0s",
        ];
        self.refused(3, "--force", &active).await;
        for unknown in [
            &["tree", "show", "nobody"][..],
            &["tree", "stop", "nobody"],
            &["tree", "watch", "nobody"],
            &["token", "status", "nobody"],
            &["token", "rotate", "nobody", "--token-stdin"],
            &["token", "revoke", "nobody", "--version", "1"],
        ] {
            self.refused(4, "no such", unknown).await;
        }
        self.refused(4, "no such", &["tool", "show", "acme.nothing"])
            .await;
        let stranger = self.xylem().variable("XYLEM_API_KEY", "xyk_stranger");
        let ran = stranger.run(&["tree", "list"]).await;
        assert_eq!(ran.status, 3, "{}", ran.err);
        assert!(!ran.err.contains("xyk_stranger"), "{}", ran.err);
        let nowhere = self.xylem().variable("XYLEM_ADDRESS", "http://127.0.0.1:9");
        assert_eq!(nowhere.run(&["tree", "list"]).await.status, 5);
    }
}

#[tokio::test]
async fn people_enrol_a_second_factor_and_keys_are_replaced_while_it_runs() {
    let place = Place::new().await;
    let dev = Dev::start(&place).await;

    // The keys that the control plane signs with.
    let signing = ["vault", "rotate-key", "signing"];
    let first = place.answer(&signing).await;
    assert!(first["signsFrom"].is_string(), "{first}");
    let at_once = [&signing[..], &["--compromised"]].concat();
    let at_once = place.answer(&at_once).await;
    assert_ne!(at_once["keyId"], first["keyId"]);
    place.register().await;
    place.plant("train-1").await;
    let issuer = place.answer(&["vault", "rotate-key", "issuer"]).await;
    assert_eq!(issuer["trees"], 1, "{issuer}");
    let rotated = place.rotate("train-1", "v2").await;
    assert_eq!(rotated["cascade"]["converged"], true);

    // An account, and a device for it.
    let file = |name: &str| {
        let path = place.directory.path().join(name);
        path.to_str().expect("text").to_owned()
    };
    let (invitation, password) = (file("invitation"), file("password"));
    fs::write(&password, "a long walk along the river\n").expect("written");
    let create = ["agent", "create", "ada", "--kind", "user", "--role", "user"];
    place.answer(&create).await;
    let invite = ["agent", "invite", "ada", "--to", &invitation];
    place.answer(&invite).await;
    let given = ["--password-file", &password];
    let register = [
        "account",
        "register",
        "ada",
        "--invitation-file",
        &invitation,
    ];
    place.answer(&[&register[..], &given].concat()).await;

    let home = file("home");
    let ada = async |arguments: &[&str]| {
        let arguments = [arguments, &["--output", "json"]].concat();
        let xylem = place.xylem().variable("HOME", &home);
        let ran = xylem.run(&arguments).await;
        let answer = serde_json::from_str::<Value>(&ran.out).unwrap_or_default();
        (ran.status, answer, ran.err)
    };
    let login = [&["login", "ada"][..], &given].concat();
    assert_eq!(ada(&login).await.0, 0);
    let enrol = ["account", "second-factor", "enrol"];
    let (status, enrolled, said) = ada(&[&enrol[..], &given].concat()).await;
    assert_eq!(status, 0, "{said}");
    let secret = SecretString::from(enrolled["secret"].as_str().expect("a secret"));
    let code = |at| device::code(&secret, at);
    let first = code(SystemTime::now());
    let confirm = ["account", "second-factor", "confirm"];
    let (status, confirmed, said) = ada(&[&confirm[..], &[first.expose_secret()]].concat()).await;
    assert_eq!(status, 0, "{said}");
    let codes = list(&confirmed["recoveryCodes"]);
    let recovery = |number: usize| codes[number].as_str().expect("a code");

    // The password alone does not do from then on.
    assert_eq!(ada(&login).await.0, 3);
    let with_code = [&login[..], &["--code", recovery(0)]].concat();
    assert_eq!(ada(&with_code).await.0, 0);
    let (_, shown, _) = ada(&["account", "show"]).await;
    assert_eq!(
        (&shown["agent"], &shown["secondFactor"]),
        (&json!("ada"), &json!(true))
    );

    // Each code of the device is good once: other recovery codes take the next one.
    let next = code(SystemTime::now() + Duration::from_secs(30));
    let renew = ["account", "second-factor", "recovery-codes"];
    let renew = [&renew[..], &[next.expose_secret()], &given].concat();
    let (status, renewed, said) = ada(&renew).await;
    assert_eq!(status, 0, "{said}");
    let renewed = list(&renewed["recoveryCodes"]);
    let remove = ["account", "second-factor", "remove"];
    assert_ne!(renewed[0], recovery(1));
    let last = renewed[0].as_str().expect("a code");
    let (status, _, said) = ada(&[&remove[..], &[last]].concat()).await;
    assert_eq!(status, 0, "{said}");
    assert_eq!(ada(&login).await.0, 0, "the password alone does again");
    dev.interrupt().await;
}

#[tokio::test]
async fn ctrl_c_leaves_nothing_behind_and_the_next_start_finds_everything() {
    let place = Place::new().await;
    let dev = Dev::start(&place).await;
    let second = place.run(&["dev"]).await;
    assert_eq!(second.status, 1, "{}", second.err);
    assert!(second.err.contains("another `xylem dev`"), "{}", second.err);
    place.register().await;
    let started = place.plant("train-1").await;
    let keys = place.keys();
    dev.interrupt().await;
    place.refused(5, "xylem dev", &["tree", "list"]).await;

    let dev = Dev::start(&place).await;
    assert_eq!(place.keys(), keys, "keys were made anew");
    let listed = place.answer(&["tree", "list"]).await;
    assert_eq!(listed[0]["id"], started["id"]);
    let rotated = place.rotate("train-1", "v2").await;
    assert_eq!(rotated["cascade"]["converged"], true);
    assert_eq!(rotated["cascade"]["current"], 4);
    // A lease whose release was lost lasts 45 s.
    let revoke = ["token", "revoke", "train-1", "--version", "1"];
    place
        .answer(&[&revoke[..], &["--wait", "60s"]].concat())
        .await;
    let counted = || async { Ok(place.acme.stats_of("v2")) };
    eventually("calls with v2", counted, |stats| stats.calls >= 4)
        .await
        .expect("called");
    place.is_healthy().await;
    dev.interrupt().await;
    place.search();
}

impl Place {
    /// Every key of the data directory, in the order of their files' names.
    fn keys(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = vec![
            self.data().join("admin.key"),
            self.data().join("worker.key"),
        ];
        let mut directories = vec![self.data().join("keys")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).expect("listed") {
                let path = entry.expect("an entry").path();
                match path.is_dir() {
                    true => directories.push(path),
                    false => files.push(path),
                }
            }
        }
        files.sort();
        let read = |path: PathBuf| (path.clone(), fs::read(path).expect("read"));
        files.into_iter().map(read).collect()
    }
}

#[tokio::test]
async fn ctrl_c_while_it_starts_leaves_nothing_behind() {
    let place = Place::new().await;
    let mut dev = Dev::spawn(&place);
    let lock = place.data().join("temporal.lock");
    let begun = || async { Ok(fs::metadata(&lock).is_ok_and(|file| file.len() > 0)) };
    eventually("Temporal is starting", begun, |begun| *begun)
        .await
        .expect("starting");
    assert_eq!(dev.end().await.code(), Some(0));
    place.is_left();
}
