//! What is there around a control plane that is killed, and what one leaves to the next.

use secrecy::SecretString;
use serde_json::Value;
use sqlx::{Connection, Decode, Sqlite, SqliteConnection, Type, sqlite::SqliteConnectOptions};
use std::{
    ffi::OsString,
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};
use xylem::{
    data::{DataDir, read_secret},
    temporal::TemporalOptions,
    worker::{self, WorkerConfig},
};
use xylem_client::{Client, Deposit, InitialToken, NewKey, StartTree, v1};
use xylem_testkit::{TemporalServer, eventually, test_workflows};

pub(crate) const QUEUE: &str = "xylem";

/// The control plane's process. Dropping it kills it.
pub(crate) struct Server(Child);

impl Drop for Server {
    /// `kill -9`.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A control plane's data, its address, and the Temporal server that it uses.
pub(crate) struct Installation {
    pub(crate) temporal: TemporalServer,
    pub(crate) data: DataDir,
    listen: SocketAddr,
    /// Whether it is `xylem server`, or what tests need.
    production: bool,
    _place: tempfile::TempDir,
}

impl Installation {
    /// One that is run with `xylem server`.
    pub(crate) async fn new() -> anyhow::Result<Self> {
        let installation = Self::bare(true).await?;
        let data = &installation.data;
        xylem::server::init(data, &Default::default(), "default".parse()?, "").await?;
        Ok(installation)
    }

    /// One that asks providers on loopback, and archives what is a moment old.
    pub(crate) async fn for_tests() -> anyhow::Result<Self> {
        Self::bare(false).await
    }

    async fn bare(production: bool) -> anyhow::Result<Self> {
        let place = tempfile::tempdir()?;
        Ok(Self {
            temporal: TemporalServer::start().await?,
            data: DataDir::at(place.path().join("data")),
            listen: TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?,
            production,
            _place: place,
        })
    }

    /// A path beside the data directory.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.data.path().with_file_name(name)
    }

    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.listen)
    }

    fn arguments(&self) -> Vec<OsString> {
        let [listen, temporal] = [self.listen.to_string(), self.temporal.address()];
        let data = self.data.path().as_os_str().to_owned();
        if !self.production {
            return vec!["test-server".into(), data, listen.into(), temporal.into()];
        }
        let mut arguments: Vec<OsString> = vec!["server".into(), "--single-operator".into()];
        arguments.extend(["--listen".into(), listen.into()]);
        arguments.extend(["--temporal-address".into(), temporal.into()]);
        arguments.extend(["--data-dir".into(), data]);
        arguments
    }

    /// Starts the control plane, and waits until it serves.
    pub(crate) async fn serve(&self) -> anyhow::Result<(Server, Client)> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.beside("server.log"))?;
        let process = Command::new(env!("CARGO_BIN_EXE_testkit-xylem"))
            .args(self.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let server = Server(process);
        let serving = || async {
            let key = read_secret(&self.data.admin_key())?;
            let control = Client::connect(&self.address(), &key).await?;
            control.list_trees(Default::default()).await?;
            Ok(control)
        };
        let control = eventually("the control plane serves", serving, |_| true).await?;
        Ok((server, control))
    }

    /// Its database, without the control plane.
    pub(crate) async fn database(&self) -> anyhow::Result<SqliteConnection> {
        let options = SqliteConnectOptions::new().filename(self.data.database());
        Ok(SqliteConnection::connect_with(&options).await?)
    }

    /// Has the control plane's database take for ever over a statement, in the middle of a transaction,
    /// such as `BEFORE INSERT ON versions WHEN new.version = 2`.
    pub(crate) async fn stick(&self, name: &str, at: &str) -> anyhow::Result<()> {
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
             SELECT count(*) FROM n";
        let trigger = format!("CREATE TRIGGER {name} {at} BEGIN SELECT ({endless}); END");
        self.change(trigger).await
    }

    pub(crate) async fn unstick(&self, name: &str) -> anyhow::Result<()> {
        self.change(format!("DROP TRIGGER {name}")).await
    }

    pub(crate) async fn change(&self, sql: String) -> anyhow::Result<()> {
        let mut database = self.database().await?;
        // What the test itself has put together.
        let sql = sqlx::AssertSqlSafe(sql);
        sqlx::query(sql).execute(&mut database).await?;
        Ok(database.close().await?)
    }

    pub(crate) async fn count(&self, sql: impl Into<String>) -> anyhow::Result<i64> {
        self.one(sql).await
    }

    /// The one value that a query answers with.
    pub(crate) async fn one<T>(&self, sql: impl Into<String>) -> anyhow::Result<T>
    where
        T: for<'r> Decode<'r, Sqlite> + Type<Sqlite> + Send + Unpin,
    {
        let mut database = self.database().await?;
        let sql = sqlx::AssertSqlSafe(sql.into());
        let value = sqlx::query_scalar(sql).fetch_one(&mut database).await?;
        database.close().await?;
        Ok(value)
    }
}

/// An installation with a worker and the tool `acme.status`.
pub(crate) struct Scene {
    pub(crate) installation: Installation,
    pub(crate) acme: acme_api::AcmeApi,
}

impl Scene {
    /// The lease of a call lasts the tool's timeout and 15 s more, if nobody releases it.
    pub(crate) async fn new(tool_timeout: Duration) -> anyhow::Result<(Self, Server, Client)> {
        Self::of(Installation::new().await?, tool_timeout).await
    }

    pub(crate) async fn of(
        installation: Installation,
        tool_timeout: Duration,
    ) -> anyhow::Result<(Self, Server, Client)> {
        let scene = Self {
            installation,
            acme: acme_api::AcmeApi::start((Ipv4Addr::LOCALHOST, 0).into()).await?,
        };
        let (server, control) = scene.serve().await?;
        let tool = v1::Tool {
            name: "acme.status".to_owned(),
            method: "GET".to_owned(),
            base_url: scene.acme.url(),
            path: "/v1/status".to_owned(),
            timeout: Some(seconds(tool_timeout)),
            ..v1::Tool::default()
        };
        let proposed = control.register_tool(tool).await?;
        control.approve_tool(&proposed).await?;
        control.create_policy(policy()).await?;
        scene.work(&control).await?;
        Ok((scene, server, control))
    }

    pub(crate) async fn serve(&self) -> anyhow::Result<(Server, Client)> {
        self.installation.serve().await
    }

    pub(crate) fn temporal(&self) -> &TemporalServer {
        &self.installation.temporal
    }

    /// Starts a worker, which ends with the test's runtime.
    async fn work(&self, control: &Client) -> anyhow::Result<()> {
        let agent: xylem_ids::AgentId = "acme-worker".parse()?;
        let create = v1::CreateAgentRequest {
            name: agent.to_string(),
            roles: vec![v1::Role::Worker.into()],
            kind: v1::AgentKind::Service.into(),
        };
        control.create_agent(create).await?;
        let queues = vec![QUEUE.parse()?];
        let (key, _) = control.create_api_key(NewKey::new(agent, queues)).await?;
        let temporal = TemporalOptions::at(self.temporal().address(), "default");
        let address = self.installation.address();
        let config = WorkerConfig {
            development: true,
            ..WorkerConfig::new(temporal, QUEUE.parse()?, address, key)
        };
        tokio::spawn(worker::run(config, test_workflows()?, Default::default()));
        Ok(())
    }

    /// Starts the tree `root` with a token of its own.
    pub(crate) async fn start(
        &self,
        control: &Client,
        workflow_type: &str,
        input: &impl serde::Serialize,
    ) -> anyhow::Result<()> {
        let token = InitialToken {
            slot: "default".parse()?,
            deposit: self.deposit(1)?,
        };
        let mut start = tree("root", workflow_type, input)?;
        start.tokens.push(token);
        control.start_tree(start).await?;
        Ok(())
    }

    /// A new token for a version; its request can be repeated.
    pub(crate) fn deposit(&self, version: u32) -> anyhow::Result<Deposit> {
        Ok(Deposit {
            token: SecretString::from(self.acme.issue(&version.to_string())),
            audiences: vec![self.acme.url().parse()?],
            ttl: None,
            allow_short: false,
            request_id: format!("version-{version}"),
        })
    }

    /// How many calls the API has counted under the label of a token.
    pub(crate) fn calls(&self, label: &str) -> u64 {
        self.acme.stats_of(label).calls
    }

    /// Waits until the API has counted so many more.
    pub(crate) async fn more_calls(&self, label: &str, more: u64) -> anyhow::Result<()> {
        let enough = self.calls(label) + more;
        let calls = || async { Ok(self.calls(label)) };
        let what = format!("{more} more calls with {label}");
        eventually(&what, calls, |calls| *calls >= enough).await?;
        Ok(())
    }

    /// Waits until a call of the root has been tried in vain.
    pub(crate) async fn a_call_waits(&self) -> anyhow::Result<()> {
        let describe = ["workflow", "describe", "-w", "root", "--output", "json"];
        let attempt = || async {
            let described: Value =
                serde_json::from_str(&self.temporal().run_cli(&describe).await?)?;
            let pending = &described["pendingActivities"][0];
            Ok(pending["attempt"].as_u64())
        };
        let again = |attempt: &Option<u64>| attempt.is_some_and(|attempt| attempt >= 2);
        eventually("a call is tried again", attempt, again).await?;
        Ok(())
    }

    /// How many calls the API has refused.
    pub(crate) fn refused(&self) -> u64 {
        self.acme.stats().iter().map(|stats| stats.refusals).sum()
    }
}

/// A tree with what is bound to its type.
pub(crate) fn tree(
    id: &str,
    workflow_type: &str,
    input: &impl serde::Serialize,
) -> anyhow::Result<StartTree> {
    Ok(StartTree {
        workflow_id: id.parse()?,
        workflow_type: workflow_type.parse()?,
        task_queue: QUEUE.parse()?,
        input_json: serde_json::to_string(input)?,
        tokens: Vec::new(),
        tools: vec!["acme.status".parse()?],
        intake: None,
        request_id: String::new(),
    })
}

fn policy() -> v1::Policy {
    v1::Policy {
        name: "trees-of-the-administrator".to_owned(),
        effect: "allow".to_owned(),
        who: Some(v1::PolicyWho {
            roles: vec!["admin".to_owned()],
            ..v1::PolicyWho::default()
        }),
        what: Some(v1::PolicyWhat {
            tools: vec!["acme.status".to_owned()],
            ..v1::PolicyWhat::default()
        }),
        actions: vec!["execute".to_owned()],
        ..v1::Policy::default()
    }
}

pub(crate) fn seconds(duration: Duration) -> xylem_client::Duration {
    xylem_client::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: 0,
    }
}
