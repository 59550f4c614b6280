//! Bind, seal, encrypt and derive: what lies in a database and must neither be edited nor read there.
//!
//! [`Fields`] is what something is bound to. A [`MacKey`] seals it, so that an edited row shows; a
//! [`CipherKey`] encrypts for it, so that a row that was moved does not open. A [`SubKey`] is where
//! both come from: each room has one of its own, and derives a key for each thing that it does. An
//! [`OpaqueKey`] is for what others carry and hand back, such as a place in a list. An [`Envelope`] is for
//! what leaves the house: whoever fills it cannot read it.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic
    )
)]

mod cipher;
mod derive;
mod envelope;
mod fields;
mod opaque;

pub use cipher::{CipherKey, Sealed};
pub use derive::{Mac, MacKey, SubKey};
pub use envelope::{Envelope, EnvelopeKey, EnvelopeOpener, NoEnvelopeKey, Opened};
pub use fields::Fields;
pub use opaque::OpaqueKey;

use aws_lc_rs::rand;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

/// The system's random source or the cryptographic library failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cryptographic operation failed")]
pub struct CryptoError;

/// 256 random bits.
///
/// # Errors
/// The system's random source failed.
pub fn random_key() -> Result<Zeroizing<[u8; 32]>, CryptoError> {
    let mut key = Zeroizing::new([0; 32]);
    rand::fill(key.as_mut_slice()).map_err(|_| CryptoError)?;
    Ok(key)
}

/// 128 random bits as text that fits every id here.
///
/// # Errors
/// The system's random source failed.
pub fn random_id() -> Result<String, CryptoError> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| CryptoError)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}
