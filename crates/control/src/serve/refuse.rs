//! The JSON form of refusals on REST: `google.rpc.Status` with an `ErrorInfo`.
//!
//! The transcoder's own errors quote what they could not read, which can be a token in the wrong
//! place. They are said anew here, without any of the input but the name of an unknown field that
//! looks like one.

use super::passage::Passage;
use crate::fault::{FIELD, Fault, REASON};
use axum::{
    body::{Body, to_bytes},
    extract::Request,
    http::{
        HeaderMap, HeaderValue, Response, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
    },
    middleware::Next,
};
use percent_encoding::percent_decode_str;
use rest_over_grpc::handling::Code;
use serde_json::{Value, json};
use tonic::Status;

/// An error body is never larger.
const MAX_ERROR: usize = 64 * 1024;

/// The axum layer: leaves gRPC alone.
pub(crate) async fn layer(request: Request, next: Next) -> Response<Body> {
    let (grpc, passage) = (is_grpc(&request), Passage::of(&request));
    let response = next.run(request).await;
    if grpc {
        return response;
    }
    restful(response, &passage).await
}

/// What answers a request that goes no further, in the form that its sender reads.
pub(super) fn answer(
    request: &Request,
    fault: Fault,
) -> impl Future<Output = Response<Body>> + use<> {
    let (grpc, passage) = (is_grpc(request), Passage::of(request));
    let response = Status::from(fault).into_http();
    async move {
        if grpc {
            return response;
        }
        restful(response, &passage).await
    }
}

fn is_grpc(request: &Request) -> bool {
    let kind = request.headers().get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

async fn restful(response: Response<Body>, passage: &Passage) -> Response<Body> {
    let code = grpc_status(response.headers());
    let status = code.map_or_else(|| response.status(), Code::to_http_status);
    if status.is_success() {
        return response;
    }
    rewrite(status, code, response, passage.id.as_str()).await
}

/// The authentication layer answers in gRPC's form: a status in headers, HTTP 200.
fn grpc_status(headers: &HeaderMap) -> Option<Code> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    Code::from_i32(code)
}

async fn rewrite(
    status: StatusCode,
    code: Option<Code>,
    response: Response<Body>,
    request_id: &str,
) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let said = to_bytes(body, MAX_ERROR).await.unwrap_or_default();
    let said: Value = serde_json::from_slice(&said).unwrap_or_default();
    let text = |name: &str| {
        let value = parts.headers.get(name)?.to_str().ok()?;
        Some(value.to_owned())
    };
    let refusal = match text(REASON) {
        Some(reason) => Refusal {
            message: text("grpc-message")
                .map(|message| {
                    percent_decode_str(&message)
                        .decode_utf8_lossy()
                        .into_owned()
                })
                .or_else(|| said["message"].as_str().map(str::to_owned))
                .unwrap_or_default(),
            reason,
            field: text(FIELD),
        },
        None => Refusal::of_transcoder(status, said["message"].as_str().unwrap_or_default()),
    };
    let code = code.map(Code::as_i32).or_else(|| {
        let code = said["code"].as_i64()?;
        i32::try_from(code).ok()
    });
    let code = code.unwrap_or_else(|| code_of(status));
    let body = refusal.body(code, request_id).to_string();
    for header in [
        "grpc-status",
        "grpc-message",
        "grpc-status-details-bin",
        REASON,
        FIELD,
    ] {
        parts.headers.remove(header);
    }
    parts.status = status;
    parts.headers.remove(CONTENT_LENGTH);
    parts
        .headers
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Response::from_parts(parts, Body::from(body))
}

/// What a caller is told.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    reason: String,
    message: String,
    field: Option<String>,
}

impl Refusal {
    /// For a request that reached no handler.
    fn of_transcoder(status: StatusCode, said: &str) -> Self {
        let (reason, message) = match status {
            StatusCode::NOT_FOUND => ("no_such_call", "no such call: see /openapi.json".to_owned()),
            StatusCode::PAYLOAD_TOO_LARGE => {
                ("too_large", "the body is larger than 1 MiB".to_owned())
            }
            StatusCode::BAD_REQUEST => return Self::of_input(said),
            _ => ("not_handled", "the request could not be handled".to_owned()),
        };
        Self {
            reason: reason.to_owned(),
            message,
            field: None,
        }
    }

    fn of_input(said: &str) -> Self {
        if said.contains("failed to read the request body") {
            return Self {
                reason: "body_incomplete".to_owned(),
                message: "the body broke off, or came too slowly".to_owned(),
                field: None,
            };
        }
        let place = place(said);
        let field = unknown_field(said);
        let message = match &field {
            Some(field) => format!("there is no field `{field}` here{place}"),
            None => format!("the request does not fit the call{place}: see /openapi.json"),
        };
        Self {
            reason: "malformed".to_owned(),
            message,
            field,
        }
    }

    fn body(&self, code: i32, request_id: &str) -> Value {
        let mut metadata = json!({ "requestId": request_id });
        let mut details = Vec::new();
        if let Some(field) = &self.field {
            metadata["field"] = json!(field);
            details.push(json!({
                "@type": "type.googleapis.com/google.rpc.BadRequest",
                "fieldViolations": [{ "field": field, "description": self.message }],
            }));
        }
        details.insert(
            0,
            json!({
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": self.reason,
                "domain": "xylem",
                "metadata": metadata,
            }),
        );
        json!({
            "code": code,
            "message": self.message,
            "details": details,
        })
    }
}

/// The gRPC code for what reached no handler and has none of its own.
fn code_of(status: StatusCode) -> i32 {
    let code = match status.as_u16() {
        400 | 413 | 415 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        405 | 501 => Code::Unimplemented,
        408 | 504 => Code::DeadlineExceeded,
        409 => Code::AlreadyExists,
        429 => Code::ResourceExhausted,
        503 => Code::Unavailable,
        _ => Code::Internal,
    };
    code.as_i32()
}

/// The place serde names at the end of its messages: ` at line 1 column 9`.
fn place(said: &str) -> &str {
    let place = said
        .rfind(" at line ")
        .and_then(|at| said.get(at..))
        .unwrap_or_default();
    let plain = place
        .chars()
        .all(|c| c.is_ascii_digit() || c == ' ' || "atlinecolumn".contains(c));
    if plain { place } else { "" }
}

/// The name of an unknown field, where it can be nothing but a mistyped name.
fn unknown_field(said: &str) -> Option<String> {
    let (_, rest) = said.split_once("unknown field `")?;
    let (name, _) = rest.split_once('`')?;
    let like_a_name =
        (1..=32).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphabetic() || c == '_');
    like_a_name.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_not_quoted() {
        for said in [
            r#"request did not match the expected message: invalid type: string "canary-1", expected a boolean at line 1 column 20"#,
            "request did not match the expected message: unknown field `canary-1`, expected `tree` at line 1 column 9",
            r#"request did not match the expected message: path variable value "canary-1" did not parse"#,
            "canary-1 at line canary-1",
        ] {
            let refusal = Refusal::of_transcoder(StatusCode::BAD_REQUEST, said);
            let body = refusal.body(3, "r").to_string();
            assert!(!body.contains("canary"), "{body}");
        }
    }

    #[test]
    fn a_mistyped_field_is_named_with_its_place() {
        let said = "request did not match the expected message: unknown field `terminat`, expected one of `tree`, `terminate` at line 1 column 11";
        let refusal = Refusal::of_transcoder(StatusCode::BAD_REQUEST, said);
        assert_eq!(
            refusal.message,
            "there is no field `terminat` here at line 1 column 11"
        );
        assert_eq!(refusal.field.as_deref(), Some("terminat"));
    }
}
