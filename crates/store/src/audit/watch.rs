//! What the watch remembers.

use super::{unavailable, usage};
use crate::{
    Store,
    row::{Columns, RowError, integer},
    sql::{Row, Statement, Work, statement},
};
use async_trait::async_trait;
use xylem_audit::{
    Called, Delivery, Due, Entry, LogError, Memory, Of, Rule, Usage, UsageKey, UsageQuery, Used,
    Watch,
};
use xylem_ids::{Namespace, ToolName};

#[async_trait]
impl Watch for Store {
    async fn begin_watch(&self) -> Result<Box<dyn Memory>, LogError> {
        let work = self.write().await.map_err(unavailable)?;
        let store = self.clone();
        Ok(Box::new(StoreMemory { work, store }))
    }

    async fn deliveries(
        &self,
        namespace: &Namespace,
        first: u64,
        last: u64,
    ) -> Result<Vec<(u64, Delivery, u32)>, LogError> {
        let query = statement(
            "SELECT seq, state, attempts FROM watch_deliveries
             WHERE namespace = $1 AND seq >= $2 AND seq <= $3 ORDER BY seq",
        );
        let query = query.bind(namespace.as_str());
        let query = query.bind(integer(first)).bind(integer(last));
        let mut work = self.read().await.map_err(unavailable)?;
        let rows = work.all(query).await.map_err(unavailable)?;
        rows.iter().map(|row| read(delivery(row))).collect()
    }

    async fn watched(&self, namespace: &Namespace) -> Result<u64, LogError> {
        let mut work = self.read().await.map_err(unavailable)?;
        cursor(&mut work, namespace).await
    }

    async fn usage(
        &self,
        namespace: &Namespace,
        query: &UsageQuery,
        after: Option<&UsageKey>,
        limit: u32,
    ) -> Result<Vec<Usage>, LogError> {
        usage::list(self, namespace, query, after, limit).await
    }
}

struct StoreMemory {
    work: Work,
    store: Store,
}

impl StoreMemory {
    async fn run(&mut self, query: Statement) -> Result<u64, LogError> {
        self.work.run(query).await.map_err(unavailable)
    }

    async fn one<T>(
        &mut self,
        query: Statement,
        to: impl Fn(&Row) -> Result<T, RowError>,
    ) -> Result<Option<T>, LogError> {
        let row = self.work.one(query).await.map_err(unavailable)?;
        row.as_ref().map(|row| read(to(row))).transpose()
    }
}

/// A row that cannot be read is not there: nothing but the watch depends on it.
pub(super) fn read<T>(read: Result<T, RowError>) -> Result<T, LogError> {
    read.map_err(|error| match error {
        RowError::Sql(error) => unavailable(error),
        RowError::Unreadable(what) => {
            LogError::Unavailable(format!("a stored {what} cannot be read").into())
        }
    })
}

fn delivery(row: &Row) -> Result<(u64, Delivery, u32), RowError> {
    let columns = Columns::new(row, "delivery of an alert");
    let state: &str = columns.raw("state")?;
    let state = Delivery::from_code(state).ok_or_else(|| columns.unreadable())?;
    Ok((columns.number("seq")?, state, columns.number("attempts")?))
}

async fn cursor(work: &mut Work, namespace: &Namespace) -> Result<u64, LogError> {
    let query = statement("SELECT seq FROM watch_cursors WHERE namespace = $1");
    let row = work.one(query.bind(namespace.as_str())).await;
    let row = row.map_err(unavailable)?;
    let seq = row.map(|row| read(Columns::new(&row, "cursor").number("seq")));
    Ok(seq.transpose()?.unwrap_or(0))
}

fn number(row: &Row, name: &str) -> Result<u64, RowError> {
    Columns::new(row, "memory of the watch").number(name)
}

/// A statement about an agent: its namespace and its name are bound first.
fn about(sql: &'static str, of: Of<'_>) -> Statement {
    statement(sql)
        .bind(of.namespace.as_str())
        .bind(of.agent.as_str())
}

#[async_trait]
impl Memory for StoreMemory {
    async fn commit(self: Box<Self>, entries: &[Entry]) -> Result<(), LogError> {
        let Self { work, store } = *self;
        if entries.is_empty() {
            return work.commit().await.map_err(unavailable);
        }
        store.commit_with(work, entries).await
    }

    async fn cursor(&mut self, namespace: &Namespace) -> Result<u64, LogError> {
        cursor(&mut self.work, namespace).await
    }

    async fn move_cursor(&mut self, namespace: &Namespace, seq: u64) -> Result<(), LogError> {
        let query = statement(
            "INSERT INTO watch_cursors (namespace, seq) VALUES ($1, $2)
             ON CONFLICT (namespace) DO UPDATE SET seq = excluded.seq",
        );
        let query = query.bind(namespace.as_str()).bind(integer(seq));
        self.run(query).await.map(drop)
    }

    async fn add_denials(
        &mut self,
        of: Of<'_>,
        seq: u64,
        at: u64,
        count: u64,
    ) -> Result<(), LogError> {
        let query = about(
            "INSERT INTO watch_denials (namespace, agent, seq, at_ms, count)
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
            of,
        );
        let query = query.bind(integer(seq)).bind(integer(at));
        self.run(query.bind(integer(count))).await.map(drop)
    }

    async fn denials(
        &mut self,
        of: Of<'_>,
        after: u64,
        until: u64,
    ) -> Result<(u64, u64), LogError> {
        let query = about(
            "SELECT CAST(COALESCE(SUM(count), 0) AS BIGINT) AS total, COALESCE(MIN(seq), 0) AS first
             FROM watch_denials
             WHERE namespace = $1 AND agent = $2 AND at_ms > $3 AND at_ms <= $4",
            of,
        );
        let query = query.bind(integer(after)).bind(integer(until));
        let sums = |row: &Row| Ok((number(row, "total")?, number(row, "first")?));
        Ok(self.one(query, sums).await?.unwrap_or_default())
    }

    async fn use_network(&mut self, of: Of<'_>, network: &str, at: u64) -> Result<Used, LogError> {
        let query = about(
            "SELECT last_at FROM watch_networks
             WHERE namespace = $1 AND agent = $2 AND network = $3",
            of,
        );
        let last = |row: &Row| number(row, "last_at");
        let last = self.one(query.bind(network), last).await?;
        let query = about(
            "SELECT COUNT(*) AS n FROM watch_networks WHERE namespace = $1 AND agent = $2",
            of,
        );
        let networks = self.one(query, |row| number(row, "n")).await?;
        // An older count may come after a newer entry.
        let at = last.map_or(at, |last| last.max(at));
        let query = about(
            "INSERT INTO watch_networks (namespace, agent, network, last_at)
             VALUES ($1, $2, $3, $4)
             ON CONFLICT (namespace, agent, network) DO UPDATE SET last_at = excluded.last_at",
            of,
        );
        self.run(query.bind(network).bind(integer(at))).await?;
        Ok(Used {
            last,
            networks: networks.unwrap_or_default(),
        })
    }

    async fn use_tool(
        &mut self,
        of: Of<'_>,
        tool: &ToolName,
        at: u64,
    ) -> Result<Option<u64>, LogError> {
        let query = about(
            "INSERT INTO watch_tools (namespace, agent, tool, first_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT DO NOTHING",
            of,
        );
        let query = query.bind(tool.as_str()).bind(integer(at));
        if self.run(query).await? == 0 {
            return Ok(None);
        }
        let query = about(
            "SELECT COUNT(*) - 1 AS n FROM watch_tools WHERE namespace = $1 AND agent = $2",
            of,
        );
        self.one(query, |row| number(row, "n")).await
    }

    async fn add_calls(&mut self, of: Of<'_>, hour: u64, calls: u64) -> Result<u64, LogError> {
        let query = about(
            "INSERT INTO watch_hours (namespace, agent, hour, calls) VALUES ($1, $2, $3, $4)
             ON CONFLICT (namespace, agent, hour)
             DO UPDATE SET calls = watch_hours.calls + excluded.calls",
            of,
        );
        self.run(query.bind(integer(hour)).bind(integer(calls)))
            .await?;
        let query = about(
            "SELECT calls FROM watch_hours WHERE namespace = $1 AND agent = $2 AND hour = $3",
            of,
        );
        let calls = |row: &Row| number(row, "calls");
        let calls = self.one(query.bind(integer(hour)), calls).await?;
        Ok(calls.unwrap_or_default())
    }

    async fn calls(&mut self, of: Of<'_>, first: u64, end: u64) -> Result<Vec<u64>, LogError> {
        let query = about(
            "SELECT calls FROM watch_hours
             WHERE namespace = $1 AND agent = $2 AND hour >= $3 AND hour < $4",
            of,
        );
        let query = query.bind(integer(first)).bind(integer(end));
        let rows = self.work.all(query).await.map_err(unavailable)?;
        rows.iter().map(|row| read(number(row, "calls"))).collect()
    }

    async fn add_usage(&mut self, called: &Called<'_>) -> Result<(), LogError> {
        usage::add(&mut self.work, called).await
    }

    async fn fold_usage(&mut self, namespace: &Namespace, hour: u64) -> Result<(), LogError> {
        usage::fold(&mut self.work, namespace, hour).await
    }

    async fn may_say(
        &mut self,
        namespace: &Namespace,
        rule: Rule,
        about: &str,
        at: u64,
        quiet_since: u64,
    ) -> Result<bool, LogError> {
        let query = statement(
            "INSERT INTO watch_alerts (namespace, rule, about, at_ms) VALUES ($1, $2, $3, $4)
             ON CONFLICT (namespace, rule, about) DO UPDATE SET at_ms = excluded.at_ms
             WHERE watch_alerts.at_ms <= $5",
        );
        let query = query.bind(namespace.as_str()).bind(rule.code()).bind(about);
        let query = query.bind(integer(at)).bind(integer(quiet_since));
        Ok(self.run(query).await? > 0)
    }

    async fn forget(&mut self, namespace: &Namespace, at: u64, hour: u64) -> Result<(), LogError> {
        for query in [
            "DELETE FROM watch_denials WHERE namespace = $1 AND at_ms < $2",
            "DELETE FROM watch_alerts WHERE namespace = $1 AND at_ms < $2",
        ] {
            let query = statement(query).bind(namespace.as_str());
            self.run(query.bind(integer(at))).await?;
        }
        let query = statement("DELETE FROM watch_hours WHERE namespace = $1 AND hour < $2");
        let query = query.bind(namespace.as_str()).bind(integer(hour));
        self.run(query).await.map(drop)
    }

    async fn deliver(&mut self, namespace: &Namespace, seq: u64, at: u64) -> Result<(), LogError> {
        let query = statement(
            "INSERT INTO watch_deliveries (namespace, seq, state, attempts, due_at)
             VALUES ($1, $2, 'pending', 0, $3) ON CONFLICT DO NOTHING",
        );
        let query = query.bind(namespace.as_str()).bind(integer(seq));
        self.run(query.bind(integer(at))).await.map(drop)
    }

    async fn due(
        &mut self,
        namespace: &Namespace,
        now: u64,
        limit: u32,
    ) -> Result<Vec<Due>, LogError> {
        let query = statement(
            "SELECT seq, attempts FROM watch_deliveries
             WHERE namespace = $1 AND state = 'pending' AND due_at <= $2 ORDER BY seq LIMIT $3",
        );
        let query = query
            .bind(namespace.as_str())
            .bind(integer(now))
            .bind(limit);
        let rows = self.work.all(query).await.map_err(unavailable)?;
        let due = |row: &Row| {
            let columns = Columns::new(row, "delivery of an alert");
            Ok(Due {
                seq: columns.number("seq")?,
                attempts: columns.number("attempts")?,
            })
        };
        rows.iter().map(|row| read(due(row))).collect()
    }

    async fn attempt(
        &mut self,
        namespace: &Namespace,
        due: Due,
        again: u64,
    ) -> Result<(), LogError> {
        let query = statement(
            "UPDATE watch_deliveries SET attempts = $1, due_at = $2
             WHERE namespace = $3 AND seq = $4",
        );
        let query = query
            .bind(due.attempts.saturating_add(1))
            .bind(integer(again));
        let query = query.bind(namespace.as_str()).bind(integer(due.seq));
        self.run(query).await.map(drop)
    }

    async fn settle(
        &mut self,
        namespace: &Namespace,
        seq: u64,
        delivery: Delivery,
    ) -> Result<(), LogError> {
        let query =
            statement("UPDATE watch_deliveries SET state = $1 WHERE namespace = $2 AND seq = $3");
        let query = query.bind(delivery.code()).bind(namespace.as_str());
        self.run(query.bind(integer(seq))).await.map(drop)
    }
}
