//! What heals without a rotation, and without the sweep: runs that begin again with nothing, calls
//! that are cancelled, children that come back under an old name. On the whole stack.

use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::time::Duration;
use xylem_client::v1;
use xylem_ids::{Slot, WorkflowId};
use xylem_stateful::Selection;
use xylem_testkit::{Order, Stack, eventually, eventually_within};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_run_that_begins_again_without_a_grant_gets_it_with_its_first_call() -> anyhow::Result<()>
{
    let stack = Stack::start().await?;
    // The sweep comes every minute, and would hand the grant over before the run asks for it.
    let pause = ["schedule", "toggle", "-s", "xylem-sweep", "--pause"];
    eventually("the sweep is paused", || stack.run_cli(&pause), |_| true).await?;
    let orders = vec![Order::grow("a", Vec::new(), Selection::All)];
    let tree = stack.tree("again").walk(orders).await?;
    let (root, child) = (tree.node(""), tree.node("a"));
    child.holds(1, PATIENCE).await?;
    root.reset().await?;
    let state = || root.slot("default");
    eventually("it holds nothing", state, |slot| slot["state"] == "missing").await?;

    assert_eq!(root.call("acme.status", "default").await?.version()?, 1);
    let slot = root.slot("default").await?;
    assert_eq!(slot["source"], "control_plane", "{slot}");
    // Its child is known again, and has what the root was given.
    tree.converged(1).await?;
    stack.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_child_that_comes_back_under_its_name_has_what_is_selected_now() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let orders = vec![Order::grow("a", Vec::new(), Selection::None)];
    let tree = stack.tree("names").walk(orders).await?;
    let (root, child) = (tree.node(""), tree.node("a"));
    root.holds(1, PATIENCE).await?;
    child.runs().await?;
    child.order(Order::Finish).await?;
    let children = || root.ask("children");
    eventually("it has ended", children, |list| *list == json!([])).await?;

    root.order(Order::grow("a", Vec::new(), Selection::All))
        .await?;
    child.holds(1, PATIENCE).await?;
    assert_eq!(child.call("acme.status", "default").await?.version()?, 1);
    stack.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_node_in_transit_passes_on_what_it_may_not_redeem() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let below = vec![Order::grow("leaf", Vec::new(), Selection::All)];
    let transit = Selection::transit([Slot::default_slot()]);
    let tree = stack
        .tree("relay")
        .walk(vec![Order::grow("middle", below, transit)])
        .await?;
    let (root, middle, leaf) = (tree.node(""), tree.node("middle"), tree.node("middle/leaf"));
    leaf.holds(1, PATIENCE).await?;
    assert_eq!(leaf.call("acme.status", "default").await?.version()?, 1);
    let refused = middle.call("acme.status", "default").await?;
    assert!(refused.failure()?.contains("excluded"), "{refused:?}");

    tree.rotate("default").await?;
    leaf.holds(2, PATIENCE).await?;
    root.order(Order::select("middle", Selection::All)).await?;
    let included = || tree.audit("include");
    let is_so = |entries: &Vec<v1::AuditEntry>| !entries.is_empty();
    eventually("it may redeem now", included, is_so).await?;
    assert_eq!(middle.call("acme.status", "default").await?.version()?, 2);
    stack.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_cancelled_call_gives_its_lease_back_at_once() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    // A call learns with a heartbeat that it is cancelled, and those may be 16 s apart: the usual
    // tool's 30 s would be over before that on a slow machine.
    let patient = v1::Tool {
        name: "acme.patient".to_owned(),
        method: "GET".to_owned(),
        base_url: stack.acme.url(),
        path: "/v1/status".to_owned(),
        timeout: Some(xylem_client::Duration {
            seconds: 60,
            nanos: 0,
        }),
        ..v1::Tool::default()
    };
    stack.offer(patient).await?;
    let tree = stack.tree("slow").tools(&["acme.patient"]);
    let tree = tree.walk(Vec::new()).await?;
    let root = tree.node("");
    root.holds(1, PATIENCE).await?;
    let slow = acme_api::Behaviour::Slow { ms: 50_000 };
    stack.acme.behave(None, slow);
    root.begin("acme.patient", "default").await?;
    let leases = || tree.status("default");
    let open = |versions: &Vec<v1::TokenVersion>| versions[0].open_leases == 1;
    eventually("the call is under way", leases, open).await?;
    stack
        .run_cli(&["workflow", "cancel", "-w", root.id()])
        .await?;
    let over = |versions: &Vec<v1::TokenVersion>| versions[0].open_leases == 0;
    eventually_within(Duration::from_secs(40), "the lease is over", leases, over).await?;
    let outcomes = tree.audit("outcome").await?;
    let reasons: Vec<_> = outcomes.iter().map(|entry| &*entry.reason).collect();
    assert_eq!(reasons, ["cancelled"]);
    stack.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_raw_token_that_is_refused_for_good_holds_nobody_up() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let tree = stack.tree("raw").intake(true).walk(Vec::new()).await?;
    let root = tree.node("");
    root.holds(1, PATIENCE).await?;
    root.signal("apiToken", &"hunter2").await?;
    let status = || root.ask("apiToken");
    let counted = |status: &Value| status["rejected"]["raw_token"] == json!(1);
    let status = eventually("it is rejected", status, counted).await?;
    assert_eq!(status["exposed"], json!(true), "{status}");
    let raw = stack.issue("raw/default@2");
    root.signal("apiToken", &raw.expose_secret()).await?;
    let versions = || tree.status("default");
    let taken = |versions: &Vec<v1::TokenVersion>| versions.len() == 2;
    eventually("the next one is taken in", versions, taken).await?;
    stack.stop().await;
    Ok(())
}

#[tokio::test]
async fn a_stock_root_that_continued_as_new_still_takes_raw_tokens_in() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let start = [
        "workflow",
        "start",
        "-w",
        "stock",
        "--type",
        "Walker",
        "--task-queue",
        stack.task_queue(),
        "--input",
        r#"{"orders":["continue"]}"#,
    ];
    let first = stack.run_cli(&start).await?;
    let tree = stack.running_tree("stock")?;
    let root = tree.node("");
    // The CLI has told the id of the first run.
    let has_continued = |described: &Value| {
        let run_id = &described["workflowExecutionInfo"]["execution"]["runId"];
        run_id
            .as_str()
            .is_some_and(|run_id| !first.contains(run_id))
    };
    eventually("it continues as new", || root.describe(), has_continued).await?;
    root.runs().await?;
    let id: WorkflowId = "stock".parse()?;
    let tool = "acme.status".parse()?;
    stack.control.allow_tools(&id, vec![tool]).await?;
    let raw = stack.issue("stock/default@1");
    root.signal("apiToken", &raw.expose_secret()).await?;
    root.holds(1, PATIENCE).await?;
    assert_eq!(root.call("acme.status", "default").await?.version()?, 1);
    stack.stop().await;
    Ok(())
}
