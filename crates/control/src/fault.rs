//! What a handler fails with, and how that leaves the process.

use crate::{tampered::Tampered, temporal::TemporalError};
use std::{error::Error, sync::Arc, time::Duration};
use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};
use tonic_types::{ErrorDetails, StatusExt};
use xylem_audit::LogError;
use xylem_identity::IdentityError;
use xylem_registry::{Invalid, RegistryError, StorageError, Unchanged};
use xylem_vault::{ClaimError, VaultError};

/// The metadata that carries the stable reason.
pub(crate) const REASON: &str = "xylem-reason";
/// The metadata that carries the name of the field that is meant.
pub(crate) const FIELD: &str = "xylem-field";
/// Who gives the reasons their meaning, in `google.rpc.ErrorInfo`.
const DOMAIN: &str = "xylem";

/// A failure with everything that a caller is told, and a cause that only the log sees.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    code: Code,
    reason: &'static str,
    message: String,
    field: Option<String>,
    retry_after: Option<Duration>,
    cause: Option<Arc<dyn Error + Send + Sync>>,
}

impl Fault {
    fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            field: None,
            retry_after: None,
            cause: None,
        }
    }

    /// A field breaks its rule. The message says the rule and never quotes the field.
    pub(crate) fn invalid(field: &str, message: impl Into<String>) -> Self {
        let mut fault = Self::new(Code::InvalidArgument, "invalid", message);
        fault.field = Some(field.to_owned());
        fault
    }

    /// Says first what the message is about.
    pub(crate) fn about(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, "not_found", format!("no such {what}"))
    }

    pub(crate) fn denied(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(Code::PermissionDenied, reason, message)
    }

    /// A limit is reached: the same call succeeds after so long.
    pub(crate) fn limited(
        reason: &'static str,
        message: impl Into<String>,
        after: Duration,
    ) -> Self {
        let mut fault = Self::new(Code::ResourceExhausted, reason, message);
        fault.retry_after = Some(after);
        fault
    }

    pub(crate) fn conflict(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(Code::AlreadyExists, reason, message)
    }

    /// A gate is closed in the present state.
    pub(crate) fn refused(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(Code::FailedPrecondition, reason, message)
    }

    pub(crate) fn unauthenticated(reason: &'static str, message: &str) -> Self {
        Self::new(Code::Unauthenticated, reason, message)
    }

    /// Something this process relies on does not answer: retryable.
    pub(crate) fn unavailable(
        reason: &'static str,
        message: impl Into<String>,
        cause: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::new(Code::Unavailable, reason, message).caused_by(cause)
    }

    /// The server is about to end, and nothing is wrong with the call.
    pub(crate) fn stopping() -> Self {
        let message = "the control plane is stopping: ask again";
        Self::new(Code::Unavailable, "stopping", message)
    }

    /// Somebody else is obtaining the next value of a credential.
    pub(crate) fn renewing() -> Self {
        let message = "its next value is just being obtained: try again in a moment";
        Self::refused("renewing", message)
    }

    pub(crate) fn internal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let message = "the control plane failed: its log has the request id";
        Self::new(Code::Internal, "internal", message).caused_by(cause)
    }

    fn caused_by(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.cause = Some(Arc::from(cause.into()));
        self
    }

    /// The row that is not what was written, where it failed by one.
    pub(crate) fn tampered(&self) -> Option<Tampered> {
        let cause = self.cause.as_deref()?;
        Tampered::find(cause)
    }

    /// The stable code.
    pub(crate) fn reason(&self) -> &'static str {
        self.reason
    }

    /// After how long the same call may succeed, where that is known.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// What an HTTP client is told to authenticate with, where it did not (RFC 6750).
    pub(crate) fn challenge(&self) -> Option<&'static str> {
        match (self.code, self.reason) {
            (Code::Unauthenticated, "key_missing") => Some("Bearer"),
            (Code::Unauthenticated, _) => Some("Bearer error=\"invalid_token\""),
            _ => None,
        }
    }

    /// Whether it is worth a line in the log, and not just in the answer.
    fn is_ours(&self) -> bool {
        self.cause.is_some()
    }

    /// Says it with its causes in the server's log, which nobody is answered.
    pub(crate) fn log(&self) {
        let mut causes = String::new();
        let mut next = self.cause.as_deref().map(|cause| cause as &dyn Error);
        while let Some(cause) = next {
            causes.push_str(": ");
            causes.push_str(&cause.to_string());
            next = cause.source();
        }
        let request = crate::caller::request_id();
        tracing::warn!(request.id = %request, reason = self.reason, "{}{causes}", self.message);
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        if fault.is_ours() {
            fault.log();
        }
        if let (Some(row), Some(passage)) = (fault.tampered(), crate::caller::passage()) {
            passage.met(row);
        }
        let mut metadata = MetadataMap::new();
        metadata.insert(REASON, MetadataValue::from_static(fault.reason));
        let mut details = ErrorDetails::with_error_info(fault.reason, DOMAIN, []);
        if let Some(after) = fault.retry_after {
            details.set_retry_info(Some(after));
            metadata.insert("retry-after", after.as_secs().max(1).into());
        }
        if let Some(field) = fault.field {
            details.add_bad_request_violation(&field, &fault.message);
            if let Ok(value) = field.parse() {
                metadata.insert(FIELD, value);
            }
        }
        Self::with_error_details_and_metadata(fault.code, fault.message, details, metadata)
    }
}

impl From<Invalid> for Fault {
    fn from(invalid: Invalid) -> Self {
        Self::invalid(invalid.field(), invalid.to_string())
    }
}

impl From<RegistryError> for Fault {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Invalid(invalid) => invalid.into(),
            RegistryError::ToolExists => Self::conflict("exists", error.to_string()),
            RegistryError::Unchanged(why) => unchanged(why),
            RegistryError::NotCallable(why) => Self::refused(why.code(), why.to_string()),
            RegistryError::Import { tool, error } => Self::from(*error).about(tool.as_str()),
            RegistryError::InUse => Self::refused("tool_in_use", error.to_string()),
            RegistryError::NotFound { what } => Self::not_found(what),
            RegistryError::Storage(StorageError::Unavailable(_)) => database(error),
            RegistryError::Crypto(_)
            | RegistryError::Storage(_)
            | RegistryError::Tampered { .. } => Self::internal(error),
        }
    }
}

impl From<IdentityError> for Fault {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Invalid(invalid) => Self::invalid(invalid.field(), invalid.to_string()),
            IdentityError::Exists { .. } => Self::conflict("exists", error.to_string()),
            IdentityError::NotFound { what } => Self::not_found(what),
            IdentityError::Retired => Self::refused("agent_retired", error.to_string()),
            IdentityError::NotRetired => Self::refused("agent_not_retired", error.to_string()),
            IdentityError::LastAdministrator => {
                Self::refused("last_administrator", error.to_string())
            }
            IdentityError::Changed => Self::conflict("changed_meanwhile", error.to_string()),
            IdentityError::RegistrationClosed => {
                Self::denied("registration_closed", error.to_string())
            }
            IdentityError::InvitationInvalid => {
                Self::denied("invitation_not_valid", error.to_string())
            }
            IdentityError::CodeWrong => Self::denied("code_wrong", error.to_string()),
            IdentityError::PasswordWrong => Self::denied("password_wrong", error.to_string()),
            IdentityError::TooMany(wait) => Self::limited("too_many", error.to_string(), wait),
            IdentityError::Busy => {
                let message = error.to_string();
                Self::unavailable("busy", message, error)
            }
            IdentityError::Provider { .. } => {
                let message = error.to_string();
                Self::unavailable("provider_unavailable", message, error)
            }
            IdentityError::KeyOver => Self::refused("key_over", error.to_string()),
            IdentityError::Storage(xylem_identity::StorageError::Unavailable(_)) => database(error),
            IdentityError::Storage(_)
            | IdentityError::Tampered { .. }
            | IdentityError::Crypto(_) => Self::internal(error),
        }
    }
}

impl From<VaultError> for Fault {
    fn from(error: VaultError) -> Self {
        let message = error.to_string();
        match error {
            VaultError::Refused(refusal) => match refusal.retry_after() {
                Some(after) => Self::limited(refusal.code(), message, after),
                None => Self::denied(refusal.code(), message),
            },
            VaultError::Invalid { field, .. } => Self::invalid(field, message),
            VaultError::NotFound { what } => Self::not_found(what),
            VaultError::Stopped => Self::refused("tree_stopped", message),
            VaultError::GivenUp => Self::refused("start_given_up", message),
            VaultError::BoundElsewhere => Self::conflict("bound_elsewhere", message),
            VaultError::RequestReused => Self::conflict("request_reused", message),
            VaultError::OpenLeases { .. } => Self::refused("leases_open", message),
            VaultError::StillActive(_) => Self::refused("version_active", message),
            VaultError::AlreadyRevoked(_) => Self::refused("version_revoked", message),
            VaultError::CredentialExists => Self::conflict("exists", message),
            VaultError::SlotBound => Self::conflict("slot_bound", message),
            VaultError::CredentialBound => Self::refused("credential_bound", message),
            VaultError::CredentialExpired => Self::refused("credential_expired", message),
            VaultError::NotObtained => Self::refused("not_obtained", message),
            VaultError::ValueRevoked => Self::refused("value_revoked", message),
            VaultError::ValueSuperseded => Self::refused("value_superseded", message),
            VaultError::HeldByTrees(_) => Self::refused("held_by_trees", message),
            VaultError::OtherVersion(_) => Self::refused("other_version", message),
            VaultError::OtherCurrentKey(_) => Self::refused("other_current_key", message),
            VaultError::Exhausted => Self::refused("exhausted", message),
            VaultError::Held => Self::unavailable("restore_not_confirmed", message, error),
            VaultError::StillStarting => Self::unavailable("tree_starting", message, error),
            error if error.is_retryable() => database(error),
            error => Self::internal(error),
        }
    }
}

impl From<ClaimError> for Fault {
    fn from(error: ClaimError) -> Self {
        match error {
            ClaimError::Refused(refusal) => Self::denied(refusal.code(), refusal.to_string()),
            ClaimError::NotChecked(cause) => Self::unavailable(
                "claims_not_checked",
                "the claims could not be checked",
                cause,
            ),
        }
    }
}

impl From<LogError> for Fault {
    fn from(error: LogError) -> Self {
        match error {
            LogError::PageToken => Self::invalid("page_token", error.to_string()),
            LogError::Tampered(_) => {
                let message = error.to_string();
                Self::new(Code::DataLoss, "audit_tampered", message).caused_by(error)
            }
            error => Self::unavailable(
                "audit_unavailable",
                "the audit log does not answer: try again",
                error,
            ),
        }
    }
}

impl From<TemporalError> for Fault {
    fn from(error: TemporalError) -> Self {
        match error {
            TemporalError::NotFound => Self::not_found("running workflow"),
            TemporalError::AlreadyRunning => Self::conflict(
                "already_running",
                "a workflow of that id is running: choose another id, or stop it first",
            ),
            TemporalError::Busy(_) => {
                Self::unavailable("temporal_busy", "Temporal is busy: try again", error)
            }
            TemporalError::NotPermitted(_) => Self::unavailable(
                "temporal_not_permitted",
                "Temporal does not permit this to the control plane: check its credentials",
                error,
            ),
            TemporalError::Rejected(_) => Self::refused(
                "temporal_rejected",
                "Temporal did not accept the request: check workflow id, type and task queue",
            )
            .caused_by(error),
            TemporalError::NoAnswer(_)
            | TemporalError::Unavailable(_)
            | TemporalError::Unintelligible(_) => Self::unavailable(
                "temporal_unavailable",
                "Temporal does not answer: try again",
                error,
            ),
        }
    }
}

fn unchanged(why: Unchanged) -> Fault {
    match why {
        Unchanged::NotOwner | Unchanged::OwnProposal => Fault::denied(why.code(), why.to_string()),
        Unchanged::OtherVersion | Unchanged::NotProposed => {
            Fault::conflict(why.code(), why.to_string())
        }
        Unchanged::NothingApproved | Unchanged::Retired | Unchanged::NotRetired => {
            Fault::refused(why.code(), why.to_string())
        }
    }
}

fn database(error: impl Error + Send + Sync + 'static) -> Fault {
    Fault::unavailable(
        "database_unavailable",
        "the control plane's database does not answer: try again",
        error,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_reason_and_field_both_ways() {
        let status = Status::from(Fault::invalid("audiences", "audiences must not be empty"));
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.metadata().get(REASON).unwrap(), "invalid");
        assert_eq!(status.metadata().get(FIELD).unwrap(), "audiences");
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().domain, DOMAIN);
        let violation = &details.bad_request().unwrap().field_violations[0];
        assert_eq!(violation.field, "audiences");
    }

    #[test]
    fn a_cause_stays_here() {
        let status = Status::from(Fault::internal("canary in a cause"));
        assert!(!format!("{status:?}").contains("canary"));
    }

    #[test]
    fn what_passes_by_itself_is_unavailable() {
        let busy = TemporalError::Busy(Status::resource_exhausted("rps"));
        assert_eq!(Status::from(Fault::from(busy)).code(), Code::Unavailable);
    }
}
