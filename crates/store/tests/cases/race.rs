//! Things that happen at the same moment.

use crate::house::{self, Ask, House, V2, agent, slot};
use std::sync::Arc;
use tokio::task::JoinSet;
use xylem_ids::Version;
use xylem_vault::{Refusal, Revocation, Target, VaultError, VersionState};

fn revocation(tree: &xylem_ids::TreeId, version: u32, force: bool) -> Revocation {
    Revocation {
        tree: tree.clone(),
        slot: slot("default"),
        version: Version(version),
        force,
        by: agent("operator"),
        note: None,
    }
}

/// Redemptions race a rotation and the revocation of the old version. A revocation that went
/// through without force saw no open lease, and none begins after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lease_and_a_revocation_of_its_version_never_both() {
    for round in 0..10 {
        let house = Arc::new(House::new().await);
        let (tree, v1) = house.planted("train").await;
        let mut redeems = JoinSet::new();
        for _ in 0..8 {
            let (house, ask) = (house.clone(), Ask::new(&tree, &v1));
            redeems.spawn(async move { house.redeem(ask).await.unwrap().order.version });
        }
        let rotate = {
            let (house, tree) = (house.clone(), tree.clone());
            tokio::spawn(async move {
                house.deposit(&tree, V2, "d2").await;
                house.vault.revoke(revocation(&tree, 1, false)).await
            })
        };
        let leased = redeems.join_all().await;
        let on_v1 = leased.iter().filter(|version| version.0 == 1).count();
        match rotate.await.unwrap() {
            Ok(revoked) => assert_eq!((revoked.open_leases, on_v1), (0, 0), "round {round}"),
            Err(VaultError::OpenLeases { count, .. }) => {
                assert!(count > 0 && usize::try_from(count).unwrap() <= on_v1);
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_redemption_and_a_stop_never_interleave() {
    let house = Arc::new(House::new().await);
    let (tree, v1) = house.planted("train").await;
    let mut asks = JoinSet::new();
    for _ in 0..16 {
        let (house, ask) = (house.clone(), Ask::new(&tree, &v1));
        asks.spawn(async move { house.redeem(ask).await });
    }
    house.vault.stop(house::stopping(&tree)).await.unwrap();
    let mut granted = 0;
    for answer in asks.join_all().await {
        match answer {
            Ok(_) => granted += 1,
            Err(VaultError::Refused(Refusal::TreeStopped)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(house.leases().await, granted);
    assert_eq!(
        house.refused(Ask::new(&tree, &v1)).await,
        Refusal::TreeStopped
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rotations_at_the_same_moment_get_numbers_of_their_own() {
    let house = Arc::new(House::new().await);
    let tree = house.tree("train").await;
    let mut deposits = JoinSet::new();
    for n in 0..20_u32 {
        let (house, tree) = (house.clone(), tree.clone());
        deposits.spawn(async move {
            let token = format!("acme-token-number-{n}");
            house
                .deposit(&tree, &token, &format!("d{n}"))
                .await
                .order
                .version
                .0
        });
    }
    let mut numbers = deposits.join_all().await;
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=20).collect::<Vec<_>>());
    let status = house.vault.status(&tree).await.unwrap();
    let active = status
        .iter()
        .filter(|v| v.info.state == VersionState::Active);
    assert_eq!(active.map(|v| v.info.version.0).collect::<Vec<_>>(), [20]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_request_at_the_same_moment_is_one_deposit() {
    let house = Arc::new(House::new().await);
    let tree = house.tree("train").await;
    let mut deposits = JoinSet::new();
    for _ in 0..10 {
        let (house, tree) = (house.clone(), tree.clone());
        deposits.spawn(async move {
            let deposit = house::deposit(Target::Tree(tree), V2, "d1");
            house.vault.deposit(deposit).await.unwrap().repeated
        });
    }
    let repeated = deposits.join_all().await;
    assert_eq!(repeated.iter().filter(|repeated| !**repeated).count(), 1);
    assert_eq!(house.vault.status(&tree).await.unwrap().len(), 1);
}
