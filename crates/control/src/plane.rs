//! What every handler works with.

use crate::{
    Backups, Parts,
    claims::ClaimChecker,
    metrics::{Metrics, add, gauge},
    provider::CredentialProviders,
    recall::Recalled,
    rotation::Rotations,
    serve::{Limits, Proxies, Rates},
    sweep::Over,
    temporal::{Temporal, TemporalError},
    watch::Alerts,
};
use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use xylem_audit::{
    Archives, Entry, Kind, Log, LogError, Reason, Source, Standing, Subject, SubjectKind, Tally,
    Verdict, Watch,
};
use xylem_identity::{Credential, Identity, Principal, Provider};
use xylem_ids::{AgentId, Audience, CredentialName, LeaseId, Namespace, Origin, Slot, TreeId};
use xylem_outbound::{AddressPolicy, Outbound};
use xylem_policy::Policies;
use xylem_proto::v1::Check;
use xylem_registry::{Registry, Tools};
use xylem_vault::{OlderKey, Vault};

/// For so long it is not looked again whether this process is ready: anybody may ask that.
const READY_FOR: Duration = Duration::from_secs(1);
/// Calls are counted for at most so many sources at a time.
const TALLY_SOURCES: usize = 10_000;
/// How long counts may wait to be written before this process is not ready.
const BACKLOG: Duration = Duration::from_secs(5 * 60);

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
    /// Whether one person operates the installation, who then approves their own tools and requests.
    pub single_operator: bool,
    /// How long a grant is valid, where its deposit does not say. Such grants are issued again
    /// when a third of it is left.
    pub lifetime: Duration,
    /// How often the sweep looks at every tree.
    pub sweep_every: Duration,
    /// How long after a rotation a tree is swept on its own; not at all where absent.
    pub sweep_after_rotation: Option<Duration>,
    /// What one caller may take up.
    pub limits: Limits,
    /// The proxies that are believed about where a request comes from.
    pub proxies: Proxies,
    /// The pages that may ask from within a browser, by their origin.
    pub cors_origins: Vec<Origin>,
    /// Whether anybody may register, in the role `user`; by invitation only otherwise.
    pub open_registration: bool,
    /// Which addresses may be asked: token endpoints and receivers of alerts may be at public ones.
    pub addresses: AddressPolicy,
    /// Identity providers whose tokens are accepted.
    pub identity_providers: Vec<Provider>,
    /// Files and commands that give the values of credentials.
    pub credential_providers: CredentialProviders,
    /// What raises alerts, and where they are sent.
    pub alerts: Alerts,
    /// How often the audit log is looked at for them.
    pub watch_every: Duration,
}

impl Settings {
    /// For production: nobody approves their own, no intake, grants for a day, a sweep each minute.
    #[must_use]
    pub fn new(namespace: Namespace) -> Self {
        Self {
            namespace,
            intake: false,
            intake_adopted: false,
            intake_audiences: Vec::new(),
            single_operator: false,
            lifetime: Duration::from_secs(24 * 60 * 60),
            sweep_every: Duration::from_secs(60),
            sweep_after_rotation: Some(Duration::from_secs(15)),
            limits: Limits::default(),
            proxies: Proxies::default(),
            cors_origins: Vec::new(),
            open_registration: false,
            addresses: AddressPolicy::default(),
            identity_providers: Vec::new(),
            credential_providers: CredentialProviders::default(),
            alerts: Alerts::default(),
            watch_every: Duration::from_secs(10),
        }
    }
}

/// Everything behind the handlers.
pub(crate) struct Plane {
    pub(crate) settings: Settings,
    pub(crate) vault: Arc<Vault>,
    pub(crate) registry: Registry,
    pub(crate) identity: Identity,
    pub(crate) policies: Arc<Policies>,
    pub(crate) tools: Tools,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) watch: Arc<dyn Watch>,
    pub(crate) temporal: Arc<dyn Temporal>,
    pub(crate) backups: Option<Arc<dyn Backups>>,
    pub(crate) archives: Option<Arc<dyn Archives>>,
    pub(crate) claims: ClaimChecker,
    pub(crate) rotations: Rotations,
    pub(crate) leases: Leases,
    pub(crate) over: Over,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) rates: Rates,
    pub(crate) recalled: Recalled,
    pub(crate) outbound: Arc<Outbound>,
    /// Cancelled when the server stops: streams end then.
    pub(crate) stopping: CancellationToken,
    /// Work that outlives the call that began it.
    pub(crate) tasks: TaskTracker,
    /// Who acts where no caller does: sweeps and adoptions.
    pub(crate) system: AgentId,
    search_attribute: AtomicBool,
    /// What was failing when that was last looked at.
    failing: tokio::sync::Mutex<Option<(Instant, Vec<&'static str>)>>,
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
    pub(crate) fn new(
        settings: Settings,
        parts: Parts,
        system: AgentId,
        outbound: Arc<Outbound>,
    ) -> Self {
        Self {
            outbound,
            claims: ClaimChecker::new(Arc::clone(&parts.temporal)),
            rotations: Rotations::default(),
            leases: Leases::default(),
            over: Over::default(),
            metrics: Arc::default(),
            rates: Rates::new(&settings.limits),
            recalled: Recalled::default(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            search_attribute: AtomicBool::new(false),
            failing: tokio::sync::Mutex::default(),
            tally: Mutex::new(Tally::new(TALLY_SOURCES)),
            settings,
            vault: parts.vault,
            registry: parts.registry,
            identity: parts.identity,
            policies: parts.policies,
            tools: parts.tools,
            log: parts.log,
            watch: parts.watch,
            temporal: parts.temporal,
            backups: parts.backups,
            archives: parts.archives,
            system,
        }
    }

    /// Whether `XylemTokens` was registered when this was last looked at.
    pub(crate) fn search_attribute(&self) -> bool {
        self.search_attribute.load(Ordering::Relaxed)
    }

    /// Looks whether `XylemTokens` is registered, and registers it where that is permitted.
    pub(crate) async fn ensure_search_attribute(&self) -> Result<bool, TemporalError> {
        if !self.find_search_attribute().await? {
            self.temporal.register_search_attribute().await?;
            self.search_attribute.store(true, Ordering::Relaxed);
        }
        Ok(true)
    }

    /// Looks whether `XylemTokens` is registered: somebody may have done it since.
    async fn find_search_attribute(&self) -> Result<bool, TemporalError> {
        let registered = self.temporal.has_search_attribute().await?;
        self.search_attribute.store(registered, Ordering::Relaxed);
        Ok(registered)
    }

    /// The time that decides here: the vault's, so that both always agree.
    pub(crate) fn now(&self) -> SystemTime {
        self.vault.now()
    }

    /// Counts a refused call, which must not fill the audit log one by one.
    pub(crate) fn refused(&self, kind: Kind, reason: &'static str, source: Source) {
        if kind == Kind::AuthenticationFailed {
            add(&self.metrics.unauthenticated, 1);
        }
        let now = self.now();
        self.tally().refused(now, kind, Reason::of(reason), source);
    }

    /// Counts a call whose caller was authenticated: by what, and from where.
    pub(crate) fn authenticated(&self, principal: &Principal, address: Option<IpAddr>) {
        let source = Source {
            agent: Some(principal.agent().clone()),
            subject: Some(match principal.credential() {
                Credential::Key(key) => Subject::new(SubjectKind::Key, key),
                Credential::Session(session) => Subject::new(SubjectKind::Session, session),
                Credential::Provider(name) => Subject::new(SubjectKind::Provider, name),
            }),
            address,
        };
        let now = self.now();
        self.tally().granted(now, Kind::Authenticated, source);
    }

    /// Writes the counts of the minutes that are over, or all of them. What cannot be written is
    /// kept.
    pub(crate) async fn flush_tally(&self, all: bool) {
        let now = self.now();
        let counted = match all {
            true => self.tally().drain_all(),
            false => self.tally().drain(now),
        };
        let mut entries = counted.entries();
        if entries.is_empty() {
            return;
        }
        for entry in &mut entries {
            entry.namespace = Some(self.settings.namespace.clone());
        }
        if let Err(error) = self.log.append(&entries).await {
            let events: u64 = entries.iter().map(|entry| entry.count).sum();
            tracing::error!(%error, events, "counted calls could not be written to the audit log");
            self.tally().restore(counted);
        }
    }

    /// What was counted and not written for so long that something is wrong.
    fn unwritten(&self) -> Option<String> {
        let oldest = self.tally().oldest()?;
        let age = self.now().duration_since(oldest).ok()?;
        (age > BACKLOG).then(|| "counted calls could not be written for five minutes".to_owned())
    }

    pub(crate) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn audit_log(&self) -> Result<String, String> {
        let standing = self.log.standing().await;
        let standing = standing.map_err(|error| error.to_string())?;
        match self.unwritten() {
            Some(unwritten) => Err(unwritten),
            None => Ok(self.told(&standing)),
        }
    }

    /// That a single operator is declared stands in the log, again at every start.
    pub(crate) async fn note_single_operator(&self) -> Result<(), LogError> {
        if !self.settings.single_operator {
            return Ok(());
        }
        let mut entry = Entry::new(self.now(), Kind::SingleOperator, Verdict::Granted);
        entry.agent = Some(self.system.clone());
        entry.namespace = Some(self.settings.namespace.clone());
        self.log.append(&[entry]).await
    }

    /// Who may approve what.
    fn approvals(&self) -> Check {
        let detail = if self.settings.single_operator {
            "a single operator is declared: anybody with the role approves their own"
        } else {
            "by somebody other than who published or asked"
        };
        Check {
            name: "approvals".to_owned(),
            ok: true,
            detail: detail.to_owned(),
            advice: String::new(),
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

    /// What fails of all that has to work before calls make sense. Whoever asks at the same time waits for
    /// one look, and nothing is changed elsewhere by it.
    pub(crate) async fn failing(&self) -> Vec<&'static str> {
        let mut seen = self.failing.lock().await;
        if let Some((at, failing)) = &*seen
            && at.elapsed() < READY_FOR
        {
            return failing.clone();
        }
        let temporal = self.find_search_attribute().await;
        let works = [
            ("database", self.vault.epoch().await.is_ok()),
            ("audit_log", self.audit_log().await.is_ok()),
            (
                "temporal",
                !matches!(temporal, Err(TemporalError::Unavailable(_))),
            ),
        ];
        let failing = works.into_iter().filter(|(_, works)| !works);
        let failing: Vec<_> = failing.map(|(name, _)| name).collect();
        *seen = Some((Instant::now(), failing.clone()));
        failing
    }

    /// Looks at everything this process relies on.
    pub(crate) async fn checks(&self) -> Vec<Check> {
        let database = self.vault.epoch().await;
        let temporal = self.ensure_search_attribute().await;
        let mut checks = vec![
            check(
                "database",
                database.map(|_| "answers".to_owned()),
                "look at the control plane's log and at the disk of its database",
            ),
            check(
                "audit_log",
                self.audit_log().await,
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
            check(
                "watch",
                self.watched().await,
                "look whether the schedule xylem-watch is paused: temporal schedule describe \
                 --schedule-id xylem-watch; the control plane's log says what else stops it",
            ),
            self.approvals(),
        ];
        checks.extend(self.restored().await);
        checks.extend(self.older_keys().await);
        let advice =
            "the control plane's log says why none was made; `xylem vault backup` makes one";
        let backed_up = self.backed_up().await;
        checks.extend(backed_up.map(|seen| check("backup", seen, advice)));
        let advice = "the control plane's log says why old entries were not archived; `xylem audit \
                      archive` does it now";
        let archived = self.archived().await;
        checks.extend(archived.map(|seen| check("archive", seen, advice)));
        checks
    }

    /// The counters, and how far the watch is behind, where that can be found out.
    pub(crate) async fn metered(&self) -> String {
        let mut text = self.metrics.render();
        if let Ok(behind) = self.watch_behind().await {
            let help =
                "For how long the oldest entry of the audit log waits to be looked at for alerts.";
            gauge(
                &mut text,
                "xylem_watch_behind_seconds",
                help,
                behind.as_secs(),
            );
        }
        text
    }

    /// Only where a restore waits to be confirmed.
    async fn restored(&self) -> Option<Check> {
        let seen = match self.vault.is_held().await {
            Ok(false) => return None,
            Ok(true) => "restored from a backup: no token is handed out".to_owned(),
            Err(error) => error.to_string(),
        };
        let advice = "revoke again what was revoked since the backup was made, then: xylem vault \
                      confirm --reason TEXT";
        Some(check("restore", Err::<String, _>(seen), advice))
    }

    /// Only where another key-encryption key than the current one still wraps something.
    async fn older_keys(&self) -> Option<Check> {
        let older = self.vault.older_keys().await.ok()?;
        let used = |here| {
            older
                .iter()
                .filter(move |key| key.wraps > 0 && key.here == here)
        };
        let line = |key: &OlderKey| format!("{} wraps {} stored keys", key.id, key.wraps);
        let told = |here| used(here).map(line).collect::<Vec<_>>().join(", ");
        let (name, seen, advice) = if used(false).next().is_some() {
            let advice = "put its line into the key-encryption keys of every control plane and restart \
                          them: what it wraps cannot be used";
            (
                "missing_keys",
                format!("{}, and is not here", told(false)),
                advice,
            )
        } else {
            used(true).next()?;
            let advice = "once every control plane has the same first line: xylem vault rewrap";
            ("older_keys", told(true), advice)
        };
        Some(check(name, Err::<String, _>(seen), advice))
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

/// What a lease is on that has versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum On {
    /// A slot of a tree.
    Slot(TreeId, Slot),
    /// A stored credential.
    Stored(CredentialName),
}

/// What a lease of this process is on, so that a release can tell the newest version. After
/// a restart it cannot, for leases from before: they are told nothing.
#[derive(Debug, Default)]
pub(crate) struct Leases(Mutex<BTreeMap<LeaseId, (Instant, On)>>);

impl Leases {
    pub(crate) fn opened(&self, lease: LeaseId, until: Duration, on: On) {
        let mut leases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        leases.retain(|_, (until, ..)| *until > now);
        leases.insert(lease, (now + until, on));
    }

    pub(crate) fn released(&self, lease: &LeaseId) -> Option<On> {
        let mut leases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        leases.remove(lease).map(|(_, on)| on)
    }
}
