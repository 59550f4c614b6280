//! `xylem audit`.

use super::{
    archives::Archives,
    failure::{Exit, Failure},
    output::{Output, absolute, plain, slot_at},
    session::Session,
    tree::listed,
};
use futures::StreamExt;
use indicatif::ProgressBar;
use serde::Serialize;
use std::{collections::BTreeMap, path::PathBuf, time::SystemTime};
use xylem_client::{Client, Timestamp, v1};
use xylem_ids::{AgentId, Slot, ToolName, WorkflowId};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show entries as they are written, until Ctrl-C
    ///
    /// With --output json, one line per entry.
    Tail(Tail),
    /// List entries, oldest first
    #[command(after_help = LIST_EXAMPLE)]
    List(List),
    /// Write entries to standard output, one line of JSON each, for another system
    ///
    /// That the log was exported is an entry of its own.
    #[command(after_help = EXPORT_EXAMPLE)]
    Export(Export),
    /// Check the whole log: exit status 0 if nothing was edited, 1 if something was
    ///
    /// Names the first entry that is not as it was written, and what happened to it. What was cut off
    /// since the last checkpoint, ten seconds at most, together with the log's end leaves no trace.
    ///
    /// Begins with the first entry that was not archived. Archives are checked here, with --archive, and
    /// that the log goes on where the last of them ends.
    #[command(after_help = VERIFY_EXAMPLE)]
    Verify(Verify),
    /// Archive and drop old entries now
    ///
    /// The control plane does it once a day, where it is told a folder with --audit-archive: entries that
    /// are older than --audit-keep are written to a file there, which is read back before they are
    /// dropped. Prints the files.
    Archive,
}

const VERIFY_EXAMPLE: &str = "\
Examples:
  xylem audit verify
  xylem audit verify --archive /mnt/archive/audit-*.jsonl.gz --public-key audit/checkpoint.jwk
  xylem audit verify --archive audit-*.jsonl.gz --public-key checkpoint.jwk --offline";

const LIST_EXAMPLE: &str = "\
Example:
  xylem audit list --tree train-1 --outcome denied --since 2h";

const EXPORT_EXAMPLE: &str = "\
Examples:
  xylem audit export --since 24h > yesterday.jsonl
  xylem audit export --format ocsf --after 4711 --follow";

/// Which entries.
#[derive(Debug, clap::Args)]
pub(crate) struct Filter {
    /// Only entries about this tree
    #[arg(long, value_name = "ID")]
    tree: Option<WorkflowId>,
    /// Only what this agent did
    #[arg(long, value_name = "NAME")]
    agent: Option<AgentId>,
    /// Only what was done for this agent: by workers, in its trees
    #[arg(long, value_name = "NAME")]
    owner: Option<AgentId>,
    /// Only changes of this, such as agent:svc-7, key:ID, tool:acme.deploy or
    /// policy:deploy-prod@2
    #[arg(long, value_name = "KIND:ID")]
    subject: Option<String>,
    /// Only this action, such as deposit, redeem, outcome or revoke
    #[arg(long)]
    action: Option<String>,
    /// Only this outcome: granted, denied, succeeded or failed
    #[arg(long)]
    outcome: Option<String>,
    /// Only entries about this slot
    #[arg(long)]
    slot: Option<Slot>,
    /// Only entries about this workflow
    #[arg(long, value_name = "ID")]
    workflow_id: Option<WorkflowId>,
    /// Only calls of this tool
    #[arg(long, value_name = "NAME")]
    tool: Option<ToolName>,
    /// Not before: a time such as 2026-01-31T12:00:00Z, or so long ago, such as 2h
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
}

/// A point in time, or how long ago it was.
pub(crate) fn time(text: &str) -> Result<Timestamp, String> {
    let at = match humantime::parse_duration(text) {
        Ok(ago) => SystemTime::now().checked_sub(ago),
        Err(_) => humantime::parse_rfc3339(text).ok(),
    };
    let at = at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    at.map(|since| Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: 0,
    })
    .ok_or_else(|| "expected a time such as 2026-01-31T12:00:00Z, or a duration such as 2h".into())
}

impl From<Filter> for v1::AuditFilter {
    fn from(filter: Filter) -> Self {
        Self {
            tool: filter.tool.map(String::from).unwrap_or_default(),
            since: filter.since,
            until: filter.until,
            tree: filter.tree.map(String::from).unwrap_or_default(),
            agent: filter.agent.map(String::from).unwrap_or_default(),
            action: filter.action.unwrap_or_default(),
            outcome: filter.outcome.unwrap_or_default(),
            slot: filter.slot.map(String::from).unwrap_or_default(),
            workflow_id: filter.workflow_id.map(String::from).unwrap_or_default(),
            owner: filter.owner.map(String::from).unwrap_or_default(),
            subject: filter.subject.unwrap_or_default(),
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Tail {
    #[command(flatten)]
    filter: Filter,
    /// Show so many of the last entries that match first
    #[arg(long, default_value_t = 20, value_name = "COUNT")]
    last: u32,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    filter: Filter,
    /// At most so many, from the oldest
    #[arg(long, default_value_t = 100, value_name = "COUNT")]
    limit: usize,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    #[command(flatten)]
    filter: Filter,
    /// How an entry is written: as this program's own JSON, or as an event of OCSF 1.6.0
    #[arg(long, value_enum, default_value_t = ExportFormat::Jsonl)]
    format: ExportFormat,
    /// Only entries after this one: the id of the last entry you have
    #[arg(long, value_name = "ID")]
    after: Option<u64>,
    /// Go on with what is written from now on, until Ctrl-C
    #[arg(long)]
    follow: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// Archives to check too, in any order
    #[arg(long = "archive", value_name = "FILE", num_args = 1.., requires = "public_key")]
    archives: Vec<PathBuf>,
    /// The public key of the checkpoints, checkpoint.jwk beside the checkpoint file: nothing is taken on
    /// an archive's word
    #[arg(long, value_name = "FILE", requires = "archives")]
    public_key: Option<PathBuf>,
    /// Check the archives alone, without a control plane
    #[arg(long, requires = "archives")]
    offline: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ExportFormat {
    Jsonl,
    Ocsf,
}

pub(crate) async fn run(command: Command, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        Command::Tail(arguments) => tail(arguments, session).await,
        Command::List(arguments) => list(arguments, session).await,
        Command::Export(arguments) => export(arguments, session).await,
        Command::Verify(arguments) => verify(&arguments, session).await,
        Command::Archive => archive(session).await,
    }
}

async fn tail(arguments: Tail, session: &mut Session<'_>) -> Result<(), Failure> {
    let request = v1::TailAuditRequest {
        filter: Some(arguments.filter.into()),
        last: arguments.last,
    };
    let entries = session.client().await?.tail_audit(request).await?;
    futures::pin_mut!(entries);
    while let Some(entry) = entries.next().await {
        session.output.answer(&entry?, line)?;
    }
    Ok(())
}

async fn list(arguments: List, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let filter = v1::AuditFilter::from(arguments.filter);
    let mut entries = Vec::new();
    let mut page_token = String::new();
    while entries.len() < arguments.limit {
        let most = (arguments.limit - entries.len()).min(1_000);
        let request = v1::ListAuditRequest {
            filter: Some(filter.clone()),
            page_size: Some(u32::try_from(most).unwrap_or(1_000)),
            page_token,
        };
        let page = client.list_audit(request).await?;
        if let (Some(archived), true) = (&page.archived, entries.is_empty()) {
            missed(session.output, archived);
        }
        entries.extend(page.entries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if !page_token.is_empty() {
        session
            .output
            .note("there are newer ones: name --since, or another --limit");
    }
    listed(session.output, &entries, "no such entries", |entries| {
        entries.iter().map(line).collect::<Vec<_>>().join("\n")
    })
}

async fn export(arguments: Export, session: &mut Session<'_>) -> Result<(), Failure> {
    let format = match arguments.format {
        ExportFormat::Jsonl => v1::AuditFormat::JsonLines,
        ExportFormat::Ocsf => v1::AuditFormat::Ocsf,
    };
    let request = v1::ExportAuditRequest {
        filter: Some(arguments.filter.into()),
        format: format.into(),
        after: arguments.after.map(|id| id.to_string()).unwrap_or_default(),
        follow: arguments.follow,
    };
    let lines = session.client().await?.export_audit(request).await?;
    futures::pin_mut!(lines);
    while let Some(line) = lines.next().await {
        let line = line?;
        match &line.archived {
            Some(archived) => missed(session.output, archived),
            None => session.output.raw(&line.line)?,
        }
    }
    Ok(())
}

/// What was asked for can be in archives.
fn missed(output: &mut Output, archived: &v1::AuditSegment) {
    let (last, file) = (plain(&archived.last), plain(&archived.file));
    output.note(&format!(
        "entries up to {last} are in archives, the newest is {file}: they are not among these"
    ));
}

async fn archive(session: &mut Session<'_>) -> Result<(), Failure> {
    let segments = session.client().await?.archive_audit().await?;
    let none = "no entry is old enough to be archived";
    listed(session.output, &segments, none, |segments| {
        let line = |it: &v1::AuditSegment| {
            let (first, last) = (plain(&it.first), plain(&it.last));
            let until = absolute(it.until.as_ref());
            format!(
                "entries {first} to {last}, until {until}, in {}",
                plain(&it.file)
            )
        };
        segments.iter().map(line).collect::<Vec<_>>().join("\n")
    })
}

async fn verify(arguments: &Verify, session: &mut Session<'_>) -> Result<(), Failure> {
    let archives = match &arguments.public_key {
        Some(key) => Some(Archives::read(&arguments.archives, key)?),
        None => None,
    };
    if let (Some(archives), true) = (&archives, arguments.offline) {
        session.output.answer(archives, Archives::to_string)?;
        return Ok(());
    }
    let client = session.client().await?;
    let bar = session
        .output
        .progress("audit log {bar:40} {pos}/{len} entries {elapsed}");
    let watched = watch(&client, &bar).await;
    bar.finish_and_clear();
    verdict(&watched?, archives.as_ref(), session.output)
}

async fn watch(client: &Client, bar: &ProgressBar) -> Result<v1::AuditVerification, Failure> {
    let progress = client.verify_audit().await?;
    futures::pin_mut!(progress);
    while let Some(progress) = progress.next().await {
        let progress = progress?;
        bar.set_length(progress.of.into());
        bar.set_position(progress.checked.into());
        if let Some(result) = progress.result {
            return Ok(result);
        }
    }
    let what = "the control plane ended the verification before its end";
    Err(Failure::new(Exit::Unavailable, what).hint("try again"))
}

fn log_text(result: &v1::AuditVerification) -> String {
    if !result.intact {
        return "the audit log is NOT intact".to_owned();
    }
    format!(
        "the audit log is intact: {} entries, {} checkpoints\nlast hash {}{}",
        result.entries,
        result.checkpoints,
        plain(&result.hash),
        result.archived.as_ref().map(begins).unwrap_or_default()
    )
}

fn begins(archived: &v1::AuditSegment) -> String {
    let (last, file) = (plain(&archived.last), plain(&archived.file));
    format!("\nentries up to {last} were not looked at: they are in archives, the newest is {file}")
}

/// The log together with the archives that lead to it.
#[derive(Serialize)]
struct Both<'a> {
    log: &'a v1::AuditVerification,
    archives: &'a Archives,
}

/// Says what was found: of archives that do not lead to the log, nothing but that. A log that is not
/// intact is a failure.
fn verdict(
    result: &v1::AuditVerification,
    archives: Option<&Archives>,
    output: &mut Output,
) -> Result<(), Failure> {
    match archives {
        None => output.answer(result, log_text)?,
        Some(archives) => {
            if result.intact {
                archives.lead_to(result.archived.as_ref())?;
            }
            let log = result;
            output.answer(&Both { log, archives }, |both| {
                format!("{}\n{}", log_text(both.log), both.archives)
            })?;
        }
    }
    if result.intact {
        return Ok(());
    }
    let finding = result.finding.clone().unwrap_or_default();
    Err(Failure::new(Exit::Failed, plain(&finding.message)).hint(
        "keep the database as it is, look who could write to it, and restore it from a backup",
    ))
}

/// An entry in one line: when, outcome, action, who, about what, why.
fn line(entry: &v1::AuditEntry) -> String {
    let mut parts = vec![
        absolute(entry.at.as_ref()),
        format!("{:9}", plain(&entry.outcome)),
        format!("{:16}", plain(&entry.action)),
        plain(&entry.agent),
    ];
    if let Some(tree) = &entry.tree {
        parts.push(format!("tree={}", plain(&tree.workflow_id)));
    }
    if !entry.slot.is_empty() {
        parts.push(match entry.order {
            Some(_) => slot_at(&entry.slot, entry.order),
            None => plain(&entry.slot),
        });
    }
    let named = [
        ("owner", &entry.owner),
        ("subject", &entry.subject),
        ("workflow", &entry.workflow_id),
        ("tool", &entry.tool),
        ("lease", &entry.lease_id),
        ("reason", &entry.reason),
        ("policy", &entry.policy),
        ("address", &entry.address),
        ("note", &entry.note),
    ];
    let named = named.iter().filter(|(_, value)| !value.is_empty());
    parts.extend(named.map(|(name, value)| format!("{name}={}", plain(value))));
    if let Some(status) = entry.http_status {
        parts.push(format!("http={status}"));
    }
    if let Some(duration) = entry.duration_ms {
        parts.push(format!("{duration}ms"));
    }
    parts.extend(numbers(entry));
    if entry.erased {
        parts.push("(address and note erased)".to_owned());
    }
    if entry.count > 1 {
        parts.push(format!("×{}", entry.count));
    }
    parts.join("  ")
}

/// By name, so that the same entry is always the same line.
fn numbers(entry: &v1::AuditEntry) -> Vec<String> {
    let named: BTreeMap<_, _> = entry.numbers.iter().collect();
    let named = named.into_iter();
    named
        .map(|(name, number)| format!("{}={number}", plain(name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::{
        Format,
        tests::{after, seen},
    };

    #[test]
    fn an_intact_log_is_an_answer_and_an_edited_one_a_failure() {
        let intact = v1::AuditVerification {
            intact: true,
            entries: 1_234,
            checkpoints: 3,
            hash: "ab".repeat(32),
            finding: None,
            archived: Some(v1::AuditSegment {
                last: "1000".into(),
                file: "audit-1.jsonl.gz".into(),
                ..v1::AuditSegment::default()
            }),
        };
        let (mut output, out, _) = seen(Format::Text);
        verdict(&intact, None, &mut output).expect("intact");
        let said = out.text();
        assert!(said.contains("1234 entries"), "{said}");
        assert!(said.contains("up to 1000"), "{said}");

        let edited = v1::AuditVerification {
            finding: Some(v1::AuditFinding {
                what: "entry_changed".into(),
                first: "17".into(),
                last: "17".into(),
                column: String::new(),
                message: "entry 17 was changed".into(),
            }),
            ..v1::AuditVerification::default()
        };
        let (mut output, out, _) = seen(Format::Json);
        let failure = verdict(&edited, None, &mut output).expect_err("edited");
        assert_eq!(failure.exit, Exit::Failed);
        assert!(failure.to_string().contains("entry 17"), "{failure}");
        assert!(out.text().contains("\"entry_changed\""), "{}", out.text());

        // Archives are intact together with the log that they lead to, or nothing is said to be.
        let archives = Archives::of(501, 1_000, "cd");
        let (mut output, out, _) = seen(Format::Json);
        verdict(&intact, Some(&archives), &mut output).expect_err("of another log");
        assert_eq!(out.text(), "");
        let archived = v1::AuditSegment {
            last: "1000".into(),
            hash: archives.hash().into(),
            ..v1::AuditSegment::default()
        };
        let intact = v1::AuditVerification {
            archived: Some(archived),
            ..intact
        };
        verdict(&intact, Some(&archives), &mut output).expect("they lead to it");
        let told: serde_json::Value = serde_json::from_str(&out.text()).expect("one document");
        assert_eq!(told["log"]["intact"], true);
        assert_eq!(told["archives"]["first"], 501);
        let (mut output, out, _) = seen(Format::Text);
        verdict(&intact, Some(&archives), &mut output).expect("they lead to it");
        let said = out.text();
        assert!(
            said.contains("log is intact") && said.contains("archives are intact"),
            "{said}"
        );
        assert!(said.contains("before 501"), "{said}");
        let (mut output, out, _) = seen(Format::Json);
        verdict(&edited, Some(&archives), &mut output).expect_err("edited");
        assert!(out.text().contains("\"entry_changed\""), "{}", out.text());
    }

    #[test]
    fn an_entry_is_a_line() {
        let entry = v1::AuditEntry {
            at: after(0),
            agent: "worker".into(),
            action: "redeem".into(),
            outcome: "granted".into(),
            tree: Some(v1::TreeId {
                workflow_id: "train-1".into(),
                ..v1::TreeId::default()
            }),
            slot: "default".into(),
            order: Some(v1::Order {
                epoch: 0,
                version: 2,
                serial: 0,
            }),
            workflow_id: "stage-1".into(),
            tool: "acme.deploy".into(),
            http_status: Some(200),
            duration_ms: Some(12),
            count: 3,
            ..v1::AuditEntry::default()
        };
        insta::assert_snapshot!(line(&entry));
    }

    #[test]
    fn times_are_points_or_ages() {
        assert_eq!(time("2023-11-14T22:13:20Z").ok(), after(0));
        assert!(time("2h").is_ok());
        assert!(time("yesterday").is_err());
    }

    #[test]
    fn a_filter_leaves_open_what_is_not_named() {
        let none = Filter {
            tree: None,
            agent: None,
            owner: None,
            subject: None,
            action: None,
            outcome: None,
            slot: None,
            workflow_id: None,
            tool: None,
            since: None,
            until: None,
        };
        assert_eq!(v1::AuditFilter::from(none), v1::AuditFilter::default());
    }
}
