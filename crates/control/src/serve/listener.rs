//! Where the control plane listens: on loopback, or with TLS.

use super::tls::{Tls, TlsError, TlsFiles};
use std::{net::SocketAddr, sync::Arc};
use tokio::net::TcpListener;

/// Why the control plane does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is not on loopback, and there is no certificate.
    #[error(
        "without a certificate the control plane listens on loopback only: {0} is refused; name a \
         certificate and its key, or listen on 127.0.0.1 or [::1]"
    )]
    NoCertificate(SocketAddr),
    /// The certificate cannot be used.
    #[error("the control plane has no TLS")]
    Tls(#[from] TlsError),
    /// The address could not be bound.
    #[error("the control plane cannot listen on {address}: is another one running there?")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The declaration of a single operator could not be written to the audit log.
    #[error("the audit log cannot be written")]
    Audit(#[from] xylem_audit::LogError),
    /// The listener failed.
    #[error("the control plane's listener failed")]
    Listener(#[source] std::io::Error),
}

/// A listener whose connections nobody else can read: they stay on this machine, or are encrypted.
#[derive(Debug)]
pub struct Listener {
    pub(super) tcp: TcpListener,
    pub(super) tls: Option<Arc<Tls>>,
    address: SocketAddr,
}

impl Listener {
    /// Listens on an address.
    ///
    /// # Errors
    /// The address is not on loopback and there are no files for TLS, they cannot be used, or the
    /// address is taken.
    pub async fn bind(address: SocketAddr, tls: Option<TlsFiles>) -> Result<Self, ServeError> {
        let tls = secured(address, tls)?.map(Arc::new);
        let tcp = TcpListener::bind(address)
            .await
            .map_err(|source| ServeError::Bind { address, source })?;
        let address = tcp.local_addr().map_err(ServeError::Listener)?;
        Ok(Self { tcp, tls, address })
    }

    /// Looks whether an address may be listened on with these files, and whether they can be used.
    ///
    /// # Errors
    /// As [`Listener::bind`]; whether the address is taken is not looked at.
    pub fn check(address: SocketAddr, tls: Option<&TlsFiles>) -> Result<(), ServeError> {
        secured(address, tls.cloned()).map(drop)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as a URL. What it names in place of the address is up to whoever made the
    /// certificate.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }
}

fn secured(address: SocketAddr, tls: Option<TlsFiles>) -> Result<Option<Tls>, ServeError> {
    if tls.is_none() && !address.ip().is_loopback() {
        return Err(ServeError::NoCertificate(address));
    }
    Ok(tls.map(Tls::open).transpose()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_certificate_only_loopback_is_bound() {
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
            let error = Listener::bind(address.parse().unwrap(), None).await;
            let error = error.unwrap_err();
            assert!(matches!(error, ServeError::NoCertificate(_)), "{error}");
            assert!(error.to_string().contains("127.0.0.1"), "{error}");
        }
        let loopback = Listener::bind("127.0.0.1:0".parse().unwrap(), None).await;
        assert!(loopback.unwrap().url().starts_with("http://127.0.0.1:"));
    }
}
