//! Opening the database, and whose turn it is.

use crate::{
    audit::{Book, Queue},
    glance::Glance,
    migrations::migrate,
    postgres::{self, PostgresAddress},
    revision::Askers,
    row::RowError,
    sql::{Connection, Row, Statement, Work, statement},
    sqlite,
};
use sqlx::{PgPool, SqlitePool, migrate::MigrateError};
use std::{
    fmt, io,
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};
use xylem_audit::LogError;

/// How long a call waits for its turn.
pub(crate) const TURN: Duration = Duration::from_secs(10);
/// How long a start waits while another process changes the schema.
pub(crate) const SCHEMA_TURN: Duration = Duration::from_secs(60);
const READERS: u32 = 4;
/// They wait for each other in the database, in the order in which they came.
const POSTGRES_WRITERS: u32 = 4;
/// The lock that whoever writes to a PostgreSQL database holds: "xylem", and which of its locks.
const WRITER: i64 = 0x7879_6c65_6d00_0001;

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

/// A database. Every commit is on disk before it is reported. Nothing that has an audit entry is
/// committed before [`Store::open_log`].
#[derive(Clone)]
pub struct Store {
    writer: Pool,
    readers: Pool,
    book: Arc<OnceLock<Book>>,
    queue: Arc<Queue>,
    askers: Arc<Askers>,
    /// For SQLite.
    glance: Option<Arc<Glance>>,
}

#[derive(Clone)]
pub(crate) enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

impl Pool {
    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(pool) => pool.close().await,
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// Opens the SQLite database in this file, readable by its owner alone, and makes it where there
    /// is none.
    ///
    /// # Errors
    /// The file cannot be made or opened, or belongs to a newer version of this program.
    pub async fn sqlite(path: &Path) -> Result<Self, OpenError> {
        sqlite::make_private(path).map_err(OpenError::File)?;
        let writer = sqlite::options(path).optimize_on_close(true, None);
        let writer = sqlite::pool(writer, 1, TURN).await;
        let writer = Pool::Sqlite(writer.map_err(OpenError::Open)?);
        up_to_date(&writer).await?;
        let readers = sqlite::options(path).pragma("query_only", "ON");
        let readers = sqlite::pool(readers, READERS, TURN).await;
        let readers = Pool::Sqlite(readers.map_err(OpenError::Open)?);
        let glance = Glance::open(path);
        let glance =
            glance.map_err(|error| OpenError::Open(sqlx::Error::AnyDriverError(error.into())))?;
        Ok(Self {
            glance: Some(Arc::new(glance)),
            ..Self::new(writer, readers)
        })
    }

    /// Opens a PostgreSQL database, which others may have open too.
    ///
    /// # Errors
    /// The server does not answer or lets nobody in, or the database belongs to a newer version of
    /// this program.
    pub async fn postgres(address: &PostgresAddress) -> Result<Self, OpenError> {
        let writer = postgres::pool(address, POSTGRES_WRITERS, TURN).await;
        let writer = Pool::Postgres(writer.map_err(OpenError::Open)?);
        up_to_date(&writer).await?;
        let readers = postgres::pool(address, READERS, TURN).await;
        let readers = Pool::Postgres(readers.map_err(OpenError::Open)?);
        Ok(Self::new(writer, readers))
    }

    fn new(writer: Pool, readers: Pool) -> Self {
        Self {
            writer,
            readers,
            book: Arc::default(),
            queue: Arc::default(),
            askers: Arc::default(),
            glance: None,
        }
    }

    /// Whether nobody has made keys in it yet.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn is_new(&self) -> Result<bool, sqlx::Error> {
        let mut work = self.read().await?;
        let key = work.one(statement("SELECT id FROM keys LIMIT 1")).await?;
        Ok(key.is_none())
    }

    /// Closes every connection; what was committed is in the database.
    pub async fn close(&self) {
        if let Some(glance) = &self.glance {
            glance.close();
        }
        for pool in [&self.readers, &self.writer] {
            pool.close().await;
        }
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<(), sqlx::Error> {
        let mut work = self.read().await?;
        work.one(statement("SELECT 1 AS answer")).await.map(drop)
    }

    /// The audit log, once it is open.
    pub(crate) fn book(&self) -> Result<&Book, LogError> {
        self.book.get().ok_or(LogError::NotOpen)
    }

    /// What waits to be appended to it.
    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Who waits to know what the database is at.
    pub(crate) fn askers(&self) -> &Askers {
        &self.askers
    }

    /// What says at once what the database is at, where there is such a thing.
    pub(crate) fn glance(&self) -> Option<&Glance> {
        self.glance.as_deref()
    }

    /// Opens the audit log; `false` where it is open already.
    pub(crate) fn set_book(&self, book: Book) -> bool {
        self.book.set(book).is_ok()
    }

    /// The turn to write: what is read from now on stays as it is until the end.
    pub(crate) async fn write(&self) -> Result<Work, sqlx::Error> {
        begin(&self.writer, TURN).await
    }

    /// A connection that reads, outside of transactions.
    pub(crate) async fn connect(&self) -> Result<Connection, sqlx::Error> {
        match &self.readers {
            Pool::Sqlite(pool) => Ok(Connection::Sqlite(pool.acquire().await?)),
            Pool::Postgres(pool) => Ok(Connection::Postgres(pool.acquire().await?)),
        }
    }

    /// The database as it is at this moment.
    pub(crate) async fn read(&self) -> Result<Work, sqlx::Error> {
        match &self.readers {
            Pool::Sqlite(pool) => Ok(Work::Sqlite(pool.begin().await?)),
            Pool::Postgres(pool) => Ok(Work::Postgres(pool.begin_with(READ).await?)),
        }
    }
}

impl Store {
    /// The one row of a query.
    pub(crate) async fn find<T, E: From<RowError>>(
        &self,
        query: Statement,
        read: fn(&Row) -> Result<T, RowError>,
    ) -> Result<Option<T>, E> {
        let mut work = self.read().await.map_err(RowError::Sql)?;
        let row = work.one(query).await.map_err(RowError::Sql)?;
        Ok(row.as_ref().map(read).transpose()?)
    }

    /// The rows of a query.
    pub(crate) async fn find_all<T, E: From<RowError>>(
        &self,
        query: Statement,
        read: fn(&Row) -> Result<T, RowError>,
    ) -> Result<Vec<T>, E> {
        let mut work = self.read().await.map_err(RowError::Sql)?;
        let rows = work.all(query).await.map_err(RowError::Sql)?;
        let read: Result<Vec<T>, RowError> = rows.iter().map(read).collect();
        Ok(read?)
    }
}

/// One snapshot, from the first statement to the last.
const READ: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";
/// The snapshot of any other level would be older than the end of the wait for the lock.
const WRITE: &str = "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE";

pub(crate) async fn begin(pool: &Pool, patience: Duration) -> Result<Work, sqlx::Error> {
    match pool {
        Pool::Sqlite(pool) => Ok(Work::Sqlite(pool.begin_with("BEGIN IMMEDIATE").await?)),
        Pool::Postgres(pool) => {
            // The lock is taken by a statement of its own: where this is dropped between the two,
            // what is left behind holds nothing.
            let mut work = Work::Postgres(pool.begin_with(WRITE).await?);
            if patience != TURN {
                let wait = statement("SELECT set_config('lock_timeout', $1, true)");
                let patience = format!("{}ms", patience.as_millis());
                work.one(wait.bind(patience)).await?;
            }
            let lock = statement("SELECT pg_advisory_xact_lock($1)");
            work.one(lock.bind(WRITER)).await?;
            Ok(work)
        }
    }
}

/// Whoever comes second finds it done.
async fn up_to_date(writer: &Pool) -> Result<(), OpenError> {
    let mut work = begin(writer, SCHEMA_TURN).await.map_err(OpenError::Open)?;
    migrate(&mut work).await.map_err(OpenError::Schema)?;
    work.commit().await.map_err(OpenError::Open)
}
