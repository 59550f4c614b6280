//! Policies, and what they would decide.

mod document;

use super::{Handlers, answer, next};
use crate::{
    caller::{Reach, caller, not_let, reach, reaches},
    convert,
    fault::Fault,
};
use document::{document, wire};
use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};
use tonic::{Request, Response, Status};
use v1::policies_server::Policies;
use xylem_ids::{AgentId, PolicyName, TaskQueue, ToolName, WorkflowId, WorkflowType};
use xylem_policy::{
    Action, Author, By, Condition, Document, Facts, Finding, Question, Record, Report, SCHEMA,
    ToolFacts, Usage,
};
use xylem_proto::v1;
use xylem_registry::RegistryError;

/// An age that is asked about.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

#[tonic::async_trait]
impl Policies for Handlers {
    async fn create_policy(
        &self,
        request: Request<v1::CreatePolicyRequest>,
    ) -> Result<Response<v1::PolicyRecord>, Status> {
        answer(self.create_policy(request.into_inner()).await)
    }

    async fn get_policy(
        &self,
        request: Request<v1::GetPolicyRequest>,
    ) -> Result<Response<v1::PolicyRecord>, Status> {
        answer(self.policy(request.into_inner()).await)
    }

    async fn list_policies(
        &self,
        request: Request<v1::ListPoliciesRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        answer(self.list_policies(request.into_inner()).await)
    }

    async fn update_policy(
        &self,
        request: Request<v1::UpdatePolicyRequest>,
    ) -> Result<Response<v1::PolicyRecord>, Status> {
        answer(self.update_policy(request.into_inner()).await)
    }

    async fn retire_policy(
        &self,
        request: Request<v1::RetirePolicyRequest>,
    ) -> Result<Response<v1::PolicyRecord>, Status> {
        answer(self.retire_policy(request.into_inner()).await)
    }

    async fn get_policy_schema(
        &self,
        _: Request<v1::GetPolicySchemaRequest>,
    ) -> Result<Response<v1::PolicySchema>, Status> {
        let cedar = SCHEMA.to_owned();
        answer(Ok(v1::PolicySchema { cedar }))
    }

    async fn check_access(
        &self,
        request: Request<v1::CheckAccessRequest>,
    ) -> Result<Response<v1::CheckAccessResponse>, Status> {
        answer(self.check_access(request.into_inner()).await)
    }
}

impl Handlers {
    async fn create_policy(
        &self,
        given: v1::CreatePolicyRequest,
    ) -> Result<v1::PolicyRecord, Fault> {
        let document = document(given.policy.unwrap_or_default())?;
        let author = self.author("")?;
        let namespace = &self.settings.namespace;
        let created = self.policies.create(namespace, &document, &author);
        wire_record(created.await?)
    }

    async fn policy(&self, given: v1::GetPolicyRequest) -> Result<v1::PolicyRecord, Fault> {
        let name: PolicyName = convert::id(given.name, "name")?;
        let namespace = &self.settings.namespace;
        let found = self.policies.get(namespace, &name, given.version);
        wire_record(found.await?)
    }

    async fn list_policies(
        &self,
        given: v1::ListPoliciesRequest,
    ) -> Result<v1::ListPoliciesResponse, Fault> {
        let size = convert::page_size(given.page_size)?;
        let after: Option<PolicyName> = convert::optional(given.page_token, "page_token")?;
        let listed = self.policies.list(&self.settings.namespace).await?;
        let page: Vec<Record> = listed
            .into_iter()
            .filter(|record| given.include_retired || !record.retired)
            .filter(|record| {
                after
                    .as_ref()
                    .is_none_or(|after| record.document.name > *after)
            })
            .take(size as usize)
            .collect();
        let next_page_token = next(&page, size, |record| record.document.name.to_string());
        let policies: Result<Vec<_>, Fault> = page.into_iter().map(wire_record).collect();
        Ok(v1::ListPoliciesResponse {
            policies: policies?,
            next_page_token,
        })
    }

    async fn update_policy(
        &self,
        given: v1::UpdatePolicyRequest,
    ) -> Result<v1::PolicyRecord, Fault> {
        let mut policy = given.policy.unwrap_or_default();
        if policy.name.is_empty() {
            policy.name.clone_from(&given.name);
        }
        if policy.name != given.name {
            let rule = "policy.name must be the name of the policy that is updated";
            return Err(Fault::invalid("policy.name", rule));
        }
        let document = document(policy)?;
        let author = self.author("")?;
        let namespace = &self.settings.namespace;
        let expected = given.expected_version;
        let updated = self
            .policies
            .update(namespace, &document, expected, &author);
        wire_record(updated.await?)
    }

    async fn retire_policy(
        &self,
        given: v1::RetirePolicyRequest,
    ) -> Result<v1::PolicyRecord, Fault> {
        let name: PolicyName = convert::id(given.name, "name")?;
        let author = self.author(&given.note)?;
        let namespace = &self.settings.namespace;
        let expected = given.expected_version;
        let retired = self.policies.retire(namespace, &name, expected, &author);
        wire_record(retired.await?)
    }

    /// Who makes a change, and what it says about it.
    fn author(&self, note: &str) -> Result<Author, Fault> {
        Ok(Author {
            agent: caller()?.agent().clone(),
            at: self.now(),
            note: convert::note(note, "note")?,
        })
    }

    async fn check_access(
        &self,
        given: v1::CheckAccessRequest,
    ) -> Result<v1::CheckAccessResponse, Fault> {
        let principal = caller()?;
        let agent: Option<AgentId> = convert::optional(given.agent, "agent")?;
        let agent = agent.unwrap_or_else(|| principal.agent().clone());
        if !reaches(&agent)? {
            not_let("other_agent");
            let rule = "an agent without the role to see policies asks about itself only";
            return Err(Fault::denied("other_agent", rule));
        }
        let with = given.with.map(tried).transpose()?;
        let name: ToolName = convert::id(given.tool, "tool")?;
        let tool = self.asked_about(&name).await?;
        let tree: Option<WorkflowId> = convert::optional(given.tree, "tree")?;
        let workflow_type: Option<WorkflowType> =
            convert::optional(given.workflow_type, "workflow_type")?;
        let task_queue: Option<TaskQueue> = convert::optional(given.task_queue, "task_queue")?;
        let action: Option<Action> = convert::optional(given.action, "action")?;
        let json = (!given.parameters_json.is_empty()).then_some(&given.parameters_json);
        let parameters = json.map(|json| convert::parameters(json)).transpose()?;
        let age = |given, field| convert::duration(given, field, Duration::ZERO, LONGEST);
        let question = Question {
            agent: &agent,
            action: action.unwrap_or(Action::Execute),
            tool: &tool,
            facts: Facts {
                now: self.moment(given.at)?,
                tree: tree.as_ref().map(WorkflowId::as_str),
                workflow_type: workflow_type.as_ref(),
                task_queue: task_queue.as_ref(),
                parameters: parameters.as_ref(),
                token_age: age(given.token_age, "token_age")?.map(|age| age.as_secs()),
                address: address(&given.address)?,
                signed_in: age(given.signed_in, "signed_in")?.map(|age| age.as_secs()),
                second_factor: given.second_factor,
                usage: &Usage::default(),
                approvals: &[],
            },
        };
        let namespace = &self.settings.namespace;
        let at = principal.as_of();
        let report = self.policies.check(namespace, &question, with.as_ref(), at);
        Ok(wire_report(report.await?))
    }

    /// What policies can say about a tool that the caller may know of: another one is not there.
    pub(super) async fn asked_about(&self, name: &ToolName) -> Result<Arc<ToolFacts>, Fault> {
        let facts = self.facts_of(name).await?;
        match self
            .visible(std::slice::from_ref(&*facts))
            .await?
            .as_slice()
        {
            [true] => Ok(facts),
            _ => Err(RegistryError::NotFound { what: "tool" }.into()),
        }
    }

    /// About the definition that is called; where none is, about the one that waits for approval.
    async fn facts_of(&self, name: &ToolName) -> Result<Arc<ToolFacts>, Fault> {
        let (memory, at) = (&self.recalled.facts, caller()?.as_of());
        if let Some(known) = memory.get(at, name) {
            return Ok(known);
        }
        let namespace = &self.settings.namespace;
        let known = match self.tools.callable(namespace, name).await {
            Err(RegistryError::NotCallable(_)) => self.tools.get(namespace, name).await?,
            known => known?,
        };
        let facts = Arc::new(known.record.facts(known.tool.definition())?);
        memory.put(at, name.clone(), Arc::clone(&facts), 1);
        Ok(facts)
    }

    /// The moment that is asked about, in seconds since 1970.
    fn moment(&self, given: Option<xylem_proto::Timestamp>) -> Result<u64, Fault> {
        match given {
            Some(at) => u64::try_from(at.seconds)
                .ok()
                .filter(|seconds| *seconds < 253_402_300_800)
                .ok_or_else(|| Fault::invalid("at", "at must be from 1970 to 9999")),
            None => Ok(self
                .now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs())),
        }
    }
}

/// A policy that is not stored yet, of somebody who may store it: every other one is looked through for
/// the answer.
fn tried(policy: v1::Policy) -> Result<Document, Fault> {
    if reach()? != Reach::All {
        not_let("role");
        let rule = "with is for who may write policies: leave it out, or ask with the role admin or \
                    policy_admin";
        return Err(Fault::denied("role", rule));
    }
    document(policy)
}

fn address(text: &str) -> Result<Option<IpAddr>, Fault> {
    let rule = "address must be an IP address";
    let read = (!text.is_empty()).then(|| text.parse());
    read.transpose()
        .map_err(|_| Fault::invalid("address", rule))
}

fn wire_record(record: Record) -> Result<v1::PolicyRecord, Fault> {
    Ok(v1::PolicyRecord {
        policy: Some(wire(&record.document)?),
        version: record.version,
        retired: record.retired,
        author: record.author.into(),
        changed_at: Some(convert::seconds(xylem_grant::UnixSeconds(record.at))),
        compiled: record.compiled,
    })
}

fn wire_report(report: Report) -> v1::CheckAccessResponse {
    let (reason, message, policy) = match &report.decision {
        Ok(allowed) => ("", allowed_by(&allowed.by), allowed.by.to_string()),
        Err(refused) => (
            refused.reason.code(),
            refused.to_string(),
            refused
                .by
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        ),
    };
    v1::CheckAccessResponse {
        allowed: report.decision.is_ok(),
        reason: reason.to_owned(),
        message,
        policy,
        findings: report.findings.into_iter().map(wire_finding).collect(),
    }
}

fn allowed_by(by: &By) -> String {
    match by {
        By::Policy(policy) => format!("the policy {policy} allows it"),
        By::Access(id) => format!("the approval {id} allows it"),
    }
}

fn wire_finding(finding: Finding) -> v1::PolicyFinding {
    v1::PolicyFinding {
        policy: finding.policy.to_string(),
        place: finding.place.to_string(),
        effect: finding.effect.to_string(),
        applies: finding.applies == Some(true),
        broken: finding.applies.is_none(),
        conditions: finding.conditions.into_iter().map(wire_condition).collect(),
    }
}

fn wire_condition(condition: Condition) -> v1::PolicyCondition {
    v1::PolicyCondition {
        kind: condition.kind.code().to_owned(),
        holds: condition.holds == Some(true),
        rule: condition.rule,
        found: condition.found,
    }
}
