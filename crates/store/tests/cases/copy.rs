//! Copies of a whole database, and what a vault does that comes from one.

use super::credential::{made, name, obtained, source, tree_of};
use crate::{
    database,
    house::{Ask, House, V1, V2, agent, namespace, open, open_with, policies, verified},
};
use std::{fs, time::Duration};
use tokio::sync::mpsc;
use xylem_audit::{Filter, Kind, Log};
use xylem_ids::Version;
use xylem_store::{Empty, LoadError, Store};
use xylem_vault::{Asker, VaultError};

/// Everything in a database, line by line.
pub(crate) async fn copied(store: &Store) -> Vec<String> {
    let (send, mut receive) = mpsc::channel(16);
    let take = async {
        let mut lines = Vec::new();
        while let Some(line) = receive.recv().await {
            lines.push(line);
        }
        lines
    };
    let (dumped, lines) = tokio::join!(store.dump(send), take);
    let rows = lines.iter().filter(|line| line.starts_with("{\"row\""));
    assert_eq!(dumped.expect("dumps").rows, rows.count() as u64);
    lines
}

pub(crate) async fn loaded(into: Empty, lines: Vec<String>) -> Result<u64, LoadError> {
    load(into, lines, true).await
}

async fn load(into: Empty, lines: Vec<String>, confirmed: bool) -> Result<u64, LoadError> {
    let (send, receive) = mpsc::channel(16);
    let give = async move {
        for line in lines {
            if send.send(line).await.is_err() {
                return;
            }
        }
    };
    let (loaded, ()) = tokio::join!(into.load(receive, async |_| confirmed), give);
    loaded
}

/// One with rows in most tables.
pub(crate) async fn furnished() -> House {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    house.redeem(Ask::new(&tree, &grant)).await.unwrap();
    house.deposit(&tree, V2, "d2").await;
    made(&house).await;
    tree_of(&house, "other").await;
    house
}

/// But for the state of the epoch a copy of a copy is the same.
pub(crate) fn without_state(lines: &[String]) -> Vec<String> {
    let lines = lines
        .iter()
        .map(|line| line.replace("\"restored\"", "\"current\""));
    lines.collect()
}

#[tokio::test]
async fn a_database_that_was_loaded_is_the_one_that_was_copied() {
    let house = furnished().await;
    let lines = copied(&house.store).await;
    let folder = tempfile::tempdir().unwrap();
    let empty = database::empty(folder.path()).await;
    let rows = loaded(empty, lines.clone()).await.unwrap();
    assert!(rows > 30, "{rows}");
    let store = database::open(folder.path()).await.unwrap();
    assert_eq!(without_state(&copied(&store).await), lines);
}

#[tokio::test]
async fn a_copy_is_of_one_moment() {
    let house = furnished().await;
    let before = copied(&house.store).await;
    let (send, mut receive) = mpsc::channel(1);
    let store = house.store.clone();
    let dump = tokio::spawn(async move { store.dump(send).await });
    let mut lines = vec![receive.recv().await.unwrap()];
    house.planted("later").await;
    while let Some(line) = receive.recv().await {
        lines.push(line);
    }
    dump.await.unwrap().unwrap();
    assert_eq!(lines, before);
}

#[tokio::test]
async fn a_restored_vault_begins_a_new_epoch_and_hands_nothing_out_until_that_is_confirmed() {
    let house = House::new().await;
    let (tree, _) = house.planted("train").await;
    let lines = copied(&house.store).await;
    // What was issued after the backup was made.
    let later = house.deposit(&tree, V2, "d2").await.grant.unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::copy(house.folder.path().join("kek"), folder.path().join("kek")).unwrap();
    let empty = database::empty(folder.path()).await;
    loaded(empty, lines).await.unwrap();

    let (store, vault) = open(folder.path(), house.clock.clone()).await.unwrap();
    let everybody = policies(&store, &vault);
    let redeem = async |grant| {
        let ask = Ask::new(&tree, grant);
        vault.redeem(ask.redemption, &ask.check, &everybody).await
    };
    let held = redeem(&later).await.unwrap_err();
    assert!(matches!(held, VaultError::Held) && held.is_retryable());
    let by = agent("admin");
    let early = vault
        .confirm_restore(&namespace(), &by, None)
        .await
        .unwrap_err();
    assert!(matches!(early, VaultError::NotFound { .. }), "{early:?}");

    let (epoch, trees) = vault
        .settle_restore(&namespace(), &by)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((epoch.0, trees), (2, vec![tree.clone()]));
    assert_eq!(vault.settle_restore(&namespace(), &by).await.unwrap(), None);
    let grants = vault.grants(&tree).await.unwrap();
    assert!(
        grants[0].order() > later.order(),
        "it outranks what was lost"
    );
    assert!(matches!(redeem(&grants[0]).await, Err(VaultError::Held)));
    assert!(vault.is_held().await.unwrap());

    vault
        .confirm_restore(&namespace(), &by, None)
        .await
        .unwrap();
    assert!(!vault.is_held().await.unwrap());
    let redeemed = redeem(&later).await.unwrap();
    assert!(redeemed.newer && redeemed.grant.order() == grants[0].order());
    let kinds: Vec<Kind> = store
        .list(&Filter::default(), None, 500)
        .await
        .unwrap()
        .records
        .into_iter()
        .map(|record| record.entry.kind)
        .collect();
    for kind in [Kind::EpochRaised, Kind::RestoreConfirmed] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
    verified(&store).await.unwrap();
}

#[tokio::test]
async fn no_provider_is_asked_with_what_a_backup_holds_until_that_is_confirmed() {
    let house = House::new().await;
    obtained(&house, source()).await;
    let lines = copied(&house.store).await;
    let folder = tempfile::tempdir().unwrap();
    fs::copy(house.folder.path().join("kek"), folder.path().join("kek")).unwrap();
    loaded(database::empty(folder.path()).await, lines)
        .await
        .unwrap();
    let (_store, vault) = open(folder.path(), house.clock.clone()).await.unwrap();
    let (namespace, name, by) = (namespace(), name(), agent("admin"));
    let keeper = Asker::Keeper {
        agent: &by,
        rest: Duration::ZERO,
    };
    let seen = Some(Version(1));
    for settled in [false, true] {
        if settled {
            let settled = vault.settle_restore(&namespace, &by).await.unwrap();
            assert!(settled.is_some());
        }
        for asker in [Asker::Somebody, keeper] {
            let begun = vault.begin_renewal(&namespace, &name, seen, asker).await;
            assert!(matches!(begun, Err(VaultError::Held)), "{begun:?}");
        }
    }
    vault.confirm_restore(&namespace, &by, None).await.unwrap();
    let begun = vault.begin_renewal(&namespace, &name, seen, Asker::Somebody);
    assert!(begun.await.unwrap().is_some());
}

#[tokio::test]
async fn another_instance_notices_the_confirmation() {
    let house = House::new().await;
    let lines = copied(&house.store).await;
    let folder = tempfile::tempdir().unwrap();
    fs::copy(house.folder.path().join("kek"), folder.path().join("kek")).unwrap();
    loaded(database::empty(folder.path()).await, lines)
        .await
        .unwrap();
    let (_store, vault) = open(folder.path(), house.clock.clone()).await.unwrap();
    vault
        .settle_restore(&namespace(), &agent("admin"))
        .await
        .unwrap();
    let checkpoints = folder.path().join("beside").join("checkpoints.jws");
    let beside = open_with(folder.path(), house.clock.clone(), &checkpoints);
    let (_, beside) = beside.await.unwrap();
    assert!(beside.is_held().await.unwrap());
    vault
        .confirm_restore(&namespace(), &agent("admin"), None)
        .await
        .unwrap();
    assert!(!beside.is_held().await.unwrap());
}

#[tokio::test]
async fn an_epoch_that_is_made_current_by_hand_is_noticed() {
    let house = House::new().await;
    let lines = copied(&house.store).await;
    let held = lines
        .iter()
        .map(|line| line.replace("\"current\"", "\"held\""));
    let folder = tempfile::tempdir().unwrap();
    fs::copy(house.folder.path().join("kek"), folder.path().join("kek")).unwrap();
    loaded(database::empty(folder.path()).await, held.collect())
        .await
        .unwrap();
    let (_store, vault) = open(folder.path(), house.clock.clone()).await.unwrap();
    vault
        .settle_restore(&namespace(), &agent("admin"))
        .await
        .unwrap();
    let mut burglar = database::burglar(folder.path()).await;
    let edit = sqlx::query("UPDATE epoch SET state = 'current'");
    edit.execute(&mut burglar).await.unwrap();
    let error = vault.epoch().await.unwrap_err();
    assert!(matches!(error, VaultError::Tampered(_)), "{error:?}");
}

#[tokio::test]
async fn what_is_no_whole_copy_changes_nothing() {
    let house = furnished().await;
    let lines = copied(&house.store).await;
    let without_end = lines[..lines.len() - 1].to_vec();
    let mut row_less = lines.clone();
    let row = lines.iter().position(|line| line.starts_with("{\"row\""));
    row_less.remove(row.unwrap());
    let mut newer = lines.clone();
    newer[0] = newer[0].replace("\"schema\":[", "\"schema\":[999999,");
    let mut no_copy = lines.clone();
    no_copy[3] = "{}".to_owned();
    let folder = tempfile::tempdir().unwrap();
    let refused = async |lines, confirmed| {
        let empty = database::empty(folder.path()).await;
        load(empty, lines, confirmed).await.unwrap_err()
    };
    assert!(matches!(
        refused(without_end, true).await,
        LoadError::CutOff
    ));
    assert!(matches!(refused(row_less, true).await, LoadError::Line(_)));
    assert!(matches!(refused(newer, true).await, LoadError::Newer));
    assert!(matches!(refused(no_copy, true).await, LoadError::Line(4)));
    assert!(matches!(refused(Vec::new(), true).await, LoadError::CutOff));
    assert!(matches!(
        refused(lines.clone(), false).await,
        LoadError::NotConfirmed
    ));
    // So it is still empty.
    loaded(database::empty(folder.path()).await, lines.clone())
        .await
        .unwrap();
    assert!(matches!(refused(lines, true).await, LoadError::NotEmpty));
}

#[tokio::test]
async fn a_copy_shows_no_token() {
    let house = furnished().await;
    let lines = copied(&house.store).await.join("\n");
    assert!(!lines.contains(V1) && !lines.contains(V2));
}
