//! Whose turn it is where several processes write to one database.

use crate::{
    database,
    house::{self, House, V1, V2, agent},
};
use sqlx::{AssertSqlSafe, Connection};
use std::{path::Path, pin::pin, sync::Arc, task::Poll, time::Duration};
use tempfile::{TempDir, tempdir};
use tokio::{task::JoinSet, time::Instant};
use xylem_audit::{Entry, Filter, Kind, Log, PageToken, Verdict};
use xylem_store::Store;
use xylem_vault::{Clock, Storage, StorageError, Target, TreeState};

/// A new database with settings of its administrator's.
async fn with(settings: &[&str]) -> TempDir {
    let folder = tempdir().unwrap();
    let url = database::url(folder.path()).await;
    let url: url::Url = url.parse().unwrap();
    let name = url.path().trim_start_matches('/');
    for setting in settings {
        let sql = format!("ALTER DATABASE {name} SET {setting}");
        execute(folder.path(), sql).await;
    }
    folder
}

async fn execute(folder: &Path, sql: String) {
    let mut burglar = database::burglar(folder).await;
    let done = sqlx::query(AssertSqlSafe(sql)).execute(&mut burglar);
    done.await.unwrap();
    burglar.close().await.unwrap();
}

/// How many sessions of the store's are in this state.
async fn sessions(folder: &Path, state: &str) -> i64 {
    let mut burglar = database::burglar(folder).await;
    let query = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database()
        AND application_name = 'xylem' AND state = $1";
    let count = sqlx::query_scalar(query)
        .bind(state)
        .fetch_one(&mut burglar);
    let count = count.await.unwrap();
    burglar.close().await.unwrap();
    count
}

async fn open(folder: &TempDir) -> Store {
    database::open(folder.path()).await.unwrap()
}

#[tokio::test]
async fn a_writer_waits_for_the_one_before_and_not_for_ever() {
    let folder = with(&["lock_timeout = '200ms'"]).await;
    let (one, two) = (open(&folder).await, open(&folder).await);
    let turn = Storage::begin(&one).await.unwrap();
    let refused = Storage::begin(&two).await.err();
    assert!(
        matches!(refused, Some(StorageError::Unavailable(_))),
        "{refused:?}"
    );
    Storage::begin_read(&two).await.unwrap();
    drop(turn);
    Storage::begin(&two).await.unwrap();
}

#[tokio::test]
async fn a_writer_that_was_frozen_loses_its_turn_and_commits_nothing() {
    let folder = with(&["idle_in_transaction_session_timeout = '200ms'"]).await;
    let (one, two) = (open(&folder).await, open(&folder).await);
    let key = house::key_row("frozen");
    let mut frozen = Storage::begin(&one).await.unwrap();
    frozen.put_key(&key).await.unwrap();
    // Waits for as long as the first is thought to be at work.
    let mut turn = Storage::begin(&two).await.unwrap();
    assert_eq!(turn.key(&key.id).await.unwrap(), None);
    turn.commit().await.unwrap();
    let late = frozen.commit().await;
    assert!(
        matches!(late, Err(StorageError::Unavailable(_))),
        "{late:?}"
    );
    let mut look = Storage::begin_read(&one).await.unwrap();
    assert_eq!(look.key(&key.id).await.unwrap(), None);
}

#[tokio::test]
async fn a_session_that_was_ended_is_an_error_once() {
    let house = House::new().await;
    let tree = house.tree("train").await;
    let turn = Storage::begin(&*house.store).await.unwrap();
    let end = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'xylem'";
    execute(house.folder.path(), end.to_owned()).await;
    let late = turn.commit().await;
    assert!(
        matches!(late, Err(StorageError::Unavailable(_))),
        "{late:?}"
    );
    house.deposit(&tree, V1, "d1").await;
    house.store.ping().await.unwrap();
    house.verified().await.unwrap();
}

#[tokio::test]
async fn beginnings_that_are_dropped_hold_nobody_up() {
    let folder = with(&[]).await;
    let (one, two) = (open(&folder).await, open(&folder).await);
    for polls in (0..4).cycle().take(200) {
        let mut left = polls;
        let mut begin = pin!(Storage::begin(&one));
        std::future::poll_fn(|context| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            begin.as_mut().poll(context).map(drop)
        })
        .await;
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while sessions(folder.path(), "idle in transaction").await > 0 {
        assert!(Instant::now() < deadline, "transactions stay open");
        Storage::begin(&one).await.unwrap();
    }
    let (mine, theirs) = (house::key_row("mine"), house::key_row("theirs"));
    for (store, key) in [(&one, &mine), (&two, &theirs)] {
        let mut turn = Storage::begin(store).await.unwrap();
        turn.put_key(key).await.unwrap();
        turn.commit().await.unwrap();
    }
}

#[tokio::test]
async fn a_tail_misses_no_entry_of_two_processes() {
    const EACH: u64 = 40;
    let house = House::new().await;
    let beside = house.store_beside().await;
    let before = house.log().await.len() as u64;
    let last = before + 2 * EACH;
    let append = |store: Arc<Store>, clock: Arc<house::Still>| async move {
        for _ in 0..EACH {
            let entry = Entry::new(clock.now(), Kind::AgentCreated, Verdict::Succeeded);
            store.append(&[entry]).await.unwrap();
        }
    };
    let one = tokio::spawn(append(house.store.clone(), house.clock.clone()));
    let two = tokio::spawn(append(beside.clone(), house.clock.clone()));
    let mut seen: Vec<u64> = Vec::new();
    while seen.last() != Some(&last) {
        let after = seen.last().copied().map(PageToken::after);
        let page = beside.list(&Filter::default(), after.as_ref(), 7).await;
        let ids = page.unwrap().records.into_iter().map(|record| record.id);
        seen.extend(ids.map(|id| id.to_string().parse::<u64>().unwrap()));
    }
    one.await.unwrap();
    two.await.unwrap();
    assert!(seen.into_iter().eq(1..=last));
    assert_eq!(house.verified().await.unwrap().entries, last);
}

#[tokio::test]
async fn what_the_administrator_made_the_default_changes_nothing() {
    let folder = with(&[
        "default_transaction_isolation = serializable",
        "synchronous_commit = off",
        "default_transaction_read_only = on",
    ])
    .await;
    let house = House::in_folder(folder).await;
    let beside = house.beside().await;
    let (tree, _) = house.planted("train").await;
    let mut deposits = JoinSet::new();
    for n in 2..10 {
        let vault = if n % 2 == 0 { &house.vault } else { &beside }.clone();
        let deposit = house::deposit(Target::Tree(tree.clone()), V2, &format!("d{n}"));
        deposits.spawn(async move { vault.deposit(deposit).await.unwrap() });
    }
    deposits.join_all().await;
    assert_eq!(house.vault.status(&tree).await.unwrap().len(), 9);
    let stopped = beside.stop(house::stopping(&tree)).await.unwrap();
    assert!(matches!(stopped.state, TreeState::Stopped { .. }));
    house
        .vault
        .rotate_issuer(&house::namespace(), &agent("admin"))
        .await
        .unwrap();
}
