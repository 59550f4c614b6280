//! Child processes that never outlive the command that started them.
//!
//! One child runs at a time, in a process group of its own. An interrupt is passed on to the whole
//! group once; whoever is left after [`GRACE`], or at the second interrupt, is killed. What is left
//! of the group when its leader has ended is killed too.

use anyhow::{Context, Result};
use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid},
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};
use std::{
    io::{BufRead, BufReader},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// How long an interrupted child may take to end by itself. The demo stops a whole stack.
const GRACE: Duration = Duration::from_secs(20);

/// A child that did not succeed.
#[derive(Debug)]
pub(crate) struct Failed {
    what: String,
    code: u8,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ended with status {}", self.what, self.code)
    }
}

impl std::error::Error for Failed {}

/// A signal asked this command to end.
#[derive(Debug)]
struct Interrupted(i32);

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// The exit code that tells the caller of this command what happened to its child.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    if let Some(failed) = error.downcast_ref::<Failed>() {
        ExitCode::from(failed.code)
    } else if let Some(Interrupted(signal)) = error.downcast_ref() {
        ExitCode::from(code_of_signal(*signal))
    } else {
        ExitCode::FAILURE
    }
}

/// Runs a command to its end, its output going where ours goes.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let child = start(command)?;
    succeeded(command, end(child)?)
}

/// Runs a command to its end and gives each line it prints to `line`.
pub(crate) fn for_each_line(command: &mut Command, mut line: impl FnMut(&str)) -> Result<()> {
    let mut child = start(command.stdout(Stdio::piped()))?;
    let printed = child.stdout.take().map(BufReader::new);
    let mut broken = None;
    for text in printed.into_iter().flat_map(BufRead::lines) {
        match text {
            Ok(text) => line(&text),
            Err(error) => broken = Some(error),
        }
    }
    succeeded(command, end(child)?)?;
    broken.map_or(Ok(()), |error| {
        Err(error).with_context(|| format!("reading the output of {}", name(command)))
    })
}

/// Runs a command to its end and returns what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let mut all = String::new();
    for_each_line(command, |line| {
        all.push_str(line);
        all.push('\n');
    })?;
    Ok(all)
}

/// Whether a signal asked this command to end.
pub(crate) fn interrupted() -> Result<()> {
    children()
        .signal
        .map_or(Ok(()), |signal| Err(Interrupted(signal).into()))
}

/// Passes signals that mean "end" on to the running child; without one, ends at once.
pub(crate) fn end_children_on_signals() -> Result<()> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).context("installing signal handlers")?;
    thread::spawn(move || signals.forever().for_each(on_signal));
    Ok(())
}

#[derive(Default)]
struct Children {
    group: Option<Pid>,
    signal: Option<i32>,
}

static CHILDREN: Mutex<Children> = Mutex::new(Children {
    group: None,
    signal: None,
});

fn children() -> MutexGuard<'static, Children> {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn on_signal(number: i32) {
    let mut children = children();
    let again = children.signal.replace(number).is_some();
    let Some(group) = children.group else {
        std::process::exit(code_of_signal(number).into());
    };
    let signal = Signal::from_named_raw(number).filter(|_| !again);
    signal_group(group, signal.unwrap_or(Signal::KILL));
    if !again {
        thread::spawn(move || kill_after_grace(group));
    }
}

fn kill_after_grace(group: Pid) {
    thread::sleep(GRACE);
    if children().group == Some(group) {
        signal_group(group, Signal::KILL);
    }
}

fn signal_group(group: Pid, signal: Signal) {
    // The group may have ended by itself: nothing is left to signal then.
    let _ = kill_process_group(group, signal);
}

fn start(command: &mut Command) -> Result<Child> {
    let mut children = children();
    if let Some(signal) = children.signal {
        return Err(Interrupted(signal).into());
    }
    let child = command
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {}", name(command)))?;
    children.group = pid(&child);
    Ok(child)
}

/// Waits for the leader, kills what is left of its group, and only then gives its pid back: so long
/// as the leader is not reaped, the group's number cannot mean anybody else.
fn end(mut child: Child) -> Result<ExitStatus> {
    if let Some(group) = pid(&child) {
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while matches!(waitid(WaitId::Pid(group), ended), Err(Errno::INTR)) {}
        let mut children = children();
        signal_group(group, Signal::KILL);
        children.group = None;
    }
    child.wait().context("waiting for a child process")
}

fn pid(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

fn succeeded(command: &Command, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    let signal = status.signal().map(code_of_signal);
    Err(Failed {
        what: name(command),
        code: code.or(signal).unwrap_or(1),
    }
    .into())
}

/// What a shell reports for a process that a signal ended.
fn code_of_signal(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// The program and its subcommand, as people know them: `cargo clippy`, `python3 pip`.
fn name(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let program = program.file_name().unwrap_or(command.get_program());
    let mut arguments = command.get_args().map(|word| word.to_string_lossy());
    let subcommand = match arguments.next() {
        Some(module) if module == "-m" => arguments.next(),
        first => first.filter(|word| !word.starts_with('-')),
    };
    let mut words = vec![program.to_string_lossy()];
    words.extend(subcommand);
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn code(script: &str) -> u8 {
        let error = run(&mut shell(script)).expect_err("the script fails");
        error.downcast_ref::<Failed>().expect("a failed child").code
    }

    #[test]
    fn commands_are_named_without_their_options() {
        let named = |line: &str| {
            let mut words = line.split(' ');
            let mut command = Command::new(words.next().expect("a program"));
            name(command.args(words))
        };
        assert_eq!(named("/usr/bin/cargo clippy --workspace"), "cargo clippy");
        assert_eq!(named("python3 -m pip download"), "python3 pip");
        assert_eq!(named("target/debug/demo --output text"), "demo");
    }

    // One test, because one child runs at a time.
    #[test]
    fn children_are_reported_and_leave_nobody_behind() {
        assert_eq!(code("exit 7"), 7);
        assert_eq!(code("kill -TERM $$"), 143);
        assert_eq!(
            output(&mut shell("echo a; echo b")).expect("output"),
            "a\nb\n"
        );

        let orphan = output(&mut shell("sleep 600 >/dev/null & echo $!")).expect("a pid");
        let orphan = Pid::from_raw(orphan.trim().parse().expect("a number"));
        assert!(gone(orphan.expect("not zero")));
    }

    fn gone(pid: Pid) -> bool {
        let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        (0..500).any(|_| {
            thread::sleep(Duration::from_millis(10));
            let state = state();
            state.is_empty() || state.contains(") Z ")
        })
    }
}
