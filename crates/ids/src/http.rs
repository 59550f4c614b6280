//! What a tool's definition may say about HTTP, beside its path.
//!
//! The registry checks it at registration, a worker again before a call. The rules are here so that
//! neither accepts what the other refuses.

/// The largest response of a tool that is read, in bytes, compressed or not: 8 MiB.
pub const MAX_RESPONSE_BYTES: u32 = 8 * 1024 * 1024;

/// The longest name of a header, in bytes.
const MAX_HEADER_NAME: usize = 100;

/// Headers that belong to the connection, to the caller's identity, to the client that sends the
/// request, or to whoever stands between; and those that some servers take for another method or
/// path than the request has.
const RESERVED: [&str; 29] = [
    "accept",
    "accept-encoding",
    "authorization",
    "cf-connecting-ip",
    "connection",
    "cookie",
    "cookie2",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "set-cookie",
    "set-cookie2",
    "te",
    "trailer",
    "transfer-encoding",
    "true-client-ip",
    "upgrade",
    "user-agent",
    "via",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forwarded",
    "x-host",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-real-ip",
];

/// The same for every header whose name begins so. `content-` describes the body, `sec-` and
/// `access-control-` are a browser's.
const RESERVED_PREFIXES: [&str; 7] = [
    "access-control-",
    "content-",
    "proxy-",
    "sec-",
    "x-forwarded-",
    "x-original-",
    "x-rewrite-",
];

/// Response headers that carry credentials, or ask for them.
const CREDENTIALS: [&str; 8] = [
    "authentication-info",
    "authorization",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "set-cookie",
    "set-cookie2",
    "www-authenticate",
];

/// Whether a tool may send its token in a request header of this name, in whatever case:
/// `authorization`, or 1 to 100 of A-Z, a-z, 0-9, `-` and `_` that are not reserved.
#[must_use]
pub fn may_carry_token(header: &str) -> bool {
    header.eq_ignore_ascii_case("authorization") || may_carry_parameter(header)
}

/// Whether a parameter may go into a request header of this name, in whatever case: 1 to 100 of
/// A-Z, a-z, 0-9, `-` and `_` that are not reserved. The header of the token is refused besides.
#[must_use]
pub fn may_carry_parameter(header: &str) -> bool {
    let name = canonical(header);
    is_name(header)
        && !RESERVED.contains(&name.as_str())
        && !RESERVED_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

/// Whether a response header of this name, in whatever case, may reach a workflow: 1 to 100 of
/// A-Z, a-z, 0-9, `-` and `_`, without those that carry credentials.
#[must_use]
pub fn may_reach_workflow(header: &str) -> bool {
    is_name(header) && !CREDENTIALS.contains(&canonical(header).as_str())
}

/// Whether this can be the user of basic authentication (RFC 7617): 1 to 200 printable characters
/// without `:`.
#[must_use]
pub fn is_user_name(name: &str) -> bool {
    (1..=200).contains(&name.chars().count()) && !name.chars().any(|c| c.is_control() || c == ':')
}

/// How a server may read the name: CGI and its descendants take `-` and `_` for the same.
fn canonical(header: &str) -> String {
    header.to_ascii_lowercase().replace('_', "-")
}

fn is_name(header: &str) -> bool {
    (1..=MAX_HEADER_NAME).contains(&header.len())
        && header
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Header, may carry the token, may carry a parameter, may reach a workflow.
    const TABLE: [(&str, bool, bool, bool); 41] = [
        ("x-api-key", true, true, true),
        ("X-Api-Key", true, true, true),
        ("x_api_key", true, true, true),
        ("Idempotency-Key", true, true, true),
        ("traceparent", true, true, true),
        ("x-request-id", true, true, true),
        ("etag", true, true, true),
        ("retry-after", true, true, true),
        ("authorization", true, false, false),
        ("Authorization", true, false, false),
        ("accept", false, false, true),
        ("accept-encoding", false, false, true),
        ("connection", false, false, true),
        ("content-encoding", false, false, true),
        ("Content-Length", false, false, true),
        ("content_length", false, false, true),
        ("content-type", false, false, true),
        ("Cookie", false, false, true),
        ("expect", false, false, true),
        ("forwarded", false, false, true),
        ("Host", false, false, true),
        ("http2-settings", false, false, true),
        ("keep-alive", false, false, true),
        ("proxy-authenticate", false, false, false),
        ("Proxy-Authorization", false, false, false),
        ("proxy-connection", false, false, true),
        ("proxy_connection", false, false, true),
        ("sec-fetch-site", false, false, true),
        ("set-cookie", false, false, false),
        ("TE", false, false, true),
        ("trailer", false, false, true),
        ("Transfer-Encoding", false, false, true),
        ("transfer_encoding", false, false, true),
        ("upgrade", false, false, true),
        ("user-agent", false, false, true),
        ("www-authenticate", true, true, false),
        ("X-Forwarded-For", false, false, true),
        ("x_forwarded_host", false, false, true),
        ("X-HTTP-Method-Override", false, false, true),
        ("X-Original-URL", false, false, true),
        ("x-rewrite-url", false, false, true),
    ];

    #[test]
    fn each_header_has_its_places() {
        for (header, token, parameter, workflow) in TABLE {
            assert_eq!(may_carry_token(header), token, "{header}: token");
            assert_eq!(
                may_carry_parameter(header),
                parameter,
                "{header}: parameter"
            );
            assert_eq!(may_reach_workflow(header), workflow, "{header}: workflow");
        }
        for header in RESERVED {
            assert_eq!(header, canonical(header), "written as it is compared");
            assert!(!may_carry_parameter(header), "{header}");
        }
        for header in CREDENTIALS {
            assert_eq!(header, canonical(header), "written as it is compared");
        }
    }

    #[test]
    fn what_is_no_name_has_no_place() {
        let long = "x".repeat(101);
        for bad in [
            "",
            " ",
            "a b",
            "a:b",
            ":path",
            "a\r\nhost",
            "x-\u{e9}",
            &long,
        ] {
            assert!(!may_carry_token(bad), "{bad:?}");
            assert!(!may_carry_parameter(bad), "{bad:?}");
            assert!(!may_reach_workflow(bad), "{bad:?}");
        }
    }
}
