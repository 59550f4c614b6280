//! The keys that everything here is hashed and sealed under.

use crate::{Agent, ApiKey, IdentityError, Password, PresentedKey, SecondFactor, Session};
use secrecy::ExposeSecret;
use std::{fmt, sync::Arc};
use xylem_seal::{CipherKey, CryptoError, MacKey, SubKey};

/// Hashes credentials and seals records, under keys that are not in the database.
pub struct Secrets {
    key_hash: MacKey,
    record: MacKey,
    /// Encrypts what must be read again: the keys that sign access tokens.
    pub(crate) cipher: CipherKey,
    /// What refresh tokens are derived with.
    pub(crate) refresh: MacKey,
    /// Invitations, devices, and what attempts are counted under.
    pub(crate) account: MacKey,
    /// What goes into every password's hash.
    pub(crate) pepper: Arc<SubKey>,
}

impl Secrets {
    /// Derives everything from the key that the vault gives this room.
    ///
    /// # Errors
    /// The cryptographic library failed.
    pub fn new(key: &SubKey) -> Result<Self, CryptoError> {
        Ok(Self {
            key_hash: key.mac("api key hash")?,
            record: key.mac("record")?,
            cipher: key.derive("cipher")?.into_cipher("identity")?,
            refresh: key.mac("refresh")?,
            account: key.mac("account")?,
            pepper: Arc::new(key.derive("pepper")?),
        })
    }

    /// The hash that a key is found by.
    pub(crate) fn hash(&self, key: &PresentedKey) -> [u8; 32] {
        self.key_hash.tag(key.secret().expose_secret().as_bytes()).0
    }

    pub(crate) fn seal_agent(&self, mut agent: Agent) -> Agent {
        agent.seal = self.record.seal(&agent.fields());
        agent
    }

    /// The agent, if its row is what was written.
    ///
    /// # Errors
    /// It was edited.
    pub fn check_agent(&self, agent: Agent) -> Result<Agent, IdentityError> {
        if self.record.seal(&agent.fields()) == agent.seal {
            return Ok(agent);
        }
        Err(IdentityError::tampered("agent", &agent.id))
    }

    pub(crate) fn seal_key(&self, mut key: ApiKey) -> ApiKey {
        key.seal = self.record.seal(&key.fields());
        key
    }

    pub(crate) fn check_key(&self, key: ApiKey) -> Result<ApiKey, IdentityError> {
        if self.record.seal(&key.fields()) == key.seal {
            return Ok(key);
        }
        Err(IdentityError::tampered("API key", &key.id))
    }

    pub(crate) fn seal_password(&self, mut password: Password) -> Password {
        password.seal = self.record.seal(&password.fields());
        password
    }

    pub(crate) fn check_password(&self, password: Password) -> Result<Password, IdentityError> {
        if self.record.seal(&password.fields()) == password.seal {
            return Ok(password);
        }
        Err(IdentityError::tampered("password", &password.agent))
    }

    pub(crate) fn seal_factor(&self, mut factor: SecondFactor) -> SecondFactor {
        factor.seal = self.record.seal(&factor.fields());
        factor
    }

    pub(crate) fn check_factor(&self, factor: SecondFactor) -> Result<SecondFactor, IdentityError> {
        if self.record.seal(&factor.fields()) == factor.seal {
            return Ok(factor);
        }
        Err(IdentityError::tampered("second factor", &factor.agent))
    }

    pub(crate) fn seal_session(&self, mut session: Session) -> Session {
        session.seal = self.record.seal(&session.fields());
        session
    }

    pub(crate) fn check_session(&self, session: Session) -> Result<Session, IdentityError> {
        if self.record.seal(&session.fields()) == session.seal {
            return Ok(session);
        }
        Err(IdentityError::tampered("session", &session.id))
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}
