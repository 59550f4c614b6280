//! One test per rule of what a node does for its children, and for its own next run.

#[allow(
    dead_code,
    reason = "each of the tests that share it needs other parts of it"
)]
mod support;

use std::collections::BTreeSet;
use support::{
    NOW, child_id, child_type, forward, github, grant, held_version, issuer, later, node, order,
    parent, receive, run, sign, slot, slots, start, to, undelivered,
};
use xylem_grant::{IssuerKey, UnixSeconds};
use xylem_ids::Slot;
use xylem_node::{
    Carried, Node, Outcome, Received, Rejection, Selection, SlotState, Source, Stage, Start,
};

mod children {
    use super::*;

    #[test]
    fn a_child_starts_with_the_selected_grants_of_what_it_declares() {
        let takes = BTreeSet::from([slot(), github()]);
        let mut node = Node::new(
            Start {
                takes: takes.clone(),
                ..start(Vec::new())
            },
            NOW,
        );
        receive(&mut node, &grant(1));
        receive(&mut node, &sign(issuer(), |claims| claims.slot = github()));
        let mut begin = |name: &str, declares: &BTreeSet<Slot>, selection| {
            let start = node.child_starting(child_id(name), child_type(), declares, selection);
            let grants = start.grants.iter().map(|g| g.slot().to_string());
            (start.takes.len(), grants.collect::<Vec<_>>())
        };
        let declared = vec!["default".to_owned()];
        assert_eq!(begin("a", &slots(), Selection::All), (1, declared));
        assert_eq!(begin("b", &takes, Selection::None), (2, Vec::new()));
        let named = (2, vec!["github".to_owned()]);
        assert_eq!(begin("c", &takes, Selection::named([github()])), named);
        let other = BTreeSet::from(["aws".parse().expect("slot")]);
        assert_eq!(begin("d", &other, Selection::All), (0, Vec::new()));
    }

    #[test]
    fn what_is_adopted_while_a_child_starts_is_due_once_it_runs() {
        let mut node = node();
        receive(&mut node, &grant(1));
        node.child_starting(child_id("a"), child_type(), &slots(), Selection::All);
        receive(&mut node, &grant(2));
        assert_eq!(node.next_forward(Stage::Local), None);
        assert_eq!(node.forwards_pending(), 1);
        node.child_started(&child_id("a"), run("a"));
        assert_eq!(
            forward(&mut node, Stage::Local, &Outcome::default()),
            to("a", 2)
        );
    }

    #[test]
    fn a_child_that_was_found_running_is_due_everything_and_watched() {
        let mut node = node();
        receive(&mut node, &grant(1));
        node.child_starting(child_id("a"), child_type(), &slots(), Selection::All);
        assert!(node.inherited().is_empty());
        node.child_found(&child_id("a"), run("a"));
        assert_eq!(node.inherited().len(), 1);
        assert_eq!(
            forward(&mut node, Stage::Local, &Outcome::default()),
            to("a", 1)
        );
    }

    #[test]
    fn only_the_end_of_the_same_run_forgets_a_child() {
        let mut node = parent();
        node.child_ended(&child_id("a"), Some(&run("another")));
        node.child_ended(&child_id("a"), None);
        node.child_ended(&child_id("b"), Some(&run("a")));
        assert_eq!(node.children().len(), 1);
        node.child_ended(&child_id("a"), Some(&run("a")));
        assert!(node.children().is_empty());
        node.child_starting(child_id("a"), child_type(), &slots(), Selection::All);
        node.child_ended(&child_id("a"), Some(&run("a")));
        assert_eq!(node.children().len(), 1);
        node.child_ended(&child_id("a"), None);
        assert!(node.children().is_empty());
    }

    #[test]
    fn a_child_that_is_selected_again_gets_the_current_grant_again() {
        let mut node = parent();
        node.select(&child_id("a"), Selection::None);
        receive(&mut node, &grant(2));
        assert_eq!(node.next_forward(Stage::Local), None);
        node.select(&child_id("a"), Selection::All);
        assert_eq!(
            forward(&mut node, Stage::Local, &Outcome::default()),
            to("a", 2)
        );

        node.select(&child_id("a"), Selection::None);
        node.select(&child_id("a"), Selection::named([slot()]));
        assert_eq!(
            forward(&mut node, Stage::Local, &Outcome::default()),
            to("a", 2)
        );
        node.select(&child_id("a"), Selection::All);
        assert_eq!(
            node.next_forward(Stage::Local),
            None,
            "nothing is selected anew"
        );
    }
}

mod forwarding {
    use super::*;

    fn behind() -> Node {
        let mut node = parent();
        receive(&mut node, &grant(2));
        node
    }

    #[test]
    fn a_child_in_flight_is_not_planned_twice_and_gets_only_the_newest_afterwards() {
        let mut node = behind();
        let plan = node.next_forward(Stage::Local).expect("a plan");
        for version in 3..=9 {
            receive(&mut node, &grant(version));
        }
        assert_eq!(node.next_forward(Stage::Local), None);
        assert_eq!(node.forwards_pending(), 1);
        node.forwarded(plan, &Outcome::default());
        assert_eq!(
            forward(&mut node, Stage::Local, &Outcome::default()),
            to("a", 9)
        );
        assert_eq!(node.forwards_pending(), 0);
    }

    #[test]
    fn what_the_local_activity_misses_the_regular_one_tries_and_then_the_sweep() {
        let mut node = behind();
        assert_eq!(
            forward(&mut node, Stage::Local, &undelivered("a")),
            to("a", 2)
        );
        assert_eq!(node.next_forward(Stage::Local), None);
        assert!(!node.is_settled());
        assert_eq!(
            forward(&mut node, Stage::Regular, &undelivered("a")),
            to("a", 2)
        );
        for stage in [Stage::Local, Stage::Regular] {
            assert_eq!(node.next_forward(stage), None);
        }
        assert!(node.is_settled(), "the sweep is next");
        assert_eq!(node.forwards_pending(), 1);
        receive(&mut node, &grant(3));
        assert_eq!(
            forward(&mut node, Stage::Local, &Outcome::default()),
            to("a", 3)
        );
    }

    #[test]
    fn a_grant_adopted_during_a_forward_that_missed_is_tried_from_the_beginning() {
        for stage in [Stage::Local, Stage::Regular] {
            let mut node = behind();
            if stage == Stage::Regular {
                forward(&mut node, Stage::Local, &undelivered("a"));
            }
            let plan = node.next_forward(stage).expect("a plan");
            receive(&mut node, &grant(3));
            node.forwarded(plan, &undelivered("a"));
            assert_eq!(
                forward(&mut node, Stage::Local, &Outcome::default()),
                to("a", 3)
            );
        }
    }

    #[test]
    fn a_child_that_is_gone_is_forgotten() {
        let mut node = behind();
        let gone = Outcome {
            gone: BTreeSet::from([child_id("a")]),
            ..Outcome::default()
        };
        forward(&mut node, Stage::Local, &gone);
        assert!(node.children().is_empty() && node.is_settled());
    }

    #[test]
    fn a_forward_that_failed_as_a_whole_reached_nobody() {
        let mut node = behind();
        let plan = node.next_forward(Stage::Local).expect("a plan");
        let failed = Outcome::failed(&plan);
        node.forwarded(plan, &failed);
        assert_eq!(
            forward(&mut node, Stage::Regular, &Outcome::default()),
            to("a", 2)
        );
    }

    #[test]
    fn the_outcome_does_not_count_for_another_child_under_the_same_id() {
        let mut node = behind();
        let plan = node.next_forward(Stage::Local).expect("a plan");
        node.child_ended(&child_id("a"), Some(&run("a")));
        node.child_starting(child_id("a"), child_type(), &slots(), Selection::All);
        node.child_found(&child_id("a"), run("another"));
        let gone = Outcome {
            gone: BTreeSet::from([child_id("a")]),
            ..Outcome::default()
        };
        node.forwarded(plan, &gone);
        assert_eq!(node.children().len(), 1);
        assert_eq!(
            forward(&mut node, Stage::Local, &Outcome::default()),
            to("a", 2)
        );
    }

    #[test]
    fn a_node_is_settled_when_nothing_is_starting_due_or_in_flight() {
        let mut node = node();
        assert!(node.is_settled());
        node.child_starting(child_id("a"), child_type(), &slots(), Selection::All);
        assert!(!node.is_settled(), "starting");
        node.child_started(&child_id("a"), run("a"));
        assert!(node.is_settled());
        receive(&mut node, &grant(1));
        assert!(!node.is_settled(), "due");
        let plan = node.next_forward(Stage::Local).expect("a plan");
        assert!(!node.is_settled(), "in flight");
        node.select(&child_id("a"), Selection::None);
        assert!(!node.is_settled(), "in flight, though no longer due");
        node.forwarded(plan, &Outcome::default());
        assert!(node.is_settled());
    }
}

mod continuing {
    use super::*;

    fn next_run(node: &Node, now: UnixSeconds) -> Node {
        let text = serde_json::to_string(&node.carry()).expect("JSON");
        let carried: Carried = serde_json::from_str(&text).expect("carried");
        let grants = node.grants().map(|g| g.as_str().to_owned()).collect();
        let start = Start {
            issuers: node.issuers().clone(),
            carried,
            ..start(grants)
        };
        Node::new(start, now)
    }

    #[test]
    fn the_next_run_knows_what_this_one_knew() {
        let mut node = parent();
        node.select(&child_id("a"), Selection::named([slot()]));
        node.receive(grant(2).as_str(), Source::Redemption, later(5));
        let failed = forward(&mut node, Stage::Local, &undelivered("a"));
        assert_eq!(failed, to("a", 2));
        forward(&mut node, Stage::Regular, &Outcome::default());
        node.reject(Rejection::RawToken);

        let next = next_run(&node, later(10));
        assert_eq!(next.status(1, later(10)), node.status(1, later(10)));
        assert_eq!(next.inherited().len(), 1);
        assert!(next.is_settled(), "the child has what it is due");
    }

    #[test]
    fn what_the_sweep_was_left_is_tried_again() {
        let mut node = parent();
        receive(&mut node, &grant(2));
        forward(&mut node, Stage::Local, &undelivered("a"));
        forward(&mut node, Stage::Regular, &undelivered("a"));
        let mut next = next_run(&node, NOW);
        assert_eq!(
            forward(&mut next, Stage::Local, &Outcome::default()),
            to("a", 2)
        );
    }

    #[test]
    fn a_grant_that_has_expired_meanwhile_is_kept_so_that_no_older_one_takes_its_place() {
        let mut node = node();
        let brief = sign(issuer(), |claims| {
            claims.order = order(2, 1);
            claims.expires_at = later(10);
        });
        receive(&mut node, &brief);
        let mut next = next_run(&node, later(600));
        assert_eq!(held_version(&next), Some(2));
        let status = next.status(1, later(600));
        assert_eq!(status.slots[&slot()].state, SlotState::Expired);
        let older = next.receive(grant(1).as_str(), Source::Signal, later(600));
        assert_eq!(older, Received::Rejected(Rejection::Stale));
        let fresh = Node::new(start(vec![brief.as_str().to_owned()]), later(600));
        assert_eq!(
            held_version(&fresh),
            None,
            "a fresh start takes no expired grant"
        );
    }

    #[test]
    fn retired_keys_stay_retired() {
        let key = IssuerKey::generate(2).expect("key");
        let mut node = node();
        node.trust(None, [key.public().clone()], NOW);
        let retires = vec![issuer().public().key_id.clone()];
        receive(&mut node, &sign(&key, |claims| claims.retires = retires));
        let mut next = next_run(&node, NOW);
        assert_eq!(held_version(&next), Some(1));
        let stolen = receive(&mut next, &grant(7));
        assert_eq!(stolen, Received::Rejected(Rejection::RetiredKey));
    }

    #[test]
    fn a_child_that_was_narrowed_is_remembered_after_its_end() {
        let mut node = parent();
        let a = child_id("a");
        assert!(!node.was_narrowed(&a));
        node.select(&a, Selection::None);
        node.child_ended(&a, Some(&run("a")));
        let mut next = next_run(&node, NOW);
        assert!(next.was_narrowed(&a) && !next.was_narrowed(&child_id("b")));
        next.child_starting(a.clone(), child_type(), &slots(), Selection::All);
        assert!(!next.was_narrowed(&a), "it has everything again");
    }

    #[test]
    fn what_is_in_transit_is_passed_on() {
        let transit = Selection::transit([slot()]);
        assert!(transit.contains(&slot()) && !transit.redeems(&slot()));
        assert!(transit.contains(&github()) && transit.redeems(&github()));
        let mut node = parent();
        node.select(&child_id("a"), transit);
        receive(&mut node, &grant(2));
        assert_eq!(
            forward(&mut node, Stage::Local, &Outcome::default()),
            to("a", 2)
        );
    }

    #[test]
    fn fields_of_a_later_library_are_not_ignored() {
        assert!(serde_json::from_str::<Carried>(r#"{"later": 1}"#).is_err());
        assert_eq!(
            serde_json::from_str::<Carried>("{}").expect("empty"),
            Carried::default()
        );
    }
}
