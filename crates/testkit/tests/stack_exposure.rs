//! A secret that somebody puts into a signal lies in history, in the signal itself. It comes to lie
//! nowhere else: in no marker, no log, no error, and not in Xylem's own database.

use prost::Message;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::time::Duration;
use temporalio_common::protos::temporal::api::{common::v1::Payload, enums::v1::EventType};
use xylem_testkit::{
    Searcher, Stack, events, eventually, eventually_within, json_payload, query, signal,
};

/// Beyond the minute between two reports of rejected signals, and what a node waits in an outage.
const PATIENCE: Duration = Duration::from_secs(150);

/// Fails where one of the secrets is anywhere but in the signals of this workflow, which the
/// server keeps in its own database.
async fn only_in_signals(stack: &Stack, id: &str, secrets: &[String]) -> anyhow::Result<()> {
    let searched = stack.search(secrets).await?;
    let history = format!("history of {id} ");
    let elsewhere = searched
        .found_in()
        .iter()
        .filter(|place| !(place.starts_with(&history) || place.contains("temporal.db")));
    assert_eq!(elsewhere.collect::<Vec<_>>(), [""; 0]);
    let mut others = Searcher::new(secrets)?;
    for event in events(&stack.temporal, id).await? {
        if event.event_type() != EventType::WorkflowExecutionSignaled {
            others.look(event.event_type().as_str_name(), &event.encode_to_vec());
        }
    }
    assert_eq!(others.found_in(), [""; 0]);
    Ok(())
}

fn payload(encoding: &str, data: impl Into<Vec<u8>>) -> Payload {
    Payload {
        metadata: [("encoding".to_owned(), encoding.as_bytes().to_vec())].into(),
        data: data.into(),
        ..Payload::default()
    }
}

/// Signals that no handler was made for, each with the secret in it.
fn malformed(secret: &str) -> Vec<Vec<Payload>> {
    let filled = format!("{secret}{}", "x".repeat(1024 * 1024));
    vec![
        vec![json_payload(&secret), json_payload(&secret)],
        vec![payload("binary/plain", secret)],
        vec![payload("json/plain", format!("{{{secret}"))],
        vec![json_payload(&json!({ "token": secret }))],
        vec![json_payload(&json!([secret]))],
        vec![json_payload(&filled)],
        vec![payload("binary/encrypted", secret)],
        vec![payload("", secret)],
        vec![json_payload(&secret)],
        vec![json_payload(&format!("xylem1.{secret}"))],
        vec![json_payload(&format!("xylem1.{secret}.{secret}.{secret}"))],
    ]
}

#[tokio::test]
async fn malformed_signals_and_queries_are_quoted_nowhere() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let tree = stack.tree("noise").walk(Vec::new()).await?;
    let root = tree.node("");
    root.holds(1, PATIENCE).await?;
    let secret = "acme_malformed_0123456789abcdef";
    let all = malformed(secret);
    for payloads in &all {
        for name in ["apiToken", "apiUrl"] {
            signal(&stack.temporal, root.id(), name, payloads.clone()).await?;
        }
    }
    let sent = u64::try_from(all.len())?;
    let rejected = || async {
        let status = root.ask("apiToken").await?;
        let counts = status["rejected"].as_object().cloned().unwrap_or_default();
        Ok(counts.values().filter_map(Value::as_u64).sum::<u64>())
    };
    eventually("all were counted", rejected, |count| *count == sent).await?;

    // Queries take no arguments; whatever comes with one changes nothing. Nothing secret here: at
    // its debug level, which `xylem` never lets it have, the SDK logs the arguments of queries.
    for name in ["apiToken", "apiUrl", "children"] {
        let plain = query(&stack.temporal, root.id(), name).await?;
        let input = json!({ "unasked": [1] }).to_string();
        let ask = [
            "workflow",
            "query",
            "-w",
            root.id(),
            "--type",
            name,
            "--input",
            &input,
            "--input",
            "7",
            "--output",
            "json",
        ];
        let answer = stack.run_cli(&ask).await?;
        let answer: Value = serde_json::from_str(&answer)?;
        let told = answer["queryResult"].get(0).cloned().unwrap_or_default();
        assert_eq!(told["slots"], plain["slots"], "{name}");
    }

    let audited = || tree.audit("signals_rejected");
    let some = |entries: &Vec<_>| !entries.is_empty();
    eventually_within(PATIENCE, "it is audited", audited, some).await?;
    assert_eq!(root.call("acme.status", "default").await?.version()?, 1);
    only_in_signals(&stack, root.id(), &[secret.to_owned()]).await?;
    stack.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_raw_token_that_is_taken_in_stays_in_its_signal() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let tree = stack.tree("intake").intake(true).walk(Vec::new()).await?;
    let root = tree.node("");
    root.holds(1, PATIENCE).await?;
    let before = events(&stack.temporal, root.id()).await?.len();
    let raw = stack.issue("intake/default@2");
    root.signal("apiToken", &raw.expose_secret()).await?;
    let versions = || tree.status("default");
    let taken = |versions: &Vec<_>| versions.len() == 2;
    eventually_within(PATIENCE, "it is taken in", versions, taken).await?;
    // What the node writes down about it is searched too.
    let marked = || async {
        let events = events(&stack.temporal, root.id()).await?;
        let mut since = events.iter().skip(before);
        Ok(since.any(|event| event.event_type() == EventType::MarkerRecorded))
    };
    eventually("its marker is in the history", marked, |marked| *marked).await?;
    only_in_signals(&stack, root.id(), &[raw.expose_secret().to_owned()]).await?;
    stack.stop().await;
    Ok(())
}
