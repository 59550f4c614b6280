//! What is known to whoever asks and does nothing: from memory where it holds, from the database
//! otherwise. Whoever acts on an answer reads everything in the transaction that acts.

use crate::{
    Access, Approval, Ask, CounterKey, Policies, PolicyError, Usage,
    policies::{Known, Loaded},
    storage::Rows,
};
use std::sync::Arc;
use xylem_ids::{AgentId, Namespace, ToolName};
use xylem_recall::{Memory, Revision};

/// Namespaces, agents, and pairs of an agent and a tool, that are remembered.
const REMEMBERED: usize = 10_000;

/// What was read before.
pub(crate) struct Recalled {
    loaded: Memory<Namespace, Arc<Loaded>>,
    agents: Memory<(Namespace, AgentId), Arc<Known>>,
    approved: Memory<(Namespace, AgentId, Option<ToolName>), Arc<[Access]>>,
}

impl Default for Recalled {
    fn default() -> Self {
        Self {
            loaded: Memory::new(REMEMBERED),
            agents: Memory::new(REMEMBERED),
            approved: Memory::new(REMEMBERED),
        }
    }
}

/// A look at one revision.
pub(crate) struct Look<'a> {
    policies: &'a Policies,
    namespace: &'a Namespace,
    at: Revision,
    /// Begun when something is not known.
    rows: Option<Box<dyn Rows>>,
}

impl<'a> Look<'a> {
    pub(crate) fn new(policies: &'a Policies, namespace: &'a Namespace, at: Revision) -> Self {
        Self {
            policies,
            namespace,
            at,
            rows: None,
        }
    }

    pub(crate) async fn loaded(&mut self) -> Result<Arc<Loaded>, PolicyError> {
        let (policies, namespace) = (self.policies, self.namespace);
        let memory = &policies.recalled.loaded;
        if let Some(known) = memory.get(self.at, namespace) {
            return Ok(known);
        }
        let loaded = policies.current(self.rows().await?, namespace).await?;
        memory.put(self.at, namespace.clone(), Arc::clone(&loaded), 1);
        Ok(loaded)
    }

    pub(crate) async fn agent(&mut self, id: &AgentId) -> Result<Arc<Known>, PolicyError> {
        let (policies, namespace) = (self.policies, self.namespace);
        let (memory, key) = (&policies.recalled.agents, (namespace.clone(), id.clone()));
        if let Some(known) = memory.get(self.at, &key) {
            return Ok(known);
        }
        let rows = self.rows().await?;
        let agent = policies.find_agent(rows, namespace, id).await?;
        let agent = Arc::new(agent.ok_or(PolicyError::NoAgent)?);
        memory.put(self.at, key, Arc::clone(&agent), 1);
        Ok(agent)
    }

    pub(crate) async fn approvals(
        &mut self,
        ask: &Ask<'_>,
        now: u64,
    ) -> Result<Vec<Approval>, PolicyError> {
        let mut found = Vec::new();
        for tool in ask.resource.tools() {
            let approved = self.approved(ask.agent, Some(&tool.name)).await?;
            found.extend(
                approved
                    .iter()
                    .filter_map(|it| it.approval(ask, &tool.name, now)),
            );
        }
        Ok(found)
    }

    /// What was ever approved and not ended, for one tool or for any: which of it holds at a time is for
    /// the clock to say.
    pub(crate) async fn approved(
        &mut self,
        agent: &AgentId,
        tool: Option<&ToolName>,
    ) -> Result<Arc<[Access]>, PolicyError> {
        let (policies, namespace) = (self.policies, self.namespace);
        let key = (namespace.clone(), agent.clone(), tool.cloned());
        let memory = &policies.recalled.approved;
        if let Some(known) = memory.get(self.at, &key) {
            return Ok(known);
        }
        let rows = self.rows().await?;
        let rows = rows.approvals(namespace, agent, tool, 0).await?;
        let checked: Result<Arc<[_]>, _> =
            rows.into_iter().map(|it| policies.checked(it)).collect();
        let checked = checked?;
        memory.put(self.at, key, Arc::clone(&checked), checked.len().max(1));
        Ok(checked)
    }

    /// What was counted, which no revision tells.
    pub(crate) async fn usage(&mut self, keys: &[CounterKey]) -> Result<Usage, PolicyError> {
        if keys.is_empty() {
            return Ok(Usage::default());
        }
        let namespace = self.namespace;
        let counted = self.rows().await?.usage(namespace, keys).await?;
        Ok(counted.into_iter().collect())
    }

    async fn rows(&mut self) -> Result<&mut dyn Rows, PolicyError> {
        let rows = match self.rows.take() {
            Some(rows) => rows,
            None => self.policies.storage.begin_look().await?,
        };
        Ok(self.rows.insert(rows).as_mut())
    }
}
