//! The command `xylem` in a process of its own, for tests that kill it. It ends when its standard
//! input does, so that a test that is killed leaves no process behind.
//!
//! `test-server DATA LISTEN TEMPORAL` is `xylem server` as no operator may run it: it asks providers on
//! loopback without TLS, and archives what is a moment old. The file of credential providers and the
//! folder of archives are beside the data directory.

use anyhow::Context;
use std::{
    ffi::OsString,
    io::{self, Write},
    path::Path,
    process::{ExitCode, exit},
    thread,
    time::Duration,
};
use xylem::{
    data::DataDir,
    server::{ArchiveConfig, Server, ServerConfig, credential_providers},
    temporal::TemporalOptions,
};

fn main() -> ExitCode {
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        exit(1)
    });
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|name| name == "test-server") {
        return match serve(arguments.collect()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let _ = writeln!(io::stderr(), "{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    xylem::cli::main()
}

#[tokio::main]
async fn serve(arguments: Vec<OsString>) -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    let [data, listen, temporal] = <[_; 3]>::try_from(arguments)
        .ok()
        .context("expected DATA LISTEN TEMPORAL")?;
    let text = |argument: OsString| argument.into_string().ok().context("expected text");
    let beside = |name: &str| Path::new(&data).with_file_name(name);
    let mut config = ServerConfig::new(
        DataDir::at(&data),
        TemporalOptions::at(text(temporal)?, "default"),
    );
    config.listen = vec![text(listen)?.parse()?];
    (config.development, config.single_operator) = (true, true);
    config.archive = Some(ArchiveConfig {
        folder: beside("archive"),
        keep: Duration::ZERO,
    });
    let providers = beside("providers.toml");
    if providers.exists() {
        config.credential_providers = credential_providers(&providers)?;
    }
    Err(Server::start(config).await?.failed().await.into())
}
