//! `StatefulWorkflow` on the Temporal SDK.
//!
//! A workflow author writes an ordinary Temporal workflow and adds one attribute:
//!
//! ```
//! use serde_json::json;
//! use temporalio_macros::{workflow, workflow_methods};
//! use temporalio_workflow::{WorkflowContext, WorkflowResult};
//! use xylem_stateful::{StatefulContext, stateful};
//!
//! #[workflow]
//! #[derive(Default)]
//! pub struct Deploy;
//!
//! #[stateful(slots("default"))]
//! #[workflow_methods]
//! impl Deploy {
//!     #[run]
//!     pub async fn run(ctx: &mut WorkflowContext<Self>, build: String) -> WorkflowResult<u16> {
//!         let answer = ctx.tool("acme.deploy").parameters(json!({ "build": build })).call().await?;
//!         Ok(answer.status)
//!     }
//! }
//! ```
//!
//! The attribute adds the signals `apiToken` and `apiUrl` and the queries `apiToken`, `apiUrl` and
//! `children`, and lets `run` and the workflow's node proceed side by side. [`StatefulContext`]
//! starts children that belong to the tree, calls tools and marks checkpoints. [`Workflows`]
//! registers the types with a worker. Tokens never enter workflow code: a node holds grants.

#[expect(
    missing_docs,
    clippy::unimplemented,
    reason = "the SDK's macro wants these bodies and generates undocumented constants"
)]
pub mod activity;
mod cancellable;
mod children;
mod context;
mod definition;
mod drive;
mod handlers;
pub mod header;
mod interceptor;
mod payload;
mod state;
mod tool;

pub use children::{Child, ChildError, ChildOptions, SelectError, StartChildError};
pub use context::StatefulContext;
pub use definition::{Definition, RegisterError, StatefulWorkflow, Workflows};
pub use drive::WATCH_QUEUE_SUFFIX;
pub use tool::{Tool, ToolError};
pub use xylem_node::{ChildStatus, Selection, Status};
/// Makes a StatefulWorkflow of a Temporal workflow: goes above `#[workflow_methods]` on its impl
/// block and names the slots whose tokens the workflow's tool calls use.
///
/// * `slots("default", "github")`: slots it uses, and passes to children that declare them.
/// * `transit("aws")`: slots it passes to children and may not use itself.
///
/// Neither is required: a type that declares nothing never holds a grant.
pub use xylem_stateful_macros::stateful;

use temporalio_common::search_attributes::SearchAttributeKey;

/// Who holds what, in stock tooling: a KeywordList of `slot@version`.
pub const SEARCH_ATTRIBUTE: SearchAttributeKey<Vec<String>> =
    SearchAttributeKey::keyword_list("XylemTokens");

#[doc(hidden)]
pub mod __private {
    pub use crate::{
        drive::drive,
        handlers::{api_token, api_token_status, api_url, child_list, set_api_url},
    };
    pub use serde_json::Value;
    pub use temporalio_common::data_converters::RawValue;
    pub use temporalio_workflow::{SyncWorkflowContext, WorkflowContextView};
}
