//! What a command shows: the answer on standard output, everything else on standard error.

use super::failure::Failure;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, SystemTime},
};
use xylem_client::Timestamp;

/// What standard output carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// Text for people
    #[default]
    Text,
    /// JSON and nothing else; one document, or one per line for what goes on
    Json,
}

/// The two streams of a command, and the form of the answer.
pub(crate) struct Output {
    format: Format,
    out: Box<dyn Write + Send>,
    notes: Box<dyn Write + Send>,
    terminal: bool,
    now: SystemTime,
}

impl Output {
    /// The process's own streams.
    pub(crate) fn standard(format: Format) -> Self {
        Self {
            format,
            out: Box::new(io::stdout()),
            notes: Box::new(io::stderr()),
            terminal: io::stderr().is_terminal(),
            now: SystemTime::now(),
        }
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// On a terminal a bar that looks like `template`, in a pipe nothing.
    pub(crate) fn progress(&self, template: &str) -> ProgressBar {
        let draw = if self.terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, draw);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }

    /// Whether somebody sees progress.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// When the command was started: what "ago" is counted from.
    pub(crate) fn now(&self) -> SystemTime {
        self.now
    }

    /// The answer, in the form that was asked for.
    pub(crate) fn answer<T: Serialize>(
        &mut self,
        answer: &T,
        text: impl FnOnce(&T) -> String,
    ) -> io::Result<()> {
        match self.format {
            Format::Text => write_text(&mut self.out, &text(answer)),
            Format::Json => {
                serde_json::to_writer(&mut self.out, answer)?;
                self.out.write_all(b"\n")
            }
        }?;
        self.out.flush()
    }

    /// An answer that is not shown again.
    pub(crate) fn answer_once<T: Serialize>(
        &mut self,
        answer: &T,
        text: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        let answered = self.answer(answer, text);
        answered.map_err(|error| Failure::lost(&error))
    }

    /// The answer in text, character by character: a token, a line as it is stored.
    pub(crate) fn raw(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// Something to know beside the answer. That nobody reads it is no failure.
    pub(crate) fn note(&mut self, text: &str) {
        let _ = write_text(&mut self.notes, text);
    }
}

fn write_text(to: &mut dyn Write, text: &str) -> io::Result<()> {
    for line in text.lines() {
        writeln!(to, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Text that somebody else chose, for a terminal: workflow ids and reasons can hold escape
/// sequences.
pub(crate) fn plain(text: &str) -> String {
    let visible = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(visible).collect()
}

/// `default@2`.
pub(crate) fn slot_at(slot: &str, order: Option<xylem_client::v1::Order>) -> String {
    match order {
        Some(order) => format!("{}@{}", plain(slot), order.version),
        None => format!("{}@-", plain(slot)),
    }
}

/// A point in time, seen from `now`: `in 3h`, `2m ago`; `-` where there is none.
pub(crate) fn relative(at: Option<&Timestamp>, now: SystemTime) -> String {
    let Some(at) = at.and_then(system_time) else {
        return "-".to_owned();
    };
    match at.duration_since(now) {
        Ok(ahead) => format!("in {}", coarse(ahead)),
        Err(behind) => format!("{} ago", coarse(behind.duration())),
    }
}

/// A point in time as RFC 3339 in UTC; `-` where there is none.
pub(crate) fn absolute(at: Option<&Timestamp>) -> String {
    let at = at.and_then(system_time);
    at.map_or_else(
        || "-".to_owned(),
        |at| humantime::format_rfc3339_millis(at).to_string(),
    )
}

fn system_time(at: &Timestamp) -> Option<SystemTime> {
    // RFC 3339 ends with the year 9999.
    const LATEST: u64 = 253_402_300_799;
    let seconds = u64::try_from(at.seconds).ok()?.min(LATEST);
    let nanos = u32::try_from(at.nanos).ok()?.min(999_999_999);
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

/// The largest unit alone.
fn coarse(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A table without lines, its columns as wide as they must be.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: Vec<[String; N]>) -> String {
    let mut table = comfy_table::Table::new();
    table
        .load_preset(comfy_table::presets::NOTHING)
        .set_content_arrangement(comfy_table::ContentArrangement::Disabled)
        .set_header(head)
        .add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<_> = table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    lines.join("\n")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// A stream that can be looked at.
    #[derive(Clone, Default)]
    pub(crate) struct Seen(Arc<Mutex<Vec<u8>>>);

    impl Seen {
        pub(crate) fn text(&self) -> String {
            let bytes = self.0.lock().expect("nobody panicked").clone();
            String::from_utf8(bytes).expect("text")
        }
    }

    impl Write for Seen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nobody panicked").extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An output, its answer and its notes.
    pub(crate) fn seen(format: Format) -> (Output, Seen, Seen) {
        let (out, notes) = (Seen::default(), Seen::default());
        let output = Output {
            format,
            out: Box::new(out.clone()),
            notes: Box::new(notes.clone()),
            terminal: false,
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        };
        (output, out, notes)
    }

    /// A time so many seconds after the tests' present.
    pub(crate) fn after(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp {
            seconds: 1_700_000_000 + seconds,
            nanos: 0,
        })
    }

    #[test]
    fn notes_stay_away_from_the_answer() {
        let (mut output, out, notes) = seen(Format::Json);
        output.note("working");
        output
            .answer(&[1, 2], |_| unreachable!("JSON was asked for"))
            .expect("written");
        assert_eq!(out.text(), "[1,2]\n");
        assert_eq!(notes.text(), "working\n");
    }

    #[test]
    fn a_workflow_id_cannot_drive_the_terminal() {
        assert_eq!(plain("a\u{1b}[2Jb\nc"), "a\u{fffd}[2Jb\u{fffd}c");
    }

    #[test]
    fn times_are_told_as_people_tell_them() {
        let (output, ..) = seen(Format::Text);
        for (seconds, told) in [
            (0, "in 0s"),
            (-1, "1s ago"),
            (59, "in 59s"),
            (-3_600, "1h ago"),
            (172_799, "in 47h"),
            (30 * 86_400, "in 30d"),
        ] {
            assert_eq!(relative(after(seconds).as_ref(), output.now()), told);
        }
        assert_eq!(relative(None, output.now()), "-");
        assert_eq!(absolute(after(0).as_ref()), "2023-11-14T22:13:20.000Z");
        let wrong = Timestamp {
            seconds: i64::MAX,
            nanos: -1,
        };
        assert_eq!(absolute(Some(&wrong)), "-");
    }
}
