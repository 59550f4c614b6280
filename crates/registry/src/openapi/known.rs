//! A tool that is known, when a document is imported again.

use crate::{Auth, ToolDefinition, retry};

/// The definition as the document has it. What the document says nothing about is as it was: bounds, what
/// is let through, and whose token is sent where the import does not name it. So is the class of retries, which
/// an import can only guess, but for another method.
pub(crate) fn kept(
    known: ToolDefinition,
    given: ToolDefinition,
    names_token: bool,
) -> ToolDefinition {
    let auth = match (known.auth, given.auth) {
        // A document has no words for these.
        (known @ Auth::Basic { username: Some(_) }, Auth::Basic { username: None }) => known,
        (known @ Auth::ClientCredentials, Auth::Bearer) if !names_token => known,
        (_, given) => given,
    };
    let told = names_token || auth == Auth::None;
    let had = known.slot.is_some() || known.credential.is_some();
    let (slot, credential) = match had && !told {
        true => (known.slot, known.credential),
        false => (given.slot, given.credential),
    };
    let same_method = known.method == given.method;
    ToolDefinition {
        description: or(given.description, known.description, String::is_empty),
        tags: or(given.tags, known.tags, |tags| tags.is_empty()),
        auth,
        slot,
        credential,
        rate_limit: known.rate_limit,
        retry: retry::kept((known.method, known.retry), (given.method, given.retry)),
        tls: known.tls,
        response: given.response.or(known.response.filter(|_| same_method)),
        api_urls: known.api_urls,
        timeout_seconds: known.timeout_seconds,
        connect_timeout_seconds: known.connect_timeout_seconds,
        response_headers: known.response_headers,
        max_response_bytes: known.max_response_bytes,
        ..given
    }
}

fn or<T>(given: T, known: T, is_absent: impl Fn(&T) -> bool) -> T {
    if is_absent(&given) { known } else { given }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Method, Place, Tls};
    use serde_json::json;
    use xylem_ids::RetryClass;
    use xylem_policy::{Period, RateLimit};

    fn imported() -> ToolDefinition {
        ToolDefinition {
            name: "acme.list".parse().unwrap(),
            description: String::new(),
            tags: [].into(),
            base_url: "https://api.acme.example/v2".to_owned(),
            path: "/builds".to_owned(),
            method: Method::Get,
            auth: Auth::Bearer,
            slot: Some("default".parse().unwrap()),
            credential: None,
            rate_limit: None,
            retry: RetryClass::Idempotent,
            tls: None,
            parameters: json!({ "type": "object" }),
            response: None,
            places: [("page".to_owned(), Place::Query)].into(),
            api_urls: Vec::new(),
            timeout_seconds: ToolDefinition::TIMEOUT_SECONDS,
            connect_timeout_seconds: ToolDefinition::CONNECT_TIMEOUT_SECONDS,
            response_headers: Vec::new(),
            max_response_bytes: ToolDefinition::RESPONSE_BYTES,
        }
    }

    fn by_hand() -> ToolDefinition {
        ToolDefinition {
            description: "Lists builds".to_owned(),
            tags: ["build".parse().unwrap()].into(),
            slot: Some("deploy".parse().unwrap()),
            rate_limit: Some(RateLimit {
                calls: 5,
                per: Period::Minute,
            }),
            retry: RetryClass::AtMostOnce,
            tls: Some(Tls {
                ca_pem: None,
                pins: [].into(),
            }),
            response: Some(json!({ "type": "array" })),
            api_urls: vec!["https://eu.acme.example".parse().unwrap()],
            timeout_seconds: 120,
            connect_timeout_seconds: 2,
            response_headers: vec!["etag".to_owned()],
            max_response_bytes: 9,
            ..imported()
        }
    }

    #[test]
    fn what_a_document_says_nothing_about_stays_and_what_it_says_goes() {
        let old = ToolDefinition {
            base_url: "https://api.acme.example/v1".to_owned(),
            path: "/jobs".to_owned(),
            places: [].into(),
            ..by_hand()
        };
        assert_eq!(kept(old, imported(), false), by_hand());
        let said = ToolDefinition {
            description: "All builds".to_owned(),
            tags: ["ci".parse().unwrap()].into(),
            response: Some(json!({ "type": "object" })),
            ..imported()
        };
        let after = kept(by_hand(), said.clone(), false);
        assert_eq!(
            (after.description, after.tags, after.response),
            (said.description, said.tags, said.response)
        );
        let moved = ToolDefinition {
            method: Method::Head,
            ..imported()
        };
        assert_eq!(kept(by_hand(), moved, false).response, None);
    }

    #[test]
    fn whose_token_is_sent_stays_where_the_import_does_not_name_it() {
        let stored = ToolDefinition {
            auth: Auth::ClientCredentials,
            slot: None,
            credential: Some("acme".parse().unwrap()),
            ..by_hand()
        };
        let sent = |tool: ToolDefinition| (tool.auth, tool.slot, tool.credential);
        let (kept_one, given) = (kept(stored.clone(), imported(), false), imported());
        assert_eq!(sent(kept_one), sent(stored.clone()));
        assert_eq!(sent(kept(stored.clone(), given.clone(), true)), sent(given));
        let open = ToolDefinition {
            auth: Auth::None,
            slot: None,
            ..imported()
        };
        assert_eq!(sent(kept(stored, open.clone(), false)), sent(open.clone()));
        assert_eq!(sent(kept(open, imported(), false)), sent(imported()));
        let basic = |username: Option<&str>| Auth::Basic {
            username: username.map(str::to_owned),
        };
        let with = |auth| ToolDefinition { auth, ..imported() };
        let after = kept(with(basic(Some("ci"))), with(basic(None)), true);
        assert_eq!(after.auth, basic(Some("ci")));
    }
}
