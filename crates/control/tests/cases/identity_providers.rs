//! Tokens of identity providers, over HTTP.

use crate::common::{self, ISSUER, Stack, id, last};
use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::StreamExt;
use reqwest::StatusCode;
use secrecy::SecretString;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};
use xylem_client::{Client, Error, NewKey, v1};
use xylem_identity::{Provider, ProviderSettings, Unmapped};
use xylem_ids::{AgentKind, Role};
use xylem_testkit::IdentityProvider;
use xylem_vault::Clock;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

fn settings(name: &str, provider: &IdentityProvider) -> ProviderSettings {
    ProviderSettings {
        name: name.to_owned(),
        issuer: provider.issuer().to_owned(),
        audience: "xylem".to_owned(),
        algorithms: vec!["ES256".to_owned(), "ES384".to_owned()],
        token_type: "at+jwt".to_owned(),
        kind: AgentKind::User,
        roles_claim: Some("groups".to_owned()),
        roles: BTreeMap::from([
            ("deployers".to_owned(), [Role::User].into()),
            ("auditors".to_owned(), [Role::Auditor].into()),
            ("owners".to_owned(), [Role::Admin].into()),
        ]),
        unmapped: Unmapped::Refuse,
        second_factor: ["mfa".to_owned()].into(),
    }
}

/// A control plane that trusts a provider called `corp`.
struct House {
    stack: Stack,
    corp: IdentityProvider,
}

impl House {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut ProviderSettings)) -> Self {
        let corp = IdentityProvider::start().await;
        let mut given = settings("corp", &corp);
        change(&mut given);
        let stack = trusting(vec![given]).await;
        Self { stack, corp }
    }

    /// What the provider says of somebody in these groups.
    fn claims(&self, subject: &str, groups: &[&str]) -> Value {
        claims(&self.stack, &self.corp, subject, groups)
    }

    fn token(&self, subject: &str, groups: &[&str]) -> String {
        self.corp.token(&self.claims(subject, groups))
    }

    async fn status(&self, token: &str) -> Result<v1::SystemStatus, Error> {
        client(&self.stack, token).await.status().await
    }

    async fn agent(&self, token: &str) -> String {
        self.status(token).await.expect("let in").agent
    }

    async fn refused(&self, token: &str) {
        let error = self.status(token).await.expect_err("refused");
        assert!(matches!(error, Error::Unauthenticated(_)), "{error}");
        // The same words whatever is wrong.
        assert_eq!(error.reason(), Some("key_not_valid"));
    }

    /// What the audit log alone is told. A minute is over then.
    async fn reason(&self, token: &str) -> String {
        self.refused(token).await;
        let entries = self.entries("authentication_failed").await;
        entries.last().expect("an entry").reason.clone()
    }

    /// Entries of this kind, those that were counted included. A minute is over then.
    async fn entries(&self, kind: &str) -> Vec<v1::AuditEntry> {
        self.stack.clock.advance(MINUTE);
        self.stack.control.watch().await.expect("written");
        let request = v1::ListAuditRequest {
            filter: Some(v1::AuditFilter {
                action: kind.to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let page = self.stack.admin().await.list_audit(request).await;
        page.expect("a page").entries
    }

    async fn agents(&self) -> Vec<v1::Agent> {
        let admin = self.stack.admin().await;
        let listed = admin.list_agents(Default::default()).await;
        let agents = listed.expect("a list").agents;
        let federated = |agent: &v1::Agent| !agent.issuer.is_empty();
        agents.into_iter().filter(federated).collect()
    }

    /// What the doctor is told about the provider.
    async fn check(&self) -> v1::Check {
        let status = self.stack.admin().await.status().await.expect("a status");
        let named = |check: &v1::Check| check.name == "identity_provider corp";
        status.checks.into_iter().find(named).expect("a check")
    }
}

fn field(error: &Error) -> Option<&str> {
    error.answer()?.field.as_deref()
}

async fn trusting(given: Vec<ProviderSettings>) -> Stack {
    let providers = given.into_iter().map(Provider::new);
    let providers: Result<_, _> = providers.collect();
    Stack::with(|settings| {
        settings.identity_providers = providers.expect("sound");
        settings.addresses.development = true;
    })
    .await
}

fn claims(stack: &Stack, provider: &IdentityProvider, subject: &str, groups: &[&str]) -> Value {
    let now = stack.clock.now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("after 1970").as_secs();
    json!({
        "iss": provider.issuer(), "aud": ["account", "xylem"], "sub": subject,
        "iat": now, "exp": now + 300, "groups": groups,
        "email": "admin@corp.example", "name": "Admin", "roles": ["admin"],
    })
}

async fn client(stack: &Stack, token: &str) -> Client {
    let client = Client::connect(&stack.address, &SecretString::from(token)).await;
    client.expect("a connection")
}

#[tokio::test]
async fn a_mapped_subject_gets_its_roles_and_a_name_that_says_nothing() {
    let house = House::new().await;
    let token = house.token("u-17", &["staff", "deployers"]);
    let url = format!("{}/v1/status", house.stack.address);
    let asked = reqwest::Client::new().get(url).bearer_auth(&token).send();
    let answer = asked.await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::OK);
    let text = answer.text().await.expect("a body");
    let status: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(status["roles"], json!(["user"]));
    let name = status["agent"].as_str().expect("a name").to_owned();
    assert!(
        name.starts_with("corp-") && !name.contains("u-17"),
        "{name}"
    );

    assert_eq!(
        house.agent(&house.token("u-17", &["deployers"])).await,
        name
    );
    let agents = house.agents().await;
    let [agent] = agents.as_slice() else {
        panic!("one agent: {agents:?}")
    };
    assert_eq!(
        (
            agent.name.as_str(),
            agent.issuer.as_str(),
            agent.subject.as_str()
        ),
        (name.as_str(), house.corp.issuer(), "u-17")
    );
    assert_eq!(agent.kind(), v1::AgentKind::User);
    let registered = house.entries("registered").await;
    let [entry] = registered.as_slice() else {
        panic!("one entry: {registered:?}")
    };
    assert_eq!(
        (&entry.agent, &entry.subject),
        (&name, &format!("agent:{name}"))
    );
    assert_eq!(entry.reason, "identity_provider");
    assert!(!entry.address.is_empty());
    let calls = house.entries("authenticated").await;
    let calls = calls.iter().filter(|entry| entry.agent == name);
    assert!(calls.clone().all(|entry| entry.subject == "provider:corp"));
    assert_eq!(calls.map(|entry| entry.count).sum::<u32>(), 2);
}

#[tokio::test]
async fn trees_act_for_whoever_came_from_a_provider() {
    let house = House::new().await;
    house.stack.worker().await;
    house.stack.tool().await;
    let token = house.token("u-17", &["deployers"]);
    let user = client(&house.stack, &token).await;
    let tree = user.start_tree(common::start("train")).await;
    assert_eq!(tree.expect("started").started_by, house.agent(&token).await);
    let other = client(&house.stack, &house.token("u-18", &["deployers"])).await;
    let trees = other.list_trees(Default::default()).await.expect("a list");
    assert!(trees.trees.is_empty());
}

#[tokio::test]
async fn what_is_wrong_with_a_token_is_for_the_log_alone() {
    let house = House::new().await;
    let corp = &house.corp;
    let header = |name: &str, value: Value| {
        let mut header = corp.header();
        header[name] = value;
        corp.signed(&header, &house.claims("u-17", &["deployers"]))
    };
    let claim = |name: &str, value: Value| {
        let mut claims = house.claims("u-17", &["deployers"]);
        claims[name] = value;
        corp.token(&claims)
    };
    let time = |name: &str, by: i64| {
        let iat = house.claims("u-17", &[])["iat"].as_i64().expect("a time");
        claim(name, json!(iat + by))
    };
    // The first is good, so that all that is wrong with the others is what they are here for.
    assert!(
        house
            .status(&house.token("u-17", &["deployers"]))
            .await
            .is_ok()
    );
    let others = IdentityProvider::start().await;
    let day = 24 * 60 * 60;
    type Case<'a> = (&'a str, &'a dyn Fn() -> String);
    let cases: [Case<'_>; 26] = [
        ("token_malformed", &|| header("alg", json!("none"))),
        ("token_malformed", &|| header("alg", json!("ES512"))),
        ("token_algorithm", &|| header("alg", json!("HS256"))),
        ("token_algorithm", &|| header("alg", json!("RS256"))),
        ("token_algorithm", &|| header("alg", json!("EdDSA"))),
        ("token_unknown_key", &|| header("alg", json!("ES384"))),
        ("token_type", &|| header("typ", json!("JWT"))),
        ("token_type", &|| header("typ", Value::Null)),
        ("token_malformed", &|| header("crit", json!(["exp"]))),
        ("token_unknown_key", &|| header("kid", json!("key-0"))),
        ("token_signature", &|| {
            // With the key that it brings along it would be good.
            let mut header = corp.header();
            header["jwk"] = others.public_key();
            header["jku"] = json!(format!("{}/keys", others.issuer()));
            header["x5u"] = header["jku"].clone();
            others.signed(&header, &house.claims("u-17", &["deployers"]))
        }),
        // Who says to be this control plane goes by its own rules.
        ("token_malformed", &|| claim("iss", json!(ISSUER))),
        ("token_malformed", &|| {
            let slash = format!("{}/", corp.issuer());
            claim("iss", json!(slash))
        }),
        ("token_audience", &|| claim("aud", json!("account"))),
        ("token_audience", &|| claim("aud", json!(["xylem "]))),
        ("token_claims", &|| claim("aud", Value::Null)),
        ("token_claims", &|| claim("sub", Value::Null)),
        ("token_claims", &|| claim("sub", json!("a\nb"))),
        ("token_claims", &|| claim("iat", Value::Null)),
        ("token_claims", &|| claim("exp", json!("9999999999"))),
        ("token_expired", &|| time("exp", -30)),
        ("token_expired", &|| time("exp", day + 31)),
        ("token_expired", &|| time("nbf", 31)),
        ("token_expired", &|| time("iat", 31)),
        ("subject_unmapped", &|| claim("groups", json!(["staff"]))),
        ("token_signature", &|| {
            let token = house.token("u-17", &["deployers"]);
            let (text, _) = token.rsplit_once('.').expect("three parts");
            format!("{text}.")
        }),
    ];
    for (number, (reason, token)) in cases.into_iter().enumerate() {
        assert_eq!(house.reason(&token()).await, reason, "case {number}");
    }
    assert!(
        house
            .status(&house.token("u-17", &["deployers"]))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_public_key_is_no_secret_to_sign_with() {
    let house = House::new().await;
    let mut header = house.corp.header();
    header["alg"] = json!("HS256");
    let token = house
        .corp
        .signed(&header, &house.claims("u-17", &["owners"]));
    let (text, _) = token.rsplit_once('.').expect("three parts");
    let public = house.corp.public_key();
    let part = |name: &str| {
        let text = public[name].as_str().expect("text");
        URL_SAFE_NO_PAD.decode(text).expect("base64url")
    };
    let point = [vec![4], part("x"), part("y")].concat();
    for secret in [point, public.to_string().into_bytes()] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let tag = URL_SAFE_NO_PAD.encode(hmac::sign(&key, text.as_bytes()));
        house.refused(&format!("{text}.{tag}")).await;
    }
    assert!(house.agents().await.is_empty());
}

#[tokio::test]
async fn nobody_is_an_administrator_because_a_claim_says_so() {
    let house = House::new().await;
    for groups in [&["admin"][..], &["Owners"], &["owners "], &[]] {
        house.refused(&house.token("u-17", groups)).await;
    }
    assert!(house.agents().await.is_empty());
    let owner = house.status(&house.token("u-18", &["owners"])).await;
    assert_eq!(owner.expect("mapped").roles, ["admin"]);
    // Where others may come in, it is as users.
    let open = House::with(|given| given.unmapped = Unmapped::User).await;
    let user = open.status(&open.token("u-17", &["admin"])).await;
    assert_eq!(user.expect("a user").roles, ["user"]);
}

#[tokio::test]
async fn the_same_subject_of_another_issuer_is_somebody_else() {
    let (corp, ci) = (
        IdentityProvider::start().await,
        IdentityProvider::start().await,
    );
    let stack = trusting(vec![settings("corp", &corp), settings("ci", &ci)]).await;
    let agent = async |provider: &IdentityProvider, subject: &str| {
        let token = provider.token(&claims(&stack, provider, subject, &["deployers"]));
        let status = client(&stack, &token).await.status().await;
        status.expect("let in").agent
    };
    let one = agent(&corp, "u-17").await;
    let other = agent(&ci, "u-17").await;
    assert!(one.starts_with("corp-") && other.starts_with("ci-"));
    // The same address at the same provider is somebody else too.
    assert_ne!(one, agent(&corp, "u-18").await);
    // What one provider signs is worth nothing for another.
    let mixed = ci.token(&claims(&stack, &corp, "u-17", &["owners"]));
    assert!(client(&stack, &mixed).await.status().await.is_err());
}

#[tokio::test]
async fn a_rotated_key_is_found_and_an_unknown_one_does_not_make_a_flood() {
    let house = House::new().await;
    let before = house.token("u-17", &["deployers"]);
    assert!(house.status(&before).await.is_ok());
    assert_eq!(house.corp.asked(), 1);
    house.stack.clock.advance(MINUTE);
    house.corp.rotate();
    assert!(
        house
            .status(&house.token("u-17", &["deployers"]))
            .await
            .is_ok()
    );
    assert_eq!(house.corp.asked(), 2);
    // Its key is gone.
    house.refused(&before).await;

    let unknown = |number: usize| {
        let mut header = house.corp.header();
        header["kid"] = json!(format!("other-{number}"));
        house
            .corp
            .signed(&header, &house.claims("u-17", &["deployers"]))
    };
    for number in 0..5 {
        house.refused(&unknown(number)).await;
    }
    assert_eq!(house.corp.asked(), 2);
    house.stack.clock.advance(Duration::from_secs(30));
    for number in 0..5 {
        house.refused(&unknown(number)).await;
    }
    assert_eq!(house.corp.asked(), 3);
}

#[tokio::test]
async fn many_who_come_at_once_ask_once() {
    let house = House::new().await;
    let token = house.token("u-17", &["deployers"]);
    let client = client(&house.stack, &token).await;
    let calls = (0..8).map(|_| client.status());
    let agents: std::collections::BTreeSet<_> = futures::future::join_all(calls)
        .await
        .into_iter()
        .map(|status| status.expect("let in").agent)
        .collect();
    assert_eq!((agents.len(), house.corp.asked()), (1, 1));
    assert_eq!(house.agents().await.len(), 1);
}

#[tokio::test]
async fn a_provider_that_is_down_is_relied_on_for_a_day_and_not_longer() {
    let house = House::new().await;
    assert!(
        house
            .status(&house.token("u-17", &["deployers"]))
            .await
            .is_ok()
    );
    assert!(house.check().await.ok);
    house.corp.is_down(true);
    house.stack.clock.advance(23 * HOUR);
    assert!(
        house
            .status(&house.token("u-17", &["deployers"]))
            .await
            .is_ok()
    );
    let check = house.check().await;
    assert!(!check.ok && check.detail.contains("200"), "{check:?}");
    // Whether a key that is not known is a new one cannot be said now.
    let mut header = house.corp.header();
    header["kid"] = json!("key-2");
    let newer = house
        .corp
        .signed(&header, &house.claims("u-17", &["deployers"]));
    let error = house.status(&newer).await.expect_err("not known");
    assert!(matches!(error, Error::Unavailable(_)), "{error}");

    house.stack.clock.advance(HOUR);
    let error = house.status(&house.token("u-17", &["deployers"])).await;
    let error = error.expect_err("not checked");
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    let entries = house.entries("authentication_failed").await;
    let last = entries.last().expect("an entry");
    assert_eq!(last.reason, "provider_unavailable");
    house.corp.is_down(false);
    assert!(
        house
            .status(&house.token("u-17", &["deployers"]))
            .await
            .is_ok()
    );
    let check = house.check().await;
    assert_eq!(
        (check.ok, check.detail.as_str()),
        (true, "1 key, fetched 0s ago")
    );
}

#[tokio::test]
async fn keys_come_from_the_issuer_itself() {
    let house = House::new().await;
    let others = IdentityProvider::start().await;
    for number in 0..3 {
        match number {
            0 => house.corp.redirects_to(&format!(
                "{}/.well-known/openid-configuration",
                others.issuer()
            )),
            1 => house.corp.calls_itself(others.issuer()),
            _ => house
                .corp
                .calls_itself(&format!("{}/", house.corp.issuer())),
        }
        let token = house.token("u-17", &["deployers"]);
        let error = house.status(&token).await.expect_err("no keys");
        assert!(matches!(error, Error::Unavailable(_)), "{error}");
        assert!(!house.check().await.ok);
        house.stack.clock.advance(MINUTE);
    }
    assert_eq!(others.asked(), 0);
    // Loopback is for development, private networks for those that an administrator names.
    let given = Provider::new(settings("corp", &house.corp)).expect("sound");
    let strict = Stack::with(|settings| settings.identity_providers = vec![given]).await;
    let asked = house.corp.asked();
    let token = house
        .corp
        .token(&claims(&strict, &house.corp, "u-17", &["deployers"]));
    let error = client(&strict, &token).await.status().await;
    assert!(matches!(error, Err(Error::Unavailable(_))));
    assert_eq!(house.corp.asked(), asked);
}

#[tokio::test]
async fn a_retired_agent_is_out_at_the_next_call_and_stays_out() {
    let house = House::new().await;
    let token = house.token("u-17", &["deployers"]);
    let name = house.agent(&token).await;
    house
        .stack
        .admin()
        .await
        .retire_agent(&id(&name))
        .await
        .expect("retired");
    assert_eq!(house.reason(&token).await, "agent_retired");
    let newer = house.token("u-17", &["deployers", "owners"]);
    assert_eq!(house.reason(&newer).await, "agent_retired");
    assert_eq!(house.agents().await.len(), 1);
}

#[tokio::test]
async fn what_goes_on_for_long_ends_with_the_token() {
    let house = House::new().await;
    let token = house.token("u-17", &["auditors"]);
    let auditor = client(&house.stack, &token).await;
    let tail = auditor.tail_audit(Default::default()).await;
    let mut tail = Box::pin(tail.expect("a stream"));
    house.stack.clock.advance(4 * MINUTE);
    // Something to be shown: by then it was looked whether the stream may go on.
    house.stack.key_for(Role::User, "one").await;
    let admin = house.stack.admin().await;
    admin.retire_agent(&id("one")).await.expect("retired");
    let shown = tokio::time::timeout(MINUTE, tail.next()).await;
    assert!(matches!(shown, Ok(Some(Ok(_)))), "{shown:?}");
    house.stack.clock.advance(2 * MINUTE);
    let ended = last(tail).await;
    assert!(matches!(ended, Error::Unauthenticated(_)), "{ended:?}");
}

#[tokio::test]
async fn roles_are_those_of_the_newest_token() {
    let house = House::new().await;
    let roles = async |token: &str| house.status(token).await.map(|status| status.roles);
    let first = house.token("u-17", &["owners"]);
    assert_eq!(roles(&first).await.expect("let in"), ["admin"]);
    house.stack.clock.advance(Duration::from_secs(10));
    let second = house.token("u-17", &["deployers", "auditors"]);
    assert_eq!(roles(&second).await.expect("let in"), ["user", "auditor"]);
    // The first one is still valid, but what it says was taken back.
    assert_eq!(roles(&first).await.expect("let in"), ["user", "auditor"]);
    house.stack.clock.advance(Duration::from_secs(10));
    house.refused(&house.token("u-17", &["staff"])).await;
    house.refused(&second).await;
    let changes = house.entries("agent_updated").await;
    assert_eq!(changes.len(), 2);
    assert!(
        changes
            .iter()
            .all(|entry| entry.reason == "identity_provider")
    );
}

#[tokio::test]
async fn what_a_provider_says_is_not_outlived_or_outdone() {
    let house = House::new().await;
    let token = house.token("u-17", &["owners"]);
    let name = house.agent(&token).await;
    let admin = house.stack.admin().await;
    let key = NewKey::new(id(&name), Vec::new());
    let error = admin.create_api_key(key).await.expect_err("no keys");
    assert_eq!(field(&error), Some("agent"));
    let more = v1::UpdateAgentRequest {
        name: name.clone(),
        add_roles: vec![v1::Role::PolicyAdmin.into()],
        ..Default::default()
    };
    let error = admin.update_agent(more).await.expect_err("not here");
    assert_eq!(field(&error), Some("roles"));
    let error = admin
        .invite_agent(&id(&name))
        .await
        .expect_err("no password");
    assert_eq!(field(&error), Some("name"));
    // Those whom the provider makes administrators make keys for others.
    let owner = client(&house.stack, &token).await;
    let service = v1::CreateAgentRequest {
        name: "builds".to_owned(),
        roles: vec![v1::Role::User.into()],
        ..Default::default()
    };
    owner.create_agent(service).await.expect("an agent");
    let key = NewKey::new(id("builds"), Vec::new());
    owner.create_api_key(key).await.expect("a key");
    // And are not the ones that have to stay.
    let error = owner
        .retire_agent(&id("admin"))
        .await
        .expect_err("the last one");
    assert_eq!(error.reason(), Some("last_administrator"));
    owner.retire_agent(&id(&name)).await.expect("retired");
}

#[tokio::test]
async fn who_lacks_a_second_factor_is_told_to_show_one_where_it_is_enrolled() {
    let corp = IdentityProvider::start().await;
    let given = Provider::new(settings("corp", &corp)).expect("sound");
    let stack = Stack::strict([Role::User].into(), |settings| {
        settings.identity_providers = vec![given];
        settings.addresses.development = true;
    });
    let stack = stack.await;
    let token = corp.token(&claims(&stack, &corp, "u-17", &["deployers"]));
    let one = client(&stack, &token).await;
    let listed = one.list_tools(Default::default()).await;
    let refused = listed.expect_err("no second factor");
    assert_eq!(refused.reason(), Some("second_factor_required"));
    let said = refused.to_string();
    assert!(
        said.contains("at your identity provider") && !said.contains("enrol"),
        "{said}"
    );
}

#[tokio::test]
async fn a_second_factor_counts_where_the_provider_is_trusted_with_it() {
    let house = House::new().await;
    let with = |ways: Value| {
        let mut claims = house.claims("u-17", &["deployers"]);
        claims["amr"] = ways;
        claims["auth_time"] = claims["iat"].clone();
        house.corp.token(&claims)
    };
    for (ways, expected) in [
        (json!(["pwd"]), false),
        (json!(["pwd", "mfa"]), true),
        (json!(["otp"]), false),
        (Value::Null, false),
    ] {
        let status = house.status(&with(ways)).await.expect("let in");
        assert_eq!(status.second_factor, expected);
        assert!(status.signed_in_at.is_some());
    }
}
