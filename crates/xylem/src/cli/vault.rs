//! `xylem vault`.

mod rewrap;

use super::{
    failure::{Exit, Failure},
    output::{absolute, plain},
    serve::{ConfigFile, TemporalArguments, namespace},
    session::Session,
};
use crate::{
    data::{DataDir, read_secret, write_secret},
    server::{self, Database, RestoreError, ServerError},
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use std::path::PathBuf;
use xylem_seal::EnvelopeOpener;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make the pair of keys that backups are sealed with
    ///
    /// The public key is printed, and given to `xylem server --backup-public-key`. The private key goes
    /// into a file: move that to where neither the backups nor the control plane are. Nobody can read a
    /// backup without it.
    Key(Key),
    /// Make a backup now
    ///
    /// The control plane writes it into its --backup-dir, as it does on schedule. Nobody waits for it:
    /// calls and workflows go on.
    Backup,
    /// Load a backup into an empty database
    ///
    /// Run it on the machine of the control plane, while none runs, with the key-encryption key that the
    /// backup was made under, in XYLEM_KEK or as keys/kek in the data directory, and with
    /// XYLEM_DATABASE_URL where the database is PostgreSQL. A backup of either kind of database goes into
    /// either.
    ///
    /// Grants begin a new epoch. What was revoked since the backup was made works again: start the control
    /// plane, revoke it again, and then say so with `xylem vault confirm`. No token is handed out before
    /// that; workflows wait, and nothing fails.
    #[command(after_help = RESTORE_EXAMPLE)]
    Restore(Box<Restore>),
    /// Replace a key that the control plane signs with, while everything runs
    #[command(subcommand)]
    RotateKey(RotateKey),
    /// Wrap everything under the current key-encryption key, so that older ones can go
    ///
    /// Give every control plane the new line first, as docs/operations.md says, and restart them. This
    /// goes on in small steps while everything runs: it may be stopped at any time, and goes on when it
    /// is run again. At the end it says which lines nothing in the database needs any more. A backup
    /// needs those that it was made under all the same: keep them with it.
    ///
    /// A control plane does not start without a key that still wraps something.
    ///
    /// This does not help against somebody who has an older key and a copy of the database from its
    /// time: the vault's root key is wrapped anew, and stays the same. docs/operations.md says what does.
    Rewrap,
    /// Hand tokens out again after a restore
    ///
    /// You confirm that the tokens, API keys, agents and policies that were revoked, retired or changed
    /// since the backup was made are revoked, retired or changed again.
    ///
    /// Of tools that are called at most once, a call that was made since then and has not ended is made again
    /// at its next attempt: cancel its workflow before, where that must not be.
    Confirm(Confirm),
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum RotateKey {
    /// Replace the key that signs access tokens
    ///
    /// It happens by itself every 90 days. The next key is published at once and signs ten minutes later,
    /// when everybody knows it; tokens of the one before are good until they expire.
    Signing(Signing),
    /// Replace the key that signs grants
    ///
    /// The grant of every token in every tree is signed again, and workflows trust the key before no more
    /// as soon as they have theirs: do it where that key may be in other hands. Tokens stay as they are.
    /// Calls wait while the grants are signed, and go on then.
    Issuer,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Signing {
    /// Somebody else may have the present key: the next one signs at once, and every access token that
    /// was signed before is refused, by other control planes within a minute
    ///
    /// Sessions and API keys stay: clients get another access token.
    #[arg(long)]
    compromised: bool,
}

const RESTORE_EXAMPLE: &str = "\
Example:
  xylem vault restore /mnt/backups/xylem-2026-11-22T01-00-00-000Z.backup --key-file backup.key
  xylem server
  xylem token revoke train-1 --version 1
  xylem vault confirm --reason 'revoked again what the log of Nov 22 shows'";

#[derive(Debug, clap::Args)]
pub(crate) struct Key {
    /// The file for the private key; it must not be there yet
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    /// The backup
    #[arg(value_name = "FILE")]
    backup: PathBuf,
    /// The file with the private key
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// The file that the control plane copies the audit log's checkpoints to, where it is told one
    #[arg(long, value_name = "FILE")]
    audit_checkpoints: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    temporal: TemporalArguments,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Confirm {
    /// What you looked at and did, for the audit log
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(crate) async fn run(command: Command, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        Command::Key(arguments) => key(&arguments, session),
        Command::Backup => back_up(session).await,
        Command::Restore(arguments) => restore(*arguments, session).await,
        Command::RotateKey(RotateKey::Signing(arguments)) => {
            rotate_signing(&arguments, session).await
        }
        Command::RotateKey(RotateKey::Issuer) => rotate_issuer(session).await,
        Command::Rewrap => rewrap::run(session).await,
        Command::Confirm(arguments) => confirm(arguments, session).await,
    }
}

fn key(arguments: &Key, session: &mut Session<'_>) -> Result<(), Failure> {
    let made = EnvelopeOpener::generate();
    let (public, private) = made.map_err(|error| Failure::from_error(Exit::Failed, &error))?;
    let text = SecretString::from(private.to_text().as_str());
    write_secret(&arguments.to, &text)?;
    let answer = json!({"publicKey": public.to_string(), "privateKeyFile": arguments.to});
    session.output.answer(&answer, |_| {
        format!(
            "{public}\n\nThe private key is in {}. Move it to where the backups are not: nobody can read \
             one without it.",
            arguments.to.display()
        )
    })?;
    Ok(())
}

async fn back_up(session: &mut Session<'_>) -> Result<(), Failure> {
    let backup = session.client().await?.back_up().await?;
    session.output.answer(&backup, |backup| {
        format!(
            "{}  {} bytes  {}",
            plain(&backup.file),
            backup.bytes,
            absolute(backup.at.as_ref())
        )
    })?;
    Ok(())
}

async fn restore(arguments: Restore, session: &mut Session<'_>) -> Result<(), Failure> {
    let text = read_secret(&arguments.key_file)?;
    let key: EnvelopeOpener = text
        .expose_secret()
        .parse()
        .map_err(|error| Failure::usage(format!("{} {error}", arguments.key_file.display())))?;
    let data = session.access.data_or(DataDir::server)?;
    let database = Database::from_environment().map_err(ServerError::from)?;
    let (mut checkpoints, mut temporal) = (arguments.audit_checkpoints, arguments.temporal);
    if let Some(settings) = arguments.config.settings(&data)? {
        let (of_server, servers) = settings.for_restore();
        (checkpoints, temporal) = (checkpoints.or(of_server), temporal.or(servers));
    }
    let namespace = namespace(&temporal)?;
    let backup = (arguments.backup.as_path(), key);
    let restored = server::restore(&data, &database, namespace, backup, checkpoints).await?;
    let answer = json!({
        "rows": restored.rows,
        "adminKeyFile": restored.admin_key,
        "checkpointsBefore": restored.checkpoints,
    });
    session.output.answer(&answer, |_| {
        let mut text = format!(
            "restored {} rows\n\n  administrator's API key  {}\n",
            restored.rows,
            restored.admin_key.display()
        );
        if let Some(path) = &restored.checkpoints {
            text.push_str(&format!("  checkpoints of before    {}\n", path.display()));
        }
        text.push_str(
            "\nStart the control plane, revoke again what was revoked since the backup was made, and say \
             so: `xylem vault confirm --reason TEXT`. No token is handed out before that.",
        );
        text
    })?;
    Ok(())
}

async fn rotate_signing(arguments: &Signing, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let made = client.rotate_signing_key(arguments.compromised).await?;
    session.output.answer(&made, |made| {
        let key = plain(&made.key_id);
        let from = absolute(made.signs_from.as_ref());
        if arguments.compromised {
            format!("{key} signs access tokens; those of the keys before are refused")
        } else {
            format!("{key} signs access tokens from {from} on")
        }
    })?;
    Ok(())
}

async fn rotate_issuer(session: &mut Session<'_>) -> Result<(), Failure> {
    let made = session.client().await?.rotate_issuer_key().await?;
    session.output.answer(&made, |made| {
        let trees = match made.trees {
            1 => "1 tree has".to_owned(),
            trees => format!("{trees} trees have"),
        };
        format!("{} signs grants; {trees} new ones", plain(&made.key_id))
    })?;
    Ok(())
}

async fn confirm(arguments: Confirm, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    client.confirm_restore(arguments.reason).await?;
    session.output.answer(&json!({"confirmed": true}), |_| {
        "tokens are handed out again".to_owned()
    })?;
    Ok(())
}

impl From<RestoreError> for Failure {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::Server(error) => error.into(),
            error => Self::from_error(Exit::Failed, &error),
        }
    }
}
