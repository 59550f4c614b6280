//! The policies of a namespace: which of them stand for a call, in which order, and what the first
//! that decides says. No I/O and no clock.

use crate::{
    Action, Allowed, Approval, Ask, Effect, Facts, PolicyError, Refused,
    case::Case,
    compile::Policy,
    condition::Needs,
    facts::Vocabulary,
    gate::{self, CounterKey},
    heads::Heads,
};
use cedar_policy::{Authorizer, Expression};
use std::{collections::HashMap, fmt, hash::Hash, ops::Range, str::FromStr, sync::Arc};
use xylem_ids::PolicyName;

/// The policies of a namespace, ready to be asked.
pub struct Engine {
    /// In the order in which they decide: guardrails, then bands from the highest on; denials first.
    pub(crate) policies: Vec<Placed>,
    heads: Heads,
    /// Every distinct condition once.
    pub(crate) conditions: Vec<Expression>,
    /// The conditions of every policy, one after the other, by their place among the distinct ones.
    of_policies: Vec<u32>,
    /// And every distinct need: many policies look at the same few facts.
    needs: Vec<Needs>,
    pub(crate) words: Vocabulary,
    pub(crate) authorizer: Authorizer,
}

/// A policy, and what a decision that passes it by has to know of it: to follow the pointer of each
/// costs more than the rest of the look.
pub(crate) struct Placed {
    pub(crate) policy: Arc<Policy>,
    pub(crate) effect: Effect,
    pub(crate) raw: bool,
    /// Where its conditions stand among those of all policies.
    conditions: Range<usize>,
    /// What they look at, by its place among all needs.
    needs: u32,
    /// Whether it counts calls.
    pub(crate) counts: bool,
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
        for had in &self.policies {
            for (clause, id) in had.policy.clauses.iter().zip(self.conditions_of(had)) {
                let condition = self.conditions.get(*id as usize);
                known.extend(condition.map(|condition| (clause.text.as_str(), condition)));
            }
        }
        let replaced = &policy.reference.name;
        let kept = self.policies();
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
        let mut conditions = Distinct::default();
        let mut needs = Distinct::default();
        let mut of_policies = Vec::new();
        let mut placed = Vec::with_capacity(policies.len());
        for (at, policy) in (0_u32..).zip(&policies) {
            heads.add(at, &policy.head);
            let first = of_policies.len();
            let clauses = policy.clauses.iter();
            of_policies.extend(clauses.map(|it| conditions.place(it.text.as_str())));
            placed.push(Placed {
                policy: Arc::clone(policy),
                effect: policy.effect,
                raw: policy.raw,
                conditions: first..of_policies.len(),
                needs: needs.place(&policy.needs),
                counts: !policy.requests.is_empty(),
            });
        }
        let conditions: Result<Vec<Expression>, PolicyError> =
            conditions.all.into_iter().map(parse).collect();
        Ok(Self {
            heads,
            conditions: conditions?,
            of_policies,
            needs: needs.all.into_iter().cloned().collect(),
            words: Vocabulary::new()?,
            authorizer: Authorizer::new(),
            policies: placed,
        })
    }

    /// Its policies, in the order in which they decide.
    #[must_use]
    pub fn policies(&self) -> impl ExactSizeIterator<Item = &Arc<Policy>> {
        self.policies.iter().map(|placed| &placed.policy)
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
        let candidates = self.candidates(ask);
        let mut keys: Vec<CounterKey> = candidates
            .iter()
            .filter_map(|at| self.policies.get(*at as usize))
            .filter(|placed| placed.counts)
            .flat_map(|placed| counters_of(&placed.policy, ask, tree))
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
            .standing_for(ask)
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
        let mut waiting: Vec<&PolicyName> = self
            .standing_for(ask)
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

    /// The places of the policies whose head names this, in the order in which they decide.
    pub(crate) fn candidates(&self, ask: &Ask<'_>) -> Vec<u32> {
        self.heads.naming(ask)
    }

    /// The policy at this place.
    pub(crate) fn policy(&self, at: u32) -> Option<&Policy> {
        let placed = self.policies.get(at as usize)?;
        Some(&placed.policy)
    }

    /// Its conditions, by their place among the distinct ones.
    pub(crate) fn conditions_of(&self, placed: &Placed) -> &[u32] {
        let own = self.of_policies.get(placed.conditions.clone());
        own.unwrap_or_default()
    }

    /// These policies.
    fn standing_for(&self, ask: &Ask<'_>) -> impl Iterator<Item = &Policy> {
        let candidates = self.candidates(ask).into_iter();
        candidates.filter_map(|at| self.policy(at))
    }

    /// What these policies need to know, together.
    fn needs(&self, candidates: &[u32]) -> Needs {
        let placed = candidates.iter();
        let placed = placed.filter_map(|at| self.policies.get(*at as usize));
        let mut places: Vec<u32> = placed.map(|placed| placed.needs).collect();
        places.sort_unstable();
        places.dedup();
        let mut all = Needs::default();
        for needs in places.iter().filter_map(|at| self.needs.get(*at as usize)) {
            all.add(needs);
        }
        all
    }

    pub(crate) fn case<'a>(
        &'a self,
        ask: &'a Ask<'a>,
        facts: &'a Facts<'a>,
        candidates: &[u32],
    ) -> Case<'a> {
        Case::new(self, ask, facts, self.needs(candidates))
    }
}

/// Values, each once, by the place where it was first seen.
struct Distinct<'a, T: ?Sized> {
    all: Vec<&'a T>,
    places: HashMap<&'a T, u32>,
}

impl<T: ?Sized> Default for Distinct<'_, T> {
    fn default() -> Self {
        Self {
            all: Vec::new(),
            places: HashMap::new(),
        }
    }
}

impl<'a, T: ?Sized + Eq + Hash> Distinct<'a, T> {
    fn place(&mut self, value: &'a T) -> u32 {
        let next = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        let place = *self.places.entry(value).or_insert(next);
        if place == next {
            self.all.push(value);
        }
        place
    }
}

fn parsed(condition: &str) -> Result<Expression, PolicyError> {
    Expression::from_str(condition).map_err(PolicyError::engine)
}

pub(crate) fn counters_of<'a>(
    policy: &'a Policy,
    ask: &'a Ask<'a>,
    tree: Option<&'a str>,
) -> impl Iterator<Item = CounterKey> + 'a {
    let key = move |requests| gate::key(&policy.reference.name, requests, ask, tree);
    policy.requests.iter().filter_map(key)
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine({} policies)", self.policies.len())
    }
}
