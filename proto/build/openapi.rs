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
        for binding in contract.http(&method) {
            let operation = &mut document["paths"][&binding.path][binding.verb.to_lowercase()];
            describe_method(&method, operation);
        }
    }
    for message in contract.messages() {
        let schema = &mut document["components"]["schemas"][message.full_name()];
        if schema.is_object() {
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
    let Some(parameters) = operation["parameters"].as_array_mut() else {
        return;
    };
    for parameter in parameters {
        let name = parameter["name"].as_str().unwrap_or_default().to_owned();
        let field = method
            .input()
            .fields()
            .find(|f| f.json_name() == name || f.name() == name);
        if let Some(field) = field {
            parameter["description"] = json!(field_comment(&field));
        }
    }
}

fn describe_message(message: &MessageDescriptor, schema: &mut Value) {
    schema["description"] = json!(comment(&message.parent_file(), message.path()));
    for field in message.fields() {
        let property = &mut schema["properties"][field.json_name()];
        if !property.is_object() {
            continue;
        }
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
