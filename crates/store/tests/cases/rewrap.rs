//! Another key-encryption key takes over, and the one before can go.

use super::credential::{made, tree_of};
use crate::house::{self, Ask, House, V1, agent};
use async_trait::async_trait;
use secrecy::{ExposeSecret, zeroize::Zeroizing};
use std::{fs, sync::Arc};
use tokio::sync::Semaphore;
use xylem_audit::{Entry, Kind, Reason, Verdict};
use xylem_ids::{KeyId, TreeId};
use xylem_seal::Sealed;
use xylem_vault::{
    KeyError, KeyProvider, KeyRing, OlderKey, Rewrap, Rewrapped, Storage, Vault, VaultError,
};

const NEXT: &str = "k2:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";
const PURPOSES: [&str; 6] = [
    "keys WHERE purpose = 'root'",
    "keys WHERE purpose = 'issuer'",
    "keys WHERE purpose = 'retired_issuer'",
    "keys WHERE purpose = 'tree'",
    "keys WHERE purpose = 'credential'",
    "keys WHERE purpose = 'checkpoint'",
];
const MANY: usize = 1000;

fn id(text: &str) -> KeyId {
    text.parse().unwrap()
}

fn key_file(house: &House) -> std::path::PathBuf {
    house.folder.path().join("kek")
}

/// The line of the key file that a house is made with.
fn first_line(house: &House) -> String {
    let text = fs::read_to_string(key_file(house)).unwrap();
    text.trim().to_owned()
}

fn id_of(line: &str) -> KeyId {
    id(line.split_once(':').unwrap().0)
}

fn rewrite(house: &House, lines: &[&str]) {
    fs::write(key_file(house), lines.join("\n")).unwrap();
}

/// With the next key's line before the one that everything is wrapped by, and that line.
async fn succeeded(house: House) -> (House, String) {
    let line = first_line(&house);
    rewrite(&house, &[NEXT, &line]);
    (house.reopen().await, line)
}

fn batch(limit: u32) -> Rewrap {
    Rewrap {
        current: None,
        after: None,
        limit,
        namespace: house::namespace(),
        by: agent("admin"),
    }
}

async fn rewrapped(vault: &Vault) -> Rewrapped {
    vault.rewrap(batch(100)).await.expect("wraps anew")
}

fn wraps(id: &KeyId, wraps: u64) -> OlderKey {
    OlderKey {
        id: id.clone(),
        wraps,
        here: true,
    }
}

async fn token(house: &House, tree: &TreeId) -> String {
    let grants = house.vault.grants(tree).await.unwrap();
    let redeemed = house.redeem(Ask::new(tree, &grants[0])).await.unwrap();
    redeemed.token.expose_secret().to_owned()
}

async fn entries(house: &House, kind: Kind) -> Vec<Entry> {
    let entries = house.log().await.into_iter().map(|record| record.entry);
    entries.filter(|entry| entry.kind == kind).collect()
}

#[tokio::test]
async fn everything_is_wrapped_anew_in_batches_and_the_key_before_can_go() {
    let house = House::new().await;
    let (tree, first) = house.planted("train").await;
    made(&house).await;
    let copied = tree_of(&house, "copied").await;
    house
        .vault
        .rotate_issuer(&house::namespace(), &agent("admin"))
        .await
        .unwrap();
    for purpose in PURPOSES {
        assert!(house.rows(purpose).await > 0, "{purpose}");
    }
    let (house, line) = succeeded(house).await;
    let all = house.rows("keys").await as u64;

    let mut batches = Vec::new();
    let mut after = None;
    loop {
        let ask = Rewrap {
            current: Some(id("k2")),
            after,
            ..batch(2)
        };
        let done = house.vault.rewrap(ask).await.unwrap();
        assert!(done.rewrapped <= 2 && done.unopened.is_empty(), "{done:?}");
        after = done.next.clone();
        batches.push(done);
        if after.is_none() {
            break;
        }
    }
    let counts: Vec<_> = batches.iter().map(|done| done.rewrapped).collect();
    assert_eq!(counts.iter().sum::<u64>(), all, "{counts:?}");
    assert_eq!(batches[0].older, [wraps(&id_of(&line), all - 2)]);
    let last = batches.last().unwrap();
    assert_eq!(last.older, [wraps(&id_of(&line), 0)]);
    assert_eq!(house.rows("keys WHERE wrapped_by <> 'k2'").await, 0);

    let noted = entries(&house, Kind::KeysRewrapped).await;
    let changed = counts.iter().filter(|count| **count > 0);
    assert_eq!(noted.len(), changed.count());
    let subject = noted[0].subject.as_ref().unwrap().to_string();
    assert_eq!(subject, "key_encryption_key:k2");
    assert_eq!(noted[0].agent, Some(agent("admin")));
    assert_eq!(noted[0].numbers.get(&Reason::of("rewrapped")), Some(&2));
    let again = rewrapped(&house.vault).await;
    assert_eq!((again.rewrapped, again.next), (0, None));
    let noted_again = entries(&house, Kind::KeysRewrapped).await;
    assert_eq!(noted_again.len(), noted.len());

    rewrite(&house, &[NEXT]);
    let house = house.reopen().await;
    assert_eq!(house.vault.older_keys().await.unwrap(), []);
    assert_eq!(token(&house, &tree).await, V1);
    assert_eq!(token(&house, &copied).await, V1);
    let retired = house.vault.verify(first.as_str()).await.unwrap();
    assert_eq!(retired, first);
    house.verified().await.unwrap();
}

#[tokio::test]
async fn a_vault_does_not_open_without_a_key_that_still_wraps_something() {
    let house = House::new().await;
    let (tree, _) = house.planted("train").await;
    let (house, line) = succeeded(house).await;
    house.planted("under-the-next").await;
    let opened = async || house::open(house.folder.path(), house.clock.clone()).await;
    let mut left = house.rows("keys WHERE wrapped_by <> 'k2'").await as u64;
    for _ in 0..2 {
        rewrite(&house, &[NEXT]);
        let Err(VaultError::Keys(error)) = opened().await else {
            panic!("it opens without {line}");
        };
        let said = error.to_string();
        assert!(said.contains("xylem vault rewrap"), "{said}");
        match error {
            KeyError::Needed { id, wraps } => assert_eq!((id, wraps), (id_of(&line), left)),
            other => panic!("{other}"),
        }
        let done = house.vault.rewrap(batch(1)).await.unwrap();
        left -= done.rewrapped;
    }
    // Nor without the one that came after it.
    rewrite(&house, &[&line]);
    match opened().await {
        Err(VaultError::Keys(KeyError::Needed { id: missing, .. })) => {
            assert_eq!(missing, id("k2"));
        }
        other => panic!("{:?}", other.map(drop)),
    }
    rewrite(&house, &[NEXT, &line]);
    let house = house.reopen().await;
    assert_eq!(token(&house, &tree).await, V1);
}

/// Keys that lie elsewhere: it can be held up, and answers for as long as it may.
struct Remote {
    ring: KeyRing,
    asked: Semaphore,
    answers: Semaphore,
    /// Whether it waits for leave to answer, or else fails.
    patient: bool,
}

impl Remote {
    fn new(lines: &[&str], patient: bool) -> Arc<Self> {
        Arc::new(Self {
            ring: KeyRing::parse(&lines.join("\n")).unwrap(),
            asked: Semaphore::new(0),
            answers: Semaphore::new(MANY),
            patient,
        })
    }

    /// It answers no more than so many times from now on.
    fn answers(&self, times: usize) {
        self.asked.forget_permits(MANY);
        self.answers.forget_permits(MANY);
        self.answers.add_permits(times);
    }
}

#[async_trait]
impl KeyProvider for Remote {
    fn current(&self) -> &KeyId {
        self.ring.current()
    }

    fn older(&self) -> Vec<KeyId> {
        self.ring.older()
    }

    async fn wrap(&self, place: &[u8], key: &[u8]) -> Result<Sealed, VaultError> {
        self.ring.wrap(place, key).await
    }

    async fn unwrap(
        &self,
        by: &KeyId,
        place: &[u8],
        wrapped: &Sealed,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, VaultError> {
        self.asked.add_permits(1);
        let may = match self.patient {
            true => self.answers.acquire().await.ok(),
            false => self.answers.try_acquire().ok(),
        };
        may.ok_or(VaultError::Crypto)?.forget();
        self.ring.unwrap(by, place, wrapped).await
    }
}

async fn over(house: &House, remote: &Arc<Remote>) -> Arc<Vault> {
    let opened = Vault::open(house.store.clone(), remote.clone(), house.clock.clone());
    Arc::new(opened.await.expect("opens"))
}

#[tokio::test]
async fn nobody_waits_for_the_provider_and_what_changed_meanwhile_stays() {
    let house = House::new().await;
    let (stopped, _) = house.planted("stopped").await;
    let (kept, _) = house.planted("kept").await;
    let (house, line) = succeeded(house).await;
    let remote = Remote::new(&[NEXT, &line], true);
    let vault = over(&house, &remote).await;
    let all = house.rows("keys").await as u64;

    remote.answers(0);
    let waiting = tokio::spawn(async move { rewrapped(&vault).await });
    remote.asked.acquire().await.unwrap().forget();
    // Everything was read by now, and nothing is held.
    house.vault.stop(house::stopping(&stopped)).await.unwrap();
    house
        .vault
        .rotate_issuer(&house::namespace(), &agent("admin"))
        .await
        .unwrap();
    remote.answers(MANY);
    let done = waiting.await.unwrap();
    // Neither the stopped tree's key nor the issuer's, which is retired and another row now.
    assert_eq!((done.rewrapped, done.unopened.len()), (all - 2, 0));
    assert_eq!(done.older, [wraps(&id_of(&line), 0)]);
    // One is destroyed, and one was made.
    assert_eq!(house.rows("keys").await as u64, all);
    assert_eq!(token(&house, &kept).await, V1);
    rewrite(&house, &[NEXT]);
    let house = house.reopen().await;
    assert_eq!(token(&house, &kept).await, V1);
}

#[tokio::test]
async fn what_was_done_before_the_provider_failed_counts() {
    let house = House::new().await;
    house.planted("train").await;
    let (house, line) = succeeded(house).await;
    let remote = Remote::new(&[NEXT, &line], false);
    let vault = over(&house, &remote).await;
    let all = house.rows("keys").await as u64;

    remote.answers(2);
    let half = rewrapped(&vault).await;
    assert_eq!(half.rewrapped, 2);
    let rest = Rewrap {
        after: half.next,
        ..batch(100)
    };
    assert!(rest.after.is_some());
    let failed = vault.rewrap(rest.clone()).await;
    assert!(matches!(failed, Err(VaultError::Crypto)), "{failed:?}");
    remote.answers(MANY);
    let done = vault.rewrap(rest).await.unwrap();
    assert_eq!((done.rewrapped, done.next), (all - 2, None));
    assert_eq!(done.older, [wraps(&id_of(&line), 0)]);
}

#[tokio::test]
async fn two_at_the_same_time_share_the_work() {
    let house = House::new().await;
    for number in 0..10 {
        house.planted(&format!("train-{number}")).await;
    }
    let (house, line) = succeeded(house).await;
    let all = house.rows("keys").await as u64;
    let beside = house.beside().await;
    let (one, other) = tokio::join!(rewrapped(&house.vault), rewrapped(&beside));
    assert_eq!(one.rewrapped + other.rewrapped, all);
    let older = beside.older_keys().await.unwrap();
    assert_eq!(older, [wraps(&id_of(&line), 0)]);
}

#[tokio::test]
async fn an_edited_row_is_named_and_the_others_go_on() {
    let house = House::new().await;
    let (swapped, _) = house.planted("swapped").await;
    let (cut, _) = house.planted("cut").await;
    let (kept, _) = house.planted("kept").await;
    house
        .tamper(
            "UPDATE keys SET (nonce, wrapped) = (
                SELECT k.nonce, k.wrapped FROM keys k JOIN trees t ON t.data_key = k.id
                WHERE t.workflow_id = 'kept')
             WHERE id = (SELECT data_key FROM trees WHERE workflow_id = 'swapped')",
        )
        .await;
    house
        .tamper(
            "UPDATE keys SET nonce = zeroblob(1)
             WHERE id = (SELECT data_key FROM trees WHERE workflow_id = 'cut')",
        )
        .await;
    let (house, line) = succeeded(house).await;
    let all = house.rows("keys").await as u64;

    let done = rewrapped(&house.vault).await;
    assert_eq!((done.rewrapped, &done.next), (all - 2, &None));
    assert_eq!(done.older, [wraps(&id_of(&line), 2)]);
    let owner = |key: &xylem_vault::Unopened| key.owner.as_ref().map(ToString::to_string);
    let mut owners: Vec<_> = done.unopened.iter().filter_map(owner).collect();
    owners.sort();
    assert_eq!(owners, ["tree:cut", "tree:swapped"]);
    assert!(done.unopened.iter().all(|key| key.missing.is_none()));
    let named = entries(&house, Kind::Tampered).await;
    let subjects = named.iter().filter_map(|entry| entry.subject.as_ref());
    let subjects: Vec<_> = subjects.map(ToString::to_string).collect();
    let ids = done.unopened.iter();
    let ids: Vec<_> = ids.map(|key| format!("wrapped_key:{}", key.id)).collect();
    assert_eq!(subjects, ids);
    assert!(named.iter().all(|entry| entry.verdict == Verdict::Denied));
    assert_eq!(token(&house, &kept).await, V1);

    // Their keys go with the trees.
    for tree in [&swapped, &cut] {
        house.vault.stop(house::stopping(tree)).await.unwrap();
    }
    let older = house.vault.older_keys().await.unwrap();
    assert_eq!(older, [wraps(&id_of(&line), 0)]);
}

#[tokio::test]
async fn a_key_that_nobody_has_keeps_no_other_from_going() {
    let house = House::new().await;
    let (tree, _) = house.planted("train").await;
    let (house, line) = succeeded(house).await;
    let mut orphan = house::key_row("orphan");
    let mut tx = Storage::begin(&*house.store).await.unwrap();
    tx.put_key(&orphan).await.unwrap();
    (orphan.id, orphan.wrapped_by) = (id("another"), id_of(&line));
    tx.put_key(&orphan).await.unwrap();
    tx.commit().await.unwrap();

    let done = rewrapped(&house.vault).await;
    assert_eq!(done.older, [wraps(&id_of(&line), 0)]);
    assert!(done.unopened.is_empty(), "{:?}", done.unopened);
    rewrite(&house, &[NEXT]);
    let house = house.reopen().await;
    assert_eq!(token(&house, &tree).await, V1);
    // It is left where somebody can look at it.
    assert_eq!(house.rows("keys WHERE wrapped_by <> 'k2'").await, 2);
}

#[tokio::test]
async fn instances_that_wrap_under_different_keys_do_not_undo_each_others_work() {
    let house = House::new().await;
    let line = first_line(&house);
    let next = over(&house, &Remote::new(&[NEXT, &line], true)).await;
    let start = next.open_tree(house::new_tree("train")).await.unwrap();
    next.bind(&start, "run-1".parse().unwrap()).await.unwrap();

    // The house has not got the next key at all.
    let done = rewrapped(&house.vault).await;
    assert_eq!((&done.current, done.rewrapped), (&id_of(&line), 0));
    assert_eq!(done.unopened.len(), 1);
    assert_eq!(done.unopened[0].missing, Some(id("k2")));
    let missing = OlderKey {
        here: false,
        ..wraps(&id("k2"), 1)
    };
    assert_eq!(done.older, [missing]);
    let ask = Rewrap {
        current: Some(id("k2")),
        ..batch(100)
    };
    match house.vault.rewrap(ask).await {
        Err(VaultError::OtherCurrentKey(current)) => assert_eq!(current, id_of(&line)),
        other => panic!("{other:?}"),
    }
    assert!(entries(&house, Kind::KeysRewrapped).await.is_empty());
}
