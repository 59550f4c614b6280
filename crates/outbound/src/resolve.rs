//! From a name to addresses that were checked.
//!
//! Names are resolved once per connection, every address of the answer is checked, and the
//! connection goes to a checked one. What DNS says afterwards does not matter.

use crate::address::{AddressPolicy, AddressRefused};
use async_trait::async_trait;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use url::{Host, Url};

/// Turns names into addresses.
#[async_trait]
pub trait Lookup: Send + Sync + 'static {
    /// All addresses of a name.
    async fn lookup(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The operating system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemLookup;

#[async_trait]
impl Lookup for SystemLookup {
    async fn lookup(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let found = tokio::net::lookup_host((name, 0)).await?;
        Ok(found.map(|address| address.ip()).collect())
    }
}

/// The resolver of the HTTP client: whatever it lets through was checked.
#[derive(Clone)]
pub(crate) struct GuardedResolver {
    pub(crate) policy: Arc<AddressPolicy>,
    pub(crate) lookup: Arc<dyn Lookup>,
}

impl GuardedResolver {
    /// Checks the URL, and the addresses of its host where that is a name.
    pub(crate) async fn check(&self, url: &Url) -> Result<(), Unreachable> {
        self.policy.check_url(url)?;
        if let Some(Host::Domain(name)) = url.host() {
            self.addresses(name).await?;
        }
        Ok(())
    }

    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Unreachable> {
        let answer = self.lookup.lookup(name).await;
        let answer = answer.map_err(|_| Unreachable::Unresolved)?;
        self.policy.check_answer(name, &answer)?;
        Ok(answer)
    }
}

/// Why a host cannot be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreachable {
    /// It must not be.
    #[error(transparent)]
    Refused(#[from] AddressRefused),
    /// The name could not be resolved now.
    #[error("the host's name could not be resolved")]
    Unresolved,
}

impl reqwest::dns::Resolve for GuardedResolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let checked = guard.addresses(name.as_str()).await?;
            let sockets = checked.into_iter().map(|ip| SocketAddr::new(ip, 0));
            Ok(Box::new(sockets) as reqwest::dns::Addrs)
        })
    }
}
