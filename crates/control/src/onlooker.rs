//! Answers that go on for long: for as long as whoever asked may ask.

use crate::{
    access,
    caller::{self, Reach},
    fault::Fault,
    plane::Plane,
};
use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};
use xylem_identity::{Principal, Unauthenticated};
use xylem_ids::AgentId;
use xylem_proto::v1::Rpc;

/// A key that was revoked, or a role that was taken away, ends a stream within this.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Whoever made a call whose answer goes on, as they stood when that was last looked at.
#[derive(Debug)]
pub(crate) struct Onlooker {
    rpc: Rpc,
    principal: Arc<Principal>,
    address: Option<IpAddr>,
    reach: Reach,
    looked: SystemTime,
}

impl Onlooker {
    /// That of the caller, who was let through just now.
    pub(crate) fn caller(plane: &Plane, rpc: Rpc) -> Result<Self, Fault> {
        let principal = caller::caller()?;
        Ok(Self {
            reach: reach(rpc, &principal)?,
            rpc,
            principal,
            address: caller::caller_address(),
            looked: plane.now(),
        })
    }

    /// Whether the call would still be let through.
    pub(crate) async fn may_go_on(&mut self, plane: &Plane) -> Result<(), Fault> {
        let now = plane.now();
        // A clock that was set back says nothing of how long ago that was.
        let since = now.duration_since(self.looked);
        if since.is_ok_and(|since| since < LOOK_EVERY) {
            return Ok(());
        }
        let found = plane.identity.standing(&self.principal, self.address, now);
        let principal = found.await.map_err(not_any_more)?;
        self.reach = reach(self.rpc, &principal)?;
        self.principal = Arc::new(principal);
        self.looked = now;
        Ok(())
    }

    /// Whether the call reaches what belongs to this agent.
    pub(crate) fn reaches(&self, owner: &AgentId) -> bool {
        self.reach == Reach::All || self.principal.agent() == owner
    }
}

fn reach(rpc: Rpc, principal: &Principal) -> Result<Reach, Fault> {
    let rule = access::rule(rpc);
    let may = rule.scope.is_none_or(|scope| principal.may(scope));
    let message = "the role or scope that this call needs was taken away";
    rule.reach(principal)
        .filter(|_| may)
        .ok_or_else(|| Fault::denied("role", message))
}

fn not_any_more(why: Unauthenticated) -> Fault {
    match why {
        Unauthenticated::NotChecked(cause) => Fault::unavailable(
            "key_not_checked",
            "the credential could not be checked: try again",
            cause,
        ),
        _ => Fault::unauthenticated(
            "key_not_valid",
            "the credential is not valid any more: it has ended or was revoked",
        ),
    }
}
