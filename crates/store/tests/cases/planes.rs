//! Two processes on one database.

use crate::house::{self, Ask, House, V2, agent, worker};
use secrecy::ExposeSecret;
use xylem_vault::{CallEnd, Target};

#[tokio::test]
async fn a_rotation_of_the_issuer_counts_for_every_process_at_once() {
    let house = House::new().await;
    let (tree, old) = house.planted("train").await;
    let beside = house.beside().await;

    house.vault.rotate_issuer(&agent("admin")).await.unwrap();
    let new = house.vault.grants(&tree).await.unwrap().remove(0);
    assert_eq!(beside.verify(new.as_str()).await.unwrap(), new);
    let ask = Ask::new(&tree, &new);
    let redeemed = house.redeem_at(&beside, ask).await.unwrap();
    assert_eq!(redeemed.grant, new);

    house.vault.rotate_issuer(&agent("admin")).await.unwrap();
    let deposit = house::deposit(Target::Tree(tree.clone()), V2, "d2");
    let deposited = beside.deposit(deposit).await.unwrap().grant.unwrap();
    assert_eq!(house.vault.grants(&tree).await.unwrap(), [deposited]);

    house.vault.rotate_issuer(&agent("admin")).await.unwrap();
    assert_eq!(
        beside.issuer_set().await.unwrap(),
        house.vault.issuer_set().await.unwrap()
    );
    let ask = Ask::new(&tree, &old);
    let redeemed = house.redeem_at(&beside, ask).await.unwrap();
    assert_eq!(redeemed.token.expose_secret(), V2);
}

#[tokio::test]
async fn a_lease_of_one_process_is_released_by_another() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    let beside = house.beside().await;
    let redeemed = house.redeem(Ask::new(&tree, &grant)).await.unwrap();
    let end = CallEnd {
        succeeded: true,
        reason: None,
        status: Some(200),
        duration: house::HOUR,
        undone: false,
        bytes_out: 0,
        bytes_in: 0,
    };
    beside
        .release(&redeemed.lease, &worker(), &end)
        .await
        .unwrap();
    assert_eq!(house.vault.status(&tree).await.unwrap()[0].open_leases, 0);
}
