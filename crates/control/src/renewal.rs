//! Obtaining the next value of a credential from its provider.

use crate::{
    fault::Fault,
    oauth::{Failed, Obtained, obtain},
    plane::Plane,
};
use std::sync::Arc;
use xylem_ids::{AgentId, CredentialName};
use xylem_vault::{CredentialStatus, NewSource, Rotated, Rotation, VaultError};

impl Plane {
    /// Asks a provider for a token, and says what became of it.
    pub(crate) async fn obtained(&self, source: &NewSource) -> Result<Obtained, Fault> {
        let obtained = obtain(&self.outbound, source, self.now().into()).await;
        obtained.map_err(told)
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
        let asked = obtain(&self.outbound, &renewal.source, self.now().into()).await;
        let refused = match &asked {
            Err(Failed::Refused(code)) => Some(code.clone()),
            _ => None,
        };
        let kept = match asked {
            Ok(obtained) => self
                .keep(name, renewal.source, obtained, by)
                .await
                .map_err(Fault::from),
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
                    .fail_renewal(namespace, name, refused, by)
                    .await?;
                Err(fault)
            }
        }
    }

    /// Stores what a provider gave: the token, and with it the refresh token that is good for the
    /// next one.
    pub(crate) async fn keep(
        &self,
        name: &CredentialName,
        mut source: NewSource,
        obtained: Obtained,
        by: &AgentId,
    ) -> Result<Rotated, VaultError> {
        if obtained.refresh_token.is_some() && source.refresh_token.is_some() {
            source.refresh_token = obtained.refresh_token;
        }
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

    /// Renews a credential that ends soon; answers whether that went well.
    pub(crate) async fn renew_if_due(self: &Arc<Self>, status: &CredentialStatus) -> bool {
        if !status.is_renewal_due(self.now().into()) {
            return true;
        }
        let name = &status.credential.name;
        match self.renew_now(name, &self.system).await {
            Ok(()) => true,
            Err(fault) => fault.reason() == "renewing",
        }
    }
}

fn told(failed: Failed) -> Fault {
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
