//! One operation of a document as a tool.

use super::{
    document::{Walk, flag, items, members, shallow, text},
    name,
    report::Why,
    response,
    schema::Definitions,
};
use crate::{Auth, Method, Place, Tool, ToolDefinition, schema::MAX_SCHEMA_BYTES, tool};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use xylem_ids::{
    PathTemplate, RetryClass, ToolTag, is_parameter_name, may_carry_parameter, may_carry_token,
};

/// How deep `allOf` may be nested in a body.
const MAX_PARTS: usize = 16;
/// The levels of a tool's schema.
pub(super) const MAX_LEVELS: usize = 32;

/// Why an operation makes no tool, or a part of it none of the tool's.
struct Stop {
    place: String,
    why: Why,
    what: String,
}

impl Stop {
    fn at(place: &str, why: Why) -> Self {
        Self::of(place, why, "")
    }

    fn of(place: &str, why: Why, what: &str) -> Self {
        Self {
            place: place.to_owned(),
            why,
            what: what.to_owned(),
        }
    }
}

/// An operation and where it stands.
pub(super) struct Operation<'a> {
    path: &'a str,
    method: String,
    item: &'a Value,
    given: &'a Value,
    place: String,
}

/// What a call takes, so far.
struct Inputs {
    properties: Map<String, Value>,
    required: BTreeSet<String>,
    places: BTreeMap<String, Place>,
    definitions: Definitions,
    /// Whether the API takes a key that attempts have in common.
    keyed: bool,
    changed: Vec<Stop>,
}

/// A JSON object that is sent as the body.
#[derive(Default)]
struct Body<'a> {
    members: Vec<(&'a str, &'a Value)>,
    required: BTreeSet<&'a str>,
    open: bool,
}

impl<'a> Operation<'a> {
    pub(super) fn new(path: &'a str, method: &str, item: &'a Value, given: &'a Value) -> Self {
        let escaped = path.replace('~', "~0").replace('/', "~1");
        Self {
            path,
            method: method.to_ascii_uppercase(),
            item,
            given,
            place: format!("/paths/{escaped}/{method}"),
        }
    }

    /// Makes the tool, or says why there is none.
    pub(super) fn take(self, walk: &mut Walk<'a>) {
        let label = self.label();
        let asked = [self.id(), Some(label.as_str())].map(|name| {
            let name = name.filter(|name| walk.options.only.contains(*name))?;
            walk.wanted.remove(name);
            Some(())
        });
        if !walk.options.only.is_empty() && asked == [None, None] {
            return;
        }
        match self.tool(walk) {
            Ok((tool, changed)) => {
                for Stop { place, why, what } in changed {
                    walk.notes.changed(&label, &place, why, &what);
                }
                walk.names.insert(tool.name().clone());
                walk.tools.push(tool);
            }
            Err(Stop { place, why, what }) => walk.notes.left_out(&label, &place, why, &what),
        }
    }

    fn label(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn id(&self) -> Option<&'a str> {
        text(self.given, "operationId").filter(|id| !id.is_empty())
    }

    fn within(&self, part: &str) -> String {
        format!("{}/{part}", self.place)
    }

    fn tool(&self, walk: &mut Walk<'a>) -> Result<(Tool, Vec<Stop>), Stop> {
        if !self.given.is_object() {
            return Err(Stop::at(&self.place, Why::Malformed));
        }
        let method: Method = self
            .method
            .parse()
            .map_err(|_| Stop::at(&self.place, Why::Method))?;
        let template: PathTemplate = self
            .path
            .parse()
            .map_err(|_| Stop::at(&self.place, Why::PathTemplate))?;
        let auth = self.auth(walk)?;
        let base_url = self.base_url(walk)?;
        let mut inputs = Inputs::new();
        self.parameters(walk, &mut inputs)?;
        self.body(walk, &mut inputs, method)?;
        let described = |name: &str| inputs.places.get(name) == Some(&Place::Path);
        let of_path = inputs
            .places
            .values()
            .filter(|place| **place == Place::Path);
        if !template.parameters().all(described) || of_path.count() != template.parameters().count()
        {
            return Err(Stop::at(&self.within("parameters"), Why::PathTemplate));
        }
        if self.given.get("callbacks").is_some() {
            let place = self.within("callbacks");
            inputs.changed.push(Stop::at(&place, Why::NotACall));
        }
        let words = self.id().map_or_else(|| self.label(), str::to_owned);
        let (name, renamed) = name::tool(&walk.options.prefix, &words, &walk.names)
            .ok_or_else(|| Stop::at(&self.within("operationId"), Why::Malformed))?;
        if renamed {
            let place = self.within("operationId");
            inputs
                .changed
                .push(Stop::of(&place, Why::Renamed, name.as_str()));
        }
        let response = self.response(walk, &mut inputs.changed);
        let retry = match inputs.keyed {
            true => RetryClass::IdempotencyKey,
            false => method.retry_class(),
        };
        let (parameters, places, changed) = inputs.finish(walk, &self.place)?;
        let stored = walk.options.credential.as_ref();
        let definition = ToolDefinition {
            name,
            description: self.description(),
            tags: self.tags(&walk.options.tags),
            base_url,
            path: self.path.to_owned(),
            method,
            slot: (auth != Auth::None && stored.is_none()).then(|| walk.options.slot()),
            credential: stored.filter(|_| auth != Auth::None).cloned(),
            auth,
            rate_limit: None,
            retry,
            tls: None,
            parameters,
            response,
            places,
            api_urls: Vec::new(),
            timeout_seconds: ToolDefinition::TIMEOUT_SECONDS,
            connect_timeout_seconds: ToolDefinition::CONNECT_TIMEOUT_SECONDS,
            response_headers: Vec::new(),
            max_response_bytes: ToolDefinition::RESPONSE_BYTES,
        };
        let tool = Tool::new(definition).map_err(|invalid| {
            let why = match invalid.field() {
                "parameters" => Why::SchemaInvalid,
                "places" => Why::NameClash,
                "path" => Why::PathTemplate,
                _ => Why::Malformed,
            };
            Stop::at(&self.place, why)
        })?;
        Ok((tool, changed))
    }

    fn description(&self) -> String {
        let parts = ["summary", "description"].map(|name| text(self.given, name));
        let parts: Vec<&str> = parts.into_iter().flatten().collect();
        let joined = parts.join("\n\n");
        let plain = joined.chars().filter(|c| !c.is_control() || *c == '\n');
        plain.take(2_000).collect::<String>().trim().to_owned()
    }

    fn tags(&self, given: &BTreeSet<ToolTag>) -> BTreeSet<ToolTag> {
        let own = items(self.given, "tags").filter_map(Value::as_str);
        let old = flag(self.given, "deprecated").then_some("deprecated");
        let own = old.into_iter().chain(own).filter_map(name::tag);
        let all = given.iter().cloned().chain(own);
        all.take(tool::MAX_TAGS).collect()
    }

    /// Where the API is: the option, else the nearest server that the document names.
    fn base_url(&self, walk: &Walk<'a>) -> Result<String, Stop> {
        if let Some(base_url) = &walk.options.base_url {
            return Ok(base_url.clone());
        }
        let stop = |why| Stop::at("/servers", why);
        let of = |value: &'a Value| items(value, "servers").next();
        let server = of(self.given).or_else(|| of(self.item));
        let server = server.or_else(|| of(walk.document.root()));
        let server = match server {
            Some(server) => filled(server).ok_or_else(|| stop(Why::Malformed))?,
            None => "/".to_owned(),
        };
        let url = walk.document.absolute(&server);
        let url = url.ok_or_else(|| stop(Why::NoServer))?;
        let base_url = url.as_str().trim_end_matches('/').to_owned();
        tool::check_base_url(&base_url).map_err(|_| stop(Why::NotHttps))?;
        Ok(base_url)
    }

    /// What successful answers look like, where that is asked for and can be said.
    fn response(&self, walk: &mut Walk<'a>, changed: &mut Vec<Stop>) -> Option<Value> {
        if !walk.options.response_schemas || self.method == "HEAD" {
            return None;
        }
        match response::schema(walk, self.given) {
            Ok(schema) => schema,
            Err(why) => {
                changed.push(Stop::at(&self.within("responses"), why));
                None
            }
        }
    }

    /// How a call authenticates: the first alternative that one token expresses. Without any, or
    /// with an empty one and no other, the API takes anybody.
    fn auth(&self, walk: &Walk<'a>) -> Result<Auth, Stop> {
        let given = self.given.get("security");
        let given = given.or_else(|| walk.document.root().get("security"));
        let (mut unsupported, mut open) = (None, true);
        for alternative in given.and_then(Value::as_array).into_iter().flatten() {
            let alternative = alternative
                .as_object()
                .ok_or_else(|| Stop::at(&self.within("security"), Why::Malformed))?;
            let mut schemes = alternative.keys();
            let (first, second) = (schemes.next(), schemes.next());
            open &= first.is_none();
            if let (Some(name), None) = (first, second) {
                match self.scheme(walk, name) {
                    Some(auth) => return Ok(auth),
                    None => unsupported = Some(name),
                }
            }
        }
        if open {
            return Ok(Auth::None);
        }
        let place = self.within("security");
        let unsupported = unsupported.map_or("several at once", String::as_str);
        Err(Stop::of(&place, Why::Security, unsupported))
    }

    fn scheme(&self, walk: &Walk<'a>, name: &str) -> Option<Auth> {
        let schemes = walk.document.root().get("components")?;
        let scheme = schemes.get("securitySchemes")?.get(name)?;
        let scheme = walk.resolve(scheme).ok()?;
        match (text(scheme, "type")?, text(scheme, "in")) {
            ("oauth2" | "openIdConnect", _) => Some(Auth::Bearer),
            ("http", _) if text(scheme, "scheme")?.eq_ignore_ascii_case("bearer") => {
                Some(Auth::Bearer)
            }
            ("http", _) if text(scheme, "scheme")?.eq_ignore_ascii_case("basic") => {
                Some(Auth::Basic { username: None })
            }
            ("apiKey", Some("query")) => {
                let name = text(scheme, "name")?.to_owned();
                is_parameter_name(&name).then_some(Auth::Query { name })
            }
            ("apiKey", Some("header")) => {
                let name = text(scheme, "name")?.to_owned();
                may_carry_token(&name).then_some(Auth::Header { name })
            }
            _ => None,
        }
    }

    /// The path's parameters and the operation's own, which come first.
    fn parameters(&self, walk: &mut Walk<'a>, inputs: &mut Inputs) -> Result<(), Stop> {
        let mut seen = BTreeSet::new();
        for (of, place) in [
            (self.given, self.within("parameters")),
            (self.item, "/paths/parameters".to_owned()),
        ] {
            for parameter in items(of, "parameters") {
                let parameter = walk
                    .resolve(parameter)
                    .map_err(|why| Stop::at(&place, why))?;
                let (Some(name), Some(within)) = (text(parameter, "name"), text(parameter, "in"))
                else {
                    return Err(Stop::at(&place, Why::Malformed));
                };
                if !seen.insert((name, within)) {
                    continue;
                }
                let taken = inputs.parameter(walk, name, within, parameter);
                let needed = within == "path" || flag(parameter, "required");
                match taken {
                    Ok(()) => {}
                    Err(why) if needed => return Err(Stop::of(&place, why, name)),
                    Err(why) => inputs.changed.push(Stop::of(&place, why, name)),
                }
            }
        }
        Ok(())
    }

    fn body(&self, walk: &mut Walk<'a>, inputs: &mut Inputs, method: Method) -> Result<(), Stop> {
        let place = self.within("requestBody");
        let Some(given) = self.given.get("requestBody") else {
            return Ok(());
        };
        let given = walk.resolve(given).map_err(|why| Stop::at(&place, why))?;
        let needed = flag(given, "required");
        let Some(schema) = json_schema(given).filter(|_| method.has_body()) else {
            let stop = Stop::at(&place, Why::BodyType);
            if needed {
                return Err(stop);
            }
            inputs.changed.push(stop);
            return Ok(());
        };
        let mut body = Body::default();
        body.gather(walk, schema, MAX_PARTS)
            .map_err(|why| Stop::at(&place, why))?;
        if body.members.is_empty() {
            return Err(Stop::at(&place, Why::BodyNotObject));
        }
        if body.open {
            let what = "additionalProperties";
            inputs
                .changed
                .push(Stop::of(&place, Why::BodyNotObject, what));
        }
        if !needed && !body.required.is_empty() {
            inputs.changed.push(Stop::at(&place, Why::BodyOptional));
        }
        for (name, schema) in &body.members {
            let needed = body.required.contains(name);
            match inputs.member(walk, name, schema, needed) {
                Ok(()) => {}
                Err(why) if needed => return Err(Stop::of(&place, why, name)),
                Err(why) => inputs.changed.push(Stop::of(&place, why, name)),
            }
        }
        Ok(())
    }
}

impl Inputs {
    fn new() -> Self {
        Self {
            properties: Map::new(),
            required: BTreeSet::new(),
            places: BTreeMap::new(),
            definitions: Definitions::new(),
            keyed: false,
            changed: Vec::new(),
        }
    }

    /// Takes a parameter of the path, the query or a header.
    fn parameter(
        &mut self,
        walk: &mut Walk<'_>,
        name: &str,
        within: &str,
        given: &Value,
    ) -> Result<(), Why> {
        let place = match within {
            "path" => Place::Path,
            "query" => Place::Query,
            // What the specification says to ignore: the request has its own.
            "header" if is_of_request(name) => return Ok(()),
            // The worker's to say, once for all attempts.
            "header" if name.eq_ignore_ascii_case(RetryClass::KEY_HEADER) => {
                self.keyed = true;
                return Ok(());
            }
            "header" if !may_carry_parameter(name) => return Err(Why::ParameterHeader),
            "header" => Place::Header,
            "cookie" => return Err(Why::Cookie),
            _ => return Err(Why::Malformed),
        };
        if !is_parameter_name(name) {
            return Err(Why::ParameterName);
        }
        if self.places.contains_key(name) {
            return Err(Why::NameClash);
        }
        let anything = Value::Bool(true);
        let schema = given.get("schema").unwrap_or(&anything);
        check_style(walk.document.resolve(schema)?, given, place)?;
        let mut schema = self.definitions.take(walk, schema)?;
        if let (Some(about), Value::Object(schema)) = (given.get("description"), &mut schema) {
            schema.entry("description").or_insert_with(|| about.clone());
        }
        if place == Place::Path || flag(given, "required") {
            self.required.insert(name.to_owned());
        }
        self.places.insert(name.to_owned(), place);
        self.properties.insert(name.to_owned(), schema);
        Ok(())
    }

    /// Takes a member of the body. One that several parts describe keeps to all of them.
    fn member(
        &mut self,
        walk: &mut Walk<'_>,
        name: &str,
        given: &Value,
        needed: bool,
    ) -> Result<(), Why> {
        if flag(walk.document.resolve(given)?, "readOnly") {
            return Ok(());
        }
        if !is_parameter_name(name) {
            return Err(Why::ParameterName);
        }
        if self
            .places
            .get(name)
            .is_some_and(|place| *place != Place::Body)
        {
            return Err(Why::NameClash);
        }
        let schema = self.definitions.take(walk, given)?;
        let schema = match self.properties.remove(name) {
            Some(before) => json!({ "allOf": [before, schema] }),
            None => schema,
        };
        self.properties.insert(name.to_owned(), schema);
        self.places.insert(name.to_owned(), Place::Body);
        if needed {
            self.required.insert(name.to_owned());
        }
        Ok(())
    }

    /// The schema of all parameters, and where each goes.
    #[expect(clippy::type_complexity, reason = "three parts that part at once")]
    fn finish(
        self,
        walk: &mut Walk<'_>,
        place: &str,
    ) -> Result<(Value, BTreeMap<String, Place>, Vec<Stop>), Stop> {
        let stop = |why| Stop::at(place, why);
        let definitions = self.definitions.finish(walk).map_err(stop)?;
        let mut schema = json!({
            "type": "object",
            "properties": self.properties,
            "required": self.required,
            "additionalProperties": false,
        });
        if let (false, Value::Object(members)) = (definitions.is_empty(), &mut schema) {
            members.insert("$defs".to_owned(), Value::Object(definitions));
        }
        if schema.to_string().len() > MAX_SCHEMA_BYTES || !shallow(&schema, MAX_LEVELS) {
            return Err(stop(Why::SchemaTooLarge));
        }
        Ok((schema, self.places, self.changed))
    }
}

impl<'a> Body<'a> {
    /// The members of an object schema, and of those that it is made of.
    fn gather(&mut self, walk: &Walk<'a>, schema: &'a Value, depth: usize) -> Result<(), Why> {
        let depth = depth.checked_sub(1).ok_or(Why::SchemaTooLarge)?;
        let schema = walk.resolve(schema)?;
        let alternatives = ["oneOf", "anyOf"];
        let chooses = alternatives.iter().any(|name| schema.get(name).is_some());
        if chooses
            || !schema.is_object()
            || schema.get("type").is_some_and(|_| !is(schema, "object"))
        {
            return Err(Why::BodyNotObject);
        }
        self.members.extend(members(schema, "properties"));
        let required = items(schema, "required").filter_map(Value::as_str);
        self.required.extend(required);
        self.open |= !matches!(
            schema.get("additionalProperties"),
            None | Some(Value::Bool(false))
        );
        for part in items(schema, "allOf") {
            self.gather(walk, part, depth)?;
        }
        Ok(())
    }
}

/// The schema of a body that is sent as JSON.
pub(super) fn json_schema(body: &Value) -> Option<&Value> {
    let of = |(kind, media): (&str, &'_ Value)| -> bool {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("application/json") && media.get("schema").is_some()
    };
    let (_, media) = members(body, "content").find(|(kind, media)| of((kind, media)))?;
    media.get("schema")
}

/// Whether the values that a schema takes are, or can be, of a kind.
fn is(schema: &Value, kind: &str) -> bool {
    match schema.get("type") {
        Some(Value::String(of)) => of == kind,
        Some(Value::Array(kinds)) => kinds.iter().any(|of| of == kind),
        _ => false,
    }
}

/// Plain values go anywhere; lists only into the query, each item by itself.
fn check_style(schema: &Value, given: &Value, place: Place) -> Result<(), Why> {
    let usual = if place == Place::Query {
        "form"
    } else {
        "simple"
    };
    let style = text(given, "style").unwrap_or(usual);
    let object = is(schema, "object") || schema.get("properties").is_some();
    let list = is(schema, "array");
    let apart = given
        .get("explode")
        .and_then(Value::as_bool)
        .unwrap_or(true);
    let fits = style == usual
        && given.get("content").is_none()
        && !object
        && (!list || (place == Place::Query && apart));
    fits.then_some(()).ok_or(Why::ParameterStyle)
}

fn is_of_request(header: &str) -> bool {
    ["accept", "content-type", "authorization"]
        .iter()
        .any(|name| header.eq_ignore_ascii_case(name))
}

/// A server's URL with its variables replaced by what they are by default.
fn filled(server: &Value) -> Option<String> {
    let mut url = text(server, "url")?.to_owned();
    for (name, variable) in members(server, "variables").take(50) {
        let default = text(variable, "default")?;
        url = url.replace(&format!("{{{name}}}"), default);
        if url.len() > 2_000 {
            return None;
        }
    }
    (!url.contains(['{', '}'])).then_some(url)
}
