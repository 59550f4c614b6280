//! Agents and the keys they authenticate with.

use super::{Answers, Handlers, answer, next};
use crate::{
    caller::{Reach, caller, check_reach, reach},
    convert,
    fault::Fault,
};
use ipnet::IpNet;
use secrecy::ExposeSecret;
use std::{
    collections::BTreeSet,
    iter,
    time::{Duration, SystemTime},
};
use tonic::{Request, Response, Status};
use v1::{agents_server::Agents, api_keys_server::ApiKeys};
use xylem_audit::Kind;
use xylem_identity::{Agent, AgentChange, ApiKey, Credential, NewAgent, NewKey};
use xylem_ids::{AgentId, AgentKind, KeyId, Scopes, TaskQueue};
use xylem_proto::v1;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a key lives that does not say.
const USUAL: Duration = Duration::from_secs(90 * DAY.as_secs());
/// The longest life of a key that ends.
const LONGEST: Duration = Duration::from_secs(366 * DAY.as_secs());

#[tonic::async_trait]
impl Agents for Handlers {
    type ExportAgentDataStream = Answers<v1::AgentDataLine>;

    async fn create_agent(
        &self,
        request: Request<v1::CreateAgentRequest>,
    ) -> Result<Response<v1::Agent>, Status> {
        answer(self.create_agent(request.into_inner()).await)
    }

    async fn update_agent(
        &self,
        request: Request<v1::UpdateAgentRequest>,
    ) -> Result<Response<v1::Agent>, Status> {
        answer(self.update_agent(request.into_inner()).await)
    }

    async fn retire_agent(
        &self,
        request: Request<v1::RetireAgentRequest>,
    ) -> Result<Response<v1::Agent>, Status> {
        answer(self.retire_agent(request.into_inner()).await)
    }

    async fn export_agent_data(
        &self,
        request: Request<v1::ExportAgentDataRequest>,
    ) -> Result<Response<Self::ExportAgentDataStream>, Status> {
        answer(self.export_data(request.into_inner()).await)
    }

    async fn erase_agent(
        &self,
        request: Request<v1::EraseAgentRequest>,
    ) -> Result<Response<v1::Agent>, Status> {
        answer(self.erase_agent(request.into_inner()).await)
    }

    async fn get_agent(
        &self,
        request: Request<v1::GetAgentRequest>,
    ) -> Result<Response<v1::Agent>, Status> {
        answer(self.agent(request.into_inner()).await)
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

    async fn rotate_api_key(
        &self,
        request: Request<v1::RotateApiKeyRequest>,
    ) -> Result<Response<v1::CreateApiKeyResponse>, Status> {
        answer(self.rotate_key(request.into_inner()).await)
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

    async fn update_agent(&self, request: v1::UpdateAgentRequest) -> Result<v1::Agent, Fault> {
        let name: AgentId = convert::id(request.name, "name")?;
        let change = AgentChange {
            kind: match request.kind {
                0 => None,
                code => Some(convert::kind(code)?),
            },
            add: convert::roles(request.add_roles)?,
            remove: convert::roles(request.remove_roles)?,
        };
        let entry = self.change(Kind::AgentUpdated);
        let namespace = &self.settings.namespace;
        let agent = self.identity.update_agent(namespace, &name, change, entry);
        Ok(wire_agent(agent.await?))
    }

    async fn retire_agent(&self, request: v1::RetireAgentRequest) -> Result<v1::Agent, Fault> {
        let name: AgentId = convert::id(request.name, "name")?;
        let entry = self.change(Kind::AgentRetired);
        let namespace = &self.settings.namespace;
        let agent = self.identity.retire_agent(namespace, &name, entry).await?;
        Ok(wire_agent(agent))
    }

    async fn agent(&self, request: v1::GetAgentRequest) -> Result<v1::Agent, Fault> {
        let name: AgentId = convert::id(request.name, "name")?;
        check_reach(&name, "agent")?;
        let agent = self.identity.agent(&self.settings.namespace, &name).await?;
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
        let checked = agents.iter();
        self.edited_among(checked.map(|agent| self.identity.checked_agent(agent)));
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
            Some(agent) => {
                check_reach(&agent, "agent")?;
                agent
            }
            None => caller()?.agent().clone(),
        };
        self.not_another_person(&agent, "agent").await?;
        let entry = self.change(Kind::KeyCreated);
        let new = NewKey {
            agent,
            name: request.name,
            scopes: convert::scopes(request.scopes)?,
            queues: convert::ids(request.task_queues, "task_queues")?,
            networks: networks(request.networks)?,
            expires_at: expiry(request.ttl, request.never_expires, entry.at)?,
        };
        within(&new.scopes, &new.networks, &new.queues)?;
        let namespace = &self.settings.namespace;
        let issued = self.identity.create_key(namespace, new, entry).await?;
        Ok(v1::CreateApiKeyResponse {
            secret: issued.secret.expose_secret().to_owned(),
            key: Some(wire_key(issued.key)),
        })
    }

    async fn rotate_key(
        &self,
        request: v1::RotateApiKeyRequest,
    ) -> Result<v1::CreateApiKeyResponse, Fault> {
        let id: KeyId = convert::id(request.id, "id")?;
        let overlap = convert::duration(request.overlap, "overlap", Duration::ZERO, 7 * DAY)?;
        let known = self.own_key(&id).await?;
        self.not_another_person(&known.agent, "id").await?;
        within(&known.scopes, &known.networks, &known.queues)?;
        // A key that is replaced by its own means goes on; another one's successor ends with the key
        // that it was had with.
        let caller = caller()?;
        let itself = *caller.credential() == Credential::Key(id.clone());
        let until = caller.until().filter(|_| !itself);
        let entry = self.change(Kind::KeyRotated);
        let namespace = &self.settings.namespace;
        let overlap = overlap.unwrap_or(DAY);
        let issued = self
            .identity
            .rotate_key(namespace, &id, overlap, until, entry);
        let issued = issued.await?;
        Ok(v1::CreateApiKeyResponse {
            secret: issued.secret.expose_secret().to_owned(),
            key: Some(wire_key(issued.key)),
        })
    }

    /// Nobody has the keys of another person: whatever is done with them would count as that one's.
    async fn not_another_person(&self, agent: &AgentId, field: &'static str) -> Result<(), Fault> {
        if caller()?.agent() == agent {
            return Ok(());
        }
        let known = self.identity.agent(&self.settings.namespace, agent).await?;
        if known.kind != AgentKind::User {
            return Ok(());
        }
        let rule = format!(
            "{field} must not be another person's: whoever is of the kind user makes and rotates \
             their own keys, once they have signed in; `xylem agent invite` lets them"
        );
        Err(Fault::invalid(field, rule))
    }

    /// The key, as far as the caller may see it.
    async fn own_key(&self, id: &KeyId) -> Result<ApiKey, Fault> {
        let key = self.identity.key(&self.settings.namespace, id).await?;
        check_reach(&key.agent, "API key")?;
        Ok(key)
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
        self.edited_among(keys.iter().map(|key| self.identity.checked_key(key)));
        Ok(v1::ListApiKeysResponse {
            next_page_token: next(&keys, size, |key| key.id.to_string()),
            keys: keys.into_iter().map(wire_key).collect(),
        })
    }

    async fn revoke_key(&self, request: v1::RevokeApiKeyRequest) -> Result<v1::ApiKey, Fault> {
        let id: KeyId = convert::id(request.id, "id")?;
        let key = self.own_key(&id).await?;
        self.edited_among(iter::once(self.identity.checked_key(&key)));
        let namespace = &self.settings.namespace;
        let entry = self.change(Kind::KeyRevoked);
        let key = self.identity.revoke_key(namespace, &id, entry).await?;
        Ok(wire_key(key))
    }
}

/// When a new key ends. None that is made with a key outlives that key.
fn expiry(
    ttl: Option<xylem_proto::Duration>,
    never: bool,
    now: SystemTime,
) -> Result<Option<SystemTime>, Fault> {
    let ttl = convert::duration(ttl, "ttl", Duration::from_secs(1), LONGEST)?;
    let until = caller()?.until();
    if never {
        return match (reach()?, until, ttl) {
            (Reach::All, None, None) => Ok(None),
            (_, _, Some(_)) => Err(Fault::invalid(
                "ttl",
                "ttl must be absent with never_expires",
            )),
            _ => Err(Fault::invalid(
                "never_expires",
                "never_expires must be asked for by an administrator, with a key that never expires",
            )),
        };
    }
    let end = now + ttl.unwrap_or(USUAL);
    match (until, ttl) {
        (Some(until), Some(_)) if end > until => Err(Fault::invalid(
            "ttl",
            "ttl must end no later than the key that you call with",
        )),
        (Some(until), None) => Ok(Some(end.min(until))),
        _ => Ok(Some(end)),
    }
}

/// None that is made or replaced with a key is good for more than that key.
fn within(scopes: &Scopes, networks: &[IpNet], queues: &BTreeSet<TaskQueue>) -> Result<(), Fault> {
    let caller = caller()?;
    if !scopes.within(caller.scopes()) {
        let rule = "scopes must be within those of the key that you call with";
        return Err(Fault::invalid("scopes", rule));
    }
    let own = caller.networks();
    let covered = |network: &IpNet| own.iter().any(|own| own.contains(network));
    let anywhere = networks.is_empty();
    if !own.is_empty() && (anywhere || !networks.iter().all(covered)) {
        let rule = "networks must be within those of the key that you call with";
        return Err(Fault::invalid("networks", rule));
    }
    if !caller.queues().is_empty() && !queues.is_subset(caller.queues()) {
        let rule = "task_queues must be within those of the key that you call with";
        return Err(Fault::invalid("task_queues", rule));
    }
    Ok(())
}

fn networks(given: Vec<String>) -> Result<Vec<IpNet>, Fault> {
    let rule = "networks must be written as 192.0.2.0/24 or 2001:db8::/32";
    let read = |text: String| text.parse().map_err(|_| Fault::invalid("networks", rule));
    given.into_iter().map(read).collect()
}

pub(super) fn wire_agent(agent: Agent) -> v1::Agent {
    let federated = agent.federated.map(|who| (who.issuer, who.subject));
    let (issuer, subject) = federated.unwrap_or_default();
    v1::Agent {
        name: agent.id.into(),
        roles: agent
            .roles
            .into_iter()
            .map(|role| convert::role(role).into())
            .collect(),
        created_at: Some(convert::time(agent.created_at)),
        kind: convert::agent_kind(agent.kind).into(),
        retired_at: agent.retired_at.map(convert::time),
        issuer,
        subject,
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
        name: key.name,
        networks: key.networks.iter().map(ToString::to_string).collect(),
    }
}
