//! Reading the whole log and checking it.

use super::{
    LAST_CHECKPOINT, LAST_ENTRY,
    file::{FileLines, lines},
    head, last,
    read::{checkpoint, entries, line, place},
    unavailable,
};
use crate::{Store, row::integer, sql::statement};
use std::iter::Peekable;
use xylem_audit::{
    Checkpoint, Extent, Finding, Head, Index, Line, LogError, Progress, Verified, Verifier, Watcher,
};

/// Entries that are read and checked at a time. No transaction lasts longer than one such page.
const PAGE: i64 = 1_000;

pub(super) async fn verify(
    store: &Store,
    progress: &mut Watcher<'_>,
) -> Result<Verified, LogError> {
    let snapshot = match Snapshot::take(store).await {
        Err(LogError::Tampered(finding)) => return Ok(Verified::Broken(finding)),
        taken => taken?,
    };
    let of = snapshot.extent.entries;
    // One that is taken at the last of these entries while they are read is not in the head either.
    let taken = integer(snapshot.extent.checkpoints);
    let book = store.book()?;
    let verifier = Verifier::new(book.scribe().clone(), snapshot.head, snapshot.extent);
    let mut reading = match verifier {
        Ok(verifier) => Reading {
            verifier,
            file: snapshot.file.peekable(),
        },
        Err(finding) => return Ok(Verified::Broken(finding)),
    };
    let mut after = i64::MIN;
    let mut checked = 0;
    loop {
        if progress(Progress { checked, of }).is_break() {
            return Ok(Verified::Stopped);
        }
        let page = match Page::read(store, after, of, taken).await {
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

/// Hashing a page takes milliseconds: too long for a thread that others wait for.
async fn apart<T: Send + 'static>(
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
        Ok(Self {
            head: head(&mut work).await?,
            extent: Extent {
                entries: last(&mut work, LAST_ENTRY).await?,
                checkpoints: last(&mut work, LAST_CHECKPOINT).await?,
                file: turn.copied(),
            },
            file,
        })
    }
}

/// Entries, and the checkpoints that were taken among them.
struct Page {
    lines: Vec<Result<(Line, Index), Finding>>,
    last: Option<i64>,
    checkpoints: Vec<Checkpoint>,
}

impl Page {
    async fn read(store: &Store, after: i64, last: u64, taken: i64) -> Result<Self, LogError> {
        let mut query = entries();
        query.push(" WHERE seq > ").push_bind(after);
        query.push(" AND seq <= ").push_bind(integer(last));
        query.push(" ORDER BY seq LIMIT ").push_bind(PAGE);
        let rows = {
            let mut work = store.read().await.map_err(unavailable)?;
            work.all(query.done()).await.map_err(unavailable)?
        };
        let end = rows.last().map(|row| row.column("seq")).transpose();
        let end: Option<i64> = end.map_err(unavailable)?;
        let checkpoints = match end {
            Some(end) => checkpoints(store, after, end.min(taken)).await?,
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
