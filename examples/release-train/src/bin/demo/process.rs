//! The programs that the demonstration starts.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::{self, File, OpenOptions},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long a program may take to end when it is asked to.
const STOP: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A program that runs until it is stopped or dropped.
pub(crate) struct Program {
    name: &'static str,
    child: Child,
    output: PathBuf,
    log: PathBuf,
}

impl Program {
    /// Starts a program; what it prints goes to files named after it.
    pub(crate) fn start(name: &'static str, command: &mut Command, logs: &Path) -> Result<Self> {
        let output = logs.join(format!("{name}.out"));
        let log = logs.join(format!("{name}.log"));
        let child = command
            .stdin(Stdio::null())
            .stdout(appended(&output)?)
            .stderr(appended(&log)?)
            // A group of its own: Ctrl-C reaches the demonstration only, which stops the rest in
            // the right order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("{name} could not be started"))?;
        Ok(Self {
            name,
            child,
            output,
            log,
        })
    }

    /// Waits for the first line that it prints.
    pub(crate) async fn first_line(&mut self, patience: Duration) -> Result<String> {
        let path = self.output.clone();
        self.until(patience, "did not become ready", || {
            let text = fs::read_to_string(&path).ok()?;
            text.split_once('\n').map(|(line, _)| line.to_owned())
        })
        .await
    }

    /// Waits until it has logged something.
    pub(crate) async fn logged(&mut self, what: &str, patience: Duration) -> Result<()> {
        let path = self.log.clone();
        self.until(patience, "did not become ready", || {
            let text = fs::read_to_string(&path).ok()?;
            text.contains(what).then_some(())
        })
        .await
    }

    async fn until<T>(
        &mut self,
        patience: Duration,
        failure: &str,
        mut look: impl FnMut() -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(found) = look() {
                return Ok(found);
            }
            self.check()?;
            if Instant::now() >= deadline {
                bail!("{} {failure} within {patience:?}", self.name);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Fails where the program has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} has ended by itself: {status}", self.name),
        }
    }

    /// Asks it to end, waits, and kills it if it does not.
    pub(crate) fn stop(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        kill_process(Pid::from_child(&self.child), Signal::INT)?;
        let deadline = Instant::now() + STOP;
        while self.child.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                self.child.kill()?;
                self.child.wait()?;
                bail!("{} did not end within {STOP:?} and was killed", self.name);
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

fn appended(path: &Path) -> Result<File> {
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.with_context(|| format!("{} could not be opened", path.display()))
}

/// How `xylem` ends when policy or a gate refuses.
pub(crate) const REFUSED: i32 = 3;

/// Runs a command to its end and answers with what it printed. The error shows what it said.
pub(crate) async fn run(what: &str, command: Command) -> Result<String> {
    run_to(what, command, 0).await
}

/// As [`run`], for a command that is to end with this status.
pub(crate) async fn run_to(what: &str, command: Command, status: i32) -> Result<String> {
    let mut command = tokio::process::Command::from(command);
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("{what} could not be run"))?;
    if output.status.code() != Some(status) {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{what} failed ({}): {}", output.status, said.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{what} printed no text"))
}
