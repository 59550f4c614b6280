//! Signing in with a password, and staying signed in.

use crate::{
    AccessToken, Account, Agent, Identity, IdentityError, NoToken, Password, Principal,
    Unauthenticated,
    access::{Claims, Proof, scopes},
    identity::TRIES,
    principal::Credential,
    session::{IDLE, LIFE, PresentedRefresh, Refresh, Session, decide},
};
use secrecy::SecretString;
use std::{fmt, net::IpAddr, time::SystemTime};
use xylem_audit::{Entry, Kind, SubjectKind, Verdict};
use xylem_ids::{AgentId, ClientId, KeyId, Namespace, Scope, Scopes, SessionId};
use xylem_recall::Revision;
use xylem_seal::{CryptoError, Mac, random_id, random_key};

/// Somebody who signs in.
pub struct SignIn<'a> {
    /// The name.
    pub name: &'a str,
    /// The password.
    pub password: &'a SecretString,
    /// The one-time code, or a recovery code.
    pub code: Option<&'a str>,
    /// With what.
    pub client: ClientId,
    /// What it is to be narrowed to.
    pub scope: Option<&'a str>,
    /// What an earlier sign-in on this device answered.
    pub device: Option<&'a str>,
    /// Where the call came from.
    pub address: Option<IpAddr>,
}

impl fmt::Debug for SignIn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SignIn")
    }
}

/// A session that was opened or goes on.
#[derive(Debug)]
pub struct SignedIn {
    /// The access token.
    pub access: AccessToken,
    /// What the next one is had for.
    pub refresh: SecretString,
    /// What makes this device known, where somebody has just signed in on it.
    pub device: Option<SecretString>,
}

/// What a session's row is read with.
#[derive(Debug, Clone)]
pub struct FoundSession {
    /// The session.
    pub session: Session,
    /// Whose it is, as it is now.
    pub agent: Agent,
    /// The agent's password, as it is now.
    pub password: Option<Password>,
    /// Whether the access token that was asked about was revoked.
    pub revoked: bool,
}

impl Identity {
    /// Signs somebody in. Whatever is wrong, the answer is the same and takes as long.
    ///
    /// # Errors
    /// The name or the password is wrong, the scope is not known, or the attempt has to wait.
    pub async fn sign_in(
        &self,
        namespace: &Namespace,
        given: SignIn<'_>,
        entry: Entry,
    ) -> Result<SignedIn, NoToken> {
        let narrowed = scopes(given.scope).ok_or(NoToken::Scope)?;
        let name: Option<AgentId> = given.name.parse().ok();
        let device = name.as_ref().zip(given.device);
        let device = device.and_then(|(id, token)| self.device(namespace, id, token));
        let attempt = self.attempt(namespace, given.name, given.address, device);
        self.admit(&attempt, entry.at).await?;
        let (account, password) = self.check(namespace, name, given.password).await?;
        let second_factor = self.check_factor(&account, given.code, &entry).await?;
        let agent = account.agent;
        let mut session = self.open(&agent, &password, given.client, narrowed, entry.at)?;
        session.second_factor = second_factor;
        let session = self.secrets.seal_session(session);
        let entry = by(entry, &session);
        let entries = [entry];
        let opened = self.storage.open_session(&session, &attempt, &entries);
        opened.await.map_err(IdentityError::from)?;
        let device = self.device_token(namespace, &agent.id);
        let device = device.map_err(IdentityError::from)?;
        let now = session.opened_at;
        let mut signed_in = self.hand_out(session, agent, None, now).await?;
        signed_in.device = Some(device);
        Ok(signed_in)
    }

    /// The account and its password, if that is the one.
    async fn check(
        &self,
        namespace: &Namespace,
        name: Option<AgentId>,
        given: &SecretString,
    ) -> Result<(Account, Password), NoToken> {
        let account = match &name {
            Some(name) => self.account(namespace, name).await?,
            None => None,
        };
        let known = account
            .as_ref()
            .and_then(|account| account.password.as_ref());
        let known = known.map(|password| password.hash.clone());
        let right = self.hasher.verify(given, known).await?;
        let account = account.filter(|_| right);
        let account = account.ok_or(NoToken::Grant("password_wrong"))?;
        let password = account.password.clone();
        let password = password.ok_or(NoToken::Grant("password_wrong"))?;
        if account.agent.retired_at.is_some() {
            return Err(NoToken::Grant("agent_retired"));
        }
        Ok((account, password))
    }

    fn open(
        &self,
        agent: &Agent,
        password: &Password,
        client: ClientId,
        scopes: Scopes,
        now: SystemTime,
    ) -> Result<Session, IdentityError> {
        Ok(self.secrets.seal_session(Session {
            id: random_id()?.parse().map_err(|_| CryptoError)?,
            namespace: agent.namespace.clone(),
            agent: agent.id.clone(),
            client,
            salt: *random_key()?,
            generation: 0,
            rotated_at: now,
            opened_at: now,
            idle_until: now + IDLE,
            ends_at: now + LIFE,
            scopes,
            second_factor: false,
            password: password.id.clone(),
            ended_at: None,
            seal: Mac([0; 32]),
        }))
    }

    /// Gives out the successor of a refresh token, and an access token. A token that was used before
    /// ends its session, except that whoever lost the answer gets the same one again for a moment.
    ///
    /// # Errors
    /// The token is not good, or does not have the scope.
    pub async fn refresh(
        &self,
        namespace: &Namespace,
        token: &SecretString,
        client: &ClientId,
        scope: Option<&str>,
        entry: Entry,
    ) -> Result<SignedIn, NoToken> {
        let forged = NoToken::Grant("refresh_malformed");
        let presented = PresentedRefresh::parse(token).ok_or(forged)?;
        for _ in 0..TRIES {
            let tried = self.refresh_once(namespace, &presented, client, scope, &entry);
            match tried.await {
                Err(NoToken::NotNow(IdentityError::Changed)) => {}
                done => return done,
            }
        }
        Err(IdentityError::Changed.into())
    }

    async fn refresh_once(
        &self,
        namespace: &Namespace,
        presented: &PresentedRefresh,
        client: &ClientId,
        scope: Option<&str>,
        entry: &Entry,
    ) -> Result<SignedIn, NoToken> {
        let now = entry.at;
        let found = self.found(namespace, &presented.session, None).await?;
        let found = found.ok_or(NoToken::Grant("refresh_unknown"))?;
        let session = found.session;
        let came_to = decide(&session, &self.secrets.refresh, presented, client, now);
        if came_to == Refresh::Forged {
            return Err(NoToken::Grant("refresh_forged"));
        }
        if found.agent.retired_at.is_some() {
            return Err(NoToken::Grant("agent_retired"));
        }
        if !session.is_open(found.password.as_ref(), now) {
            return Err(NoToken::Grant("session_over"));
        }
        let narrowed = match scope {
            None => None,
            Some(_) => Some(
                scopes(scope)
                    .filter(|scopes| scopes.within(&session.scopes))
                    .ok_or(NoToken::Scope)?,
            ),
        };
        let session = match came_to {
            Refresh::Rotate => self.rotate(session, now).await?,
            Refresh::Again => session,
            Refresh::Reuse => return Err(self.end(session, "refresh_reused", entry).await?),
            Refresh::OtherClient => return Err(self.end(session, "other_client", entry).await?),
            Refresh::RolledBack | Refresh::Forged => {
                return Err(self.end(session, "session_rolled_back", entry).await?);
            }
        };
        self.hand_out(session, found.agent, narrowed, now).await
    }

    async fn rotate(&self, old: Session, now: SystemTime) -> Result<Session, IdentityError> {
        let mut new = old.clone();
        new.generation = old.generation.checked_add(1).ok_or(CryptoError)?;
        new.rotated_at = now;
        new.idle_until = (now + IDLE).min(old.ends_at);
        let new = self.secrets.seal_session(new);
        self.storage.replace_session(&old, &new, &[]).await?;
        Ok(new)
    }

    /// Ends a session because of what was presented.
    async fn end(
        &self,
        session: Session,
        reason: &'static str,
        entry: &Entry,
    ) -> Result<NoToken, IdentityError> {
        let mut entry = Entry::new(entry.at, Kind::SessionReused, Verdict::Denied).during(entry);
        entry.reason = Some(xylem_audit::Reason::of(reason));
        self.close(session, entry).await?;
        Ok(NoToken::Grant(reason))
    }

    async fn close(&self, old: Session, entry: Entry) -> Result<(), IdentityError> {
        let mut new = old.clone();
        new.ended_at = Some(entry.at);
        let new = self.secrets.seal_session(new);
        let entry = by(entry, &new);
        Ok(self.storage.replace_session(&old, &new, &[entry]).await?)
    }

    /// Ends the session of a refresh token, for whoever has it. The answer does not say whether there
    /// was one.
    ///
    /// # Errors
    /// The storage failed.
    pub(crate) async fn sign_out(
        &self,
        namespace: &Namespace,
        token: &SecretString,
        entry: Entry,
    ) -> Result<(), IdentityError> {
        let Some(presented) = PresentedRefresh::parse(token) else {
            return Ok(());
        };
        for _ in 0..TRIES {
            let found = self.found(namespace, &presented.session, None).await?;
            let Some(FoundSession { session, .. }) = found else {
                return Ok(());
            };
            let client = session.client.clone();
            let key = &self.secrets.refresh;
            let forged = decide(&session, key, &presented, &client, entry.at) == Refresh::Forged;
            if forged || session.ended_at.is_some() {
                return Ok(());
            }
            match self.close(session, entry.clone()).await {
                Err(IdentityError::Changed) => {}
                done => return done,
            }
        }
        Err(IdentityError::Changed)
    }

    /// The sessions of an agent that go on, the newest first.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn sessions(
        &self,
        namespace: &Namespace,
        agent: &AgentId,
        now: SystemTime,
    ) -> Result<Vec<Session>, IdentityError> {
        let found = self.storage.sessions(namespace, agent, now).await?;
        let sound = found.into_iter().map(|row| self.secrets.check_session(row));
        sound.collect()
    }

    /// Ends a session of an agent. Ending it again changes nothing.
    ///
    /// # Errors
    /// There is no such session, or the storage failed.
    pub async fn end_session(
        &self,
        namespace: &Namespace,
        agent: &AgentId,
        id: &SessionId,
        entry: Entry,
    ) -> Result<(), IdentityError> {
        for _ in 0..TRIES {
            let found = self.found(namespace, id, None).await?;
            let found = found.filter(|found| found.session.agent == *agent);
            let found = found.ok_or(IdentityError::NotFound { what: "session" })?;
            if found.session.ended_at.is_some() {
                return Ok(());
            }
            match self.close(found.session, entry.clone()).await {
                Err(IdentityError::Changed) => {}
                done => return done,
            }
        }
        Err(IdentityError::Changed)
    }

    async fn hand_out(
        &self,
        session: Session,
        agent: Agent,
        narrowed: Option<Scopes>,
        now: SystemTime,
    ) -> Result<SignedIn, NoToken> {
        let refresh = session.token(&self.secrets.refresh);
        let proof = Proof {
            client: session.client.clone(),
            session: Some(session.id.clone()),
            signed_in: Some(session.opened_at),
            second_factor: session.second_factor,
        };
        let mut caller = self.admitted(&session, agent, self.revision().await?);
        if let Some(narrowed) = narrowed {
            caller.scopes = narrowed.and(&caller.scopes);
        }
        Ok(SignedIn {
            access: self.issue(caller, proof, now).await?,
            refresh,
            device: None,
        })
    }

    /// Who presents an access token of a session.
    pub(crate) async fn authenticate_session(
        &self,
        claims: &Claims,
        session: &SessionId,
        now: SystemTime,
    ) -> Result<Principal, Unauthenticated> {
        let at = self.revision().await?;
        let found = self.found(&claims.ns, session, Some(&claims.jti)).await?;
        let found = found.ok_or(Unauthenticated::Token("session_unknown"))?;
        if found.revoked {
            return Err(Unauthenticated::Token("token_revoked"));
        }
        let open = found.session.is_open(found.password.as_ref(), now);
        if !open || found.session.agent != claims.sub {
            return Err(Unauthenticated::Token("session_over"));
        }
        if found.agent.retired_at.is_some() {
            return Err(Unauthenticated::Retired(found.agent.id));
        }
        Ok(self.admitted(&found.session, found.agent, at))
    }

    /// Who had a session, if it goes on.
    pub(crate) async fn session_standing(
        &self,
        namespace: &Namespace,
        session: &SessionId,
        token: Option<&KeyId>,
        now: SystemTime,
    ) -> Result<Principal, Unauthenticated> {
        let at = self.revision().await?;
        let found = self.found(namespace, session, token).await?;
        let found = found.ok_or(Unauthenticated::Token("session_unknown"))?;
        if found.revoked {
            return Err(Unauthenticated::Token("token_revoked"));
        }
        if !found.session.is_open(found.password.as_ref(), now) {
            return Err(Unauthenticated::Token("session_over"));
        }
        if found.agent.retired_at.is_some() {
            return Err(Unauthenticated::Retired(found.agent.id));
        }
        Ok(self.admitted(&found.session, found.agent, at))
    }

    /// Who has a session that goes on.
    fn admitted(&self, session: &Session, agent: Agent, at: Revision) -> Principal {
        let lacks_factor = self.needs_factor(&agent) && !session.second_factor;
        let scopes = if lacks_factor {
            session.scopes.and(&Scopes::from_iter([Scope::Account]))
        } else {
            session.scopes.clone()
        };
        Principal {
            credential: Credential::Session(session.id.clone()),
            namespace: agent.namespace,
            agent: agent.id,
            kind: agent.kind,
            roles: agent.roles,
            scopes,
            queues: std::collections::BTreeSet::new(),
            networks: Vec::new(),
            until: None,
            token: None,
            token_until: None,
            signed_in: Some(session.opened_at),
            second_factor: session.second_factor,
            lacks_factor,
            as_of: at,
        }
    }

    async fn found(
        &self,
        namespace: &Namespace,
        id: &SessionId,
        token: Option<&KeyId>,
    ) -> Result<Option<FoundSession>, IdentityError> {
        let Some(found) = self.storage.session(namespace, id, token).await? else {
            return Ok(None);
        };
        let password = found.password.map(|row| self.secrets.check_password(row));
        Ok(Some(FoundSession {
            session: self.secrets.check_session(found.session)?,
            agent: self.secrets.check_agent(found.agent)?,
            password: password.transpose()?,
            revoked: found.revoked,
        }))
    }
}

fn by(mut entry: Entry, session: &Session) -> Entry {
    entry.namespace = Some(session.namespace.clone());
    entry.owner = Some(session.agent.clone());
    if entry.agent.is_none() && entry.verdict == Verdict::Succeeded {
        entry.agent = Some(session.agent.clone());
    }
    entry.second_factor |= session.second_factor;
    entry.regarding(SubjectKind::Session, &session.id)
}
