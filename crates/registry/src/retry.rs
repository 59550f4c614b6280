//! Whether a call is made again that may have reached the API.

use crate::{Invalid, Method, Place, ToolDefinition};
use std::collections::BTreeMap;
use xylem_ids::RetryClass;

impl Method {
    /// What is safe to say of an operation of which only the method is known (RFC 9110, section 9.2.2).
    #[must_use]
    pub fn retry_class(self) -> RetryClass {
        match self {
            Self::Get | Self::Head | Self::Put | Self::Delete => RetryClass::Idempotent,
            Self::Post | Self::Patch => RetryClass::AtMostOnce,
        }
    }
}

/// The class of a tool whose document is imported again: what it was, which somebody may have chosen.
/// Of another method, and so perhaps of another operation, the stricter of both.
pub(crate) fn kept(known: (Method, RetryClass), imported: (Method, RetryClass)) -> RetryClass {
    match known.0 == imported.0 {
        true => known.1,
        false => known.1.max(imported.1),
    }
}

pub(crate) fn is_usual(class: &RetryClass) -> bool {
    *class == RetryClass::default()
}

/// Whether the key has its header for itself.
pub(crate) fn check_key(
    definition: &ToolDefinition,
    places: &BTreeMap<String, Place>,
) -> Result<(), Invalid> {
    let headers = places.iter().filter(|(_, place)| **place == Place::Header);
    let mut taken = headers
        .map(|(name, _)| name.as_str())
        .chain(definition.auth.header());
    if definition.retry == RetryClass::IdempotencyKey
        && taken.any(|name| name.eq_ignore_ascii_case(RetryClass::KEY_HEADER))
    {
        return Err(Invalid::new(
            "retry",
            "another class where the token or a parameter goes into the header Idempotency-Key",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Auth, Tool};
    use serde_json::json;

    fn definition(auth: Auth, header: &str, retry: RetryClass) -> ToolDefinition {
        let definition = json!({
            "name": "acme.pay",
            "base_url": "https://api.acme.example",
            "path": "/payments",
            "method": "POST",
            "auth": {"type": "bearer"},
            "slot": "default",
            "parameters": {"type": "object", "properties": {header: {"type": "string"}}},
            "places": {header: "header"},
            "timeout_seconds": 10,
            "max_response_bytes": 65536,
        });
        let definition: ToolDefinition = serde_json::from_value(definition).unwrap();
        ToolDefinition {
            auth,
            retry,
            ..definition
        }
    }

    #[test]
    fn another_method_makes_an_imported_tool_stricter_and_never_laxer() {
        use RetryClass::{AtMostOnce, IdempotencyKey, Idempotent};
        let (put, post) = (Method::Put, Method::Post);
        assert_eq!(kept((put, Idempotent), (post, AtMostOnce)), AtMostOnce);
        assert_eq!(
            kept((put, Idempotent), (post, IdempotencyKey)),
            IdempotencyKey
        );
        assert_eq!(kept((post, AtMostOnce), (put, Idempotent)), AtMostOnce);
        // What somebody chose of the same operation stays.
        assert_eq!(kept((post, Idempotent), (post, AtMostOnce)), Idempotent);
        assert_eq!(kept((put, AtMostOnce), (put, Idempotent)), AtMostOnce);
    }

    #[test]
    fn the_key_has_its_header_for_itself() {
        let key = || "Idempotency-Key".to_owned();
        let own = || Auth::Header { name: key() };
        for (auth, header) in [(Auth::Bearer, "idempotency-KEY"), (own(), "X-Trace")] {
            for (retry, fine) in [
                (RetryClass::Idempotent, true),
                (RetryClass::AtMostOnce, true),
                (RetryClass::IdempotencyKey, false),
            ] {
                let checked = Tool::new(definition(auth.clone(), header, retry));
                let field = checked.err().map(|invalid| invalid.field());
                assert_eq!(field, (!fine).then_some("retry"), "{header} {retry:?}");
            }
        }
        let apart = definition(Auth::Bearer, "X-Trace", RetryClass::IdempotencyKey);
        assert!(Tool::new(apart).is_ok());
    }
}
