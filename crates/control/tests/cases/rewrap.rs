//! Another key-encryption key, over gRPC and REST.

use crate::common::{Stack, TOKEN_2, deposit, id};
use reqwest::StatusCode;
use serde_json::{Value, json};
use xylem_client::{Error, v1};
use xylem_ids::Role;

const FIRST: &str = "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const NEXT: &str = "k2:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";

/// One whose tree's key, among others, was wrapped by the first of two.
async fn succeeded() -> Stack {
    let stack = Stack::under(FIRST).await;
    stack.worker().await;
    stack.tree("train").await;
    stack.rekeyed(&format!("{NEXT}\n{FIRST}")).await
}

async fn check(stack: &Stack, name: &str) -> Option<v1::Check> {
    let status = stack.admin().await.status().await.expect("a status");
    status.checks.into_iter().find(|check| check.name == name)
}

async fn rotate(stack: &Stack) {
    let mut rotation = deposit(TOKEN_2);
    rotation.audiences.clear();
    let admin = stack.admin().await;
    let (tree, slot) = (id("train"), id("default"));
    let rotated = admin.rotate_token(&tree, &slot, rotation).await;
    rotated.expect("the tree's key opens");
}

#[tokio::test]
async fn an_administrator_has_everything_wrapped_anew_and_the_key_before_can_go() {
    let stack = succeeded().await;
    let found = check(&stack, "older_keys").await.expect("it is said");
    assert!(!found.ok && found.detail.contains("k1 wraps"), "{found:?}");
    assert!(found.advice.contains("xylem vault rewrap"), "{found:?}");

    let user = stack.client(Role::User).await.rewrap_keys("", "").await;
    assert_eq!(user.expect_err("no role").reason(), Some("role"));
    let admin = stack.admin().await;
    let done = admin.rewrap_keys("", "").await.expect("wraps anew");
    assert_eq!((done.current_key_id.as_str(), done.remaining), ("k2", 0));
    assert!(done.rewrapped >= 4 && done.unopened.is_empty(), "{done:?}");
    assert_eq!(done.next_key_id, "");
    let unused = v1::OlderKey {
        key_id: "k1".to_owned(),
        ..v1::OlderKey::default()
    };
    assert_eq!(done.older, [unused]);
    assert_eq!(check(&stack, "older_keys").await, None);

    let stack = stack.rekeyed(NEXT).await;
    rotate(&stack).await;
}

#[tokio::test]
async fn another_current_key_and_what_is_no_id_are_refused() {
    let stack = succeeded().await;
    let admin = stack.admin().await;
    let other = admin.rewrap_keys("k1", "").await.expect_err("refused");
    assert_eq!(other.reason(), Some("other_current_key"));
    for (current, after, field) in [
        ("no id", "", "current_key_id"),
        ("", "no id", "after_key_id"),
    ] {
        match admin.rewrap_keys(current, after).await {
            Err(Error::Invalid(answer)) => assert_eq!(answer.field.as_deref(), Some(field)),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn it_is_the_same_over_rest() {
    let stack = succeeded().await;
    let ask = async |body: Value| {
        let url = format!("{}/v1/vault/keys/rewrap", stack.address);
        let request = reqwest::Client::new().post(url);
        let request = request.bearer_auth(stack.admin_key()).json(&body);
        let answer = request.send().await.expect("an answer");
        let status = answer.status();
        (status, answer.json::<Value>().await.expect("JSON"))
    };
    let (status, done) = ask(json!({"currentKeyId": "k2"})).await;
    assert_eq!(status, StatusCode::OK, "{done}");
    assert_eq!(done["older"], json!([{"keyId": "k1"}]), "{done}");
    let (status, refused) = ask(json!({"currentKeyId": "k1"})).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{refused}");
    assert_eq!(refused["details"][0]["reason"], "other_current_key");
}
