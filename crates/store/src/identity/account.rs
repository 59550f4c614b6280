//! The rows of accounts, their sessions, and attempts at them.

use super::{json, scopes, unavailable};
use crate::{
    Store,
    row::{Columns, RowError, integer, seconds},
    sql::{Row, Statement, Work, statement},
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use xylem_audit::Entry;
use xylem_identity::{
    Account, Agent, Attempt, Confirmed, Counter, FoundSession, KNOWN_FOR, Lane, Password,
    SecondFactor, Session, StorageError,
};
use xylem_ids::{AgentId, KeyId, Namespace, SessionId};
use xylem_seal::{Mac, Sealed};

type Stored<T> = Result<T, StorageError>;

/// Attempts that are older than this count in no lane.
const FORGOTTEN: Duration = Duration::from_secs(60 * 60);
/// How long a session is kept after its end.
const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 60 * 60);

macro_rules! session_columns {
    () => {
        "s.id, s.namespace, s.agent, s.client, s.salt, s.generation, s.rotated_at_ms, s.opened_at,
            s.idle_until, s.ends_at, s.scopes, s.second_factor, s.password, s.ended_at, s.seal"
    };
}

/// The agent's and its password's columns, beside others of the same names.
macro_rules! account_columns {
    () => {
        "a.namespace AS agent_namespace, a.id AS agent_id, a.kind AS agent_kind,
            a.roles AS agent_roles, a.created_at AS agent_created_at,
            a.created_by AS agent_created_by, a.issuer AS agent_issuer,
            a.subject AS agent_subject, a.issued_at AS agent_issued_at,
            a.retired_at AS agent_retired_at, a.seal AS agent_seal,
            p.id AS password_id, p.hash AS password_hash, p.is_long AS password_long,
            p.seal AS password_seal"
    };
}

impl Store {
    pub(super) async fn read_account(
        &self,
        namespace: &Namespace,
        id: &AgentId,
    ) -> Stored<Option<Account>> {
        let query = statement(concat!(
            "SELECT ",
            account_columns!(),
            ", f.nonce AS factor_nonce, f.ciphertext AS factor_ciphertext,
                f.created_at AS factor_created_at, f.confirmed_at AS factor_confirmed_at,
                f.seal AS factor_seal
              FROM agents a
              LEFT JOIN passwords p ON p.namespace = a.namespace AND p.agent = a.id
              LEFT JOIN second_factors f ON f.namespace = a.namespace AND f.agent = a.id
              WHERE a.namespace = $1 AND a.id = $2"
        ))
        .bind(namespace.as_str())
        .bind(id.as_str());
        let read = |row: &Row| {
            let (agent, password) = account(row)?;
            let factor = factor(row, &agent)?;
            Ok(Account {
                agent,
                password,
                factor,
            })
        };
        self.find(query, read).await
    }

    pub(super) async fn insert_account(
        &self,
        agent: &Agent,
        password: &Password,
        entries: &[Entry],
    ) -> Stored<()> {
        let mut work = self.write().await.map_err(unavailable)?;
        super::insert_agent(&mut work, agent).await?;
        run(&mut work, upsert_password(password)).await?;
        self.note(work, entries).await
    }

    pub(super) async fn accept_invitation(
        &self,
        password: &Password,
        invitation: &[u8; 32],
        entries: &[Entry],
    ) -> Stored<()> {
        let mut work = self.write().await.map_err(unavailable)?;
        let used =
            statement("DELETE FROM invitations WHERE namespace = $1 AND agent = $2 AND hash = $3")
                .bind(password.namespace.as_str())
                .bind(password.agent.as_str())
                .bind(invitation.as_slice());
        if run(&mut work, used).await? == 0 {
            return Err(StorageError::Changed);
        }
        run(&mut work, upsert_password(password)).await?;
        self.note(work, entries).await
    }

    pub(super) async fn replace_invitation(
        &self,
        namespace: &Namespace,
        agent: &AgentId,
        hash: &[u8; 32],
        ends: SystemTime,
        entries: &[Entry],
    ) -> Stored<()> {
        let mut work = self.write().await.map_err(unavailable)?;
        let query = statement(
            "INSERT INTO invitations (namespace, agent, hash, expires_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (namespace, agent) DO UPDATE SET hash = excluded.hash,
                expires_at = excluded.expires_at",
        )
        .bind(namespace.as_str())
        .bind(agent.as_str())
        .bind(hash.as_slice())
        .bind(seconds(ends));
        run(&mut work, query).await?;
        self.note(work, entries).await
    }

    pub(super) async fn count_attempt(
        &self,
        attempt: &Attempt,
        now: SystemTime,
    ) -> Stored<Result<(), u64>> {
        let mut work = self.write().await.map_err(unavailable)?;
        let now = seconds(now);
        let mut lanes = attempt.lanes.clone();
        let strangers = attempt.strangers.map(|bucket| (Lane::Strangers, bucket));
        if !is_known(&mut work, attempt.place.as_ref(), now).await? {
            lanes.extend(strangers);
        }
        let time = u64::try_from(now).unwrap_or_default();
        let mut counted = Vec::new();
        for (lane, bucket) in lanes {
            let counter = read_counter(&mut work, &bucket).await?;
            match lane.count(counter, time) {
                Ok(counter) => counted.push((bucket, counter)),
                Err(wait) => return Ok(Err(wait)),
            }
        }
        for (bucket, counter) in counted {
            run(&mut work, upsert_counter(&bucket, counter)).await?;
        }
        work.commit().await.map_err(unavailable)?;
        Ok(Ok(()))
    }

    pub(super) async fn forget_attempts(&self, now: SystemTime) -> Stored<()> {
        let mut work = self.write().await.map_err(unavailable)?;
        forget(&mut work, seconds(now)).await?;
        self.note(work, &[]).await
    }

    pub(super) async fn insert_session(
        &self,
        session: &Session,
        attempt: &Attempt,
        entries: &[Entry],
    ) -> Stored<()> {
        let mut work = self.write().await.map_err(unavailable)?;
        let now = seconds(session.opened_at);
        forgive(&mut work, attempt, now).await?;
        forget(&mut work, now).await?;
        run(&mut work, insert_session(session)).await?;
        self.note(work, entries).await
    }

    pub(super) async fn read_session(
        &self,
        namespace: &Namespace,
        id: &SessionId,
        token: Option<&KeyId>,
    ) -> Stored<Option<FoundSession>> {
        let query = statement(concat!(
            "SELECT ",
            session_columns!(),
            ", ",
            account_columns!(),
            ", (SELECT COUNT(*) FROM revoked_tokens t WHERE t.id = $3) AS revoked
              FROM sessions s
              JOIN agents a ON a.namespace = s.namespace AND a.id = s.agent
              LEFT JOIN passwords p ON p.namespace = s.namespace AND p.agent = s.agent
              WHERE s.namespace = $1 AND s.id = $2"
        ))
        .bind(namespace.as_str())
        .bind(id.as_str())
        .bind(token.map_or("", KeyId::as_str));
        let read = |row: &Row| {
            let (agent, password) = account(row)?;
            Ok(FoundSession {
                session: session(row)?,
                agent,
                password,
                revoked: Columns::new(row, "access token").flag("revoked")?,
            })
        };
        self.find(query, read).await
    }

    pub(super) async fn update_session(
        &self,
        read: &Session,
        session: &Session,
        entries: &[Entry],
    ) -> Stored<()> {
        let mut work = self.write().await.map_err(unavailable)?;
        let query = statement(
            "UPDATE sessions SET generation = $4, rotated_at_ms = $5, idle_until = $6,
                ended_at = $7, seal = $8
             WHERE namespace = $1 AND id = $2 AND seal = $3",
        )
        .bind(session.namespace.as_str())
        .bind(session.id.as_str())
        .bind(read.seal.0.as_slice())
        .bind(i64::from(session.generation))
        .bind(millis(session.rotated_at))
        .bind(seconds(session.idle_until))
        .bind(session.ended_at.map(seconds))
        .bind(session.seal.0.as_slice());
        if run(&mut work, query).await? == 0 {
            return Err(StorageError::Changed);
        }
        self.note(work, entries).await
    }

    pub(super) async fn read_sessions(
        &self,
        namespace: &Namespace,
        agent: &AgentId,
        now: SystemTime,
    ) -> Stored<Vec<Session>> {
        let query = statement(concat!(
            "SELECT ",
            session_columns!(),
            " FROM sessions s
              JOIN passwords p ON p.namespace = s.namespace AND p.agent = s.agent
                AND p.id = s.password
              WHERE s.namespace = $1 AND s.agent = $2 AND s.ended_at IS NULL
                AND s.idle_until > $3 AND s.ends_at > $3
              ORDER BY s.opened_at DESC, s.id LIMIT 200"
        ))
        .bind(namespace.as_str())
        .bind(agent.as_str())
        .bind(seconds(now));
        self.find_all(query, session).await
    }

    pub(super) async fn replace_factor(
        &self,
        factor: &SecondFactor,
        confirmed: Option<Confirmed<'_>>,
        entries: &[Entry],
    ) -> Stored<()> {
        let mut work = self.write().await.map_err(unavailable)?;
        let step = confirmed.map_or(0, |confirmed| confirmed.step);
        // One that counts is not overwritten by one that is being enrolled.
        let query = statement(
            "INSERT INTO second_factors (namespace, agent, nonce, ciphertext, created_at,
                confirmed_at, last_step, seal)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
             ON CONFLICT (namespace, agent) DO UPDATE SET nonce = excluded.nonce,
                ciphertext = excluded.ciphertext, created_at = excluded.created_at,
                confirmed_at = excluded.confirmed_at, last_step = excluded.last_step,
                seal = excluded.seal
             WHERE second_factors.confirmed_at IS NULL",
        )
        .bind(factor.namespace.as_str())
        .bind(factor.agent.as_str())
        .bind(factor.sealed.nonce.as_slice())
        .bind(factor.sealed.ciphertext.clone())
        .bind(seconds(factor.created_at))
        .bind(factor.confirmed_at.map(seconds))
        .bind(integer(step))
        .bind(factor.seal.0.as_slice());
        if run(&mut work, query).await? == 0 {
            return Err(StorageError::Changed);
        }
        let recovery = confirmed.map_or(&[][..], |confirmed| confirmed.recovery);
        put_recovery(&mut work, &factor.namespace, &factor.agent, recovery).await?;
        if let Some(confirmed) = confirmed {
            update_password(&mut work, confirmed.read, confirmed.password).await?;
        }
        self.note(work, entries).await
    }

    pub(super) async fn replace_recovery(
        &self,
        namespace: &Namespace,
        agent: &AgentId,
        step: u64,
        hashes: &[[u8; 32]],
        entries: &[Entry],
    ) -> Stored<bool> {
        let mut work = self.write().await.map_err(unavailable)?;
        if run(&mut work, use_step(namespace, agent, step)).await? == 0 {
            return Ok(false);
        }
        put_recovery(&mut work, namespace, agent, hashes).await?;
        self.note(work, entries).await?;
        Ok(true)
    }

    pub(super) async fn delete_factor(
        &self,
        namespace: &Namespace,
        agent: &AgentId,
        with_password: bool,
        entries: &[Entry],
    ) -> Stored<()> {
        let mut work = self.write().await.map_err(unavailable)?;
        forget_recovery(&mut work, namespace, agent).await?;
        let mut tables = vec!["DELETE FROM second_factors WHERE namespace = $1 AND agent = $2"];
        if with_password {
            tables.push("DELETE FROM passwords WHERE namespace = $1 AND agent = $2");
        }
        for sql in tables {
            let query = statement(sql).bind(namespace.as_str()).bind(agent.as_str());
            run(&mut work, query).await?;
        }
        self.note(work, entries).await
    }

    pub(super) async fn take_step(
        &self,
        namespace: &Namespace,
        agent: &AgentId,
        step: u64,
    ) -> Stored<bool> {
        let mut work = self.write().await.map_err(unavailable)?;
        let used = run(&mut work, use_step(namespace, agent, step)).await? == 1;
        work.commit().await.map_err(unavailable)?;
        Ok(used)
    }

    pub(super) async fn take_recovery(
        &self,
        namespace: &Namespace,
        agent: &AgentId,
        hash: &[u8; 32],
        entries: &[Entry],
    ) -> Stored<bool> {
        let mut work = self.write().await.map_err(unavailable)?;
        let query = statement(
            "DELETE FROM recovery_codes WHERE namespace = $1 AND agent = $2 AND hash = $3",
        )
        .bind(namespace.as_str())
        .bind(agent.as_str())
        .bind(hash.as_slice());
        if run(&mut work, query).await? == 0 {
            return Ok(false);
        }
        self.note(work, entries).await?;
        Ok(true)
    }
}

/// Uses up a step of a second factor that counts, and those before it.
fn use_step(namespace: &Namespace, agent: &AgentId, step: u64) -> Statement {
    statement(
        "UPDATE second_factors SET last_step = $3
         WHERE namespace = $1 AND agent = $2 AND confirmed_at IS NOT NULL AND last_step < $3",
    )
    .bind(namespace.as_str())
    .bind(agent.as_str())
    .bind(integer(step))
}

/// Stores the hashes of recovery codes instead of those there are.
async fn put_recovery(
    work: &mut Work,
    namespace: &Namespace,
    agent: &AgentId,
    hashes: &[[u8; 32]],
) -> Stored<()> {
    forget_recovery(work, namespace, agent).await?;
    for hash in hashes {
        let query =
            statement("INSERT INTO recovery_codes (hash, namespace, agent) VALUES ($1, $2, $3)")
                .bind(hash.as_slice())
                .bind(namespace.as_str())
                .bind(agent.as_str());
        run(work, query).await?;
    }
    Ok(())
}

async fn forget_recovery(work: &mut Work, namespace: &Namespace, agent: &AgentId) -> Stored<()> {
    let query = statement("DELETE FROM recovery_codes WHERE namespace = $1 AND agent = $2")
        .bind(namespace.as_str())
        .bind(agent.as_str());
    run(work, query).await.map(drop)
}

/// The second factor of an account, beside the columns of its agent.
fn factor(row: &Row, agent: &Agent) -> Result<Option<SecondFactor>, RowError> {
    let columns = Columns::new(row, "second factor");
    let Some(ciphertext) = columns.raw::<Option<&[u8]>>("factor_ciphertext")? else {
        return Ok(None);
    };
    Ok(Some(SecondFactor {
        namespace: agent.namespace.clone(),
        agent: agent.id.clone(),
        sealed: Sealed {
            nonce: columns.bytes("factor_nonce")?,
            ciphertext: ciphertext.to_vec(),
        },
        created_at: columns.seconds("factor_created_at")?,
        confirmed_at: columns.optional_seconds("factor_confirmed_at")?,
        seal: Mac(columns.bytes("factor_seal")?),
    }))
}

async fn run(work: &mut Work, query: Statement) -> Stored<u64> {
    work.run(query).await.map_err(unavailable)
}

/// Stores an agent's next password, if the one before still is what was read.
pub(super) async fn update_password(
    work: &mut Work,
    read: &Password,
    password: &Password,
) -> Stored<()> {
    let query = statement(
        "UPDATE passwords SET id = $4, hash = $5, is_long = $6, seal = $7
         WHERE namespace = $1 AND agent = $2 AND seal = $3",
    )
    .bind(password.namespace.as_str())
    .bind(password.agent.as_str())
    .bind(read.seal.0.as_slice())
    .bind(password.id.as_str())
    .bind(password.hash.as_str())
    .bind(i64::from(password.long))
    .bind(password.seal.0.as_slice());
    if run(work, query).await? == 0 {
        return Err(StorageError::Changed);
    }
    Ok(())
}

fn upsert_password(password: &Password) -> Statement {
    statement(
        "INSERT INTO passwords (namespace, agent, id, hash, is_long, seal)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (namespace, agent) DO UPDATE SET id = excluded.id, hash = excluded.hash,
            is_long = excluded.is_long, seal = excluded.seal",
    )
    .bind(password.namespace.as_str())
    .bind(password.agent.as_str())
    .bind(password.id.as_str())
    .bind(password.hash.as_str())
    .bind(i64::from(password.long))
    .bind(password.seal.0.as_slice())
}

/// Whether somebody has signed in from there lately.
async fn is_known(work: &mut Work, place: Option<&[u8; 32]>, now: i64) -> Stored<bool> {
    let Some(place) = place else {
        return Ok(true);
    };
    let query = statement("SELECT seen_at FROM known_places WHERE bucket = $1 AND seen_at > $2")
        .bind(place.as_slice())
        .bind(now - seconds(UNIX_EPOCH + KNOWN_FOR));
    Ok(work.one(query).await.map_err(unavailable)?.is_some())
}

async fn read_counter(work: &mut Work, bucket: &[u8; 32]) -> Stored<Option<Counter>> {
    let query = statement("SELECT attempts, since, not_before FROM attempts WHERE bucket = $1")
        .bind(bucket.as_slice());
    let row = work.one(query).await.map_err(unavailable)?;
    let counter = row.as_ref().map(|row| {
        let columns = Columns::new(row, "count of attempts");
        Ok::<_, RowError>(Counter {
            attempts: columns.number("attempts")?,
            since: columns.number("since")?,
            not_before: columns.number("not_before")?,
        })
    });
    Ok(counter.transpose()?)
}

fn upsert_counter(bucket: &[u8; 32], counter: Counter) -> Statement {
    statement(
        "INSERT INTO attempts (bucket, attempts, since, not_before) VALUES ($1, $2, $3, $4)
         ON CONFLICT (bucket) DO UPDATE SET attempts = excluded.attempts, since = excluded.since,
            not_before = excluded.not_before",
    )
    .bind(bucket.as_slice())
    .bind(i64::from(counter.attempts))
    .bind(integer(counter.since))
    .bind(integer(counter.not_before))
}

/// An attempt that succeeded does not count, and its place is known from now on.
async fn forgive(work: &mut Work, attempt: &Attempt, now: i64) -> Stored<()> {
    for (lane, bucket) in &attempt.lanes {
        let query = match lane {
            Lane::Pair => statement("DELETE FROM attempts WHERE bucket = $1"),
            Lane::Source | Lane::Strangers => uncount(),
        };
        run(work, query.bind(bucket.as_slice())).await?;
    }
    if let Some(strangers) = &attempt.strangers
        && !is_known(work, attempt.place.as_ref(), now).await?
    {
        run(work, uncount().bind(strangers.as_slice())).await?;
    }
    if let Some(place) = &attempt.place {
        let query = statement(
            "INSERT INTO known_places (bucket, seen_at) VALUES ($1, $2)
             ON CONFLICT (bucket) DO UPDATE SET seen_at = excluded.seen_at",
        )
        .bind(place.as_slice())
        .bind(now);
        run(work, query).await?;
    }
    Ok(())
}

fn uncount() -> Statement {
    statement("UPDATE attempts SET attempts = attempts - 1 WHERE bucket = $1 AND attempts > 0")
}

/// Clears away what decides nothing any more.
async fn forget(work: &mut Work, now: i64) -> Stored<()> {
    let before = |age: Duration| now - seconds(UNIX_EPOCH + age);
    let attempts = statement("DELETE FROM attempts WHERE since < $1 AND not_before < $2")
        .bind(before(FORGOTTEN))
        .bind(now);
    run(work, attempts).await?;
    for (sql, age) in [
        ("DELETE FROM known_places WHERE seen_at < $1", KNOWN_FOR),
        ("DELETE FROM sessions WHERE ends_at < $1", REMEMBERED),
        (
            "DELETE FROM invitations WHERE expires_at < $1",
            Duration::ZERO,
        ),
    ] {
        run(work, statement(sql).bind(before(age))).await?;
    }
    Ok(())
}

fn insert_session(session: &Session) -> Statement {
    statement(
        "INSERT INTO sessions (id, namespace, agent, client, salt, generation, rotated_at_ms,
            opened_at, idle_until, ends_at, scopes, second_factor, password, ended_at, seal)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
    )
    .bind(session.id.as_str())
    .bind(session.namespace.as_str())
    .bind(session.agent.as_str())
    .bind(session.client.as_str())
    .bind(session.salt.as_slice())
    .bind(i64::from(session.generation))
    .bind(millis(session.rotated_at))
    .bind(seconds(session.opened_at))
    .bind(seconds(session.idle_until))
    .bind(seconds(session.ends_at))
    .bind(session.scopes.codes().map(|codes| json(&codes)))
    .bind(i64::from(session.second_factor))
    .bind(session.password.as_str())
    .bind(session.ended_at.map(seconds))
    .bind(session.seal.0.as_slice())
}

fn session(row: &Row) -> Result<Session, RowError> {
    let columns = Columns::new(row, "session");
    Ok(Session {
        id: columns.parsed("id")?,
        namespace: columns.parsed("namespace")?,
        agent: columns.parsed("agent")?,
        client: columns.parsed("client")?,
        salt: columns.bytes("salt")?,
        generation: columns.number("generation")?,
        rotated_at: UNIX_EPOCH + Duration::from_millis(columns.number("rotated_at_ms")?),
        opened_at: columns.seconds("opened_at")?,
        idle_until: columns.seconds("idle_until")?,
        ends_at: columns.seconds("ends_at")?,
        scopes: scopes(&columns)?,
        second_factor: columns.flag("second_factor")?,
        password: columns.parsed("password")?,
        ended_at: columns.optional_seconds("ended_at")?,
        seal: Mac(columns.bytes("seal")?),
    })
}

/// The columns of an agent and its password.
fn account(row: &Row) -> Result<(Agent, Option<Password>), RowError> {
    let columns = Columns::new(row, "agent");
    let agent = Agent {
        namespace: columns.parsed("agent_namespace")?,
        id: columns.parsed("agent_id")?,
        kind: columns.parsed("agent_kind")?,
        roles: super::roles(&columns, "agent_roles")?,
        created_at: columns.seconds("agent_created_at")?,
        created_by: columns.optional("agent_created_by")?,
        federated: super::federated(&columns, super::AGENT_FEDERATED)?,
        retired_at: columns.optional_seconds("agent_retired_at")?,
        seal: Mac(columns.bytes("agent_seal")?),
    };
    let columns = Columns::new(row, "password");
    let id: Option<KeyId> = columns.optional("password_id")?;
    let password = id.map(|id| {
        Ok::<_, RowError>(Password {
            namespace: agent.namespace.clone(),
            agent: agent.id.clone(),
            id,
            hash: columns.raw::<&str>("password_hash")?.to_owned(),
            long: columns.flag("password_long")?,
            seal: Mac(columns.bytes("password_seal")?),
        })
    });
    let password = password.transpose()?;
    Ok((agent, password))
}

fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
