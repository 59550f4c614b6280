//! `xylem key`.

use super::{
    agent::{self, Kind, Role},
    failure::{Exit, Failure},
    output::{plain, relative, table},
    pages,
    session::Session,
    tree::listed,
};
use crate::data;
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use xylem_client::{Client, NewKey, v1};
use xylem_ids::{AgentId, Scope, TaskQueue};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make an API key and show it, this once
    #[command(after_help = CREATE_EXAMPLE)]
    Create(Create),
    /// List keys, without their values
    List(List),
    /// Replace a key by one that is good for the same; the old one goes on working for a while
    Rotate(Rotate),
    /// Revoke a key for good
    Revoke(Revoke),
}

const CREATE_EXAMPLE: &str = "\
Examples:
  xylem key create --role worker --task-queue deploys --to worker.key
  xylem key create --agent ci --role user --scope trees --ttl 90d --to ci.key";

#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Whose it is to be [default: an agent named after the role]
    #[arg(long, required_unless_present = "role", value_name = "NAME")]
    agent: Option<AgentId>,
    /// Registers the agent in this role, if there is none of that name
    #[arg(long, value_enum)]
    role: Option<Role>,
    /// A task queue it serves; workers only; can be repeated
    #[arg(long = "task-queue", short = 'q', value_name = "QUEUE")]
    task_queues: Vec<TaskQueue>,
    /// What it is narrowed to, such as trees or tokens:read; can be repeated [default: everything that
    /// the agent's roles give]
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<Scope>,
    /// How long it works, such as 90d [default: 90d]
    #[arg(long, value_name = "DURATION", value_parser = super::duration)]
    ttl: Option<Duration>,
    /// It works until it is revoked
    #[arg(long, conflicts_with = "ttl")]
    never_expires: bool,
    /// What people call it
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    name: String,
    /// A network it works from, such as 192.0.2.0/24; can be repeated [default: any]
    #[arg(long = "network", value_name = "CIDR")]
    networks: Vec<IpNet>,
    /// Write the key to this new file, readable for you alone, instead of showing it
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only keys of this agent
    #[arg(long, value_name = "NAME")]
    agent: Option<AgentId>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Rotate {
    /// The key's id, as `xylem key list` shows it
    #[arg(allow_hyphen_values = true)]
    id: String,
    /// How long the old one goes on working, such as 1h; 7 days at most [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = super::duration)]
    overlap: Option<Duration>,
    /// Write the key to this new file, readable for you alone, instead of showing it
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Revoke {
    /// The key's id, as `xylem key list` shows it
    #[arg(allow_hyphen_values = true)]
    id: String,
}

pub(crate) async fn run(command: Command, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        Command::Create(arguments) => create(arguments, session).await,
        Command::List(arguments) => list(arguments, session).await,
        Command::Rotate(arguments) => rotate(arguments, session).await,
        Command::Revoke(arguments) => revoke(arguments, session).await,
    }
}

async fn create(arguments: Create, session: &mut Session<'_>) -> Result<(), Failure> {
    not_written_over(arguments.to.as_deref())?;
    let client = session.client().await?;
    let agent = owner(&client, arguments.agent, arguments.role).await?;
    let new = NewKey {
        agent,
        task_queues: arguments.task_queues,
        scopes: arguments.scopes,
        ttl: arguments.ttl,
        name: arguments.name,
        networks: arguments.networks,
        never_expires: arguments.never_expires,
    };
    let (secret, key) = client.create_api_key(new).await?;
    hand_out(session, &secret, &key, arguments.to)
}

async fn rotate(arguments: Rotate, session: &mut Session<'_>) -> Result<(), Failure> {
    not_written_over(arguments.to.as_deref())?;
    let client = session.client().await?;
    let rotated = client.rotate_api_key(&arguments.id, arguments.overlap);
    let (secret, key) = rotated.await?;
    hand_out(session, &secret, &key, arguments.to)
}

pub(crate) fn not_written_over(file: Option<&Path>) -> Result<(), Failure> {
    match file.filter(|path| path.exists()) {
        None => Ok(()),
        Some(path) => {
            let what = format!("{} exists: a key is not written over", path.display());
            Err(Failure::usage(what))
        }
    }
}

/// Shows a new key, or writes it to a file.
fn hand_out(
    session: &mut Session<'_>,
    secret: &SecretString,
    key: &v1::ApiKey,
    file: Option<PathBuf>,
) -> Result<(), Failure> {
    let agent = plain(&key.agent);
    if let Some(path) = file {
        data::write_secret(&path, secret)?;
        let answer = json!({ "key": key, "file": path });
        let text = format!("key {} of {agent} is in {}", plain(&key.id), path.display());
        session.output.answer(&answer, |_| text)?;
        return Ok(());
    }
    let note = format!("key {} of {agent}; it is not shown again:", plain(&key.id));
    session.output.note(&note);
    let secret = secret.expose_secret();
    let answer = json!({ "key": key, "secret": secret });
    session.output.answer_once(&answer, |_| secret.to_owned())
}

/// The agent that is named; one named after the role where none is. It is registered where a role
/// is named and there is no such agent.
async fn owner(
    client: &Client,
    agent: Option<AgentId>,
    role: Option<Role>,
) -> Result<AgentId, Failure> {
    let named = |role: Role| role.name().parse().ok();
    let agent = agent
        .or_else(|| role.and_then(named))
        .ok_or_else(|| Failure::usage("whose key? name an --agent or a --role"))?;
    let Some(role) = role else {
        return Ok(agent);
    };
    match agent::register(client, &agent, Kind::Service, &[role]).await {
        Ok(_) => return Ok(agent),
        Err(xylem_client::Error::Conflict(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let known = agent::all(client).await?;
    let known = known.iter().find(|known| known.name == agent.as_str());
    match known {
        Some(known) if known.roles().eq([role.into()]) => Ok(agent),
        _ => Err(Failure::new(
            Exit::Failed,
            format!("there is an agent {agent} in another role"),
        )
        .hint("leave --role out to make a key in its own role, or name another --agent")),
    }
}

async fn list(arguments: List, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let mut keys = pages::all(async |page_token| {
        let request = v1::ListApiKeysRequest {
            page_size: Some(pages::SIZE),
            page_token,
        };
        let page = client.list_api_keys(request).await?;
        Ok((page.keys, page.next_page_token))
    })
    .await?;
    if let Some(agent) = &arguments.agent {
        keys.retain(|key| key.agent == agent.as_str());
    }
    let now = session.output.now();
    let empty = "no keys: `xylem key create` makes one";
    listed(session.output, &keys, empty, |keys| {
        let row = |key: &v1::ApiKey| {
            [
                plain(&key.id),
                plain(&key.agent),
                plain(&key.name),
                plain(&key.scopes.join(" ")),
                plain(&key.task_queues.join(" ")),
                relative(key.created_at.as_ref(), now),
                relative(key.last_used_at.as_ref(), now),
                relative(key.expires_at.as_ref(), now),
                relative(key.revoked_at.as_ref(), now),
            ]
        };
        let head = [
            "KEY", "AGENT", "NAME", "SCOPES", "QUEUES", "CREATED", "USED", "EXPIRES", "REVOKED",
        ];
        table(head, keys.iter().map(row).collect())
    })
}

async fn revoke(arguments: Revoke, session: &mut Session<'_>) -> Result<(), Failure> {
    let key = session
        .client()
        .await?
        .revoke_api_key(&arguments.id)
        .await?;
    session
        .output
        .answer(&key, |key| format!("revoked {}", plain(&key.id)))?;
    Ok(())
}
