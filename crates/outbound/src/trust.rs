//! Whom a request trusts to be the server: the system's certificate authorities or another one, and
//! which keys it must have beside that.

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs::default_provider},
};
use rustls_pki_types::{
    CertificateDer, ServerName, SignatureVerificationAlgorithm, TrustAnchor, UnixTime,
    pem::PemObject,
};
use std::{collections::BTreeSet, fmt, sync::Arc};
use webpki::{Cert, EndEntityCert, KeyUsage, VerifiedPath, anchor_from_trusted_cert};
use xylem_ids::KeyPin;

/// Whom to trust, where it is not just whom the system trusts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Trust {
    authority: Option<String>,
    pins: BTreeSet<KeyPin>,
}

/// The certificate authority is none: there is no certificate, or one that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a certificate authority must be certificates in PEM")]
pub struct NoAuthority;

/// Why a server is not who it should be. Stable words; nothing of its certificate is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// Nobody who is trusted says so.
    #[error("its certificate is not of a certificate authority that is trusted for it")]
    Issuer,
    /// The certificate is another server's.
    #[error("its certificate is for another host")]
    Host,
    /// The certificate ended, or did not begin.
    #[error("its certificate is not valid now")]
    Period,
    /// The certificate is valid, and a key was asked for that is not in its chain.
    #[error("its certificate is valid, but no key of its chain is pinned")]
    Pin,
    /// The certificate breaks another rule.
    #[error("its certificate is not valid")]
    Certificate,
}

impl Untrusted {
    /// What the handshake failed of, if it was the certificate.
    pub(crate) fn of(error: &Error) -> Option<Self> {
        use rustls::CertificateError as Why;
        let Error::InvalidCertificate(why) = error else {
            return None;
        };
        Some(match why {
            Why::UnknownIssuer => Self::Issuer,
            Why::NotValidForName | Why::NotValidForNameContext { .. } => Self::Host,
            Why::Expired
            | Why::ExpiredContext { .. }
            | Why::NotValidYet
            | Why::NotValidYetContext { .. } => Self::Period,
            Why::ApplicationVerificationFailure => Self::Pin,
            _ => Self::Certificate,
        })
    }
}

impl Trust {
    /// Trusts servers under this authority, PEM, in place of the system's, if there is one, and only those
    /// with one of these keys in the chain of their certificate, if there are any.
    ///
    /// # Errors
    /// The authority cannot be read.
    pub fn new(authority: Option<String>, pins: BTreeSet<KeyPin>) -> Result<Self, NoAuthority> {
        let trust = Self { authority, pins };
        if trust.authority.is_some() {
            trust.roots().map_err(|_| NoAuthority)?;
        }
        Ok(trust)
    }

    /// How connections are made then.
    pub(crate) fn config(&self) -> Result<ClientConfig, Error> {
        let provider = Arc::new(default_provider());
        let mut verifier = self.without_pins(&provider)?;
        if !self.pins.is_empty() {
            verifier = Arc::new(Pinned::new(verifier, &self.roots()?, &self.pins, &provider));
        }
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// Verifies certificates as all others are, with the authority in place of the system's.
    fn without_pins(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ServerCertVerifier>, Error> {
        if self.authority.is_none() {
            let system = rustls_platform_verifier::Verifier::new(provider.clone())?;
            return Ok(Arc::new(system));
        }
        let mut roots = RootCertStore::empty();
        for root in self.roots()? {
            roots.add(root)?;
        }
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map(|verifier| verifier as Arc<dyn ServerCertVerifier>)
            .map_err(|error| Error::General(error.to_string()))
    }

    /// The certificates that chains may end with.
    fn roots(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        let Some(pem) = &self.authority else {
            return Ok(rustls_native_certs::load_native_certs().certs);
        };
        let unreadable = || Error::General(NoAuthority.to_string());
        let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        let roots = roots.map_err(|_| unreadable())?;
        let readable = |root| anchor_from_trusted_cert(root).is_ok();
        if roots.is_empty() || !roots.iter().all(readable) {
            return Err(unreadable());
        }
        Ok(roots)
    }
}

/// The pin of a certificate's key.
fn pin_of(certificate: &Cert<'_>) -> String {
    let key = certificate.subject_public_key_info();
    let digest = STANDARD.encode(digest(&SHA256, &key));
    format!("sha256/{digest}")
}

/// Asks for pinned keys of certificates that are valid without. It can only refuse more.
struct Pinned {
    inner: Arc<dyn ServerCertVerifier>,
    anchors: Vec<TrustAnchor<'static>>,
    pinned_anchors: Vec<TrustAnchor<'static>>,
    pins: BTreeSet<KeyPin>,
    algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned")
            .field("pins", &self.pins)
            .finish_non_exhaustive()
    }
}

impl Pinned {
    fn new(
        inner: Arc<dyn ServerCertVerifier>,
        roots: &[CertificateDer<'static>],
        pins: &BTreeSet<KeyPin>,
        provider: &CryptoProvider,
    ) -> Self {
        let (mut anchors, mut pinned_anchors) = (Vec::new(), Vec::new());
        for root in roots {
            // What cannot be read among the system's is left out, as it is without pins.
            let Ok(anchor) = anchor_from_trusted_cert(root) else {
                continue;
            };
            let pinned = EndEntityCert::try_from(root)
                .is_ok_and(|certificate| pins.contains(pin_of(&certificate).as_str()));
            if pinned {
                pinned_anchors.push(anchor.to_owned());
            }
            anchors.push(anchor.to_owned());
        }
        Self {
            inner,
            anchors,
            pinned_anchors,
            pins: pins.clone(),
            algorithms: provider.signature_verification_algorithms.all,
        }
    }

    /// Whether a chain that was verified has a pinned key. What a server sends beside its chain does not
    /// count: anybody can send anybody's certificate.
    fn is_pinned(&self, path: &VerifiedPath<'_>) -> bool {
        let pinned = |certificate: &Cert<'_>| self.pins.contains(pin_of(certificate).as_str());
        pinned(path.end_entity())
            || path.intermediate_certificates().any(pinned)
            || self.pinned_anchors.contains(path.anchor())
    }

    /// Looks for a chain with a pinned key, among all that verify.
    fn look(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let accept = |path: &VerifiedPath<'_>| match self.is_pinned(path) {
            true => Ok(()),
            false => Err(webpki::Error::UnknownIssuer),
        };
        let end_entity = EndEntityCert::try_from(end_entity)?;
        let usage = KeyUsage::server_auth();
        let path = end_entity.verify_for_usage(
            self.algorithms,
            &self.anchors,
            intermediates,
            now,
            usage,
            None,
            Some(&accept),
        );
        path.map(|_| ())
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        let pinned = self.look(end_entity, intermediates, now);
        pinned.map_err(|_| rustls::CertificateError::ApplicationVerificationFailure)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
