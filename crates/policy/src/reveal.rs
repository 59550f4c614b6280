//! Break-glass: whether somebody may be shown a token.
//!
//! A policy has to allow the action `reveal`; that alone is never enough. Whoever is shown a token has
//! signed in with a second factor, just now.

use crate::{
    Action, Ask, By, Denied, Facts, Policies, PolicyError, Resource, ToolFacts, Usage,
    storage::Rows,
};
use std::net::IpAddr;
use xylem_ids::{AgentId, Slot, TreeId};

/// How long ago the caller may have signed in, in seconds.
const FRESH: u64 = 5 * 60;

/// Who wants to see which token.
#[derive(Debug, Clone, Copy)]
pub struct Reveal<'a> {
    /// Who.
    pub agent: &'a AgentId,
    /// The tree.
    pub tree: &'a TreeId,
    /// The slot.
    pub slot: &'a Slot,
    /// The tools of the tree that are called with it: what policies say about them counts.
    pub tools: &'a [ToolFacts],
    /// Now, in seconds since 1970.
    pub now: u64,
    /// Where the caller is.
    pub address: Option<IpAddr>,
    /// Seconds since the caller signed in; none for a key.
    pub signed_in: Option<u64>,
    /// Whether it did with a second factor.
    pub second_factor: bool,
    /// Seconds since the version of the token was deposited.
    pub token_age: Option<u64>,
}

/// Proof that somebody may be shown the token of one slot. Only [`Policies::permit_reveal`] makes one.
///
/// ```compile_fail,E0451
/// fn forge(tree: xylem_ids::TreeId, slot: xylem_ids::Slot, by: xylem_policy::By) {
///     xylem_policy::RevealPermit { tree, slot, by };
/// }
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct RevealPermit {
    tree: TreeId,
    slot: Slot,
    by: By,
}

impl RevealPermit {
    /// The tree it was made for.
    #[must_use]
    pub fn tree(&self) -> &TreeId {
        &self.tree
    }

    /// The slot whose token may be shown.
    #[must_use]
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// What allowed it.
    #[must_use]
    pub fn by(&self) -> &By {
        &self.by
    }
}

impl Policies {
    /// Decides whether somebody may be shown a token, in the transaction that opens it.
    ///
    /// # Errors
    /// Nothing can be decided: policies are not what was written, or the storage failed.
    pub async fn permit_reveal(
        &self,
        rows: &mut dyn Rows,
        reveal: Reveal<'_>,
    ) -> Result<Result<RevealPermit, Denied>, PolicyError> {
        if !reveal.second_factor {
            return Ok(Err(Denied::NoSecondFactor));
        }
        if reveal.signed_in.is_none_or(|seconds| seconds > FRESH) {
            return Ok(Err(Denied::SignedInTooLongAgo));
        }
        let namespace = &reveal.tree.namespace;
        let loaded = self.current(rows, namespace).await?;
        let known = self.agent(rows, namespace, reveal.agent).await?;
        let id = format!("{}/{}", reveal.tree.workflow_id, reveal.slot);
        let ask = Ask {
            agent: reveal.agent,
            kind: known.kind.code(),
            roles: &known.roles,
            action: Action::Reveal,
            resource: Resource::Credential {
                id: &id,
                tools: reveal.tools,
            },
        };
        let approvals = self.approvals(rows, namespace, &ask, reveal.now).await?;
        let facts = Facts {
            now: reveal.now,
            tree: Some(reveal.tree.workflow_id.as_str()),
            workflow_type: None,
            task_queue: None,
            parameters: None,
            token_age: reveal.token_age,
            address: reveal.address,
            signed_in: reveal.signed_in,
            second_factor: reveal.second_factor,
            usage: &Usage::default(),
            approvals: &approvals,
        };
        Ok(match loaded.engine.decide(&ask, &facts) {
            Ok(allowed) => Ok(RevealPermit {
                tree: reveal.tree.clone(),
                slot: reveal.slot.clone(),
                by: allowed.by,
            }),
            Err(refused) => Err(refused.into()),
        })
    }
}
