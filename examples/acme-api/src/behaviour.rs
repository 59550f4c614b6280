//! Misbehaviour on request.

use crate::{
    State,
    tokens::{Caller, Tokens},
};
use axum::{
    Json,
    body::Bytes,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::{Compression, write::GzEncoder};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt::Write as _, io::Write as _, time::Duration};

/// What a path does instead of its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Behaviour {
    /// Answers 401, whatever the token.
    Refuse,
    /// Answers 429.
    Throttle {
        /// The value of `Retry-After`, in seconds; none without it.
        retry_after: Option<u64>,
    },
    /// Answers with any status, such as 500.
    Status {
        /// The status.
        status: u16,
    },
    /// Does its work after a while.
    Slow {
        /// How long, in milliseconds.
        ms: u64,
    },
    /// Reflects the request, `Authorization` included, in body and headers.
    Echo {
        /// How the body is written.
        encoding: Encoding,
        /// The status of the answer; 200 where absent.
        #[serde(default = "ok")]
        status: u16,
    },
    /// Answers 307.
    Redirect {
        /// Where to.
        location: String,
    },
    /// Answers with a body of this size, compressed where asked.
    Large {
        /// Bytes before compression.
        bytes: usize,
        /// Whether the body is sent with gzip.
        gzip: bool,
    },
}

/// How an echo is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// As JSON.
    Plain,
    /// As JSON with `Content-Encoding: gzip`.
    Gzip,
    /// Base64 of the JSON.
    Base64,
    /// Hexadecimal of the JSON, lower case.
    Hex,
    /// The JSON percent-encoded, every character that is not a letter or digit.
    Url,
    /// JSON with every character of every string written `\uXXXX`.
    Json,
}

impl Encoding {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Plain,
        Self::Gzip,
        Self::Base64,
        Self::Hex,
        Self::Url,
        Self::Json,
    ];
}

struct Setting {
    behaviour: Behaviour,
    left: Option<u32>,
}

/// Behaviours by path; the empty path is every path.
#[derive(Default)]
pub(crate) struct Behaviours(BTreeMap<String, Setting>);

impl Behaviours {
    pub(crate) fn set(&mut self, path: Option<&str>, behaviour: Behaviour, left: Option<u32>) {
        let path = path.unwrap_or_default().to_owned();
        self.0.insert(path, Setting { behaviour, left });
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// The behaviour for a call, the path's own before the general one.
    fn take(&mut self, path: &str) -> Option<Behaviour> {
        let key = [path, ""]
            .into_iter()
            .find(|key| self.0.contains_key(*key))?;
        let setting = self.0.get_mut(key)?;
        let behaviour = setting.behaviour.clone();
        match setting.left.as_mut() {
            Some(1) => {
                self.0.remove(key);
            }
            Some(left) => *left = left.saturating_sub(1),
            None => {}
        }
        Some(behaviour)
    }
}

/// A request as an echo sees it.
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// The answer a path was told to give, or none where it is to do its work.
pub(crate) async fn misbehave(state: &State, caller: Caller, seen: &Seen) -> Option<Response> {
    let behaviour = state.behaviours().take(seen.uri.path())?;
    match behaviour {
        Behaviour::Refuse => {
            state.tokens().refuse(caller);
            Some(unauthorized())
        }
        Behaviour::Throttle { retry_after } => Some(throttled(retry_after)),
        Behaviour::Status { status } => Some(failed(status)),
        Behaviour::Slow { ms } => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            None
        }
        Behaviour::Echo { encoding, status } => Some(echo(seen, encoding, status)),
        Behaviour::Redirect { location } => Some(redirect(&location)),
        Behaviour::Large { bytes, gzip } => Some(large(bytes, gzip)),
    }
}

pub(crate) fn unauthorized() -> Response {
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    let body = Json(json!({ "error": "the token is not accepted" }));
    (StatusCode::UNAUTHORIZED, challenge, body).into_response()
}

fn throttled(retry_after: Option<u64>) -> Response {
    let body = Json(json!({ "error": "too many calls" }));
    let mut response = (StatusCode::TOO_MANY_REQUESTS, body).into_response();
    if let Some(seconds) = retry_after {
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn failed(status: u16) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(json!({ "error": "told to fail" }))).into_response()
}

fn redirect(location: &str) -> Response {
    match HeaderValue::from_str(location) {
        Ok(location) => {
            let headers = [(header::LOCATION, location)];
            (StatusCode::TEMPORARY_REDIRECT, headers).into_response()
        }
        Err(_) => failed(500),
    }
}

fn large(bytes: usize, gzip: bool) -> Response {
    let body = vec![b'a'; bytes];
    if gzip {
        gzipped(&body)
    } else {
        body.into_response()
    }
}

fn gzipped(body: &[u8]) -> Response {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let written = encoder.write_all(body).and_then(|()| encoder.finish());
    match written {
        Ok(body) => ([(header::CONTENT_ENCODING, "gzip")], body).into_response(),
        Err(_) => failed(500),
    }
}

fn ok() -> u16 {
    200
}

fn echo(seen: &Seen, encoding: Encoding, status: u16) -> Response {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers: BTreeMap<_, _> = seen
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), text(value)))
        .collect();
    let reflected = json!({
        "method": seen.method.as_str(),
        "uri": seen.uri.to_string(),
        "headers": headers,
        "body": String::from_utf8_lossy(&seen.body),
    });
    let mut response = written(&reflected, encoding);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    if let Some(authorization) = seen.headers.get(header::AUTHORIZATION) {
        let name = HeaderName::from_static("x-echo-authorization");
        response.headers_mut().insert(name, authorization.clone());
    }
    response
}

fn written(reflected: &Value, encoding: Encoding) -> Response {
    let text = reflected.to_string();
    match encoding {
        Encoding::Plain => Json(reflected).into_response(),
        Encoding::Gzip => gzipped(text.as_bytes()),
        Encoding::Base64 => STANDARD.encode(&text).into_response(),
        Encoding::Hex => hex::encode(&text).into_response(),
        Encoding::Url => utf8_percent_encode(&text, NON_ALPHANUMERIC)
            .to_string()
            .into_response(),
        Encoding::Json => {
            let headers = [(header::CONTENT_TYPE, "application/json")];
            (headers, escaped(reflected)).into_response()
        }
    }
}

/// JSON with every character of every string as `\uXXXX`.
fn escaped(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let mut out = String::from("\"");
            for unit in text.encode_utf16() {
                let _ = write!(out, "\\u{unit:04x}");
            }
            out + "\""
        }
        Value::Object(fields) => {
            let fields = fields.iter();
            let fields: Vec<_> = fields
                .map(|(name, value)| format!("{}:{}", Value::from(name.as_str()), escaped(value)))
                .collect();
            format!("{{{}}}", fields.join(","))
        }
        other => other.to_string(),
    }
}

/// Admits a call, or answers it with 401. The token is a bearer token, a password, the header
/// `X-Api-Key`, or the parameter `api_key` of the query.
pub(crate) fn admit(
    tokens: &mut Tokens,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Caller, Box<Response>> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let authorization = header(header::AUTHORIZATION.as_str());
    let bearer = authorization.and_then(|value| value.strip_prefix("Bearer "));
    let basic = authorization.and_then(|value| value.strip_prefix("Basic "));
    let token = bearer
        .or_else(|| header("x-api-key"))
        .map(str::to_owned)
        .or_else(|| password(basic?))
        .or_else(|| in_query(uri.query()?));
    tokens
        .admit(token.as_deref())
        .ok_or_else(|| Box::new(unauthorized()))
}

fn password(basic: &str) -> Option<String> {
    let pair = String::from_utf8(STANDARD.decode(basic).ok()?).ok()?;
    let (_, password) = pair.split_once(':')?;
    Some(password.to_owned())
}

fn in_query(query: &str) -> Option<String> {
    let mut pairs = query.split('&');
    let encoded = pairs.find_map(|pair| pair.strip_prefix("api_key="))?;
    let decoded = percent_encoding::percent_decode_str(encoded).decode_utf8();
    Some(decoded.ok()?.into_owned())
}
