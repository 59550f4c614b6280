//! Documents, and what becomes of them.

use super::*;
use crate::{Auth, Tool};
use proptest::prelude::*;
use serde_json::json;
use std::fmt::Write;
use xylem_ids::RetryClass;

const PETS: &str = include_str!("documents/pets.yaml");
const BUILDS: &str = include_str!("documents/builds.json");

fn options() -> Options {
    Options {
        prefix: "acme".parse().unwrap(),
        base_url: None,
        slot: None,
        credential: None,
        tags: BTreeSet::new(),
        only: BTreeSet::new(),
        response_schemas: false,
    }
}

fn report(text: &str, from: Option<&str>) -> Report {
    import(&Document::parse(text, from).unwrap(), &options()).unwrap()
}

/// A report as a person would read it.
fn shown(report: &Report) -> String {
    let mut text = format!("{} {}\n", report.title, report.version);
    for tool in &report.tools {
        let definition = serde_json::to_string_pretty(tool.definition()).unwrap();
        writeln!(text, "{definition}").unwrap();
    }
    for (what, notes) in [("left out", &report.left_out), ("changed", &report.changed)] {
        for note in notes {
            let Note {
                operation,
                place,
                why,
                what: name,
            } = note;
            writeln!(text, "{what}: {operation} {} {name} at {place}", why.code()).unwrap();
        }
    }
    text
}

/// A document with one operation that takes this as its body.
fn with_body(schema: &Value) -> Value {
    json!({
        "openapi": "3.1.0",
        "servers": [{"url": "https://api.example"}],
        "security": [{"t": []}],
        "paths": {"/x": {"post": {"requestBody": {
            "required": true,
            "content": {"application/json": {"schema": schema}},
        }}}},
        "components": {"securitySchemes": {"t": {"type": "oauth2"}}},
    })
}

#[test]
fn a_document_of_3_0() {
    insta::assert_snapshot!(shown(&report(PETS, None)));
}

#[test]
fn a_document_of_3_1() {
    insta::assert_snapshot!(shown(&report(
        BUILDS,
        Some("https://ci.example/docs/openapi.json")
    )));
}

#[test]
fn json_and_yaml_give_the_same_tools() {
    let yaml: Value = serde_saphyr::from_str(PETS).unwrap();
    let json = report(&yaml.to_string(), None);
    assert_eq!(json, report(PETS, None));
}

#[test]
fn every_operation_is_a_tool_or_has_a_reason() {
    for (text, operations) in [(PETS, 12), (BUILDS, 9)] {
        let report = report(text, Some("https://ci.example/"));
        assert_eq!(report.tools.len() + report.left_out.len(), operations);
        for note in report.left_out.iter().chain(&report.changed) {
            assert!(!note.why.code().is_empty() && !note.why.text().is_empty());
            assert!(note.place.starts_with('/'), "{note:?}");
        }
    }
}

#[test]
fn options_take_the_place_of_what_the_document_says() {
    let document = Document::parse(PETS, None).unwrap();
    let only = ["listPets", "PUT /pets/{petId}"].map(str::to_owned);
    let given = Options {
        base_url: Some("https://mirror.example/pets".to_owned()),
        tags: BTreeSet::from(["mine".parse().unwrap()]),
        only: only.into_iter().collect(),
        slot: Some("pets".parse().unwrap()),
        ..options()
    };
    let report = import(&document, &given).unwrap();
    // Beside them, the path of which nothing is known.
    assert_eq!((report.tools.len(), report.left_out.len()), (2, 1));
    let unknown = Options {
        only: BTreeSet::from(["listPets".to_owned(), "GET /nothing".to_owned()]),
        ..options()
    };
    let unmet = import(&document, &unknown).unwrap();
    let unmet: Vec<_> = unmet
        .left_out
        .iter()
        .map(|it| (it.operation.as_str(), it.why))
        .collect();
    assert!(
        unmet.contains(&("GET /nothing", Why::NoOperation)),
        "{unmet:?}"
    );
    assert!(
        !unmet.iter().any(|(name, _)| *name == "listPets"),
        "{unmet:?}"
    );
    for tool in &report.tools {
        let definition = tool.definition();
        assert_eq!(definition.base_url, "https://mirror.example/pets");
        assert!(definition.tags.contains("mine"));
        assert_eq!(definition.slot, Some("pets".parse().unwrap()));
    }
    let given = Options {
        credential: Some("acme".parse().unwrap()),
        ..options()
    };
    let report = import(&document, &given).unwrap();
    assert!(!report.tools.is_empty());
    for tool in &report.tools {
        let definition = tool.definition();
        let stored = (definition.auth != Auth::None).then(|| "acme".parse().unwrap());
        assert_eq!((&definition.slot, &definition.credential), (&None, &stored));
    }
    for (prefix, base_url, field) in [
        ("x".repeat(41), None, "prefix"),
        ("x".to_owned(), Some("http://plain.example"), "base_url"),
    ] {
        let given = Options {
            prefix: prefix.parse().unwrap(),
            base_url: base_url.map(str::to_owned),
            ..options()
        };
        let refused = import(&document, &given).unwrap_err();
        assert_eq!(refused.field(), field);
    }
}

/// A document with one operation that has these answers and this security scheme.
fn with_answers(answers: &Value, scheme: &Value) -> Value {
    json!({
        "openapi": "3.0.3",
        "servers": [{"url": "https://api.example"}],
        "security": [{"t": []}],
        "paths": {"/x": {"get": {
            "parameters": [{"name": "key", "in": "query", "schema": {"type": "string"}}],
            "responses": answers,
        }}},
        "components": {
            "securitySchemes": {"t": scheme},
            "schemas": {"pet": {"type": "object", "nullable": true, "properties": {
                "next": {"$ref": "#/components/schemas/pet"},
            }}},
        },
    })
}

#[test]
fn answers_are_checked_where_that_is_asked_for_and_all_are_known() {
    let bearer = json!({"type": "http", "scheme": "Bearer"});
    let body = |schema: Value| json!({"content": {"application/json": {"schema": schema}}});
    let pet = body(json!({"$ref": "#/components/schemas/pet"}));
    let options = Options {
        response_schemas: true,
        ..options()
    };
    let taken = |answers: Value| {
        let document = with_answers(&answers, &bearer).to_string();
        let unasked = report(&document, None);
        assert_eq!(unasked.tools[0].definition().response, None);
        let report = import(&Document::parse(&document, None).unwrap(), &options).unwrap();
        let whys: Vec<Why> = report.changed.iter().map(|note| note.why).collect();
        (report.tools[0].definition().response.clone(), whys)
    };
    let (schema, changed) = taken(json!({"200": pet, "204": {"description": ""}, "404": {}}));
    assert!(changed.is_empty());
    let reference = json!({"$ref": "#/$defs/pet"});
    let expected = json!({
        "anyOf": [reference, {"type": "null"}],
        "$defs": {"pet": {"type": ["object", "null"], "properties": {"next": reference}}},
    });
    assert_eq!(schema, Some(expected));
    let (schema, _) = taken(json!({"2XX": body(json!({"type": "array"}))}));
    assert_eq!(schema, Some(json!({"type": "array"})));
    assert_eq!(taken(json!({"default": pet})), (None, vec![]));
    let text = json!({"content": {"text/plain": {"schema": {"type": "string"}}}});
    for (answers, why) in [
        (json!({"200": pet, "201": text}), Why::Response),
        (json!({"200": {"$ref": "other.json"}}), Why::ExternalRef),
        (
            json!({"200": body(json!({"pattern": "(?=x)"}))}),
            Why::SchemaInvalid,
        ),
    ] {
        assert_eq!(taken(answers), (None, vec![why]));
    }
}

#[test]
fn a_key_in_the_query_and_a_password_are_taken_over() {
    let auth = |scheme: Value| {
        let report = report(&with_answers(&json!({}), &scheme).to_string(), None);
        let auth = report.tools.first();
        auth.map(|tool| tool.definition().auth.clone())
            .ok_or(report.left_out.first().map(|note| note.why))
    };
    let query = |name: &str| auth(json!({"type": "apiKey", "in": "query", "name": name}));
    let name = "api_key".to_owned();
    assert_eq!(query("api_key"), Ok(Auth::Query { name }));
    assert_eq!(query("Key"), Err(Some(Why::NameClash)));
    assert_eq!(query("a b"), Err(Some(Why::Security)));
    let basic = auth(json!({"type": "http", "scheme": "BASIC"}));
    assert_eq!(basic, Ok(Auth::Basic { username: None }));
    let cookie = auth(json!({"type": "apiKey", "in": "cookie", "name": "key"}));
    assert_eq!(cookie, Err(Some(Why::Security)));
    for open in [json!([]), json!([{}]), Value::Null] {
        let mut document = with_answers(&json!({}), &json!({}));
        document["security"] = open;
        let report = report(&document.to_string(), None);
        let definition = report.tools[0].definition();
        assert_eq!((&definition.auth, &definition.slot), (&Auth::None, &None));
    }
}

#[test]
fn calls_are_made_again_as_the_method_and_the_document_say() {
    let key = json!([{
        "name": "Idempotency-Key", "in": "header", "required": true, "schema": {"type": "string"},
    }]);
    let given = json!({
        "openapi": "3.1.0",
        "servers": [{"url": "https://api.example"}],
        "paths": {
            "/a": {"get": {}, "head": {}, "put": {}, "delete": {}, "post": {}, "patch": {}},
            "/b": {"post": {"parameters": key}},
        },
    });
    let report = report(&given.to_string(), None);
    let classes: Vec<_> = report
        .tools
        .iter()
        .map(|tool| {
            let definition = tool.definition();
            (definition.method.as_str(), definition.retry)
        })
        .collect();
    use RetryClass::{AtMostOnce, IdempotencyKey, Idempotent};
    let of_a = ["GET", "HEAD", "PUT", "DELETE"].map(|method| (method, Idempotent));
    for class in of_a {
        assert!(classes.contains(&class), "{classes:?}");
    }
    for class in ["POST", "PATCH"].map(|method| (method, AtMostOnce)) {
        assert!(classes.contains(&class), "{classes:?}");
    }
    assert!(classes.contains(&("POST", IdempotencyKey)), "{classes:?}");
    assert_eq!(classes.len(), 7);
    assert!(report.changed.is_empty(), "{:?}", report.changed);
    // The worker says the key, no workflow does.
    let keyed = report.tools.iter().map(Tool::definition);
    let keyed = keyed.filter(|definition| definition.retry == IdempotencyKey);
    for definition in keyed {
        assert!(definition.places.is_empty());
    }
}

#[test]
fn a_document_that_is_of_no_use_says_why() {
    let alias_bomb = {
        let mut text = "openapi: 3.0.0\na0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..12 {
            let before = format!("*a{},", level - 1).repeat(9);
            writeln!(text, "a{level}: &a{level} [{before}]").unwrap();
        }
        text
    };
    let many_aliases = format!("a: &a 1\nb: [{}]", "*a, ".repeat(2_000));
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(100), close.repeat(100));
    for text in [
        String::new(),
        "{".to_owned(),
        "a: [".to_owned(),
        "a: 1\na: 2".to_owned(),
        "a: 1\n---\nb: 2".to_owned(),
        format!("{{\"a\":{}}}", deep("[", "]")),
        deep("[", "]"),
        alias_bomb,
        many_aliases,
    ] {
        let refused = Document::parse(&text, None).unwrap_err();
        let start: String = text.chars().take(60).collect();
        assert!(
            matches!(
                refused,
                Unusable::NotReadable { .. } | Unusable::OtherVersion
            ),
            "{start}: {refused}"
        );
        assert!(!refused.to_string().contains("*a"), "{refused}");
    }
    for version in ["\"2.0\"", "\"3.2.0\"", "3.1", "\"3.10.0\"", "null"] {
        let text = format!("{{\"openapi\": {version}}}");
        let refused = Document::parse(&text, None).unwrap_err();
        assert_eq!(refused, Unusable::OtherVersion, "{version}");
    }
    let large = " ".repeat(MAX_DOCUMENT_BYTES + 1);
    assert_eq!(
        Document::parse(&large, None).unwrap_err(),
        Unusable::TooLarge
    );
}

#[test]
fn an_error_names_the_line_and_not_the_input() {
    let refused = Document::parse("openapi: 3.0.0\nhunter2: [\n", None).unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("line") && !text.contains("hunter2"), "{text}");
}

/// Each reference doubles what it leads to: expanded, it would be 2^60 values.
#[test]
fn a_schema_that_would_explode_stays_small() {
    let mut schemas = serde_json::Map::new();
    for level in 0..60 {
        let next = json!({"$ref": format!("#/components/schemas/s{}", level + 1)});
        let schema = json!({"type": "object", "properties": {"a": next, "b": next}});
        schemas.insert(format!("s{level}"), schema);
    }
    schemas.insert("s60".to_owned(), json!({"type": "string"}));
    let mut document = with_body(&json!({"$ref": "#/components/schemas/s0"}));
    document["components"]["schemas"] = Value::Object(schemas);
    let report = report(&document.to_string(), None);
    let size = report.tools[0].definition().parameters.to_string().len();
    assert!(size < 10_000, "{size}");
}

#[test]
fn a_schema_that_is_too_large_or_too_deep_is_left_out() {
    let mut deep = json!({"type": "string"});
    for _ in 0..20 {
        deep = json!({"type": "object", "properties": {"a": deep}});
    }
    let large: serde_json::Map<String, Value> = (0..3_000)
        .map(|n| {
            (
                format!("p{n}"),
                json!({"type": "string", "title": "a title"}),
            )
        })
        .collect();
    for schema in [deep, json!({"type": "object", "properties": large})] {
        let report = report(&with_body(&schema).to_string(), None);
        assert_eq!(report.tools.len(), 0);
        assert_eq!(report.left_out[0].why, Why::SchemaTooLarge);
    }
}

#[test]
fn nothing_in_a_name_moves_a_cursor() {
    let mut document = with_body(&json!({"type": "object", "properties": {"a": {}}}));
    let path = document["paths"]["/x"].take();
    document["paths"] = json!({"/\u{1b}[31m\r\nx": path});
    let report = report(&document.to_string(), None);
    assert!(!shown(&report).contains(['\u{1b}', '\r']));
}

/// JSON that looks like an OpenAPI document from afar.
fn anything() -> impl Strategy<Value = Value> {
    let words = prop::sample::select(vec![
        "$ref",
        "type",
        "object",
        "array",
        "properties",
        "allOf",
        "parameters",
        "name",
        "in",
        "path",
        "query",
        "schema",
        "requestBody",
        "content",
        "application/json",
        "required",
        "items",
        "get",
        "post",
        "servers",
        "url",
        "#/paths",
        "#/components/schemas/a",
        "security",
        "/x/{a}",
        "a",
        "nullable",
        "enum",
        "operationId",
        "tags",
        "",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        words.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((words.clone(), inner), 0..6).prop_map(|members| {
                let members = members.into_iter();
                Value::Object(
                    members
                        .map(|(name, value)| (name.to_owned(), value))
                        .collect(),
                )
            }),
        ]
    })
}

proptest! {
    #[test]
    fn no_document_panics(text in "\\PC{0,200}", paths in anything(), components in anything()) {
        let _ = Document::parse(&text, None);
        let mut document = with_body(&components);
        document["paths"]["/y/{a}"] = json!({"post": paths, "parameters": components});
        document["paths"]["/z"] = paths;
        document["components"]["schemas"] = components;
        let report = report(&document.to_string(), None);
        for tool in &report.tools {
            prop_assert!(Tool::new(tool.definition().clone()).is_ok());
        }
    }
}
