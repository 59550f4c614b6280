//! Obtaining the next value of a credential from its provider.
//!
//! Whoever obtains one has a turn, and says again and again that it goes on: somebody else follows half a
//! minute after it was killed.

use crate::{
    fault::Fault,
    oauth::{Failed, Obtained, PROBE_REFUSED, obtain, probe},
    plane::Plane,
};
use secrecy::ExposeSecret;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, interval_at};
use xylem_audit::Reason;
use xylem_ids::{AgentId, CredentialName, Version};
use xylem_vault::{Asker, NewSource, NotObtained, Renewal, Rotated, Rotation, Turn, VaultError};

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

/// How often whoever asks a provider says that it goes on.
const BEAT: Duration = Duration::from_secs(10);

impl Plane {
    /// Asks a provider for a token, takes over the refresh token that it gives for the next one, and
    /// looks whether the token works.
    pub(crate) async fn obtained(&self, source: &mut NewSource) -> Result<Obtained, Failed> {
        let obtained = self.asked(source).await?;
        self.probed(source, obtained).await
    }

    async fn asked(&self, source: &mut NewSource) -> Result<Obtained, Failed> {
        let now = self.now().into();
        match source {
            NewSource::Provider(provided) => {
                let providers = &self.settings.credential_providers;
                providers.ask(provided, now).await
            }
            NewSource::OAuth(client) => {
                let mut obtained = obtain(&self.outbound, client, now).await?;
                let next = obtained.refresh_token.take();
                if client.refresh_token.is_some() && next.is_some() {
                    client.refresh_token = next;
                }
                Ok(obtained)
            }
        }
    }

    async fn probed(&self, source: &NewSource, obtained: Obtained) -> Result<Obtained, Failed> {
        if let Some(url) = source.probe_url() {
            probe(&self.outbound, url, &obtained.token).await?;
        }
        Ok(obtained)
    }

    /// The same in a turn. A refresh token is kept before the token that came with it is tried: whoever
    /// is killed meanwhile has not lost the only one that is good.
    async fn obtained_in_turn(
        &self,
        name: &CredentialName,
        Renewal { source, turn }: &mut Renewal,
        next: &mut NewSource,
    ) -> Result<Obtained, Failed> {
        let obtained = self.holding(name, turn, self.asked(next)).await?;
        if next.probe_url().is_some() && is_other(source, next) {
            let namespace = &self.settings.namespace;
            let taken = self.vault.take_over(namespace, name, turn, next).await;
            // What could not be kept is kept with what comes of the probe.
            if taken.is_ok() {
                *source = next.clone();
            }
        }
        self.holding(name, turn, self.probed(next, obtained)).await
    }

    /// Says again and again that this process lives, for as long as something is under way.
    async fn holding<T>(
        &self,
        name: &CredentialName,
        turn: &mut Turn,
        work: impl Future<Output = T>,
    ) -> T {
        let mut beat = interval_at(Instant::now() + BEAT, BEAT);
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = beat.tick() => {
                    let namespace = &self.settings.namespace;
                    // Whoever is not heard is taken to be gone, and what they bring comes too late.
                    let _ = self.vault.hold_renewal(namespace, name, turn).await;
                }
            }
        }
    }

    /// Obtains the next version of a credential of which `seen` is the active one, and has it spread.
    /// It goes on where whoever asked for it is gone: what a provider gives is given once.
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
        let (plane, name, by) = (Arc::clone(self), name.clone(), by.clone());
        self.to_the_end(async move { plane.renewed(&name, renewal, &by).await })
            .await
    }

    /// What a turn comes to. It is not left before that: a provider may have taken the only refresh token
    /// that was good, and nobody else asks while the turn is not over.
    async fn renewed(
        &self,
        name: &CredentialName,
        mut renewal: Renewal,
        by: &AgentId,
    ) -> Result<Renewed, Fault> {
        let mut source = renewal.source.clone();
        let asked = self.obtained_in_turn(name, &mut renewal, &mut source).await;
        let turn = renewal.turn;
        let refused = match &asked {
            Err(Failed::Refused(code)) => Some(code.clone()),
            _ => None,
        };
        let kept = match asked {
            Ok(obtained) => {
                let kept = self.keep(name, source.clone(), obtained, &turn, by).await;
                kept.map_err(Fault::from)
            }
            Err(failed) => Err(told(failed, &source)),
        };
        match kept {
            Ok(rotated) => {
                if !rotated.repeated {
                    self.spread_soon(name, rotated.version.version).await;
                }
                Ok(Renewed::Well)
            }
            Err(fault) => {
                self.met(&fault);
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
                    .fail_renewal(&self.settings.namespace, name, &turn, failed, by)
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

/// What whoever wants a value is told of why there is none.
pub(crate) fn told(failed: Failed, source: &NewSource) -> Fault {
    let code = match failed {
        Failed::Later(why) => return Fault::unavailable("provider_unavailable", why, why),
        Failed::Here(code, why) => return Fault::refused(code, why),
        Failed::Refused(code) => code,
    };
    let is_probe = code.as_str() == PROBE_REFUSED;
    let message = match source {
        NewSource::OAuth(_) if is_probe => format!(
            "the API at the probe's URL refused the new token ({code}): correct the client, its scopes or \
             the URL"
        ),
        NewSource::OAuth(_) => format!(
            "the provider refused with {code}: correct the client, its secret or its scopes, and rotate"
        ),
        NewSource::Provider(_) => format!(
            "the API at the probe's URL refused what the provider gave ({code}): have it give another value"
        ),
    };
    Fault::refused("provider_refused", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Status;
    use xylem_vault::Provided;

    #[test]
    fn a_file_whose_value_a_probe_refused_is_not_told_of_a_client() {
        let source = NewSource::Provider(Provided {
            name: "file".to_owned(),
            probe_url: None,
            revoke_old: false,
        });
        let refused = Failed::Refused(Reason::of(PROBE_REFUSED));
        let status = Status::from(told(refused, &source));
        let message = status.message();
        assert!(message.contains("have it give another value"), "{message}");
        assert!(!message.contains("client"), "{message}");
        assert!(!message.contains("rotate"), "{message}");
    }
}
