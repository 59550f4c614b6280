//! A control plane over a real database and a Temporal that lives in memory.
#![allow(dead_code, reason = "each test binary uses its part")]

mod backups;
mod clock;
pub(crate) mod provider;
pub(crate) mod temporal;

use crate::database;
use backups::FakeBackups;
use clock::TestClock;
use futures::{Stream, StreamExt};
use secrecy::{ExposeSecret, SecretString};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;
use temporal::FakeTemporal;
use tokio_util::sync::{CancellationToken, DropGuard};
use xylem_audit::{Entry, Kind, Verdict};
use xylem_client::{
    ActivityClaims, Client, Definition, Deposit, Error, InitialToken, StartTree, v1,
};
use xylem_control::{Control, Listener, Parts, Settings, Swept, temporal::Temporal};
use xylem_identity::{Identity, NewAgent, NewKey, Secrets};
use xylem_ids::{AgentKind, Namespace, Role, Roles, Scopes, WorkflowId};
use xylem_policy::{Action, Author, Document, Policies, What, Who};
use xylem_registry::{Registry, Tools};
use xylem_store::Store;
use xylem_vault::{Clock, KeyRing, Room, Storage, Transaction, Vault};

pub(crate) const QUEUE: &str = "train";
pub(crate) const TOKEN_1: &str = "canary-token-one-4f2a";
pub(crate) const TOKEN_2: &str = "canary-token-two-9b7c";
/// What the first administrator may do: everything but what workers do.
pub(crate) const ADMINISTRATOR: [Role; 4] = [
    Role::Admin,
    Role::ToolPublisher,
    Role::PolicyAdmin,
    Role::User,
];
pub(crate) const ISSUER: &str = "https://xylem.example";
pub(crate) const API: &str = "http://127.0.0.1:9";

/// Everything a test talks to.
pub(crate) struct Stack {
    pub(crate) control: Control,
    pub(crate) temporal: Arc<FakeTemporal>,
    pub(crate) address: String,
    pub(crate) registry: Registry,
    pub(crate) identity: Identity,
    pub(crate) vault: Arc<Vault>,
    pub(crate) policies: Arc<Policies>,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) backups: Arc<FakeBackups>,
    admin: Option<SecretString>,
    keys: Arc<KeyRing>,
    store: Arc<Store>,
    _stop: DropGuard,
    dir: TempDir,
}

pub(crate) fn id<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().expect(text)
}

fn policies(store: &Arc<Store>, vault: &Vault) -> Policies {
    let key = |room| vault.subkey(room).expect("a key");
    let agents = Secrets::new(&key(Room::Identity)).expect("secrets");
    let system = id(xylem_control::SYSTEM);
    let seals = key(Room::Policy).into_mac();
    Policies::new(store.clone(), seals, agents, system).expect("policies")
}

/// What most tests are not about.
async fn everybody_may_call(policies: &Policies) {
    let who = Who {
        anyone: true,
        ..Who::default()
    };
    let what = What {
        all: true,
        ..What::default()
    };
    let document = Document::allow(id("everybody"), who, what, [Action::Execute].into());
    let author = Author {
        agent: id("somebody"),
        at: std::time::UNIX_EPOCH,
        note: None,
    };
    let namespace = namespace();
    let created = policies.create_first(&namespace, &document, &author);
    created.await.expect("stored");
}

impl Stack {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let temporal = Arc::new(FakeTemporal::default());
        Self::over(temporal.clone(), temporal, change).await
    }

    /// Where whoever has one of these roles needs a second factor.
    pub(crate) async fn strict(roles: Roles, change: impl FnOnce(&mut Settings)) -> Self {
        let temporal = Arc::new(FakeTemporal::default());
        let strict = |identity: Identity| identity.second_factor_for(roles);
        Self::made(temporal.clone(), temporal, change, strict).await
    }

    /// Over another Temporal; the fake one is then not used.
    pub(crate) async fn over(
        used: Arc<dyn Temporal>,
        temporal: Arc<FakeTemporal>,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        Self::made(used, temporal, change, |identity| identity).await
    }

    async fn made(
        used: Arc<dyn Temporal>,
        temporal: Arc<FakeTemporal>,
        change: impl FnOnce(&mut Settings),
        identity: impl FnOnce(Identity) -> Identity,
    ) -> Self {
        let dir = TempDir::new().expect("a folder");
        let keys = Arc::new(KeyRing::generate().expect("a key"));
        let clock = Arc::default();
        let mut stack = Self::on(dir, keys, clock, used, temporal, change, identity).await;
        stack.admin = Some(stack.key_with(&ADMINISTRATOR, "admin").await);
        stack
    }

    /// On the database that lies in a folder.
    async fn on(
        dir: TempDir,
        keys: Arc<KeyRing>,
        clock: Arc<TestClock>,
        used: Arc<dyn Temporal>,
        temporal: Arc<FakeTemporal>,
        change: impl FnOnce(&mut Settings),
        identified: impl FnOnce(Identity) -> Identity,
    ) -> Self {
        let store = Arc::new(database::open(dir.path()).await);
        let vault = Vault::open(store.clone(), keys.clone(), clock.clone()).await;
        let vault = Arc::new(vault.expect("a vault"));
        let checkpoints = checkpoint_file(dir.path());
        let opened = store.open_log(vault.audit_keys(), clock.clone(), &checkpoints);
        opened.await.expect("a log");
        let registry = Registry::new(store.clone());
        let key = vault.subkey(Room::Identity).expect("a key");
        let identity = Identity::new(store.clone(), Secrets::new(&key).expect("secrets"));
        let identity = identified(identity.issuing_as(ISSUER));
        let tools = Tools::new(store.clone(), vault.tool_seal().expect("a seal"));
        let mut settings = Settings::new(namespace());
        settings.single_operator = true;
        settings.sweep_after_rotation = None;
        change(&mut settings);
        let policies = Arc::new(policies(&store, &vault));
        everybody_may_call(&policies).await;
        let backups = Arc::new(FakeBackups::default());
        let parts = Parts {
            vault: vault.clone(),
            policies: policies.clone(),
            registry: registry.clone(),
            identity: identity.clone(),
            tools,
            log: store.clone(),
            watch: store.clone(),
            backups: Some(backups.clone()),
            archives: None,
            temporal: used,
        };
        let control = Control::new(settings, parts).expect("a control plane");
        let listener = Listener::bind("127.0.0.1:0".parse().expect("an address"), None).await;
        let listener = listener.expect("a listener");
        let address = listener.url();
        let stop = CancellationToken::new();
        let serving = control.clone();
        let stopped = stop.clone();
        tokio::spawn(async move { serving.serve(listener, stopped).await });
        Self {
            control,
            temporal,
            address,
            registry,
            identity,
            vault,
            policies,
            clock,
            backups,
            admin: None,
            keys,
            store,
            _stop: stop.drop_guard(),
            dir,
        }
    }

    /// Under these key-encryption keys.
    pub(crate) async fn under(keys: &str) -> Self {
        let dir = TempDir::new().expect("a folder");
        let mut stack = Self::of(dir, keys, Arc::default(), Arc::default()).await;
        stack.admin = Some(stack.key_with(&ADMINISTRATOR, "admin").await);
        stack
    }

    /// Ends, and goes on under other key-encryption keys.
    pub(crate) async fn rekeyed(self, keys: &str) -> Self {
        self.store.close().await;
        let mut stack = Self::of(self.dir, keys, self.clock, self.temporal).await;
        stack.admin = self.admin;
        stack
    }

    async fn of(
        dir: TempDir,
        keys: &str,
        clock: Arc<TestClock>,
        temporal: Arc<FakeTemporal>,
    ) -> Self {
        let keys = Arc::new(KeyRing::parse(keys).expect("keys"));
        let used = temporal.clone();
        Self::on(dir, keys, clock, used, temporal, |_| {}, |same| same).await
    }

    /// Ends, and goes on twice: over its own database, and over a copy of it, as it is after a
    /// restore from a backup that was made now.
    pub(crate) async fn twice(self) -> (Self, Self) {
        self.store.close().await;
        let copy = TempDir::new().expect("a folder");
        database::copy(self.dir.path(), copy.path());
        let reopen = async |dir| {
            let (keys, clock) = (self.keys.clone(), self.clock.clone());
            let temporal = self.temporal.clone();
            let used = temporal.clone();
            let reopened = Self::on(dir, keys, clock, used, temporal, |_| {}, |same| same);
            let mut stack = reopened.await;
            stack.admin.clone_from(&self.admin);
            stack
        };
        let restored = reopen(copy).await;
        (reopen(self.dir).await, restored)
    }

    /// A control plane of another namespace, over the same database.
    pub(crate) fn beside(&self, namespace: &str) -> Control {
        let settings = Settings::new(id(namespace));
        let parts = Parts {
            vault: self.vault.clone(),
            policies: self.policies.clone(),
            registry: self.registry.clone(),
            identity: self.identity.clone(),
            tools: self.tools(),
            log: self.store.clone(),
            watch: self.store.clone(),
            backups: None,
            archives: None,
            temporal: self.temporal.clone(),
        };
        Control::new(settings, parts).expect("a control plane")
    }

    /// The registry's tools, past the handlers.
    pub(crate) fn tools(&self) -> Tools {
        Tools::new(self.store.clone(), self.vault.tool_seal().expect("a seal"))
    }

    /// Where the audit log's checkpoints are copied to.
    pub(crate) fn checkpoint_file(&self) -> PathBuf {
        checkpoint_file(self.dir.path())
    }

    /// Holds up whatever else would write to the database until this is dropped.
    pub(crate) async fn occupy(&self) -> Box<dyn Transaction> {
        let other = database::open(self.dir.path()).await;
        Storage::begin(&other).await.expect("its turn")
    }

    /// Writes to the audit log.
    pub(crate) async fn write(&self, entries: &[Entry]) {
        let written = xylem_audit::Log::append(&*self.store, entries).await;
        written.expect("written");
    }

    /// Edits the database, past the store.
    pub(crate) fn tamper(&self, sql: &str) {
        database::tamper(self.dir.path(), sql);
    }

    /// Sweeps everything once, as the schedule does.
    pub(crate) async fn sweep(&self) -> Swept {
        self.control.sweep().await.expect("swept")
    }

    /// A key of a fresh agent of that role.
    pub(crate) async fn key(&self, role: Role) -> SecretString {
        self.key_for(role, &format!("{role}-{}", uuid())).await
    }

    pub(crate) async fn key_for(&self, role: Role, agent: &str) -> SecretString {
        self.key_with(&[role], agent).await
    }

    /// A key of a fresh agent of that name and those roles.
    pub(crate) async fn key_with(&self, roles: &[Role], agent: &str) -> SecretString {
        let new = NewAgent {
            id: id(agent),
            kind: AgentKind::Service,
            roles: roles.iter().copied().collect(),
        };
        let worker = roles.contains(&Role::Worker);
        self.agent(new).await;
        self.issue(new_key(agent, worker)).await
    }

    pub(crate) async fn agent(&self, new: NewAgent) {
        let entry = self.entry(Kind::AgentCreated);
        let created = self.identity.create_agent(&namespace(), new, entry).await;
        created.expect("an agent");
    }

    /// Makes a key.
    pub(crate) async fn issue(&self, new: NewKey) -> SecretString {
        let entry = self.entry(Kind::KeyCreated);
        let issued = self.identity.create_key(&namespace(), new, entry).await;
        issued.expect("a key").secret
    }

    fn entry(&self, kind: Kind) -> Entry {
        Entry::new(self.clock.now(), kind, Verdict::Succeeded)
    }

    pub(crate) async fn client(&self, role: Role) -> Client {
        let key = self.key(role).await;
        Client::connect(&self.address, &key)
            .await
            .expect("a connection")
    }

    pub(crate) async fn admin(&self) -> Client {
        let key = self.admin.as_ref().expect("made at the start");
        Client::connect(&self.address, key)
            .await
            .expect("a connection")
    }

    pub(crate) fn admin_key(&self) -> &str {
        self.admin
            .as_ref()
            .expect("made at the start")
            .expose_secret()
    }

    /// A worker that has registered `Train` and `Leaf`, which use the slot `default`, and `Relay`,
    /// which forwards it.
    pub(crate) async fn worker(&self) -> Client {
        let worker = self.client(Role::Worker).await;
        let definition = |name: &str, slots: &[&str], transit: &[&str]| Definition {
            workflow_type: id(name),
            slots: slots.iter().map(|slot| id(slot)).collect(),
            transit: transit.iter().map(|slot| id(slot)).collect(),
        };
        let definitions = vec![
            definition("Train", &["default"], &[]),
            definition("Leaf", &["default"], &[]),
            definition("Relay", &[], &["default"]),
        ];
        worker
            .register_definitions(id(QUEUE), definitions)
            .await
            .expect("definitions are registered");
        worker
    }

    pub(crate) async fn tool(&self) -> v1::Tool {
        let tool = v1::Tool {
            name: "acme.deploy".to_owned(),
            method: "POST".to_owned(),
            base_url: API.to_owned(),
            path: "/deploys".to_owned(),
            ..v1::Tool::default()
        };
        self.offer(tool).await
    }

    /// A tool that somebody published and the administrator approved.
    pub(crate) async fn offer(&self, tool: v1::Tool) -> v1::Tool {
        let publisher = self.client(Role::ToolPublisher).await;
        let proposed = publisher.register_tool(tool).await.expect("a tool");
        let approved = self.admin().await.approve_tool(&proposed).await;
        approved.expect("approved")
    }

    /// A tree named `name` with a first token and the tool.
    pub(crate) async fn tree(&self, name: &str) -> v1::Tree {
        self.tool().await;
        self.admin()
            .await
            .start_tree(start(name))
            .await
            .expect("a tree")
    }

    /// The first run of a workflow that the fake runs.
    pub(crate) fn claims(&self, workflow_id: &str, activity: &str) -> ActivityClaims {
        let run = self.temporal.run(workflow_id);
        ActivityClaims {
            namespace: namespace(),
            workflow_id: run.workflow_id,
            run_id: run.run_id,
            workflow_type: run.workflow_type,
            task_queue: id(QUEUE),
            activity_id: activity.to_owned(),
            attempt: 1,
            local: false,
        }
    }
}

fn checkpoint_file(folder: &Path) -> PathBuf {
    folder.join("checkpoints.jws")
}

/// A key that is not narrowed and does not end.
pub(crate) fn new_key(agent: &str, worker: bool) -> NewKey {
    NewKey {
        agent: id(agent),
        name: String::new(),
        scopes: Scopes::All,
        queues: worker.then(|| id(QUEUE)).into_iter().collect(),
        networks: Vec::new(),
        expires_at: None,
    }
}

pub(crate) fn namespace() -> Namespace {
    id("default")
}

pub(crate) fn tree(name: &str) -> WorkflowId {
    id(name)
}

fn uuid() -> String {
    uuid::Uuid::new_v4().to_string()
}

pub(crate) fn start(name: &str) -> StartTree {
    StartTree {
        workflow_id: id(name),
        workflow_type: id("Train"),
        task_queue: id(QUEUE),
        input_json: r#"{"cars":3}"#.to_owned(),
        tokens: vec![InitialToken {
            slot: id("default"),
            deposit: deposit(TOKEN_1),
        }],
        tools: vec![id("acme.deploy")],
        intake: None,
        request_id: String::new(),
    }
}

pub(crate) fn deposit(token: &str) -> Deposit {
    Deposit {
        token: SecretString::from(token),
        audiences: vec![id(API)],
        ttl: None,
        allow_short: false,
        request_id: String::new(),
    }
}

/// Takes whatever comes until the stream ends with an error.
pub(crate) async fn last<T>(mut stream: impl Stream<Item = Result<T, Error>> + Unpin) -> Error {
    let end = async {
        loop {
            match stream.next().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return error,
                None => panic!("a silent end"),
            }
        }
    };
    let end = tokio::time::timeout(Duration::from_secs(60), end);
    end.await.expect("an end")
}

/// Waits until a condition holds, and says what was seen where it does not within a minute.
pub(crate) async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let mut seen = String::new();
    for _ in 0..1_200 {
        match look().await {
            Ok(value) => return value,
            Err(now) => seen = now,
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}: last seen: {seen}");
}
