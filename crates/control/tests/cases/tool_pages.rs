//! Pages of tools for whoever sees few of them.

use crate::common::{self, API, Stack, id};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::ExposeSecret;
use serde_json::Value;
use std::time::UNIX_EPOCH;
use xylem_client::{Client, Error, v1};
use xylem_ids::{RetryClass, Role};
use xylem_registry::{Act, Auth, Editor, Import, Method, Tool, ToolDefinition};

/// More than are looked at for one page.
const HIDDEN: usize = 2_100;

fn tool(name: &str, tag: &str) -> Tool {
    let definition = ToolDefinition {
        name: id(name),
        description: String::new(),
        tags: [id(tag)].into(),
        base_url: API.to_owned(),
        path: "/deploys".to_owned(),
        method: Method::Post,
        auth: Auth::Bearer,
        slot: Some(id("default")),
        credential: None,
        rate_limit: None,
        retry: RetryClass::default(),
        tls: None,
        parameters: serde_json::json!({ "type": "object" }),
        response: None,
        places: Default::default(),
        api_urls: Vec::new(),
        timeout_seconds: ToolDefinition::TIMEOUT_SECONDS,
        connect_timeout_seconds: ToolDefinition::CONNECT_TIMEOUT_SECONDS,
        response_headers: Vec::new(),
        max_response_bytes: ToolDefinition::RESPONSE_BYTES,
    };
    Tool::new(definition).expect("a tool")
}

/// Many tools that only administrators know of, and behind them one that users may know of.
async fn crowded() -> Stack {
    let stack = Stack::start().await;
    let admin = stack.admin().await;
    let retired = admin.retire_policy(&id("everybody"), None, "").await;
    retired.expect("retired");
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
    let hidden = (0..HIDDEN).map(|n| tool(&format!("hidden.{n:04}"), "secret"));
    let tools = hidden.chain([tool("visible.one", "build")]).collect();
    let editor = Editor {
        agent: id("publisher"),
        of_all: true,
    };
    let namespace = common::namespace();
    let act = Act::new(&namespace, editor, UNIX_EPOCH);
    let registry = stack.tools();
    let imported = registry.import(
        &act,
        tools,
        &Import {
            from: "a test",
            names_token: true,
            dry_run: false,
        },
    );
    let imported = imported.await;
    imported.expect("tools");
    stack
}

fn asked(page_token: &str) -> v1::ListToolsRequest {
    v1::ListToolsRequest {
        page_token: page_token.to_owned(),
        ..Default::default()
    }
}

/// Nothing of a tool that its reader may not know of, as it is or decoded.
fn check_token(token: &str) {
    let decoded = URL_SAFE_NO_PAD.decode(token).expect("base64");
    let decoded = String::from_utf8_lossy(&decoded);
    assert!(!token.contains("hidden") && !decoded.contains("hidden"));
}

async fn refused(client: &Client, request: v1::ListToolsRequest) -> Error {
    let refused = client.list_tools(request).await.expect_err("refused");
    assert!(refused.to_string().contains("page_token"), "{refused}");
    refused
}

#[tokio::test]
async fn who_sees_one_of_many_tools_finds_it_and_learns_of_no_other() {
    let stack = crowded().await;
    let (key, admin) = (stack.key(Role::User).await, stack.admin().await);
    let user = Client::connect(&stack.address, &key).await;
    let user = user.expect("a connection");
    let first = user.list_tools(asked("")).await.expect("a page");
    assert_eq!(first.tools, []);
    let token = first.next_page_token;
    check_token(&token);
    let second = user.list_tools(asked(&token)).await.expect("a page");
    assert_eq!(second.tools.len(), 1);
    assert_eq!(second.tools[0].name, "visible.one");
    assert_eq!(second.next_page_token, "");

    // The same over REST, from memory the third time, with the same tokens.
    let (http, url) = (
        reqwest::Client::new(),
        format!("{}/v1/tools", stack.address),
    );
    let page = async |token: &str| {
        let page = format!("{url}?pageToken={token}");
        let request = http.get(page).bearer_auth(key.expose_secret());
        let answer = request.send().await;
        let text = answer.expect("an answer").text().await.expect("a body");
        serde_json::from_str::<Value>(&text).expect("JSON")
    };
    for _ in 0..3 {
        let first = page("").await;
        assert_eq!(first["nextPageToken"], token);
        let second = page(&token).await;
        assert_eq!(second["tools"][0]["name"], "visible.one");
    }
    let wrong = page("hidden.1000").await;
    assert_eq!(wrong["details"][0]["metadata"]["field"], "page_token");

    // A place in somebody else's list, in another one, or from nowhere is none in this one.
    let other = stack.client(Role::User).await;
    refused(&other, asked(&token)).await;
    refused(&admin, asked(&token)).await;
    for token in ["hidden.1000", &token[1..], &token.to_uppercase()] {
        refused(&user, asked(token)).await;
    }
    let words = v1::ListToolsRequest {
        query: "hidden".to_owned(),
        ..asked(&token)
    };
    refused(&user, words).await;

    // Who sees all tools gets the pages that others of the kind get.
    let mut names = Vec::new();
    let mut token = String::new();
    let admins = [&admin, &stack.client(Role::Admin).await];
    for admin in admins.into_iter().cycle() {
        let whole = v1::ListToolsRequest {
            page_size: Some(200),
            ..asked(&token)
        };
        let page = admin.list_tools(whole).await.expect("a page");
        names.extend(page.tools.into_iter().map(|tool| tool.name));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(names.len(), HIDDEN + 1);
}
