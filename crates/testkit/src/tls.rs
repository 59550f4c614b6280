//! An API behind TLS, under an authority that nobody else knows.

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SigningKey};
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::aws_lc_rs::default_provider, pki_types::PrivateKeyDer},
};

/// Takes TLS off and passes on what is in it.
#[derive(Debug)]
pub struct TlsFront {
    /// Where it is, `https://127.0.0.1:port`.
    pub url: String,
    /// The authority, PEM.
    pub ca_pem: String,
    /// The pin of its own key.
    pub pin: String,
    serving: JoinHandle<()>,
}

impl TlsFront {
    /// Starts one in front of `http://host:port`, on a free port.
    ///
    /// # Errors
    /// There is no free port, or `behind` is no such URL.
    pub async fn start(behind: &str) -> anyhow::Result<Self> {
        let behind: SocketAddr = behind.trim_start_matches("http://").parse()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
        let certificate = certificate.signed_by(&key, &ca)?;
        let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("https://{}", listener.local_addr()?);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass_on(acceptor.clone(), stream, behind));
            }
        });
        Ok(Self {
            url,
            ca_pem: ca.pem(),
            pin: pin(&key),
            serving,
        })
    }

    /// A pin that no server has.
    ///
    /// # Errors
    /// No key could be made.
    pub fn other_pin() -> anyhow::Result<String> {
        Ok(pin(&KeyPair::generate()?))
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn pin(key: &impl SigningKey) -> String {
    let digest = STANDARD.encode(digest(&SHA256, &key.subject_public_key_info()));
    format!("sha256/{digest}")
}

/// A connection that breaks is what a test may be about.
async fn pass_on(acceptor: TlsAcceptor, stream: TcpStream, behind: SocketAddr) {
    if let Ok(mut stream) = acceptor.accept(stream).await
        && let Ok(mut behind) = TcpStream::connect(behind).await
    {
        let _ = copy_bidirectional(&mut stream, &mut behind).await;
    }
}
