//! A whole database as lines of JSON, and back: what a backup holds.
//!
//! Rows are copied as they are, sealed and encrypted as they lie there; nothing here understands
//! them. Either kind of database takes what the other gave.
//!
//! ```text
//! {"begin":{"format":1,"schema":[1,2,…]}}        which migrations made the schema
//! {"table":{"name":"keys","columns":[…]}}        for each table
//! {"row":["id",1,null,{"bytes":"…"}]}            for each of its rows
//! {"end":{"rows":4711}}
//! ```

mod dump;
mod load;

pub use dump::{DumpError, Dumped};
pub use load::{Empty, LoadError};

use crate::sql::{Row, Value, Work, statement};
use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use serde::{Deserialize, Serialize};
use std::fmt;

const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Begin { format: u32, schema: Vec<i64> },
    Table { name: String, columns: Vec<Column> },
    Row(Vec<Cell>),
    End { rows: u64 },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Column {
    name: String,
    kind: Kind,
}

/// What a column holds. PostgreSQL asks for it even where a value is absent.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Integer,
    Text,
    Bytes,
}

impl Kind {
    fn of(declared: &str) -> Option<Self> {
        match declared.to_ascii_lowercase().as_str() {
            "bigint" | "integer" => Some(Self::Integer),
            "text" => Some(Self::Text),
            "blob" | "bytea" => Some(Self::Bytes),
            _ => None,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Cell {
    Integer(i64),
    Text(String),
    Bytes { bytes: String },
    Null(()),
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cell")
    }
}

impl Cell {
    fn read(row: &Row, column: &Column) -> Result<Self, sqlx::Error> {
        let name = column.name.as_str();
        let cell = match column.kind {
            Kind::Integer => row.column::<Option<i64>>(name)?.map(Self::Integer),
            Kind::Text => row.column::<Option<String>>(name)?.map(Self::Text),
            Kind::Bytes => {
                let bytes: Option<Vec<u8>> = row.column(name)?;
                bytes.map(|bytes| Self::Bytes {
                    bytes: STANDARD_NO_PAD.encode(bytes),
                })
            }
        };
        Ok(cell.unwrap_or(Self::Null(())))
    }

    /// What to bind; `None` where this does not fit into a column of that kind.
    fn value(self, kind: Kind) -> Option<Value> {
        Some(match (kind, self) {
            (Kind::Integer, Self::Integer(it)) => it.into(),
            (Kind::Text, Self::Text(it)) => it.into(),
            (Kind::Bytes, Self::Bytes { bytes }) => STANDARD_NO_PAD.decode(bytes).ok()?.into(),
            (Kind::Integer, Self::Null(())) => Value::Integer(None),
            (Kind::Text, Self::Null(())) => Value::Text(None),
            (Kind::Bytes, Self::Null(())) => Value::Bytes(None),
            _ => return None,
        })
    }
}

/// The tables, in the order in which they were made: one refers to those before it only.
async fn tables(work: &mut Work) -> Result<Vec<String>, sqlx::Error> {
    let query = match work {
        Work::Sqlite(_) => {
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> '_sqlx_migrations'
                AND substr(name, 1, 7) <> 'sqlite_' ORDER BY rowid"
        }
        Work::Postgres(_) => {
            "SELECT CAST(relname AS TEXT) AS name FROM pg_catalog.pg_class
             WHERE relkind = 'r' AND relname <> '_sqlx_migrations' AND relnamespace =
                (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = current_schema())
             ORDER BY oid"
        }
    };
    let rows = work.all(statement(query)).await?;
    rows.iter().map(|row| row.column("name")).collect()
}
