//! `xylem dev`, `xylem server` and `xylem worker`: what runs until it is stopped.

use super::{
    failure::{Exit, Failure},
    session::Session,
};
use crate::{
    data::{DataDir, DataError, Endpoints},
    dev::{Dev, DevConfig, DevError},
    logging::{self, Level},
    server::{self, BackupConfig, Database, Server, ServerConfig, ServerError},
    temporal::TemporalOptions,
    worker::{self, WorkerConfig, WorkerError, WorkerSlots},
};
use ipnet::IpNet;
use serde_json::json;
use std::{
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};
use xylem_control::{Limits, Proxies, ProxyHeader, ServeError, TlsFiles};
use xylem_ids::{IdError, Namespace, Origin, TaskQueue};
use xylem_seal::EnvelopeKey;

/// Where Temporal is. What is not named comes from TEMPORAL_… variables and the configuration file
/// of the Temporal client.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Temporal")]
pub(crate) struct TemporalArguments {
    /// The Temporal server; also TEMPORAL_ADDRESS
    #[arg(long, value_name = "HOST:PORT")]
    temporal_address: Option<String>,
    /// The Temporal namespace; also TEMPORAL_NAMESPACE
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,
    /// A file with the API key for Temporal; TEMPORAL_API_KEY holds the key itself
    #[arg(long, value_name = "FILE")]
    temporal_key_file: Option<PathBuf>,
    /// The profile of the Temporal client's configuration file; also TEMPORAL_PROFILE
    #[arg(long, value_name = "NAME")]
    temporal_profile: Option<String>,
    /// The CA certificate of the Temporal server, PEM; also TEMPORAL_TLS_SERVER_CA_CERT_PATH
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// The client certificate, PEM; also TEMPORAL_TLS_CLIENT_CERT_PATH
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The client key, PEM; also TEMPORAL_TLS_CLIENT_KEY_PATH
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The name in the server's certificate, where it is not the address; also
    /// TEMPORAL_TLS_SERVER_NAME
    #[arg(long, value_name = "NAME")]
    tls_server_name: Option<String>,
}

impl TemporalArguments {
    /// What was named, and where the key is read from.
    pub(crate) fn options(&self) -> Result<TemporalOptions, Failure> {
        let key = self.temporal_key_file.as_deref();
        Ok(TemporalOptions {
            api_key: key.map(crate::data::read_secret).transpose()?,
            ..self.without_key()
        })
    }

    fn without_key(&self) -> TemporalOptions {
        TemporalOptions {
            address: self.temporal_address.clone(),
            namespace: self.namespace.clone(),
            api_key: None,
            tls_ca: self.tls_ca.clone(),
            tls_cert: self.tls_cert.clone(),
            tls_key: self.tls_key.clone(),
            tls_server_name: self.tls_server_name.clone(),
            profile: self.temporal_profile.clone(),
            only_these: false,
        }
    }
}

impl TemporalArguments {
    /// What was named; the server of the data directory where nothing was, here and in the
    /// environment.
    pub(crate) fn options_or(
        &self,
        endpoints: Option<&Endpoints>,
    ) -> Result<TemporalOptions, Failure> {
        let elsewhere = self.temporal_address.is_some()
            || self.temporal_profile.is_some()
            || std::env::var_os("TEMPORAL_ADDRESS").is_some();
        let mut options = self.options()?;
        if let Some(endpoints) = endpoints.filter(|_| !elsewhere) {
            options.address = Some(endpoints.temporal_address.clone());
            let namespace = options.namespace.take();
            options.namespace = namespace.or_else(|| Some(endpoints.namespace.clone()));
            options.only_these = true;
        }
        Ok(options)
    }
}

/// How much a worker does at the same time.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct WorkerLimits {
    /// Workflow tasks at the same time
    #[arg(long, value_name = "COUNT", default_value_t = WorkerSlots::default().workflow_tasks)]
    workflow_slots: usize,
    /// Activities at the same time
    #[arg(long, value_name = "COUNT", default_value_t = WorkerSlots::default().activities)]
    activity_slots: usize,
    /// Workflows kept in memory; a larger tree replays histories at every rotation
    #[arg(long, value_name = "COUNT", default_value_t = worker::CACHED_WORKFLOWS)]
    cached_workflows: usize,
}

#[derive(Debug, clap::Args)]
pub(crate) struct WorkerArguments {
    /// The task queue to poll
    #[arg(long, short = 'q', value_name = "QUEUE", default_value = "xylem")]
    task_queue: TaskQueue,
    /// A network of private addresses that tools may be at, such as 10.1.0.0/16; can be repeated
    #[arg(long = "private-network", value_name = "CIDR")]
    private_networks: Vec<IpNet>,
    #[command(flatten)]
    limits: WorkerLimits,
    #[command(flatten)]
    temporal: TemporalArguments,
}

pub(crate) async fn worker(
    arguments: WorkerArguments,
    level: Option<Level>,
    session: &mut Session<'_>,
) -> Result<(), Failure> {
    logging::to_standard_error(level.unwrap_or(Level::Info));
    let shutdown = interrupted()?;
    let endpoints = session.access.endpoints()?;
    let temporal = arguments.temporal.options_or(endpoints.as_ref())?;
    let api_key = session.access.key(DataDir::worker_key)?;
    let address = session.access.address()?;
    let slots = WorkerSlots {
        workflow_tasks: arguments.limits.workflow_slots,
        activities: arguments.limits.activity_slots,
        local_activities: arguments.limits.workflow_slots,
        ..WorkerSlots::default()
    };
    let config = WorkerConfig {
        tls: session.access.trust.tls()?,
        development: session.access.is_dev()?,
        private_networks: arguments.private_networks,
        slots,
        max_cached_workflows: arguments.limits.cached_workflows,
        ..WorkerConfig::new(temporal, arguments.task_queue, address, api_key)
    };
    let workflows = xylem_workflows::shipped().map_err(WorkerError::from)?;
    worker::run(config, workflows, shutdown).await?;
    Ok(())
}

fn interrupted() -> Result<tokio_util::sync::CancellationToken, Failure> {
    crate::interrupted().map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("signals cannot be waited for: {error}"),
        )
    })
}

impl From<WorkerError> for Failure {
    fn from(error: WorkerError) -> Self {
        match error {
            WorkerError::Temporal(error) => error.into(),
            WorkerError::ControlPlane(error) => error.into(),
            WorkerError::Definitions { queue, source } => {
                let failure = Self::from(*source).about(&format!("task queue {queue}"));
                failure.hint(format!(
                    "the key must be in role worker and serve the queue: `xylem key create --role \
                     worker --task-queue {queue}`"
                ))
            }
            error => Self::from_error(Exit::Failed, &error),
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct DevArguments {
    /// The Temporal CLI [default: `temporal` on the PATH]
    #[arg(
        long,
        env = "TEMPORAL_CLI",
        hide_env_values = true,
        value_name = "PROGRAM"
    )]
    temporal_cli: Option<PathBuf>,
    /// The Temporal server's port; 0 is any [default: that of the last start, else 7233, if free]
    #[arg(long, value_name = "PORT")]
    temporal_port: Option<u16>,
    /// The Temporal web UI's port; 0 is any [default: that of the last start, else 8233, if free]
    #[arg(long, value_name = "PORT")]
    ui_port: Option<u16>,
    /// The control plane's port; 0 is any [default: that of the last start, else 7243, if free]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// The Temporal namespace
    #[arg(long, short, value_name = "NAME", default_value = "default")]
    namespace: Namespace,
    /// The task queue that the worker polls
    #[arg(long, short = 'q', value_name = "QUEUE", default_value = "xylem")]
    task_queue: TaskQueue,
}

pub(crate) async fn dev(
    arguments: DevArguments,
    level: Option<Level>,
    session: &mut Session<'_>,
) -> Result<(), Failure> {
    let data = session.access.data_or(DataDir::dev)?;
    data.create()?;
    let log = data.log();
    logging::to_file(level.unwrap_or(Level::Info), &log)
        .map_err(|source| DataError::io("open", &log, source))?;
    let shutdown = interrupted()?;
    let config = DevConfig {
        data,
        temporal_cli: arguments.temporal_cli,
        temporal_port: arguments.temporal_port,
        web_ui_port: arguments.ui_port,
        control_port: arguments.port,
        namespace: arguments.namespace,
        task_queue: arguments.task_queue,
        sweep_after_rotation: Some(Duration::from_secs(15)),
    };
    let workflows = xylem_workflows::shipped().map_err(WorkerError::from)?;
    let starting = Dev::start(config, workflows, |step| tell(&format!("{step} …")));
    let mut dev = tokio::select! {
        started = starting => started?,
        // What was started so far ends with the future that held it.
        () = shutdown.cancelled() => return Ok(()),
    };
    session.output.answer(dev.endpoints(), addresses)?;
    let ended = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        error = dev.failed() => Err(error),
    };
    tell("stopping …");
    dev.stop().await;
    Ok(ended?)
}

/// Progress, while the output is held elsewhere.
fn tell(step: &str) {
    let _ = writeln!(io::stderr(), "{step}");
}

fn addresses(endpoints: &Endpoints) -> String {
    let data = endpoints.data_directory.display().to_string();
    let web_ui = endpoints.web_ui.as_deref().unwrap_or("-");
    format!(
        "Xylem is ready; Ctrl-C stops it.\n\n  \
         Temporal         {}\n  \
         Temporal web UI  {web_ui}\n  \
         control plane    {}\n  \
         task queue       {}\n  \
         data             {data}\n\n\
         Raw tokens that are signalled to a tree started here are taken in, and lie in its \
         history then.",
        endpoints.temporal_address, endpoints.control_plane, endpoints.task_queue,
    )
}

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ServerArguments {
    #[command(subcommand)]
    command: Option<ServerCommand>,
    #[command(flatten)]
    listening: Listening,
    /// Let anybody register, in the role user; without it by invitation only
    #[arg(long)]
    open_registration: bool,
    /// Whoever has this role, such as admin, and signs in without a second factor may only enrol one; can
    /// be repeated
    #[arg(long, value_enum, value_name = "ROLE")]
    second_factor_for: Vec<super::agent::Role>,
    /// A file with passwords that nobody may choose, one a line, besides what is tried first anyway
    #[arg(long, value_name = "FILE")]
    password_block_list: Option<PathBuf>,
    /// The file that the audit log's signed checkpoints are copied to; another volume than the
    /// database's is better [default: audit/checkpoints.jws in the data directory]
    #[arg(long, value_name = "FILE")]
    audit_checkpoints: Option<PathBuf>,
    /// A network of private addresses that OAuth 2.0 token endpoints, or who receives alerts, may be at,
    /// such as 10.1.0.0/16; can be repeated
    #[arg(long = "private-network", value_name = "CIDR")]
    private_networks: Vec<IpNet>,
    /// What raises alerts and where they are sent, TOML; docs/alerts.md has the fields
    #[arg(long, value_name = "FILE")]
    alerts: Option<PathBuf>,
    /// Declare that one person operates this installation, who may approve their own tools and
    /// access requests; `xylem doctor` and the audit log say so
    #[arg(long, env = "XYLEM_SINGLE_OPERATOR")]
    single_operator: bool,
    #[command(flatten)]
    backups: BackupArguments,
    #[command(flatten)]
    temporal: TemporalArguments,
}

/// Where backups go.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Backups")]
struct BackupArguments {
    /// The folder for backups of the database; none are made without it. Another disk is better
    #[arg(long, value_name = "FOLDER", requires = "backup_public_key")]
    backup_dir: Option<PathBuf>,
    /// The key that backups are sealed to: `xylem vault key` makes it
    #[arg(long, value_name = "KEY", requires = "backup_dir")]
    backup_public_key: Option<EnvelopeKey>,
    /// How often a backup is made. A Temporal schedule, xylem-backup, does it: once that is there, it
    /// is changed there
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = super::duration)]
    backup_every: Duration,
    /// How many backups are kept; older ones are deleted
    #[arg(long, value_name = "COUNT", default_value_t = 14, value_parser = clap::value_parser!(u16).range(1..))]
    backup_keep: u16,
}

impl BackupArguments {
    fn config(self) -> Option<BackupConfig> {
        Some(BackupConfig {
            folder: self.backup_dir?,
            key: self.backup_public_key?,
            every: self.backup_every,
            keep: self.backup_keep.into(),
        })
    }
}

/// How the control plane is reached.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Listener")]
struct Listening {
    /// Where to listen; beyond loopback only with a certificate
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7243")]
    listen: SocketAddr,
    /// The certificate and those between it and its CA, PEM; read again when it changes
    #[arg(long, value_name = "FILE", requires = "listen_key")]
    listen_cert: Option<PathBuf>,
    /// The key of the certificate, PEM
    #[arg(long, value_name = "FILE", requires = "listen_cert")]
    listen_key: Option<PathBuf>,
    /// Refuse clients without a certificate of these CAs, PEM; an API key is required all the same
    #[arg(long, value_name = "FILE", requires = "listen_cert")]
    listen_client_ca: Option<PathBuf>,
    /// How clients reach it, where that is not the address it listens on; access tokens are issued
    /// under it, so that several control planes of one installation name the same
    #[arg(long, value_name = "URL")]
    public_url: Option<Origin>,
    /// A web page that may ask from within a browser, by its origin; can be repeated
    #[arg(long = "cors-origin", value_name = "ORIGIN")]
    cors_origins: Vec<Origin>,
    /// A network of proxies that are believed about where a request comes from, such as 10.0.0.0/24; can
    /// be repeated. Nobody else is believed
    #[arg(long = "trusted-proxy", value_name = "CIDR")]
    trusted_proxies: Vec<IpNet>,
    /// The header in which they say it; the other one is not looked at
    #[arg(long, value_enum, value_name = "HEADER", default_value_t)]
    proxy_header: Header,
    /// Requests a second that are taken from one address, or one /64 network with IPv6, and five
    /// seconds' worth of them at once; 0 is no limit
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().requests_per_address)]
    requests_per_address: u32,
    /// The same for one agent, over all its API keys and sessions; workers ask twice for each call of
    /// a tool
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().requests_per_agent)]
    requests_per_agent: u32,
    /// Connections at the same time; further ones wait
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().connections)]
    connections: usize,
    /// How many of them may come from one address that is no trusted proxy; further ones are refused
    #[arg(long, value_name = "COUNT", default_value_t = Limits::default().connections_per_address)]
    connections_per_address: usize,
}

/// The header in which proxies say where a request comes from.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Header {
    /// The one that nearly all proxies write
    #[default]
    XForwardedFor,
    /// That of RFC 7239
    Forwarded,
}

impl Listening {
    fn tls(&self) -> Option<TlsFiles> {
        Some(TlsFiles {
            certificate: self.listen_cert.clone()?,
            key: self.listen_key.clone()?,
            client_ca: self.listen_client_ca.clone(),
        })
    }

    fn proxies(&self) -> Proxies {
        Proxies {
            trusted: self.trusted_proxies.clone(),
            header: match self.proxy_header {
                Header::XForwardedFor => ProxyHeader::XForwardedFor,
                Header::Forwarded => ProxyHeader::Forwarded,
            },
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            requests_per_address: self.requests_per_address,
            requests_per_agent: self.requests_per_agent,
            connections: self.connections,
            connections_per_address: self.connections_per_address,
            ..Limits::default()
        }
    }
}

#[derive(Debug, clap::Subcommand)]
enum ServerCommand {
    /// Make the keys and the first administrator of an installation; changes nothing that is there
    Init(InitArguments),
}

#[derive(Debug, clap::Args)]
struct InitArguments {
    #[command(flatten)]
    temporal: TemporalArguments,
}

pub(crate) async fn server(
    arguments: ServerArguments,
    level: Option<Level>,
    session: &mut Session<'_>,
) -> Result<(), Failure> {
    logging::to_standard_error(level.unwrap_or(Level::Info));
    let data = session.access.data_or(DataDir::server)?;
    if let Some(ServerCommand::Init(init)) = arguments.command {
        return initialise(&data, &init.temporal, session).await;
    }
    let alerts = arguments.alerts.as_deref().map(server::alerts);
    let alerts = alerts.transpose().map_err(ServerError::from)?;
    let shutdown = interrupted()?;
    let temporal = arguments.temporal.options()?;
    let resolved = temporal.resolve()?;
    let mut server = Server::start(ServerConfig {
        database: Database::from_environment().map_err(ServerError::from)?,
        tls: arguments.listening.tls(),
        proxies: arguments.listening.proxies(),
        limits: arguments.listening.limits(),
        listen: vec![arguments.listening.listen],
        public_url: arguments.listening.public_url.map(|url| url.to_string()),
        cors_origins: arguments.listening.cors_origins,
        open_registration: arguments.open_registration,
        second_factor_for: arguments
            .second_factor_for
            .iter()
            .map(|role| role.id())
            .collect(),
        password_block_list: arguments.password_block_list,
        audit_checkpoints: arguments.audit_checkpoints,
        backups: arguments.backups.config(),
        private_networks: arguments.private_networks,
        alerts: alerts.unwrap_or_default(),
        single_operator: arguments.single_operator,
        ..ServerConfig::new(data.clone(), temporal)
    })
    .await?;
    let endpoints = Endpoints {
        temporal_address: resolved.address.clone(),
        namespace: resolved.namespace.clone(),
        web_ui: None,
        control_plane: server.address(),
        data_directory: data.path().to_owned(),
        task_queue: "xylem".to_owned(),
    };
    data.record(&endpoints)?;
    session.output.answer(&endpoints, |endpoints| {
        format!(
            "control plane at {}; Ctrl-C stops it",
            endpoints.control_plane
        )
    })?;
    let ended = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        error = server.failed() => Err(error),
    };
    server.stop().await;
    Ok(ended?)
}

/// The Temporal namespace that was named.
pub(crate) fn namespace(temporal: &TemporalArguments) -> Result<Namespace, Failure> {
    let namespace = temporal.options()?.resolve()?.namespace;
    let parsed = namespace.parse();
    parsed.map_err(|error: IdError| Failure::usage(error.to_string()))
}

async fn initialise(
    data: &DataDir,
    temporal: &TemporalArguments,
    session: &mut Session<'_>,
) -> Result<(), Failure> {
    let namespace = namespace(temporal)?;
    let database = Database::from_environment().map_err(ServerError::from)?;
    let key = server::init(data, &database, namespace.clone()).await?;
    let answer = json!({
        "dataDirectory": data.path(),
        "namespace": namespace,
        "adminKeyFile": key,
        "keyEncryptionKeyFile": data.kek(),
    });
    session.output.answer(&answer, |_| {
        format!(
            "made {}\n\n  \
             administrator's API key  {}\n  \
             key-encryption key       {}\n\n\
             Back up the key-encryption key apart from the database: neither can be read without \
             the other.",
            data.path().display(),
            key.display(),
            data.kek().display(),
        )
    })?;
    Ok(())
}

impl From<DevError> for Failure {
    fn from(error: DevError) -> Self {
        match error {
            DevError::Data(error) => error.into(),
            DevError::Server(error) => error.into(),
            DevError::Worker(error) => error.into(),
            DevError::NoTemporalCli(_) => Self::from_error(Exit::Unavailable, &error),
            error => Self::from_error(Exit::Failed, &error),
        }
    }
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        match error {
            ServerError::Data(error) => error.into(),
            ServerError::Temporal(error) => error.into(),
            ServerError::Serve(ServeError::NoCertificate(_)) => {
                Self::from_error(Exit::Usage, &error)
            }
            error => Self::from_error(Exit::Failed, &error),
        }
    }
}
