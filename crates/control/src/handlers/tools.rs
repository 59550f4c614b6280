//! Registered tools.

mod import;

use super::{Handlers, answer};
use crate::{
    caller::{Reach, caller, caller_address, during_call, lasting, reach},
    convert,
    fault::Fault,
};
use std::time::{Duration, UNIX_EPOCH};
use tonic::{Request, Response, Status};
use v1::tools_server::Tools;
use xylem_audit::{Kind, Label, Note, Verdict};
use xylem_grant::UnixSeconds;
use xylem_ids::{CredentialName, KeyPin, RetryClass, Slot, ToolName, ToolTag};
use xylem_policy::{Change, Denied, Period, RateLimit, Refused, ToolFacts};
use xylem_proto::v1::{self, ParameterPlace, tool_auth::Scheme};
use xylem_registry::{
    Act, Approver, Auth, DefinitionHash, Editor, KnownTool, Listing, Place, RegistryError, Tls,
    Tool, ToolDefinition, ToolFilter, ToolState, ToolVersion, Unchanged,
};

/// Tools that are looked at together, where a caller does not see all of them.
const BATCH: u32 = 200;
/// So many times for one page, which ends then, full or not.
const BATCHES: usize = 10;

#[tonic::async_trait]
impl Tools for Handlers {
    async fn register_tool(
        &self,
        request: Request<v1::RegisterToolRequest>,
    ) -> Result<Response<v1::Tool>, Status> {
        answer(self.register_tool(request.into_inner()).await)
    }

    async fn update_tool(
        &self,
        request: Request<v1::UpdateToolRequest>,
    ) -> Result<Response<v1::Tool>, Status> {
        answer(self.update_tool(request.into_inner()).await)
    }

    async fn import_tools(
        &self,
        request: Request<v1::ImportToolsRequest>,
    ) -> Result<Response<v1::ImportToolsResponse>, Status> {
        answer(self.import_tools(request.into_inner()).await)
    }

    async fn approve_tool(
        &self,
        request: Request<v1::ApproveToolRequest>,
    ) -> Result<Response<v1::Tool>, Status> {
        answer(self.approve_tool(request.into_inner()).await)
    }

    async fn reject_tool(
        &self,
        request: Request<v1::RejectToolRequest>,
    ) -> Result<Response<v1::Tool>, Status> {
        answer(self.reject_tool(request.into_inner()).await)
    }

    async fn revert_tool(
        &self,
        request: Request<v1::RevertToolRequest>,
    ) -> Result<Response<v1::Tool>, Status> {
        answer(self.revert_tool(request.into_inner()).await)
    }

    async fn retire_tool(
        &self,
        request: Request<v1::RetireToolRequest>,
    ) -> Result<Response<v1::Tool>, Status> {
        answer(self.retire_tool(request.into_inner()).await)
    }

    async fn delete_tool(
        &self,
        request: Request<v1::DeleteToolRequest>,
    ) -> Result<Response<v1::DeleteToolResponse>, Status> {
        answer(self.delete_tool(request.into_inner()).await)
    }

    async fn get_tool(
        &self,
        request: Request<v1::GetToolRequest>,
    ) -> Result<Response<v1::Tool>, Status> {
        answer(self.tool(request.into_inner()).await)
    }

    async fn list_tool_versions(
        &self,
        request: Request<v1::ListToolVersionsRequest>,
    ) -> Result<Response<v1::ListToolVersionsResponse>, Status> {
        answer(self.tool_versions(request.into_inner()).await)
    }

    async fn list_tools(
        &self,
        request: Request<v1::ListToolsRequest>,
    ) -> Result<Response<v1::ListToolsResponse>, Status> {
        answer(self.tools(request.into_inner()).await)
    }
}

/// Changing tools.
impl Handlers {
    async fn register_tool(&self, request: v1::RegisterToolRequest) -> Result<v1::Tool, Fault> {
        let tool = Tool::new(definition(present(request.tool)?)?)?;
        let known = self.tools.register(&self.editing()?, tool).await?;
        Ok(wire_tool(&known))
    }

    async fn update_tool(&self, request: v1::UpdateToolRequest) -> Result<v1::Tool, Fault> {
        let mut given = present(request.tool)?;
        if given.name.is_empty() {
            given.name.clone_from(&request.name);
        }
        if given.name != request.name {
            let rule = "tool.name must be the name of the tool, or be left out";
            return Err(Fault::invalid("tool.name", rule));
        }
        let tool = Tool::new(definition(given)?)?;
        let act = self.editing_of(tool.name(), Kind::ToolUpdated).await?;
        let (expected, staged) = (request.expected_version, request.staged);
        let updated = self.tools.update(&act, tool, expected, staged).await;
        Ok(wire_tool(&updated?))
    }

    async fn approve_tool(&self, request: v1::ApproveToolRequest) -> Result<v1::Tool, Fault> {
        let name: ToolName = convert::id(request.name, "name")?;
        let hash = DefinitionHash::parse(&request.hash).ok_or_else(|| {
            let rule = "hash must be the definition's: 64 lower-case hexadecimal digits";
            Fault::invalid("hash", rule)
        })?;
        let act = self.editing()?;
        let approved = match self.approver(&act, &name, request.version).await? {
            Err(why) => Err(why.into()),
            Ok(approver) => {
                let version = request.version;
                let tools = &self.tools;
                tools.approve(&act, &name, version, &hash, approver).await
            }
        };
        match approved {
            Ok(known) => Ok(wire_tool(&known)),
            Err(RegistryError::Unchanged(why)) => {
                let mut entry = act.entry(Kind::ToolApproved, &name).because(why.code());
                entry.verdict = Verdict::Denied;
                self.log.append(&[entry]).await?;
                Err(RegistryError::Unchanged(why).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether whoever approves this version has published it, too, be it by a service or bot. The
    /// publisher of a version stays who it is, whatever becomes of the tool meanwhile.
    async fn approver(
        &self,
        act: &Act<'_>,
        name: &ToolName,
        version: u32,
    ) -> Result<Result<Approver, Unchanged>, Fault> {
        let known = self.tools.get(act.namespace, name).await?;
        let current = &known.record.row().current;
        if current.version != version {
            return Ok(Err(Unchanged::NotProposed));
        }
        let published = match &current.by {
            None => false,
            Some(by) => {
                let approving = &act.editor.agent;
                let same = self.policies.same_hands(act.namespace, by, approving);
                same.await?
            }
        };
        Ok(Ok(Approver {
            published,
            single_operator: self.settings.single_operator,
        }))
    }

    async fn reject_tool(&self, request: v1::RejectToolRequest) -> Result<v1::Tool, Fault> {
        let name: ToolName = convert::id(request.name, "name")?;
        let reason = Note::new(&request.reason).ok_or_else(|| {
            let rule = "reason must be 1 to 500 printable characters";
            Fault::invalid("reason", rule)
        })?;
        let act = self.editing()?;
        let rejected = self.tools.reject(&act, &name, request.version, reason);
        Ok(wire_tool(&rejected.await?))
    }

    async fn revert_tool(&self, request: v1::RevertToolRequest) -> Result<v1::Tool, Fault> {
        let name: ToolName = convert::id(request.name, "name")?;
        let act = self.editing_of(&name, Kind::ToolReverted).await?;
        let known = self.tools.revert(&act, &name).await?;
        Ok(wire_tool(&known))
    }

    async fn retire_tool(&self, request: v1::RetireToolRequest) -> Result<v1::Tool, Fault> {
        let name: ToolName = convert::id(request.name, "name")?;
        let act = self.editing_of(&name, Kind::ToolRetired).await?;
        let known = self.tools.retire(&act, &name, request.stop_calls).await?;
        Ok(wire_tool(&known))
    }

    async fn delete_tool(
        &self,
        request: v1::DeleteToolRequest,
    ) -> Result<v1::DeleteToolResponse, Fault> {
        let name: ToolName = convert::id(request.name, "name")?;
        let act = self.editing_of(&name, Kind::ToolDeleted).await?;
        self.tools.delete(&act, &name).await?;
        Ok(v1::DeleteToolResponse {})
    }

    /// Who changes this tool now: its owner, an administrator, or whom a policy allows it. Whom none
    /// does is told by the registry that it is another agent's.
    async fn editing_of(&self, name: &ToolName, kind: Kind) -> Result<Act<'_>, Fault> {
        let mut act = self.editing()?;
        let namespace = &self.settings.namespace;
        let known = match self.tools.get(namespace, name).await {
            Ok(known) if !act.editor.of_all => known,
            Ok(_) | Err(RegistryError::NotFound { .. }) => return Ok(act),
            Err(error) => return Err(error.into()),
        };
        let facts = known.record.facts(known.tool.definition())?;
        if facts.owner.as_ref() == Some(&act.editor.agent) {
            return Ok(act);
        }
        let principal = caller()?;
        let now = self.now();
        let signed_in = principal.signed_in();
        let change = Change {
            agent: principal.agent(),
            tool: &facts,
            now: now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            address: caller_address(),
            signed_in: signed_in.map(|at| now.duration_since(at).unwrap_or_default().as_secs()),
            second_factor: principal.second_factor(),
        };
        match self.policies.permit_change(namespace, change).await? {
            Ok(by) => {
                act.editor.of_all = true;
                act.entry.policy = Label::new(&by.to_string());
            }
            Err(denied) => {
                let mut entry = act.entry(kind, name).because(denied.code());
                entry.verdict = Verdict::Denied;
                if let Denied::ByPolicy(Refused { by: Some(by), .. }) = &denied {
                    entry.policy = Label::new(&by.to_string());
                }
                self.log.append(&[entry]).await?;
            }
        }
        Ok(act)
    }

    /// Who changes a tool now: its owner, or an administrator.
    fn editing(&self) -> Result<Act<'_>, Fault> {
        let principal = caller()?;
        let editor = Editor {
            agent: principal.agent().clone(),
            of_all: reach()? == Reach::All,
        };
        let mut act = Act::new(&self.settings.namespace, editor, self.now());
        act.entry = during_call(act.entry);
        Ok(act)
    }
}

/// Reading tools.
impl Handlers {
    async fn tool(&self, request: v1::GetToolRequest) -> Result<v1::Tool, Fault> {
        let name: ToolName = convert::id(request.name, "name")?;
        let namespace = &self.settings.namespace;
        let known = match (request.callable, request.version) {
            (true, None) => self.tools.callable(namespace, &name).await,
            (false, Some(version)) => self.tools.version(namespace, &name, version).await,
            (false, None) => self.tools.get(namespace, &name).await,
            (true, Some(_)) => {
                let rule = "version must be absent where the callable one is asked for";
                return Err(Fault::invalid("version", rule));
            }
        };
        match known {
            Ok(known) => {
                self.check_visible(&known).await?;
                Ok(wire_tool(&known))
            }
            Err(error) => {
                // That there is such a tool, but no such version, is for those who may know of it.
                self.asked_about(&name).await?;
                Err(error.into())
            }
        }
    }

    async fn tool_versions(
        &self,
        request: v1::ListToolVersionsRequest,
    ) -> Result<v1::ListToolVersionsResponse, Fault> {
        let name: ToolName = convert::id(request.name, "name")?;
        let size = convert::page_size(request.page_size)?;
        let before = match request.page_token.as_str() {
            "" => None,
            token => Some(token.parse::<u32>().map_err(|_| {
                let rule = "page_token must be one that a page came with";
                Fault::invalid("page_token", rule)
            })?),
        };
        let namespace = &self.settings.namespace;
        let known = self.tools.get(namespace, &name).await?;
        self.check_visible(&known).await?;
        let versions = self.tools.versions(namespace, &name, before, size).await?;
        Ok(v1::ListToolVersionsResponse {
            next_page_token: super::next(&versions, size, |it| it.published.version.to_string()),
            versions: versions.into_iter().map(wire_version).collect(),
        })
    }

    async fn tools(&self, request: v1::ListToolsRequest) -> Result<v1::ListToolsResponse, Fault> {
        let size = convert::page_size(request.page_size)?;
        let token = request.page_token.clone();
        let filter = filter(request)?;
        let (principal, namespace) = (caller()?, &self.settings.namespace);
        let listing = Listing {
            namespace,
            reader: (reach()? != Reach::All).then(|| principal.agent()),
            filter: &filter,
        };
        let mut after = match token.as_str() {
            "" => None,
            token => Some(self.tools.page_start(&listing, token)?),
        };
        let mut page = Vec::new();
        let mut more = true;
        for _ in 0..BATCHES {
            let batch = size.max(BATCH);
            let found = self.tools.find(namespace, &filter, after.as_ref(), batch);
            let found = found.await?;
            more = found.len() == batch as usize;
            let visible = self.visible(&facts(&found)?).await?;
            for (known, visible) in found.iter().zip(visible) {
                if page.len() == size as usize {
                    more = true;
                    break;
                }
                after = Some(known.tool.name().clone());
                page.extend(visible.then(|| wire_tool(known)));
            }
            if !more || page.len() == size as usize {
                break;
            }
        }
        lasting();
        Ok(v1::ListToolsResponse {
            tools: page,
            next_page_token: match after.filter(|_| more) {
                Some(last) => self.tools.page_token(&listing, &last)?,
                None => String::new(),
            },
        })
    }

    /// Which of these the caller may know of: all of them; its own, and those that policies let it
    /// read or call.
    pub(super) async fn visible(&self, tools: &[ToolFacts]) -> Result<Vec<bool>, Fault> {
        if reach()? == Reach::All {
            return Ok(vec![true; tools.len()]);
        }
        let principal = caller()?;
        let namespace = &self.settings.namespace;
        let agent = principal.agent();
        let (now, at) = (UnixSeconds::from(self.now()).0, principal.as_of());
        let visible = self.policies.visible(namespace, agent, tools, now, at);
        let visible = visible.await?;
        let own = |tool: &ToolFacts| tool.owner.as_ref() == Some(agent);
        let all = tools.iter().zip(visible);
        Ok(all.map(|(tool, visible)| visible || own(tool)).collect())
    }

    async fn check_visible(&self, known: &KnownTool) -> Result<(), Fault> {
        let facts = facts(std::slice::from_ref(known))?;
        match self.visible(&facts).await?.as_slice() {
            [true] => Ok(()),
            _ => Err(RegistryError::NotFound { what: "tool" }.into()),
        }
    }
}

fn facts(tools: &[KnownTool]) -> Result<Vec<ToolFacts>, Fault> {
    let facts = |known: &KnownTool| known.record.facts(known.tool.definition());
    let facts: Result<_, _> = tools.iter().map(facts).collect();
    Ok(facts?)
}

fn present(tool: Option<v1::Tool>) -> Result<v1::Tool, Fault> {
    tool.ok_or_else(|| Fault::invalid("tool", "tool must be present"))
}

fn filter(request: v1::ListToolsRequest) -> Result<ToolFilter, Fault> {
    let state = match request.state() {
        v1::ToolState::Unspecified if request.state == 0 => None,
        state => Some(state),
    };
    let known = |state| {
        let all = ToolState::ALL.into_iter();
        let mut fitting = all.filter(|it| wire_state(*it) == state);
        let rule = "state must be one of those that tools have";
        fitting.next().ok_or_else(|| Fault::invalid("state", rule))
    };
    let mut filter = ToolFilter::words(&request.query)?;
    filter.tags = convert::ids(request.tags, "tags")?;
    filter.state = state.map(known).transpose()?;
    filter.owner = convert::optional(request.owner, "owner")?;
    Ok(filter)
}

fn definition(given: v1::Tool) -> Result<ToolDefinition, Fault> {
    let parameters = schema(&given.parameters_schema_json, "parameters_schema_json")?;
    let response = schema(&given.response_schema_json, "response_schema_json")?;
    let auth = auth(given.auth)?;
    let credential = convert::optional(given.credential, "credential")?;
    Ok(ToolDefinition {
        name: convert::id(given.name, "name")?,
        description: given.description,
        tags: convert::ids(given.tags, "tags")?,
        base_url: given.base_url,
        path: given.path,
        method: given.method.parse()?,
        slot: slot(given.slot, &auth, credential.as_ref())?,
        auth,
        credential,
        rate_limit: given.rate_limit.map(rate_limit).transpose()?,
        retry: retry_class(given.retry)?,
        tls: given.tls.map(tls).transpose()?,
        parameters: parameters.unwrap_or_else(|| serde_json::json!({ "type": "object" })),
        response,
        places: given
            .places
            .into_iter()
            .map(|(name, code)| Ok((name, place(code)?)))
            .collect::<Result<_, Fault>>()?,
        api_urls: convert::ids(given.allowed_api_urls, "allowed_api_urls")?,
        timeout_seconds: seconds(
            given.timeout,
            "timeout",
            300,
            ToolDefinition::TIMEOUT_SECONDS,
        )?,
        connect_timeout_seconds: seconds(
            given.connect_timeout,
            "connect_timeout",
            30,
            ToolDefinition::CONNECT_TIMEOUT_SECONDS,
        )?,
        response_headers: given.response_headers,
        max_response_bytes: given
            .max_response_bytes
            .map_or(ToolDefinition::RESPONSE_BYTES, u64::from),
    })
}

/// A JSON Schema; none where nothing is given.
fn schema(text: &str, field: &'static str) -> Result<Option<serde_json::Value>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = serde_json::from_str(text);
    let parsed = parsed.map_err(|_| Fault::invalid(field, format!("{field} must be JSON")))?;
    Ok(Some(parsed))
}

fn auth(given: Option<v1::ToolAuth>) -> Result<Auth, Fault> {
    let Some(given) = given else {
        return Ok(Auth::Bearer);
    };
    let rule = "auth must be one of bearer, header, query, basic, clientCredentials and none";
    let scheme = given.scheme.ok_or_else(|| Fault::invalid("auth", rule))?;
    Ok(match scheme {
        Scheme::Bearer(_) => Auth::Bearer,
        Scheme::Header(header) => Auth::Header { name: header.name },
        Scheme::Query(query) => Auth::Query { name: query.name },
        Scheme::Basic(basic) => Auth::Basic {
            username: (!basic.username.is_empty()).then_some(basic.username),
        },
        Scheme::ClientCredentials(_) => Auth::ClientCredentials,
        Scheme::None(_) => Auth::None,
    })
}

/// The slot that was meant: the default one where nothing else gives a token.
fn slot(
    given: String,
    auth: &Auth,
    credential: Option<&CredentialName>,
) -> Result<Option<Slot>, Fault> {
    if given.is_empty() && (*auth == Auth::None || credential.is_some()) {
        return Ok(None);
    }
    convert::slot(given, "slot").map(Some)
}

fn seconds(
    given: Option<xylem_proto::Duration>,
    field: &str,
    most: u64,
    usual: u32,
) -> Result<u32, Fault> {
    let (least, most) = (Duration::from_secs(1), Duration::from_secs(most));
    let given = convert::duration(given, field, least, most)?;
    let seconds = given.map(|given| u32::try_from(given.as_secs()).unwrap_or(u32::MAX));
    Ok(seconds.unwrap_or(usual))
}

fn retry_class(code: i32) -> Result<RetryClass, Fault> {
    match v1::RetryClass::try_from(code) {
        Ok(v1::RetryClass::Unspecified) => Ok(RetryClass::default()),
        Ok(v1::RetryClass::Idempotent) => Ok(RetryClass::Idempotent),
        Ok(v1::RetryClass::IdempotencyKey) => Ok(RetryClass::IdempotencyKey),
        Ok(v1::RetryClass::AtMostOnce) => Ok(RetryClass::AtMostOnce),
        Err(_) => {
            let rule = "retry must be one of the classes";
            Err(Fault::invalid("retry", rule))
        }
    }
}

fn wire_retry_class(class: RetryClass) -> v1::RetryClass {
    match class {
        RetryClass::Idempotent => v1::RetryClass::Idempotent,
        RetryClass::IdempotencyKey => v1::RetryClass::IdempotencyKey,
        RetryClass::AtMostOnce => v1::RetryClass::AtMostOnce,
    }
}

fn rate_limit(given: v1::ToolRateLimit) -> Result<RateLimit, Fault> {
    let per: Result<Period, _> = given.per.parse();
    let rule = "rate_limit.per must be minute, hour or day";
    Ok(RateLimit {
        calls: given.calls,
        per: per.map_err(|_| Fault::invalid("rate_limit.per", rule))?,
    })
}

fn tls(given: v1::ToolTls) -> Result<Tls, Fault> {
    Ok(Tls {
        ca_pem: (!given.ca_pem.is_empty()).then_some(given.ca_pem),
        pins: convert::ids(given.pins, "tls.pins")?,
    })
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

fn wire_state(state: ToolState) -> v1::ToolState {
    match state {
        ToolState::Proposed => v1::ToolState::Proposed,
        ToolState::Rejected => v1::ToolState::Rejected,
        ToolState::Approved => v1::ToolState::Approved,
        ToolState::Changed => v1::ToolState::Changed,
        ToolState::Staged => v1::ToolState::Staged,
        ToolState::Retired => v1::ToolState::Retired,
    }
}

fn wire_version(version: ToolVersion) -> v1::ToolVersion {
    let ToolVersion {
        published,
        decision,
    } = version;
    let mut wire = v1::ToolVersion {
        version: published.version,
        hash: published.hash.to_string(),
        published_by: published.by.map(String::from).unwrap_or_default(),
        published_at: Some(convert::time(published.at)),
        ..v1::ToolVersion::default()
    };
    if let Some(decision) = decision {
        wire.decision = decision.decided.code().to_owned();
        wire.decided_by = decision.by.into();
        wire.decided_at = Some(convert::time(decision.at));
        wire.reason = decision
            .reason
            .map(|reason| reason.as_str().to_owned())
            .unwrap_or_default();
    }
    wire
}

/// A tool as it goes over the wire: one of its definitions, and what is known of it.
fn wire_tool(known: &KnownTool) -> v1::Tool {
    let row = known.record.row();
    let approval = row.approval.as_ref();
    let published = [Some(&row.current), approval.map(|it| &it.of)];
    let published = published.into_iter().flatten();
    let publisher = published
        .filter(|it| it.version == known.version)
        .find_map(|it| it.by.as_ref());
    v1::Tool {
        version: known.version,
        owner: row
            .owner
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        state: wire_state(known.record.state()).into(),
        published_by: publisher.map(ToString::to_string).unwrap_or_default(),
        approval: approval.map(|it| v1::ToolApproval {
            version: it.of.version,
            hash: it.of.hash.to_string(),
            approved_by: it.by.to_string(),
            approved_at: Some(convert::time(it.at)),
            single_operator: it.own,
        }),
        calls_stopped: row.retired.as_ref().is_some_and(|it| it.stops_calls),
        ..wire_definition(&known.tool)
    }
}

/// A definition as it goes over the wire, its places complete.
pub(crate) fn wire_definition(tool: &Tool) -> v1::Tool {
    let definition = tool.definition();
    let scheme = match &definition.auth {
        Auth::Bearer => Scheme::Bearer(v1::BearerAuth {}),
        Auth::Header { name } => Scheme::Header(v1::HeaderAuth { name: name.clone() }),
        Auth::Query { name } => Scheme::Query(v1::QueryAuth { name: name.clone() }),
        Auth::Basic { username } => Scheme::Basic(v1::BasicAuth {
            username: username.clone().unwrap_or_default(),
        }),
        Auth::ClientCredentials => Scheme::ClientCredentials(v1::ClientCredentialsAuth {}),
        Auth::None => Scheme::None(v1::NoAuth {}),
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
        tags: definition.tags.iter().map(ToolTag::to_string).collect(),
        method: definition.method.as_str().to_owned(),
        base_url: definition.base_url.clone(),
        path: definition.path.clone(),
        slot: definition
            .slot
            .clone()
            .map(String::from)
            .unwrap_or_default(),
        credential: definition
            .credential
            .clone()
            .map(String::from)
            .unwrap_or_default(),
        retry: wire_retry_class(definition.retry).into(),
        rate_limit: definition.rate_limit.map(|limit| v1::ToolRateLimit {
            calls: limit.calls,
            per: limit.per.to_string(),
        }),
        tls: definition.tls.as_ref().map(|tls| v1::ToolTls {
            ca_pem: tls.ca_pem.clone().unwrap_or_default(),
            pins: tls.pins.iter().map(KeyPin::to_string).collect(),
        }),
        auth: Some(v1::ToolAuth {
            scheme: Some(scheme),
        }),
        parameters_schema_json: definition.parameters.to_string(),
        response_schema_json: definition
            .response
            .as_ref()
            .map(serde_json::Value::to_string)
            .unwrap_or_default(),
        places: definition
            .places
            .iter()
            .map(|(name, place)| (name.clone(), wire_place(place).into()))
            .collect(),
        timeout: Some(xylem_proto::Duration {
            seconds: definition.timeout_seconds.into(),
            nanos: 0,
        }),
        connect_timeout: Some(xylem_proto::Duration {
            seconds: definition.connect_timeout_seconds.into(),
            nanos: 0,
        }),
        max_response_bytes: u32::try_from(definition.max_response_bytes).ok(),
        response_headers: definition.response_headers.clone(),
        allowed_api_urls: convert::audiences(&definition.api_urls),
        hash: tool.hash().to_string(),
        ..v1::Tool::default()
    }
}
