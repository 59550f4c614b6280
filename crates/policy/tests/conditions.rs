//! Every condition: valid for both effects, and what it says when a fact is missing.

mod house;

use house::{Case, at, engine};
use serde_json::{Value, json};

/// A policy for everybody and everything with one condition.
fn policy(effect: &str, when: &Value) -> Value {
    json!({"name": "p", "effect": effect, "who": {"anyone": true}, "what": {"all": true},
           "actions": ["read", "execute", "admin", "reveal"], "when": when})
}

/// Whether the condition holds, as an allowance and as a denial sees it.
fn holds(when: &Value, case: &Case) -> (bool, bool) {
    let allows = engine(&[policy("allow", when)]);
    let everybody = json!({"name": "q", "effect": "allow", "band": 1, "who": {"anyone": true},
                           "what": {"all": true}, "actions": ["execute"]});
    let denies = engine(&[policy("deny", when), everybody]);
    (
        case.answer(&allows) == "allowed",
        case.answer(&denies) == "denied_by_policy",
    )
}

fn parameter(test: Value) -> Value {
    json!({"parameters": [test]})
}

#[test]
fn each_condition_holds_or_not_for_both_effects() {
    let case = Case {
        signed_in: Some(100),
        second_factor: true,
        ..Case::default()
    };
    for (when, expected) in [
        (
            json!({"time": [{"zone": "Europe/Berlin", "from": "08:00", "to": "18:00"}]}),
            true,
        ),
        (
            json!({"time": [{"zone": "Asia/Tokyo", "from": "08:00", "to": "18:00"}]}),
            false,
        ),
        (
            json!({"time": [{"zone": "Asia/Tokyo", "from": "08:00", "to": "18:00"},
                         {"zone": "UTC", "days": ["wed"], "from": "10:59", "to": "11:01"}]}),
            true,
        ),
        (json!({"networks": {"any_of": ["10.0.0.0/8"]}}), true),
        (
            json!({"networks": {"any_of": ["fd00::/8", "192.168.0.0/16"]}}),
            false,
        ),
        (
            json!({"networks": {"any_of": ["10.0.0.0/8"], "none_of": ["10.1.0.0/16"]}}),
            false,
        ),
        (json!({"networks": {"none_of": ["10.2.0.0/16"]}}), true),
        (json!({"token_age": {"at_most": "1h"}}), true),
        (json!({"token_age": {"at_least": "2h"}}), false),
        (
            json!({"signed_in": {"at_most": "5m", "at_least": "1m"}}),
            true,
        ),
        (json!({"second_factor": true}), true),
        (json!({"second_factor": false}), false),
        (
            parameter(json!({"pointer": "/region", "one_of": ["eu-1", "eu-2"]})),
            true,
        ),
        (
            parameter(json!({"pointer": "/region", "none_of": ["eu-1"]})),
            false,
        ),
        (
            parameter(json!({"pointer": "/region", "like": "eu-*"})),
            true,
        ),
        (
            parameter(json!({"pointer": "/region", "like": "us-*"})),
            false,
        ),
        (parameter(json!({"pointer": "/amount", "at_most": 5})), true),
        (
            parameter(json!({"pointer": "/amount", "at_least": 6})),
            false,
        ),
        (
            parameter(json!({"pointer": "/amount", "at_least": i64::MIN, "at_most": i64::MAX})),
            true,
        ),
        (
            parameter(json!({"pointer": "/amount", "one_of": ["5"]})),
            true,
        ),
        (
            parameter(json!({"pointer": "/region", "present": true})),
            true,
        ),
        (
            parameter(json!({"pointer": "/missing", "present": false})),
            true,
        ),
        (json!({"workflow_types": ["Release"]}), true),
        (json!({"workflow_types": ["Sync"]}), false),
        (json!({"task_queues": ["deploy", "other"]}), true),
    ] {
        assert_eq!(holds(&when, &case), (expected, expected), "{when}");
    }
}

#[test]
fn unknown_facts_never_help() {
    let nothing = Case {
        tree: None,
        workflow_type: None,
        task_queue: None,
        parameters: None,
        token_age: None,
        address: None,
        signed_in: None,
        ..Case::default()
    };
    for when in [
        json!({"networks": {"any_of": ["0.0.0.0/0"]}}),
        json!({"networks": {"none_of": ["10.0.0.0/8"]}}),
        json!({"token_age": {"at_most": "1h"}}),
        json!({"token_age": {"at_least": "1h"}}),
        json!({"signed_in": {"at_most": "1h"}}),
        parameter(json!({"pointer": "/region", "one_of": ["eu-1"]})),
        parameter(json!({"pointer": "/region", "none_of": ["eu-1"]})),
        parameter(json!({"pointer": "/region", "like": "*"})),
        parameter(json!({"pointer": "/amount", "at_most": 5})),
        parameter(json!({"pointer": "/region", "present": true})),
        parameter(json!({"pointer": "/region", "present": false})),
        json!({"workflow_types": ["Release"]}),
        json!({"task_queues": ["deploy"]}),
    ] {
        assert_eq!(holds(&when, &nothing), (false, true), "{when}");
    }
}

#[test]
fn a_number_sent_as_text_does_not_pass_a_denial() {
    let when = parameter(json!({"pointer": "/amount", "at_least": 1000}));
    for (sent, expected) in [
        (json!({"amount": 5}), (false, false)),
        (json!({"amount": 5000}), (true, true)),
        (json!({"amount": 5e3}), (true, true)),
        (json!({"amount": "5"}), (false, true)),
        (json!({"amount": 5.5}), (false, true)),
        (json!({}), (false, false)),
    ] {
        let case = Case {
            parameters: Some(sent.clone()),
            ..Case::default()
        };
        assert_eq!(holds(&when, &case), expected, "{sent}");
    }
}

#[test]
fn a_parameter_that_is_left_out_is_none_of_those_for_a_denial_only() {
    let case = Case {
        parameters: Some(json!({})),
        ..Case::default()
    };
    let none_of = parameter(json!({"pointer": "/region", "none_of": ["eu-1"]}));
    assert_eq!(holds(&none_of, &case), (false, true));
    let one_of = parameter(json!({"pointer": "/region", "one_of": ["eu-1"]}));
    assert_eq!(holds(&one_of, &case), (false, false));
}

#[test]
fn a_window_over_midnight_belongs_to_the_day_it_begins() {
    let when = json!({"time": [{"zone": "UTC", "days": ["fri"], "from": "22:00", "to": "06:00"}]});
    for (moment, expected) in [
        ("2026-11-20T21:59:59Z", false),
        ("2026-11-20T22:00:00Z", true),
        ("2026-11-21T05:59:59Z", true),
        ("2026-11-21T06:00:00Z", false),
        ("2026-11-21T22:30:00Z", false),
        ("2026-11-20T03:00:00Z", false),
    ] {
        let case = Case {
            now: at(moment),
            ..Case::default()
        };
        assert_eq!(holds(&when, &case), (expected, expected), "{moment}");
    }
}

#[test]
fn daylight_saving_days_have_23_and_25_hours() {
    let when = json!({"time": [{"zone": "Europe/Berlin", "days": ["sun"], "from": "00:00", "to": "24:00"}]});
    let hours = |from: &str| {
        let start = at(from);
        let inside = |hour: &u64| {
            holds(
                &when,
                &Case {
                    now: start + hour * 3600,
                    ..Case::default()
                },
            )
            .0
        };
        (0..30).filter(inside).count()
    };
    assert_eq!(hours("2026-03-28T22:30:00Z"), 23);
    assert_eq!(hours("2026-10-24T21:30:00Z"), 25);
}

#[test]
fn ipv4_mapped_addresses_are_ipv4() {
    let when = json!({"networks": {"any_of": ["10.0.0.0/8"]}});
    let case = Case {
        address: Some("::ffff:10.1.2.3"),
        ..Case::default()
    };
    assert_eq!(holds(&when, &case), (true, true));
    let case = Case {
        address: Some("::10.1.2.3"),
        ..Case::default()
    };
    assert_eq!(holds(&when, &case), (false, false));
}
