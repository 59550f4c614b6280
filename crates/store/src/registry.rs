//! The registry's rows.

use crate::{
    Store,
    row::{Columns, RowError, json, seconds},
    sql::{Row, Work, statement},
};
use async_trait::async_trait;
use std::{collections::BTreeSet, time::SystemTime};
use xylem_ids::{Namespace, TaskQueue, ToolName, WorkflowType};
use xylem_registry::{Existing, Registered, Storage, StorageError, Tool, WorkflowDefinition};

type Stored<T> = Result<T, StorageError>;

fn unavailable(error: sqlx::Error) -> StorageError {
    RowError::Sql(error).into()
}

/// What is read of a table, named column by column.
macro_rules! select {
    (tools $rest:literal) => {
        concat!("SELECT hash, definition FROM tools ", $rest)
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
