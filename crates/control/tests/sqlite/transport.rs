//! The listener, over real sockets: TLS, limits, bad requests, headers, ids, logs, and its end.

use crate::common::{self, Stack};
use futures::StreamExt;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use reqwest::{StatusCode, header::HeaderMap};
use secrecy::SecretString;
use serde_json::Value;
use std::{
    fs,
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use xylem_client::{Client, Error, Tls, v1};
use xylem_control::{Listener, ServeError, Settings, TlsError, TlsFiles};
use xylem_ids::Role;

/// Long enough for whatever a test waits for; nothing is measured.
const PATIENCE: Duration = Duration::from_secs(30);

type Ca = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Ca {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    CertifiedIssuer::self_signed(params, key).expect("a CA")
}

/// A certificate and its key, PEM.
fn certificate(ca: &Ca) -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let params = CertificateParams::new(names).expect("parameters");
    let certificate = params.signed_by(&key, ca).expect("a certificate");
    (certificate.pem(), key.serialize_pem())
}

/// The control plane of a stack, listening with TLS.
struct Secure {
    stack: Stack,
    address: String,
    files: TlsFiles,
    stop: CancellationToken,
    serving: JoinHandle<Result<(), ServeError>>,
    _dir: TempDir,
}

impl Secure {
    async fn start(ca: &Ca, clients: Option<&Ca>) -> Self {
        let dir = TempDir::new().expect("a folder");
        let files = TlsFiles {
            certificate: dir.path().join("cert.pem"),
            key: dir.path().join("key.pem"),
            client_ca: clients.map(|_| dir.path().join("clients.pem")),
        };
        put(&files, certificate(ca));
        if let (Some(path), Some(clients)) = (&files.client_ca, clients) {
            fs::write(path, clients.pem()).expect("written");
        }
        let stack = Stack::start().await;
        let anywhere = "127.0.0.1:0".parse().expect("an address");
        let listener = Listener::bind(anywhere, Some(files.clone())).await;
        let listener = listener.expect("a listener");
        let address = listener.url();
        let stop = CancellationToken::new();
        let (control, stopped) = (stack.control.clone(), stop.clone());
        let serving = tokio::spawn(async move { control.serve(listener, stopped).await });
        Self {
            stack,
            address,
            files,
            stop,
            serving,
            _dir: dir,
        }
    }

    fn key(&self) -> SecretString {
        SecretString::from(self.stack.admin_key())
    }

    async fn status(&self, tls: &Tls) -> Result<v1::SystemStatus, Error> {
        let client = Client::connect_lazy_with(&self.address, tls, &self.key());
        client.expect("well formed").status().await
    }
}

fn put(files: &TlsFiles, (certificate, key): (String, String)) {
    fs::write(&files.certificate, certificate).expect("written");
    fs::write(&files.key, key).expect("written");
}

/// A client that trusts one CA.
fn trusting(ca: &Ca) -> reqwest::ClientBuilder {
    let root = reqwest::Certificate::from_pem(ca.pem().as_bytes()).expect("a certificate");
    reqwest::Client::builder().tls_certs_only([root])
}

/// Waits until it holds.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    common::eventually(what, || {
        let holds = holds();
        async { holds.await.then_some(()).ok_or_else(String::new) }
    })
    .await;
}

/// What the server counts, as it says itself.
async fn counted(stack: &Stack, name: &str) -> u64 {
    let answer = reqwest::Client::new()
        .get(format!("{}/metrics", stack.address))
        .bearer_auth(stack.admin_key())
        .send();
    let text = answer.await.expect("an answer").text().await;
    let text = text.expect("a body");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    line.trim().parse().expect("a number")
}

#[tokio::test]
async fn tls_1_3_for_grpc_and_rest_and_nothing_older() {
    let ca = authority();
    let secure = Secure::start(&ca, None).await;
    assert!(secure.address.starts_with("https://127.0.0.1:"));
    let trusted = Tls::new().with_ca(ca.pem());
    let status = secure.status(&trusted).await.expect("a status");
    assert_eq!(status.agent, "admin");
    let strangers = Tls::new().with_ca(authority().pem());
    let refused = secure.status(&strangers).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");

    let url = format!("{}/healthz", secure.address);
    let client = trusting(&ca).build().expect("a client");
    let answer = client.get(&url).send().await.expect("an answer");
    let hsts = answer.headers().get("strict-transport-security");
    assert_eq!(hsts.expect("there"), "max-age=31536000");
    let old = trusting(&ca).tls_version_max(reqwest::tls::Version::TLS_1_2);
    let refused = old.build().expect("a client").get(&url).send().await;
    assert!(refused.is_err());
    let plain = reqwest::get(url.replace("https:", "http:")).await;
    assert!(plain.is_err(), "plain HTTP was answered");
}

#[tokio::test]
async fn a_certificate_that_is_replaced_is_used_without_a_restart() {
    let (old, new) = (authority(), authority());
    let secure = Secure::start(&old, None).await;
    let works = async |ca: &Ca| {
        let client = trusting(ca).build().expect("a client");
        let answer = client.get(format!("{}/healthz", secure.address)).send();
        answer.await.is_ok()
    };
    assert!(works(&old).await && !works(&new).await);
    // Half of a replacement is not used.
    let (certificate, key) = certificate(&new);
    fs::write(&secure.files.certificate, &certificate).expect("written");
    assert!(!works(&new).await);
    assert!(works(&old).await);
    fs::write(&secure.files.key, &key).expect("written");
    until("the new certificate is used", || works(&new)).await;
    assert!(!works(&old).await);
    // And neither is rubbish.
    fs::write(&secure.files.key, "rubbish").expect("written");
    assert!(works(&new).await);
}

#[tokio::test]
async fn where_clients_need_a_certificate_a_key_alone_opens_nothing() {
    let (ca, clients) = (authority(), authority());
    let secure = Secure::start(&ca, Some(&clients)).await;
    let nobody = Tls::new().with_ca(ca.pem());
    assert!(secure.status(&nobody).await.is_err());
    let as_of = |issuer: &Ca| {
        let (certificate, key) = certificate(issuer);
        nobody.clone().with_identity(certificate, &key.into())
    };
    let strangers = secure.status(&as_of(&authority())).await;
    assert!(strangers.is_err(), "{strangers:?}");
    let known = secure.status(&as_of(&clients)).await;
    assert_eq!(known.expect("a status").agent, "admin");
    // A certificate is no key.
    let client = SecretString::from("xyk_nobody");
    let client = Client::connect_lazy_with(&secure.address, &as_of(&clients), &client);
    let refused = client.expect("well formed").status().await;
    assert!(
        matches!(refused, Err(Error::Unauthenticated(_))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_client_ca_that_is_replaced_lets_others_in_without_a_restart() {
    let (ca, old, new) = (authority(), authority(), authority());
    let secure = Secure::start(&ca, Some(&old)).await;
    let enters = async |clients: &Ca| {
        let (certificate, key) = certificate(clients);
        let tls = Tls::new().with_ca(ca.pem());
        let tls = tls.with_identity(certificate, &key.into());
        secure.status(&tls).await.is_ok()
    };
    assert!(enters(&old).await && !enters(&new).await);
    let path = secure.files.client_ca.as_ref().expect("named");
    fs::write(path, new.pem()).expect("written");
    until("the new clients are let in", || enters(&new)).await;
    assert!(!enters(&old).await);
}

#[tokio::test]
async fn files_that_make_no_tls_are_named() {
    let ca = authority();
    let dir = TempDir::new().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    let (certificate, key) = certificate(&ca);
    let (_, other) = self::certificate(&ca);
    for (name, text) in [
        ("cert", &certificate),
        ("key", &key),
        ("other", &other),
        ("rubbish", &"canary".to_owned()),
    ] {
        fs::write(path(name), text).expect("written");
    }
    let bind = async |certificate: &str, key: &str, client_ca: Option<&str>| {
        let files = TlsFiles {
            certificate: path(certificate),
            key: path(key),
            client_ca: client_ca.map(path),
        };
        let anywhere = "127.0.0.1:0".parse().expect("an address");
        match Listener::bind(anywhere, Some(files)).await {
            Err(ServeError::Tls(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let error = bind("missing", "key", None).await;
    assert!(matches!(error, TlsError::Read { .. }), "{error}");
    for (certificate, key, client_ca) in [
        ("rubbish", "key", None),
        ("cert", "rubbish", None),
        ("cert", "key", Some("rubbish")),
    ] {
        let error = bind(certificate, key, client_ca).await;
        assert!(error.to_string().contains("rubbish holds no"), "{error}");
        assert!(!format!("{error:?}").contains("canary"));
    }
    let error = bind("cert", "other", None).await;
    assert!(matches!(error, TlsError::Pair { .. }), "{error}");
}

#[tokio::test]
async fn stopping_ends_streams_and_waits_for_calls() {
    let ca = authority();
    let secure = Secure::start(&ca, None).await;
    let tls = Tls::new().with_ca(ca.pem());
    let client = Client::connect_with(&secure.address, &tls, &secure.key()).await;
    let client = client.expect("a connection");
    let mut tail = client
        .tail_audit(v1::TailAuditRequest::default())
        .await
        .expect("a stream");
    // A call that waits for the database.
    let busy = secure.stack.occupy().await;
    let calling = {
        let (client, roles) = (client.clone(), vec![v1::Role::Worker.into()]);
        let late = v1::CreateAgentRequest {
            name: "late".to_owned(),
            roles,
            ..v1::CreateAgentRequest::default()
        };
        tokio::spawn(async move { client.create_agent(late).await })
    };
    until("the call is being handled", async || {
        counted(&secure.stack, "xylem_calls_in_flight").await == 1
    })
    .await;
    secure.stop.cancel();
    let last = loop {
        match timeout(PATIENCE, tail.next()).await.expect("an end") {
            Some(Ok(_)) => {}
            end => break end,
        }
    };
    let error = last
        .expect("no silent end")
        .expect_err("an end that says to ask again");
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    assert!(!secure.serving.is_finished(), "a call was not waited for");
    drop(busy);
    let called = timeout(PATIENCE, calling).await.expect("an answer");
    called.expect("no panic").expect("an agent");
    let served = timeout(PATIENCE, secure.serving).await.expect("an end");
    served.expect("no panic").expect("no failure");
}

/// A stack whose listener has these limits.
async fn limited(change: impl FnOnce(&mut xylem_control::Limits)) -> Stack {
    Stack::with(|settings: &mut Settings| change(&mut settings.limits)).await
}

async fn open(stack: &Stack) -> TcpStream {
    let address = stack.address.strip_prefix("http://").expect("plain");
    TcpStream::connect(address).await.expect("a connection")
}

/// Everything until the server ends the connection, as it may do with a reset.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut text)).await;
    drop(read.expect("the server ends the connection"));
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_ended() {
    let stack = limited(|limits| limits.first_request = Duration::from_millis(100)).await;
    for said in [
        "",
        "P",
        "PRI * HTTP/2.0\r\n\r\n",
        "GET /healthz HT",
        "GET /healthz HTTP/1.1\r\nhost: x\r\nx-more: ",
    ] {
        let mut silent = open(&stack).await;
        silent.write_all(said.as_bytes()).await.expect("sent");
        assert_eq!(rest(&mut silent).await, "", "{said}");
    }
    assert_eq!(counted(&stack, "xylem_connections_idle_total").await, 5);
}

#[tokio::test]
async fn a_handshake_that_stalls_is_ended() {
    let ca = authority();
    let dir = TempDir::new().expect("a folder");
    let files = TlsFiles {
        certificate: dir.path().join("cert.pem"),
        key: dir.path().join("key.pem"),
        client_ca: None,
    };
    put(&files, certificate(&ca));
    let stack = limited(|limits| limits.first_request = Duration::from_millis(100)).await;
    let anywhere = "127.0.0.1:0".parse().expect("an address");
    let listener = Listener::bind(anywhere, Some(files)).await.expect("bound");
    let address = listener.address();
    let control = stack.control.clone();
    tokio::spawn(async move { control.serve(listener, CancellationToken::new()).await });
    for said in [&b""[..], &[0x16, 3, 1], b"GET / HTTP/1.1\r\n\r\n"] {
        let mut silent = TcpStream::connect(address).await.expect("a connection");
        silent.write_all(said).await.expect("sent");
        rest(&mut silent).await;
    }
    assert_eq!(counted(&stack, "xylem_handshakes_failed_total").await, 3);
}

#[tokio::test]
async fn a_connection_that_is_idle_is_ended_after_its_answer() {
    let stack = limited(|limits| limits.idle = Duration::from_millis(100)).await;
    let idle = async || {
        let mut idle = open(&stack).await;
        let request = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
        idle.write_all(request.as_bytes()).await.expect("sent");
        assert!(rest(&mut idle).await.ends_with("ok\n"));
    };
    idle().await;
    // A stream is no idle connection.
    let client = stack.admin().await;
    let mut tail = client
        .tail_audit(v1::TailAuditRequest::default())
        .await
        .expect("a stream");
    for _ in 0..3 {
        idle().await;
    }
    let agent = stack.client(Role::Admin).await;
    agent.status().await.expect("a status");
    let worker = v1::CreateAgentRequest {
        name: "seen".to_owned(),
        roles: vec![v1::Role::Worker.into()],
        ..v1::CreateAgentRequest::default()
    };
    agent.create_agent(worker).await.expect("an agent");
    let next = timeout(PATIENCE, tail.next()).await.expect("an entry");
    assert!(next.expect("not the end").is_ok());
}

#[tokio::test]
async fn one_address_does_not_take_all_connections() {
    let stack = limited(|limits| limits.connections_per_address = 2).await;
    let (one, two) = (open(&stack).await, open(&stack).await);
    let mut third = open(&stack).await;
    assert_eq!(rest(&mut third).await, "");
    drop((one, two));
    until("there is a place again", async || {
        let answer = reqwest::get(format!("{}/healthz", stack.address)).await;
        answer.is_ok()
    })
    .await;
    until("the places that were left are free", async || {
        counted(&stack, "xylem_connections").await <= 1
    })
    .await;
}

#[tokio::test]
async fn more_connections_than_there_are_places_wait() {
    let stack = limited(|limits| limits.connections = 1).await;
    let first = open(&stack).await;
    let url = format!("{}/healthz", stack.address);
    let mut second = tokio::spawn(reqwest::get(url));
    // It is connected by the kernel, and nobody takes the connection yet.
    let waiting = timeout(Duration::from_millis(300), &mut second).await;
    assert!(waiting.is_err(), "{waiting:?}");
    drop(first);
    let answer = timeout(PATIENCE, second).await.expect("a place");
    assert!(answer.expect("no panic").is_ok());
}

#[tokio::test]
async fn a_body_that_drips_is_given_up() {
    let stack = limited(|limits| limits.body = Duration::from_millis(200)).await;
    let mut slow = open(&stack).await;
    let head = format!(
        "POST /v1/agents HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 1000\r\nconnection: close\r\n\r\n{{",
        stack.admin_key()
    );
    slow.write_all(head.as_bytes()).await.expect("sent");
    let answer = rest(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("body_incomplete"), "{answer}");
}

#[tokio::test]
async fn a_peer_that_takes_nothing_is_let_go() {
    let stack = limited(|limits| limits.stalled = Duration::from_millis(200)).await;
    let mut deaf = open(&stack).await;
    let request = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n";
    // More than any socket buffer holds comes back; none of it is read.
    let asking = async {
        loop {
            if deaf.write_all(request.as_bytes()).await.is_err() {
                return;
            }
        }
    };
    timeout(PATIENCE, asking).await.expect("it is let go");
    until("its connection is over", async || {
        counted(&stack, "xylem_connections").await == 1
    })
    .await;
}

const CANARY: &str = "canary-71c0";

struct Bad {
    name: &'static str,
    request: Vec<u8>,
    status: u16,
    /// Of the JSON error; empty where the request does not get as far.
    reason: &'static str,
}

/// A request with a body, as JSON.
fn post(key: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n\
         content-type: application/json\r\n{headers}connection: close\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn with_length(key: &str, body: &[u8]) -> Vec<u8> {
    let length = format!("content-length: {}\r\n", body.len());
    post(key, "/v1/agents", &length, body)
}

fn bad_requests(key: &str) -> Vec<Bad> {
    let bad = |name, request: Vec<u8>, status, reason| Bad {
        name,
        request,
        status,
        reason,
    };
    let get = |path: &str, headers: &str| {
        let end = "connection: close\r\n\r\n";
        format!("GET {path} HTTP/1.1\r\nhost: x\r\n{headers}{end}").into_bytes()
    };
    let key_header = format!("authorization: Bearer {key}\r\n");
    let many = (0..100).map(|n| format!("x-{n}: {CANARY}\r\n"));
    let chunk = format!("{:x}\r\n{}\r\n", 64 * 1024, "a".repeat(64 * 1024));
    let deep = [b"{\"name\":".as_slice(), &b"[".repeat(100_000)].concat();
    let chunked = "transfer-encoding: chunked\r\n";
    vec![
        bad("no HTTP", format!("{CANARY}\r\n\r\n").into(), 400, ""),
        bad("an old version", b"GET / HTTP/0.9\r\n\r\n".into(), 400, ""),
        bad(
            "a head without end",
            get("/", &format!("x-long: {}\r\n", "a".repeat(64 * 1024))),
            431,
            "",
        ),
        bad("a long path", get(&"/a".repeat(40_000), ""), 431, ""),
        bad("many headers", get("/", &many.collect::<String>()), 431, ""),
        bad("a folded header", get("/", "x-a: 1\r\n b\r\n"), 400, ""),
        bad("a header without name", get("/", ": canary\r\n"), 400, ""),
        bad(
            "a bare control character",
            get("/", "x-a: \u{1}\r\n"),
            400,
            "",
        ),
        bad(
            "two lengths",
            post(
                key,
                "/v1/agents",
                "content-length: 2\r\ncontent-length: 3\r\n",
                b"{}",
            ),
            400,
            "",
        ),
        bad(
            "a length that is none",
            post(key, "/v1/agents", "content-length: -1\r\n", b"{}"),
            400,
            "",
        ),
        bad(
            "a chunk that is none",
            post(key, "/v1/agents", chunked, b"zz\r\n{}\r\n0\r\n\r\n"),
            400,
            "body_incomplete",
        ),
        bad(
            "a body that breaks off",
            post(key, "/v1/agents", "content-length: 100\r\n", b"{"),
            400,
            "body_incomplete",
        ),
        bad(
            "a giant body, announced",
            post(key, "/v1/agents", "content-length: 99999999999\r\n", b""),
            413,
            "too_large",
        ),
        bad(
            "a giant body, in chunks",
            post(key, "/v1/agents", chunked, chunk.repeat(20).as_bytes()),
            413,
            "too_large",
        ),
        // No message contains itself: what is nested deeper than its message is refused there.
        bad("deep JSON", with_length(key, &deep), 400, "malformed"),
        bad(
            "deep JSON of nothing",
            with_length(key, &b"[".repeat(100_000)),
            400,
            "malformed",
        ),
        bad(
            "not UTF-8",
            with_length(key, b"{\"name\":\"\xff\xfe\"}"),
            400,
            "malformed",
        ),
        bad(
            "a body twice",
            with_length(key, b"{\"name\":\"a\"}{\"name\":\"b\"}"),
            400,
            "malformed",
        ),
        bad(
            "a field twice",
            with_length(key, b"{\"name\":\"a\",\"name\":\"b\"}"),
            400,
            "malformed",
        ),
        bad(
            "an unknown field",
            with_length(key, b"{\"nme\":\"a\"}"),
            400,
            "malformed",
        ),
        bad(
            "a path that is none",
            get(&format!("/v1/{CANARY}"), &key_header),
            404,
            "no_such_call",
        ),
        bad(
            "dots in the path",
            get("/v1/agents/../../healthz", &key_header),
            404,
            "no_such_call",
        ),
        bad(
            "another method",
            with_length(key, b"{}")
                .strip_prefix(b"POST")
                .map(|rest| [b"BREW".as_slice(), rest].concat())
                .expect("a POST"),
            404,
            "no_such_call",
        ),
        bad("no key", get("/v1/status", ""), 401, "key_missing"),
        bad(
            "a key as a password",
            get("/v1/status", &format!("authorization: Basic {CANARY}\r\n")),
            401,
            "key_missing",
        ),
        bad(
            "two keys",
            get(
                "/v1/status",
                &format!("{key_header}authorization: Bearer {CANARY}\r\n"),
            ),
            401,
            "key_missing",
        ),
        bad(
            "a key in the query",
            get(&format!("/v1/status?key={CANARY}"), ""),
            401,
            "key_missing",
        ),
    ]
}

#[tokio::test]
async fn bad_requests_are_refused_without_an_echo_and_others_are_served() {
    let stack = limited(|limits| limits.body = Duration::from_millis(500)).await;
    let key = stack.admin_key().to_owned();
    let mut wrong = Vec::new();
    for bad in bad_requests(&key) {
        let mut stream = open(&stack).await;
        let (mut reader, mut writer) = stream.split();
        let sending = async {
            // The server may answer, and close, before it has read everything.
            drop(writer.write_all(&bad.request).await);
        };
        let mut answer = Vec::new();
        let reading = reader.read_to_end(&mut answer);
        let both = async { tokio::join!(sending, reading) };
        drop(timeout(PATIENCE, both).await.expect(bad.name));
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = format!("HTTP/1.1 {}", bad.status);
        let reason = format!("\"reason\":\"{}\"", bad.reason);
        let said = answer.starts_with(&status)
            && (bad.reason.is_empty() || answer.contains(&reason))
            && !answer.contains("canary")
            && answer.len() < 4096;
        if !said {
            wrong.push(format!("{}: {answer}", bad.name));
        }
        stack.admin().await.status().await.expect(bad.name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[tokio::test]
async fn what_is_too_large_over_grpc_is_refused_without_an_echo_and_others_are_served() {
    let stack = Stack::start().await;
    let client = stack.admin().await;
    for size in [1024 * 1024, 3 * 1024 * 1024] {
        let large = v1::CreateAgentRequest {
            name: "canary".repeat(size / 6 + 1),
            roles: vec![v1::Role::Worker.into()],
            ..v1::CreateAgentRequest::default()
        };
        let refused = client.create_agent(large).await.expect_err("too large");
        assert!(!format!("{refused:?}").contains("canary"), "{refused:?}");
        client.status().await.expect("the next call is served");
    }
    // A head is bounded before anybody looks at the key in it.
    let key = SecretString::from("canary".repeat(12_000));
    let large = Client::connect_lazy_with(&stack.address, &Tls::new(), &key);
    let refused = large.expect("well formed").status().await;
    let refused = refused.expect_err("too large");
    assert!(!format!("{refused:?}").contains("canary"), "{refused:?}");
    client.status().await.expect("others are served");
}

async fn get(
    stack: &Stack,
    path: &str,
    headers: &[(&str, &str)],
) -> (StatusCode, HeaderMap, String) {
    let mut request = reqwest::Client::new().get(format!("{}{path}", stack.address));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.expect("an answer");
    let (status, headers) = (answer.status(), answer.headers().clone());
    (status, headers, answer.text().await.expect("a body"))
}

#[tokio::test]
async fn a_request_keeps_the_id_that_it_came_with_where_that_is_harmless() {
    let stack = Stack::start().await;
    for (given, kept) in [
        ("f6d1b0a2-7c1e-4f0e-9c39-1b2a", true),
        ("a_B.9", true),
        (&"a".repeat(64), true),
        (&"a".repeat(65), false),
        ("", false),
        ("a b", false),
        ("a\tb", false),
        ("a\"b", false),
        ("../a", false),
    ] {
        let (status, headers, body) = get(&stack, "/v1/status", &[("x-request-id", given)]).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        let answered = headers["x-request-id"].to_str().expect("text");
        assert_eq!(answered == given, kept, "{given}: {answered}");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(body["details"][0]["metadata"]["requestId"], answered);
    }
    let (_, headers, _) = get(&stack, "/healthz", &[("x-request-id", "probe-1")]).await;
    assert_eq!(headers["x-request-id"], "probe-1");
    let twice = [("x-request-id", "one"), ("x-request-id", "two")];
    let (_, headers, _) = get(&stack, "/healthz", &twice).await;
    assert!(headers["x-request-id"] != "one" && headers["x-request-id"] != "two");
}

#[tokio::test]
async fn every_answer_tells_browsers_to_be_careful() {
    let stack = Stack::start().await;
    let bearer = format!("Bearer {}", stack.admin_key());
    for path in [
        "/",
        "/healthz",
        "/openapi.json",
        "/v1/status",
        "/metrics",
        "/no/such",
    ] {
        for authorization in [&[][..], &[("authorization", bearer.as_str())]] {
            let (_, headers, _) = get(&stack, path, authorization).await;
            assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
            assert_eq!(headers["x-frame-options"], "DENY", "{path}");
            assert_eq!(headers["referrer-policy"], "no-referrer", "{path}");
            assert_eq!(headers["cache-control"], "no-store", "{path}");
            let policy = headers["content-security-policy"].to_str().expect("text");
            assert!(policy.starts_with("default-src 'none'"), "{path}: {policy}");
            assert!(
                policy.contains("frame-ancestors 'none'"),
                "{path}: {policy}"
            );
            assert!(!headers.contains_key("strict-transport-security"), "{path}");
            assert!(
                !headers.contains_key("access-control-allow-origin"),
                "{path}"
            );
            assert!(!headers.contains_key("server"), "{path}");
        }
    }
}

#[tokio::test]
async fn only_listed_origins_may_ask_from_a_browser() {
    const OPS: &str = "https://ops.example";
    let stack = Stack::with(|settings: &mut Settings| {
        settings.cors_origins = vec![common::id(OPS)];
    })
    .await;
    let closed = Stack::start().await;
    let preflight = async |stack: &Stack, origin: &str| {
        let request = reqwest::Client::new()
            .request(
                reqwest::Method::OPTIONS,
                format!("{}/v1/status", stack.address),
            )
            .header("origin", origin)
            .header("access-control-request-method", "GET")
            .header("access-control-request-headers", "authorization");
        request.send().await.expect("an answer").headers().clone()
    };
    let allowed = preflight(&stack, OPS).await;
    assert_eq!(allowed["access-control-allow-origin"], OPS);
    let headers = allowed["access-control-allow-headers"]
        .to_str()
        .expect("text");
    assert!(headers.contains("authorization"), "{headers}");
    assert!(!allowed.contains_key("access-control-allow-credentials"));
    for (stack, origin) in [
        (&stack, "https://ops.example.evil.example"),
        (&stack, "http://ops.example"),
        (&stack, "null"),
        (&closed, OPS),
    ] {
        let refused = preflight(stack, origin).await;
        assert!(
            !refused.contains_key("access-control-allow-origin"),
            "{origin}"
        );
        let (_, refused, _) = get(stack, "/v1/status", &[("origin", origin)]).await;
        assert!(
            !refused.contains_key("access-control-allow-origin"),
            "{origin}"
        );
    }
    let (_, headers, _) = get(&stack, "/v1/status", &[("origin", OPS)]).await;
    assert_eq!(headers["access-control-allow-origin"], OPS);
    // What is open to everybody is not opened to pages.
    let (_, headers, _) = get(&stack, "/healthz", &[("origin", OPS)]).await;
    assert!(!headers.contains_key("access-control-allow-origin"));
}

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_access_log_names_calls_and_nothing_that_was_sent() {
    let kept = Kept::default();
    let writer = kept.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    tracing::subscriber::set_global_default(subscriber).expect("the only one");
    let stack = Stack::start().await;
    let bearer = format!("Bearer {}", stack.admin_key());
    let ask = async |path: &str, id: &str, key: &str| {
        get(
            &stack,
            path,
            &[("authorization", key), ("x-request-id", id)],
        )
        .await
    };
    ask("/v1/audit?page_token=canary", "log-known", &bearer).await;
    ask("/v1/status?token=canary-query", "log-query", &bearer).await;
    ask("/v1/trees/canary-path", "log-path", &bearer).await;
    ask("/canary-unknown", "log-unknown", &bearer).await;
    ask("/v1/status", "log-refused", "Bearer canary-key").await;
    let client = reqwest::Client::new()
        .post(format!("{}/v1/agents", stack.address))
        .header("authorization", &bearer)
        .header("x-request-id", "log-body")
        .header("cookie", "canary-cookie=1")
        .header("user-agent", "canary-agent")
        .body("{\"canary\":\"canary-body\"}");
    client.send().await.expect("an answer");
    stack.admin().await.status().await.expect("a status");
    let text = String::from_utf8(kept.0.lock().expect("not poisoned").clone()).expect("text");
    assert!(!text.contains("canary"), "{text}");
    assert!(!text.contains(stack.admin_key()), "{text}");
    let line = |id: &str| {
        let line = text
            .lines()
            .find(|line| line.contains(&format!("request.id={id} ")));
        line.unwrap_or_else(|| panic!("no {id} in {text}"))
    };
    for (id, fields) in [
        (
            "log-known",
            &[
                "call=\"ListAudit\"",
                "status=400",
                "code=InvalidArgument",
                "agent=admin ",
            ][..],
        ),
        (
            "log-path",
            &["call=\"GetTree\"", "status=404", "code=NotFound"],
        ),
        ("log-unknown", &["call=\"-\"", "status=404"]),
        (
            "log-refused",
            &["call=\"-\"", "status=401", "source=127.0.0.1"],
        ),
        ("log-body", &["method=POST", "status=400"]),
    ] {
        for field in fields {
            assert!(line(id).contains(field), "{id}: {field} in {}", line(id));
        }
    }
}
