//! The worker of the release train.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a program, not a workflow: no history is replayed with it"
)]

use std::error::Error;
use xylem::worker::{self, WorkerConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_env_filter("warn,xylem=info,xylem_activities=info")
        .with_writer(std::io::stderr)
        .init();
    let config = WorkerConfig::from_environment(release_train::TASK_QUEUE.parse()?)?;
    worker::run(config, release_train::workflows()?, xylem::interrupted()?).await?;
    Ok(())
}
