//! Files and commands of this machine that give the values of stored credentials.
//!
//! Which they are is said by whoever operates the machine, in a file beside the settings. A credential, and
//! so whoever may store one, only names an entry of it.

mod command;
mod file;

use crate::oauth::{Failed, Obtained};
use command::Command;
use file::File;
use secrecy::SecretString;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use xylem_grant::UnixSeconds;
use xylem_vault::{MAX_TOKEN_BYTES, MIN_TOKEN_BYTES, Provided};
use zeroize::Zeroizing;

/// The most that a file may hold and a command print: the longest value, and the fields around it.
const LARGEST: usize = 64 * 1024;
/// A command may take so long where its entry does not say,
const TIMEOUT: Duration = Duration::from_secs(30);
/// and no entry may say more: nobody else asks for the same credential meanwhile.
pub(crate) const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);

/// What the file of providers says: its fields as they stand there.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProviderFields {
    file: Vec<FileFields>,
    command: Vec<CommandFields>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileFields {
    name: String,
    path: PathBuf,
    #[serde(default)]
    format: Format,
    #[serde(default)]
    follow_links: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandFields {
    name: String,
    command: Vec<String>,
    #[serde(default)]
    format: Format,
    #[serde(default)]
    environment: Vec<String>,
    timeout: Option<String>,
}

/// How a value is written.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    /// It is all there is, but for the end of its line.
    #[default]
    Plain,
    /// `{"token": "…", "expiresAt": "2026-11-22T20:30:00Z"}`; other fields do not count.
    Json,
}

/// Files and commands that give the values of credentials, by their names.
#[derive(Debug, Clone, Default)]
pub struct CredentialProviders(Arc<BTreeMap<String, Entry>>);

#[derive(Debug)]
struct Entry {
    source: Source,
    format: Format,
    /// One is asked at a time.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
enum Source {
    File(File),
    Command(Command),
}

/// A field of an entry breaks its rule. Never quotes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{list} {}: {field} {rule}", .index + 1)]
pub struct ProviderRule {
    /// The list of the entry: `file` or `command`.
    pub list: &'static str,
    /// Which of the list it is, counted from 0.
    pub index: usize,
    /// The field.
    pub field: &'static str,
    rule: &'static str,
}

impl TryFrom<ProviderFields> for CredentialProviders {
    type Error = ProviderRule;

    fn try_from(fields: ProviderFields) -> Result<Self, ProviderRule> {
        let mut entries = BTreeMap::new();
        let wrong = |list, index, (field, rule)| ProviderRule {
            list,
            index,
            field,
            rule,
        };
        let mut add = |list, index, name: String, format, source| {
            if !Provided::is_name(&name) {
                let rule = "must be 1 to 64 lower-case letters, digits and hyphens";
                return Err(wrong(list, index, ("name", rule)));
            }
            let entry = Entry {
                source,
                format,
                turn: tokio::sync::Mutex::default(),
            };
            match entries.insert(name, entry) {
                None => Ok(()),
                Some(_) => Err(wrong(list, index, ("name", "must not be given twice"))),
            }
        };
        for (index, given) in fields.file.into_iter().enumerate() {
            if !given.path.is_absolute() {
                return Err(wrong("file", index, ("path", "must be absolute")));
            }
            let file = File {
                path: given.path,
                follow_links: given.follow_links,
            };
            add("file", index, given.name, given.format, Source::File(file))?;
        }
        for (index, given) in fields.command.into_iter().enumerate() {
            let (name, format) = (given.name.clone(), given.format);
            let command = checked(given).map_err(|rule| wrong("command", index, rule))?;
            add("command", index, name, format, Source::Command(command))?;
        }
        Ok(Self(Arc::new(entries)))
    }
}

/// The command, or which field breaks which rule.
fn checked(given: CommandFields) -> Result<Command, (&'static str, &'static str)> {
    let mut words = given.command.into_iter();
    let program = words.next().map(PathBuf::from);
    let program = program.filter(|program| program.is_absolute());
    let rule = "must begin with the absolute path of a program";
    let program = program.ok_or(("command", rule))?;
    let arguments: Vec<_> = words.collect();
    let has_nul = |text: &String| text.contains('\0');
    if arguments.iter().any(has_nul) {
        return Err(("command", "must not contain the character NUL"));
    }
    // What names this process's own secrets is not for others.
    let is_variable = |name: &String| {
        !name.is_empty() && !name.contains(['=', '\0']) && !name.starts_with("XYLEM_")
    };
    if !given.environment.iter().all(is_variable) {
        let rule = "must be a list of variables' names, none of which begins with XYLEM_";
        return Err(("environment", rule));
    }
    let timeout = given.timeout.as_deref().map(humantime::parse_duration);
    let timeout = timeout
        .transpose()
        .ok()
        .map(|given| given.unwrap_or(TIMEOUT));
    let timeout =
        timeout.filter(|given| (Duration::from_secs(1)..=LONGEST_TIMEOUT).contains(given));
    Ok(Command {
        program,
        arguments,
        environment: given.environment,
        timeout: timeout.ok_or(("timeout", "must be 1s to 60s"))?,
    })
}

impl CredentialProviders {
    /// Asks the one that a credential names.
    pub(crate) async fn ask(
        &self,
        provided: &Provided,
        now: UnixSeconds,
    ) -> Result<Obtained, Failed> {
        const UNKNOWN: &str = "the file of --credential-providers of this control plane has no entry of \
                               the credential's provider";
        let unknown = || Failed::here("provider_unknown", UNKNOWN);
        let entry = self.0.get(&provided.name).ok_or_else(unknown)?;
        let _turn = entry.turn.lock().await;
        let asked = async {
            let given = match &entry.source {
                Source::File(file) => file.read().await?,
                Source::Command(command) => command.run().await?,
            };
            read(&given, entry.format, now)
        };
        let obtained = asked.await;
        if let Err(Failed::Here(code, why)) = &obtained {
            // Which paths there are on this machine is for whoever runs it, and not for publishers.
            tracing::warn!(
                provider = provided.name,
                path = %entry.source.path().display(),
                code,
                "no value could be had: {why}"
            );
        }
        obtained
    }
}

impl Source {
    fn path(&self) -> &Path {
        match self {
            Self::File(file) => &file.path,
            Self::Command(command) => &command.program,
        }
    }
}

/// The fields of a JSON object that count.
#[derive(Deserialize)]
struct Given {
    token: Secret,
    #[serde(rename = "expiresAt")]
    expires_at: Option<String>,
}

/// Read straight into what is overwritten when it is dropped.
#[derive(Deserialize)]
#[serde(from = "String")]
struct Secret(SecretString);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

/// The value in what was given. No error repeats any of it.
fn read(given: &Zeroizing<Vec<u8>>, format: Format, now: UnixSeconds) -> Result<Obtained, Failed> {
    let malformed =
        |rule: &str| Failed::here("value_malformed", format!("the provider gave no {rule}"));
    let text = std::str::from_utf8(given).map_err(|_| malformed("text"))?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    let (token, expires_at) = match format {
        Format::Plain => (SecretString::from(text), None),
        Format::Json => {
            let given: Given = serde_json::from_str(text).map_err(|_| {
                malformed("JSON object with the text `token` and, if at all, the text `expiresAt`")
            })?;
            let at = given.expires_at.map(|at| humantime::parse_rfc3339(&at));
            let at = at.transpose();
            (
                given.token.0,
                at.map_err(|_| malformed("time of RFC 3339 in UTC in `expiresAt`"))?,
            )
        }
    };
    use secrecy::ExposeSecret;
    let bytes = token.expose_secret().as_bytes();
    let fits = (MIN_TOKEN_BYTES..=MAX_TOKEN_BYTES).contains(&bytes.len());
    if !fits || !bytes.iter().all(u8::is_ascii_graphic) {
        return Err(malformed("value of 16 to 16384 visible ASCII characters"));
    }
    let expires_at = expires_at.map(UnixSeconds::from);
    if expires_at.is_some_and(|at| at <= now) {
        return Err(Failed::here(
            "value_ended",
            "the provider gave a value that has ended",
        ));
    }
    Ok(Obtained {
        token,
        expires_at,
        refresh_token: None,
    })
}

/// Whether a file belongs to root or to whoever runs this process.
fn is_ours(owner: u32) -> bool {
    owner == 0 || owner == rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests;
