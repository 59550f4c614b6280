//! One question, answered by the policies that stand for it.
//!
//! Cedar skips a policy that fails, a denial too. Here a denial that fails denies, and an allowance
//! that fails does not allow.

use crate::{
    Action, Allowed, Ask, By, Effect, Facts, Missed, Reason, Refused,
    compile::{Place, Policy},
    condition::{ConditionKind, Needs},
    engine::{Engine, Placed, counters_of},
    facts::{Pair, Question},
    gate::{self, CounterKey, Meter},
};
use cedar_policy::{Decision, EvalResult, PolicySet, eval_expression};
use std::{cell::OnceCell, sync::Arc};

/// Policies that explain why there is no permit, the nearest ones.
const TOLD: usize = 3;

/// One question, and what was found out about it so far.
pub(crate) struct Case<'a> {
    engine: &'a Engine,
    pub(crate) ask: &'a Ask<'a>,
    pub(crate) facts: &'a Facts<'a>,
    pub(crate) needs: Needs,
    /// What Cedar is asked, once it is; none where that cannot be put together.
    question: OnceCell<Option<Question>>,
    /// By condition: whether it was evaluated, and holds; none inside where it cannot be.
    known: Vec<Option<Option<bool>>>,
}

impl<'a> Case<'a> {
    pub(crate) fn new(
        engine: &'a Engine,
        ask: &'a Ask<'a>,
        facts: &'a Facts<'a>,
        needs: Needs,
    ) -> Self {
        Self {
            engine,
            ask,
            facts,
            needs,
            question: OnceCell::new(),
            known: vec![None; engine.conditions.len()],
        }
    }

    /// Decides by the policies that stand for it.
    pub(crate) fn decide(&mut self, candidates: &[u32]) -> Result<Allowed, Refused> {
        let engine = self.engine;
        let mut nearest = Nearest::default();
        for at in candidates {
            let Some(placed) = engine.policies.get(*at as usize) else {
                continue;
            };
            let policy = &placed.policy;
            match (placed.effect, self.applies(placed)) {
                (Effect::Deny, None) => {
                    return Err(Refused::by(Reason::PolicyBroken, &policy.reference));
                }
                (Effect::Deny, Some(true)) => {
                    if let Some(refused) = self.denied(policy) {
                        return Err(refused);
                    }
                }
                (Effect::Deny, Some(false)) => {}
                (Effect::Allow, None) => nearest.broken(policy),
                (Effect::Allow, Some(true)) => match self.open(policy) {
                    Ok(()) => return self.allowed(*at, policy, candidates),
                    Err(refused) => nearest.waits(refused),
                },
                (Effect::Allow, Some(false)) if nearest.is_told() => {}
                (Effect::Allow, Some(false)) => nearest.missed(policy, self.failed(placed)),
            }
        }
        self.by_approval(nearest, candidates)
    }

    /// Whether all conditions of a policy hold; none where one cannot be evaluated before another
    /// fails.
    fn applies(&mut self, placed: &Placed) -> Option<bool> {
        if placed.raw {
            return self.applies_alone(&placed.policy.alone);
        }
        for id in self.engine.conditions_of(placed) {
            match self.holds(*id) {
                Some(true) => {}
                other => return other,
            }
        }
        Some(true)
    }

    /// Whether Cedar's own authorizer says that the policy applies.
    pub(crate) fn applies_alone(&self, alone: &PolicySet) -> Option<bool> {
        let Question {
            request, entities, ..
        } = self.question()?;
        let authorizer = &self.engine.authorizer;
        let answer = authorizer.is_authorized(request, alone, entities);
        let broken = answer.diagnostics().errors().next().is_some();
        (!broken).then(|| answer.diagnostics().reason().next().is_some())
    }

    /// The same by its place, and which of its conditions hold.
    pub(crate) fn applies_by(&mut self, at: u32) -> (Option<bool>, Vec<Option<bool>>) {
        let engine = self.engine;
        let Some(placed) = engine.policies.get(at as usize) else {
            return (None, Vec::new());
        };
        let conditions = engine.conditions_of(placed).iter();
        let holds = conditions.map(|id| self.holds(*id)).collect();
        (self.applies(placed), holds)
    }

    fn holds(&mut self, id: u32) -> Option<bool> {
        if let Some(Some(known)) = self.known.get(id as usize) {
            return *known;
        }
        let condition = self.engine.conditions.get(id as usize)?;
        let Question {
            request, entities, ..
        } = self.question()?;
        let answer = match eval_expression(request, entities, condition) {
            Ok(EvalResult::Bool(holds)) => Some(holds),
            _ => None,
        };
        if let Some(known) = self.known.get_mut(id as usize) {
            *known = Some(answer);
        }
        answer
    }

    /// The kinds of the conditions that fail.
    fn failed(&mut self, placed: &Placed) -> Vec<ConditionKind> {
        if placed.raw {
            return vec![ConditionKind::Cedar];
        }
        let clauses = placed.policy.clauses.iter();
        let mut kinds: Vec<ConditionKind> = clauses
            .zip(self.engine.conditions_of(placed))
            .filter(|(_, id)| self.holds(**id) != Some(true))
            .map(|(clause, _)| clause.kind)
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

    /// Cedar's own authorizer has the last word: about the whole of a policy that was written in Cedar,
    /// about the head of another one, whose conditions hold. What it said of a head is remembered with
    /// the agent and the tool.
    fn confirmed(&self, at: u32, policy: &Policy) -> bool {
        let allows = (at, self.ask.action);
        let pair = self.pair().filter(|_| !policy.raw);
        if pair.as_ref().is_some_and(|pair| pair.is_allowed(allows)) {
            return true;
        }
        let Some(question) = self.question() else {
            return false;
        };
        let Question {
            request,
            entities,
            pair,
        } = question;
        let authorizer = &self.engine.authorizer;
        let answer = authorizer.is_authorized(request, &policy.alone, entities);
        let sound = answer.diagnostics().errors().next().is_none();
        let confirmed = sound && answer.decision() == Decision::Allow;
        if let (true, false, Some(pair)) = (confirmed, policy.raw, pair) {
            pair.allow(allows);
        }
        confirmed
    }

    /// The agent and the tool, where they are known already.
    fn pair(&self) -> Option<Arc<Pair>> {
        match self.question.get() {
            Some(question) => question.as_ref()?.pair.clone(),
            None => self.engine.words.known(self.ask),
        }
    }

    fn question(&self) -> Option<&Question> {
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
            let placed = engine.policies.get(*at as usize);
            let Some(placed) = placed.filter(|placed| placed.counts) else {
                continue;
            };
            if self.applies(placed) == Some(true) {
                keys.extend(counters_of(&placed.policy, self.ask, self.facts.tree));
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

    /// Whether enough of them missed.
    fn is_told(&self) -> bool {
        self.missed.len() >= TOLD
    }

    fn missed(&mut self, policy: &Policy, conditions: Vec<ConditionKind>) {
        let policy = policy.reference.clone();
        self.missed.push(Missed { policy, conditions });
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
