//! `xylem agent`.

use super::{
    failure::{Exit, Failure},
    key::not_written_over,
    output::{plain, relative, table},
    pages,
    session::Session,
    tree::listed,
};
use crate::data;
use clap::ArgGroup;
use futures::StreamExt;
use secrecy::ExposeSecret;
use serde_json::json;
use std::{
    io::{self, IsTerminal},
    slice,
    time::SystemTime,
};
use xylem_client::{Client, v1};
use xylem_ids::AgentId;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Register an agent; `xylem key create` gives it a key
    Create(Create),
    /// List agents by name
    List,
    /// Show an agent; everybody may look at their own
    Show(Show),
    /// Give an agent other roles; they count from its next call on
    Update(Update),
    /// Invite an agent of the kind user to choose a password, its first or another one
    Invite(Invite),
    /// Take the second factor from an agent that has lost it, and its password with it
    ///
    /// Its sessions end; `xylem agent invite` lets it choose another password.
    ResetSecondFactor(ResetSecondFactor),
    /// Retire an agent for good: its next call is refused, its trees wait for another owner
    Retire(Retire),
    /// Write everything that is kept about an agent to standard output, one line of JSON each
    ///
    /// Its record, account, sessions and keys without their secrets, what the watch has seen of it, and
    /// every entry of the audit log about it. Everybody may have their own; that it was asked for is an
    /// entry in the audit log.
    Export(Export),
    /// Erase what is known of a retired agent, for good
    ///
    /// Password, second factor, keys, sessions, requests for access, what the watch has seen of it, and
    /// the addresses and notes in its entries of the audit log, which stays whole. Its name stays, as
    /// one that is not used again. Backups keep what they have until they are deleted: see
    /// docs/privacy.md.
    Erase(Erase),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The agent
    name: AgentId,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// The agent
    name: AgentId,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Erase {
    /// The agent
    name: AgentId,
    /// Do not ask for the name again
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ResetSecondFactor {
    /// The agent
    name: AgentId,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Invite {
    /// The agent
    name: AgentId,
    /// Write the invitation to this new file, readable for you alone, instead of showing it
    #[arg(long, value_name = "FILE")]
    to: Option<std::path::PathBuf>,
}

/// What an agent may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    /// Manages agents, keys and every tree
    Admin,
    /// Proposes tools, and looks after its own
    ToolPublisher,
    /// Says who may call what, and approves tools
    PolicyAdmin,
    /// Starts trees and looks after its own
    User,
    /// Redeems grants for activities on its task queues; has no other role
    Worker,
    /// Reads everything, changes nothing
    Auditor,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::ToolPublisher => "tool-publisher",
            Self::PolicyAdmin => "policy-admin",
            Self::User => "user",
            Self::Worker => "worker",
            Self::Auditor => "auditor",
        }
    }
}

impl Role {
    pub(crate) fn id(self) -> xylem_ids::Role {
        match self {
            Self::Admin => xylem_ids::Role::Admin,
            Self::ToolPublisher => xylem_ids::Role::ToolPublisher,
            Self::PolicyAdmin => xylem_ids::Role::PolicyAdmin,
            Self::User => xylem_ids::Role::User,
            Self::Worker => xylem_ids::Role::Worker,
            Self::Auditor => xylem_ids::Role::Auditor,
        }
    }
}

impl From<Role> for v1::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Admin => Self::Admin,
            Role::ToolPublisher => Self::ToolPublisher,
            Role::PolicyAdmin => Self::PolicyAdmin,
            Role::User => Self::User,
            Role::Worker => Self::Worker,
            Role::Auditor => Self::Auditor,
        }
    }
}

/// What kind of identity an agent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// A person
    User,
    /// A program that runs for itself
    Service,
    /// Something that acts for others without a person at it: a build, an agent workflow
    Bot,
}

impl From<Kind> for v1::AgentKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::User => Self::User,
            Kind::Service => Self::Service,
            Kind::Bot => Self::Bot,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// The agent's name
    name: AgentId,
    /// What it may do; can be repeated
    #[arg(long = "role", value_enum, required = true)]
    roles: Vec<Role>,
    /// What kind of identity it is
    #[arg(long, value_enum, default_value = "service")]
    kind: Kind,
}

#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("change").args(["add_role", "remove_role", "kind"]).required(true).multiple(true)))]
pub(crate) struct Update {
    /// The agent's name
    name: AgentId,
    /// A role that it gets; can be repeated
    #[arg(long, value_enum, value_name = "ROLE")]
    add_role: Vec<Role>,
    /// A role that it loses; can be repeated
    #[arg(long, value_enum, value_name = "ROLE")]
    remove_role: Vec<Role>,
    /// What kind of identity it is from now on
    #[arg(long, value_enum)]
    kind: Option<Kind>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Retire {
    /// The agent's name; it is not used again
    name: AgentId,
}

pub(crate) async fn run(command: Command, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        Command::Create(arguments) => create(arguments, session).await,
        Command::List => list(session).await,
        Command::Show(arguments) => show(&arguments.name, session).await,
        Command::Update(arguments) => update(arguments, session).await,
        Command::Invite(arguments) => invite(arguments, session).await,
        Command::ResetSecondFactor(arguments) => reset(&arguments.name, session).await,
        Command::Retire(arguments) => retire(arguments, session).await,
        Command::Export(arguments) => export(&arguments.name, session).await,
        Command::Erase(arguments) => erase(arguments, session).await,
    }
}

async fn create(arguments: Create, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let Create { name, roles, kind } = arguments;
    let agent = register(&client, &name, kind, &roles).await?;
    let next = match kind {
        Kind::User => format!("`xylem agent invite {name}` lets them choose a password"),
        Kind::Service | Kind::Bot => format!("`xylem key create --agent {name}` gives it a key"),
    };
    let text = format!("registered {name}\n{next}");
    session.output.answer(&agent, |_| text)?;
    Ok(())
}

pub(crate) async fn register(
    client: &Client,
    name: &AgentId,
    kind: Kind,
    roles: &[Role],
) -> Result<v1::Agent, xylem_client::Error> {
    let request = v1::CreateAgentRequest {
        name: name.to_string(),
        roles: roles
            .iter()
            .map(|role| v1::Role::from(*role).into())
            .collect(),
        kind: v1::AgentKind::from(kind).into(),
    };
    client.create_agent(request).await
}

async fn update(arguments: Update, session: &mut Session<'_>) -> Result<(), Failure> {
    let codes = |roles: Vec<Role>| {
        let codes = roles.into_iter().map(|role| v1::Role::from(role).into());
        codes.collect()
    };
    let request = v1::UpdateAgentRequest {
        name: arguments.name.to_string(),
        add_roles: codes(arguments.add_role),
        remove_roles: codes(arguments.remove_role),
        kind: arguments
            .kind
            .map_or(0, |kind| v1::AgentKind::from(kind).into()),
    };
    let agent = session.client().await?.update_agent(request).await?;
    session.output.answer(&agent, |agent| {
        let roles = role_names(agent.roles());
        match roles.is_empty() {
            true => format!("{} has no role", plain(&agent.name)),
            false => format!("{} is {roles}", plain(&agent.name)),
        }
    })?;
    Ok(())
}

async fn invite(arguments: Invite, session: &mut Session<'_>) -> Result<(), Failure> {
    let Invite { name, to } = arguments;
    not_written_over(to.as_deref())?;
    let client = session.client().await?;
    let (secret, ends) = client.invite_agent(&name).await?;
    let next = format!("`xylem account register {name} --invitation-file FILE`, within three days");
    if let Some(path) = to {
        data::write_secret(&path, &secret)?;
        let answer = json!({ "agent": name, "expiresAt": ends, "file": path });
        let text = format!("an invitation for {name} is in {}\n{next}", path.display());
        session.output.answer(&answer, |_| text)?;
        return Ok(());
    }
    let note = format!("an invitation for {name}; it is not shown again: {next}");
    session.output.note(&note);
    let secret = secret.expose_secret();
    let answer = json!({ "agent": name, "expiresAt": ends, "secret": secret });
    session.output.answer_once(&answer, |_| secret.to_owned())
}

async fn reset(name: &AgentId, session: &mut Session<'_>) -> Result<(), Failure> {
    session.client().await?.reset_second_factor(name).await?;
    let text = format!(
        "{name} has no second factor and no password any more; `xylem agent invite {name}` lets it \
         choose another one"
    );
    session.output.answer(&json!({ "agent": name }), |_| text)?;
    Ok(())
}

async fn retire(arguments: Retire, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let agent = client.retire_agent(&arguments.name).await?;
    session.output.answer(&agent, |agent| {
        let name = plain(&agent.name);
        format!(
            "retired {name}; `xylem tree transfer TREE --to AGENT` gives its trees another owner"
        )
    })?;
    Ok(())
}

async fn export(name: &AgentId, session: &mut Session<'_>) -> Result<(), Failure> {
    let lines = session.client().await?.export_agent_data(name).await?;
    futures::pin_mut!(lines);
    while let Some(line) = lines.next().await {
        session.output.raw(&line?)?;
    }
    Ok(())
}

async fn erase(arguments: Erase, session: &mut Session<'_>) -> Result<(), Failure> {
    let Erase { name, yes } = arguments;
    if !yes {
        confirm(&name, session)?;
    }
    let agent = session.client().await?.erase_agent(&name).await?;
    session.output.answer(&agent, |agent| {
        let name = plain(&agent.name);
        format!("erased what was known of {name}; backups keep it until they are deleted")
    })?;
    Ok(())
}

/// Whoever erases types the name once more: nothing brings it back.
fn confirm(name: &AgentId, session: &mut Session<'_>) -> Result<(), Failure> {
    let given = if io::stdin().is_terminal() {
        let asked = "this cannot be undone: type the name of the agent once more";
        session.output.note(asked);
        let mut line = String::new();
        io::stdin().read_line(&mut line).is_ok().then_some(line)
    } else {
        None
    };
    if given.is_some_and(|given| given.trim() == name.as_str()) {
        return Ok(());
    }
    let what = "nothing was erased: the name was not confirmed";
    Err(Failure::new(Exit::Usage, what).hint("type it when you are asked, or add --yes"))
}

/// Every agent, by name.
pub(crate) async fn all(client: &Client) -> Result<Vec<v1::Agent>, xylem_client::Error> {
    pages::all(async |page_token| {
        let request = v1::ListAgentsRequest {
            page_size: Some(pages::SIZE),
            page_token,
        };
        let page = client.list_agents(request).await?;
        Ok((page.agents, page.next_page_token))
    })
    .await
}

async fn list(session: &mut Session<'_>) -> Result<(), Failure> {
    let agents = all(&session.client().await?).await?;
    let now = session.output.now();
    let empty = "no agents yet: `xylem agent create NAME --role ROLE` registers one";
    listed(session.output, &agents, empty, |agents| shown(agents, now))
}

async fn show(name: &AgentId, session: &mut Session<'_>) -> Result<(), Failure> {
    let agent = session.client().await?.get_agent(name).await?;
    let now = session.output.now();
    let text = |agent: &v1::Agent| shown(slice::from_ref(agent), now);
    session.output.answer(&agent, text)?;
    Ok(())
}

fn shown(agents: &[v1::Agent], now: SystemTime) -> String {
    let row = |agent: &v1::Agent| {
        [
            plain(&agent.name),
            kind_name(agent.kind()).to_owned(),
            role_names(agent.roles()),
            relative(agent.created_at.as_ref(), now),
            relative(agent.retired_at.as_ref(), now),
            subject(agent),
        ]
    };
    let head = ["AGENT", "KIND", "ROLES", "CREATED", "RETIRED", "SUBJECT"];
    table(head, agents.iter().map(row).collect())
}

/// Who it is at its identity provider.
fn subject(agent: &v1::Agent) -> String {
    match agent.issuer.as_str() {
        "" => "-".to_owned(),
        issuer => plain(&format!("{} at {issuer}", agent.subject)),
    }
}

/// Roles in words.
pub(crate) fn role_names(roles: impl Iterator<Item = v1::Role>) -> String {
    let name = |role| match role {
        v1::Role::Unspecified => "-",
        v1::Role::Admin => "admin",
        v1::Role::ToolPublisher => "tool-publisher",
        v1::Role::PolicyAdmin => "policy-admin",
        v1::Role::User => "user",
        v1::Role::Worker => "worker",
        v1::Role::Auditor => "auditor",
    };
    roles.map(name).collect::<Vec<_>>().join(" ")
}

fn kind_name(kind: v1::AgentKind) -> &'static str {
    match kind {
        v1::AgentKind::Unspecified => "-",
        v1::AgentKind::User => "user",
        v1::AgentKind::Service => "service",
        v1::AgentKind::Bot => "bot",
    }
}
