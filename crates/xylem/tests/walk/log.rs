//! What the log, the alerts and the usage tell of all that.

use crate::installation::{Operator, Server, each, list, until};
use serde_json::Value;
use tokio::{io::AsyncBufReadExt, time::timeout};

pub(crate) async fn tells_what_happened(
    admin: &Operator<'_>,
    ada: &Operator<'_>,
    server: &Server<'_>,
) {
    let reader = server.agent("reader");
    finds_entries(&reader, ada).await;
    follows_new_entries(admin, &reader).await;
    hands_entries_out(admin, &reader).await;
    counts_calls(&reader).await;
    raises_alerts(&reader).await;
    let caller = server.agent("caller");
    caller
        .refused(3, "role admin or auditor", "audit list")
        .await;
}

/// Each option finds what it names, and nothing else.
async fn finds_entries(reader: &Operator<'_>, ada: &Operator<'_>) {
    for (option, field, value) in [
        ("--agent ada", "/agent", "ada"),
        ("--owner caller", "/owner", "caller"),
        ("--tree train-1", "/tree/workflowId", "train-1"),
        ("--workflow-id train-1/a", "/workflowId", "train-1/a"),
        ("--action redeem", "/action", "redeem"),
        ("--outcome denied", "/outcome", "denied"),
        ("--slot spare", "/slot", "spare"),
        ("--tool acme.status", "/tool", "acme.status"),
        ("--subject policy:walkers@2", "/subject", "policy:walkers@2"),
        ("--subject agent:heir", "/subject", "agent:heir"),
    ] {
        let found = reader
            .answer(&format!("audit list {option} --limit 1000"))
            .await;
        assert!(!list(&found).is_empty(), "{option}");
        let other = |entry: &&Value| entry.pointer(field) != Some(&value.into());
        assert_eq!(list(&found).iter().find(other), None, "{option}");
    }
    let limited = reader.answer("audit list --limit 3").await;
    assert_eq!(list(&limited).len(), 3);
    let all = reader
        .answer("audit list --action agent_created --since 1h")
        .await;
    assert!(list(&all).len() > 5, "{all}");
    for none in [
        "--since 2099-01-01T00:00:00Z",
        "--until 1h",
        "--subject agent:nobody",
    ] {
        let found = reader
            .answer(&format!("audit list --action agent_created {none}"))
            .await;
        assert_eq!(list(&found).len(), 0, "{none}");
    }
    let told = ada.told("audit list --action token_revealed").await;
    assert!(told.contains("incident 4711"), "{told}");
    for (says, option) in [
        ("such as deposit", "--action nothing"),
        ("granted, denied, succeeded or failed", "--outcome maybe"),
        ("such as 2h", "--since yesterday"),
    ] {
        reader
            .refused(2, says, &format!("audit list {option}"))
            .await;
    }
    reader
        .refused(4, "no such tree", "audit list --tree nothing")
        .await;
}

/// What is written while somebody looks is seen.
async fn follows_new_entries(admin: &Operator<'_>, reader: &Operator<'_>) {
    let tail = "audit tail --action agent_created --last 1 --output json";
    let (mut following, mut out) = reader.begin(tail);
    let (mut first, mut second) = (String::new(), String::new());
    out.read_line(&mut first).await.expect("an entry");
    admin.answer("agent create late --role user").await;
    let wait = std::time::Duration::from_secs(60);
    let came = timeout(wait, out.read_line(&mut second)).await;
    came.expect("in time").expect("an entry");
    let [first, second] = [first, second].map(|line| {
        let entry: Value = serde_json::from_str(&line).expect("JSON");
        entry["subject"].as_str().expect("a subject").to_owned()
    });
    assert_ne!(first, "agent:late");
    assert_eq!(second, "agent:late");
    following.kill().await.expect("ended");
}

async fn hands_entries_out(admin: &Operator<'_>, reader: &Operator<'_>) {
    let export = "audit export --action agent_created";
    let all = reader.lines(export).await;
    let ids: Vec<_> = all
        .iter()
        .map(|entry| entry["id"].as_str().expect("an id"))
        .collect();
    let after = reader.lines(&format!("{export} --after {}", ids[0])).await;
    assert_eq!(after.len(), all.len() - 1);
    assert_eq!(after[0]["id"], ids[1]);
    let events = reader.lines(&format!("{export} --format ocsf")).await;
    assert_eq!(events.len(), all.len());
    assert_eq!(events[0]["metadata"]["version"], "1.6.0");

    let verified = reader.answer("audit verify").await;
    assert_eq!(verified["intact"], true, "{verified}");
    assert!(
        reader
            .told("audit verify")
            .await
            .contains("the audit log is intact")
    );
    // Nothing of it is a week old.
    assert_eq!(list(&admin.answer("audit archive").await).len(), 0);
    reader.refused(3, "role admin", "audit archive").await;
}

async fn counts_calls(reader: &Operator<'_>) {
    let counted = |usage: &Value| usage[0]["calls"].is_string();
    let by = "usage --agent caller --tool acme.status --since 2h";
    let usage = until(reader, by, counted).await;
    assert_eq!(
        (each(&usage, "agent"), each(&usage, "tool")),
        (vec!["caller"], vec!["acme.status"])
    );
    let by = reader.answer("usage --by tool --per day --since 2h").await;
    let of_tool = |it: &Value| {
        it["tool"] == "acme.status" && it.get("agent").is_none() && it["lasts"] == "86400s"
    };
    assert!(
        !list(&by).is_empty() && list(&by).iter().all(of_tool),
        "{by}"
    );
    let by = reader
        .answer("usage --by agent --per hour --since 2h")
        .await;
    assert!(
        list(&by)
            .iter()
            .all(|it| it["lasts"] == "3600s" && it.get("tool").is_none()),
        "{by}"
    );
    for none in [
        "--until 2h --since 3h",
        "--agent heir",
        "--tool acme.nothing",
    ] {
        let usage = reader.answer(&format!("usage {none}")).await;
        assert_eq!(list(&usage).len(), 0, "{none}");
    }
    assert!(reader.told("usage").await.contains("CALLS"));
}

async fn raises_alerts(reader: &Operator<'_>) {
    let raised = |alerts: &Value| !list(alerts).is_empty();
    let line = "alert list --rule break_glass --subject agent:ada --since 1h";
    let alerts = until(reader, line, raised).await;
    assert_eq!(alerts[0]["rule"], "break_glass");
    assert_eq!(alerts[0]["tree"]["workflowId"], "train-1");
    for none in [
        "--subject agent:reader",
        "--since 2099-01-01T00:00:00Z",
        "--rule call_rate",
    ] {
        let alerts = reader.answer(&format!("alert list {none}")).await;
        assert_eq!(list(&alerts).len(), 0, "{none}");
    }
    reader
        .refused(2, "break_glass", "alert list --rule nothing")
        .await;
}
