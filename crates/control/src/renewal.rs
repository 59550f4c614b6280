//! Obtaining the next value of a credential from its provider.

use crate::{
    fault::Fault,
    oauth::{Failed, Obtained, obtain, probe},
    plane::Plane,
};
use std::sync::Arc;
use xylem_ids::{AgentId, CredentialName};
use xylem_vault::{NewSource, Rotated, Rotation, VaultError};

impl Plane {
    /// Asks a provider for a token, takes over the refresh token that it gives for the next one, and
    /// looks whether the token works.
    pub(crate) async fn obtained(&self, source: &mut NewSource) -> Result<Obtained, Failed> {
        let mut obtained = obtain(&self.outbound, source, self.now().into()).await?;
        let next = obtained.refresh_token.take();
        if source.refresh_token.is_some() && next.is_some() {
            source.refresh_token = next;
        }
        if let Some(url) = &source.oauth.probe_url {
            probe(&self.outbound, url, &obtained.token).await?;
        }
        Ok(obtained)
    }

    /// Obtains the next version of a credential and has it spread. Where the provider refuses, it is
    /// not asked again by itself.
    pub(crate) async fn renew_now(
        self: &Arc<Self>,
        name: &CredentialName,
        by: &AgentId,
    ) -> Result<(), Fault> {
        let namespace = &self.settings.namespace;
        let Some(renewal) = self.vault.begin_renewal(namespace, name).await? else {
            return Err(Fault::refused(
                "renewing",
                "its next value is just being obtained: try again in a moment",
            ));
        };
        let mut source = renewal.source;
        let asked = self.obtained(&mut source).await;
        let refused = match &asked {
            Err(Failed::Refused(code)) => Some(code.clone()),
            _ => None,
        };
        let kept = match asked {
            Ok(obtained) => {
                let kept = self.keep(name, source.clone(), obtained, by).await;
                kept.map_err(Fault::from)
            }
            Err(failed) => Err(told(failed)),
        };
        match kept {
            Ok(rotated) => {
                let version = rotated.version.version;
                self.spread_soon(name, version).await;
                Ok(())
            }
            Err(fault) => {
                tracing::warn!(
                    credential.name = %name,
                    reason = fault.reason(),
                    "the next value of a credential could not be obtained"
                );
                self.vault
                    .fail_renewal(namespace, name, refused, Some(&source), by)
                    .await?;
                Err(fault)
            }
        }
    }

    /// Stores what a provider gave: the token, and with it what is good for the next one.
    async fn keep(
        &self,
        name: &CredentialName,
        source: NewSource,
        obtained: Obtained,
        by: &AgentId,
    ) -> Result<Rotated, VaultError> {
        // No agent's name begins so: no request of an agent is the same.
        let request = format!("@renewal/{}", uuid::Uuid::new_v4());
        let rotation = Rotation {
            namespace: self.settings.namespace.clone(),
            name: name.clone(),
            value: obtained.token,
            expires_at: Some(obtained.expires_at),
            accept_short: false,
            source: Some(source),
            if_version: None,
            by: by.clone(),
            request: request.parse().map_err(|_| VaultError::Crypto)?,
        };
        self.vault.rotate_credential(rotation).await
    }
}

pub(crate) fn told(failed: Failed) -> Fault {
    match failed {
        Failed::Later(why) => Fault::unavailable("provider_unavailable", why, why),
        Failed::Refused(code) => Fault::refused(
            "provider_refused",
            format!(
                "the provider refused with {code}: correct the client, its secret or its scopes, \
                 and rotate"
            ),
        ),
    }
}
