//! The audit log on a real database.

mod house;

use house::{House, agent, namespace, workflow};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use xylem_audit::{Activity, Entry, Filter, Kind, Log, NodeRun, PageToken, Reason, Verdict};
use xylem_ids::{Epoch, Order, Serial, TreeId, Version};

fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(second * 1000 + 7)
}

fn full() -> Entry {
    let tree = TreeId {
        namespace: namespace(),
        workflow_id: workflow("train"),
        first_run_id: "run-1".parse().unwrap(),
    };
    let mut entry = Entry::new(at(1), Kind::Outcome, Verdict::Failed)
        .by(&agent("worker"))
        .of_tree(&tree)
        .because("refused_401");
    entry.node = Some(NodeRun {
        workflow_id: workflow("leaf"),
        run_id: Some("run-2".parse().unwrap()),
    });
    entry.activity = Activity::new("7", 3);
    entry.tool = Some("acme.deploy".parse().unwrap());
    entry.slot = Some("default".parse().unwrap());
    entry.order = Some(Order {
        epoch: Epoch(1),
        version: Version(2),
        serial: Serial(3),
    });
    entry.fingerprint = Some("0123456789abcdef".parse().unwrap());
    entry.lease = Some("lease-1".parse().unwrap());
    entry.note = xylem_audit::Note::new("leaked in build 7");
    entry.status = Some(401);
    entry.duration_ms = Some(12);
    entry.count = 9;
    entry
}

fn bare(second: u64, kind: Kind) -> Entry {
    Entry::new(at(second), kind, Verdict::Succeeded)
}

async fn list(house: &House, filter: Filter) -> Vec<Entry> {
    let page = house.store.list(&filter, None, 100).await.unwrap();
    page.records
        .into_iter()
        .map(|record| record.entry)
        .collect()
}

#[tokio::test]
async fn an_entry_reads_back_as_it_was_written() {
    let house = House::new().await;
    let entries = [full(), bare(2, Kind::AgentCreated)];
    house.store.append(&entries).await.unwrap();
    assert_eq!(list(&house, Filter::default()).await, entries);
}

#[tokio::test]
async fn every_filter_narrows() {
    let house = House::new().await;
    let other = bare(2, Kind::AgentCreated);
    house.store.append(&[full(), other]).await.unwrap();
    let entry = full();
    let filters = [
        Filter {
            tree: entry.tree.clone(),
            ..Filter::default()
        },
        Filter {
            namespace: entry.namespace.clone(),
            ..Filter::default()
        },
        Filter {
            workflow_id: Some(workflow("leaf")),
            ..Filter::default()
        },
        Filter {
            kind: Some(Kind::Outcome),
            ..Filter::default()
        },
        Filter {
            verdict: Some(Verdict::Failed),
            ..Filter::default()
        },
        Filter {
            agent: Some(agent("worker")),
            ..Filter::default()
        },
        Filter {
            tool: entry.tool.clone(),
            ..Filter::default()
        },
        Filter {
            slot: entry.slot.clone(),
            ..Filter::default()
        },
        Filter {
            until: Some(at(2)),
            ..Filter::default()
        },
    ];
    for filter in filters {
        assert_eq!(list(&house, filter.clone()).await, [full()], "{filter:?}");
    }
    let since = Filter {
        since: Some(at(2)),
        ..Filter::default()
    };
    assert_eq!(list(&house, since).await.len(), 1);
}

#[tokio::test]
async fn pages_follow_each_other_and_tailing_sees_only_what_is_new() {
    let house = House::new().await;
    let entries: Vec<_> = (0..5).map(|n| bare(n, Kind::KeyCreated)).collect();
    house.store.append(&entries).await.unwrap();
    let mut seen = Vec::new();
    let mut token: Option<PageToken> = None;
    loop {
        let page = house
            .store
            .list(&Filter::default(), token.as_ref(), 2)
            .await
            .unwrap();
        seen.extend(page.records.into_iter().map(|record| record.entry));
        token = page.next.map(|next| next.to_string().parse().unwrap());
        if token.is_none() {
            break;
        }
    }
    assert_eq!(seen, entries);

    let end = house.store.end().await.unwrap();
    house.store.append(&[full()]).await.unwrap();
    let new = house
        .store
        .list(&Filter::default(), Some(&end), 10)
        .await
        .unwrap();
    assert_eq!(new.records.len(), 1);
    assert_eq!(new.records[0].entry.reason, Some(Reason::of("refused_401")));
}

#[tokio::test]
async fn an_unreadable_entry_is_named() {
    let house = House::new().await;
    house.store.append(&[full()]).await.unwrap();
    house.tamper("UPDATE audit SET kind = 'nonsense'").await;
    let error = house
        .store
        .list(&Filter::default(), None, 10)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("audit entry 1") && error.to_string().contains("kind"));
}
