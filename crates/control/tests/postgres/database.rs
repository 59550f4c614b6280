//! A PostgreSQL database whose name lies in a test's folder.

use std::{fs, path::Path};
use xylem_store::{PostgresAddress, Store};
use xylem_testdb::Server;

fn server() -> &'static Server {
    Server::shared(env!("CARGO_TARGET_TMPDIR"))
}

/// The URL of the folder's database.
fn url(folder: &Path) -> std::io::Result<String> {
    fs::read_to_string(folder.join("database"))
}

fn keep(folder: &Path, url: &str) {
    fs::write(folder.join("database"), url).expect("writes");
}

/// Opens the folder's database, and makes it where there is none.
pub(crate) async fn open(folder: &Path) -> Store {
    let url = url(folder).unwrap_or_else(|_| {
        let url = server().database();
        keep(folder, &url);
        url
    });
    let address: PostgresAddress = url.parse().expect("an address");
    Store::postgres(&address).await.expect("a store")
}

/// Copies a database that nobody uses to a folder that has none.
pub(crate) fn copy(from: &Path, to: &Path) {
    let url = url(from).expect("a database");
    keep(to, &server().copy(&url));
}

/// Edits the database, as its administrator could.
pub(crate) fn tamper(folder: &Path, sql: &str) {
    let url = url(folder).expect("a database");
    let checked = format!(
        "DO $$ BEGIN {sql}; IF NOT FOUND THEN RAISE EXCEPTION 'nothing was edited'; END IF; END $$"
    );
    server().execute_in(&url, &checked).expect("edited");
}
