//! A person's account, its sessions and its second factor.

use crate::installation::{Operator, Server, each, list, seconds};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use std::time::{Duration, SystemTime};
use xylem_testkit::device;

const FIRST: &str = "a long walk along the river";
const SECOND: &str = "another one over the hills";

pub(crate) async fn a_person_signs_in(
    admin: &Operator<'_>,
    ada: &Operator<'_>,
    server: &Server<'_>,
) {
    let installation = server.installation;
    let first = installation.secret("first", FIRST);
    let second = installation.secret("second", SECOND);
    let invitation = installation.file("invitation");
    let invite = format!("agent invite ada --to {invitation}");
    let invited = admin.answer(&invite).await;
    assert_eq!(invited["file"], json!(invitation));
    installation.keep(&installation.read("invitation"));
    admin.refused(2, "not written over", &invite).await;
    let line = "agent invite publisher";
    admin.refused(2, "others have keys", line).await;

    ada.refused(2, "xylem login", "account show").await;
    let register = format!("account register ada --password-file {first}");
    ada.refused(3, "ask an administrator", &register).await;
    let register = format!("{register} --invitation-file {invitation}");
    assert_eq!(ada.answer(&register).await["agent"], "ada");
    ada.refused(3, "invitation is not valid", &register).await;
    ada.refused(2, "--password-file", "login ada").await;
    let wrong = format!("login ada --password-file {second}");
    ada.refused(3, "not valid", &wrong).await;
    let typed = ada.giving(&format!("{FIRST}\n"));
    let signed_in = typed.answer("login ada --password-file -").await;
    assert_eq!(signed_in["controlPlane"], json!(server.address));
    let shown = ada.answer("account show").await;
    assert_eq!(
        (&shown["agent"], &shown["roles"]),
        (&json!("ada"), &json!(["admin"]))
    );
    assert_eq!(shown["secondFactor"], false);
    assert!(ada.told("account show").await.contains("signed in"));

    ends_the_other_session(ada, &first, server).await;
    changes_the_password(ada, &first, &second).await;
}

async fn ends_the_other_session(ada: &Operator<'_>, password: &str, server: &Server<'_>) {
    let other = server.installation.person("ada-elsewhere", server);
    other
        .answer(&format!("login ada --password-file {password}"))
        .await;
    let sessions = ada.answer("account sessions").await;
    assert_eq!(list(&sessions).len(), 2, "{sessions}");
    for session in list(&sessions) {
        assert!(seconds(&session["openedAt"], &session["endsAt"]) > 86_400);
    }
    let others = list(&sessions)
        .iter()
        .find(|session| session["current"] != true);
    let id = others.expect("another one")["id"].as_str().expect("an id");
    let ended = ada.answer(&format!("account end {id}")).await;
    assert_eq!(ended["session"], json!(id));
    other.refused(3, "xylem login", "account show").await;
    let left = ada.answer("account sessions").await;
    assert!(!each(&left, "id").contains(&id), "{left}");
    ada.refused(4, "no such session", "account end nothing")
        .await;
}

async fn changes_the_password(ada: &Operator<'_>, first: &str, second: &str) {
    let change = "account password --password-file";
    let wrong = format!("{change} {second} --new-password-file {first}");
    ada.refused(3, "present password is not right", &wrong)
        .await;
    ada.answer(&format!("{change} {first} --new-password-file {second}"))
        .await;
    ada.refused(3, "xylem login", "account show").await;
    let before = format!("login ada --password-file {first}");
    ada.refused(3, "not valid", &before).await;
    ada.answer(&format!("login ada --password-file {second}"))
        .await;
    assert_eq!(ada.answer("account show").await["agent"], "ada");
}

pub(crate) async fn a_person_enrols_a_device(ada: &Operator<'_>) {
    let password = ada.installation.file("second");
    let (secret, codes) = enrol(ada).await;
    ada.refused(3, "xylem login", "account show").await;
    let login = format!("login ada --password-file {password}");
    ada.refused(3, "one-time code", &login).await;
    ada.answer(&format!("{login} --code {}", codes[0])).await;
    assert_eq!(ada.answer("account show").await["secondFactor"], true);

    // Each code is good once: the next one is that of the next half minute.
    let next = device::code(&secret, SystemTime::now() + Duration::from_secs(30));
    let renew = format!(
        "account second-factor recovery-codes {} --password-file {password}",
        next.expose_secret()
    );
    let renewed = ada.answer(&renew).await;
    let renewed = each_text(&renewed["recoveryCodes"]);
    assert!(!renewed.contains(&codes[1]));
    ada.answer(&format!("account second-factor remove {}", renewed[0]))
        .await;
    ada.answer(&login).await;
    assert_eq!(ada.answer("account show").await["secondFactor"], false);
}

/// Gives the account a device; its secret and the recovery codes.
pub(crate) async fn enrol(ada: &Operator<'_>) -> (SecretString, Vec<String>) {
    let password = ada.installation.file("second");
    let enrol = format!("account second-factor enrol --password-file {password}");
    let enrolled = ada.answer(&enrol).await;
    let secret = enrolled["secret"].as_str().expect("a secret");
    ada.installation.keep(secret);
    assert!(enrolled["uri"].as_str().expect("a URI").contains(secret));
    let secret = SecretString::from(secret);
    let code = device::code(&secret, SystemTime::now());
    let confirm = format!("account second-factor confirm {}", code.expose_secret());
    let confirmed = ada.answer(&confirm).await;
    (secret, each_text(&confirmed["recoveryCodes"]))
}

fn each_text(codes: &serde_json::Value) -> Vec<String> {
    let text = |code: &serde_json::Value| code.as_str().expect("a code").to_owned();
    list(codes).iter().map(text).collect()
}

pub(crate) async fn a_person_signs_out(ada: &Operator<'_>) {
    assert_eq!(ada.answer("logout").await["ended"], true);
    assert_eq!(ada.answer("logout").await["ended"], false);
    ada.refused(2, "xylem login", "account show").await;
}
