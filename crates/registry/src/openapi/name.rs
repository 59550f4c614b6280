//! Names of tools, from what a document calls its operations.

use std::collections::BTreeSet;
use xylem_ids::{ToolName, ToolTag};

const MAX_NAME: usize = 100;

/// `prefix.` and the words, cut to what a name may have. A name that is taken gets a number; the flag
/// says so.
pub(super) fn tool(
    prefix: &ToolName,
    words: &str,
    taken: &BTreeSet<ToolName>,
) -> Option<(ToolName, bool)> {
    let plain = cut(&format!("{prefix}.{}", kebab(words)), MAX_NAME)
        .parse()
        .ok()?;
    if !taken.contains(&plain) {
        return Some((plain, false));
    }
    (2..=taken.len().saturating_add(2)).find_map(|number| {
        let ending = format!("-{number}");
        let room = MAX_NAME.saturating_sub(ending.len());
        let name = format!("{}{ending}", cut(plain.as_str(), room));
        let name: ToolName = name.parse().ok()?;
        (!taken.contains(&name)).then_some((name, true))
    })
}

/// A tag as the registry writes it; none where nothing is left of it.
pub(super) fn tag(text: &str) -> Option<ToolTag> {
    cut(&kebab(text).replace('.', "-"), 40).parse().ok()
}

/// Lower case, words joined by `-`: `listPets` and `List pets` become `list-pets`.
fn kebab(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    let mut before_was_lower = false;
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || c == '_' || c == '.' {
            if c.is_ascii_uppercase() && before_was_lower {
                name.push('-');
            }
            name.push(c.to_ascii_lowercase());
        } else if !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
        before_was_lower = c.is_ascii_lowercase() || c.is_ascii_digit();
    }
    name.trim_matches(['-', '.', '_']).to_owned()
}

/// At most so many bytes; the text is ASCII.
fn cut(text: &str, most: usize) -> &str {
    text.get(..most).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_of_words() {
        for (text, expected) in [
            ("listPets", "list-pets"),
            ("getUserByID", "get-user-by-id"),
            ("List  pets!", "list-pets"),
            ("GET /v1/pets/{petId}", "get-v1-pets-pet-id"),
            ("pets_list.all", "pets_list.all"),
            ("Überblick", "berblick"),
            ("../..", ""),
        ] {
            assert_eq!(kebab(text), expected, "{text}");
        }
    }

    #[test]
    fn a_taken_name_gets_a_number() {
        let prefix: ToolName = "acme".parse().unwrap();
        let mut taken = BTreeSet::new();
        for expected in ["acme.list", "acme.list-2", "acme.list-3"] {
            let (name, renamed) = tool(&prefix, "list", &taken).unwrap();
            assert_eq!(name.as_str(), expected);
            assert_eq!(renamed, expected != "acme.list");
            taken.insert(name);
        }
        let long = "x".repeat(300);
        for _ in 0..3 {
            let (name, _) = tool(&prefix, &long, &taken).unwrap();
            assert_eq!(name.as_str().len(), 100);
            assert!(taken.insert(name));
        }
    }
}
