//! Why somebody is not let in, or a change is not made.

use crate::{NotFetched, ProviderName, StorageError};
use std::{fmt, time::Duration};
use xylem_ids::{AgentId, KeyId};
use xylem_seal::CryptoError;

/// A field that breaks its rule. Never quotes the field's content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} must be {rule}")]
pub struct Invalid {
    field: &'static str,
    rule: &'static str,
}

impl Invalid {
    pub(crate) const fn new(field: &'static str, rule: &'static str) -> Self {
        Self { field, rule }
    }

    /// The field.
    #[must_use]
    pub fn field(&self) -> &'static str {
        self.field
    }
}

/// Why a change was not made, or something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A field breaks its rule.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Something else exists under this name.
    #[error("{what} exists already: choose another name")]
    Exists {
        /// What kind of thing.
        what: &'static str,
    },
    /// There is no such thing in this namespace.
    #[error("no such {what} in this namespace")]
    NotFound {
        /// What kind of thing.
        what: &'static str,
    },
    /// The agent was retired, and stays so.
    #[error("the agent was retired: create another, its name is not used again")]
    Retired,
    /// The agent was not retired.
    #[error("the agent is not retired: retire it first, and give its trees another owner")]
    NotRetired,
    /// It would leave nobody who can manage agents.
    #[error("this is the last administrator: give another agent the role admin first")]
    LastAdministrator,
    /// Somebody else has changed it meanwhile.
    #[error("somebody else has changed it meanwhile: look at it and try again")]
    Changed,
    /// Nobody registers without an invitation.
    #[error("registration is closed: ask an administrator for an invitation")]
    RegistrationClosed,
    /// The invitation is somebody else's, was used or is over, or never was one.
    #[error("the invitation is not valid: it is good for one name, once, and for three days")]
    InvitationInvalid,
    /// The present password is another one.
    #[error("the present password is not right")]
    PasswordWrong,
    /// The one-time code is another one, or was used.
    #[error("the one-time code is not right, or was used already: wait for the next one")]
    CodeWrong,
    /// Too many attempts.
    #[error("too many attempts: try again in {}", humantime::format_duration(*.0))]
    TooMany(Duration),
    /// Too many passwords are being hashed.
    #[error("too many are signing in: try again")]
    Busy,
    /// The key does not work any more.
    #[error("the API key has expired or was revoked: create another")]
    KeyOver,
    /// An identity provider's keys are not there.
    #[error("the keys of the identity provider {name} are not there: try again")]
    Provider {
        /// Which.
        name: ProviderName,
        /// Why.
        #[source]
        failure: NotFetched,
    },
    /// A stored record was edited.
    #[error("the record of {what} {which} is not what was written")]
    Tampered {
        /// What kind of record.
        what: &'static str,
        /// Its key.
        which: String,
    },
    /// The storage failed.
    #[error("the identities' storage could not be used")]
    Storage(#[source] StorageError),
    /// The random source or the cryptographic library failed.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

impl IdentityError {
    pub(crate) fn tampered(what: &'static str, which: impl fmt::Display) -> Self {
        Self::Tampered {
            what,
            which: which.to_string(),
        }
    }

    /// A name that is taken is told.
    pub(crate) fn taken(error: StorageError) -> Self {
        match error {
            StorageError::Exists => Self::Exists {
                what: "an agent of this name",
            },
            other => other.into(),
        }
    }
}

impl From<StorageError> for IdentityError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Changed => Self::Changed,
            StorageError::LastAdministrator => Self::LastAdministrator,
            // A row that cannot even be read was edited too.
            StorageError::Unreadable { what } => Self::tampered(what, "row"),
            other => Self::Storage(other),
        }
    }
}

/// Why a key is not accepted. The codes are for the audit log; callers are told only that the key is
/// not valid.
#[derive(Debug, thiserror::Error)]
pub enum Unauthenticated {
    /// Not an API key, or its checksum is wrong.
    #[error("the API key is malformed")]
    Malformed,
    /// No such key.
    #[error("the API key is unknown")]
    Unknown,
    /// It has expired.
    #[error("the API key {0} has expired: create another")]
    Expired(KeyId),
    /// It was revoked.
    #[error("the API key {0} was revoked: create another")]
    Revoked(KeyId),
    /// The access token is not accepted; the code says why.
    #[error("the access token is not valid: get another one")]
    Token(&'static str),
    /// It came from a network that it does not work from.
    #[error("the API key {0} does not work from this network")]
    Network(KeyId),
    /// Its agent was retired.
    #[error("the agent {0} was retired")]
    Retired(AgentId),
    /// It could not be checked.
    #[error("the API key could not be checked: try again")]
    NotChecked(#[source] IdentityError),
}

impl Unauthenticated {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed => "key_malformed",
            Self::Unknown => "key_unknown",
            Self::Expired(_) => "key_expired",
            Self::Revoked(_) => "key_revoked",
            Self::Token(code) => code,
            Self::Network(_) => "key_network",
            Self::Retired(_) => "agent_retired",
            Self::NotChecked(IdentityError::Tampered { .. }) => "key_tampered",
            Self::NotChecked(IdentityError::Provider { .. }) => "provider_unavailable",
            Self::NotChecked(_) => "key_not_checked",
        }
    }
}

impl From<IdentityError> for Unauthenticated {
    fn from(error: IdentityError) -> Self {
        Self::NotChecked(error)
    }
}
