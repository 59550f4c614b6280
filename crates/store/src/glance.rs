//! The revision of an SQLite database, read on the thread that asks.
//!
//! Each connection of the pool works on a thread of its own. To get there and back takes several times
//! as long as to read one row of a page that is in memory, and every request reads this one.

use rusqlite::{Connection, OpenFlags};
use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use xylem_recall::Revision;

/// A connection for that one read; none any more once it is closed.
pub(crate) struct Glance(Mutex<Option<Connection>>);

impl Glance {
    /// Opens the database in this file, which is there and has its schema.
    pub(crate) fn open(path: &Path) -> Result<Self, rusqlite::Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.pragma_update(None, "trusted_schema", "OFF")?;
        // The thread that asks has others to serve: it does not wait.
        connection.busy_timeout(Duration::ZERO)?;
        Ok(Self(Mutex::new(Some(connection))))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The revision now. None where that cannot be said at once: then it is read like anything else,
    /// which waits, and says what is wrong.
    pub(crate) fn revision(&self) -> Option<Revision> {
        let connection = self.lock();
        // There is one row, which need not be looked for by its key.
        let query = "SELECT number FROM revision";
        let mut statement = connection.as_ref()?.prepare_cached(query).ok()?;
        let number = statement.query_row((), |row| row.get(0)).ok()?;
        Some(Revision::new(number))
    }

    pub(crate) fn close(&self) {
        drop(self.lock().take());
    }
}
