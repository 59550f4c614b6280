//! Tools from an OpenAPI document.

use super::{wire_retry_class, wire_state};
use crate::{convert, fault::Fault, handlers::Handlers};
use http::{HeaderMap, Method, StatusCode};
use std::time::Duration;
use url::Url;
use xylem_outbound::{Decoded, Request, SendError, decode};
use xylem_proto::v1;
use xylem_registry::{
    Import, Imported, KnownTool,
    openapi::{self, Document, MAX_DOCUMENT_BYTES, Note, Options, Unusable},
};

/// How long a document may take to come.
const TIMEOUT: Duration = Duration::from_secs(10);

impl Handlers {
    pub(super) async fn import_tools(
        &self,
        request: v1::ImportToolsRequest,
    ) -> Result<v1::ImportToolsResponse, Fault> {
        let credential = convert::optional(request.credential, "credential")?;
        if credential.is_some() && !request.slot.is_empty() {
            let rule = "credential must be absent where a slot is given";
            return Err(Fault::invalid("credential", rule));
        }
        let options = Options {
            credential,
            prefix: convert::id(request.prefix, "prefix")?,
            base_url: (!request.base_url.is_empty()).then_some(request.base_url),
            slot: convert::optional(request.slot, "slot")?,
            tags: convert::ids(request.tags, "tags")?,
            only: request.only.into_iter().collect(),
            response_schemas: request.response_schemas,
        };
        let (document, from) = match (request.document.as_str(), request.url.as_str()) {
            (text, "") if !text.is_empty() => (read(text, None)?, "a document".to_owned()),
            ("", url) if !url.is_empty() => self.fetched(url).await?,
            _ => {
                let rule = "either document or url must be given";
                return Err(Fault::invalid("document", rule));
            }
        };
        let mut report = openapi::import(&document, &options)?;
        let tools = std::mem::take(&mut report.tools);
        let given = Import {
            from: &from,
            names_token: options.names_token(),
            dry_run: request.dry_run,
        };
        let imported = self.tools.import(&self.editing()?, tools, &given).await?;
        Ok(v1::ImportToolsResponse {
            title: report.title,
            version: report.version,
            tools: imported.iter().map(wire_imported).collect(),
            left_out: report.left_out.into_iter().map(wire_note).collect(),
            changed: report.changed.into_iter().map(wire_note).collect(),
        })
    }

    /// The document at a URL, and the host it came from. What came instead of one is not told: it may
    /// be from an inner network.
    async fn fetched(&self, url: &str) -> Result<(Document, String), Fault> {
        let wrong = |rule: &str| Fault::invalid("url", rule);
        let parsed: Url = url
            .parse()
            .map_err(|_| wrong("url must be an https URL of a document"))?;
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(wrong(
                "url must be one without a user: it is asked for as anybody",
            ));
        }
        let host = parsed.host_str().unwrap_or_default().to_owned();
        let request = Request {
            method: Method::GET,
            url: parsed,
            headers: HeaderMap::new(),
            body: None,
        };
        let answer = self.outbound.send(request, TIMEOUT, MAX_DOCUMENT_BYTES);
        let answer = answer.await.map_err(not_fetched)?;
        if answer.status != StatusCode::OK {
            return Err(wrong(
                "url must answer with the document itself, status 200: redirects are not followed",
            ));
        }
        let body = match decode(&answer.headers, answer.body, MAX_DOCUMENT_BYTES) {
            Decoded::Whole(body) => body,
            Decoded::Opaque => return Err(wrong("url must answer in an encoding that is known")),
            Decoded::TooLarge => return Err(wrong("url must lead to at most 8 MiB")),
        };
        let text = String::from_utf8(body).map_err(|_| wrong("url must lead to a text"))?;
        Ok((read(&text, Some(url))?, host))
    }
}

fn read(text: &str, from: Option<&str>) -> Result<Document, Fault> {
    let field = if from.is_some() { "url" } else { "document" };
    let read = Document::parse(text, from);
    read.map_err(|why: Unusable| Fault::invalid(field, why.to_string()))
}

fn not_fetched(error: SendError) -> Fault {
    match error {
        SendError::Refused(_) | SendError::Untrusted(_) | SendError::TooLarge => {
            Fault::invalid("url", format!("url cannot be used: {error}"))
        }
        SendError::NotSent(_) | SendError::NoAnswer(_) => {
            Fault::unavailable("not_fetched", "the document could not be fetched", error)
        }
    }
}

fn wire_imported((known, imported): &(KnownTool, Imported)) -> v1::ImportedTool {
    let definition = known.tool.definition();
    let outcome = match imported {
        Imported::New => v1::ImportOutcome::New,
        Imported::Updated => v1::ImportOutcome::Updated,
        Imported::Unchanged => v1::ImportOutcome::Unchanged,
    };
    v1::ImportedTool {
        name: definition.name.to_string(),
        method: definition.method.as_str().to_owned(),
        base_url: definition.base_url.clone(),
        path: definition.path.clone(),
        hash: known.tool.hash().to_string(),
        version: known.version,
        state: wire_state(known.record.state()).into(),
        outcome: outcome.into(),
        retry: wire_retry_class(definition.retry).into(),
    }
}

fn wire_note(note: Note) -> v1::ImportNote {
    v1::ImportNote {
        operation: note.operation,
        place: note.place,
        reason: note.why.code().to_owned(),
        message: note.why.text().to_owned(),
        what: note.what,
    }
}
