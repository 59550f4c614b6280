//! Tool calls against a real HTTP server, with a vault of the imagination.

use super::*;
use crate::{
    PortError, Released,
    fake::{claims, tree},
    ports::{AuditSink, Release, TokenSource, ToolDirectory},
    tool::{Auth, Tool, tests::tool},
};
use acme_api::{AcmeApi, Behaviour, Encoding};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};
use temporalio_sdk::activities::ActivityError;
use tokio::net::TcpSocket;
use xylem_ids::{Epoch, Serial, Slot, Version};
use xylem_outbound::{AddressPolicy, Lookup, Trust, Untrusted};
use xylem_stateful::activity::{Issuers, Select, TakenIn};
use xylem_testkit::TlsFront;

const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn order(version: u32) -> Order {
    Order {
        epoch: Epoch(1),
        version: Version(version),
        serial: Serial(1),
    }
}

/// A vault, registry and audit log in one, as the control plane is.
#[derive(Default)]
struct Vault {
    tool: Mutex<Option<Tool>>,
    token: Mutex<(String, u32)>,
    audiences: Mutex<Vec<String>>,
    refuses: Mutex<Option<PortError>>,
    /// So many answers to redemptions get lost, and so many releases.
    lost: Mutex<(usize, usize)>,
    redeemed: Mutex<Vec<Redeem>>,
    released: Mutex<Vec<Release>>,
    reported: Mutex<Vec<&'static str>>,
    asked_for_tools: Mutex<usize>,
}

impl Vault {
    fn outcomes(&self) -> Vec<(Outcome, Option<u16>)> {
        let released = self.released.lock().expect("not poisoned");
        released
            .iter()
            .map(|r| (r.outcome, r.http_status))
            .collect()
    }

    fn change(&self, change: impl FnOnce(&mut Tool)) {
        let mut tool = self.tool.lock().expect("not poisoned");
        change(tool.as_mut().expect("a tool"));
    }

    fn redeemed(&self) -> usize {
        self.redeemed.lock().expect("not poisoned").len()
    }
}

fn lose(left: &mut usize) -> Result<(), PortError> {
    let some = *left > 0;
    *left = left.saturating_sub(1);
    let what = "no answer".to_owned();
    (!some).then_some(()).ok_or(PortError::Unavailable { what })
}

#[async_trait]
impl TokenSource for Vault {
    async fn redeem(&self, _: &TaskClaims, redeem: Redeem) -> Result<Redeemed, PortError> {
        if let Some(error) = self.refuses.lock().expect("not poisoned").clone() {
            return Err(error);
        }
        let mut redeemed = self.redeemed.lock().expect("not poisoned");
        redeemed.push(redeem);
        lose(&mut self.lost.lock().expect("not poisoned").0)?;
        let (token, version) = self.token.lock().expect("not poisoned").clone();
        let audiences = self.audiences.lock().expect("not poisoned").clone();
        let tool = self.tool.lock().expect("not poisoned").clone();
        Ok(Redeemed {
            token: token.as_str().into(),
            lease: format!("lease-{}", redeemed.len()).parse().expect("an id"),
            lease_for: Duration::from_secs(30),
            order: (!token.is_empty()).then(|| order(version)),
            fingerprint: "0123456789abcdef".parse().ok(),
            newer_grant: Some("xylem1.newer".to_owned()),
            tool_hash: tool.expect("a tool").hash,
            audiences: audiences
                .iter()
                .map(|a| a.parse().expect("an audience"))
                .collect(),
            tree: tree(),
        })
    }

    async fn release(&self, release: Release) -> Result<Released, PortError> {
        lose(&mut self.lost.lock().expect("not poisoned").1)?;
        self.released.lock().expect("not poisoned").push(release);
        let version = self.token.lock().expect("not poisoned").1;
        let newest = Some(order(version));
        Ok(Released { newest })
    }

    async fn take_in(
        &self,
        _: &TaskClaims,
        _: Slot,
        _: SecretString,
    ) -> Result<TakenIn, PortError> {
        unreachable!("no token is taken in here")
    }

    async fn issuers(&self, _: &TaskClaims, _: Vec<Slot>) -> Result<Issuers, PortError> {
        unreachable!("no issuer is asked for here")
    }

    async fn select(&self, _: &TaskClaims, _: Select) -> Result<(), PortError> {
        unreachable!("nothing is selected here")
    }
}

#[async_trait]
impl ToolDirectory for Vault {
    async fn tool(&self, _: &TaskClaims, _: &ToolName) -> Result<Tool, PortError> {
        *self.asked_for_tools.lock().expect("not poisoned") += 1;
        Ok(self
            .tool
            .lock()
            .expect("not poisoned")
            .clone()
            .expect("a tool"))
    }
}

#[async_trait]
impl AuditSink for Vault {
    async fn rejected(&self, _: &TaskClaims, _: BTreeMap<String, u64>) -> Result<(), PortError> {
        unreachable!("no signal is rejected here")
    }

    async fn tool_refused(
        &self,
        _: &TaskClaims,
        _: &ToolName,
        _: Option<&Slot>,
        reason: &'static str,
    ) -> Result<(), PortError> {
        self.reported.lock().expect("not poisoned").push(reason);
        Ok(())
    }
}

/// A resolver that says what it is told, one answer after the other.
#[derive(Default)]
struct Names(Mutex<Vec<&'static str>>);

#[async_trait]
impl Lookup for Names {
    async fn lookup(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        let mut answers = self.0.lock().expect("not poisoned");
        let answer = if answers.len() > 1 {
            answers.remove(0)
        } else {
            answers.first().copied().ok_or(io::ErrorKind::NotFound)?
        };
        Ok(vec![answer.parse().expect("an address")])
    }
}

struct Stage {
    acme: AcmeApi,
    vault: Arc<Vault>,
    caller: ToolCaller,
}

impl Stage {
    async fn new() -> Self {
        let acme = AcmeApi::start(ANY).await.expect("a free port");
        let development = AddressPolicy {
            development: true,
            private: Vec::new(),
        };
        let outbound = Outbound::new(development).expect("a client");
        let vault = Arc::new(Vault::default());
        *vault.tool.lock().expect("not poisoned") = Some(Tool {
            method: "GET".to_owned(),
            base_url: acme.url(),
            path: "/v1/status".to_owned(),
            response_headers: vec!["x-echo-authorization".to_owned()],
            ..tool()
        });
        *vault.audiences.lock().expect("not poisoned") = vec![acme.url()];
        *vault.token.lock().expect("not poisoned") = (acme.issue("v1"), 1);
        let caller = ToolCaller::new(Ports::all(vault.clone()), outbound);
        Self {
            acme,
            vault,
            caller,
        }
    }

    /// A stage whose tool is at a name, with a resolver and without development.
    async fn named(answers: &[&'static str], policy: AddressPolicy) -> Self {
        let mut stage = Self::new().await;
        let names = Arc::new(Names(Mutex::new(answers.to_vec())));
        let outbound = Outbound::with_lookup(policy, names).expect("a client");
        stage.caller = ToolCaller::new(Ports::all(stage.vault.clone()), outbound);
        let base = "https://api.acme.example";
        stage.vault.change(|tool| tool.base_url = base.to_owned());
        *stage.vault.audiences.lock().expect("not poisoned") = vec![base.to_owned()];
        stage
    }

    fn token(&self) -> String {
        self.vault.token.lock().expect("not poisoned").0.clone()
    }

    fn rotate(&self) {
        let mut token = self.vault.token.lock().expect("not poisoned");
        *token = (self.acme.issue("v2"), token.1 + 1);
    }

    async fn call(&self) -> Result<ToolAnswer, Failure> {
        self.call_with(Attempt::default(), None, json!({})).await
    }

    async fn call_with(
        &self,
        attempt: Attempt,
        api_url: Option<&str>,
        parameters: Value,
    ) -> Result<ToolAnswer, Failure> {
        let call = ToolCall {
            tool: "acme.deploy".parse().expect("a tool name"),
            slot: Some(Slot::default_slot()),
            parameters,
            api_url: api_url.map(str::to_owned),
            grant: "xylem1.presented".to_owned(),
        };
        let never = std::future::pending();
        let called = self.caller.call(&claims(), call, attempt, never).await;
        self.is_clean(&called);
        called
    }

    async fn failure(&self) -> Failure {
        self.call().await.expect_err("a failure")
    }

    /// Nothing that leaves a call has the token in it.
    fn is_clean(&self, called: &Result<ToolAnswer, Failure>) {
        let token = self.token();
        let text = match called {
            Ok(answer) => serde_json::to_string(answer).expect("JSON"),
            Err(failure) => format!("{failure:?} {}", failure.message()),
        };
        let hexadecimal = hex::encode(&token);
        let again: Value = serde_json::from_str(&text).unwrap_or_default();
        for form in [text.clone(), again.to_string(), text.to_lowercase()] {
            assert!(!form.contains(&token), "{form}");
            assert!(!form.contains(&hexadecimal), "{form}");
            assert!(!form.contains(&token.to_lowercase()), "{form}");
        }
    }
}

#[tokio::test]
async fn a_call_uses_the_token_and_answers_with_what_the_node_needs() {
    let stage = Stage::new().await;
    let answer = stage.call().await.expect("an answer");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, json!({ "status": "ok" }));
    assert_eq!(answer.order, Some(order(1)));
    assert_eq!(answer.newer_grant.as_deref(), Some("xylem1.newer"));
    assert_eq!(stage.acme.stats_of("v1").calls, 1);
    assert_eq!(stage.vault.outcomes(), [(Outcome::Succeeded, Some(200))]);
    let redeemed = stage.vault.redeemed.lock().expect("not poisoned");
    assert_eq!(redeemed[0].grant, "xylem1.presented");
}

#[tokio::test]
async fn parameters_reach_the_api() {
    let stage = Stage::new().await;
    stage.vault.change(|tool| {
        tool.method = "POST".to_owned();
        tool.path = "/v1/deploys".to_owned();
    });
    let parameters = json!({ "service": "web", "environment": "staging" });
    let answer = stage.call_with(Attempt::default(), None, parameters).await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 201);
    assert_eq!(answer.body["service"], "web");
}

#[tokio::test]
async fn an_echo_in_any_encoding_shows_no_token() {
    let stage = Stage::new().await;
    for encoding in Encoding::ALL {
        let status = 200;
        let echo = Behaviour::Echo { encoding, status };
        stage.acme.behave(None, echo);
        let answer = stage.call().await.expect("an answer");
        assert!(
            answer.body.to_string().contains("[redacted]"),
            "{encoding:?}"
        );
        assert_eq!(
            answer
                .headers
                .get("x-echo-authorization")
                .map(String::as_str),
            Some("Bearer [redacted]"),
            "{encoding:?}"
        );
    }
}

#[tokio::test]
async fn a_rejection_shows_its_body_without_the_token() {
    let stage = Stage::new().await;
    stage.acme.behave(None, Behaviour::Status { status: 422 });
    let Failure::ApiRejected { answer, .. } = stage.failure().await else {
        panic!("a rejection");
    };
    assert_eq!(answer.status, 422);
    assert_eq!(answer.body, json!({ "error": "told to fail" }));
    assert_eq!(stage.vault.outcomes(), [(Outcome::ApiError, Some(422))]);
}

#[tokio::test]
async fn an_error_that_echoes_the_request_shows_no_token() {
    let stage = Stage::new().await;
    for encoding in Encoding::ALL {
        for status in [422, 500] {
            let echo = Behaviour::Echo { encoding, status };
            stage.acme.behave(None, echo);
            let failure = stage.failure().await;
            let shown = format!("{failure:?} {}", failure.message());
            assert!(!shown.contains(&stage.token()), "{encoding:?} {status}");
            let Failure::ApiRejected { answer, .. } = failure else {
                assert_eq!(status, 500, "nothing of a body is kept: {shown}");
                continue;
            };
            assert_eq!(answer.status, 422);
            assert!(
                answer.body.to_string().contains("[redacted]"),
                "{encoding:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_redirect_is_refused_and_nothing_reaches_its_target() {
    let stage = Stage::new().await;
    let elsewhere = AcmeApi::start(ANY).await.expect("a free port");
    let location = format!("{}/v1/status", elsewhere.url());
    stage.acme.behave(None, Behaviour::Redirect { location });
    let failure = stage.failure().await;
    assert!(matches!(failure, Failure::Redirect { status: 307, .. }));
    assert!(
        !failure
            .message()
            .contains(&elsewhere.address().port().to_string())
    );
    assert_eq!(elsewhere.stats_of("unknown").refusals, 0);
    assert_eq!(stage.vault.outcomes(), [(Outcome::ApiError, Some(307))]);
}

#[tokio::test]
async fn a_401_is_tried_again_until_the_newest_version_was_refused_three_times() {
    let stage = Stage::new().await;
    stage.acme.behave(None, Behaviour::Refuse);
    let mut refusals = None;
    for _ in 0..2 {
        let attempt = Attempt {
            refusals,
            deadline: None,
        };
        let failure = stage.call_with(attempt, None, json!({})).await;
        let Err(Failure::Unauthorized {
            refusals: counted, ..
        }) = failure
        else {
            panic!("worth another try: {failure:?}");
        };
        refusals = Some(counted);
    }
    let attempt = Attempt {
        refusals,
        deadline: None,
    };
    let last = stage.call_with(attempt, None, json!({})).await;
    assert!(
        matches!(last, Err(Failure::TokenRefused { .. })),
        "{last:?}"
    );
    // A rotation in between starts the count anew.
    stage.rotate();
    let rotated = stage.call_with(attempt, None, json!({})).await;
    assert!(
        matches!(rotated, Err(Failure::Unauthorized { .. })),
        "{rotated:?}"
    );
    let refused = [(Outcome::Refused401, Some(401)); 4];
    assert_eq!(stage.vault.outcomes(), refused);
}

#[test]
fn a_401_of_a_version_that_was_superseded_meanwhile_does_not_count() {
    let (tool, before) = ("acme.deploy".parse().expect("a tool"), order(1));
    let used = Used {
        tree: tree(),
        slot: Some(Slot::default_slot()),
        order: before,
    };
    let twice = Refusals::and(Some(Refusals::and(None, before)), before);
    let failure = unauthorized(tool, &used, Some(twice), Some(order(2)));
    let again = matches!(failure, Failure::Unauthorized { superseded, .. } if superseded);
    assert!(again, "{failure:?}");
}

#[tokio::test]
async fn an_answer_that_temporal_would_not_take_is_refused_for_good() {
    let stage = Stage::new().await;
    stage
        .vault
        .change(|tool| tool.max_response_bytes = Some(8 * 1024 * 1024));
    let (bytes, gzip) = (3 * 1024 * 1024, true);
    stage.acme.behave(None, Behaviour::Large { bytes, gzip });
    let failure = stage.failure().await;
    assert!(
        matches!(failure, Failure::TooLarge { limit, .. } if limit == MAX_ANSWER_BYTES),
        "{failure:?}"
    );
    assert_eq!(stage.vault.outcomes(), [(Outcome::Succeeded, Some(200))]);
}

#[tokio::test]
async fn throttling_and_server_errors_are_told_apart() {
    let stage = Stage::new().await;
    let retry_after = Some(7);
    stage.acme.behave(None, Behaviour::Throttle { retry_after });
    let after = Some(Duration::from_secs(7));
    let failure = stage.failure().await;
    assert!(matches!(failure, Failure::Throttled { status: 429, after: a, .. } if a == after));
    stage.acme.behave(None, Behaviour::Status { status: 503 });
    let failure = stage.failure().await;
    assert!(matches!(
        failure,
        Failure::Throttled {
            status: 503,
            after: None,
            ..
        }
    ));
    stage.acme.behave(None, Behaviour::Status { status: 500 });
    let failure = stage.failure().await;
    assert!(matches!(
        failure,
        Failure::ApiUnavailable { status: 500, .. }
    ));
    assert_eq!(stage.vault.outcomes().len(), 3);
}

#[tokio::test]
async fn a_response_has_a_bound_compressed_or_not() {
    let stage = Stage::new().await;
    stage
        .vault
        .change(|tool| tool.max_response_bytes = Some(10_000));
    for gzip in [false, true] {
        let bytes = 5_000_000;
        stage.acme.behave(None, Behaviour::Large { bytes, gzip });
        let failure = stage.failure().await;
        assert!(
            matches!(failure, Failure::TooLarge { limit: 10_000, .. }),
            "{failure:?}"
        );
    }
    assert_eq!(stage.vault.outcomes().len(), 2);
}

#[tokio::test]
async fn a_slow_api_is_given_up_and_its_lease_released() {
    let stage = Stage::new().await;
    // Long enough for the request to be sent on a slow machine.
    let timeout = Some(Duration::from_secs(2));
    stage.vault.change(|tool| tool.timeout = timeout);
    stage.acme.behave(None, Behaviour::Slow { ms: 60_000 });
    let failure = stage.failure().await;
    assert!(matches!(failure, Failure::NoAnswer { .. }), "{failure:?}");
    assert_eq!(stage.vault.outcomes(), [(Outcome::NoAnswer, None)]);
}

#[tokio::test]
async fn cancellation_ends_a_call_and_releases_its_lease() {
    let stage = Stage::new().await;
    stage.acme.behave(None, Behaviour::Slow { ms: 60_000 });
    let call = ToolCall {
        tool: "acme.deploy".parse().expect("a tool name"),
        slot: Some(Slot::default_slot()),
        parameters: json!({}),
        api_url: None,
        grant: "xylem1.presented".to_owned(),
    };
    let cancelled = async {
        while stage.acme.stats_of("v1").calls == 0 {
            tokio::task::yield_now().await;
        }
    };
    let attempt = Attempt::default();
    let ended = stage.caller.call(&claims(), call, attempt, cancelled).await;
    assert_eq!(ended, Err(Failure::Cancelled));
    assert_eq!(stage.vault.outcomes(), [(Outcome::Cancelled, None)]);
}

#[tokio::test]
async fn a_dropped_call_releases_its_lease_too() {
    let stage = Stage::new().await;
    stage.acme.behave(None, Behaviour::Slow { ms: 60_000 });
    tokio::select! {
        _ = stage.call() => panic!("it is slow"),
        () = async {
            while stage.acme.stats_of("v1").calls == 0 {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    let released = async {
        while stage.vault.outcomes().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(60), released).await;
    assert!(in_time.is_ok(), "the lease was not released");
    assert_eq!(stage.vault.outcomes(), [(Outcome::Cancelled, None)]);
}

#[tokio::test]
async fn an_api_that_is_down_is_worth_another_try() {
    let stage = Stage::new().await;
    // Bound and not listening: nobody else is given the port meanwhile.
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(ANY).expect("a port");
    let url = format!("http://{}", socket.local_addr().expect("an address"));
    stage.vault.change(|tool| tool.base_url = url.clone());
    *stage.vault.audiences.lock().expect("not poisoned") = vec![url];
    let failure = stage.failure().await;
    assert!(matches!(failure, Failure::NoAnswer { .. }), "{failure:?}");
    assert_eq!(stage.vault.outcomes(), [(Outcome::NotSent, None)]);
}

#[tokio::test]
async fn what_the_vault_says_is_passed_on() {
    let stage = Stage::new().await;
    let refused = PortError::Refused {
        reason: "not_entitled".to_owned(),
        why: "the node is excluded".to_owned(),
    };
    *stage.vault.refuses.lock().expect("not poisoned") = Some(refused.clone());
    assert_eq!(stage.failure().await, Failure::Port(refused));
    assert_eq!(stage.acme.stats_of("v1").calls, 0);
}

#[tokio::test]
async fn audience_tool_and_api_url_must_agree_before_a_byte_is_sent() {
    let stage = Stage::new().await;
    // The depositor meant another place than the tool's publisher did.
    for audience in [
        "https://api.acme.example",
        "http://127.0.0.1:1",
        "http://localhost",
    ] {
        *stage.vault.audiences.lock().expect("not poisoned") = vec![audience.to_owned()];
        let failure = stage.failure().await;
        assert!(matches!(failure, Failure::Audience { .. }), "{failure:?}");
    }
    let prefix = format!("{}/v2", stage.acme.url());
    *stage.vault.audiences.lock().expect("not poisoned") = vec![prefix];
    assert!(matches!(stage.failure().await, Failure::Audience { .. }));
    assert_eq!(stage.acme.stats_of("v1").calls, 0);
    assert!(
        stage
            .vault
            .outcomes()
            .iter()
            .all(|o| *o == (Outcome::NotSent, None))
    );
    // An apiUrl that the tool does not allow is not even redeemed for.
    let before = stage.vault.redeemed();
    let other = AcmeApi::start(ANY).await.expect("a free port");
    let called = stage
        .call_with(Attempt::default(), Some(&other.url()), json!({}))
        .await;
    assert!(matches!(called, Err(Failure::ApiUrl { .. })), "{called:?}");
    assert_eq!(stage.vault.redeemed(), before);
    assert_eq!(other.stats_of("unknown").refusals, 0);
    assert_eq!(
        *stage.vault.reported.lock().expect("not poisoned"),
        ["xylem.api_url"]
    );
}

#[tokio::test]
async fn an_allowed_api_url_is_used() {
    let stage = Stage::new().await;
    let url = stage.acme.url();
    let allowed = vec![url.parse().expect("an audience")];
    stage.vault.change(|tool| {
        tool.base_url = "https://api.acme.example".to_owned();
        tool.allowed_api_urls = allowed;
    });
    let called = stage
        .call_with(Attempt::default(), Some(&url), json!({}))
        .await;
    assert_eq!(called.expect("an answer").status, 200);
}

#[tokio::test]
async fn hosts_that_must_not_be_reached_are_refused_before_redemption() {
    for answer in [
        "127.0.0.1",
        "10.0.0.8",
        "169.254.169.254",
        "::1",
        "fd00::1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "100.64.0.1",
    ] {
        let stage = Stage::named(&[answer], AddressPolicy::default()).await;
        let failure = stage.failure().await;
        assert!(
            matches!(failure, Failure::Address { .. }),
            "{answer}: {failure:?}"
        );
        assert_eq!(stage.vault.redeemed(), 0, "{answer}");
        assert_eq!(
            *stage.vault.reported.lock().expect("not poisoned"),
            ["xylem.address"]
        );
    }
}

#[tokio::test]
async fn dns_that_changes_its_answer_gains_nothing() {
    // Public when it is checked, loopback when the connection is made.
    let stage = Stage::named(&["93.184.216.34", "127.0.0.1"], AddressPolicy::default()).await;
    let failure = stage.failure().await;
    assert!(matches!(failure, Failure::Address { .. }), "{failure:?}");
    assert_eq!(stage.vault.outcomes(), [(Outcome::NotSent, None)]);
    assert_eq!(stage.acme.stats_of("unknown").refusals, 0);
}

#[tokio::test]
async fn a_server_that_is_not_the_tools_is_sent_nothing() {
    let stage = Stage::new().await;
    let front = TlsFront::start(&stage.acme.url()).await.expect("a front");
    let other = TlsFront::other_pin().expect("a pin");
    *stage.vault.audiences.lock().expect("not poisoned") = vec![front.url.clone()];
    // One definition after the other, none of them known from before.
    let register = |ca: Option<&str>, pins: &[&str]| {
        let pins = pins.iter().map(|pin| pin.parse().expect("a pin")).collect();
        let trust = Trust::new(ca.map(str::to_owned), pins).expect("a trust");
        stage.vault.change(|tool| {
            tool.base_url = front.url.clone();
            tool.connecting.trust = Some(trust);
        });
        let tool: ToolName = "acme.deploy".parse().expect("a tool name");
        stage.caller.definitions.forget(&claims(), &tool);
    };
    for (ca, pins, why) in [
        (Some(&*front.ca_pem), &[&*other][..], Untrusted::Pin),
        (None, &[&*front.pin][..], Untrusted::Issuer),
    ] {
        register(ca, pins);
        let failure = stage.failure().await;
        assert_eq!(failure.kind(), "xylem.untrusted_server");
        assert!(failure.message().contains(&why.to_string()), "{failure:?}");
        // Whoever mends it finds the workflow waiting.
        assert!(matches!(
            failure.into_activity(),
            ActivityError::Application(failure) if !failure.is_non_retryable()
        ));
    }
    assert_eq!(stage.vault.outcomes(), [(Outcome::NotSent, None); 2]);
    assert_eq!(
        *stage.vault.reported.lock().expect("not poisoned"),
        ["xylem.untrusted_server"; 2]
    );
    assert_eq!(stage.acme.stats_of("v1").calls, 0);
    register(Some(&front.ca_pem), &[&front.pin, &other]);
    assert_eq!(stage.call().await.expect("an answer").status, 200);
    assert_eq!(stage.acme.stats_of("v1").calls, 1);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_worth_another_try() {
    let stage = Stage::named(&[], AddressPolicy::default()).await;
    assert!(matches!(stage.failure().await, Failure::NoAnswer { .. }));
    assert_eq!(stage.vault.redeemed(), 0);
}

#[tokio::test]
async fn plain_http_is_for_loopback_in_development_only() {
    let stage = Stage::named(&["93.184.216.34"], AddressPolicy::default()).await;
    stage
        .vault
        .change(|tool| tool.base_url = "http://api.acme.example".to_owned());
    assert!(matches!(stage.failure().await, Failure::Address { .. }));
    assert_eq!(stage.vault.redeemed(), 0);
}

#[tokio::test]
async fn a_definition_that_changed_since_is_asked_for_again() {
    let stage = Stage::new().await;
    stage.call().await.expect("an answer");
    stage.call().await.expect("an answer");
    assert_eq!(
        *stage.vault.asked_for_tools.lock().expect("not poisoned"),
        1
    );
    stage.vault.change(|tool| tool.hash = "h2".to_owned());
    assert!(matches!(stage.failure().await, Failure::ToolChanged { .. }));
    stage.call().await.expect("an answer");
    assert_eq!(
        *stage.vault.asked_for_tools.lock().expect("not poisoned"),
        2
    );
    let not_sent = stage.vault.outcomes()[2];
    assert_eq!(not_sent, (Outcome::NotSent, None));
}

#[tokio::test]
async fn parameters_and_slot_are_checked_before_redemption() {
    let stage = Stage::new().await;
    stage.vault.change(|tool| {
        tool.parameters_schema = Some(json!({ "type": "object", "maxProperties": 0 }));
    });
    let called = stage
        .call_with(Attempt::default(), None, json!({ "x": 1 }))
        .await;
    assert!(
        matches!(called, Err(Failure::Parameters { .. })),
        "{called:?}"
    );
    let slot: Slot = "github".parse().expect("a slot");
    let other = Stage::new().await;
    other.vault.change(|tool| tool.slot = Some(slot));
    assert!(matches!(other.failure().await, Failure::WrongSlot { .. }));
    assert_eq!((stage.vault.redeemed(), other.vault.redeemed()), (0, 0));
}

#[tokio::test]
async fn a_local_activity_redeems_nothing() {
    let stage = Stage::new().await;
    let claims = TaskClaims {
        local: true,
        ..claims()
    };
    let call = ToolCall {
        tool: "acme.deploy".parse().expect("a tool name"),
        slot: Some(Slot::default_slot()),
        parameters: json!({}),
        api_url: None,
        grant: String::new(),
    };
    let never = std::future::pending();
    let called = stage
        .caller
        .call(&claims, call, Attempt::default(), never)
        .await;
    assert_eq!(called, Err(Failure::Local));
}

#[tokio::test]
async fn a_token_that_fits_no_header_is_named_and_not_shown() {
    let stage = Stage::new().await;
    stage.vault.token.lock().expect("not poisoned").0 = "line\nbreak-in-a-token".to_owned();
    let failure = stage.failure().await;
    assert!(matches!(failure, Failure::Unsendable { .. }), "{failure:?}");
}

#[tokio::test]
async fn a_token_is_sent_as_registered_and_taken_out_of_every_echo() {
    let stage = Stage::new().await;
    let user = "deploy".to_owned();
    for auth in [
        Auth::Bearer,
        Auth::Header("X-Api-Key".to_owned()),
        Auth::Query("api_key".to_owned()),
        Auth::Basic {
            username: Some(user),
        },
    ] {
        stage.vault.change(|tool| {
            tool.auth = auth.clone();
            tool.hash = format!("{auth:?}");
        });
        stage.acme.behave_well();
        // The first call meets the definition that was kept.
        let _ = stage.call().await;
        let answer = stage.call().await.expect("an answer");
        assert_eq!(answer.body, json!({ "status": "ok" }), "{auth:?}");
        for encoding in Encoding::ALL {
            let status = 200;
            stage
                .acme
                .behave(None, Behaviour::Echo { encoding, status });
            let answer = stage.call().await.expect("an answer");
            let body = answer.body.to_string();
            assert!(body.contains("[redacted]"), "{auth:?} {encoding:?}: {body}");
        }
    }
}

#[tokio::test]
async fn user_and_password_in_one_are_redacted_each() {
    let stage = Stage::new().await;
    let password = stage.token();
    stage.vault.token.lock().expect("not poisoned").0 = format!("deploy:{password}");
    stage
        .vault
        .change(|tool| tool.auth = Auth::Basic { username: None });
    assert_eq!(stage.call().await.expect("an answer").status, 200);
    for encoding in Encoding::ALL {
        let status = 200;
        stage
            .acme
            .behave(None, Behaviour::Echo { encoding, status });
        let answer = stage.call().await.expect("an answer");
        let text = serde_json::to_string(&answer).expect("JSON");
        assert!(!text.contains(&password), "{encoding:?}");
    }
    stage.vault.token.lock().expect("not poisoned").0 = "no-user-in-this-one".to_owned();
    let failure = stage.failure().await;
    assert!(matches!(failure, Failure::Unsendable { .. }), "{failure:?}");
}

#[tokio::test]
async fn a_token_in_the_query_goes_nowhere_else() {
    let stage = Stage::new().await;
    let elsewhere = AcmeApi::start(ANY).await.expect("a free port");
    stage
        .vault
        .change(|tool| tool.auth = Auth::Query("api_key".to_owned()));
    let taken = stage
        .call_with(Attempt::default(), None, json!({ "API_KEY": "mine" }))
        .await;
    assert!(
        matches!(taken, Err(Failure::Parameters { .. })),
        "{taken:?}"
    );
    assert_eq!(stage.vault.redeemed(), 0);
    // Every failure is searched for the token, see `is_clean`.
    let location = format!("{}/v1/status", elsewhere.url());
    for behaviour in [
        Behaviour::Redirect { location },
        Behaviour::Status { status: 422 },
        Behaviour::Status { status: 500 },
        Behaviour::Refuse,
        Behaviour::Throttle { retry_after: None },
    ] {
        stage.acme.behave(None, behaviour);
        stage.failure().await;
    }
    assert_eq!(elsewhere.stats_of("unknown").refusals, 0);
    let request = request::build(
        &ReadyTool::new(tool()).expect("a good definition"),
        &json!({}),
        None,
    );
    let token = SecretString::from(stage.token());
    let sent = request
        .expect("a good request")
        .with(Carried::Query("api_key".to_owned(), token));
    assert!(sent.url.query().expect("a query").contains(&stage.token()));
    assert!(!format!("{sent:?}").contains(&stage.token()));
}

#[tokio::test]
async fn a_tool_without_authentication_sends_no_token_and_is_decided_all_the_same() {
    let stage = Stage::new().await;
    let call = |slot| ToolCall {
        tool: "acme.deploy".parse().expect("a tool name"),
        slot,
        parameters: json!({}),
        api_url: None,
        grant: String::new(),
    };
    stage
        .vault
        .change(|tool| (tool.auth, tool.slot) = (Auth::None, None));
    let token = std::mem::take(&mut stage.vault.token.lock().expect("not poisoned").0);
    let make = async |slot| {
        let never = std::future::pending();
        let claims = claims();
        let called = stage
            .caller
            .call(&claims, call(slot), Attempt::default(), never);
        called.await
    };
    let other = make(Some(Slot::default_slot())).await;
    assert!(matches!(other, Err(Failure::WrongSlot { .. })), "{other:?}");
    // This API wants one: its 401 is an answer, and no reason to look for a newer token.
    let refused = make(None).await;
    let rejected =
        matches!(&refused, Err(Failure::ApiRejected { answer, .. }) if answer.status == 401);
    assert!(rejected, "{refused:?}");
    assert_eq!(stage.acme.stats_of("unknown").refusals, 1);
    assert_eq!(stage.vault.redeemed(), 1);
    // A tool that needs a token is not called without.
    stage
        .vault
        .change(|tool| (tool.auth, tool.hash) = (Auth::Bearer, "h2".to_owned()));
    let _changed = make(None).await;
    let missing = make(None).await;
    let waits = matches!(missing, Err(Failure::Port(PortError::Unavailable { .. })));
    assert!(waits, "{missing:?}");
    stage.vault.token.lock().expect("not poisoned").0 = token;
    let answer = make(None).await.expect("a stored credential");
    assert_eq!(answer.order, Some(order(1)));
    assert_eq!(stage.acme.stats_of("unknown").refusals, 1);
}

#[tokio::test]
async fn a_single_call_is_not_made_again_where_the_api_may_have_done_it() {
    let stage = Stage::new().await;
    let retry = RetryClass::AtMostOnce;
    stage.vault.change(|tool| {
        tool.retry = retry;
        tool.timeout = Some(Duration::from_millis(300));
    });
    for behaviour in [
        Behaviour::Status { status: 500 },
        Behaviour::Status { status: 503 },
        Behaviour::Status { status: 408 },
        Behaviour::Slow { ms: 60_000 },
    ] {
        stage.acme.behave(None, behaviour);
        let failure = stage.failure().await;
        assert_eq!(failure.kind(), "xylem.outcome_unknown", "{failure:?}");
        assert!(failure.message().contains("find out"), "{failure:?}");
    }
    // What says that nothing was done is as with other tools.
    for (behaviour, kind) in [
        (Behaviour::Refuse, "xylem.api_unauthorized"),
        (
            Behaviour::Throttle { retry_after: None },
            "xylem.api_throttled",
        ),
        (Behaviour::Status { status: 422 }, "xylem.api_rejected"),
    ] {
        stage.acme.behave(None, behaviour);
        assert_eq!(stage.failure().await.kind(), kind);
    }
    let absent = Stage::new().await;
    let nowhere = "http://127.0.0.1:9";
    absent.vault.change(|tool| {
        tool.retry = retry;
        tool.base_url = nowhere.to_owned();
    });
    *absent.vault.audiences.lock().expect("not poisoned") = vec![nowhere.to_owned()];
    assert_eq!(absent.failure().await.kind(), "xylem.no_answer");
    // An earlier attempt, of which only the vault knows.
    *stage.vault.refuses.lock().expect("not poisoned") = Some(PortError::Refused {
        reason: "called_before".to_owned(),
        why: "it was".to_owned(),
    });
    assert_eq!(stage.failure().await.kind(), "xylem.outcome_unknown");
}

#[tokio::test]
async fn what_is_called_at_most_once_is_asked_for_until_the_vault_is_heard() {
    let stage = Stage::new().await;
    let lose = |redemptions, releases| {
        *stage.vault.lost.lock().expect("not poisoned") = (redemptions, releases);
    };
    // Other tools get another token at the next attempt.
    lose(1, 1);
    assert_eq!(stage.failure().await.kind(), "xylem.unavailable");
    stage.acme.behave_times(None, Behaviour::Refuse, 1);
    assert_eq!(stage.failure().await.kind(), "xylem.api_unauthorized");
    assert!(stage.vault.outcomes().is_empty());

    let hash = "h2".to_owned();
    let retry = RetryClass::AtMostOnce;
    stage
        .vault
        .change(|tool| (tool.retry, tool.hash) = (retry, hash));
    assert_eq!(stage.failure().await.kind(), "xylem.tool_changed");
    let before = stage.vault.redeemed();
    lose(2, 0);
    stage.call().await.expect("an answer");
    stage.call().await.expect("another one");
    let requests: Vec<String> = {
        let redeemed = stage.vault.redeemed.lock().expect("not poisoned");
        let since = redeemed.iter().skip(before);
        since.map(|redeem| redeem.request.clone()).collect()
    };
    assert_eq!(requests[..2], [requests[0].clone(), requests[0].clone()]);
    assert_eq!(requests[2], requests[0]);
    assert_ne!(requests[3], requests[0]);
    // That nothing was done has to be heard, what was done need not.
    for (behaviour, releases, heard) in [
        (Behaviour::Refuse, 2, Some((Outcome::Refused401, Some(401)))),
        (Behaviour::Status { status: 422 }, 1, None),
    ] {
        let before = stage.vault.outcomes().len();
        lose(0, releases);
        stage.acme.behave(None, behaviour);
        stage.failure().await;
        let outcomes = stage.vault.outcomes();
        assert_eq!(outcomes.get(before), heard.as_ref());
    }
}

#[tokio::test]
async fn nobody_waits_for_the_vault_when_a_call_was_cancelled_or_has_no_time() {
    let stage = Stage::new().await;
    stage
        .vault
        .change(|tool| tool.retry = RetryClass::AtMostOnce);
    *stage.vault.lost.lock().expect("not poisoned") = (usize::MAX, 0);
    let late = Attempt {
        deadline: Some(SystemTime::now()),
        ..Attempt::default()
    };
    let called = stage.call_with(late, None, json!({})).await;
    assert_eq!(called.expect_err("too late").kind(), "xylem.unavailable");
    let call = ToolCall {
        tool: "acme.deploy".parse().expect("a tool name"),
        slot: Some(Slot::default_slot()),
        parameters: json!({}),
        api_url: None,
        grant: "xylem1.presented".to_owned(),
    };
    let cancelled = std::future::ready(());
    let claims = claims();
    let called = stage
        .caller
        .call(&claims, call, Attempt::default(), cancelled);
    assert_eq!(called.await.expect_err("cancelled"), Failure::Cancelled);
}

#[tokio::test]
async fn attempts_of_one_call_have_one_key_and_other_calls_another() {
    let stage = Stage::new().await;
    let (encoding, status) = (Encoding::Plain, 200);
    stage
        .acme
        .behave(None, Behaviour::Echo { encoding, status });
    let sent = async |run: &str, activity: &str, attempt: u32| {
        let call = ToolCall {
            tool: "acme.deploy".parse().expect("a tool name"),
            slot: Some(Slot::default_slot()),
            parameters: json!({}),
            api_url: None,
            grant: "xylem1.presented".to_owned(),
        };
        let claims = TaskClaims {
            run_id: run.to_owned(),
            activity_id: activity.to_owned(),
            attempt,
            ..claims()
        };
        let never = std::future::pending();
        let called = stage.caller.call(&claims, call, Attempt::default(), never);
        let body = called.await.expect("an answer").body;
        let key = body["headers"]["idempotency-key"].as_str();
        key.map(str::to_owned)
    };
    assert_eq!(sent("run", "7", 1).await, None);
    let retry = RetryClass::IdempotencyKey;
    let hash = "h2".to_owned();
    stage
        .vault
        .change(|tool| (tool.retry, tool.hash) = (retry, hash));
    // The definition is known for some seconds: a call learns of the new one.
    assert_eq!(stage.failure().await.kind(), "xylem.tool_changed");
    let first = sent("run", "7", 1).await.expect("a key");
    assert_eq!(first.len(), 36);
    stage.rotate();
    assert_eq!(sent("run", "7", 2).await.as_ref(), Some(&first));
    assert_ne!(sent("run", "8", 1).await.as_ref(), Some(&first));
    assert_ne!(sent("other", "7", 1).await.as_ref(), Some(&first));
}

#[tokio::test]
async fn an_answer_against_its_schema_fails_for_good_without_being_shown() {
    let stage = Stage::new().await;
    let schema = json!({ "type": "object", "required": ["status"] });
    stage
        .vault
        .change(|tool| tool.response_schema = Some(schema));
    assert_eq!(stage.call().await.expect("an answer").status, 200);
    stage.vault.change(|tool| {
        let schema = json!({ "properties": { "status": { "type": "integer" } } });
        tool.response_schema = Some(schema);
        tool.hash = "h2".to_owned();
    });
    assert!(matches!(stage.failure().await, Failure::ToolChanged { .. }));
    let failure = stage.failure().await;
    assert_eq!(failure.kind(), "xylem.response_schema");
    let message = failure.message();
    assert!(
        message.contains("'/status'") && !message.contains("ok"),
        "{message}"
    );
    // The token was good, and the API did what it was asked.
    let outcomes = stage.vault.outcomes();
    assert_eq!(outcomes.last(), Some(&(Outcome::Succeeded, Some(200))));
    // What the API rejects is told as it is.
    stage.acme.behave(None, Behaviour::Status { status: 422 });
    assert!(matches!(stage.failure().await, Failure::ApiRejected { .. }));
}

#[test]
fn a_call_ends_before_its_lease_and_its_activity() {
    let ready = ReadyTool::new(tool()).expect("a good definition");
    let minute = Duration::from_secs(60);
    assert_eq!(time_for(&ready, minute, None), Duration::from_secs(30));
    assert_eq!(
        time_for(&ready, Duration::from_secs(9), None),
        Duration::from_secs(9)
    );
    let now = SystemTime::now();
    let left = time_for(&ready, minute, Some(now + Duration::from_secs(8)));
    // What passed meanwhile is all that may be missing.
    let whole = left + now.elapsed().unwrap_or_default();
    let five = Duration::from_secs(5);
    assert!(left <= five && whole >= five, "{left:?} of {whole:?}");
    let past = Some(SystemTime::UNIX_EPOCH);
    assert_eq!(time_for(&ready, minute, past), Duration::ZERO);
}

#[test]
fn to_connect_takes_less_than_the_whole() {
    let time = |asked: f64, whole: f64, quarters| {
        let (asked, whole) = (
            Duration::from_secs_f64(asked),
            Duration::from_secs_f64(whole),
        );
        connect_time(asked, whole, quarters).as_millis()
    };
    assert_eq!(time(5.0, 30.0, 3), 5_000);
    assert_eq!(time(5.0, 5.001, 2), 5_000);
    // The three ways to the other end of the world and back that a connection takes fit into a second.
    for (whole, two, three) in [
        (5.0, 2_304, 3_584),
        (3.0, 1_408, 2_048),
        (2.0, 960, 1_408),
        (1.0, 480, 704),
        (0.3, 144, 224),
        (0.003, 1, 2),
        (0.0, 1, 1),
    ] {
        assert_eq!(time(5.0, whole, 2), two, "{whole}");
        assert_eq!(time(5.0, whole, 3), three, "{whole}");
    }
    // Those whose deadlines are near share their connections.
    assert_eq!(time(5.0, 4.711, 2), time(30.0, 4.712, 2));
}

#[test]
fn a_call_that_is_made_at_most_once_leaves_more_time_than_it_connects_in() {
    let connects = |retry| {
        let mut tool = tool();
        (tool.retry, tool.timeout) = (retry, Some(Duration::from_secs(2)));
        let ready = ReadyTool::new(tool).expect("a good definition");
        connecting(&ready, None).timeout.as_millis()
    };
    assert_eq!(connects(RetryClass::AtMostOnce), 960);
    assert_eq!(connects(RetryClass::Idempotent), 1_408);
    assert_eq!(connects(RetryClass::IdempotencyKey), 1_408);
}

#[tokio::test]
async fn a_host_that_does_not_answer_was_not_reached_however_little_time_there_is() {
    // It listens, and never shows who it is.
    let silent = tokio::net::TcpListener::bind(ANY).await;
    let address = silent.as_ref().expect("a port").local_addr();
    let base = format!("https://{}", address.expect("an address"));
    let stage = Stage::new().await;
    stage.vault.change(|tool| {
        tool.retry = RetryClass::AtMostOnce;
        tool.base_url.clone_from(&base);
        tool.timeout = Some(Duration::from_secs(3));
    });
    *stage.vault.audiences.lock().expect("not poisoned") = vec![base];
    assert_eq!(stage.failure().await.kind(), "xylem.no_answer");
    assert_eq!(stage.vault.outcomes(), [(Outcome::NotSent, None)]);
}

#[tokio::test]
async fn a_call_without_time_is_not_sent() {
    let stage = Stage::new().await;
    stage
        .vault
        .change(|tool| tool.retry = RetryClass::AtMostOnce);
    let attempt = Attempt {
        deadline: Some(SystemTime::now()),
        ..Attempt::default()
    };
    let called = stage.call_with(attempt, None, json!({})).await;
    assert_eq!(called.expect_err("too late").kind(), "xylem.no_answer");
    assert_eq!(stage.vault.outcomes(), [(Outcome::NotSent, None)]);
    assert_eq!(stage.acme.stats_of("v1").calls, 0);
}
