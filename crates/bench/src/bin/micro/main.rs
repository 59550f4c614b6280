//! The small things that every signal and every tool call waits for.

mod destination;
mod grant;
mod pending;
mod redemption;

use anyhow::Result;
use clap::Parser;
use std::process::ExitCode;
use xylem_bench::{Measured, Output, conclude};

/// Times grant verification, redemption, address and origin check.
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
    let mut measured = Measured::from(grant::timings()?);
    measured.add(destination::timings()?.into());
    measured.add(redemption::timings().await?.into());
    Ok(measured)
}
