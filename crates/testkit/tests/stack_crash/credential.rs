//! Stored credentials whose next values are being obtained when the control plane is killed.

use crate::{
    provider::Provider,
    scene::{Installation, Scene, tree},
};
use anyhow::Context;
use serde_json::{Value, json};
use std::{
    fs,
    future::ready,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};
use xylem_client::{Client, v1};
use xylem_testkit::{branch, eventually, query, signal, working};

/// Where each credential is when the control plane is killed: its provider is being asked; the token
/// that it gave is being tried; it has given one that is not stored yet; one of two trees has got it.
const FROM_A_PROVIDER: [&str; 4] = ["asking", "trying", "answered", "spreading"];
/// The command that gives it runs.
const FROM_A_COMMAND: &str = "running";
const TREES: [&str; 2] = ["one", "two"];

const CLIENT_SECRET: &str = "canary-client-secret-4f2a";

#[tokio::test]
async fn a_control_plane_killed_in_the_middle_of_renewals_loses_no_credential() -> anyhow::Result<()>
{
    let installation = Installation::for_tests().await?;
    let folder = installation.beside("command");
    offer_command(&installation, &folder)?;
    let (scene, server, control) = Scene::of(installation, Duration::from_secs(5)).await?;
    let provider = Provider::start().await?;
    for name in FROM_A_PROVIDER {
        let tokens = (1..=3).map(|number| scene.acme.issue(&format!("{name}@{number}")));
        provider.add(name, tokens.collect());
        add(&scene, &control, &provider, name).await?;
    }
    write(&folder.join("value"), &scene.acme.issue("running@1"))?;
    add_command(&scene, &control).await?;
    for id in TREES {
        let input = working(vec![branch("a", Vec::new())]);
        control.start_tree(tree(id, "ToolTree", &input)?).await?;
    }
    scene.more_calls("spreading@1", 4).await?;

    let killing = begin_everything(&scene, &control, &provider, &folder).await?;
    drop(server);
    let killed = Instant::now();
    // It would ask again on behalf of a control plane that is gone.
    killing.abort();
    as_it_was_left(&scene, &folder).await?;
    provider.answer_all();
    write(&folder.join("value"), &scene.acme.issue("running@2"))?;

    let (server, control) = scene.serve().await?;
    for name in ["asking", "trying", "spreading", FROM_A_COMMAND] {
        is_at(&control, name, 2).await?;
        told(&format!("{name}: {:?} after the kill", killed.elapsed()));
    }
    // What was given to a control plane that is gone is lost where it had a life of its own only: a
    // refresh token was kept before what came with it was tried.
    for (name, asked, given) in [("asking", 3, 2), ("trying", 3, 3), ("spreading", 2, 2)] {
        let client = provider.client(name)?;
        assert_eq!((client.asked, client.given), (asked, given), "{name}");
    }
    is_broken_and_mended(&control, &provider).await?;
    held_everywhere(&scene).await?;
    told(&format!("all: {:?} after the kill", killed.elapsed()));
    scene.more_calls("spreading@2", 8).await?;
    nothing_failed(&scene, &control).await?;
    drop(server);
    Ok(())
}

/// Brings every credential to where it is to be when the control plane is killed.
async fn begin_everything(
    scene: &Scene,
    control: &Client,
    provider: &Provider,
    folder: &Path,
) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let installation = &scene.installation;
    // Nothing makes the second version of the one, and nothing brings that of the other to a second tree.
    let stored = "BEFORE INSERT ON credential_versions
        WHEN new.name = 'answered' AND new.version = 2";
    installation.stick("stored", stored).await?;
    let brought = "BEFORE INSERT ON versions
        WHEN new.credential = 'spreading' AND new.credential_version = 2 AND 1 =
            (SELECT count(*) FROM versions WHERE credential = 'spreading' AND credential_version = 2)";
    installation.stick("brought", brought).await?;

    provider.silence("asking")?;
    let answer = provider.silence("answered")?;
    let tried = provider.silence("trying")?;
    fs::write(folder.join("hang"), "")?;
    for name in ["asking", "answered", "trying", FROM_A_COMMAND] {
        let keeper = format!("xylem-keeper/{name}");
        signal(&scene.temporal().client(), &keeper, "renewNow", Vec::new()).await?;
    }
    seen("they are asked", || {
        let asked = |name: &str| -> anyhow::Result<bool> { Ok(provider.client(name)?.asked == 2) };
        Ok(asked("asking")? && asked("answered")? && asked("trying")? && pid(folder).is_some())
    })
    .await?;
    // It answers, and then the probe is what is not answered.
    tried.notify_one();
    seen("a token is tried", || {
        Ok(provider.client("trying")?.tried == 2)
    })
    .await?;

    let renewing = control.clone();
    let spreading = tokio::spawn(async move {
        let _ = renewing.renew_credential("spreading").await;
    });
    let given = || installation.count(GIVEN);
    eventually("one tree has got it", given, |given| *given == 1).await?;
    answer.notify_one();
    seen("it has answered", || {
        Ok(provider.client("answered")?.given == 2)
    })
    .await?;
    Ok(spreading)
}

const GIVEN: &str = "SELECT count(*) FROM versions
    WHERE credential = 'spreading' AND credential_version = 2";

async fn seen(what: &str, is_so: impl Fn() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    eventually(what, || ready(is_so()), |so| *so).await?;
    Ok(())
}

/// The database holds what was committed and nothing else, and the command has ended.
async fn as_it_was_left(scene: &Scene, folder: &Path) -> anyhow::Result<()> {
    let installation = &scene.installation;
    installation.unstick("stored").await?;
    installation.unstick("brought").await?;
    let second = "SELECT count(*) FROM credential_versions WHERE version = 2";
    assert_eq!(
        installation.count(second).await?,
        1,
        "only that of spreading"
    );
    assert_eq!(installation.count(GIVEN).await?, 1);
    no_half_written_secret(installation).await?;

    fs::remove_file(folder.join("hang"))?;
    let status = pid(folder).context("no command")?;
    let status = Path::new("/proc").join(status).join("status");
    let state = || Ok(fs::read_to_string(&status).unwrap_or_default());
    let gone = |state: &String| state.is_empty() || state.contains("State:\tZ");
    eventually("the command has ended", || ready(state()), gone).await?;
    Ok(())
}

/// Each ciphertext belongs to something, and each that something names is there.
async fn no_half_written_secret(installation: &Installation) -> anyhow::Result<()> {
    const NAMED: &str = "SELECT secret_id AS id FROM versions UNION SELECT secret_id FROM credential_versions
        UNION SELECT client_id FROM credential_sources UNION SELECT refresh_id FROM credential_sources";
    let stray =
        "SELECT count(*) FROM secrets WHERE id NOT IN (SELECT id FROM named WHERE id IS NOT NULL)";
    let missing = "SELECT count(*) FROM named WHERE id NOT IN (SELECT id FROM secrets)";
    for counted in [stray, missing] {
        let sql = format!("WITH named AS ({NAMED}) {counted}");
        assert_eq!(installation.count(sql).await?, 0, "{counted}");
    }
    Ok(())
}

/// Waits until a credential has its versions up to this one, the last of them active, everywhere.
async fn is_at(control: &Client, name: &str, version: u32) -> anyhow::Result<()> {
    let shown = || async { Ok(control.get_credential(name).await?) };
    let is_there = |shown: &v1::Credential| {
        let versions = shown.versions.iter();
        let mut versions: Vec<_> = versions.map(|it| (it.version, it.state())).collect();
        versions.sort_unstable();
        let before = (1..version).map(|number| (number, v1::VersionState::Superseded));
        let all = before.chain([(version, v1::VersionState::Active)]);
        versions == all.collect::<Vec<_>>() && shown.trees_behind == 0
    };
    let shown = eventually(&format!("{name} is at {version}"), shown, is_there).await?;
    assert_eq!(shown.state(), v1::CredentialState::Ok, "{shown:?}");
    Ok(())
}

/// What the provider gave last has never been stored, and it takes nothing else: that is told, and an
/// administrator mends it.
async fn is_broken_and_mended(control: &Client, provider: &Provider) -> anyhow::Result<()> {
    let shown = || async { Ok(control.get_credential("answered").await?) };
    let is_broken = |shown: &v1::Credential| shown.state() == v1::CredentialState::Broken;
    let broken = eventually("it is broken", shown, is_broken).await?;
    assert_eq!(broken.broken_because, "invalid_grant");
    assert_eq!(broken.versions.len(), 1, "{broken:?}");
    let alerts = || async { Ok(control.list_alerts(Default::default()).await?.alerts) };
    let is_told = |alerts: &Vec<v1::Alert>| {
        let mut alerts = alerts.iter();
        alerts.any(|it| it.rule == "credential_broken" && it.subject == "credential:answered")
    };
    eventually("it is told", alerts, is_told).await?;
    let rotation = v1::RotateCredentialRequest {
        name: "answered".to_owned(),
        refresh_token: provider.client("answered")?.refresh_token("answered"),
        ..v1::RotateCredentialRequest::default()
    };
    let secret = CLIENT_SECRET.into();
    control.rotate_credential(rotation, &secret).await?;
    is_at(control, "answered", 2).await
}

/// Every node holds the second version of what it works with.
async fn held_everywhere(scene: &Scene) -> anyhow::Result<()> {
    for id in ["one", "one/a", "two", "two/a"] {
        let held = || async {
            let status = query(&scene.temporal().client(), id, "apiToken").await?;
            Ok(status["slots"]["default"]["version"].clone())
        };
        let what = format!("{id} holds the second version");
        eventually(&what, held, |version: &Value| *version == json!(2)).await?;
    }
    Ok(())
}

async fn nothing_failed(scene: &Scene, control: &Client) -> anyhow::Result<()> {
    assert_eq!(scene.refused(), 0, "{:?}", scene.acme.stats());
    let usage = control.list_usage(Default::default()).await?.usage;
    let failed = usage.iter().map(|usage| usage.failures + usage.denials);
    assert_eq!(failed.sum::<u64>(), 0, "{usage:?}");
    no_half_written_secret(&scene.installation).await
}

/// Trees work with what is being spread.
fn slot_of(name: &str) -> &str {
    if name == "spreading" { "default" } else { name }
}

async fn bind(control: &Client, name: &str) -> anyhow::Result<()> {
    let binding = v1::BindCredentialRequest {
        name: name.to_owned(),
        workflow_type: "ToolTree".to_owned(),
        slot: slot_of(name).to_owned(),
    };
    control.bind_credential(binding).await?;
    Ok(())
}

async fn add(
    scene: &Scene,
    control: &Client,
    provider: &Provider,
    name: &str,
) -> anyhow::Result<()> {
    let probe = format!("/probe/{name}");
    let made = v1::CreateCredentialRequest {
        name: name.to_owned(),
        audiences: vec![scene.acme.url(), provider.url("")],
        refresh_token: provider.client(name)?.refresh_token(name),
        oauth: Some(v1::OAuth {
            token_url: provider.url(&format!("/token/{name}")),
            client_id: "xylem".to_owned(),
            probe_url: match name {
                "trying" => provider.url(&probe),
                _ => String::new(),
            },
            ..v1::OAuth::default()
        }),
        ..v1::CreateCredentialRequest::default()
    };
    let secret = CLIENT_SECRET.into();
    control.create_credential(made, &secret).await?;
    bind(control, name).await
}

async fn add_command(scene: &Scene, control: &Client) -> anyhow::Result<()> {
    let made = v1::CreateCredentialRequest {
        name: FROM_A_COMMAND.to_owned(),
        audiences: vec![scene.acme.url()],
        provider: Some(v1::CredentialProvider {
            name: FROM_A_COMMAND.to_owned(),
            ..v1::CredentialProvider::default()
        }),
        ..v1::CreateCredentialRequest::default()
    };
    control.create_credential(made, &"".into()).await?;
    bind(control, FROM_A_COMMAND).await
}

/// A command that prints a value; where `hang` is there, it says who it is and prints nothing.
fn offer_command(installation: &Installation, folder: &Path) -> anyhow::Result<()> {
    fs::create_dir(folder)?;
    let script = "cd \"$0\"; [ ! -e hang ] || { echo $$ > pid; sleep 600; }; cat value";
    let providers = format!(
        "[[command]]\nname = \"{FROM_A_COMMAND}\"\ncommand = [\"/bin/sh\", \"-c\", '{script}', '{}']\n",
        folder.display()
    );
    write(&installation.beside("providers.toml"), &providers)
}

fn pid(folder: &Path) -> Option<String> {
    let written = fs::read_to_string(folder.join("pid")).ok()?;
    Some(written.strip_suffix('\n')?.to_owned())
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(file, text)?;
    Ok(fs::set_permissions(
        file,
        fs::Permissions::from_mode(0o600),
    )?)
}

/// How long it took, for whoever wants to know.
fn told(what: &str) {
    let _ = writeln!(io::stderr(), "{what}");
}
