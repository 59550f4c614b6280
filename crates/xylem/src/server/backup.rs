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
            prune(&folder, keep)
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
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(PREFIX) && name.ends_with(SUFFIX) {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

fn prune(folder: &Path, keep: usize) -> io::Result<()> {
    let mut files = finished(folder)?;
    files.truncate(files.len().saturating_sub(keep));
    files.iter().try_for_each(fs::remove_file)
}

fn cause(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> BackupError {
    BackupError(error.into())
}
