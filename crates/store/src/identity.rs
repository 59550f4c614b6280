//! The rows of agents and their keys.

mod account;
mod personal;

use crate::{
    Store,
    row::{Columns, RowError, json, seconds},
    sql::{Row, Statement, Work, statement},
};
use async_trait::async_trait;
use std::{collections::BTreeSet, time::SystemTime};
use xylem_audit::{Entry, LogError};
use xylem_identity::{
    Account, Agent, ApiKey, Attempt, Confirmed, Datum, Federated, FoundSession, Password,
    SecondFactor, Session, SigningKeyRow, Storage, StorageError,
};
use xylem_ids::{AgentId, KeyId, Namespace, Role, Roles, Scope, Scopes, SessionId};
use xylem_recall::Revision;
use xylem_seal::{Mac, Sealed};

type Stored<T> = Result<T, StorageError>;

fn unavailable(error: sqlx::Error) -> StorageError {
    RowError::Sql(error).into()
}

fn not_appended(error: LogError) -> StorageError {
    StorageError::Unavailable(Box::new(error))
}

/// A name that is taken is told apart from a database that does not answer.
fn insert_failed(error: sqlx::Error) -> StorageError {
    match error.as_database_error() {
        Some(refused) if refused.is_unique_violation() => StorageError::Exists,
        _ => unavailable(error),
    }
}

/// What is read of a table, named column by column.
macro_rules! select {
    (agents $rest:literal) => {
        concat!(
            "SELECT namespace, id, kind, roles, created_at, created_by, issuer, subject, issued_at,
                retired_at, seal FROM agents ",
            $rest
        )
    };
    (api_keys $rest:literal) => {
        concat!(
            "SELECT id, namespace, agent, name, scopes, queues, networks, created_at, expires_at,
                revoked_at, last_used_at, hash, seal FROM api_keys ",
            $rest
        )
    };
    // The agent's name and namespace are among the key's columns.
    (key_and_agent $more:literal $rest:literal) => {
        concat!(
            "SELECT k.id, k.namespace, k.agent, k.name, k.scopes, k.queues, k.networks,
                k.created_at, k.expires_at, k.revoked_at, k.last_used_at, k.hash, k.seal,
                a.kind AS agent_kind, a.roles AS agent_roles, a.created_at AS agent_created_at,
                a.created_by AS agent_created_by, a.issuer AS agent_issuer,
                a.subject AS agent_subject, a.issued_at AS agent_issued_at,
                a.retired_at AS agent_retired_at, a.seal AS agent_seal",
            $more,
            " FROM api_keys k JOIN agents a ON a.namespace = k.namespace AND a.id = k.agent ",
            $rest
        )
    };
}

#[async_trait]
impl Storage for Store {
    async fn revision(&self) -> Stored<Revision> {
        let revision = self.current_revision().await;
        revision.map_err(|error| StorageError::Unavailable(Box::new(error)))
    }

    async fn insert_agent(&self, agent: &Agent, entries: &[Entry]) -> Stored<()> {
        let mut work = self.write().await.map_err(unavailable)?;
        insert_agent(&mut work, agent).await?;
        self.note(work, entries).await
    }

    async fn replace_agent(
        &self,
        read: &Agent,
        agent: &Agent,
        other_administrator: bool,
        entries: &[Entry],
    ) -> Stored<()> {
        let mut work = self.write().await.map_err(unavailable)?;
        if other_administrator {
            let others = statement(
                "SELECT id FROM agents WHERE namespace = $1 AND id <> $2 AND retired_at IS NULL
                    AND issuer IS NULL AND roles LIKE '%\"admin\"%' LIMIT 1",
            )
            .bind(agent.namespace.as_str())
            .bind(agent.id.as_str());
            if work.one(others).await.map_err(unavailable)?.is_none() {
                return Err(StorageError::LastAdministrator);
            }
        }
        update_agent(&mut work, read, agent).await?;
        self.note(work, entries).await
    }

    async fn erase_agent(&self, read: &Agent, agent: &Agent, entries: &[Entry]) -> Stored<()> {
        self.erase(read, agent, entries).await
    }

    async fn agent_data(&self, namespace: &Namespace, agent: &AgentId) -> Stored<Vec<Datum>> {
        self.data(namespace, agent).await
    }

    async fn agent(&self, namespace: &Namespace, id: &AgentId) -> Stored<Option<Agent>> {
        self.find(by_name(namespace, id), agent).await
    }

    async fn federated_agent(
        &self,
        namespace: &Namespace,
        issuer: &str,
        subject: &str,
    ) -> Stored<Option<Agent>> {
        let query =
            statement(select!(agents "WHERE namespace = $1 AND issuer = $2 AND subject = $3"))
                .bind(namespace.as_str())
                .bind(issuer)
                .bind(subject);
        self.find(query, agent).await
    }

    async fn agents(
        &self,
        namespace: &Namespace,
        after: Option<&AgentId>,
        limit: u32,
    ) -> Stored<Vec<Agent>> {
        let query =
            statement(select!(agents "WHERE namespace = $1 AND id > $2 ORDER BY id LIMIT $3"))
                .bind(namespace.as_str())
                .bind(after.map_or("", AgentId::as_str))
                .bind(limit);
        self.find_all(query, agent).await
    }

    async fn insert_key(&self, key: &ApiKey, entries: &[Entry]) -> Stored<()> {
        let mut work = self.write().await.map_err(unavailable)?;
        work.run(insert_key(key)).await.map_err(unavailable)?;
        self.note(work, entries).await
    }

    async fn replace_key(
        &self,
        read: &ApiKey,
        key: &ApiKey,
        successor: Option<&ApiKey>,
        entries: &[Entry],
    ) -> Stored<()> {
        let mut work = self.write().await.map_err(unavailable)?;
        let query = statement(
            "UPDATE api_keys SET expires_at = $4, revoked_at = $5, seal = $6
             WHERE namespace = $1 AND id = $2 AND seal = $3",
        )
        .bind(key.namespace.as_str())
        .bind(key.id.as_str())
        .bind(read.seal.0.as_slice())
        .bind(key.expires_at.map(seconds))
        .bind(key.revoked_at.map(seconds))
        .bind(key.seal.0.as_slice());
        if work.run(query).await.map_err(unavailable)? == 0 {
            return Err(StorageError::Changed);
        }
        if let Some(successor) = successor {
            work.run(insert_key(successor)).await.map_err(unavailable)?;
        }
        self.note(work, entries).await
    }

    async fn key_by_hash(&self, hash: &[u8; 32]) -> Stored<Option<(ApiKey, Agent)>> {
        let query = statement(select!(key_and_agent "" "WHERE k.hash = $1"));
        let query = query.bind(hash.as_slice());
        self.find(query, key_and_agent).await
    }

    async fn key_and_agent(
        &self,
        namespace: &Namespace,
        id: &KeyId,
        token: &KeyId,
    ) -> Stored<Option<(ApiKey, Agent, bool)>> {
        let query = statement(select!(
            key_and_agent
            ", (SELECT COUNT(*) FROM revoked_tokens t WHERE t.id = $3) AS revoked"
            "WHERE k.namespace = $1 AND k.id = $2"
        ))
        .bind(namespace.as_str())
        .bind(id.as_str())
        .bind(token.as_str());
        let read = |row: &Row| {
            let (key, agent) = key_and_agent(row)?;
            let revoked = Columns::new(row, "access token").flag("revoked")?;
            Ok((key, agent, revoked))
        };
        self.find(query, read).await
    }

    async fn revoke_token(
        &self,
        token: &KeyId,
        until: SystemTime,
        entries: &[Entry],
    ) -> Stored<()> {
        let mut work = self.write().await.map_err(unavailable)?;
        let over = entries.first().map_or(0, |entry| seconds(entry.at));
        let over = statement("DELETE FROM revoked_tokens WHERE expires_at <= $1").bind(over);
        work.run(over).await.map_err(unavailable)?;
        let query = statement(
            "INSERT INTO revoked_tokens (id, expires_at) VALUES ($1, $2)
             ON CONFLICT (id) DO NOTHING",
        )
        .bind(token.as_str())
        .bind(seconds(until));
        work.run(query).await.map_err(unavailable)?;
        self.note(work, entries).await
    }

    async fn signing_keys(&self) -> Stored<Vec<SigningKeyRow>> {
        let query = statement(
            "SELECT id, created_at, nonce, ciphertext FROM signing_keys ORDER BY created_at, id",
        );
        self.find_all(query, signing_key).await
    }

    async fn insert_signing_key(
        &self,
        key: &SigningKeyRow,
        alone: bool,
        entries: &[Entry],
    ) -> Stored<()> {
        let mut work = self.write().await.map_err(unavailable)?;
        if alone {
            let others = statement("DELETE FROM signing_keys");
            work.run(others).await.map_err(unavailable)?;
        }
        let query = statement(
            "INSERT INTO signing_keys (id, created_at, nonce, ciphertext) VALUES ($1, $2, $3, $4)",
        )
        .bind(key.id.as_str())
        .bind(seconds(key.created_at))
        .bind(key.sealed.nonce.as_slice())
        .bind(key.sealed.ciphertext.clone());
        work.run(query).await.map_err(unavailable)?;
        self.note(work, entries).await
    }

    async fn account(&self, namespace: &Namespace, agent: &AgentId) -> Stored<Option<Account>> {
        self.read_account(namespace, agent).await
    }

    async fn register(&self, agent: &Agent, password: &Password, entries: &[Entry]) -> Stored<()> {
        self.insert_account(agent, password, entries).await
    }

    async fn put_password(
        &self,
        password: &Password,
        invitation: &[u8; 32],
        entries: &[Entry],
    ) -> Stored<()> {
        self.accept_invitation(password, invitation, entries).await
    }

    async fn replace_password(
        &self,
        read: &Password,
        password: &Password,
        entries: &[Entry],
    ) -> Stored<()> {
        let mut work = self.write().await.map_err(unavailable)?;
        account::update_password(&mut work, read, password).await?;
        self.note(work, entries).await
    }

    async fn put_factor(
        &self,
        factor: &SecondFactor,
        confirmed: Option<Confirmed<'_>>,
        entries: &[Entry],
    ) -> Stored<()> {
        self.replace_factor(factor, confirmed, entries).await
    }

    async fn drop_factor(
        &self,
        namespace: &Namespace,
        agent: &AgentId,
        with_password: bool,
        entries: &[Entry],
    ) -> Stored<()> {
        self.delete_factor(namespace, agent, with_password, entries)
            .await
    }

    async fn use_step(&self, namespace: &Namespace, agent: &AgentId, step: u64) -> Stored<bool> {
        self.take_step(namespace, agent, step).await
    }

    async fn use_recovery(
        &self,
        namespace: &Namespace,
        agent: &AgentId,
        hash: &[u8; 32],
        entries: &[Entry],
    ) -> Stored<bool> {
        self.take_recovery(namespace, agent, hash, entries).await
    }

    async fn renew_recovery(
        &self,
        namespace: &Namespace,
        agent: &AgentId,
        step: u64,
        hashes: &[[u8; 32]],
        entries: &[Entry],
    ) -> Stored<bool> {
        self.replace_recovery(namespace, agent, step, hashes, entries)
            .await
    }

    async fn put_invitation(
        &self,
        namespace: &Namespace,
        agent: &AgentId,
        hash: &[u8; 32],
        ends: SystemTime,
        entries: &[Entry],
    ) -> Stored<()> {
        self.replace_invitation(namespace, agent, hash, ends, entries)
            .await
    }

    async fn attempt(&self, attempt: &Attempt, now: SystemTime) -> Stored<Result<(), u64>> {
        self.count_attempt(attempt, now).await
    }

    async fn tidy(&self, now: SystemTime) -> Stored<()> {
        self.forget_attempts(now).await
    }

    async fn open_session(
        &self,
        session: &Session,
        attempt: &Attempt,
        entries: &[Entry],
    ) -> Stored<()> {
        self.insert_session(session, attempt, entries).await
    }

    async fn session(
        &self,
        namespace: &Namespace,
        id: &SessionId,
        token: Option<&KeyId>,
    ) -> Stored<Option<FoundSession>> {
        self.read_session(namespace, id, token).await
    }

    async fn replace_session(
        &self,
        read: &Session,
        session: &Session,
        entries: &[Entry],
    ) -> Stored<()> {
        self.update_session(read, session, entries).await
    }

    async fn sessions(
        &self,
        namespace: &Namespace,
        agent: &AgentId,
        now: SystemTime,
    ) -> Stored<Vec<Session>> {
        self.read_sessions(namespace, agent, now).await
    }

    async fn key(&self, namespace: &Namespace, id: &KeyId) -> Stored<Option<ApiKey>> {
        let query = statement(select!(api_keys "WHERE namespace = $1 AND id = $2"))
            .bind(namespace.as_str())
            .bind(id.as_str());
        self.find(query, api_key).await
    }

    async fn keys(
        &self,
        namespace: &Namespace,
        agent: Option<&AgentId>,
        after: Option<&KeyId>,
        limit: u32,
    ) -> Stored<Vec<ApiKey>> {
        let after = after.map_or("", KeyId::as_str);
        let query = match agent {
            None => {
                statement(select!(api_keys "WHERE namespace = $1 AND id > $2 ORDER BY id LIMIT $3"))
                    .bind(namespace.as_str())
                    .bind(after)
                    .bind(limit)
            }
            Some(agent) => statement(
                select!(api_keys "WHERE namespace = $1 AND id > $2 AND agent = $3
                    ORDER BY id LIMIT $4"),
            )
            .bind(namespace.as_str())
            .bind(after)
            .bind(agent.as_str())
            .bind(limit),
        };
        self.find_all(query, api_key).await
    }

    async fn touch_key(&self, id: &KeyId, at: SystemTime) -> Stored<()> {
        let mut work = self.write().await.map_err(unavailable)?;
        let query = statement("UPDATE api_keys SET last_used_at = $2 WHERE id = $1")
            .bind(id.as_str())
            .bind(seconds(at));
        work.run(query).await.map_err(unavailable)?;
        work.commit().await.map_err(unavailable)
    }
}

impl Store {
    /// Commits a change with its audit entries.
    async fn note(&self, work: Work, entries: &[Entry]) -> Stored<()> {
        self.commit_with(work, entries).await.map_err(not_appended)
    }
}

/// Stores an agent's new state, if it still is what was read.
async fn update_agent(work: &mut Work, read: &Agent, agent: &Agent) -> Stored<()> {
    let query = statement(
        "UPDATE agents SET kind = $4, roles = $5, retired_at = $6, seal = $7,
            issued_at = $8, issuer = $9, subject = $10
         WHERE namespace = $1 AND id = $2 AND seal = $3",
    )
    .bind(agent.namespace.as_str())
    .bind(agent.id.as_str())
    .bind(read.seal.0.as_slice())
    .bind(agent.kind.code())
    .bind(role_codes(&agent.roles))
    .bind(agent.retired_at.map(seconds))
    .bind(agent.seal.0.as_slice())
    .bind(issued_at(agent))
    .bind(agent.federated.as_ref().map(|who| who.issuer.clone()))
    .bind(agent.federated.as_ref().map(|who| who.subject.clone()));
    if work.run(query).await.map_err(unavailable)? == 0 {
        return Err(StorageError::Changed);
    }
    Ok(())
}

async fn insert_agent(work: &mut Work, agent: &Agent) -> Stored<()> {
    let query = statement(
        "INSERT INTO agents (namespace, id, kind, roles, created_at, retired_at, seal, created_by,
            issuer, subject, issued_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(agent.namespace.as_str())
    .bind(agent.id.as_str())
    .bind(agent.kind.code())
    .bind(role_codes(&agent.roles))
    .bind(seconds(agent.created_at))
    .bind(agent.retired_at.map(seconds))
    .bind(agent.seal.0.as_slice())
    .bind(agent.created_by.as_ref().map(AgentId::as_str))
    .bind(agent.federated.as_ref().map(|who| who.issuer.clone()))
    .bind(agent.federated.as_ref().map(|who| who.subject.clone()))
    .bind(issued_at(agent));
    work.run(query).await.map_err(insert_failed)?;
    Ok(())
}

fn insert_key(key: &ApiKey) -> Statement {
    let networks: Vec<String> = key.networks.iter().map(ToString::to_string).collect();
    statement(
        "INSERT INTO api_keys (id, namespace, agent, name, scopes, queues, networks, created_at,
            expires_at, revoked_at, last_used_at, hash, seal)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(key.id.as_str())
    .bind(key.namespace.as_str())
    .bind(key.agent.as_str())
    .bind(key.name.as_str())
    .bind(key.scopes.codes().map(|codes| json(&codes)))
    .bind(json(&key.queues))
    .bind(json(&networks))
    .bind(seconds(key.created_at))
    .bind(key.expires_at.map(seconds))
    .bind(key.revoked_at.map(seconds))
    .bind(key.last_used_at.map(seconds))
    .bind(key.hash.as_slice())
    .bind(key.seal.0.as_slice())
}

/// The agent of this name.
pub(crate) fn by_name(namespace: &Namespace, id: &AgentId) -> Statement {
    statement(select!(agents "WHERE namespace = $1 AND id = $2"))
        .bind(namespace.as_str())
        .bind(id.as_str())
}

pub(crate) fn agent(row: &Row) -> Result<Agent, RowError> {
    let columns = Columns::new(row, "agent");
    Ok(Agent {
        namespace: columns.parsed("namespace")?,
        id: columns.parsed("id")?,
        kind: columns.parsed("kind")?,
        roles: roles(&columns, "roles")?,
        created_at: columns.seconds("created_at")?,
        created_by: columns.optional("created_by")?,
        federated: federated(&columns, ["issuer", "subject", "issued_at"])?,
        retired_at: columns.optional_seconds("retired_at")?,
        seal: Mac(columns.bytes("seal")?),
    })
}

fn api_key(row: &Row) -> Result<ApiKey, RowError> {
    let columns = Columns::new(row, "API key");
    Ok(ApiKey {
        id: columns.parsed("id")?,
        namespace: columns.parsed("namespace")?,
        agent: columns.parsed("agent")?,
        name: columns.raw::<&str>("name")?.to_owned(),
        scopes: scopes(&columns)?,
        queues: columns.json("queues")?,
        networks: parsed_list(&columns, "networks")?,
        created_at: columns.seconds("created_at")?,
        expires_at: columns.optional_seconds("expires_at")?,
        revoked_at: columns.optional_seconds("revoked_at")?,
        last_used_at: columns.optional_seconds("last_used_at")?,
        hash: columns.bytes("hash")?,
        seal: Mac(columns.bytes("seal")?),
    })
}

fn key_and_agent(row: &Row) -> Result<(ApiKey, Agent), RowError> {
    let key = api_key(row)?;
    let columns = Columns::new(row, "agent");
    let agent = Agent {
        namespace: key.namespace.clone(),
        id: key.agent.clone(),
        kind: columns.parsed("agent_kind")?,
        roles: roles(&columns, "agent_roles")?,
        created_at: columns.seconds("agent_created_at")?,
        created_by: columns.optional("agent_created_by")?,
        federated: federated(&columns, AGENT_FEDERATED)?,
        retired_at: columns.optional_seconds("agent_retired_at")?,
        seal: Mac(columns.bytes("agent_seal")?),
    };
    Ok((key, agent))
}

fn signing_key(row: &Row) -> Result<SigningKeyRow, RowError> {
    let columns = Columns::new(row, "signing key");
    Ok(SigningKeyRow {
        id: columns.parsed("id")?,
        created_at: columns.seconds("created_at")?,
        sealed: Sealed {
            nonce: columns.bytes("nonce")?,
            ciphertext: columns.raw::<&[u8]>("ciphertext")?.to_vec(),
        },
    })
}

/// Who an agent is at an identity provider, beside other columns.
const AGENT_FEDERATED: [&str; 3] = ["agent_issuer", "agent_subject", "agent_issued_at"];

fn federated(
    columns: &Columns<'_>,
    [issuer, subject, issued_at]: [&str; 3],
) -> Result<Option<Federated>, RowError> {
    let issuer: Option<&str> = columns.raw(issuer)?;
    let subject: Option<&str> = columns.raw(subject)?;
    match (issuer, subject, columns.optional_seconds(issued_at)?) {
        (None, None, None) => Ok(None),
        (Some(issuer), Some(subject), Some(issued_at)) => Ok(Some(Federated {
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
            issued_at,
        })),
        _ => Err(columns.unreadable()),
    }
}

fn issued_at(agent: &Agent) -> Option<i64> {
    let federated = agent.federated.as_ref();
    federated.map(|federated| seconds(federated.issued_at))
}

fn role_codes(roles: &Roles) -> String {
    let codes: Vec<&str> = roles.iter().map(|role| role.code()).collect();
    json(&codes)
}

fn roles(columns: &Columns<'_>, column: &str) -> Result<Roles, RowError> {
    parsed_list::<Role>(columns, column).map(BTreeSet::from_iter)
}

fn scopes(columns: &Columns<'_>) -> Result<Scopes, RowError> {
    match columns.raw::<Option<&str>>("scopes")? {
        None => Ok(Scopes::All),
        Some(_) => parsed_list::<Scope>(columns, "scopes").map(Scopes::from_iter),
    }
}

fn parsed_list<T: std::str::FromStr>(
    columns: &Columns<'_>,
    column: &str,
) -> Result<Vec<T>, RowError> {
    let texts: Vec<String> = columns.json(column)?;
    let parsed = texts.iter().map(|text| text.parse());
    parsed
        .collect::<Result<_, _>>()
        .map_err(|_| columns.unreadable())
}
