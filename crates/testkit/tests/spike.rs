use temporalio_macros::activities;
use temporalio_sdk::{
    WorkerOptions,
    activities::{ActivityContext, ActivityError},
};
use xylem_stateful::activity::{Forward, Forwarded, definitions};
use xylem_testkit::{BareTree, TemporalServer, TestWorker, added_since, eventually, events};
use xylem_workflows::{Branch, ToolTreeInput, shipped};

struct Plain;

#[activities]
impl Plain {
    #[activity(definition = definitions::Forward)]
    async fn forward(ctx: ActivityContext, request: Forward) -> Result<Forwarded, ActivityError> {
        let client = ctx.client();
        for child in &request.children {
            for index in &child.grants {
                let payload = xylem_testkit::json_payload(&request.grants[*index]);
                xylem_testkit::signal(&client, child.child.workflow_id.as_str(), "apiToken", vec![payload])
                    .await
                    .unwrap();
            }
        }
        Ok(Forwarded::default())
    }
}

#[tokio::test]
async fn a_rotation_reaches_the_leaves() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter("temporalio_sdk_core=debug,temporalio_sdk=debug").init();
    let server = TemporalServer::start().await?;
    let client = server.client();
    let mut options = WorkerOptions::new("q").register_activities(Plain).build();
    shipped()?.install(&mut options)?;
    let _worker = TestWorker::start(&server, options)?;
    let leaf = |name: &str| Branch { name: name.into(), node: ToolTreeInput::default(), selection: Default::default() };
    let input = ToolTreeInput { children: vec![leaf("a"), leaf("b"), leaf("c")], ..Default::default() };
    let tree = BareTree::start(&client, "q", "ToolTree", "root", &input).await?;
    tree.rotate(1).await?;
    eventually("v1", || tree.version("root/c"), |v| *v == Some(1)).await?;
    let before = (events(&client, "root").await?.len(), events(&client, "root/a").await?.len());
    tree.rotate(2).await?;
    for id in ["root", "root/a", "root/b", "root/c"] {
        eventually("v2", || tree.version(id), |v| *v == Some(2)).await?;
    }
    println!("{:?}", added_since(&client, "root", before.0).await?);
    println!("{:?}", added_since(&client, "root/a", before.1).await?);
    println!("{}", xylem_testkit::query(&client, "root", "apiToken").await?);
    println!("{}", server.run_cli(&["workflow", "list", "-q", "XylemTokens='default@2'"]).await?);
    println!("{}", server.run_cli(&["workflow", "query", "-w", "root/a", "--type", "apiToken"]).await?);
    Ok(())
}
