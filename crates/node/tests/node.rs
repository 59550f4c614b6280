//! One test per rule of what a node adopts and tells.

#[allow(
    dead_code,
    reason = "each of the tests that share it needs other parts of it"
)]
mod support;

use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeSet;
use support::{
    NOW, child_id, child_type, forward, github, grant, grow, held_version, issuer, later, node,
    order, parent, receive, run, sign, slot, slots, start, to, tree,
};
use xylem_grant::{IssuerKey, UnixSeconds, VerifiedGrant};
use xylem_ids::{Epoch, Order, Serial, Version};
use xylem_node::{Node, Outcome, Plan, Received, Rejection, Selection, Source, Stage, Start};

mod adopting {
    use super::*;

    fn rejected(node: &mut Node, grant: &VerifiedGrant, reason: Rejection) {
        let before = node.rejected().of(reason);
        let held = held_version(node);
        assert_eq!(receive(node, grant), Received::Rejected(reason));
        assert_eq!(node.rejected().of(reason), before + 1);
        assert_eq!(held_version(node), held);
    }

    #[test]
    fn a_newer_grant_is_adopted_and_an_older_one_is_stale() {
        let mut node = node();
        assert_eq!(receive(&mut node, &grant(2)), Received::Adopted(slot()));
        rejected(&mut node, &grant(1), Rejection::Stale);
        assert_eq!(receive(&mut node, &grant(3)), Received::Adopted(slot()));
        assert_eq!(held_version(&node), Some(3));
    }

    #[test]
    fn a_reissue_is_newer_and_a_restored_epoch_newer_still() {
        let mut node = node();
        receive(&mut node, &grant(5));
        let reissued = sign(issuer(), |claims| claims.order = order(5, 2));
        assert_eq!(receive(&mut node, &reissued), Received::Adopted(slot()));
        let restored = sign(issuer(), |claims| claims.order.epoch = Epoch(2));
        assert_eq!(receive(&mut node, &restored), Received::Adopted(slot()));
        rejected(&mut node, &grant(9), Rejection::Stale);
    }

    #[test]
    fn the_same_grant_is_a_duplicate_and_another_of_its_order_a_conflict() {
        let mut node = node();
        receive(&mut node, &grant(1));
        rejected(&mut node, &grant(1), Rejection::Duplicate);
        let other = sign(issuer(), |claims| claims.expires_at = later(60));
        rejected(&mut node, &other, Rejection::Conflict);
    }

    #[test]
    fn grants_of_other_trees_and_of_slots_not_taken_are_rejected() {
        let mut node = node();
        let namesake = sign(issuer(), |claims| claims.tree.first_run_id = run("run-2"));
        rejected(&mut node, &namesake, Rejection::OtherTree);
        let elsewhere = sign(issuer(), |claims| {
            claims.tree.namespace = "b".parse().expect("name")
        });
        rejected(&mut node, &elsewhere, Rejection::OtherTree);
        let unasked = sign(issuer(), |claims| claims.slot = github());
        rejected(&mut node, &unasked, Rejection::SlotNotTaken);
    }

    #[test]
    fn a_node_that_knows_no_tree_adopts_nothing() {
        let mut node = Node::new(
            Start {
                tree: None,
                ..start(Vec::new())
            },
            NOW,
        );
        rejected(&mut node, &grant(1), Rejection::OtherTree);
    }

    #[test]
    fn an_expired_grant_is_rejected_after_a_minute_of_tolerance() {
        let soon = sign(issuer(), |claims| claims.expires_at = later(10));
        let mut node = node();
        let at = |node: &mut Node, now| node.receive(soon.as_str(), Source::Signal, now);
        assert_eq!(
            at(&mut node, later(71)),
            Received::Rejected(Rejection::Expired)
        );
        assert_eq!(at(&mut node, later(70)), Received::Adopted(slot()));
    }

    #[test]
    fn what_is_no_grant_is_rejected_by_reason() {
        let mut node = parent();
        let large = format!("xylem1.{}", "a".repeat(9000));
        let mut edited = grant(2).as_str().to_owned();
        edited.truncate(edited.len() - 4);
        edited.push_str("AAAA");
        for (text, reason) in [
            ("xylem1.", Rejection::Malformed),
            ("something else", Rejection::Malformed),
            (large.as_str(), Rejection::Oversized),
            (edited.as_str(), Rejection::BadSignature),
        ] {
            let received = node.receive(text, Source::Signal, NOW);
            assert_eq!(received, Received::Rejected(reason), "{reason}");
        }
        assert_eq!(held_version(&node), Some(1));
        assert!(node.is_settled());
    }

    #[test]
    fn grants_in_a_header_are_verified_like_any_other() {
        let expired = sign(issuer(), |claims| {
            claims.issued_at = UnixSeconds(1);
            claims.expires_at = UnixSeconds(2);
        });
        let foreign = sign(issuer(), |claims| claims.tree.first_run_id = run("run-2"));
        let texts = [&expired, &foreign].map(|grant| grant.as_str().to_owned());
        let node = Node::new(start(texts.to_vec()), NOW);
        assert_eq!(held_version(&node), None);
        assert_eq!(node.rejected().of(Rejection::Expired), 1);
        assert_eq!(node.rejected().of(Rejection::OtherTree), 1);
        let node = Node::new(start(vec![grant(4).as_str().to_owned()]), NOW);
        assert_eq!(held_version(&node), Some(4));
    }

    #[test]
    fn only_what_an_honest_cascade_cannot_repeat_is_suspicious() {
        for harmless in [Rejection::Stale, Rejection::Duplicate, Rejection::Expired] {
            assert!(!harmless.is_suspicious());
        }
        for suspicious in [
            Rejection::Conflict,
            Rejection::OtherTree,
            Rejection::RawToken,
        ] {
            assert!(suspicious.is_suspicious());
        }
    }

    #[test]
    fn a_rejections_words_are_those_it_is_serialized_with() {
        let mut node = node();
        for reason in [
            Rejection::NotAString,
            Rejection::RawToken,
            Rejection::Conflict,
        ] {
            assert_eq!(json!(reason), json!(reason.to_string()));
            node.reject(reason);
        }
        assert_eq!(
            node.rejected().iter().map(|(_, count)| count).sum::<u64>(),
            3
        );
    }
}

mod unknown_keys {
    use super::*;

    fn stranger() -> IssuerKey {
        IssuerKey::generate(2).expect("key")
    }

    #[test]
    fn a_grant_of_an_unknown_key_waits_for_the_answer() {
        let (mut node, key) = (parent(), stranger());
        let successor = sign(&key, |claims| claims.order = order(2, 1));
        assert_eq!(receive(&mut node, &successor), Received::Waiting);
        assert!(node.should_ask_issuers() && !node.is_settled());
        let decided = node.trust(None, [key.public().clone()], NOW);
        assert_eq!(decided, [Received::Adopted(slot())]);
        assert!(!node.should_ask_issuers());
        assert_eq!(held_version(&node), Some(2));
    }

    #[test]
    fn without_an_answer_it_is_rejected() {
        let mut node = node();
        receive(&mut node, &sign(&stranger(), |_| ()));
        let decided = node.trust(None, [], NOW);
        assert_eq!(decided, [Received::Rejected(Rejection::UnknownKey)]);
        assert!(node.is_settled());
    }

    #[test]
    fn no_more_than_four_wait() {
        let (mut node, key) = (node(), stranger());
        let unknown = sign(&key, |_| ());
        for _ in 0..4 {
            assert_eq!(receive(&mut node, &unknown), Received::Waiting);
        }
        let fifth = receive(&mut node, &unknown);
        assert_eq!(fifth, Received::Rejected(Rejection::UnknownKey));
        assert_eq!(node.trust(None, [], NOW).len(), 4);
    }

    #[test]
    fn a_question_is_asked_at_most_once_a_minute() {
        let mut node = node();
        let unknown = sign(&stranger(), |_| ());
        let at = |node: &mut Node, now| node.receive(unknown.as_str(), Source::Signal, now);
        at(&mut node, NOW);
        node.trust(None, [], NOW);
        assert_eq!(
            at(&mut node, later(59)),
            Received::Rejected(Rejection::UnknownKey)
        );
        assert!(!node.should_ask_issuers());
        assert_eq!(at(&mut node, later(60)), Received::Waiting);
    }

    #[test]
    fn a_root_without_a_header_learns_its_tree_once() {
        let mut node = Node::new(
            Start {
                takes: slots(),
                ..Start::default()
            },
            NOW,
        );
        assert_eq!(receive(&mut node, &grant(1)), Received::Waiting);
        node.trust(Some(tree()), [issuer().public().clone()], NOW);
        assert_eq!(held_version(&node), Some(1));
        let mut other = tree();
        other.first_run_id = run("run-2");
        node.trust(Some(other), [], NOW);
        assert_eq!(node.tree(), Some(&tree()));
    }
}

mod retired_keys {
    use super::*;

    /// A node that trusts the shared key of generation 1 and this one of generation 2, and has
    /// been sent a huge version by somebody who has stolen the first.
    fn robbed() -> (Node, IssuerKey) {
        let key = IssuerKey::generate(2).expect("key");
        let mut node = parent();
        node.trust(None, [key.public().clone()], NOW);
        receive(&mut node, &grant(u32::MAX));
        (node, key)
    }

    fn replacement(key: &IssuerKey) -> VerifiedGrant {
        sign(key, |claims| {
            claims.order = order(2, 1);
            claims.retires = vec![issuer().public().key_id.clone()];
        })
    }

    #[test]
    fn a_newer_key_retires_an_older_one_and_its_huge_version() {
        let (mut node, key) = robbed();
        assert_eq!(
            receive(&mut node, &replacement(&key)),
            Received::Adopted(slot())
        );
        assert_eq!(held_version(&node), Some(2));
        assert_eq!(node.issuer_key_id(), Some(&key.public().key_id));
        let again = receive(&mut node, &grant(u32::MAX - 1));
        assert_eq!(again, Received::Rejected(Rejection::RetiredKey));
        node.trust(None, [issuer().public().clone()], NOW);
        let trusted_again = receive(&mut node, &grant(u32::MAX));
        assert_eq!(trusted_again, Received::Rejected(Rejection::RetiredKey));
    }

    #[test]
    fn children_get_the_replacement_although_it_ranks_below_what_they_have() {
        let (mut node, key) = robbed();
        let delivered = forward(&mut node, Stage::Local, &Outcome::default());
        assert_eq!(delivered, to("a", u32::MAX));
        receive(&mut node, &replacement(&key));
        assert_eq!(
            forward(&mut node, Stage::Local, &Outcome::default()),
            to("a", 2)
        );
        assert!(node.is_settled());
    }

    #[test]
    fn an_older_key_cannot_retire_a_newer_one() {
        let (mut node, key) = robbed();
        receive(
            &mut node,
            &sign(&key, |claims| claims.order.epoch = Epoch(2)),
        );
        let attempt = sign(issuer(), |claims| {
            claims.order.epoch = Epoch(3);
            claims.retires = vec![key.public().key_id.clone()];
        });
        receive(&mut node, &attempt);
        let next = sign(&key, |claims| claims.order.epoch = Epoch(4));
        assert_eq!(receive(&mut node, &next), Received::Adopted(slot()));
    }

    #[test]
    fn what_a_retired_key_signed_for_other_slots_is_dropped() {
        let key = IssuerKey::generate(2).expect("key");
        let takes = BTreeSet::from([slot(), github()]);
        let mut node = Node::new(
            Start {
                takes,
                ..start(Vec::new())
            },
            NOW,
        );
        node.trust(None, [key.public().clone()], NOW);
        receive(&mut node, &sign(issuer(), |claims| claims.slot = github()));
        receive(&mut node, &replacement(&key));
        assert_eq!(node.held(&github()), None);
        assert_eq!(node.search_attribute(), ["default@2"]);
    }
}

mod telling {
    use super::*;

    #[test]
    fn the_status_names_what_is_held_and_nothing_that_is_secret() {
        let takes = BTreeSet::from([slot(), github()]);
        let mut node = Node::new(
            Start {
                takes,
                ..start(Vec::new())
            },
            NOW,
        );
        receive(&mut node, &grant(3));
        receive(&mut node, &grant(2));
        grow(&mut node, "a", Selection::All);
        let seed = Selection::named([slot()]);
        node.child_starting(child_id("b"), child_type(), &slots(), seed);
        let expected = json!({
            "tree": {"namespace": "default", "workflowId": "root", "firstRunId": "run-1"},
            "issuerKeyId": issuer().public().key_id,
            "protocol": 1,
            "slots": {
                "default": {
                    "state": "current",
                    "version": 3,
                    "epoch": 1,
                    "serial": 1,
                    "fingerprint": "0123456789abcdef",
                    "audiences": ["https://api.acme.example"],
                    "issuedAt": NOW.0,
                    "expiresAt": NOW.0 + 3600,
                    "adoptedAt": NOW.0,
                    "source": "signal",
                    "exposed": false,
                },
                "github": {"state": "missing"},
            },
            "children": [
                {
                    "workflowId": "a",
                    "firstRunId": "a",
                    "workflowType": "Leaf",
                    "status": "running",
                    "selection": "all",
                    "delivered": {"default": {"epoch": 1, "version": 3, "serial": 1}},
                },
                {
                    "workflowId": "b",
                    "workflowType": "Leaf",
                    "status": "starting",
                    "selection": {"named": ["default"]},
                    "delivered": {"default": {"epoch": 1, "version": 3, "serial": 1}},
                },
            ],
            "forwardsPending": 0,
            "rejected": {"stale": 1},
            "exposed": false,
        });
        let status = node.status(1, NOW);
        assert_eq!(json!(status), expected);
        assert_eq!(json!(node.child_list()), expected["children"]);
        let read: xylem_node::Status = serde_json::from_value(expected).expect("a status");
        assert_eq!(read, status);
    }

    #[test]
    fn a_raw_token_where_intake_is_off_shows_as_exposed() {
        let mut node = node();
        assert!(!node.status(1, NOW).exposed);
        node.reject(Rejection::RawToken);
        assert!(node.status(1, NOW).exposed);
    }

    #[test]
    fn the_search_attribute_names_each_slot_with_its_version() {
        let takes = BTreeSet::from([slot(), github()]);
        let mut node = Node::new(
            Start {
                takes,
                ..start(Vec::new())
            },
            NOW,
        );
        assert!(node.search_attribute().is_empty());
        receive(&mut node, &grant(12));
        receive(&mut node, &sign(issuer(), |claims| claims.slot = github()));
        assert_eq!(node.search_attribute(), ["default@12", "github@1"]);
    }

    #[test]
    fn the_issuer_key_is_that_of_the_newest_grant_or_the_newest_one_trusted() {
        let mut node = node();
        assert_eq!(node.issuer_key_id(), Some(&issuer().public().key_id));
        let key = IssuerKey::generate(2).expect("key");
        node.trust(None, [key.public().clone()], NOW);
        assert_eq!(node.issuer_key_id(), Some(&key.public().key_id));
        receive(&mut node, &grant(1));
        assert_eq!(node.issuer_key_id(), Some(&issuer().public().key_id));
    }
}

fn orders() -> impl Strategy<Value = Vec<Order>> {
    let order = (1..3_u32, 1..6_u32, 1..3_u32).prop_map(|(epoch, version, serial)| Order {
        epoch: Epoch(epoch),
        version: Version(version),
        serial: Serial(serial),
    });
    prop::collection::vec(order, 1..24)
}

fn held_order(node: &Node) -> Option<Order> {
    node.held(&slot()).map(VerifiedGrant::order)
}

fn complete(node: &mut Node, plan: Plan) -> Option<Order> {
    let newest = plan.due.iter().flat_map(|due| &due.grants);
    let newest = newest.map(VerifiedGrant::order).max();
    node.forwarded(plan, &Outcome::default());
    newest
}

proptest! {
    /// Grants in any order, any of them repeated: newest wins, and what the child is sent never
    /// falls back either.
    #[test]
    fn any_sequence_ends_on_the_newest_and_never_decreases(orders in orders()) {
        let mut node = node();
        grow(&mut node, "a", Selection::All);
        let (mut before, mut sent) = (None, None);
        for order in &orders {
            let received = receive(&mut node, &sign(issuer(), |claims| claims.order = *order));
            let now = held_order(&node);
            prop_assert!(now >= before);
            prop_assert_eq!(now > before, received == Received::Adopted(slot()));
            before = now;
            if let Some(plan) = node.next_forward(Stage::Local) {
                let newest = complete(&mut node, plan);
                prop_assert!(newest > sent);
                sent = newest;
            }
        }
        prop_assert_eq!(before, orders.iter().max().copied());
        prop_assert_eq!(sent, before);
        prop_assert!(node.is_settled());
    }
}
