//! Everything on this machine, for development: a Temporal server, the control plane and a worker
//! with the shipped workflows, with authentication on.

mod ports;
mod process;

use crate::{
    data::{DataDir, DataError, Endpoints},
    server::{self, Server, ServerConfig, ServerError},
    temporal::{TemporalOptions, pollers},
    worker::{self, WorkerConfig, WorkerError},
};
use ports::{Choice, Wish};
use process::{DatabaseLock, StartFailure, TemporalPorts, TemporalServer};
use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};
use temporalio_common::protos::temporal::api::enums::v1::TaskQueueType;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use xylem_control::{CredentialProviders, Limits};
use xylem_ids::{IdError, Namespace, TaskQueue};
use xylem_stateful::{RegisterError, WATCH_QUEUE_SUFFIX, Workflows};

/// How often other ports are tried when somebody else takes those that were found free.
const ATTEMPTS: usize = 4;
/// How long the worker may take until Temporal sees it.
const READY_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How `xylem dev` is started.
#[derive(Debug, Clone)]
pub struct DevConfig {
    /// Where everything is kept.
    pub data: DataDir,
    /// The Temporal CLI; `TEMPORAL_CLI` or `temporal` on the `PATH` where none is named.
    pub temporal_cli: Option<PathBuf>,
    /// The Temporal server's port. Where none is named: that of the last start, the usual one or
    /// any, whichever is free. 0 is any.
    pub temporal_port: Option<u16>,
    /// The web UI's port, as above.
    pub web_ui_port: Option<u16>,
    /// The control plane's port, as above.
    pub control_port: Option<u16>,
    /// The Temporal namespace.
    pub namespace: Namespace,
    /// The task queue that the worker polls.
    pub task_queue: TaskQueue,
    /// How long after a rotation a tree is swept on its own; not at all where absent.
    pub sweep_after_rotation: Option<Duration>,
    /// Files and commands that give the values of stored credentials.
    pub credential_providers: CredentialProviders,
}

impl DevConfig {
    /// Everything as usual, with data here.
    ///
    /// # Errors
    /// Never: the usual names keep their rules.
    pub fn new(data: DataDir) -> Result<Self, IdError> {
        Ok(Self {
            data,
            temporal_cli: None,
            temporal_port: None,
            web_ui_port: None,
            control_port: None,
            namespace: "default".parse()?,
            task_queue: "xylem".parse()?,
            sweep_after_rotation: Some(Duration::from_secs(15)),
            credential_providers: CredentialProviders::default(),
        })
    }
}

/// Why it does not run, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// There is no Temporal CLI.
    #[error(
        "no Temporal CLI{}: install it (https://docs.temporal.io/cli) or name it with TEMPORAL_CLI",
        .0.as_deref().map(|path| format!(" at {}", path.display())).unwrap_or_default()
    )]
    NoTemporalCli(Option<PathBuf>),
    /// Another `xylem dev` uses the data directory.
    #[error("another `xylem dev` is running on {}: stop it, or name another --data-dir", .0.display())]
    AlreadyRunning(PathBuf),
    /// A Temporal server that was not started here uses the database.
    #[error("another Temporal server uses {}: stop it first", .0.display())]
    DatabaseInUse(PathBuf),
    /// The Temporal server did not start.
    #[error("the Temporal server {what}; its log is {}{}", .log.display(), last_words(.said))]
    TemporalStart {
        /// How it failed.
        what: &'static str,
        /// The last thing it said.
        said: String,
        /// Where the rest is.
        log: PathBuf,
    },
    /// The Temporal server ended while it was needed.
    #[error("the Temporal server has ended by itself; its log is {}", .0.display())]
    TemporalEnded(PathBuf),
    /// The worker does not poll.
    #[error("the worker did not begin to poll its task queue within 60 s")]
    NotPolled,
    /// A port is taken.
    #[error("port {0} is taken: stop what listens there, or name another")]
    PortTaken(u16),
    /// No free ports were found.
    #[error("no ports were found that stay free")]
    NoPorts,
    /// A file or directory cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The control plane.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The worker.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The shipped workflows.
    #[error(transparent)]
    Workflows(#[from] RegisterError),
}

fn last_words(said: &str) -> String {
    match said {
        "" => String::new(),
        said => format!("; it said last: {said}"),
    }
}

impl DevError {
    fn io(verb: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Data(DataError::io(verb, path, source))
    }
}

/// A running stack. [`Dev::stop`] ends it cleanly; dropping it kills the Temporal server and ends
/// the rest without waiting.
#[derive(Debug)]
pub struct Dev {
    endpoints: Endpoints,
    stop_worker: DropGuard,
    worker: RunningWorker,
    server: Server,
    temporal: TemporalServer,
    // Held as long as anything of the above runs.
    _database: DatabaseLock,
    _running: File,
    log: PathBuf,
}

impl Dev {
    /// Starts everything and waits until it is ready; `progress` is told what is being done.
    ///
    /// # Errors
    /// Something could not be started. What was started before is stopped again.
    pub async fn start(
        config: DevConfig,
        workflows: Workflows,
        progress: impl Fn(&str),
    ) -> Result<Self, DevError> {
        let data = &config.data;
        data.create()?;
        let running = exclusive(data)?;
        let cli = process::find(config.temporal_cli.as_deref())?;
        let before = data.endpoints()?;

        progress("starting Temporal");
        let mut database = DatabaseLock::take(data).await?;
        let (temporal, ports) =
            start_temporal(&config, &cli, before.as_ref(), &mut database).await?;
        let options = TemporalOptions::at(
            format!("127.0.0.1:{}", ports.frontend),
            config.namespace.as_str(),
        );

        progress("starting the control plane");
        let server = Server::start(ServerConfig {
            development: true,
            single_operator: true,
            // One developer on one machine: whatever is tried out there asks as fast as it can.
            limits: Limits {
                requests_per_address: 0,
                requests_per_agent: 0,
                ..Limits::default()
            },
            listen: control_addresses(&config, before.as_ref()),
            sweep_after_rotation: config.sweep_after_rotation,
            credential_providers: config.credential_providers.clone(),
            ..ServerConfig::new(data.clone(), options.clone())
        })
        .await?;

        progress("starting the worker");
        let (worker, stop_worker) = start_worker(&config, &server, &options, workflows).await?;
        let mut dev = Self {
            endpoints: endpoints(&config, &server, ports),
            stop_worker,
            worker,
            server,
            temporal,
            _database: database,
            _running: running,
            log: data.temporal_log(),
        };
        dev.polled(&options).await?;
        data.record(&dev.endpoints)?;
        Ok(dev)
    }

    /// Waits until the worker polls its task queues.
    async fn polled(&mut self, options: &TemporalOptions) -> Result<(), DevError> {
        let queue = self.endpoints.task_queue.clone();
        let watching = format!("{queue}{WATCH_QUEUE_SUFFIX}");
        let polled = async {
            let temporal = options.connect().await.map_err(WorkerError::from)?;
            for queue in [queue, watching] {
                while !pollers(&temporal, &queue, TaskQueueType::Activity).await {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
            Ok(())
        };
        tokio::select! {
            polled = polled => polled,
            error = self.failed() => Err(error),
            () = tokio::time::sleep(READY_WITHIN) => Err(DevError::NotPolled),
        }
    }

    /// Where everything listens.
    #[must_use]
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Waits until something of it ends by itself.
    pub async fn failed(&mut self) -> DevError {
        tokio::select! {
            () = self.temporal.ended() => DevError::TemporalEnded(self.log.clone()),
            error = self.server.failed() => error.into(),
            ended = &mut self.worker => match ended {
                Ok(Err(error)) => error.into(),
                _ => WorkerError::Thread(self.endpoints.task_queue.clone()).into(),
            },
        }
    }

    /// Stops everything: the worker first, Temporal last.
    pub async fn stop(self) {
        drop(self.stop_worker);
        if !self.worker.is_finished() {
            let _ = self.worker.await;
        }
        self.server.stop().await;
        self.temporal.stop().await;
    }
}

/// Takes the data directory for this process.
fn exclusive(data: &DataDir) -> Result<File, DevError> {
    let path = data.path().join("xylem.lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|source| DevError::io("lock", &path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DevError::AlreadyRunning(data.path().to_owned())),
        Err(TryLockError::Error(source)) => Err(DevError::io("lock", &path, source)),
    }
}

/// Starts Temporal on ports that stay free.
async fn start_temporal(
    config: &DevConfig,
    cli: &Path,
    before: Option<&Endpoints>,
    lock: &mut DatabaseLock,
) -> Result<(TemporalServer, TemporalPorts), DevError> {
    let frontend = Wish {
        named: config.temporal_port,
        last: before.and_then(|before| ports::of(&before.temporal_address)),
        usual: 7233,
    };
    let web_ui = Wish {
        named: config.web_ui_port,
        last: before.and_then(|before| ports::of(before.web_ui.as_deref()?)),
        usual: 8233,
    };
    for attempt in 0..ATTEMPTS {
        let (Some(frontend), Some(web_ui)) =
            (frontend.choose(attempt > 0), web_ui.choose(attempt > 0))
        else {
            return Err(DevError::NoPorts);
        };
        let ports = TemporalPorts {
            frontend: frontend.port,
            web_ui: web_ui.port,
        };
        let namespace = config.namespace.as_str();
        match TemporalServer::start(cli, &config.data, namespace, ports, lock).await {
            Ok(server) => return Ok((server, ports)),
            Err(StartFailure::Other(error)) => return Err(error),
            Err(StartFailure::PortTaken) => insist([frontend, web_ui])?,
        }
    }
    Err(DevError::NoPorts)
}

/// A port that the user named is not exchanged for another.
fn insist(choices: [Choice; 2]) -> Result<(), DevError> {
    match choices.iter().find(|choice| choice.fixed) {
        Some(choice) => Err(DevError::PortTaken(choice.port)),
        None => Ok(()),
    }
}

type RunningWorker = JoinHandle<Result<(), WorkerError>>;

/// Starts the worker with a key of its own.
async fn start_worker(
    config: &DevConfig,
    server: &Server,
    temporal: &TemporalOptions,
    workflows: Workflows,
) -> Result<(RunningWorker, DropGuard), DevError> {
    let queue = config.task_queue.clone();
    let key = server.worker_key(std::slice::from_ref(&queue)).await?;
    let worker = WorkerConfig {
        development: true,
        ..WorkerConfig::new(temporal.clone(), queue, server.address(), key)
    };
    let stop = CancellationToken::new();
    let running = tokio::spawn(worker::run(worker, workflows, stop.clone()));
    Ok((running, stop.drop_guard()))
}

fn endpoints(config: &DevConfig, server: &Server, ports: TemporalPorts) -> Endpoints {
    Endpoints {
        temporal_address: format!("127.0.0.1:{}", ports.frontend),
        namespace: config.namespace.to_string(),
        web_ui: Some(format!("http://127.0.0.1:{}", ports.web_ui)),
        control_plane: server.address(),
        data_directory: config.data.path().to_owned(),
        task_queue: config.task_queue.to_string(),
    }
}

/// Where the control plane may listen, in this order: it binds by itself, so that nobody comes in
/// between.
fn control_addresses(config: &DevConfig, before: Option<&Endpoints>) -> Vec<SocketAddr> {
    let last = before.and_then(|before| ports::of(&before.control_plane));
    let ports = match config.control_port {
        Some(port) => vec![Some(port)],
        None => vec![last, Some(server::DEFAULT_PORT), Some(0)],
    };
    let ports = ports.into_iter().flatten();
    ports
        .map(|port| (Ipv4Addr::LOCALHOST, port).into())
        .collect()
}
