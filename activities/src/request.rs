//! From parameters to an HTTP request without its token.

use crate::{
    carry::Carried,
    failure::Failure,
    template::fill,
    tool::{Place, ReadyTool},
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{ACCEPT, CONTENT_TYPE},
};
use secrecy::ExposeSecret;
use serde_json::{Map, Value};
use url::Url;
use xylem_ids::{Audience, Origin};
use xylem_outbound as outbound;

/// No URL is longer, in bytes: beyond this servers and proxies disagree.
const MAX_URL_BYTES: usize = 8 * 1024;

/// A request that lacks only its token.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) origin: Origin,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Option<Vec<u8>>,
}

impl Request {
    /// The request with its token: the last that is done to it before it is sent.
    pub(crate) fn with(self, token: Carried) -> outbound::Request {
        let (mut url, mut headers) = (self.url, self.headers);
        headers.insert(
            ACCEPT,
            HeaderValue::from_static("application/json, */*;q=0.5"),
        );
        if self.body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        match token {
            Carried::Header(name, value) => {
                headers.insert(name, value);
            }
            Carried::Query(name, token) => {
                let mut query = url.query_pairs_mut();
                query.append_pair(&name, token.expose_secret());
            }
            Carried::Nothing => {}
        }
        outbound::Request {
            method: self.method,
            url,
            headers,
            body: self.body,
        }
    }
}

/// Builds the request for parameters that the tool's schema accepts.
pub(crate) fn build(
    ready: &ReadyTool,
    parameters: &Value,
    api_url: Option<&str>,
) -> Result<Request, Failure> {
    let nothing = Map::new();
    let wrong = |what: String| Failure::Parameters {
        tool: ready.tool.name.clone(),
        what,
    };
    let parameters = match parameters {
        Value::Object(parameters) => parameters,
        Value::Null => &nothing,
        _ => return Err(wrong("they are not a JSON object".to_owned())),
    };
    let base = base(ready, api_url)?;
    let path = fill(&ready.path, |name| path_value(parameters, name));
    let mut url = url(&base, &path.map_err(wrong)?).map_err(wrong)?;
    let mut headers = HeaderMap::new();
    let mut body = Map::new();
    for (name, value) in parameters.iter().filter(|(_, value)| !value.is_null()) {
        match ready.place(name) {
            Place::Path if ready.is_in_path(name) => {}
            Place::Path => return Err(wrong(format!("'{name}' has no place in the path"))),
            Place::Query if ready.carrier.is_in_query(name) => {
                return Err(wrong(format!("'{name}' is the name of the token")));
            }
            Place::Query => append(&mut url, name, value).map_err(wrong)?,
            Place::Header => {
                let (name, value) = header(name, value).map_err(wrong)?;
                headers.insert(name, value);
            }
            Place::Body => {
                body.insert(name.clone(), value.clone());
            }
        }
    }
    if url.as_str().len() > MAX_URL_BYTES {
        return Err(wrong(format!(
            "the URL is longer than {MAX_URL_BYTES} bytes"
        )));
    }
    let with_body = matches!(ready.method, Method::POST | Method::PUT | Method::PATCH);
    let body = (with_body || !body.is_empty()).then(|| Value::Object(body).to_string());
    Ok(Request {
        method: ready.method.clone(),
        origin: base.origin().clone(),
        url,
        headers,
        body: body.map(String::into_bytes),
    })
}

/// Where the API is for this workflow: its own `apiUrl` where the tool allows that.
fn base(ready: &ReadyTool, api_url: Option<&str>) -> Result<Audience, Failure> {
    let Some(text) = api_url else {
        return Ok(ready.base.clone());
    };
    let refused = || Failure::ApiUrl {
        tool: ready.tool.name.clone(),
    };
    let base: Audience = text.parse().map_err(|_| refused())?;
    let url = Url::parse(&base.to_string()).map_err(|_| refused())?;
    let mut allowed = [&ready.base]
        .into_iter()
        .chain(&ready.tool.allowed_api_urls);
    if allowed.any(|audience| audience.covers(&url)) {
        Ok(base)
    } else {
        Err(refused())
    }
}

/// Base and path as a URL that says exactly that: nothing was normalised away.
fn url(base: &Audience, path: &str) -> Result<Url, String> {
    let expected = match (base.path(), path) {
        ("", "") => "/".to_owned(),
        (prefix, path) => format!("{prefix}{path}"),
    };
    let url = Url::parse(&format!("{}{expected}", base.origin()))
        .map_err(|_| "they make no valid URL".to_owned())?;
    if url.path() == expected && base.covers(&url) {
        Ok(url)
    } else {
        Err(
            "they make a URL outside of the tool's place: separators in path parameters are not \
             accepted there"
                .to_owned(),
        )
    }
}

fn path_value(parameters: &Map<String, Value>, name: &str) -> Result<String, String> {
    let value = parameters.get(name);
    let value = value.ok_or_else(|| format!("'{name}' goes into the path and is missing"))?;
    scalar(value).ok_or_else(|| format!("'{name}' goes into the path and is not a plain value"))
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn append(url: &mut Url, name: &str, value: &Value) -> Result<(), String> {
    let values = match value {
        Value::Array(items) => items.iter().map(scalar).collect::<Option<Vec<_>>>(),
        other => scalar(other).map(|one| vec![one]),
    };
    let values = values.ok_or_else(|| format!("'{name}' goes into the query and is nested"))?;
    let mut pairs = url.query_pairs_mut();
    for value in values {
        pairs.append_pair(name, &value);
    }
    Ok(())
}

fn header(name: &str, value: &Value) -> Result<(HeaderName, HeaderValue), String> {
    let wrong = || format!("'{name}' goes into a header and does not fit there");
    let text = scalar(value).ok_or_else(wrong)?;
    let value = HeaderValue::from_str(&text).map_err(|_| wrong())?;
    let name = name.parse().map_err(|_| wrong())?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::{Tool, tests::tool};
    use serde_json::json;
    use std::collections::BTreeMap;

    fn ready(change: impl FnOnce(&mut Tool)) -> ReadyTool {
        let mut tool = tool();
        change(&mut tool);
        ReadyTool::new(tool).expect("a good definition")
    }

    fn refused(ready: &ReadyTool, parameters: Value, api_url: Option<&str>) -> String {
        match build(ready, &parameters, api_url) {
            Err(failure) => failure.message(),
            Ok(request) => panic!("built {request:?}"),
        }
    }

    #[test]
    fn parameters_go_where_the_definition_says() {
        let ready = ready(|tool| {
            tool.path = "/deploys/{service}".to_owned();
            tool.places = BTreeMap::from([
                ("dry_run".to_owned(), Place::Query),
                ("tag".to_owned(), Place::Query),
                ("X-Trace".to_owned(), Place::Header),
            ]);
        });
        let parameters = json!({
            "service": "a b/c", "dry_run": true, "tag": ["x&y", 2], "X-Trace": "t-1",
            "environment": { "name": "staging" }, "absent": null,
        });
        let built = build(&ready, &parameters, None);
        // The base has a path prefix: an encoded separator is refused there.
        assert!(built.is_err());
        let parameters = json!({
            "service": "a b", "dry_run": true, "tag": ["x&y", 2], "X-Trace": "t-1",
            "environment": { "name": "staging" }, "absent": null,
        });
        let request = build(&ready, &parameters, None).expect("a good request");
        assert_eq!(
            request.url.as_str(),
            "https://api.acme.example/v1/deploys/a%20b?dry_run=true&tag=x%26y&tag=2"
        );
        assert_eq!(request.headers["x-trace"], "t-1");
        let body: Value = serde_json::from_slice(&request.body.expect("a body")).expect("JSON");
        assert_eq!(body, json!({ "environment": { "name": "staging" } }));
    }

    #[test]
    fn a_get_has_a_query_and_no_body() {
        let ready = ready(|tool| tool.method = "GET".to_owned());
        let request = build(&ready, &json!({ "a": 1 }), None).expect("a good request");
        assert_eq!(request.url.query(), Some("a=1"));
        assert_eq!(request.body, None);
        let request = build(&ready, &Value::Null, None).expect("a good request");
        assert_eq!(request.url.as_str(), "https://api.acme.example/v1/deploys");
    }

    #[test]
    fn nothing_is_smuggled() {
        let path = ready(|tool| tool.path = "/b/{id}".to_owned());
        for id in [
            json!(".."),
            json!("."),
            json!(""),
            json!("../admin"),
            json!("a\\b"),
            json!("x\r\ny"),
            json!([1]),
            json!({}),
            Value::Null,
        ] {
            refused(&path, json!({ "id": id }), None);
        }
        refused(&path, json!({}), None);
        refused(&path, json!(["id"]), None);
        let header = ready(|tool| {
            tool.places = BTreeMap::from([("X-Trace".to_owned(), Place::Header)]);
        });
        for value in ["a\r\nHost: evil", "a\nb", "a\rb", "\u{0}", "\u{7f}"] {
            refused(&header, json!({ "X-Trace": value }), None);
        }
        for value in [json!(["a", "b"]), json!({ "Host": "evil" })] {
            refused(&header, json!({ "X-Trace": value }), None);
        }
        // A parameter whose name is a header's goes where its own place is.
        let named = json!({ "X-Trace": "t", "Host": "evil", "Authorization": "Bearer evil" });
        let request = build(&header, &named, None).expect("a good request");
        assert_eq!(request.headers.len(), 1);
        assert_eq!(request.headers["x-trace"], "t");
        let query = build(&path, &json!({ "id": "1?admin=true#x" }), None).expect("encoded");
        assert_eq!(query.url.query(), None);
        assert_eq!(query.url.fragment(), None);
    }

    #[test]
    fn an_error_does_not_quote_values() {
        let ready = ready(|tool| tool.path = "/b/{id}".to_owned());
        let message = refused(&ready, json!({ "id": "hunter2/hunter2" }), None);
        assert!(!message.contains("hunter2"), "{message}");
    }

    #[test]
    fn an_api_url_must_be_allowed_by_the_tool() {
        let ready = ready(|tool| {
            let allowed = ["https://eu.acme.example/v1", "https://mirror.example"];
            let allowed = allowed.map(|a| a.parse().expect("an audience"));
            tool.allowed_api_urls = allowed.to_vec();
        });
        for (api_url, expected) in [
            (
                "https://api.acme.example/v1",
                "https://api.acme.example/v1/deploys",
            ),
            (
                "https://api.acme.example/v1/tenants/7",
                "https://api.acme.example/v1/tenants/7/deploys",
            ),
            (
                "https://EU.acme.example/v1/",
                "https://eu.acme.example/v1/deploys",
            ),
            ("https://mirror.example", "https://mirror.example/deploys"),
        ] {
            let request = build(&ready, &Value::Null, Some(api_url)).expect(api_url);
            assert_eq!(request.url.as_str(), expected);
        }
        for api_url in [
            "https://evil.example/v1",
            "https://api.acme.example",
            "https://api.acme.example/v10",
            "https://api.acme.example/v1/..",
            "https://api.acme.example/v1?x=1",
            "https://api.acme.example/v1#x",
            "https://api.acme.example./v1",
            "https://api.acme.example:8443/v1",
            "http://api.acme.example/v1",
            "https://user@api.acme.example/v1",
            "https://api.acme.example@evil.example/v1",
            "https://api.acme.example\\@evil.example/v1",
            "https://api.acme.example%2f@evil.example/v1",
            "https://аpi.acme.example/v1",
            "//evil.example/v1",
            "file:///etc/passwd",
            "not a url",
            "",
        ] {
            let message = refused(&ready, Value::Null, Some(api_url));
            assert!(message.contains("apiUrl"), "{api_url}: {message}");
        }
    }

    #[test]
    fn a_url_has_an_end() {
        let ready = ready(|tool| tool.method = "GET".to_owned());
        refused(&ready, json!({ "q": "x".repeat(10_000) }), None);
    }
}
