//! A SQLite database in a test's folder.

use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use xylem_store::{Empty, OpenError, Store};

/// A connection beside the store: what somebody with the database could do.
pub(crate) type Burglar = SqliteConnection;

fn path(folder: &Path) -> PathBuf {
    folder.join("xylem.db")
}

/// Opens the folder's database, and makes it where there is none.
pub(crate) async fn open(folder: &Path) -> Result<Store, OpenError> {
    Store::sqlite(&path(folder)).await
}

/// A database with nothing in it.
pub(crate) async fn empty(folder: &Path) -> Empty {
    Empty::sqlite(&path(folder)).await.expect("opens")
}

pub(crate) async fn burglar(folder: &Path) -> Burglar {
    let options = SqliteConnectOptions::new()
        .filename(path(folder))
        .foreign_keys(false)
        .busy_timeout(Duration::from_secs(5));
    let opened = SqliteConnection::connect_with(&options).await;
    opened.expect("opens")
}

/// From now on nothing can be inserted into the table.
pub(crate) fn jam(table: &str) -> Vec<String> {
    vec![format!(
        "CREATE TRIGGER jammed BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'full'); END"
    )]
}

pub(crate) fn unjam(_: &str) -> Vec<String> {
    vec!["DROP TRIGGER jammed".to_owned()]
}

/// What the database has written outside of the folder.
pub(crate) async fn elsewhere(_: &Path) -> Vec<Vec<u8>> {
    Vec::new()
}
