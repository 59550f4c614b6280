//! A SQLite database in a test's folder.

use std::path::{Path, PathBuf};
use xylem_store::Store;

fn path(folder: &Path) -> PathBuf {
    folder.join("xylem.db")
}

/// Opens the folder's database, and makes it where there is none.
pub(crate) async fn open(folder: &Path) -> Store {
    Store::sqlite(&path(folder)).await.expect("a store")
}

/// Copies a database that nobody uses to a folder that has none.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::copy(path(from), path(to)).expect("a copy");
}

/// Edits the database, as somebody with its file could.
pub(crate) fn tamper(folder: &Path, sql: &str) {
    let burglar = rusqlite::Connection::open(path(folder)).expect("the database");
    let edited = burglar.execute(sql, []).expect("edited");
    assert!(edited > 0, "nothing was edited: {sql}");
}
