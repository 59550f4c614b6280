//! Which policies are about somebody and something, found without a look at each of them.

use crate::{Action, Ask, compile::Head};
use std::{
    collections::{BTreeMap, HashMap},
    iter,
};
use xylem_ids::{AgentId, Role, ToolName, ToolTag};

/// Places of policies in their order, by what they let do or keep from being done.
#[derive(Default)]
pub(crate) struct Heads(BTreeMap<Action, About>);

/// And by what they are about.
#[derive(Default)]
struct About {
    everything: Named,
    tools: HashMap<ToolName, Named>,
    tags: HashMap<ToolTag, Named>,
}

/// And by whom they name.
#[derive(Default)]
struct Named {
    anyone: Vec<u32>,
    agents: HashMap<AgentId, Vec<u32>>,
    roles: BTreeMap<Role, Vec<u32>>,
}

impl Heads {
    /// Adds the policy at this place.
    pub(crate) fn add(&mut self, at: u32, head: &Head) {
        for action in &head.actions {
            self.0.entry(*action).or_default().add(at, head);
        }
    }

    /// The places of those that name the action, the agent or one of its roles, and the tool or one of
    /// its tags: in their order, each once.
    pub(crate) fn naming(&self, ask: &Ask<'_>) -> Vec<u32> {
        let about = self.0.get(&ask.action).into_iter();
        let mut found: Vec<u32> = about.flat_map(|about| about.naming(ask)).collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}

impl About {
    fn add(&mut self, at: u32, head: &Head) {
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

    fn naming<'a>(&'a self, ask: &'a Ask<'_>) -> impl Iterator<Item = u32> + 'a {
        let tools = ask.resource.tools().iter().flat_map(|tool| {
            let tags = tool.tags.iter().filter_map(|tag| self.tags.get(tag));
            tags.chain(self.tools.get(&tool.name))
        });
        let about = iter::once(&self.everything).chain(tools);
        about.flat_map(|named| named.naming(ask))
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
