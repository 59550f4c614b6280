//! What the vault says about trees and versions; nothing of it is secret.

use crate::CredentialMark;
use std::{collections::BTreeSet, fmt, str::FromStr};
use xylem_grant::UnixSeconds;
use xylem_ids::{
    AgentId, Audience, Epoch, Fingerprint, KeyId, Namespace, Order, RunId, Serial, Slot, ToolName,
    TreeId, Version, WorkflowId,
};

/// Text that is no identifier of its kind. Never quotes the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {rule}")]
pub struct BadId {
    what: &'static str,
    rule: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $ok:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                let ok: fn(&str) -> bool = $ok;
                if ok(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(BadId { what: $what, rule: $rule })
                }
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

fn random_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

id!(
    /// A tree as the vault knows it before its root's first run exists, and for ever after.
    StartId,
    "start id",
    "1 to 64 characters of A-Z, a-z, 0-9, '-' and '_'",
    random_id
);

id!(
    /// Where a token's ciphertext lies. Several versions may come to share one.
    SecretId,
    "secret id",
    "1 to 64 characters of A-Z, a-z, 0-9, '-' and '_'",
    random_id
);

id!(
    /// Chosen by whoever asks, the same when the same thing is asked again: what was done once is
    /// not done twice.
    RequestId,
    "request id",
    "1 to 200 printable characters",
    |text| (1..=200).contains(&text.len()) && !text.chars().any(char::is_control)
);

/// Where a tree is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeState {
    /// Its root has not started, or nobody has said so yet. Nothing of it can be redeemed.
    Starting,
    /// Bound to its root's first run.
    Bound {
        /// The first run.
        first_run_id: RunId,
    },
    /// Stopped, or never started. Its tokens are destroyed.
    Stopped {
        /// The first run, if there was one.
        first_run_id: Option<RunId>,
        /// Since when.
        at: UnixSeconds,
        /// Whether its workflows are to be terminated and not just cancelled.
        terminate: bool,
    },
}

impl TreeState {
    /// The root's first run, where it is known.
    #[must_use]
    pub fn first_run_id(&self) -> Option<&RunId> {
        match self {
            Self::Starting => None,
            Self::Bound { first_run_id } => Some(first_run_id),
            Self::Stopped { first_run_id, .. } => first_run_id.as_ref(),
        }
    }
}

/// A tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The vault's own name for it.
    pub start: StartId,
    /// Where it runs.
    pub namespace: Namespace,
    /// The root's workflow id.
    pub workflow_id: WorkflowId,
    /// Where it is in its life.
    pub state: TreeState,
    /// Whether raw tokens are taken in from signals.
    pub intake: bool,
    /// The tools it may call.
    pub tools: BTreeSet<ToolName>,
    /// Who opened it.
    pub owner: AgentId,
    /// When it was opened.
    pub opened_at: UnixSeconds,
    /// What it was opened for, so that the same request finds it again.
    pub request: RequestId,
}

impl Tree {
    /// Whether it was stopped, and its workflows are to be terminated and not just cancelled.
    #[must_use]
    pub fn is_to_terminate(&self) -> bool {
        matches!(
            self.state,
            TreeState::Stopped {
                terminate: true,
                ..
            }
        )
    }

    /// Whether its start was given up: its root was never started.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        matches!(
            self.state,
            TreeState::Stopped {
                first_run_id: None,
                ..
            }
        )
    }

    /// The tree's identity, once its root has started.
    #[must_use]
    pub fn id(&self) -> Option<TreeId> {
        self.state.first_run_id().map(|first_run_id| TreeId {
            namespace: self.namespace.clone(),
            workflow_id: self.workflow_id.clone(),
            first_run_id: first_run_id.clone(),
        })
    }

    /// Whether its tokens may be redeemed.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        matches!(self.state, TreeState::Bound { .. })
    }
}

/// Where a version is in its life. The codes are persisted and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VersionState {
    /// The one that is redeemed; at most one per slot.
    Active,
    /// Gets no new lease; redeeming it yields the active one.
    Superseded,
    /// Gone for good, its ciphertext destroyed.
    Revoked,
}

impl VersionState {
    /// The stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Superseded => "superseded",
            Self::Revoked => "revoked",
        }
    }

    /// The state with this code.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        [Self::Active, Self::Superseded, Self::Revoked]
            .into_iter()
            .find(|state| state.code() == code)
    }
}

/// A version of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionInfo {
    /// The tree.
    pub start: StartId,
    /// The slot.
    pub slot: Slot,
    /// Its number.
    pub version: Version,
    /// How often its grant was issued.
    pub serial: Serial,
    /// The epoch its grant was issued in.
    pub epoch: Epoch,
    /// Where it is in its life.
    pub state: VersionState,
    /// Since when.
    pub state_since: UnixSeconds,
    /// Whether the token lies in a history.
    pub exposed: bool,
    /// The token's keyed digest.
    pub fingerprint: Fingerprint,
    /// Where the token may be sent.
    pub audiences: Vec<Audience>,
    /// Since when its grant's lifetime runs: its deposit, or its last renewal. A grant that is
    /// signed again for another reason keeps it, and so says how long it was meant to live.
    pub issued_at: UnixSeconds,
    /// When its grant stops being redeemable.
    pub expires_at: UnixSeconds,
    /// The grant in its wire form; absent while the tree is starting, and for a version that was
    /// never active.
    pub grant: Option<String>,
    /// The key that signed the grant.
    pub issuer: Option<KeyId>,
    /// Who deposited it.
    pub depositor: AgentId,
    /// When.
    pub deposited_at: UnixSeconds,
    /// The request that deposited it.
    pub request: RequestId,
    /// The credential it was made of, if it was not deposited by itself.
    pub credential: Option<CredentialMark>,
}

impl VersionInfo {
    /// Its place among the grants of its slot.
    #[must_use]
    pub fn order(&self) -> Order {
        Order {
            epoch: self.epoch,
            version: self.version,
            serial: self.serial,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_read_back() {
        for state in [
            VersionState::Active,
            VersionState::Superseded,
            VersionState::Revoked,
        ] {
            assert_eq!(VersionState::from_code(state.code()), Some(state));
        }
    }

    #[test]
    fn a_bad_request_id_is_not_quoted() {
        let error = "Top\nSecret".parse::<RequestId>().unwrap_err().to_string();
        assert!(
            error.contains("request id") && !error.contains("Secret"),
            "{error}"
        );
    }
}
