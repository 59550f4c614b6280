//! What people write: a policy as a document.

use crate::{
    Action, Effect,
    value::{Day, Period, Pointer, Span, Subject, TimeOfDay, Zone},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, collections::BTreeSet};
use xylem_ids::{AgentId, PolicyName, Role, TaskQueue, ToolName, ToolTag, WorkflowType};

/// The band of a policy that names none.
pub const DEFAULT_BAND: u16 = 500;

/// What is wrong with a policy: the field and its rule, never its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} must be {rule}")]
pub struct Invalid {
    /// The field: `when.parameters[2].at_most`.
    pub field: Cow<'static, str>,
    /// What it must be.
    pub rule: Cow<'static, str>,
}

impl Invalid {
    /// The field and the rule that it breaks.
    pub fn new(field: impl Into<Cow<'static, str>>, rule: impl Into<Cow<'static, str>>) -> Self {
        Self {
            field: field.into(),
            rule: rule.into(),
        }
    }

    /// The same, of a field inside of `outer`.
    #[must_use]
    pub fn inside(mut self, outer: &str) -> Self {
        self.field = format!("{outer}.{}", self.field).into();
        self
    }
}

/// A policy. It says whom it is for, what it is about and when it holds; or it is Cedar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Its name.
    pub name: PolicyName,
    /// For people; at most 2,000 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What it decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<Effect>,
    /// Whom it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<Who>,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub what: Option<What>,
    /// Which actions.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub actions: BTreeSet<Action>,
    /// Under which conditions; all of them must hold.
    #[serde(default, skip_serializing_if = "When::is_empty")]
    pub when: When,
    /// How many calls it allows, or lets pass.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<Requests>,
    /// 1 to 999; the highest band that decides wins. [`DEFAULT_BAND`] where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub band: Option<u16>,
    /// Whether this denial holds over every band.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub guardrail: bool,
    /// Whether it allows only what somebody approved.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub requires_approval: bool,
    /// The policy whose fields hold where this one leaves them out, and whose conditions hold too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inherits: Option<PolicyName>,
    /// A policy in Cedar, instead of everything from `effect` to `requests` and of `inherits`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cedar: Option<String>,
}

/// Whom a policy is for: any of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Who {
    /// These agents.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub agents: BTreeSet<AgentId>,
    /// Agents with one of these roles.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub roles: BTreeSet<Role>,
    /// Everybody; then nobody else is named.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub anyone: bool,
}

/// What a policy is about: any of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct What {
    /// These tools.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub tools: BTreeSet<ToolName>,
    /// Tools with one of these tags.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<ToolTag>,
    /// Every tool; then nothing else is named.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// Under which conditions a policy holds; all that are given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct When {
    /// In one of these windows of the week.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub time: Vec<Window>,
    /// From these networks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub networks: Option<Networks>,
    /// Since the version of the token was deposited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_age: Option<Age>,
    /// Since the caller proved who it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed_in: Option<Age>,
    /// Whether the caller proved it with a second factor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second_factor: Option<bool>,
    /// What the parameters of the call are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<Parameter>,
    /// From a workflow of one of these types.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub workflow_types: BTreeSet<WorkflowType>,
    /// On one of these task queues.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub task_queues: BTreeSet<TaskQueue>,
}

impl When {
    /// Whether it asks for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A window of the week. One that ends before it begins goes over midnight, and belongs to the day it
/// begins on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Where the clock hangs.
    pub zone: Zone,
    /// The days it begins on; every day where none is named.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub days: BTreeSet<Day>,
    /// Its first minute.
    pub from: TimeOfDay,
    /// The minute after its last.
    pub to: TimeOfDay,
}

/// Networks that callers are in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Networks {
    /// In one of these; in any where none is named.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub any_of: BTreeSet<IpNet>,
    /// In none of these.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub none_of: BTreeSet<IpNet>,
}

/// How long ago something may be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Age {
    /// Not longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_most: Option<Span>,
    /// Not shorter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_least: Option<Span>,
}

/// What one parameter of the call is: exactly one test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameter {
    /// Which one.
    pub pointer: Pointer,
    /// It is one of these; texts as they are, everything else as JSON.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub one_of: BTreeSet<String>,
    /// It is none of these.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub none_of: BTreeSet<String>,
    /// It looks so: `*` is any text, `\*` a star.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub like: Option<String>,
    /// It is a whole number and not larger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<i64>,
    /// It is a whole number and not smaller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<i64>,
    /// It is there, or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<bool>,
}

/// How many calls. The window begins with its first call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requests {
    /// With `allow`: so many are allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<u32>,
    /// With `deny`: those after so many are denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more_than: Option<u32>,
    /// In which time.
    pub per: Period,
    /// Whose calls are counted together.
    pub of: Subject,
}

impl Requests {
    /// How many calls pass in one window.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.at_most.or(self.more_than).unwrap_or(0)
    }
}

fn check(ok: bool, field: impl Into<Cow<'static, str>>, rule: &'static str) -> Result<(), Invalid> {
    if ok {
        Ok(())
    } else {
        Err(Invalid::new(field, rule))
    }
}

fn within(of: usize, most: usize, field: &'static str, rule: &'static str) -> Result<(), Invalid> {
    check(of <= most, field, rule)
}

impl Document {
    /// A policy that allows some actions, whatever the circumstances, in the lowest band: everything
    /// else decides before it.
    #[must_use]
    pub fn allow(name: PolicyName, who: Who, what: What, actions: BTreeSet<Action>) -> Self {
        Self {
            name,
            description: String::new(),
            effect: Some(Effect::Allow),
            who: Some(who),
            what: Some(what),
            actions,
            when: When::default(),
            requests: Vec::new(),
            band: Some(1),
            guardrail: false,
            requires_approval: false,
            inherits: None,
            cedar: None,
        }
    }

    /// Checks what can be said of this document alone.
    ///
    /// # Errors
    /// Names the field and the rule.
    pub fn check(&self) -> Result<(), Invalid> {
        let printable = |c: char| !c.is_control() || c == '\n';
        let described = self.description.len() <= 2_000 && self.description.chars().all(printable);
        check(
            described,
            "description",
            "at most 2,000 printable characters",
        )?;
        let band = self.band.is_none_or(|band| (1..=999).contains(&band));
        check(band, "band", "a number from 1 to 999")?;
        let ranked = !(self.guardrail && self.band.is_some());
        check(
            ranked,
            "band",
            "left out: a guardrail holds over every band",
        )?;
        match &self.cedar {
            Some(_) => self.check_alone()?,
            None => self.check_plain()?,
        }
        Ok(())
    }

    /// Cedar says everything itself, but what Cedar has no word for.
    fn check_alone(&self) -> Result<(), Invalid> {
        let rule = "left out: the policy in cedar says it";
        check(self.effect.is_none(), "effect", rule)?;
        check(self.who.is_none(), "who", rule)?;
        check(self.what.is_none(), "what", rule)?;
        check(self.actions.is_empty(), "actions", rule)?;
        check(self.when.is_empty(), "when", rule)?;
        let counted = "left out: a policy in cedar does not count calls";
        check(self.requests.is_empty(), "requests", counted)?;
        check(self.inherits.is_none(), "inherits", rule)
    }

    fn check_plain(&self) -> Result<(), Invalid> {
        if let Some(who) = &self.who {
            let named = who.agents.len() + who.roles.len();
            let rule = "agents or roles, at most 100, or anyone alone";
            check(who.anyone == (named == 0) && named <= 100, "who", rule)?;
        }
        if let Some(what) = &self.what {
            let named = what.tools.len() + what.tags.len();
            let rule = "tools or tags, at most 200, or all alone";
            check(what.all == (named == 0) && named <= 200, "what", rule)?;
        }
        self.when.check().map_err(|error| error.inside("when"))?;
        within(self.requests.len(), 5, "requests", "at most 5 limits")?;
        for (at, requests) in self.requests.iter().enumerate() {
            requests.check(&format!("requests[{at}]"))?;
        }
        Ok(())
    }

    /// This document with what it inherits from `parents`, nearest first, and the conditions of all.
    ///
    /// # Errors
    /// Names what is missing once everything inherited is filled in, or does not go together.
    pub(crate) fn inherit(&self, parents: &[&Self]) -> Result<(Self, Vec<When>), Invalid> {
        let mut whole = self.clone();
        let mut whens = vec![self.when.clone()];
        for parent in parents {
            let parent = (*parent).clone();
            whole.effect = whole.effect.or(parent.effect);
            whole.who = whole.who.or(parent.who);
            whole.what = whole.what.or(parent.what);
            if whole.actions.is_empty() {
                whole.actions = parent.actions;
            }
            whole.requests.extend(parent.requests);
            whole.requires_approval |= parent.requires_approval;
            whens.push(parent.when);
        }
        whens.retain(|when| !when.is_empty());
        whole.check_whole(whens.is_empty())?;
        Ok((whole, whens))
    }

    fn check_whole(&self, unconditional: bool) -> Result<(), Invalid> {
        let effect = self.effect.ok_or(Invalid::new("effect", "allow or deny"))?;
        check(self.who.is_some(), "who", "given, or inherited")?;
        check(self.what.is_some(), "what", "given, or inherited")?;
        check(!self.actions.is_empty(), "actions", "given, or inherited")?;
        let allows = effect == Effect::Allow;
        check(
            !(self.guardrail && allows),
            "guardrail",
            "left out: only a denial holds everywhere",
        )?;
        let approved = allows || !self.requires_approval;
        check(
            approved,
            "requires_approval",
            "left out: nobody approves a denial",
        )?;
        if !self.requests.is_empty() {
            let calls = self.actions.iter().all(|action| *action == Action::Execute);
            check(calls, "actions", "execute alone where requests are counted")?;
        }
        for (at, requests) in self.requests.iter().enumerate() {
            let (given, other, rule) = if allows {
                (
                    "at_most",
                    requests.at_most,
                    "given with allow: so many calls are allowed",
                )
            } else {
                (
                    "more_than",
                    requests.more_than,
                    "given with deny: those after are denied",
                )
            };
            check(other.is_some(), format!("requests[{at}].{given}"), rule)?;
        }
        self.check_aim(allows, unconditional)
    }

    /// A denial of everything for everybody is a guardrail, or a mistake.
    fn check_aim(&self, allows: bool, unconditional: bool) -> Result<(), Invalid> {
        let everybody = self.who.as_ref().is_some_and(|who| who.anyone);
        let everything = self.what.as_ref().is_some_and(|what| what.all);
        let bare = unconditional && self.requests.is_empty();
        let blanket = !allows && everybody && everything && bare && !self.guardrail;
        check(
            !blanket,
            "guardrail",
            "true where everything is denied to everybody",
        )
    }
}

impl When {
    fn check(&self) -> Result<(), Invalid> {
        within(self.time.len(), 10, "time", "at most 10 windows")?;
        for (at, window) in self.time.iter().enumerate() {
            let rule = "another time than to, and before 24:00";
            let from = window.from != window.to && window.from.minute() < 24 * 60;
            check(from, format!("time[{at}].from"), rule)?;
        }
        if let Some(networks) = &self.networks {
            let named = networks.any_of.len() + networks.none_of.len();
            let rule = "any_of or none_of, at most 64 networks";
            check((1..=64).contains(&named), "networks", rule)?;
            let plain = |net: &IpNet| match net {
                IpNet::V4(_) => true,
                IpNet::V6(net) => net.addr().to_ipv4_mapped().is_none(),
            };
            let all = networks.any_of.iter().chain(&networks.none_of).all(plain);
            check(
                all,
                "networks",
                "written as IPv4 where they are IPv4 networks",
            )?;
        }
        for (field, age) in [
            ("token_age", &self.token_age),
            ("signed_in", &self.signed_in),
        ] {
            let given = |age: &Age| age.at_most.is_some() || age.at_least.is_some();
            check(age.as_ref().is_none_or(given), field, "at_most or at_least")?;
        }
        within(self.parameters.len(), 20, "parameters", "at most 20 tests")?;
        for (at, parameter) in self.parameters.iter().enumerate() {
            parameter.check(&format!("parameters[{at}]"))?;
        }
        within(
            self.workflow_types.len(),
            50,
            "workflow_types",
            "at most 50 types",
        )?;
        within(
            self.task_queues.len(),
            50,
            "task_queues",
            "at most 50 queues",
        )
    }
}

impl Parameter {
    fn check(&self, field: &str) -> Result<(), Invalid> {
        let tests = [
            !self.one_of.is_empty(),
            !self.none_of.is_empty(),
            self.like.is_some(),
            self.at_most.is_some() || self.at_least.is_some(),
            self.present.is_some(),
        ];
        let one = tests.into_iter().filter(|given| *given).count() == 1;
        let rule = "one of one_of, none_of, like, at_most and at_least, or present";
        check(one, field.to_owned(), rule)?;
        let lists = self.one_of.len().max(self.none_of.len()) <= 50;
        check(lists, field.to_owned(), "a list of at most 50 values")?;
        let mut texts = self.one_of.iter().chain(&self.none_of).chain(&self.like);
        let short = texts.all(|text| text.len() <= 200);
        check(short, field.to_owned(), "values of at most 200 characters")
    }
}

impl Requests {
    fn check(&self, field: &str) -> Result<(), Invalid> {
        let one = self.at_most.is_some() != self.more_than.is_some();
        check(
            one,
            field.to_owned(),
            "at_most with allow, or more_than with deny",
        )?;
        let rule = "at most 1,000,000";
        check(self.limit() <= 1_000_000, field.to_owned(), rule)
    }
}
