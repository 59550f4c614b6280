//! Whether somebody may change what another agent owns.

use crate::{Action, Ask, By, Denied, Facts, Policies, PolicyError, Resource, ToolFacts, Usage};
use std::net::IpAddr;
use xylem_ids::{AgentId, Namespace};

/// Who wants to change which tool.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// Who.
    pub agent: &'a AgentId,
    /// The tool, as it is before.
    pub tool: &'a ToolFacts,
    /// Now, in seconds since 1970.
    pub now: u64,
    /// Where the caller is.
    pub address: Option<IpAddr>,
    /// Seconds since the caller signed in; none for a key.
    pub signed_in: Option<u64>,
    /// Whether it did with a second factor.
    pub second_factor: bool,
}

impl Policies {
    /// Decides whether somebody who does not own a tool may change it: a policy has to allow the action
    /// `admin`.
    ///
    /// # Errors
    /// Nothing can be decided: policies are not what was written, or the storage failed.
    pub async fn permit_change(
        &self,
        namespace: &Namespace,
        change: Change<'_>,
    ) -> Result<Result<By, Denied>, PolicyError> {
        let mut rows = self.storage.begin_look().await?;
        let loaded = self.current(&mut *rows, namespace).await?;
        let known = self.agent(&mut *rows, namespace, change.agent).await?;
        let ask = Ask {
            agent: change.agent,
            kind: known.kind.code(),
            roles: &known.roles,
            action: Action::Admin,
            resource: Resource::Tool(change.tool),
        };
        let approvals = self.approvals(&mut *rows, namespace, &ask, change.now);
        let approvals = approvals.await?;
        let facts = Facts {
            now: change.now,
            tree: None,
            workflow_type: None,
            task_queue: None,
            parameters: None,
            token_age: None,
            address: change.address,
            signed_in: change.signed_in,
            second_factor: change.second_factor,
            usage: &Usage::default(),
            approvals: &approvals,
        };
        let decided = loaded.engine.decide(&ask, &facts);
        Ok(decided.map(|allowed| allowed.by).map_err(Denied::from))
    }
}
