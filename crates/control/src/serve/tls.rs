//! TLS 1.3 from files, which are read again when they change.

use rustls::{
    RootCertStore, ServerConfig, crypto,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{VerifierBuilderError, WebPkiClientVerifier},
    version::TLS13,
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// How often it is looked whether the files have changed.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The files that make a listener one with TLS. They may be replaced while it listens, one after the
/// other: what does not fit together is not used, and the listener goes on with what it had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and those between it and its CA, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The CA certificates of clients, PEM. Where they are named, a connection without a
    /// certificate of one of them is refused; an API key is required all the same.
    pub client_ca: Option<PathBuf>,
}

/// Why there is no TLS. None of it shows what is in a file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} holds no {what}: expected PEM", .path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// Certificate and key are not of each other, or of a kind that TLS 1.3 does not know.
    #[error("certificate {} and key {} cannot be used together", .certificate.display(), .key.display())]
    Pair {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The CA certificates of clients cannot be used.
    #[error("the CA certificates in {} cannot be used", .path.display())]
    ClientCa {
        /// Where they are.
        path: PathBuf,
        /// Why.
        source: VerifierBuilderError,
    },
}

/// What identifies the content of a file well enough to notice that it was replaced.
type Stamp = Option<(i64, i64, u64, u64)>;

/// TLS as the files describe it now.
#[derive(Debug)]
pub(super) struct Tls {
    files: TlsFiles,
    /// As the files were before they were read first.
    read: Vec<Stamp>,
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    pub(super) fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let read = stamps(&files);
        let current = RwLock::new(load(&files)?);
        Ok(Self {
            files,
            read,
            current,
        })
    }

    /// For the next connection.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        let current = self.current.read();
        Arc::clone(&current.unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the files again whenever they change. Connections keep what they began with.
    pub(super) async fn follow(&self, stop: CancellationToken) {
        let mut known = self.read.clone();
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = look.tick() => {}
            }
            let files = self.files.clone();
            let changed = move || {
                let found = stamps(&files);
                let loaded = (found != known).then(|| load(&files));
                (found, loaded)
            };
            let Ok((found, loaded)) = tokio::task::spawn_blocking(changed).await else {
                return;
            };
            known = found;
            match loaded {
                None => {}
                Some(Ok(config)) => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
                    tracing::info!("the TLS certificate was read again");
                }
                // A replacement is seldom one step: the rest of it is noticed as a change, too.
                Some(Err(error)) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the changed TLS files are not used: the listener goes on with the old ones"
                ),
            }
        }
    }
}

/// As the files are now. Symbolic links are followed: orchestrators replace what they point to.
fn stamps(files: &TlsFiles) -> Vec<Stamp> {
    let paths = [
        Some(&files.certificate),
        Some(&files.key),
        files.client_ca.as_ref(),
    ];
    paths
        .into_iter()
        .flatten()
        .map(|path| stamp(path))
        .collect()
}

fn stamp(path: &Path) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let found = fs::metadata(path).ok()?;
    Some((found.ctime(), found.ctime_nsec(), found.ino(), found.len()))
}

fn load(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(&files.certificate)?;
    let key = read(&files.key, "private key", |pem| {
        PrivateKeyDer::from_pem_slice(pem)
    })?;
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let pair = |source| TlsError::Pair {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        source,
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(pair)?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let unusable = |source| TlsError::ClientCa {
                path: path.clone(),
                source,
            };
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                let added = roots.add(certificate);
                added.map_err(|_| unusable(VerifierBuilderError::NoRootAnchors))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().map_err(unusable)?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(pair)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all = |pem: &[u8]| CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let found = read(path, "certificate", all)?;
    if found.is_empty() {
        return Err(TlsError::Content {
            path: path.to_owned(),
            what: "certificate",
        });
    }
    Ok(found)
}

fn read<T>(
    path: &Path,
    what: &'static str,
    parse: impl Fn(&[u8]) -> Result<T, pem::Error>,
) -> Result<T, TlsError> {
    let text = fs::read(path).map(Zeroizing::new);
    let text = text.map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text).map_err(|_| TlsError::Content {
        path: path.to_owned(),
        what,
    })
}
