//! From text to a verified grant.

use crate::{Claims, IssuerSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};
use xylem_ids::{KeyId, Order, Slot};

/// What every grant of this format begins with. A string that begins so is never taken for a raw
/// token.
pub const GRANT_PREFIX: &str = "xylem1.";

/// No grant is larger, in bytes; larger input is refused before it is parsed.
pub const MAX_GRANT_BYTES: usize = 8 * 1024;

pub(crate) const TYPE: &str = "xylem-grant+jwt";

/// Why text is not a verified grant. The words are codes: they appear in queries, counts and audit
/// entries, and are not reused for another meaning.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    thiserror::Error,
)]
#[serde(rename_all = "snake_case")]
pub enum Reject {
    /// Not a compact JWS of the expected type, or its claims break a rule.
    #[error("the grant is malformed")]
    Malformed,
    /// Larger than [`MAX_GRANT_BYTES`].
    #[error("the grant is larger than {MAX_GRANT_BYTES} bytes")]
    Oversized,
    /// Signed with another algorithm than EdDSA, or with none.
    #[error("the grant is not signed with EdDSA")]
    WrongAlgorithm,
    /// Signed by a key that is not known here.
    #[error("the grant is signed by an unknown issuer key")]
    UnknownKey,
    /// Signed by a key that a later grant has retired.
    #[error("the grant is signed by a retired issuer key")]
    RetiredKey,
    /// The signature does not fit the content.
    #[error("the grant's signature does not verify")]
    BadSignature,
}

/// Text that looks like a grant. Nothing it says may be relied on.
#[derive(Clone, PartialEq, Eq)]
pub struct UnverifiedGrant {
    text: String,
    key_id: KeyId,
}

impl UnverifiedGrant {
    /// Whether the text claims to be a grant at all, of whatever quality.
    #[must_use]
    pub fn is_grant(text: &str) -> bool {
        text.starts_with(GRANT_PREFIX)
    }

    /// Reads the outer form and the key id.
    ///
    /// # Errors
    /// [`Reject::Oversized`], [`Reject::Malformed`] or [`Reject::WrongAlgorithm`].
    pub fn parse(text: &str) -> Result<Self, Reject> {
        if text.len() > MAX_GRANT_BYTES {
            return Err(Reject::Oversized);
        }
        let jws = text.strip_prefix(GRANT_PREFIX).ok_or(Reject::Malformed)?;
        let header = jsonwebtoken::decode_header(jws).map_err(|error| match error.kind() {
            ErrorKind::InvalidAlgorithmName => Reject::WrongAlgorithm,
            // An algorithm the library does not know, `none` among them, is an error in the data
            // to it; what is not JSON at all is an error of another category.
            ErrorKind::Json(error) if error.is_data() => Reject::WrongAlgorithm,
            _ => Reject::Malformed,
        })?;
        if header.alg != Algorithm::EdDSA {
            return Err(Reject::WrongAlgorithm);
        }
        if header.typ.as_deref() != Some(TYPE) || header.crit.is_some() {
            return Err(Reject::Malformed);
        }
        let key_id = header.kid.ok_or(Reject::Malformed)?;
        Ok(Self {
            text: text.to_owned(),
            key_id: key_id.parse().map_err(|_| Reject::Malformed)?,
        })
    }

    /// The key it says it is signed by.
    #[must_use]
    pub fn key_id(&self) -> &KeyId {
        &self.key_id
    }

    /// The text it was parsed from.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Checks the signature against the trusted keys. Expiry is not checked here.
    ///
    /// # Errors
    /// [`Reject::RetiredKey`], [`Reject::UnknownKey`], [`Reject::BadSignature`] or
    /// [`Reject::Malformed`].
    pub fn verify(&self, issuers: &IssuerSet) -> Result<VerifiedGrant, Reject> {
        if issuers.is_retired(&self.key_id) {
            return Err(Reject::RetiredKey);
        }
        let issuer = issuers.key(&self.key_id).ok_or(Reject::UnknownKey)?;
        let key = DecodingKey::from_ed_components(&issuer.x).map_err(|_| Reject::UnknownKey)?;
        let jws = self
            .text
            .strip_prefix(GRANT_PREFIX)
            .ok_or(Reject::Malformed)?;
        let data =
            jsonwebtoken::decode::<Claims>(jws, &key, &validation()).map_err(
                |error| match error.kind() {
                    ErrorKind::InvalidSignature => Reject::BadSignature,
                    ErrorKind::InvalidAlgorithm => Reject::WrongAlgorithm,
                    _ => Reject::Malformed,
                },
            )?;
        if !data.claims.are_sound() {
            return Err(Reject::Malformed);
        }
        Ok(VerifiedGrant::issued(
            self.text.clone(),
            data.claims,
            self.key_id.clone(),
        ))
    }
}

impl fmt::Debug for UnverifiedGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnverifiedGrant(key {})", self.key_id)
    }
}

/// The library's own clock checks are off: a workflow that is replayed decides by history, and the
/// vault compares with its own clock.
fn validation() -> Validation {
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    validation
}

/// A grant whose signature was verified, or that was just signed. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct VerifiedGrant(Arc<Inner>);

#[derive(PartialEq, Eq, Hash)]
struct Inner {
    text: String,
    claims: Claims,
    key_id: KeyId,
}

impl VerifiedGrant {
    pub(crate) fn issued(text: String, claims: Claims, key_id: KeyId) -> Self {
        Self(Arc::new(Inner {
            text,
            claims,
            key_id,
        }))
    }

    /// The wire form, beginning with [`GRANT_PREFIX`].
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// What it says.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.0.claims
    }

    /// The key that signed it.
    #[must_use]
    pub fn key_id(&self) -> &KeyId {
        &self.0.key_id
    }

    /// The slot it is for.
    #[must_use]
    pub fn slot(&self) -> &Slot {
        &self.0.claims.slot
    }

    /// Its place among the grants of its slot.
    #[must_use]
    pub fn order(&self) -> Order {
        self.0.claims.order
    }
}

impl fmt::Debug for VerifiedGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifiedGrant({}@{})", self.slot(), self.order())
    }
}
