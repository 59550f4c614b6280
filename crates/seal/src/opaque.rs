//! Text that others carry and hand back, without reading it.

use crate::{CryptoError, Fields, SubKey};
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use std::fmt;

/// Every text is as long as this once it is encrypted: its length says nothing.
const PADDED: usize = 128;

/// A key that makes opaque text of short text: for the same purpose always the same, so that an answer
/// can be remembered.
///
/// AES-256-GCM-SIV (RFC 8452) under one nonce: whoever has two of them learns whether they are equal,
/// and nothing else. Neither is it a nonce that could be used up.
pub struct OpaqueKey(LessSafeKey);

impl OpaqueKey {
    /// The key of that name.
    ///
    /// # Errors
    /// The cryptographic library failed.
    pub fn new(key: &SubKey) -> Result<Self, CryptoError> {
        let key = UnboundKey::new(&AES_256_GCM_SIV, key.bytes()).map_err(|_| CryptoError)?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// The opaque text, of letters, digits, '-' and '_'.
    ///
    /// # Errors
    /// The text is longer than 127 bytes, or the cryptographic library failed.
    pub fn seal(&self, bound_to: &Fields, text: &str) -> Result<String, CryptoError> {
        let length = u8::try_from(text.len()).map_err(|_| CryptoError)?;
        if text.len() >= PADDED {
            return Err(CryptoError);
        }
        let mut buffer = Vec::with_capacity(PADDED.saturating_add(AES_256_GCM_SIV.tag_len()));
        buffer.push(length);
        buffer.extend_from_slice(text.as_bytes());
        buffer.resize(PADDED, 0);
        let bound_to = Aad::from(bound_to.as_bytes());
        let sealed = self
            .0
            .seal_in_place_append_tag(nonce(), bound_to, &mut buffer);
        sealed.map_err(|_| CryptoError)?;
        Ok(URL_SAFE_NO_PAD.encode(buffer))
    }

    /// The text; `None` where this is not what was made under this key for this purpose.
    #[must_use]
    pub fn open(&self, bound_to: &Fields, opaque: &str) -> Option<String> {
        let mut buffer = URL_SAFE_NO_PAD.decode(opaque).ok()?;
        let bound_to = Aad::from(bound_to.as_bytes());
        let opened = self.0.open_in_place(nonce(), bound_to, &mut buffer).ok()?;
        let (length, text) = opened.split_first()?;
        let text = text.get(..usize::from(*length))?;
        String::from_utf8(text.to_vec()).ok()
    }
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

impl fmt::Debug for OpaqueKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpaqueKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(secret: u8) -> OpaqueKey {
        OpaqueKey::new(&SubKey::from_secret(&[secret; 32], "opaque").unwrap()).unwrap()
    }

    fn page(of: &str) -> Fields {
        Fields::new("test").text(of)
    }

    #[test]
    fn text_comes_back_for_its_purpose_under_its_key() {
        let key_1 = key(1);
        let opaque = key_1.seal(&page("a"), "acme.deploy").unwrap();
        let open = |key: &OpaqueKey, of, opaque: &str| key.open(&page(of), opaque);
        assert_eq!(open(&key_1, "a", &opaque).as_deref(), Some("acme.deploy"));
        assert_eq!(open(&key_1, "b", &opaque), None);
        assert_eq!(open(&key(2), "a", &opaque), None);
        for other in ["", "acme.deploy", "%", &opaque[1..], &opaque[..40]] {
            assert_eq!(open(&key_1, "a", other), None, "{other}");
        }
    }

    #[test]
    fn it_is_the_same_each_time_and_says_neither_text_nor_length() {
        let key = key(1);
        let sealed = |text: &str| key.seal(&page("a"), text).unwrap();
        assert_eq!(sealed("acme"), sealed("acme"));
        assert_ne!(sealed("acme"), sealed("acmf"));
        assert_ne!(sealed("acme"), key.seal(&page("b"), "acme").unwrap());
        let longest = "x".repeat(127);
        assert_eq!(sealed("").len(), sealed(&longest).len());
        assert_eq!(
            key.open(&page("a"), &sealed(&longest)).as_deref(),
            Some(&*longest)
        );
        assert_eq!(key.seal(&page("a"), &"x".repeat(128)), Err(CryptoError));
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", key(7)), "OpaqueKey");
    }
}
