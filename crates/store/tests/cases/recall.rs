//! What is remembered holds only while nothing has changed: on whichever instance, whoever changed it.

use crate::house::{self, House, agent, namespace};
use secrecy::{ExposeSecret, SecretString};
use std::{sync::Arc, time::Duration};
use xylem_audit::{Entry, Kind, Verdict};
use xylem_identity::{
    AgentChange, Identity, IssuedKey, NewAgent, NewKey, Principal, Secrets, Storage,
    Unauthenticated,
};
use xylem_ids::{AgentKind, Role, Scopes};
use xylem_policy::{Action, Facts, Policies, Question, ToolFacts, Usage};
use xylem_recall::Revision;
use xylem_store::Store;
use xylem_vault::{Clock, Room, Vault};

/// One control plane's part of it.
struct Instance {
    store: Arc<Store>,
    identity: Identity,
    policies: Policies,
}

impl Instance {
    fn new(store: &Arc<Store>, vault: &Vault) -> Self {
        let secrets = Secrets::new(&vault.subkey(Room::Identity).unwrap()).unwrap();
        Self {
            identity: Identity::new(store.clone(), secrets),
            policies: house::policies(store, vault),
            store: store.clone(),
        }
    }

    async fn revision(&self) -> Revision {
        Storage::revision(&*self.store).await.unwrap()
    }

    async fn present(&self, house: &House, key: &IssuedKey) -> Result<Principal, Unauthenticated> {
        let (secret, now) = (key.secret.expose_secret(), house.clock.now());
        self.identity.authenticate(secret, None, now).await
    }

    /// Why the key is refused.
    async fn refuses(&self, house: &House, key: &IssuedKey) -> &'static str {
        self.present(house, key).await.unwrap_err().code()
    }

    /// Whether the agent may deploy.
    async fn allows(&self, who: &str) -> bool {
        let (agent, tool) = (agent(who), deploy());
        let question = Question {
            agent: &agent,
            action: Action::Execute,
            tool: &tool,
            facts: Facts {
                now: 1_800_000_000,
                tree: None,
                workflow_type: None,
                task_queue: None,
                parameters: None,
                token_age: None,
                address: None,
                signed_in: None,
                second_factor: false,
                usage: &Usage::default(),
                approvals: &[],
            },
        };
        let (here, at) = (namespace(), self.revision().await);
        let report = self.policies.check(&here, &question, None, at).await;
        let allowed = report.unwrap().decision.is_ok();
        let tools = [deploy()];
        let visible = self
            .policies
            .visible(&here, &agent, &tools, 1_800_000_000, at)
            .await;
        if self.revision().await == at {
            assert_eq!(visible.unwrap(), [allowed]);
        }
        allowed
    }
}

fn deploy() -> ToolFacts {
    ToolFacts {
        name: "acme.deploy".parse().unwrap(),
        tags: [].into(),
        origin: "https://api.acme.example".to_owned(),
        method: "POST".to_owned(),
        owner: None,
    }
}

async fn two(house: &House) -> (Instance, Instance) {
    let (store, vault) = house.opened_beside().await;
    let here = Instance::new(&house.store, &house.vault);
    (here, Instance::new(&store, &vault))
}

fn entry(house: &House, kind: Kind) -> Entry {
    Entry::new(house.clock.now(), kind, Verdict::Succeeded)
}

async fn key(house: &House, name: &str) -> IssuedKey {
    let new = NewAgent {
        id: agent(name),
        kind: AgentKind::Service,
        roles: [Role::User].into(),
    };
    let (here, identity) = (namespace(), &house.identity);
    let created = identity.create_agent(&here, new, entry(house, Kind::AgentCreated));
    created.await.unwrap();
    let new = NewKey {
        agent: agent(name),
        name: String::new(),
        scopes: Scopes::All,
        queues: [].into(),
        networks: Vec::new(),
        expires_at: None,
    };
    let issued = identity.create_key(&here, new, entry(house, Kind::KeyCreated));
    issued.await.unwrap()
}

async fn revoke(house: &House, key: &IssuedKey) {
    let (here, entry) = (namespace(), entry(house, Kind::KeyRevoked));
    let revoked = house.identity.revoke_key(&here, &key.key.id, entry);
    revoked.await.unwrap();
}

#[tokio::test]
async fn a_key_that_one_instance_revokes_is_refused_by_the_next_request_to_another() {
    let house = House::new().await;
    let (_, there) = two(&house).await;
    let (one, other) = (key(&house, "one").await, key(&house, "other").await);
    for key in [&one, &other, &one] {
        there.present(&house, key).await.unwrap();
    }
    revoke(&house, &one).await;
    assert_eq!(there.refuses(&house, &one).await, "key_revoked");
    assert!(there.present(&house, &other).await.is_ok());
}

#[tokio::test]
async fn roles_and_retirement_count_at_once_everywhere() {
    let house = House::new().await;
    let (_, there) = two(&house).await;
    let key = key(&house, "one").await;
    let before = there.present(&house, &key).await.unwrap();
    assert!(before.has(&[Role::User]));
    let auditor = AgentChange {
        add: [Role::Auditor].into(),
        remove: [Role::User].into(),
        ..AgentChange::default()
    };
    let (here, name) = (namespace(), agent("one"));
    let updated = entry(&house, Kind::AgentUpdated);
    let updated = house.identity.update_agent(&here, &name, auditor, updated);
    updated.await.unwrap();
    let after = there.present(&house, &key).await.unwrap();
    assert!(after.has(&[Role::Auditor]) && !after.has(&[Role::User]));
    let retired = entry(&house, Kind::AgentRetired);
    let retired = house.identity.retire_agent(&here, &name, retired);
    retired.await.unwrap();
    assert_eq!(there.refuses(&house, &key).await, "agent_retired");
}

/// The token names its key, and is remembered by itself.
#[tokio::test]
async fn an_access_token_that_one_instance_revokes_is_refused_by_another() {
    let house = House::new().await;
    let (here, there) = two(&house).await;
    let (key, now) = (key(&house, "one").await, house.clock.now());
    let (id, secret) = (key.key.id.to_string(), key.secret.expose_secret());
    let exchange = || here.identity.exchange(&id, secret, None, None, now);
    let (one, other) = (
        exchange().await.unwrap().text,
        exchange().await.unwrap().text,
    );
    let present = async |token: &SecretString| {
        let text = token.expose_secret();
        there.identity.authenticate(text, None, now).await
    };
    for token in [&one, &other, &one] {
        present(token).await.unwrap();
    }
    let (namespace, entry) = (namespace(), entry(&house, Kind::TokenRevoked));
    let revoked = house.identity.revoke_token(&namespace, &one, entry);
    revoked.await.unwrap();
    assert_eq!(present(&one).await.unwrap_err().code(), "token_revoked");
    present(&other).await.unwrap();
    revoke(&house, &key).await;
    assert_eq!(present(&other).await.unwrap_err().code(), "key_revoked");
}

#[tokio::test]
async fn a_policy_counts_at_the_next_question_everywhere() {
    let house = House::new().await;
    let (_, there) = two(&house).await;
    assert!(there.allows("service").await && there.allows("service").await);
    let (here, author) = (namespace(), house.author());
    let everybody = "everybody".parse().unwrap();
    let retired = house.policies.retire(&here, &everybody, None, &author);
    retired.await.unwrap();
    assert!(!there.allows("service").await);
}

/// Those who ask while others change are never told what was before the last change that they know of.
#[tokio::test]
async fn what_is_remembered_while_others_change_is_not_old() {
    let house = House::new().await;
    let (here, there) = two(&house).await;
    let there = Arc::new(there);
    let asking: Vec<_> = (0..4)
        .map(|_| {
            let there = Arc::clone(&there);
            tokio::spawn(async move {
                loop {
                    there.allows("service").await;
                    // What is remembered is answered without a wait: others get their turn here.
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let (namespace, author) = (namespace(), house.author());
    let everybody = "everybody".parse().unwrap();
    let first = here.policies.get(&namespace, &everybody, None);
    let document = first.await.unwrap().document;
    for _ in 0..15 {
        let retired = here.policies.retire(&namespace, &everybody, None, &author);
        retired.await.unwrap();
        assert!(!there.allows("service").await);
        let updated = here.policies.update(&namespace, &document, None, &author);
        updated.await.unwrap();
        assert!(there.allows("service").await);
    }
    for task in asking {
        assert!(!task.is_finished());
        task.abort();
    }
}

#[tokio::test]
async fn what_was_not_committed_has_changed_nothing() {
    let house = House::new().await;
    let (here, there) = two(&house).await;
    let key = key(&house, "one").await;
    let before = there.revision().await;
    house.jam("audit").await;
    let (namespace, entry) = (namespace(), entry(&house, Kind::KeyRevoked));
    let revoked = house.identity.revoke_key(&namespace, &key.key.id, entry);
    revoked.await.unwrap_err();
    house.unjam("audit").await;
    assert_eq!(
        (here.revision().await, there.revision().await),
        (before, before)
    );
    revoke(&house, &key).await;
    assert_ne!(there.revision().await, before);
    assert_eq!(there.revision().await, here.revision().await);
}

#[tokio::test]
async fn a_use_is_written_down_once_a_minute_and_changes_nothing() {
    let house = House::new().await;
    let (here, _) = two(&house).await;
    let key = key(&house, "one").await;
    let last_used = async || {
        let listed = house.identity.keys(&namespace(), None, None, 10).await;
        listed.unwrap()[0].last_used_at
    };
    let at = here.revision().await;
    let first = house.clock.now();
    for _ in 0..4 {
        let caller = here.present(&house, &key).await.unwrap();
        assert_eq!(caller.as_of(), at);
        assert_eq!(last_used().await, Some(first));
        house.clock.advance(Duration::from_secs(19));
    }
    here.present(&house, &key).await.unwrap();
    assert_eq!(last_used().await, Some(house.clock.now()));
    assert_eq!(here.revision().await, at);
}

#[tokio::test]
async fn a_row_that_is_edited_is_noticed_although_it_is_remembered() {
    let house = House::new().await;
    let (here, there) = two(&house).await;
    let key = key(&house, "one").await;
    let edits = [
        "UPDATE api_keys SET expires_at = 9000000000",
        "UPDATE agents SET roles = '[\"admin\"]' WHERE id = 'one'",
    ];
    for edit in edits {
        let house = &house;
        let fine = Instance::new(&house.store, &house.vault);
        for instance in [&fine, &here, &there] {
            drop(instance.present(house, &key).await);
        }
        house.tamper(edit).await;
        for instance in [&fine, &here, &there] {
            assert_eq!(
                instance.refuses(house, &key).await,
                "key_tampered",
                "{edit}"
            );
        }
    }
}
