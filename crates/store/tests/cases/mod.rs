//! What holds on every database.

pub(crate) mod access;
pub(crate) mod access_token;
pub(crate) mod account;
pub(crate) mod batch;
pub(crate) mod copy;
pub(crate) mod credential;
pub(crate) mod deposit;
pub(crate) mod identity;
pub(crate) mod log;
pub(crate) mod log_tamper;
pub(crate) mod people;
pub(crate) mod planes;
pub(crate) mod policy;
pub(crate) mod race;
pub(crate) mod recall;
pub(crate) mod redeem;
pub(crate) mod registry;
pub(crate) mod restart;
pub(crate) mod reveal;
pub(crate) mod schema;
pub(crate) mod second_factor;
pub(crate) mod slotless;
pub(crate) mod tamper;
pub(crate) mod tools;
pub(crate) mod usage;
pub(crate) mod watch;
