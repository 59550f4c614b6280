//! The control plane on SQLite; and what no database has a part in, once.

mod arrival;
#[path = "../cases/mod.rs"]
mod cases;
#[path = "../common/mod.rs"]
mod common;
mod database;
mod server;
mod transport;
