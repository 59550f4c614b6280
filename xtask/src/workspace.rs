//! Where the repository is, and how Cargo is called in it.

use crate::{metadata::Metadata, process};
use anyhow::{Context, Result};
use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The repository's root and its target directory.
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// The workspace that Cargo finds from here.
    pub(crate) fn find() -> Result<Self> {
        let metadata = Metadata::read(cargo().args(["metadata", "--no-deps"]))?;
        Ok(Self {
            root: metadata.workspace_root,
            target: metadata.target_directory,
        })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where fetched programs are kept.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// `cargo SUBCOMMAND`, run from the root.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut command = cargo();
        command.current_dir(&self.root).arg(subcommand);
        command
    }

    /// The workspace with everything it depends on.
    pub(crate) fn metadata(&self) -> Result<Metadata> {
        Metadata::read(&mut self.cargo("metadata"))
    }

    /// The workspace with everything it depends on where it is built for this machine.
    pub(crate) fn metadata_for_host(&self) -> Result<Metadata> {
        let host = process::output(Command::new(rustc()).arg("-vV"))?;
        let host = host
            .lines()
            .find_map(|line| line.strip_prefix("host: "))
            .context("rustc -vV names no host: is it a Rust compiler?")?;
        Metadata::read(self.cargo("metadata").args(["--filter-platform", host]))
    }
}

/// The Cargo that runs us, so that a toolchain chosen for us holds for our children.
fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What Cargo told us about this package is not meant for the packages it builds next.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

fn rustc() -> std::ffi::OsString {
    env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())
}
