//! A PostgreSQL database whose URL lies in a test's folder.

use sqlx::{Connection, PgConnection};
use std::{fs, path::Path};
use xylem_store::{Empty, OpenError, PostgresAddress, Store};
use xylem_testdb::Server;

/// Where new clusters are copied from.
pub(crate) const CACHE: &str = env!("CARGO_TARGET_TMPDIR");

/// A connection beside the store: what somebody with the database could do.
pub(crate) type Burglar = PgConnection;

/// The words of SQLite that tests use.
const WORDS: &str = "CREATE FUNCTION zeroblob(integer) RETURNS bytea LANGUAGE sql
    AS $$ SELECT decode(repeat('00', $1), 'hex') $$";

/// The folder's database; a new one where it has none.
pub(crate) async fn url(folder: &Path) -> String {
    let file = folder.join("database");
    if let Ok(url) = fs::read_to_string(&file) {
        return url;
    }
    let url = Server::shared(CACHE).database();
    fs::write(&file, &url).expect("writes");
    let mut burglar = burglar(folder).await;
    let made = sqlx::query(WORDS).execute(&mut burglar).await;
    made.expect("a function");
    burglar.close().await.expect("closes");
    url
}

/// Opens the folder's database, and makes it where there is none.
pub(crate) async fn open(folder: &Path) -> Result<Store, OpenError> {
    let address: PostgresAddress = url(folder).await.parse().expect("an address");
    Store::postgres(&address).await
}

/// A database with nothing in it.
pub(crate) async fn empty(folder: &Path) -> Empty {
    let address: PostgresAddress = url(folder).await.parse().expect("an address");
    Empty::postgres(&address).await.expect("opens")
}

pub(crate) async fn burglar(folder: &Path) -> Burglar {
    let url = fs::read_to_string(folder.join("database")).expect("a database");
    let mut burglar = PgConnection::connect(&url).await.expect("opens");
    let unbound = sqlx::query("SET session_replication_role = replica");
    unbound.execute(&mut burglar).await.expect("a superuser");
    burglar
}

/// From now on nothing can be inserted into the table.
pub(crate) fn jam(table: &str) -> Vec<String> {
    vec![
        "CREATE FUNCTION jammed() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN RAISE EXCEPTION 'full'; END $$"
            .to_owned(),
        format!("CREATE TRIGGER jammed BEFORE INSERT ON {table} EXECUTE FUNCTION jammed()"),
    ]
}

pub(crate) fn unjam(table: &str) -> Vec<String> {
    vec![
        format!("DROP TRIGGER jammed ON {table}"),
        "DROP FUNCTION jammed".to_owned(),
    ]
}

/// What the server has written: tables, indexes and its write-ahead log.
pub(crate) async fn elsewhere(folder: &Path) -> Vec<Vec<u8>> {
    let mut burglar = burglar(folder).await;
    let written = sqlx::query("CHECKPOINT").execute(&mut burglar).await;
    written.expect("writes");
    let query = "SELECT CAST(oid AS TEXT) FROM pg_database WHERE datname = current_database()";
    let id: String = sqlx::query_scalar(query)
        .fetch_one(&mut burglar)
        .await
        .expect("its number");
    burglar.close().await.expect("closes");
    let data = Server::shared(CACHE).folder().join("data");
    let mut bytes = Vec::new();
    for part in [
        data.join("base").join(id),
        data.join("global"),
        data.join("pg_wal"),
    ] {
        for entry in fs::read_dir(part).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_file() {
                bytes.push(fs::read(path).expect("reads"));
            }
        }
    }
    bytes
}
