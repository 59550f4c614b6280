//! The audit log: who did what to which tree, and how it ended.
//!
//! A decision and its outcome are two entries that share a lease id. Entries carry ids, codes and
//! fingerprints; no field takes free text that a secret could hide in, except the printable ids
//! Temporal itself allows and the [`Note`] of whoever operates a tree. Storage is declared here as [`Log`] and implemented in `store`.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic
    )
)]

mod entry;
mod log;
mod tally;

pub use entry::{Activity, Entry, Kind, NodeRun, Note, Reason, Record, Verdict};
pub use log::{Filter, Log, LogError, MAX_PAGE, Page, PageToken};
pub use tally::{Source, Tally};
