//! Stored credentials: versions, copies in trees, the gate, and what somebody with the file can do.

use crate::house::*;
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;
use xylem_audit::Kind;
use xylem_grant::UnixSeconds;
use xylem_ids::{CredentialName, Slot, TreeId, Version};
use xylem_vault::{
    Asker, Copied, CredentialStatus, Deposited, NewCredential, NewSource, NotObtained, OAuth,
    OAuthClient, OAuthGrant, Provided, Removal, Renewal, Revocation, Rotated, Rotation, Target,
    VaultError, VersionRevocation, VersionState,
};

pub(crate) fn name() -> CredentialName {
    "acme".parse().unwrap()
}

pub(crate) fn new(value: &str) -> NewCredential {
    NewCredential {
        namespace: namespace(),
        name: name(),
        owner: agent("publisher"),
        audiences: audiences(&["https://api.acme.example/v1"]),
        rotate_every: Some(24 * HOUR),
        value: SecretString::from(value),
        expires_at: None,
        accept_short: false,
        source: None,
        by: agent("admin"),
        request: "c1".parse().unwrap(),
    }
}

fn rotation(value: &str, request: &str) -> Rotation {
    Rotation {
        namespace: namespace(),
        name: name(),
        value: SecretString::from(value),
        expires_at: None,
        accept_short: false,
        source: None,
        if_version: None,
        by: agent("admin"),
        request: request.parse().unwrap(),
    }
}

pub(crate) async fn made(house: &House) -> Rotated {
    house.vault.create_credential(new(V1)).await.expect("makes")
}

pub(crate) async fn rotated(house: &House, value: &str, request: &str) -> Rotated {
    let rotated = house
        .vault
        .rotate_credential(rotation(value, request))
        .await;
    rotated.expect("rotates")
}

pub(crate) fn source() -> NewSource {
    NewSource::OAuth(OAuthClient {
        oauth: OAuth {
            token_url: "https://id.acme.example/token".to_owned(),
            grant: OAuthGrant::ClientCredentials,
            client_id: "xylem".to_owned(),
            secret_in_form: false,
            scopes: Vec::new(),
            resource: None,
            assume_lifetime: None,
            probe_url: None,
            revoke_old: false,
        },
        client_secret: SecretString::from("canary-client-secret"),
        refresh_token: None,
    })
}

fn provided() -> NewSource {
    NewSource::Provider(Provided {
        name: "file".to_owned(),
        probe_url: None,
        revoke_old: true,
    })
}

/// So many seconds from now.
fn after(house: &House, seconds: u64) -> UnixSeconds {
    UnixSeconds::from(house.vault.now()).plus(Duration::from_secs(seconds))
}

/// What a file or a command gives to whoever asks now.
async fn given(
    house: &House,
    turn: Renewal,
    value: &str,
    ends: Option<UnixSeconds>,
) -> Result<Rotated, VaultError> {
    let UnixSeconds(now) = house.vault.now().into();
    let mut next = rotation(value, &format!("@renewal/{now}"));
    next.source = Some(turn.source);
    next.expires_at = ends;
    next.by = agent("keeper");
    house.vault.end_renewal(next, &turn.turn).await
}

async fn turn(house: &House, seen: Option<Version>) -> Option<Renewal> {
    turn_of(house, seen, Asker::Somebody).await
}

/// The turn of a keeper that leaves the provider alone for half a minute.
async fn kept_turn(house: &House, seen: u32) -> Option<Renewal> {
    let keeper = Asker::Keeper {
        agent: &agent("keeper"),
        rest: Duration::from_secs(30),
    };
    turn_of(house, Some(Version(seen)), keeper).await
}

async fn turn_of(house: &House, seen: Option<Version>, asker: Asker<'_>) -> Option<Renewal> {
    let (namespace, name) = (namespace(), name());
    let vault = &house.vault;
    let begun = vault.begin_renewal(&namespace, &name, seen, asker).await;
    begun.expect("looks")
}

/// What the provider gave in a turn, as a keeper stores it.
async fn end(house: &House, turn: Renewal, value: &str, request: &str) -> Rotated {
    let mut next = rotation(value, request);
    next.source = Some(turn.source);
    next.by = agent("keeper");
    let ended = house.vault.end_renewal(next, &turn.turn).await;
    ended.expect("ends")
}

async fn fail(house: &House, turn: &Renewal) {
    let failed = NotObtained {
        reason: xylem_audit::Reason::of("provider_unavailable"),
        refused: false,
        next: None,
    };
    let (namespace, name, by) = (namespace(), name(), agent("keeper"));
    let vault = &house.vault;
    vault
        .fail_renewal(&namespace, &name, &turn.turn, failed, &by)
        .await
        .expect("noted");
}

/// A credential that is obtained from a provider.
pub(crate) async fn obtained(house: &House, source: NewSource) {
    let mut new = new(V1);
    new.source = Some(source);
    house.vault.create_credential(new).await.expect("makes");
}

async fn status(house: &House) -> CredentialStatus {
    let status = house.vault.credential(&namespace(), &name()).await;
    status.expect("is there")
}

async fn copy(house: &House, target: Target) -> Result<Deposited, VaultError> {
    let copied = Copied {
        target,
        slot: Slot::default_slot(),
        credential: name(),
        lifetime: HOUR,
        by: agent("admin"),
    };
    house.vault.copy_credential(&copied).await
}

/// A running tree that started with the credential.
pub(crate) async fn tree_of(house: &House, workflow_id: &str) -> TreeId {
    let start = house.start(workflow_id).await;
    let copied = copy(house, Target::Start(start.clone())).await;
    copied.expect("copies");
    let run = format!("run-{workflow_id}").parse().unwrap();
    house.vault.bind(&start, run).await.expect("binds").tree
}

async fn redeems(house: &House, tree: &TreeId) -> String {
    let grants = house.vault.grants(tree).await.expect("grants");
    let redeemed = house.redeem(Ask::new(tree, &grants[0])).await;
    let redeemed = redeemed.expect("redeems");
    let end = xylem_vault::CallEnd {
        succeeded: true,
        reason: None,
        status: Some(200),
        duration: Duration::from_millis(1),
        undone: false,
        bytes_out: 0,
        bytes_in: 0,
    };
    house.release(&redeemed, &end).await;
    redeemed.token.expose_secret().to_owned()
}

pub(crate) fn revocation(version: u32, force: bool) -> VersionRevocation {
    VersionRevocation {
        namespace: namespace(),
        name: name(),
        version: Version(version),
        force,
        by: agent("admin"),
        note: None,
    }
}

pub(crate) fn removal() -> Removal {
    Removal {
        namespace: namespace(),
        name: name(),
        by: agent("admin"),
        note: None,
    }
}

#[tokio::test]
async fn the_same_request_rotates_once_and_another_value_under_it_is_refused() {
    let house = House::new().await;
    assert!(!made(&house).await.repeated);
    assert!(made(&house).await.repeated);
    let taken = NewCredential {
        request: "c2".parse().unwrap(),
        ..new(V1)
    };
    let taken = house.vault.create_credential(taken).await;
    assert!(
        matches!(taken, Err(VaultError::CredentialExists)),
        "{taken:?}"
    );
    let second = rotated(&house, V2, "r2").await;
    assert_eq!(
        (second.version.version.0, second.superseded),
        (2, Some(Version(1)))
    );
    assert!(rotated(&house, V2, "r2").await.repeated);
    let reused = house.vault.rotate_credential(rotation(V3, "r2")).await;
    assert!(
        matches!(reused, Err(VaultError::RequestReused)),
        "{reused:?}"
    );
    assert_eq!(status(&house).await.versions.len(), 2);
}

#[tokio::test]
async fn a_rotation_that_was_meant_for_another_version_loses() {
    let house = House::new().await;
    made(&house).await;
    rotated(&house, V2, "r2").await;
    let late = Rotation {
        if_version: Some(Version(1)),
        ..rotation(V3, "r3")
    };
    let late = house.vault.rotate_credential(late).await;
    assert!(
        matches!(late, Err(VaultError::OtherVersion(Version(2)))),
        "{late:?}"
    );
}

#[tokio::test]
async fn a_value_is_not_obtained_by_whoever_has_not_seen_the_last_version() {
    let house = House::new().await;
    obtained(&house, source()).await;
    let seen = status(&house).await.active().map(|active| active.version);
    let renewal = turn(&house, seen).await.expect("a turn");
    assert!(turn(&house, seen).await.is_none(), "two turns");
    let ended = end(&house, renewal, V2, "@renewal/1").await;
    assert_eq!(ended.version.version, Version(2));
    assert!(turn(&house, seen).await.is_none(), "one that came late");
}

#[tokio::test]
async fn a_turn_that_took_too_long_does_not_end_that_of_another() {
    let house = House::new().await;
    obtained(&house, source()).await;
    let seen = Some(Version(1));
    let slow = turn(&house, seen).await.expect("a turn");
    house.clock.advance(Duration::from_secs(31));
    turn(&house, seen).await.expect("another turn");
    fail(&house, &slow).await;
    assert!(turn(&house, seen).await.is_none(), "two turns");
}

/// A credential whose value is obtained, and a turn to obtain the next one.
async fn asked(house: &House) -> Renewal {
    let mut new = new(V1);
    new.source = Some(source());
    house.vault.create_credential(new).await.expect("makes");
    turn(house, Some(Version(1))).await.expect("a turn")
}

#[tokio::test]
async fn a_turn_lasts_for_as_long_as_whoever_has_it_is_heard_of() {
    let house = House::new().await;
    let (namespace, name, seen) = (namespace(), name(), Some(Version(1)));
    let mut mine = asked(&house).await.turn;
    for _ in 0..4 {
        house.clock.advance(Duration::from_secs(20));
        let held = house.vault.hold_renewal(&namespace, &name, &mut mine).await;
        held.expect("held");
        assert!(turn(&house, seen).await.is_none(), "two turns");
    }
    house.clock.advance(Duration::from_secs(30));
    let mut theirs = turn(&house, seen).await.expect("another turn").turn;
    // Whoever was thought to be gone does not hold the turn of another.
    house.clock.advance(Duration::from_secs(20));
    let held = house.vault.hold_renewal(&namespace, &name, &mut mine).await;
    held.expect("looks");
    house.clock.advance(Duration::from_secs(10));
    let held = house.vault.hold_renewal(&namespace, &name, &mut theirs);
    held.await.expect("held");
    assert!(turn(&house, seen).await.is_none(), "two turns");
}

fn refresh(given: &NewSource) -> Option<&str> {
    let NewSource::OAuth(client) = given else {
        return None;
    };
    let token = client.refresh_token.as_ref()?;
    Some(token.expose_secret())
}

#[tokio::test]
async fn what_was_taken_over_is_what_the_next_value_is_obtained_with() {
    let house = House::new().await;
    let mut first = source();
    if let NewSource::OAuth(client) = &mut first {
        client.oauth.grant = OAuthGrant::RefreshToken;
        client.refresh_token = Some(SecretString::from("canary-refresh-1"));
    }
    let mut new = new(V1);
    new.source = Some(first);
    house.vault.create_credential(new).await.expect("makes");
    let seen = Some(Version(1));
    let Renewal {
        mut source,
        turn: mut mine,
    } = turn(&house, seen).await.expect("a turn");
    if let NewSource::OAuth(client) = &mut source {
        client.refresh_token = Some(SecretString::from("canary-refresh-2"));
    }
    let (namespace, name) = (namespace(), name());
    let taken = house.vault.take_over(&namespace, &name, &mut mine, &source);
    taken.await.expect("taken over");
    assert!(turn(&house, seen).await.is_none(), "the turn goes on");

    // Nothing more is heard of it, and whoever comes next asks with what is good.
    house.clock.advance(Duration::from_secs(30));
    let next = turn(&house, seen).await.expect("the next turn");
    assert_eq!(refresh(&next.source), Some("canary-refresh-2"));
    let mut value = rotation(V2, "@renewal/1");
    value.source = Some(next.source);
    let ended = house.vault.end_renewal(value, &next.turn).await;
    assert_eq!(ended.expect("ends").version.version, Version(2));
}

#[tokio::test]
async fn keepers_leave_a_provider_alone_however_many_of_them_there_are() {
    let house = House::new().await;
    obtained(&house, source()).await;
    // What somebody stored themselves puts nothing off.
    let first = kept_turn(&house, 1).await.expect("a turn");
    end(&house, first, V2, "@renewal/1").await;
    assert!(kept_turn(&house, 2).await.is_none(), "a value of just now");
    house.clock.advance(Duration::from_secs(30));
    let second = kept_turn(&house, 2).await.expect("a turn");
    fail(&house, &second).await;
    assert!(kept_turn(&house, 2).await.is_none(), "it has just failed");
    house.clock.advance(Duration::from_secs(29));
    assert!(kept_turn(&house, 2).await.is_none(), "half a minute");
    house.clock.advance(Duration::from_secs(1));
    let third = kept_turn(&house, 2).await.expect("a turn");
    fail(&house, &third).await;
    // Whoever is known to the control plane does not wait.
    let asked = turn(&house, Some(Version(2))).await.expect("a turn");
    end(&house, asked, V3, "@renewal/2").await;
}

#[tokio::test]
async fn what_a_clock_noted_that_was_ahead_puts_nothing_off() {
    for (sql, source) in [
        (
            "UPDATE credential_providers SET fruitless_at = 1800090000",
            provided(),
        ),
        (
            "UPDATE credential_providers SET renewing_until = 1800090000",
            provided(),
        ),
        (
            "UPDATE credential_sources SET renewing_until = 1800090000",
            source(),
        ),
    ] {
        let house = House::new().await;
        obtained(&house, source).await;
        house.tamper(sql).await;
        house.clock.advance(Duration::from_secs(300));
        let (now, status) = (after(&house, 0), status(&house).await);
        assert!(!status.was_asked_in_vain(now), "{sql}");
        let due = status.renewal_due(now);
        assert!(due.is_none_or(|due| due <= now), "{sql}");
        assert!(kept_turn(&house, 1).await.is_some(), "{sql}");
    }
}

#[tokio::test]
async fn a_value_that_was_stored_by_a_clock_that_was_ahead_is_due() {
    let house = House::new().await;
    house.clock.advance(24 * HOUR);
    let mut new = new(V1);
    new.source = Some(source());
    new.expires_at = Some(after(&house, 3_600));
    house.vault.create_credential(new).await.expect("makes");
    house.clock.set_back(24 * HOUR);
    let now = after(&house, 0);
    assert!(status(&house).await.is_renewal_due(now));
    assert!(kept_turn(&house, 1).await.is_some());
}

#[tokio::test]
async fn a_value_that_lives_longer_is_the_same_version_and_so_are_its_copies() {
    for source in [provided(), source()] {
        lives_longer(source).await;
    }
}

async fn lives_longer(source: NewSource) {
    let house = House::new().await;
    let mut new = new(V1);
    new.source = Some(source);
    new.expires_at = Some(after(&house, 3_600));
    house.vault.create_credential(new).await.expect("makes");
    let tree = tree_of(&house, "train").await;
    let seen = Some(Version(1));
    let copied = async || {
        let copied = copy(&house, Target::Tree(tree.clone())).await;
        copied.expect("copies")
    };

    house.clock.advance(Duration::from_secs(2_400));
    let ends = after(&house, 3_600);
    let asked = turn(&house, seen).await.expect("a turn");
    let moved = given(&house, asked, V1, Some(ends)).await.expect("ends");
    assert_eq!(moved.version.version, Version(1));
    assert_eq!(moved.version.expires_at, Some(ends));
    assert!(!moved.repeated);
    let now = status(&house).await;
    assert_eq!(now.versions, [moved.version]);
    assert_eq!(now.behind().count(), 1);
    // In the last third of its new life.
    assert_eq!(
        now.renewal_due(after(&house, 0)),
        Some(after(&house, 2_400))
    );
    let prolonged = copied().await;
    assert_eq!((prolonged.expires_at, prolonged.repeated), (ends, false));
    assert!(copied().await.repeated);
    assert_eq!(status(&house).await.behind().count(), 0);

    house.clock.advance(Duration::from_secs(1_800));
    assert_eq!(redeems(&house, &tree).await, V1);
    // An end that is counted from now is not another one each time.
    let (same, asked) = (UnixSeconds(ends.0 + 3), turn(&house, seen).await);
    let same = given(&house, asked.expect("a turn"), V1, Some(same)).await;
    assert!(same.expect("ends").repeated);
    assert_eq!(
        status(&house).await.renewal_due(after(&house, 0)),
        Some(after(&house, 600))
    );
    assert!(house.verified().await.is_ok());
}

#[tokio::test]
async fn a_value_that_is_active_is_taken_although_an_older_version_with_it_was_revoked() {
    let house = House::new().await;
    obtained(&house, provided()).await;
    // It says now when it ends.
    let asked = turn(&house, Some(Version(1))).await.expect("a turn");
    let ends = after(&house, 3_600);
    let next = given(&house, asked, V1, Some(ends)).await.expect("ends");
    assert_eq!(next.superseded, Some(Version(1)));
    let revoked = house
        .vault
        .revoke_credential_version(revocation(1, false))
        .await;
    revoked.expect("revokes");
    house.clock.advance(Duration::from_secs(2_400));
    let asked = turn(&house, Some(Version(2))).await.expect("a turn");
    let again = given(&house, asked, V1, Some(after(&house, 3_600))).await;
    assert_eq!(again.expect("ends").version.version, Version(2));
}

#[tokio::test]
async fn a_value_that_was_replaced_comes_back_only_where_somebody_wants_it() {
    let house = House::new().await;
    obtained(&house, provided()).await;
    let asked = kept_turn(&house, 1).await.expect("a turn");
    given(&house, asked, V2, None).await.expect("ends");
    house.clock.advance(Duration::from_secs(30));
    let asked = kept_turn(&house, 2).await.expect("a turn");
    let back = given(&house, asked, V1, None).await;
    assert!(matches!(back, Err(VaultError::ValueSuperseded)), "{back:?}");
    assert_eq!(status(&house).await.versions.len(), 2);
    house.clock.advance(Duration::from_secs(121));
    let asked = turn(&house, Some(Version(2))).await.expect("a turn");
    let back = given(&house, asked, V1, None).await.expect("ends");
    assert_eq!(back.version.version, Version(3));
}

#[tokio::test]
async fn a_value_that_was_revoked_does_not_come_back() {
    for source in [provided(), source()] {
        let house = House::new().await;
        obtained(&house, source).await;
        let asked = turn(&house, Some(Version(1))).await.expect("a turn");
        given(&house, asked, V2, None).await.expect("ends");
        let revoked = revocation(1, false);
        let revoked = house.vault.revoke_credential_version(revoked).await;
        revoked.expect("revokes");
        house.clock.advance(Duration::from_secs(31));
        let asked = turn(&house, Some(Version(2))).await.expect("a turn");
        let back = given(&house, asked, V1, None).await;
        assert!(matches!(back, Err(VaultError::ValueRevoked)), "{back:?}");
    }
}

#[tokio::test]
async fn a_tree_starts_with_it_and_follows_its_rotation() {
    let house = House::new().await;
    made(&house).await;
    let tree = tree_of(&house, "train").await;
    assert_eq!(redeems(&house, &tree).await, V1);
    rotated(&house, V2, "r2").await;
    assert_eq!(redeems(&house, &tree).await, V1);
    assert_eq!(status(&house).await.behind().count(), 1);
    let target = || Target::Tree(tree.clone());
    assert!(!copy(&house, target()).await.expect("copies").repeated);
    assert!(copy(&house, target()).await.expect("copies").repeated);
    assert_eq!(redeems(&house, &tree).await, V2);
    assert_eq!(status(&house).await.behind().count(), 0);
    assert!(house.verified().await.is_ok());
}

#[tokio::test]
async fn a_value_that_ends_gives_grants_that_end_with_it_and_none_after() {
    let house = House::new().await;
    let now = house.vault.now().into();
    let UnixSeconds(seconds) = now;
    let ends = NewCredential {
        expires_at: Some(UnixSeconds(seconds + 600)),
        ..new(V1)
    };
    house.vault.create_credential(ends).await.expect("makes");
    let start = house.start("train").await;
    let copied = copy(&house, Target::Start(start)).await.expect("copies");
    assert_eq!(copied.expires_at, UnixSeconds(seconds + 600));
    house.clock.advance(HOUR);
    let late = house.start("late").await;
    let late = copy(&house, Target::Start(late)).await;
    assert!(
        matches!(late, Err(VaultError::CredentialExpired)),
        "{late:?}"
    );
}

#[tokio::test]
async fn a_version_goes_when_no_tree_holds_it() {
    let house = House::new().await;
    made(&house).await;
    let tree = tree_of(&house, "train").await;
    let active = house
        .vault
        .revoke_credential_version(revocation(1, false))
        .await;
    assert!(
        matches!(active, Err(VaultError::StillActive(_))),
        "{active:?}"
    );
    rotated(&house, V2, "r2").await;
    for force in [false, true] {
        let held = house
            .vault
            .revoke_credential_version(revocation(1, force))
            .await;
        assert!(matches!(held, Err(VaultError::HeldByTrees(1))), "{held:?}");
    }
    copy(&house, Target::Tree(tree.clone()))
        .await
        .expect("copies");
    let of_tree = Revocation {
        tree: tree.clone(),
        slot: Slot::default_slot(),
        version: Version(1),
        force: false,
        by: agent("admin"),
        note: None,
    };
    house.vault.revoke(of_tree).await.expect("revokes");
    let before = house.rows("secrets").await;
    let gone = house
        .vault
        .revoke_credential_version(revocation(1, false))
        .await;
    assert_eq!(gone.expect("revokes").state, VersionState::Revoked);
    assert_eq!(house.rows("secrets").await, before - 1);
    assert_eq!(redeems(&house, &tree).await, V2);
}

#[tokio::test]
async fn a_tree_that_was_stopped_holds_nothing() {
    let house = House::new().await;
    made(&house).await;
    let tree = tree_of(&house, "train").await;
    rotated(&house, V2, "r2").await;
    house.vault.stop(stopping(&tree)).await.expect("stops");
    let gone = house
        .vault
        .revoke_credential_version(revocation(1, false))
        .await;
    assert!(gone.is_ok(), "{gone:?}");
}

#[tokio::test]
async fn removing_shreds_and_the_name_can_be_used_again() {
    let house = House::new().await;
    made(&house).await;
    let vault = &house.vault;
    let (kind, slot) = ("Train".parse().unwrap(), Slot::default_slot());
    let by = agent("admin");
    vault
        .bind_credential(&namespace(), &name(), &kind, &slot, &by)
        .await
        .expect("binds");
    let bound = vault.remove_credential(removal()).await;
    assert!(
        matches!(bound, Err(VaultError::CredentialBound)),
        "{bound:?}"
    );
    vault
        .unbind_credential(&namespace(), &name(), &kind, &slot, &by)
        .await
        .expect("unbinds");
    vault.remove_credential(removal()).await.expect("removes");
    assert_eq!(house.rows("keys WHERE purpose = 'credential'").await, 0);
    assert_eq!(house.rows("secrets").await, 0);
    assert_eq!(house.last_entry().await.kind, Kind::CredentialRemoved);
    let gone = vault.credential(&namespace(), &name()).await;
    assert!(matches!(gone, Err(VaultError::NotFound { .. })), "{gone:?}");
    let again = NewCredential {
        request: "c2".parse().unwrap(),
        ..new(V2)
    };
    let again = vault.create_credential(again).await.expect("makes");
    assert_eq!(again.version.version, Version(2));
}

#[tokio::test]
async fn a_slot_of_a_type_has_one_credential() {
    let house = House::new().await;
    made(&house).await;
    let other = NewCredential {
        name: "other".parse().unwrap(),
        ..new(V2)
    };
    house.vault.create_credential(other).await.expect("makes");
    let (kind, slot) = ("Train".parse().unwrap(), Slot::default_slot());
    let bind = async |name: &str| {
        let (name, by) = (name.parse().unwrap(), agent("admin"));
        let vault = &house.vault;
        vault
            .bind_credential(&namespace(), &name, &kind, &slot, &by)
            .await
    };
    bind("acme").await.expect("binds");
    bind("acme").await.expect("changes nothing");
    let taken = bind("other").await;
    assert!(matches!(taken, Err(VaultError::SlotBound)), "{taken:?}");
    let bound = house.vault.bindings(&namespace(), &kind).await;
    assert_eq!(bound.expect("bindings").len(), 1);
}

#[tokio::test]
async fn a_credential_that_was_edited_or_moved_is_noticed() {
    for (sql, what) in [
        (
            "UPDATE credentials SET audiences = '[\"https://evil.example\"]'",
            "credential",
        ),
        ("UPDATE credentials SET owner = 'thief'", "credential"),
        (
            "UPDATE credential_versions SET expires_at = 9999999999",
            "version of credential",
        ),
        (
            "UPDATE credential_versions SET state = 'superseded'",
            "version of credential",
        ),
        (
            "UPDATE credential_versions SET secret_id = (SELECT secret_id FROM versions LIMIT 1)",
            "version of credential",
        ),
        (
            "UPDATE versions SET credential_version = 2 WHERE credential = 'acme'",
            "version",
        ),
        (
            "UPDATE secrets SET ciphertext = substr(ciphertext, 2) WHERE id IN
                (SELECT secret_id FROM credential_versions)",
            "value of credential",
        ),
    ] {
        let house = House::new().await;
        made(&house).await;
        let tree = tree_of(&house, "train").await;
        house.tamper(sql).await;
        let other = house.start("other").await;
        let read = house.vault.credential(&namespace(), &name()).await.err();
        let copied = copy(&house, Target::Start(other)).await.err();
        match read.or(copied) {
            Some(VaultError::Tampered(place)) => assert_eq!(place.what, what, "{sql}"),
            answer => panic!("{sql}: {answer:?} ({tree})"),
        }
    }
}

#[tokio::test]
async fn a_binding_that_was_pointed_at_another_credential_is_noticed() {
    let house = House::new().await;
    made(&house).await;
    let other = NewCredential {
        name: "other".parse().unwrap(),
        ..new(V2)
    };
    house.vault.create_credential(other).await.expect("makes");
    let (kind, slot) = ("Train".parse().unwrap(), Slot::default_slot());
    house
        .vault
        .bind_credential(&namespace(), &name(), &kind, &slot, &agent("admin"))
        .await
        .expect("binds");
    house
        .tamper("UPDATE credential_bindings SET name = 'other'")
        .await;
    let bindings = house.vault.bindings(&namespace(), &kind).await;
    assert!(
        matches!(bindings, Err(VaultError::Tampered(_))),
        "{bindings:?}"
    );
}

#[tokio::test]
async fn no_file_and_no_text_holds_the_value() {
    let house = House::new().await;
    let made = made(&house).await;
    tree_of(&house, "train").await;
    let shown = format!("{:?} {made:?} {:?}", new(V1), status(&house).await);
    assert!(!shown.contains(V1), "{shown}");
    for bytes in house.at_rest().await {
        assert!(memchr::memmem::find(&bytes, V1.as_bytes()).is_none());
    }
}
