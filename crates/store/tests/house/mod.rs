//! A vault, registry and audit log on a real database, and shorthands to use them.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "shared by test files that each use a part"
)]

use crate::database::{self, Burglar};
mod quiet;

use async_trait::async_trait;
use quiet::Quiet;
use secrecy::SecretString;
use sqlx::Connection;
use std::{
    collections::BTreeSet,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tempfile::TempDir;
use xylem_audit::{Activity, Filter, Finding, Intact, Log, Record, Verified};
use xylem_grant::VerifiedGrant;
use xylem_identity::{Identity, Secrets};
use xylem_ids::{
    AgentId, Audience, Namespace, Order, RunId, Slot, TaskQueue, ToolName, TreeId, WorkflowId,
};
use xylem_policy::{Action, Author, Document, Policies, What, Who};
use xylem_registry::{Act, Approver, Editor, KnownTool, Registry, Tool, Tools, WorkflowDefinition};
use xylem_seal::Sealed;
use xylem_store::Store;
use xylem_vault::{
    Audiences, CallEnd, ClaimCheck, ClaimError, ClaimRefusal, Claims, Clock, Deposit, Deposited,
    KeyRing, KeyRow, Lineage, NewTree, Purpose, Redeemed, Redemption, Refusal, Released, Room,
    StartId, Stopping, Target, Vault, VaultError, Worker,
};

pub const HOUR: Duration = Duration::from_secs(3600);
pub const V1: &str = "acme-token-one-0123456789abcdef";
pub const V2: &str = "acme-token-two-0123456789abcdef";
pub const V3: &str = "acme-token-three-0123456789abcdef";

/// Time stands still until a test moves it.
pub struct Still(AtomicU64);

impl Still {
    pub fn at(seconds: u64) -> Self {
        Self(AtomicU64::new(seconds))
    }

    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_secs(), Ordering::SeqCst);
    }

    pub fn set_back(&self, by: Duration) {
        self.0.fetch_sub(by.as_secs(), Ordering::SeqCst);
    }
}

impl Clock for Still {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

/// Answers what the test says Temporal would answer.
#[derive(Clone)]
pub enum Check {
    Confirms(Lineage),
    Refuses(ClaimRefusal),
    Silent,
}

#[async_trait]
impl ClaimCheck for Check {
    async fn confirm(&self, _: &Claims) -> Result<Lineage, ClaimError> {
        match self {
            Self::Confirms(lineage) => Ok(lineage.clone()),
            Self::Refuses(refusal) => Err((*refusal).into()),
            Self::Silent => Err(ClaimError::NotChecked("no answer".into())),
        }
    }
}

pub struct House {
    pub folder: TempDir,
    pub clock: Arc<Still>,
    pub store: Arc<Store>,
    pub vault: Arc<Vault>,
    pub policies: Arc<Policies>,
    pub registry: Registry,
    pub identity: Identity,
    pub tools: Tools,
    /// Whether tools are offered, which leaves entries in the log.
    offers: bool,
}

impl House {
    pub async fn new() -> Self {
        Self::in_folder(tempfile::tempdir().expect("a folder")).await
    }

    pub async fn in_folder(folder: TempDir) -> Self {
        let clock = Arc::new(Still::at(1_800_000_000));
        Self::open(folder, clock, true).await
    }

    /// Without tools, and so with an empty log.
    pub async fn bare() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let clock = Arc::new(Still::at(1_800_000_000));
        Self::open(folder, clock, false).await
    }

    async fn open(folder: TempDir, clock: Arc<Still>, offers: bool) -> Self {
        let (store, vault) = open(folder.path(), clock.clone()).await.expect("opens");
        let registry = Registry::new(store.clone());
        let key = vault.subkey(Room::Identity).expect("a key");
        let secrets = Secrets::new(&key).expect("secrets");
        let identity = Identity::new(store.clone(), secrets);
        let policies = Arc::new(policies(&store, &vault));
        let house = Self {
            folder,
            clock,
            tools: Tools::new(store.clone(), vault.tool_seal().expect("a seal")),
            store,
            vault,
            policies,
            registry,
            identity,
            offers,
        };
        house.furnish().await;
        house
    }

    /// The same files, opened anew as after a restart.
    pub async fn reopen(self) -> Self {
        let Self {
            folder,
            clock,
            store,
            vault,
            policies,
            registry,
            identity,
            tools,
            offers,
        } = self;
        store.close().await;
        drop((vault, policies, registry, identity, tools, store));
        Self::open(folder, clock, offers).await
    }

    /// Somebody's change of a tool, now.
    pub fn act<'a>(&self, namespace: &'a Namespace, by: &str) -> Act<'a> {
        let editor = Editor {
            agent: agent(by),
            of_all: false,
        };
        Act::new(namespace, editor, self.clock.now())
    }

    pub async fn propose(&self, tool: Tool) -> KnownTool {
        let namespace = namespace();
        let act = self.act(&namespace, "publisher");
        self.tools.register(&act, tool).await.expect("registers")
    }

    pub async fn approve(&self, known: &KnownTool) -> KnownTool {
        let namespace = namespace();
        let act = self.act(&namespace, "approver");
        let (name, hash) = (known.tool.name(), known.tool.hash());
        let approver = Approver::default();
        let approved = self
            .tools
            .approve(&act, name, known.version, hash, approver);
        approved.await.expect("approves")
    }

    async fn furnish(&self) {
        let who = Who {
            anyone: true,
            ..Who::default()
        };
        let what = What {
            all: true,
            ..What::default()
        };
        let name = "everybody".parse().unwrap();
        let document = Document::allow(name, who, what, [Action::Execute].into());
        let (everywhere, author) = (namespace(), self.author());
        let before = policies_on(Arc::new(Quiet(self.store.clone())), &self.vault);
        let created = before.create_first(&everywhere, &document, &author);
        created.await.expect("stored");
        let offered = [
            ("acme.deploy", "default"),
            ("acme.list", "default"),
            ("git.pull", "github"),
        ];
        for (name, slot) in offered.into_iter().filter(|_| self.offers) {
            self.approve(&self.propose(tool(name, slot)).await).await;
        }
        let definition = WorkflowDefinition {
            workflow_type: "Leaf".parse().unwrap(),
            slots: BTreeSet::from([slot("default"), slot("github")]),
            transit: BTreeSet::new(),
        };
        let transit = WorkflowDefinition {
            workflow_type: "Hub".parse().unwrap(),
            slots: BTreeSet::new(),
            transit: BTreeSet::from([slot("default")]),
        };
        // Without an entry: the log begins with what a test does.
        let (namespace, queue) = (namespace(), queue("trains"));
        let definitions = [definition, transit];
        let storage: &dyn xylem_registry::Storage = &*self.store;
        if storage
            .definitions(&namespace)
            .await
            .expect("definitions")
            .is_empty()
        {
            let stored = storage.put_definitions(&namespace, &queue, &definitions, &[]);
            stored.await.expect("registers");
        }
    }

    /// A connection beside the store: what somebody with the database could do.
    pub async fn burglar(&self) -> Burglar {
        database::burglar(self.folder.path()).await
    }

    /// Another vault on the same database, as of another process.
    pub async fn beside(&self) -> Arc<Vault> {
        self.opened_beside().await.1
    }

    pub async fn store_beside(&self) -> Arc<Store> {
        self.opened_beside().await.0
    }

    pub async fn opened_beside(&self) -> (Arc<Store>, Arc<Vault>) {
        let folder = self.folder.path();
        let checkpoints = folder.join("beside").join("checkpoints.jws");
        let opened = open_with(folder, self.clock.clone(), &checkpoints).await;
        opened.expect("opens")
    }

    /// From now on nothing can be inserted into the table.
    pub async fn jam(&self, table: &str) {
        self.edit(database::jam(table)).await;
    }

    pub async fn unjam(&self, table: &str) {
        self.edit(database::unjam(table)).await;
    }

    async fn edit(&self, statements: Vec<String>) {
        let mut burglar = self.burglar().await;
        for sql in statements {
            let done = sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut burglar);
            done.await.expect("edits");
        }
        burglar.close().await.expect("closes");
    }

    pub async fn tamper(&self, sql: &'static str) {
        let mut burglar = self.burglar().await;
        let done = sqlx::query(sql).execute(&mut burglar).await.expect("edits");
        assert!(done.rows_affected() > 0, "nothing was edited: {sql}");
        burglar.close().await.expect("closes");
    }

    /// A start that is not bound yet.
    pub async fn start(&self, workflow_id: &str) -> StartId {
        self.vault
            .open_tree(new_tree(workflow_id))
            .await
            .expect("opens")
    }

    /// A running tree without tokens.
    pub async fn tree(&self, workflow_id: &str) -> TreeId {
        let start = self.start(workflow_id).await;
        let run: RunId = format!("run-{workflow_id}").parse().unwrap();
        self.vault.bind(&start, run).await.expect("binds").tree
    }

    pub async fn deposit(&self, tree: &TreeId, token: &str, request: &str) -> Deposited {
        let deposit = deposit(Target::Tree(tree.clone()), token, request);
        self.vault.deposit(deposit).await.expect("deposits")
    }

    /// A running tree and the grant of its first token.
    pub async fn planted(&self, workflow_id: &str) -> (TreeId, VerifiedGrant) {
        let tree = self.tree(workflow_id).await;
        let deposited = self.deposit(&tree, V1, "d1").await;
        (tree, deposited.grant.expect("a grant"))
    }

    pub fn author(&self) -> Author {
        Author {
            agent: "policy-admin".parse().unwrap(),
            at: self.clock.now(),
            note: None,
        }
    }

    pub async fn redeem(&self, ask: Ask) -> Result<Redeemed, VaultError> {
        self.redeem_at(&self.vault, ask).await
    }

    /// At another instance's vault.
    pub async fn redeem_at(&self, vault: &Vault, ask: Ask) -> Result<Redeemed, VaultError> {
        let redeemed = vault.redeem(ask.redemption, &ask.check, &self.policies);
        redeemed.await
    }

    pub async fn release(&self, redeemed: &Redeemed, end: &CallEnd) -> Released {
        let released = self.vault.release(&redeemed.lease, &worker(), end).await;
        released.expect("releases")
    }

    pub async fn refused(&self, ask: Ask) -> Refusal {
        match self.redeem(ask).await {
            Err(VaultError::Refused(refusal)) => refusal,
            other => panic!("not refused: {other:?}"),
        }
    }

    pub async fn log(&self) -> Vec<Record> {
        let page = self.store.list(&Filter::default(), None, 500).await;
        page.expect("lists").records
    }

    /// The whole log checked: how it is, or the first thing that is not as it was written.
    pub async fn verified(&self) -> Result<Intact, Finding> {
        verified(&self.store).await
    }

    /// Everything that was written.
    pub async fn at_rest(&self) -> Vec<Vec<u8>> {
        let mut bytes = database::elsewhere(self.folder.path()).await;
        let files = self.files();
        bytes.extend(files.iter().map(|path| std::fs::read(path).expect("reads")));
        bytes
    }

    /// Every file that lies in its folder, and below.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut folders = vec![self.folder.path().to_owned()];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.push(path);
                }
            }
        }
        files
    }

    pub fn checkpoint_file(&self) -> PathBuf {
        checkpoint_file(self.folder.path())
    }

    /// The lines of the checkpoint file.
    pub fn checkpoints(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.checkpoint_file()).expect("a file");
        text.lines().map(str::to_owned).collect()
    }

    pub async fn last_entry(&self) -> xylem_audit::Entry {
        self.log().await.pop().expect("an entry").entry
    }

    pub async fn leases(&self) -> i64 {
        self.rows("leases").await
    }

    /// How many rows a table has, or a table and a condition.
    pub async fn rows(&self, of: &'static str) -> i64 {
        let mut burglar = self.burglar().await;
        let query = format!("SELECT COUNT(*) FROM {of}");
        sqlx::query_scalar(sqlx::AssertSqlSafe(query))
            .fetch_one(&mut burglar)
            .await
            .expect("counts")
    }
}

pub async fn verified(store: &Store) -> Result<Intact, Finding> {
    let verified = store.verify(&mut |_| ControlFlow::Continue(())).await;
    match verified.expect("the log is read") {
        Verified::Intact(intact) => Ok(intact),
        Verified::Broken(finding) => Err(finding),
        Verified::Stopped => panic!("nobody stopped it"),
    }
}

pub fn policies(store: &Arc<Store>, vault: &Vault) -> Policies {
    policies_on(store.clone(), vault)
}

fn policies_on(storage: Arc<dyn xylem_policy::Storage>, vault: &Vault) -> Policies {
    let key = |room| vault.subkey(room).expect("a key");
    let agents = Secrets::new(&key(Room::Identity)).expect("secrets");
    // The trees of the house are nobody's, where a test does not register their owner.
    let seals = key(Room::Policy).into_mac();
    Policies::new(storage, seals, agents, agent("service")).expect("policies")
}

pub fn checkpoint_file(folder: &Path) -> PathBuf {
    folder.join("audit").join("checkpoints.jws")
}

pub async fn open(
    folder: &Path,
    clock: Arc<dyn Clock>,
) -> Result<(Arc<Store>, Arc<Vault>), VaultError> {
    open_with(folder, clock, &checkpoint_file(folder)).await
}

pub async fn open_with(
    folder: &Path,
    clock: Arc<dyn Clock>,
    checkpoints: &Path,
) -> Result<(Arc<Store>, Arc<Vault>), VaultError> {
    let store = database::open(folder).await.expect("the database opens");
    let store = Arc::new(store);
    let keys = KeyRing::from_file_or_new(&folder.join("kek"))?;
    let vault = Vault::open(store.clone(), Arc::new(keys), clock.clone()).await?;
    let opened = store.open_log(vault.audit_keys(), clock, checkpoints);
    opened.await.expect("the log opens");
    Ok((store, Arc::new(vault)))
}

/// A redemption by a leaf of the tree, as a test may bend it.
#[derive(Clone)]
pub struct Ask {
    pub redemption: Redemption,
    pub check: Check,
}

impl Ask {
    pub fn new(tree: &TreeId, grant: &VerifiedGrant) -> Self {
        Self {
            redemption: Redemption {
                worker: worker(),
                claims: claims("leaf"),
                grant: grant.as_str().to_owned(),
                tool: "acme.deploy".parse().unwrap(),
                destination: "https://api.acme.example".parse().unwrap(),
                lease_for: Duration::from_secs(30),
                address: Some([10, 1, 2, 3].into()),
                parameters: None,
                request: None,
            },
            check: Check::Confirms(lineage(tree)),
        }
    }

    /// The same for a tool that takes no token of the tree.
    pub fn without_grant(tree: &TreeId) -> Self {
        Self {
            redemption: Redemption {
                worker: worker(),
                claims: claims("leaf"),
                grant: String::new(),
                tool: "acme.deploy".parse().unwrap(),
                destination: "https://api.acme.example".parse().unwrap(),
                lease_for: Duration::from_secs(30),
                address: None,
                parameters: None,
                request: None,
            },
            check: Check::Confirms(lineage(tree)),
        }
    }

    pub fn with(mut self, change: impl FnOnce(&mut Redemption)) -> Self {
        change(&mut self.redemption);
        self
    }

    pub fn standing(mut self, change: impl FnOnce(&mut Lineage)) -> Self {
        if let Check::Confirms(lineage) = &mut self.check {
            change(lineage);
        }
        self
    }

    pub fn checked(mut self, check: Check) -> Self {
        self.check = check;
        self
    }
}

pub fn namespace() -> Namespace {
    "default".parse().unwrap()
}

pub fn slot(text: &str) -> Slot {
    text.parse().unwrap()
}

pub fn queue(text: &str) -> TaskQueue {
    text.parse().unwrap()
}

pub fn agent(text: &str) -> AgentId {
    text.parse().unwrap()
}

pub fn workflow(text: &str) -> WorkflowId {
    text.parse().unwrap()
}

pub fn tools(names: &[&str]) -> BTreeSet<ToolName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

pub fn audiences(list: &[&str]) -> Audiences {
    let list: Vec<Audience> = list.iter().map(|text| text.parse().unwrap()).collect();
    Audiences::new(list).unwrap()
}

pub fn worker() -> Worker {
    Worker {
        agent: agent("worker"),
        queues: BTreeSet::from([queue("trains")]),
    }
}

pub fn claims(workflow_id: &str) -> Claims {
    Claims {
        namespace: namespace(),
        workflow_id: workflow(workflow_id),
        run_id: "run-leaf".parse().unwrap(),
        workflow_type: "Leaf".parse().unwrap(),
        task_queue: queue("trains"),
        activity: Activity::new("7", 1).unwrap(),
    }
}

pub fn lineage(tree: &TreeId) -> Lineage {
    Lineage {
        tree: tree.clone(),
        first_run_id: "run-leaf".parse().unwrap(),
        workflow_queue: queue("trains"),
        ancestors: vec![workflow("inner"), tree.workflow_id.clone()],
    }
}

pub fn stopping(tree: &TreeId) -> Stopping {
    Stopping {
        tree: tree.clone(),
        terminate: false,
        by: agent("operator"),
        note: None,
    }
}

pub fn new_tree(workflow_id: &str) -> NewTree {
    NewTree {
        namespace: namespace(),
        workflow_id: workflow(workflow_id),
        intake: false,
        tools: tools(&["acme.deploy", "git.pull"]),
        owner: agent("service"),
        request: format!("open-{workflow_id}").parse().unwrap(),
    }
}

pub fn deposit(target: Target, token: &str, request: &str) -> Deposit {
    Deposit {
        target,
        slot: Slot::default_slot(),
        token: SecretString::from(token),
        audiences: audiences(&["https://api.acme.example/v1"]),
        lifetime: 24 * HOUR,
        depositor: agent("operator"),
        request: request.parse().unwrap(),
        accept_short: false,
    }
}

pub fn tool(name: &str, slot: &str) -> Tool {
    let definition = serde_json::from_value(serde_json::json!({
        "name": name,
        "base_url": "https://api.acme.example/v1",
        "path": "/deploys",
        "method": "POST",
        "auth": {"type": "bearer"},
        "slot": slot,
        "parameters": {"type": "object", "properties": {"build": {"type": "integer"}}},
        "timeout_seconds": 10,
        "max_response_bytes": 65536,
    }));
    Tool::new(definition.unwrap()).unwrap()
}

/// A row that means nothing.
pub fn key_row(id: &str) -> KeyRow {
    KeyRow {
        id: id.parse().unwrap(),
        purpose: Purpose::Tree,
        generation: 0,
        wrapped_by: "nobody".parse().unwrap(),
        wrapped: Sealed {
            nonce: [0; 12],
            ciphertext: vec![0; 48],
        },
    }
}

pub fn version(order: Order) -> u32 {
    order.version.0
}
