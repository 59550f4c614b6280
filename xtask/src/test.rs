//! `cargo xtask test`.

use crate::{packages, process, temporal, workspace::Workspace};
use anyhow::Result;
use std::{env, fs, path::PathBuf};

/// What to test.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Passed on to `cargo nextest run`, or to `cargo test` where nextest is not installed.
    /// Documentation tests run only where nothing is passed on.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Tests that need PostgreSQL's programs.
const POSTGRES_TESTS: &str = "(binary(postgres) or binary(stack_planes))";

/// Runs the tests with the Temporal CLI and the Python packages they need. Where PostgreSQL is not installed, its tests are
/// skipped.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let temporal = temporal::locate(workspace)?;
    let packages = packages::locate(workspace)?;
    let mut runner = if has_nextest(workspace) {
        let mut runner = workspace.cargo("nextest");
        runner.arg("run");
        if options.arguments.is_empty() && !required() && !has_postgres() {
            println!("PostgreSQL's programs are not here: tests that need them are skipped");
            runner.args(["-E", &format!("not {POSTGRES_TESTS}")]);
        }
        runner
    } else {
        let mut runner = workspace.cargo("test");
        if options.arguments.is_empty() {
            runner.args(["--lib", "--bins", "--tests", "--examples"]);
        }
        runner
    };
    process::run(
        runner
            .args(&options.arguments)
            .env(temporal::VARIABLE, &temporal)
            .env(packages::VARIABLE, &packages),
    )?;
    if options.arguments.is_empty() {
        let mut documentation = workspace.cargo("test");
        process::run(
            documentation
                .args(["--doc", "--quiet"])
                .env(temporal::VARIABLE, &temporal),
        )?;
    }
    Ok(())
}

fn required() -> bool {
    env::var_os("XYLEM_POSTGRES_REQUIRED").is_some_and(|value| value == "1")
}

/// Whether the tests find the programs: named in the environment, Debian's, or on the path.
fn has_postgres() -> bool {
    let named = env::var_os("XYLEM_POSTGRES_BIN").map(PathBuf::from);
    let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let debian = debian.flatten().map(|entry| entry.path().join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders = named
        .into_iter()
        .chain(debian)
        .chain(env::split_paths(&path));
    folders.any(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
}

fn has_nextest(workspace: &Workspace) -> bool {
    let mut version = workspace.cargo("nextest");
    process::output(version.arg("--version").stderr(std::process::Stdio::null())).is_ok()
}
