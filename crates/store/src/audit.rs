//! The audit log.

mod append;
mod archive;
mod archive_file;
mod batch;
mod file;
mod people;
mod read;
mod segments;
mod usage;
mod verify;
mod watch;

pub(crate) use append::Book;
pub use append::OpenLogError;
pub use archive::Archiver;
pub use archive_file::{UnfitArchive, read_archive};
pub(crate) use batch::Queue;
pub(crate) use people::forget;

use crate::{
    Store,
    row::{Columns, integer},
    sql::{Growing, Row, Statement, Work, statement},
};
use async_trait::async_trait;
use read::{entries, head_row, line, place};
use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use xylem_audit::{
    Entry, Filter, Finding, Head, Hidden, Log, LogError, MAX_PAGE, Page, PageToken, Person, Record,
    Segment, Standing, Verified, Watcher,
};

fn unavailable(error: sqlx::Error) -> LogError {
    LogError::Unavailable(Box::new(error))
}

#[async_trait]
impl Log for Store {
    async fn append(&self, entries: &[Entry]) -> Result<(), LogError> {
        self.append_batched(entries).await
    }

    async fn list(
        &self,
        filter: &Filter,
        after: Option<&PageToken>,
        size: u32,
    ) -> Result<Page, LogError> {
        let book = self.book()?;
        let size = size.clamp(1, MAX_PAGE);
        let mut query = entries();
        query.push(" WHERE seq > ");
        query.push_bind(after.map_or(0, |token| integer(token.place())));
        narrow(&mut query, filter);
        query
            .push(" ORDER BY seq LIMIT ")
            .push_bind(i64::from(size) + 1);
        let mut work = self.read().await.map_err(unavailable)?;
        let rows = work.all(query.done()).await.map_err(unavailable)?;
        let (records, next) = page(book, &rows, size)?;
        let records = reveal(book, &mut work, records).await?;
        Ok(Page { records, next })
    }

    async fn end(&self) -> Result<PageToken, LogError> {
        let mut work = self.read().await.map_err(unavailable)?;
        Ok(PageToken::after(last(&mut work, LAST_ENTRY).await?))
    }

    async fn before_last(&self, filter: &Filter, count: u32) -> Result<PageToken, LogError> {
        // Read first: what is written meanwhile comes after it.
        let end = self.end().await?;
        let mut query =
            Growing::new("SELECT MIN(seq) AS found FROM (SELECT seq FROM audit WHERE seq <= ");
        query.push_bind(integer(end.place()));
        narrow(&mut query, filter);
        query
            .push(" ORDER BY seq DESC LIMIT ")
            .push_bind(count)
            .push(") AS matching");
        let mut work = self.read().await.map_err(unavailable)?;
        let first = found(&mut work, query.done()).await?;
        Ok(first.checked_sub(1).map_or(end, PageToken::after))
    }

    async fn standing(&self) -> Result<Standing, LogError> {
        let book = self.book()?;
        book.check_file()?;
        let mut work = self.read().await.map_err(unavailable)?;
        let head = head(&mut work).await?;
        let head = book.intact(head).map_err(LogError::Tampered)?;
        let at = Duration::from_millis(head.checkpoint_at);
        Ok(Standing {
            entries: head.seq,
            checkpoint: head.checkpoint,
            checkpoint_at: UNIX_EPOCH.checked_add(at).unwrap_or(UNIX_EPOCH),
        })
    }

    async fn archived(&self) -> Result<Option<Segment>, LogError> {
        let mut work = self.read().await.map_err(unavailable)?;
        self.book()?.newest_segment(&mut work).await
    }

    async fn verify(&self, progress: &mut Watcher<'_>) -> Result<Verified, LogError> {
        verify::verify(self, progress).await
    }
}

const LAST_ENTRY: &str = "SELECT MAX(seq) AS found FROM audit";
const LAST_CHECKPOINT: &str = "SELECT MAX(seq) AS found FROM audit_checkpoints";

/// The last place in a table; 0 where it is empty.
async fn last(work: &mut Work, query: &'static str) -> Result<u64, LogError> {
    found(work, statement(query)).await
}

/// The place that a query finds; 0 where it finds none.
async fn found(work: &mut Work, query: Statement) -> Result<u64, LogError> {
    let row = work.one(query).await.map_err(unavailable)?;
    let found = row
        .map(|row| row.column::<Option<i64>>("found"))
        .transpose();
    Ok(found.map_err(unavailable)?.flatten().map_or(0, place))
}

/// The head as it is stored; `None` where there is none that can be read.
async fn head(work: &mut Work) -> Result<Option<Head>, LogError> {
    let query = statement(
        "SELECT chain, seq, hash, checkpoint, checkpoint_at, mac FROM audit_head
         WHERE \"only\" = 1",
    );
    let row = work.one(query).await.map_err(unavailable)?;
    let read = row.as_ref().map(head_row).transpose();
    read.map_err(|_| LogError::Tampered(Finding::Head))
}

fn narrow(query: &mut Growing, filter: &Filter) {
    if let Some(tree) = &filter.tree {
        query
            .push(" AND namespace = ")
            .push_bind(tree.namespace.to_string());
        query
            .push(" AND tree_workflow_id = ")
            .push_bind(tree.workflow_id.to_string());
        query
            .push(" AND tree_first_run_id = ")
            .push_bind(tree.first_run_id.to_string());
    }
    let equal = [
        (
            " AND namespace = ",
            filter.namespace.as_ref().map(ToString::to_string),
        ),
        (
            " AND workflow_id = ",
            filter.workflow_id.as_ref().map(ToString::to_string),
        ),
        (" AND kind = ", filter.kind.map(|kind| kind.to_string())),
        (
            " AND verdict = ",
            filter.verdict.map(|verdict| verdict.to_string()),
        ),
        (
            " AND agent = ",
            filter.agent.as_ref().map(ToString::to_string),
        ),
        (
            " AND owner = ",
            filter.owner.as_ref().map(ToString::to_string),
        ),
        (
            " AND subject = ",
            filter.subject.as_ref().map(ToString::to_string),
        ),
        (
            " AND tool = ",
            filter.tool.as_ref().map(ToString::to_string),
        ),
        (
            " AND slot = ",
            filter.slot.as_ref().map(ToString::to_string),
        ),
    ];
    for (condition, value) in equal {
        if let Some(value) = value {
            query.push(condition).push_bind(value);
        }
    }
    if let Some(since) = filter.since {
        query.push(" AND at_ms >= ").push_bind(milliseconds(since));
    }
    if let Some(until) = filter.until {
        query.push(" AND at_ms < ").push_bind(milliseconds(until));
    }
}

/// A record, and what is personal about it.
type Read = (Record, Option<Hidden>);

/// One row more than asked for was read: whether there is a next page.
fn page(book: &Book, rows: &[Row], size: u32) -> Result<(Vec<Read>, Option<PageToken>), LogError> {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let shown = rows.get(..size).unwrap_or(rows);
    let read = shown.iter().map(|row| {
        let (line, index) = line(row)?;
        book.read(&line, &index)
    });
    let records = read
        .collect::<Result<Vec<_>, Finding>>()
        .map_err(LogError::Tampered)?;
    let more = rows.len() > shown.len();
    let last = shown.last().filter(|_| more).map(|row| {
        let seq: Result<i64, _> = Columns::new(row, "entry").raw("seq");
        PageToken::after(seq.map_or(0, place))
    });
    Ok((records, last))
}

/// Adds what is personal, as far as the keys are still there.
async fn reveal(book: &Book, work: &mut Work, read: Vec<Read>) -> Result<Vec<Record>, LogError> {
    let hidden = read.iter().filter_map(|(_, hidden)| hidden.as_ref());
    let wanted: BTreeSet<Person> = hidden.map(|hidden| hidden.person().clone()).collect();
    let people = book.known_people(work, &wanted).await?;
    let reveal = |(mut record, hidden): Read| {
        if let Some(hidden) = hidden {
            hidden.reveal(&people, &mut record);
        }
        record
    };
    Ok(read.into_iter().map(reveal).collect())
}

fn milliseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
