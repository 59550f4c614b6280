//! How a command ends when it does not end well.

use crate::{data::DataError, temporal::TemporalError};
use std::{error::Error, fmt, io, process::ExitCode};
use xylem_client::ConnectError;

/// Exit statuses; 0 is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It did not work.
    Failed = 1,
    /// It was not asked as it must be.
    Usage = 2,
    /// Policy or a gate refused.
    Refused = 3,
    /// There is nothing of that name.
    NotFound = 4,
    /// Something it relies on is not there.
    Unavailable = 5,
    /// Whoever read the answer has enough of it, as `head` has: what a shell says of a program that
    /// SIGPIPE ended.
    Unread = 141,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What went wrong, why, and what to do.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    what: String,
    causes: Vec<String>,
    hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            causes: Vec::new(),
            hint: None,
        }
    }

    /// From an error and what caused it.
    pub(crate) fn from_error(exit: Exit, error: &dyn Error) -> Self {
        let causes = std::iter::successors(error.source(), |cause| Error::source(*cause));
        Self {
            causes: causes.map(ToString::to_string).collect(),
            ..Self::new(exit, error.to_string())
        }
    }

    /// Of what cannot be shown again: that nobody read it is a failure, too.
    pub(crate) fn lost(error: &io::Error) -> Self {
        Self::new(Exit::Failed, format!("cannot write the answer: {error}"))
    }

    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// What it is about, before what happened.
    #[must_use]
    pub(crate) fn about(mut self, subject: &str) -> Self {
        self.what = format!("{subject}: {}", self.what);
        self
    }

    /// What to do about it.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        let mut said = self.what.as_str();
        for cause in &self.causes {
            // Libraries repeat their source in their own message.
            if !said.contains(cause.as_str()) {
                write!(f, "\n  {cause}")?;
            }
            said = cause;
        }
        match &self.hint {
            Some(hint) => write!(f, "\n  {hint}"),
            None => Ok(()),
        }
    }
}

impl From<xylem_client::Error> for Failure {
    fn from(error: xylem_client::Error) -> Self {
        use xylem_client::Error as E;
        let (exit, hint) = match &error {
            // Somebody was too quick: it says itself when to try again, and nothing is down.
            E::Unavailable(answer) if answer.retry_after.is_some() => (Exit::Unavailable, None),
            E::Unavailable(_) => (
                Exit::Unavailable,
                Some("`xylem doctor` says what is down; try again"),
            ),
            E::Unauthenticated(_) => (
                Exit::Refused,
                Some(
                    "`xylem login NAME` signs in again; or name a valid key with --key-file or XYLEM_API_KEY",
                ),
            ),
            E::Denied(_) | E::Refused(_) => (Exit::Refused, None),
            E::NotFound(_) => (Exit::NotFound, None),
            E::Invalid(_) => (Exit::Usage, None),
            E::Conflict(_) | E::Failed(_) => (Exit::Failed, None),
            E::Unintelligible(_) => (
                Exit::Failed,
                Some("use a `xylem` of the control plane's version; `xylem doctor` names both"),
            ),
        };
        let failure = Self::from_error(exit, &error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let exit = match error {
            ConnectError::Unreachable { .. } => Exit::Unavailable,
            _ => Exit::Usage,
        };
        Self::from_error(exit, &error)
    }
}

impl From<TemporalError> for Failure {
    fn from(error: TemporalError) -> Self {
        let exit = match error {
            TemporalError::Configuration(_) => Exit::Usage,
            TemporalError::Refused { .. } => Exit::Refused,
            _ => Exit::Unavailable,
        };
        // The SDK's own errors print their sources with `Debug`.
        Self::new(exit, error.to_string())
            .hint("name another one with --temporal-address or TEMPORAL_ADDRESS")
    }
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        Self::from_error(Exit::Failed, &error)
    }
}

/// Standard output is full, or gone.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let exit = match error.kind() {
            io::ErrorKind::BrokenPipe => Exit::Unread,
            _ => Exit::Failed,
        };
        Self {
            exit,
            ..Self::lost(&error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xylem_client::{Answer, Error};

    fn answer(message: &str) -> Answer {
        Answer {
            message: message.to_owned(),
            ..Answer::default()
        }
    }

    #[test]
    fn every_answer_has_its_exit_status() {
        for (error, status) in [
            (Error::Unavailable(answer("a")), Exit::Unavailable),
            (Error::Unauthenticated(answer("a")), Exit::Refused),
            (Error::Denied(answer("a")), Exit::Refused),
            (Error::Refused(answer("a")), Exit::Refused),
            (Error::NotFound(answer("a")), Exit::NotFound),
            (Error::Invalid(answer("a")), Exit::Usage),
            (Error::Conflict(answer("a")), Exit::Failed),
            (Error::Failed(answer("a")), Exit::Failed),
            (Error::Unintelligible("a"), Exit::Failed),
        ] {
            assert_eq!(Failure::from(error).exit, status);
        }
    }

    #[test]
    fn whoever_has_read_enough_is_not_told_of_a_broken_pipe() {
        for (kind, exit) in [
            (io::ErrorKind::BrokenPipe, Exit::Unread),
            (io::ErrorKind::StorageFull, Exit::Failed),
        ] {
            assert_eq!(Failure::from(io::Error::from(kind)).exit, exit);
            let lost = Failure::lost(&io::Error::from(kind));
            assert_eq!(lost.exit, Exit::Failed);
        }
    }

    #[test]
    fn an_error_says_what_why_and_what_to_do() {
        let missing = io::Error::new(io::ErrorKind::NotFound, "No such file");
        let failure = Failure::from(DataError::io("read", "admin.key", missing))
            .hint("start `xylem dev` first");
        assert_eq!(
            failure.to_string(),
            "error: cannot read admin.key\n  No such file\n  start `xylem dev` first"
        );
    }
}
