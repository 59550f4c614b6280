//! The registry's rows.

use crate::{
    Store,
    row::{Columns, RowError},
    sql::{Row, Work, statement},
};
use async_trait::async_trait;
use std::collections::BTreeSet;
use xylem_audit::Entry;
use xylem_ids::{Namespace, TaskQueue, WorkflowType};
use xylem_registry::{Storage, StorageError, WorkflowDefinition};

type Stored<T> = Result<T, StorageError>;

fn unavailable(error: sqlx::Error) -> StorageError {
    RowError::Sql(error).into()
}

#[async_trait]
impl Storage for Store {
    async fn put_definitions(
        &self,
        namespace: &Namespace,
        queue: &TaskQueue,
        definitions: &[WorkflowDefinition],
        entries: &[Entry],
    ) -> Stored<()> {
        let mut work = self.write().await.map_err(unavailable)?;
        for definition in definitions {
            put_definition(&mut work, namespace, queue, definition)
                .await
                .map_err(unavailable)?;
        }
        let committed = self.commit_with(work, entries).await;
        committed.map_err(|error| StorageError::Unavailable(Box::new(error)))
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
