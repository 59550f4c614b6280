//! Names: strings with a rule.

use serde::{Deserialize, Serialize};
use std::{borrow::Borrow, fmt, str::FromStr};

/// Why a string is not the identifier it was parsed as. The message names the identifier and the
/// rule, never the input: the input can be a secret that was put in the wrong place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {rule}")]
pub struct IdError {
    what: &'static str,
    rule: &'static str,
}

impl IdError {
    pub(crate) const fn new(what: &'static str, rule: &'static str) -> Self {
        Self { what, rule }
    }
}

pub(crate) fn printable(text: &str, most: usize) -> bool {
    !text.is_empty() && text.len() <= most && !text.chars().any(char::is_control)
}

fn lower_name(text: &str, most: usize, also: &[char]) -> bool {
    text.len() <= most
        && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || also.contains(&c))
}

/// Defines a string newtype whose only constructor checks `$ok`.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $ok:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            #[doc = concat!("The rule a ", $what, " keeps.")]
            pub const RULE: &'static str = $rule;

            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = $crate::name::IdError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                let ok: fn(&str) -> bool = $ok;
                if ok(&text) {
                    Ok(Self(text))
                } else {
                    Err($crate::name::IdError::new($what, $rule))
                }
            }
        }

        impl FromStr for $name {
            type Err = $crate::name::IdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}
pub(crate) use name;

name!(
    /// A named credential of a tree: `default`, `github`. At most 40 characters, so that
    /// `slot@version` fits a search attribute keyword.
    Slot,
    "slot",
    "1 to 40 characters of a-z, 0-9, '-' and '_', beginning with a letter or digit",
    |text| lower_name(text, 40, &['-', '_'])
);

impl Slot {
    /// The slot that is meant where none is named.
    #[must_use]
    pub fn default_slot() -> Self {
        Self("default".to_owned())
    }
}

name!(
    /// The name of a registered tool: `acme.deploy`.
    ToolName,
    "tool name",
    "1 to 100 characters of a-z, 0-9, '.', '-' and '_', beginning with a letter or digit",
    |text| lower_name(text, 100, &['.', '-', '_'])
);

name!(
    /// A credential that is kept under a name of its own, for many trees: `acme-deploy`.
    CredentialName,
    "credential name",
    "1 to 100 characters of a-z, 0-9, '.', '-' and '_', beginning with a letter or digit",
    |text| lower_name(text, 100, &['.', '-', '_'])
);

name!(
    /// An agent of the registry: a user, service or worker identity.
    AgentId,
    "agent",
    "1 to 100 characters of a-z, 0-9, '.', '-' and '_', beginning with a letter or digit",
    |text| lower_name(text, 100, &['.', '-', '_'])
);

name!(
    /// What several tools are named by together: `prod`, `build`.
    ToolTag,
    "tag",
    "1 to 40 characters of a-z, 0-9, '-' and '_', beginning with a letter or digit",
    |text| lower_name(text, 40, &['-', '_'])
);

name!(
    /// The name of a policy: `build-in-office-hours`.
    PolicyName,
    "policy name",
    "1 to 100 characters of a-z, 0-9, '.', '-' and '_', beginning with a letter or digit",
    |text| lower_name(text, 100, &['.', '-', '_'])
);

name!(
    /// One request for access, and the approval that came of it.
    AccessId,
    "access id",
    "1 to 64 characters of A-Z, a-z, 0-9, '-' and '_'",
    |text| (1..=64).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
);

name!(
    /// The id of a signing or encryption key; never the key.
    KeyId,
    "key id",
    "1 to 64 characters of A-Z, a-z, 0-9, '-' and '_'",
    |text| (1..=64).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
);

name!(
    /// What somebody signs in with: one installation of a program.
    ClientId,
    "client_id",
    "1 to 64 characters of A-Z, a-z, 0-9, '-' and '_'",
    |text| (1..=64).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
);

name!(
    /// The id of a session: of somebody who is signed in.
    SessionId,
    "session",
    "1 to 64 characters of A-Z, a-z, 0-9, '-' and '_'",
    |text| (1..=64).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
);

name!(
    /// What a token looks like without being it: a keyed digest, so that a guess cannot be tested
    /// offline.
    Fingerprint,
    "fingerprint",
    "8 to 64 lower-case hexadecimal digits",
    |text| (8..=64).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c))
);

name!(
    /// One redemption in flight.
    LeaseId,
    "lease id",
    "1 to 64 characters of A-Z, a-z, 0-9, '-' and '_'",
    |text| (1..=64).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
);

name!(
    /// One entry of the audit log.
    AuditId,
    "audit id",
    "1 to 64 characters of A-Z, a-z, 0-9, '-' and '_'",
    |text| (1..=64).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
);

name!(
    /// A Temporal task queue.
    TaskQueue,
    "task queue",
    "1 to 1000 printable characters",
    |text| printable(text, 1000)
);

name!(
    /// A Temporal workflow type.
    WorkflowType,
    "workflow type",
    "1 to 1000 printable characters",
    |text| printable(text, 1000)
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_keeps_its_rule() {
        for good in ["default", "github", "a", "0", "a-b_c9", &"s".repeat(40)] {
            assert!(good.parse::<Slot>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "_a", "A", "a b", "a@1", "ä", &"s".repeat(41)] {
            assert!(bad.parse::<Slot>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_error_names_the_rule_and_not_the_input() {
        let error = "Top Secret"
            .parse::<Slot>()
            .expect_err("spaces are refused");
        let text = error.to_string();
        assert!(text.contains("slot") && text.contains("40"), "{text}");
        assert!(!text.contains("Secret"), "{text}");
    }

    #[test]
    fn json_is_checked_like_text() {
        assert!(serde_json::from_str::<ToolName>("\"acme.deploy\"").is_ok());
        assert!(serde_json::from_str::<ToolName>("\"../etc\"").is_err());
    }
}
