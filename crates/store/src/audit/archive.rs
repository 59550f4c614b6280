//! Archiving the oldest entries, and dropping them.
//!
//! In this order, so that nothing is lost wherever it is interrupted: the archive is written and read
//! back, its record is sealed, entries are dropped, and that they are is noted. Who comes next goes on
//! where it ended.

use super::{
    append::Book,
    archive_file::{Draft, UnfitArchive, begun, name, read_archive},
    last,
    read::{entries, line},
    segments::{ends, insert, update},
    unavailable,
    verify::{Page, Range, apart},
};
use crate::{
    Store,
    row::integer,
    sql::{Work, statement},
};
use async_trait::async_trait;
use std::{
    io::{self, ErrorKind::NotFound},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use xylem_audit::{
    ArchiveError, Archived, Archives, Checkpoint, Entry, Finding, Hash, Index, Kind, LATEST, Line,
    LogError, Mac, Retained, Segment, Span, Step, Steps, Verdict, archive_checkpoint,
    archive_entry,
};

/// Entries in one segment at most.
const LONGEST: u64 = 100_000;
/// Entries that are dropped in one transaction: others wait for no more.
const CHUNK: u64 = 5_000;
/// Who has begun and says nothing for so long has ended.
const TURN: Duration = Duration::from_secs(2 * 60);

/// Archives the entries of a database that are older than they are to be kept, in a folder.
#[derive(Debug)]
pub struct Archiver {
    store: Arc<Store>,
    folder: PathBuf,
    keep: Duration,
}

impl Archiver {
    /// Into this folder, what is older than this.
    #[must_use]
    pub fn new(store: Arc<Store>, folder: PathBuf, keep: Duration) -> Self {
        Self {
            store,
            folder,
            keep,
        }
    }
}

#[async_trait]
impl Archives for Archiver {
    async fn archive(
        &self,
        entry: &Entry,
        steps: &mut Steps<'_>,
    ) -> Result<Vec<Segment>, ArchiveError> {
        let holder =
            xylem_seal::random_id().map_err(|error| LogError::Unavailable(error.into()))?;
        let archiving = Archiving {
            store: &self.store,
            book: self.store.book()?,
            folder: &self.folder,
            keep: self.keep,
            entry,
            holder,
        };
        archiving.hold().await?;
        let archived = archiving.run(steps).await;
        archiving.release().await;
        archived
    }

    async fn retained(&self) -> Result<Retained, LogError> {
        let mut work = self.store.read().await.map_err(unavailable)?;
        let archived = self.store.book()?.newest_segment(&mut work).await?;
        let query = statement("SELECT at_ms AS last FROM audit ORDER BY seq LIMIT 1");
        let row = work.one(query).await.map_err(unavailable)?;
        let oldest = row.map(|row| row.column::<i64>("last")).transpose();
        let oldest = oldest.map_err(unavailable)?;
        let since = |ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
        Ok(Retained {
            archived,
            oldest: oldest.and_then(|ms| UNIX_EPOCH.checked_add(since(ms))),
        })
    }

    fn keep(&self) -> Duration {
        self.keep
    }
}

/// Archiving, for as long as nobody else may.
struct Archiving<'a> {
    store: &'a Store,
    book: &'a Book,
    folder: &'a Path,
    keep: Duration,
    entry: &'a Entry,
    holder: String,
}

/// What is to be done next.
enum Next {
    /// A segment whose record is sealed.
    Drop(Segment),
    /// Entries up to a checkpoint.
    Write(Span, Checkpoint),
}

impl Archiving<'_> {
    async fn run(&self, steps: &mut Steps<'_>) -> Result<Vec<Segment>, ArchiveError> {
        let mut done = Vec::new();
        let mut goes_on = |step| steps(step).is_continue();
        while let Some(next) = self.next().await? {
            let segment = match next {
                Next::Drop(segment) => {
                    self.check(&segment).await?;
                    segment
                }
                Next::Write(span, end) => {
                    if !goes_on(Step::Write) {
                        break;
                    }
                    let archived = self.write(&span).await?;
                    if !goes_on(Step::Seal) {
                        break;
                    }
                    self.seal(&archived, &end).await?
                }
            };
            if !self.drop_entries(&segment, &mut goes_on).await? || !goes_on(Step::Finish) {
                break;
            }
            done.push(self.finish(segment).await?);
        }
        Ok(done)
    }

    async fn next(&self) -> Result<Option<Next>, ArchiveError> {
        let chain = *self.book.chain().map_err(LogError::Tampered)?;
        let mut work = self.store.read().await.map_err(unavailable)?;
        let newest = self.book.newest_segment(&mut work).await?;
        let (end, before) = match newest {
            Some(segment) if !segment.dropped => return Ok(Some(Next::Drop(segment))),
            Some(segment) => (segment.last, segment.hash),
            None => (0, self.book.scribe().begin(chain, UNIX_EPOCH).hash),
        };
        let Some(due) = self.due(&mut work, end).await? else {
            return Ok(None);
        };
        let mut span = Span {
            chain,
            first: end.saturating_add(1),
            last: due.seq,
            before,
        };
        // Where somebody was interrupted, the file that is there is taken rather than another one
        // written that has the same entries.
        for last in begun(self.folder, &span).map_err(|error| self.file("", error))? {
            let found = match last < due.seq {
                true => ends(&mut work, last).await?,
                false => None,
            };
            if let Some(earlier) = found {
                span.last = earlier.seq;
                return Ok(Some(Next::Write(span, earlier)));
            }
        }
        Ok(Some(Next::Write(span, due)))
    }

    /// The last checkpoint that is old enough, of those that a segment after this entry may end with.
    async fn due(&self, work: &mut Work, after: u64) -> Result<Option<Checkpoint>, LogError> {
        let Some(horizon) = self.book.now().checked_sub(self.keep) else {
            return Ok(None);
        };
        let limit = after.saturating_add(LONGEST);
        let limit = match unseen(work, horizon).await? {
            None => limit,
            // What nobody has counted and looked at yet stays.
            Some(unseen) => limit.min(unseen.saturating_sub(1)),
        };
        let query = statement(
            "SELECT MAX(seq) AS last FROM audit_checkpoints
             WHERE seq > $1 AND seq <= $2 AND at_ms <= $3",
        )
        .bind(integer(after))
        .bind(integer(limit))
        .bind(integer(milliseconds(horizon)));
        let row = work.one(query).await.map_err(unavailable)?;
        let due = row.map(|row| row.column::<Option<i64>>("last")).transpose();
        match due.map_err(unavailable)?.flatten() {
            Some(seq) => ends(work, super::read::place(seq)).await,
            None => Ok(None),
        }
    }

    /// Writes the archive, where it is not there, and reads it back.
    async fn write(&self, span: &Span) -> Result<Archived, ArchiveError> {
        let file = name(span);
        let path = self.folder.join(&file);
        if !path.exists() {
            let draft = self.fill(span).await?;
            // Whoever has taken the turn over meanwhile publishes what they have written.
            self.hold().await?;
            let published = apart(move || draft.publish()).await?;
            published.map_err(|error| self.file(&file, error))?;
        }
        let archived = self.read_back(&file).await?;
        let kept = self.hash_of(span.last).await?;
        if archived.span != *span || archived.hash != kept {
            return Err(ArchiveError::Other { file });
        }
        Ok(archived)
    }

    async fn fill(&self, span: &Span) -> Result<Draft, ArchiveError> {
        let file = name(span);
        let failed = |error| self.file(&file, error);
        let (folder, wanted) = (self.folder.to_owned(), *span);
        let holder = self.holder.clone();
        let header = span.header().map_err(LogError::from)?;
        let begun = apart(move || {
            let mut draft = Draft::begin(&folder, &wanted, &holder)?;
            draft.line(&header)?;
            Ok(draft)
        });
        let mut draft: Draft = begun.await?.map_err(failed)?;
        let range = Range {
            of: span.last,
            taken: integer(span.last),
            start: span.first.saturating_sub(1),
        };
        let mut after = integer(range.start);
        loop {
            self.hold().await?;
            let page = Page::read(self.store, after, range).await?;
            let Some(end) = page.last else {
                return Ok(draft);
            };
            after = end;
            let lines = self.lines(page)?;
            let written = apart(move || {
                lines.iter().try_for_each(|line| draft.line(line))?;
                Ok(draft)
            });
            draft = written.await?.map_err(failed)?;
        }
    }

    /// Nothing is archived that is not what was written.
    fn lines(&self, page: Page) -> Result<Vec<String>, LogError> {
        let mut lines = Vec::new();
        let mut checkpoints = page.checkpoints.iter().peekable();
        for read in page.lines {
            let read = read.and_then(|read| self.intact(read));
            let line = read.map_err(LogError::Tampered)?;
            lines.push(archive_entry(&line)?);
            while let Some(row) = checkpoints.next_if(|row| row.seq <= line.seq) {
                lines.push(archive_checkpoint(row)?);
            }
        }
        Ok(lines)
    }

    fn intact(&self, (line, index): (Line, Index)) -> Result<Line, Finding> {
        self.book.read(&line, &index)?;
        Ok(line)
    }

    async fn read_back(&self, file: &str) -> Result<Archived, ArchiveError> {
        let path = self.folder.join(file);
        let key = self.book.scribe().checkpoint_key().clone();
        let read = apart(move || read_archive(&path, &key)).await?;
        read.map_err(|unfit| match unfit {
            UnfitArchive::Io(error) => self.file(file, error),
            UnfitArchive::Damaged(finding) => ArchiveError::Damaged {
                file: file.to_owned(),
                finding,
            },
        })
    }

    /// The hash of an entry that is there still.
    async fn hash_of(&self, seq: u64) -> Result<Hash, LogError> {
        let mut query = entries();
        query.push(" WHERE seq = ").push_bind(integer(seq));
        let mut work = self.store.read().await.map_err(unavailable)?;
        let row = work.one(query.done()).await.map_err(unavailable)?;
        let read = row.as_ref().ok_or(Finding::Missing { from: seq, to: seq });
        let read = read.and_then(line).and_then(|read| self.intact(read));
        Ok(read.map_err(LogError::Tampered)?.hash)
    }

    async fn seal(&self, archived: &Archived, end: &Checkpoint) -> Result<Segment, ArchiveError> {
        let span = archived.span;
        let segment = Segment {
            first: span.first,
            last: span.last,
            before: span.before,
            hash: archived.hash,
            until_ms: end.at_ms,
            file: name(&span),
            at_ms: milliseconds(self.book.now()),
            dropped: false,
            mac: Mac([0; 32]),
        };
        let segment = self.book.scribe().seal_segment(&span.chain, segment);
        let mut work = self.turn().await?;
        insert(&mut work, &segment).await?;
        self.commit(work, Kind::AuditArchived, &segment).await?;
        Ok(segment)
    }

    /// Who was interrupted goes on only where the archive is what it was. One that is gone is written
    /// again from entries that are all there still.
    async fn check(&self, segment: &Segment) -> Result<(), ArchiveError> {
        let file = || segment.file.clone();
        let span = Span {
            chain: *self.book.chain().map_err(LogError::Tampered)?,
            first: segment.first,
            last: segment.last,
            before: segment.before,
        };
        let is_whole = self.oldest().await? == segment.first;
        let archived = match self.read_back(&segment.file).await {
            Err(ArchiveError::File { source, .. }) if source.kind() == NotFound => match is_whole {
                true => self.write(&span).await?,
                false => return Err(ArchiveError::Needed { file: file() }),
            },
            Err(ArchiveError::Damaged { .. }) if !is_whole => {
                return Err(ArchiveError::Needed { file: file() });
            }
            read => read?,
        };
        match (archived.span, archived.hash) == (span, segment.hash) {
            true => Ok(()),
            false if is_whole => Err(ArchiveError::Other { file: file() }),
            false => Err(ArchiveError::Needed { file: file() }),
        }
    }

    async fn oldest(&self) -> Result<u64, LogError> {
        let mut work = self.store.read().await.map_err(unavailable)?;
        last(&mut work, "SELECT MIN(seq) AS found FROM audit").await
    }

    /// Answers whether all are gone.
    async fn drop_entries(
        &self,
        segment: &Segment,
        goes_on: &mut (dyn FnMut(Step) -> bool + Send),
    ) -> Result<bool, ArchiveError> {
        let mut end = self.oldest().await?.saturating_sub(1);
        while end < segment.last {
            if !goes_on(Step::Drop) {
                return Ok(false);
            }
            end = end.saturating_add(CHUNK).min(segment.last);
            let mut work = self.turn().await?;
            let query = statement("DELETE FROM audit WHERE seq <= $1");
            let entries = work.run(query.bind(integer(end))).await;
            entries.map_err(unavailable)?;
            // The last one is what the rest of the log is verified from.
            let query = statement("DELETE FROM audit_checkpoints WHERE seq <= $1 AND seq < $2");
            let query = query.bind(integer(end)).bind(integer(segment.last));
            work.run(query).await.map_err(unavailable)?;
            work.commit().await.map_err(unavailable)?;
        }
        Ok(true)
    }

    async fn finish(&self, mut segment: Segment) -> Result<Segment, ArchiveError> {
        segment.dropped = true;
        let chain = self.book.chain().map_err(LogError::Tampered)?;
        let segment = self.book.scribe().seal_segment(chain, segment);
        let mut work = self.turn().await?;
        update(&mut work, &segment).await?;
        self.commit(work, Kind::AuditDropped, &segment).await?;
        Ok(segment)
    }

    async fn commit(&self, work: Work, kind: Kind, segment: &Segment) -> Result<(), LogError> {
        let mut entry = self.entry.clone();
        (entry.at, entry.kind, entry.verdict) = (self.book.now(), kind, Verdict::Succeeded);
        entry.about = Some((segment.first, segment.last));
        self.store.commit_with(work, &[entry]).await
    }

    /// Says that this goes on.
    async fn hold(&self) -> Result<(), ArchiveError> {
        let work = self.turn().await?;
        work.commit().await.map_err(unavailable)?;
        Ok(())
    }

    /// A transaction that is committed only if nobody else has begun meanwhile.
    async fn turn(&self) -> Result<Work, ArchiveError> {
        let now = milliseconds(self.book.now());
        let until = now.saturating_add(u64::try_from(TURN.as_millis()).unwrap_or(u64::MAX));
        let mut work = self.store.write().await.map_err(unavailable)?;
        let query = statement(
            "INSERT INTO audit_archiving (\"only\", holder, until_ms) VALUES (1, $1, $2)
             ON CONFLICT (\"only\") DO UPDATE
                SET holder = excluded.holder, until_ms = excluded.until_ms
                WHERE audit_archiving.holder = excluded.holder OR audit_archiving.until_ms < $3",
        )
        .bind(self.holder.as_str())
        .bind(integer(until))
        .bind(integer(now));
        match work.run(query).await.map_err(unavailable)? {
            1 => Ok(work),
            _ => Err(ArchiveError::UnderWay),
        }
    }

    /// Who cannot say that it has ended is waited for.
    async fn release(&self) {
        let released = async {
            let mut work = self.store.write().await?;
            let query = statement("DELETE FROM audit_archiving WHERE holder = $1");
            work.run(query.bind(self.holder.as_str())).await?;
            work.commit().await
        };
        if let Err(error) = released.await {
            tracing::warn!(%error, "the turn to archive the audit log was not given back");
        }
    }

    fn file(&self, file: &str, source: io::Error) -> ArchiveError {
        let path = self.folder.join(file);
        ArchiveError::File {
            file: path.display().to_string(),
            source,
        }
    }
}

/// The first entry that a watch has not seen, though one of that age may still raise an alert: a
/// namespace that nobody watches any more holds nothing up for longer.
async fn unseen(work: &mut Work, horizon: SystemTime) -> Result<Option<u64>, LogError> {
    let since = horizon.checked_sub(LATEST).unwrap_or(UNIX_EPOCH);
    let query = statement(
        "SELECT MIN(audit.seq) AS last FROM audit
         JOIN watch_cursors ON watch_cursors.namespace = audit.namespace
         WHERE audit.seq > watch_cursors.seq AND audit.at_ms > $1",
    );
    let query = query.bind(integer(milliseconds(since)));
    let row = work.one(query).await.map_err(unavailable)?;
    let found = row.map(|row| row.column::<Option<i64>>("last")).transpose();
    let found = found.map_err(unavailable)?.flatten();
    Ok(found.map(super::read::place))
}

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
