//! Tools of every kind on the whole stack: what the registry was told is what the worker sends.

use acme_api::{Behaviour, Encoding};
use xylem_client::v1::{self, tool_auth::Scheme};
use xylem_testkit::{Called, Stack, TlsFront, eventually};

/// A tool that asks the API how it is.
fn status(stack: &Stack, name: &str, scheme: Scheme) -> v1::Tool {
    v1::Tool {
        name: name.to_owned(),
        method: "GET".to_owned(),
        base_url: stack.acme.url(),
        path: "/v1/status".to_owned(),
        auth: Some(v1::ToolAuth {
            scheme: Some(scheme),
        }),
        ..v1::Tool::default()
    }
}

#[tokio::test]
async fn a_token_is_sent_as_the_tool_says_and_shows_nowhere() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let schemes = [
        (
            "acme.header",
            Scheme::Header(v1::HeaderAuth {
                name: "X-Api-Key".to_owned(),
            }),
        ),
        (
            "acme.query",
            Scheme::Query(v1::QueryAuth {
                name: "api_key".to_owned(),
            }),
        ),
        (
            "acme.basic",
            Scheme::Basic(v1::BasicAuth {
                username: "deploy".to_owned(),
            }),
        ),
    ];
    let names = schemes.each_ref().map(|(name, _)| *name);
    for (name, scheme) in schemes {
        stack.offer(status(&stack, name, scheme)).await?;
    }
    let tree = stack.tree("kinds").tools(&names).walk(Vec::new()).await?;
    let root = tree.node("");
    for name in names {
        stack.acme.behave_well();
        let Called::Answered { body, .. } = root.call(name, "default").await? else {
            anyhow::bail!("{name}: the call failed");
        };
        assert_eq!(body["status"], "ok", "{name}");
        for encoding in Encoding::ALL {
            for status in [200, 422] {
                stack
                    .acme
                    .behave(None, Behaviour::Echo { encoding, status });
                let called = root.call(name, "default").await?;
                assert_eq!(
                    called.failure().is_ok(),
                    status == 422,
                    "{name}: {called:?}"
                );
            }
        }
    }
    let searched = stack.search(&stack.issued()).await?;
    assert_eq!(searched.found_in(), [""; 0]);
    stack.stop().await;
    Ok(())
}

#[tokio::test]
async fn an_answer_that_the_tool_does_not_describe_fails_the_call() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let bearer = || Scheme::Bearer(v1::BearerAuth {});
    for (name, kind) in [("acme.fits", "string"), ("acme.fits-not", "integer")] {
        let schema = serde_json::json!({
            "type": "object",
            "required": ["status"],
            "properties": { "status": { "type": kind } },
        });
        stack
            .offer(v1::Tool {
                response_schema_json: schema.to_string(),
                ..status(&stack, name, bearer())
            })
            .await?;
    }
    let tools = ["acme.fits", "acme.fits-not"];
    let tree = stack.tree("answers").tools(&tools).walk(Vec::new()).await?;
    let root = tree.node("");
    assert_eq!(root.call("acme.fits", "default").await?.version()?, 1);
    let calls = tree.stats("default", 1).calls;
    let failed = root.call("acme.fits-not", "default").await?;
    let told = failed.failure()?;
    assert!(
        told.contains("'/status'") && !told.contains("\"ok\""),
        "{told}"
    );
    // Once: to ask again would not help.
    assert_eq!(tree.stats("default", 1).calls, calls + 1);
    stack.stop().await;
    Ok(())
}

/// Tools that take nothing of the tree: its slots stay empty.
#[tokio::test]
async fn a_stored_credential_is_sent_whatever_the_tree_and_a_limit_holds() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let made = v1::CreateCredentialRequest {
        name: "acme".to_owned(),
        audiences: vec![stack.acme.url()],
        ..v1::CreateCredentialRequest::default()
    };
    let control = &stack.control;
    let stored = v1::Tool {
        credential: "acme".to_owned(),
        ..status(&stack, "acme.stored", Scheme::Bearer(v1::BearerAuth {}))
    };
    stack.offer(stored.clone()).await?;
    let open = v1::Tool {
        rate_limit: Some(v1::ToolRateLimit {
            calls: 1,
            per: "day".to_owned(),
        }),
        ..status(&stack, "acme.open", Scheme::None(v1::NoAuth {}))
    };
    stack.offer(open).await?;
    let tools = ["acme.stored", "acme.open", "acme.status"];
    let tree = stack
        .tree("own")
        .slots(&[])
        .tools(&tools)
        .walk(Vec::new())
        .await?;
    let root = tree.node("");

    // Nobody has made the credential yet: the call waits for it.
    let waiting = root.begin("acme.stored", "").await?;
    eventually(
        "it is refused",
        || tree.audit("redeem"),
        |all| all.iter().any(|entry| entry.reason == "unknown_credential"),
    )
    .await?;
    control
        .create_credential(made, &stack.issue("acme@1"))
        .await?;
    assert_eq!(root.called(waiting).await?.version()?, 1);
    assert_eq!(stack.acme.stats_of("acme@1").calls, 1);
    let rotation = v1::RotateCredentialRequest {
        name: "acme".to_owned(),
        ..v1::RotateCredentialRequest::default()
    };
    control
        .rotate_credential(rotation, &stack.issue("acme@2"))
        .await?;
    assert_eq!(root.call("acme.stored", "").await?.version()?, 2);
    assert_eq!(stack.acme.stats_of("acme@2").calls, 1);

    // The API wants a token: the call without one is made, decided about and rejected.
    let rejected = root.call("acme.open", "").await?;
    assert!(rejected.failure()?.contains("401"), "{rejected:?}");
    assert_eq!(stack.acme.stats_of("unknown").refusals, 1);
    let more = root.begin("acme.open", "").await?;
    eventually(
        "it is over the limit",
        || tree.audit("redeem"),
        |all| all.iter().any(|entry| entry.reason == "tool_limit_reached"),
    )
    .await?;
    assert_eq!(stack.acme.stats_of("unknown").refusals, 1);
    let entries = tree.audit("redeem").await?;
    let granted = entries.iter().filter(|entry| entry.outcome == "granted");
    let mut granted: Vec<_> = granted.map(|entry| entry.subject.as_str()).collect();
    granted.sort_unstable();
    assert_eq!(granted, ["", "credential:acme@1", "credential:acme@2"]);
    let searched = stack.search(&stack.issued()).await?;
    assert_eq!(searched.found_in(), [""; 0]);
    let _ = more;
    tree.terminate().await?;
    stack.stop().await;
    Ok(())
}

/// What a publisher pins is what the worker looks at, and it looks before it sends.
#[tokio::test]
async fn a_server_has_to_be_whom_the_tool_says() -> anyhow::Result<()> {
    let stack = Stack::start().await?;
    let front = TlsFront::start(&stack.acme.url()).await?;
    let tool = |name: &str, pins: Vec<String>| v1::Tool {
        base_url: front.url.clone(),
        tls: Some(v1::ToolTls {
            ca_pem: front.ca_pem.clone(),
            pins,
        }),
        ..status(&stack, name, Scheme::Bearer(v1::BearerAuth {}))
    };
    let next = TlsFront::other_pin()?;
    let pinned = vec![front.pin.clone(), next.clone()];
    stack.offer(tool("acme.pinned", pinned.clone())).await?;
    stack.offer(tool("acme.other", vec![next])).await?;
    let tools = ["acme.pinned", "acme.other"];
    let start = |id: &str| stack.tree(id).tools(&tools).audiences(&[&front.url]);
    let tree = start("pinned").walk(Vec::new()).await?;
    let root = tree.node("");
    assert_eq!(root.call("acme.pinned", "default").await?.version()?, 1);
    let calls = tree.stats("default", 1).calls;

    let _waiting = root.begin("acme.other", "default").await?;
    let of_worker = |entry: &v1::AuditEntry| entry.reason == "untrusted_server";
    eventually(
        "it is told",
        || tree.audit("redeem"),
        |all| all.iter().any(of_worker),
    )
    .await?;
    assert_eq!(tree.stats("default", 1).calls, calls);
    tree.terminate().await?;
    // What is approved next is called.
    let mended = stack.control.update_tool(tool("acme.other", pinned), false);
    stack.control.approve_tool(&mended.await?).await?;
    let tree = start("mended").walk(Vec::new()).await?;
    let called = tree.node("").call("acme.other", "default").await?;
    assert_eq!(called.version()?, 1);
    stack.stop().await;
    Ok(())
}
