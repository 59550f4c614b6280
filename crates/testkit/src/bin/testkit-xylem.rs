//! The command `xylem` in a process of its own, for tests that kill it. It ends when its standard
//! input does, so that a test that is killed leaves no process behind.

use std::{
    io,
    process::{ExitCode, exit},
    thread,
};

fn main() -> ExitCode {
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        exit(1)
    });
    xylem::cli::main()
}
