//! The proof that somebody was authenticated.

use crate::ProviderName;
use ipnet::IpNet;
use std::{collections::BTreeSet, time::SystemTime};
use xylem_ids::{
    AgentId, AgentKind, KeyId, Namespace, Role, Roles, Scope, Scopes, SessionId, TaskQueue,
};
use xylem_recall::Revision;

/// What somebody is recognised by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// An API key, or an access token that it was exchanged for.
    Key(KeyId),
    /// An access token of a session.
    Session(SessionId),
    /// A token of an identity provider.
    Provider(ProviderName),
}

/// Who is calling. Only [`crate::Identity`] makes one. The roles are those that the agent has now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub(crate) credential: Credential,
    pub(crate) namespace: Namespace,
    pub(crate) agent: AgentId,
    pub(crate) kind: AgentKind,
    pub(crate) roles: Roles,
    pub(crate) scopes: Scopes,
    pub(crate) queues: BTreeSet<TaskQueue>,
    pub(crate) networks: Vec<IpNet>,
    pub(crate) until: Option<SystemTime>,
    /// The access token of ours that was shown.
    pub(crate) token: Option<KeyId>,
    /// When the identity provider's token that was shown ends.
    pub(crate) token_until: Option<SystemTime>,
    pub(crate) signed_in: Option<SystemTime>,
    pub(crate) second_factor: bool,
    pub(crate) lacks_factor: bool,
    pub(crate) as_of: Revision,
}

impl Principal {
    /// What the caller was recognised by.
    #[must_use]
    pub fn credential(&self) -> &Credential {
        &self.credential
    }

    /// When the caller signed in; absent for a key.
    #[must_use]
    pub fn signed_in(&self) -> Option<SystemTime> {
        self.signed_in
    }

    /// Whether the caller showed a second factor then.
    #[must_use]
    pub fn second_factor(&self) -> bool {
        self.second_factor
    }

    /// Whether the caller should have shown a second factor and did not: until then nothing but the
    /// account may be looked after.
    #[must_use]
    pub fn lacks_second_factor(&self) -> bool {
        self.lacks_factor
    }

    /// What the database was at after the caller came: what is remembered of then can be used.
    #[must_use]
    pub fn as_of(&self) -> Revision {
        self.as_of
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

    /// When the key ends by itself.
    #[must_use]
    pub fn until(&self) -> Option<SystemTime> {
        self.until
    }

    /// The networks that the key works from; any where there is none.
    #[must_use]
    pub fn networks(&self) -> &[IpNet] {
        &self.networks
    }

    /// The task queues the caller serves.
    #[must_use]
    pub fn queues(&self) -> &BTreeSet<TaskQueue> {
        &self.queues
    }
}
