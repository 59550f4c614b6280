//! Entries that come on their own share a commit with those that come while another one is written.
//!
//! There is no timer: who finds nobody writing writes at once, and what arrives meanwhile is the next
//! batch. Whoever appends hears of it after the commit of the batch, or its error.

use super::unavailable;
use crate::Store;
use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;
use xylem_audit::{Entry, LogError};

/// Entries in one commit, unless somebody appends more at once.
const BATCH: usize = 256;
/// Calls that wait; more are refused, for a database that is stuck must not fill the memory.
const WAITING: usize = 4_096;

/// How one batch ended, for everybody in it.
type Ended = Result<(), Arc<LogError>>;

/// What waits to be appended.
#[derive(Default)]
pub(crate) struct Queue(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    calls: VecDeque<Call>,
    /// Whether somebody is writing, and will look here again.
    writing: bool,
}

struct Call {
    entries: Vec<Entry>,
    ended: oneshot::Sender<Ended>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a call, and answers whether the caller has to see to it that somebody writes.
    fn push(&self, call: Call) -> Result<bool, LogError> {
        let mut waiting = self.lock();
        if waiting.calls.len() >= WAITING {
            return Err(LogError::Busy);
        }
        waiting.calls.push_back(call);
        Ok(!mem::replace(&mut waiting.writing, true))
    }

    /// The next batch; none where nobody waits, and then nobody writes any more.
    fn next(&self) -> Option<Vec<Call>> {
        let mut waiting = self.lock();
        let mut batch = Vec::new();
        let mut entries = 0;
        while let Some(call) = waiting
            .calls
            .pop_front_if(|call| entries == 0 || entries + call.entries.len() <= BATCH)
        {
            entries += call.entries.len();
            batch.push(call);
        }
        waiting.writing = !batch.is_empty();
        waiting.writing.then_some(batch)
    }
}

/// Gives up what waits where the writer ends before its work: it is refused and can be tried again.
struct Writer {
    store: Store,
    done: bool,
}

impl Writer {
    async fn write(mut self) {
        while let Some(batch) = self.store.queue().next() {
            write(&self.store, batch).await;
        }
        self.done = true;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.done {
            *self.store.queue().lock() = Waiting::default();
        }
    }
}

impl Store {
    /// Appends entries of their own.
    pub(super) async fn append_batched(&self, entries: &[Entry]) -> Result<(), LogError> {
        let (ended, ending) = oneshot::channel();
        let entries = entries.to_vec();
        if self.queue().push(Call { entries, ended })? {
            // On its own: whoever gives up waiting does not take the others' entries along.
            let writer = Writer {
                store: self.clone(),
                done: false,
            };
            tokio::spawn(writer.write());
        }
        match ending.await {
            Ok(ended) => ended.map_err(|error| shared(&error)),
            Err(gone) => Err(LogError::Unavailable(Box::new(gone))),
        }
    }
}

async fn write(store: &Store, mut batch: Vec<Call>) {
    let entries: Vec<Entry> = batch
        .iter_mut()
        .flat_map(|call| mem::take(&mut call.entries))
        .collect();
    let ended = commit(store, &entries).await.map_err(Arc::new);
    for call in batch {
        // Who does not wait any more has been told nothing: more in the log does no harm.
        let _ = call.ended.send(ended.clone());
    }
}

async fn commit(store: &Store, entries: &[Entry]) -> Result<(), LogError> {
    let work = store.write().await.map_err(unavailable)?;
    store.commit_with(work, entries).await
}

/// The same error, for each who has to hear it.
fn shared(error: &Arc<LogError>) -> LogError {
    match &**error {
        LogError::Tampered(finding) => LogError::Tampered(*finding),
        LogError::CheckpointFile(cause) => LogError::CheckpointFile(Arc::clone(cause)),
        LogError::NotOpen => LogError::NotOpen,
        _ => LogError::Unavailable(Box::new(Arc::clone(error))),
    }
}
