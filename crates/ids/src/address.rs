//! Where a token may be sent: origins and audiences.

use crate::name::IdError;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use url::Url;

const ORIGIN: IdError = IdError::new(
    "origin",
    "http:// or https:// with a host and an optional port, without user, path, query or fragment",
);
const AUDIENCE: IdError = IdError::new(
    "audience",
    "an origin with an optional path prefix, without user, query, fragment, encoded path separators or dot segments",
);

/// Scheme, host and port in the canonical form of the WHATWG URL standard: lower case, IDN in
/// its ASCII form, numeric hosts as dotted IPv4, default ports left out.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Origin(String);

impl Origin {
    /// The origin of a URL, or an error where it has none a token could be sent to.
    ///
    /// # Errors
    /// The scheme is neither http nor https, there is no host, the host ends in a dot, or the URL
    /// carries a user or password.
    pub fn of(url: &Url) -> Result<Self, IdError> {
        let host = url.host_str().ok_or(ORIGIN)?;
        let plain = matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
            && !host.ends_with('.');
        if !plain {
            return Err(ORIGIN);
        }
        Ok(Self(url.origin().ascii_serialization()))
    }

    /// The origin as text, such as `https://api.acme.example`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Origin {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let url = Url::parse(text).map_err(|_| ORIGIN)?;
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(ORIGIN);
        }
        Self::of(&url)
    }
}

impl TryFrom<String> for Origin {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> String {
        origin.0
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origin({})", self.0)
    }
}

/// An origin, optionally with a path prefix, to which a depositor lets a token be sent.
///
/// A prefix covers whole path segments: `/v1` covers `/v1` and `/v1/deploys`, not `/v10`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Audience {
    origin: Origin,
    path: String,
}

impl Audience {
    /// The origin part.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The path prefix without its trailing slash; empty where the whole origin is meant.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether a token for this audience may be sent to `url`.
    ///
    /// Paths with encoded separators (`%2f`, `%5c`) or backslashes are never covered by a prefix:
    /// servers disagree on what they mean.
    #[must_use]
    pub fn covers(&self, url: &Url) -> bool {
        Origin::of(url).is_ok_and(|origin| origin == self.origin)
            && (self.path.is_empty() || (plain_path(url.path()) && self.covers_path(url.path())))
    }

    fn covers_path(&self, path: &str) -> bool {
        path.strip_prefix(self.path.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Whether every server reads the path alike: no encoded separators, dots or percent signs, no
/// control bytes, and no segment that is dots before a path parameter (`..;x`).
fn plain_path(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    let ambiguous = [
        "%2f", "%5c", "%2e", "%25", "%c0", "%c1", "%0", "%1", "%7f", "\\",
    ];
    let dots = |segment: &str| {
        let name = segment.split(';').next().unwrap_or_default();
        !name.is_empty() && name.chars().all(|c| c == '.')
    };
    !ambiguous.iter().any(|sequence| lower.contains(sequence)) && !path.split('/').any(dots)
}

impl FromStr for Audience {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let url = Url::parse(text).map_err(|_| AUDIENCE)?;
        let dots = text
            .split(['/', '\\'])
            .any(|part| part == "." || part == "..");
        if url.query().is_some() || url.fragment().is_some() || !plain_path(url.path()) || dots {
            return Err(AUDIENCE);
        }
        Ok(Self {
            origin: Origin::of(&url).map_err(|_| AUDIENCE)?,
            path: url.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl TryFrom<String> for Audience {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<Audience> for String {
    fn from(audience: Audience) -> String {
        audience.to_string()
    }
}

impl fmt::Display for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path)
    }
}

impl fmt::Debug for Audience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Audience({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn audience(text: &str) -> Audience {
        text.parse().expect(text)
    }

    fn covers(text: &str, url: &str) -> bool {
        audience(text).covers(&Url::parse(url).expect(url))
    }

    #[test]
    fn origins_are_canonical() {
        let canonical = |text: &str| text.parse::<Origin>().map(|o| o.to_string());
        assert_eq!(
            canonical("HTTPS://API.Acme.example:443/").as_deref(),
            Ok("https://api.acme.example")
        );
        assert_eq!(
            canonical("http://0x7f.1").as_deref(),
            Ok("http://127.0.0.1")
        );
        assert_eq!(
            canonical("https://münchen.example").as_deref(),
            Ok("https://xn--mnchen-3ya.example")
        );
        for bad in [
            "https://user@host",
            "https://user:pw@host",
            "https://host/path",
            "https://host?q",
            "https://host#f",
            "https://host.",
            "ftp://host",
            "file:///etc/passwd",
            "host",
            "",
        ] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_prefix_covers_whole_segments() {
        assert!(covers("https://h/v1", "https://h/v1"));
        assert!(covers("https://h/v1/", "https://h/v1/deploys?x=1"));
        assert!(!covers("https://h/v1", "https://h/v10"));
        assert!(!covers("https://h/v1", "https://h/"));
        assert!(covers("https://h", "https://h/anything"));
    }

    #[test]
    fn another_origin_is_not_covered() {
        for url in [
            "http://h/v1",
            "https://h:8443/v1",
            "https://h.evil/v1",
            "https://x@h/v1",
        ] {
            assert!(!covers("https://h/v1", url), "{url}");
        }
    }

    #[test]
    fn a_prefix_cannot_be_left_by_dots_or_encoded_separators() {
        for url in [
            "https://h/v1/../admin",
            "https://h/v1/%2e%2e/admin",
            "https://h/v1/..%2fadmin",
            "https://h/v1/..%5cadmin",
            "https://h/v1\\..\\admin",
            "https://h/v1/..;/admin",
            "https://h/v1/..;x=1/admin",
            "https://h/v1/%252e%252e/admin",
            "https://h/v1/%c0%ae%c0%ae/admin",
            "https://h/v1/%00",
        ] {
            assert!(!covers("https://h/v1", url), "{url}");
        }
        for bad in [
            "https://h/v1/..",
            "https://h/a/./b",
            "https://h/%2fv1",
            "https://h/v1?q",
        ] {
            assert!(bad.parse::<Audience>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_and_value_agree(path in "(/[a-z0-9]{1,6}){0,4}", port in 1u16..) {
            let audience = audience(&format!("https://host:{port}{path}"));
            prop_assert_eq!(audience.to_string().parse::<Audience>(), Ok(audience));
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".*") {
            let _ = text.parse::<Origin>();
            let _ = text.parse::<Audience>();
        }
    }
}
