//! The command line.

mod access;
mod account;
mod agent;
mod alert;
mod archives;
mod audit;
mod cascade;
mod credential;
mod doctor;
mod draw;
mod failure;
mod key;
mod output;
mod pages;
mod policy;
mod secret;
mod serve;
mod session;
mod token;
mod tool;
mod tree;
mod usage;
mod vault;

use crate::logging;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use failure::{Exit, Failure};
use output::{Format, Output};
use session::{Access, Session};
use std::process::ExitCode;

/// Carries credentials from the root of a Temporal workflow tree to every leaf
///
/// `xylem dev` starts everything on this machine; the other commands find it by themselves.
#[derive(Debug, Parser)]
#[command(name = "xylem", version, after_help = EXIT_STATUS, after_long_help = FIRST_STEPS)]
struct Cli {
    #[command(flatten)]
    access: Access,
    /// What standard output carries; progress and messages go to standard error
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        help_heading = "Global options"
    )]
    output: Format,
    /// What is logged: error, warn, info, debug or trace
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        help_heading = "Global options"
    )]
    log_level: Option<logging::Level>,
    #[command(subcommand)]
    command: Command,
}

const FIRST_STEPS: &str = "\
Examples:
  xylem dev                                      in one terminal
  xylem tool add --approve --file tools.json     in another one
  xylem tree start --workflow-id train-1 --type ToolTree --input-file tree.json \\
    --tool acme.status --audience https://api.acme.example --token-file v1.token
  xylem token rotate train-1 --token-file v2.token --wait
  xylem token revoke train-1 --version 1

Durations are written with their units: 500ms, 90s, 12h, 30d, 1h30m.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 refused by policy or gate, 4 not found, 5 unavailable";

const EXIT_STATUS: &str = "Exit status: 0 done, 1 failed, 2 wrong usage, 3 refused by policy or \
                           gate, 4 not found, 5 unavailable";

#[derive(Debug, Subcommand)]
enum Command {
    /// Start Temporal, control plane and worker on this machine
    ///
    /// When all of it is ready, prints where it listens; with --output json, as one line. Ctrl-C
    /// stops it. A second start with the same data directory finds the trees and keys of the first.
    Dev(serve::DevArguments),
    /// Run the control plane
    ///
    /// `xylem server init` makes its keys, its first administrator and a file with its settings, once.
    ///
    /// The database is a SQLite file in the data directory, or the PostgreSQL database that
    /// XYLEM_DATABASE_URL names: postgres://USER@HOST:PORT/DATABASE. Its password can be in the file that
    /// XYLEM_DATABASE_PASSWORD_FILE names. What goes over a network is encrypted, and the server's
    /// certificate and name are verified; ?sslrootcert=FILE adds an authority. A server on this machine
    /// is reached through its socket: ?host=/var/run/postgresql.
    ///
    /// Several control planes can share one PostgreSQL database: give each the same key-encryption key,
    /// in XYLEM_KEK or as keys/kek in its data directory, and run `xylem server init` for the first only.
    Server(Box<serve::ServerArguments>),
    /// Run a worker with the shipped workflows
    ///
    /// Its API key must serve the task queue: `xylem key create --role worker --task-queue QUEUE`.
    Worker(serve::WorkerArguments),
    /// Start, look at and stop trees of workflows
    #[command(subcommand)]
    Tree(tree::Command),
    /// Set, rotate and revoke the tokens of a tree
    #[command(subcommand)]
    Token(token::Command),
    /// Store secrets under names of their own, for many trees
    #[command(subcommand)]
    Credential(credential::Command),
    /// Register the operations of external APIs
    #[command(subcommand)]
    Tool(tool::Command),
    /// Say who may do what, and ask why somebody may not
    #[command(subcommand)]
    Policy(policy::Command),
    /// Ask for access, and approve what others ask for
    #[command(subcommand)]
    Access(access::Command),
    /// Sign in with a password
    ///
    /// The other commands go by it then, at this control plane, until `xylem logout` or for a week
    /// without one. It lies in a file for its owner alone, under XDG_STATE_HOME or ~/.local/state. An API
    /// key that is named with --key-file or XYLEM_API_KEY comes before it.
    Login(account::Login),
    /// Sign out: end the session there, and forget it here
    Logout,
    /// Make an account, change its password, see where one is signed in
    #[command(subcommand)]
    Account(account::Command),
    /// Make and revoke API keys
    #[command(subcommand)]
    Key(key::Command),
    /// Register who may ask the control plane
    #[command(subcommand)]
    Agent(agent::Command),
    /// See what somebody should look at
    #[command(subcommand)]
    Alert(alert::Command),
    /// See how often tools are called, for whom, how that goes and how long it takes
    ///
    /// Counted from the audit log, some seconds later. Who is no administrator and no auditor sees its
    /// own usage, and with --tool that of a tool it owns.
    Usage(usage::Arguments),
    /// Read the audit log
    #[command(subcommand)]
    Audit(audit::Command),
    /// Back the control plane's database up, and restore it
    #[command(subcommand)]
    Vault(vault::Command),
    /// Check the installation and say what is missing
    ///
    /// Each check is named, with what to do. The status is 1 where one has failed; warnings are no
    /// failures.
    Doctor(doctor::Arguments),
}

/// Every command, as the program parses them.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// The program: parses the arguments, runs the command, and says how it ended.
#[must_use]
pub fn main() -> ExitCode {
    logging::quiet_panics();
    let (cli, given) = match parse() {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help and version are answers, everything else is wrong usage (status 2).
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let mut output = Output::standard(cli.output);
    match run(cli, &given, &mut output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if failure.exit != Exit::Unread {
                output.note(&failure.to_string());
            }
            failure.exit.into()
        }
    }
}

/// The command line, and what of it was said and what was not.
fn parse() -> Result<(Cli, ArgMatches), clap::Error> {
    let mut command = Cli::command();
    let given = command.try_get_matches_from_mut(std::env::args_os())?;
    let cli = Cli::from_arg_matches(&given).map_err(|error| error.format(&mut command))?;
    Ok((cli, given))
}

fn run(cli: Cli, given: &ArgMatches, output: &mut Output) -> Result<(), Failure> {
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| Failure::new(Exit::Failed, format!("no threads: {error}")))?;
    let done = runtime.block_on(execute(cli, given, output));
    // A prompt or a pipe that is still being read must not keep the process.
    runtime.shutdown_background();
    done
}

async fn execute(cli: Cli, given: &ArgMatches, output: &mut Output) -> Result<(), Failure> {
    let level = cli.log_level;
    let mut session = Session::new(cli.access, output);
    match cli.command {
        Command::Dev(arguments) => serve::dev(arguments, level, &mut session).await,
        Command::Server(arguments) => {
            let given = given.subcommand_matches("server").unwrap_or(given);
            serve::server(*arguments, given, level, &mut session).await
        }
        Command::Worker(arguments) => serve::worker(arguments, level, &mut session).await,
        command => {
            logging::to_standard_error(level.unwrap_or(logging::Level::Warn));
            operate(command, &mut session).await
        }
    }
}

async fn operate(command: Command, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        Command::Tree(command) => tree::run(command, session).await,
        Command::Token(command) => token::run(command, session).await,
        Command::Credential(command) => credential::run(command, session).await,
        Command::Tool(command) => tool::run(command, session).await,
        Command::Policy(command) => policy::run(command, session).await,
        Command::Access(command) => access::run(command, session).await,
        Command::Login(arguments) => account::login(arguments, session).await,
        Command::Logout => account::logout(session).await,
        Command::Account(command) => account::run(command, session).await,
        Command::Key(command) => key::run(command, session).await,
        Command::Agent(command) => agent::run(command, session).await,
        Command::Alert(command) => alert::run(command, session).await,
        Command::Usage(arguments) => usage::run(arguments, session).await,
        Command::Audit(command) => audit::run(command, session).await,
        Command::Vault(command) => vault::run(command, session).await,
        Command::Doctor(arguments) => doctor::run(arguments, session).await,
        Command::Dev(_) | Command::Server(_) | Command::Worker(_) => Ok(()),
    }
}

/// A duration as people write it: `500ms`, `90s`, `12h`, `30d`.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "expected a duration with its unit, such as 500ms, 90s, 12h or 30d".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_a_help_text_that_does_not_change_by_accident() {
        let mut root = Cli::command().term_width(100);
        root.build();
        let mut texts = Vec::new();
        collect(&mut root, &mut texts);
        insta::assert_snapshot!(texts.join("\n"));
    }

    fn collect(command: &mut clap::Command, texts: &mut Vec<String>) {
        let name = command.get_bin_name().unwrap_or("xylem").to_owned();
        let help = command.render_long_help();
        texts.push(format!("==== {name}\n{help}"));
        let subcommands = command.get_subcommands_mut();
        for subcommand in subcommands.filter(|command| command.get_name() != "help") {
            collect(subcommand, texts);
        }
    }

    #[test]
    fn an_id_may_begin_with_a_hyphen() {
        for id in ["-moZhYIIvUHh", "-h9_xylem", "--5kNC_-P-yJ", "-"] {
            for line in [
                &["key", "rotate", id, "--overlap", "1h"][..],
                &["key", "rotate", "--overlap", "1h", id],
                &["key", "revoke", id],
                &["account", "end", id],
                &["access", "show", id],
                &["access", "approve", id, "--reason", "fine"],
            ] {
                let words = std::iter::once("xylem").chain(line.iter().copied());
                let matches = Cli::command().try_get_matches_from(words);
                let matches = matches.unwrap_or_else(|error| panic!("{line:?}: {error}"));
                let (_, of) = matches.subcommand().expect("a command");
                let (_, of) = of.subcommand().expect("another one");
                let mut raw = of.get_raw("id").expect("an id");
                assert_eq!(
                    raw.next().and_then(|raw| raw.to_str()),
                    Some(id),
                    "{line:?}"
                );
            }
        }
    }

    #[test]
    fn no_option_takes_the_name_of_one_that_every_command_has() {
        let root = Cli::command();
        let everywhere: Vec<_> = root.get_arguments().map(clap::Arg::get_id).collect();
        let mut commands: Vec<_> = root.get_subcommands().collect();
        while let Some(command) = commands.pop() {
            // Whoever restores a backup asks no control plane: the key is that of the backup.
            let own = command.get_arguments().map(clap::Arg::get_id);
            let mut twice =
                own.filter(|id| command.get_name() != "restore" && everywhere.contains(id));
            assert_eq!(twice.next(), None, "{}", command.get_name());
            commands.extend(command.get_subcommands());
        }
    }

    #[test]
    fn no_option_takes_a_secret() {
        let mut root = Cli::command();
        root.build();
        let mut commands = vec![&root];
        while let Some(command) = commands.pop() {
            for argument in command.get_arguments() {
                let name = argument.get_long().unwrap_or_default();
                assert!(
                    ![
                        "token",
                        "key",
                        "api-key",
                        "secret",
                        "password",
                        "temporal-api-key"
                    ]
                    .contains(&name),
                    "{} --{name}",
                    command.get_name()
                );
            }
            commands.extend(command.get_subcommands());
        }
    }
}
