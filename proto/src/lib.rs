//! The wire contract of the control plane: the protobuf package `xylem.v1` and what is generated
//! from it. There is no logic here.
//!
//! Every rpc has a `google.api.http` annotation: gRPC, REST with server-sent events, and the
//! OpenAPI document come from the same definition and end in the same handler.
//!
//! A field marked `debug_redact` carries a secret. Its message has a `Debug` that leaves it out;
//! take the secret out of the message as soon as it arrives.

mod gate;

pub use gate::{Gate, Gated};
pub use pbjson_types::{Duration, Timestamp};
pub use xylem::v1;

/// Package modules, nested as the generated code expects them.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    rustdoc::all,
    reason = "generated from the .proto files"
)]
mod xylem {
    /// The package `xylem.v1`.
    pub mod v1 {
        include!(concat!(env!("OUT_DIR"), "/xylem.v1.rs"));
        include!(concat!(env!("OUT_DIR"), "/xylem.v1.serde.rs"));
        include!(concat!(env!("OUT_DIR"), "/xylem.v1.rest.rs"));
        include!(concat!(env!("OUT_DIR"), "/xylem.v1.contract.rs"));
    }
}

/// REST routing over all services.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    rustdoc::all,
    reason = "generated from the .proto files"
)]
pub mod rest {
    use super::xylem;
    include!(concat!(env!("OUT_DIR"), "/transcoder.rest.rs"));
}

/// The OpenAPI 3.1 document of the REST form, as JSON text.
pub const OPENAPI: &str = include_str!(concat!(env!("OUT_DIR"), "/xylem.v1.openapi.json"));
