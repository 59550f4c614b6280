//! The repository's own commands: `cargo xtask demo`, `test`, `bench`, `check` and `temporal`.
//!
//! Each command works from nothing on a machine with Rust and Python 3. What it starts ends with
//! it; how a child exits is how the command exits.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program talks to its terminal"
)]

mod bench;
mod check;
mod demo;
mod dependencies;
mod metadata;
mod packages;
mod process;
mod temporal;
mod test;
mod third_party;
mod workspace;

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use workspace::Workspace;

/// The repository's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Format, lints, documentation, dependency table and licences: what CI runs beside the tests.
    Check,
    /// All tests, those against a real Temporal server included.
    Test(test::Options),
    /// Rotates a token through a living tree on a real Temporal server and shows the result.
    Demo(demo::Options),
    /// Measures, and fails where a figure misses its bar.
    Bench(bench::Options),
    /// Prints the path of the Temporal CLI, which is fetched if there is none.
    Temporal,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            process::exit_code(&error)
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    process::end_children_on_signals()?;
    let workspace = Workspace::find()?;
    match command {
        Command::Check => check::run(&workspace),
        Command::Test(options) => test::run(&workspace, &options),
        Command::Demo(options) => demo::run(&workspace, &options),
        Command::Bench(options) => bench::run(&workspace, &options),
        Command::Temporal => {
            println!("{}", temporal::locate(&workspace)?.display());
            Ok(())
        }
    }
}
