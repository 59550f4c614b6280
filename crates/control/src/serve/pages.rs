//! Pages of tools that are answered as they were before, byte by byte, while nothing that they were made
//! of has changed.
//!
//! Whoever chooses tools asks for the same pages again and again. To find, clone and write out a page
//! costs more than all the rest of the request. Who may ask is checked each time, by the gate that every
//! call passes; and only what its handler says to be lasting is remembered, once it was asked for again.

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

/// The call.
const RPC: Rpc = Rpc::ListTools;

/// Bytes of queries and pages that are remembered.
pub(crate) const REMEMBERED: usize = 16 * 1024 * 1024;

/// What an entry takes in memory beside the bytes of both: the key's parts, the table and allocations.
const ENTRY: usize = 512;
/// What an approval in a key does.
const APPROVAL: usize = 64;

/// What was asked for, and by whom.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Asked {
    by: Asker,
    query: Box<str>,
}

impl Asked {
    /// The bytes that it takes up beside its page, about: small ones are not for nothing.
    fn weight(&self) -> usize {
        let approved = match &self.by {
            Asker::Narrow(_, approved) => approved.len(),
            Asker::Any => 0,
        };
        self.query.len() + ENTRY + approved * APPROVAL
    }
}

/// Who asks it, as far as that makes a difference.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Asker {
    /// Anybody who may see everything.
    Any,
    /// Somebody who sees what policies let it see, and those that are approved now.
    Narrow(AgentId, Vec<AccessId>),
}

/// In front of what answers when a page is not known.
#[derive(Clone)]
struct Pages<S> {
    plane: Arc<Plane>,
    gate: RoleGate,
    rest: S,
}

/// The REST calls, with pages of tools that are often asked for answered from memory.
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
    Router::new()
        .route(
            "/v1/tools",
            get(list::<S, B>).fallback_service(rest.clone()),
        )
        .with_state(pages)
        .fallback_service(rest)
}

async fn list<S, B>(State(pages): State<Pages<S>>, request: Request) -> Response<Body>
where
    S: Service<Request, Response = Response<B>, Error = Infallible, Future: Send> + Send,
    B: HttpBody<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let answered = pages.answer(request).await;
    answered.unwrap_or_else(Status::into_http)
}

impl<S> Pages<S> {
    async fn answer<B>(self, request: Request) -> Result<Response<Body>, Status>
    where
        S: Service<Request, Response = Response<B>, Error = Infallible, Future: Send> + Send,
        B: HttpBody<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        let principal = caller::caller()?;
        let by = asker(&self.plane, &principal).await?;
        let query = request.uri().query().unwrap_or_default().into();
        let asked = Asked { by, query };
        let (plane, at) = (Arc::clone(&self.plane), principal.as_of());
        let memory = &plane.recalled.pages;
        if let Some(known) = memory.get(at, &asked) {
            let known = async { Ok(tonic::Response::new(known)) };
            let known = self.gate.pass(RPC, known).await?;
            return Ok(json(known.into_inner()));
        }
        let passage = caller::passage();
        let Ok(answer) = self.rest.oneshot(request).await;
        let answer = answer.map(Body::new);
        if answer.status() != StatusCode::OK || !passage.is_some_and(|it| it.is_lasting()) {
            return Ok(answer);
        }
        if !plane.recalled.was_asked(at, &asked) {
            return Ok(answer);
        }
        // It is in memory already, however large it is.
        let page = to_bytes(answer.into_body(), usize::MAX).await;
        let page = page.map_err(|_| Status::internal("the page could not be put together"))?;
        let weight = asked.weight() + page.len();
        memory.put(at, asked, page.clone(), weight);
        Ok(json(page))
    }
}

async fn asker(plane: &Plane, principal: &Principal) -> Result<Asker, Fault> {
    Ok(match access::rule(RPC).reach(principal) {
        Some(Reach::All) => Asker::Any,
        _ => Asker::Narrow(principal.agent().clone(), approved(plane, principal).await?),
    })
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
