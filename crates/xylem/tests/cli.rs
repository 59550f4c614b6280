//! The `xylem` program as a shell sees it: exit status, standard output, standard error.

mod support {
    pub(crate) mod command;
    pub(crate) mod plane;
}

use support::{command::Xylem, plane::ControlPlane};
use tokio::net::TcpSocket;
use tonic::Code;
use xylem_proto::v1;

const TOKEN: &str = "tok-canary-0123456789";

fn at(address: &str) -> Xylem {
    Xylem::default()
        .variable("XYLEM_ADDRESS", address)
        .variable("XYLEM_API_KEY", "xyk_test")
}

#[tokio::test]
async fn every_refusal_has_its_exit_status() {
    for (code, status) in [
        (Code::Internal, 1),
        (Code::AlreadyExists, 1),
        (Code::InvalidArgument, 2),
        (Code::PermissionDenied, 3),
        (Code::Unauthenticated, 3),
        (Code::FailedPrecondition, 3),
        (Code::NotFound, 4),
        (Code::Unavailable, 5),
        (Code::ResourceExhausted, 5),
    ] {
        let server = ControlPlane::refusing(code).await;
        let ran = at(&server.address).run(&["tree", "show", "train-1"]).await;
        assert_eq!(ran.status, status, "{code:?}: {}", ran.err);
        assert!(ran.out.is_empty(), "{}", ran.out);
        assert!(ran.err.starts_with("error: "), "{}", ran.err);
        assert!(!ran.err.contains("Status {"), "{}", ran.err);
    }
}

#[tokio::test]
async fn nobody_there_is_unavailable() {
    // Bound and not listening: nobody else is given the port meanwhile.
    let socket = TcpSocket::new_v4().expect("a socket");
    let anywhere = "127.0.0.1:0".parse().expect("an address");
    socket.bind(anywhere).expect("a port");
    let port = socket.local_addr().expect("its address").port();
    let xylem = at(&format!("http://127.0.0.1:{port}"));
    let ran = xylem.run(&["token", "status", "train-1"]).await;
    assert_eq!(ran.status, 5);
    assert!(ran.err.contains("xylem dev"), "{}", ran.err);
}

#[tokio::test]
async fn another_machine_is_refused_before_a_byte_is_sent() {
    let ran = at("http://192.0.2.1:7243").run(&["tree", "list"]).await;
    assert_eq!(ran.status, 2);
    assert!(ran.err.contains("loopback"), "{}", ran.err);
}

#[tokio::test]
async fn wrong_usage_is_status_2_and_help_is_an_answer() {
    let xylem = at("http://127.0.0.1:9");
    for arguments in [
        &["tree"][..],
        &["tree", "show"],
        &["tree", "start", "--workflow-id", "a", "--type", "T"],
        &["token", "rotate", "train-1", "--token", TOKEN],
        &["token", "rotate", "train-1", TOKEN],
        &["token", "rotate", "train-1", "--timeout", "soon", "--wait"],
        &["token", "set", "train-1", "--token-file", "token"],
        &["token", "status", "train-1", "--slot", "Not A Slot"],
        &["nonsense"],
    ] {
        let ran = xylem.run(arguments).await;
        assert_eq!(ran.status, 2, "{arguments:?}: {}", ran.err);
        assert!(ran.out.is_empty(), "{arguments:?}");
    }
    let ran = xylem.run(&["token", "rotate", "--help"]).await;
    assert_eq!(ran.status, 0);
    assert!(ran.out.contains("--token-stdin"), "{}", ran.out);
}

#[tokio::test]
async fn without_a_source_no_token_is_read_from_a_pipe() {
    let server = ControlPlane::rotating().await;
    let xylem = at(&server.address).standard_input(TOKEN);
    let ran = xylem.run(&["token", "rotate", "train-1"]).await;
    assert_eq!(ran.status, 2);
    assert!(ran.err.contains("--token-stdin"), "{}", ran.err);
    assert!(server.tokens().is_empty());
}

#[tokio::test]
async fn a_token_is_read_from_every_source_and_shown_nowhere() {
    let guard = tempfile::tempdir().expect("a directory");
    let file = guard.path().join("v2.token");
    std::fs::write(&file, format!("{TOKEN}\n")).expect("written");
    let file = file.to_str().expect("text");
    for arguments in [
        &["--token-stdin"][..],
        &["--token-file", "-"],
        &["--token-file", file],
        &["--token-env", "NEXT_TOKEN"],
    ] {
        let server = ControlPlane::rotating().await;
        let xylem = at(&server.address)
            .standard_input(&format!("{TOKEN}\n"))
            .variable("NEXT_TOKEN", TOKEN);
        let ran = xylem
            .run(&[&["token", "rotate", "train-1"], arguments].concat())
            .await;
        assert_eq!(ran.status, 0, "{}", ran.err);
        assert_eq!(server.tokens(), [TOKEN], "{arguments:?}");
        assert!(!format!("{}{}", ran.out, ran.err).contains("canary"));
        assert!(ran.out.contains("default@2 is active"), "{}", ran.out);
    }
}

#[tokio::test]
async fn a_cascade_that_does_not_end_is_reported_with_its_stragglers() {
    let server = ControlPlane::rotating().await;
    let arguments = ["token", "rotate", "train-1", "--token-stdin", "--wait"];
    // All of it passes, and the tree must have been walked once by then.
    let xylem = at(&server.address).standard_input(TOKEN);
    let ran = xylem
        .run(&[&arguments[..], &["--timeout", "5s"]].concat())
        .await;
    assert_eq!(ran.status, 1, "{}", ran.err);
    assert!(ran.out.contains("stage-1  1        asleep"), "{}", ran.out);
    assert!(ran.err.contains("sweep"), "{}", ran.err);

    let xylem = at(&server.address).standard_input(TOKEN);
    let ran = xylem
        .run(&[&arguments[..], &["--timeout", "5s", "--output", "json"]].concat())
        .await;
    assert_eq!(ran.status, 1);
    let answer: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON alone");
    assert_eq!(answer["cascade"]["converged"], false);
    assert_eq!(answer["cascade"]["stragglers"][0]["workflowId"], "stage-1");
    assert_eq!(answer["change"]["version"]["order"]["version"], 2);
}

#[tokio::test]
async fn a_cascade_that_ends_is_status_0_and_silent_in_a_pipe() {
    let server = ControlPlane::rotating().await;
    server.wake();
    let xylem = at(&server.address).standard_input(TOKEN);
    let ran = xylem
        .run(&["token", "rotate", "train-1", "--token-stdin", "--wait"])
        .await;
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert!(ran.out.contains("converged"), "{}", ran.out);
    assert!(!ran.err.contains('\r'), "a progress bar in a pipe");
}

#[tokio::test]
async fn the_gates_answer_is_shown() {
    let server = ControlPlane::rotating().await;
    let xylem = at(&server.address);
    let ran = xylem
        .run(&["token", "revoke", "train-1", "--version", "1"])
        .await;
    assert_eq!(ran.status, 3);
    assert!(ran.err.contains("stage-1 is behind"), "{}", ran.err);
    assert!(ran.err.contains("--force"), "{}", ran.err);
}

#[tokio::test]
async fn a_tree_that_does_not_end_is_not_stopped() {
    let server = ControlPlane::rotating().await;
    let xylem = at(&server.address);
    let ran = xylem
        .run(&["tree", "stop", "train-1", "--output", "json"])
        .await;
    assert_eq!(ran.status, 1, "{}", ran.err);
    let answer: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON alone");
    assert_eq!(answer["stillRunning"], 1);
    assert!(ran.err.contains("1 workflow still runs"), "{}", ran.err);
    assert!(ran.err.contains("--terminate"), "{}", ran.err);

    let ran = xylem.run(&["tree", "stop", "train-1", "--terminate"]).await;
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert!(ran.out.contains("2 workflows terminated"), "{}", ran.out);
}

#[tokio::test]
async fn whoever_reads_no_further_is_told_nothing() {
    let server = ControlPlane::rotating().await;
    let stop = ["tree", "stop", "train-1", "--terminate"];
    let ran = at(&server.address).run_unread(&stop).await;
    assert_eq!(ran.status, 141, "{}", ran.err);
    assert!(!ran.err.contains("error"), "{}", ran.err);
}

/// A step that leaves `remaining` keys, and goes on after `next`.
fn step(rewrapped: u32, remaining: u32, next: &str) -> v1::RewrapKeysResponse {
    v1::RewrapKeysResponse {
        current_key_id: "k2".to_owned(),
        rewrapped,
        remaining,
        older: vec![v1::OlderKey {
            key_id: "k1".to_owned(),
            wraps: remaining,
            missing: false,
        }],
        unopened: Vec::new(),
        next_key_id: next.to_owned(),
    }
}

#[tokio::test]
async fn keys_are_wrapped_anew_step_by_step_until_none_is_left() {
    let steps = || vec![step(200, 101, "a"), step(100, 1, "b"), step(1, 0, "")];
    let server = ControlPlane::rewrapping(steps()).await;
    let ran = at(&server.address).run(&["vault", "rewrap"]).await;
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
    assert!(
        ran.out.contains("301 stored keys were wrapped under k2"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("these any more: k1"), "{}", ran.out);

    let server = ControlPlane::rewrapping(steps()).await;
    let ran = at(&server.address)
        .run(&["vault", "rewrap", "--output", "json"])
        .await;
    let answer: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON alone");
    assert_eq!(
        (&answer["rewrapped"], &answer["remaining"]),
        (&301.into(), &0.into())
    );
    assert_eq!(answer["removable"], serde_json::json!(["k1"]));
    assert_eq!(answer["currentKeyId"], "k2");

    let server = ControlPlane::rewrapping(vec![step(0, 0, "")]).await;
    let ran = at(&server.address).run(&["vault", "rewrap"]).await;
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert!(
        ran.out.contains("nothing was left to wrap under k2"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("these any more: k1"), "{}", ran.out);
}

#[tokio::test]
async fn keys_that_an_older_one_wraps_again_or_that_do_not_open_are_a_failure() {
    // Somebody else wrapped one behind the place where the first step ended.
    let server = ControlPlane::rewrapping(vec![step(200, 1, "a"), step(1, 1, "")]).await;
    let ran = at(&server.address).run(&["vault", "rewrap"]).await;
    assert_eq!(ran.status, 1, "{}", ran.out);
    assert!(ran.out.contains("k1 still wraps 1"), "{}", ran.out);
    assert!(!ran.out.contains("these any more"), "{}", ran.out);
    assert!(ran.err.contains("same first line"), "{}", ran.err);

    let mut named = step(200, 2, "");
    let unopened = |id: &str, missing: &str, owner: &str| v1::UnopenedKey {
        key_id: id.to_owned(),
        missing_key_id: missing.to_owned(),
        owner: owner.to_owned(),
    };
    named.unopened = vec![
        unopened("edited", "", "tree:train-1"),
        unopened("other", "k3", "credential:acme"),
    ];
    let server = ControlPlane::rewrapping(vec![named]).await;
    let ran = at(&server.address).run(&["vault", "rewrap"]).await;
    assert_eq!(ran.status, 1, "{}", ran.out);
    for said in [
        "edited of tree:train-1 is not what",
        "other of credential:acme needs k3",
    ] {
        assert!(ran.out.contains(said), "{}", ran.out);
    }
    assert!(
        ran.err.contains("2 stored keys could not be opened"),
        "{}",
        ran.err
    );
}

#[tokio::test]
async fn a_doctor_without_anything_names_each_failure() {
    let guard = tempfile::tempdir().expect("a directory");
    let xylem = at("http://127.0.0.1:9")
        .variable("XYLEM_DATA_DIR", guard.path().to_str().expect("text"))
        .variable("TEMPORAL_ADDRESS", "127.0.0.1:9");
    let ran = xylem.run(&["doctor", "--output", "json"]).await;
    assert_eq!(ran.status, 1);
    let report: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON alone");
    assert_eq!(report["ok"], false);
    let failed: Vec<_> = report["checks"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|check| check["verdict"] == "fail")
        .map(|check| check["check"].as_str().expect("a name").to_owned())
        .collect();
    assert_eq!(failed, ["control plane", "Temporal"]);
}

#[tokio::test]
async fn dev_without_a_temporal_cli_says_where_to_get_it() {
    let guard = tempfile::tempdir().expect("a directory");
    let data = guard.path().to_str().expect("text");
    let xylem = at("http://127.0.0.1:9").variable("TEMPORAL_CLI", "/nowhere/temporal");
    let ran = xylem.run(&["dev", "--data-dir", data]).await;
    assert_eq!(ran.status, 5);
    assert!(ran.err.contains("docs.temporal.io"), "{}", ran.err);
}

#[tokio::test]
async fn an_installation_is_initialised_once() {
    let guard = tempfile::tempdir().expect("a directory");
    let data = guard.path().join("server");
    let arguments = ["server", "init", "--data-dir", data.to_str().expect("text")];
    let xylem = at("http://127.0.0.1:9");
    let ran = xylem.run(&arguments).await;
    assert_eq!(ran.status, 0, "{}", ran.err);
    let key = std::fs::read_to_string(data.join("admin.key")).expect("written");
    assert!(!format!("{}{}", ran.out, ran.err).contains(key.trim()));

    let ran = xylem.run(&arguments).await;
    assert_eq!(ran.status, 1);
    assert!(ran.err.contains("nothing was changed"), "{}", ran.err);
    let kept = std::fs::read_to_string(data.join("admin.key")).expect("still there");
    assert_eq!(key, kept);
}

#[tokio::test]
async fn an_installation_goes_by_the_settings_that_it_was_made_with() {
    let guard = tempfile::tempdir().expect("a directory");
    let path = |name: &str| guard.path().join(name).to_str().expect("text").to_owned();
    let data = path("server");
    let xylem = at("http://127.0.0.1:9");
    let init = [
        "server",
        "init",
        "--data-dir",
        &data,
        "--requests-per-agent=5",
    ];
    let ran = xylem.run(&init).await;
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert!(ran.out.contains("server.toml"), "{}", ran.out);
    let file = std::path::Path::new(&data).join("server.toml");
    let text = std::fs::read_to_string(&file).expect("written");
    assert!(text.contains("\nrequests_per_agent = 5\n"), "{text}");
    assert!(text.contains("\n# listen = "), "{text}");

    // It is read where nothing else is named.
    let check = ["server", "--check", "--data-dir", &data];
    let ran = xylem.run(&check).await;
    assert_eq!(ran.status, 0, "{}", ran.err);
    assert!(ran.out.contains("server.toml can be used"), "{}", ran.out);
    let other = path("other.toml");
    for (text, said) in [
        (
            "listn = \"127.0.0.1:1\"",
            "other.toml: line 1: there is no setting `listn`",
        ),
        ("\nlisten = \"canary\"", "other.toml: line 2: listen: "),
        ("listen = \"0.0.0.0:1\"", "without a certificate"),
        ("alerts = \"/nowhere\"", "/nowhere"),
        ("password_block_list = \"/nowhere\"", "/nowhere"),
        ("audit_archive = \"/nowhere\"", "the folder /nowhere"),
        ("audit_archive = \"/dev/null\"", "/dev/null is not a folder"),
        (
            "listen_cert = \"/nowhere\"\nlisten_key = \"/nowhere\"",
            "/nowhere",
        ),
    ] {
        std::fs::write(&other, text).expect("written");
        let named = [&check[..], &["--config", &other]].concat();
        let ran = xylem.run(&named).await;
        assert_ne!(ran.status, 0, "{text}");
        assert!(ran.err.contains(said), "{text}: {}", ran.err);
        assert!(!ran.err.contains("canary"), "{text}: {}", ran.err);
        // The command line goes before it.
        let ran = xylem
            .run(&[&named[..], &["--listen", "127.0.0.1:0"]].concat())
            .await;
        let about_listen = text.contains("\nlisten = \"canary") || text.starts_with("listen = ");
        assert_eq!(
            ran.status == 0,
            about_listen && !text.contains("canary"),
            "{text}: {}",
            ran.err
        );
    }
    let ran = xylem
        .run(&["server", "--check", "--data-dir", &path("empty")])
        .await;
    assert!(ran.err.contains("xylem server init"), "{}", ran.err);
}

#[tokio::test]
async fn a_restore_goes_by_the_settings_of_the_server() {
    let guard = tempfile::tempdir().expect("a directory");
    let path = |name: &str| guard.path().join(name).to_str().expect("text").to_owned();
    let (data, key) = (path("server"), path("backup.key"));
    std::fs::create_dir(&data).expect("made");
    std::fs::write(
        guard.path().join("server/server.toml"),
        "namespace = \"\\u0001\"",
    )
    .expect("written");
    let xylem = at("http://127.0.0.1:9");
    let ran = xylem.run(&["vault", "key", "--to", &key]).await;
    assert_eq!(ran.status, 0, "{}", ran.err);
    let backup = path("there-is-none.backup");
    let restore = [
        "vault",
        "restore",
        &backup,
        "--key-file",
        &key,
        "--data-dir",
        &data,
    ];
    let ran = xylem.run(&restore).await;
    assert!(ran.err.contains("printable"), "{}", ran.err);
    // What the command line says goes before it.
    let named = [&restore[..], &["--namespace", "default"]].concat();
    let ran = xylem.run(&named).await;
    assert!(
        ran.status != 0 && !ran.err.contains("printable"),
        "{}",
        ran.err
    );
}
