//! The registry's rules.

use crate::{
    Agent, ApiKey, Invalid, IssuedKey, KeyHasher, NewKey, PresentedKey, Principal, Role, Roles,
    Storage, StorageError, Tool, WorkflowDefinition, key,
};
use secrecy::ExposeSecret;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use xylem_ids::{AgentId, KeyId, Namespace, TaskQueue, ToolName};

/// The most items a list answers at a time.
const MAX_PAGE: u32 = 500;
/// The time of last use is written at most this often.
const TOUCH_EVERY: Duration = Duration::from_secs(60);

/// What to do where a tool of the same name but another definition exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Refuse.
    Refuse,
    /// Replace it.
    Replace,
}

/// What became of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// The tool is new.
    Created,
    /// The same definition was there already.
    Unchanged,
    /// Another definition was replaced.
    Replaced,
}

/// Why the registry did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A field breaks its rule.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Something else exists under this name.
    #[error("{what} exists already: choose another name")]
    Exists {
        /// What kind of thing.
        what: &'static str,
    },
    /// There is no such thing in this namespace.
    #[error("no such {what} in this namespace")]
    NotFound {
        /// What kind of thing.
        what: &'static str,
    },
    /// A key's stored record was edited.
    #[error("the record of API key {id} is not what was written: revoke it and create another")]
    Tampered {
        /// Which key.
        id: KeyId,
    },
    /// The storage failed.
    #[error("the registry could not use its storage")]
    Storage(#[source] StorageError),
    /// The system's random source failed.
    #[error("the system's random source failed")]
    NoRandom,
}

impl From<StorageError> for RegistryError {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

/// Why a key is not accepted. The codes are for the audit log; callers are told only that the key
/// is not valid.
#[derive(Debug, thiserror::Error)]
pub enum Unauthenticated {
    /// Not an API key, or its checksum is wrong.
    #[error("the API key is malformed")]
    Malformed,
    /// No such key.
    #[error("the API key is unknown")]
    Unknown,
    /// It has expired.
    #[error("the API key has expired: create another")]
    Expired,
    /// It was revoked.
    #[error("the API key was revoked: create another")]
    Revoked,
    /// It could not be checked.
    #[error("the API key could not be checked: try again")]
    NotChecked(#[source] RegistryError),
}

impl Unauthenticated {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed => "key_malformed",
            Self::Unknown => "key_unknown",
            Self::Expired => "key_expired",
            Self::Revoked => "key_revoked",
            Self::NotChecked(RegistryError::Tampered { .. }) => "key_tampered",
            Self::NotChecked(_) => "key_not_checked",
        }
    }
}

/// Tools, agents, API keys and workflow definitions.
#[derive(Clone)]
pub struct Registry {
    storage: Arc<dyn Storage>,
    hasher: Arc<KeyHasher>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registry")
    }
}

impl Registry {
    /// A registry over this storage, its keys hashed by this hasher.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>, hasher: KeyHasher) -> Self {
        Self {
            storage,
            hasher: Arc::new(hasher),
        }
    }

    /// Registers a tool.
    ///
    /// # Errors
    /// [`RegistryError::Exists`] where another definition has the name and may not be replaced.
    pub async fn register_tool(
        &self,
        namespace: &Namespace,
        tool: &Tool,
        existing: Existing,
        now: SystemTime,
    ) -> Result<Registered, RegistryError> {
        let stored = self.storage.put_tool(namespace, tool, existing, now).await;
        stored.map_err(exists("another tool of this name"))
    }

    /// The tool of this name.
    ///
    /// # Errors
    /// There is none in this namespace, or the storage failed.
    pub async fn tool(
        &self,
        namespace: &Namespace,
        name: &ToolName,
    ) -> Result<Tool, RegistryError> {
        let tool = self.storage.tool(namespace, name).await?;
        tool.ok_or(RegistryError::NotFound { what: "tool" })
    }

    /// Tools in the order of their names, beginning after `after`; at most 500.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn tools(
        &self,
        namespace: &Namespace,
        after: Option<&ToolName>,
        limit: u32,
    ) -> Result<Vec<Tool>, RegistryError> {
        let limit = limit.clamp(1, MAX_PAGE);
        Ok(self.storage.tools(namespace, after, limit).await?)
    }

    /// Creates an agent.
    ///
    /// # Errors
    /// The name is taken, or no role is named.
    pub async fn create_agent(
        &self,
        namespace: &Namespace,
        id: AgentId,
        roles: Roles,
        now: SystemTime,
    ) -> Result<Agent, RegistryError> {
        if roles.is_empty() {
            return Err(Invalid::new("roles", "at least one role").into());
        }
        let agent = Agent {
            id,
            roles,
            created_at: now,
        };
        let stored = self.storage.insert_agent(namespace, &agent).await;
        stored.map_err(exists("an agent of this name"))?;
        Ok(agent)
    }

    /// The agent of this name.
    ///
    /// # Errors
    /// There is none in this namespace, or the storage failed.
    pub async fn agent(&self, namespace: &Namespace, id: &AgentId) -> Result<Agent, RegistryError> {
        let agent = self.storage.agent(namespace, id).await?;
        agent.ok_or(RegistryError::NotFound { what: "agent" })
    }

    /// Agents in the order of their names, beginning after `after`; at most 500.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn agents(
        &self,
        namespace: &Namespace,
        after: Option<&AgentId>,
        limit: u32,
    ) -> Result<Vec<Agent>, RegistryError> {
        let limit = limit.clamp(1, MAX_PAGE);
        Ok(self.storage.agents(namespace, after, limit).await?)
    }

    /// Makes an API key. Its secret is in the answer and nowhere else.
    ///
    /// # Errors
    /// The agent does not exist or lacks a role, or the queues do not fit the roles.
    pub async fn create_key(
        &self,
        namespace: &Namespace,
        new: NewKey,
        now: SystemTime,
    ) -> Result<IssuedKey, RegistryError> {
        let agent = self.agent(namespace, &new.agent).await?;
        check_key(&new, &agent, now)?;
        let secret = key::generate_secret().map_err(|_| RegistryError::NoRandom)?;
        let presented =
            PresentedKey::parse(secret.expose_secret()).ok_or(RegistryError::NoRandom)?;
        let key = self.hasher.seal(ApiKey {
            id: key::generate_id().map_err(|_| RegistryError::NoRandom)?,
            namespace: namespace.clone(),
            agent: new.agent,
            roles: new.roles,
            queues: new.queues,
            created_at: now,
            expires_at: new.expires_at,
            revoked_at: None,
            last_used_at: None,
            hash: self.hasher.hash(&presented),
            seal: [0; 32],
        });
        self.storage.put_key(&key).await?;
        Ok(IssuedKey { secret, key })
    }

    /// Keys in the order of their ids, beginning after `after`; at most 500.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn keys(
        &self,
        namespace: &Namespace,
        after: Option<&KeyId>,
        limit: u32,
    ) -> Result<Vec<ApiKey>, RegistryError> {
        let limit = limit.clamp(1, MAX_PAGE);
        Ok(self.storage.keys(namespace, after, limit).await?)
    }

    /// Revokes a key, for good. Revoking it again changes nothing.
    ///
    /// # Errors
    /// There is no such key in this namespace, or the storage failed.
    pub async fn revoke_key(
        &self,
        namespace: &Namespace,
        id: &KeyId,
        now: SystemTime,
    ) -> Result<ApiKey, RegistryError> {
        let found = self.storage.key(namespace, id).await?;
        let mut key = found.ok_or(RegistryError::NotFound { what: "API key" })?;
        if key.revoked_at.is_none() {
            key.revoked_at = Some(now);
            key = self.hasher.seal(key);
            self.storage.put_key(&key).await?;
        }
        Ok(key)
    }

    /// Finds out who is calling.
    ///
    /// # Errors
    /// Says why the key is not accepted, for the audit log.
    pub async fn authenticate(
        &self,
        presented: &str,
        now: SystemTime,
    ) -> Result<Principal, Unauthenticated> {
        let presented = PresentedKey::parse(presented).ok_or(Unauthenticated::Malformed)?;
        let found = self
            .storage
            .key_by_hash(&self.hasher.hash(&presented))
            .await;
        let key = found
            .map_err(|error| Unauthenticated::NotChecked(error.into()))?
            .ok_or(Unauthenticated::Unknown)?;
        if !self.hasher.intact(&key) {
            return Err(Unauthenticated::NotChecked(RegistryError::Tampered {
                id: key.id,
            }));
        }
        if key.revoked_at.is_some() {
            return Err(Unauthenticated::Revoked);
        }
        if key.expires_at.is_some_and(|expires| expires <= now) {
            return Err(Unauthenticated::Expired);
        }
        self.touch(&key, now).await?;
        Ok(Principal {
            key: key.id,
            namespace: key.namespace,
            agent: key.agent,
            roles: key.roles,
            queues: key.queues,
        })
    }

    async fn touch(&self, key: &ApiKey, now: SystemTime) -> Result<(), Unauthenticated> {
        let due = key
            .last_used_at
            .is_none_or(|last| last + TOUCH_EVERY <= now);
        if due {
            let touched = self.storage.touch_key(&key.id, now).await;
            touched.map_err(|error| Unauthenticated::NotChecked(error.into()))?;
        }
        Ok(())
    }

    /// Stores what the workflow types on a task queue declare.
    ///
    /// # Errors
    /// A type names a slot both as redeemable and as transit, or the storage failed.
    pub async fn register_definitions(
        &self,
        namespace: &Namespace,
        queue: &TaskQueue,
        definitions: &[WorkflowDefinition],
    ) -> Result<(), RegistryError> {
        if definitions.len() > 1000 {
            return Err(Invalid::new("definitions", "at most 1000").into());
        }
        if !definitions.iter().all(|d| d.slots.is_disjoint(&d.transit)) {
            return Err(
                Invalid::new("transit", "slots that are not declared as redeemable too").into(),
            );
        }
        let stored = self.storage.put_definitions(namespace, queue, definitions);
        Ok(stored.await?)
    }

    /// What the workflow types declare, by task queue.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn definitions(
        &self,
        namespace: &Namespace,
    ) -> Result<Vec<(TaskQueue, WorkflowDefinition)>, RegistryError> {
        Ok(self.storage.definitions(namespace).await?)
    }
}

fn exists(what: &'static str) -> impl FnOnce(StorageError) -> RegistryError {
    move |error| match error {
        StorageError::Exists => RegistryError::Exists { what },
        other => RegistryError::Storage(other),
    }
}

fn check_key(new: &NewKey, agent: &Agent, now: SystemTime) -> Result<(), Invalid> {
    if new.roles.is_empty() || !new.roles.is_subset(&agent.roles) {
        return Err(Invalid::new(
            "roles",
            "some of the agent's roles, at least one",
        ));
    }
    if new.roles.contains(&Role::Worker) == new.queues.is_empty() {
        return Err(Invalid::new(
            "queues",
            "at least one task queue with the worker role, none without it",
        ));
    }
    if new.expires_at.is_some_and(|expires| expires <= now) {
        return Err(Invalid::new("expires_at", "in the future"));
    }
    Ok(())
}
