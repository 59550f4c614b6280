//! The only room that knows SQL: SQLite or PostgreSQL behind what the vault, the registry and the
//! audit log declare.
//!
//! There are no rules here. Rows are kept and found; whether they are intact, and what follows from
//! them, is decided by the rooms that declared them. Writers take turns: a write transaction takes
//! the database's write lock when it begins, so what it reads stays as it is until it commits. On
//! PostgreSQL that lock is one for all processes: the audit log gives everything one order anyway.

mod audit;
mod copy;
mod database;
mod glance;
mod identity;
mod migrations;
mod policy;
mod postgres;
mod registry;
mod revision;
mod row;
mod sql;
mod sqlite;
mod tools;
mod vault;

pub use audit::{Archiver, OpenLogError, UnfitArchive, read_archive};
pub use copy::{DumpError, Dumped, Empty, LoadError};
pub use database::{OpenError, Store};
pub use postgres::{AddressError, PostgresAddress};
