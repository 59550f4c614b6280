//! The activities of Xylem: forward a grant, redeem and call a tool, take in a token, watch
//! children. They implement the signatures that `xylem-stateful` declares.
//!
//! A token exists here only inside the tool call that uses it: it is asked for when everything
//! that needs no token has been checked, sent to an address that was checked, taken out of
//! whatever came back, and forgotten. Nothing is kept for the next call but tool definitions.
//!
//! What the activities need from the control plane they ask through [`Ports`].

#[expect(
    missing_docs,
    reason = "the SDK macro generates undocumented constants"
)]
mod activities;
mod answer;
mod call;
mod carry;
mod children;
mod definitions;
mod executions;
mod failure;
#[cfg(test)]
mod fake;
mod forward;
mod lease;
mod ports;
mod redact;
mod refusals;
mod request;
mod status;
mod template;
mod tool;

pub use activities::{Activities, Settings};
pub use failure::ApiAnswer;
pub use ports::{
    AuditSink, Bytes, Outcome, PortError, Ports, Redeem, Redeemed, Release, Released, TaskClaims,
    TokenSource, ToolDirectory,
};
pub use tool::{
    Auth, DEFAULT_RESPONSE_BYTES, DEFAULT_TIMEOUT, MAX_RESPONSE_BYTES, MAX_TIMEOUT, Place, Tool,
};
pub use xylem_outbound::{
    AddressPolicy, CONNECT_TIMEOUT, Connecting, NoAuthority, OutboundError, Trust,
};
