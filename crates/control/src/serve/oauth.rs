//! Access tokens by OAuth 2.0: exchanging an API key, a password or a refresh token for one (RFC 6749),
//! revoking it (RFC 7009), the keys it verifies with (RFC 7517) and where all of that is (RFC 8414).

use super::passage::Passage;
use crate::plane::Plane;
use axum::{
    Json, Router,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, StatusCode, Uri,
        header::{
            AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, PRAGMA, RETRY_AFTER, WWW_AUTHENTICATE,
        },
    },
    middleware::Next,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};
use url::form_urlencoded;
use xylem_audit::{Entry, Kind, Label, Source, SubjectKind, Verdict};
use xylem_identity::{
    AccessToken, IdentityError, NoToken, RevokedToken, SignIn, SignedIn, Unauthenticated,
};
use xylem_ids::{ClientId, Scope};

/// The largest form: an id, a secret and scopes.
const MAX_FORM: usize = 16 * 1024;
/// The client that does not say which it is.
const ANYBODY: &str = "anybody";
const REQUEST: &str = "invalid_request";
/// How long others may keep the public keys, in seconds: less than a new key waits before it signs.
const KEYS_FOR: &str = "public, max-age=300";

/// The routes, none of which needs a key in its header.
pub(super) fn routes(plane: &Arc<Plane>) -> Router {
    Router::new()
        .route("/token", post(token))
        .route("/revoke", post(revoke))
        .route("/.well-known/jwks.json", get(keys))
        .route("/.well-known/oauth-authorization-server", get(metadata))
        .layer(axum::middleware::from_fn(turned_away))
        .with_state(Arc::clone(plane))
}

/// Answers what was refused on arrival.
async fn turned_away(request: Request, next: Next) -> Response {
    let Err(fault) = Passage::of(&request).go_on() else {
        return next.run(request).await;
    };
    answer(Err(match fault.retry_after() {
        Some(after) => too_many(after, "too many requests: try again later"),
        None => bad(REQUEST, "it must be known from which address this comes"),
    }))
}

/// An error as RFC 6749 has it. Its words are the same whatever is wrong with a secret.
#[derive(Debug, Clone, Copy)]
struct Refused {
    status: StatusCode,
    error: &'static str,
    says: &'static str,
    /// When to ask again, in seconds; not at all where it is 0.
    after: u64,
}

const fn bad(error: &'static str, says: &'static str) -> Refused {
    Refused {
        status: StatusCode::BAD_REQUEST,
        error,
        says,
        after: 0,
    }
}

fn too_many(after: Duration, says: &'static str) -> Refused {
    Refused {
        status: StatusCode::TOO_MANY_REQUESTS,
        error: "temporarily_unavailable",
        says,
        after: after.as_secs().max(1),
    }
}

const CLIENT: Refused = Refused {
    status: StatusCode::UNAUTHORIZED,
    error: "invalid_client",
    says: "the client is not known here, or its secret is not valid",
    after: 0,
};
const GRANT: Refused = bad(
    "invalid_grant",
    "the name, the password, the one-time code or the token is not valid, or no longer",
);
const LATER: Refused = Refused {
    status: StatusCode::SERVICE_UNAVAILABLE,
    error: "temporarily_unavailable",
    says: "this could not be decided: try again",
    after: 1,
};

/// One call of these routes.
struct Asked {
    passage: Passage,
    address: Option<IpAddr>,
    form: Result<Form, Refused>,
}

impl Asked {
    async fn read(request: Request) -> Self {
        let passage = Passage::of(&request);
        let address = passage.address();
        let (parts, body) = request.into_parts();
        let form = match axum::body::to_bytes(body, MAX_FORM).await {
            Ok(body) => Form::read(&parts.headers, &parts.uri, &body),
            Err(_) => Err(bad(REQUEST, "the body must be a form of at most 16 KiB")),
        };
        Self {
            passage,
            address,
            form,
        }
    }

    fn form(&self) -> Result<&Form, Refused> {
        self.form.as_ref().map_err(|refused| *refused)
    }

    fn entry(&self, plane: &Plane, kind: Kind) -> Entry {
        let mut entry = Entry::new(plane.now(), kind, Verdict::Succeeded);
        entry.request = Label::new(self.passage.id.as_str());
        entry.address = self.address;
        entry
    }
}

/// An answer that nobody keeps.
fn answer(answer: Result<Value, Refused>) -> Response {
    let mut response = match answer {
        Ok(body) => Json(body).into_response(),
        Err(refused) => refused.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.error, "error_description": self.says });
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Basic realm=\"xylem\"");
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        if self.after > 0 {
            headers.insert(RETRY_AFTER, self.after.into());
        }
        response
    }
}

/// What a form says, each parameter once; and the client's credentials, from the header or from it.
struct Form {
    fields: BTreeMap<String, SecretString>,
    basic: Option<(String, SecretString)>,
}

impl Form {
    fn read(headers: &HeaderMap, uri: &Uri, body: &[u8]) -> Result<Self, Refused> {
        if uri.query().is_some() {
            return Err(bad(
                REQUEST,
                "parameters must be in the body, none in the URL",
            ));
        }
        let form = headers
            .get(CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok());
        let form = form.and_then(|kind| kind.split(';').next());
        if form.map(str::trim) != Some("application/x-www-form-urlencoded") {
            return Err(bad(
                REQUEST,
                "the body must be application/x-www-form-urlencoded",
            ));
        }
        let mut fields = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(body) {
            let value = SecretString::from(value.into_owned());
            if fields.insert(name.into_owned(), value).is_some() {
                return Err(bad(REQUEST, "a parameter must not be repeated"));
            }
        }
        let basic = match headers.get(AUTHORIZATION) {
            None => None,
            Some(value) => Some(basic(value).ok_or(CLIENT)?),
        };
        if basic.is_some() && fields.contains_key("client_secret") {
            return Err(bad(REQUEST, "the client must authenticate in one way only"));
        }
        Ok(Self { fields, basic })
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(ExposeSecret::expose_secret)
    }

    fn scope(&self) -> Option<&str> {
        self.text("scope").filter(|scope| !scope.is_empty())
    }

    /// The id of a client that has no secret.
    fn public_client(&self) -> Result<ClientId, Refused> {
        let id = self.text("client_id").unwrap_or(ANYBODY);
        let rule = "client_id must be 1 to 64 characters of A-Z, a-z, 0-9, '-' and '_'";
        id.parse().map_err(|_| bad(REQUEST, rule))
    }

    /// The client's id and secret.
    fn client(&self) -> Result<(&str, &str), Refused> {
        let basic = self.basic.as_ref();
        let basic = basic.map(|(id, secret)| (id.as_str(), secret.expose_secret()));
        let body = || self.text("client_id").zip(self.text("client_secret"));
        basic.or_else(body).ok_or(CLIENT)
    }
}

/// HTTP Basic, its parts form-encoded (RFC 6749, 2.3.1).
fn basic(value: &HeaderValue) -> Option<(String, SecretString)> {
    let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = STANDARD.decode(encoded.trim()).ok()?;
    let (id, secret) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    let part = |text: &str| {
        let mut pairs = form_urlencoded::parse(text.as_bytes());
        pairs.next().map(|(text, _)| text.into_owned())
    };
    Some((part(id)?, SecretString::from(part(secret)?)))
}

async fn token(State(plane): State<Arc<Plane>>, request: Request) -> Response {
    let asked = Asked::read(request).await;
    answer(exchange(&plane, &asked).await)
}

async fn exchange(plane: &Plane, asked: &Asked) -> Result<Value, Refused> {
    let form = asked.form()?;
    match form.text("grant_type") {
        Some("client_credentials") => by_key(plane, asked, form).await,
        Some("password") => by_password(plane, asked, form).await,
        Some("refresh_token") => by_refresh(plane, asked, form).await,
        Some(_) => Err(bad(
            "unsupported_grant_type",
            "grant_type must be client_credentials, password or refresh_token",
        )),
        None => Err(bad(REQUEST, "grant_type must be present")),
    }
}

async fn by_key(plane: &Plane, asked: &Asked, form: &Form) -> Result<Value, Refused> {
    let (id, secret) = form.client()?;
    let scope = form.scope();
    let exchanged = plane
        .identity
        .exchange(id, secret, scope, asked.address, plane.now());
    let token = exchanged.await.map_err(|why| refuse(plane, asked, &why))?;
    if token.principal.namespace() != &plane.settings.namespace {
        return Err(failed(plane, asked, "key_other_namespace"));
    }
    noted(plane, asked, &token).await?;
    Ok(wire(&token))
}

async fn by_password(plane: &Plane, asked: &Asked, form: &Form) -> Result<Value, Refused> {
    let parts = form.text("username").zip(form.fields.get("password"));
    let (name, password) = parts.ok_or(bad(REQUEST, "username and password must be present"))?;
    let given = SignIn {
        name,
        password,
        code: form.text("otp").filter(|code| !code.is_empty()),
        client: form.public_client()?,
        scope: form.scope(),
        device: form.text("device_token"),
        address: asked.address,
    };
    let entry = asked.entry(plane, Kind::SignedIn);
    let signed_in = plane
        .identity
        .sign_in(&plane.settings.namespace, given, entry)
        .await;
    let signed_in = signed_in.map_err(|why| refuse(plane, asked, &why))?;
    Ok(wire_session(&signed_in))
}

async fn by_refresh(plane: &Plane, asked: &Asked, form: &Form) -> Result<Value, Refused> {
    let token = form.fields.get("refresh_token");
    let token = token.ok_or(bad(REQUEST, "refresh_token must be present"))?;
    let client = form.public_client()?;
    let entry = asked.entry(plane, Kind::TokenIssued);
    let namespace = &plane.settings.namespace;
    let refreshed = plane
        .identity
        .refresh(namespace, token, &client, form.scope(), entry);
    let refreshed = refreshed.await;
    let refreshed = refreshed.map_err(|why| refuse(plane, asked, &why))?;
    noted(plane, asked, &refreshed.access).await?;
    Ok(wire_session(&refreshed))
}

/// Nobody gets a token that the audit log does not know of.
async fn noted(plane: &Plane, asked: &Asked, token: &AccessToken) -> Result<(), Refused> {
    let mut entry = asked.entry(plane, Kind::TokenIssued);
    entry.agent = Some(token.principal.agent().clone());
    entry.namespace = Some(token.principal.namespace().clone());
    entry.second_factor = token.principal.second_factor();
    let entry = entry.regarding(SubjectKind::Token, &token.id);
    let appended = plane.log.append(&[entry]).await;
    appended.map(drop).map_err(|error| {
        tracing::warn!(%error, "an access token could not be audited, and is not given out");
        LATER
    })
}

fn wire(token: &AccessToken) -> Value {
    let mut answer = json!({
        "access_token": token.text.expose_secret(),
        "token_type": "Bearer",
        "expires_in": token.lives.as_secs(),
    });
    if let Some(scope) = &token.scope {
        answer["scope"] = scope.as_str().into();
    }
    answer
}

fn wire_session(signed_in: &SignedIn) -> Value {
    let mut answer = wire(&signed_in.access);
    answer["refresh_token"] = signed_in.refresh.expose_secret().into();
    if let Some(device) = &signed_in.device {
        answer["device_token"] = device.expose_secret().into();
    }
    answer
}

fn refuse(plane: &Plane, asked: &Asked, why: &NoToken) -> Refused {
    match why {
        NoToken::Grant(reason) => {
            failed(plane, asked, reason);
            GRANT
        }
        NoToken::NotNow(IdentityError::TooMany(wait)) => {
            failed(plane, asked, "throttled");
            too_many(*wait, "too many attempts: try again later")
        }
        NoToken::NotNow(cause) => {
            asked.passage.failed_by(cause);
            tracing::warn!(
                error = cause as &dyn std::error::Error,
                "nobody could be signed in"
            );
            LATER
        }
        NoToken::Scope => bad(
            "invalid_scope",
            "scope must be known scopes that the key has",
        ),
        NoToken::OtherClient => failed(plane, asked, "other_client"),
        NoToken::Client(Unauthenticated::NotChecked(cause)) => {
            asked.passage.failed_by(cause);
            tracing::warn!(error = %cause, "an API key could not be checked");
            LATER
        }
        NoToken::Client(why) => failed(plane, asked, why.code()),
    }
}

/// Counts a client that was not let in.
fn failed(plane: &Plane, asked: &Asked, reason: &'static str) -> Refused {
    let source = Source::address(asked.address);
    plane.refused(Kind::AuthenticationFailed, reason, source);
    CLIENT
}

async fn revoke(State(plane): State<Arc<Plane>>, request: Request) -> Response {
    let asked = Asked::read(request).await;
    answer(end(&plane, &asked).await)
}

/// Presenting a token is proof enough to end it.
async fn end(plane: &Plane, asked: &Asked) -> Result<Value, Refused> {
    let form = asked.form()?;
    let Some(token) = form.fields.get("token") else {
        return Err(bad(REQUEST, "token must be present"));
    };
    let entry = asked.entry(plane, Kind::TokenRevoked);
    let namespace = &plane.settings.namespace;
    match plane.identity.revoke_token(namespace, token, entry).await {
        Ok(RevokedToken::Done) => Ok(json!({})),
        Ok(RevokedToken::Unsupported) => Err(bad(
            "unsupported_token_type",
            "this is an API key: `xylem key revoke` revokes it",
        )),
        Err(error) => {
            asked.passage.failed_by(&error);
            tracing::warn!(%error, "an access token could not be revoked");
            Err(LATER)
        }
    }
}

async fn keys(State(plane): State<Arc<Plane>>) -> Response {
    match plane.identity.published_keys(plane.now()).await {
        Ok(keys) => ([(CACHE_CONTROL, KEYS_FOR)], Json(json!({ "keys": keys }))).into_response(),
        Err(error) => {
            tracing::warn!(%error, "the public keys could not be read");
            LATER.into_response()
        }
    }
}

async fn metadata(State(plane): State<Arc<Plane>>) -> Response {
    let issuer = plane.identity.issuer();
    let scopes: Vec<_> = Scope::ALL.iter().map(|scope| scope.code()).collect();
    let methods = ["none", "client_secret_basic", "client_secret_post"];
    let document = json!({
        "issuer": issuer,
        "token_endpoint": format!("{issuer}/token"),
        "revocation_endpoint": format!("{issuer}/revoke"),
        "jwks_uri": format!("{issuer}/.well-known/jwks.json"),
        "scopes_supported": scopes,
        "response_types_supported": [],
        "grant_types_supported": ["client_credentials", "password", "refresh_token"],
        "token_endpoint_auth_methods_supported": methods,
        "revocation_endpoint_auth_methods_supported": ["none"],
        "service_documentation": format!("{issuer}/"),
    });
    ([(CACHE_CONTROL, KEYS_FOR)], Json(document)).into_response()
}
