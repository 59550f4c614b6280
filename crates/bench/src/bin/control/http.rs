//! Requests over HTTP: as many as an empty handler of the same server answers, and fewer.

use anyhow::{Context, Result, ensure};
use reqwest::{
    Client,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use secrecy::{ExposeSecret, SecretString};
use std::{
    fs::File,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;
use xylem::data::read_secret;
use xylem_bench::{Bar, Measured, Timing};
use xylem_client::v1;
use xylem_testkit::Stack;

/// Connections that send one request after the other.
const CONNECTIONS: usize = 8;
/// How long each kind of request is sent, and again. They take turns that are shorter than a machine that
/// others share stays as fast as it is.
const ROUND: Duration = Duration::from_millis(250);
const ROUNDS: usize = 40;
/// Tools there are: more than a page.
const TOOLS: usize = 50;
/// Which part of the empty handler's requests per second has to be reached.
const BAR: f64 = 0.5;

/// What is sent, and what it is called.
const EMPTY: Sent = Sent::Get("/healthz");
const REQUESTS: [(&str, Sent); 2] = [
    ("a page of 20 tools", Sent::Get("/v1/tools?page_size=20")),
    (
        "a check of the policies",
        Sent::Post("/v1/access/check", question),
    ),
];

/// One kind of request; what is posted has a number of its own.
#[derive(Clone, Copy)]
enum Sent {
    Get(&'static str),
    Post(&'static str, fn(usize) -> String),
}

/// One that was never asked before.
fn question(number: usize) -> String {
    let tool = number % TOOLS;
    format!(r#"{{"tool": "bench.tool-{tool}", "taskQueue": "deploys-{number}"}}"#)
}

pub(crate) async fn measure() -> Result<Measured> {
    let place = tempfile::tempdir()?;
    log_to(&place.path().join("log"))?;
    let stack = Stack::start().await?;
    for number in 0..TOOLS {
        stack.control.register_tool(tool(number)).await?;
    }
    let load = Load {
        http: Client::new(),
        base: stack.control_plane().to_owned(),
        key: read_secret(&stack.data().admin_key())?,
        numbers: Arc::default(),
    };
    let measured = load.measure().await;
    stack.stop().await;
    measured
}

/// Logs what `xylem server` logs where nothing else is said: a line for each request, and of everybody
/// else's rooms the warnings. Tests keep everything, in memory, which would be measured too.
fn log_to(path: &Path) -> Result<()> {
    let log = tracing_subscriber::fmt()
        .with_env_filter("warn,xylem=info,xylem_control=info,xylem_store=info,xylem_vault=info")
        .with_ansi(false)
        .with_writer(Arc::new(File::create(path)?));
    log.try_init().map_err(anyhow::Error::from_boxed)
}

struct Load {
    http: Client,
    base: String,
    key: SecretString,
    /// Of what was posted.
    numbers: Arc<AtomicUsize>,
}

impl Load {
    async fn measure(&self) -> Result<Measured> {
        let mut measured = Measured::default();
        for (what, sent) in REQUESTS {
            let (mut empty, mut full) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                empty.extend(self.round(EMPTY).await?);
                full.extend(self.round(sent).await?);
            }
            // The rounds are of the same length.
            let count = |took: &[Duration]| u32::try_from(took.len()).unwrap_or(u32::MAX);
            let ratio = f64::from(count(&full)) / f64::from(count(&empty));
            let name = format!("requests per second, {what}, times those of an empty handler");
            measured.bars.push(Bar::at_least(name, ratio, BAR));
            let limit = format!("an empty handler, before {what} (the limit)");
            measured.timings.push(Timing::of_each(&limit, &empty));
            measured.timings.push(Timing::of_each(what, &full));
        }
        Ok(measured)
    }

    /// How long each request took that was answered within a round.
    async fn round(&self, sent: Sent) -> Result<Vec<Duration>> {
        let end = Instant::now() + ROUND;
        let mut connections = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let bearer = format!("Bearer {}", self.key.expose_secret());
            let (request, body) = match sent {
                Sent::Get(path) => (self.http.get(format!("{}{path}", self.base)), None),
                Sent::Post(path, body) => {
                    let request = self.http.post(format!("{}{path}", self.base));
                    (request.header(CONTENT_TYPE, "application/json"), Some(body))
                }
            };
            let request = request.header(AUTHORIZATION, bearer).build()?;
            let numbers = Arc::clone(&self.numbers);
            let next = move || Some(body?(numbers.fetch_add(1, Ordering::Relaxed)));
            connections.spawn(send(self.http.clone(), request, next, end));
        }
        let mut took = Vec::new();
        for connection in connections.join_all().await {
            took.extend(connection?);
        }
        Ok(took)
    }
}

async fn send(
    http: Client,
    request: reqwest::Request,
    next: impl Fn() -> Option<String>,
    end: Instant,
) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    while Instant::now() < end {
        let mut request = request.try_clone().context("the request has a body")?;
        *request.body_mut() = next().map(Into::into);
        let begin = Instant::now();
        let answer = http.execute(request).await?;
        ensure!(answer.status().is_success(), "{}", answer.status());
        answer.bytes().await?;
        took.push(begin.elapsed());
    }
    Ok(took)
}

fn tool(number: usize) -> v1::Tool {
    v1::Tool {
        name: format!("bench.tool-{number}"),
        description: "Deploys a build to the fleet".to_owned(),
        method: "POST".to_owned(),
        base_url: "https://api.acme.example/v1".to_owned(),
        path: "/deploys".to_owned(),
        slot: "default".to_owned(),
        parameters_schema_json: r#"{"type":"object","properties":{"build":{"type":"integer"}}}"#
            .to_owned(),
        ..v1::Tool::default()
    }
}
