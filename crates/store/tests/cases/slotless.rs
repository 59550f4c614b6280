//! Tools that take no token of the tree: with a stored credential, and without any.

use super::credential::{made, name, new, removal, revocation, rotated};
use crate::house::*;
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;
use xylem_audit::{Kind, Verdict};
use xylem_ids::{TreeId, Version};
use xylem_policy::{Period, RateLimit};
use xylem_registry::{Auth, Tool};
use xylem_vault::{
    CallEnd, NewCredential, NewSource, OAuth, OAuthClient, OAuthGrant, Released, Slotless,
    VaultError,
};

/// A house whose only tool is this one.
async fn with(auth: Auth, stored: bool, limit: Option<u32>) -> (House, TreeId) {
    let house = House::bare().await;
    let mut definition = tool("acme.deploy", "default").definition().clone();
    definition.slot = None;
    definition.credential = stored.then(name);
    definition.auth = auth;
    let per = Period::Minute;
    definition.rate_limit = limit.map(|calls| RateLimit { calls, per });
    let known = house.propose(Tool::new(definition).unwrap()).await;
    house.approve(&known).await;
    let tree = house.tree("train").await;
    (house, tree)
}

fn ask(tree: &TreeId) -> Ask {
    Ask::without_grant(tree)
}

async fn redeem(house: &House, ask: Ask) -> Result<Slotless, VaultError> {
    let redeemed = house
        .vault
        .redeem_slotless(ask.redemption, &ask.check, &house.policies);
    redeemed.await
}

async fn reason(house: &House, ask: Ask) -> &'static str {
    match redeem(house, ask).await {
        Err(VaultError::Refused(refusal)) => refusal.code(),
        other => panic!("not refused: {other:?}"),
    }
}

async fn release(house: &House, slotless: &Slotless) -> Released {
    let end = CallEnd {
        succeeded: true,
        reason: None,
        status: Some(200),
        duration: Duration::from_millis(1),
        undone: false,
        bytes_out: 0,
        bytes_in: 0,
    };
    let released = house.vault.release(&slotless.lease, &worker(), &end).await;
    released.expect("releases")
}

#[tokio::test]
async fn a_stored_credential_is_handed_out_whatever_the_tree_and_holds_its_version() {
    let (house, tree) = with(Auth::Bearer, true, None).await;
    assert_eq!(reason(&house, ask(&tree)).await, "unknown_credential");
    made(&house).await;
    let first = redeem(&house, ask(&tree)).await.expect("a token");
    let token = first.token.as_ref().expect("a token");
    assert_eq!(token.secret.expose_secret(), V1);
    assert_eq!(token.mark.version, Version(1));
    assert!(!format!("{first:?}").contains(V1));
    let entry = house.last_entry().await;
    assert_eq!(
        (entry.kind, entry.verdict),
        (Kind::Redeem, Verdict::Granted)
    );
    let subject = entry.subject.expect("a subject").to_string();
    assert!(subject.contains("acme@1"), "{subject}");

    // A rotation does not take away what a call is using.
    rotated(&house, V2, "r2").await;
    for attempt in [
        house
            .vault
            .revoke_credential_version(revocation(1, false))
            .await
            .map(drop),
        house.vault.remove_credential(removal()).await,
    ] {
        let open = matches!(attempt, Err(VaultError::OpenLeases { count: 1, .. }));
        assert!(open, "{attempt:?}");
    }
    let second = redeem(&house, ask(&tree)).await.expect("the newer");
    assert_eq!(
        second
            .token
            .as_ref()
            .expect("a token")
            .secret
            .expose_secret(),
        V2
    );
    assert_eq!(release(&house, &first).await, Released::Now);
    let entry = house.last_entry().await;
    assert_eq!(
        (entry.kind, entry.verdict),
        (Kind::Outcome, Verdict::Succeeded)
    );
    assert!(
        entry
            .subject
            .expect("a subject")
            .to_string()
            .contains("acme@1")
    );
    assert_eq!(release(&house, &first).await, Released::Before);
    let revoked = house
        .vault
        .revoke_credential_version(revocation(1, false))
        .await;
    revoked.expect("nobody uses it");
    // A lease that nobody released ends by itself.
    house.clock.advance(Duration::from_secs(3600));
    house
        .vault
        .remove_credential(removal())
        .await
        .expect("it is over");
    assert_eq!(reason(&house, ask(&tree)).await, "unknown_credential");
    house.clock.advance(Duration::from_secs(3 * 24 * 3600));
    assert!(house.vault.tidy().await.expect("tidies") >= 2);
    assert_eq!(house.rows("tool_leases").await, 0);
    house.verified().await.expect("an intact log");
}

#[tokio::test]
async fn what_guards_a_slot_guards_a_tools_own_credential() {
    let (house, tree) = with(Auth::Bearer, true, None).await;
    made(&house).await;
    let elsewhere = |r: &mut xylem_vault::Redemption| {
        r.destination = "https://evil.example".parse().unwrap();
    };
    assert_eq!(
        reason(&house, ask(&tree).with(elsewhere)).await,
        "other_audience"
    );
    let other = ask(&tree).with(|r| r.worker.queues.clear());
    assert_eq!(reason(&house, other).await, "queue_not_served");
    let unnamed = ask(&tree).with(|r| r.tool = "acme.other".parse().unwrap());
    assert_eq!(reason(&house, unnamed).await, "unknown_tool");
    let unknown = ask(&tree).standing(|it| it.tree.workflow_id = workflow("other"));
    assert_eq!(reason(&house, unknown).await, "unknown_tree");
    house.vault.stop(stopping(&tree)).await.expect("stops");
    assert_eq!(reason(&house, ask(&tree)).await, "tree_stopped");
    assert_eq!(house.rows("tool_leases").await, 0);
}

#[tokio::test]
async fn a_tool_of_a_slot_is_not_called_without_and_the_other_way_round() {
    let house = House::new().await;
    let (tree, _) = house.planted("train").await;
    assert_eq!(reason(&house, ask(&tree)).await, "tool_of_other_slot");
    let (house, _) = with(Auth::None, false, None).await;
    let (tree, grant) = house.planted("planted").await;
    let refused = house.refused(Ask::new(&tree, &grant)).await;
    assert_eq!(refused.code(), "tool_of_other_slot");
}

#[tokio::test]
async fn a_call_without_a_token_is_decided_and_audited_too() {
    let (house, tree) = with(Auth::None, false, Some(2)).await;
    for _ in 0..2 {
        let decided = redeem(&house, ask(&tree)).await.expect("allowed");
        assert!(decided.token.is_none());
        let entry = house.last_entry().await;
        assert_eq!(
            (entry.kind, entry.verdict),
            (Kind::Redeem, Verdict::Granted)
        );
        assert!(entry.policy.is_some() && entry.fingerprint.is_none());
        release(&house, &decided).await;
        assert_eq!(house.last_entry().await.kind, Kind::Outcome);
    }
    // The tool's own limit: it says for how long, and passes by itself.
    let Err(VaultError::Refused(refusal)) = redeem(&house, ask(&tree)).await else {
        panic!("over the limit");
    };
    assert_eq!(refusal.code(), "tool_limit_reached");
    assert_eq!(refusal.retry_after(), Some(Duration::from_secs(60)));
    house.clock.advance(Duration::from_secs(60));
    redeem(&house, ask(&tree)).await.expect("another window");
}

#[tokio::test]
async fn a_tools_own_limit_is_one_for_all_trees_and_instances() {
    let (house, one) = with(Auth::None, false, Some(2)).await;
    let two = house.tree("other").await;
    let (store, beside) = house.opened_beside().await;
    let policies = policies(&store, &beside);
    let at_other = async |tree: &TreeId| {
        let Ask { redemption, check } = ask(tree);
        let redeemed = beside.redeem_slotless(redemption, &check, &policies);
        redeemed.await
    };
    redeem(&house, ask(&one)).await.expect("the first");
    at_other(&two).await.expect("the second");
    for tree in [&one, &two] {
        assert_eq!(reason(&house, ask(tree)).await, "tool_limit_reached");
        let Err(VaultError::Refused(refusal)) = at_other(tree).await else {
            panic!("over the limit");
        };
        assert_eq!(refusal.code(), "tool_limit_reached");
    }
}

#[tokio::test]
async fn client_credentials_are_those_that_are_obtained() {
    let (house, tree) = with(Auth::ClientCredentials, true, None).await;
    made(&house).await;
    assert_eq!(reason(&house, ask(&tree)).await, "not_client_credentials");
    house
        .vault
        .remove_credential(removal())
        .await
        .expect("removes");
    let oauth = OAuth {
        token_url: "https://id.acme.example/token".to_owned(),
        grant: OAuthGrant::ClientCredentials,
        client_id: "xylem".to_owned(),
        secret_in_form: false,
        scopes: Vec::new(),
        resource: None,
        assume_lifetime: None,
        probe_url: None,
        revoke_old: false,
    };
    let source = NewSource::OAuth(OAuthClient {
        oauth,
        client_secret: SecretString::from("the secret of the client".replace(' ', "-")),
        refresh_token: None,
    });
    let obtained = NewCredential {
        source: Some(source),
        request: "c2".parse().unwrap(),
        ..new(V2)
    };
    house
        .vault
        .create_credential(obtained)
        .await
        .expect("makes");
    let redeemed = redeem(&house, ask(&tree)).await.expect("a token");
    assert_eq!(redeemed.token.expect("a token").secret.expose_secret(), V2);
}
