//! Counting what must not fill a disk.

use crate::{Entry, Kind, Reason, Verdict};
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Where an event came from, as far as anybody knows: a peer address or a workflow.
pub type Source = String;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Bucket {
    minute: u64,
    kind: Kind,
    reason: Reason,
    source: Source,
}

/// Counts failures of the unauthenticated per source and minute, so that a flood becomes one entry
/// per source and minute. Sources beyond the limit share one count.
#[derive(Debug)]
pub struct Tally {
    counts: BTreeMap<Bucket, u64>,
    most: usize,
}

impl Tally {
    /// A tally that keeps at most this many counts at a time.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            counts: BTreeMap::new(),
            most,
        }
    }

    /// Counts one event.
    pub fn note(&mut self, at: SystemTime, kind: Kind, reason: Reason, source: &str) {
        let mut bucket = Bucket {
            minute: minute_of(at),
            kind,
            reason,
            source: source.to_owned(),
        };
        if self.counts.len() >= self.most && !self.counts.contains_key(&bucket) {
            bucket.source.clear();
        }
        let count = self.counts.entry(bucket).or_default();
        *count = count.saturating_add(1);
    }

    /// Takes out the counts of the minutes that are over, as entries.
    pub fn drain(&mut self, now: SystemTime) -> Vec<(Source, Entry)> {
        let current = minute_of(now);
        let (over, open): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut self.counts)
            .into_iter()
            .partition(|(bucket, _)| bucket.minute < current);
        self.counts = open;
        over.into_iter().map(entry).collect()
    }
}

fn minute_of(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() / 60)
}

fn entry((bucket, count): (Bucket, u64)) -> (Source, Entry) {
    let at = UNIX_EPOCH + Duration::from_secs(bucket.minute.saturating_mul(60));
    let mut entry = Entry::new(at, bucket.kind, Verdict::Denied);
    entry.reason = Some(bucket.reason);
    entry.count = count;
    (bucket.source, entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn note(tally: &mut Tally, seconds: u64, source: &str) {
        let reason = Reason::of("unknown_key");
        tally.note(at(seconds), Kind::AuthenticationFailed, reason, source);
    }

    #[test]
    fn a_flood_is_one_entry_per_source_and_minute() {
        let mut tally = Tally::new(10);
        for second in 0..50 {
            note(&mut tally, second, "a");
            note(&mut tally, second, "b");
        }
        note(&mut tally, 61, "a");
        let over = tally.drain(at(62));
        let counts: Vec<_> = over.iter().map(|(s, e)| (s.as_str(), e.count)).collect();
        assert_eq!(counts, [("a", 50), ("b", 50)]);
        assert!(tally.drain(at(63)).is_empty());
        assert_eq!(tally.drain(at(120)).len(), 1);
    }

    #[test]
    fn many_sources_share_one_count() {
        let mut tally = Tally::new(3);
        for source in 0..100 {
            note(&mut tally, 1, &source.to_string());
        }
        let over = tally.drain(at(60));
        assert_eq!(over.len(), 4);
        assert_eq!(over.iter().map(|(_, e)| e.count).sum::<u64>(), 100);
    }
}
