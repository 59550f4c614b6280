//! Registered tools.

use crate::{
    auth::{Auth, check_apart, check_source},
    retry, schema,
    tls::{Tls, check_tls},
};
use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};
use url::{Host, Url};
use xylem_ids::{
    Audience, CredentialName, MAX_RESPONSE_BYTES, Origin, PathTemplate, RetryClass, Slot, ToolName,
    ToolTag, may_reach_workflow,
};
use xylem_policy::RateLimit;

/// The most tags of a tool.
pub(crate) const MAX_TAGS: usize = 20;

/// A field that breaks its rule. Never quotes the field's content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} must be {rule}")]
pub struct Invalid {
    field: &'static str,
    rule: &'static str,
}

impl Invalid {
    pub(crate) const fn new(field: &'static str, rule: &'static str) -> Self {
        Self { field, rule }
    }

    /// The field.
    #[must_use]
    pub fn field(&self) -> &'static str {
        self.field
    }
}

/// HTTP methods a tool may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "the names are those of RFC 9110")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    /// The method's name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }

    pub(crate) fn has_body(self) -> bool {
        matches!(self, Self::Post | Self::Put | Self::Patch)
    }
}

impl FromStr for Method {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let all = [
            Self::Get,
            Self::Head,
            Self::Post,
            Self::Put,
            Self::Patch,
            Self::Delete,
        ];
        all.into_iter()
            .find(|method| method.as_str() == text)
            .ok_or(Invalid::new(
                "method",
                "GET, HEAD, POST, PUT, PATCH or DELETE",
            ))
    }
}

/// Where a parameter goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Into the path template.
    Path,
    /// Into the query string.
    Query,
    /// Into the request header of the parameter's name; see [`xylem_ids::may_carry_parameter`].
    Header,
    /// Into the JSON object in the body.
    Body,
}

/// What a publisher says about a tool. [`Tool::new`] checks it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolDefinition {
    /// The name, unique in its namespace.
    pub name: ToolName,
    /// For people; at most 2,000 characters.
    #[serde(default)]
    pub description: String,
    /// What it is found by, beside its name and description; at most 20.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<ToolTag>,
    /// Where the API is: https, or http on loopback; without query, fragment and user.
    pub base_url: String,
    /// Appended to the base URL; see [`PathTemplate`].
    pub path: String,
    /// The HTTP method.
    pub method: Method,
    /// How the token is sent.
    pub auth: Auth,
    /// The slot whose token is sent; absent where that of a stored credential is, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<Slot>,
    /// The stored credential whose token is sent, whatever the tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialName>,
    /// How many calls all trees together may make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Whether a call is made again that may have reached the API.
    #[serde(default, skip_serializing_if = "retry::is_usual")]
    pub retry: RetryClass,
    /// What the server's certificate has to be, beside valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// A JSON Schema with `"type": "object"`.
    pub parameters: Value,
    /// A JSON Schema that the body of every successful answer fits; anything where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<Value>,
    /// Where each parameter goes. What is not named goes into the path where the template has it,
    /// else into the body where the method has one, else into the query.
    #[serde(default)]
    pub places: BTreeMap<String, Place>,
    /// The `apiUrl` values a workflow may set for this tool; empty: none but the base URL.
    #[serde(default)]
    pub api_urls: Vec<Audience>,
    /// How long a call may take, in seconds: 1 to 300.
    pub timeout_seconds: u32,
    /// How much of that the connection may take, in seconds: 1 to 30, and less than the whole. Where the
    /// usual 5 are not less, it is a part of the whole.
    #[serde(
        default = "connect_timeout_seconds",
        skip_serializing_if = "is_usual_connect_timeout"
    )]
    pub connect_timeout_seconds: u32,
    /// Response headers that reach the workflow, at most 50; kept in lower case.
    #[serde(default)]
    pub response_headers: Vec<String>,
    /// The largest response that is read, in bytes: 1 to [`MAX_RESPONSE_BYTES`].
    pub max_response_bytes: u64,
}

impl ToolDefinition {
    /// How long a call may take where nothing is said, in seconds.
    pub const TIMEOUT_SECONDS: u32 = 30;
    /// How much of that the connection may take where nothing is said, in seconds.
    pub const CONNECT_TIMEOUT_SECONDS: u32 = 5;
    /// The largest response that is read where nothing is said, in bytes.
    pub const RESPONSE_BYTES: u64 = 1024 * 1024;

    /// The hash of the definition as it is: what an approval pins.
    #[must_use]
    pub fn hash(&self) -> DefinitionHash {
        hash(self)
    }
}

fn connect_timeout_seconds() -> u32 {
    ToolDefinition::CONNECT_TIMEOUT_SECONDS
}

fn is_usual_connect_timeout(seconds: &u32) -> bool {
    *seconds == ToolDefinition::CONNECT_TIMEOUT_SECONDS
}

/// SHA-256 over the canonical form of a definition, as 64 hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DefinitionHash(String);

impl DefinitionHash {
    /// Reads a hash; `None` where it is not 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        (text.len() == 64 && text.bytes().all(digit)).then(|| Self(text.to_owned()))
    }

    /// The hash as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DefinitionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DefinitionHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DefinitionHash({})", self.0)
    }
}

/// A tool whose definition keeps every rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    definition: ToolDefinition,
    origin: Origin,
    hash: DefinitionHash,
}

impl Tool {
    /// Checks a definition and completes it: every parameter has a place and every header is in
    /// lower case, so that the hash covers what a call does.
    ///
    /// # Errors
    /// Names the first field that breaks its rule.
    pub fn new(mut definition: ToolDefinition) -> Result<Self, Invalid> {
        check_text(&definition)?;
        let origin = check_base_url(&definition.base_url)?;
        let template = definition.path.parse();
        let template = template.map_err(|_| Invalid::new("path", PathTemplate::RULE))?;
        definition.auth = definition.auth.checked()?;
        check_source(&definition)?;
        schema::check_parameters(&definition.parameters)?;
        check_response(&definition)?;
        definition.places = places(&definition, &template)?;
        check_limits(&definition)?;
        definition.response_headers = response_headers(definition.response_headers)?;
        if !definition.api_urls.iter().all(encrypted) {
            return Err(Invalid::new("api_urls", ENCRYPTED));
        }
        check_tls(&definition)?;
        let hash = hash(&definition);
        Ok(Self {
            definition,
            origin,
            hash,
        })
    }

    /// The definition, its places complete.
    #[must_use]
    pub fn definition(&self) -> &ToolDefinition {
        &self.definition
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &ToolName {
        &self.definition.name
    }

    /// The slot whose token is sent, if it is one of the tree's.
    #[must_use]
    pub fn slot(&self) -> Option<&Slot> {
        self.definition.slot.as_ref()
    }

    /// The origin of the base URL.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Changes whenever the definition does.
    #[must_use]
    pub fn hash(&self) -> &DefinitionHash {
        &self.hash
    }

    /// The origin a call goes to: the workflow's `apiUrl` where it has one and the registration
    /// allows it, the base URL's otherwise.
    ///
    /// # Errors
    /// The `apiUrl` is not a URL, or the tool is not registered for it.
    pub fn destination(&self, api_url: Option<&str>) -> Result<Origin, Invalid> {
        let Some(api_url) = api_url else {
            return Ok(self.origin.clone());
        };
        let url = Url::parse(api_url).map_err(|_| NOT_A_DESTINATION)?;
        let base = Url::parse(&self.definition.base_url).map_err(|_| NOT_A_DESTINATION)?;
        let allowed = url == base
            || self
                .definition
                .api_urls
                .iter()
                .any(|audience| audience.covers(&url));
        if !allowed {
            return Err(NOT_A_DESTINATION);
        }
        Origin::of(&url).map_err(|_| NOT_A_DESTINATION)
    }
}

const NOT_A_DESTINATION: Invalid = Invalid::new(
    "apiUrl",
    "a URL that the tool is registered for: its base URL, or covered by its api_urls",
);
const ENCRYPTED: &str = "https, or http on a loopback host";

fn check_text(definition: &ToolDefinition) -> Result<(), Invalid> {
    let plain = definition
        .description
        .chars()
        .all(|c| !c.is_control() || c == '\n');
    if definition.description.chars().count() > 2000 || !plain {
        return Err(Invalid::new(
            "description",
            "at most 2000 printable characters",
        ));
    }
    if definition.tags.len() > MAX_TAGS {
        return Err(Invalid::new("tags", "at most 20"));
    }
    Ok(())
}

pub(crate) fn check_base_url(text: &str) -> Result<Origin, Invalid> {
    const RULE: Invalid = Invalid::new(
        "base_url",
        "https (http on a loopback host) with a host and an optional path, without user, query, fragment or dot segments",
    );
    let audience: Audience = text.parse().map_err(|_| RULE)?;
    if !encrypted(&audience) {
        return Err(RULE);
    }
    Ok(audience.origin().clone())
}

/// Whether a token sent there is encrypted on the way, or does not leave the machine.
fn encrypted(audience: &Audience) -> bool {
    let Ok(url) = Url::parse(audience.origin().as_str()) else {
        return false;
    };
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() == "https" || loopback
}

fn check_response(definition: &ToolDefinition) -> Result<(), Invalid> {
    let Some(schema) = &definition.response else {
        return Ok(());
    };
    if definition.method == Method::Head {
        return Err(Invalid::new(
            "response",
            "absent: HEAD has no answer to check",
        ));
    }
    schema::check_response(schema)
}

fn response_headers(names: Vec<String>) -> Result<Vec<String>, Invalid> {
    if names.len() > 50 || !names.iter().all(|name| may_reach_workflow(name)) {
        return Err(Invalid::new(
            "response_headers",
            "at most 50 names of headers, at most 100 characters of A-Z, a-z, 0-9, '-' and '_' each, none that carries credentials",
        ));
    }
    Ok(names
        .into_iter()
        .map(|name| name.to_ascii_lowercase())
        .collect())
}

fn check_limits(definition: &ToolDefinition) -> Result<(), Invalid> {
    if !(1..=300).contains(&definition.timeout_seconds) {
        return Err(Invalid::new("timeout_seconds", "1 to 300"));
    }
    let connect = definition.connect_timeout_seconds;
    if !(1..=30).contains(&connect) {
        return Err(Invalid::new("connect_timeout_seconds", "1 to 30"));
    }
    // The usual one is less where the call as a whole takes no longer: workers see to it.
    if !is_usual_connect_timeout(&connect) && connect >= definition.timeout_seconds {
        return Err(Invalid::new(
            "connect_timeout_seconds",
            "less than timeout_seconds",
        ));
    }
    let limited = definition.rate_limit.is_none_or(|limit| limit.is_valid());
    if !limited {
        return Err(Invalid::new("rate_limit.calls", "1 to 1000000"));
    }
    if !(1..=u64::from(MAX_RESPONSE_BYTES)).contains(&definition.max_response_bytes) {
        return Err(Invalid::new(
            "max_response_bytes",
            "1 to 8388608 (8 MiB): ask the API for less, or for pages",
        ));
    }
    Ok(())
}

/// Completes the places: every property has one, and the template's parameters are properties that
/// must be given.
fn places(
    definition: &ToolDefinition,
    template: &PathTemplate,
) -> Result<BTreeMap<String, Place>, Invalid> {
    let properties: BTreeSet<&str> = schema::properties(&definition.parameters).collect();
    let in_path: BTreeSet<&str> = template.parameters().collect();
    if !in_path.is_subset(&schema::required(&definition.parameters))
        || !in_path.is_subset(&properties)
    {
        return Err(Invalid::new(
            "path",
            "a template whose parameters are required properties of the schema",
        ));
    }
    if !definition
        .places
        .keys()
        .all(|name| properties.contains(name.as_str()))
    {
        return Err(Invalid::new("places", "for properties of the schema only"));
    }
    let places = properties
        .into_iter()
        .map(|name| {
            let named = definition.places.get(name).copied();
            place(name, named, definition.method, &in_path).map(|place| (name.to_owned(), place))
        })
        .collect::<Result<_, _>>()?;
    check_apart(&definition.auth, &places)?;
    retry::check_key(definition, &places)?;
    Ok(places)
}

fn place(
    name: &str,
    named: Option<Place>,
    method: Method,
    in_path: &BTreeSet<&str>,
) -> Result<Place, Invalid> {
    let fallback = match (in_path.contains(name), method.has_body()) {
        (true, _) => Place::Path,
        (false, true) => Place::Body,
        (false, false) => Place::Query,
    };
    let place = named.unwrap_or(fallback);
    if (place == Place::Path) != in_path.contains(name) {
        return Err(Invalid::new(
            "places",
            "path for exactly the parameters of the path template",
        ));
    }
    if place == Place::Body && !method.has_body() {
        return Err(Invalid::new("places", "body only where the method has one"));
    }
    Ok(place)
}

fn hash(definition: &ToolDefinition) -> DefinitionHash {
    // Every field serialises: strings, numbers and maps with string keys.
    let value = serde_json::to_value(definition).unwrap_or_default();
    let canonical = sorted(value).to_string();
    DefinitionHash(hex::encode(digest(&SHA256, canonical.as_bytes())))
}

/// The same value with the keys of every object in order, whatever map type `serde_json` was built
/// with.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let ordered: BTreeMap<String, Value> = map
                .into_iter()
                .map(|(key, value)| (key, sorted(value)))
                .collect();
            Value::Object(ordered.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use xylem_policy::Period;

    fn definition() -> ToolDefinition {
        serde_json::from_value(json!({
            "name": "acme.deploy",
            "description": "Deploys a build",
            "base_url": "https://api.acme.example/v1",
            "path": "/deploys/{id}",
            "method": "POST",
            "auth": {"type": "bearer"},
            "slot": "default",
            "parameters": {
                "type": "object",
                "properties": {"id": {"type": "string"}, "build": {"type": "integer"}},
                "required": ["id"],
            },
            "timeout_seconds": 10,
            "max_response_bytes": 65536,
        }))
        .unwrap()
    }

    fn limit(calls: u32, per: Period) -> RateLimit {
        RateLimit { calls, per }
    }

    #[test]
    fn a_token_comes_from_one_place() {
        let field = |auth: Auth, slot: Option<&str>, credential: Option<&str>| {
            let mut given = definition();
            given.auth = auth;
            given.slot = slot.map(|it| it.parse().unwrap());
            given.credential = credential.map(|it| it.parse().unwrap());
            Tool::new(given)
                .map_err(|invalid| invalid.field())
                .map(drop)
        };
        for fine in [
            field(Auth::Bearer, Some("default"), None),
            field(Auth::Bearer, None, Some("acme")),
            field(Auth::ClientCredentials, None, Some("acme")),
            field(Auth::None, None, None),
        ] {
            assert_eq!(fine, Ok(()));
        }
        for (wrong, name) in [
            (field(Auth::Bearer, None, None), "slot"),
            (field(Auth::Bearer, Some("a"), Some("b")), "credential"),
            (
                field(Auth::ClientCredentials, Some("a"), None),
                "credential",
            ),
            (field(Auth::None, Some("a"), None), "slot"),
            (field(Auth::None, None, Some("b")), "credential"),
        ] {
            assert_eq!(wrong, Err(name));
        }
        for calls in [0, 1_000_001] {
            let field = field_of(|d| d.rate_limit = Some(limit(calls, Period::Day)));
            assert_eq!(field, "rate_limit.calls");
        }
    }

    fn field_of(change: impl FnOnce(&mut ToolDefinition)) -> &'static str {
        let mut changed = definition();
        change(&mut changed);
        Tool::new(changed).expect_err("refused").field()
    }

    #[test]
    fn places_are_completed() {
        let tool = Tool::new(definition()).unwrap();
        let places = &tool.definition().places;
        assert_eq!(places["id"], Place::Path);
        assert_eq!(places["build"], Place::Body);
        let mut get = definition();
        get.method = Method::Get;
        assert_eq!(
            Tool::new(get).unwrap().definition().places["build"],
            Place::Query
        );
    }

    #[test]
    fn the_hash_is_stable_and_covers_everything() {
        let tool = Tool::new(definition()).unwrap();
        let again = Tool::new(tool.definition().clone()).unwrap();
        assert_eq!(tool.hash(), again.hash());
        let mut other = definition();
        other.timeout_seconds = 11;
        assert_ne!(tool.hash(), Tool::new(other).unwrap().hash());
    }

    #[test]
    fn the_hash_does_not_depend_on_the_order_of_keys() {
        let one: Value =
            serde_json::from_str(r#"{"a":{"x":1,"y":2},"b":[{"m":1,"n":2}]}"#).unwrap();
        let two: Value =
            serde_json::from_str(r#"{"b":[{"n":2,"m":1}],"a":{"y":2,"x":1}}"#).unwrap();
        assert_eq!(sorted(one).to_string(), sorted(two).to_string());
    }

    #[test]
    fn each_field_keeps_its_rule() {
        assert_eq!(
            field_of(|d| d.base_url = "http://api.acme.example".into()),
            "base_url"
        );
        assert_eq!(
            field_of(|d| d.base_url = "https://u:p@h".into()),
            "base_url"
        );
        assert_eq!(field_of(|d| d.base_url = "https://h?x".into()), "base_url");
        assert_eq!(field_of(|d| d.path = "deploys".into()), "path");
        assert_eq!(field_of(|d| d.path = "/deploys/{other}".into()), "path");
        assert_eq!(
            field_of(|d| d.auth = Auth::Header {
                name: "host".into()
            }),
            "auth.name"
        );
        assert_eq!(field_of(|d| d.parameters = json!({})), "parameters");
        assert_eq!(field_of(|d| d.timeout_seconds = 0), "timeout_seconds");
        for seconds in [0, 31] {
            let field = field_of(|d| d.connect_timeout_seconds = seconds);
            assert_eq!(field, "connect_timeout_seconds");
        }
        for (whole, connect, fine) in [(10, 10, false), (10, 9, true), (5, 5, true), (2, 2, false)]
        {
            let mut given = definition();
            (given.timeout_seconds, given.connect_timeout_seconds) = (whole, connect);
            let field = Tool::new(given).err().map(|invalid| invalid.field());
            let expected = (!fine).then_some("connect_timeout_seconds");
            assert_eq!(field, expected, "{connect} of {whole}");
        }
        for bytes in [0, u64::from(MAX_RESPONSE_BYTES) + 1] {
            let field = field_of(|d| d.max_response_bytes = bytes);
            assert_eq!(field, "max_response_bytes");
        }
        assert_eq!(
            field_of(|d| d.description = "x".repeat(2001)),
            "description"
        );
        assert_eq!(
            field_of(|d| d.response_headers = vec!["set-cookie".into()]),
            "response_headers"
        );
        assert_eq!(
            field_of(|d| d.places = BTreeMap::from([("build".into(), Place::Path)])),
            "places"
        );
        assert_eq!(
            field_of(|d| d.api_urls = vec!["http://h".parse().unwrap()]),
            "api_urls"
        );
    }

    #[test]
    fn what_answers_look_like_keeps_the_rules_of_schemas() {
        let with = |response: Value| {
            let mut given = definition();
            given.response = Some(response);
            Tool::new(given)
        };
        for fine in [
            json!({ "type": "array", "items": { "type": "string" } }),
            json!({ "anyOf": [{ "$ref": "#/$defs/a" }, { "type": "null" }], "$defs": { "a": {} } }),
        ] {
            assert!(with(fine.clone()).is_ok(), "{fine}");
        }
        for wrong in [
            json!("object"),
            json!({ "type": "no such type" }),
            json!({ "$ref": "https://h/schema" }),
            json!({ "pattern": "(?=x)" }),
        ] {
            assert_eq!(
                with(wrong.clone()).unwrap_err().field(),
                "response",
                "{wrong}"
            );
        }
        let field = field_of(|d| {
            d.method = Method::Head;
            d.places = BTreeMap::from([("build".into(), Place::Query)]);
            d.response = Some(json!({ "type": "null" }));
        });
        assert_eq!(field, "response");
    }

    /// What was approved stays approved: a field that is absent is not in the hash.
    #[test]
    fn hashes_from_before_stay() {
        let tool = Tool::new(definition()).unwrap();
        assert_eq!(
            tool.hash().as_str(),
            "f5baa7eec7dc1748908bf76364662846cb235417c6414ef672ea710da94bf0b1"
        );
        let hash = |change: fn(&mut ToolDefinition)| {
            let mut changed = definition();
            change(&mut changed);
            Tool::new(changed).unwrap().hash().clone()
        };
        let all = [
            tool.hash().clone(),
            hash(|d| d.response = Some(json!({ "type": "object" }))),
            hash(|d| d.auth = Auth::Query { name: "key".into() }),
            hash(|d| d.auth = Auth::Query { name: "Key".into() }),
            hash(|d| d.auth = Auth::Basic { username: None }),
            hash(|d| {
                let username = Some("deploy".into());
                d.auth = Auth::Basic { username };
            }),
            hash(|d| (d.slot, d.credential) = (None, Some("acme".parse().unwrap()))),
            hash(|d| {
                (d.slot, d.credential) = (None, Some("acme".parse().unwrap()));
                d.auth = Auth::ClientCredentials;
            }),
            hash(|d| (d.slot, d.auth) = (None, Auth::None)),
            hash(|d| d.rate_limit = Some(limit(10, Period::Minute))),
            hash(|d| d.rate_limit = Some(limit(10, Period::Hour))),
            hash(|d| d.connect_timeout_seconds = 1),
            hash(|d| d.retry = RetryClass::IdempotencyKey),
            hash(|d| d.retry = RetryClass::AtMostOnce),
        ];
        let different: BTreeSet<&DefinitionHash> = all.iter().collect();
        assert_eq!(different.len(), all.len(), "every field is in it");
    }

    #[test]
    fn headers_are_kept_in_lower_case_and_reserved_ones_refused() {
        let mut given = definition();
        given.auth = Auth::Header {
            name: "X-Api-Key".into(),
        };
        given.response_headers = vec!["ETag".into()];
        let tool = Tool::new(given).unwrap();
        let name = "x-api-key".to_owned();
        assert_eq!(tool.definition().auth, Auth::Header { name });
        assert_eq!(tool.definition().response_headers, ["etag"]);
        for name in ["host", "Cookie", "transfer_encoding", "x-forwarded-for", ""] {
            let name = name.to_owned();
            assert_eq!(field_of(|d| d.auth = Auth::Header { name }), "auth.name");
        }
    }

    #[test]
    fn a_parameter_goes_into_a_header_of_its_own_only() {
        let with = |names: &[&str], auth: Auth| {
            let mut given = definition();
            let properties: serde_json::Map<String, Value> = names
                .iter()
                .map(|name| ((*name).to_owned(), json!({ "type": "string" })))
                .collect();
            given.path = "/deploys".into();
            given.parameters = json!({ "type": "object", "properties": properties });
            let places = names.iter().map(|name| ((*name).to_owned(), Place::Header));
            given.places = places.collect();
            given.auth = auth;
            Tool::new(given)
        };
        let fine = with(&["X-Dry-Run", "accept-language"], Auth::Bearer).unwrap();
        assert_eq!(fine.definition().places["X-Dry-Run"], Place::Header);
        for name in [
            "Authorization",
            "host",
            "Cookie",
            "connection",
            "x-forwarded-for",
        ] {
            let refused = with(&[name], Auth::Bearer).unwrap_err();
            assert_eq!(refused.field(), "places", "{name}");
        }
        assert!(with(&["X-Dry-Run", "x-dry-run"], Auth::Bearer).is_err());
        let own = Auth::Header {
            name: "X-Api-Key".into(),
        };
        assert!(with(&["x-api-key"], own).is_err());
    }

    /// The message of the limit is text, the limit a number: they must agree.
    #[test]
    fn the_largest_response_is_named() {
        let mut large = definition();
        large.max_response_bytes = u64::from(MAX_RESPONSE_BYTES);
        assert!(Tool::new(large.clone()).is_ok());
        large.max_response_bytes += 1;
        let refused = Tool::new(large).unwrap_err().to_string();
        assert!(
            refused.contains(&MAX_RESPONSE_BYTES.to_string()),
            "{refused}"
        );
    }

    #[test]
    fn loopback_may_be_plain() {
        for base in [
            "http://127.0.0.1:8080",
            "http://localhost:1",
            "http://[::1]:1/v1",
        ] {
            let mut local = definition();
            local.base_url = base.to_owned();
            assert!(Tool::new(local).is_ok(), "{base}");
        }
    }

    #[test]
    fn an_api_url_needs_the_registration() {
        let mut open = definition();
        open.api_urls = vec!["https://eu.acme.example/v1".parse().unwrap()];
        let tool = Tool::new(open).unwrap();
        let origin = |url| tool.destination(url).map(|origin| origin.to_string());
        assert_eq!(origin(None).unwrap(), "https://api.acme.example");
        assert_eq!(
            origin(Some("https://eu.acme.example/v1")).unwrap(),
            "https://eu.acme.example"
        );
        assert_eq!(
            origin(Some("https://api.acme.example/v1")).unwrap(),
            "https://api.acme.example"
        );
        for bad in [
            "https://evil.example/v1",
            "https://eu.acme.example/v2",
            "nonsense",
        ] {
            assert!(origin(Some(bad)).is_err(), "{bad}");
        }
    }
}
