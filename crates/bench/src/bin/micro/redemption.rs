//! Redemption from SQLite: one transaction that checks, opens the lease and writes the audit entry.

use crate::pending;
use anyhow::Result;
use async_trait::async_trait;
use secrecy::SecretString;
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tempfile::TempDir;
use xylem_audit::{Entry, Kind, Verdict};
use xylem_bench::Timing;
use xylem_control::{ClaimChecker, temporal::Cluster};
use xylem_identity::Secrets;
use xylem_ids::{AgentId, Namespace, Slot, TaskQueue, ToolName, TreeId};
use xylem_policy::{Action, Author, Document, Policies, What, Who};
use xylem_registry::{Act, Approver, Editor, Registry, Tool, Tools, WorkflowDefinition};
use xylem_store::Store;
use xylem_testkit::TemporalServer;
use xylem_vault::{
    Audiences, CallEnd, ClaimCheck, ClaimError, Claims, Deposit, KeyRing, Lineage, NewTree,
    Redemption, Room, SystemClock, Target, Vault, Worker,
};

/// Redemptions per figure.
const REDEMPTIONS: usize = 1_000;

pub(crate) async fn timings() -> Result<Vec<Timing>> {
    let server = TemporalServer::start().await?;
    let client = server.client();
    let claims = pending::start(&client, "leaf").await?;
    let house = House::new(&claims).await?;
    let cluster = Arc::new(Cluster::new(client));
    let stub = Confirms(house.lineage.clone());
    let (stubbed, released) = house.redeem(|| &stub).await?;
    let remembered = ClaimChecker::new(cluster.clone());
    let (within_5_s, _) = house.redeem(|| &remembered).await?;
    let mut asked = Vec::new();
    for _ in 0..REDEMPTIONS {
        let fresh = ClaimChecker::new(cluster.clone());
        asked.push(house.redeem_once(&fresh).await?.0);
    }
    Ok(vec![
        Timing::of_each("redeem, claims not checked (stub)", &stubbed),
        Timing::of_each("redeem, claims confirmed less than 5 s ago", &within_5_s),
        Timing::of_each("redeem, Temporal asked about the claims", &asked),
        Timing::of_each("release a lease", &released),
    ])
}

/// Confirms everything.
struct Confirms(Lineage);

#[async_trait]
impl ClaimCheck for Confirms {
    async fn confirm(&self, _: &Claims) -> Result<Lineage, ClaimError> {
        Ok(self.0.clone())
    }
}

/// A vault on a database file with one tree, whose root is running an activity.
struct House {
    vault: Vault,
    policies: Policies,
    redemption: Redemption,
    lineage: Lineage,
    _folder: TempDir,
}

impl House {
    async fn new(claims: &Claims) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let store = Arc::new(Store::sqlite(&folder.path().join("xylem.db")).await?);
        let keys = Arc::new(KeyRing::from_file_or_new(&folder.path().join("kek"))?);
        let vault = Vault::open(store.clone(), keys, Arc::new(SystemClock)).await?;
        let checkpoints = folder.path().join("checkpoints.jws");
        let log_keys = vault.audit_keys();
        store
            .open_log(log_keys, Arc::new(SystemClock), &checkpoints)
            .await?;
        let policies = policies(&store, &vault, &claims.namespace).await?;
        let tools = Tools::new(store.clone(), vault.tool_seal()?);
        let registry = Registry::new(store);
        let tool = tool()?;
        furnish(&registry, &claims.namespace).await?;
        offer(&tools, &claims.namespace, &tool).await?;
        let tree = plant(&vault, claims, tool.name()).await?;
        let grant = vault.deposit(deposit(&tree)?).await?.grant;
        let lineage = Lineage {
            tree,
            first_run_id: claims.run_id.clone(),
            workflow_queue: claims.task_queue.clone(),
            ancestors: Vec::new(),
        };
        let redemption = Redemption {
            worker: worker()?,
            claims: claims.clone(),
            grant: grant
                .map(|grant| grant.as_str().to_owned())
                .unwrap_or_default(),
            tool: tool.name().clone(),
            destination: tool.destination(None)?,
            lease_for: Duration::from_secs(30),
            address: None,
            parameters: None,
            request: None,
        };
        Ok(Self {
            vault,
            policies,
            redemption,
            lineage,
            _folder: folder,
        })
    }

    /// Redeems and releases again and again: how long each took.
    async fn redeem<'a>(
        &self,
        check: impl Fn() -> &'a dyn ClaimCheck,
    ) -> Result<(Vec<Duration>, Vec<Duration>)> {
        let (mut redeemed, mut released) = (Vec::new(), Vec::new());
        for _ in 0..REDEMPTIONS {
            let (redeeming, releasing) = self.redeem_once(check()).await?;
            redeemed.push(redeeming);
            released.push(releasing);
        }
        Ok((redeemed, released))
    }

    async fn redeem_once(&self, check: &dyn ClaimCheck) -> Result<(Duration, Duration)> {
        let redemption = self.redemption.clone();
        let begin = Instant::now();
        let redeemed = self.vault.redeem(redemption, check, &self.policies).await?;
        let redeeming = begin.elapsed();
        let end = CallEnd {
            succeeded: true,
            reason: None,
            status: Some(200),
            duration: Duration::from_millis(10),
            undone: false,
            bytes_out: 512,
            bytes_in: 2048,
        };
        let begin = Instant::now();
        let worker = &self.redemption.worker;
        self.vault.release(&redeemed.lease, worker, &end).await?;
        Ok((redeeming, begin.elapsed()))
    }
}

/// One policy: what a decision takes is told apart.
async fn policies(store: &Arc<Store>, vault: &Vault, namespace: &Namespace) -> Result<Policies> {
    let seals = vault.subkey(Room::Policy)?.into_mac();
    let agents = Secrets::new(&vault.subkey(Room::Identity)?)?;
    let policies = Policies::new(store.clone(), seals, agents, agent()?)?;
    let who = Who {
        anyone: true,
        ..Who::default()
    };
    let what = What {
        all: true,
        ..What::default()
    };
    let document = Document::allow("everybody".parse()?, who, what, [Action::Execute].into());
    let author = Author {
        agent: agent()?,
        at: SystemTime::now(),
        note: None,
    };
    policies.create_first(namespace, &document, &author).await?;
    Ok(policies)
}

/// Registers the tool and approves it.
async fn offer(tools: &Tools, namespace: &Namespace, tool: &Tool) -> Result<()> {
    let editor = Editor {
        agent: agent()?,
        of_all: false,
    };
    let act = Act::new(namespace, editor, SystemTime::now());
    let known = tools.register(&act, tool.clone()).await?;
    let approver = Approver {
        single_operator: true,
        ..Approver::default()
    };
    tools
        .approve(&act, tool.name(), known.version, tool.hash(), approver)
        .await?;
    Ok(())
}

async fn furnish(registry: &Registry, namespace: &Namespace) -> Result<()> {
    let definition = WorkflowDefinition {
        workflow_type: pending::TYPE.parse()?,
        slots: BTreeSet::from([Slot::default_slot()]),
        transit: BTreeSet::new(),
    };
    let queue: TaskQueue = pending::QUEUE.parse()?;
    let kind = Kind::DefinitionsRegistered;
    let entry = Entry::new(SystemTime::now(), kind, Verdict::Succeeded);
    registry
        .register_definitions(namespace, &queue, &[definition], entry)
        .await?;
    Ok(())
}

async fn plant(vault: &Vault, claims: &Claims, tool: &ToolName) -> Result<TreeId> {
    let start = vault
        .open_tree(NewTree {
            namespace: claims.namespace.clone(),
            workflow_id: claims.workflow_id.clone(),
            intake: false,
            tools: BTreeSet::from([tool.clone()]),
            owner: agent()?,
            request: "open".parse()?,
        })
        .await?;
    Ok(vault.bind(&start, claims.run_id.clone()).await?.tree)
}

fn agent() -> Result<AgentId> {
    Ok("bench".parse()?)
}

fn worker() -> Result<Worker> {
    Ok(Worker {
        agent: agent()?,
        queues: BTreeSet::from([pending::QUEUE.parse()?]),
    })
}

fn deposit(tree: &TreeId) -> Result<Deposit> {
    Ok(Deposit {
        target: Target::Tree(tree.clone()),
        slot: Slot::default_slot(),
        token: SecretString::from("bench-token-0123456789abcdef"),
        audiences: Audiences::new(vec!["https://api.acme.example/v1".parse()?])?,
        lifetime: Duration::from_secs(24 * 3600),
        depositor: agent()?,
        request: "deposit".parse()?,
        accept_short: false,
    })
}

fn tool() -> Result<Tool> {
    let definition = serde_json::from_value(serde_json::json!({
        "name": "acme.deploy",
        "base_url": "https://api.acme.example/v1",
        "path": "/deploys",
        "method": "POST",
        "auth": {"type": "bearer"},
        "slot": "default",
        "parameters": {"type": "object", "properties": {"build": {"type": "integer"}}},
        "timeout_seconds": 10,
        "max_response_bytes": 65536,
    }))?;
    Ok(Tool::new(definition)?)
}
