//! The program as a shell runs it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::{path::Path, process::Stdio, time::Duration};
use tokio::{io::AsyncWriteExt, process::Command};

/// How long the program may run.
const LIMIT: Duration = Duration::from_secs(90);

/// One run of the program, prepared. It sees nothing of this process's environment.
#[derive(Clone, Default)]
pub(crate) struct Xylem {
    input: String,
    variables: Vec<(String, String)>,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Xylem {
    pub(crate) fn standard_input(mut self, text: &str) -> Self {
        self.input = text.to_owned();
        self
    }

    pub(crate) fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The command, in a home directory that holds nothing of the user's.
    pub(crate) fn command(&self, home: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xylem"));
        command
            .args(arguments)
            .env_clear()
            .env("HOME", home)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Ran {
        self.run_into(Stdio::piped(), arguments).await
    }

    /// The same where nobody reads the answer any more.
    pub(crate) async fn run_unread(&self, arguments: &[&str]) -> Ran {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        self.run_into(writer.into(), arguments).await
    }

    async fn run_into(&self, out: Stdio, arguments: &[&str]) -> Ran {
        let home = tempfile::tempdir().expect("a directory");
        let mut command = self.command(home.path(), arguments);
        command.stdout(out);
        let mut child = command.kill_on_drop(true).spawn().expect("it starts");
        let mut input = child.stdin.take().expect("piped");
        // Not everything reads it.
        let _ = input.write_all(self.input.as_bytes()).await;
        drop(input);
        let ended = tokio::time::timeout(LIMIT, child.wait_with_output()).await;
        let ended = ended.expect("in time").expect("waited for");
        Ran {
            status: ended.status.code().expect("not killed"),
            out: String::from_utf8(ended.stdout).expect("text"),
            err: String::from_utf8(ended.stderr).expect("text"),
        }
    }
}
