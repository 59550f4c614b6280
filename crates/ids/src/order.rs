//! The order of grants: (epoch, version, serial).

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $repr:ty, $first:literal) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $repr);

        impl $name {
            /// Where counting begins.
            pub const FIRST: Self = Self($first);

            /// The next one, or `None` at the end of the range.
            #[must_use]
            pub fn next(self) -> Option<Self> {
                self.0.checked_add(1).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// Raised when a vault is restored from a backup, so that nothing issued after the backup
    /// outranks what is issued after the restore.
    Epoch,
    u32,
    1
);
number!(
    /// One deposit of a token into a slot; each rotation makes the next.
    Version,
    u32,
    1
);
number!(
    /// One issue of a grant for a version: a longer expiry or a new issuer key makes the next.
    Serial,
    u32,
    1
);

/// How two grants of the same slot compare: newest wins, whatever the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Compared first.
    pub epoch: Epoch,
    /// Compared second.
    pub version: Version,
    /// Compared last.
    pub serial: Serial,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.epoch, self.version, self.serial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(epoch: u32, version: u32, serial: u32) -> Order {
        Order {
            epoch: Epoch(epoch),
            version: Version(version),
            serial: Serial(serial),
        }
    }

    #[test]
    fn epoch_then_version_then_serial() {
        let mut mixed = vec![
            order(2, 1, 1),
            order(1, 9, 9),
            order(1, 2, 1),
            order(1, 1, 7),
        ];
        mixed.sort();
        assert_eq!(
            mixed,
            vec![
                order(1, 1, 7),
                order(1, 2, 1),
                order(1, 9, 9),
                order(2, 1, 1)
            ]
        );
    }

    #[test]
    fn counting_ends_instead_of_wrapping() {
        assert_eq!(Version(u32::MAX).next(), None);
        assert_eq!(Version(1).next(), Some(Version(2)));
    }
}
