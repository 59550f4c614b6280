//! The storage that identities need.

use crate::{
    Account, Agent, ApiKey, Attempt, Datum, FoundSession, Password, SecondFactor, Session,
    SigningKeyRow,
};
use async_trait::async_trait;
use std::time::SystemTime;
use xylem_audit::Entry;
use xylem_ids::{AgentId, KeyId, Namespace, SessionId};
use xylem_recall::Revision;

/// Why the storage did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// It did not answer; the call may be tried again.
    #[error("the identities' storage is not available: try again")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A stored row is not what was written.
    #[error("a stored {what} is not what was written")]
    Unreadable {
        /// What kind of row.
        what: &'static str,
    },
    /// Something else exists under this name.
    #[error("something else exists under this name")]
    Exists,
    /// Somebody else has changed it since it was read.
    #[error("somebody else has changed it meanwhile")]
    Changed,
    /// No other administrator would be left.
    #[error("no other administrator would be left")]
    LastAdministrator,
}

/// What comes with a second factor that counts from now on.
#[derive(Debug, Clone, Copy)]
pub struct Confirmed<'a> {
    /// The step of its first code.
    pub step: u64,
    /// The hashes of its recovery codes.
    pub recovery: &'a [[u8; 32]],
    /// The password as it was read.
    pub read: &'a Password,
    /// The same under another id, which ends the sessions that were opened without the factor.
    pub password: &'a Password,
}

/// What is kept about identities. Every method is one transaction; a change and its audit entries are
/// in the same one.
#[async_trait]
pub trait Storage: Send + Sync {
    /// What the database is at, read after this was called.
    ///
    /// # Errors
    /// The storage did not answer.
    async fn revision(&self) -> Result<Revision, StorageError>;

    /// Stores a new agent.
    ///
    /// # Errors
    /// [`StorageError::Exists`] where the name, or the subject of an identity provider, is taken.
    async fn insert_agent(&self, agent: &Agent, entries: &[Entry]) -> Result<(), StorageError>;

    /// Stores an agent's new state, if it still is what was read.
    ///
    /// # Errors
    /// [`StorageError::Changed`] where it is not, and [`StorageError::LastAdministrator`] where another
    /// active administrator is asked for and there is none.
    async fn replace_agent(
        &self,
        read: &Agent,
        agent: &Agent,
        other_administrator: bool,
        entries: &[Entry],
    ) -> Result<(), StorageError>;

    /// Stores a retired agent's last state, if it still is what was read, removes everything else that
    /// is kept about it, and destroys the key of its personal data in the audit log.
    ///
    /// # Errors
    /// [`StorageError::Changed`] where it is not.
    async fn erase_agent(
        &self,
        read: &Agent,
        agent: &Agent,
        entries: &[Entry],
    ) -> Result<(), StorageError>;

    /// What is kept about an agent beside its own record and the audit log. No secret is in it, and
    /// nothing that one could be guessed with.
    ///
    /// # Errors
    /// The storage did not answer.
    async fn agent_data(
        &self,
        namespace: &Namespace,
        agent: &AgentId,
    ) -> Result<Vec<Datum>, StorageError>;

    /// The agent of this name.
    ///
    /// # Errors
    /// The storage did not answer, or the row cannot be read.
    async fn agent(
        &self,
        namespace: &Namespace,
        id: &AgentId,
    ) -> Result<Option<Agent>, StorageError>;

    /// The agent of a subject of an identity provider.
    ///
    /// # Errors
    /// The storage did not answer, or the row cannot be read.
    async fn federated_agent(
        &self,
        namespace: &Namespace,
        issuer: &str,
        subject: &str,
    ) -> Result<Option<Agent>, StorageError>;

    /// Agents in the order of their names, beginning after `after`.
    ///
    /// # Errors
    /// The storage did not answer, or a row cannot be read.
    async fn agents(
        &self,
        namespace: &Namespace,
        after: Option<&AgentId>,
        limit: u32,
    ) -> Result<Vec<Agent>, StorageError>;

    /// Stores a new API key.
    ///
    /// # Errors
    /// The storage did not answer.
    async fn insert_key(&self, key: &ApiKey, entries: &[Entry]) -> Result<(), StorageError>;

    /// Stores a key's new state, if it still is what was read, and the key that replaces it.
    ///
    /// # Errors
    /// [`StorageError::Changed`] where it is not.
    async fn replace_key(
        &self,
        read: &ApiKey,
        key: &ApiKey,
        successor: Option<&ApiKey>,
        entries: &[Entry],
    ) -> Result<(), StorageError>;

    /// The key with this hash, and its agent as it is now.
    ///
    /// # Errors
    /// The storage did not answer, or a row cannot be read.
    async fn key_by_hash(&self, hash: &[u8; 32]) -> Result<Option<(ApiKey, Agent)>, StorageError>;

    /// The key with this id, its agent as it is now, and whether the access token of this id was
    /// revoked.
    ///
    /// # Errors
    /// The storage did not answer, or a row cannot be read.
    async fn key_and_agent(
        &self,
        namespace: &Namespace,
        id: &KeyId,
        token: &KeyId,
    ) -> Result<Option<(ApiKey, Agent, bool)>, StorageError>;

    /// Notes that an access token was revoked, until it would have ended by itself.
    ///
    /// # Errors
    /// The storage did not answer.
    async fn revoke_token(
        &self,
        token: &KeyId,
        until: SystemTime,
        entries: &[Entry],
    ) -> Result<(), StorageError>;

    /// Every key that signs access tokens.
    ///
    /// # Errors
    /// The storage did not answer, or a row cannot be read.
    async fn signing_keys(&self) -> Result<Vec<SigningKeyRow>, StorageError>;

    /// Stores a key that signs access tokens, and removes every other one where it is to be `alone`.
    ///
    /// # Errors
    /// The storage did not answer.
    async fn insert_signing_key(
        &self,
        key: &SigningKeyRow,
        alone: bool,
        entries: &[Entry],
    ) -> Result<(), StorageError>;

    /// An agent and its password.
    ///
    /// # Errors
    /// The storage did not answer, or a row cannot be read.
    async fn account(
        &self,
        namespace: &Namespace,
        agent: &AgentId,
    ) -> Result<Option<Account>, StorageError>;

    /// Stores a new agent with a password.
    ///
    /// # Errors
    /// [`StorageError::Exists`] where the name is taken.
    async fn register(
        &self,
        agent: &Agent,
        password: &Password,
        entries: &[Entry],
    ) -> Result<(), StorageError>;

    /// Stores the password that an agent was invited to choose. The invitation is used up.
    ///
    /// # Errors
    /// [`StorageError::Changed`] where there is no such invitation.
    async fn put_password(
        &self,
        password: &Password,
        invitation: &[u8; 32],
        entries: &[Entry],
    ) -> Result<(), StorageError>;

    /// Stores an agent's next password, if the one before still is what was read.
    ///
    /// # Errors
    /// [`StorageError::Changed`] where it is not.
    async fn replace_password(
        &self,
        read: &Password,
        password: &Password,
        entries: &[Entry],
    ) -> Result<(), StorageError>;

    /// Stores an agent's second factor instead of one that does not count yet; with what it counts
    /// from now on, where it does.
    ///
    /// # Errors
    /// [`StorageError::Changed`] where another one counts already, or the password is another one.
    async fn put_factor(
        &self,
        factor: &SecondFactor,
        confirmed: Option<Confirmed<'_>>,
        entries: &[Entry],
    ) -> Result<(), StorageError>;

    /// Removes an agent's second factor and its recovery codes, and its password where that is asked.
    ///
    /// # Errors
    /// The storage did not answer.
    async fn drop_factor(
        &self,
        namespace: &Namespace,
        agent: &AgentId,
        with_password: bool,
        entries: &[Entry],
    ) -> Result<(), StorageError>;

    /// Uses up a step of a second factor that counts, and those before it; `false` where it was used.
    ///
    /// # Errors
    /// The storage did not answer.
    async fn use_step(
        &self,
        namespace: &Namespace,
        agent: &AgentId,
        step: u64,
    ) -> Result<bool, StorageError>;

    /// Uses up a recovery code; `false` where there is none of this hash.
    ///
    /// # Errors
    /// The storage did not answer.
    async fn use_recovery(
        &self,
        namespace: &Namespace,
        agent: &AgentId,
        hash: &[u8; 32],
        entries: &[Entry],
    ) -> Result<bool, StorageError>;

    /// Stores the hashes of recovery codes instead of those there are, and uses up the step of a second
    /// factor that counts; neither where the step was used, and then the answer is `false`.
    ///
    /// # Errors
    /// The storage did not answer.
    async fn renew_recovery(
        &self,
        namespace: &Namespace,
        agent: &AgentId,
        step: u64,
        hashes: &[[u8; 32]],
        entries: &[Entry],
    ) -> Result<bool, StorageError>;

    /// Stores the hash of an agent's invitation instead of an earlier one.
    ///
    /// # Errors
    /// The storage did not answer.
    async fn put_invitation(
        &self,
        namespace: &Namespace,
        agent: &AgentId,
        hash: &[u8; 32],
        ends: SystemTime,
        entries: &[Entry],
    ) -> Result<(), StorageError>;

    /// Counts an attempt in its lanes, and in that of strangers where its place is not known; in none of
    /// them where one says that it has to wait, and for how many seconds.
    ///
    /// # Errors
    /// The storage did not answer.
    async fn attempt(
        &self,
        attempt: &Attempt,
        now: SystemTime,
    ) -> Result<Result<(), u64>, StorageError>;

    /// Clears away what decides nothing any more: attempts that count in no lane, ended sessions,
    /// invitations that are over.
    ///
    /// # Errors
    /// The storage did not answer.
    async fn tidy(&self, now: SystemTime) -> Result<(), StorageError>;

    /// Stores a new session. The attempt that led to it counts no more, and its place is known.
    ///
    /// # Errors
    /// The storage did not answer.
    async fn open_session(
        &self,
        session: &Session,
        attempt: &Attempt,
        entries: &[Entry],
    ) -> Result<(), StorageError>;

    /// The session of this id, and whether the access token of that id was revoked.
    ///
    /// # Errors
    /// The storage did not answer, or a row cannot be read.
    async fn session(
        &self,
        namespace: &Namespace,
        id: &SessionId,
        token: Option<&KeyId>,
    ) -> Result<Option<FoundSession>, StorageError>;

    /// Stores a session's new state, if it still is what was read.
    ///
    /// # Errors
    /// [`StorageError::Changed`] where it is not.
    async fn replace_session(
        &self,
        read: &Session,
        session: &Session,
        entries: &[Entry],
    ) -> Result<(), StorageError>;

    /// An agent's sessions that go on, the newest first.
    ///
    /// # Errors
    /// The storage did not answer, or a row cannot be read.
    async fn sessions(
        &self,
        namespace: &Namespace,
        agent: &AgentId,
        now: SystemTime,
    ) -> Result<Vec<Session>, StorageError>;

    /// The key with this id.
    ///
    /// # Errors
    /// The storage did not answer, or the row cannot be read.
    async fn key(&self, namespace: &Namespace, id: &KeyId) -> Result<Option<ApiKey>, StorageError>;

    /// Keys in the order of their ids, beginning after `after`; of one agent where it is named.
    ///
    /// # Errors
    /// The storage did not answer, or a row cannot be read.
    async fn keys(
        &self,
        namespace: &Namespace,
        agent: Option<&AgentId>,
        after: Option<&KeyId>,
        limit: u32,
    ) -> Result<Vec<ApiKey>, StorageError>;

    /// Notes when a key was last used.
    ///
    /// # Errors
    /// The storage did not answer.
    async fn touch_key(&self, id: &KeyId, at: SystemTime) -> Result<(), StorageError>;
}
