//! Permission: an agent is refused, sees why and asks; somebody else approves, and the call that has
//! waited goes on.

use crate::{
    ledger::Ledger,
    process::{self, REFUSED},
    progress::Progress,
    stack::Stack,
};
use anyhow::{Context, Result};
use secrecy::SecretString;
use serde::Serialize;
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use xylem::data;
use xylem_client::{Client, Deposit, InitialToken, StartTree, v1};
use xylem_ids::Slot;

/// Who needs permission, who gives it, and for what.
const AGENT: &str = "intern";
const APPROVER: &str = "approver";
const TOOL: &str = "acme.deploy";
const TREE: &str = "intern-1";
const REQUIRED: &str = "approval_required";
/// Under this, `xylem` remembers who is signed in.
const SIGNED_IN: &str = "XDG_STATE_HOME";

/// The worker of `xylem dev` asks again every 10 seconds.
const PATIENCE: Duration = Duration::from_secs(90);

/// What became of it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Permission {
    /// The agent without permission.
    pub(crate) agent: String,
    /// How often it was refused for want of an approval.
    pub(crate) refused: usize,
    /// What `xylem policy check` says.
    pub(crate) why: Vec<String>,
    /// Who approved.
    pub(crate) approved_by: String,
    /// Calls of the agent's workflow that were answered then.
    pub(crate) calls: usize,
}

/// Shows it on a tree of the agent's own. Its token comes with the answer: it must not be found
/// anywhere either.
pub(crate) async fn show(stack: &Stack, progress: &Progress) -> Result<(Permission, SecretString)> {
    progress.step("an agent that has no permission starts a workflow");
    let key = enrol(stack, AGENT, "user").await?;
    let approver = sign_in(stack, APPROVER, "policy-admin").await?;
    stack.client.create_policy(policy()?).await?;
    let token = stack.acme.issue(AGENT).await?;
    start(stack, &key, &token).await?;

    let mut ledger = Ledger::new(stack.client.clone(), TREE);
    let begin = ledger.mark();
    let ask = async || {
        ledger.read_on().await?;
        Ok(ledger
            .of_node(TREE, begin)
            .1
            .get(REQUIRED)
            .copied()
            .unwrap_or(0))
    };
    progress
        .until("refusals of its call", 1, PATIENCE, ask)
        .await?;

    progress.step("xylem policy check, access request and access approve");
    let check = ["policy", "check", "--agent", AGENT, "--tool", TOOL];
    let why = process::run_to("xylem policy check", stack.xylem(&check)?, REFUSED).await?;
    let reason = ["--reason", "the release needs it", "--output", "json"];
    let request = ["access", "request", "--tool", TOOL, "--for", "1h"];
    let agent = ("XYLEM_KEY_FILE", key.as_path());
    let asked = run_as(stack, agent, &[&request[..], &reason[..]].concat()).await?;
    let id = asked["id"].as_str().context("the request has no id")?;
    let approve = ["access", "approve", id];
    let approver = (SIGNED_IN, approver.as_path());
    let approved = run_as(stack, approver, &[&approve[..], &reason[..]].concat()).await?;

    let ask = async || {
        ledger.read_on().await?;
        Ok(ledger.calls_of(TREE))
    };
    progress
        .until("calls since it was approved", 1, PATIENCE, ask)
        .await?;
    let refused = ledger.of_node(TREE, begin).1.remove(REQUIRED);
    let permission = Permission {
        agent: AGENT.to_owned(),
        refused: refused.unwrap_or(0),
        why: why.lines().map(str::to_owned).collect(),
        approved_by: approved["decidedBy"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        calls: ledger.calls_of(TREE),
    };
    Ok((permission, token))
}

/// The agent may call the tool once somebody approves.
fn policy() -> Result<v1::Policy> {
    let policy = json!({
        "name": "interns-deploy",
        "description": "Interns deploy when somebody has looked at it",
        "effect": "allow",
        "requiresApproval": true,
        "who": { "agents": [AGENT] },
        "what": { "tools": [TOOL] },
        "actions": ["execute"],
    });
    Ok(serde_json::from_value(policy)?)
}

/// Registers a bot and makes it a key.
async fn enrol(stack: &Stack, agent: &str, role: &str) -> Result<PathBuf> {
    create(stack, agent, "bot", role).await?;
    let key = stack.directory().join(format!("{agent}.key"));
    let mut command = stack.xylem(&["key", "create", "--agent", agent, "--to"])?;
    command.arg(&key);
    process::run("xylem key create", command).await?;
    Ok(key)
}

/// Invites a person, who accepts and signs in. The approver is one: a bot counts as whoever made it,
/// and nobody approves their own. Answers where their `xylem` remembers that they are signed in.
async fn sign_in(stack: &Stack, person: &str, role: &str) -> Result<PathBuf> {
    create(stack, person, "user", role).await?;
    let invitation = stack.directory().join(format!("{person}.invitation"));
    let mut invite = stack.xylem(&["agent", "invite", person, "--to"])?;
    invite.arg(&invitation);
    process::run("xylem agent invite", invite).await?;
    // It is random, and good for nothing once it was accepted: so it serves as the password.
    let mut register = stack.xylem(&["account", "register", person, "--invitation-file"])?;
    register.arg(&invitation);
    register.arg("--password-file").arg(&invitation);
    process::run("xylem account register", register).await?;
    let state = stack.directory().join(person);
    let mut login = stack.xylem(&["login", person, "--password-file"])?;
    login.arg(&invitation).env(SIGNED_IN, &state);
    process::run("xylem login", login).await?;
    Ok(state)
}

async fn create(stack: &Stack, agent: &str, kind: &str, role: &str) -> Result<()> {
    let create = ["agent", "create", agent, "--kind", kind, "--role", role];
    process::run("xylem agent create", stack.xylem(&create)?).await?;
    Ok(())
}

/// Starts a workflow of the agent's own that calls the tool once.
async fn start(stack: &Stack, key: &Path, token: &SecretString) -> Result<()> {
    let steps = json!([{
        "tool": TOOL,
        "parameters": { "service": "mail", "environment": "staging" },
    }]);
    let client = Client::connect(&stack.endpoints.control_plane, &data::read_secret(key)?).await?;
    let deposit = Deposit {
        token: token.clone(),
        audiences: vec![stack.acme.url().parse()?],
        ttl: None,
        allow_short: false,
        request_id: String::new(),
    };
    let start = StartTree {
        workflow_id: TREE.parse()?,
        workflow_type: "ToolTree".parse()?,
        task_queue: stack.endpoints.task_queue.parse()?,
        input_json: json!({ "steps": steps, "rounds": 1 }).to_string(),
        tokens: vec![InitialToken {
            slot: Slot::default_slot(),
            deposit,
        }],
        tools: [TOOL.parse()?].into(),
        intake: Some(false),
        request_id: String::new(),
    };
    client
        .start_tree(start)
        .await
        .context("starting the agent's tree")?;
    Ok(())
}

/// What a command answers to somebody other than the administrator.
async fn run_as(stack: &Stack, who: (&str, &Path), arguments: &[&str]) -> Result<Value> {
    let mut command: Command = stack.xylem(arguments)?;
    command.env(who.0, who.1);
    let name = arguments[..2].join(" ");
    let answer = process::run(&format!("xylem {name}"), command).await?;
    Ok(serde_json::from_str(&answer)?)
}
