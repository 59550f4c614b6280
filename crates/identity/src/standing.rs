//! Whether somebody who was authenticated a while ago would still be.

use crate::{
    Credential, Identity, IdentityError, Principal, Unauthenticated, identity::admit_key,
    key::KnownKey,
};
use std::{net::IpAddr, time::SystemTime};
use xylem_ids::KeyId;

impl Identity {
    /// Who somebody is now whose call goes on for long: with the roles that the agent has by now, and
    /// narrowed as before. An access token of ours may be over by then, and is asked for nothing but
    /// whether it was revoked; one of an identity provider is not asked for again, and so ends this.
    ///
    /// # Errors
    /// Key, session, token or agent are not good any more, or that could not be found out.
    pub async fn standing(
        &self,
        before: &Principal,
        address: Option<IpAddr>,
        now: SystemTime,
    ) -> Result<Principal, Unauthenticated> {
        let at = self.revision().await?;
        let token = before.token.as_ref();
        let current = match &before.credential {
            Credential::Key(id) => {
                let known = self.key_standing(before, id).await?;
                admit_key(&known, at, address, now)?
            }
            Credential::Session(id) => {
                let namespace = &before.namespace;
                self.session_standing(namespace, id, token, now).await?
            }
            Credential::Provider(_) => {
                if before.token_until.is_none_or(|until| until <= now) {
                    return Err(Unauthenticated::Token("token_expired"));
                }
                let agent = self.agent(&before.namespace, &before.agent).await;
                let agent = agent.map_err(not_found)?;
                if agent.retired_at.is_some() {
                    return Err(Unauthenticated::Retired(agent.id));
                }
                Principal {
                    roles: agent.roles,
                    as_of: at,
                    ..before.clone()
                }
            }
        };
        if current.agent != before.agent {
            return Err(Unauthenticated::Unknown);
        }
        Ok(Principal {
            scopes: before.scopes.and(&current.scopes),
            token: before.token.clone(),
            ..current
        })
    }

    /// A key and its agent, unless they came by a token that was revoked.
    async fn key_standing(
        &self,
        before: &Principal,
        key: &KeyId,
    ) -> Result<KnownKey, Unauthenticated> {
        let namespace = &before.namespace;
        let Some(token) = &before.token else {
            let key = self.key(namespace, key).await.map_err(not_found)?;
            let key = self.secrets.check_key(key)?;
            let agent = self.agent(namespace, &key.agent).await;
            return Ok(KnownKey::new(key, agent.map_err(not_found)?));
        };
        let found = self.storage.key_and_agent(namespace, key, token).await;
        let found = found.map_err(IdentityError::from)?;
        let (key, agent, revoked) = found.ok_or(Unauthenticated::Unknown)?;
        if revoked {
            return Err(Unauthenticated::Token("token_revoked"));
        }
        let key = self.secrets.check_key(key)?;
        Ok(KnownKey::new(key, self.secrets.check_agent(agent)?))
    }
}

/// What was erased is gone, and no question that can be asked again.
fn not_found(error: IdentityError) -> Unauthenticated {
    match error {
        IdentityError::NotFound { .. } => Unauthenticated::Unknown,
        other => other.into(),
    }
}
