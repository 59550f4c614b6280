//! `xylem tree`.

use super::{
    draw,
    failure::{Exit, Failure},
    output::{Format, Output, plain, relative, slot_at, table},
    secret::TokenSource,
    session::Session,
};
use futures::StreamExt;
use serde::Serialize;
use std::{path::PathBuf, time::Duration};
use xylem_client::{Deposit, InitialToken, StartTree, v1};
use xylem_ids::{AgentId, Audience, Slot, TaskQueue, ToolName, WorkflowId, WorkflowType};
use xylem_workflows::ToolTreeInput;

/// The shipped workflow type.
const TOOL_TREE: &str = "ToolTree";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Start a tree: deposit its token and start its root workflow
    ///
    /// The shipped workflow `ToolTree` is described by its input:
    ///
    ///   {"steps": [{"tool": "acme.status", "parameters": {}}], "rounds": 10, "pauseMs": 500,
    ///    "children": [{"name": "a", "node": {…}, "selection": "all"}]}
    ///
    /// Every node calls its steps one after the other, round after round, with a pause after each
    /// round, and has children of the same kind. Without `rounds` it goes on, and without `steps` it
    /// waits, until it is stopped. ToolTree must be given an input; `{}` is one.
    ///
    /// A root of another type whose input is missing or not what it takes fails its first task
    /// again and again, until `xylem tree stop --terminate` ends it.
    #[command(verbatim_doc_comment, after_help = START_EXAMPLE)]
    Start(Box<Start>),
    /// List trees, newest first
    List(List),
    /// Draw a tree: its workflows and the version each holds
    Show(Show),
    /// Follow a tree until every workflow holds the newest token
    ///
    /// Draws it again whenever it has changed; with --output json, one line per look.
    Watch(Watch),
    /// Stop a tree: nothing is redeemed any more, and every workflow ends
    ///
    /// The status is 1 where workflows still run at the end of --wait. The tree redeems nothing any
    /// more all the same; repeat the command, or add --terminate.
    Stop(Stop),
    /// Allow a tree more tools, or withdraw some
    Allow(Allow),
    /// Give a tree another owner: the agent under whose identity it acts
    Transfer(Transfer),
}

const START_EXAMPLE: &str = "\
Example:
  xylem tree start --workflow-id train-1 --type ToolTree \\
    --input '{\"steps\": [{\"tool\": \"acme.status\"}], \"pauseMs\": 500, \"children\": [{\"name\": \"a\"}]}' \\
    --tool acme.status --audience https://api.acme.example --token-file v1.token";

#[derive(Debug, clap::Args)]
pub(crate) struct Start {
    /// The root's workflow id; the tree is named by it
    #[arg(long, short, value_name = "ID")]
    workflow_id: WorkflowId,
    /// The root's workflow type
    #[arg(long = "type", short = 't', value_name = "TYPE")]
    workflow_type: WorkflowType,
    /// The root's task queue [default: that of the data directory's worker, else xylem]
    #[arg(long, short = 'q', value_name = "QUEUE")]
    task_queue: Option<TaskQueue>,
    /// The root's input, as JSON
    #[arg(long, short, value_name = "JSON", conflicts_with = "input_file")]
    input: Option<String>,
    /// A file with the root's input, as JSON
    #[arg(long, value_name = "FILE")]
    input_file: Option<PathBuf>,
    /// A tool that the tree may call; can be repeated. It may call no other
    #[arg(long = "tool", value_name = "NAME")]
    tools: Vec<ToolName>,
    /// Take raw tokens that are signalled to the root: they lie in its history then [default: true
    /// with `xylem dev`, else false]
    #[arg(long, value_name = "BOOL")]
    intake: Option<bool>,
    /// The token's slot
    #[arg(long, default_value_t = Slot::default_slot())]
    slot: Slot,
    /// Start without a token; `xylem token set` brings one later
    #[arg(long, conflicts_with_all = ["token_stdin", "token_file", "token_env", "audiences"])]
    no_token: bool,
    #[command(flatten)]
    deposit: DepositArguments,
}

/// A token and where it may go.
#[derive(Debug, clap::Args)]
pub(crate) struct DepositArguments {
    #[command(flatten)]
    source: TokenSource,
    /// An origin, optionally with a path prefix, to which the token may be sent, such as
    /// https://api.acme.example/v2; can be repeated
    #[arg(long = "audience", value_name = "URL")]
    pub(crate) audiences: Vec<Audience>,
    /// How long the token may be used, at least 10s, such as 12h [default: as long as the tree
    /// lives]
    #[arg(long, value_name = "DURATION", value_parser = super::duration)]
    ttl: Option<Duration>,
    /// Take a token of fewer than 16 characters: answers are searched for it less surely
    #[arg(long)]
    allow_short: bool,
}

impl DepositArguments {
    /// Reads the token.
    pub(crate) fn deposit(self) -> Result<Deposit, Failure> {
        Ok(Deposit {
            token: self.source.read()?,
            audiences: self.audiences,
            ttl: self.ttl,
            allow_short: self.allow_short,
            request_id: String::new(),
        })
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// At most so many
    #[arg(long, default_value_t = 50, value_name = "COUNT")]
    limit: usize,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The root's workflow id
    tree: WorkflowId,
    /// Show closed workflows too, as far as Temporal remembers them
    #[arg(long)]
    closed: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Watch {
    /// The root's workflow id
    tree: WorkflowId,
    /// How long to rest between two looks, 100ms to 60s
    #[arg(long, default_value = "1s", value_name = "DURATION", value_parser = super::duration)]
    interval: Duration,
    /// Go on after the tree has converged, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Stop {
    /// The root's workflow id
    tree: WorkflowId,
    /// Terminate the workflows instead of asking them to cancel
    #[arg(long)]
    terminate: bool,
    /// Said to Temporal and in the audit log
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// How long to wait until nothing runs, at most 60s
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = super::duration)]
    wait: Duration,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Allow {
    /// The root's workflow id
    tree: WorkflowId,
    /// A tool that it may call too from now on; can be repeated
    #[arg(value_name = "TOOL", required_unless_present = "withdraw")]
    tools: Vec<ToolName>,
    /// A tool that it may call no more; can be repeated
    #[arg(long, value_name = "TOOL")]
    withdraw: Vec<ToolName>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Transfer {
    /// The root's workflow id
    tree: WorkflowId,
    /// The agent that owns it from now on
    #[arg(long, value_name = "AGENT")]
    to: AgentId,
}

pub(crate) async fn run(command: Command, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        Command::Start(arguments) => start(*arguments, session).await,
        Command::List(arguments) => list(arguments, session).await,
        Command::Show(arguments) => show(arguments, session).await,
        Command::Watch(arguments) => watch(arguments, session).await,
        Command::Stop(arguments) => stop(arguments, session).await,
        Command::Allow(arguments) => allow(arguments, session).await,
        Command::Transfer(arguments) => transfer(arguments, session).await,
    }
}

async fn start(arguments: Start, session: &mut Session<'_>) -> Result<(), Failure> {
    let input_json = input(arguments.input, arguments.input_file)?;
    if arguments.workflow_type.as_str() == TOOL_TREE {
        tool_tree(&input_json)?;
    }
    let task_queue = match arguments.task_queue {
        Some(queue) => queue,
        None => standard_queue(session)?,
    };
    let mut tokens = Vec::new();
    if !arguments.no_token {
        if arguments.deposit.audiences.is_empty() {
            return Err(Failure::usage("where may the token be sent?")
                .hint("name at least one origin with --audience, or start with --no-token"));
        }
        tokens.push(InitialToken {
            slot: arguments.slot,
            deposit: arguments.deposit.deposit()?,
        });
    }
    let start = StartTree {
        workflow_id: arguments.workflow_id,
        workflow_type: arguments.workflow_type,
        task_queue,
        input_json,
        tokens,
        tools: arguments.tools,
        intake: arguments.intake,
        request_id: String::new(),
    };
    let tree = session.client().await?.start_tree(start).await?;
    session.output.answer(&tree, |tree| {
        let id = id(tree);
        format!("started {id}\n`xylem tree show {id}` draws it")
    })?;
    Ok(())
}

/// Reads and checks the root's input.
fn input(text: Option<String>, file: Option<PathBuf>) -> Result<String, Failure> {
    let text = match file {
        Some(path) => std::fs::read_to_string(&path)
            .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?,
        None => text.unwrap_or_default(),
    };
    if !text.is_empty() && serde_json::from_str::<serde::de::IgnoredAny>(&text).is_err() {
        return Err(Failure::usage("the input is not JSON")
            .hint("a string needs its quotation marks: --input '\"text\"'"));
    }
    Ok(text)
}

/// Checks what only a worker would see, task after task.
fn tool_tree(input: &str) -> Result<(), Failure> {
    const HINT: &str = "`xylem tree start --help` shows an input; {} is a tree of one workflow \
                        that waits until it is stopped";
    if input.is_empty() {
        return Err(
            Failure::usage("ToolTree needs an input: use --input or --input-file").hint(HINT),
        );
    }
    serde_json::from_str::<ToolTreeInput>(input)
        .map(drop)
        .map_err(|error| {
            Failure::usage(format!("ToolTree takes no such input: {error}")).hint(HINT)
        })
}

fn standard_queue(session: &Session<'_>) -> Result<TaskQueue, Failure> {
    let endpoints = session.access.endpoints()?;
    let queue = endpoints.map_or_else(|| "xylem".to_owned(), |endpoints| endpoints.task_queue);
    queue
        .parse()
        .map_err(|_| Failure::usage("the data directory names no task queue: use --task-queue"))
}

async fn list(arguments: List, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let mut trees = Vec::new();
    let mut page_token = String::new();
    while trees.len() < arguments.limit {
        let most = (arguments.limit - trees.len()).min(200);
        let request = v1::ListTreesRequest {
            page_size: Some(u32::try_from(most).unwrap_or(200)),
            page_token,
        };
        let page = client.list_trees(request).await?;
        trees.extend(page.trees);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if !page_token.is_empty() {
        session.output.note("there are more: name another --limit");
    }
    let now = session.output.now();
    session.output.answer(&trees, |trees| {
        if trees.is_empty() {
            return "no trees yet: `xylem tree start` starts one".to_owned();
        }
        let row = |tree: &v1::Tree| {
            [
                id(tree),
                draw::tree_state(tree).to_owned(),
                tokens(tree),
                plain(&tree.tools.join(" ")),
                plain(&tree.started_by),
                relative(tree.started_at.as_ref(), now),
            ]
        };
        let head = ["TREE", "STATE", "TOKENS", "TOOLS", "BY", "STARTED"];
        table(head, trees.iter().map(row).collect())
    })?;
    Ok(())
}

async fn show(arguments: Show, session: &mut Session<'_>) -> Result<(), Failure> {
    let request = v1::GetTreeRequest {
        tree: arguments.tree.to_string(),
        include_closed: arguments.closed,
        skip_queries: false,
    };
    let view = session.client().await?.get_tree(request).await?;
    session.output.answer(&view, draw::tree)?;
    Ok(())
}

async fn watch(arguments: Watch, session: &mut Session<'_>) -> Result<(), Failure> {
    let request = v1::WatchTreeRequest {
        tree: arguments.tree.to_string(),
        interval: Some(wire(arguments.interval)),
        keep_watching: arguments.keep,
    };
    let views = session.client().await?.watch_tree(request).await?;
    futures::pin_mut!(views);
    let mut shown = String::new();
    while let Some(view) = views.next().await {
        let view = view?;
        shown = redraw(session.output, &view, &shown)?;
    }
    Ok(())
}

/// Shows what has changed: the whole tree as JSON, one per line; for people the drawing, where it
/// is another one than before.
fn redraw(output: &mut Output, view: &v1::TreeView, shown: &str) -> Result<String, Failure> {
    let drawing = draw::tree(view);
    if output.format() == Format::Json || drawing != shown {
        output.answer(view, |_| format!("{drawing}\n\n"))?;
    }
    Ok(drawing)
}

async fn stop(arguments: Stop, session: &mut Session<'_>) -> Result<(), Failure> {
    let request = v1::StopTreeRequest {
        tree: arguments.tree.to_string(),
        terminate: arguments.terminate,
        reason: arguments.reason,
        wait: Some(wire(arguments.wait)),
    };
    let stopped = session.client().await?.stop_tree(request).await?;
    let tree = arguments.tree;
    session.output.answer(&stopped, |stopped| {
        let did = if arguments.terminate {
            "terminated"
        } else {
            "asked to cancel"
        };
        format!("{tree}: {} {did}", workflows(stopped.stopped))
    })?;
    if stopped.still_running == 0 {
        return Ok(());
    }
    let running = workflows(stopped.still_running);
    let verb = if stopped.still_running == 1 {
        "runs"
    } else {
        "run"
    };
    let advice = if arguments.terminate {
        "repeat the command, with a longer --wait"
    } else {
        "repeat the command, with a longer --wait, or add --terminate"
    };
    let what = format!("{running} still {verb}; {tree} redeems nothing any more");
    Err(Failure::new(Exit::Failed, what).hint(advice))
}

fn workflows(count: u32) -> String {
    match count {
        1 => "1 workflow".to_owned(),
        count => format!("{count} workflows"),
    }
}

async fn allow(arguments: Allow, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let Allow {
        tree,
        tools,
        withdraw,
    } = arguments;
    let mut changed = None;
    if !withdraw.is_empty() {
        changed = Some(client.withdraw_tools(&tree, withdraw).await?);
    }
    if !tools.is_empty() {
        changed = Some(client.allow_tools(&tree, tools).await?);
    }
    let tree = changed.ok_or_else(|| Failure::usage("no tool is named"))?;
    session.output.answer(&tree, |tree| {
        let id = id(tree);
        match tree.tools.is_empty() {
            true => format!("{id} may call no tool"),
            false => format!("{id} may call {}", plain(&tree.tools.join(", "))),
        }
    })?;
    Ok(())
}

async fn transfer(arguments: Transfer, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let tree = client.transfer_tree(&arguments.tree, &arguments.to).await?;
    session.output.answer(&tree, |tree| {
        format!("{} belongs to {}", id(tree), plain(&tree.started_by))
    })?;
    Ok(())
}

/// A tree's name.
fn id(tree: &v1::Tree) -> String {
    let id = tree.id.as_ref();
    id.map(|id| plain(&id.workflow_id)).unwrap_or_default()
}

fn tokens(tree: &v1::Tree) -> String {
    if tree.tokens.is_empty() {
        return "-".to_owned();
    }
    let token = |token: &v1::TokenVersion| slot_at(&token.slot, token.order);
    tree.tokens.iter().map(token).collect::<Vec<_>>().join(" ")
}

/// A duration as the contract has it.
pub(crate) fn wire(duration: Duration) -> xylem_client::Duration {
    xylem_client::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// One page after the other was asked for; the answer is one list.
pub(crate) fn listed<T: Serialize>(
    output: &mut Output,
    items: &Vec<T>,
    empty: &str,
    text: impl FnOnce(&Vec<T>) -> String,
) -> Result<(), Failure> {
    output.answer(items, |items| match items.is_empty() {
        true => empty.to_owned(),
        false => text(items),
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{draw, output::tests::seen};

    #[test]
    fn input_must_be_json() {
        assert_eq!(input(None, None).expect("none"), "");
        assert_eq!(input(Some("[1]".into()), None).expect("JSON"), "[1]");
        let failure = input(Some("text".into()), None).expect_err("not JSON");
        assert!(failure.to_string().contains("quotation marks"));
    }

    #[test]
    fn what_the_shipped_workflow_cannot_read_is_refused_before_it_starts() {
        for good in [
            "{}",
            r#"{"steps":[{"tool":"a.b"}],"children":[{"name":"a"}]}"#,
        ] {
            tool_tree(good).expect(good);
        }
        for (bad, named) in [("", "--input"), (r#"{"step":[]}"#, "step")] {
            let failure = tool_tree(bad).expect_err(bad);
            assert_eq!(failure.exit, Exit::Usage);
            assert!(failure.to_string().contains(named), "{failure}");
        }
    }

    #[test]
    fn the_same_drawing_is_not_shown_again() {
        let (mut output, out, _) = seen(Format::Text);
        let view = draw::tests::view();
        let shown = redraw(&mut output, &view, "").expect("shown");
        let once = out.text();
        redraw(&mut output, &view, &shown).expect("shown");
        assert_eq!(out.text(), once);
    }

    #[test]
    fn json_is_one_view_per_line() {
        let (mut output, out, _) = seen(Format::Json);
        let view = draw::tests::view();
        for _ in 0..2 {
            redraw(&mut output, &view, "").expect("shown");
        }
        let lines: Vec<v1::TreeView> = out
            .text()
            .lines()
            .map(|line| serde_json::from_str(line).expect("a view"))
            .collect();
        assert_eq!(lines, [view.clone(), view]);
    }
}
