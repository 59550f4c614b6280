//! Time as a test wants it.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use xylem_vault::Clock;

/// Time that stands still until a test moves it, or that moves by a step at every look.
pub(crate) struct TestClock(Mutex<(SystemTime, Duration)>);

impl Default for TestClock {
    fn default() -> Self {
        let start = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Self(Mutex::new((start, Duration::ZERO)))
    }
}

impl TestClock {
    pub(crate) fn advance(&self, by: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0 += by;
    }

    /// As where it was ahead, and is corrected.
    pub(crate) fn set_back(&self, by: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0 -= by;
    }

    /// Lets every look at the clock move it by `step`.
    pub(crate) fn run(&self, step: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1 = step;
    }
}

impl Clock for TestClock {
    fn now(&self) -> SystemTime {
        let mut time = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, step) = *time;
        time.0 = now + step;
        now
    }
}
