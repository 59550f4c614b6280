//! Between columns and types.

use crate::sql::{Column, Row};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Why a query did not answer with rows of the right types.
#[derive(Debug)]
pub(crate) enum RowError {
    Sql(sqlx::Error),
    Unreadable(&'static str),
}

impl From<sqlx::Error> for RowError {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<RowError> for xylem_vault::StorageError {
    fn from(error: RowError) -> Self {
        match error {
            RowError::Sql(error) => Self::Unavailable(Box::new(error)),
            RowError::Unreadable(what) => Self::Unreadable { what },
        }
    }
}

impl From<RowError> for xylem_identity::StorageError {
    fn from(error: RowError) -> Self {
        match error {
            RowError::Sql(error) => Self::Unavailable(Box::new(error)),
            RowError::Unreadable(what) => Self::Unreadable { what },
        }
    }
}

impl From<RowError> for xylem_policy::StorageError {
    fn from(error: RowError) -> Self {
        match error {
            RowError::Sql(error) => Self::Unavailable(Box::new(error)),
            RowError::Unreadable(what) => Self::Unreadable { what },
        }
    }
}

impl From<RowError> for xylem_registry::StorageError {
    fn from(error: RowError) -> Self {
        match error {
            RowError::Sql(error) => Self::Unavailable(Box::new(error)),
            RowError::Unreadable(what) => Self::Unreadable { what },
        }
    }
}

/// A row, and what kind of row it is: what an error says.
pub(crate) struct Columns<'r> {
    row: &'r Row,
    what: &'static str,
}

impl<'r> Columns<'r> {
    pub(crate) fn new(row: &'r Row, what: &'static str) -> Self {
        Self { row, what }
    }

    pub(crate) fn unreadable(&self) -> RowError {
        RowError::Unreadable(self.what)
    }

    /// The column as it is.
    pub(crate) fn raw<T: Column<'r>>(&self, column: &str) -> Result<T, RowError> {
        self.row.column(column).map_err(|_| self.unreadable())
    }

    /// Text, as the type that it names.
    pub(crate) fn parsed<T: FromStr>(&self, column: &str) -> Result<T, RowError> {
        let text: &str = self.raw(column)?;
        text.parse().map_err(|_| self.unreadable())
    }

    /// Text that may be absent, as the type that it names.
    pub(crate) fn optional<T: FromStr>(&self, column: &str) -> Result<Option<T>, RowError> {
        let text: Option<&str> = self.raw(column)?;
        text.map(|text| text.parse().map_err(|_| self.unreadable()))
            .transpose()
    }

    /// An integer in the range of its type.
    pub(crate) fn number<T: TryFrom<i64>>(&self, column: &str) -> Result<T, RowError> {
        let number: i64 = self.raw(column)?;
        T::try_from(number).map_err(|_| self.unreadable())
    }

    /// An integer that may be absent, in the range of its type.
    pub(crate) fn optional_number<T: TryFrom<i64>>(
        &self,
        column: &str,
    ) -> Result<Option<T>, RowError> {
        let number: Option<i64> = self.raw(column)?;
        number
            .map(|number| T::try_from(number).map_err(|_| self.unreadable()))
            .transpose()
    }

    pub(crate) fn flag(&self, column: &str) -> Result<bool, RowError> {
        match self.raw::<i64>(column)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.unreadable()),
        }
    }

    /// Bytes of a fixed length.
    pub(crate) fn bytes<const N: usize>(&self, column: &str) -> Result<[u8; N], RowError> {
        let bytes: &[u8] = self.raw(column)?;
        bytes.try_into().map_err(|_| self.unreadable())
    }

    /// A list that was written by [`json`].
    pub(crate) fn json<T: DeserializeOwned>(&self, column: &str) -> Result<T, RowError> {
        let text: &str = self.raw(column)?;
        serde_json::from_str(text).map_err(|_| self.unreadable())
    }

    pub(crate) fn seconds(&self, column: &str) -> Result<SystemTime, RowError> {
        self.number(column)
            .map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds))
    }

    pub(crate) fn optional_seconds(&self, column: &str) -> Result<Option<SystemTime>, RowError> {
        let seconds: Option<u64> = self.optional_number(column)?;
        Ok(seconds.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds)))
    }
}

/// Numbers beyond what the database holds stay at its end.
pub(crate) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Whole seconds since 1970; times before it become 1970.
pub(crate) fn seconds(time: SystemTime) -> i64 {
    integer(time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
}

/// Lists of names as JSON text. Names always serialise.
pub(crate) fn json(list: &impl Serialize) -> String {
    serde_json::to_string(list).unwrap_or_default()
}
