//! Typed client of the control plane.
//!
//! Secrets go in and come out as [`SecretString`](secrecy::SecretString); everything else is
//! either a type of `ids` or a message of the wire contract, [`v1`]. An API key travels in the
//! `Authorization` header of every call and is marked sensitive, so that no layer prints it.

mod access;
mod accounts;
mod alerts;
mod client;
mod convert;
mod credentials;
mod error;
mod operate;
mod policies;
mod usage;
mod vault;
mod work;

pub use client::{Client, ConnectError, Tls, check_address};
pub use error::{Answer, Error};
pub use operate::{Deposit, InitialToken, NewKey, Revealed, StartTree};
pub use work::{ActivityClaims, CallEnd, Definition, Issuers, PublicKey, Redeem, Redeemed, Select};
pub use xylem_proto::{Duration, Timestamp, v1};
