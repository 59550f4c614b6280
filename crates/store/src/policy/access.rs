//! The rows of requests for access.

use crate::{
    row::{Columns, RowError, integer},
    sql::{Growing, Row, Statement, statement},
};
use xylem_audit::Note;
use xylem_ids::{AccessId, AgentId, Namespace, PolicyName, ToolName};
use xylem_policy::{Access, AccessState, Decision, Wanted};
use xylem_seal::Mac;

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, namespace, agent, tool, action, policy, lasts, reason, asked_by, asked_at,
                state, decided_by, decided_at, note, own, ends_at, seal FROM access_requests ",
            $rest
        )
    };
}

pub(super) fn by_id(namespace: &Namespace, id: &AccessId) -> Statement {
    statement(select!("WHERE namespace = $1 AND id = $2"))
        .bind(namespace.as_str())
        .bind(id.as_str())
}

/// What was approved, for one tool or for any, and goes on beyond `now`.
pub(super) fn approved(
    namespace: &Namespace,
    agent: &AgentId,
    tool: Option<&ToolName>,
    now: u64,
) -> Statement {
    let mut query = Growing::new(select!("WHERE namespace = "));
    query.push_bind(namespace.as_str());
    query.push(" AND agent = ").push_bind(agent.as_str());
    if let Some(tool) = tool {
        query.push(" AND tool = ").push_bind(tool.as_str());
    }
    query.push(" AND state = 'approved' AND ends_at > ");
    query.push_bind(integer(now));
    query.push(" ORDER BY id");
    query.done()
}

pub(super) fn wanted(namespace: &Namespace, wanted: Wanted<'_>, limit: u32) -> Statement {
    let mut query = Growing::new(select!("WHERE namespace = "));
    query.push_bind(namespace.as_str());
    if let Some(agent) = wanted.of {
        query.push(" AND (agent = ").push_bind(agent.as_str());
        query.push(" OR asked_by = ").push_bind(agent.as_str());
        query.push(")");
    }
    if let Some(now) = wanted.pending_at {
        query.push(" AND state = 'pending' AND ends_at > ");
        query.push_bind(integer(now));
    }
    if let Some(after) = wanted.after {
        query.push(" AND id > ").push_bind(after.as_str());
    }
    query.push(" ORDER BY id LIMIT ").push_bind(limit);
    query.done()
}

pub(super) fn lapsed(namespace: &Namespace, now: u64, limit: u32) -> Statement {
    statement(select!(
        "WHERE namespace = $1 AND ends_at <= $2 AND state IN ('pending', 'approved')
         ORDER BY id LIMIT $3"
    ))
    .bind(namespace.as_str())
    .bind(integer(now))
    .bind(limit)
}

/// Only what became of a request changes.
pub(super) fn upsert(access: &Access) -> Statement {
    let decision = access.state.decision();
    statement(
        "INSERT INTO access_requests (id, namespace, agent, tool, action, policy, lasts, reason,
            asked_by, asked_at, state, decided_by, decided_at, note, own, ends_at, seal)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
         ON CONFLICT (id) DO UPDATE SET state = excluded.state, decided_by = excluded.decided_by,
            decided_at = excluded.decided_at, note = excluded.note, own = excluded.own,
            ends_at = excluded.ends_at, seal = excluded.seal",
    )
    .bind(access.id.as_str())
    .bind(access.namespace.as_str())
    .bind(access.agent.as_str())
    .bind(access.tool.as_str())
    .bind(access.action.code())
    .bind(access.policy.as_ref().map(PolicyName::as_str))
    .bind(integer(access.lasts))
    .bind(access.reason.as_str())
    .bind(access.asked_by.as_str())
    .bind(integer(access.asked_at))
    .bind(access.state.code())
    .bind(decision.map(|decision| decision.by.as_str()))
    .bind(decision.map(|decision| integer(decision.at)))
    .bind(decision.map(|decision| decision.note.as_str()))
    .bind(i64::from(decision.is_some_and(|decision| decision.own)))
    .bind(integer(access.state.ends()))
    .bind(access.seal.0.as_slice())
}

pub(super) fn read(row: &Row) -> Result<Access, RowError> {
    let columns = Columns::new(row, "access request");
    let note = |column: &str| -> Result<Option<Note>, RowError> {
        let text: Option<&str> = columns.raw(column)?;
        Ok(text.and_then(Note::new))
    };
    let own = columns.flag("own")?;
    let decision = match (
        columns.optional::<AgentId>("decided_by")?,
        columns.optional_number("decided_at")?,
        note("note")?,
    ) {
        (Some(by), Some(at), Some(note)) => Some(Decision { by, at, note, own }),
        _ => None,
    };
    let state =
        AccessState::from_parts(columns.raw("state")?, decision, columns.number("ends_at")?);
    Ok(Access {
        id: columns.parsed("id")?,
        namespace: columns.parsed("namespace")?,
        agent: columns.parsed("agent")?,
        tool: columns.parsed("tool")?,
        action: columns.parsed("action")?,
        policy: columns.optional("policy")?,
        lasts: columns.number("lasts")?,
        reason: note("reason")?.ok_or_else(|| columns.unreadable())?,
        asked_by: columns.parsed("asked_by")?,
        asked_at: columns.number("asked_at")?,
        state: state.ok_or_else(|| columns.unreadable())?,
        seal: Mac(columns.bytes("seal")?),
    })
}
