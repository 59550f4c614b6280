//! The audit log of the whole stack, verified with the operator's command.

use serde_json::Value;
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};
use tokio::process::Command;
use xylem::{
    data::{DataDir, read_secret},
    server::{ArchiveConfig, Server, ServerConfig},
    temporal::TemporalOptions,
};
use xylem_client::v1;
use xylem_testkit::{Stack, TemporalServer, eventually_within};

async fn verify(stack: &Stack, more: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_testkit-xylem"));
    command
        .args(["audit", "verify", "--data-dir"])
        .arg(stack.data().path())
        .args(more)
        .env_remove("XYLEM_ADDRESS")
        .env_remove("XYLEM_API_KEY")
        .env_remove("XYLEM_KEY_FILE");
    finished(command).await
}

async fn finished(mut command: Command) -> anyhow::Result<Output> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    // It would end with its standard input.
    let input = child.stdin.take();
    let output = child.wait_with_output().await?;
    drop(input);
    Ok(output)
}

#[tokio::test]
async fn verify_names_the_entry_that_was_edited() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let tree = stack.tree("ledger").walk(Vec::new()).await?;
    tree.node("").call("acme.status", "default").await?;
    tree.rotate("default").await?;
    tree.converged(2).await?;

    let intact = verify(&stack, &[]).await?;
    let said = String::from_utf8(intact.stdout)?;
    let noted = String::from_utf8(intact.stderr)?;
    assert_eq!(intact.status.code(), Some(0), "{noted}");
    assert!(said.contains("intact"), "{said}");
    assert_eq!(noted, "", "nobody watches, so there is no progress");

    let all = stack.audit(v1::AuditFilter::default()).await?;
    let redeemed = all.iter().find(|entry| entry.action == "redeem");
    let redeemed = redeemed.expect("a call was made").id.clone();
    let options = SqliteConnectOptions::new().filename(stack.data().database());
    let mut burglar = SqliteConnection::connect_with(&options).await?;
    let edited =
        sqlx::query("UPDATE audit SET body = replace(body, 'acme', 'evil') WHERE seq = $1")
            .bind(redeemed.parse::<i64>()?)
            .execute(&mut burglar)
            .await?;
    assert_eq!(edited.rows_affected(), 1);
    burglar.close().await?;

    let found = verify(&stack, &[]).await?;
    let said = String::from_utf8(found.stderr)?;
    assert_eq!(found.status.code(), Some(1), "{said}");
    assert!(
        said.contains(&format!("entry {redeemed} was changed")),
        "{said}"
    );

    let found = verify(&stack, &["--output", "json"]).await?;
    assert_eq!(found.status.code(), Some(1));
    let told: Value = serde_json::from_slice(&found.stdout)?;
    assert_eq!(told["finding"]["what"], "entry_changed");
    assert_eq!(told["finding"]["first"], redeemed);
    stack.stop().await;
    Ok(())
}

/// What the operator's command says about an installation, and its exit status.
async fn said(server: &Server, data: &DataDir, line: &[&str]) -> anyhow::Result<(i32, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_testkit-xylem"));
    command
        .arg("audit")
        .args(line)
        .env("XYLEM_ADDRESS", server.address())
        .env("XYLEM_KEY_FILE", data.admin_key())
        .env_remove("XYLEM_API_KEY");
    let output = finished(command).await?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code().unwrap_or(-1), String::from_utf8(said)?))
}

fn archives(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let mut files: Vec<_> = entries.collect::<anyhow::Result<_>>()?;
    files.sort();
    Ok(files)
}

/// The schedule archives what is old enough, the command does it too, and everything verifies.
#[tokio::test]
async fn old_entries_are_archived_and_what_is_kept_goes_on_from_them() -> anyhow::Result<()> {
    let (temporal, place) = (TemporalServer::start().await?, tempfile::tempdir()?);
    let data = DataDir::at(place.path().join("data"));
    let folder = place.path().join("archive");
    let server = Server::start(ServerConfig {
        development: true,
        single_operator: true,
        listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        archive: Some(ArchiveConfig {
            folder: folder.clone(),
            keep: Duration::ZERO,
        }),
        ..ServerConfig::new(
            data.clone(),
            TemporalOptions::at(temporal.address(), "default"),
        )
    })
    .await?;
    let key = read_secret(&data.admin_key())?;
    let control = xylem_client::Client::connect(&server.address(), &key).await?;

    // Ten seconds after the first entries there is a checkpoint that a segment can end with.
    let trigger = ["schedule", "trigger", "--schedule-id", "xylem-archive"];
    let ask = || async {
        temporal.run_cli(&trigger).await?;
        let page = control.list_audit(v1::ListAuditRequest::default()).await?;
        Ok(page.archived)
    };
    let patience = Duration::from_secs(60);
    let archived = eventually_within(patience, "it is archived", ask, Option::is_some).await?;
    let first = archived.expect("a segment");
    let ask = || async {
        let log = control.list_audit(v1::ListAuditRequest::default()).await?;
        Ok(log.entries)
    };
    let dropped = |entries: &Vec<v1::AuditEntry>| {
        let oldest = entries.first().map(|entry| entry.id.parse::<u64>());
        let last: u64 = first.last.parse().unwrap_or(u64::MAX);
        matches!(oldest, Some(Ok(oldest)) if oldest > last)
    };
    eventually_within(patience, "they are dropped", ask, dropped).await?;

    // By the command, with what has come since.
    let ask = || said(&server, &data, &["archive"]);
    let more = |(status, said): &(i32, String)| *status == 0 && said.contains("in audit-");
    eventually_within(patience, "more is archived", ask, more).await?;

    let files = archives(&folder)?;
    assert!(files.len() >= 2, "{files:?}");
    let key = data.audit_checkpoints().with_file_name("checkpoint.jwk");
    let named: Vec<_> = files.iter().map(|file| file.to_string_lossy()).collect();
    let mut line = vec!["verify", "--archive"];
    line.extend(named.iter().map(AsRef::as_ref));
    let key = key.to_string_lossy();
    line.extend(["--public-key", &key]);
    let (status, told) = said(&server, &data, &line).await?;
    assert_eq!(status, 0, "{told}");
    assert!(told.contains("the audit log is intact"), "{told}");
    assert!(
        told.contains("the archives are intact: entries 1 to"),
        "{told}"
    );

    let checks = control.status().await?.checks;
    let check = checks.iter().find(|check| check.name == "archive");
    let check = check.expect("a check of the archives");
    assert!(
        check.ok && check.detail.contains("are in audit-"),
        "{check:?}"
    );

    let (status, told) = said(&server, &data, &["export"]).await?;
    assert_eq!(status, 0, "{told}");
    assert!(told.contains("are in archives"), "{told}");
    server.stop().await;

    // Alone, on any machine; and one that was damaged is named.
    let mut offline = line.clone();
    offline.push("--offline");
    let nowhere = Server::start(ServerConfig {
        listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        ..ServerConfig::new(
            data.clone(),
            TemporalOptions::at(temporal.address(), "default"),
        )
    })
    .await?;
    let (status, told) = said(&nowhere, &data, &offline).await?;
    assert_eq!(status, 0, "{told}");
    let mut bytes = fs::read(&files[0])?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&files[0], bytes)?;
    let (status, told) = said(&nowhere, &data, &offline).await?;
    assert_eq!(status, 1, "{told}");
    assert!(told.contains(&*named[0]), "{told}");
    let (status, told) = said(&nowhere, &data, &["archive"]).await?;
    assert_eq!(status, 3, "{told}");
    assert!(told.contains("--audit-archive"), "{told}");
    nowhere.stop().await;
    Ok(())
}
