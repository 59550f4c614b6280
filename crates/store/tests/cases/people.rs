//! Personal data: who has it, and that it goes.

use super::{
    account::{GOOD, client, entry, now, settled},
    second_factor::enrolled,
};
use crate::house::{House, agent, namespace, verified};
use secrecy::SecretString;
use std::time::{Duration, SystemTime};
use xylem_audit::{Entry, Filter, Kind, Log, Note, Record, Verdict};
use xylem_identity::{Agent, Datum, Fact, IdentityError, NewKey, SignIn};
use xylem_ids::Scopes;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const ADDRESS: &str = "203.0.113.77";
const SAID: &str = "ich bin die Eule von nebenan";

/// What somebody did from an address, and said about it.
fn told(name: Option<&str>, at: SystemTime) -> Entry {
    let mut entry = Entry::new(at, Kind::Deposit, Verdict::Succeeded);
    entry.namespace = Some(namespace());
    entry.agent = name.map(agent);
    entry.address = Some(ADDRESS.parse().unwrap());
    entry.note = Note::new(SAID);
    entry
}

async fn tell(house: &House, name: Option<&str>) {
    let entry = told(name, now(house));
    house.store.append(&[entry]).await.unwrap();
}

async fn of(house: &House, name: &str) -> Vec<Record> {
    let filter = Filter {
        agent: Some(agent(name)),
        ..Filter::default()
    };
    house.store.list(&filter, None, 100).await.unwrap().records
}

async fn retire(house: &House, name: &str) {
    let entry = entry(house, Kind::AgentRetired);
    let retired = house
        .identity
        .retire_agent(&namespace(), &agent(name), entry)
        .await;
    retired.unwrap();
}

async fn erase(house: &House, name: &str) -> Result<Agent, IdentityError> {
    let entry = entry(house, Kind::AgentErased).by(&agent("admin"));
    house
        .identity
        .erase_agent(&namespace(), &agent(name), entry)
        .await
}

async fn data(house: &House, name: &str) -> Vec<Datum> {
    let data = house.identity.agent_data(&namespace(), &agent(name)).await;
    data.unwrap().1
}

/// Somebody with everything that there can be about somebody.
async fn somebody() -> House {
    let house = settled().await;
    enrolled(&house, "one").await;
    let new = NewKey {
        agent: agent("one"),
        name: "laptop of Eulalia".into(),
        scopes: Scopes::All,
        queues: Default::default(),
        networks: vec!["203.0.113.0/24".parse().unwrap()],
        expires_at: None,
    };
    let made = entry(&house, Kind::KeyCreated);
    let made = house.identity.create_key(&namespace(), new, made).await;
    made.unwrap();
    let (id, at) = (agent("one"), 1_800_000_000_000);
    let mut memory = xylem_audit::Watch::begin_watch(&*house.store)
        .await
        .unwrap();
    let namespace = namespace();
    let of = xylem_audit::Of {
        namespace: &namespace,
        agent: &id,
    };
    memory.use_network(of, "203.0.113.0/24", at).await.unwrap();
    let tool = "acme.deploy".parse().unwrap();
    memory.use_tool(of, &tool, at).await.unwrap();
    memory.commit(&[]).await.unwrap();
    tell(&house, Some("one")).await;
    house
}

#[tokio::test]
async fn what_is_personal_lies_encrypted_and_is_told_to_whoever_may_read_the_log() {
    let house = House::new().await;
    tell(&house, Some("one")).await;
    tell(&house, None).await;
    let found = of(&house, "one").await.pop().unwrap();
    assert_eq!(found.entry, told(Some("one"), now(&house)));
    assert!(!found.erased);
    for bytes in house.at_rest().await {
        for secret in [ADDRESS, SAID] {
            assert!(memchr::memmem::find(&bytes, secret.as_bytes()).is_none());
        }
    }
    verified(&house.store).await.unwrap();
}

#[tokio::test]
async fn an_export_holds_everything_of_the_agent_and_nothing_of_others() {
    let house = somebody().await;
    let found = data(&house, "one").await;
    let records: Vec<_> = found.iter().map(|datum| datum.record).collect();
    for record in [
        "passwords",
        "second_factors",
        "recovery_codes",
        "api_keys",
        "watch_networks",
        "watch_tools",
    ] {
        assert!(records.contains(&record), "{record} of {records:?}");
    }
    let network = Fact::Text("203.0.113.0/24".into());
    let seen = found.iter().any(|datum| {
        let of_watch = datum.record == "watch_networks";
        of_watch && datum.fields.contains(&("network", network.clone()))
    });
    assert!(seen, "{found:?}");
    let shown = format!("{found:?}");
    for secret in ["argon2", "hash", "seal", "ciphertext"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    let entry = entry(&house, Kind::AgentCreated);
    let new = xylem_identity::NewAgent {
        id: agent("two"),
        kind: xylem_ids::AgentKind::Service,
        roles: Default::default(),
    };
    let created = house.identity.create_agent(&namespace(), new, entry).await;
    created.unwrap();
    assert_eq!(data(&house, "two").await, []);
}

#[tokio::test]
async fn erasing_an_agent_leaves_the_chain_intact_and_nothing_else() {
    let house = somebody().await;
    tell(&house, Some("two")).await;
    let kept = erase(&house, "one").await;
    assert!(matches!(kept, Err(IdentityError::NotRetired)), "{kept:?}");
    assert!(!data(&house, "one").await.is_empty());

    retire(&house, "one").await;
    let before = verified(&house.store).await.unwrap().entries;
    erase(&house, "one").await.unwrap();
    assert_eq!(data(&house, "one").await, []);
    assert_eq!(verified(&house.store).await.unwrap().entries, before + 1);
    let last = house.last_entry().await;
    assert_eq!(last.kind, Kind::AgentErased);
    assert_eq!(last.subject.unwrap().to_string(), "agent:one");

    let found = of(&house, "one").await;
    let told_before = found.last().unwrap();
    assert!(told_before.erased, "{told_before:?}");
    assert_eq!(told_before.entry.address, None);
    assert_eq!(told_before.entry.note, None);
    let two = of(&house, "two").await.pop().unwrap();
    assert!(two.entry.note.is_some() && !two.erased);
    for table in ["passwords", "second_factors", "recovery_codes", "api_keys"] {
        assert_eq!(house.rows(table).await, 0, "{table}");
    }
    assert_eq!(
        house
            .rows("audit_people WHERE erased_at IS NOT NULL AND wrapped IS NULL")
            .await,
        1
    );
}

#[tokio::test]
async fn an_erased_agent_gets_no_other_key_and_its_name_is_not_used_again() {
    let house = somebody().await;
    retire(&house, "one").await;
    erase(&house, "one").await.unwrap();
    // A count of the last minute may come after it.
    tell(&house, Some("one")).await;
    let late = of(&house, "one").await.pop().unwrap();
    assert!(late.erased && late.entry.address.is_none());
    let again = super::account::register(&house, super::account::new("one", GOOD), true).await;
    assert!(
        matches!(again, Err(IdentityError::Exists { .. })),
        "{again:?}"
    );
    let password = SecretString::from(GOOD);
    let given = SignIn {
        name: "one",
        password: &password,
        code: None,
        client: client(),
        scope: None,
        device: None,
        address: None,
    };
    let entry = entry(&house, Kind::SignedIn);
    let refused = house.identity.sign_in(&namespace(), given, entry).await;
    assert!(refused.is_err());
    erase(&house, "one").await.unwrap();
    verified(&house.store).await.unwrap();
}

#[tokio::test]
async fn what_strangers_left_is_forgotten_after_a_while() {
    let house = House::new().await;
    tell(&house, None).await;
    let first = || async {
        let mut records = house.store.list(&Filter::default(), None, 100).await;
        let records = &mut records.as_mut().unwrap().records;
        records.retain(|record| record.entry.kind == Kind::Deposit);
        records.remove(0)
    };
    assert!(first().await.entry.address.is_some());
    house.clock.advance(119 * DAY);
    tell(&house, None).await;
    assert!(!first().await.erased);
    house.clock.advance(2 * DAY);
    tell(&house, None).await;
    assert!(first().await.erased);
    verified(&house.store).await.unwrap();
}

#[tokio::test]
async fn an_edited_key_tells_nothing_and_takes_no_entries() {
    let house = House::new().await;
    tell(&house, Some("one")).await;
    let mut burglar = house.burglar().await;
    sqlx::query("UPDATE audit_people SET nonce = substr(nonce, 2) || substr(nonce, 1, 1)")
        .execute(&mut burglar)
        .await
        .unwrap();
    let found = of(&house, "one").await.pop().unwrap();
    assert!(found.erased && found.entry.address.is_none());
    let refused = house.store.append(&[told(Some("one"), now(&house))]).await;
    assert!(refused.is_err());
}
