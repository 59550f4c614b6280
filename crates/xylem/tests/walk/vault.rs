//! Keys, backups, the doctor, and coming back from a backup.

use crate::installation::{Installation, Operator, Server, list, newest, until};
use serde_json::Value;
use std::fs;

pub(crate) async fn makes_the_keys_of_backups(installation: &Installation) {
    let admin = installation.admin();
    let to = installation.file("backup.key");
    let line = format!("vault key --to {to}");
    let made = admin.answer(&line).await;
    let public = made["publicKey"].as_str().expect("a key");
    installation.write("backup.public", public);
    let private = installation.read("backup.key");
    installation.keep(&private);
    assert!(!made.to_string().contains(&private));
    admin.refused(1, "backup.key", &line).await;
    assert_eq!(installation.read("backup.key"), private);
}

pub(crate) async fn replaces_its_keys(admin: &Operator<'_>) {
    let issuer = admin.answer("vault rotate-key issuer").await;
    assert!(
        issuer["keyId"].is_string() && issuer["trees"] == 1,
        "{issuer}"
    );
    let signing = admin.answer("vault rotate-key signing").await;
    let at_once = admin.answer("vault rotate-key signing --compromised").await;
    assert_ne!(signing["keyId"], at_once["keyId"]);
    let rewrapped = admin.answer("vault rewrap").await;
    assert!(rewrapped["currentKeyId"].is_string(), "{rewrapped}");
    assert_eq!(
        (&rewrapped["remaining"], &rewrapped["removable"]),
        (&0.into(), &Value::Array(vec![]))
    );
    admin
        .refused(4, "no such restore", "vault confirm --reason x")
        .await;
}

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let found = list(&report["checks"])
        .iter()
        .find(|check| check["check"] == name);
    found.unwrap_or_else(|| panic!("no check {name}: {report}"))
}

/// Whoever asks, with a key or signed in.
pub(crate) async fn finds_everything_well(
    admin: &Operator<'_>,
    ada: &Operator<'_>,
    server: &Server<'_>,
) {
    let well = |report: &Value| report["ok"] == true;
    let report = until(admin, "doctor", well).await;
    let approvals = check(&report, "server: approvals");
    assert!(
        approvals["detail"]
            .as_str()
            .expect("text")
            .contains("somebody other"),
        "{approvals}"
    );
    let policies = check(&report, "policies");
    assert_eq!(
        (&policies["verdict"], &policies["detail"]),
        (&"ok".into(), &"2 hold".into())
    );

    let temporal = server.installation.temporal();
    let line = format!("doctor --temporal-address {temporal}");
    let report = ada.answer(&line).await;
    let who = &check(&report, "authentication")["detail"];
    assert_eq!(who, "ada as admin", "{report}");
    let queue = format!("{line} --task-queue nobodys");
    let told = admin.refused(1, "1 check failed", &queue).await;
    let report: Value = serde_json::from_str(&told).expect("JSON alone");
    assert_eq!(check(&report, "worker")["verdict"], "fail");
}

pub(crate) async fn backs_up(admin: &Operator<'_>) {
    let made = admin.answer("vault backup").await;
    let file = newest(&admin.installation.file("backups"));
    assert_eq!(made["file"], file.to_str().expect("text"));
    let bytes = fs::metadata(&file).expect("a file").len();
    assert_eq!(made["bytes"], bytes.to_string());
    let report = admin.answer("doctor").await;
    assert_eq!(check(&report, "server: backup")["verdict"], "ok");
}

/// Into another data directory: who was retired since is back, and no token before somebody confirms.
pub(crate) async fn comes_back(installation: &Installation, admin: &Operator<'_>) {
    let backup = newest(&installation.file("backups"));
    let (backup, key) = (backup.display(), installation.file("backup.key"));
    let to = installation.file("restored");
    let restore = format!("vault restore {backup} --key-file {key} --data-dir {to}");
    admin.refused(1, "no key-encryption key", &restore).await;
    fs::create_dir_all(installation.file("restored/keys")).expect("made");
    let kek = installation.read("data/keys/kek");
    installation.write("restored/keys/kek", &kek);
    let settings = fs::read_to_string(installation.file("data/server.toml")).expect("settings");
    installation.write("restored/server.toml", &settings);
    let other = installation.file("acme.value");
    let wrong = format!("vault restore {backup} --key-file {other} --data-dir {to}");
    admin.refused(2, "xylem-backup-private", &wrong).await;
    let restored = admin.answer(&restore).await;
    assert!(restored["rows"].as_u64() > Some(100), "{restored}");
    assert_eq!(
        restored["adminKeyFile"],
        installation.file("restored/admin.key")
    );
    admin.refused(1, "not empty", &restore).await;

    let server = installation.serve("restored").await;
    let admin = installation.admin_of("restored");
    let agents = admin.answer("agent list").await;
    let heir = list(&agents).iter().find(|agent| agent["name"] == "heir");
    assert_eq!(heir.expect("one that is back").get("retiredAt"), None);
    server.with_key("heir-2.key").answer("account show").await;
    let held = admin.refused(1, "check", "doctor").await;
    assert!(held.contains("vault confirm"), "{held}");
    let confirm = "vault confirm --reason 'retired the heir again'";
    assert_eq!(admin.answer(confirm).await["confirmed"], true);
    let well = until(&admin, "doctor", |report| report["ok"] == true).await;
    let mut told = list(&well["checks"]).iter();
    assert!(
        !told.any(|it| it["check"] == "server: restore" && it["verdict"] != "ok"),
        "{well}"
    );
    assert_eq!(admin.answer("audit verify").await["intact"], true);
    server.stop().await;
}
