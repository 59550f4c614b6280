//! The main job of Xylem on a real Temporal server: a token is rotated at the root of a working
//! tree, reaches every workflow, and the old one is revoked. Beside it, an agent without permission is
//! refused until somebody approves, and the audit log is verified.
//!
//! `cargo xtask demo` builds and runs it.
#![allow(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a program, not a workflow: no history is replayed with it"
)]

mod acme;
mod history;
mod ledger;
mod needle;
mod permission;
mod process;
mod progress;
mod record;
mod report;
mod scan;
mod stack;
mod story;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use progress::Progress;
use release_train::Pace;
use report::Report;
use stack::Stack;
use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};
use story::Story;
use tokio_util::sync::CancellationToken;

/// Rotates a token under a working tree of 47 workflows, on a stack of its own.
#[derive(Parser)]
struct Options {
    /// Leaves everything running, to be explored, until Ctrl-C.
    #[arg(long)]
    stay: bool,
    /// What standard output carries.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Writes histories of the workflows to this directory, to be replayed by the tests.
    #[arg(long, value_name = "DIRECTORY")]
    record: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// The tree and a summary for people.
    Text,
    /// One JSON summary.
    Json,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    match in_a_directory(&options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs in a temporary directory, which is kept where something is not as it should be.
async fn in_a_directory(options: &Options) -> Result<()> {
    let interrupted = xylem::interrupted()?;
    let directory = tempfile::Builder::new().prefix("xylem-demo-").tempdir()?;
    let done = run(options, directory.path(), &interrupted).await;
    if done.is_err() && !interrupted.is_cancelled() {
        let kept = directory.keep();
        let _ = writeln!(
            io::stderr(),
            "databases and logs are kept in {}",
            kept.display()
        );
    }
    done
}

async fn run(options: &Options, directory: &Path, interrupted: &CancellationToken) -> Result<()> {
    let progress = Progress::new();
    let told = tokio::select! {
        told = show(options, directory, &progress) => told,
        () = interrupted.cancelled() => bail!("interrupted"),
    };
    let (stack, report) = told?;
    print(&report, options.output)?;
    if options.stay {
        stay(&stack, interrupted).await?;
    }
    stack.stop()?;
    if !report.passed {
        bail!("{}", report.problems.join("; "));
    }
    Ok(())
}

async fn show(options: &Options, directory: &Path, progress: &Progress) -> Result<(Stack, Report)> {
    let mut stack = Stack::start(directory, |step| progress.step(step)).await?;
    let story = Story::new(&mut stack, progress, pace(options))?;
    let (mut report, runs) = story.tell(options.stay || options.record.is_some()).await?;
    if let Some(directory) = &options.record {
        record::record(runs, &story::SPECIAL, directory)
            .await
            .context("recording histories")?;
    }
    report.took_ms = progress.finish().as_millis();
    report.judge();
    Ok((stack, report))
}

/// A call a second and workflow, and new runs often, so that the token is rotated while workflows
/// continue as new; slower where histories are recorded, so that they are short.
fn pace(options: &Options) -> Pace {
    let (pause_ms, rounds_per_run) = match options.record {
        None => (1_000, 6),
        Some(_) => (4_000, 3),
    };
    Pace {
        pause_ms,
        rounds: None,
        rounds_per_run: Some(rounds_per_run),
    }
}

fn print(report: &Report, output: Output) -> Result<()> {
    let mut out = io::stdout().lock();
    match output {
        Output::Text => write!(out, "{}", report.text())?,
        Output::Json => writeln!(out, "{}", serde_json::to_string(report)?)?,
    }
    Ok(out.flush()?)
}

/// Says where everything is, and waits.
async fn stay(stack: &Stack, interrupted: &CancellationToken) -> Result<()> {
    let endpoints = &stack.endpoints;
    let web_ui = endpoints.web_ui.as_deref().unwrap_or_default();
    writeln!(
        io::stderr(),
        "\nThe train works on; Ctrl-C stops everything.\n\n  \
         Temporal         {}\n  \
         Temporal web UI  {web_ui}\n  \
         control plane    {}\n  \
         external API     {}\n\n  \
         export XYLEM_DATA_DIR={}\n  \
         xylem tree show release-42",
        endpoints.temporal_address,
        endpoints.control_plane,
        stack.acme.url(),
        endpoints.data_directory.display(),
    )?;
    interrupted.cancelled().await;
    Ok(())
}
