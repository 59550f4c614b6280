//! What a service does: starts a tree of workflows with a token, rotates it when a new one is
//! there, and waits until the tree has converged. To revoke the old version is for an operator.

use anyhow::{Context, Result, bail};
use clap::Parser;
use futures::TryStreamExt;
use secrecy::SecretString;
use serde_json::json;
use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    pin::pin,
};
use xylem_client::{
    Client, Deposit, InitialToken, StartTree,
    v1::{TokenVersion, WatchTreeRequest},
};
use xylem_ids::{Audience, Slot, WorkflowId};

/// Starts a tree of workflows and rotates its token, over gRPC.
#[derive(Parser)]
struct Options {
    /// The control plane.
    #[arg(long, default_value = "http://127.0.0.1:7243")]
    address: String,
    /// A file with an API key of a user.
    #[arg(long)]
    key_file: PathBuf,
    /// A file with the token to start with.
    #[arg(long)]
    token_file: PathBuf,
    /// A file with the token to rotate to.
    #[arg(long)]
    next_token_file: PathBuf,
    /// Where the tokens may be sent.
    #[arg(long, default_value = "http://127.0.0.1:7420")]
    audience: Audience,
    /// The tree's workflow id.
    #[arg(long, default_value = "over-grpc")]
    tree: WorkflowId,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let key = secret(&options.key_file)?;
    let client = Client::connect(&options.address, &key).await?;
    let service = Service {
        client,
        tree: options.tree,
        slot: Slot::default_slot(),
        audience: options.audience,
    };
    service.start(secret(&options.token_file)?).await?;
    service.converged().await?;
    service.rotate(secret(&options.next_token_file)?).await?;
    service.converged().await
}

/// A secret comes from a file that only its owner reads, never from the command line.
fn secret(path: &Path) -> Result<SecretString> {
    Ok(xylem::data::read_secret(path)?)
}

struct Service {
    client: Client,
    tree: WorkflowId,
    slot: Slot,
    audience: Audience,
}

impl Service {
    /// A root with two children; each calls a tool once a second.
    async fn start(&self, token: SecretString) -> Result<()> {
        let steps = json!([{ "tool": "acme.status" }]);
        let child = |name| json!({ "name": name, "node": { "steps": steps, "pauseMs": 1000 } });
        let input = json!({
            "steps": steps,
            "pauseMs": 1000,
            "children": [child("a"), child("b")],
        });
        let start = StartTree {
            workflow_id: self.tree.clone(),
            workflow_type: "ToolTree".parse()?,
            task_queue: "xylem".parse()?,
            input_json: input.to_string(),
            tokens: vec![InitialToken {
                slot: self.slot.clone(),
                deposit: self.deposit(token),
            }],
            tools: vec!["acme.status".parse()?],
            intake: Some(false),
            request_id: String::new(),
        };
        self.client
            .start_tree(start)
            .await
            .context("starting the tree")?;
        say(&format!("started {}", self.tree))
    }

    fn deposit(&self, token: SecretString) -> Deposit {
        Deposit {
            token,
            audiences: vec![self.audience.clone()],
            ttl: None,
            allow_short: false,
            request_id: String::new(),
        }
    }

    /// Deposits the next version; the one before is superseded at that moment.
    async fn rotate(&self, token: SecretString) -> Result<()> {
        let deposit = self.deposit(token);
        let changed = self
            .client
            .rotate_token(&self.tree, &self.slot, deposit)
            .await;
        let changed = changed.context("rotating the token")?;
        let number = |version: Option<TokenVersion>| {
            let order = version.and_then(|version| version.order);
            order.map_or(0, |order| order.version)
        };
        let (before, now) = (number(changed.superseded), number(changed.version));
        say(&format!("rotated from version {before} to {now}"))
    }

    /// Follows the tree until every workflow has the newest version.
    async fn converged(&self) -> Result<()> {
        let request = WatchTreeRequest {
            tree: self.tree.to_string(),
            ..WatchTreeRequest::default()
        };
        let mut views = pin!(self.client.watch_tree(request).await?);
        while let Some(view) = views.try_next().await? {
            say(&format!("{} current, {} behind", view.current, view.behind))?;
            if view.converged {
                return Ok(());
            }
        }
        bail!("the tree has ended before it converged")
    }
}

fn say(what: &str) -> Result<()> {
    Ok(writeln!(io::stdout(), "{what}")?)
}
