//! The contract for people: one page made of the OpenAPI document, with nothing from elsewhere.

use axum::response::{Html, IntoResponse};
use serde_json::Value;
use std::{fmt::Write, sync::LazyLock};

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;\
padding:0 1rem;color:#1c2a21;background:#fbfdfb}code,summary{font-family:ui-monospace,monospace}\
summary{cursor:pointer;padding:.3rem 0}details{border-top:1px solid #d7e3da}\
b{display:inline-block;min-width:4rem;color:#1f7a45}table{border-collapse:collapse}\
td{padding:.15rem .8rem .15rem 0;vertical-align:top}h2{margin-top:2rem}.r{color:#63746a}";

static PAGE: LazyLock<String> = LazyLock::new(|| {
    let document = serde_json::from_str(xylem_proto::OPENAPI).unwrap_or_default();
    render(&document)
});

/// `GET /openapi.json`.
pub(crate) async fn document() -> impl IntoResponse {
    ([("content-type", "application/json")], xylem_proto::OPENAPI)
}

/// `GET /`.
pub(crate) async fn page() -> impl IntoResponse {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
                  form-action 'none'; frame-ancestors 'none'";
    ([("content-security-policy", policy)], Html(PAGE.as_str()))
}

fn render(document: &Value) -> String {
    let version = word(&document["info"]["version"]);
    let mut page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Xylem control plane</title>\
         <style>{STYLE}</style><h1>Xylem control plane</h1><p>Version {version}. Every call is \
         made as <code>Authorization: Bearer</code> with an API key or an access token, over REST as below or over gRPC (package \
         <code>xylem.v1</code>) on this same port. Streams come as server-sent events on \
         <code>Accept: text/event-stream</code>. The machine-readable form is \
         <a href=/openapi.json>openapi.json</a>.</p>"
    );
    for (tag, operations) in by_tag(document) {
        let _ = write!(page, "<h2>{}</h2>", escape(&tag));
        for (verb, path, operation) in operations {
            operation_details(&mut page, document, &verb, &path, operation);
        }
    }
    page
}

type Operation<'a> = (String, String, &'a Value);

fn by_tag(document: &Value) -> std::collections::BTreeMap<String, Vec<Operation<'_>>> {
    let mut tags = std::collections::BTreeMap::<_, Vec<_>>::new();
    for (path, operations) in document["paths"].as_object().into_iter().flatten() {
        for (verb, operation) in operations.as_object().into_iter().flatten() {
            let tag = operation["tags"][0].as_str().unwrap_or("Other").to_owned();
            let entry = (verb.to_uppercase(), path.clone(), operation);
            tags.entry(tag).or_default().push(entry);
        }
    }
    tags
}

fn operation_details(
    page: &mut String,
    document: &Value,
    verb: &str,
    path: &str,
    operation: &Value,
) {
    let _ = write!(
        page,
        "<details><summary><b>{verb}</b> {} <span class=r>{}</span></summary><p>{}</p>",
        escape(path),
        word(&operation["operationId"]),
        word(&operation["description"]),
    );
    let parameters = operation["parameters"].as_array();
    let parameters = parameters.into_iter().flatten();
    let rows: Vec<_> = parameters
        .map(|p| (word(&p["name"]), word(&p["in"]), word(&p["description"])))
        .collect();
    table(page, "Parameters", &rows);
    let schema = |content: &Value| {
        let mut kinds = content["content"].as_object().into_iter().flatten();
        let (_, kind) = kinds.next()?;
        Some(fields(document, &kind["schema"]))
    };
    table(
        page,
        "Body",
        &schema(&operation["requestBody"]).unwrap_or_default(),
    );
    table(
        page,
        "Answer",
        &schema(&operation["responses"]["200"]).unwrap_or_default(),
    );
    page.push_str("</details>");
}

fn fields(document: &Value, schema: &Value) -> Vec<(String, String, String)> {
    let target = schema["$ref"].as_str().and_then(|r| r.rsplit('/').next());
    let schema = target.map_or(schema, |name| &document["components"]["schemas"][name]);
    let properties = schema["properties"].as_object();
    properties
        .into_iter()
        .flatten()
        .map(|(name, field)| (escape(name), kind(field), word(&field["description"])))
        .collect()
}

fn kind(field: &Value) -> String {
    if let Some(target) = field["$ref"].as_str() {
        return escape(target.rsplit(['/', '.']).next().unwrap_or_default());
    }
    match field["type"].as_str() {
        Some("array") => format!("list of {}", kind(&field["items"])),
        Some(kind) => escape(field["format"].as_str().unwrap_or(kind)),
        None => String::new(),
    }
}

fn table(page: &mut String, title: &str, rows: &[(String, String, String)]) {
    if rows.is_empty() {
        return;
    }
    let _ = write!(page, "<p>{title}</p><table>");
    for (name, kind, description) in rows {
        let _ = write!(
            page,
            "<tr><td><code>{name}</code><td class=r>{kind}<td>{description}"
        );
    }
    page.push_str("</table>");
}

fn word(value: &Value) -> String {
    escape(value.as_str().unwrap_or_default())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use xylem_proto::v1::Rpc;

    #[test]
    fn the_page_has_every_call_and_nothing_from_elsewhere() {
        for rpc in Rpc::ALL {
            let (verb, path) = rpc.http();
            assert!(
                PAGE.contains(&format!("<b>{verb}</b> {path}")),
                "{verb} {path}"
            );
        }
        assert!(!PAGE.contains("http://") && !PAGE.contains("https://"));
        assert!(!PAGE.contains("<script"));
    }
}
