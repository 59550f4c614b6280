//! Usage, counted and told on a real database.

use crate::house::{House, agent, namespace};
use std::time::{Duration, UNIX_EPOCH};
use xylem_audit::{
    By, Called, Counts, Entry, Kind, Period, Record, Usage, UsageKey, UsageQuery, Verdict, Watch,
};

const HOUR: u64 = 60 * 60;
/// The first hour of a day.
const FIRST: u64 = 500_016;

/// The end of a call, or a denial.
fn entry(hour: u64, who: &str, tool: &str, kind: Kind, verdict: Verdict) -> Entry {
    let at = UNIX_EPOCH + Duration::from_secs(hour * HOUR + 7);
    let mut entry = Entry::new(at, kind, verdict).by(&agent("worker"));
    entry.namespace = Some(namespace());
    entry.owner = Some(agent(who));
    entry.tool = Some(tool.parse().unwrap());
    entry
}

fn called(hour: u64, who: &str, tool: &str, verdict: Verdict, took_ms: u64) -> Entry {
    let mut entry = entry(hour, who, tool, Kind::Outcome, verdict);
    entry.duration_ms = Some(took_ms);
    (entry.bytes_out, entry.bytes_in) = (Some(10), Some(100));
    entry
}

async fn count(house: &House, entries: Vec<Entry>) {
    let mut memory = house.store.begin_watch().await.unwrap();
    for (seq, entry) in entries.into_iter().enumerate() {
        let id = seq.to_string().parse().unwrap();
        let record = Record {
            id,
            entry,
            erased: false,
        };
        memory
            .add_usage(&Called::of(&record).unwrap())
            .await
            .unwrap();
    }
    memory.commit(&[]).await.unwrap();
}

async fn some(house: &House) {
    let denied = entry(FIRST, "alice", "acme.a", Kind::Redeem, Verdict::Denied);
    count(
        house,
        vec![
            called(FIRST, "alice", "acme.a", Verdict::Succeeded, 5),
            called(FIRST, "alice", "acme.a", Verdict::Succeeded, 7),
            called(FIRST, "alice", "acme.a", Verdict::Failed, 1_000),
            called(FIRST + 1, "alice", "acme.b", Verdict::Succeeded, 5),
            called(FIRST + 1, "bob", "acme.a", Verdict::Succeeded, 5),
            called(FIRST + 24, "alice", "acme.a", Verdict::Succeeded, 9),
            denied.clone(),
            denied,
        ],
    )
    .await;
}

fn everything() -> UsageQuery {
    UsageQuery {
        agent: None,
        tool: None,
        from: FIRST,
        until: FIRST + 48,
        per: Period::All,
        by: By::AgentAndTool,
    }
}

async fn told(house: &House, query: &UsageQuery) -> Vec<Usage> {
    let store = &house.store;
    store.usage(&namespace(), query, None, 100).await.unwrap()
}

fn calls(usage: &[Usage]) -> Vec<(u64, &str, &str, u64)> {
    let rows = usage.iter().map(|usage| {
        let key = &usage.key;
        (
            key.hour,
            key.agent.as_str(),
            key.tool.as_str(),
            usage.counts.calls,
        )
    });
    rows.collect()
}

#[tokio::test]
async fn calls_failures_denials_bytes_and_durations_are_counted() {
    let house = House::new().await;
    some(&house).await;
    let query = UsageQuery {
        per: Period::Hour,
        until: FIRST + 1,
        ..everything()
    };
    let usage = told(&house, &query).await;
    let key = UsageKey {
        hour: FIRST,
        agent: "alice".to_owned(),
        tool: "acme.a".to_owned(),
    };
    let counts = Counts {
        calls: 3,
        failures: 1,
        denials: 2,
        bytes_out: 30,
        bytes_in: 300,
    };
    let durations = vec![(5, 1), (7, 1), (xylem_audit::class(1_000), 1)];
    let expected = Usage {
        key,
        hours: 1,
        counts,
        durations,
    };
    assert_eq!(usage, [expected]);
    assert_eq!(usage[0].percentile(50), Some(7));
}

#[tokio::test]
async fn usage_is_told_by_agent_tool_and_period() {
    let house = House::new().await;
    some(&house).await;
    let all = told(&house, &everything()).await;
    let expected = [
        (0, "alice", "acme.a", 4),
        (0, "alice", "acme.b", 1),
        (0, "bob", "acme.a", 1),
    ];
    assert_eq!(calls(&all), expected);
    let by = |by, per| UsageQuery {
        by,
        per,
        ..everything()
    };
    let tools = told(&house, &by(By::Tool, Period::All)).await;
    assert_eq!(calls(&tools), [(0, "", "acme.a", 5), (0, "", "acme.b", 1)]);
    let days = told(&house, &by(By::Agent, Period::Day)).await;
    let expected = [
        (FIRST, "alice", "", 4),
        (FIRST, "bob", "", 1),
        (FIRST + 24, "alice", "", 1),
    ];
    assert_eq!(calls(&days), expected);
    let bob = UsageQuery {
        agent: Some(agent("bob")),
        tool: Some("acme.a".parse().unwrap()),
        ..everything()
    };
    assert_eq!(calls(&told(&house, &bob).await), [(0, "bob", "acme.a", 1)]);
}

#[tokio::test]
async fn pages_of_usage_end_and_go_on() {
    let house = House::new().await;
    some(&house).await;
    let query = everything();
    let mut paged = Vec::new();
    let mut after: Option<UsageKey> = None;
    loop {
        let store = &house.store;
        let page = store.usage(&namespace(), &query, after.as_ref(), 1).await;
        let page = page.unwrap();
        assert!(page.len() <= 1, "{page:?}");
        let Some(last) = page.last() else { break };
        after = Some(last.key.clone());
        paged.extend(page);
    }
    assert_eq!(paged, told(&house, &query).await);
}

#[tokio::test]
async fn days_are_what_their_hours_were() {
    let house = House::new().await;
    some(&house).await;
    let days = UsageQuery {
        per: Period::Day,
        ..everything()
    };
    let before = told(&house, &days).await;
    for _ in 0..2 {
        let mut memory = house.store.begin_watch().await.unwrap();
        memory.fold_usage(&namespace(), FIRST + 24).await.unwrap();
        memory.commit(&[]).await.unwrap();
    }
    // An entry of a day that was added up already.
    let late = called(FIRST + 3, "bob", "acme.a", Verdict::Succeeded, 5);
    count(&house, vec![late]).await;
    let mut memory = house.store.begin_watch().await.unwrap();
    memory.fold_usage(&namespace(), FIRST + 24).await.unwrap();
    memory.commit(&[]).await.unwrap();
    let after = told(&house, &days).await;
    let same = |usage: &Usage| (usage.key.clone(), usage.counts, usage.durations.clone());
    assert_eq!(same(&after[0]), same(&before[0]));
    assert_eq!(after[2].counts.calls, before[2].counts.calls + 1);
    let hours = UsageQuery {
        per: Period::Hour,
        ..everything()
    };
    let hours = told(&house, &hours).await;
    let lengths: Vec<_> = hours
        .iter()
        .map(|usage| (usage.key.hour, usage.hours))
        .collect();
    let expected = [(FIRST, 24), (FIRST, 24), (FIRST, 24), (FIRST + 24, 1)];
    assert_eq!(lengths, expected);
}
