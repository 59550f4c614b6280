//! A Temporal dev server that lives as long as its handle.

use anyhow::{Context, bail, ensure};
use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};
use temporalio_client::{Client, ClientOptions, Connection, ConnectionOptions};
use tokio::time::{Instant, sleep};
use url::Url;

/// The namespace of the tests.
const NAMESPACE: &str = "default";

/// How a server is started.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it keeps its database; in memory where absent.
    pub database: Option<PathBuf>,
    /// Whether the search attribute `XylemTokens` is registered.
    pub search_attribute: bool,
    /// Whether `history.transferProcessorMaxPollRPS` is raised from the dev server's 20, which slows
    /// workflows that start children one at a time, to 10,000.
    pub fast_transfer_queue: bool,
    /// After how many events the server suggests to continue as new; its own default where absent.
    pub suggest_continue_as_new: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            database: None,
            search_attribute: true,
            fast_transfer_queue: true,
            suggest_continue_as_new: None,
        }
    }
}

/// A running server. Dropping it ends the server; so does the death of this process.
pub struct TemporalServer {
    process: Child,
    port: u16,
    cli: PathBuf,
    client: Client,
    settings: Settings,
}

impl TemporalServer {
    /// Starts a server with the usual settings.
    ///
    /// # Errors
    /// There is no Temporal CLI, or the server does not answer within half a minute.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(&Settings::default()).await
    }

    /// Starts a server.
    ///
    /// # Errors
    /// There is no Temporal CLI, or the server does not answer within half a minute.
    pub async fn start_with(settings: &Settings) -> anyhow::Result<Self> {
        let cli = temporal_cli()?;
        let port = free_port()?;
        let process = spawn(&cli, port, settings)?;
        let client = connect(port).await?;
        Ok(Self {
            process,
            port,
            cli,
            client,
            settings: settings.clone(),
        })
    }

    /// Ends the server with SIGKILL and starts it again at the same address, on what its database
    /// holds.
    ///
    /// # Errors
    /// It keeps its database in memory, or does not answer within half a minute.
    pub async fn kill_and_restart(&mut self) -> anyhow::Result<()> {
        ensure!(
            self.settings.database.is_some(),
            "a server without a database file forgets everything"
        );
        self.kill();
        self.process = spawn(&self.cli, self.port, &self.settings)?;
        self.client = connect(self.port).await?;
        Ok(())
    }

    fn kill(&mut self) {
        // Closing the guard's standard input ends the server.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }

    /// A client of the namespace of the tests.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// `host:port`, as the stock CLI takes it.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The stock CLI, aimed at this server.
    #[must_use]
    pub fn cli(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.cli);
        command
            .args(arguments)
            .args(["--address", &self.address(), "--namespace", NAMESPACE])
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Runs the stock CLI to its end and answers with what it printed.
    ///
    /// # Errors
    /// It did not succeed; the error shows what it said.
    pub async fn run_cli(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = tokio::process::Command::from(self.cli(arguments));
        let output = command.output().await?;
        if !output.status.success() {
            bail!(
                "temporal {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for TemporalServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The pinned CLI: `TEMPORAL_CLI`, or where `cargo xtask test` has put it.
///
/// # Errors
/// It is in neither place.
pub fn temporal_cli() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("TEMPORAL_CLI") {
        return Ok(path.into());
    }
    let target = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools"));
    let found = target
        .read_dir()
        .ok()
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("temporal")))
        .find(|path| path.is_file());
    found.context("no Temporal CLI: run `cargo xtask test`, or set TEMPORAL_CLI")
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// The server runs under a shell that ends it when its standard input closes: a test that is
/// killed leaves no server behind.
fn spawn(cli: &PathBuf, port: u16, settings: &Settings) -> anyhow::Result<Child> {
    const GUARD: &str = r#""$@" & server=$!; cat > /dev/null; kill -9 $server 2> /dev/null; wait"#;
    let mut command = Command::new("sh");
    command.args(["-c", GUARD, "guard"]).arg(cli);
    command.args(["server", "start-dev", "--headless", "--ip", "127.0.0.1"]);
    command.args(["--port", &port.to_string(), "--log-level", "never"]);
    if let Some(database) = &settings.database {
        command.arg("--db-filename").arg(database);
    }
    if settings.search_attribute {
        command.args(["--search-attribute", "XylemTokens=KeywordList"]);
    }
    if settings.fast_transfer_queue {
        let value = "history.transferProcessorMaxPollRPS=10000";
        command.args(["--dynamic-config-value", value]);
    }
    if let Some(events) = settings.suggest_continue_as_new {
        let value = format!("limit.historyCount.suggestContinueAsNew={events}");
        command.args(["--dynamic-config-value", &value]);
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("the Temporal server could not be started")
}

pub(crate) async fn connect(port: u16) -> anyhow::Result<Client> {
    let url = Url::parse(&format!("http://127.0.0.1:{port}"))?;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let options = ConnectionOptions::new(url.clone()).build();
        match Connection::connect(options).await {
            Ok(connection) => {
                let client = Client::new(connection, ClientOptions::new(NAMESPACE).build())?;
                match client.count_workflows("", Default::default()).await {
                    Ok(_) => return Ok(client),
                    Err(error) if Instant::now() >= deadline => return Err(error.into()),
                    Err(_) => {}
                }
            }
            Err(error) if Instant::now() >= deadline => {
                return Err(error).context("the Temporal server does not answer");
            }
            Err(_) => {}
        }
        sleep(Duration::from_millis(50)).await;
    }
}
