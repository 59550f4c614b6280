//! What identity providers publish.

use crate::plane::Plane;
use async_trait::async_trait;
use http::{HeaderMap, Method, StatusCode};
use std::{sync::Arc, time::Duration};
use url::Url;
use xylem_identity::{Documents, NotFetched};
use xylem_outbound::{Decoded, Outbound, Request, SendError, decode};
use xylem_proto::v1::Check;

/// How long one document may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest document, in bytes.
const LARGEST: usize = 256 * 1024;

/// Fetches it through checked addresses.
pub(crate) struct Publications(pub(crate) Arc<Outbound>);

#[async_trait]
impl Documents for Publications {
    async fn fetch(&self, url: &str) -> Result<Vec<u8>, NotFetched> {
        let url: Url = url
            .parse()
            .map_err(|_| NotFetched("where it says that its keys are is no URL"))?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let fetched = get(&self.0, url).await;
        if let Err(failure) = &fetched {
            tracing::warn!(provider.host = host, %failure, "an identity provider does not answer");
        }
        fetched
    }
}

async fn get(outbound: &Outbound, url: Url) -> Result<Vec<u8>, NotFetched> {
    let request = Request {
        method: Method::GET,
        url,
        headers: HeaderMap::new(),
        body: None,
    };
    let answer = outbound.send(request, TIMEOUT, LARGEST).await;
    let answer = answer.map_err(not_sent)?;
    if answer.status != StatusCode::OK {
        return Err(NotFetched(
            "it does not answer with status 200: redirects are not followed",
        ));
    }
    match decode(&answer.headers, answer.body, LARGEST) {
        Decoded::Whole(body) => Ok(body),
        Decoded::Opaque => Err(NotFetched("it answers in an encoding that is not known")),
        Decoded::TooLarge => Err(TOO_LARGE),
    }
}

const TOO_LARGE: NotFetched = NotFetched("it answers with more than 256 KiB");

fn not_sent(error: SendError) -> NotFetched {
    match error {
        SendError::Refused(_) => NotFetched(
            "its address is not allowed: an administrator can allow its range with --private-network",
        ),
        SendError::NotSent(_) => NotFetched("it cannot be reached"),
        SendError::Untrusted(_) => NotFetched("its certificate is not trusted"),
        SendError::NoAnswer(_) => NotFetched("it does not answer"),
        SendError::TooLarge => TOO_LARGE,
    }
}

impl Plane {
    /// Whether the keys of each identity provider are there. They are fetched where that is due.
    pub(crate) async fn provider_checks(&self) -> Vec<Check> {
        const ADVICE: &str = "look at its entry in the file of --identity-providers, and whether the \
                              control plane may reach it; keys that are known serve for a day";
        let mut checks = Vec::new();
        for (name, published) in self.identity.providers(self.now()).await {
            let seen = match published {
                Ok(published) if published.keys == 0 => {
                    Err("it publishes no key for the algorithms that are configured".to_owned())
                }
                Ok(published) => {
                    let age = Duration::from_secs(published.age.as_secs());
                    let age = humantime::format_duration(age);
                    let keys = match published.keys {
                        1 => "1 key".to_owned(),
                        keys => format!("{keys} keys"),
                    };
                    Ok(format!("{keys}, fetched {age} ago"))
                }
                Err(failure) => Err(failure.to_string()),
            };
            let ok = seen.is_ok();
            checks.push(Check {
                name: format!("identity_provider {name}"),
                ok,
                detail: seen.unwrap_or_else(|error| error),
                advice: if ok { String::new() } else { ADVICE.to_owned() },
            });
        }
        checks
    }
}
