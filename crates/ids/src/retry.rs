//! Whether a call is made again that may have reached the API.

use serde::{Deserialize, Serialize};

/// Whether a call is made again where nobody knows whether the API did what it was asked: the answer got
/// lost, or says that the server failed. The later ones are the stricter ones.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum RetryClass {
    /// Yes: to make it twice does what making it once does (RFC 9110, section 9.2.2).
    #[default]
    Idempotent,
    /// Yes, and all attempts carry the same `Idempotency-Key`, by which the API knows them for one call.
    IdempotencyKey,
    /// No.
    AtMostOnce,
}

impl RetryClass {
    /// The header of the key.
    pub const KEY_HEADER: &str = "idempotency-key";
}
