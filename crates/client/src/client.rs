//! Connecting, and what every call has in common.

use crate::Error;
use secrecy::{ExposeSecret, SecretString};
use std::{fmt, net::IpAddr, time::Duration};
use tonic::{
    Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use url::{Host, Url};

/// How long an ordinary call may take.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not a URL of the form `https://host:port`.
    #[error(
        "the control plane's address must be of the form https://host:port, or http://host:port on loopback"
    )]
    Address,
    /// Plain HTTP to another machine would show the API key and every token to the network.
    #[error("the control plane at {0} is not on loopback: plain HTTP is refused there, use https")]
    NotLoopback(String),
    /// The certificates that were given cannot be used.
    #[error(
        "no TLS to the control plane: the certificates or the key that were given cannot be used; expected PEM"
    )]
    Tls(#[source] tonic::transport::Error),
    /// The API key holds characters that no API key has.
    #[error("the API key is malformed: expected printable ASCII without spaces, as it was shown")]
    Key,
    /// Nobody answers there.
    #[error("no control plane answers at {address}: {}", advice(address))]
    Unreachable {
        /// Where.
        address: String,
        /// What the connection came to.
        source: tonic::transport::Error,
    },
}

/// With https, most of what goes wrong is a certificate.
fn advice(address: &str) -> &'static str {
    if address.starts_with("https:") {
        "is `xylem server` running, and is its certificate from a CA that is trusted here?"
    } else {
        "is `xylem dev` or `xylem server` running?"
    }
}

/// What TLS goes by, where that is not what the system trusts. Without TLS it is not used.
#[derive(Clone, Default)]
pub struct Tls {
    ca: Option<Certificate>,
    identity: Option<Identity>,
}

impl Tls {
    /// What the system trusts, and no certificate of the client's own.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts servers whose certificate one of these CAs has signed, PEM, and no others.
    #[must_use]
    pub fn with_ca(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.ca = Some(Certificate::from_pem(pem));
        self
    }

    /// Shows a certificate of its own, PEM, with those between it and its CA.
    #[must_use]
    pub fn with_identity(mut self, certificate: impl AsRef<[u8]>, key: &SecretString) -> Self {
        self.identity = Some(Identity::from_pem(certificate, key.expose_secret()));
        self
    }

    fn config(&self) -> ClientTlsConfig {
        let config = match &self.ca {
            Some(ca) => ClientTlsConfig::new().ca_certificate(ca.clone()),
            None => ClientTlsConfig::new().with_enabled_roots(),
        };
        match &self.identity {
            Some(identity) => config.identity(identity.clone()),
            None => config,
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("ca", &self.ca.is_some())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

/// A client with an API key. Cheap to clone; clones share one connection, which heals by itself.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) channel: InterceptedService<Channel, Authorization>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// The address or key is malformed, the address is not on loopback, or nobody answers there
    /// within 5 s.
    pub async fn connect(address: &str, key: &SecretString) -> Result<Self, ConnectError> {
        Self::connect_with(address, &Tls::new(), key).await
    }

    /// The same, with TLS that goes by what is given here.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), and the certificates cannot be used.
    pub async fn connect_with(
        address: &str,
        tls: &Tls,
        key: &SecretString,
    ) -> Result<Self, ConnectError> {
        let channel = endpoint(address, tls)?.connect().await;
        let channel = channel.map_err(|source| ConnectError::Unreachable {
            address: address.to_owned(),
            source,
        })?;
        Self::over(channel, key)
    }

    /// A client that connects with its first call, for those who start before the control plane.
    ///
    /// # Errors
    /// The address or key is malformed, or the address is not on loopback.
    pub fn connect_lazy(address: &str, key: &SecretString) -> Result<Self, ConnectError> {
        Self::connect_lazy_with(address, &Tls::new(), key)
    }

    /// The same, with TLS that goes by what is given here.
    ///
    /// # Errors
    /// As [`connect_lazy`](Self::connect_lazy), and the certificates cannot be used.
    pub fn connect_lazy_with(
        address: &str,
        tls: &Tls,
        key: &SecretString,
    ) -> Result<Self, ConnectError> {
        Self::over(endpoint(address, tls)?.connect_lazy(), key)
    }

    fn over(channel: Channel, key: &SecretString) -> Result<Self, ConnectError> {
        let authorization = Authorization::new(key)?;
        Ok(Self {
            channel: InterceptedService::new(channel, authorization),
        })
    }
}

/// Runs one call with a deadline.
pub(crate) async fn call<Q, A, F>(
    message: Q,
    timeout: Duration,
    call: impl FnOnce(Request<Q>) -> F,
) -> Result<A, Error>
where
    F: Future<Output = Result<Response<A>, Status>>,
{
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    Ok(call(request).await?.into_inner())
}

/// Checks an address without connecting: whoever sends a secret there by other means keeps the same
/// rule.
///
/// # Errors
/// The address is malformed, or plain HTTP to another machine.
pub fn check_address(address: &str) -> Result<(), ConnectError> {
    endpoint(address, &Tls::new()).map(drop)
}

fn endpoint(address: &str, tls: &Tls) -> Result<Endpoint, ConnectError> {
    let url = Url::parse(address).map_err(|_| ConnectError::Address)?;
    let plain = url.path() == "/" && url.username().is_empty() && url.password().is_none();
    let host = url.host().filter(|_| plain).ok_or(ConnectError::Address)?;
    let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|_| ConnectError::Address)?;
    let endpoint = match url.scheme() {
        "https" => endpoint
            .tls_config(tls.config())
            .map_err(ConnectError::Tls)?,
        "http" if is_loopback(&host) => endpoint,
        "http" => return Err(ConnectError::NotLoopback(host.to_string())),
        _ => return Err(ConnectError::Address),
    };
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .user_agent(concat!("xylem/", env!("CARGO_PKG_VERSION")))
        .map_err(|_| ConnectError::Address)
}

fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost",
        Host::Ipv4(address) => IpAddr::V4(*address).is_loopback(),
        Host::Ipv6(address) => IpAddr::V6(*address).is_loopback(),
    }
}

/// Puts the API key on every call. The value is marked sensitive: its `Debug` shows nothing.
#[derive(Debug, Clone)]
pub(crate) struct Authorization(MetadataValue<Ascii>);

impl Authorization {
    fn new(key: &SecretString) -> Result<Self, ConnectError> {
        let key = key.expose_secret();
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ConnectError::Key);
        }
        let mut value: MetadataValue<Ascii> = format!("Bearer {key}")
            .parse()
            .map_err(|_| ConnectError::Key)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

impl Interceptor for Authorization {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request
            .metadata_mut()
            .insert("authorization", self.0.clone());
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SecretString {
        SecretString::from("xyk_canary0123456789")
    }

    #[tokio::test]
    async fn plain_http_leaves_the_machine_never() {
        for address in [
            "http://10.0.0.1:7243",
            "http://example.com:7243",
            "http://0.0.0.0:1",
        ] {
            let error = Client::connect_lazy(address, &key()).expect_err(address);
            assert!(matches!(error, ConnectError::NotLoopback(_)), "{error}");
        }
        for address in [
            "ftp://127.0.0.1:1",
            "127.0.0.1:1",
            "https://127.0.0.1:1/path",
            "https://u:p@127.0.0.1:1",
            "",
            "http://u@127.0.0.1:1",
        ] {
            let error = Client::connect_lazy(address, &key()).expect_err(address);
            assert!(matches!(error, ConnectError::Address), "{error}");
        }
        for address in [
            "http://127.0.0.1:7243",
            "http://[::1]:7243",
            "http://localhost:7243",
            "https://xylem.example:7243",
        ] {
            assert!(Client::connect_lazy(address, &key()).is_ok(), "{address}");
        }
    }

    #[tokio::test]
    async fn a_key_is_neither_printed_nor_quoted() {
        let client = Client::connect_lazy("http://127.0.0.1:1", &key()).expect("well formed");
        assert!(!format!("{client:?}").contains("canary"));
        let bad = SecretString::from("canary with spaces");
        let error = Client::connect_lazy("http://127.0.0.1:1", &bad).expect_err("spaces");
        assert!(!format!("{error} {error:?}").contains("canary"));
    }

    #[test]
    fn a_client_key_is_not_printed() {
        let tls = Tls::new().with_identity("cert", &SecretString::from("canary"));
        assert!(!format!("{tls:?}").contains("canary"));
    }

    #[tokio::test]
    async fn nobody_there_says_what_to_do() {
        // Bound and not listening: nobody else is given the port meanwhile.
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        let anywhere = "127.0.0.1:0".parse().expect("an address");
        socket.bind(anywhere).expect("a free port");
        let port = socket.local_addr().expect("its address").port();
        let address = format!("http://127.0.0.1:{port}");
        let error = Client::connect(&address, &key()).await.expect_err("nobody");
        assert!(error.to_string().contains("xylem dev"), "{error}");
    }
}
