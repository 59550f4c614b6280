//! What the sweep does from time to time: starts that a crash left, grants that expire, nodes that
//! were missed.

use crate::common::{self, Stack, TOKEN_2, deposit, id, namespace, start, temporal::Mood, tree};
use std::time::Duration;
use xylem_client::{Client, Redeem, v1};
use xylem_control::Swept;
use xylem_grant::UnixSeconds;
use xylem_ids::{AgentId, TreeId};
use xylem_vault::{Clock, NewTree, Stopping, TreeState, VersionInfo, VersionState};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
/// What the server's settings say.
const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

fn now(stack: &Stack) -> UnixSeconds {
    stack.clock.now().into()
}

async fn record(stack: &Stack, name: &str) -> xylem_vault::Tree {
    let found = stack.vault.find_tree(&namespace(), &tree(name)).await;
    found.expect("a tree")
}

async fn tree_id(stack: &Stack, name: &str) -> TreeId {
    record(stack, name)
        .await
        .id()
        .expect("its root has started")
}

/// Every version of a tree.
async fn versions(stack: &Stack, name: &str) -> Vec<VersionInfo> {
    let status = stack.vault.status(&tree_id(stack, name).await).await;
    let status = status.expect("a status").into_iter();
    status.map(|version| version.info).collect()
}

/// The only version of a tree.
async fn only(stack: &Stack, name: &str) -> VersionInfo {
    let mut versions = versions(stack, name).await;
    assert_eq!(versions.len(), 1, "{versions:?}");
    versions.remove(0)
}

/// Version and serial of what a node says it holds.
async fn held(admin: &Client, workflow_id: &str) -> (u32, u32) {
    let request = v1::GetTreeRequest {
        tree: "train".to_owned(),
        ..v1::GetTreeRequest::default()
    };
    let view = admin.get_tree(request).await.expect("a view");
    let mut nodes = view.nodes.iter();
    let node = nodes.find(|node| node.workflow_id == workflow_id);
    let slots = &node.expect("a node").slots;
    let order = slots[0].order.expect("an order");
    (order.version, order.serial)
}

/// A tree of a root and a leaf whose activity 7 is pending, and a worker.
async fn scene() -> (Stack, Client) {
    let stack = Stack::start().await;
    let worker = stack.worker().await;
    stack.tree("train").await;
    stack.temporal.start_child("train", "leaf", "Leaf");
    stack.temporal.activity("leaf", "7", 1);
    (stack, worker)
}

fn redemption(stack: &Stack, workflow_id: &str, grant: &str) -> Redeem {
    Redeem {
        claims: stack.claims(workflow_id, "7"),
        grant: grant.to_owned(),
        tool: id("acme.deploy"),
        slot: Some(id("default")),
        api_url: None,
        parameters_json: None,
        request_id: String::new(),
    }
}

#[tokio::test]
async fn a_grant_is_issued_again_when_a_third_of_its_life_is_left() {
    let (stack, worker) = scene().await;
    let admin = stack.admin().await;
    let first = only(&stack, "train").await;
    stack.clock.advance(LIFETIME * 2 / 3);
    stack.sweep().await;
    assert_eq!(only(&stack, "train").await, first, "there is time left");
    stack.clock.advance(SECOND);
    stack.sweep().await;
    let again = only(&stack, "train").await;
    assert_eq!(again.expires_at, now(&stack).plus(LIFETIME));
    assert_eq!((again.version, again.serial.0), (first.version, 2));
    assert_eq!(again.deposited_at, first.deposited_at);
    assert_eq!(again.fingerprint, first.fingerprint);
    for node in ["train", "leaf"] {
        assert_eq!(held(&admin, node).await, (1, 2), "{node}");
    }
    stack.sweep().await;
    assert_eq!(only(&stack, "train").await, again, "once is enough");
    let signals = stack.temporal.signals("train");
    assert_eq!(signals.len(), 2);
    // When the first grant would have expired, the tree goes on.
    stack.clock.advance(LIFETIME / 3 + HOUR);
    let redeemed = worker
        .redeem(redemption(&stack, "leaf", &signals[0]))
        .await
        .expect("a token");
    assert_eq!(redeemed.newer_grant.as_ref(), signals.last());
}

#[tokio::test]
async fn a_node_that_missed_the_longer_grant_is_signalled_by_the_sweep() {
    let (stack, _worker) = scene().await;
    stack.temporal.mood("train", Mood::Lonely);
    stack.clock.advance(LIFETIME * 2 / 3 + SECOND);
    let swept = stack.sweep().await;
    let expected = Swept {
        fine: 1,
        signalled: 1,
        ..Swept::default()
    };
    assert_eq!(swept, expected);
    let admin = stack.admin().await;
    assert_eq!(held(&admin, "leaf").await, (1, 2));
    assert_eq!(stack.temporal.signals("leaf").len(), 1);
    // It holds the same token, so it never blocked a revocation.
    assert_eq!(stack.sweep().await.fine, 2);
}

#[tokio::test]
async fn a_grant_ends_when_its_depositor_said() {
    ends(HOUR, HOUR).await;
    // Where nobody says anything, it is renewed at that age.
    ends(LIFETIME, LIFETIME - SECOND).await;
}

async fn ends(named: Duration, lives: Duration) {
    let stack = Stack::start().await;
    let worker = stack.worker().await;
    stack.tool().await;
    let mut short = start("train");
    short.tokens[0].deposit.ttl = Some(named);
    let admin = stack.admin().await;
    admin.start_tree(short).await.expect("a tree");
    stack.temporal.activity("train", "7", 1);
    let first = only(&stack, "train").await;
    stack.clock.advance(lives - SECOND);
    stack.sweep().await;
    let grant = stack.temporal.signals("train").remove(0);
    let redeem = redemption(&stack, "train", &grant);
    worker
        .redeem(redeem.clone())
        .await
        .expect("the last second");
    stack.clock.advance(SECOND);
    stack.sweep().await;
    assert_eq!(only(&stack, "train").await, first);
    assert_eq!(stack.temporal.signals("train"), [grant]);
    let error = worker.redeem(redeem).await.expect_err("expired");
    assert_eq!(error.reason(), Some("token_expired"));
}

#[tokio::test]
async fn a_tree_whose_root_has_closed_is_not_renewed() {
    let (stack, _worker) = scene().await;
    let first = only(&stack, "train").await;
    stack.temporal.complete("train");
    stack.clock.advance(LIFETIME - HOUR);
    stack.sweep().await;
    assert_eq!(only(&stack, "train").await, first);
    assert_eq!(stack.temporal.signals("train").len(), 1);
}

#[tokio::test]
async fn a_grant_that_expired_unseen_is_renewed_all_the_same() {
    let (stack, _worker) = scene().await;
    stack.clock.advance(10 * LIFETIME);
    stack.sweep().await;
    assert_eq!(only(&stack, "train").await.serial.0, 2);
    assert_eq!(held(&stack.admin().await, "leaf").await, (1, 2));
}

#[tokio::test]
async fn time_that_passes_within_a_call_does_not_make_a_lifetime_somebody_elses() {
    let stack = Stack::start().await;
    stack.worker().await;
    // Depositing, starting and binding take a moment each, and so does renewing.
    stack.clock.run(SECOND);
    stack.tree("train").await;
    let admin = stack.admin().await;
    let set = admin
        .set_token(&tree("train"), &id("github"), deposit(TOKEN_2))
        .await;
    set.expect("set");
    for serial in 2..4 {
        stack.clock.advance(LIFETIME - HOUR);
        stack.sweep().await;
        for version in versions(&stack, "train").await {
            assert_eq!(version.serial.0, serial, "{}", version.slot);
        }
    }
}

#[tokio::test]
async fn a_new_issuer_key_neither_fails_on_an_expired_grant_nor_keeps_one_from_renewal() {
    let (stack, _worker) = scene().await;
    stack.clock.advance(HOUR);
    let by: AgentId = id("admin");
    stack
        .vault
        .rotate_issuer(&common::namespace(), &by)
        .await
        .expect("rotated");
    let signed = only(&stack, "train").await;
    assert_eq!(signed.serial.0, 2);
    stack.clock.advance(LIFETIME - 2 * HOUR);
    stack.sweep().await;
    let renewed = only(&stack, "train").await;
    assert_eq!(renewed.serial.0, 3);
    assert_eq!(renewed.expires_at, now(&stack).plus(LIFETIME));
    // Trees whose roots have closed keep their last grant until somebody stops them.
    stack.temporal.complete("train");
    stack.clock.advance(2 * LIFETIME);
    stack
        .vault
        .rotate_issuer(&common::namespace(), &by)
        .await
        .expect("rotated");
    let expired = only(&stack, "train").await;
    assert_eq!(expired.expires_at, renewed.expires_at);
    assert_eq!((expired.epoch.0, expired.serial.0), (1, 4));
}

/// A start whose root runs although nobody was told.
async fn crashed(stack: &Stack, start: xylem_client::StartTree) {
    stack.temporal.lose_answers(true);
    let error = stack.admin().await.start_tree(start).await;
    assert!(error.expect_err("no answer").is_retryable());
    stack.temporal.lose_answers(false);
}

/// A start whose root was never started.
async fn never_started(stack: &Stack) {
    stack.temporal.down(true);
    let error = stack.admin().await.start_tree(start("train")).await;
    assert!(error.expect_err("no answer").is_retryable());
    stack.temporal.down(false);
}

async fn starting(stack: &Stack) -> usize {
    stack.vault.starting().await.expect("starts").len()
}

async fn is_given_up(stack: &Stack, name: &str) {
    assert_eq!(starting(stack).await, 0);
    let tree = record(stack, name).await;
    let given_up = matches!(
        tree.state,
        TreeState::Stopped {
            first_run_id: None,
            ..
        }
    );
    assert!(given_up, "{tree:?}");
}

#[tokio::test]
async fn a_crashed_start_whose_root_runs_is_bound_and_signalled() {
    let stack = Stack::start().await;
    let worker = stack.worker().await;
    stack.tool().await;
    crashed(&stack, start("train")).await;
    stack.temporal.activity("train", "7", 1);
    stack.clock.advance(MINUTE - SECOND);
    stack.sweep().await;
    assert_eq!(starting(&stack).await, 1, "it may still be under way");
    assert!(stack.temporal.signals("train").is_empty());
    stack.clock.advance(SECOND);
    stack.sweep().await;
    assert_eq!(starting(&stack).await, 0);
    let run = stack.temporal.run("train").run_id;
    assert_eq!(tree_id(&stack, "train").await.first_run_id, run);
    let signals = stack.temporal.signals("train");
    assert_eq!(signals.len(), 1);
    let redeem = redemption(&stack, "train", &signals[0]);
    worker.redeem(redeem).await.expect("a token");
    // What was bound late is renewed like the others.
    stack.clock.advance(LIFETIME - HOUR);
    stack.sweep().await;
    assert_eq!(only(&stack, "train").await.serial.0, 2);
}

#[tokio::test]
async fn a_crashed_start_whose_root_has_gone_on_as_another_run_is_bound_to_the_first() {
    let stack = Stack::start().await;
    stack.tool().await;
    crashed(&stack, start("train")).await;
    let first = stack.temporal.run("train").run_id;
    stack.temporal.continue_as_new("train");
    stack.clock.advance(MINUTE);
    stack.sweep().await;
    assert_eq!(tree_id(&stack, "train").await.first_run_id, first);
    assert_eq!(stack.temporal.signals("train").len(), 1);
}

#[tokio::test]
async fn a_crashed_start_whose_root_does_not_run_is_given_up() {
    let stack = Stack::start().await;
    stack.tool().await;
    never_started(&stack).await;
    stack.clock.advance(MINUTE - SECOND);
    stack.sweep().await;
    assert_eq!(starting(&stack).await, 1, "it may still be under way");
    stack.clock.advance(SECOND);
    stack.temporal.down(true);
    assert_eq!(stack.sweep().await.failed, 1);
    assert_eq!(
        starting(&stack).await,
        1,
        "nobody said that it does not run"
    );
    stack.temporal.down(false);
    stack.sweep().await;
    is_given_up(&stack, "train").await;
    assert_eq!(stack.temporal.running(), 0);
}

#[tokio::test]
async fn the_request_of_a_start_that_was_given_up_says_that_another_one_is_needed() {
    let stack = Stack::start().await;
    stack.tool().await;
    let admin = stack.admin().await;
    let request = |request_id: &str| {
        let mut start = start("train");
        start.request_id = request_id.to_owned();
        start
    };
    stack.temporal.down(true);
    let error = admin.start_tree(request("r-1")).await;
    assert!(error.expect_err("no answer").is_retryable());
    stack.temporal.down(false);
    stack.clock.advance(MINUTE);
    stack.sweep().await;
    is_given_up(&stack, "train").await;
    for _ in 0..2 {
        let error = admin.start_tree(request("r-1")).await.expect_err("gone");
        assert_eq!(error.reason(), Some("start_given_up"));
        let text = error.to_string();
        for said in ["tree train", "given up", "another request id"] {
            assert!(text.contains(said), "{text}");
        }
    }
    assert!(stack.temporal.starts().is_empty());
    admin.start_tree(request("r-2")).await.expect("a tree");
    // The given-up one stays so beside it.
    let error = admin.start_tree(request("r-1")).await.expect_err("gone");
    assert_eq!(error.reason(), Some("start_given_up"));
}

#[tokio::test]
async fn a_crashed_start_whose_id_somebody_else_took_is_given_up_and_not_bound() {
    let stack = Stack::start().await;
    stack.tool().await;
    never_started(&stack).await;
    stack.temporal.start_root("train", "Train");
    stack.clock.advance(MINUTE);
    stack.sweep().await;
    is_given_up(&stack, "train").await;
    assert!(stack.temporal.signals("train").is_empty());
}

#[tokio::test]
async fn a_start_that_cannot_be_settled_does_not_keep_the_others_waiting() {
    let stack = Stack::start().await;
    stack.worker().await;
    stack.tool().await;
    // The first one's run is another record's already; the second one's grant has expired.
    crashed(&stack, start("taken")).await;
    let new = NewTree {
        namespace: namespace(),
        workflow_id: id("taken"),
        intake: false,
        tools: [].into(),
        owner: id("admin"),
        request: id("another"),
    };
    let other = stack.vault.open_tree(new).await.expect("opened");
    let run = stack.temporal.run("taken").run_id;
    stack.vault.bind(&other, run).await.expect("bound");
    let mut short = start("short");
    short.tokens[0].deposit.ttl = Some(10 * SECOND);
    crashed(&stack, short).await;
    crashed(&stack, start("train")).await;
    stack.clock.advance(MINUTE);
    let swept = stack.sweep().await;
    assert_eq!(swept.failed, 1, "{swept:?}");
    for name in ["short", "train"] {
        assert!(record(&stack, name).await.is_bound(), "{name}");
        assert_eq!(stack.temporal.signals(name).len(), 1, "{name}");
    }
    let expired = only(&stack, "short").await;
    assert!(expired.state == VersionState::Active && expired.expires_at < now(&stack));
}

/// What a crash leaves between the vault's stop and the first workflow's.
async fn stopped_in_the_vault(stack: &Stack, terminate: bool) {
    let stopping = Stopping {
        tree: tree_id(stack, "train").await,
        terminate,
        by: id("admin"),
        note: None,
    };
    stack.vault.stop(stopping).await.expect("stopped");
}

#[tokio::test]
async fn a_stopped_tree_that_still_runs_is_finished_as_was_asked() {
    let (stack, _worker) = scene().await;
    stack.temporal.start_child("leaf", "stubborn", "Leaf");
    stack.temporal.mood("stubborn", Mood::Stubborn);
    stack.temporal.hide("stubborn");
    stopped_in_the_vault(&stack, false).await;
    assert_eq!(stack.temporal.running(), 3);
    assert_eq!(stack.sweep().await.stopped, 3);
    assert_eq!(stack.temporal.running(), 1, "cancellation was asked for");
    // Its parent is gone, and it is on the lists by now.
    stack.temporal.show("stubborn");
    assert_eq!(stack.sweep().await.stopped, 1);
    assert_eq!(stack.temporal.running(), 1);
    stopped_in_the_vault(&stack, true).await;
    assert_eq!(stack.sweep().await.stopped, 1);
    assert_eq!(stack.temporal.running(), 0);
    assert!(record(&stack, "train").await.is_to_terminate());
    // It stays so, however it is stopped again.
    stopped_in_the_vault(&stack, false).await;
    assert!(record(&stack, "train").await.is_to_terminate());
}

#[tokio::test]
async fn a_tree_that_cannot_be_finished_now_is_finished_by_a_later_sweep() {
    let (stack, _worker) = scene().await;
    stopped_in_the_vault(&stack, true).await;
    stack.temporal.down(true);
    let swept = stack.sweep().await;
    assert_eq!((swept.failed, swept.stopped), (1, 0));
    stack.temporal.down(false);
    assert_eq!(stack.sweep().await.stopped, 2);
    assert_eq!(stack.temporal.running(), 0);
}

/// How many lists the next sweep asks for.
async fn lists(stack: &Stack) -> u32 {
    let before = stack.temporal.lists();
    stack.sweep().await;
    stack.temporal.lists() - before
}

#[tokio::test]
async fn a_tree_of_which_nothing_runs_is_looked_at_once_an_hour() {
    for stopped in [false, true] {
        let (stack, _worker) = scene().await;
        stack.temporal.complete("train");
        assert_eq!(lists(&stack).await, 1);
        assert_eq!(lists(&stack).await, 1, "the leaf still runs");
        if stopped {
            stopped_in_the_vault(&stack, false).await;
            assert_eq!(lists(&stack).await, 1, "the leaf is asked to end");
        } else {
            stack.temporal.complete("leaf");
        }
        for looks in [1, 1, 0, 0] {
            assert_eq!(lists(&stack).await, looks, "{stopped}");
        }
        stack.clock.advance(HOUR - SECOND);
        assert_eq!(lists(&stack).await, 0, "{stopped}");
        stack.clock.advance(SECOND);
        for looks in [1, 0] {
            assert_eq!(lists(&stack).await, looks, "{stopped}");
        }
    }
}

#[tokio::test]
async fn a_root_that_is_back_is_swept_again() {
    let (stack, _worker) = scene().await;
    let run = stack.temporal.run("train");
    for node in ["train", "leaf"] {
        stack.temporal.complete(node);
    }
    for looks in [1, 1, 0] {
        assert_eq!(lists(&stack).await, looks);
    }
    stack.temporal.reset(run);
    stack.clock.advance(LIFETIME);
    // Found at first, renewed and signalled then.
    stack.sweep().await;
    stack.sweep().await;
    assert_eq!(only(&stack, "train").await.serial.0, 2);
    assert_eq!(held(&stack.admin().await, "train").await, (1, 2));
}

#[tokio::test]
async fn a_backup_of_the_future_is_no_sign_that_backups_are_made() {
    let stack = Stack::start().await;
    let admin = stack.admin().await;
    let backups = async || {
        let status = admin.status().await.expect("told");
        let check = status.checks.into_iter().find(|it| it.name == "backup");
        check.expect("a check")
    };
    stack.control.back_up().await.expect("made");
    // As where another machine keeps the file.
    stack.clock.set_back(MINUTE);
    assert!(backups().await.ok);
    stack.clock.set_back(48 * HOUR);
    let ahead = backups().await;
    assert!(
        !ahead.ok && ahead.detail.contains("2days 1m ahead"),
        "{ahead:?}"
    );
    assert!(ahead.detail.contains("move the file away"), "{ahead:?}");
}

#[tokio::test]
async fn whoever_starts_the_scheduled_backup_again_and_again_pushes_none_out() {
    let stack = Stack::start().await;
    for _ in 0..5 {
        stack.control.back_up().await.expect("looked at");
    }
    assert_eq!(stack.backups.made().len(), 1);
    stack.clock.advance(Duration::from_secs(12 * 60 * 60));
    stack.control.back_up().await.expect("looked at");
    assert_eq!(stack.backups.made().len(), 2);
    let admin = stack.admin().await;
    admin.back_up().await.expect("made");
    assert_eq!(
        stack.backups.made().len(),
        3,
        "an administrator may at any time"
    );
}
