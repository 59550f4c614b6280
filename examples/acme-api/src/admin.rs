//! The admin surface: issue, revoke, count, misbehave. Every call needs the admin key.

use crate::{
    State,
    behaviour::{Behaviour, unauthorized},
};
use axum::{
    Json, Router,
    extract::{self, Request},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use serde::Deserialize;
use std::sync::Arc;

type Shared = extract::State<Arc<State>>;

pub(crate) fn routes(state: Arc<State>, admin_key: &str) -> Router {
    let expected: Arc<str> = format!("Bearer {admin_key}").into();
    Router::new()
        .route("/tokens", post(issue))
        .route("/tokens", get(stats))
        .route("/tokens/{label}", delete(revoke))
        .route("/behaviour", put(behave))
        .route("/behaviour", delete(behave_well))
        .layer(middleware::from_fn(move |request, next| {
            guard(expected.clone(), request, next)
        }))
        .with_state(state)
}

async fn guard(expected: Arc<str>, request: Request, next: Next) -> Response {
    let presented = request.headers().get(header::AUTHORIZATION);
    let admitted = presented.is_some_and(|presented| {
        let equal = aws_lc_rs::constant_time::verify_slices_are_equal;
        equal(presented.as_bytes(), expected.as_bytes()).is_ok()
    });
    if admitted {
        next.run(request).await
    } else {
        unauthorized()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Issue {
    label: String,
}

/// Answers with the token as plain text, so that a shell can pipe it on.
async fn issue(state: Shared, Json(issue): Json<Issue>) -> Response {
    let token = state.tokens().issue(&issue.label);
    (StatusCode::CREATED, token).into_response()
}

async fn stats(state: Shared) -> Response {
    let stats = state.tokens().stats();
    Json(stats).into_response()
}

async fn revoke(state: Shared, extract::Path(label): extract::Path<String>) -> StatusCode {
    if state.tokens().revoke(&label) {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::NOT_FOUND
    }
}

#[derive(Deserialize)]
struct Behave {
    path: Option<String>,
    times: Option<u32>,
    #[serde(flatten)]
    behaviour: Behaviour,
}

async fn behave(state: Shared, Json(asked): Json<Behave>) -> StatusCode {
    let mut behaviours = state.behaviours();
    behaviours.set(asked.path.as_deref(), asked.behaviour, asked.times);
    StatusCode::NO_CONTENT
}

async fn behave_well(state: Shared) -> StatusCode {
    state.behaviours().clear();
    StatusCode::NO_CONTENT
}
