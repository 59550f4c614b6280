//! What is kept about an agent: what it is shown of it, and what goes when it is erased.

use super::{Stored, unavailable};
use crate::{
    Store,
    row::{Columns, RowError},
    sql::{Growing, Row, Statement, Work, statement},
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use xylem_identity::{Agent, Datum, Fact};
use xylem_ids::{AgentId, Namespace};

/// A table with rows about single agents, which the column `agent` names.
struct Kept {
    table: &'static str,
    /// What is shown; the rest are secrets, digests, seals, and the agent's name.
    shown: &'static [(&'static str, Form)],
}

#[derive(Clone, Copy)]
enum Form {
    Text,
    Number,
    Seconds,
    Milliseconds,
}

use Form::{Milliseconds, Number, Seconds, Text};

/// What is erased with an agent. `docs/privacy.md` says why each is there.
const ERASED: &[Kept] = &[
    Kept {
        table: "passwords",
        shown: &[("is_long", Number)],
    },
    Kept {
        table: "invitations",
        shown: &[("expires_at", Seconds)],
    },
    Kept {
        table: "sessions",
        shown: &[
            ("id", Text),
            ("client", Text),
            ("opened_at", Seconds),
            ("rotated_at_ms", Milliseconds),
            ("idle_until", Seconds),
            ("ends_at", Seconds),
            ("ended_at", Seconds),
            ("scopes", Text),
            ("second_factor", Number),
        ],
    },
    Kept {
        table: "second_factors",
        shown: &[
            ("created_at", Seconds),
            ("confirmed_at", Seconds),
            ("last_step", Number),
        ],
    },
    Kept {
        table: "recovery_codes",
        shown: &[],
    },
    Kept {
        table: "api_keys",
        shown: &[
            ("id", Text),
            ("name", Text),
            ("scopes", Text),
            ("queues", Text),
            ("networks", Text),
            ("created_at", Seconds),
            ("expires_at", Seconds),
            ("revoked_at", Seconds),
            ("last_used_at", Seconds),
        ],
    },
    Kept {
        table: "access_requests",
        shown: &[
            ("id", Text),
            ("tool", Text),
            ("action", Text),
            ("reason", Text),
            ("asked_by", Text),
            ("asked_at", Seconds),
            ("state", Text),
            ("decided_by", Text),
            ("decided_at", Seconds),
            ("note", Text),
            ("ends_at", Seconds),
        ],
    },
    Kept {
        table: "watch_networks",
        shown: &[("network", Text), ("last_at", Milliseconds)],
    },
    Kept {
        table: "watch_tools",
        shown: &[("tool", Text), ("first_at", Milliseconds)],
    },
    Kept {
        table: "watch_hours",
        shown: &[("hour", Number), ("calls", Number)],
    },
    Kept {
        table: "usage_hours",
        shown: &[
            ("tool", Text),
            ("hour", Number),
            ("hours", Number),
            ("class", Number),
            ("calls", Number),
            ("failures", Number),
            ("denials", Number),
            ("bytes_out", Number),
            ("bytes_in", Number),
        ],
    },
    Kept {
        table: "watch_denials",
        shown: &[("at_ms", Milliseconds), ("count", Number)],
    },
];

/// What is not: the log has an end of its own, and a lease is a call that goes on.
#[cfg(test)]
const LEFT: &[&str] = &["audit", "leases", "tool_leases"];

impl Store {
    pub(super) async fn erase(
        &self,
        read: &Agent,
        agent: &Agent,
        entries: &[xylem_audit::Entry],
    ) -> Stored<()> {
        let mut work = self.write().await.map_err(unavailable)?;
        super::update_agent(&mut work, read, agent).await?;
        for kept in ERASED {
            let query = kept.delete(&agent.namespace, &agent.id);
            work.run(query).await.map_err(unavailable)?;
        }
        let query = said_about(&agent.namespace, &agent.id);
        work.run(query).await.map_err(unavailable)?;
        let now = entries.first().map_or(UNIX_EPOCH, |entry| entry.at);
        let forgotten = crate::audit::forget(&mut work, &agent.namespace, &agent.id, now);
        forgotten.await.map_err(unavailable)?;
        self.note(work, entries).await
    }

    pub(super) async fn data(&self, namespace: &Namespace, agent: &AgentId) -> Stored<Vec<Datum>> {
        let mut work = self.read().await.map_err(unavailable)?;
        let mut data = Vec::new();
        for kept in ERASED {
            data.extend(kept.read(&mut work, namespace, agent).await?);
        }
        Ok(data)
    }
}

impl Kept {
    fn delete(&self, namespace: &Namespace, agent: &AgentId) -> Statement {
        let mut query = Growing::new("DELETE FROM ");
        query.push_names([self.table]);
        of(query, namespace, agent)
    }

    async fn read(
        &self,
        work: &mut Work,
        namespace: &Namespace,
        agent: &AgentId,
    ) -> Stored<Vec<Datum>> {
        let mut query = Growing::new("SELECT ");
        let names = self.shown.iter().map(|(name, _)| *name);
        // That there is one is all that is shown of what has no column to show.
        query.push_names(names.chain(self.shown.is_empty().then_some("agent")));
        query.push(" FROM ").push_names([self.table]);
        let rows = work.all(of(query, namespace, agent)).await;
        let rows = rows.map_err(unavailable)?;
        let data = rows.iter().map(|row| self.datum(row));
        Ok(data.collect::<Result<_, RowError>>()?)
    }

    fn datum(&self, row: &Row) -> Result<Datum, RowError> {
        let columns = Columns::new(row, self.table);
        let mut fields = Vec::new();
        for (name, form) in self.shown {
            let fact = match form {
                Text => columns.raw::<Option<String>>(name)?.map(Fact::Text),
                Number => columns.raw::<Option<i64>>(name)?.map(Fact::Number),
                Seconds => time(&columns, name, Duration::from_secs)?,
                Milliseconds => time(&columns, name, Duration::from_millis)?,
            };
            fields.extend(fact.map(|fact| (*name, fact)));
        }
        Ok(Datum {
            record: self.table,
            fields,
        })
    }
}

/// What alerts were about is the agent, or the agent and where or what.
fn said_about(namespace: &Namespace, agent: &AgentId) -> Statement {
    let further = format!("{agent}/");
    statement(
        "DELETE FROM watch_alerts
         WHERE namespace = $1 AND (about = $2 OR substr(about, 1, length($3)) = $3)",
    )
    .bind(namespace.as_str())
    .bind(agent.as_str())
    .bind(further)
}

fn of(mut query: Growing, namespace: &Namespace, agent: &AgentId) -> Statement {
    query.push(" WHERE namespace = ");
    query.push_bind(namespace.as_str());
    query.push(" AND agent = ").push_bind(agent.as_str());
    query.done()
}

fn time(
    columns: &Columns<'_>,
    name: &str,
    unit: fn(u64) -> Duration,
) -> Result<Option<Fact>, RowError> {
    let since: Option<u64> = columns.optional_number(name)?;
    let at = since.map(|since| UNIX_EPOCH.checked_add(unit(since)));
    Ok(at.map(|at: Option<SystemTime>| Fact::Time(at.unwrap_or(UNIX_EPOCH))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCS: &str = include_str!("../../../../docs/privacy.md");

    /// The names that a query finds in the schema of a new database.
    async fn names(query: &'static str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::sqlite(&folder.path().join("db")).await.unwrap();
        let mut work = store.read().await.unwrap();
        let rows = work.all(statement(query)).await.unwrap();
        rows.iter().map(|row| row.column("name").unwrap()).collect()
    }

    /// Whoever makes a table with something about agents says here what becomes of it.
    #[tokio::test]
    async fn every_table_about_agents_is_erased_or_left_on_purpose_and_documented() {
        let query = "SELECT t.name AS name FROM sqlite_schema t JOIN pragma_table_info(t.name) c
                     WHERE t.type = 'table' AND c.name = 'agent' ORDER BY t.name";
        let found = names(query).await;
        let mut known: Vec<_> = ERASED.iter().map(|kept| kept.table).collect();
        known.extend(LEFT);
        known.sort_unstable();
        assert_eq!(found, known);
        for table in known {
            assert!(DOCS.contains(&format!("`{table}`")), "{table}");
        }
    }

    /// Every column of text: of each table those that name an agent or hold what somebody wrote or where
    /// somebody was, and the rest. Numbers, times, digests and ciphertexts name nobody.
    const TEXTS: &[(&str, &str, &str)] = &[
        (
            "access_requests",
            "agent asked_by decided_by note reason",
            "action id namespace policy state tool",
        ),
        (
            "agents",
            "created_by id issuer subject",
            "kind namespace roles",
        ),
        (
            "api_keys",
            "agent name networks",
            "id namespace queues scopes",
        ),
        (
            "audit",
            "agent body owner subject",
            "kind namespace slot tool tree_first_run_id tree_workflow_id verdict workflow_id",
        ),
        ("audit_archiving", "", "holder"),
        ("audit_checkpoints", "", "signed"),
        ("audit_people", "person", "namespace"),
        ("audit_segments", "", "file"),
        (
            "credential_bindings",
            "created_by",
            "name namespace slot workflow_type",
        ),
        (
            "credential_providers",
            "",
            "broken fruitless name namespace probe_url provider",
        ),
        (
            "credential_sources",
            "",
            "broken client_id fruitless name namespace oauth refresh_id",
        ),
        (
            "credential_versions",
            "depositor",
            "fingerprint name namespace request secret_id state",
        ),
        ("credentials", "owner", "audiences data_key name namespace"),
        ("definition_slots", "", "namespace queue slot workflow_type"),
        ("definitions", "", "namespace queue workflow_type"),
        ("epoch", "", "state"),
        ("invitations", "agent", "namespace"),
        ("keys", "", "id purpose wrapped_by"),
        (
            "leases",
            "agent",
            "activity_id id run_id slot start_id tool workflow_id",
        ),
        ("passwords", "agent hash", "id namespace"),
        ("policies", "author document", "name namespace"),
        ("policy_sets", "", "namespace"),
        ("policy_usage", "subject", "namespace of_what per policy"),
        ("recovery_codes", "agent", "namespace"),
        ("revoked_tokens", "", "id"),
        ("second_factors", "agent", "namespace"),
        ("secrets", "", "data_key id"),
        ("sessions", "agent client", "id namespace password scopes"),
        ("signing_keys", "", "id"),
        ("single_calls", "", "activity_id lease_id request run_id"),
        ("slots", "", "exclusions slot start_id"),
        (
            "tool_leases",
            "agent",
            "activity_id credential id run_id start_id tool workflow_id",
        ),
        (
            "tool_records",
            "approved_by approved_published_by owner published_by retired_by",
            "approved_hash approved_slot hash name namespace search slot state",
        ),
        ("tool_tags", "", "name namespace tag"),
        (
            "tool_versions",
            "decided_by definition published_by reason",
            "decision hash name namespace slot",
        ),
        ("tools", "", "definition hash name namespace slot"),
        (
            "trees",
            "owner",
            "data_key first_run_id namespace request start_id state tools workflow_id",
        ),
        ("usage_hours", "agent", "namespace tool"),
        (
            "versions",
            "depositor",
            "audiences credential fingerprint issued_grant issuer request secret_id slot start_id state",
        ),
        ("watch_alerts", "about", "namespace rule"),
        ("watch_cursors", "", "namespace"),
        ("watch_deliveries", "", "namespace state"),
        ("watch_denials", "agent", "namespace"),
        ("watch_hours", "agent", "namespace"),
        ("watch_networks", "agent network", "namespace"),
        ("watch_tools", "agent", "namespace tool"),
    ];

    /// Whoever adds a column says here whether it is about somebody, and in the document what it is for.
    #[tokio::test]
    async fn every_column_that_is_about_somebody_is_documented() {
        let query = "SELECT t.name || '.' || c.name AS name
                     FROM sqlite_schema t JOIN pragma_table_info(t.name) c
                     WHERE t.type = 'table' AND c.type = 'TEXT' AND t.name <> '_sqlx_migrations'
                     ORDER BY 1";
        let found = names(query).await;
        let mut known: Vec<String> = Vec::new();
        for (table, personal, other) in TEXTS {
            let columns = personal.split(' ').chain(other.split(' '));
            let columns = columns.filter(|column| !column.is_empty());
            known.extend(columns.map(|column| format!("{table}.{column}")));
            let documented = DOCS.contains(&format!("`{table}`"));
            assert!(documented || personal.is_empty(), "{table}: {personal}");
        }
        known.sort_unstable();
        assert_eq!(found, known);
    }
}
