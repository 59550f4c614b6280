//! Path templates: `/v1/deploys/{id}`.

use crate::Invalid;
use std::collections::BTreeSet;

/// One part of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Parameter(String),
}

/// A path whose `{name}` segments are filled with parameters, each percent-encoded as one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate(Vec<Part>);

const RULE: &str = "a path that begins with '/', without '?', '#', '\\', '%', '//' or dot segments, its parameters whole segments like {id}";

impl PathTemplate {
    /// Reads a template.
    ///
    /// # Errors
    /// The text breaks the rule, or names a parameter twice.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let rest = text.strip_prefix('/').ok_or(Invalid::new("path", RULE))?;
        if text.len() > 1000 || (rest.is_empty() && text != "/") {
            return Err(Invalid::new("path", RULE));
        }
        let parts = rest.split('/').map(part).collect::<Option<Vec<_>>>();
        let template = Self(parts.ok_or(Invalid::new("path", RULE))?);
        if template.parameters().len() != template.names().count() {
            return Err(Invalid::new(
                "path",
                "a path that names each parameter once",
            ));
        }
        Ok(template)
    }

    /// The names of its parameters.
    #[must_use]
    pub fn parameters(&self) -> BTreeSet<&str> {
        self.names().collect()
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Parameter(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }
}

fn part(segment: &str) -> Option<Part> {
    if let Some(inner) = segment.strip_prefix('{') {
        let name = inner.strip_suffix('}')?;
        return is_parameter(name).then(|| Part::Parameter(name.to_owned()));
    }
    let plain = segment.chars().all(|c| {
        c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~' | ':' | '@' | '+' | ',')
    });
    (plain && segment != "." && segment != "..").then(|| Part::Text(segment.to_owned()))
}

/// Whether this can be a parameter's name: 1 to 64 characters of A-Z, a-z, 0-9, `_` and `-`.
pub(crate) fn is_parameter(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_whole_segments() {
        let template = PathTemplate::parse("/v1/deploys/{id}/logs").unwrap();
        assert_eq!(template.parameters(), BTreeSet::from(["id"]));
        assert!(PathTemplate::parse("/").unwrap().parameters().is_empty());
    }

    #[test]
    fn what_could_leave_the_path_is_refused() {
        for bad in [
            "",
            "v1",
            "/a?b",
            "/a#b",
            "/a/../b",
            "/./a",
            "/a%2fb",
            "/a\\b",
            "/pre{id}",
            "/{id}post",
            "/{}",
            "/{a b}",
            "/{id}/{id}",
            "/{id",
            "/a b",
        ] {
            assert!(PathTemplate::parse(bad).is_err(), "{bad}");
        }
    }
}
