//! Passwords: what is a good one, and what is kept of it.

use crate::{BlockList, IdentityError, Invalid, guessable::worth};
use argon2::{
    Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version,
    password_hash::phc::PasswordHash,
};
use secrecy::{ExposeSecret, SecretString};
use std::{fmt, sync::Arc, thread};
use tokio::sync::Semaphore;
use unicode_normalization::UnicodeNormalization;
use xylem_ids::{AgentId, KeyId, Namespace};
use xylem_seal::{CryptoError, Fields, Mac, SubKey, random_key};

/// The fewest characters of a password.
const SHORT: usize = 15;
/// The fewest where a second factor is shown besides.
const WITH_FACTOR: usize = 8;
/// The most.
const LONGEST: usize = 128;
/// What a password is worth at least, in characters that nobody would try first,
const WORTH: usize = 10;
/// and where a second factor is shown besides.
const WORTH_WITH_FACTOR: usize = 6;
/// So many may wait for a turn to hash; more are told to come back.
const WAITING: usize = 64;

/// What is kept of a password. The seal binds it to its agent.
#[derive(Clone, PartialEq, Eq)]
pub struct Password {
    /// The namespace.
    pub namespace: Namespace,
    /// Whose it is.
    pub agent: AgentId,
    /// Names this password, and no other one: sessions are opened with it.
    pub id: KeyId,
    /// Argon2id over it and a key that is not in the database.
    pub hash: String,
    /// Whether it is good enough without a second factor.
    pub long: bool,
    /// The keyed seal over the rest.
    pub seal: Mac,
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Password({})", self.agent)
    }
}

impl Password {
    pub(crate) fn fields(&self) -> Fields {
        Fields::new("password")
            .text(self.namespace.as_str())
            .text(self.agent.as_str())
            .text(self.id.as_str())
            .text(&self.hash)
            .number(u32::from(self.long))
    }
}

/// Hashes passwords, a few at a time: each takes 19 MiB and a core.
pub(crate) struct Hasher {
    pepper: Arc<SubKey>,
    blocked: Arc<BlockList>,
    turns: Arc<Semaphore>,
    waiting: Semaphore,
}

impl Hasher {
    pub(crate) fn new(pepper: Arc<SubKey>, blocked: BlockList) -> Self {
        let cores = thread::available_parallelism().map_or(1, Into::into);
        Self {
            pepper,
            blocked: Arc::new(blocked),
            turns: Arc::new(Semaphore::new(cores)),
            waiting: Semaphore::new(cores + WAITING),
        }
    }

    /// Hashes a new password, if it is a good one for this agent.
    pub(crate) async fn new_password(
        &self,
        agent: &AgentId,
        password: &SecretString,
        second_factor: bool,
    ) -> Result<(String, bool), IdentityError> {
        let text = normal(password);
        let long = check_length(&text, second_factor)?;
        let agent = agent.to_string();
        let blocked = Arc::clone(&self.blocked);
        let hashed = self.turn(move |pepper| {
            let enough = if long { WORTH } else { WORTH_WITH_FACTOR };
            let given = text.expose_secret();
            if worth(given, &[&agent, "xylem"]) < enough || blocked.names(given) {
                return Ok(None);
            }
            hash(pepper, &text).map(Some)
        });
        let rule = "harder to guess: no common word, name or pattern makes up for length";
        let hash = hashed.await??.ok_or(Invalid::new("password", rule))?;
        Ok((hash, long))
    }

    /// Whether a password is the one of this hash. Without a hash the answer is no, and takes as long.
    pub(crate) async fn verify(
        &self,
        password: &SecretString,
        known: Option<String>,
    ) -> Result<bool, IdentityError> {
        let text = normal(password);
        if text.expose_secret().chars().count() > LONGEST {
            return Ok(false);
        }
        let verified = self.turn(move |pepper| match known {
            Some(known) => verify(pepper, &text, &known),
            None => hash(pepper, &text).map(|_| false),
        });
        Ok(verified.await??)
    }

    async fn turn<T: Send + 'static>(
        &self,
        work: impl FnOnce(&SubKey) -> T + Send + 'static,
    ) -> Result<T, IdentityError> {
        let waiting = self.waiting.try_acquire();
        let _waiting = waiting.map_err(|_| IdentityError::Busy)?;
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|_| IdentityError::Busy)?;
        let pepper = Arc::clone(&self.pepper);
        // It goes on when its caller is gone, and keeps its turn until then.
        let worked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work(&pepper)
        });
        worked.await.map_err(|_| CryptoError.into())
    }
}

/// The same password, however it is typed: composed and decomposed letters are one.
fn normal(password: &SecretString) -> SecretString {
    SecretString::from(password.expose_secret().nfc().collect::<String>())
}

/// Whether it is long enough for itself.
fn check_length(password: &SecretString, second_factor: bool) -> Result<bool, Invalid> {
    let length = password.expose_secret().chars().count();
    let least = if second_factor { WITH_FACTOR } else { SHORT };
    if length < least {
        let rule = "at least 15 characters, or 8 where a second factor is enrolled";
        return Err(Invalid::new("password", rule));
    }
    if length > LONGEST {
        return Err(Invalid::new("password", "at most 128 characters"));
    }
    Ok(length >= SHORT)
}

/// Argon2id with what OWASP recommends: 19 MiB, two passes, one lane.
fn argon(pepper: &SubKey) -> Result<Argon2<'_>, CryptoError> {
    let params = Params::default();
    Argon2::new_with_secret(pepper.bytes(), Algorithm::Argon2id, Version::V0x13, params)
        .map_err(|_| CryptoError)
}

fn hash(pepper: &SubKey, password: &SecretString) -> Result<String, CryptoError> {
    let salt = random_key()?;
    let (salt, _) = salt.split_at(16);
    let password = password.expose_secret().as_bytes();
    let hashed = argon(pepper)?.hash_password_with_salt(password, salt);
    hashed.map(|hash| hash.to_string()).map_err(|_| CryptoError)
}

fn verify(pepper: &SubKey, password: &SecretString, known: &str) -> Result<bool, CryptoError> {
    let known = PasswordHash::new(known).map_err(|_| CryptoError)?;
    let password = password.expose_secret().as_bytes();
    Ok(argon(pepper)?.verify_password(password, &known).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hasher(secret: u8) -> Hasher {
        let pepper = SubKey::from_secret(&[secret; 32], "test").unwrap();
        Hasher::new(Arc::new(pepper), BlockList::new("Vier Elche im Nebel!"))
    }

    async fn try_out(password: &str, second_factor: bool) -> Result<bool, String> {
        let (agent, password) = ("mallory".parse().unwrap(), SecretString::from(password));
        let tried = hasher(1)
            .new_password(&agent, &password, second_factor)
            .await;
        tried
            .map(|(_, long)| long)
            .map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_good_password_is_long_and_no_pattern() {
        for good in [
            "kolibri tanzt auf neun Dächern",
            "x7$Lq2 mozart frisst",
            "ünïcödé ist erlaubt 4t",
        ] {
            assert_eq!(try_out(good, false).await, Ok(true), "{good}");
        }
        let long = "a7 ".repeat(43);
        for bad in [
            "",
            "x7$Lq2 mozart",
            "passwordpassword",
            "123456789012345",
            "qwertyuiopasdfgh",
            "aaaaaaaaaaaaaaaaaaaa",
            "mallorymallory12",
            "xylemxylemxylem1",
            "vier elche im nebel!",
            &long,
        ] {
            let error = try_out(bad, false).await.unwrap_err();
            assert!(error.starts_with("password must be"), "{error}");
            assert!(bad.is_empty() || !error.contains(bad));
        }
    }

    #[tokio::test]
    async fn eight_characters_need_the_second_factor() {
        assert_eq!(try_out("x7$Lq2mw", true).await, Ok(false));
        assert!(try_out("x7$Lq2mw", false).await.is_err());
        assert!(try_out("x7$Lq2m", true).await.is_err());
        assert!(try_out("password1", true).await.is_err());
    }

    #[tokio::test]
    async fn what_is_kept_is_argon2id_over_a_pepper() {
        let password = SecretString::from("kolibri tanzt auf neun Dächern");
        let agent = "one".parse().unwrap();
        let (hash, _) = hasher(1)
            .new_password(&agent, &password, false)
            .await
            .unwrap();
        assert!(
            hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{hash}"
        );
        let verify = async |pepper, password: &str| {
            let password = SecretString::from(password);
            let hasher = hasher(pepper);
            let verified = hasher.verify(&password, Some(hash.clone()));
            verified.await.unwrap()
        };
        assert!(verify(1, "kolibri tanzt auf neun Dächern").await);
        assert!(verify(1, "kolibri tanzt auf neun Da\u{308}chern").await);
        assert!(!verify(1, "kolibri tanzt auf neun dächern").await);
        assert!(!verify(2, "kolibri tanzt auf neun Dächern").await);
        let nobody = hasher(1).verify(&password, None).await;
        assert!(!nobody.unwrap());
    }
}
