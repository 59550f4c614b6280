//! `cargo xtask check`: what continuous integration runs beside the tests.

use crate::{dependencies, process, third_party, workspace::Workspace};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    io::{IsTerminal, stderr},
    process::Command,
    time::{Duration, Instant},
};

type Step = fn(&Workspace) -> Result<()>;

const STEPS: &[(&str, Step)] = &[
    ("format", format),
    ("lints", lints),
    ("documentation", documentation),
    ("dependency table", dependency_table),
    ("third-party packages", third_party_packages),
];

/// Runs every step, also after one has failed, and says which did.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut failed = Vec::new();
    for (name, step) in STEPS {
        eprintln!("check: {name}");
        let begin = Instant::now();
        let result = step(workspace);
        process::interrupted()?;
        report(name, begin.elapsed(), &result);
        if result.is_err() {
            failed.push(*name);
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!(
        "{} of {} checks failed: {}",
        failed.len(),
        STEPS.len(),
        failed.join(", ")
    )
}

fn report(name: &str, took: Duration, result: &Result<()>) {
    let seconds = took.as_secs_f64();
    match result {
        Ok(()) => println!("{name:<22} ok      {seconds:6.1} s"),
        Err(error) => println!("{name:<22} FAILED  {seconds:6.1} s  {error:#}"),
    }
}

fn format(workspace: &Workspace) -> Result<()> {
    process::run(workspace.cargo("fmt").args(["--all", "--check"]))
        .context("`cargo fmt --all` repairs it")
}

fn lints(workspace: &Workspace) -> Result<()> {
    let mut clippy = workspace.cargo("clippy");
    clippy.args(["--workspace", "--all-targets"]);
    process::run(quiet_in_a_pipe(&mut clippy).args(["--", "-D", "warnings"]))
}

fn documentation(workspace: &Workspace) -> Result<()> {
    let mut doc = workspace.cargo("doc");
    doc.args(["--workspace", "--no-deps"])
        .env("RUSTDOCFLAGS", "-D warnings");
    process::run(quiet_in_a_pipe(&mut doc))
}

fn dependency_table(workspace: &Workspace) -> Result<()> {
    let architecture = workspace.root().join("ARCHITECTURE.md");
    let architecture = fs::read_to_string(architecture).context("reading ARCHITECTURE.md")?;
    none(dependencies::violations(
        &architecture,
        &workspace.metadata()?,
    )?)
    .context("change the code, or the table in ARCHITECTURE.md with a reason")
}

fn third_party_packages(workspace: &Workspace) -> Result<()> {
    let file = workspace.root().join("xtask/third-party.toml");
    let rules = fs::read_to_string(file).context("reading xtask/third-party.toml")?;
    let rules = third_party::Rules::parse(&rules)?;
    let metadata = workspace.metadata()?;
    let members: Vec<&str> = metadata
        .members()
        .map(|member| member.name.as_str())
        .collect();
    none(rules.violations(metadata.built_from(&members, true))?)
        .context("choose another package, or add to xtask/third-party.toml with a reason")
}

fn none(violations: Vec<String>) -> Result<()> {
    for violation in &violations {
        eprintln!("  {violation}");
    }
    match violations.len() {
        0 => Ok(()),
        1 => bail!("1 violation"),
        many => bail!("{many} violations"),
    }
}

/// Progress is for terminals; diagnostics are printed either way.
fn quiet_in_a_pipe(command: &mut Command) -> &mut Command {
    if !stderr().is_terminal() {
        command.arg("--quiet");
    }
    command
}
