//! An identity provider that issues whatever a test wants.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How it answers whoever asks for its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Manner {
    Well,
    Down,
    Redirects(String),
    CallsItself(String),
}

struct Key {
    id: String,
    pair: EcdsaKeyPair,
}

struct Inner {
    keys: Vec<Key>,
    made: usize,
    manner: Manner,
    asked: usize,
}

/// A provider on loopback, with keys for ES256.
#[derive(Clone)]
pub struct IdentityProvider {
    inner: Arc<Mutex<Inner>>,
    issuer: String,
}

impl std::fmt::Debug for IdentityProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IdentityProvider({})", self.issuer)
    }
}

impl IdentityProvider {
    /// Starts one with a key.
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a listener");
        let address = listener.local_addr().expect("bound");
        let provider = Self {
            inner: Arc::new(Mutex::new(Inner {
                keys: Vec::new(),
                made: 0,
                manner: Manner::Well,
                asked: 0,
            })),
            issuer: format!("http://{address}/realm"),
        };
        provider.rotate();
        let router = Router::new()
            .route("/realm/.well-known/openid-configuration", get(metadata))
            .route("/realm/keys", get(keys))
            .with_state(provider.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        provider
    }

    /// Its issuer.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Makes the next key and publishes it alone.
    pub fn rotate(&self) {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let mut inner = self.lock();
        inner.made += 1;
        let id = format!("key-{}", inner.made);
        inner.keys = vec![Key { id, pair }];
    }

    /// Answers nobody, or again.
    pub fn is_down(&self, down: bool) {
        self.lock().manner = if down { Manner::Down } else { Manner::Well };
    }

    /// Sends whoever asks for its metadata elsewhere.
    pub fn redirects_to(&self, url: &str) {
        self.lock().manner = Manner::Redirects(url.to_owned());
    }

    /// Calls itself otherwise in its metadata.
    pub fn calls_itself(&self, issuer: &str) {
        self.lock().manner = Manner::CallsItself(issuer.to_owned());
    }

    /// How often its metadata was asked for.
    pub fn asked(&self) -> usize {
        self.lock().asked
    }

    /// The header of its tokens.
    pub fn header(&self) -> Value {
        let inner = self.lock();
        let key = inner.keys.last().expect("a key");
        json!({"alg": "ES256", "typ": "at+jwt", "kid": key.id})
    }

    /// The public key as it publishes it.
    pub fn public_key(&self) -> Value {
        let inner = self.lock();
        published(inner.keys.last().expect("a key"))
    }

    /// The usual token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        self.signed(&self.header(), claims)
    }

    /// A token with whatever header, signed with the key that it has now.
    pub fn signed(&self, header: &Value, claims: &Value) -> String {
        let text = unsigned(header, claims);
        let inner = self.lock();
        let pair = &inner.keys.last().expect("a key").pair;
        let signature = pair.sign(&SystemRandom::new(), text.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(signature.expect("signed"));
        format!("{text}.{signature}")
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The two parts that are signed.
fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

fn published(key: &Key) -> Value {
    let point = key.pair.public_key().as_ref();
    let (x, y) = point.get(1..).unwrap_or_default().split_at(32);
    json!({
        "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": key.id,
        "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
    })
}

async fn metadata(State(provider): State<IdentityProvider>) -> Response {
    let mut inner = provider.lock();
    inner.asked += 1;
    let issuer = match &inner.manner {
        Manner::Down => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Manner::Redirects(url) => {
            let location = [("location", url.clone())];
            return (StatusCode::TEMPORARY_REDIRECT, location).into_response();
        }
        Manner::CallsItself(issuer) => issuer.clone(),
        Manner::Well => provider.issuer.clone(),
    };
    let keys = format!("{}/keys", provider.issuer);
    axum::Json(json!({"issuer": issuer, "jwks_uri": keys})).into_response()
}

async fn keys(State(provider): State<IdentityProvider>) -> Response {
    let inner = provider.lock();
    let keys: Vec<_> = inner.keys.iter().map(published).collect();
    axum::Json(json!({ "keys": keys })).into_response()
}
