//! Access tokens on a real database, and by more than one process.

use crate::house::{House, namespace};
use secrecy::ExposeSecret;
use std::time::{Duration, SystemTime};
use xylem_audit::{Entry, Kind, Verdict};
use xylem_identity::{
    AccessToken, Identity, IssuedKey, NewAgent, NewKey, Secrets, Unauthenticated,
};
use xylem_ids::{AgentKind, Role, Scopes};
use xylem_vault::{Clock, Room};

const MINUTE: Duration = Duration::from_secs(60);

fn now(house: &House) -> SystemTime {
    house.clock.now()
}

fn entry(house: &House, kind: Kind) -> Entry {
    Entry::new(now(house), kind, Verdict::Succeeded)
}

/// Another process on the same database.
async fn beside(house: &House) -> Identity {
    let store = house.store_beside().await;
    let key = house.vault.subkey(Room::Identity).unwrap();
    Identity::new(store, Secrets::new(&key).unwrap())
}

async fn key(house: &House, name: &str) -> IssuedKey {
    let new = NewAgent {
        id: name.parse().unwrap(),
        kind: AgentKind::Service,
        roles: [Role::User].into(),
    };
    let namespace = namespace();
    let created = entry(house, Kind::AgentCreated);
    let agent = house.identity.create_agent(&namespace, new, created);
    let new = NewKey {
        agent: agent.await.unwrap().id,
        name: String::new(),
        scopes: Scopes::All,
        queues: [].into(),
        networks: Vec::new(),
        expires_at: None,
    };
    let created = entry(house, Kind::KeyCreated);
    let issued = house.identity.create_key(&namespace, new, created);
    issued.await.unwrap()
}

async fn exchange(house: &House, identity: &Identity, key: &IssuedKey) -> AccessToken {
    let (client, secret) = (key.key.agent.as_str(), key.secret.expose_secret());
    let exchanged = identity.exchange(client, secret, None, None, now(house));
    exchanged.await.unwrap()
}

/// Why the token is refused; nothing where it is not.
async fn refusal(house: &House, identity: &Identity, token: &AccessToken) -> Option<&'static str> {
    let presented = identity.authenticate(token.text.expose_secret(), None, now(house));
    presented.await.err().map(|why| why.code())
}

#[tokio::test]
async fn every_process_knows_the_tokens_of_the_others_and_what_was_revoked() {
    let house = House::new().await;
    let other = beside(&house).await;
    let key = key(&house, "one").await;
    let first = exchange(&house, &house.identity, &key).await;
    let second = exchange(&house, &other, &key).await;
    assert_eq!(refusal(&house, &other, &first).await, None);
    assert_eq!(refusal(&house, &house.identity, &second).await, None);

    let revoked = entry(&house, Kind::TokenRevoked);
    let revoked = other.revoke_token(&namespace(), &first.text, revoked).await;
    revoked.unwrap();
    let refused = refusal(&house, &house.identity, &first).await;
    assert_eq!(refused, Some("token_revoked"));
    assert_eq!(refusal(&house, &house.identity, &second).await, None);
}

#[tokio::test]
async fn what_goes_on_for_long_outlives_its_token_and_ends_where_that_is_revoked() {
    let house = House::new().await;
    let key = key(&house, "one").await;
    let token = exchange(&house, &house.identity, &key).await;
    let presented = token.text.expose_secret();
    let before = house.identity.authenticate(presented, None, now(&house));
    let before = before.await.unwrap();
    let revoked = entry(&house, Kind::TokenRevoked);
    house.clock.advance(20 * MINUTE);
    let standing = house.identity.standing(&before, None, now(&house)).await;
    let before = standing.unwrap();
    // What was revoked is noted for as long as the token would have been good.
    let own = namespace();
    let revoked = house.identity.revoke_token(&own, &token.text, revoked);
    revoked.await.unwrap();
    let ended = house.identity.standing(&before, None, now(&house)).await;
    assert_eq!(ended.unwrap_err().code(), "token_revoked");
}

#[tokio::test]
async fn a_new_signing_key_is_known_everywhere_before_it_signs() {
    let house = House::new().await;
    let other = beside(&house).await;
    let key = key(&house, "one").await;
    let old = exchange(&house, &other, &key).await;
    let made = entry(&house, Kind::SigningKeyMade);
    house.identity.rotate_signing_key(made).await.unwrap();
    let published = async |identity: &Identity| {
        let keys = identity.published_keys(now(&house)).await.unwrap();
        keys.len()
    };
    assert_eq!(published(&house.identity).await, 2);
    house.clock.advance(MINUTE);
    assert_eq!(published(&other).await, 2);
    house.clock.advance(9 * MINUTE);
    let new = exchange(&house, &house.identity, &key).await;
    assert_eq!(refusal(&house, &other, &new).await, None);
    assert_eq!(refusal(&house, &house.identity, &old).await, None);
    house.clock.advance(20 * MINUTE);
    assert_eq!(published(&house.identity).await, 1);
}

#[tokio::test]
async fn a_signing_key_that_others_may_have_is_gone_at_once_and_elsewhere_in_a_minute() {
    let house = House::new().await;
    let other = beside(&house).await;
    let key = key(&house, "one").await;
    let old = exchange(&house, &other, &key).await;
    let made = entry(&house, Kind::SigningKeyMade);
    let made = house.identity.replace_signing_keys(made).await.unwrap();
    assert_eq!(made.signs_from, now(&house));
    let refused = refusal(&house, &house.identity, &old).await;
    assert_eq!(refused, Some("token_unknown_key"));
    let new = exchange(&house, &house.identity, &key).await;
    assert_eq!(refusal(&house, &house.identity, &new).await, None);
    house.clock.advance(MINUTE);
    assert_eq!(
        refusal(&house, &other, &old).await,
        Some("token_unknown_key")
    );
    assert_eq!(refusal(&house, &other, &new).await, None);
    let log = house.log().await;
    let noted = log
        .iter()
        .rfind(|record| record.entry.kind == Kind::SigningKeyMade);
    let reason = noted.unwrap().entry.reason.clone();
    assert_eq!(reason.unwrap().as_str(), "compromised");
}

#[tokio::test]
async fn a_token_ends_with_its_agent() {
    let house = House::new().await;
    let key = key(&house, "one").await;
    let token = exchange(&house, &house.identity, &key).await;
    let retired = entry(&house, Kind::AgentRetired);
    let (namespace, agent) = (namespace(), &key.key.agent);
    let retired = house.identity.retire_agent(&namespace, agent, retired);
    retired.await.unwrap();
    let refused = refusal(&house, &house.identity, &token).await;
    assert_eq!(refused, Some("agent_retired"));
}

#[tokio::test]
async fn an_edited_signing_key_is_noticed_and_a_token_is_nowhere_at_rest() {
    let house = House::new().await;
    let key = key(&house, "one").await;
    let token = exchange(&house, &house.identity, &key).await;
    let text = token.text.expose_secret().as_bytes();
    for bytes in house.at_rest().await {
        assert!(!bytes.windows(text.len()).any(|window| window == text));
    }
    house
        .tamper("UPDATE signing_keys SET created_at = created_at + 1")
        .await;
    let fresh = beside(&house).await;
    let presented = fresh.authenticate(token.text.expose_secret(), None, now(&house));
    let refused = presented.await.unwrap_err();
    assert!(matches!(refused, Unauthenticated::NotChecked(_)));
    assert_eq!(refused.code(), "key_tampered");
}
