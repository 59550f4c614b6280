//! `cargo xtask bench`: builds one of the benchmarks for speed and runs it.

use crate::{process, temporal, workspace::Workspace};
use anyhow::Result;

/// The package of the benchmarks.
const PACKAGE: &str = "xylem-bench";

/// Which benchmark, and how it runs.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// What is measured.
    #[arg(value_enum)]
    benchmark: Benchmark,
    /// What standard output carries.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Benchmark {
    /// How fast a rotation reaches trees of several shapes, and what it costs them.
    Cascade,
    /// Appends to the audit log, requests over HTTP.
    Control,
    /// Grant verification, redemption, address and origin check.
    Micro,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Output {
    /// Tables for people.
    Text,
    /// One JSON document.
    Json,
}

impl Options {
    /// Name of the program, and the value of its `--output`.
    fn names(&self) -> (&'static str, &'static str) {
        let program = match self.benchmark {
            Benchmark::Cascade => "cascade",
            Benchmark::Control => "control",
            Benchmark::Micro => "micro",
        };
        let output = match self.output {
            Output::Text => "text",
            Output::Json => "json",
        };
        (program, output)
    }
}

/// Runs the benchmark. It fails where a figure misses its bar.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let temporal = temporal::locate(workspace)?;
    let (program, output) = options.names();
    let mut cargo = workspace.cargo("run");
    cargo
        .args(["--release", "--package", PACKAGE, "--bin", program])
        .args(["--", "--output", output])
        .env(temporal::VARIABLE, temporal);
    process::run(&mut cargo)
}
