//! The rows of tools.

use crate::{
    Store,
    row::{Columns, RowError, integer, json, seconds},
    sql::{Growing, Row, Statement, Work, statement},
};
use async_trait::async_trait;
use std::time::SystemTime;
use xylem_audit::{Entry, Note};
use xylem_ids::{Namespace, Slot, ToolName};
use xylem_registry::{
    Approval, Decided, Decision, DefinitionHash, Published, RecordRow, Retirement, StorageError,
    Tool, ToolChange, ToolFilter, ToolStorage, ToolVersion,
};
use xylem_seal::Mac;

type Stored<T> = Result<T, StorageError>;

fn unavailable(error: sqlx::Error) -> StorageError {
    RowError::Sql(error).into()
}

/// The columns of a record, from the table under this name.
macro_rules! record {
    ($before:literal, $rest:literal) => {
        concat!(
            "SELECT r.name, r.revision, r.owner, r.version, r.hash, r.slot, r.published_by,
                r.published_at, r.latest, r.staged, r.rejected, r.approved_version,
                r.approved_hash, r.approved_slot, r.approved_published_by,
                r.approved_published_at, r.approved_by, r.approved_at, r.approved_own,
                r.retired_by, r.retired_at, r.stops_calls, r.deleted, r.created_at, r.seal",
            $before,
            " FROM tool_records r ",
            $rest
        )
    };
}

/// The record of one tool.
fn one_record(namespace: &Namespace, name: &ToolName) -> Statement {
    statement(record!("", "WHERE r.namespace = $1 AND r.name = $2"))
        .bind(namespace.as_str())
        .bind(name.as_str())
}

/// The record of one tool, and the definition that was approved.
pub(crate) fn record_and_approved(namespace: &Namespace, name: &ToolName) -> Statement {
    statement(record!(
        ", v.definition",
        "LEFT JOIN tool_versions v ON v.namespace = r.namespace AND v.name = r.name
            AND v.version = r.approved_version
         WHERE r.namespace = $1 AND r.name = $2"
    ))
    .bind(namespace.as_str())
    .bind(name.as_str())
}

#[async_trait]
impl ToolStorage for Store {
    async fn record(&self, namespace: &Namespace, name: &ToolName) -> Stored<Option<RecordRow>> {
        let mut work = self.read().await.map_err(unavailable)?;
        let row = work.one(one_record(namespace, name)).await;
        let row = row.map_err(unavailable)?;
        Ok(row.as_ref().map(record_row).transpose()?)
    }

    async fn definition(
        &self,
        namespace: &Namespace,
        name: &ToolName,
        version: u32,
    ) -> Stored<Option<Tool>> {
        let query = statement(
            "SELECT hash AS definition_hash, definition FROM tool_versions
             WHERE namespace = $1 AND name = $2 AND version = $3",
        )
        .bind(namespace.as_str())
        .bind(name.as_str())
        .bind(version);
        let mut work = self.read().await.map_err(unavailable)?;
        let row = work.one(query).await.map_err(unavailable)?;
        Ok(row.as_ref().map(definition).transpose()?)
    }

    async fn versions(
        &self,
        namespace: &Namespace,
        name: &ToolName,
        before: Option<u32>,
        limit: u32,
    ) -> Stored<Vec<ToolVersion>> {
        let query = statement(
            "SELECT version, hash, slot, published_by, published_at, decision, decided_by,
                decided_at, reason FROM tool_versions
             WHERE namespace = $1 AND name = $2 AND version < $3 ORDER BY version DESC LIMIT $4",
        )
        .bind(namespace.as_str())
        .bind(name.as_str())
        .bind(before.map_or(i64::MAX, i64::from))
        .bind(limit);
        let mut work = self.read().await.map_err(unavailable)?;
        let rows = work.all(query).await.map_err(unavailable)?;
        let read: Result<Vec<_>, RowError> = rows.iter().map(version).collect();
        Ok(read?)
    }

    async fn find(
        &self,
        namespace: &Namespace,
        filter: &ToolFilter,
        after: Option<&ToolName>,
        limit: u32,
    ) -> Stored<Vec<(RecordRow, Tool)>> {
        let query = found(namespace, filter, after, limit);
        let mut work = self.read().await.map_err(unavailable)?;
        let rows = work.all(query).await.map_err(unavailable)?;
        let read: Result<Vec<_>, RowError> = rows
            .iter()
            .map(|row| Ok((record_row(row)?, definition(row)?)))
            .collect();
        Ok(read?)
    }

    async fn change(
        &self,
        namespace: &Namespace,
        changes: &[ToolChange<'_>],
        now: SystemTime,
    ) -> Stored<()> {
        let mut work = self.write().await.map_err(unavailable)?;
        for change in changes {
            make(&mut work, namespace, change, now).await?;
        }
        let entries: Vec<Entry> = changes.iter().map(|it| it.entry.clone()).collect();
        let committed = self.commit_with(work, &entries).await;
        committed.map_err(|error| StorageError::Unavailable(Box::new(error)))
    }
}

/// What a search asks the database.
fn found(
    namespace: &Namespace,
    filter: &ToolFilter,
    after: Option<&ToolName>,
    limit: u32,
) -> Statement {
    let mut query = Growing::new(record!(
        ", v.hash AS definition_hash, v.definition",
        "JOIN tool_versions v ON v.namespace = r.namespace AND v.name = r.name
            AND v.version = r.version
         WHERE r.deleted = 0 AND r.namespace = "
    ));
    query.push_bind(namespace.as_str());
    query.push(" AND r.name > ");
    query.push_bind(after.map_or("", ToolName::as_str));
    for word in filter.lower_words() {
        query.push(" AND r.search LIKE ");
        query.push_bind(format!("%{}%", literal(word)));
        query.push(" ESCAPE '\\'");
    }
    for tag in &filter.tags {
        query.push(
            " AND EXISTS (SELECT 1 FROM tool_tags t WHERE t.namespace = r.namespace
                AND t.name = r.name AND t.tag = ",
        );
        query.push_bind(tag.as_str());
        query.push(")");
    }
    if let Some(state) = filter.state {
        query.push(" AND r.state = ");
        query.push_bind(state.code());
    }
    if let Some(owner) = &filter.owner {
        query.push(" AND r.owner = ");
        query.push_bind(owner.as_str());
    }
    query.push(" ORDER BY r.name LIMIT ");
    query.push_bind(limit);
    query.done()
}

/// Text that stands for itself in LIKE.
fn literal(word: &str) -> String {
    let mut escaped = String::with_capacity(word.len());
    for c in word.chars() {
        if matches!(c, '%' | '_' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

async fn make(
    work: &mut Work,
    namespace: &Namespace,
    change: &ToolChange<'_>,
    now: SystemTime,
) -> Stored<()> {
    let name = &change.row.name;
    match change.replaces {
        None => insert(work, namespace, change).await?,
        Some(revision) => update(work, namespace, change, revision).await?,
    }
    if let Some(tool) = change.publish {
        publish(work, namespace, &change.row.current, tool).await?;
    }
    if let Some(tool) = change.current {
        index(work, namespace, tool).await?;
    }
    if let Some((version, decision)) = &change.decision {
        decide(work, namespace, name, *version, decision).await?;
    }
    if change.row.deleted {
        if in_use(work, namespace, name, now).await? {
            return Err(StorageError::InUse);
        }
        for table in [
            "DELETE FROM tool_versions WHERE namespace = $1 AND name = $2",
            "DELETE FROM tool_tags WHERE namespace = $1 AND name = $2",
        ] {
            let query = statement(table)
                .bind(namespace.as_str())
                .bind(name.as_str());
            work.run(query).await.map_err(unavailable)?;
        }
    }
    Ok(())
}

/// Whoever comes second finds the name taken.
async fn insert(work: &mut Work, namespace: &Namespace, change: &ToolChange<'_>) -> Stored<()> {
    let query = statement(
        "INSERT INTO tool_records (revision, owner, version, hash, slot, published_by,
            published_at, latest, staged, rejected, approved_version, approved_hash,
            approved_slot, approved_published_by, approved_published_at, approved_by,
            approved_at, approved_own, retired_by, retired_at, stops_calls, deleted, created_at,
            seal, state, search, namespace, name)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
            $19, $20, $21, $22, $23, $24, $25, '', $26, $27)
         ON CONFLICT (namespace, name) DO NOTHING",
    );
    let query = bound(query, change)
        .bind(namespace.as_str())
        .bind(change.row.name.as_str());
    match work.run(query).await.map_err(unavailable)? {
        0 => Err(StorageError::Exists),
        _ => Ok(()),
    }
}

/// Whoever comes second finds another revision.
async fn update(
    work: &mut Work,
    namespace: &Namespace,
    change: &ToolChange<'_>,
    revision: u64,
) -> Stored<()> {
    let query = statement(
        "UPDATE tool_records SET revision = $1, owner = $2, version = $3, hash = $4, slot = $5,
            published_by = $6, published_at = $7, latest = $8, staged = $9, rejected = $10,
            approved_version = $11, approved_hash = $12, approved_slot = $13,
            approved_published_by = $14, approved_published_at = $15, approved_by = $16,
            approved_at = $17, approved_own = $18, retired_by = $19, retired_at = $20,
            stops_calls = $21, deleted = $22, created_at = $23, seal = $24, state = $25
         WHERE namespace = $26 AND name = $27 AND revision = $28",
    );
    let query = bound(query, change)
        .bind(namespace.as_str())
        .bind(change.row.name.as_str())
        .bind(integer(revision));
    match work.run(query).await.map_err(unavailable)? {
        0 => Err(StorageError::Changed),
        _ => Ok(()),
    }
}

/// What both bind, in this order.
fn bound(query: Statement, change: &ToolChange<'_>) -> Statement {
    let row = &change.row;
    let (approval, retired) = (row.approval.as_ref(), row.retired.as_ref());
    let of = approval.map(|it| &it.of);
    query
        .bind(integer(row.revision))
        .bind(row.owner.as_ref().map(|it| it.as_str()))
        .bind(row.current.version)
        .bind(row.current.hash.as_str())
        .bind(slot_text(&row.current.slot))
        .bind(row.current.by.as_ref().map(|it| it.as_str()))
        .bind(seconds(row.current.at))
        .bind(row.latest)
        .bind(i64::from(row.staged))
        .bind(i64::from(row.rejected))
        .bind(of.map(|it| i64::from(it.version)))
        .bind(of.map(|it| it.hash.as_str()))
        .bind(of.map(|it| slot_text(&it.slot)))
        .bind(of.and_then(|it| it.by.as_ref()).map(|it| it.as_str()))
        .bind(of.map(|it| seconds(it.at)))
        .bind(approval.map(|it| it.by.as_str()))
        .bind(approval.map(|it| seconds(it.at)))
        .bind(approval.map(|it| i64::from(it.own)))
        .bind(retired.map(|it| it.by.as_str()))
        .bind(retired.map(|it| seconds(it.at)))
        .bind(retired.map(|it| i64::from(it.stops_calls)))
        .bind(i64::from(row.deleted))
        .bind(seconds(row.created_at))
        .bind(row.seal.map(|Mac(seal)| seal.to_vec()))
        .bind(change.state.code())
}

async fn publish(
    work: &mut Work,
    namespace: &Namespace,
    published: &Published,
    tool: &Tool,
) -> Stored<()> {
    let query = statement(
        "INSERT INTO tool_versions (namespace, name, version, hash, slot, definition,
            published_by, published_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(namespace.as_str())
    .bind(tool.name().as_str())
    .bind(published.version)
    .bind(published.hash.as_str())
    .bind(slot_text(&published.slot))
    .bind(json(tool.definition()))
    .bind(published.by.as_ref().map(|it| it.as_str()))
    .bind(seconds(published.at));
    work.run(query).await.map_err(unavailable)?;
    Ok(())
}

/// What the tool is found by from now on.
async fn index(work: &mut Work, namespace: &Namespace, tool: &Tool) -> Stored<()> {
    let definition = tool.definition();
    let tags: Vec<&str> = definition.tags.iter().map(|tag| tag.as_str()).collect();
    let text = format!(
        "{}\n{}\n{}",
        definition.name,
        definition.description,
        tags.join(" ")
    );
    let named = |sql| {
        statement(sql)
            .bind(namespace.as_str())
            .bind(definition.name.as_str())
    };
    let sql = "UPDATE tool_records SET search = $3 WHERE namespace = $1 AND name = $2";
    let search = named(sql).bind(text.to_lowercase());
    work.run(search).await.map_err(unavailable)?;
    let before = named("DELETE FROM tool_tags WHERE namespace = $1 AND name = $2");
    work.run(before).await.map_err(unavailable)?;
    for tag in tags {
        let sql = "INSERT INTO tool_tags (namespace, name, tag) VALUES ($1, $2, $3)";
        work.run(named(sql).bind(tag)).await.map_err(unavailable)?;
    }
    Ok(())
}

async fn decide(
    work: &mut Work,
    namespace: &Namespace,
    name: &ToolName,
    version: u32,
    decision: &Decision,
) -> Stored<()> {
    let query = statement(
        "UPDATE tool_versions SET decision = $4, decided_by = $5, decided_at = $6, reason = $7
         WHERE namespace = $1 AND name = $2 AND version = $3",
    )
    .bind(namespace.as_str())
    .bind(name.as_str())
    .bind(version)
    .bind(decision.decided.code())
    .bind(decision.by.as_str())
    .bind(seconds(decision.at))
    .bind(decision.reason.as_ref().map(Note::as_str));
    work.run(query).await.map_err(unavailable)?;
    Ok(())
}

/// Whether a tree that is not stopped may call it, or a call is under way.
async fn in_use(
    work: &mut Work,
    namespace: &Namespace,
    name: &ToolName,
    now: SystemTime,
) -> Stored<bool> {
    let query = statement(
        "SELECT 1 AS used FROM trees WHERE namespace = $1
            AND state NOT IN ('stopped', 'terminated') AND tools LIKE $2 ESCAPE '\\'
         UNION ALL
         SELECT 1 AS used FROM leases l JOIN trees t ON t.start_id = l.start_id
         WHERE t.namespace = $1 AND l.tool = $3 AND l.released_at IS NULL AND l.expires_at > $4
         UNION ALL
         SELECT 1 AS used FROM tool_leases l JOIN trees t ON t.start_id = l.start_id
         WHERE t.namespace = $1 AND l.tool = $3 AND l.released_at IS NULL AND l.expires_at > $4
         LIMIT 1",
    )
    .bind(namespace.as_str())
    // The tools of a tree are a list of JSON strings, and no name needs an escape there.
    .bind(format!("%\"{}\"%", literal(name.as_str())))
    .bind(name.as_str())
    .bind(seconds(now));
    Ok(work.one(query).await.map_err(unavailable)?.is_some())
}

pub(crate) fn record_row(row: &Row) -> Result<RecordRow, RowError> {
    let columns = Columns::new(row, "tool");
    let approved: Option<u32> = columns.optional_number("approved_version")?;
    let retired = columns.optional_seconds("retired_at")?;
    let seal: Option<&[u8]> = columns.raw("seal")?;
    let seal = seal.map(|seal| seal.try_into().map(Mac)).transpose();
    Ok(RecordRow {
        name: columns.parsed("name")?,
        revision: columns.number("revision")?,
        owner: columns.optional("owner")?,
        current: Published {
            version: columns.number("version")?,
            hash: hash(&columns, "hash")?,
            slot: slot(&columns, "slot")?,
            by: columns.optional("published_by")?,
            at: columns.seconds("published_at")?,
        },
        latest: columns.number("latest")?,
        staged: columns.flag("staged")?,
        rejected: columns.flag("rejected")?,
        approval: approved
            .map(|version| approval(&columns, version))
            .transpose()?,
        retired: retired.map(|at| retirement(&columns, at)).transpose()?,
        deleted: columns.flag("deleted")?,
        created_at: columns.seconds("created_at")?,
        seal: seal.map_err(|_| columns.unreadable())?,
    })
}

/// Slots are never empty: that stands for none.
fn slot_text(slot: &Option<Slot>) -> &str {
    slot.as_ref().map_or("", Slot::as_str)
}

fn slot(columns: &Columns<'_>, column: &str) -> Result<Option<Slot>, RowError> {
    match columns.raw::<&str>(column)? {
        "" => Ok(None),
        _ => columns.optional(column),
    }
}

fn approval(columns: &Columns<'_>, version: u32) -> Result<Approval, RowError> {
    Ok(Approval {
        of: Published {
            version,
            hash: hash(columns, "approved_hash")?,
            slot: slot(columns, "approved_slot")?,
            by: columns.optional("approved_published_by")?,
            at: columns.seconds("approved_published_at")?,
        },
        by: columns.parsed("approved_by")?,
        at: columns.seconds("approved_at")?,
        own: columns.flag("approved_own")?,
    })
}

fn retirement(columns: &Columns<'_>, at: SystemTime) -> Result<Retirement, RowError> {
    Ok(Retirement {
        by: columns.parsed("retired_by")?,
        at,
        stops_calls: columns.flag("stops_calls")?,
    })
}

fn hash(columns: &Columns<'_>, column: &str) -> Result<DefinitionHash, RowError> {
    let text: &str = columns.raw(column)?;
    DefinitionHash::parse(text).ok_or_else(|| columns.unreadable())
}

/// A definition is checked again as it is read: what was edited into it breaks a rule or the hash.
fn definition(row: &Row) -> Result<Tool, RowError> {
    let columns = Columns::new(row, "tool");
    let tool = Tool::new(columns.json("definition")?).map_err(|_| columns.unreadable())?;
    if tool.hash().as_str() == columns.raw::<&str>("definition_hash")? {
        Ok(tool)
    } else {
        Err(columns.unreadable())
    }
}

fn version(row: &Row) -> Result<ToolVersion, RowError> {
    let columns = Columns::new(row, "tool version");
    let decided: Option<&str> = columns.raw("decision")?;
    let decision = decided.map(|code| decision(&columns, code)).transpose()?;
    Ok(ToolVersion {
        published: Published {
            version: columns.number("version")?,
            hash: hash(&columns, "hash")?,
            slot: slot(&columns, "slot")?,
            by: columns.optional("published_by")?,
            at: columns.seconds("published_at")?,
        },
        decision,
    })
}

fn decision(columns: &Columns<'_>, code: &str) -> Result<Decision, RowError> {
    let decided = Decided::ALL.into_iter().find(|it| it.code() == code);
    let reason: Option<&str> = columns.raw("reason")?;
    Ok(Decision {
        decided: decided.ok_or_else(|| columns.unreadable())?,
        by: columns.parsed("decided_by")?,
        at: columns.seconds("decided_at")?,
        reason: reason.and_then(Note::new),
    })
}
