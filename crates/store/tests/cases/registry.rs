//! What workflow types declare, on a real database.

use crate::house::{House, namespace, queue, slot};
use xylem_registry::{RegistryError, WorkflowDefinition};

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
