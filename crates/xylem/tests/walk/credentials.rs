//! Stored credentials.

use crate::installation::{Operator, Server, each, list, seconds, until};
use serde_json::{Value, json};

fn versions(credential: &Value) -> Vec<(u64, &str)> {
    let one = |it: &'_ Value| it["version"].as_u64().expect("a number");
    let all = list(&credential["versions"]).iter();
    all.map(|it| (one(it), it["state"].as_str().expect("a state")))
        .collect()
}

pub(crate) async fn are_stored_and_rotated(admin: &Operator<'_>, server: &Server<'_>) {
    let (installation, publisher) = (server.installation, server.agent("publisher"));
    let (api, first) = (installation.acme.url(), installation.token("stored-1"));
    let add = format!(
        "credential add stored --audience {api} --token-file {first} --rotate-every 1d \
         --expires-in 30d --owner publisher"
    );
    publisher.refused(3, "role admin", &add).await;
    let made = admin.answer(&add).await;
    assert_eq!(
        (&made["owner"], &made["audiences"]),
        (&json!("publisher"), &json!([api]))
    );
    assert_eq!(seconds(&made["createdAt"], &made["rotateDue"]), 86_400);
    let life = seconds(&made["createdAt"], &made["expiresAt"]);
    assert!((30 * 86_400 - 5..=30 * 86_400).contains(&life), "{made}");
    admin.refused(1, "another name", &add).await;

    let bind = "credential bind stored --type ToolTree --slot stored";
    let bound = admin.answer(bind).await;
    let binding = &bound["bindings"][0];
    assert_eq!(
        (&binding["workflowType"], &binding["slot"]),
        (&json!("ToolTree"), &json!("stored"))
    );
    let caller = server.agent("caller");
    let start = "tree start --workflow-id bound --type ToolTree --input {} --no-token";
    let start = caller.answer(&start.replace("{}", "'{}'")).await;
    assert_eq!(each(&start["tokens"], "slot"), ["stored"], "{start}");

    let second = installation.token("stored-2");
    let rotate = format!("credential rotate stored --token-file {second} --expires-in 60d");
    publisher
        .refused(3, "version 1", &format!("{rotate} --if-version 7"))
        .await;
    let rotated = publisher.answer(&format!("{rotate} --if-version 1")).await;
    let (active, before) = ("VERSION_STATE_ACTIVE", "VERSION_STATE_SUPERSEDED");
    assert_eq!(versions(&rotated), [(2, active), (1, before)]);
    let carried = |shown: &Value| shown["trees"] == 1 && shown.get("treesBehind").is_none();
    until(&publisher, "credential show stored", carried).await;
    let told = publisher.told("credential show stored").await;
    assert!(told.contains("ToolTree (stored)"), "{told}");
    assert_eq!(
        each(&publisher.answer("credential list").await, "name"),
        ["stored"]
    );
    are_given_up(admin, &caller).await;
}

async fn are_given_up(admin: &Operator<'_>, caller: &Operator<'_>) {
    let newest = "credential revoke stored --version 2 --wait 0s";
    admin.refused(3, "--force", newest).await;
    let revoke = "credential revoke stored --version 1 --wait 60s --reason 'no more'";
    let revoked = admin.answer(revoke).await;
    assert_eq!(
        revoked["credential"]["versions"][1]["state"],
        "VERSION_STATE_REVOKED"
    );
    admin
        .refused(4, "no such version", "credential revoke stored --version 9")
        .await;
    admin
        .refused(4, "no such credential", "credential show nothing")
        .await;
    let unbound = "credential unbind stored --type Other";
    admin.refused(4, "no such binding", unbound).await;
    let remove = "credential remove stored --reason 'the walk ends'";
    admin.refused(3, "unbind it first", remove).await;
    let unbind = "credential unbind stored --type ToolTree --slot stored";
    let unbound = admin.answer(unbind).await;
    assert_eq!(unbound.get("bindings"), None, "{unbound}");
    admin.refused(3, "tree", remove).await;
    caller
        .answer("tree stop bound --terminate --wait 60s")
        .await;
    let removed = || async {
        let listed = admin.answer("credential show stored").await;
        Ok(listed["trees"].as_u64().unwrap_or(0))
    };
    let none = xylem_testkit::eventually("no tree holds it", removed, |trees| *trees == 0);
    none.await.expect("given up");
    assert_eq!(admin.answer(remove).await["name"], "stored");
    admin.refused(4, "no such credential", remove).await;
}

/// What a file of the control plane's machine gives.
pub(crate) async fn are_obtained(admin: &Operator<'_>) {
    let installation = admin.installation;
    let add = format!(
        "credential add given --audience {} --provider",
        installation.acme.url()
    );
    admin
        .refused(3, "--credential-providers", &format!("{add} nothing"))
        .await;
    let made = admin.answer(&format!("{add} acme-file --revoke-old")).await;
    assert_eq!(made["provider"]["name"], "acme-file");
    assert_eq!(made["provider"]["revokeOld"], true);
    let next = installation.acme.issue("provided-2");
    installation.secret("acme.value", &next);
    let renewed = admin.answer("credential renew given").await;
    assert_eq!(versions(&renewed)[0], (2, "VERSION_STATE_ACTIVE"));
    admin
        .refused(4, "no such credential", "credential renew nothing")
        .await;
}
