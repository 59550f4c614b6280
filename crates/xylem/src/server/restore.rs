//! From a backup to an installation that can be started.

use super::{Database, DatabaseError, ServerError, Storage, key_ring};
use crate::data::DataDir;
use flate2::read::GzDecoder;
use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::{sync::mpsc, task};
use xylem_ids::Namespace;
use xylem_seal::{EnvelopeOpener, Opened};
use xylem_store::{Empty, LoadError};
use xylem_vault::{KeyError, KeyRing, VaultError, Wraps, check_wrapped, is_attested};

const WAITING: usize = 256;
/// No line of a backup is longer, in bytes: a row has a few kibibytes.
const LONGEST_LINE: u64 = 64 * 1024 * 1024;

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    /// How many rows, of all tables.
    pub rows: u64,
    /// The file that holds the administrator's API key.
    pub admin_key: PathBuf,
    /// Where the checkpoints went that the audit log had taken before: they prove what it has lost.
    pub checkpoints: Option<PathBuf>,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file cannot be read.
    #[error("the backup {} cannot be used", .path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no key-encryption key.
    #[error(
        "{} holds no key-encryption key: put the one there that the backup was made under",
        .0.display()
    )]
    NoKeys(PathBuf),
    /// A key-encryption key is missing that it needs.
    #[error("the backup needs every key-encryption key that it was made under")]
    Keys(#[source] KeyError),
    /// It cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The database cannot be opened.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// Who made it cannot be told.
    #[error("it cannot be told who made the backup")]
    Maker(#[source] VaultError),
    /// The checkpoints of before cannot be moved away.
    #[error("the database is restored, but {} cannot be moved away: move it", .path.display())]
    Checkpoints {
        /// Their file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// As a start.
    #[error(transparent)]
    Server(#[from] ServerError),
}

/// Loads a backup into an empty database, begins a new epoch in it, and makes an administrator's key
/// where the data directory has none. Tokens are handed out once an administrator has confirmed. The
/// audit log's checkpoints go to `checkpoints`, as those of the control plane do; into the data
/// directory where absent.
///
/// # Errors
/// Nothing was changed, unless the error says so.
pub async fn restore(
    data: &DataDir,
    database: &Database,
    namespace: Namespace,
    (backup, key): (&Path, EnvelopeOpener),
    checkpoints: Option<PathBuf>,
) -> Result<Restored, RestoreError> {
    data.create().map_err(ServerError::from)?;
    let keys = key_ring(data, false).map_err(|error| match error {
        ServerError::NotInitialised(folder) => RestoreError::NoKeys(folder),
        error => error.into(),
    })?;
    let empty = database.empty(data).await?;
    let rows = load(empty, &keys, backup, key).await?;
    let file = checkpoints.unwrap_or_else(|| data.audit_checkpoints());
    let checkpoints = set_aside(&file)?;
    let storage = Storage::open(data, database, namespace, false, Some(file)).await?;
    storage.credentials().administrator().await?;
    storage.store.close().await;
    Ok(Restored {
        rows,
        admin_key: data.admin_key(),
        checkpoints,
    })
}

/// How many rows there are now.
async fn load(
    empty: Empty,
    keys: &KeyRing,
    backup: &Path,
    key: EnvelopeOpener,
) -> Result<u64, RestoreError> {
    let (send, receive) = mpsc::channel(WAITING);
    let path = backup.to_owned();
    let reading = task::spawn_blocking(move || read(&path, &key, &send));
    let mut reading = Some(reading);
    let mut problem = None;
    let confirm = async |wrapped: &[Wraps]| {
        let Some(reading) = reading.take() else {
            return false;
        };
        let confirmed = match confirmed(reading.await, keys, backup).await {
            Ok(true) => check_wrapped(keys, wrapped)
                .map(|()| true)
                .map_err(RestoreError::Keys),
            other => other,
        };
        confirmed.unwrap_or_else(|error| {
            problem = Some(error);
            false
        })
    };
    let loaded = empty.load(receive, confirm).await;
    // Lines that end too early, or make no sense, may come from a file that is damaged.
    if let (Err(_), Some(reading)) = (&loaded, reading)
        && let Ok(Err(error)) = reading.await
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        problem = Some(unusable(backup, error));
    }
    match problem {
        Some(problem) => Err(problem),
        None => Ok(loaded?),
    }
}

/// The digest of a whole backup, and the word behind it.
type End = io::Result<(Vec<u8>, Vec<u8>)>;

/// Whether the file was read to its end, and who made it has a key of ours.
async fn confirmed(
    read: Result<End, task::JoinError>,
    keys: &KeyRing,
    backup: &Path,
) -> Result<bool, RestoreError> {
    let read = read.unwrap_or_else(|error| Err(io::Error::other(error)));
    let (digest, word) = read.map_err(|error| unusable(backup, error))?;
    let attested = is_attested(keys, &word, &digest).await;
    attested.map_err(RestoreError::Maker)
}

fn unusable(backup: &Path, source: io::Error) -> RestoreError {
    RestoreError::File {
        path: backup.to_owned(),
        source,
    }
}

/// Sends a backup's lines.
fn read(path: &Path, key: &EnvelopeOpener, lines: &mpsc::Sender<String>) -> End {
    let opened = Opened::new(BufReader::new(File::open(path)?), key)?;
    let mut compressed = BufReader::new(GzDecoder::new(opened));
    loop {
        let mut line = String::new();
        let read = (&mut compressed).take(LONGEST_LINE).read_line(&mut line)?;
        if read == 0 {
            return compressed.into_inner().into_inner().finish();
        }
        line.truncate(line.trim_end().len());
        if lines.blocking_send(line).is_err() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
    }
}

/// The log goes on from the backup; what the checkpoints say beyond that is kept, and not taken for a
/// log that was cut off.
fn set_aside(path: &Path) -> Result<Option<PathBuf>, RestoreError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.unwrap_or_default().as_secs();
    let to = path.with_extension(format!("before-{seconds}.jws"));
    match fs::rename(path, &to) {
        Ok(()) => Ok(Some(to)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(RestoreError::Checkpoints {
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::is_private,
        server::{backup::Copies, init},
    };
    use std::{sync::Arc, time::Duration};
    use xylem_control::{Backup, Backups};
    use xylem_seal::EnvelopeKey;

    fn namespace() -> Namespace {
        "default".parse().expect("a name")
    }

    async fn opened(data: &DataDir) -> Storage {
        let opened = Storage::open(data, &Database::File, namespace(), false, None);
        opened.await.expect("opens")
    }

    /// An installation with `count` backups.
    async fn backed_up(data: &DataDir, key: &EnvelopeKey, count: u64) -> Vec<Backup> {
        let made = init(data, &Database::File, namespace(), "").await;
        made.expect("an installation");
        copies(data, key, count).await
    }

    /// `count` backups of an installation that has none.
    async fn copies(data: &DataDir, key: &EnvelopeKey, count: u64) -> Vec<Backup> {
        let storage = opened(data).await;
        let copies = Copies {
            config: crate::server::BackupConfig {
                folder: data.path().join("backups"),
                key: key.clone(),
                every: Duration::from_secs(60),
                keep: 2,
            },
            store: storage.store.clone(),
            vault: Arc::new(storage.vault),
        };
        assert_eq!(copies.last().await.expect("reads"), None);
        let mut made = Vec::new();
        for at in 0..count {
            let at = UNIX_EPOCH + Duration::from_secs(1_800_000_000 + at);
            made.push(copies.make(at).await.expect("a backup"));
        }
        let last = copies.last().await.expect("reads").map(|last| last.file);
        assert_eq!(last.as_ref(), made.last().map(|made| &made.file));
        storage.store.close().await;
        made
    }

    fn with_key_of(from: &DataDir, folder: PathBuf) -> DataDir {
        let data = DataDir::at(folder);
        data.create().expect("a folder");
        fs::copy(from.kek(), data.kek()).expect("copies");
        data
    }

    fn again(key: &EnvelopeOpener) -> EnvelopeOpener {
        key.to_text().parse().expect("a key")
    }

    async fn restored(
        data: &DataDir,
        file: &Path,
        key: EnvelopeOpener,
    ) -> Result<Restored, RestoreError> {
        restore(data, &Database::File, namespace(), (file, key), None).await
    }

    #[tokio::test]
    async fn a_backup_is_restored_where_its_keys_are_and_nothing_is_handed_out_at_first() {
        let guard = tempfile::tempdir().expect("a directory");
        let (public, private) = EnvelopeOpener::generate().expect("keys");
        let before = DataDir::at(guard.path().join("before"));
        let made = backed_up(&before, &public, 3).await;
        assert!(!made[0].file.exists(), "two are kept");
        let newest = &made[2];
        assert!(is_private(&newest.file).expect("a file"));
        assert_eq!(
            fs::metadata(&newest.file).expect("a file").len(),
            newest.bytes
        );

        let after = with_key_of(&before, guard.path().join("after"));
        let aside = after.audit_checkpoints();
        fs::create_dir_all(aside.parent().expect("a folder")).expect("made");
        fs::write(&aside, "of before\n").expect("written");
        let restored = restored(&after, &newest.file, private)
            .await
            .expect("restores");
        assert!(
            restored.rows > 5 && restored.admin_key.exists(),
            "{restored:?}"
        );
        let kept = restored.checkpoints.expect("checkpoints of before");
        assert_eq!(fs::read_to_string(kept).expect("reads"), "of before\n");
        let storage = opened(&after).await;
        assert!(storage.vault.is_held().await.expect("answers"));
        assert_eq!(storage.vault.epoch().await.expect("answers").0, 2);
    }

    #[tokio::test]
    async fn a_backup_needs_every_key_that_wraps_something_in_it() {
        let guard = tempfile::tempdir().expect("a directory");
        let (public, private) = EnvelopeOpener::generate().expect("keys");
        let before = DataDir::at(guard.path().join("before"));
        backed_up(&before, &public, 0).await;
        let first = fs::read_to_string(before.kek()).expect("a key");
        let next = "k2:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE\n";
        let both = format!("{next}{first}");
        fs::write(before.kek(), &both).expect("written");
        // The next key wraps from here on, and the first is not done yet.
        let file = copies(&before, &public, 1).await.remove(0).file;

        let after = with_key_of(&before, guard.path().join("after"));
        fs::write(after.kek(), next).expect("written");
        let error = restored(&after, &file, again(&private)).await;
        let missing = matches!(
            error,
            Err(RestoreError::Keys(KeyError::Needed { wraps: 1.., .. }))
        );
        assert!(missing, "{error:?}");
        fs::write(after.kek(), &both).expect("written");
        let restored = restored(&after, &file, private).await;
        restored.expect("the database is still empty");
    }

    #[tokio::test]
    async fn what_cannot_be_restored_changes_nothing() {
        let guard = tempfile::tempdir().expect("a directory");
        let (public, private) = EnvelopeOpener::generate().expect("keys");
        let before = DataDir::at(guard.path().join("before"));
        let file = backed_up(&before, &public, 1).await.remove(0).file;
        let after = with_key_of(&before, guard.path().join("after"));

        let (_, other) = EnvelopeOpener::generate().expect("keys");
        let error = restored(&after, &file, other).await.expect_err("refused");
        assert!(matches!(error, RestoreError::File { .. }), "{error:?}");
        let whole = fs::read(&file).expect("reads");
        let damaged = guard.path().join("damaged");
        for at in [0, 40, whole.len() / 2, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&damaged, bytes).expect("written");
            let error = restored(&after, &damaged, again(&private)).await;
            let error = error.expect_err("refused");
            assert!(
                matches!(error, RestoreError::File { .. }),
                "{at}: {error:?}"
            );
        }
        fs::write(&damaged, &whole[..whole.len() / 2]).expect("written");
        let error = restored(&after, &damaged, again(&private)).await;
        assert!(matches!(error, Err(RestoreError::File { .. })), "{error:?}");

        let keyless = DataDir::at(guard.path().join("keyless"));
        let error = restored(&keyless, &file, again(&private)).await;
        let missing = matches!(error, Err(RestoreError::NoKeys(_)));
        assert!(missing, "{error:?}");
        let stranger = DataDir::at(guard.path().join("stranger"));
        stranger.create().expect("a folder");
        KeyRing::from_file_or_new(&stranger.kek()).expect("a key");
        let error = restored(&stranger, &file, again(&private)).await;
        assert!(matches!(error, Err(RestoreError::Maker(_))), "{error:?}");

        restored(&after, &file, again(&private))
            .await
            .expect("restores");
        let error = restored(&after, &file, private).await;
        let twice = matches!(error, Err(RestoreError::Load(LoadError::NotEmpty)));
        assert!(twice, "{error:?}");
    }
}
