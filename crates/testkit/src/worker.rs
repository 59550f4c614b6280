//! A worker in the test's own process.

use crate::server::{TemporalServer, connect};
use anyhow::{Context, anyhow};
use std::{sync::mpsc, thread::JoinHandle};
use temporalio_sdk::{Runtime, Worker, WorkerOptions};

/// A worker that runs until it is dropped.
pub struct TestWorker {
    shutdown: Option<Box<dyn Fn() + Send>>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl TestWorker {
    /// Starts a worker. The SDK's worker is not `Send`, so it gets a thread of its own, and a
    /// connection that does not depend on the test's runtime: dropping a worker blocks that.
    ///
    /// # Errors
    /// The worker refused its options.
    pub fn start(server: &TemporalServer, options: WorkerOptions) -> anyhow::Result<Self> {
        let (ready, is_ready) = mpsc::channel();
        let port = server.port();
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
                let shutdown: Box<dyn Fn() + Send> = Box::new(worker.shutdown_handle());
                let _ = ready.send(shutdown);
                worker.run().await?;
                anyhow::Ok(())
            })
        });
        let shutdown = is_ready.recv().context("the worker did not start");
        match shutdown {
            Ok(shutdown) => Ok(Self {
                shutdown: Some(shutdown),
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
        if let Some(shutdown) = self.shutdown.take() {
            shutdown();
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
