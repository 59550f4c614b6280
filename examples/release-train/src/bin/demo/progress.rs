//! Progress on a terminal; silence in a pipe.

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What is being done, step by step.
pub(crate) struct Progress {
    bar: ProgressBar,
    began: Instant,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::no_length();
        bar.enable_steady_tick(Duration::from_millis(200));
        Self {
            bar,
            began: Instant::now(),
        }
    }

    /// A step without an end in sight.
    pub(crate) fn step(&self, what: &str) {
        self.done();
        let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
        self.begin(what, style.ok());
    }

    /// A step that counts.
    fn count(&self, what: &str, total: usize) {
        self.done();
        let style = ProgressStyle::with_template("  {msg} {bar:30} {pos}/{len} {elapsed}");
        self.begin(what, style.ok());
        self.bar.set_length(total as u64);
    }

    fn begin(&self, what: &str, style: Option<ProgressStyle>) {
        if let Some(style) = style {
            self.bar.set_style(style);
        }
        self.bar.reset();
        self.bar.set_message(what.to_owned());
    }

    /// Leaves a line behind for the step that has ended.
    fn done(&self) {
        let what = self.bar.message();
        if !what.is_empty() {
            let took = self.bar.elapsed().as_secs_f32();
            self.bar.println(format!("✓ {what} ({took:.1} s)"));
        }
    }

    /// Asks how many there are, again and again, until there are enough.
    pub(crate) async fn until(
        &self,
        what: &str,
        total: usize,
        patience: Duration,
        mut ask: impl AsyncFnMut() -> Result<usize>,
    ) -> Result<()> {
        self.count(what, total);
        let deadline = Instant::now() + patience;
        loop {
            let count = ask().await?;
            self.bar.set_position(count as u64);
            if count >= total {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("{what}: {count} of {total} after {patience:?}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub(crate) fn finish(&self) -> Duration {
        self.done();
        self.bar.finish_and_clear();
        self.began.elapsed()
    }
}
