//! Backups that are nothing but the times at which they were made.

use async_trait::async_trait;
use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};
use xylem_control::{Backup, BackupError, Backups};

#[derive(Default)]
pub(crate) struct FakeBackups(Mutex<Vec<SystemTime>>);

impl FakeBackups {
    /// When they were made.
    pub(crate) fn made(&self) -> Vec<SystemTime> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn backup(at: SystemTime) -> Backup {
    Backup {
        file: PathBuf::from("xylem.backup"),
        at,
        bytes: 1,
    }
}

#[async_trait]
impl Backups for FakeBackups {
    async fn make(&self, now: SystemTime) -> Result<Backup, BackupError> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        made.push(now);
        Ok(backup(now))
    }

    async fn last(&self) -> Result<Option<Backup>, BackupError> {
        Ok(self.made().last().copied().map(backup))
    }

    fn every(&self) -> Duration {
        Duration::from_secs(24 * 60 * 60)
    }
}
