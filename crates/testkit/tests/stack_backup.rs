//! Backups of the whole stack: the schedule makes them, and the operator's command loads one into the other
//! kind of database.

use secrecy::SecretString;
use serde_json::Value;
use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::Command;
use xylem::{
    data::{DataDir, read_secret},
    server::{BackupConfig, DATABASE_VARIABLE, Database, Server, ServerConfig},
    temporal::TemporalOptions,
};
use xylem_client::{Client, StartTree, v1};
use xylem_testdb::Server as PostgresServer;
use xylem_testkit::{TemporalServer, eventually};

/// What the operator's command answers.
async fn xylem(data: &DataDir, line: &[&str], database: Option<&str>) -> anyhow::Result<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_testkit-xylem"));
    command
        .args(line)
        .args(["--output", "json", "--data-dir"])
        .arg(data.path())
        .envs(database.map(|url| (DATABASE_VARIABLE, url)))
        .env_remove("XYLEM_ADDRESS")
        .env_remove("XYLEM_API_KEY")
        .env_remove("XYLEM_KEY_FILE")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    // It would end with its standard input.
    let input = child.stdin.take();
    let output = child.wait_with_output().await?;
    drop(input);
    let noted = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{line:?}: {noted}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn config(temporal: &TemporalServer, data: &DataDir) -> ServerConfig {
    let options = TemporalOptions::at(temporal.address(), "default");
    ServerConfig {
        development: true,
        single_operator: true,
        listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        ..ServerConfig::new(data.clone(), options)
    }
}

async fn administrator(server: &Server, data: &DataDir) -> anyhow::Result<Client> {
    let key = read_secret(&data.admin_key())?;
    Ok(Client::connect(&server.address(), &key).await?)
}

/// A credential that every tree of a type starts with.
async fn bound(control: &Client) -> anyhow::Result<v1::Credential> {
    let new = v1::CreateCredentialRequest {
        name: "acme".to_owned(),
        audiences: vec!["https://api.acme.example".to_owned()],
        ..v1::CreateCredentialRequest::default()
    };
    let value = SecretString::from("canary-value-of-acme");
    control.create_credential(new, &value).await?;
    let binding = v1::BindCredentialRequest {
        name: "acme".to_owned(),
        workflow_type: "Walker".to_owned(),
        ..v1::BindCredentialRequest::default()
    };
    Ok(control.bind_credential(binding).await?)
}

fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    entries.collect()
}

async fn checks(control: &Client, name: &str) -> anyhow::Result<Option<v1::Check>> {
    let checks = control.status().await?.checks;
    Ok(checks.into_iter().find(|check| check.name == name))
}

/// Has the schedule make a backup of what there is.
async fn backed_up(
    temporal: &TemporalServer,
    control: &Client,
    folder: &Path,
) -> anyhow::Result<PathBuf> {
    let trigger = ["schedule", "trigger", "--schedule-id", "xylem-backup"];
    let ask = || async {
        temporal.run_cli(&trigger).await?;
        let page = control.list_audit(v1::ListAuditRequest {
            filter: Some(v1::AuditFilter {
                action: "backed_up".to_owned(),
                ..v1::AuditFilter::default()
            }),
            ..v1::ListAuditRequest::default()
        });
        Ok(page.await?.entries)
    };
    let noted = eventually("a backup is made", ask, |made| !made.is_empty()).await?;
    let mut files = files(folder)?;
    // While it is young there is no other, however often somebody asks.
    assert_eq!((noted.len(), files.len()), (1, 1), "{noted:?} {files:?}");
    let made = checks(control, "backup").await?.expect("a check of them");
    assert!(made.ok && made.detail.contains("the last"), "{made:?}");
    Ok(files.remove(0))
}

#[tokio::test]
async fn what_the_schedule_backed_up_is_restored_into_postgresql() -> anyhow::Result<()> {
    let (temporal, place) = (TemporalServer::start().await?, tempfile::tempdir()?);
    let before = DataDir::at(place.path().join("before"));
    let private = place.path().join("backup.key").display().to_string();
    let made = xylem(&before, &["vault", "key", "--to", &private], None).await?;
    let folder = place.path().join("backups");
    let server = Server::start(ServerConfig {
        backups: Some(BackupConfig {
            folder: folder.clone(),
            key: made["publicKey"].as_str().expect("a key").parse()?,
            every: Duration::from_secs(12 * 60 * 60),
            keep: 2,
        }),
        ..config(&temporal, &before)
    })
    .await?;
    let control = administrator(&server, &before).await?;
    let kept = bound(&control).await?;
    let file = backed_up(&temporal, &control, &folder).await?;
    server.stop().await;

    let url = PostgresServer::shared(env!("CARGO_TARGET_TMPDIR")).database();
    let after = DataDir::at(place.path().join("after"));
    after.create()?;
    fs::copy(before.kek(), after.kek())?;
    let file = file.display().to_string();
    let restore = ["vault", "restore", &file, "--key-file", &private];
    let restored = xylem(&after, &restore, Some(&url)).await?;
    assert!(restored["rows"].as_u64() > Some(5), "{restored}");

    let server = Server::start(ServerConfig {
        database: Database::Postgres(Box::new(url.parse()?)),
        ..config(&temporal, &after)
    })
    .await?;
    let control = administrator(&server, &after).await?;
    let held = checks(&control, "restore").await?.expect("it waits");
    assert!(!held.ok && held.detail.contains("no token"), "{held:?}");
    let known = control.get_credential("acme").await?;
    assert_eq!(
        (&known.versions, &known.bindings),
        (&kept.versions, &kept.bindings)
    );
    control
        .confirm_restore("nothing was revoked".to_owned())
        .await?;
    assert_eq!(checks(&control, "restore").await?, None);

    // What was encrypted is read again, under the keys of before.
    let start = StartTree {
        workflow_id: "root".parse()?,
        workflow_type: "Walker".parse()?,
        task_queue: "xylem".parse()?,
        input_json: String::new(),
        tokens: Vec::new(),
        tools: Vec::new(),
        intake: None,
        request_id: String::new(),
    };
    control.start_tree(start).await?;
    let held = control.token_status(&"root".parse()?, None).await?;
    let held = held.first().expect("a copy of the credential");
    let epoch = held.order.map(|order| order.epoch);
    assert_eq!(
        (&held.fingerprint, epoch),
        (&known.versions[0].fingerprint, Some(2))
    );
    server.stop().await;
    Ok(())
}
