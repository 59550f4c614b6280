//! A worker in the test's own process.

use crate::{
    plane::AbsentPlane,
    server::{TemporalServer, connect},
};
use anyhow::{Context, anyhow};
use std::{
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};
use temporalio_sdk::{Runtime, Worker, WorkerOptions};
use tokio::sync::oneshot;
use xylem_activities::{Activities, Ports, Settings};
use xylem_stateful::{WATCH_QUEUE_SUFFIX, Workflows};

/// The workflow types of the tests: the shipped ones and [`crate::Walker`].
///
/// # Errors
/// None in practice: their names and slots are valid.
pub fn test_workflows() -> anyhow::Result<Workflows> {
    Ok(xylem_workflows::shipped()?.with::<crate::Walker>()?)
}

/// A worker for trees without a control plane, and the one that watches children.
pub struct NodeWorker {
    _nodes: TestWorker,
    _watch: TestWorker,
}

impl NodeWorker {
    /// Starts both.
    ///
    /// # Errors
    /// A worker refused its options.
    pub fn start(
        server: &TemporalServer,
        task_queue: &str,
        plane: &Arc<AbsentPlane>,
    ) -> anyhow::Result<Self> {
        Self::on_port(server.port(), task_queue, plane)
    }

    /// Starts both on a server of another process on this machine.
    ///
    /// # Errors
    /// A worker refused its options.
    pub fn on_port(port: u16, task_queue: &str, plane: &Arc<AbsentPlane>) -> anyhow::Result<Self> {
        let activities = || Activities::new(Ports::all(plane.clone()), Settings::default());
        let mut nodes = WorkerOptions::new(task_queue)
            .register_activities(activities()?)
            .max_cached_workflows(2_000_usize)
            .graceful_shutdown_period(Duration::from_millis(200))
            .build();
        test_workflows()?.install(&mut nodes)?;
        let watch = WorkerOptions::new(format!("{task_queue}{WATCH_QUEUE_SUFFIX}"))
            .register_activities(activities()?)
            .graceful_shutdown_period(Duration::from_millis(200))
            .build();
        Ok(Self {
            _nodes: TestWorker::on_port(port, nodes)?,
            _watch: TestWorker::on_port(port, watch)?,
        })
    }
}

/// A worker that runs until it is dropped.
pub struct TestWorker {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl TestWorker {
    /// Starts a worker. The SDK's worker is not `Send`, so it gets a thread of its own, and a
    /// connection and a runtime that do not depend on the test's: dropping a worker blocks that.
    ///
    /// # Errors
    /// The worker refused its options.
    pub fn start(server: &TemporalServer, options: WorkerOptions) -> anyhow::Result<Self> {
        Self::on_port(server.port(), options)
    }

    fn on_port(port: u16, options: WorkerOptions) -> anyhow::Result<Self> {
        let (ready, is_ready) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let tokio = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            tokio.block_on(async move {
                let client = connect(port).await?;
                let runtime = Runtime::from_current_tokio(Default::default())?;
                let mut worker = Worker::new(&runtime, client, options)
                    .map_err(|error| anyhow!("the worker refused its options: {error}"))?;
                let shutdown = worker.shutdown_handle();
                // In this runtime: the SDK spawns what tells the server to end the polls.
                let stopping = async {
                    let _ = stopped.await;
                    shutdown();
                    anyhow::Ok(())
                };
                let _ = ready.send(());
                let running = async { Ok(worker.run().await?) };
                tokio::try_join!(running, stopping)?;
                anyhow::Ok(())
            })
        });
        match is_ready.recv().context("the worker did not start") {
            Ok(()) => Ok(Self {
                stop: Some(stop),
                thread: Some(thread),
            }),
            Err(error) => match thread.join() {
                Ok(Err(cause)) => Err(cause),
                _ => Err(error),
            },
        }
    }
}

impl Drop for TestWorker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
