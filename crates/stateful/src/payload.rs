//! JSON payloads, read without ever quoting them.

use serde::{Serialize, de::DeserializeOwned};
use std::collections::HashMap;
use temporalio_common::protos::temporal::api::common::v1::Payload;

/// Larger signals are not looked at. A grant has at most 8 KiB, a token far less.
const MAX_STRING_BYTES: usize = 64 * 1024;

const ENCODING: &str = "encoding";
const JSON: &[u8] = b"json/plain";

/// The one JSON string that the payloads carry, if they carry just that.
pub(crate) fn one_string(payloads: &[Payload]) -> Option<String> {
    let [payload] = payloads else { return None };
    if payload.data.len() > MAX_STRING_BYTES {
        return None;
    }
    json(payload)
}

/// A JSON payload, if it is one and has the expected form.
pub(crate) fn json<T: DeserializeOwned>(payload: &Payload) -> Option<T> {
    if payload.metadata.get(ENCODING).map(Vec::as_slice) != Some(JSON) {
        return None;
    }
    serde_json::from_slice(&payload.data).ok()
}

/// A value as a JSON payload.
///
/// # Errors
/// The value cannot be JSON.
pub(crate) fn to_json(value: &impl Serialize) -> Result<Payload, serde_json::Error> {
    Ok(Payload {
        metadata: HashMap::from([(ENCODING.to_owned(), JSON.to_vec())]),
        data: serde_json::to_vec(value)?,
        ..Payload::default()
    })
}
