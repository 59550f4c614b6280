//! From a document's schemas to one that stands alone.
//!
//! References are not expanded: what they name goes into the tool's own `$defs`, so that a recursive
//! schema stays as small as it is. OpenAPI 3.0 has a dialect of its own; it becomes JSON Schema
//! 2020-12 on the way.

use super::{document::Walk, report::Why};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// More levels than this do not fit a tool's schema anyway.
const MAX_DEPTH: usize = 48;
/// Neither do more values.
const MAX_VALUES: usize = 20_000;

/// Keywords whose value is a schema.
const ONE: [&str; 12] = [
    "items",
    "additionalProperties",
    "additionalItems",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contentSchema",
];
/// Keywords whose value is a list of schemas.
const LIST: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
/// Keywords whose value is an object of schemas.
const NAMED: [&str; 3] = ["properties", "patternProperties", "dependentSchemas"];
/// Keywords that are taken as they are.
const PLAIN: [&str; 29] = [
    "type",
    "enum",
    "const",
    "default",
    "examples",
    "title",
    "description",
    "format",
    "pattern",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minContains",
    "maxContains",
    "minProperties",
    "maxProperties",
    "required",
    "dependentRequired",
    "readOnly",
    "writeOnly",
    "deprecated",
    "contentEncoding",
];
/// Keywords that give a reference another meaning than the one here.
const ELSEWHERE: [&str; 3] = ["$id", "$dynamicRef", "$recursiveRef"];

/// Collects the schemas that a tool's schema refers to.
pub(super) struct Definitions {
    /// By reference.
    names: BTreeMap<String, String>,
    waiting: VecDeque<(String, String)>,
    values: usize,
}

impl Definitions {
    pub(super) fn new() -> Self {
        Self {
            names: BTreeMap::new(),
            waiting: VecDeque::new(),
            values: MAX_VALUES,
        }
    }

    /// A schema as JSON Schema 2020-12, its references leading into these definitions.
    pub(super) fn take(&mut self, walk: &mut Walk<'_>, schema: &Value) -> Result<Value, Why> {
        self.schema(walk, schema, MAX_DEPTH)
    }

    /// The definitions that were referred to, and those that they refer to.
    pub(super) fn finish(mut self, walk: &mut Walk<'_>) -> Result<Map<String, Value>, Why> {
        let mut definitions = Map::new();
        while let Some((reference, name)) = self.waiting.pop_front() {
            let schema = walk.document.at(&reference)?;
            let schema = self.schema(walk, schema, MAX_DEPTH)?;
            definitions.insert(name, schema);
        }
        Ok(definitions)
    }

    fn schema(&mut self, walk: &mut Walk<'_>, schema: &Value, depth: usize) -> Result<Value, Why> {
        let depth = depth.checked_sub(1).ok_or(Why::SchemaTooLarge)?;
        walk.spend()?;
        self.values = self.values.checked_sub(1).ok_or(Why::SchemaTooLarge)?;
        let members = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(members) => members,
            _ => return Err(Why::SchemaInvalid),
        };
        if ELSEWHERE
            .iter()
            .any(|keyword| members.contains_key(*keyword))
        {
            return Err(Why::ExternalRef);
        }
        let mut taken = Map::new();
        if let Some(reference) = members.get("$ref") {
            let reference = reference.as_str().ok_or(Why::SchemaInvalid)?;
            let name = self.name(walk, reference)?;
            taken.insert("$ref".to_owned(), json!(format!("#/$defs/{name}")));
            if !walk.document.refs_have_siblings {
                return Ok(Value::Object(taken));
            }
        }
        for (keyword, value) in members {
            if let Some(value) = self.keyword(walk, keyword, value, depth)? {
                taken.insert(keyword.clone(), value);
            }
        }
        modern(members, &mut taken);
        Ok(Value::Object(taken))
    }

    /// A keyword's value; none where the keyword is dropped.
    fn keyword(
        &mut self,
        walk: &mut Walk<'_>,
        keyword: &str,
        value: &Value,
        depth: usize,
    ) -> Result<Option<Value>, Why> {
        let taken = if ONE.contains(&keyword) {
            self.schema(walk, value, depth)?
        } else if LIST.contains(&keyword) {
            let items = value.as_array().ok_or(Why::SchemaInvalid)?.iter();
            let items = items.map(|item| self.schema(walk, item, depth));
            Value::Array(items.collect::<Result<_, _>>()?)
        } else if NAMED.contains(&keyword) {
            let members = value.as_object().ok_or(Why::SchemaInvalid)?.iter();
            let members =
                members.map(|(name, item)| Ok((name.clone(), self.schema(walk, item, depth)?)));
            Value::Object(members.collect::<Result<_, Why>>()?)
        } else if PLAIN.contains(&keyword) {
            value.clone()
        } else {
            return Ok(None);
        };
        Ok(Some(taken))
    }

    /// The name of the definition that a reference leads to.
    fn name(&mut self, walk: &Walk<'_>, reference: &str) -> Result<String, Why> {
        if let Some(name) = self.names.get(reference) {
            return Ok(name.clone());
        }
        walk.document.at(reference)?;
        let last = reference.rsplit('/').next().unwrap_or_default();
        let plain: String = last
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
            .take(64)
            .collect();
        let taken: BTreeSet<&String> = self.names.values().collect();
        let mut name = plain.clone();
        let mut number = 2_usize;
        while name.is_empty() || taken.contains(&name) {
            name = format!("{plain}_{number}");
            number = number.saturating_add(1);
        }
        self.names.insert(reference.to_owned(), name.clone());
        self.waiting.push_back((reference.to_owned(), name.clone()));
        Ok(name)
    }
}

/// What OpenAPI 3.0 says otherwise than JSON Schema 2020-12.
fn modern(given: &Map<String, Value>, schema: &mut Map<String, Value>) {
    for (exclusive, bound) in [
        ("exclusiveMinimum", "minimum"),
        ("exclusiveMaximum", "maximum"),
    ] {
        match schema.get(exclusive) {
            Some(Value::Bool(true)) => {
                schema.remove(exclusive);
                if let Some(number) = schema.remove(bound) {
                    schema.insert(exclusive.to_owned(), number);
                }
            }
            Some(Value::Bool(false)) => {
                schema.remove(exclusive);
            }
            _ => {}
        }
    }
    if let (Some(example), None) = (given.get("example"), given.get("examples")) {
        schema.insert("examples".to_owned(), json!([example]));
    }
    if given.get("nullable") == Some(&Value::Bool(true)) {
        nullable(schema);
    }
}

fn nullable(schema: &mut Map<String, Value>) {
    // Without a type it says nothing (OpenAPI 3.0.3).
    let Some(Value::String(of)) = schema.get("type") else {
        return;
    };
    let both = json!([of, "null"]);
    schema.insert("type".to_owned(), both);
    if let Some(Value::Array(values)) = schema.get_mut("enum")
        && !values.contains(&Value::Null)
    {
        values.push(Value::Null);
    }
}
