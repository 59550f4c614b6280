//! `xylem tool`.

use super::{
    failure::{Exit, Failure},
    output::{plain, table},
    pages,
    session::Session,
    tree::listed,
};
use serde_json::Value;
use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};
use xylem_client::v1;
use xylem_ids::ToolName;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Register tools, or change those of the same name
    ///
    /// A definition in a file:
    ///
    ///   {"name": "acme.build", "description": "The state of a build", "method": "GET",
    ///    "baseUrl": "https://api.acme.example", "path": "/v1/builds/{id}", "slot": "default",
    ///    "parametersSchema": {"type": "object", "required": ["id"],
    ///                         "properties": {"id": {"type": "string"}}}}
    #[command(verbatim_doc_comment, after_help = ADD_EXAMPLE)]
    Add(Add),
    /// List tools by name
    List,
    /// Show a tool's definition
    Show(Show),
}

const ADD_EXAMPLE: &str = "\
Examples:
  xylem tool add --file tools.json
  xylem tool add --name acme.status --base-url https://api.acme.example --path /v1/status";

/// Either a file with definitions, or one definition in options.
#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    /// A JSON file with one definition or a list of them; `-` is standard input. In it,
    /// `parametersSchema` may hold the schema as JSON rather than as a string
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
    /// The slot whose token a call uses
    #[arg(long, default_value = "default")]
    slot: String,
    /// The header that carries the token, where it is not Authorization
    #[arg(long, value_name = "NAME")]
    auth_header: Option<String>,
    /// A file with the JSON Schema of the parameters
    #[arg(long, value_name = "FILE")]
    parameters_schema: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The tool's name
    name: ToolName,
}

pub(crate) async fn run(command: Command, session: &mut Session<'_>) -> Result<(), Failure> {
    match command {
        Command::Add(arguments) => add(arguments, session).await,
        Command::List => list(session).await,
        Command::Show(arguments) => show(arguments, session).await,
    }
}

async fn add(arguments: Add, session: &mut Session<'_>) -> Result<(), Failure> {
    let tools = match &arguments.file {
        Some(path) => definitions(&read(path)?)?,
        None => vec![definition(arguments)?],
    };
    let client = session.client().await?;
    let mut registered = Vec::with_capacity(tools.len());
    for tool in tools {
        let name = plain(&tool.name);
        let tool = client.register_tool(tool).await;
        registered.push(tool.map_err(|error| Failure::from(error).about(&name))?);
    }
    session.output.answer(&registered, |tools| {
        let names = tools.iter().map(|tool| plain(&tool.name));
        names
            .map(|name| format!("registered {name}"))
            .collect::<Vec<_>>()
            .join("\n")
    })?;
    Ok(())
}

/// A definition given in options.
fn definition(arguments: Add) -> Result<v1::Tool, Failure> {
    let schema = arguments.parameters_schema.as_deref().map(read);
    let header = |name| v1::ToolAuth {
        scheme: Some(v1::tool_auth::Scheme::Header(v1::HeaderAuth { name })),
    };
    Ok(v1::Tool {
        name: arguments.name.map(String::from).unwrap_or_default(),
        description: arguments.description,
        method: arguments.method,
        base_url: arguments.base_url.unwrap_or_default(),
        path: arguments.path.unwrap_or_default(),
        slot: arguments.slot,
        auth: arguments.auth_header.map(header),
        parameters_schema_json: schema.transpose()?.unwrap_or_default(),
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

/// The JSON form of the contract, and `parametersSchema` for people.
fn tool(mut definition: Value) -> Result<v1::Tool, serde_json::Error> {
    if let Some(members) = definition.as_object_mut()
        && let Some(schema) = members.remove("parametersSchema")
    {
        let text = Value::String(schema.to_string());
        members.insert("parametersSchemaJson".to_owned(), text);
    }
    serde_json::from_value(definition)
}

async fn list(session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let tools = pages::all(async |page_token| {
        let request = v1::ListToolsRequest {
            page_size: Some(pages::SIZE),
            page_token,
        };
        let page = client.list_tools(request).await?;
        Ok((page.tools, page.next_page_token))
    })
    .await?;
    let empty = "no tools yet: `xylem tool add --file FILE` registers some";
    listed(session.output, &tools, empty, |tools| {
        let row = |tool: &v1::Tool| {
            [
                plain(&tool.name),
                plain(&tool.method),
                plain(&format!("{}{}", tool.base_url, tool.path)),
                plain(&tool.slot),
                plain(&tool.description),
            ]
        };
        let head = ["TOOL", "METHOD", "URL", "SLOT", "DOES"];
        table(head, tools.iter().map(row).collect())
    })
}

async fn show(arguments: Show, session: &mut Session<'_>) -> Result<(), Failure> {
    let tool = session.client().await?.get_tool(&arguments.name).await?;
    session.output.answer(&tool, tool_text)?;
    Ok(())
}

fn tool_text(tool: &v1::Tool) -> String {
    let auth = match tool.auth.as_ref().and_then(|auth| auth.scheme.as_ref()) {
        Some(v1::tool_auth::Scheme::Header(header)) => format!("header {}", header.name),
        _ => "bearer token".to_owned(),
    };
    let schema = match tool.parameters_schema_json.as_str() {
        "" => "any object",
        schema => schema,
    };
    let lines = [
        ("tool", tool.name.as_str()),
        ("does", &tool.description),
        ("method", &tool.method),
        ("base URL", &tool.base_url),
        ("path", &tool.path),
        ("slot", &tool.slot),
        ("token", &auth),
        ("parameters", schema),
        ("apiUrl may be", &tool.allowed_api_urls.join(" ")),
        ("hash", &tool.hash),
    ];
    lines
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name:14} {}", plain(value)))
        .collect::<Vec<_>>()
        .join("\n")
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

    #[test]
    fn a_tool_is_shown_in_lines() {
        let tool = v1::Tool {
            name: "acme.deploy".into(),
            method: "POST".into(),
            base_url: "https://api.acme.example/v1".into(),
            path: "/deploy/{build}".into(),
            slot: "default".into(),
            hash: "00ff".into(),
            ..v1::Tool::default()
        };
        insta::assert_snapshot!(tool_text(&tool));
    }
}
