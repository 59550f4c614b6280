//! Two processes on one database.

use crate::house::{self, Ask, House, V2, agent, worker};
use async_trait::async_trait;
use secrecy::{ExposeSecret, zeroize::Zeroizing};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use xylem_ids::KeyId;
use xylem_seal::Sealed;
use xylem_vault::{CallEnd, KeyProvider, KeyRing, Target, Vault, VaultError};

/// Counts how often it is asked for a key, as a service would be.
struct Counting {
    keys: KeyRing,
    asked: AtomicUsize,
}

#[async_trait]
impl KeyProvider for Counting {
    fn current(&self) -> &KeyId {
        self.keys.current()
    }

    fn older(&self) -> Vec<KeyId> {
        self.keys.older()
    }

    async fn wrap(&self, place: &[u8], key: &[u8]) -> Result<Sealed, VaultError> {
        self.keys.wrap(place, key).await
    }

    async fn unwrap(
        &self,
        by: &KeyId,
        place: &[u8],
        wrapped: &Sealed,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, VaultError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.keys.unwrap(by, place, wrapped).await
    }
}

/// How often the key provider is asked where the issuer's key is rotated under so many trees.
async fn asked_for(trees: usize) -> usize {
    let house = House::new().await;
    for number in 0..trees {
        house.planted(&format!("train-{number}")).await;
    }
    let keys = KeyRing::from_file(&house.folder.path().join("kek"));
    let keys = Arc::new(Counting {
        keys: keys.unwrap(),
        asked: AtomicUsize::default(),
    });
    let vault = Vault::open(house.store.clone(), keys.clone(), house.clock.clone());
    let vault = vault.await.unwrap();
    let before = keys.asked.load(Ordering::SeqCst);
    let rotated = vault
        .rotate_issuer(&house::namespace(), &agent("admin"))
        .await
        .unwrap();
    assert_eq!(rotated.trees.len(), trees);
    keys.asked.load(Ordering::SeqCst) - before
}

#[tokio::test]
async fn a_rotation_of_the_issuer_asks_for_no_key_again_and_again() {
    assert_eq!(asked_for(7).await, asked_for(1).await);
}

#[tokio::test]
async fn a_rotation_of_the_issuer_counts_for_every_process_at_once() {
    let house = House::new().await;
    let (tree, old) = house.planted("train").await;
    let beside = house.beside().await;

    house
        .vault
        .rotate_issuer(&house::namespace(), &agent("admin"))
        .await
        .unwrap();
    let new = house.vault.grants(&tree).await.unwrap().remove(0);
    assert_eq!(beside.verify(new.as_str()).await.unwrap(), new);
    let ask = Ask::new(&tree, &new);
    let redeemed = house.redeem_at(&beside, ask).await.unwrap();
    assert_eq!(redeemed.grant, new);

    house
        .vault
        .rotate_issuer(&house::namespace(), &agent("admin"))
        .await
        .unwrap();
    let deposit = house::deposit(Target::Tree(tree.clone()), V2, "d2");
    let deposited = beside.deposit(deposit).await.unwrap().grant.unwrap();
    assert_eq!(house.vault.grants(&tree).await.unwrap(), [deposited]);

    house
        .vault
        .rotate_issuer(&house::namespace(), &agent("admin"))
        .await
        .unwrap();
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
