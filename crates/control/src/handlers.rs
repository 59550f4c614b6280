//! One handler per call. Each file has the calls of one service.

mod access;
mod accounts;
mod agents;
mod alerts;
mod audit;
mod credentials;
mod grants;
mod personal;
mod policies;
mod system;
mod tokens;
mod tools;
mod trees;
mod usage;
mod workers;

pub(crate) use credentials::state as credential_state;
pub(crate) use tools::wire_definition;

use crate::{
    caller::{Reach, carried, check_reach, during_call, reach},
    fault::Fault,
    plane::Plane,
    temporal::TemporalError,
};
use futures::StreamExt;
use std::{pin::Pin, sync::Arc};
use tokio::sync::mpsc::Receiver;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};
use xylem_audit::{Entry, Kind, Verdict};
use xylem_identity::Principal;
use xylem_ids::{AgentId, TreeId, WorkflowId};
use xylem_proto::v1;
use xylem_vault::{NewTree, RequestId, Tree, Worker};

/// A stream of answers.
pub(crate) type Answers<T> =
    Pin<Box<dyn futures::Stream<Item = Result<T, Status>> + Send + 'static>>;

/// Turns what a handler came to into what tonic sends.
fn answer<T>(result: Result<T, Fault>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(Status::from)
}

/// The caller as the vault knows workers.
fn worker(principal: &Principal) -> Worker {
    Worker {
        agent: principal.agent().clone(),
        queues: principal.queues().clone(),
    }
}

/// The id that makes a request harmless to repeat. It belongs to its agent: another one's same id
/// is another request.
fn request(principal: &Principal, given: &str, part: &str) -> Result<RequestId, Fault> {
    let own = if given.is_empty() {
        uuid::Uuid::new_v4().to_string()
    } else {
        given.to_owned()
    };
    // The agent's name has at most 100 characters, a part at most 41.
    if own.len() > 56 {
        let rule = "request_id must be at most 56 printable characters";
        return Err(Fault::invalid("request_id", rule));
    }
    let text = format!("{}/{own}{part}", principal.agent());
    text.parse()
        .map_err(|_| Fault::invalid("request_id", "request_id must be printable"))
}

impl Plane {
    /// Carries something to its end, also where whoever asked for it goes away or waits no longer: what it
    /// has changed elsewhere cannot be taken back.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Fault>> + Send + 'static,
    ) -> Result<T, Fault> {
        let task = self.tasks.spawn(carried(work));
        task.await.map_err(Fault::internal)?
    }

    /// The entry of a change that the caller makes now.
    fn change(&self, kind: Kind) -> Entry {
        during_call(Entry::new(self.now(), kind, Verdict::Succeeded))
    }

    /// What is sent on a channel, until the server stops: then the caller is told to ask again,
    /// another instance or this one's successor.
    fn answers<T: Send + 'static>(&self, receive: Receiver<Result<T, Status>>) -> Answers<T> {
        let stopping = self.stopping.clone();
        let answers = ReceiverStream::new(receive).take_until(stopping.clone().cancelled_owned());
        let last = futures::stream::once(async move {
            let stopped = stopping.is_cancelled();
            stopped.then(|| Err(Status::from(Fault::stopping())))
        });
        Box::pin(answers.chain(last.filter_map(std::future::ready)))
    }

    /// The tree that people mean by its root's workflow id, whoever's it is.
    async fn anybodys_tree(&self, name: &str) -> Result<Tree, Fault> {
        let workflow_id: WorkflowId = crate::convert::id(name.to_owned(), "tree")?;
        let namespace = &self.settings.namespace;
        Ok(self.vault.find_tree(namespace, &workflow_id).await?)
    }

    /// The same, as far as the caller may see it.
    async fn named_tree(&self, name: &str) -> Result<Tree, Fault> {
        let tree = self.anybodys_tree(name).await?;
        check_reach(&tree.owner, "tree")?;
        Ok(tree)
    }

    /// The identity of a tree whose root has started.
    async fn named_id(&self, name: &str) -> Result<TreeId, Fault> {
        started(&self.named_tree(name).await?)
    }

    /// As [`Plane::named_id`]; a root that somebody started without asking becomes a tree here,
    /// because it is given something.
    async fn named_or_adopted(&self, name: &str) -> Result<TreeId, Fault> {
        let known = self.named_id(name).await;
        if reach()? == Reach::Own {
            return known;
        }
        let workflow_id: WorkflowId = crate::convert::id(name.to_owned(), "tree")?;
        let running = match self.temporal.describe(&workflow_id, None).await {
            Ok(found) if found.execution.status.is_open() => found.execution,
            Ok(_) | Err(TemporalError::NotFound) => return known,
            // A known tree is given it all the same; whether an unknown root runs is not guessed.
            Err(error) => return known.map_err(|_| error.into()),
        };
        let first = running
            .first_run_id
            .filter(|_| running.root.0 == workflow_id);
        match (known, first) {
            (Ok(id), Some(first)) if id.first_run_id == first => Ok(id),
            (_, Some(first)) => {
                let tree = self.adopt(workflow_id, first).await?;
                tree.id().ok_or_else(|| Fault::not_found("tree"))
            }
            (known, None) => known,
        }
    }

    /// Makes the record of a tree whose root runs already.
    async fn adopt(
        &self,
        workflow_id: WorkflowId,
        first_run_id: xylem_ids::RunId,
    ) -> Result<Tree, Fault> {
        let request = format!("adopt/{first_run_id}");
        let new = NewTree {
            namespace: self.settings.namespace.clone(),
            workflow_id,
            intake: self.settings.intake_adopted,
            tools: std::collections::BTreeSet::new(),
            owner: self.system.clone(),
            request: request.parse().map_err(|_| Fault::not_found("tree"))?,
        };
        Ok(self.vault.adopt(new, first_run_id).await?)
    }

    /// A tree with the newest version of each of its slots.
    async fn wire_tree(&self, tree: Tree) -> Result<v1::Tree, Fault> {
        let now = self.now();
        let mut newest = std::collections::BTreeMap::new();
        if let Some(id) = tree.id() {
            for status in self.vault.status(&id).await? {
                // In the order of their numbers: the last of a slot stays.
                newest.insert(status.info.slot.clone(), status);
            }
        }
        let newest = newest
            .into_values()
            .map(|status| crate::convert::version_status(status, now))
            .collect();
        let adopted = self.is_system(&tree.owner);
        Ok(crate::convert::tree(tree, newest, adopted))
    }

    fn is_system(&self, agent: &AgentId) -> bool {
        *agent == self.system
    }
}

fn started(tree: &Tree) -> Result<TreeId, Fault> {
    tree.id().ok_or_else(|| {
        Fault::refused(
            "tree_starting",
            "the tree's root has not started yet, or its start failed: try again in a minute",
        )
    })
}

/// Handlers that leave work behind need the plane in an [`Arc`].
#[derive(Debug, Clone)]
pub(crate) struct Handlers(pub(crate) Arc<Plane>);

impl std::ops::Deref for Handlers {
    type Target = Arc<Plane>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// Names the page after a full one by its last item.
fn next<T>(items: &[T], size: u32, name: impl Fn(&T) -> String) -> String {
    let full = u32::try_from(items.len()).is_ok_and(|length| length == size);
    items.last().filter(|_| full).map(name).unwrap_or_default()
}
