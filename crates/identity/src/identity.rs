//! The rules.

use crate::{
    Agent, AgentChange, ApiKey, BlockList, Credential, Datum, IdentityError, Invalid, IssuedKey,
    NewAgent, NewKey, PresentedKey, Principal, Secrets, Storage, StorageError, Unauthenticated,
    agent::{check_name, check_roles},
    federated::Federation,
    key::{KnownKey, Recalled, generate_id, generate_secret},
    password::Hasher,
    tokens::Cached,
};
use secrecy::{ExposeSecret, SecretString};
use std::{
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};
use xylem_audit::{Entry, SubjectKind};
use xylem_ids::{AgentId, KeyId, Namespace, Role, Roles};
use xylem_recall::{Memory, Revision};
use xylem_seal::{CryptoError, Mac};

/// Where a control plane is that was told nothing else.
const LOCAL: &str = "http://127.0.0.1:7243";
/// The most items a list answers at a time.
const MAX_PAGE: u32 = 500;
/// The time of last use is written at most this often.
const TOUCH_EVERY: Duration = Duration::from_secs(60);
/// Keys and access tokens that are remembered.
const REMEMBERED: usize = 10_000;
/// What is to end is tried as often as others may change it while it is looked at.
pub(crate) const TRIES: usize = 5;

/// Agents and API keys.
///
/// Whoever changes something brings the entry that the audit log gets: it says who does it and when.
/// What it is about is added here.
#[derive(Clone)]
pub struct Identity {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) issuer: Arc<str>,
    pub(crate) cached: Arc<Cached>,
    pub(crate) recalled: Arc<Memory<Recalled, Arc<KnownKey>>>,
    pub(crate) hasher: Arc<Hasher>,
    pub(crate) second_factor_for: Roles,
    pub(crate) federation: Arc<Federation>,
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
            hasher: Arc::new(Hasher::new(
                Arc::clone(&secrets.pepper),
                BlockList::default(),
            )),
            secrets: Arc::new(secrets),
            issuer: LOCAL.into(),
            cached: Arc::default(),
            recalled: Arc::new(Memory::new(REMEMBERED)),
            second_factor_for: Roles::new(),
            federation: Arc::default(),
        }
    }

    /// The same, with access tokens issued under and for this URL.
    #[must_use]
    pub fn issuing_as(mut self, issuer: &str) -> Self {
        self.issuer = issuer.into();
        self
    }

    /// The same, with passwords that nobody may choose.
    #[must_use]
    pub fn blocking(mut self, passwords: BlockList) -> Self {
        let pepper = Arc::clone(&self.secrets.pepper);
        self.hasher = Arc::new(Hasher::new(pepper, passwords));
        self
    }

    /// The same, where whoever has one of these roles and signs in without a second factor may do
    /// nothing but look after the account.
    #[must_use]
    pub fn second_factor_for(mut self, roles: Roles) -> Self {
        self.second_factor_for = roles;
        self
    }

    /// The URL that access tokens are issued under and for.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
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
        check_name(&new.id)?;
        check_roles(&new.roles)?;
        let agent = self.secrets.seal_agent(Agent {
            namespace: namespace.clone(),
            id: new.id,
            kind: new.kind,
            roles: new.roles,
            created_at: entry.at,
            created_by: entry.agent.clone(),
            federated: None,
            retired_at: None,
            seal: Mac([0; 32]),
        });
        let stored = self
            .storage
            .insert_agent(&agent, &[about_agent(entry, &agent)])
            .await;
        stored.map_err(IdentityError::taken)?;
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

    /// Gives an agent other roles, or says that it is another kind of identity. What it may do counts
    /// from its next call on.
    ///
    /// # Errors
    /// It was retired, the roles do not go together or come from an identity provider, or nobody else
    /// could manage agents then.
    pub async fn update_agent(
        &self,
        namespace: &Namespace,
        id: &AgentId,
        change: AgentChange,
        entry: Entry,
    ) -> Result<Agent, IdentityError> {
        let read = self.agent(namespace, id).await?;
        if read.retired_at.is_some() {
            return Err(IdentityError::Retired);
        }
        if read.federated.is_some() && !(change.add.is_empty() && change.remove.is_empty()) {
            let rule = "left to what the configuration of its identity provider maps";
            return Err(Invalid::new("roles", rule).into());
        }
        let mut agent = read.clone();
        agent.kind = change.kind.unwrap_or(agent.kind);
        agent.roles.extend(change.add);
        agent.roles = &agent.roles - &change.remove;
        check_roles(&agent.roles)?;
        self.replace(&read, agent, entry).await
    }

    /// Retires an agent, for good: its next call is refused, and its name is not used again. Retiring
    /// it again changes nothing.
    ///
    /// # Errors
    /// There is none, or nobody else could manage agents then.
    pub async fn retire_agent(
        &self,
        namespace: &Namespace,
        id: &AgentId,
        entry: Entry,
    ) -> Result<Agent, IdentityError> {
        let read = self.agent(namespace, id).await?;
        if read.retired_at.is_some() {
            return Ok(read);
        }
        let mut agent = read.clone();
        agent.retired_at = Some(entry.at);
        self.replace(&read, agent, entry).await
    }

    /// Erases what is known of a retired agent, for good: its password and second factor, keys,
    /// sessions, what the watch has seen of it, and what is personal in its entries of the audit log.
    /// Its name stays as one that is not used again; who it is at an identity provider does not, so
    /// whom the provider still lets in comes back as somebody new. Erasing it again changes nothing.
    ///
    /// # Errors
    /// There is none, or it is not retired.
    pub async fn erase_agent(
        &self,
        namespace: &Namespace,
        id: &AgentId,
        entry: Entry,
    ) -> Result<Agent, IdentityError> {
        let read = self.agent(namespace, id).await?;
        if read.retired_at.is_none() {
            return Err(IdentityError::NotRetired);
        }
        let mut agent = read.clone();
        agent.roles = Roles::new();
        agent.federated = None;
        let agent = self.secrets.seal_agent(agent);
        let entry = about_agent(entry, &agent);
        self.storage.erase_agent(&read, &agent, &[entry]).await?;
        Ok(agent)
    }

    /// What is kept about an agent beside its own record and the audit log.
    ///
    /// # Errors
    /// There is none, or the storage failed.
    pub async fn agent_data(
        &self,
        namespace: &Namespace,
        id: &AgentId,
    ) -> Result<(Agent, Vec<Datum>), IdentityError> {
        let agent = self.agent(namespace, id).await?;
        let data = self.storage.agent_data(namespace, id).await?;
        Ok((agent, data))
    }

    async fn replace(
        &self,
        read: &Agent,
        agent: Agent,
        entry: Entry,
    ) -> Result<Agent, IdentityError> {
        let agent = self.secrets.seal_agent(agent);
        let entry = about_agent(entry, &agent);
        let needs_other = read.manages() && !agent.manages();
        self.storage
            .replace_agent(read, &agent, needs_other, &[entry])
            .await?;
        Ok(agent)
    }

    /// That an agent of a list is what was written.
    ///
    /// # Errors
    /// Its record was edited.
    pub fn checked_agent(&self, agent: &Agent) -> Result<(), IdentityError> {
        self.secrets.check_agent(agent.clone()).map(drop)
    }

    /// That a key of a list is what was written.
    ///
    /// # Errors
    /// Its record was edited.
    pub fn checked_key(&self, key: &ApiKey) -> Result<(), IdentityError> {
        self.secrets.check_key(key.clone()).map(drop)
    }

    /// Agents as they are stored, in the order of their names, beginning after `after`; at most 500.
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
        let (secret, hash) = self.new_secret()?;
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
            hash,
            seal: Mac([0; 32]),
        });
        self.storage
            .insert_key(&key, &[about_key(entry, &key)])
            .await?;
        Ok(IssuedKey { secret, key })
    }

    /// The key of this id, as it is stored.
    ///
    /// # Errors
    /// There is none in this namespace, or the storage failed.
    pub async fn key(&self, namespace: &Namespace, id: &KeyId) -> Result<ApiKey, IdentityError> {
        let found = self.storage.key(namespace, id).await?;
        found.ok_or(IdentityError::NotFound { what: "API key" })
    }

    /// Keys as they are stored, in the order of their ids, beginning after `after`; at most 500; of one
    /// agent where it is named.
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

    /// Replaces a key by another one that is good for the same and lives as long as it did, though not
    /// beyond `until`. The old one goes on working for `overlap`, but not longer than it would have.
    ///
    /// # Errors
    /// The key has expired or was revoked, somebody else changes it at the same time, its record was
    /// edited, or the storage failed.
    pub async fn rotate_key(
        &self,
        namespace: &Namespace,
        id: &KeyId,
        overlap: Duration,
        until: Option<SystemTime>,
        entry: Entry,
    ) -> Result<IssuedKey, IdentityError> {
        let read = self.secrets.check_key(self.key(namespace, id).await?)?;
        let mut old = read.clone();
        let now = entry.at;
        if old.revoked_at.is_some() || old.expires_at.is_some_and(|end| end <= now) {
            return Err(IdentityError::KeyOver);
        }
        if self
            .agent(namespace, &old.agent)
            .await?
            .retired_at
            .is_some()
        {
            return Err(IdentityError::Retired);
        }
        let life = old
            .expires_at
            .map(|end| end.duration_since(old.created_at).unwrap_or_default());
        let ends = [life.map(|life| now + life), until];
        let (secret, hash) = self.new_secret()?;
        let new = self.secrets.seal_key(ApiKey {
            id: generate_id()?,
            created_at: now,
            expires_at: ends.into_iter().flatten().min(),
            last_used_at: None,
            hash,
            ..old.clone()
        });
        let end = now + overlap;
        old.expires_at = Some(old.expires_at.map_or(end, |expires| expires.min(end)));
        let old = self.secrets.seal_key(old);
        let entry = about_key(entry, &old);
        self.storage
            .replace_key(&read, &old, Some(&new), &[entry])
            .await?;
        Ok(IssuedKey { secret, key: new })
    }

    fn new_secret(&self) -> Result<(SecretString, [u8; 32]), CryptoError> {
        let secret = generate_secret()?;
        let presented = PresentedKey::parse(secret.expose_secret()).ok_or(CryptoError)?;
        let hash = self.secrets.hash(&presented);
        Ok((secret, hash))
    }

    /// Revokes a key, for good. Revoking it again changes nothing. A key whose record was edited is
    /// revoked too, also where it says that it is: whoever looks after it wants it gone.
    ///
    /// # Errors
    /// There is no such key in this namespace, or the storage failed.
    pub async fn revoke_key(
        &self,
        namespace: &Namespace,
        id: &KeyId,
        entry: Entry,
    ) -> Result<ApiKey, IdentityError> {
        for _ in 0..TRIES {
            let read = self.key(namespace, id).await?;
            if read.revoked_at.is_some() && self.checked_key(&read).is_ok() {
                return Ok(read);
            }
            let mut key = read.clone();
            key.revoked_at = Some(entry.at);
            let key = self.secrets.seal_key(key);
            let entries = [about_key(entry.clone(), &key)];
            let revoked = self.storage.replace_key(&read, &key, None, &entries);
            match revoked.await {
                Err(StorageError::Changed) => {}
                done => return Ok(done.map(|()| key)?),
            }
        }
        Err(IdentityError::Changed)
    }

    pub(crate) async fn authenticate_key(
        &self,
        presented: &str,
        address: Option<IpAddr>,
        now: SystemTime,
    ) -> Result<Principal, Unauthenticated> {
        let presented = PresentedKey::parse(presented).ok_or(Unauthenticated::Malformed)?;
        let hash = self.secrets.hash(&presented);
        let at = self.revision().await?;
        let known = match self.recalled.get(at, &Recalled::Key(hash)) {
            Some(known) => known,
            None => {
                let found = self.storage.key_by_hash(&hash).await;
                let found = found.map_err(IdentityError::from)?;
                let (key, agent) = found.ok_or(Unauthenticated::Unknown)?;
                self.remember(at, Recalled::Key(hash), key, agent)?
            }
        };
        self.touch(&known, now).await?;
        admit_key(&known, at, address, now)
    }

    pub(crate) async fn revision(&self) -> Result<Revision, IdentityError> {
        Ok(self.storage.revision().await?)
    }

    /// Checks that a key and its agent are what was written.
    pub(crate) fn remember(
        &self,
        at: Revision,
        what: Recalled,
        key: ApiKey,
        agent: Agent,
    ) -> Result<Arc<KnownKey>, IdentityError> {
        let key = self.secrets.check_key(key)?;
        let agent = self.secrets.check_agent(agent)?;
        let known = Arc::new(KnownKey::new(key, agent));
        self.recalled.put(at, what, Arc::clone(&known), 1);
        Ok(known)
    }

    /// Writes when the key was used last, for all who use it at this moment.
    async fn touch(&self, known: &KnownKey, now: SystemTime) -> Result<(), IdentityError> {
        let Some(touch) = known.touch(now, TOUCH_EVERY) else {
            return Ok(());
        };
        self.storage.touch_key(&known.key.id, now).await?;
        touch.done();
        Ok(())
    }
}

/// Whether a key is good now, from there.
pub(crate) fn admit_key(
    known: &KnownKey,
    at: Revision,
    address: Option<IpAddr>,
    now: SystemTime,
) -> Result<Principal, Unauthenticated> {
    let KnownKey { key, agent, .. } = known;
    if key.revoked_at.is_some() {
        return Err(Unauthenticated::Revoked(key.id.clone()));
    }
    if key.expires_at.is_some_and(|expires| expires <= now) {
        return Err(Unauthenticated::Expired(key.id.clone()));
    }
    if !key.works_from(address) {
        return Err(Unauthenticated::Network(key.id.clone()));
    }
    if agent.retired_at.is_some() {
        return Err(Unauthenticated::Retired(agent.id.clone()));
    }
    Ok(Principal {
        credential: Credential::Key(key.id.clone()),
        namespace: key.namespace.clone(),
        agent: agent.id.clone(),
        kind: agent.kind,
        roles: agent.roles.clone(),
        scopes: key.scopes.clone(),
        queues: key.queues.clone(),
        networks: key.networks.clone(),
        until: key.expires_at,
        token: None,
        token_until: None,
        signed_in: None,
        second_factor: false,
        lacks_factor: false,
        as_of: at,
    })
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
    if agent.federated.is_some() {
        let rule = "one of its own: a key would outlive what an identity provider takes back";
        return Err(Invalid::new("agent", rule));
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
