//! Policies, agents and calls for tests.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::{collections::BTreeSet, sync::Arc};
use xylem_ids::{AgentId, Role, TaskQueue, WorkflowType};
use xylem_policy::{
    Action, Allowed, Approval, Ask, Compiler, Document, Engine, Facts, Policy, PolicyError,
    Refused, Report, Resource, ToolFacts, Usage,
};

pub(crate) fn document(json: serde_json::Value) -> Document {
    serde_json::from_value(json).unwrap()
}

/// Compiles documents that may inherit from each other.
pub(crate) fn compile(documents: &[Document]) -> Result<Vec<Arc<Policy>>, PolicyError> {
    let compiler = Compiler::new().unwrap();
    let compile = |document| {
        let parent = |name: &_| documents.iter().find(|known| known.name == *name);
        compiler.compile(document, 1, &parent).map(Arc::new)
    };
    documents.iter().map(compile).collect()
}

pub(crate) fn engine(documents: &[serde_json::Value]) -> Engine {
    let documents: Vec<Document> = documents.iter().cloned().map(document).collect();
    Engine::new(compile(&documents).unwrap()).unwrap()
}

/// Why one document is refused.
pub(crate) fn refusal(json: serde_json::Value) -> String {
    compile(&[document(json)]).unwrap_err().to_string()
}

/// A call, and what is known about it: by default a Wednesday noon in Berlin, from within.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) agent: AgentId,
    pub(crate) roles: BTreeSet<Role>,
    pub(crate) action: Action,
    pub(crate) tool: ToolFacts,
    pub(crate) now: u64,
    pub(crate) tree: Option<&'static str>,
    pub(crate) workflow_type: Option<WorkflowType>,
    pub(crate) task_queue: Option<TaskQueue>,
    pub(crate) parameters: Option<serde_json::Value>,
    pub(crate) token_age: Option<u64>,
    pub(crate) address: Option<&'static str>,
    pub(crate) signed_in: Option<u64>,
    pub(crate) second_factor: bool,
    pub(crate) usage: Usage,
    pub(crate) approvals: Vec<Approval>,
}

pub(crate) fn tool(name: &str, tags: &[&str]) -> ToolFacts {
    ToolFacts {
        name: name.parse().unwrap(),
        tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(),
        origin: "https://api.acme.example".to_owned(),
        method: "POST".to_owned(),
        owner: Some("publisher".parse().unwrap()),
    }
}

/// Seconds since 1970 of a moment in UTC.
pub(crate) fn at(moment: &str) -> u64 {
    let moment: jiff::Timestamp = moment.parse().unwrap();
    moment.as_second().try_into().unwrap()
}

impl Default for Case {
    fn default() -> Self {
        Self {
            agent: "release-bot".parse().unwrap(),
            roles: [Role::User].into(),
            action: Action::Execute,
            tool: tool("acme.deploy", &["build", "prod"]),
            now: at("2026-11-18T11:00:00Z"),
            tree: Some("train"),
            workflow_type: Some("Release".parse().unwrap()),
            task_queue: Some("deploy".parse().unwrap()),
            parameters: Some(serde_json::json!({"region": "eu-1", "amount": 5})),
            token_age: Some(3600),
            address: Some("10.1.2.3"),
            signed_in: None,
            second_factor: false,
            usage: Usage::default(),
            approvals: Vec::new(),
        }
    }
}

impl Case {
    pub(crate) fn ask(&self) -> Ask<'_> {
        Ask {
            agent: &self.agent,
            kind: "service",
            roles: &self.roles,
            action: self.action,
            resource: Resource::Tool(&self.tool),
        }
    }

    pub(crate) fn facts(&self) -> Facts<'_> {
        Facts {
            now: self.now,
            tree: self.tree,
            workflow_type: self.workflow_type.as_ref(),
            task_queue: self.task_queue.as_ref(),
            parameters: self.parameters.as_ref(),
            token_age: self.token_age,
            address: self.address.map(|address| address.parse().unwrap()),
            signed_in: self.signed_in,
            second_factor: self.second_factor,
            usage: &self.usage,
            approvals: &self.approvals,
        }
    }

    pub(crate) fn decide(&self, engine: &Engine) -> Result<Allowed, Refused> {
        engine.decide(&self.ask(), &self.facts())
    }

    pub(crate) fn check(&self, engine: &Engine) -> Report {
        engine.check(&self.ask(), &self.facts())
    }

    /// `allowed`, or the code of the reason.
    pub(crate) fn answer(&self, engine: &Engine) -> &'static str {
        match self.decide(engine) {
            Ok(_) => "allowed",
            Err(refused) => refused.reason.code(),
        }
    }

    pub(crate) fn approve(mut self, id: &str, policy: Option<&str>) -> Self {
        self.approvals.push(Approval {
            id: id.parse().unwrap(),
            policy: policy.map(|name| name.parse().unwrap()),
        });
        self
    }
}
