//! Watching the log: what raises an alert, and with which numbers.
//!
//! Every entry is looked at once, in its order, in the transaction that remembers how far the watch
//! is. What decides is the time of the entries and never a clock, so it does not matter when, or by
//! which instance, they are looked at. A redemption does not wait for any of this.

mod memory;
mod network;

pub use memory::{Delivery, Due, Memory, Of, Used, Watch};

use crate::{
    Entry, Kind, LogError, Reason, Record, Subject, SubjectKind, Verdict, body::milliseconds,
    codes::codes,
};
use network::network;
use std::{collections::BTreeSet, time::Duration};
use xylem_ids::{AgentId, Namespace};

codes!(
    /// What raises an alert.
    Rule {
        /// An agent was denied too often.
        Denials = "denials",
        /// An agent called from a network that it did not use for long.
        NewNetwork = "new_network",
        /// A tool was called for an agent for the first time.
        NewTool = "new_tool",
        /// Far more calls were made for an agent than in most of its hours.
        CallRate = "call_rate",
        /// A token lies in a history.
        ExposedToken = "exposed_token",
        /// A node presented a version long after it was superseded.
        SupersededVersion = "superseded_version",
        /// A stored credential was to be rotated by now, or has ended.
        CredentialOverdue = "credential_overdue",
        /// A stored credential ends soon.
        CredentialExpiring = "credential_expiring",
        /// A provider will not give a stored credential's next value.
        CredentialBroken = "credential_broken",
        /// A signed grant with the number of another one was signalled.
        GrantConflict = "grant_conflict",
        /// A token was shown to somebody, or somebody asked for it.
        BreakGlass = "break_glass",
        /// A stored row is not what was written.
        Tampered = "tampered",
        /// Nobody watched for so long that what happened meanwhile raised nothing.
        WatchAway = "watch_away",
    }
);

const MINUTE: u64 = 60 * 1_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// An entry that is looked at later than this raises no alert.
pub const LATEST: Duration = Duration::from_millis(DAY);

/// When an alert is raised.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// Rules that raise none.
    pub off: BTreeSet<Rule>,
    /// So many denials of one agent,
    pub denials: u64,
    /// within this.
    pub denials_within: Duration,
    /// A network is new that was not used for so long.
    pub network_unused: Duration,
    /// A version may be presented for so long after it was superseded.
    pub superseded: Duration,
    /// An hour may have so many times the calls of the agent's 95th percentile,
    pub rate_factor: u64,
    /// which is that of the hours with calls within this.
    pub rate_within: Duration,
    /// Before so many hours with calls there is no percentile.
    pub rate_hours: u64,
    /// An hour with fewer calls is never too many.
    pub rate_calls: u64,
    /// The same is not said again for so long.
    pub quiet: Duration,
    /// The same of a stored credential is not said again for so long.
    pub quiet_credential: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        let hours = |hours: u64| Duration::from_secs(hours * 60 * 60);
        Self {
            off: BTreeSet::new(),
            denials: 10,
            denials_within: Duration::from_secs(60),
            network_unused: hours(30 * 24),
            superseded: Duration::from_secs(10 * 60),
            rate_factor: 5,
            rate_within: hours(14 * 24),
            rate_hours: 24,
            rate_calls: 100,
            quiet: hours(1),
            quiet_credential: hours(24),
        }
    }
}

/// Something that is to be said, unless it was just said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// Which rule.
    pub rule: Rule,
    /// Says the same where this is the same.
    pub about: String,
    /// What it is about.
    pub subject: Subject,
    /// The numbers that raised it.
    pub numbers: Vec<(&'static str, u64)>,
    /// The first and the last entry that it is about.
    pub entries: Option<(u64, u64)>,
}

impl Alert {
    /// About this, which also says when it is the same.
    #[must_use]
    pub fn new(rule: Rule, subject: Subject) -> Self {
        Self {
            rule,
            about: subject.to_string(),
            subject,
            numbers: Vec::new(),
            entries: None,
        }
    }

    fn of_agent(rule: Rule, agent: &AgentId) -> Self {
        Self::new(rule, Subject::new(SubjectKind::Agent, agent))
    }

    /// The same alert, with a number.
    #[must_use]
    pub fn number(mut self, name: &'static str, number: u64) -> Self {
        self.numbers.push((name, number));
        self
    }

    fn same_where(mut self, about: impl ToString) -> Self {
        self.about = about.to_string();
        self
    }
}

impl Rules {
    /// Looks at an entry, remembers what later ones are compared with, and answers the alert's entry
    /// for each alert it raises. One of more than [`LATEST`] ago raises none: it is only remembered.
    ///
    /// # Errors
    /// The memory did not answer.
    pub async fn look(
        &self,
        memory: &mut dyn Memory,
        record: &Record,
        now: std::time::SystemTime,
    ) -> Result<Vec<Entry>, LogError> {
        let Some(seen) = Seen::of(record) else {
            return Ok(Vec::new());
        };
        let alerts = [
            self.denials(memory, &seen).await?,
            self.network(memory, &seen).await?,
            self.tool(memory, &seen).await?,
            self.rate(memory, &seen).await?,
            self.superseded(&seen),
            said_by_itself(&seen),
        ];
        if seen.at.saturating_add(DAY) < milliseconds(now) {
            return Ok(Vec::new());
        }
        let mut raised = Vec::new();
        for alert in alerts.into_iter().flatten() {
            let quiet = self.quiet;
            if let Some(mut entry) = self
                .raise(memory, seen.namespace, alert, quiet, record.entry.at)
                .await?
            {
                about(&mut entry, &record.entry);
                entry.at = now;
                raised.push(entry);
            }
        }
        Ok(raised)
    }

    /// The entry of an alert, unless its rule is off or the same was said within `quiet`.
    ///
    /// # Errors
    /// The memory did not answer.
    pub async fn raise(
        &self,
        memory: &mut dyn Memory,
        namespace: &Namespace,
        alert: Alert,
        quiet: Duration,
        at: std::time::SystemTime,
    ) -> Result<Option<Entry>, LogError> {
        let at_ms = milliseconds(at);
        let off = self.off.contains(&alert.rule);
        if off
            || !memory
                .may_say(
                    namespace,
                    alert.rule,
                    &alert.about,
                    at_ms,
                    at_ms.saturating_sub(span(quiet)),
                )
                .await?
        {
            return Ok(None);
        }
        let mut entry = Entry::new(at, Kind::Alert, Verdict::Failed);
        entry.namespace = Some(namespace.clone());
        entry.subject = Some(alert.subject);
        entry.reason = Some(Reason::of(alert.rule.code()));
        let numbers = alert.numbers.into_iter();
        entry.numbers = numbers
            .map(|(name, number)| (Reason::of(name), number))
            .collect();
        entry.about = alert.entries;
        Ok(Some(entry))
    }

    async fn denials(
        &self,
        memory: &mut dyn Memory,
        seen: &Seen<'_>,
    ) -> Result<Option<Alert>, LogError> {
        let entry = seen.entry;
        let (Kind::Redeem | Kind::PermissionDenied, Verdict::Denied, Some(agent)) =
            (entry.kind, entry.verdict, seen.agent)
        else {
            return Ok(None);
        };
        // A count stands for the minute that begins with its time.
        let counted = entry.kind == Kind::PermissionDenied;
        let at = seen.at + if counted { MINUTE - 1 } else { 0 };
        let window = span(self.denials_within);
        let of = seen.who(agent);
        memory.add_denials(of, seen.seq, at, entry.count).await?;
        let (denials, first) = memory.denials(of, at.saturating_sub(window), at).await?;
        Ok((denials >= self.denials).then(|| {
            let mut alert = Alert::of_agent(Rule::Denials, agent)
                .number("denials", denials)
                .number("within_s", self.denials_within.as_secs());
            alert.entries = Some((first, seen.seq));
            alert
        }))
    }

    async fn network(
        &self,
        memory: &mut dyn Memory,
        seen: &Seen<'_>,
    ) -> Result<Option<Alert>, LogError> {
        let (Some(agent), Some(address)) = (&seen.entry.agent, seen.entry.address) else {
            return Ok(None);
        };
        let of = seen.who(agent);
        let network = network(address);
        let used = memory.use_network(of, &network, seen.at).await?;
        let unused = used.last.map(|last| seen.at.saturating_sub(last));
        let new = unused.is_none_or(|unused| unused > span(self.network_unused));
        // Everybody has a first one.
        if !new || used.networks == 0 {
            return Ok(None);
        }
        let mut alert = Alert::of_agent(Rule::NewNetwork, agent)
            .same_where(format!("{agent}/{network}"))
            .number("networks_known", used.networks)
            .number("calls", seen.entry.count);
        if let Some(unused) = unused {
            alert = alert.number("unused_days", unused / DAY);
        }
        alert.entries = Some((seen.seq, seen.seq));
        Ok(Some(alert))
    }

    async fn tool(
        &self,
        memory: &mut dyn Memory,
        seen: &Seen<'_>,
    ) -> Result<Option<Alert>, LogError> {
        let (true, Some(agent), Some(tool)) = (seen.is_call(), seen.agent, &seen.entry.tool) else {
            return Ok(None);
        };
        let known = memory.use_tool(seen.who(agent), tool, seen.at).await?;
        let known = known.filter(|known| *known > 0);
        Ok(known.map(|known| {
            let mut alert = Alert::of_agent(Rule::NewTool, agent)
                .same_where(format!("{agent}/{tool}"))
                .number("tools_known", known);
            alert.entries = Some((seen.seq, seen.seq));
            alert
        }))
    }

    async fn rate(
        &self,
        memory: &mut dyn Memory,
        seen: &Seen<'_>,
    ) -> Result<Option<Alert>, LogError> {
        let (true, Some(agent)) = (seen.is_call(), seen.agent) else {
            return Ok(None);
        };
        let of = seen.who(agent);
        let hour = seen.at / HOUR;
        let calls = memory.add_calls(of, hour, seen.entry.count).await?;
        // So often, and not at every call of a busy hour, the hours before are looked at.
        if calls < self.rate_calls.max(1) || !calls.is_multiple_of(self.rate_calls.max(1)) {
            return Ok(None);
        }
        let first = hour.saturating_sub(span(self.rate_within) / HOUR);
        let hours = memory.calls(of, first, hour).await?;
        let enough = u64::try_from(hours.len()).is_ok_and(|hours| hours >= self.rate_hours);
        let Some(usual) = percentile_95(hours).filter(|_| enough) else {
            return Ok(None);
        };
        Ok((calls > usual.saturating_mul(self.rate_factor)).then(|| {
            let mut alert = Alert::of_agent(Rule::CallRate, agent)
                .number("calls", calls)
                .number("percentile_95", usual)
                .number("factor", self.rate_factor);
            alert.entries = Some((seen.seq, seen.seq));
            alert
        }))
    }

    fn superseded(&self, seen: &Seen<'_>) -> Option<Alert> {
        let entry = seen.entry;
        let behind = entry.behind_s.filter(|_| entry.kind == Kind::Redeem)?;
        if behind <= self.superseded.as_secs() {
            return None;
        }
        let mut alert = Alert::of_agent(Rule::SupersededVersion, seen.agent?)
            .same_where(seen.place())
            .number("superseded_s", behind);
        if let Some(presented) = entry.presented {
            alert = alert.number("presented", presented.version.0.into());
        }
        if let Some(order) = entry.order {
            alert = alert.number("current", order.version.0.into());
        }
        alert.entries = Some((seen.seq, seen.seq));
        Some(alert)
    }
}

/// What one entry is enough for.
fn said_by_itself(seen: &Seen<'_>) -> Option<Alert> {
    let entry = seen.entry;
    let reason = entry.reason.as_ref().map(Reason::as_str);
    let rule = match (entry.kind, reason) {
        (Kind::Exposure, _) | (Kind::SignalsRejected, Some("raw_token")) => Rule::ExposedToken,
        (Kind::SignalsRejected, Some("conflict")) => Rule::GrantConflict,
        (Kind::TokenRevealed, _) => Rule::BreakGlass,
        (Kind::Tampered, _) => Rule::Tampered,
        _ => return None,
    };
    let of_agent = |agent: Option<&AgentId>, same| {
        let alert = Alert::of_agent(rule, agent?);
        Some(alert.same_where(same))
    };
    let alert = match (rule, entry.verdict, &entry.subject) {
        // About whoever was shown it; and each time that somebody was is said.
        (Rule::BreakGlass, Verdict::Granted, _) => {
            of_agent(entry.agent.as_ref(), seen.seq.to_string())
        }
        (Rule::BreakGlass, ..) => {
            let same = format!("denied {}", seen.place());
            of_agent(entry.agent.as_ref(), same)
        }
        // About the row: nobody in particular met it.
        (Rule::Tampered, _, Some(row)) if seen.agent.is_none() => {
            Some(Alert::new(rule, row.clone()))
        }
        _ => of_agent(seen.agent, seen.place()),
    };
    let mut alert = alert?.number("count", entry.count);
    if let Some(order) = entry.order {
        alert = alert.number("version", order.version.0.into());
    }
    alert.entries = Some((seen.seq, seen.seq));
    Some(alert)
}

/// By nearest rank.
fn percentile_95(mut hours: Vec<u64>) -> Option<u64> {
    hours.sort_unstable();
    let rank = (hours.len() * 95).div_ceil(100);
    hours.get(rank.checked_sub(1)?).copied()
}

/// Where it happened, as far as that says nothing about how often.
fn about(alert: &mut Entry, entry: &Entry) {
    alert.address = entry.address;
    alert.tree.clone_from(&entry.tree);
    alert.node.clone_from(&entry.node);
    alert.tool.clone_from(&entry.tool);
    alert.slot.clone_from(&entry.slot);
}

fn span(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An entry that is looked at.
struct Seen<'a> {
    seq: u64,
    /// Milliseconds since 1970.
    at: u64,
    namespace: &'a Namespace,
    /// For whom it was, else who did it.
    agent: Option<&'a AgentId>,
    entry: &'a Entry,
}

impl<'a> Seen<'a> {
    fn of(record: &'a Record) -> Option<Self> {
        let entry = &record.entry;
        Some(Self {
            seq: record.id.as_str().parse().ok()?,
            at: milliseconds(entry.at),
            namespace: entry.namespace.as_ref()?,
            agent: entry.owner.as_ref().or(entry.agent.as_ref()),
            entry,
        })
    }

    fn who<'b>(&'b self, agent: &'b AgentId) -> Of<'b> {
        Of {
            namespace: self.namespace,
            agent,
        }
    }

    /// Whether a token was handed out for a call.
    fn is_call(&self) -> bool {
        self.entry.kind == Kind::Redeem && self.entry.verdict == Verdict::Granted
    }

    fn place(&self) -> String {
        let entry = self.entry;
        let tree = entry.tree.as_ref().map(ToString::to_string);
        let slot = entry.slot.as_ref().map(ToString::to_string);
        let node = entry.node.as_ref().map(|node| node.workflow_id.to_string());
        [tree, slot, node].map(Option::unwrap_or_default).join("/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_95th_percentile_is_that_of_the_nearest_rank() {
        assert_eq!(percentile_95((1..=100).rev().collect()), Some(95));
        assert_eq!(percentile_95((1..=20).collect()), Some(19));
        assert_eq!(percentile_95(vec![7]), Some(7));
        assert_eq!(percentile_95(Vec::new()), None);
    }
}
