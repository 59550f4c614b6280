//! What a node does with headers it cannot use, and with signals it has to report: on a real
//! server.

use serde_json::{Value, json};
use std::time::Duration;
use temporalio_client::{Client, UntypedWorkflow, WorkflowStartOptions};
use temporalio_common::{
    data_converters::RawValue,
    protos::temporal::api::common::v1::{Header, Payload},
};
use xylem_testkit::{
    AbsentPlane, BareTree, NodeWorker, Orders, TemporalServer, events, eventually,
    eventually_within, json_payload, signal,
};

const QUEUE: &str = "headers";

async fn start_with(client: &Client, id: &str, name: &str, header: Payload) -> anyhow::Result<()> {
    let mut options = WorkflowStartOptions::new(QUEUE, id).build();
    let fields = [(name.to_owned(), header)].into();
    options.header = Some(Header { fields });
    let input = RawValue::new(vec![json_payload(&Orders::default())]);
    let walker = UntypedWorkflow::new("Walker");
    client.start_workflow(walker, input, options).await?;
    Ok(())
}

#[tokio::test]
async fn a_header_that_cannot_be_used_fails_the_task_and_not_the_workflow() -> anyhow::Result<()> {
    let server = TemporalServer::start().await?;
    let _worker = NodeWorker::start(&server, QUEUE, &AbsentPlane::new())?;
    let client = server.client();
    let later =
        json!({ "protocol": 99, "issuers": { "keys": [], "retired": [] }, "slots": "declared" });
    let cases = [
        ("later", "xylem-tree", later, "protocol 99"),
        ("tree", "xylem-tree", json!("nonsense"), "xylem-tree"),
        ("node", "xylem-node", json!({ "carried": 7 }), "xylem-node"),
    ];
    for (id, name, header, said) in cases {
        start_with(&client, id, name, json_payload(&header)).await?;
        let failures = || async {
            let all = events(&client, id).await?;
            Ok(all.iter().map(|e| format!("{e:?}")).collect::<String>())
        };
        let failed = |shown: &String| shown.contains("WorkflowTaskFailed");
        let shown = eventually(&format!("the task of {id} fails"), failures, failed).await?;
        assert!(shown.contains(said), "{id}: {shown}");
        let describe = ["workflow", "describe", "-w", id, "--output", "json"];
        let described: Value = serde_json::from_str(&server.run_cli(&describe).await?)?;
        let status = &described["workflowExecutionInfo"]["status"];
        assert_eq!(status, "WORKFLOW_EXECUTION_STATUS_RUNNING", "{id}");
    }
    Ok(())
}

/// Reports are a minute apart. Nothing else happens in the node after the second signal, so that
/// only a timer of its own can bring the second report.
#[tokio::test]
async fn a_node_that_stays_quiet_reports_what_it_rejected_last() -> anyhow::Result<()> {
    let server = TemporalServer::start().await?;
    let plane = AbsentPlane::new();
    let _worker = NodeWorker::start(&server, QUEUE, &plane)?;
    let client = server.client();
    let input = Orders::default();
    BareTree::start(&client, QUEUE, "Walker", "quiet", &input).await?;
    for count in 1..=2 {
        signal(
            &client,
            "quiet",
            "apiToken",
            vec![json_payload(&"raw-token-0123456789")],
        )
        .await?;
        let reported = || async { Ok(plane.reported().get("raw_token").copied()) };
        let all = |seen: &Option<u64>| *seen == Some(count);
        let patience = Duration::from_secs(180);
        eventually_within(patience, "it is reported", reported, all).await?;
    }
    Ok(())
}
