//! Opening the database.

use crate::audit::Book;
use sqlx::{
    SqlitePool,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use std::{
    fmt, fs, io,
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};
use xylem_audit::LogError;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// How long a connection waits for a lock that another process holds.
const BUSY: Duration = Duration::from_secs(5);
/// How long a call waits for its turn.
const TURN: Duration = Duration::from_secs(10);
const READERS: u32 = 4;

/// Why the database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file could not be made, or its mode not be set.
    #[error("the database file could not be made private to its owner")]
    File(#[source] io::Error),
    /// It is no database, or it is locked.
    #[error("the database could not be opened")]
    Open(#[source] sqlx::Error),
    /// Its schema is of another version of this program.
    #[error("the database's schema could not be brought up to date")]
    Schema(#[source] MigrateError),
}

/// A SQLite database file. Every commit is on disk before it is reported. Nothing that has an audit
/// entry is committed before [`SqliteStore::open_log`].
#[derive(Clone)]
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
    book: Arc<OnceLock<Book>>,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SqliteStore")
    }
}

impl SqliteStore {
    /// Opens the database in this file, readable by its owner alone, and makes it where there is
    /// none.
    ///
    /// # Errors
    /// The file cannot be made or opened, or belongs to a newer version of this program.
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        make_private(path).map_err(OpenError::File)?;
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(TURN)
            .connect_with(options(path).optimize_on_close(true, None))
            .await
            .map_err(OpenError::Open)?;
        MIGRATIONS.run(&writer).await.map_err(OpenError::Schema)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(TURN)
            .connect_with(options(path).pragma("query_only", "ON"))
            .await
            .map_err(OpenError::Open)?;
        Ok(Self {
            writer,
            readers,
            book: Arc::default(),
        })
    }

    /// Closes every connection; what was committed is in the database file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<(), sqlx::Error> {
        sqlx::query("SELECT 1").execute(&self.readers).await?;
        Ok(())
    }

    /// The audit log, once it is open.
    pub(crate) fn book(&self) -> Result<&Book, LogError> {
        self.book.get().ok_or(LogError::NotOpen)
    }

    /// Opens the audit log; `false` where it is open already.
    pub(crate) fn set_book(&self, book: Book) -> bool {
        self.book.set(book).is_ok()
    }

    pub(crate) async fn write(
        &self,
    ) -> Result<sqlx::Transaction<'static, sqlx::Sqlite>, sqlx::Error> {
        self.writer.begin_with("BEGIN IMMEDIATE").await
    }

    pub(crate) async fn read(
        &self,
    ) -> Result<sqlx::Transaction<'static, sqlx::Sqlite>, sqlx::Error> {
        self.readers.begin().await
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
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
fn make_private(path: &Path) -> io::Result<()> {
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
fn make_private(path: &Path) -> io::Result<()> {
    let options = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    options.map(drop)
}
