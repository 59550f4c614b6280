//! Filling path templates: `/repos/{owner}/builds/{id}`.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use xylem_ids::{PathTemplate, Segment};

/// What is written as it is in a segment: the unreserved characters of RFC 3986.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A template with every parameter in place: a path that begins with `/`, or nothing.
///
/// A value fills exactly its own segment: separators in it are encoded, and one that is empty, `.`
/// or `..` is refused.
pub(crate) fn fill(
    template: &PathTemplate,
    value: impl Fn(&str) -> Result<String, String>,
) -> Result<String, String> {
    let mut path = String::new();
    for segment in template.segments() {
        path.push('/');
        match segment {
            Segment::Text(text) => path.push_str(text),
            Segment::Parameter(name) => path.push_str(&encode(name, &value(name)?)?),
        }
    }
    Ok(path)
}

fn encode(name: &str, value: &str) -> Result<String, String> {
    if matches!(value, "" | "." | "..") {
        return Err(format!(
            "'{name}' goes into the path and is empty or dots: a segment would come out so"
        ));
    }
    if value.chars().any(char::is_control) {
        return Err(format!(
            "'{name}' goes into the path and has control characters"
        ));
    }
    Ok(utf8_percent_encode(value, UNRESERVED).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filled(template: &str, value: &str) -> Result<String, String> {
        let template: PathTemplate = template.parse().expect("a good template");
        fill(&template, |_| Ok(value.to_owned()))
    }

    #[test]
    fn values_stay_in_their_segment() {
        assert_eq!(filled("/b/{id}", "42").as_deref(), Ok("/b/42"));
        assert_eq!(
            filled("/b/{id}/x", "a/../b").as_deref(),
            Ok("/b/a%2F..%2Fb/x")
        );
        assert_eq!(
            filled("/b/{id}", "a?b#c\\d").as_deref(),
            Ok("/b/a%3Fb%23c%5Cd")
        );
        assert_eq!(filled("/b/{id}", "%2e%2e").as_deref(), Ok("/b/%252e%252e"));
        assert_eq!(filled("/b/{id}", "...").as_deref(), Ok("/b/..."));
        assert_eq!(filled("/", "x").as_deref(), Ok(""));
        for bad in ["", ".", "..", "a\nb", "\0"] {
            assert!(filled("/b/{id}/x", bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_value_changes_the_number_of_segments(value in ".*") {
            if let Ok(path) = filled("/a/{id}/b", &value) {
                let text = format!("https://h{path}?q=1");
                let url = url::Url::parse(&text).expect("a URL");
                prop_assert_eq!(url.path(), path.as_str());
                prop_assert_eq!(url.path_segments().map(Iterator::count), Some(3));
                prop_assert_eq!(url.query(), Some("q=1"));
            }
        }
    }
}
