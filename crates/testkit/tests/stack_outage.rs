//! The control plane goes away while a tree works: calls wait, nothing is lost, everything resumes.

use secrecy::SecretString;
use serde_json::{Value, json};
use std::{net::Ipv4Addr, time::Duration};
use temporalio_client::Client;
use xylem::{
    data::{DataDir, read_secret},
    server::{Server, ServerConfig},
    temporal::TemporalOptions,
    worker::{self, WorkerConfig},
};
use xylem_client::{Deposit, InitialToken, StartTree, v1};
use xylem_testkit::{
    Order, Orders, TemporalServer, eventually, eventually_within, json_payload, query, signal,
    test_workflows,
};

const QUEUE: &str = "xylem";

/// Beyond the half minute between two attempts of a call, and the minute between two sweeps, which
/// bring what a rotation that was cut short did not.
const PATIENCE: Duration = Duration::from_secs(150);

/// Temporal, a worker, and a control plane that can be stopped and started again on its data.
struct Scene {
    temporal: TemporalServer,
    client: Client,
    config: ServerConfig,
    acme: acme_api::AcmeApi,
    _place: tempfile::TempDir,
}

impl Scene {
    async fn new() -> anyhow::Result<(Self, Server)> {
        let temporal = TemporalServer::start().await?;
        let place = tempfile::tempdir()?;
        let options = TemporalOptions::at(temporal.address(), "default");
        let data = DataDir::at(place.path().join("data"));
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let mut config = ServerConfig {
            development: true,
            single_operator: true,
            listen: vec![any],
            sweep_after_rotation: Some(Duration::from_secs(2)),
            ..ServerConfig::new(data, options.clone())
        };
        let server = Server::start(config.clone()).await?;
        config.listen = vec![server.address().trim_start_matches("http://").parse()?];
        let queue: xylem_ids::TaskQueue = QUEUE.parse()?;
        let key = server.worker_key(std::slice::from_ref(&queue)).await?;
        let worker = WorkerConfig {
            development: true,
            ..WorkerConfig::new(options, queue, server.address(), key)
        };
        // It ends with the test's runtime.
        tokio::spawn(worker::run(worker, test_workflows()?, Default::default()));
        let scene = Self {
            client: temporal.client(),
            temporal,
            config,
            acme: acme_api::AcmeApi::start(any).await?,
            _place: place,
        };
        Ok((scene, server))
    }

    /// Starts the control plane again, as soon as its port is free.
    async fn restart(&self) -> anyhow::Result<Server> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            match Server::start(self.config.clone()).await {
                Ok(server) => return Ok(server),
                Err(error) if tokio::time::Instant::now() > deadline => return Err(error.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn control(&self, server: &Server) -> anyhow::Result<xylem_client::Client> {
        let key = read_secret(&self.config.data.admin_key())?;
        Ok(xylem_client::Client::connect(&server.address(), &key).await?)
    }

    fn deposit(&self, label: &str) -> anyhow::Result<Deposit> {
        Ok(Deposit {
            token: SecretString::from(self.acme.issue(label)),
            audiences: vec![self.acme.url().parse()?],
            ttl: None,
            allow_short: false,
            request_id: label.to_owned(),
        })
    }

    async fn call(&self) -> anyhow::Result<()> {
        let order = Order::Call {
            tool: "acme.status".to_owned(),
            slot: "default".to_owned(),
            parameters: json!({}),
        };
        signal(&self.client, "root", "order", vec![json_payload(&order)]).await
    }

    async fn answered(&self, calls: usize) -> anyhow::Result<Vec<Value>> {
        let answers = || async {
            let answers = query(&self.client, "root", "answers").await?;
            Ok(answers.as_array().cloned().unwrap_or_default())
        };
        let what = format!("{calls} calls are answered");
        let all = |answers: &Vec<_>| answers.len() >= calls;
        eventually_within(PATIENCE, &what, answers, all).await
    }

    /// Waits until the pending call has been tried so often.
    async fn attempts(&self, count: u64) -> anyhow::Result<()> {
        let describe = ["workflow", "describe", "-w", "root", "--output", "json"];
        let attempt = || async {
            let described: Value = serde_json::from_str(&self.temporal.run_cli(&describe).await?)?;
            Ok(described["pendingActivities"][0]["attempt"]
                .as_u64()
                .unwrap_or(0))
        };
        eventually("the call is tried again", attempt, |attempt| {
            *attempt >= count
        })
        .await?;
        Ok(())
    }
}

#[tokio::test]
async fn calls_wait_for_the_control_plane_and_no_rotation_is_lost() -> anyhow::Result<()> {
    let (scene, server) = Scene::new().await?;
    let control = scene.control(&server).await?;
    let tool = v1::Tool {
        name: "acme.status".to_owned(),
        method: "GET".to_owned(),
        base_url: scene.acme.url(),
        path: "/v1/status".to_owned(),
        ..v1::Tool::default()
    };
    let proposed = control.register_tool(tool).await?;
    control.approve_tool(&proposed).await?;
    let orders = vec![Order::Grow {
        name: "a".to_owned(),
        orders: Vec::new(),
        selection: Default::default(),
    }];
    let start = StartTree {
        workflow_id: "root".parse()?,
        workflow_type: "Walker".parse()?,
        task_queue: QUEUE.parse()?,
        input_json: serde_json::to_string(&Orders {
            orders: orders.into(),
        })?,
        tokens: vec![InitialToken {
            slot: "default".parse()?,
            deposit: scene.deposit("v1")?,
        }],
        tools: vec!["acme.status".parse()?],
        intake: Some(false),
        request_id: String::new(),
    };
    control.start_tree(start).await?;
    scene.call().await?;
    scene.answered(1).await?;

    server.stop().await;
    scene.call().await?;
    scene.attempts(2).await?;
    let server = scene.restart().await?;
    let answers = scene.answered(2).await?;
    assert_eq!(answers[1]["order"]["version"], json!(1), "{answers:?}");

    // It goes away in the middle of a rotation. Whoever asked asks again and gets the same version.
    let control = scene.control(&server).await?;
    let (tree, slot) = ("root".parse()?, "default".parse()?);
    let asked = scene.deposit("v2")?;
    let again = Deposit {
        token: asked.token.clone(),
        audiences: asked.audiences.clone(),
        request_id: asked.request_id.clone(),
        ..asked
    };
    let rotating = control.rotate_token(&tree, &slot, asked);
    let dying = async {
        tokio::task::yield_now().await;
        drop(server);
    };
    let (_, ()) = tokio::join!(rotating, dying);
    let server = scene.restart().await?;
    let control = scene.control(&server).await?;
    control.rotate_token(&tree, &slot, again).await?;
    let versions = control.token_status(&tree, Some(&slot)).await?;
    assert_eq!(versions.len(), 2, "{versions:?}");
    for id in ["root", "root/a"] {
        let held = || async {
            let status = query(&scene.client, id, "apiToken").await?;
            Ok(status["slots"]["default"]["version"].clone())
        };
        let is_newest = |version: &Value| *version == json!(2);
        eventually_within(PATIENCE, "it holds version 2", held, is_newest).await?;
    }
    scene.call().await?;
    let answers = scene.answered(3).await?;
    assert_eq!(answers[2]["order"]["version"], json!(2), "{answers:?}");
    let failed: Vec<_> = answers
        .iter()
        .filter(|answer| answer["error"].is_string())
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    server.stop().await;
    Ok(())
}
