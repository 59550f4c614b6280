//! Showing tools.

use crate::cli::{
    failure::Failure,
    output::{absolute, plain, table},
    pages,
    session::Session,
    tree::listed,
};
use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::Value;
use std::collections::BTreeSet;
use xylem_client::{
    Client,
    v1::{self, tool_auth::Scheme},
};
use xylem_ids::{AgentId, ToolName, ToolTag};
use xylem_registry::ToolDefinition;

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Words that name, description or tags contain, all of them
    words: Vec<String>,
    /// Tags that they have; can be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<ToolTag>,
    /// What becomes of calls
    #[arg(long)]
    state: Option<State>,
    /// Who owns them
    #[arg(long, value_name = "AGENT")]
    owner: Option<AgentId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum State {
    /// Waits for its first approval
    Proposed,
    /// Was turned down, and never approved
    Rejected,
    /// Is called
    Approved,
    /// Was changed, and is not called until it is approved again
    Changed,
    /// Is called, while a later version waits for approval
    Staged,
    /// Is not for new trees
    Retired,
}

impl State {
    fn wire(self) -> v1::ToolState {
        match self {
            Self::Proposed => v1::ToolState::Proposed,
            Self::Rejected => v1::ToolState::Rejected,
            Self::Approved => v1::ToolState::Approved,
            Self::Changed => v1::ToolState::Changed,
            Self::Staged => v1::ToolState::Staged,
            Self::Retired => v1::ToolState::Retired,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The tool's name
    name: ToolName,
    /// The version [default: the latest]
    #[arg(long)]
    version: Option<u32>,
}

pub(crate) async fn list(arguments: List, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let mut request = v1::ListToolsRequest {
        page_size: Some(pages::SIZE),
        query: arguments.words.join(" "),
        tags: arguments.tags.into_iter().map(String::from).collect(),
        owner: arguments.owner.map(String::from).unwrap_or_default(),
        ..v1::ListToolsRequest::default()
    };
    if let Some(state) = arguments.state {
        request.set_state(state.wire());
    }
    let tools = pages::all(async |page_token| {
        let request = v1::ListToolsRequest {
            page_token,
            ..request.clone()
        };
        let page = client.list_tools(request).await?;
        Ok((page.tools, page.next_page_token))
    })
    .await?;
    let empty = "no such tools: `xylem tool add --file FILE` proposes some";
    listed(session.output, &tools, empty, |tools| {
        let row = |tool: &v1::Tool| {
            [
                plain(&tool.name),
                state(tool).to_owned(),
                plain(&tool.method),
                plain(&format!("{}{}", tool.base_url, tool.path)),
                source(tool),
                plain(&tool.description),
            ]
        };
        let head = ["TOOL", "STATE", "METHOD", "URL", "TOKEN OF", "DOES"];
        table(head, tools.iter().map(row).collect())
    })
}

pub(crate) async fn show(arguments: Show, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let tool = client.get_tool(&arguments.name, arguments.version).await?;
    let approved = tool.approval.as_ref().map(|approval| approval.version);
    let approved = match approved.filter(|version| *version != tool.version) {
        Some(version) => Some(client.get_tool(&arguments.name, Some(version)).await?),
        None => None,
    };
    session
        .output
        .answer(&tool, |tool| tool_text(tool, approved.as_ref()))?;
    Ok(())
}

pub(crate) async fn versions(name: &ToolName, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = session.client().await?;
    let versions = pages::all(async |page_token| {
        let request = v1::ListToolVersionsRequest {
            name: name.to_string(),
            page_size: Some(pages::SIZE),
            page_token,
        };
        let page = client.list_tool_versions(request).await?;
        Ok((page.versions, page.next_page_token))
    })
    .await?;
    listed(session.output, &versions, "no versions", |versions| {
        let row = |version: &v1::ToolVersion| {
            [
                version.version.to_string(),
                short(&version.hash),
                plain(&version.published_by),
                absolute(version.published_at.as_ref()),
                plain(&version.decision),
                plain(&version.decided_by),
                plain(&version.reason),
            ]
        };
        let head = ["VERSION", "HASH", "BY", "AT", "DECIDED", "BY", "BECAUSE"];
        table(head, versions.iter().map(row).collect())
    })
}

/// Who approves what waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ApprovedBy {
    /// Somebody else than whoever published it.
    SomebodyElse,
    /// Whoever published it as well: the installation declares a single operator.
    Oneself,
}

/// Who approves these; asked only where somebody has to. Whoever is not told goes by the rule.
pub(crate) async fn approved_by(client: &Client, tools: &[v1::Tool]) -> ApprovedBy {
    if !tools.iter().any(waits) {
        return ApprovedBy::SomebodyElse;
    }
    match client.status().await {
        Ok(status) if status.single_operator && may_approve(&status) => ApprovedBy::Oneself,
        _ => ApprovedBy::SomebodyElse,
    }
}

fn may_approve(status: &v1::SystemStatus) -> bool {
    let role = |role: &String| role == "admin" || role == "policy_admin";
    let within = !status.narrowed || status.scopes.iter().any(|scope| scope == "tools");
    within && status.roles.iter().any(role)
}

fn waits(tool: &v1::Tool) -> bool {
    matches!(
        tool.state(),
        v1::ToolState::Proposed | v1::ToolState::Changed | v1::ToolState::Staged
    )
}

/// One line: which version of a tool is how, and what to do next.
pub(crate) fn standing(tool: &v1::Tool, by: ApprovedBy) -> String {
    let name = plain(&tool.name);
    let who = match by {
        ApprovedBy::SomebodyElse => "somebody else runs",
        ApprovedBy::Oneself => "you may approve it yourself, as the single operator",
    };
    let next = match waits(tool) {
        true => {
            let hash = short(&tool.hash);
            format!("; {who}: xylem tool approve {name} --hash {hash}")
        }
        false => String::new(),
    };
    format!("{name} version {}: {}{next}", tool.version, state(tool))
}

fn state(tool: &v1::Tool) -> &'static str {
    match tool.state() {
        v1::ToolState::Unspecified => "-",
        v1::ToolState::Proposed => "proposed",
        v1::ToolState::Rejected => "rejected",
        v1::ToolState::Approved => "approved",
        v1::ToolState::Changed => "changed",
        v1::ToolState::Staged => "staged",
        v1::ToolState::Retired if tool.calls_stopped => "retired, calls stopped",
        v1::ToolState::Retired => "retired",
    }
}

pub(super) fn short(hash: &str) -> String {
    plain(hash).chars().take(12).collect()
}

fn tool_text(tool: &v1::Tool, approved: Option<&v1::Tool>) -> String {
    let auth = auth(tool);
    let limit = tool.rate_limit.as_ref();
    let limit = limit.map(|limit| format!("{} per {}", limit.calls, limit.per));
    let limit = limit.unwrap_or_default();
    let unsafe_twice = ["POST", "PATCH"].contains(&tool.method.as_str());
    let retry = match tool.retry() {
        v1::RetryClass::Unspecified | v1::RetryClass::Idempotent if unsafe_twice => {
            "always, also where the API may have done it"
        }
        v1::RetryClass::Unspecified | v1::RetryClass::Idempotent => "",
        v1::RetryClass::IdempotencyKey => "with the same Idempotency-Key",
        v1::RetryClass::AtMostOnce => "never, where the API may have done it",
    };
    let schema = match tool.parameters_schema_json.as_str() {
        "" => "any object",
        schema => schema,
    };
    let approval = tool.approval.as_ref().map(approval).unwrap_or_default();
    let changed = approved.map(|approved| changes(approved, tool));
    let lines = [
        ("tool", tool.name.as_str()),
        ("does", &tool.description),
        ("tags", &tool.tags.join(" ")),
        ("state", state(tool)),
        ("version", &tool.version.to_string()),
        ("published by", &tool.published_by),
        ("owner", &tool.owner),
        ("approved", &approval),
        ("changed since", &changed.unwrap_or_default()),
        ("method", &tool.method),
        ("base URL", &tool.base_url),
        ("path", &tool.path),
        ("slot", &tool.slot),
        ("credential", &tool.credential),
        ("token", &auth),
        ("parameters", schema),
        ("places", &places(tool)),
        ("answers", &tool.response_schema_json),
        ("lets through", &tool.response_headers.join(" ")),
        ("reads at most", &largest(tool)),
        ("ends after", &times(tool)),
        ("calls at most", &limit),
        ("tried again", retry),
        ("server's CA", &authorities(tool)),
        ("pinned keys", &pins(tool)),
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

/// Whose token is sent.
fn source(tool: &v1::Tool) -> String {
    match (tool.slot.as_str(), tool.credential.as_str()) {
        ("", "") => "nobody".to_owned(),
        ("", credential) => format!("credential {}", plain(credential)),
        (slot, _) => format!("slot {}", plain(slot)),
    }
}

/// How the token is sent, for whoever approves that.
fn auth(tool: &v1::Tool) -> String {
    match tool.auth.as_ref().and_then(|auth| auth.scheme.as_ref()) {
        None | Some(Scheme::Bearer(_)) => "bearer token".to_owned(),
        Some(Scheme::Header(header)) => format!("header {}", header.name),
        Some(Scheme::Query(query)) => format!(
            "in the query as {}: servers and proxies write queries into their logs",
            query.name
        ),
        Some(Scheme::ClientCredentials(_)) => {
            "bearer token of OAuth 2.0 client credentials".to_owned()
        }
        Some(Scheme::None(_)) => "none: the API takes anybody".to_owned(),
        Some(Scheme::Basic(basic)) if basic.username.is_empty() => {
            "basic authentication, as user:password".to_owned()
        }
        Some(Scheme::Basic(basic)) => {
            format!("basic authentication, password of {}", basic.username)
        }
    }
}

/// The parameters that go elsewhere than their method says.
fn places(tool: &v1::Tool) -> String {
    let has_body = ["POST", "PUT", "PATCH"].contains(&tool.method.as_str());
    let place = |(name, place): (&String, &i32)| {
        let place = match v1::ParameterPlace::try_from(*place).ok()? {
            v1::ParameterPlace::Header => "a header",
            v1::ParameterPlace::Query if has_body => "the query",
            _ => return None,
        };
        Some(format!("{name} in {place}"))
    };
    let mut places: Vec<_> = tool.places.iter().filter_map(place).collect();
    places.sort_unstable();
    places.join(", ")
}

/// How much of an answer is read, where that is not the usual.
fn largest(tool: &v1::Tool) -> String {
    let bytes = tool.max_response_bytes.map(u64::from);
    let bytes = bytes.filter(|bytes| *bytes != ToolDefinition::RESPONSE_BYTES);
    bytes.map_or_else(String::new, |bytes| format!("{bytes} bytes"))
}

/// How long a call and its connection may take, where that is not the usual.
fn times(tool: &v1::Tool) -> String {
    let usual = (
        i64::from(ToolDefinition::TIMEOUT_SECONDS),
        i64::from(ToolDefinition::CONNECT_TIMEOUT_SECONDS),
    );
    let whole = tool.timeout.as_ref().map_or(usual.0, |it| it.seconds);
    let connect = tool
        .connect_timeout
        .as_ref()
        .map_or(usual.1, |it| it.seconds);
    if (whole, connect) == usual {
        return String::new();
    }
    match connect < whole {
        true => format!("{whole} s; {connect} s without a connection"),
        false => format!("{whole} s; less than half of that without a connection"),
    }
}

/// The certificates that the server's has to be under, as others show them too, for whoever compares.
fn authorities(tool: &v1::Tool) -> String {
    let pem = tool.tls.as_ref().map_or("", |tls| &tls.ca_pem);
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes());
    let fingerprint = |certificate: CertificateDer<'_>| {
        let digest = hex::encode_upper(digest(&SHA256, &certificate));
        format!("SHA-256 {digest}")
    };
    let fingerprints: Vec<_> = certificates.flatten().map(fingerprint).collect();
    fingerprints.join(", ")
}

fn pins(tool: &v1::Tool) -> String {
    let pins = tool.tls.as_ref().map(|tls| tls.pins.join(", "));
    let alone = tool.tls.as_ref().is_some_and(|tls| tls.pins.len() == 1);
    match pins {
        Some(pins) if alone => format!("{pins}, and no other: calls stop when the key changes"),
        pins => pins.unwrap_or_default(),
    }
}

fn approval(approval: &v1::ToolApproval) -> String {
    let alone = if approval.single_operator {
        ", its publisher, as the single operator"
    } else {
        ""
    };
    let at = absolute(approval.approved_at.as_ref());
    format!(
        "version {} by {}{alone}, {at}",
        approval.version, approval.approved_by
    )
}

/// The members of the definition that differ: what they were, and what they are.
fn changes(before: &v1::Tool, after: &v1::Tool) -> String {
    let (before, after) = (members(before), members(after));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let changed = names
        .into_iter()
        .filter(|name| before.get(*name) != after.get(*name))
        .map(|name| {
            let (was, is) = (said(before.get(name)), said(after.get(name)));
            format!("{name}: {was} -> {is}")
        });
    changed.collect::<Vec<_>>().join("; ")
}

/// The members of the definition, certificates by their fingerprints.
fn members(tool: &v1::Tool) -> serde_json::Map<String, Value> {
    const NOT_DEFINED: [&str; 4] = ["hash", "version", "publishedBy", "tls"];
    let Ok(Value::Object(mut members)) = serde_json::to_value(tool) else {
        return serde_json::Map::new();
    };
    members.retain(|name, _| !NOT_DEFINED.contains(&name.as_str()));
    let pins = tool.tls.as_ref().map(|tls| tls.pins.join(" "));
    let pins = pins.unwrap_or_default();
    for (name, text) in [("tls.caPem", authorities(tool)), ("tls.pins", pins)] {
        if !text.is_empty() {
            members.insert(name.to_owned(), text.into());
        }
    }
    members
}

/// A member's value in one line; of a long one its beginning.
fn said(value: Option<&Value>) -> String {
    const LONGEST: usize = 200;
    let text = match value {
        None => return "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    if text.chars().count() <= LONGEST {
        return text;
    }
    let begins: String = text.chars().take(LONGEST).collect();
    format!("{begins}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool() -> v1::Tool {
        v1::Tool {
            name: "acme.deploy".into(),
            method: "POST".into(),
            base_url: "https://api.acme.example/v1".into(),
            path: "/deploy/{build}".into(),
            slot: "default".into(),
            hash: "00ff".repeat(16),
            version: 2,
            owner: "ada".into(),
            published_by: "ada".into(),
            state: v1::ToolState::Changed.into(),
            approval: Some(v1::ToolApproval {
                version: 1,
                hash: "ff00".repeat(16),
                approved_by: "ada".into(),
                approved_at: None,
                single_operator: true,
            }),
            ..v1::Tool::default()
        }
    }

    #[test]
    fn a_tool_is_shown_in_lines() {
        let approved = v1::Tool {
            version: 1,
            hash: "ff00".repeat(16),
            path: "/deploy".into(),
            timeout: Some(xylem_client::Duration {
                seconds: 5,
                nanos: 0,
            }),
            ..tool()
        };
        insta::assert_snapshot!(tool_text(&tool(), Some(&approved)));
    }

    #[test]
    fn whom_the_server_has_to_be_is_shown() {
        let pin = "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        let pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
        let with = |pins: &[&str]| v1::Tool {
            tls: Some(v1::ToolTls {
                ca_pem: pem.repeat(2),
                pins: pins.iter().map(|pin| (*pin).to_owned()).collect(),
            }),
            ..tool()
        };
        let digest = hex::encode_upper(digest(&SHA256, b"0\x82\x01"));
        let shown = tool_text(&with(&[pin]), None);
        assert!(
            shown.contains(&format!("SHA-256 {digest}, SHA-256 {digest}")),
            "{shown}"
        );
        assert!(shown.contains(&format!("{pin}, and no other")), "{shown}");
        assert!(!tool_text(&with(&[pin, pin]), None).contains("no other"));
        assert!(!tool_text(&tool(), None).contains("pinned"));
    }

    #[test]
    fn whoever_approves_sees_every_bound() {
        let seconds = |seconds| Some(xylem_client::Duration { seconds, nanos: 0 });
        let header = v1::ParameterPlace::Header.into();
        let bounded = v1::Tool {
            timeout: seconds(90),
            connect_timeout: seconds(2),
            max_response_bytes: Some(9),
            response_headers: vec!["etag".into()],
            places: [("x-trace".to_owned(), header)].into(),
            ..tool()
        };
        let shown = tool_text(&bounded, Some(&tool()));
        for line in [
            "places         x-trace in a header",
            "lets through   etag",
            "reads at most  9 bytes",
            "ends after     90 s; 2 s without a connection",
            "tried again    always, also where the API may have done it",
        ] {
            assert!(shown.contains(line), "{line}: {shown}");
        }
        assert!(shown.contains("connectTimeout: - -> 2s"), "{shown}");
        let usual = v1::Tool {
            method: "PUT".into(),
            timeout: seconds(30),
            connect_timeout: seconds(5),
            max_response_bytes: Some(1024 * 1024),
            ..tool()
        };
        let shown = tool_text(&usual, None);
        for name in [
            "places",
            "lets through",
            "reads at most",
            "ends after",
            "tried again",
        ] {
            assert!(!shown.contains(name), "{name}: {shown}");
        }
        let strict = v1::Tool {
            retry: v1::RetryClass::AtMostOnce.into(),
            ..tool()
        };
        let lax = v1::Tool {
            retry: v1::RetryClass::Idempotent.into(),
            ..tool()
        };
        let shown = tool_text(&lax, Some(&strict));
        let change = "retry: RETRY_CLASS_AT_MOST_ONCE -> RETRY_CLASS_IDEMPOTENT";
        assert!(shown.contains(change), "{shown}");
    }

    #[test]
    fn what_waits_says_what_to_do() {
        insta::assert_snapshot!(standing(&tool(), ApprovedBy::SomebodyElse));
        let approved = v1::Tool {
            state: v1::ToolState::Approved.into(),
            ..tool()
        };
        for by in [ApprovedBy::SomebodyElse, ApprovedBy::Oneself] {
            let told = standing(&approved, by);
            assert_eq!(told, "acme.deploy version 2: approved");
        }
        let own = standing(&tool(), ApprovedBy::Oneself);
        assert!(own.contains("yourself") && !own.contains("else"), "{own}");
    }

    #[test]
    fn whoever_may_not_approve_is_not_told_to() {
        let status = |role: &str, narrowed: bool, scope: &str| v1::SystemStatus {
            roles: vec![role.to_owned()],
            narrowed,
            scopes: vec![scope.to_owned()],
            ..v1::SystemStatus::default()
        };
        assert!(may_approve(&status("admin", false, "")));
        assert!(may_approve(&status("policy_admin", true, "tools")));
        assert!(!may_approve(&status("tool_publisher", false, "")));
        assert!(!may_approve(&status("admin", true, "tools_read")));
    }
}
