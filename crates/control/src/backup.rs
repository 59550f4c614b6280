//! Backups of the database: when they are made, and that they are in the log.

use crate::{Control, fault::Fault, plane::Plane};
use async_trait::async_trait;
use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};
use tonic::Status;
use xylem_audit::{Entry, Kind, Note, Verdict};
use xylem_ids::AgentId;

/// The clock of the machine that keeps the files may be so far ahead.
const SKEW: Duration = Duration::from_secs(5 * 60);

/// A copy of the database that only the holder of a private key can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Its file, on the machine of the control plane that made it.
    pub file: PathBuf,
    /// When it was finished.
    pub at: SystemTime,
    /// Its length.
    pub bytes: u64,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
#[error("no backup could be made")]
pub struct BackupError(#[from] pub Box<dyn std::error::Error + Send + Sync>);

/// Makes backups, and knows where they are.
#[async_trait]
pub trait Backups: Send + Sync {
    /// Copies the database as it is now.
    ///
    /// # Errors
    /// The database cannot be read or the file not be written; there is no new file then.
    async fn make(&self, now: SystemTime) -> Result<Backup, BackupError>;

    /// The newest one.
    ///
    /// # Errors
    /// Their folder cannot be read.
    async fn last(&self) -> Result<Option<Backup>, BackupError>;

    /// How often one is made.
    fn every(&self) -> Duration;
}

impl Control {
    /// Makes a backup as the schedule has it done; none where the last one is younger than half of
    /// [`Backups::every`].
    ///
    /// # Errors
    /// No backups are made here, or none could be made.
    pub async fn back_up(&self) -> Result<(), Status> {
        Ok(self.plane().take_due_backup().await?)
    }
}

impl Plane {
    /// Makes a backup, and notes who had it made.
    pub(crate) async fn take_backup(&self, by: &AgentId) -> Result<Backup, Fault> {
        let Some(backups) = &self.backups else {
            return Err(Fault::refused(
                "backups_not_configured",
                "this control plane makes no backups: start it with --backup-dir and \
                 --backup-public-key; `xylem vault key` makes the key",
            ));
        };
        let made = backups.make(self.now()).await;
        let verdict = if made.is_ok() {
            Verdict::Succeeded
        } else {
            Verdict::Failed
        };
        let mut entry = Entry::new(self.now(), Kind::BackedUp, verdict).by(by);
        entry.namespace = Some(self.settings.namespace.clone());
        entry.bytes_out = made.as_ref().ok().map(|backup| backup.bytes);
        entry.note = made.as_ref().ok().and_then(named);
        self.log.append(&[entry]).await?;
        made.map_err(|error| {
            let message = "no backup could be made: the control plane's log says why";
            Fault::unavailable("backup_failed", message, error)
        })
    }

    /// Makes the backup that the schedule asks for. Whoever may write to the namespace can ask in its place,
    /// and each new backup has the oldest one removed: while the last one is young there is no other.
    pub(crate) async fn take_due_backup(&self) -> Result<(), Fault> {
        if let Some(backups) = &self.backups
            && let Ok(Some(last)) = backups.last().await
            && let Ok(age) = self.now().duration_since(last.at)
            && age < backups.every() / 2
        {
            tracing::warn!("no backup was made: the last one is younger than half of the interval");
            return Ok(());
        }
        self.take_backup(&self.system).await.map(drop)
    }

    /// How old the newest backup is, where backups are made: two intervals are too old. One of the future
    /// would hide for as long that there is no other.
    pub(crate) async fn backed_up(&self) -> Option<Result<String, String>> {
        let backups = self.backups.as_ref()?;
        let last = match backups.last().await {
            Ok(Some(last)) => last,
            Ok(None) => return Some(Ok("none yet".to_owned())),
            Err(error) => return Some(Err(error.0.to_string())),
        };
        let age = match self.now().duration_since(last.at) {
            Err(ahead) if ahead.duration() > SKEW => {
                return Some(Err(format!(
                    "{} is {} ahead of this machine's clock, and hides how old the others are: correct the \
                     clock, or move the file away if another clock was wrong",
                    last.file.display(),
                    whole_seconds(ahead.duration()),
                )));
            }
            age => age.unwrap_or_default(),
        };
        let said = format!("the last {} ago", whole_seconds(age));
        let late = age > backups.every().saturating_mul(2);
        Some(if late { Err(said) } else { Ok(said) })
    }
}

fn whole_seconds(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(duration.as_secs()))
}

fn named(backup: &Backup) -> Option<Note> {
    let name = backup.file.file_name()?.to_string_lossy().into_owned();
    Note::new(&name)
}
