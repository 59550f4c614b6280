//! The examples of the documentation do what it says.

mod house;

use house::{Case, at, compile};
use xylem_ids::Role;
use xylem_policy::{Action, By, Document, Engine, Resource};

fn examples() -> Vec<Document> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/examples");
    let files = std::fs::read_dir(folder).unwrap();
    let read = |file: std::fs::DirEntry| std::fs::read_to_string(file.path()).unwrap();
    files
        .map(|file| serde_json::from_str(&read(file.unwrap())).unwrap())
        .collect()
}

#[test]
fn the_examples_compile_validate_and_decide() {
    let engine = Engine::new(compile(&examples()).unwrap()).unwrap();
    assert_eq!(engine.policies().len(), 7);

    let case = Case::default();
    let Ok(allowed) = case.decide(&engine) else {
        panic!("office hours allow it")
    };
    assert_eq!(allowed.by.to_string(), "build-in-office-hours@1");
    assert_eq!(allowed.uses.len(), 2, "{:?}", allowed.uses);

    let approved = Case::default().approve("a1", Some("deploy-prod-eu-1"));
    let by = approved.decide(&engine).unwrap().by;
    assert!(
        matches!(&by, By::Policy(policy) if policy.name.as_str() == "deploy-prod-eu-1"),
        "{by}"
    );

    let sunday = Case {
        now: at("2026-11-22T12:00:00Z"),
        ..approved
    };
    assert_eq!(sunday.answer(&engine), "guardrail");

    let evening = Case {
        now: at("2026-11-18T20:00:00Z"),
        ..Case::default()
    };
    assert_eq!(evening.answer(&engine), "approval_required");

    let mut publisher = Case {
        agent: "publisher".parse().unwrap(),
        address: None,
        ..Case::default()
    };
    assert_eq!(
        publisher.decide(&engine).unwrap().by.to_string(),
        "own-tools@1"
    );
    publisher.agent = "somebody".parse().unwrap();
    assert_eq!(publisher.answer(&engine), "no_policy");
}

#[test]
fn a_secret_is_shown_to_who_just_proved_who_it_is() {
    let engine = Engine::new(compile(&examples()).unwrap()).unwrap();
    let case = Case {
        roles: [Role::Admin].into(),
        second_factor: true,
        signed_in: Some(60),
        ..Case::default()
    };
    let tools = [case.tool.clone()];
    let resource = Resource::Credential {
        id: "train/default",
        tools: &tools,
    };
    let ask = xylem_policy::Ask {
        action: Action::Reveal,
        resource,
        ..case.ask()
    };
    assert!(engine.decide(&ask, &case.facts()).is_ok());
    let late = Case {
        signed_in: Some(600),
        ..case.clone()
    };
    assert!(engine.decide(&ask, &late.facts()).is_err());
    let without = Case {
        second_factor: false,
        ..case.clone()
    };
    assert!(engine.decide(&ask, &without.facts()).is_err());
}
