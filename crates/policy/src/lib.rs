//! Who may do what.
//!
//! People write a [`Document`]: who, what, which actions, under which conditions. It compiles to a
//! policy in Cedar, and so does what they write in Cedar itself. An [`Engine`] decides by them: bands
//! from the highest on, the first that decides wins, a denial beats an allowance within a band, and
//! guardrails hold in all. What nothing allows is denied.
//!
//! Limits and approvals stand beside Cedar, which neither counts nor expires.
//!
//! A [`Permit`] is the proof that the rule was asked. It is bound to the tree, node, slot and tool
//! it was made for.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic
    )
)]

mod access;
mod case;
mod change;
mod compile;
mod condition;
mod decision;
mod document;
mod engine;
mod explain;
mod facts;
mod gate;
mod heads;
mod literal;
mod look;
mod permit;
mod policies;
mod raw;
mod reveal;
mod storage;
mod value;

pub use access::{
    Access, AccessState, Act, Decision, LONGEST_ACCESS, NewAccess, SHORTEST_ACCESS, USUAL_ACCESS,
};
pub use change::Change;
pub use compile::{Compiler, Place, Policy, SCHEMA};
pub use condition::ConditionKind;
pub use decision::{Allowed, By, Missed, Reason, Refused};
pub use document::{
    Age, DEFAULT_BAND, Document, Invalid, Networks, Parameter, Requests, What, When, Who, Window,
};
pub use engine::Engine;
pub use explain::{Condition, Finding, Report};
pub use facts::{Ask, Facts, Resource, ToolFacts};
pub use gate::{Approval, Counter, CounterKey, RateLimit, Usage};
pub use ipnet::IpNet;
pub use permit::{Bounds, Call, Denied, Permit};
pub use policies::{Author, CallFacts, Policies, Question, Record};
pub use reveal::{Reveal, RevealPermit};
use std::fmt;
pub use storage::{Changes, PolicyRow, Rows, SetRow, Storage, StorageError, Wanted};
pub use value::{Action, Day, Effect, Period, Pointer, Span, Subject, TimeOfDay, Zone};
use xylem_ids::PolicyName;

/// One version of a policy: `deploy-prod@3`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyRef {
    /// Its name.
    pub name: PolicyName,
    /// Which version; they count from 1.
    pub version: u32,
}

impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

/// Why there is no policy, or no decision.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// What was written breaks a rule.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// A policy that inherits from the one that changes would break a rule.
    #[error("the policy {heir} inherits from it: {invalid}")]
    Heir {
        /// The policy that inherits.
        heir: PolicyName,
        /// What would be wrong with it.
        invalid: Invalid,
    },
    /// The name is taken.
    #[error("a policy of this name exists: update it, or choose another name")]
    Exists,
    /// There is no such policy.
    #[error("no such policy")]
    NotFound,
    /// It was changed since it was read.
    #[error("the policy has version {0} by now: read it again")]
    VersionChanged(u32),
    /// It holds no more already.
    #[error("the policy is retired already")]
    Retired,
    /// There is no such agent to ask about.
    #[error("no such agent")]
    NoAgent,
    /// There is no such request for access.
    #[error("no such access request")]
    NoRequest,
    /// The request was decided, or is over; the word says which.
    #[error("the access request is {0}: ask again for another one")]
    Decided(&'static str),
    /// Nobody approves their own.
    #[error(
        "somebody else has to approve it: neither who asks, nor who is to be allowed, nor who made \
         that agent"
    )]
    OwnRequest,
    /// Too many requests of one agent wait.
    #[error("the agent has 20 requests that wait: have them decided, or end some")]
    TooManyRequests,
    /// What is stored is not what was written.
    #[error(
        "stored {what} {which} is not what was written: restore it from a backup and look who edited it"
    )]
    Tampered {
        /// What kind of row.
        what: &'static str,
        /// Its key.
        which: String,
    },
    /// The storage failed.
    #[error("the policies' storage failed")]
    Storage(#[source] StorageError),
    /// The engine does not take what was checked before: that is a fault, not an input.
    #[error("the policy engine failed")]
    Engine(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<StorageError> for PolicyError {
    /// A row that cannot even be read was edited too.
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Unreadable { what } => Self::tampered(what, "row"),
            unavailable @ StorageError::Unavailable(_) => Self::Storage(unavailable),
        }
    }
}

impl PolicyError {
    pub(crate) fn engine(cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Engine(Box::new(cause))
    }

    pub(crate) fn tampered(what: &'static str, which: impl fmt::Display) -> Self {
        Self::Tampered {
            what,
            which: which.to_string(),
        }
    }

    /// The same, and which policy breaks the rule.
    fn of(self, name: &PolicyName) -> Self {
        match self {
            Self::Invalid(invalid) => Self::Heir {
                heir: name.clone(),
                invalid,
            },
            other => other,
        }
    }

    /// The same as whoever changed `name` is told it: its own fields are not those of an heir.
    fn told_to_author_of(self, name: &PolicyName) -> Self {
        match self {
            Self::Heir { heir, invalid } if heir == *name => Self::Invalid(invalid),
            other => other,
        }
    }
}
