//! A token endpoint that answers as a test says.

use axum::{
    Form, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// How it answers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Manner {
    /// With a token.
    #[default]
    Well,
    /// With its first token, which ends so many seconds from now.
    Again(u32),
    /// It is down.
    Down,
    /// With a redirect to somewhere else.
    Redirects,
    /// With more than anybody reads.
    Endlessly,
    /// With something else.
    Nonsense,
    /// That the grant is not valid.
    Refuses,
}

#[derive(Default)]
struct Inner {
    manner: Manner,
    forms: Vec<HashMap<String, String>>,
    authorization: Vec<Option<String>>,
    holds: bool,
    probed: Vec<String>,
    refuses_probes: bool,
}

/// A provider. Its tokens are `canary-access-N`, its refresh tokens `canary-refresh-N`.
#[derive(Clone)]
pub(crate) struct Provider {
    inner: Arc<Mutex<Inner>>,
    /// It has a question that it does not answer yet.
    held: Arc<Notify>,
    let_go: Arc<Notify>,
    pub(crate) url: String,
}

impl Provider {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a listener");
        let provider = Self {
            inner: Arc::default(),
            held: Arc::default(),
            let_go: Arc::default(),
            url: format!("http://{}/token", listener.local_addr().expect("bound")),
        };
        let router = Router::new()
            .route("/token", post(answer))
            .route("/probe", get(probed))
            .with_state(provider.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        provider
    }

    pub(crate) fn answers(&self, manner: Manner) {
        self.lock().manner = manner;
    }

    /// Does not answer the next question before it is let go; then as it answers at that time.
    pub(crate) fn holds_next(&self) {
        self.lock().holds = true;
    }

    /// Waits until a question is held.
    pub(crate) async fn holding(&self) {
        let held = tokio::time::timeout(Duration::from_secs(60), self.held.notified());
        held.await.expect("a question");
    }

    pub(crate) fn lets_go(&self) {
        self.let_go.notify_one();
    }

    /// Whether a probe with one of its tokens is answered with 401.
    pub(crate) fn refuses_probes(&self, refuses: bool) {
        self.lock().refuses_probes = refuses;
    }

    /// What probes were sent with.
    pub(crate) fn probed(&self) -> Vec<String> {
        self.lock().probed.clone()
    }

    /// The forms that it was sent.
    pub(crate) fn forms(&self) -> Vec<HashMap<String, String>> {
        self.lock().forms.clone()
    }

    /// The `Authorization` headers that it was sent.
    pub(crate) fn authorization(&self) -> Vec<Option<String>> {
        self.lock().authorization.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn probed(State(provider): State<Provider>, headers: HeaderMap) -> StatusCode {
    let mut inner = provider.lock();
    let header = headers.get("authorization");
    let header = header.and_then(|value| value.to_str().ok());
    inner.probed.push(header.unwrap_or_default().to_owned());
    match inner.refuses_probes {
        true => StatusCode::UNAUTHORIZED,
        false => StatusCode::OK,
    }
}

async fn answer(
    State(provider): State<Provider>,
    headers: HeaderMap,
    Form(form): Form<HashMap<String, String>>,
) -> Response {
    let (holds, number) = {
        let mut inner = provider.lock();
        inner.forms.push(form);
        let header = headers.get("authorization");
        let header = header.and_then(|value| value.to_str().ok().map(str::to_owned));
        inner.authorization.push(header);
        (mem::take(&mut inner.holds), inner.forms.len())
    };
    if holds {
        provider.held.notify_one();
        provider.let_go.notified().await;
    }
    let manner = provider.lock().manner;
    let token = |number: usize, expires_in: u32| {
        axum::Json(serde_json::json!({
            "access_token": format!("canary-access-{number:04}"),
            "token_type": "Bearer",
            "expires_in": expires_in,
            "refresh_token": format!("canary-refresh-{:04}", provider.forms().len()),
        }))
        .into_response()
    };
    match manner {
        Manner::Well => token(number, 3_600),
        Manner::Again(expires_in) => token(1, expires_in),
        Manner::Down => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Manner::Redirects => {
            (StatusCode::TEMPORARY_REDIRECT, [("location", "/token")]).into_response()
        }
        Manner::Endlessly => "canary".repeat(100_000).into_response(),
        Manner::Nonsense => "canary".into_response(),
        Manner::Refuses => (
            StatusCode::BAD_REQUEST,
            r#"{"error":"invalid_grant","error_description":"canary"}"#,
        )
            .into_response(),
    }
}
