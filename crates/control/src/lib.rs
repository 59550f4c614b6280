//! The control plane: one listener for gRPC and REST, authentication in front of both, one handler
//! per call, and the durable work behind them.
//!
//! [`Control`] holds what the handlers need. [`Control::serve`] answers calls; [`Control::worker`]
//! runs the sweep, as a Temporal workflow on a schedule, so that no timer of this process decides
//! whether a tree heals.

mod access;
mod archive;
mod backup;
mod caller;
mod claims;
mod convert;
mod fault;
mod handlers;
#[expect(
    missing_docs,
    reason = "the SDK macro generates undocumented constants"
)]
mod keeper;
mod metrics;
mod oauth;
mod onlooker;
mod plane;
mod provider;
mod providers;
mod recall;
mod renewal;
mod rotation;
mod schedule;
mod serve;
mod spread;
mod stop;
mod sweep;
mod tampered;
pub mod temporal;
mod view;
mod walk;
mod watch;

pub use backup::{Backup, BackupError, Backups};
pub use claims::ClaimChecker;
pub use keeper::{Begin, Kept, Step, TokenKeeper};
pub use plane::Settings;
pub use provider::{CredentialProviders, ProviderFields, ProviderRule};
pub use schedule::{CONTROL_QUEUE, WorkerError};
pub use serve::{Limits, Listener, Proxies, ProxyHeader, ServeError, TlsError, TlsFiles};
pub use sweep::Swept;
pub use watch::{Alerts, Webhook, WebhookSecret};
pub use xylem_identity::SYSTEM;
pub use xylem_outbound::AddressPolicy;

use plane::Plane;
use providers::Publications;
use std::{fmt, sync::Arc};
use temporal::{Temporal, TemporalError};
use xylem_audit::{Archives, Log, Watch};
use xylem_identity::{Documents, Identity, Invalid};
use xylem_ids::{AgentId, IdError};
use xylem_outbound::{Outbound, OutboundError};
use xylem_policy::Policies;
use xylem_registry::{Registry, Tools};
use xylem_vault::Vault;

/// A control plane. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Control(Arc<Plane>);

/// Why there is no control plane.
#[derive(Debug, thiserror::Error)]
pub enum NewError {
    /// None in practice: the name of the agent that sweeps keeps its rule.
    #[error(transparent)]
    Name(#[from] IdError),
    /// It could not ask anything outside.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// The identity providers do not go together.
    #[error("the identity providers cannot be used: {0}")]
    Providers(#[from] Invalid),
}

/// What a control plane is made of.
pub struct Parts {
    /// Keeps and hands out tokens.
    pub vault: Arc<Vault>,
    /// What workflow types declare.
    pub registry: Registry,
    /// Agents and their keys.
    pub identity: Identity,
    /// Who may do what.
    pub policies: Arc<Policies>,
    /// Tools.
    pub tools: Tools,
    /// The audit log.
    pub log: Arc<dyn Log>,
    /// What the watch over it remembers.
    pub watch: Arc<dyn Watch>,
    /// The Temporal namespace.
    pub temporal: Arc<dyn Temporal>,
    /// Makes backups, where that is configured.
    pub backups: Option<Arc<dyn Backups>>,
    /// Archives the audit log, where that is configured.
    pub archives: Option<Arc<dyn Archives>>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parts")
    }
}

impl Control {
    /// Puts the parts together.
    ///
    /// # Errors
    /// There is no HTTP client, because this machine has no TLS root certificates; or identity
    /// providers do not go together.
    pub fn new(settings: Settings, mut parts: Parts) -> Result<Self, NewError> {
        let system: AgentId = SYSTEM.parse()?;
        let outbound = Arc::new(Outbound::new(settings.addresses.clone())?);
        let documents: Arc<dyn Documents> = Arc::new(Publications(Arc::clone(&outbound)));
        let providers = settings.identity_providers.clone();
        parts.identity = parts
            .identity
            .trusting(&settings.namespace, providers, &documents)?;
        let plane = Plane::new(settings, parts, system, outbound);
        Ok(Self(Arc::new(plane)))
    }

    /// Looks whether the search attribute `XylemTokens` is registered and registers it where that
    /// is permitted. Trees that are started before this has succeeded do without it.
    ///
    /// # Errors
    /// Temporal does not answer, or does not permit it: `xylem doctor` says what to do.
    pub async fn prepare(&self) -> Result<bool, TemporalError> {
        self.0.ensure_search_attribute().await
    }

    pub(crate) fn plane(&self) -> &Arc<Plane> {
        &self.0
    }
}
