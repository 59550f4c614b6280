//! The search for secrets can fail: what is planted is found, wherever that is.

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use std::{fs::OpenOptions, io::Write, time::Duration};
use uuid::Uuid;
use xylem_client::v1;
use xylem_testkit::{Stack, eventually};

/// One of its own for every place: even a half of one is found.
fn canary(place: &str) -> String {
    let unlike_others = Uuid::new_v5(&Uuid::NAMESPACE_URL, place.as_bytes());
    unlike_others.simple().to_string()
}

#[tokio::test]
async fn a_canary_is_found_wherever_it_is_planted() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let tree = stack.tree("mine").walk(Vec::new()).await?;
    let root = tree.node("");
    root.holds(1, Duration::from_secs(120)).await?;

    root.signal("nobodyHandlesThis", &canary("signal")).await?;
    let memo = format!("note=\"{}\"", canary("memo"));
    let start = [
        "workflow",
        "start",
        "-w",
        "noted",
        "--type",
        "Nobody",
        "--task-queue",
        "nobody",
        "--memo",
        &memo,
    ];
    stack.run_cli(&start).await?;
    let tool = v1::Tool {
        name: "acme.described".to_owned(),
        description: format!("See {}.", STANDARD_NO_PAD.encode(canary("description"))),
        method: "GET".to_owned(),
        base_url: stack.acme.url(),
        path: "/v1/status".to_owned(),
        ..v1::Tool::default()
    };
    stack.offer(tool).await?;
    let log = stack.data().temporal_log();
    writeln!(
        OpenOptions::new().append(true).open(log)?,
        "{}",
        canary("file")
    )?;
    tracing::info!("a careless line: {}", canary("line"));

    // The search goes through the runs that Temporal lists, and its list is behind.
    let of_both = "WorkflowId='mine' OR WorkflowId='noted'";
    let listed = || async {
        let counted = stack.temporal.count_workflows(of_both, Default::default());
        Ok(counted.await?.count())
    };
    eventually("both are listed", listed, |count| *count == 2).await?;

    for (planted, places) in [
        ("signal", ["history of mine ", "temporal.db"].as_slice()),
        ("memo", &["history of noted ", "temporal.db"]),
        ("description", &["xylem.db"]),
        ("file", &["temporal.log"]),
        ("line", &["the program's log"]),
    ] {
        let searched = stack.search(&[canary(planted)]).await?;
        let found = searched.found_in();
        for place in places {
            assert!(
                found.iter().any(|found| found.contains(place)),
                "{planted} in {place}: {found:?}"
            );
        }
        // And nowhere else: each found place is one of those named.
        let named = |found: &&String| places.iter().any(|place| found.contains(place));
        assert_eq!(found.iter().filter(named).count(), found.len(), "{found:?}");
    }
    let searched = stack.search(&[canary("nowhere")]).await?;
    assert_eq!(searched.found_in(), [""; 0]);
    stack.stop().await;
    Ok(())
}
