//! What Cedar cannot say: how many calls there were, and what somebody approved.

use crate::{
    document::Requests,
    facts::{Ask, Facts},
    value::{Period, Subject},
};
use serde::{Deserialize, Serialize};
use std::{collections::HashMap, fmt, time::Duration};
use xylem_ids::{AccessId, PolicyName, ToolName};

/// Clocks of control planes may differ by so much, in seconds.
const SKEW: u64 = 5 * 60;

/// Which calls are counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CounterKey {
    /// The policy that counts them; none for what a tool says of itself.
    pub policy: Option<PolicyName>,
    /// In which time.
    pub per: Period,
    /// Whose calls.
    pub of: Subject,
    /// The agent, tool or tree.
    pub subject: String,
}

/// How many calls there were since the window began, with its first call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    /// When it began, in seconds since 1970.
    pub started_at: u64,
    /// How many since.
    pub used: u32,
}

/// The counters of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage(HashMap<CounterKey, Counter>);

impl FromIterator<(CounterKey, Counter)> for Usage {
    fn from_iter<T: IntoIterator<Item = (CounterKey, Counter)>>(counters: T) -> Self {
        Self(counters.into_iter().collect())
    }
}

impl Usage {
    /// How many calls the window that is open now has seen, and when it ends.
    fn open(&self, key: &CounterKey, now: u64) -> Option<(u32, u64)> {
        let counter = self.0.get(key)?;
        let length = key.per.seconds();
        let ends = counter.started_at.saturating_add(length);
        // A clock that is behind the one that began the window opens no second one, unless that one was wrong.
        let is_wrong = counter.started_at > now.saturating_add(length + SKEW);
        (now < ends && !is_wrong).then_some((counter.used, ends))
    }

    /// The counter once one more call was made.
    #[must_use]
    pub fn counted(&self, key: &CounterKey, now: u64) -> Counter {
        match (self.open(key, now), self.0.get(key)) {
            (Some((used, _)), Some(counter)) => Counter {
                started_at: counter.started_at,
                used: used.saturating_add(1),
            },
            _ => Counter {
                started_at: now,
                used: 1,
            },
        }
    }
}

/// How many calls a tool takes of all trees together. The window begins with its first call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// So many: 1 to 1,000,000.
    pub calls: u32,
    /// In which time.
    pub per: Period,
}

impl RateLimit {
    /// Whether it keeps its rule.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        (1..=1_000_000).contains(&self.calls)
    }

    /// The counter of a tool's calls.
    pub(crate) fn key(self, tool: &ToolName) -> CounterKey {
        CounterKey {
            policy: None,
            per: self.per,
            of: Subject::Tool,
            subject: tool.to_string(),
        }
    }

    /// How long there is to wait, if it is reached.
    pub(crate) fn reached(self, usage: &Usage, key: &CounterKey, now: u64) -> Option<Duration> {
        let (used, ends) = usage.open(key, now)?;
        let wait = Duration::from_secs(ends.saturating_sub(now));
        (used >= self.calls).then_some(wait)
    }
}

/// Something that was approved, and holds now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// The request.
    pub id: AccessId,
    /// The policy that it opens; none: it allows by itself, where nothing denies.
    pub policy: Option<PolicyName>,
}

/// How far a limit is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meter {
    pub(crate) used: u32,
    pub(crate) limit: u32,
    /// When the window ends; none is open.
    pub(crate) ends: Option<u64>,
}

impl Meter {
    pub(crate) fn full(self) -> bool {
        self.used >= self.limit
    }

    pub(crate) fn wait(self, now: u64) -> Duration {
        Duration::from_secs(self.ends.unwrap_or(now).saturating_sub(now))
    }
}

impl fmt::Display for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.used, self.limit)
    }
}

/// The counter that a limit of `policy` looks at; none where its subject is not known.
pub(crate) fn key(
    policy: &PolicyName,
    requests: &Requests,
    ask: &Ask<'_>,
    tree: Option<&str>,
) -> Option<CounterKey> {
    let subject = match requests.of {
        Subject::Agent => ask.agent.as_str(),
        Subject::Tool => ask.resource.tools().first()?.name.as_str(),
        Subject::Tree => tree?,
    };
    Some(CounterKey {
        policy: Some(policy.clone()),
        per: requests.per,
        of: requests.of,
        subject: subject.to_owned(),
    })
}

pub(crate) fn meter(
    policy: &PolicyName,
    requests: &Requests,
    ask: &Ask<'_>,
    facts: &Facts<'_>,
) -> Meter {
    let key = key(policy, requests, ask, facts.tree);
    let open = key.and_then(|key| facts.usage.open(&key, facts.now));
    Meter {
        used: open.map_or(0, |(used, _)| used),
        limit: requests.limit(),
        ends: open.map(|(_, ends)| ends),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_that_was_begun_by_a_clock_that_was_ahead_is_not_open() {
        let limit = RateLimit {
            calls: 60,
            per: Period::Minute,
        };
        let key = limit.key(&"acme.deploy".parse().unwrap());
        let now = 1_800_000_000;
        let begun = |started_at| {
            let counter = Counter {
                started_at,
                used: 60,
            };
            Usage::from_iter([(key.clone(), counter)])
        };
        // By another control plane, whose clock is right enough.
        let open = begun(now + 60);
        assert!(limit.reached(&open, &key, now).is_some());
        assert_eq!(open.counted(&key, now).used, 61);
        let wrong = begun(now + 3_600);
        assert_eq!(limit.reached(&wrong, &key, now), None);
        let first = Counter {
            started_at: now,
            used: 1,
        };
        assert_eq!(wrong.counted(&key, now), first);
    }
}
