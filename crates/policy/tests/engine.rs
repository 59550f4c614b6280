//! How policies decide together.

mod house;

use house::{Case, at, engine, tool};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use xylem_ids::Role;
use xylem_policy::{Action, Approval, ConditionKind, Engine};

fn policy(name: &str, effect: &str, band: u16) -> Value {
    json!({"name": name, "effect": effect, "band": band, "who": {"roles": ["user"]},
           "what": {"tools": ["acme.deploy"]}, "actions": ["execute"]})
}

fn guardrail(name: &str) -> Value {
    let mut document = policy(name, "deny", 1);
    document["band"] = Value::Null;
    document["guardrail"] = json!(true);
    document
}

fn deciding(case: &Case, engine: &Engine) -> String {
    match case.decide(engine) {
        Ok(allowed) => format!("+{}", allowed.by),
        Err(refused) => format!(
            "-{}",
            refused.by.map(|by| by.to_string()).unwrap_or_default()
        ),
    }
}

#[test]
fn nothing_is_allowed_because_nothing_says_otherwise() {
    assert_eq!(Case::default().answer(&engine(&[])), "no_policy");
    let only_denies = engine(&[policy("d", "deny", 5)]);
    assert_eq!(Case::default().answer(&only_denies), "denied_by_policy");
}

#[test]
fn the_highest_band_that_decides_wins() {
    let engine = engine(&[
        policy("low", "deny", 100),
        policy("high", "allow", 200),
        policy("top", "allow", 900),
    ]);
    assert_eq!(deciding(&Case::default(), &engine), "+top@1");
    let mut conditional = policy("top", "deny", 900);
    conditional["when"] = json!({"workflow_types": ["Other"]});
    let engine = house::engine(&[
        policy("low", "deny", 100),
        policy("high", "allow", 200),
        conditional,
    ]);
    assert_eq!(deciding(&Case::default(), &engine), "+high@1");
}

#[test]
fn an_engine_with_one_policy_more_decides_as_one_that_had_it_from_the_start() {
    let when = |mut policy: Value, types: &[&str]| {
        policy["when"] = json!({"workflow_types": types});
        policy
    };
    let had = [
        policy("low", "allow", 100),
        when(policy("top", "deny", 900), &["Other"]),
        when(policy("mid", "allow", 500), &["Release"]),
    ];
    let known = engine(&had);
    assert_eq!(deciding(&Case::default(), &known), "+mid@1");
    for (new, decides) in [
        // A condition that is known, one that is new, another version, and none at all.
        (when(policy("new", "deny", 600), &["Release"]), "-new@1"),
        (when(policy("new", "deny", 600), &["Train"]), "+mid@1"),
        (when(policy("mid", "allow", 500), &["Train"]), "+low@1"),
        (policy("top", "deny", 900), "-top@1"),
        (guardrail("freeze"), "-freeze@1"),
    ] {
        let tried = house::compile(&[house::document(new.clone())]).unwrap();
        let tried = known.with(tried[0].clone()).unwrap();
        assert_eq!(deciding(&Case::default(), &tried), decides, "{new}");
        let others = had.iter().filter(|policy| policy["name"] != new["name"]);
        let all: Vec<Value> = others.cloned().chain([new.clone()]).collect();
        let all = engine(&all);
        assert_eq!(tried.policies().len(), all.policies().len());
        assert_eq!(deciding(&Case::default(), &all), decides);
    }
}

#[test]
fn deny_beats_allow_within_a_band() {
    let engine = engine(&[policy("a", "allow", 500), policy("z", "deny", 500)]);
    assert_eq!(deciding(&Case::default(), &engine), "-z@1");
}

#[test]
fn a_guardrail_holds_over_every_band() {
    let engine = engine(&[policy("a", "allow", 999), guardrail("g")]);
    assert_eq!(deciding(&Case::default(), &engine), "-g@1");
    assert_eq!(Case::default().answer(&engine), "guardrail");
}

#[test]
fn others_agents_tools_tags_and_actions_are_others() {
    let engine = engine(&[policy("a", "allow", 500)]);
    // What is remembered of this one says nothing about them.
    assert!(Case::default().decide(&engine).is_ok());
    for case in [
        Case {
            roles: BTreeSet::new(),
            ..Case::default()
        },
        Case {
            roles: [Role::Admin, Role::Worker].into(),
            ..Case::default()
        },
        Case {
            tool: tool("acme.other", &["build"]),
            ..Case::default()
        },
        Case {
            action: Action::Read,
            ..Case::default()
        },
    ] {
        assert_eq!(case.answer(&engine), "no_policy");
    }
}

#[test]
fn a_refusal_names_what_came_nearest() {
    let mut conditional = policy("night", "allow", 500);
    conditional["when"] = json!({"time": [{"zone": "UTC", "from": "22:00", "to": "06:00"}], "workflow_types": ["Other"], "task_queues": ["deploy"]});
    let refused = Case::default().decide(&engine(&[conditional])).unwrap_err();
    let missed = &refused.missed[0];
    assert_eq!(missed.policy.to_string(), "night@1");
    assert_eq!(
        missed.conditions,
        [ConditionKind::Time, ConditionKind::WorkflowType]
    );
    let text = refused.to_string();
    assert!(text.contains("night@1 (time, workflow_types)"), "{text}");
    assert!(
        !text.contains("Release") && !text.contains("12:00"),
        "{text}"
    );
}

#[test]
fn check_names_the_deciding_policy_and_every_failed_condition() {
    let mut conditional = policy("night", "allow", 700);
    conditional["when"] = json!({"time": [{"zone": "Europe/Berlin", "from": "22:00", "to": "06:00"}],
        "parameters": [{"pointer": "/region", "one_of": ["us-1"]}], "second_factor": true});
    let raw = json!({"name": "raw", "band": 600, "cedar": "permit(principal, action, resource) when { context.second_factor } unless { context.second_factor };"});
    let engine = engine(&[conditional, raw, policy("low", "deny", 100)]);
    let report = Case::default().check(&engine);
    assert_eq!(
        report.decision.unwrap_err().by.unwrap().to_string(),
        "low@1"
    );
    let places: Vec<String> = report
        .findings
        .iter()
        .map(|f| f.place.to_string())
        .collect();
    assert_eq!(places, ["band 700", "band 600", "band 100"]);
    let first = &report.findings[0];
    assert_eq!(first.applies, Some(false));
    let found: Vec<&str> = first
        .conditions
        .iter()
        .filter_map(|c| c.found.as_deref())
        .collect();
    assert_eq!(found, ["wed 12:00 Europe/Berlin", "without", "eu-1"]);
    assert!(first.conditions.iter().all(|c| c.holds == Some(false)));
    let of_raw: Vec<Option<bool>> = report.findings[1]
        .conditions
        .iter()
        .map(|c| c.holds)
        .collect();
    assert_eq!(of_raw, [Some(false), Some(true)]);
    assert_eq!(report.findings[2].applies, Some(true));
}

#[test]
fn what_may_be_seen_does_not_depend_on_the_clock() {
    let mut night = policy("night", "allow", 500);
    night["when"] = json!({"time": [{"zone": "UTC", "from": "22:00", "to": "06:00"}]});
    let case = Case::default();
    assert!(engine(&[night.clone()]).may_see(&case.ask(), |_| Vec::new()));
    assert!(!engine(&[night.clone(), guardrail("g")]).may_see(&case.ask(), |_| Vec::new()));
    assert!(
        !engine(&[night.clone(), policy("d", "deny", 600)]).may_see(&case.ask(), |_| Vec::new())
    );
    assert!(
        engine(&[night.clone(), policy("d", "deny", 400)]).may_see(&case.ask(), |_| Vec::new())
    );
    let mut sometimes = policy("d", "deny", 600);
    sometimes["when"] = json!({"second_factor": false});
    assert!(engine(&[night, sometimes]).may_see(&case.ask(), |_| Vec::new()));
    assert!(!engine(&[]).may_see(&case.ask(), |_| Vec::new()));
}

#[test]
fn what_is_approved_may_be_seen() {
    let case = Case::default();
    let sees = |policies: &[serde_json::Value], action, policy: Option<&str>| {
        engine(policies).may_see(&case.ask(), |ask| {
            let approved = (ask.action == action).then(|| Approval {
                id: "a1".parse().unwrap(),
                policy: policy.map(|name| name.parse().unwrap()),
            });
            approved.into_iter().collect()
        })
    };
    for action in [Action::Read, Action::Execute] {
        assert!(sees(&[], action, None), "{action:?}");
        assert!(
            sees(&[policy("d", "deny", 600)], Action::Read, None),
            "it denies calls"
        );
        assert!(!sees(&[guardrail("g")], Action::Execute, None));
    }
    // Whoever is to ask for an approval has to know of the tool, but not by what it may read then.
    let mut waits = policy("waits", "allow", 500);
    waits["requires_approval"] = json!(true);
    assert!(sees(&[waits.clone()], Action::Admin, None));
    waits["actions"] = json!(["read"]);
    assert!(!sees(&[waits.clone()], Action::Admin, None));
    assert!(!sees(&[waits.clone()], Action::Read, Some("other")));
    assert!(sees(&[waits], Action::Read, Some("waits")));
}

#[test]
fn roles_of_the_schema_are_the_roles() {
    let words: Vec<String> = Role::ALL
        .iter()
        .map(|role| format!("\"{}\"", role.code()))
        .collect();
    let line = format!("entity Role enum [{}];", words.join(", "));
    assert!(xylem_policy::SCHEMA.contains(&line), "{line}");
}

// Random policies and calls, against an evaluation that knows nothing of indexes and Cedar.

#[derive(Debug, Clone)]
struct Simple {
    deny: bool,
    band: Option<u16>,
    agents: Vec<u8>,
    roles: Vec<u8>,
    tools: Vec<u8>,
    tags: Vec<u8>,
    actions: Vec<u8>,
    workflow: Option<u8>,
    region: Option<u8>,
    factor: Option<bool>,
}

const ROLES: [Role; 3] = [Role::User, Role::Admin, Role::Worker];
const ACTIONS: [Action; 3] = [Action::Execute, Action::Read, Action::Admin];

fn simple() -> impl Strategy<Value = Simple> {
    let few = || proptest::collection::vec(0_u8..3, 0..3);
    (
        (
            any::<bool>(),
            proptest::option::weighted(0.8, prop_oneof![Just(100_u16), Just(500), Just(900)]),
        ),
        (few(), few(), few(), few()),
        proptest::collection::vec(0_u8..3, 1..3),
        (
            proptest::option::of(0_u8..2),
            proptest::option::of(0_u8..2),
            proptest::option::weighted(0.3, any::<bool>()),
        ),
    )
        .prop_map(
            |((deny, band), (agents, roles, tools, tags), actions, (workflow, region, factor))| {
                Simple {
                    deny,
                    // A guardrail denies.
                    band: if deny { band } else { band.or(Some(500)) },
                    agents,
                    roles,
                    tools,
                    tags,
                    actions,
                    workflow,
                    region,
                    factor,
                }
            },
        )
}

impl Simple {
    fn json(&self, name: &str) -> Value {
        let list = |prefix: &str, of: &[u8]| {
            of.iter()
                .map(|n| format!("{prefix}{n}"))
                .collect::<Vec<_>>()
        };
        let who = if self.agents.is_empty() && self.roles.is_empty() {
            json!({"anyone": true})
        } else {
            let roles: Vec<&str> = self
                .roles
                .iter()
                .map(|n| ROLES[usize::from(*n)].code())
                .collect();
            json!({"agents": list("agent", &self.agents), "roles": roles})
        };
        let what = if self.tools.is_empty() && self.tags.is_empty() {
            json!({"all": true})
        } else {
            json!({"tools": list("tool", &self.tools), "tags": list("tag", &self.tags)})
        };
        let mut when = json!({});
        if let Some(n) = self.workflow {
            when["workflow_types"] = json!([format!("type{n}")]);
        }
        if let Some(n) = self.region {
            when["parameters"] = json!([{"pointer": "/region", "one_of": [format!("region{n}")]}]);
        }
        if let Some(factor) = self.factor {
            when["second_factor"] = json!(factor);
        }
        // A denial of everything would have to be a guardrail.
        if when == json!({})
            && self.deny
            && who == json!({"anyone": true})
            && what == json!({"all": true})
        {
            when["token_age"] = json!({"at_most": "10years"});
        }
        let actions: Vec<&str> = self
            .actions
            .iter()
            .map(|n| ACTIONS[usize::from(*n)].code())
            .collect();
        json!({"name": name, "effect": if self.deny { "deny" } else { "allow" }, "band": self.band,
               "guardrail": self.band.is_none(), "who": who, "what": what, "actions": actions, "when": when})
    }

    /// Whether it applies, in so many words.
    fn applies(&self, call: &Call) -> bool {
        let who = (self.agents.is_empty() && self.roles.is_empty())
            || self.agents.contains(&call.agent)
            || call.roles.iter().any(|r| self.roles.contains(r));
        let what = (self.tools.is_empty() && self.tags.is_empty())
            || self.tools.contains(&call.tool)
            || call.tags.iter().any(|t| self.tags.contains(t));
        who && what
            && self.actions.contains(&call.action)
            && self.workflow.is_none_or(|n| n == call.workflow)
            && self.region.is_none_or(|n| call.region == n)
            && self.factor.is_none_or(|f| f == call.factor)
    }
}

#[derive(Debug, Clone)]
struct Call {
    agent: u8,
    roles: Vec<u8>,
    tool: u8,
    tags: Vec<u8>,
    action: u8,
    workflow: u8,
    region: u8,
    factor: bool,
}

fn call() -> impl Strategy<Value = Call> {
    let few = || proptest::collection::vec(0_u8..3, 0..3);
    (
        0_u8..3,
        few(),
        0_u8..3,
        few(),
        0_u8..3,
        0_u8..2,
        0_u8..2,
        any::<bool>(),
    )
        .prop_map(
            |(agent, roles, tool, tags, action, workflow, region, factor)| Call {
                agent,
                roles,
                tool,
                tags,
                action,
                workflow,
                region,
                factor,
            },
        )
}

fn naive(policies: &[Simple], call: &Call) -> bool {
    let applies = |band: Option<u16>, deny: bool| {
        policies
            .iter()
            .any(|p| p.band == band && p.deny == deny && p.applies(call))
    };
    if applies(None, true) {
        return false;
    }
    for band in [900, 500, 100] {
        if applies(Some(band), true) {
            return false;
        }
        if applies(Some(band), false) {
            return true;
        }
    }
    false
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_engine_decides_as_words_do(policies in proptest::collection::vec(simple(), 0..8), calls in proptest::collection::vec(call(), 8)) {
        let documents: Vec<Value> = policies.iter().enumerate().map(|(n, p)| p.json(&format!("p{n}"))).collect();
        let engine = engine(&documents);
        for call in calls {
            let tags: Vec<String> = call.tags.iter().map(|n| format!("tag{n}")).collect();
            let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
            let case = Case {
                agent: format!("agent{}", call.agent).parse().unwrap(),
                roles: call.roles.iter().map(|n| ROLES[usize::from(*n)]).collect(),
                tool: tool(&format!("tool{}", call.tool), &tags),
                action: ACTIONS[usize::from(call.action)],
                workflow_type: Some(format!("type{}", call.workflow).parse().unwrap()),
                parameters: Some(json!({"region": format!("region{}", call.region)})),
                second_factor: call.factor,
                ..Case::default()
            };
            let expected = naive(&policies, &call);
            prop_assert_eq!(case.decide(&engine).is_ok(), expected, "{:?} {:?}", call, documents);
            let report = case.check(&engine);
            prop_assert_eq!(&report.decision, &case.decide(&engine));
            let first = report.findings.iter().find(|finding| finding.applies == Some(true));
            let by = first.map(|finding| finding.policy.to_string());
            let decided = match &report.decision {
                Ok(allowed) => Some(allowed.by.to_string()),
                Err(refused) => refused.by.as_ref().map(ToString::to_string),
            };
            prop_assert_eq!(by, decided);
        }
    }
}

#[test]
fn what_is_remembered_of_an_agent_and_a_tool_does_not_outlive_a_condition_or_a_role() {
    let mut day = policy("day", "allow", 500);
    day["when"] = json!({"time": [{"zone": "UTC", "from": "08:00", "to": "18:00"}],
        "parameters": [{"pointer": "/region", "one_of": ["eu-1"]}]});
    let engine = engine(&[day]);
    let noon = Case::default();
    let night = Case {
        now: at("2026-11-18T23:00:00Z"),
        ..noon.clone()
    };
    let elsewhere = Case {
        parameters: Some(json!({"region": "us-1"})),
        ..noon.clone()
    };
    let demoted = Case {
        roles: [Role::Auditor].into(),
        ..noon.clone()
    };
    for _ in 0..2 {
        assert_eq!(noon.answer(&engine), "allowed");
        for other in [&night, &elsewhere, &demoted] {
            assert_eq!(other.answer(&engine), "no_policy");
        }
    }
}
