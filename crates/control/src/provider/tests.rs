use super::*;
use secrecy::ExposeSecret;
use std::{fs, os::unix::fs::PermissionsExt};
use tempfile::TempDir;

const TOKEN: &str = "canary-value-0001-4f2a";
const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn file(folder: &TempDir, name: &str, text: &str, mode: u32) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

/// A program. Another process writes it: what a test beside starts meanwhile inherits the open file, and
/// what is open for writing cannot be run.
fn program(folder: &TempDir, text: &str) -> PathBuf {
    let path = folder.path().join("program");
    let write = r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 755 "$0""#;
    let mut shell = std::process::Command::new("sh");
    let written = shell.args(["-c", write]).arg(&path).arg(text).status();
    assert!(written.unwrap().success());
    path
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

async fn ask(source: Source, format: Format) -> Result<Obtained, (&'static str, String)> {
    let entry = Entry {
        source,
        format,
        turn: tokio::sync::Mutex::default(),
    };
    let providers = CredentialProviders(Arc::new([("a".to_owned(), entry)].into()));
    let provided = Provided {
        name: "a".to_owned(),
        probe_url: None,
        revoke_old: false,
    };
    providers.ask(&provided, NOW).await.map_err(|failed| {
        let Failed::Here(code, why) = failed else {
            panic!("{failed:?}");
        };
        assert!(!why.contains("canary"), "{why}");
        assert!(!why.contains('/'), "no path is told: {why}");
        (code, why)
    })
}

async fn read_file(path: PathBuf, follow_links: bool) -> Result<Obtained, (&'static str, String)> {
    ask(Source::File(File { path, follow_links }), Format::Plain).await
}

fn command(program: &Path, arguments: &[&str]) -> Command {
    Command {
        program: program.to_owned(),
        arguments: arguments.iter().map(ToString::to_string).collect(),
        environment: Vec::new(),
        timeout: Duration::from_secs(30),
    }
}

async fn run(command: Command) -> Result<Obtained, (&'static str, String)> {
    ask(Source::Command(command), Format::Plain).await
}

fn code<T: std::fmt::Debug>(asked: Result<T, (&'static str, String)>) -> &'static str {
    asked.unwrap_err().0
}

#[tokio::test]
async fn a_file_of_its_own_is_read_up_to_the_end_of_its_line() {
    let folder = folder();
    for (name, end) in [("a", ""), ("b", "\n"), ("c", "\r\n")] {
        let path = file(&folder, name, &format!("{TOKEN}{end}"), 0o600);
        let given = read_file(path, false).await.unwrap();
        assert_eq!(given.token.expose_secret(), TOKEN);
        assert_eq!(given.expires_at, None);
        assert!(!format!("{given:?}").contains("canary"));
    }
}

#[tokio::test]
async fn a_file_that_others_may_open_is_refused() {
    let folder = folder();
    for mode in [0o640, 0o620, 0o604, 0o602, 0o610] {
        let path = file(&folder, "a", TOKEN, mode);
        assert_eq!(
            code(read_file(path, false).await),
            "file_refused",
            "{mode:o}"
        );
    }
}

/// Gives what is there to another user, which only root can: anybody else says that it was skipped.
fn given_away(path: &Path) -> bool {
    const NOBODY: u32 = 65_534;
    match std::os::unix::fs::chown(path, Some(NOBODY), None) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            use std::io::Write;
            // `eprintln!` is captured, and what was skipped is to be seen.
            let _ = writeln!(std::io::stderr(), "skipped: only root can give files away");
            false
        }
        given => {
            given.unwrap();
            true
        }
    }
}

#[tokio::test]
async fn what_belongs_to_somebody_else_is_neither_read_nor_run() {
    let folder = folder();
    let path = file(&folder, "a", TOKEN, 0o600);
    let program = program(&folder, "echo canary-printed-0001");
    if !given_away(&path) || !given_away(&program) {
        return;
    }
    let (refused, why) = read_file(path.clone(), false).await.unwrap_err();
    assert_eq!(refused, "file_refused");
    assert!(why.contains("must belong to root or to the user"), "{why}");
    // What counts is who owns the file, not who owns the link to it.
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(path, &link).unwrap();
    assert_eq!(code(read_file(link, true).await), "file_refused");
    let (refused, why) = run(command(&program, &[])).await.unwrap_err();
    assert_eq!(refused, "command_refused");
    assert!(why.contains("must belong to root or to the user"), "{why}");
}

#[tokio::test]
async fn a_link_is_followed_where_that_is_said() {
    let folder = folder();
    let path = file(&folder, "a", TOKEN, 0o400);
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(path, &link).unwrap();
    let (refused, why) = read_file(link.clone(), false).await.unwrap_err();
    assert_eq!(refused, "file_refused");
    assert!(why.contains("follow_links"), "{why}");
    read_file(link, true).await.unwrap();
}

#[tokio::test]
async fn what_is_no_file_is_refused_without_waiting_for_it() {
    let folder = folder();
    let pipe = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    for path in [pipe, folder.path().to_owned()] {
        assert_eq!(code(read_file(path, true).await), "file_refused");
    }
    let missing = folder.path().join("missing");
    assert_eq!(code(read_file(missing, true).await), "file_not_read");
}

#[tokio::test]
async fn more_than_a_value_is_refused() {
    let folder = folder();
    let longest = "a".repeat(MAX_TOKEN_BYTES);
    let long = file(&folder, "a", &format!("{longest}\n"), 0o600);
    read_file(long, false).await.unwrap();
    let json = format!(r#"{{"token": "{longest}", "scope": "deploy"}}"#);
    let path = file(&folder, "json", &json, 0o600);
    let follow_links = false;
    let source = Source::File(File { path, follow_links });
    ask(source, Format::Json).await.unwrap();
    let longer = file(&folder, "b", &"a".repeat(64 * 1024 + 1), 0o600);
    assert_eq!(code(read_file(longer, false).await), "file_too_large");
    for (name, text) in [
        ("c", ""),
        ("d", "canary-short"),
        ("e", "canary value with spaces in it"),
        ("f", "canary-of-two-lines-0001\ncanary-of-two-lines-0002\n"),
        ("g", "canary-with-\u{e9}-in-its-middle"),
    ] {
        let path = file(&folder, name, text, 0o600);
        assert_eq!(
            code(read_file(path, false).await),
            "value_malformed",
            "{name}"
        );
    }
}

#[tokio::test]
async fn json_says_when_the_value_ends() {
    let folder = folder();
    let of = async |text: &str| {
        let path = file(&folder, "a", text, 0o600);
        let follow_links = false;
        ask(Source::File(File { path, follow_links }), Format::Json).await
    };
    let plain = format!(r#"{{"token": "{TOKEN}", "scope": "deploy"}}"#);
    assert_eq!(of(&plain).await.unwrap().expires_at, None);
    let ends = |at: &str| format!(r#"{{"token": "{TOKEN}", "expiresAt": "{at}"}}"#);
    let given = of(&ends("2027-01-15T08:00:01Z")).await.unwrap();
    assert_eq!(given.expires_at, Some(UnixSeconds(1_800_000_001)));
    assert_eq!(given.token.expose_secret(), TOKEN);
    assert_eq!(code(of(&ends("2027-01-15T08:00:00Z")).await), "value_ended");
    for wrong in [
        &ends("canary"),
        TOKEN,
        r#"{"token": 1}"#,
        r#"{"expiresAt": "2027-01-15T08:00:01Z"}"#,
        &format!(r#"{{"token": "{TOKEN}", "expiresAt": 1800000001}}"#),
    ] {
        assert_eq!(code(of(wrong).await), "value_malformed", "{wrong}");
    }
}

#[tokio::test]
async fn a_command_prints_the_value_and_no_shell_reads_its_words() {
    let folder = folder();
    let path = file(&folder, "a", TOKEN, 0o600);
    let given = run(command(Path::new("/bin/cat"), &[&text(&path)]))
        .await
        .unwrap();
    assert_eq!(given.token.expose_secret(), TOKEN);
    let words = "$(id);`id`*canary>/dev/null";
    let given = run(command(Path::new("/bin/echo"), &[words]))
        .await
        .unwrap();
    assert_eq!(given.token.expose_secret(), words);
}

#[tokio::test]
async fn a_command_is_given_the_variables_that_are_named_and_no_other() {
    let folder = folder();
    let program = program(
        &folder,
        r#"env | grep -c -v -e ^PWD= -e ^SHLVL= -e ^_= ; pwd; sleep 0"#,
    );
    let of = async |environment: &[&str]| {
        let named = Command {
            environment: environment.iter().map(ToString::to_string).collect(),
            ..command(&program, &[])
        };
        named
            .run()
            .await
            .ok()
            .map(|printed| String::from_utf8_lossy(&printed).into_owned())
    };
    assert_eq!(of(&[]).await.unwrap(), "0\n/\n");
    assert_eq!(
        of(&["PATH", "XYLEM_TEST_THERE_IS_NONE"]).await.unwrap(),
        "1\n/\n"
    );
}

#[tokio::test]
async fn of_a_command_that_fails_its_status_is_told_and_nothing_else() {
    let folder = folder();
    let failing = program(
        &folder,
        "echo canary-printed-0001; echo canary-said >&2; exit 3",
    );
    let (failed, why) = run(command(&failing, &[])).await.unwrap_err();
    assert_eq!(failed, "command_failed");
    assert_eq!(why, "the provider's program: ended with status 3");
    let killed = program(&folder, "kill -9 $$");
    let (failed, why) = run(command(&killed, &[])).await.unwrap_err();
    assert_eq!(failed, "command_failed");
    assert!(why.ends_with("was ended by signal 9"), "{why}");
}

#[tokio::test]
async fn a_command_that_hangs_is_killed_with_its_children() {
    let folder = folder();
    let child = folder.path().join("child");
    let hanging = format!("sleep 600 & echo $! > {}; wait", text(&child));
    let hanging = Command {
        timeout: Duration::from_secs(2),
        ..command(&program(&folder, &hanging), &[])
    };
    assert_eq!(code(run(hanging).await), "command_timed_out");
    is_gone(&child).await;
}

#[tokio::test]
async fn a_command_that_nobody_waits_for_any_more_is_killed_with_its_children() {
    let folder = folder();
    let child = folder.path().join("child");
    let hanging = format!("sleep 600 & echo $! > {}; wait", text(&child));
    let hanging = command(&program(&folder, &hanging), &[]);
    let begun = async {
        while fs::read_to_string(&child)
            .unwrap_or_default()
            .trim()
            .is_empty()
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        ran = run(hanging) => panic!("{ran:?}"),
        () = begun => {}
    }
    is_gone(&child).await;
}

/// Waits until a process is there no more, or is dead and waits to be reaped by whoever adopted it.
async fn is_gone(named_in: &Path) {
    let number = fs::read_to_string(named_in).unwrap();
    let status = PathBuf::from("/proc").join(number.trim()).join("status");
    let gone = async {
        while fs::read_to_string(&status).is_ok_and(|text| !text.contains("State:\tZ")) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), gone)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_command_that_prints_without_end_is_stopped() {
    let endless = command(Path::new("/bin/cat"), &["/dev/zero"]);
    assert_eq!(code(run(endless).await), "command_too_much");
}

#[tokio::test]
async fn a_program_that_others_may_change_is_refused() {
    let folder = folder();
    let path = program(&folder, "echo canary-printed-0001");
    for mode in [0o775, 0o757] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(
            code(run(command(&path, &[])).await),
            "command_refused",
            "{mode:o}"
        );
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    run(command(&path, &[])).await.unwrap();
    assert_eq!(
        code(run(command(folder.path(), &[])).await),
        "command_refused"
    );
    let missing = folder.path().join("missing");
    assert_eq!(
        code(run(command(&missing, &[])).await),
        "command_not_started"
    );
}

#[tokio::test]
async fn a_program_that_others_may_exchange_is_refused() {
    let folder = folder();
    let mode = |name: &str, mode| {
        let path = folder.path().join(name);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let made = ["shared", "own"].map(|name| folder.path().join(name));
    made.iter().for_each(|path| fs::create_dir(path).unwrap());
    let [shared, own] = made;
    mode("own", 0o755);
    let program = program(&folder, "echo canary-printed-0001");
    let below = shared.join("program");
    fs::rename(program, &below).unwrap();
    // A folder may be shared where nobody can take away in it what is another's.
    for (bits, refused) in [
        (0o775, true),
        (0o757, true),
        (0o1777, false),
        (0o755, false),
    ] {
        mode("shared", bits);
        let ran = run(command(&below, &[])).await;
        assert_eq!(ran.is_err(), refused, "{bits:o}: {ran:?}");
        assert!(ran.is_ok() || code(ran) == "command_refused", "{bits:o}");
    }
    // What a link leads to counts, and so does where the link lies.
    let links = [own.join("link"), shared.join("link")];
    std::os::unix::fs::symlink(&below, &links[0]).unwrap();
    std::os::unix::fs::symlink("../own/link", &links[1]).unwrap();
    for link in &links {
        run(command(link, &[])).await.unwrap();
    }
    mode("shared", 0o775);
    for link in &links {
        assert_eq!(code(run(command(link, &[])).await), "command_refused");
    }
    mode("shared", 0o755);
    mode("own", 0o777);
    assert_eq!(code(run(command(&links[1], &[])).await), "command_refused");
    let circle = folder.path().join("circle");
    std::os::unix::fs::symlink(&circle, &circle).unwrap();
    assert_eq!(code(run(command(&circle, &[])).await), "command_refused");
}
