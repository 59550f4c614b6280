//! The file that says which identity providers' tokens are accepted.

use super::fields::{FileError, Parsed, read};
use serde::Deserialize;
use std::path::Path;
use xylem_identity::{Invalid, Provider, ProviderSettings};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    provider: Vec<ProviderSettings>,
}

/// Reads the file.
///
/// # Errors
/// It cannot be read, or a field breaks its rule.
pub fn identity_providers(file: &Path) -> Result<Vec<Provider>, FileError> {
    let Parsed { fields, text } = read::<Fields>(file)?;
    let wrong = |index: usize, invalid: &Invalid| {
        let path = ["provider", &index.to_string(), invalid.field()];
        text.wrong(&path, format!("provider {}: {invalid}", index + 1))
    };
    let given = fields.provider.into_iter().enumerate();
    let checked: Result<Vec<_>, _> = given
        .map(|(index, given)| Provider::new(given).map_err(|invalid| wrong(index, &invalid)))
        .collect();
    let providers = checked?;
    match Provider::alike(&providers) {
        Some((index, invalid)) => Err(wrong(index, &invalid)),
        None => Ok(providers),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const SOUND: &str = r#"
        [[provider]]
        name = "corp"
        issuer = "https://login.example/realms/main"
        audience = "xylem"
        algorithms = ["RS256"]
        roles_claim = "groups"

        [provider.roles]
        deployers = ["user", "tool_publisher"]
    "#;

    fn of(text: &str) -> Result<Vec<Provider>, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("providers.toml");
        fs::write(&file, text).unwrap();
        identity_providers(&file).map_err(|error| error.to_string())
    }

    #[test]
    fn providers_are_read() {
        let more = r#"
            [[provider]]
            name = "ci"
            issuer = "https://ci.example"
            audience = "https://xylem.example"
            algorithms = ["ES256", "EdDSA"]
            type = "JWT"
            kind = "bot"
            unmapped = "user"
            second_factor = ["mfa"]
        "#;
        let providers = of(&format!("{SOUND}{more}")).unwrap();
        let issuers: Vec<_> = providers.iter().map(Provider::issuer).collect();
        assert_eq!(
            issuers,
            ["https://login.example/realms/main", "https://ci.example"]
        );
    }

    /// The example of the manual is one that works.
    #[test]
    fn the_manual_shows_a_file_that_is_read() {
        let manual = include_str!("../../../../docs/identity.md");
        let example = manual.split("```toml\n").nth(1).unwrap();
        let example = example.split("```").next().unwrap();
        assert_eq!(of(example).unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_field_or_no_value_is_refused_by_name() {
        for (from, to, expected) in [
            ("audience", "audiences", "line 5: unknown field `audiences`"),
            (
                "audience = \"xylem\"",
                "",
                "line 2: missing field `audience`",
            ),
            ("algorithms = [\"RS256\"]", "", "algorithms"),
            ("RS256", "HS256", "line 6: provider 1: algorithms"),
            ("https:", "http:", "line 4: provider 1: issuer"),
            ("\"user\"", "\"operator\"", "operator"),
            ("\"user\"", "\"worker\"", "line 9: provider 1: roles"),
            ("groups", "email", "line 7: provider 1: roles_claim"),
            ("roles_claim = \"groups\"", "unmapped = \"admin\"", "admin"),
            ("[[provider]]", "[[providers]]", "providers"),
        ] {
            let error = of(&SOUND.replace(from, to)).unwrap_err();
            assert!(error.contains(expected), "{to}: {error}");
        }
    }
}
