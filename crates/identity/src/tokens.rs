//! Exchanging a key for access tokens, and finding out who presents one.

use crate::{
    Credential, Identity, IdentityError, KEY_PREFIX, Principal, PublishedKey, REFRESH_PREFIX,
    Unauthenticated,
    access::{
        ACCESS_LIFE, Claims, Proof, Reject, UnverifiedAccess, scope_text, scopes, seconds, sign,
    },
    identity::admit_key,
    key::Recalled,
    signing::{KeySet, SigningKey, generate},
};
use secrecy::{ExposeSecret, SecretString};
use std::{
    fmt,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use xylem_audit::{Entry, Kind, Reason, SubjectKind, Verdict};
use xylem_ids::{KeyId, Namespace};
use xylem_seal::{CryptoError, random_id};

/// Keys that other instances made are seen after so long,
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// and at once where a token names one that is not known, but not more often than this.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A fresh access token. It is kept nowhere.
pub struct AccessToken {
    /// The token.
    pub text: SecretString,
    /// Its id, for the audit log.
    pub id: KeyId,
    /// How long it works.
    pub lives: Duration,
    /// What it is narrowed to, as RFC 6749 writes it; whatever the roles give where absent.
    pub scope: Option<String>,
    /// Whose it is.
    pub principal: Principal,
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum NoToken {
    /// The name, the password, the code or the refresh token is not good; which is for the log alone.
    #[error("what was presented is not good")]
    Grant(&'static str),
    /// It cannot be decided, or it has to wait.
    #[error(transparent)]
    NotNow(#[from] IdentityError),
    /// The client's id and secret do not fit each other, or the secret is not accepted.
    #[error("the client is not accepted")]
    Client(#[from] Unauthenticated),
    /// The id is that of somebody else than the secret.
    #[error("the client id is not that of the secret")]
    OtherClient,
    /// A scope is not known, or the key does not have it.
    #[error("scope must be known scopes that the key has")]
    Scope,
}

/// What became of a token that was to be revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevokedToken {
    /// It works no more, or never did: whoever presents it learns nothing.
    Done,
    /// It is an API key, which is revoked by its id.
    Unsupported,
}

/// The signing key that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextSigningKey {
    /// Its id, which tokens name as their `kid`.
    pub id: KeyId,
    /// From when on it signs.
    pub signs_from: SystemTime,
}

/// The key set as it was last read.
#[derive(Debug, Default)]
pub(crate) struct Cached(RwLock<Kept>);

#[derive(Debug, Default)]
struct Kept {
    keys: Arc<KeySet>,
    /// When it was read; not since it was forgotten.
    at: Option<SystemTime>,
    /// How often it was forgotten.
    forgotten: u64,
}

impl Identity {
    /// Exchanges an API key for an access token of 15 minutes (RFC 6749, client credentials). The
    /// client's id is the agent's name or the key's id. The token ends with its key.
    ///
    /// # Errors
    /// The key is not accepted, is another client's, or does not have the scope.
    pub async fn exchange(
        &self,
        client: &str,
        secret: &str,
        scope: Option<&str>,
        address: Option<IpAddr>,
        now: SystemTime,
    ) -> Result<AccessToken, NoToken> {
        let caller = self.authenticate_key(secret, address, now).await?;
        let Credential::Key(key) = caller.credential().clone() else {
            return Err(NoToken::OtherClient);
        };
        if client != caller.agent().as_str() && client != key.as_str() {
            return Err(NoToken::OtherClient);
        }
        let narrowed = match scope {
            None => caller.scopes().clone(),
            Some(_) => scopes(scope)
                .filter(|scopes| scopes.within(caller.scopes()))
                .ok_or(NoToken::Scope)?,
        };
        let proof = Proof {
            client: key
                .as_str()
                .parse()
                .map_err(|_| CryptoError)
                .map_err(IdentityError::from)?,
            session: None,
            signed_in: None,
            second_factor: false,
        };
        let caller = Principal {
            scopes: narrowed,
            ..caller
        };
        Ok(self.issue(caller, proof, now).await?)
    }

    /// Signs a token for a caller, narrowed to what the caller is narrowed to.
    pub(crate) async fn issue(
        &self,
        caller: Principal,
        proof: Proof,
        now: SystemTime,
    ) -> Result<AccessToken, IdentityError> {
        let longest = now + ACCESS_LIFE;
        let end = caller.until().map_or(longest, |until| until.min(longest));
        let id: KeyId = random_id()?.parse().map_err(|_| CryptoError)?;
        let scope = scope_text(caller.scopes());
        let claims = Claims {
            iss: self.issuer.to_string(),
            aud: self.issuer.to_string(),
            sub: caller.agent().clone(),
            client_id: proof.client,
            sid: proof.session,
            auth_time: proof.signed_in.map(seconds),
            second_factor: proof.second_factor,
            iat: seconds(now),
            exp: seconds(end),
            jti: id.clone(),
            ns: caller.namespace().clone(),
            scope: scope.clone(),
        };
        let keys = self.key_set(None, now).await?;
        let key = keys.signing(now).ok_or(CryptoError)?;
        Ok(AccessToken {
            text: SecretString::from(sign(key, &claims)?),
            id,
            lives: Duration::from_secs(claims.exp.saturating_sub(claims.iat)),
            scope,
            principal: caller,
        })
    }

    /// Finds out who presents a key, an access token or one of an identity provider, and what that agent may do now.
    ///
    /// # Errors
    /// Says why it is not accepted, for the audit log.
    pub async fn authenticate(
        &self,
        presented: &str,
        address: Option<IpAddr>,
        now: SystemTime,
    ) -> Result<Principal, Unauthenticated> {
        if presented.contains('.') && !presented.starts_with(KEY_PREFIX) {
            return match self.federation.of(presented) {
                Some(provider) => {
                    self.authenticate_foreign(provider, presented, address, now)
                        .await
                }
                None => self.authenticate_token(presented, address, now).await,
            };
        }
        self.authenticate_key(presented, address, now).await
    }

    async fn authenticate_token(
        &self,
        presented: &str,
        address: Option<IpAddr>,
        now: SystemTime,
    ) -> Result<Principal, Unauthenticated> {
        let claims = self.verified(presented, now).await?;
        let malformed = Unauthenticated::Token(Reject::Malformed.code());
        let narrowed = scopes(claims.scope.as_deref()).ok_or(malformed)?;
        let caller = match &claims.sid {
            Some(session) => self.authenticate_session(&claims, session, now).await?,
            None => self.authenticate_exchanged(&claims, address, now).await?,
        };
        // What the caller is narrowed to may have become less since.
        Ok(Principal {
            scopes: narrowed.and(&caller.scopes),
            token: Some(claims.jti),
            ..caller
        })
    }

    /// Who presents an access token that a key was exchanged for.
    async fn authenticate_exchanged(
        &self,
        claims: &Claims,
        address: Option<IpAddr>,
        now: SystemTime,
    ) -> Result<Principal, Unauthenticated> {
        let key = claims.client_id.as_str().parse();
        let key: KeyId = key.map_err(|_| Unauthenticated::Token(Reject::Malformed.code()))?;
        let at = self.revision().await?;
        let token = Recalled::Token(claims.ns.clone(), key.clone(), claims.jti.clone());
        let known = match self.recalled.get(at, &token) {
            Some(known) => known,
            None => {
                let found = self.storage.key_and_agent(&claims.ns, &key, &claims.jti);
                let found = found.await.map_err(IdentityError::from)?;
                let (key, agent, revoked) = found.ok_or(Unauthenticated::Unknown)?;
                if revoked {
                    return Err(Unauthenticated::Token("token_revoked"));
                }
                self.remember(at, token, key, agent)?
            }
        };
        if known.agent.id != claims.sub {
            return Err(Unauthenticated::Token("token_revoked"));
        }
        admit_key(&known, at, address, now)
    }

    async fn verified(&self, text: &str, now: SystemTime) -> Result<Claims, Unauthenticated> {
        let refused = |reject: Reject| Unauthenticated::Token(reject.code());
        let token = UnverifiedAccess::parse(text).map_err(refused)?;
        let keys = self.key_set(Some(&token.kid), now).await?;
        token.verify(&keys, &self.issuer, now).map_err(refused)
    }

    /// Revokes an access token, or ends the session of a refresh token: whoever presents it may.
    /// Anything else is none of ours, and no error (RFC 7009).
    ///
    /// # Errors
    /// The storage failed.
    pub async fn revoke_token(
        &self,
        namespace: &Namespace,
        token: &SecretString,
        mut entry: Entry,
    ) -> Result<RevokedToken, IdentityError> {
        let text = token.expose_secret();
        if text.starts_with(KEY_PREFIX) {
            return Ok(RevokedToken::Unsupported);
        }
        if text.starts_with(REFRESH_PREFIX) {
            entry.kind = Kind::SessionEnded;
            self.sign_out(namespace, token, entry).await?;
            return Ok(RevokedToken::Done);
        }
        let claims = match self.verified(text, entry.at).await {
            Ok(claims) => claims,
            Err(Unauthenticated::NotChecked(error)) => return Err(error),
            Err(_) => return Ok(RevokedToken::Done),
        };
        entry.agent = Some(claims.sub);
        entry.namespace = Some(claims.ns);
        let entry = entry.regarding(SubjectKind::Token, &claims.jti);
        let end = UNIX_EPOCH + Duration::from_secs(claims.exp);
        self.storage
            .revoke_token(&claims.jti, end, &[entry])
            .await?;
        Ok(RevokedToken::Done)
    }

    /// The public keys that access tokens verify with.
    ///
    /// # Errors
    /// The storage failed, or a key was edited.
    pub async fn published_keys(
        &self,
        now: SystemTime,
    ) -> Result<Vec<PublishedKey>, IdentityError> {
        Ok(self.key_set(None, now).await?.published(now))
    }

    /// Makes the next signing key. It is published at once, and signs when whoever keeps a key set for
    /// a while knows it; the ones before are published as long as tokens of theirs are good.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn rotate_signing_key(&self, entry: Entry) -> Result<NextSigningKey, IdentityError> {
        self.next_signing_key(false, entry).await
    }

    /// The same where somebody else may have the key that signs: the next one signs at once, and what
    /// the ones before have signed is good no more. Another process notices within a minute.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn replace_signing_keys(
        &self,
        mut entry: Entry,
    ) -> Result<NextSigningKey, IdentityError> {
        entry.reason = Some(Reason::of("compromised"));
        self.next_signing_key(true, entry).await
    }

    async fn next_signing_key(
        &self,
        alone: bool,
        entry: Entry,
    ) -> Result<NextSigningKey, IdentityError> {
        let row = generate(&self.secrets.cipher, entry.at)?;
        let signs_from = if alone { entry.at } else { row.signs_from() };
        let entries = [entry.regarding(SubjectKind::Key, &row.id)];
        let stored = self.storage.insert_signing_key(&row, alone, &entries);
        stored.await?;
        self.cached.forget();
        Ok(NextSigningKey {
            id: row.id,
            signs_from,
        })
    }

    /// The keys as they are now: read again where they may have changed. The next one is made where it
    /// is due.
    async fn key_set(
        &self,
        wanted: Option<&KeyId>,
        now: SystemTime,
    ) -> Result<Arc<KeySet>, IdentityError> {
        if let Some(keys) = self.cached.fresh(wanted, now) {
            return Ok(keys);
        }
        let mut forgotten = self.cached.forgotten();
        let mut keys = self.read_keys().await?;
        if keys.is_due(now) {
            let mut entry = Entry::new(now, Kind::SigningKeyMade, Verdict::Succeeded);
            // Who reads the log reads what is of a namespace: that of whoever made the key.
            entry.namespace = self.federation.namespace().cloned();
            self.rotate_signing_key(entry).await?;
            forgotten = self.cached.forgotten();
            keys = self.read_keys().await?;
        }
        let keys = Arc::new(keys);
        self.cached.keep(&keys, now, forgotten);
        Ok(keys)
    }

    async fn read_keys(&self) -> Result<KeySet, IdentityError> {
        let rows = self.storage.signing_keys().await?;
        let open = rows.iter().map(|row| {
            SigningKey::open(&self.secrets.cipher, row)?
                .ok_or_else(|| IdentityError::tampered("signing key", &row.id))
        });
        Ok(KeySet::new(open.collect::<Result<_, IdentityError>>()?))
    }
}

impl Cached {
    fn fresh(&self, wanted: Option<&KeyId>, now: SystemTime) -> Option<Arc<KeySet>> {
        let kept = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let age = match now.duration_since(kept.at?) {
            Ok(age) => age,
            // Another call was faster. Further ahead, the clock was set back, and nobody knows the age.
            Err(ahead) if ahead.duration() < LOOK_AGAIN => Duration::ZERO,
            Err(_) => return None,
        };
        let known = wanted.is_none_or(|id| kept.keys.find(id, now).is_some());
        let limit = if known { LOOK_EVERY } else { LOOK_AGAIN };
        (age < limit).then(|| Arc::clone(&kept.keys))
    }

    /// To be asked before keys are read that are to be kept.
    fn forgotten(&self) -> u64 {
        let kept = self.0.read().unwrap_or_else(PoisonError::into_inner);
        kept.forgotten
    }

    /// Keeps them, unless what is kept was forgotten since they were read: they may be those of before.
    fn keep(&self, keys: &Arc<KeySet>, now: SystemTime, forgotten: u64) {
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if kept.forgotten == forgotten {
            (kept.at, kept.keys) = (Some(now), Arc::clone(keys));
        }
    }

    fn forget(&self) {
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        (kept.at, kept.forgotten) = (None, kept.forgotten.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_key_set_is_read_again_after_a_minute_and_where_the_clock_was_set_back() {
        let cached = Cached::default();
        let fresh = |now| cached.fresh(None, at(now)).is_some();
        assert!(!fresh(1_000));
        cached.keep(&Arc::default(), at(1_000), 0);
        assert!(fresh(1_000) && fresh(1_059) && !fresh(1_060));
        let faster = at(1_000) - Duration::from_millis(10);
        assert!(cached.fresh(None, faster).is_some());
        assert!(!fresh(999) && !fresh(500));
    }

    #[test]
    fn what_was_read_before_it_was_forgotten_is_not_kept() {
        let cached = Cached::default();
        let before = cached.forgotten();
        cached.forget();
        cached.keep(&Arc::default(), at(1_000), before);
        assert!(cached.fresh(None, at(1_000)).is_none());
        cached.keep(&Arc::default(), at(1_000), cached.forgotten());
        assert!(cached.fresh(None, at(1_000)).is_some());
    }
}
