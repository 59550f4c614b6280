//! The rows of policies.

mod access;

use crate::{
    Store,
    identity::by_name,
    row::{Columns, RowError, integer},
    sql::{Growing, Row, Statement, statement},
    vault::StoreTransaction,
};
use async_trait::async_trait;
use xylem_audit::Entry;
use xylem_identity::Agent;
use xylem_ids::{AccessId, AgentId, Namespace, PolicyName, ToolName};
use xylem_policy::{
    Access, Changes, Counter, CounterKey, PolicyRow, Rows, SetRow, Storage, StorageError, Wanted,
};
use xylem_seal::Mac;

type Stored<T> = Result<T, StorageError>;

fn unavailable(error: sqlx::Error) -> StorageError {
    RowError::Sql(error).into()
}

fn failed(error: xylem_vault::StorageError) -> StorageError {
    match error {
        xylem_vault::StorageError::Unavailable(cause) => StorageError::Unavailable(cause),
        xylem_vault::StorageError::Unreadable { what } => StorageError::Unreadable { what },
    }
}

/// What is read of a table, named column by column.
macro_rules! select {
    (policies $rest:literal) => {
        concat!(
            "SELECT namespace, name, version, document, retired, author, at, seal FROM policies ",
            $rest
        )
    };
}

#[async_trait]
impl Storage for Store {
    async fn begin_changes(&self) -> Stored<Box<dyn Changes>> {
        let work = self.write().await.map_err(unavailable)?;
        Ok(Box::new(StoreTransaction::new(work, self)))
    }

    async fn begin_look(&self) -> Stored<Box<dyn Rows>> {
        let work = self.read().await.map_err(unavailable)?;
        Ok(Box::new(StoreTransaction::new(work, self)))
    }
}

#[async_trait]
impl Changes for StoreTransaction {
    async fn note(&mut self, entry: &Entry) -> Stored<()> {
        self.entries.push(entry.clone());
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Stored<()> {
        let committed = xylem_vault::Transaction::commit(self).await;
        committed.map_err(failed)
    }
}

impl StoreTransaction {
    async fn find<T>(
        &mut self,
        query: Statement,
        read: fn(&Row) -> Result<T, RowError>,
    ) -> Stored<Option<T>> {
        let row = self.work.one(query).await.map_err(unavailable)?;
        Ok(row.as_ref().map(read).transpose()?)
    }

    async fn find_all<T>(
        &mut self,
        query: Statement,
        read: fn(&Row) -> Result<T, RowError>,
    ) -> Stored<Vec<T>> {
        let rows = self.work.all(query).await.map_err(unavailable)?;
        let read: Result<Vec<T>, RowError> = rows.iter().map(read).collect();
        Ok(read?)
    }

    async fn change(&mut self, query: Statement) -> Stored<u64> {
        self.work.run(query).await.map_err(unavailable)
    }
}

#[async_trait]
impl Rows for StoreTransaction {
    async fn policy_set(&mut self, namespace: &Namespace) -> Stored<Option<SetRow>> {
        let query =
            statement("SELECT namespace, generation, seal FROM policy_sets WHERE namespace = $1");
        self.find(query.bind(namespace.as_str()), set_row).await
    }

    async fn put_policy_set(&mut self, row: &SetRow) -> Stored<()> {
        let query = statement(
            "INSERT INTO policy_sets (namespace, generation, seal) VALUES ($1, $2, $3)
             ON CONFLICT (namespace) DO UPDATE SET generation = excluded.generation,
                seal = excluded.seal",
        )
        .bind(row.namespace.as_str())
        .bind(integer(row.generation))
        .bind(row.seal.0.to_vec());
        self.change(query).await.map(drop)
    }

    async fn policies(&mut self, namespace: &Namespace) -> Stored<Vec<PolicyRow>> {
        let query = statement(
            select!(policies "WHERE namespace = $1 AND version = (SELECT MAX(newer.version)
                FROM policies newer
                WHERE newer.namespace = policies.namespace AND newer.name = policies.name)
             ORDER BY name"),
        );
        self.find_all(query.bind(namespace.as_str()), policy_row)
            .await
    }

    async fn policy(
        &mut self,
        namespace: &Namespace,
        name: &PolicyName,
        version: u32,
    ) -> Stored<Option<PolicyRow>> {
        let query =
            statement(select!(policies "WHERE namespace = $1 AND name = $2 AND version = $3"))
                .bind(namespace.as_str())
                .bind(name.as_str())
                .bind(version);
        self.find(query, policy_row).await
    }

    async fn insert_policy(&mut self, row: &PolicyRow) -> Stored<()> {
        let query = statement(
            "INSERT INTO policies (namespace, name, version, document, retired, author, at, seal)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(row.namespace.as_str())
        .bind(row.name.as_str())
        .bind(row.version)
        .bind(row.document.as_str())
        .bind(i64::from(row.retired))
        .bind(row.author.as_str())
        .bind(integer(row.at))
        .bind(row.seal.0.to_vec());
        self.change(query).await.map(drop)
    }

    async fn usage(
        &mut self,
        namespace: &Namespace,
        keys: &[CounterKey],
    ) -> Stored<Vec<(CounterKey, Counter)>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut query = Growing::new(
            "SELECT policy, per, of_what, subject, started_at, used FROM policy_usage
             WHERE namespace = ",
        );
        query.push_bind(namespace.as_str());
        query.push(" AND (policy, per, of_what, subject) IN (VALUES ");
        query.push_rows(keys.iter().map(|key| {
            let text = |text: &str| text.to_owned();
            [
                text(policy_text(key)),
                text(key.per.code()),
                text(key.of.code()),
                text(&key.subject),
            ]
        }));
        query.push(")");
        self.find_all(query.done(), counter).await
    }

    async fn put_usage(
        &mut self,
        namespace: &Namespace,
        key: &CounterKey,
        counter: Counter,
    ) -> Stored<()> {
        let query = statement(
            "INSERT INTO policy_usage (namespace, policy, per, of_what, subject, started_at, used)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (namespace, policy, per, of_what, subject) DO UPDATE
                SET started_at = excluded.started_at, used = excluded.used",
        )
        .bind(namespace.as_str())
        .bind(policy_text(key))
        .bind(key.per.code())
        .bind(key.of.code())
        .bind(key.subject.as_str())
        .bind(integer(counter.started_at))
        .bind(counter.used);
        self.change(query).await.map(drop)
    }

    async fn delete_usage(&mut self, before: u64) -> Stored<u64> {
        let query = statement("DELETE FROM policy_usage WHERE started_at < $1");
        self.change(query.bind(integer(before))).await
    }

    async fn access(&mut self, namespace: &Namespace, id: &AccessId) -> Stored<Option<Access>> {
        self.find(access::by_id(namespace, id), access::read).await
    }

    async fn put_access(&mut self, access: &Access) -> Stored<()> {
        self.change(access::upsert(access)).await.map(drop)
    }

    async fn approvals(
        &mut self,
        namespace: &Namespace,
        agent: &AgentId,
        tool: Option<&ToolName>,
        now: u64,
    ) -> Stored<Vec<Access>> {
        let query = access::approved(namespace, agent, tool, now);
        self.find_all(query, access::read).await
    }

    async fn accesses(
        &mut self,
        namespace: &Namespace,
        wanted: Wanted<'_>,
        limit: u32,
    ) -> Stored<Vec<Access>> {
        let query = access::wanted(namespace, wanted, limit);
        self.find_all(query, access::read).await
    }

    async fn lapsed_accesses(
        &mut self,
        namespace: &Namespace,
        now: u64,
        limit: u32,
    ) -> Stored<Vec<Access>> {
        let query = access::lapsed(namespace, now, limit);
        self.find_all(query, access::read).await
    }

    async fn owner(&mut self, namespace: &Namespace, agent: &AgentId) -> Stored<Option<Agent>> {
        self.find(by_name(namespace, agent), crate::identity::agent)
            .await
    }
}

fn set_row(row: &Row) -> Result<SetRow, RowError> {
    let columns = Columns::new(row, "set of policies");
    Ok(SetRow {
        namespace: columns.parsed("namespace")?,
        generation: columns.number("generation")?,
        seal: Mac(columns.bytes("seal")?),
    })
}

fn policy_row(row: &Row) -> Result<PolicyRow, RowError> {
    let columns = Columns::new(row, "policy");
    Ok(PolicyRow {
        namespace: columns.parsed("namespace")?,
        name: columns.parsed("name")?,
        version: columns.number("version")?,
        document: columns.raw("document")?,
        retired: columns.flag("retired")?,
        author: columns.parsed("author")?,
        at: columns.number("at")?,
        seal: Mac(columns.bytes("seal")?),
    })
}

/// Names of policies are never empty: that stands for none.
fn policy_text(key: &CounterKey) -> &str {
    key.policy.as_ref().map_or("", PolicyName::as_str)
}

fn counter(row: &Row) -> Result<(CounterKey, Counter), RowError> {
    let columns = Columns::new(row, "counter of a policy");
    let policy = match columns.raw::<&str>("policy")? {
        "" => None,
        _ => columns.optional("policy")?,
    };
    let key = CounterKey {
        policy,
        per: columns.parsed("per")?,
        of: columns.parsed("of_what")?,
        subject: columns.raw("subject")?,
    };
    let counter = Counter {
        started_at: columns.number("started_at")?,
        used: columns.number("used")?,
    };
    Ok((key, counter))
}
