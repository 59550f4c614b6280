//! API keys: high-entropy secrets that are shown once and stored as a keyed hash.

use crate::agent::{Agent, seconds, time};
use aws_lc_rs::{digest, rand};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ipnet::IpNet;
use secrecy::SecretString;
use std::{
    collections::BTreeSet,
    fmt,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};
use xylem_ids::{AgentId, KeyId, Namespace, Scopes, TaskQueue};
use xylem_seal::{CryptoError, Fields, Mac, random_key};
use zeroize::Zeroizing;

/// What every API key begins with, so that scanners recognise one.
pub const KEY_PREFIX: &str = "xyk_";

/// 32 random bytes in base64url.
const RANDOM: usize = 43;
/// Digits of the checksum, hexadecimal.
const CHECKSUM: usize = 8;

/// A key as somebody presents it: of the right form, its checksum right. It need not exist.
pub struct PresentedKey(SecretString);

impl PresentedKey {
    /// Checks form and checksum, so that typing errors and random guesses cost no look-up.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let body = text.strip_prefix(KEY_PREFIX)?;
        let plain = body
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if body.len() != RANDOM + CHECKSUM || !plain {
            return None;
        }
        let (random, sum) = body.split_at_checked(RANDOM)?;
        (checksum(random) == sum).then(|| Self(SecretString::from(text)))
    }

    pub(crate) fn secret(&self) -> &SecretString {
        &self.0
    }
}

impl fmt::Debug for PresentedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresentedKey")
    }
}

fn checksum(random: &str) -> String {
    let digest = digest::digest(&digest::SHA256, random.as_bytes());
    let mut text = hex::encode(digest);
    text.truncate(CHECKSUM);
    text
}

/// What is stored about a key. The seal covers everything but the time of last use.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The id people name it by.
    pub id: KeyId,
    /// The namespace it works in.
    pub namespace: Namespace,
    /// The agent that uses it.
    pub agent: AgentId,
    /// What people call it; may be empty.
    pub name: String,
    /// What it is narrowed to.
    pub scopes: Scopes,
    /// The task queues it serves, where its agent is a worker.
    pub queues: BTreeSet<TaskQueue>,
    /// The networks it works from; any where there is none.
    pub networks: Vec<IpNet>,
    /// When it was created.
    pub created_at: SystemTime,
    /// When it stops working.
    pub expires_at: Option<SystemTime>,
    /// When it was revoked.
    pub revoked_at: Option<SystemTime>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<SystemTime>,
    /// The keyed hash it is found by.
    pub hash: [u8; 32],
    /// The keyed seal over the rest.
    pub seal: Mac,
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("id", &self.id)
            .field("agent", &self.agent)
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}

impl ApiKey {
    /// Whether it works from there. Without networks it works from anywhere; where the address is not
    /// known, it works without networks alone.
    pub(crate) fn works_from(&self, address: Option<IpAddr>) -> bool {
        self.networks.is_empty()
            || address.is_some_and(|address| {
                let address = address.to_canonical();
                self.networks
                    .iter()
                    .any(|network| network.contains(&address))
            })
    }

    pub(crate) fn fields(&self) -> Fields {
        let networks: Vec<String> = self.networks.iter().map(ToString::to_string).collect();
        let fields = Fields::new("api key")
            .text(self.id.as_str())
            .text(self.namespace.as_str())
            .text(self.agent.as_str())
            .text(&self.name)
            .list(self.scopes.codes().unwrap_or(vec!["all"]).into_iter())
            .list(self.queues.iter().map(TaskQueue::as_str))
            .list(networks.iter().map(String::as_str))
            .number(seconds(self.created_at));
        time(time(fields, self.expires_at), self.revoked_at).bytes(&self.hash)
    }
}

/// What a key is remembered by.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) enum Recalled {
    /// Its hash.
    Key([u8; 32]),
    /// An access token that it was exchanged for, and that was not revoked: the key, and the token.
    Token(Namespace, KeyId, KeyId),
}

/// A key and its agent, both as they were written.
pub(crate) struct KnownKey {
    pub(crate) key: ApiKey,
    pub(crate) agent: Agent,
    touched: Mutex<Option<SystemTime>>,
}

impl KnownKey {
    pub(crate) fn new(key: ApiKey, agent: Agent) -> Self {
        Self {
            touched: Mutex::new(key.last_used_at),
            key,
            agent,
        }
    }

    /// That the key is used; none where that was written down a moment ago, or is about to be.
    pub(crate) fn touch(&self, now: SystemTime, every: Duration) -> Option<Touch<'_>> {
        let mut touched = self.touched();
        let before = *touched;
        let due = before.is_none_or(|last| last + every <= now);
        due.then(|| {
            *touched = Some(now);
            Touch {
                known: self,
                before,
                done: false,
            }
        })
    }

    fn touched(&self) -> MutexGuard<'_, Option<SystemTime>> {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A use that is being written down. Where it is not done, the next one is.
pub(crate) struct Touch<'a> {
    known: &'a KnownKey,
    before: Option<SystemTime>,
    done: bool,
}

impl Touch<'_> {
    pub(crate) fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Touch<'_> {
    fn drop(&mut self) {
        if !self.done {
            *self.known.touched() = self.before;
        }
    }
}

/// What a new key is for.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// The agent that will use it.
    pub agent: AgentId,
    /// What people call it; may be empty.
    pub name: String,
    /// What it is narrowed to.
    pub scopes: Scopes,
    /// The task queues it serves: at least one for a worker, none for others.
    pub queues: BTreeSet<TaskQueue>,
    /// The networks it works from; any where there is none.
    pub networks: Vec<IpNet>,
    /// When it stops working, if it does.
    pub expires_at: Option<SystemTime>,
}

/// A key that was just made. The secret is shown once and kept nowhere.
pub struct IssuedKey {
    /// The whole key.
    pub secret: SecretString,
    /// What is stored about it.
    pub key: ApiKey,
}

impl fmt::Debug for IssuedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedKey")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

pub(crate) fn generate_secret() -> Result<SecretString, CryptoError> {
    let bytes = random_key()?;
    let mut random = Zeroizing::new(String::with_capacity(RANDOM + 1));
    URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut random);
    let mut text = String::with_capacity(KEY_PREFIX.len() + RANDOM + CHECKSUM);
    text.push_str(KEY_PREFIX);
    text.push_str(&random);
    text.push_str(&checksum(&random));
    Ok(SecretString::from(text))
}

/// Short enough to be read out and typed.
pub(crate) fn generate_id() -> Result<KeyId, CryptoError> {
    let mut bytes = [0_u8; 9];
    rand::fill(&mut bytes).map_err(|_| CryptoError)?;
    let id = URL_SAFE_NO_PAD.encode(bytes).parse();
    id.map_err(|_| CryptoError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    #[test]
    fn a_generated_key_parses_and_a_changed_one_does_not() {
        let secret = generate_secret().unwrap();
        let text = secret.expose_secret();
        assert_eq!(text.len(), 4 + 43 + 8);
        assert!(PresentedKey::parse(text).is_some());
        let changed = |at: usize| {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
            String::from_utf8(bytes).unwrap()
        };
        for at in [0, 4, 20, 46, 50] {
            assert!(PresentedKey::parse(&changed(at)).is_none(), "{at}");
        }
        for bad in ["", "xyk_", &text[..54], &format!("{text}a"), "xyk_ä"] {
            assert!(PresentedKey::parse(bad).is_none());
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let secret = generate_secret().unwrap();
        let text = secret.expose_secret().to_owned();
        let presented = PresentedKey::parse(&text).unwrap();
        let shown = format!("{presented:?} {secret:?}");
        assert!(!shown.contains(&text[4..]), "{shown}");
    }
}
