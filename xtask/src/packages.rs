//! Fetches the packages of Python that the generated client's example needs.

use crate::{
    process,
    temporal::{Scratch, sha256},
    workspace::Workspace,
};
use anyhow::{Context, Result};
use std::{fs, path::PathBuf, process::Command};

/// The environment variable that names the directory, for the tests.
pub(crate) const VARIABLE: &str = "XYLEM_PYTHON_PACKAGES";

/// What has to be there, with its versions.
const REQUIREMENTS: &str = "examples/generated-client/requirements.txt";

/// The directory with the packages, which are fetched where it is not there or for other versions.
pub(crate) fn locate(workspace: &Workspace) -> Result<PathBuf> {
    let requirements = workspace.root().join(REQUIREMENTS);
    let version = sha256(&requirements)?;
    let place = workspace.tools().join(format!("python-{}", &version[..16]));
    if place.is_dir() {
        return Ok(place);
    }
    let scratch = Scratch::make(&workspace.tools())?;
    let into = scratch.0.join("packages");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-input"])
        .args(["--disable-pip-version-check", "--root-user-action=ignore"])
        // The requirements name everything.
        .args(["--no-deps", "--only-binary=:all:"])
        .arg("--target")
        .arg(&into)
        .arg("--requirement")
        .arg(&requirements);
    process::output(&mut pip).with_context(|| {
        format!("python3 with pip is needed for the packages of {REQUIREMENTS}")
    })?;
    // Two that fetch at once: the one that came first is as good.
    match fs::rename(&into, &place) {
        Err(_) if place.is_dir() => Ok(place),
        moved => moved.map(|()| place).context("moving packages into place"),
    }
}
