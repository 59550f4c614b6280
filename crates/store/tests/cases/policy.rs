//! Policies on a real database: what they decide, what is noticed, what is counted.

use crate::house::{self, Ask, House, namespace, queue};
use std::time::Duration;
use xylem_audit::{Kind, Note, Verdict};
use xylem_ids::PolicyName;
use xylem_policy::{Author, Document, PolicyError, Record};
use xylem_vault::VaultError;

fn document(json: serde_json::Value) -> Document {
    serde_json::from_value(json).unwrap()
}

fn allow(name: &str, band: u16) -> Document {
    document(serde_json::json!({
        "name": name, "effect": "allow", "band": band, "who": {"anyone": true},
        "what": {"tools": ["acme.deploy"]}, "actions": ["execute"],
    }))
}

fn guardrail(name: &str) -> Document {
    document(serde_json::json!({
        "name": name, "effect": "deny", "guardrail": true, "who": {"anyone": true},
        "what": {"tools": ["acme.deploy"]}, "actions": ["execute"],
    }))
}

async fn create(house: &House, document: &Document) -> Record {
    let (namespace, author) = (namespace(), house.author());
    let created = house.policies.create(&namespace, document, &author);
    created.await.unwrap()
}

async fn retire(house: &House, name: &str) -> Result<Record, PolicyError> {
    let (namespace, author) = (namespace(), house.author());
    let name: PolicyName = name.parse().unwrap();
    let retired = house.policies.retire(&namespace, &name, None, &author);
    retired.await
}

async fn reason(house: &House, ask: Ask) -> &'static str {
    house.refused(ask).await.code()
}

#[tokio::test]
async fn no_policy_no_token() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    let ask = Ask::new(&tree, &grant);
    house.redeem(ask.clone()).await.unwrap();
    retire(&house, "everybody").await.unwrap();
    assert_eq!(reason(&house, ask.clone()).await, "no_policy");
    assert_eq!(house.leases().await, 1);
    create(&house, &allow("deploys", 5)).await;
    house.redeem(ask.clone()).await.unwrap();
    create(&house, &guardrail("freeze")).await;
    assert_eq!(reason(&house, ask).await, "guardrail");
}

#[tokio::test]
async fn the_trees_list_narrows_what_policy_allows() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    let ask = Ask::new(&tree, &grant);
    let other = ask.with(|r| r.tool = "git.pull".parse().unwrap());
    assert_eq!(reason(&house, other).await, "tool_of_other_slot");
}

#[tokio::test]
async fn the_owner_decides_not_the_worker() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    let ask = Ask::new(&tree, &grant);
    let owner = house.vault.tree(&tree).await.unwrap().owner;
    retire(&house, "everybody").await.unwrap();
    let mut policy = allow("deploys", 5);
    let who = policy.who.as_mut().unwrap();
    (who.anyone, who.agents) = (false, [house::worker().agent].into());
    assert!(house::worker().agent != owner);
    create(&house, &policy).await;
    assert_eq!(reason(&house, ask.clone()).await, "no_policy");
    let mut policy = allow("deploys-too", 5);
    let who = policy.who.as_mut().unwrap();
    (who.anyone, who.agents) = (false, [owner].into());
    create(&house, &policy).await;
    house.redeem(ask).await.unwrap();
}

#[tokio::test]
async fn facts_of_the_call_decide() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    let ask = Ask::new(&tree, &grant);
    retire(&house, "everybody").await.unwrap();
    let mut policy = allow("deploys", 5);
    policy.when = serde_json::from_value(serde_json::json!({
        "networks": {"any_of": ["10.0.0.0/8"]},
        "token_age": {"at_most": "1h"},
        "workflow_types": ["Leaf"],
        "task_queues": [queue("trains").as_str()],
        "parameters": [{"pointer": "/region", "one_of": ["eu-1"]}],
    }))
    .unwrap();
    create(&house, &policy).await;
    let says = |region: &'static str| {
        let parameters = serde_json::json!({ "region": region });
        ask.clone().with(|r| r.parameters = Some(parameters))
    };
    house.redeem(says("eu-1")).await.unwrap();
    assert_eq!(reason(&house, says("us-1")).await, "no_policy");
    assert_eq!(reason(&house, ask.clone()).await, "no_policy");
    let outside = says("eu-1").with(|r| r.address = Some([192, 0, 2, 1].into()));
    assert_eq!(reason(&house, outside).await, "no_policy");
    house.clock.advance(Duration::from_secs(3601));
    assert_eq!(reason(&house, says("eu-1")).await, "no_policy");
}

#[tokio::test]
async fn the_audit_entry_names_the_policy() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    let ask = Ask::new(&tree, &grant);
    house.redeem(ask.clone()).await.unwrap();
    let granted = house.last_entry().await;
    assert_eq!(granted.policy.unwrap().as_str(), "everybody@1");

    create(&house, &guardrail("freeze")).await;
    let written = house.last_entry().await;
    assert_eq!(
        (written.kind, written.verdict),
        (Kind::PolicyCreated, Verdict::Succeeded)
    );
    assert_eq!(written.subject.unwrap().to_string(), "policy:freeze@1");
    assert_eq!(written.agent, Some(house.author().agent));

    house.refused(ask).await;
    let denied = house.last_entry().await;
    assert_eq!(
        (denied.kind, denied.verdict),
        (Kind::Redeem, Verdict::Denied)
    );
    assert_eq!(denied.reason.unwrap().as_str(), "guardrail");
    assert_eq!(denied.policy.unwrap().as_str(), "freeze@1");
}

#[tokio::test]
async fn versions_follow_each_other() {
    let house = House::new().await;
    let (namespace, author) = (namespace(), house.author());
    let author = Author {
        note: Note::new("for the release"),
        ..author
    };
    let policies = &house.policies;
    create(&house, &allow("deploys", 5)).await;
    let taken = policies
        .create(&namespace, &allow("deploys", 6), &author)
        .await;
    assert!(matches!(taken, Err(PolicyError::Exists)));
    let second = allow("deploys", 6);
    let stale = policies.update(&namespace, &second, Some(7), &author).await;
    assert!(matches!(stale, Err(PolicyError::VersionChanged(1))));
    let updated = policies
        .update(&namespace, &second, Some(1), &author)
        .await
        .unwrap();
    assert_eq!((updated.version, updated.document.band), (2, Some(6)));
    assert!(updated.compiled.contains("permit("), "{}", updated.compiled);
    assert_eq!(house.last_entry().await.note, author.note);

    let name: PolicyName = "deploys".parse().unwrap();
    let first = policies.get(&namespace, &name, Some(1)).await.unwrap();
    assert_eq!(first.document, allow("deploys", 5));
    assert_eq!(
        policies.get(&namespace, &name, None).await.unwrap().version,
        2
    );
    assert!(policies.get(&namespace, &name, Some(3)).await.is_err());

    assert!(retire(&house, "deploys").await.unwrap().retired);
    assert!(matches!(
        retire(&house, "deploys").await,
        Err(PolicyError::Retired)
    ));
    let again = policies
        .update(&namespace, &second, None, &author)
        .await
        .unwrap();
    assert_eq!((again.version, again.retired), (4, false));
    let listed = policies.list(&namespace).await.unwrap();
    let listed: Vec<&str> = listed.iter().map(|r| r.document.name.as_str()).collect();
    assert_eq!(listed, ["deploys", "everybody"]);
}

#[tokio::test]
async fn an_heir_holds_its_parent() {
    let house = House::new().await;
    let (namespace, author) = (namespace(), house.author());
    create(&house, &allow("parent", 5)).await;
    let heir = document(serde_json::json!({"name": "heir", "inherits": "parent", "band": 7}));
    create(&house, &heir).await;
    let error = retire(&house, "parent").await.unwrap_err().to_string();
    assert!(error.contains("heir inherits from it"), "{error}");
    let denies = document(serde_json::json!({
        "name": "parent", "effect": "deny", "who": {"anyone": true}, "what": {"all": true}, "actions": ["execute"],
        "when": {"second_factor": false},
    }));
    house
        .policies
        .update(&namespace, &denies, None, &author)
        .await
        .unwrap();
    let (tree, grant) = house.planted("train").await;
    assert_eq!(
        reason(&house, Ask::new(&tree, &grant)).await,
        "denied_by_policy"
    );
}

#[tokio::test]
async fn an_edited_deleted_or_older_policy_is_noticed() {
    for sql in [
        "UPDATE policies SET document = replace(document, 'deny', 'allow') WHERE name = 'freeze'",
        "UPDATE policies SET retired = 1 WHERE name = 'freeze' AND version = 2",
        "UPDATE policies SET author = 'somebody' WHERE name = 'freeze'",
        "UPDATE policies SET at = at + 1 WHERE name = 'freeze'",
        "UPDATE policies SET name = 'thaw' WHERE name = 'freeze'",
        "UPDATE policies SET seal = (SELECT seal FROM policies WHERE name = 'everybody') WHERE name = 'freeze'",
        "DELETE FROM policies WHERE name = 'freeze'",
        "DELETE FROM policies WHERE name = 'freeze' AND version = 2",
        "INSERT INTO policies SELECT namespace, 'more', version, document, retired, author, at, seal FROM policies WHERE name = 'everybody'",
        "UPDATE policy_sets SET generation = generation + 1",
        "UPDATE policy_sets SET generation = generation - 1",
        "UPDATE policy_sets SET seal = (SELECT seal FROM policies ORDER BY seal LIMIT 1)",
        "DELETE FROM policy_sets",
    ] {
        let house = House::new().await;
        let (tree, grant) = house.planted("train").await;
        create(&house, &guardrail("freeze")).await;
        let (namespace, author) = (namespace(), house.author());
        house
            .policies
            .update(&namespace, &guardrail("freeze"), None, &author)
            .await
            .unwrap();
        house.tamper(sql).await;
        // As after a restart: nothing of it is known.
        let policies = house::policies(&house.store, &house.vault);
        let ask = Ask::new(&tree, &grant);
        let answer = house
            .vault
            .redeem(ask.redemption, &ask.check, &policies)
            .await;
        assert!(
            matches!(answer, Err(VaultError::Tampered(_))),
            "{sql}: {answer:?}"
        );
        assert_eq!(house.leases().await, 0);
        assert_eq!(house.last_entry().await.kind, Kind::Tampered);
    }
}

#[tokio::test]
async fn an_older_set_does_not_come_back_under_a_running_process() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    house
        .tamper("INSERT INTO policy_sets SELECT 'was', generation, seal FROM policy_sets")
        .await;
    create(&house, &guardrail("freeze")).await;
    house
        .tamper("DELETE FROM policies WHERE name = 'freeze'")
        .await;
    house.tamper("UPDATE policy_sets SET generation = was.generation, seal = was.seal FROM policy_sets was WHERE was.namespace = 'was' AND policy_sets.namespace <> 'was'").await;
    let answer = house.redeem(Ask::new(&tree, &grant)).await;
    assert!(matches!(answer, Err(VaultError::Tampered(_))), "{answer:?}");
}

#[tokio::test]
async fn a_change_holds_on_another_instance_at_once() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    let ask = Ask::new(&tree, &grant);
    let other = house::policies(&house.store, &house.vault);
    let redeem = async || {
        let ask = ask.clone();
        house.vault.redeem(ask.redemption, &ask.check, &other).await
    };
    redeem().await.unwrap();
    retire(&house, "everybody").await.unwrap();
    assert!(redeem().await.is_err());
}

#[tokio::test]
async fn counters_and_lease_are_one_transaction() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    let ask = Ask::new(&tree, &grant);
    retire(&house, "everybody").await.unwrap();
    let limited = document(serde_json::json!({
        "name": "limited", "effect": "allow", "who": {"anyone": true}, "what": {"all": true},
        "actions": ["execute"], "requests": [{"at_most": 3, "per": "minute", "of": "agent"}],
    }));
    create(&house, &limited).await;
    // Refused after the policy: the token may not go there. That counts nothing.
    for _ in 0..5 {
        let elsewhere = ask
            .clone()
            .with(|r| r.destination = "https://evil.example".parse().unwrap());
        assert_eq!(reason(&house, elsewhere).await, "other_audience");
    }
    for _ in 0..3 {
        house.redeem(ask.clone()).await.unwrap();
    }
    assert_eq!(reason(&house, ask.clone()).await, "limit_reached");
    assert_eq!(house.leases().await, 3);
    house.clock.advance(Duration::from_secs(60));
    house.redeem(ask.clone()).await.unwrap();
    house.clock.advance(Duration::from_secs(3 * 24 * 3600));
    house.vault.tidy().await.unwrap();
    assert_eq!(house.rows("policy_usage").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_grant_n_together() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    retire(&house, "everybody").await.unwrap();
    let limited = document(serde_json::json!({
        "name": "limited", "effect": "allow", "who": {"anyone": true}, "what": {"all": true},
        "actions": ["execute"], "requests": [{"at_most": 10, "per": "day", "of": "tool"}],
    }));
    create(&house, &limited).await;
    // Two processes: each with a store, a vault and policies of its own.
    let mut planes = Vec::new();
    for _ in 0..2 {
        let (store, vault) = house.opened_beside().await;
        let policies = house::policies(&store, &vault);
        planes.push(std::sync::Arc::new((vault, policies)));
    }
    let mut calls = tokio::task::JoinSet::new();
    for call in 0..40 {
        let plane = planes[call % 2].clone();
        let ask = Ask::new(&tree, &grant);
        calls.spawn(async move {
            let (vault, policies) = &*plane;
            let redeemed = vault.redeem(ask.redemption, &ask.check, policies);
            redeemed.await.is_ok()
        });
    }
    let granted = calls
        .join_all()
        .await
        .into_iter()
        .filter(|granted| *granted)
        .count();
    assert_eq!(granted, 10);
}

/// A retirement comes while calls are made: whoever is granted one decided before it, by the log's
/// own order.
#[tokio::test(flavor = "multi_thread")]
async fn a_retirement_is_raced_and_holds_from_its_entry_on() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    let (store, vault) = house.opened_beside().await;
    let policies = std::sync::Arc::new(house::policies(&store, &vault));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (vault, policies) = (vault.clone(), policies.clone());
        let ask = Ask::new(&tree, &grant);
        calls.spawn(async move {
            let redeemed = vault.redeem(ask.redemption, &ask.check, &policies);
            redeemed.await.is_ok()
        });
    }
    retire(&house, "everybody").await.unwrap();
    calls.join_all().await;
    assert!(house.redeem(Ask::new(&tree, &grant)).await.is_err());
    let log = house.log().await;
    let retired = log
        .iter()
        .position(|it| it.entry.kind == Kind::PolicyRetired);
    let later = log.iter().skip(retired.unwrap());
    let granted =
        later.filter(|it| (it.entry.kind, it.entry.verdict) == (Kind::Redeem, Verdict::Granted));
    assert_eq!(granted.count(), 0);
}
