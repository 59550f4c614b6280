//! Between a policy on the wire and as a document. Errors name the field as the wire knows it.

use crate::fault::Fault;
use std::{collections::BTreeSet, str::FromStr};
use xylem_policy::{
    Age, Document, IpNet, Networks, Parameter, PolicyError, Requests, What, When, Who, Window,
};
use xylem_proto::v1;

type Read<T> = Result<T, Fault>;

/// Reads one word or name; the error says the rule of its type under the field's own name.
fn one<T>(text: &str, field: &str) -> Read<T>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| {
        let rule = error.to_string();
        let rule = rule
            .split_once(" must be ")
            .map_or(rule.as_str(), |(_, rule)| rule);
        Fault::invalid(field, format!("{field} must be {rule}"))
    })
}

fn many<T, C>(texts: &[String], field: &str) -> Read<C>
where
    T: FromStr,
    T::Err: std::fmt::Display,
    C: FromIterator<T>,
{
    let numbered = texts.iter().enumerate();
    numbered
        .map(|(at, text)| one(text, &format!("{field}[{at}]")))
        .collect()
}

fn optional<T>(text: &str, field: &str) -> Read<Option<T>>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    (!text.is_empty()).then(|| one(text, field)).transpose()
}

/// What a policy says. Whether that goes together is checked where it is compiled.
pub(super) fn document(given: v1::Policy) -> Read<Document> {
    let band = given.band.map(|band| {
        let small = u16::try_from(band).ok();
        small.ok_or_else(|| Fault::invalid("band", "band must be a number from 1 to 999"))
    });
    Ok(Document {
        name: one(&given.name, "name")?,
        description: given.description,
        effect: optional(&given.effect, "effect")?,
        who: given.who.map(who).transpose()?,
        what: given.what.map(what).transpose()?,
        actions: many(&given.actions, "actions")?,
        when: given.when.map(when).transpose()?.unwrap_or_default(),
        requests: numbered(given.requests, "requests", requests)?,
        band: band.transpose()?,
        guardrail: given.guardrail,
        requires_approval: given.requires_approval,
        inherits: optional(&given.inherits, "inherits")?,
        cedar: (!given.cedar.is_empty()).then_some(given.cedar),
    })
}

fn numbered<A, B>(list: Vec<A>, field: &str, read: fn(A, &str) -> Read<B>) -> Read<Vec<B>> {
    let numbered = list.into_iter().enumerate();
    numbered
        .map(|(at, item)| read(item, &format!("{field}[{at}]")))
        .collect()
}

fn who(given: v1::PolicyWho) -> Read<Who> {
    Ok(Who {
        agents: many(&given.agents, "who.agents")?,
        roles: many(&given.roles, "who.roles")?,
        anyone: given.anyone,
    })
}

fn what(given: v1::PolicyWhat) -> Read<What> {
    Ok(What {
        tools: many(&given.tools, "what.tools")?,
        tags: many(&given.tags, "what.tags")?,
        all: given.all,
    })
}

fn when(given: v1::PolicyWhen) -> Read<When> {
    let networks = given.networks.map(|networks| {
        let list = |texts: &[String], field: &str| {
            let rule = || {
                Fault::invalid(
                    field,
                    format!("{field} must be a network such as 10.0.0.0/8"),
                )
            };
            let read = |text: &String| text.parse::<IpNet>().map_err(|_| rule());
            texts.iter().map(read).collect::<Read<BTreeSet<IpNet>>>()
        };
        Ok::<_, Fault>(Networks {
            any_of: list(&networks.any_of, "when.networks.any_of")?,
            none_of: list(&networks.none_of, "when.networks.none_of")?,
        })
    });
    let age = |given: Option<v1::PolicyAge>, field: &str| {
        let read = |age: v1::PolicyAge| {
            Ok::<_, Fault>(Age {
                at_most: optional(&age.at_most, &format!("{field}.at_most"))?,
                at_least: optional(&age.at_least, &format!("{field}.at_least"))?,
            })
        };
        given.map(read).transpose()
    };
    Ok(When {
        time: numbered(given.time, "when.time", window)?,
        networks: networks.transpose()?,
        token_age: age(given.token_age, "when.token_age")?,
        signed_in: age(given.signed_in, "when.signed_in")?,
        second_factor: given.second_factor,
        parameters: numbered(given.parameters, "when.parameters", parameter)?,
        workflow_types: many(&given.workflow_types, "when.workflow_types")?,
        task_queues: many(&given.task_queues, "when.task_queues")?,
    })
}

fn window(given: v1::PolicyWindow, field: &str) -> Read<Window> {
    Ok(Window {
        zone: one(&given.zone, &format!("{field}.zone"))?,
        days: many(&given.days, &format!("{field}.days"))?,
        from: one(&given.from, &format!("{field}.from"))?,
        to: one(&given.to, &format!("{field}.to"))?,
    })
}

fn parameter(given: v1::PolicyParameter, field: &str) -> Read<Parameter> {
    Ok(Parameter {
        pointer: one(&given.pointer, &format!("{field}.pointer"))?,
        one_of: given.one_of.into_iter().collect(),
        none_of: given.none_of.into_iter().collect(),
        like: given.like,
        at_most: given.at_most,
        at_least: given.at_least,
        present: given.present,
    })
}

fn requests(given: v1::PolicyRequests, field: &str) -> Read<Requests> {
    Ok(Requests {
        at_most: given.at_most,
        more_than: given.more_than,
        per: one(&given.per, &format!("{field}.per"))?,
        of: one(&given.of, &format!("{field}.of"))?,
    })
}

/// The stored form is the wire's, but for how names are spelt: both spellings are read.
pub(super) fn wire(document: &Document) -> Read<v1::Policy> {
    let json = serde_json::to_value(document).map_err(Fault::internal)?;
    serde_json::from_value(json).map_err(Fault::internal)
}

impl From<PolicyError> for Fault {
    fn from(error: PolicyError) -> Self {
        let message = error.to_string();
        match error {
            PolicyError::Invalid(invalid) => Self::invalid(&invalid.field, message),
            PolicyError::Heir { .. } => Self::refused("policy_has_heirs", message),
            PolicyError::Exists => Self::conflict("exists", message),
            PolicyError::NotFound => Self::not_found("policy"),
            PolicyError::VersionChanged(_) => Self::conflict("version_changed", message),
            PolicyError::Retired => Self::refused("policy_retired", message),
            PolicyError::NoAgent => Self::not_found("agent"),
            PolicyError::NoRequest => Self::not_found("access request"),
            PolicyError::Decided(_) => Self::refused("access_decided", message),
            PolicyError::OwnRequest => Self::denied("own_request", message),
            PolicyError::TooManyRequests => Self::refused("too_many_requests", message),
            PolicyError::Storage(_) => Self::unavailable(
                "database_unavailable",
                "the control plane's database does not answer: try again",
                error,
            ),
            PolicyError::Tampered { .. } | PolicyError::Engine(_) => Self::internal(error),
        }
    }
}
