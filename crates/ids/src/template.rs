//! Path templates of tools: `/repos/{owner}/builds/{id}`.

use crate::name::IdError;
use std::{collections::BTreeSet, str::FromStr};

const ERROR: IdError = IdError::new("path", PathTemplate::RULE);

/// The longest template, in bytes.
const MAX_TEMPLATE: usize = 1000;

/// One segment of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Stands for itself. Needs no encoding in a URL.
    Text(String),
    /// Is filled with the parameter of this name.
    Parameter(String),
}

/// A path in which parameters fill whole segments; `/` alone has none.
///
/// Nothing in it can be read as a separator, a query or a way upwards, by whatever server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate(Vec<Segment>);

impl PathTemplate {
    /// The rule a template keeps.
    pub const RULE: &'static str = "at most 1000 bytes, '/' or segments that begin with '/': each \
        a parameter like {id}, named once, or characters of A-Z, a-z, 0-9 and '-._~:@+,' that are \
        not all dots";

    /// The segments, in order.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.0
    }

    /// The names of its parameters, in order.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|segment| match segment {
            Segment::Parameter(name) => Some(name.as_str()),
            Segment::Text(_) => None,
        })
    }
}

impl FromStr for PathTemplate {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let rest = text.strip_prefix('/').ok_or(ERROR)?;
        if text.len() > MAX_TEMPLATE {
            return Err(ERROR);
        }
        if rest.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let segments = rest.split('/').map(segment).collect::<Option<Vec<_>>>();
        let template = Self(segments.ok_or(ERROR)?);
        let mut names = BTreeSet::new();
        if template.parameters().all(|name| names.insert(name)) {
            Ok(template)
        } else {
            Err(ERROR)
        }
    }
}

fn segment(text: &str) -> Option<Segment> {
    if let Some(inner) = text.strip_prefix('{') {
        let name = inner.strip_suffix('}')?;
        return is_parameter_name(name).then(|| Segment::Parameter(name.to_owned()));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~:@+,".contains(c);
    let dots = text.chars().all(|c| c == '.');
    (text.chars().all(plain) && !dots).then(|| Segment::Text(text.to_owned()))
}

/// Whether this can be the name of a tool's parameter: 1 to 64 characters of A-Z, a-z, 0-9, `_`
/// and `-`.
#[must_use]
pub fn is_parameter_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parameters_are_whole_segments() {
        let template: PathTemplate = "/v1/deploys/{id}/logs".parse().expect("a template");
        assert_eq!(template.parameters().collect::<Vec<_>>(), ["id"]);
        assert_eq!(template.segments().len(), 4);
        let root: PathTemplate = "/".parse().expect("a template");
        assert!(root.segments().is_empty());
    }

    #[test]
    fn what_could_leave_the_path_is_refused() {
        let long = format!("/{}", "a".repeat(1000));
        for bad in [
            "",
            "v1",
            "//",
            "//h/x",
            "/a//b",
            "/a/",
            "/a?b",
            "/a#b",
            "/a/../b",
            "/./a",
            "/.",
            "/...",
            "/a%2fb",
            "/a\\b",
            "/a;b",
            "/a b",
            "/a\nb",
            "/pre{id}",
            "/{id}post",
            "/{}",
            "/{",
            "/}",
            "/{a b}",
            "/{a{b}",
            "/{id}/{id}",
            "/{id",
            "/\u{e9}",
            &long,
        ] {
            assert!(bad.parse::<PathTemplate>().is_err(), "{bad}");
        }
    }

    proptest! {
        /// What a template's text says is what a URL parser makes of it.
        #[test]
        fn text_survives_a_url(text in "/[-A-Za-z0-9._~:@+,/%;?#\\\\]{0,20}") {
            if text.parse::<PathTemplate>().is_ok() {
                let url = url::Url::parse(&format!("https://h{text}")).expect("a URL");
                prop_assert_eq!(url.path(), text.as_str());
                prop_assert_eq!((url.query(), url.fragment()), (None, None));
            }
        }
    }
}
