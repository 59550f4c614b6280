//! Grants: the signed, non-secret statement "version V of slot S of tree T is current, until E,
//! for audiences A".
//!
//! A grant proves its content, not its bearer: holding one entitles nobody to anything. The wire
//! form is `xylem1.` followed by a compact JWS (RFC 7515) signed with EdDSA over Ed25519
//! (RFC 8037). What `xylem1.` verifies is frozen: workflow histories are replayed against it.
//!
//! An [`UnverifiedGrant`] can only become a [`VerifiedGrant`] through
//! [`UnverifiedGrant::verify`]; nothing else constructs one. There is no I/O here and no clock:
//! expiry is compared by whoever has a time to compare with.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic
    )
)]

mod claims;
mod issuer;
mod verify;

pub use claims::{Claims, UnixSeconds};
pub use issuer::{IssuerError, IssuerKey, IssuerPublicKey, IssuerSet};
pub use verify::{GRANT_PREFIX, MAX_GRANT_BYTES, Reject, UnverifiedGrant, VerifiedGrant};
