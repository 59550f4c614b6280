//! Opening the log, and appending to it: always the last statements of somebody's transaction.

use super::{
    LAST_CHECKPOINT, LAST_ENTRY, file::CheckpointFile, head, last, read::checkpoint, unavailable,
};
use crate::{
    Store,
    row::integer,
    sql::{Growing, Value, Work, statement},
};
use std::{io, path::Path, sync::Arc, time::SystemTime};
use xylem_audit::{
    ChainId, Checkpoint, Entry, Finding, Head, Hidden, Index, Keys, Line, LogError, People, Record,
    Scribe, Written,
};
use xylem_vault::Clock;

/// Rows in one statement: far below the number of values that a database takes.
const ROWS: usize = 500;
/// Checkpoints that are copied out at a time.
const COPIED: i64 = 500;

/// Why the audit log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenLogError {
    /// The database failed, or the log's keys could not be used.
    #[error("the audit log cannot be read")]
    Log(#[from] LogError),
    /// The checkpoint file, or the public key beside it, could not be read or written.
    #[error("the audit log's checkpoint file cannot be used")]
    File(#[from] io::Error),
    /// The last line of the checkpoint file is not a checkpoint of this log, or the key beside it is
    /// another one.
    #[error(
        "the audit checkpoint file, or checkpoint.jwk beside it, is not of this database, or was \
         edited: put the files back that belong to the database, or move them away to have them \
         written anew from the database"
    )]
    Foreign,
    /// The database was put back to an older state, or the log in it was cut off.
    #[error(
        "the database is older than its audit checkpoints: its log ends at entry {last}, and a \
         checkpoint was taken at entry {checkpoint}. Put the newer database back; or, to go on with \
         this one, move the checkpoint file away and keep it: it proves what is missing"
    )]
    Older {
        /// Where the log ends.
        last: u64,
        /// Where the last checkpoint of the file was taken.
        checkpoint: u64,
    },
    /// It is open already.
    #[error("the audit log is open already")]
    Open,
}

/// The log while it is open.
pub(crate) struct Book {
    scribe: Scribe,
    /// Not known where the head is not what was written.
    chain: Option<ChainId>,
    clock: Arc<dyn Clock>,
    file: CheckpointFile,
}

impl Book {
    pub(super) fn scribe(&self) -> &Scribe {
        &self.scribe
    }

    /// Which log it is.
    pub(super) fn chain(&self) -> Result<&ChainId, Finding> {
        self.chain.as_ref().ok_or(Finding::Head)
    }

    pub(super) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    pub(super) fn file(&self) -> &CheckpointFile {
        &self.file
    }

    /// The entry of a line that is what was written, and what is personal about it.
    pub(super) fn read(
        &self,
        line: &Line,
        index: &Index,
    ) -> Result<(Record, Option<Hidden>), Finding> {
        self.scribe.read(self.chain()?, line, index)
    }

    /// The head, where it is what was written.
    pub(super) fn intact(&self, head: Option<Head>) -> Result<Head, Finding> {
        let head = head.filter(|head| Some(head.chain) == self.chain);
        let head = head.ok_or(Finding::Head)?;
        self.scribe.check_head(&head)?;
        Ok(head)
    }

    /// Whether checkpoints get out of the database.
    pub(super) fn check_file(&self) -> Result<(), LogError> {
        self.file.check(self.clock.now())
    }

    /// Appends within a transaction, and says whether a checkpoint was taken.
    async fn append(&self, work: &mut Work, entries: &[Entry]) -> Result<bool, LogError> {
        self.check_file()?;
        let before = self.intact(head(work).await?).map_err(LogError::Tampered)?;
        let now = self.clock.now();
        let people = self.people_of(work, entries, now).await?;
        let Written {
            lines,
            head,
            checkpoint,
        } = self.scribe.write(&before, entries, &people, now)?;
        for rows in lines.chunks(ROWS) {
            insert(work, rows).await.map_err(unavailable)?;
        }
        if let Some(checkpoint) = &checkpoint {
            insert_checkpoint(work, checkpoint)
                .await
                .map_err(unavailable)?;
            self.forget_strangers(work, now)
                .await
                .map_err(unavailable)?;
        }
        if head != before {
            move_head(work, &before, &head).await?;
        }
        Ok(checkpoint.is_some())
    }
}

impl Store {
    /// Opens the audit log that lies in this database, and begins one where there is none. From
    /// then on everything that has an audit entry can be committed. Checkpoints are copied to
    /// `checkpoints`, one per line; `checkpoint.jwk` beside it holds the key that verifies them.
    ///
    /// # Errors
    /// The database or the file cannot be used, or they do not belong together.
    pub async fn open_log(
        &self,
        keys: Keys,
        clock: Arc<dyn Clock>,
        checkpoints: &Path,
    ) -> Result<(), OpenLogError> {
        let scribe = Scribe::new(keys);
        let head = self.begin_log(&scribe, &*clock).await?;
        let chain = head.map(|head| head.chain);
        let file = CheckpointFile::open(checkpoints, scribe.checkpoint_key(), chain.as_ref())?;
        let checkpoint = file.copied().await;
        if let Some(last) = head.map(|head| head.seq).filter(|seq| *seq < checkpoint) {
            return Err(OpenLogError::Older { last, checkpoint });
        }
        let book = Book {
            scribe,
            chain,
            clock,
            file,
        };
        if !self.set_book(book) {
            return Err(OpenLogError::Open);
        }
        Ok(self.copy_checkpoints().await?)
    }

    /// The head; of a new log where nothing was ever written. A log whose head is lost or edited gets
    /// no other: it takes nothing any more, and can be verified.
    async fn begin_log(
        &self,
        scribe: &Scribe,
        clock: &dyn Clock,
    ) -> Result<Option<Head>, LogError> {
        let mut work = self.write().await.map_err(unavailable)?;
        let written = match head(&mut work).await {
            Err(LogError::Tampered(_)) => return Ok(None),
            found => found?,
        };
        if written.is_some() {
            return Ok(written.filter(|head| scribe.check_head(head).is_ok()));
        }
        if last(&mut work, LAST_ENTRY).await? > 0 || last(&mut work, LAST_CHECKPOINT).await? > 0 {
            return Ok(None);
        }
        let head = scribe.begin(ChainId::generate()?, clock.now());
        let query = statement(
            "INSERT INTO audit_head (\"only\", chain, seq, hash, checkpoint, checkpoint_at, mac)
             VALUES (1, $1, $2, $3, $4, $5, $6)",
        )
        .bind(head.chain.0.to_vec())
        .bind(integer(head.seq))
        .bind(head.hash.0.to_vec())
        .bind(integer(head.checkpoint))
        .bind(integer(head.checkpoint_at))
        .bind(head.mac.0.to_vec());
        work.run(query).await.map_err(unavailable)?;
        work.commit().await.map_err(unavailable)?;
        Ok(Some(head))
    }

    /// Takes a checkpoint where one is due, and copies what is not in the file yet. To be called
    /// about once a second: the entries at the end of a burst have nobody after them who would.
    ///
    /// # Errors
    /// The database does not answer, the log was edited, or its checkpoints cannot get out of the
    /// database for longer than is allowed.
    pub async fn checkpoint(&self) -> Result<(), LogError> {
        let book = self.book()?;
        // First what is stuck: until it is out, nothing may be appended.
        self.copy_checkpoints().await?;
        let head = {
            let mut work = self.read().await.map_err(unavailable)?;
            let head = head(&mut work).await?;
            book.intact(head).map_err(LogError::Tampered)?
        };
        let written = book
            .scribe
            .write(&head, &[], &People::default(), book.clock.now())?;
        let due = written.checkpoint;
        if due.is_some() {
            let mut work = self.write().await.map_err(unavailable)?;
            book.append(&mut work, &[]).await?;
            work.commit().await.map_err(unavailable)?;
            self.copy_checkpoints().await?;
        }
        book.check_file()
    }

    /// Appends what a transaction is to leave in the log, and commits it.
    pub(crate) async fn commit_with(
        &self,
        mut work: Work,
        entries: &[Entry],
    ) -> Result<(), LogError> {
        let book = self.book()?;
        let taken = book.append(&mut work, entries).await?;
        work.commit().await.map_err(unavailable)?;
        if taken && let Err(error) = self.copy_checkpoints().await {
            // What was committed is committed; the next to append is told where it lasts.
            tracing::warn!(%error, "an audit checkpoint was not copied yet");
        }
        Ok(())
    }

    /// Copies every checkpoint that the file does not have. That it cannot be written is noted, and
    /// an error only after a while.
    pub(super) async fn copy_checkpoints(&self) -> Result<(), LogError> {
        let book = self.book()?;
        let mut turn = book.file.turn().await;
        loop {
            let rows = self.checkpoints_after(turn.copied()).await?;
            if rows.is_empty() {
                return Ok(());
            }
            let now = book.clock.now();
            if !turn.append(rows, now).await {
                return Ok(());
            }
        }
    }

    async fn checkpoints_after(&self, seq: u64) -> Result<Vec<Checkpoint>, LogError> {
        let mut work = self.read().await.map_err(unavailable)?;
        let query = statement(
            "SELECT seq, at_ms, signed FROM audit_checkpoints WHERE seq > $1 ORDER BY seq LIMIT $2",
        );
        let query = query.bind(integer(seq)).bind(COPIED);
        let rows = work.all(query).await.map_err(unavailable)?;
        let read = rows.iter().map(checkpoint).collect::<Result<_, _>>();
        read.map_err(LogError::Tampered)
    }
}

async fn insert(work: &mut Work, rows: &[(Line, Index)]) -> Result<(), sqlx::Error> {
    let mut query = Growing::new("INSERT INTO audit (seq, body, hash, mac, at_ms");
    for name in Index::NAMES {
        query.push(", ").push(name);
    }
    query.push(") VALUES ").push_rows(rows.iter().map(values));
    work.run(query.done()).await.map(drop)
}

fn values((line, index): &(Line, Index)) -> impl Iterator<Item = Value> {
    let sealed = [
        Value::from(integer(line.seq)),
        line.body.clone().into(),
        line.hash.0.to_vec().into(),
        line.mac.0.to_vec().into(),
        integer(index.at_ms).into(),
    ];
    let text = index.text.iter().cloned().map(Value::from);
    sealed.into_iter().chain(text)
}

async fn insert_checkpoint(work: &mut Work, checkpoint: &Checkpoint) -> Result<(), sqlx::Error> {
    let query = statement("INSERT INTO audit_checkpoints (seq, at_ms, signed) VALUES ($1, $2, $3)")
        .bind(integer(checkpoint.seq))
        .bind(integer(checkpoint.at_ms))
        .bind(checkpoint.signed.clone());
    work.run(query).await.map(drop)
}

/// Moves the head from where it was read: nobody else can have moved it meanwhile.
async fn move_head(work: &mut Work, before: &Head, head: &Head) -> Result<(), LogError> {
    let query = statement(
        "UPDATE audit_head SET seq = $1, hash = $2, checkpoint = $3, checkpoint_at = $4, mac = $5
         WHERE \"only\" = 1 AND seq = $6",
    )
    .bind(integer(head.seq))
    .bind(head.hash.0.to_vec())
    .bind(integer(head.checkpoint))
    .bind(integer(head.checkpoint_at))
    .bind(head.mac.0.to_vec())
    .bind(integer(before.seq));
    if work.run(query).await.map_err(unavailable)? == 1 {
        Ok(())
    } else {
        Err(LogError::Tampered(Finding::Head))
    }
}
