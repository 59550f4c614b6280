//! A credential that is kept, on the whole stack: a provider whose tokens live for seconds, and a
//! tree that works all the time.

use anyhow::Context;
use secrecy::ExposeSecret;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use temporalio_client::{
    NamespacedClient, WorkflowExecutionInfo, WorkflowFetchHistoryOptions, WorkflowHistory,
};
use temporalio_sdk::workflow_replayer::{WorkflowReplayer, WorkflowReplayerOptions};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use xylem_client::{StartTree, v1};
use xylem_control::{CONTROL_QUEUE, TokenKeeper};
use xylem_testkit::{Stack, branch, eventually, working};

const CLIENT_SECRET: &str = "canary-client-secret-4f2a";
/// Which request meets an outage, counted from 0.
const OUTAGE: usize = 1;

/// Answers each request with the next token, which lives for 18 seconds as the control plane counts.
async fn provider(tokens: Vec<String>) -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/token", listener.local_addr()?);
    let (tokens, asked) = (Arc::new(tokens), Arc::new(AtomicUsize::new(0)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tokens, asked) = (Arc::clone(&tokens), Arc::clone(&asked));
            tokio::spawn(async move { answer(stream, &tokens, &asked).await });
        }
    });
    Ok(url)
}

async fn answer(
    mut stream: TcpStream,
    tokens: &[String],
    asked: &AtomicUsize,
) -> anyhow::Result<()> {
    let mut request = Vec::new();
    while !is_whole(&request) {
        let mut part = [0; 4096];
        let read = stream.read(&mut part).await?;
        anyhow::ensure!(read > 0, "the request broke off");
        request.extend_from_slice(&part[..read]);
    }
    let number = asked.fetch_add(1, Ordering::SeqCst);
    let (status, body) = if number == OUTAGE {
        ("503 Service Unavailable", String::new())
    } else {
        let next = if number > OUTAGE { number - 1 } else { number };
        let token = tokens.get(next).context("no token left")?;
        let body = format!(r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":24}}"#);
        ("200 OK", body)
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    Ok(stream.shutdown().await?)
}

/// Whether the head and as much body as it announces have come.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length = length.and_then(|length| length.trim().parse().ok());
    body.len() >= length.unwrap_or(0)
}

fn credential(stack: &Stack, url: String) -> v1::CreateCredentialRequest {
    v1::CreateCredentialRequest {
        name: "acme".to_owned(),
        audiences: vec![stack.acme.url()],
        oauth: Some(v1::OAuth {
            token_url: url,
            client_id: "xylem".to_owned(),
            revoke_old: true,
            ..v1::OAuth::default()
        }),
        ..v1::CreateCredentialRequest::default()
    }
}

async fn is_used(stack: &Stack, label: &str) -> anyhow::Result<()> {
    let count = || async {
        let stats = stack.acme.stats();
        let of_label = stats.iter().filter(|stats| stats.label == label);
        Ok(of_label.map(|stats| stats.calls).sum::<u64>())
    };
    eventually(&format!("calls with {label}"), count, |seen| *seen > 0).await?;
    Ok(())
}

async fn history(stack: &Stack, id: &str) -> anyhow::Result<Vec<u8>> {
    let run = WorkflowExecutionInfo::builder()
        .namespace(stack.temporal.namespace())
        .workflow_id(id)
        .run_id("")
        .build();
    let handle = run.bind_untyped(stack.temporal.clone());
    let history = handle.fetch_history(WorkflowFetchHistoryOptions::default());
    Ok(history.to_json().await?)
}

#[tokio::test]
async fn tokens_that_live_for_seconds_are_renewed_through_an_outage_and_old_ones_are_revoked()
-> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let tokens = (1..=20).map(|number| stack.issue(&format!("acme@{number}")));
    let tokens: Vec<_> = tokens
        .map(|token| token.expose_secret().to_owned())
        .collect();
    let url = provider(tokens.clone()).await?;
    let control = &stack.control;
    let made = credential(&stack, url);
    control
        .create_credential(made, &CLIENT_SECRET.into())
        .await?;
    let binding = v1::BindCredentialRequest {
        name: "acme".to_owned(),
        workflow_type: "ToolTree".to_owned(),
        ..v1::BindCredentialRequest::default()
    };
    control.bind_credential(binding).await?;
    let input = working(vec![branch("a", Vec::new())]);
    let start = StartTree {
        workflow_id: "train".parse()?,
        workflow_type: "ToolTree".parse()?,
        task_queue: stack.task_queue().parse()?,
        input_json: serde_json::to_string(&input)?,
        tokens: Vec::new(),
        tools: vec!["acme.status".parse()?],
        intake: None,
        request_id: String::new(),
    };
    control.start_tree(start).await?;
    for label in ["acme@1", "acme@2", "acme@3"] {
        is_used(&stack, label).await?;
    }
    let first = || async {
        let credential = control.get_credential("acme").await?;
        let versions = credential.versions.into_iter();
        let first = versions.filter(|version| version.version == 1);
        Ok(first.map(|version| version.state()).collect::<Vec<_>>())
    };
    let revoked = |seen: &Vec<_>| *seen == [v1::VersionState::Revoked];
    eventually("version 1 is revoked", first, revoked).await?;

    let history = history(&stack, "xylem-keeper/acme").await?;
    let text = String::from_utf8_lossy(&history).into_owned();
    for secret in tokens.iter().map(String::as_str).chain([CLIENT_SECRET]) {
        assert!(
            !text.contains(secret),
            "a secret is in the keeper's history"
        );
    }
    let options = WorkflowReplayerOptions::new()
        .namespace("default")
        .task_queue(CONTROL_QUEUE)
        .register_workflow::<TokenKeeper>()?
        .build();
    let recorded = WorkflowHistory::from_json(&history)?;
    WorkflowReplayer::new(options)?
        .replay_workflow(recorded)
        .await?;
    stack.stop().await;
    Ok(())
}
