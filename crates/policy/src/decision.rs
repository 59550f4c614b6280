//! What is decided: by what it may be done, or why not.

use crate::{PolicyRef, condition::ConditionKind, gate::CounterKey};
use std::{fmt, time::Duration};
use xylem_ids::AccessId;

/// What decided in favour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// A policy.
    Policy(PolicyRef),
    /// An approval.
    Access(AccessId),
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(policy) => policy.fmt(f),
            Self::Access(id) => write!(f, "access:{id}"),
        }
    }
}

/// A decision in favour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// What decided.
    pub by: By,
    /// The counters that count this call.
    pub uses: Vec<CounterKey>,
}

/// Why not. The codes stand in audit entries and error details, and are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A guardrail denies.
    Guardrail,
    /// A policy denies.
    DeniedByPolicy,
    /// A policy would allow once somebody approves.
    ApprovalRequired,
    /// A policy would allow, or let pass, but for the number of calls.
    LimitReached,
    /// No policy allows.
    NoPolicy,
    /// A policy could not be asked.
    PolicyBroken,
}

impl Reason {
    /// The stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Guardrail => "guardrail",
            Self::DeniedByPolicy => "denied_by_policy",
            Self::ApprovalRequired => "approval_required",
            Self::LimitReached => "limit_reached",
            Self::NoPolicy => "no_policy",
            Self::PolicyBroken => "policy_broken",
        }
    }
}

/// An allowance that does not hold, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missed {
    /// The policy.
    pub policy: PolicyRef,
    /// Its conditions that failed.
    pub conditions: Vec<ConditionKind>,
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<&str> = self.conditions.iter().map(|kind| kind.code()).collect();
        write!(f, "{} ({})", self.policy, kinds.join(", "))
    }
}

/// A decision against. Its text stands in workflow histories: it names policies and kinds of
/// conditions, and nothing that was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// The policy that decided; none where none did.
    pub by: Option<PolicyRef>,
    /// What came nearest to an allowance.
    pub missed: Vec<Missed>,
    /// When it is worth to try again.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = self
            .by
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        match self.reason {
            Reason::Guardrail => write!(f, "the guardrail {by} denies it"),
            Reason::DeniedByPolicy => write!(f, "the policy {by} denies it"),
            Reason::ApprovalRequired => {
                write!(
                    f,
                    "the policy {by} allows it once somebody approves: `xylem access request` asks for that"
                )
            }
            Reason::LimitReached => {
                let seconds = self.retry_after.unwrap_or_default().as_secs();
                write!(
                    f,
                    "the policy {by} allows no more calls for now: try again in {seconds} s"
                )
            }
            Reason::PolicyBroken => {
                write!(
                    f,
                    "the policy {by} cannot be evaluated for this call: it has to be corrected"
                )
            }
            Reason::NoPolicy if self.missed.is_empty() => f.write_str(
                "no policy allows it: a policy administrator can add one with `xylem policy add`",
            ),
            Reason::NoPolicy => {
                let missed: Vec<String> = self.missed.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "no policy allows it; nearest: {}; `xylem policy check` says more",
                    missed.join("; ")
                )
            }
        }
    }
}

impl Refused {
    pub(crate) fn by(reason: Reason, policy: &PolicyRef) -> Self {
        Self {
            reason,
            by: Some(policy.clone()),
            missed: Vec::new(),
            retry_after: None,
        }
    }
}
