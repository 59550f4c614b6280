//! A registered tool, and the same made ready to be called.

use crate::{carry::Carrier, failure::Failure};
use http::{HeaderName, Method};
use jsonschema::{PatternOptions, Validator};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use xylem_ids::{
    Audience, PathTemplate, RetryClass, Slot, ToolName, may_carry_parameter, may_reach_workflow,
};
use xylem_outbound::Connecting;

/// How long a call may take where the definition does not say.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a call may take at most.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(300);

/// The largest response where the definition does not say, in bytes.
pub const DEFAULT_RESPONSE_BYTES: usize = 1024 * 1024;

/// The largest response at most, in bytes: what the registry takes.
pub const MAX_RESPONSE_BYTES: usize = xylem_ids::MAX_RESPONSE_BYTES as usize;

/// What all attempts of one call have in common, for an API that asks for it.
pub(crate) const KEY_HEADER: HeaderName = HeaderName::from_static(RetryClass::KEY_HEADER);

/// Where in an answer something is wrong is told in so many characters at most.
const MAX_PLACE: usize = 200;

/// A registered operation of an external API, as the registry has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: ToolName,
    /// The hash of the definition; compared, never computed here.
    pub hash: String,
    /// GET, HEAD, POST, PUT, PATCH or DELETE.
    pub method: String,
    /// Where the API is: an origin, optionally with a path prefix.
    pub base_url: String,
    /// The path below it, with `{parameter}` where a parameter goes; see [`PathTemplate`].
    pub path: String,
    /// The slot whose token a call uses, if it is one of the tree's.
    pub slot: Option<Slot>,
    /// How a call carries the token.
    pub auth: Auth,
    /// The JSON Schema of the parameters; any object where absent.
    pub parameters_schema: Option<Value>,
    /// Whether a call is made again that may have reached the API.
    pub retry: RetryClass,
    /// The JSON Schema of successful answers; anything where absent.
    pub response_schema: Option<Value>,
    /// Where parameters go that are not named in the path. Without an entry: into the query for
    /// GET, HEAD and DELETE, into the JSON body otherwise.
    pub places: BTreeMap<String, Place>,
    /// How long a call may take; [`DEFAULT_TIMEOUT`] where absent, [`MAX_TIMEOUT`] at most.
    pub timeout: Option<Duration>,
    /// The largest response in bytes; [`DEFAULT_RESPONSE_BYTES`] where absent,
    /// [`MAX_RESPONSE_BYTES`] at most. It limits both the compressed and the decompressed form.
    pub max_response_bytes: Option<usize>,
    /// How to connect to its server.
    pub connecting: Connecting,
    /// Response headers that reach the workflow; all others are dropped.
    pub response_headers: Vec<String>,
    /// Where a workflow's `apiUrl` may point, beside `base_url`.
    pub allowed_api_urls: Vec<Audience>,
}

/// How a call carries the token.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Auth {
    /// `Authorization: Bearer TOKEN`.
    #[default]
    Bearer,
    /// The token in a header of its own.
    Header(String),
    /// The token in the query, under this name.
    Query(String),
    /// `Authorization: Basic …`.
    Basic {
        /// The user, whose password the token is; without one the token is `user:password`.
        username: Option<String>,
    },
    /// Nothing: the API takes anybody.
    None,
}

/// Where a parameter goes in the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In place of `{name}` in the path, percent-encoded.
    Path,
    /// In the query.
    Query,
    /// In a header of that name.
    Header,
    /// A member of the JSON body.
    Body,
}

/// A tool whose definition was checked and whose schema is compiled.
#[derive(Debug)]
pub(crate) struct ReadyTool {
    pub(crate) tool: Tool,
    pub(crate) method: Method,
    pub(crate) base: Audience,
    pub(crate) path: PathTemplate,
    pub(crate) carrier: Carrier,
    pub(crate) response_headers: Vec<HeaderName>,
    schema: Option<Validator>,
    response: Option<Validator>,
}

impl ReadyTool {
    /// Checks a definition. The registry has done so before; a worker does not rely on it.
    pub(crate) fn new(tool: Tool) -> Result<Self, Failure> {
        let wrong = |what| Failure::Definition {
            tool: tool.name.clone(),
            what,
        };
        let method = method(&tool.method).ok_or_else(|| wrong("its method is not supported"))?;
        let base: Audience = tool
            .base_url
            .parse()
            .map_err(|_| wrong("its base URL is not an origin with an optional path prefix"))?;
        let path = tool.path.parse();
        let path = path.map_err(|_| wrong("its path is not a template"))?;
        let carrier = Carrier::new(&tool.auth).map_err(wrong)?;
        check_apart(&tool, &carrier).map_err(wrong)?;
        let response_headers = tool.response_headers.iter();
        let response_headers = response_headers
            .map(|name| header(name, may_reach_workflow))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| wrong("a response header it lists may not reach a workflow"))?;
        let compiled = |schema: &Option<Value>| schema.as_ref().map(compile).transpose();
        let schema = compiled(&tool.parameters_schema).map_err(wrong)?;
        let response = compiled(&tool.response_schema).map_err(wrong)?;
        Ok(Self {
            method,
            base,
            path,
            carrier,
            response_headers,
            schema,
            response,
            tool,
        })
    }

    pub(crate) fn timeout(&self) -> Duration {
        let asked = self.tool.timeout.unwrap_or(DEFAULT_TIMEOUT);
        asked.min(MAX_TIMEOUT)
    }

    pub(crate) fn max_response_bytes(&self) -> usize {
        let asked = self.tool.max_response_bytes;
        asked
            .unwrap_or(DEFAULT_RESPONSE_BYTES)
            .min(MAX_RESPONSE_BYTES)
    }

    /// Checks parameters against the schema. What is wrong is told by place and rule, never by
    /// value.
    pub(crate) fn check(&self, parameters: &Value) -> Result<(), Failure> {
        let Some(schema) = &self.schema else {
            return Ok(());
        };
        schema
            .validate(parameters)
            .map_err(|error| Failure::Parameters {
                tool: self.tool.name.clone(),
                what: format!(
                    "at '{}': {} (rule '{}' of its schema)",
                    error.instance_path(),
                    error.masked(),
                    error.schema_path(),
                ),
            })
    }

    /// Whether answers are checked.
    pub(crate) fn checks_answers(&self) -> bool {
        self.response.is_some()
    }

    /// Checks the body of a successful answer. What is wrong is told by place and rule, never by
    /// value: an answer may hold anything.
    pub(crate) fn check_answer(&self, body: &Value) -> Result<(), Failure> {
        let Some(schema) = &self.response else {
            return Ok(());
        };
        schema.validate(body).map_err(|error| {
            let place: String = error.instance_path().to_string();
            Failure::Response {
                tool: self.tool.name.clone(),
                place: place.chars().take(MAX_PLACE).collect(),
                rule: error.schema_path().to_string(),
            }
        })
    }

    /// Whether the path has a place for a parameter.
    pub(crate) fn is_in_path(&self, parameter: &str) -> bool {
        self.path.parameters().any(|name| name == parameter)
    }

    /// Where a parameter goes.
    pub(crate) fn place(&self, parameter: &str) -> Place {
        if self.is_in_path(parameter) {
            return Place::Path;
        }
        let listed = self.tool.places.get(parameter).copied();
        listed.unwrap_or(match self.method {
            Method::GET | Method::HEAD | Method::DELETE => Place::Query,
            _ => Place::Body,
        })
    }
}

fn method(text: &str) -> Option<Method> {
    [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
    ]
    .into_iter()
    .find(|method| method.as_str() == text)
}

/// Compiles a schema that reaches nothing outside itself, with patterns that take linear time.
fn compile(schema: &Value) -> Result<Validator, &'static str> {
    jsonschema::options()
        .offline()
        .with_pattern_options(PatternOptions::regex())
        .build(schema)
        .map_err(|_| "a schema of it does not compile, or refers to something outside itself")
}

pub(crate) fn header(name: &str, may: fn(&str) -> bool) -> Option<HeaderName> {
    name.parse().ok().filter(|_| may(name))
}

/// Whether token, idempotency key and each parameter have their header for themselves.
fn check_apart(tool: &Tool, carrier: &Carrier) -> Result<(), &'static str> {
    let mut headers = BTreeSet::new();
    headers.extend(carrier.header().map(|name| name.as_str().to_owned()));
    let keyed = tool.retry == RetryClass::IdempotencyKey;
    if keyed && !headers.insert(KEY_HEADER.as_str().to_owned()) {
        return Err("its token goes into the header of the idempotency key");
    }
    for (name, place) in &tool.places {
        if *place == Place::Header {
            let name = header(name, may_carry_parameter)
                .ok_or("a parameter goes into a header that is reserved or has no valid name")?;
            if !headers.insert(name.as_str().to_owned()) {
                return Err(
                    "a parameter goes into the header of the token, the idempotency key or another parameter",
                );
            }
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn tool() -> Tool {
        Tool {
            name: "acme.deploy".parse().expect("a tool name"),
            hash: "h1".to_owned(),
            method: "POST".to_owned(),
            base_url: "https://api.acme.example/v1".to_owned(),
            path: "/deploys".to_owned(),
            slot: Some(Slot::default_slot()),
            auth: Auth::Bearer,
            parameters_schema: None,
            retry: RetryClass::default(),
            response_schema: None,
            places: BTreeMap::new(),
            timeout: None,
            max_response_bytes: None,
            connecting: Connecting::default(),
            response_headers: Vec::new(),
            allowed_api_urls: Vec::new(),
        }
    }

    #[test]
    fn parameters_are_told_by_place_and_rule_never_by_value() {
        let ready = ReadyTool::new(Tool {
            parameters_schema: Some(json!({
                "type": "object",
                "properties": { "service": { "type": "string", "maxLength": 3 } },
                "required": ["service"],
                "additionalProperties": false,
            })),
            ..tool()
        })
        .expect("a good definition");
        assert!(ready.check(&json!({ "service": "web" })).is_ok());
        for bad in [
            json!({ "service": "hunter2-secret" }),
            json!({ "service": 31_337_u32 }),
            json!({}),
            json!(["hunter2-secret"]),
        ] {
            let error = ready.check(&bad).expect_err("refused");
            assert!(!error.message().contains("hunter2"), "{error:?}");
            assert!(!error.message().contains("31337"), "{error:?}");
        }
    }

    #[test]
    fn an_answer_is_told_by_place_and_rule_never_by_value() {
        let ready = ReadyTool::new(Tool {
            response_schema: Some(json!({
                "type": "object",
                "properties": { "items": { "type": "array", "items": { "maxLength": 3 } } },
                "additionalProperties": false,
            })),
            ..tool()
        })
        .expect("a good definition");
        assert!(ready.checks_answers());
        assert!(ready.check_answer(&json!({ "items": ["ok"] })).is_ok());
        for (bad, place) in [
            (json!({ "items": ["ok", "hunter2"] }), "'/items/1'"),
            (json!({ "hunter2": 1 }), "''"),
            (json!("hunter2"), "''"),
            (Value::Null, "''"),
        ] {
            let message = ready.check_answer(&bad).expect_err("refused").message();
            assert!(message.contains(place), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn a_schema_reaches_nothing_outside_itself() {
        for reference in [
            "https://evil.example/schema.json",
            "http://169.254.169.254/latest",
            "file:///etc/passwd",
            "other.json",
        ] {
            let schema = json!({ "properties": { "x": { "$ref": reference } } });
            let refused = ReadyTool::new(Tool {
                parameters_schema: Some(schema),
                ..tool()
            });
            assert!(refused.is_err(), "{reference}");
        }
        let inside = json!({
            "$defs": { "name": { "type": "string" } },
            "properties": { "x": { "$ref": "#/$defs/name" } },
        });
        assert!(compile(&inside).is_ok());
    }

    #[test]
    fn reserved_headers_are_refused_in_a_definition() {
        for name in [
            "Host",
            "authorization",
            "Cookie",
            "Connection",
            "Transfer-Encoding",
            "X-Forwarded-For",
            "Proxy-Authorization",
            "Content-Length",
            "TE",
            "bad name",
        ] {
            let places = BTreeMap::from([(name.to_owned(), Place::Header)]);
            assert!(ReadyTool::new(Tool { places, ..tool() }).is_err(), "{name}");
            let auth = Auth::Header(name.to_owned());
            let allowed = name == "authorization";
            let made = ReadyTool::new(Tool { auth, ..tool() });
            assert_eq!(made.is_ok(), allowed, "{name}");
        }
        let places = BTreeMap::from([("X-Api-Key".to_owned(), Place::Header)]);
        let auth = Auth::Header("x-api-key".to_owned());
        let both = ReadyTool::new(Tool {
            places,
            auth,
            ..tool()
        });
        assert!(both.is_err(), "the token's header is not a parameter's");
        for (header, auth) in [
            ("X-Trace", Auth::Header("idempotency-key".to_owned())),
            ("Idempotency-Key", Auth::Bearer),
        ] {
            for (retry, fine) in [
                (RetryClass::AtMostOnce, true),
                (RetryClass::IdempotencyKey, false),
            ] {
                let made = ReadyTool::new(Tool {
                    places: BTreeMap::from([(header.to_owned(), Place::Header)]),
                    auth: auth.clone(),
                    retry,
                    ..tool()
                });
                assert_eq!(made.is_ok(), fine, "the key's header is its own");
            }
        }
        let places = ["X-Trace", "x-trace"].map(|name| (name.to_owned(), Place::Header));
        let places = BTreeMap::from(places);
        let twice = ReadyTool::new(Tool { places, ..tool() });
        assert!(twice.is_err(), "two parameters in one header");
    }

    #[test]
    fn a_response_header_with_credentials_does_not_reach_a_workflow() {
        for (name, allowed) in [("ETag", true), ("Set-Cookie", false), ("a b", false)] {
            let response_headers = vec![name.to_owned()];
            let made = ReadyTool::new(Tool {
                response_headers,
                ..tool()
            });
            assert_eq!(made.is_ok(), allowed, "{name}");
        }
    }

    #[test]
    fn limits_are_capped() {
        let ready = ReadyTool::new(Tool {
            timeout: Some(Duration::from_secs(3600)),
            max_response_bytes: Some(usize::MAX),
            ..tool()
        })
        .expect("a good definition");
        assert_eq!(ready.timeout(), MAX_TIMEOUT);
        assert_eq!(ready.max_response_bytes(), MAX_RESPONSE_BYTES);
    }

    #[test]
    fn a_definition_that_cannot_be_called_is_refused() {
        for (what, bad) in [
            (
                "method",
                Tool {
                    method: "TRACE".to_owned(),
                    ..tool()
                },
            ),
            (
                "lower-case method",
                Tool {
                    method: "get".to_owned(),
                    ..tool()
                },
            ),
            (
                "user in base",
                Tool {
                    base_url: "https://u@h".to_owned(),
                    ..tool()
                },
            ),
            (
                "scheme",
                Tool {
                    base_url: "ftp://h".to_owned(),
                    ..tool()
                },
            ),
            (
                "dots",
                Tool {
                    path: "/../admin".to_owned(),
                    ..tool()
                },
            ),
            (
                "query in path",
                Tool {
                    path: "/a?b".to_owned(),
                    ..tool()
                },
            ),
            (
                "part of a segment",
                Tool {
                    path: "/v{id}".to_owned(),
                    ..tool()
                },
            ),
        ] {
            assert!(ReadyTool::new(bad).is_err(), "{what}");
        }
    }
}
