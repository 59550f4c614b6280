//! What is kept about an agent: handed out, and erased.

use crate::common::{Stack, id};
use futures::StreamExt;
use serde_json::Value;
use xylem_client::{Client, Error, v1};
use xylem_ids::Role;

async fn exported(client: &Client, name: &str) -> Result<Vec<Value>, Error> {
    let lines = client.export_agent_data(&id(name)).await?;
    let lines: Vec<_> = lines.collect().await;
    let read = |line: Result<String, Error>| {
        let line: Value = serde_json::from_str(&line?).expect("a line of JSON");
        Ok(line)
    };
    lines.into_iter().map(read).collect()
}

async fn entries(client: &Client, action: &str) -> Vec<v1::AuditEntry> {
    let request = v1::ListAuditRequest {
        filter: Some(v1::AuditFilter {
            action: action.into(),
            ..v1::AuditFilter::default()
        }),
        ..v1::ListAuditRequest::default()
    };
    client.list_audit(request).await.expect("a list").entries
}

#[tokio::test]
async fn everybody_exports_their_own_data_and_administrators_everybodys() {
    let stack = Stack::start().await;
    let key = stack.key_for(Role::User, "maria").await;
    let maria = Client::connect(&stack.address, &key)
        .await
        .expect("a client");
    stack.key_for(Role::User, "other").await;
    stack.tree("train").await;
    let foreign = exported(&maria, "other").await;
    assert!(matches!(foreign, Err(Error::NotFound(_))), "{foreign:?}");

    maria
        .list_api_keys(v1::ListApiKeysRequest::default())
        .await
        .expect("keys");
    exported(&maria, "maria").await.expect("which is an entry");
    let own = exported(&maria, "maria").await.expect("their own");
    let records: Vec<_> = own
        .iter()
        .map(|line| line["record"].as_str().unwrap())
        .collect();
    assert_eq!(records[..2], ["agents", "api_keys"], "{records:?}");
    assert_eq!(own[0]["data"]["name"], "maria");
    assert!(
        own[1]["data"]["created_at"]
            .as_str()
            .unwrap()
            .ends_with('Z'),
        "{own:?}"
    );
    let entries_of: Vec<_> = own
        .iter()
        .filter(|line| line["record"] == "audit")
        .collect();
    assert!(!entries_of.is_empty(), "that it was asked for before");
    let text = serde_json::to_string(&own).expect("text");
    assert!(!text.contains("train"), "another's tree: {text}");

    let admin = stack.admin().await;
    exported(&admin, "maria").await.expect("an administrator");
    let asked = entries(&admin, "agent_data_exported").await;
    let asked: Vec<_> = asked
        .iter()
        .map(|entry| (&*entry.agent, &*entry.subject))
        .collect();
    let both = |by| (by, "agent:maria");
    assert_eq!(asked, ["maria", "maria", "admin"].map(both));
    let nobody = exported(&admin, "nobody").await;
    assert!(matches!(nobody, Err(Error::NotFound(_))), "{nobody:?}");
}

#[tokio::test]
async fn an_agent_is_erased_once_it_is_retired_and_the_log_stays_intact() {
    let stack = Stack::start().await;
    let key = stack.key_for(Role::User, "maria").await;
    let maria = Client::connect(&stack.address, &key)
        .await
        .expect("a client");
    exported(&maria, "maria")
        .await
        .expect("an entry with an address");
    let admin = stack.admin().await;
    let own = maria.erase_agent(&id("maria")).await;
    assert!(matches!(own, Err(Error::Denied(_))), "{own:?}");
    let active = admin
        .erase_agent(&id("maria"))
        .await
        .expect_err("not retired");
    assert_eq!(active.reason(), Some("agent_not_retired"));
    let before = entries(&admin, "agent_data_exported").await.remove(0);
    assert!(!before.address.is_empty() && !before.erased, "{before:?}");

    admin.retire_agent(&id("maria")).await.expect("retired");
    let erased = admin.erase_agent(&id("maria")).await.expect("erased");
    assert_eq!((&*erased.name, erased.roles.len()), ("maria", 0));
    let after = entries(&admin, "agent_data_exported").await.remove(0);
    assert!(after.address.is_empty() && after.erased, "{after:?}");
    let said = entries(&admin, "agent_erased").await.remove(0);
    assert_eq!((&*said.agent, &*said.subject), ("admin", "agent:maria"));
    let rest = exported(&admin, "maria").await.expect("what is left");
    let left: Vec<_> = rest
        .iter()
        .filter(|line| line["record"] != "audit")
        .collect();
    assert_eq!(left.len(), 1, "its name: {left:?}");

    let checked = admin.verify_audit().await.expect("a verification");
    let last = checked
        .collect::<Vec<_>>()
        .await
        .pop()
        .expect("a last word");
    let found = last.expect("no error").result.expect("a result");
    assert!(found.intact, "{found:?}");
}
