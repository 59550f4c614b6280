//! The API's work: deploys, builds, tests, status.

use crate::{
    State,
    behaviour::{Seen, admit, misbehave},
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Request},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

const MAX_BODY_BYTES: usize = 1024 * 1024;

pub(crate) fn routes(state: Arc<State>) -> Router {
    let counter = Arc::new(AtomicU64::new(1));
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/builds/{id}", get(build))
        .route(
            "/v1/deploys",
            post(move |deploy| async move { start_deploy(&counter, deploy) }),
        )
        .route("/v1/tests", post(run_tests))
        .layer(middleware::from_fn(move |request, next| {
            guard(state.clone(), request, next)
        }))
}

/// Authentication, then whatever misbehaviour is set, then the work.
async fn guard(state: Arc<State>, request: Request, next: Next) -> Response {
    let caller = match admit(&mut state.tokens(), request.uri(), request.headers()) {
        Ok(caller) => caller,
        Err(refused) => return *refused,
    };
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, MAX_BODY_BYTES).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let seen = Seen {
        method: parts.method.clone(),
        uri: parts.uri.clone(),
        headers: parts.headers.clone(),
        body: body.clone(),
    };
    match misbehave(&state, caller, &seen).await {
        Some(response) => response,
        None => next.run(Request::from_parts(parts, body.into())).await,
    }
}

async fn status() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

async fn build(Path(id): Path<String>) -> Json<Value> {
    Json(json!({ "id": id, "state": "passed" }))
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Deploy {
    service: String,
    environment: String,
}

fn start_deploy(counter: &AtomicU64, deploy: Json<Deploy>) -> (StatusCode, Json<Value>) {
    let id = counter.fetch_add(1, Ordering::Relaxed);
    let answer = json!({
        "id": format!("deploy-{id}"),
        "service": deploy.service,
        "environment": deploy.environment,
        "state": "started",
    });
    (StatusCode::CREATED, Json(answer))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tests {
    suite: String,
    build: String,
}

async fn run_tests(body: Bytes) -> Response {
    match serde_json::from_slice::<Tests>(&body) {
        Ok(tests) => Json(json!({
            "suite": tests.suite,
            "build": tests.build,
            "passed": 42,
            "failed": 0,
        }))
        .into_response(),
        Err(_) => {
            let error = json!({ "error": "expected suite and build" });
            (StatusCode::UNPROCESSABLE_ENTITY, Json(error)).into_response()
        }
    }
}
