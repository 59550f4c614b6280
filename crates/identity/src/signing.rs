//! The keys that sign access tokens, and are used for nothing else.
//!
//! Which key signs and which ones are published follows from when each was made: nothing has to be
//! switched over, and every instance comes to the same answer.

use aws_lc_rs::{
    encoding::{AsDer, Pkcs8V1Der},
    signature::{Ed25519KeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{DecodingKey, EncodingKey};
use serde::Serialize;
use std::{
    fmt,
    time::{Duration, SystemTime},
};
use xylem_ids::KeyId;
use xylem_seal::{CipherKey, CryptoError, Fields, Sealed};
use zeroize::Zeroizing;

/// A new key is published for so long before it signs: whoever keeps a key set for a while has it by
/// then.
const LEAD: Duration = Duration::from_secs(10 * 60);
/// A key is published for so long after it has signed for the last time: longer than a token lives.
const LINGER: Duration = Duration::from_secs(20 * 60);
/// After so long the next key is made.
const LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// A signing key as it is stored: its private half encrypted, and bound to its id and age.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKeyRow {
    /// The id that tokens name as their `kid`.
    pub id: KeyId,
    /// When it was made.
    pub created_at: SystemTime,
    /// The private half.
    pub sealed: Sealed,
}

impl SigningKeyRow {
    /// From when on it signs, unless it is the only one.
    pub(crate) fn signs_from(&self) -> SystemTime {
        self.created_at + LEAD
    }
}

/// A public key as it is published (RFC 7517, RFC 8037).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublishedKey {
    kty: &'static str,
    crv: &'static str,
    alg: &'static str,
    #[serde(rename = "use")]
    usage: &'static str,
    kid: String,
    x: String,
}

pub(crate) struct SigningKey {
    pub(crate) id: KeyId,
    pub(crate) signer: EncodingKey,
    pub(crate) verifier: DecodingKey,
    x: String,
    created_at: SystemTime,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.id)
    }
}

/// A fresh key, encrypted.
pub(crate) fn generate(cipher: &CipherKey, now: SystemTime) -> Result<SigningKeyRow, CryptoError> {
    let pair = Ed25519KeyPair::generate().map_err(|_| CryptoError)?;
    let der: Pkcs8V1Der<'static> = pair.as_der().map_err(|_| CryptoError)?;
    let pkcs8 = Zeroizing::new(der.as_ref().to_vec());
    let id: KeyId = xylem_seal::random_id()?.parse().map_err(|_| CryptoError)?;
    Ok(SigningKeyRow {
        sealed: cipher.seal(&place(&id, now), &pkcs8)?,
        id,
        created_at: now,
    })
}

impl SigningKey {
    /// Decrypts a key; `None` where the row is not what was written.
    pub(crate) fn open(
        cipher: &CipherKey,
        row: &SigningKeyRow,
    ) -> Result<Option<Self>, CryptoError> {
        let place = place(&row.id, row.created_at);
        let Some(pkcs8) = cipher.open(&place, &row.sealed)? else {
            return Ok(None);
        };
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).map_err(|_| CryptoError)?;
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        Ok(Some(Self {
            id: row.id.clone(),
            signer: EncodingKey::from_ed_der(&pkcs8),
            verifier: DecodingKey::from_ed_components(&x).map_err(|_| CryptoError)?,
            x,
            created_at: row.created_at,
        }))
    }

    fn signs_from(&self) -> SystemTime {
        self.created_at + LEAD
    }

    #[cfg(test)]
    pub(crate) fn x(&self) -> &str {
        &self.x
    }

    pub(crate) fn published(&self) -> PublishedKey {
        PublishedKey {
            kty: "OKP",
            crv: "Ed25519",
            alg: "EdDSA",
            usage: "sig",
            kid: self.id.to_string(),
            x: self.x.clone(),
        }
    }
}

fn place(id: &KeyId, created_at: SystemTime) -> Fields {
    Fields::new("signing key")
        .text(id.as_str())
        .number(crate::agent::seconds(created_at))
}

/// Every key, in the order in which they were made.
#[derive(Debug, Default)]
pub(crate) struct KeySet(Vec<SigningKey>);

impl KeySet {
    pub(crate) fn new(mut keys: Vec<SigningKey>) -> Self {
        // Of two that were made in the same second, every instance takes the same one.
        keys.sort_by(|one, two| (one.created_at, &one.id).cmp(&(two.created_at, &two.id)));
        Self(keys)
    }

    /// The key that signs now: the newest that has been published for long enough, or the first.
    pub(crate) fn signing(&self, now: SystemTime) -> Option<&SigningKey> {
        let ready = self.0.iter().rev().find(|key| key.signs_from() <= now);
        ready.or(self.0.first())
    }

    /// The key of this id, as long as it is published.
    pub(crate) fn find(&self, id: &KeyId, now: SystemTime) -> Option<&SigningKey> {
        self.current(now).find(|key| key.id == *id)
    }

    pub(crate) fn published(&self, now: SystemTime) -> Vec<PublishedKey> {
        self.current(now).map(SigningKey::published).collect()
    }

    /// Whether it is time for the next key.
    pub(crate) fn is_due(&self, now: SystemTime) -> bool {
        self.0.last().is_none_or(|key| key.created_at + LIFE <= now)
    }

    /// The keys whose tokens may still be around, or will be.
    fn current(&self, now: SystemTime) -> impl Iterator<Item = &SigningKey> {
        let successors = self.0.iter().skip(1).map(Some).chain([None]);
        let with_next = self.0.iter().zip(successors);
        with_next
            .filter(move |(_, next)| next.is_none_or(|next| now < next.signs_from() + LINGER))
            .map(|(key, _)| key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    fn at(minutes: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(minutes * 60)
    }

    fn set(cipher: &CipherKey, made: &[u64]) -> (KeySet, Vec<KeyId>) {
        let rows = made
            .iter()
            .map(|minute| generate(cipher, at(*minute)).unwrap());
        let keys: Vec<_> = rows
            .map(|row| SigningKey::open(cipher, &row).unwrap().unwrap())
            .collect();
        let ids = keys.iter().map(|key| key.id.clone()).collect();
        (KeySet::new(keys), ids)
    }

    #[test]
    fn a_new_key_is_published_before_it_signs_and_the_old_one_after() {
        let cipher = CipherKey::generate().unwrap();
        let (keys, ids) = set(&cipher, &[0, 1000]);
        let signing = |minute| keys.signing(at(minute)).unwrap().id.clone();
        let published = |minute| {
            let is = |id| keys.find(id, at(minute)).is_some();
            (is(&ids[0]), is(&ids[1]))
        };
        assert_eq!(signing(0), ids[0]);
        assert_eq!(
            (signing(1009), published(1009)),
            (ids[0].clone(), (true, true))
        );
        assert_eq!(
            (signing(1010), published(1010)),
            (ids[1].clone(), (true, true))
        );
        assert_eq!(published(1029), (true, true));
        assert_eq!(published(1030), (false, true));
    }

    #[test]
    fn the_next_key_is_due_after_ninety_days() {
        let cipher = CipherKey::generate().unwrap();
        let (keys, _) = set(&cipher, &[0]);
        let days = 90 * 24 * 60;
        assert!(KeySet::default().is_due(at(0)));
        assert!(!keys.is_due(at(days - 1)) && keys.is_due(at(days)));
    }

    #[test]
    fn a_key_that_was_moved_or_made_younger_does_not_open() {
        let cipher = CipherKey::generate().unwrap();
        let row = generate(&cipher, at(0)).unwrap();
        let other = generate(&cipher, at(0)).unwrap();
        let opens = |row: &SigningKeyRow| SigningKey::open(&cipher, row).unwrap().is_some();
        assert!(opens(&row));
        let moved = SigningKeyRow {
            id: other.id,
            ..row.clone()
        };
        let younger = SigningKeyRow {
            created_at: at(5),
            ..row
        };
        assert!(!opens(&moved) && !opens(&younger));
    }
}
