//! Trees and their tokens.

use crate::{
    accounts,
    installation::{Operator, Server, each, list, seconds, until},
};
use serde_json::{Value, json};

pub(crate) async fn grow(server: &Server<'_>) {
    let (installation, caller) = (server.installation, server.agent("caller"));
    let calls = json!({ "steps": [{ "tool": "acme.status" }], "pauseMs": 300 });
    let mut input = calls.clone();
    input["children"] = json!([{ "name": "a", "node": calls }]);
    let input = installation.write("tree.json", &input.to_string());
    let (token, api) = (installation.token("v1"), installation.acme.url());
    let start = format!(
        "tree start --workflow-id train-1 --type ToolTree --input-file {input} --tool acme.status \
         --audience {api} --token-file {token} --ttl 12h"
    );
    let started = caller.answer(&start).await;
    assert_eq!(started["id"]["workflowId"], "train-1");
    assert_eq!(
        (&started["startedBy"], &started["tools"]),
        (&json!("caller"), &json!(["acme.status"]))
    );
    let deposited = &started["tokens"][0];
    assert_eq!(deposited["audiences"], json!([api]));
    assert_eq!(
        seconds(&deposited["depositedAt"], &deposited["expiresAt"]),
        12 * 3_600
    );
    caller.refused(1, "already_running", &start).await;
    let unknown = start
        .replace("acme.status", "acme.nothing")
        .replace("train-1", "train-2");
    caller.refused(4, "acme.nothing", &unknown).await;

    let looks = caller.lines("tree watch train-1 --interval 100ms").await;
    let last = looks.last().expect("a look");
    assert_eq!(last["converged"], true, "{last}");
    let shown = until(&caller, "tree show train-1", |view| {
        list(&view["nodes"]).len() == 2
    })
    .await;
    assert_eq!(
        each(&shown["nodes"], "workflowId"),
        ["train-1", "train-1/a"]
    );
    let listed = caller.answer("tree list --limit 1").await;
    assert_eq!(list(&listed).len(), 1);
    for line in [
        "tree show nothing",
        "tree watch nothing",
        "tree stop nothing",
    ] {
        caller.refused(4, "no such", line).await;
    }
    // What is another's does not exist.
    let heir = server.with_key("heir-2.key");
    for line in [
        "tree show train-1",
        "tree stop train-1",
        "tree allow train-1 acme.status",
        "token status train-1",
        "token reissue train-1",
        "token rollback train-1",
        "token revoke train-1 --version 1",
    ] {
        heir.refused(4, "no such tree", line).await;
    }
}

fn orders(versions: &Value) -> Vec<(u64, &str)> {
    let order = |it: &'_ Value| it["order"]["version"].as_u64().expect("a number");
    let mut all: Vec<_> = list(versions)
        .iter()
        .map(|it| (order(it), it["state"].as_str().expect("a state")))
        .collect();
    all.sort_unstable();
    all
}

pub(crate) async fn change_their_tokens(server: &Server<'_>) {
    let (installation, caller) = (server.installation, server.agent("caller"));
    let second = installation.token("v2");
    let rotate = format!("token rotate train-1 --token-file {second} --ttl 1h --wait");
    let rotated = caller.answer(&rotate).await;
    assert_eq!(rotated["cascade"]["converged"], true, "{rotated}");
    let version = &rotated["change"]["version"];
    assert_eq!(
        seconds(&version["depositedAt"], &version["expiresAt"]),
        3_600
    );
    let reissued = caller.answer("token reissue train-1 --ttl 2h --wait").await;
    let longer = &reissued["change"]["version"];
    let life = seconds(&version["depositedAt"], &longer["expiresAt"]);
    assert!((7_200..7_260).contains(&life), "{reissued}");
    let back = caller
        .answer("token rollback train-1 --version 1 --wait")
        .await;
    assert_eq!(back["change"]["version"]["order"]["version"], 3, "{back}");

    let status = caller.answer("token status train-1").await;
    let (active, before) = ("VERSION_STATE_ACTIVE", "VERSION_STATE_SUPERSEDED");
    assert_eq!(orders(&status), [(1, before), (2, before), (3, active)]);
    let newest = "token revoke train-1 --version 3 --wait 0s";
    caller.refused(3, "--force", newest).await;
    // A lease whose release was lost lasts 45 s.
    let revoke = "token revoke train-1 --version 2 --wait 60s --reason 'no more'";
    caller.answer(revoke).await;
    let unknown = "token revoke train-1 --version 9";
    caller.refused(4, "no such", unknown).await;

    let third = installation.token("v3");
    let set = format!("token set train-1 --slot spare --token-file {third}");
    caller.refused(2, "--audience", &set).await;
    let set = format!("{set} --audience {}", installation.acme.url());
    let set = caller.answer(&set).await;
    assert_eq!(set["version"]["slot"], "spare");
    let status = caller.answer("token status train-1 --slot spare").await;
    assert_eq!(orders(&status), [(1, active)]);
    let status = caller.answer("token status train-1 --slot default").await;
    assert_eq!(orders(&status)[1], (2, "VERSION_STATE_REVOKED"));
    let told = caller.told("token status train-1").await;
    assert!(told.contains("spare"), "{told}");
    caller
        .refused(
            3,
            "rotate to a new token",
            "token rollback train-1 --slot spare",
        )
        .await;
    caller
        .refused(4, "no such", "token reissue train-1 --slot nothing")
        .await;
}

pub(crate) async fn show_a_token_in_an_emergency(
    admin: &Operator<'_>,
    ada: &Operator<'_>,
    server: &Server<'_>,
) {
    let installation = server.installation;
    let to = installation.file("revealed.token");
    let reveal = format!("token reveal train-1 --reason 'incident 4711' --to {to}");
    admin.refused(3, "second factor", &reveal).await;
    ada.refused(3, "second factor", &reveal).await;
    let (_, codes) = accounts::enrol(ada).await;
    let password = installation.file("second");
    let login = format!("login ada --password-file {password} --code {}", codes[0]);
    ada.answer(&login).await;
    let piped = "token reveal train-1 --reason 'incident 4711'";
    ada.refused(2, "--to", piped).await;
    let revealed = ada.answer(&reveal).await;
    assert_eq!(
        (&revealed["slot"], &revealed["file"]),
        (&json!("default"), &json!(to))
    );
    assert_eq!(revealed["order"]["version"], 3);
    assert_eq!(
        installation.read("revealed.token"),
        installation.read("v1.token")
    );
    ada.refused(2, "not written over", &reveal).await;
}

pub(crate) async fn end(admin: &Operator<'_>, server: &Server<'_>) {
    let caller = server.agent("caller");
    let allowed = caller
        .answer("tree allow train-1 --withdraw acme.status")
        .await;
    assert_eq!(allowed.get("tools"), None, "{allowed}");
    let allowed = caller.told("tree allow train-1 acme.status").await;
    assert_eq!(allowed, "train-1 may call acme.status\n");
    caller
        .refused(4, "acme.nothing", "tree allow train-1 acme.nothing")
        .await;
    caller.refused(2, "TOOL", "tree allow train-1").await;

    let transfer = "tree transfer train-1 --to heir";
    caller.refused(3, "role admin", transfer).await;
    admin
        .refused(4, "no such agent", "tree transfer train-1 --to nobody")
        .await;
    assert_eq!(admin.answer(transfer).await["startedBy"], "heir");
    caller.refused(4, "no such tree", "tree show train-1").await;
    let heir = server.with_key("heir-2.key");
    let stop = "tree stop train-1 --reason 'the walk ends' --wait 60s";
    let stopped = heir.answer(stop).await;
    assert_eq!(stopped.get("stillRunning"), None, "{stopped}");
    let shown = heir.answer("tree show train-1 --closed").await;
    assert_eq!(shown["tree"]["state"], "TREE_STATE_STOPPED");
}
