//! API keys: high-entropy secrets that are shown once and stored as a keyed hash.

use crate::{Role, Roles};
use aws_lc_rs::{constant_time, digest, hmac, rand};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use std::{collections::BTreeSet, fmt, time::SystemTime};
use xylem_ids::{AgentId, KeyId, Namespace, TaskQueue};
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

/// Hashes keys and seals what is stored about them, under a server key that is not in the database.
pub struct KeyHasher {
    hash: hmac::Key,
    seal: hmac::Key,
}

impl KeyHasher {
    /// Uses this server key: 32 random bytes.
    #[must_use]
    pub fn new(server_key: &[u8; 32]) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, server_key);
        let derive = |label: &str| {
            hmac::Key::new(
                hmac::HMAC_SHA256,
                hmac::sign(&root, label.as_bytes()).as_ref(),
            )
        };
        Self {
            hash: derive("xylem api key hash"),
            seal: derive("xylem api key record"),
        }
    }

    /// The hash that a key is found by.
    #[must_use]
    pub fn hash(&self, key: &PresentedKey) -> [u8; 32] {
        sign(&self.hash, key.0.expose_secret().as_bytes())
    }

    pub(crate) fn seal(&self, mut key: ApiKey) -> ApiKey {
        key.seal = sign(&self.seal, &key.sealed_bytes());
        key
    }

    pub(crate) fn intact(&self, key: &ApiKey) -> bool {
        let expected = sign(&self.seal, &key.sealed_bytes());
        constant_time::verify_slices_are_equal(&expected, &key.seal).is_ok()
    }
}

impl fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHasher")
    }
}

fn sign(key: &hmac::Key, bytes: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(key, bytes);
    let mut out = [0; 32];
    for (to, from) in out.iter_mut().zip(tag.as_ref()) {
        *to = *from;
    }
    out
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
    /// What it may do: some of the agent's roles.
    pub roles: Roles,
    /// The task queues it serves, where it has the worker role.
    pub queues: BTreeSet<TaskQueue>,
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
    pub seal: [u8; 32],
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("id", &self.id)
            .field("agent", &self.agent)
            .field("roles", &self.roles)
            .finish_non_exhaustive()
    }
}

impl ApiKey {
    fn sealed_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut field = |part: &[u8]| {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part);
        };
        field(self.id.as_str().as_bytes());
        field(self.namespace.as_str().as_bytes());
        field(self.agent.as_str().as_bytes());
        for role in &self.roles {
            field(role.code().as_bytes());
        }
        field(b"queues");
        for queue in &self.queues {
            field(queue.as_str().as_bytes());
        }
        for time in [Some(self.created_at), self.expires_at, self.revoked_at] {
            field(time.map(seconds).unwrap_or_default().as_bytes());
        }
        field(&self.hash);
        bytes
    }
}

fn seconds(time: SystemTime) -> String {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
        .to_string()
}

/// What a new key is for.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// The agent that will use it.
    pub agent: AgentId,
    /// What it may do: some of the agent's roles, at least one.
    pub roles: Roles,
    /// The task queues it serves: at least one with the worker role, none without.
    pub queues: BTreeSet<TaskQueue>,
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

/// The random source failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system's random source failed")]
pub(crate) struct NoRandom;

pub(crate) fn generate_secret() -> Result<SecretString, NoRandom> {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    rand::fill(bytes.as_mut_slice()).map_err(|_| NoRandom)?;
    let mut random = Zeroizing::new(String::with_capacity(RANDOM + 1));
    URL_SAFE_NO_PAD.encode_string(bytes.as_slice(), &mut random);
    let mut text = String::with_capacity(KEY_PREFIX.len() + RANDOM + CHECKSUM);
    text.push_str(KEY_PREFIX);
    text.push_str(&random);
    text.push_str(&checksum(&random));
    Ok(SecretString::from(text))
}

pub(crate) fn generate_id() -> Result<KeyId, NoRandom> {
    let mut bytes = [0_u8; 9];
    rand::fill(&mut bytes).map_err(|_| NoRandom)?;
    URL_SAFE_NO_PAD.encode(bytes).parse().map_err(|_| NoRandom)
}

/// Who is calling: the proof that a key was checked. Only [`crate::Registry::authenticate`] makes
/// one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub(crate) key: KeyId,
    pub(crate) namespace: Namespace,
    pub(crate) agent: AgentId,
    pub(crate) roles: Roles,
    pub(crate) queues: BTreeSet<TaskQueue>,
}

impl Principal {
    /// The key that was used.
    #[must_use]
    pub fn key(&self) -> &KeyId {
        &self.key
    }

    /// The namespace the caller works in.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The agent.
    #[must_use]
    pub fn agent(&self) -> &AgentId {
        &self.agent
    }

    /// What the caller may do.
    #[must_use]
    pub fn roles(&self) -> &Roles {
        &self.roles
    }

    /// Whether the caller has the role.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// The task queues the caller serves.
    #[must_use]
    pub fn queues(&self) -> &BTreeSet<TaskQueue> {
        &self.queues
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_hash_depends_on_the_server_key() {
        let key = PresentedKey::parse(generate_secret().unwrap().expose_secret()).unwrap();
        let one = KeyHasher::new(&[1; 32]).hash(&key);
        assert_eq!(one, KeyHasher::new(&[1; 32]).hash(&key));
        assert_ne!(one, KeyHasher::new(&[2; 32]).hash(&key));
    }

    #[test]
    fn debug_shows_no_secret() {
        let secret = generate_secret().unwrap();
        let text = secret.expose_secret().to_owned();
        let presented = PresentedKey::parse(&text).unwrap();
        let shown = format!("{presented:?} {secret:?} {:?}", KeyHasher::new(&[1; 32]));
        assert!(!shown.contains(&text[4..]), "{shown}");
    }
}
