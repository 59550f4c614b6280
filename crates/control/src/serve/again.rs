//! Calls that are answered as they were before, byte by byte, while nothing that the answer was made of
//! has changed.
//!
//! Whoever chooses tools asks for the same pages again and again, and whoever stands in front of a tool
//! for the same decisions. To find, clone and write such an answer out costs more than all the rest of
//! the request. Who may ask is checked each time, by the gate that every call passes; and only what its
//! handler says to be lasting is remembered, once it was asked for again.

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
    routing::{get, post},
};
use futures::stream;
use std::{convert::Infallible, error::Error, sync::Arc};
use tonic::Status;
use tower::{Service, ServiceExt};
use xylem_grant::UnixSeconds;
use xylem_identity::Principal;
use xylem_ids::{AccessId, AgentId};
use xylem_proto::{Gate, v1::Rpc};

/// Bytes of questions and answers that are remembered.
pub(crate) const REMEMBERED: usize = 16 * 1024 * 1024;
/// The largest question that is, in bytes.
const QUESTION: u64 = 16 * 1024;

/// What an entry takes in memory beside the bytes of both: the key's parts, the table and allocations.
const ENTRY: usize = 512;
/// What an approval in a key does.
const APPROVAL: usize = 64;

/// One question.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Asked {
    rpc: Rpc,
    by: Asker,
    /// The query, or the body.
    what: Bytes,
}

impl Asked {
    /// The bytes that it takes up beside its answer, about: small ones are not for nothing.
    fn weight(&self) -> usize {
        let approved = match &self.by {
            Asker::Narrow(_, approved) => approved.len(),
            Asker::Any | Asker::Seeing(_) => 0,
        };
        self.what.len() + ENTRY + approved * APPROVAL
    }
}

/// Who asks it, as far as that makes a difference.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Asker {
    /// Anybody who may see everything.
    Any,
    /// Somebody who may see everything, and asks about itself where nothing else is said.
    Seeing(AgentId),
    /// Somebody who sees what policies let it see, and those that are approved now.
    Narrow(AgentId, Vec<AccessId>),
}

/// In front of what answers when an answer is not known.
#[derive(Clone)]
struct Answers<S> {
    plane: Arc<Plane>,
    gate: RoleGate,
    rest: S,
}

/// The REST calls, with those that are often repeated answered from memory where that is possible.
pub(super) fn routes<S, B>(plane: &Arc<Plane>, gate: &RoleGate, rest: S) -> Router
where
    S: Service<Request, Response = Response<B>, Error = Infallible, Future: Send>,
    S: Clone + Send + Sync + 'static,
    B: HttpBody<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let answers = Answers {
        plane: Arc::clone(plane),
        gate: gate.clone(),
        rest: rest.clone(),
    };
    let list = get(list::<S, B>).fallback_service(rest.clone());
    let check = post(check::<S, B>).fallback_service(rest.clone());
    Router::new()
        .route("/v1/tools", list)
        .route("/v1/access/check", check)
        .with_state(answers)
        .fallback_service(rest)
}

async fn list<S, B>(State(answers): State<Answers<S>>, request: Request) -> Response<Body>
where
    S: Service<Request, Response = Response<B>, Error = Infallible, Future: Send> + Send,
    B: HttpBody<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let query = request.uri().query().unwrap_or_default();
    let what = Bytes::copy_from_slice(query.as_bytes());
    let answered = answers.answer(Rpc::ListTools, what, request).await;
    answered.unwrap_or_else(Status::into_http)
}

async fn check<S, B>(State(answers): State<Answers<S>>, request: Request) -> Response<Body>
where
    S: Service<Request, Response = Response<B>, Error = Infallible, Future: Send> + Send,
    B: HttpBody<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let small = |size: u64| size <= QUESTION;
    // A query says more than the body.
    if request.uri().query().is_some() || !request.body().size_hint().exact().is_some_and(small) {
        return answers.fresh(request).await;
    }
    let (head, body) = request.into_parts();
    match to_bytes(body, usize::MAX).await {
        Ok(what) => {
            let request = Request::from_parts(head, Body::from(what.clone()));
            let answered = answers.answer(Rpc::CheckAccess, what, request).await;
            answered.unwrap_or_else(Status::into_http)
        }
        // Whoever reads bodies says what is wrong with this one.
        Err(error) => {
            let broken = Body::from_stream(stream::once(async { Err::<Bytes, _>(error) }));
            answers.fresh(Request::from_parts(head, broken)).await
        }
    }
}

impl<S> Answers<S> {
    async fn answer<B>(
        self,
        rpc: Rpc,
        what: Bytes,
        request: Request,
    ) -> Result<Response<Body>, Status>
    where
        S: Service<Request, Response = Response<B>, Error = Infallible, Future: Send> + Send,
        B: HttpBody<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        let principal = caller::caller()?;
        let by = asker(&self.plane, rpc, &principal).await?;
        let asked = Asked { rpc, by, what };
        let (plane, at) = (Arc::clone(&self.plane), principal.as_of());
        let memory = &plane.recalled.answers;
        if let Some(known) = memory.get(at, &asked) {
            let known = async { Ok(tonic::Response::new(known)) };
            let known = self.gate.pass(rpc, known).await?;
            return Ok(json(known.into_inner()));
        }
        let passage = caller::passage();
        let answer = self.fresh(request).await;
        if answer.status() != StatusCode::OK || !passage.is_some_and(|it| it.is_lasting()) {
            return Ok(answer);
        }
        if !plane.recalled.was_asked(at, &asked) {
            return Ok(answer);
        }
        // It is in memory already, however large it is.
        let answer = to_bytes(answer.into_body(), usize::MAX).await;
        let answer =
            answer.map_err(|_| Status::internal("the answer could not be put together"))?;
        let weight = asked.weight() + answer.len();
        memory.put(at, asked, answer.clone(), weight);
        Ok(json(answer))
    }

    async fn fresh<B>(self, request: Request) -> Response<Body>
    where
        S: Service<Request, Response = Response<B>, Error = Infallible, Future: Send> + Send,
        B: HttpBody<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        let Ok(answer) = self.rest.oneshot(request).await;
        answer.map(Body::new)
    }
}

async fn asker(plane: &Plane, rpc: Rpc, principal: &Principal) -> Result<Asker, Fault> {
    let agent = || principal.agent().clone();
    Ok(match (access::rule(rpc).reach(principal), rpc) {
        (Some(Reach::All), Rpc::ListTools) => Asker::Any,
        (Some(Reach::All), _) => Asker::Seeing(agent()),
        _ => Asker::Narrow(agent(), approved(plane, principal).await?),
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

fn json(answer: Bytes) -> Response<Body> {
    ([(CONTENT_TYPE, "application/json")], answer).into_response()
}
