//! The whole REST surface, by a client that was generated of the OpenAPI document.

use anyhow::{Context, ensure};
use secrecy::ExposeSecret;
use std::{env, fs, path::PathBuf};
use xylem_testkit::Stack;

/// Where the walk lies, and `cargo xtask test` has put what it needs.
const WALK: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../examples/generated-client/walk.py"
);
const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools");

#[tokio::test]
async fn a_generated_client_walks_the_whole_surface() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let place = tempfile::tempdir()?;
    let tokens = place.path().join("tokens");
    let secrets = place.path().join("secrets");
    let issued = [1, 2, 3].map(|number| stack.issue(&format!("walk@{number}")));
    let lines = issued
        .map(|token| token.expose_secret().to_owned())
        .join("\n");
    fs::write(&tokens, lines)?;
    let output = tokio::process::Command::new("python3")
        .arg(WALK)
        .args(["--address", stack.control_plane()])
        .arg("--key-file")
        .arg(stack.data().admin_key())
        .args(["--api", &stack.acme.url()])
        .arg("--token-file")
        .arg(&tokens)
        .args(["--task-queue", stack.task_queue()])
        .arg("--secrets-file")
        .arg(&secrets)
        .env("PYTHONPATH", packages()?)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .kill_on_drop(true)
        .output()
        .await
        .context("python3")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let failed = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}{failed}");
    // Keys, passwords, invitations, sessions, second factors and credentials are looked for as tokens are.
    let secrets = fs::read_to_string(&secrets)?;
    let mut wanted = stack.issued();
    let issued = wanted.len();
    wanted.extend(secrets.lines().map(str::to_owned));
    ensure!(wanted.len() > issued + 15, "{} secrets", wanted.len());
    let searched = stack.search(&wanted).await?;
    ensure!(searched.found_in().is_empty(), "{:?}", searched.found_in());
    stack.stop().await;
    Ok(())
}

/// The generator and what it needs: named, or where `cargo xtask test` has put them.
fn packages() -> anyhow::Result<PathBuf> {
    if let Some(named) = env::var_os("XYLEM_PYTHON_PACKAGES") {
        return Ok(named.into());
    }
    let shelf = fs::read_dir(TOOLS).into_iter().flatten().flatten();
    let mut shelf = shelf.map(|entry| entry.path());
    let is_packages = |path: &PathBuf| path.join("openapi_python_client").is_dir();
    let found = shelf.find(is_packages);
    found.context("no packages for the generated client: run `cargo xtask test`")
}
