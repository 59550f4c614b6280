//! `cargo xtask check`: what continuous integration runs beside the tests.

use crate::{dependencies, metadata::Package, process, third_party, workspace::Workspace};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    io::{IsTerminal, stderr},
    process::Command,
    time::Instant,
};

type Step = fn(&Workspace) -> Result<()>;

const STEPS: &[(&str, Step)] = &[
    ("format", format),
    ("lints", lints),
    ("documentation", documentation),
    ("dependency table", dependency_table),
    ("third-party packages", third_party_packages),
];

/// Runs every step, also after one has failed, and sums up which did.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut results = Vec::new();
    for (name, step) in STEPS {
        eprintln!("check: {name}");
        let begin = Instant::now();
        let result = step(workspace);
        process::interrupted()?;
        if let Err(error) = &result {
            eprintln!("check: {name} failed: {error:#}");
        }
        results.push((*name, result.is_ok(), begin.elapsed()));
    }
    for (name, ok, took) in &results {
        let verdict = if *ok { "ok" } else { "FAILED" };
        println!("{name:<22}{verdict:<8}{:6.1} s", took.as_secs_f64());
    }
    match results.iter().filter(|(_, ok, _)| !ok).count() {
        0 => Ok(()),
        failed => bail!("{failed} of {} checks failed", STEPS.len()),
    }
}

fn format(workspace: &Workspace) -> Result<()> {
    process::run(
        workspace
            .cargo("fmt")
            .args(["--all", "--", "--check", "--files-with-diff"]),
    )
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
    let built = workspace.built_from(&["--workspace", "--target", "all"])?;
    let metadata = workspace.metadata()?;
    let of_build =
        |package: &&Package| built.contains(&(package.name.clone(), package.version.clone()));
    none(rules.violations(metadata.packages.iter().filter(of_build))?)
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
