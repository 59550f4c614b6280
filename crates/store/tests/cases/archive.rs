//! The oldest entries are archived and dropped, and nothing else is.

use crate::house::{House, agent, namespace, verified};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use sqlx::Connection;
use std::{
    fs::{self, File},
    io::{Read, Write},
    ops::ControlFlow,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::runtime::Handle;
use xylem_audit::{
    ArchiveError, Archives, CheckpointPublicKey, Entry, Filter, Finding, Kind, LATEST, Log,
    LogError, Note, PageToken, Segment, Step, Verdict, Verified, Watch,
};
use xylem_store::{Archiver, Store, UnfitArchive, read_archive};
use xylem_vault::Clock;

const KEEP: Duration = Duration::from_secs(10);
const STEPS: [Step; 4] = [Step::Write, Step::Seal, Step::Drop, Step::Finish];

/// So many entries, one a second: every tenth gets a checkpoint.
async fn append(house: &House, entries: u64) {
    for _ in 0..entries {
        house.clock.advance(Duration::from_secs(1));
        let mut entry = Entry::new(house.clock.now(), Kind::AgentCreated, Verdict::Succeeded);
        entry.namespace = Some(namespace());
        house.store.append(&[entry]).await.unwrap();
    }
}

/// A log of 35 entries with checkpoints at 10, 20 and 30: the second one is old enough.
async fn logged() -> House {
    let house = House::bare().await;
    append(&house, 35).await;
    house
}

fn folder(house: &House) -> PathBuf {
    house.folder.path().join("archive")
}

fn archiver(house: &House, store: &Arc<Store>, keep: Duration) -> Archiver {
    Archiver::new(store.clone(), folder(house), keep)
}

/// Archives until it is to stop before a step.
async fn until(house: &House, stop: Option<Step>) -> Result<Vec<Segment>, ArchiveError> {
    let keeping = archiver(house, &house.store, KEEP);
    archive(&keeping, house, stop).await
}

async fn archive(
    archiver: &Archiver,
    house: &House,
    stop: Option<Step>,
) -> Result<Vec<Segment>, ArchiveError> {
    let entry = Entry::new(house.clock.now(), Kind::AuditArchived, Verdict::Succeeded);
    let entry = entry.by(&agent("operator"));
    let mut steps = |step| match Some(step) == stop {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    archiver.archive(&entry, &mut steps).await
}

fn ranges(segments: &[Segment]) -> Vec<(u64, u64)> {
    segments.iter().map(|it| (it.first, it.last)).collect()
}

fn archives(house: &House) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder(house)) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn key(house: &House) -> CheckpointPublicKey {
    let jwk = house.checkpoint_file().with_file_name("checkpoint.jwk");
    CheckpointPublicKey::from_jwk(&fs::read_to_string(jwk).unwrap()).unwrap()
}

fn unpack(path: &PathBuf) -> String {
    let mut text = String::new();
    let file = File::open(path).unwrap();
    GzDecoder::new(file).read_to_string(&mut text).unwrap();
    text
}

fn pack(path: &PathBuf, text: &str) {
    let mut packed = GzEncoder::new(File::create(path).unwrap(), Compression::default());
    packed.write_all(text.as_bytes()).unwrap();
    packed.finish().unwrap();
}

async fn run(house: &House, sql: &'static str) {
    let mut burglar = house.burglar().await;
    sqlx::query(sql).execute(&mut burglar).await.unwrap();
    burglar.close().await.unwrap();
}

async fn listed(house: &House) -> (u64, Vec<Kind>) {
    let records = house.log().await;
    let first = records[0].id.as_str().parse().unwrap();
    let kinds = records.iter().map(|record| record.entry.kind);
    let noted = kinds.filter(|kind| matches!(kind, Kind::AuditArchived | Kind::AuditDropped));
    (first, noted.collect())
}

#[tokio::test]
async fn a_log_verifies_after_its_oldest_segment_is_dropped() {
    let house = logged().await;
    assert_eq!(house.store.archived().await.unwrap(), None);
    let segments = until(&house, None).await.unwrap();
    assert_eq!(ranges(&segments), [(1, 20)]);
    assert_eq!(house.rows("audit WHERE seq <= 20").await, 0);
    assert_eq!(house.rows("audit_checkpoints WHERE seq < 20").await, 0);
    let noted = [Kind::AuditArchived, Kind::AuditDropped];
    assert_eq!(listed(&house).await, (21, noted.into()));
    let last = house.last_entry().await;
    assert_eq!(
        (last.about, last.agent),
        (Some((1, 20)), Some(agent("operator")))
    );
    let kept = house.store.archived().await.unwrap();
    assert_eq!(kept.as_ref(), segments.last());
    let intact = house.verified().await.unwrap();
    assert_eq!((intact.entries, intact.checkpoints), (37, 1));

    // A page token from before goes on with what is kept.
    let after = PageToken::after(5);
    let page = house.store.list(&Filter::default(), Some(&after), 1).await;
    assert_eq!(page.unwrap().records[0].id.as_str(), "21");

    assert_eq!(
        until(&house, None).await.unwrap(),
        [],
        "nothing is old enough"
    );
    let house = house.reopen().await;
    house.verified().await.unwrap();
    append(&house, 30).await;
    let more = until(&house, None).await.unwrap();
    assert_eq!(more[0].first, 21);
    assert_eq!(more[0].before, segments[0].hash);
    house.verified().await.unwrap();
    let retained = archiver(&house, &house.store, KEEP)
        .retained()
        .await
        .unwrap();
    assert_eq!(retained.archived.as_ref(), more.last());
    assert!(retained.oldest.unwrap() + KEEP > house.clock.now() - KEEP);

    // The file of checkpoints can be written anew, and be that of another control plane.
    fs::remove_file(house.checkpoint_file()).unwrap();
    let house = house.reopen().await;
    house.verified().await.unwrap();
    let beside = house.store_beside().await;
    verified(&beside).await.unwrap();
}

#[tokio::test]
async fn an_archive_verifies_alone() {
    let house = logged().await;
    let segments = until(&house, None).await.unwrap();
    let files = archives(&house);
    assert_eq!(files.len(), 1, "{files:?}");
    let archived = read_archive(&files[0], &key(&house)).unwrap();
    assert_eq!((archived.span.first, archived.span.last), (1, 20));
    assert_eq!(archived.hash, segments[0].hash);
    assert_eq!(archived.checkpoints, 2);
    assert!(files[0].ends_with(&segments[0].file));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &PathBuf| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder(&house)), mode(&files[0])), (0o700, 0o600));
    }
}

#[tokio::test]
async fn a_flipped_bit_in_an_archive_is_named() {
    let house = logged().await;
    until(&house, None).await.unwrap();
    let file = archives(&house).remove(0);
    let text = unpack(&file);
    let line = text
        .lines()
        .find(|line| line.contains("\"seq\":15,"))
        .unwrap();
    let edited = line.replace("agent_created", "agent_creates");
    pack(&file, &text.replace(line, &edited));
    let found = read_archive(&file, &key(&house)).unwrap_err();
    let changed = Finding::Changed { seq: 15 };
    assert!(
        matches!(found, UnfitArchive::Damaged(found) if found == changed),
        "{found}"
    );

    pack(&file, &text);
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    read_archive(&file, &key(&house)).unwrap_err();
}

/// Interrupted before each step, it goes on the next time, and the log is intact in between.
#[tokio::test]
async fn nothing_is_dropped_that_is_not_archived() {
    for stop in STEPS {
        let house = logged().await;
        assert_eq!(until(&house, Some(stop)).await.unwrap(), [], "{stop:?}");
        let there = house.rows("audit WHERE seq <= 20").await;
        assert_eq!(there, if stop == Step::Finish { 0 } else { 20 }, "{stop:?}");
        assert_eq!(archives(&house).is_empty(), stop == Step::Write, "{stop:?}");
        house.verified().await.unwrap();

        let house = house.reopen().await;
        house.verified().await.unwrap();
        // The next checkpoint is old enough as well by then.
        append(&house, 10).await;
        let segments = until(&house, None).await.unwrap();
        assert_eq!(segments[0].first, 1, "{stop:?}");
        let files: Vec<_> = segments
            .iter()
            .map(|it| folder(&house).join(&it.file))
            .collect();
        assert_eq!(archives(&house), files, "{stop:?}: what was begun is used");
        let last = segments.last().unwrap().last;
        assert_eq!(listed(&house).await.0, last + 1, "{stop:?}");
        house.verified().await.unwrap();
    }
}

/// The record is sealed, and then the archive is not there any more, or not what it was.
#[tokio::test]
async fn who_was_interrupted_drops_nothing_where_the_archive_is_not_what_it_was() {
    let house = logged().await;
    until(&house, Some(Step::Drop)).await.unwrap();
    let file = archives(&house).remove(0);
    let text = unpack(&file);
    pack(&file, &text.replace("\"seq\":15,", "\"seq\":16,"));
    let refused = until(&house, None).await.unwrap_err();
    assert!(matches!(refused, ArchiveError::Damaged { .. }), "{refused}");
    assert_eq!(house.rows("audit WHERE seq <= 20").await, 20);
    // As the error says: it is moved away, and written again.
    fs::remove_file(&file).unwrap();
    assert_eq!(ranges(&until(&house, None).await.unwrap()), [(1, 20)]);
    assert_eq!(unpack(&file), text);
}

/// The entries are dropped, which is not noted yet, and then the archive is not there any more.
#[tokio::test]
async fn who_was_interrupted_goes_on_with_the_only_archive_where_it_is_brought_back() {
    let house = logged().await;
    until(&house, Some(Step::Finish)).await.unwrap();
    let file = archives(&house).remove(0);
    let text = unpack(&file);
    pack(&file, &text.replace("\"seq\":15,", "\"seq\":16,"));
    let refused = until(&house, None).await.unwrap_err();
    assert!(matches!(refused, ArchiveError::Needed { .. }), "{refused}");
    fs::remove_file(&file).unwrap();
    let refused = until(&house, None).await.unwrap_err();
    assert!(matches!(refused, ArchiveError::Needed { .. }), "{refused}");
    assert!(archives(&house).is_empty());
    pack(&file, &text);
    assert_eq!(ranges(&until(&house, None).await.unwrap()), [(1, 20)]);
    house.verified().await.unwrap();
}

#[tokio::test]
async fn a_file_in_the_place_of_an_archive_is_not_taken_for_it() {
    let (house, other) = (logged().await, logged().await);
    until(&house, Some(Step::Seal)).await.unwrap();
    until(&other, None).await.unwrap();
    let file = archives(&house).remove(0);
    fs::copy(&archives(&other)[0], &file).unwrap();
    let refused = until(&house, None).await.unwrap_err();
    assert!(matches!(refused, ArchiveError::Damaged { .. }), "{refused}");
    assert_eq!(house.rows("audit_segments").await, 0);
    assert_eq!(house.rows("audit WHERE seq <= 20").await, 20);
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_drops_nothing() {
    let house = logged().await;
    fs::write(folder(&house), "no folder").unwrap();
    let refused = until(&house, None).await.unwrap_err();
    assert!(matches!(refused, ArchiveError::File { .. }), "{refused}");
    assert_eq!(house.rows("audit_segments").await, 0);
    assert_eq!(house.rows("audit").await, 35);
}

#[tokio::test]
async fn entries_after_the_last_checkpoint_are_never_archived() {
    let house = logged().await;
    house.clock.advance(Duration::from_secs(1_000_000));
    let everything = archiver(&house, &house.store, Duration::ZERO);
    let segments = archive(&everything, &house, Some(Step::Finish))
        .await
        .unwrap();
    assert_eq!(segments, []);
    assert_eq!(
        ranges(house.store.archived().await.unwrap().as_slice()),
        [(1, 30)]
    );
    assert_eq!(house.rows("audit WHERE seq <= 30").await, 0);
    assert_eq!(listed(&house).await.0, 31);
    house.verified().await.unwrap();
}

#[tokio::test]
async fn what_the_watch_has_not_looked_at_stays() {
    let house = logged().await;
    let mut memory = house.store.begin_watch().await.unwrap();
    memory.move_cursor(&namespace(), 15).await.unwrap();
    memory.commit(&[]).await.unwrap();
    assert_eq!(ranges(&until(&house, None).await.unwrap()), [(1, 10)]);
    // Nobody watches that namespace any more: what can raise no alert goes after all.
    house.clock.advance(LATEST - Duration::from_secs(10));
    assert_eq!(until(&house, None).await.unwrap(), []);
    house.clock.advance(Duration::from_secs(60));
    assert_eq!(ranges(&until(&house, None).await.unwrap()), [(11, 30)]);
}

#[tokio::test]
async fn an_edited_entry_is_not_archived() {
    let house = logged().await;
    house
        .tamper("UPDATE audit SET body = replace(body, '\"n\":1', '\"n\":2') WHERE seq = 7")
        .await;
    let refused = until(&house, None).await.unwrap_err();
    let changed = Finding::Changed { seq: 7 };
    let named = matches!(&refused, ArchiveError::Log(LogError::Tampered(it)) if *it == changed);
    assert!(named, "{refused}");
    assert_eq!(house.rows("audit").await, 35);
    let house = logged().await;
    house.tamper("DELETE FROM audit WHERE seq = 7").await;
    let refused = until(&house, None).await.unwrap_err();
    assert!(matches!(refused, ArchiveError::Damaged { .. }), "{refused}");
    assert_eq!(
        house.verified().await,
        Err(Finding::Missing { from: 7, to: 7 })
    );
}

#[tokio::test]
async fn deleting_old_entries_by_hand_is_not_taken_for_retention() {
    let forged = Finding::Segment { last: 30 };
    for (sql, found) in [
        (
            "DELETE FROM audit WHERE seq <= 25",
            Finding::Missing { from: 21, to: 25 },
        ),
        (
            "DELETE FROM audit_segments",
            Finding::Missing { from: 1, to: 20 },
        ),
        ("UPDATE audit_segments SET last = 30", forged),
        (
            "INSERT INTO audit_segments SELECT 30, 21, hash, hash, until_ms, file, at_ms, dropped, mac
             FROM audit_segments",
            forged,
        ),
        (
            "UPDATE audit_segments SET dropped = 0",
            Finding::Segment { last: 20 },
        ),
        (
            "DELETE FROM audit_checkpoints WHERE seq = 20",
            Finding::CheckpointMissing { seq: 20 },
        ),
        (
            "UPDATE audit SET seq = 5 WHERE seq = 25",
            Finding::Changed { seq: 5 },
        ),
    ] {
        let house = logged().await;
        until(&house, None).await.unwrap();
        run(&house, sql).await;
        assert_eq!(house.verified().await, Err(found), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_control_plane_archives_at_a_time() {
    let house = logged().await;
    let (mine, beside) = (house.store.clone(), house.store_beside().await);
    let mine = archiver(&house, &mine, KEEP);
    let theirs = archiver(&house, &beside, KEEP);
    let entry = Entry::new(house.clock.now(), Kind::AuditArchived, Verdict::Succeeded);
    let mut refused = 0;
    let mut steps = |_| {
        let other = archive(&theirs, &house, None);
        let other = tokio::task::block_in_place(|| Handle::current().block_on(other));
        assert!(matches!(other, Err(ArchiveError::UnderWay)), "{other:?}");
        refused += 1;
        ControlFlow::Continue(())
    };
    let segments = mine.archive(&entry, &mut steps).await.unwrap();
    assert_eq!((ranges(&segments), refused), (vec![(1, 20)], 4));

    // One that was killed is waited for, and not for ever.
    append(&house, 30).await;
    let gone = "INSERT INTO audit_archiving (\"only\", holder, until_ms)
        VALUES (1, 'gone', 1800000100000)";
    run(&house, gone).await;
    let refused = archive(&theirs, &house, None).await;
    assert!(
        matches!(refused, Err(ArchiveError::UnderWay)),
        "{refused:?}"
    );
    house.clock.advance(Duration::from_secs(100));
    assert!(!archive(&theirs, &house, None).await.unwrap().is_empty());
    verified(&beside).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_while_it_is_verified_is_no_finding() {
    let house = logged().await;
    let mut archived = None;
    let mut meanwhile = |_| {
        archived.get_or_insert_with(|| {
            tokio::task::block_in_place(|| Handle::current().block_on(until(&house, None)))
        });
        ControlFlow::Continue(())
    };
    let verified = house.store.verify(&mut meanwhile).await.unwrap();
    assert!(matches!(verified, Verified::Intact(_)), "{verified:?}");
    assert_eq!(ranges(&archived.unwrap().unwrap()), [(1, 20)]);
}

/// Erasing an agent reaches archives: what is personal in them has no key any more.
#[tokio::test]
async fn an_archive_holds_what_is_personal_as_ciphertext() {
    const ADDRESS: &str = "203.0.113.77";
    const SAID: &str = "ich bin die Eule von nebenan";
    let house = House::bare().await;
    let mut entry = Entry::new(house.clock.now(), Kind::Deposit, Verdict::Succeeded);
    entry.namespace = Some(namespace());
    entry.agent = Some(agent("one"));
    entry.address = Some(ADDRESS.parse().unwrap());
    entry.note = Note::new(SAID);
    house.store.append(&[entry]).await.unwrap();
    append(&house, 30).await;
    until(&house, None).await.unwrap();
    let text = unpack(&archives(&house)[0]);
    assert!(text.contains("\\\"per\\\""), "{text}");
    for secret in [ADDRESS, SAID] {
        assert!(!text.contains(secret));
    }
    assert_eq!(
        house.rows("audit_people WHERE wrapped IS NOT NULL").await,
        1
    );
}
