//! What a call can come to.

use std::{fmt, time::Duration};
use tonic::{Code, Status};

/// Why the control plane did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It cannot be reached, is overloaded, or something it relies on is down. Try again.
    #[error("the control plane is not available: {0}")]
    Unavailable(Answer),
    /// The API key or the sign-in is missing, unknown, expired or revoked.
    #[error("not accepted: {0}")]
    Unauthenticated(Answer),
    /// The API key is good and does not allow this.
    #[error("refused: {0}")]
    Denied(Answer),
    /// There is nothing of that name.
    #[error("not found: {0}")]
    NotFound(Answer),
    /// A field breaks a rule; [`Answer::field`] names it.
    #[error("invalid: {0}")]
    Invalid(Answer),
    /// Something of that name exists, or changed in the meantime.
    #[error("conflict: {0}")]
    Conflict(Answer),
    /// A gate is closed in the present state: open leases, nodes behind, a stopped tree.
    #[error("not now: {0}")]
    Refused(Answer),
    /// The control plane failed; its log has the request id.
    #[error("the control plane failed: {0}")]
    Failed(Answer),
    /// The answer does not keep the contract: client and control plane are of different versions.
    #[error("the control plane's answer has a {0} that this client does not understand")]
    Unintelligible(&'static str),
}

/// What the control plane said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// In words.
    pub message: String,
    /// A stable code.
    pub reason: Option<String>,
    /// The request field that is meant.
    pub field: Option<String>,
    /// Names this call in the control plane's log.
    pub request_id: Option<String>,
    /// When the same call can succeed.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let notes: Vec<_> = [
            ("field", &self.field),
            ("reason", &self.reason),
            ("request", &self.request_id),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name} {}", value.as_deref()?)))
        .collect();
        if notes.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", notes.join(", "))
    }
}

impl Error {
    /// What the control plane said, where it said something.
    #[must_use]
    pub fn answer(&self) -> Option<&Answer> {
        match self {
            Self::Unavailable(answer)
            | Self::Unauthenticated(answer)
            | Self::Denied(answer)
            | Self::NotFound(answer)
            | Self::Invalid(answer)
            | Self::Conflict(answer)
            | Self::Refused(answer)
            | Self::Failed(answer) => Some(answer),
            Self::Unintelligible(_) => None,
        }
    }

    /// The stable code, where there is one.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.answer()?.reason.as_deref()
    }

    /// Whether the same call can succeed later without anybody changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Failed(_))
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let header = |name: &str| {
            let value = status.metadata().get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        let answer = Answer {
            message: status.message().to_owned(),
            reason: header("xylem-reason"),
            field: header("xylem-field"),
            request_id: header("x-request-id"),
            retry_after: header("retry-after")
                .and_then(|seconds| seconds.parse().ok())
                .map(Duration::from_secs),
        };
        match status.code() {
            Code::Unauthenticated => Self::Unauthenticated(answer),
            Code::PermissionDenied => Self::Denied(answer),
            Code::NotFound => Self::NotFound(answer),
            Code::InvalidArgument | Code::OutOfRange => Self::Invalid(answer),
            Code::AlreadyExists | Code::Aborted => Self::Conflict(answer),
            Code::FailedPrecondition => Self::Refused(answer),
            // A connection that breaks in the middle of a call is reported as cancelled or unknown.
            Code::Unavailable
            | Code::ResourceExhausted
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown => Self::Unavailable(answer),
            Code::Ok | Code::Unimplemented | Code::Internal | Code::DataLoss => {
                Self::Failed(answer)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: Code) -> Status {
        let mut status = Status::new(code, "the audience is missing");
        for (name, value) in [
            ("xylem-reason", "audience_missing"),
            ("xylem-field", "audiences"),
            ("x-request-id", "r-1"),
        ] {
            let metadata = status.metadata_mut();
            metadata.insert(name, value.parse().expect("plain text"));
        }
        status
    }

    #[test]
    fn an_answer_names_field_reason_and_request() {
        let error = Error::from(status(Code::InvalidArgument));
        assert_eq!(
            error.to_string(),
            "invalid: the audience is missing \
             (field audiences, reason audience_missing, request r-1)"
        );
        assert_eq!(error.reason(), Some("audience_missing"));
    }

    #[test]
    fn only_what_can_pass_by_itself_is_retryable() {
        for (code, retryable) in [
            (Code::Unavailable, true),
            (Code::ResourceExhausted, true),
            (Code::DeadlineExceeded, true),
            (Code::Internal, true),
            (Code::Unauthenticated, false),
            (Code::PermissionDenied, false),
            (Code::NotFound, false),
            (Code::InvalidArgument, false),
            (Code::AlreadyExists, false),
            (Code::FailedPrecondition, false),
        ] {
            assert_eq!(
                Error::from(status(code)).is_retryable(),
                retryable,
                "{code:?}"
            );
        }
    }
}
