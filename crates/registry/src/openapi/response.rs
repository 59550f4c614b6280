//! What an operation answers with.

use super::{
    document::{Walk, members, shallow},
    operation::{MAX_LEVELS, json_schema},
    report::Why,
    schema::Definitions,
};
use crate::schema::{MAX_SCHEMA_BYTES, check_response};
use serde_json::{Value, json};

/// A schema for the body of every successful answer that the operation describes; none where it
/// describes none.
pub(super) fn schema<'a>(walk: &mut Walk<'a>, operation: &'a Value) -> Result<Option<Value>, Why> {
    let mut definitions = Definitions::new();
    let mut bodies: Vec<Value> = Vec::new();
    for (_, answer) in members(operation, "responses").filter(|(status, _)| succeeded(status)) {
        let answer = walk.resolve(answer)?;
        let body = match members(answer, "content").next() {
            None => json!({ "type": "null" }),
            Some(_) => definitions.take(walk, json_schema(answer).ok_or(Why::Response)?)?,
        };
        if !bodies.contains(&body) {
            bodies.push(body);
        }
    }
    let one = bodies.pop();
    let mut schema = match one {
        Some(Value::Object(schema)) if bodies.is_empty() => schema,
        None => return Ok(None),
        Some(last) => {
            bodies.push(last);
            json!({ "anyOf": bodies })
                .as_object()
                .cloned()
                .unwrap_or_default()
        }
    };
    let definitions = definitions.finish(walk)?;
    if !definitions.is_empty() {
        schema.insert("$defs".to_owned(), Value::Object(definitions));
    }
    let schema = Value::Object(schema);
    if schema.to_string().len() > MAX_SCHEMA_BYTES || !shallow(&schema, MAX_LEVELS) {
        return Err(Why::SchemaTooLarge);
    }
    check_response(&schema).map_err(|_| Why::SchemaInvalid)?;
    Ok(Some(schema))
}

/// Whether the answer is one of those that end a call well: `200`, `2XX`.
fn succeeded(status: &str) -> bool {
    status.len() == 3 && status.starts_with('2')
}
