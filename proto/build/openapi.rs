//! Completes the OpenAPI document: comments become descriptions, secrets are marked, every call
//! but the unauthenticated ones asks for an API key.

use crate::generate::{Contract, is_secret};
use prost_reflect::{FieldDescriptor, FileDescriptor, MessageDescriptor, MethodDescriptor};
use serde_json::{Value, json};

/// The document with everything the REST generator leaves out.
pub(crate) fn complete(contract: &Contract, document: &str) -> Result<String, serde_json::Error> {
    let mut document: Value = serde_json::from_str(document)?;
    document["security"] = json!([{ "apiKey": [] }]);
    document["components"]["securitySchemes"] = json!({
        "apiKey": { "type": "http", "scheme": "bearer", "description": "An API key, xyk_…, or an access token" }
    });
    for method in contract.methods() {
        for (number, binding) in contract.http(&method).into_iter().enumerate() {
            let operation = &mut document["paths"][&binding.path][binding.verb.to_lowercase()];
            describe_method(&method, operation);
            // Generators name functions by it, so no two operations may share one.
            if number > 0 {
                operation["operationId"] = json!(format!("{}.{number}", method.name()));
            }
        }
    }
    for message in contract.messages() {
        // Messages that travel in path and query alone have none.
        if let Some(schema) = document["components"]["schemas"].get_mut(message.full_name()) {
            describe_message(message, schema);
        }
    }
    add_plain(&mut document)?;
    serde_json::to_string_pretty(&document)
}

/// The routes that are no calls of the contract, for their form is that of OAuth.
fn add_plain(document: &mut Value) -> Result<(), serde_json::Error> {
    for (place, file) in [
        (&["paths"] as &[&str], include_str!("oauth.json")),
        (
            &["components", "schemas"],
            include_str!("oauth.schemas.json"),
        ),
    ] {
        let added: serde_json::Map<String, Value> = serde_json::from_str(file)?;
        let place = place.iter().fold(&mut *document, |at, name| &mut at[name]);
        for (name, value) in added {
            place[name] = value;
        }
    }
    Ok(())
}

fn describe_method(method: &MethodDescriptor, operation: &mut Value) {
    let text = comment(&method.parent_file(), method.path());
    let first = text.split_inclusive(". ").next().unwrap_or_default();
    operation["summary"] = json!(first.trim());
    operation["description"] = json!(text);
    operation["tags"] = json!([method.parent_service().name()]);
    let parameters = operation.get_mut("parameters");
    for parameter in parameters
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let name = parameter["name"].as_str().unwrap_or_default();
        if let Some(field) = field_at(&method.input(), name) {
            parameter["description"] = json!(field_comment(&field));
        }
    }
}

/// The field that a parameter stands for: `pageSize`, or one inside of another, `filter.agent`.
fn field_at(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    let (first, inner) = name
        .split_once('.')
        .map_or((name, None), |(a, b)| (a, Some(b)));
    let mut fields = message.fields();
    let field = fields.find(|field| field.json_name() == first || field.name() == first)?;
    match inner {
        Some(inner) => field_at(field.kind().as_message()?, inner),
        None => Some(field),
    }
}

fn describe_message(message: &MessageDescriptor, schema: &mut Value) {
    schema["description"] = json!(comment(&message.parent_file(), message.path()));
    for field in message.fields() {
        let properties = schema.get_mut("properties");
        let Some(property) = properties.and_then(|all| all.get_mut(field.json_name())) else {
            continue;
        };
        property["description"] = json!(field_comment(&field));
        if is_secret(&field) {
            property["format"] = json!("password");
        }
    }
}

fn field_comment(field: &FieldDescriptor) -> String {
    comment(&field.parent_message().parent_file(), field.path())
}

/// The comment in front of a definition, as one paragraph.
fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let info = file.file_descriptor_proto().source_code_info.as_ref();
    let location = info.and_then(|info| info.location.iter().find(|l| l.path == path));
    location
        .map(|location| location.leading_comments())
        .unwrap_or_default()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}
