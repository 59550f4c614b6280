//! What callers were answered before, and are answered again while it holds.

use crate::serve::again::{self, Asked};
use axum::body::Bytes;
use std::sync::Arc;
use xylem_ids::ToolName;
use xylem_policy::ToolFacts;
use xylem_recall::Memory;

/// Tools whose facts are remembered.
const FACTS: usize = 10_000;

/// What handlers remember.
pub(crate) struct Recalled {
    pub(crate) answers: Memory<Asked, Bytes>,
    pub(crate) facts: Memory<ToolName, Arc<ToolFacts>>,
}

impl Default for Recalled {
    fn default() -> Self {
        Self {
            answers: Memory::new(again::REMEMBERED),
            facts: Memory::new(FACTS),
        }
    }
}
