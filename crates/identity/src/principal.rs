//! The proof that somebody was authenticated.

use std::{collections::BTreeSet, time::SystemTime};
use xylem_ids::{AgentId, AgentKind, KeyId, Namespace, Role, Roles, Scope, Scopes, TaskQueue};

/// Who is calling. Only [`crate::Identity`] makes one. The roles are those that the agent has now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub(crate) key: KeyId,
    pub(crate) namespace: Namespace,
    pub(crate) agent: AgentId,
    pub(crate) kind: AgentKind,
    pub(crate) roles: Roles,
    pub(crate) scopes: Scopes,
    pub(crate) queues: BTreeSet<TaskQueue>,
    pub(crate) until: Option<SystemTime>,
}

impl Principal {
    /// The key that was used.
    #[must_use]
    pub fn key(&self) -> &KeyId {
        &self.key
    }

    /// The namespace the caller works in.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The agent.
    #[must_use]
    pub fn agent(&self) -> &AgentId {
        &self.agent
    }

    /// What kind of identity the agent is.
    #[must_use]
    pub fn kind(&self) -> AgentKind {
        self.kind
    }

    /// What the agent may do.
    #[must_use]
    pub fn roles(&self) -> &Roles {
        &self.roles
    }

    /// Whether the agent has one of the roles.
    #[must_use]
    pub fn has(&self, roles: &[Role]) -> bool {
        roles.iter().any(|role| self.roles.contains(role))
    }

    /// What the credential is narrowed to.
    #[must_use]
    pub fn scopes(&self) -> &Scopes {
        &self.scopes
    }

    /// Whether the credential is good for calls of this scope.
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.allow(scope)
    }

    /// When the credential ends by itself.
    #[must_use]
    pub fn until(&self) -> Option<SystemTime> {
        self.until
    }

    /// The task queues the caller serves.
    #[must_use]
    pub fn queues(&self) -> &BTreeSet<TaskQueue> {
        &self.queues
    }
}
