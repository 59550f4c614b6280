//! Trees: started, looked at, stopped.

use super::{Answers, Handlers, answer, next, request};
use crate::{
    caller::{caller, reaches},
    convert,
    fault::Fault,
    onlooker::Onlooker,
    stop,
    temporal::{StartWorkflow, Stop, TemporalError, listable},
    view,
    walk::Look,
};
use secrecy::SecretString;
use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};
use tokio::{sync::mpsc, time::Instant};
use tonic::{Request, Response, Status};
use v1::trees_server::Trees;
use xylem_audit::Kind;
use xylem_identity::{IdentityError, Principal};
use xylem_ids::{AgentId, Audience, Slot, TaskQueue, ToolName, TreeId, WorkflowId, WorkflowType};
use xylem_proto::v1::{self, Rpc};
use xylem_stateful::header::{PROTOCOL, Slots, TREE_HEADER, TreeHeader};
use xylem_vault::{
    Audiences, Binding, Bound, Copied, Deposit, NewTree, StartId, Stopping, Target, Tree,
    VaultError,
};

/// No grant is issued for less,
const SHORTEST: Duration = Duration::from_secs(10);
/// nor for more.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// Stopping rests so long between two looks.
const STOP_REST: Duration = Duration::from_millis(300);

#[tonic::async_trait]
impl Trees for Handlers {
    type WatchTreeStream = Answers<v1::TreeView>;

    async fn start_tree(
        &self,
        request: Request<v1::StartTreeRequest>,
    ) -> Result<Response<v1::StartTreeResponse>, Status> {
        answer(self.start(request.into_inner()).await)
    }

    async fn list_trees(
        &self,
        request: Request<v1::ListTreesRequest>,
    ) -> Result<Response<v1::ListTreesResponse>, Status> {
        answer(self.trees(request.into_inner()).await)
    }

    async fn get_tree(
        &self,
        request: Request<v1::GetTreeRequest>,
    ) -> Result<Response<v1::TreeView>, Status> {
        answer(self.look(request.into_inner()).await)
    }

    async fn watch_tree(
        &self,
        request: Request<v1::WatchTreeRequest>,
    ) -> Result<Response<Self::WatchTreeStream>, Status> {
        answer(self.watch(request.into_inner()).await)
    }

    async fn stop_tree(
        &self,
        request: Request<v1::StopTreeRequest>,
    ) -> Result<Response<v1::StopTreeResponse>, Status> {
        answer(self.stop(request.into_inner()).await)
    }

    async fn allow_tools(
        &self,
        request: Request<v1::AllowToolsRequest>,
    ) -> Result<Response<v1::Tree>, Status> {
        answer(self.change_tools(request.into_inner()).await)
    }

    async fn transfer_tree(
        &self,
        request: Request<v1::TransferTreeRequest>,
    ) -> Result<Response<v1::Tree>, Status> {
        answer(self.transfer(request.into_inner()).await)
    }
}

/// A checked request to start a tree.
struct Start {
    workflow_id: WorkflowId,
    workflow_type: WorkflowType,
    task_queue: TaskQueue,
    input: Option<serde_json::Value>,
    tokens: Vec<Token>,
    tools: BTreeSet<ToolName>,
    intake: bool,
    execution_timeout: Option<Duration>,
    request_id: String,
}

struct Token {
    slot: Slot,
    secret: SecretString,
    audiences: Audiences,
    lifetime: Duration,
    accept_short: bool,
}

impl Handlers {
    async fn start(&self, given: v1::StartTreeRequest) -> Result<v1::StartTreeResponse, Fault> {
        let principal = caller()?;
        let start = self.check_start(given)?;
        self.check_tools(&start.tools).await?;
        let request = request(&principal, &start.request_id, "")?;
        let opened = NewTree {
            namespace: self.settings.namespace.clone(),
            workflow_id: start.workflow_id.clone(),
            intake: start.intake,
            tools: start.tools.clone(),
            owner: principal.agent().clone(),
            request,
        };
        let id = match self.vault.open_tree(opened).await {
            Err(VaultError::GivenUp) => {
                let what = format!("tree {}", start.workflow_id);
                return Err(Fault::from(VaultError::GivenUp).about(&what));
            }
            opened => opened?,
        };
        let bound = match self.started_before(&start.workflow_id, &id).await? {
            Some(bound) => bound,
            None => self.start_root(&principal, start, &id).await?,
        };
        self.signal_grants(&bound.tree, &bound.grants).await;
        let tree = self.vault.tree(&bound.tree).await?;
        Ok(v1::StartTreeResponse {
            tree: Some(self.wire_tree(tree).await?),
        })
    }

    fn check_start(&self, given: v1::StartTreeRequest) -> Result<Start, Fault> {
        let input =
            match given.input_json.as_str() {
                "" => None,
                text => Some(serde_json::from_str(text).map_err(|_| {
                    Fault::invalid("input_json", "input_json must be one JSON value")
                })?),
            };
        let tokens: Vec<_> = given
            .tokens
            .into_iter()
            .map(|token| self.check_token(token))
            .collect::<Result<_, _>>()?;
        let slots: HashSet<_> = tokens.iter().map(|token| &token.slot).collect();
        if slots.len() != tokens.len() {
            return Err(Fault::invalid("tokens", "tokens must name each slot once"));
        }
        let workflow_id: WorkflowId = convert::id(given.workflow_id, "workflow_id")?;
        if !listable(workflow_id.as_str()) {
            let rule = "workflow_id must be without backslashes and quotation marks: \
                        Temporal's lists cannot name it";
            return Err(Fault::invalid("workflow_id", rule));
        }
        let least = Duration::from_secs(1);
        Ok(Start {
            workflow_id,
            workflow_type: convert::id(given.workflow_type, "workflow_type")?,
            task_queue: convert::id(given.task_queue, "task_queue")?,
            input,
            tokens,
            tools: convert::ids(given.tools, "tools")?,
            intake: given.intake.unwrap_or(self.settings.intake),
            execution_timeout: convert::duration(
                given.execution_timeout,
                "execution_timeout",
                least,
                LONGEST,
            )?,
            request_id: given.request_id,
        })
    }

    fn check_token(&self, given: v1::InitialToken) -> Result<Token, Fault> {
        let secret = SecretString::from(given.token);
        Ok(Token {
            slot: convert::slot(given.slot, "tokens.slot")?,
            secret,
            audiences: audiences(given.audiences, "tokens.audiences")?,
            lifetime: self.lifetime(given.ttl, "tokens.ttl")?,
            accept_short: given.allow_short,
        })
    }

    /// How long a grant lives: as its depositor says, or as the server does. What lives as long as the
    /// server says is renewed, and what somebody named an end for is not: an end that is the same comes a
    /// second earlier.
    pub(super) fn lifetime(
        &self,
        given: Option<xylem_proto::Duration>,
        field: &str,
    ) -> Result<Duration, Fault> {
        let usual = self.settings.lifetime;
        let named = convert::duration(given, field, SHORTEST, LONGEST)?;
        Ok(match named {
            Some(named) if named == usual => named.saturating_sub(Duration::from_secs(1)),
            Some(named) => named,
            None => usual,
        })
    }

    /// Whether a tree may be allowed these tools: one that the caller may not know of is not there.
    async fn check_tools(&self, tools: &BTreeSet<ToolName>) -> Result<(), Fault> {
        for tool in tools {
            let usable = async {
                self.asked_about(tool).await?;
                let namespace = &self.settings.namespace;
                self.tools
                    .usable(namespace, tool)
                    .await
                    .map_err(Fault::from)
            };
            usable.await.map_err(|fault| fault.about(tool.as_str()))?;
        }
        Ok(())
    }

    /// What the same request has started before.
    async fn started_before(
        &self,
        workflow_id: &WorkflowId,
        start: &StartId,
    ) -> Result<Option<Bound>, Fault> {
        let known = self
            .vault
            .find_tree(&self.settings.namespace, workflow_id)
            .await?;
        match known.id() {
            Some(tree) if known.start == *start && known.is_bound() => Ok(Some(Bound {
                grants: self.vault.grants(&tree).await?,
                tree,
            })),
            _ => Ok(None),
        }
    }

    /// Deposits, starts the root, and binds the deposit to the root's first run. A failure that
    /// leaves open whether the root runs leaves the start as it is: the sweep settles it.
    async fn start_root(
        &self,
        principal: &Principal,
        start: Start,
        id: &StartId,
    ) -> Result<Bound, Fault> {
        let header = self.header(start.intake).await?;
        let request_id = start.request_id.clone();
        let bindings = self.bindings_of(&start).await?;
        let mut deposited = self
            .deposit_all(principal, start.tokens, id, &request_id)
            .await;
        if deposited.is_ok() {
            deposited = self.copy_bound(principal, bindings, id).await;
        }
        if let Err(fault) = deposited {
            self.vault.abandon(id, principal.agent()).await?;
            return Err(fault);
        }
        let started = self.temporal.start(StartWorkflow {
            workflow_id: start.workflow_id,
            workflow_type: start.workflow_type,
            task_queue: start.task_queue,
            input: start.input,
            headers: vec![(TREE_HEADER, header)],
            execution_timeout: start.execution_timeout,
            request_id: id.to_string(),
            delay: None,
        });
        match started.await {
            Ok(first_run_id) => Ok(self.vault.bind(id, first_run_id).await?),
            Err(error @ (TemporalError::AlreadyRunning | TemporalError::Rejected(_))) => {
                self.vault.abandon(id, principal.agent()).await?;
                Err(error.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn deposit_all(
        &self,
        principal: &Principal,
        tokens: Vec<Token>,
        id: &StartId,
        request_id: &str,
    ) -> Result<(), Fault> {
        for token in tokens {
            let part = format!("/{}", token.slot);
            let deposit = Deposit {
                target: Target::Start(id.clone()),
                request: request(principal, request_id, &part)?,
                slot: token.slot,
                token: token.secret,
                audiences: token.audiences,
                lifetime: token.lifetime,
                depositor: principal.agent().clone(),
                accept_short: token.accept_short,
            };
            self.vault.deposit(deposit).await?;
        }
        Ok(())
    }

    /// What the root's type starts with; a slot is filled by a credential or by the caller.
    async fn bindings_of(&self, start: &Start) -> Result<Vec<Binding>, Fault> {
        let namespace = &self.settings.namespace;
        let bindings = self.vault.bindings(namespace, &start.workflow_type).await?;
        for binding in &bindings {
            let slot = &binding.slot;
            if start.tokens.iter().any(|token| token.slot == *slot) {
                return Err(Fault::refused(
                    "slot_bound",
                    format!(
                        "slot {slot} of this workflow type is filled by the credential {}: leave \
                         its token out, or unbind the credential",
                        binding.credential
                    ),
                ));
            }
        }
        Ok(bindings)
    }

    async fn copy_bound(
        &self,
        principal: &Principal,
        bindings: Vec<Binding>,
        id: &StartId,
    ) -> Result<(), Fault> {
        for binding in bindings {
            let what = format!("credential {}", binding.credential);
            let copied = Copied {
                target: Target::Start(id.clone()),
                slot: binding.slot,
                credential: binding.credential,
                lifetime: self.settings.lifetime,
                by: principal.agent().clone(),
            };
            let copied = self.vault.copy_credential(&copied).await;
            copied.map_err(|error| Fault::from(error).about(&what))?;
        }
        Ok(())
    }

    async fn header(&self, intake: bool) -> Result<serde_json::Value, Fault> {
        serde_json::to_value(TreeHeader {
            protocol: PROTOCOL,
            tree: None,
            issuers: self.vault.issuer_set().await?,
            slots: Slots::Declared,
            grants: Vec::new(),
            search_attribute: self.search_attribute(),
            intake: Some(intake),
        })
        .map_err(Fault::internal)
    }

    async fn trees(&self, given: v1::ListTreesRequest) -> Result<v1::ListTreesResponse, Fault> {
        let size = convert::page_size(given.page_size)?;
        let after: Option<StartId> = match given.page_token.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| {
                Fault::invalid("page_token", "page_token must be one that a list answered")
            })?),
        };
        let namespace = &self.settings.namespace;
        let page = self.vault.trees(namespace, after.as_ref(), size).await?;
        let next_page_token = next(&page, size, |tree: &Tree| tree.start.to_string());
        let mut trees = Vec::new();
        for tree in page {
            if reaches(&tree.owner)? {
                trees.push(self.wire_tree(tree).await?);
            }
        }
        Ok(v1::ListTreesResponse {
            trees,
            next_page_token,
        })
    }

    /// The new owner is an agent that can own something: it exists and was not retired.
    async fn transfer(&self, given: v1::TransferTreeRequest) -> Result<v1::Tree, Fault> {
        let to: AgentId = convert::id(given.to, "to")?;
        let id = self.named_id(&given.tree).await?;
        let agent = self.identity.agent(&self.settings.namespace, &to).await?;
        if agent.retired_at.is_some() {
            return Err(IdentityError::Retired.into());
        }
        let entry = self.change(Kind::TreeTransferred);
        let tree = self.vault.transfer(&id, to, entry).await?;
        self.wire_tree(tree).await
    }

    async fn look(&self, given: v1::GetTreeRequest) -> Result<v1::TreeView, Fault> {
        let tree = self.named_tree(&given.tree).await?;
        let look = Look {
            closed_too: given.include_closed,
            without_queries: given.skip_queries,
            until: None,
        };
        self.view(tree, look).await
    }

    /// A tree as one walk sees it; one whose root has not started has no nodes.
    async fn view(&self, tree: Tree, look: Look) -> Result<v1::TreeView, Fault> {
        let walk = match tree.id() {
            Some(id) => Some(self.walk(&id, look).await?),
            None => None,
        };
        let record = self.wire_tree(tree).await?;
        Ok(view::tree(record, walk.as_ref(), self.now()))
    }

    async fn watch(&self, given: v1::WatchTreeRequest) -> Result<Answers<v1::TreeView>, Fault> {
        let rest = convert::duration(
            given.interval,
            "interval",
            Duration::from_millis(100),
            Duration::from_secs(60),
        )?;
        let rest = rest.unwrap_or(Duration::from_secs(1));
        let id = self.named_id(&given.tree).await?;
        let mut onlooker = Onlooker::caller(self, Rpc::WatchTree)?;
        let (send, receive) = mpsc::channel(1);
        let handlers = self.clone();
        self.tasks.spawn(async move {
            loop {
                let seen = handlers.view_for(&id, &mut onlooker).await;
                let over = match &seen {
                    Ok(view) => !given.keep_watching && view.converged,
                    Err(_) => true,
                } || seen.as_ref().is_ok_and(view::ended);
                let seen = seen.map_err(|fault| handlers.ended_by(fault));
                if send.send(seen).await.is_err() || over {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(rest) => {}
                    () = send.closed() => return,
                }
            }
        });
        Ok(self.answers(receive))
    }

    /// A tree as somebody sees it who may still see it, and to whom it still belongs where that counts.
    async fn view_for(&self, id: &TreeId, onlooker: &mut Onlooker) -> Result<v1::TreeView, Fault> {
        onlooker.may_go_on(self).await?;
        let tree = self.vault.tree(id).await?;
        if !onlooker.reaches(&tree.owner) {
            return Err(Fault::not_found("tree"));
        }
        self.view(tree, Look::default()).await
    }

    /// The vault first: nothing is redeemed from that moment, however long the workflows take.
    async fn stop(&self, given: v1::StopTreeRequest) -> Result<v1::StopTreeResponse, Fault> {
        let principal = caller()?;
        let longest = Duration::from_secs(60);
        let wait = convert::duration(given.wait, "wait", Duration::ZERO, longest)?;
        let deadline = Instant::now() + wait.unwrap_or(Duration::from_secs(10));
        let note = convert::note(&given.reason, "reason")?;
        let id = self.named_id(&given.tree).await?;
        let stopping = Stopping {
            tree: id.clone(),
            terminate: given.terminate,
            by: principal.agent().clone(),
            note,
        };
        self.vault.stop(stopping).await?;
        let how = if given.terminate {
            Stop::Terminate
        } else {
            Stop::Cancel
        };
        let mut stopping = stop::Stopping::new(id, how, &given.reason);
        loop {
            let open = self.stop_round(&mut stopping).await?;
            let left = deadline.saturating_duration_since(Instant::now());
            if stopping.is_over() || (open > 0 && left.is_zero()) {
                return Ok(v1::StopTreeResponse {
                    stopped: u32::try_from(stopping.asked()).unwrap_or(u32::MAX),
                    still_running: u32::try_from(open).unwrap_or(u32::MAX),
                });
            }
            // Whether it is over is looked at twice, whatever time is left.
            let rest = if open == 0 {
                STOP_REST
            } else {
                STOP_REST.min(left)
            };
            tokio::time::sleep(rest).await;
        }
    }

    async fn change_tools(&self, given: v1::AllowToolsRequest) -> Result<v1::Tree, Fault> {
        let principal = caller()?;
        let allow: BTreeSet<ToolName> = convert::ids(given.tools, "tools")?;
        let withdraw: BTreeSet<ToolName> = convert::ids(given.withdraw, "withdraw")?;
        self.check_tools(&allow).await?;
        let id = self.named_or_adopted(&given.tree).await?;
        let mut tree = self.vault.tree(&id).await?;
        if !withdraw.is_empty() {
            tree = self
                .vault
                .withdraw_tools(&id, &withdraw, principal.agent())
                .await?;
        }
        if !allow.is_empty() {
            tree = self
                .vault
                .allow_tools(&id, allow, principal.agent())
                .await?;
        }
        self.wire_tree(tree).await
    }
}

/// Reads where a token may be sent.
pub(super) fn audiences(given: Vec<String>, field: &str) -> Result<Audiences, Fault> {
    let list: Vec<Audience> = convert::ids(given, field)?;
    Audiences::new(list).map_err(|error| match error {
        VaultError::Invalid { rule, .. } => {
            Fault::invalid(field, format!("{field} must be {rule}"))
        }
        other => other.into(),
    })
}
