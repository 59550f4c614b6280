//! The HTTP client: checked addresses, no proxies, no redirects, bounded answers.

use crate::{
    address::{AddressPolicy, AddressRefused},
    resolve::{GuardedResolver, Lookup, SystemLookup, Unreachable},
    trust::{Trust, Untrusted},
};
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{ACCEPT_ENCODING, CONTENT_LENGTH},
};
use lru::LruCache;
use reqwest::{Client, ClientBuilder, redirect::Policy, tls::Version};
use std::{
    error::Error,
    fmt, io,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use url::Url;

/// How long a connection may take where nothing else is said.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const USER_AGENT: &str = concat!("xylem/", env!("CARGO_PKG_VERSION"));

/// So many clients that connect in a way of their own are kept, with their connections: those that were
/// used last. One that trusts in a way of its own takes about 200 KiB.
const MOST_APART: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Why there is no HTTP client.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client could not be made: check that this machine has TLS root certificates")]
pub struct OutboundError(#[source] reqwest::Error);

/// Sends requests whose host was checked.
#[derive(Clone)]
pub struct Outbound {
    client: Client,
    guard: GuardedResolver,
    /// Clients by how they connect. No connection of one is used by another.
    apart: Arc<Mutex<LruCache<Connecting, Client>>>,
}

/// How requests connect.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Connecting {
    /// How long that may take, until the server has shown who it is.
    pub timeout: Duration,
    /// Whom to trust to be the server, over https only; whom the system trusts where absent.
    pub trust: Option<Trust>,
}

impl Default for Connecting {
    fn default() -> Self {
        Self {
            timeout: CONNECT_TIMEOUT,
            trust: None,
        }
    }
}

/// A request. Mark the values of headers that are secret as sensitive. Its `Debug` shows neither
/// query nor body.
#[derive(Clone, PartialEq)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// Where to, with its query.
    pub url: Url,
    /// All headers but those of the connection, and `Accept-Encoding`, which is set here.
    pub headers: HeaderMap,
    /// The body. Its type is among the headers.
    pub body: Option<Vec<u8>>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.url.clone();
        url.set_query(None);
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("url", &url.as_str())
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

/// What came back, as it came: an encoded body is taken apart with [`decode`](crate::decode).
#[derive(Debug)]
pub struct Answer {
    /// The status; redirects are answers too.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, at most the limit.
    pub body: Vec<u8>,
}

/// Why nothing usable came back. No variant has a text from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Nothing was sent: the address must not be connected to.
    #[error(transparent)]
    Refused(#[from] AddressRefused),
    /// Nothing was sent.
    #[error("{0}")]
    NotSent(&'static str),
    /// Nothing was sent: the server did not show that it is the one that was meant.
    #[error("{0}")]
    Untrusted(Untrusted),
    /// It was sent, or may have been.
    #[error("{0}")]
    NoAnswer(&'static str),
    /// It was answered with more than the limit.
    #[error("the answer is larger than allowed")]
    TooLarge,
}

impl From<Unreachable> for SendError {
    fn from(unreachable: Unreachable) -> Self {
        match unreachable {
            Unreachable::Refused(why) => Self::Refused(why),
            Unreachable::Unresolved => Self::NotSent("its host's name could not be resolved"),
        }
    }
}

impl Outbound {
    /// A client that connects to what the policy allows, with the operating system's resolver.
    ///
    /// # Errors
    /// The TLS root certificates could not be loaded.
    pub fn new(policy: AddressPolicy) -> Result<Self, OutboundError> {
        Self::with_lookup(policy, Arc::new(SystemLookup))
    }

    /// The same with another resolver.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_lookup(
        policy: AddressPolicy,
        lookup: Arc<dyn Lookup>,
    ) -> Result<Self, OutboundError> {
        let guard = GuardedResolver {
            policy: Arc::new(policy),
            lookup,
        };
        let client = builder(&guard, CONNECT_TIMEOUT)
            .tls_version_min(Version::TLS_1_2)
            .build();
        Ok(Self {
            client: client.map_err(OutboundError)?,
            guard,
            apart: Arc::new(Mutex::new(LruCache::new(MOST_APART))),
        })
    }

    /// The same for requests that connect in another way. All that connect in the same share their
    /// connections.
    ///
    /// # Errors
    /// The system's certificate authorities could not be loaded.
    pub async fn connecting(&self, how: &Connecting) -> Result<Self, SendError> {
        const FAILED: SendError =
            SendError::NotSent("this machine's TLS root certificates could not be loaded for it");
        if *how == Connecting::default() {
            return Ok(self.clone());
        }
        let known = self.apart().get(how).cloned();
        let client = match known {
            Some(client) => client,
            None => {
                let (guard, other) = (self.guard.clone(), how.clone());
                // Root certificates are read from files.
                let build = tokio::task::spawn_blocking(move || client(&guard, &other));
                let client = build.await.ok().flatten().ok_or(FAILED)?;
                self.apart().put(how.clone(), client.clone());
                client
            }
        };
        Ok(Self {
            client,
            ..self.clone()
        })
    }

    fn apart(&self) -> MutexGuard<'_, LruCache<Connecting, Client>> {
        self.apart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks where a request would go, before a secret is asked for. Sending checks again.
    ///
    /// # Errors
    /// The host must not be connected to, or its name cannot be resolved.
    pub async fn check(&self, url: &Url) -> Result<(), SendError> {
        Ok(self.guard.check(url).await?)
    }

    /// Sends a request and reads the whole answer, at most `limit` bytes of body. What an error
    /// status says beyond the limit, or breaks off to say, is left out: its status is what matters.
    ///
    /// # Errors
    /// Nothing usable came back within `timeout`.
    pub async fn send(
        &self,
        request: Request,
        timeout: Duration,
        limit: usize,
    ) -> Result<Answer, SendError> {
        // Hosts that are addresses do not pass the resolver.
        self.guard.policy.check_url(&request.url)?;
        let mut headers = request.headers;
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        let mut sending = self.client.request(request.method, request.url);
        if let Some(body) = request.body {
            sending = sending.body(body);
        }
        let sent = sending.headers(headers).timeout(timeout).send().await;
        read(sent.map_err(|error| reason(&error))?, limit).await
    }
}

/// What every client has.
fn builder(guard: &GuardedResolver, timeout: Duration) -> ClientBuilder {
    Client::builder()
        .dns_resolver(guard.clone())
        .no_proxy()
        .redirect(Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        // Compressed answers are taken apart here, within bounds on both forms.
        .no_gzip()
        .no_brotli()
        .no_deflate()
        .connect_timeout(timeout)
        .user_agent(USER_AGENT)
}

/// A client that connects in a way of its own.
fn client(guard: &GuardedResolver, how: &Connecting) -> Option<Client> {
    let builder = builder(guard, how.timeout);
    let builder = match &how.trust {
        None => builder.tls_version_min(Version::TLS_1_2),
        Some(trust) => builder
            .https_only(true)
            .tls_backend_preconfigured(trust.config().ok()?),
    };
    builder.build().ok()
}

async fn read(mut response: reqwest::Response, limit: usize) -> Result<Answer, SendError> {
    let body = body(&mut response, limit).await;
    let body = if response.status().is_success() {
        body?
    } else {
        body.unwrap_or_default()
    };
    Ok(Answer {
        status: response.status(),
        headers: std::mem::take(response.headers_mut()),
        body,
    })
}

async fn body(response: &mut reqwest::Response, limit: usize) -> Result<Vec<u8>, SendError> {
    let announced = response.headers().get(CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > limit) {
        return Err(SendError::TooLarge);
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| reason(&error))? {
        if body.len() + chunk.len() > limit {
            return Err(SendError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// What a client error means. Its text is not used: it contains the URL.
fn reason(error: &reqwest::Error) -> SendError {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(unreachable) = inner.downcast_ref::<Unreachable>() {
            return (*unreachable).into();
        }
        if let Some(untrusted) = inner.downcast_ref().and_then(Untrusted::of) {
            return SendError::Untrusted(untrusted);
        }
        // The source of such an error is not what it carries, but the source of that.
        source = match inner
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(carried) => Some(carried),
            None => inner.source(),
        };
    }
    if error.is_connect() {
        SendError::NotSent("no connection could be made")
    } else if error.is_timeout() {
        SendError::NoAnswer("it took too long")
    } else if error.is_builder() || error.is_request() && error.source().is_none() {
        SendError::NotSent("the request could not be made")
    } else {
        SendError::NoAnswer("the connection broke")
    }
}
