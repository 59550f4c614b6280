//! Acme: the external API of the demonstration.
//!
//! A real HTTP server that accepts only tokens it has issued, can revoke them, counts calls and
//! refusals per token, and misbehaves on request: 401, 429, 500, slowly, a redirect, an
//! oversized body, or an echo of the request in several encodings. It keeps digests of tokens,
//! never the tokens, and logs nothing.
//!
//! Use it in a test with [`AcmeApi::start`], or run the binary of the same name.

mod admin;
mod behaviour;
mod operations;
mod tokens;

pub use behaviour::{Behaviour, Encoding};
pub use tokens::TokenStats;

use axum::Router;
use behaviour::Behaviours;
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokens::Tokens;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};

/// What both surfaces share.
#[derive(Default)]
struct State {
    tokens: Mutex<Tokens>,
    behaviours: Mutex<Behaviours>,
}

impl State {
    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn behaviours(&self) -> MutexGuard<'_, Behaviours> {
        self.behaviours
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running server. Dropping it stops it.
pub struct AcmeApi {
    state: Arc<State>,
    address: SocketAddr,
    admin_key: String,
    stop: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<io::Result<()>>>,
}

impl AcmeApi {
    /// Starts on an address (port 0 picks a free one) with a fresh admin key.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn start(address: SocketAddr) -> io::Result<Self> {
        Self::start_with_admin_key(address, tokens::fresh("acme_admin_")).await
    }

    /// Starts with an admin key of the caller's.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn start_with_admin_key(address: SocketAddr, admin_key: String) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::default());
        let (stop, stopped) = oneshot::channel();
        let routes = Router::new()
            .merge(operations::routes(state.clone()))
            .nest("/admin", admin::routes(state.clone(), &admin_key));
        let server = tokio::spawn(async move {
            axum::serve(listener, routes)
                .with_graceful_shutdown(async {
                    let _ = stopped.await;
                })
                .await
        });
        Ok(Self {
            state,
            address,
            admin_key,
            stop: Some(stop),
            server: Some(server),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL, without a trailing slash.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The key for `/admin`.
    #[must_use]
    pub fn admin_key(&self) -> &str {
        &self.admin_key
    }

    /// Issues a token under a label. It is shown this once.
    #[must_use]
    pub fn issue(&self, label: &str) -> String {
        self.state.tokens().issue(label)
    }

    /// Revokes the tokens of a label; `false` where there is none.
    #[must_use]
    pub fn revoke(&self, label: &str) -> bool {
        self.state.tokens().revoke(label)
    }

    /// Counts per token, in the order of issue; what came with no known token is counted last,
    /// under `unknown`.
    #[must_use]
    pub fn stats(&self) -> Vec<TokenStats> {
        self.state.tokens().stats()
    }

    /// Counts of one label; zeroes where it was never issued.
    #[must_use]
    pub fn stats_of(&self, label: &str) -> TokenStats {
        let stats = self.stats();
        let found = stats.into_iter().find(|stats| stats.label == label);
        found.unwrap_or_default()
    }

    /// Makes a path misbehave, or every path where none is named.
    pub fn behave(&self, path: Option<&str>, behaviour: Behaviour) {
        self.state.behaviours().set(path, behaviour, None);
    }

    /// Makes a path misbehave for a number of calls.
    pub fn behave_times(&self, path: Option<&str>, behaviour: Behaviour, times: u32) {
        self.state.behaviours().set(path, behaviour, Some(times));
    }

    /// Ends all misbehaviour.
    pub fn behave_well(&self) {
        self.state.behaviours().clear();
    }

    /// Runs until the server ends, which it does not by itself.
    ///
    /// # Errors
    /// The listener failed.
    pub async fn join(mut self) -> io::Result<()> {
        match self.server.take() {
            Some(server) => server.await.map_err(io::Error::other)?,
            None => Ok(()),
        }
    }
}

impl Drop for AcmeApi {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }
}
