//! What each condition says in Cedar. There is no second implementation of a condition: the same
//! texts decide and explain.
//!
//! What is not known never helps: where a fact is missing, an allowance does not hold and a denial
//! does. So a condition has two forms where its fact can be missing.

use crate::{
    Effect,
    document::{Age, Networks, Parameter, When, Window},
    literal::{literal, pattern},
    value::{Day, Pointer, Zone},
};
use std::collections::BTreeSet;

/// What a condition is about. The codes are part of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionKind {
    /// Who asks.
    Who,
    /// For what.
    What,
    /// For which action.
    Actions,
    /// The time of the week.
    Time,
    /// Where the caller is.
    Networks,
    /// How old the token is.
    TokenAge,
    /// How long ago the caller proved who it is.
    SignedIn,
    /// Whether it did with a second factor.
    SecondFactor,
    /// A parameter of the call.
    Parameters,
    /// The type of the calling workflow.
    WorkflowType,
    /// The task queue it calls on.
    TaskQueue,
    /// What a policy in Cedar says.
    Cedar,
    /// How many calls there were.
    Requests,
    /// Whether somebody approved.
    Approval,
}

impl ConditionKind {
    /// The stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Who => "who",
            Self::What => "what",
            Self::Actions => "actions",
            Self::Time => "time",
            Self::Networks => "networks",
            Self::TokenAge => "token_age",
            Self::SignedIn => "signed_in",
            Self::SecondFactor => "second_factor",
            Self::Parameters => "parameters",
            Self::WorkflowType => "workflow_types",
            Self::TaskQueue => "task_queues",
            Self::Cedar => "cedar",
            Self::Requests => "requests",
            Self::Approval => "approval",
        }
    }
}

/// An attribute of Cedar's context, as the schema has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Attribute {
    Now,
    Moment,
    SecondFactor,
    Address,
    Parameters,
    Numbers,
    SignedIn,
    TokenAge,
    Tree,
    WorkflowType,
    TaskQueue,
}

impl Attribute {
    pub(crate) const ALL: [Self; 11] = [
        Self::Now,
        Self::Moment,
        Self::SecondFactor,
        Self::Address,
        Self::Parameters,
        Self::Numbers,
        Self::SignedIn,
        Self::TokenAge,
        Self::Tree,
        Self::WorkflowType,
        Self::TaskQueue,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Now => "now",
            Self::Moment => "moment",
            Self::SecondFactor => "second_factor",
            Self::Address => "address",
            Self::Parameters => "parameters",
            Self::Numbers => "numbers",
            Self::SignedIn => "signed_in_seconds",
            Self::TokenAge => "token_age_seconds",
            Self::Tree => "tree",
            Self::WorkflowType => "workflow_type",
            Self::TaskQueue => "task_queue",
        }
    }
}

/// What must be among the facts so that a policy can be asked. Cedar is told nothing else: to put a
/// question together costs more than to answer it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Needs {
    pub(crate) attributes: BTreeSet<Attribute>,
    pub(crate) zones: BTreeSet<Zone>,
    pub(crate) pointers: BTreeSet<Pointer>,
}

impl Needs {
    pub(crate) fn add(&mut self, other: &Self) {
        self.attributes.extend(&other.attributes);
        self.zones.extend(other.zones.iter().cloned());
        self.pointers.extend(other.pointers.iter().cloned());
    }
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Clause {
    pub(crate) kind: ConditionKind,
    /// In Cedar.
    pub(crate) text: String,
    /// For people.
    pub(crate) rule: String,
    /// The fact of its own that it looks at, where its kind does not say it.
    pub(crate) about: About,
}

/// Which fact a clause looks at, for whoever explains it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum About {
    Kind,
    Zone(Vec<Zone>),
    Pointer(Pointer),
}

/// The conditions of a `when`, and what they need to know.
pub(crate) fn clauses(when: &When, effect: Effect, needs: &mut Needs) -> Vec<Clause> {
    let mut found = Vec::new();
    if !when.time.is_empty() {
        needs.attributes.insert(Attribute::Moment);
        needs.zones.extend(when.time.iter().map(|w| w.zone.clone()));
        found.push(time(&when.time));
    }
    if let Some(networks) = &when.networks {
        needs.attributes.insert(Attribute::Address);
        found.push(networks_clause(networks, effect));
    }
    for (kind, fact, age) in [
        (
            ConditionKind::TokenAge,
            Attribute::TokenAge,
            &when.token_age,
        ),
        (
            ConditionKind::SignedIn,
            Attribute::SignedIn,
            &when.signed_in,
        ),
    ] {
        if let Some(age) = age {
            needs.attributes.insert(fact);
            found.push(age_clause(kind, fact, age, effect));
        }
    }
    if let Some(wanted) = when.second_factor {
        needs.attributes.insert(Attribute::SecondFactor);
        found.push(second_factor(wanted));
    }
    for parameter in &when.parameters {
        let both = [Attribute::Parameters, Attribute::Numbers];
        needs.attributes.extend(both);
        needs.pointers.insert(parameter.pointer.clone());
        found.push(parameter_clause(parameter, effect));
    }
    let types: Vec<&str> = when.workflow_types.iter().map(|t| t.as_str()).collect();
    let queues: Vec<&str> = when.task_queues.iter().map(|t| t.as_str()).collect();
    for (kind, fact, named) in [
        (ConditionKind::WorkflowType, Attribute::WorkflowType, types),
        (ConditionKind::TaskQueue, Attribute::TaskQueue, queues),
    ] {
        if !named.is_empty() {
            needs.attributes.insert(fact);
            found.push(one_of(kind, fact, &named, effect));
        }
    }
    found
}

/// `test`, where `context` has `fact`; what the effect makes of it where it has not.
fn known(fact: Attribute, test: &str, effect: Effect) -> String {
    let fact = fact.name();
    match effect {
        Effect::Allow => format!("context has {fact} && ({test})"),
        Effect::Deny => format!("if context has {fact} then ({test}) else true"),
    }
}

fn clause(kind: ConditionKind, text: String, rule: String) -> Clause {
    let about = About::Kind;
    Clause {
        kind,
        text,
        rule,
        about,
    }
}

/// `[a, b]`.
fn set<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = texts.into_iter().map(literal).collect();
    format!("[{}]", quoted.join(", "))
}

/// `a || b`, as a balanced tree: a chain of 64 would be nested 64 deep.
fn any(parts: &[String]) -> String {
    match parts {
        [] => "false".to_owned(),
        [one] => one.clone(),
        many => {
            let (left, right) = many.split_at(many.len() / 2);
            format!("({} || {})", any(left), any(right))
        }
    }
}

fn time(windows: &[Window]) -> Clause {
    let texts: Vec<String> = windows.iter().map(window).collect();
    let rules: Vec<String> = windows.iter().map(window_rule).collect();
    let zones: BTreeSet<Zone> = windows.iter().map(|w| w.zone.clone()).collect();
    Clause {
        kind: ConditionKind::Time,
        text: any(&texts),
        rule: rules.join(", or "),
        about: About::Zone(zones.into_iter().collect()),
    }
}

fn window(window: &Window) -> String {
    let zone = literal(window.zone.as_str());
    let local = format!("context.moment.getTag({zone})");
    let (from, to) = (window.from.minute(), window.to.minute());
    let on = |field: &str| {
        if window.days.is_empty() {
            "true".to_owned()
        } else {
            format!(
                "{}.contains({local}.{field})",
                set(window.days.iter().map(|d| d.code()))
            )
        }
    };
    let inside = if from < to {
        format!(
            "({} && {local}.minute >= {from} && {local}.minute < {to})",
            on("weekday")
        )
    } else {
        let evening = format!("({} && {local}.minute >= {from})", on("weekday"));
        let morning = format!("({} && {local}.minute < {to})", on("yesterday"));
        format!("({evening} || {morning})")
    };
    format!("(context.moment.hasTag({zone}) && {inside})")
}

fn window_rule(window: &Window) -> String {
    let days: Vec<&str> = window.days.iter().map(|day: &Day| day.code()).collect();
    let days = if days.is_empty() {
        "every day".to_owned()
    } else {
        days.join(" ")
    };
    format!("{days} {}-{} {}", window.from, window.to, window.zone)
}

fn networks_clause(networks: &Networks, effect: Effect) -> Clause {
    let within = |nets: &BTreeSet<ipnet::IpNet>| {
        let tests: Vec<String> = nets
            .iter()
            .map(|net| {
                format!(
                    "context.address.isInRange(ip({}))",
                    literal(&net.to_string())
                )
            })
            .collect();
        any(&tests)
    };
    let list = |nets: &BTreeSet<ipnet::IpNet>| {
        nets.iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut tests = Vec::new();
    let mut rules = Vec::new();
    if !networks.any_of.is_empty() {
        tests.push(within(&networks.any_of));
        rules.push(format!("from {}", list(&networks.any_of)));
    }
    if !networks.none_of.is_empty() {
        tests.push(format!("!({})", within(&networks.none_of)));
        rules.push(format!("not from {}", list(&networks.none_of)));
    }
    let text = known(Attribute::Address, &tests.join(" && "), effect);
    clause(ConditionKind::Networks, text, rules.join(" and "))
}

fn age_clause(kind: ConditionKind, fact: Attribute, age: &Age, effect: Effect) -> Clause {
    let name = fact.name();
    let mut tests = Vec::new();
    let mut rules = Vec::new();
    for (sign, word, span) in [
        ("<=", "at most", age.at_most),
        (">=", "at least", age.at_least),
    ] {
        if let Some(span) = span {
            tests.push(format!("context.{name} {sign} {}", span.seconds()));
            rules.push(format!("{word} {span}"));
        }
    }
    clause(
        kind,
        known(fact, &tests.join(" && "), effect),
        rules.join(" and "),
    )
}

fn second_factor(wanted: bool) -> Clause {
    let text = format!("context.second_factor == {wanted}");
    let rule = if wanted {
        "with a second factor"
    } else {
        "without a second factor"
    };
    clause(ConditionKind::SecondFactor, text, rule.to_owned())
}

fn one_of(kind: ConditionKind, fact: Attribute, named: &[&str], effect: Effect) -> Clause {
    let names = set(named.iter().copied());
    let test = format!("{names}.contains(context.{})", fact.name());
    clause(
        kind,
        known(fact, &test, effect),
        format!("one of {}", named.join(", ")),
    )
}

fn parameter_clause(parameter: &Parameter, effect: Effect) -> Clause {
    let at = literal(parameter.pointer.as_str());
    let has = format!("context.parameters.hasTag({at})");
    let value = format!("context.parameters.getTag({at})");
    let list = |values: &BTreeSet<String>| set(values.iter().map(String::as_str));
    let words = |values: &BTreeSet<String>| values.iter().cloned().collect::<Vec<_>>().join(", ");
    let (test, rule) = if let Some(present) = parameter.present {
        let (test, word) = if present {
            (has, "there")
        } else {
            (format!("!{has}"), "left out")
        };
        (test, format!("be {word}"))
    } else if let Some(like) = &parameter.like {
        (
            format!("{has} && {value} like {}", pattern(like)),
            format!("look like {like}"),
        )
    } else if !parameter.one_of.is_empty() {
        let test = format!("{has} && {}.contains({value})", list(&parameter.one_of));
        (test, format!("be one of {}", words(&parameter.one_of)))
    } else if !parameter.none_of.is_empty() {
        let other = format!("!{}.contains({value})", list(&parameter.none_of));
        // A denial of everything but these also denies a call that does not say.
        let test = match effect {
            Effect::Allow => format!("{has} && {other}"),
            Effect::Deny => format!("if {has} then {other} else true"),
        };
        (test, format!("be none of {}", words(&parameter.none_of)))
    } else {
        number(parameter, &at, &has, effect)
    };
    Clause {
        kind: ConditionKind::Parameters,
        text: known(Attribute::Parameters, &test, effect),
        rule: format!("{} must {rule}", parameter.pointer),
        about: About::Pointer(parameter.pointer.clone()),
    }
}

/// A denial of large numbers also denies what is there and is no whole number: one sent as text
/// must not pass.
fn number(parameter: &Parameter, at: &str, has: &str, effect: Effect) -> (String, String) {
    let is = format!("context has numbers && context.numbers.hasTag({at})");
    let value = format!("context.numbers.getTag({at})");
    let mut tests = Vec::new();
    let mut rules = Vec::new();
    for (sign, word, bound) in [
        ("<=", "at most", parameter.at_most),
        (">=", "at least", parameter.at_least),
    ] {
        if let Some(bound) = bound {
            tests.push(format!("{value} {sign} {bound}"));
            rules.push(format!("{word} {bound}"));
        }
    }
    let tests = tests.join(" && ");
    let test = match effect {
        Effect::Allow => format!("{is} && {tests}"),
        Effect::Deny => format!("if ({is}) then ({tests}) else {has}"),
    };
    (test, format!("be a whole number, {}", rules.join(" and ")))
}
