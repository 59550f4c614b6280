//! Local accounts and sessions on a real database, and by more than one process.

use crate::house::{House, namespace};
use secrecy::{ExposeSecret, SecretString};
use sqlx::Connection;
use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};
use xylem_audit::{Entry, Kind, Verdict};
use xylem_identity::{
    Identity, IdentityError, NoToken, Registration, SYSTEM, Secrets, SignIn, SignedIn, Storage,
    StorageError,
};
use xylem_ids::{ClientId, Scope};
use xylem_vault::{Clock, Room};

pub(super) const GOOD: &str = "kolibri tanzt auf neun Booten";
const OTHER: &str = "vier Elche stehen im Nebel";
const SECOND: Duration = Duration::from_secs(1);

pub(super) fn now(house: &House) -> SystemTime {
    house.clock.now()
}

pub(super) fn entry(house: &House, kind: Kind) -> Entry {
    Entry::new(now(house), kind, Verdict::Succeeded)
}

pub(super) fn client() -> ClientId {
    "cli".parse().unwrap()
}

/// Another process on the same database.
pub(super) async fn beside(house: &House) -> Identity {
    let store = house.store_beside().await;
    let key = house.vault.subkey(Room::Identity).unwrap();
    Identity::new(store, Secrets::new(&key).unwrap())
}

pub(super) fn new(name: &str, password: &str) -> Registration {
    Registration {
        name: name.parse().unwrap(),
        password: SecretString::from(password),
        invitation: None,
        address: None,
    }
}

pub(super) async fn register(
    house: &House,
    new: Registration,
    open: bool,
) -> Result<(), IdentityError> {
    let entry = entry(house, Kind::Registered);
    let registered = house
        .identity
        .register(&namespace(), new, open, entry)
        .await;
    registered.map(drop)
}

/// Signs in from an address, with a password, on a device that is known where it has a token.
async fn attempt(
    house: &House,
    identity: &Identity,
    from: &str,
    password: &str,
    device: Option<&str>,
) -> Result<SignedIn, NoToken> {
    let password = SecretString::from(password);
    let given = SignIn {
        name: "one",
        password: &password,
        code: None,
        client: client(),
        scope: None,
        device,
        address: Some(from.parse::<IpAddr>().unwrap()),
    };
    let entry = entry(house, Kind::SignedIn);
    identity.sign_in(&namespace(), given, entry).await
}

async fn sign_in(house: &House) -> SignedIn {
    let signed_in = attempt(house, &house.identity, "192.0.2.1", GOOD, None).await;
    signed_in.unwrap()
}

pub(super) async fn settled() -> House {
    let house = House::new().await;
    register(&house, new("one", GOOD), true).await.unwrap();
    house
}

pub(super) async fn refresh(
    house: &House,
    identity: &Identity,
    token: &SecretString,
    client: &str,
) -> Result<SignedIn, NoToken> {
    let entry = entry(house, Kind::TokenIssued);
    let client = client.parse().unwrap();
    identity
        .refresh(&namespace(), token, &client, None, entry)
        .await
}

pub(super) fn grant(result: Result<SignedIn, NoToken>) -> &'static str {
    match result {
        Err(NoToken::Grant(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

pub(super) async fn works(house: &House, signed_in: &SignedIn) -> bool {
    let text = signed_in.access.text.expose_secret();
    let presented = house.identity.authenticate(text, None, now(house));
    presented.await.is_ok()
}

#[tokio::test]
async fn registration_is_closed_unless_it_is_open_and_a_name_is_taken_once() {
    let house = House::new().await;
    let closed = register(&house, new("one", GOOD), false).await;
    assert!(matches!(closed, Err(IdentityError::RegistrationClosed)));
    register(&house, new("one", GOOD), true).await.unwrap();
    let again = register(&house, new("one", OTHER), true).await;
    assert!(matches!(again, Err(IdentityError::Exists { .. })));
    let weak = register(&house, new("two", "passwordpassword"), true).await;
    assert!(matches!(weak, Err(IdentityError::Invalid(_))));
    let ours = register(&house, new(SYSTEM, GOOD), true).await;
    assert!(matches!(ours, Err(IdentityError::Invalid(_))), "{ours:?}");
    let signed_in = sign_in(&house).await;
    let caller = signed_in.access.principal;
    assert_eq!(caller.roles().len(), 1);
    assert_eq!(caller.signed_in(), Some(now(&house)));
    assert!(!caller.second_factor());
}

#[tokio::test]
async fn an_invitation_works_once_for_its_name_and_for_three_days() {
    let house = settled().await;
    let id = "one".parse().unwrap();
    let invite = async || {
        let entry = entry(&house, Kind::AgentInvited);
        house
            .identity
            .invite(&namespace(), &id, entry)
            .await
            .unwrap()
            .0
    };
    let accept = async |name: &str, code: &SecretString| {
        let new = Registration {
            invitation: Some(code.clone()),
            ..new(name, OTHER)
        };
        register(&house, new, false).await
    };
    let refused = |result| assert!(matches!(result, Err(IdentityError::InvitationInvalid)));
    let replaced = invite().await;
    let code = invite().await;
    let before = sign_in(&house).await;
    refused(accept("one", &replaced).await);
    refused(accept("two", &code).await);
    refused(accept("one", &SecretString::from("xyi_AAAA")).await);
    accept("one", &code).await.unwrap();
    refused(accept("one", &code).await);
    assert!(
        !works(&house, &before).await,
        "another password ends sessions"
    );
    let late = invite().await;
    house.clock.advance(Duration::from_secs(72 * 3600));
    refused(accept("one", &late).await);
}

#[tokio::test]
async fn a_lost_reply_gets_the_same_successor_and_a_copy_ends_the_family() {
    let house = settled().await;
    let other = beside(&house).await;
    let first = sign_in(&house).await;
    let second = refresh(&house, &house.identity, &first.refresh, "cli")
        .await
        .unwrap();
    house.clock.advance(10 * SECOND);
    let again = refresh(&house, &other, &first.refresh, "cli")
        .await
        .unwrap();
    assert_eq!(
        again.refresh.expose_secret(),
        second.refresh.expose_secret()
    );
    let third = refresh(&house, &other, &second.refresh, "cli")
        .await
        .unwrap();
    assert!(works(&house, &third).await);
    // The successor was used: whoever has the first one now has a copy.
    let reused = refresh(&house, &house.identity, &first.refresh, "cli").await;
    assert_eq!(grant(reused), "refresh_reused");
    assert!(!works(&house, &third).await);
    let over = refresh(&house, &house.identity, &third.refresh, "cli").await;
    assert_eq!(grant(over), "session_over");
    let log = house.log().await;
    let reused = log
        .iter()
        .filter(|record| record.entry.kind == Kind::SessionReused);
    assert_eq!(reused.count(), 1);
}

#[tokio::test]
async fn after_ten_seconds_or_from_another_client_the_family_ends() {
    let house = settled().await;
    let first = sign_in(&house).await;
    refresh(&house, &house.identity, &first.refresh, "cli")
        .await
        .unwrap();
    house.clock.advance(11 * SECOND);
    let late = refresh(&house, &house.identity, &first.refresh, "cli").await;
    assert_eq!(grant(late), "refresh_reused");
    let stolen = sign_in(&house).await;
    let elsewhere = refresh(&house, &house.identity, &stolen.refresh, "other").await;
    assert_eq!(grant(elsewhere), "other_client");
    assert!(!works(&house, &stolen).await);
}

#[tokio::test]
async fn two_at_once_get_one_successor() {
    let house = settled().await;
    let other = beside(&house).await;
    let first = sign_in(&house).await;
    let (one, two) = tokio::join!(
        refresh(&house, &house.identity, &first.refresh, "cli"),
        refresh(&house, &other, &first.refresh, "cli"),
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.refresh.expose_secret(), two.refresh.expose_secret());
    // Nor does it matter that who comes last asked first: it waited for the database meanwhile.
    let mut early = entry(&house, Kind::TokenIssued);
    house.clock.advance(SECOND);
    let three = refresh(&house, &house.identity, &one.refresh, "cli").await;
    early.at += Duration::from_millis(1);
    let four = other
        .refresh(&namespace(), &one.refresh, &client(), None, early)
        .await;
    let (three, four) = (three.unwrap(), four.unwrap());
    assert_eq!(three.refresh.expose_secret(), four.refresh.expose_secret());
}

#[tokio::test]
async fn a_session_ends_by_signing_out_idling_its_password_and_its_row() {
    let house = settled().await;
    let signed_in = sign_in(&house).await;
    let out = entry(&house, Kind::TokenRevoked);
    let (identity, namespace) = (&house.identity, namespace());
    let revoked = identity.revoke_token(&namespace, &signed_in.refresh, out);
    revoked.await.unwrap();
    assert!(!works(&house, &signed_in).await);

    let idle = sign_in(&house).await;
    house.clock.advance(Duration::from_secs(7 * 24 * 3600));
    let over = refresh(&house, &house.identity, &idle.refresh, "cli").await;
    assert_eq!(grant(over), "session_over");

    let changed = sign_in(&house).await;
    let (present, new) = (SecretString::from(GOOD), SecretString::from(OTHER));
    let id = "one".parse().unwrap();
    let change = async |present: &SecretString| {
        let entry = entry(&house, Kind::PasswordChanged);
        let identity = &house.identity;
        identity
            .change_password(&namespace, &id, present, &new, None, entry)
            .await
    };
    let wrong = change(&new).await;
    assert!(matches!(wrong, Err(IdentityError::PasswordWrong)));
    change(&present).await.unwrap();
    assert!(!works(&house, &changed).await);

    let open = attempt(&house, &house.identity, "192.0.2.1", OTHER, None)
        .await
        .unwrap();
    house
        .tamper("UPDATE sessions SET ends_at = ends_at + 1")
        .await;
    let edited = refresh(&house, &house.identity, &open.refresh, "cli").await;
    assert!(matches!(
        edited,
        Err(NoToken::NotNow(IdentityError::Tampered { .. }))
    ));
    assert!(!works(&house, &open).await);
}

#[tokio::test]
async fn a_password_that_is_changed_while_it_is_taken_away_stays_away() {
    let house = settled().await;
    let (store, namespace, id) = (&house.store, namespace(), "one".parse().unwrap());
    let password = async || {
        let account = store.account(&namespace, &id).await.unwrap();
        account.unwrap().password
    };
    // Whoever changes it has proven this one, and hashes the next one for a while.
    let proven = password().await.unwrap();
    let entry = entry(&house, Kind::AgentInvited);
    let invited = house.identity.invite(&namespace, &id, entry).await;
    let chosen = Registration {
        invitation: Some(invited.unwrap().0),
        ..new("one", OTHER)
    };
    register(&house, chosen, false).await.unwrap();
    let accepted = password().await.unwrap();
    let late = store.replace_password(&proven, &proven, &[]).await;
    assert!(matches!(late, Err(StorageError::Changed)), "{late:?}");
    assert_eq!(password().await.unwrap().id, accepted.id);

    store.drop_factor(&namespace, &id, true, &[]).await.unwrap();
    let late = store.replace_password(&accepted, &proven, &[]).await;
    assert!(matches!(late, Err(StorageError::Changed)), "{late:?}");
    assert!(password().await.is_none());
}

#[tokio::test]
async fn a_session_that_was_put_back_ends() {
    let house = settled().await;
    let first = sign_in(&house).await;
    house
        .tamper("UPDATE sessions SET password = password")
        .await;
    let mut burglar = house.burglar().await;
    let row: (i64, i64, i64, Vec<u8>) =
        sqlx::query_as("SELECT generation, rotated_at_ms, idle_until, seal FROM sessions")
            .fetch_one(&mut burglar)
            .await
            .unwrap();
    let second = refresh(&house, &house.identity, &first.refresh, "cli")
        .await
        .unwrap();
    let back = sqlx::query(
        "UPDATE sessions SET generation = $1, rotated_at_ms = $2, idle_until = $3, seal = $4",
    );
    let back = back.bind(row.0).bind(row.1).bind(row.2).bind(row.3);
    back.execute(&mut burglar).await.unwrap();
    let refreshed = refresh(&house, &house.identity, &second.refresh, "cli").await;
    assert_eq!(grant(refreshed), "session_rolled_back");
}

#[tokio::test]
async fn who_guesses_waits_and_the_owner_does_not() {
    let house = settled().await;
    let other = beside(&house).await;
    let known = sign_in(&house).await;
    let device = known.device.unwrap();
    let waits = |result: &Result<SignedIn, NoToken>| {
        matches!(result, Err(NoToken::NotNow(IdentityError::TooMany(_))))
    };
    // One place, then many: each is slow for itself, and all strangers together.
    for n in 0..5 {
        let identity = if n % 2 == 0 { &house.identity } else { &other };
        let wrong = attempt(&house, identity, "198.51.100.1", OTHER, None).await;
        assert_eq!(grant(wrong), "password_wrong");
    }
    let right_but_early = attempt(&house, &other, "198.51.100.1", GOOD, None).await;
    assert!(waits(&right_but_early));
    for n in 1..=15 {
        let from = format!("203.0.113.{n}");
        let wrong = attempt(&house, &other, &from, OTHER, None).await;
        assert_eq!(grant(wrong), "password_wrong");
    }
    let stranger = attempt(&house, &other, "203.0.113.99", GOOD, None).await;
    assert!(waits(&stranger));
    // The owner is let in, from where it was before and on its device anywhere.
    assert!(
        attempt(&house, &other, "192.0.2.1", GOOD, None)
            .await
            .is_ok()
    );
    let device = device.expose_secret();
    let travelling = attempt(&house, &other, "203.0.113.99", GOOD, Some(device)).await;
    assert!(travelling.is_ok());
    let forged = format!("{}A", &device[..device.len() - 1]);
    let forged = attempt(&house, &other, "203.0.113.98", GOOD, Some(&forged)).await;
    assert!(waits(&forged) || device.ends_with('A'));
}

#[tokio::test]
async fn attempts_of_strangers_are_forgotten_without_anybody_signing_in() {
    let house = House::new().await;
    for number in 1..20 {
        let from = format!("192.0.{number}.1");
        let refused = attempt(&house, &house.identity, &from, GOOD, None).await;
        assert!(refused.is_err());
    }
    assert!(attempts(&house).await > 19);
    house.clock.advance(61 * 60 * SECOND);
    house.identity.tidy(now(&house)).await.unwrap();
    assert_eq!(attempts(&house).await, 0);
}

async fn attempts(house: &House) -> i64 {
    let mut burglar = house.burglar().await;
    let counted = sqlx::query_scalar("SELECT COUNT(*) FROM attempts");
    let counted = counted.fetch_one(&mut burglar).await.unwrap();
    burglar.close().await.expect("closes");
    counted
}

#[tokio::test]
async fn nothing_that_signs_in_lies_in_the_database() {
    let house = settled().await;
    let signed_in = sign_in(&house).await;
    let invited = entry(&house, Kind::AgentInvited);
    let (namespace, id) = (namespace(), "one".parse().unwrap());
    let (invitation, _) = house
        .identity
        .invite(&namespace, &id, invited)
        .await
        .unwrap();
    let device = signed_in.device.unwrap();
    let needles = [GOOD, device.expose_secret(), invitation.expose_secret()];
    let needles = needles
        .into_iter()
        .chain([signed_in.refresh.expose_secret()]);
    let at_rest = house.at_rest().await;
    for needle in needles {
        for bytes in &at_rest {
            let found = bytes
                .windows(needle.len())
                .any(|window| window == needle.as_bytes());
            assert!(!found, "{needle}");
        }
    }
    let hash = at_rest
        .iter()
        .any(|bytes| bytes.windows(10).any(|w| w == b"$argon2id$"));
    assert!(hash);
}

#[tokio::test]
async fn a_swapped_password_is_noticed_and_a_narrowed_session_stays_narrow() {
    let house = settled().await;
    register(&house, new("two", OTHER), true).await.unwrap();
    let password = SecretString::from(GOOD);
    let given = SignIn {
        name: "one",
        password: &password,
        code: None,
        client: client(),
        scope: Some("trees:read"),
        device: None,
        address: None,
    };
    let signed = entry(&house, Kind::SignedIn);
    let narrowed = house
        .identity
        .sign_in(&namespace(), given, signed)
        .await
        .unwrap();
    assert!(narrowed.access.principal.may(Scope::TreesRead));
    assert!(!narrowed.access.principal.may(Scope::Trees));
    let (namespace, client, again) = (namespace(), client(), entry(&house, Kind::TokenIssued));
    let token = &narrowed.refresh;
    let wider = house
        .identity
        .refresh(&namespace, token, &client, Some("trees"), again);
    assert!(matches!(wider.await, Err(NoToken::Scope)));
    house
        .tamper(
            "UPDATE passwords SET hash = (SELECT p.hash FROM passwords p WHERE p.agent = 'two')
            WHERE agent = 'one'",
        )
        .await;
    let swapped = attempt(&house, &house.identity, "192.0.2.1", OTHER, None).await;
    let why = swapped.unwrap_err();
    assert!(
        matches!(why, NoToken::NotNow(IdentityError::Tampered { .. })),
        "{why}"
    );
}
