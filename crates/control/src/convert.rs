//! Between the wire's messages and the types of the house. What comes in is checked here, once;
//! errors name the field and the rule and never quote the input.

use crate::fault::Fault;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use xylem_audit::{Activity, Note};
use xylem_grant::UnixSeconds;
use xylem_ids::{AgentKind, Audience, IdError, Order, Role, Roles, Scope, Scopes, TreeId};
use xylem_proto::{Timestamp, v1};
use xylem_vault::{Claims, Tree, TreeState, VersionInfo, VersionState, VersionStatus};

/// Reads an identifier from a field.
pub(crate) fn id<T>(text: String, field: &str) -> Result<T, Fault>
where
    T: TryFrom<String>,
    T::Error: std::fmt::Display,
{
    T::try_from(text).map_err(|rule| Fault::invalid(field, rule.to_string()))
}

/// Reads identifiers from a repeated field.
pub(crate) fn ids<T, C>(texts: Vec<String>, field: &str) -> Result<C, Fault>
where
    T: TryFrom<String>,
    T::Error: std::fmt::Display,
    C: FromIterator<T>,
{
    texts.into_iter().map(|text| id(text, field)).collect()
}

/// Reads an identifier that may be left out.
pub(crate) fn optional<T>(text: String, field: &str) -> Result<Option<T>, Fault>
where
    T: TryFrom<String>,
    T::Error: std::fmt::Display,
{
    if text.is_empty() {
        return Ok(None);
    }
    id(text, field).map(Some)
}

/// Reads the slot, `default` where none is named.
pub(crate) fn slot(text: String, field: &str) -> Result<xylem_ids::Slot, Fault> {
    Ok(optional(text, field)?.unwrap_or_else(xylem_ids::Slot::default_slot))
}

/// Reads a duration between two bounds.
pub(crate) fn duration(
    given: Option<xylem_proto::Duration>,
    field: &str,
    least: Duration,
    most: Duration,
) -> Result<Option<Duration>, Fault> {
    let Some(given) = given else {
        return Ok(None);
    };
    let seconds = u64::try_from(given.seconds).ok();
    let nanos = u32::try_from(given.nanos)
        .ok()
        .filter(|n| *n < 1_000_000_000);
    let duration = seconds
        .zip(nanos)
        .map(|(seconds, nanos)| Duration::new(seconds, nanos));
    match duration {
        Some(duration) if (least..=most).contains(&duration) => Ok(Some(duration)),
        _ => {
            let rule = format!("{field} must be between {least:?} and {most:?}");
            Err(Fault::invalid(field, rule))
        }
    }
}

/// Reads what the caller says about what they do, for the audit log.
pub(crate) fn note(text: &str, field: &str) -> Result<Option<Note>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    let rule = || {
        let longest = Note::LONGEST;
        Fault::invalid(
            field,
            format!("{field} must be at most {longest} printable characters"),
        )
    };
    Note::new(text).map(Some).ok_or_else(rule)
}

/// Reads the parameters of a call. They decide and are not kept.
pub(crate) fn parameters(json: &str) -> Result<serde_json::Value, Fault> {
    const MOST: usize = 64 * 1024;
    let rule = "parameters_json must be a JSON object of at most 64 KiB";
    let read = (json.len() <= MOST).then(|| serde_json::from_str(json));
    let read = read
        .and_then(Result::ok)
        .filter(serde_json::Value::is_object);
    read.ok_or_else(|| Fault::invalid("parameters_json", rule))
}

/// A page's size: 50 where absent.
pub(crate) fn page_size(given: Option<u32>) -> Result<u32, Fault> {
    match given {
        None => Ok(50),
        Some(size @ 1..=200) => Ok(size),
        Some(_) => Err(Fault::invalid(
            "page_size",
            "page_size must be between 1 and 200",
        )),
    }
}

/// Reads who asks. A worker's claims are checked by Temporal later.
pub(crate) fn claims(given: Option<v1::ActivityClaims>) -> Result<(Claims, bool), Fault> {
    let given = given.ok_or_else(|| Fault::invalid("claims", "claims must be present"))?;
    if given.workflow_id.is_empty() {
        let refusal = xylem_vault::ClaimRefusal::NoWorkflow;
        return Err(Fault::denied(refusal.code(), refusal.to_string()));
    }
    let activity = Activity::new(&given.activity_id, given.attempt).ok_or_else(|| {
        Fault::invalid(
            "claims.activity_id",
            "claims.activity_id must be 1 to 1000 printable characters",
        )
    })?;
    let claims = Claims {
        namespace: id(given.namespace, "claims.namespace")?,
        workflow_id: id(given.workflow_id, "claims.workflow_id")?,
        run_id: id(given.run_id, "claims.run_id")?,
        workflow_type: id(given.workflow_type, "claims.workflow_type")?,
        task_queue: id(given.task_queue, "claims.task_queue")?,
        activity,
    };
    Ok((claims, given.local))
}

pub(crate) fn time(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

pub(crate) fn seconds(at: UnixSeconds) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(at.0).unwrap_or(i64::MAX),
        nanos: 0,
    }
}

/// Reads a point in time.
pub(crate) fn instant(given: Option<Timestamp>, field: &str) -> Result<Option<SystemTime>, Fault> {
    let Some(given) = given else {
        return Ok(None);
    };
    let since = u64::try_from(given.seconds).ok().map(Duration::from_secs);
    let at = since.and_then(|since| UNIX_EPOCH.checked_add(since));
    at.map(Some)
        .ok_or_else(|| Fault::invalid(field, format!("{field} must be a time after 1970")))
}

pub(crate) fn order(order: Order) -> v1::Order {
    v1::Order {
        epoch: order.epoch.0,
        version: order.version.0,
        serial: order.serial.0,
    }
}

pub(crate) fn tree_id(id: TreeId) -> v1::TreeId {
    v1::TreeId {
        namespace: id.namespace.into(),
        workflow_id: id.workflow_id.into(),
        first_run_id: id.first_run_id.into(),
    }
}

pub(crate) fn count(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

pub(crate) fn audiences(audiences: &[Audience]) -> Vec<String> {
    audiences.iter().map(Audience::to_string).collect()
}

/// A version without anybody who uses it.
pub(crate) fn version(info: VersionInfo, now: SystemTime) -> v1::TokenVersion {
    let status = VersionStatus {
        info,
        open_leases: 0,
        leases_until: None,
    };
    version_status(status, now)
}

pub(crate) fn version_status(status: VersionStatus, now: SystemTime) -> v1::TokenVersion {
    let info = status.info;
    let order = order(info.order());
    let expired = info.expires_at <= UnixSeconds::from(now);
    let state = match info.state {
        VersionState::Active if info.grant.is_none() => v1::VersionState::Pending,
        VersionState::Active if expired => v1::VersionState::Expired,
        VersionState::Active => v1::VersionState::Active,
        VersionState::Superseded => v1::VersionState::Superseded,
        VersionState::Revoked => v1::VersionState::Revoked,
    };
    let since = |state| (info.state == state).then(|| seconds(info.state_since));
    v1::TokenVersion {
        superseded_at: since(VersionState::Superseded),
        revoked_at: since(VersionState::Revoked),
        slot: info.slot.into(),
        order: Some(order),
        state: state.into(),
        fingerprint: info.fingerprint.into(),
        audiences: audiences(&info.audiences),
        deposited_at: Some(seconds(info.deposited_at)),
        deposited_by: info.depositor.into(),
        issued_at: Some(seconds(info.issued_at)),
        expires_at: Some(seconds(info.expires_at)),
        exposed: info.exposed,
        open_leases: count(status.open_leases),
        leases_until: status.leases_until.map(seconds),
    }
}

/// A tree with its newest versions.
pub(crate) fn tree(tree: Tree, newest: Vec<v1::TokenVersion>, system: bool) -> v1::Tree {
    let state = match tree.state {
        TreeState::Starting => v1::TreeState::Starting,
        TreeState::Bound { .. } => v1::TreeState::Active,
        TreeState::Stopped { .. } => v1::TreeState::Stopped,
    };
    let first_run_id = tree.state.first_run_id().cloned();
    v1::Tree {
        id: Some(v1::TreeId {
            namespace: tree.namespace.into(),
            workflow_id: tree.workflow_id.into(),
            first_run_id: first_run_id.map(Into::into).unwrap_or_default(),
        }),
        state: state.into(),
        tools: tree.tools.into_iter().map(Into::into).collect(),
        intake: tree.intake,
        adopted: system,
        started_at: Some(seconds(tree.opened_at)),
        started_by: tree.owner.into(),
        tokens: newest,
    }
}

pub(crate) fn role(role: Role) -> v1::Role {
    match role {
        Role::Admin => v1::Role::Admin,
        Role::ToolPublisher => v1::Role::ToolPublisher,
        Role::PolicyAdmin => v1::Role::PolicyAdmin,
        Role::User => v1::Role::User,
        Role::Worker => v1::Role::Worker,
        Role::Auditor => v1::Role::Auditor,
    }
}

/// Reads roles from a field.
pub(crate) fn roles(given: Vec<i32>) -> Result<Roles, Fault> {
    let read = |code| match v1::Role::try_from(code) {
        Ok(v1::Role::Admin) => Ok(Role::Admin),
        Ok(v1::Role::ToolPublisher) => Ok(Role::ToolPublisher),
        Ok(v1::Role::PolicyAdmin) => Ok(Role::PolicyAdmin),
        Ok(v1::Role::User) => Ok(Role::User),
        Ok(v1::Role::Worker) => Ok(Role::Worker),
        Ok(v1::Role::Auditor) => Ok(Role::Auditor),
        Ok(v1::Role::Unspecified) | Err(_) => Err(Fault::invalid(
            "roles",
            "roles must be admin, tool_publisher, policy_admin, user, worker or auditor",
        )),
    };
    given.into_iter().map(read).collect()
}

pub(crate) fn agent_kind(kind: AgentKind) -> v1::AgentKind {
    match kind {
        AgentKind::User => v1::AgentKind::User,
        AgentKind::Service => v1::AgentKind::Service,
        AgentKind::Bot => v1::AgentKind::Bot,
    }
}

/// Reads what kind of identity an agent is to be.
pub(crate) fn kind(given: i32) -> Result<AgentKind, Fault> {
    match v1::AgentKind::try_from(given) {
        Ok(v1::AgentKind::User) => Ok(AgentKind::User),
        Ok(v1::AgentKind::Service | v1::AgentKind::Unspecified) => Ok(AgentKind::Service),
        Ok(v1::AgentKind::Bot) => Ok(AgentKind::Bot),
        Err(_) => Err(Fault::invalid("kind", "kind must be user, service or bot")),
    }
}

/// Reads what a credential is narrowed to: not at all where nothing is named.
pub(crate) fn scopes(given: Vec<String>) -> Result<Scopes, Fault> {
    if given.is_empty() {
        return Ok(Scopes::All);
    }
    let read: Result<Vec<Scope>, Fault> = given
        .into_iter()
        .map(|text| {
            text.parse()
                .map_err(|error: IdError| Fault::invalid("scopes", error.to_string()))
        })
        .collect();
    Ok(read?.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use xylem_ids::Slot;

    #[test]
    fn an_error_names_the_field_and_does_not_quote_it() {
        let fault = id::<Slot>("Canary In Here".to_owned(), "slot").unwrap_err();
        let status = tonic::Status::from(fault);
        assert!(!format!("{status:?}").contains("Canary"));
        assert!(status.message().contains("slot"));
    }

    #[test]
    fn durations_are_bounded() {
        let read = |seconds, nanos| {
            let given = Some(xylem_proto::Duration { seconds, nanos });
            duration(given, "wait", Duration::ZERO, Duration::from_secs(60)).is_ok()
        };
        assert!(read(0, 0) && read(60, 0) && read(1, 500_000_000));
        assert!(!read(61, 0) && !read(-1, 0) && !read(1, -1) && !read(i64::MAX, 0));
    }
}
