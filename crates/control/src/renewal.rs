//! Obtaining the next value of a credential from its provider.

use crate::{
    fault::Fault,
    oauth::{Failed, Obtained, obtain, probe},
    plane::Plane,
};
use secrecy::ExposeSecret;
use std::sync::Arc;
use xylem_audit::Reason;
use xylem_ids::{AgentId, CredentialName, Version};
use xylem_vault::{Asker, NewSource, NotObtained, Rotated, Rotation, Turn, VaultError};

/// What became of asking for a credential's next value.
#[derive(Debug)]
pub(crate) enum Renewed {
    /// It is there, or nothing new was needed yet.
    Well,
    /// Somebody else is asking, or has asked a moment ago.
    Busy,
    /// There is none, which is noted.
    NotObtained(Fault),
}

impl Plane {
    /// Asks a provider for a token, takes over the refresh token that it gives for the next one, and
    /// looks whether the token works.
    pub(crate) async fn obtained(&self, source: &mut NewSource) -> Result<Obtained, Failed> {
        let now = self.now().into();
        let obtained = match source {
            NewSource::Provider(provided) => {
                let providers = &self.settings.credential_providers;
                providers.ask(provided, now).await?
            }
            NewSource::OAuth(client) => {
                let mut obtained = obtain(&self.outbound, client, now).await?;
                let next = obtained.refresh_token.take();
                if client.refresh_token.is_some() && next.is_some() {
                    client.refresh_token = next;
                }
                obtained
            }
        };
        if let Some(url) = source.probe_url() {
            probe(&self.outbound, url, &obtained.token).await?;
        }
        Ok(obtained)
    }

    /// Obtains the next version of a credential of which `seen` is the active one, and has it spread.
    pub(crate) async fn renew_now(
        self: &Arc<Self>,
        name: &CredentialName,
        seen: Option<Version>,
        asker: Asker<'_>,
        by: &AgentId,
    ) -> Result<Renewed, Fault> {
        let namespace = &self.settings.namespace;
        let begun = self.vault.begin_renewal(namespace, name, seen, asker).await;
        let Some(renewal) = begun? else {
            return Ok(Renewed::Busy);
        };
        let turn = renewal.turn;
        let mut source = renewal.source.clone();
        let asked = self.obtained(&mut source).await;
        let refused = match &asked {
            Err(Failed::Refused(code)) => Some(code.clone()),
            _ => None,
        };
        let kept = match asked {
            Ok(obtained) => {
                let kept = self.keep(name, source.clone(), obtained, &turn, by).await;
                kept.map_err(Fault::from)
            }
            Err(failed) => Err(told(failed)),
        };
        match kept {
            Ok(rotated) => {
                if !rotated.repeated {
                    self.spread_soon(name, rotated.version.version).await;
                }
                Ok(Renewed::Well)
            }
            Err(fault) => {
                tracing::warn!(
                    credential.name = %name,
                    reason = fault.reason(),
                    "the next value of a credential could not be obtained"
                );
                let failed = NotObtained {
                    refused: refused.is_some(),
                    reason: refused.unwrap_or_else(|| Reason::of(fault.reason())),
                    // A refresh token that came with what failed may be the only one that is good now.
                    next: is_other(&renewal.source, &source).then_some(source),
                };
                self.vault
                    .fail_renewal(namespace, name, &turn, failed, by)
                    .await?;
                Ok(Renewed::NotObtained(fault))
            }
        }
    }

    /// Stores what a provider gave: the token, and with it what is good for the next one.
    async fn keep(
        &self,
        name: &CredentialName,
        source: NewSource,
        obtained: Obtained,
        turn: &Turn,
        by: &AgentId,
    ) -> Result<Rotated, VaultError> {
        // No agent's name begins so: no request of an agent is the same.
        let request = format!("@renewal/{}", uuid::Uuid::new_v4());
        let rotation = Rotation {
            namespace: self.settings.namespace.clone(),
            name: name.clone(),
            value: obtained.token,
            expires_at: obtained.expires_at,
            accept_short: false,
            source: Some(source),
            if_version: None,
            by: by.clone(),
            request: request.parse().map_err(|_| VaultError::Crypto)?,
        };
        self.vault.end_renewal(rotation, turn).await
    }
}

/// Whether the refresh token is another one.
fn is_other(before: &NewSource, after: &NewSource) -> bool {
    let [before, after] = [before, after].map(|source| match source {
        NewSource::OAuth(client) => {
            let token = client.refresh_token.as_ref();
            token.map(ExposeSecret::expose_secret)
        }
        NewSource::Provider(_) => None,
    });
    before != after
}

pub(crate) fn told(failed: Failed) -> Fault {
    match failed {
        Failed::Later(why) => Fault::unavailable("provider_unavailable", why, why),
        Failed::Here(code, why) => Fault::refused(code, why),
        Failed::Refused(code) => Fault::refused(
            "provider_refused",
            format!(
                "the provider refused with {code}: correct the client, its secret or its scopes, \
                 and rotate"
            ),
        ),
    }
}
