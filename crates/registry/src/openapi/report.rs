//! What an import says.

use crate::Tool;

/// A document full of mistakes makes no endless report.
const MAX_NOTES: usize = 2_000;
const MAX_PLACE: usize = 300;
const MAX_NAME: usize = 100;

/// What a document makes of tools, and what it does not.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The document's title.
    pub title: String,
    /// The version of the API that it describes.
    pub version: String,
    /// The tools. None of them is registered yet.
    pub tools: Vec<Tool>,
    /// Operations that make no tool. The last says so where there are too many to list.
    pub left_out: Vec<Note>,
    /// Parts of operations that make a tool without them.
    pub changed: Vec<Note>,
}

/// One thing that was not taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The operation: `GET /pets/{id}`.
    pub operation: String,
    /// Where in the document, as a JSON pointer; cut at 300 characters.
    pub place: String,
    /// Why.
    pub why: Why,
    /// The name of the part, cut at 100 characters; empty for a whole operation.
    pub what: String,
}

/// Why a part of a document was not taken over. The codes are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// A part has another shape than the specification gives it.
    Malformed,
    /// It was asked for by name, and the document has none of that name.
    NoOperation,
    /// It is called by the API, not by us: webhooks, callbacks.
    NotACall,
    /// Only GET, HEAD, POST, PUT, PATCH and DELETE are called.
    Method,
    /// The path is not made of whole segments, or its parameters are not described.
    PathTemplate,
    /// There is no server, or a relative one, and no base URL was given.
    NoServer,
    /// The server is not reached over https.
    NotHttps,
    /// A reference leads out of the document.
    ExternalRef,
    /// A reference leads to nothing in the document.
    RefMissing,
    /// A chain of references has no end.
    RefTooDeep,
    /// The style of a parameter is not the usual one of its place.
    ParameterStyle,
    /// The name is not 1 to 64 characters of A-Z, a-z, 0-9, `_` and `-`.
    ParameterName,
    /// The header is reserved for the request itself.
    ParameterHeader,
    /// Cookies are not sent.
    Cookie,
    /// The body is not `application/json`, or the method has none.
    BodyType,
    /// The body is not a JSON object with named members.
    BodyNotObject,
    /// The body may be absent in the document, and is always sent.
    BodyOptional,
    /// Successful answers are not all JSON with a schema, or empty.
    Response,
    /// Two parameters have one name.
    NameClash,
    /// A schema is not valid, or not accepted.
    SchemaInvalid,
    /// A schema is larger or deeper than a tool's may be.
    SchemaTooLarge,
    /// It authenticates in a way that is not supported.
    Security,
    /// The document has more than an import takes.
    TooMany,
    /// Another tool has the name: this one got a number.
    Renamed,
}

impl Why {
    /// The stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NoOperation => "no_operation",
            Self::NotACall => "not_a_call",
            Self::Method => "method",
            Self::PathTemplate => "path_template",
            Self::NoServer => "no_server",
            Self::NotHttps => "not_https",
            Self::ExternalRef => "external_ref",
            Self::RefMissing => "ref_missing",
            Self::RefTooDeep => "ref_too_deep",
            Self::ParameterStyle => "parameter_style",
            Self::ParameterName => "parameter_name",
            Self::ParameterHeader => "parameter_header",
            Self::Cookie => "cookie",
            Self::BodyType => "body_type",
            Self::BodyNotObject => "body_not_object",
            Self::BodyOptional => "body_optional",
            Self::Response => "response",
            Self::NameClash => "name_clash",
            Self::SchemaInvalid => "schema_invalid",
            Self::SchemaTooLarge => "schema_too_large",
            Self::Security => "security",
            Self::TooMany => "too_many",
            Self::Renamed => "renamed",
        }
    }

    /// The reason for people, and what to do where something can be done.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Malformed => "it is not what the OpenAPI specification says it is",
            Self::NoOperation => {
                "the document has no such operation: name its operationId, or method and path as in 'GET /path'"
            }
            Self::NotACall => "the API calls it, nobody calls the API",
            Self::Method => "only GET, HEAD, POST, PUT, PATCH and DELETE are called",
            Self::PathTemplate => {
                "a path is made of whole segments, each text or one described parameter, and ends without '/'"
            }
            Self::NoServer => "the document does not say where the API is: give a base URL",
            Self::NotHttps => "the server is not reached over https: give a base URL that is",
            Self::ExternalRef => "a reference leads out of the document: bundle it into one",
            Self::RefMissing => "a reference leads to nothing in the document",
            Self::RefTooDeep => "references lead in a circle, or further than 32 steps",
            Self::ParameterStyle => {
                "only plain values are taken here, and lists in queries, each item by itself"
            }
            Self::ParameterName => {
                "names of parameters are 1 to 64 characters of A-Z, a-z, 0-9, '_' and '-'"
            }
            Self::ParameterHeader => "the header is reserved for the request itself",
            Self::Cookie => "cookies are not sent",
            Self::BodyType => "only application/json is sent, and only with POST, PUT and PATCH",
            Self::BodyNotObject => "only JSON objects with named members are sent",
            Self::BodyOptional => "the body may be absent, and is always sent",
            Self::Response => {
                "answers are checked where all successful ones are JSON with a schema, or empty"
            }
            Self::NameClash => "two parameters have this name, or one has that of the token",
            Self::SchemaInvalid => {
                "the schema is not a valid JSON Schema, or has a pattern with look-around"
            }
            Self::SchemaTooLarge => "the schema is larger than 64 KiB or deeper than 32 levels",
            Self::Security => {
                "it authenticates in a way that is not supported: one bearer token, key or password is"
            }
            Self::TooMany => {
                "the document has more than an import takes: name the operations to take"
            }
            Self::Renamed => "another tool has the name",
        }
    }
}

/// Collects what was not taken over.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) left_out: Vec<Note>,
    pub(super) changed: Vec<Note>,
}

impl Notes {
    pub(super) fn left_out(&mut self, operation: &str, place: &str, why: Why, what: &str) {
        add(&mut self.left_out, operation, place, why, what);
    }

    pub(super) fn changed(&mut self, operation: &str, place: &str, why: Why, what: &str) {
        add(&mut self.changed, operation, place, why, what);
    }
}

fn add(notes: &mut Vec<Note>, operation: &str, place: &str, why: Why, what: &str) {
    if notes.len() >= MAX_NOTES {
        return;
    }
    let last = notes.len() + 1 == MAX_NOTES;
    notes.push(Note {
        operation: printable(operation, MAX_PLACE),
        place: printable(place, MAX_PLACE),
        why: if last { Why::TooMany } else { why },
        what: printable(what, MAX_NAME),
    });
}

/// Names from a document are shown to people: nothing in them moves a cursor.
pub(super) fn printable(text: &str, most: usize) -> String {
    let shown = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(most);
    shown.collect::<String>().trim().to_owned()
}
