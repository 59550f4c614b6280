//! A decision by policies, with the facts of the call given as values.

use anyhow::Result;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};
use xylem_bench::{Bar, Measured, Timing};
use xylem_ids::{AgentId, Role, TaskQueue, WorkflowType};
use xylem_policy::{Action, Ask, Compiler, Document, Engine, Facts, Resource, ToolFacts, Usage};

/// The bar that every decision has to stay under, in microseconds.
const BAR: f64 = 50.0;
const DECISIONS: usize = 5_000;
/// A Wednesday noon in Berlin.
const NOW: u64 = 1_794_999_600;

pub(crate) fn measure() -> Result<Measured> {
    let thousand = engine(1_000)?;
    let warm = Timing::of_each("decide, 1,000 policies", &decide(&thousand, 1_000)?);
    let bar = Bar::at_most(
        "policy decision, 1,000 policies, p50 µs",
        warm.median_ns / 1_000.0,
        BAR,
    );
    let many = Timing::of_each(
        "decide, 10,000 policies",
        &decide(&engine(10_000)?, 10_000)?,
    );
    Ok(Measured {
        timings: vec![warm, many],
        bars: vec![bar],
    })
}

fn decide(engine: &Engine, policies: usize) -> Result<Vec<Duration>> {
    let calls: Result<Vec<Call>> = (0..500).map(|n| Call::new(n, policies)).collect();
    let calls = calls?;
    let usage = Usage::default();
    let mut took = Vec::with_capacity(DECISIONS);
    let mut allowed = 0;
    for call in calls.iter().cycle().take(DECISIONS) {
        let begin = Instant::now();
        let decision = engine.decide(&call.ask(), &call.facts(&usage));
        took.push(begin.elapsed());
        allowed += usize::from(decision.is_ok());
    }
    let share = allowed * 100 / DECISIONS;
    anyhow::ensure!(
        (10..=90).contains(&share),
        "{share} % of the calls are allowed"
    );
    Ok(took)
}

/// One call out of 500 pairs of agent and tool. Every third is of an agent that no policy names, in
/// a role that none allows anything: the more policies there are, the fewer others are denied.
struct Call {
    agent: AgentId,
    roles: BTreeSet<Role>,
    tool: ToolFacts,
    workflow_type: WorkflowType,
    task_queue: TaskQueue,
    parameters: Value,
}

impl Call {
    fn new(n: usize, policies: usize) -> Result<Self> {
        // The agents and tools of policies that name both, and others.
        let about = n * 7 % policies;
        let regions = ["eu-1", "us-1"];
        let (agent, roles) = if n.is_multiple_of(3) {
            (format!("stranger-{n}"), [Role::Worker].into())
        } else {
            let agent = format!("agent-{}", about % 200);
            (agent, [Role::User, Role::Auditor].into())
        };
        Ok(Self {
            agent: agent.parse()?,
            roles,
            tool: ToolFacts {
                name: format!("tool-{}", about % 97).parse()?,
                tags: [
                    format!("tag-{}", n % 10).parse()?,
                    format!("tag-{}", n % 7).parse()?,
                ]
                .into(),
                origin: "https://api.acme.example".to_owned(),
                method: "POST".to_owned(),
                owner: Some("publisher".parse()?),
            },
            workflow_type: "Release".parse()?,
            task_queue: "deploy".parse()?,
            parameters: json!({"region": regions.get(n % 2)}),
        })
    }

    fn ask(&self) -> Ask<'_> {
        Ask {
            agent: &self.agent,
            kind: "service",
            roles: &self.roles,
            action: Action::Execute,
            resource: Resource::Tool(&self.tool),
        }
    }

    fn facts<'a>(&'a self, usage: &'a Usage) -> Facts<'a> {
        Facts {
            now: NOW,
            tree: Some("train"),
            workflow_type: Some(&self.workflow_type),
            task_queue: Some(&self.task_queue),
            parameters: Some(&self.parameters),
            token_age: Some(3_600),
            address: Some([10, 1, 2, 3].into()),
            signed_in: None,
            second_factor: false,
            usage,
            approvals: &[],
        }
    }
}

fn engine(policies: usize) -> Result<Engine> {
    let compiler = Compiler::new()?;
    let compiled: Result<Vec<_>> = (0..policies)
        .map(|n| {
            let document: Document = serde_json::from_value(document(n))?;
            Ok(Arc::new(compiler.compile(&document, 1, &|_| None)?))
        })
        .collect();
    Ok(Engine::new(compiled?)?)
}

/// Most policies name an agent and a tool; some a role and a tag, some anybody, and one in a hundred
/// is a guardrail about everything.
fn document(n: usize) -> Value {
    let agent = json!({"agents": [format!("agent-{}", n % 200)]});
    let role = json!({"roles": [if n.is_multiple_of(2) { "user" } else { "auditor" }]});
    let tool = json!({"tools": [format!("tool-{}", n % 97)]});
    let tag = json!({"tags": [format!("tag-{}", n % 10)]});
    let guardrail = n % 100 == 19;
    let (who, what, effect) = match n % 20 {
        0..=12 => (agent, tool, "allow"),
        13..=15 => (role, tag, "allow"),
        16 => (role, tag, "deny"),
        17 => (agent, json!({"all": true}), "allow"),
        18 => (role, tool, "allow"),
        _ if guardrail => (json!({"anyone": true}), json!({"all": true}), "deny"),
        _ => (json!({"anyone": true}), tool, "deny"),
    };
    let mut document = json!({"name": format!("p{n}"), "effect": effect, "who": who, "what": what,
        "actions": ["execute"], "when": when(n, effect), "guardrail": guardrail});
    if !guardrail {
        document["band"] = json!([100, 300, 500, 900].get(n % 4));
    }
    if n % 5 == 3 && effect == "allow" {
        document["requests"] = json!([{"at_most": 100, "per": "hour", "of": "agent"}]);
    }
    document
}

/// Conditions in fifths; denials hold for few calls, or nothing would ever be allowed.
fn when(n: usize, effect: &str) -> Value {
    let allows = effect == "allow";
    let hours = if allows {
        ("08:00", "18:00")
    } else {
        ("22:00", "06:00")
    };
    let window = json!([{"zone": "Europe/Berlin", "days": ["mon", "tue", "wed", "thu", "fri"],
        "from": hours.0, "to": hours.1}]);
    let net = if allows { "10.0.0.0/8" } else { "192.0.2.0/24" };
    match n % 5 {
        0 | 3 => json!({"time": window}),
        1 => json!({"networks": {"any_of": [net, "198.51.100.0/24"]}}),
        2 => json!({"workflow_types": [if allows { "Release" } else { "Sync" }, "Deploy"]}),
        _ => json!({"parameters": [{"pointer": "/region",
            "one_of": [if allows { "eu-1" } else { "ap-1" }, format!("eu-{}", n % 50 + 2)]}]}),
    }
}
