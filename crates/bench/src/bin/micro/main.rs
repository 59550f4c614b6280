//! The small things that every signal and every tool call waits for.

mod destination;
mod grant;
mod pending;
mod policies;
mod redemption;

use anyhow::Result;
use clap::Parser;
use comfy_table::{Table, presets};
use serde::Serialize;
use std::{
    io::{self, Write},
    process::ExitCode,
};
use xylem_bench::{Bar, Machine, Output, Timing, missed, readable};

/// Times grant verification, redemption, policy decision, address and origin check.
#[derive(Parser)]
struct Options {
    /// What standard output carries.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// What was measured.
#[derive(Serialize)]
struct Report {
    machine: Machine,
    timings: Vec<Timing>,
    bars: Vec<Bar>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match measure(Options::parse().output).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Answers whether every bar is met.
async fn measure(output: Output) -> Result<bool> {
    let mut timings = grant::timings()?;
    timings.extend(destination::timings()?);
    let (decisions, bars) = policies::timings()?;
    timings.extend(decisions);
    timings.extend(redemption::timings().await?);
    let report = Report {
        machine: Machine::this(),
        timings,
        bars,
    };
    let mut stdout = io::stdout();
    match output {
        Output::Text => writeln!(
            stdout,
            "machine: {}\n{}\n{}",
            report.machine,
            table(&report.timings),
            xylem_bench::table(&report.bars)
        )?,
        Output::Json => writeln!(stdout, "{}", serde_json::to_string_pretty(&report)?)?,
    }
    Ok(missed(&report.bars) == 0)
}

fn table(timings: &[Timing]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header([
        "operation",
        "median",
        "99 %",
        "operations",
    ]);
    for timing in timings {
        table.add_row([
            timing.what.clone(),
            readable(timing.median_ns),
            readable(timing.p99_ns),
            timing.operations.to_string(),
        ]);
    }
    table
}
