//! Reading the whole log and checking it.

use super::{
    LAST_CHECKPOINT, LAST_ENTRY,
    file::{FileLines, lines},
    head, last,
    read::{checkpoint, entries, line, place},
    segments::{LAST_SEGMENT, ends, segments},
    unavailable,
};
use crate::{Store, row::integer, sql::statement};
use std::iter::Peekable;
use xylem_audit::{
    Checkpoint, Extent, Finding, Head, Index, Line, LogError, Progress, Scribe, Segment, Verified,
    Verifier, Watcher,
};

/// Entries that are read and checked at a time. No transaction lasts longer than one such page.
const PAGE: i64 = 1_000;

pub(super) async fn verify(
    store: &Store,
    progress: &mut Watcher<'_>,
) -> Result<Verified, LogError> {
    loop {
        let archived = last_segment(store).await?;
        let verified = once(store, progress).await?;
        // What was archived and dropped meanwhile is not missing: the log begins later now.
        let moved =
            matches!(verified, Verified::Broken(_)) && last_segment(store).await? > archived;
        if !moved {
            return Ok(verified);
        }
    }
}

async fn last_segment(store: &Store) -> Result<u64, LogError> {
    let mut work = store.read().await.map_err(unavailable)?;
    last(&mut work, LAST_SEGMENT).await
}

async fn once(store: &Store, progress: &mut Watcher<'_>) -> Result<Verified, LogError> {
    let begun = match begin(store).await {
        Err(LogError::Tampered(finding)) => Err(finding),
        begun => begun?,
    };
    let mut reading = match begun {
        Ok(reading) => reading,
        Err(finding) => return Ok(Verified::Broken(finding)),
    };
    let Range { of, taken, start } = reading.range;
    let (mut after, mut checked) = (reading.after, start);
    loop {
        if progress(Progress { checked, of }).is_break() {
            return Ok(Verified::Stopped);
        }
        let page = match Page::read(store, after, reading.range).await {
            Err(LogError::Tampered(finding)) => return Ok(Verified::Broken(finding)),
            page => page?,
        };
        let Some(end) = page.last else {
            break;
        };
        (after, checked) = (end, place(end));
        let done;
        (reading, done) = apart(move || {
            let done = reading.page(page);
            (reading, done)
        })
        .await?;
        if let Err(finding) = done {
            return Ok(Verified::Broken(finding));
        }
    }
    let beyond = match checkpoints(store, integer(checked), taken).await {
        Err(LogError::Tampered(finding)) => return Ok(Verified::Broken(finding)),
        beyond => beyond?,
    };
    let found = apart(move || reading.end(&beyond)).await?;
    Ok(found.map_or_else(Verified::Broken, Verified::Intact))
}

/// Everything is where it was at one moment, and begins behind what was archived.
async fn begin(store: &Store) -> Result<Result<Reading, Finding>, LogError> {
    let snapshot = Snapshot::take(store).await?;
    let scribe = store.book()?.scribe().clone();
    apart(move || snapshot.begin(scribe)).await
}

/// Hashing a page takes milliseconds: too long for a thread that others wait for.
pub(super) async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LogError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| LogError::Unavailable(Box::new(error)))
}

/// Where everything ended at one moment. What comes later is not looked at.
struct Snapshot {
    head: Option<Head>,
    extent: Extent,
    file: FileLines,
    segments: Vec<Segment>,
    /// The checkpoint that the last of them ends with.
    ends: Option<Checkpoint>,
}

/// Which rows are read.
#[derive(Clone, Copy)]
pub(super) struct Range {
    /// The last entry.
    pub(super) of: u64,
    /// The last checkpoint: one that is taken at the last of these entries while they are read is not
    /// in the head either.
    pub(super) taken: i64,
    /// The last entry that was archived.
    pub(super) start: u64,
}

impl Snapshot {
    async fn take(store: &Store) -> Result<Self, LogError> {
        let book = store.book()?;
        // What was committed and not copied yet is not missing from the file.
        let _ = store.copy_checkpoints().await;
        let turn = book.file().turn().await;
        let unusable = |error| LogError::Unavailable(Box::new(error));
        let file = lines(book.file(), turn.length().map_err(unusable)?).map_err(unusable)?;
        let mut work = store.read().await.map_err(unavailable)?;
        let segments = segments(&mut work).await?;
        let ends = match segments.last() {
            Some(segment) => ends(&mut work, segment.last).await?,
            None => None,
        };
        Ok(Self {
            segments,
            ends,
            head: head(&mut work).await?,
            extent: Extent {
                entries: last(&mut work, LAST_ENTRY).await?,
                checkpoints: last(&mut work, LAST_CHECKPOINT).await?,
                file: turn.copied(),
            },
            file,
        })
    }

    fn begin(self, scribe: Scribe) -> Result<Reading, Finding> {
        let verifier = Verifier::new(scribe, self.head, self.extent)?;
        let mut verifier = verifier.after(&self.segments, self.ends.as_ref())?;
        let mut file = self.file.peekable();
        while let Some(line) = file.peek() {
            if !verifier.passes_over(line)? {
                break;
            }
            file.next();
        }
        verifier.passed()?;
        let start = verifier.start();
        // What is being dropped may be there still; behind what was, nothing may.
        let dropping = self.segments.last().is_some_and(|it| !it.dropped);
        Ok(Reading {
            verifier,
            file,
            after: if dropping { integer(start) } else { i64::MIN },
            range: Range {
                of: self.extent.entries,
                taken: integer(self.extent.checkpoints),
                start,
            },
        })
    }
}

/// Entries, and the checkpoints that were taken among them.
pub(super) struct Page {
    pub(super) lines: Vec<Result<(Line, Index), Finding>>,
    pub(super) last: Option<i64>,
    pub(super) checkpoints: Vec<Checkpoint>,
}

impl Page {
    pub(super) async fn read(store: &Store, after: i64, range: Range) -> Result<Self, LogError> {
        let mut query = entries();
        query.push(" WHERE seq > ").push_bind(after);
        query.push(" AND seq <= ").push_bind(integer(range.of));
        query.push(" ORDER BY seq LIMIT ").push_bind(PAGE);
        let rows = {
            let mut work = store.read().await.map_err(unavailable)?;
            work.all(query.done()).await.map_err(unavailable)?
        };
        let end = rows.last().map(|row| row.column("seq")).transpose();
        let end: Option<i64> = end.map_err(unavailable)?;
        let checkpoints = match end {
            Some(end) => {
                let after = after.max(integer(range.start));
                checkpoints(store, after, end.min(range.taken)).await?
            }
            None => Vec::new(),
        };
        Ok(Self {
            lines: rows.iter().map(line).collect(),
            last: end,
            checkpoints,
        })
    }
}

async fn checkpoints(store: &Store, after: i64, last: i64) -> Result<Vec<Checkpoint>, LogError> {
    let mut work = store.read().await.map_err(unavailable)?;
    let query = statement(
        "SELECT seq, at_ms, signed FROM audit_checkpoints WHERE seq > $1 AND seq <= $2 ORDER BY seq",
    );
    let query = query.bind(after).bind(last);
    let rows = work.all(query).await.map_err(unavailable)?;
    let read: Result<_, Finding> = rows.iter().map(checkpoint).collect();
    read.map_err(LogError::Tampered)
}

struct Reading {
    verifier: Verifier,
    file: Peekable<FileLines>,
    /// The place that the first entry is read after.
    after: i64,
    range: Range,
}

impl Reading {
    fn page(&mut self, page: Page) -> Result<(), Finding> {
        let mut checkpoints = page.checkpoints.iter().peekable();
        for read in page.lines {
            let (line, index) = read?;
            self.verifier.line(&line, &index)?;
            while let Some(row) = checkpoints.next_if(|row| row.seq <= line.seq) {
                let file = self.file.peek().map(String::as_str);
                if self.verifier.checkpoint(row, file)? {
                    self.file.next();
                }
            }
        }
        Ok(())
    }

    fn end(self, beyond: &[Checkpoint]) -> Result<xylem_audit::Intact, Finding> {
        self.verifier.finish(beyond, self.file)
    }
}
