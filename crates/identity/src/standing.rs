//! Whether somebody who was authenticated a while ago would still be.

use crate::{
    Credential, Identity, IdentityError, Principal, Unauthenticated, identity::admit_key,
    key::KnownKey,
};
use std::{net::IpAddr, time::SystemTime};

impl Identity {
    /// Who somebody is now whose call goes on for long: with the roles that the agent has by now, and
    /// narrowed as before. A session is asked for itself and not for the access token, which ends earlier;
    /// somebody of an identity provider for the agent alone.
    ///
    /// # Errors
    /// Key, session or agent are not good any more, or that could not be found out.
    pub async fn standing(
        &self,
        before: &Principal,
        address: Option<IpAddr>,
        now: SystemTime,
    ) -> Result<Principal, Unauthenticated> {
        let at = self.revision().await?;
        let namespace = &before.namespace;
        let current = match &before.credential {
            Credential::Key(id) => {
                let key = self.key(namespace, id).await?;
                let agent = self.agent(namespace, &before.agent).await?;
                admit_key(&KnownKey::new(key, agent), at, address, now)?
            }
            Credential::Session(id) => self.session_standing(namespace, id, now).await?,
            Credential::Provider(_) => {
                let agent = self.agent(namespace, &before.agent).await?;
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
            return Err(IdentityError::Changed.into());
        }
        Ok(Principal {
            scopes: before.scopes.and(&current.scopes),
            ..current
        })
    }
}
