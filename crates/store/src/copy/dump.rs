//! From a database.

use super::{Cell, Column, FORMAT, Kind, Line, tables};
use crate::{
    Store,
    sql::{Growing, Work, statement},
};
use tokio::sync::mpsc;

/// How much a copy holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dumped {
    /// Rows, of all tables.
    pub rows: u64,
}

/// Why a database could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// It did not answer.
    #[error("the database could not be read")]
    Database(#[from] sqlx::Error),
    /// A column has a type that no migration of this program makes.
    #[error("table {0} has a column of a type that is not copied")]
    Type(String),
    /// Nobody takes the copy any more.
    #[error("the copy was given up")]
    GivenUp,
    /// A row cannot be written as text.
    #[error("a row cannot be written as text")]
    Text(#[from] serde_json::Error),
}

/// Takes a copy's lines, and counts its rows.
struct Lines<'a> {
    to: &'a mpsc::Sender<String>,
    rows: u64,
}

impl Lines<'_> {
    async fn send(&mut self, line: &Line) -> Result<(), DumpError> {
        if matches!(line, Line::Row(_)) {
            self.rows = self.rows.saturating_add(1);
        }
        let text = serde_json::to_string(line)?;
        self.to.send(text).await.map_err(|_| DumpError::GivenUp)
    }
}

impl Store {
    /// Sends everything that is in this database, as it is at one moment, line by line. Others read
    /// and write meanwhile.
    ///
    /// # Errors
    /// The database does not answer, or nobody receives; what was sent until then is no whole copy.
    pub async fn dump(&self, to: mpsc::Sender<String>) -> Result<Dumped, DumpError> {
        let mut work = self.read().await?;
        let mut lines = Lines { to: &to, rows: 0 };
        let format = FORMAT;
        let schema = schema(&mut work).await?;
        lines.send(&Line::Begin { format, schema }).await?;
        for name in tables(&mut work).await? {
            let columns = columns(&mut work, &name).await?;
            table(&mut work, &mut lines, name, columns).await?;
        }
        let rows = lines.rows;
        lines.send(&Line::End { rows }).await?;
        Ok(Dumped { rows })
    }
}

/// The migrations that made it.
async fn schema(work: &mut Work) -> Result<Vec<i64>, sqlx::Error> {
    let query = "SELECT version FROM _sqlx_migrations ORDER BY version";
    let rows = work.all(statement(query)).await?;
    rows.iter().map(|row| row.column("version")).collect()
}

async fn columns(work: &mut Work, table: &str) -> Result<Vec<Column>, DumpError> {
    let query = match work {
        Work::Sqlite(_) => "SELECT name, type FROM pragma_table_info($1) ORDER BY cid",
        Work::Postgres(_) => {
            "SELECT CAST(attname AS TEXT) AS name, format_type(atttypid, NULL) AS type
             FROM pg_catalog.pg_attribute
             WHERE attrelid = CAST(quote_ident($1) AS regclass) AND attnum > 0 AND NOT attisdropped
             ORDER BY attnum"
        }
    };
    let rows = work.all(statement(query).bind(table)).await?;
    let read = rows.iter().map(|row| {
        let declared: String = row.column("type")?;
        let kind = Kind::of(&declared).ok_or_else(|| DumpError::Type(table.to_owned()))?;
        let name = row.column("name")?;
        Ok(Column { name, kind })
    });
    read.collect()
}

async fn table(
    work: &mut Work,
    lines: &mut Lines<'_>,
    name: String,
    columns: Vec<Column>,
) -> Result<(), DumpError> {
    let mut query = Growing::new("SELECT ");
    query.push_names(columns.iter().map(|column| column.name.as_str()));
    query.push(" FROM ").push_names([name.as_str()]);
    lines
        .send(&Line::Table {
            name,
            columns: columns.clone(),
        })
        .await?;
    let mut rows = work.each(query.done());
    while let Some(row) = rows.next().await? {
        let cells = columns.iter().map(|column| Cell::read(&row, column));
        let cells = cells.collect::<Result<_, sqlx::Error>>()?;
        lines.send(&Line::Row(cells)).await?;
    }
    Ok(())
}
