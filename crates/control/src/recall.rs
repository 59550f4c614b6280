//! What callers were answered before, and are answered again while it holds.

use crate::serve::pages::{self, Asked};
use axum::body::Bytes;
use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};
use xylem_ids::ToolName;
use xylem_policy::ToolFacts;
use xylem_recall::{Memory, Revision};

/// Tools whose facts are remembered.
const FACTS: usize = 10_000;
/// Queries that are known to have been asked.
const QUERIES: usize = 100_000;

/// What handlers remember.
pub(crate) struct Recalled {
    pub(crate) pages: Memory<Asked, Bytes>,
    pub(crate) facts: Memory<ToolName, Arc<ToolFacts>>,
    asked: Memory<u64, ()>,
    digests: RandomState,
}

impl Recalled {
    /// Whether the same was asked before, as far as that is remembered. It is from now on: the pages
    /// that nobody asks for again would push out the others.
    pub(crate) fn was_asked(&self, at: Revision, asked: &Asked) -> bool {
        let digest = self.digests.hash_one(asked);
        let before = self.asked.get(at, &digest).is_some();
        if !before {
            self.asked.put(at, digest, (), 1);
        }
        before
    }
}

impl Default for Recalled {
    fn default() -> Self {
        Self {
            pages: Memory::new(pages::REMEMBERED),
            facts: Memory::new(FACTS),
            asked: Memory::new(QUERIES),
            digests: RandomState::new(),
        }
    }
}
