//! `xylem policy`.

use super::{
    failure::{Exit, Failure},
    output::{absolute, plain, table},
    pages,
    session::Session,
    tree::listed,
};
use std::{
    fs,
    io::{self, Read},
    net::IpAddr,
    path::{Path, PathBuf},
};
use xylem_client::{Client, Error, Timestamp, v1};
use xylem_ids::{AgentId, PolicyName, TaskQueue, ToolName, WorkflowId, WorkflowType};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Write new policies
    ///
    /// A policy says who may do what, and when:
    ///
    ///   {"name": "build-in-office-hours", "effect": "allow", "who": {"roles": ["user"]},
    ///    "what": {"tags": ["build"]}, "actions": ["read", "execute"],
    ///    "when": {"time": [{"zone": "Europe/Berlin", "days": ["mon", "tue", "wed", "thu", "fri"],
    ///                       "from": "08:00", "to": "18:00"}],
    ///             "networks": {"any_of": ["10.0.0.0/8"]}}}
    ///
    /// What no policy allows is denied. Bands (1 to 999, 500 where none is given) decide from the
    /// highest on, a denial beats an allowance within a band, and a denial with "guardrail": true
    /// holds over all of them. docs/policies.md has every condition and more examples.
    #[command(verbatim_doc_comment, after_help = ADD_EXAMPLES)]
    Add(Add),
    /// Change policies: each file holds the whole policy as it shall be
    Update(Update),
    /// Have a policy hold no more
    Retire(Retire),
    /// List policies by name
    List(List),
    /// Show a policy, and what it says in Cedar
    Show(Show),
    /// Show what policies in Cedar can be about
    Schema,
    /// Ask whether a call would be allowed, and why not
    ///
    /// Nothing is counted and nothing happens. What is left out is not known, and what is not known
    /// never helps. The status is 0 where the call would be allowed and 3 where not.
    #[command(after_help = CHECK_EXAMPLES)]
    Check(Box<Check>),
}

const ADD_EXAMPLES: &str = "\
Examples:
  xylem policy check --agent release-bot --tool acme.deploy --with deploy-prod.json
  xylem policy add --file deploy-prod.json";

const CHECK_EXAMPLES: &str = "\
Examples:
  xylem policy check --agent release-bot --tool acme.deploy
  xylem policy check --tool acme.deploy --at 2026-11-22T14:00:00Z --parameters call.json
  xylem policy check --tool acme.deploy --with new-policy.json";

#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    /// A JSON file with one policy or a list of them; `-` is standard input
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Update {
    /// A JSON file with one policy or a list of them; `-` is standard input
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// The version that is replaced: another one is refused
    #[arg(long, value_name = "VERSION")]
    expect: Option<u32>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Retire {
    /// Its name
    name: PolicyName,
    /// The version that is retired: another one is refused
    #[arg(long, value_name = "VERSION")]
    expect: Option<u32>,
    /// Why; for the audit log
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    reason: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Those that hold no more, too
    #[arg(long)]
    all: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// Its name
    name: PolicyName,
    /// An older version
    #[arg(long)]
    version: Option<u32>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// Who would call; the owner of the API key where it is left out
    #[arg(long)]
    agent: Option<AgentId>,
    /// read, execute, admin or reveal
    #[arg(long, default_value = "execute")]
    action: String,
    /// The tool
    #[arg(long)]
    tool: ToolName,
    /// The workflow id of the tree's root
    #[arg(long, value_name = "WORKFLOW_ID")]
    tree: Option<WorkflowId>,
    /// When: a time such as 2026-01-31T12:00:00Z; now where it is left out
    #[arg(long, value_name = "TIME", value_parser = super::audit::time)]
    at: Option<Timestamp>,
    /// Where the caller would be
    #[arg(long, value_name = "IP")]
    from: Option<IpAddr>,
    /// With a second factor
    #[arg(long)]
    second_factor: bool,
    /// How old the token would be
    #[arg(long, value_name = "DURATION", value_parser = super::duration)]
    token_age: Option<std::time::Duration>,
    /// A JSON file with the parameters of the call
    #[arg(long, value_name = "FILE")]
    parameters: Option<PathBuf>,
    /// The type of the calling workflow
    #[arg(long, value_name = "TYPE")]
    workflow_type: Option<WorkflowType>,
    /// The task queue it would call on
    #[arg(long, value_name = "QUEUE")]
    queue: Option<TaskQueue>,
    /// A JSON file with one policy, as if it were stored, too; for who may write policies
    #[arg(long, value_name = "FILE")]
    with: Option<PathBuf>,
}

pub(crate) async fn run(command: Command, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        Command::Add(arguments) => add(arguments, session).await,
        Command::Update(arguments) => update(arguments, session).await,
        Command::Retire(arguments) => retire(arguments, session).await,
        Command::List(arguments) => list(arguments, session).await,
        Command::Show(arguments) => show(arguments, session).await,
        Command::Schema => schema(session).await,
        Command::Check(arguments) => check(*arguments, session).await,
    }
}

async fn add(arguments: Add, session: &mut Session<'_>) -> Result<(), Failure> {
    let policies = policies(&read(&arguments.file)?)?;
    let client = session.client().await?;
    let mut stored = Vec::with_capacity(policies.len());
    for policy in policies {
        let name = plain(&policy.name);
        let record = client.create_policy(policy).await;
        stored.push(record.map_err(|error| Failure::from(error).about(&name))?);
    }
    told("wrote", &stored, session)
}

async fn update(arguments: Update, session: &mut Session<'_>) -> Result<(), Failure> {
    let policies = policies(&read(&arguments.file)?)?;
    if arguments.expect.is_some() && policies.len() > 1 {
        return Err(Failure::usage(
            "--expect is about one policy, and the file holds several",
        ));
    }
    let client = session.client().await?;
    let mut stored = Vec::with_capacity(policies.len());
    for policy in policies {
        let name = plain(&policy.name);
        let record = client.update_policy(policy, arguments.expect).await;
        stored.push(record.map_err(|error| Failure::from(error).about(&name))?);
    }
    told("updated", &stored, session)
}

async fn retire(arguments: Retire, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let Retire {
        name,
        expect,
        reason,
    } = arguments;
    let retired = client.retire_policy(&name, expect, &reason).await?;
    told("retired", &vec![retired], session)
}

fn told(
    done: &str,
    records: &Vec<v1::PolicyRecord>,
    session: &mut Session<'_>,
) -> Result<(), Failure> {
    session.output.answer(records, |records| {
        let line = |record: &v1::PolicyRecord| format!("{done} {}", reference(record));
        records.iter().map(line).collect::<Vec<_>>().join("\n")
    })?;
    Ok(())
}

fn reference(record: &v1::PolicyRecord) -> String {
    let name = record.policy.as_ref().map(|policy| plain(&policy.name));
    format!("{}@{}", name.unwrap_or_default(), record.version)
}

fn read(path: &Path) -> Result<String, Failure> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().lock().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(path)
    };
    text.map_err(|error| {
        let what = format!("cannot read {}: {error}", path.display());
        Failure::new(Exit::Failed, what)
    })
}

/// One policy or a list of them.
fn policies(text: &str) -> Result<Vec<v1::Policy>, Failure> {
    let value: serde_json::Value = serde_json::from_str(text)
        .map_err(|error| Failure::usage(format!("the file is not JSON: {error}")))?;
    let list = match value {
        serde_json::Value::Array(list) => list,
        one => vec![one],
    };
    if list.is_empty() {
        return Err(Failure::usage("the file holds no policy"));
    }
    let numbered = list.into_iter().enumerate();
    numbered
        .map(|(at, policy)| {
            let read = serde_json::from_value(policy);
            read.map_err(|error| Failure::usage(format!("policy {} of the file: {error}", at + 1)))
        })
        .collect()
}

async fn list(arguments: List, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let records = all(&client, arguments.all).await?;
    let empty = "no policies: nothing is allowed; `xylem policy add --file FILE` writes one";
    listed(session.output, &records, empty, |records| {
        let head = [
            "POLICY",
            "PLACE",
            "EFFECT",
            "WHO",
            "WHAT",
            "ACTIONS",
            "DESCRIPTION",
        ];
        table(head, records.iter().map(row).collect())
    })
}

/// Every policy, also those that hold no more where `retired` says so.
pub(crate) async fn all(client: &Client, retired: bool) -> Result<Vec<v1::PolicyRecord>, Error> {
    pages::all(async |page_token| {
        let request = v1::ListPoliciesRequest {
            include_retired: retired,
            page_size: Some(pages::SIZE),
            page_token,
        };
        let page = client.list_policies(request).await?;
        Ok((page.policies, page.next_page_token))
    })
    .await
}

fn row(record: &v1::PolicyRecord) -> [String; 7] {
    let policy = record.policy.clone().unwrap_or_default();
    let place = match policy.band {
        _ if record.retired => "retired".to_owned(),
        _ if policy.guardrail => "guardrail".to_owned(),
        band => format!("band {}", band.unwrap_or(500)),
    };
    let inherited = |text: String| match (text.is_empty(), policy.inherits.as_str()) {
        (true, "") if !policy.cedar.is_empty() => "cedar".to_owned(),
        (true, parent) if !parent.is_empty() => format!("as {}", plain(parent)),
        _ => plain(&text),
    };
    let who = policy.who.clone().unwrap_or_default();
    let who = if who.anyone {
        vec!["anyone".to_owned()]
    } else {
        [who.agents, who.roles].concat()
    };
    let what = policy.what.clone().unwrap_or_default();
    let what = if what.all {
        vec!["all".to_owned()]
    } else {
        [what.tools, what.tags].concat()
    };
    [
        reference(record),
        place,
        inherited(policy.effect.clone()),
        inherited(who.join(" ")),
        inherited(what.join(" ")),
        inherited(policy.actions.join(" ")),
        plain(&policy.description),
    ]
}

async fn show(arguments: Show, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let record = client
        .get_policy(&arguments.name, arguments.version)
        .await?;
    session.output.answer(&record, |record| {
        let policy = serde_json::to_string_pretty(&record.policy).unwrap_or_default();
        let state = if record.retired {
            ", holds no more"
        } else {
            ""
        };
        let (reference, author) = (reference(record), plain(&record.author));
        let at = absolute(record.changed_at.as_ref());
        let mut text = format!("{reference}, written by {author} at {at}{state}\n{policy}");
        if !record.compiled.is_empty() {
            text.push_str("\n\nIn Cedar:\n");
            text.push_str(&record.compiled);
        }
        text
    })?;
    Ok(())
}

async fn schema(session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let schema = client.policy_schema().await?;
    session.output.answer(&schema, Clone::clone)?;
    Ok(())
}

async fn check(arguments: Check, session: &mut Session<'_>) -> Result<(), Failure> {
    let with = arguments.with.as_deref().map(|path| {
        let mut policies = policies(&read(path)?)?;
        match policies.len() {
            1 => Ok(policies.remove(0)),
            _ => Err(Failure::usage("--with takes a file with one policy")),
        }
    });
    let parameters = arguments.parameters.as_deref().map(read).transpose()?;
    let ask = request_command(&arguments);
    let text = |given: Option<String>| given.unwrap_or_default();
    let request = v1::CheckAccessRequest {
        agent: text(arguments.agent.map(String::from)),
        action: arguments.action,
        tool: arguments.tool.into(),
        tree: text(arguments.tree.map(String::from)),
        at: arguments.at,
        address: text(arguments.from.map(|address| address.to_string())),
        second_factor: arguments.second_factor,
        token_age: arguments.token_age.map(Into::into),
        signed_in: None,
        parameters_json: text(parameters),
        workflow_type: text(arguments.workflow_type.map(String::from)),
        task_queue: text(arguments.queue.map(String::from)),
        with: with.transpose()?,
    };
    let client = session.client().await?;
    let answer = client.check_access(request).await?;
    session
        .output
        .answer(&answer, |answer| check_text(answer, &ask))?;
    if answer.allowed {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Refused,
        format!("it would be refused: {}", plain(&answer.reason)),
    ))
}

/// What decides is marked; conditions that fail come first.
fn check_text(answer: &v1::CheckAccessResponse, ask: &str) -> String {
    let verdict = if answer.allowed { "allowed" } else { "refused" };
    let mut lines = vec![format!("{verdict}: {}", plain(&answer.message))];
    for finding in &answer.findings {
        let applies = match (finding.broken, finding.applies) {
            (true, _) => "broken",
            (_, true) => "applies",
            (_, false) => "does not apply",
        };
        let decides = if finding.policy == answer.policy {
            "  <- decides"
        } else {
            ""
        };
        let (place, policy, effect) = (&finding.place, plain(&finding.policy), &finding.effect);
        lines.push(format!("  {place}: {policy} ({effect}) {applies}{decides}"));
        let mut conditions: Vec<&v1::PolicyCondition> = finding.conditions.iter().collect();
        conditions.sort_by_key(|condition| condition.holds);
        for condition in conditions {
            let mark = if condition.holds { "holds" } else { "fails" };
            let found = condition
                .found
                .as_deref()
                .map_or_else(|| "not known".to_owned(), plain);
            let (kind, rule) = (&condition.kind, plain(&condition.rule));
            lines.push(format!("      {mark}  {kind}: {rule} (found: {found})"));
        }
    }
    match answer.reason.as_str() {
        "approval_required" => {
            let name = answer.policy.split('@').next().unwrap_or_default();
            lines.push(format!("ask for it:  {ask} --policy {}", plain(name)));
        }
        "no_policy" => lines.push(format!("ask for it:  {ask}")),
        _ => {}
    }
    lines.join("\n")
}

/// The command that asks for what would be refused.
fn request_command(arguments: &Check) -> String {
    let mut command = format!("xylem access request --tool {}", arguments.tool);
    if let Some(agent) = &arguments.agent {
        command.push_str(&format!(" --agent {agent}"));
    }
    if arguments.action != "execute" {
        command.push_str(&format!(" --action {}", plain(&arguments.action)));
    }
    command.push_str(" --reason TEXT");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_in_a_file_is_named() {
        for (text, named) in [
            ("{", "not JSON"),
            ("[]", "no policy"),
            (r#"[{"name":"a"},{"nome":"b"}]"#, "policy 2"),
            (r#"{"name":"a","when":{"tyme":[]}}"#, "tyme"),
        ] {
            let failure = policies(text).expect_err(text);
            assert_eq!(failure.exit, Exit::Usage);
            assert!(failure.to_string().contains(named), "{failure}");
        }
    }

    #[test]
    fn a_check_names_the_command_that_asks_for_access() {
        let answer = |reason: &str, policy: &str| v1::CheckAccessResponse {
            reason: reason.into(),
            message: "why".into(),
            policy: policy.into(),
            ..v1::CheckAccessResponse::default()
        };
        let ask = "xylem access request --tool acme.deploy --reason TEXT";
        assert_eq!(
            check_text(&answer("approval_required", "deploy-prod@3"), ask),
            "refused: why\nask for it:  xylem access request --tool acme.deploy --reason TEXT --policy deploy-prod"
        );
        assert!(check_text(&answer("no_policy", ""), ask).ends_with(ask));
        assert_eq!(check_text(&answer("guardrail", "g@1"), ask), "refused: why");
    }

    #[test]
    fn a_check_says_what_decides_and_what_fails() {
        let condition = |kind: &str, holds, rule: &str, found: Option<&str>| v1::PolicyCondition {
            kind: kind.into(),
            holds,
            rule: rule.into(),
            found: found.map(Into::into),
        };
        let answer = v1::CheckAccessResponse {
            allowed: false,
            reason: "guardrail".into(),
            message: "the guardrail weekend-freeze@1 denies it".into(),
            policy: "weekend-freeze@1".into(),
            findings: vec![
                v1::PolicyFinding {
                    policy: "weekend-freeze@1".into(),
                    place: "guardrail".into(),
                    effect: "deny".into(),
                    applies: true,
                    broken: false,
                    conditions: vec![condition(
                        "time",
                        true,
                        "sat sun 00:00-24:00 Europe/Berlin",
                        Some("sun 14:03 Europe/Berlin"),
                    )],
                },
                v1::PolicyFinding {
                    policy: "deploy-prod@3".into(),
                    place: "band 700".into(),
                    effect: "allow".into(),
                    applies: false,
                    broken: false,
                    conditions: vec![
                        condition("token_age", true, "at most 30days", Some("1h")),
                        condition("parameters", false, "/region must be one of eu-1", None),
                    ],
                },
            ],
        };
        assert_eq!(
            check_text(&answer, ""),
            "refused: the guardrail weekend-freeze@1 denies it\n\
             \u{20} guardrail: weekend-freeze@1 (deny) applies  <- decides\n\
             \u{20}     holds  time: sat sun 00:00-24:00 Europe/Berlin (found: sun 14:03 Europe/Berlin)\n\
             \u{20} band 700: deploy-prod@3 (allow) does not apply\n\
             \u{20}     fails  parameters: /region must be one of eu-1 (found: not known)\n\
             \u{20}     holds  token_age: at most 30days (found: 1h)"
        );
    }
}
