//! Encryption.

use crate::{CryptoError, Fields, random_id, random_key};
use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use std::fmt;
use xylem_ids::KeyId;
use zeroize::Zeroizing;

const TAG: usize = 16;

/// AES-256-GCM ciphertext with its tag, and the random nonce it was made with.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    /// 96 bits.
    pub nonce: [u8; 12],
    /// Ciphertext, then tag.
    pub ciphertext: Vec<u8>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed")
    }
}

/// A 256-bit key that encrypts, with its id.
pub struct CipherKey {
    id: KeyId,
    bytes: Zeroizing<[u8; 32]>,
}

impl CipherKey {
    /// A key that exists.
    #[must_use]
    pub fn new(id: KeyId, bytes: Zeroizing<[u8; 32]>) -> Self {
        Self { id, bytes }
    }

    /// A fresh key with a fresh id.
    ///
    /// # Errors
    /// The system's random source failed.
    pub fn generate() -> Result<Self, CryptoError> {
        Ok(Self::new(
            random_id()?.parse().map_err(|_| CryptoError)?,
            random_key()?,
        ))
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// The key itself, for whoever wraps it.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// Encrypts under a fresh random nonce.
    ///
    /// # Errors
    /// The cryptographic library failed.
    pub fn seal(&self, bound_to: &Fields, plain: &[u8]) -> Result<Sealed, CryptoError> {
        // Room for the tag from the start: growing would leave a copy of the plaintext behind.
        let mut buffer = Zeroizing::new(Vec::with_capacity(plain.len().saturating_add(TAG)));
        buffer.extend_from_slice(plain);
        let nonce = self
            .cipher()?
            .seal_in_place_append_tag(Aad::from(bound_to.as_bytes()), &mut *buffer)
            .map_err(|_| CryptoError)?;
        Ok(Sealed {
            nonce: *nonce.as_ref(),
            ciphertext: buffer.to_vec(),
        })
    }

    /// Decrypts; `None` where the ciphertext is not what was made under this key for this place.
    ///
    /// # Errors
    /// The cryptographic library failed.
    pub fn open(
        &self,
        bound_to: &Fields,
        sealed: &Sealed,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, CryptoError> {
        let mut buffer = Zeroizing::new(sealed.ciphertext.clone());
        let nonce = Nonce::assume_unique_for_key(sealed.nonce);
        let opened = self
            .cipher()?
            .open_in_place(nonce, Aad::from(bound_to.as_bytes()), &mut buffer)
            .map(|plain| plain.len());
        let Ok(length) = opened else {
            return Ok(None);
        };
        buffer.truncate(length);
        Ok(Some(buffer))
    }

    fn cipher(&self) -> Result<RandomizedNonceKey, CryptoError> {
        RandomizedNonceKey::new(&AES_256_GCM, self.bytes.as_slice()).map_err(|_| CryptoError)
    }
}

impl fmt::Debug for CipherKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CipherKey({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(slot: &str) -> Fields {
        Fields::new("test").text(slot)
    }

    #[test]
    fn a_ciphertext_opens_only_in_its_place_under_its_key() {
        let key = CipherKey::generate().unwrap();
        let sealed = key.seal(&place("a"), b"secret").unwrap();
        let open = |key: &CipherKey, slot, sealed: &Sealed| {
            key.open(&place(slot), sealed)
                .unwrap()
                .map(|plain| plain.to_vec())
        };
        assert_eq!(
            open(&key, "a", &sealed).as_deref(),
            Some(b"secret".as_slice())
        );
        assert_eq!(open(&key, "b", &sealed), None);
        assert_eq!(open(&CipherKey::generate().unwrap(), "a", &sealed), None);
        for bit in 0..sealed.ciphertext.len() * 8 {
            let mut flipped = sealed.clone();
            flipped.ciphertext[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&key, "a", &flipped), None, "bit {bit}");
        }
        let mut other = sealed.clone();
        other.nonce[0] ^= 1;
        assert_eq!(open(&key, "a", &other), None);
        other.ciphertext.clear();
        assert_eq!(open(&key, "a", &other), None);
    }

    #[test]
    fn nonces_are_fresh() {
        let key = CipherKey::generate().unwrap();
        let one = key.seal(&place("a"), b"secret").unwrap();
        let two = key.seal(&place("a"), b"secret").unwrap();
        assert_ne!(one.nonce, two.nonce);
        assert_ne!(one.ciphertext, two.ciphertext);
    }

    #[test]
    fn debug_shows_no_key() {
        let key = CipherKey::new("k".parse().unwrap(), Zeroizing::new([7; 32]));
        let sealed = key.seal(&place("a"), b"secret").unwrap();
        assert_eq!(format!("{key:?} {sealed:?}"), "CipherKey(k) Sealed");
    }
}
