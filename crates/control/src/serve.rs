//! One listener: gRPC, REST, and a few plain routes beside them.

mod arrival;
mod authenticate;
mod browser;
mod connections;
mod gate;
mod limits;
mod listener;
mod oauth;
pub(crate) mod pages;
mod passage;
mod patient;
mod proxies;
mod rates;
mod reference;
mod refuse;
mod register;
mod tls;

pub use limits::Limits;
pub use listener::{Listener, ServeError};
pub(crate) use passage::Passage;
pub use proxies::{Proxies, ProxyHeader};
pub(crate) use rates::Rates;
pub use tls::{TlsError, TlsFiles};

use crate::{Control, fault::Fault, handlers::Handlers, plane::Plane};
use axum::{
    Router,
    extract::State,
    http::StatusCode,
    middleware::{from_fn, from_fn_with_state},
    response::IntoResponse,
    routing::get,
};
use connections::Shared;
use gate::RoleGate;
use rest_over_grpc::serving::RestService;
use std::{any::Any, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tower_http::{catch_panic::CatchPanicLayer, limit::RequestBodyLimitLayer};
use xylem_proto::{Gated, rest::Transcoder, v1};

/// The largest request body, in bytes: a tool with its schema fits, nothing here is larger.
const MAX_BODY: usize = 1024 * 1024;
/// How often counts of calls are written to the audit log.
const FLUSH_EVERY: Duration = Duration::from_secs(15);

impl Control {
    /// Serves until `stop` is cancelled. Streams end then, calls in flight are waited for, and
    /// dropping this cuts them off.
    ///
    /// # Errors
    /// The listener fails, or the declaration of a single operator cannot be written to the audit log.
    pub async fn serve(
        &self,
        listener: Listener,
        stop: CancellationToken,
    ) -> Result<(), ServeError> {
        let plane = self.plane();
        plane.note_single_operator().await?;
        let tls = listener.tls.clone();
        let shared = Shared {
            router: self.router(),
            limits: plane.settings.limits.clone(),
            proxies: plane.settings.proxies.clone(),
            metrics: Arc::clone(&plane.metrics),
            stop: stop.clone(),
        };
        let stopping = async {
            stop.cancelled().await;
            plane.stopping.cancel();
        };
        let following = async {
            if let Some(tls) = tls {
                tls.follow(stop.clone()).await;
            }
        };
        let flushing = flush(Arc::clone(plane), stop.clone());
        let serving = connections::serve(listener, shared);
        let (served, (), (), ()) = tokio::join!(serving, stopping, following, flushing);
        served
    }

    /// Everything that is served, for tests without a listener.
    pub fn router(&self) -> Router {
        let plane = self.plane();
        let gate = RoleGate::new(Arc::clone(plane));
        let known = Router::new()
            .route("/metrics", get(metrics))
            .with_state(Arc::clone(plane))
            .merge(calls(plane, &gate))
            .layer(from_fn_with_state(Arc::clone(plane), authenticate::layer))
            // The router boxes once what it is given at once.
            .layer((
                from_fn(refuse::layer),
                CatchPanicLayer::custom(panicked),
                // The readers behind this count what they read; this is for what nobody would read.
                RequestBodyLimitLayer::new(2 * MAX_BODY),
            ));
        let origins = &plane.settings.cors_origins;
        let known = if origins.is_empty() {
            known
        } else {
            known.layer((from_fn(arrival::preflights), browser::cors(origins)))
        };
        // What gives out tokens is for no page of another origin: no browser is let through to it.
        let turned_away = axum::middleware::from_fn(arrival::turned_away);
        let register = register::routes(plane).layer(CatchPanicLayer::custom(panicked));
        plain(plane)
            .merge(register)
            .layer(turned_away)
            .merge(oauth::routes(plane).layer(CatchPanicLayer::custom(panicked)))
            .merge(known)
            .layer((
                from_fn_with_state(Arc::clone(plane), passage::layer),
                from_fn(browser::layer),
                from_fn_with_state(Arc::clone(plane), arrival::layer),
            ))
    }
}

/// The hook has logged where; what was being worked on is told to nobody.
fn panicked(_: Box<dyn Any + Send>) -> axum::response::Response {
    Status::from(Fault::internal("a handler panicked")).into_http()
}

/// The routes that need no key: none of them tells anything about trees.
fn plain(plane: &Arc<Plane>) -> Router {
    Router::new()
        .route("/", get(reference::page))
        .route("/openapi.json", get(reference::document))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(Arc::clone(plane))
}

async fn ready(State(plane): State<Arc<Plane>>) -> impl IntoResponse {
    let failing = plane.failing().await;
    if failing.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        let text = format!("not ready: {}\n", failing.join(", "));
        (StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

/// Counts of calls, and nothing about trees: any key will do.
async fn metrics(State(plane): State<Arc<Plane>>) -> impl IntoResponse {
    let kind = [("content-type", "text/plain; version=0.0.4")];
    (kind, plane.metered().await)
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
        access_server::AccessServer, __rest_over_grpc_bridge_Access::AccessRestBridge;
        accounts_server::AccountsServer, __rest_over_grpc_bridge_Accounts::AccountsRestBridge;
        agents_server::AgentsServer, __rest_over_grpc_bridge_Agents::AgentsRestBridge;
        api_keys_server::ApiKeysServer, __rest_over_grpc_bridge_ApiKeys::ApiKeysRestBridge;
        alerts_server::AlertsServer, __rest_over_grpc_bridge_Alerts::AlertsRestBridge;
        audit_server::AuditServer, __rest_over_grpc_bridge_Audit::AuditRestBridge;
        credentials_server::CredentialsServer, __rest_over_grpc_bridge_Credentials::CredentialsRestBridge;
        tools_server::ToolsServer, __rest_over_grpc_bridge_Tools::ToolsRestBridge;
        grants_server::GrantsServer, __rest_over_grpc_bridge_Grants::GrantsRestBridge;
        policies_server::PoliciesServer, __rest_over_grpc_bridge_Policies::PoliciesRestBridge;
        system_server::SystemServer, __rest_over_grpc_bridge_System::SystemRestBridge;
        tokens_server::TokensServer, __rest_over_grpc_bridge_Tokens::TokensRestBridge;
        trees_server::TreesServer, __rest_over_grpc_bridge_Trees::TreesRestBridge;
        usage_server::UsageServer, __rest_over_grpc_bridge_Usage::UsageRestBridge;
        workers_server::WorkersServer, __rest_over_grpc_bridge_Workers::WorkersRestBridge;
    };
    let rest = RestService::new(Arc::new(transcoder)).with_max_body_bytes(MAX_BODY);
    router.merge(pages::routes(plane, gate, rest))
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
