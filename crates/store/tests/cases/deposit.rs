//! Deposits, starts, intake, rollback, re-issue, revocation and stop on a real database.

use crate::house::{self, Ask, Check, HOUR, House, V1, V2, V3, agent, audiences, slot};
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;
use xylem_audit::{Kind, Reason, Verdict};
use xylem_ids::{TreeId, Version};
use xylem_vault::{
    Deposited, Refusal, RequestId, Revocation, TakeIn, Target, TreeState, VaultError, VersionState,
};

fn request(text: &str) -> RequestId {
    text.parse().unwrap()
}

async fn states(house: &House, tree: &TreeId) -> Vec<(u32, VersionState, bool)> {
    let status = house.vault.status(tree).await.unwrap();
    let seen = status
        .iter()
        .map(|v| (v.info.version.0, v.info.state, v.info.exposed));
    seen.collect()
}

fn revocation(tree: &TreeId, version: u32, force: bool) -> Revocation {
    Revocation {
        tree: tree.clone(),
        slot: slot("default"),
        version: Version(version),
        force,
        by: agent("operator"),
        note: None,
    }
}

#[tokio::test]
async fn a_deposit_supersedes_what_was_active_and_the_same_request_is_done_once() {
    let house = House::new().await;
    let (tree, v1) = house.planted("train").await;
    let first = house.deposit(&tree, V2, "d2").await;
    assert!(!first.repeated && first.order.version == Version(2));
    let again = house.deposit(&tree, V2, "d2").await;
    assert!(again.repeated);
    assert_eq!(
        (again.order, &again.fingerprint),
        (first.order, &first.fingerprint)
    );
    assert_eq!(again.grant, first.grant);
    assert!(first.grant.as_ref().unwrap().order() > v1.order());
    assert_eq!(
        states(&house, &tree).await,
        [
            (1, VersionState::Superseded, false),
            (2, VersionState::Active, false)
        ]
    );
    let deposits = house
        .log()
        .await
        .into_iter()
        .filter(|r| r.entry.kind == Kind::Deposit);
    assert_eq!(deposits.count(), 2);

    let reused = house::deposit(Target::Tree(tree.clone()), V3, "d2");
    let reused = house.vault.deposit(reused).await;
    assert!(matches!(reused, Err(VaultError::RequestReused)));
}

#[tokio::test]
async fn slots_are_independent() {
    let house = House::new().await;
    let (tree, _) = house.planted("train").await;
    let mut github = house::deposit(Target::Tree(tree.clone()), V2, "g1");
    github.slot = slot("github");
    let github = house.vault.deposit(github).await.unwrap();
    assert_eq!(github.order.version, Version(1));
    assert_eq!(house.vault.grants(&tree).await.unwrap().len(), 2);
    let ask =
        Ask::new(&tree, &github.grant.unwrap()).with(|r| r.tool = "git.pull".parse().unwrap());
    assert_eq!(house.redeem(ask).await.unwrap().token.expose_secret(), V2);
}

#[tokio::test]
async fn a_deposit_keeps_its_rules_and_leaves_nothing_where_it_does_not() {
    let house = House::new().await;
    let tree = house.tree("train").await;
    let target = || Target::Tree(tree.clone());
    for (token, field) in [
        ("short", "token"),
        ("with space in it 123", "token"),
        ("xylem1.abcdefghijklmnop", "token"),
    ] {
        let refused = house
            .vault
            .deposit(house::deposit(target(), token, "d"))
            .await;
        assert!(matches!(refused, Err(VaultError::Invalid { field: f, .. }) if f == field));
    }
    let mut forever = house::deposit(target(), V1, "d");
    forever.lifetime = Duration::ZERO;
    let refused = house.vault.deposit(forever).await;
    assert!(matches!(
        refused,
        Err(VaultError::Invalid {
            field: "lifetime",
            ..
        })
    ));
    let mut forced = house::deposit(target(), "tiny", "d");
    forced.accept_short = true;
    assert_eq!(
        house.vault.deposit(forced).await.unwrap().order.version,
        Version(1)
    );
}

#[tokio::test]
async fn a_grant_that_would_not_fit_is_refused_before_the_root_starts() {
    let house = House::new().await;
    let start = house.start("train").await;
    let mut large = house::deposit(Target::Start(start), V1, "d1");
    let list: Vec<String> = (0..20)
        .map(|n| format!("https://h{n}.example/{}", "x".repeat(400)))
        .collect();
    large.audiences = audiences(&list.iter().map(String::as_str).collect::<Vec<_>>());
    let refused = house.vault.deposit(large).await;
    assert!(matches!(refused, Err(VaultError::Issuer(_))), "{refused:?}");
}

#[tokio::test]
async fn a_start_is_opened_and_bound_once() {
    let house = House::new().await;
    let start = house.start("train").await;
    assert_eq!(house.start("train").await, start);
    assert_eq!(house.vault.starting().await.unwrap().len(), 1);
    let deposit = || house::deposit(Target::Start(start.clone()), V1, "d1");
    assert!(
        house
            .vault
            .deposit(deposit())
            .await
            .unwrap()
            .grant
            .is_none()
    );
    assert!(house.vault.deposit(deposit()).await.unwrap().repeated);

    let bound = house
        .vault
        .bind(&start, "run-1".parse().unwrap())
        .await
        .unwrap();
    let [grant] = bound.grants.as_slice() else {
        panic!("one grant")
    };
    assert_eq!(grant.claims().tree, bound.tree);
    assert!(house.vault.starting().await.unwrap().is_empty());
    let redeemed = house.redeem(Ask::new(&bound.tree, grant)).await.unwrap();
    assert_eq!(redeemed.token.expose_secret(), V1);

    let again = house
        .vault
        .bind(&start, "run-1".parse().unwrap())
        .await
        .unwrap();
    assert_eq!(again.grants, bound.grants);
    let other = house.vault.bind(&start, "run-2".parse().unwrap()).await;
    assert!(matches!(other, Err(VaultError::BoundElsewhere)));
    let late = house.vault.abandon(&start, &agent("service")).await;
    assert!(matches!(late, Err(VaultError::BoundElsewhere)));
}

#[tokio::test]
async fn an_abandoned_start_is_destroyed() {
    let house = House::new().await;
    let start = house.start("train").await;
    let deposit = house::deposit(Target::Start(start.clone()), V1, "d1");
    house.vault.deposit(deposit).await.unwrap();
    house
        .vault
        .abandon(&start, &agent("service"))
        .await
        .unwrap();
    house
        .vault
        .abandon(&start, &agent("service"))
        .await
        .unwrap();
    let late = house.vault.bind(&start, "run-1".parse().unwrap()).await;
    assert!(matches!(late, Err(VaultError::Stopped)));
    let deposit = house::deposit(Target::Start(start), V2, "d2");
    assert!(matches!(
        house.vault.deposit(deposit).await,
        Err(VaultError::Stopped)
    ));
    assert_eq!(house.rows("secrets").await, 0);
    assert_eq!(house.rows("keys WHERE purpose = 'tree'").await, 0);
}

#[tokio::test]
async fn a_running_root_is_adopted_unless_it_may_be_one_that_is_starting() {
    let house = House::new().await;
    let start = house.start("train").await;
    let adopt = |request: &str| {
        let mut new = house::new_tree("train");
        new.request = request.parse().unwrap();
        house.vault.adopt(new, "run-1".parse().unwrap())
    };
    let early = adopt("a").await.unwrap_err();
    assert!(matches!(early, VaultError::StillStarting) && early.is_retryable());
    house
        .vault
        .abandon(&start, &agent("service"))
        .await
        .unwrap();
    let tree = adopt("a").await.unwrap();
    assert_eq!(adopt("b").await.unwrap(), tree);
    assert!(matches!(tree.state, TreeState::Bound { .. }));
    let mut reused = house::new_tree("other");
    reused.request = request("a");
    let reused = house.vault.adopt(reused, "run-9".parse().unwrap()).await;
    assert!(matches!(reused, Err(VaultError::RequestReused)));
    let mut late = house::new_tree("train");
    late.request = request("late");
    let late = house.vault.open_tree(late).await.unwrap();
    let taken = house.vault.bind(&late, "run-1".parse().unwrap()).await;
    assert!(matches!(taken, Err(VaultError::BoundElsewhere)));
    house.vault.abandon(&late, &agent("service")).await.unwrap();
    let found = house
        .vault
        .find_tree(&tree.namespace, &tree.workflow_id)
        .await
        .unwrap();
    assert_eq!(
        found.start, tree.start,
        "a start that was given up hides nobody"
    );
}

#[tokio::test]
async fn trees_are_listed_newest_first_page_by_page() {
    let house = House::new().await;
    for name in ["a", "b", "c"] {
        house.tree(name).await;
    }
    let names = |trees: &[xylem_vault::Tree]| -> Vec<String> {
        trees
            .iter()
            .map(|tree| tree.workflow_id.to_string())
            .collect()
    };
    let first = house
        .vault
        .trees(&house::namespace(), None, 2)
        .await
        .unwrap();
    assert_eq!(names(&first), ["c", "b"]);
    let rest = house
        .vault
        .trees(&house::namespace(), Some(&first[1].start), 2)
        .await
        .unwrap();
    assert_eq!(names(&rest), ["a"]);
    let other = house
        .vault
        .trees(&"other".parse().unwrap(), None, 2)
        .await
        .unwrap();
    assert!(other.is_empty());
}

#[tokio::test]
async fn a_reissue_raises_the_serial_and_only_when_it_is_due() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    let (default, sweep) = (slot("default"), agent("sweep"));
    let reissue = async |lifetime| {
        let issued = house.vault.reissue(&tree, &default, lifetime, &sweep);
        issued.await.unwrap()
    };
    assert_eq!(reissue(HOUR).await, grant);
    assert!(house.vault.expiring(HOUR).await.unwrap().is_empty());
    assert_eq!(
        house.vault.expiring(25 * HOUR).await.unwrap(),
        [(tree.clone(), slot("default"))]
    );
    let longer = reissue(48 * HOUR).await;
    assert_eq!(longer.order().serial.0, 2);
    assert_eq!(longer.order().version, grant.order().version);
    assert!(longer.claims().expires_at > grant.claims().expires_at);
    assert_eq!(longer.claims().fingerprint, grant.claims().fingerprint);
    assert_eq!(reissue(48 * HOUR).await, longer);
    let redeemed = house.redeem(Ask::new(&tree, &grant)).await.unwrap();
    assert!(redeemed.newer && redeemed.grant == longer);
}

#[tokio::test]
async fn a_rollback_deposits_an_earlier_version_as_the_next() {
    let house = House::new().await;
    let (tree, v1) = house.planted("train").await;
    house.deposit(&tree, V2, "d2").await;
    let (default, operator) = (slot("default"), agent("operator"));
    let back = async |to, key: &str| {
        let request = request(key);
        house
            .vault
            .rollback(&tree, &default, Version(to), HOUR, &operator, &request)
            .await
    };
    let third = back(1, "r1").await.unwrap();
    assert_eq!(third.order.version, Version(3));
    assert_eq!(third.fingerprint, v1.claims().fingerprint);
    assert!(back(1, "r1").await.unwrap().repeated);
    let redeemed = house.redeem(Ask::new(&tree, &v1)).await.unwrap();
    assert_eq!(redeemed.token.expose_secret(), V1);
    house
        .vault
        .revoke(revocation(&tree, 2, false))
        .await
        .unwrap();
    assert!(matches!(
        back(2, "r2").await,
        Err(VaultError::AlreadyRevoked(Version(2)))
    ));
    assert!(matches!(
        back(9, "r3").await,
        Err(VaultError::NotFound { what: "version" })
    ));
}

async fn take_in(
    house: &House,
    tree: &TreeId,
    token: &str,
    key: &str,
) -> Result<Deposited, VaultError> {
    let check = Check::Confirms(house::lineage(tree));
    let claims = house::claims("leaf").confirm(&check).await.unwrap();
    let intake = TakeIn {
        claims,
        worker: house::worker(),
        slot: slot("default"),
        token: SecretString::from(token),
        audiences: audiences(&["https://api.acme.example"]),
        lifetime: HOUR,
        request: request(key),
    };
    assert!(!format!("{intake:?}").contains(token));
    house.vault.take_in(intake).await
}

async fn open_tree(house: &House, workflow_id: &str) -> TreeId {
    let mut new = house::new_tree(workflow_id);
    new.intake = true;
    let start = house.vault.open_tree(new).await.unwrap();
    house
        .vault
        .bind(&start, "run-1".parse().unwrap())
        .await
        .unwrap()
        .tree
}

#[tokio::test]
async fn a_raw_token_is_refused_where_intake_is_off_and_audited_as_an_exposure() {
    let house = House::new().await;
    let (tree, _) = house.planted("train").await;
    let refused = take_in(&house, &tree, V2, "s1").await;
    assert!(matches!(
        refused,
        Err(VaultError::Refused(Refusal::IntakeOff))
    ));
    let entry = house.last_entry().await;
    assert_eq!(
        (entry.kind, entry.verdict),
        (Kind::Exposure, Verdict::Denied)
    );
    assert_eq!(
        states(&house, &tree).await,
        [(1, VersionState::Active, false)]
    );
}

#[tokio::test]
async fn a_raw_token_is_taken_in_as_exposed_and_the_same_signal_once() {
    let house = House::new().await;
    let tree = open_tree(&house, "train").await;
    let first = take_in(&house, &tree, V1, "s1").await.unwrap();
    let grant = first.grant.unwrap();
    assert!(grant.claims().exposed);
    let again = take_in(&house, &tree, V1, "s1").await.unwrap();
    assert!(again.repeated);
    let second = take_in(&house, &tree, V2, "s2").await.unwrap();
    assert_eq!(second.order.version, Version(2));
    let redeemed = house.redeem(Ask::new(&tree, &grant)).await.unwrap();
    assert_eq!(redeemed.token.expose_secret(), V2);
}

#[tokio::test]
async fn an_exposed_token_never_supersedes_an_authenticated_one() {
    let house = House::new().await;
    let tree = open_tree(&house, "train").await;
    take_in(&house, &tree, V1, "s1").await.unwrap();
    let v2 = house.deposit(&tree, V2, "d2").await.grant.unwrap();
    let taken = take_in(&house, &tree, V3, "s2").await.unwrap();
    assert_eq!(taken.state, VersionState::Superseded);
    assert_eq!(taken.grant, Some(v2.clone()));
    let redeemed = house.redeem(Ask::new(&tree, &v2)).await.unwrap();
    assert_eq!(redeemed.token.expose_secret(), V2);
    assert_eq!(
        states(&house, &tree).await,
        [
            (1, VersionState::Superseded, true),
            (2, VersionState::Active, false),
            (3, VersionState::Superseded, true)
        ]
    );
}

#[tokio::test]
async fn signalling_the_active_token_marks_it_exposed() {
    let house = House::new().await;
    let tree = open_tree(&house, "train").await;
    let v1 = house.deposit(&tree, V1, "d1").await.grant.unwrap();
    let taken = take_in(&house, &tree, V1, "s1").await.unwrap();
    let grant = taken.grant.unwrap();
    assert!(grant.claims().exposed && grant.order() > v1.order());
    assert_eq!(
        states(&house, &tree).await,
        [(1, VersionState::Active, true)]
    );
    let again = take_in(&house, &tree, V1, "s1").await.unwrap();
    assert_eq!(again.grant, Some(grant));
}

#[tokio::test]
async fn a_version_in_use_is_not_revoked_until_its_leases_are_over() {
    let house = House::new().await;
    let (tree, v1) = house.planted("train").await;
    let held = house.redeem(Ask::new(&tree, &v1)).await.unwrap();
    let active = house.vault.revoke(revocation(&tree, 1, false)).await;
    assert!(matches!(active, Err(VaultError::StillActive(Version(1)))));
    house.deposit(&tree, V2, "d2").await;
    let open = house.vault.revoke(revocation(&tree, 1, false)).await;
    assert!(
        matches!(open, Err(VaultError::OpenLeases { count: 1, .. })),
        "{open:?}"
    );
    assert_eq!(house.vault.status(&tree).await.unwrap()[0].open_leases, 1);

    house.release(&held, &ended()).await;
    let revoked = house
        .vault
        .revoke(revocation(&tree, 1, false))
        .await
        .unwrap();
    assert_eq!((revoked.open_leases, revoked.before), (0, false));
    assert!(
        house
            .vault
            .revoke(revocation(&tree, 1, false))
            .await
            .unwrap()
            .before
    );
    assert_eq!(house.last_entry().await.kind, Kind::Revoke);
    assert_eq!(house.rows("secrets").await, 1);
}

fn ended() -> xylem_vault::CallEnd {
    xylem_vault::CallEnd {
        succeeded: true,
        reason: None,
        status: Some(200),
        duration: Duration::from_millis(1),
        undone: false,
        bytes_out: 0,
        bytes_in: 0,
    }
}

#[tokio::test]
async fn a_lease_that_nobody_releases_ends_by_itself() {
    let house = House::new().await;
    let (tree, v1) = house.planted("train").await;
    let held = house.redeem(Ask::new(&tree, &v1)).await.unwrap();
    house.deposit(&tree, V2, "d2").await;
    house.clock.advance(Duration::from_secs(31));
    house
        .vault
        .revoke(revocation(&tree, 1, false))
        .await
        .unwrap();
    house.release(&held, &ended()).await;
    assert_eq!(house.last_entry().await.kind, Kind::Outcome);
    house.clock.advance(48 * HOUR);
    assert_eq!(house.vault.tidy().await.unwrap(), 1);
}

/// The outcomes in the log: how they ended, why, and of which lease.
async fn outcomes(house: &House) -> Vec<xylem_audit::Entry> {
    let log = house.log().await.into_iter().map(|record| record.entry);
    log.filter(|entry| entry.kind == Kind::Outcome).collect()
}

#[tokio::test]
async fn a_call_that_never_reported_gets_its_outcome_before_its_lease_is_forgotten() {
    let house = House::new().await;
    let (tree, v1) = house.planted("train").await;
    let lost = house.redeem(Ask::new(&tree, &v1)).await.unwrap();
    let told = house.redeem(Ask::new(&tree, &v1)).await.unwrap();
    house.release(&told, &ended()).await;
    house.clock.advance(23 * HOUR);
    assert_eq!(house.vault.tidy().await.unwrap(), 0);
    assert_eq!(outcomes(&house).await.len(), 1, "it may still report");
    house.clock.advance(2 * HOUR);
    assert_eq!(house.vault.tidy().await.unwrap(), 2);
    assert_eq!(house.leases().await, 0);
    let entries = outcomes(&house).await;
    assert_eq!(entries.len(), 2);
    let entry = &entries[1];
    assert_eq!(entry.lease.as_ref(), Some(&lost.lease));
    assert_eq!(entry.verdict, Verdict::Failed);
    assert_eq!(entry.reason, Some(Reason::of("lease_expired")));
    assert_eq!((entry.status, entry.duration_ms), (None, None));
    assert_eq!(entry.tree.as_ref(), Some(&tree));
    assert_eq!(entry.order, Some(lost.order));
    assert_eq!(entry.agent, Some(agent("worker")));
    house.vault.tidy().await.unwrap();
    assert_eq!(outcomes(&house).await.len(), 2);
}

#[tokio::test]
async fn an_edited_version_does_not_keep_leases_from_being_forgotten() {
    let house = House::new().await;
    let (tree, v1) = house.planted("train").await;
    let lost = house.redeem(Ask::new(&tree, &v1)).await.unwrap();
    house.tamper("UPDATE versions SET exposed = 1").await;
    house.clock.advance(25 * HOUR);
    assert_eq!(house.vault.tidy().await.unwrap(), 1);
    let entries = outcomes(&house).await;
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].lease.as_ref(), Some(&lost.lease));
    assert_eq!(entries[0].order, None);
}

#[tokio::test]
async fn many_calls_that_never_reported_get_an_outcome_each() {
    let house = House::new().await;
    let (tree, v1) = house.planted("train").await;
    for _ in 0..205 {
        house.redeem(Ask::new(&tree, &v1)).await.unwrap();
    }
    house.clock.advance(25 * HOUR);
    assert_eq!(house.vault.tidy().await.unwrap(), 205);
    let leases: std::collections::BTreeSet<_> = outcomes(&house)
        .await
        .into_iter()
        .map(|e| e.lease)
        .collect();
    assert_eq!(leases.len(), 205);
}

#[tokio::test]
async fn a_forced_revocation_is_audited_as_one() {
    let house = House::new().await;
    let (tree, v1) = house.planted("train").await;
    house.redeem(Ask::new(&tree, &v1)).await.unwrap();
    let revoked = house
        .vault
        .revoke(revocation(&tree, 1, true))
        .await
        .unwrap();
    assert_eq!(revoked.open_leases, 1);
    let entry = house.last_entry().await;
    assert_eq!(entry.kind, Kind::ForcedRevoke);
    assert_eq!(entry.order, Some(v1.order()));
    assert_eq!(
        house.refused(Ask::new(&tree, &v1)).await,
        Refusal::TokenRevoked
    );
}

#[tokio::test]
async fn a_stopped_tree_is_destroyed_and_stays_so() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    house.deposit(&tree, V2, "d2").await;
    let stopped = house.vault.stop(house::stopping(&tree)).await.unwrap();
    assert!(matches!(stopped.state, TreeState::Stopped { .. }));
    assert_eq!(
        house.vault.stop(house::stopping(&tree)).await.unwrap(),
        stopped
    );
    assert_eq!(
        house.refused(Ask::new(&tree, &grant)).await,
        Refusal::TreeStopped
    );
    let late = house::deposit(Target::Tree(tree.clone()), V3, "d3");
    assert!(matches!(
        house.vault.deposit(late).await,
        Err(VaultError::Stopped)
    ));
    assert!(house.vault.grants(&tree).await.unwrap().is_empty());
    assert_eq!(house.rows("secrets").await, 0);
    assert_eq!(house.rows("keys WHERE purpose = 'tree'").await, 0);
    let states = states(&house, &tree).await;
    assert!(
        states
            .iter()
            .all(|(_, state, _)| *state == VersionState::Revoked)
    );
}

#[tokio::test]
async fn a_new_issuer_key_retires_the_old_one_in_every_grant() {
    let house = House::new().await;
    let (tree, old) = house.planted("train").await;
    assert_eq!(
        house
            .vault
            .rotate_issuer(&house::namespace(), &agent("admin"))
            .await
            .unwrap()
            .trees,
        std::slice::from_ref(&tree)
    );
    let grants = house.vault.grants(&tree).await.unwrap();
    let [new] = grants.as_slice() else {
        panic!("one grant")
    };
    assert_ne!(new.key_id(), old.key_id());
    assert_eq!(new.claims().retires, [old.key_id().clone()]);
    let trusted = house.vault.issuer_set().await.unwrap();
    assert!(trusted.is_retired(old.key_id()) && !trusted.is_retired(new.key_id()));
    let next = house.deposit(&tree, V2, "d2").await.grant.unwrap();
    assert_eq!(next.key_id(), new.key_id());
    let house = house.reopen().await;
    let trusted = house.vault.issuer_set().await.unwrap();
    assert!(trusted.is_retired(old.key_id()));
    assert!(house.vault.verify(old.as_str()).await.is_ok());
}
