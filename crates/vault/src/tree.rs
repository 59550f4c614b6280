//! Trees: opened, bound to a first run, stopped.

use crate::{
    RequestId, StartId, Transaction, Tree, TreeRow, TreeState, Vault, VaultError, VersionState,
    rows::token_place, storage::VersionRow,
};
use secrecy::ExposeSecret;
use std::collections::BTreeSet;
use xylem_audit::{Entry, Kind, NodeRun, Note, Verdict};
use xylem_grant::VerifiedGrant;
use xylem_ids::{AgentId, Namespace, RunId, ToolName, TreeId, WorkflowId};
use xylem_seal::{CipherKey, random_id};

/// The most trees a list answers at a time.
const MAX_PAGE: u32 = 500;

/// A tree that is about to be, or that runs already without a record.
#[derive(Debug, Clone)]
pub struct NewTree {
    /// Where it runs.
    pub namespace: Namespace,
    /// The root's workflow id.
    pub workflow_id: WorkflowId,
    /// Whether raw tokens are taken in from signals.
    pub intake: bool,
    /// The tools it may call.
    pub tools: BTreeSet<ToolName>,
    /// Who opens it.
    pub owner: AgentId,
    /// The same when the same tree is opened again.
    pub request: RequestId,
}

/// Which tree to stop.
#[derive(Debug, Clone)]
pub struct Stopping {
    /// The tree.
    pub tree: TreeId,
    /// Whether its workflows are to be terminated and not just cancelled. Once said it stays so.
    pub terminate: bool,
    /// Who stops it.
    pub by: AgentId,
    /// What they say about it, for the audit log.
    pub note: Option<Note>,
}

/// A tree that was bound to its root's first run.
#[derive(Debug, Clone)]
pub struct Bound {
    /// The tree.
    pub tree: TreeId,
    /// The grants of what was deposited before: to be signalled to the root.
    pub grants: Vec<VerifiedGrant>,
}

impl Vault {
    /// Opens a tree before its root is started. What is deposited in it cannot be redeemed before
    /// [`Vault::bind`]. The same request answers the same start.
    ///
    /// # Errors
    /// The request id was used for another workflow id or for a start that was given up, or the
    /// storage failed.
    pub async fn open_tree(&self, new: NewTree) -> Result<StartId, VaultError> {
        let mut tx = self.begin().await?;
        let known = tx.tree_by_request(&new.namespace, &new.request).await?;
        if let Some(known) = known {
            let known = self.derived.check_tree(known)?;
            return if known.tree.workflow_id != new.workflow_id {
                Err(VaultError::RequestReused)
            } else if known.tree.is_given_up() {
                Err(VaultError::GivenUp)
            } else {
                Ok(known.tree.start)
            };
        }
        let row = self.insert_tree(&mut *tx, new, TreeState::Starting).await?;
        tx.commit().await?;
        Ok(row.tree.start)
    }

    /// Binds a start to its root's first run: from here on its tokens can be redeemed. Binding it
    /// to the same run again changes nothing.
    ///
    /// # Errors
    /// The start is unknown, given up, or bound to another run; or that run is another tree's.
    pub async fn bind(&self, start: &StartId, first_run_id: RunId) -> Result<Bound, VaultError> {
        let mut tx = self.begin().await?;
        let row = self.start_in(&mut *tx, start).await?;
        match &row.tree.state {
            TreeState::Starting => {}
            TreeState::Bound { first_run_id: at } if *at == first_run_id => {
                return self.bound(&mut *tx, &row.tree).await;
            }
            TreeState::Bound { .. } => return Err(VaultError::BoundElsewhere),
            TreeState::Stopped { .. } => return Err(VaultError::Stopped),
        }
        let bound = self.bind_to(&mut *tx, row, first_run_id).await?;
        tx.commit().await?;
        Ok(bound)
    }

    /// Gives up a start whose root was never started, and destroys what was deposited in it.
    ///
    /// # Errors
    /// The start is unknown, or its root has started: stop the tree instead.
    pub async fn abandon(&self, start: &StartId, by: &AgentId) -> Result<(), VaultError> {
        let mut tx = self.begin().await?;
        let row = self.start_in(&mut *tx, start).await?;
        match row.tree.state {
            TreeState::Starting => {}
            TreeState::Bound { .. } => return Err(VaultError::BoundElsewhere),
            TreeState::Stopped { .. } => return Ok(()),
        }
        let entry = self.tree_entry(Kind::TreeAbandoned, &row.tree, by);
        self.destroy(&mut *tx, row, false).await?;
        tx.audit(&entry).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Makes the record of a tree that runs already: its root was started by somebody who did not
    /// ask. Adopting it again changes nothing.
    ///
    /// # Errors
    /// A start of the same workflow id is not bound yet: it may be the same root. Or the request id
    /// was used for another tree.
    pub async fn adopt(&self, new: NewTree, first_run_id: RunId) -> Result<Tree, VaultError> {
        let id = TreeId {
            namespace: new.namespace.clone(),
            workflow_id: new.workflow_id.clone(),
            first_run_id: first_run_id.clone(),
        };
        let mut tx = self.begin().await?;
        if let Some(known) = tx.tree_by_id(&id).await? {
            return Ok(self.derived.check_tree(known)?.tree);
        }
        if tx
            .tree_by_request(&id.namespace, &new.request)
            .await?
            .is_some()
        {
            return Err(VaultError::RequestReused);
        }
        let starting = tx.starting_trees().await?;
        if starting
            .iter()
            .any(|row| row.tree.namespace == id.namespace && row.tree.workflow_id == id.workflow_id)
        {
            return Err(VaultError::StillStarting);
        }
        let state = TreeState::Bound { first_run_id };
        let row = self.insert_tree(&mut *tx, new, state).await?;
        tx.commit().await?;
        Ok(row.tree)
    }

    /// Allows a tree more tools.
    ///
    /// # Errors
    /// The tree is unknown or stopped.
    pub async fn allow_tools(
        &self,
        tree: &TreeId,
        tools: BTreeSet<ToolName>,
        by: &AgentId,
    ) -> Result<Tree, VaultError> {
        self.change_tools(tree, by, |allowed| allowed.extend(tools))
            .await
    }

    /// Withdraws tools from a tree: no call to them begins from here on.
    ///
    /// # Errors
    /// The tree is unknown or stopped.
    pub async fn withdraw_tools(
        &self,
        tree: &TreeId,
        tools: &BTreeSet<ToolName>,
        by: &AgentId,
    ) -> Result<Tree, VaultError> {
        self.change_tools(tree, by, |allowed| {
            allowed.retain(|tool| !tools.contains(tool))
        })
        .await
    }

    /// Stops a tree: its tokens are revoked and destroyed, and nothing of it is redeemed from this
    /// moment, whatever leases are open. Stopping it again can only make a cancellation a
    /// termination; a note is written all the same.
    ///
    /// # Errors
    /// The tree is unknown.
    pub async fn stop(&self, stopping: Stopping) -> Result<Tree, VaultError> {
        let mut tx = self.begin().await?;
        let row = self.tree_in(&mut *tx, &stopping.tree).await?;
        let (tree, revoked) = if row.tree.is_bound() {
            let stopped = self.destroy(&mut *tx, row, stopping.terminate).await?;
            (stopped.0.tree, stopped.1)
        } else {
            let harsher = stopping.terminate && !row.tree.is_to_terminate();
            if !harsher && stopping.note.is_none() {
                return Ok(row.tree);
            }
            let row = self.stop_harder(&mut *tx, row, harsher).await?;
            (row.tree, 0)
        };
        let mut entry = self.tree_entry(Kind::TreeStopped, &tree, &stopping.by);
        entry.count = revoked.max(1);
        entry.note = stopping.note;
        tx.audit(&entry).await?;
        tx.commit().await?;
        Ok(tree)
    }

    /// The tree of this identity.
    ///
    /// # Errors
    /// It is unknown, or its row was edited.
    pub async fn tree(&self, id: &TreeId) -> Result<Tree, VaultError> {
        let mut tx = self.begin_read().await?;
        Ok(self.tree_in(&mut *tx, id).await?.tree)
    }

    /// The tree that was opened last under this workflow id: what people mean by the name. A start
    /// that was refused because the id is taken does not hide the tree that has it.
    ///
    /// # Errors
    /// There is none, or its row was edited.
    pub async fn find_tree(
        &self,
        namespace: &Namespace,
        workflow_id: &WorkflowId,
    ) -> Result<Tree, VaultError> {
        let mut tx = self.begin_read().await?;
        let row = tx.newest_tree(namespace, workflow_id).await?;
        let row = row.ok_or(VaultError::NotFound { what: "tree" })?;
        Ok(self.derived.check_tree(row)?.tree)
    }

    /// Trees of a namespace, the one that was opened last first, beginning after `after`; at most
    /// 500.
    ///
    /// # Errors
    /// The storage failed, or a row was edited.
    pub async fn trees(
        &self,
        namespace: &Namespace,
        after: Option<&StartId>,
        limit: u32,
    ) -> Result<Vec<Tree>, VaultError> {
        let mut tx = self.begin_read().await?;
        let rows = tx.trees(namespace, after, limit.clamp(1, MAX_PAGE)).await?;
        self.checked_trees(rows)
    }

    /// Starts that are neither bound nor given up, oldest first: what a crash may have left.
    ///
    /// # Errors
    /// The storage failed, or a row was edited.
    pub async fn starting(&self) -> Result<Vec<Tree>, VaultError> {
        let mut tx = self.begin_read().await?;
        let rows = tx.starting_trees().await?;
        self.checked_trees(rows)
    }

    fn checked_trees(&self, rows: Vec<TreeRow>) -> Result<Vec<Tree>, VaultError> {
        rows.into_iter()
            .map(|row| self.derived.check_tree(row).map(|row| row.tree))
            .collect()
    }

    async fn insert_tree(
        &self,
        tx: &mut dyn Transaction,
        new: NewTree,
        state: TreeState,
    ) -> Result<TreeRow, VaultError> {
        let start: StartId = random_id()?.parse().map_err(|_| VaultError::Crypto)?;
        let data_key = self.new_data_key(tx, &start).await?;
        let tree = Tree {
            start,
            namespace: new.namespace,
            workflow_id: new.workflow_id,
            state,
            intake: new.intake,
            tools: new.tools,
            owner: new.owner,
            opened_at: self.seconds(),
            request: new.request,
        };
        let entry = self.tree_entry(Kind::TreeOpened, &tree, &tree.owner);
        let row = self.derived.seal_tree(tree, Some(data_key));
        tx.put_tree(&row).await?;
        tx.audit(&entry).await?;
        Ok(row)
    }

    async fn bind_to(
        &self,
        tx: &mut dyn Transaction,
        row: TreeRow,
        first_run_id: RunId,
    ) -> Result<Bound, VaultError> {
        let key = self.data_key(tx, &row).await?;
        let mut bound = row.tree.clone();
        bound.state = TreeState::Bound { first_run_id };
        if let Some(id) = bound.id()
            && tx.tree_by_id(&id).await?.is_some()
        {
            return Err(VaultError::BoundElsewhere);
        }
        for version in tx.versions(&row.tree.start).await? {
            let version = self.derived.check_version(version)?;
            self.rebind(tx, &key, &row.tree, &bound, version).await?;
        }
        let new = self.derived.seal_tree(bound, row.data_key);
        tx.put_tree(&new).await?;
        let owner = new.tree.owner.clone();
        tx.audit(&self.tree_entry(Kind::TreeBound, &new.tree, &owner))
            .await?;
        self.bound(tx, &new.tree).await
    }

    /// Moves a version's ciphertext to its place in the bound tree, and signs its grant.
    async fn rebind(
        &self,
        tx: &mut dyn Transaction,
        key: &CipherKey,
        from: &Tree,
        to: &Tree,
        version: VersionRow,
    ) -> Result<(), VaultError> {
        let mut secret = None;
        if version.secret.is_some() {
            let token = self.open_token(tx, key, from, &version).await?;
            let place = token_place(to, &version.info, key.id());
            let stored = self.store_token(tx, key, &place, token.expose_secret());
            secret = Some(stored.await?);
        }
        let mut info = version.info;
        if let (VersionState::Active, Some(tree)) = (info.state, to.id()) {
            info.epoch = self.epoch_in(tx).await?;
            self.issuers_in(tx).await?.sign(&tree, &mut info)?;
        }
        tx.put_version(&self.derived.seal_version(info, secret))
            .await?;
        if let Some(old) = &version.secret {
            tx.delete_secret(old).await?;
        }
        Ok(())
    }

    async fn bound(&self, tx: &mut dyn Transaction, tree: &Tree) -> Result<Bound, VaultError> {
        let id = tree.id().ok_or(VaultError::NotFound { what: "tree" })?;
        let grants = self.grants_in(tx, &tree.start).await?;
        Ok(Bound { tree: id, grants })
    }

    /// Gives a tree another owner.
    ///
    /// # Errors
    /// There is no such tree, it was stopped, or the storage failed.
    pub async fn transfer(
        &self,
        tree: &TreeId,
        to: AgentId,
        entry: Entry,
    ) -> Result<Tree, VaultError> {
        let mut tx = self.begin().await?;
        let row = self.living_tree(&mut *tx, tree).await?;
        let mut changed = row.tree;
        changed.owner = to;
        let row = self.derived.seal_tree(changed, row.data_key);
        tx.put_tree(&row).await?;
        let mut entry = entry.of_tree(tree);
        entry.owner = Some(row.tree.owner.clone());
        tx.audit(&entry).await?;
        tx.commit().await?;
        Ok(row.tree)
    }

    async fn change_tools(
        &self,
        tree: &TreeId,
        by: &AgentId,
        change: impl FnOnce(&mut BTreeSet<ToolName>) + Send,
    ) -> Result<Tree, VaultError> {
        let mut tx = self.begin().await?;
        let row = self.living_tree(&mut *tx, tree).await?;
        let mut changed = row.tree;
        change(&mut changed.tools);
        let row = self.derived.seal_tree(changed, row.data_key);
        tx.put_tree(&row).await?;
        tx.audit(&self.tree_entry(Kind::ToolsAllowed, &row.tree, by))
            .await?;
        tx.commit().await?;
        Ok(row.tree)
    }

    /// Revokes every version, destroys the ciphertexts and the data key, and answers how many
    /// versions that were.
    async fn destroy(
        &self,
        tx: &mut dyn Transaction,
        row: TreeRow,
        terminate: bool,
    ) -> Result<(TreeRow, u64), VaultError> {
        let now = self.seconds();
        let mut revoked: u64 = 0;
        for version in tx.versions(&row.tree.start).await? {
            let version = self.derived.check_version(version)?;
            if version.info.state != VersionState::Revoked {
                self.destroy_version(tx, version).await?;
                revoked = revoked.saturating_add(1);
            }
        }
        let mut tree = row.tree;
        tree.state = TreeState::Stopped {
            first_run_id: tree.state.first_run_id().cloned(),
            at: now,
            terminate,
        };
        let stopped = self.derived.seal_tree(tree, None);
        tx.put_tree(&stopped).await?;
        if let Some(key) = &row.data_key {
            tx.delete_key(key).await?;
        }
        Ok((stopped, revoked))
    }

    /// Notes that a stopped tree's workflows are to be terminated, where that is new.
    async fn stop_harder(
        &self,
        tx: &mut dyn Transaction,
        row: TreeRow,
        harsher: bool,
    ) -> Result<TreeRow, VaultError> {
        let mut tree = row.tree;
        if let TreeState::Stopped { terminate, .. } = &mut tree.state {
            *terminate |= harsher;
        }
        let row = self.derived.seal_tree(tree, row.data_key);
        tx.put_tree(&row).await?;
        Ok(row)
    }

    pub(crate) fn tree_entry(&self, kind: Kind, tree: &Tree, by: &AgentId) -> Entry {
        let mut entry = self.entry(kind, Verdict::Succeeded, by);
        entry.namespace = Some(tree.namespace.clone());
        entry.tree = tree.id();
        entry.node = Some(NodeRun {
            workflow_id: tree.workflow_id.clone(),
            run_id: None,
        });
        entry
    }
}
