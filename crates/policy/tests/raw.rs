//! Policies in Cedar: what is refused before and after it is parsed.

mod house;

use house::{Case, compile, document, engine, refusal};
use serde_json::{Value, json};

fn raw(text: &str) -> Value {
    json!({"name": "raw", "cedar": text})
}

fn when(condition: &str) -> String {
    format!("permit(principal, action == Action::\"execute\", resource) when {{ {condition} }};")
}

/// On a stack as workers have it.
fn on_a_worker<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().stack_size(2 * 1024 * 1024);
        worker.spawn_scoped(scope, work).unwrap().join().unwrap()
    })
}

#[test]
fn deep_text_is_refused_before_it_is_parsed() {
    for text in [
        when(&format!("{}true{}", "(".repeat(300), ")".repeat(300))),
        when(&format!("{}1{} == 1", "[".repeat(300), "]".repeat(300))),
        when(&format!("1{} == 1", "+1".repeat(2000))),
        when(&format!("true{}", "&&true".repeat(1000))),
        when(&format!(
            "{}true{}",
            "if true then ".repeat(300),
            " else true".repeat(300)
        )),
        when(&format!("context{} == 1", ".a".repeat(1000))),
        when(&format!("{}true", "!".repeat(4000))),
        when(&" ".repeat(9000)),
        when("true // \u{202e}"),
        when("\u{0} == 1"),
    ] {
        let error = on_a_worker(|| refusal(raw(&text)));
        assert!(error.starts_with("cedar must be at most"), "{error}");
    }
}

#[test]
fn brackets_in_strings_and_comments_are_not_counted() {
    let text = when(&format!(
        "\"{}\\\"\" != \"x\" // {}\n",
        "(".repeat(400),
        "(".repeat(400)
    ));
    engine(&[raw(&text)]);
}

#[test]
fn the_deepest_accepted_policy_is_evaluated_on_2_mib() {
    let chain = |links: usize| {
        when(&format!(
            "context.second_factor{}",
            " || context.second_factor".repeat(links)
        ))
    };
    let deepest = (1..200)
        .take_while(|links| compile(&[document(raw(&chain(*links)))]).is_ok())
        .last()
        .unwrap();
    let engine = engine(&[raw(&chain(deepest))]);
    let case = Case {
        second_factor: false,
        ..Case::default()
    };
    assert_eq!(on_a_worker(|| case.answer(&engine)), "no_policy");
    let error = refusal(raw(&chain(deepest + 1)));
    assert!(error.contains("64 levels"), "{error}");
}

#[test]
fn the_largest_plain_policy_is_compiled_and_evaluated_on_2_mib() {
    let nets: Vec<String> = (0..64).map(|n| format!("10.{n}.0.0/16")).collect();
    let windows: Vec<Value> = (0..10).map(|n| json!({"zone": "UTC", "days": ["mon", "wed"], "from": format!("{n:02}:00"), "to": "03:30"})).collect();
    let names: Vec<String> = (0..100).map(|n| format!("agent-{n}")).collect();
    let policy = json!({"name": "p", "effect": "deny", "who": {"agents": names}, "what": {"all": true}, "actions": ["execute"],
        "when": {"networks": {"any_of": nets}, "time": windows}});
    let case = Case {
        agent: "agent-7".parse().unwrap(),
        ..Case::default()
    };
    assert_eq!(
        on_a_worker(|| case.answer(&engine(&[policy]))),
        "denied_by_policy"
    );
}

#[test]
fn a_policy_that_can_never_apply_is_refused() {
    for text in [when("false"), when("principal is Tool")] {
        let error = refusal(raw(&text));
        assert!(
            error.contains("can apply") || error.contains("valid"),
            "{error}"
        );
    }
}

#[test]
fn what_the_schema_does_not_know_is_refused() {
    for text in [
        when("principal in Role::\"root\""),
        when("context.nothing == 1"),
        when("context.address.isInRange(ip(\"10.0.0.0/8\"))"),
        "permit(principal == User::\"a\", action, resource);".to_owned(),
    ] {
        let error = refusal(raw(&text));
        assert!(error.contains("valid against the schema"), "{error}");
    }
}

#[test]
fn templates_unknown_zones_computed_keys_and_bare_context_are_refused() {
    for (text, part) in [
        (
            "permit(principal == ?principal, action, resource);".to_owned(),
            "without ?slots",
        ),
        (
            when("context.moment.hasTag(\"Europe/Nowhere\")"),
            "time zones",
        ),
        (
            when("context.moment.hasTag(\"europe/berlin\")"),
            "time zones",
        ),
        (
            when("context has tree && context.moment.hasTag(context.tree)"),
            "literals",
        ),
        (
            when("context has parameters && context.parameters.hasTag(\"region\")"),
            "JSON pointers",
        ),
        (when("context == context"), "not the whole"),
        (
            when("true); permit(principal, action, resource"),
            "one policy in Cedar",
        ),
    ] {
        let error = refusal(raw(&text));
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn an_error_does_not_quote_the_text_and_says_where() {
    let error = refusal(raw(
        "permit(principal, action, resource)\nwhen { secret-token };",
    ));
    assert!(!error.contains("secret"), "{error}");
    assert!(error.contains("line 2, column"), "{error}");
}

#[test]
fn effect_and_gates_go_together() {
    let mut guardrail = raw("permit(principal, action, resource);");
    guardrail["guardrail"] = json!(true);
    assert!(refusal(guardrail).contains("guardrail must be left out"));
    let mut approved = raw("forbid(principal, action, resource);");
    approved["requires_approval"] = json!(true);
    assert!(refusal(approved).contains("requires_approval must be left out"));
}

#[test]
fn an_overflow_is_an_error_not_an_answer() {
    let overflow =
        "context has token_age_seconds && context.token_age_seconds * 9223372036854775807 > 0";
    let allows = engine(&[raw(&when(overflow))]);
    assert_eq!(Case::default().answer(&allows), "policy_broken");
    let denies = when(overflow).replace("permit", "forbid");
    let everybody = json!({"name": "q", "effect": "allow", "band": 1, "who": {"anyone": true},
                           "what": {"all": true}, "actions": ["execute"]});
    let denies = engine(&[raw(&denies), everybody.clone()]);
    assert_eq!(Case::default().answer(&denies), "policy_broken");
    let beside = engine(&[raw(&when(overflow)), everybody]);
    assert_eq!(Case::default().answer(&beside), "allowed");
}

#[test]
fn parameters_and_zones_that_the_text_names_are_known() {
    let text = when(
        "context has parameters && context.parameters.hasTag(\"/region\") \
         && context.parameters.getTag(\"/region\") == \"eu-1\" \
         && context.moment.hasTag(\"Europe/Berlin\") && context.moment.getTag(\"Europe/Berlin\").weekday == \"wed\" \
         && context.now > datetime(\"2026-01-01\")",
    );
    assert_eq!(Case::default().answer(&engine(&[raw(&text)])), "allowed");
}

#[test]
fn every_attribute_that_the_text_names_is_known() {
    let second_factor = Case {
        second_factor: true,
        signed_in: Some(60),
        ..Case::default()
    };
    for condition in [
        "context.now > datetime(\"2026-01-01\")",
        "context.moment.hasTag(\"Europe/Berlin\")",
        "context.second_factor",
        "context has address && context.address.isInRange(ip(\"10.0.0.0/8\"))",
        "context has parameters && context.parameters.hasTag(\"/region\")",
        "context has numbers && context.numbers.hasTag(\"/amount\") && context.numbers.getTag(\"/amount\") == 5",
        "context has signed_in_seconds && context.signed_in_seconds == 60",
        "context has token_age_seconds && context.token_age_seconds == 3600",
        "context has tree && context.tree == \"train\"",
        "context has workflow_type && context.workflow_type == \"Release\"",
        "context has task_queue && [\"deploy\"].contains(context.task_queue)",
    ] {
        let engine = engine(&[raw(&when(condition))]);
        assert_eq!(second_factor.answer(&engine), "allowed", "{condition}");
    }
}
