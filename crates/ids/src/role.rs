//! What an agent may do, and what a credential is narrowed to.

use crate::IdError;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, str::FromStr};

/// What an agent may do. The codes are persisted and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Manages agents, keys and every tree.
    Admin,
    /// Proposes tools, and looks after its own.
    ToolPublisher,
    /// Says who may call what, and approves tools.
    PolicyAdmin,
    /// Starts trees and looks after its own.
    User,
    /// Redeems for nodes on its task queues.
    Worker,
    /// Reads everything, changes nothing.
    Auditor,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 6] = [
        Self::Admin,
        Self::ToolPublisher,
        Self::PolicyAdmin,
        Self::User,
        Self::Worker,
        Self::Auditor,
    ];

    /// The stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::ToolPublisher => "tool_publisher",
            Self::PolicyAdmin => "policy_admin",
            Self::User => "user",
            Self::Worker => "worker",
            Self::Auditor => "auditor",
        }
    }
}

impl FromStr for Role {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|role| role.code() == text);
        found.ok_or(IdError::new(
            "role",
            "admin, tool_publisher, policy_admin, user, worker or auditor",
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

/// What kind of identity an agent is. The codes are persisted and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentKind {
    /// A person.
    User,
    /// A program that runs for itself.
    Service,
    /// Something that acts for others without a person at it: a build, an agent workflow.
    Bot,
}

impl AgentKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::User, Self::Service, Self::Bot];

    /// The stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Service => "service",
            Self::Bot => "bot",
        }
    }
}

impl FromStr for AgentKind {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|kind| kind.code() == text);
        found.ok_or(IdError::new("kind", "user, service or bot"))
    }
}

/// A group of calls that a key or token can be narrowed to. The codes are persisted and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are those of the groups")]
pub enum Scope {
    Trees,
    TreesRead,
    Tokens,
    TokensRead,
    Tools,
    ToolsRead,
    Approve,
    Agents,
    AgentsRead,
    Keys,
    KeysRead,
    Policies,
    PoliciesRead,
    Access,
    Credentials,
    CredentialsRead,
    AuditRead,
    Account,
    Vault,
    Work,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 20] = [
        Self::Trees,
        Self::TreesRead,
        Self::Tokens,
        Self::TokensRead,
        Self::Tools,
        Self::ToolsRead,
        Self::Approve,
        Self::Agents,
        Self::AgentsRead,
        Self::Keys,
        Self::KeysRead,
        Self::Policies,
        Self::PoliciesRead,
        Self::Access,
        Self::Credentials,
        Self::CredentialsRead,
        Self::AuditRead,
        Self::Account,
        Self::Vault,
        Self::Work,
    ];

    /// The stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Trees => "trees",
            Self::TreesRead => "trees:read",
            Self::Tokens => "tokens",
            Self::TokensRead => "tokens:read",
            Self::Tools => "tools",
            Self::ToolsRead => "tools:read",
            Self::Approve => "approve",
            Self::Agents => "agents",
            Self::AgentsRead => "agents:read",
            Self::Keys => "keys",
            Self::KeysRead => "keys:read",
            Self::Policies => "policies",
            Self::PoliciesRead => "policies:read",
            Self::Access => "access",
            Self::Credentials => "credentials",
            Self::CredentialsRead => "credentials:read",
            Self::AuditRead => "audit:read",
            Self::Account => "account",
            Self::Vault => "vault",
            Self::Work => "work",
        }
    }

    /// Whether who has this scope has the other one: `trees` includes `trees:read`.
    #[must_use]
    pub fn includes(self, other: Self) -> bool {
        self == other || other.code().strip_suffix(":read") == Some(self.code())
    }
}

impl FromStr for Scope {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|scope| scope.code() == text);
        found.ok_or(IdError::new(
            "scope",
            "a known scope, such as trees, trees:read, tokens, tools:read or keys",
        ))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// What a credential is narrowed to. It never gives more than the agent's roles do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scopes {
    /// Whatever the roles give.
    All,
    /// These, and nothing where there is none.
    Only(BTreeSet<Scope>),
}

impl Scopes {
    /// Whether a call of this scope may be made.
    #[must_use]
    pub fn allow(&self, scope: Scope) -> bool {
        match self {
            Self::All => true,
            Self::Only(scopes) => scopes.iter().any(|own| own.includes(scope)),
        }
    }

    /// Whether these give nothing that `other` does not give.
    #[must_use]
    pub fn within(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::All) => true,
            (Self::All, Self::Only(_)) => false,
            (Self::Only(scopes), other) => scopes.iter().all(|scope| other.allow(*scope)),
        }
    }

    /// What both of them give.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::All, scopes) | (scopes, Self::All) => scopes.clone(),
            (Self::Only(own), Self::Only(others)) => {
                let own = own.iter().filter(|scope| other.allow(**scope));
                let others = others.iter().filter(|scope| self.allow(**scope));
                own.chain(others).copied().collect()
            }
        }
    }

    /// The scopes by name; `None` where nothing is narrowed.
    #[must_use]
    pub fn codes(&self) -> Option<Vec<&'static str>> {
        match self {
            Self::All => None,
            Self::Only(scopes) => Some(scopes.iter().map(|scope| scope.code()).collect()),
        }
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<T: IntoIterator<Item = Scope>>(scopes: T) -> Self {
        Self::Only(scopes.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_read_back() {
        for role in Role::ALL {
            assert_eq!(role.code().parse(), Ok(role));
        }
        for scope in Scope::ALL {
            assert_eq!(scope.code().parse(), Ok(scope));
        }
        assert!("operator".parse::<Role>().is_err());
        assert!("tree".parse::<Scope>().is_err());
    }

    #[test]
    fn the_wider_scope_includes_the_narrower() {
        assert!(Scope::Trees.includes(Scope::TreesRead));
        assert!(!Scope::TreesRead.includes(Scope::Trees));
        assert!(!Scope::Tokens.includes(Scope::TreesRead));
    }

    #[test]
    fn narrowing_never_widens() {
        let only = |scopes: &[Scope]| scopes.iter().copied().collect::<Scopes>();
        let trees = only(&[Scope::Trees]);
        let reads = only(&[Scope::TreesRead]);
        assert!(reads.within(&trees) && trees.within(&Scopes::All));
        assert!(!trees.within(&reads) && !Scopes::All.within(&trees));
        let none = only(&[]);
        assert!(none.within(&reads) && !none.allow(Scope::TreesRead));
        assert_eq!(trees.and(&reads), reads);
        assert_eq!(reads.and(&trees), reads);
        assert_eq!(Scopes::All.and(&reads), reads);
        assert_eq!(reads.and(&Scopes::All), reads);
        assert_eq!(reads.and(&only(&[Scope::Account])), none);
    }
}
