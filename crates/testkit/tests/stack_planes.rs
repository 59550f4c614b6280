//! Two control planes on one PostgreSQL database: what one of them did counts for the other.

use futures::StreamExt;
use secrecy::SecretString;
use serde_json::{Value, json};
use std::{net::Ipv4Addr, path::Path, time::Duration};
use temporalio_client::Client;
use xylem::{
    data::{DataDir, read_secret},
    server::{Database, Server, ServerConfig},
    temporal::TemporalOptions,
    worker::{self, WorkerConfig},
};
use xylem_client::{Deposit, InitialToken, StartTree, v1};
use xylem_testdb::Server as PostgresServer;
use xylem_testkit::{
    Order, Orders, TemporalServer, eventually, json_payload, query, signal, test_workflows,
};

const QUEUE: &str = "xylem";

/// Two control planes with the same keys, of which the first has a worker.
struct Planes {
    one: Server,
    two: Server,
    data: DataDir,
    acme: acme_api::AcmeApi,
    temporal: Client,
}

impl Planes {
    async fn start(temporal: &TemporalServer, place: &Path) -> anyhow::Result<Self> {
        let url = PostgresServer::shared(env!("CARGO_TARGET_TMPDIR")).database();
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let options = TemporalOptions::at(temporal.address(), "default");
        let data = DataDir::at(place.join("data"));
        let config = ServerConfig {
            development: true,
            single_operator: true,
            database: Database::Postgres(Box::new(url.parse()?)),
            listen: vec![any],
            sweep_after_rotation: Some(Duration::from_secs(2)),
            ..ServerConfig::new(data.clone(), options.clone())
        };
        let one = Server::start(config.clone()).await?;
        let two = Server::start(ServerConfig {
            audit_checkpoints: Some(place.join("two").join("checkpoints.jws")),
            ..config
        })
        .await?;
        let queue: xylem_ids::TaskQueue = QUEUE.parse()?;
        let key = one.worker_key(std::slice::from_ref(&queue)).await?;
        let worker = WorkerConfig {
            development: true,
            ..WorkerConfig::new(options, queue, one.address(), key)
        };
        // It ends with the test's runtime.
        tokio::spawn(worker::run(worker, test_workflows()?, Default::default()));
        Ok(Self {
            one,
            two,
            data,
            acme: acme_api::AcmeApi::start(any).await?,
            temporal: temporal.client(),
        })
    }

    async fn client(&self, of: &Server) -> anyhow::Result<xylem_client::Client> {
        let key = read_secret(&self.data.admin_key())?;
        Ok(xylem_client::Client::connect(&of.address(), &key).await?)
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

    fn tree(&self) -> anyhow::Result<StartTree> {
        Ok(StartTree {
            workflow_id: "root".parse()?,
            workflow_type: "Walker".parse()?,
            task_queue: QUEUE.parse()?,
            input_json: serde_json::to_string(&Orders {
                orders: Vec::new().into(),
            })?,
            tokens: vec![InitialToken {
                slot: "default".parse()?,
                deposit: self.deposit("v1")?,
            }],
            tools: vec!["acme.status".parse()?],
            intake: Some(false),
            request_id: String::new(),
        })
    }

    fn tool(&self) -> v1::Tool {
        v1::Tool {
            name: "acme.status".to_owned(),
            method: "GET".to_owned(),
            base_url: self.acme.url(),
            path: "/v1/status".to_owned(),
            ..v1::Tool::default()
        }
    }

    /// Has the root call the tool, and answers which version each call so far was made with.
    async fn call(&self, calls: usize) -> anyhow::Result<Vec<Value>> {
        let order = Order::Call {
            tool: "acme.status".to_owned(),
            slot: "default".to_owned(),
            parameters: json!({}),
        };
        signal(&self.temporal, "root", "order", vec![json_payload(&order)]).await?;
        let answers = || async {
            let answers = query(&self.temporal, "root", "answers").await?;
            Ok(answers.as_array().cloned().unwrap_or_default())
        };
        let all = |answers: &Vec<_>| answers.len() >= calls;
        let answers = eventually("the call is answered", answers, all).await?;
        let versions = answers
            .iter()
            .map(|answer| answer["order"]["version"].clone());
        Ok(versions.collect())
    }
}

/// How many entries the log has, all of them as they were written.
async fn verified(control: &xylem_client::Client) -> anyhow::Result<u32> {
    let mut found = std::pin::pin!(control.verify_audit().await?);
    let mut result = None;
    while let Some(progress) = found.next().await {
        result = progress?.result.or(result);
    }
    let result = result.ok_or_else(|| anyhow::anyhow!("nothing was found"))?;
    assert!(result.intact, "{:?}", result.finding);
    Ok(result.entries)
}

#[tokio::test]
async fn a_tree_is_served_by_whichever_control_plane_is_asked() -> anyhow::Result<()> {
    let temporal = TemporalServer::start().await?;
    let place = tempfile::tempdir()?;
    let planes = Planes::start(&temporal, place.path()).await?;
    let (one, two) = (
        planes.client(&planes.one).await?,
        planes.client(&planes.two).await?,
    );

    let proposed = one.register_tool(planes.tool()).await?;
    two.approve_tool(&proposed).await?;
    two.start_tree(planes.tree()?).await?;
    assert_eq!(planes.call(1).await?, [1]);

    let (tree, slot) = ("root".parse()?, "default".parse()?);
    two.rotate_token(&tree, &slot, planes.deposit("v2")?)
        .await?;
    let held = || async {
        let status = query(&planes.temporal, "root", "apiToken").await?;
        Ok(status["slots"]["default"]["version"].clone())
    };
    eventually("it holds version 2", held, |version| *version == json!(2)).await?;
    assert_eq!(planes.call(2).await?, [1, 2]);

    let revoke = v1::RevokeTokenRequest {
        tree: tree.to_string(),
        slot: slot.to_string(),
        version: 1,
        ..v1::RevokeTokenRequest::default()
    };
    one.revoke_token(revoke).await?;
    let versions = two.token_status(&tree, Some(&slot)).await?;
    assert_eq!(versions.len(), 2, "{versions:?}");
    assert!(verified(&one).await? <= verified(&two).await?);

    planes.one.stop().await;
    assert!(verified(&two).await? > 0);
    planes.two.stop().await;
    Ok(())
}
