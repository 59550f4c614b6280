//! Path templates: `/repos/{owner}/builds/{id}`.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::str::FromStr;

/// What is written as it is in a segment: the unreserved characters of RFC 3986.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Parameter(String),
}

/// A path with `{parameter}` where a parameter goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathTemplate {
    segments: Vec<Vec<Part>>,
}

impl PathTemplate {
    /// Whether a parameter goes into the path.
    pub(crate) fn names(&self, parameter: &str) -> bool {
        let mut parts = self.segments.iter().flatten();
        parts.any(|part| matches!(part, Part::Parameter(name) if name == parameter))
    }

    /// The path with every parameter in place, beginning with `/`, or empty.
    ///
    /// A value fills at most its own segment: separators in it are encoded, and a segment that
    /// comes out empty, or as `.` or `..`, is refused.
    pub(crate) fn fill(
        &self,
        value: impl Fn(&str) -> Result<String, String>,
    ) -> Result<String, String> {
        let mut path = String::new();
        for segment in &self.segments {
            let mut filled = String::new();
            for part in segment {
                match part {
                    Part::Text(text) => filled.push_str(text),
                    Part::Parameter(name) => filled.push_str(&encode(name, &value(name)?)?),
                }
            }
            if matches!(filled.as_str(), "" | "." | "..") {
                return Err("a path segment comes out empty or as dots".to_owned());
            }
            path.push('/');
            path.push_str(&filled);
        }
        Ok(path)
    }
}

fn encode(name: &str, value: &str) -> Result<String, String> {
    if value.is_empty() {
        return Err(format!("'{name}' goes into the path and is empty"));
    }
    if value.chars().any(char::is_control) {
        return Err(format!(
            "'{name}' goes into the path and has control characters"
        ));
    }
    Ok(utf8_percent_encode(value, UNRESERVED).to_string())
}

impl FromStr for PathTemplate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(rest) = text.strip_prefix('/') else {
            return if text.is_empty() {
                Ok(Self {
                    segments: Vec::new(),
                })
            } else {
                Err("its path does not begin with '/'")
            };
        };
        if rest.is_empty() {
            return Ok(Self {
                segments: Vec::new(),
            });
        }
        let segments = rest.split('/').map(segment).collect::<Result<_, _>>()?;
        Ok(Self { segments })
    }
}

fn segment(text: &str) -> Result<Vec<Part>, &'static str> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let (before, after) = (&rest[..open], &rest[open + 1..]);
        let close = after.find('}').ok_or("its path has an open '{'")?;
        if !before.is_empty() {
            parts.push(Part::Text(literal(before)?));
        }
        let name = &after[..close];
        if name.is_empty() || name.contains('{') {
            return Err("its path has a parameter without a name");
        }
        parts.push(Part::Parameter(name.to_owned()));
        rest = &after[close + 1..];
    }
    if !rest.is_empty() {
        parts.push(Part::Text(literal(rest)?));
    }
    match parts.as_slice() {
        [] => Err("its path has an empty segment"),
        [Part::Text(text)] if text == "." || text == ".." => Err("its path has dot segments"),
        _ => Ok(parts),
    }
}

/// Literal text of a path: unreserved characters and the sub-delimiters that URLs carry as they
/// are. Nothing that a server could decode into a separator.
fn literal(text: &str) -> Result<String, &'static str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@".contains(c);
    if text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("its path has characters that do not belong in a path")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fill(template: &str, value: &str) -> Result<String, String> {
        let template: PathTemplate = template.parse().expect("a good template");
        template.fill(|_| Ok(value.to_owned()))
    }

    #[test]
    fn values_stay_in_their_segment() {
        assert_eq!(fill("/b/{id}", "42").as_deref(), Ok("/b/42"));
        assert_eq!(
            fill("/b/{id}/x", "a/../b").as_deref(),
            Ok("/b/a%2F..%2Fb/x")
        );
        assert_eq!(
            fill("/b/{id}", "a?b#c\\d").as_deref(),
            Ok("/b/a%3Fb%23c%5Cd")
        );
        assert_eq!(fill("/b/{id}", "%2e%2e").as_deref(), Ok("/b/%252e%252e"));
        assert_eq!(fill("/b/v{id}.json", "1").as_deref(), Ok("/b/v1.json"));
        assert_eq!(fill("", "x").as_deref(), Ok(""));
        for bad in ["", ".", "..", "a\nb", "\0"] {
            assert!(fill("/b/{id}/x", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn templates_that_could_leave_their_place_are_refused() {
        for bad in [
            "a", "/a//b", "/.", "/a/../b", "/a%2fb", "/a?b", "/a#b", "/{", "/{}", "/a b", "/a/",
            "//h/x",
        ] {
            assert!(bad.parse::<PathTemplate>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_value_changes_the_number_of_segments(value in ".*") {
            if let Ok(path) = fill("/a/{id}/b", &value) {
                let text = format!("https://h{path}?q=1");
                let url = url::Url::parse(&text).expect("a URL");
                prop_assert_eq!(url.path(), path.as_str());
                prop_assert_eq!(url.path_segments().map(Iterator::count), Some(3));
                prop_assert_eq!(url.query(), Some("q=1"));
            }
        }
    }
}
