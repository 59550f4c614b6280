//! Tools and definitions on a real database.

use crate::house::{House, namespace, queue, slot, tool};
use std::time::SystemTime;
use xylem_registry::{Existing, Registered, RegistryError, WorkflowDefinition};
use xylem_vault::Clock;

fn now(house: &House) -> SystemTime {
    house.clock.now()
}

#[tokio::test]
async fn a_tool_is_registered_once_and_replaced_only_on_request() {
    let house = House::new().await;
    let register = async |tool, existing| {
        house
            .registry
            .register_tool(&namespace(), &tool, existing, now(&house))
            .await
    };
    let same = register(tool("acme.deploy", "default"), Existing::Refuse).await;
    assert_eq!(same.unwrap(), Registered::Unchanged);
    let other = register(tool("acme.deploy", "github"), Existing::Refuse).await;
    assert!(matches!(other, Err(RegistryError::Exists { .. })));
    let replaced = register(tool("acme.deploy", "github"), Existing::Replace).await;
    assert_eq!(replaced.unwrap(), Registered::Replaced);
    let read = house
        .registry
        .tool(&namespace(), &"acme.deploy".parse().unwrap())
        .await
        .unwrap();
    assert_eq!(read, tool("acme.deploy", "github"));
    let listed = house
        .registry
        .tools(&namespace(), Some(read.name()), 1)
        .await
        .unwrap();
    assert_eq!(listed[0].name().as_str(), "acme.list");
}

#[tokio::test]
async fn another_namespace_finds_nothing() {
    let house = House::new().await;
    let other = "other".parse().unwrap();
    let found = house
        .registry
        .tool(&other, &"acme.deploy".parse().unwrap())
        .await;
    assert!(matches!(
        found,
        Err(RegistryError::NotFound { what: "tool" })
    ));
    assert!(
        house
            .registry
            .tools(&other, None, 10)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn an_edited_tool_is_noticed() {
    let house = House::new().await;
    house
        .tamper("UPDATE tools SET definition = replace(definition, 'api.acme', 'evil') WHERE name = 'acme.list'")
        .await;
    let read = house
        .registry
        .tool(&namespace(), &"acme.list".parse().unwrap())
        .await;
    assert!(matches!(read, Err(RegistryError::Storage(_))));
}

#[tokio::test]
async fn a_definition_replaces_what_its_type_declared_on_its_queue() {
    let house = House::new().await;
    let leaf = |slots: &[&str], transit: &[&str]| WorkflowDefinition {
        workflow_type: "Leaf".parse().unwrap(),
        slots: slots.iter().map(|name| slot(name)).collect(),
        transit: transit.iter().map(|name| slot(name)).collect(),
    };
    let register = async |on: &str, definition: WorkflowDefinition| {
        house
            .registry
            .register_definitions(&namespace(), &queue(on), &[definition])
            .await
    };
    register("trains", leaf(&["default"], &["github"]))
        .await
        .unwrap();
    register("ships", leaf(&[], &[])).await.unwrap();
    let found = house.registry.definitions(&namespace()).await.unwrap();
    assert_eq!(found.len(), 3);
    assert!(found.contains(&(queue("trains"), leaf(&["default"], &["github"]))));
    assert!(found.contains(&(queue("ships"), leaf(&[], &[]))));
    let both = register("trains", leaf(&["default"], &["default"])).await;
    assert!(matches!(both, Err(RegistryError::Invalid(_))));
}
