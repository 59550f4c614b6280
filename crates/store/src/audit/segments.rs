//! The records of what was archived.

use super::{
    append::Book,
    read::{checkpoint, place},
    unavailable,
};
use crate::{
    row::{Columns, RowError, integer},
    sql::{Row, Work, statement},
};
use xylem_audit::{Checkpoint, Finding, Hash, LogError, Mac, Segment};

pub(super) const LAST_SEGMENT: &str = "SELECT MAX(last) AS found FROM audit_segments";

/// All of them, oldest first, as they are stored.
pub(super) async fn segments(work: &mut Work) -> Result<Vec<Segment>, LogError> {
    let query = statement(
        "SELECT first, last, before_hash, hash, until_ms, file, at_ms, dropped, mac
         FROM audit_segments ORDER BY last",
    );
    let rows = work.all(query).await.map_err(unavailable)?;
    rows.iter().map(segment).collect()
}

/// The checkpoint that is kept at the end of a segment.
pub(super) async fn ends(work: &mut Work, last: u64) -> Result<Option<Checkpoint>, LogError> {
    let query = statement("SELECT seq, at_ms, signed FROM audit_checkpoints WHERE seq = $1");
    let row = work.one(query.bind(integer(last))).await;
    let row = row.map_err(unavailable)?;
    let read = row.as_ref().map(checkpoint).transpose();
    read.map_err(LogError::Tampered)
}

impl Book {
    /// The last of them, where it is what was written.
    pub(super) async fn newest_segment(
        &self,
        work: &mut Work,
    ) -> Result<Option<Segment>, LogError> {
        let query = statement(
            "SELECT first, last, before_hash, hash, until_ms, file, at_ms, dropped, mac
             FROM audit_segments ORDER BY last DESC LIMIT 1",
        );
        let row = work.one(query).await.map_err(unavailable)?;
        let found = row.as_ref().map(segment).transpose()?;
        if let Some(segment) = &found {
            let chain = self.chain().map_err(LogError::Tampered)?;
            let checked = self.scribe().check_segment(chain, segment);
            checked.map_err(LogError::Tampered)?;
        }
        Ok(found)
    }
}

pub(super) async fn insert(work: &mut Work, segment: &Segment) -> Result<(), LogError> {
    let query = statement(
        "INSERT INTO audit_segments
            (first, last, before_hash, hash, until_ms, file, at_ms, dropped, mac)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(integer(segment.first))
    .bind(integer(segment.last))
    .bind(segment.before.0.to_vec())
    .bind(segment.hash.0.to_vec())
    .bind(integer(segment.until_ms))
    .bind(segment.file.as_str())
    .bind(integer(segment.at_ms))
    .bind(i64::from(segment.dropped))
    .bind(segment.mac.0.to_vec());
    work.run(query).await.map(drop).map_err(unavailable)
}

/// Notes what has changed about a segment.
pub(super) async fn update(work: &mut Work, segment: &Segment) -> Result<(), LogError> {
    let query = statement("UPDATE audit_segments SET dropped = $1, mac = $2 WHERE last = $3")
        .bind(i64::from(segment.dropped))
        .bind(segment.mac.0.to_vec())
        .bind(integer(segment.last));
    work.run(query).await.map(drop).map_err(unavailable)
}

fn segment(row: &Row) -> Result<Segment, LogError> {
    let columns = Columns::new(row, "segment of the audit log");
    let last = columns.raw::<i64>("last").map_or(0, place);
    let read = || -> Result<Segment, RowError> {
        Ok(Segment {
            first: columns.number("first")?,
            last,
            before: Hash(columns.bytes("before_hash")?),
            hash: Hash(columns.bytes("hash")?),
            until_ms: columns.number("until_ms")?,
            file: columns.raw("file")?,
            at_ms: columns.number("at_ms")?,
            dropped: columns.flag("dropped")?,
            mac: Mac(columns.bytes("mac")?),
        })
    };
    read().map_err(|_| LogError::Tampered(Finding::Segment { last }))
}
