//! The ports of the activities, over the control plane's typed client.

use async_trait::async_trait;
use secrecy::SecretString;
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};
use xylem_activities::{
    AuditSink, Auth, CONNECT_TIMEOUT, Connecting, Outcome, Place, PortError, Redeem, Redeemed,
    Release, Released, TaskClaims, TokenSource, Tool, ToolDirectory, Trust,
};
use xylem_client::{ActivityClaims, CallEnd, Client, Error, v1};
use xylem_grant::IssuerPublicKey;
use xylem_ids::{IdError, RetryClass, Slot, ToolName};
use xylem_stateful::activity::{Issuers, Select, TakenIn};

/// The control plane as the activities see it.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    client: Client,
}

impl ControlPlane {
    /// Over a client whose API key is in the worker role.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

#[async_trait]
impl TokenSource for ControlPlane {
    async fn redeem(&self, claims: &TaskClaims, redeem: Redeem) -> Result<Redeemed, PortError> {
        let redeem = xylem_client::Redeem {
            claims: wire_claims(claims)?,
            grant: redeem.grant,
            tool: redeem.tool,
            slot: redeem.slot,
            api_url: redeem.api_url,
            parameters_json: Some(redeem.parameters.to_string()),
            request_id: redeem.request,
        };
        let answer = self.client.redeem(redeem).await.map_err(port_error)?;
        // How long it lasts is told by this machine's clock: a lease that seems over already is
        // given no time, and the call is not made.
        let lease_for = answer.lease_expires_at.duration_since(SystemTime::now());
        Ok(Redeemed {
            token: answer.token,
            lease: answer.lease,
            lease_for: lease_for.unwrap_or(Duration::ZERO),
            order: answer.order,
            fingerprint: answer.fingerprint,
            newer_grant: answer.newer_grant,
            tool_hash: answer.tool.hash,
            audiences: answer.audiences,
            tree: answer.tree,
        })
    }

    async fn release(&self, release: Release) -> Result<Released, PortError> {
        let end = CallEnd {
            outcome: wire_outcome(release.outcome),
            http_status: release.http_status,
            duration: release.duration,
            bytes_out: release.bytes.sent,
            bytes_in: release.bytes.received,
        };
        let newest = self.client.release(release.lease, end).await;
        let newest = newest.map_err(port_error)?;
        Ok(Released { newest })
    }

    async fn take_in(
        &self,
        claims: &TaskClaims,
        slot: Slot,
        token: SecretString,
    ) -> Result<TakenIn, PortError> {
        let claims = wire_claims(claims)?;
        let grant = self.client.take_in(claims, slot, &token).await;
        let grant = grant.map_err(port_error)?;
        Ok(TakenIn { grant })
    }

    async fn issuers(&self, claims: &TaskClaims, slots: Vec<Slot>) -> Result<Issuers, PortError> {
        let answer = self.client.issuers(wire_claims(claims)?, slots).await;
        let answer = answer.map_err(port_error)?;
        Ok(Issuers {
            tree: answer.tree,
            issuers: answer
                .issuers
                .into_iter()
                .map(public_key)
                .collect::<Result<_, _>>()?,
            intake: answer.intake,
            search_attribute: answer.search_attribute,
            grants: answer.grants,
        })
    }

    async fn select(&self, claims: &TaskClaims, select: Select) -> Result<(), PortError> {
        let select = xylem_client::Select {
            claims: wire_claims(claims)?,
            child: select.child,
            exclude: select.exclude,
            include: select.include,
            subtree: select.subtree,
        };
        self.client.select(select).await.map_err(port_error)
    }
}

#[async_trait]
impl ToolDirectory for ControlPlane {
    async fn tool(&self, _claims: &TaskClaims, name: &ToolName) -> Result<Tool, PortError> {
        let answer = self.client.callable_tool(name).await;
        let answer = answer.map_err(port_error)?;
        tool(answer)
    }
}

#[async_trait]
impl AuditSink for ControlPlane {
    async fn rejected(
        &self,
        claims: &TaskClaims,
        by_reason: BTreeMap<String, u64>,
    ) -> Result<(), PortError> {
        let entry = |(reason, count): (String, u64)| v1::NewAuditEntry {
            action: "signal.rejected".to_owned(),
            reason,
            count: u32::try_from(count).unwrap_or(u32::MAX),
            ..v1::NewAuditEntry::default()
        };
        let entries = by_reason.into_iter().map(entry).collect();
        self.append(claims, entries).await
    }

    async fn tool_refused(
        &self,
        claims: &TaskClaims,
        tool: &ToolName,
        slot: Option<&Slot>,
        reason: &'static str,
    ) -> Result<(), PortError> {
        let entry = v1::NewAuditEntry {
            action: "tool.refused".to_owned(),
            // Failure types are dotted, audit reasons are not.
            reason: reason.trim_start_matches("xylem.").to_owned(),
            slot: slot.map(Slot::to_string).unwrap_or_default(),
            tool: tool.to_string(),
            count: 1,
        };
        self.append(claims, vec![entry]).await
    }
}

impl ControlPlane {
    async fn append(
        &self,
        claims: &TaskClaims,
        entries: Vec<v1::NewAuditEntry>,
    ) -> Result<(), PortError> {
        let appended = self.client.append_audit(wire_claims(claims)?, entries);
        appended.await.map_err(port_error)
    }
}

fn wire_claims(claims: &TaskClaims) -> Result<ActivityClaims, PortError> {
    let convert = || -> Result<ActivityClaims, IdError> {
        Ok(ActivityClaims {
            namespace: claims.namespace.parse()?,
            workflow_id: claims.workflow_id.parse()?,
            run_id: claims.run_id.parse()?,
            workflow_type: claims.workflow_type.parse()?,
            task_queue: claims.task_queue.parse()?,
            activity_id: claims.activity_id.clone(),
            attempt: claims.attempt,
            local: claims.local,
        })
    };
    convert().map_err(|error| PortError::Refused {
        reason: "unsupported_name".to_owned(),
        why: format!("this workflow cannot use tools: {error}"),
    })
}

fn wire_outcome(outcome: Outcome) -> v1::CallOutcome {
    match outcome {
        Outcome::Succeeded => v1::CallOutcome::Succeeded,
        Outcome::Refused401 => v1::CallOutcome::Refused401,
        Outcome::ApiError => v1::CallOutcome::ApiError,
        Outcome::NoAnswer => v1::CallOutcome::NoAnswer,
        Outcome::NotSent => v1::CallOutcome::NotSent,
        Outcome::Cancelled => v1::CallOutcome::Cancelled,
    }
}

fn public_key(key: xylem_client::PublicKey) -> Result<IssuerPublicKey, PortError> {
    Ok(IssuerPublicKey {
        key_id: key.key_id,
        x: key.x,
        generation: key.generation,
    })
}

fn tool(tool: v1::Tool) -> Result<Tool, PortError> {
    let auth = match tool.auth {
        None => Auth::Bearer,
        Some(auth) => auth_of(auth.scheme.ok_or_else(|| unreadable("authentication"))?),
    };
    let schema = |text: &str| match text {
        "" => Ok(None),
        text => serde_json::from_str(text).map_err(|_| unreadable("schema")),
    };
    let parameters_schema = schema(&tool.parameters_schema_json)?;
    let response_schema = schema(&tool.response_schema_json)?;
    let connect_timeout = tool.connect_timeout.map(timeout).transpose()?;
    let place = |(name, place): (String, i32)| Ok((name, place_of(place)?));
    let bytes = tool.max_response_bytes.map(usize::try_from).transpose();
    let slot = match tool.slot.is_empty() {
        true => None,
        false => Some(id(tool.slot, "slot")?),
    };
    Ok(Tool {
        connecting: Connecting {
            timeout: connect_timeout.unwrap_or(CONNECT_TIMEOUT),
            trust: tool.tls.map(trust).transpose()?,
        },
        name: id(tool.name, "name")?,
        hash: tool.hash,
        method: tool.method,
        base_url: tool.base_url,
        path: tool.path,
        slot,
        auth,
        parameters_schema,
        retry: retry_class(tool.retry)?,
        response_schema,
        places: tool
            .places
            .into_iter()
            .map(place)
            .collect::<Result<_, _>>()?,
        timeout: tool.timeout.map(timeout).transpose()?,
        max_response_bytes: bytes.map_err(|_| unreadable("largest response"))?,
        response_headers: tool.response_headers,
        allowed_api_urls: tool
            .allowed_api_urls
            .into_iter()
            .map(|url| id(url, "allowed apiUrl"))
            .collect::<Result<_, _>>()?,
    })
}

fn trust(tls: v1::ToolTls) -> Result<Trust, PortError> {
    let authority = (!tls.ca_pem.is_empty()).then_some(tls.ca_pem);
    let pins = tls.pins.into_iter().map(|pin| id(pin, "pin"));
    let pins = pins.collect::<Result<_, _>>()?;
    Trust::new(authority, pins).map_err(|_| unreadable("CA"))
}

fn auth_of(scheme: v1::tool_auth::Scheme) -> Auth {
    match scheme {
        v1::tool_auth::Scheme::Bearer(_) => Auth::Bearer,
        v1::tool_auth::Scheme::Header(header) => Auth::Header(header.name),
        v1::tool_auth::Scheme::Query(query) => Auth::Query(query.name),
        v1::tool_auth::Scheme::Basic(basic) => Auth::Basic {
            username: (!basic.username.is_empty()).then_some(basic.username),
        },
        v1::tool_auth::Scheme::ClientCredentials(_) => Auth::Bearer,
        v1::tool_auth::Scheme::None(_) => Auth::None,
    }
}

fn retry_class(code: i32) -> Result<RetryClass, PortError> {
    match v1::RetryClass::try_from(code) {
        Ok(v1::RetryClass::Unspecified) => Ok(RetryClass::default()),
        Ok(v1::RetryClass::Idempotent) => Ok(RetryClass::Idempotent),
        Ok(v1::RetryClass::IdempotencyKey) => Ok(RetryClass::IdempotencyKey),
        Ok(v1::RetryClass::AtMostOnce) => Ok(RetryClass::AtMostOnce),
        Err(_) => Err(unreadable("retry class")),
    }
}

fn place_of(place: i32) -> Result<Place, PortError> {
    match v1::ParameterPlace::try_from(place) {
        Ok(v1::ParameterPlace::Path) => Ok(Place::Path),
        Ok(v1::ParameterPlace::Query) => Ok(Place::Query),
        Ok(v1::ParameterPlace::Header) => Ok(Place::Header),
        Ok(v1::ParameterPlace::Body) => Ok(Place::Body),
        Ok(v1::ParameterPlace::Unspecified) | Err(_) => Err(unreadable("parameter place")),
    }
}

fn timeout(timeout: xylem_client::Duration) -> Result<Duration, PortError> {
    let parts = (u64::try_from(timeout.seconds), u32::try_from(timeout.nanos));
    match parts {
        (Ok(seconds), Ok(nanos)) => Ok(Duration::new(seconds, nanos.min(999_999_999))),
        _ => Err(unreadable("timeout")),
    }
}

fn id<T: TryFrom<String>>(text: String, what: &'static str) -> Result<T, PortError> {
    T::try_from(text).map_err(|_| unreadable(what))
}

/// A definition this worker does not understand: it is older than the control plane, and may be
/// updated any moment.
fn unreadable(what: &'static str) -> PortError {
    PortError::Unavailable {
        what: format!("the tool's {what} is not understood by this worker: update the worker"),
    }
}

/// What the control plane said, as the activities tell errors apart.
fn port_error(error: Error) -> PortError {
    let reason = error.reason().unwrap_or_default().to_owned();
    let why = words(&error);
    match error {
        // A limit: the next window opens by itself.
        Error::Unavailable(answer) if answer.retry_after.is_some() => PortError::NotYet {
            reason,
            why,
            after: answer.retry_after,
        },
        // An operator can repair the worker's key, or the key's queues, while the call waits.
        Error::Unavailable(_) | Error::Failed(_) | Error::Unauthenticated(_) => {
            PortError::Unavailable { what: why }
        }
        Error::Unintelligible(_) => PortError::Unavailable { what: why },
        Error::Conflict(_) if FINAL_CONFLICTS.contains(&reason.as_str()) => {
            PortError::Refused { reason, why }
        }
        Error::Conflict(_) => PortError::Unavailable { what: why },
        Error::Denied(_) | Error::Refused(_) => match passes_after(&reason) {
            Some(after) => PortError::NotYet {
                reason,
                why,
                after: Some(after),
            },
            None => PortError::Refused { reason, why },
        },
        Error::NotFound(_) | Error::Invalid(_) => PortError::Refused {
            reason: if reason.is_empty() {
                "not_found".to_owned()
            } else {
                reason
            },
            why,
        },
    }
}

/// The same request will not do better.
const FINAL_CONFLICTS: [&str; 3] = ["request_reused", "bound_elsewhere", "exists"];

/// Refusals that end when somebody does what their message says, without the workflow changing:
/// the call waits for that, asking again after so long.
fn passes_after(reason: &str) -> Option<Duration> {
    match reason {
        // The tree is just being started, or its worker has not told its definitions yet.
        "unknown_tree" | "tree_starting" | "slot_undeclared" => Some(Duration::from_secs(1)),
        // The tree waits for another owner.
        "owner_retired" => Some(Duration::from_secs(5)),
        // The slot waits for a token.
        "no_token" | "token_expired" | "token_revoked" => Some(Duration::from_secs(2)),
        // The tool waits for approval, or its change does.
        "tool_not_approved" | "tool_changed" => Some(Duration::from_secs(2)),
        // The tool's stored credential waits to be made or rotated.
        "unknown_credential" | "credential_ended" => Some(Duration::from_secs(2)),
        "revoking" | "leases_open" => Some(Duration::from_secs(2)),
        // Somebody has to approve.
        "approval_required" => Some(Duration::from_secs(10)),
        // Described before Temporal had recorded that the activity started.
        "activity_not_pending" => Some(Duration::from_secs(1)),
        _ => None,
    }
}

/// The message alone: reason and request id have places of their own.
fn words(error: &Error) -> String {
    match error.answer() {
        Some(answer) if !answer.message.is_empty() => answer.message.clone(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xylem_client::Answer;

    fn answer(reason: &str) -> Answer {
        Answer {
            message: "the reason in words".to_owned(),
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
            ..Answer::default()
        }
    }

    #[test]
    fn an_operator_can_repair_what_is_unavailable() {
        for error in [
            Error::Unavailable(answer("database_unavailable")),
            Error::Failed(answer("internal")),
            Error::Unauthenticated(answer("key_invalid")),
            Error::Conflict(answer("")),
            Error::Unintelligible("tree"),
        ] {
            let shown = error.to_string();
            let mapped = port_error(error);
            assert!(matches!(mapped, PortError::Unavailable { .. }), "{shown}");
        }
    }

    #[test]
    fn an_empty_slot_is_waited_for() {
        for reason in [
            "no_token",
            "token_expired",
            "unknown_tree",
            "slot_undeclared",
            "owner_retired",
            "tool_not_approved",
            "tool_changed",
            "unknown_credential",
            "credential_ended",
        ] {
            for error in [
                Error::Denied(answer(reason)),
                Error::Refused(answer(reason)),
            ] {
                let PortError::NotYet {
                    reason: told,
                    why,
                    after,
                } = port_error(error)
                else {
                    panic!("{reason} is final");
                };
                assert_eq!(told, reason);
                assert_eq!(why, "the reason in words");
                assert!(after.is_some());
            }
        }
    }

    #[test]
    fn a_refusal_is_final_and_keeps_its_reason() {
        for error in [
            Error::Denied(answer("excluded")),
            Error::Denied(answer("tool_not_allowed")),
            Error::Denied(answer("queue_not_served")),
            Error::Refused(answer("tree_stopped")),
            Error::NotFound(answer("unknown_tool")),
            Error::Invalid(answer("invalid")),
            Error::Conflict(answer("request_reused")),
        ] {
            let expected = error.reason().map(str::to_owned);
            let mapped = port_error(error);
            let PortError::Refused { reason, .. } = mapped else {
                panic!("{mapped:?}");
            };
            assert_eq!(Some(reason), expected);
        }
    }

    const PIN: &str = "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

    #[test]
    fn a_definition_arrives_as_it_was_registered() {
        let registered = v1::Tool {
            name: "acme.deploy".into(),
            method: "POST".into(),
            base_url: "https://api.example".into(),
            path: "/deploy/{build}".into(),
            hash: "00ff".into(),
            auth: Some(v1::ToolAuth {
                scheme: Some(v1::tool_auth::Scheme::Header(v1::HeaderAuth {
                    name: "X-Api-Key".into(),
                })),
            }),
            parameters_schema_json: r#"{"type":"object"}"#.into(),
            places: [("dry".to_owned(), v1::ParameterPlace::Query.into())].into(),
            timeout: Some(xylem_client::Duration {
                seconds: 5,
                nanos: 0,
            }),
            connect_timeout: Some(xylem_client::Duration {
                seconds: 2,
                nanos: 0,
            }),
            max_response_bytes: Some(1024),
            allowed_api_urls: vec!["https://eu.example".into()],
            tls: Some(v1::ToolTls {
                ca_pem: String::new(),
                pins: vec![PIN.into()],
            }),
            ..v1::Tool::default()
        };
        let tool = tool(registered).expect("understood");
        let trust = Trust::new(None, [PIN.parse().expect("a pin")].into());
        assert_eq!(tool.connecting.trust, trust.ok());
        assert_eq!(tool.connecting.timeout, Duration::from_secs(2));
        assert_eq!(tool.slot, None);
        assert_eq!(tool.auth, Auth::Header("X-Api-Key".into()));
        assert_eq!(tool.places["dry"], Place::Query);
        assert_eq!(tool.timeout, Some(Duration::from_secs(5)));
        assert_eq!(tool.max_response_bytes, Some(1024));
        assert_eq!(tool.parameters_schema.expect("a schema")["type"], "object");
        assert_eq!(tool.allowed_api_urls.len(), 1);
    }

    #[test]
    fn what_a_worker_does_not_understand_is_no_reason_to_fail_a_workflow() {
        let wrong = [
            v1::Tool {
                name: "Not A Name".into(),
                ..v1::Tool::default()
            },
            v1::Tool {
                name: "a".into(),
                parameters_schema_json: "{".into(),
                ..v1::Tool::default()
            },
            v1::Tool {
                name: "a".into(),
                places: [("b".to_owned(), 99)].into(),
                ..v1::Tool::default()
            },
            v1::Tool {
                name: "a".into(),
                auth: Some(v1::ToolAuth { scheme: None }),
                ..v1::Tool::default()
            },
        ];
        for definition in wrong {
            let error = tool(definition).expect_err("not understood");
            assert!(matches!(error, PortError::Unavailable { .. }), "{error:?}");
        }
    }

    #[test]
    fn claims_that_no_identifier_allows_are_refused_without_being_quoted() {
        let claims = TaskClaims {
            namespace: "default".into(),
            workflow_id: "canary\u{7}".into(),
            run_id: "r".into(),
            workflow_type: "T".into(),
            task_queue: "q".into(),
            activity_id: "1".into(),
            attempt: 1,
            local: false,
        };
        let error = wire_claims(&claims).expect_err("a control character");
        assert!(!error.to_string().contains("canary"), "{error}");
    }
}
