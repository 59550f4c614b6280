//! Keys that sign grants, and are used for nothing else.

use crate::{Claims, VerifiedGrant, verify};
use aws_lc_rs::{
    encoding::AsDer,
    signature::{Ed25519KeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};
use std::fmt;
use xylem_ids::KeyId;
use zeroize::Zeroizing;

/// Why a signing key could not be made, read or used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IssuerError {
    /// The bytes are not an Ed25519 key in PKCS#8 form.
    #[error("the issuer key is not an Ed25519 key in PKCS#8 form")]
    NotAKey,
    /// The system's random source or the signer failed.
    #[error("the issuer key could not be generated or used")]
    Crypto,
    /// The claims name no audience, or end before they begin.
    #[error("a grant needs at least one audience and an expiry after its issue")]
    Claims,
    /// The grant would be larger than [`crate::MAX_GRANT_BYTES`].
    #[error(
        "the grant would be larger than {} bytes: name fewer or shorter audiences",
        crate::MAX_GRANT_BYTES
    )]
    TooLarge,
}

/// A private key that signs grants. Its `Debug` shows the key id only.
pub struct IssuerKey {
    pkcs8: Zeroizing<Vec<u8>>,
    signer: EncodingKey,
    public: IssuerPublicKey,
}

impl IssuerKey {
    /// A fresh key of the given generation; each new issuer key has a higher one.
    ///
    /// # Errors
    /// The system's random source failed.
    pub fn generate(generation: u32) -> Result<Self, IssuerError> {
        let pair = Ed25519KeyPair::generate().map_err(|_| IssuerError::Crypto)?;
        let der = AsDer::as_der(&pair).map_err(|_| IssuerError::Crypto)?;
        let der: &aws_lc_rs::encoding::Pkcs8V1Der<'static> = &der;
        Self::from_pkcs8(der.as_ref(), generation)
    }

    /// A key from its stored form.
    ///
    /// # Errors
    /// The bytes are not an Ed25519 key in PKCS#8 form.
    pub fn from_pkcs8(pkcs8: &[u8], generation: u32) -> Result<Self, IssuerError> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| IssuerError::NotAKey)?;
        let public = IssuerPublicKey::new(pair.public_key().as_ref(), generation);
        Ok(Self {
            signer: EncodingKey::from_ed_der(pkcs8),
            pkcs8: Zeroizing::new(pkcs8.to_vec()),
            public: public.ok_or(IssuerError::NotAKey)?,
        })
    }

    /// The form to store, encrypted: PKCS#8.
    #[must_use]
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        self.pkcs8.clone()
    }

    /// The half that verifies.
    #[must_use]
    pub fn public(&self) -> &IssuerPublicKey {
        &self.public
    }

    /// Signs the claims. What comes back is verified by construction.
    ///
    /// # Errors
    /// The claims break a rule, the signer failed, or the grant would be larger than
    /// [`crate::MAX_GRANT_BYTES`].
    pub fn issue(&self, claims: Claims) -> Result<VerifiedGrant, IssuerError> {
        if !claims.are_sound() {
            return Err(IssuerError::Claims);
        }
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(verify::TYPE.to_owned());
        header.kid = Some(self.public.key_id.to_string());
        let jws = jsonwebtoken::encode(&header, &claims, &self.signer)
            .map_err(|_| IssuerError::Crypto)?;
        let text = format!("{}{jws}", crate::GRANT_PREFIX);
        if text.len() > crate::MAX_GRANT_BYTES {
            return Err(IssuerError::TooLarge);
        }
        Ok(VerifiedGrant::issued(
            text,
            claims,
            self.public.key_id.clone(),
        ))
    }
}

impl fmt::Debug for IssuerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuerKey")
            .field("key_id", &self.public.key_id)
            .finish_non_exhaustive()
    }
}

/// The public half of an issuer key, as it travels in headers and activity results.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerPublicKey {
    /// The id a grant names in its header.
    pub key_id: KeyId,
    /// The 32 bytes of the Ed25519 public key, base64url without padding (RFC 8037 `x`).
    pub x: String,
    /// Which key is newer: only a newer key may retire an older one.
    pub generation: u32,
}

impl IssuerPublicKey {
    fn new(raw: &[u8], generation: u32) -> Option<Self> {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, raw);
        let key_id = URL_SAFE_NO_PAD.encode(digest.as_ref().get(..12)?);
        Some(Self {
            key_id: key_id.parse().ok()?,
            x: URL_SAFE_NO_PAD.encode(raw),
            generation,
        })
    }
}

impl IssuerPublicKey {
    fn is_sound(&self) -> bool {
        let raw = URL_SAFE_NO_PAD.decode(&self.x).unwrap_or_default();
        raw.len() == 32 && Self::new(&raw, self.generation).is_some_and(|key| key == *self)
    }
}

impl fmt::Debug for IssuerPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IssuerPublicKey({})", self.key_id)
    }
}

/// The issuer keys a verifier trusts, and those it has been told to trust no more.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerSet {
    trusted: Vec<IssuerPublicKey>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    retired: Vec<KeyId>,
}

impl IssuerSet {
    /// A set that trusts these keys.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = IssuerPublicKey>) -> Self {
        let mut set = Self::default();
        for key in keys {
            set.trust(key);
        }
        set
    }

    /// Trusts a key, unless it was retired: retirement is final. A key whose id is not the digest
    /// of the key is not trusted: it could pass for another.
    pub fn trust(&mut self, key: IssuerPublicKey) {
        if !key.is_sound() {
            return;
        }
        if !self.is_retired(&key.key_id) && self.key(&key.key_id).is_none() {
            self.trusted.push(key);
        }
    }

    /// Trusts `key_id` no more, for good, because a grant signed by `by` says so.
    ///
    /// Does nothing and answers `false` unless both keys are trusted and `by` is the newer one: a
    /// stolen old key must not retire its successor.
    pub fn retire(&mut self, key_id: &KeyId, by: &KeyId) -> bool {
        let older = match (self.key(key_id), self.key(by)) {
            (Some(old), Some(new)) => old.generation < new.generation,
            _ => false,
        };
        if older {
            self.trusted.retain(|key| key.key_id != *key_id);
            self.retired.push(key_id.clone());
        }
        older
    }

    /// Whether the key was retired.
    #[must_use]
    pub fn is_retired(&self, key_id: &KeyId) -> bool {
        self.retired.contains(key_id)
    }

    /// Whether no key is trusted yet: a root that was started without a header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.trusted.is_empty()
    }

    /// The keys trusted now.
    #[must_use]
    pub fn keys(&self) -> &[IssuerPublicKey] {
        &self.trusted
    }

    pub(crate) fn key(&self, key_id: &KeyId) -> Option<&IssuerPublicKey> {
        self.trusted.iter().find(|key| key.key_id == *key_id)
    }
}
