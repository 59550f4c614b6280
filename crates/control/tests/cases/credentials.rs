//! Stored credentials: kept, bound to a slot by workflow type, rotated and revoked over all trees.

use crate::common::{self, Stack, TOKEN_1, TOKEN_2, id, start, temporal::Mood, tree};
use secrecy::SecretString;
use xylem_client::{Client, Error, StartTree, v1};
use xylem_ids::Role;

const TREES: [&str; 3] = ["train-1", "train-2", "train-3"];

fn new(name: &str) -> v1::CreateCredentialRequest {
    v1::CreateCredentialRequest {
        name: name.to_owned(),
        audiences: vec![common::API.to_owned()],
        ..v1::CreateCredentialRequest::default()
    }
}

fn binding(name: &str) -> v1::BindCredentialRequest {
    v1::BindCredentialRequest {
        name: name.to_owned(),
        workflow_type: "Train".to_owned(),
        ..v1::BindCredentialRequest::default()
    }
}

fn bare(name: &str) -> StartTree {
    StartTree {
        tokens: Vec::new(),
        ..start(name)
    }
}

fn revocation(version: u32) -> v1::RevokeCredentialRequest {
    v1::RevokeCredentialRequest {
        name: "acme".to_owned(),
        version,
        wait: Some(xylem_client::Duration::default()),
        ..v1::RevokeCredentialRequest::default()
    }
}

async fn rotate(admin: &Client, value: &str) -> Result<v1::Credential, Error> {
    let request = v1::RotateCredentialRequest {
        name: "acme".to_owned(),
        ..v1::RotateCredentialRequest::default()
    };
    admin
        .rotate_credential(request, &SecretString::from(value))
        .await
}

/// The credential `acme`, bound to `Train`, and three trees that were started with it.
async fn bound(stack: &Stack) -> Client {
    stack.worker().await;
    stack.tool().await;
    let admin = stack.admin().await;
    let made = admin
        .create_credential(new("acme"), &SecretString::from(TOKEN_1))
        .await;
    made.expect("made");
    admin.bind_credential(binding("acme")).await.expect("bound");
    for name in TREES {
        admin.start_tree(bare(name)).await.expect("a tree");
    }
    admin
}

/// The active version of a tree's slot, and its fingerprint.
async fn active(admin: &Client, name: &str) -> (u32, String) {
    let versions = admin.token_status(&tree(name), Some(&id("default"))).await;
    let versions = versions.expect("a status");
    let active = versions
        .iter()
        .find(|version| version.state() == v1::VersionState::Active);
    let active = active.expect("an active version");
    let order = active.order.expect("an order");
    (order.version, active.fingerprint.clone())
}

fn reason<T: std::fmt::Debug>(answer: Result<T, Error>) -> String {
    let error = answer.expect_err("refused");
    error.reason().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn every_tree_of_the_type_starts_with_it_and_one_rotation_reaches_all() {
    let stack = Stack::start().await;
    let admin = bound(&stack).await;
    let first = admin.get_credential("acme").await.expect("shown");
    assert_eq!((first.trees, first.trees_behind), (3, 0));
    for name in TREES {
        let held = active(&admin, name).await;
        assert_eq!(held, (1, first.versions[0].fingerprint.clone()));
        assert_eq!(stack.temporal.signals(name).len(), 1);
    }
    let rotated = rotate(&admin, TOKEN_2).await.expect("rotated");
    assert_eq!(rotated.trees_behind, 3);
    stack.sweep().await;
    let second = admin.get_credential("acme").await.expect("shown");
    assert_eq!((second.trees, second.trees_behind), (3, 0));
    for name in TREES {
        let held = active(&admin, name).await;
        assert_eq!(held, (2, second.versions[0].fingerprint.clone()));
        assert_eq!(stack.temporal.signals(name).len(), 2);
    }
    // A second sweep gives nobody anything twice.
    stack.sweep().await;
    assert_eq!(active(&admin, "train-1").await.0, 2);
    let text = format!("{first:?} {rotated:?} {second:?}");
    assert!(!text.contains("canary"), "{text}");
}

#[tokio::test]
async fn a_rotation_is_spread_by_durable_work() {
    let stack = Stack::start().await;
    let admin = bound(&stack).await;
    rotate(&admin, TOKEN_2).await.expect("rotated");
    let starts = stack.temporal.starts();
    let spread = starts
        .iter()
        .find(|start| start.workflow_id.as_str() == "xylem-spread/acme/2")
        .expect("a spread");
    let input = serde_json::json!({ "credential": "acme" });
    assert_eq!(spread.input, Some(input));
}

#[tokio::test]
async fn a_tree_with_a_token_of_its_own_is_left_alone() {
    let stack = Stack::start().await;
    let admin = bound(&stack).await;
    let both = admin.start_tree(start("train-4")).await;
    let both = both.expect_err("the slot is filled");
    assert_eq!(both.reason(), Some("slot_bound"));
    assert!(both.to_string().contains("acme"), "{both}");
    let own = admin
        .set_token(&tree("train-1"), &id("default"), common::deposit(TOKEN_2))
        .await;
    own.expect("set");
    rotate(&admin, "canary-token-three-11aa")
        .await
        .expect("rotated");
    stack.sweep().await;
    assert_eq!(active(&admin, "train-1").await.0, 2);
    let shown = admin.get_credential("acme").await.expect("shown");
    assert_eq!((shown.trees, shown.trees_behind), (2, 0));
    admin
        .unbind_credential(binding("acme"))
        .await
        .expect("unbound");
    let free = admin.start_tree(bare("train-5")).await.expect("a tree");
    assert_eq!(free.tokens, []);
    assert_eq!(
        reason(admin.unbind_credential(binding("acme")).await),
        "not_found"
    );
}

#[tokio::test]
async fn the_gate_waits_for_the_slowest_tree() {
    let stack = Stack::start().await;
    let admin = bound(&stack).await;
    assert_eq!(
        reason(admin.revoke_credential(revocation(1)).await),
        "version_active"
    );
    assert_eq!(
        reason(admin.revoke_credential(revocation(7)).await),
        "not_found"
    );
    stack.temporal.mood("train-2", Mood::Deaf);
    rotate(&admin, TOKEN_2).await.expect("rotated");
    let held = admin.revoke_credential(revocation(1)).await;
    let held = held.expect_err("a tree is behind");
    assert_eq!(held.reason(), Some("nodes_behind"));
    let said = held.to_string();
    assert!(said.contains("train-2 (nodes_behind)"), "{said}");
    let shown = admin.get_credential("acme").await.expect("shown");
    assert_eq!(shown.versions[1].trees, 3, "{shown:?}");
    stack.temporal.mood("train-2", Mood::Good);
    // A node that was signalled a moment ago is signalled again later.
    stack.clock.advance(std::time::Duration::from_secs(301));
    let mut patient = revocation(1);
    patient.wait = Some(xylem_client::Duration {
        seconds: 30,
        nanos: 0,
    });
    let revoked = admin.revoke_credential(patient).await.expect("revoked");
    assert_eq!((revoked.trees, revoked.breaks.len()), (3, 0));
    let shown = revoked.credential.expect("the credential");
    assert_eq!(shown.versions[1].state(), v1::VersionState::Revoked);
    for name in TREES {
        let versions = admin.token_status(&tree(name), None).await.expect("told");
        let states: Vec<_> = versions.iter().map(v1::TokenVersion::state).collect();
        assert_eq!(
            states,
            [v1::VersionState::Active, v1::VersionState::Revoked]
        );
    }
}

#[tokio::test]
async fn an_open_call_in_one_tree_holds_all() {
    let stack = Stack::start().await;
    let worker = stack.worker().await;
    let admin = bound(&stack).await;
    stack.temporal.activity("train-3", "7", 1);
    let grant = stack.temporal.signals("train-3").pop().expect("a grant");
    let redeem = xylem_client::Redeem {
        claims: stack.claims("train-3", "7"),
        grant,
        tool: id("acme.deploy"),
        slot: Some(id("default")),
        api_url: None,
        parameters_json: None,
        request_id: String::new(),
    };
    let redeemed = worker.redeem(redeem).await.expect("redeemed");
    rotate(&admin, TOKEN_2).await.expect("rotated");
    let held = admin.revoke_credential(revocation(1)).await;
    let held = held.expect_err("a call is under way");
    assert_eq!(held.reason(), Some("leases_open"));
    assert!(held.to_string().contains("train-3 (leases_open)"), "{held}");
    assert_eq!(redeemed.order.map(|order| order.version.0), Some(1));
    let mut forced = revocation(1);
    forced.force = true;
    let forced = admin.revoke_credential(forced).await.expect("revoked");
    assert!(
        forced.breaks[0].starts_with("tree train-3: 1 calls"),
        "{forced:?}"
    );
}

#[tokio::test]
async fn a_credential_is_removed_when_nothing_needs_it() {
    let stack = Stack::start().await;
    let admin = bound(&stack).await;
    let removal = || v1::RemoveCredentialRequest {
        name: "acme".to_owned(),
        ..v1::RemoveCredentialRequest::default()
    };
    assert_eq!(
        reason(admin.remove_credential(removal()).await),
        "credential_bound"
    );
    admin
        .unbind_credential(binding("acme"))
        .await
        .expect("unbound");
    assert_eq!(
        reason(admin.remove_credential(removal()).await),
        "held_by_trees"
    );
    for name in TREES {
        let request = v1::StopTreeRequest {
            tree: name.to_owned(),
            terminate: true,
            ..v1::StopTreeRequest::default()
        };
        admin.stop_tree(request).await.expect("stopped");
    }
    admin.remove_credential(removal()).await.expect("removed");
    assert_eq!(reason(admin.get_credential("acme").await), "not_found");
}

#[tokio::test]
async fn a_publisher_is_told_of_its_own_alone_and_no_other_name() {
    let stack = Stack::start().await;
    let admin = stack.admin().await;
    let key = stack.key_for(Role::ToolPublisher, "publisher").await;
    let publisher = Client::connect(&stack.address, &key).await;
    let publisher = publisher.expect("a connection");
    for (name, owner) in [
        ("canary-a", ""),
        ("mine-b", "publisher"),
        ("canary-c", ""),
        ("mine-d", "publisher"),
        ("canary-e", ""),
    ] {
        let request = v1::CreateCredentialRequest {
            owner: owner.to_owned(),
            ..new(name)
        };
        let value = SecretString::from(format!("canary-secret-of-{name}"));
        let made = admin.create_credential(request, &value).await;
        made.expect("made");
    }
    let (mut names, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListCredentialsRequest {
            page_size: Some(1),
            page_token,
        };
        let page = publisher.list_credentials(request).await.expect("a page");
        names.extend(page.credentials.into_iter().map(|it| it.name));
        page_token = page.next_page_token;
        assert!(!page_token.contains("canary"), "{page_token}");
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["mine-b", "mine-d"]);
    let all = admin.list_credentials(Default::default()).await;
    assert_eq!(all.expect("a page").credentials.len(), 5);
}

#[tokio::test]
async fn what_breaks_a_rule_is_named_and_not_quoted() {
    let stack = Stack::start().await;
    let admin = stack.admin().await;
    let secret = SecretString::from(TOKEN_1);
    let past = xylem_client::Timestamp {
        seconds: 1,
        nanos: 0,
    };
    for (request, secret, field) in [
        (new("Canary Name"), TOKEN_1, "name"),
        (
            v1::CreateCredentialRequest {
                audiences: vec!["http://canary.example".to_owned()],
                ..new("acme")
            },
            TOKEN_1,
            "audiences",
        ),
        (
            v1::CreateCredentialRequest {
                expires_at: Some(past),
                ..new("acme")
            },
            TOKEN_1,
            "expires_at",
        ),
        (new("acme"), "canary", "token"),
    ] {
        let made = admin
            .create_credential(request, &SecretString::from(secret))
            .await;
        let error = made.expect_err(field);
        let told = error.answer().and_then(|answer| answer.field.clone());
        assert_eq!(told.as_deref(), Some(field), "{error}");
        assert!(!format!("{error:?}").contains("anary"), "{error:?}");
    }
    let made = admin.create_credential(new("acme"), &secret).await;
    made.expect("made");
    let again = admin.create_credential(new("acme"), &secret).await;
    assert_eq!(reason(again), "exists");
    let lost = v1::RotateCredentialRequest {
        name: "acme".to_owned(),
        if_version: Some(7),
        ..v1::RotateCredentialRequest::default()
    };
    let lost = admin.rotate_credential(lost, &secret).await;
    assert_eq!(reason(lost), "other_version");
}

#[tokio::test]
async fn a_publisher_sees_rotates_and_renews_its_own_alone() {
    let stack = Stack::start().await;
    let admin = stack.admin().await;
    let key = stack.key_for(Role::ToolPublisher, "publisher").await;
    let publisher = Client::connect(&stack.address, &key).await;
    let publisher = publisher.expect("a connection");
    let own = v1::CreateCredentialRequest {
        owner: "publisher".to_owned(),
        ..new("acme")
    };
    for request in [own, new("other")] {
        let value = SecretString::from(TOKEN_1);
        let made = admin.create_credential(request, &value).await;
        made.expect("made");
    }
    let listed = publisher.list_credentials(Default::default()).await;
    let listed = listed.expect("a list").credentials;
    let names: Vec<_> = listed.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["acme"]);

    publisher.get_credential("acme").await.expect("its own");
    rotate(&publisher, TOKEN_2).await.expect("its own");
    // It reaches its own, which comes from no provider.
    let renewed = reason(publisher.renew_credential("acme").await);
    assert_ne!(renewed, "not_found");
    let others = v1::RotateCredentialRequest {
        name: "other".to_owned(),
        ..v1::RotateCredentialRequest::default()
    };
    let value = SecretString::from(TOKEN_2);
    let absent = v1::RotateCredentialRequest {
        name: "absent".to_owned(),
        ..v1::RotateCredentialRequest::default()
    };
    for request in [others, absent] {
        let name = request.name.clone();
        for refused in [
            reason(publisher.get_credential(&name).await),
            reason(publisher.rotate_credential(request, &value).await),
            reason(publisher.renew_credential(&name).await),
        ] {
            assert_eq!(refused, "not_found", "{name}");
        }
    }
    let kept = admin.get_credential("other").await.expect("shown");
    assert_eq!(kept.versions.len(), 1, "nothing came of it");
}
