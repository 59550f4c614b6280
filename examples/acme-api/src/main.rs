//! Runs the Acme API as its own process.

use acme_api::AcmeApi;
use anyhow::Context;
use clap::Parser;
use std::{
    fs::OpenOptions,
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// An external API for demonstrations: bearer tokens it issues and revokes, counts, and
/// misbehaviour on request.
#[derive(Parser)]
struct Arguments {
    /// Where to listen; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:7420")]
    listen: SocketAddr,
    /// The file with the key for /admin; made with a fresh key if it does not exist.
    #[arg(long, default_value = "acme-admin.key")]
    admin_key_file: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let file = arguments.admin_key_file;
    let listen = arguments.listen;
    let acme = if file.exists() {
        let key = std::fs::read_to_string(&file).context("reading the admin key file")?;
        AcmeApi::start_with_admin_key(listen, key.trim().to_owned()).await
    } else {
        AcmeApi::start(listen).await
    };
    let acme = acme.with_context(|| format!("listening on {listen}"))?;
    if !file.exists() {
        keep(&file, acme.admin_key()).context("writing the admin key file")?;
    }
    writeln!(
        io::stdout(),
        "{}",
        serde_json::json!({ "url": acme.url(), "admin_key_file": file })
    )?;
    tokio::select! {
        ended = acme.join() => Ok(ended?),
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    }
}

/// Writes a secret into a new file that only its owner can read.
fn keep(file: &Path, secret: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(file)?.write_all(secret.as_bytes())
}
