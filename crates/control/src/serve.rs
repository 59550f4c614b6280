//! One listener: gRPC, REST, and a few plain routes beside them.

mod authenticate;
mod gate;
mod reference;
mod refuse;

use crate::{Control, handlers::Handlers, plane::Plane};
use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use gate::RoleGate;
use rest_over_grpc::serving::RestService;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::{limit::RequestBodyLimitLayer, timeout::RequestBodyTimeoutLayer};
use xylem_proto::{Gated, rest::Transcoder, v1};

/// The largest request body, in bytes: a tool with its schema fits, nothing here is larger.
const MAX_BODY: usize = 1024 * 1024;
/// How long a client may pause while it sends a body.
const BODY_PAUSE: Duration = Duration::from_secs(10);
/// How often counts of calls are written to the audit log.
const FLUSH_EVERY: Duration = Duration::from_secs(15);

/// Why the control plane does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is not on loopback.
    #[error(
        "the control plane listens on loopback only, as long as it has no TLS: {0} is refused; use 127.0.0.1 or [::1]"
    )]
    NotLoopback(SocketAddr),
    /// The address could not be bound.
    #[error("the control plane cannot listen on {address}: is another one running there?")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The listener failed.
    #[error("the control plane's listener failed")]
    Listener(#[source] std::io::Error),
}

/// Binds a listener that [`Control::serve`] accepts.
///
/// # Errors
/// The address is not on loopback, or cannot be bound.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    check(address)?;
    TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Bind { address, source })
}

fn check(address: SocketAddr) -> Result<(), ServeError> {
    if address.ip().is_loopback() {
        Ok(())
    } else {
        Err(ServeError::NotLoopback(address))
    }
}

impl Control {
    /// Serves until `stop` is cancelled, then lets calls in flight end.
    ///
    /// # Errors
    /// The listener is not on loopback, or fails.
    pub async fn serve(
        &self,
        listener: TcpListener,
        stop: CancellationToken,
    ) -> Result<(), ServeError> {
        check(listener.local_addr().map_err(ServeError::Listener)?)?;
        let service = self
            .router()
            .into_make_service_with_connect_info::<SocketAddr>();
        let flush = flush(Arc::clone(self.plane()), stop.clone());
        let serving = axum::serve(listener, service)
            .with_graceful_shutdown(async move { stop.cancelled().await });
        let (served, ()) = tokio::join!(async { serving.await }, flush);
        served.map_err(ServeError::Listener)
    }

    /// Everything that is served, for tests without a listener.
    pub fn router(&self) -> Router {
        let plane = self.plane();
        let gate = RoleGate::new(Arc::clone(plane));
        let calls = calls(plane, &gate)
            .layer(axum::middleware::from_fn_with_state(
                Arc::clone(plane),
                authenticate::layer,
            ))
            .layer(RequestBodyLimitLayer::new(MAX_BODY))
            .layer(RequestBodyTimeoutLayer::new(BODY_PAUSE))
            .layer(axum::middleware::from_fn(refuse::layer));
        plain(plane).merge(calls)
    }
}

/// The routes that need no key: none of them tells anything about trees.
fn plain(plane: &Arc<Plane>) -> Router {
    Router::new()
        .route("/", get(reference::page))
        .route("/openapi.json", get(reference::document))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Arc::clone(plane))
}

async fn ready(State(plane): State<Arc<Plane>>) -> impl IntoResponse {
    let failing: Vec<_> = plane
        .checks()
        .await
        .into_iter()
        .filter(|check| !check.ok && crate::plane::ESSENTIAL.contains(&check.name.as_str()))
        .map(|check| check.name)
        .collect();
    if failing.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        let text = format!("not ready: {}\n", failing.join(", "));
        (StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

async fn metrics(State(plane): State<Arc<Plane>>) -> impl IntoResponse {
    let kind = [("content-type", "text/plain; version=0.0.4")];
    (kind, plane.metrics.render())
}

/// Every service twice: as gRPC under its own path, and behind the REST transcoder as the fallback.
/// Both forms lead through the same gate to the same handlers.
fn calls(plane: &Arc<Plane>, gate: &RoleGate) -> Router {
    let gated = Gated::new(Arc::new(Handlers(Arc::clone(plane))), gate.clone());
    macro_rules! services {
        ($($module:ident :: $server:ident, $bridge:ident :: $rest:ident;)*) => {{
            let router = Router::new()
                $(.route_service(
                    &format!("/{}/{{*rpc}}", <v1::$module::$server<Gated<Handlers, RoleGate>> as tonic::server::NamedService>::NAME),
                    v1::$module::$server::new(gated.clone()).max_decoding_message_size(MAX_BODY),
                ))*;
            let transcoder = Transcoder::new(
                $(v1::$bridge::$rest::externally_authenticated(gated.clone()),)*
            );
            (router, transcoder)
        }};
    }
    // In the order of the contract's files, which is the order of the transcoder's parameters.
    let (router, transcoder) = services! {
        agents_server::AgentsServer, __rest_over_grpc_bridge_Agents::AgentsRestBridge;
        api_keys_server::ApiKeysServer, __rest_over_grpc_bridge_ApiKeys::ApiKeysRestBridge;
        audit_server::AuditServer, __rest_over_grpc_bridge_Audit::AuditRestBridge;
        credentials_server::CredentialsServer, __rest_over_grpc_bridge_Credentials::CredentialsRestBridge;
        tools_server::ToolsServer, __rest_over_grpc_bridge_Tools::ToolsRestBridge;
        grants_server::GrantsServer, __rest_over_grpc_bridge_Grants::GrantsRestBridge;
        system_server::SystemServer, __rest_over_grpc_bridge_System::SystemRestBridge;
        tokens_server::TokensServer, __rest_over_grpc_bridge_Tokens::TokensRestBridge;
        trees_server::TreesServer, __rest_over_grpc_bridge_Trees::TreesRestBridge;
        workers_server::WorkersServer, __rest_over_grpc_bridge_Workers::WorkersRestBridge;
    };
    let rest = RestService::new(Arc::new(transcoder)).with_max_body_bytes(MAX_BODY);
    router.fallback_service(rest)
}

/// Writes the counts of minutes that are over. They are in memory only: a crash loses those of a
/// minute, but no decision, for what a call decides or changes has an entry of its own.
async fn flush(plane: Arc<Plane>, stop: CancellationToken) {
    let mut every = tokio::time::interval(FLUSH_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = every.tick() => plane.flush_tally(false).await,
        }
    }
    plane.flush_tally(true).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_loopback_is_bound() {
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
            let error = bind(address.parse().unwrap()).await.unwrap_err();
            assert!(matches!(error, ServeError::NotLoopback(_)), "{error}");
            assert!(error.to_string().contains("127.0.0.1"), "{error}");
        }
        assert!(bind("127.0.0.1:0".parse().unwrap()).await.is_ok());
    }
}
