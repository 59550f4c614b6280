//! Where the repository is, and how Cargo is called in it.

use crate::{metadata::Metadata, process};
use anyhow::Result;
use std::{
    collections::BTreeSet,
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

    /// Name and version of every package that a build with these arguments of `cargo tree` takes.
    /// `cargo metadata` would also name those that only a feature nobody asked for brings in.
    pub(crate) fn built_from(&self, arguments: &[&str]) -> Result<BTreeSet<(String, String)>> {
        let mut tree = self.cargo("tree");
        tree.args(["--quiet", "--prefix", "none", "--format", "{p}"]);
        let text = process::output(tree.args(arguments))?;
        Ok(text.lines().filter_map(name_and_version).collect())
    }
}

/// From `name v1.2.3 (wherever)`.
fn name_and_version(line: &str) -> Option<(String, String)> {
    let mut words = line.split_whitespace();
    let (name, version) = (words.next()?, words.next()?);
    Some((name.to_owned(), version.strip_prefix('v')?.to_owned()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_tree_are_read() {
        let read = |line| name_and_version(line).map(|(name, version)| format!("{name}@{version}"));
        assert_eq!(read("ring v0.17.14").as_deref(), Some("ring@0.17.14"));
        assert_eq!(
            read("a-b v1.0.0+x (proc-macro) (*)").as_deref(),
            Some("a-b@1.0.0+x")
        );
        assert_eq!(read(""), None);
    }
}
