//! One tool call: definition, parameters, address, redemption, request, redaction, release.

use crate::{
    answer::{self, Clean},
    carry::Carried,
    definitions::Definitions,
    failure::{ApiAnswer, Failure, Used},
    lease::Lease,
    ports::{Outcome, PortError, Ports, Redeem, Redeemed, TaskClaims},
    refusals::Refusals,
    request::{self, Request},
    status::{Verdict, verdict},
    tool::{KEY_HEADER, ReadyTool, Tool},
};
use http::HeaderValue;
use secrecy::SecretString;
use serde_json::Value;
use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use uuid::Uuid;
use xylem_ids::{Order, RetryClass, Slot, ToolName};
use xylem_outbound::{Answer, Connecting, Outbound, SendError};
use xylem_stateful::activity::{ToolAnswer, ToolCall};

/// What is left of the activity's own deadline for the release and the answer.
const MARGIN: Duration = Duration::from_secs(3);

/// The largest answer as JSON. Temporal takes payloads of 2 MiB; a codec may add to them.
const MAX_ANSWER_BYTES: usize = 2 * 1024 * 1024 - 128 * 1024;

/// An answer of the vault that gets lost is asked for again for so long, after a pause: of a tool that is
/// called at most once, no other attempt would get a token.
const REPEATED_FOR: Duration = Duration::from_secs(60);
const REPEAT_AFTER: Duration = Duration::from_millis(500);

/// How long reporting a refusal may hold up the failure it reports.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);

/// Calls tools.
pub(crate) struct ToolCaller {
    ports: Ports,
    outbound: Outbound,
    definitions: Definitions,
}

/// What one attempt knows beside the call itself.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Attempt {
    /// Refusals that earlier attempts met.
    pub(crate) refusals: Option<Refusals>,
    /// When the attempt must have ended.
    pub(crate) deadline: Option<SystemTime>,
}

/// A redeemed token with everything that was decided about it.
struct Permitted {
    /// Which token; none where the tool takes none.
    used: Option<Used>,
    lease: Lease,
    token: SecretString,
    carried: Carried,
    newer_grant: Option<String>,
    timeout: Duration,
}

impl ToolCaller {
    pub(crate) fn new(ports: Ports, outbound: Outbound) -> Self {
        Self {
            definitions: Definitions::new(ports.tools.clone()),
            ports,
            outbound,
        }
    }

    /// The ports it was made with.
    pub(crate) fn ports(&self) -> &Ports {
        &self.ports
    }

    /// Makes the call. `cancelled` ends it early.
    pub(crate) async fn call(
        &self,
        claims: &TaskClaims,
        call: ToolCall,
        attempt: Attempt,
        cancelled: impl Future<Output = ()>,
    ) -> Result<ToolAnswer, Failure> {
        if claims.local {
            return Err(Failure::Local);
        }
        let mut cancelled = pin!(cancelled);
        let ready = self.definitions.ready(claims, &call.tool).await?;
        let request = match self.prepare(&ready, claims, &call).await {
            Ok(request) => request,
            Err(failure) => {
                self.report(claims, &call.tool, call.slot.as_ref(), &failure)
                    .await;
                return Err(failure);
            }
        };
        let how = connecting(&ready, attempt.deadline);
        let outbound = self.outbound.connecting(&how).await;
        let outbound = outbound.map_err(|error| no_answer(&ready, error))?;
        let permitted = self.redeem(claims, call, &ready, &request, attempt, cancelled.as_mut());
        let permitted = permitted.await?;
        if permitted.timeout <= how.timeout {
            permitted.lease.end(Outcome::NotSent, None).await;
            return Err(Failure::NoAnswer {
                tool: ready.tool.name.clone(),
                what: "too little time was left to connect to it",
            });
        }
        let answered = self.send(
            &outbound,
            &ready,
            request,
            permitted,
            attempt.refusals,
            cancelled,
        );
        let answered = answered.await;
        if let Err(failure @ Failure::Untrusted { .. }) = &answered {
            let Tool { name, slot, .. } = &ready.tool;
            self.report(claims, name, slot.as_ref(), failure).await;
        }
        answered
    }

    /// Everything that needs no token.
    async fn prepare(
        &self,
        ready: &ReadyTool,
        claims: &TaskClaims,
        call: &ToolCall,
    ) -> Result<Request, Failure> {
        if ready.tool.slot != call.slot {
            return Err(Failure::WrongSlot {
                tool: call.tool.clone(),
                asked: call.slot.clone(),
                registered: ready.tool.slot.clone(),
            });
        }
        ready.check(&call.parameters)?;
        let mut request = request::build(ready, &call.parameters, call.api_url.as_deref())?;
        if ready.tool.retry == RetryClass::IdempotencyKey {
            request.headers.insert(KEY_HEADER, key(ready, claims)?);
        }
        let checked = self.outbound.check(&request.url).await;
        checked.map_err(|error| no_answer(ready, error))?;
        Ok(request)
    }

    /// Tells the audit log about a refusal the vault does not see.
    async fn report(
        &self,
        claims: &TaskClaims,
        tool: &ToolName,
        slot: Option<&Slot>,
        failure: &Failure,
    ) {
        if matches!(failure, Failure::NoAnswer { .. }) {
            return;
        }
        let audit = &self.ports.audit;
        let report = audit.tool_refused(claims, tool, slot, failure.kind());
        let error = match tokio::time::timeout(REPORT_TIMEOUT, report).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(
            workflow.id = claims.workflow_id,
            tool.name = %tool,
            reason = failure.kind(),
            error,
            "a refused tool call was not recorded in the audit log"
        );
    }

    /// Exchanges the grant for the token, and checks that the token may do what is planned.
    async fn redeem(
        &self,
        claims: &TaskClaims,
        call: ToolCall,
        ready: &ReadyTool,
        request: &Request,
        attempt: Attempt,
        cancelled: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Permitted, Failure> {
        let redeem = Redeem {
            grant: call.grant,
            tool: call.tool,
            slot: call.slot.clone(),
            api_url: call.api_url,
            parameters: call.parameters,
            request: Uuid::new_v4().to_string(),
        };
        let most = left(attempt.deadline).unwrap_or(Duration::MAX);
        let single = ready.tool.retry == RetryClass::AtMostOnce;
        let until = |most| single.then(|| Instant::now() + most);
        let repeats = until(most.min(REPEATED_FOR));
        let redeemed = self.ask(claims, redeem, repeats, cancelled).await?;
        let redeemed = redeemed.map_err(|error| refused(ready, error))?;
        let lease = Lease::new(self.ports.tokens.clone(), redeemed.lease.clone())
            .insisting(until(most.min(redeemed.lease_for)));
        let used = redeemed.order.map(|order| Used {
            tree: redeemed.tree.clone(),
            slot: call.slot,
            order,
        });
        let checked = match agree(ready, request, &redeemed, used.as_ref()) {
            Err(Failure::ToolChanged { tool }) => {
                self.definitions.forget(claims, &tool);
                Err(Failure::ToolChanged { tool })
            }
            checked => checked,
        };
        let carried = match checked {
            Ok(carried) => carried,
            Err(failure) => {
                lease.end(Outcome::NotSent, None).await;
                return Err(failure);
            }
        };
        Ok(Permitted {
            timeout: time_for(ready, redeemed.lease_for, attempt.deadline),
            used,
            lease,
            token: redeemed.token,
            carried,
            newer_grant: redeemed.newer_grant,
        })
    }

    /// Asks the vault; again, as long as nobody answers until then.
    async fn ask(
        &self,
        claims: &TaskClaims,
        redeem: Redeem,
        until: Option<Instant>,
        mut cancelled: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Result<Redeemed, PortError>, Failure> {
        loop {
            let redeemed = self.ports.tokens.redeem(claims, redeem.clone()).await;
            let again = until.is_some_and(|until| Instant::now() + REPEAT_AFTER < until);
            if !again || !matches!(redeemed, Err(PortError::Unavailable { .. })) {
                return Ok(redeemed);
            }
            tokio::select! {
                biased;
                () = cancelled.as_mut() => return Err(Failure::Cancelled),
                () = tokio::time::sleep(REPEAT_AFTER) => {}
            }
        }
    }

    async fn send(
        &self,
        outbound: &Outbound,
        ready: &Arc<ReadyTool>,
        request: Request,
        permitted: Permitted,
        refusals: Option<Refusals>,
        cancelled: impl Future<Output = ()>,
    ) -> Result<ToolAnswer, Failure> {
        let Permitted {
            used,
            mut lease,
            token,
            carried,
            newer_grant,
            timeout,
        } = permitted;
        let limit = ready.max_response_bytes();
        let request = request.with(carried);
        lease.bytes.sent = length(request.body.as_deref());
        let answered = tokio::select! {
            biased;
            () = cancelled => {
                lease.end(Outcome::Cancelled, None).await;
                return Err(Failure::Cancelled);
            }
            answered = outbound.send(request, timeout, limit) => answered,
        };
        let answer = match answered {
            Ok(answer) => answer,
            Err(error) => {
                let outcome = outcome_of(error);
                lease.end(outcome, None).await;
                let failure = no_answer(ready, error);
                return Err(match outcome {
                    Outcome::NotSent => failure,
                    _ => sent(ready, failure),
                });
            }
        };
        lease.bytes.received = length(Some(&answer.body));
        let status = answer.status.as_u16();
        let verdict = verdict(answer.status, &answer.headers, SystemTime::now());
        let released = lease.end(outcome(verdict), Some(status)).await;
        let used = used.as_ref();
        let failure = failed(ready, verdict, status, used, refusals, released.newest);
        if let Some(failure) = failure {
            return Err(sent(ready, failure));
        }
        let Clean {
            status,
            body,
            headers,
        } = self.clean(ready, answer, &token).await?;
        if verdict != Verdict::Success {
            let body = answer::shorten(body);
            return Err(Failure::ApiRejected {
                tool: ready.tool.name.clone(),
                answer: ApiAnswer { status, body },
            });
        }
        let body = checked(ready, body).await?;
        fitting(
            ready,
            ToolAnswer {
                status,
                body,
                headers,
                order: used.map(|used| used.order),
                newer_grant,
            },
        )
    }

    async fn clean(
        &self,
        ready: &ReadyTool,
        answer: Answer,
        token: &SecretString,
    ) -> Result<Clean, Failure> {
        let limit = ready.max_response_bytes();
        let listed = ready.response_headers.clone();
        let cleaned = answer::clean(answer, ready.carrier.redactor(token), listed, limit).await;
        cleaned.map_err(|answer::TooLarge| Failure::TooLarge {
            tool: ready.tool.name.clone(),
            limit,
        })
    }
}

/// Whether tool, audience and URL agree, and the token as the request carries it.
fn agree(
    ready: &ReadyTool,
    request: &Request,
    redeemed: &Redeemed,
    used: Option<&Used>,
) -> Result<Carried, Failure> {
    let tool = ready.tool.name.clone();
    if redeemed.tool_hash != ready.tool.hash {
        return Err(Failure::ToolChanged { tool });
    }
    let mut audiences = redeemed.audiences.iter();
    if !audiences.any(|audience| audience.covers(&request.url)) {
        return Err(match used {
            Some(used) => Failure::Audience {
                tool,
                origin: request.origin.clone(),
                used: Box::new(used.clone()),
            },
            None => Failure::ApiUrl { tool },
        });
    }
    let Some(used) = used else {
        let what = "the control plane gave no token for a tool that needs one";
        let missing = || {
            PortError::Unavailable {
                what: what.to_owned(),
            }
            .into()
        };
        return ready.carrier.without_token().ok_or_else(missing);
    };
    let carried = ready.carrier.carry(&redeemed.token);
    carried.ok_or_else(|| Failure::Unsendable {
        tool,
        used: Box::new(used.clone()),
    })
}

/// The body of a successful answer, if it is what the tool's definition says. The work of checking
/// one is not done where other calls wait.
async fn checked(ready: &Arc<ReadyTool>, body: Value) -> Result<Value, Failure> {
    if !ready.checks_answers() {
        return Ok(body);
    }
    let tool = ready.clone();
    let work = move || tool.check_answer(&body).map(|()| body);
    let checked = tokio::task::spawn_blocking(work).await;
    // The thread ends without an answer only if checking panicked.
    checked.unwrap_or_else(|_| {
        Err(Failure::Definition {
            tool: ready.tool.name.clone(),
            what: "its schema of answers cannot be checked",
        })
    })
}

/// An answer that Temporal would not take fails here: there it would count as a failure of the
/// worker, and the API would be called again.
fn fitting(ready: &ReadyTool, answer: ToolAnswer) -> Result<ToolAnswer, Failure> {
    let bytes = serde_json::to_vec(&answer).map_or(usize::MAX, |json| json.len());
    if bytes <= MAX_ANSWER_BYTES {
        return Ok(answer);
    }
    Err(Failure::TooLarge {
        tool: ready.tool.name.clone(),
        limit: MAX_ANSWER_BYTES,
    })
}

/// The same for every attempt of an activity, and for no other: runs and activities have ids, which
/// anybody may know.
fn key(ready: &ReadyTool, claims: &TaskClaims) -> Result<HeaderValue, Failure> {
    let of = format!("{}/{}", claims.run_id, claims.activity_id);
    let key = Uuid::new_v5(&Uuid::NAMESPACE_OID, of.as_bytes()).to_string();
    HeaderValue::try_from(key).map_err(|_| Failure::Definition {
        tool: ready.tool.name.clone(),
        what: "its idempotency key cannot be sent",
    })
}

fn length(body: Option<&[u8]>) -> u64 {
    u64::try_from(body.map_or(0, <[u8]>::len)).unwrap_or(u64::MAX)
}

/// A call ends before its lease and before the activity's own deadline.
fn time_for(ready: &ReadyTool, lease_for: Duration, deadline: Option<SystemTime>) -> Duration {
    let left = left(deadline).unwrap_or(Duration::MAX);
    ready.timeout().min(lease_for).min(left)
}

/// What an attempt may still do, if it has a deadline.
fn left(deadline: Option<SystemTime>) -> Option<Duration> {
    let left = deadline?.duration_since(SystemTime::now());
    Some(left.unwrap_or_default().saturating_sub(MARGIN))
}

/// How a call connects: always in less time than it has as a whole, since what ends it first would leave
/// open whether the API was reached. Of one that is made at most once that must not stay open, however
/// much of the time its redemption takes.
fn connecting(ready: &ReadyTool, deadline: Option<SystemTime>) -> Connecting {
    let asked = &ready.tool.connecting;
    let whole = time_for(ready, Duration::MAX, deadline);
    let quarters = match ready.tool.retry {
        RetryClass::AtMostOnce => 2,
        RetryClass::Idempotent | RetryClass::IdempotencyKey => 3,
    };
    Connecting {
        timeout: connect_time(asked.timeout, whole, quarters),
        trust: asked.trust.clone(),
    }
}

/// So many quarters of the whole where what is asked for is not less: in steps of at most an eighth, because
/// those who connect in the same way share their connections.
fn connect_time(asked: Duration, whole: Duration, quarters: u32) -> Duration {
    if asked < whole {
        return asked;
    }
    let part = (whole / 4 * quarters).as_millis();
    let part = u64::try_from(part).unwrap_or(u64::MAX).max(1);
    let step: u64 = 1 << part.ilog2().saturating_sub(3);
    Duration::from_millis(part - part % step)
}

fn outcome(verdict: Verdict) -> Outcome {
    match verdict {
        Verdict::Success => Outcome::Succeeded,
        Verdict::Unauthorized => Outcome::Refused401,
        Verdict::Redirect | Verdict::Throttled(_) | Verdict::Unavailable | Verdict::Rejected => {
            Outcome::ApiError
        }
    }
}

fn outcome_of(error: SendError) -> Outcome {
    match error {
        SendError::Refused(_) | SendError::NotSent(_) | SendError::Untrusted(_) => Outcome::NotSent,
        SendError::NoAnswer(_) | SendError::TooLarge => Outcome::NoAnswer,
    }
}

fn no_answer(ready: &ReadyTool, error: SendError) -> Failure {
    let tool = ready.tool.name.clone();
    match error {
        SendError::Refused(why) => Failure::Address { tool, why },
        SendError::Untrusted(why) => Failure::Untrusted { tool, why },
        SendError::NotSent(what) | SendError::NoAnswer(what) => Failure::NoAnswer { tool, what },
        SendError::TooLarge => Failure::TooLarge {
            tool,
            limit: ready.max_response_bytes(),
        },
    }
}

/// A refusal of the control plane.
fn refused(ready: &ReadyTool, error: PortError) -> Failure {
    match error {
        PortError::Refused { reason, .. } if reason == "called_before" => Failure::OutcomeUnknown {
            tool: ready.tool.name.clone(),
            what: "an earlier attempt may have reached it".to_owned(),
        },
        error => error.into(),
    }
}

/// The failure of a call that was sent.
fn sent(ready: &ReadyTool, failure: Failure) -> Failure {
    match ready.tool.retry {
        RetryClass::AtMostOnce => failure.of_single_call(),
        RetryClass::Idempotent | RetryClass::IdempotencyKey => failure,
    }
}

/// The failure a verdict stands for, where the body does not matter.
fn failed(
    ready: &ReadyTool,
    verdict: Verdict,
    status: u16,
    used: Option<&Used>,
    refusals: Option<Refusals>,
    newest: Option<Order>,
) -> Option<Failure> {
    let tool = ready.tool.name.clone();
    match verdict {
        Verdict::Success | Verdict::Rejected => None,
        // Without a token there is none to replace: the API is told apart by its answer.
        Verdict::Unauthorized => used.map(|used| unauthorized(tool, used, refusals, newest)),
        Verdict::Throttled(after) => Some(Failure::Throttled {
            tool,
            status,
            after,
        }),
        Verdict::Unavailable => Some(Failure::ApiUnavailable { tool, status }),
        Verdict::Redirect => Some(Failure::Redirect { tool, status }),
    }
}

/// 401: for a version that is not the newest any more a repetition is worth it at once; for the
/// newest it is worth it a few times.
fn unauthorized(
    tool: ToolName,
    used: &Used,
    before: Option<Refusals>,
    newest: Option<Order>,
) -> Failure {
    let refusals = Refusals::and(before, used.order);
    let place = |order: Order| (order.epoch, order.version);
    let superseded = newest.is_some_and(|newest| place(newest) > place(used.order));
    let used = Box::new(used.clone());
    if refusals.is_final() && !superseded {
        return Failure::TokenRefused { tool, used };
    }
    Failure::Unauthorized {
        tool,
        used,
        refusals,
        superseded,
    }
}

#[cfg(test)]
#[path = "call_tests.rs"]
mod tests;
