//! `xylem token`.

use super::{
    cascade::{self, Cascade, Target},
    failure::{Exit, Failure},
    output::{Format, plain, relative, slot_at, table},
    session::Session,
    tree::{DepositArguments, listed, wire},
};
use crate::data;
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::json;
use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    time::{Duration, SystemTime},
};
use xylem_client::v1;
use xylem_ids::{Slot, Version, WorkflowId};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Deposit a token into a slot, as its first version or the next, with audiences of its own
    #[command(after_help = SET_EXAMPLE)]
    Set(Set),
    /// Deposit the next version of a slot and let it cascade
    ///
    /// Without --audience it may be sent where the version before might. The version before is
    /// superseded at that moment; it is gone once it is revoked.
    #[command(after_help = ROTATE_EXAMPLE)]
    Rotate(Rotate),
    /// Show the versions of a tree's tokens
    Status(Status),
    /// Revoke a version for good, once no workflow needs it
    ///
    /// The status is 3 where workflows are behind or calls with the version are under way at the end
    /// of --wait.
    Revoke(Revoke),
    /// Deposit an unrevoked earlier version as the next one
    ///
    /// The token is neither needed nor shown.
    Rollback(Rollback),
    /// Let the newest version live longer, without depositing it again
    ///
    /// A version whose end nobody named is renewed by itself as long as its tree runs; this is for one
    /// with a --ttl of its own. Where it lives that long already, nothing changes.
    Reissue(Reissue),
    /// Show the newest token, for an emergency
    ///
    /// A policy has to allow the action `reveal`, and you must have signed in with a second factor within
    /// five minutes: an API key is not enough. It is in the audit log, with the reason, and raises an
    /// alert. Rotate the token afterwards.
    #[command(after_help = REVEAL_EXAMPLE)]
    Reveal(Reveal),
}

const REVEAL_EXAMPLE: &str = "\
Example:
  xylem token reveal train-1 --reason \"incident 4711\" --to train-1.token";

const SET_EXAMPLE: &str = "\
Example:
  xylem token set train-1 --slot github --audience https://api.github.com --token-file github.token";

const ROTATE_EXAMPLE: &str = "\
Examples:
  xylem token rotate train-1 --wait                  asks for the token, without echo
  pass api/acme | xylem token rotate train-1 --token-stdin --wait --timeout 5m";

/// A slot of a tree.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// The root's workflow id
    tree: WorkflowId,
    /// The slot
    #[arg(long, default_value_t = Slot::default_slot())]
    slot: Slot,
}

/// Whether to follow the cascade.
#[derive(Debug, clap::Args)]
pub(crate) struct Waiting {
    /// Wait until every running, selected workflow has adopted the version
    #[arg(long)]
    wait: bool,
    /// How long to wait; then the workflows that are behind are listed, and the status is 1
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = super::duration)]
    #[arg(requires = "wait")]
    timeout: Duration,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Set {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    deposit: DepositArguments,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Rotate {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    deposit: DepositArguments,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Reveal {
    #[command(flatten)]
    place: Place,
    /// Why; for the audit log
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Write the token to this new file, readable for you alone, instead of showing it on the terminal
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// The root's workflow id
    tree: WorkflowId,
    /// Only this slot
    #[arg(long)]
    slot: Option<Slot>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Revoke {
    #[command(flatten)]
    place: Place,
    /// The version, as `xylem token status` shows it
    #[arg(long, value_name = "NUMBER")]
    version: u32,
    /// Revoke although workflows are behind or unknown, or the version is still the active one
    #[arg(long)]
    force: bool,
    /// How long to wait for workflows that are behind and calls that are under way, at most 5m
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = super::duration)]
    wait: Duration,
    /// Said in the audit log
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Rollback {
    #[command(flatten)]
    place: Place,
    /// The version to return to [default: the one before the active one]
    #[arg(long, value_name = "NUMBER")]
    version: Option<u32>,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Reissue {
    #[command(flatten)]
    place: Place,
    /// How long it is to live from now, such as 30d [default: the control plane's]
    #[arg(long, value_name = "DURATION", value_parser = super::duration)]
    ttl: Option<Duration>,
    #[command(flatten)]
    waiting: Waiting,
}

pub(crate) async fn run(command: Command, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        Command::Set(arguments) => set(arguments, session).await,
        Command::Rotate(arguments) => rotate(arguments, session).await,
        Command::Status(arguments) => status(arguments, session).await,
        Command::Revoke(arguments) => revoke(arguments, session).await,
        Command::Rollback(arguments) => rollback(arguments, session).await,
        Command::Reissue(arguments) => reissue(arguments, session).await,
        Command::Reveal(arguments) => reveal(arguments, session).await,
    }
}

async fn reveal(arguments: Reveal, session: &mut Session<'_>) -> Result<(), Failure> {
    let Reveal { place, reason, to } = arguments;
    if to.is_none() && !io::stdout().is_terminal() {
        let what = "a token is shown on a terminal, or written to a file: name one with --to";
        return Err(Failure::usage(what));
    }
    if let Some(path) = to.as_deref().filter(|path| path.exists()) {
        let what = format!("{} exists: a token is not written over it", path.display());
        return Err(Failure::usage(what));
    }
    let client = session.client().await?;
    let revealed = client
        .reveal_token(&place.tree, &place.slot, &reason)
        .await?;
    let at = slot_at(place.slot.as_str(), revealed.order);
    let tree = plain(place.tree.as_str());
    let rotate = format!("rotate it as soon as you can: xylem token rotate {tree}");
    match to {
        Some(path) => {
            data::write_secret(&path, &revealed.token)?;
            let answer = json!({
                "tree": place.tree,
                "slot": place.slot,
                "order": revealed.order,
                "file": path,
            });
            let text = format!("{at} is in {}", path.display());
            session.output.answer(&answer, |_| text)?;
        }
        None => {
            session.output.note(&format!("{at} of {tree}:"));
            let shown = session.output.raw(revealed.token.expose_secret());
            shown.map_err(|error| Failure::lost(&error))?;
        }
    }
    session.output.note(&rotate);
    Ok(())
}

async fn set(arguments: Set, session: &mut Session<'_>) -> Result<(), Failure> {
    if arguments.deposit.audiences.is_empty() {
        return Err(Failure::usage("where may the token be sent?")
            .hint("name at least one origin with --audience"));
    }
    let Place { tree, slot } = arguments.place;
    let deposit = arguments.deposit.deposit()?;
    let client = session.client().await?;
    let change = client.set_token(&tree, &slot, deposit).await?;
    changed(change, tree, slot, &arguments.waiting, session).await
}

async fn rotate(arguments: Rotate, session: &mut Session<'_>) -> Result<(), Failure> {
    let Place { tree, slot } = arguments.place;
    let deposit = arguments.deposit.deposit()?;
    let client = session.client().await?;
    let change = client.rotate_token(&tree, &slot, deposit).await?;
    changed(change, tree, slot, &arguments.waiting, session).await
}

async fn rollback(arguments: Rollback, session: &mut Session<'_>) -> Result<(), Failure> {
    let Place { tree, slot } = arguments.place;
    let version = arguments.version.map(Version);
    let client = session.client().await?;
    let change = client.rollback_token(&tree, &slot, version).await?;
    changed(change, tree, slot, &arguments.waiting, session).await
}

async fn reissue(arguments: Reissue, session: &mut Session<'_>) -> Result<(), Failure> {
    let Place { tree, slot } = arguments.place;
    let client = session.client().await?;
    let change = client.reissue_token(&tree, &slot, arguments.ttl).await?;
    changed(change, tree, slot, &arguments.waiting, session).await
}

/// A change, and how far its cascade came.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Followed {
    change: v1::TokenChanged,
    cascade: Cascade,
}

/// Shows what became of a token, and follows its cascade where that was asked for.
async fn changed(
    change: v1::TokenChanged,
    tree: WorkflowId,
    slot: Slot,
    waiting: &Waiting,
    session: &mut Session<'_>,
) -> Result<(), Failure> {
    if !waiting.wait {
        session
            .output
            .answer(&change, |change| change_text(change, &tree, &slot))?;
        return Ok(());
    }
    let order = change.version.as_ref().and_then(|version| version.order);
    let order = order.ok_or(xylem_client::Error::Unintelligible("version"))?;
    session.output.note(&change_text(&change, &tree, &slot));
    let target = Target { tree, slot, order };
    let client = session.client().await?;
    let cascade = cascade::follow(&client, &target, waiting.timeout, session.output).await?;
    let converged = cascade.converged;
    session
        .output
        .answer(&Followed { change, cascade }, |followed| {
            followed.cascade.text(&target)
        })?;
    if converged {
        return Ok(());
    }
    Err(
        Failure::new(Exit::Failed, "the rotation is done, its cascade is not").hint(format!(
            "the sweep goes on delivering; look again with `xylem tree watch {}`",
            target.tree
        )),
    )
}

fn change_text(change: &v1::TokenChanged, tree: &WorkflowId, slot: &Slot) -> String {
    let version = |version: &Option<v1::TokenVersion>| {
        let order = version.as_ref().and_then(|version| version.order);
        order.map(|order| order.version)
    };
    let mut text = match version(&change.version) {
        Some(version) => format!("{tree}: {slot}@{version} is active"),
        None => format!("{tree}: {slot} has changed"),
    };
    if let Some(before) = version(&change.superseded) {
        text.push_str(&format!(", {slot}@{before} superseded"));
    }
    if !change.signalled {
        text.push_str("\nthe root is signalled within seconds");
    }
    text
}

async fn status(arguments: Status, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let slot = arguments.slot.as_ref();
    let versions = client.token_status(&arguments.tree, slot).await?;
    let now = session.output.now();
    let empty = format!(
        "{0} has no token yet: `xylem token set {0} --audience URL` brings one",
        arguments.tree
    );
    listed(session.output, &versions, &empty, |versions| {
        versions_table(versions, now)
    })
}

fn versions_table(versions: &[v1::TokenVersion], now: SystemTime) -> String {
    let row = |version: &v1::TokenVersion| {
        let order = version.order.map(|order| order.version.to_string());
        [
            plain(&version.slot),
            order.unwrap_or_else(|| "-".to_owned()),
            version_state(version),
            plain(&version.fingerprint),
            plain(&version.audiences.join(" ")),
            relative(version.deposited_at.as_ref(), now),
            relative(version.expires_at.as_ref(), now),
            version.open_leases.to_string(),
        ]
    };
    let head = [
        "SLOT",
        "VERSION",
        "STATE",
        "FINGERPRINT",
        "AUDIENCES",
        "DEPOSITED",
        "EXPIRES",
        "OPEN CALLS",
    ];
    table(head, versions.iter().map(row).collect())
}

fn version_state(version: &v1::TokenVersion) -> String {
    let state = match version.state() {
        v1::VersionState::Unspecified => "unknown",
        v1::VersionState::Pending => "pending",
        v1::VersionState::Active => "active",
        v1::VersionState::Superseded => "superseded",
        v1::VersionState::Revoked => "revoked",
        v1::VersionState::Expired => "expired",
    };
    match version.exposed {
        true => format!("{state}, exposed"),
        false => state.to_owned(),
    }
}

async fn revoke(arguments: Revoke, session: &mut Session<'_>) -> Result<(), Failure> {
    let Place { tree, slot } = arguments.place;
    let version = arguments.version;
    let request = v1::RevokeTokenRequest {
        tree: tree.to_string(),
        slot: slot.to_string(),
        version,
        force: arguments.force,
        wait: Some(wire(arguments.wait)),
        reason: arguments.reason,
    };
    let client = session.client().await?;
    if session.output.format() == Format::Text && session.output.is_terminal() {
        let wait = humantime::format_duration(arguments.wait);
        session.output.note(&format!(
            "looking for workflows and calls that still need {slot}@{version}, up to {wait} …"
        ));
    }
    match client.revoke_token(request).await {
        Ok(revoked) => {
            session.output.answer(&revoked, |revoked| {
                revoked_text(revoked, &format!("{tree}: {slot}@{version}"))
            })?;
            Ok(())
        }
        Err(error @ xylem_client::Error::Refused(_)) => Err(Failure::from(error).hint(format!(
            "`xylem tree show {tree}` draws who needs it; --force revokes all the same"
        ))),
        Err(error) => Err(error.into()),
    }
}

fn revoked_text(revoked: &v1::RevokeTokenResponse, what: &str) -> String {
    let mut text = format!(
        "{what} is revoked: {} current, {} unselected",
        revoked.current, revoked.unselected
    );
    if !revoked.stragglers.is_empty() {
        let stragglers: Vec<_> = revoked.stragglers.iter().map(straggler).collect();
        text.push_str("\n\nforced over:\n");
        text.push_str(&cascade::stragglers(&stragglers));
    }
    for broken in &revoked.breaks {
        text.push_str(&format!("\n{}", plain(broken)));
    }
    text
}

fn straggler(straggler: &v1::Straggler) -> cascade::Straggler {
    cascade::Straggler {
        workflow_id: straggler.workflow_id.clone(),
        version: straggler.order.map(|order| order.version),
        reason: straggler.reason.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::tests::{after, seen};

    fn version(number: u32, state: v1::VersionState) -> v1::TokenVersion {
        v1::TokenVersion {
            slot: "default".into(),
            order: Some(v1::Order {
                epoch: 0,
                version: number,
                serial: 0,
            }),
            state: state.into(),
            fingerprint: "0a1b2c3d".into(),
            audiences: vec!["https://api.example".into()],
            deposited_at: after(-7_200),
            expires_at: after(86_400),
            ..v1::TokenVersion::default()
        }
    }

    #[test]
    fn versions_stand_in_a_table() {
        let (output, ..) = seen(Format::Text);
        let mut exposed = version(1, v1::VersionState::Superseded);
        exposed.exposed = true;
        exposed.open_leases = 2;
        let versions = [version(2, v1::VersionState::Active), exposed];
        insta::assert_snapshot!(versions_table(&versions, output.now()));
    }

    #[test]
    fn a_change_says_what_is_active_now() {
        let tree = "train-1".parse().expect("an id");
        let change = v1::TokenChanged {
            version: Some(version(2, v1::VersionState::Active)),
            superseded: Some(version(1, v1::VersionState::Superseded)),
            signalled: false,
        };
        insta::assert_snapshot!(change_text(&change, &tree, &Slot::default_slot()));
    }

    #[test]
    fn a_forced_revocation_says_what_it_breaks() {
        let revoked = v1::RevokeTokenResponse {
            current: 3,
            unselected: 1,
            stragglers: vec![v1::Straggler {
                workflow_id: "stage-1".into(),
                order: None,
                reason: "did not answer".into(),
            }],
            breaks: vec!["calls of stage-1 are refused until it adopts version 2".into()],
            ..v1::RevokeTokenResponse::default()
        };
        insta::assert_snapshot!(revoked_text(&revoked, "train-1: default@1"));
    }
}
