//! Trees that work: every node calls the external API of the stack, again and again.

use serde_json::json;
use xylem_workflows::{Branch, Step, ToolTreeInput};

/// A `ToolTree` node that calls `acme.status` for ever.
#[must_use]
pub fn working(children: Vec<Branch>) -> ToolTreeInput {
    ToolTreeInput {
        steps: vec![Step {
            tool: "acme.status".to_owned(),
            parameters: json!({}),
        }],
        pause_ms: 100,
        children,
        ..ToolTreeInput::default()
    }
}

/// Such a node as somebody's child.
#[must_use]
pub fn branch(name: &str, children: Vec<Branch>) -> Branch {
    Branch {
        name: name.to_owned(),
        node: working(children),
        selection: Default::default(),
    }
}
