//! Checkpoints: signed statements of how the log stood, which are copied out of the database.
//!
//! A checkpoint is a compact JWS (RFC 7515) under EdDSA (RFC 8037), and the text that was signed is
//! what is stored: any JOSE library verifies it.

use crate::{ChainError, ChainId, Hash};
use aws_lc_rs::{
    digest,
    encoding::{AsDer, Pkcs8V1Der},
    signature::{Ed25519KeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use std::fmt;
use xylem_ids::KeyId;
use zeroize::Zeroizing;

const TYPE: &str = "xylem-audit-checkpoint+jwt";

/// A checkpoint as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last entry that it covers.
    pub seq: u64,
    /// When it was taken, in milliseconds since 1970.
    pub at_ms: u64,
    /// The JWS.
    pub signed: String,
}

/// What a checkpoint says. The order of the fields is part of the format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    /// The chain's id, in hex.
    pub(crate) chain: String,
    /// The last entry that is covered.
    pub(crate) seq: u64,
    /// That entry's hash, in hex.
    pub(crate) hash: String,
    /// When, in milliseconds since 1970.
    pub(crate) at: u64,
    /// Where the checkpoint before this one was taken; 0 in the first.
    pub(crate) prev: u64,
}

impl Claims {
    pub(crate) fn is_of(&self, chain: &ChainId) -> bool {
        self.chain == chain.to_string()
    }

    pub(crate) fn says(&self, hash: &Hash) -> bool {
        self.hash == hash.to_string()
    }
}

/// The private key. It signs checkpoints and nothing else.
#[derive(Clone)]
pub(crate) struct CheckpointSigner {
    signer: EncodingKey,
    public: CheckpointPublicKey,
}

impl CheckpointSigner {
    pub(crate) fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, ChainError> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| ChainError::NotAKey)?;
        Ok(Self {
            signer: EncodingKey::from_ed_der(pkcs8),
            public: CheckpointPublicKey::new(pair.public_key().as_ref())?,
        })
    }

    pub(crate) fn public(&self) -> &CheckpointPublicKey {
        &self.public
    }
}

/// A fresh private key for checkpoints, in PKCS#8 form.
///
/// # Errors
/// The system's random source failed.
pub fn new_checkpoint_key() -> Result<Zeroizing<Vec<u8>>, ChainError> {
    let pair = Ed25519KeyPair::generate().map_err(|_| ChainError::Crypto)?;
    let der: Pkcs8V1Der<'static> = pair.as_der().map_err(|_| ChainError::Crypto)?;
    Ok(Zeroizing::new(der.as_ref().to_vec()))
}

/// The half of the checkpoint key that verifies.
#[derive(Clone, PartialEq, Eq)]
pub struct CheckpointPublicKey {
    id: KeyId,
    x: String,
}

impl CheckpointPublicKey {
    fn new(raw: &[u8]) -> Result<Self, ChainError> {
        let digest = digest::digest(&digest::SHA256, raw);
        let short = digest.as_ref().get(..12).ok_or(ChainError::Crypto)?;
        let id = URL_SAFE_NO_PAD.encode(short);
        Ok(Self {
            id: id.parse().map_err(|_| ChainError::Crypto)?,
            x: URL_SAFE_NO_PAD.encode(raw),
        })
    }

    /// The id that a checkpoint names as its `kid`.
    #[must_use]
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// The key as a JWK (RFC 8037), one line.
    #[must_use]
    pub fn to_jwk(&self) -> String {
        let Self { id, x } = self;
        format!(
            r#"{{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","use":"sig","kid":"{id}","x":"{x}"}}"#
        )
    }

    /// The key of such a JWK; `None` where the text is none.
    #[must_use]
    pub fn from_jwk(text: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Jwk {
            crv: String,
            x: String,
        }
        let jwk: Jwk = serde_json::from_str(text).ok()?;
        let raw = URL_SAFE_NO_PAD.decode(&jwk.x).ok()?;
        let fits = jwk.crv == "Ed25519" && raw.len() == 32;
        fits.then(|| Self::new(&raw).ok()).flatten()
    }

    /// What a checkpoint of this key says; `None` where this key did not sign the text.
    pub(crate) fn verify(&self, signed: &str) -> Option<Claims> {
        let header = jsonwebtoken::decode_header(signed).ok()?;
        if header.typ.as_deref() != Some(TYPE) || header.crit.is_some() {
            return None;
        }
        let key = DecodingKey::from_ed_components(&self.x).ok()?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let read = jsonwebtoken::decode::<Claims>(signed, &key, &validation);
        read.ok().map(|data| data.claims)
    }

    /// The entry that a checkpoint of this log was taken at, or of whatever log where none is named;
    /// `None` where this key did not sign it, or for another log.
    #[must_use]
    pub fn seq_of(&self, chain: Option<&ChainId>, signed: &str) -> Option<u64> {
        let claims = self.verify(signed)?;
        let fits = chain.is_none_or(|chain| claims.is_of(chain));
        fits.then_some(claims.seq)
    }
}

impl fmt::Debug for CheckpointPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CheckpointPublicKey({})", self.id)
    }
}

/// What a text claims to be a checkpoint of, whoever signed it.
pub(crate) fn claimed(signed: &str) -> Option<Claims> {
    let payload = signed.split('.').nth(1)?;
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    serde_json::from_slice(&payload).ok()
}

pub(crate) fn sign(signer: &CheckpointSigner, claims: &Claims) -> Result<String, ChainError> {
    let mut header = Header::new(Algorithm::EdDSA);
    header.typ = Some(TYPE.to_owned());
    header.kid = Some(signer.public.id.to_string());
    jsonwebtoken::encode(&header, claims, &signer.signer).map_err(|_| ChainError::Crypto)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Stored, keys};

    #[test]
    fn a_checkpoint_verifies_under_its_key_alone() {
        let stored = Stored::with(10);
        let signed = &stored.table[0].signed;
        let key = keys().checkpoint_key().clone();
        assert_eq!(key.seq_of(Some(&stored.head.chain), signed), Some(10));
        assert_eq!(key.seq_of(Some(&ChainId([4; 16])), signed), None);
        assert_eq!(key.seq_of(None, signed), Some(10));
        let other = CheckpointSigner::from_pkcs8(&new_checkpoint_key().unwrap()).unwrap();
        assert_eq!(
            other.public().seq_of(Some(&stored.head.chain), signed),
            None
        );
        let parts: Vec<_> = signed.split('.').collect();
        let payload = URL_SAFE_NO_PAD.decode(parts[1]).unwrap();
        let payload = String::from_utf8(payload).unwrap();
        let moved = payload.replace("\"seq\":10", "\"seq\":11");
        let moved = URL_SAFE_NO_PAD.encode(moved);
        assert_ne!(moved, parts[1]);
        let forged = format!("{}.{moved}.{}", parts[0], parts[2]);
        assert_eq!(key.seq_of(Some(&stored.head.chain), &forged), None);
    }

    #[test]
    fn what_is_no_checkpoint_is_none() {
        let key = keys().checkpoint_key().clone();
        for text in ["", "a.b.c", "eyJhbGciOiJub25lIn0.e30."] {
            assert_eq!(key.seq_of(None, text), None, "{text}");
        }
    }

    #[test]
    fn the_public_key_is_a_jwk() {
        let jwk: serde_json::Value =
            serde_json::from_str(&keys().checkpoint_key().to_jwk()).unwrap();
        // The public key of RFC 8032, section 7.1, test 1.
        let raw = hex::decode("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        assert_eq!(jwk["x"], URL_SAFE_NO_PAD.encode(raw.unwrap()));
        assert_eq!(jwk["kty"], "OKP");
        assert_eq!(jwk["kid"], keys().checkpoint_key().id().as_str());
        let key = keys().checkpoint_key().clone();
        assert_eq!(CheckpointPublicKey::from_jwk(&key.to_jwk()), Some(key));
        for bad in ["", "{}", r#"{"crv":"Ed25519","x":"AA"}"#] {
            assert_eq!(CheckpointPublicKey::from_jwk(bad), None, "{bad}");
        }
    }
}
