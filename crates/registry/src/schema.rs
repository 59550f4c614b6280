//! The JSON Schemas of a tool: of its parameters and of its answers.

use crate::Invalid;
use jsonschema::PatternOptions;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use xylem_ids::is_parameter_name;

/// No schema is larger, in bytes of JSON.
pub const MAX_SCHEMA_BYTES: usize = 64 * 1024;
const MAX_DEPTH: usize = 32;

/// Checks that a schema describes an object with named properties and reaches for nothing outside
/// itself.
pub(crate) fn check_parameters(schema: &Value) -> Result<(), Invalid> {
    const FIELD: &str = "parameters";
    check_bounds(FIELD, schema)?;
    if schema.get("type").and_then(Value::as_str) != Some("object") {
        return Err(Invalid::new(
            FIELD,
            "a JSON Schema with \"type\": \"object\"",
        ));
    }
    if !properties(schema).all(is_parameter_name) {
        return Err(Invalid::new(
            FIELD,
            "a JSON Schema whose property names are 1 to 64 characters of A-Z, a-z, 0-9, '_' and '-'",
        ));
    }
    compile(FIELD, schema)
}

/// Checks that a schema of answers is one, and reaches for nothing outside itself.
pub(crate) fn check_response(schema: &Value) -> Result<(), Invalid> {
    const FIELD: &str = "response";
    check_bounds(FIELD, schema)?;
    if !schema.is_object() {
        return Err(Invalid::new(FIELD, "a JSON Schema, which is an object"));
    }
    compile(FIELD, schema)
}

fn check_bounds(field: &'static str, schema: &Value) -> Result<(), Invalid> {
    if schema.to_string().len() > MAX_SCHEMA_BYTES {
        return Err(Invalid::new(field, "a JSON Schema of at most 64 KiB"));
    }
    if !closed(schema, MAX_DEPTH) {
        return Err(Invalid::new(
            field,
            "a JSON Schema at most 32 levels deep whose $ref values begin with '#', without $id",
        ));
    }
    Ok(())
}

/// Compiles a schema as a worker does before a call.
fn compile(field: &'static str, schema: &Value) -> Result<(), Invalid> {
    jsonschema::options()
        .offline()
        .with_pattern_options(PatternOptions::regex())
        .build(schema)
        .map(|_| ())
        .map_err(|_| {
            Invalid::new(
                field,
                "a valid JSON Schema, without look-around in patterns",
            )
        })
}

/// The names of the properties the schema describes.
pub(crate) fn properties(schema: &Value) -> impl Iterator<Item = &str> {
    schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Map::keys)
        .map(String::as_str)
}

/// The names of the properties that must be given.
pub(crate) fn required(schema: &Value) -> BTreeSet<&str> {
    schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// Whether no reference leaves the schema. A property may be *called* `$ref`; its value is then an
/// object, not a string.
fn closed(value: &Value, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else {
        return false;
    };
    match value {
        Value::Object(map) => map.iter().all(|(key, value)| {
            let inside = match (key.as_str(), value) {
                ("$ref" | "$dynamicRef" | "$recursiveRef", Value::String(to)) => {
                    to.starts_with('#')
                }
                ("$id" | "id", Value::String(_)) => false,
                _ => true,
            };
            inside && closed(value, depth)
        }),
        Value::Array(items) => items.iter().all(|item| closed(item, depth)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_schema_passes() {
        let schema = json!({
            "type": "object",
            "properties": {"id": {"type": "string"}, "n": {"$ref": "#/$defs/n"}},
            "required": ["id"],
            "$defs": {"n": {"type": "integer"}},
        });
        assert!(check_parameters(&schema).is_ok());
        assert_eq!(required(&schema), BTreeSet::from(["id"]));
    }

    #[test]
    fn references_that_leave_the_schema_are_refused() {
        for to in [
            "file:///etc/passwd",
            "http://169.254.169.254/",
            "other.json",
        ] {
            let schema = json!({"type": "object", "properties": {"a": {"$ref": to}}});
            assert!(check_parameters(&schema).is_err(), "{to}");
        }
        assert!(check_parameters(&json!({"type": "object", "$id": "http://h/"})).is_err());
    }

    #[test]
    fn what_is_no_object_schema_is_refused() {
        for schema in [
            json!(true),
            json!({}),
            json!({"type": "array"}),
            json!({"type": "object", "properties": {"a b": {}}}),
            json!({"type": "object", "properties": {"a": {"type": "no such type"}}}),
        ] {
            assert!(check_parameters(&schema).is_err(), "{schema}");
        }
    }

    #[test]
    fn depth_and_size_are_bounded() {
        let mut deep = json!({"type": "object"});
        for _ in 0..40 {
            deep = json!({"type": "object", "not": deep});
        }
        assert!(check_parameters(&deep).is_err());
        let large = json!({"type": "object", "description": "x".repeat(MAX_SCHEMA_BYTES)});
        assert!(check_parameters(&large).is_err());
    }
}
