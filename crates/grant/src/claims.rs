//! What a grant says.

use serde::{Deserialize, Serialize};
use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use xylem_ids::{Audience, Fingerprint, KeyId, Order, Slot, TreeId};

/// A point in time in whole seconds since 1970-01-01T00:00:00Z.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct UnixSeconds(pub u64);

impl UnixSeconds {
    /// This point moved later by whole seconds; stays at the end of the range.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.as_secs()))
    }
}

impl From<SystemTime> for UnixSeconds {
    /// Times before 1970 become 1970.
    fn from(time: SystemTime) -> Self {
        Self(time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()))
    }
}

impl UnixSeconds {
    /// The same point as a system time; `None` beyond what the platform can represent, which a
    /// stolen issuer key could sign.
    #[must_use]
    pub fn to_system_time(self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.0))
    }
}

impl fmt::Display for UnixSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The content of a grant. Field names are short on the wire because a grant is repeated in every
/// signal of a cascade.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// The tree the token belongs to.
    pub tree: TreeId,
    /// The slot it fills.
    pub slot: Slot,
    /// Epoch, version and serial: newest wins.
    pub order: Order,
    /// When the grant was issued.
    #[serde(rename = "iat")]
    pub issued_at: UnixSeconds,
    /// When the grant stops being adoptable and redeemable.
    #[serde(rename = "exp")]
    pub expires_at: UnixSeconds,
    /// Where the token may be sent; never empty in an issued grant.
    pub audiences: Vec<Audience>,
    /// The token's keyed digest.
    #[serde(rename = "fp")]
    pub fingerprint: Fingerprint,
    /// Whether the token came in through a signal and therefore lies in a history.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exposed: bool,
    /// Issuer keys that this grant retires, and with them everything they signed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retires: Vec<KeyId>,
}

impl Claims {
    /// Whether a grant may say this: it can be sent somewhere, and ends after it begins.
    pub(crate) fn are_sound(&self) -> bool {
        !self.audiences.is_empty() && self.expires_at > self.issued_at
    }
}
