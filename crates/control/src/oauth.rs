//! Obtaining access tokens: one form, one answer (RFC 6749, sections 4.4, 5 and 6).

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::time::Duration;
use url::{Url, form_urlencoded};
use xylem_audit::Reason;
use xylem_grant::UnixSeconds;
use xylem_outbound::{Decoded, Outbound, Request, SendError, decode};
use xylem_vault::{OAuthClient, OAuthGrant};
use zeroize::Zeroizing;

/// Each of the two questions may take so long.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
const LARGEST: usize = 64 * 1024;
/// Taken off the end of a token's life: its way here takes time, and clocks differ.
const MARGIN: u64 = 30;
/// The reason where a probe says no.
pub(crate) const PROBE_REFUSED: &str = "probe_refused";
const MALFORMED: Failed = Failed::Later("the token endpoint's answer is no token answer");

/// A token that was obtained. Its `Debug` shows everything but the secrets.
#[derive(Debug)]
pub(crate) struct Obtained {
    pub(crate) token: SecretString,
    /// When it ends; a file or a command may not say it.
    pub(crate) expires_at: Option<UnixSeconds>,
    /// Takes the place of the refresh token that was used.
    pub(crate) refresh_token: Option<SecretString>,
}

/// Why none was. No text comes from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failed {
    /// Asking again may help.
    Later(&'static str),
    /// What is on this machine could not be used, as a code and in words.
    Here(&'static str, String),
    /// The provider said no: a code of RFC 6749, section 5.2.
    Refused(Reason),
}

impl Failed {
    pub(crate) fn here(code: &'static str, why: impl Into<String>) -> Self {
        Self::Here(code, why.into())
    }
}

/// The answer's fields that count.
#[derive(Deserialize)]
struct Answer {
    access_token: Secret,
    token_type: String,
    expires_in: Option<u64>,
    refresh_token: Option<Secret>,
}

/// Read straight into what is overwritten when it is dropped.
#[derive(Deserialize)]
#[serde(from = "String")]
struct Secret(SecretString);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

/// Asks once. Life is counted from `now`, which is before the question.
pub(crate) async fn obtain(
    outbound: &Outbound,
    client: &OAuthClient,
    now: UnixSeconds,
) -> Result<Obtained, Failed> {
    let answer = outbound.send(request(client)?, TIMEOUT, LARGEST).await;
    let answer = answer.map_err(not_sent)?;
    let status = answer.status;
    let body = match decode(&answer.headers, answer.body, LARGEST) {
        Decoded::Whole(body) => Zeroizing::new(body),
        Decoded::Opaque | Decoded::TooLarge => return Err(MALFORMED),
    };
    if status == StatusCode::BAD_REQUEST || status == StatusCode::UNAUTHORIZED {
        return Err(refused(&body));
    }
    if status != StatusCode::OK {
        return Err(Failed::Later(
            "the token endpoint does not answer with a token",
        ));
    }
    let answer: Answer = serde_json::from_slice(&body).map_err(|_| MALFORMED)?;
    if !answer.token_type.eq_ignore_ascii_case("bearer") {
        return Err(Failed::Later("the token endpoint gives no bearer tokens"));
    }
    let lifetime = answer.expires_in.or(client.oauth.assume_lifetime);
    let lifetime = lifetime.ok_or(Failed::Later(
        "the token endpoint does not say how long the token lives: add the credential with an \
         assumed lifetime",
    ))?;
    // A life that is shorter than the margin still counts for something.
    let margin = MARGIN.min(lifetime / 4);
    Ok(Obtained {
        token: answer.access_token.0,
        expires_at: Some(now.plus(Duration::from_secs(lifetime - margin))),
        refresh_token: answer.refresh_token.map(|Secret(token)| token),
    })
}

/// Asks once with a token that nobody has yet.
pub(crate) async fn probe(
    outbound: &Outbound,
    url: &str,
    token: &SecretString,
) -> Result<(), Failed> {
    const WRONG: Failed = Failed::Later("the probe's URL cannot be used");
    let url: Url = url.parse().map_err(|_| WRONG)?;
    let text = Zeroizing::new(format!("Bearer {}", token.expose_secret()));
    let mut value = HeaderValue::from_str(&text).map_err(|_| WRONG)?;
    value.set_sensitive(true);
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, value);
    let request = Request {
        method: Method::GET,
        url,
        headers,
        body: None,
    };
    let answer = outbound.send(request, TIMEOUT, LARGEST).await;
    match answer.map(|answer| answer.status) {
        Ok(status) if status.is_success() => Ok(()),
        Ok(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
            Err(Failed::Refused(Reason::of(PROBE_REFUSED)))
        }
        // It was taken, and there is more to read than matters.
        Err(SendError::TooLarge) => Ok(()),
        _ => Err(Failed::Later("the probe does not answer with success")),
    }
}

fn request(client: &OAuthClient) -> Result<Request, Failed> {
    const WRONG: Failed = Failed::Later("the token endpoint's URL cannot be used");
    let oauth = &client.oauth;
    let url: Url = oauth.token_url.parse().map_err(|_| WRONG)?;
    let mut form = form_urlencoded::Serializer::new(String::new());
    match (oauth.grant, &client.refresh_token) {
        (OAuthGrant::RefreshToken, Some(token)) => {
            form.append_pair("grant_type", "refresh_token");
            form.append_pair("refresh_token", token.expose_secret());
        }
        _ => {
            form.append_pair("grant_type", "client_credentials");
        }
    }
    if !oauth.scopes.is_empty() {
        form.append_pair("scope", &oauth.scopes.join(" "));
    }
    if let Some(resource) = &oauth.resource {
        form.append_pair("resource", resource);
    }
    let mut headers = HeaderMap::new();
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
    headers.insert(CONTENT_TYPE, kind);
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    let secret = client.client_secret.expose_secret();
    if oauth.secret_in_form {
        form.append_pair("client_id", &oauth.client_id);
        form.append_pair("client_secret", secret);
    } else {
        headers.insert(AUTHORIZATION, basic(&oauth.client_id, secret).ok_or(WRONG)?);
    }
    Ok(Request {
        method: Method::POST,
        url,
        headers,
        body: Some(form.finish().into_bytes()),
    })
}

/// Both parts are form-encoded first (RFC 6749, section 2.3.1).
fn basic(client_id: &str, secret: &str) -> Option<HeaderValue> {
    let encode = |text: &str| -> Zeroizing<String> {
        Zeroizing::new(form_urlencoded::byte_serialize(text.as_bytes()).collect())
    };
    let pair = Zeroizing::new(format!("{}:{}", *encode(client_id), *encode(secret)));
    let text = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What the standard calls a refusal is one; anything else may pass.
fn refused(body: &[u8]) -> Failed {
    let refusal: Result<Refusal, _> = serde_json::from_slice(body);
    let code = refusal.map(|refusal| refusal.error).unwrap_or_default();
    let known = [
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "invalid_target",
    ];
    match known.into_iter().find(|known| *known == code) {
        Some(known) => Failed::Refused(Reason::of(known)),
        None => Failed::Later("the token endpoint refuses without saying why"),
    }
}

fn not_sent(error: SendError) -> Failed {
    Failed::Later(match error {
        SendError::Refused(_) => {
            "the token endpoint's address is not allowed: an administrator can allow its range \
             with --private-network"
        }
        SendError::NotSent(_) => "the token endpoint cannot be reached",
        SendError::Untrusted(_) => "the token endpoint's certificate is not trusted",
        SendError::NoAnswer(_) => "the token endpoint does not answer",
        SendError::TooLarge => "the token endpoint's answer is too large",
    })
}
