//! `cargo xtask demo`: builds what the demo needs, with visible progress, and runs it.

use crate::{process, temporal, workspace::Workspace};
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::Command,
    time::Duration,
};

/// What is built for the demo: the example, the product, the external API.
const PACKAGES: [&str; 3] = ["release-train", "xylem", "acme-api"];

/// The program that shows the main job.
const PROGRAM: &str = "demo";

/// The programs it starts, and the environment variables that tell it where they are.
const PROGRAMS: [(&str, &str); 2] = [("xylem", "XYLEM_BIN"), ("acme-api", "ACME_API_BIN")];

/// How the demo runs.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leaves everything running, to be explored, until Ctrl-C.
    #[arg(long)]
    stay: bool,
    /// What standard output carries.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Output {
    /// The tree and a summary for people.
    Text,
    /// One JSON summary.
    Json,
}

/// Builds and runs the demo.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let temporal = temporal::locate(workspace)?;
    let programs = build(workspace)?;
    let path = |name| {
        let path = programs.get(name);
        path.with_context(|| format!("building {} left no program {name}", PACKAGES.join(", ")))
    };
    let mut demo = Command::new(path(PROGRAM)?);
    demo.current_dir(workspace.root())
        .env(temporal::VARIABLE, temporal);
    for (program, variable) in PROGRAMS {
        demo.env(variable, path(program)?);
    }
    process::run(demo.args(options.arguments()))
}

impl Options {
    fn arguments(&self) -> Vec<&'static str> {
        let output = match self.output {
            Output::Text => "text",
            Output::Json => "json",
        };
        let mut arguments = vec!["--output", output];
        if self.stay {
            arguments.push("--stay");
        }
        arguments
    }
}

/// Builds the packages and returns where their programs are, by name.
fn build(workspace: &Workspace) -> Result<BTreeMap<String, PathBuf>> {
    let mut cargo = workspace.cargo("build");
    cargo.args([
        "--quiet",
        "--bins",
        "--message-format",
        "json-render-diagnostics",
    ]);
    for package in PACKAGES {
        cargo.args(["--package", package]);
    }
    let mut progress = Progress::new(workspace)?;
    process::for_each_line(&mut cargo, |line| progress.message(line))?;
    Ok(progress.finish())
}

/// What Cargo says about a build, as far as it is needed here.
#[derive(Deserialize)]
struct Message {
    package_id: Option<String>,
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// Counts built packages on a terminal, says nothing in a pipe, and collects programs.
struct Progress {
    bar: ProgressBar,
    built: BTreeSet<String>,
    programs: BTreeMap<String, PathBuf>,
}

impl Progress {
    fn new(workspace: &Workspace) -> Result<Self> {
        let mut arguments = vec!["--edges", "normal,build"];
        for package in PACKAGES {
            arguments.extend(["--package", package]);
        }
        let packages = workspace.built_from(&arguments)?.len();
        let style = ProgressStyle::with_template("building {bar:30} {pos}/{len} {elapsed} {msg}")?;
        let bar = ProgressBar::new(packages as u64).with_style(style);
        bar.enable_steady_tick(Duration::from_millis(500));
        Ok(Self::with(bar))
    }

    fn with(bar: ProgressBar) -> Self {
        Self {
            bar,
            built: BTreeSet::new(),
            programs: BTreeMap::new(),
        }
    }

    fn message(&mut self, line: &str) {
        let Ok(message) = serde_json::from_str::<Message>(line) else {
            return;
        };
        let (Some(package), Some(target)) = (message.package_id, message.target) else {
            return;
        };
        if self.built.insert(package) {
            self.bar.inc(1);
            if target.name != "build-script-build" {
                self.bar.set_message(target.name.clone());
            }
        }
        if let Some(program) = message.executable {
            self.programs.insert(target.name, program);
        }
    }

    fn finish(self) -> BTreeMap<String, PathBuf> {
        self.bar.finish_and_clear();
        self.programs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_collected_and_packages_counted_once() {
        let mut progress = Progress::with(ProgressBar::hidden());
        for line in [
            r#"{"reason":"compiler-artifact","package_id":"a","target":{"name":"a"},"executable":null}"#,
            r#"{"reason":"compiler-artifact","package_id":"a","target":{"name":"xylem"},"executable":"/t/xylem"}"#,
            r#"{"reason":"build-script-executed","package_id":"b"}"#,
            r#"{"reason":"build-finished","success":true}"#,
            "not JSON",
        ] {
            progress.message(line);
        }
        assert_eq!(progress.bar.position(), 1);
        let programs = progress.finish();
        assert_eq!(
            programs,
            BTreeMap::from([("xylem".to_owned(), PathBuf::from("/t/xylem"))])
        );
    }

    #[test]
    fn options_are_passed_on() {
        let options = Options {
            stay: true,
            output: Output::Json,
        };
        assert_eq!(options.arguments(), ["--output", "json", "--stay"]);
    }
}
