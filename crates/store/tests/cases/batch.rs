//! Entries that share a commit.

use crate::house::House;
use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};
use tokio::task::JoinSet;
use xylem_audit::{Entry, Filter, Kind, Log, LogError, MAX_PAGE, Reason, Verdict};
use xylem_store::Store;

const NUMBER: &str = "number";

pub(crate) fn numbered(number: u64) -> Entry {
    let at = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let mut entry = Entry::new(at, Kind::AgentCreated, Verdict::Succeeded);
    entry.numbers.insert(Reason::of(NUMBER), number);
    entry
}

/// Which of them are written.
pub(crate) async fn numbers(store: &Store) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut after = None;
    loop {
        let page = store
            .list(&Filter::default(), after.as_ref(), MAX_PAGE)
            .await
            .unwrap();
        let entries = page.records.iter().map(|record| &record.entry);
        numbers.extend(entries.filter_map(|entry| entry.numbers.get(&Reason::of(NUMBER))));
        after = page.next;
        if after.is_none() {
            return numbers;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everybody_who_appends_at_once_is_written_once() {
    let house = House::new().await;
    let mut appending = JoinSet::new();
    for number in 0..300 {
        let store = Arc::clone(&house.store);
        appending.spawn(async move { store.append(&[numbered(number)]).await });
    }
    let appended = appending.join_all().await;
    assert!(appended.iter().all(Result::is_ok), "{appended:?}");
    let mut written = numbers(&house.store).await;
    written.sort_unstable();
    assert_eq!(written, (0..300).collect::<Vec<_>>());
    house.verified().await.unwrap();
}

#[tokio::test]
async fn the_entries_of_one_call_stay_together_however_many() {
    let house = House::new().await;
    let many: Vec<_> = (0..700).map(numbered).collect();
    let last = [numbered(700)];
    let (many, one) = tokio::join!(house.store.append(&many), house.store.append(&last));
    many.and(one).unwrap();
    assert_eq!(numbers(&house.store).await, (0..=700).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_error_reaches_everybody_and_the_next_begins_anew() {
    let house = House::new().await;
    house.jam("audit").await;
    let append = |number| {
        let store = Arc::clone(&house.store);
        async move { store.append(&[numbered(number)]).await }
    };
    let (one, two, three) = tokio::join!(append(1), append(2), append(3));
    for refused in [one, two, three] {
        assert!(
            matches!(refused, Err(LogError::Unavailable(_))),
            "{refused:?}"
        );
    }
    house.unjam("audit").await;
    append(4).await.unwrap();
    assert_eq!(numbers(&house.store).await, [4]);
}

#[tokio::test]
async fn more_than_can_wait_are_refused() {
    let house = House::new().await;
    // Somebody has the turn to write.
    let turn = xylem_vault::Storage::begin(&*house.store).await.unwrap();
    let mut appending = JoinSet::new();
    for number in 0..5_000 {
        let store = Arc::clone(&house.store);
        appending.spawn(async move { store.append(&[numbered(number)]).await });
    }
    let first = appending.join_next().await.unwrap().unwrap();
    assert!(matches!(first, Err(LogError::Busy)), "{first:?}");
    drop(turn);
    let ended = appending.join_all().await;
    let refused = ended.iter().filter(|ended| ended.is_err()).count();
    assert_eq!(numbers(&house.store).await.len(), ended.len() - refused);
}
