//! `xylem tool`.

mod decide;
mod import;
mod show;

use super::{
    failure::{Exit, Failure},
    output::plain,
    session::Session,
    tree::wire,
};
use clap::ArgGroup;
use serde_json::Value;
use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};
use xylem_client::v1::{self, tool_auth::Scheme};
use xylem_ids::{CredentialName, KeyPin, RetryClass, ToolName, ToolTag};
use xylem_registry::Method;

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
    ///
    /// A file holds whole definitions. With --name, what is not given stays as it is in the latest version.
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
  xylem tool add --name acme.report --base-url https://api.acme.example --path /v1/report --timeout 2m
  xylem tool add --name acme.inner --base-url https://api.acme.internal --path /v1/status \
      --ca acme-ca.pem --pin sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

const IMPORT_EXAMPLE: &str = "\
Examples:
  xylem tool import openapi.yaml --prefix acme --dry-run
  xylem tool import https://api.acme.example/openapi.json --prefix acme --only 'GET /v1/builds'";

const UPDATE_EXAMPLE: &str = "\
Examples:
  xylem tool update --file tool.json
  xylem tool update --file tool.json --staged
  xylem tool update --name acme.status --description 'Whether the platform is up' --staged";

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
#[command(group(ArgGroup::new("new").args(["name"]).requires_all(["base_url", "path"])))]
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
    #[arg(conflicts_with_all = ["Options", "GivenAuth"])]
    file: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    auth: GivenAuth,
}

#[derive(Debug, clap::Args)]
struct Options {
    /// The tool's name: acme.deploy
    #[arg(long)]
    name: Option<ToolName>,
    /// What it does, for people
    #[arg(long)]
    description: Option<String>,
    /// GET, HEAD, POST, PUT, PATCH or DELETE; GET for a new tool
    #[arg(long)]
    method: Option<Method>,
    /// Where the API is: an origin, optionally with a path prefix
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// The path below it, with `{parameter}` where a parameter goes
    #[arg(long)]
    path: Option<String>,
    /// The slot whose token a call uses; `default` for a new tool
    #[arg(long)]
    slot: Option<String>,
    /// The stored credential whose token a call uses, in place of a slot's
    #[arg(long, value_name = "NAME", conflicts_with = "slot")]
    credential: Option<CredentialName>,
    /// What it is found by; can be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<ToolTag>,
    /// How many calls it takes of all trees together: 100/minute, 1000/hour, 5000/day
    #[arg(long, value_name = "CALLS/PERIOD", value_parser = rate_limit)]
    rate_limit: Option<v1::ToolRateLimit>,
    /// How long a call may take, 1s to 5m [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    timeout: Option<Duration>,
    /// How much of that the connection may take, 1s to 30s [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = seconds)]
    connect_timeout: Option<Duration>,
    /// Whether a call is made again that may have reached the API; what its method says where a new
    /// tool does not: POST and PATCH are called at most once, others are idempotent
    #[arg(long, value_name = "CLASS")]
    retry: Option<Retry>,
    /// A file with the certificates of its authorities, PEM, in place of those that workers trust
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A key of which the chain of its certificate must have one: `sha256/` and the base64 of the
    /// SHA-256 of the SubjectPublicKeyInfo; can be repeated
    #[arg(long = "pin", value_name = "PIN")]
    pins: Vec<KeyPin>,
    /// A file with the JSON Schema of the parameters
    #[arg(long, value_name = "FILE")]
    parameters_schema: Option<PathBuf>,
    /// A file with the JSON Schema of successful answers: one that does not fit fails the call
    #[arg(long, value_name = "FILE")]
    response_schema: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Retry {
    /// Yes: to make it twice does what making it once does
    Idempotent,
    /// Yes, and all attempts carry the same Idempotency-Key header
    IdempotencyKey,
    /// No: it fails for good
    AtMostOnce,
}

impl Retry {
    fn class(self) -> RetryClass {
        match self {
            Self::Idempotent => RetryClass::Idempotent,
            Self::IdempotencyKey => RetryClass::IdempotencyKey,
            Self::AtMostOnce => RetryClass::AtMostOnce,
        }
    }
}

/// How the token is sent; a new tool sends it as a bearer token where nothing is said.
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
    let of_file = given.file.as_deref().map(read).transpose()?;
    let of_file = of_file.as_deref().map(definitions).transpose()?;
    let client = session.client().await?;
    let known = given.options.name.clone().filter(|_| staged.is_some());
    let tools = match (of_file, known) {
        (Some(tools), _) => tools,
        (None, Some(name)) => vec![given.over(client.get_tool(&name, None).await?)?],
        (None, None) => vec![given.over(v1::Tool::default())?],
    };
    let mut done = Vec::with_capacity(tools.len());
    for mut tool in tools {
        let name = plain(&tool.name);
        if let Some(said) = classed(&mut tool) {
            session.output.note(&said);
        }
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
    let by = show::approved_by(&client, &done).await;
    session.output.answer(&done, |tools| {
        let lines = tools.iter().map(|tool| show::standing(tool, by));
        lines.collect::<Vec<_>>().join("\n")
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

/// A duration that a tool can have: its bounds are the control plane's to know.
fn seconds(text: &str) -> Result<Duration, String> {
    let given = super::duration(text)?;
    match given.subsec_nanos() {
        0 => Ok(given),
        _ => Err("expected whole seconds, such as 30s or 2m".to_owned()),
    }
}

impl Given {
    /// A definition as the options say it; what they do not say is as it was.
    fn over(self, was: v1::Tool) -> Result<v1::Tool, Failure> {
        let Self { options, auth, .. } = self;
        let method = match options.method {
            Some(method) => method.as_str().to_owned(),
            None if was.method.is_empty() => Method::Get.as_str().to_owned(),
            None => was.method.clone(),
        };
        let retry = match options.retry {
            Some(retry) => wire_class(retry.class()),
            None => class_with(&was, &method),
        };
        let tls = over_tls(was.tls, options.ca.as_deref(), options.pins)?;
        let (slot, credential) = match (options.slot, options.credential) {
            (Some(slot), _) => (slot, String::new()),
            (None, Some(credential)) => (String::new(), credential.into()),
            (None, None) if auth.no_auth => (String::new(), String::new()),
            (None, None) => (was.slot, was.credential),
        };
        let tags: Vec<String> = options.tags.into_iter().map(String::from).collect();
        let schema = |file: Option<PathBuf>, was| file.map_or(Ok(was), |file| read(&file));
        let mut tool = v1::Tool {
            name: options.name.map_or(was.name, String::from),
            description: options.description.unwrap_or(was.description),
            method,
            base_url: options.base_url.unwrap_or(was.base_url),
            path: options.path.unwrap_or(was.path),
            slot,
            credential,
            rate_limit: options.rate_limit.or(was.rate_limit),
            timeout: options.timeout.map(wire).or(was.timeout),
            connect_timeout: options.connect_timeout.map(wire).or(was.connect_timeout),
            retry: retry.into(),
            tls,
            auth: auth.wire().or(was.auth),
            tags: if tags.is_empty() { was.tags } else { tags },
            parameters_schema_json: schema(options.parameters_schema, was.parameters_schema_json)?,
            response_schema_json: schema(options.response_schema, was.response_schema_json)?,
            ..was
        };
        keep_places(&mut tool);
        Ok(tool)
    }
}

/// The class of a tool that has this method from now on: what it was. Not stated where it was not, and
/// where another method asks for a stricter one.
fn class_with(was: &v1::Tool, method: &str) -> v1::RetryClass {
    let known = match was.retry() {
        v1::RetryClass::Unspecified => return v1::RetryClass::Unspecified,
        v1::RetryClass::Idempotent => RetryClass::Idempotent,
        v1::RetryClass::IdempotencyKey => RetryClass::IdempotencyKey,
        v1::RetryClass::AtMostOnce => RetryClass::AtMostOnce,
    };
    let asked = method.parse().map(Method::retry_class);
    if was.method != method && asked.is_ok_and(|asked| asked > known) {
        return v1::RetryClass::Unspecified;
    }
    was.retry()
}

/// Gives a definition that does not say whether calls are made again the class of its method, and says
/// so where that is not what the control plane would take.
fn classed(tool: &mut v1::Tool) -> Option<String> {
    if tool.retry() != v1::RetryClass::Unspecified {
        return None;
    }
    let class = tool.method.parse::<Method>().ok()?.retry_class();
    tool.set_retry(wire_class(class));
    (class != RetryClass::default()).then(|| {
        format!(
            "{}: a {} is called at most once where nothing else is said: --retry, or `retry` in a file",
            plain(&tool.name),
            plain(&tool.method)
        )
    })
}

fn wire_class(class: RetryClass) -> v1::RetryClass {
    match class {
        RetryClass::Idempotent => v1::RetryClass::Idempotent,
        RetryClass::IdempotencyKey => v1::RetryClass::IdempotencyKey,
        RetryClass::AtMostOnce => v1::RetryClass::AtMostOnce,
    }
}

fn over_tls(
    was: Option<v1::ToolTls>,
    ca: Option<&Path>,
    pins: Vec<KeyPin>,
) -> Result<Option<v1::ToolTls>, Failure> {
    let mut tls = was.unwrap_or_default();
    if let Some(file) = ca {
        tls.ca_pem = read(file)?;
        if tls.ca_pem.trim().is_empty() {
            return Err(Failure::usage("the file of --ca is empty"));
        }
    }
    if !pins.is_empty() {
        tls.pins = pins.into_iter().map(String::from).collect();
    }
    Ok((tls != v1::ToolTls::default()).then_some(tls))
}

/// Of the places that a version had, those that the next one can have: the path says what is in it, and
/// the schema what parameters there are.
fn keep_places(tool: &mut v1::Tool) {
    let schema: Value = serde_json::from_str(&tool.parameters_schema_json).unwrap_or_default();
    let has_body = ["POST", "PUT", "PATCH"].contains(&tool.method.as_str());
    tool.places.retain(|name, place| {
        let kept = match v1::ParameterPlace::try_from(*place) {
            Ok(v1::ParameterPlace::Path) => false,
            Ok(v1::ParameterPlace::Body) => has_body,
            _ => true,
        };
        kept && schema["properties"].get(name).is_some() && !in_path(&tool.path, name)
    });
}

fn in_path(path: &str, parameter: &str) -> bool {
    path.contains(&format!("{{{parameter}}}"))
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
    use clap::{Args, error::ErrorKind};

    fn parsed<T: Args>(line: &[&str]) -> Result<T, ErrorKind> {
        let command = T::augment_args(clap::Command::new("tool"));
        let line = [&["tool"], line].concat();
        let matches = command.try_get_matches_from(line);
        matches
            .and_then(|matches| T::from_arg_matches(&matches))
            .map_err(|error| error.kind())
    }

    fn over(was: v1::Tool, line: &[&str]) -> v1::Tool {
        let line = [&["--name", "acme.pay"], line].concat();
        let update: Update = parsed(&line).expect("options");
        update.given.over(was).expect("a definition")
    }

    /// A tool about which everything is said.
    fn known() -> v1::Tool {
        let definition = r#"{
            "name": "acme.pay", "description": "Pays", "method": "POST",
            "baseUrl": "https://api.acme.example", "path": "/v1/{account}/payments",
            "slot": "pay", "tags": ["money"], "auth": {"header": {"name": "x-api-key"}},
            "rateLimit": {"calls": 5, "per": "minute"}, "retry": "RETRY_CLASS_AT_MOST_ONCE",
            "tls": {"caPem": "PEM", "pins": ["sha256/AA="]},
            "parametersSchema": {"type": "object", "required": ["account"],
                "properties": {"account": {}, "amount": {}, "x-trace": {}}},
            "responseSchema": {"type": "object"},
            "places": {"account": "PARAMETER_PLACE_PATH", "amount": "PARAMETER_PLACE_BODY",
                "x-trace": "PARAMETER_PLACE_HEADER"},
            "allowedApiUrls": ["https://eu.acme.example"], "timeout": "90s",
            "connectTimeout": "2s", "maxResponseBytes": 9, "responseHeaders": ["etag"],
            "version": 3, "hash": "00ff"
        }"#;
        definitions(definition).expect("JSON").remove(0)
    }

    #[test]
    fn nothing_of_a_definition_is_said_beside_a_file() {
        for command in [Add::augment_args, Update::augment_args] {
            let command = command(clap::Command::new("tool"));
            let argument = |id: &str| command.get_arguments().find(|it| it.get_id() == id);
            let apart = command.get_arg_conflicts_with(argument("file").expect("an option"));
            for argument in command.get_arguments() {
                let beside = ["file", "staged", "approve"].contains(&argument.get_id().as_str());
                let conflicts = apart.iter().any(|it| it.get_id() == argument.get_id());
                assert_eq!(conflicts, !beside, "{}", argument.get_id());
            }
        }
        let line = ["--file", "pay.json", "--retry", "at-most-once"];
        assert_eq!(
            parsed::<Update>(&line).expect_err("one of them"),
            ErrorKind::ArgumentConflict
        );
    }

    #[test]
    fn a_new_tool_says_where_it_is_and_a_known_one_need_not() {
        let line = ["--name", "acme.pay"];
        assert_eq!(
            parsed::<Add>(&line).expect_err("where is it?"),
            ErrorKind::MissingRequiredArgument
        );
        parsed::<Update>(&line).expect("it is where it was");
    }

    #[test]
    fn an_update_keeps_what_it_does_not_say() {
        let mut kept = known();
        kept.places.remove("account");
        assert_eq!(over(known(), &[]), kept);
        let said = over(
            known(),
            &["--description", "Pays once", "--credential", "bank"],
        );
        let expected = v1::Tool {
            description: "Pays once".into(),
            slot: String::new(),
            credential: "bank".into(),
            ..kept
        };
        assert_eq!(said, expected);
        let pin = "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        let tls = over(known(), &["--pin", pin]).tls.expect("of the server");
        assert_eq!((tls.ca_pem.as_str(), tls.pins), ("PEM", vec![pin.into()]));
        let open = over(known(), &["--no-auth"]);
        assert_eq!((open.slot.as_str(), open.credential.as_str()), ("", ""));
    }

    #[test]
    fn parameters_go_where_the_next_version_can_have_them() {
        let moved = over(known(), &["--method", "DELETE", "--path", "/v1/payments"]);
        let places: Vec<&String> = moved.places.keys().collect();
        assert_eq!(places, ["x-trace"]);
        let schema = tempfile::NamedTempFile::new().expect("a file");
        fs::write(schema.path(), r#"{"type":"object"}"#).expect("written");
        let file = schema.path().to_str().expect("text");
        let none = over(known(), &["--parameters-schema", file]);
        assert!(none.places.is_empty(), "{:?}", none.places);
    }

    #[test]
    fn what_is_not_said_of_retries_is_what_the_method_says() {
        let class = |mut tool: v1::Tool| (classed(&mut tool).is_some(), tool.retry());
        let new = |method: &str| class(over(v1::Tool::default(), &["--method", method]));
        for (method, said, retry) in [
            ("GET", false, v1::RetryClass::Idempotent),
            ("PUT", false, v1::RetryClass::Idempotent),
            ("POST", true, v1::RetryClass::AtMostOnce),
            ("PATCH", true, v1::RetryClass::AtMostOnce),
        ] {
            assert_eq!(new(method), (said, retry), "{method}");
            let file = format!(r#"{{"name":"acme.pay","method":"{method}"}}"#);
            let tool = definitions(&file).expect("JSON").remove(0);
            assert_eq!(class(tool), (said, retry), "{method}");
        }
        let retry = ["--method", "POST", "--retry", "idempotency-key"];
        let stated = class(over(v1::Tool::default(), &retry));
        assert_eq!(stated, (false, v1::RetryClass::IdempotencyKey));
    }

    #[test]
    fn another_method_makes_a_tool_stricter_and_never_laxer() {
        let with = |method: &str, retry: v1::RetryClass| v1::Tool {
            method: method.into(),
            retry: retry.into(),
            ..known()
        };
        let class = |was: v1::Tool, line: &[&str]| {
            let mut tool = over(was, line);
            (classed(&mut tool).is_some(), tool.retry())
        };
        let (idempotent, once) = (v1::RetryClass::Idempotent, v1::RetryClass::AtMostOnce);
        let post = ["--method", "POST"];
        assert_eq!(class(with("PUT", idempotent), &post), (true, once));
        assert_eq!(class(with("POST", idempotent), &post), (false, idempotent));
        let put = ["--method", "PUT"];
        assert_eq!(class(with("POST", once), &put), (false, once));
    }

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
    fn options_say_how_long_a_call_may_take() {
        let told = |tool: &v1::Tool| {
            let seconds = [&tool.timeout, &tool.connect_timeout];
            seconds.map(|it| it.as_ref().map(|it| it.seconds))
        };
        let line = ["--timeout=2m", "--connect-timeout", "3s"];
        assert_eq!(
            told(&over(v1::Tool::default(), &line)),
            [Some(120), Some(3)]
        );
        assert_eq!(told(&over(known(), &line[..1])), [Some(120), Some(2)]);
        let half = parsed::<Update>(&["--name", "acme.pay", "--timeout=1500ms"]);
        let refused = half.expect_err("half a second");
        assert_eq!(refused, ErrorKind::ValueValidation);
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
