//! Credentials whose secret a file or a command gives.

use crate::common::{self, Stack, id, start, tree};
use secrecy::SecretString;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};
use xylem_client::{Client, Error, StartTree, v1};
use xylem_control::{CredentialProviders, ProviderFields};
use xylem_vault::Asker;

/// A control plane with a file and with a command that prints it.
struct Scene {
    stack: Stack,
    admin: Client,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("value");
        let fields = serde_json::json!({
            "file": [{"name": "file", "path": file}],
            "command": [{"name": "command", "command": ["/bin/cat", file], "format": "json"}],
        });
        let fields: ProviderFields = serde_json::from_value(fields).expect("sound");
        let providers = CredentialProviders::try_from(fields).expect("sound");
        let stack = Stack::with(|settings| settings.credential_providers = providers).await;
        stack.worker().await;
        stack.tool().await;
        let admin = stack.admin().await;
        Self {
            stack,
            admin,
            file,
            _folder: folder,
        }
    }

    async fn add(&self, provider: &str) -> Result<v1::Credential, Error> {
        self.admin
            .create_credential(new(provider), &SecretString::default())
            .await
    }

    /// A tree that starts with it.
    async fn tree(&self) {
        let binding = v1::BindCredentialRequest {
            name: "acme".to_owned(),
            workflow_type: "Train".to_owned(),
            ..v1::BindCredentialRequest::default()
        };
        self.admin.bind_credential(binding).await.expect("bound");
        let bare = StartTree {
            tokens: Vec::new(),
            ..start("train")
        };
        self.admin.start_tree(bare).await.expect("a tree");
    }

    async fn shown(&self) -> v1::Credential {
        self.admin.get_credential("acme").await.expect("shown")
    }

    async fn later(&self, seconds: u64) {
        self.stack.clock.advance(Duration::from_secs(seconds));
        self.stack.sweep().await;
    }

    /// A value as JSON that ends so many seconds from now, by the control plane's clock.
    fn ending(&self, value: &str, seconds: u64) {
        let at = xylem_vault::Clock::now(&*self.stack.clock) + Duration::from_secs(seconds);
        let at = humantime::format_rfc3339_seconds(at);
        write(
            &self.file,
            &format!(r#"{{"token":"{value}","expiresAt":"{at}"}}"#),
        );
    }
}

fn new(provider: &str) -> v1::CreateCredentialRequest {
    v1::CreateCredentialRequest {
        name: "acme".to_owned(),
        audiences: vec![common::API.to_owned()],
        provider: Some(v1::CredentialProvider {
            name: provider.to_owned(),
            ..v1::CredentialProvider::default()
        }),
        ..v1::CreateCredentialRequest::default()
    }
}

fn write(file: &Path, text: &str) {
    fs::write(file, text).expect("written");
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("its own");
}

fn reason<T: std::fmt::Debug>(answer: Result<T, Error>) -> String {
    let error = answer.expect_err("refused");
    assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    error.reason().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_file_is_looked_at_every_five_minutes_and_what_is_new_reaches_every_tree() {
    let scene = Scene::new().await;
    write(&scene.file, "canary-value-0001\n");
    let made = scene.add("file").await.expect("made");
    assert!(!format!("{made:?}").contains("canary"), "{made:?}");
    scene.tree().await;
    // The same value is no new version, however often it is looked at.
    scene.later(301).await;
    scene.later(301).await;
    assert_eq!(scene.shown().await.versions.len(), 1);
    write(&scene.file, "canary-value-0002\n");
    scene.later(200).await;
    assert_eq!(scene.shown().await.versions.len(), 1);
    scene.later(101).await;
    let now = scene.shown().await;
    assert_eq!((now.versions.len(), now.trees_behind), (2, 0));
    assert_eq!(now.state(), v1::CredentialState::Ok);
    assert_eq!(now.not_obtained_because, "");
    let held = scene
        .admin
        .token_status(&tree("train"), Some(&id("default")))
        .await;
    assert_eq!(held.expect("told").len(), 2);
}

#[tokio::test]
async fn a_command_is_asked_in_the_last_third_and_again_until_it_gives_something_new() {
    let scene = Scene::new().await;
    scene.ending("canary-value-0001", 3_600);
    scene.add("command").await.expect("made");
    scene.later(2_399).await;
    assert_eq!(scene.shown().await.not_obtained_because, "");
    // It still prints what it has printed.
    scene.later(1).await;
    let late = scene.shown().await;
    assert_eq!(late.not_obtained_because, "value_unchanged");
    assert_eq!(late.versions.len(), 1);
    // It fails; and that the value ends is an alert before it does.
    fs::remove_file(&scene.file).expect("removed");
    scene.later(301).await;
    assert_eq!(scene.shown().await.not_obtained_because, "command_failed");
    scene.later(301).await;
    assert_eq!(scene.stack.control.watch().await.expect("watched"), 1);
    let listed = scene.admin.list_alerts(v1::ListAlertsRequest::default());
    let alert = listed.await.expect("listed").alerts.remove(0);
    assert_eq!(
        (alert.rule.as_str(), alert.subject.as_str()),
        ("credential_expiring", "credential:acme")
    );
    assert!(alert.numbers["ends_in_s"] > 0, "{alert:?}");
    let ending = scene.shown().await;
    assert_eq!(ending.state(), v1::CredentialState::Expiring);
    scene.ending("canary-value-0002", 3_600);
    scene.later(300).await;
    let mended = scene.shown().await;
    assert_eq!(
        (mended.versions.len(), mended.state()),
        (2, v1::CredentialState::Ok)
    );
    assert_eq!(mended.not_obtained_because, "");
}

#[tokio::test]
async fn a_value_that_lives_longer_lives_longer_in_every_tree() {
    let scene = Scene::new().await;
    scene.ending("canary-value-0001", 3_600);
    scene.add("command").await.expect("made");
    scene.tree().await;
    let before = scene.shown().await.expires_at.expect("an end");
    scene.ending("canary-value-0001", 6_000);
    scene.later(2_400).await;
    let now = scene.shown().await;
    assert_eq!((now.versions.len(), now.trees_behind), (1, 0));
    assert_eq!(now.state(), v1::CredentialState::Ok);
    assert_eq!(now.not_obtained_because, "");
    let ends = now.expires_at.expect("an end");
    assert_eq!(ends.seconds, before.seconds + 2_400);
    let held = scene
        .admin
        .token_status(&tree("train"), Some(&id("default")))
        .await;
    let held = held.expect("told");
    assert_eq!(held.len(), 1);
    let of_copy = held.first().and_then(|version| version.expires_at);
    assert_eq!(of_copy.map(|at| at.seconds), Some(ends.seconds));
}

#[tokio::test]
async fn a_file_that_is_behind_brings_nothing_back_unless_somebody_asks() {
    let scene = Scene::new().await;
    write(&scene.file, "canary-value-0001\n");
    scene.add("file").await.expect("made");
    write(&scene.file, "canary-value-0002\n");
    scene.later(301).await;
    write(&scene.file, "canary-value-0001\n");
    scene.later(301).await;
    let kept = scene.shown().await;
    assert_eq!(kept.versions.len(), 2);
    assert_eq!(kept.not_obtained_because, "value_superseded");
    let renewed = scene.admin.renew_credential("acme").await.expect("renewed");
    assert_eq!(renewed.versions.len(), 3);
    assert_eq!(renewed.not_obtained_because, "");
}

#[tokio::test]
async fn a_value_that_was_revoked_is_not_taken_again() {
    let scene = Scene::new().await;
    write(&scene.file, "canary-value-0001\n");
    scene.add("file").await.expect("made");
    let revocation = v1::RevokeCredentialRequest {
        name: "acme".to_owned(),
        version: 1,
        force: true,
        ..v1::RevokeCredentialRequest::default()
    };
    scene
        .admin
        .revoke_credential(revocation)
        .await
        .expect("revoked");
    assert_eq!(
        reason(scene.admin.renew_credential("acme").await),
        "value_revoked"
    );
    write(&scene.file, "canary-value-0002\n");
    let renewed = scene.admin.renew_credential("acme").await.expect("renewed");
    assert_eq!(renewed.state(), v1::CredentialState::Ok);
}

#[tokio::test]
async fn what_cannot_be_given_is_not_stored() {
    let scene = Scene::new().await;
    assert_eq!(reason(scene.add("file").await), "file_not_read");
    fs::write(&scene.file, "canary-value-0001\n").expect("written");
    fs::set_permissions(&scene.file, fs::Permissions::from_mode(0o644)).expect("open to all");
    assert_eq!(reason(scene.add("file").await), "file_refused");
    write(&scene.file, "canary-value-0001\n");
    assert_eq!(reason(scene.add("command").await), "value_malformed");
    assert_eq!(reason(scene.add("nobody").await), "provider_unknown");
    assert_eq!(reason(scene.add("No body").await), "invalid");
    let secret = SecretString::from("canary-given-0001");
    let given = scene.admin.create_credential(new("file"), &secret).await;
    assert_eq!(reason(given), "invalid");
    let both = v1::CreateCredentialRequest {
        oauth: Some(v1::OAuth::default()),
        ..new("file")
    };
    let given = scene.admin.create_credential(both, &secret).await;
    assert_eq!(reason(given), "invalid");
    assert_eq!(
        reason(scene.admin.get_credential("acme").await),
        "not_found"
    );
    scene.add("file").await.expect("made");
    let rotation = v1::RotateCredentialRequest {
        name: "acme".to_owned(),
        ..v1::RotateCredentialRequest::default()
    };
    let rotated = scene.admin.rotate_credential(rotation, &secret).await;
    assert_eq!(reason(rotated), "invalid");
}

#[tokio::test]
async fn whoever_dies_while_asking_is_followed_by_somebody_else_who_asks_once() {
    let scene = Scene::new().await;
    scene.ending("canary-value-0001", 3_600);
    scene.add("command").await.expect("made");
    scene.ending("canary-value-0002", 7_200);
    scene.stack.clock.advance(Duration::from_secs(2_400));
    // It has begun, and nothing more is heard of it.
    let vault = &scene.stack.vault;
    let seen = Some(xylem_ids::Version(1));
    let begun = vault
        .begin_renewal(&common::namespace(), &id("acme"), seen, Asker::Somebody)
        .await;
    assert!(begun.expect("begun").is_some());
    scene.stack.sweep().await;
    assert_eq!(
        reason(scene.admin.renew_credential("acme").await),
        "renewing"
    );
    assert_eq!(scene.shown().await.versions.len(), 1);
    scene.later(120).await;
    scene.later(1).await;
    assert_eq!(scene.shown().await.versions.len(), 2);
}
