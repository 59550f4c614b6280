//! A database on a PostgreSQL server.

use sqlx::{
    ConnectOptions, Connection, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
};
use std::{fmt, str::FromStr, time::Duration};
use url::Url;

/// The longest that a session may hold its turn without a word: a process that was frozen in the
/// midst of a transaction loses it, and commits nothing.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a server may take to answer that a connection is still good.
const ANSWER: Duration = Duration::from_secs(15);

/// Where a PostgreSQL database is, and who asks. What it shows of itself holds no password.
#[derive(Clone)]
pub struct PostgresAddress {
    options: PgConnectOptions,
    shown: String,
}

/// Why text is no address of a PostgreSQL database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It does not begin like one, or a part cannot be read.
    #[error("must be a URL like postgres://USER@HOST:PORT/DATABASE")]
    NotAUrl,
    /// No database is named.
    #[error("must name the host, the database and the user: postgres://USER@HOST/DATABASE")]
    Incomplete,
    /// A parameter that is not read.
    #[error(
        "may have the parameters host, port, dbname, user, sslmode, sslrootcert, sslcert and sslkey only"
    )]
    Parameter,
    /// Less than full verification was asked for.
    #[error(
        "sslmode can be verify-full only: what goes over a network is encrypted, and the server's \
         certificate and name are checked. For a server on this machine use its socket: host=/FOLDER"
    )]
    Plaintext,
}

impl FromStr for PostgresAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let url: Url = text.parse().map_err(|_| AddressError::NotAUrl)?;
        if !["postgres", "postgresql"].contains(&url.scheme()) {
            return Err(AddressError::NotAUrl);
        }
        let (mut host, mut database, mut user) = (
            url.host_str().is_some_and(|host| !host.is_empty()),
            url.path().len() > 1,
            !url.username().is_empty(),
        );
        for (name, value) in url.query_pairs() {
            match &*name {
                "host" => host = true,
                "dbname" => database = true,
                "user" => user = true,
                "sslmode" if value == "verify-full" => {}
                "sslmode" => return Err(AddressError::Plaintext),
                "port" | "sslrootcert" | "sslcert" | "sslkey" => {}
                _ => return Err(AddressError::Parameter),
            }
        }
        if !(host && database && user) {
            return Err(AddressError::Incomplete);
        }
        let options: PgConnectOptions = text.parse().map_err(|_| AddressError::NotAUrl)?;
        Ok(Self::new(options))
    }
}

impl PostgresAddress {
    fn new(options: PgConnectOptions) -> Self {
        // A socket does not leave the machine, and its server offers no TLS there.
        let socket = options.get_socket().is_some() || options.get_host().starts_with('/');
        let mode = if socket {
            PgSslMode::Disable
        } else {
            PgSslMode::VerifyFull
        };
        let host = options.get_socket().map_or_else(
            || format!("{}:{}", options.get_host(), options.get_port()),
            |folder| folder.display().to_string(),
        );
        let database = options.get_database().unwrap_or_default();
        Self {
            shown: format!("{database} on {host}"),
            options: options
                .ssl_mode(mode)
                .application_name("xylem")
                .disable_statement_logging(),
        }
    }

    /// With a password that is kept apart from the address.
    #[must_use]
    pub fn with_password(self, password: &str) -> Self {
        Self {
            options: self.options.password(password),
            ..self
        }
    }
}

impl fmt::Display for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for PostgresAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresAddress({})", self.shown)
    }
}

pub(crate) async fn pool(
    address: &PostgresAddress,
    most: u32,
    turn: Duration,
) -> Result<PgPool, sqlx::Error> {
    PgPoolOptions::new()
        .max_connections(most)
        .acquire_timeout(turn)
        .after_connect(move |connection, _| Box::pin(fit(connection, turn)))
        .after_release(|connection, _| Box::pin(settled(connection)))
        .connect_with(address.options.clone())
        .await
}

/// Makes a session one that keeps what this room promises. A limit that the administrator has set
/// lower counts.
async fn fit(connection: &mut PgConnection, turn: Duration) -> Result<(), sqlx::Error> {
    let encoding: String = sqlx::query_scalar("SELECT current_setting('server_encoding')")
        .fetch_one(&mut *connection)
        .await?;
    if encoding != "UTF8" {
        return Err(sqlx::Error::Configuration(
            "the database's encoding is not UTF8".into(),
        ));
    }
    // A commit is on disk before it is reported.
    let durable = "SELECT set_config('synchronous_commit', 'on', false)
         WHERE current_setting('synchronous_commit') = 'off'";
    sqlx::query(durable).execute(&mut *connection).await?;
    for (name, most) in [
        ("lock_timeout", turn),
        ("idle_in_transaction_session_timeout", SILENCE),
    ] {
        let most = i64::try_from(most.as_millis()).unwrap_or(i64::MAX);
        sqlx::query(
            "SELECT set_config(name, CAST($2 AS TEXT), false) FROM pg_settings
             WHERE name = $1 AND CAST(setting AS BIGINT) NOT BETWEEN 1 AND $2",
        )
        .bind(name)
        .bind(most)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Rolls back what was dropped, so that nobody waits for it. A connection that does not answer is
/// given up.
async fn settled(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let answered = tokio::time::timeout(ANSWER, connection.ping()).await;
    answered
        .map_err(|_| sqlx::Error::PoolTimedOut)?
        .map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_encrypted_and_verified_or_a_socket() {
        for (text, mode) in [
            ("postgres://x@db.example/xylem", PgSslMode::VerifyFull),
            ("postgres://x@127.0.0.1:5433/xylem", PgSslMode::VerifyFull),
            (
                "postgresql://x:s3cr3t@db.example/xylem?sslmode=verify-full&sslrootcert=/ca.pem",
                PgSslMode::VerifyFull,
            ),
            (
                "postgres://x@localhost/xylem?host=/var/run/postgresql",
                PgSslMode::Disable,
            ),
            (
                "postgres:///xylem?host=/var/run/postgresql&user=x",
                PgSslMode::Disable,
            ),
            (
                "postgres://x@%2Fvar%2Frun%2Fpostgresql/xylem",
                PgSslMode::Disable,
            ),
        ] {
            let address: PostgresAddress = text.parse().expect(text);
            let found = address.options.get_ssl_mode();
            assert_eq!(format!("{found:?}"), format!("{mode:?}"), "{text}");
        }
    }

    #[test]
    fn less_than_that_is_refused() {
        for (text, error) in [
            ("xylem.db", AddressError::NotAUrl),
            ("mysql://x@db.example/xylem", AddressError::NotAUrl),
            ("postgres://x@db.example", AddressError::Incomplete),
            ("postgres://db.example/xylem", AddressError::Incomplete),
            ("postgres:///xylem", AddressError::Incomplete),
            (
                "postgres://x@db.example/xylem?sslmode=require",
                AddressError::Plaintext,
            ),
            (
                "postgres://x@127.0.0.1/xylem?sslmode=disable",
                AddressError::Plaintext,
            ),
            (
                "postgres://x@db.example/xylem?password=s3cr3t",
                AddressError::Parameter,
            ),
            (
                "postgres://x@db.example/xylem?options=-csearch_path%3Dother",
                AddressError::Parameter,
            ),
        ] {
            assert_eq!(text.parse::<PostgresAddress>().err(), Some(error), "{text}");
            assert!(!error.to_string().contains("s3cr3t"));
        }
    }

    #[test]
    fn an_address_shows_no_password() {
        let address: PostgresAddress = "postgres://x:s3cr3t@db.example/xylem"
            .parse()
            .expect("an address");
        let address = address.with_password("s3cr3t-too");
        assert_eq!(address.to_string(), "xylem on db.example:5432");
        assert!(!format!("{address:?}").contains("s3cr3t"));
    }
}
