//! Counting what must not fill a disk.

use crate::{Entry, Kind, Reason, Subject, Verdict};
use std::{
    collections::BTreeMap,
    mem,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use xylem_ids::AgentId;

/// Where an event came from, as far as anybody knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// Whose call it was.
    pub agent: Option<AgentId>,
    /// What it showed: an API key; or what it was refused: a call.
    pub subject: Option<Subject>,
    /// The address it came from.
    pub address: Option<IpAddr>,
}

impl Source {
    /// Somebody unknown at this address.
    #[must_use]
    pub fn address(address: Option<IpAddr>) -> Self {
        Self {
            address,
            ..Self::default()
        }
    }

    /// This agent.
    #[must_use]
    pub fn agent(agent: &AgentId) -> Self {
        Self {
            agent: Some(agent.clone()),
            ..Self::default()
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Bucket {
    minute: u64,
    kind: Kind,
    verdict: Verdict,
    reason: Option<Reason>,
    source: Source,
}

/// Counts what happens too often to be written one by one, per source and minute, so that a flood
/// becomes one entry per source and minute. What was refused, which anybody can be, takes no room from
/// what was granted. Sources beyond the limit are counted without their addresses, and unknown ones
/// together.
#[derive(Debug)]
pub struct Tally {
    refused: Counts,
    granted: Counts,
    most: usize,
}

type Counts = BTreeMap<Bucket, u64>;

/// Counts of minutes that are over. Those that could not be written go back with [`Tally::restore`].
#[derive(Debug, Default)]
pub struct Counted(Counts);

impl Counted {
    /// One entry per count, oldest first.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.0.iter().map(entry).collect()
    }
}

impl Tally {
    /// A tally that tells at most this many sources apart at a time, of what was refused and of what was
    /// granted.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            refused: Counts::new(),
            granted: Counts::new(),
            most,
        }
    }

    /// Counts one refused event, by the network of 64 bits where the address is of IPv6: whoever has one
    /// address has as many as they like.
    pub fn refused(&mut self, at: SystemTime, kind: Kind, reason: Reason, mut source: Source) {
        source.address = source.address.map(customer);
        let bucket = Bucket {
            minute: minute_of(at),
            kind,
            verdict: Verdict::Denied,
            reason: Some(reason),
            source,
        };
        self.add(bucket, 1);
    }

    /// Counts one granted event.
    pub fn granted(&mut self, at: SystemTime, kind: Kind, source: Source) {
        let bucket = Bucket {
            minute: minute_of(at),
            kind,
            verdict: Verdict::Granted,
            reason: None,
            source,
        };
        self.add(bucket, 1);
    }

    /// Takes out the counts of the minutes that are over, and of those that only a clock that was ahead
    /// had begun.
    pub fn drain(&mut self, now: SystemTime) -> Counted {
        let current = minute_of(now);
        let mut over = Counts::new();
        for counts in [&mut self.refused, &mut self.granted] {
            over.extend(counts.extract_if(.., |bucket, _| bucket.minute != current));
        }
        Counted(over)
    }

    /// Takes out everything.
    pub fn drain_all(&mut self) -> Counted {
        let mut all = mem::take(&mut self.refused);
        all.append(&mut self.granted);
        Counted(all)
    }

    /// Puts back what could not be written.
    pub fn restore(&mut self, counted: Counted) {
        for (bucket, count) in counted.0 {
            self.add(bucket, count);
        }
    }

    /// When the oldest minute began that is counted here.
    #[must_use]
    pub fn oldest(&self) -> Option<SystemTime> {
        let first = |counts: &Counts| counts.first_key_value().map(|(bucket, _)| bucket.minute);
        let minutes = [&self.refused, &self.granted].into_iter().filter_map(first);
        minutes.min().map(beginning)
    }

    fn add(&mut self, mut bucket: Bucket, count: u64) {
        let counts = match bucket.verdict {
            Verdict::Granted => &mut self.granted,
            _ => &mut self.refused,
        };
        if counts.len() >= self.most && !counts.contains_key(&bucket) {
            // Agents, what they show and stored rows are not as many as a caller likes: those stay.
            bucket.source.address = None;
        }
        let sum = counts.entry(bucket).or_default();
        *sum = sum.saturating_add(count);
    }
}

/// What one customer of a network provider has: an IPv4 address, or an IPv6 network of 64 bits.
fn customer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

fn minute_of(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() / 60)
}

fn beginning(minute: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(minute.saturating_mul(60))
}

fn entry((bucket, count): (&Bucket, &u64)) -> Entry {
    let source = bucket.source.clone();
    let mut entry = Entry::new(beginning(bucket.minute), bucket.kind, bucket.verdict);
    entry.reason.clone_from(&bucket.reason);
    entry.agent = source.agent;
    entry.subject = source.subject;
    entry.address = source.address;
    entry.count = *count;
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn source(number: u8) -> Source {
        Source::address(Some([192, 0, 2, number].into()))
    }

    fn note(tally: &mut Tally, seconds: u64, number: u8) {
        let reason = Reason::of("unknown_key");
        let kind = Kind::AuthenticationFailed;
        tally.refused(at(seconds), kind, reason, source(number));
    }

    fn counts(counted: &Counted) -> Vec<(Option<IpAddr>, u64)> {
        let entries = counted.entries();
        entries.iter().map(|e| (e.address, e.count)).collect()
    }

    #[test]
    fn a_flood_is_one_entry_per_source_and_minute() {
        let mut tally = Tally::new(10);
        for second in 0..50 {
            note(&mut tally, second, 1);
            note(&mut tally, second, 2);
        }
        note(&mut tally, 61, 1);
        let over = tally.drain(at(62));
        let [one, two] = [1, 2].map(|number| source(number).address);
        assert_eq!(counts(&over), [(one, 50), (two, 50)]);
        assert!(tally.drain(at(63)).entries().is_empty());
        assert_eq!(tally.drain(at(120)).entries().len(), 1);
    }

    #[test]
    fn what_was_counted_while_the_clock_was_ahead_is_written_when_it_is_right() {
        let mut tally = Tally::new(10);
        note(&mut tally, 3_600, 1);
        note(&mut tally, 61, 2);
        let [one, two] = [1, 2].map(|number| source(number).address);
        assert_eq!(counts(&tally.drain(at(62))), [(one, 1)]);
        note(&mut tally, 7_200, 1);
        assert_eq!(counts(&tally.drain_all()), [(two, 1), (one, 1)]);
        assert_eq!(tally.oldest(), None);
    }

    #[test]
    fn many_sources_share_one_count() {
        let mut tally = Tally::new(3);
        for number in 0..100 {
            note(&mut tally, 1, number);
        }
        let over = tally.drain(at(60)).entries();
        assert_eq!(over.len(), 4);
        assert_eq!(over.iter().map(|e| e.count).sum::<u64>(), 100);
    }

    #[test]
    fn who_has_a_network_is_one_source() {
        let mut tally = Tally::new(10_000);
        for number in 0..2_000_u128 {
            let base: Ipv6Addr = "2001:db8:1:2::".parse().unwrap();
            let address = Ipv6Addr::from_bits(base.to_bits() + number);
            let source = Source::address(Some(address.into()));
            let kind = Kind::AuthenticationFailed;
            tally.refused(at(1), kind, Reason::of("unknown_key"), source);
        }
        let network = Some("2001:db8:1:2::".parse().unwrap());
        assert_eq!(counts(&tally.drain(at(60))), [(network, 2_000)]);
    }

    #[test]
    fn a_flood_hides_nobody_who_was_granted_something() {
        let mut tally = Tally::new(3);
        for number in 0..100 {
            note(&mut tally, 1, number);
        }
        let agent: AgentId = "svc-7".parse().unwrap();
        for number in 0..10 {
            let known = Source {
                address: source(number).address,
                ..Source::agent(&agent)
            };
            tally.granted(at(1), Kind::Authenticated, known);
        }
        let over = tally.drain(at(60)).entries();
        let granted = over.iter().filter(|e| e.verdict == Verdict::Granted);
        let granted: Vec<_> = granted.collect();
        assert!(granted.iter().all(|e| e.agent.as_ref() == Some(&agent)));
        assert_eq!(granted.iter().filter(|e| e.address.is_some()).count(), 3);
        assert_eq!(granted.iter().map(|e| e.count).sum::<u64>(), 10);
    }

    #[test]
    fn what_could_not_be_written_is_counted_on() {
        let mut tally = Tally::new(10);
        note(&mut tally, 1, 1);
        let over = tally.drain(at(60));
        assert_eq!(tally.oldest(), None);
        note(&mut tally, 2, 1);
        tally.restore(over);
        assert_eq!(tally.oldest(), Some(at(0)));
        assert_eq!(counts(&tally.drain(at(60))), [(source(1).address, 2)]);
    }

    #[test]
    fn what_was_granted_is_told_apart() {
        let mut tally = Tally::new(10);
        let agent: AgentId = "svc-7".parse().unwrap();
        tally.granted(at(1), Kind::Redeem, Source::agent(&agent));
        tally.granted(at(2), Kind::Redeem, Source::agent(&agent));
        let over = tally.drain(at(60)).entries();
        let [entry] = over.as_slice() else {
            panic!("{over:?}")
        };
        assert_eq!((entry.verdict, entry.count), (Verdict::Granted, 2));
        assert_eq!(entry.agent, Some(agent));
    }
}
