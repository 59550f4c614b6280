//! The schema is the same as on SQLite.

use crate::database;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};
use std::path::Path;
use tempfile::tempdir;
use xylem_store::Store;

/// Table, column, type, and whether it may be NULL.
type Column = (String, String, String, bool);

const COLUMNS: &str = "SELECT table_name, column_name, data_type, is_nullable = 'YES'
    FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name NOT LIKE '\\_sqlx%' ORDER BY 1, 2";
const UNORDERED: &str = "SELECT table_name || '.' || column_name FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name NOT LIKE '\\_sqlx%'
        AND data_type NOT IN ('bigint', 'bytea') AND collation_name IS DISTINCT FROM 'C'";
const INDEXES: &str = "SELECT CAST(indexname AS TEXT) FROM pg_indexes
    WHERE schemaname = 'public' AND NOT EXISTS (
        SELECT 1 FROM pg_constraint WHERE conname = indexname) ORDER BY 1";

const SQLITE_COLUMNS: &str = "SELECT t.name, c.name,
        CASE c.type WHEN 'BIGINT' THEN 'bigint' WHEN 'BLOB' THEN 'bytea' ELSE lower(c.type) END,
        c.\"notnull\" = 0
    FROM sqlite_master t JOIN pragma_table_info(t.name) c
    WHERE t.type = 'table' AND t.name NOT LIKE '\\_sqlx%' ESCAPE '\\'
        AND t.name NOT LIKE 'sqlite%' ORDER BY 1, 2";
const SQLITE_INDEXES: &str = "SELECT name FROM sqlite_master
    WHERE type = 'index' AND name NOT LIKE 'sqlite_autoindex%' ORDER BY 1";

async fn sqlite(folder: &Path) -> (Vec<Column>, Vec<String>) {
    let path = folder.join("xylem.db");
    Store::sqlite(&path).await.unwrap().close().await;
    let url = format!("sqlite://{}", path.display());
    let mut connection = SqliteConnection::connect(&url).await.unwrap();
    let columns = sqlx::query_as(SQLITE_COLUMNS).fetch_all(&mut connection);
    let columns = columns.await.unwrap();
    let indexes = sqlx::query_scalar(SQLITE_INDEXES).fetch_all(&mut connection);
    (columns, indexes.await.unwrap())
}

#[tokio::test]
async fn every_column_and_index_is_that_of_sqlite() {
    let folder = tempdir().unwrap();
    database::open(folder.path()).await.unwrap();
    let mut burglar = database::burglar(folder.path()).await;
    let columns: Vec<Column> = sqlx::query_as(AssertSqlSafe(COLUMNS))
        .fetch_all(&mut burglar)
        .await
        .unwrap();
    let indexes: Vec<String> = sqlx::query_scalar(AssertSqlSafe(INDEXES))
        .fetch_all(&mut burglar)
        .await
        .unwrap();
    let unordered: Vec<String> = sqlx::query_scalar(AssertSqlSafe(UNORDERED))
        .fetch_all(&mut burglar)
        .await
        .unwrap();
    assert!(!columns.is_empty() && !indexes.is_empty());
    assert_eq!(
        unordered, [""; 0],
        "ordered as the database orders, not as bytes"
    );
    let (expected, expected_indexes) = sqlite(folder.path()).await;
    assert_eq!(columns, expected);
    assert_eq!(indexes, expected_indexes);
}
