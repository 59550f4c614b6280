//! Which database.

use crate::data::{DataDir, DataError, read_secret};
use secrecy::ExposeSecret;
use std::path::Path;
use xylem_store::{AddressError, Empty, OpenError, PostgresAddress, Store};

/// The variable with the URL of a PostgreSQL database. It is no argument: a URL may hold a password.
pub const DATABASE_VARIABLE: &str = "XYLEM_DATABASE_URL";
/// The variable that names a file with that database's password.
pub const DATABASE_PASSWORD_VARIABLE: &str = "XYLEM_DATABASE_PASSWORD_FILE";

/// Where the database is.
#[derive(Debug, Clone, Default)]
pub enum Database {
    /// A SQLite file in the data directory.
    #[default]
    File,
    /// A PostgreSQL database, which several control planes may share.
    Postgres(Box<PostgresAddress>),
}

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// It cannot be opened.
    #[error("the database {name} cannot be used")]
    Open {
        /// Its file, or its name and host.
        name: String,
        /// Why.
        source: OpenError,
    },
    /// It does not answer.
    #[error("the database {name} does not answer")]
    Silent {
        /// Its file, or its name and host.
        name: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The variable with its URL is set to something else.
    #[error("{DATABASE_VARIABLE} {0}")]
    Address(AddressError),
    /// A password is given for no database.
    #[error("{DATABASE_PASSWORD_VARIABLE} is set, but {DATABASE_VARIABLE} is not")]
    PasswordAlone,
    /// The file with its password.
    #[error(transparent)]
    Password(DataError),
}

impl Database {
    /// The one that the environment names; the file where it names none.
    ///
    /// # Errors
    /// A variable is set to what cannot be used.
    pub fn from_environment() -> Result<Self, DatabaseError> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let url = variable(DATABASE_VARIABLE);
        let password = variable(DATABASE_PASSWORD_VARIABLE);
        Self::of(url.as_deref(), password.as_deref().map(Path::new))
    }

    fn of(url: Option<&str>, password: Option<&Path>) -> Result<Self, DatabaseError> {
        let Some(url) = url else {
            return match password {
                Some(_) => Err(DatabaseError::PasswordAlone),
                None => Ok(Self::File),
            };
        };
        let address: PostgresAddress = url.parse().map_err(DatabaseError::Address)?;
        let Some(file) = password else {
            return Ok(Self::Postgres(Box::new(address)));
        };
        let password = read_secret(file).map_err(DatabaseError::Password)?;
        let address = address.with_password(password.expose_secret());
        Ok(Self::Postgres(Box::new(address)))
    }

    pub(super) async fn open(&self, data: &DataDir) -> Result<Store, DatabaseError> {
        let opened = match self {
            Self::File => Store::sqlite(&data.database()).await,
            Self::Postgres(address) => Store::postgres(address).await,
        };
        opened.map_err(|source| self.unusable(data, source))
    }

    /// It, where nothing is in it.
    pub(super) async fn empty(&self, data: &DataDir) -> Result<Empty, DatabaseError> {
        let opened = match self {
            Self::File => Empty::sqlite(&data.database()).await,
            Self::Postgres(address) => Empty::postgres(address).await,
        };
        opened.map_err(|source| self.unusable(data, source))
    }

    fn unusable(&self, data: &DataDir, source: OpenError) -> DatabaseError {
        DatabaseError::Open {
            name: self.name(data),
            source,
        }
    }

    /// Whether there is no installation in it yet.
    pub(super) async fn is_new(
        &self,
        store: &Store,
        data: &DataDir,
    ) -> Result<bool, DatabaseError> {
        let is_new = store.is_new().await;
        is_new.map_err(|source| DatabaseError::Silent {
            name: self.name(data),
            source: source.into(),
        })
    }

    /// What it is called in messages.
    pub(super) fn name(&self, data: &DataDir) -> String {
        match self {
            Self::File => data.database().display().to_string(),
            Self::Postgres(address) => address.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "postgres://xylem@db.example/xylem";

    #[test]
    fn the_environment_names_a_database_or_none() {
        assert!(matches!(Database::of(None, None), Ok(Database::File)));
        let Ok(Database::Postgres(address)) = Database::of(Some(URL), None) else {
            panic!("an address");
        };
        assert_eq!(address.to_string(), "xylem on db.example:5432");
    }

    #[test]
    fn what_is_wrong_is_named_and_not_shown() {
        let guard = tempfile::tempdir().expect("a directory");
        let file = guard.path().join("password");
        for (url, password, said) in [
            (None, Some(file.as_path()), DATABASE_VARIABLE),
            (Some("xylem:s3cr3t"), None, "must be a URL"),
            (Some(URL), Some(file.as_path()), "cannot read"),
        ] {
            let error = Database::of(url, password).expect_err("refused");
            let shown = error.to_string();
            assert!(shown.contains(said) && !shown.contains("s3cr3t"), "{shown}");
        }
        std::fs::write(&file, "s3cr3t\n").expect("written");
        use std::os::unix::fs::PermissionsExt;
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&file, private).expect("made private");
        let database = Database::of(Some(URL), Some(&file)).expect("an address");
        assert!(!format!("{database:?}").contains("s3cr3t"));
    }
}
