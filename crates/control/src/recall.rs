//! What callers were answered before, and are answered again while it holds.

use std::sync::Arc;
use xylem_ids::{AgentId, ToolName};
use xylem_policy::ToolFacts;
use xylem_proto::v1;
use xylem_recall::Memory;

/// Bytes of pages that are remembered.
const PAGES: usize = 16 * 1024 * 1024;
/// Tools whose facts are remembered.
const FACTS: usize = 10_000;

/// Who asks for which page of tools; none where the caller may see all of them.
pub(crate) type Asked = (Option<AgentId>, v1::ListToolsRequest);

/// What handlers remember.
pub(crate) struct Recalled {
    pub(crate) pages: Memory<Asked, Arc<v1::ListToolsResponse>>,
    pub(crate) facts: Memory<ToolName, Arc<ToolFacts>>,
}

impl Default for Recalled {
    fn default() -> Self {
        Self {
            pages: Memory::new(PAGES),
            facts: Memory::new(FACTS),
        }
    }
}
