//! The file with the settings of `xylem server`.
//!
//! Its settings are the options of the command, under the same names and rules: clap's description of
//! them is the only list there is. What the file says is handed to clap as if it were said on the command
//! line, where that says nothing.

use super::settings::Settings;
use crate::{cli::failure::Failure, data::DataError};
use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, parser::ValueSource};
use std::{
    error::Error,
    ffi::{OsStr, OsString},
    fmt::Write,
    fs,
    path::Path,
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// The width of comments.
const WIDTH: usize = 100;

const PREFACE: &str = "\
# How `xylem server` runs, read at its start. An option of the command line goes before what is said here;
# a setting that does not exist is an error. `xylem server --check` says whether the file is right.
#
# No secret belongs in here: settings name the files that hold them. The database and the key-encryption
# keys are named by the environment, in XYLEM_DATABASE_URL, XYLEM_DATABASE_PASSWORD_FILE and XYLEM_KEK.
";

/// The settings of a command line, completed by those of a file.
pub(super) fn complete(given: &ArgMatches, file: &Path) -> Result<Settings, Failure> {
    let text = fs::read_to_string(file).map_err(|source| DataError::io("read", file, source))?;
    settings(given, &text).map_err(|failure| failure.about(&file.display().to_string()))
}

/// The settings of a file.
pub(super) fn alone(file: &Path) -> Result<Settings, Failure> {
    let nothing = options().try_get_matches_from(std::iter::empty::<OsString>());
    complete(
        &nothing.map_err(|error| Failure::usage(plain(&error)))?,
        file,
    )
}

fn settings(given: &ArgMatches, text: &str) -> Result<Settings, Failure> {
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        wrong(text, at, error.message())
    })?;
    let command = options();
    let mut line = Vec::new();
    let mut needing = Vec::new();
    for (name, value) in table.get_ref() {
        let at = name.span().start;
        let argument = named(&command, name.get_ref()).ok_or_else(|| unknown(text, name))?;
        let words = words(argument, value.get_ref())
            .ok_or_else(|| wrong(text, at, format!("{} {}", name.get_ref(), rule(argument))))?;
        if let Err(error) = command.clone().try_get_matches_from(&words) {
            if let Some(why) = invalid(&error) {
                return Err(wrong(text, at, format!("{}: {why}", name.get_ref())));
            }
            needing.push((name, missing(&error)));
        }
        if !is_given(given, argument) {
            line.extend(words);
        }
    }
    let said = command
        .get_arguments()
        .filter(|argument| is_given(given, argument));
    line.extend(said.flat_map(|argument| repeated(argument, given)));
    let settled = command.try_get_matches_from(line);
    let settled = settled.and_then(|matches| Settings::from_arg_matches(&matches));
    settled.map_err(|error| {
        let (why, lacking) = (plain(&error), missing(&error));
        let mut needing = needing.iter();
        match needing.find(|(_, needed)| needed.iter().any(|it| lacking.contains(it))) {
            Some((name, _)) => wrong(
                text,
                name.span().start,
                format!("{}: {why}", name.get_ref()),
            ),
            None => Failure::usage(why),
        }
    })
}

/// The options that are not there, but have to be beside others.
fn missing(error: &clap::Error) -> Vec<String> {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::MissingRequiredArgument, Some(ContextValue::Strings(names))) => names.clone(),
        _ => Vec::new(),
    }
}

/// The options, as clap knows them.
fn options() -> clap::Command {
    let command = clap::Command::new("xylem server")
        .no_binary_name(true)
        .disable_help_flag(true);
    Settings::augment_args(command)
}

fn named<'a>(command: &'a clap::Command, name: &str) -> Option<&'a Arg> {
    command
        .get_arguments()
        .find(|argument| field(argument).as_deref() == Some(name))
}

/// What an option is called in the file: what it is called on the command line, as TOML writes names.
fn field(argument: &Arg) -> Option<String> {
    Some(argument.get_long()?.replace('-', "_"))
}

/// Whether the command line, or the environment, says it.
fn is_given(given: &ArgMatches, argument: &Arg) -> bool {
    let source = given.value_source(argument.get_id().as_str());
    source.is_some_and(|source| source != ValueSource::DefaultValue)
}

/// An option as it was given.
fn repeated(argument: &Arg, given: &ArgMatches) -> Vec<OsString> {
    let (id, long) = (argument.get_id().as_str(), argument.get_long());
    let long = long.unwrap_or_default();
    if is_switch(argument) {
        return vec![format!("--{long}").into()];
    }
    let values = given.get_raw(id).into_iter().flatten();
    values.map(|value| option(long, value)).collect()
}

fn option(long: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut option = OsString::from(format!("--{long}="));
    option.push(value);
    option
}

fn is_switch(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::SetTrue)
}

fn is_list(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::Append)
}

/// A value of the file as options of the command line; none where it is of another kind.
fn words(argument: &Arg, value: &DeValue<'_>) -> Option<Vec<OsString>> {
    let long = argument.get_long()?;
    let one = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Some(option(long, text.as_ref())),
        DeValue::Integer(number) if number.radix() == 10 => Some(option(long, number.as_str())),
        _ => None,
    };
    match value {
        DeValue::Boolean(said) if is_switch(argument) => {
            let switch = OsString::from(format!("--{long}"));
            Some(said.then_some(switch).into_iter().collect())
        }
        _ if is_switch(argument) => None,
        DeValue::Array(values) if is_list(argument) => {
            values.iter().map(|value| one(value.get_ref())).collect()
        }
        value => Some(vec![one(value)?]),
    }
}

/// Of which kind a value is to be.
fn rule(argument: &Arg) -> &'static str {
    match argument {
        argument if is_switch(argument) => "must be true or false",
        argument if is_list(argument) => "must be a list of texts",
        _ => "must be a text or a number",
    }
}

/// Why a value is not one; none where something else is missing. Nothing of the value is repeated.
fn invalid(error: &clap::Error) -> Option<String> {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    match error.kind() {
        ErrorKind::ValueValidation => {
            let why = error.source().map(ToString::to_string);
            Some(why.unwrap_or_else(|| "is not valid".to_owned()))
        }
        ErrorKind::InvalidValue => match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(values)) => {
                Some(format!("must be one of {}", values.join(", ")))
            }
            _ => Some("must not be empty".to_owned()),
        },
        _ => None,
    }
}

/// What clap says about options that do not go together, in one line and without how to call the
/// command.
fn plain(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let lines = text.lines().take_while(|line| !line.starts_with("Usage:"));
    let words: Vec<_> = lines.flat_map(str::split_whitespace).collect();
    words.join(" ").trim_start_matches("error: ").to_owned()
}

fn unknown(text: &str, name: &Spanned<std::borrow::Cow<'_, str>>) -> Failure {
    let said = name.get_ref();
    let like_a_name = (1..=40).contains(&said.len())
        && said
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let rule = match like_a_name {
        true => format!("there is no setting `{said}`"),
        false => "this is no setting".to_owned(),
    };
    let hint =
        "the settings are the options that `xylem server --help` lists, with _ in place of -";
    wrong(text, name.span().start, rule).hint(hint)
}

fn wrong(text: &str, at: usize, rule: impl std::fmt::Display) -> Failure {
    let before = text.get(..at).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    Failure::usage(format!("line {line}: {rule}"))
}

/// A file with every setting: those that a command line gave, and the others as comments, with what holds
/// where nothing is said.
pub(super) fn write(given: &ArgMatches) -> Result<String, Failure> {
    let mut text = PREFACE.to_owned();
    let mut heading = None;
    for argument in options().get_arguments() {
        let Some(name) = field(argument) else {
            continue;
        };
        if argument.get_help_heading() != heading {
            heading = argument.get_help_heading();
            let _ = write!(
                text,
                "\n# {}\n",
                heading.unwrap_or("Options").to_uppercase()
            );
        }
        text.push('\n');
        comment(&mut text, argument);
        let is_given =
            given.value_source(argument.get_id().as_str()) == Some(ValueSource::CommandLine);
        let value = if is_given {
            said(argument, given)?
        } else {
            example(argument)
        };
        let mark = if is_given { "" } else { "# " };
        let _ = writeln!(text, "{mark}{name} = {value}");
    }
    Ok(text)
}

fn comment(text: &mut String, argument: &Arg) {
    let help = argument
        .get_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let mut line = String::from("#");
    for word in help.split_whitespace() {
        if line.len() + word.len() >= WIDTH {
            let _ = writeln!(text, "{line}");
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(text, "{line}");
}

/// What was given, as TOML.
fn said(argument: &Arg, given: &ArgMatches) -> Result<String, Failure> {
    if is_switch(argument) {
        return Ok("true".to_owned());
    }
    let values = given
        .get_raw(argument.get_id().as_str())
        .into_iter()
        .flatten();
    let values: Option<Vec<_>> = values.map(|value| Some(literal(value.to_str()?))).collect();
    let values = values.ok_or_else(|| Failure::usage("an option is not UTF-8"))?;
    Ok(list_or_one(argument, &values))
}

/// What stands in a comment: what holds if nothing is said, or what would stand there.
fn example(argument: &Arg) -> String {
    if is_switch(argument) {
        return "false".to_owned();
    }
    let defaults = argument.get_default_values().iter();
    let mut values: Vec<_> = defaults
        .filter_map(|value| Some(literal(value.to_str()?)))
        .collect();
    if values.is_empty() {
        let names = argument.get_value_names().unwrap_or_default();
        values.extend(names.iter().map(|name| literal(name)));
    }
    list_or_one(argument, &values)
}

fn list_or_one(argument: &Arg, values: &[String]) -> String {
    match is_list(argument) {
        true => format!("[{}]", values.join(", ")),
        false => values.join(" "),
    }
}

/// A number, or a text; what JSON writes as a string is one of TOML.
fn literal(value: &str) -> String {
    match value.parse::<u64>() {
        Ok(number) => number.to_string(),
        Err(_) => serde_json::Value::from(value).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(line: &[&str]) -> ArgMatches {
        options().try_get_matches_from(line).unwrap()
    }

    fn read(line: &[&str], text: &str) -> Result<String, String> {
        let settings = settings(&given(line), text);
        let settings = settings.map(|settings| format!("{settings:?}"));
        settings.map_err(|failure| failure.to_string())
    }

    const FILE: &str = "\
listen = \"[::1]:7000\"
listen_cert = \"/etc/xylem/cert.pem\"
listen_key = \"/etc/xylem/key.pem\"
cors_origin = [\"https://a.example\", \"https://b.example\"]
requests_per_agent = 5
open_registration = true
single_operator = false
second_factor_for = [\"admin\"]
audit_archive = \"/archive\"
audit_keep = \"30d\"
backup_every = \"12h\"
namespace = \"prod\"
";

    #[test]
    fn a_file_says_what_the_command_line_could() {
        let line = [
            "--listen=[::1]:7000",
            "--listen-cert=/etc/xylem/cert.pem",
            "--listen-key=/etc/xylem/key.pem",
            "--cors-origin=https://a.example",
            "--cors-origin=https://b.example",
            "--requests-per-agent=5",
            "--open-registration",
            "--second-factor-for=admin",
            "--audit-archive=/archive",
            "--audit-keep=30d",
            "--backup-every=12h",
            "--namespace=prod",
        ];
        assert_eq!(read(&[], FILE), read(&line, ""));
    }

    #[test]
    fn the_command_line_goes_before_the_file() {
        let line = [
            "--listen=127.0.0.1:1",
            "--cors-origin=https://c.example",
            "-n",
            "dev",
        ];
        let changed = FILE
            .replace("[::1]:7000", "127.0.0.1:1")
            .replace(
                "\"https://a.example\", \"https://b.example\"",
                "\"https://c.example\"",
            )
            .replace("prod", "dev");
        assert_eq!(read(&line, FILE), read(&[], &changed));
    }

    #[test]
    fn what_is_no_setting_or_no_value_is_refused_by_name_and_line() {
        for (text, expected) in [
            (
                "\nlistn = \"127.0.0.1:1\"",
                "line 2: there is no setting `listn`",
            ),
            ("config = \"x\"", "line 1: there is no setting `config`"),
            ("\"sk canary\" = 1", "line 1: this is no setting"),
            ("[tls]\ncert = \"x\"", "line 1: there is no setting `tls`"),
            (
                "\nlisten = \"canary\"",
                "line 2: listen: invalid socket address",
            ),
            ("listen = true", "line 1: listen must be a text"),
            (
                "listen = [\"127.0.0.1:1\"]",
                "line 1: listen must be a text",
            ),
            (
                "single_operator = \"canary\"",
                "line 1: single_operator must be true or false",
            ),
            (
                "trusted_proxy = [true]",
                "line 1: trusted_proxy must be a list",
            ),
            ("trusted_proxy = [\"canary\"]", "line 1: trusted_proxy: "),
            ("requests_per_agent = -1", "line 1: requests_per_agent: "),
            ("backup_keep = 0", "line 1: backup_keep: "),
            (
                "audit_keep = \"6d\"",
                "line 1: audit_keep: expected 7d or more",
            ),
            (
                "proxy_header = \"canary\"",
                "line 1: proxy_header: must be one of x-forwarded-for, forwarded",
            ),
            (
                "second_factor_for = [\"canary\"]",
                "line 1: second_factor_for: must be one of admin",
            ),
            ("\n\nlisten = ", "line 3: "),
            ("\nlisten_cert = \"/cert.pem\"", "line 2: listen_cert: "),
            ("listen_cert = \"/cert.pem\"", "--listen-key"),
            ("backup_dir = \"/backups\"", "line 1: backup_dir: "),
            ("backup_dir = \"/backups\"", "--backup-public-key"),
        ] {
            let error = read(&[], text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("canary"), "{text}: {error}");
        }
    }

    #[test]
    fn a_written_file_says_what_was_given_and_lists_the_rest() {
        let line = [
            "--listen=[::1]:7000",
            "--cors-origin=https://a.example",
            "--cors-origin=https://b.example",
            "--audit-checkpoints=/a \"b\"\\c\n/\u{e9}",
            "--requests-per-agent=5",
            "--single-operator",
        ];
        let text = write(&given(&line)).unwrap();
        assert_eq!(read(&[], &text), read(&line, ""), "{text}");
        let fresh = write(&given(&[])).unwrap();
        assert_eq!(read(&[], &fresh), read(&[], ""), "{fresh}");
        // Every option is there, once, and with what holds where nothing is said.
        for argument in options().get_arguments() {
            let start = format!("# {} = ", field(argument).unwrap());
            assert_eq!(fresh.matches(&start).count(), 1, "{start}");
        }
        assert!(fresh.contains("# listen = \"127.0.0.1:7243\"\n"), "{fresh}");
    }
}
