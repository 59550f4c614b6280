//! Watching the audit log and the stored credentials, and telling somebody.
//!
//! Looked at is what was committed, from the log itself, so that nothing waits for it and every
//! instance sees what any of them did. A schedule has it done; the database remembers how far it is.

mod webhook;

pub use webhook::{Webhook, WebhookSecret};

use webhook::WebhookError;

use crate::{Control, fault::Fault, handlers::credential_state, plane::Plane, tampered::Tampered};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tonic::Status;
use xylem_audit::{
    Alert, Called, Delivery, Due, Entry, Filter, Finding, Kind, LATEST, LogError, PageToken,
    Record, Rule, Rules, Subject, SubjectKind, Verdict,
};
use xylem_proto::v1::CredentialState;
use xylem_vault::CredentialStatus;

/// Entries that are looked at in one transaction.
const PAGE: u32 = 200;
/// Credentials per page.
const CREDENTIALS: u32 = 200;
/// The hours of a day are added up when they are so long ago.
const HOURS_KEPT: Duration = Duration::from_secs(35 * 24 * 60 * 60);
/// Entries wait at most so long to be looked at while somebody watches: counts of calls are written a
/// minute or two after the first of them.
const BEHIND: Duration = Duration::from_secs(5 * 60);
/// Alerts that are sent in one round.
const SENT: u32 = 50;
/// What is compared within hours is forgotten after so long.
const REMEMBERED: Duration = Duration::from_secs(2 * 24 * 60 * 60);
/// The first pause before an alert is sent again; then it doubles,
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);
/// An alert that could not be sent for so many attempts, that is three days, is given up.
const ATTEMPTS: u32 = 80;

/// What raises alerts, and where they are sent.
#[derive(Debug, Clone, Default)]
pub struct Alerts {
    /// What raises them.
    pub rules: Rules,
    /// Where they are sent; nowhere else than into the audit log where absent.
    pub webhook: Option<Webhook>,
}

impl Control {
    /// Watches once, as the schedule has it done every [`Settings::watch_every`]: looks at the entries
    /// that were written since, and at the stored credentials, and sends what was raised. Answers how
    /// many alerts were raised.
    ///
    /// # Errors
    /// The database did not answer.
    ///
    /// [`Settings::watch_every`]: crate::Settings::watch_every
    pub async fn watch(&self) -> Result<u64, Status> {
        Ok(self.plane().watch_all().await?)
    }
}

impl Plane {
    pub(crate) async fn watch_all(&self) -> Result<u64, Fault> {
        // Counts of minutes that are over are to be seen as well.
        self.flush_tally(false).await;
        // Each for itself: what keeps one of them from its work keeps none of the others from theirs.
        let mut failed = None;
        let mut done = |part: Result<u64, Fault>| {
            part.unwrap_or_else(|fault| {
                if failed.is_none() {
                    failed = Some(fault);
                } else {
                    fault.log();
                }
                0
            })
        };
        let of_log = done(self.watch_log().await);
        let of_credentials = done(self.watch_credentials().await);
        if of_credentials > 0 {
            // What was just raised is to be sent too.
            done(self.watch_log().await);
        }
        done(self.forget_seen().await.map(|()| 0));
        if let Some(webhook) = &self.settings.alerts.webhook {
            done(self.send_alerts(webhook).await.map(|()| 0));
        }
        failed.map_or(Ok(of_log + of_credentials), Err)
    }

    /// Looks at the entries that were written since the last time. One that is not what was written is
    /// said and stepped over: whoever edited it does not hide what follows.
    async fn watch_log(&self) -> Result<u64, Fault> {
        let namespace = &self.settings.namespace;
        let filter = Filter {
            namespace: Some(namespace.clone()),
            ..Filter::default()
        };
        let mut raised = 0;
        let mut size = PAGE;
        loop {
            let after = self.watch.watched(namespace).await?;
            let page = self
                .log
                .list(&filter, Some(&PageToken::after(after)), size)
                .await;
            match page {
                Ok(page) => {
                    let Some(last) = page.records.last().and_then(place) else {
                        return Ok(raised);
                    };
                    raised += self.look_at(after, &page.records, last).await?;
                }
                // One by one up to the one that was edited.
                Err(LogError::Tampered(_)) if size > 1 => size = 1,
                Err(LogError::Tampered(finding)) => {
                    if !self.step_over(after, finding).await? {
                        return Ok(raised);
                    }
                    size = PAGE;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Says that the next entry is not what was written, and goes on behind it, unless another instance
    /// has meanwhile. Not behind the end of the log: what is written later stands before that one.
    async fn step_over(&self, after: u64, finding: Finding) -> Result<bool, Fault> {
        let (Some((_, seq)), Some(row)) = (finding.entries(), Tampered::in_log(finding)) else {
            return Err(LogError::Tampered(finding).into());
        };
        if seq <= after || seq > self.log.standing().await?.entries {
            self.tampered(row);
            return Ok(false);
        }
        let namespace = &self.settings.namespace;
        let mut memory = self.watch.begin_watch().await?;
        if memory.cursor(namespace).await? == after {
            tracing::error!(finding = finding.code(), "the audit log: {finding}");
            let mut entry = row.entry(self.now());
            entry.namespace = Some(namespace.clone());
            entry.about = Some((seq, seq));
            memory.move_cursor(namespace, seq).await?;
            memory.commit(&[entry]).await?;
        }
        Ok(true)
    }

    /// For how long the oldest entry waits that nobody has looked at yet.
    pub(crate) async fn watch_behind(&self) -> Result<Duration, LogError> {
        let namespace = &self.settings.namespace;
        let after = PageToken::after(self.watch.watched(namespace).await?);
        let filter = Filter {
            namespace: Some(namespace.clone()),
            ..Filter::default()
        };
        let page = self.log.list(&filter, Some(&after), 1).await?;
        let waits = page.records.first().map(|record| {
            let waits = self.now().duration_since(record.entry.at);
            waits.unwrap_or_default()
        });
        Ok(waits.unwrap_or_default())
    }

    /// Whether somebody watches: whoever may write to the namespace can pause the schedule.
    pub(crate) async fn watched(&self) -> Result<String, String> {
        let behind = self.watch_behind().await;
        let behind = behind.map_err(|error| error.to_string())?;
        let said = Duration::from_secs(behind.as_secs());
        let said = format!("{} behind", humantime::format_duration(said));
        let late = behind > BEHIND.max(self.settings.watch_every.saturating_mul(10));
        if late { Err(said) } else { Ok(said) }
    }

    /// Looks at a page, unless another instance has meanwhile.
    async fn look_at(&self, after: u64, records: &[Record], last: u64) -> Result<u64, Fault> {
        let namespace = &self.settings.namespace;
        let Alerts { rules, webhook } = &self.settings.alerts;
        let now = self.now();
        let mut memory = self.watch.begin_watch().await?;
        if memory.cursor(namespace).await? != after {
            return Ok(0);
        }
        let mut entries = Vec::new();
        let oldest = records.first().map(|record| record.entry.at);
        if let Some(away) = oldest.and_then(|at| now.duration_since(at).ok())
            && away > LATEST
            // The first look at a log is at all of it.
            && after > 0
        {
            let subject = Subject::new(SubjectKind::Agent, &self.system);
            let alert = Alert::new(Rule::WatchAway, subject).number("away_s", away.as_secs());
            let raised = rules.raise(&mut *memory, namespace, alert, rules.quiet, now);
            entries.extend(raised.await?);
        }
        for record in records {
            if let Some(called) = Called::of(record) {
                memory.add_usage(&called).await?;
            }
            let found = rules.look(&mut *memory, record, now).await?;
            entries.extend(found);
            if let (Kind::Alert, Some(seq), true) =
                (record.entry.kind, place(record), webhook.is_some())
            {
                memory.deliver(namespace, seq, milliseconds(now)).await?;
            }
        }
        memory.move_cursor(namespace, last).await?;
        self.raised(entries, memory).await
    }

    /// Commits alerts, and says what was raised.
    async fn raised(
        &self,
        mut entries: Vec<Entry>,
        memory: Box<dyn xylem_audit::Memory>,
    ) -> Result<u64, Fault> {
        for entry in &mut entries {
            entry.agent = Some(self.system.clone());
        }
        memory.commit(&entries).await?;
        for entry in &entries {
            let Some(rule) = rule(entry) else { continue };
            self.metrics.alert(rule);
            let subject = entry.subject.as_ref().map(ToString::to_string);
            tracing::warn!(alert.rule = %rule, alert.subject = subject, "an alert was raised");
        }
        Ok(u64::try_from(entries.len()).unwrap_or(u64::MAX))
    }

    /// Looks at the stored credentials: no entry says that time has passed.
    async fn watch_credentials(&self) -> Result<u64, Fault> {
        let namespace = &self.settings.namespace;
        let mut after = None;
        let mut alerts = Vec::new();
        loop {
            let page = self
                .vault
                .credentials(namespace, None, after.as_ref(), CREDENTIALS);
            let page = page.await?;
            let Some(last) = page.last() else { break };
            after = Some(last.credential.name.clone());
            let now = self.now();
            alerts.extend(page.iter().filter_map(|status| credential(status, now)));
        }
        if alerts.is_empty() {
            return Ok(0);
        }
        let rules = &self.settings.alerts.rules;
        let now = self.now();
        let mut memory = self.watch.begin_watch().await?;
        let mut entries = Vec::new();
        for alert in alerts {
            let quiet = rules.quiet_credential;
            entries.extend(
                rules
                    .raise(&mut *memory, namespace, alert, quiet, now)
                    .await?,
            );
        }
        self.raised(entries, memory).await
    }

    async fn forget_seen(&self) -> Result<(), Fault> {
        let rules = &self.settings.alerts.rules;
        let kept = REMEMBERED
            .max(rules.quiet)
            .max(rules.quiet_credential)
            .max(rules.denials_within);
        let now = milliseconds(self.now());
        let before = now.saturating_sub(whole(kept));
        let hour = now.saturating_sub(whole(rules.rate_within)) / whole(HOUR);
        let mut memory = self.watch.begin_watch().await?;
        let namespace = &self.settings.namespace;
        memory.forget(namespace, before, hour).await?;
        let days = now.saturating_sub(whole(HOURS_KEPT)) / whole(DAY);
        memory.fold_usage(namespace, days * 24).await?;
        Ok(memory.commit(&[]).await?)
    }

    /// Sends every alert once that is due by now.
    async fn send_alerts(&self, webhook: &Webhook) -> Result<(), Fault> {
        let namespace = &self.settings.namespace;
        let mut memory = self.watch.begin_watch().await?;
        let now = milliseconds(self.now());
        let due = memory.due(namespace, now, SENT).await?;
        // Noted before it is sent: whoever comes next leaves it alone, and a crash costs a pause.
        for alert in &due {
            let again = now.saturating_add(whole(pause(alert.attempts)));
            memory.attempt(namespace, *alert, again).await?;
        }
        memory.commit(&[]).await?;
        for alert in due {
            self.send_alert(webhook, alert).await?;
        }
        Ok(())
    }

    async fn send_alert(&self, webhook: &Webhook, due: Due) -> Result<(), Fault> {
        let before = PageToken::after(due.seq.saturating_sub(1));
        let filter = Filter {
            namespace: Some(self.settings.namespace.clone()),
            kind: Some(Kind::Alert),
            ..Filter::default()
        };
        let found = match self.log.list(&filter, Some(&before), 1).await {
            Ok(page) => page.records.into_iter().next(),
            // It is gone, for whoever is to receive it; those behind it are not.
            Err(LogError::Tampered(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let found = found.filter(|record| place(record) == Some(due.seq));
        let sent = match &found {
            Some(record) => webhook.send(&self.outbound, record, self.now()).await,
            None => Err(WebhookError::Gone),
        };
        let attempts = due.attempts.saturating_add(1);
        let delivery = match &sent {
            Ok(()) => Delivery::Delivered,
            Err(error) if *error == WebhookError::Gone || attempts >= ATTEMPTS => Delivery::GivenUp,
            Err(error) => {
                tracing::warn!(%error, alert = due.seq, attempts, "an alert was not received yet");
                return Ok(());
            }
        };
        let mut entries = Vec::new();
        if delivery == Delivery::GivenUp {
            entries.push(self.undelivered(due.seq, attempts));
        }
        let namespace = &self.settings.namespace;
        let mut memory = self.watch.begin_watch().await?;
        memory.settle(namespace, due.seq, delivery).await?;
        Ok(memory.commit(&entries).await?)
    }

    fn undelivered(&self, seq: u64, attempts: u32) -> Entry {
        let entry = Entry::new(self.now(), Kind::AlertUndelivered, Verdict::Failed);
        let mut entry = entry.by(&self.system);
        entry.namespace = Some(self.settings.namespace.clone());
        entry.about = Some((seq, seq));
        entry.count = attempts.into();
        tracing::error!(alert = seq, attempts, "an alert is not sent any more");
        entry
    }
}

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What is to be said about a credential.
fn credential(status: &CredentialStatus, now: SystemTime) -> Option<Alert> {
    let rule = match credential_state(status, now.into()) {
        CredentialState::Overdue | CredentialState::Expired => Rule::CredentialOverdue,
        CredentialState::Expiring => Rule::CredentialExpiring,
        CredentialState::Broken => Rule::CredentialBroken,
        _ => return None,
    };
    let seconds = |at: xylem_grant::UnixSeconds| at.0;
    let now = milliseconds(now) / 1_000;
    let active = status.active();
    let ends = active.and_then(|active| active.expires_at).map(seconds);
    let due = status.rotate_due().map(seconds);
    let subject = Subject::new(SubjectKind::Credential, &status.credential.name);
    let mut alert = Alert::new(rule, subject);
    if let Some(active) = active {
        alert = alert.number("version", active.version.0.into());
    }
    if let Some(ends) = ends.filter(|ends| *ends > now) {
        alert = alert.number("ends_in_s", ends - now);
    }
    let past = [ends, due].into_iter().flatten().filter(|at| *at <= now);
    if let Some(since) = past.min() {
        alert = alert.number("overdue_s", now - since);
    }
    Some(alert)
}

/// The rule that raised an alert.
pub(crate) fn rule(entry: &Entry) -> Option<Rule> {
    Rule::from_code(entry.reason.as_ref()?.as_str())
}

fn place(record: &Record) -> Option<u64> {
    record.id.as_str().parse().ok()
}

fn pause(attempts: u32) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(1 << attempts.min(16));
    pause.min(LONGEST_PAUSE)
}

fn milliseconds(time: SystemTime) -> u64 {
    whole(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn whole(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
