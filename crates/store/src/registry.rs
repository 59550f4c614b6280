//! The registry's rows in SQLite.

use crate::{
    SqliteStore,
    row::{Columns, RowError, json, seconds},
};
use async_trait::async_trait;
use sqlx::{SqliteConnection, sqlite::SqliteRow};
use std::{collections::BTreeSet, time::SystemTime};
use xylem_ids::{AgentId, KeyId, Namespace, TaskQueue, ToolName, WorkflowType};
use xylem_registry::{
    Agent, ApiKey, Existing, Registered, Role, Roles, Storage, StorageError, Tool,
    WorkflowDefinition,
};

type Stored<T> = Result<T, StorageError>;

fn unavailable(error: sqlx::Error) -> StorageError {
    RowError::Sql(error).into()
}

/// A name that is taken is told apart from a database that does not answer.
fn insert_failed(error: sqlx::Error) -> StorageError {
    match error.as_database_error() {
        Some(refused) if refused.is_unique_violation() => StorageError::Exists,
        _ => unavailable(error),
    }
}

#[async_trait]
impl Storage for SqliteStore {
    async fn put_tool(
        &self,
        namespace: &Namespace,
        tool: &Tool,
        existing: Existing,
        now: SystemTime,
    ) -> Stored<Registered> {
        let mut tx = self.write().await.map_err(unavailable)?;
        let known: Option<String> =
            sqlx::query_scalar("SELECT hash FROM tools WHERE namespace = $1 AND name = $2")
                .bind(namespace.as_str())
                .bind(tool.name().as_str())
                .fetch_optional(&mut *tx)
                .await
                .map_err(unavailable)?;
        let registered = match (known, existing) {
            (None, _) => Registered::Created,
            (Some(hash), _) if hash == tool.hash().as_str() => return Ok(Registered::Unchanged),
            (Some(_), Existing::Refuse) => return Err(StorageError::Exists),
            (Some(_), Existing::Replace) => Registered::Replaced,
        };
        upsert_tool(&mut tx, namespace, tool, now)
            .await
            .map_err(unavailable)?;
        tx.commit().await.map_err(unavailable)?;
        Ok(registered)
    }

    async fn tool(&self, namespace: &Namespace, name: &ToolName) -> Stored<Option<Tool>> {
        let mut tx = self.read().await.map_err(unavailable)?;
        let row = sqlx::query("SELECT * FROM tools WHERE namespace = $1 AND name = $2")
            .bind(namespace.as_str())
            .bind(name.as_str())
            .fetch_optional(&mut *tx)
            .await
            .map_err(unavailable)?;
        Ok(row.as_ref().map(tool).transpose()?)
    }

    async fn tools(
        &self,
        namespace: &Namespace,
        after: Option<&ToolName>,
        limit: u32,
    ) -> Stored<Vec<Tool>> {
        let mut tx = self.read().await.map_err(unavailable)?;
        let rows = sqlx::query(
            "SELECT * FROM tools WHERE namespace = $1 AND name > $2 ORDER BY name LIMIT $3",
        )
        .bind(namespace.as_str())
        .bind(after.map_or("", ToolName::as_str))
        .bind(limit)
        .fetch_all(&mut *tx)
        .await
        .map_err(unavailable)?;
        all(&rows, tool)
    }

    async fn insert_agent(&self, namespace: &Namespace, agent: &Agent) -> Stored<()> {
        let mut tx = self.write().await.map_err(unavailable)?;
        sqlx::query(
            "INSERT INTO agents (namespace, id, roles, created_at) VALUES ($1, $2, $3, $4)",
        )
        .bind(namespace.as_str())
        .bind(agent.id.as_str())
        .bind(codes(&agent.roles))
        .bind(seconds(agent.created_at))
        .execute(&mut *tx)
        .await
        .map_err(insert_failed)?;
        tx.commit().await.map_err(unavailable)
    }

    async fn agent(&self, namespace: &Namespace, id: &AgentId) -> Stored<Option<Agent>> {
        let mut tx = self.read().await.map_err(unavailable)?;
        let row = sqlx::query("SELECT * FROM agents WHERE namespace = $1 AND id = $2")
            .bind(namespace.as_str())
            .bind(id.as_str())
            .fetch_optional(&mut *tx)
            .await
            .map_err(unavailable)?;
        Ok(row.as_ref().map(agent).transpose()?)
    }

    async fn agents(
        &self,
        namespace: &Namespace,
        after: Option<&AgentId>,
        limit: u32,
    ) -> Stored<Vec<Agent>> {
        let mut tx = self.read().await.map_err(unavailable)?;
        let rows = sqlx::query(
            "SELECT * FROM agents WHERE namespace = $1 AND id > $2 ORDER BY id LIMIT $3",
        )
        .bind(namespace.as_str())
        .bind(after.map_or("", AgentId::as_str))
        .bind(limit)
        .fetch_all(&mut *tx)
        .await
        .map_err(unavailable)?;
        all(&rows, agent)
    }

    async fn put_key(&self, key: &ApiKey) -> Stored<()> {
        let mut tx = self.write().await.map_err(unavailable)?;
        sqlx::query(
            "INSERT INTO api_keys (id, namespace, agent, roles, queues, created_at, expires_at,
                revoked_at, last_used_at, hash, seal)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
             ON CONFLICT (id) DO UPDATE SET revoked_at = excluded.revoked_at, seal = excluded.seal",
        )
        .bind(key.id.as_str())
        .bind(key.namespace.as_str())
        .bind(key.agent.as_str())
        .bind(codes(&key.roles))
        .bind(json(&key.queues))
        .bind(seconds(key.created_at))
        .bind(key.expires_at.map(seconds))
        .bind(key.revoked_at.map(seconds))
        .bind(key.last_used_at.map(seconds))
        .bind(key.hash.as_slice())
        .bind(key.seal.as_slice())
        .execute(&mut *tx)
        .await
        .map_err(unavailable)?;
        tx.commit().await.map_err(unavailable)
    }

    async fn key_by_hash(&self, hash: &[u8; 32]) -> Stored<Option<ApiKey>> {
        let mut tx = self.read().await.map_err(unavailable)?;
        let row = sqlx::query("SELECT * FROM api_keys WHERE hash = $1")
            .bind(hash.as_slice())
            .fetch_optional(&mut *tx)
            .await
            .map_err(unavailable)?;
        Ok(row.as_ref().map(api_key).transpose()?)
    }

    async fn key(&self, namespace: &Namespace, id: &KeyId) -> Stored<Option<ApiKey>> {
        let mut tx = self.read().await.map_err(unavailable)?;
        let row = sqlx::query("SELECT * FROM api_keys WHERE namespace = $1 AND id = $2")
            .bind(namespace.as_str())
            .bind(id.as_str())
            .fetch_optional(&mut *tx)
            .await
            .map_err(unavailable)?;
        Ok(row.as_ref().map(api_key).transpose()?)
    }

    async fn keys(
        &self,
        namespace: &Namespace,
        after: Option<&KeyId>,
        limit: u32,
    ) -> Stored<Vec<ApiKey>> {
        let mut tx = self.read().await.map_err(unavailable)?;
        let rows = sqlx::query(
            "SELECT * FROM api_keys WHERE namespace = $1 AND id > $2 ORDER BY id LIMIT $3",
        )
        .bind(namespace.as_str())
        .bind(after.map_or("", KeyId::as_str))
        .bind(limit)
        .fetch_all(&mut *tx)
        .await
        .map_err(unavailable)?;
        all(&rows, api_key)
    }

    async fn touch_key(&self, id: &KeyId, at: SystemTime) -> Stored<()> {
        let mut tx = self.write().await.map_err(unavailable)?;
        sqlx::query("UPDATE api_keys SET last_used_at = $2 WHERE id = $1")
            .bind(id.as_str())
            .bind(seconds(at))
            .execute(&mut *tx)
            .await
            .map_err(unavailable)?;
        tx.commit().await.map_err(unavailable)
    }

    async fn put_definitions(
        &self,
        namespace: &Namespace,
        queue: &TaskQueue,
        definitions: &[WorkflowDefinition],
    ) -> Stored<()> {
        let mut tx = self.write().await.map_err(unavailable)?;
        for definition in definitions {
            put_definition(&mut tx, namespace, queue, definition)
                .await
                .map_err(unavailable)?;
        }
        tx.commit().await.map_err(unavailable)
    }

    async fn definitions(
        &self,
        namespace: &Namespace,
    ) -> Stored<Vec<(TaskQueue, WorkflowDefinition)>> {
        let mut tx = self.read().await.map_err(unavailable)?;
        let rows = sqlx::query(
            "SELECT d.queue, d.workflow_type, s.slot, s.transit FROM definitions d
             LEFT JOIN definition_slots s ON s.namespace = d.namespace AND s.queue = d.queue
                AND s.workflow_type = d.workflow_type
             WHERE d.namespace = $1 ORDER BY d.queue, d.workflow_type, s.slot",
        )
        .bind(namespace.as_str())
        .fetch_all(&mut *tx)
        .await
        .map_err(unavailable)?;
        Ok(definitions(&rows)?)
    }
}

async fn upsert_tool(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    tool: &Tool,
    now: SystemTime,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO tools (namespace, name, slot, hash, definition, created_at, changed_at)
         VALUES ($1, $2, $3, $4, $5, $6, $6)
         ON CONFLICT (namespace, name) DO UPDATE SET slot = excluded.slot, hash = excluded.hash,
            definition = excluded.definition, changed_at = excluded.changed_at",
    )
    .bind(namespace.as_str())
    .bind(tool.name().as_str())
    .bind(tool.slot().as_str())
    .bind(tool.hash().as_str())
    .bind(json(tool.definition()))
    .bind(seconds(now))
    .execute(connection)
    .await?;
    Ok(())
}

async fn put_definition(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    queue: &TaskQueue,
    definition: &WorkflowDefinition,
) -> Result<(), sqlx::Error> {
    let of = definition.workflow_type.as_str();
    sqlx::query(
        "INSERT INTO definitions (namespace, queue, workflow_type) VALUES ($1, $2, $3)
         ON CONFLICT DO NOTHING",
    )
    .bind(namespace.as_str())
    .bind(queue.as_str())
    .bind(of)
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "DELETE FROM definition_slots WHERE namespace = $1 AND queue = $2 AND workflow_type = $3",
    )
    .bind(namespace.as_str())
    .bind(queue.as_str())
    .bind(of)
    .execute(&mut *connection)
    .await?;
    let redeems = definition.slots.iter().map(|slot| (slot, false));
    let transit = definition.transit.iter().map(|slot| (slot, true));
    for (slot, transit) in redeems.chain(transit) {
        sqlx::query(
            "INSERT INTO definition_slots (namespace, queue, workflow_type, slot, transit)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(namespace.as_str())
        .bind(queue.as_str())
        .bind(of)
        .bind(slot.as_str())
        .bind(i64::from(transit))
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

fn all<T>(rows: &[SqliteRow], read: fn(&SqliteRow) -> Result<T, RowError>) -> Stored<Vec<T>> {
    let read: Result<Vec<T>, RowError> = rows.iter().map(read).collect();
    Ok(read?)
}

/// A definition is checked again as it is read: what was edited into it breaks a rule or the hash.
fn tool(row: &SqliteRow) -> Result<Tool, RowError> {
    let columns = Columns::new(row, "tool");
    let tool = Tool::new(columns.json("definition")?).map_err(|_| columns.unreadable())?;
    if tool.hash().as_str() == columns.raw::<&str>("hash")? {
        Ok(tool)
    } else {
        Err(columns.unreadable())
    }
}

fn agent(row: &SqliteRow) -> Result<Agent, RowError> {
    let columns = Columns::new(row, "agent");
    Ok(Agent {
        id: columns.parsed("id")?,
        roles: roles(&columns)?,
        created_at: columns.seconds("created_at")?,
    })
}

fn api_key(row: &SqliteRow) -> Result<ApiKey, RowError> {
    let columns = Columns::new(row, "API key");
    Ok(ApiKey {
        id: columns.parsed("id")?,
        namespace: columns.parsed("namespace")?,
        agent: columns.parsed("agent")?,
        roles: roles(&columns)?,
        queues: columns.json("queues")?,
        created_at: columns.seconds("created_at")?,
        expires_at: columns.optional_seconds("expires_at")?,
        revoked_at: columns.optional_seconds("revoked_at")?,
        last_used_at: columns.optional_seconds("last_used_at")?,
        hash: columns.bytes("hash")?,
        seal: columns.bytes("seal")?,
    })
}

fn definitions(rows: &[SqliteRow]) -> Result<Vec<(TaskQueue, WorkflowDefinition)>, RowError> {
    let mut found: Vec<(TaskQueue, WorkflowDefinition)> = Vec::new();
    for row in rows {
        let columns = Columns::new(row, "workflow definition");
        let queue: TaskQueue = columns.parsed("queue")?;
        let workflow_type: WorkflowType = columns.parsed("workflow_type")?;
        let same = found
            .last()
            .is_some_and(|(of, last)| *of == queue && last.workflow_type == workflow_type);
        if !same {
            let definition = WorkflowDefinition {
                workflow_type,
                slots: BTreeSet::new(),
                transit: BTreeSet::new(),
            };
            found.push((queue, definition));
        }
        let slot = columns.optional("slot")?;
        if let (Some(slot), Some((_, definition))) = (slot, found.last_mut()) {
            let into = if columns.flag("transit")? {
                &mut definition.transit
            } else {
                &mut definition.slots
            };
            into.insert(slot);
        }
    }
    Ok(found)
}

fn codes(roles: &Roles) -> String {
    let codes: Vec<&str> = roles.iter().map(|role| role.code()).collect();
    json(&codes)
}

fn roles(columns: &Columns<'_>) -> Result<Roles, RowError> {
    let codes: Vec<String> = columns.json("roles")?;
    codes
        .iter()
        .map(|code| code.parse::<Role>().map_err(|_| columns.unreadable()))
        .collect()
}
