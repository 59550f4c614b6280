//! `POST /register`: making an account, for people who have none yet.

use super::{passage::Passage, refuse};
use crate::{
    caller::{self, Call},
    fault::Fault,
    plane::Plane,
};
use axum::{
    Json, Router,
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use secrecy::SecretString;
use serde::{Deserialize, Deserializer};
use serde_json::json;
use std::sync::Arc;
use tonic::Status;
use xylem_audit::{Entry, Kind, Label, Source, Verdict};
use xylem_identity::{Agent, IdentityError, Registration};
use xylem_ids::AgentId;

/// The largest body: a name, a password and an invitation.
const MAX_BODY: usize = 4 * 1024;

pub(super) fn routes(plane: &Arc<Plane>) -> Router {
    Router::new()
        .route("/register", post(register))
        .layer(axum::middleware::from_fn(refuse::layer))
        .with_state(Arc::clone(plane))
}

/// What the body says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    name: String,
    #[serde(deserialize_with = "secret")]
    password: SecretString,
    #[serde(default, deserialize_with = "invitation")]
    invitation: Option<SecretString>,
}

fn secret<'de, D: Deserializer<'de>>(given: D) -> Result<SecretString, D::Error> {
    String::deserialize(given).map(SecretString::from)
}

fn invitation<'de, D: Deserializer<'de>>(given: D) -> Result<Option<SecretString>, D::Error> {
    Ok(Option::<String>::deserialize(given)?.map(SecretString::from))
}

async fn register(State(plane): State<Arc<Plane>>, request: Request) -> Response {
    let passage = Passage::of(&request);
    let call = Call {
        address: passage.address(),
        passage,
        principal: None,
        reach: None,
    };
    let made = async {
        let body = to_bytes(request.into_body(), MAX_BODY).await;
        let body = body.map_err(|_| Fault::invalid("body", "the body must be at most 4 KiB"))?;
        make(&plane, &call, &body).await
    };
    match caller::within(call.clone(), made).await {
        Ok(agent) => {
            let roles: Vec<_> = agent.roles.iter().map(|role| role.code()).collect();
            let answer = json!({ "name": agent.id.as_str(), "roles": roles });
            (StatusCode::CREATED, Json(answer)).into_response()
        }
        Err(fault) => {
            let refused = async { Status::from(fault).into_http::<Body>() };
            caller::within(call, refused).await
        }
    }
}

async fn make(plane: &Plane, call: &Call, body: &Bytes) -> Result<Agent, Fault> {
    let given: Given = serde_json::from_slice(body).map_err(|_| {
        let rule = "the body must be JSON with name, password and, where you have one, invitation";
        Fault::invalid("body", rule)
    })?;
    let name: AgentId = crate::convert::id(given.name, "name")?;
    let new = Registration {
        name,
        password: given.password,
        invitation: given.invitation,
        address: call.address,
    };
    let namespace = &plane.settings.namespace;
    let mut entry = Entry::new(plane.now(), Kind::Registered, Verdict::Succeeded);
    entry.namespace = Some(namespace.clone());
    entry.request = Label::new(call.passage.id.as_str());
    entry.address = call.address;
    let open = plane.settings.open_registration;
    let registered = plane.identity.register(namespace, new, open, entry).await;
    registered.map_err(|error| {
        let reason = match &error {
            IdentityError::RegistrationClosed => Some("registration_closed"),
            IdentityError::InvitationInvalid => Some("invitation_not_valid"),
            IdentityError::TooMany(_) => Some("throttled"),
            _ => None,
        };
        if let Some(reason) = reason {
            let source = Source::address(call.address);
            plane.refused(Kind::AuthenticationFailed, reason, source);
        }
        error.into()
    })
}
