//! The external API, from outside.

use anyhow::{Context, Result, bail};
use reqwest::{Method, RequestBuilder, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use std::{path::PathBuf, time::Duration};
use xylem::data;

/// A client of the external API and its admin surface.
pub(crate) struct Acme {
    url: String,
    admin_key: SecretString,
    http: reqwest::Client,
}

/// What the API prints when it listens.
#[derive(Deserialize)]
struct Ready {
    url: String,
    admin_key_file: PathBuf,
}

/// What the API has counted for one token.
#[derive(Debug, Deserialize)]
struct Counted {
    refusals: u64,
}

impl Acme {
    /// A client of the API that has printed this line.
    pub(crate) fn connect(line: &str) -> Result<Self> {
        let ready: Ready = serde_json::from_str(line).context("the API's address")?;
        Ok(Self {
            url: ready.url,
            admin_key: data::read_secret(&ready.admin_key_file)?,
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(10))
                .build()?,
        })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Lets the API issue a token.
    pub(crate) async fn issue(&self, label: &str) -> Result<SecretString> {
        let request = self
            .admin(Method::POST, "tokens")
            .json(&json!({ "label": label }));
        let answer = request.send().await?.error_for_status()?;
        Ok(SecretString::from(answer.text().await?))
    }

    /// Revokes a token at the API.
    pub(crate) async fn revoke(&self, label: &str) -> Result<()> {
        let request = self.admin(Method::DELETE, &format!("tokens/{label}"));
        match request.send().await?.status() {
            StatusCode::NO_CONTENT => Ok(()),
            status => bail!("the API did not revoke the token {label}: {status}"),
        }
    }

    /// How many calls the API has refused so far, whatever the token.
    pub(crate) async fn refusals(&self) -> Result<u64> {
        let answer = self.admin(Method::GET, "tokens").send().await?;
        let counted: Vec<Counted> = answer.error_for_status()?.json().await?;
        Ok(counted.iter().map(|token| token.refusals).sum())
    }

    /// The status of a call with a token.
    pub(crate) async fn call(&self, token: &SecretString) -> Result<u16> {
        let request = self.http.get(format!("{}/v1/status", self.url));
        let answer = request.bearer_auth(token.expose_secret()).send().await?;
        Ok(answer.status().as_u16())
    }

    fn admin(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self
            .http
            .request(method, format!("{}/admin/{path}", self.url));
        request.bearer_auth(self.admin_key.expose_secret())
    }
}
