//! Timing of single operations.

use crate::median;
use serde::Serialize;
use std::{
    hint::black_box,
    time::{Duration, Instant},
};

/// How long a batch of a fast operation has to last, so that the clock does not matter.
const BATCH: Duration = Duration::from_millis(2);

/// Batches of a fast operation.
const BATCHES: usize = 301;

/// How long an operation takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Timing {
    /// What was timed.
    pub what: String,
    /// The median, in nanoseconds.
    pub median_ns: f64,
    /// What 99 of 100 stay under, in nanoseconds; of batches, where the operation is fast.
    pub p99_ns: f64,
    /// Operations timed.
    pub operations: usize,
}

impl Timing {
    /// Of an operation that is too fast to be timed alone.
    pub fn of_fast<T>(what: &str, mut operation: impl FnMut() -> T) -> Self {
        let mut batch = |size: usize| {
            let begin = Instant::now();
            for _ in 0..size {
                black_box(operation());
            }
            begin.elapsed()
        };
        let mut size = 1;
        while batch(size) < BATCH {
            size *= 2;
        }
        let each = |_| {
            batch(size).as_secs_f64() * 1e9 / f64::from(u32::try_from(size).unwrap_or(u32::MAX))
        };
        let samples: Vec<f64> = (0..BATCHES).map(each).collect();
        Self::new(what, &samples, BATCHES * size)
    }

    /// From how long each operation took.
    #[must_use]
    pub fn of_each(what: &str, took: &[Duration]) -> Self {
        let samples: Vec<f64> = took.iter().map(|took| took.as_secs_f64() * 1e9).collect();
        Self::new(what, &samples, samples.len())
    }

    fn new(what: &str, samples: &[f64], operations: usize) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let p99 = sorted.get(sorted.len() * 99 / 100);
        Self {
            what: what.to_owned(),
            median_ns: median(samples),
            p99_ns: p99.copied().unwrap_or_default(),
            operations,
        }
    }
}

/// A time for people: three digits and the unit that fits.
#[must_use]
pub fn readable(nanoseconds: f64) -> String {
    let (value, unit) = match nanoseconds {
        ns if ns < 1e3 => (ns, "ns"),
        ns if ns < 1e6 => (ns / 1e3, "µs"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    match value {
        value if value < 10.0 => format!("{value:.2} {unit}"),
        value if value < 100.0 => format!("{value:.1} {unit}"),
        value => format!("{value:.0} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_summed_up() {
        let took: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        let timing = Timing::of_each("sleep", &took);
        assert_eq!((timing.median_ns, timing.p99_ns), (100.5e6, 199e6));
        assert_eq!(timing.operations, 200);
        let fast = Timing::of_fast("add", || black_box(1) + black_box(2));
        assert!(fast.median_ns < 1e6 && fast.operations > BATCHES);
    }

    #[test]
    fn a_time_has_three_digits() {
        assert_eq!(readable(1.234), "1.23 ns");
        assert_eq!(readable(45_678.0), "45.7 µs");
        assert_eq!(readable(678e6), "678 ms");
        assert_eq!(readable(2.5e9), "2.50 s");
    }
}
