//! `xylem credential`.

use super::{
    failure::Failure,
    output::{plain, relative, table},
    pages,
    secret::{self, TokenSource},
    session::Session,
    tree::{listed, wire},
};
use secrecy::{ExposeSecret, SecretString};
use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use xylem_client::{Client, Error, Timestamp, v1};
use xylem_ids::{AgentId, Audience, CredentialName, Slot, WorkflowType};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Store a secret under a name, for many trees
    ///
    /// Nothing gives it out again: trees that are started with it redeem it, one call at a time.
    #[command(after_help = ADD_EXAMPLE)]
    Add(Box<Add>),
    /// Show a credential: its versions, what starts with it, and how many trees hold it
    Show(Named),
    /// List credentials by name
    List,
    /// Store the next version, and give it to every tree that holds the one before
    #[command(after_help = ROTATE_EXAMPLE)]
    Rotate(Rotate),
    /// Obtain the next version of a credential from its provider, now
    ///
    /// It is obtained by itself before it ends; this asks again after the provider has refused. One that
    /// still gives the same value makes no new version.
    Renew(Named),
    /// Let every tree of a workflow type start with a credential
    ///
    /// Trees that are started from here on have it in that slot and follow its rotations.
    #[command(after_help = BIND_EXAMPLE)]
    Bind(Binding),
    /// Let trees of a workflow type start without it again
    ///
    /// Trees that run keep it and go on following its rotations.
    Unbind(Binding),
    /// Revoke a version for good, once no tree needs it
    ///
    /// The status is 3 where trees are behind or calls with the version are under way at the end of
    /// --wait.
    Revoke(Revoke),
    /// Remove a credential that no tree holds, and destroy its key
    Remove(Remove),
}

const ADD_EXAMPLE: &str = "\
Examples:
  xylem credential add acme --audience https://api.acme.example --token-file acme.token \\
    --rotate-every 90d
  xylem credential add acme --audience https://api.acme.example --provider acme-file
  xylem credential bind acme --type ReleaseTrain";

const ROTATE_EXAMPLE: &str = "\
Examples:
  xylem credential rotate acme                       asks for the secret, without echo
  pass api/acme | xylem credential rotate acme --token-stdin --expires-in 90d";

const BIND_EXAMPLE: &str = "\
Example:
  xylem credential bind acme --type ReleaseTrain --slot default
  xylem tree start --workflow-id train-1 --type ReleaseTrain --tool acme.deploy";

/// A secret and when it ends.
#[derive(Debug, clap::Args)]
pub(crate) struct Value {
    #[command(flatten)]
    source: TokenSource,
    /// When the secret ends, from now on, such as 90d; said by `list`, `show` and `xylem doctor`
    /// before it does
    #[arg(long, value_name = "DURATION", value_parser = super::duration)]
    expires_in: Option<Duration>,
    /// Take a secret of fewer than 16 characters: answers are searched for it less surely
    #[arg(long)]
    allow_short: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    /// The credential's name
    name: CredentialName,
    #[command(flatten)]
    value: Value,
    /// An origin, optionally with a path prefix, to which the secret may be sent; can be repeated
    #[arg(long = "audience", value_name = "URL", required = true)]
    audiences: Vec<Audience>,
    /// How often it is to be rotated, such as 90d
    #[arg(long, value_name = "DURATION", value_parser = super::duration)]
    rotate_every: Option<Duration>,
    /// Who answers for it [default: whoever adds it]
    #[arg(long, value_name = "AGENT")]
    owner: Option<AgentId>,
    #[command(flatten)]
    provider: Provider,
    #[command(flatten)]
    obtained: Obtained,
}

/// What holds for every secret that is obtained, whoever gives it.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Secrets that are obtained")]
pub(crate) struct Obtained {
    /// A file or a command of the control plane's machine gives the secret, now and before it ends: the name
    /// of an entry of the file of `xylem server --credential-providers`
    #[arg(long, value_name = "NAME", group = "obtained")]
    #[arg(conflicts_with_all = ["token_stdin", "token_file", "token_env", "expires_in", "allow_short"])]
    provider: Option<String>,
    /// Ask here with each new secret before anything gets it; nothing changes where that is refused
    #[arg(long, value_name = "URL", requires = "obtained")]
    probe_url: Option<String>,
    /// Revoke each version by itself, once no tree needs it
    #[arg(long, requires = "obtained")]
    revoke_old: bool,
}

impl Obtained {
    fn provider(&self) -> Option<v1::CredentialProvider> {
        Some(v1::CredentialProvider {
            name: self.provider.clone()?,
            probe_url: self.probe_url.clone().unwrap_or_default(),
            revoke_old: self.revoke_old,
        })
    }
}

/// An OAuth 2.0 provider that gives the secret. The token that is read is the client's secret then.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "OAuth 2.0")]
pub(crate) struct Provider {
    /// The provider's token endpoint: the secret is obtained there, now and before it ends
    #[arg(long, value_name = "URL", requires = "client_id", group = "obtained")]
    oauth_url: Option<String>,
    /// The client that asks; its secret is the token that is read
    #[arg(long, value_name = "ID", requires = "oauth_url")]
    client_id: Option<String>,
    /// What is asked for; can be repeated
    #[arg(long = "scope", value_name = "SCOPE", requires = "oauth_url")]
    scopes: Vec<String>,
    /// The API that it is for, where the provider wants to know
    #[arg(long, value_name = "URL", requires = "oauth_url")]
    resource: Option<String>,
    /// Send the client's secret in the form, where the provider takes no Authorization header
    #[arg(long, requires = "oauth_url")]
    secret_in_form: bool,
    /// How long a token lives, where the provider does not say it, such as 1h
    #[arg(long, value_name = "DURATION", value_parser = super::duration, requires = "oauth_url")]
    assume_lifetime: Option<Duration>,
    /// Obtain it with the refresh token in this file
    #[arg(long, value_name = "FILE", requires = "oauth_url")]
    refresh_token_file: Option<PathBuf>,
}

impl Provider {
    fn oauth(&self, obtained: &Obtained) -> Option<v1::OAuth> {
        Some(v1::OAuth {
            token_url: self.oauth_url.clone()?,
            client_id: self.client_id.clone().unwrap_or_default(),
            scopes: self.scopes.clone(),
            resource: self.resource.clone().unwrap_or_default(),
            secret_in_form: self.secret_in_form,
            assume_lifetime: self.assume_lifetime.map(wire),
            with_refresh_token: self.refresh_token_file.is_some(),
            probe_url: obtained.probe_url.clone().unwrap_or_default(),
            revoke_old: obtained.revoke_old,
        })
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Named {
    /// The credential's name
    name: CredentialName,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Rotate {
    /// The credential's name
    name: CredentialName,
    #[command(flatten)]
    value: Value,
    /// Only where this version is the active one
    #[arg(long, value_name = "NUMBER")]
    if_version: Option<u32>,
    /// The next refresh token, where the secret is obtained with one
    #[arg(long, value_name = "FILE")]
    refresh_token_file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Binding {
    /// The credential's name
    name: CredentialName,
    /// The workflow type of the roots
    #[arg(long = "type", value_name = "TYPE")]
    workflow_type: WorkflowType,
    /// The slot
    #[arg(long, default_value_t = Slot::default_slot())]
    slot: Slot,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Revoke {
    /// The credential's name
    name: CredentialName,
    /// The version, as `xylem credential show` shows it
    #[arg(long, value_name = "NUMBER")]
    version: u32,
    /// Revoke although trees are behind, or the version is still the active one
    #[arg(long)]
    force: bool,
    /// How long to wait for trees that are behind and calls that are under way, at most 5m
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = super::duration)]
    wait: Duration,
    /// Said in the audit log
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Remove {
    /// The credential's name
    name: CredentialName,
    /// Said in the audit log
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
}

pub(crate) async fn run(command: Command, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        Command::Add(arguments) => add(*arguments, session).await,
        Command::Show(arguments) => show(&arguments.name, session).await,
        Command::List => list(session).await,
        Command::Rotate(arguments) => rotate(arguments, session).await,
        Command::Renew(arguments) => renew(&arguments.name, session).await,
        Command::Bind(arguments) => bind(arguments, session).await,
        Command::Unbind(arguments) => unbind(arguments, session).await,
        Command::Revoke(arguments) => revoke(arguments, session).await,
        Command::Remove(arguments) => remove(arguments, session).await,
    }
}

async fn add(arguments: Add, session: &mut Session<'_>) -> Result<(), Failure> {
    let provider = arguments.obtained.provider();
    let secret = match &provider {
        Some(_) => SecretString::default(),
        None => arguments.value.source.read()?,
    };
    let name = arguments.name;
    let refresh_token = refresh_token(arguments.provider.refresh_token_file.as_deref())?;
    let request = v1::CreateCredentialRequest {
        oauth: arguments.provider.oauth(&arguments.obtained),
        provider,
        refresh_token,
        name: name.to_string(),
        audiences: arguments
            .audiences
            .iter()
            .map(Audience::to_string)
            .collect(),
        owner: arguments.owner.map(String::from).unwrap_or_default(),
        expires_at: arguments.value.expires_in.map(|life| ends(session, life)),
        rotate_every: arguments.rotate_every.map(wire),
        allow_short: arguments.value.allow_short,
        ..v1::CreateCredentialRequest::default()
    };
    let client = session.client().await?;
    let made = client.create_credential(request, &secret).await?;
    session.output.answer(&made, |_| {
        format!(
            "stored {name}\n`xylem credential bind {name} --type TYPE` lets trees of a workflow type \
             start with it"
        )
    })?;
    Ok(())
}

async fn rotate(arguments: Rotate, session: &mut Session<'_>) -> Result<(), Failure> {
    let secret = arguments.value.source.read()?;
    let name = arguments.name;
    let request = v1::RotateCredentialRequest {
        name: name.to_string(),
        expires_at: arguments.value.expires_in.map(|life| ends(session, life)),
        allow_short: arguments.value.allow_short,
        if_version: arguments.if_version,
        refresh_token: refresh_token(arguments.refresh_token_file.as_deref())?,
        ..v1::RotateCredentialRequest::default()
    };
    let client = session.client().await?;
    let rotated = client.rotate_credential(request, &secret).await?;
    session.output.answer(&rotated, rotated_text)?;
    Ok(())
}

/// The refresh token in a file; empty where there is none.
fn refresh_token(file: Option<&Path>) -> Result<String, Failure> {
    let read = file.map(secret::in_file).transpose()?;
    Ok(read.map_or_else(String::new, |token| token.expose_secret().to_owned()))
}

async fn renew(name: &CredentialName, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let renewed = client.renew_credential(name.as_str()).await?;
    session.output.answer(&renewed, rotated_text)?;
    Ok(())
}

fn rotated_text(credential: &v1::Credential) -> String {
    let name = plain(&credential.name);
    let active = credential.versions.first();
    let version = active.map_or(0, |version| version.version);
    let mut text = format!("{name}@{version} is active");
    if credential.trees_behind > 0 {
        text.push_str(&format!(
            "\n{} trees are being given it; `xylem credential show {name}` counts them",
            credential.trees_behind
        ));
    }
    text
}

async fn bind(arguments: Binding, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let bound = client.bind_credential(binding(&arguments)).await?;
    session.output.answer(&bound, |_| {
        format!(
            "trees of {} start with {} in slot {}",
            plain(arguments.workflow_type.as_str()),
            arguments.name,
            arguments.slot
        )
    })?;
    Ok(())
}

async fn unbind(arguments: Binding, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let unbound = client.unbind_credential(binding(&arguments)).await?;
    session.output.answer(&unbound, |_| {
        format!(
            "trees of {} start without {}; those that run keep it",
            plain(arguments.workflow_type.as_str()),
            arguments.name
        )
    })?;
    Ok(())
}

fn binding(arguments: &Binding) -> v1::BindCredentialRequest {
    v1::BindCredentialRequest {
        name: arguments.name.to_string(),
        workflow_type: arguments.workflow_type.to_string(),
        slot: arguments.slot.to_string(),
    }
}

async fn revoke(arguments: Revoke, session: &mut Session<'_>) -> Result<(), Failure> {
    let (name, version) = (arguments.name, arguments.version);
    let request = v1::RevokeCredentialRequest {
        name: name.to_string(),
        version,
        force: arguments.force,
        wait: Some(wire(arguments.wait)),
        reason: arguments.reason,
    };
    let client = session.client().await?;
    match client.revoke_credential(request).await {
        Ok(revoked) => {
            session.output.answer(&revoked, |revoked| {
                let mut text = format!("{name}@{version} is revoked in {} trees", revoked.trees);
                for broken in &revoked.breaks {
                    text.push_str(&format!("\n{}", plain(broken)));
                }
                text
            })?;
            Ok(())
        }
        Err(error @ xylem_client::Error::Refused(_)) => Err(Failure::from(error).hint(format!(
            "`xylem credential show {name}` counts the trees that hold it; --force revokes all the same"
        ))),
        Err(error) => Err(error.into()),
    }
}

async fn remove(arguments: Remove, session: &mut Session<'_>) -> Result<(), Failure> {
    let name = arguments.name;
    let request = v1::RemoveCredentialRequest {
        name: name.to_string(),
        reason: arguments.reason,
    };
    let client = session.client().await?;
    client.remove_credential(request).await?;
    let removed = serde_json::json!({ "name": name.as_str() });
    session.output.answer(&removed, |_| {
        format!("removed {name}, its key is destroyed")
    })?;
    Ok(())
}

/// Every credential, page by page.
pub(crate) async fn all(client: &Client) -> Result<Vec<v1::Credential>, Error> {
    pages::all(async |page_token| {
        let request = v1::ListCredentialsRequest {
            page_size: Some(pages::SIZE),
            page_token,
        };
        let page = client.list_credentials(request).await?;
        Ok((page.credentials, page.next_page_token))
    })
    .await
}

async fn list(session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let credentials = all(&client).await?;
    let now = session.output.now();
    let empty = "no credentials yet: `xylem credential add NAME --audience URL` stores one";
    listed(session.output, &credentials, empty, |credentials| {
        let row = |credential: &v1::Credential| {
            let version = credential.versions.first();
            [
                plain(&credential.name),
                version.map_or_else(String::new, |version| version.version.to_string()),
                state(credential).to_owned(),
                plain(&credential.owner),
                relative(credential.expires_at.as_ref(), now),
                relative(credential.rotate_due.as_ref(), now),
                format!("{}", credential.trees),
                format!("{}", credential.trees_behind),
            ]
        };
        let head = [
            "CREDENTIAL",
            "VERSION",
            "STATE",
            "OWNER",
            "EXPIRES",
            "ROTATE BY",
            "TREES",
            "BEHIND",
        ];
        table(head, credentials.iter().map(row).collect())
    })
}

async fn show(name: &CredentialName, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let credential = client.get_credential(name.as_str()).await?;
    let now = session.output.now();
    session
        .output
        .answer(&credential, |credential| shown(credential, now))?;
    Ok(())
}

fn shown(credential: &v1::Credential, now: SystemTime) -> String {
    let bindings: Vec<_> = credential
        .bindings
        .iter()
        .map(|bound| format!("{} ({})", plain(&bound.workflow_type), plain(&bound.slot)))
        .collect();
    let trees = match credential.trees_behind {
        0 => format!("{}", credential.trees),
        behind => format!("{}, {behind} of them behind", credential.trees),
    };
    let provider = match (&credential.oauth, &credential.provider) {
        (Some(oauth), _) => plain(&oauth.token_url),
        (None, Some(provider)) => format!("provider {}", plain(&provider.name)),
        (None, None) => String::new(),
    };
    let asked = credential.renew_at.as_ref();
    let asked = asked.map_or_else(String::new, |at| relative(Some(at), now));
    let lines = [
        ("credential", plain(&credential.name)),
        ("obtained from", provider),
        ("asked next", asked),
        ("refused with", plain(&credential.broken_because)),
        ("not obtained", plain(&credential.not_obtained_because)),
        ("state", state(credential).to_owned()),
        ("owner", plain(&credential.owner)),
        ("audiences", plain(&credential.audiences.join(" "))),
        ("starts with it", bindings.join(", ")),
        ("trees", trees),
        ("rotate by", relative(credential.rotate_due.as_ref(), now)),
    ];
    let mut text = String::new();
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        text.push_str(&format!("{name:15} {value}\n"));
    }
    let row = |version: &v1::CredentialVersion| {
        [
            version.version.to_string(),
            version_state(version).to_owned(),
            plain(&version.fingerprint),
            relative(version.deposited_at.as_ref(), now),
            plain(&version.deposited_by),
            relative(version.expires_at.as_ref(), now),
            version.trees.to_string(),
        ]
    };
    let head = [
        "VERSION",
        "STATE",
        "FINGERPRINT",
        "STORED",
        "BY",
        "EXPIRES",
        "TREES",
    ];
    text.push('\n');
    text.push_str(&table(head, credential.versions.iter().map(row).collect()));
    text
}

/// How a credential stands, as a word.
pub(crate) fn state(credential: &v1::Credential) -> &'static str {
    match credential.state() {
        v1::CredentialState::Unspecified => "unknown",
        v1::CredentialState::Ok => "ok",
        v1::CredentialState::Expiring => "expiring",
        v1::CredentialState::Overdue => "overdue",
        v1::CredentialState::Expired => "expired",
        v1::CredentialState::Revoked => "revoked",
        v1::CredentialState::Broken => "broken",
    }
}

fn version_state(version: &v1::CredentialVersion) -> &'static str {
    match version.state() {
        v1::VersionState::Active => "active",
        v1::VersionState::Superseded => "superseded",
        v1::VersionState::Revoked => "revoked",
        v1::VersionState::Expired => "expired",
        v1::VersionState::Unspecified | v1::VersionState::Pending => "unknown",
    }
}

fn ends(session: &Session<'_>, life: Duration) -> Timestamp {
    let at = session.output.now() + life;
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::Format;
    use crate::cli::output::tests::{after, seen};

    #[test]
    fn a_credential_is_shown_with_its_versions() {
        let (output, ..) = seen(Format::Text);
        let version = |number, state: v1::VersionState, trees| v1::CredentialVersion {
            version: number,
            state: state.into(),
            fingerprint: "0a1b2c3d".into(),
            deposited_at: after(-7_200),
            deposited_by: "admin".into(),
            trees,
            ..v1::CredentialVersion::default()
        };
        let credential = v1::Credential {
            name: "acme".into(),
            owner: "admin".into(),
            audiences: vec!["https://api.acme.example".into()],
            state: v1::CredentialState::Ok.into(),
            versions: vec![
                version(2, v1::VersionState::Active, 2),
                version(1, v1::VersionState::Superseded, 3),
            ],
            bindings: vec![v1::CredentialBinding {
                workflow_type: "ReleaseTrain".into(),
                slot: "default".into(),
                ..v1::CredentialBinding::default()
            }],
            trees: 3,
            trees_behind: 1,
            rotate_due: after(86_400),
            ..v1::Credential::default()
        };
        insta::assert_snapshot!(shown(&credential, output.now()));
    }
}
