//! `xylem dev`, `xylem server` and `xylem worker`: what runs until it is stopped.

mod file;
mod settings;

use super::{
    failure::{Exit, Failure},
    session::Session,
};
use crate::{
    data::{DataDir, DataError, Endpoints},
    dev::{Dev, DevConfig, DevError},
    logging::{self, Level},
    server::{self, Database, Server, ServerConfig, ServerError},
    temporal::TemporalOptions,
    worker::{self, WorkerConfig, WorkerError, WorkerSlots},
};
use clap::ArgMatches;
use ipnet::IpNet;
use serde_json::json;
use settings::Settings;
use std::{
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};
use xylem_control::ServeError;
use xylem_ids::{IdError, Namespace, TaskQueue};

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
    /// What was named, and where nothing was, what others say.
    pub(crate) fn or(self, others: Self) -> Self {
        Self {
            temporal_address: self.temporal_address.or(others.temporal_address),
            namespace: self.namespace.or(others.namespace),
            temporal_key_file: self.temporal_key_file.or(others.temporal_key_file),
            temporal_profile: self.temporal_profile.or(others.temporal_profile),
            tls_ca: self.tls_ca.or(others.tls_ca),
            tls_cert: self.tls_cert.or(others.tls_cert),
            tls_key: self.tls_key.or(others.tls_key),
            tls_server_name: self.tls_server_name.or(others.tls_server_name),
        }
    }

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
    /// Files and commands that give the values of stored credentials, TOML, for its owner only;
    /// docs/credentials.md has the fields
    #[arg(long, value_name = "FILE")]
    credential_providers: Option<PathBuf>,
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
    let giving = arguments.credential_providers.as_deref();
    let giving = giving.map(crate::server::credential_providers).transpose();
    let config = DevConfig {
        credential_providers: giving.map_err(ServerError::from)?.unwrap_or_default(),
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
    config: ConfigFile,
    /// Say whether the settings, and the files that they name, can be used; start nothing
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    settings: Settings,
}

/// Where the settings of `xylem server` are.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigFile {
    /// The file with the settings of `xylem server`, whose options go before it [default: server.toml in
    /// the data directory, where there is one]
    #[arg(
        long,
        value_name = "FILE",
        env = "XYLEM_CONFIG",
        hide_env_values = true
    )]
    config: Option<PathBuf>,
}

impl ConfigFile {
    fn path(&self, data: &DataDir) -> Option<PathBuf> {
        let standard = || Some(data.settings()).filter(|file| file.exists());
        self.config.clone().or_else(standard)
    }

    /// What it says; none where there is no file.
    pub(crate) fn settings(&self, data: &DataDir) -> Result<Option<Settings>, Failure> {
        let file = self.path(data);
        file.map(|file| file::alone(&file)).transpose()
    }
}

#[derive(Debug, clap::Subcommand)]
enum ServerCommand {
    /// Make the keys, the first administrator and the settings of an installation; changes nothing that
    /// is there
    ///
    /// The options that are given here are written to server.toml in the data directory, and all others
    /// as comments: `xylem server` reads it. Nothing in it is secret.
    Init(InitArguments),
}

#[derive(Debug, clap::Args)]
struct InitArguments {
    #[command(flatten)]
    settings: Settings,
}

/// Runs the control plane, or makes an installation. `given` says what stood on the command line.
pub(crate) async fn server(
    arguments: ServerArguments,
    given: &ArgMatches,
    level: Option<Level>,
    session: &mut Session<'_>,
) -> Result<(), Failure> {
    logging::to_standard_error(level.unwrap_or(Level::Info));
    let data = session.access.data_or(DataDir::server)?;
    if let Some(ServerCommand::Init(init)) = arguments.command {
        let given = given.subcommand_matches("init").unwrap_or(given);
        return initialise(&data, &init.settings, &file::write(given)?, session).await;
    }
    let config_file = arguments.config.path(&data);
    let settings = match &config_file {
        Some(file) => file::complete(given, file)?,
        None => arguments.settings,
    };
    let config = settings.config(data)?;
    if arguments.check {
        return check(&config, config_file, session);
    }
    run(config, session).await
}

fn check(
    config: &ServerConfig,
    file: Option<PathBuf>,
    session: &mut Session<'_>,
) -> Result<(), Failure> {
    config.check()?;
    let answer = json!({ "configFile": file, "dataDirectory": config.data.path() });
    session.output.answer(&answer, |_| match file {
        Some(file) => format!("{} can be used", file.display()),
        None => "the settings can be used".to_owned(),
    })?;
    Ok(())
}

async fn run(config: ServerConfig, session: &mut Session<'_>) -> Result<(), Failure> {
    let shutdown = interrupted()?;
    let data = config.data.clone();
    let resolved = config.temporal.resolve()?;
    let mut server = tokio::select! {
        started = Server::start(config) => started?,
        // What was started so far ends with the future that held it.
        () = shutdown.cancelled() => return Ok(()),
    };
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
    settings: &Settings,
    text: &str,
    session: &mut Session<'_>,
) -> Result<(), Failure> {
    let namespace = namespace(settings.temporal())?;
    let database = Database::from_environment().map_err(ServerError::from)?;
    let key = server::init(data, &database, namespace.clone(), text).await?;
    let answer = json!({
        "dataDirectory": data.path(),
        "namespace": namespace,
        "adminKeyFile": key,
        "keyEncryptionKeyFile": data.kek(),
        "configFile": data.settings(),
    });
    session.output.answer(&answer, |_| {
        format!(
            "made {}\n\n  \
             administrator's API key  {}\n  \
             key-encryption key       {}\n  \
             settings                 {}\n\n\
             Back up the key-encryption key apart from the database: neither can be read without \
             the other.",
            data.path().display(),
            key.display(),
            data.kek().display(),
            data.settings().display(),
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
