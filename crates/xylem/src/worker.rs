//! A worker: polls a task queue and runs StatefulWorkflows and the activities they rely on.
//!
//! ```no_run
//! use xylem::worker::{self, WorkerConfig};
//! use xylem_stateful::Workflows;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let config = WorkerConfig::from_environment("release-train".parse()?)?;
//!     let workflows = Workflows::default(); // .with::<Train>()?.with::<Stage>()?
//!     worker::run(config, workflows, xylem::interrupted()?).await?;
//!     Ok(())
//! }
//! ```

mod adapter;
mod config;

pub use adapter::ControlPlane;
pub(crate) use config::CACHED_WORKFLOWS;
pub use config::{ConfigError, WorkerConfig, WorkerSlots};

use crate::temporal::TemporalError;
use std::{sync::Arc, thread, time::Duration};
use temporalio_client::Client as Temporal;
use temporalio_sdk::{
    Runtime, RuntimeError, Worker, WorkerCreateError, WorkerOptions, WorkerRunError,
    runtime::{
        RuntimeOptions,
        worker_tuner::{FixedSizeSlotSupplier, TunerHolder},
    },
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use xylem_activities::{Activities, AddressPolicy, OutboundError, Ports, Settings};
use xylem_client::{Client, ConnectError, Definition};
use xylem_ids::TaskQueue;
use xylem_stateful::{RegisterError, WATCH_QUEUE_SUFFIX, Workflows};

/// How long activities may go on after the worker was asked to stop.
const GRACE: Duration = Duration::from_secs(10);

/// The same for those that watch children: they would not end by themselves, and go on elsewhere.
const WATCHERS_GRACE: Duration = Duration::from_millis(100);

/// How long to wait before the control plane is asked again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a worker does not run, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// No connection to Temporal.
    #[error(transparent)]
    Temporal(#[from] TemporalError),
    /// The control plane's address or the API key cannot be used.
    #[error(transparent)]
    ControlPlane(#[from] ConnectError),
    /// The control plane did not take the worker's definitions.
    #[error("the control plane does not take the workflow types of task queue {queue}")]
    Definitions {
        /// The queue.
        queue: TaskQueue,
        /// What the control plane said.
        source: Box<xylem_client::Error>,
    },
    /// The TLS root certificates cannot be loaded.
    #[error("the HTTP client of the activities cannot be made")]
    Http(#[from] OutboundError),
    /// A workflow type is registered twice.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// The SDK could not be set up.
    #[error("the Temporal SDK could not be set up")]
    Runtime(#[from] RuntimeError),
    /// The SDK did not take the worker's options.
    #[error("the Temporal SDK did not make the worker")]
    Create(#[from] WorkerCreateError),
    /// The worker ended by itself.
    #[error("the worker on task queue {queue} has failed")]
    Run {
        /// The queue.
        queue: String,
        /// Why.
        source: Box<WorkerRunError>,
    },
    /// A thread could not be started, or has panicked.
    #[error("the worker's thread for task queue {0} did not run to its end")]
    Thread(String),
}

/// Runs a worker until `shutdown` is cancelled: workflows and activities on the task queue, and on
/// a second queue beside it the activities that watch children, which last as long as the children
/// do and must not hold the slots of others.
///
/// Waits for the control plane, so that both can be started at the same time. After `shutdown`,
/// activities have 10 s to end.
///
/// # Errors
/// Temporal cannot be reached, the control plane refuses the API key or the task queue, or the
/// worker fails for good.
pub async fn run(
    config: WorkerConfig,
    workflows: Workflows,
    shutdown: CancellationToken,
) -> Result<(), WorkerError> {
    let control = Client::connect_lazy_with(&config.control_plane, &config.tls, &config.api_key)?;
    let temporal = config.temporal.connect().await?;
    if !register(&control, &config.task_queue, &workflows, &shutdown).await? {
        return Ok(());
    }
    let ports = Ports::all(Arc::new(ControlPlane::new(control)));
    work(temporal, &config, &ports, &workflows, &shutdown).await
}

/// The same with ports of the caller's own. The control plane that the configuration names is not
/// asked for anything: a benchmark runs the very same worker without one.
///
/// # Errors
/// Temporal cannot be reached, or the worker fails for good.
pub async fn run_with(
    config: WorkerConfig,
    ports: Ports,
    workflows: Workflows,
    shutdown: CancellationToken,
) -> Result<(), WorkerError> {
    let temporal = config.temporal.connect().await?;
    work(temporal, &config, &ports, &workflows, &shutdown).await
}

async fn work(
    temporal: Temporal,
    config: &WorkerConfig,
    ports: &Ports,
    workflows: &Workflows,
    shutdown: &CancellationToken,
) -> Result<(), WorkerError> {
    let slots = config.slots;
    let queue = config.task_queue.to_string();

    let mut options = WorkerOptions::new(&queue)
        .max_cached_workflows(config.max_cached_workflows)
        .graceful_shutdown_period(GRACE)
        .tuner(tuner(
            slots.workflow_tasks,
            slots.activities,
            slots.local_activities,
        ))
        .build();
    workflows.install(&mut options)?;
    options.register_activities(activities(ports, config)?);

    let watching = WorkerOptions::new(format!("{queue}{WATCH_QUEUE_SUFFIX}"))
        .max_cached_workflows(0_usize)
        .graceful_shutdown_period(WATCHERS_GRACE)
        .tuner(tuner(1, slots.watchers, 1))
        .register_activities(activities(ports, config)?)
        .build();

    info!(task.queue = %queue, "worker started");
    // Whichever ends first takes the other one with it.
    let stop = shutdown.child_token();
    let (ran, watched) = tokio::join!(
        spawn(temporal.clone(), options, stop.clone()),
        spawn(temporal, watching, stop),
    );
    info!(task.queue = %queue, "worker stopped");
    ran.and(watched)
}

/// Tells the control plane what runs on the queue; false where shutdown came first.
async fn register(
    control: &Client,
    queue: &TaskQueue,
    workflows: &Workflows,
    shutdown: &CancellationToken,
) -> Result<bool, WorkerError> {
    let definitions: Vec<_> = workflows.definitions().iter().map(declared).collect();
    let mut told = false;
    loop {
        let asked = control.register_definitions(queue.clone(), definitions.clone());
        let error = tokio::select! {
            answer = asked => match answer {
                Ok(()) => return Ok(true),
                Err(error) => error,
            },
            () = shutdown.cancelled() => return Ok(false),
        };
        if !error.is_retryable() {
            let queue = queue.clone();
            return Err(WorkerError::Definitions {
                queue,
                source: Box::new(error),
            });
        }
        if !std::mem::replace(&mut told, true) {
            warn!(%error, "waiting for the control plane");
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY_AFTER) => {}
            () = shutdown.cancelled() => return Ok(false),
        }
    }
}

fn declared(definition: &xylem_stateful::Definition) -> Definition {
    Definition {
        workflow_type: definition.workflow_type.clone(),
        slots: definition.slots.iter().cloned().collect(),
        transit: definition.transit.iter().cloned().collect(),
    }
}

fn activities(ports: &Ports, config: &WorkerConfig) -> Result<Activities, OutboundError> {
    let addresses = AddressPolicy {
        development: config.development,
        private: config.private_networks.clone(),
    };
    Activities::new(ports.clone(), Settings { addresses })
}

fn tuner(workflow_tasks: usize, activities: usize, local_activities: usize) -> TunerHolder {
    TunerHolder::builder()
        .workflow_task_slot_supplier(FixedSizeSlotSupplier::new(workflow_tasks))
        .activity_task_slot_supplier(FixedSizeSlotSupplier::new(activities))
        .local_activity_task_slot_supplier(FixedSizeSlotSupplier::new(local_activities))
        .nexus_task_slot_supplier(FixedSizeSlotSupplier::new(1))
        .build()
}

/// Runs one SDK worker in a thread of its own: workflow code is not `Send` and keeps its thread.
async fn spawn(
    temporal: Temporal,
    options: WorkerOptions,
    stop: CancellationToken,
) -> Result<(), WorkerError> {
    let queue = options.task_queue.clone();
    let runtime = tokio::runtime::Handle::current();
    let (ended, end) = oneshot::channel();
    // However this ends, the other worker ends too.
    let stopped = stop.clone().drop_guard();
    let thread = thread::Builder::new().name(queue.clone()).spawn(move || {
        let ran = runtime.block_on(poll(temporal, options, stop));
        // Nobody waits any more where the caller was dropped.
        let _ = ended.send(ran);
    });
    if thread.is_err() {
        return Err(WorkerError::Thread(queue));
    }
    let ran = end.await.unwrap_or(Err(WorkerError::Thread(queue)));
    drop(stopped);
    ran
}

async fn poll(
    temporal: Temporal,
    options: WorkerOptions,
    stop: CancellationToken,
) -> Result<(), WorkerError> {
    let queue = options.task_queue.clone();
    let runtime = Runtime::from_current_tokio(RuntimeOptions::default())?;
    let mut worker = Worker::new(&runtime, temporal, options)?;
    let shut_down = worker.shutdown_handle();
    let running = worker.run();
    tokio::pin!(running);
    let ran = tokio::select! {
        ran = &mut running => ran,
        () = stop.cancelled() => {
            shut_down();
            running.await
        }
    };
    ran.map_err(|source| WorkerError::Run {
        queue,
        source: Box::new(source),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temporal::TemporalOptions;
    use secrecy::SecretString;
    use tokio::net::TcpSocket;

    /// Where nobody listens: nobody else is given the port as long as the socket lives.
    fn unused_port() -> (TcpSocket, u16) {
        let socket = TcpSocket::new_v4().expect("a socket");
        let anywhere = "127.0.0.1:0".parse().expect("an address");
        socket.bind(anywhere).expect("a port");
        let port = socket.local_addr().expect("its address").port();
        (socket, port)
    }

    #[tokio::test]
    async fn a_worker_that_waits_for_the_control_plane_can_be_stopped() {
        let (_nobody, port) = unused_port();
        let address = format!("http://127.0.0.1:{port}");
        let control = Client::connect_lazy(&address, &SecretString::from("xyk_test"));
        let control = control.expect("well formed");
        let queue = "xylem".parse().expect("a queue");
        let shutdown = CancellationToken::new();
        let workflows = Workflows::default();
        let registering = register(&control, &queue, &workflows, &shutdown);
        tokio::pin!(registering);
        let early = tokio::time::timeout(Duration::from_millis(200), &mut registering);
        assert!(early.await.is_err(), "it did not wait");
        shutdown.cancel();
        assert!(!registering.await.expect("no failure"));
    }

    #[tokio::test]
    async fn without_temporal_a_worker_says_so() {
        let (_nobody, port) = unused_port();
        let temporal = TemporalOptions::at(format!("127.0.0.1:{port}"), "default");
        let queue = "xylem".parse().expect("a queue");
        let key = SecretString::from("xyk_test");
        let config = WorkerConfig::new(temporal, queue, "http://127.0.0.1:9", key);
        let ran = run(config, Workflows::default(), CancellationToken::new()).await;
        assert!(matches!(ran, Err(WorkerError::Temporal(_))), "{ran:?}");
    }

    #[test]
    fn a_worker_can_run_in_a_task() {
        fn is_send<T: Send>(_: &T) {}
        let temporal = TemporalOptions::at("127.0.0.1:9", "default");
        let queue = "xylem".parse().expect("a queue");
        let key = SecretString::from("xyk_test");
        let config = WorkerConfig::new(temporal, queue, "http://127.0.0.1:9", key);
        is_send(&run(config, Workflows::default(), CancellationToken::new()));
    }
}
