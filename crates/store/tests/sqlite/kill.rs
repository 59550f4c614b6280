//! A process that is killed while it appends.

use crate::{
    cases::batch::{numbered, numbers},
    house::{self, Still},
};
use std::{
    collections::BTreeSet,
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::task::JoinSet;
use xylem_audit::Log;

/// Names the folder that the child of the test works in.
const FOLDER: &str = "XYLEM_TEST_KILL_FOLDER";

/// Whatever it was told was written is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_killed_process() {
    if let Some(folder) = env::var_os(FOLDER) {
        return append_for_ever(Path::new(&folder)).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let this = env::current_exe().unwrap();
    let test = "kill::what_was_acknowledged_survives_a_killed_process";
    let mut child = Command::new(this)
        .args(["--exact", test, "--nocapture"])
        .env(FOLDER, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stdout.take().unwrap());
    let mut acknowledged = BTreeSet::new();
    for line in said.lines() {
        let line = line.unwrap();
        acknowledged.extend(line.strip_prefix("written ").map(|number| {
            let number: u64 = number.parse().unwrap();
            number
        }));
        if acknowledged.len() == 500 {
            // What it says before it is gone is read as well.
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(acknowledged.len() >= 500, "{}", acknowledged.len());

    let (store, _) = house::open(folder.path(), clock()).await.unwrap();
    let written: BTreeSet<_> = numbers(&store).await.into_iter().collect();
    let lost: Vec<_> = acknowledged.difference(&written).collect();
    assert!(lost.is_empty(), "{lost:?}");
    house::verified(&store).await.unwrap();
}

fn clock() -> Arc<Still> {
    Arc::new(Still::at(1_800_000_000))
}

#[expect(
    clippy::print_stdout,
    reason = "its parent reads what was acknowledged"
)]
async fn append_for_ever(folder: &Path) {
    let (store, _) = house::open(folder, clock()).await.unwrap();
    let next = Arc::new(AtomicU64::new(0));
    let mut appending = JoinSet::new();
    for _ in 0..32 {
        let (store, next) = (Arc::clone(&store), Arc::clone(&next));
        appending.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                store.append(&[numbered(number)]).await.unwrap();
                println!("written {number}");
            }
        });
    }
    appending.join_next().await;
}
