//! What raises an alert, on a real database.

use crate::house::{House, agent, namespace, workflow};
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use xylem_audit::{Entry, Kind, NodeRun, Record, Rule, Rules, SubjectKind, Verdict, Watch};
use xylem_ids::{AuditId, Epoch, Order, Serial, TreeId, Version};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

struct Scene {
    house: House,
    rules: Rules,
    seq: u64,
}

fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000 + second)
}

impl Scene {
    async fn new() -> Self {
        Self {
            house: House::new().await,
            rules: Rules::default(),
            seq: 0,
        }
    }

    /// What an entry raises when it is looked at.
    async fn see(&mut self, entry: Entry) -> Vec<(String, BTreeMap<String, u64>)> {
        let now = entry.at;
        self.see_at(entry, now).await
    }

    async fn see_at(
        &mut self,
        mut entry: Entry,
        now: SystemTime,
    ) -> Vec<(String, BTreeMap<String, u64>)> {
        self.seq += 1;
        entry.namespace = Some(namespace());
        let record = Record {
            id: AuditId::try_from(self.seq.to_string()).unwrap(),
            entry,
            erased: false,
        };
        let mut memory = self.house.store.begin_watch().await.unwrap();
        let raised = self.rules.look(&mut *memory, &record, now).await.unwrap();
        memory.commit(&[]).await.unwrap();
        let raised = raised.into_iter().map(|alert| {
            assert_eq!(alert.kind, Kind::Alert);
            assert_eq!(alert.subject.unwrap().kind, SubjectKind::Agent);
            let numbers = alert.numbers.into_iter();
            let numbers = numbers.map(|(name, number)| (name.to_string(), number));
            (alert.reason.unwrap().to_string(), numbers.collect())
        });
        raised.collect()
    }

    async fn rules_of(&mut self, entry: Entry) -> Vec<String> {
        let raised = self.see(entry).await;
        raised.into_iter().map(|(rule, _)| rule).collect()
    }
}

fn numbers<const N: usize>(expected: [(&str, u64); N]) -> BTreeMap<String, u64> {
    expected
        .map(|(name, number)| (name.to_owned(), number))
        .into()
}

fn redeem(second: u64, verdict: Verdict) -> Entry {
    let mut entry = Entry::new(at(second), Kind::Redeem, verdict).by(&agent("worker"));
    entry.owner = Some(agent("service"));
    entry.tool = Some("acme.deploy".parse().unwrap());
    entry
}

fn denied(second: u64) -> Entry {
    redeem(second, Verdict::Denied).because("not_allowed")
}

fn from(second: u64, address: &str) -> Entry {
    let mut entry = Entry::new(at(second), Kind::Authenticated, Verdict::Granted);
    entry.agent = Some(agent("service"));
    entry.address = Some(address.parse().unwrap());
    entry
}

#[tokio::test]
async fn ten_denials_within_a_minute_are_said_once() {
    let mut scene = Scene::new().await;
    for second in 0..9 {
        assert!(scene.see(denied(second * 6)).await.is_empty(), "{second}");
    }
    let expected = numbers([("denials", 10), ("within_s", 60)]);
    let raised = scene.see(denied(59)).await;
    assert_eq!(raised, [("denials".to_owned(), expected)]);
    assert!(scene.see(denied(59)).await.is_empty());
    // An hour later it is news again.
    for second in 0..9 {
        assert!(scene.see(denied(HOUR + 100 + second)).await.is_empty());
    }
    assert_eq!(scene.rules_of(denied(HOUR + 110)).await, ["denials"]);
}

#[tokio::test]
async fn ten_denials_over_two_minutes_are_not() {
    let mut scene = Scene::new().await;
    for second in 0..10 {
        assert!(scene.see(denied(second * 12)).await.is_empty(), "{second}");
    }
}

#[tokio::test]
async fn counted_denials_count_for_their_minute_and_their_agent() {
    let mut scene = Scene::new().await;
    let counted = |agent_name: &str, count| {
        let mut entry = Entry::new(at(0), Kind::PermissionDenied, Verdict::Denied);
        entry.agent = Some(agent(agent_name));
        entry.count = count;
        entry
    };
    assert!(scene.see(counted("service", 9)).await.is_empty());
    assert!(scene.see(counted("other", 9)).await.is_empty());
    assert_eq!(scene.rules_of(counted("other", 1)).await, ["denials"]);
}

#[tokio::test]
async fn a_second_network_is_new_and_the_first_is_not() {
    let mut scene = Scene::new().await;
    assert!(scene.see(from(0, "192.0.2.7")).await.is_empty());
    assert!(scene.see(from(10, "192.0.2.99")).await.is_empty());
    let raised = scene.see(from(20, "198.51.100.7")).await;
    let expected = numbers([("networks_known", 1), ("calls", 1)]);
    assert_eq!(raised, [("new_network".to_owned(), expected)]);
    assert!(scene.see(from(29 * DAY, "192.0.2.7")).await.is_empty());
    let raised = scene.see(from(60 * DAY, "192.0.2.7")).await;
    let expected = numbers([("networks_known", 2), ("calls", 1), ("unused_days", 31)]);
    assert_eq!(raised, [("new_network".to_owned(), expected)]);
}

#[tokio::test]
async fn a_tool_that_was_never_called_is_new_and_the_first_is_not() {
    let mut scene = Scene::new().await;
    let call = |tool: &str| {
        let mut entry = redeem(0, Verdict::Granted);
        entry.tool = Some(tool.parse().unwrap());
        entry
    };
    assert!(scene.see(call("acme.deploy")).await.is_empty());
    let raised = scene.see(call("acme.erase")).await;
    assert_eq!(
        raised,
        [("new_tool".to_owned(), numbers([("tools_known", 1)]))]
    );
    assert!(scene.see(call("acme.erase")).await.is_empty());
}

#[tokio::test]
async fn more_than_five_times_the_usual_hour_is_too_much() {
    let mut scene = Scene::new().await;
    let calls = |hour: u64, count| {
        let mut entry = redeem(hour * HOUR, Verdict::Granted);
        entry.count = count;
        entry
    };
    for hour in 0..24 {
        assert!(scene.see(calls(hour, 20)).await.is_empty());
    }
    assert!(scene.see(calls(24, 100)).await.is_empty());
    let raised = scene.see(calls(25, 200)).await;
    let expected = numbers([("calls", 200), ("percentile_95", 20), ("factor", 5)]);
    assert_eq!(raised, [("call_rate".to_owned(), expected)]);
}

#[tokio::test]
async fn a_young_agent_has_no_usual_hour() {
    let mut scene = Scene::new().await;
    for hour in 0..20 {
        let mut entry = redeem(hour * HOUR, Verdict::Granted);
        entry.count = if hour == 19 { 10_000 } else { 1 };
        assert!(scene.see(entry).await.is_empty());
    }
}

#[tokio::test]
async fn an_exposed_token_and_a_conflicting_grant_are_said() {
    let mut scene = Scene::new().await;
    let mut exposed = Entry::new(at(0), Kind::Exposure, Verdict::Succeeded);
    exposed.agent = Some(agent("worker"));
    assert_eq!(scene.rules_of(exposed).await, ["exposed_token"]);
    let rejected = |why| {
        let entry = Entry::new(at(0), Kind::SignalsRejected, Verdict::Denied);
        let mut entry = entry.by(&agent("worker")).because(why);
        entry.node = Some(NodeRun {
            workflow_id: workflow("leaf"),
            run_id: None,
        });
        entry
    };
    let raised = scene.rules_of(rejected("raw_token")).await;
    assert_eq!(raised, ["exposed_token"]);
    assert_eq!(
        scene.rules_of(rejected("conflict")).await,
        ["grant_conflict"]
    );
    assert!(scene.rules_of(rejected("stale")).await.is_empty());
}

#[tokio::test]
async fn a_version_that_was_superseded_eleven_minutes_ago_is_said_and_nine_are_fine() {
    let mut scene = Scene::new().await;
    let order = |version| Order {
        epoch: Epoch(1),
        version: Version(version),
        serial: Serial(1),
    };
    let old = |minutes: u64| {
        let mut entry = redeem(0, Verdict::Granted);
        entry.tree = Some(TreeId {
            namespace: namespace(),
            workflow_id: workflow("train"),
            first_run_id: "run-1".parse().unwrap(),
        });
        entry.behind_s = Some(minutes * MINUTE);
        entry.presented = Some(order(1));
        entry.order = Some(order(2));
        entry
    };
    assert!(scene.see(old(9)).await.is_empty());
    let raised = scene.see(old(11)).await;
    let expected = numbers([("superseded_s", 660), ("presented", 1), ("current", 2)]);
    assert_eq!(raised, [("superseded_version".to_owned(), expected)]);
}

#[tokio::test]
async fn what_is_off_and_what_is_long_ago_is_remembered_and_not_said() {
    let mut scene = Scene::new().await;
    scene.rules.off = [Rule::NewNetwork].into();
    scene.see(from(0, "192.0.2.7")).await;
    assert!(scene.see(from(1, "198.51.100.7")).await.is_empty());
    scene.rules.off.clear();
    let late = at(2 * DAY);
    let raised = scene.see_at(from(2, "203.0.113.7"), late).await;
    assert!(raised.is_empty(), "{raised:?}");
    assert!(scene.see(from(3, "203.0.113.8")).await.is_empty());
}

#[tokio::test]
async fn thresholds_are_those_that_were_said() {
    let mut scene = Scene::new().await;
    scene.rules.denials = 2;
    scene.rules.denials_within = Duration::from_secs(10 * MINUTE);
    assert!(scene.see(denied(0)).await.is_empty());
    assert_eq!(scene.rules_of(denied(9 * MINUTE)).await, ["denials"]);
}

#[tokio::test]
async fn every_token_that_is_shown_is_said_and_by_whom() {
    let mut scene = Scene::new().await;
    let shown = |second, verdict| {
        let mut entry = Entry::new(at(second), Kind::TokenRevealed, verdict).by(&agent("boss"));
        entry.owner = Some(agent("service"));
        entry
    };
    for second in [0, 1] {
        let rules = scene.rules_of(shown(second, Verdict::Granted)).await;
        assert_eq!(rules, ["break_glass"]);
    }
    // Who tries again and again is said once an hour.
    let rules = scene.rules_of(shown(2, Verdict::Denied)).await;
    assert_eq!(rules, ["break_glass"]);
    assert!(scene.rules_of(shown(3, Verdict::Denied)).await.is_empty());
}
