//! Registered tools.

use super::{Handlers, answer};
use crate::{caller::caller, convert, fault::Fault};
use std::time::Duration;
use tonic::{Request, Response, Status};
use v1::tools_server::Tools;
use xylem_audit::{Entry, Kind, Verdict};
use xylem_ids::ToolName;
use xylem_proto::v1::{self, ParameterPlace, tool_auth::Scheme};
use xylem_registry::{Auth, Existing, Place, Tool, ToolDefinition};

const TIMEOUT: Duration = Duration::from_secs(30);
const MAX_RESPONSE: u32 = 1024 * 1024;

#[tonic::async_trait]
impl Tools for Handlers {
    async fn register_tool(
        &self,
        request: Request<v1::RegisterToolRequest>,
    ) -> Result<Response<v1::Tool>, Status> {
        answer(self.register_tool(request.into_inner()).await)
    }

    async fn get_tool(
        &self,
        request: Request<v1::GetToolRequest>,
    ) -> Result<Response<v1::Tool>, Status> {
        answer(self.tool(request.into_inner()).await)
    }

    async fn list_tools(
        &self,
        request: Request<v1::ListToolsRequest>,
    ) -> Result<Response<v1::ListToolsResponse>, Status> {
        answer(self.tools(request.into_inner()).await)
    }
}

impl Handlers {
    async fn register_tool(&self, request: v1::RegisterToolRequest) -> Result<v1::Tool, Fault> {
        let principal = caller()?;
        let given = request
            .tool
            .ok_or_else(|| Fault::invalid("tool", "tool must be present"))?;
        let tool = Tool::new(definition(given)?)?;
        let namespace = &self.settings.namespace;
        let now = self.now();
        self.registry
            .register_tool(namespace, &tool, Existing::Replace, now)
            .await?;
        let mut entry = Entry::new(now, Kind::ToolRegistered, Verdict::Succeeded);
        entry.namespace = Some(namespace.clone());
        entry.tool = Some(tool.name().clone());
        self.log.append(&[entry.by(principal.agent())]).await?;
        Ok(wire_tool(&tool))
    }

    async fn tool(&self, request: v1::GetToolRequest) -> Result<v1::Tool, Fault> {
        let name: ToolName = convert::id(request.name, "name")?;
        let tool = self.registry.tool(&self.settings.namespace, &name).await?;
        Ok(wire_tool(&tool))
    }

    async fn tools(&self, request: v1::ListToolsRequest) -> Result<v1::ListToolsResponse, Fault> {
        let size = convert::page_size(request.page_size)?;
        let after: Option<ToolName> = convert::optional(request.page_token, "page_token")?;
        let namespace = &self.settings.namespace;
        let tools = self.registry.tools(namespace, after.as_ref(), size).await?;
        Ok(v1::ListToolsResponse {
            next_page_token: super::next(&tools, size, |tool| tool.name().to_string()),
            tools: tools.iter().map(wire_tool).collect(),
        })
    }
}

fn definition(given: v1::Tool) -> Result<ToolDefinition, Fault> {
    let timeout = convert::duration(
        given.timeout,
        "timeout",
        Duration::from_secs(1),
        Duration::from_secs(300),
    )?;
    let schema = match given.parameters_schema_json.as_str() {
        "" => serde_json::json!({ "type": "object" }),
        text => serde_json::from_str(text).map_err(|_| {
            Fault::invalid(
                "parameters_schema_json",
                "parameters_schema_json must be JSON",
            )
        })?,
    };
    Ok(ToolDefinition {
        name: convert::id(given.name, "name")?,
        description: given.description,
        base_url: given.base_url,
        path: given.path,
        method: given.method.parse()?,
        auth: auth(given.auth),
        slot: convert::slot(given.slot, "slot")?,
        parameters: schema,
        places: given
            .places
            .into_iter()
            .map(|(name, code)| Ok((name, place(code)?)))
            .collect::<Result<_, Fault>>()?,
        api_urls: convert::ids(given.allowed_api_urls, "allowed_api_urls")?,
        timeout_seconds: u32::try_from(timeout.unwrap_or(TIMEOUT).as_secs()).unwrap_or(u32::MAX),
        response_headers: given.response_headers,
        max_response_bytes: given.max_response_bytes.unwrap_or(MAX_RESPONSE).into(),
    })
}

fn auth(given: Option<v1::ToolAuth>) -> Auth {
    match given.and_then(|auth| auth.scheme) {
        Some(Scheme::Header(header)) => Auth::Header { name: header.name },
        Some(Scheme::Bearer(_)) | None => Auth::Bearer,
    }
}

fn place(code: i32) -> Result<Place, Fault> {
    match ParameterPlace::try_from(code) {
        Ok(ParameterPlace::Path) => Ok(Place::Path),
        Ok(ParameterPlace::Query) => Ok(Place::Query),
        Ok(ParameterPlace::Header) => Ok(Place::Header),
        Ok(ParameterPlace::Body) => Ok(Place::Body),
        _ => Err(Fault::invalid(
            "places",
            "places must be path, query, header or body",
        )),
    }
}

/// A tool as it goes over the wire, its places complete.
pub(crate) fn wire_tool(tool: &Tool) -> v1::Tool {
    let definition = tool.definition();
    let scheme = match &definition.auth {
        Auth::Bearer => Scheme::Bearer(v1::BearerAuth {}),
        Auth::Header { name } => Scheme::Header(v1::HeaderAuth { name: name.clone() }),
    };
    let wire_place = |place: &Place| match place {
        Place::Path => ParameterPlace::Path,
        Place::Query => ParameterPlace::Query,
        Place::Header => ParameterPlace::Header,
        Place::Body => ParameterPlace::Body,
    };
    v1::Tool {
        name: definition.name.to_string(),
        description: definition.description.clone(),
        method: definition.method.as_str().to_owned(),
        base_url: definition.base_url.clone(),
        path: definition.path.clone(),
        slot: definition.slot.to_string(),
        auth: Some(v1::ToolAuth {
            scheme: Some(scheme),
        }),
        parameters_schema_json: definition.parameters.to_string(),
        places: definition
            .places
            .iter()
            .map(|(name, place)| (name.clone(), wire_place(place).into()))
            .collect(),
        timeout: Some(xylem_proto::Duration {
            seconds: definition.timeout_seconds.into(),
            nanos: 0,
        }),
        max_response_bytes: u32::try_from(definition.max_response_bytes).ok(),
        response_headers: definition.response_headers.clone(),
        allowed_api_urls: convert::audiences(&definition.api_urls),
        hash: tool.hash().to_string(),
    }
}
