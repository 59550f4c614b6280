//! A control plane that answers what a test needs.

use futures::{Stream, StreamExt, stream};
use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::net::TcpListener;
use tonic::{Code, Request, Response, Status, body::Body, server::NamedService, service::Routes};
use xylem_proto::v1;

/// A control plane on a port of its own; ends with the test.
pub(crate) struct ControlPlane {
    pub(crate) address: String,
    rotation: Rotation,
}

impl ControlPlane {
    /// Answers every call about trees with this code.
    pub(crate) async fn refusing(code: Code) -> Self {
        Self::serve(Routes::new(Refusal(code)), Rotation::default()).await
    }

    /// Takes rotations of a tree of two nodes, one of which sleeps, stops it, and revokes nothing.
    pub(crate) async fn rotating() -> Self {
        let rotation = Rotation::default();
        let routes = Routes::new(v1::trees_server::TreesServer::new(rotation.clone()))
            .add_service(v1::tokens_server::TokensServer::new(rotation.clone()));
        Self::serve(routes, rotation).await
    }

    /// Answers these steps, one after the other, where each is asked for as the one before says; refuses
    /// any other call.
    pub(crate) async fn rewrapping(steps: Vec<v1::RewrapKeysResponse>) -> Self {
        let steps = Rewrapping(Arc::new(Mutex::new((0, steps))));
        let routes = Routes::new(v1::system_server::SystemServer::new(steps));
        Self::serve(routes, Rotation::default()).await
    }

    async fn serve(routes: Routes, rotation: Rotation) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let server = tonic::transport::Server::builder().add_routes(routes);
        tokio::spawn(server.serve_with_incoming(incoming));
        Self {
            address: format!("http://{address}"),
            rotation,
        }
    }

    /// The tokens that were deposited.
    pub(crate) fn tokens(&self) -> Vec<String> {
        self.rotation
            .tokens
            .lock()
            .expect("nobody panicked")
            .clone()
    }

    /// Lets the node that sleeps adopt what was rotated.
    pub(crate) fn wake(&self) {
        self.rotation.awake.store(true, Ordering::Relaxed);
    }
}

#[derive(Clone)]
struct Refusal(Code);

impl NamedService for Refusal {
    const NAME: &'static str = "xylem.v1.Trees";
}

impl<B> tonic::codegen::Service<tonic::codegen::http::Request<B>> for Refusal {
    type Response = tonic::codegen::http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: tonic::codegen::http::Request<B>) -> Self::Future {
        ready(Ok(Status::new(self.0, "said the control plane").into_http()))
    }
}

#[derive(Clone, Default)]
struct Rotation {
    tokens: Arc<Mutex<Vec<String>>>,
    awake: Arc<AtomicBool>,
}

fn order(version: u32) -> Option<v1::Order> {
    Some(v1::Order {
        epoch: 1,
        version,
        serial: 1,
    })
}

fn version(version: u32) -> Option<v1::TokenVersion> {
    Some(v1::TokenVersion {
        slot: "default".into(),
        order: order(version),
        ..v1::TokenVersion::default()
    })
}

fn node(id: &str, parent: &str, version: u32, state: v1::NodeState) -> v1::Node {
    let current = state == v1::NodeState::Current;
    v1::Node {
        workflow_id: id.into(),
        parent_workflow_id: parent.into(),
        status: "running".into(),
        stateful: true,
        state: state.into(),
        slots: vec![v1::NodeSlot {
            slot: "default".into(),
            order: order(version),
            state: state.into(),
            reason: if current { "" } else { "asleep" }.into(),
            ..v1::NodeSlot::default()
        }],
        ..v1::Node::default()
    }
}

impl Rotation {
    fn view(&self) -> v1::TreeView {
        let child = match self.awake.load(Ordering::Relaxed) {
            true => node("stage-1", "train-1", 2, v1::NodeState::Current),
            false => node("stage-1", "train-1", 1, v1::NodeState::Behind),
        };
        v1::TreeView {
            nodes: vec![node("train-1", "", 2, v1::NodeState::Current), child],
            ..v1::TreeView::default()
        }
    }
}

type Views = Pin<Box<dyn Stream<Item = Result<v1::TreeView, Status>> + Send>>;

/// What no test asks for.
fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in this test"))
}

#[tonic::async_trait]
impl v1::trees_server::Trees for Rotation {
    type WatchTreeStream = Views;

    async fn watch_tree(
        &self,
        _: Request<v1::WatchTreeRequest>,
    ) -> Result<Response<Views>, Status> {
        let views = stream::repeat(self.clone()).then(|rotation| async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(rotation.view())
        });
        Ok(Response::new(Box::pin(views)))
    }

    async fn start_tree(
        &self,
        _: Request<v1::StartTreeRequest>,
    ) -> Result<Response<v1::StartTreeResponse>, Status> {
        unused()
    }

    async fn list_trees(
        &self,
        _: Request<v1::ListTreesRequest>,
    ) -> Result<Response<v1::ListTreesResponse>, Status> {
        unused()
    }

    async fn get_tree(
        &self,
        _: Request<v1::GetTreeRequest>,
    ) -> Result<Response<v1::TreeView>, Status> {
        unused()
    }

    async fn stop_tree(
        &self,
        request: Request<v1::StopTreeRequest>,
    ) -> Result<Response<v1::StopTreeResponse>, Status> {
        // The node that sleeps does not hear of a cancellation.
        let ends = request.into_inner().terminate || self.awake.load(Ordering::Relaxed);
        Ok(Response::new(v1::StopTreeResponse {
            stopped: 2,
            still_running: u32::from(!ends),
        }))
    }

    async fn allow_tools(
        &self,
        _: Request<v1::AllowToolsRequest>,
    ) -> Result<Response<v1::Tree>, Status> {
        unused()
    }

    async fn transfer_tree(
        &self,
        _: Request<v1::TransferTreeRequest>,
    ) -> Result<Response<v1::Tree>, Status> {
        unused()
    }
}

#[tonic::async_trait]
impl v1::tokens_server::Tokens for Rotation {
    async fn rotate_token(
        &self,
        request: Request<v1::RotateTokenRequest>,
    ) -> Result<Response<v1::TokenChanged>, Status> {
        let token = request.into_inner().token;
        self.tokens.lock().expect("nobody panicked").push(token);
        Ok(Response::new(v1::TokenChanged {
            version: version(2),
            superseded: version(1),
            signalled: true,
        }))
    }

    async fn revoke_token(
        &self,
        _: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        Err(Status::failed_precondition("stage-1 is behind"))
    }

    async fn set_token(
        &self,
        _: Request<v1::SetTokenRequest>,
    ) -> Result<Response<v1::TokenChanged>, Status> {
        unused()
    }

    async fn get_token_status(
        &self,
        _: Request<v1::GetTokenStatusRequest>,
    ) -> Result<Response<v1::TokenStatus>, Status> {
        unused()
    }

    async fn reissue_token(
        &self,
        _: Request<v1::ReissueTokenRequest>,
    ) -> Result<Response<v1::TokenChanged>, Status> {
        unused()
    }

    async fn rollback_token(
        &self,
        _: Request<v1::RollbackTokenRequest>,
    ) -> Result<Response<v1::TokenChanged>, Status> {
        unused()
    }

    async fn reveal_token(
        &self,
        _: Request<v1::RevealTokenRequest>,
    ) -> Result<Response<v1::RevealTokenResponse>, Status> {
        unused()
    }
}

/// How many steps were asked for, and all of them.
#[derive(Clone)]
struct Rewrapping(Arc<Mutex<(usize, Vec<v1::RewrapKeysResponse>)>>);

#[tonic::async_trait]
impl v1::system_server::System for Rewrapping {
    async fn rewrap_keys(
        &self,
        request: Request<v1::RewrapKeysRequest>,
    ) -> Result<Response<v1::RewrapKeysResponse>, Status> {
        let asked = request.into_inner();
        let mut state = self.0.lock().expect("nobody panicked");
        let (count, steps) = &mut *state;
        let before = count.checked_sub(1).and_then(|before| steps.get(before));
        let expected = before.map_or_else(v1::RewrapKeysRequest::default, |before| {
            v1::RewrapKeysRequest {
                current_key_id: before.current_key_id.clone(),
                after_key_id: before.next_key_id.clone(),
            }
        });
        if asked != expected {
            return Err(Status::invalid_argument("not where the step before ended"));
        }
        let step = steps.get(*count).cloned();
        *count += 1;
        step.map(Response::new)
            .ok_or_else(|| Status::out_of_range("asked once too often"))
    }

    async fn get_status(
        &self,
        _: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::SystemStatus>, Status> {
        unused()
    }

    async fn back_up(&self, _: Request<v1::BackUpRequest>) -> Result<Response<v1::Backup>, Status> {
        unused()
    }

    async fn confirm_restore(
        &self,
        _: Request<v1::ConfirmRestoreRequest>,
    ) -> Result<Response<v1::ConfirmRestoreResponse>, Status> {
        unused()
    }

    async fn rotate_signing_key(
        &self,
        _: Request<v1::RotateSigningKeyRequest>,
    ) -> Result<Response<v1::RotateSigningKeyResponse>, Status> {
        unused()
    }

    async fn rotate_issuer_key(
        &self,
        _: Request<v1::RotateIssuerKeyRequest>,
    ) -> Result<Response<v1::RotateIssuerKeyResponse>, Status> {
        unused()
    }
}
