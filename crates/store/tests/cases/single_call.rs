//! Tools that are called at most once: an activity gets a token for them again only where the API is
//! known to have done nothing.

use crate::house::*;
use secrecy::ExposeSecret;
use std::time::Duration;
use xylem_audit::{Activity, Kind, Reason, Verdict};
use xylem_grant::VerifiedGrant;
use xylem_ids::{LeaseId, RetryClass, TreeId};
use xylem_policy::{Period, RateLimit};
use xylem_registry::{Auth, Tool};
use xylem_vault::{CallEnd, VaultError};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A house whose only tool is called at most once, with the token of a slot or none.
async fn house(token: bool) -> (House, TreeId, VerifiedGrant) {
    house_with(token, None).await
}

async fn house_with(token: bool, limit: Option<RateLimit>) -> (House, TreeId, VerifiedGrant) {
    let house = House::bare().await;
    let mut definition = tool("acme.deploy", "default").definition().clone();
    (definition.retry, definition.rate_limit) = (RetryClass::AtMostOnce, limit);
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

/// Asked under an id that the worker made for this attempt.
fn under(ask: Ask, request: &str) -> Ask {
    ask.with(|redemption| redemption.request = request.parse().ok())
}

#[tokio::test]
async fn a_lost_answer_is_given_again_to_its_own_attempt_and_to_no_other() {
    for token in [true, false] {
        let limit = RateLimit {
            calls: 1,
            per: Period::Day,
        };
        let (house, tree, grant) = house_with(token, Some(limit)).await;
        let ask = |attempt| match token {
            true => of(Ask::new(&tree, &grant), "7", attempt),
            false => of(Ask::without_grant(&tree), "7", attempt),
        };
        let once = || under(ask(1), "once");
        let first = redeem(&house, once()).await.expect("a lease");
        let again = redeem(&house, once())
            .await
            .expect("the same, not another call");
        assert_eq!(again, first);
        let entry = house.last_entry().await;
        assert_eq!(
            (entry.kind, entry.verdict),
            (Kind::Redeem, Verdict::Granted)
        );
        assert_eq!(entry.reason, Some(Reason::of("repeated")));
        assert_eq!(entry.lease.as_ref(), Some(&first));
        let leases = house.rows("leases").await + house.rows("tool_leases").await;
        assert_eq!(leases, 1);
        let of_another = once().with(|redemption| redemption.worker.agent = agent("another"));
        for other in [
            under(ask(2), "once"),
            under(ask(1), "another"),
            ask(1),
            of_another,
        ] {
            is_called_before(&house, other).await;
        }
        redeem(&house, once()).await.expect("still");
        ended(&house, &first, false).await;
        is_called_before(&house, once()).await;
        house.verified().await.expect("an intact log");
    }
}

#[tokio::test]
async fn what_has_ended_is_not_given_again() {
    for token in [true, false] {
        let (house, tree, grant) = house(token).await;
        let ask = || match token {
            true => under(of(Ask::new(&tree, &grant), "7", 1), "once"),
            false => under(of(Ask::without_grant(&tree), "7", 1), "once"),
        };
        let first = redeem(&house, ask()).await.expect("a lease");
        ended(&house, &first, true).await;
        let second = redeem(&house, ask()).await.expect("nothing was done");
        assert_ne!(first, second);
        house.clock.advance(Duration::from_secs(31));
        is_called_before(&house, ask()).await;
    }
}

#[tokio::test]
async fn under_one_lease_no_other_token_is_handed_out() {
    let (house, tree, grant) = house(true).await;
    let ask = || under(of(Ask::new(&tree, &grant), "7", 1), "once");
    let first = house.redeem(ask()).await.expect("a token");
    let again = house.redeem(ask()).await.expect("the same");
    assert_eq!(first.token.expose_secret(), again.token.expose_secret());
    assert_eq!(first.lease_expires_at, again.lease_expires_at);
    house.deposit(&tree, V2, "rotated").await;
    is_called_before(&house, ask()).await;
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
