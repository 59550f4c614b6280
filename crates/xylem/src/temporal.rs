//! Where the Temporal server is, and how to get in.

use secrecy::{ExposeSecret, SecretString};
use std::{
    error::Error,
    io,
    path::PathBuf,
    time::{Duration, SystemTime},
};
use temporalio_client::{
    Client, ClientOptions, Connection, ConnectionOptions, NamespacedClient,
    envconfig::{ClientConfigProfile, ConfigError, DataSource, LoadClientConfigProfileOptions},
    errors::ClientConnectError,
};
use temporalio_common::{
    envconfig::{ClientConfigTLS, load_client_config_profile},
    protos::temporal::api::{
        enums::v1::TaskQueueType,
        taskqueue::v1::{PollerInfo, TaskQueue},
        workflowservice::v1::DescribeTaskQueueRequest,
    },
};
use tonic::IntoRequest;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A worker polls anew each minute, and a poll that is served takes no longer to be followed.
const POLL: Duration = Duration::from_secs(75);
const DEFAULT_ADDRESS: &str = "localhost:7233";
const DEFAULT_NAMESPACE: &str = "default";

/// Where Temporal is. What is absent here comes from the environment (`TEMPORAL_ADDRESS`,
/// `TEMPORAL_NAMESPACE`, `TEMPORAL_API_KEY`, `TEMPORAL_TLS_…`) and from the Temporal client's own
/// configuration file, in this order.
#[derive(Debug, Clone, Default)]
pub struct TemporalOptions {
    /// `host:port`.
    pub address: Option<String>,
    /// The namespace.
    pub namespace: Option<String>,
    /// An API key; turns TLS on.
    pub api_key: Option<SecretString>,
    /// The CA certificate the server's is checked against, as PEM; turns TLS on.
    pub tls_ca: Option<PathBuf>,
    /// The client's certificate, as PEM; turns TLS on.
    pub tls_cert: Option<PathBuf>,
    /// The client's key, as PEM.
    pub tls_key: Option<PathBuf>,
    /// The name the server's certificate is checked for, where it is not the address.
    pub tls_server_name: Option<String>,
    /// The profile of the configuration file.
    pub profile: Option<String>,
    /// Looks neither at the environment nor at the configuration file.
    pub only_these: bool,
}

/// Why there is no connection to Temporal. Never shows a key: neither the configuration file nor
/// the environment is quoted.
#[derive(Debug, thiserror::Error)]
pub enum TemporalError {
    /// The environment or the configuration file cannot be used.
    #[error("the configuration of the Temporal client cannot be used: {0}")]
    Configuration(String),
    /// Nobody answers, or not as a Temporal server does.
    #[error("no Temporal server answers at {address}")]
    Unreachable {
        /// Where.
        address: String,
        /// What the connection came to.
        source: Box<ClientConnectError>,
    },
    /// The server refused the credentials.
    #[error("the Temporal server at {address} refused the connection: {message}")]
    Refused {
        /// Where.
        address: String,
        /// What it said.
        message: String,
    },
    /// Nothing came back in time.
    #[error("the Temporal server at {address} did not answer within 10 s")]
    TimedOut {
        /// Where.
        address: String,
    },
}

impl TemporalOptions {
    /// A server without TLS, whatever the environment says: one that this program has started.
    #[must_use]
    pub fn at(address: impl Into<String>, namespace: impl Into<String>) -> Self {
        Self {
            address: Some(address.into()),
            namespace: Some(namespace.into()),
            only_these: true,
            ..Self::default()
        }
    }

    /// The same with everything filled in.
    ///
    /// # Errors
    /// The environment or the configuration file cannot be used.
    pub fn resolve(&self) -> Result<ResolvedTemporal, TemporalError> {
        let mut profile = if self.only_these {
            ClientConfigProfile::default()
        } else {
            let options = LoadClientConfigProfileOptions::builder()
                .maybe_config_file_profile(self.profile.clone())
                .build();
            load_client_config_profile(options, None).map_err(configuration)?
        };
        self.apply(&mut profile);
        let namespace = profile.namespace.clone();
        let address = profile.address.clone();
        Ok(ResolvedTemporal {
            address: address.unwrap_or_else(|| DEFAULT_ADDRESS.to_owned()),
            namespace: namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
            connection: ConnectionOptions::try_from(profile).map_err(configuration)?,
        })
    }

    /// Connects.
    ///
    /// # Errors
    /// The configuration cannot be used, or no server answers within 10 s.
    pub async fn connect(&self) -> Result<Client, TemporalError> {
        self.resolve()?.connect().await
    }

    fn apply(&self, profile: &mut ClientConfigProfile) {
        let file = |path: &PathBuf| DataSource::Path(path.to_string_lossy().into_owned());
        overlay(&mut profile.address, self.address.clone());
        overlay(&mut profile.namespace, self.namespace.clone());
        let key = self.api_key.as_ref();
        overlay(
            &mut profile.api_key,
            key.map(|key| key.expose_secret().to_owned()),
        );
        if self.names_tls() {
            let tls = profile.tls.get_or_insert_with(ClientConfigTLS::default);
            tls.disabled = None;
            overlay(&mut tls.server_ca_cert, self.tls_ca.as_ref().map(file));
            overlay(&mut tls.client_cert, self.tls_cert.as_ref().map(file));
            overlay(&mut tls.client_key, self.tls_key.as_ref().map(file));
            overlay(&mut tls.server_name, self.tls_server_name.clone());
        }
    }

    fn names_tls(&self) -> bool {
        self.tls_ca.is_some()
            || self.tls_cert.is_some()
            || self.tls_key.is_some()
            || self.tls_server_name.is_some()
    }
}

/// Whether somebody polls a task queue; false where Temporal does not say.
pub(crate) async fn pollers(client: &Client, queue: &str, kind: TaskQueueType) -> bool {
    let request = DescribeTaskQueueRequest {
        namespace: client.namespace(),
        task_queue: Some(TaskQueue {
            name: queue.to_owned(),
            ..TaskQueue::default()
        }),
        task_queue_type: kind.into(),
        ..DescribeTaskQueueRequest::default()
    };
    let mut service = client.connection().workflow_service();
    let answer = service.describe_task_queue(request.into_request()).await;
    let now = SystemTime::now();
    answer.is_ok_and(|answer| {
        answer
            .into_inner()
            .pollers
            .iter()
            .any(|poller| is_alive(poller, now))
    })
}

/// Temporal goes on listing a poller for minutes after its end.
fn is_alive(poller: &PollerInfo, now: SystemTime) -> bool {
    let seconds = poller.last_access_time.map(|seen| seen.seconds);
    let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let since_epoch = Duration::from_secs(seconds.unwrap_or(0));
    let Some(seen) = SystemTime::UNIX_EPOCH.checked_add(since_epoch) else {
        return false;
    };
    seen > now || now.duration_since(seen).is_ok_and(|since| since < POLL)
}

fn overlay<T>(place: &mut Option<T>, value: Option<T>) {
    if value.is_some() {
        *place = value;
    }
}

/// A place of a Temporal server with nothing left to look up.
#[derive(Clone)]
pub struct ResolvedTemporal {
    /// `host:port`.
    pub address: String,
    /// The namespace.
    pub namespace: String,
    connection: ConnectionOptions,
}

impl ResolvedTemporal {
    /// Connects.
    ///
    /// # Errors
    /// No server answers within 10 s.
    pub async fn connect(self) -> Result<Client, TemporalError> {
        let Self {
            address,
            namespace,
            mut connection,
        } = self;
        connection.identity = format!("xylem@{}", std::process::id());
        connection.connect_timeout = Some(CONNECT_TIMEOUT);
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, Connection::connect(connection));
        let Ok(connected) = connected.await else {
            return Err(TemporalError::TimedOut { address });
        };
        let connection = connected.map_err(|source| connect_error(address.clone(), source))?;
        Client::new(connection, ClientOptions::new(namespace).build())
            .map_err(|source| connect_error(address, source.into()))
    }
}

fn connect_error(address: String, source: ClientConnectError) -> TemporalError {
    match source {
        ClientConnectError::SystemInfoCallError(status)
            if matches!(
                status.code(),
                tonic::Code::Unauthenticated | tonic::Code::PermissionDenied
            ) =>
        {
            let message = status.message().to_owned();
            TemporalError::Refused { address, message }
        }
        source => TemporalError::Unreachable {
            address,
            source: Box::new(source),
        },
    }
}

/// A parser's message quotes the line it stumbled over, which may hold an API key: only what
/// cannot quote is passed on.
fn configuration(error: ConfigError) -> TemporalError {
    TemporalError::Configuration(match error {
        ConfigError::ProfileNotFound(name) => format!("there is no profile {name:?}"),
        ConfigError::InvalidConfig(_) => {
            "the address is not of the form host:port, or a certificate and its key do not come \
             together"
                .to_owned()
        }
        ConfigError::LoadError(source) => match io_error(source.as_ref()) {
            Some(error) => format!("a file it names cannot be read: {error}"),
            None => "the file is not in the form the Temporal client expects".to_owned(),
        },
    })
}

fn io_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    error.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_comes_first_and_nothing_else_counts_where_only_these_do() {
        let resolved = TemporalOptions::at("127.0.0.1:7", "tenants").resolve();
        let resolved = resolved.expect("complete");
        assert_eq!(resolved.address, "127.0.0.1:7");
        assert_eq!(resolved.namespace, "tenants");
        assert_eq!(resolved.connection.target.as_str(), "http://127.0.0.1:7/");
        assert!(resolved.connection.tls_options.is_none());
    }

    #[test]
    fn a_certificate_turns_tls_on() {
        let directory = tempfile::tempdir().expect("a directory");
        let ca = directory.path().join("ca.pem");
        std::fs::write(&ca, "pem").expect("written");
        let options = TemporalOptions {
            tls_ca: Some(ca),
            ..TemporalOptions::at("temporal.example:7233", "default")
        };
        let resolved = options.resolve().expect("complete");
        assert!(resolved.connection.tls_options.is_some());
        assert_eq!(resolved.connection.target.scheme(), "https");
    }

    #[test]
    fn no_message_quotes_the_configuration() {
        let error: Box<dyn Error> = "1 | api_key = canary".into();
        let shown = configuration(ConfigError::LoadError(error)).to_string();
        assert!(!shown.contains("canary"), "{shown}");
        let invalid = ConfigError::InvalidConfig("canary".into());
        assert!(!configuration(invalid).to_string().contains("canary"));
    }

    #[test]
    fn a_poller_that_was_not_seen_for_more_than_a_poll_is_gone() {
        let now = SystemTime::now();
        let since = now.duration_since(SystemTime::UNIX_EPOCH).expect("after");
        let seconds = i64::try_from(since.as_secs()).expect("small");
        for (ago, alive) in [(0, true), (70, true), (80, false), (-5, true)] {
            let mut poller = PollerInfo::default();
            poller.last_access_time.get_or_insert_default().seconds = seconds - ago;
            assert_eq!(is_alive(&poller, now), alive, "{ago} s ago");
        }
        assert!(!is_alive(&PollerInfo::default(), now));
    }

    #[tokio::test]
    async fn nobody_there_is_unreachable() {
        // Bound and not listening: nobody else is given the port meanwhile.
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        let anywhere = "127.0.0.1:0".parse().expect("an address");
        socket.bind(anywhere).expect("a port");
        let address = socket.local_addr().expect("its address").to_string();
        let error = TemporalOptions::at(&address, "default").connect().await;
        let error = error.expect_err("nobody listens");
        assert!(
            matches!(error, TemporalError::Unreachable { .. }),
            "{error}"
        );
        assert!(error.to_string().contains(&address));
    }
}
