//! Somebody with the database file edits the audit log.

use crate::{
    database,
    house::{self, House, V1},
};
use sqlx::Connection;
use std::{fs, ops::ControlFlow, sync::Arc, time::Duration};
use tokio::runtime::Handle;
use xylem_audit::{Entry, Filter, Finding, Kind, Log, LogError, PageToken, Verdict, Verified};
use xylem_store::OpenLogError;
use xylem_vault::{CallEnd, Clock, KeyRing, Vault, VaultError};

/// So many entries, one a second: every tenth gets a checkpoint.
async fn append(house: &House, entries: u64) {
    for _ in 0..entries {
        house.clock.advance(Duration::from_secs(1));
        let now = house.clock.now();
        let entry = Entry::new(now, Kind::AgentCreated, Verdict::Succeeded);
        house.store.append(&[entry]).await.unwrap();
    }
}

/// A log of 35 entries with checkpoints at 10, 20 and 30.
async fn logged() -> House {
    let house = House::bare().await;
    append(&house, 35).await;
    let intact = house.verified().await.unwrap();
    assert_eq!((intact.entries, intact.checkpoints), (35, 3));
    assert_eq!(house.checkpoints().len(), 3);
    house
}

async fn run(house: &House, statements: &[&'static str]) {
    let mut burglar = house.burglar().await;
    for sql in statements {
        sqlx::query(*sql).execute(&mut burglar).await.unwrap();
    }
    burglar.close().await.unwrap();
}

/// What is found after these edits.
pub(crate) async fn after(statements: &[&'static str]) -> Finding {
    let house = logged().await;
    run(&house, statements).await;
    house.verified().await.unwrap_err()
}

#[tokio::test]
async fn an_edited_entry_is_named() {
    for sql in [
        "UPDATE audit SET body = replace(body, '\"n\":1', '\"n\":2') WHERE seq = 17",
        "UPDATE audit SET body = CAST(body || ' ' AS TEXT) WHERE seq = 17",
        "UPDATE audit SET body = '' WHERE seq = 17",
        "UPDATE audit SET hash = zeroblob(32) WHERE seq = 17",
        "UPDATE audit SET hash = zeroblob(1) WHERE seq = 17",
        "UPDATE audit SET mac = zeroblob(32) WHERE seq = 17",
    ] {
        assert_eq!(after(&[sql]).await, Finding::Changed { seq: 17 }, "{sql}");
    }
}

#[tokio::test]
async fn the_first_of_several_edits_is_named() {
    let found = after(&[
        "UPDATE audit SET hash = zeroblob(1) WHERE seq = 30",
        "UPDATE audit SET agent = 'somebody' WHERE seq = 17",
        "DELETE FROM audit_checkpoints WHERE seq = 20",
    ]);
    let column = "agent";
    assert_eq!(found.await, Finding::Index { seq: 17, column });
}

#[tokio::test]
async fn an_edited_column_is_named() {
    for (sql, column) in [
        ("UPDATE audit SET at_ms = at_ms + 1 WHERE seq = 17", "at_ms"),
        ("UPDATE audit SET at_ms = -1 WHERE seq = 17", "at_ms"),
        ("UPDATE audit SET kind = 'deposit' WHERE seq = 17", "kind"),
        (
            "UPDATE audit SET verdict = 'denied' WHERE seq = 17",
            "verdict",
        ),
        (
            "UPDATE audit SET namespace = 'n' WHERE seq = 17",
            "namespace",
        ),
        ("UPDATE audit SET agent = 'a' WHERE seq = 17", "agent"),
        (
            "UPDATE audit SET tree_workflow_id = 't' WHERE seq = 17",
            "tree_workflow_id",
        ),
        (
            "UPDATE audit SET tree_first_run_id = 'r' WHERE seq = 17",
            "tree_first_run_id",
        ),
        (
            "UPDATE audit SET workflow_id = 'w' WHERE seq = 17",
            "workflow_id",
        ),
        ("UPDATE audit SET tool = 't' WHERE seq = 17", "tool"),
        ("UPDATE audit SET slot = 's' WHERE seq = 17", "slot"),
    ] {
        let found = after(&[sql]).await;
        assert_eq!(found, Finding::Index { seq: 17, column }, "{sql}");
    }
}

/// What the watch goes by: those around an edited entry can be read.
#[tokio::test]
async fn entries_around_an_edited_one_are_listed() {
    let house = logged().await;
    run(
        &house,
        &["UPDATE audit SET agent = 'somebody' WHERE seq = 17"],
    )
    .await;
    let list = async |after: u64, size: u32| {
        let (all, after) = (Filter::default(), PageToken::after(after));
        let page = house.store.list(&all, Some(&after), size).await;
        page.map(|page| page.records.len())
    };
    let column = "agent";
    for (after, size) in [(0, 100), (16, 100), (16, 1)] {
        let page = list(after, size).await;
        let Err(LogError::Tampered(found)) = page else {
            panic!("{page:?}")
        };
        assert_eq!(found, Finding::Index { seq: 17, column });
    }
    assert_eq!(list(15, 1).await.unwrap(), 1);
    assert_eq!(list(17, 100).await.unwrap(), 18);
}

#[tokio::test]
async fn deleted_entries_are_named() {
    let found = after(&["DELETE FROM audit WHERE seq = 17"]).await;
    assert_eq!(found, Finding::Missing { from: 17, to: 17 });
    let found = after(&["DELETE FROM audit WHERE seq BETWEEN 11 AND 29"]).await;
    assert_eq!(found, Finding::Missing { from: 11, to: 29 });
    let found = after(&["DELETE FROM audit WHERE seq < 3"]).await;
    assert_eq!(found, Finding::Missing { from: 1, to: 2 });
}

#[tokio::test]
async fn reordered_entries_are_named() {
    let found = after(&[
        "UPDATE audit SET seq = -1 WHERE seq = 17",
        "UPDATE audit SET seq = 17 WHERE seq = 18",
        "UPDATE audit SET seq = 18 WHERE seq = -1",
    ]);
    assert_eq!(found.await, Finding::Moved { seq: 17, from: 18 });
}

#[tokio::test]
async fn an_inserted_entry_is_named() {
    let found = after(&[
        "INSERT INTO audit (seq, body, hash, mac, at_ms, kind, verdict, agent)
            SELECT 36, body, hash, mac, at_ms, kind, verdict, agent
         FROM audit WHERE seq = 17",
    ]);
    assert_eq!(found.await, Finding::Moved { seq: 36, from: 17 });
    let found = after(&["UPDATE audit SET seq = 0 WHERE seq = 17"]);
    assert_eq!(found.await, Finding::Changed { seq: 0 });
}

#[tokio::test]
async fn a_truncated_log_is_named_by_its_head() {
    let truncated = |last| Finding::Truncated { last, expected: 35 };
    let found = after(&["DELETE FROM audit WHERE seq > 32"]).await;
    assert_eq!(found, truncated(32));
    let found = after(&["DELETE FROM audit"]).await;
    assert_eq!(found, truncated(0));
    let everything = [
        "DELETE FROM audit",
        "DELETE FROM audit_head",
        "DELETE FROM audit_checkpoints",
    ];
    assert_eq!(after(&everything).await, Finding::Head);
}

const KEEP: &str = "CREATE TABLE kept AS SELECT * FROM audit_head";
const PUT_BACK: [&str; 3] = [
    "DELETE FROM audit WHERE seq > 12",
    "DELETE FROM audit_head",
    "INSERT INTO audit_head SELECT * FROM kept",
];

/// A log whose end was put back from entry 35 to entry 12, with the head that fitted there.
async fn put_back() -> House {
    let house = House::bare().await;
    append(&house, 12).await;
    run(&house, &[KEEP]).await;
    append(&house, 23).await;
    run(&house, &PUT_BACK).await;
    house
}

#[tokio::test]
async fn a_truncated_log_with_its_old_head_is_found_at_the_checkpoint() {
    let truncated = Finding::Truncated {
        last: 12,
        expected: 30,
    };
    let house = put_back().await;
    assert_eq!(house.verified().await, Err(truncated));
    run(&house, &["DELETE FROM audit_checkpoints WHERE seq > 12"]).await;
    assert_eq!(house.verified().await, Err(truncated), "by the file");
    keep_lines(&house, 1);
    assert_eq!(
        house.verified().await,
        Err(truncated),
        "by who wrote the file"
    );
}

fn keep_lines(house: &House, count: usize) {
    let lines: String = house
        .checkpoints()
        .iter()
        .take(count)
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(house.checkpoint_file(), lines).unwrap();
}

/// The limits that the documentation names: whoever changes them changes it too.
#[tokio::test]
async fn what_is_documented_as_undetectable_is() {
    // The end since the last checkpoint, with the head that fitted there.
    let house = House::bare().await;
    append(&house, 12).await;
    run(&house, &[KEEP]).await;
    append(&house, 5).await;
    run(&house, &PUT_BACK).await;
    assert_eq!(house.verified().await.unwrap().entries, 12);

    // Database and file put back together, while nobody runs.
    let house = put_back().await;
    run(&house, &["DELETE FROM audit_checkpoints WHERE seq > 12"]).await;
    keep_lines(&house, 1);
    let house = house.reopen().await;
    assert_eq!(house.verified().await.unwrap().entries, 12);
}

#[tokio::test]
async fn a_forged_head_stops_appending() {
    for sql in [
        "UPDATE audit_head SET checkpoint_at = checkpoint_at + 1",
        "UPDATE audit_head SET seq = 34",
        "UPDATE audit_head SET hash = zeroblob(1)",
        "UPDATE audit_head SET chain = zeroblob(16)",
        "DELETE FROM audit_head",
    ] {
        let house = logged().await;
        run(&house, &[sql]).await;
        let entry = Entry::new(house.clock.now(), Kind::Deposit, Verdict::Succeeded);
        let refused = house.store.append(&[entry]).await;
        assert!(
            matches!(refused, Err(LogError::Tampered(Finding::Head))),
            "{sql}: {refused:?}"
        );
        assert!(house.store.standing().await.is_err(), "{sql}");
        assert_eq!(house.verified().await, Err(Finding::Head), "{sql}");

        // What cannot be written does not happen.
        let opened = house.vault.open_tree(house::new_tree("train")).await;
        assert!(matches!(opened, Err(VaultError::Tampered(_))), "{opened:?}");
        assert_eq!(house.rows("trees").await, 0, "{sql}");
        let house = house.reopen().await;
        assert_eq!(house.verified().await, Err(Finding::Head), "{sql}");
    }
}

#[tokio::test]
async fn a_removed_checkpoint_is_found_by_the_file() {
    for (sql, seq) in [
        ("DELETE FROM audit_checkpoints WHERE seq = 20", 20),
        ("DELETE FROM audit_checkpoints WHERE seq = 30", 30),
    ] {
        let found = after(&[sql]).await;
        assert_eq!(found, Finding::CheckpointMissing { seq }, "{sql}");
    }
}

#[tokio::test]
async fn an_edited_checkpoint_is_named() {
    let found = after(&["UPDATE audit_checkpoints SET signed = signed || 'x' WHERE seq = 20"]);
    assert_eq!(found.await, Finding::CheckpointForged { seq: 20 });
    let found = after(&["UPDATE audit_checkpoints SET at_ms = 7 WHERE seq = 20"]);
    assert_eq!(found.await, Finding::CheckpointForged { seq: 20 });
    let found = after(&["UPDATE audit_checkpoints SET seq = 21 WHERE seq = 20"]);
    assert_eq!(found.await, Finding::CheckpointForged { seq: 21 });
}

#[tokio::test]
async fn a_shortened_file_is_found_by_the_table() {
    let house = logged().await;
    keep_lines(&house, 1);
    let missing = Finding::FileMissing { seq: 20 };
    assert_eq!(house.verified().await, Err(missing));
    fs::remove_file(house.checkpoint_file()).unwrap();
    let missing = Finding::FileMissing { seq: 10 };
    assert_eq!(house.verified().await, Err(missing));
}

#[tokio::test]
async fn an_edited_file_is_found() {
    let house = logged().await;
    let mut lines = house.checkpoints();
    lines[1].push('x');
    fs::write(house.checkpoint_file(), lines.join("\n") + "\n").unwrap();
    assert_eq!(house.verified().await, Err(Finding::FileForged { line: 2 }));
    fs::write(house.checkpoint_file(), [0xff, b'\n']).unwrap();
    assert_eq!(house.verified().await, Err(Finding::FileForged { line: 1 }));
}

#[tokio::test]
async fn half_a_line_that_a_crash_left_is_written_again() {
    let house = logged().await;
    let whole = fs::read(house.checkpoint_file()).unwrap();
    fs::write(house.checkpoint_file(), &whole[..whole.len() - 40]).unwrap();
    let house = house.reopen().await;
    assert_eq!(fs::read(house.checkpoint_file()).unwrap(), whole);
    assert_eq!(house.verified().await.unwrap().checkpoints, 3);
}

#[cfg(unix)]
#[tokio::test]
async fn the_file_is_its_owners_alone_and_the_key_is_for_everybody() {
    use std::os::unix::fs::PermissionsExt;
    let house = logged().await;
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(house.checkpoint_file()), 0o600);
    let jwk = house.checkpoint_file().with_file_name("checkpoint.jwk");
    let jwk: serde_json::Value = serde_json::from_str(&fs::read_to_string(jwk).unwrap()).unwrap();
    assert_eq!(jwk["crv"], "Ed25519");
    assert!(jwk.get("d").is_none(), "the private key");
}

/// Opens the files of a house anew, as after a restart.
async fn restart(house: House) -> Result<(), OpenLogError> {
    house.store.close().await;
    let folder = house.folder.path();
    let store = Arc::new(database::open(folder).await.unwrap());
    let keys = Arc::new(KeyRing::from_file_or_new(&folder.join("kek")).unwrap());
    let vault = Vault::open(store.clone(), keys, house.clock.clone()).await;
    let file = house.checkpoint_file();
    let keys = vault.unwrap().audit_keys();
    store.open_log(keys, house.clock.clone(), &file).await
}

#[tokio::test]
async fn a_restart_with_an_older_database_is_refused() {
    let refused = restart(put_back().await).await;
    let Err(OpenLogError::Older { last, checkpoint }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((last, checkpoint), (12, 30));
}

#[tokio::test]
async fn a_restart_with_the_file_of_another_database_is_refused() {
    let (house, other) = (logged().await, logged().await);
    fs::copy(other.checkpoint_file(), house.checkpoint_file()).unwrap();
    let refused = restart(house).await;
    assert!(matches!(refused, Err(OpenLogError::Foreign)), "{refused:?}");
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_written_anew_from_the_database() {
    let house = logged().await;
    let lines = house.checkpoints();
    fs::remove_file(house.checkpoint_file()).unwrap();
    let house = house.reopen().await;
    assert_eq!(house.checkpoints(), lines);
    assert_eq!(house.verified().await.unwrap().checkpoints, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_is_taken_meanwhile_is_no_finding() {
    let house = House::bare().await;
    append(&house, 5).await;
    let mut taken = Ok(());
    let verified = house
        .store
        .verify(&mut |progress| {
            if progress.checked == 0 {
                house.clock.advance(Duration::from_secs(10));
                taken = tokio::task::block_in_place(|| {
                    Handle::current().block_on(house.store.checkpoint())
                });
            }
            ControlFlow::Continue(())
        })
        .await
        .unwrap();
    taken.unwrap();
    assert_eq!(house.checkpoints().len(), 1);
    let Verified::Intact(intact) = verified else {
        panic!("{verified:?}");
    };
    assert_eq!((intact.entries, intact.checkpoints), (5, 0));
    assert_eq!(house.verified().await.unwrap().checkpoints, 1);
}

#[tokio::test]
async fn a_life_of_a_tree_stands_in_an_intact_log() {
    let house = House::new().await;
    let (tree, v1) = house.planted("train").await;
    let redeemed = house.redeem(house::Ask::new(&tree, &v1)).await.unwrap();
    let end = CallEnd {
        succeeded: true,
        reason: None,
        status: Some(200),
        duration: Duration::from_millis(12),
        undone: false,
        bytes_out: 0,
        bytes_in: 0,
    };
    house.release(&redeemed, &end).await;
    house.deposit(&tree, V1, "d1").await;
    house.vault.stop(house::stopping(&tree)).await.unwrap();
    let entries = house.log().await.len() as u64;
    assert_eq!(house.verified().await.unwrap().entries, entries);
    let house = house.reopen().await;
    assert_eq!(house.verified().await.unwrap().entries, entries);
    assert_eq!(house.log().await.len() as u64, entries);
}
