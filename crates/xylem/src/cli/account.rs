//! `xylem login`, `xylem logout` and `xylem account`.

use super::{
    failure::{Exit, Failure},
    output::{plain, relative, table},
    session::Session,
    tree::listed,
};
use crate::{
    data,
    signed_in::{self, Place, SignInError},
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use std::{
    fs,
    io::{self, BufRead, IsTerminal},
    path::{Path, PathBuf},
};
use xylem_client::v1;
use xylem_ids::AgentId;
use zeroize::Zeroizing;

#[derive(Debug, clap::Args)]
pub(crate) struct Login {
    /// Who signs in
    #[arg(value_name = "NAME")]
    name: AgentId,
    #[command(flatten)]
    password: PasswordSource,
    /// The one-time code, or a recovery code [default: asks on the terminal]
    #[arg(long, value_name = "CODE")]
    code: Option<SecretString>,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show who asks, by what, and what it may do
    Show,
    /// Enrol a device that makes one-time codes, or remove it
    #[command(subcommand)]
    SecondFactor(SecondFactor),
    /// Make an account: choose a password for a name
    ///
    /// With an invitation, which an administrator makes with `xylem agent invite`; without one where the
    /// control plane lets everybody register. A password has at least 15 characters, and is nothing that
    /// is tried first.
    Register(Register),
    /// Change the password; everybody who is signed in with the one before is signed out
    Password(Password),
    /// List where one is signed in
    Sessions,
    /// Sign out somewhere else
    End(End),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Register {
    /// The name
    #[arg(value_name = "NAME")]
    name: AgentId,
    /// A file with the invitation
    #[arg(long, value_name = "FILE")]
    invitation_file: Option<PathBuf>,
    #[command(flatten)]
    password: PasswordSource,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Password {
    #[command(flatten)]
    present: PasswordSource,
    /// Read the new password from this file; `-` is standard input [default: asks on the terminal]
    #[arg(long, value_name = "FILE")]
    new_password_file: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum SecondFactor {
    /// Show what a device needs to make codes; it counts when the first one was confirmed
    Enrol(PasswordSource),
    /// Show the first code; the recovery codes are shown then, this once
    Confirm(Code),
    /// Show other recovery codes, this once; the ones before are good no more
    ///
    /// The password and a one-time code are needed; a recovery code does not do. Whoever has lost the
    /// device removes it with a recovery code and enrols another.
    RecoveryCodes(RecoveryCodes),
    /// Remove it; a code is needed, and a password of at least 15 characters
    Remove(Code),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Code {
    /// The six digits, or a recovery code
    code: SecretString,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RecoveryCodes {
    /// The six digits
    code: SecretString,
    #[command(flatten)]
    password: PasswordSource,
}

#[derive(Debug, clap::Args)]
pub(crate) struct End {
    /// The session's id, as `xylem account sessions` shows it
    #[arg(allow_hyphen_values = true)]
    id: String,
}

/// Where a password comes from.
#[derive(Debug, clap::Args)]
pub(crate) struct PasswordSource {
    /// Read the password from this file; `-` is standard input [default: asks on the terminal]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl PasswordSource {
    fn read(&self, prompt: &str) -> Result<SecretString, Failure> {
        read(self.password_file.as_deref(), prompt)
    }
}

/// The first line of a file or of standard input, or what is typed without being shown.
fn read(file: Option<&Path>, prompt: &str) -> Result<SecretString, Failure> {
    let failed =
        |error: io::Error| Failure::new(Exit::Failed, format!("cannot read the password: {error}"));
    let mut line = Zeroizing::new(String::new());
    match file {
        Some(path) if path == Path::new("-") => {
            io::stdin().lock().read_line(&mut line).map_err(failed)?;
        }
        Some(path) => {
            let file = fs::File::open(path).map_err(failed)?;
            io::BufReader::new(file)
                .read_line(&mut line)
                .map_err(failed)?;
        }
        None if io::stdin().is_terminal() => {
            *line = rpassword::prompt_password(prompt).map_err(failed)?;
        }
        None => {
            return Err(Failure::usage("where is the password?")
                .hint("name a file with --password-file; `-` is standard input"));
        }
    }
    let text = line.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(Failure::usage("the password is empty"));
    }
    Ok(SecretString::from(text))
}

/// A new password, twice where somebody types it.
fn read_new(file: Option<&Path>) -> Result<SecretString, Failure> {
    let first = read(file, "New password (not shown): ")?;
    if file.is_none() {
        let second = read(None, "The same again: ")?;
        if first.expose_secret() != second.expose_secret() {
            return Err(Failure::usage("the two are not the same"));
        }
    }
    Ok(first)
}

pub(crate) async fn login(arguments: Login, session: &mut Session<'_>) -> Result<(), Failure> {
    let address = session.access.address()?;
    let password = arguments.password.read("Password (not shown): ")?;
    let mut place = Place::open(&address)?;
    let name = arguments.name.as_str();
    let trust = &session.access.trust;
    let code = match arguments.code {
        Some(code) => Some(code),
        None => ask_code()?,
    };
    let limited = place.sign_in(trust, name, &password, code.as_ref()).await?;
    if limited {
        let note =
            "a second factor is required: `xylem account second-factor enrol`, then sign in again";
        session.output.note(note);
    }
    let answer = json!({ "agent": name, "controlPlane": address });
    session.output.answer(&answer, |_| {
        format!("{name} is signed in at {address}; `xylem logout` ends it")
    })?;
    Ok(())
}

/// The code that a device shows; none where nobody can be asked. Whether one is needed is not told, so
/// that a name and a password cannot be tried out.
fn ask_code() -> Result<Option<SecretString>, Failure> {
    if !io::stdin().is_terminal() {
        return Ok(None);
    }
    let code = rpassword::prompt_password("One-time code (empty without a second factor): ");
    let code = code
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot ask for the code: {error}")))?;
    let code = SecretString::from(code.trim());
    Ok((!code.expose_secret().is_empty()).then_some(code))
}

pub(crate) async fn logout(session: &mut Session<'_>) -> Result<(), Failure> {
    let address = session.access.address()?;
    let ended = if Place::exists(&address) {
        let mut place = Place::open(&address)?;
        place.sign_out(&session.access.trust).await?
    } else {
        false
    };
    let answer = json!({ "controlPlane": address, "ended": ended });
    session.output.answer(&answer, |_| {
        if ended {
            format!("signed out at {address}")
        } else {
            format!("nobody was signed in at {address}")
        }
    })?;
    Ok(())
}

pub(crate) async fn run(command: Command, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        Command::Show => show(session).await,
        Command::SecondFactor(command) => second_factor(command, session).await,
        Command::Register(arguments) => register(arguments, session).await,
        Command::Password(arguments) => change(arguments, session).await,
        Command::Sessions => sessions(session).await,
        Command::End(arguments) => end(arguments, session).await,
    }
}

async fn register(arguments: Register, session: &mut Session<'_>) -> Result<(), Failure> {
    let address = session.access.address()?;
    let invitation = arguments.invitation_file.as_deref();
    let invitation = invitation.map(data::read_secret).transpose()?;
    let password = read_new(arguments.password.password_file.as_deref())?;
    let name = arguments.name.as_str();
    let mut body = json!({ "name": name, "password": password.expose_secret() });
    if let Some(invitation) = &invitation {
        body["invitation"] = invitation.expose_secret().into();
    }
    let body = Zeroizing::new(body.to_string());
    let trust = &session.access.trust;
    let (kind, patience) = ("application/json", signed_in::PATIENCE);
    signed_in::post(trust, &address, "/register", kind, body, patience).await?;
    let answer = json!({ "agent": name, "controlPlane": address });
    session.output.answer(&answer, |_| {
        format!("{name} has an account at {address}: `xylem login {name}`")
    })?;
    Ok(())
}

async fn change(arguments: Password, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let present = arguments.present.read("Present password (not shown): ")?;
    let new = read_new(arguments.new_password_file.as_deref())?;
    client.change_password(&present, &new).await?;
    session.output.answer(&json!({}), |_| {
        "the password was changed, and every session has ended: `xylem login` begins another"
            .to_owned()
    })?;
    Ok(())
}

async fn show(session: &mut Session<'_>) -> Result<(), Failure> {
    let status = session.client().await?.status().await?;
    let now = session.output.now();
    let answer = json!({
        "agent": status.agent,
        "roles": status.roles,
        "scopes": status.scopes,
        "narrowed": status.narrowed,
        "signedInAt": status.signed_in_at,
        "secondFactor": status.second_factor,
    });
    session.output.answer(&answer, |_| {
        let by = match &status.signed_in_at {
            Some(at) => format!("signed in {}", relative(Some(at), now)),
            None => "by an API key".to_owned(),
        };
        let factor = if status.second_factor {
            ", with a second factor"
        } else {
            ""
        };
        let scopes = match status.scopes.as_slice() {
            [] if status.narrowed => "\nscopes  none: nothing but this may be asked".to_owned(),
            [] => String::new(),
            scopes => format!("\nscopes  {}", plain(&scopes.join(" "))),
        };
        let roles = plain(&status.roles.join(" "));
        format!(
            "{}, {by}{factor}\nroles   {roles}{scopes}",
            plain(&status.agent)
        )
    })?;
    Ok(())
}

async fn second_factor(command: SecondFactor, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    match command {
        SecondFactor::Enrol(password) => {
            let password = password.read("Password (not shown): ")?;
            let (secret, uri) = client.enrol_second_factor(&password).await?;
            let (secret, uri) = (secret.expose_secret(), uri.expose_secret());
            let answer = json!({ "secret": secret, "uri": uri });
            session.output.answer_once(&answer, |_| {
                format!(
                    "give this to your authenticator, it is not shown again:\n\n  {secret}\n  {uri}\n\n\
                     `xylem account second-factor confirm CODE` with its first code ends enrolling"
                )
            })?;
        }
        SecondFactor::Confirm(Code { code }) => {
            let codes = client.confirm_second_factor(&code).await?;
            let first = "signing in takes a code from now on, and every session has ended: `xylem login` \
                         again. ";
            show_codes(&codes, first, session)?;
        }
        SecondFactor::RecoveryCodes(RecoveryCodes { code, password }) => {
            let password = password.read("Password (not shown): ")?;
            let codes = client.renew_recovery_codes(&password, &code).await?;
            show_codes(&codes, "the codes before are good no more. ", session)?;
        }
        SecondFactor::Remove(Code { code }) => {
            client.remove_second_factor(&code).await?;
            let text = "the second factor was removed".to_owned();
            session.output.answer(&json!({}), |_| text)?;
        }
    }
    Ok(())
}

fn show_codes(
    codes: &[SecretString],
    first: &str,
    session: &mut Session<'_>,
) -> Result<(), Failure> {
    let codes: Vec<&str> = codes.iter().map(ExposeSecret::expose_secret).collect();
    let answer = json!({ "recoveryCodes": codes });
    session.output.answer_once(&answer, |_| {
        format!(
            "{first}Each of these is good once instead of one of the device's, and they are not shown \
             again:\n\n  {}",
            codes.join("\n  ")
        )
    })
}

async fn sessions(session: &mut Session<'_>) -> Result<(), Failure> {
    let sessions = session.client().await?.list_sessions().await?;
    let now = session.output.now();
    let empty = "nobody is signed in with this account's password";
    listed(session.output, &sessions, empty, |sessions| {
        let row = |known: &v1::Session| {
            [
                plain(&known.id),
                plain(&known.client),
                if known.current { "*" } else { "" }.to_owned(),
                if known.second_factor { "yes" } else { "no" }.to_owned(),
                relative(known.opened_at.as_ref(), now),
                relative(known.refreshed_at.as_ref(), now),
                relative(known.ends_at.as_ref(), now),
            ]
        };
        let head = [
            "SESSION",
            "CLIENT",
            "THIS",
            "SECOND FACTOR",
            "OPENED",
            "REFRESHED",
            "ENDS",
        ];
        table(head, sessions.iter().map(row).collect())
    })
}

async fn end(arguments: End, session: &mut Session<'_>) -> Result<(), Failure> {
    session.client().await?.end_session(&arguments.id).await?;
    let answer = json!({ "session": arguments.id });
    let text = format!("ended {}", plain(&arguments.id));
    session.output.answer(&answer, |_| text)?;
    Ok(())
}

impl From<SignInError> for Failure {
    fn from(error: SignInError) -> Self {
        match error {
            SignInError::Data(error) => error.into(),
            SignInError::Address(error) => error.into(),
            SignInError::Unreachable(_) => Self::from_error(Exit::Unavailable, &error)
                .hint("is `xylem dev` or `xylem server` running there?"),
            SignInError::Unintelligible => Self::from_error(Exit::Failed, &error),
            SignInError::Refused(_) => Self::from_error(Exit::Refused, &error),
            SignInError::NotValid(_) => {
                Self::from_error(Exit::Refused, &error).hint("`xylem login NAME` signs in again")
            }
        }
    }
}
