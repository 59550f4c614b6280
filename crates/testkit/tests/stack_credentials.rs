//! A stored credential on the whole stack: three working trees of one type, one rotation.

use xylem_client::{StartTree, v1};
use xylem_testkit::{Stack, Tree, branch, eventually, working};

const TREES: [&str; 3] = ["train-1", "train-2", "train-3"];

/// Waits until the API has counted a call with this token.
async fn is_used(stack: &Stack, label: &str, calls: u64) -> anyhow::Result<()> {
    let count = || async {
        let stats = stack.acme.stats();
        let of_label = stats.iter().filter(|stats| stats.label == label);
        Ok(of_label.map(|stats| stats.calls).sum::<u64>())
    };
    eventually(&format!("calls with {label}"), count, |seen| *seen >= calls).await?;
    Ok(())
}

async fn started<'a>(stack: &'a Stack, name: &str) -> anyhow::Result<Tree<'a>> {
    let input = working(vec![branch("a", Vec::new())]);
    let start = StartTree {
        workflow_id: name.parse()?,
        workflow_type: "ToolTree".parse()?,
        task_queue: stack.task_queue().parse()?,
        input_json: serde_json::to_string(&input)?,
        tokens: Vec::new(),
        tools: vec!["acme.status".parse()?],
        intake: None,
        request_id: String::new(),
    };
    stack.control.start_tree(start).await?;
    stack.running_tree(name)
}

#[tokio::test]
async fn one_rotation_reaches_every_tree_of_a_type_and_the_gate_spans_them() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let made = v1::CreateCredentialRequest {
        name: "acme".to_owned(),
        audiences: vec![stack.acme.url()],
        ..v1::CreateCredentialRequest::default()
    };
    let control = &stack.control;
    control
        .create_credential(made, &stack.issue("acme@1"))
        .await?;
    let binding = v1::BindCredentialRequest {
        name: "acme".to_owned(),
        workflow_type: "ToolTree".to_owned(),
        ..v1::BindCredentialRequest::default()
    };
    control.bind_credential(binding).await?;
    let mut trees = Vec::new();
    for name in TREES {
        trees.push(started(&stack, name).await?);
    }
    is_used(&stack, "acme@1", 6).await?;

    let rotation = v1::RotateCredentialRequest {
        name: "acme".to_owned(),
        ..v1::RotateCredentialRequest::default()
    };
    control
        .rotate_credential(rotation, &stack.issue("acme@2"))
        .await?;
    for tree in &trees {
        let view = tree.converged(2).await?;
        assert_eq!(view.current, 2, "{view:?}");
    }
    let revocation = v1::RevokeCredentialRequest {
        name: "acme".to_owned(),
        version: 1,
        wait: Some(xylem_client::Duration {
            seconds: 60,
            nanos: 0,
        }),
        ..v1::RevokeCredentialRequest::default()
    };
    let revoked = control.revoke_credential(revocation).await?;
    assert_eq!((revoked.trees, revoked.breaks.len()), (3, 0), "{revoked:?}");
    assert!(stack.acme.revoke("acme@1"));
    is_used(&stack, "acme@2", 6).await?;
    let refusals: u64 = stack.acme.stats().iter().map(|stats| stats.refusals).sum();
    assert_eq!(refusals, 0, "{:?}", stack.acme.stats());

    let searched = stack.search(&stack.issued()).await?;
    assert_eq!(searched.found_in(), [""; 0]);
    for tree in &trees {
        tree.stop().await?;
    }
    stack.stop().await;
    Ok(())
}
