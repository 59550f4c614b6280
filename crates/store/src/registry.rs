//! The registry's rows.

use crate::{
    Store,
    row::{Columns, RowError, json, seconds},
    sql::{Row, Statement, Work, statement},
};
use async_trait::async_trait;
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

/// What is read of a table, named column by column.
macro_rules! select {
    (tools $rest:literal) => {
        concat!("SELECT hash, definition FROM tools ", $rest)
    };
    (agents $rest:literal) => {
        concat!("SELECT id, roles, created_at FROM agents ", $rest)
    };
    (api_keys $rest:literal) => {
        concat!(
            "SELECT id, namespace, agent, roles, queues, created_at, expires_at, revoked_at,
                last_used_at, hash, seal FROM api_keys ",
            $rest
        )
    };
}

#[async_trait]
impl Storage for Store {
    async fn put_tool(
        &self,
        namespace: &Namespace,
        tool: &Tool,
        existing: Existing,
        now: SystemTime,
    ) -> Stored<Registered> {
        let mut work = self.write().await.map_err(unavailable)?;
        let hash = statement("SELECT hash FROM tools WHERE namespace = $1 AND name = $2")
            .bind(namespace.as_str())
            .bind(tool.name().as_str());
        let known = work.one(hash).await.map_err(unavailable)?;
        let known: Option<String> = known
            .map(|row| Columns::new(&row, "tool").raw("hash"))
            .transpose()?;
        let registered = match (known, existing) {
            (None, _) => Registered::Created,
            (Some(hash), _) if hash == tool.hash().as_str() => return Ok(Registered::Unchanged),
            (Some(_), Existing::Refuse) => return Err(StorageError::Exists),
            (Some(_), Existing::Replace) => Registered::Replaced,
        };
        upsert_tool(&mut work, namespace, tool, now)
            .await
            .map_err(unavailable)?;
        work.commit().await.map_err(unavailable)?;
        Ok(registered)
    }

    async fn tool(&self, namespace: &Namespace, name: &ToolName) -> Stored<Option<Tool>> {
        let query = statement(select!(tools "WHERE namespace = $1 AND name = $2"))
            .bind(namespace.as_str())
            .bind(name.as_str());
        self.find(query, tool).await
    }

    async fn tools(
        &self,
        namespace: &Namespace,
        after: Option<&ToolName>,
        limit: u32,
    ) -> Stored<Vec<Tool>> {
        let query =
            statement(select!(tools "WHERE namespace = $1 AND name > $2 ORDER BY name LIMIT $3"))
                .bind(namespace.as_str())
                .bind(after.map_or("", ToolName::as_str))
                .bind(limit);
        self.find_all(query, tool).await
    }

    async fn insert_agent(&self, namespace: &Namespace, agent: &Agent) -> Stored<()> {
        let mut work = self.write().await.map_err(unavailable)?;
        let query = statement(
            "INSERT INTO agents (namespace, id, roles, created_at) VALUES ($1, $2, $3, $4)",
        )
        .bind(namespace.as_str())
        .bind(agent.id.as_str())
        .bind(codes(&agent.roles))
        .bind(seconds(agent.created_at));
        work.run(query).await.map_err(insert_failed)?;
        work.commit().await.map_err(unavailable)
    }

    async fn agent(&self, namespace: &Namespace, id: &AgentId) -> Stored<Option<Agent>> {
        let query = statement(select!(agents "WHERE namespace = $1 AND id = $2"))
            .bind(namespace.as_str())
            .bind(id.as_str());
        self.find(query, agent).await
    }

    async fn agents(
        &self,
        namespace: &Namespace,
        after: Option<&AgentId>,
        limit: u32,
    ) -> Stored<Vec<Agent>> {
        let query =
            statement(select!(agents "WHERE namespace = $1 AND id > $2 ORDER BY id LIMIT $3"))
                .bind(namespace.as_str())
                .bind(after.map_or("", AgentId::as_str))
                .bind(limit);
        self.find_all(query, agent).await
    }

    async fn put_key(&self, key: &ApiKey) -> Stored<()> {
        let mut work = self.write().await.map_err(unavailable)?;
        let query = statement(
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
        .bind(key.seal.as_slice());
        work.run(query).await.map_err(unavailable)?;
        work.commit().await.map_err(unavailable)
    }

    async fn key_by_hash(&self, hash: &[u8; 32]) -> Stored<Option<ApiKey>> {
        let query = statement(select!(api_keys "WHERE hash = $1")).bind(hash.as_slice());
        self.find(query, api_key).await
    }

    async fn key(&self, namespace: &Namespace, id: &KeyId) -> Stored<Option<ApiKey>> {
        let query = statement(select!(api_keys "WHERE namespace = $1 AND id = $2"))
            .bind(namespace.as_str())
            .bind(id.as_str());
        self.find(query, api_key).await
    }

    async fn keys(
        &self,
        namespace: &Namespace,
        after: Option<&KeyId>,
        limit: u32,
    ) -> Stored<Vec<ApiKey>> {
        let query =
            statement(select!(api_keys "WHERE namespace = $1 AND id > $2 ORDER BY id LIMIT $3"))
                .bind(namespace.as_str())
                .bind(after.map_or("", KeyId::as_str))
                .bind(limit);
        self.find_all(query, api_key).await
    }

    async fn touch_key(&self, id: &KeyId, at: SystemTime) -> Stored<()> {
        let mut work = self.write().await.map_err(unavailable)?;
        let query = statement("UPDATE api_keys SET last_used_at = $2 WHERE id = $1")
            .bind(id.as_str())
            .bind(seconds(at));
        work.run(query).await.map_err(unavailable)?;
        work.commit().await.map_err(unavailable)
    }

    async fn put_definitions(
        &self,
        namespace: &Namespace,
        queue: &TaskQueue,
        definitions: &[WorkflowDefinition],
    ) -> Stored<()> {
        let mut work = self.write().await.map_err(unavailable)?;
        for definition in definitions {
            put_definition(&mut work, namespace, queue, definition)
                .await
                .map_err(unavailable)?;
        }
        work.commit().await.map_err(unavailable)
    }

    async fn definitions(
        &self,
        namespace: &Namespace,
    ) -> Stored<Vec<(TaskQueue, WorkflowDefinition)>> {
        let mut work = self.read().await.map_err(unavailable)?;
        let rows = work
            .all(
                statement(
                    "SELECT d.queue, d.workflow_type, s.slot, s.transit FROM definitions d
             LEFT JOIN definition_slots s ON s.namespace = d.namespace AND s.queue = d.queue
                AND s.workflow_type = d.workflow_type
             WHERE d.namespace = $1 ORDER BY d.queue, d.workflow_type, s.slot",
                )
                .bind(namespace.as_str()),
            )
            .await
            .map_err(unavailable)?;
        Ok(definitions(&rows)?)
    }
}

async fn upsert_tool(
    work: &mut Work,
    namespace: &Namespace,
    tool: &Tool,
    now: SystemTime,
) -> Result<(), sqlx::Error> {
    let query = statement(
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
    .bind(seconds(now));
    work.run(query).await?;
    Ok(())
}

async fn put_definition(
    work: &mut Work,
    namespace: &Namespace,
    queue: &TaskQueue,
    definition: &WorkflowDefinition,
) -> Result<(), sqlx::Error> {
    let of = definition.workflow_type.as_str();
    let query = statement(
        "INSERT INTO definitions (namespace, queue, workflow_type) VALUES ($1, $2, $3)
         ON CONFLICT DO NOTHING",
    )
    .bind(namespace.as_str())
    .bind(queue.as_str())
    .bind(of);
    work.run(query).await?;
    let query = statement(
        "DELETE FROM definition_slots WHERE namespace = $1 AND queue = $2 AND workflow_type = $3",
    )
    .bind(namespace.as_str())
    .bind(queue.as_str())
    .bind(of);
    work.run(query).await?;
    let redeems = definition.slots.iter().map(|slot| (slot, false));
    let transit = definition.transit.iter().map(|slot| (slot, true));
    for (slot, transit) in redeems.chain(transit) {
        let query = statement(
            "INSERT INTO definition_slots (namespace, queue, workflow_type, slot, transit)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(namespace.as_str())
        .bind(queue.as_str())
        .bind(of)
        .bind(slot.as_str())
        .bind(i64::from(transit));
        work.run(query).await?;
    }
    Ok(())
}

impl Store {
    async fn find<T>(
        &self,
        query: Statement,
        read: fn(&Row) -> Result<T, RowError>,
    ) -> Stored<Option<T>> {
        let mut work = self.read().await.map_err(unavailable)?;
        let row = work.one(query).await.map_err(unavailable)?;
        Ok(row.as_ref().map(read).transpose()?)
    }

    async fn find_all<T>(
        &self,
        query: Statement,
        read: fn(&Row) -> Result<T, RowError>,
    ) -> Stored<Vec<T>> {
        let mut work = self.read().await.map_err(unavailable)?;
        let rows = work.all(query).await.map_err(unavailable)?;
        let read: Result<Vec<T>, RowError> = rows.iter().map(read).collect();
        Ok(read?)
    }
}

/// A definition is checked again as it is read: what was edited into it breaks a rule or the hash.
fn tool(row: &Row) -> Result<Tool, RowError> {
    let columns = Columns::new(row, "tool");
    let tool = Tool::new(columns.json("definition")?).map_err(|_| columns.unreadable())?;
    if tool.hash().as_str() == columns.raw::<&str>("hash")? {
        Ok(tool)
    } else {
        Err(columns.unreadable())
    }
}

fn agent(row: &Row) -> Result<Agent, RowError> {
    let columns = Columns::new(row, "agent");
    Ok(Agent {
        id: columns.parsed("id")?,
        roles: roles(&columns)?,
        created_at: columns.seconds("created_at")?,
    })
}

fn api_key(row: &Row) -> Result<ApiKey, RowError> {
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

fn definitions(rows: &[Row]) -> Result<Vec<(TaskQueue, WorkflowDefinition)>, RowError> {
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
