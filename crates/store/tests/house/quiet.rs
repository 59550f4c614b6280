//! Policies that were there before a test begins: writing them left no entry in its log.

use async_trait::async_trait;
use std::sync::Arc;
use xylem_audit::Entry;
use xylem_identity::Agent;
use xylem_ids::{AccessId, AgentId, Namespace, PolicyName, ToolName};
use xylem_policy::{
    Access, Changes, Counter, CounterKey, PolicyRow, Rows, SetRow, Storage, StorageError, Wanted,
};
use xylem_store::Store;

type Stored<T> = Result<T, StorageError>;

pub struct Quiet(pub Arc<Store>);

#[async_trait]
impl Storage for Quiet {
    async fn begin_changes(&self) -> Stored<Box<dyn Changes>> {
        Ok(Box::new(Silent(self.0.begin_changes().await?)))
    }

    async fn begin_look(&self) -> Stored<Box<dyn Rows>> {
        self.0.begin_look().await
    }
}

struct Silent(Box<dyn Changes>);

#[async_trait]
impl Changes for Silent {
    async fn note(&mut self, _: &Entry) -> Stored<()> {
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Stored<()> {
        self.0.commit().await
    }
}

#[async_trait]
impl Rows for Silent {
    async fn policy_set(&mut self, namespace: &Namespace) -> Stored<Option<SetRow>> {
        self.0.policy_set(namespace).await
    }

    async fn put_policy_set(&mut self, row: &SetRow) -> Stored<()> {
        self.0.put_policy_set(row).await
    }

    async fn policies(&mut self, namespace: &Namespace) -> Stored<Vec<PolicyRow>> {
        self.0.policies(namespace).await
    }

    async fn policy(
        &mut self,
        namespace: &Namespace,
        name: &PolicyName,
        version: u32,
    ) -> Stored<Option<PolicyRow>> {
        self.0.policy(namespace, name, version).await
    }

    async fn insert_policy(&mut self, row: &PolicyRow) -> Stored<()> {
        self.0.insert_policy(row).await
    }

    async fn usage(
        &mut self,
        namespace: &Namespace,
        keys: &[CounterKey],
    ) -> Stored<Vec<(CounterKey, Counter)>> {
        self.0.usage(namespace, keys).await
    }

    async fn put_usage(
        &mut self,
        namespace: &Namespace,
        key: &CounterKey,
        counter: Counter,
    ) -> Stored<()> {
        self.0.put_usage(namespace, key, counter).await
    }

    async fn delete_usage(&mut self, before: u64) -> Stored<u64> {
        self.0.delete_usage(before).await
    }

    async fn access(&mut self, namespace: &Namespace, id: &AccessId) -> Stored<Option<Access>> {
        self.0.access(namespace, id).await
    }

    async fn put_access(&mut self, access: &Access) -> Stored<()> {
        self.0.put_access(access).await
    }

    async fn approvals(
        &mut self,
        namespace: &Namespace,
        agent: &AgentId,
        tool: Option<&ToolName>,
        now: u64,
    ) -> Stored<Vec<Access>> {
        self.0.approvals(namespace, agent, tool, now).await
    }

    async fn accesses(
        &mut self,
        namespace: &Namespace,
        wanted: Wanted<'_>,
        limit: u32,
    ) -> Stored<Vec<Access>> {
        self.0.accesses(namespace, wanted, limit).await
    }

    async fn lapsed_accesses(
        &mut self,
        namespace: &Namespace,
        now: u64,
        limit: u32,
    ) -> Stored<Vec<Access>> {
        self.0.lapsed_accesses(namespace, now, limit).await
    }

    async fn owner(&mut self, namespace: &Namespace, agent: &AgentId) -> Stored<Option<Agent>> {
        self.0.owner(namespace, agent).await
    }
}
