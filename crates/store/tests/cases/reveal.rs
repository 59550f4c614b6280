//! Break-glass: who is shown a token, and what the log says of it.

use super::credential::{made, tree_of};
use crate::house::{House, V1, V2, agent, namespace, slot};
use secrecy::ExposeSecret;
use xylem_audit::{Entry, Kind, Note, Verdict};
use xylem_identity::NewAgent;
use xylem_ids::{AgentKind, Role, TreeId};
use xylem_policy::Document;
use xylem_vault::{Clock, Refusal, Revealed, Revelation, VaultError};

/// A house with somebody who may be allowed to see a token.
async fn with_boss() -> House {
    let house = House::new().await;
    let boss = NewAgent {
        id: agent("boss"),
        kind: AgentKind::User,
        roles: [Role::Admin].into(),
    };
    let entry = Entry::new(house.clock.now(), Kind::AgentCreated, Verdict::Succeeded);
    let created = house.identity.create_agent(&namespace(), boss, entry).await;
    created.unwrap();
    house
}

fn wanted(house: &House, tree: &TreeId) -> Revelation {
    let mut entry = Entry::new(house.clock.now(), Kind::TokenRevealed, Verdict::Succeeded);
    entry.note = Note::new("incident 4711");
    Revelation {
        tree: tree.clone(),
        slot: slot("default"),
        agent: agent("boss"),
        address: Some([10, 0, 0, 1].into()),
        signed_in: Some(10),
        second_factor: true,
        entry,
    }
}

async fn reveal(house: &House, wanted: Revelation) -> Result<Revealed, VaultError> {
    house.vault.reveal(wanted, &house.policies).await
}

async fn reason(house: &House, wanted: Revelation) -> &'static str {
    match reveal(house, wanted).await {
        Err(VaultError::Refused(refusal)) => refusal.code(),
        other => panic!("not refused: {other:?}"),
    }
}

async fn write(house: &House, json: serde_json::Value) {
    let document: Document = serde_json::from_value(json).unwrap();
    let author = house.author();
    let created = house
        .policies
        .create(&namespace(), &document, &author)
        .await;
    created.unwrap();
}

async fn break_glass(house: &House) {
    write(
        house,
        serde_json::json!({
            "name": "break-glass", "effect": "allow", "who": {"agents": ["boss"]},
            "what": {"tools": ["acme.deploy"]}, "actions": ["reveal"],
        }),
    )
    .await;
}

#[tokio::test]
async fn a_token_is_shown_where_a_policy_allows_it_and_the_log_says_so() {
    let house = with_boss().await;
    let (tree, _) = house.planted("train").await;
    // The policy of the house is about calls: nobody is shown anything by it.
    assert_eq!(reason(&house, wanted(&house, &tree)).await, "no_policy");
    let denied = house.last_entry().await;
    assert_eq!(
        (denied.kind, denied.verdict),
        (Kind::TokenRevealed, Verdict::Denied)
    );
    break_glass(&house).await;
    let revealed = reveal(&house, wanted(&house, &tree)).await.unwrap();
    assert_eq!(revealed.token.expose_secret(), V1);
    assert!(!format!("{revealed:?}").contains(V1));
    let entry = house.last_entry().await;
    assert_eq!(
        (entry.kind, entry.verdict),
        (Kind::TokenRevealed, Verdict::Granted)
    );
    assert_eq!(entry.agent, Some(agent("boss")));
    assert_eq!(entry.fingerprint, Some(revealed.fingerprint));
    assert_eq!(entry.policy.unwrap().as_str(), "break-glass@1");
    assert_eq!(entry.note.unwrap().as_str(), "incident 4711");
    assert!(entry.second_factor);
    assert_eq!(house.leases().await, 0);
}

#[tokio::test]
async fn a_policy_alone_is_not_enough() {
    let house = with_boss().await;
    let (tree, _) = house.planted("train").await;
    break_glass(&house).await;
    for (signed_in, second_factor, code) in [
        (Some(10), false, "second_factor_required"),
        (None, false, "second_factor_required"),
        (None, true, "sign_in_again"),
        (Some(301), true, "sign_in_again"),
    ] {
        let wanted = Revelation {
            signed_in,
            second_factor,
            ..wanted(&house, &tree)
        };
        assert_eq!(reason(&house, wanted).await, code);
        let entry = house.last_entry().await;
        assert_eq!(
            (entry.kind, entry.verdict),
            (Kind::TokenRevealed, Verdict::Denied)
        );
        assert_eq!(entry.reason.unwrap().as_str(), code);
    }
}

#[tokio::test]
async fn a_copy_of_a_stored_credential_is_shown_to_nobody() {
    let house = with_boss().await;
    made(&house).await;
    let tree = tree_of(&house, "train").await;
    assert_eq!(reason(&house, wanted(&house, &tree)).await, "no_policy");
    break_glass(&house).await;
    assert_eq!(
        reason(&house, wanted(&house, &tree)).await,
        "stored_credential"
    );
    let entry = house.last_entry().await;
    assert_eq!(
        (entry.kind, entry.verdict),
        (Kind::TokenRevealed, Verdict::Denied)
    );
    house.deposit(&tree, V2, "d2").await;
    let own = reveal(&house, wanted(&house, &tree)).await.unwrap();
    assert_eq!(own.token.expose_secret(), V2);
}

#[tokio::test]
async fn policies_about_the_tools_that_use_the_slot_count() {
    let house = with_boss().await;
    let (tree, _) = house.planted("train").await;
    write(
        &house,
        serde_json::json!({
            "name": "other-slot", "effect": "allow", "who": {"anyone": true},
            "what": {"tools": ["git.pull"]}, "actions": ["reveal"],
        }),
    )
    .await;
    assert_eq!(reason(&house, wanted(&house, &tree)).await, "no_policy");
    break_glass(&house).await;
    write(
        &house,
        serde_json::json!({
            "name": "never", "effect": "deny", "guardrail": true, "who": {"anyone": true},
            "what": {"tools": ["acme.deploy"]}, "actions": ["reveal"],
        }),
    )
    .await;
    assert_eq!(reason(&house, wanted(&house, &tree)).await, "guardrail");
    let empty = Revelation {
        slot: slot("github"),
        ..wanted(&house, &tree)
    };
    assert_eq!(reason(&house, empty).await, "no_token");
}

#[tokio::test]
async fn what_cannot_be_written_down_is_not_shown() {
    let house = with_boss().await;
    let (tree, _) = house.planted("train").await;
    break_glass(&house).await;
    house.jam("audit").await;
    let answer = reveal(&house, wanted(&house, &tree)).await;
    assert!(
        matches!(&answer, Err(error) if !matches!(error, VaultError::Refused(Refusal::NoToken))),
        "{answer:?}"
    );
    house.unjam("audit").await;
    reveal(&house, wanted(&house, &tree)).await.unwrap();
}
