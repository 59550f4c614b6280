//! Keys that come from one secret, each used for one thing, and what they seal.

use crate::{CipherKey, CryptoError, Fields};
use aws_lc_rs::{constant_time, hkdf, hmac};
use std::fmt;
use zeroize::Zeroizing;

/// A keyed seal over what must not be edited. Compared in constant time.
#[derive(Clone, Copy)]
pub struct Mac(pub [u8; 32]);

impl PartialEq for Mac {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for Mac {}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mac")
    }
}

/// A key that seals rows, or hashes what is found by its hash.
pub struct MacKey(hmac::Key);

impl MacKey {
    /// Seals what must not be edited.
    #[must_use]
    pub fn seal(&self, fields: &Fields) -> Mac {
        self.tag(fields.as_bytes())
    }

    /// The keyed digest of something: without the key, a guess cannot be compared with it.
    #[must_use]
    pub fn tag(&self, bytes: &[u8]) -> Mac {
        let tag = hmac::sign(&self.0, bytes);
        let mut mac = [0; 32];
        for (to, from) in mac.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        Mac(mac)
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey")
    }
}

/// 256 secret bits that other keys are derived from.
#[derive(Clone)]
pub struct SubKey(Zeroizing<[u8; 32]>);

impl SubKey {
    /// Derives a key from a secret, by HKDF with SHA-256 (RFC 5869).
    ///
    /// # Errors
    /// The cryptographic library failed.
    pub fn from_secret(secret: &[u8], label: &str) -> Result<Self, CryptoError> {
        let mut key = Zeroizing::new([0; 32]);
        hkdf::Salt::new(hkdf::HKDF_SHA256, b"xylem vault")
            .extract(secret)
            .expand(&[label.as_bytes()], Length)
            .and_then(|okm| okm.fill(key.as_mut_slice()))
            .map_err(|_| CryptoError)?;
        Ok(Self(key))
    }

    /// The key for one purpose. Keys of different labels say nothing about each other.
    ///
    /// # Errors
    /// The cryptographic library failed.
    pub fn derive(&self, label: &str) -> Result<Self, CryptoError> {
        Self::from_secret(self.0.as_slice(), label)
    }

    /// The key that seals or hashes for one purpose.
    ///
    /// # Errors
    /// The cryptographic library failed.
    pub fn mac(&self, label: &str) -> Result<MacKey, CryptoError> {
        Ok(self.derive(label)?.into_mac())
    }

    /// This key as one that seals or hashes.
    #[must_use]
    pub fn into_mac(self) -> MacKey {
        MacKey(hmac::Key::new(hmac::HMAC_SHA256, self.0.as_slice()))
    }

    /// This key as one that encrypts, under this id.
    ///
    /// # Errors
    /// The id breaks its rule.
    pub fn into_cipher(self, id: &str) -> Result<CipherKey, CryptoError> {
        let id = id.parse().map_err(|_| CryptoError)?;
        Ok(CipherKey::new(id, self.0))
    }

    /// The key itself, for a cipher.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for SubKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SubKey")
    }
}

struct Length;

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_keys_differ_by_label_and_secret() {
        let one = SubKey::from_secret(&[1; 32], "one").unwrap();
        assert_eq!(
            one.bytes(),
            SubKey::from_secret(&[1; 32], "one").unwrap().bytes()
        );
        let others = [
            SubKey::from_secret(&[1; 32], "two").unwrap(),
            SubKey::from_secret(&[2; 32], "one").unwrap(),
            one.derive("one").unwrap(),
        ];
        for other in &others {
            assert_ne!(one.bytes(), other.bytes());
        }
    }

    #[test]
    fn a_seal_covers_every_field() {
        let key = SubKey::from_secret(&[1; 32], "seal").unwrap().into_mac();
        let sealed = |text| key.seal(&Fields::new("test").text(text));
        assert_eq!(sealed("a"), sealed("a"));
        assert_ne!(sealed("a"), sealed("b"));
    }

    #[test]
    fn debug_shows_no_key() {
        let key = SubKey::from_secret(&[7; 32], "debug").unwrap();
        let shown = format!("{key:?} {:?} {:?}", key.clone().into_mac(), Mac([7; 32]));
        assert_eq!(shown, "SubKey MacKey Mac");
    }
}
