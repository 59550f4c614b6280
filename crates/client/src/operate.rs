//! What operators and services ask.

use crate::{
    Client, Error,
    client::{CALL_TIMEOUT, call},
    convert,
};
use futures::{Stream, StreamExt};
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;
use v1::{
    agents_client::AgentsClient, api_keys_client::ApiKeysClient, audit_client::AuditClient,
    system_client::SystemClient, tokens_client::TokensClient, tools_client::ToolsClient,
    trees_client::TreesClient,
};
use xylem_ids::{
    AgentId, Audience, Scope, Slot, TaskQueue, ToolName, Version, WorkflowId, WorkflowType,
};
use xylem_proto::v1;

/// An import fetches a document and stores what may be hundreds of tools.
const IMPORT_TIMEOUT: Duration = Duration::from_secs(60);
/// Archiving takes as long as there are many entries.
const ARCHIVE_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// A token that a tree is started with.
#[derive(Debug)]
pub struct InitialToken {
    /// The slot.
    pub slot: Slot,
    /// The secret and what goes with it.
    pub deposit: Deposit,
}

/// A token and where it may go.
#[derive(Debug)]
pub struct Deposit {
    /// The secret.
    pub token: SecretString,
    /// Where it may be sent. A rotation takes those of the version before where this is empty.
    pub audiences: Vec<Audience>,
    /// How long its grant is valid; the control plane's default where absent.
    pub ttl: Option<Duration>,
    /// Takes a token of fewer than 16 characters.
    pub allow_short: bool,
    /// Makes a repetition harmless; the control plane makes one up where this is empty.
    pub request_id: String,
}

/// A tree to start.
#[derive(Debug)]
pub struct StartTree {
    /// The root's workflow id.
    pub workflow_id: WorkflowId,
    /// The root's type.
    pub workflow_type: WorkflowType,
    /// The root's task queue.
    pub task_queue: TaskQueue,
    /// The root's input as JSON text; no input where empty.
    pub input_json: String,
    /// Tokens to deposit before the root runs.
    pub tokens: Vec<InitialToken>,
    /// The tools the tree may call.
    pub tools: Vec<ToolName>,
    /// Whether raw tokens signalled to the root are taken in; the control plane's default where
    /// absent.
    pub intake: Option<bool>,
    /// Makes a repetition harmless; the control plane makes one up where this is empty.
    pub request_id: String,
}

/// Trees.
/// An API key to make.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Whose it is to be.
    pub agent: AgentId,
    /// The task queues it serves: at least one for a worker, none for others.
    pub task_queues: Vec<TaskQueue>,
    /// What it is narrowed to; everything that the agent's roles give where empty.
    pub scopes: Vec<Scope>,
    /// How long it works; 90 days where absent.
    pub ttl: Option<Duration>,
    /// What people call it.
    pub name: String,
    /// The networks it works from; any where empty.
    pub networks: Vec<IpNet>,
    /// It works until it is revoked.
    pub never_expires: bool,
}

impl NewKey {
    /// A key for this agent that serves these task queues and is not narrowed.
    #[must_use]
    pub fn new(agent: AgentId, task_queues: Vec<TaskQueue>) -> Self {
        Self {
            agent,
            task_queues,
            scopes: Vec::new(),
            ttl: None,
            name: String::new(),
            networks: Vec::new(),
            never_expires: false,
        }
    }
}

/// A token that is shown, for an emergency. Its `Debug` shows everything but the token.
#[derive(Debug)]
pub struct Revealed {
    /// The token.
    pub token: SecretString,
    /// Its version.
    pub order: Option<v1::Order>,
    /// Its keyed digest, by which the audit log names it.
    pub fingerprint: String,
}

impl Client {
    /// Starts a tree.
    ///
    /// # Errors
    /// [`Error::Conflict`] where a workflow of that id is running.
    pub async fn start_tree(&self, start: StartTree) -> Result<v1::Tree, Error> {
        let token = |token: InitialToken| v1::InitialToken {
            slot: token.slot.into(),
            token: token.deposit.token.expose_secret().to_owned(),
            audiences: audiences(&token.deposit.audiences),
            ttl: token.deposit.ttl.map(convert::duration),
            allow_short: token.deposit.allow_short,
        };
        let message = v1::StartTreeRequest {
            workflow_id: start.workflow_id.into(),
            workflow_type: start.workflow_type.into(),
            task_queue: start.task_queue.into(),
            input_json: start.input_json,
            tokens: start.tokens.into_iter().map(token).collect(),
            tools: convert::texts(start.tools),
            intake: start.intake,
            execution_timeout: None,
            request_id: start.request_id,
        };
        let mut trees = TreesClient::new(self.channel.clone());
        let answer = call(message, CALL_TIMEOUT, |request| trees.start_tree(request)).await?;
        answer.tree.ok_or(Error::Unintelligible("tree"))
    }

    /// One page of trees, newest first.
    ///
    /// # Errors
    /// As the control plane's status maps.
    pub async fn list_trees(
        &self,
        request: v1::ListTreesRequest,
    ) -> Result<v1::ListTreesResponse, Error> {
        let mut trees = TreesClient::new(self.channel.clone());
        call(request, CALL_TIMEOUT, |request| trees.list_trees(request)).await
    }

    /// Walks a tree.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no such tree.
    pub async fn get_tree(&self, request: v1::GetTreeRequest) -> Result<v1::TreeView, Error> {
        let mut trees = TreesClient::new(self.channel.clone());
        call(request, 4 * CALL_TIMEOUT, |request| trees.get_tree(request)).await
    }

    /// Walks a tree again and again, until it has converged or come to its end.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no such tree; what breaks the stream is its last item.
    pub async fn watch_tree(
        &self,
        request: v1::WatchTreeRequest,
    ) -> Result<impl Stream<Item = Result<v1::TreeView, Error>> + Send + use<>, Error> {
        let mut trees = TreesClient::new(self.channel.clone());
        let stream = trees.watch_tree(request).await?.into_inner();
        Ok(stream.map(|view| view.map_err(Error::from)))
    }

    /// Stops a tree.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no such tree.
    pub async fn stop_tree(
        &self,
        request: v1::StopTreeRequest,
    ) -> Result<v1::StopTreeResponse, Error> {
        let mut trees = TreesClient::new(self.channel.clone());
        call(request, 4 * CALL_TIMEOUT, |request| {
            trees.stop_tree(request)
        })
        .await
    }

    /// Allows a tree more tools.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no such tree or tool.
    pub async fn allow_tools(
        &self,
        tree: &WorkflowId,
        tools: Vec<ToolName>,
    ) -> Result<v1::Tree, Error> {
        self.change_tools(tree, tools, Vec::new()).await
    }

    /// Withdraws tools from a tree: no call to them begins from here on.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no such tree.
    pub async fn withdraw_tools(
        &self,
        tree: &WorkflowId,
        tools: Vec<ToolName>,
    ) -> Result<v1::Tree, Error> {
        self.change_tools(tree, Vec::new(), tools).await
    }

    async fn change_tools(
        &self,
        tree: &WorkflowId,
        allow: Vec<ToolName>,
        withdraw: Vec<ToolName>,
    ) -> Result<v1::Tree, Error> {
        let message = v1::AllowToolsRequest {
            tree: tree.to_string(),
            tools: convert::texts(allow),
            withdraw: convert::texts(withdraw),
        };
        let mut trees = TreesClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| trees.allow_tools(request)).await
    }
}

/// Tokens.
impl Client {
    /// Deposits a token into a slot, with audiences of its own.
    ///
    /// # Errors
    /// [`Error::Invalid`] where token or audiences break a rule.
    pub async fn set_token(
        &self,
        tree: &WorkflowId,
        slot: &Slot,
        deposit: Deposit,
    ) -> Result<v1::TokenChanged, Error> {
        let message = v1::SetTokenRequest {
            tree: tree.to_string(),
            slot: slot.to_string(),
            token: deposit.token.expose_secret().to_owned(),
            audiences: audiences(&deposit.audiences),
            ttl: deposit.ttl.map(convert::duration),
            allow_short: deposit.allow_short,
            request_id: deposit.request_id,
        };
        let mut tokens = TokensClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| tokens.set_token(request)).await
    }

    /// Deposits the next version of a slot and lets it cascade.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the slot has no version yet.
    pub async fn rotate_token(
        &self,
        tree: &WorkflowId,
        slot: &Slot,
        deposit: Deposit,
    ) -> Result<v1::TokenChanged, Error> {
        let message = v1::RotateTokenRequest {
            tree: tree.to_string(),
            slot: slot.to_string(),
            token: deposit.token.expose_secret().to_owned(),
            audiences: audiences(&deposit.audiences),
            ttl: deposit.ttl.map(convert::duration),
            allow_short: deposit.allow_short,
            request_id: deposit.request_id,
        };
        let mut tokens = TokensClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| {
            tokens.rotate_token(request)
        })
        .await
    }

    /// The versions of a slot, or of all slots.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no such tree.
    pub async fn token_status(
        &self,
        tree: &WorkflowId,
        slot: Option<&Slot>,
    ) -> Result<Vec<v1::TokenVersion>, Error> {
        let message = v1::GetTokenStatusRequest {
            tree: tree.to_string(),
            slot: slot.map(Slot::to_string).unwrap_or_default(),
        };
        let mut tokens = TokensClient::new(self.channel.clone());
        let answer = call(message, CALL_TIMEOUT, |request| {
            tokens.get_token_status(request)
        })
        .await?;
        Ok(answer.versions)
    }

    /// Signs the newest version anew with a longer expiry.
    ///
    /// # Errors
    /// [`Error::NotFound`] where the slot has no active version.
    pub async fn reissue_token(
        &self,
        tree: &WorkflowId,
        slot: &Slot,
        ttl: Option<Duration>,
    ) -> Result<v1::TokenChanged, Error> {
        let message = v1::ReissueTokenRequest {
            tree: tree.to_string(),
            slot: slot.to_string(),
            ttl: ttl.map(convert::duration),
        };
        let mut tokens = TokensClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| {
            tokens.reissue_token(request)
        })
        .await
    }

    /// Revokes a version for good. Takes as long as the request's `wait` and some more.
    ///
    /// # Errors
    /// [`Error::Refused`] where the gate is closed; its message says by whom.
    pub async fn revoke_token(
        &self,
        request: v1::RevokeTokenRequest,
    ) -> Result<v1::RevokeTokenResponse, Error> {
        let longest = Duration::from_secs(5 * 60) + 2 * CALL_TIMEOUT;
        let mut tokens = TokensClient::new(self.channel.clone());
        call(request, longest, |request| tokens.revoke_token(request)).await
    }

    /// Shows the newest token, for an emergency.
    ///
    /// # Errors
    /// [`Error::Denied`] where no policy allows it, or the caller has not signed in with a second factor
    /// just now.
    pub async fn reveal_token(
        &self,
        tree: &WorkflowId,
        slot: &Slot,
        reason: &str,
    ) -> Result<Revealed, Error> {
        let message = v1::RevealTokenRequest {
            tree: tree.to_string(),
            slot: slot.to_string(),
            reason: reason.to_owned(),
        };
        let mut tokens = TokensClient::new(self.channel.clone());
        let answer = call(message, CALL_TIMEOUT, |request| {
            tokens.reveal_token(request)
        });
        let answer = answer.await?;
        Ok(Revealed {
            token: SecretString::from(answer.token),
            order: answer.order,
            fingerprint: answer.fingerprint,
        })
    }

    /// Deposits an unrevoked earlier version again; the one before the active one where none is
    /// named.
    ///
    /// # Errors
    /// [`Error::Refused`] where that version is revoked.
    pub async fn rollback_token(
        &self,
        tree: &WorkflowId,
        slot: &Slot,
        version: Option<Version>,
    ) -> Result<v1::TokenChanged, Error> {
        let message = v1::RollbackTokenRequest {
            tree: tree.to_string(),
            slot: slot.to_string(),
            version: version.map(|version| version.0),
            request_id: String::new(),
        };
        let mut tokens = TokensClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| {
            tokens.rollback_token(request)
        })
        .await
    }
}

/// Tools.
impl Client {
    /// Proposes a tool. It is called once it is approved.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the definition breaks a rule.
    pub async fn register_tool(&self, tool: v1::Tool) -> Result<v1::Tool, Error> {
        let message = v1::RegisterToolRequest { tool: Some(tool) };
        let mut tools = ToolsClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| {
            tools.register_tool(request)
        })
        .await
    }

    /// Proposes the operations of an OpenAPI document as tools.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the document as a whole is of no use.
    pub async fn import_tools(
        &self,
        message: v1::ImportToolsRequest,
    ) -> Result<v1::ImportToolsResponse, Error> {
        let mut tools = ToolsClient::new(self.channel.clone());
        call(message, IMPORT_TIMEOUT, |request| {
            tools.import_tools(request)
        })
        .await
    }

    /// Publishes the next version of a tool; with `staged`, calls go on with the approved one until
    /// then. A definition that names a version takes the place of that one.
    ///
    /// # Errors
    /// [`Error::Denied`] where the tool belongs to somebody else, [`Error::Conflict`] where it is at
    /// another version by now.
    pub async fn update_tool(&self, tool: v1::Tool, staged: bool) -> Result<v1::Tool, Error> {
        let message = v1::UpdateToolRequest {
            name: tool.name.clone(),
            expected_version: (tool.version != 0).then_some(tool.version),
            tool: Some(tool),
            staged,
        };
        let mut tools = ToolsClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| tools.update_tool(request)).await
    }

    /// Approves the definition that was read: its version and hash are sent along.
    ///
    /// # Errors
    /// [`Error::Denied`] where the caller published it, [`Error::Conflict`] where another definition
    /// waits for approval.
    pub async fn approve_tool(&self, read: &v1::Tool) -> Result<v1::Tool, Error> {
        let message = v1::ApproveToolRequest {
            name: read.name.clone(),
            version: read.version,
            hash: read.hash.clone(),
        };
        let mut tools = ToolsClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| tools.approve_tool(request)).await
    }

    /// Turns down the version that waits for approval.
    ///
    /// # Errors
    /// [`Error::Conflict`] where that version does not wait for approval.
    pub async fn reject_tool(&self, read: &v1::Tool, reason: &str) -> Result<v1::Tool, Error> {
        let message = v1::RejectToolRequest {
            name: read.name.clone(),
            version: read.version,
            reason: reason.to_owned(),
        };
        let mut tools = ToolsClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| tools.reject_tool(request)).await
    }

    /// Takes back what waits for approval.
    ///
    /// # Errors
    /// [`Error::Refused`] where nothing was ever approved.
    pub async fn revert_tool(&self, name: &ToolName) -> Result<v1::Tool, Error> {
        let message = v1::RevertToolRequest {
            name: name.to_string(),
        };
        let mut tools = ToolsClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| tools.revert_tool(request)).await
    }

    /// Keeps new trees from using a tool; with `stop_calls`, all trees from calling it.
    ///
    /// # Errors
    /// [`Error::Denied`] where the tool belongs to somebody else.
    pub async fn retire_tool(&self, name: &ToolName, stop_calls: bool) -> Result<v1::Tool, Error> {
        let message = v1::RetireToolRequest {
            name: name.to_string(),
            stop_calls,
        };
        let mut tools = ToolsClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| tools.retire_tool(request)).await
    }

    /// Deletes a retired tool that no tree uses.
    ///
    /// # Errors
    /// [`Error::Refused`] where it is not retired, or a tree uses it.
    pub async fn delete_tool(&self, name: &ToolName) -> Result<v1::DeleteToolResponse, Error> {
        let message = v1::DeleteToolRequest {
            name: name.to_string(),
        };
        let mut tools = ToolsClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| tools.delete_tool(request)).await
    }

    /// One tool, with its latest definition or that of a version.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is none of that name.
    pub async fn get_tool(&self, name: &ToolName, version: Option<u32>) -> Result<v1::Tool, Error> {
        let message = v1::GetToolRequest {
            name: name.to_string(),
            version,
            callable: false,
        };
        let mut tools = ToolsClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| tools.get_tool(request)).await
    }

    /// The definition of a tool that is called.
    ///
    /// # Errors
    /// [`Error::Refused`] where none is.
    pub async fn callable_tool(&self, name: &ToolName) -> Result<v1::Tool, Error> {
        let message = v1::GetToolRequest {
            name: name.to_string(),
            version: None,
            callable: true,
        };
        let mut tools = ToolsClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| tools.get_tool(request)).await
    }

    /// One page of a tool's versions, the newest first.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is none of that name.
    pub async fn list_tool_versions(
        &self,
        request: v1::ListToolVersionsRequest,
    ) -> Result<v1::ListToolVersionsResponse, Error> {
        let mut tools = ToolsClient::new(self.channel.clone());
        call(request, CALL_TIMEOUT, |request| {
            tools.list_tool_versions(request)
        })
        .await
    }

    /// One page of tools, by name.
    ///
    /// # Errors
    /// As the control plane's status maps.
    pub async fn list_tools(
        &self,
        request: v1::ListToolsRequest,
    ) -> Result<v1::ListToolsResponse, Error> {
        let mut tools = ToolsClient::new(self.channel.clone());
        call(request, CALL_TIMEOUT, |request| tools.list_tools(request)).await
    }
}

/// Agents and their keys.
impl Client {
    /// Registers an agent.
    ///
    /// # Errors
    /// [`Error::Conflict`] where there is one of that name.
    pub async fn create_agent(&self, request: v1::CreateAgentRequest) -> Result<v1::Agent, Error> {
        let mut agents = AgentsClient::new(self.channel.clone());
        call(request, CALL_TIMEOUT, |request| {
            agents.create_agent(request)
        })
        .await
    }

    /// One agent.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is none, or it is another one and the caller may not list agents.
    pub async fn get_agent(&self, name: &AgentId) -> Result<v1::Agent, Error> {
        let message = v1::GetAgentRequest {
            name: name.to_string(),
        };
        let mut agents = AgentsClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| agents.get_agent(request)).await
    }

    /// One page of agents, by name.
    ///
    /// # Errors
    /// As the control plane's status maps.
    pub async fn list_agents(
        &self,
        request: v1::ListAgentsRequest,
    ) -> Result<v1::ListAgentsResponse, Error> {
        let mut agents = AgentsClient::new(self.channel.clone());
        call(request, CALL_TIMEOUT, |request| agents.list_agents(request)).await
    }

    /// Gives an agent other roles, or says that it is another kind of identity.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is none, [`Error::Refused`] where it was retired or is the last
    /// administrator.
    pub async fn update_agent(&self, request: v1::UpdateAgentRequest) -> Result<v1::Agent, Error> {
        let mut agents = AgentsClient::new(self.channel.clone());
        call(request, CALL_TIMEOUT, |request| {
            agents.update_agent(request)
        })
        .await
    }

    /// Retires an agent for good.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is none, [`Error::Refused`] where it is the last administrator.
    pub async fn retire_agent(&self, name: &AgentId) -> Result<v1::Agent, Error> {
        let message = v1::RetireAgentRequest {
            name: name.to_string(),
        };
        let mut agents = AgentsClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| {
            agents.retire_agent(request)
        })
        .await
    }

    /// Erases what is known of a retired agent, for good.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is none, [`Error::Refused`] where it is not retired.
    pub async fn erase_agent(&self, name: &AgentId) -> Result<v1::Agent, Error> {
        let message = v1::EraseAgentRequest {
            name: name.to_string(),
        };
        let mut agents = AgentsClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| agents.erase_agent(request)).await
    }

    /// Everything that is kept about an agent, as lines of JSON.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is none, or it is another one and the caller no administrator;
    /// what breaks the stream is its last item.
    pub async fn export_agent_data(
        &self,
        name: &AgentId,
    ) -> Result<impl Stream<Item = Result<String, Error>> + Send + use<>, Error> {
        let message = v1::ExportAgentDataRequest {
            name: name.to_string(),
        };
        let mut agents = AgentsClient::new(self.channel.clone());
        let stream = agents.export_agent_data(message).await?.into_inner();
        Ok(stream.map(|line| line.map(|line| line.line).map_err(Error::from)))
    }

    /// Gives a tree another owner.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no such tree or agent.
    pub async fn transfer_tree(&self, tree: &WorkflowId, to: &AgentId) -> Result<v1::Tree, Error> {
        let message = v1::TransferTreeRequest {
            tree: tree.to_string(),
            to: to.to_string(),
        };
        let mut trees = TreesClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| {
            trees.transfer_tree(request)
        })
        .await
    }

    /// Makes an API key. The secret is not shown again.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is no such agent.
    pub async fn create_api_key(&self, new: NewKey) -> Result<(SecretString, v1::ApiKey), Error> {
        let scopes = new.scopes.iter().map(|scope| scope.code().to_owned());
        let message = v1::CreateApiKeyRequest {
            agent: new.agent.to_string(),
            task_queues: convert::texts(new.task_queues),
            ttl: new.ttl.map(convert::duration),
            scopes: scopes.collect(),
            name: new.name,
            networks: new.networks.iter().map(ToString::to_string).collect(),
            never_expires: new.never_expires,
        };
        let mut keys = ApiKeysClient::new(self.channel.clone());
        let answer = call(message, CALL_TIMEOUT, |request| {
            keys.create_api_key(request)
        })
        .await?;
        let secret = SecretString::from(answer.secret);
        Ok((secret, answer.key.ok_or(Error::Unintelligible("key"))?))
    }

    /// Replaces a key by one that is good for the same; the old one goes on working for `overlap`, a day
    /// where absent. The secret is not shown again.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is none of that id, [`Error::Refused`] where it is over.
    pub async fn rotate_api_key(
        &self,
        id: &str,
        overlap: Option<Duration>,
    ) -> Result<(SecretString, v1::ApiKey), Error> {
        let message = v1::RotateApiKeyRequest {
            id: id.to_owned(),
            overlap: overlap.map(convert::duration),
        };
        let mut keys = ApiKeysClient::new(self.channel.clone());
        let answer = call(message, CALL_TIMEOUT, |request| {
            keys.rotate_api_key(request)
        })
        .await?;
        let secret = SecretString::from(answer.secret);
        Ok((secret, answer.key.ok_or(Error::Unintelligible("key"))?))
    }

    /// One page of keys, without their values.
    ///
    /// # Errors
    /// As the control plane's status maps.
    pub async fn list_api_keys(
        &self,
        request: v1::ListApiKeysRequest,
    ) -> Result<v1::ListApiKeysResponse, Error> {
        let mut keys = ApiKeysClient::new(self.channel.clone());
        call(request, CALL_TIMEOUT, |request| keys.list_api_keys(request)).await
    }

    /// Revokes a key for good.
    ///
    /// # Errors
    /// [`Error::NotFound`] where there is none of that id.
    pub async fn revoke_api_key(&self, id: &str) -> Result<v1::ApiKey, Error> {
        let message = v1::RevokeApiKeyRequest { id: id.to_owned() };
        let mut keys = ApiKeysClient::new(self.channel.clone());
        call(message, CALL_TIMEOUT, |request| {
            keys.revoke_api_key(request)
        })
        .await
    }
}

/// The audit log, and the control plane itself.
impl Client {
    /// One page of audit entries, oldest first.
    ///
    /// # Errors
    /// As the control plane's status maps.
    pub async fn list_audit(
        &self,
        request: v1::ListAuditRequest,
    ) -> Result<v1::ListAuditResponse, Error> {
        let mut audit = AuditClient::new(self.channel.clone());
        call(request, CALL_TIMEOUT, |request| audit.list_audit(request)).await
    }

    /// Audit entries as they are written.
    ///
    /// # Errors
    /// As the control plane's status maps; what breaks the stream is its last item.
    pub async fn tail_audit(
        &self,
        request: v1::TailAuditRequest,
    ) -> Result<impl Stream<Item = Result<v1::AuditEntry, Error>> + Send + use<>, Error> {
        let mut audit = AuditClient::new(self.channel.clone());
        let stream = audit.tail_audit(request).await?.into_inner();
        Ok(stream.map(|entry| entry.map_err(Error::from)))
    }

    /// Audit entries as lines of JSON.
    ///
    /// # Errors
    /// As the control plane's status maps; what breaks the stream is its last item.
    pub async fn export_audit(
        &self,
        request: v1::ExportAuditRequest,
    ) -> Result<impl Stream<Item = Result<v1::AuditLine, Error>> + Send + use<>, Error> {
        let mut audit = AuditClient::new(self.channel.clone());
        let stream = audit.export_audit(request).await?.into_inner();
        Ok(stream.map(|line| line.map_err(Error::from)))
    }

    /// Checks the whole audit log. Sends how far it is, and last what was found.
    ///
    /// # Errors
    /// As the control plane's status maps; what breaks the stream is its last item.
    pub async fn verify_audit(
        &self,
    ) -> Result<impl Stream<Item = Result<v1::VerifyAuditProgress, Error>> + Send + use<>, Error>
    {
        let mut audit = AuditClient::new(self.channel.clone());
        let request = v1::VerifyAuditRequest {};
        let stream = audit.verify_audit(request).await?.into_inner();
        Ok(stream.map(|progress| progress.map_err(Error::from)))
    }

    /// Archives and drops the oldest entries of the audit log now, and answers which. It takes as long as
    /// there are many.
    ///
    /// # Errors
    /// As the control plane's status maps.
    pub async fn archive_audit(&self) -> Result<Vec<v1::AuditSegment>, Error> {
        let mut audit = AuditClient::new(self.channel.clone());
        let message = v1::ArchiveAuditRequest {};
        let archived = call(message, ARCHIVE_TIMEOUT, |request| {
            audit.archive_audit(request)
        });
        Ok(archived.await?.segments)
    }

    /// What works and what does not.
    ///
    /// # Errors
    /// As the control plane's status maps.
    pub async fn status(&self) -> Result<v1::SystemStatus, Error> {
        let mut system = SystemClient::new(self.channel.clone());
        let message = v1::GetStatusRequest {};
        call(message, CALL_TIMEOUT, |request| system.get_status(request)).await
    }
}

fn audiences(audiences: &[Audience]) -> Vec<String> {
    audiences.iter().map(Audience::to_string).collect()
}
