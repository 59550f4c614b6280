//! Agents and the keys they authenticate with.

use super::{Handlers, answer, next};
use crate::{
    caller::{Reach, caller, reach, reaches},
    convert,
    fault::Fault,
};
use secrecy::ExposeSecret;
use std::time::Duration;
use tonic::{Request, Response, Status};
use v1::{agents_server::Agents, api_keys_server::ApiKeys};
use xylem_audit::Kind;
use xylem_identity::{Agent, ApiKey, NewAgent, NewKey};
use xylem_ids::{AgentId, KeyId};
use xylem_proto::v1;

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
        let new = NewAgent {
            id: convert::id(request.name, "name")?,
            kind: convert::kind(request.kind)?,
            roles: convert::roles(request.roles)?,
        };
        let entry = self.change(Kind::AgentCreated);
        let namespace = &self.settings.namespace;
        let agent = self.identity.create_agent(namespace, new, entry).await?;
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
            .identity
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
        let agent: Option<AgentId> = convert::optional(request.agent, "agent")?;
        let agent = match agent {
            Some(agent) if !reaches(&agent)? => return Err(Fault::not_found("agent")),
            Some(agent) => agent,
            None => caller()?.agent().clone(),
        };
        let entry = self.change(Kind::KeyCreated);
        let least = Duration::from_secs(1);
        let ttl = convert::duration(request.ttl, "ttl", least, LONGEST)?;
        let new = NewKey {
            agent,
            name: String::new(),
            scopes: convert::scopes(request.scopes)?,
            queues: convert::ids(request.task_queues, "task_queues")?,
            networks: Vec::new(),
            expires_at: ttl.map(|ttl| entry.at + ttl),
        };
        let namespace = &self.settings.namespace;
        let issued = self.identity.create_key(namespace, new, entry).await?;
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
        let caller = caller()?;
        let of = match reach()? {
            Reach::All => None,
            Reach::Own => Some(caller.agent()),
        };
        let keys = self.identity.keys(namespace, of, after.as_ref(), size);
        let keys = keys.await?;
        Ok(v1::ListApiKeysResponse {
            next_page_token: next(&keys, size, |key| key.id.to_string()),
            keys: keys.into_iter().map(wire_key).collect(),
        })
    }

    async fn revoke_key(&self, request: v1::RevokeApiKeyRequest) -> Result<v1::ApiKey, Fault> {
        let id: KeyId = convert::id(request.id, "id")?;
        let namespace = &self.settings.namespace;
        let owner = self.identity.key_owner(namespace, &id).await?;
        if !reaches(&owner)? {
            return Err(Fault::not_found("API key"));
        }
        let entry = self.change(Kind::KeyRevoked);
        let key = self.identity.revoke_key(namespace, &id, entry).await?;
        Ok(wire_key(key))
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
        kind: convert::agent_kind(agent.kind).into(),
    }
}

fn wire_key(key: ApiKey) -> v1::ApiKey {
    let scopes = key.scopes.codes().unwrap_or_default();
    v1::ApiKey {
        id: key.id.into(),
        agent: key.agent.into(),
        task_queues: key.queues.into_iter().map(Into::into).collect(),
        created_at: Some(convert::time(key.created_at)),
        expires_at: key.expires_at.map(convert::time),
        revoked_at: key.revoked_at.map(convert::time),
        last_used_at: key.last_used_at.map(convert::time),
        scopes: scopes.into_iter().map(str::to_owned).collect(),
    }
}
