//! The worker, in a process of its own: its memory can be told from that of the measuring client,
//! and the client competes with it as any other would.

use anyhow::{Context, Result, bail};
use secrecy::SecretString;
use std::{
    env, fs,
    io::{self, Read},
    process::{Child, Command, Stdio},
    thread,
};
use tokio_util::sync::CancellationToken;
use xylem::{
    temporal::TemporalOptions,
    worker::{WorkerConfig, run_with},
};
use xylem_activities::Ports;
use xylem_testkit::AbsentPlane;

/// The task queue of everything that is measured.
pub(crate) const QUEUE: &str = "bench";

/// Larger than any tree with as many idle workflows beside it.
pub(crate) const CACHED_WORKFLOWS: usize = 5_000;

/// A worker that lives as long as its handle.
pub(crate) struct Worker(Child);

impl Worker {
    /// Starts this program again, as a worker.
    pub(crate) fn start(address: &str) -> Result<Self> {
        let program = env::current_exe().context("finding this program")?;
        let mut command = Command::new(program);
        command
            .args(["worker", "--address", address])
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        Ok(Self(command.spawn().context("starting the worker")?))
    }

    /// What it holds in memory now, in bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.0.id());
        let text = fs::read_to_string(path)
            .context("the worker's memory is read from /proc: run this on Linux")?;
        resident(&text).context("/proc does not say how much memory the worker holds")
    }

    /// Fails where the worker has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.0.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the worker has ended by itself: {status}"),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Closing its standard input ends it.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn resident(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// What the started process does: the worker that `xylem` runs, without a control plane, until
/// standard input closes.
pub(crate) async fn work(address: &str) -> Result<()> {
    thread::spawn(|| {
        let _ = io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let config = WorkerConfig {
        max_cached_workflows: CACHED_WORKFLOWS,
        ..WorkerConfig::new(
            TemporalOptions::at(address, "default"),
            QUEUE.parse()?,
            "http://127.0.0.1:9",
            SecretString::from(""),
        )
    };
    let ports = Ports::all(AbsentPlane::new());
    let workflows = xylem_workflows::shipped()?;
    Ok(run_with(config, ports, workflows, CancellationToken::new()).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_from_proc() {
        let status = "Name:\tx\nVmRSS:\t   2048 kB\nThreads:\t4\n";
        assert_eq!(resident(status), Some(2048 * 1024));
        assert_eq!(resident("Name:\tx\n"), None);
    }
}
