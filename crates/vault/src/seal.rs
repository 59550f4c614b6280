//! Encryption, seals and fingerprints. Nothing outside this file touches a primitive.

use crate::VaultError;
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey},
    constant_time, hkdf, hmac, rand,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use std::fmt;
use xylem_ids::{Fingerprint, KeyId};
use zeroize::Zeroizing;

const TAG: usize = 16;

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

/// An injective encoding of labelled fields: what a seal or a ciphertext is bound to. Each field is
/// preceded by its length, so that no two lists of fields have the same bytes.
pub(crate) struct Fields(Vec<u8>);

impl Fields {
    pub(crate) fn new(label: &'static str) -> Self {
        Self(Vec::with_capacity(256)).text(label)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0
            .extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    pub(crate) fn number(self, number: impl Into<u64>) -> Self {
        self.bytes(&number.into().to_be_bytes())
    }

    pub(crate) fn optional(self, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.number(1_u32).text(text),
            None => self.number(0_u32),
        }
    }

    pub(crate) fn list<'a>(self, items: impl ExactSizeIterator<Item = &'a str>) -> Self {
        let counted = self.number(items.len() as u64);
        items.fold(counted, Self::text)
    }
}

/// A 256-bit key that encrypts, with its id.
pub(crate) struct CipherKey {
    id: KeyId,
    bytes: Zeroizing<[u8; 32]>,
}

impl CipherKey {
    pub(crate) fn new(id: KeyId, bytes: Zeroizing<[u8; 32]>) -> Self {
        Self { id, bytes }
    }

    pub(crate) fn generate() -> Result<Self, VaultError> {
        Ok(Self::new(
            random_id()?.parse().map_err(|_| VaultError::Crypto)?,
            random_key()?,
        ))
    }

    pub(crate) fn id(&self) -> &KeyId {
        &self.id
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// Encrypts under a fresh random nonce.
    pub(crate) fn seal(&self, bound_to: &Fields, plain: &[u8]) -> Result<Sealed, VaultError> {
        // Room for the tag from the start: growing would leave a copy of the plaintext behind.
        let mut buffer = Zeroizing::new(Vec::with_capacity(plain.len().saturating_add(TAG)));
        buffer.extend_from_slice(plain);
        let nonce = self
            .cipher()?
            .seal_in_place_append_tag(Aad::from(&bound_to.0), &mut *buffer)
            .map_err(|_| VaultError::Crypto)?;
        Ok(Sealed {
            nonce: *nonce.as_ref(),
            ciphertext: buffer.to_vec(),
        })
    }

    /// Decrypts; `None` where the ciphertext is not what was made under this key for this place.
    pub(crate) fn open(
        &self,
        bound_to: &Fields,
        sealed: &Sealed,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, VaultError> {
        let mut buffer = Zeroizing::new(sealed.ciphertext.clone());
        let nonce = Nonce::assume_unique_for_key(sealed.nonce);
        let opened = self
            .cipher()?
            .open_in_place(nonce, Aad::from(&bound_to.0), &mut buffer)
            .map(|plain| plain.len());
        let Ok(length) = opened else {
            return Ok(None);
        };
        buffer.truncate(length);
        Ok(Some(buffer))
    }

    fn cipher(&self) -> Result<RandomizedNonceKey, VaultError> {
        RandomizedNonceKey::new(&AES_256_GCM, self.bytes.as_slice()).map_err(|_| VaultError::Crypto)
    }
}

impl fmt::Debug for CipherKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CipherKey({})", self.id)
    }
}

/// The keys derived from the vault's root secret, each used for one thing.
pub(crate) struct Derived {
    seal: hmac::Key,
    fingerprint: hmac::Key,
    api_keys: Zeroizing<[u8; 32]>,
    audit: Zeroizing<[u8; 32]>,
}

impl Derived {
    pub(crate) fn from_root(root: &[u8]) -> Result<Self, VaultError> {
        let derive = |label: &str| derive(root, label);
        let key = |bytes: Zeroizing<[u8; 32]>| hmac::Key::new(hmac::HMAC_SHA256, bytes.as_slice());
        Ok(Self {
            seal: key(derive("xylem row seal")?),
            fingerprint: key(derive("xylem token fingerprint")?),
            api_keys: derive("xylem api keys")?,
            audit: derive("xylem audit mac")?,
        })
    }

    pub(crate) fn mac(&self, fields: &Fields) -> Mac {
        let tag = hmac::sign(&self.seal, &fields.0);
        let mut mac = [0; 32];
        for (to, from) in mac.iter_mut().zip(tag.as_ref()) {
            *to = *from;
        }
        Mac(mac)
    }

    /// The first 64 bits of a keyed digest: enough to tell versions apart, useless for guessing.
    pub(crate) fn fingerprint(&self, token: &str) -> Result<Fingerprint, VaultError> {
        let tag = hmac::sign(&self.fingerprint, token.as_bytes());
        let short = tag.as_ref().get(..8).ok_or(VaultError::Crypto)?;
        hex::encode(short).parse().map_err(|_| VaultError::Crypto)
    }

    pub(crate) fn api_keys(&self) -> &[u8; 32] {
        &self.api_keys
    }

    pub(crate) fn audit(&self) -> &[u8; 32] {
        &self.audit
    }
}

struct Length;

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        32
    }
}

fn derive(root: &[u8], label: &str) -> Result<Zeroizing<[u8; 32]>, VaultError> {
    let mut key = Zeroizing::new([0; 32]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, b"xylem vault")
        .extract(root)
        .expand(&[label.as_bytes()], Length)
        .and_then(|okm| okm.fill(key.as_mut_slice()))
        .map_err(|_| VaultError::Crypto)?;
    Ok(key)
}

/// 256 random bits.
pub(crate) fn random_key() -> Result<Zeroizing<[u8; 32]>, VaultError> {
    let mut key = Zeroizing::new([0; 32]);
    rand::fill(key.as_mut_slice()).map_err(|_| VaultError::Crypto)?;
    Ok(key)
}

/// 128 random bits as text that fits every id here.
pub(crate) fn random_id() -> Result<String, VaultError> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| VaultError::Crypto)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
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
    fn fields_are_injective() {
        let bytes = |fields: Fields| fields.0;
        assert_ne!(
            bytes(Fields::new("x").text("ab").text("c")),
            bytes(Fields::new("x").text("a").text("bc"))
        );
        assert_ne!(
            bytes(Fields::new("x").optional(None).text("")),
            bytes(Fields::new("x").optional(Some("")))
        );
        assert_ne!(
            bytes(
                Fields::new("x")
                    .list(["a"].into_iter())
                    .list([].into_iter())
            ),
            bytes(
                Fields::new("x")
                    .list([].into_iter())
                    .list(["a"].into_iter())
            )
        );
    }

    #[test]
    fn fingerprints_are_keyed() {
        let one = Derived::from_root(&[1; 32]).unwrap();
        let two = Derived::from_root(&[2; 32]).unwrap();
        assert_eq!(one.fingerprint("t").unwrap(), one.fingerprint("t").unwrap());
        assert_ne!(one.fingerprint("t").unwrap(), two.fingerprint("t").unwrap());
        assert_ne!(one.fingerprint("t").unwrap(), one.fingerprint("u").unwrap());
    }

    #[test]
    fn debug_shows_no_key() {
        let key = CipherKey::new("k".parse().unwrap(), Zeroizing::new([7; 32]));
        let sealed = key.seal(&place("a"), b"secret").unwrap();
        assert_eq!(
            format!("{key:?} {sealed:?} {:?}", Mac([7; 32])),
            "CipherKey(k) Sealed Mac"
        );
    }
}
