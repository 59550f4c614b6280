//! Backups: the database as lines, compressed, sealed to a public key, in a folder.
//!
//! Whoever steals a backup has neither the private key that opens it nor, behind that, the
//! key-encryption key that opens the tokens in it: both are kept elsewhere.

use async_trait::async_trait;
use flate2::{Compression, write::GzEncoder};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{sync::mpsc, task};
use xylem_control::{Backup, BackupError, Backups};
use xylem_seal::{Envelope, EnvelopeKey};
use xylem_store::Store;
use xylem_vault::Vault;

const PREFIX: &str = "xylem-";
const SUFFIX: &str = ".backup";
const DRAFT: &str = ".part";
/// Whoever writes a draft that was not touched for so long was killed.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);
/// Lines that wait to be written.
const WAITING: usize = 256;

/// Where backups go, how often, and who can read them.
#[derive(Debug, Clone)]
pub struct BackupConfig {
    /// Their folder.
    pub folder: PathBuf,
    /// What they are sealed to.
    pub key: EnvelopeKey,
    /// How often one is made.
    pub every: Duration,
    /// How many are kept: older ones are removed.
    pub keep: usize,
}

pub(super) struct Copies {
    pub(super) config: BackupConfig,
    pub(super) store: Arc<Store>,
    pub(super) vault: Arc<Vault>,
}

#[async_trait]
impl Backups for Copies {
    async fn make(&self, now: SystemTime) -> Result<Backup, BackupError> {
        let file = self.config.folder.join(name(now));
        let draft = file.with_extension("part");
        let made = self.write(&draft).await;
        if made.is_err() {
            let _ = fs::remove_file(&draft);
        }
        let bytes = made?;
        let (folder, keep) = (self.config.folder.clone(), self.config.keep);
        let finished = file.clone();
        let published = task::spawn_blocking(move || {
            fs::rename(&draft, &finished)?;
            File::open(&folder)?.sync_all()?;
            prune(&folder, keep, &finished)?;
            remove_drafts(&folder, now)
        });
        published.await.map_err(cause)?.map_err(cause)?;
        Ok(Backup {
            file,
            at: now,
            bytes,
        })
    }

    async fn last(&self) -> Result<Option<Backup>, BackupError> {
        let Some(file) = finished(&self.config.folder).map_err(cause)?.pop() else {
            return Ok(None);
        };
        let metadata = fs::metadata(&file).map_err(cause)?;
        Ok(Some(Backup {
            at: metadata.modified().map_err(cause)?,
            bytes: metadata.len(),
            file,
        }))
    }

    fn every(&self) -> Duration {
        self.config.every
    }
}

impl Copies {
    /// Writes everything, and answers how long the file is.
    async fn write(&self, draft: &Path) -> Result<u64, BackupError> {
        let (send, receive) = mpsc::channel(WAITING);
        let (path, key) = (draft.to_owned(), self.config.key.clone());
        let writing = task::spawn_blocking(move || fill(&path, &key, receive));
        let dumped = self.store.dump(send).await;
        // A file that cannot be written is why nobody took the lines.
        let envelope = writing.await.map_err(cause)?.map_err(cause)?;
        dumped.map_err(cause)?;
        let word = self.vault.attest(&envelope.digest()).await;
        let word = word.map_err(cause)?;
        let closing = task::spawn_blocking(move || -> io::Result<u64> {
            let file = envelope.close(word.as_bytes())?.into_inner()?;
            file.sync_all()?;
            Ok(file.metadata()?.len())
        });
        closing.await.map_err(cause)?.map_err(cause)
    }
}

fn fill(
    path: &Path,
    key: &EnvelopeKey,
    mut lines: mpsc::Receiver<String>,
) -> io::Result<Envelope<BufWriter<File>>> {
    if let Some(folder) = path.parent() {
        let mut private = fs::DirBuilder::new();
        private.recursive(true).mode(0o700).create(folder)?;
    }
    let mut private = OpenOptions::new();
    let file = private.write(true).create(true).truncate(true).mode(0o600);
    let envelope = Envelope::new(BufWriter::new(file.open(path)?), key)?;
    let mut compressed = GzEncoder::new(envelope, Compression::default());
    while let Some(line) = lines.blocking_recv() {
        compressed.write_all(line.as_bytes())?;
        compressed.write_all(b"\n")?;
    }
    compressed.finish()
}

/// Names sort by time.
fn name(at: SystemTime) -> String {
    let at = humantime::format_rfc3339_millis(at).to_string();
    format!("{PREFIX}{}{SUFFIX}", at.replace([':', '.'], "-"))
}

/// The backups in a folder, oldest first.
fn finished(folder: &Path) -> io::Result<Vec<PathBuf>> {
    ours(folder, SUFFIX)
}

fn ours(folder: &Path, suffix: &str) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(PREFIX) && name.ends_with(suffix) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Removes the oldest beyond `keep`, and never the one that was just made: one of a clock that was ahead has a
/// name that is newer.
fn prune(folder: &Path, keep: usize, made: &Path) -> io::Result<()> {
    let mut others = finished(folder)?;
    others.retain(|file| file != made);
    others.truncate((others.len() + 1).saturating_sub(keep));
    others.iter().try_for_each(fs::remove_file)
}

/// Removes what was left by whoever was killed over it.
fn remove_drafts(folder: &Path, now: SystemTime) -> io::Result<()> {
    for draft in ours(folder, DRAFT)? {
        let written = fs::metadata(&draft)?.modified()?;
        let since = now.duration_since(written);
        // A clock that was ahead left it, too.
        if since.unwrap_or_else(|ahead| ahead.duration()) > ABANDONED {
            fs::remove_file(&draft)?;
        }
    }
    Ok(())
}

fn cause(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> BackupError {
    BackupError(error.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn touched(folder: &Path, name: &str, at: SystemTime) -> PathBuf {
        let path = folder.join(name);
        let file = File::create(&path).expect("a file");
        file.set_modified(at).expect("touched");
        path
    }

    #[test]
    fn a_backup_that_was_just_made_is_kept_beside_those_of_a_clock_that_was_ahead() {
        let guard = tempfile::tempdir().expect("a folder");
        let folder = guard.path();
        let made_at = |at| touched(folder, &name(at), at);
        let ahead = [100, 200].map(|days| made_at(now() + DAY * days));
        made_at(now() - DAY);
        for keep in [3, 2] {
            let made = made_at(now());
            prune(folder, keep, &made).expect("pruned");
            let mut kept = vec![made];
            kept.extend_from_slice(&ahead[3 - keep..]);
            assert_eq!(finished(folder).expect("read"), kept);
        }
        let made = made_at(now());
        prune(folder, 1, &made).expect("pruned");
        assert_eq!(finished(folder).expect("read"), [made]);
    }

    #[test]
    fn a_draft_of_a_backup_that_was_killed_is_removed_after_a_day() {
        let guard = tempfile::tempdir().expect("a folder");
        let folder = guard.path();
        let minute = Duration::from_secs(60);
        let draft = |written| {
            let draft = folder.join(name(written)).with_extension("part");
            let draft = draft.file_name().expect("a name").to_string_lossy();
            touched(folder, &draft, written)
        };
        let young = [now() - DAY + minute, now() + minute].map(draft);
        let old = [now() - DAY - minute, now() + DAY * 300].map(draft);
        let of_another = touched(folder, "notes.part", now() - DAY * 2);
        remove_drafts(folder, now()).expect("removed");
        for kept in young.iter().chain([&of_another]) {
            assert!(kept.exists(), "{kept:?}");
        }
        for gone in &old {
            assert!(!gone.exists(), "{gone:?}");
        }
    }
}
