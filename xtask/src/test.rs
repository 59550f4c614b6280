//! `cargo xtask test`.

use crate::{process, temporal, workspace::Workspace};
use anyhow::Result;

/// What to test.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Passed on to `cargo nextest run`, or to `cargo test` where nextest is not installed.
    /// Documentation tests run only where nothing is passed on.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs the tests with the Temporal CLI they need.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let temporal = temporal::locate(workspace)?;
    let mut runner = if has_nextest(workspace) {
        let mut runner = workspace.cargo("nextest");
        runner.arg("run");
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
            .env(temporal::VARIABLE, &temporal),
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

fn has_nextest(workspace: &Workspace) -> bool {
    let mut version = workspace.cargo("nextest");
    process::output(version.arg("--version").stderr(std::process::Stdio::null())).is_ok()
}
