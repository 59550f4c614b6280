//! The control plane on PostgreSQL.

#[path = "../cases/mod.rs"]
mod cases;
#[path = "../common/mod.rs"]
mod common;
mod database;
