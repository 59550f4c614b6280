//! The audit log of the whole stack, verified with the operator's command.

use serde_json::Value;
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use std::process::{Output, Stdio};
use tokio::process::Command;
use xylem_client::v1;
use xylem_testkit::Stack;

async fn verify(stack: &Stack, more: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_testkit-xylem"));
    command
        .args(["audit", "verify", "--data-dir"])
        .arg(stack.data().path())
        .args(more)
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
