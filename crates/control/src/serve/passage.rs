//! Every request on its way through: its id, and a line about it when it is answered.
//!
//! The line names the call, not the path: a path can hold whatever somebody put there by mistake.

use crate::{caller::RequestId, fault::Fault, plane::Plane, tampered::Tampered};
use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, Response},
    middleware::Next,
};
use std::{
    error::Error,
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::Instant,
};
use tonic::Code;
use xylem_ids::AgentId;
use xylem_proto::v1::Rpc;

/// The header that names a request, in answers and, where the client chooses it, in requests.
pub(crate) const REQUEST_ID: &str = "x-request-id";

/// What is found out about a request while it is handled.
#[derive(Debug, Clone)]
pub(crate) struct Passage {
    pub(crate) id: RequestId,
    found: Arc<Found>,
}

#[derive(Debug, Default)]
struct Found {
    address: OnceLock<IpAddr>,
    too_many: OnceLock<()>,
    turned_away: OnceLock<Fault>,
    agent: OnceLock<AgentId>,
    rpc: OnceLock<Rpc>,
    code: OnceLock<Code>,
    lasting: OnceLock<()>,
    not_let: OnceLock<&'static str>,
    tampered: OnceLock<Tampered>,
}

impl Passage {
    pub(crate) fn new(id: RequestId) -> Self {
        let found = Arc::default();
        Self { id, found }
    }

    /// That of a request which came through the layer.
    pub(super) fn of(request: &Request) -> Self {
        let passed = request.extensions().get::<Self>();
        passed
            .cloned()
            .unwrap_or_else(|| Self::new(RequestId::generate()))
    }

    /// From which address it came.
    pub(super) fn came_from(&self, address: IpAddr) {
        let _ = self.found.address.set(address);
    }

    /// The address it came from; none without a listener.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.found.address.get().copied()
    }

    /// That it goes no further than to whoever answers it in the form in which it was asked.
    pub(super) fn turn_away(&self, why: Fault) {
        let _ = self.found.turned_away.set(why);
    }

    /// Nothing, unless it goes no further.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn go_on(&self) -> Result<(), Fault> {
        self.found.turned_away.get().cloned().map_or(Ok(()), Err)
    }

    /// That it was refused because there were too many.
    pub(super) fn was_too_many(&self) {
        let _ = self.found.too_many.set(());
    }

    /// Who made it.
    pub(super) fn by(&self, agent: &AgentId) {
        let _ = self.found.agent.set(agent.clone());
    }

    /// That the same caller is answered the same to the same question until what the database's revision
    /// covers changes, or an approval of the caller's ends.
    pub(crate) fn lasts(&self) {
        let _ = self.found.lasting.set(());
    }

    /// Whether it was said to last.
    pub(super) fn is_lasting(&self) -> bool {
        self.found.lasting.get().is_some()
    }

    /// That its caller asked for what that one may not have.
    pub(crate) fn not_let(&self, reason: &'static str) {
        let _ = self.found.not_let.set(reason);
    }

    /// Why its caller may not have what it asked for.
    pub(super) fn why_not_let(&self) -> Option<&'static str> {
        self.found.not_let.get().copied()
    }

    /// That it failed by a stored row which is not what was written.
    pub(crate) fn met(&self, row: Tampered) {
        let _ = self.found.tampered.set(row);
    }

    /// The same, if it is what this was caused by.
    pub(super) fn failed_by(&self, error: &(dyn Error + 'static)) {
        if let Some(row) = Tampered::find(error) {
            self.met(row);
        }
    }

    /// Which call it was and what it came to.
    pub(super) fn was(&self, rpc: Rpc, code: Code) {
        let _ = self.found.rpc.set(rpc);
        let _ = self.found.code.set(code);
    }
}

/// The axum layer. It is the outermost: whatever is answered, passes it.
pub(super) async fn layer(
    State(plane): State<Arc<Plane>>,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    let passage = Passage::new(id(request.headers()));
    let began = Instant::now();
    let method = request.method().clone();
    let extensions = request.extensions_mut();
    let route = extensions.get::<MatchedPath>().cloned();
    extensions.insert(passage.clone());
    let mut response = next.run(request).await;
    if let Ok(value) = HeaderValue::from_str(passage.id.as_str()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let found = &passage.found;
    if let Some(row) = found.tampered.get() {
        plane.tampered(row.clone());
    }
    // A flood is counted, in the metrics and in the audit log, and fills no disk.
    if found.too_many.get().is_some() {
        return response;
    }
    let rpc = found.rpc.get().map(|rpc| rpc.name());
    tracing::info!(
        request.id = %passage.id,
        %method,
        call = rpc.or(route.as_ref().map(MatchedPath::as_str)).unwrap_or("-"),
        status = response.status().as_u16(),
        code = found.code.get().map(tracing::field::debug),
        agent = found.agent.get().map(tracing::field::display),
        source = found.address.get().map(tracing::field::display),
        took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        "answered"
    );
    response
}

/// The id that the client chose, where it can do no harm in logs; a fresh one otherwise.
fn id(headers: &HeaderMap) -> RequestId {
    let mut given = headers.get_all(REQUEST_ID).into_iter();
    let chosen = match (given.next(), given.next()) {
        (Some(one), None) => one.to_str().ok().and_then(RequestId::chosen),
        _ => None,
    };
    chosen.unwrap_or_else(RequestId::generate)
}
