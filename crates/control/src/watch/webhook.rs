//! Sending an alert: one signed request, in the form of Standard Webhooks 1.0.0.

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header::CONTENT_TYPE};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use url::Url;
use xylem_audit::Record;
use xylem_outbound::{Outbound, Request, SendError};

const TIMEOUT: Duration = Duration::from_secs(15);
/// What a receiver says is not read any further.
const LARGEST: usize = 4 * 1024;
const PREFIX: &str = "whsec_";
/// Bytes that a secret has.
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A key that alerts are signed with. Its `Debug` does not show it.
#[derive(Clone)]
pub struct WebhookSecret(hmac::Key);

impl WebhookSecret {
    /// From the text that both sides have: `whsec_` and 24 to 64 bytes in base64.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text.strip_prefix(PREFIX)?).ok()?;
        let bytes = zeroize::Zeroizing::new(bytes);
        let right = BYTES.contains(&bytes.len());
        right.then(|| Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    fn sign(&self, id: &str, timestamp: u64, body: &str) -> String {
        let signed = format!("{id}.{timestamp}.{body}");
        let tag = hmac::sign(&self.0, signed.as_bytes());
        format!("v1,{}", STANDARD.encode(tag))
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret")
    }
}

/// Where alerts are sent.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// Where to: https, except on loopback in development.
    pub url: Url,
    /// What they are signed with: each with every one of these, so that one can be replaced.
    pub secrets: Vec<WebhookSecret>,
}

/// Why an alert was not received. No text comes from outside.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum WebhookError {
    /// The receiver wants no more of them, or there is nothing to send.
    #[error("the receiver is gone")]
    Gone,
    /// It did not take it.
    #[error("the receiver answers with status {0}")]
    Status(u16),
    /// It could not be asked.
    #[error(transparent)]
    Send(#[from] SendError),
    /// It could not be written.
    #[error("the alert cannot be sent")]
    Form,
}

/// Ids, codes and numbers: no address, and nothing that somebody wrote.
#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    timestamp: String,
    data: Data<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    id: &'a str,
    rule: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tree: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workflow_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slot: Option<String>,
    numbers: BTreeMap<&'a str, u64>,
}

impl Webhook {
    /// Sends an alert once.
    pub(super) async fn send(
        &self,
        outbound: &Outbound,
        record: &Record,
        now: SystemTime,
    ) -> Result<(), WebhookError> {
        let request = self.request(record, now)?;
        match outbound.send(request, TIMEOUT, LARGEST).await {
            // That it says too much does not mean that it did not take it.
            Err(SendError::TooLarge) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(answer) if answer.status.is_success() => Ok(()),
            Ok(answer) if answer.status == StatusCode::GONE => Err(WebhookError::Gone),
            Ok(answer) => Err(WebhookError::Status(answer.status.as_u16())),
        }
    }

    fn request(&self, record: &Record, now: SystemTime) -> Result<Request, WebhookError> {
        let body = body(record).ok_or(WebhookError::Form)?;
        let id = format!("alert_{}", record.id);
        let timestamp = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let signatures: Vec<_> = self
            .secrets
            .iter()
            .map(|secret| secret.sign(&id, timestamp, &body))
            .collect();
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in [
            ("webhook-id", id),
            ("webhook-timestamp", timestamp.to_string()),
            ("webhook-signature", signatures.join(" ")),
        ] {
            let value = HeaderValue::from_str(&value).map_err(|_| WebhookError::Form)?;
            headers.insert(HeaderName::from_static(name), value);
        }
        Ok(Request {
            method: Method::POST,
            url: self.url.clone(),
            headers,
            body: Some(body.into_bytes()),
        })
    }
}

fn body(record: &Record) -> Option<String> {
    let entry = &record.entry;
    let rule = entry.reason.as_ref()?.as_str();
    let numbers = entry.numbers.iter();
    let body = Body {
        r#type: format!("xylem.alert.{rule}"),
        timestamp: humantime::format_rfc3339_millis(entry.at).to_string(),
        data: Data {
            id: record.id.as_str(),
            rule,
            namespace: entry.namespace.as_ref().map(ToString::to_string),
            subject: entry.subject.as_ref().map(ToString::to_string),
            tree: entry.tree.as_ref().map(|tree| tree.workflow_id.to_string()),
            workflow_id: entry.node.as_ref().map(|node| node.workflow_id.to_string()),
            tool: entry.tool.as_ref().map(ToString::to_string),
            slot: entry.slot.as_ref().map(ToString::to_string),
            numbers: numbers
                .map(|(name, number)| (name.as_str(), *number))
                .collect(),
        },
    };
    serde_json::to_string(&body).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the reference implementations of the specification check themselves with.
    #[test]
    fn the_signature_is_that_of_the_specification() {
        let secret = WebhookSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = secret.sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_has_its_form_and_is_not_shown() {
        let secret = WebhookSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        assert!(!format!("{secret:?}").contains("Mf"), "{secret:?}");
        for bad in [
            "",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_c2hvcnQ=",
            "whsec_%",
        ] {
            assert!(WebhookSecret::parse(bad).is_none(), "{bad}");
        }
    }
}
