//! The vault's rows.

mod credential;
mod read;
mod write;

use crate::{
    Store,
    row::{Columns, RowError, integer},
    sql::{Row, Statement, Work, statement},
    tools::{record_and_approved, record_row},
};
use async_trait::async_trait;
pub(crate) use read::wraps;
use read::{
    epoch_row, key_row, lease_row, owned_key, secret_row, select, single_call_row, slot_row,
    tool_lease_row, tree_row, version_row,
};
use xylem_audit::{Entry, LogError};
use xylem_grant::UnixSeconds;
use xylem_ids::{
    KeyId, LeaseId, Namespace, RunId, Slot, TaskQueue, ToolName, TreeId, Version, WorkflowId,
    WorkflowType,
};
use xylem_vault::{
    CredentialMark, EpochRow, EpochState, KeyRow, LeaseRow, OpenLeases, OwnedKey, Purpose,
    RequestId, SecretId, SecretRow, SingleCall, SlotRow, SlotUse, StartId, Storage, StorageError,
    ToolFacts, Transaction, TreeRow, VersionRow, Wraps,
};

type Stored<T> = Result<T, StorageError>;

fn unavailable(error: sqlx::Error) -> StorageError {
    RowError::Sql(error).into()
}

/// An audit log that was edited takes nothing any more, and what has an entry does not happen.
fn not_appended(error: LogError) -> StorageError {
    match error {
        LogError::Tampered(_) => StorageError::Unreadable {
            what: "end of the audit log",
        },
        error => StorageError::Unavailable(Box::new(error)),
    }
}

/// What is wrapped by other key-encryption keys than this one, but for data keys that nobody has.
pub(crate) fn wrapped_by_others(current: &str) -> Statement {
    statement(
        "SELECT k.wrapped_by, COUNT(*) AS number FROM keys k
         WHERE (k.wrapped_by < $1 OR k.wrapped_by > $1) AND (k.purpose NOT IN ('tree', 'credential')
            OR EXISTS (SELECT 1 FROM trees t WHERE t.data_key = k.id)
            OR EXISTS (SELECT 1 FROM credentials c WHERE c.data_key = k.id))
         GROUP BY k.wrapped_by ORDER BY k.wrapped_by",
    )
    .bind(current)
}

/// Notes that the vault in this database comes from a backup.
pub(crate) fn restored() -> Statement {
    statement("UPDATE epoch SET state = $1").bind(EpochState::Restored.code())
}

#[async_trait]
impl Storage for Store {
    async fn begin(&self) -> Stored<Box<dyn Transaction>> {
        let work = self.write().await.map_err(unavailable)?;
        Ok(Box::new(StoreTransaction::new(work, self)))
    }

    async fn begin_read(&self) -> Stored<Box<dyn Transaction>> {
        let work = self.read().await.map_err(unavailable)?;
        Ok(Box::new(StoreTransaction::new(work, self)))
    }
}

pub(crate) struct StoreTransaction {
    pub(crate) work: Work,
    /// What is to be appended to the audit log at the end.
    pub(crate) entries: Vec<Entry>,
    store: Store,
}

impl StoreTransaction {
    pub(crate) fn new(work: Work, store: &Store) -> Self {
        Self {
            work,
            entries: Vec::new(),
            store: store.clone(),
        }
    }

    async fn one<T>(
        &mut self,
        statement: Statement,
        read: fn(&Row) -> Result<T, RowError>,
    ) -> Stored<Option<T>> {
        let row = self.work.one(statement).await.map_err(unavailable)?;
        Ok(row.as_ref().map(read).transpose()?)
    }

    async fn all<T>(
        &mut self,
        statement: Statement,
        read: fn(&Row) -> Result<T, RowError>,
    ) -> Stored<Vec<T>> {
        let rows = self.work.all(statement).await.map_err(unavailable)?;
        let read: Result<Vec<T>, RowError> = rows.iter().map(read).collect();
        Ok(read?)
    }

    async fn run(&mut self, statement: Statement) -> Stored<u64> {
        self.work.run(statement).await.map_err(unavailable)
    }
}

/// What is bound of an identifier.
fn text(value: impl ToString) -> String {
    value.to_string()
}

#[async_trait]
impl Transaction for StoreTransaction {
    async fn commit(self: Box<Self>) -> Stored<()> {
        let Self {
            work,
            entries,
            store,
        } = *self;
        if entries.is_empty() {
            return work.commit().await.map_err(unavailable);
        }
        let committed = store.commit_with(work, &entries).await;
        committed.map_err(not_appended)
    }

    async fn audit(&mut self, entry: &Entry) -> Stored<()> {
        self.entries.push(entry.clone());
        Ok(())
    }

    async fn epoch(&mut self) -> Stored<Option<EpochRow>> {
        let query = statement(select!(epoch "WHERE \"only\" = 1"));
        self.one(query, epoch_row).await
    }

    async fn put_epoch(&mut self, row: &EpochRow) -> Stored<()> {
        self.run(write::epoch(row)).await.map(drop)
    }

    async fn keys(&mut self, purpose: Purpose) -> Stored<Vec<KeyRow>> {
        let query = statement(select!(keys "WHERE purpose = $1 ORDER BY generation, id"));
        self.all(query.bind(purpose.code()), key_row).await
    }

    async fn key(&mut self, id: &KeyId) -> Stored<Option<KeyRow>> {
        let query = statement(select!(keys "WHERE id = $1"));
        self.one(query.bind(text(id)), key_row).await
    }

    async fn put_key(&mut self, row: &KeyRow) -> Stored<()> {
        self.run(write::key(row)).await.map(drop)
    }

    async fn delete_key(&mut self, id: &KeyId) -> Stored<()> {
        let query = statement("DELETE FROM keys WHERE id = $1").bind(text(id));
        self.run(query).await.map(drop)
    }

    async fn wrapped_by_others(&mut self, current: &KeyId) -> Stored<Vec<Wraps>> {
        let others = self.all(wrapped_by_others(current.as_str()), wraps).await?;
        Ok(others.into_iter().flatten().collect())
    }

    async fn keys_of_others(
        &mut self,
        current: &KeyId,
        after: Option<&KeyId>,
        limit: u32,
    ) -> Stored<Vec<OwnedKey>> {
        let query = statement(
            "SELECT k.id, k.purpose, k.generation, k.wrapped_by, k.nonce, k.wrapped, t.start_id,
                t.workflow_id, c.namespace AS credential_namespace, c.name AS credential_name
             FROM keys k LEFT JOIN trees t ON t.data_key = k.id
                LEFT JOIN credentials c ON c.data_key = k.id
             WHERE k.wrapped_by <> $1 AND k.id > $2 AND (k.purpose NOT IN ('tree', 'credential')
                OR t.start_id IS NOT NULL OR c.name IS NOT NULL)
             ORDER BY k.id LIMIT $3",
        )
        .bind(text(current))
        .bind(after.map(text).unwrap_or_default())
        .bind(limit);
        self.all(query, owned_key).await
    }

    async fn replace_key(&mut self, read: &KeyRow, with: &KeyRow) -> Stored<bool> {
        let replaced = self.run(write::replaced_key(read, with)).await?;
        Ok(replaced > 0)
    }

    async fn tree(&mut self, start: &StartId) -> Stored<Option<TreeRow>> {
        let query = statement(select!(trees "WHERE start_id = $1"));
        self.one(query.bind(text(start)), tree_row).await
    }

    async fn tree_by_id(&mut self, id: &TreeId) -> Stored<Option<TreeRow>> {
        let query = statement(
            select!(trees "WHERE namespace = $1 AND workflow_id = $2 AND first_run_id = $3"),
        )
        .bind(text(&id.namespace))
        .bind(text(&id.workflow_id))
        .bind(text(&id.first_run_id));
        self.one(query, tree_row).await
    }

    async fn tree_by_request(
        &mut self,
        namespace: &Namespace,
        request: &RequestId,
    ) -> Stored<Option<TreeRow>> {
        let query = statement(select!(trees "WHERE namespace = $1 AND request = $2"));
        let query = query.bind(text(namespace)).bind(text(request));
        self.one(query, tree_row).await
    }

    async fn newest_tree(
        &mut self,
        namespace: &Namespace,
        workflow_id: &WorkflowId,
    ) -> Stored<Option<TreeRow>> {
        let query = statement(select!(trees "WHERE namespace = $1 AND workflow_id = $2
             ORDER BY stopped_at IS NOT NULL AND first_run_id IS NULL, opened_as DESC LIMIT 1"));
        let query = query.bind(text(namespace)).bind(text(workflow_id));
        self.one(query, tree_row).await
    }

    async fn trees(
        &mut self,
        namespace: &Namespace,
        after: Option<&StartId>,
        limit: u32,
    ) -> Stored<Vec<TreeRow>> {
        let query = statement(
            select!(trees "WHERE namespace = $1 AND (CAST($2 AS TEXT) IS NULL OR opened_as <
                (SELECT opened_as FROM trees WHERE start_id = $2))
             ORDER BY opened_as DESC LIMIT $3"),
        )
        .bind(text(namespace))
        .bind(after.map(text))
        .bind(limit);
        self.all(query, tree_row).await
    }

    async fn starting_trees(&mut self) -> Stored<Vec<TreeRow>> {
        let query = statement(select!(trees "WHERE state = 'starting' ORDER BY opened_as"));
        self.all(query, tree_row).await
    }

    async fn put_tree(&mut self, row: &TreeRow) -> Stored<()> {
        self.run(write::tree(row)).await.map(drop)
    }

    async fn slot(&mut self, start: &StartId, slot: &Slot) -> Stored<Option<SlotRow>> {
        let query = statement(select!(slots "WHERE start_id = $1 AND slot = $2"));
        self.one(query.bind(text(start)).bind(text(slot)), slot_row)
            .await
    }

    async fn slots(&mut self, start: &StartId) -> Stored<Vec<SlotRow>> {
        let query = statement(select!(slots "WHERE start_id = $1 ORDER BY slot"));
        self.all(query.bind(text(start)), slot_row).await
    }

    async fn put_slot(&mut self, row: &SlotRow) -> Stored<()> {
        self.run(write::slot(row)).await.map(drop)
    }

    async fn versions(&mut self, start: &StartId) -> Stored<Vec<VersionRow>> {
        let query = statement(select!(versions "WHERE start_id = $1 ORDER BY slot, version"));
        self.all(query.bind(text(start)), version_row).await
    }

    async fn version(
        &mut self,
        start: &StartId,
        slot: &Slot,
        version: Version,
    ) -> Stored<Option<VersionRow>> {
        let query =
            statement(select!(versions "WHERE start_id = $1 AND slot = $2 AND version = $3"))
                .bind(text(start))
                .bind(text(slot))
                .bind(version.0);
        self.one(query, version_row).await
    }

    async fn active_version(&mut self, start: &StartId, slot: &Slot) -> Stored<Option<VersionRow>> {
        let query =
            statement(select!(versions "WHERE start_id = $1 AND slot = $2 AND state = 'active'"));
        self.one(query.bind(text(start)).bind(text(slot)), version_row)
            .await
    }

    async fn version_by_request(
        &mut self,
        start: &StartId,
        request: &RequestId,
    ) -> Stored<Option<VersionRow>> {
        let query = statement(select!(versions "WHERE start_id = $1 AND request = $2"));
        self.one(query.bind(text(start)).bind(text(request)), version_row)
            .await
    }

    async fn active_versions(&mut self, before: Option<UnixSeconds>) -> Stored<Vec<VersionRow>> {
        let query = statement(
            select!(versions "WHERE state = 'active' AND expires_at < $1 AND EXISTS (
                SELECT 1 FROM trees
                WHERE trees.start_id = versions.start_id AND trees.state = 'bound')
             ORDER BY start_id, slot"),
        )
        .bind(before.map_or(i64::MAX, |before| integer(before.0)));
        self.all(query, version_row).await
    }

    async fn put_version(&mut self, row: &VersionRow) -> Stored<()> {
        self.run(write::version(row)).await.map(drop)
    }

    async fn secret(&mut self, id: &SecretId) -> Stored<Option<SecretRow>> {
        let query = statement(select!(secrets "WHERE id = $1"));
        self.one(query.bind(text(id)), secret_row).await
    }

    async fn put_secret(&mut self, row: &SecretRow) -> Stored<()> {
        self.run(write::secret(row)).await.map(drop)
    }

    async fn delete_secret(&mut self, id: &SecretId) -> Stored<()> {
        let query = statement("DELETE FROM secrets WHERE id = $1").bind(text(id));
        self.run(query).await.map(drop)
    }

    async fn lease(&mut self, id: &LeaseId) -> Stored<Option<LeaseRow>> {
        let query = statement(select!(leases "WHERE id = $1"));
        if let Some(row) = self.one(query.bind(text(id)), lease_row).await? {
            return Ok(Some(row));
        }
        let query = statement(select!(tool_leases "WHERE id = $1"));
        self.one(query.bind(text(id)), tool_lease_row).await
    }

    async fn put_lease(&mut self, row: &LeaseRow) -> Stored<()> {
        self.run(write::lease(row)).await.map(drop)
    }

    async fn open_leases(
        &mut self,
        start: &StartId,
        slot: &Slot,
        version: Version,
        now: UnixSeconds,
    ) -> Stored<OpenLeases> {
        let query = statement(
            "SELECT COUNT(*) AS open, COALESCE(MAX(expires_at), 0) AS until FROM leases
             WHERE start_id = $1 AND slot = $2 AND version = $3 AND released_at IS NULL
                AND expires_at > $4",
        )
        .bind(text(start))
        .bind(text(slot))
        .bind(version.0)
        .bind(integer(now.0));
        let open = self.one(query, open_leases).await?;
        Ok(open.unwrap_or_default())
    }

    async fn open_credential_leases(
        &mut self,
        namespace: &Namespace,
        mark: &CredentialMark,
        now: UnixSeconds,
    ) -> Stored<OpenLeases> {
        let query = statement(
            "SELECT COUNT(*) AS open, COALESCE(MAX(l.expires_at), 0) AS until FROM tool_leases l
             JOIN trees t ON t.start_id = l.start_id
             WHERE l.credential = $1 AND l.version = $2 AND l.released_at IS NULL
                AND l.expires_at > $3 AND t.namespace = $4",
        )
        .bind(text(&mark.name))
        .bind(mark.version.0)
        .bind(integer(now.0))
        .bind(text(namespace));
        let open = self.one(query, open_leases).await?;
        Ok(open.unwrap_or_default())
    }

    async fn single_call(&mut self, run: &RunId, activity: &str) -> Stored<Option<SingleCall>> {
        let query = statement(
            "SELECT lease_id, request FROM single_calls WHERE run_id = $1 AND activity_id = $2",
        );
        let query = query.bind(text(run)).bind(activity);
        self.one(query, single_call_row).await
    }

    async fn put_single_call(
        &mut self,
        lease: &LeaseRow,
        request: Option<&RequestId>,
    ) -> Stored<()> {
        let query = statement(
            "INSERT INTO single_calls (run_id, activity_id, lease_id, began_at, request)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(text(&lease.run_id))
        .bind(lease.activity.id())
        .bind(text(&lease.id))
        .bind(integer(lease.opened_at.0))
        .bind(request.map(text));
        self.run(query).await.map(drop)
    }

    async fn delete_single_call(&mut self, lease: &LeaseRow) -> Stored<()> {
        let query = statement(
            "DELETE FROM single_calls WHERE run_id = $1 AND activity_id = $2 AND lease_id = $3",
        )
        .bind(text(&lease.run_id))
        .bind(lease.activity.id())
        .bind(text(&lease.id));
        self.run(query).await.map(drop)
    }

    async fn delete_single_calls(&mut self, before: UnixSeconds) -> Stored<()> {
        let query = statement("DELETE FROM single_calls WHERE began_at < $1");
        self.run(query.bind(integer(before.0))).await.map(drop)
    }

    async fn lapsed_leases(&mut self, before: UnixSeconds, limit: u32) -> Stored<Vec<LeaseRow>> {
        let query = statement(
            select!(leases "WHERE expires_at < $1 AND released_at IS NULL
             ORDER BY expires_at, id LIMIT $2"),
        );
        let query = query.bind(integer(before.0)).bind(limit);
        let mut lapsed = self.all(query, lease_row).await?;
        if lapsed.is_empty() {
            let query = statement(
                select!(tool_leases "WHERE expires_at < $1 AND released_at IS NULL
                 ORDER BY expires_at, id LIMIT $2"),
            );
            let query = query.bind(integer(before.0)).bind(limit);
            lapsed = self.all(query, tool_lease_row).await?;
        }
        Ok(lapsed)
    }

    async fn delete_leases(&mut self, before: UnixSeconds) -> Stored<u64> {
        let of_slots = statement("DELETE FROM leases WHERE expires_at < $1");
        let of_tools = statement("DELETE FROM tool_leases WHERE expires_at < $1");
        let of_slots = self.run(of_slots.bind(integer(before.0))).await?;
        let of_tools = self.run(of_tools.bind(integer(before.0))).await?;
        Ok(of_slots.saturating_add(of_tools))
    }

    async fn slot_use(
        &mut self,
        namespace: &Namespace,
        queue: &TaskQueue,
        workflow_type: &WorkflowType,
        slot: &Slot,
    ) -> Stored<SlotUse> {
        let query = statement(
            "SELECT transit FROM definition_slots
             WHERE namespace = $1 AND queue = $2 AND workflow_type = $3 AND slot = $4",
        )
        .bind(text(namespace))
        .bind(text(queue))
        .bind(text(workflow_type))
        .bind(text(slot));
        let found = self.one(query, slot_use).await?;
        Ok(found.unwrap_or(SlotUse::Undeclared))
    }

    async fn tool(&mut self, namespace: &Namespace, name: &ToolName) -> Stored<Option<ToolFacts>> {
        self.one(record_and_approved(namespace, name), tool_facts)
            .await
    }
}

fn open_leases(row: &Row) -> Result<OpenLeases, RowError> {
    let columns = Columns::new(row, "lease");
    Ok(OpenLeases {
        count: columns.number("open")?,
        until: UnixSeconds(columns.number("until")?),
    })
}

fn slot_use(row: &Row) -> Result<SlotUse, RowError> {
    let transit = Columns::new(row, "workflow definition").flag("transit")?;
    Ok(if transit {
        SlotUse::Transit
    } else {
        SlotUse::Redeems
    })
}

fn tool_facts(row: &Row) -> Result<ToolFacts, RowError> {
    let columns = Columns::new(row, "tool");
    let definition: Option<&str> = columns.raw("definition")?;
    let read = |text| serde_json::from_str(text).map_err(|_| columns.unreadable());
    Ok(ToolFacts {
        record: record_row(row)?,
        approved: definition.map(read).transpose()?,
    })
}
