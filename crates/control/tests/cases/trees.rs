//! Trees: started, looked at, watched, stopped.

use crate::common::{self, Stack, eventually, id, start, temporal::Mood, tree};
use futures::StreamExt;
use xylem_client::{Client, Error, v1};
use xylem_ids::Role;

async fn look(client: &Client, name: &str) -> v1::TreeView {
    let request = v1::GetTreeRequest {
        tree: name.to_owned(),
        ..v1::GetTreeRequest::default()
    };
    client.get_tree(request).await.expect("a view")
}

fn state_of(view: &v1::TreeView, workflow_id: &str) -> (v1::NodeState, String) {
    let node = view
        .nodes
        .iter()
        .find(|node| node.workflow_id == workflow_id);
    let node = node.unwrap_or_else(|| panic!("{workflow_id} is not in {:?}", view.nodes));
    let slot = node.slots.first();
    (
        node.state(),
        slot.map(|slot| slot.reason.clone()).unwrap_or_default(),
    )
}

#[tokio::test]
async fn a_start_deposits_starts_binds_and_signals() {
    let stack = Stack::start().await;
    let started = stack.tree("release/1").await;
    assert_eq!(started.state(), v1::TreeState::Active);
    let run = stack.temporal.run("release/1").run_id;
    assert_eq!(started.id.expect("an id").first_run_id, run.as_str());
    assert_eq!(started.tokens[0].order.expect("an order").version, 1);
    let start = stack.temporal.starts().remove(0);
    let (name, header) = &start.headers[0];
    assert_eq!(*name, "xylem-tree");
    assert!(
        header["grants"].is_null() && header["tree"].is_null(),
        "{header}"
    );
    assert_eq!(start.input, Some(serde_json::json!({ "cars": 3 })));
    let signals = stack.temporal.signals("release/1");
    assert_eq!(signals.len(), 1);
    assert!(signals[0].starts_with("xylem1."));
}

#[tokio::test]
async fn the_same_request_starts_once() {
    let stack = Stack::start().await;
    stack.tool().await;
    let admin = stack.admin().await;
    for _ in 0..2 {
        let mut again = start("train");
        again.request_id = "r-1".to_owned();
        let started = admin.start_tree(again).await.expect("a tree");
        assert_eq!(started.tokens.len(), 1);
        assert_eq!(started.tokens[0].order.expect("an order").version, 1);
    }
    assert_eq!(stack.temporal.starts().len(), 1);
    assert_eq!(stack.temporal.signals("train").len(), 1);
    // Another agent's same request id is another request.
    let second = stack.client(Role::Admin).await;
    let mut other = start("train");
    other.request_id = "r-1".to_owned();
    let error = second.start_tree(other).await.expect_err("it runs");
    assert_eq!(error.reason(), Some("already_running"));
}

#[tokio::test]
async fn a_running_id_gets_nothing() {
    let stack = Stack::start().await;
    stack.tool().await;
    stack.temporal.start_root("train", "Train");
    let error = stack
        .admin()
        .await
        .start_tree(start("train"))
        .await
        .expect_err("it runs");
    assert!(matches!(error, Error::Conflict(_)), "{error}");
    assert!(stack.temporal.signals("train").is_empty());
    assert!(
        stack.vault.starting().await.expect("starts").is_empty(),
        "the deposit is given up"
    );
}

#[tokio::test]
async fn an_outage_is_retryable_and_loses_nothing() {
    let stack = Stack::start().await;
    stack.tool().await;
    let admin = stack.admin().await;
    let mut lost = start("train");
    lost.request_id = "r-1".to_owned();
    stack.temporal.lose_answers(true);
    let error = admin.start_tree(lost).await.expect_err("no answer");
    assert!(error.is_retryable(), "{error}");
    stack.temporal.lose_answers(false);
    let mut again = start("train");
    again.request_id = "r-1".to_owned();
    let started = admin.start_tree(again).await.expect("the same root");
    assert_eq!(started.state(), v1::TreeState::Active);
    assert_eq!(stack.temporal.starts().len(), 1);
}

#[tokio::test]
async fn bad_starts_name_the_field() {
    let stack = Stack::start().await;
    stack.tool().await;
    let admin = stack.admin().await;
    let field = async |change: fn(&mut xylem_client::StartTree)| {
        let mut bad = start("train");
        change(&mut bad);
        let error = admin.start_tree(bad).await.expect_err("refused");
        error
            .answer()
            .and_then(|answer| answer.field.clone())
            .unwrap_or(error.to_string())
    };
    assert_eq!(field(|s| s.workflow_id = id(r"a\b")).await, "workflow_id");
    assert_eq!(field(|s| s.input_json = "{".to_owned()).await, "input_json");
    assert_eq!(
        field(|s| s.tokens[0].deposit.audiences.clear()).await,
        "tokens.audiences"
    );
    assert_eq!(
        field(|s| s.tokens[0].deposit.token = "short".into()).await,
        "token"
    );
    assert_eq!(field(|s| s.request_id = "r".repeat(60)).await, "request_id");
    assert!(
        field(|s| s.tools = vec![id("no.such")])
            .await
            .contains("tool")
    );
    assert!(stack.temporal.starts().is_empty());
}

#[tokio::test]
async fn a_walk_tells_every_state() {
    let stack = Stack::start().await;
    stack.worker().await;
    stack.tree("train").await;
    for child in ["good", "deaf", "silent", "apart", "hidden"] {
        stack.temporal.start_child("train", child, "Leaf");
    }
    stack
        .temporal
        .start_child("train", "plain", "SomethingElse");
    stack.temporal.mood("deaf", Mood::Deaf);
    stack.temporal.mood("silent", Mood::Silent);
    stack.temporal.unselect("apart");
    stack.temporal.hide("hidden");
    let admin = stack.admin().await;
    let rotated = admin
        .rotate_token(&tree("train"), &id("default"), rotation())
        .await;
    assert!(rotated.expect("rotated").signalled);
    let view = look(&admin, "train").await;
    assert_eq!(view.nodes[0].workflow_id, "train");
    assert_eq!(view.nodes[0].depth, 0);
    assert_eq!(state_of(&view, "train").0, v1::NodeState::Current);
    assert_eq!(state_of(&view, "good").0, v1::NodeState::Current);
    assert_eq!(state_of(&view, "hidden").0, v1::NodeState::Current);
    assert_eq!(
        state_of(&view, "deaf"),
        (v1::NodeState::Behind, "holds_older".to_owned())
    );
    assert_eq!(
        state_of(&view, "silent"),
        (v1::NodeState::Unknown, "no_answer".to_owned())
    );
    assert_eq!(
        state_of(&view, "apart"),
        (v1::NodeState::Unselected, "not_selected".to_owned())
    );
    assert_eq!(
        state_of(&view, "plain"),
        (v1::NodeState::Unselected, "not_registered".to_owned())
    );
    assert!(!view.converged);
    assert_eq!(
        (view.current, view.behind, view.unknown, view.unselected),
        (3, 1, 1, 2)
    );
}

#[tokio::test]
async fn a_version_that_the_vault_never_issued_is_not_current() {
    let stack = Stack::start().await;
    stack.worker().await;
    stack.tree("train").await;
    stack.temporal.start_child("train", "poisoned", "Leaf");
    stack.temporal.hold("poisoned", u32::MAX);
    let admin = stack.admin().await;
    let view = look(&admin, "train").await;
    assert!(!view.converged);
    assert_eq!(
        state_of(&view, "poisoned"),
        (v1::NodeState::Behind, "holds_unknown".to_owned())
    );
    assert_eq!(state_of(&view, "train").0, v1::NodeState::Current);
}

#[tokio::test]
async fn a_node_too_deep_in_what_no_list_shows_is_unknown() {
    let stack = Stack::start().await;
    stack.worker().await;
    stack.tree("train").await;
    let mut parent = "train".to_owned();
    for depth in 1..20 {
        let child = format!("depth-{depth:02}");
        stack.temporal.start_child(&parent, &child, "Leaf");
        stack.temporal.hide(&child);
        parent = child;
    }
    let view = look(&stack.admin().await, "train").await;
    assert!(!view.converged);
    let last = view.nodes.last().expect("nodes");
    assert_eq!(
        state_of(&view, &last.workflow_id),
        (v1::NodeState::Unknown, "not_asked".to_owned())
    );
    assert_eq!(
        (view.current as usize, view.unknown),
        (view.nodes.len() - 1, 1)
    );
}

fn rotation() -> xylem_client::Deposit {
    let mut deposit = common::deposit(common::TOKEN_2);
    deposit.audiences.clear();
    deposit
}

#[tokio::test]
async fn a_tree_that_went_on_is_still_the_tree_and_a_reused_id_is_not() {
    let stack = Stack::start().await;
    stack.worker().await;
    stack.tree("train").await;
    stack.temporal.start_child("train", "old", "Leaf");
    stack.temporal.continue_as_new("train");
    stack.temporal.start_child("train", "new", "Leaf");
    let admin = stack.admin().await;
    let view = look(&admin, "train").await;
    assert_eq!(view.nodes.len(), 3, "{:?}", view.nodes);
    for child in ["train", "old", "new"] {
        stack.temporal.complete(child);
    }
    stack.temporal.start_root("train", "Train");
    stack.temporal.start_child("train", "other", "Leaf");
    let view = look(&admin, "train").await;
    let open = view
        .nodes
        .iter()
        .filter(|node| node.state() != v1::NodeState::Closed);
    assert_eq!(open.count(), 0, "{:?}", view.nodes);
}

#[tokio::test]
async fn a_watch_ends_when_the_tree_has_converged() {
    let stack = Stack::start().await;
    stack.worker().await;
    stack.tree("train").await;
    stack.temporal.start_child("train", "leaf", "Leaf");
    stack.temporal.mood("leaf", Mood::Silent);
    let admin = stack.admin().await;
    let request = v1::WatchTreeRequest {
        tree: "train".to_owned(),
        interval: Some(xylem_client::Duration {
            seconds: 0,
            nanos: 100_000_000,
        }),
        keep_watching: false,
    };
    let mut views = Box::pin(admin.watch_tree(request).await.expect("a stream"));
    let first = views.next().await.expect("a view").expect("seen");
    assert_eq!(first.unknown, 1);
    stack.temporal.mood("leaf", Mood::Good);
    let rest: Vec<_> = views.collect().await;
    let last = rest.last().expect("more").as_ref().expect("seen");
    assert!(last.converged && last.current == 2, "{last:?}");
}

#[tokio::test]
async fn stopping_is_complete_and_nothing_is_redeemed_any_more() {
    let stack = Stack::start().await;
    stack.worker().await;
    stack.tree("train").await;
    stack.temporal.start_child("train", "leaf", "Leaf");
    stack.temporal.start_child("leaf", "stubborn", "Leaf");
    stack.temporal.mood("stubborn", Mood::Stubborn);
    let admin = stack.admin().await;
    let mut request = v1::StopTreeRequest {
        tree: "train".to_owned(),
        // All of it passes. A slow machine needs a part of it for the round that asks each to end;
        // the next one sees who has not.
        wait: Some(xylem_client::Duration {
            seconds: 5,
            nanos: 0,
        }),
        ..v1::StopTreeRequest::default()
    };
    let stopped = admin.stop_tree(request.clone()).await.expect("stopping");
    assert_eq!((stopped.stopped, stopped.still_running), (3, 1));
    request.terminate = true;
    let stopped = admin.stop_tree(request).await.expect("stopped");
    assert_eq!((stopped.stopped, stopped.still_running), (1, 0));
    assert_eq!(stack.temporal.running(), 0);
    let error = admin
        .rotate_token(&tree("train"), &id("default"), rotation())
        .await;
    assert_eq!(error.expect_err("stopped").reason(), Some("tree_stopped"));
}

fn stop(terminate: bool) -> v1::StopTreeRequest {
    v1::StopTreeRequest {
        tree: "train".to_owned(),
        terminate,
        wait: Some(xylem_client::Duration {
            seconds: 60,
            nanos: 0,
        }),
        ..v1::StopTreeRequest::default()
    }
}

#[tokio::test]
async fn a_child_that_no_list_shows_yet_is_stopped_too() {
    for terminate in [false, true] {
        let stack = Stack::start().await;
        stack.worker().await;
        stack.tree("train").await;
        stack.temporal.start_child("train", "hidden", "Leaf");
        stack.temporal.start_child("hidden", "below", "Leaf");
        stack.temporal.start_child("train", "starting", "Leaf");
        for child in ["hidden", "below"] {
            stack.temporal.hide(child);
        }
        stack.temporal.unconfirm("starting");
        let admin = stack.admin().await;
        let stopped = admin.stop_tree(stop(terminate)).await.expect("stopped");
        assert_eq!((stopped.stopped, stopped.still_running), (4, 0));
        assert_eq!(stack.temporal.running(), 0);
    }
}

#[tokio::test]
async fn a_silent_node_is_stopped_and_somebody_elses_workflow_is_not() {
    let stack = Stack::start().await;
    stack.worker().await;
    stack.tree("train").await;
    stack.temporal.start_child("train", "silent", "Leaf");
    stack.temporal.mood("silent", Mood::Silent);
    // The root is about to start a child under an id that somebody else has taken.
    stack.temporal.start_child("train", "taken", "Leaf");
    stack.temporal.unconfirm("taken");
    stack.temporal.rob("taken");
    let admin = stack.admin().await;
    let stopped = admin.stop_tree(stop(false)).await.expect("stopped");
    assert_eq!((stopped.stopped, stopped.still_running), (2, 0));
    assert_eq!(stack.temporal.running(), 1);
    stack.temporal.run("taken");
}

#[tokio::test]
async fn nodes_that_never_answer_do_not_keep_a_tree_from_being_stopped() {
    let stack = Stack::start().await;
    stack.worker().await;
    stack.tree("train").await;
    for number in 0..40 {
        let child = format!("frozen-{number}");
        stack.temporal.start_child("train", &child, "Leaf");
        stack.temporal.mood(&child, Mood::Frozen);
    }
    let admin = stack.admin().await;
    let stopped = admin.stop_tree(stop(false)).await.expect("stopped");
    assert_eq!((stopped.stopped, stopped.still_running), (41, 0));
}

#[tokio::test]
async fn one_empty_list_does_not_make_a_tree_stopped() {
    let stack = Stack::start().await;
    stack.worker().await;
    stack.tree("train").await;
    // Its parent does not tell of it, and no list shows it before it was looked for once.
    stack.temporal.start_child("train", "leaf", "Leaf");
    stack.temporal.mood("train", Mood::Silent);
    let admin = stack.admin().await;
    let before = stack.temporal.lists();
    stack.temporal.hide_for("leaf", 2);
    let stopped = admin.stop_tree(stop(false)).await.expect("stopped");
    assert_eq!((stopped.stopped, stopped.still_running), (2, 0));
    assert_eq!(stack.temporal.running(), 0);
    // The root, nothing, the leaf, nothing, nothing.
    assert_eq!(stack.temporal.lists() - before, 5);
}

#[tokio::test]
async fn a_user_sees_its_own_trees_only() {
    let stack = Stack::start().await;
    stack.tree("theirs").await;
    let user = stack.client(Role::User).await;
    user.start_tree(start("mine")).await.expect("a tree");
    let listed = user
        .list_trees(v1::ListTreesRequest::default())
        .await
        .expect("a list");
    let names: Vec<_> = listed.trees.iter().filter_map(|t| t.id.as_ref()).collect();
    assert_eq!(names.len(), 1);
    assert_eq!(names[0].workflow_id, "mine");
    let request = v1::GetTreeRequest {
        tree: "theirs".to_owned(),
        ..v1::GetTreeRequest::default()
    };
    let error = user.get_tree(request).await.expect_err("not theirs");
    assert!(matches!(error, Error::NotFound(_)), "{error}");
    let error = user
        .set_token(
            &tree("theirs"),
            &id("default"),
            common::deposit(common::TOKEN_2),
        )
        .await;
    assert!(matches!(error.expect_err("not theirs"), Error::NotFound(_)));
}

#[tokio::test]
async fn trees_page_newest_first() {
    let stack = Stack::start().await;
    for name in ["a", "b", "c"] {
        stack.tree(name).await;
    }
    let admin = stack.admin().await;
    let mut request = v1::ListTreesRequest {
        page_size: Some(2),
        page_token: String::new(),
    };
    let first = admin.list_trees(request.clone()).await.expect("a page");
    assert_eq!(first.trees.len(), 2);
    request.page_token = first.next_page_token;
    let second = admin.list_trees(request).await.expect("a page");
    assert_eq!(second.trees.len(), 1);
    assert_eq!(second.next_page_token, "");
    let last = second.trees[0].id.as_ref().expect("an id");
    assert_eq!(last.workflow_id, "a");
}

#[tokio::test]
async fn a_root_that_somebody_started_becomes_a_tree_when_it_is_given_something() {
    let stack = Stack::start().await;
    stack.worker().await;
    stack.tool().await;
    stack.temporal.start_root("stock", "Train");
    let admin = stack.admin().await;
    let allowed = admin
        .allow_tools(&tree("stock"), vec![id("acme.deploy")])
        .await;
    assert!(allowed.expect("adopted").adopted);
    let set = admin
        .set_token(
            &tree("stock"),
            &id("default"),
            common::deposit(common::TOKEN_1),
        )
        .await;
    assert!(set.expect("set").signalled);
    let view = look(&admin, "stock").await;
    assert!(view.converged && view.current == 1, "{view:?}");
    let withdrawn = admin
        .withdraw_tools(&tree("stock"), vec![id("acme.deploy")])
        .await;
    assert!(withdrawn.expect("withdrawn").tools.is_empty());
    let error = admin
        .set_token(
            &tree("nobody"),
            &id("default"),
            common::deposit(common::TOKEN_1),
        )
        .await;
    assert!(matches!(error.expect_err("no root"), Error::NotFound(_)));
}

#[tokio::test]
async fn whether_an_unknown_root_runs_is_not_guessed_while_temporal_is_down() {
    let stack = Stack::start().await;
    stack.temporal.start_root("stock", "Train");
    stack.temporal.down(true);
    let admin = stack.admin().await;
    let set = async || {
        let deposit = common::deposit(common::TOKEN_1);
        admin
            .set_token(&tree("stock"), &id("default"), deposit)
            .await
    };
    let error = set().await.expect_err("nobody to ask");
    assert!(error.is_retryable(), "{error}");
    stack.temporal.down(false);
    set().await.expect("adopted");
}

#[tokio::test]
async fn readiness_follows_temporal() {
    let stack = Stack::start().await;
    let ready = async || {
        let answer = reqwest::get(format!("{}/readyz", stack.address)).await;
        answer.expect("an answer").status().as_u16()
    };
    assert_eq!(ready().await, 200);
    stack.temporal.down(true);
    eventually("not ready", async || match ready().await {
        503 => Ok(()),
        other => Err(other.to_string()),
    })
    .await;
}

#[tokio::test]
async fn only_an_administrator_gives_a_tree_away() {
    let stack = Stack::start().await;
    stack.tool().await;
    let connect = async |name: &str| {
        let key = stack.key_for(Role::User, name).await;
        let client = Client::connect(&stack.address, &key).await;
        client.expect("a connection")
    };
    let (one, heir) = (connect("one").await, connect("heir").await);
    one.start_tree(start("train")).await.expect("its own tree");
    let (train, to) = (tree("train"), id("heir"));
    // It would call with what the heir may call, which the one that has its tokens may not.
    for client in [&one, &heir] {
        let refused = client.transfer_tree(&train, &to).await;
        assert_eq!(refused.expect_err("no").reason(), Some("role"));
    }
    let admin = stack.admin().await;
    admin.transfer_tree(&train, &to).await.expect("given");
    look(&heir, "train").await;
    let request = v1::GetTreeRequest {
        tree: "train".to_owned(),
        ..v1::GetTreeRequest::default()
    };
    let gone = one.get_tree(request).await.expect_err("not its own");
    assert!(matches!(gone, Error::NotFound(_)), "{gone}");
}

#[tokio::test]
async fn whoever_asks_for_readiness_again_and_again_asks_nobody_else() {
    let stack = Stack::start().await;
    let url = format!("{}/readyz", stack.address);
    let (before, registered) = stack.temporal.search_attribute();
    let asked = (0..50).map(|_| reqwest::get(&url));
    for answer in futures::future::join_all(asked).await {
        assert_eq!(answer.expect("an answer").status().as_u16(), 200);
    }
    let (looks, after) = stack.temporal.search_attribute();
    assert!((1..50).contains(&(looks - before)), "{looks}");
    assert_eq!(after, registered, "asking for readiness changes nothing");
}
