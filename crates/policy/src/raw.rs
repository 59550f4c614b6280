//! Policies that people write in Cedar.
//!
//! Cedar's parser and validator recurse, and a text of a few hundred brackets ends the process
//! (cedar-policy/cedar#2383). So the text is bounded before it is parsed, parsed on a thread with a
//! large stack, and its depth is bounded again: what is accepted is evaluated on any worker's stack.

use crate::{
    Action, Effect, Invalid, PolicyError,
    compile::{Head, set},
    condition::{Attribute, Needs},
    value::{Pointer, Zone},
};
use cedar_policy::{
    ActionConstraint, EntityUid, Policy as CedarPolicy, PolicyId, PolicySet, PrincipalConstraint,
    ResourceConstraint, ValidationMode, Validator,
};
use serde_json::Value;
use std::{collections::BTreeSet, str::FromStr, thread};

const MOST_BYTES: usize = 8 * 1024;
const MOST_TOKENS: usize = 500;
const MOST_BRACKETS: usize = 32;
/// Levels of the expression; a debug build evaluates about 100 on 2 MiB.
const MOST_LEVELS: usize = 64;
/// What parses and validates everything within the bounds above, in every build.
const STACK: usize = 64 * 1024 * 1024;

/// A policy that was read.
pub(crate) struct Read {
    pub(crate) policy: CedarPolicy,
    pub(crate) effect: Effect,
    pub(crate) head: Head,
    pub(crate) needs: Needs,
    pub(crate) probes: Vec<PolicySet>,
}

/// Reads and validates one policy.
pub(crate) fn read(text: &str, id: &PolicyId, validator: &Validator) -> Result<Read, PolicyError> {
    bounds(text)?;
    thread::scope(|scope| {
        thread::Builder::new()
            .name("policy".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, || parse(text, id, validator))
            .map_err(PolicyError::engine)?
            .join()
            .map_err(|_| PolicyError::engine(std::io::Error::other("the reader ended")))?
    })
}

fn invalid(rule: impl Into<std::borrow::Cow<'static, str>>) -> PolicyError {
    Invalid::new("cedar", rule).into()
}

/// What is said of a text before anybody parses it.
fn bounds(text: &str) -> Result<(), PolicyError> {
    let hidden = |c: char| {
        (c.is_control() && !matches!(c, '\n' | '\t'))
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
    };
    if text.len() > MOST_BYTES || text.chars().any(hidden) {
        return Err(invalid("at most 8 KiB of text without control characters"));
    }
    let (tokens, depth) = measure(text);
    if tokens > MOST_TOKENS || depth > MOST_BRACKETS {
        return Err(invalid("at most 500 words and signs, and 32 brackets deep"));
    }
    Ok(())
}

/// How many tokens, and how deep brackets stand in each other, outside of strings and comments.
fn measure(text: &str) -> (usize, usize) {
    let (mut tokens, mut depth, mut deepest) = (0, 0_usize, 0);
    let mut rest = text.chars().peekable();
    let mut word = false;
    while let Some(c) = rest.next() {
        let was_word = std::mem::replace(&mut word, c.is_alphanumeric() || c == '_');
        match c {
            '"' => {
                tokens += 1;
                while let Some(inner) = rest.next() {
                    match inner {
                        '\\' => drop(rest.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '/' if rest.peek() == Some(&'/') => while rest.next_if(|c| *c != '\n').is_some() {},
            _ if c.is_whitespace() || (word && was_word) => {}
            '(' | '[' | '{' => {
                (tokens, depth) = (tokens + 1, depth + 1);
                deepest = deepest.max(depth);
            }
            ')' | ']' | '}' => (tokens, depth) = (tokens + 1, depth.saturating_sub(1)),
            _ => tokens += 1,
        }
    }
    (tokens, deepest)
}

/// On the large stack.
fn parse(text: &str, id: &PolicyId, validator: &Validator) -> Result<Read, PolicyError> {
    let policy =
        CedarPolicy::parse(Some(id.clone()), text).map_err(|errors| syntax(text, &errors))?;
    let json = policy.to_json().map_err(PolicyError::engine)?;
    if levels(&json) > MOST_LEVELS {
        let rule =
            "at most 64 levels deep: every && and || of a chain is one, brackets can halve it";
        return Err(invalid(rule));
    }
    let alone = set(policy.clone())?;
    let checked = validator.validate(&alone, ValidationMode::Strict);
    if let Some(error) = checked.validation_errors().next() {
        return Err(invalid(format!(
            "valid against the schema{}",
            place_of(text, error)
        )));
    }
    if let Some(warning) = checked.validation_warnings().next() {
        let at = place_of(text, warning);
        return Err(invalid(format!(
            "a policy that can apply, and of plain characters{at}"
        )));
    }
    let mut needs = Needs::default();
    look(&json, &mut needs)?;
    Ok(Read {
        effect: match policy.effect() {
            cedar_policy::Effect::Permit => Effect::Allow,
            cedar_policy::Effect::Forbid => Effect::Deny,
        },
        head: head(&policy)?,
        needs,
        probes: probes(&json)?,
        policy,
    })
}

fn syntax(text: &str, errors: &cedar_policy::ParseErrors) -> PolicyError {
    let place = errors.iter().next().map(|error| place_of(text, error));
    invalid(format!(
        "one policy in Cedar, without ?slots{}",
        place.unwrap_or_default()
    ))
}

/// Line and column of an error, where it has them. Its text would quote the policy.
fn place_of(text: &str, error: &dyn miette::Diagnostic) -> String {
    let label = error.labels().and_then(|mut labels| labels.next());
    let Some(before) = label.and_then(|label| text.get(..label.offset())) else {
        return String::new();
    };
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    format!(", unlike line {line}, column {column}")
}

fn levels(json: &Value) -> usize {
    match json {
        Value::Array(items) => items.iter().map(levels).max().unwrap_or(0),
        // An expression is an object of one field, the operator; its operands stand in another.
        Value::Object(fields) => {
            let deepest = fields.values().map(levels).max().unwrap_or(0);
            deepest + usize::from(fields.len() == 1)
        }
        _ => 0,
    }
}

/// What a policy looks at. Times and parameters are made for what it names, so it has to name them.
fn look(json: &Value, needs: &mut Needs) -> Result<(), PolicyError> {
    match json {
        Value::Array(items) => items.iter().try_for_each(|item| look(item, needs)),
        Value::Object(fields) => fields.iter().try_for_each(|(operator, operand)| {
            match operator.as_str() {
                "hasTag" | "getTag" => return tag(operand, needs),
                "." | "has" if operand.get("left") == Some(&context()) => {
                    needs.attributes.extend(attribute(operand));
                    return Ok(());
                }
                "Var" if operand == "context" => {
                    return Err(invalid(
                        "about attributes of the context, not the whole of it",
                    ));
                }
                _ => {}
            }
            look(operand, needs)
        }),
        _ => Ok(()),
    }
}

fn context() -> Value {
    serde_json::json!({ "Var": "context" })
}

/// The attribute that is read or asked for; none that the schema has not.
fn attribute(operand: &Value) -> Option<Attribute> {
    let name = operand.get("attr")?.as_str()?;
    Attribute::ALL.into_iter().find(|it| it.name() == name)
}

/// A time zone or a parameter that is looked up.
fn tag(operand: &Value, needs: &mut Needs) -> Result<(), PolicyError> {
    let owner = operand.get("left").and_then(|left| left.get("."));
    let of_context = owner.filter(|owner| owner.get("left") == Some(&context()));
    let attribute = of_context.and_then(attribute);
    needs.attributes.extend(attribute);
    let key = operand
        .get("right")
        .and_then(|right| right.get("Value")?.as_str());
    match (attribute, key) {
        (Some(Attribute::Moment), Some(name)) => {
            let zone = Zone::from_str(name)
                .ok()
                .filter(|zone| zone.as_str() == name);
            let rule = "about time zones under their own names, such as Europe/Berlin";
            needs.zones.insert(zone.ok_or_else(|| invalid(rule))?);
        }
        (Some(Attribute::Parameters | Attribute::Numbers), Some(pointer)) => {
            let rule = "about parameters by JSON pointers, such as /region";
            let pointer = Pointer::from_str(pointer).map_err(|_| invalid(rule))?;
            needs.pointers.insert(pointer);
        }
        _ => {
            let rule = "written with tags of context.moment, context.parameters or context.numbers that are literals";
            return Err(invalid(rule));
        }
    }
    Ok(())
}

/// One policy for each `when` and `unless`, for anybody and anything.
fn probes(json: &Value) -> Result<Vec<PolicySet>, PolicyError> {
    let conditions = json.get("conditions").and_then(Value::as_array);
    let all = serde_json::json!({ "op": "All" });
    conditions
        .into_iter()
        .flatten()
        .map(|condition| {
            let probe = serde_json::json!({
                "effect": "permit", "principal": all, "action": all, "resource": all,
                "conditions": [condition],
            });
            set(CedarPolicy::from_json(None, probe).map_err(PolicyError::engine)?)
        })
        .collect()
}

/// Whom and what the scope names. What it cannot be found by is left open: the whole policy is asked
/// anyway.
fn head(policy: &CedarPolicy) -> Result<Head, PolicyError> {
    let mut head = Head::default();
    let who = match policy.principal_constraint() {
        PrincipalConstraint::Any | PrincipalConstraint::Is(_) => None,
        PrincipalConstraint::In(uid)
        | PrincipalConstraint::Eq(uid)
        | PrincipalConstraint::IsIn(_, uid) => Some(uid),
    };
    match who.as_ref().map(kind_and_id) {
        Some((kind, id)) if kind == "Agent" => {
            head.agents.insert(
                id.parse()
                    .map_err(|_| invalid("about agents by their names"))?,
            );
        }
        Some((kind, id)) if kind == "Role" => {
            head.roles
                .insert(id.parse().map_err(|_| invalid("about roles that exist"))?);
        }
        _ => head.anyone = true,
    }
    let what = match policy.resource_constraint() {
        ResourceConstraint::Any | ResourceConstraint::Is(_) => None,
        ResourceConstraint::In(uid)
        | ResourceConstraint::Eq(uid)
        | ResourceConstraint::IsIn(_, uid) => Some(uid),
    };
    match what.as_ref().map(kind_and_id) {
        Some((kind, id)) if kind == "Tool" => {
            head.tools.insert(
                id.parse()
                    .map_err(|_| invalid("about tools by their names"))?,
            );
        }
        Some((kind, id)) if kind == "ToolTag" => {
            head.tags.insert(
                id.parse()
                    .map_err(|_| invalid("about tags by their names"))?,
            );
        }
        _ => head.everything = true,
    }
    head.actions = actions(policy);
    Ok(head)
}

fn actions(policy: &CedarPolicy) -> BTreeSet<Action> {
    let named = match policy.action_constraint() {
        ActionConstraint::Any => return Action::ALL.iter().copied().collect(),
        ActionConstraint::In(uids) => uids,
        ActionConstraint::Eq(uid) => vec![uid],
    };
    named
        .iter()
        .filter_map(|uid| uid.id().unescaped().parse().ok())
        .collect()
}

fn kind_and_id(uid: &EntityUid) -> (String, String) {
    (uid.type_name().to_string(), uid.id().unescaped().to_owned())
}
