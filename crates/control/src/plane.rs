//! What every handler works with.

use crate::{
    Parts,
    claims::ClaimChecker,
    metrics::{Metrics, add},
    rotation::Rotations,
    sweep::Over,
    temporal::{Temporal, TemporalError},
};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio_util::task::TaskTracker;
use xylem_audit::{Kind, Log, Reason, Standing, Tally};
use xylem_identity::Identity;
use xylem_ids::{AgentId, Audience, LeaseId, Namespace, Slot, TreeId};
use xylem_proto::v1::Check;
use xylem_registry::Registry;
use xylem_vault::Vault;

/// What has to work before calls make sense.
pub(crate) const ESSENTIAL: [&str; 3] = ["database", "audit_log", "temporal"];

/// Counts of failed authentications are kept for at most so many sources at a time.
const TALLY_SOURCES: usize = 1000;

/// How a control plane behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The Temporal namespace it serves. Keys, tools and trees of another one are not found.
    pub namespace: Namespace,
    /// Whether raw tokens signalled to a tree are taken in, where its start does not say.
    pub intake: bool,
    /// Whether raw tokens are taken in for trees whose root somebody else started.
    pub intake_adopted: bool,
    /// Where a taken-in token may be sent, where neither an earlier version nor the tree's tools
    /// say it.
    pub intake_audiences: Vec<Audience>,
    /// How long a grant is valid, where its deposit does not say. Such grants are issued again
    /// when a third of it is left.
    pub lifetime: Duration,
    /// How often the sweep looks at every tree.
    pub sweep_every: Duration,
    /// How long after a rotation a tree is swept on its own; not at all where absent.
    pub sweep_after_rotation: Option<Duration>,
}

impl Settings {
    /// For production: no intake, grants for a day, a sweep each minute.
    #[must_use]
    pub fn new(namespace: Namespace) -> Self {
        Self {
            namespace,
            intake: false,
            intake_adopted: false,
            intake_audiences: Vec::new(),
            lifetime: Duration::from_secs(24 * 60 * 60),
            sweep_every: Duration::from_secs(60),
            sweep_after_rotation: Some(Duration::from_secs(15)),
        }
    }
}

/// Everything behind the handlers.
pub(crate) struct Plane {
    pub(crate) settings: Settings,
    pub(crate) vault: Arc<Vault>,
    pub(crate) registry: Registry,
    pub(crate) identity: Identity,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) temporal: Arc<dyn Temporal>,
    pub(crate) claims: ClaimChecker,
    pub(crate) rotations: Rotations,
    pub(crate) leases: Leases,
    pub(crate) over: Over,
    pub(crate) metrics: Metrics,
    /// Work that outlives the call that began it.
    pub(crate) tasks: TaskTracker,
    /// Who acts where no caller does: sweeps and adoptions.
    pub(crate) system: AgentId,
    search_attribute: AtomicBool,
    tally: Mutex<Tally>,
}

impl fmt::Debug for Plane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plane")
            .field("namespace", &self.settings.namespace)
            .finish_non_exhaustive()
    }
}

impl Plane {
    pub(crate) fn new(settings: Settings, parts: Parts, system: AgentId) -> Self {
        Self {
            claims: ClaimChecker::new(Arc::clone(&parts.temporal)),
            rotations: Rotations::default(),
            leases: Leases::default(),
            over: Over::default(),
            metrics: Metrics::default(),
            tasks: TaskTracker::new(),
            search_attribute: AtomicBool::new(false),
            tally: Mutex::new(Tally::new(TALLY_SOURCES)),
            settings,
            vault: parts.vault,
            registry: parts.registry,
            identity: parts.identity,
            log: parts.log,
            temporal: parts.temporal,
            system,
        }
    }

    /// Whether `XylemTokens` was registered when this was last looked at.
    pub(crate) fn search_attribute(&self) -> bool {
        self.search_attribute.load(Ordering::Relaxed)
    }

    /// Looks whether `XylemTokens` is registered, and registers it where that is permitted.
    pub(crate) async fn ensure_search_attribute(&self) -> Result<bool, TemporalError> {
        let mut registered = self.temporal.has_search_attribute().await?;
        if !registered {
            self.temporal.register_search_attribute().await?;
            registered = true;
        }
        self.search_attribute.store(registered, Ordering::Relaxed);
        Ok(registered)
    }

    /// The time that decides here: the vault's, so that both always agree.
    pub(crate) fn now(&self) -> SystemTime {
        self.vault.now()
    }

    /// Counts an event that must not fill the audit log one by one.
    pub(crate) fn note(&self, kind: Kind, reason: &'static str, source: &str) {
        if kind == Kind::AuthenticationFailed {
            add(&self.metrics.unauthenticated, 1);
        }
        let now = self.now();
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.note(now, kind, Reason::of(reason), source);
    }

    /// Writes the counts of the minutes that are over, or all of them.
    pub(crate) async fn flush_tally(&self, all: bool) {
        const MINUTE: Duration = Duration::from_secs(60);
        let now = self.now() + if all { MINUTE } else { Duration::ZERO };
        let counted = {
            let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.drain(now)
        };
        if counted.is_empty() {
            return;
        }
        let entries: Vec<_> = counted
            .into_iter()
            .map(|(source, mut entry)| {
                entry.namespace = Some(self.settings.namespace.clone());
                if entry.kind == Kind::PermissionDenied {
                    entry.agent = source.parse().ok();
                }
                entry
            })
            .collect();
        if let Err(error) = self.log.append(&entries).await {
            let events: u64 = entries.iter().map(|entry| entry.count).sum();
            tracing::error!(%error, events, "refused calls could not be written to the audit log");
        }
    }

    /// How far the log is sealed.
    fn told(&self, log: &Standing) -> String {
        let entries = log.entries;
        if log.checkpoint == 0 {
            return format!("{entries} entries, no checkpoint yet");
        }
        let age = self.now().duration_since(log.checkpoint_at);
        let age = Duration::from_secs(age.unwrap_or_default().as_secs());
        let age = humantime::format_duration(age);
        let checkpoint = log.checkpoint;
        format!("{entries} entries, the last checkpoint {age} ago at entry {checkpoint}")
    }

    /// Looks at everything this process relies on.
    pub(crate) async fn checks(&self) -> Vec<Check> {
        let database = self.vault.epoch().await;
        let temporal = self.ensure_search_attribute().await;
        vec![
            check(
                "database",
                database.map(|_| "answers".to_owned()),
                "look at the control plane's log and at the disk of its database",
            ),
            check(
                "audit_log",
                self.log.standing().await.map(|log| self.told(&log)),
                "`xylem audit verify` names what was edited; the control plane's log says what \
                 cannot be written",
            ),
            check(
                "temporal",
                match &temporal {
                    Err(TemporalError::Unavailable(status)) => Err(status.message().to_owned()),
                    _ => Ok(format!("namespace {}", self.settings.namespace)),
                },
                "start Temporal, or correct its address and namespace",
            ),
            check(
                "search_attribute",
                temporal.map(|_| "XylemTokens is registered".to_owned()),
                "temporal operator search-attribute create --name XylemTokens --type KeywordList",
            ),
        ]
    }
}

fn check(name: &str, seen: Result<String, impl fmt::Display>, advice: &str) -> Check {
    let ok = seen.is_ok();
    Check {
        name: name.to_owned(),
        ok,
        detail: seen.unwrap_or_else(|error| error.to_string()),
        advice: if ok { String::new() } else { advice.to_owned() },
    }
}

/// Which slot a lease of this process is on, so that a release can tell the newest version. After
/// a restart it cannot, for leases from before: they are told nothing.
#[derive(Debug, Default)]
pub(crate) struct Leases(Mutex<BTreeMap<LeaseId, (Instant, TreeId, Slot)>>);

impl Leases {
    pub(crate) fn opened(&self, lease: LeaseId, until: Duration, tree: TreeId, slot: Slot) {
        let mut leases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        leases.retain(|_, (until, ..)| *until > now);
        leases.insert(lease, (now + until, tree, slot));
    }

    pub(crate) fn released(&self, lease: &LeaseId) -> Option<(TreeId, Slot)> {
        let mut leases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        leases.remove(lease).map(|(_, tree, slot)| (tree, slot))
    }
}
