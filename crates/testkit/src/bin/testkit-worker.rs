//! A worker in a process of its own, for tests that kill it: `testkit-worker ADDRESS TASK_QUEUE`,
//! on a Temporal server of this machine. It ends when its standard input does, so that a test that
//! is killed leaves no worker behind.

use anyhow::Context;
use std::{io, net::SocketAddr};
use xylem_testkit::{AbsentPlane, NodeWorker};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().context("name the server's address")?;
    let task_queue = arguments.next().context("name the task queue")?;
    let address: SocketAddr = address.parse()?;
    let _worker = NodeWorker::on_port(address.port(), &task_queue, &AbsentPlane::new())?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}
