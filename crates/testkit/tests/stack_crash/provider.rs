//! An OAuth 2.0 provider each of whose refresh tokens is good once, and that says nothing where a test
//! wants it so.

use anyhow::Context;
use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{net::TcpListener, sync::Notify};
use url::form_urlencoded;

/// What it knows of one client.
#[derive(Clone, Default)]
pub(crate) struct Client {
    /// The access tokens that it gives, the first one first.
    tokens: Vec<String>,
    /// How often it was asked for one,
    pub(crate) asked: usize,
    /// how many it has given,
    pub(crate) given: usize,
    /// and how often one was tried.
    pub(crate) tried: usize,
    /// Nobody is answered before this is told.
    silent: Option<Arc<Notify>>,
}

impl Client {
    /// The only refresh token that is good.
    pub(crate) fn refresh_token(&self, name: &str) -> String {
        format!("canary-refresh-{name}-{}", self.given)
    }
}

#[derive(Clone, Default)]
struct Clients(Arc<Mutex<BTreeMap<String, Client>>>);

impl Clients {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Client>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request, and waits until it may be answered.
    async fn note(&self, name: &str, what: impl FnOnce(&mut Client)) {
        let silent = self.lock().get_mut(name).and_then(|client| {
            what(client);
            client.silent.clone()
        });
        if let Some(told) = silent {
            told.notified().await;
        }
    }

    fn give(&self, name: &str, refresh_token: &str) -> Option<Value> {
        let mut clients = self.lock();
        let client = clients.get_mut(name)?;
        if refresh_token != client.refresh_token(name) {
            return None;
        }
        let token = client.tokens.get(client.given)?.clone();
        client.given += 1;
        Some(json!({
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": 7_200,
            "refresh_token": client.refresh_token(name),
        }))
    }
}

/// The provider, for as long as the test.
pub(crate) struct Provider {
    url: String,
    clients: Clients,
}

impl Provider {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let clients = Clients::default();
        let routes = Router::new()
            .route("/token/{name}", post(token))
            .route("/probe/{name}", get(probe))
            .with_state(clients.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Ok(Self { url, clients })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    pub(crate) fn add(&self, name: &str, tokens: Vec<String>) {
        let client = Client {
            tokens,
            ..Client::default()
        };
        self.clients.lock().insert(name.to_owned(), client);
    }

    pub(crate) fn client(&self, name: &str) -> anyhow::Result<Client> {
        let clients = self.clients.lock();
        clients.get(name).cloned().context("no such client")
    }

    /// Answers nobody from now on, until what is returned is told.
    pub(crate) fn silence(&self, name: &str) -> anyhow::Result<Arc<Notify>> {
        let told = Arc::new(Notify::new());
        let mut clients = self.clients.lock();
        clients.get_mut(name).context("no such client")?.silent = Some(Arc::clone(&told));
        Ok(told)
    }

    /// Answers whoever asks from now on.
    pub(crate) fn answer_all(&self) {
        for client in self.clients.lock().values_mut() {
            client.silent = None;
        }
    }
}

async fn token(
    State(clients): State<Clients>,
    Path(name): Path<String>,
    form: Bytes,
) -> (StatusCode, Json<Value>) {
    clients.note(&name, |client| client.asked += 1).await;
    let mut fields = form_urlencoded::parse(&form);
    let refresh_token = fields.find(|(field, _)| field == "refresh_token");
    let refresh_token = refresh_token.map(|(_, token)| token).unwrap_or_default();
    match clients.give(&name, &refresh_token) {
        Some(answer) => (StatusCode::OK, Json(answer)),
        None => {
            let refusal = json!({"error": "invalid_grant"});
            (StatusCode::BAD_REQUEST, Json(refusal))
        }
    }
}

async fn probe(State(clients): State<Clients>, Path(name): Path<String>) -> StatusCode {
    clients.note(&name, |client| client.tried += 1).await;
    StatusCode::OK
}
