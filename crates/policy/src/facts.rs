//! What a decision rests on, and the same as Cedar takes it.

use crate::{
    Action, PolicyError,
    condition::{Attribute, Needs},
    gate::{Approval, Usage},
    value::{Day, Pointer, Zone},
};
use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request,
    RestrictedExpression as Value, Schema,
};
use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    str::FromStr,
    sync::Arc,
};
use xylem_ids::{AgentId, Role, TaskQueue, ToolName, ToolTag, WorkflowType};
use xylem_recall::{Memory, Revision};

/// Pairs of an agent and a tool that are remembered.
const PAIRS: usize = 10_000;
/// Policies that are remembered to allow one.
const ALLOWED: usize = 100;
/// Addresses that are remembered.
const ADDRESSES: usize = 10_000;
/// What Cedar is told of a pair depends on nothing that the database could change under it.
const VOCABULARY: Revision = Revision::new(0);

/// Who wants to do what.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Who.
    pub agent: &'a AgentId,
    /// What kind of agent it is: `user`, `service` or `bot`.
    pub kind: &'a str,
    /// Its roles now.
    pub roles: &'a BTreeSet<Role>,
    /// What it wants to do.
    pub action: Action,
    /// With what.
    pub resource: Resource<'a>,
}

/// What somebody wants to do something with.
#[derive(Debug, Clone, Copy)]
pub enum Resource<'a> {
    /// A tool.
    Tool(&'a ToolFacts),
    /// The secret in one slot of one tree, which these tools of the tree use.
    Credential {
        /// Its name: the tree's and the slot's.
        id: &'a str,
        /// The tools.
        tools: &'a [ToolFacts],
    },
}

impl<'a> Resource<'a> {
    pub(crate) fn tools(self) -> &'a [ToolFacts] {
        match self {
            Self::Tool(tool) => std::slice::from_ref(tool),
            Self::Credential { tools, .. } => tools,
        }
    }
}

/// What policies can say about a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolFacts {
    /// Its name.
    pub name: ToolName,
    /// Its tags.
    pub tags: BTreeSet<ToolTag>,
    /// Where it sends its calls.
    pub origin: String,
    /// The HTTP method of its calls.
    pub method: String,
    /// The agent that publishes it; none where nobody is known to.
    pub owner: Option<AgentId>,
}

/// The facts of one decision. What is left out is not known.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Now, in seconds since 1970.
    pub now: u64,
    /// The workflow id of the tree's root.
    pub tree: Option<&'a str>,
    /// The type of the calling workflow.
    pub workflow_type: Option<&'a WorkflowType>,
    /// The task queue it calls on.
    pub task_queue: Option<&'a TaskQueue>,
    /// The parameters of the call.
    pub parameters: Option<&'a serde_json::Value>,
    /// Seconds since the version of the token was deposited.
    pub token_age: Option<u64>,
    /// Where the caller is.
    pub address: Option<IpAddr>,
    /// Seconds since the caller proved who it is.
    pub signed_in: Option<u64>,
    /// Whether it did with a second factor.
    pub second_factor: bool,
    /// How many calls there were.
    pub usage: &'a Usage,
    /// What was approved for this agent, tool and action, and holds now.
    pub approvals: &'a [Approval],
}

/// The names of the schema, parsed once.
pub(crate) struct Vocabulary {
    agent: EntityTypeName,
    role: EntityTypeName,
    tool: EntityTypeName,
    tag: EntityTypeName,
    credential: EntityTypeName,
    moment: EntityUid,
    parameters: EntityUid,
    numbers: EntityUid,
    action: EntityTypeName,
    pairs: Memory<(AgentId, ToolName), Arc<Pair>>,
    /// Cedar parses the name of its own type for each address.
    addresses: Memory<IpAddr, Value>,
}

/// What Cedar is asked.
pub(crate) struct Question {
    pub(crate) request: Request,
    pub(crate) entities: Arc<Entities>,
    /// The agent and the tool that the entities are of.
    pub(crate) pair: Option<Arc<Pair>>,
}

/// An agent and a tool as Cedar takes them, and what they were then.
pub(crate) struct Pair {
    kind: String,
    roles: BTreeSet<Role>,
    tool: ToolFacts,
    entities: Arc<Entities>,
    /// What Cedar allows where the conditions hold: the place of the policy that says so, and what is done.
    allowed: Memory<(u32, Action), ()>,
}

impl Pair {
    pub(crate) fn is_allowed(&self, by: (u32, Action)) -> bool {
        self.allowed.get(VOCABULARY, &by).is_some()
    }

    pub(crate) fn allow(&self, by: (u32, Action)) {
        self.allowed.put(VOCABULARY, by, (), 1);
    }

    fn is(&self, ask: &Ask<'_>, tool: &ToolFacts) -> bool {
        self.kind == ask.kind && self.roles == *ask.roles && self.tool == *tool
    }
}

impl Vocabulary {
    pub(crate) fn new() -> Result<Self, PolicyError> {
        let name = |text| EntityTypeName::from_str(text).map_err(PolicyError::engine);
        let one = |text| name(text).map(|kind| uid(&kind, "now"));
        Ok(Self {
            agent: name("Agent")?,
            role: name("Role")?,
            tool: name("Tool")?,
            tag: name("ToolTag")?,
            credential: name("Credential")?,
            moment: one("Moment")?,
            parameters: one("Parameters")?,
            numbers: one("Numbers")?,
            action: name("Action")?,
            pairs: Memory::new(PAIRS),
            addresses: Memory::new(ADDRESSES),
        })
    }

    /// What Cedar is asked, and what it may look up. `schema` is for tests: it checks that the facts
    /// are what the policies were validated for.
    pub(crate) fn question(
        &self,
        ask: &Ask<'_>,
        facts: &Facts<'_>,
        needs: &Needs,
        schema: Option<&Schema>,
    ) -> Result<Question, PolicyError> {
        let (entities, pair) = self.entities(ask, facts, needs, schema)?;
        let context = self.context(facts, needs)?;
        let resource = match ask.resource {
            Resource::Tool(tool) => uid(&self.tool, tool.name.as_str()),
            Resource::Credential { id, .. } => uid(&self.credential, id),
        };
        let agent = uid(&self.agent, ask.agent.as_str());
        let action = uid(&self.action, ask.action.code());
        let request = Request::new(agent, action, resource, context, schema);
        Ok(Question {
            request: request.map_err(PolicyError::engine)?,
            entities,
            pair,
        })
    }

    /// The agent and the tool, if they are remembered and nothing about the two has changed.
    pub(crate) fn known(&self, ask: &Ask<'_>) -> Option<Arc<Pair>> {
        let Resource::Tool(tool) = ask.resource else {
            return None;
        };
        let key = (ask.agent.clone(), tool.name.clone());
        let known = self.pairs.get(VOCABULARY, &key);
        known.filter(|known| known.is(ask, tool))
    }

    /// All that Cedar may look up. Who is in what is found out once for an agent and a tool; what is
    /// looked up for one question is in nothing.
    fn entities(
        &self,
        ask: &Ask<'_>,
        facts: &Facts<'_>,
        needs: &Needs,
        schema: Option<&Schema>,
    ) -> Result<(Arc<Entities>, Option<Arc<Pair>>), PolicyError> {
        let pair = match ask.resource {
            Resource::Tool(tool) => Some(self.pair(ask, tool, schema)?),
            Resource::Credential { .. } => None,
        };
        let both = match &pair {
            Some(pair) => Arc::clone(&pair.entities),
            None => Arc::new(self.people_and_tools(ask, schema)?),
        };
        let looked_up = self.looked_up(facts, needs)?;
        if looked_up.is_empty() {
            return Ok((both, pair));
        }
        let all = Entities::clone(&both).add_entities(looked_up, schema);
        Ok((Arc::new(all.map_err(PolicyError::engine)?), pair))
    }

    /// An agent and a tool: from memory if nothing about the two has changed.
    fn pair(
        &self,
        ask: &Ask<'_>,
        tool: &ToolFacts,
        schema: Option<&Schema>,
    ) -> Result<Arc<Pair>, PolicyError> {
        if let Some(known) = self.known(ask) {
            return Ok(known);
        }
        let pair = Arc::new(Pair {
            kind: ask.kind.to_owned(),
            roles: ask.roles.clone(),
            tool: tool.clone(),
            entities: Arc::new(self.people_and_tools(ask, schema)?),
            allowed: Memory::new(ALLOWED),
        });
        let key = (ask.agent.clone(), tool.name.clone());
        self.pairs.put(VOCABULARY, key, Arc::clone(&pair), 1);
        Ok(pair)
    }

    /// What some conditions look up: the time in each time zone, and parameters. One without tags is
    /// left out: Cedar takes what it does not find for that.
    fn looked_up(&self, facts: &Facts<'_>, needs: &Needs) -> Result<Vec<Entity>, PolicyError> {
        let time = |zone: &Zone| {
            let local = LocalTime::at(facts.now, zone)?;
            Ok(pair(zone.as_str(), local.value()?))
        };
        let zones: Result<Vec<_>, PolicyError> = needs.zones.iter().map(time).collect();
        let parameters = facts
            .parameters
            .map(|it| parameters_at(it, &needs.pointers));
        let (texts, numbers) = parameters.unwrap_or_default();
        let tags = [
            (&self.moment, zones?),
            (&self.parameters, texts),
            (&self.numbers, numbers),
        ];
        let found = tags.into_iter().filter(|(_, tags)| !tags.is_empty());
        found
            .map(|(uid, tags)| entity(uid.clone(), [], [], tags))
            .collect()
    }

    fn people_and_tools(
        &self,
        ask: &Ask<'_>,
        schema: Option<&Schema>,
    ) -> Result<Entities, PolicyError> {
        let roles = ask.roles.iter().map(|role| uid(&self.role, role.code()));
        let kind = [pair("kind", text(ask.kind))];
        let agent = uid(&self.agent, ask.agent.as_str());
        let mut found = vec![entity(agent, kind, roles, [])?];
        if let Resource::Credential { id, tools } = ask.resource {
            let users = tools.iter().map(|tool| uid(&self.tool, tool.name.as_str()));
            found.push(entity(uid(&self.credential, id), [], users, [])?);
        }
        for tool in ask.resource.tools() {
            let owner = tool.owner.as_ref().map(|owner| {
                let owner = uid(&self.agent, owner.as_str());
                pair("owner", Value::new_entity_uid(owner))
            });
            let attributes = [
                pair("origin", text(&tool.origin)),
                pair("method", text(&tool.method)),
            ];
            let attributes = attributes.into_iter().chain(owner);
            let tags = tool.tags.iter().map(|tag| uid(&self.tag, tag.as_str()));
            found.push(entity(
                uid(&self.tool, tool.name.as_str()),
                attributes,
                tags,
                [],
            )?);
        }
        Entities::from_entities(found, schema).map_err(PolicyError::engine)
    }

    fn address(&self, address: IpAddr) -> Value {
        let address = address.to_canonical();
        self.addresses.get(VOCABULARY, &address).unwrap_or_else(|| {
            let value = Value::new_ip(address.to_string());
            self.addresses.put(VOCABULARY, address, value.clone(), 1);
            value
        })
    }

    fn context(&self, facts: &Facts<'_>, needs: &Needs) -> Result<Context, PolicyError> {
        let mut found = Vec::with_capacity(needs.attributes.len());
        for attribute in &needs.attributes {
            let value = self.attribute(*attribute, facts)?;
            found.extend(value.map(|value| pair(attribute.name(), value)));
        }
        Context::from_pairs(found).map_err(PolicyError::engine)
    }

    /// What Cedar finds there; nothing where that is not known.
    fn attribute(
        &self,
        attribute: Attribute,
        facts: &Facts<'_>,
    ) -> Result<Option<Value>, PolicyError> {
        let looked_up = |uid: &EntityUid| Value::new_entity_uid(uid.clone());
        let seconds = |seconds: u64| Value::new_long(i64::try_from(seconds).unwrap_or(i64::MAX));
        let parameters = facts.parameters;
        Ok(match attribute {
            Attribute::Now => Some(Value::new_datetime(instant(facts.now)?.to_string())),
            Attribute::Moment => Some(looked_up(&self.moment)),
            Attribute::SecondFactor => Some(Value::new_bool(facts.second_factor)),
            Attribute::Address => facts.address.map(|at| self.address(at)),
            Attribute::Parameters => parameters.map(|_| looked_up(&self.parameters)),
            Attribute::Numbers => parameters.map(|_| looked_up(&self.numbers)),
            Attribute::SignedIn => facts.signed_in.map(seconds),
            Attribute::TokenAge => facts.token_age.map(seconds),
            Attribute::Tree => facts.tree.map(text),
            Attribute::WorkflowType => facts.workflow_type.map(|name| text(name.as_str())),
            Attribute::TaskQueue => facts.task_queue.map(|name| text(name.as_str())),
        })
    }
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

fn pair(name: &str, value: Value) -> (String, Value) {
    (name.to_owned(), value)
}

fn text(text: &str) -> Value {
    Value::new_string(text.to_owned())
}

fn entity(
    uid: EntityUid,
    attributes: impl IntoIterator<Item = (String, Value)>,
    parents: impl IntoIterator<Item = EntityUid>,
    tags: impl IntoIterator<Item = (String, Value)>,
) -> Result<Entity, PolicyError> {
    let parents: HashSet<EntityUid> = parents.into_iter().collect();
    Entity::new_with_tags(uid, attributes, parents, tags).map_err(PolicyError::engine)
}

fn instant(now: u64) -> Result<jiff::Timestamp, PolicyError> {
    let seconds = i64::try_from(now).map_err(PolicyError::engine)?;
    jiff::Timestamp::from_second(seconds).map_err(PolicyError::engine)
}

/// What the clock shows in one time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LocalTime {
    pub(crate) minute: u16,
    pub(crate) day: Day,
    yesterday: Day,
}

impl LocalTime {
    pub(crate) fn at(now: u64, zone: &Zone) -> Result<Self, PolicyError> {
        let zone = jiff::tz::db()
            .get(zone.as_str())
            .map_err(PolicyError::engine)?;
        let local = zone.to_datetime(instant(now)?);
        let minute = i32::from(local.hour()) * 60 + i32::from(local.minute());
        Ok(Self {
            minute: u16::try_from(minute).map_err(PolicyError::engine)?,
            day: day(local.weekday()),
            yesterday: day(local.weekday().previous()),
        })
    }

    fn value(self) -> Result<Value, PolicyError> {
        let fields = [
            pair("minute", Value::new_long(self.minute.into())),
            pair("weekday", text(self.day.code())),
            pair("yesterday", text(self.yesterday.code())),
        ];
        Value::new_record(fields).map_err(PolicyError::engine)
    }
}

fn day(weekday: jiff::civil::Weekday) -> Day {
    use jiff::civil::Weekday;
    match weekday {
        Weekday::Monday => Day::Monday,
        Weekday::Tuesday => Day::Tuesday,
        Weekday::Wednesday => Day::Wednesday,
        Weekday::Thursday => Day::Thursday,
        Weekday::Friday => Day::Friday,
        Weekday::Saturday => Day::Saturday,
        Weekday::Sunday => Day::Sunday,
    }
}

type Tags = Vec<(String, Value)>;

/// The parameters that are asked for, as text, and those of them that are whole numbers.
fn parameters_at(parameters: &serde_json::Value, pointers: &BTreeSet<Pointer>) -> (Tags, Tags) {
    let mut texts = Vec::new();
    let mut numbers = Vec::new();
    for pointer in pointers {
        let Some(found) = parameters.pointer(pointer.as_str()) else {
            continue;
        };
        texts.push(pair(pointer.as_str(), text(&as_text(found))));
        let number = whole(found).map(Value::new_long);
        numbers.extend(number.map(|number| pair(pointer.as_str(), number)));
    }
    (texts, numbers)
}

/// A text as it is, everything else as compact JSON.
pub(crate) fn as_text(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The whole number that JSON says, in whichever spelling: `100`, `100.0` and `1e2` are one.
fn whole(value: &serde_json::Value) -> Option<i64> {
    let exact = 9_007_199_254_740_992.0;
    value.as_i64().or_else(|| {
        let float = value.as_f64()?;
        let integer = float.fract() == 0.0 && float.abs() <= exact;
        // Within 2^53 every whole number is itself.
        #[expect(clippy::cast_possible_truncation, reason = "checked above")]
        integer.then_some(float as i64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cedar_policy::SchemaFragment;

    #[test]
    fn integers_in_any_json_spelling_are_numbers() {
        for (json, number) in [
            ("100", Some(100)),
            ("100.0", Some(100)),
            ("1e2", Some(100)),
            ("-7", Some(-7)),
            ("1.5", None),
            ("\"100\"", None),
            ("18446744073709551615", None),
            ("1e300", None),
            ("true", None),
        ] {
            let value = serde_json::from_str(json).unwrap();
            assert_eq!(whole(&value), number, "{json}");
        }
    }

    #[test]
    fn every_attribute_of_the_schema_is_known() {
        let (schema, _) = SchemaFragment::from_cedarschema_str(crate::SCHEMA).unwrap();
        let schema = schema.to_json_value().unwrap();
        let attributes = &schema[""]["commonTypes"]["Call"]["attributes"];
        let attributes = attributes.as_object().unwrap();
        let written: BTreeSet<&str> = attributes.keys().map(String::as_str).collect();
        let known: BTreeSet<&str> = Attribute::ALL.iter().map(|it| it.name()).collect();
        assert_eq!(written, known);
    }

    #[test]
    fn facts_are_what_the_schema_says() {
        let (schema, _) = Schema::from_cedarschema_str(crate::SCHEMA).unwrap();
        let tool = ToolFacts {
            name: "acme.deploy".parse().unwrap(),
            tags: ["prod".parse().unwrap()].into(),
            origin: "https://api.acme.example".to_owned(),
            method: "POST".to_owned(),
            owner: Some("publisher".parse().unwrap()),
        };
        let (agent, roles) = ("release-bot".parse().unwrap(), [Role::User].into());
        let (workflow, queue) = ("Release".parse().unwrap(), "deploy".parse().unwrap());
        let parameters = serde_json::json!({"region": "eu-1", "amount": 5});
        let mut facts = Facts {
            now: 1_795_000_000,
            tree: Some("train"),
            workflow_type: Some(&workflow),
            task_queue: Some(&queue),
            parameters: Some(&parameters),
            token_age: Some(1),
            address: Some(IpAddr::from([10, 0, 0, 1])),
            signed_in: Some(1),
            second_factor: true,
            usage: &Usage::default(),
            approvals: &[],
        };
        let pointers = ["/region", "/amount"].map(|pointer| pointer.parse().unwrap());
        let needs = Needs {
            zones: ["Europe/Berlin".parse().unwrap()].into(),
            pointers: pointers.into(),
            attributes: Attribute::ALL.into(),
        };
        let words = Vocabulary::new().unwrap();
        let tools = [tool.clone()];
        let secret = Resource::Credential {
            id: "train/default",
            tools: &tools,
        };
        for (action, resource) in [
            (Action::Execute, Resource::Tool(&tool)),
            (Action::Reveal, secret),
        ] {
            let ask = Ask {
                agent: &agent,
                kind: "service",
                roles: &roles,
                action,
                resource,
            };
            words.question(&ask, &facts, &needs, Some(&schema)).unwrap();
        }
        facts.parameters = None;
        facts.address = None;
        let ask = Ask {
            agent: &agent,
            kind: "service",
            roles: &roles,
            action: Action::Read,
            resource: Resource::Tool(&tool),
        };
        words.question(&ask, &facts, &needs, Some(&schema)).unwrap();
    }

    #[test]
    fn what_is_kept_of_an_agent_and_a_tool_holds_until_one_of_them_changes() {
        let words = Vocabulary::new().unwrap();
        let agent = "release-bot".parse().unwrap();
        let mut tool = ToolFacts {
            name: "acme.deploy".parse().unwrap(),
            tags: BTreeSet::new(),
            origin: "https://api.acme.example".to_owned(),
            method: "POST".to_owned(),
            owner: None,
        };
        let facts = Facts {
            now: 1_795_000_000,
            tree: None,
            workflow_type: None,
            task_queue: None,
            parameters: None,
            token_age: None,
            address: None,
            signed_in: None,
            second_factor: false,
            usage: &Usage::default(),
            approvals: &[],
        };
        let entities = |roles: &[Role], tool: &ToolFacts| {
            let roles = roles.iter().copied().collect();
            let ask = Ask {
                agent: &agent,
                kind: "service",
                roles: &roles,
                action: Action::Execute,
                resource: Resource::Tool(tool),
            };
            let question = words.question(&ask, &facts, &Needs::default(), None);
            question.unwrap().entities
        };
        let first = entities(&[Role::User], &tool);
        assert!(Arc::ptr_eq(&first, &entities(&[Role::User], &tool)));
        let promoted = entities(&[Role::User, Role::Admin], &tool);
        let agent = uid(&words.agent, "release-bot");
        let admin = uid(&words.role, "admin");
        assert!(promoted.is_ancestor_of(&admin, &agent));
        assert!(!entities(&[Role::User], &tool).is_ancestor_of(&admin, &agent));
        let (deploy, prod) = (uid(&words.tool, "acme.deploy"), uid(&words.tag, "prod"));
        assert!(!promoted.is_ancestor_of(&prod, &deploy));
        tool.tags = ["prod".parse().unwrap()].into();
        assert!(entities(&[Role::User], &tool).is_ancestor_of(&prod, &deploy));
    }
}
