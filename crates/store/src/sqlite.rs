//! A database in a file.

use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use std::{fs, io, path::Path, time::Duration};

/// How long a connection waits for a lock that another process holds.
const BUSY: Duration = Duration::from_secs(5);

/// The connections that read, or the one that writes: further writers wait for it.
pub(crate) async fn pool(
    options: SqliteConnectOptions,
    most: u32,
    turn: Duration,
) -> Result<SqlitePool, sqlx::Error> {
    SqlitePoolOptions::new()
        .max_connections(most)
        .acquire_timeout(turn)
        // A file does not hang up: to ask first costs as much as a statement.
        .test_before_acquire(false)
        .connect_with(options)
        .await
}

pub(crate) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY)
        // Deleted ciphertext is overwritten, not just forgotten.
        .pragma("secure_delete", "ON")
        .pragma("trusted_schema", "OFF")
}

/// The write-ahead log and its index take their mode from the database file.
#[cfg(unix)]
pub(crate) fn make_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))
}

#[cfg(not(unix))]
pub(crate) fn make_private(path: &Path) -> io::Result<()> {
    let options = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    options.map(drop)
}
