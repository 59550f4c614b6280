//! Tools from an OpenAPI document, version 3.0 or 3.1.
//!
//! Each operation becomes a tool, or a line that says why it does not. Nothing is fetched: a document
//! that refers to another one loses the operations that need it. What is not taken over is told with
//! its place in the document; names from it are cut and printable, values are never told.
//!
//! The document is walked as JSON. Typed models refuse a whole document for one operation that they
//! do not understand; real documents have many of those.

mod document;
mod known;
mod name;
mod operation;
mod report;
mod response;
mod schema;

#[cfg(test)]
mod tests;

pub use document::{Document, MAX_DOCUMENT_BYTES, Unusable};
pub(crate) use known::kept;
pub use report::{Note, Report, Why};

use crate::{Invalid, tool::check_base_url};
use document::Walk;
use operation::Operation;
use report::Notes;
use serde_json::Value;
use std::collections::BTreeSet;
use xylem_ids::{CredentialName, Slot, ToolName, ToolTag};

/// One document makes no more tools; take a part of it with [`Options::only`].
const MAX_TOOLS: usize = 500;
const MAX_OPERATIONS: usize = 2_000;
const MAX_PREFIX: usize = 40;

/// What the document does not say, or should not decide.
#[derive(Debug, Clone)]
pub struct Options {
    /// What names begin with, at most 40 characters: `acme` makes `acme.list-builds`.
    pub prefix: ToolName,
    /// Where the API is; what the document says where absent.
    pub base_url: Option<String>,
    /// The slot whose token the tools use; the default one where absent.
    pub slot: Option<Slot>,
    /// The stored credential whose token they use in its place.
    pub credential: Option<CredentialName>,
    /// Given to every tool, beside the document's own.
    pub tags: BTreeSet<ToolTag>,
    /// Operations to take, as `operationId` or as `GET /path`; all where empty.
    pub only: BTreeSet<String>,
    /// Whether answers are checked against the schemas of the document. Documents often say other
    /// things of answers than are true.
    pub response_schemas: bool,
}

impl Options {
    /// Whether it is said whose token the tools use.
    #[must_use]
    pub fn names_token(&self) -> bool {
        self.slot.is_some() || self.credential.is_some()
    }

    fn slot(&self) -> Slot {
        self.slot.clone().unwrap_or_else(Slot::default_slot)
    }
}

/// What the document makes of tools, and what it does not.
///
/// # Errors
/// The options break a rule. What is wrong with an operation is in the report.
pub fn import(document: &Document, options: &Options) -> Result<Report, Invalid> {
    if options.prefix.as_str().len() > MAX_PREFIX {
        return Err(Invalid::new("prefix", "a name of at most 40 characters"));
    }
    if let Some(base_url) = &options.base_url {
        check_base_url(base_url)?;
    }
    let mut walk = Walk::new(document, options);
    let mut seen = 0_usize;
    for (path, item) in document.members("paths") {
        let item = match walk.resolve(item) {
            Ok(item) => item,
            // Which operations are behind it is not known.
            Err(why) => {
                walk.notes.left_out(path, "/paths", why, "");
                continue;
            }
        };
        for (method, operation) in operations(item) {
            seen = seen.saturating_add(1);
            if seen > MAX_OPERATIONS || walk.tools.len() >= MAX_TOOLS {
                walk.notes.left_out(path, "/paths", Why::TooMany, method);
                continue;
            }
            Operation::new(path, method, item, operation).take(&mut walk);
        }
    }
    for (name, _) in document.members("webhooks") {
        walk.notes.left_out(name, "/webhooks", Why::NotACall, name);
    }
    // Of a document that was not read to its end, nobody knows.
    if seen <= MAX_OPERATIONS {
        for name in walk.wanted {
            walk.notes.left_out(name, "/paths", Why::NoOperation, "");
        }
    }
    let Notes { left_out, changed } = walk.notes;
    Ok(Report {
        title: document.info("title"),
        version: document.info("version"),
        tools: walk.tools,
        left_out,
        changed,
    })
}

/// The operations of a path, by method as the document writes it.
fn operations(item: &Value) -> impl Iterator<Item = (&str, &Value)> {
    const METHODS: [&str; 8] = [
        "get", "head", "post", "put", "patch", "delete", "options", "trace",
    ];
    let of = |method: &'static str| item.get(method).map(|operation| (method, operation));
    METHODS.into_iter().filter_map(of)
}
