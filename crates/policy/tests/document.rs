//! What a document must be, and how it says that it is not.

mod house;

use house::{Case, compile, document, engine, refusal};
use serde_json::{Value, json};
use xylem_policy::Document;

fn plain() -> Value {
    json!({"name": "p", "effect": "allow", "who": {"anyone": true}, "what": {"all": true}, "actions": ["execute"]})
}

fn with(field: &str, value: Value) -> Value {
    let mut document = plain();
    let Some((outer, inner)) = field.split_once('.') else {
        document[field] = value;
        return document;
    };
    document[outer][inner] = value;
    document
}

#[test]
fn an_unknown_field_is_an_error() {
    for field in ["extra", "who.extra", "what.extra", "when.extra"] {
        let error = serde_json::from_value::<Document>(with(field, json!(1))).unwrap_err();
        assert!(
            error.to_string().contains("unknown field `extra`"),
            "{field}: {error}"
        );
    }
}

#[test]
fn a_field_error_names_field_and_rule() {
    let window = |from: &str, to: &str| json!([{"zone": "UTC", "from": from, "to": to}]);
    let test = |test: Value| json!([test]);
    let requests = json!([{"more_than": 5, "per": "minute", "of": "agent"}]);
    for (field, value, part) in [
        ("band", json!(0), "band must be a number from 1 to 999"),
        ("description", json!("\u{7}"), "description must be"),
        ("guardrail", json!(true), "guardrail must be left out"),
        ("effect", Value::Null, "effect must be allow or deny"),
        ("who", Value::Null, "who must be given"),
        ("what", Value::Null, "what must be given"),
        ("actions", json!([]), "actions must be given"),
        ("who", json!({}), "who must be agents or roles"),
        (
            "who",
            json!({"anyone": true, "roles": ["user"]}),
            "who must be",
        ),
        (
            "what",
            json!({"all": true, "tags": ["prod"]}),
            "what must be",
        ),
        (
            "when.time",
            window("08:00", "08:00"),
            "when.time[0].from must be another time",
        ),
        (
            "when.networks",
            json!({}),
            "when.networks must be any_of or none_of",
        ),
        (
            "when.networks",
            json!({"any_of": ["::ffff:10.0.0.0/104"]}),
            "written as IPv4",
        ),
        (
            "when.token_age",
            json!({}),
            "when.token_age must be at_most or at_least",
        ),
        (
            "when.parameters",
            test(json!({"pointer": "/a"})),
            "when.parameters[0] must be one of",
        ),
        (
            "when.parameters",
            test(json!({"pointer": "/a", "like": "x", "present": true})),
            "when.parameters[0]",
        ),
        (
            "requests",
            requests,
            "requests[0].at_most must be given with allow",
        ),
        (
            "inherits",
            json!("nobody"),
            "inherits must be a policy that exists",
        ),
        ("inherits", json!("p"), "inherits must be another policy"),
        (
            "cedar",
            json!("permit(principal, action, resource);"),
            "effect must be left out",
        ),
    ] {
        let error = refusal(with(field, value));
        assert!(error.contains(part), "{field}: {error}");
    }
}

#[test]
fn calls_alone_are_counted() {
    for action in ["read", "admin", "reveal"] {
        let limit = json!([{"at_most": 5, "per": "minute", "of": "agent"}]);
        let mut limited = with("requests", limit);
        limited["actions"] = json!(["execute", action]);
        let error = refusal(limited);
        let rule = "actions must be execute alone where requests are counted";
        assert!(error.contains(rule), "{action}: {error}");
    }
}

#[test]
fn a_denial_of_everything_is_meant_as_a_guardrail() {
    let error = refusal(with("effect", json!("deny")));
    assert!(error.contains("guardrail must be true"), "{error}");
    let mut guardrail = with("effect", json!("deny"));
    guardrail["guardrail"] = json!(true);
    compile(&[document(guardrail)]).unwrap();
}

#[test]
fn a_heir_only_narrows() {
    let parent = with("when", json!({"workflow_types": ["Release"]}));
    let heir =
        json!({"name": "heir", "inherits": "p", "band": 900, "when": {"task_queues": ["deploy"]}});
    let grandchild = json!({"name": "grandchild", "inherits": "heir", "who": {"roles": ["admin"]}});
    let engine = engine(&[heir, with("name", json!("other")), grandchild, {
        let mut parent = parent;
        parent["effect"] = json!("allow");
        parent
    }]);
    let heir = engine
        .policies()
        .find(|p| p.reference().name.as_str() == "heir")
        .unwrap();
    assert!(
        heir.text().contains("Release") && heir.text().contains("deploy"),
        "{}",
        heir.text()
    );
    let grandchild = engine
        .policies()
        .find(|p| p.reference().name.as_str() == "grandchild")
        .unwrap();
    assert!(
        grandchild.text().contains("principal in Role::\"admin\""),
        "{}",
        grandchild.text()
    );
    assert!(grandchild.text().contains("Release") && grandchild.text().contains("deploy"));
    assert_eq!(Case::default().answer(&engine), "allowed");
}

#[test]
fn a_cycle_is_refused() {
    let mut a = with("name", json!("a"));
    a["inherits"] = json!("b");
    let mut b = with("name", json!("b"));
    b["inherits"] = json!("a");
    let error = compile(&[document(a), document(b)])
        .unwrap_err()
        .to_string();
    assert!(error.contains("inherits must be another policy"), "{error}");
}

#[test]
fn what_is_stored_is_what_was_written() {
    let window =
        json!([{"zone": "Europe/Berlin", "days": ["mon"], "from": "08:00", "to": "24:00"}]);
    let written = document(with("when.time", window));
    let stored = serde_json::to_string(&written).unwrap();
    assert_eq!(serde_json::from_str::<Document>(&stored).unwrap(), written);
    assert!(!stored.contains("null"), "{stored}");
}
