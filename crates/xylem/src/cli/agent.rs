//! `xylem agent`.

use super::{
    failure::Failure,
    output::{plain, relative, table},
    session::Session,
    tree::listed,
};
use xylem_client::{Client, v1};
use xylem_ids::AgentId;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Register an agent; `xylem key create` gives it a key
    Create(Create),
    /// List agents by name
    List,
}

/// What an agent may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    /// Everything but what workers do
    Admin,
    /// Runs trees and their tokens
    Operator,
    /// Starts trees and rotates their tokens, from a program
    Service,
    /// Redeems grants for activities on its task queues
    Worker,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Service => "service",
            Self::Worker => "worker",
        }
    }
}

impl From<Role> for v1::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Admin => Self::Admin,
            Role::Operator => Self::Operator,
            Role::Service => Self::Service,
            Role::Worker => Self::Worker,
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
}

pub(crate) async fn run(command: Command, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        Command::Create(arguments) => create(arguments, session).await,
        Command::List => list(session).await,
    }
}

async fn create(arguments: Create, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let Create { name, roles } = arguments;
    let agent = register(&client, &name, &roles).await?;
    session.output.answer(&agent, |_| {
        format!("registered {name}\n`xylem key create --agent {name}` gives it a key")
    })?;
    Ok(())
}

pub(crate) async fn register(
    client: &Client,
    name: &AgentId,
    roles: &[Role],
) -> Result<v1::Agent, xylem_client::Error> {
    let request = v1::CreateAgentRequest {
        name: name.to_string(),
        roles: roles
            .iter()
            .map(|role| v1::Role::from(*role).into())
            .collect(),
    };
    client.create_agent(request).await
}

/// Every agent, by name.
pub(crate) async fn all(client: &Client) -> Result<Vec<v1::Agent>, xylem_client::Error> {
    let mut agents = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListAgentsRequest {
            page_size: Some(200),
            page_token,
        };
        let page = client.list_agents(request).await?;
        agents.extend(page.agents);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(agents);
        }
    }
}

async fn list(session: &mut Session<'_>) -> Result<(), Failure> {
    let agents = all(&session.client().await?).await?;
    let now = session.output.now();
    let empty = "no agents yet: `xylem agent create NAME --role ROLE` registers one";
    listed(session.output, &agents, empty, |agents| {
        let row = |agent: &v1::Agent| {
            [
                plain(&agent.name),
                role_names(agent.roles()),
                relative(agent.created_at.as_ref(), now),
            ]
        };
        let head = ["AGENT", "ROLES", "CREATED"];
        table(head, agents.iter().map(row).collect())
    })
}

/// Roles in words.
pub(crate) fn role_names(roles: impl Iterator<Item = v1::Role>) -> String {
    let name = |role| match role {
        v1::Role::Unspecified => "-",
        v1::Role::Admin => "admin",
        v1::Role::Operator => "operator",
        v1::Role::Service => "service",
        v1::Role::Worker => "worker",
    };
    roles.map(name).collect::<Vec<_>>().join(" ")
}
