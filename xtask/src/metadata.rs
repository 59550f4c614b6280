//! What `cargo metadata` says, as far as it is needed here.

use crate::process;
use anyhow::{Context, Result};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

#[derive(Deserialize)]
pub(crate) struct Metadata {
    pub(crate) workspace_root: PathBuf,
    pub(crate) target_directory: PathBuf,
    pub(crate) packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
    resolve: Option<Resolve>,
}

#[derive(Deserialize)]
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) source: Option<String>,
    pub(crate) license: Option<String>,
    pub(crate) license_file: Option<PathBuf>,
    pub(crate) manifest_path: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) kind: Option<Kind>,
    /// Where the dependency is, if it is on this machine.
    pub(crate) path: Option<PathBuf>,
}

/// What a dependency is for; a normal one has no kind.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Build,
    Dev,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<EdgeKind>,
}

#[derive(Deserialize)]
struct EdgeKind {
    kind: Option<Kind>,
}

impl Metadata {
    pub(crate) fn read(command: &mut Command) -> Result<Self> {
        let text = process::output(command.args(["--format-version", "1"]))?;
        serde_json::from_str(&text).context("reading what cargo metadata printed")
    }

    /// The workspace's own packages.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages
            .iter()
            .filter(|package| self.workspace_members.contains(&package.id))
    }

    /// Everything that the named members are built from, themselves included; with `dev`, also
    /// what their tests are built from.
    pub(crate) fn built_from<'a>(
        &'a self,
        names: &[&str],
        dev: bool,
    ) -> impl Iterator<Item = &'a Package> {
        let edges = self.edges(dev);
        let mut reached = BTreeSet::new();
        let mut next: Vec<&str> = self
            .members()
            .filter(|member| names.contains(&member.name.as_str()))
            .map(|member| member.id.as_str())
            .collect();
        while let Some(id) = next.pop() {
            if reached.insert(id) {
                next.extend(edges.get(id).into_iter().flatten());
            }
        }
        self.packages
            .iter()
            .filter(move |package| reached.contains(package.id.as_str()))
    }

    fn edges(&self, dev: bool) -> BTreeMap<&str, Vec<&str>> {
        let wanted = |edge: &&Edge| dev || edge.dep_kinds.iter().any(|k| k.kind != Some(Kind::Dev));
        let nodes = self.resolve.iter().flat_map(|resolve| &resolve.nodes);
        nodes
            .map(|node| {
                let to = node.deps.iter().filter(wanted);
                (node.id.as_str(), to.map(|edge| edge.pkg.as_str()).collect())
            })
            .collect()
    }
}

impl Package {
    /// The directory of the package.
    pub(crate) fn directory(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(&self.manifest_path)
    }
}
