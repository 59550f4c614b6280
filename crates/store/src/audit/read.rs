//! From columns to lines of the chain. A column that cannot be read was edited.

use crate::{
    row::{Columns, RowError},
    sql::{Growing, Row},
};
use xylem_audit::{ChainId, Checkpoint, Finding, Hash, Head, Index, Line, Mac};

pub(super) fn head_row(row: &Row) -> Result<Head, RowError> {
    let columns = Columns::new(row, "audit head");
    Ok(Head {
        chain: ChainId(columns.bytes("chain")?),
        seq: columns.number("seq")?,
        hash: Hash(columns.bytes("hash")?),
        checkpoint: columns.number("checkpoint")?,
        checkpoint_at: columns.number("checkpoint_at")?,
        mac: Mac(columns.bytes("mac")?),
    })
}

/// What is read of entries.
pub(super) fn entries() -> Growing {
    let mut query = Growing::new("SELECT seq, body, hash, mac, at_ms");
    for name in Index::NAMES {
        query.push(", ").push(name);
    }
    query.push(" FROM audit");
    query
}

pub(super) fn line(row: &Row) -> Result<(Line, Index), Finding> {
    let columns = Columns::new(row, "entry");
    let seq = columns.raw::<i64>("seq").map_or(0, place);
    let changed = |_| Finding::Changed { seq };
    let line = Line {
        seq,
        body: columns.raw("body").map_err(changed)?,
        hash: Hash(columns.bytes("hash").map_err(changed)?),
        mac: Mac(columns.bytes("mac").map_err(changed)?),
    };
    let edited = |column| move |_| Finding::Index { seq, column };
    let mut text = [const { None }; Index::NAMES.len()];
    for (to, name) in text.iter_mut().zip(Index::NAMES) {
        *to = columns.raw(name).map_err(edited(name))?;
    }
    let at_ms = columns.number("at_ms").map_err(edited("at_ms"))?;
    Ok((line, Index { at_ms, text }))
}

pub(super) fn checkpoint(row: &Row) -> Result<Checkpoint, Finding> {
    let columns = Columns::new(row, "checkpoint");
    let seq = columns.raw::<i64>("seq").map_or(0, place);
    let forged = |_| Finding::CheckpointForged { seq };
    Ok(Checkpoint {
        seq,
        at_ms: columns.number("at_ms").map_err(forged)?,
        signed: columns.raw("signed").map_err(forged)?,
    })
}

/// Places are counted from 1: what is below was not written here.
pub(super) fn place(seq: i64) -> u64 {
    u64::try_from(seq).unwrap_or(0)
}
