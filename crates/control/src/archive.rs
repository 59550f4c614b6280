//! Archives of the audit log: when they are made, and that it is known how far they are.

use crate::{fault::Fault, plane::Plane};
use std::{ops::ControlFlow, sync::Arc, time::Duration};
use xylem_audit::{ArchiveError, Archives, Entry, Kind, Retained, Segment, Verdict};
use xylem_ids::AgentId;

/// Entries go once a day: what is older than it is to be kept for so much longer was not archived.
const LATE: Duration = Duration::from_secs(2 * 24 * 60 * 60);

impl Plane {
    /// Archives and drops what is old enough, on behalf of this process.
    pub(crate) async fn archive_daily(&self) -> Result<(), Fault> {
        let entry = self.archiving(&self.system);
        self.archive_audit(entry).await.map(drop)
    }

    /// An entry that says who has the log archived.
    pub(crate) fn archiving(&self, by: &AgentId) -> Entry {
        let mut entry = Entry::new(self.now(), Kind::AuditArchived, Verdict::Failed).by(by);
        entry.namespace = Some(self.settings.namespace.clone());
        entry
    }

    /// Archives and drops what is old enough. A failure is in the log as well.
    pub(crate) async fn archive_audit(&self, entry: Entry) -> Result<Vec<Segment>, Fault> {
        let Some(archives) = &self.archives else {
            return Err(Fault::refused(
                "archive_not_configured",
                "this control plane archives nothing: start it with --audit-archive",
            ));
        };
        let mut steps = |_| match self.stopping.is_cancelled() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let archived = archives.archive(&entry, &mut steps).await;
        if let Err(error) = &archived
            && let Some(code) = failure(error)
        {
            // The failure itself is what the caller is told of.
            let _ = self.log.append(&[entry.because(code)]).await;
        }
        for segment in archived.iter().flatten() {
            let (last, file) = (segment.last, &segment.file);
            tracing::info!(
                last,
                file,
                "the oldest entries of the audit log were archived"
            );
        }
        Ok(archived?)
    }

    /// How far the archives are, where they are made: entries that are much too old were not archived.
    pub(crate) async fn archived(&self) -> Option<Result<String, String>> {
        let archives: &Arc<dyn Archives> = self.archives.as_ref()?;
        let Retained { archived, oldest } = match archives.retained().await {
            Ok(retained) => retained,
            Err(error) => return Some(Err(error.to_string())),
        };
        let said = match archived {
            Some(segment) => format!("entries up to {} are in {}", segment.last, segment.file),
            None => "none yet".to_owned(),
        };
        let age = oldest.and_then(|oldest| self.now().duration_since(oldest).ok());
        let late = age.is_some_and(|age| age > archives.keep().saturating_add(LATE));
        Some(if late { Err(said) } else { Ok(said) })
    }
}

/// What the log says of a failure; nothing where it cannot, or where nothing failed.
fn failure(error: &ArchiveError) -> Option<&'static str> {
    match error {
        ArchiveError::UnderWay | ArchiveError::Log(_) => None,
        ArchiveError::File { .. } => Some("archive_file"),
        ArchiveError::Damaged { .. } | ArchiveError::Other { .. } | ArchiveError::Needed { .. } => {
            Some("archive_damaged")
        }
    }
}

impl From<ArchiveError> for Fault {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::Log(error) => error.into(),
            ArchiveError::UnderWay => Self::refused("archive_under_way", error.to_string()),
            ArchiveError::Damaged { .. }
            | ArchiveError::Other { .. }
            | ArchiveError::Needed { .. } => Self::refused("archive_damaged", error.to_string()),
            ArchiveError::File { .. } => {
                let message = "the archive could not be written or read: the control plane's log \
                               says why";
                Self::unavailable("archive_failed", message, error)
            }
        }
    }
}
