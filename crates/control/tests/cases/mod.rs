//! What holds on every database.

mod access;
mod access_requests;
mod access_tokens;
mod accounts;
mod alerts;
mod credentials;
mod grants;
mod identity_providers;
mod oauth;
mod personal;
mod policies;
mod providers;
mod rest;
mod rewrap;
mod sweep;
mod tokens;
mod tool_pages;
mod tools;
mod trees;
mod usage;
