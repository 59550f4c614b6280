//! Where logs go. What is logged is decided where it happens; no log carries a secret.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal},
    os::unix::fs::OpenOptionsExt,
    panic,
    path::Path,
    sync::Arc,
};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

/// The least severe level that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    /// Xylem's own rooms log at this level. Everybody else stays at `warn`: HTTP and gRPC
    /// libraries print headers below it, and the SDK prints payloads.
    fn filter(self) -> EnvFilter {
        let others = match self {
            Self::Error => "error",
            _ => "warn",
        };
        let level = self.name();
        let own = [
            "xylem",
            "xylem_activities",
            "xylem_control",
            "xylem_stateful",
            "xylem_store",
            "xylem_vault",
            "xylem_workflows",
        ];
        let own = own.map(|room| format!("{room}={level}")).join(",");
        EnvFilter::new(format!("{others},{own}"))
    }
}

/// Logs go to standard error.
pub(crate) fn to_standard_error(level: Level) {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    // A subscriber that is there already is the embedding program's.
    let _ = tracing_subscriber::registry()
        .with(level.filter())
        .with(lines)
        .try_init();
}

/// Logs go to a file that only its owner can read, after what it holds.
pub(crate) fn to_file(level: Level, path: &Path) -> io::Result<()> {
    let file = open(path)?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(Arc::new(file))
        .with_ansi(false);
    let _ = tracing_subscriber::registry()
        .with(level.filter())
        .with(lines)
        .try_init();
    Ok(())
}

/// Opens a log: appends, for its owner only.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

/// A panic says where it happened and not what with: its message may hold what was being worked
/// on.
pub(crate) fn quiet_panics() {
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let place = place.unwrap_or_else(|| "an unknown place".to_owned());
        tracing::error!(panic.place = %place, "panicked");
        let _ = io::Write::write_fmt(
            &mut io::stderr(),
            format_args!("error: internal error at {place}; please report it\n"),
        );
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_never_log_below_warn() {
        for level in [Level::Warn, Level::Info, Level::Debug, Level::Trace] {
            let filter = level.filter().to_string();
            assert!(filter.split(',').any(|rule| rule == "warn"), "{filter}");
            let own = format!("xylem={}", level.name());
            assert!(filter.split(',').any(|rule| rule == own), "{filter}");
        }
    }
}
