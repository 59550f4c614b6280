//! Requests of Xylem to the outside: of workers to the APIs behind tools, of the control plane to
//! whatever it is configured to ask.
//!
//! The URL of such a request comes from somebody who may not know, or may not mean, where it leads.
//! So the address is checked and the checked one is used, redirects are not followed, proxies that
//! the environment names are not asked, and an answer is read up to a limit. A server is verified as
//! the system does it, or, where a [`Trust`] says so, under another authority and with pinned keys.
//! Nothing here retries: who asks knows whether asking twice is harmless.

mod address;
mod body;
mod client;
mod resolve;
mod trust;

pub use address::{AddressPolicy, AddressRefused};
pub use body::{Decoded, decode};
pub use client::{
    Answer, CONNECT_TIMEOUT, Connecting, Outbound, OutboundError, Request, SendError,
};
pub use resolve::{Lookup, SystemLookup};
pub use trust::{NoAuthority, Trust, Untrusted};
