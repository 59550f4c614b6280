//! `StatefulWorkflow` on the Temporal SDK.

#[expect(
    missing_docs,
    reason = "the SDK macro generates undocumented constants"
)]
pub mod activity;
pub mod header;
