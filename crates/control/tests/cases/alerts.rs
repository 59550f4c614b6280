//! Alerts: raised from what happened, listed, counted and sent.

use crate::common::{self, Stack, id, start};
use axum::{Router, extract::State, http::HeaderMap, routing::post};
use futures::StreamExt;
use secrecy::{ExposeSecret, SecretString};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};
use xylem_client::{Client, Error, v1};
use xylem_control::{Webhook, WebhookSecret};
use xylem_ids::Role;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Who receives alerts.
#[derive(Clone, Default)]
struct Receiver {
    seen: Arc<Mutex<Vec<(HeaderMap, String)>>>,
    status: Arc<AtomicU16>,
}

impl Receiver {
    async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let router = Router::new().route("/hook", post(receive));
        let router = router.with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    fn answers(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    fn seen(&self) -> Vec<(HeaderMap, String)> {
        self.seen.lock().unwrap().clone()
    }
}

async fn receive(
    State(receiver): State<Receiver>,
    headers: HeaderMap,
    body: String,
) -> axum::http::StatusCode {
    receiver.seen.lock().unwrap().push((headers, body));
    let status = receiver.status.load(Ordering::SeqCst);
    axum::http::StatusCode::from_u16(status).unwrap()
}

async fn stack() -> (Stack, Client, Receiver) {
    let receiver = Receiver::default();
    receiver.answers(204);
    let url = receiver.start().await;
    let stack = Stack::with(|settings| {
        settings.addresses.development = true;
        settings.alerts.webhook = Some(Webhook {
            url: url.parse().unwrap(),
            secrets: vec![WebhookSecret::parse(SECRET).unwrap()],
        });
    })
    .await;
    let admin = stack.admin().await;
    (stack, admin, receiver)
}

async fn listed(client: &Client) -> Vec<v1::Alert> {
    let page = client.list_alerts(v1::ListAlertsRequest::default()).await;
    page.expect("listed").alerts
}

/// An agent asks ten times for what it may not have.
async fn ten_denials(stack: &Stack) {
    let user = stack.key_for(Role::User, "curious").await;
    let user = Client::connect(&stack.address, &user).await.expect("in");
    for _ in 0..10 {
        let denied = user.list_agents(v1::ListAgentsRequest::default()).await;
        assert!(matches!(denied, Err(Error::Denied(_))), "{denied:?}");
    }
    // Refused calls are counted per minute, and written when it is over.
    stack.clock.advance(Duration::from_secs(61));
}

#[tokio::test]
async fn denials_are_said_listed_counted_and_sent_once() {
    let (stack, admin, receiver) = stack().await;
    ten_denials(&stack).await;
    assert_eq!(stack.control.watch().await.expect("watched"), 1);
    let alerts = listed(&admin).await;
    let [alert] = alerts.as_slice() else {
        panic!("{alerts:?}")
    };
    assert_eq!(
        (alert.rule.as_str(), alert.subject.as_str()),
        ("denials", "agent:curious")
    );
    assert_eq!(alert.numbers["denials"], 10);
    assert_eq!(alert.delivery(), v1::AlertDelivery::Delivered);
    assert_eq!(stack.control.watch().await.expect("watched"), 0);
    let seen = receiver.seen();
    let [(headers, body)] = seen.as_slice() else {
        panic!("{seen:?}")
    };
    assert_eq!(headers["webhook-id"], format!("alert_{}", alert.id));
    assert!(
        headers["webhook-signature"]
            .to_str()
            .unwrap()
            .starts_with("v1,")
    );
    assert!(body.contains(r#""type":"xylem.alert.denials""#), "{body}");
    assert!(!body.contains("127.0.0.1"), "{body}");
    let metrics = reqwest::Client::new()
        .get(format!("{}/metrics", stack.address))
        .bearer_auth(stack.admin_key());
    let metrics = metrics.send().await.expect("an answer").text().await;
    let metrics = metrics.expect("a body");
    assert!(
        metrics.contains("xylem_alerts_total{rule=\"denials\"} 1"),
        "{metrics}"
    );
    for role in [
        Role::User,
        Role::Worker,
        Role::ToolPublisher,
        Role::PolicyAdmin,
    ] {
        let other = stack.client(role).await;
        let refused = other.list_alerts(v1::ListAlertsRequest::default()).await;
        assert!(matches!(refused, Err(Error::Denied(_))), "{role:?}");
    }
}

#[tokio::test]
async fn an_alert_is_sent_again_until_it_is_received() {
    let (stack, admin, receiver) = stack().await;
    receiver.answers(307);
    ten_denials(&stack).await;
    stack.control.watch().await.expect("watched");
    assert_eq!(
        listed(&admin).await[0].delivery(),
        v1::AlertDelivery::Pending
    );
    // Not before the pause is over.
    stack.control.watch().await.expect("watched");
    assert_eq!(receiver.seen().len(), 1);
    receiver.answers(200);
    stack.clock.advance(Duration::from_secs(11));
    stack.control.watch().await.expect("watched");
    let alert = listed(&admin).await.remove(0);
    assert_eq!(
        (alert.delivery(), alert.attempts),
        (v1::AlertDelivery::Delivered, 2)
    );
    let seen = receiver.seen();
    assert_eq!(seen[0].0["webhook-id"], seen[1].0["webhook-id"]);
    assert_eq!(seen[0].1, seen[1].1);
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_not_asked_again_and_that_is_in_the_log() {
    let (stack, admin, receiver) = stack().await;
    receiver.answers(410);
    ten_denials(&stack).await;
    stack.control.watch().await.expect("watched");
    assert_eq!(
        listed(&admin).await[0].delivery(),
        v1::AlertDelivery::GivenUp
    );
    stack.clock.advance(Duration::from_secs(3_600));
    stack.control.watch().await.expect("watched");
    assert_eq!(receiver.seen().len(), 1);
    let filter = v1::AuditFilter {
        action: "alert_undelivered".to_owned(),
        ..v1::AuditFilter::default()
    };
    let request = v1::ListAuditRequest {
        filter: Some(filter),
        ..v1::ListAuditRequest::default()
    };
    let page = admin.list_audit(request).await.expect("listed");
    assert_eq!(page.entries.len(), 1);
}

#[tokio::test]
async fn a_receiver_at_a_private_address_gets_nothing() {
    let stack = Stack::with(|settings| {
        settings.alerts.webhook = Some(Webhook {
            url: "https://169.254.169.254/hook".parse().unwrap(),
            secrets: vec![WebhookSecret::parse(SECRET).unwrap()],
        });
    })
    .await;
    ten_denials(&stack).await;
    stack.control.watch().await.expect("watched");
    let alert = listed(&stack.admin().await).await.remove(0);
    assert_eq!(
        (alert.delivery(), alert.attempts),
        (v1::AlertDelivery::Pending, 1)
    );
}

#[tokio::test]
async fn an_overdue_credential_is_said_once_a_day() {
    let (stack, admin, _receiver) = stack().await;
    let new = v1::CreateCredentialRequest {
        name: "acme".to_owned(),
        audiences: vec![common::API.to_owned()],
        rotate_every: Some(xylem_client::Duration {
            seconds: 86_400,
            nanos: 0,
        }),
        ..v1::CreateCredentialRequest::default()
    };
    let secret = SecretString::from(common::TOKEN_1);
    admin.create_credential(new, &secret).await.expect("made");
    // Between two looks nobody watches for a day here, which is said too.
    let overdue = async || {
        stack.control.watch().await.expect("watched");
        let alerts = listed(&admin).await.into_iter();
        let overdue = alerts.filter(|alert| alert.rule == "credential_overdue");
        overdue.collect::<Vec<_>>()
    };
    assert!(overdue().await.is_empty());
    stack.clock.advance(Duration::from_secs(86_400 + 600));
    assert_eq!(overdue().await.len(), 1);
    let alerts = overdue().await;
    let [alert] = alerts.as_slice() else {
        panic!("{alerts:?}")
    };
    assert_eq!(alert.subject, "credential:acme");
    assert_eq!(alert.numbers["overdue_s"], 600);
    stack.clock.advance(Duration::from_secs(86_400));
    assert_eq!(overdue().await.len(), 2);
}

#[tokio::test]
async fn what_trees_do_is_watched_too() {
    let (stack, admin, _receiver) = stack().await;
    stack.worker().await;
    stack.tool().await;
    admin.start_tree(start("train")).await.expect("a tree");
    assert_eq!(stack.control.watch().await.expect("watched"), 0);
    let worker = stack.worker().await;
    let rejected = v1::NewAuditEntry {
        action: "signal.rejected".to_owned(),
        reason: "raw_token".to_owned(),
        slot: "default".to_owned(),
        count: 3,
        ..v1::NewAuditEntry::default()
    };
    stack.temporal.activity("train", "1", 1);
    let claims = stack.claims("train", "1");
    worker
        .append_audit(claims, vec![rejected])
        .await
        .expect("said");
    assert_eq!(stack.control.watch().await.expect("watched"), 1);
    let alert = listed(&admin).await.remove(0);
    assert_eq!(alert.rule, "exposed_token");
    assert_eq!(alert.numbers["count"], 3);
    assert_eq!(alert.tree.expect("a tree").workflow_id, "train");
}

#[tokio::test]
async fn a_watch_that_is_paused_is_shown_and_said_once() {
    let (stack, admin, _) = stack().await;
    let watching = async || {
        let status = admin.status().await.expect("told");
        let check = status.checks.into_iter().find(|it| it.name == "watch");
        check.expect("a check")
    };
    stack.control.watch().await.expect("watched");
    assert!(watching().await.ok);
    late(&admin).await;
    stack.clock.advance(Duration::from_secs(25 * 60 * 60));
    let paused = watching().await;
    assert!(
        !paused.ok && paused.detail.contains("1day 1h"),
        "{paused:?}"
    );
    let away = |alerts: &[v1::Alert]| {
        let away = alerts.iter().filter(|alert| alert.rule == "watch_away");
        away.map(|alert| alert.numbers["away_s"] / 3_600)
            .collect::<Vec<_>>()
    };
    stack.control.watch().await.expect("watched");
    assert_eq!(away(&listed(&admin).await), [25]);
    assert!(watching().await.ok);
    stack.control.watch().await.expect("watched");
    assert_eq!(away(&listed(&admin).await).len(), 1);
}

/// Whoever meets it, and however often: one entry that says which row, and one alert.
#[tokio::test]
async fn a_row_that_was_edited_is_said_by_its_name() {
    let (stack, admin, _) = stack().await;
    let key = stack.key_for(Role::User, "edited").await;
    stack.tool().await;
    stack.tamper(r#"UPDATE agents SET roles = '["admin"]' WHERE id = 'edited'"#);
    stack.tamper("UPDATE tool_records SET owner = 'edited' WHERE name = 'acme.deploy'");
    let http = reqwest::Client::new();
    for _ in 0..3 {
        let asked = http.get(format!("{}/v1/status", stack.address));
        let answer = asked.bearer_auth(key.expose_secret()).send().await;
        assert_eq!(answer.expect("an answer").status(), 503);
    }
    let form = format!(
        "grant_type=client_credentials&client_id=edited&client_secret={}",
        key.expose_secret()
    );
    let asked = http
        .post(format!("{}/token", stack.address))
        .header("content-type", "application/x-www-form-urlencoded");
    let answer = asked.body(form).send().await.expect("an answer");
    assert_eq!(answer.status(), 503);
    let met = admin.get_tool(&id("acme.deploy"), None).await;
    assert!(met.is_err(), "{met:?}");
    stack.clock.advance(Duration::from_secs(61));
    stack.control.watch().await.expect("watched");
    let alerts = listed(&admin).await.into_iter();
    let tampered = alerts.filter(|alert| alert.rule == "tampered");
    let mut said: Vec<_> = tampered
        .map(|alert| (alert.subject, alert.numbers["count"]))
        .collect();
    said.sort();
    assert_eq!(
        said,
        [
            ("agent:edited".to_owned(), 4),
            ("tool:acme.deploy".to_owned(), 1)
        ]
    );
}

/// They are shown, so that somebody can do something about them.
#[tokio::test]
async fn an_edited_row_of_a_list_is_said_by_its_name_and_its_key_is_revoked() {
    let (stack, admin, _) = stack().await;
    for name in ["bent", "edited"] {
        stack.key_for(Role::User, name).await;
    }
    stack.tamper(r#"UPDATE agents SET roles = '["admin"]' WHERE id = 'bent'"#);
    stack.tamper("UPDATE api_keys SET revoked_at = 1 WHERE agent = 'edited'");
    let agents = admin.list_agents(v1::ListAgentsRequest::default()).await;
    let mut agents = agents.expect("listed").agents.into_iter();
    assert!(agents.any(|agent| agent.name == "bent"));
    let keys = || admin.list_api_keys(v1::ListApiKeysRequest::default());
    let mut listed_keys = keys().await.expect("listed").keys.into_iter();
    let key = listed_keys
        .find(|key| key.agent == "edited")
        .expect("a key");
    let revoked = admin.revoke_api_key(&key.id).await.expect("revoked");
    assert!(revoked.revoked_at.expect("when").seconds > 1);
    // Nothing is wrong with it any more.
    keys().await.expect("listed");
    stack.clock.advance(Duration::from_secs(61));
    stack.control.watch().await.expect("watched");
    let alerts = listed(&admin).await.into_iter();
    let tampered = alerts.filter(|alert| alert.rule == "tampered");
    let mut said: Vec<_> = tampered
        .map(|alert| (alert.subject, alert.numbers["count"]))
        .collect();
    said.sort();
    let of_key = format!("key:{}", key.id);
    assert_eq!(said, [("agent:bent".to_owned(), 1), (of_key, 2)]);
}

/// What the audit log has of an action of the agent `curious`.
async fn of_curious(admin: &Client, action: &str) -> Vec<v1::AuditEntry> {
    let filter = v1::AuditFilter {
        action: action.to_owned(),
        agent: "curious".to_owned(),
        ..v1::AuditFilter::default()
    };
    let request = v1::ListAuditRequest {
        filter: Some(filter),
        ..v1::ListAuditRequest::default()
    };
    admin.list_audit(request).await.expect("listed").entries
}

#[tokio::test]
async fn what_a_known_agent_was_refused_is_said_by_call() {
    let (stack, admin, _) = stack().await;
    ten_denials(&stack).await;
    stack.control.watch().await.expect("watched");
    let entries = of_curious(&admin, "permission_denied").await;
    let [entry] = entries.as_slice() else {
        panic!("{entries:?}")
    };
    assert_eq!(
        (entry.subject.as_str(), entry.count),
        ("call:ListAgents", 10)
    );
}

/// Whatever it is answered: somebody who goes through the trees of others is seen.
#[tokio::test]
async fn who_asks_for_what_is_anothers_is_told_nothing_and_said() {
    let (stack, admin, _) = stack().await;
    stack.tree("train").await;
    let curious = stack.key_for(Role::User, "curious").await;
    let curious = Client::connect(&stack.address, &curious).await.expect("in");
    let wanted = v1::GetTreeRequest {
        tree: "train".to_owned(),
        ..v1::GetTreeRequest::default()
    };
    for _ in 0..8 {
        let hidden = curious.get_tree(wanted.clone()).await;
        assert!(matches!(hidden, Err(Error::NotFound(_))), "{hidden:?}");
    }
    // One that is not there at all is nobody's.
    let absent = v1::GetTreeRequest {
        tree: "absent".to_owned(),
        ..v1::GetTreeRequest::default()
    };
    let absent = curious.get_tree(absent).await;
    assert!(matches!(absent, Err(Error::NotFound(_))), "{absent:?}");
    let hidden = curious.get_agent(&id("admin")).await;
    assert!(matches!(hidden, Err(Error::NotFound(_))), "{hidden:?}");
    let hidden = curious
        .reveal_token(&id("train"), &id("default"), "curious")
        .await;
    assert!(matches!(hidden, Err(Error::NotFound(_))), "{hidden:?}");
    stack.clock.advance(Duration::from_secs(61));
    stack.control.watch().await.expect("watched");
    let entries = of_curious(&admin, "permission_denied").await;
    let mut counted: Vec<_> = entries
        .iter()
        .map(|entry| (entry.subject.as_str(), entry.reason.as_str(), entry.count))
        .collect();
    counted.sort_unstable();
    assert_eq!(
        counted,
        [
            ("call:GetAgent", "other_owner", 1),
            ("call:GetTree", "other_owner", 8),
            ("call:RevealToken", "other_owner", 1),
        ]
    );
    let shown = of_curious(&admin, "token_revealed").await;
    let [shown] = shown.as_slice() else {
        panic!("{shown:?}")
    };
    assert_eq!(
        (shown.outcome.as_str(), shown.reason.as_str()),
        ("denied", "other_owner")
    );
    assert_eq!(
        (shown.owner.as_str(), shown.slot.as_str()),
        ("admin", "default")
    );
    let alerts = listed(&admin).await;
    let mut rules: Vec<_> = alerts
        .iter()
        .filter(|alert| alert.subject == "agent:curious")
        .map(|alert| alert.rule.as_str())
        .collect();
    rules.sort_unstable();
    assert_eq!(rules, ["break_glass", "denials"]);
}

/// An entry of the audit log that somebody edits before anybody looked at it.
const EDIT: &str = "UPDATE audit SET agent = 'nobody' \
                    WHERE seq = (SELECT MAX(seq) FROM audit WHERE kind = 'agent_created')";

async fn late(admin: &Client) {
    let late = v1::CreateAgentRequest {
        name: "late".to_owned(),
        roles: vec![v1::Role::User.into()],
        ..v1::CreateAgentRequest::default()
    };
    admin.create_agent(late).await.expect("made");
}

async fn rules(admin: &Client) -> Vec<(String, String)> {
    let alerts = listed(admin).await.into_iter();
    let mut rules: Vec<_> = alerts.map(|alert| (alert.rule, alert.subject)).collect();
    rules.sort();
    rules
}

fn raised(rules: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(rule, subject): &(&str, &str)| ((*rule).to_owned(), (*subject).to_owned());
    rules.iter().map(owned).collect()
}

#[tokio::test]
async fn an_edited_entry_is_said_once_and_what_follows_it_is_watched() {
    let (stack, admin, receiver) = stack().await;
    stack.control.watch().await.expect("watched");
    late(&admin).await;
    stack.tamper(EDIT);
    ten_denials(&stack).await;
    assert_eq!(stack.control.watch().await.expect("watched"), 2);
    let expected = raised(&[("denials", "agent:curious"), ("tampered", "row:audit log")]);
    assert_eq!(rules(&admin).await, expected);
    assert_eq!(receiver.seen().len(), 2);
    stack.clock.advance(Duration::from_secs(61));
    assert_eq!(stack.control.watch().await.expect("watched"), 0);
    let filter = v1::AuditFilter {
        action: "tampered".to_owned(),
        ..v1::AuditFilter::default()
    };
    let request = v1::ListAuditRequest {
        filter: Some(filter),
        ..v1::ListAuditRequest::default()
    };
    let said = admin.list_audit(request).await.expect("listed").entries;
    let [said] = said.as_slice() else {
        panic!("{said:?}")
    };
    assert_eq!(
        (said.subject.as_str(), said.reason.as_str()),
        ("row:audit log", "column_changed")
    );
    assert!(
        !said.first.is_empty() && said.first == said.last,
        "{said:?}"
    );
}

/// Stepping over it would be stepping over all that is ever written.
#[tokio::test]
async fn an_entry_far_behind_the_end_does_not_take_the_watch_with_it() {
    let (stack, admin, _) = stack().await;
    late(&admin).await;
    let columns = "body, hash, mac, at_ms, kind, verdict, namespace, agent, tree_workflow_id, \
                   tree_first_run_id, workflow_id, tool, slot, owner, subject";
    stack.tamper(&format!(
        "INSERT INTO audit (seq, {columns}) SELECT 1000000, {columns} FROM audit \
         WHERE seq = (SELECT MAX(seq) FROM audit WHERE kind = 'agent_created')"
    ));
    stack.control.watch().await.expect("watched");
    ten_denials(&stack).await;
    stack.control.watch().await.expect("watched");
    let expected = raised(&[("denials", "agent:curious"), ("tampered", "row:audit log")]);
    assert_eq!(rules(&admin).await, expected);
}

#[tokio::test]
async fn what_a_verification_finds_is_said() {
    let (stack, admin, _) = stack().await;
    stack.control.watch().await.expect("watched");
    stack.tamper("DELETE FROM audit WHERE seq = 2");
    let checked = admin.verify_audit().await.expect("a verification");
    let last = checked
        .collect::<Vec<_>>()
        .await
        .pop()
        .expect("a last word");
    let found = last.expect("no error").result.expect("a result");
    assert!(!found.intact, "{found:?}");
    stack.clock.advance(Duration::from_secs(61));
    stack.control.watch().await.expect("watched");
    assert_eq!(
        rules(&admin).await,
        raised(&[("tampered", "row:audit log")])
    );
}

#[tokio::test]
async fn a_credential_that_was_edited_keeps_no_alert_from_its_receiver() {
    let (stack, admin, receiver) = stack().await;
    let new = v1::CreateCredentialRequest {
        name: "acme".to_owned(),
        audiences: vec![common::API.to_owned()],
        ..v1::CreateCredentialRequest::default()
    };
    let secret = SecretString::from(common::TOKEN_1);
    admin.create_credential(new, &secret).await.expect("made");
    stack.tamper("UPDATE credentials SET owner = 'nobody' WHERE name = 'acme'");
    ten_denials(&stack).await;
    stack.control.watch().await.expect_err("not all of it");
    assert_eq!(rules(&admin).await, raised(&[("denials", "agent:curious")]));
    assert_eq!(receiver.seen().len(), 1);
}

/// Whatever the call: one that has an entry of its own is not counted as well, and one that did not get
/// so far is.
#[tokio::test]
async fn a_row_that_a_token_was_asked_for_by_is_said_once() {
    let (stack, admin, _) = stack().await;
    stack.tree("train").await;
    let reveal = async || {
        let (tree, slot) = (id("train"), id("default"));
        let met = admin.reveal_token(&tree, &slot, "incident 4711").await;
        assert!(met.is_err(), "{met:?}");
        stack.clock.advance(Duration::from_secs(61));
        stack.control.watch().await.expect("watched");
        let said = rules(&admin).await.into_iter();
        said.filter(|(rule, _)| rule == "tampered")
            .map(|(_, subject)| subject)
            .collect::<Vec<_>>()
    };
    stack.tamper("UPDATE tool_records SET owner = 'nobody' WHERE name = 'acme.deploy'");
    assert_eq!(reveal().await, ["agent:admin"]);
    stack.tamper("UPDATE trees SET owner = 'nobody' WHERE workflow_id = 'train'");
    let said = reveal().await;
    assert!(
        matches!(said.as_slice(), [_, row] if row.starts_with("row:tree ")),
        "{said:?}"
    );
}

#[tokio::test]
async fn a_redemption_that_does_not_get_as_far_as_the_decision_says_why() {
    let (stack, admin, _) = stack().await;
    let worker = stack.worker().await;
    stack.tree("train").await;
    stack.temporal.activity("train", "7", 1);
    stack.tamper("UPDATE keys SET purpose = 'retired_issuer' WHERE purpose = 'issuer'");
    let redeem = xylem_client::Redeem {
        claims: stack.claims("train", "7"),
        grant: stack.temporal.signals("train").remove(0),
        tool: id("acme.deploy"),
        slot: Some(id("default")),
        api_url: None,
        parameters_json: None,
        request_id: String::new(),
    };
    let met = worker.redeem(redeem).await;
    assert!(met.is_err(), "{met:?}");
    stack.clock.advance(Duration::from_secs(61));
    // Whether the stored credentials can be looked at without that key or not: the log can.
    drop(stack.control.watch().await);
    let said = rules(&admin).await;
    let of_key = |(rule, row): &(String, String)| rule == "tampered" && row.starts_with("row:key");
    assert!(said.iter().any(of_key), "{said:?}");
}
