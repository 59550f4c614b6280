//! Agents: identities that own trees, publish tools or operate the system.

use std::{collections::BTreeSet, fmt, str::FromStr, time::SystemTime};
use xylem_ids::AgentId;

/// What an agent may do. The codes are persisted and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Manages agents, keys and tools.
    Admin,
    /// Rotates, revokes, stops and looks.
    Operator,
    /// Starts trees and rotates the tokens of its own.
    Service,
    /// Redeems for nodes on its task queues.
    Worker,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Admin, Self::Operator, Self::Service, Self::Worker];

    /// The stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Service => "service",
            Self::Worker => "worker",
        }
    }
}

impl FromStr for Role {
    type Err = crate::Invalid;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|role| role.code() == text)
            .ok_or(crate::Invalid::new(
                "role",
                "admin, operator, service or worker",
            ))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A set of roles.
pub type Roles = BTreeSet<Role>;

/// An identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Its name.
    pub id: AgentId,
    /// What it may do; never empty.
    pub roles: Roles,
    /// When it was created.
    pub created_at: SystemTime,
}
