//! Tokens: set, rotated, told about, rolled back, revoked.

use crate::common::{self, Stack, TOKEN_2, deposit, eventually, id, temporal::Mood, tree};
use axum::body::Body;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::ExposeSecret;
use tower::ServiceExt;
use xylem_audit::{Entry, Kind, Verdict};
use xylem_client::{Client, Deposit, Error, Redeem, v1};
use xylem_identity::NewAgent;
use xylem_ids::{AgentKind, Role};
use xylem_proto::v1::Rpc;
use xylem_vault::Clock;

fn rotation(token: &str) -> Deposit {
    let mut rotation = deposit(token);
    rotation.audiences.clear();
    rotation
}

fn seconds(seconds: i64) -> Option<xylem_client::Duration> {
    Some(xylem_client::Duration { seconds, nanos: 0 })
}

fn revocation(version: u32) -> v1::RevokeTokenRequest {
    v1::RevokeTokenRequest {
        tree: "train".to_owned(),
        slot: "default".to_owned(),
        version,
        wait: seconds(0),
        ..v1::RevokeTokenRequest::default()
    }
}

async fn states(admin: &Client) -> Vec<v1::VersionState> {
    let versions = admin
        .token_status(&tree("train"), Some(&id("default")))
        .await;
    versions
        .expect("a status")
        .iter()
        .map(v1::TokenVersion::state)
        .collect()
}

/// A tree of a root and a leaf, rotated once.
async fn rotated(stack: &Stack) -> Client {
    stack.worker().await;
    stack.tree("train").await;
    stack.temporal.start_child("train", "leaf", "Leaf");
    let admin = stack.admin().await;
    let changed = admin
        .rotate_token(&tree("train"), &id("default"), rotation(TOKEN_2))
        .await;
    let changed = changed.expect("rotated");
    let version = changed.version.expect("a version");
    assert_eq!(version.order.expect("an order").version, 2);
    assert_eq!(version.audiences, [common::API]);
    assert_eq!(
        changed.superseded.expect("a version").state(),
        v1::VersionState::Superseded
    );
    admin
}

#[tokio::test]
async fn a_rotation_supersedes_and_signals_the_newest() {
    let stack = Stack::start().await;
    let admin = rotated(&stack).await;
    use v1::VersionState::{Active, Superseded};
    assert_eq!(states(&admin).await, [Active, Superseded]);
    assert_eq!(stack.temporal.signals("train").len(), 2);
    let text = format!("{:?}", admin.token_status(&tree("train"), None).await);
    assert!(!text.contains("canary"), "{text}");
}

#[tokio::test]
async fn a_slot_without_a_token_cannot_be_rotated_and_can_be_set() {
    let stack = Stack::start().await;
    stack.tree("train").await;
    let admin = stack.admin().await;
    let error = admin
        .rotate_token(&tree("train"), &id("github"), rotation(TOKEN_2))
        .await;
    let error = error.expect_err("nothing there");
    assert_eq!(error.reason(), Some("no_token"));
    let text = error.to_string();
    assert!(text.contains("slot github of tree train"), "{text}");
    let set = admin
        .set_token(&tree("train"), &id("github"), deposit(TOKEN_2))
        .await;
    assert!(set.expect("set").superseded.is_none());
    let error = admin
        .set_token(&tree("train"), &id("github"), rotation(TOKEN_2))
        .await;
    let error = error.expect_err("no audience");
    assert_eq!(
        error.answer().and_then(|a| a.field.as_deref()),
        Some("audiences")
    );
}

#[tokio::test]
async fn a_burst_of_rotations_is_a_few_signals_and_ends_on_the_last() {
    let stack = Stack::start().await;
    stack.worker().await;
    stack.tree("train").await;
    let admin = stack.admin().await;
    let began = std::time::Instant::now();
    let (mut before, mut pauses) = (began, 0);
    for number in 0..30 {
        let called = std::time::Instant::now();
        let token = format!("canary-token-number-{number:04}");
        let rotated = admin
            .rotate_token(&tree("train"), &id("default"), rotation(&token))
            .await;
        rotated.expect("rotated");
        // On a slow machine the burst may have pauses: its deposits are no further apart than this.
        if before.elapsed().as_millis() >= 250 {
            pauses += 1;
        }
        before = called;
    }
    let view = eventually("converged on the last", async || {
        let request = v1::GetTreeRequest {
            tree: "train".to_owned(),
            ..v1::GetTreeRequest::default()
        };
        let view = admin.get_tree(request).await.expect("a view");
        if view.converged {
            Ok(view)
        } else {
            Err(format!("{view:?}"))
        }
    });
    let view = view.await;
    let order = view.nodes[0].slots[0].order.expect("an order");
    assert_eq!(order.version, 31);
    let signals = stack.temporal.signals("train").len();
    // One at the start, one at the first rotation and one at the end of the burst; one in 2 s while
    // it lasts, and two at a pause of 250 ms: for what came before it and for what comes after.
    let took = began.elapsed();
    let most = 3 + took.as_millis() / 2_000 + 2 * pauses;
    assert!(
        signals as u128 <= most,
        "{signals} signals for 31 versions in {took:?} with {pauses} pauses"
    );
}

#[tokio::test]
async fn the_same_rotation_is_made_once() {
    let stack = Stack::start().await;
    stack.tree("train").await;
    let admin = stack.admin().await;
    for _ in 0..2 {
        let mut again = rotation(TOKEN_2);
        again.request_id = "r-1".to_owned();
        let changed = admin
            .rotate_token(&tree("train"), &id("default"), again)
            .await;
        let version = changed.expect("rotated").version.expect("a version");
        assert_eq!(version.order.expect("an order").version, 2);
    }
}

#[tokio::test]
async fn a_rollback_deposits_the_earlier_token_again() {
    let stack = Stack::start().await;
    let admin = rotated(&stack).await;
    let rolled = admin
        .rollback_token(&tree("train"), &id("default"), None)
        .await;
    let version = rolled.expect("rolled back").version.expect("a version");
    assert_eq!(version.order.expect("an order").version, 3);
    let versions = admin
        .token_status(&tree("train"), None)
        .await
        .expect("a status");
    assert_eq!(versions[0].fingerprint, versions[2].fingerprint);
}

#[tokio::test]
async fn a_reissue_makes_no_version() {
    let stack = Stack::start().await;
    let admin = rotated(&stack).await;
    let long = std::time::Duration::from_secs(90 * 24 * 60 * 60);
    let issued = admin
        .reissue_token(&tree("train"), &id("default"), Some(long))
        .await;
    let order = issued
        .expect("issued")
        .version
        .and_then(|v| v.order)
        .expect("an order");
    assert_eq!((order.version, order.serial), (2, 2));
    assert_eq!(states(&admin).await.len(), 2);
}

#[tokio::test]
async fn a_new_issuer_key_is_signalled_to_every_tree() {
    let stack = Stack::start().await;
    let admin = rotated(&stack).await;
    let before = stack.temporal.signals("train").len();
    let user = stack.client(Role::User).await.rotate_issuer_key().await;
    assert_eq!(user.expect_err("no role").reason(), Some("role"));
    let made = admin.rotate_issuer_key().await.expect("rotated");
    assert_eq!(made.trees, 1);
    let (stack, made) = (&stack, &made);
    eventually("the new grant is signalled", || async {
        let signals = stack.temporal.signals("train");
        let mut keys = Vec::new();
        for text in signals.iter().skip(before) {
            let grant = stack.vault.verify(text).await.expect("a grant");
            keys.push(grant.key_id().to_string());
        }
        let told = keys.contains(&made.key_id);
        told.then_some(()).ok_or_else(|| format!("{keys:?}"))
    })
    .await;
}

/// An administrator of another control plane over the same database, which a call is made of.
async fn rotate_beside(stack: &Stack) -> serde_json::Value {
    let other: xylem_ids::Namespace = id("other");
    let entry = |kind| Entry::new(stack.clock.now(), kind, Verdict::Succeeded);
    let new = NewAgent {
        id: id("boss"),
        kind: AgentKind::Service,
        roles: [Role::Admin].into(),
    };
    let created = entry(Kind::AgentCreated);
    let created = stack.identity.create_agent(&other, new, created).await;
    created.expect("an agent");
    let key = common::new_key("boss", false);
    let key = stack
        .identity
        .create_key(&other, key, entry(Kind::KeyCreated));
    let key = key.await.expect("a key").secret;
    let (method, path) = Rpc::RotateIssuerKey.http();
    let bearer = format!("Bearer {}", key.expose_secret());
    let request = http::Request::builder().method(method).uri(path);
    let request = request
        .header("authorization", bearer)
        .header("content-type", "application/json");
    let request = request.body(Body::from("{}")).expect("a request");
    let answer = stack.beside("other").router().oneshot(request).await;
    let body = answer.expect("an answer").into_body();
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
    serde_json::from_slice(&body).expect("JSON")
}

#[tokio::test]
async fn a_new_issuer_key_is_signalled_to_trees_of_its_namespace_alone() {
    let stack = Stack::start().await;
    let admin = rotated(&stack).await;
    let beside = rotate_beside(&stack).await;
    let foreign = beside["keyId"].as_str().expect("an id").to_owned();
    assert_eq!(beside["trees"].as_u64().unwrap_or(0), 0, "{beside}");
    let made = admin.rotate_issuer_key().await.expect("rotated");
    assert_eq!(made.trees, 1);
    let (stack, made) = (&stack, &made);
    let keys = eventually("the new grant is signalled", || async {
        let mut keys = Vec::new();
        for text in stack.temporal.signals("train") {
            keys.push(key_of(&text));
        }
        let told = keys.contains(&made.key_id);
        told.then_some(keys.clone())
            .ok_or_else(|| format!("{keys:?}"))
    })
    .await;
    assert!(!keys.contains(&foreign), "{keys:?}");
}

/// The key that signed a grant, which may be trusted no more.
fn key_of(grant: &str) -> String {
    let header = grant.split('.').nth(1).expect("a header");
    let header = URL_SAFE_NO_PAD.decode(header).expect("base64url");
    let header: serde_json::Value = serde_json::from_slice(&header).expect("JSON");
    header["kid"].as_str().expect("a key").to_owned()
}

#[tokio::test]
async fn a_rotation_is_signalled_after_one_whose_caller_went_away() {
    let stack = Stack::start().await;
    stack.worker().await;
    stack.tree("train").await;
    let admin = stack.admin().await;
    stack.temporal.hold_signals(true);
    let (train, slot) = (tree("train"), id("default"));
    let left = admin.rotate_token(&train, &slot, rotation("canary-token-three-1d3e"));
    let stack = &stack;
    let held = eventually("a signal waits", || async {
        let held = stack.temporal.held_signals() > 0;
        held.then_some(()).ok_or_else(|| "none".to_owned())
    });
    tokio::select! {
        answer = left => panic!("it waits for Temporal: {answer:?}"),
        () = held => {}
    }
    let auditor = stack.key(Role::Auditor).await;
    eventually("the call is given up", || async {
        let url = format!("{}/metrics", stack.address);
        let asked = reqwest::Client::new().get(url);
        let asked = asked.bearer_auth(auditor.expose_secret()).send().await;
        let text = asked.expect("an answer").text().await.expect("text");
        let gone = text.contains("xylem_calls_in_flight 0");
        gone.then_some(()).ok_or(text)
    })
    .await;
    stack.temporal.hold_signals(false);
    let next = rotation("canary-token-four-8c21");
    let changed = admin.rotate_token(&train, &slot, next).await;
    let order = changed.expect("rotated").version.expect("a version").order;
    let newest = order.expect("an order").version;
    eventually("the newest is signalled", || async {
        let mut told = Vec::new();
        for text in stack.temporal.signals("train") {
            let grant = stack.vault.verify(&text).await.expect("a grant");
            told.push(grant.order().version.0);
        }
        told.contains(&newest)
            .then_some(())
            .ok_or_else(|| format!("{told:?}"))
    })
    .await;
}

#[tokio::test]
async fn a_converged_tree_lets_the_old_version_go() {
    let stack = Stack::start().await;
    let admin = rotated(&stack).await;
    let revoked = admin.revoke_token(revocation(1)).await.expect("revoked");
    assert_eq!(
        revoked.version.expect("a version").state(),
        v1::VersionState::Revoked
    );
    assert_eq!((revoked.current, revoked.stragglers.len()), (2, 0));
    assert!(revoked.breaks.is_empty());
    let error = admin
        .revoke_token(revocation(9))
        .await
        .expect_err("no such version");
    assert!(matches!(error, Error::NotFound(_)), "{error}");
}

#[tokio::test]
async fn the_active_version_stays_unless_forced() {
    let stack = Stack::start().await;
    let admin = rotated(&stack).await;
    let error = admin.revoke_token(revocation(2)).await.expect_err("active");
    assert_eq!(error.reason(), Some("version_active"));
}

#[tokio::test]
async fn a_node_behind_or_silent_blocks_and_force_says_what_it_breaks() {
    let stack = Stack::start().await;
    stack.worker().await;
    stack.tree("train").await;
    stack.temporal.start_child("train", "deaf", "Leaf");
    stack.temporal.start_child("train", "silent", "Leaf");
    stack.temporal.start_child("train", "apart", "Leaf");
    stack.temporal.mood("deaf", Mood::Deaf);
    stack.temporal.mood("silent", Mood::Silent);
    stack.temporal.unselect("apart");
    let admin = stack.admin().await;
    let rotated = admin
        .rotate_token(&tree("train"), &id("default"), rotation(TOKEN_2))
        .await;
    rotated.expect("rotated");
    let error = admin
        .revoke_token(revocation(1))
        .await
        .expect_err("blocked");
    assert_eq!(error.reason(), Some("nodes_behind"));
    let text = error.to_string();
    assert!(
        text.contains("deaf (holds_older)") && text.contains("silent (no_answer)"),
        "{text}"
    );
    assert!(!text.contains("apart"), "{text}");
    let mut forced = revocation(1);
    forced.force = true;
    let revoked = admin.revoke_token(forced).await.expect("forced");
    assert_eq!(revoked.stragglers.len(), 2);
    assert!(
        revoked.breaks[0].contains("2 nodes"),
        "{:?}",
        revoked.breaks
    );
    let filter = v1::AuditFilter {
        action: "forced_revoke".to_owned(),
        ..v1::AuditFilter::default()
    };
    let request = v1::ListAuditRequest {
        filter: Some(filter),
        ..v1::ListAuditRequest::default()
    };
    let listed = admin.list_audit(request).await.expect("entries");
    let said = listed
        .entries
        .iter()
        .find(|entry| entry.reason == "nodes_behind");
    assert_eq!(said.expect("an entry").count, 2);
}

async fn forced_entries(admin: &Client) -> Vec<(String, u32)> {
    let filter = v1::AuditFilter {
        action: "forced_revoke".to_owned(),
        ..v1::AuditFilter::default()
    };
    let request = v1::ListAuditRequest {
        filter: Some(filter),
        ..v1::ListAuditRequest::default()
    };
    let listed = admin.list_audit(request).await.expect("entries").entries;
    let said = listed.into_iter().map(|entry| (entry.reason, entry.count));
    said.collect()
}

/// A failure with this reason that says all of that.
fn says<T: std::fmt::Debug>(answer: Result<T, Error>, reason: &str, parts: &[&str]) {
    let error = answer.expect_err(reason);
    assert_eq!(error.reason(), Some(reason), "{error}");
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{reason}: {part}: {text}");
    }
}

#[tokio::test]
async fn a_failure_names_slot_tree_version_and_what_to_do() {
    let stack = Stack::start().await;
    let worker = stack.worker().await;
    stack.tree("train").await;
    stack.temporal.activity("train", "7", 1);
    let admin = stack.admin().await;
    let (name, slot) = (tree("train"), id("default"));
    let place = "slot default of tree train";
    let rolled = admin.rollback_token(&name, &slot, None).await;
    says(rolled, "nothing_to_roll_back_to", &[place, "rotate"]);
    let active = admin.revoke_token(revocation(1)).await;
    let of_1 = "slot default of tree train, version 1";
    says(active, "version_active", &[of_1, "rotate first"]);
    let unknown = admin.revoke_token(revocation(9)).await;
    says(
        unknown,
        "not_found",
        &["slot default of tree train, version 9"],
    );
    let redeem = Redeem {
        claims: stack.claims("train", "7"),
        grant: stack.temporal.signals("train").remove(0),
        tool: id("acme.deploy"),
        slot: Some(slot.clone()),
        api_url: None,
        parameters_json: None,
        request_id: String::new(),
    };
    let redeemed = worker.redeem(redeem).await.expect("a token");
    stack.temporal.mood("train", Mood::Deaf);
    let rotated = admin.rotate_token(&name, &slot, rotation(TOKEN_2)).await;
    rotated.expect("rotated");
    let behind = admin.revoke_token(revocation(1)).await;
    says(
        behind,
        "nodes_behind",
        &[of_1, "train (holds_older)", "wait for them"],
    );
    stack.temporal.hold("train", 2);
    let in_use = admin.revoke_token(revocation(1)).await;
    says(
        in_use,
        "leases_open",
        &[of_1, "1 open leases", "wait for them"],
    );
    let end = xylem_client::CallEnd {
        outcome: v1::CallOutcome::Succeeded,
        http_status: Some(200),
        duration: std::time::Duration::ZERO,
        bytes_out: 512,
        bytes_in: 2048,
    };
    worker.release(redeemed.lease, end).await.expect("released");
    admin.revoke_token(revocation(1)).await.expect("revoked");
    let gone = admin
        .rollback_token(&name, &slot, Some(xylem_ids::Version(1)))
        .await;
    says(gone, "version_revoked", &[place, "version 1", "rotate"]);
    let empty = admin.reissue_token(&name, &id("github"), None).await;
    says(
        empty,
        "not_found",
        &["slot github of tree train", "set or rotate"],
    );
}

/// What the log says about the entries of a kind.
async fn notes(admin: &Client, action: &str) -> Vec<String> {
    let filter = v1::AuditFilter {
        action: action.to_owned(),
        ..v1::AuditFilter::default()
    };
    let request = v1::ListAuditRequest {
        filter: Some(filter),
        ..v1::ListAuditRequest::default()
    };
    let listed = admin.list_audit(request).await.expect("entries").entries;
    listed.into_iter().map(|entry| entry.note).collect()
}

#[tokio::test]
async fn what_somebody_says_about_a_revocation_or_a_stop_is_in_the_log() {
    let stack = Stack::start().await;
    let admin = rotated(&stack).await;
    let said = "leaked in build 7 (INC-12, é)";
    let mut revoke = revocation(1);
    for bad in ["a\nb".to_owned(), "a".repeat(501)] {
        revoke.reason = bad.clone();
        let error = admin.revoke_token(revoke.clone()).await;
        let error = error.expect_err("no note");
        let field = error.answer().and_then(|answer| answer.field.as_deref());
        assert_eq!(field, Some("reason"), "{error}");
        assert!(!error.to_string().contains(&bad));
    }
    revoke.reason = said.to_owned();
    admin.revoke_token(revoke).await.expect("revoked");
    assert_eq!(notes(&admin, "revoke").await, [said]);
    stack.temporal.mood("leaf", Mood::Deaf);
    let third = rotation("canary-token-three-77aa");
    let changed = admin
        .rotate_token(&tree("train"), &id("default"), third)
        .await;
    changed.expect("rotated");
    let mut forced = revocation(2);
    forced.force = true;
    forced.reason = said.to_owned();
    admin.revoke_token(forced).await.expect("revoked");
    // Over whom it was forced; the revocation itself needed no force.
    assert_eq!(notes(&admin, "forced_revoke").await, [said]);
    assert_eq!(notes(&admin, "revoke").await, [said, said]);
    let mut stop = v1::StopTreeRequest {
        tree: "train".to_owned(),
        reason: "a\u{7f}b".to_owned(),
        ..v1::StopTreeRequest::default()
    };
    let error = admin.stop_tree(stop.clone()).await.expect_err("no note");
    let field = error.answer().and_then(|answer| answer.field.as_deref());
    assert_eq!(field, Some("reason"), "{error}");
    assert!(notes(&admin, "tree_stopped").await.is_empty());
    for said in ["", "over", "", "really"] {
        stop.reason = said.to_owned();
        admin.stop_tree(stop.clone()).await.expect("stopped");
    }
    assert_eq!(notes(&admin, "tree_stopped").await, ["", "over", "really"]);
}

#[tokio::test]
async fn force_that_nothing_needed_is_not_in_the_log() {
    let stack = Stack::start().await;
    let admin = rotated(&stack).await;
    let mut forced = revocation(1);
    forced.force = true;
    let revoked = admin.revoke_token(forced).await.expect("revoked");
    assert!(revoked.breaks.is_empty(), "{:?}", revoked.breaks);
    assert_eq!(forced_entries(&admin).await, []);
    let mut active = revocation(2);
    active.force = true;
    admin.revoke_token(active).await.expect("forced");
    // The vault's own entry: no node was behind.
    assert_eq!(forced_entries(&admin).await, [(String::new(), 1)]);
}

#[tokio::test]
async fn a_tree_that_is_not_seen_whole_blocks_unless_forced() {
    let stack = Stack::start().await;
    let admin = rotated(&stack).await;
    stack.temporal.truncate(true);
    let error = admin.revoke_token(revocation(1)).await;
    let error = error.expect_err("somebody may be behind");
    assert!(matches!(error, Error::Refused(_)), "{error}");
    assert_eq!(error.reason(), Some("nodes_unseen"));
    assert_eq!(states(&admin).await[1], v1::VersionState::Superseded);
    let mut forced = revocation(1);
    forced.force = true;
    let revoked = admin.revoke_token(forced).await.expect("forced");
    assert!(
        revoked.breaks[0].contains("not looked at"),
        "{:?}",
        revoked.breaks
    );
    let expected = ("nodes_unseen".to_owned(), 1);
    assert_eq!(forced_entries(&admin).await, [expected]);
}

#[tokio::test]
async fn a_revocation_heals_what_a_cascade_missed() {
    let stack = Stack::start().await;
    stack.worker().await;
    stack.tree("train").await;
    stack.temporal.start_child("train", "leaf", "Leaf");
    stack.temporal.mood("train", Mood::Lonely);
    let admin = stack.admin().await;
    let rotated = admin
        .rotate_token(&tree("train"), &id("default"), rotation(TOKEN_2))
        .await;
    rotated.expect("rotated");
    let mut patient = revocation(1);
    patient.wait = seconds(60);
    let revoked = admin
        .revoke_token(patient)
        .await
        .expect("healed and revoked");
    assert_eq!(revoked.current, 2);
    assert_eq!(stack.temporal.signals("leaf").len(), 1);
}

#[tokio::test]
async fn an_open_lease_keeps_its_version() {
    let stack = Stack::start().await;
    let worker = stack.worker().await;
    stack.tree("train").await;
    stack.temporal.activity("train", "7", 1);
    let redeem = Redeem {
        claims: stack.claims("train", "7"),
        grant: stack.temporal.signals("train").remove(0),
        tool: id("acme.deploy"),
        slot: Some(id("default")),
        api_url: None,
        parameters_json: None,
        request_id: String::new(),
    };
    let redeemed = worker.redeem(redeem).await.expect("a token");
    let admin = stack.admin().await;
    let changed = admin
        .rotate_token(&tree("train"), &id("default"), rotation(TOKEN_2))
        .await;
    changed.expect("rotated");
    let error = admin.revoke_token(revocation(1)).await.expect_err("in use");
    assert_eq!(error.reason(), Some("leases_open"));
    let end = xylem_client::CallEnd {
        outcome: v1::CallOutcome::Succeeded,
        http_status: Some(200),
        duration: std::time::Duration::from_millis(12),
        bytes_out: 512,
        bytes_in: 2048,
    };
    let newest = worker.release(redeemed.lease, end).await.expect("released");
    assert_eq!(newest.map(|order| order.version.0), Some(2));
    admin.revoke_token(revocation(1)).await.expect("revoked");
}

#[tokio::test]
async fn what_temporal_misses_is_deposited_all_the_same() {
    let stack = Stack::start().await;
    stack.worker().await;
    stack.tree("train").await;
    stack.temporal.down(true);
    let admin = stack.admin().await;
    let changed = admin
        .rotate_token(&tree("train"), &id("default"), rotation(TOKEN_2))
        .await;
    let changed = changed.expect("deposited");
    assert!(!changed.signalled);
    assert_eq!(states(&admin).await[0], v1::VersionState::Active);
}

#[tokio::test]
async fn a_key_is_never_enough_to_be_shown_a_token() {
    let stack = Stack::start().await;
    stack.tree("train").await;
    let admin = stack.admin().await;
    let policy = serde_json::json!({"name": "break-glass", "effect": "allow",
        "who": {"anyone": true}, "what": {"all": true}, "actions": ["reveal"]});
    let policy = serde_json::from_value(policy).expect("a policy");
    admin.create_policy(policy).await.expect("stored");
    let (tree, slot) = (common::id("train"), common::id("default"));
    let nothing = admin
        .reveal_token(&tree, &slot, "")
        .await
        .expect_err("no reason");
    assert_eq!(
        nothing.answer().and_then(|a| a.field.as_deref()),
        Some("reason")
    );
    let refused = admin.reveal_token(&tree, &slot, "incident 4711").await;
    let refused = refused.expect_err("no second factor");
    assert_eq!(refused.reason(), Some("second_factor_required"));
    let other = stack.client(xylem_ids::Role::User).await;
    let hidden = other.reveal_token(&tree, &slot, "curious").await;
    assert!(
        matches!(hidden, Err(xylem_client::Error::NotFound(_))),
        "{hidden:?}"
    );
}
