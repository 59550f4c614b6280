//! Shipped `StatefulWorkflow` definitions: trees that need no code of one's own.

mod offspring;
#[expect(
    missing_docs,
    reason = "the SDK macro generates undocumented constants"
)]
mod tool_tree;

pub use offspring::Failed;
pub use tool_tree::{Branch, Step, ToolTree, ToolTreeInput, ToolTreeResult};

use xylem_stateful::{RegisterError, Workflows};

/// All shipped definitions.
///
/// # Errors
/// A definition's name or slots break a rule, which the tests of this crate rule out.
pub fn shipped() -> Result<Workflows, RegisterError> {
    Workflows::default().with::<ToolTree>()
}
