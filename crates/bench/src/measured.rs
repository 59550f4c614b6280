//! What a benchmark measured, and how it says so.

use crate::{Bar, Machine, Output, Timing, missed, readable, table};
use comfy_table::{Table, presets};
use serde::Serialize;
use std::{
    io::{self, Write},
    process::ExitCode,
};

/// Timings, and the bars that they are held against.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Measured {
    /// How long things take.
    pub timings: Vec<Timing>,
    /// What must be reached.
    pub bars: Vec<Bar>,
}

impl Measured {
    /// Takes in what another part measured.
    pub fn add(&mut self, more: Self) {
        self.timings.extend(more.timings);
        self.bars.extend(more.bars);
    }

    /// Prints all of it with the machine it was measured on.
    fn print(&self, output: Output) -> anyhow::Result<()> {
        #[derive(Serialize)]
        struct Report<'a> {
            machine: Machine,
            #[serde(flatten)]
            measured: &'a Measured,
        }
        let machine = Machine::this();
        let mut stdout = io::stdout();
        match output {
            Output::Text => writeln!(
                stdout,
                "machine: {machine}\n{}\n{}",
                self.timings(),
                table(&self.bars)
            )?,
            Output::Json => {
                let report = Report {
                    machine,
                    measured: self,
                };
                writeln!(stdout, "{}", serde_json::to_string_pretty(&report)?)?;
            }
        }
        Ok(())
    }

    fn timings(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED).set_header([
            "operation",
            "median",
            "99 %",
            "operations",
        ]);
        for timing in &self.timings {
            table.add_row([
                timing.what.clone(),
                readable(timing.median_ns),
                readable(timing.p99_ns),
                timing.operations.to_string(),
            ]);
        }
        table
    }
}

impl From<Vec<Timing>> for Measured {
    /// Timings without a bar.
    fn from(timings: Vec<Timing>) -> Self {
        Self {
            timings,
            bars: Vec::new(),
        }
    }
}

/// The end of a benchmark: prints what it measured, and fails where it could not or a bar is missed.
pub fn conclude(measured: anyhow::Result<Measured>, output: Output) -> ExitCode {
    let printed = measured.and_then(|measured| {
        measured.print(output)?;
        Ok(missed(&measured.bars) == 0)
    });
    match printed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
