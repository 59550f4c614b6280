//! What the control plane's own work costs, beside what is possible on this machine in the same run.
//!
//! To measure something else, write a module that answers [`Measured`] and name it in [`measure`].

mod append;
mod http;

use anyhow::Result;
use clap::Parser;
use comfy_table::{Table, presets};
use serde::Serialize;
use std::{
    io::{self, Write},
    process::ExitCode,
};
use xylem_bench::{Bar, Machine, Output, Timing, missed, readable};

/// Times appends to the audit log and requests over HTTP.
#[derive(Parser)]
struct Options {
    /// What standard output carries.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// What one module measured.
#[derive(Default, Serialize)]
struct Measured {
    timings: Vec<Timing>,
    bars: Vec<Bar>,
}

impl Measured {
    fn add(&mut self, more: Self) {
        self.timings.extend(more.timings);
        self.bars.extend(more.bars);
    }
}

#[derive(Serialize)]
struct Report {
    machine: Machine,
    #[serde(flatten)]
    measured: Measured,
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

/// Measures, prints, and says whether every bar is met.
async fn measure(output: Output) -> Result<bool> {
    let mut measured = Measured::default();
    measured.add(append::measure().await?);
    measured.add(http::measure().await?);
    let report = Report {
        machine: Machine::this(),
        measured,
    };
    let mut stdout = io::stdout();
    match output {
        Output::Text => writeln!(
            stdout,
            "machine: {}\n{}\n{}",
            report.machine,
            table(&report.measured.timings),
            xylem_bench::table(&report.measured.bars)
        )?,
        Output::Json => writeln!(stdout, "{}", serde_json::to_string_pretty(&report)?)?,
    }
    Ok(missed(&report.measured.bars) == 0)
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
