//! The checkpoint file: what the database cannot take back.

use super::OpenLogError;
use std::{
    fmt, fs,
    fs::File,
    io::{self, BufRead, BufReader, Lines, Read, Seek, SeekFrom, Take, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::sync::OwnedMutexGuard;
use xylem_audit::{ChainId, Checkpoint, CheckpointPublicKey, LogError};

/// How long entries are taken while their checkpoints cannot get out of the database.
const PATIENCE: Duration = Duration::from_secs(60);
/// No line is longer, in bytes; a checkpoint has about 450.
const LONGEST_LINE: u64 = 4 * 1024;

/// A file that checkpoints are appended to, one per line.
pub(super) struct CheckpointFile {
    path: Arc<Path>,
    /// The last checkpoint that was written to it. Whoever holds it has the file to itself.
    copied: Arc<tokio::sync::Mutex<u64>>,
    failing: Mutex<Option<(SystemTime, Arc<io::Error>)>>,
}

impl CheckpointFile {
    /// Opens the file, and makes it, for its owner alone, where there is none.
    pub(super) fn open(
        path: &Path,
        key: &CheckpointPublicKey,
        chain: Option<&ChainId>,
    ) -> Result<Self, OpenLogError> {
        if let Some(folder) = path.parent() {
            make_folder(folder)?;
        }
        publish(&path.with_file_name("checkpoint.jwk"), key)?;
        let last = match last_line(path)? {
            None => 0,
            Some(line) => key.seq_of(chain, &line).ok_or(OpenLogError::Foreign)?,
        };
        Ok(Self {
            path: path.into(),
            copied: Arc::new(tokio::sync::Mutex::new(last)),
            failing: Mutex::new(None),
        })
    }

    pub(super) async fn copied(&self) -> u64 {
        *self.copied.lock().await
    }

    /// Waits for the file.
    pub(super) async fn turn(&self) -> Turn<'_> {
        Turn {
            file: self,
            copied: Some(Arc::clone(&self.copied).lock_owned().await),
        }
    }

    /// An error once the file could not be written for a minute.
    pub(super) fn check(&self, now: SystemTime) -> Result<(), LogError> {
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        match &*failing {
            Some((since, error))
                if now.duration_since(*since).is_ok_and(|for_| for_ > PATIENCE) =>
            {
                Err(LogError::CheckpointFile(Arc::clone(error)))
            }
            _ => Ok(()),
        }
    }

    /// Notes how writing went, and from when on it has failed.
    fn note(&self, written: io::Result<()>, now: SystemTime) -> bool {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let Err(error) = written else {
            *failing = None;
            return true;
        };
        if failing.is_none() {
            let path = self.path.display();
            tracing::error!(%error, %path, "audit checkpoints cannot be written");
            *failing = Some((now, Arc::new(error)));
        }
        false
    }
}

impl fmt::Debug for CheckpointFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckpointFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// The file, for as long as nobody else may use it.
pub(super) struct Turn<'a> {
    file: &'a CheckpointFile,
    copied: Option<OwnedMutexGuard<u64>>,
}

impl Turn<'_> {
    /// The last checkpoint in the file.
    pub(super) fn copied(&self) -> u64 {
        self.copied.as_ref().map_or(0, |copied| **copied)
    }

    /// How long the file is, in bytes.
    pub(super) fn length(&self) -> io::Result<u64> {
        match fs::metadata(&self.file.path) {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Appends checkpoints, and answers whether they are on disk. The work goes on, and keeps the
    /// file, where nobody waits for it any more.
    pub(super) async fn append(&mut self, rows: Vec<Checkpoint>, now: SystemTime) -> bool {
        let Some(mut copied) = self.copied.take() else {
            return false;
        };
        let path = Arc::clone(&self.file.path);
        let writing = tokio::task::spawn_blocking(move || {
            let written = write(&path, &rows);
            if written.is_ok() {
                *copied = rows.last().map_or(*copied, |row| row.seq);
                rows.iter().for_each(told);
            }
            (copied, written)
        });
        let written = match writing.await {
            Ok((copied, written)) => {
                self.copied = Some(copied);
                written
            }
            Err(error) => Err(io::Error::other(error)),
        };
        self.file.note(written, now)
    }
}

/// Whoever collects logs has a copy elsewhere.
fn told(checkpoint: &Checkpoint) {
    let signed = checkpoint.signed.as_str();
    tracing::info!(target: "xylem::audit", checkpoint = signed, "audit checkpoint at entry {}", checkpoint.seq);
}

/// Whole lines or none, on disk.
fn write(path: &Path, rows: &[Checkpoint]) -> io::Result<()> {
    let mut file = private(path, fs::OpenOptions::new().append(true).create(true))?;
    let length = file.metadata()?.len();
    let mut text = String::new();
    for row in rows {
        text.push_str(&row.signed);
        text.push('\n');
    }
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a line would spoil the next one.
        let _ = file.set_len(length);
    }
    written
}

/// The last whole line. Half a line is what a crash has left, and is removed.
fn last_line(path: &Path) -> io::Result<Option<String>> {
    let opened = fs::OpenOptions::new().read(true).write(true).open(path);
    let mut file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let length = file.metadata()?.len();
    let from = length.saturating_sub(2 * LONGEST_LINE);
    file.seek(SeekFrom::Start(from))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    let whole = end.iter().rposition(|byte| *byte == b'\n');
    let whole = whole.map_or(0, |at| at.saturating_add(1));
    if whole < end.len() {
        tracing::warn!(path = %path.display(), "the audit checkpoint file ended in half a line");
        file.set_len(from.saturating_add(whole as u64))?;
        file.sync_all()?;
    }
    let lines = end.get(..whole).unwrap_or_default();
    let last = lines
        .split(|byte| *byte == b'\n')
        .rfind(|line| !line.is_empty());
    Ok(last.map(|line| String::from_utf8_lossy(line).into_owned()))
}

/// The public key stands beside the file, so that verifying needs nothing from the database.
fn publish(path: &PathBuf, key: &CheckpointPublicKey) -> Result<(), OpenLogError> {
    let jwk = key.to_jwk();
    match fs::read_to_string(path) {
        Ok(kept) if kept.trim() == jwk => Ok(()),
        Ok(_) => Err(OpenLogError::Foreign),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let draft = path.with_extension("jwk.new");
            fs::write(&draft, jwk + "\n")?;
            Ok(fs::rename(&draft, path)?)
        }
        Err(error) => Err(error.into()),
    }
}

/// The lines of the first `length` bytes.
pub(super) fn lines(path: &CheckpointFile, length: u64) -> io::Result<FileLines> {
    match File::open(&path.path) {
        Ok(file) => Ok(FileLines(Some(BufReader::new(file.take(length)).lines()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(FileLines(None)),
        Err(error) => Err(error),
    }
}

/// The lines of the checkpoint file. What is no text is an empty line, which is no checkpoint.
pub(super) struct FileLines(Option<Lines<BufReader<Take<File>>>>);

impl Iterator for FileLines {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let line = self.0.as_mut()?.next()?;
        if line.is_err() {
            self.0 = None;
        }
        Some(line.unwrap_or_default())
    }
}

#[cfg(unix)]
pub(super) fn private(path: &Path, options: &mut fs::OpenOptions) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(0o600).open(path)
}

#[cfg(not(unix))]
pub(super) fn private(path: &Path, options: &mut fs::OpenOptions) -> io::Result<File> {
    options.open(path)
}

#[cfg(unix)]
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

#[cfg(not(unix))]
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}
