//! Policies, and access that somebody has to approve.

use crate::installation::{Operator, Server, each, list, seconds};
use serde_json::{Value, json};

/// What the caller may do, and when.
fn policy(more: Value) -> Value {
    let mut policy = json!({
        "name": "walkers",
        "effect": "allow",
        "who": { "agents": ["caller"] },
        "what": { "tools": ["acme.status"] },
        "actions": ["execute"],
    });
    let all = policy.as_object_mut().expect("an object");
    all.extend(more.as_object().expect("an object").clone());
    policy
}

pub(crate) async fn say_who_may_call(server: &Server<'_>, ada: &Operator<'_>) {
    let (installation, caller) = (server.installation, server.agent("caller"));
    let first = installation.write("walkers-1.json", &policy(json!({})).to_string());
    let check = "policy check --tool acme.status";
    // What nobody allows does not exist.
    caller.refused(4, "no such tool", check).await;
    let asked = format!("{check} --agent caller");
    let refused = ada.refused(3, "no_policy", &asked).await;
    let refused: Value = serde_json::from_str(&refused).expect("JSON alone");
    assert_eq!(refused["reason"], "no_policy");
    let tried = format!("{check} --agent caller --with {first}");
    assert_eq!(ada.answer(&tried).await["allowed"], true);

    let add = format!("policy add --file {first}");
    caller.refused(3, "role admin or policy_admin", &add).await;
    let made = ada.answer(&add).await;
    assert_eq!(
        (&made[0]["version"], &made[0]["author"]),
        (&json!(1), &json!("ada"))
    );
    ada.refused(1, "of this name exists", &add).await;
    assert_eq!(caller.answer(check).await["policy"], "walkers@1");
    for (text, says) in [
        ("x", "not JSON"),
        (r#"{"name":"bad","effekt":"allow"}"#, "effekt"),
        (r#"{"name":"bad","effect":"maybe"}"#, "allow or deny"),
    ] {
        let file = installation.write("bad.json", text);
        ada.refused(2, says, &format!("policy add --file {file}"))
            .await;
    }
    hold_as_they_say(server, ada).await;
    are_shown(ada).await;
}

/// Each condition goes by the option of `check` that tells what it is about.
async fn hold_as_they_say(server: &Server<'_>, ada: &Operator<'_>) {
    let installation = server.installation;
    let when = json!({ "when": {
        "time": [{ "zone": "UTC", "days": ["mon"], "from": "08:00", "to": "18:00" }],
        "networks": { "any_of": ["10.0.0.0/8"] },
        "token_age": { "at_most": "1h" },
        "second_factor": true,
        "parameters": [{ "pointer": "/region", "one_of": ["eu-1"] }],
        "workflow_types": ["Release"],
        "task_queues": ["deploys"],
    }});
    let file = installation.write("when.json", &policy(when).to_string());
    let updated = ada
        .answer(&format!("policy update --file {file} --expect 1"))
        .await;
    assert_eq!(updated[0]["version"], 2);
    let stale = format!("policy update --file {file} --expect 1");
    ada.refused(1, "read it again", &stale).await;

    let right = installation.write("right.json", r#"{"region":"eu-1"}"#);
    let wrong = installation.write("wrong.json", r#"{"region":"us-1"}"#);
    let given = [
        (
            "--at 2026-11-23T12:00:00Z".to_owned(),
            "--at 2026-11-22T12:00:00Z".to_owned(),
        ),
        ("--from 10.1.2.3".to_owned(), "--from 192.0.2.1".to_owned()),
        ("--token-age 30m".to_owned(), "--token-age 2h".to_owned()),
        ("--second-factor".to_owned(), String::new()),
        (
            format!("--parameters {right}"),
            format!("--parameters {wrong}"),
        ),
        (
            "--workflow-type Release".to_owned(),
            "--workflow-type Other".to_owned(),
        ),
        ("--queue deploys".to_owned(), "--queue other".to_owned()),
    ];
    let check = |other: usize| {
        let said = given.iter().enumerate();
        let said = said.map(|(at, (right, wrong))| if at == other { wrong } else { right });
        let said: Vec<_> = said.map(String::as_str).collect();
        let about = "policy check --agent caller --tool acme.status --tree train-1";
        format!("{about} {}", said.join(" "))
    };
    assert_eq!(ada.answer(&check(given.len())).await["allowed"], true);
    for wrong in 0..given.len() {
        let refused = ada.refused(3, "it would be refused", &check(wrong)).await;
        let refused: Value = serde_json::from_str(&refused).expect("JSON alone");
        let conditions = list(&refused["findings"][0]["conditions"]).iter();
        let fail: Vec<_> = conditions.filter(|it| it["holds"] != true).collect();
        assert_eq!(fail.len(), 1, "{}: {refused}", check(wrong));
    }
}

async fn are_shown(ada: &Operator<'_>) {
    let shown = ada.answer("policy show walkers --version 1").await;
    assert!(shown["policy"].get("when").is_none(), "{shown}");
    let shown = ada.told("policy show walkers").await;
    assert!(
        shown.contains("walkers@2") && shown.contains("In Cedar"),
        "{shown}"
    );
    let listed = ada.answer("policy list").await;
    assert_eq!(listed[0]["policy"]["name"], "walkers");
    let schema = ada.answer("policy schema").await;
    assert!(
        schema.as_str().expect("text").contains("entity Tool"),
        "{schema}"
    );
    for line in [
        "policy show nothing",
        "policy show walkers --version 9",
        "policy retire nothing",
    ] {
        ada.refused(4, "no such policy", line).await;
    }
    let unknown = "policy check --tool acme.nothing";
    ada.refused(4, "no such tool", unknown).await;
    let unknown = "policy check --tool acme.status --action fly";
    ada.refused(2, "read, execute, admin or reveal", unknown)
        .await;
}

pub(crate) async fn wait_for_approvals(server: &Server<'_>, ada: &Operator<'_>) {
    let (installation, caller) = (server.installation, server.agent("caller"));
    let waits = policy(json!({ "requires_approval": true })).to_string();
    let file = installation.write("waits.json", &waits);
    ada.answer(&format!("policy update --file {file}")).await;
    let check = "policy check --tool acme.status";
    let told = caller.refused(3, "approval_required", check).await;
    assert!(told.contains("walkers@3"), "{told}");

    let ask = "access request --tool acme.status --for 1h --policy walkers --reason 'the walk'";
    let asked = caller.answer(ask).await;
    assert_eq!(
        (&asked["state"], &asked["lasts"]),
        (&json!("pending"), &json!("3600s"))
    );
    assert_eq!(
        (&asked["reason"], &asked["policy"]),
        (&json!("the walk"), &json!("walkers"))
    );
    let id = asked["id"].as_str().expect("an id");
    let pending = ada.answer("access list --pending --agent caller").await;
    assert_eq!(each(&pending, "id"), [id]);
    assert_eq!(list(&ada.answer("access list --agent heir").await).len(), 0);
    let approve = format!("access approve {id} --reason 'it is a walk'");
    caller
        .refused(3, "role admin or policy_admin", &approve)
        .await;
    let admin = installation.admin();
    admin.refused(3, "who made that agent", &approve).await;
    let approved = ada.answer(&approve).await;
    assert_eq!(
        (&approved["state"], &approved["note"]),
        (&json!("approved"), &json!("it is a walk"))
    );
    assert_eq!(seconds(&approved["decidedAt"], &approved["endsAt"]), 3_600);
    assert_eq!(caller.answer(check).await["allowed"], true);
    assert!(
        caller
            .told(&format!("access show {id}"))
            .await
            .contains("decided by ada")
    );
    let heir = server.with_key("heir-2.key");
    heir.refused(4, "no such", &format!("access show {id}"))
        .await;
    are_ended(server, ada, id, ask).await;
}

async fn are_ended(server: &Server<'_>, ada: &Operator<'_>, id: &str, ask: &str) {
    let caller = server.agent("caller");
    let ended = caller
        .answer(&format!("access end {id} --reason over"))
        .await;
    assert_eq!(ended["state"], "ended", "{ended}");
    let again = format!("access reject {id} --reason late");
    ada.refused(3, "ask again", &again).await;
    let next = caller.answer(ask).await;
    let next = next["id"].as_str().expect("an id");
    let rejected = ada
        .answer(&format!("access reject {next} --reason 'not today'"))
        .await;
    assert_eq!(
        (&rejected["state"], &rejected["note"]),
        (&json!("rejected"), &json!("not today"))
    );
    let shown = ada.answer(&format!("access show {next}")).await;
    assert_eq!(shown["decidedBy"], "ada");
    ada.refused(4, "no such", "access show nothing").await;

    // From here on the caller calls without being asked.
    let retired = ada
        .answer("policy retire walkers --expect 3 --reason 'the walk goes on'")
        .await;
    assert_eq!(retired[0]["retired"], true);
    assert_eq!(list(&ada.answer("policy list").await).len(), 0);
    assert_eq!(list(&ada.answer("policy list --all").await).len(), 1);
    let everything = json!([
        { "name": "callers", "effect": "allow", "who": { "agents": ["caller", "heir"] },
          "what": { "all": true }, "actions": ["read", "execute"] },
        { "name": "emergencies", "effect": "allow", "who": { "agents": ["ada"] },
          "what": { "all": true }, "actions": ["reveal"] },
    ]);
    let file = server
        .installation
        .write("callers.json", &everything.to_string());
    assert_eq!(
        list(&ada.answer(&format!("policy add --file {file}")).await).len(),
        2
    );
}
