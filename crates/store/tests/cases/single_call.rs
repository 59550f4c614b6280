//! Tools that are called at most once: an activity gets a token for them again only where the API is
//! known to have done nothing.

use crate::house::*;
use std::time::Duration;
use xylem_audit::{Activity, Kind, Reason, Verdict};
use xylem_grant::VerifiedGrant;
use xylem_ids::{LeaseId, TreeId};
use xylem_registry::{Auth, RetryClass, Tool};
use xylem_vault::{CallEnd, VaultError};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A house whose only tool is called at most once, with the token of a slot or none.
async fn house(token: bool) -> (House, TreeId, VerifiedGrant) {
    let house = House::bare().await;
    let mut definition = tool("acme.deploy", "default").definition().clone();
    definition.retry = RetryClass::AtMostOnce;
    if !token {
        (definition.slot, definition.auth) = (None, Auth::None);
    }
    let known = house.propose(Tool::new(definition).unwrap()).await;
    house.approve(&known).await;
    let (tree, grant) = house.planted("train").await;
    (house, tree, grant)
}

fn of(ask: Ask, activity: &str, attempt: u32) -> Ask {
    let activity = Activity::new(activity, attempt).unwrap();
    ask.with(|redemption| redemption.claims.activity = activity)
}

async fn redeem(house: &House, ask: Ask) -> Result<LeaseId, VaultError> {
    if !ask.redemption.grant.is_empty() {
        return house.redeem(ask).await.map(|redeemed| redeemed.lease);
    }
    let vault = &house.vault;
    let redeemed = vault.redeem_slotless(ask.redemption, &ask.check, &house.policies);
    redeemed.await.map(|redeemed| redeemed.lease)
}

async fn ended(house: &House, lease: &LeaseId, undone: bool) {
    let end = CallEnd {
        succeeded: false,
        reason: Some(Reason::of(if undone { "not_sent" } else { "no_answer" })),
        status: None,
        duration: Duration::from_millis(1),
        undone,
        bytes_out: 0,
        bytes_in: 0,
    };
    let released = house.vault.release(lease, &worker(), &end).await;
    released.expect("releases");
}

async fn is_called_before(house: &House, ask: Ask) {
    match redeem(house, ask).await {
        Err(VaultError::Refused(refusal)) => assert_eq!(refusal.code(), "called_before"),
        other => panic!("not refused: {other:?}"),
    }
    let entry = house.last_entry().await;
    assert_eq!((entry.kind, entry.verdict), (Kind::Redeem, Verdict::Denied));
}

#[tokio::test]
async fn an_activity_gets_another_token_only_where_nothing_was_done() {
    for token in [true, false] {
        let (house, tree, grant) = house(token).await;
        let ask = |activity, attempt| match token {
            true => of(Ask::new(&tree, &grant), activity, attempt),
            false => of(Ask::without_grant(&tree), activity, attempt),
        };
        let first = redeem(&house, ask("7", 1)).await.expect("a lease");
        ended(&house, &first, true).await;
        let second = redeem(&house, ask("7", 2)).await.expect("nothing was done");
        // The worker is dead, or not yet.
        is_called_before(&house, ask("7", 3)).await;
        // What ended before has nothing to say about the attempt after it.
        ended(&house, &first, true).await;
        is_called_before(&house, ask("7", 3)).await;
        ended(&house, &second, false).await;
        is_called_before(&house, ask("7", 4)).await;
        // An operator who resets the attempts begins with the first again.
        is_called_before(&house, ask("7", 1)).await;
        redeem(&house, ask("8", 1)).await.expect("another call");
        let run = |redemption: &mut xylem_vault::Redemption| {
            redemption.claims.run_id = "another-run".parse().unwrap();
        };
        let elsewhere = redeem(&house, ask("7", 1).with(run)).await;
        elsewhere.expect("another run's call");
        house.verified().await.expect("an intact log");
    }
}

#[tokio::test]
async fn a_refusal_is_no_attempt() {
    let (house, tree, grant) = house(true).await;
    let elsewhere = of(Ask::new(&tree, &grant), "7", 1)
        .with(|r| r.destination = "https://evil.example".parse().unwrap());
    assert_eq!(house.refused(elsewhere).await.code(), "other_audience");
    let ask = of(Ask::new(&tree, &grant), "7", 2);
    redeem(&house, ask).await.expect("nothing was done");
}

#[tokio::test]
async fn a_call_is_known_longer_than_its_lease() {
    let (house, tree, _) = house(false).await;
    let ask = || of(Ask::without_grant(&tree), "7", 1);
    redeem(&house, ask()).await.expect("a lease");
    house.clock.advance(89 * DAY);
    house.vault.tidy().await.expect("tidies");
    assert_eq!(house.rows("tool_leases").await, 0);
    is_called_before(&house, ask()).await;
    house.clock.advance(2 * DAY);
    house.vault.tidy().await.expect("tidies");
    assert_eq!(house.rows("single_calls").await, 0);
}
