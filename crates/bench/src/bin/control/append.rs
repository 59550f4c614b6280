//! Appends to the audit log on SQLite: every one is on disk before it is acknowledged.

use anyhow::Result;
use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::task::JoinSet;
use xylem_audit::{Entry, Kind, Log, Verdict};
use xylem_bench::{Bar, Measured, Timing};
use xylem_store::Store;
use xylem_vault::{KeyRing, SystemClock, Vault};

/// Calls that append at the same time, one entry each.
const CALLERS: usize = 64;
/// Entries that each of them appends.
const EACH: usize = 200;
/// Entries of the caller that is alone.
const ALONE: usize = 1_000;
/// Bytes that a commit of one entry writes, about: fifteen pages.
const COMMIT: usize = 15 * 4096;
/// How long one of [`CALLERS`] may hold up the log, in microseconds.
const BAR: f64 = 200.0;

pub(crate) async fn measure() -> Result<Measured> {
    let folder = tempfile::tempdir()?;
    let disk = flushes(folder.path())?;
    let log = open(folder.path()).await?;
    let (latencies, ends) = together(&log).await?;
    let each = between(ends);
    let alone = alone(&log).await?;
    let timings = vec![
        Timing::of_each("flush a commit's worth of bytes (the limit)", &disk),
        Timing::of_each("append, time per entry of 64 callers", &each),
        Timing::of_each("append, one of 64 callers waits", &latencies),
        Timing::of_each("append, a lone caller waits", &alone),
    ];
    let cost = timings.get(1).map_or(f64::NAN, |each| each.median_ns / 1e3);
    let what = "µs per audit append, p50, 64 callers on SQLite";
    Ok(Measured {
        bars: vec![Bar::at_most(what, cost, BAR)],
        timings,
    })
}

async fn open(folder: &Path) -> Result<Arc<Store>> {
    let store = Arc::new(Store::sqlite(&folder.join("xylem.db")).await?);
    let keys = Arc::new(KeyRing::from_file_or_new(&folder.join("kek"))?);
    let vault = Vault::open(store.clone(), keys, Arc::new(SystemClock)).await?;
    let checkpoints = folder.join("checkpoints.jws");
    store
        .open_log(vault.audit_keys(), Arc::new(SystemClock), &checkpoints)
        .await?;
    Ok(store)
}

fn entry() -> Result<Entry> {
    let entry = Entry::new(SystemTime::now(), Kind::Redeem, Verdict::Denied);
    let mut entry = entry.by(&"bench".parse()?).because("unknown_tool");
    entry.tool = Some("acme.deploy".parse()?);
    Ok(entry)
}

/// How long each append took, and when it was acknowledged.
async fn together(log: &Arc<Store>) -> Result<(Vec<Duration>, Vec<Instant>)> {
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let log = Arc::clone(log);
        callers.spawn(async move {
            let mut seen = Vec::new();
            for _ in 0..EACH {
                let entry = entry()?;
                let begin = Instant::now();
                log.append(&[entry]).await?;
                seen.push((begin.elapsed(), Instant::now()));
            }
            anyhow::Ok(seen)
        });
    }
    let mut seen = Vec::new();
    for caller in callers.join_all().await {
        seen.extend(caller?);
    }
    Ok(seen.into_iter().unzip())
}

/// The time per entry over each [`CALLERS`] of them in a row.
fn between(mut ends: Vec<Instant>) -> Vec<Duration> {
    ends.sort_unstable();
    let marks: Vec<_> = ends.into_iter().step_by(CALLERS).collect();
    let callers = u32::try_from(CALLERS).unwrap_or(u32::MAX);
    marks
        .iter()
        .zip(marks.iter().skip(1))
        .map(|(from, to)| to.duration_since(*from) / callers)
        .collect()
}

async fn alone(log: &Store) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    for _ in 0..ALONE {
        let entry = entry()?;
        let begin = Instant::now();
        log.append(&[entry]).await?;
        took.push(begin.elapsed());
    }
    Ok(took)
}

/// What the disk needs for the bytes of one commit, over and over in the same place.
fn flushes(folder: &Path) -> Result<Vec<Duration>> {
    let mut file = File::create(folder.join("flushed"))?;
    let bytes = vec![7; COMMIT];
    let mut took = Vec::new();
    for _ in 0..ALONE {
        let begin = Instant::now();
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&bytes)?;
        file.sync_data()?;
        took.push(begin.elapsed());
    }
    Ok(took)
}
