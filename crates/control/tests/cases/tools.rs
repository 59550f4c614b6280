//! Tools: proposed by one, approved by another.

use crate::common::{self, API, Stack, id, start};
use secrecy::ExposeSecret;
use std::time::Duration;
use xylem_client::{Client, Error, NewKey, v1};
use xylem_ids::Role;

fn tool(name: &str) -> v1::Tool {
    v1::Tool {
        name: name.to_owned(),
        description: "Deploys a build".to_owned(),
        method: "POST".to_owned(),
        base_url: API.to_owned(),
        path: "/deploys".to_owned(),
        tags: vec!["build".to_owned()],
        ..v1::Tool::default()
    }
}

/// An installation in which somebody else approves, whatever roles the publisher has.
async fn shared() -> (Stack, Client, Client) {
    let stack = Stack::with(|settings| settings.single_operator = false).await;
    let roles = [Role::ToolPublisher, Role::PolicyAdmin];
    let key = stack.key_with(&roles, "publisher").await;
    let publisher = Client::connect(&stack.address, &key).await;
    let other = stack.admin().await;
    (stack, publisher.expect("a connection"), other)
}

fn reason(error: &Error) -> &str {
    error.reason().unwrap_or_default()
}

#[tokio::test]
async fn nobody_approves_their_own_and_a_proposed_tool_is_not_used() {
    let (stack, publisher, other) = shared().await;
    let proposed = publisher.register_tool(tool("acme.deploy")).await;
    let proposed = proposed.expect("proposed");
    assert_eq!(proposed.state(), v1::ToolState::Proposed);
    assert_eq!((proposed.version, proposed.tags.len()), (1, 1));
    let own = publisher.approve_tool(&proposed).await.expect_err("own");
    assert_eq!(reason(&own), "own_proposal");
    let entries = stack.admin().await.list_audit(Default::default()).await;
    let entries = entries.expect("a log").entries;
    let denied = entries.iter().find(|entry| entry.reason == "own_proposal");
    assert_eq!(denied.expect("an entry").tool, "acme.deploy");
    let early = other.start_tree(start("train")).await.expect_err("early");
    assert_eq!(reason(&early), "tool_not_approved");
    let called = other.callable_tool(&id("acme.deploy")).await;
    assert_eq!(reason(&called.expect_err("early")), "tool_not_approved");

    let wrong = v1::Tool {
        hash: "0".repeat(64),
        ..proposed.clone()
    };
    let wrong = other.approve_tool(&wrong).await.expect_err("another hash");
    assert_eq!(reason(&wrong), "tool_not_proposed");
    let approved = other.approve_tool(&proposed).await.expect("approved");
    assert_eq!(approved.state(), v1::ToolState::Approved);
    assert!(!approved.approval.expect("an approval").single_operator);
    other.start_tree(start("train")).await.expect("a tree");
}

#[tokio::test]
async fn nobody_approves_what_a_bot_of_their_own_publishes() {
    let (stack, publisher, admin) = shared().await;
    let bot = v1::CreateAgentRequest {
        name: "bot".to_owned(),
        kind: v1::AgentKind::Bot.into(),
        roles: vec![v1::Role::ToolPublisher.into()],
    };
    admin.create_agent(bot).await.expect("an agent");
    let key = NewKey::new(id("bot"), Vec::new());
    let (secret, _) = admin.create_api_key(key).await.expect("a key");
    let bot = Client::connect(&stack.address, &secret).await;
    let bot = bot.expect("a connection");
    let proposed = bot.register_tool(tool("acme.deploy")).await;
    let proposed = proposed.expect("proposed");
    let own = admin.approve_tool(&proposed).await.expect_err("own");
    assert_eq!(reason(&own), "own_proposal");
    let entries = admin.list_audit(Default::default()).await;
    let entries = entries.expect("a log").entries;
    assert!(entries.iter().any(|entry| entry.reason == "own_proposal"));
    let approved = publisher.approve_tool(&proposed).await;
    assert_eq!(approved.expect("approved").state(), v1::ToolState::Approved);
}

#[tokio::test]
async fn what_was_approved_to_be_read_is_seen_until_that_ends() {
    let stack = Stack::start().await;
    let admin = stack.admin().await;
    let key = stack.key_for(Role::User, "reader").await;
    let user = Client::connect(&stack.address, &key).await;
    let user = user.expect("a connection");
    let retired = admin.retire_policy(&id("everybody"), None, "").await;
    retired.expect("retired");
    for name in ["acme.a", "acme.b"] {
        admin.register_tool(tool(name)).await.expect("a tool");
    }
    let rest = reqwest::Client::new();
    let seen = async || {
        let listed = user.list_tools(Default::default()).await;
        let tools = listed.expect("a list").tools;
        let listed: Vec<_> = tools.into_iter().map(|tool| tool.name).collect();
        let shown = user.get_tool(&id("acme.b"), None).await;
        assert_eq!(shown.is_ok(), listed.contains(&"acme.b".to_owned()));
        // Over REST, pages that are asked for again are remembered.
        for _ in 0..3 {
            let page = rest
                .get(format!("{}/v1/tools", stack.address))
                .bearer_auth(key.expose_secret());
            let page = page.send().await.expect("an answer").text().await;
            let page = page.expect("a page");
            assert_eq!(page.contains("acme.b"), shown.is_ok(), "{page}");
            let check = rest
                .post(format!("{}/v1/access/check", stack.address))
                .bearer_auth(key.expose_secret())
                .body(r#"{"tool": "acme.b"}"#);
            let check = check.send().await.expect("an answer").status();
            assert_eq!(check.is_success(), shown.is_ok(), "{check}");
        }
        listed
    };
    assert!(seen().await.is_empty());
    let asked = v1::RequestAccessRequest {
        agent: "reader".to_owned(),
        tool: "acme.b".to_owned(),
        action: "read".to_owned(),
        reason: "to look at it".to_owned(),
        ..Default::default()
    };
    let asked = admin.request_access(asked).await.expect("asked");
    assert!(seen().await.is_empty());
    let approved = admin.decide_access(&id(&asked.id), true, "fine").await;
    approved.expect("approved");
    assert_eq!(seen().await, ["acme.b"]);
    // It ends by the clock, and nothing else changes then.
    stack.clock.advance(Duration::from_secs(8 * 3600));
    assert!(seen().await.is_empty());
}

#[tokio::test]
async fn a_single_operator_does_and_it_shows() {
    let stack = Stack::start().await;
    let admin = stack.admin().await;
    let proposed = admin.register_tool(tool("acme.deploy")).await;
    let approved = admin.approve_tool(&proposed.expect("proposed")).await;
    let approval = approved.expect("approved").approval;
    assert!(approval.expect("an approval").single_operator);
    let status = admin.status().await.expect("a status");
    let check = status.checks.iter().find(|check| check.name == "approvals");
    assert!(check.expect("a check").detail.contains("single operator"));
    let entries = admin.list_audit(Default::default()).await;
    let entries = entries.expect("a log").entries;
    let of = |action: &str| entries.iter().find(|entry| entry.action == action).cloned();
    of("single_operator").expect("one at the start");
    let approval = of("tool_approved").expect("an approval");
    assert_eq!(approval.reason, "single_operator");
}

#[tokio::test]
async fn a_change_waits_for_approval_and_can_be_taken_back() {
    let (_stack, publisher, other) = shared().await;
    let name = id("acme.deploy");
    let first = publisher.register_tool(tool("acme.deploy")).await;
    let first = other.approve_tool(&first.expect("proposed")).await;
    let first = first.expect("approved");
    let again = publisher.register_tool(tool("acme.deploy")).await;
    assert_eq!(again.expect("the same").version, 1);
    let changed = v1::Tool {
        path: "/deployments".to_owned(),
        ..tool("acme.deploy")
    };
    let taken = publisher.register_tool(changed.clone()).await;
    assert_eq!(reason(&taken.expect_err("no silent change")), "exists");
    let staged = publisher.update_tool(changed.clone(), true).await;
    let staged = staged.expect("staged");
    assert_eq!((staged.version, staged.state()), (2, v1::ToolState::Staged));
    let called = other.callable_tool(&name).await.expect("the approved one");
    assert_eq!((called.version, called.hash), (1, first.hash.clone()));
    let rejected = other.reject_tool(&staged, "not this path").await;
    assert_eq!(rejected.expect("rejected").version, 1);

    let stopped = publisher
        .update_tool(changed, false)
        .await
        .expect("changed");
    assert_eq!(
        (stopped.version, stopped.state()),
        (3, v1::ToolState::Changed)
    );
    let called = other.callable_tool(&name).await.expect_err("stopped");
    assert_eq!(reason(&called), "tool_changed");
    let reverted = publisher.revert_tool(&name).await.expect("reverted");
    assert_eq!(
        (reverted.version, reverted.state()),
        (1, v1::ToolState::Approved)
    );
    let old = other.get_tool(&name, Some(3)).await.expect("a version");
    assert_eq!((old.path.as_str(), old.version), ("/deployments", 3));
    let request = v1::ListToolVersionsRequest {
        name: name.to_string(),
        ..Default::default()
    };
    let versions = other.list_tool_versions(request).await.expect("versions");
    let decided: Vec<_> = versions
        .versions
        .iter()
        .map(|version| (version.version, version.decision.as_str()))
        .collect();
    assert_eq!(decided, [(3, "reverted"), (2, "rejected"), (1, "approved")]);
}

#[tokio::test]
async fn a_retired_tool_is_not_for_new_trees_and_goes_when_none_uses_it() {
    let stack = Stack::start().await;
    let admin = stack.admin().await;
    let name = id("acme.deploy");
    stack.tree("train").await;
    let early = admin.delete_tool(&name).await.expect_err("in force");
    assert_eq!(reason(&early), "tool_not_retired");
    let retired = admin.retire_tool(&name, false).await.expect("retired");
    assert_eq!(retired.state(), v1::ToolState::Retired);
    admin.callable_tool(&name).await.expect("its tree goes on");
    let new = admin.start_tree(start("another")).await.expect_err("new");
    assert_eq!(reason(&new), "tool_retired");
    let used = admin.delete_tool(&name).await.expect_err("used");
    assert_eq!(reason(&used), "tool_in_use");
    let stopped = admin.retire_tool(&name, true).await.expect("stopped");
    assert!(stopped.calls_stopped);
    let called = admin.callable_tool(&name).await.expect_err("stopped");
    assert_eq!(reason(&called), "tool_retired");
}

#[tokio::test]
async fn a_search_narrows_and_what_is_wrong_names_the_field() {
    let stack = Stack::start().await;
    let admin = stack.admin().await;
    stack.offer(tool("acme.deploy")).await;
    admin
        .register_tool(tool("acme.list"))
        .await
        .expect("a tool");
    let find = async |request: v1::ListToolsRequest| {
        let page = admin.list_tools(request).await.expect("a page");
        let names = page.tools.iter().map(|tool| tool.name.clone());
        names.collect::<Vec<_>>().join(" ")
    };
    let base = v1::ListToolsRequest::default();
    let query = |query: &str| v1::ListToolsRequest {
        query: query.to_owned(),
        ..base.clone()
    };
    assert_eq!(find(query("DEPLOYS list")).await, "acme.list");
    let mut proposed = query("build");
    proposed.set_state(v1::ToolState::Proposed);
    assert_eq!(find(proposed).await, "acme.list");
    for (field, wrong) in [
        ("query", query(&"x ".repeat(9))),
        (
            "state",
            v1::ListToolsRequest {
                state: 99,
                ..base.clone()
            },
        ),
        (
            "tags",
            v1::ListToolsRequest {
                tags: vec!["A tag".to_owned()],
                ..base.clone()
            },
        ),
    ] {
        let refused = admin.list_tools(wrong).await.expect_err(field);
        assert!(refused.to_string().contains(field), "{refused}");
    }
}

/// A user finds what policies let it read or call, tags included; all else is not there for it.
#[tokio::test]
async fn a_user_finds_what_policies_let_it_see() {
    let stack = Stack::start().await;
    let (admin, user) = (stack.admin().await, stack.client(Role::User).await);
    let retired = admin.retire_policy(&id("everybody"), None, "").await;
    retired.expect("retired");
    for (name, tag) in [
        ("acme.a", "build"),
        ("acme.b", "secret"),
        ("acme.c", "build"),
    ] {
        let tool = v1::Tool {
            tags: vec![tag.to_owned()],
            ..tool(name)
        };
        admin.register_tool(tool).await.expect("a tool");
    }
    let find = async |client: &Client, page_token: String| {
        let request = v1::ListToolsRequest {
            page_size: Some(1),
            page_token,
            ..Default::default()
        };
        let page = client.list_tools(request).await.expect("a page");
        let names = page.tools.into_iter().map(|tool| tool.name);
        (names.collect::<Vec<_>>(), page.next_page_token)
    };
    assert_eq!(find(&user, String::new()).await, (vec![], String::new()));
    let builds = v1::Policy {
        name: "builds".to_owned(),
        effect: "allow".to_owned(),
        who: Some(v1::PolicyWho {
            roles: vec!["user".to_owned()],
            ..Default::default()
        }),
        what: Some(v1::PolicyWhat {
            tags: vec!["build".to_owned()],
            ..Default::default()
        }),
        actions: vec!["read".to_owned()],
        ..Default::default()
    };
    admin.create_policy(builds).await.expect("a policy");
    let (first, token) = find(&user, String::new()).await;
    assert_eq!(first, ["acme.a"]);
    let second = find(&user, token).await;
    assert_eq!(second, (vec!["acme.c".to_owned()], String::new()));
    let (_, token) = find(&admin, String::new()).await;
    assert_eq!(find(&admin, token).await.0, ["acme.b"]);

    user.get_tool(&id("acme.a"), None).await.expect("visible");
    let hidden = user
        .get_tool(&id("acme.b"), None)
        .await
        .expect_err("hidden");
    let absent = user
        .get_tool(&id("acme.d"), None)
        .await
        .expect_err("absent");
    assert_eq!(reason(&hidden), "not_found");
    assert_eq!(reason(&hidden), reason(&absent));
    let versions = v1::ListToolVersionsRequest {
        name: "acme.b".to_owned(),
        ..Default::default()
    };
    let hidden = user.list_tool_versions(versions).await.expect_err("hidden");
    assert_eq!(reason(&hidden), reason(&absent));
    let told = async |tool: &str| {
        let check = v1::CheckAccessRequest {
            tool: tool.to_owned(),
            ..Default::default()
        };
        let request = v1::RequestAccessRequest {
            tool: tool.to_owned(),
            reason: "release 42".to_owned(),
            ..Default::default()
        };
        let begun = xylem_client::StartTree {
            tools: vec![id(tool)],
            ..common::start("train")
        };
        let refused = [
            user.check_access(check).await.map(drop),
            user.request_access(request).await.map(drop),
            user.start_tree(begun).await.map(drop),
            user.callable_tool(&id(tool)).await.map(drop),
        ];
        refused.map(|refused| {
            let error = refused.expect_err(tool);
            let said = error.answer().expect("an answer").message.clone();
            (reason(&error).to_owned(), said.replace(tool, "TOOL"))
        })
    };
    let hidden = told("acme.b").await;
    assert!(hidden.iter().all(|(reason, _)| reason == "not_found"));
    assert_eq!(
        hidden,
        told("acme.d").await,
        "nobody learns which names are taken"
    );
}

const BUILDS: &str = include_str!("../../../registry/src/openapi/documents/builds.json");

#[tokio::test]
async fn an_import_proposes_and_approves_nothing() {
    let stack = Stack::start().await;
    let publisher = stack.client(Role::ToolPublisher).await;
    let import = async |document: &str, dry_run| {
        let request = v1::ImportToolsRequest {
            document: document.to_owned(),
            prefix: "acme".to_owned(),
            base_url: API.to_owned(),
            dry_run,
            ..Default::default()
        };
        publisher.import_tools(request).await.expect("imported")
    };
    let listed = async || {
        let page = publisher.list_tools(Default::default()).await;
        page.expect("a page").tools.len()
    };
    let outcomes = |report: &v1::ImportToolsResponse, outcome| {
        let tools = report.tools.iter();
        tools.filter(|it| it.outcome() == outcome).count()
    };
    let dry = import(BUILDS, true).await;
    assert!(!dry.tools.is_empty() && !dry.left_out.is_empty());
    assert_eq!(listed().await, 0);
    let done = import(BUILDS, false).await;
    assert_eq!(done.tools.len(), listed().await);
    assert_eq!(outcomes(&done, v1::ImportOutcome::New), done.tools.len());
    let proposed = |it: &v1::ImportedTool| it.state() == v1::ToolState::Proposed;
    assert!(done.tools.iter().all(proposed));
    let again = import(BUILDS, false).await;
    assert_eq!(
        outcomes(&again, v1::ImportOutcome::Unchanged),
        done.tools.len()
    );

    let first = &done.tools[0];
    let read = publisher.get_tool(&id(&first.name), None).await;
    let read = read.expect("a tool");
    stack
        .admin()
        .await
        .approve_tool(&read)
        .await
        .expect("approved");
    let moved = v1::ImportToolsRequest {
        document: BUILDS.to_owned(),
        prefix: "acme".to_owned(),
        base_url: "https://eu.acme.example".to_owned(),
        ..Default::default()
    };
    let moved = publisher.import_tools(moved).await.expect("imported");
    assert_eq!(
        outcomes(&moved, v1::ImportOutcome::Updated),
        done.tools.len()
    );
    let staged = publisher.get_tool(&id(&first.name), None).await;
    assert_eq!(staged.expect("a tool").state(), v1::ToolState::Staged);
    let entries = stack.admin().await.list_audit(Default::default()).await;
    let entries = entries.expect("a log").entries;
    let told = |entry: &v1::AuditEntry| entry.note.ends_with("from a document");
    assert_eq!(
        entries.iter().filter(|it| told(it)).count(),
        2 * done.tools.len()
    );
}

/// Whom a server has to be is part of what is approved.
#[tokio::test]
async fn certificates_and_pins_are_kept_checked_and_approved() {
    let stack = Stack::start().await;
    let admin = stack.admin().await;
    let publisher = stack.client(Role::ToolPublisher).await;
    let key = rcgen::KeyPair::generate().expect("a key");
    let ca = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    let ca = ca.self_signed(&key).expect("a certificate").pem();
    let pin = |first: char| format!("sha256/{first}7DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    let with = |ca_pem: &str, pins: Vec<String>| v1::Tool {
        tls: Some(v1::ToolTls {
            ca_pem: ca_pem.to_owned(),
            pins,
        }),
        base_url: "https://api.acme.internal".to_owned(),
        ..tool("acme.inner")
    };
    for (field, wrong) in [
        ("tls", with("", vec![])),
        ("tls.pins", with("", vec!["sha256/short".to_owned()])),
        ("tls.pins", with("", ('A'..='K').map(pin).collect())),
        ("tls.ca_pem", with("nothing", vec![])),
        ("tls.ca_pem", with(&key.serialize_pem(), vec![])),
        (
            "tls",
            v1::Tool {
                base_url: "http://127.0.0.1:8080".to_owned(),
                ..with(&ca, vec![])
            },
        ),
        (
            "tls",
            v1::Tool {
                allowed_api_urls: vec!["http://127.0.0.1:8080".to_owned()],
                ..with("", vec![pin('4')])
            },
        ),
    ] {
        let refused = publisher.register_tool(wrong).await.expect_err(field);
        let Error::Invalid { .. } = &refused else {
            panic!("{field}: {refused}");
        };
        let told = refused.to_string();
        assert!(told.contains(field) && !told.contains("PRIVATE"), "{told}");
    }
    let given = with(&ca, vec![pin('4'), pin('B')]);
    let made = publisher
        .register_tool(given.clone())
        .await
        .expect("a tool");
    assert_eq!(made.tls, given.tls);
    let approved = admin.approve_tool(&made).await.expect("approved");
    assert_eq!(approved.state(), v1::ToolState::Approved);
    let moved = with(&ca, vec![pin('4'), pin('C')]);
    let changed = publisher.update_tool(moved, false).await.expect("changed");
    assert_eq!(changed.state(), v1::ToolState::Changed);
    assert_ne!(changed.hash, approved.hash);
}

/// A document at a URL, with a server that is told relative to it.
const PUBLISHED: &str = r#"{
    "openapi": "3.1.0",
    "info": { "title": "Status", "version": "2" },
    "servers": [{ "url": "../v1" }],
    "security": [{ "token": [] }],
    "paths": { "/status": { "get": { "operationId": "status", "responses": {} } } },
    "components": { "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } } }
}"#;

#[tokio::test]
async fn a_document_is_fetched_and_keeps_what_it_does_not_speak_of() {
    use axum::{Router, http::header::AUTHORIZATION, response::Redirect, routing::get};
    let stack = Stack::with(|settings| settings.addresses.development = true).await;
    let publisher = stack.client(Role::ToolPublisher).await;
    let document = get(async |headers: axum::http::HeaderMap| {
        assert!(!headers.contains_key(AUTHORIZATION));
        PUBLISHED
    });
    let router = Router::new()
        .route("/docs/openapi.json", document)
        .route("/moved", get(async || Redirect::to("/docs/openapi.json")));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("a listener");
    let server = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let request = |path: &str| v1::ImportToolsRequest {
        url: format!("{server}{path}"),
        prefix: "acme".to_owned(),
        credential: "acme".to_owned(),
        ..Default::default()
    };
    let moved = publisher.import_tools(request("/moved")).await;
    let moved = moved.expect_err("a redirect").to_string();
    assert!(moved.contains("redirects are not followed"), "{moved}");
    let both = v1::ImportToolsRequest {
        slot: "default".to_owned(),
        ..request("/docs/openapi.json")
    };
    let both = publisher.import_tools(both).await.expect_err("both");
    assert!(both.to_string().contains("credential"), "{both}");

    let import = || publisher.import_tools(request("/docs/openapi.json"));
    let done = import().await.expect("imported");
    assert_eq!((done.title.as_str(), done.tools.len()), ("Status", 1));
    let name = id("acme.status");
    let made = publisher.get_tool(&name, None).await.expect("a tool");
    assert_eq!(made.base_url, format!("{server}/v1"));
    assert_eq!((&*made.slot, &*made.credential), ("", "acme"));
    let entries = stack.admin().await.list_audit(Default::default()).await;
    let entries = entries.expect("a log").entries;
    assert!(entries.iter().any(|it| it.note.ends_with("from 127.0.0.1")));

    let limited = v1::Tool {
        rate_limit: Some(v1::ToolRateLimit {
            calls: 5,
            per: "minute".to_owned(),
        }),
        retry: v1::RetryClass::AtMostOnce.into(),
        connect_timeout: Some(xylem_client::Duration {
            seconds: 2,
            nanos: 0,
        }),
        description: "Another one".to_owned(),
        timeout: Some(xylem_client::Duration {
            seconds: 90,
            nanos: 0,
        }),
        response_headers: vec!["etag".to_owned()],
        path: "/state".to_owned(),
        ..made
    };
    publisher
        .update_tool(limited, false)
        .await
        .expect("limited");
    let unnamed = v1::ImportToolsRequest {
        credential: String::new(),
        ..request("/docs/openapi.json")
    };
    let again = publisher.import_tools(unnamed).await.expect("imported");
    assert_eq!(again.tools[0].outcome(), v1::ImportOutcome::Updated);
    let kept = publisher.get_tool(&name, None).await.expect("a tool");
    assert_eq!(kept.rate_limit.as_ref().map(|limit| limit.calls), Some(5));
    assert_eq!(kept.retry(), v1::RetryClass::AtMostOnce);
    assert_eq!(kept.connect_timeout.map(|it| it.seconds), Some(2));
    assert_eq!(kept.timeout.map(|it| it.seconds), Some(90));
    assert_eq!(kept.response_headers, ["etag"]);
    assert_eq!(kept.description, "Another one");
    assert_eq!((&*kept.slot, &*kept.credential), ("", "acme"));
    assert_eq!(kept.path, "/status");
}

#[tokio::test]
async fn what_cannot_be_imported_names_the_field() {
    let stack = Stack::start().await;
    let publisher = stack.client(Role::ToolPublisher).await;
    let base = v1::ImportToolsRequest {
        prefix: "acme".to_owned(),
        ..Default::default()
    };
    let given = |document: &str, url: &str| v1::ImportToolsRequest {
        document: document.to_owned(),
        url: url.to_owned(),
        ..base.clone()
    };
    for (field, wrong) in [
        ("document", given("", "")),
        (
            "document",
            given(BUILDS, "https://api.acme.example/openapi.json"),
        ),
        ("document", given("swagger: '2.0'", "")),
        ("url", given("", "nowhere")),
        ("url", given("", "https://127.0.0.1/openapi.json")),
        ("url", given("", "https://169.254.169.254/openapi.json")),
        ("url", given("", "https://[::ffff:10.0.0.1]/openapi.json")),
        ("url", given("", "http://api.acme.example/openapi.json")),
        ("url", given("", "https://user:secret@api.acme.example/")),
        (
            "prefix",
            v1::ImportToolsRequest {
                prefix: "x".repeat(41),
                ..given(BUILDS, "")
            },
        ),
    ] {
        let refused = publisher.import_tools(wrong).await.expect_err(field);
        let Error::Invalid { .. } = &refused else {
            panic!("{field}: {refused}");
        };
        assert!(refused.to_string().contains(field), "{field}: {refused}");
    }
}

/// What a publisher says of a tool is what everybody reads, and what is wrong names its field.
#[tokio::test]
async fn how_a_token_is_sent_and_answered_is_kept_and_checked() {
    use v1::tool_auth::Scheme;
    let stack = Stack::start().await;
    let admin = stack.admin().await;
    let with = |scheme: Option<Scheme>| v1::Tool {
        auth: Some(v1::ToolAuth { scheme }),
        response_schema_json: r#"{"type":"array"}"#.to_owned(),
        ..tool("acme.list")
    };
    let query = |name: &str| {
        let name = name.to_owned();
        Some(Scheme::Query(v1::QueryAuth { name }))
    };
    let basic = |username: &str| {
        let username = username.to_owned();
        Some(Scheme::Basic(v1::BasicAuth { username }))
    };
    for (at, scheme) in [query("api_key"), basic("deploy"), basic("")]
        .into_iter()
        .enumerate()
    {
        let given = v1::Tool {
            name: format!("acme.t{at}"),
            ..with(scheme)
        };
        let kept = admin.register_tool(given.clone()).await.expect("a tool");
        assert_eq!(kept.auth, given.auth);
        assert_eq!(kept.response_schema_json, given.response_schema_json);
    }
    for (field, wrong) in [
        ("auth", with(None)),
        ("auth.name", with(query("a b"))),
        ("auth.username", with(basic("a:b"))),
        (
            "response",
            v1::Tool {
                response_schema_json: r#"{"type":"none"}"#.to_owned(),
                ..tool("acme.list")
            },
        ),
        (
            "response_schema_json",
            v1::Tool {
                response_schema_json: "{".to_owned(),
                ..tool("acme.list")
            },
        ),
    ] {
        let refused = admin.register_tool(wrong).await.expect_err(field);
        assert!(refused.to_string().contains(field), "{refused}");
    }
}

#[tokio::test]
async fn how_often_and_how_long_is_kept_and_checked() {
    let stack = Stack::start().await;
    let admin = stack.admin().await;
    let seconds = |seconds| Some(xylem_client::Duration { seconds, nanos: 0 });
    let usual = admin.register_tool(tool("acme.usual")).await;
    let usual = usual.expect("a tool");
    assert_eq!(usual.retry(), v1::RetryClass::Idempotent);
    assert_eq!(usual.connect_timeout, seconds(5));
    let given = v1::Tool {
        retry: v1::RetryClass::AtMostOnce.into(),
        connect_timeout: seconds(29),
        ..tool("acme.once")
    };
    let kept = admin.register_tool(given).await.expect("a tool");
    assert_eq!(kept.retry(), v1::RetryClass::AtMostOnce);
    assert_eq!(kept.connect_timeout, seconds(29));
    for (field, wrong) in [
        (
            "retry",
            v1::Tool {
                retry: 9,
                ..tool("acme.list")
            },
        ),
        (
            "connect_timeout",
            v1::Tool {
                connect_timeout: seconds(31),
                ..tool("acme.list")
            },
        ),
        (
            "connect_timeout",
            v1::Tool {
                connect_timeout: seconds(20),
                timeout: seconds(20),
                ..tool("acme.list")
            },
        ),
        (
            "connect_timeout",
            v1::Tool {
                connect_timeout: seconds(0),
                ..tool("acme.list")
            },
        ),
    ] {
        let refused = admin.register_tool(wrong).await.expect_err(field);
        assert!(refused.to_string().contains(field), "{refused}");
    }
}

#[tokio::test]
async fn a_policy_lets_somebody_change_the_tool_of_another() {
    let (stack, publisher, other) = shared().await;
    let first = publisher.register_tool(tool("acme.deploy")).await;
    let first = other.approve_tool(&first.expect("proposed")).await;
    first.expect("approved");
    let helper = stack.key_for(Role::ToolPublisher, "helper").await;
    let helper = Client::connect(&stack.address, &helper).await;
    let helper = helper.expect("a connection");
    let changed = v1::Tool {
        path: "/deployments".to_owned(),
        tags: Vec::new(),
        ..tool("acme.deploy")
    };
    let refused = helper.update_tool(changed.clone(), true).await;
    let refused = refused.expect_err("not its own");
    assert_eq!(reason(&refused), "tool_of_other_owner");

    let allowing = |name: &str, who: serde_json::Value, actions: &[&str]| {
        let policy = serde_json::json!({
            "name": name, "effect": "allow", "who": who, "what": {"tags": ["build"]},
            "actions": actions,
        });
        serde_json::from_value::<v1::Policy>(policy).expect("a policy")
    };
    // To call it is not to change it.
    let calls = allowing(
        "calls",
        serde_json::json!({"agents": ["helper"]}),
        &["read", "execute"],
    );
    other.create_policy(calls).await.expect("stored");
    let refused = helper.update_tool(changed.clone(), true).await;
    assert_eq!(
        reason(&refused.expect_err("still not")),
        "tool_of_other_owner"
    );
    let changes = allowing(
        "helps",
        serde_json::json!({"agents": ["helper"]}),
        &["admin"],
    );
    other.create_policy(changes).await.expect("stored");
    let staged = helper
        .update_tool(changed.clone(), true)
        .await
        .expect("staged");
    assert_eq!((staged.version, staged.state()), (2, v1::ToolState::Staged));
    assert_eq!(staged.owner, "publisher");
    // What decides is the tool as it was, so that nobody tags themselves in; and the owner may still.
    let stranger = stack.client(Role::ToolPublisher).await;
    let retired = stranger.retire_tool(&id("acme.deploy"), false).await;
    assert_eq!(
        reason(&retired.expect_err("nobody's")),
        "tool_of_other_owner"
    );
    other.approve_tool(&staged).await.expect("approved");
    let reverted = helper.retire_tool(&id("acme.deploy"), false).await;
    assert_eq!(
        reason(&reverted.expect_err("no tag any more")),
        "tool_of_other_owner"
    );
    publisher
        .retire_tool(&id("acme.deploy"), false)
        .await
        .expect("retired");

    let entries = stack.admin().await.list_audit(Default::default()).await;
    let entries = entries.expect("a log").entries;
    let by_helper: Vec<_> = entries
        .iter()
        .filter(|entry| entry.agent == "helper" && entry.action.starts_with("tool_"))
        .map(|entry| {
            (
                entry.action.as_str(),
                entry.outcome.as_str(),
                entry.policy.as_str(),
            )
        })
        .collect();
    assert_eq!(
        by_helper,
        [
            ("tool_updated", "denied", ""),
            ("tool_updated", "denied", ""),
            ("tool_updated", "succeeded", "helps@1"),
            ("tool_retired", "denied", ""),
        ]
    );
}
