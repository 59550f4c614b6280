//! A credential that is kept, on the whole stack: providers whose tokens live for seconds, and trees
//! that work all the time.

use anyhow::Context;
use secrecy::ExposeSecret;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
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
use xylem_control::{CONTROL_QUEUE, CredentialProviders, Kept, ProviderFields, Step, TokenKeeper};
use xylem_testkit::{Stack, branch, eventually, query, signal, working};

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
    control.bind_credential(binding("acme")).await?;
    start_bound(&stack, "train").await?;
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

    let secrets: Vec<_> = tokens.iter().map(String::as_str).collect();
    told_nothing(&stack, "acme", &[&secrets[..], &[CLIENT_SECRET]].concat()).await?;
    stack.stop().await;
    Ok(())
}

fn binding(credential: &str) -> v1::BindCredentialRequest {
    v1::BindCredentialRequest {
        name: credential.to_owned(),
        workflow_type: "ToolTree".to_owned(),
        ..v1::BindCredentialRequest::default()
    }
}

/// Starts a tree with what is bound to its type.
async fn start_bound(stack: &Stack, id: &str) -> anyhow::Result<()> {
    let input = working(vec![branch("a", Vec::new())]);
    let start = StartTree {
        workflow_id: id.parse()?,
        workflow_type: "ToolTree".parse()?,
        task_queue: stack.task_queue().parse()?,
        input_json: serde_json::to_string(&input)?,
        tokens: Vec::new(),
        tools: vec!["acme.status".parse()?],
        intake: None,
        request_id: String::new(),
    };
    stack.control.start_tree(start).await?;
    Ok(())
}

/// The keeper's history holds no secret, and replays.
async fn told_nothing(stack: &Stack, credential: &str, secrets: &[&str]) -> anyhow::Result<()> {
    let history = history(stack, &format!("xylem-keeper/{credential}")).await?;
    // How histories of keepers are recorded for `replay.rs`.
    if let Some(folder) = std::env::var_os("RECORD_KEEPERS") {
        fs::write(Path::new(&folder).join(credential), &history)?;
    }
    let text = String::from_utf8_lossy(&history).into_owned();
    for secret in secrets {
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
    Ok(())
}

/// Puts a value where it is read, as a whole.
fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    let draft = file.with_extension("new");
    fs::write(&draft, text)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))?;
    Ok(fs::rename(draft, file)?)
}

/// A value that lives for so many seconds.
fn write_ending(file: &Path, token: &str, seconds: u64) -> anyhow::Result<()> {
    let at = SystemTime::now() + Duration::from_secs(seconds);
    let at = humantime::format_rfc3339_seconds(at);
    write(
        file,
        &format!(r#"{{"token":"{token}","expiresAt":"{at}"}}"#),
    )
}

async fn add(stack: &Stack, provider: &str) -> anyhow::Result<()> {
    let made = v1::CreateCredentialRequest {
        name: provider.to_owned(),
        audiences: vec![stack.acme.url()],
        provider: Some(v1::CredentialProvider {
            name: provider.to_owned(),
            ..v1::CredentialProvider::default()
        }),
        ..v1::CreateCredentialRequest::default()
    };
    stack.control.create_credential(made, &"".into()).await?;
    Ok(())
}

/// Waits until the keeper of a credential says so.
async fn keeper(
    stack: &Stack,
    credential: &str,
    says: impl Fn(&Kept) -> bool,
) -> anyhow::Result<()> {
    let id = format!("xylem-keeper/{credential}");
    let asked = || async {
        let told = query(&stack.temporal, &id, "keeper").await?;
        Ok(serde_json::from_value(told)?)
    };
    eventually("the keeper says it", asked, says).await?;
    Ok(())
}

#[tokio::test]
async fn a_file_and_a_command_are_renewed_from_without_a_failed_call() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (file, printed) = (folder.path().join("file"), folder.path().join("printed"));
    let fields = serde_json::json!({
        "file": [{"name": "file", "path": file}],
        "command": [{"name": "command", "command": ["/bin/cat", printed], "format": "json"}],
    });
    let fields: ProviderFields = serde_json::from_value(fields)?;
    let providers = CredentialProviders::try_from(fields).map_err(anyhow::Error::msg)?;
    let stack = Stack::with(|config| config.credential_providers = providers).await?;
    let token = |label: &str| stack.issue(label).expose_secret().to_owned();

    // A file that does not say when its value ends: it is looked at when that is asked for.
    write(&file, &token("file@1"))?;
    add(&stack, "file").await?;
    stack.control.bind_credential(binding("file")).await?;
    start_bound(&stack, "train-of-file").await?;
    is_used(&stack, "file@1").await?;
    write(&file, &token("file@2"))?;
    signal(&stack.temporal, "xylem-keeper/file", "renewNow", Vec::new()).await?;
    is_used(&stack, "file@2").await?;
    keeper(&stack, "file", |kept| {
        kept.version == Some(2) && kept.step == Step::Fine && kept.failure.is_none()
    })
    .await?;

    // A command whose value ends: it is asked before, again where it fails, and in time.
    stack.control.unbind_credential(binding("file")).await?;
    write_ending(&printed, &token("command@1"), 30)?;
    add(&stack, "command").await?;
    stack.control.bind_credential(binding("command")).await?;
    start_bound(&stack, "train-of-command").await?;
    fs::remove_file(&printed)?;
    keeper(&stack, "command", |kept| {
        kept.step == Step::Late && kept.failure.as_deref() == Some("command_failed")
    })
    .await?;
    write_ending(&printed, &token("command@2"), 3_600)?;
    is_used(&stack, "command@2").await?;
    keeper(&stack, "command", |kept| {
        kept.version == Some(2) && kept.step == Step::Fine && kept.failure.is_none()
    })
    .await?;

    let failed = stack.control.list_usage(Default::default()).await?;
    let failures = failed
        .usage
        .iter()
        .map(|usage| usage.failures + usage.denials);
    let failures: u64 = failures.sum();
    assert_eq!(failures, 0, "{failed:?}");
    let refused: u64 = stack.acme.stats().iter().map(|stats| stats.refusals).sum();
    assert_eq!(refused, 0);
    let tokens = stack.issued();
    let tokens: Vec<_> = tokens.iter().map(String::as_str).collect();
    for credential in ["file", "command"] {
        told_nothing(&stack, credential, &tokens).await?;
    }
    stack.stop().await;
    Ok(())
}
