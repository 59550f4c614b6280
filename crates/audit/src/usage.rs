//! How often tools were called, for whom, how that went, and how long it took.
//!
//! Counted by the watch from the entries that say how a call ended, or that it was denied: in the
//! transaction that remembers how far the watch is, so that each counts once. How long calls took is
//! kept as counts of classes of durations, which add up over hours, agents and tools; a percentile of
//! a list of percentiles would be none.

use crate::{Entry, Kind, Record, Verdict, body::milliseconds};
use xylem_ids::{AgentId, Namespace, ToolName};

const HOUR_MS: u64 = 60 * 60 * 1_000;

/// Up to so many milliseconds a class has one duration.
const EXACT: u64 = 20;
/// Longer calls are all in the last class: 15 minutes.
const LONGEST: u64 = 15 * 60 * 1_000;

/// More classes of durations than there are.
pub const CLASSES: u32 = 300;

/// What an entry adds to the counts of an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Called<'a> {
    /// The namespace.
    pub namespace: &'a Namespace,
    /// For whom the call was, else who made it.
    pub agent: &'a AgentId,
    /// The tool.
    pub tool: &'a ToolName,
    /// The hour, counted from 1970.
    pub hour: u64,
    /// The longest duration of its class, in milliseconds; 0 where no call was made.
    pub class: u64,
    /// What is added.
    pub counts: Counts,
}

/// Counts of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Calls that were made.
    pub calls: u64,
    /// Those among them that did not end well.
    pub failures: u64,
    /// Calls that were denied, and not made.
    pub denials: u64,
    /// Bytes of bodies that were sent.
    pub bytes_out: u64,
    /// Bytes of bodies that came back.
    pub bytes_in: u64,
}

impl Counts {
    /// Adds others.
    pub fn add(&mut self, other: Self) {
        self.calls = self.calls.saturating_add(other.calls);
        self.failures = self.failures.saturating_add(other.failures);
        self.denials = self.denials.saturating_add(other.denials);
        self.bytes_out = self.bytes_out.saturating_add(other.bytes_out);
        self.bytes_in = self.bytes_in.saturating_add(other.bytes_in);
    }
}

impl<'a> Called<'a> {
    /// What an entry adds; nothing where it is not about the end of a call of a tool.
    #[must_use]
    pub fn of(record: &'a Record) -> Option<Self> {
        let entry = &record.entry;
        let (class, counts) = counted(entry)?;
        Some(Self {
            namespace: entry.namespace.as_ref()?,
            agent: entry.owner.as_ref().or(entry.agent.as_ref())?,
            tool: entry.tool.as_ref()?,
            hour: milliseconds(entry.at) / HOUR_MS,
            class,
            counts,
        })
    }
}

fn counted(entry: &Entry) -> Option<(u64, Counts)> {
    let none = Counts::default();
    match (entry.kind, entry.verdict) {
        (Kind::Outcome, verdict) => {
            let counts = Counts {
                calls: 1,
                failures: u64::from(verdict != Verdict::Succeeded),
                bytes_out: entry.bytes_out.unwrap_or_default(),
                bytes_in: entry.bytes_in.unwrap_or_default(),
                ..none
            };
            Some((class(entry.duration_ms.unwrap_or_default()), counts))
        }
        (Kind::Redeem, Verdict::Denied) => {
            let denials = entry.count;
            Some((0, Counts { denials, ..none }))
        }
        _ => None,
    }
}

/// The longest duration of the class that this one is in, both in milliseconds. What is told of a
/// duration by its class is at most a twentieth more than it was.
#[must_use]
pub fn class(duration_ms: u64) -> u64 {
    let mut bound = EXACT;
    if duration_ms <= bound {
        return duration_ms;
    }
    while bound < duration_ms && bound < LONGEST {
        bound += (bound / 20).max(1);
    }
    bound.min(LONGEST)
}

/// Which counts to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageQuery {
    /// Of this agent alone.
    pub agent: Option<AgentId>,
    /// Of this tool alone.
    pub tool: Option<ToolName>,
    /// From this hour on,
    pub from: u64,
    /// up to and without this one.
    pub until: u64,
    /// What is told together.
    pub per: Period,
    /// What is told apart.
    pub by: By,
}

/// For how long counts are told together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// An hour. Where it is so long ago that only days are kept, a day.
    Hour,
    /// A day, in UTC.
    Day,
    /// All of the time that was asked for.
    All,
}

/// What counts are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Agent and tool.
    AgentAndTool,
    /// Agent.
    Agent,
    /// Tool.
    Tool,
}

/// What counts are of, and in which order they are told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UsageKey {
    /// The first hour, counted from 1970; 0 where all are told together.
    pub hour: u64,
    /// The agent; empty where all are told together.
    pub agent: String,
    /// The tool; empty where all are told together.
    pub tool: String,
}

/// Counts of calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// What of.
    pub key: UsageKey,
    /// Of how many hours at most.
    pub hours: u64,
    /// How many.
    pub counts: Counts,
    /// How many calls took how long: the classes, in order.
    pub durations: Vec<(u64, u64)>,
}

impl Usage {
    /// How long a call took at most, out of so many per cent of the quickest; by the nearest rank, in
    /// milliseconds. None where no call was made.
    #[must_use]
    pub fn percentile(&self, per_cent: u64) -> Option<u64> {
        let calls: u64 = self.durations.iter().map(|(_, calls)| calls).sum();
        let rank = calls.saturating_mul(per_cent).div_ceil(100).max(1);
        let mut seen = 0;
        let found = self.durations.iter().find(|(_, calls)| {
            seen += calls;
            seen >= rank
        });
        found.map(|(class, _)| *class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn usage(durations: &[u64]) -> Usage {
        let mut classes = std::collections::BTreeMap::new();
        for duration in durations {
            *classes.entry(class(*duration)).or_default() += 1;
        }
        let key = UsageKey {
            hour: 0,
            agent: String::new(),
            tool: String::new(),
        };
        Usage {
            key,
            hours: 1,
            counts: Counts::default(),
            durations: classes.into_iter().collect(),
        }
    }

    #[test]
    fn the_classes_begin_exact_and_end_at_a_quarter_of_an_hour() {
        assert_eq!([0, 1, 20, 21, 22].map(class), [0, 1, 20, 21, 22]);
        assert_eq!(class(LONGEST), LONGEST);
        assert_eq!(class(u64::MAX), LONGEST);
        let all: std::collections::BTreeSet<_> = (0..=LONGEST).map(class).collect();
        assert!(all.len() < CLASSES as usize, "{}", all.len());
    }

    #[test]
    fn nobody_called_has_no_percentile() {
        assert_eq!(usage(&[]).percentile(50), None);
        assert_eq!(usage(&[7]).percentile(50), Some(7));
        assert_eq!(usage(&[1, 2, 3, 4]).percentile(50), Some(2));
        assert_eq!(usage(&[1, 2, 3, 4]).percentile(99), Some(4));
    }

    proptest! {
        #[test]
        fn percentiles_are_at_most_a_twentieth_too_long(
            mut durations in prop::collection::vec(0..LONGEST, 1..200),
            per_cent in 1..=100_u64,
        ) {
            let told = usage(&durations).percentile(per_cent).expect("calls");
            durations.sort_unstable();
            let rank = (durations.len() as u64 * per_cent).div_ceil(100).max(1);
            let exact = durations[usize::try_from(rank).expect("small") - 1];
            prop_assert!(exact <= told, "{exact} {told}");
            prop_assert!(told - exact <= (exact / 20).max(1), "{exact} {told}");
        }
    }
}
