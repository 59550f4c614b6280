//! `xylem tool`.

mod decide;
mod import;
mod show;

use super::{
    failure::{Exit, Failure},
    output::plain,
    session::Session,
};
use serde_json::Value;
use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};
use xylem_client::v1::{self, tool_auth::Scheme};
use xylem_ids::{CredentialName, KeyPin, ToolName, ToolTag};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Propose tools; somebody else approves them
    ///
    /// A definition in a file:
    ///
    ///   {"name": "acme.build", "description": "The state of a build", "method": "GET",
    ///    "baseUrl": "https://api.acme.example", "path": "/v1/builds/{id}", "slot": "default",
    ///    "tags": ["build"],
    ///    "parametersSchema": {"type": "object", "required": ["id"],
    ///                         "properties": {"id": {"type": "string"}}}}
    #[command(verbatim_doc_comment, after_help = ADD_EXAMPLE)]
    Add(Add),
    /// Propose the operations of an OpenAPI document as tools
    ///
    /// Versions 3.0 and 3.1, JSON or YAML. What cannot be taken over is listed with the reason. Known
    /// tools get their next version, and calls go on with the approved one. Nothing is approved.
    #[command(after_help = IMPORT_EXAMPLE)]
    Import(import::Import),
    /// Publish the next version of tools; calls stop until it is approved
    #[command(after_help = UPDATE_EXAMPLE)]
    Update(Update),
    /// Approve the definition that was read, by its hash; nobody approves their own
    #[command(after_help = APPROVE_EXAMPLE)]
    Approve(decide::Approve),
    /// Turn down the definition that waits for approval
    Reject(decide::Reject),
    /// Take back the definition that waits for approval; the approved one is in force again
    Revert(Named),
    /// Keep new trees from using a tool
    Retire(decide::Retire),
    /// Delete a retired tool that no tree uses; its name stays taken
    Delete(Named),
    /// Find tools, in the order of their names
    #[command(visible_alias = "search", after_help = LIST_EXAMPLE)]
    List(show::List),
    /// Show a tool's definition, and what became of it
    Show(show::Show),
    /// List the versions of a tool, the newest first
    Versions(Named),
}

/// One tool.
#[derive(Debug, clap::Args)]
pub(crate) struct Named {
    /// The tool's name
    name: ToolName,
}

const ADD_EXAMPLE: &str = "\
Examples:
  xylem tool add --file tools.json
  xylem tool add --file tools.json --approve   in an installation with a single operator
  xylem tool add --name acme.status --base-url https://api.acme.example --path /v1/status
  xylem tool add --name acme.me --base-url https://api.acme.example --path /me --auth-basic deploy
  xylem tool add --name acme.list --base-url https://api.acme.example --path /v1/builds \\
      --credential acme --auth-client-credentials --rate-limit 100/minute
  xylem tool add --name acme.inner --base-url https://api.acme.internal --path /v1/status \
      --ca acme-ca.pem --pin sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

const IMPORT_EXAMPLE: &str = "\
Examples:
  xylem tool import openapi.yaml --prefix acme --dry-run
  xylem tool import https://api.acme.example/openapi.json --prefix acme --only 'GET /v1/builds'";

const UPDATE_EXAMPLE: &str = "\
Examples:
  xylem tool update --file tool.json
  xylem tool update --file tool.json --staged";

const APPROVE_EXAMPLE: &str = "\
Example:
  xylem tool show acme.build        shows the definition, what changed, and the hash
  xylem tool approve acme.build --hash 9f86d081884c";

const LIST_EXAMPLE: &str = "\
Examples:
  xylem tool search deploy staging
  xylem tool list --state proposed              what waits for a first approval";

/// Either a file with definitions, or one definition in options.
#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    #[command(flatten)]
    given: Given,
    /// Approve them as well: refused where the installation does not declare a single operator
    #[arg(long)]
    approve: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Update {
    #[command(flatten)]
    given: Given,
    /// Let calls go on with the approved version until this one is approved
    #[arg(long)]
    staged: bool,
    /// Approve them as well: refused where the installation does not declare a single operator
    #[arg(long)]
    approve: bool,
}

#[derive(Debug, clap::Args)]
struct Given {
    /// A JSON file with one definition or a list of them; `-` is standard input. In it,
    /// `parametersSchema` and `responseSchema` may hold schemas as JSON rather than as strings
    #[arg(long, short, value_name = "FILE", required_unless_present = "name")]
    #[arg(conflicts_with_all = ["name", "base_url", "path"])]
    file: Option<PathBuf>,
    /// The tool's name: acme.deploy
    #[arg(long, requires = "base_url", requires = "path")]
    name: Option<ToolName>,
    /// What it does, for people
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// GET, HEAD, POST, PUT, PATCH or DELETE
    #[arg(long, default_value = "GET")]
    method: String,
    /// Where the API is: an origin, optionally with a path prefix
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// The path below it, with `{parameter}` where a parameter goes
    #[arg(long)]
    path: Option<String>,
    /// The slot whose token a call uses [default: default]
    #[arg(long)]
    slot: Option<String>,
    /// The stored credential whose token a call uses, in place of a slot's
    #[arg(long, value_name = "NAME", conflicts_with = "slot")]
    credential: Option<CredentialName>,
    /// What it is found by; can be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<ToolTag>,
    #[command(flatten)]
    auth: GivenAuth,
    /// How many calls it takes of all trees together: 100/minute, 1000/hour, 5000/day
    #[arg(long, value_name = "CALLS/PERIOD", value_parser = rate_limit)]
    rate_limit: Option<v1::ToolRateLimit>,
    /// Whether a call is made again that may have reached the API
    #[arg(long, value_name = "CLASS", default_value = "idempotent")]
    retry: RetryClass,
    /// A file with the certificates of its authorities, PEM, in place of those that workers trust
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    ca: Option<PathBuf>,
    /// A key of which the chain of its certificate must have one: `sha256/` and the base64 of the
    /// SHA-256 of the SubjectPublicKeyInfo; can be repeated
    #[arg(long = "pin", value_name = "PIN", conflicts_with = "file")]
    pins: Vec<KeyPin>,
    /// A file with the JSON Schema of the parameters
    #[arg(long, value_name = "FILE")]
    parameters_schema: Option<PathBuf>,
    /// A file with the JSON Schema of successful answers: one that does not fit fails the call
    #[arg(long, value_name = "FILE")]
    response_schema: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum RetryClass {
    /// Yes: to make it twice does what making it once does
    Idempotent,
    /// Yes, and all attempts carry the same Idempotency-Key header
    IdempotencyKey,
    /// No: it fails for good
    AtMostOnce,
}

impl RetryClass {
    fn wire(self) -> v1::RetryClass {
        match self {
            Self::Idempotent => v1::RetryClass::Idempotent,
            Self::IdempotencyKey => v1::RetryClass::IdempotencyKey,
            Self::AtMostOnce => v1::RetryClass::AtMostOnce,
        }
    }
}

/// How the token is sent; as a bearer token where nothing is said.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct GivenAuth {
    /// Send the token in this header [default: as a bearer token]
    #[arg(long, value_name = "NAME")]
    auth_header: Option<String>,
    /// Send the token in the query, under this name: only where the API takes it nowhere else,
    /// servers write queries into their logs
    #[arg(long, value_name = "NAME")]
    auth_query: Option<String>,
    /// Send the token as this user's password; without a user the token is `user:password`
    #[arg(long, value_name = "USER", num_args = 0..=1, default_missing_value = "")]
    auth_basic: Option<String>,
    /// Send the token that OAuth 2.0 client credentials obtain for the stored credential
    #[arg(long, requires = "credential")]
    auth_client_credentials: bool,
    /// Send no token: the API takes anybody
    #[arg(long, conflicts_with_all = ["slot", "credential"])]
    no_auth: bool,
}

impl GivenAuth {
    fn wire(self) -> Option<v1::ToolAuth> {
        let header = self
            .auth_header
            .map(|name| Scheme::Header(v1::HeaderAuth { name }));
        let query = self
            .auth_query
            .map(|name| Scheme::Query(v1::QueryAuth { name }));
        let basic = |username| Scheme::Basic(v1::BasicAuth { username });
        let obtained = Scheme::ClientCredentials(v1::ClientCredentialsAuth {});
        let scheme = header
            .or(query)
            .or(self.auth_basic.map(basic))
            .or(self.auth_client_credentials.then_some(obtained))
            .or(self.no_auth.then_some(Scheme::None(v1::NoAuth {})))?;
        Some(v1::ToolAuth {
            scheme: Some(scheme),
        })
    }
}

pub(crate) async fn run(command: Command, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        Command::Add(Add { given, approve }) => put(given, None, approve, session).await,
        Command::Update(Update {
            given,
            staged,
            approve,
        }) => put(given, Some(staged), approve, session).await,
        Command::Import(arguments) => import::import(arguments, session).await,
        Command::Approve(arguments) => decide::approve(arguments, session).await,
        Command::Reject(arguments) => decide::reject(arguments, session).await,
        Command::Revert(Named { name }) => decide::revert(&name, session).await,
        Command::Retire(arguments) => decide::retire(arguments, session).await,
        Command::Delete(Named { name }) => decide::delete(&name, session).await,
        Command::List(arguments) => show::list(arguments, session).await,
        Command::Show(arguments) => show::show(arguments, session).await,
        Command::Versions(Named { name }) => show::versions(&name, session).await,
    }
}

/// Proposes new tools, or, where it is said how calls go on, the next version of known ones.
async fn put(
    given: Given,
    staged: Option<bool>,
    approve: bool,
    session: &mut Session<'_>,
) -> Result<(), Failure> {
    let tools = match &given.file {
        Some(path) => definitions(&read(path)?)?,
        None => vec![definition(given)?],
    };
    let client = session.client().await?;
    let mut done = Vec::with_capacity(tools.len());
    for tool in tools {
        let name = plain(&tool.name);
        let put = async {
            let tool = match staged {
                None => client.register_tool(tool).await?,
                Some(staged) => client.update_tool(tool, staged).await?,
            };
            if approve {
                return client.approve_tool(&tool).await;
            }
            Ok(tool)
        };
        done.push(
            put.await
                .map_err(|error| Failure::from(error).about(&name))?,
        );
    }
    session.output.answer(&done, |tools| {
        let lines: Vec<String> = tools.iter().map(show::standing).collect();
        lines.join("\n")
    })?;
    Ok(())
}

fn rate_limit(text: &str) -> Result<v1::ToolRateLimit, &'static str> {
    const RULE: &str = "a number and minute, hour or day: 100/minute";
    let (calls, per) = text.split_once('/').ok_or(RULE)?;
    let calls = calls.parse().map_err(|_| RULE)?;
    let per = per.to_owned();
    Ok(v1::ToolRateLimit { calls, per })
}

/// A definition given in options.
fn definition(arguments: Given) -> Result<v1::Tool, Failure> {
    let text = |path: Option<PathBuf>| match path {
        Some(path) => read(&path),
        None => Ok(String::new()),
    };
    let empty = |pem: &String| pem.trim().is_empty();
    let ca = arguments.ca.map(|path| read(&path)).transpose()?;
    if ca.as_ref().is_some_and(empty) {
        return Err(Failure::usage("the file of --ca is empty"));
    }
    let tls = v1::ToolTls {
        ca_pem: ca.unwrap_or_default(),
        pins: arguments.pins.into_iter().map(String::from).collect(),
    };
    Ok(v1::Tool {
        name: arguments.name.map(String::from).unwrap_or_default(),
        description: arguments.description,
        method: arguments.method,
        base_url: arguments.base_url.unwrap_or_default(),
        path: arguments.path.unwrap_or_default(),
        slot: arguments.slot.unwrap_or_default(),
        credential: arguments.credential.map(String::from).unwrap_or_default(),
        rate_limit: arguments.rate_limit,
        retry: arguments.retry.wire().into(),
        tls: (tls != v1::ToolTls::default()).then_some(tls),
        auth: arguments.auth.wire(),
        tags: arguments.tags.into_iter().map(String::from).collect(),
        parameters_schema_json: text(arguments.parameters_schema)?,
        response_schema_json: text(arguments.response_schema)?,
        ..v1::Tool::default()
    })
}

fn read(path: &Path) -> Result<String, Failure> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().lock().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(path)
    };
    text.map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("cannot read {}: {error}", path.display()),
        )
    })
}

/// One definition or a list of them.
fn definitions(text: &str) -> Result<Vec<v1::Tool>, Failure> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| Failure::usage(format!("the file is not JSON: {error}")))?;
    let definitions = match value {
        Value::Array(definitions) => definitions,
        definition => vec![definition],
    };
    if definitions.is_empty() {
        return Err(Failure::usage("the file defines no tool"));
    }
    let numbered = definitions.into_iter().enumerate();
    numbered
        .map(|(index, definition)| {
            tool(definition).map_err(|error| {
                Failure::usage(format!("definition {} of the file: {error}", index + 1))
            })
        })
        .collect()
}

/// The JSON form of the contract, and `parametersSchema` and `responseSchema` for people.
fn tool(mut definition: Value) -> Result<v1::Tool, serde_json::Error> {
    if let Some(members) = definition.as_object_mut() {
        for (name, wire) in [
            ("parametersSchema", "parametersSchemaJson"),
            ("responseSchema", "responseSchemaJson"),
        ] {
            if let Some(schema) = members.remove(name) {
                members.insert(wire.to_owned(), Value::String(schema.to_string()));
            }
        }
    }
    serde_json::from_value(definition)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_one_definition_or_several() {
        let one = r#"{"name":"acme.deploy","parametersSchema":{"type":"object"}}"#;
        for (text, count) in [(one.to_owned(), 1), (format!("[{one},{one}]"), 2)] {
            let tools = definitions(&text).expect("definitions");
            assert_eq!(tools.len(), count);
            assert_eq!(tools[0].parameters_schema_json, r#"{"type":"object"}"#);
        }
    }

    #[test]
    fn a_schema_of_answers_is_json_too() {
        let text =
            r#"{"name":"a","responseSchema":{"type":"array"},"auth":{"query":{"name":"k"}}}"#;
        let tools = definitions(text).expect("definitions");
        assert_eq!(tools[0].response_schema_json, r#"{"type":"array"}"#);
        let scheme = tools[0].auth.as_ref().and_then(|auth| auth.scheme.as_ref());
        assert!(matches!(scheme, Some(Scheme::Query(query)) if query.name == "k"));
    }

    #[test]
    fn what_is_wrong_in_a_file_is_named() {
        for (text, named) in [
            ("{", "not JSON"),
            ("[]", "no tool"),
            (r#"[{"name":"a"},{"nome":"b"}]"#, "definition 2"),
            (r#"{"nome":"b"}"#, "nome"),
        ] {
            let failure = definitions(text).expect_err(text);
            assert_eq!(failure.exit, Exit::Usage);
            assert!(failure.to_string().contains(named), "{failure}");
        }
    }
}
