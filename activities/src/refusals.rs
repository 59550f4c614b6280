//! How often the newest version was answered with 401 in a row, carried from one attempt of an
//! activity to the next in its heartbeat details.

use serde::{Deserialize, Serialize};
use std::time::Duration;
use xylem_ids::{Epoch, Order, Version};

/// After so many refusals of the newest version a call fails for good.
pub(crate) const MAX_REFUSALS: u32 = 3;

const FIRST_DELAY: Duration = Duration::from_millis(200);

/// Refusals of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusals {
    epoch: Epoch,
    version: Version,
    count: u32,
}

impl Refusals {
    /// Counts one more refusal; another version than before starts anew.
    pub(crate) fn and(before: Option<Self>, order: Order) -> Self {
        let (epoch, version) = (order.epoch, order.version);
        let same = before.filter(|b| (b.epoch, b.version) == (epoch, version));
        let count = same.map_or(0, |b| b.count).saturating_add(1);
        Self {
            epoch,
            version,
            count,
        }
    }

    /// Whether a repetition is still worth it.
    pub(crate) fn is_final(self) -> bool {
        self.count >= MAX_REFUSALS
    }

    /// How long to wait before the next attempt: doubled each time.
    pub(crate) fn delay(self) -> Duration {
        FIRST_DELAY * 2_u32.pow(self.count.saturating_sub(1).min(MAX_REFUSALS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xylem_ids::Serial;

    fn order(version: u32, serial: u32) -> Order {
        Order {
            epoch: Epoch(1),
            version: Version(version),
            serial: Serial(serial),
        }
    }

    #[test]
    fn three_of_one_version_are_enough_whatever_its_serial() {
        let first = Refusals::and(None, order(1, 1));
        let second = Refusals::and(Some(first), order(1, 2));
        let third = Refusals::and(Some(second), order(1, 2));
        assert!(!first.is_final() && !second.is_final() && third.is_final());
        assert!(first.delay() < second.delay());
    }

    #[test]
    fn another_version_starts_anew() {
        let first = Refusals::and(None, order(1, 1));
        let second = Refusals::and(Some(first), order(1, 1));
        assert_eq!(Refusals::and(Some(second), order(2, 1)).count, 1);
    }
}
