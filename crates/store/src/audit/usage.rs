//! How often tools were called.

use super::unavailable;
use crate::{
    Store,
    row::{Columns, RowError, integer},
    sql::{Growing, Row, Statement, Work, statement},
};
use xylem_audit::{By, CLASSES, Called, Counts, LogError, Period, Usage, UsageKey, UsageQuery};
use xylem_ids::Namespace;

/// Adds rows to those that are there.
macro_rules! add {
    ($rows:literal) => {
        concat!(
            "INSERT INTO usage_hours (namespace, agent, tool, hour, hours, class,
                 calls, failures, denials, bytes_out, bytes_in) ",
            $rows,
            " ON CONFLICT (namespace, hour, hours, agent, tool, class) DO UPDATE SET
                 calls = usage_hours.calls + excluded.calls,
                 failures = usage_hours.failures + excluded.failures,
                 denials = usage_hours.denials + excluded.denials,
                 bytes_out = usage_hours.bytes_out + excluded.bytes_out,
                 bytes_in = usage_hours.bytes_in + excluded.bytes_in"
        )
    };
}

const ADD: &str = add!("VALUES ($1, $2, $3, $4, 1, $5, $6, $7, $8, $9, $10)");

// `WHERE true` tells SQLite that ON belongs to the insertion and not to a join.
const FOLD: &str = add!(
    "SELECT * FROM (
     SELECT namespace, agent, tool, hour / 24 * 24 AS day, 24 AS hours, class,
         CAST(SUM(calls) AS BIGINT), CAST(SUM(failures) AS BIGINT), CAST(SUM(denials) AS BIGINT),
         CAST(SUM(bytes_out) AS BIGINT), CAST(SUM(bytes_in) AS BIGINT)
     FROM usage_hours WHERE namespace = $1 AND hours = 1 AND hour < $2
     GROUP BY namespace, agent, tool, hour / 24 * 24, class
 ) AS days WHERE true"
);

const FOLDED: &str = "DELETE FROM usage_hours WHERE namespace = $1 AND hours = 1 AND hour < $2";

pub(super) async fn add(work: &mut Work, called: &Called<'_>) -> Result<(), LogError> {
    let query = statement(ADD)
        .bind(called.namespace.as_str())
        .bind(called.agent.as_str())
        .bind(called.tool.as_str());
    let counts = called.counts;
    let numbers = [
        called.hour,
        called.class,
        counts.calls,
        counts.failures,
        counts.denials,
        counts.bytes_out,
        counts.bytes_in,
    ];
    let numbers = numbers.into_iter().map(integer);
    let query = numbers.fold(query, Statement::bind);
    work.run(query).await.map(drop).map_err(unavailable)
}

pub(super) async fn fold(
    work: &mut Work,
    namespace: &Namespace,
    hour: u64,
) -> Result<(), LogError> {
    for sql in [FOLD, FOLDED] {
        let query = statement(sql).bind(namespace.as_str());
        work.run(query.bind(integer(hour)))
            .await
            .map_err(unavailable)?;
    }
    Ok(())
}

pub(super) async fn list(
    store: &Store,
    namespace: &Namespace,
    query: &UsageQuery,
    after: Option<&UsageKey>,
    limit: u32,
) -> Result<Vec<Usage>, LogError> {
    // One row for each class of durations.
    let rows = limit.saturating_mul(CLASSES);
    let mut work = store.read().await.map_err(unavailable)?;
    let found = work.all(select(namespace, query, after, rows)).await;
    let mut usage: Vec<Usage> = Vec::new();
    for row in &found.map_err(unavailable)? {
        let row = super::watch::read(class(row))?;
        match usage.last_mut() {
            Some(last) if last.key == row.key => {
                last.hours = last.hours.max(row.hours);
                last.counts.add(row.counts);
                last.durations.extend(row.durations);
            }
            _ => usage.push(row),
        }
    }
    usage.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(usage)
}

fn select(
    namespace: &Namespace,
    query: &UsageQuery,
    after: Option<&UsageKey>,
    rows: u32,
) -> Statement {
    let mut sql = Growing::new("SELECT * FROM (SELECT ");
    sql.push(match query.per {
        Period::Hour => "hour AS begins, ",
        Period::Day => "hour / 24 * 24 AS begins, ",
        Period::All => "CAST(0 AS BIGINT) AS begins, ",
    });
    sql.push(match query.by {
        By::AgentAndTool => "agent AS who, tool AS what, ",
        By::Agent => "agent AS who, '' AS what, ",
        By::Tool => "'' AS who, tool AS what, ",
    });
    sql.push(
        "class, MAX(hours) AS hours, CAST(SUM(calls) AS BIGINT) AS calls,
         CAST(SUM(failures) AS BIGINT) AS failures, CAST(SUM(denials) AS BIGINT) AS denials,
         CAST(SUM(bytes_out) AS BIGINT) AS bytes_out, CAST(SUM(bytes_in) AS BIGINT) AS bytes_in
         FROM usage_hours WHERE namespace = ",
    );
    sql.push_bind(namespace.as_str());
    sql.push(" AND hour >= ").push_bind(integer(query.from));
    sql.push(" AND hour < ").push_bind(integer(query.until));
    if let Some(agent) = &query.agent {
        sql.push(" AND agent = ").push_bind(agent.as_str());
    }
    if let Some(tool) = &query.tool {
        sql.push(" AND tool = ").push_bind(tool.as_str());
    }
    sql.push(" GROUP BY 1, 2, 3, 4) AS counted");
    if let Some(after) = after {
        sql.push(" WHERE (begins, who, what) > (");
        sql.push_bind(integer(after.hour)).push(", ");
        sql.push_bind(after.agent.as_str()).push(", ");
        sql.push_bind(after.tool.as_str()).push(")");
    }
    sql.push(" ORDER BY begins, who, what, class LIMIT ");
    sql.push_bind(rows);
    sql.done()
}

/// The counts of one class of durations.
fn class(row: &Row) -> Result<Usage, RowError> {
    let columns = Columns::new(row, "usage");
    let calls = columns.number("calls")?;
    let durations = match calls {
        0 => Vec::new(),
        calls => vec![(columns.number("class")?, calls)],
    };
    Ok(Usage {
        key: UsageKey {
            hour: columns.number("begins")?,
            agent: columns.raw::<&str>("who")?.to_owned(),
            tool: columns.raw::<&str>("what")?.to_owned(),
        },
        hours: columns.number("hours")?,
        counts: Counts {
            calls,
            failures: columns.number("failures")?,
            denials: columns.number("denials")?,
            bytes_out: columns.number("bytes_out")?,
            bytes_in: columns.number("bytes_in")?,
        },
        durations,
    })
}
