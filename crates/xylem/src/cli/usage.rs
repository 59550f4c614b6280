//! `xylem usage`.

use super::{
    audit::time,
    failure::Failure,
    output::{absolute, plain, table},
    pages,
    session::Session,
    tree::listed,
};
use xylem_client::{Timestamp, v1};
use xylem_ids::{AgentId, ToolName};

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Only calls that were made for this agent
    #[arg(long)]
    agent: Option<AgentId>,
    /// Only calls of this tool
    #[arg(long)]
    tool: Option<ToolName>,
    /// Not before: a time such as 2026-01-31T12:00:00Z, or so long ago, such as 24h
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "30d")]
    since: Timestamp,
    /// Not after: a time, or so long ago [default: now]
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
    /// Tell hours or days apart; days and hours are those of UTC
    #[arg(long, value_enum)]
    per: Option<Per>,
    /// Tell agents or tools apart [default: both]
    #[arg(long, value_enum)]
    by: Option<By>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Per {
    /// Hours; days where they were more than 35 days ago.
    Hour,
    /// Days.
    Day,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum By {
    /// Agents.
    Agent,
    /// Tools.
    Tool,
}

const EXAMPLES: &str = "\
Examples:
  xylem usage --since 7d --by tool
  xylem usage --agent release-bot --per day";

pub(crate) async fn run(arguments: Arguments, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let apart = arguments.per.is_some();
    let asked = request(arguments);
    let usage = pages::all(async |page_token| {
        let page = client
            .list_usage(v1::ListUsageRequest {
                page_token,
                ..asked.clone()
            })
            .await?;
        Ok((page.usage, page.next_page_token))
    })
    .await?;
    listed(session.output, &usage, "no calls", |usage| {
        shown(usage, apart)
    })
}

fn request(arguments: Arguments) -> v1::ListUsageRequest {
    let period = match arguments.per {
        None => v1::UsagePeriod::Unspecified,
        Some(Per::Hour) => v1::UsagePeriod::Hour,
        Some(Per::Day) => v1::UsagePeriod::Day,
    };
    let group = match arguments.by {
        None => v1::UsageGroup::Unspecified,
        Some(By::Agent) => v1::UsageGroup::Agent,
        Some(By::Tool) => v1::UsageGroup::Tool,
    };
    v1::ListUsageRequest {
        agent: arguments.agent.map(String::from).unwrap_or_default(),
        tool: arguments.tool.map(String::from).unwrap_or_default(),
        since: Some(arguments.since),
        until: arguments.until,
        period: period.into(),
        group: group.into(),
        page_size: Some(pages::SIZE),
        page_token: String::new(),
    }
}

fn shown(usage: &[v1::ToolUsage], apart: bool) -> String {
    const HEAD: [&str; 10] = [
        "AGENT", "TOOL", "CALLS", "FAILED", "DENIED", "P50", "P95", "P99", "SENT", "RECEIVED",
    ];
    if !apart {
        return table(HEAD, usage.iter().map(row).collect());
    }
    let rows = usage.iter().map(|usage| {
        let [agent, rest @ ..] = row(usage);
        let since = absolute(usage.since.as_ref());
        let [a, b, c, d, e, f, g, h, i] = rest;
        [since, agent, a, b, c, d, e, f, g, h, i]
    });
    let [a, b, c, d, e, f, g, h, i, j] = HEAD;
    table(["SINCE", a, b, c, d, e, f, g, h, i, j], rows.collect())
}

fn row(usage: &v1::ToolUsage) -> [String; 10] {
    let any = |text: &str| match text {
        "" => "all".to_owned(),
        text => plain(text),
    };
    let took = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
    [
        any(&usage.agent),
        any(&usage.tool),
        usage.calls.to_string(),
        usage.failures.to_string(),
        usage.denials.to_string(),
        took(usage.p50_ms),
        took(usage.p95_ms),
        took(usage.p99_ms),
        bytes(usage.bytes_out),
        bytes(usage.bytes_in),
    ]
}

fn bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::tests::after;

    fn usage() -> v1::ToolUsage {
        v1::ToolUsage {
            tool: "acme.deploy".into(),
            since: after(0),
            calls: 12,
            failures: 1,
            denials: 3,
            p50_ms: Some(20),
            p95_ms: Some(42),
            bytes_out: 2048,
            ..v1::ToolUsage::default()
        }
    }

    #[test]
    fn usage_is_a_table_with_units() {
        let text = shown(&[usage()], false);
        let cells: Vec<_> = text
            .lines()
            .last()
            .unwrap_or_default()
            .split("  ")
            .collect();
        let cells: Vec<_> = cells
            .iter()
            .map(|cell| cell.trim())
            .filter(|cell| !cell.is_empty())
            .collect();
        let expected = [
            "all",
            "acme.deploy",
            "12",
            "1",
            "3",
            "20 ms",
            "42 ms",
            "-",
            "2.00 KiB",
            "0 B",
        ];
        assert_eq!(cells, expected);
    }

    #[test]
    fn periods_begin_a_line_with_their_time() {
        let text = shown(&[usage()], true);
        let last = text.lines().last().unwrap_or_default();
        assert!(text.starts_with("SINCE"), "{text}");
        assert!(last.starts_with("2023-11-14T22:13:20.000Z"), "{text}");
    }
}
