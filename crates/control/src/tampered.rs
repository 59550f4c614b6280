//! Stored rows that are not what was written: found in whatever failed, and said in the audit log.

use crate::{fault::Fault, plane::Plane};
use std::{error::Error, time::SystemTime};
use tonic::Status;
use xylem_audit::{Entry, Finding, Kind, LogError, Reason, Source, Subject, SubjectKind, Verdict};
use xylem_identity::IdentityError;
use xylem_policy::PolicyError;
use xylem_registry::RegistryError;
use xylem_vault::VaultError;

/// One row, by what it is and its key: nothing of its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tampered {
    what: Reason,
    subject: Subject,
}

impl Tampered {
    fn new(what: &str, which: &str) -> Self {
        let code = what.to_ascii_lowercase().replace(' ', "_");
        let subject = match kind(what) {
            // One that cannot even be read does not say which it is.
            Some(kind) if which != "row" => Subject::new(kind, which),
            _ => Subject::new(SubjectKind::Row, format_args!("{what} {which}")),
        };
        Self {
            what: Reason::parse(&code).unwrap_or_else(|| Reason::of("unspecified")),
            subject,
        }
    }

    /// What was found in the audit log, which is one thing however many of its entries were edited. A
    /// genuine entry that only another version can read is none.
    pub(crate) fn in_log(finding: Finding) -> Option<Self> {
        let genuine = matches!(finding, Finding::Unreadable { .. });
        (!genuine).then(|| Self {
            what: Reason::of(finding.code()),
            subject: Subject::new(SubjectKind::Row, "audit log"),
        })
    }

    /// An entry about it.
    pub(crate) fn entry(self, at: SystemTime) -> Entry {
        let mut entry = Entry::new(at, Kind::Tampered, Verdict::Denied);
        entry.subject = Some(self.subject);
        entry.reason = Some(self.what);
        entry
    }

    /// The row that an error is about, or what caused it; none where the log says so already.
    pub(crate) fn find(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = Self::of(error) {
                return Some(found);
            }
            next = error.source();
        }
        None
    }

    fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        if let Some(LogError::Tampered(finding)) = error.downcast_ref() {
            return Self::in_log(*finding);
        }
        let (what, which) =
            if let Some(IdentityError::Tampered { what, which }) = error.downcast_ref() {
                (what, which)
            } else if let Some(PolicyError::Tampered { what, which }) = error.downcast_ref() {
                (what, which)
            } else if let Some(RegistryError::Tampered { what, which }) = error.downcast_ref() {
                (what, which)
            } else if let Some(VaultError::Tampered(place)) = error.downcast_ref()
                && !place.audited
            {
                (&place.what, &place.which)
            } else {
                return None;
            };
        Some(Self::new(what, which))
    }
}

/// What entries call a thing of which such a row is a part.
fn kind(what: &str) -> Option<SubjectKind> {
    match what {
        "agent" | "password" | "second factor" => Some(SubjectKind::Agent),
        "API key" => Some(SubjectKind::Key),
        "session" => Some(SubjectKind::Session),
        "tool" => Some(SubjectKind::Tool),
        "policy" => Some(SubjectKind::Policy),
        "access request" => Some(SubjectKind::Access),
        _ if what.contains("credential") => Some(SubjectKind::Credential),
        _ => None,
    }
}

impl Plane {
    /// Counts that a row was met which is not what was written: an entry per row and minute, however
    /// often it is met.
    pub(crate) fn tampered(&self, row: Tampered) {
        let source = Source {
            subject: Some(row.subject),
            ..Source::default()
        };
        let now = self.now();
        self.tally().refused(now, Kind::Tampered, row.what, source);
    }

    /// The same of rows that are shown all the same, so that somebody can do something about them.
    pub(crate) fn edited_among(&self, checked: impl Iterator<Item = Result<(), IdentityError>>) {
        let edited = checked.filter_map(Result::err);
        for row in edited.filter_map(|error| Tampered::find(&error)) {
            self.tampered(row);
        }
    }

    /// The same of what work failed by that no caller waits for.
    pub(crate) fn met(&self, fault: &Fault) {
        if let Some(row) = fault.tampered() {
            self.tampered(row);
        }
    }

    /// What a stream ends with whose call was answered before.
    pub(crate) fn ended_by(&self, fault: impl Into<Fault>) -> Status {
        let fault = fault.into();
        self.met(&fault);
        fault.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(error: impl Error + 'static) -> Option<(String, String)> {
        let found = Tampered::find(&error)?;
        Some((found.what.to_string(), found.subject.to_string()))
    }

    fn pair(what: &str, subject: &str) -> Option<(String, String)> {
        Some((what.to_owned(), subject.to_owned()))
    }

    #[test]
    fn a_row_is_named_by_what_it_is_a_part_of() {
        let identity = |what| IdentityError::Tampered {
            what,
            which: "ada".to_owned(),
        };
        assert_eq!(found(identity("password")), pair("password", "agent:ada"));
        assert_eq!(found(identity("API key")), pair("api_key", "key:ada"));
        let row = found(identity("signing key"));
        assert_eq!(row, pair("signing_key", "row:signing key ada"));
        let unread =
            IdentityError::from(xylem_identity::StorageError::Unreadable { what: "agent" });
        assert_eq!(found(unread), pair("agent", "row:agent row"));
        assert_eq!(found(IdentityError::Busy), None);
    }

    #[test]
    fn the_audit_log_is_one_thing_whatever_was_edited_in_it() {
        for (finding, code) in [
            (Finding::Changed { seq: 17 }, "entry_changed"),
            (Finding::Head, "head_forged"),
        ] {
            let met = found(LogError::Tampered(finding));
            assert_eq!(met, pair(code, "row:audit log"));
        }
        let newer = Finding::Unreadable {
            seq: 17,
            field: "kind",
        };
        assert_eq!(found(LogError::Tampered(newer)), None);
        assert_eq!(found(LogError::Busy), None);
    }

    #[test]
    fn a_row_is_found_behind_what_failed_by_it() {
        let tool = RegistryError::Tampered {
            what: "tool",
            which: "acme.deploy".to_owned(),
        };
        assert_eq!(found(tool), pair("tool", "tool:acme.deploy"));
        let inner = PolicyError::Tampered {
            what: "policy",
            which: "night".to_owned(),
        };
        let outer = VaultError::Policies(inner);
        assert_eq!(found(outer), pair("policy", "policy:night"));
    }
}
