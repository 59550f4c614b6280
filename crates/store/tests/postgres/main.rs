//! The store on PostgreSQL.

#[path = "../cases/mod.rs"]
mod cases;
mod database;
#[path = "../house/mod.rs"]
mod house;
mod schema;
mod tls;
mod turns;
