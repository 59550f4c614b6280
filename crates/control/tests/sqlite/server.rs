//! What the control plane relies on, on a real Temporal server.

use crate::common::{
    self, Stack, TOKEN_2, deposit, eventually, id, start, temporal::FakeTemporal, tree,
};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use xylem_client::v1;
use xylem_control::temporal::{Cluster, Signal, StartWorkflow, Stop, Temporal, TemporalError};
use xylem_ids::WorkflowId;
use xylem_testkit::TemporalServer;

const AWKWARD: &str = "rele'ase/1 ä";

fn workflow(name: &str, request_id: &str) -> StartWorkflow {
    StartWorkflow {
        workflow_id: id(name),
        workflow_type: id("Train"),
        task_queue: id(common::QUEUE),
        input: Some(serde_json::json!({ "cars": 3 })),
        headers: vec![("xylem-tree", serde_json::json!({ "protocol": 1 }))],
        execution_timeout: None,
        request_id: request_id.to_owned(),
        delay: None,
    }
}

async fn signals(server: &TemporalServer, workflow_id: &str) -> anyhow::Result<usize> {
    let shown = server
        .run_cli(&["workflow", "show", "-w", workflow_id, "--output", "json"])
        .await?;
    Ok(shown
        .matches("EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED")
        .count())
}

#[tokio::test(flavor = "multi_thread")]
async fn request_ids_and_first_runs_guard_what_is_done_twice() -> anyhow::Result<()> {
    let server = TemporalServer::start().await?;
    let cluster = Cluster::new(server.client());
    let name: WorkflowId = id(AWKWARD);
    let first = cluster.start(workflow(AWKWARD, "start-1")).await?;
    assert_eq!(cluster.start(workflow(AWKWARD, "start-1")).await?, first);
    let other = cluster.start(workflow(AWKWARD, "start-2")).await;
    assert!(
        matches!(other, Err(TemporalError::AlreadyRunning)),
        "{other:?}"
    );

    let found = cluster.describe(&name, None).await?;
    assert_eq!(found.start_requests, ["start-1"]);
    assert_eq!(found.execution.first_run_id.as_ref(), Some(&first));
    assert_eq!(found.execution.root, (name.clone(), first.clone()));
    assert!(found.execution.parent.is_none() && found.execution.chain_started_at.is_some());

    for _ in 0..2 {
        let signal = Signal {
            workflow_id: &name,
            run_id: None,
            name: "apiToken",
            payload: "a grant".into(),
            request_id: "signal-1".to_owned(),
        };
        cluster.signal(signal).await?;
    }
    assert_eq!(signals(&server, AWKWARD).await?, 1);

    let listed = eventually("listed", async || {
        let listed = cluster
            .list(&name, false, 10)
            .await
            .map_err(|e| e.to_string())?;
        if listed.executions.len() == 1 {
            Ok(listed)
        } else {
            Err(format!("{listed:?}"))
        }
    });
    assert_eq!(listed.await.executions[0].root.1, first);
    let nobody = cluster.list(&id("x' OR WorkflowId != '"), true, 10).await?;
    assert!(nobody.executions.is_empty(), "{nobody:?}");

    let answer = cluster.query(&name, &first, "apiToken").await;
    assert!(
        matches!(answer, Err(TemporalError::NoAnswer(_))),
        "no worker: {answer:?}"
    );
    let stranger = cluster
        .stop(&name, &id("another-first-run"), Stop::Terminate, "")
        .await;
    assert!(
        matches!(stranger, Err(TemporalError::NotFound)),
        "{stranger:?}"
    );
    cluster.stop(&name, &first, Stop::Terminate, "over").await?;
    let closed = cluster.describe(&name, None).await?;
    assert!(!closed.execution.status.is_open());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_search_attribute_is_found_or_registered() -> anyhow::Result<()> {
    let settings = xylem_testkit::Settings {
        search_attribute: false,
        ..xylem_testkit::Settings::default()
    };
    let server = TemporalServer::start_with(&settings).await?;
    let cluster = Cluster::new(server.client());
    assert!(!cluster.has_search_attribute().await?);
    cluster.register_search_attribute().await?;
    eventually("registered", async || {
        match cluster.has_search_attribute().await {
            Ok(true) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    cluster.register_search_attribute().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_runs_on_temporal_and_adds_nothing_to_what_was_signalled() -> anyhow::Result<()> {
    let server = TemporalServer::start().await?;
    let cluster = Cluster::new(server.client());
    let fake = Arc::new(FakeTemporal::default());
    let stack = Stack::over(Arc::new(cluster.clone()), fake, |settings| {
        settings.sweep_every = std::time::Duration::from_secs(1);
        settings.sweep_after_rotation = Some(std::time::Duration::from_secs(1));
    })
    .await;
    stack.worker().await;
    stack.tool().await;
    let stop = CancellationToken::new();
    let worker = {
        let (control, stop) = (stack.control.clone(), stop.clone());
        tokio::spawn(async move { control.worker(&cluster, stop).await })
    };
    let admin = stack.admin().await;
    admin.start_tree(start("train")).await?;
    assert_eq!(signals(&server, "train").await?, 1);
    let rotated = admin
        .rotate_token(&tree("train"), &id("default"), deposit(TOKEN_2))
        .await?;
    assert!(rotated.signalled);
    // Nobody runs the root: it is silent, so each sweep signals it, with the same request id.
    eventually("swept by schedule and after the rotation", async || {
        let listed = server
            .run_cli(&[
                "workflow",
                "list",
                "--query",
                "WorkflowType='xylem.Sweep' AND ExecutionStatus='Completed'",
                "--output",
                "json",
            ])
            .await
            .map_err(|error| error.to_string())?;
        let alone = listed.contains("xylem-sweep/train/");
        let all = listed.matches("\"workflowId\": \"xylem-sweep-").count();
        if alone && all >= 2 {
            Ok(())
        } else {
            Err(listed)
        }
    })
    .await;
    assert_eq!(signals(&server, "train").await?, 2);
    let request = v1::StopTreeRequest {
        tree: "train".to_owned(),
        terminate: true,
        // Each round asks the silent root for seconds, and the list lags.
        wait: Some(xylem_client::Duration {
            seconds: 60,
            nanos: 0,
        }),
        ..v1::StopTreeRequest::default()
    };
    let stopped = admin.stop_tree(request).await?;
    assert_eq!((stopped.stopped, stopped.still_running), (1, 0));
    stop.cancel();
    worker.await??;
    Ok(())
}
