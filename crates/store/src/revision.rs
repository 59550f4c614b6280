//! What the database is at: one small read, shared by all who ask at the same time.
//!
//! Every request asks, so that what is remembered is used only while it holds. A glance at an SQLite
//! database is enough. Otherwise whoever asks is answered
//! by a read that began after that: those who come while one is under way wait for the next, all of
//! them for the same. So nobody sees a revision from before they asked, and however many ask, the
//! database is asked by one at a time.

use crate::{
    Store,
    glance::Glance,
    sql::{Connection, statement},
};
use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;
use xylem_recall::Revision;

/// What one read came to, for everybody who waited for it.
type Answer = Result<Revision, Arc<sqlx::Error>>;

/// Who waits for the next read.
#[derive(Default)]
pub(crate) struct Askers(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    next: Vec<oneshot::Sender<Answer>>,
    /// Whether somebody is reading, and will look here again.
    reading: bool,
}

impl Askers {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers whether the asker has to see to it that somebody reads.
    fn push(&self, asker: oneshot::Sender<Answer>) -> bool {
        let mut waiting = self.lock();
        waiting.next.push(asker);
        !mem::replace(&mut waiting.reading, true)
    }

    /// Those whom the read that begins now is for; none where nobody waits, and then nobody reads any
    /// more.
    fn next(&self) -> Option<Vec<oneshot::Sender<Answer>>> {
        let mut waiting = self.lock();
        let askers = mem::take(&mut waiting.next);
        waiting.reading = !askers.is_empty();
        waiting.reading.then_some(askers)
    }
}

/// Gives up who waits where it ends before its work: they are refused and can try again.
struct Reader {
    store: Store,
    done: bool,
}

impl Reader {
    async fn read(mut self) {
        let mut connection = None;
        while let Some(askers) = self.store.askers().next() {
            let answer = read(&self.store, &mut connection).await;
            let answer = answer.map_err(Arc::new);
            for asker in askers {
                // Who gave up waiting is told nothing.
                drop(asker.send(answer.clone()));
            }
        }
        self.done = true;
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !self.done {
            *self.store.askers().lock() = Waiting::default();
        }
    }
}

impl Store {
    /// The revision at a moment after this was called.
    pub(crate) async fn current_revision(&self) -> Answer {
        if let Some(revision) = self.glance().and_then(Glance::revision) {
            return Ok(revision);
        }
        let (asker, answer) = oneshot::channel();
        if self.askers().push(asker) {
            // On its own: whoever gives up waiting does not take the others' answer along.
            let reader = Reader {
                store: self.clone(),
                done: false,
            };
            tokio::spawn(reader.read());
        }
        let gone = |_| Err(Arc::new(sqlx::Error::WorkerCrashed));
        answer.await.unwrap_or_else(gone)
    }
}

/// One statement outside of any transaction: it sees what was committed when it began. The connection
/// is kept for the next one, unless it failed.
async fn read(store: &Store, kept: &mut Option<Connection>) -> Result<Revision, sqlx::Error> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => store.connect().await?,
    };
    let query = statement("SELECT number FROM revision WHERE \"only\" = 1");
    let row = connection.one(query).await?;
    let number = row.ok_or(sqlx::Error::RowNotFound)?.column("number")?;
    *kept = Some(connection);
    Ok(Revision::new(number))
}
