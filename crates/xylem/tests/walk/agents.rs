//! Agents and their API keys.

use crate::installation::{Operator, Server, each, list, seconds};
use serde_json::json;

const AGENTS: [(&str, &str, &str); 5] = [
    ("ada", "admin", "user"),
    ("caller", "user", "bot"),
    ("heir", "user", "service"),
    ("publisher", "tool-publisher", "service"),
    ("reader", "auditor", "service"),
];

pub(crate) async fn are_registered(admin: &Operator<'_>) {
    for (name, role, kind) in AGENTS {
        let line = format!("agent create {name} --role {role} --kind {kind}");
        let made = admin.answer(&line).await;
        let role = format!("ROLE_{}", role.to_uppercase().replace('-', "_"));
        assert_eq!(
            (&made["name"], &made["roles"]),
            (&json!(name), &json!([role]))
        );
        let kind = format!("AGENT_KIND_{}", kind.to_uppercase());
        assert_eq!(made["kind"], json!(kind));
        admin.refused(1, "another name", &line).await;
    }
    let unknown = "agent create Ada --role user";
    admin.refused(2, "agent must be 1 to 100", unknown).await;
    let unknown = "agent create x --role root";
    admin.refused(2, "possible values: admin", unknown).await;

    let line = "agent update heir --add-role auditor --remove-role user --kind bot";
    let changed = admin.answer(line).await;
    assert_eq!(changed["roles"], json!(["ROLE_AUDITOR"]));
    assert_eq!(changed["kind"], "AGENT_KIND_BOT");
    let back = "agent update heir --add-role user --remove-role auditor --kind service";
    assert!(admin.told(back).await.contains("heir is user"));
    admin.refused(2, "--add-role", "agent update heir").await;
    let nobody = "agent update nobody --add-role user";
    admin.refused(4, "no such agent", nobody).await;

    let shown = admin.answer("agent show publisher").await;
    assert_eq!(shown["roles"], json!(["ROLE_TOOL_PUBLISHER"]));
    admin.refused(4, "no such agent", "agent show nobody").await;
    let listed = admin.answer("agent list").await;
    let names = each(&listed, "name");
    let expected = ["ada", "admin", "caller", "heir", "publisher", "reader"];
    assert_eq!(names, expected);
    assert!(admin.told("agent list").await.contains("tool-publisher"));
}

pub(crate) async fn have_keys(admin: &Operator<'_>, server: &Server<'_>) {
    let installation = server.installation;
    for name in ["caller", "heir", "publisher", "reader"] {
        let file = installation.file(&format!("{name}.key"));
        let line = format!("key create --agent {name} --name '{name} in ci' --ttl 30d --to {file}");
        let made = admin.answer(&line).await;
        assert_eq!(made["file"], json!(file));
        let key = &made["key"];
        assert_eq!(key["agent"], json!(name));
        assert_eq!(key["name"], json!(format!("{name} in ci")));
        assert_eq!(seconds(&key["createdAt"], &key["expiresAt"]), 30 * 86_400);
        let secret = installation.read(&format!("{name}.key"));
        assert!(!made.to_string().contains(&secret));
        installation.keep(&secret);
        admin.refused(2, "not written over", &line).await;
    }
    are_narrowed(admin, server).await;
    are_replaced(admin, server).await;
    for (status, says, line) in [
        (2, "--agent", "key create"),
        (4, "no such agent", "key create --agent nobody"),
        (2, "task_queues", "key create --role worker"),
        (2, "a duration", "key create --agent heir --ttl 30"),
        (4, "no such API key", "key rotate nothing"),
        (4, "no such API key", "key revoke nothing"),
    ] {
        admin.refused(status, says, line).await;
    }
    let caller = server.agent("caller");
    let own = caller.answer("key list").await;
    assert!(
        list(&own).iter().all(|key| key["agent"] == "caller"),
        "{own}"
    );
    let line = "agent create x --role user";
    caller.refused(3, "needs the role admin", line).await;
}

/// A key of few scopes, shown on standard output alone.
async fn are_narrowed(admin: &Operator<'_>, server: &Server<'_>) {
    let create = "key create --agent caller --scope trees:read --network 127.0.0.0/8 --ttl 1h";
    let made = admin.answer(create).await;
    let (key, secret) = (&made["key"], made["secret"].as_str().expect("a key"));
    assert_eq!(key["scopes"], json!(["trees:read"]));
    assert_eq!(key["networks"], json!(["127.0.0.0/8"]));
    assert_eq!(seconds(&key["createdAt"], &key["expiresAt"]), 3_600);
    server.installation.secret("narrow.key", secret);
    let narrow = server.with_key("narrow.key");
    assert_eq!(list(&narrow.answer("tree list").await).len(), 0);
    narrow.refused(3, "scope", "tree stop train-1").await;

    let shown = admin
        .told("key create --agent caller --never-expires")
        .await;
    server.installation.keep(shown.trim());
    assert!(
        shown.starts_with("xyk_") && shown.lines().count() == 1,
        "{shown}"
    );
    let elsewhere = admin.answer("key create --agent caller --network 192.0.2.0/24");
    let elsewhere = elsewhere.await["secret"]
        .as_str()
        .expect("a key")
        .to_owned();
    server.installation.secret("elsewhere.key", &elsewhere);
    let elsewhere = server.with_key("elsewhere.key");
    elsewhere.refused(3, "key_not_valid", "tree list").await;
    let keys = admin.answer("key list --agent caller").await;
    assert_eq!(list(&keys).len(), 4, "{keys}");
    assert!(!keys.to_string().contains(secret));
}

/// A key and the one that takes its place work side by side until the first is revoked.
async fn are_replaced(admin: &Operator<'_>, server: &Server<'_>) {
    let installation = server.installation;
    let keys = admin.answer("key list --agent heir").await;
    let id = keys[0]["id"].as_str().expect("an id");
    let file = installation.file("heir-2.key");
    let line = format!("key rotate {id} --overlap 1h --to {file}");
    let next = admin.answer(&line).await;
    assert_eq!(next["key"]["name"], "heir in ci", "{next}");
    assert_ne!(next["key"]["id"], json!(id));
    installation.keep(&installation.read("heir-2.key"));
    for file in ["heir.key", "heir-2.key"] {
        server.with_key(file).answer("account show").await;
    }
    let keys = admin.answer("key list --agent heir").await;
    let old = list(&keys).iter().find(|key| key["id"] == json!(id));
    let old = old.expect("the first key");
    let left = seconds(&next["key"]["createdAt"], &old["expiresAt"]);
    assert!((3_500..=3_600).contains(&left), "{old}");

    let revoked = admin.answer(&format!("key revoke {id}")).await;
    assert_eq!(revoked["id"], json!(id));
    assert!(revoked["revokedAt"].is_string(), "{revoked}");
    let old = server.with_key("heir.key");
    old.refused(3, "--key-file", "account show").await;
    server.with_key("heir-2.key").answer("account show").await;
    let again = format!("key rotate {id}");
    admin.refused(3, "create another", &again).await;
}

/// They are retired, told what is kept of them, and forgotten.
pub(crate) async fn leave(admin: &Operator<'_>, ada: &Operator<'_>, server: &Server<'_>) {
    let caller = server.agent("caller");
    let own = caller.lines("agent export caller").await;
    assert_eq!(own[0]["record"], "agents", "{:?}", own[0]);
    assert_eq!(own[0]["data"]["name"], "caller");
    assert!(own.iter().any(|line| line["record"] == "api_keys"));
    assert!(own.iter().any(|line| line["record"] == "audit"));
    let heir = "agent export heir";
    caller.refused(4, "no such agent", heir).await;

    let erase = "agent erase heir --yes";
    admin.refused(3, "retire it first", erase).await;
    let retired = admin.answer("agent retire heir").await;
    assert!(retired["retiredAt"].is_string(), "{retired}");
    let gone = server.with_key("heir-2.key");
    gone.refused(3, "not valid", "account show").await;
    let unsure = "agent erase heir";
    admin.refused(2, "--yes", unsure).await;
    assert_eq!(admin.answer(erase).await["name"], "heir");
    let left = admin.lines(heir).await;
    assert!(!left.iter().any(|line| line["record"] == "api_keys"));
    admin
        .refused(4, "no such agent", "agent retire nobody")
        .await;

    let reset = admin.answer("agent reset-second-factor ada").await;
    assert_eq!(reset["agent"], "ada");
    ada.refused(3, "xylem login", "account show").await;
    admin
        .refused(
            4,
            "no such second factor",
            "agent reset-second-factor caller",
        )
        .await;
    // Somebody has to be left who can do that.
    admin.answer("agent retire ada").await;
    admin
        .refused(3, "last administrator", "agent retire admin")
        .await;
}
