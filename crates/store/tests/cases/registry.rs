//! What workflow types declare, on a real database.

use crate::house::{House, namespace, queue, slot};
use xylem_audit::{Entry, Kind, Verdict};
use xylem_registry::{RegistryError, WorkflowDefinition};
use xylem_vault::Clock;

fn entry(house: &House) -> Entry {
    let (now, kind) = (house.clock.now(), Kind::DefinitionsRegistered);
    Entry::new(now, kind, Verdict::Succeeded)
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
            .register_definitions(&namespace(), &queue(on), &[definition], entry(&house))
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

#[tokio::test]
async fn what_types_declare_is_changed_with_its_entry_or_not_at_all() {
    let house = House::new().await;
    let more = WorkflowDefinition {
        workflow_type: "Leaf".parse().unwrap(),
        slots: [slot("default"), slot("github"), slot("more")].into(),
        transit: [].into(),
    };
    let register = async || {
        let (on, namespace) = (queue("trains"), namespace());
        let more = std::slice::from_ref(&more);
        let registered = house
            .registry
            .register_definitions(&namespace, &on, more, entry(&house));
        registered.await
    };
    let before = house.registry.definitions(&namespace()).await.unwrap();
    house.jam("audit").await;
    let refused = register().await;
    assert!(
        matches!(refused, Err(RegistryError::Storage(_))),
        "{refused:?}"
    );
    house.unjam("audit").await;
    let after = house.registry.definitions(&namespace()).await.unwrap();
    assert_eq!(after, before);
    register().await.unwrap();
    let after = house.registry.definitions(&namespace()).await.unwrap();
    assert!(after.contains(&(queue("trains"), more)));
    let written = house.log().await.pop().unwrap().entry;
    assert_eq!(
        (written.kind, written.count),
        (Kind::DefinitionsRegistered, 1)
    );
    assert_eq!(written.subject.unwrap().to_string(), "queue:trains");
}
