//! Whom requests trust, against real TLS servers.

use async_trait::async_trait;
use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header::AUTHORIZATION};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PublicKeyData,
    date_time_ymd,
};
use rustls::{
    ServerConfig, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer},
    version::{TLS12, TLS13},
};
use std::{
    env, fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;
use xylem_ids::KeyPin;
use xylem_outbound::{
    AddressPolicy, Connecting, Lookup, NoAuthority, Outbound, Request, SendError, Trust, Untrusted,
};

/// Long enough for whatever a test waits for; nothing is measured.
const PATIENCE: Duration = Duration::from_secs(30);

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn issuing(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn authority(name: &str) -> Issuer {
    CertifiedIssuer::self_signed(issuing(name), key()).expect("an authority")
}

fn pin(key: &impl PublicKeyData) -> KeyPin {
    let digest = STANDARD.encode(digest(&SHA256, &key.subject_public_key_info()));
    format!("sha256/{digest}").parse().expect("a pin")
}

fn host() -> CertificateParams {
    CertificateParams::new(vec!["api.acme.example".to_owned()]).expect("parameters")
}

fn trust(authority: Option<&Issuer>, pins: &[&KeyPin]) -> Trust {
    let pins = pins.iter().copied().cloned().collect();
    Trust::new(authority.map(|authority| authority.pem()), pins).expect("a trust")
}

/// What a server saw.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    NoHandshake,
    Handshake,
    Request(String),
}

/// A server that answers `ok` to everything.
struct Server {
    url: String,
    seen: mpsc::UnboundedReceiver<Seen>,
}

impl Server {
    async fn start(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Self {
        Self::with(&[&TLS13, &TLS12], chain, key).await
    }

    async fn with(
        versions: &[&'static SupportedProtocolVersion],
        chain: Vec<CertificateDer<'static>>,
        key: &KeyPair,
    ) -> Self {
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a certificate");
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(any).await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (tell, seen) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(acceptor.clone(), stream, tell.clone()));
            }
        });
        Self {
            url: format!("https://api.acme.example:{port}/v1/status"),
            seen,
        }
    }

    /// A server of one certificate under an authority.
    async fn under(authority: &Issuer) -> (Self, KeyPin) {
        let key = key();
        let leaf = host().signed_by(&key, authority).expect("a certificate");
        (Self::start(vec![leaf.der().clone()], &key).await, pin(&key))
    }

    async fn next(&mut self) -> Seen {
        let next = tokio::time::timeout(PATIENCE, self.seen.recv()).await;
        next.expect("it was asked").expect("it runs")
    }
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, tell: mpsc::UnboundedSender<Seen>) {
    let Ok(mut stream) = acceptor.accept(stream).await else {
        let _ = tell.send(Seen::NoHandshake);
        return;
    };
    let _ = tell.send(Seen::Handshake);
    let (mut text, mut part) = (String::new(), [0; 4096]);
    while let Ok(bytes @ 1..) = stream.read(&mut part).await {
        text.push_str(&String::from_utf8_lossy(&part[..bytes]));
        if text.ends_with("\r\n\r\n") {
            let _ = tell.send(Seen::Request(std::mem::take(&mut text)));
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer).await.expect("written");
        }
    }
}

/// Everything is here.
struct Here;

#[async_trait]
impl Lookup for Here {
    async fn lookup(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        Ok(vec![Ipv4Addr::LOCALHOST.into()])
    }
}

fn outbound() -> Outbound {
    let development = AddressPolicy {
        development: true,
        private: Vec::new(),
    };
    Outbound::with_lookup(development, Arc::new(Here)).expect("a client")
}

async fn send(outbound: &Outbound, url: &str) -> Result<StatusCode, SendError> {
    let token = HeaderValue::from_static("Bearer not-for-everybody");
    let request = Request {
        method: Method::GET,
        url: url.parse().expect("a URL"),
        headers: HeaderMap::from_iter([(AUTHORIZATION, token)]),
        body: None,
    };
    let answer = outbound.send(request, PATIENCE, 1024).await?;
    Ok(answer.status)
}

async fn ask(outbound: &Outbound, trust: &Trust, url: &str) -> Result<StatusCode, SendError> {
    send(&outbound.connecting(&by(trust)).await?, url).await
}

fn by(trust: &Trust) -> Connecting {
    Connecting {
        trust: Some(trust.clone()),
        ..Connecting::default()
    }
}

const OK: Result<StatusCode, SendError> = Ok(StatusCode::OK);

fn refused(why: Untrusted) -> Result<StatusCode, SendError> {
    Err(SendError::Untrusted(why))
}

/// The system's authorities are those of a file, for a process of its own.
fn with_system_roots(test: &str) -> Option<String> {
    const OWN: &str = "XYLEM_TEST_ROOTS";
    if let Ok(file) = env::var(OWN) {
        return Some(file);
    }
    let place = tempfile::tempdir().expect("a folder");
    let file = place.path().join("roots.pem");
    let child = Command::new(env::current_exe().expect("this test"))
        .args(["--exact", test, "--nocapture"])
        .env(OWN, &file)
        .env("SSL_CERT_FILE", &file)
        .env_remove("SSL_CERT_DIR")
        .output()
        .expect("it runs");
    let told = String::from_utf8_lossy(&child.stderr);
    let ran = String::from_utf8_lossy(&child.stdout).contains("1 passed");
    assert!(child.status.success() && ran, "{told}");
    None
}

#[tokio::test]
async fn any_pinned_key_of_the_chain_is_enough_and_others_send_nothing() {
    let root = authority("root");
    let intermediate = CertifiedIssuer::signed_by(issuing("intermediate"), key(), &root);
    let intermediate = intermediate.expect("an intermediate");
    let own = key();
    let leaf = host().signed_by(&own, &intermediate).expect("signed");
    let chain = vec![leaf.der().clone(), intermediate.der().clone()];
    let outbound = outbound();
    let (other, next) = (pin(&key()), pin(&key()));
    for versions in [&[&TLS13], &[&TLS12]] {
        let mut server = Server::with(versions, chain.clone(), &own).await;
        for good in [pin(&own), pin(intermediate.key()), pin(root.key())] {
            // A key that is to come is pinned beside it.
            let trust = trust(Some(&root), &[&good, &next]);
            assert_eq!(ask(&outbound, &trust, &server.url).await, OK);
            assert_eq!(server.next().await, Seen::Handshake);
            assert!(matches!(server.next().await, Seen::Request(_)));
        }
        let wrong = trust(Some(&root), &[&other, &next]);
        let answer = ask(&outbound, &wrong, &server.url).await;
        assert_eq!(answer, refused(Untrusted::Pin));
        assert_eq!(server.next().await, Seen::NoHandshake);
    }
}

#[tokio::test]
async fn a_certificate_that_is_sent_along_is_not_of_the_chain() {
    let (root, other) = (authority("root"), authority("other"));
    let own = key();
    let leaf = host().signed_by(&own, &root).expect("signed");
    let chain = vec![leaf.der().clone(), other.der().clone()];
    let mut server = Server::start(chain, &own).await;
    let trust = trust(Some(&root), &[&pin(other.key())]);
    let answer = ask(&outbound(), &trust, &server.url).await;
    assert_eq!(answer, refused(Untrusted::Pin));
    assert_eq!(server.next().await, Seen::NoHandshake);
}

#[tokio::test]
async fn a_pin_does_not_make_a_bad_certificate_good() {
    let (root, stranger) = (authority("root"), authority("stranger"));
    let own = key();
    let pins = [&pin(&own), &pin(root.key()), &pin(stranger.key())];
    let trust = trust(Some(&root), &pins);
    let mut ended = host();
    ended.not_before = date_time_ymd(2020, 1, 1);
    ended.not_after = date_time_ymd(2021, 1, 1);
    let mut to_come = host();
    to_come.not_before = date_time_ymd(2999, 1, 1);
    let elsewhere = CertificateParams::new(vec!["evil.example".to_owned()]).expect("parameters");
    for (params, issuer, why) in [
        (ended, &root, Untrusted::Period),
        (to_come, &root, Untrusted::Period),
        (elsewhere, &root, Untrusted::Host),
        (host(), &stranger, Untrusted::Issuer),
    ] {
        let leaf = params.signed_by(&own, issuer).expect("signed");
        let mut server = Server::start(vec![leaf.der().clone()], &own).await;
        let answer = ask(&outbound(), &trust, &server.url).await;
        assert_eq!(answer, refused(why));
        assert_eq!(server.next().await, Seen::NoHandshake);
    }
}

#[tokio::test]
async fn an_authority_of_its_own_takes_the_place_of_the_systems() {
    let test = "an_authority_of_its_own_takes_the_place_of_the_systems";
    let Some(roots) = with_system_roots(test) else {
        return;
    };
    let (system, private) = (authority("system"), authority("private"));
    fs::write(roots, system.pem()).expect("written");
    let outbound = outbound();
    let (usual, _) = Server::under(&system).await;
    let (own, _) = Server::under(&private).await;
    let trust = trust(Some(&private), &[]);
    assert_eq!(send(&outbound, &usual.url).await, OK);
    assert_eq!(send(&outbound, &own.url).await, refused(Untrusted::Issuer));
    assert_eq!(ask(&outbound, &trust, &own.url).await, OK);
    let answer = ask(&outbound, &trust, &usual.url).await;
    assert_eq!(answer, refused(Untrusted::Issuer));
}

#[tokio::test]
async fn pins_alone_leave_the_systems_authorities_in_force() {
    let test = "pins_alone_leave_the_systems_authorities_in_force";
    let Some(roots) = with_system_roots(test) else {
        return;
    };
    let (system, private) = (authority("system"), authority("private"));
    fs::write(roots, system.pem()).expect("written");
    let outbound = outbound();
    let (usual, usual_pin) = Server::under(&system).await;
    let (own, own_pin) = Server::under(&private).await;
    let asked = async |pin: &KeyPin, url: &str| ask(&outbound, &trust(None, &[pin]), url).await;
    assert_eq!(asked(&usual_pin, &usual.url).await, OK);
    assert_eq!(asked(&pin(system.key()), &usual.url).await, OK);
    assert_eq!(asked(&own_pin, &usual.url).await, refused(Untrusted::Pin));
    assert_eq!(asked(&own_pin, &own.url).await, refused(Untrusted::Issuer));
}

#[tokio::test]
async fn connections_are_shared_by_those_who_trust_the_same_and_nobody_else() {
    let root = authority("root");
    let (mut server, own) = Server::under(&root).await;
    let outbound = outbound();
    let first = trust(Some(&root), &[&own]);
    for _ in 0..2 {
        assert_eq!(ask(&outbound, &first, &server.url).await, OK);
    }
    assert_eq!(server.next().await, Seen::Handshake);
    for _ in 0..2 {
        assert!(matches!(server.next().await, Seen::Request(_)));
    }
    let second = trust(Some(&root), &[&pin(&key())]);
    let answer = ask(&outbound, &second, &server.url).await;
    assert_eq!(answer, refused(Untrusted::Pin));
    assert_eq!(server.next().await, Seen::NoHandshake);
    // What was not used for longest is not kept for ever.
    for _ in 0..256 {
        let other = trust(Some(&root), &[&pin(&key())]);
        outbound.connecting(&by(&other)).await.expect("a client");
    }
    assert_eq!(ask(&outbound, &first, &server.url).await, OK);
    assert_eq!(server.next().await, Seen::Handshake);
}

#[tokio::test]
async fn what_is_not_encrypted_is_not_sent() {
    let root = authority("root");
    let how = by(&trust(Some(&root), &[]));
    let trusting = outbound().connecting(&how).await;
    let sent = send(&trusting.expect("a client"), "http://127.0.0.1:1/v1").await;
    assert!(matches!(sent, Err(SendError::NotSent(_))), "{sent:?}");
}

#[test]
fn an_authority_is_certificates() {
    let root = authority("root");
    let two = format!("{}{}", root.pem(), authority("next").pem());
    assert!(Trust::new(Some(two), [].into()).is_ok());
    let broken = root.pem().replace("MII", "AAA");
    for none in ["", "nothing", &key().serialize_pem(), &broken] {
        let refused = Trust::new(Some(none.to_owned()), [].into());
        assert_eq!(refused, Err(NoAuthority), "{none}");
    }
}
