//! Redemption on a real database: what it answers, and everything it refuses.

use crate::house::{self, Ask, Check, HOUR, House, V1, V2, agent, queue, slot, tools, workflow};
use secrecy::ExposeSecret;
use std::time::Duration;
use xylem_audit::{Kind, Reason, Verdict};
use xylem_grant::{Claims as GrantClaims, IssuerKey, Reject, UnixSeconds};
use xylem_ids::TreeId;
use xylem_vault::{
    CallEnd, ClaimRefusal, Refusal, Released, Revocation, SelectedBy, Selection, Target, VaultError,
};

fn call_end(status: u16) -> CallEnd {
    CallEnd {
        succeeded: status < 400,
        reason: (status == 401).then(|| Reason::of("refused_401")),
        status: Some(status),
        duration: Duration::from_millis(12),
        undone: false,
        bytes_out: 512,
        bytes_in: 2048,
    }
}

#[tokio::test]
async fn a_grant_is_exchanged_for_the_token_and_both_entries_are_written() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    let redeemed = house.redeem(Ask::new(&tree, &grant)).await.unwrap();
    assert_eq!(redeemed.token.expose_secret(), V1);
    assert_eq!(redeemed.grant, grant);
    assert!(!redeemed.newer);
    assert_eq!(
        redeemed.tool_hash,
        house::tool("acme.deploy", "default").hash().as_str()
    );
    assert_eq!(
        redeemed.audiences[0].to_string(),
        "https://api.acme.example/v1"
    );

    let decision = house.last_entry().await;
    assert_eq!(
        (decision.kind, decision.verdict),
        (Kind::Redeem, Verdict::Granted)
    );
    assert_eq!(decision.tree.as_ref(), Some(&tree));
    assert_eq!(decision.order, Some(redeemed.order));
    assert_eq!(decision.fingerprint.as_ref(), Some(&redeemed.fingerprint));
    assert_eq!(decision.activity.as_ref().map(|a| a.attempt()), Some(1));
    assert_eq!(decision.agent, Some(agent("worker")));
    assert_eq!(decision.owner, Some(agent("service")));
    assert_eq!((decision.presented, decision.behind_s), (None, None));

    assert_eq!(
        house.release(&redeemed, &call_end(401)).await,
        Released::Now
    );
    let outcome = house.last_entry().await;
    assert_eq!(
        (outcome.kind, outcome.verdict),
        (Kind::Outcome, Verdict::Failed)
    );
    assert_eq!(outcome.lease, decision.lease);
    assert_eq!(outcome.reason, Some(Reason::of("refused_401")));
    assert_eq!((outcome.status, outcome.duration_ms), (Some(401), Some(12)));
    assert_eq!(outcome.order, decision.order);
    assert_eq!(outcome.owner, decision.owner);

    let entries = house.log().await.len();
    assert_eq!(
        house.release(&redeemed, &call_end(200)).await,
        Released::Before
    );
    assert_eq!(house.log().await.len(), entries);
}

#[tokio::test]
async fn a_lease_is_released_by_its_worker_only() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    let redeemed = house.redeem(Ask::new(&tree, &grant)).await.unwrap();
    let mut other = house::worker();
    other.agent = agent("thief");
    let released = house
        .vault
        .release(&redeemed.lease, &other, &call_end(200))
        .await;
    assert!(matches!(
        released,
        Err(VaultError::NotFound { what: "lease" })
    ));
}

#[tokio::test]
async fn an_outdated_grant_is_answered_with_the_newest() {
    let house = House::new().await;
    let (tree, v1) = house.planted("train").await;
    let v2 = house.deposit(&tree, V2, "d2").await.grant.unwrap();
    let redeemed = house.redeem(Ask::new(&tree, &v1)).await.unwrap();
    assert_eq!(redeemed.token.expose_secret(), V2);
    assert!(redeemed.newer);
    assert_eq!(redeemed.grant, v2);
    let decision = house.last_entry().await;
    assert_eq!(decision.presented, Some(v1.order()));
    assert_eq!(decision.behind_s, Some(0));
    house.clock.advance(Duration::from_secs(601));
    house.redeem(Ask::new(&tree, &v1)).await.unwrap();
    assert_eq!(house.last_entry().await.behind_s, Some(601));

    let revocation = Revocation {
        tree: tree.clone(),
        slot: slot("default"),
        version: v1.order().version,
        force: false,
        by: agent("operator"),
        note: None,
    };
    house.vault.revoke(revocation).await.unwrap();
    let redeemed = house.redeem(Ask::new(&tree, &v1)).await.unwrap();
    assert_eq!(redeemed.token.expose_secret(), V2);

    house
        .vault
        .rotate_issuer(&house::namespace(), &agent("admin"))
        .await
        .unwrap();
    let redeemed = house.redeem(Ask::new(&tree, &v2)).await.unwrap();
    assert!(redeemed.newer);
    assert_eq!(redeemed.order.serial.0, 2);
}

#[tokio::test]
async fn an_expired_grant_heals_once_it_is_reissued() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    house.clock.advance(25 * HOUR);
    assert_eq!(
        house.refused(Ask::new(&tree, &grant)).await,
        Refusal::TokenExpired
    );
    let reissued = house
        .vault
        .reissue(&tree, &slot("default"), HOUR, &agent("sweep"))
        .await
        .unwrap();
    let redeemed = house.redeem(Ask::new(&tree, &grant)).await.unwrap();
    assert_eq!(redeemed.grant, reissued);
    assert_eq!(redeemed.token.expose_secret(), V1);
}

/// Every refusal leaves one entry with its reason, and no lease.
async fn is_refused(house: &House, ask: Ask, expected: Refusal) {
    let before = house.log().await.len();
    assert_eq!(house.refused(ask).await, expected);
    let entry = house.last_entry().await;
    assert_eq!(house.log().await.len(), before + 1, "{expected}");
    assert_eq!((entry.kind, entry.verdict), (Kind::Redeem, Verdict::Denied));
    assert_eq!(entry.reason.unwrap().as_str(), expected.code());
    assert_eq!(house.leases().await, 0, "{expected}");
}

#[tokio::test]
async fn claims_that_do_not_hold_are_refused() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    for refusal in [
        ClaimRefusal::NoWorkflow,
        ClaimRefusal::NotRunning,
        ClaimRefusal::NotPending,
        ClaimRefusal::OtherType,
        ClaimRefusal::OtherQueue,
        ClaimRefusal::NotOfTree,
    ] {
        let ask = Ask::new(&tree, &grant).checked(Check::Refuses(refusal));
        is_refused(&house, ask, refusal.into()).await;
    }
    let elsewhere = Ask::new(&tree, &grant).with(|r| r.claims.namespace = "other".parse().unwrap());
    is_refused(&house, elsewhere, ClaimRefusal::NotOfTree.into()).await;
}

#[tokio::test]
async fn claims_that_nobody_can_check_are_not_decided() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    let entries = house.log().await.len();
    let silent = house
        .redeem(Ask::new(&tree, &grant).checked(Check::Silent))
        .await;
    let error = silent.unwrap_err();
    assert!(matches!(error, VaultError::ClaimsNotChecked(_)) && error.is_retryable());
    assert_eq!(
        (house.log().await.len(), house.leases().await),
        (entries, 0)
    );
}

#[tokio::test]
async fn what_cannot_be_written_is_not_redeemed_and_can_be_tried_again() {
    for table in ["audit", "leases"] {
        let house = House::new().await;
        let (tree, grant) = house.planted("train").await;
        let entries = house.log().await.len();
        house.jam(table).await;
        let error = house.redeem(Ask::new(&tree, &grant)).await.unwrap_err();
        assert!(matches!(error, VaultError::Storage(_)), "{table}: {error}");
        assert!(error.is_retryable(), "{table}: {error}");
        assert_eq!(house.leases().await, 0, "{table}");
        assert_eq!(house.log().await.len(), entries, "{table}");
        house.unjam(table).await;
        house.redeem(Ask::new(&tree, &grant)).await.unwrap();
        assert_eq!(house.leases().await, 1, "{table}");
        assert_eq!(house.log().await.len(), entries + 1, "{table}");
    }
}

#[tokio::test]
async fn a_worker_serves_its_own_queues_only() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    let ask = Ask::new(&tree, &grant).with(|r| r.worker.queues = [queue("other")].into());
    is_refused(&house, ask, Refusal::QueueNotServed).await;
    let ask = Ask::new(&tree, &grant).with(|r| r.claims.task_queue = queue("other"));
    is_refused(&house, ask, Refusal::QueueNotServed).await;
}

#[tokio::test]
async fn a_type_gets_what_it_declares_on_its_queue() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    let of_type = |name: &'static str| {
        Ask::new(&tree, &grant).with(move |r| r.claims.workflow_type = name.parse().unwrap())
    };
    is_refused(&house, of_type("Unregistered"), Refusal::Undeclared).await;
    is_refused(&house, of_type("Hub"), Refusal::TransitOnly).await;
    let elsewhere = Ask::new(&tree, &grant).standing(|l| l.workflow_queue = queue("other"));
    is_refused(&house, elsewhere, Refusal::Undeclared).await;
}

#[tokio::test]
async fn a_tree_calls_the_tools_it_was_allowed() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    let calls =
        |name: &'static str| Ask::new(&tree, &grant).with(move |r| r.tool = name.parse().unwrap());
    is_refused(&house, calls("no.such"), Refusal::UnknownTool).await;
    let not_named = xylem_policy::Denied::ToolNotAllowed;
    is_refused(&house, calls("acme.list"), not_named.clone().into()).await;
    let other_slot = xylem_policy::Denied::OtherSlot;
    is_refused(&house, calls("git.pull"), other_slot.into()).await;

    let operator = agent("operator");
    house
        .vault
        .allow_tools(&tree, tools(&["acme.list"]), &operator)
        .await
        .unwrap();
    house.redeem(calls("acme.list")).await.unwrap();
    house
        .vault
        .withdraw_tools(&tree, &tools(&["acme.list"]), &operator)
        .await
        .unwrap();
    assert_eq!(house.refused(calls("acme.list")).await, not_named.into());
}

#[tokio::test]
async fn a_token_goes_where_its_depositor_said() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    for elsewhere in [
        "https://evil.example",
        "http://api.acme.example",
        "https://api.acme.example:444",
    ] {
        let ask = Ask::new(&tree, &grant).with(|r| r.destination = elsewhere.parse().unwrap());
        is_refused(&house, ask, Refusal::OtherAudience).await;
    }
}

#[tokio::test]
async fn a_grant_of_another_tree_or_another_issuer_is_refused() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    let (other, _) = house.planted("other").await;
    is_refused(&house, Ask::new(&other, &grant), Refusal::OtherTree).await;

    let forger = IssuerKey::generate(1).unwrap();
    let forged = forger
        .issue(GrantClaims {
            expires_at: UnixSeconds(u64::MAX),
            ..grant.claims().clone()
        })
        .unwrap();
    let reject = Reject::UnknownKey;
    is_refused(&house, Ask::new(&tree, &forged), reject.into()).await;
    let mut tampered = grant.as_str().to_owned();
    tampered.insert(60, 'A');
    for text in ["", "xylem1.", "not a grant", &tampered, &"x".repeat(10_000)] {
        let ask = Ask::new(&tree, &grant).with(|r| r.grant = text.to_owned());
        let refusal = house.refused(ask).await;
        assert!(matches!(refusal, Refusal::Grant(_)), "{refusal:?}");
    }
    assert_eq!(house.leases().await, 0);
}

#[tokio::test]
async fn an_unbound_start_and_another_run_of_its_id_get_nothing() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    let start = house.start("next").await;
    let deposited = house
        .vault
        .deposit(house::deposit(Target::Start(start.clone()), V2, "d1"))
        .await
        .unwrap();
    assert!(deposited.grant.is_none());
    let imposter = |run: &'static str| {
        Ask::new(&tree, &grant).standing(move |lineage| {
            lineage.tree.workflow_id = workflow("next");
            lineage.tree.first_run_id = run.parse().unwrap();
        })
    };
    is_refused(&house, imposter("run-evil"), Refusal::UnknownTree).await;
    house
        .vault
        .bind(&start, "run-next".parse().unwrap())
        .await
        .unwrap();
    is_refused(&house, imposter("run-evil"), Refusal::UnknownTree).await;
    is_refused(&house, imposter("run-next"), Refusal::OtherTree).await;
}

#[tokio::test]
async fn an_excluded_node_and_subtree_are_refused_until_included_again() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    let select = |node: &str, exclude: bool, subtree: bool| {
        let slots = vec![slot("default")];
        let (exclude, include) = if exclude {
            (slots, vec![])
        } else {
            (vec![], slots)
        };
        Selection {
            node: workflow(node),
            exclude,
            include,
            subtree,
        }
    };
    let by = SelectedBy::Agent(agent("operator"));
    for (node, subtree, refused) in [
        ("leaf", false, true),
        ("inner", false, false),
        ("inner", true, true),
        ("train", true, true),
        ("sibling", true, false),
    ] {
        house
            .vault
            .select(&tree, &select(node, true, subtree), &by)
            .await
            .unwrap();
        let answer = house.redeem(Ask::new(&tree, &grant)).await;
        assert_eq!(answer.is_err(), refused, "{node} {subtree}");
        if refused {
            assert!(matches!(
                answer,
                Err(VaultError::Refused(Refusal::Excluded))
            ));
        }
        house
            .vault
            .select(&tree, &select(node, false, false), &by)
            .await
            .unwrap();
        house.redeem(Ask::new(&tree, &grant)).await.unwrap();
    }
    assert!(house.vault.exclusions(&tree).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_node_selects_for_what_is_below_it_only() {
    let house = House::new().await;
    let (tree, _) = house.planted("train").await;
    let check = Check::Confirms(house::lineage(&tree));
    let confirmed = house::claims("leaf").confirm(&check).await.unwrap();
    let by = SelectedBy::Node(Box::new(confirmed), house::worker());
    let include = |node: &str| Selection {
        node: workflow(node),
        exclude: vec![],
        include: vec![slot("default")],
        subtree: false,
    };
    for above in ["leaf", "inner", "train"] {
        let refused = house.vault.select(&tree, &include(above), &by).await;
        assert!(
            matches!(refused, Err(VaultError::Refused(Refusal::NotBelow))),
            "{above}"
        );
    }
    house
        .vault
        .select(&tree, &include("below"), &by)
        .await
        .unwrap();
    let excluded = Selection {
        node: workflow("inner"),
        exclude: vec![slot("default")],
        include: vec![],
        subtree: true,
    };
    let operator = SelectedBy::Agent(agent("operator"));
    house
        .vault
        .select(&tree, &excluded, &operator)
        .await
        .unwrap();
    let refused = house.vault.select(&tree, &include("below"), &by).await;
    assert!(matches!(
        refused,
        Err(VaultError::Refused(Refusal::Excluded))
    ));
}

/// A node of the tree with these above it, its parent first.
async fn node(tree: &TreeId, workflow_id: &str, above: &[&str]) -> SelectedBy {
    let mut lineage = house::lineage(tree);
    lineage.ancestors = above.iter().map(|text| workflow(text)).collect();
    let check = Check::Confirms(lineage);
    let confirmed = house::claims(workflow_id).confirm(&check).await.unwrap();
    SelectedBy::Node(Box::new(confirmed), house::worker())
}

fn selects(workflow_id: &str, exclude: bool) -> Selection {
    let (mut excluded, mut included) = (vec![slot("default")], vec![]);
    if !exclude {
        std::mem::swap(&mut excluded, &mut included);
    }
    Selection {
        node: workflow(workflow_id),
        exclude: excluded,
        include: included,
        subtree: true,
    }
}

#[tokio::test]
async fn what_a_parent_excluded_is_lifted_by_it_from_above_and_by_operators_only() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    let parent = node(&tree, "inner", &["train"]).await;
    let root = node(&tree, "train", &[]).await;
    let operator = SelectedBy::Agent(agent("operator"));
    let others = [
        ("sibling", node(&tree, "beside", &["inner", "train"]).await),
        ("cousin", node(&tree, "cousin", &["uncle", "train"]).await),
        ("namesake", node(&tree, "inner", &["uncle", "train"]).await),
    ];
    let select = async |selection, by| house.vault.select(&tree, &selection, by).await;
    for lifter in [&parent, &root, &operator] {
        select(selects("leaf", true), &parent).await.unwrap();
        for (who, other) in &others {
            let refused = select(selects("leaf", false), other).await;
            assert!(
                matches!(refused, Err(VaultError::Refused(Refusal::ExcludedByOther))),
                "{who}: {refused:?}"
            );
            let entry = house.last_entry().await;
            assert_eq!(entry.reason.unwrap().as_str(), "excluded_by_other", "{who}");
            let refusal = house.refused(Ask::new(&tree, &grant)).await;
            assert_eq!(refusal, Refusal::Excluded, "{who}");
        }
        select(selects("leaf", false), lifter).await.unwrap();
        house.redeem(Ask::new(&tree, &grant)).await.unwrap();
    }
}

#[tokio::test]
async fn nobody_replaces_an_exclusion_that_they_may_not_lift() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    let parent = node(&tree, "inner", &["train"]).await;
    let sibling = node(&tree, "beside", &["inner", "train"]).await;
    let operator = SelectedBy::Agent(agent("operator"));
    let select = async |selection, by| house.vault.select(&tree, &selection, by).await;
    // The operator's stays beside the parent's, and the parent's beside its child's.
    for (above, below) in [(&operator, &parent), (&parent, &sibling)] {
        select(selects("leaf", true), above).await.unwrap();
        select(selects("leaf", true), below).await.unwrap();
        assert_eq!(house.vault.exclusions(&tree).await.unwrap().len(), 2);
        let refused = select(selects("leaf", false), below).await;
        assert!(
            matches!(refused, Err(VaultError::Refused(Refusal::ExcludedByOther))),
            "{refused:?}"
        );
        // What was its own is lifted.
        assert_eq!(house.vault.exclusions(&tree).await.unwrap().len(), 1);
        select(selects("leaf", true), below).await.unwrap();
        // From above both are lifted, and replaced.
        select(selects("leaf", true), above).await.unwrap();
        assert_eq!(house.vault.exclusions(&tree).await.unwrap().len(), 1);
        select(selects("leaf", false), above).await.unwrap();
        house.redeem(Ask::new(&tree, &grant)).await.unwrap();
    }
}

#[tokio::test]
async fn an_empty_slot_a_revoked_one_and_a_stopped_tree_are_told_apart() {
    let house = House::new().await;
    let (tree, grant) = house.planted("train").await;
    let empty = house.tree("empty").await;
    let of_empty = house.vault.issuer_set().await.unwrap();
    assert_eq!(of_empty.keys().len(), 1);
    let ask = Ask::new(&empty, &grant);
    is_refused(&house, ask, Refusal::OtherTree).await;

    let revocation = Revocation {
        tree: tree.clone(),
        slot: slot("default"),
        version: grant.order().version,
        force: true,
        by: agent("operator"),
        note: None,
    };
    house.vault.revoke(revocation).await.unwrap();
    is_refused(&house, Ask::new(&tree, &grant), Refusal::TokenRevoked).await;

    house.vault.stop(house::stopping(&tree)).await.unwrap();
    is_refused(&house, Ask::new(&tree, &grant), Refusal::TreeStopped).await;
}
