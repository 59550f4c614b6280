//! Agents and keys on a real database.

use crate::house::{Ask, HOUR, House, agent, namespace, queue};
use secrecy::ExposeSecret;
use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use xylem_audit::{Entry, Filter, Kind, Log, Verdict};
use xylem_identity::{
    Agent, AgentChange, ApiKey, Federated, IdentityError, IssuedKey, NewAgent, NewKey, Principal,
    SYSTEM, Storage, StorageError, Unauthenticated,
};
use xylem_ids::{AgentKind, Role, Scope, Scopes};
use xylem_policy::Denied;
use xylem_seal::Mac;
use xylem_vault::{Clock, Refusal, VaultError};

fn now(house: &House) -> SystemTime {
    house.clock.now()
}

fn entry(house: &House, kind: Kind) -> Entry {
    Entry::new(now(house), kind, Verdict::Succeeded)
}

fn new_agent(name: &str, roles: &[Role]) -> NewAgent {
    NewAgent {
        id: agent(name),
        kind: AgentKind::Service,
        roles: roles.iter().copied().collect(),
    }
}

async fn create(house: &House, new: NewAgent) -> Result<(), IdentityError> {
    let entry = entry(house, Kind::AgentCreated);
    let created = house.identity.create_agent(&namespace(), new, entry).await;
    created.map(drop)
}

/// A key for the agent of this name.
fn new_key(name: &str) -> NewKey {
    let queues = if name == "worker" {
        BTreeSet::from([queue("trains")])
    } else {
        BTreeSet::new()
    };
    NewKey {
        agent: agent(name),
        name: String::new(),
        scopes: Scopes::All,
        queues,
        networks: Vec::new(),
        expires_at: None,
    }
}

async fn issue(house: &House, new: NewKey) -> Result<IssuedKey, IdentityError> {
    let entry = entry(house, Kind::KeyCreated);
    house.identity.create_key(&namespace(), new, entry).await
}

/// A key for an agent that is named after its one role.
async fn key(house: &House, role: Role) -> IssuedKey {
    create(house, new_agent(role.code(), &[role]))
        .await
        .unwrap();
    issue(house, new_key(role.code())).await.unwrap()
}

async fn present(house: &House, secret: &str) -> Result<Principal, Unauthenticated> {
    house.identity.authenticate(secret, None, now(house)).await
}

async fn refused(house: &House, secret: &str) -> &'static str {
    present(house, secret).await.unwrap_err().code()
}

async fn revoke(house: &House, issued: &IssuedKey) -> SystemTime {
    let entry = entry(house, Kind::KeyRevoked);
    let id = &issued.key.id;
    let revoked = house.identity.revoke_key(&namespace(), id, entry).await;
    revoked.unwrap().revoked_at.unwrap()
}

/// What the entries of this kind are about.
async fn entries(house: &House, kind: Kind) -> Vec<String> {
    let filter = Filter {
        kind: Some(kind),
        ..Filter::default()
    };
    let page = house.store.list(&filter, None, 100).await.unwrap();
    let subjects = page
        .records
        .into_iter()
        .filter_map(|record| record.entry.subject);
    subjects.map(|subject| subject.to_string()).collect()
}

#[tokio::test]
async fn a_key_says_who_is_calling() {
    let house = House::new().await;
    let issued = key(&house, Role::Worker).await;
    let secret = issued.secret.expose_secret();
    let caller = present(&house, secret).await.unwrap();
    assert_eq!(
        (caller.agent(), caller.namespace()),
        (&agent("worker"), &namespace())
    );
    assert!(caller.has(&[Role::Worker]) && !caller.has(&[Role::Admin]));
    assert!(caller.queues().contains(&queue("trains")));
    let listed = house.identity.keys(&namespace(), None, None, 10).await;
    assert_eq!(listed.unwrap()[0].last_used_at, Some(now(&house)));
    let house = house.reopen().await;
    assert!(present(&house, secret).await.is_ok());
}

#[tokio::test]
async fn keys_that_are_malformed_unknown_expired_or_revoked_are_refused() {
    let house = House::new().await;
    create(&house, new_agent("user", &[Role::User]))
        .await
        .unwrap();
    let new = NewKey {
        expires_at: Some(now(&house) + HOUR),
        ..new_key("user")
    };
    let issued = issue(&house, new).await.unwrap();
    let secret = issued.secret.expose_secret().to_owned();
    assert_eq!(refused(&house, "").await, "key_malformed");
    let short = &secret[..secret.len() - 1];
    assert_eq!(refused(&house, short).await, "key_malformed");
    let stranger = key(&House::new().await, Role::User).await;
    assert_eq!(
        refused(&house, stranger.secret.expose_secret()).await,
        "key_unknown"
    );
    house.clock.advance(2 * HOUR);
    assert_eq!(refused(&house, &secret).await, "key_expired");
    let revoked = revoke(&house, &issued).await;
    house.clock.advance(HOUR);
    assert_eq!(revoke(&house, &issued).await, revoked);
    let id = &issued.key.id;
    assert_eq!(
        entries(&house, Kind::KeyRevoked).await,
        [format!("key:{id}")]
    );
    assert_eq!(refused(&house, &secret).await, "key_revoked");
}

#[tokio::test]
async fn a_key_works_from_its_networks_only() {
    let house = House::new().await;
    create(&house, new_agent("user", &[Role::User]))
        .await
        .unwrap();
    let new = NewKey {
        networks: vec![
            "192.0.2.0/24".parse().unwrap(),
            "2001:db8::/32".parse().unwrap(),
        ],
        ..new_key("user")
    };
    let issued = issue(&house, new).await.unwrap();
    let secret = issued.secret.expose_secret();
    let from = async |address: &str| {
        let address = Some(address.parse().unwrap());
        let present = house.identity.authenticate(secret, address, now(&house));
        present
            .await
            .map_or_else(|refused| refused.code(), |_| "in")
    };
    for inside in ["192.0.2.9", "::ffff:192.0.2.9", "2001:db8::1"] {
        assert_eq!(from(inside).await, "in", "{inside}");
    }
    for outside in ["192.0.3.9", "127.0.0.1", "2001:db9::1", "::1"] {
        assert_eq!(from(outside).await, "key_network", "{outside}");
    }
    assert_eq!(refused(&house, secret).await, "key_network");
}

#[tokio::test]
async fn an_edited_key_or_agent_is_noticed() {
    for sql in [
        "UPDATE api_keys SET scopes = NULL",
        "UPDATE api_keys SET queues = '[\"payments\"]'",
        "UPDATE api_keys SET networks = '[\"0.0.0.0/0\"]'",
        "UPDATE api_keys SET expires_at = NULL",
        "UPDATE api_keys SET agent = 'boss'",
        "UPDATE agents SET roles = '[\"admin\"]' WHERE id = 'user'",
        "UPDATE agents SET roles = '[\"operator\"]' WHERE id = 'user'",
        "UPDATE agents SET kind = 'bot' WHERE id = 'user'",
        "UPDATE agents SET seal = (SELECT seal FROM agents WHERE id = 'boss') WHERE id = 'user'",
    ] {
        let house = House::new().await;
        create(&house, new_agent("boss", &[Role::Admin]))
            .await
            .unwrap();
        create(&house, new_agent("user", &[Role::User]))
            .await
            .unwrap();
        let new = NewKey {
            scopes: [Scope::TreesRead].into_iter().collect(),
            expires_at: Some(now(&house) + HOUR),
            ..new_key("user")
        };
        let issued = issue(&house, new).await.unwrap();
        house.tamper(sql).await;
        let secret = issued.secret.expose_secret();
        assert_eq!(refused(&house, secret).await, "key_tampered", "{sql}");
    }
}

#[tokio::test]
async fn a_revoked_key_cannot_be_brought_back() {
    let house = House::new().await;
    let issued = key(&house, Role::User).await;
    revoke(&house, &issued).await;
    house.tamper("UPDATE api_keys SET revoked_at = NULL").await;
    let refused = present(&house, issued.secret.expose_secret()).await;
    assert!(matches!(
        refused,
        Err(Unauthenticated::NotChecked(IdentityError::Tampered { .. }))
    ));
}

#[tokio::test]
async fn a_key_that_only_its_edited_record_says_is_revoked_is_revoked_for_good() {
    let house = House::new().await;
    let issued = key(&house, Role::User).await;
    let secret = issued.secret.expose_secret();
    let checked = async || {
        let stored = house.identity.key(&namespace(), &issued.key.id).await;
        house.identity.checked_key(&stored.unwrap())
    };
    checked().await.unwrap();
    house.tamper("UPDATE api_keys SET revoked_at = 1").await;
    assert!(matches!(
        checked().await,
        Err(IdentityError::Tampered { .. })
    ));
    assert_eq!(revoke(&house, &issued).await, now(&house));
    assert_eq!(entries(&house, Kind::KeyRevoked).await.len(), 1);
    checked().await.unwrap();
    // What made it good again before.
    house.tamper("UPDATE api_keys SET revoked_at = NULL").await;
    assert_eq!(refused(&house, secret).await, "key_tampered");
    for _ in 0..2 {
        revoke(&house, &issued).await;
        assert_eq!(refused(&house, secret).await, "key_revoked");
        assert_eq!(entries(&house, Kind::KeyRevoked).await.len(), 2);
    }
}

/// Why what goes on for long ends at the next look; nothing where it goes on.
async fn ends(house: &House, before: &Principal) -> Option<Unauthenticated> {
    let standing = house.identity.standing(before, None, now(house));
    standing.await.err()
}

#[tokio::test]
async fn what_goes_on_for_long_ends_with_a_key_that_was_brought_back() {
    for sql in [
        "UPDATE api_keys SET revoked_at = NULL",
        "UPDATE api_keys SET revoked_at = NULL, scopes = NULL",
    ] {
        let house = House::new().await;
        let issued = key(&house, Role::Auditor).await;
        let secret = issued.secret.expose_secret();
        let before = present(&house, secret).await.unwrap();
        assert!(ends(&house, &before).await.is_none());
        revoke(&house, &issued).await;
        let why = ends(&house, &before).await;
        assert!(matches!(why, Some(Unauthenticated::Revoked(_))), "{why:?}");
        house.tamper(sql).await;
        let code = ends(&house, &before).await.map(|why| why.code());
        assert_eq!(code, Some("key_tampered"), "{sql}");
    }
}

#[tokio::test]
async fn what_goes_on_for_long_is_not_to_be_asked_again_where_its_agent_was_erased() {
    let house = House::new().await;
    let issued = key(&house, Role::Auditor).await;
    let secret = issued.secret.expose_secret();
    let before = present(&house, secret).await.unwrap();
    retire(&house, "auditor").await.unwrap();
    let entry = entry(&house, Kind::AgentErased);
    let (namespace, agent) = (namespace(), agent("auditor"));
    let erased = house.identity.erase_agent(&namespace, &agent, entry).await;
    erased.unwrap();
    let why = ends(&house, &before).await;
    assert!(matches!(why, Some(Unauthenticated::Unknown)), "{why:?}");
}

#[tokio::test]
async fn what_does_not_go_together_is_refused() {
    let house = House::new().await;
    create(&house, new_agent("user", &[Role::User]))
        .await
        .unwrap();
    let field = |refused: Result<(), IdentityError>| match refused {
        Err(IdentityError::Invalid(invalid)) => invalid.field(),
        other => panic!("not refused: {other:?}"),
    };
    let both = new_agent("both", &[Role::Worker, Role::User]);
    assert_eq!(field(create(&house, both).await), "roles");
    let refused = async |new: NewKey| field(issue(&house, new).await.map(drop));
    let queues = BTreeSet::from([queue("q")]);
    let with_queues = NewKey {
        queues,
        ..new_key("user")
    };
    assert_eq!(refused(with_queues).await, "task_queues");
    let over = NewKey {
        expires_at: Some(now(&house)),
        ..new_key("user")
    };
    assert_eq!(refused(over).await, "expires_at");
    let twice = create(&house, new_agent("user", &[Role::Admin])).await;
    assert!(matches!(twice, Err(IdentityError::Exists { .. })));
    // Whoever were called so would have what belongs to the installation.
    let ours = create(&house, new_agent(SYSTEM, &[])).await;
    assert!(matches!(ours, Err(IdentityError::Invalid(_))), "{ours:?}");
    let nobody = issue(&house, new_key("nobody")).await;
    assert!(matches!(
        nobody,
        Err(IdentityError::NotFound { what: "agent" })
    ));
}

#[tokio::test]
async fn another_namespace_finds_nothing() {
    let house = House::new().await;
    let other = "other".parse().unwrap();
    let issued = key(&house, Role::User).await;
    let entry = entry(&house, Kind::KeyRevoked);
    let revoked = house.identity.revoke_key(&other, &issued.key.id, entry);
    assert!(matches!(revoked.await, Err(IdentityError::NotFound { .. })));
    let agents = house.identity.agents(&other, None, 10).await.unwrap();
    assert!(agents.is_empty());
}

#[tokio::test]
async fn a_change_that_cannot_be_audited_does_not_happen() {
    let house = House::new().await;
    let issued = key(&house, Role::User).await;
    house.tamper("UPDATE audit_head SET seq = seq + 1").await;
    let created = create(&house, new_agent("late", &[Role::User])).await;
    assert!(matches!(created, Err(IdentityError::Storage(_))));
    let found = house.identity.agent(&namespace(), &agent("late")).await;
    assert!(matches!(found, Err(IdentityError::NotFound { .. })));
    let entry = entry(&house, Kind::KeyRevoked);
    let id = &issued.key.id;
    let revoked = house.identity.revoke_key(&namespace(), id, entry).await;
    assert!(matches!(revoked, Err(IdentityError::Storage(_))));
    assert!(present(&house, issued.secret.expose_secret()).await.is_ok());
}

#[tokio::test]
async fn the_time_of_last_use_is_kept_to_the_minute() {
    let house = House::new().await;
    let issued = key(&house, Role::User).await;
    let used = async || {
        present(&house, issued.secret.expose_secret())
            .await
            .unwrap();
        let keys = house.identity.keys(&namespace(), None, None, 10).await;
        keys.unwrap()[0].last_used_at
    };
    let first = used().await;
    house.clock.advance(Duration::from_secs(59));
    assert_eq!(used().await, first);
    house.clock.advance(Duration::from_secs(1));
    assert_eq!(used().await, Some(now(&house)));
}

#[tokio::test]
async fn no_file_holds_an_api_key() {
    let house = House::new().await;
    let issued = key(&house, Role::User).await;
    let secret = issued.secret.expose_secret();
    present(&house, secret).await.unwrap();
    for bytes in house.at_rest().await {
        let random = &secret.as_bytes()[4..47];
        assert!(memchr::memmem::find(&bytes, random).is_none());
    }
    let shown = format!("{issued:?} {:?}", house.identity);
    assert!(!shown.contains(&secret[4..47]));
}

async fn update(house: &House, name: &str, change: AgentChange) -> Result<(), IdentityError> {
    let entry = entry(house, Kind::AgentUpdated);
    let (namespace, id) = (namespace(), agent(name));
    let updated = house.identity.update_agent(&namespace, &id, change, entry);
    updated.await.map(drop)
}

async fn retire(house: &House, name: &str) -> Result<(), IdentityError> {
    let entry = entry(house, Kind::AgentRetired);
    let (namespace, id) = (namespace(), agent(name));
    let retired = house.identity.retire_agent(&namespace, &id, entry);
    retired.await.map(drop)
}

fn remove(role: Role) -> AgentChange {
    AgentChange {
        remove: [role].into(),
        ..AgentChange::default()
    }
}

#[tokio::test]
async fn a_role_that_is_taken_away_is_gone_at_the_next_call() {
    let house = House::new().await;
    create(&house, new_agent("both", &[Role::User, Role::Auditor]))
        .await
        .unwrap();
    let issued = issue(&house, new_key("both")).await.unwrap();
    let secret = issued.secret.expose_secret();
    assert!(present(&house, secret).await.unwrap().has(&[Role::Auditor]));
    update(&house, "both", remove(Role::Auditor)).await.unwrap();
    let principal = present(&house, secret).await.unwrap();
    assert_eq!(principal.roles(), &BTreeSet::from([Role::User]));
    let worker = AgentChange {
        add: [Role::Worker].into(),
        ..AgentChange::default()
    };
    let refused = update(&house, "both", worker).await;
    assert!(matches!(refused, Err(IdentityError::Invalid(_))));
    assert_eq!(entries(&house, Kind::AgentUpdated).await, ["agent:both"]);
}

#[tokio::test]
async fn a_retired_agent_is_out_at_the_next_call_and_stays_out() {
    let house = House::new().await;
    let issued = key(&house, Role::User).await;
    let secret = issued.secret.expose_secret();
    assert!(present(&house, secret).await.is_ok());
    retire(&house, "user").await.unwrap();
    retire(&house, "user").await.unwrap();
    assert_eq!(entries(&house, Kind::AgentRetired).await, ["agent:user"]);
    assert_eq!(refused(&house, secret).await, "agent_retired");
    let change = update(&house, "user", AgentChange::default()).await;
    assert!(matches!(change, Err(IdentityError::Retired)));
    let again = create(&house, new_agent("user", &[Role::User])).await;
    assert!(matches!(again, Err(IdentityError::Exists { .. })));
    let more = issue(&house, new_key("user")).await;
    assert!(matches!(more, Err(IdentityError::Invalid(_))));
    house.tamper("UPDATE agents SET retired_at = NULL").await;
    assert_eq!(refused(&house, secret).await, "key_tampered");
}

#[tokio::test]
async fn the_last_administrator_stays() {
    let house = House::new().await;
    for name in ["one", "two"] {
        create(&house, new_agent(name, &[Role::Admin]))
            .await
            .unwrap();
    }
    retire(&house, "one").await.unwrap();
    let last = |refused| matches!(refused, Err(IdentityError::LastAdministrator));
    assert!(last(retire(&house, "two").await));
    assert!(last(update(&house, "two", remove(Role::Admin)).await));
    create(&house, new_agent("three", &[Role::Admin]))
        .await
        .unwrap();
    update(&house, "two", remove(Role::Admin)).await.unwrap();
}

#[tokio::test]
async fn the_trees_of_a_retired_agent_wait_for_a_new_owner() {
    let house = House::new().await;
    for name in ["service", "heir"] {
        create(&house, new_agent(name, &[Role::User]))
            .await
            .unwrap();
    }
    let (tree, grant) = house.planted("train").await;
    retire(&house, "service").await.unwrap();
    let refused = house.refused(Ask::new(&tree, &grant)).await;
    assert_eq!(refused, Refusal::Policy(Denied::OwnerRetired));
    let entry = entry(&house, Kind::TreeTransferred);
    let transferred = house.vault.transfer(&tree, agent("heir"), entry).await;
    assert_eq!(transferred.unwrap().owner, agent("heir"));
    let noted = house.last_entry().await;
    assert_eq!(noted.tree.as_ref(), Some(&tree));
    assert_eq!(noted.owner, Some(agent("heir")));
    let redeemed = house.redeem(Ask::new(&tree, &grant)).await;
    assert!(redeemed.is_ok());
}

#[tokio::test]
async fn the_trees_of_an_agent_that_somebody_removed_call_nothing() {
    let house = House::new().await;
    create(&house, new_agent("heir", &[Role::User]))
        .await
        .unwrap();
    let (tree, grant) = house.planted("train").await;
    let entry = entry(&house, Kind::TreeTransferred);
    let transferred = house.vault.transfer(&tree, agent("heir"), entry).await;
    transferred.unwrap();
    retire(&house, "heir").await.unwrap();
    // It would be nobody who was ever retired.
    house.tamper("DELETE FROM agents WHERE id = 'heir'").await;
    let redeemed = house.redeem(Ask::new(&tree, &grant)).await;
    assert!(
        matches!(redeemed, Err(VaultError::Tampered(_))),
        "{redeemed:?}"
    );
    assert_eq!(house.leases().await, 0);
}

#[tokio::test]
async fn both_keys_work_during_the_overlap_and_one_after() {
    let house = House::new().await;
    create(&house, new_agent("user", &[Role::User]))
        .await
        .unwrap();
    let new = NewKey {
        scopes: [Scope::Trees].into_iter().collect(),
        expires_at: Some(now(&house) + 30 * HOUR),
        ..new_key("user")
    };
    let old = issue(&house, new).await.unwrap();
    house.clock.advance(HOUR);
    let rotate = async || {
        let entry = entry(&house, Kind::KeyRotated);
        let id = &old.key.id;
        house
            .identity
            .rotate_key(&namespace(), id, 2 * HOUR, None, entry)
            .await
    };
    let new = rotate().await.unwrap();
    assert_eq!(new.key.scopes, old.key.scopes);
    assert_eq!(new.key.expires_at, Some(now(&house) + 30 * HOUR));
    let works = async |issued: &IssuedKey| {
        let secret = issued.secret.expose_secret();
        present(&house, secret).await.is_ok()
    };
    assert!(works(&old).await && works(&new).await);
    house.clock.advance(2 * HOUR);
    assert!(!works(&old).await && works(&new).await);
    assert!(matches!(rotate().await, Err(IdentityError::KeyOver)));
    assert_eq!(entries(&house, Kind::KeyRotated).await.len(), 1);
}

#[tokio::test]
async fn a_key_that_was_revoked_meanwhile_is_not_brought_back() {
    let house = House::new().await;
    let issued = key(&house, Role::User).await;
    let (store, id) = (&house.store, &issued.key.id);
    let read = house.identity.key(&namespace(), id).await.unwrap();
    revoke(&house, &issued).await;
    // Whoever rotates or revokes it has read it before.
    let late = store.replace_key(&read, &read, None, &[]).await;
    assert!(matches!(late, Err(StorageError::Changed)), "{late:?}");
    let successor = ApiKey {
        id: "successor".parse().unwrap(),
        hash: [7; 32],
        ..read.clone()
    };
    let late = store.replace_key(&read, &read, Some(&successor), &[]);
    assert!(matches!(late.await, Err(StorageError::Changed)));
    let kept = house.identity.keys(&namespace(), None, None, 10).await;
    assert_eq!(kept.unwrap().len(), 1, "and no successor is left");
    let secret = issued.secret.expose_secret();
    assert_eq!(refused(&house, secret).await, "key_revoked");
}

#[tokio::test]
async fn the_successor_of_a_key_ends_when_it_is_told_to() {
    let house = House::new().await;
    create(&house, new_agent("user", &[Role::User]))
        .await
        .unwrap();
    let rotate = async |issued: IssuedKey, until| {
        let entry = entry(&house, Kind::KeyRotated);
        let (namespace, id) = (namespace(), issued.key.id);
        let rotated = house
            .identity
            .rotate_key(&namespace, &id, HOUR, until, entry);
        rotated.await.unwrap()
    };
    let soon = Some(now(&house) + HOUR);
    let endless = issue(&house, new_key("user")).await.unwrap();
    let next = rotate(endless, soon).await;
    assert_eq!(next.key.expires_at, soon);
    let late = Some(now(&house) + 2 * HOUR);
    let next = rotate(next, late).await;
    assert_eq!(next.key.expires_at, soon, "it lives as long as it did");
}

fn from_provider(name: &str, issuer: &str, subject: &str) -> Agent {
    Agent {
        namespace: namespace(),
        id: agent(name),
        kind: AgentKind::User,
        roles: [Role::Admin].into(),
        created_at: UNIX_EPOCH + HOUR,
        created_by: None,
        federated: Some(Federated {
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
            issued_at: UNIX_EPOCH + HOUR,
        }),
        retired_at: None,
        seal: Mac([1; 32]),
    }
}

#[tokio::test]
async fn a_subject_of_an_issuer_is_one_agent() {
    let house = House::new().await;
    let (store, namespace) = (&house.store, namespace());
    let one = from_provider("corp-1", "https://a.example", "u-17");
    store.insert_agent(&one, &[]).await.unwrap();
    for (name, issuer, subject, taken) in [
        ("corp-2", "https://a.example", "u-17", true),
        ("corp-1", "https://a.example", "u-18", true),
        ("corp-3", "https://b.example", "u-17", false),
        ("corp-4", "https://a.example", "U-17", false),
    ] {
        let other = from_provider(name, issuer, subject);
        let inserted = store.insert_agent(&other, &[]).await;
        let exists = matches!(inserted, Err(StorageError::Exists));
        assert_eq!(exists, taken, "{name}");
    }
    // Agents that come from no provider are not in each other's way.
    create(&house, new_agent("user", &[Role::User]))
        .await
        .unwrap();
    create(&house, new_agent("boss", &[Role::Admin]))
        .await
        .unwrap();

    let find = async |issuer: &str| {
        let found = store.federated_agent(&namespace, issuer, "u-17").await;
        found.unwrap()
    };
    assert_eq!(find("https://a.example").await, Some(one.clone()));
    assert_eq!(find("https://a.example/").await, None);
    let mut newer = one.clone();
    newer.roles = [Role::User].into();
    newer.seal = Mac([2; 32]);
    newer.federated.as_mut().unwrap().issued_at += HOUR;
    store.replace_agent(&one, &newer, false, &[]).await.unwrap();
    assert_eq!(find("https://a.example").await, Some(newer.clone()));
    // Whoever read it before that comes too late.
    let late = store.replace_agent(&one, &newer, false, &[]).await;
    assert!(matches!(late, Err(StorageError::Changed)));

    // Nobody who comes from a provider is the administrator that has to stay.
    let boss = house
        .identity
        .agent(&namespace, &agent("boss"))
        .await
        .unwrap();
    let entry = entry(&house, Kind::AgentRetired);
    let retired = house
        .identity
        .retire_agent(&namespace, &boss.id, entry)
        .await;
    assert!(matches!(retired, Err(IdentityError::LastAdministrator)));
}
