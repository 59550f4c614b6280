//! `xylem server`, killed in the middle of something and started again on its data: nothing that it
//! acknowledged is lost, and what waited for it succeeds.

mod archive;
mod credential;
mod provider;
mod scene;

use scene::{Scene, seconds};
use serde_json::{Value, json};
use std::time::Duration;
use xylem_client::{Client, Deposit, Error, v1};
use xylem_ids::Slot;
use xylem_testkit::{Order, Orders, branch, eventually, json_payload, query, signal, working};

/// How long after a rotation was asked for the control plane is killed, in milliseconds: from
/// before it has read the request until after it has answered.
const MOMENTS: [u64; 6] = [0, 3, 6, 12, 25, 100];

async fn rotate(control: &Client, deposit: Deposit) -> Result<u32, Error> {
    let tree = "root".parse().expect("a workflow id");
    let slot = Slot::default_slot();
    let changed = control.rotate_token(&tree, &slot, deposit).await?;
    Ok(changed.version.as_ref().map_or(0, version_of))
}

fn version_of(version: &v1::TokenVersion) -> u32 {
    version.order.as_ref().map_or(0, |order| order.version)
}

async fn versions(control: &Client) -> anyhow::Result<Vec<v1::TokenVersion>> {
    Ok(control.token_status(&"root".parse()?, None).await?)
}

async fn revoke(control: &Client, version: u32, patience: Duration) -> Result<(), Error> {
    let request = v1::RevokeTokenRequest {
        tree: "root".to_owned(),
        slot: "default".to_owned(),
        version,
        wait: Some(seconds(patience)),
        ..v1::RevokeTokenRequest::default()
    };
    control.revoke_token(request).await?;
    Ok(())
}

#[tokio::test]
async fn a_control_plane_killed_in_the_middle_of_rotations_loses_nothing() -> anyhow::Result<()> {
    let timeout = Duration::from_secs(5);
    let (scene, mut server, mut control) = Scene::new(timeout).await?;
    let below = vec![branch("b", Vec::new())];
    let input = working(vec![branch("a", below), branch("c", Vec::new())]);
    scene.start(&control, "ToolTree", &input).await?;
    scene.more_calls("1", 8).await?;

    let mut unanswered = 0;
    let mut newest = 1;
    for moment in MOMENTS {
        newest += 1;
        let asked = scene.deposit(newest)?;
        let again = Deposit {
            token: asked.token.clone(),
            audiences: asked.audiences.clone(),
            request_id: asked.request_id.clone(),
            ..asked
        };
        let rotating = tokio::spawn(async move { rotate(&control, asked).await });
        // The moment is what is tried; nothing is waited for.
        tokio::time::sleep(Duration::from_millis(moment)).await;
        drop(server);
        let answered = rotating.await?;
        scene.a_call_waits().await?;

        (server, control) = scene.serve().await?;
        match answered {
            Ok(version) => {
                assert_eq!(version, newest);
                let known = versions(&control).await?;
                assert_eq!(version_of(&known[0]), newest, "{known:?}");
            }
            Err(_) => unanswered += 1,
        }
        assert_eq!(rotate(&control, again).await?, newest);
        let known = versions(&control).await?;
        let numbers: Vec<_> = known.iter().map(version_of).collect();
        assert_eq!(numbers, (1..=newest).rev().collect::<Vec<_>>());
        scene.more_calls(&newest.to_string(), 8).await?;
    }
    assert!(unanswered > 0, "no rotation was interrupted");

    let get = || v1::GetTreeRequest {
        tree: "root".to_owned(),
        ..v1::GetTreeRequest::default()
    };
    let view = || async { Ok(control.get_tree(get()).await?) };
    let converged = |view: &v1::TreeView| {
        let held = view.nodes.iter().flat_map(|node| &node.slots);
        let mut orders = held.map(|slot| slot.order.as_ref());
        let all = orders.all(|order| order.is_some_and(|order| order.version == newest));
        view.converged && view.current == 4 && all
    };
    eventually("the tree converges", view, converged).await?;
    // Some calls have lost the control plane between token and release: their leases end.
    for version in 1..newest {
        revoke(&control, version, Duration::from_secs(60)).await?;
        assert!(scene.acme.revoke(&version.to_string()));
    }
    scene.more_calls(&newest.to_string(), 8).await?;
    assert_eq!(scene.refused(), 0, "{:?}", scene.acme.stats());
    drop(server);
    Ok(())
}

#[tokio::test]
async fn a_lease_that_could_not_be_released_does_not_block_a_revoke_for_ever() -> anyhow::Result<()>
{
    // The lease has to be open still when the control plane is back and the root has rotated.
    let timeout = Duration::from_secs(30);
    let (scene, server, control) = Scene::new(timeout).await?;
    scene.start(&control, "Walker", &Orders::default()).await?;
    let slow = acme_api::Behaviour::Slow { ms: 2_000 };
    scene.acme.behave_times(None, slow, 1);
    let call = Order::Call {
        tool: "acme.status".to_owned(),
        slot: "default".to_owned(),
        parameters: json!({}),
    };
    let client = scene.temporal().client();
    signal(&client, "root", "order", vec![json_payload(&call)]).await?;
    let begun = || async { Ok(scene.calls("1")) };
    eventually("the call is under way", begun, |calls| *calls == 1).await?;

    drop(server);
    let answers = || query(&client, "root", "answers");
    let answered = |answers: &Value| answers[0].is_object();
    let answers = eventually("the call has ended", answers, answered).await?;
    assert_eq!(answers[0]["order"]["version"], json!(1), "{answers}");

    let (server, control) = scene.serve().await?;
    let versions = versions(&control).await?;
    assert_eq!(versions[0].open_leases, 1, "{versions:?}");
    assert_eq!(rotate(&control, scene.deposit(2)?).await?, 2);
    let held = || query(&client, "root", "apiToken");
    let current = |status: &Value| status["slots"]["default"]["version"] == json!(2);
    eventually("the root holds version 2", held, current).await?;
    let refused = revoke(&control, 1, Duration::ZERO).await;
    let error = refused.expect_err("a lease is open");
    assert_eq!(error.reason(), Some("leases_open"), "{error}");
    revoke(&control, 1, Duration::from_secs(60)).await?;
    drop(server);
    Ok(())
}
