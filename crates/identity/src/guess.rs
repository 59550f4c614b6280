//! Guessing is slow, and who guesses does not keep the owner out.
//!
//! Attempts are counted in lanes, and one that has to wait is refused before anything is hashed. Who is
//! known at an account (its device, or a network it came from before) is not slowed down by what
//! strangers do there.

use std::time::Duration;

/// How long a network counts as known after somebody signed in from it.
pub const KNOWN_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What attempts are counted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// One account from one place: five, then each waits twice as long, up to 15 minutes.
    Pair,
    /// Every account from one place: sixty in 15 minutes.
    Source,
    /// One account from all places that are not known there: twenty in an hour, then one in 30 s.
    Strangers,
}

/// Attempts of one lane; every number in seconds since 1970 but the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    /// How many there were.
    pub attempts: u32,
    /// Since when.
    pub since: u64,
    /// When the next one is let through.
    pub not_before: u64,
}

impl Lane {
    fn window(self) -> u64 {
        match self {
            Self::Pair | Self::Source => 15 * 60,
            Self::Strangers => 60 * 60,
        }
    }

    /// Whether earlier attempts count still. Nobody waits for longer than a window, and clocks differ by less
    /// than another one: what is further ahead was noted by a clock that was wrong.
    fn counts(self, counter: &Counter, now: u64) -> bool {
        let window = self.window();
        let ends = counter.since.saturating_add(window).max(counter.not_before);
        now < ends && ends <= now.saturating_add(2 * window)
    }

    /// Counts an attempt.
    ///
    /// # Errors
    /// It has to wait for so many seconds, and is not counted.
    pub fn count(self, counter: Option<Counter>, now: u64) -> Result<Counter, u64> {
        let fresh = Counter {
            attempts: 0,
            since: now,
            not_before: 0,
        };
        let counter = counter
            .filter(|counter| self.counts(counter, now))
            .unwrap_or(fresh);
        if now < counter.not_before {
            return Err(counter.not_before - now);
        }
        let attempts = counter.attempts.saturating_add(1);
        let not_before = match self {
            Self::Pair if attempts >= 5 => now + 2_u64.pow((attempts - 5).min(10)).min(15 * 60),
            Self::Source if attempts >= 60 => counter.since + self.window(),
            Self::Strangers if attempts >= 20 => now + 30,
            _ => 0,
        };
        Ok(Counter {
            attempts,
            not_before,
            ..counter
        })
    }
}

/// The lanes of one attempt, each with the keyed hash that it is counted under.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Those that count in any case.
    pub lanes: Vec<(Lane, [u8; 32])>,
    /// That of strangers, where the attempt may be one of theirs.
    pub strangers: Option<[u8; 32]>,
    /// What makes the place known at the account after a success, where that is not the device.
    pub place: Option<[u8; 32]>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `tries` attempts, one each `every` seconds, are let through.
    fn through(lane: Lane, tries: u64, every: u64) -> u64 {
        let mut counter = None;
        let mut let_through = 0;
        for now in (0..tries).map(|n| 1_000_000 + n * every) {
            if let Ok(counted) = lane.count(counter, now) {
                counter = Some(counted);
                let_through += 1;
            }
        }
        let_through
    }

    #[test]
    fn one_account_from_one_place_is_slow_after_five() {
        assert_eq!(through(Lane::Pair, 5, 0), 5);
        assert_eq!(through(Lane::Pair, 100, 0), 5);
        assert!(through(Lane::Pair, 24 * 3600, 1) < 96 * 16);
    }

    #[test]
    fn one_place_has_sixty_in_fifteen_minutes() {
        assert_eq!(through(Lane::Source, 900, 1), 60);
        assert_eq!(through(Lane::Source, 1801, 1), 121);
    }

    #[test]
    fn strangers_of_an_account_share_one_in_thirty_seconds() {
        assert_eq!(through(Lane::Strangers, 20, 0), 20);
        assert_eq!(through(Lane::Strangers, 321, 1), 20 + 10);
    }

    #[test]
    fn what_a_clock_noted_that_was_ahead_keeps_nobody_waiting() {
        let now: u64 = 1_000_000;
        for lane in [Lane::Pair, Lane::Source, Lane::Strangers] {
            // The clock may have been right at first.
            let noted = |since: u64, ahead: u64| Counter {
                attempts: 100,
                since,
                not_before: now + ahead,
            };
            let day = 24 * 60 * 60;
            for wrong in [
                noted(now - 60, day),
                noted(now + day, 0),
                noted(now + day, day),
            ] {
                let counted = lane.count(Some(wrong), now).unwrap();
                assert_eq!((counted.attempts, counted.since), (1, now), "{lane:?}");
            }
            // The longest wait, noted by another control plane whose clock is a little ahead.
            let waits = noted(now - 60, 15 * 60 + 30);
            assert_eq!(lane.count(Some(waits), now), Err(15 * 60 + 30), "{lane:?}");
        }
    }

    #[test]
    fn a_wait_says_how_long() {
        let counter = Counter {
            attempts: 60,
            since: 1000,
            not_before: 1900,
        };
        assert_eq!(Lane::Source.count(Some(counter), 1100), Err(800));
        assert_eq!(Lane::Source.count(Some(counter), 1900).unwrap().attempts, 1);
    }
}
