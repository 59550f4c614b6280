//! Importing an OpenAPI document.

use super::{read, show::short};
use crate::cli::{failure::Failure, output::plain, session::Session};
use std::path::Path;
use xylem_client::v1;
use xylem_ids::{CredentialName, ToolName, ToolTag};

/// What fits into one call, with what goes beside it.
const MOST: usize = 900 * 1024;

#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    /// A file, `-` for standard input, or an https URL, which the control plane fetches
    #[arg(value_name = "FILE|URL")]
    source: String,
    /// What names begin with: `acme` makes `acme.list-builds`
    #[arg(long)]
    prefix: ToolName,
    /// Where the API is [default: what the document says]
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// The slot whose token the tools use [default: that of a known tool; `default` for new ones]
    #[arg(long)]
    slot: Option<String>,
    /// The stored credential whose token they use, in place of a slot's
    #[arg(long, value_name = "NAME", conflicts_with = "slot")]
    credential: Option<CredentialName>,
    /// Given to every tool, beside the document's own; can be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<ToolTag>,
    /// Take this operation only: its operationId, or `GET /path`; can be repeated
    #[arg(long = "only", value_name = "OPERATION")]
    only: Vec<String>,
    /// Check answers against the schemas of the document: one that does not fit fails the call
    #[arg(long)]
    response_schemas: bool,
    /// Only say what would be proposed
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn import(arguments: Import, session: &mut Session<'_>) -> Result<(), Failure> {
    let by_url = ["https://", "http://"]
        .iter()
        .any(|scheme| arguments.source.starts_with(scheme));
    let (document, url) = if by_url {
        (String::new(), arguments.source)
    } else {
        (read(Path::new(&arguments.source))?, String::new())
    };
    if document.len() > MOST {
        return Err(Failure::usage(
            "the document is larger than 900 KiB: give a URL that the control plane can fetch",
        ));
    }
    let request = v1::ImportToolsRequest {
        document,
        url,
        prefix: arguments.prefix.into(),
        base_url: arguments.base_url.unwrap_or_default(),
        slot: arguments.slot.unwrap_or_default(),
        credential: arguments.credential.map(String::from).unwrap_or_default(),
        tags: arguments.tags.into_iter().map(String::from).collect(),
        only: arguments.only,
        dry_run: arguments.dry_run,
        response_schemas: arguments.response_schemas,
    };
    let report = session.client().await?.import_tools(request).await?;
    session.output.answer(&report, report_text)?;
    Ok(())
}

/// What became of the document, one line for each thing.
fn report_text(report: &v1::ImportToolsResponse) -> String {
    let mut lines = vec![format!(
        "{} {}: {} tools, {} operations left out, {} parts dropped",
        plain(&report.title),
        plain(&report.version),
        report.tools.len(),
        report.left_out.len(),
        report.changed.len()
    )];
    lines.extend(report.tools.iter().map(tool_line));
    lines.extend(report.left_out.iter().map(|it| note_line("left out", it)));
    lines.extend(report.changed.iter().map(|it| note_line("dropped", it)));
    lines.join("\n")
}

fn tool_line(tool: &v1::ImportedTool) -> String {
    let outcome = match tool.outcome() {
        v1::ImportOutcome::Unspecified => "-",
        v1::ImportOutcome::New => "new",
        v1::ImportOutcome::Updated => "updated",
        v1::ImportOutcome::Unchanged => "unchanged",
    };
    let url = format!("{}{}", tool.base_url, tool.path);
    // An import never says so of these: it is what the tool was before.
    let lax = ["POST", "PATCH"].contains(&tool.method.as_str())
        && tool.retry() == v1::RetryClass::Idempotent;
    let lax = match lax {
        true => ", called again also where the API may have done it",
        false => "",
    };
    format!(
        "{outcome:10} {} {} {} hash {}{lax}",
        plain(&tool.name),
        plain(&tool.method),
        plain(&url),
        short(&tool.hash)
    )
}

fn note_line(what: &str, note: &v1::ImportNote) -> String {
    let part = match note.what.as_str() {
        "" => String::new(),
        part => format!(" {}", plain(part)),
    };
    format!(
        "{what:10} {}{part}: {} (at {})",
        plain(&note.operation),
        plain(&note.message),
        plain(&note.place)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_told_in_lines() {
        let note = |operation: &str, what: &str| v1::ImportNote {
            operation: operation.into(),
            place: "/paths/~1builds/get".into(),
            reason: "cookie".into(),
            message: "cookies are not sent".into(),
            what: what.into(),
        };
        let mut tool = v1::ImportedTool {
            name: "acme.list-builds".into(),
            method: "GET".into(),
            base_url: "https://api.acme.example".into(),
            path: "/builds".into(),
            hash: "00ff".repeat(16),
            version: 1,
            ..v1::ImportedTool::default()
        };
        tool.set_outcome(v1::ImportOutcome::New);
        let mut kept = v1::ImportedTool {
            name: "acme.start-build".into(),
            method: "POST".into(),
            retry: v1::RetryClass::Idempotent.into(),
            ..tool.clone()
        };
        kept.set_outcome(v1::ImportOutcome::Unchanged);
        let report = v1::ImportToolsResponse {
            title: "Builds".into(),
            version: "1.2".into(),
            tools: vec![tool, kept],
            left_out: vec![note("GET /old", "")],
            changed: vec![note("GET /builds", "session")],
        };
        insta::assert_snapshot!(report_text(&report), @r"
        Builds 1.2: 2 tools, 1 operations left out, 1 parts dropped
        new        acme.list-builds GET https://api.acme.example/builds hash 00ff00ff00ff
        unchanged  acme.start-build POST https://api.acme.example/builds hash 00ff00ff00ff, called again also where the API may have done it
        left out   GET /old: cookies are not sent (at /paths/~1builds/get)
        dropped    GET /builds session: cookies are not sent (at /paths/~1builds/get)
        ");
    }
}
