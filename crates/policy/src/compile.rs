//! From a document to a policy that can be asked.

use crate::{
    Action, Document, Effect, Invalid, PolicyError, PolicyRef,
    condition::{Clause, Needs, clauses},
    document::{DEFAULT_BAND, Requests, What, Who},
    literal::literal,
    raw,
};
use cedar_policy::{Policy as CedarPolicy, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use std::{cmp::Reverse, collections::BTreeSet, fmt};
use xylem_ids::{AgentId, PolicyName, Role, ToolName, ToolTag};

/// The schema that every policy is checked against, as people read it.
pub const SCHEMA: &str = include_str!("policy.xylem.cedarschema");
/// A policy and all it inherits from.
const MOST_GENERATIONS: usize = 5;

/// Where a policy stands: guardrails first, then the bands from the highest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Over every band.
    Guardrail,
    /// In this one.
    Band(Reverse<u16>),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guardrail => f.write_str("guardrail"),
            Self::Band(Reverse(band)) => write!(f, "band {band}"),
        }
    }
}

/// Whom a policy is indexed for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Head {
    pub(crate) agents: BTreeSet<AgentId>,
    pub(crate) roles: BTreeSet<Role>,
    pub(crate) anyone: bool,
    pub(crate) tools: BTreeSet<ToolName>,
    pub(crate) tags: BTreeSet<ToolTag>,
    pub(crate) everything: bool,
    pub(crate) actions: BTreeSet<Action>,
}

/// A policy, compiled.
#[derive(Debug, Clone)]
pub struct Policy {
    pub(crate) reference: PolicyRef,
    pub(crate) effect: Effect,
    pub(crate) place: Place,
    pub(crate) head: Head,
    /// All of them must hold; none for a policy that was written in Cedar.
    pub(crate) clauses: Vec<Clause>,
    /// A policy that was written in Cedar, condition by condition, for whoever explains it.
    pub(crate) probes: Vec<PolicySet>,
    pub(crate) raw: bool,
    pub(crate) requests: Vec<Requests>,
    pub(crate) requires_approval: bool,
    pub(crate) needs: Needs,
    /// For Cedar's own authorizer: the whole policy where it was written in Cedar, otherwise whom and
    /// what it is about, without the conditions.
    pub(crate) alone: PolicySet,
    text: String,
}

impl Policy {
    /// Its name and version.
    #[must_use]
    pub fn reference(&self) -> &PolicyRef {
        &self.reference
    }

    /// What it says in Cedar. Limits and approvals are not in it: Cedar has no word for them.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What it decides.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.effect
    }

    /// Where it stands.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// Whether nothing can keep it from applying to what it is about.
    pub(crate) fn unconditional(&self) -> bool {
        !self.raw && self.clauses.is_empty() && self.requests.is_empty()
    }
}

/// Compiles documents and checks them against the schema.
pub struct Compiler {
    validator: Validator,
}

impl Compiler {
    /// A compiler for [`SCHEMA`].
    ///
    /// # Errors
    /// The schema is broken.
    pub fn new() -> Result<Self, PolicyError> {
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA).map_err(PolicyError::engine)?;
        Ok(Self {
            validator: Validator::new(schema),
        })
    }

    /// Compiles a document. `parent` finds the policies that it may inherit from: those that are not
    /// retired.
    ///
    /// # Errors
    /// Names the field and the rule.
    pub fn compile<'a>(
        &self,
        document: &'a Document,
        version: u32,
        parent: &dyn Fn(&PolicyName) -> Option<&'a Document>,
    ) -> Result<Policy, PolicyError> {
        document.check()?;
        let reference = PolicyRef {
            name: document.name.clone(),
            version,
        };
        match &document.cedar {
            Some(text) => self.raw(document, reference, text),
            None => self.plain(document, reference, parent),
        }
    }

    fn plain<'a>(
        &self,
        document: &'a Document,
        reference: PolicyRef,
        parent: &dyn Fn(&PolicyName) -> Option<&'a Document>,
    ) -> Result<Policy, PolicyError> {
        let (whole, whens) = document.inherit(&ancestors(document, parent)?)?;
        let effect = whole.effect.unwrap_or(Effect::Deny);
        let mut needs = Needs::default();
        let clauses: Vec<Clause> = whens
            .iter()
            .flat_map(|when| clauses(when, effect, &mut needs))
            .collect();
        let head = head(&whole);
        let whole_text = text(effect, &head, &clauses);
        let alone = parsed(&reference, &whole_text)?;
        let checked = self.validator.validate(&alone, ValidationMode::Strict);
        if !checked.validation_passed() {
            // Every plain policy compiles to valid Cedar; that one did not is a fault of ours.
            return Err(PolicyError::engine(checked));
        }
        let alone = match clauses.as_slice() {
            [] => alone,
            _ => parsed(&reference, &text(effect, &head, &[]))?,
        };
        Ok(Policy {
            reference,
            effect,
            place: place(document),
            head,
            clauses,
            probes: Vec::new(),
            raw: false,
            requests: whole.requests,
            requires_approval: whole.requires_approval,
            needs,
            alone,
            text: whole_text,
        })
    }

    fn raw(
        &self,
        document: &Document,
        reference: PolicyRef,
        text: &str,
    ) -> Result<Policy, PolicyError> {
        let read = raw::read(text, &id(&reference), &self.validator)?;
        let allows = read.effect == Effect::Allow;
        if allows && document.guardrail {
            let rule = "left out: only a denial holds everywhere";
            return Err(Invalid::new("guardrail", rule).into());
        }
        if !allows && document.requires_approval {
            let rule = "left out: nobody approves a denial";
            return Err(Invalid::new("requires_approval", rule).into());
        }
        Ok(Policy {
            reference,
            effect: read.effect,
            place: place(document),
            head: read.head,
            clauses: Vec::new(),
            probes: read.probes,
            raw: true,
            requests: Vec::new(),
            requires_approval: document.requires_approval,
            needs: read.needs,
            alone: set(read.policy)?,
            text: text.to_owned(),
        })
    }
}

/// What a document inherits from, nearest first.
fn ancestors<'a>(
    document: &'a Document,
    parent: &dyn Fn(&PolicyName) -> Option<&'a Document>,
) -> Result<Vec<&'a Document>, Invalid> {
    let mut line = vec![document];
    let mut next = document.inherits.as_ref();
    while let Some(name) = next {
        let rule = if line.iter().any(|known| known.name == *name) {
            Some("another policy: this one would inherit from itself")
        } else if line.len() == MOST_GENERATIONS {
            Some("a policy with at most three above it")
        } else {
            None
        };
        if let Some(rule) = rule {
            return Err(Invalid::new("inherits", rule));
        }
        let found = parent(name).filter(|found| found.cedar.is_none());
        let rule = "a policy that exists, is not retired and is not written in Cedar";
        let found = found.ok_or(Invalid::new("inherits", rule))?;
        line.push(found);
        next = found.inherits.as_ref();
    }
    Ok(line.split_off(1))
}

fn place(document: &Document) -> Place {
    if document.guardrail {
        Place::Guardrail
    } else {
        Place::Band(Reverse(document.band.unwrap_or(DEFAULT_BAND)))
    }
}

fn head(whole: &Document) -> Head {
    let Who {
        agents,
        roles,
        anyone,
    } = whole.who.clone().unwrap_or_default();
    let What { tools, tags, all } = whole.what.clone().unwrap_or_default();
    let actions = whole.actions.clone();
    Head {
        agents,
        roles,
        anyone,
        tools,
        tags,
        everything: all,
        actions,
    }
}

fn id(reference: &PolicyRef) -> PolicyId {
    PolicyId::new(reference.to_string())
}

fn parsed(reference: &PolicyRef, text: &str) -> Result<PolicySet, PolicyError> {
    let policy = CedarPolicy::parse(Some(id(reference)), text);
    set(policy.map_err(PolicyError::engine)?)
}

pub(crate) fn set(policy: CedarPolicy) -> Result<PolicySet, PolicyError> {
    let mut alone = PolicySet::new();
    alone.add(policy).map_err(PolicyError::engine)?;
    Ok(alone)
}

/// One Cedar policy; a scope holds one name, so several of them are a condition.
fn text(effect: Effect, head: &Head, clauses: &[Clause]) -> String {
    let agents: Vec<String> = names("Agent", head.agents.iter().map(AgentId::as_str));
    let roles: Vec<String> = names("Role", head.roles.iter().map(|role| role.code()));
    let tools: Vec<String> = names("Tool", head.tools.iter().map(ToolName::as_str));
    let tags: Vec<String> = names("ToolTag", head.tags.iter().map(ToolTag::as_str));
    let actions = names("Action", head.actions.iter().map(|action| action.code()));
    let (principal, who) = scope("principal", head.anyone, &agents, &roles);
    let (resource, what) = scope("resource", head.everything, &tools, &tags);
    let word = match effect {
        Effect::Allow => "permit",
        Effect::Deny => "forbid",
    };
    let conditions: String = [who, what]
        .iter()
        .flatten()
        .chain(clauses.iter().map(|clause| &clause.text))
        .map(|text| format!("\nwhen {{ {text} }}"))
        .collect();
    let actions = actions.join(", ");
    format!("{word}({principal}, action in [{actions}], {resource}){conditions};")
}

fn names<'a>(kind: &str, ids: impl Iterator<Item = &'a str>) -> Vec<String> {
    ids.map(|id| format!("{kind}::{}", literal(id))).collect()
}

/// A scope, and a condition where the scope cannot say it: one set holds one kind of entity.
fn scope(of: &str, open: bool, one: &[String], other: &[String]) -> (String, Option<String>) {
    match (one, other) {
        _ if open => (of.to_owned(), None),
        ([name], []) | ([], [name]) => (format!("{of} in {name}"), None),
        _ => {
            let sets: Vec<String> = [one, other]
                .iter()
                .filter(|names| !names.is_empty())
                .map(|names| format!("{of} in [{}]", names.join(", ")))
                .collect();
            (of.to_owned(), Some(sets.join(" || ")))
        }
    }
}
