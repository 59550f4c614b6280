//! The HTTP client: checked addresses, no proxies, no redirects, bounded answers.

use crate::{
    address::{AddressPolicy, AddressRefused, GuardedResolver, Lookup, SystemLookup, Unreachable},
    request::Request,
};
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE},
};
use reqwest::{Client, redirect::Policy, tls::Version};
use std::{error::Error, io::Read, sync::Arc, time::Duration};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const USER_AGENT: &str = concat!("xylem/", env!("CARGO_PKG_VERSION"));

/// Why there is no HTTP client.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client could not be made: check that this machine has TLS root certificates")]
pub struct HttpError(#[source] reqwest::Error);

/// Sends requests whose host was checked.
pub(crate) struct HttpClient {
    client: Client,
    guard: GuardedResolver,
}

/// What came back, as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// A body with its content encoding taken off.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    Whole(Vec<u8>),
    /// In an encoding that is not understood here, so the token could hide in it.
    Opaque,
    TooLarge,
}

/// Why nothing usable came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendError {
    /// Nothing was sent: the address must not be connected to.
    Refused(AddressRefused),
    /// Nothing was sent.
    NotSent(&'static str),
    /// It was sent, or may have been.
    NoAnswer(&'static str),
    /// It was answered with more than the limit.
    TooLarge,
}

impl HttpClient {
    pub(crate) fn new(policy: AddressPolicy) -> Result<Self, HttpError> {
        Self::with_lookup(policy, Arc::new(SystemLookup))
    }

    pub(crate) fn with_lookup(
        policy: AddressPolicy,
        lookup: Arc<dyn Lookup>,
    ) -> Result<Self, HttpError> {
        let guard = GuardedResolver {
            policy: Arc::new(policy),
            lookup,
        };
        let client = Client::builder()
            .dns_resolver(guard.clone())
            .no_proxy()
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            // Compressed answers are taken apart here, within bounds on both forms.
            .no_gzip()
            .no_brotli()
            .no_deflate()
            .tls_version_min(Version::TLS_1_2)
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(USER_AGENT)
            .build()
            .map_err(HttpError)?;
        Ok(Self { client, guard })
    }

    /// Checks the host before a token is asked for.
    pub(crate) async fn check(&self, request: &Request) -> Result<(), SendError> {
        let checked = self.guard.check(&request.url).await;
        checked.map_err(|unreachable| match unreachable {
            Unreachable::Refused(why) => SendError::Refused(why),
            Unreachable::Unresolved => SendError::NotSent("its host's name could not be resolved"),
        })
    }

    /// Sends a request with its token and reads the whole answer, at most `limit` bytes of body.
    pub(crate) async fn send(
        &self,
        request: Request,
        token: (HeaderName, HeaderValue),
        timeout: Duration,
        limit: usize,
    ) -> Result<Answer, SendError> {
        // Hosts that are addresses do not pass the resolver.
        self.guard
            .policy
            .check_url(&request.url)
            .map_err(SendError::Refused)?;
        let mut headers = request.headers;
        headers.insert(
            ACCEPT,
            HeaderValue::from_static("application/json, */*;q=0.5"),
        );
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(token.0, token.1);
        let mut sending = self.client.request(request.method, request.url);
        if let Some(body) = request.body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            sending = sending.body(body);
        }
        let sent = sending.headers(headers).timeout(timeout).send().await;
        read(sent.map_err(|error| reason(&error))?, limit).await
    }
}

/// Reads the body of a success within the limit. What an error says beyond the limit, or breaks off
/// to say, is left out: its status is what matters.
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
        match inner.downcast_ref::<Unreachable>() {
            Some(Unreachable::Refused(why)) => return SendError::Refused(*why),
            Some(Unreachable::Unresolved) => {
                return SendError::NotSent("its host's name could not be resolved");
            }
            None => source = inner.source(),
        }
    }
    if error.is_connect() {
        SendError::NotSent("no connection could be made, or its certificate is not trusted")
    } else if error.is_timeout() {
        SendError::NoAnswer("it took too long")
    } else if error.is_builder() || error.is_request() && error.source().is_none() {
        SendError::NotSent("the request could not be made")
    } else {
        SendError::NoAnswer("the connection broke")
    }
}

/// Takes the content encoding off a body. More than `limit` bytes are not unpacked.
pub(crate) fn decode(headers: &HeaderMap, body: Vec<u8>, limit: usize) -> Decoded {
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    let encoding = match (encodings.next(), encodings.next()) {
        (None, _) => "identity".to_owned(),
        (Some(one), None) => one.to_str().unwrap_or_default().trim().to_ascii_lowercase(),
        _ => return Decoded::Opaque,
    };
    match encoding.as_str() {
        "identity" | "" => Decoded::Whole(body),
        "gzip" | "x-gzip" => unpack(MultiGzDecoder::new(body.as_slice()), limit),
        "deflate" => unpack(ZlibDecoder::new(body.as_slice()), limit),
        _ => Decoded::Opaque,
    }
}

fn unpack(decoder: impl Read, limit: usize) -> Decoded {
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let mut body = Vec::new();
    match decoder.take(most).read_to_end(&mut body) {
        Ok(_) if body.len() > limit => Decoded::TooLarge,
        Ok(_) => Decoded::Whole(body),
        Err(_) => Decoded::Opaque,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(data).expect("memory");
        encoder.finish().expect("memory")
    }

    fn encoded(encoding: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static(encoding))])
    }

    #[test]
    fn known_encodings_are_taken_off_within_the_limit() {
        let whole = Decoded::Whole(b"hello".to_vec());
        assert_eq!(decode(&HeaderMap::new(), b"hello".to_vec(), 5), whole);
        assert_eq!(decode(&encoded("GZip"), gzip(b"hello"), 5), whole);
        assert_eq!(
            decode(&encoded("gzip"), gzip(b"hello!"), 5),
            Decoded::TooLarge
        );
        let bomb = gzip(&vec![0; 10_000_000]);
        assert!(bomb.len() < 20_000);
        assert_eq!(decode(&encoded("gzip"), bomb, 100_000), Decoded::TooLarge);
    }

    #[test]
    fn what_is_not_understood_stays_closed() {
        for encoding in ["br", "zstd", "gzip, gzip", "compress"] {
            assert_eq!(decode(&encoded(encoding), gzip(b"x"), 100), Decoded::Opaque);
        }
        assert_eq!(
            decode(&encoded("gzip"), b"not gzip".to_vec(), 100),
            Decoded::Opaque
        );
        let mut twice = encoded("gzip");
        twice.append(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert_eq!(decode(&twice, gzip(&gzip(b"x")), 100), Decoded::Opaque);
    }
}
