//! What an administrative change is about.

use crate::codes::codes;
use std::{fmt, str::FromStr};

codes!(
    /// What kind of thing a change is about.
    SubjectKind {
        /// An agent.
        Agent = "agent",
        /// An API key.
        Key = "key",
        /// A tool.
        Tool = "tool",
        /// A policy.
        Policy = "policy",
        /// A request for access, or what was approved.
        Access = "access",
        /// A stored credential, with its version where one is meant.
        Credential = "credential",
        /// An access token, by its id.
        Token = "token",
        /// A session, of somebody who signed in.
        Session = "session",
        /// An identity provider.
        Provider = "provider",
        /// A task queue.
        Queue = "queue",
        /// A key-encryption key.
        KeyEncryptionKey = "key_encryption_key",
        /// A key of the vault's, a tree's or a stored credential's, as it lies in the database: wrapped.
        WrappedKey = "wrapped_key",
        /// A call of the control plane, by its name in the contract.
        Call = "call",
        /// A stored row of none of these, by what it is and its key.
        Row = "row",
    }
);

/// What something is called in an entry: 1 to 250 characters, none of them a control character.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(String);

impl Label {
    /// The most characters a label has.
    pub const LONGEST: usize = 250;

    /// Makes a label; `None` where the text is empty, longer than 250 characters or not printable.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let printable = !text.is_empty() && !text.chars().any(char::is_control);
        let short = text.chars().nth(Self::LONGEST).is_none();
        (printable && short).then(|| Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a change is about; as text, `agent:svc-7`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// What kind of thing.
    pub kind: SubjectKind,
    /// Which.
    pub id: Label,
}

impl Subject {
    /// Names a subject. Ids keep their own rules; of what keeps none, control characters and what is
    /// too long are left out.
    #[must_use]
    pub fn new(kind: SubjectKind, id: impl fmt::Display) -> Self {
        let text = id.to_string();
        let printable = text.chars().filter(|c| !c.is_control());
        let text: String = printable.take(Label::LONGEST).collect();
        let id = if text.is_empty() {
            "-".to_owned()
        } else {
            text
        };
        Self {
            kind,
            id: Label(id),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.id)
    }
}

/// Why a text names no subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a subject is a kind and an id, such as agent:svc-7 or tool:acme.deploy")]
pub struct SubjectError;

impl FromStr for Subject {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, SubjectError> {
        let (kind, id) = text.split_once(':').ok_or(SubjectError)?;
        Ok(Self {
            kind: SubjectKind::from_code(kind).ok_or(SubjectError)?,
            id: Label::new(id).ok_or(SubjectError)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_reads_back_and_others_are_refused() {
        let subject = Subject::new(SubjectKind::Tool, "acme.deploy");
        assert_eq!(subject.to_string(), "tool:acme.deploy");
        assert_eq!(subject.to_string().parse(), Ok(subject));
        for bad in ["", "tool", "tool:", "else:acme", "tool:a\nb"] {
            assert_eq!(bad.parse::<Subject>(), Err(SubjectError), "{bad:?}");
        }
    }

    #[test]
    fn a_subject_is_short_and_printable_whatever_it_is_made_of() {
        let id = |text: &str| Subject::new(SubjectKind::Agent, text).id.to_string();
        assert_eq!(id("a\u{1b}[2J"), "a[2J");
        assert_eq!(id("\n"), "-");
        assert_eq!(id(&"é".repeat(300)).chars().count(), Label::LONGEST);
    }
}
