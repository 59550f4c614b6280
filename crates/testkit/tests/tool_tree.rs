//! A tree that is described by its input, over a continue-as-new on a real server.

use serde_json::{Value, json};
use temporalio_client::{Client, UntypedWorkflow};
use xylem_testkit::{AbsentPlane, BareTree, NodeWorker, Settings, TemporalServer, events};

const QUEUE: &str = "tool-tree";

/// Of about a second and five events each, whatever the pause.
const ROUNDS: u32 = 24;

async fn busy(client: &Client, id: &str, child: Value) -> anyhow::Result<Result<Value, String>> {
    let input = json!({
        "rounds": ROUNDS,
        "pauseMs": 1,
        "calls": 1,
        "children": [{ "name": "brief", "node": child }],
    });
    BareTree::start(client, QUEUE, "ToolTree", id, &input).await?;
    let node = client.get_workflow_handle::<UntypedWorkflow>(id);
    let ended = node.get_result(Default::default()).await;
    let start = format!("{:?}", events(client, id).await?.first());
    let unbroken = start.contains("continued_execution_run_id: \"\"");
    assert!(!unbroken, "it went on as new: {start}");
    Ok(match ended {
        Ok(result) => Ok(serde_json::from_slice(&result.payloads[0].data)?),
        Err(error) => Err(format!("{error:?}")),
    })
}

#[tokio::test]
async fn a_child_that_ends_at_once_has_begun() -> anyhow::Result<()> {
    let server = TemporalServer::start().await?;
    let client = server.client();
    let _worker = NodeWorker::start(&server, QUEUE, &AbsentPlane::new())?;
    let brief = |n: u32| json!({ "name": n.to_string(), "node": { "rounds": 0, "calls": 1 } });
    let children: Vec<_> = (0..200).map(brief).collect();
    let input = json!({ "rounds": 0, "children": children });
    BareTree::start(&client, QUEUE, "ToolTree", "many", &input).await?;
    let root = client.get_workflow_handle::<UntypedWorkflow>("many");
    let result = root.get_result(Default::default()).await?;
    let result: Value = serde_json::from_slice(&result.payloads[0].data)?;
    assert_eq!(result, json!({ "calls": 200 }));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_continued_run_knows_what_became_of_children_that_ended_before() -> anyhow::Result<()> {
    let settings = Settings {
        suggest_continue_as_new: Some(60),
        ..Settings::default()
    };
    let server = TemporalServer::start_with(&settings).await?;
    let client = server.client();
    let plane = AbsentPlane::new();
    let _worker = NodeWorker::start(&server, QUEUE, &plane)?;
    let counting = json!({ "rounds": 0, "calls": 7 });
    let failing = json!({ "rounds": 1, "steps": [{ "tool": "no name of a tool" }] });
    let (counted, failed) = tokio::try_join!(
        busy(&client, "counting", counting),
        busy(&client, "failing", failing),
    )?;
    assert_eq!(counted, Ok(json!({ "calls": 8 })));
    let failed = failed.expect_err("its child failed");
    let expected = "the child workflow failing/brief failed";
    assert!(failed.contains(expected), "{failed}");
    Ok(())
}
