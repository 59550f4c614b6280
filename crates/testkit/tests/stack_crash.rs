//! `xylem server`, killed while a tree works and started again on its data: nothing that it
//! acknowledged is lost, and what waited for it succeeds.

use secrecy::SecretString;
use serde_json::{Value, json};
use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    time::Duration,
};
use xylem::{
    data::{DataDir, read_secret},
    temporal::TemporalOptions,
    worker::{self, WorkerConfig},
};
use xylem_client::{Client, Deposit, Error, InitialToken, NewKey, StartTree, v1};
use xylem_ids::Slot;
use xylem_testkit::{
    Order, Orders, TemporalServer, branch, eventually, json_payload, query, signal, test_workflows,
    working,
};

const QUEUE: &str = "xylem";

/// How long after a rotation was asked for the control plane is killed, in milliseconds: from
/// before it has read the request until after it has answered.
const MOMENTS: [u64; 6] = [0, 3, 6, 12, 25, 100];

/// The control plane's process. Dropping it kills it.
struct Server(Child);

impl Drop for Server {
    /// `kill -9`.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything but the control plane, and the data that one leaves to the next.
struct Scene {
    temporal: TemporalServer,
    acme: acme_api::AcmeApi,
    data: DataDir,
    listen: SocketAddr,
    _place: tempfile::TempDir,
}

impl Scene {
    /// An installation with a worker and the tool `acme.status`. The lease of a call lasts the
    /// tool's timeout and 15 s more, if nobody releases it.
    async fn new(tool_timeout: Duration) -> anyhow::Result<(Self, Server, Client)> {
        let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        let place = tempfile::tempdir()?;
        let data = DataDir::at(place.path().join("data"));
        xylem::server::init(&data, &Default::default(), "default".parse()?, "").await?;
        let scene = Self {
            temporal: TemporalServer::start().await?,
            acme: acme_api::AcmeApi::start(any).await?,
            data,
            listen: TcpListener::bind(any)?.local_addr()?,
            _place: place,
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
        let policy = v1::Policy {
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
        };
        control.create_policy(policy).await?;
        scene.work(&control).await?;
        Ok((scene, server, control))
    }

    /// Starts the control plane, and waits until it serves.
    async fn serve(&self) -> anyhow::Result<(Server, Client)> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.data.path().join("server.log"))?;
        let process = Command::new(env!("CARGO_BIN_EXE_testkit-xylem"))
            .arg("server")
            .arg("--single-operator")
            .args(["--listen", &self.listen.to_string()])
            .args(["--temporal-address", &self.temporal.address()])
            .arg("--data-dir")
            .arg(self.data.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let server = Server(process);
        let address = format!("http://{}", self.listen);
        let key = read_secret(&self.data.admin_key())?;
        let serving = || async {
            let control = Client::connect(&address, &key).await?;
            control.list_trees(Default::default()).await?;
            Ok(control)
        };
        let control = eventually("the control plane serves", serving, |_| true).await?;
        Ok((server, control))
    }

    /// Starts a worker, which ends with the test's runtime.
    async fn work(&self, control: &Client) -> anyhow::Result<()> {
        let agent: xylem_ids::AgentId = "worker".parse()?;
        let create = v1::CreateAgentRequest {
            name: agent.to_string(),
            roles: vec![v1::Role::Worker.into()],
            kind: v1::AgentKind::Service.into(),
        };
        control.create_agent(create).await?;
        let queues = vec![QUEUE.parse()?];
        let (key, _) = control.create_api_key(NewKey::new(agent, queues)).await?;
        let temporal = TemporalOptions::at(self.temporal.address(), "default");
        let address = format!("http://{}", self.listen);
        let config = WorkerConfig {
            development: true,
            ..WorkerConfig::new(temporal, QUEUE.parse()?, address, key)
        };
        tokio::spawn(worker::run(config, test_workflows()?, Default::default()));
        Ok(())
    }

    async fn start(
        &self,
        control: &Client,
        workflow_type: &str,
        input: &impl serde::Serialize,
    ) -> anyhow::Result<()> {
        let token = InitialToken {
            slot: "default".parse()?,
            deposit: self.deposit(1)?,
        };
        let start = StartTree {
            workflow_id: "root".parse()?,
            workflow_type: workflow_type.parse()?,
            task_queue: QUEUE.parse()?,
            input_json: serde_json::to_string(input)?,
            tokens: vec![token],
            tools: vec!["acme.status".parse()?],
            intake: None,
            request_id: String::new(),
        };
        control.start_tree(start).await?;
        Ok(())
    }

    /// A new token for a version; its request can be repeated.
    fn deposit(&self, version: u32) -> anyhow::Result<Deposit> {
        Ok(Deposit {
            token: SecretString::from(self.acme.issue(&version.to_string())),
            audiences: vec![self.acme.url().parse()?],
            ttl: None,
            allow_short: false,
            request_id: format!("version-{version}"),
        })
    }

    fn calls(&self, version: u32) -> u64 {
        self.acme.stats_of(&version.to_string()).calls
    }

    /// Waits until the API has counted so many more calls under a version.
    async fn more_calls(&self, version: u32, more: u64) -> anyhow::Result<()> {
        let enough = self.calls(version) + more;
        let calls = || async { Ok(self.calls(version)) };
        let what = format!("{more} more calls under version {version}");
        eventually(&what, calls, |calls| *calls >= enough).await?;
        Ok(())
    }

    /// Waits until a call of the root has been tried in vain.
    async fn a_call_waits(&self) -> anyhow::Result<()> {
        let describe = ["workflow", "describe", "-w", "root", "--output", "json"];
        let attempt = || async {
            let described: Value = serde_json::from_str(&self.temporal.run_cli(&describe).await?)?;
            let pending = &described["pendingActivities"][0];
            Ok(pending["attempt"].as_u64())
        };
        let again = |attempt: &Option<u64>| attempt.is_some_and(|attempt| attempt >= 2);
        eventually("a call is tried again", attempt, again).await?;
        Ok(())
    }
}

fn seconds(duration: Duration) -> xylem_client::Duration {
    xylem_client::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: 0,
    }
}

async fn rotate(control: &Client, deposit: Deposit) -> Result<u32, Error> {
    let tree = "root".parse().expect("a workflow id");
    let slot = Slot::default_slot();
    let changed = control.rotate_token(&tree, &slot, deposit).await?;
    Ok(changed.version.as_ref().map_or(0, version_of))
}

fn version_of(version: &v1::TokenVersion) -> u32 {
    version.order.as_ref().map_or(0, |order| order.version)
}

async fn versions(control: &Client) -> anyhow::Result<Vec<v1::TokenVersion>> {
    Ok(control.token_status(&"root".parse()?, None).await?)
}

async fn revoke(control: &Client, version: u32, patience: Duration) -> Result<(), Error> {
    let request = v1::RevokeTokenRequest {
        tree: "root".to_owned(),
        slot: "default".to_owned(),
        version,
        wait: Some(seconds(patience)),
        ..v1::RevokeTokenRequest::default()
    };
    control.revoke_token(request).await?;
    Ok(())
}

#[tokio::test]
async fn a_control_plane_killed_in_the_middle_of_rotations_loses_nothing() -> anyhow::Result<()> {
    let timeout = Duration::from_secs(5);
    let (scene, mut server, mut control) = Scene::new(timeout).await?;
    let below = vec![branch("b", Vec::new())];
    let input = working(vec![branch("a", below), branch("c", Vec::new())]);
    scene.start(&control, "ToolTree", &input).await?;
    scene.more_calls(1, 8).await?;

    let mut unanswered = 0;
    let mut newest = 1;
    for moment in MOMENTS {
        newest += 1;
        let asked = scene.deposit(newest)?;
        let again = Deposit {
            token: asked.token.clone(),
            audiences: asked.audiences.clone(),
            request_id: asked.request_id.clone(),
            ..asked
        };
        let rotating = tokio::spawn(async move { rotate(&control, asked).await });
        // The moment is what is tried; nothing is waited for.
        tokio::time::sleep(Duration::from_millis(moment)).await;
        drop(server);
        let answered = rotating.await?;
        scene.a_call_waits().await?;

        (server, control) = scene.serve().await?;
        match answered {
            Ok(version) => {
                assert_eq!(version, newest);
                let known = versions(&control).await?;
                assert_eq!(version_of(&known[0]), newest, "{known:?}");
            }
            Err(_) => unanswered += 1,
        }
        assert_eq!(rotate(&control, again).await?, newest);
        let known = versions(&control).await?;
        let numbers: Vec<_> = known.iter().map(version_of).collect();
        assert_eq!(numbers, (1..=newest).rev().collect::<Vec<_>>());
        scene.more_calls(newest, 8).await?;
    }
    assert!(unanswered > 0, "no rotation was interrupted");

    let get = || v1::GetTreeRequest {
        tree: "root".to_owned(),
        ..v1::GetTreeRequest::default()
    };
    let view = || async { Ok(control.get_tree(get()).await?) };
    let converged = |view: &v1::TreeView| {
        let held = view.nodes.iter().flat_map(|node| &node.slots);
        let mut orders = held.map(|slot| slot.order.as_ref());
        let all = orders.all(|order| order.is_some_and(|order| order.version == newest));
        view.converged && view.current == 4 && all
    };
    eventually("the tree converges", view, converged).await?;
    // Some calls have lost the control plane between token and release: their leases end.
    for version in 1..newest {
        revoke(&control, version, Duration::from_secs(60)).await?;
        assert!(scene.acme.revoke(&version.to_string()));
    }
    scene.more_calls(newest, 8).await?;
    let stats = scene.acme.stats();
    let refused: u64 = stats.iter().map(|stats| stats.refusals).sum();
    assert_eq!(refused, 0, "{stats:?}");
    drop(server);
    Ok(())
}

#[tokio::test]
async fn a_lease_that_could_not_be_released_does_not_block_a_revoke_for_ever() -> anyhow::Result<()>
{
    // The lease has to be open still when the control plane is back and the root has rotated.
    let timeout = Duration::from_secs(30);
    let (scene, server, control) = Scene::new(timeout).await?;
    scene.start(&control, "Walker", &Orders::default()).await?;
    let slow = acme_api::Behaviour::Slow { ms: 2_000 };
    scene.acme.behave_times(None, slow, 1);
    let call = Order::Call {
        tool: "acme.status".to_owned(),
        slot: "default".to_owned(),
        parameters: json!({}),
    };
    let client = scene.temporal.client();
    signal(&client, "root", "order", vec![json_payload(&call)]).await?;
    let begun = || async { Ok(scene.calls(1)) };
    eventually("the call is under way", begun, |calls| *calls == 1).await?;

    drop(server);
    let answers = || query(&client, "root", "answers");
    let answered = |answers: &Value| answers[0].is_object();
    let answers = eventually("the call has ended", answers, answered).await?;
    assert_eq!(answers[0]["order"]["version"], json!(1), "{answers}");

    let (server, control) = scene.serve().await?;
    let versions = versions(&control).await?;
    assert_eq!(versions[0].open_leases, 1, "{versions:?}");
    assert_eq!(rotate(&control, scene.deposit(2)?).await?, 2);
    let held = || query(&client, "root", "apiToken");
    let current = |status: &Value| status["slots"]["default"]["version"] == json!(2);
    eventually("the root holds version 2", held, current).await?;
    let refused = revoke(&control, 1, Duration::ZERO).await;
    let error = refused.expect_err("a lease is open");
    assert_eq!(error.reason(), Some("leases_open"), "{error}");
    revoke(&control, 1, Duration::from_secs(60)).await?;
    drop(server);
    Ok(())
}
