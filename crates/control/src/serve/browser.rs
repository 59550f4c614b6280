//! What browsers are told: to guess nothing, keep nothing, show nothing inside of other pages, and
//! which other pages may ask.

use super::passage::REQUEST_ID;
use axum::{
    body::Body,
    extract::Request,
    http::{
        HeaderName, HeaderValue, Method, Response,
        header::{
            AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
            RETRY_AFTER, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
        },
    },
    middleware::Next,
};
use std::time::Duration;
use tower_http::cors::{AllowOrigin, CorsLayer};
use xylem_ids::Origin;

/// How long a browser may remember which origins may ask.
const REMEMBER: Duration = Duration::from_secs(600);

/// On every answer that does not say otherwise.
const HEADERS: [(HeaderName, &str); 5] = [
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-store"),
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; frame-ancestors 'none'",
    ),
];

/// What a browser remembers of a server that it reached over TLS: to ask it in no other way.
const HSTS: &str = "max-age=31536000";

/// That a request came in over TLS.
#[derive(Debug, Clone, Copy)]
pub(super) struct Encrypted;

/// The axum layer.
pub(super) async fn layer(request: Request, next: Next) -> Response<Body> {
    let encrypted = request.extensions().get::<Encrypted>().is_some();
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    if encrypted {
        headers.insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(HSTS));
    }
    response
}

/// Lets pages of these origins ask, with a key that they have: the browser never adds credentials of
/// its own.
pub(super) fn cors(origins: &[Origin]) -> CorsLayer {
    let origins = origins
        .iter()
        .filter_map(|origin| HeaderValue::from_str(origin.as_str()).ok());
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ])
        .allow_headers([
            AUTHORIZATION,
            CONTENT_TYPE,
            HeaderName::from_static(REQUEST_ID),
        ])
        .expose_headers([HeaderName::from_static(REQUEST_ID), RETRY_AFTER])
        .max_age(REMEMBER)
}
