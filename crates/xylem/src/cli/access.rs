//! `xylem access`.

use super::{
    failure::Failure,
    output::{absolute, plain, relative, table},
    pages,
    session::Session,
    tree::listed,
};
use std::time::{Duration, SystemTime};
use xylem_client::v1;
use xylem_ids::{AccessId, AgentId, PolicyName, ToolName};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Ask for access
    ///
    /// Where a policy waits for an approval, the request is for that policy, and its other conditions go
    /// on holding. Where none does, an approval allows what no policy denies. A workflow's call that
    /// waits for an approval is made once there is one.
    #[command(after_help = REQUEST_EXAMPLES)]
    Request(Request),
    /// List requests and approvals, your own where you may not see them all
    List(List),
    /// Show a request, and what became of it
    Show(Show),
    /// Approve a request; nobody approves their own
    Approve(Decide),
    /// Reject a request
    Reject(Decide),
    /// End an approval before its time, or take a request back
    End(Decide),
}

const REQUEST_EXAMPLES: &str = "\
Examples:
  xylem access request --tool acme.deploy --reason \"hotfix 4711\"
  xylem access request --agent release-bot --tool acme.deploy --for 2h --reason \"release 42\"
  xylem access list --pending";

#[derive(Debug, clap::Args)]
pub(crate) struct Request {
    /// Who is to be allowed; the owner of the API key where it is left out
    #[arg(long)]
    agent: Option<AgentId>,
    /// With which tool
    #[arg(long)]
    tool: ToolName,
    /// read, execute, admin or reveal
    #[arg(long, default_value = "execute")]
    action: String,
    /// How long it is to hold from its approval on, 5m to 30d [default: 8h]
    #[arg(long = "for", value_name = "DURATION", value_parser = super::duration)]
    lasts: Option<Duration>,
    /// The policy that waits for an approval, where several do
    #[arg(long, value_name = "NAME")]
    policy: Option<PolicyName>,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Only those that wait to be decided
    #[arg(long)]
    pending: bool,
    /// Only those of this agent: asked by it, or for it
    #[arg(long)]
    agent: Option<AgentId>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The request, as `xylem access list` shows it
    #[arg(allow_hyphen_values = true)]
    id: AccessId,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Decide {
    /// The request, as `xylem access list` shows it
    #[arg(allow_hyphen_values = true)]
    id: AccessId,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(crate) async fn run(command: Command, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        Command::Request(arguments) => request(arguments, session).await,
        Command::List(arguments) => list(arguments, session).await,
        Command::Show(Show { id }) => {
            let client = session.client().await?;
            told(client.get_access_request(&id).await?, session)
        }
        Command::Approve(Decide { id, reason }) => {
            let client = session.client().await?;
            told(client.decide_access(&id, true, &reason).await?, session)
        }
        Command::Reject(Decide { id, reason }) => {
            let client = session.client().await?;
            told(client.decide_access(&id, false, &reason).await?, session)
        }
        Command::End(Decide { id, reason }) => {
            let client = session.client().await?;
            told(client.end_access(&id, &reason).await?, session)
        }
    }
}

async fn request(arguments: Request, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let request = v1::RequestAccessRequest {
        agent: arguments.agent.map(String::from).unwrap_or_default(),
        tool: arguments.tool.into(),
        action: arguments.action,
        policy: arguments.policy.map(String::from).unwrap_or_default(),
        lasts: arguments.lasts.map(Into::into),
        reason: arguments.reason,
    };
    let asked = client.request_access(request).await?;
    if asked.state == "pending" {
        let id = plain(&asked.id);
        let next = format!("somebody else decides: xylem access approve {id} --reason TEXT");
        session.output.note(&next);
    }
    told(asked, session)
}

fn told(access: v1::AccessRequest, session: &mut Session<'_>) -> Result<(), Failure> {
    let now = session.output.now();
    session.output.answer(&access, |access| text(access, now))?;
    Ok(())
}

/// A request and what became of it, a line each.
fn text(access: &v1::AccessRequest, now: SystemTime) -> String {
    let may = format!(
        "{}: {} may {} {}",
        plain(&access.id),
        plain(&access.agent),
        plain(&access.action),
        plain(&access.tool)
    );
    let opened = match access.policy.as_str() {
        "" => "where no policy denies it".to_owned(),
        policy => format!("as the policy {} says", plain(policy)),
    };
    let asked = format!(
        "asked by {} at {}: {}",
        plain(&access.asked_by),
        absolute(access.asked_at.as_ref()),
        plain(&access.reason)
    );
    let mut lines = vec![format!("{may}, {opened}"), asked, state(access, now)];
    if !access.decided_by.is_empty() {
        let alone = if access.single_operator {
            ", their own as the single operator"
        } else {
            ""
        };
        lines.push(format!(
            "decided by {} at {}{alone}: {}",
            plain(&access.decided_by),
            absolute(access.decided_at.as_ref()),
            plain(&access.note)
        ));
    }
    lines.join("\n")
}

fn state(access: &v1::AccessRequest, now: SystemTime) -> String {
    let state = plain(&access.state);
    let ends = relative(access.ends_at.as_ref(), now);
    match access.state.as_str() {
        "pending" => format!("{state}, waits to be decided; expires {ends}"),
        "approved" => format!("{state}; ends {ends}"),
        _ => format!("{state} {ends}"),
    }
}

async fn list(arguments: List, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let agent = arguments.agent.map(String::from).unwrap_or_default();
    let mut requests = pages::all(async |page_token| {
        let request = v1::ListAccessRequestsRequest {
            agent: agent.clone(),
            pending: arguments.pending,
            page_size: Some(pages::SIZE),
            page_token,
        };
        let page = client.list_access_requests(request).await?;
        Ok((page.requests, page.next_page_token))
    })
    .await?;
    // The newest last, where the prompt is.
    requests.sort_by_key(|access| access.asked_at.as_ref().map(|at| at.seconds));
    let now = session.output.now();
    let empty = "no requests: `xylem access request` makes one";
    listed(session.output, &requests, empty, |requests| {
        let head = [
            "ID", "AGENT", "ACTION", "TOOL", "POLICY", "STATE", "ENDS", "ASKED BY", "REASON",
        ];
        let row = |access: &v1::AccessRequest| row(access, now);
        table(head, requests.iter().map(row).collect())
    })
}

fn row(access: &v1::AccessRequest, now: SystemTime) -> [String; 9] {
    let policy = match access.policy.as_str() {
        "" => "-".to_owned(),
        policy => plain(policy),
    };
    [
        plain(&access.id),
        plain(&access.agent),
        plain(&access.action),
        plain(&access.tool),
        policy,
        plain(&access.state),
        relative(access.ends_at.as_ref(), now),
        plain(&access.asked_by),
        plain(&access.reason),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::{
        Format,
        tests::{after, seen},
    };

    #[test]
    fn a_request_is_told_with_what_became_of_it() {
        let (output, ..) = seen(Format::Text);
        let mut access = v1::AccessRequest {
            id: "a1".into(),
            agent: "release-bot".into(),
            tool: "acme.deploy".into(),
            action: "execute".into(),
            policy: "deploy-prod".into(),
            reason: "release 42".into(),
            asked_by: "release-bot".into(),
            asked_at: after(-60),
            state: "pending".into(),
            ends_at: after(7 * 86_400),
            ..v1::AccessRequest::default()
        };
        assert_eq!(
            text(&access, output.now()),
            "a1: release-bot may execute acme.deploy, as the policy deploy-prod says\n\
             asked by release-bot at 2023-11-14T22:12:20.000Z: release 42\n\
             pending, waits to be decided; expires in 7d"
        );
        access.state = "approved".into();
        access.ends_at = after(28_800);
        access.decided_by = "admin".into();
        access.decided_at = after(0);
        access.note = "go\u{1b}[2J".into();
        access.single_operator = true;
        access.policy.clear();
        assert_eq!(
            text(&access, output.now()),
            "a1: release-bot may execute acme.deploy, where no policy denies it\n\
             asked by release-bot at 2023-11-14T22:12:20.000Z: release 42\n\
             approved; ends in 8h\n\
             decided by admin at 2023-11-14T22:13:20.000Z, their own as the single operator: go\u{fffd}[2J"
        );
    }
}
