//! Agents and the keys they authenticate with.

use super::{Handlers, answer, next};
use crate::{caller::caller, convert, fault::Fault};
use secrecy::ExposeSecret;
use std::time::{Duration, SystemTime};
use tonic::{Request, Response, Status};
use v1::{agents_server::Agents, api_keys_server::ApiKeys};
use xylem_audit::{Entry, Kind, Verdict};
use xylem_ids::{AgentId, KeyId};
use xylem_proto::v1;
use xylem_registry::{Agent, ApiKey, NewKey};

/// The longest life of a key.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

#[tonic::async_trait]
impl Agents for Handlers {
    async fn create_agent(
        &self,
        request: Request<v1::CreateAgentRequest>,
    ) -> Result<Response<v1::Agent>, Status> {
        answer(self.create_agent(request.into_inner()).await)
    }

    async fn list_agents(
        &self,
        request: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        answer(self.agents(request.into_inner()).await)
    }
}

#[tonic::async_trait]
impl ApiKeys for Handlers {
    async fn create_api_key(
        &self,
        request: Request<v1::CreateApiKeyRequest>,
    ) -> Result<Response<v1::CreateApiKeyResponse>, Status> {
        answer(self.create_key(request.into_inner()).await)
    }

    async fn list_api_keys(
        &self,
        request: Request<v1::ListApiKeysRequest>,
    ) -> Result<Response<v1::ListApiKeysResponse>, Status> {
        answer(self.keys(request.into_inner()).await)
    }

    async fn revoke_api_key(
        &self,
        request: Request<v1::RevokeApiKeyRequest>,
    ) -> Result<Response<v1::ApiKey>, Status> {
        answer(self.revoke_key(request.into_inner()).await)
    }
}

impl Handlers {
    async fn create_agent(&self, request: v1::CreateAgentRequest) -> Result<v1::Agent, Fault> {
        let name: AgentId = convert::id(request.name, "name")?;
        let roles = convert::roles(request.roles)?;
        let now = self.now();
        let namespace = &self.settings.namespace;
        let agent = self
            .registry
            .create_agent(namespace, name, roles, now)
            .await?;
        self.note_change(Kind::AgentCreated, now).await?;
        Ok(wire_agent(agent))
    }

    async fn agents(
        &self,
        request: v1::ListAgentsRequest,
    ) -> Result<v1::ListAgentsResponse, Fault> {
        let size = convert::page_size(request.page_size)?;
        let after: Option<AgentId> = convert::optional(request.page_token, "page_token")?;
        let namespace = &self.settings.namespace;
        let agents = self
            .registry
            .agents(namespace, after.as_ref(), size)
            .await?;
        Ok(v1::ListAgentsResponse {
            next_page_token: next(&agents, size, |agent| agent.id.to_string()),
            agents: agents.into_iter().map(wire_agent).collect(),
        })
    }

    async fn create_key(
        &self,
        request: v1::CreateApiKeyRequest,
    ) -> Result<v1::CreateApiKeyResponse, Fault> {
        let agent: AgentId = convert::id(request.agent, "agent")?;
        let namespace = &self.settings.namespace;
        let now = self.now();
        let least = Duration::from_secs(1);
        let ttl = convert::duration(request.ttl, "ttl", least, LONGEST)?;
        let roles = match convert::roles(request.roles)? {
            roles if roles.is_empty() => self.registry.agent(namespace, &agent).await?.roles,
            roles => roles,
        };
        let new = NewKey {
            agent,
            roles,
            queues: convert::ids(request.task_queues, "task_queues")?,
            expires_at: ttl.map(|ttl| now + ttl),
        };
        let issued = self.registry.create_key(namespace, new, now).await?;
        self.note_change(Kind::KeyCreated, now).await?;
        Ok(v1::CreateApiKeyResponse {
            secret: issued.secret.expose_secret().to_owned(),
            key: Some(wire_key(issued.key)),
        })
    }

    async fn keys(
        &self,
        request: v1::ListApiKeysRequest,
    ) -> Result<v1::ListApiKeysResponse, Fault> {
        let size = convert::page_size(request.page_size)?;
        let after: Option<KeyId> = convert::optional(request.page_token, "page_token")?;
        let namespace = &self.settings.namespace;
        let keys = self.registry.keys(namespace, after.as_ref(), size).await?;
        Ok(v1::ListApiKeysResponse {
            next_page_token: next(&keys, size, |key| key.id.to_string()),
            keys: keys.into_iter().map(wire_key).collect(),
        })
    }

    async fn revoke_key(&self, request: v1::RevokeApiKeyRequest) -> Result<v1::ApiKey, Fault> {
        let id: KeyId = convert::id(request.id, "id")?;
        let now = self.now();
        let namespace = &self.settings.namespace;
        let key = self.registry.revoke_key(namespace, &id, now).await?;
        self.note_change(Kind::KeyRevoked, now).await?;
        Ok(wire_key(key))
    }

    async fn note_change(&self, kind: Kind, now: SystemTime) -> Result<(), Fault> {
        let mut entry = Entry::new(now, kind, Verdict::Succeeded).by(caller()?.agent());
        entry.namespace = Some(self.settings.namespace.clone());
        Ok(self.log.append(&[entry]).await?)
    }
}

fn wire_agent(agent: Agent) -> v1::Agent {
    v1::Agent {
        name: agent.id.into(),
        roles: agent
            .roles
            .into_iter()
            .map(|role| convert::role(role).into())
            .collect(),
        created_at: Some(convert::time(agent.created_at)),
    }
}

fn wire_key(key: ApiKey) -> v1::ApiKey {
    v1::ApiKey {
        id: key.id.into(),
        agent: key.agent.into(),
        roles: key
            .roles
            .into_iter()
            .map(|role| convert::role(role).into())
            .collect(),
        task_queues: key.queues.into_iter().map(Into::into).collect(),
        created_at: Some(convert::time(key.created_at)),
        expires_at: key.expires_at.map(convert::time),
        revoked_at: key.revoked_at.map(convert::time),
    }
}
