//! What the tests of Xylem need: a real Temporal server of their own, a worker on it, and ways to
//! look at histories. A dev-dependency only.

mod history;
mod issuer;
mod server;
mod wait;
mod worker;

pub use issuer::{BareTree, json_payload, query, signal, status};
pub use history::{added_since, events, payload_strings};
pub use server::{Settings, TemporalServer};
pub use wait::{eventually, eventually_within};
pub use worker::TestWorker;
