//! Who is calling, for as long as the call lasts.
//!
//! The REST bridge makes a fresh request for the handler, so that request extensions set by a layer
//! are lost on the way. A task-local set around the whole call reaches the handler on both ways.

use crate::{fault::Fault, serve::Passage};
use std::{fmt, net::IpAddr, sync::Arc};
use xylem_audit::{Entry, Label};
use xylem_identity::Principal;
use xylem_ids::AgentId;

tokio::task_local! {
    static CALL: Call;
}

/// One call.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) passage: Passage,
    pub(crate) principal: Option<Arc<Principal>>,
    /// Where it came from.
    pub(crate) address: Option<IpAddr>,
    /// How far it reaches; absent until that is decided.
    pub(crate) reach: Option<Reach>,
}

/// How far a call reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Everything in the namespace.
    All,
    /// What belongs to the caller's own agent; another's is not found.
    Own,
}

/// Names one call in answers and logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestId(Arc<str>);

impl RequestId {
    /// An id that the client chose: short, and without anything that a log could take for its own.
    pub(crate) fn chosen(text: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        ((1..=64).contains(&text.len()) && text.bytes().all(plain)).then(|| Self(text.into()))
    }

    pub(crate) fn generate() -> Self {
        Self(uuid::Uuid::new_v4().to_string().into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Runs something as part of a call.
pub(crate) async fn within<T>(call: Call, work: impl Future<Output = T>) -> T {
    CALL.scope(call, work).await
}

/// Goes on with the call that is being handled, where there is one, in a task of its own.
pub(crate) fn carried<T>(work: impl Future<Output = T>) -> impl Future<Output = T> {
    let call = CALL.try_with(Clone::clone).ok();
    async move {
        match call {
            Some(call) => within(call, work).await,
            None => work.await,
        }
    }
}

/// The id of the call that is being handled; a dash outside of one.
pub(crate) fn request_id() -> RequestId {
    CALL.try_with(|call| call.passage.id.clone())
        .unwrap_or_else(|_| RequestId("-".into()))
}

/// The call's way through the server; none outside of one.
pub(crate) fn passage() -> Option<Passage> {
    CALL.try_with(|call| call.passage.clone()).ok()
}

/// Says that what the call that is being handled is answered lasts.
pub(crate) fn lasting() {
    let _ = CALL.try_with(|call| call.passage.lasts());
}

/// Who makes the call that is being handled.
pub(crate) fn caller() -> Result<Arc<Principal>, Fault> {
    CALL.try_with(|call| call.principal.clone())
        .ok()
        .flatten()
        .ok_or_else(nobody)
}

/// Where the call that is being handled came from.
pub(crate) fn caller_address() -> Option<IpAddr> {
    CALL.try_with(|call| call.address).ok().flatten()
}

/// The same entry with what is known of the call that is being handled: who makes it, from where, and
/// its id.
pub(crate) fn during_call(mut entry: Entry) -> Entry {
    let _ = CALL.try_with(|call| {
        entry.request = Label::new(call.passage.id.as_str());
        entry.address = call.address;
        if let Some(principal) = &call.principal {
            entry.agent = Some(principal.agent().clone());
            entry.namespace = Some(principal.namespace().clone());
            entry.second_factor = principal.second_factor();
        }
    });
    entry
}

/// Goes on with the call, once it is decided how far it reaches.
pub(crate) async fn reaching<T>(reach: Reach, work: impl Future<Output = T>) -> Result<T, Fault> {
    let call = CALL.try_with(|call| Call {
        reach: Some(reach),
        ..call.clone()
    });
    Ok(within(call.map_err(|_| nobody())?, work).await)
}

/// How far the call that is being handled reaches.
pub(crate) fn reach() -> Result<Reach, Fault> {
    let reach = CALL.try_with(|call| call.reach).ok().flatten();
    reach.ok_or_else(nobody)
}

/// Whether the call that is being handled reaches what belongs to this agent.
pub(crate) fn reaches(owner: &AgentId) -> Result<bool, Fault> {
    Ok(reach()? == Reach::All || caller()?.agent() == owner)
}

/// Nothing, where the call reaches what it names, which belongs to this agent.
///
/// # Errors
/// Another's is not found; that it was asked for is counted.
pub(crate) fn check_reach(owner: &AgentId, what: &str) -> Result<(), Fault> {
    if reaches(owner)? {
        return Ok(());
    }
    not_let("other_owner");
    Err(Fault::not_found(what))
}

/// Says that the call that is being handled asked for what its caller may not have, whatever it is
/// answered: the gate counts it.
pub(crate) fn not_let(reason: &'static str) {
    let _ = CALL.try_with(|call| call.passage.not_let(reason));
}

fn nobody() -> Fault {
    Fault::unauthenticated("key_missing", "an API key is required")
}
