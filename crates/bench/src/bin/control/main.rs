//! What the control plane's own work costs, beside what is possible on this machine in the same run.
//!
//! To measure something else, write a module that answers [`Measured`] and name it in [`measure`].

mod append;
mod http;
mod policies;

use anyhow::Result;
use clap::Parser;
use std::process::ExitCode;
use xylem_bench::{Measured, Output, conclude};

/// Times appends to the audit log, policy decisions and requests over HTTP.
#[derive(Parser)]
struct Options {
    /// What standard output carries.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    conclude(measure().await, options.output)
}

async fn measure() -> Result<Measured> {
    let mut measured = append::measure().await?;
    measured.add(policies::measure()?);
    measured.add(http::measure().await?);
    Ok(measured)
}
