//! The audit log in SQLite.

use crate::{
    SqliteStore,
    row::{Columns, RowError, integer},
};
use async_trait::async_trait;
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection, sqlite::SqliteRow};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use xylem_audit::{
    Activity, Entry, Filter, Kind, Log, LogError, MAX_PAGE, NodeRun, Note, Page, PageToken, Reason,
    Record, Verdict,
};
use xylem_ids::{AuditId, Epoch, Namespace, Order, Serial, TreeId, Version};

fn unavailable(error: sqlx::Error) -> LogError {
    LogError::Unavailable(Box::new(error))
}

#[async_trait]
impl Log for SqliteStore {
    async fn append(&self, entries: &[Entry]) -> Result<(), LogError> {
        let mut tx = self.write().await.map_err(unavailable)?;
        for entry in entries {
            insert(&mut tx, entry).await.map_err(unavailable)?;
        }
        tx.commit().await.map_err(unavailable)
    }

    async fn list(
        &self,
        filter: &Filter,
        after: Option<&PageToken>,
        size: u32,
    ) -> Result<Page, LogError> {
        let size = size.clamp(1, MAX_PAGE);
        let mut query = QueryBuilder::new("SELECT * FROM audit WHERE id > ");
        query.push_bind(after.map_or(0, |token| integer(token.place())));
        narrow(&mut query, filter);
        query
            .push(" ORDER BY id LIMIT ")
            .push_bind(i64::from(size) + 1);
        let mut tx = self.read().await.map_err(unavailable)?;
        let rows = query.build().fetch_all(&mut *tx).await;
        page(&rows.map_err(unavailable)?, size)
    }

    async fn end(&self) -> Result<PageToken, LogError> {
        let mut tx = self.read().await.map_err(unavailable)?;
        let last: Option<i64> = sqlx::query_scalar("SELECT MAX(id) FROM audit")
            .fetch_one(&mut *tx)
            .await
            .map_err(unavailable)?;
        Ok(PageToken::after(place(last.unwrap_or(0))))
    }
}

/// Appends one entry within somebody's transaction.
pub(crate) async fn insert(
    connection: &mut SqliteConnection,
    entry: &Entry,
) -> Result<(), sqlx::Error> {
    let tree = entry.tree.as_ref();
    let node = entry.node.as_ref();
    let order = entry.order.as_ref();
    sqlx::query(
        "INSERT INTO audit (at_ms, kind, verdict, agent, namespace, tree_workflow_id,
            tree_first_run_id, workflow_id, run_id, activity_id, attempt, tool, slot, epoch,
            version, serial, fingerprint, lease, reason, note, status, duration_ms, count)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
            $19, $20, $21, $22, $23)",
    )
    .bind(milliseconds(entry.at))
    .bind(entry.kind.code())
    .bind(entry.verdict.code())
    .bind(entry.agent.as_ref().map(|agent| agent.as_str()))
    .bind(entry.namespace.as_ref().map(|namespace| namespace.as_str()))
    .bind(tree.map(|tree| tree.workflow_id.as_str()))
    .bind(tree.map(|tree| tree.first_run_id.as_str()))
    .bind(node.map(|node| node.workflow_id.as_str()))
    .bind(
        node.and_then(|node| node.run_id.as_ref())
            .map(|run| run.as_str()),
    )
    .bind(entry.activity.as_ref().map(Activity::id))
    .bind(
        entry
            .activity
            .as_ref()
            .map(|activity| i64::from(activity.attempt())),
    )
    .bind(entry.tool.as_ref().map(|tool| tool.as_str()))
    .bind(entry.slot.as_ref().map(|slot| slot.as_str()))
    .bind(order.map(|order| i64::from(order.epoch.0)))
    .bind(order.map(|order| i64::from(order.version.0)))
    .bind(order.map(|order| i64::from(order.serial.0)))
    .bind(entry.fingerprint.as_ref().map(|print| print.as_str()))
    .bind(entry.lease.as_ref().map(|lease| lease.as_str()))
    .bind(entry.reason.as_ref().map(Reason::as_str))
    .bind(entry.note.as_ref().map(Note::as_str))
    .bind(entry.status.map(i64::from))
    .bind(entry.duration_ms.map(integer))
    .bind(integer(entry.count))
    .execute(connection)
    .await?;
    Ok(())
}

fn narrow(query: &mut QueryBuilder<Sqlite>, filter: &Filter) {
    if let Some(tree) = &filter.tree {
        query
            .push(" AND namespace = ")
            .push_bind(tree.namespace.to_string());
        query
            .push(" AND tree_workflow_id = ")
            .push_bind(tree.workflow_id.to_string());
        query
            .push(" AND tree_first_run_id = ")
            .push_bind(tree.first_run_id.to_string());
    }
    let equal = [
        (
            " AND namespace = ",
            filter.namespace.as_ref().map(ToString::to_string),
        ),
        (
            " AND workflow_id = ",
            filter.workflow_id.as_ref().map(ToString::to_string),
        ),
        (" AND kind = ", filter.kind.map(|kind| kind.to_string())),
        (
            " AND verdict = ",
            filter.verdict.map(|verdict| verdict.to_string()),
        ),
        (
            " AND agent = ",
            filter.agent.as_ref().map(ToString::to_string),
        ),
        (
            " AND tool = ",
            filter.tool.as_ref().map(ToString::to_string),
        ),
        (
            " AND slot = ",
            filter.slot.as_ref().map(ToString::to_string),
        ),
    ];
    for (condition, value) in equal {
        if let Some(value) = value {
            query.push(condition).push_bind(value);
        }
    }
    if let Some(since) = filter.since {
        query.push(" AND at_ms >= ").push_bind(milliseconds(since));
    }
    if let Some(until) = filter.until {
        query.push(" AND at_ms < ").push_bind(milliseconds(until));
    }
}

/// One row more than asked for was read: whether there is a next page.
fn page(rows: &[SqliteRow], size: u32) -> Result<Page, LogError> {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let shown = rows.get(..size).unwrap_or(rows);
    let records = shown.iter().map(record).collect::<Result<Vec<_>, _>>()?;
    let last = shown.last().map(|row| row.try_get("id")).transpose();
    let last: Option<i64> = last.map_err(unavailable)?;
    let more = rows.len() > shown.len();
    Ok(Page {
        records,
        next: last.filter(|_| more).map(|id| PageToken::after(place(id))),
    })
}

fn record(row: &SqliteRow) -> Result<Record, LogError> {
    let id: i64 = row.try_get("id").map_err(unavailable)?;
    let id: AuditId = place(id)
        .to_string()
        .parse()
        .map_err(|_| LogError::PageToken)?;
    match entry(row) {
        Ok(entry) => Ok(Record { id, entry }),
        Err(RowError::Sql(error)) => Err(unavailable(error)),
        Err(RowError::Unreadable(field)) => Err(LogError::Unreadable { id, field }),
    }
}

fn entry(row: &SqliteRow) -> Result<Entry, RowError> {
    let columns = |what| Columns::new(row, what);
    let at: u64 = columns("time").number("at_ms")?;
    let kind: &str = columns("kind").raw("kind")?;
    let verdict: &str = columns("verdict").raw("verdict")?;
    Ok(Entry {
        at: UNIX_EPOCH + Duration::from_millis(at),
        kind: Kind::from_code(kind).ok_or(RowError::Unreadable("kind"))?,
        verdict: Verdict::from_code(verdict).ok_or(RowError::Unreadable("verdict"))?,
        agent: columns("agent").optional("agent")?,
        namespace: columns("namespace").optional("namespace")?,
        tree: tree(&columns("tree"))?,
        node: node(&columns("node"))?,
        activity: activity(&columns("activity"))?,
        tool: columns("tool").optional("tool")?,
        slot: columns("slot").optional("slot")?,
        order: order(&columns("version"))?,
        fingerprint: columns("fingerprint").optional("fingerprint")?,
        lease: columns("lease").optional("lease")?,
        reason: reason(&columns("reason"))?,
        note: note(&columns("note"))?,
        status: columns("status").optional_number("status")?,
        duration_ms: columns("duration").optional_number("duration_ms")?,
        count: columns("count").number("count")?,
    })
}

fn tree(columns: &Columns<'_>) -> Result<Option<TreeId>, RowError> {
    let namespace: Option<Namespace> = columns.optional("namespace")?;
    let workflow_id = columns.optional("tree_workflow_id")?;
    let first_run_id = columns.optional("tree_first_run_id")?;
    let (Some(workflow_id), Some(first_run_id)) = (workflow_id, first_run_id) else {
        return Ok(None);
    };
    Ok(Some(TreeId {
        namespace: namespace.ok_or_else(|| columns.unreadable())?,
        workflow_id,
        first_run_id,
    }))
}

fn node(columns: &Columns<'_>) -> Result<Option<NodeRun>, RowError> {
    let run_id = columns.optional("run_id")?;
    let workflow_id = columns.optional("workflow_id")?;
    Ok(workflow_id.map(|workflow_id| NodeRun {
        workflow_id,
        run_id,
    }))
}

fn activity(columns: &Columns<'_>) -> Result<Option<Activity>, RowError> {
    let id: Option<&str> = columns.raw("activity_id")?;
    let attempt: Option<u32> = columns.optional_number("attempt")?;
    let (Some(id), Some(attempt)) = (id, attempt) else {
        return Ok(None);
    };
    let activity = Activity::new(id, attempt);
    activity.map(Some).ok_or_else(|| columns.unreadable())
}

fn order(columns: &Columns<'_>) -> Result<Option<Order>, RowError> {
    let epoch = columns.optional_number("epoch")?;
    let version = columns.optional_number("version")?;
    let serial = columns.optional_number("serial")?;
    Ok(match (epoch, version, serial) {
        (Some(epoch), Some(version), Some(serial)) => Some(Order {
            epoch: Epoch(epoch),
            version: Version(version),
            serial: Serial(serial),
        }),
        _ => None,
    })
}

fn reason(columns: &Columns<'_>) -> Result<Option<Reason>, RowError> {
    let text: Option<&str> = columns.raw("reason")?;
    text.map(|text| Reason::parse(text).ok_or_else(|| columns.unreadable()))
        .transpose()
}

fn note(columns: &Columns<'_>) -> Result<Option<Note>, RowError> {
    let text: Option<&str> = columns.raw("note")?;
    text.map(|text| Note::new(text).ok_or_else(|| columns.unreadable()))
        .transpose()
}

fn milliseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn place(id: i64) -> u64 {
    u64::try_from(id).unwrap_or(0)
}
