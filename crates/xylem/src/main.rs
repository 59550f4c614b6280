//! The `xylem` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    xylem::cli::main()
}
