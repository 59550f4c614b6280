//! Why the vault says no.

use crate::{ClaimRefusal, KeyError, StorageError};
use std::{fmt, time::Duration};
use xylem_grant::{IssuerError, Reject, UnixSeconds};
use xylem_ids::{KeyId, Version};
use xylem_policy::{Denied, PolicyError};
use xylem_registry::NotCallable;
use xylem_seal::CryptoError;

/// Why a node gets no token, or may not do what it asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The presented text is no grant of this vault.
    #[error(transparent)]
    Grant(#[from] Reject),
    /// The claims do not hold.
    #[error(transparent)]
    Claim(#[from] ClaimRefusal),
    /// There is no permit.
    #[error(transparent)]
    Policy(#[from] Denied),
    /// The grant is for another tree than the node's.
    #[error("the grant is for another tree")]
    OtherTree,
    /// The worker's key does not serve the task queue.
    #[error("the worker's API key does not serve this task queue: enrol it for the queue")]
    QueueNotServed,
    /// The vault has no such tree: never started here, or its start is not bound yet.
    #[error("the vault knows no tree with this root and first run")]
    UnknownTree,
    /// The tree was stopped.
    #[error("the tree was stopped: its tokens are destroyed")]
    TreeStopped,
    /// The node's type does not declare the slot.
    #[error("the workflow type does not declare this slot: declare it and restart its worker")]
    Undeclared,
    /// The node's type only forwards the slot.
    #[error("the workflow type forwards this slot but may not redeem it")]
    TransitOnly,
    /// The node, or something above it, is excluded from the slot.
    #[error("the node is excluded from this slot: its parent has to select it again")]
    Excluded,
    /// The tool is not registered.
    #[error("the tool is not registered in this namespace: register it, or correct its name")]
    UnknownTool,
    /// The tool is not called at present.
    #[error(transparent)]
    Tool(#[from] NotCallable),
    /// The depositor does not let the token go there.
    #[error(
        "the token's audiences do not include where the tool sends it: deposit it for that \
         audience, or correct the tool"
    )]
    OtherAudience,
    /// The tool is called at most once, and was.
    #[error(
        "the tool is called at most once, and an earlier attempt may have reached the API: find out \
         whether it did what it was asked, and call it anew if not"
    )]
    CalledBefore,
    /// There is no credential of the name that the tool says.
    #[error("the tool's stored credential does not exist: create it, or correct the tool")]
    UnknownCredential,
    /// The tool's credential has no value that may be sent.
    #[error("the tool's stored credential has no value that holds: rotate it")]
    CredentialEnded,
    /// The tool says how its token is obtained, and the credential's is not.
    #[error(
        "the tool's stored credential is not one that OAuth 2.0 client credentials obtain: make one \
         that is, or correct the tool"
    )]
    NotClientCredentials,
    /// What the slot holds is a copy of a stored credential, which is shown to nobody.
    #[error(
        "the slot holds a stored credential, whose value is shown to nobody: get it where it was \
         issued, or set a token of the tree's own"
    )]
    StoredCredential,
    /// Nothing was deposited in the slot yet.
    #[error("the slot holds no token yet: set one")]
    NoToken,
    /// Everything in the slot was revoked.
    #[error("the slot's token was revoked: rotate it")]
    TokenRevoked,
    /// The active version's grant has expired.
    #[error("the slot's token has expired: rotate it or have its grant re-issued")]
    TokenExpired,
    /// Raw tokens are not taken in from signals of this tree.
    #[error(
        "this tree takes no raw tokens from signals: the signalled token is exposed, rotate it"
    )]
    IntakeOff,
    /// A node may not change what it or what is above it may redeem.
    #[error("a node may change the selection of what is below it only")]
    NotBelow,
    /// A node may not lift what somebody beside or above it excluded.
    #[error(
        "somebody else excluded that node from the slot: who did, a node above that one, or an \
         operator has to include it again"
    )]
    ExcludedByOther,
}

impl Refusal {
    /// The stable code: it stands in audit entries and error details, and is never reused.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Grant(Reject::Malformed) => "grant_malformed",
            Self::Grant(Reject::Oversized) => "grant_oversized",
            Self::Grant(Reject::WrongAlgorithm) => "grant_wrong_algorithm",
            Self::Grant(Reject::UnknownKey) => "grant_unknown_key",
            Self::Grant(Reject::RetiredKey) => "grant_retired_key",
            Self::Grant(Reject::BadSignature) => "grant_bad_signature",
            Self::Claim(refusal) => refusal.code(),
            Self::Policy(denied) => denied.code(),
            Self::OtherTree => "other_tree",
            Self::QueueNotServed => "queue_not_served",
            Self::UnknownTree => "unknown_tree",
            Self::TreeStopped => "tree_stopped",
            Self::Undeclared => "slot_undeclared",
            Self::TransitOnly => "slot_transit_only",
            Self::Excluded => "excluded",
            Self::UnknownTool => "unknown_tool",
            Self::Tool(why) => why.code(),
            Self::OtherAudience => "other_audience",
            Self::CalledBefore => "called_before",
            Self::UnknownCredential => "unknown_credential",
            Self::CredentialEnded => "credential_ended",
            Self::NotClientCredentials => "not_client_credentials",
            Self::StoredCredential => "stored_credential",
            Self::NoToken => "no_token",
            Self::TokenRevoked => "token_revoked",
            Self::TokenExpired => "token_expired",
            Self::IntakeOff => "intake_off",
            Self::NotBelow => "not_below",
            Self::ExcludedByOther => "excluded_by_other",
        }
    }
}

impl Refusal {
    /// When the same call can succeed, where that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Policy(denied) => denied.retry_after(),
            _ => None,
        }
    }
}

/// Why the vault did not do what it was asked. No message carries a secret.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// A node gets no token, or may not do what it asked. Decided and audited.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A field breaks its rule.
    #[error("{field} must be {rule}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// The rule.
        rule: &'static str,
    },
    /// There is no such thing.
    #[error("no such {what}")]
    NotFound {
        /// What kind of thing.
        what: &'static str,
    },
    /// The tree was stopped.
    #[error("the tree was stopped: start another")]
    Stopped,
    /// The start of this request was given up: its root never ran under it.
    #[error(
        "the start under this request id was given up and its tokens are destroyed: start again \
         with another request id"
    )]
    GivenUp,
    /// A start of the same workflow id is not bound yet.
    #[error("a tree of this workflow id is just being started: try again")]
    StillStarting,
    /// The start is bound to another first run, or the first run to another start.
    #[error("the start is bound to another first run, or that run to another start")]
    BoundElsewhere,
    /// The request id was used for something else.
    #[error("the request id was used for something else: choose a new one")]
    RequestReused,
    /// A version cannot be revoked while leases on it are open.
    #[error("version {version} has {count} open leases until {until}: wait for them, or force it")]
    OpenLeases {
        /// The version.
        version: Version,
        /// How many.
        count: u64,
        /// When the last one ends by itself.
        until: UnixSeconds,
    },
    /// A version cannot be revoked while it is the active one.
    #[error("version {0} is the active one: rotate first, or force it")]
    StillActive(Version),
    /// A version cannot be used because it was revoked.
    #[error("version {0} was revoked: name one that was not, or rotate to a new token")]
    AlreadyRevoked(Version),
    /// There is a credential of that name.
    #[error("there is a credential of that name: rotate it, or choose another name")]
    CredentialExists,
    /// Another credential fills the slot of trees of that type.
    #[error("another credential is bound to that slot of that workflow type: unbind it first")]
    SlotBound,
    /// A credential cannot be removed while trees start with it.
    #[error("workflow types start with this credential: unbind it first")]
    CredentialBound,
    /// A credential's value has ended by itself.
    #[error("the value of this credential has ended: rotate it")]
    CredentialExpired,
    /// A credential's value is deposited and not obtained.
    #[error("the value of this credential is not obtained by itself: rotate it")]
    NotObtained,
    /// A provider gives what was revoked.
    #[error("its provider gives a value that was revoked: have it give another one")]
    ValueRevoked,
    /// A provider gives what was replaced, and nobody has said that it is to be taken back.
    #[error(
        "its provider gives a value that was replaced: have it give the active one or a new one, or take \
         it back with `xylem credential renew`"
    )]
    ValueSuperseded,
    /// A version of a credential cannot go while trees hold it.
    #[error("trees hold {0} versions that were made of it: revoke the credential's versions first")]
    HeldByTrees(usize),
    /// A rotation was meant for another version than the active one.
    #[error("version {0} is the active one by now: look at it before you rotate again")]
    OtherVersion(Version),
    /// A backup was loaded, and nobody has confirmed yet what was revoked since it was made.
    #[error(
        "the vault was restored from a backup and hands nothing out until an administrator has revoked \
         again what was revoked since then: `xylem vault confirm` says so"
    )]
    Held,
    /// The numbers of a slot are used up.
    #[error("the slot has no version or serial number left")]
    Exhausted,
    /// A stored row is not what the vault wrote.
    #[error(
        "stored {0} is not what the vault wrote: restore it from a backup and look who edited it"
    )]
    Tampered(Place),
    /// Key-encryption keys could not be had.
    #[error("the vault could not use its key-encryption keys")]
    Keys(#[from] KeyError),
    /// Another key-encryption key was meant than the one that wraps here.
    #[error(
        "the key-encryption key {0} is the current one here, and another one elsewhere: give every control \
         plane the same first line, restart them, and run it again"
    )]
    OtherCurrentKey(KeyId),
    /// A grant could not be signed.
    #[error("the vault could not issue the grant")]
    Issuer(#[from] IssuerError),
    /// The storage failed.
    #[error("the vault could not use its storage")]
    Storage(#[source] StorageError),
    /// The claims could not be checked.
    #[error("the claims could not be checked: try again")]
    ClaimsNotChecked(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Policies could not be asked.
    #[error("the policies could not be asked")]
    Policies(#[source] PolicyError),
    /// The random source or a cipher failed.
    #[error("a cryptographic operation failed")]
    Crypto,
}

impl From<CryptoError> for VaultError {
    fn from(_: CryptoError) -> Self {
        Self::Crypto
    }
}

impl VaultError {
    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Storage(StorageError::Unavailable(_))
                | Self::Policies(PolicyError::Storage(_))
                | Self::ClaimsNotChecked(_)
                | Self::StillStarting
                | Self::Held
        )
    }

    pub(crate) fn tampered(what: &'static str, which: impl fmt::Display) -> Self {
        Self::Tampered(Place {
            what,
            which: which.to_string(),
            audited: false,
        })
    }

    /// The same, once an entry of the audit log says it.
    pub(crate) fn audited(mut self) -> Self {
        if let Self::Tampered(place) = &mut self {
            place.audited = true;
        }
        self
    }
}

impl From<StorageError> for VaultError {
    /// A row that cannot even be read was edited too.
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Unreadable { what } => Self::tampered(what, "row"),
            unavailable @ StorageError::Unavailable(_) => Self::Storage(unavailable),
        }
    }
}

impl From<PolicyError> for VaultError {
    fn from(error: PolicyError) -> Self {
        match error {
            PolicyError::Tampered { what, which } => Self::tampered(what, which),
            other => Self::Policies(other),
        }
    }
}

/// Which row: its kind and its key, nothing of its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What kind of row.
    pub what: &'static str,
    /// Its key.
    pub which: String,
    /// Whether an entry of the audit log says already that it was met.
    pub audited: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.what, self.which)
    }
}
