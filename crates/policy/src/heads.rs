//! Which policies are about somebody and something, found without a look at each of them.

use crate::{Ask, compile::Head};
use std::{collections::HashMap, iter};
use xylem_ids::{AgentId, Role, ToolName, ToolTag};

/// Places of policies in their order, by what they are about.
#[derive(Default)]
pub(crate) struct Heads {
    everything: Named,
    tools: HashMap<ToolName, Named>,
    tags: HashMap<ToolTag, Named>,
}

/// And by whom they name.
#[derive(Default)]
struct Named {
    anyone: Vec<u32>,
    agents: HashMap<AgentId, Vec<u32>>,
    roles: HashMap<Role, Vec<u32>>,
}

impl Heads {
    /// Adds the policy at this place.
    pub(crate) fn add(&mut self, at: u32, head: &Head) {
        if head.everything {
            self.everything.add(at, head);
        }
        for tool in &head.tools {
            self.tools.entry(tool.clone()).or_default().add(at, head);
        }
        for tag in &head.tags {
            self.tags.entry(tag.clone()).or_default().add(at, head);
        }
    }

    /// The places of those that name this agent or one of its roles, and this tool or one of its tags:
    /// in their order, each once.
    pub(crate) fn naming(&self, ask: &Ask<'_>) -> Vec<u32> {
        let tools = ask.resource.tools().iter().flat_map(|tool| {
            let tags = tool.tags.iter().filter_map(|tag| self.tags.get(tag));
            tags.chain(self.tools.get(&tool.name))
        });
        let about = iter::once(&self.everything).chain(tools);
        let mut found: Vec<u32> = about.flat_map(|named| named.naming(ask)).collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

impl Named {
    fn add(&mut self, at: u32, head: &Head) {
        if head.anyone {
            self.anyone.push(at);
        }
        for agent in &head.agents {
            self.agents.entry(agent.clone()).or_default().push(at);
        }
        for role in &head.roles {
            self.roles.entry(*role).or_default().push(at);
        }
    }

    fn naming<'a>(&'a self, ask: &'a Ask<'_>) -> impl Iterator<Item = u32> + 'a {
        let roles = ask.roles.iter().filter_map(|role| self.roles.get(role));
        let named = roles.chain(self.agents.get(ask.agent));
        iter::once(&self.anyone).chain(named).flatten().copied()
    }
}
