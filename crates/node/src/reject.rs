//! Why a signal changed nothing.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};
use xylem_grant::Reject;

/// Why a node did not adopt what it was sent. The words are codes: they appear in queries, counts
/// and audit entries, and are not reused for another meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// The signal carried no JSON string: no payload, several, binary, not JSON, not a string.
    NotAString,
    /// A raw token where intake is off: it lies in history now and must be rotated.
    RawToken,
    /// A grant that is malformed.
    Malformed,
    /// A grant that is too large.
    Oversized,
    /// A grant that is not signed with EdDSA.
    WrongAlgorithm,
    /// A grant signed by a key nobody vouches for.
    UnknownKey,
    /// A grant signed by a retired key.
    RetiredKey,
    /// A grant whose signature does not verify.
    BadSignature,
    /// A valid grant of another tree, or of a tree that bore the same id at another time.
    OtherTree,
    /// A valid grant for a slot that this node does not take.
    SlotNotTaken,
    /// A valid grant that has expired.
    Expired,
    /// A valid grant that is older than the one held.
    Stale,
    /// The grant that is already held.
    Duplicate,
    /// A valid grant as new as the one held and yet different: somebody else can sign.
    Conflict,
}

impl Rejection {
    /// Whether the audit log must hear of it: everything but what an honest cascade can repeat.
    #[must_use]
    pub fn is_suspicious(self) -> bool {
        !matches!(self, Self::Stale | Self::Duplicate | Self::Expired)
    }
}

impl fmt::Display for Rejection {
    /// The code, as it is serialized.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAString => "not_a_string",
            Self::RawToken => "raw_token",
            Self::Malformed => "malformed",
            Self::Oversized => "oversized",
            Self::WrongAlgorithm => "wrong_algorithm",
            Self::UnknownKey => "unknown_key",
            Self::RetiredKey => "retired_key",
            Self::BadSignature => "bad_signature",
            Self::OtherTree => "other_tree",
            Self::SlotNotTaken => "slot_not_taken",
            Self::Expired => "expired",
            Self::Stale => "stale",
            Self::Duplicate => "duplicate",
            Self::Conflict => "conflict",
        })
    }
}

impl From<Reject> for Rejection {
    fn from(reject: Reject) -> Self {
        match reject {
            Reject::Malformed => Self::Malformed,
            Reject::Oversized => Self::Oversized,
            Reject::WrongAlgorithm => Self::WrongAlgorithm,
            Reject::UnknownKey => Self::UnknownKey,
            Reject::RetiredKey => Self::RetiredKey,
            Reject::BadSignature => Self::BadSignature,
        }
    }
}

/// How many signals were rejected, by reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Counts(BTreeMap<Rejection, u64>);

impl Counts {
    pub(crate) fn count(&mut self, reason: Rejection) {
        let count = self.0.entry(reason).or_default();
        *count = count.saturating_add(1);
    }

    /// How many for this reason.
    #[must_use]
    pub fn of(&self, reason: Rejection) -> u64 {
        self.0.get(&reason).copied().unwrap_or(0)
    }

    /// Whether nothing was rejected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The reasons and their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Rejection, u64)> + '_ {
        self.0.iter().map(|(reason, count)| (*reason, *count))
    }
}
