//! Requests for access.

use super::{Handlers, answer, next};
use crate::{
    caller::{Reach, caller, check_reach, during_call, not_let, reach, reaches},
    convert,
    fault::Fault,
    plane::Plane,
};
use std::time::Duration;
use tonic::{Request, Response, Status};
use v1::access_server::Access as Service;
use xylem_audit::{Entry, Kind, Verdict};
use xylem_grant::UnixSeconds;
use xylem_ids::{AccessId, AgentId, PolicyName, ToolName};
use xylem_policy::{
    Access, Act, Action, LONGEST_ACCESS, NewAccess, SHORTEST_ACCESS, USUAL_ACCESS, Wanted,
};
use xylem_proto::v1;

#[tonic::async_trait]
impl Service for Handlers {
    async fn request_access(
        &self,
        request: Request<v1::RequestAccessRequest>,
    ) -> Result<Response<v1::AccessRequest>, Status> {
        answer(self.request_access(request.into_inner()).await)
    }

    async fn list_access_requests(
        &self,
        request: Request<v1::ListAccessRequestsRequest>,
    ) -> Result<Response<v1::ListAccessRequestsResponse>, Status> {
        answer(self.list_access_requests(request.into_inner()).await)
    }

    async fn get_access_request(
        &self,
        request: Request<v1::GetAccessRequestRequest>,
    ) -> Result<Response<v1::AccessRequest>, Status> {
        let found = self.own_access(request.into_inner().id).await;
        answer(found.map(wire))
    }

    async fn decide_access(
        &self,
        request: Request<v1::DecideAccessRequest>,
    ) -> Result<Response<v1::AccessRequest>, Status> {
        answer(self.decide_access(request.into_inner()).await)
    }

    async fn end_access(
        &self,
        request: Request<v1::EndAccessRequest>,
    ) -> Result<Response<v1::AccessRequest>, Status> {
        answer(self.end_access(request.into_inner()).await)
    }
}

impl Handlers {
    async fn request_access(
        &self,
        given: v1::RequestAccessRequest,
    ) -> Result<v1::AccessRequest, Fault> {
        let agent: Option<AgentId> = convert::optional(given.agent, "agent")?;
        let agent = match agent {
            Some(agent) => self.other_agent(agent).await?,
            None => caller()?.agent().clone(),
        };
        let tool: ToolName = convert::id(given.tool, "tool")?;
        let action: Option<Action> = convert::optional(given.action, "action")?;
        let policy: Option<PolicyName> = convert::optional(given.policy, "policy")?;
        let lasts = convert::duration(given.lasts, "lasts", SHORTEST_ACCESS, LONGEST_ACCESS)?;
        let act = self.act(&given.reason)?;
        let namespace = &self.settings.namespace;
        let tool = self.asked_about(&tool).await?;
        let new = NewAccess {
            agent: &agent,
            tool: &tool,
            action: action.unwrap_or(Action::Execute),
            policy: policy.as_ref(),
            lasts: lasts.unwrap_or(USUAL_ACCESS),
        };
        Ok(wire(self.policies.ask(namespace, new, act).await?))
    }

    /// An agent that somebody may ask for: an unknown one would wait for nothing.
    async fn other_agent(&self, agent: AgentId) -> Result<AgentId, Fault> {
        if !reaches(&agent)? {
            not_let("other_agent");
            let rule = "an agent without the role to see policies asks for itself only";
            return Err(Fault::denied("other_agent", rule));
        }
        if self.is_system(&agent) {
            return Ok(agent);
        }
        let known = self
            .identity
            .agent(&self.settings.namespace, &agent)
            .await?;
        match known.retired_at {
            None => Ok(agent),
            Some(_) => Err(Fault::refused("agent_retired", "the agent is retired")),
        }
    }

    async fn list_access_requests(
        &self,
        given: v1::ListAccessRequestsRequest,
    ) -> Result<v1::ListAccessRequestsResponse, Fault> {
        let size = convert::page_size(given.page_size)?;
        let after: Option<AccessId> = convert::optional(given.page_token, "page_token")?;
        let named: Option<AgentId> = convert::optional(given.agent, "agent")?;
        let of = match (named, reach()?) {
            (named, Reach::All) => named,
            (None, Reach::Own) => Some(caller()?.agent().clone()),
            (Some(agent), Reach::Own) => {
                check_reach(&agent, "agent")?;
                Some(agent)
            }
        };
        let now = self.now();
        let wanted = Wanted {
            of: of.as_ref(),
            pending_at: given.pending.then(|| UnixSeconds::from(now).0),
            after: after.as_ref(),
        };
        let namespace = &self.settings.namespace;
        let found = self.policies.accesses(namespace, wanted, size, now).await?;
        Ok(v1::ListAccessRequestsResponse {
            next_page_token: next(&found, size, |access| access.id.to_string()),
            requests: found.into_iter().map(wire).collect(),
        })
    }

    async fn decide_access(
        &self,
        given: v1::DecideAccessRequest,
    ) -> Result<v1::AccessRequest, Fault> {
        let id: AccessId = convert::id(given.id, "id")?;
        let act = self.act(&given.reason)?;
        let alone = self.settings.single_operator;
        let namespace = &self.settings.namespace;
        let decided = self
            .policies
            .decide_access(namespace, &id, given.approve, alone, act);
        Ok(wire(decided.await?))
    }

    async fn end_access(&self, given: v1::EndAccessRequest) -> Result<v1::AccessRequest, Fault> {
        let access = self.own_access(given.id).await?;
        let act = self.act(&given.reason)?;
        let namespace = &self.settings.namespace;
        let ended = self.policies.end_access(namespace, &access.id, act).await?;
        Ok(wire(ended))
    }

    /// The request, as far as the caller may see it: it asked, or is to be allowed.
    async fn own_access(&self, id: String) -> Result<Access, Fault> {
        let id: AccessId = convert::id(id, "id")?;
        let namespace = &self.settings.namespace;
        let access = self.policies.access(namespace, &id, self.now()).await?;
        if !reaches(&access.agent)? {
            check_reach(&access.asked_by, "access request")?;
        }
        Ok(access)
    }

    /// Who does something about a request, and why: the kind of the entry follows from what is done.
    fn act(&self, reason: &str) -> Result<Act, Fault> {
        let rule = "reason must say why, in 1 to 500 printable characters";
        let reason = convert::note(reason, "reason")?;
        let entry = Entry::new(self.now(), Kind::AccessRequested, Verdict::Succeeded);
        Ok(Act {
            by: caller()?.agent().clone(),
            reason: reason.ok_or_else(|| Fault::invalid("reason", rule))?,
            entry: during_call(entry),
        })
    }
}

impl Plane {
    /// Writes down which requests and approvals are over.
    pub(crate) async fn expire_accesses(&self) -> Result<(), Fault> {
        let entry = Entry::new(self.now(), Kind::AccessExpired, Verdict::Succeeded);
        let entry = entry.by(&self.system);
        let namespace = &self.settings.namespace;
        Ok(self.policies.expire_accesses(namespace, entry).await?)
    }
}

fn wire(access: Access) -> v1::AccessRequest {
    let at = |at| Some(convert::seconds(UnixSeconds(at)));
    let state = access.state.code().to_owned();
    let ends_at = at(access.state.ends());
    let decision = access.state.decision().cloned();
    let (decided_by, decided_at, note, single_operator) = match decision {
        None => Default::default(),
        Some(it) => (
            it.by.to_string(),
            at(it.at),
            it.note.as_str().to_owned(),
            it.own,
        ),
    };
    v1::AccessRequest {
        id: access.id.into(),
        agent: access.agent.into(),
        tool: access.tool.into(),
        action: access.action.code().to_owned(),
        policy: access.policy.map(Into::into).unwrap_or_default(),
        lasts: Some(Duration::from_secs(access.lasts).into()),
        reason: access.reason.as_str().to_owned(),
        asked_by: access.asked_by.into(),
        asked_at: at(access.asked_at),
        state,
        ends_at,
        decided_by,
        decided_at,
        note,
        single_operator,
    }
}
