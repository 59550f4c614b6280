//! A dry run: what would be decided, by which policy, and every condition that fails.

use crate::{
    Allowed, Ask, Effect, Engine, Facts, PolicyRef, Refused,
    case::Case,
    compile::{Place, Policy},
    condition::{About, Clause, ConditionKind},
    facts::{LocalTime, as_text},
};

/// What would be decided, and how it came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What [`Engine::decide`] says.
    pub decision: Result<Allowed, Refused>,
    /// The policies that stand for this, in the order in which they decide.
    pub findings: Vec<Finding>,
}

/// What one policy says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The policy.
    pub policy: PolicyRef,
    /// Where it stands.
    pub place: Place,
    /// What it decides if it applies.
    pub effect: Effect,
    /// Whether it applies; none where it cannot be evaluated.
    pub applies: Option<bool>,
    /// Its conditions.
    pub conditions: Vec<Condition>,
}

/// What one condition says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// What it is about.
    pub kind: ConditionKind,
    /// Whether it holds; none where it cannot be evaluated.
    pub holds: Option<bool>,
    /// What it asks for.
    pub rule: String,
    /// What was found; none where that is not known.
    pub found: Option<String>,
}

impl Engine {
    /// Decides, and says how. Nothing is counted.
    #[must_use]
    pub fn check(&self, ask: &Ask<'_>, facts: &Facts<'_>) -> Report {
        let candidates = self.candidates(ask);
        let mut case = self.case(ask, facts, &candidates);
        let findings = candidates
            .iter()
            .filter_map(|at| Some((*at, self.policy(*at)?)))
            .map(|(at, policy)| finding(&mut case, at, policy))
            .collect();
        // What was evaluated for the findings is not evaluated again.
        Report {
            decision: case.decide(&candidates),
            findings,
        }
    }
}

fn finding(case: &mut Case<'_>, at: u32, policy: &Policy) -> Finding {
    let mut conditions: Vec<Condition> = Vec::new();
    let (applies, holds) = case.applies_by(at);
    for (clause, holds) in policy.clauses.iter().zip(holds) {
        conditions.push(Condition {
            kind: clause.kind,
            holds,
            rule: clause.rule.clone(),
            found: found(case.facts, clause),
        });
    }
    for (number, probe) in policy.probes.iter().enumerate() {
        conditions.push(Condition {
            kind: ConditionKind::Cedar,
            holds: case.applies_alone(probe),
            rule: format!("condition {} of its text", number + 1),
            found: None,
        });
    }
    let meters = case.meters(policy);
    for (requests, meter) in policy.requests.iter().zip(&meters) {
        conditions.push(Condition {
            kind: ConditionKind::Requests,
            holds: Some(meter.full() == (policy.effect == Effect::Deny)),
            rule: match policy.effect {
                Effect::Allow => format!(
                    "at most {} per {} of the {}",
                    meter.limit, requests.per, requests.of
                ),
                Effect::Deny => format!(
                    "more than {} per {} of the {}",
                    meter.limit, requests.per, requests.of
                ),
            },
            found: Some(meter.to_string()),
        });
    }
    if policy.requires_approval {
        let approved = case.approved(policy);
        conditions.push(Condition {
            kind: ConditionKind::Approval,
            holds: Some(approved),
            rule: "approved by somebody".to_owned(),
            found: Some(if approved { "approved" } else { "not approved" }.to_owned()),
        });
    }
    Finding {
        policy: policy.reference.clone(),
        place: policy.place,
        effect: policy.effect,
        applies: through_gates(applies, policy, &conditions),
        conditions,
    }
}

/// Limits and approvals decide too: one full counter is enough for a denial, and too much for an
/// allowance.
fn through_gates(applies: Option<bool>, policy: &Policy, conditions: &[Condition]) -> Option<bool> {
    let gates = || {
        let gate = |kind| matches!(kind, ConditionKind::Requests | ConditionKind::Approval);
        conditions
            .iter()
            .filter(move |condition| gate(condition.kind))
    };
    let holds = |condition: &Condition| condition.holds == Some(true);
    applies.map(|applies| {
        applies
            && match policy.effect {
                Effect::Allow => gates().all(holds),
                Effect::Deny => policy.requests.is_empty() || gates().any(holds),
            }
    })
}

/// What was found, for people.
fn found(facts: &Facts<'_>, clause: &Clause) -> Option<String> {
    match (&clause.about, clause.kind) {
        (About::Zone(zones), _) => {
            let local = |zone| {
                let local = LocalTime::at(facts.now, zone).ok()?;
                let (hour, minute) = (local.minute / 60, local.minute % 60);
                Some(format!("{} {hour:02}:{minute:02} {zone}", local.day))
            };
            let shown: Vec<String> = zones.iter().filter_map(local).collect();
            Some(shown.join(", "))
        }
        (About::Pointer(pointer), _) => {
            let value = facts.parameters?.pointer(pointer.as_str());
            Some(value.map_or_else(|| "nothing there".to_owned(), as_text))
        }
        (About::Kind, ConditionKind::Networks) => Some(facts.address?.to_string()),
        (About::Kind, ConditionKind::TokenAge) => Some(age(facts.token_age?)),
        (About::Kind, ConditionKind::SignedIn) => Some(age(facts.signed_in?)),
        (About::Kind, ConditionKind::SecondFactor) => Some(
            if facts.second_factor {
                "with a second factor"
            } else {
                "without"
            }
            .to_owned(),
        ),
        (About::Kind, ConditionKind::WorkflowType) => Some(facts.workflow_type?.to_string()),
        (About::Kind, ConditionKind::TaskQueue) => Some(facts.task_queue?.to_string()),
        _ => None,
    }
}

fn age(seconds: u64) -> String {
    humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string()
}
