//! The audit log: who did what to which tree, and how it ended.
//!
//! A decision and its outcome are two entries that share a lease id. Entries carry ids, codes and
//! fingerprints; no field takes free text that a secret could hide in, except the printable ids
//! Temporal itself allows and the [`Note`] of whoever operates a tree.
//!
//! The log is a chain: [`Scribe`] turns entries into lines, each of which seals everything before
//! it, and takes signed checkpoints; [`Verifier`] names the first thing that is not as it was
//! written. Both are pure. Storage is declared here as [`Log`] and implemented in `store`.
//!
//! The oldest part of the log can be written out and dropped, in whole segments: an archive verifies by
//! itself, and the log from the first entry that is kept. See [`Segment`].
//!
//! Where a call came from and what somebody said about it are personal: they stand in an entry
//! encrypted, under a key of whoever did it. Without that key the entry says everything else, and the
//! chain holds: see [`Person`].
//!
//! What cannot be noticed without a copy of a checkpoint elsewhere: that the end of the log since
//! the last checkpoint is cut off together with its head, and that database and checkpoint file go
//! back to an older state together.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic
    )
)]

mod body;
mod chain;
mod checkpoint;
mod codes;
mod entry;
mod log;
mod ocsf;
mod people;
mod segment;
mod subject;
mod tally;
#[cfg(test)]
mod testing;
mod usage;
mod verify;
mod watch;

pub use chain::{
    CHECKPOINT_AFTER, CHECKPOINT_ENTRIES, ChainError, ChainId, Hash, Head, Index, Keys, Line, Mac,
    Scribe, Written,
};
pub use checkpoint::{Checkpoint, CheckpointPublicKey, new_checkpoint_key};
pub use entry::{Activity, Entry, Kind, NodeRun, Note, Reason, Record, Verdict};
pub use log::{
    Filter, Log, LogError, MAX_PAGE, Page, PageToken, Progress, Standing, Verified, Watcher,
};
pub use ocsf::{OCSF_VERSION, ocsf};
pub use people::{ANONYMOUS_FORGOTTEN, Hidden, People, Person};
pub use segment::{
    ArchiveError, ArchiveReader, Archived, Archives, Retained, Segment, Span, Step, Steps,
    archive_checkpoint, archive_entry,
};
pub use subject::{Label, Subject, SubjectError, SubjectKind};
pub use tally::{Counted, Source, Tally};
pub use usage::{By, CLASSES, Called, Counts, Period, Usage, UsageKey, UsageQuery, class};
pub use verify::{Extent, Finding, Intact, Verifier};
pub use watch::{Alert, Delivery, Due, LATEST, Memory, Of, Rule, Rules, Used, Watch};
