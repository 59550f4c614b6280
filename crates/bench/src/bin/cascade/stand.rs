//! One measurement set up: a fresh server and worker, a tree, and beside it the limit, as many
//! idle workflows that are each the root of a tree of its own.

use crate::{
    forest::{Added, Forest},
    shape::{Node, Role, Shape},
    worker::{QUEUE, Worker},
};
use anyhow::{Result, ensure};
use futures::{StreamExt, TryStreamExt};
use std::time::{Duration, Instant};
use temporalio_client::Client;
use xylem_grant::VerifiedGrant;
use xylem_testkit::{BareTree, Settings, TemporalServer};
use xylem_workflows::ToolTreeInput;

/// Signals of the limit in flight, as many as a forward has.
const IN_FLIGHT: usize = 32;

/// The id of the tree's root.
const ROOT: &str = "tree";

/// The server as `xylem dev` starts it, but in memory. At the dev server's own setting of 20 polls
/// of the transfer queue per second, every level of a tree waits up to 50 ms more (our measurement,
/// Temporal server 1.32).
pub(crate) const SERVER: Settings = Settings {
    database: None,
    search_attribute: true,
    fast_transfer_queue: true,
    suggest_continue_as_new: None,
};

/// What is measured on.
pub(crate) struct Stand {
    // Dropped first: a worker without its server complains.
    worker: Worker,
    tree: BareTree,
    /// The tree's nodes.
    pub(crate) nodes: Forest,
    roots: Vec<BareTree>,
    /// The limit's workflows.
    idle: Forest,
    upsert: bool,
    /// What the worker keeps in memory for one workflow.
    pub(crate) bytes_per_workflow: u64,
    _server: TemporalServer,
}

impl Stand {
    /// Starts everything and brings it to version 1.
    pub(crate) async fn start(shape: &Shape, upsert: bool) -> Result<Self> {
        let server = TemporalServer::start_with(&SERVER).await?;
        let worker = Worker::start(&server.address())?;
        let client = server.client();
        // The first workflow makes the worker allocate what it needs anyway.
        let first = root(&client, "first", &ToolTreeInput::default(), upsert).await?;
        first.rotate(1).await?;
        let mut firsts = Forest::new(client.clone(), roots_named(&["first".to_owned()]));
        firsts.settled(|added| added.signaled.is_some()).await?;
        let before = worker.memory()?;

        let tree = root(&client, ROOT, &shape.input(), upsert).await?;
        let mut nodes = Forest::new(client.clone(), shape.nodes(ROOT));
        nodes.settled(|_| true).await?;
        let ids: Vec<String> = (0..nodes.nodes.len())
            .map(|n| format!("idle-{n}"))
            .collect();
        let starts = ids
            .iter()
            .map(|id| async { root(&client, id, &ToolTreeInput::default(), upsert).await });
        let starts = futures::stream::iter(starts).buffered(IN_FLIGHT);
        let roots: Vec<BareTree> = starts.try_collect().await?;
        let mut idle = Forest::new(client.clone(), roots_named(&ids));
        idle.settled(|_| true).await?;

        let mut stand = Self {
            worker,
            tree,
            nodes,
            roots,
            idle,
            upsert,
            bytes_per_workflow: 0,
            _server: server,
        };
        stand.rotate_tree(1).await?;
        stand.rotate_idle(1).await?;
        let more = stand.worker.memory()?.saturating_sub(before);
        stand.bytes_per_workflow = more / (2 * u64::try_from(ids.len())?);
        Ok(stand)
    }

    /// One rotation of the tree: what it adds to each node.
    pub(crate) async fn rotate_tree(&mut self, version: u32) -> Result<Vec<Added>> {
        self.worker.check()?;
        self.tree.rotate(version).await?;
        let all = self.nodes.settled(|added| added.signaled.is_some()).await?;
        self.hold(&all, version)?;
        Ok(all)
    }

    /// The limit: the same number of workflows, each signalled by this client.
    pub(crate) async fn rotate_idle(&mut self, version: u32) -> Result<Vec<Added>> {
        self.worker.check()?;
        let grants = self.roots.iter().map(|root| root.grant(version));
        let grants: Vec<VerifiedGrant> = grants.collect::<Result<_>>()?;
        let due = self.roots.iter().zip(&self.idle.nodes).zip(&grants);
        let signals = due.map(|((root, node), grant)| root.signal(&node.id, grant));
        let signals = futures::stream::iter(signals).buffer_unordered(IN_FLIGHT);
        signals.try_collect::<()>().await?;
        let all = self.idle.settled(|added| added.signaled.is_some()).await?;
        self.hold(&all, version)?;
        Ok(all)
    }

    /// So many rotations of the tree as fast as they can be sent, from `first` on: how long
    /// sending took, and what they added to each node.
    pub(crate) async fn burst(
        &mut self,
        first: u32,
        rotations: u32,
    ) -> Result<(Duration, Vec<Added>)> {
        let last = first + rotations - 1;
        let grants = (first..=last).map(|version| self.tree.grant(version));
        let grants: Vec<VerifiedGrant> = grants.collect::<Result<_>>()?;
        let begin = Instant::now();
        let signals = grants.iter().map(|grant| self.tree.signal(ROOT, grant));
        let signals = futures::stream::iter(signals).buffer_unordered(IN_FLIGHT);
        signals.try_collect::<()>().await?;
        let sending = begin.elapsed();
        let held = [format!("default@{last}")];
        let all = self.nodes.settled(|added| added.held == held).await?;
        Ok((sending, all))
    }

    fn hold(&self, all: &[Added], version: u32) -> Result<()> {
        let held = [format!("default@{version}")];
        let behind = all.iter().filter(|added| added.held != held).count();
        ensure!(
            !self.upsert || behind == 0,
            "{behind} nodes are not at version {version}"
        );
        Ok(())
    }

    /// Asks every node of the tree for its version. Where nothing is upserted that is the only way
    /// to know; it is done when everything has been measured.
    pub(crate) async fn ask(&self, version: u32) -> Result<()> {
        for node in &self.nodes.nodes {
            let held = self.tree.version(&node.id).await?;
            ensure!(
                held == Some(version),
                "{} is at version {held:?}, not {version}",
                node.id
            );
        }
        Ok(())
    }
}

async fn root(client: &Client, id: &str, input: &ToolTreeInput, upsert: bool) -> Result<BareTree> {
    if upsert {
        BareTree::start(client, QUEUE, "ToolTree", id, input).await
    } else {
        BareTree::without_search_attribute(client, QUEUE, "ToolTree", id, input).await
    }
}

fn roots_named(ids: &[String]) -> Vec<Node> {
    let node = |id: &String| Node {
        id: id.clone(),
        role: Role::Root,
    };
    ids.iter().map(node).collect()
}
