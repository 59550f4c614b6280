//! The audit log's oldest entries are being archived when the control plane is killed.

use crate::scene::Installation;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::process::Command;
use xylem_testkit::eventually;

/// Entries that the next segment can have: they have a checkpoint, and the watch has looked at them.
const DUE: &str = "SELECT count(*) FROM audit_checkpoints WHERE seq > 3
    AND seq <= (SELECT coalesce(max(seq), 0) FROM watch_cursors)";
const RECORDED: &str = "SELECT count(*) FROM audit_segments";
/// Of what the first segment has.
const KEPT: &str = "SELECT count(*) FROM audit WHERE seq <= 3";

/// It is killed at each step, one after the other, of archiving one segment.
#[tokio::test]
async fn a_control_plane_killed_while_it_archives_loses_no_entry() -> anyhow::Result<()> {
    let installation = Installation::for_tests().await?;
    let folder = installation.beside("archive");
    let (server, control) = installation.serve().await?;
    let due = || installation.count(DUE);
    eventually("there is something to archive", due, |due| *due > 0).await?;
    drop((server, control));

    // The file is begun, and is about to be given its name.
    installation
        .stick("publishing", "BEFORE UPDATE ON audit_archiving")
        .await?;
    let begun = || async { Ok(drafts(&folder)) };
    killed_when(&installation, begun, |begun| *begun == 1).await?;
    installation.unstick("publishing").await?;
    assert_eq!(installation.count(RECORDED).await?, 0);
    assert_eq!(installation.count(KEPT).await?, 3);
    who_comes_soon_waits(&installation).await?;

    // The file is there, and its record is being written.
    installation
        .stick("sealing", "BEFORE INSERT ON audit_segments")
        .await?;
    let written = || async { Ok(files(&folder)?.len()) };
    killed_when(&installation, written, |written| *written == 1).await?;
    installation.unstick("sealing").await?;
    assert_eq!(installation.count(RECORDED).await?, 0);
    assert_eq!(installation.count(KEPT).await?, 3);
    let first = files(&folder)?;

    // It is recorded, and its entries are being dropped.
    installation
        .stick("dropping", "BEFORE DELETE ON audit WHEN old.seq = 2")
        .await?;
    let recorded = || installation.count(RECORDED);
    killed_when(&installation, recorded, |recorded| *recorded == 1).await?;
    installation.unstick("dropping").await?;
    assert_eq!(installation.count(KEPT).await?, 3, "all of them or none");

    // They are dropped, and that is being noted.
    installation
        .stick("finishing", "BEFORE UPDATE ON audit_segments")
        .await?;
    let kept = || installation.count(KEPT);
    killed_when(&installation, kept, |kept| *kept == 0).await?;
    installation.unstick("finishing").await?;
    assert_eq!(installation.count(RECORDED).await?, 1);
    assert_eq!(files(&folder)?, first, "what was begun is used");

    let (server, control) = installation.serve().await?;
    two_minutes_later(&installation).await?;
    let segments = control.archive_audit().await?;
    assert_eq!(segments[0].first, "1", "{segments:?}");
    let undropped = "SELECT count(*) FROM audit_segments WHERE dropped = 0";
    assert_eq!(installation.count(undropped).await?, 0);
    everything_is_there_once(&installation, &files(&folder)?).await?;
    drop(server);
    Ok(())
}

/// Has the log archived, and kills the control plane when something is so.
async fn killed_when<T: std::fmt::Debug, F: Future<Output = anyhow::Result<T>>>(
    installation: &Installation,
    ask: impl FnMut() -> F,
    is_so: impl Fn(&T) -> bool,
) -> anyhow::Result<()> {
    let (server, control) = installation.serve().await?;
    two_minutes_later(installation).await?;
    let archiving = tokio::spawn(async move { control.archive_audit().await });
    eventually("it has come so far", ask, is_so).await?;
    assert!(!archiving.is_finished(), "nothing was interrupted");
    drop(server);
    archiving.abort();
    Ok(())
}

/// Who was killed has not given its turn back, and is waited for for so long.
async fn two_minutes_later(installation: &Installation) -> anyhow::Result<()> {
    let over = "UPDATE audit_archiving SET until_ms = until_ms - 120000";
    installation.change(over.to_owned()).await
}

async fn who_comes_soon_waits(installation: &Installation) -> anyhow::Result<()> {
    let (_server, control) = installation.serve().await?;
    let refused = control.archive_audit().await;
    let refused = refused.expect_err("somebody else archives, as far as is known");
    assert_eq!(refused.reason(), Some("archive_under_way"), "{refused}");
    Ok(())
}

/// Files that are being written, or were when somebody was killed.
fn drafts(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| is_draft(&entry.path())).count()
}

fn is_draft(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "part")
}

/// Those that have their names.
fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let files: Vec<PathBuf> = entries.collect::<anyhow::Result<_>>()?;
    let mut files: Vec<_> = files.into_iter().filter(|path| !is_draft(path)).collect();
    files.sort();
    Ok(files)
}

/// Archives and log follow each other entry by entry, to the last one.
async fn everything_is_there_once(
    installation: &Installation,
    archives: &[PathBuf],
) -> anyhow::Result<()> {
    let recorded = installation.count(RECORDED).await?;
    assert_eq!(i64::try_from(archives.len())?, recorded, "{archives:?}");
    let checkpoints = installation.data.audit_checkpoints();
    let mut verifying = Command::new(env!("CARGO_BIN_EXE_testkit-xylem"))
        .args(["audit", "verify", "--archive"])
        .args(archives)
        .arg("--public-key")
        .arg(checkpoints.with_file_name("checkpoint.jwk"))
        .env("XYLEM_ADDRESS", installation.address())
        .env("XYLEM_KEY_FILE", installation.data.admin_key())
        .env_remove("XYLEM_API_KEY")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    // It would end with its standard input.
    let input = verifying.stdin.take();
    let verified = verifying.wait_with_output().await?;
    drop(input);
    let said = String::from_utf8([verified.stdout, verified.stderr].concat())?;
    assert_eq!(verified.status.code(), Some(0), "{said}");
    assert!(said.contains("the audit log is intact"), "{said}");
    let whole = "the archives are intact: entries 1 to";
    assert!(said.contains(whole), "{said}");
    Ok(())
}
