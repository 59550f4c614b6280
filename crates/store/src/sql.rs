//! Statements, what is bound to them, and rows: all that the rest of this room knows of a database.

use futures::{TryStreamExt, stream::BoxStream};
use sqlx::{
    AssertSqlSafe, Decode, Postgres, Row as _, SqlSafeStr, SqlStr, Sqlite, Type,
    pool::PoolConnection,
    postgres::{PgArguments, PgRow},
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};

/// What a statement binds. NULL keeps its type: PostgreSQL asks for it.
pub(crate) enum Value {
    Integer(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

macro_rules! values {
    ($($from:ty => |$it:ident| $value:expr;)*) => {$(
        impl From<$from> for Value {
            fn from($it: $from) -> Self {
                $value
            }
        }
    )*};
}

values! {
    i64 => |it| Self::Integer(Some(it));
    u32 => |it| Self::Integer(Some(it.into()));
    Option<i64> => |it| Self::Integer(it);
    &str => |it| Self::Text(Some(it.to_owned()));
    Option<&str> => |it| Self::Text(it.map(str::to_owned));
    String => |it| Self::Text(Some(it));
    Option<String> => |it| Self::Text(it);
    &[u8] => |it| Self::Bytes(Some(it.to_vec()));
    Vec<u8> => |it| Self::Bytes(Some(it));
    Option<Vec<u8>> => |it| Self::Bytes(it);
}

/// A statement and what is bound to it, `$1` first.
#[must_use]
pub(crate) struct Statement {
    sql: SqlStr,
    values: Vec<Value>,
}

pub(crate) fn statement(sql: &'static str) -> Statement {
    Statement {
        sql: sql.into_sql_str(),
        values: Vec::new(),
    }
}

impl Statement {
    pub(crate) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    fn sqlite(self) -> Query<'static, Sqlite, SqliteArguments> {
        let query = sqlx::query(self.sql);
        self.values
            .into_iter()
            .fold(query, |query, value| match value {
                Value::Integer(it) => query.bind(it),
                Value::Text(it) => query.bind(it),
                Value::Bytes(it) => query.bind(it),
            })
    }

    fn postgres(self) -> Query<'static, Postgres, PgArguments> {
        let query = sqlx::query(self.sql);
        self.values
            .into_iter()
            .fold(query, |query, value| match value {
                Value::Integer(it) => query.bind(it),
                Value::Text(it) => query.bind(it),
                Value::Bytes(it) => query.bind(it),
            })
    }
}

/// A statement that is put together: text that is written in this room, values that are bound.
pub(crate) struct Growing {
    sql: String,
    values: Vec<Value>,
}

impl Growing {
    pub(crate) fn new(sql: &'static str) -> Self {
        Self {
            sql: sql.to_owned(),
            values: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, sql: &'static str) -> &mut Self {
        self.sql.push_str(sql);
        self
    }

    /// Tables or columns by name, quoted: `"a", "b"`.
    pub(crate) fn push_names<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) -> &mut Self {
        for (at, name) in names.into_iter().enumerate() {
            self.push(if at == 0 { "\"" } else { ", \"" });
            self.sql.push_str(&name.replace('"', "\"\""));
            self.push("\"");
        }
        self
    }

    pub(crate) fn push_bind(&mut self, value: impl Into<Value>) -> &mut Self {
        self.values.push(value.into());
        self.sql.push('$');
        self.sql.push_str(&self.values.len().to_string());
        self
    }

    /// `(…), (…)`: what follows VALUES.
    pub(crate) fn push_rows<V: Into<Value>>(
        &mut self,
        rows: impl IntoIterator<Item: IntoIterator<Item = V>>,
    ) -> &mut Self {
        for (at, row) in rows.into_iter().enumerate() {
            self.push(if at == 0 { "(" } else { ", (" });
            for (at, value) in row.into_iter().enumerate() {
                if at > 0 {
                    self.push(", ");
                }
                self.push_bind(value);
            }
            self.push(")");
        }
        self
    }

    pub(crate) fn done(self) -> Statement {
        Statement {
            // Literals, placeholders and quoted names: `push` takes nothing else.
            sql: AssertSqlSafe(self.sql).into_sql_str(),
            values: self.values,
        }
    }
}

pub(crate) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

/// What a column can be read as.
pub(crate) trait Column<'r>:
    Decode<'r, Sqlite> + Type<Sqlite> + Decode<'r, Postgres> + Type<Postgres>
{
}

impl<'r, T> Column<'r> for T where
    T: Decode<'r, Sqlite> + Type<Sqlite> + Decode<'r, Postgres> + Type<Postgres>
{
}

impl Row {
    pub(crate) fn column<'r, T: Column<'r>>(&'r self, name: &str) -> Result<T, sqlx::Error> {
        match self {
            Self::Sqlite(row) => row.try_get(name),
            Self::Postgres(row) => row.try_get(name),
        }
    }
}

/// Rows that are read while they come.
pub(crate) struct Rows<'a>(BoxStream<'a, Result<Row, sqlx::Error>>);

impl Rows<'_> {
    pub(crate) async fn next(&mut self) -> Result<Option<Row>, sqlx::Error> {
        self.0.try_next().await
    }
}

/// A connection outside of transactions: each statement sees what was committed when it began.
pub(crate) enum Connection {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

impl Connection {
    pub(crate) async fn one(&mut self, statement: Statement) -> Result<Option<Row>, sqlx::Error> {
        match self {
            Self::Sqlite(it) => {
                let row = statement.sqlite().fetch_optional(&mut **it).await?;
                Ok(row.map(Row::Sqlite))
            }
            Self::Postgres(it) => {
                let row = statement.postgres().fetch_optional(&mut **it).await?;
                Ok(row.map(Row::Postgres))
            }
        }
    }
}

/// A transaction. Dropped, it has changed nothing.
pub(crate) enum Work {
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    Postgres(sqlx::Transaction<'static, Postgres>),
}

impl Work {
    pub(crate) async fn commit(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(tx) => tx.commit().await,
            Self::Postgres(tx) => tx.commit().await,
        }
    }

    /// Answers how many rows were changed.
    pub(crate) async fn run(&mut self, statement: Statement) -> Result<u64, sqlx::Error> {
        match self {
            Self::Sqlite(tx) => {
                let done = statement.sqlite().execute(&mut **tx).await?;
                Ok(done.rows_affected())
            }
            Self::Postgres(tx) => {
                let done = statement.postgres().execute(&mut **tx).await?;
                Ok(done.rows_affected())
            }
        }
    }

    pub(crate) async fn one(&mut self, statement: Statement) -> Result<Option<Row>, sqlx::Error> {
        match self {
            Self::Sqlite(tx) => {
                let row = statement.sqlite().fetch_optional(&mut **tx).await?;
                Ok(row.map(Row::Sqlite))
            }
            Self::Postgres(tx) => {
                let row = statement.postgres().fetch_optional(&mut **tx).await?;
                Ok(row.map(Row::Postgres))
            }
        }
    }

    /// The rows one by one, however many there are.
    pub(crate) fn each(&mut self, statement: Statement) -> Rows<'_> {
        match self {
            Self::Sqlite(tx) => Rows(Box::pin(
                statement.sqlite().fetch(&mut **tx).map_ok(Row::Sqlite),
            )),
            Self::Postgres(tx) => Rows(Box::pin(
                statement.postgres().fetch(&mut **tx).map_ok(Row::Postgres),
            )),
        }
    }

    pub(crate) async fn all(&mut self, statement: Statement) -> Result<Vec<Row>, sqlx::Error> {
        match self {
            Self::Sqlite(tx) => {
                let rows = statement.sqlite().fetch_all(&mut **tx).await?;
                Ok(rows.into_iter().map(Row::Sqlite).collect())
            }
            Self::Postgres(tx) => {
                let rows = statement.postgres().fetch_all(&mut **tx).await?;
                Ok(rows.into_iter().map(Row::Postgres).collect())
            }
        }
    }
}
