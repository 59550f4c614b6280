//! Agents: identities that own trees, publish tools or operate the system.

use crate::Invalid;
use std::time::{SystemTime, UNIX_EPOCH};
use xylem_ids::{AgentId, AgentKind, Namespace, Role, Roles};
use xylem_seal::{Fields, Mac};

/// The installation's own agent: it sweeps, and trees belong to it whose root somebody started without
/// asking. It is in no database, and nobody else is called so: that one's would be what is its own.
pub const SYSTEM: &str = "xylem-system";

/// An identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// The namespace it works in.
    pub namespace: Namespace,
    /// Its name.
    pub id: AgentId,
    /// What kind of identity it is.
    pub kind: AgentKind,
    /// What it may do. Without a role, nothing but ask who it is.
    pub roles: Roles,
    /// When it was created.
    pub created_at: SystemTime,
    /// The agent that registered it; none where that was the installation itself.
    pub created_by: Option<AgentId>,
    /// Who it is at an identity provider, where it comes from one.
    pub federated: Option<Federated>,
    /// When it was retired, for good.
    pub retired_at: Option<SystemTime>,
    /// The keyed seal over the rest.
    pub seal: Mac,
}

impl Agent {
    /// Whether it can manage agents, whatever becomes of an identity provider.
    pub(crate) fn manages(&self) -> bool {
        let own = self.retired_at.is_none() && self.federated.is_none();
        own && self.roles.contains(&Role::Admin)
    }

    pub(crate) fn fields(&self) -> Fields {
        let fields = Fields::new("agent")
            .text(self.namespace.as_str())
            .text(self.id.as_str())
            .text(self.kind.code())
            .list(codes(&self.roles).into_iter())
            .number(seconds(self.created_at));
        let fields = time(fields, self.retired_at);
        let fields = match &self.created_by {
            Some(agent) => fields.text(agent.as_str()),
            None => fields,
        };
        match &self.federated {
            Some(federated) => fields
                .text("federated")
                .text(&federated.issuer)
                .text(&federated.subject)
                .number(seconds(federated.issued_at)),
            None => fields,
        }
    }
}

/// Who an agent is at an identity provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Federated {
    /// The provider's issuer.
    pub issuer: String,
    /// What the provider calls it.
    pub subject: String,
    /// When the newest of its tokens was issued: the agent's roles are those that it gave.
    pub issued_at: SystemTime,
}

/// An agent to create.
#[derive(Debug, Clone)]
pub struct NewAgent {
    /// Its name.
    pub id: AgentId,
    /// What kind of identity it is.
    pub kind: AgentKind,
    /// What it may do.
    pub roles: Roles,
}

/// What is to be changed about an agent; the rest stays.
#[derive(Debug, Clone, Default)]
pub struct AgentChange {
    /// What kind of identity it is.
    pub kind: Option<AgentKind>,
    /// Roles that it gets.
    pub add: Roles,
    /// Roles that it loses.
    pub remove: Roles,
}

/// Something that is kept about an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datum {
    /// What kind of record it is of.
    pub record: &'static str,
    /// Its fields by name; those that are absent are left out.
    pub fields: Vec<(&'static str, Fact)>,
}

/// One field of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// Text.
    Text(String),
    /// A number.
    Number(i64),
    /// A time.
    Time(SystemTime),
}

/// Whether somebody may be called so.
pub(crate) fn check_name(id: &AgentId) -> Result<(), Invalid> {
    if id.as_str() == SYSTEM {
        let rule = "another one than that of the installation's own agent";
        return Err(Invalid::new("name", rule));
    }
    Ok(())
}

/// A worker's key lies where activities run, so what it is good for must stay little.
pub(crate) fn check_roles(roles: &Roles) -> Result<(), Invalid> {
    if roles.contains(&Role::Worker) && roles.len() > 1 {
        return Err(Invalid::new("roles", "worker alone, or others without it"));
    }
    Ok(())
}

pub(crate) fn codes(roles: &Roles) -> Vec<&'static str> {
    roles.iter().map(|role| role.code()).collect()
}

pub(crate) fn time(fields: Fields, time: Option<SystemTime>) -> Fields {
    match time {
        Some(time) => fields.number(1_u32).number(seconds(time)),
        None => fields.number(0_u32),
    }
}

pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use xylem_seal::SubKey;

    #[test]
    fn the_seal_covers_who_an_agent_is_elsewhere() {
        let key = SubKey::from_secret(&[7; 32], "test").unwrap();
        let key = key.mac("record").unwrap();
        let agent = |created_by: Option<&str>, federated: Option<[&str; 2]>, issued: u64| Agent {
            namespace: "default".parse().unwrap(),
            id: "corp-1".parse().unwrap(),
            kind: AgentKind::User,
            roles: [Role::User].into(),
            created_at: UNIX_EPOCH,
            created_by: created_by.map(|agent| agent.parse().unwrap()),
            federated: federated.map(|[issuer, subject]| Federated {
                issuer: issuer.to_owned(),
                subject: subject.to_owned(),
                issued_at: UNIX_EPOCH + Duration::from_secs(issued),
            }),
            retired_at: None,
            seal: Mac([0; 32]),
        };
        let all = [
            agent(None, None, 0),
            agent(Some("federated"), None, 0),
            agent(None, Some(["a", "b"]), 0),
            agent(None, Some(["a", "b"]), 1),
            agent(None, Some(["ab", ""]), 0),
            agent(None, Some(["b", "a"]), 0),
            agent(Some("federated"), Some(["a", "b"]), 0),
        ];
        let seals: Vec<_> = all
            .iter()
            .map(|agent| key.seal(&agent.fields()).0)
            .collect();
        for (place, seal) in seals.iter().enumerate() {
            assert!(!seals[..place].contains(seal), "{place}");
        }
    }
}
