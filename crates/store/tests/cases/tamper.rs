//! Somebody with the database file edits, moves or reads rows.

use crate::house::{self, Ask, House, V1, V2, agent, slot, workflow};
use base64::{Engine, engine::general_purpose};
use memchr::memmem;
use secrecy::ExposeSecret;
use xylem_audit::{Kind, Verdict};
use xylem_ids::Version;
use xylem_vault::{Revocation, SelectedBy, Selection, Target, VaultError};

/// Redeeming fails, names the row, hands out nothing, and is audited.
async fn is_noticed(house: &House, ask: Ask, what: &str) {
    match house.redeem(ask).await {
        Err(VaultError::Tampered(place)) => assert_eq!(place.what, what),
        other => panic!("{what} was edited unnoticed: {other:?}"),
    }
    let entry = house.last_entry().await;
    assert_eq!(
        (entry.kind, entry.verdict),
        (Kind::Tampered, Verdict::Denied)
    );
    assert_eq!(house.leases().await, 0);
}

async fn after(sql: &'static str, what: &str) {
    let house = House::new().await;
    let (tree, v1) = house.planted("train").await;
    house.deposit(&tree, V2, "d2").await;
    let selection = Selection {
        node: workflow("elsewhere"),
        exclude: vec![slot("default")],
        include: vec![],
        subtree: true,
    };
    let by = SelectedBy::Agent(agent("operator"));
    house.vault.select(&tree, &selection, &by).await.unwrap();
    house.tamper(sql).await;
    is_noticed(&house, Ask::new(&tree, &v1), what).await;
}

#[tokio::test]
async fn an_edited_version_is_noticed() {
    after(
        "UPDATE versions SET audiences = '[\"https://evil.example\"]'",
        "version",
    )
    .await;
    after("UPDATE versions SET expires_at = expires_at + 1", "version").await;
    after("UPDATE versions SET exposed = 1", "version").await;
    after("UPDATE versions SET depositor = 'somebody'", "version").await;
    after(
        "UPDATE versions SET fingerprint = '0123456789abcdef'",
        "version",
    )
    .await;
    after("UPDATE versions SET mac = zeroblob(32)", "version").await;
    after("UPDATE versions SET mac = zeroblob(1)", "version").await;
    after("UPDATE versions SET audiences = 'no list'", "version").await;
}

#[tokio::test]
async fn a_superseded_version_cannot_be_made_active_again() {
    let house = House::new().await;
    let (tree, v1) = house.planted("train").await;
    house.deposit(&tree, V2, "d2").await;
    house
        .tamper("UPDATE versions SET state = 'superseded' WHERE version = 2")
        .await;
    house
        .tamper("UPDATE versions SET state = 'active' WHERE version = 1")
        .await;
    is_noticed(&house, Ask::new(&tree, &v1), "version").await;
    let operator = agent("operator");
    let revocation = Revocation {
        tree: tree.clone(),
        slot: slot("default"),
        version: Version(1),
        force: true,
        by: operator.clone(),
        note: None,
    };
    let revoked = house.vault.revoke(revocation).await;
    assert!(matches!(revoked, Err(VaultError::Tampered(_))));
    assert!(matches!(
        house.vault.status(&tree).await,
        Err(VaultError::Tampered(_))
    ));
}

#[tokio::test]
async fn a_stopped_tree_cannot_be_brought_back() {
    let house = House::new().await;
    let (tree, v1) = house.planted("train").await;
    house.vault.stop(house::stopping(&tree)).await.unwrap();
    house
        .tamper("UPDATE trees SET state = 'bound', stopped_at = NULL")
        .await;
    is_noticed(&house, Ask::new(&tree, &v1), "tree").await;
}

#[tokio::test]
async fn an_edited_tree_is_noticed() {
    after(
        "UPDATE trees SET tools = '[\"acme.list\", \"acme.deploy\"]'",
        "tree",
    )
    .await;
    after("UPDATE trees SET intake = 1", "tree").await;
    after("UPDATE trees SET owner = 'somebody'", "tree").await;
    after("UPDATE trees SET data_key = NULL", "tree").await;
    after("UPDATE trees SET state = 'starting'", "tree").await;
}

#[tokio::test]
async fn an_edited_exclusion_is_noticed() {
    after("UPDATE slots SET exclusions = '[]'", "slot").await;
    after(
        "UPDATE slots SET exclusions = '[[\"elsewhere\",false,null]]'",
        "slot",
    )
    .await;
    after(
        "UPDATE slots SET exclusions = '[[\"elsewhere\",true,[\"leaf\",\"inner\",\"train\"]]]'",
        "slot",
    )
    .await;
    after("UPDATE slots SET last = 1", "slot").await;
    after("UPDATE slots SET exclusions = 'none'", "slot").await;
    after("DELETE FROM slots", "slot").await;
}

#[tokio::test]
async fn a_flipped_bit_in_a_ciphertext_or_key_is_noticed() {
    let token = "token of version";
    after(
        "UPDATE secrets SET ciphertext = zeroblob(length(ciphertext))",
        token,
    )
    .await;
    after(
        "UPDATE secrets SET ciphertext = substr(ciphertext, 2)",
        token,
    )
    .await;
    after("UPDATE secrets SET nonce = zeroblob(12)", token).await;
    after("DELETE FROM secrets", token).await;
    after(
        "UPDATE keys SET wrapped = zeroblob(48) WHERE purpose = 'tree'",
        "key",
    )
    .await;
    after(
        "UPDATE keys SET nonce = zeroblob(12) WHERE purpose = 'tree'",
        "key",
    )
    .await;
    after("DELETE FROM keys WHERE purpose = 'tree'", "key").await;
}

#[tokio::test]
async fn a_ciphertext_that_was_moved_does_not_open() {
    let house = House::new().await;
    let (tree, v1) = house.planted("train").await;
    house.deposit(&tree, V2, "d2").await;
    house
        .tamper(
            "UPDATE secrets SET ciphertext = (SELECT s.ciphertext FROM secrets s JOIN versions v
                ON v.secret_id = s.id WHERE v.version = 1), nonce = (SELECT s.nonce FROM secrets s
                JOIN versions v ON v.secret_id = s.id WHERE v.version = 1)",
        )
        .await;
    is_noticed(&house, Ask::new(&tree, &v1), "token of version").await;
}

#[tokio::test]
async fn a_version_that_was_pointed_at_another_ciphertext_is_noticed() {
    let house = House::new().await;
    let (tree, v1) = house.planted("train").await;
    house.deposit(&tree, V2, "d2").await;
    house
        .tamper(
            "UPDATE versions SET secret_id = (SELECT secret_id FROM versions WHERE version = 1)
             WHERE version = 2",
        )
        .await;
    is_noticed(&house, Ask::new(&tree, &v1), "version").await;
}

#[tokio::test]
async fn another_trees_rows_do_not_open_here() {
    let house = House::new().await;
    let (tree, v1) = house.planted("train").await;
    let (_, _) = house.planted("rich").await;
    house
        .tamper(
            "UPDATE secrets SET (nonce, ciphertext) = (
                SELECT s.nonce, s.ciphertext FROM secrets s JOIN versions v ON v.secret_id = s.id
                    JOIN trees t ON t.start_id = v.start_id WHERE t.workflow_id = 'rich')",
        )
        .await;
    is_noticed(&house, Ask::new(&tree, &v1), "token of version").await;
}

#[tokio::test]
async fn another_trees_key_does_not_unwrap_here() {
    let house = House::new().await;
    let (tree, v1) = house.planted("train").await;
    house.planted("rich").await;
    house
        .tamper(
            "UPDATE keys SET (nonce, wrapped) = (
                SELECT k.nonce, k.wrapped FROM keys k JOIN trees t ON t.data_key = k.id
                WHERE t.workflow_id = 'rich') WHERE purpose = 'tree'",
        )
        .await;
    is_noticed(&house, Ask::new(&tree, &v1), "key").await;
}

#[tokio::test]
async fn a_retired_issuer_key_cannot_be_brought_back() {
    let house = House::new().await;
    house
        .vault
        .rotate_issuer(&house::namespace(), &agent("admin"))
        .await
        .unwrap();
    house
        .tamper("UPDATE keys SET purpose = 'issuer' WHERE purpose = 'retired_issuer'")
        .await;
    let opened = house::open(house.folder.path(), house.clock.clone()).await;
    assert!(matches!(opened, Err(VaultError::Tampered(_))));
}

#[tokio::test]
async fn an_edited_epoch_is_noticed() {
    let house = House::new().await;
    house.tamper("UPDATE epoch SET epoch = 9").await;
    assert!(matches!(
        house.vault.epoch().await,
        Err(VaultError::Tampered(_))
    ));
}

#[tokio::test]
async fn another_key_file_opens_nothing() {
    let house = House::new().await;
    house.planted("train").await;
    std::fs::remove_file(house.folder.path().join("kek")).unwrap();
    let opened = house::open(house.folder.path(), house.clock.clone()).await;
    assert!(matches!(opened, Err(VaultError::Keys(_))));
}

/// Every spelling of a token that a scan looks for.
fn spellings(token: &str) -> Vec<Vec<u8>> {
    let mut found = vec![
        token.as_bytes().to_vec(),
        hex::encode(token).into_bytes(),
        hex::encode_upper(token).into_bytes(),
        token.chars().rev().collect::<String>().into_bytes(),
    ];
    // Base64 of a string depends on where it begins; what is common to each of three offsets.
    for skip in 0..3 {
        let whole = general_purpose::STANDARD.encode(&token[skip..]);
        found.push(whole.as_bytes()[..whole.len() - 4].to_vec());
    }
    found
}

#[tokio::test]
async fn no_file_holds_a_token_in_any_spelling() {
    let house = House::new().await;
    let (tree, v1) = house.planted("train").await;
    let start = house.start("next").await;
    let deposit = house::deposit(Target::Start(start.clone()), V2, "d1");
    house.vault.deposit(deposit).await.unwrap();
    house
        .vault
        .bind(&start, "run-next".parse().unwrap())
        .await
        .unwrap();
    let redeemed = house.redeem(Ask::new(&tree, &v1)).await.unwrap();
    assert_eq!(redeemed.token.expose_secret(), V1);
    house.vault.stop(house::stopping(&tree)).await.unwrap();
    let shown = format!("{:?} {:?} {redeemed:?}", house.vault, house.log().await);
    let mut searched = vec![shown.into_bytes()];
    searched.extend(house.at_rest().await);
    assert!(searched.len() >= 4, "database, log, index and key file");
    let canary = b"acme.deploy";
    assert!(
        searched
            .iter()
            .any(|bytes| memmem::find(bytes, canary).is_some())
    );
    for token in [V1, V2] {
        for spelling in spellings(token) {
            assert!(
                !searched
                    .iter()
                    .any(|bytes| memmem::find(bytes, &spelling).is_some())
            );
        }
    }
}
