//! Reading a document, and following its references.

use super::{
    Options,
    report::{Notes, Why, printable},
};
use crate::Tool;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use url::Url;
use xylem_ids::ToolName;

/// The largest document, in bytes: 8 MiB.
pub const MAX_DOCUMENT_BYTES: usize = 8 * 1024 * 1024;

const MAX_DEPTH: usize = 64;
const MAX_REFS: usize = 32;
/// How many values all schemas of one import may hold together: operations can share a schema, and
/// each tool has its own copy.
const MAX_WORK: usize = 4_000_000;

/// Why a document is of no use as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is too large.
    #[error("the document must be at most 8 MiB: import a part of it")]
    TooLarge,
    /// It is neither JSON nor YAML.
    #[error(
        "the document must be JSON or one YAML document, at most 64 levels deep, without tags, keys that occur twice, or more than 1000 anchors and aliases{}", at_line(*.line)
    )]
    NotReadable {
        /// The line where reading ended, if that is known.
        line: Option<u64>,
    },
    /// It is no OpenAPI document of a supported version.
    #[error(
        "the document must be OpenAPI 3.0 or 3.1, with \"openapi\": \"3.0.x\" or \"3.1.x\": convert an older one first"
    )]
    OtherVersion,
    /// The address it came from is not one.
    #[error("the document's address must be a URL")]
    NotAUrl,
}

fn at_line(line: Option<u64>) -> String {
    line.map(|line| format!(": look at line {line}"))
        .unwrap_or_default()
}

/// An OpenAPI document. Its references are not followed yet.
#[derive(Debug, Clone)]
pub struct Document {
    root: Value,
    from: Option<Url>,
    /// Whether keywords beside a `$ref` count: from 3.1 on.
    pub(super) refs_have_siblings: bool,
}

impl Document {
    /// Reads a document: JSON where it begins with `{`, else YAML. `from` is where it was fetched,
    /// which relative servers are relative to.
    ///
    /// # Errors
    /// The document as a whole is of no use.
    pub fn parse(text: &str, from: Option<&str>) -> Result<Self, Unusable> {
        if text.len() > MAX_DOCUMENT_BYTES {
            return Err(Unusable::TooLarge);
        }
        let root = if text.trim_start().starts_with('{') {
            json(text)?
        } else {
            yaml(text)?
        };
        let version = root.get("openapi").and_then(Value::as_str);
        let version = version.ok_or(Unusable::OtherVersion)?;
        let refs_have_siblings = match version {
            v if v.starts_with("3.0.") => false,
            v if v.starts_with("3.1.") => true,
            _ => return Err(Unusable::OtherVersion),
        };
        let from = from.map(Url::parse).transpose();
        Ok(Self {
            root,
            from: from.map_err(|_| Unusable::NotAUrl)?,
            refs_have_siblings,
        })
    }

    pub(super) fn root(&self) -> &Value {
        &self.root
    }

    /// The members of an object of the document; none where it is none.
    pub(super) fn members(&self, name: &str) -> impl Iterator<Item = (&str, &Value)> {
        members(&self.root, name)
    }

    pub(super) fn info(&self, name: &str) -> String {
        match self.root.get("info").and_then(|info| info.get(name)) {
            Some(Value::String(text)) => printable(text, 200),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        }
    }

    /// The absolute form of a server's URL.
    pub(super) fn absolute(&self, server: &str) -> Option<Url> {
        match &self.from {
            Some(from) => from.join(server).ok(),
            None => Url::parse(server).ok(),
        }
    }

    /// What a reference names.
    pub(super) fn at(&self, reference: &str) -> Result<&Value, Why> {
        let pointer = reference.strip_prefix('#').ok_or(Why::ExternalRef)?;
        if !pointer.starts_with('/') {
            return Err(Why::ExternalRef);
        }
        let pointer = percent_decode_str(pointer).decode_utf8();
        let pointer = pointer.map_err(|_| Why::RefMissing)?;
        self.root.pointer(&pointer).ok_or(Why::RefMissing)
    }

    /// The value itself, behind whatever references.
    pub(super) fn resolve<'a>(&'a self, value: &'a Value) -> Result<&'a Value, Why> {
        let mut value = value;
        for _ in 0..MAX_REFS {
            match value.get("$ref") {
                Some(Value::String(reference)) => value = self.at(reference)?,
                Some(_) => return Err(Why::Malformed),
                None => return Ok(value),
            }
        }
        Err(Why::RefTooDeep)
    }
}

fn json(text: &str) -> Result<Value, Unusable> {
    let parsed: Result<Value, serde_json::Error> = serde_json::from_str(text);
    let root = parsed.map_err(|error| Unusable::NotReadable {
        line: u64::try_from(error.line()).ok(),
    })?;
    if shallow(&root, MAX_DEPTH) {
        Ok(root)
    } else {
        Err(Unusable::NotReadable { line: None })
    }
}

/// YAML can name a value and repeat it: what comes of it is bounded, not only what is written.
fn yaml(text: &str) -> Result<Value, Unusable> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_reader_input_bytes: Some(MAX_DOCUMENT_BYTES),
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_documents: 1,
            max_nodes: 500_000,
            max_events: 1_500_000,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_total_scalar_bytes: MAX_DOCUMENT_BYTES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 16,
        },
        merge_keys: serde_saphyr::MergeKeyPolicy::AsOrdinary,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        strict_booleans: true,
        with_snippet: false,
    };
    let root: Value = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map(|location| location.line());
        Unusable::NotReadable { line }
    })?;
    // An alias repeats what may be deep already.
    if shallow(&root, MAX_DEPTH) {
        Ok(root)
    } else {
        Err(Unusable::NotReadable { line: None })
    }
}

pub(super) fn shallow(value: &Value, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else {
        return false;
    };
    match value {
        Value::Object(members) => members.values().all(|value| shallow(value, depth)),
        Value::Array(items) => items.iter().all(|value| shallow(value, depth)),
        _ => true,
    }
}

pub(super) fn members<'a>(
    value: &'a Value,
    name: &str,
) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let members = value.get(name).and_then(Value::as_object);
    let members = members.into_iter().flat_map(Map::iter);
    members.map(|(name, value)| (name.as_str(), value))
}

pub(super) fn items<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value
        .get(name)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

pub(super) fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name).and_then(Value::as_str)
}

pub(super) fn flag(value: &Value, name: &str) -> bool {
    value.get(name).and_then(Value::as_bool).unwrap_or(false)
}

/// One walk through a document.
pub(super) struct Walk<'a> {
    pub(super) document: &'a Document,
    pub(super) options: &'a Options,
    pub(super) notes: Notes,
    pub(super) tools: Vec<Tool>,
    pub(super) names: BTreeSet<ToolName>,
    /// Operations that were asked for and have not been met.
    pub(super) wanted: BTreeSet<&'a str>,
    work: usize,
}

impl<'a> Walk<'a> {
    pub(super) fn new(document: &'a Document, options: &'a Options) -> Self {
        Self {
            document,
            options,
            notes: Notes::default(),
            tools: Vec::new(),
            names: BTreeSet::new(),
            wanted: options.only.iter().map(String::as_str).collect(),
            work: MAX_WORK,
        }
    }

    pub(super) fn resolve(&self, value: &'a Value) -> Result<&'a Value, Why> {
        self.document.resolve(value)
    }

    /// Takes from what all schemas of the import may hold.
    pub(super) fn spend(&mut self) -> Result<(), Why> {
        self.work = self.work.checked_sub(1).ok_or(Why::TooMany)?;
        Ok(())
    }
}
