//! The audit log on a real database.

use crate::{
    database,
    house::{House, agent, namespace, workflow},
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use xylem_audit::{
    Activity, Entry, Filter, Kind, Log, LogError, NodeRun, PageToken, Reason, Subject, SubjectKind,
    Verdict,
};
use xylem_ids::{Epoch, Order, Serial, TreeId, Version};
use xylem_vault::Storage;

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
    entry.owner = Some(agent("service"));
    entry.subject = Some(Subject::new(SubjectKind::Agent, "svc-7"));
    entry.address = Some("2001:db8::7".parse().unwrap());
    entry.numbers = [(Reason::of("denials"), 10)].into();
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
    let house = House::bare().await;
    let entries = [full(), bare(2, Kind::AgentCreated)];
    house.store.append(&entries).await.unwrap();
    assert_eq!(list(&house, Filter::default()).await, entries);
}

#[tokio::test]
async fn every_filter_narrows() {
    let house = House::bare().await;
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
            owner: Some(agent("service")),
            ..Filter::default()
        },
        Filter {
            subject: entry.subject.clone(),
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
    let house = House::bare().await;
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
async fn a_listing_refuses_an_edited_entry() {
    for (sql, what) in [
        ("UPDATE audit SET kind = 'deposit'", "column kind"),
        ("UPDATE audit SET at_ms = 7", "column at_ms"),
        (
            "UPDATE audit SET body = replace(body, 'worker', 'nobody')",
            "was changed",
        ),
        ("UPDATE audit SET mac = zeroblob(1)", "was changed"),
    ] {
        let house = House::bare().await;
        house.store.append(&[full()]).await.unwrap();
        house.tamper(sql).await;
        let listed = house.store.list(&Filter::default(), None, 10).await;
        let error = listed.unwrap_err().to_string();
        assert!(error.contains("entry 1") && error.contains(what), "{error}");
    }
}

#[tokio::test]
async fn a_dropped_transaction_leaves_no_gap() {
    let house = House::bare().await;
    let mut dropped = Storage::begin(&*house.store).await.unwrap();
    dropped.audit(&full()).await.unwrap();
    drop(dropped);
    let mut kept = Storage::begin(&*house.store).await.unwrap();
    for second in 1..=2 {
        kept.audit(&bare(second, Kind::KeyCreated)).await.unwrap();
    }
    kept.commit().await.unwrap();
    let ids: Vec<_> = house
        .log()
        .await
        .into_iter()
        .map(|record| record.id)
        .collect();
    assert_eq!(ids, ["1".parse().unwrap(), "2".parse().unwrap()]);
    assert_eq!(house.verified().await.unwrap().entries, 2);
}

#[tokio::test]
async fn entries_of_many_at_once_stand_in_one_chain() {
    let house = House::bare().await;
    let appending = (0..32).map(|second| {
        let store = house.store.clone();
        tokio::spawn(async move { store.append(&[bare(second, Kind::KeyCreated)]).await })
    });
    for appended in appending.collect::<Vec<_>>() {
        appended.await.unwrap().unwrap();
    }
    let ids: Vec<_> = house
        .log()
        .await
        .iter()
        .map(|record| record.id.to_string())
        .collect();
    let places: Vec<_> = (1..=32).map(|place| place.to_string()).collect();
    assert_eq!(ids, places);
    assert_eq!(house.verified().await.unwrap().entries, 32);
}

#[tokio::test]
async fn a_large_transaction_is_one_stretch_of_the_chain() {
    let house = House::bare().await;
    let entries: Vec<_> = (0..2_500).map(|n| bare(n, Kind::KeyCreated)).collect();
    house.store.append(&entries).await.unwrap();
    let intact = house.verified().await.unwrap();
    assert_eq!((intact.entries, intact.checkpoints), (2_500, 1));
}

#[tokio::test]
async fn the_last_entries_of_a_burst_get_their_checkpoint() {
    let house = House::bare().await;
    house.store.append(&[full()]).await.unwrap();
    house.store.checkpoint().await.unwrap();
    assert_eq!(house.store.standing().await.unwrap().checkpoint, 0);
    house.clock.advance(Duration::from_secs(10));
    house.store.checkpoint().await.unwrap();
    let standing = house.store.standing().await.unwrap();
    assert_eq!((standing.entries, standing.checkpoint), (1, 1));
    assert_eq!(house.checkpoints().len(), 1);
    house.clock.advance(Duration::from_secs(10));
    house.store.checkpoint().await.unwrap();
    assert_eq!(house.checkpoints().len(), 1, "nothing is new");
}

#[tokio::test]
async fn nothing_is_appended_before_the_log_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let store = database::open(folder.path()).await.unwrap();
    let refused = store.append(&[full()]).await;
    assert!(matches!(refused, Err(LogError::NotOpen)), "{refused:?}");
    let mut tx = Storage::begin(&store).await.unwrap();
    tx.audit(&full()).await.unwrap();
    assert!(tx.commit().await.is_err());
}

#[tokio::test]
async fn entries_wait_for_no_file_for_a_minute_and_then_are_refused() {
    let house = House::bare().await;
    let path = house.checkpoint_file();
    // A folder in its place: nobody can write that, not even the superuser.
    let _ = std::fs::remove_file(&path);
    std::fs::create_dir(&path).unwrap();
    for _ in 0..2 {
        house.clock.advance(Duration::from_secs(30));
        house.store.append(&[full()]).await.unwrap();
        house.store.standing().await.unwrap();
    }
    house.clock.advance(Duration::from_secs(31));
    let refused = house.store.append(&[full()]).await;
    assert!(
        matches!(refused, Err(LogError::CheckpointFile(_))),
        "{refused:?}"
    );
    assert!(house.store.standing().await.is_err());
    assert!(house.store.checkpoint().await.is_err());

    std::fs::remove_dir(&path).unwrap();
    house.store.checkpoint().await.unwrap();
    house.store.append(&[full()]).await.unwrap();
    assert_eq!(house.verified().await.unwrap().entries, 3);
}
