//! The control plane, put together: database, vault, registry, audit log, listener, sweep.

mod alerts;
mod backup;
mod credential_providers;
mod credentials;
mod database;
mod fields;
mod providers;
mod restore;

use crate::{
    data::{self, DataDir, DataError},
    temporal::{TemporalError, TemporalOptions},
};
pub use alerts::alerts;
pub use backup::BackupConfig;
use backup::Copies;
pub use credential_providers::credential_providers;
use credentials::Credentials;
pub use database::{DATABASE_PASSWORD_VARIABLE, DATABASE_VARIABLE, Database, DatabaseError};
pub use fields::FileError;
use ipnet::IpNet;
pub use providers::identity_providers;
pub use restore::{RestoreError, Restored, restore};
use rustix::fs::Access;
use secrecy::SecretString;
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use temporalio_client::NamespacedClient;
use tokio::{task::JoinHandle, time::MissedTickBehavior};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{error, info, warn};
use xylem_audit::{Archives, LogError};
use xylem_control::{
    AddressPolicy, Alerts, Backups, Control, CredentialProviders, Limits, Listener, NewError,
    Parts, Proxies, SYSTEM, ServeError, Settings, TlsFiles, temporal::Cluster,
};
use xylem_identity::{BlockList, Identity, IdentityError, Provider, Secrets};
use xylem_ids::{IdError, Namespace, Origin, Role, Roles, TaskQueue};
use xylem_policy::{Action, Author, Document, Policies, PolicyError, What, Who};
use xylem_registry::{Registry, Tools};
use xylem_store::{Archiver, OpenLogError, Store};
use xylem_vault::{KeyError, KeyRing, Room, SystemClock, Vault, VaultError};

/// The port of the control plane if it is not told.
pub const DEFAULT_PORT: u16 = 7243;

/// The variable that may hold the key-encryption keys.
pub const KEK_VARIABLE: &str = "XYLEM_KEK";

/// The policy that `xylem dev` makes on its first start.
pub(crate) const DEV_POLICY: &str = "dev";

/// How often it is looked whether an audit checkpoint is due.
const SEAL_EVERY: Duration = Duration::from_secs(1);

/// How long calls in flight may take to end at shutdown.
const GRACE: Duration = Duration::from_secs(10);

/// Where old entries of the audit log are archived.
#[derive(Debug, Clone)]
pub struct ArchiveConfig {
    /// The folder for archives; every control plane of an installation that archives has the same.
    pub folder: PathBuf,
    /// How long entries are kept in the database.
    pub keep: Duration,
}

/// How a control plane is started.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Keys, credentials, and the database where it is a file.
    pub data: DataDir,
    /// Where the database is.
    pub database: Database,
    /// The Temporal server.
    pub temporal: TemporalOptions,
    /// Where to listen: the first of these that is free.
    pub listen: Vec<SocketAddr>,
    /// The files for TLS. Without them only addresses on loopback are listened on.
    pub tls: Option<TlsFiles>,
    /// How clients reach it, `https://host:port`, where that is not the address it listens on. Access
    /// tokens are issued under it.
    pub public_url: Option<String>,
    /// The pages that may ask from within a browser, by their origin.
    pub cors_origins: Vec<Origin>,
    /// The proxies that are believed about where a request comes from.
    pub proxies: Proxies,
    /// What one caller may take up.
    pub limits: Limits,
    /// Whether anybody may register, in the role `user`; by invitation only otherwise.
    pub open_registration: bool,
    /// Whoever has one of these roles and signs in without a second factor may only enrol one.
    pub second_factor_for: Roles,
    /// A file with passwords that nobody may choose, one a line.
    pub password_block_list: Option<PathBuf>,
    /// Makes keys and an administrator where there are none, and takes raw tokens in from signals
    /// where a tree does not say otherwise.
    pub development: bool,
    /// Declares that one person operates the installation, and may approve what they published.
    pub single_operator: bool,
    /// How long after a rotation a tree is swept on its own; not at all where absent.
    pub sweep_after_rotation: Option<Duration>,
    /// The file that the audit log's checkpoints are copied to; one in the data directory where
    /// absent. Another volume than the database's is better.
    pub audit_checkpoints: Option<PathBuf>,
    /// Where old entries of the audit log are archived, and how old they get; none are where absent.
    pub archive: Option<ArchiveConfig>,
    /// How backups are made; none are where absent.
    pub backups: Option<BackupConfig>,
    /// Private addresses that the control plane may ask, beside public ones: a token endpoint, an
    /// identity provider, or whoever receives alerts, may be there.
    pub private_networks: Vec<IpNet>,
    /// Identity providers whose tokens are accepted.
    pub identity_providers: Vec<Provider>,
    /// Files and commands that give the values of stored credentials.
    pub credential_providers: CredentialProviders,
    /// What raises alerts, and where they are sent.
    pub alerts: Alerts,
}

impl ServerConfig {
    /// For production, on the usual port.
    #[must_use]
    pub fn new(data: DataDir, temporal: TemporalOptions) -> Self {
        Self {
            data,
            database: Database::File,
            temporal,
            listen: vec![(Ipv4Addr::LOCALHOST, DEFAULT_PORT).into()],
            tls: None,
            public_url: None,
            cors_origins: Vec::new(),
            proxies: Proxies::default(),
            limits: Limits::default(),
            open_registration: false,
            second_factor_for: Roles::new(),
            password_block_list: None,
            development: false,
            single_operator: false,
            sweep_after_rotation: Some(Duration::from_secs(15)),
            audit_checkpoints: None,
            archive: None,
            backups: None,
            private_networks: Vec::new(),
            identity_providers: Vec::new(),
            credential_providers: CredentialProviders::default(),
            alerts: Alerts::default(),
        }
    }
}

impl ServerConfig {
    /// Looks whether a control plane could be started: at its keys and the files that it is told of. The
    /// database and Temporal are not asked.
    ///
    /// # Errors
    /// Something cannot be used; the error says which.
    pub fn check(&self) -> Result<(), ServerError> {
        for address in &self.listen {
            Listener::check(*address, self.tls.as_ref())?;
        }
        let blocked = self.password_block_list.as_deref();
        blocked.map(block_list).transpose()?;
        let archive = self.archive.as_ref();
        archive.map(|to| check_folder(&to.folder)).transpose()?;
        key_ring(&self.data, false)?;
        Ok(())
    }
}

/// Why the control plane does not run, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A file or directory cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// This is an installation already.
    #[error("{0} is there already: nothing was changed")]
    Initialised(String),
    /// There are no keys yet.
    #[error("{} holds no keys: run `xylem server init` once", .0.display())]
    NotInitialised(PathBuf),
    /// The key-encryption keys cannot be used.
    #[error("the key-encryption keys cannot be used")]
    Keys(#[from] KeyError),
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The vault.
    #[error("the vault cannot be opened")]
    Vault(#[from] VaultError),
    /// Policies.
    #[error("the policies cannot be used")]
    Policies(#[from] PolicyError),
    /// Agents and keys.
    #[error("the credentials cannot be made")]
    Identity(#[from] IdentityError),
    /// The audit log.
    #[error("the audit log cannot be written")]
    Audit(#[from] LogError),
    /// The audit log, at the start.
    #[error("the audit log cannot be opened")]
    OpenLog(#[from] OpenLogError),
    /// A name breaks its rule.
    #[error(transparent)]
    Name(#[from] IdError),
    /// A file beside the settings.
    #[error(transparent)]
    File(#[from] FileError),
    /// The control plane cannot ask anything outside.
    #[error(transparent)]
    New(#[from] NewError),
    /// No connection to Temporal.
    #[error(transparent)]
    Temporal(#[from] TemporalError),
    /// The listener.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The sweep.
    #[error(transparent)]
    Sweep(#[from] xylem_control::WorkerError),
    /// Something ended that runs until it is stopped.
    #[error("the control plane has ended by itself")]
    Ended,
}

/// A running control plane.
#[derive(Debug)]
pub struct Server {
    address: String,
    credentials: Credentials,
    stop: DropGuard,
    serving: JoinHandle<Result<(), ServeError>>,
    sweeping: JoinHandle<Result<(), xylem_control::WorkerError>>,
    sealing: JoinHandle<()>,
}

impl Server {
    /// Starts a control plane; it answers calls when this returns.
    ///
    /// # Errors
    /// A part of it cannot be used; the error says which.
    pub async fn start(config: ServerConfig) -> Result<Self, ServerError> {
        let listener = listen(&config.listen, config.tls.as_ref()).await?;
        let address = config.public_url.unwrap_or_else(|| url(&listener));
        let blocked = config.password_block_list.as_deref();
        let blocked = blocked.map_or(Ok(BlockList::default()), block_list)?;
        let temporal = config.temporal.connect().await?;
        let namespace: Namespace = temporal.namespace().parse()?;
        let storage = Storage::open(
            &config.data,
            &config.database,
            namespace.clone(),
            config.development,
            config.audit_checkpoints,
        )
        .await?;
        let credentials = storage.credentials();
        if config.development {
            credentials.administrator().await?;
            storage.first_policy().await?;
        }
        storage.tell_policies().await;

        let cluster = Cluster::new(temporal);
        let settings = Settings {
            single_operator: config.single_operator,
            intake: config.development,
            intake_adopted: config.development,
            sweep_after_rotation: config.sweep_after_rotation,
            cors_origins: config.cors_origins,
            proxies: config.proxies,
            limits: config.limits,
            open_registration: config.open_registration,
            addresses: AddressPolicy {
                development: config.development,
                private: config.private_networks.clone(),
            },
            identity_providers: config.identity_providers,
            credential_providers: config.credential_providers,
            alerts: config.alerts,
            ..Settings::new(namespace)
        };
        let vault = Arc::new(storage.vault);
        let seal = vault.tool_seal()?;
        let backups = config.backups.map(|config| {
            let (store, vault) = (storage.store.clone(), vault.clone());
            Arc::new(Copies {
                config,
                store,
                vault,
            }) as Arc<dyn Backups>
        });
        let archives = config.archive.map(|config| {
            let store = storage.store.clone();
            Arc::new(Archiver::new(store, config.folder, config.keep)) as Arc<dyn Archives>
        });
        let parts = Parts {
            vault,
            policies: Arc::new(storage.policies),
            registry: Registry::new(storage.store.clone()),
            tools: Tools::new(storage.store.clone(), seal),
            identity: storage
                .identity
                .issuing_as(&address)
                .blocking(blocked)
                .second_factor_for(config.second_factor_for),
            log: storage.store.clone(),
            watch: storage.store.clone(),
            temporal: Arc::new(cluster.clone()),
            backups,
            archives,
        };
        let control = Control::new(settings, parts)?;
        if let Err(error) = control.prepare().await {
            warn!(%error, "the search attribute XylemTokens is not registered; `xylem doctor` says how");
        }
        info!(address, "control plane started");
        let serving = (control, cluster, listener);
        Ok(Self::run(address, serving, credentials, storage.store))
    }

    fn run(
        address: String,
        (control, cluster, listener): (Control, Cluster, Listener),
        credentials: Credentials,
        store: Arc<Store>,
    ) -> Self {
        let stop = CancellationToken::new();
        let sealing = tokio::spawn(seal(store, stop.clone()));
        let sweeping = {
            let (control, stop) = (control.clone(), stop.clone());
            tokio::spawn(async move { control.worker(&cluster, stop).await })
        };
        let serving = {
            let stop = stop.clone();
            tokio::spawn(async move { control.serve(listener, stop).await })
        };
        Self {
            address,
            credentials,
            stop: stop.drop_guard(),
            serving,
            sweeping,
            sealing,
        }
    }

    /// How the control plane is reached, `http://host:port` or `https://host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// The API key of the worker in the data directory; made, and made again, where there is none
    /// that serves these task queues.
    ///
    /// # Errors
    /// The registry or the file cannot be used.
    pub async fn worker_key(&self, queues: &[TaskQueue]) -> Result<SecretString, ServerError> {
        self.credentials.worker(queues).await
    }

    /// Waits until something of it ends by itself.
    pub async fn failed(&mut self) -> ServerError {
        tokio::select! {
            ended = &mut self.serving => match ended {
                Ok(Err(error)) => error.into(),
                _ => ServerError::Ended,
            },
            ended = &mut self.sweeping => match ended {
                Ok(Err(error)) => error.into(),
                _ => ServerError::Ended,
            },
        }
    }

    /// Stops within 10 s: calls in flight may end until then, streams are told to come again.
    pub async fn stop(self) {
        drop(self.stop);
        let deadline = tokio::time::Instant::now() + GRACE;
        for mut task in [
            finished(self.serving),
            finished(self.sweeping),
            finished(self.sealing),
        ] {
            if tokio::time::timeout_at(deadline, &mut task).await.is_err() {
                task.abort();
            }
        }
    }
}

/// Takes the audit log's checkpoints that no later entry would take. It depends on the database
/// alone: the log is sealed while Temporal is down, too.
async fn seal(store: Arc<Store>, stop: CancellationToken) {
    let mut every = tokio::time::interval(SEAL_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
        }
        let sealed = store.checkpoint().await;
        if let Err(error) = &sealed
            && !failing
        {
            error!(
                error = error as &dyn std::error::Error,
                "no audit checkpoint can be taken"
            );
        }
        failing = sealed.is_err();
    }
}

/// Waits for a task that may have ended already.
fn finished<T: Send + 'static>(task: JoinHandle<T>) -> JoinHandle<()> {
    let abort = tokio_util::task::AbortOnDropHandle::new(task);
    tokio::spawn(async move {
        let _ = abort.await;
    })
}

/// The first address that is free.
async fn listen(addresses: &[SocketAddr], tls: Option<&TlsFiles>) -> Result<Listener, ServerError> {
    let mut refused = ServerError::Ended;
    for address in addresses {
        match Listener::bind(*address, tls.cloned()).await {
            Ok(listener) => return Ok(listener),
            Err(error) => refused = error.into(),
        }
    }
    Err(refused)
}

/// A file of passwords, one a line.
fn block_list(path: &Path) -> Result<BlockList, DataError> {
    let read = std::fs::read_to_string(path);
    let lines = read.map_err(|source| DataError::io("read", path, source))?;
    Ok(BlockList::new(&lines))
}

/// Whether files can be written into a folder. Nothing is written.
fn check_folder(path: &Path) -> Result<(), DataError> {
    let found = std::fs::metadata(path);
    let found = found.map_err(|source| DataError::io("use the folder", path, source))?;
    if !found.is_dir() {
        return Err(DataError::Content {
            path: path.to_owned(),
            what: "is not a folder",
        });
    }
    let allowed = rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK);
    allowed.map_err(|error| DataError::io("write into the folder", path, error.into()))
}

/// How clients on this machine reach a listener.
fn url(listener: &Listener) -> String {
    let address = listener.address();
    if address.ip().is_unspecified() {
        return format!("https://localhost:{}", address.port());
    }
    listener.url()
}

/// Everything that lies in the data directory and the database.
struct Storage {
    data: DataDir,
    namespace: Namespace,
    store: Arc<Store>,
    vault: Vault,
    identity: Identity,
    policies: Policies,
}

impl Storage {
    async fn open(
        data: &DataDir,
        database: &Database,
        namespace: Namespace,
        make: bool,
        checkpoints: Option<PathBuf>,
    ) -> Result<Self, ServerError> {
        data.create()?;
        let store = Arc::new(database.open(data).await?);
        let make = make && database.is_new(&store, data).await?;
        let keys = key_ring(data, make)?;
        let vault = Vault::open(store.clone(), Arc::new(keys), Arc::new(SystemClock)).await?;
        let checkpoints = checkpoints.unwrap_or_else(|| data.audit_checkpoints());
        let (audit_keys, clock) = (vault.audit_keys(), Arc::new(SystemClock));
        store.open_log(audit_keys, clock, &checkpoints).await?;
        if let Some((epoch, trees)) = vault.settle_restore(&namespace, &SYSTEM.parse()?).await? {
            let trees = trees.len();
            warn!(%epoch, trees, "restored from a backup: no token is handed out before `xylem vault confirm`");
        }
        let key = vault.subkey(Room::Identity)?;
        let secrets = || Secrets::new(&key).map_err(IdentityError::from);
        let identity = Identity::new(store.clone(), secrets()?);
        let seals = vault.subkey(Room::Policy)?.into_mac();
        let policies = Policies::new(store.clone(), seals, secrets()?, SYSTEM.parse()?)?;
        Ok(Self {
            data: data.clone(),
            namespace,
            store,
            vault,
            identity,
            policies,
        })
    }

    /// What `xylem dev` allows from its first start on, until somebody says otherwise: its
    /// administrator's trees, and those that somebody started without asking, call every tool.
    async fn first_policy(&self) -> Result<(), ServerError> {
        let who = Who {
            agents: [SYSTEM.parse()?].into(),
            roles: [Role::Admin].into(),
            anyone: false,
        };
        let what = What {
            all: true,
            ..What::default()
        };
        let actions = [Action::Read, Action::Execute].into();
        let mut policy = Document::allow(DEV_POLICY.parse()?, who, what, actions);
        policy.description = "Made by `xylem dev`: replace it by what you mean".to_owned();
        let author = Author {
            agent: SYSTEM.parse()?,
            at: self.vault.now(),
            note: None,
        };
        let created = self
            .policies
            .create_first(&self.namespace, &policy, &author);
        if created.await? {
            info!("the policy `dev` was made: administrators may call every tool");
        }
        Ok(())
    }

    /// Says what surprises most who starts a control plane for the first time. Policies that cannot be
    /// read refuse every call; whoever has to mend that needs the control plane.
    async fn tell_policies(&self) {
        match self.policies.list(&self.namespace).await {
            Ok(policies) if policies.iter().all(|policy| policy.retired) => warn!(
                "there is no policy, so every call of a tool is denied: `xylem policy add` writes one"
            ),
            Ok(_) => {}
            Err(error) => error!(
                error = &error as &dyn std::error::Error,
                "the policies cannot be read, so every call of a tool is refused"
            ),
        }
    }

    fn credentials(&self) -> Credentials {
        Credentials::new(
            self.data.clone(),
            self.namespace.clone(),
            self.identity.clone(),
        )
    }
}

/// Key-encryption keys: of the environment, or of the data directory. A database that has keys is
/// never given new ones: what is in it could not be read.
fn key_ring(data: &DataDir, make: bool) -> Result<KeyRing, ServerError> {
    if std::env::var_os(KEK_VARIABLE).is_some() {
        return Ok(KeyRing::from_environment(KEK_VARIABLE)?);
    }
    let path = data.kek();
    if path.exists() {
        return Ok(KeyRing::from_file(&path)?);
    }
    if !make {
        return Err(ServerError::NotInitialised(data.keys()));
    }
    Ok(KeyRing::from_file_or_new(&path)?)
}

/// Makes the keys, the first administrator and the file of settings of a production installation, and
/// returns the file that holds the administrator's API key.
///
/// # Errors
/// There is an installation already; nothing is changed then.
pub async fn init(
    data: &DataDir,
    database: &Database,
    namespace: Namespace,
    settings: &str,
) -> Result<PathBuf, ServerError> {
    for path in [data.kek(), data.admin_key(), data.settings()] {
        if path.exists() {
            return Err(ServerError::Initialised(path.display().to_string()));
        }
    }
    data.create()?;
    let store = database.open(data).await?;
    let is_new = database.is_new(&store, data).await?;
    store.close().await;
    if !is_new {
        return Err(ServerError::Initialised(database.name(data)));
    }
    let storage = Storage::open(data, database, namespace, true, None).await?;
    storage.credentials().administrator().await?;
    data::write_new(&data.settings(), settings)?;
    Ok(data.admin_key())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{is_private, read_secret};

    fn namespace() -> Namespace {
        "default".parse().expect("a name")
    }

    #[tokio::test]
    async fn an_installation_is_made_once() {
        let guard = tempfile::tempdir().expect("a directory");
        let data = DataDir::at(guard.path().join("server"));
        let path = init(&data, &Database::File, namespace(), "")
            .await
            .expect("made");
        let key = read_secret(&path).expect("a key");
        for path in [data.kek(), data.admin_key(), data.database()] {
            assert!(is_private(&path).expect("is there"), "{}", path.display());
        }

        let again = init(&data, &Database::File, namespace(), "").await;
        assert!(matches!(again, Err(ServerError::Initialised(_))));
        let kept = read_secret(&path).expect("a key");
        use secrecy::ExposeSecret;
        assert_eq!(key.expose_secret(), kept.expose_secret());
    }

    #[tokio::test]
    async fn a_database_gets_no_new_keys() {
        let guard = tempfile::tempdir().expect("a directory");
        let data = DataDir::at(guard.path());
        init(&data, &Database::File, namespace(), "")
            .await
            .expect("made");
        std::fs::remove_file(data.kek()).expect("removed");
        let opened = Storage::open(&data, &Database::File, namespace(), true, None).await;
        assert!(matches!(opened, Err(ServerError::NotInitialised(_))));
    }

    #[tokio::test]
    async fn a_key_that_still_wraps_something_is_missed_at_the_start() {
        let guard = tempfile::tempdir().expect("a directory");
        let data = DataDir::at(guard.path());
        init(&data, &Database::File, namespace(), "")
            .await
            .expect("made");
        let before = std::fs::read_to_string(data.kek()).expect("a key");
        let next = "k2:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";
        let open = async |lines: &str| {
            std::fs::write(data.kek(), lines).expect("written");
            Storage::open(&data, &Database::File, namespace(), false, None).await
        };
        let error = open(next).await.err().expect("the first is needed");
        let mut said = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            said.push_str(&error.to_string());
            cause = error.source();
        }
        let (id, _) = before.split_once(':').expect("a line");
        assert!(
            said.contains(id) && said.contains("xylem vault rewrap"),
            "{said}"
        );
        let opened = open(&format!("{next}\n{before}")).await;
        opened.expect("both are there").store.close().await;
    }

    #[tokio::test]
    async fn without_keys_init_is_named() {
        let guard = tempfile::tempdir().expect("a directory");
        let data = DataDir::at(guard.path());
        let opened = Storage::open(&data, &Database::File, namespace(), false, None).await;
        let error = opened.err().expect("no keys");
        assert!(error.to_string().contains("xylem server init"), "{error}");
    }
}
