//! Tools, agents, keys and definitions on a real database.

use crate::house::{HOUR, House, agent, namespace, queue, slot, tool};
use secrecy::ExposeSecret;
use std::{collections::BTreeSet, time::SystemTime};
use xylem_registry::{
    Existing, IssuedKey, NewKey, Registered, RegistryError, Role, Unauthenticated,
    WorkflowDefinition,
};
use xylem_vault::Clock;

fn now(house: &House) -> SystemTime {
    house.clock.now()
}

async fn key(house: &House, role: Role, expires_at: Option<SystemTime>) -> IssuedKey {
    let id = agent(role.code());
    let roles = BTreeSet::from([role]);
    house
        .registry
        .create_agent(&namespace(), id.clone(), roles.clone(), now(house))
        .await
        .unwrap();
    let queues = if role == Role::Worker {
        BTreeSet::from([queue("trains")])
    } else {
        BTreeSet::new()
    };
    let new = NewKey {
        agent: id,
        roles,
        queues,
        expires_at,
    };
    house
        .registry
        .create_key(&namespace(), new, now(house))
        .await
        .unwrap()
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
    let issued = key(&house, Role::Service, None).await;
    let revoked = house
        .registry
        .revoke_key(&other, &issued.key.id, now(&house))
        .await;
    assert!(matches!(revoked, Err(RegistryError::NotFound { .. })));
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
async fn a_key_says_who_is_calling() {
    let house = House::new().await;
    let issued = key(&house, Role::Worker, None).await;
    let secret = issued.secret.expose_secret();
    let caller = house
        .registry
        .authenticate(secret, now(&house))
        .await
        .unwrap();
    assert_eq!(
        (caller.agent(), caller.namespace()),
        (&agent("worker"), &namespace())
    );
    assert!(caller.has(Role::Worker) && !caller.has(Role::Admin));
    assert!(caller.queues().contains(&queue("trains")));
    let listed = house.registry.keys(&namespace(), None, 10).await.unwrap();
    assert_eq!(listed[0].last_used_at, Some(now(&house)));
    let house = house.reopen().await;
    assert!(
        house
            .registry
            .authenticate(secret, now(&house))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn keys_that_are_malformed_unknown_expired_or_revoked_are_refused() {
    let house = House::new().await;
    let issued = key(&house, Role::Service, Some(now(&house) + HOUR)).await;
    let secret = issued.secret.expose_secret().to_owned();
    let refused = async |text: &str| {
        let refused = house.registry.authenticate(text, now(&house)).await;
        refused.unwrap_err().code()
    };
    assert_eq!(refused("").await, "key_malformed");
    assert_eq!(refused(&secret[..secret.len() - 1]).await, "key_malformed");
    let stranger = key(&House::new().await, Role::Service, None).await;
    assert_eq!(
        refused(stranger.secret.expose_secret()).await,
        "key_unknown"
    );
    house.clock.advance(2 * HOUR);
    assert_eq!(refused(&secret).await, "key_expired");
    let id = &issued.key.id;
    let revoked = house
        .registry
        .revoke_key(&namespace(), id, now(&house))
        .await
        .unwrap();
    let again = house
        .registry
        .revoke_key(&namespace(), id, now(&house) + HOUR)
        .await
        .unwrap();
    assert_eq!(again.revoked_at, revoked.revoked_at);
    assert_eq!(refused(&secret).await, "key_revoked");
}

#[tokio::test]
async fn an_edited_key_is_noticed() {
    for sql in [
        "UPDATE api_keys SET roles = '[\"admin\"]'",
        "UPDATE api_keys SET queues = '[\"payments\"]'",
        "UPDATE api_keys SET expires_at = NULL",
        "UPDATE api_keys SET agent = 'somebody'",
        "UPDATE api_keys SET namespace = 'other'",
    ] {
        let house = House::new().await;
        let issued = key(&house, Role::Worker, Some(now(&house) + HOUR)).await;
        house.tamper(sql).await;
        let refused = house
            .registry
            .authenticate(issued.secret.expose_secret(), now(&house))
            .await;
        assert_eq!(refused.unwrap_err().code(), "key_tampered", "{sql}");
    }
}

#[tokio::test]
async fn a_revoked_key_cannot_be_brought_back() {
    let house = House::new().await;
    let issued = key(&house, Role::Service, None).await;
    house
        .registry
        .revoke_key(&namespace(), &issued.key.id, now(&house))
        .await
        .unwrap();
    house.tamper("UPDATE api_keys SET revoked_at = NULL").await;
    let refused = house
        .registry
        .authenticate(issued.secret.expose_secret(), now(&house))
        .await;
    assert!(matches!(
        refused,
        Err(Unauthenticated::NotChecked(RegistryError::Tampered { .. }))
    ));
}

#[tokio::test]
async fn a_key_gets_no_more_than_its_agent_has() {
    let house = House::new().await;
    key(&house, Role::Service, None).await;
    let refused = async |roles: &[Role], queues: &[&str], expires_at| {
        let new = NewKey {
            agent: agent("service"),
            roles: roles.iter().copied().collect(),
            queues: queues.iter().map(|name| queue(name)).collect(),
            expires_at,
        };
        match house
            .registry
            .create_key(&namespace(), new, now(&house))
            .await
        {
            Err(RegistryError::Invalid(invalid)) => invalid.field(),
            other => panic!("not refused: {other:?}"),
        }
    };
    assert_eq!(refused(&[Role::Admin], &[], None).await, "roles");
    assert_eq!(refused(&[], &[], None).await, "roles");
    assert_eq!(refused(&[Role::Service], &["q"], None).await, "queues");
    assert_eq!(
        refused(&[Role::Service], &[], Some(now(&house))).await,
        "expires_at"
    );
    let twice = house
        .registry
        .create_agent(
            &namespace(),
            agent("service"),
            BTreeSet::from([Role::Admin]),
            now(&house),
        )
        .await;
    assert!(matches!(twice, Err(RegistryError::Exists { .. })));
}

#[tokio::test]
async fn no_file_holds_an_api_key() {
    let house = House::new().await;
    let issued = key(&house, Role::Service, None).await;
    let secret = issued.secret.expose_secret();
    house
        .registry
        .authenticate(secret, now(&house))
        .await
        .unwrap();
    for bytes in house.at_rest().await {
        let random = &secret.as_bytes()[4..47];
        assert!(!bytes.windows(random.len()).any(|window| window == random));
    }
    let shown = format!("{issued:?} {:?}", house.registry);
    assert!(!shown.contains(&secret[4..47]));
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
