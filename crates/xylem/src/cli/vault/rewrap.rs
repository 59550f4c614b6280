//! `xylem vault rewrap`.

use crate::cli::{
    failure::{Exit, Failure},
    output::plain,
    session::Session,
};
use indicatif::ProgressBar;
use serde::Serialize;
use xylem_client::{Client, v1};

/// What all the steps came to.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// The key-encryption key that wraps from now on.
    current_key_id: String,
    /// How many stored keys it wraps since this run.
    rewrapped: u32,
    /// How many another one wraps.
    remaining: u32,
    /// The others, and how many each of them wraps.
    older: Vec<v1::OlderKey>,
    /// Those that wrap nothing.
    removable: Vec<String>,
    /// Stored keys that do not open.
    unopened: Vec<v1::UnopenedKey>,
}

pub(super) async fn run(session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let bar = session
        .output
        .progress("stored keys {bar:40} {pos}/{len} {elapsed}");
    let report = rewrapped(&client, &bar).await;
    bar.finish_and_clear();
    let report = report?;
    session.output.answer(&report, Report::text)?;
    report.left()
}

async fn rewrapped(client: &Client, bar: &ProgressBar) -> Result<Report, Failure> {
    let mut report = Report::default();
    let mut after = String::new();
    loop {
        let step = client.rewrap_keys(&report.current_key_id, &after).await?;
        report.take(step, &mut after);
        bar.set_length(report.rewrapped.saturating_add(report.remaining).into());
        bar.set_position(report.rewrapped.into());
        if after.is_empty() {
            return Ok(report);
        }
    }
}

impl Report {
    /// Adds what a step came to, and notes where the next one begins.
    fn take(&mut self, step: v1::RewrapKeysResponse, after: &mut String) {
        let unused = step.older.iter().filter(|key| key.wraps == 0);
        self.removable = unused.map(|key| key.key_id.clone()).collect();
        self.current_key_id = step.current_key_id;
        self.rewrapped = self.rewrapped.saturating_add(step.rewrapped);
        self.remaining = step.remaining;
        self.older = step.older;
        self.unopened.extend(step.unopened);
        *after = step.next_key_id;
    }

    fn text(&self) -> String {
        let current = plain(&self.current_key_id);
        let mut lines = vec![match self.rewrapped {
            0 => format!("nothing was left to wrap under {current}"),
            1 => format!("1 stored key was wrapped under {current}"),
            count => format!("{count} stored keys were wrapped under {current}"),
        }];
        for key in self.older.iter().filter(|key| key.wraps > 0) {
            lines.push(format!("{} still wraps {}", plain(&key.key_id), key.wraps));
        }
        for key in &self.unopened {
            let (id, owner) = (plain(&key.key_id), plain(&key.owner));
            lines.push(match key.missing_key_id.as_str() {
                "" => format!("stored key {id} of {owner} is not what the vault wrote"),
                missing => format!(
                    "stored key {id} of {owner} needs {}, which the control plane does not have",
                    plain(missing)
                ),
            });
        }
        if !self.removable.is_empty() {
            let ids: Vec<_> = self.removable.iter().map(|id| plain(id)).collect();
            lines.push(format!(
                "\nNothing in the database needs these any more: {}\nRemove their lines from the \
                 key-encryption keys of every control plane, and restart them. Keep the lines with the \
                 backups that were made before.",
                ids.join(", ")
            ));
        }
        lines.join("\n")
    }

    /// What did not work, if anything did not.
    fn left(&self) -> Result<(), Failure> {
        let count = self.unopened.len();
        if count > 0 {
            let what =
                format!("{count} stored keys could not be opened: no line that they need may go");
            return Err(Failure::new(Exit::Failed, what).hint(
                "put lines back that are missing. For what was edited look who could write to the \
                 database, and restore a backup, or stop the tree or remove the credential: its key goes \
                 with it",
            ));
        }
        if self.remaining > 0 {
            let what = format!(
                "an older key wrapped {} stored keys meanwhile: some control plane has it as its first line",
                self.remaining
            );
            return Err(Failure::new(Exit::Failed, what).hint(
                "give every control plane the same first line, restart them, and run it again",
            ));
        }
        Ok(())
    }
}
