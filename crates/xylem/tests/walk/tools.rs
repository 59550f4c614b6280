//! Tools: proposed by the one, approved by another.

use crate::installation::{Operator, Server, each, list};
use serde_json::{Value, json};

fn pinned(tool: &Value) -> &str {
    &tool["hash"].as_str().expect("a hash")[..12]
}

pub(crate) async fn are_proposed_and_approved(server: &Server<'_>, ada: &Operator<'_>) {
    let (publisher, api) = (server.agent("publisher"), server.installation.acme.url());
    let add = format!(
        "tool add --name acme.status --base-url {api} --path /v1/status --description 'How it is' \
         --tag walk --timeout 20s --rate-limit 6000/minute"
    );
    let proposed = publisher.answer(&add).await;
    let proposed = &proposed[0];
    assert_eq!(proposed["state"], "TOOL_STATE_PROPOSED");
    assert_eq!(
        (&proposed["path"], &proposed["timeout"]),
        (&json!("/v1/status"), &json!("20s"))
    );
    assert_eq!(
        proposed["rateLimit"],
        json!({ "calls": 6_000, "per": "minute" })
    );
    assert_eq!(proposed["tags"], json!(["walk"]));
    // The same again is answered with what there is; another tool of this name is refused.
    assert_eq!(publisher.answer(&add).await[0], *proposed);
    let other = add.replace("How it is", "How it was");
    publisher.refused(1, "another name", &other).await;
    publisher.refused(2, "--file", "tool add").await;
    let plain = "tool add --name acme.plain --base-url http://api.acme.example --path /";
    publisher.refused(2, "base_url must be https", plain).await;
    let approve = format!("tool approve acme.status --hash {}", pinned(proposed));
    publisher
        .refused(3, "role admin or policy_admin", &approve)
        .await;
    // A service is its administrator's: what that one says for itself is said by who published it.
    server
        .installation
        .admin()
        .refused(3, "another person", &approve)
        .await;

    let rejected = ada
        .answer("tool reject acme.status --reason 'says too little'")
        .await;
    assert_eq!(rejected["state"], "TOOL_STATE_REJECTED");
    let update = "tool update --name acme.status --description 'Tells how the API is'";
    let updated = publisher.answer(update).await;
    assert_eq!(updated[0]["timeout"], "20s", "what is not given stays");
    ada.refused(2, "xylem tool show", &approve).await;
    let approve = format!("tool approve acme.status --hash {}", pinned(&updated[0]));
    let approved = ada.answer(&approve).await;
    assert_eq!(approved["state"], "TOOL_STATE_APPROVED");
    are_changed(server, ada).await;
}

async fn are_changed(server: &Server<'_>, ada: &Operator<'_>) {
    let publisher = server.agent("publisher");
    let staged = "tool update --name acme.status --description Later --staged";
    assert_eq!(
        publisher.answer(staged).await[0]["state"],
        "TOOL_STATE_STAGED"
    );
    let reverted = publisher.answer("tool revert acme.status").await;
    assert_eq!(reverted["state"], "TOOL_STATE_APPROVED");
    assert_eq!(reverted["description"], "Tells how the API is");
    publisher
        .refused(4, "no such tool", "tool update --name acme.nothing --tag x")
        .await;

    let versions = publisher.answer("tool versions acme.status").await;
    let decisions = each(&versions, "decision");
    assert!(
        decisions.contains(&"approved") && decisions.contains(&"rejected"),
        "{versions}"
    );
    let rejected = list(&versions)
        .iter()
        .find(|it| it["decision"] == "rejected");
    let rejected = rejected.expect("the first one");
    assert_eq!(rejected["reason"], "says too little");
    assert_eq!(rejected["decidedBy"], "ada");
    let number = rejected["version"].as_u64().expect("a number");
    let shown = format!("tool show acme.status --version {number}");
    assert_eq!(ada.answer(&shown).await["description"], "How it is");
    let shown = ada.told("tool show acme.status").await;
    assert!(shown.contains("calls at most  6000 per minute"), "{shown}");
    for (line, names) in [
        ("tool list --tag walk", &["acme.status"][..]),
        (
            "tool list how API --state approved --owner publisher",
            &["acme.status"],
        ),
        ("tool list --state proposed", &[]),
        ("tool list nothing", &[]),
        ("tool list --owner reader", &[]),
    ] {
        assert_eq!(each(&ada.answer(line).await, "name"), names, "{line}");
    }
    for line in ["tool show acme.nothing", "tool versions acme.nothing"] {
        publisher.refused(4, "no such tool", line).await;
    }
}

const DOCUMENT: &str = r#"
openapi: 3.1.0
info: { title: Ping, version: "1" }
servers: [{ url: "URL" }]
paths:
  /v1/ping:
    get: { operationId: ping, responses: { "200": { description: It is there. } } }
    trace: { operationId: trace, responses: { "200": { description: It is there. } } }
components: { securitySchemes: { token: { type: http, scheme: bearer } } }
security: [{ token: [] }]
"#;

pub(crate) async fn are_imported(server: &Server<'_>, ada: &Operator<'_>) {
    let installation = server.installation;
    let publisher = server.agent("publisher");
    let document = DOCUMENT.replace("URL", &installation.acme.url());
    let file = installation.write("ping.yaml", &document);
    let import = format!("tool import {file} --prefix api --tag imported --slot spare");
    let tried = publisher.answer(&format!("{import} --dry-run")).await;
    assert_eq!(each(&tried["tools"], "name"), ["api.ping"]);
    assert_eq!(each(&tried["leftOut"], "operation"), ["TRACE /v1/ping"]);
    let unmet = publisher
        .told(&format!("{import} --dry-run --only pong"))
        .await;
    assert!(
        unmet.contains("pong: the document has no such operation"),
        "{unmet}"
    );
    publisher
        .refused(4, "no such tool", "tool show api.ping")
        .await;

    let imported = publisher.answer(&import).await;
    assert_eq!(imported["tools"][0]["outcome"], "IMPORT_OUTCOME_NEW");
    let shown = publisher.answer("tool show api.ping").await;
    assert_eq!(
        (&shown["slot"], &shown["tags"]),
        (&json!("spare"), &json!(["imported"]))
    );
    let piped = publisher.giving(&document);
    let again = piped
        .answer("tool import - --prefix api --tag imported --slot spare")
        .await;
    assert_eq!(again["tools"][0]["outcome"], "IMPORT_OUTCOME_UNCHANGED");
    publisher
        .refused(1, "nowhere.yaml", "tool import nowhere.yaml --prefix api")
        .await;
    let inner = "tool import http://127.0.0.1:9/openapi.json --prefix api";
    publisher.refused(2, "loopback", inner).await;

    let approve = format!("tool approve api.ping --hash {}", pinned(&shown));
    ada.answer(&approve).await;
    publisher
        .refused(3, "retire it first", "tool delete api.ping")
        .await;
    let retired = publisher.answer("tool retire api.ping --stop-calls").await;
    assert_eq!(retired["state"], "TOOL_STATE_RETIRED");
    assert_eq!(retired["callsStopped"], true);
    assert_eq!(
        publisher.answer("tool delete api.ping").await["name"],
        "api.ping"
    );
    publisher
        .refused(4, "no such tool", "tool show api.ping")
        .await;
}
