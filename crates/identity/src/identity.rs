//! The rules.

use crate::{
    Agent, ApiKey, IdentityError, Invalid, IssuedKey, NewAgent, NewKey, PresentedKey, Principal,
    Secrets, Storage, StorageError, Unauthenticated,
    agent::check_roles,
    key::{generate_id, generate_secret},
};
use secrecy::ExposeSecret;
use std::{
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};
use xylem_audit::{Entry, SubjectKind};
use xylem_ids::{AgentId, KeyId, Namespace, Role};
use xylem_seal::{CryptoError, Mac};

/// The most items a list answers at a time.
const MAX_PAGE: u32 = 500;
/// The time of last use is written at most this often.
const TOUCH_EVERY: Duration = Duration::from_secs(60);

/// Agents and API keys.
///
/// Whoever changes something brings the entry that the audit log gets: it says who does it and when.
/// What it is about is added here.
#[derive(Clone)]
pub struct Identity {
    storage: Arc<dyn Storage>,
    secrets: Arc<Secrets>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

impl Identity {
    /// Identities over this storage.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>, secrets: Secrets) -> Self {
        Self {
            storage,
            secrets: Arc::new(secrets),
        }
    }

    /// Creates an agent.
    ///
    /// # Errors
    /// The name is taken, or the roles do not go together.
    pub async fn create_agent(
        &self,
        namespace: &Namespace,
        new: NewAgent,
        entry: Entry,
    ) -> Result<Agent, IdentityError> {
        check_roles(&new.roles)?;
        let agent = self.secrets.seal_agent(Agent {
            namespace: namespace.clone(),
            id: new.id,
            kind: new.kind,
            roles: new.roles,
            created_at: entry.at,
            retired_at: None,
            seal: Mac([0; 32]),
        });
        let stored = self
            .storage
            .insert_agent(&agent, &[about_agent(entry, &agent)])
            .await;
        stored.map_err(|error| match error {
            StorageError::Exists => IdentityError::Exists {
                what: "an agent of this name",
            },
            other => other.into(),
        })?;
        Ok(agent)
    }

    /// The agent of this name.
    ///
    /// # Errors
    /// There is none in this namespace, its record was edited, or the storage failed.
    pub async fn agent(&self, namespace: &Namespace, id: &AgentId) -> Result<Agent, IdentityError> {
        let found = self.storage.agent(namespace, id).await?;
        self.secrets
            .check_agent(found.ok_or(IdentityError::NotFound { what: "agent" })?)
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
    ) -> Result<Vec<Agent>, IdentityError> {
        let limit = limit.clamp(1, MAX_PAGE);
        Ok(self.storage.agents(namespace, after, limit).await?)
    }

    /// Makes an API key. Its secret is in the answer and nowhere else.
    ///
    /// # Errors
    /// The agent does not exist, or the queues do not fit its roles.
    pub async fn create_key(
        &self,
        namespace: &Namespace,
        new: NewKey,
        entry: Entry,
    ) -> Result<IssuedKey, IdentityError> {
        let agent = self.agent(namespace, &new.agent).await?;
        check_key(&new, &agent, entry.at)?;
        let secret = generate_secret()?;
        let presented = PresentedKey::parse(secret.expose_secret()).ok_or(CryptoError)?;
        let key = self.secrets.seal_key(ApiKey {
            id: generate_id()?,
            namespace: namespace.clone(),
            agent: new.agent,
            name: new.name,
            scopes: new.scopes,
            queues: new.queues,
            networks: new.networks,
            created_at: entry.at,
            expires_at: new.expires_at,
            revoked_at: None,
            last_used_at: None,
            hash: self.secrets.hash(&presented),
            seal: Mac([0; 32]),
        });
        self.storage
            .put_key(&key, &[about_key(entry, &key)])
            .await?;
        Ok(IssuedKey { secret, key })
    }

    /// Whose key it is.
    ///
    /// # Errors
    /// There is none in this namespace, or the storage failed.
    pub async fn key_owner(
        &self,
        namespace: &Namespace,
        id: &KeyId,
    ) -> Result<AgentId, IdentityError> {
        Ok(self.find_key(namespace, id).await?.agent)
    }

    async fn find_key(&self, namespace: &Namespace, id: &KeyId) -> Result<ApiKey, IdentityError> {
        let found = self.storage.key(namespace, id).await?;
        found.ok_or(IdentityError::NotFound { what: "API key" })
    }

    /// Keys in the order of their ids, beginning after `after`; at most 500; of one agent where it is
    /// named.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn keys(
        &self,
        namespace: &Namespace,
        agent: Option<&AgentId>,
        after: Option<&KeyId>,
        limit: u32,
    ) -> Result<Vec<ApiKey>, IdentityError> {
        let limit = limit.clamp(1, MAX_PAGE);
        Ok(self.storage.keys(namespace, agent, after, limit).await?)
    }

    /// Revokes a key, for good. Revoking it again changes nothing. A key whose record was edited is
    /// revoked too: whoever looks after it wants it gone.
    ///
    /// # Errors
    /// There is no such key in this namespace, or the storage failed.
    pub async fn revoke_key(
        &self,
        namespace: &Namespace,
        id: &KeyId,
        entry: Entry,
    ) -> Result<ApiKey, IdentityError> {
        let mut key = self.find_key(namespace, id).await?;
        if key.revoked_at.is_none() {
            key.revoked_at = Some(entry.at);
            key = self.secrets.seal_key(key);
            self.storage
                .put_key(&key, &[about_key(entry, &key)])
                .await?;
        }
        Ok(key)
    }

    /// Finds out who is calling, and what that agent may do now.
    ///
    /// # Errors
    /// Says why the key is not accepted, for the audit log.
    pub async fn authenticate(
        &self,
        presented: &str,
        address: Option<IpAddr>,
        now: SystemTime,
    ) -> Result<Principal, Unauthenticated> {
        let presented = PresentedKey::parse(presented).ok_or(Unauthenticated::Malformed)?;
        let hash = self.secrets.hash(&presented);
        let found = self.storage.key_by_hash(&hash).await;
        let (key, agent) = found
            .map_err(IdentityError::from)?
            .ok_or(Unauthenticated::Unknown)?;
        let key = self.secrets.check_key(key)?;
        let agent = self.secrets.check_agent(agent)?;
        if key.revoked_at.is_some() {
            return Err(Unauthenticated::Revoked(key.id));
        }
        if key.expires_at.is_some_and(|expires| expires <= now) {
            return Err(Unauthenticated::Expired(key.id));
        }
        if !key.works_from(address) {
            return Err(Unauthenticated::Network(key.id));
        }
        if agent.retired_at.is_some() {
            return Err(Unauthenticated::Retired(agent.id));
        }
        self.touch(&key, now).await?;
        Ok(Principal {
            key: key.id,
            namespace: key.namespace,
            agent: agent.id,
            kind: agent.kind,
            roles: agent.roles,
            scopes: key.scopes,
            queues: key.queues,
        })
    }

    async fn touch(&self, key: &ApiKey, now: SystemTime) -> Result<(), IdentityError> {
        let due = key
            .last_used_at
            .is_none_or(|last| last + TOUCH_EVERY <= now);
        if due {
            self.storage.touch_key(&key.id, now).await?;
        }
        Ok(())
    }
}

fn about_agent(entry: Entry, agent: &Agent) -> Entry {
    entry.regarding(SubjectKind::Agent, &agent.id)
}

/// A key is changed for its agent, whoever does it.
fn about_key(mut entry: Entry, key: &ApiKey) -> Entry {
    entry.owner = Some(key.agent.clone());
    entry.regarding(SubjectKind::Key, &key.id)
}

fn check_key(new: &NewKey, agent: &Agent, now: SystemTime) -> Result<(), Invalid> {
    if new.name.chars().count() > 100 || new.name.chars().any(char::is_control) {
        return Err(Invalid::new("name", "at most 100 printable characters"));
    }
    if new.networks.len() > 20 {
        return Err(Invalid::new("networks", "at most 20"));
    }
    if agent.retired_at.is_some() {
        return Err(Invalid::new("agent", "an agent that is not retired"));
    }
    if agent.roles.contains(&Role::Worker) == new.queues.is_empty() {
        return Err(Invalid::new(
            "task_queues",
            "at least one task queue for a worker, none for others",
        ));
    }
    if new.expires_at.is_some_and(|expires| expires <= now) {
        return Err(Invalid::new("expires_at", "in the future"));
    }
    Ok(())
}
