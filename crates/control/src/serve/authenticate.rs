//! In front of gRPC and REST alike: nobody in without a key.

use super::{arrival, passage::Passage};
use crate::{
    caller::{self, Call},
    fault::Fault,
    plane::Plane,
};
use axum::{
    body::Body,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, Response,
        header::{AUTHORIZATION, WWW_AUTHENTICATE},
    },
    middleware::Next,
};
use std::{net::IpAddr, sync::Arc};
use tonic::Status;
use xylem_audit::{Kind, Source};
use xylem_identity::{Principal, Unauthenticated};

/// The axum layer.
pub(crate) async fn layer(
    State(plane): State<Arc<Plane>>,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    let passage = Passage::of(&request);
    let address = passage.address();
    let authenticated = match passage.go_on() {
        Ok(()) => authenticate(&plane, request.headers(), address).await,
        Err(fault) => Err(fault),
    };
    let authenticated = authenticated.and_then(|principal| {
        passage.by(principal.agent());
        arrival::of_agent(&plane, &passage, &principal).map(|()| principal)
    });
    // Nothing behind this needs the key; what is not there is not logged.
    request.headers_mut().remove(AUTHORIZATION);
    let mut call = Call {
        passage: passage.clone(),
        principal: None,
        address,
        reach: None,
    };
    match authenticated {
        Ok(principal) => {
            call.principal = Some(Arc::new(principal));
            caller::within(call, next.run(request)).await
        }
        Err(fault) => {
            let challenge = fault.challenge();
            let refused = async { Status::from(fault).into_http::<Body>() };
            let mut response = caller::within(call, refused).await;
            if let Some(challenge) = challenge {
                let challenge = HeaderValue::from_static(challenge);
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            }
            response
        }
    }
}

async fn authenticate(
    plane: &Plane,
    headers: &HeaderMap,
    address: Option<IpAddr>,
) -> Result<Principal, Fault> {
    let mut given = headers.get_all(AUTHORIZATION).into_iter();
    let presented = given
        .next()
        // Of two, a proxy in front may have looked at the other one.
        .filter(|_| given.next().is_none())
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, key)| key.trim());
    let refused = |why| {
        let source = Source::address(address);
        plane.refused(Kind::AuthenticationFailed, why, source);
    };
    let Some(presented) = presented else {
        refused("key_missing");
        return Err(Fault::unauthenticated(
            "key_missing",
            "an API key or an access token is required: send it as `Authorization: Bearer …`",
        ));
    };
    let checked = plane
        .identity
        .authenticate(presented, address, plane.now())
        .await;
    match checked {
        Ok(principal) if principal.namespace() == &plane.settings.namespace => {
            plane.authenticated(&principal, address);
            Ok(principal)
        }
        Ok(_) => {
            refused("key_other_namespace");
            Err(not_valid())
        }
        Err(why) => {
            refused(why.code());
            match why {
                Unauthenticated::NotChecked(cause) => Err(Fault::unavailable(
                    "key_not_checked",
                    "the credential could not be checked: try again",
                    cause,
                )),
                _ => Err(not_valid()),
            }
        }
    }
}

/// The same words whatever is wrong with the key: a guesser learns nothing.
fn not_valid() -> Fault {
    Fault::unauthenticated(
        "key_not_valid",
        "the credential is not valid here: it is unknown, expired or revoked",
    )
}
