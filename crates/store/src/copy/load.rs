//! Into a database.

use super::{Cell, Column, FORMAT, Kind, Line, tables};
use crate::{
    OpenError, PostgresAddress,
    database::{Pool, SCHEMA_TURN, TURN, begin},
    migrations::{migrate, migrate_to},
    postgres,
    sql::{Growing, Value, Work},
    sqlite,
    vault::{restored, wrapped_by_others, wraps},
};
use sqlx::migrate::MigrateError;
use std::path::Path;
use tokio::sync::mpsc;
use xylem_vault::Wraps;

/// Values in one statement: far below the number that a database takes.
const VALUES: usize = 4_000;

/// Why a copy could not be loaded. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is something already.
    #[error("the database is not empty: a backup is restored into an empty one only")]
    NotEmpty,
    /// The copy is of a newer version of this program.
    #[error("the backup was made by a newer version: restore it with that version")]
    Newer,
    /// A line is not what a copy has in that place.
    #[error("the backup cannot be read: line {0} is not what belongs there")]
    Line(u64),
    /// There is no end.
    #[error("the backup ends too early")]
    CutOff,
    /// It is not what was copied.
    #[error("the backup was not made by who has this installation's key-encryption key")]
    NotConfirmed,
    /// The database did not answer, or did not take a row.
    #[error("the database could not be written")]
    Database(#[from] sqlx::Error),
    /// Its schema could not be made.
    #[error("the database's schema could not be made")]
    Schema(#[from] MigrateError),
}

/// A database with nothing in it yet.
pub struct Empty(Pool);

impl Empty {
    /// One in this file, readable by its owner alone, which is made where there is none.
    ///
    /// # Errors
    /// The file cannot be made or opened.
    pub async fn sqlite(path: &Path) -> Result<Self, OpenError> {
        sqlite::make_private(path).map_err(OpenError::File)?;
        let pool = sqlite::pool(sqlite::options(path), 1, TURN).await;
        Ok(Self(Pool::Sqlite(pool.map_err(OpenError::Open)?)))
    }

    /// One on a PostgreSQL server.
    ///
    /// # Errors
    /// The server does not answer or lets nobody in.
    pub async fn postgres(address: &PostgresAddress) -> Result<Self, OpenError> {
        let pool = postgres::pool(address, 1, TURN).await;
        Ok(Self(Pool::Postgres(pool.map_err(OpenError::Open)?)))
    }

    /// Loads a copy, brings its schema up to date, and answers how many rows there are. The vault in
    /// it hands nothing out before somebody confirms that what was revoked since the copy was made
    /// is revoked again. All of it is one transaction, which is committed once `confirm` says that
    /// the copy is what it says to be; it is told which key-encryption keys wrap what is in it.
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn load(
        self,
        mut lines: mpsc::Receiver<String>,
        confirm: impl AsyncFnOnce(&[Wraps]) -> bool,
    ) -> Result<u64, LoadError> {
        let mut work = begin(&self.0, SCHEMA_TURN).await?;
        if !tables(&mut work).await?.is_empty() {
            return Err(LoadError::NotEmpty);
        }
        let mut loading = Loading::begin(&mut work, &mut lines).await?;
        while !loading.take(lines.recv().await).await? {}
        let rows = loading.rows;
        migrate(&mut work).await?;
        work.run(restored()).await?;
        let wrapped = wrapped(&mut work).await?;
        if !confirm(&wrapped).await {
            return Err(LoadError::NotConfirmed);
        }
        work.commit().await?;
        self.0.close().await;
        Ok(rows)
    }
}

/// What is wrapped by any key-encryption key.
async fn wrapped(work: &mut Work) -> Result<Vec<Wraps>, sqlx::Error> {
    let rows = work.all(wrapped_by_others("")).await?;
    Ok(rows.iter().filter_map(|row| wraps(row).ok()?).collect())
}

/// A table that rows are loaded into.
struct Table {
    name: String,
    columns: Vec<Column>,
    waiting: Vec<Vec<Value>>,
}

struct Loading<'a> {
    work: &'a mut Work,
    table: Option<Table>,
    line: u64,
    rows: u64,
}

impl<'a> Loading<'a> {
    /// Makes the schema that the copy is of.
    async fn begin(
        work: &'a mut Work,
        lines: &mut mpsc::Receiver<String>,
    ) -> Result<Self, LoadError> {
        let first = lines.recv().await.ok_or(LoadError::CutOff)?;
        match serde_json::from_str(&first) {
            Ok(Line::Begin { format, schema }) if format == FORMAT => {
                migrate_to(work, &schema).await.map_err(newer)?;
            }
            Ok(Line::Begin { .. }) => return Err(LoadError::Newer),
            _ => return Err(LoadError::Line(1)),
        }
        Ok(Self {
            work,
            table: None,
            line: 1,
            rows: 0,
        })
    }

    /// Takes a line, and says whether it was the last.
    async fn take(&mut self, text: Option<String>) -> Result<bool, LoadError> {
        let text = text.ok_or(LoadError::CutOff)?;
        self.line = self.line.saturating_add(1);
        let line = serde_json::from_str(&text).map_err(|_| self.wrong())?;
        match line {
            Line::Begin { .. } => return Err(self.wrong()),
            Line::Table { name, columns } => {
                self.insert().await?;
                self.clear(&name).await?;
                self.table = Some(Table {
                    name,
                    columns,
                    waiting: Vec::new(),
                });
            }
            Line::Row(cells) => self.row(cells).await?,
            Line::End { rows } => {
                self.insert().await?;
                if rows != self.rows {
                    return Err(self.wrong());
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn row(&mut self, cells: Vec<Cell>) -> Result<(), LoadError> {
        let wrong = self.wrong();
        let Some(table) = &mut self.table else {
            return Err(wrong);
        };
        if cells.is_empty() || cells.len() != table.columns.len() {
            return Err(wrong);
        }
        let fitting = table.columns.iter().zip(cells);
        let values: Option<Vec<Value>> = fitting
            .map(|(Column { kind, .. }, cell): (_, Cell)| cell.value(Kind::clone(kind)))
            .collect();
        table.waiting.push(values.ok_or(wrong)?);
        self.rows = self.rows.saturating_add(1);
        if table.waiting.len().saturating_mul(table.columns.len()) >= VALUES {
            self.insert().await?;
        }
        Ok(())
    }

    /// A schema may come with rows.
    async fn clear(&mut self, table: &str) -> Result<(), LoadError> {
        let mut delete = Growing::new("DELETE FROM ");
        delete.push_names([table]);
        self.work.run(delete.done()).await?;
        Ok(())
    }

    async fn insert(&mut self) -> Result<(), LoadError> {
        let Some(table) = self.table.as_mut().filter(|it| !it.waiting.is_empty()) else {
            return Ok(());
        };
        let mut insert = Growing::new("INSERT INTO ");
        insert.push_names([table.name.as_str()]).push(" (");
        insert.push_names(table.columns.iter().map(|column| column.name.as_str()));
        insert.push(") VALUES ");
        insert.push_rows(std::mem::take(&mut table.waiting));
        self.work.run(insert.done()).await?;
        Ok(())
    }

    fn wrong(&self) -> LoadError {
        LoadError::Line(self.line)
    }
}

fn newer(error: MigrateError) -> LoadError {
    match error {
        MigrateError::VersionMissing(_) => LoadError::Newer,
        error => LoadError::Schema(error),
    }
}
