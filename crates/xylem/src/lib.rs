//! The composition root of Xylem: `xylem dev`, `server`, `worker` and the operator's commands, and
//! [`worker`] for programs that run workflows of their own.

pub mod cli;
pub mod data;
pub mod dev;
mod logging;
pub mod server;
mod signed_in;
pub mod temporal;
mod trust;
pub mod worker;

use std::io;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled at Ctrl-C or SIGTERM.
///
/// # Errors
/// The signals cannot be waited for.
pub fn interrupted() -> io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        cancelled.cancel();
    });
    Ok(token)
}
