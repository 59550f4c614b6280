//! Limits and approvals.

mod house;

use house::{Case, engine, tool};
use serde_json::{Value, json};
use std::{collections::HashMap, time::Duration};
use xylem_policy::{Counter, CounterKey, Engine, Usage};

fn limited(name: &str, effect: &str, limit: &Value) -> Value {
    json!({"name": name, "effect": effect, "who": {"anyone": true}, "what": {"all": true},
           "actions": ["execute"], "requests": [limit]})
}

/// Calls at these seconds, as a store would count them; answers whether each was allowed.
fn calls(engine: &Engine, case: &Case, seconds: &[u64]) -> Vec<bool> {
    let mut counters: HashMap<CounterKey, Counter> = HashMap::new();
    let start = case.now;
    let call = |second: &u64| {
        let usage: Usage = counters.clone().into_iter().collect();
        let case = Case {
            now: start + second,
            usage,
            ..case.clone()
        };
        let Ok(allowed) = case.decide(engine) else {
            return false;
        };
        let asked = engine.counters(&case.ask(), case.tree);
        for key in allowed.uses {
            assert!(asked.contains(&key), "{key:?}");
            counters.insert(key.clone(), case.usage.counted(&key, case.now));
        }
        true
    };
    seconds.iter().map(call).collect()
}

#[test]
fn the_first_n_calls_of_a_window_and_no_more() {
    let engine = engine(&[limited(
        "p",
        "allow",
        &json!({"at_most": 3, "per": "minute", "of": "agent"}),
    )]);
    let answers = calls(
        &engine,
        &Case::default(),
        &[0, 10, 20, 30, 59, 60, 61, 62, 63],
    );
    assert_eq!(
        answers,
        [true, true, true, false, false, true, true, true, false]
    );
}

#[test]
fn a_window_begins_with_its_first_call() {
    let engine = engine(&[limited(
        "p",
        "allow",
        &json!({"at_most": 1, "per": "hour", "of": "tree"}),
    )]);
    let answers = calls(&engine, &Case::default(), &[1000, 3600, 4599, 4600]);
    assert_eq!(answers, [true, false, false, true]);
}

#[test]
fn a_denial_counts_what_it_let_pass() {
    let mut guardrail = limited(
        "g",
        "deny",
        &json!({"more_than": 2, "per": "day", "of": "tool"}),
    );
    guardrail["guardrail"] = json!(true);
    let allow = json!({"name": "a", "effect": "allow", "who": {"anyone": true}, "what": {"all": true}, "actions": ["execute"]});
    let engine = engine(&[guardrail, allow]);
    assert_eq!(
        calls(&engine, &Case::default(), &[0, 1, 2, 86_400]),
        [true, true, false, true]
    );
}

#[test]
fn a_full_limit_says_when_to_come_back() {
    let engine = engine(&[limited(
        "p",
        "allow",
        &json!({"at_most": 1, "per": "minute", "of": "agent"}),
    )]);
    let case = Case::default();
    let key = engine.counters(&case.ask(), case.tree).remove(0);
    let counter = Counter {
        started_at: case.now - 20,
        used: 1,
    };
    let case = Case {
        usage: [(key, counter)].into_iter().collect(),
        ..case
    };
    let refused = case.decide(&engine).unwrap_err();
    assert_eq!(refused.reason.code(), "limit_reached");
    assert_eq!(refused.retry_after, Some(Duration::from_secs(40)));
    let report = case.check(&engine);
    assert_eq!(
        report.findings[0].conditions[0].found.as_deref(),
        Some("1 of 1")
    );
    assert_eq!(report.findings[0].applies, Some(false));
}

#[test]
fn a_call_counts_for_every_policy_that_applies() {
    let low = limited(
        "low",
        "allow",
        &json!({"at_most": 9, "per": "day", "of": "agent"}),
    );
    let mut high = limited(
        "high",
        "allow",
        &json!({"at_most": 9, "per": "day", "of": "agent"}),
    );
    high["band"] = json!(900);
    let mut other = limited(
        "other",
        "allow",
        &json!({"at_most": 9, "per": "day", "of": "agent"}),
    );
    other["when"] = json!({"workflow_types": ["Other"]});
    let engine = engine(&[low, high, other]);
    let uses = Case::default().decide(&engine).unwrap().uses;
    let names: Vec<&str> = uses
        .iter()
        .map(|key| key.policy.as_ref().unwrap().as_str())
        .collect();
    assert_eq!(names, ["high", "low"]);
}

#[test]
fn an_approval_opens_its_own_policy_only() {
    let policy = |name: &str| {
        json!({"name": name, "effect": "allow", "requires_approval": true,
        "who": {"anyone": true}, "what": {"all": true}, "actions": ["execute"], "when": {"workflow_types": ["Release"]}})
    };
    let engine = engine(&[policy("p")]);
    assert_eq!(Case::default().answer(&engine), "approval_required");
    assert_eq!(
        Case::default().approve("a1", Some("q")).answer(&engine),
        "approval_required"
    );
    let approved = Case::default().approve("a1", Some("p"));
    assert_eq!(approved.answer(&engine), "allowed");
    let elsewhere = Case {
        workflow_type: Some("Other".parse().unwrap()),
        ..approved
    };
    assert_eq!(elsewhere.answer(&engine), "no_policy");
}

#[test]
fn a_direct_approval_allows_where_nothing_denies() {
    let approved = Case::default().approve("a1", None);
    assert_eq!(
        approved.decide(&engine(&[])).unwrap().by.to_string(),
        "access:a1"
    );
    let denied = json!({"name": "d", "effect": "deny", "band": 1, "who": {"roles": ["user"]}, "what": {"all": true}, "actions": ["execute"]});
    assert_eq!(approved.answer(&engine(&[denied])), "denied_by_policy");
    let admin = Case {
        action: xylem_policy::Action::Admin,
        ..approved
    };
    assert_eq!(admin.answer(&engine(&[])), "no_policy");
}

#[test]
fn calls_of_one_agent_tool_or_tree_are_counted_together_and_others_apart() {
    let case = Case::default();
    let others = [
        Case {
            agent: "other-bot".parse().unwrap(),
            ..case.clone()
        },
        Case {
            tool: tool("acme.list", &[]),
            ..case.clone()
        },
        Case {
            tree: Some("ship"),
            ..case.clone()
        },
    ];
    for (of, together) in [
        ("agent", [false, true, true]),
        ("tool", [true, false, true]),
        ("tree", [true, true, false]),
    ] {
        let limit = json!({"at_most": 1, "per": "hour", "of": of});
        let engine = engine(&[limited("p", "allow", &limit)]);
        let counters = |case: &Case| engine.counters(&case.ask(), case.tree);
        let counted = counters(&case);
        assert_eq!(counted.len(), 1, "{of}");
        let same = others.each_ref().map(|other| counters(other) == counted);
        assert_eq!(same, together, "{of}");
    }
}
