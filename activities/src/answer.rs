//! From what an API answered to what a workflow may see.

use crate::redact::Redactor;
use http::HeaderName;
use serde_json::Value;
use std::collections::BTreeMap;
use xylem_outbound::{Answer, Decoded, decode};

/// How much of a rejection's body goes into a failure, in characters.
const MAX_REJECTION_CHARS: usize = 2048;

/// Bodies beyond this are cleaned on a thread where blocking is allowed.
const LARGE_BYTES: usize = 64 * 1024;

/// An answer without the token.
#[derive(Debug, PartialEq)]
pub(crate) struct Clean {
    pub(crate) status: u16,
    pub(crate) body: Value,
    pub(crate) headers: BTreeMap<String, String>,
}

/// The answer is larger than allowed once it is unpacked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

/// Unpacks and redacts an answer, and drops every header that is not listed.
pub(crate) async fn clean(
    answer: Answer,
    redactor: Redactor,
    listed: Vec<HeaderName>,
    limit: usize,
) -> Result<Clean, TooLarge> {
    let large = answer.body.len() > LARGE_BYTES
        || answer.headers.contains_key(http::header::CONTENT_ENCODING);
    let work = move || clean_now(answer, &redactor, &listed, limit);
    if !large {
        return work();
    }
    // The thread ends without an answer only if cleaning panicked: then nothing gets out.
    let cleaned = tokio::task::spawn_blocking(work).await;
    cleaned.unwrap_or(Err(TooLarge))
}

fn clean_now(
    answer: Answer,
    redactor: &Redactor,
    listed: &[HeaderName],
    limit: usize,
) -> Result<Clean, TooLarge> {
    let headers = listed.iter().filter_map(|name| {
        let value = answer.headers.get(name)?;
        let value = String::from_utf8_lossy(&redactor.bytes(value.as_bytes())).into_owned();
        Some((name.to_string(), value))
    });
    let headers = headers.collect();
    let body = match decode(&answer.headers, answer.body, limit) {
        Decoded::Whole(body) => clean_body(&body, redactor),
        Decoded::Opaque => withheld("in an encoding that is not understood"),
        Decoded::TooLarge => return Err(TooLarge),
    };
    Ok(Clean {
        status: answer.status.as_u16(),
        body,
        headers,
    })
}

/// JSON where it is JSON, a string otherwise; nothing where it is not text.
fn clean_body(body: &[u8], redactor: &Redactor) -> Value {
    if body.is_empty() {
        return Value::Null;
    }
    let Ok(text) = String::from_utf8(redactor.bytes(body)) else {
        return withheld("not text");
    };
    match serde_json::from_str(&text) {
        // Escapes are gone now: look again.
        Ok(value) => redactor.value(value),
        Err(_) => Value::String(text),
    }
}

fn withheld(why: &str) -> Value {
    Value::String(format!("[a body was withheld: {why}]"))
}

/// A body short enough for a failure.
pub(crate) fn shorten(body: Value) -> Value {
    let text = body.to_string();
    if text.chars().count() <= MAX_REJECTION_CHARS {
        return body;
    }
    Value::String(text.chars().take(MAX_REJECTION_CHARS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderValue, StatusCode};
    use secrecy::SecretString;
    use serde_json::json;

    const TOKEN: &str = "acme_0123456789abcdef";

    async fn cleaned(body: impl Into<Vec<u8>>) -> Clean {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_str(&format!("Bearer {TOKEN}")).expect("a value");
        headers.insert("x-echo", value.clone());
        headers.insert("x-other", value);
        let answer = Answer {
            status: StatusCode::OK,
            headers,
            body: body.into(),
        };
        let redactor = Redactor::new(&SecretString::from(TOKEN));
        let listed = vec![HeaderName::from_static("x-echo")];
        let clean = clean(answer, redactor, listed, 1_000_000).await;
        clean.expect("small enough")
    }

    #[tokio::test]
    async fn only_listed_headers_and_those_redacted() {
        let clean = cleaned("").await;
        assert_eq!(clean.body, Value::Null);
        let expected = [("x-echo".to_owned(), "Bearer [redacted]".to_owned())];
        assert_eq!(clean.headers, BTreeMap::from(expected));
    }

    #[tokio::test]
    async fn json_text_and_binary() {
        assert_eq!(cleaned(r#"{"a":1}"#).await.body, json!({ "a": 1 }));
        assert_eq!(cleaned("plain").await.body, json!("plain"));
        let binary = [TOKEN.as_bytes(), &[0xff, 0xfe]].concat();
        let body = cleaned(binary).await.body.to_string();
        assert!(
            body.contains("withheld") && !body.contains("acme"),
            "{body}"
        );
    }

    #[tokio::test]
    async fn large_bodies_are_cleaned_too() {
        let body = format!("{}{TOKEN}", "x ".repeat(100_000));
        let clean = cleaned(body).await;
        assert!(!clean.body.to_string().contains(TOKEN));
    }

    #[test]
    fn a_rejection_is_cut_after_redaction() {
        let long = json!({ "error": "e".repeat(5_000) });
        let short = shorten(long);
        assert_eq!(
            short.as_str().map(|s| s.chars().count()),
            Some(MAX_REJECTION_CHARS)
        );
        assert_eq!(shorten(json!({ "error": "e" })), json!({ "error": "e" }));
    }
}
