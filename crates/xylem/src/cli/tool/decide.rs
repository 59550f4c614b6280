//! Deciding about tools that exist.

use super::show::{approved_by, standing};
use crate::cli::{failure::Failure, output::plain, session::Session};
use serde_json::json;
use xylem_client::{Client, v1};
use xylem_ids::ToolName;

/// So many digits of a hash name a definition among those of one tool.
const SHORT_HASH: usize = 12;

#[derive(Debug, clap::Args)]
pub(crate) struct Approve {
    /// The tool's name
    name: ToolName,
    /// The hash of the definition that was read, or its first 12 digits or more
    #[arg(long)]
    hash: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Reject {
    /// The tool's name
    name: ToolName,
    /// Why, for the publisher and the audit log
    #[arg(long)]
    reason: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Retire {
    /// The tool's name
    name: ToolName,
    /// Keep trees that use it already from calling it too
    #[arg(long)]
    stop_calls: bool,
}

pub(crate) async fn approve(arguments: Approve, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let read = client.get_tool(&arguments.name, None).await?;
    if arguments.hash.len() < SHORT_HASH || !read.hash.starts_with(&arguments.hash) {
        return Err(Failure::usage(format!(
            "that is not the hash of the latest definition: `xylem tool show {}` shows it; give its \
             first {SHORT_HASH} digits or more",
            arguments.name
        )));
    }
    told(&client, client.approve_tool(&read).await?, session).await
}

pub(crate) async fn reject(arguments: Reject, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let read = client.get_tool(&arguments.name, None).await?;
    let rejected = client.reject_tool(&read, &arguments.reason).await?;
    told(&client, rejected, session).await
}

pub(crate) async fn revert(name: &ToolName, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    told(&client, client.revert_tool(name).await?, session).await
}

pub(crate) async fn retire(arguments: Retire, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let retired = client.retire_tool(&arguments.name, arguments.stop_calls);
    told(&client, retired.await?, session).await
}

pub(crate) async fn delete(name: &ToolName, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    client.delete_tool(name).await?;
    session.output.answer(&json!({ "name": name }), |_| {
        format!("deleted {}", plain(name.as_str()))
    })?;
    Ok(())
}

async fn told(client: &Client, tool: v1::Tool, session: &mut Session<'_>) -> Result<(), Failure> {
    let by = approved_by(client, std::slice::from_ref(&tool)).await;
    session.output.answer(&tool, |tool| standing(tool, by))?;
    Ok(())
}
