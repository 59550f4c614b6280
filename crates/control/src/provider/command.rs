//! A command that prints a value.

use super::{LARGEST, is_ours};
use crate::oauth::Failed;
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    env,
    ffi::OsString,
    fs, io,
    os::unix::fs::MetadataExt,
    os::unix::process::ExitStatusExt,
    path::{Component, Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::AsyncReadExt,
    process::{Child, ChildStdout},
    time::{Instant, timeout_at},
};
use zeroize::Zeroizing;

/// Whoever may change a program but its owner.
const WRITERS: u32 = 0o022;
/// Whoever may write into such a folder may exchange only what is theirs.
const STICKY: u32 = 0o1000;
/// More links than the system follows.
const LINKS: usize = 40;

#[derive(Debug)]
pub(super) struct Command {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    /// The variables that it is given of this process's.
    pub(super) environment: Vec<String>,
    pub(super) timeout: Duration,
}

/// The processes that a command has started, itself included. Dropping it ends them: when the time is over,
/// when too much is printed, and when nobody waits any more.
struct Group {
    /// Its number is no other process's before somebody has waited for the one that has it.
    number: Option<Pid>,
    /// Ends them where this process is killed. There is none where there is no shell.
    guard: Option<Child>,
}

impl Group {
    /// A group with a guard alone, or one that begins with the command.
    fn begin() -> Self {
        let guard = guard().ok();
        Self {
            number: guard.as_ref().and_then(number),
            guard,
        }
    }

    /// Which group the command is to be of: 0 is one of its own.
    fn of_command(&self) -> i32 {
        self.number.map_or(0, |number| number.as_raw_pid())
    }

    /// The command has ended by itself: what it left running stays.
    async fn leave(mut self) {
        self.number = None;
        if let Some(mut guard) = self.guard.take() {
            let _ = guard.kill().await;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.number {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// A shell that waits for the end of its standard input, which comes when this process has ended, however
/// that was, and ends its group then.
fn guard() -> io::Result<Child> {
    tokio::process::Command::new("/bin/sh")
        .args(["-c", "read -r _; kill -s KILL 0"])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

fn number(child: &Child) -> Option<Pid> {
    let number = i32::try_from(child.id()?).ok()?;
    Pid::from_raw(number)
}

impl Command {
    /// What it prints.
    pub(super) async fn run(&self) -> Result<Zeroizing<Vec<u8>>, Failed> {
        self.may_run()?;
        let deadline = Instant::now() + self.timeout;
        let mut group = Group::begin();
        let mut child = self.spawn(&group)?;
        group.number = group.number.or_else(|| number(&child));
        let printed = match child.stdout.take() {
            Some(stdout) => timeout_at(deadline, printed(stdout)).await,
            None => Ok(None),
        };
        let Ok(printed) = printed else {
            return Err(self.killed(child, group).await);
        };
        let Some(text) = printed else {
            drop(group);
            let _ = child.wait().await;
            return Err(self.wrong("command_too_much", "printed more than 64 KiB"));
        };
        let Ok(status) = timeout_at(deadline, child.wait()).await else {
            return Err(self.killed(child, group).await);
        };
        group.leave().await;
        let status = status.map_err(|_| self.wrong("command_failed", "could not be waited for"))?;
        match status.success() {
            true => Ok(text),
            false => Err(self.wrong("command_failed", &ended(status))),
        }
    }

    async fn killed(&self, mut child: Child, group: Group) -> Failed {
        drop(group);
        let _ = child.wait().await;
        self.wrong("command_timed_out", "was killed, because it took too long")
    }

    fn wrong(&self, code: &'static str, what: &str) -> Failed {
        Failed::here(code, format!("the provider's program: {what}"))
    }

    /// Whoever may change the program, or what its path leads to, may have this user run anything. Every
    /// folder and link on the way is looked at, so that the path leads to the same when it is run.
    fn may_run(&self) -> Result<(), Failed> {
        let failed =
            |error: io::Error| self.wrong("command_not_started", &error.kind().to_string());
        let mut at = PathBuf::from("/");
        let mut links = 0;
        self.is_safe(&fs::metadata(&at).map_err(failed)?)?;
        let mut rest = parts(&self.program);
        while let Some(part) = rest.pop() {
            if part == ".." {
                at.pop();
                continue;
            }
            let next = at.join(part);
            let found = fs::symlink_metadata(&next).map_err(failed)?;
            self.is_safe(&found)?;
            if found.is_symlink() {
                links += 1;
                if links > LINKS {
                    return Err(self.wrong("command_refused", "must not be behind so many links"));
                }
                let target = fs::read_link(&next).map_err(failed)?;
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                rest.extend(parts(&target));
            } else if found.is_dir() || rest.is_empty() {
                at = next;
            } else {
                return Err(self.wrong("command_refused", "must be a program"));
            }
        }
        let found = fs::symlink_metadata(&at).map_err(failed)?;
        match found.is_file() {
            true => Ok(()),
            false => Err(self.wrong("command_refused", "must be a program")),
        }
    }

    fn is_safe(&self, found: &fs::Metadata) -> Result<(), Failed> {
        let (mode, is_folder) = (found.mode(), found.is_dir());
        let shared = mode & WRITERS != 0 && !found.is_symlink();
        let shared = shared && !(is_folder && mode & STICKY != 0);
        if is_ours(found.uid()) && !shared {
            return Ok(());
        }
        let rule = match is_folder {
            true => {
                "every folder above it must belong to root or to the user that the control plane runs \
                     as, and be writable by its owner only"
            }
            false => {
                "it must belong to root or to the user that the control plane runs as, and be \
                      writable by its owner only"
            }
        };
        Err(self.wrong("command_refused", rule))
    }

    fn spawn(&self, group: &Group) -> Result<Child, Failed> {
        let given = self.environment.iter();
        let given = given.filter_map(|name| Some((name, env::var_os(name)?)));
        let mut command = tokio::process::Command::new(&self.program);
        command
            .args(&self.arguments)
            .env_clear()
            .envs(given)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // It may hold anything, a secret too.
            .stderr(Stdio::null())
            .process_group(group.of_command())
            .kill_on_drop(true);
        let started = command.spawn();
        started.map_err(|error| self.wrong("command_not_started", &error.kind().to_string()))
    }
}

/// The names in a path, the first one last. What leads to the root itself is none.
fn parts(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    let mut names: Vec<_> = names.collect();
    names.reverse();
    names
}

/// What is printed until nobody is left to print; nothing where that is too much. The memory does not grow,
/// and so leaves nothing behind.
async fn printed(stdout: ChildStdout) -> Option<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::with_capacity(LARGEST + 64));
    let most = u64::try_from(LARGEST + 1).unwrap_or(u64::MAX);
    // What cannot be read any more has ended: its status says how.
    let _ = stdout.take(most).read_to_end(&mut text).await;
    (text.len() <= LARGEST).then_some(text)
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "did not end well".to_owned(),
    }
}
