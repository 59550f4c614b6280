//! Asking for access: somebody asks, somebody else says yes or no, and what was allowed ends.
//!
//! What a policy that requires approval waits for is asked for that policy: its conditions go on
//! holding. Where no policy waits, a request stands for itself: approved, it allows what nothing denies.

use crate::{
    Action, Approval, Ask, Invalid, Policies, PolicyError, Resource, ToolFacts,
    storage::{Rows, Wanted},
};
use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use xylem_audit::{Entry, Kind, Note, SubjectKind, Verdict};
use xylem_ids::{AccessId, AgentId, AgentKind, Namespace, PolicyName, ToolName};
use xylem_seal::{Fields, Mac, random_id};

/// How long a request waits to be decided, in seconds.
const WAITS: u64 = 7 * 24 * 60 * 60;
/// Requests of one agent that may wait at a time.
const MOST: usize = 20;
/// Requests that are looked through for an earlier one.
const PAGE: u32 = 1_000;
/// Requests that expire in one transaction.
const LAPSED: u32 = 200;

/// How long an approval holds where nothing else is asked for.
pub const USUAL_ACCESS: Duration = Duration::from_secs(8 * 60 * 60);
/// No approval holds for less.
pub const SHORTEST_ACCESS: Duration = Duration::from_secs(5 * 60);
/// No approval holds longer.
pub const LONGEST_ACCESS: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A request for access, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Its name.
    pub id: AccessId,
    /// The namespace it holds in.
    pub namespace: Namespace,
    /// Who is to be allowed.
    pub agent: AgentId,
    /// With which tool.
    pub tool: ToolName,
    /// To do what.
    pub action: Action,
    /// The policy that it opens; none where it stands for itself.
    pub policy: Option<PolicyName>,
    /// How long it is to hold from its approval on, in seconds.
    pub lasts: u64,
    /// Why, in the words of whoever asks.
    pub reason: Note,
    /// Who asks.
    pub asked_by: AgentId,
    /// When, in seconds since 1970.
    pub asked_at: u64,
    /// What became of it.
    pub state: AccessState,
    /// Covers everything above.
    pub seal: Mac,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessState {
    /// It waits for somebody to decide.
    Pending {
        /// For so long, in seconds since 1970.
        until: u64,
    },
    /// It allows.
    Approved {
        /// Who says so.
        decision: Decision,
        /// For so long, in seconds since 1970.
        until: u64,
    },
    /// It does not allow.
    Rejected(Decision),
    /// It was ended before its time.
    Ended(Decision),
    /// Its time is over, whether it was decided or not.
    Expired {
        /// Since when, in seconds since 1970.
        at: u64,
    },
}

/// Who decided, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Who.
    pub by: AgentId,
    /// When, in seconds since 1970.
    pub at: u64,
    /// Why.
    pub note: Note,
    /// Whether it is an approval of one's own, in an installation with a single operator.
    pub own: bool,
}

impl AccessState {
    /// The stable word.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Pending { .. } => "pending",
            Self::Approved { .. } => "approved",
            Self::Rejected(_) => "rejected",
            Self::Ended(_) => "ended",
            Self::Expired { .. } => "expired",
        }
    }

    /// Who decided last, and why.
    #[must_use]
    pub fn decision(&self) -> Option<&Decision> {
        match self {
            Self::Approved { decision, .. } | Self::Rejected(decision) | Self::Ended(decision) => {
                Some(decision)
            }
            Self::Pending { .. } | Self::Expired { .. } => None,
        }
    }

    /// When it ends, or did, in seconds since 1970.
    #[must_use]
    pub fn ends(&self) -> u64 {
        match self {
            Self::Pending { until } | Self::Approved { until, .. } => *until,
            Self::Rejected(decision) | Self::Ended(decision) => decision.at,
            Self::Expired { at } => *at,
        }
    }

    /// From its word, its decision and its end; none where they do not go together.
    #[must_use]
    pub fn from_parts(code: &str, decision: Option<Decision>, ends: u64) -> Option<Self> {
        match (code, decision) {
            ("pending", None) => Some(Self::Pending { until: ends }),
            ("approved", Some(decision)) => Some(Self::Approved {
                decision,
                until: ends,
            }),
            ("rejected", Some(decision)) => Some(Self::Rejected(decision)),
            ("ended", Some(decision)) => Some(Self::Ended(decision)),
            ("expired", None) => Some(Self::Expired { at: ends }),
            _ => None,
        }
    }

    /// As it is at a time: what has run out is over, whether that was written down yet or not.
    fn at(self, now: u64) -> Self {
        match self {
            Self::Pending { until } | Self::Approved { until, .. } if until <= now => {
                Self::Expired { at: until }
            }
            state => state,
        }
    }
}

impl Access {
    fn fields(&self) -> Fields {
        let fields = Fields::new("access")
            .text(self.id.as_str())
            .text(self.namespace.as_str())
            .text(self.agent.as_str())
            .text(self.tool.as_str())
            .text(self.action.code())
            .optional(self.policy.as_ref().map(PolicyName::as_str))
            .number(self.lasts)
            .text(self.reason.as_str())
            .text(self.asked_by.as_str())
            .number(self.asked_at)
            .text(self.state.code())
            .number(self.state.ends());
        match self.state.decision() {
            None => fields,
            Some(decision) => fields
                .text(decision.by.as_str())
                .number(decision.at)
                .text(decision.note.as_str())
                .number(u32::from(decision.own)),
        }
    }

    /// What it says about a question at a time: that it is approved, or nothing.
    pub(crate) fn approval(&self, ask: &Ask<'_>, tool: &ToolName, now: u64) -> Option<Approval> {
        let holds = matches!(self.state, AccessState::Approved { until, .. } if until > now)
            && self.agent == *ask.agent
            && self.tool == *tool
            && self.action == ask.action;
        holds.then(|| Approval {
            id: self.id.clone(),
            policy: self.policy.clone(),
        })
    }
}

/// What somebody asks for.
#[derive(Debug, Clone, Copy)]
pub struct NewAccess<'a> {
    /// Who is to be allowed.
    pub agent: &'a AgentId,
    /// With which tool.
    pub tool: &'a ToolFacts,
    /// To do what.
    pub action: Action,
    /// The policy that it is to open, where several wait for an approval.
    pub policy: Option<&'a PolicyName>,
    /// How long it is to hold; [`SHORTEST_ACCESS`] to [`LONGEST_ACCESS`].
    pub lasts: Duration,
}

/// Who does something about a request, and why.
#[derive(Debug, Clone)]
pub struct Act {
    /// Who.
    pub by: AgentId,
    /// Why.
    pub reason: Note,
    /// The entry that the audit log gets. What is done, and about what, is added here.
    pub entry: Entry,
}

impl Act {
    fn at(&self) -> u64 {
        seconds(self.entry.at)
    }

    fn decision(&self, own: bool) -> Decision {
        Decision {
            by: self.by.clone(),
            at: self.at(),
            note: self.reason.clone(),
            own,
        }
    }

    fn entry(self, kind: Kind, access: &Access) -> Entry {
        let mut entry = about(self.entry, kind, access).by(&self.by);
        entry.note = Some(self.reason);
        entry
    }
}

/// Asking and deciding.
impl Policies {
    /// Asks for access. Who asks for the same again while it waits gets the same request.
    ///
    /// # Errors
    /// Several policies wait for an approval and none of them is named, another one is named, too much
    /// is asked for, or the storage failed.
    pub async fn ask(
        &self,
        namespace: &Namespace,
        new: NewAccess<'_>,
        act: Act,
    ) -> Result<Access, PolicyError> {
        let mut tx = self.storage.begin_changes().await?;
        let policy = self.waiting_policy(tx.as_mut(), namespace, &new).await?;
        let wanted = Wanted {
            of: Some(new.agent),
            pending_at: Some(act.at()),
            after: None,
        };
        let mut waiting = tx.accesses(namespace, wanted, PAGE).await?;
        waiting.retain(|known| known.agent == *new.agent);
        let same = waiting.iter().find(|known| {
            known.tool == new.tool.name && known.action == new.action && known.policy == policy
        });
        if let Some(same) = same {
            return self.checked(same.clone());
        }
        if waiting.len() >= MOST {
            return Err(PolicyError::TooManyRequests);
        }
        let id = random_id().map_err(PolicyError::engine)?;
        let access = self.sealed(Access {
            id: id.parse().map_err(PolicyError::engine)?,
            namespace: namespace.clone(),
            agent: new.agent.clone(),
            tool: new.tool.name.clone(),
            action: new.action,
            policy,
            lasts: new.lasts.as_secs(),
            reason: act.reason.clone(),
            asked_by: act.by.clone(),
            asked_at: act.at(),
            state: AccessState::Pending {
                until: act.at().saturating_add(WAITS),
            },
            seal: Mac([0; 32]),
        });
        tx.put_access(&access).await?;
        tx.note(&act.entry(Kind::AccessRequested, &access)).await?;
        tx.commit().await?;
        Ok(access)
    }

    /// Approves or rejects. Nobody approves their own: not for who asks, not for who is to be allowed,
    /// nor for the service or bot that one made. Where there is a single operator, that is lifted, and
    /// written down.
    ///
    /// # Errors
    /// It was decided before, is over, or is one's own, which is written down; there is none; or the
    /// storage failed.
    pub async fn decide_access(
        &self,
        namespace: &Namespace,
        id: &AccessId,
        approve: bool,
        single_operator: bool,
        act: Act,
    ) -> Result<Access, PolicyError> {
        let mut tx = self.storage.begin_changes().await?;
        let access = self.access_in(tx.as_mut(), namespace, id).await?;
        match access.state.clone().at(act.at()) {
            AccessState::Pending { .. } => {}
            other => return Err(PolicyError::Decided(other.code())),
        }
        let mut own = false;
        if approve {
            own = self.is_own(tx.as_mut(), &access, &act.by).await?;
            if own && !single_operator {
                let mut entry = act.entry(Kind::AccessApproved, &access);
                entry = entry.because("own_request");
                entry.verdict = Verdict::Denied;
                tx.note(&entry).await?;
                tx.commit().await?;
                return Err(PolicyError::OwnRequest);
            }
        }
        let decision = act.decision(own);
        let (kind, state) = if approve {
            let until = act.at().saturating_add(access.lasts);
            let state = AccessState::Approved { decision, until };
            (Kind::AccessApproved, state)
        } else {
            (Kind::AccessRejected, AccessState::Rejected(decision))
        };
        let access = self.sealed(Access { state, ..access });
        let mut entry = act.entry(kind, &access);
        if own {
            entry = entry.because("single_operator");
        }
        tx.put_access(&access).await?;
        tx.note(&entry).await?;
        tx.commit().await?;
        Ok(access)
    }

    /// Ends an approval before its time, or takes back a request.
    ///
    /// # Errors
    /// It is over already, there is none, or the storage failed.
    pub async fn end_access(
        &self,
        namespace: &Namespace,
        id: &AccessId,
        act: Act,
    ) -> Result<Access, PolicyError> {
        let mut tx = self.storage.begin_changes().await?;
        let access = self.access_in(tx.as_mut(), namespace, id).await?;
        match access.state.clone().at(act.at()) {
            AccessState::Pending { .. } | AccessState::Approved { .. } => {}
            other => return Err(PolicyError::Decided(other.code())),
        }
        let access = self.sealed(Access {
            state: AccessState::Ended(act.decision(false)),
            ..access
        });
        tx.put_access(&access).await?;
        tx.note(&act.entry(Kind::AccessEnded, &access)).await?;
        tx.commit().await?;
        Ok(access)
    }

    /// One request, as it is at that time.
    ///
    /// # Errors
    /// There is none, or the storage failed.
    pub async fn access(
        &self,
        namespace: &Namespace,
        id: &AccessId,
        now: SystemTime,
    ) -> Result<Access, PolicyError> {
        let mut rows = self.storage.begin_look().await?;
        let access = self.access_in(&mut *rows, namespace, id).await?;
        Ok(Access {
            state: access.state.at(seconds(now)),
            ..access
        })
    }

    /// Requests in the order of their names, as they are at that time.
    ///
    /// # Errors
    /// The storage failed.
    pub async fn accesses(
        &self,
        namespace: &Namespace,
        wanted: Wanted<'_>,
        limit: u32,
        now: SystemTime,
    ) -> Result<Vec<Access>, PolicyError> {
        let mut rows = self.storage.begin_look().await?;
        let found = rows.accesses(namespace, wanted, limit).await?;
        let read = |access| {
            let access = self.checked(access)?;
            Ok(Access {
                state: access.state.at(seconds(now)),
                ..access
            })
        };
        found.into_iter().map(read).collect()
    }

    /// Writes down which requests are over. They held no more before: every reader looks at the
    /// clock.
    ///
    /// # Errors
    /// The storage failed; those that were written down stay so.
    pub async fn expire_accesses(
        &self,
        namespace: &Namespace,
        act: Entry,
    ) -> Result<(), PolicyError> {
        let now = seconds(act.at);
        loop {
            let mut tx = self.storage.begin_changes().await?;
            let lapsed = tx.lapsed_accesses(namespace, now, LAPSED).await?;
            if lapsed.is_empty() {
                return Ok(());
            }
            for access in lapsed {
                let access = self.checked(access)?;
                let access = self.sealed(Access {
                    state: access.state.at(now),
                    ..access
                });
                tx.put_access(&access).await?;
                let entry = about(act.clone(), Kind::AccessExpired, &access);
                tx.note(&entry).await?;
            }
            tx.commit().await?;
        }
    }

    /// What was approved for an agent, a tool and an action, and holds now.
    pub(crate) async fn approvals(
        &self,
        rows: &mut dyn Rows,
        namespace: &Namespace,
        ask: &Ask<'_>,
        now: u64,
    ) -> Result<Vec<Approval>, PolicyError> {
        let mut found = Vec::new();
        for tool in ask.resource.tools() {
            for access in rows
                .approvals(namespace, ask.agent, Some(&tool.name), now)
                .await?
            {
                found.extend(self.checked(access)?.approval(ask, &tool.name, now));
            }
        }
        Ok(found)
    }

    /// The policy that a request would open; none where no policy waits for an approval.
    async fn waiting_policy(
        &self,
        rows: &mut dyn Rows,
        namespace: &Namespace,
        new: &NewAccess<'_>,
    ) -> Result<Option<PolicyName>, PolicyError> {
        let loaded = self.current(rows, namespace).await?;
        let known = self.agent(rows, namespace, new.agent).await?;
        let ask = Ask {
            agent: new.agent,
            kind: known.kind.code(),
            roles: &known.roles,
            action: new.action,
            resource: Resource::Tool(new.tool),
        };
        let waiting = loaded.engine.approvable(&ask);
        match (new.policy, waiting.as_slice()) {
            (Some(named), waiting) if waiting.contains(&named) => Ok(Some(named.clone())),
            (Some(_), []) => Err(field("policy", "left out: no policy waits for an approval")),
            (None, [one]) => Ok(Some((*one).clone())),
            (None, []) if matches!(new.action, Action::Read | Action::Execute) => Ok(None),
            (None, []) => Err(field(
                "action",
                "read or execute, where no policy waits for an approval",
            )),
            (_, several) => {
                let names: Vec<&str> = several.iter().map(|name| name.as_str()).collect();
                let rule = format!(
                    "one of those that wait for an approval: {}",
                    names.join(", ")
                );
                Err(Invalid::new("policy", rule).into())
            }
        }
    }

    /// Whether whoever decides would decide about something of their own.
    async fn is_own(
        &self,
        rows: &mut dyn Rows,
        access: &Access,
        by: &AgentId,
    ) -> Result<bool, PolicyError> {
        let mut theirs = self.behind(rows, &access.namespace, &access.agent).await?;
        theirs.extend(
            self.behind(rows, &access.namespace, &access.asked_by)
                .await?,
        );
        let deciding = self.behind(rows, &access.namespace, by).await?;
        Ok(!deciding.is_disjoint(&theirs))
    }

    /// Whether what one of two agents does counts as the other one's: they are the same, or one made
    /// the other, or somebody made both, and they are no people.
    ///
    /// # Errors
    /// One of them was removed or edited, or the storage failed.
    pub async fn same_hands(
        &self,
        namespace: &Namespace,
        one: &AgentId,
        other: &AgentId,
    ) -> Result<bool, PolicyError> {
        let mut rows = self.storage.begin_look().await?;
        let ones = self.behind(&mut *rows, namespace, one).await?;
        let others = self.behind(&mut *rows, namespace, other).await?;
        Ok(!ones.is_disjoint(&others))
    }

    /// An agent, and whoever made it where it is no person: that one has its keys.
    async fn behind(
        &self,
        rows: &mut dyn Rows,
        namespace: &Namespace,
        agent: &AgentId,
    ) -> Result<BTreeSet<AgentId>, PolicyError> {
        let known = self.agent(rows, namespace, agent).await?;
        let maker = known.created_by.filter(|_| known.kind != AgentKind::User);
        Ok([agent.clone()].into_iter().chain(maker).collect())
    }

    async fn access_in(
        &self,
        rows: &mut dyn Rows,
        namespace: &Namespace,
        id: &AccessId,
    ) -> Result<Access, PolicyError> {
        let found = rows.access(namespace, id).await?;
        self.checked(found.ok_or(PolicyError::NoRequest)?)
    }

    pub(crate) fn checked(&self, access: Access) -> Result<Access, PolicyError> {
        if self.seals.seal(&access.fields()) == access.seal {
            return Ok(access);
        }
        Err(PolicyError::tampered("access request", &access.id))
    }

    fn sealed(&self, mut access: Access) -> Access {
        access.seal = self.seals.seal(&access.fields());
        access
    }
}

fn field(name: &'static str, rule: &'static str) -> PolicyError {
    Invalid::new(name, rule).into()
}

fn about(mut entry: Entry, kind: Kind, access: &Access) -> Entry {
    entry.kind = kind;
    entry.namespace = Some(access.namespace.clone());
    entry.owner = Some(access.agent.clone());
    entry.tool = Some(access.tool.clone());
    entry.regarding(SubjectKind::Access, &access.id)
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
