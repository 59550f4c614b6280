//! Pages of tools as they were answered before, byte by byte, while nothing that they show has changed.
//!
//! Whoever chooses tools asks for the same pages again and again. To find, clone and write one out costs
//! more than all the rest of the request: most of what stands between this call and a handler that does
//! nothing. Who may ask is checked each time, by the gate that every call passes.

use super::gate::RoleGate;
use crate::{
    access,
    caller::{self, Reach},
    fault::Fault,
    plane::Plane,
};
use axum::{
    Router,
    body::{Body, Bytes, HttpBody, to_bytes},
    extract::{Request, State},
    http::{Response, StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use std::{convert::Infallible, error::Error, sync::Arc};
use tonic::Status;
use tower::{Service, ServiceExt};
use xylem_grant::UnixSeconds;
use xylem_identity::Principal;
use xylem_ids::{AccessId, AgentId};
use xylem_proto::{Gate, v1::Rpc};

/// Bytes of pages that are remembered.
pub(crate) const REMEMBERED: usize = 16 * 1024 * 1024;

/// Who asks, and what is approved for that one, none where the caller may see all tools; and the query
/// that says for what.
pub(crate) type Asked = (Option<(AgentId, Vec<AccessId>)>, String);

/// In front of what answers when a page is not known.
#[derive(Clone)]
struct Pages<S> {
    plane: Arc<Plane>,
    gate: RoleGate,
    rest: S,
}

/// The REST calls, with the one that lists tools answered from memory where that is possible.
pub(super) fn routes<S, B>(plane: &Arc<Plane>, gate: &RoleGate, rest: S) -> Router
where
    S: Service<Request, Response = Response<B>, Error = Infallible, Future: Send>,
    S: Clone + Send + Sync + 'static,
    B: HttpBody<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let pages = Pages {
        plane: Arc::clone(plane),
        gate: gate.clone(),
        rest: rest.clone(),
    };
    let list = get(list::<S, B>).fallback_service(rest.clone());
    Router::new()
        .route("/v1/tools", list)
        .with_state(pages)
        .fallback_service(rest)
}

async fn list<S, B>(State(pages): State<Pages<S>>, request: Request) -> Response<Body>
where
    S: Service<Request, Response = Response<B>, Error = Infallible, Future: Send> + Send,
    B: HttpBody<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let answered = pages.list(request).await;
    answered.unwrap_or_else(Status::into_http)
}

impl<S> Pages<S> {
    async fn list<B>(self, request: Request) -> Result<Response<Body>, Status>
    where
        S: Service<Request, Response = Response<B>, Error = Infallible, Future: Send> + Send,
        B: HttpBody<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        let principal = caller::caller()?;
        let own = match access::rule(Rpc::ListTools).reach(&principal) {
            Some(Reach::All) => None,
            _ => Some((
                principal.agent().clone(),
                approved(&self.plane, &principal).await?,
            )),
        };
        let asked = (own, request.uri().query().unwrap_or_default().to_owned());
        let (memory, at) = (&self.plane.recalled.pages, principal.as_of());
        if let Some(page) = memory.get(at, &asked) {
            let known = async { Ok(tonic::Response::new(page)) };
            let page = self.gate.pass(Rpc::ListTools, known).await?;
            return Ok(json(page.into_inner()));
        }
        let Ok(answer) = self.rest.oneshot(request).await;
        if answer.status() != StatusCode::OK {
            return Ok(answer.map(Body::new));
        }
        // It is in memory already, however large it is.
        let page = to_bytes(Body::new(answer.into_body()), usize::MAX).await;
        let page = page.map_err(|_| Status::internal("the page could not be put together"))?;
        let weight = asked.1.len() + page.len();
        memory.put(at, asked, page.clone(), weight);
        Ok(json(page))
    }
}

/// What is approved for the caller now: it ends by the clock, which no revision tells.
async fn approved(plane: &Plane, caller: &Principal) -> Result<Vec<AccessId>, Fault> {
    let now = UnixSeconds::from(plane.now()).0;
    let (namespace, agent) = (caller.namespace(), caller.agent());
    let approved = plane
        .policies
        .in_force(namespace, agent, now, caller.as_of());
    Ok(approved.await?)
}

fn json(page: Bytes) -> Response<Body> {
    ([(CONTENT_TYPE, "application/json")], page).into_response()
}
