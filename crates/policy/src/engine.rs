//! The decision: which policies stand for a call, in which order, and what the first that decides
//! says. No I/O and no clock.
//!
//! Cedar skips a policy that fails, a denial too. Here a denial that fails denies, and an allowance
//! that fails does not allow.

use crate::{
    Action, Approval, Ask, Effect, Facts, PolicyError, PolicyRef,
    compile::{Place, Policy},
    condition::{ConditionKind, Needs},
    facts::Vocabulary,
    gate::{self, CounterKey, Meter},
    heads::Heads,
};
use cedar_policy::{
    Authorizer, Decision, Entities, EvalResult, Expression, Request, eval_expression,
};
use std::{cell::OnceCell, collections::HashMap, fmt, str::FromStr, sync::Arc, time::Duration};
use xylem_ids::{AccessId, PolicyName};

/// Policies that explain why there is no permit, the nearest ones.
const TOLD: usize = 3;

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
    fn by(reason: Reason, policy: &PolicyRef) -> Self {
        Self {
            reason,
            by: Some(policy.clone()),
            missed: Vec::new(),
            retry_after: None,
        }
    }
}

/// The policies of a namespace, ready to be asked.
pub struct Engine {
    /// In the order in which they decide: guardrails, then bands from the highest on; denials first.
    policies: Vec<Arc<Policy>>,
    heads: Heads,
    /// Every distinct condition once, and which of them a policy has.
    conditions: Vec<Expression>,
    of_policy: Vec<Vec<u32>>,
    words: Vocabulary,
    authorizer: Authorizer,
}

impl Engine {
    /// An engine for these policies.
    ///
    /// # Errors
    /// A condition cannot be parsed; each was compiled, so that is a fault of ours.
    pub fn new(policies: impl IntoIterator<Item = Arc<Policy>>) -> Result<Self, PolicyError> {
        Self::of(policies.into_iter().collect(), parsed)
    }

    /// The same with one policy more, or another version of one. What this one has parsed is not parsed
    /// again: of many policies that is nearly all of the work.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn with(&self, policy: Arc<Policy>) -> Result<Self, PolicyError> {
        let mut known: HashMap<&str, &Expression> = HashMap::new();
        for (had, own) in self.policies.iter().zip(&self.of_policy) {
            for (clause, id) in had.clauses.iter().zip(own) {
                let condition = self.conditions.get(*id as usize);
                known.extend(condition.map(|condition| (clause.text.as_str(), condition)));
            }
        }
        let replaced = &policy.reference.name;
        let kept = self.policies.iter();
        let kept = kept.filter(|kept| kept.reference.name != *replaced);
        let policies = kept.chain([&policy]).cloned().collect();
        Self::of(policies, |text| match known.get(text) {
            Some(condition) => Ok(Expression::clone(condition)),
            None => parsed(text),
        })
    }

    fn of(
        mut policies: Vec<Arc<Policy>>,
        parse: impl Fn(&str) -> Result<Expression, PolicyError>,
    ) -> Result<Self, PolicyError> {
        let denies = |policy: &Policy| policy.effect == Effect::Deny;
        policies.sort_by(|a, b| {
            (a.place, !denies(a), &a.reference).cmp(&(b.place, !denies(b), &b.reference))
        });
        let mut heads = Heads::default();
        let mut known: HashMap<&str, u32> = HashMap::new();
        let mut conditions = Vec::new();
        let mut of_policy = Vec::with_capacity(policies.len());
        for (at, policy) in (0_u32..).zip(&policies) {
            heads.add(at, &policy.head);
            let mut own = Vec::with_capacity(policy.clauses.len());
            for clause in &policy.clauses {
                let next = u32::try_from(conditions.len()).map_err(PolicyError::engine)?;
                let id = *known.entry(&clause.text).or_insert(next);
                if id == next {
                    conditions.push(parse(&clause.text)?);
                }
                own.push(id);
            }
            of_policy.push(own);
        }
        Ok(Self {
            heads,
            conditions,
            of_policy,
            words: Vocabulary::new()?,
            authorizer: Authorizer::new(),
            policies,
        })
    }

    /// Its policies, in the order in which they decide.
    #[must_use]
    pub fn policies(&self) -> &[Arc<Policy>] {
        &self.policies
    }

    /// Decides.
    ///
    /// # Errors
    /// Says why not.
    pub fn decide(&self, ask: &Ask<'_>, facts: &Facts<'_>) -> Result<Allowed, Refused> {
        let candidates = self.candidates(ask);
        self.case(ask, facts, &candidates).decide(&candidates)
    }

    /// The counters that [`Engine::decide`] looks at: [`Facts::usage`] has to know those that exist.
    #[must_use]
    pub fn counters(&self, ask: &Ask<'_>, tree: Option<&str>) -> Vec<CounterKey> {
        self.counters_among(&self.candidates(ask), ask, tree)
    }

    pub(crate) fn counters_among(
        &self,
        candidates: &[u32],
        ask: &Ask<'_>,
        tree: Option<&str>,
    ) -> Vec<CounterKey> {
        let mut keys: Vec<CounterKey> = candidates
            .iter()
            .filter_map(|at| self.policies.get(*at as usize))
            .flat_map(|policy| counters_of(policy, ask, tree))
            .collect();
        keys.sort();
        keys.dedup();
        keys
    }

    /// Whether the agent may ever do it, whatever the conditions: an allowance stands before every
    /// denial that always holds, or an approval that stands for itself after all of them. It does not
    /// change with the clock, but for what is approved. To call, a policy that still waits for an
    /// approval counts, for whoever is to ask for it has to know of the tool; to read, it does not.
    #[must_use]
    pub fn conceivable(&self, ask: &Ask<'_>, approvals: &[Approval]) -> bool {
        let opened = |policy: &Policy| {
            let mut named = approvals.iter().filter_map(|it| it.policy.as_ref());
            named.any(|name| *name == policy.reference.name)
        };
        let counts = |policy: &Policy| {
            ask.action != Action::Read || !policy.requires_approval || opened(policy)
        };
        let decides = self
            .candidates(ask)
            .into_iter()
            .filter_map(|at| self.policies.get(at as usize))
            .filter(|policy| counts(policy))
            .find(|policy| policy.effect == Effect::Allow || policy.unconditional());
        match decides {
            Some(policy) => policy.effect == Effect::Allow,
            None => approvals.iter().any(|it| it.policy.is_none()),
        }
    }

    /// The policies that would allow it once somebody approves, if their other conditions hold.
    #[must_use]
    pub fn approvable(&self, ask: &Ask<'_>) -> Vec<&PolicyName> {
        let candidates = self.candidates(ask).into_iter();
        let mut waiting: Vec<&PolicyName> = candidates
            .filter_map(|at| self.policies.get(at as usize))
            .filter(|policy| policy.requires_approval)
            .map(|policy| &policy.reference.name)
            .collect();
        waiting.sort();
        waiting
    }

    /// Whether the agent may know that the tool exists: it may conceivably read or call it, by what is
    /// approved for either.
    #[must_use]
    pub fn may_see(&self, ask: &Ask<'_>, approved: impl Fn(&Ask<'_>) -> Vec<Approval>) -> bool {
        [Action::Read, Action::Execute].into_iter().any(|action| {
            let ask = Ask { action, ..*ask };
            self.conceivable(&ask, &approved(&ask))
        })
    }

    /// The policies whose head names this, in the order in which they decide.
    pub(crate) fn candidates(&self, ask: &Ask<'_>) -> Vec<u32> {
        let mut found = self.heads.naming(ask);
        found.retain(|at| {
            let policy = self.policies.get(*at as usize);
            policy.is_some_and(|policy| policy.head.actions.contains(&ask.action))
        });
        found
    }

    pub(crate) fn case<'a>(
        &'a self,
        ask: &'a Ask<'a>,
        facts: &'a Facts<'a>,
        candidates: &[u32],
    ) -> Case<'a> {
        let mut needs = Needs::default();
        for policy in candidates
            .iter()
            .filter_map(|at| self.policies.get(*at as usize))
        {
            needs.add(&policy.needs);
        }
        Case {
            engine: self,
            ask,
            facts,
            needs,
            question: OnceCell::new(),
            known: HashMap::new(),
        }
    }
}

fn parsed(condition: &str) -> Result<Expression, PolicyError> {
    Expression::from_str(condition).map_err(PolicyError::engine)
}

fn counters_of<'a>(
    policy: &'a Policy,
    ask: &'a Ask<'a>,
    tree: Option<&'a str>,
) -> impl Iterator<Item = CounterKey> + 'a {
    let key = move |requests| gate::key(&policy.reference.name, requests, ask, tree);
    policy.requests.iter().filter_map(key)
}

/// One question, and what was found out about it so far.
pub(crate) struct Case<'a> {
    engine: &'a Engine,
    pub(crate) ask: &'a Ask<'a>,
    pub(crate) facts: &'a Facts<'a>,
    pub(crate) needs: Needs,
    /// What Cedar is asked, once it is; none where that cannot be put together.
    question: OnceCell<Option<(Request, Arc<Entities>)>>,
    /// By condition: whether it holds; none where it cannot be evaluated.
    known: HashMap<u32, Option<bool>>,
}

impl Case<'_> {
    /// Decides by the policies that stand for it.
    pub(crate) fn decide(&mut self, candidates: &[u32]) -> Result<Allowed, Refused> {
        let engine = self.engine;
        let mut nearest = Nearest::default();
        for at in candidates {
            let Some(policy) = engine.policies.get(*at as usize) else {
                continue;
            };
            let applies = self.applies(*at, policy);
            let Some(applies) = applies else {
                match policy.effect {
                    Effect::Deny => {
                        return Err(Refused::by(Reason::PolicyBroken, &policy.reference));
                    }
                    Effect::Allow => nearest.broken(policy),
                }
                continue;
            };
            match policy.effect {
                Effect::Deny if applies => {
                    if let Some(refused) = self.denied(policy) {
                        return Err(refused);
                    }
                }
                Effect::Deny => {}
                Effect::Allow if applies => match self.open(policy) {
                    Ok(()) => return self.allowed(*at, policy, candidates),
                    Err(refused) => nearest.waits(refused),
                },
                Effect::Allow => {
                    let failed = self.failed(*at, policy);
                    nearest.missed(policy, failed);
                }
            }
        }
        self.by_approval(nearest, candidates)
    }

    /// Whether all conditions of a policy hold; none where one cannot be evaluated before another
    /// fails.
    pub(crate) fn applies(&mut self, at: u32, policy: &Policy) -> Option<bool> {
        if policy.raw {
            return self.applies_alone(&policy.alone);
        }
        let engine = self.engine;
        for id in engine.of_policy.get(at as usize).into_iter().flatten() {
            match self.holds(*id) {
                Some(true) => {}
                other => return other,
            }
        }
        Some(true)
    }

    /// Whether Cedar's own authorizer says that the policy applies.
    pub(crate) fn applies_alone(&self, alone: &cedar_policy::PolicySet) -> Option<bool> {
        let (request, entities) = self.question()?;
        let authorizer = &self.engine.authorizer;
        let answer = authorizer.is_authorized(request, alone, entities);
        let broken = answer.diagnostics().errors().next().is_some();
        (!broken).then(|| answer.diagnostics().reason().next().is_some())
    }

    /// Whether one condition of a policy holds, by its place among them.
    pub(crate) fn clause(&mut self, at: u32, clause: usize) -> Option<bool> {
        let id = *self.engine.of_policy.get(at as usize)?.get(clause)?;
        self.holds(id)
    }

    fn holds(&mut self, id: u32) -> Option<bool> {
        if let Some(known) = self.known.get(&id) {
            return *known;
        }
        let condition = self.engine.conditions.get(id as usize)?;
        let (request, entities) = self.question()?;
        let answer = match eval_expression(request, entities, condition) {
            Ok(EvalResult::Bool(holds)) => Some(holds),
            _ => None,
        };
        self.known.insert(id, answer);
        answer
    }

    /// The kinds of the conditions that fail.
    fn failed(&mut self, at: u32, policy: &Policy) -> Vec<ConditionKind> {
        if policy.raw {
            return vec![ConditionKind::Cedar];
        }
        let clauses = policy.clauses.iter().enumerate();
        let mut kinds: Vec<ConditionKind> = clauses
            .filter(|(clause, _)| self.clause(at, *clause) != Some(true))
            .map(|(_, clause)| clause.kind)
            .collect();
        kinds.dedup();
        kinds
    }

    pub(crate) fn meters(&self, policy: &Policy) -> Vec<Meter> {
        let meter = |requests| gate::meter(&policy.reference.name, requests, self.ask, self.facts);
        policy.requests.iter().map(meter).collect()
    }

    /// What a denial whose conditions hold says. One that counts calls lets the first ones pass.
    fn denied(&self, policy: &Policy) -> Option<Refused> {
        let meters = self.meters(policy);
        let guards = policy.place == Place::Guardrail;
        let reason = match (meters.is_empty(), guards) {
            (false, _) => Reason::LimitReached,
            (true, true) => Reason::Guardrail,
            (true, false) => Reason::DeniedByPolicy,
        };
        let full = meters.iter().filter(|meter| meter.full());
        let retry_after = full.map(|meter| meter.wait(self.facts.now)).max();
        if !meters.is_empty() && retry_after.is_none() {
            return None;
        }
        let mut refused = Refused::by(reason, &policy.reference);
        refused.retry_after = retry_after;
        Some(refused)
    }

    /// Whether an allowance whose conditions hold is approved and not used up.
    fn open(&self, policy: &Policy) -> Result<(), Refused> {
        if !self.approved(policy) {
            return Err(Refused::by(Reason::ApprovalRequired, &policy.reference));
        }
        let meters = self.meters(policy);
        let full = meters.iter().filter(|meter| meter.full());
        match full.map(|meter| meter.wait(self.facts.now)).max() {
            None => Ok(()),
            retry_after => {
                let mut refused = Refused::by(Reason::LimitReached, &policy.reference);
                refused.retry_after = retry_after;
                Err(refused)
            }
        }
    }

    pub(crate) fn approved(&self, policy: &Policy) -> bool {
        let name = &policy.reference.name;
        let mut opened = self
            .facts
            .approvals
            .iter()
            .filter_map(|a| a.policy.as_ref());
        !policy.requires_approval || opened.any(|opened| opened == name)
    }

    fn allowed(
        &mut self,
        at: u32,
        policy: &Policy,
        candidates: &[u32],
    ) -> Result<Allowed, Refused> {
        if !self.confirmed(at, policy) {
            return Err(Refused::by(Reason::PolicyBroken, &policy.reference));
        }
        Ok(Allowed {
            by: By::Policy(policy.reference.clone()),
            uses: self.uses(candidates),
        })
    }

    /// Cedar's own authorizer has the last word. What it said of a policy that has no conditions is
    /// remembered with the agent and the tool.
    fn confirmed(&self, at: u32, policy: &Policy) -> bool {
        let words = &self.engine.words;
        let by_head = policy.clauses.is_empty() && !policy.raw;
        let allows = (at, self.ask.action);
        if by_head
            && words
                .known(self.ask)
                .is_some_and(|pair| pair.is_allowed(allows))
        {
            return true;
        }
        let Some((request, entities)) = self.question() else {
            return false;
        };
        let authorizer = &self.engine.authorizer;
        let answer = authorizer.is_authorized(request, &policy.alone, entities);
        let sound = answer.diagnostics().errors().next().is_none();
        let confirmed = sound && answer.decision() == Decision::Allow;
        if let (true, true, Some(pair)) = (confirmed, by_head, words.known(self.ask)) {
            pair.allow(allows);
        }
        confirmed
    }

    fn question(&self) -> Option<&(Request, Arc<Entities>)> {
        let words = &self.engine.words;
        let question = || words.question(self.ask, self.facts, &self.needs, None).ok();
        self.question.get_or_init(question).as_ref()
    }

    /// What was approved without a policy allows after all bands: nothing denied until here.
    fn by_approval(&mut self, nearest: Nearest, candidates: &[u32]) -> Result<Allowed, Refused> {
        let direct = self.facts.approvals.iter().find(|a| a.policy.is_none());
        let may = matches!(self.ask.action, Action::Read | Action::Execute);
        match direct.filter(|_| may) {
            Some(approval) => Ok(Allowed {
                by: By::Access(approval.id.clone()),
                uses: self.uses(candidates),
            }),
            None => Err(nearest.refused()),
        }
    }

    /// A call counts for every policy that applies to it, whichever of them decided.
    fn uses(&mut self, candidates: &[u32]) -> Vec<CounterKey> {
        let engine = self.engine;
        let mut keys = Vec::new();
        for at in candidates {
            let Some(policy) = engine.policies.get(*at as usize) else {
                continue;
            };
            if !policy.requests.is_empty() && self.applies(*at, policy) == Some(true) {
                keys.extend(counters_of(policy, self.ask, self.facts.tree));
            }
        }
        keys.sort();
        keys.dedup();
        keys
    }
}

/// What came nearest to an allowance, to be told if there is none.
#[derive(Default)]
struct Nearest {
    /// One that waits: for an approval, or for its next window.
    waiting: Option<Refused>,
    missed: Vec<Missed>,
}

impl Nearest {
    fn waits(&mut self, refused: Refused) {
        self.waiting.get_or_insert(refused);
    }

    fn missed(&mut self, policy: &Policy, conditions: Vec<ConditionKind>) {
        if self.missed.len() < TOLD {
            let policy = policy.reference.clone();
            self.missed.push(Missed { policy, conditions });
        }
    }

    fn broken(&mut self, policy: &Policy) {
        self.waits(Refused::by(Reason::PolicyBroken, &policy.reference));
    }

    fn refused(self) -> Refused {
        self.waiting.unwrap_or(Refused {
            reason: Reason::NoPolicy,
            by: None,
            missed: self.missed,
            retry_after: None,
        })
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine({} policies)", self.policies.len())
    }
}
