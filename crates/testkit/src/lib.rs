//! What the tests of Xylem need: a real Temporal server of their own, a worker on it, the whole
//! stack with an external API, and ways to look at histories. A dev-dependency only.

pub mod device;
mod history;
mod identity_provider;
mod issuer;
mod plane;
mod secrets;
mod server;
mod stack;
mod tls;
mod wait;
#[expect(
    missing_docs,
    reason = "the SDK macro generates undocumented constants"
)]
mod walker;
mod worker;
mod working;

pub use history::{added_since, events, payload_strings};
pub use identity_provider::IdentityProvider;
pub use issuer::{BareTree, json_payload, query, signal, status};
pub use plane::AbsentPlane;
pub use secrets::Searcher;
pub use server::{Settings, TemporalServer, temporal_cli};
pub use stack::{Called, Node, Stack, Start, Tree};
pub use tls::TlsFront;
pub use wait::{eventually, eventually_within};
pub use walker::{Order, Orders, Walker};
pub use worker::{NodeWorker, TestWorker, test_workflows};
pub use working::{branch, working};
