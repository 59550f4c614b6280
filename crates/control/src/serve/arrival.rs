//! Where a request comes from, and whether one more of there is taken: before anything else is done
//! with it.

use super::{passage::Passage, refuse};
use crate::{fault::Fault, metrics::add, plane::Plane};
use axum::{
    body::Body,
    extract::{ConnectInfo, Request, State},
    http::{Method, Response},
    middleware::Next,
};
use std::{net::SocketAddr, sync::Arc};
use xylem_audit::{Kind, Source};
use xylem_identity::Principal;

/// The axum layer. What is refused is passed on as far as to whoever answers it as its sender reads it:
/// in the form of OAuth 2.0, or for the page of another origin. That is [`turned_away`] where nothing
/// else is said.
pub(super) async fn layer(
    State(plane): State<Arc<Plane>>,
    request: Request,
    next: Next,
) -> Response<Body> {
    if let Err(fault) = arrive(&plane, &request) {
        Passage::of(&request).turn_away(fault);
    }
    next.run(request).await
}

/// The axum layer that answers what was refused.
pub(super) async fn turned_away(request: Request, next: Next) -> Response<Body> {
    match Passage::of(&request).go_on() {
        Ok(()) => next.run(request).await,
        Err(fault) => {
            let answer = refuse::answer(&request, fault);
            drop(request);
            answer.await
        }
    }
}

/// The axum layer around the one that lets pages of other origins ask: that one answers preflights itself,
/// those that were refused as well.
pub(super) async fn preflights(request: Request, next: Next) -> Response<Body> {
    match *request.method() {
        Method::OPTIONS => turned_away(request, next).await,
        _ => next.run(request).await,
    }
}

fn arrive(plane: &Plane, request: &Request) -> Result<(), Fault> {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let Some(peer) = peer.map(|peer| peer.0.ip()) else {
        return Ok(());
    };
    let proxies = &plane.settings.proxies;
    let address = proxies.client(peer, request.headers()).map_err(|_| {
        let header = proxies.header.name();
        let message = format!(
            "the proxy in front of the control plane does not say from which address this comes: its \
             {header} header must name one"
        );
        Fault::invalid(header.as_str(), message)
    })?;
    let passage = Passage::of(request);
    passage.came_from(address);
    plane.rates.address(address).inspect_err(|_| {
        passage.was_too_many();
        add(&plane.metrics.limited_by_address, 1);
        let source = Source::address(Some(address));
        plane.refused(Kind::RequestsLimited, "address", source);
    })
}

/// The same for the agent that makes it, once that is known.
pub(super) fn of_agent(
    plane: &Plane,
    passage: &Passage,
    principal: &Principal,
) -> Result<(), Fault> {
    plane.rates.agent(principal.agent()).inspect_err(|_| {
        passage.was_too_many();
        add(&plane.metrics.limited_by_agent, 1);
        let source = Source::agent(principal.agent());
        plane.refused(Kind::RequestsLimited, "agent", source);
    })
}
