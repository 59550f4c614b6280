//! Exclusions: what a node may not redeem although its type declares it.

use crate::{ConfirmedClaims, Refusal, SlotRow, StartId, Transaction, Vault, VaultError, Worker};
use xylem_audit::{Entry, Kind, NodeRun, Verdict};
use xylem_ids::{AgentId, Slot, TreeId, WorkflowId};

/// A node that may not redeem a slot. Named by workflow id: its first run may not exist yet. It is
/// excluded while at least one exclusion names it, whoever made that.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Exclusion {
    /// The node.
    pub workflow_id: WorkflowId,
    /// Whether everything below it is excluded too.
    pub subtree: bool,
    /// Who made it, and may therefore lift it.
    pub by: ExcludedBy,
}

/// Who made an exclusion.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExcludedBy {
    /// Somebody who may operate the tree.
    Operator,
    /// A node of the tree: its workflow id and those of all above it, its parent first, the root
    /// last. A workflow that takes its id elsewhere in the tree is not that node.
    Node(Vec<WorkflowId>),
}

impl ExcludedBy {
    fn node(claims: &ConfirmedClaims) -> Self {
        let mut path = vec![claims.claims().workflow_id.clone()];
        path.extend_from_slice(claims.ancestors());
        Self::Node(path)
    }

    /// Whether this one may lift and replace what `maker` made: what it made itself, and what a
    /// node below it made. An operator may lift everything.
    fn may_lift(&self, maker: &Self) -> bool {
        match (self, maker) {
            (Self::Operator, _) => true,
            (Self::Node(own), Self::Node(path)) => path.ends_with(own),
            (Self::Node(_), Self::Operator) => false,
        }
    }
}

impl Exclusion {
    /// Whether a node, with these workflows above it, may not redeem.
    #[must_use]
    pub fn covers(&self, node: &WorkflowId, ancestors: &[WorkflowId]) -> bool {
        self.workflow_id == *node || (self.subtree && ancestors.contains(&self.workflow_id))
    }
}

/// A change of what a node may redeem.
#[derive(Debug, Clone)]
pub struct Selection {
    /// The node.
    pub node: WorkflowId,
    /// Slots it may not redeem from now on.
    pub exclude: Vec<Slot>,
    /// Slots it may redeem again.
    pub include: Vec<Slot>,
    /// Whether an exclusion covers everything below it too.
    pub subtree: bool,
}

/// Who changes a selection.
#[derive(Debug)]
pub enum SelectedBy {
    /// Somebody who may operate the tree.
    Agent(AgentId),
    /// A node of the tree, for what is below it.
    Node(Box<ConfirmedClaims>, Worker),
}

impl SelectedBy {
    fn agent(&self) -> &AgentId {
        match self {
            Self::Agent(agent) => agent,
            Self::Node(_, worker) => &worker.agent,
        }
    }

    fn maker(&self) -> ExcludedBy {
        match self {
            Self::Agent(_) => ExcludedBy::Operator,
            Self::Node(claims, _) => ExcludedBy::node(claims),
        }
    }
}

/// Whether one of these covers the node.
pub(crate) fn excluded(
    exclusions: &[Exclusion],
    node: &WorkflowId,
    ancestors: &[WorkflowId],
) -> bool {
    exclusions
        .iter()
        .any(|exclusion| exclusion.covers(node, ancestors))
}

impl Vault {
    /// Records what a node may and may not redeem. It counts once this returns. Recording the same
    /// again changes nothing. An exclusion is lifted by who made it, by a node above that one, or by
    /// an operator; everybody else's stay beside it.
    ///
    /// # Errors
    /// The tree is unknown or stopped, or a node reaches for itself, for what is above it, for a
    /// slot it is excluded from, or for what somebody else excluded. What could be recorded counts
    /// all the same.
    pub async fn select(
        &self,
        tree: &TreeId,
        selection: &Selection,
        by: &SelectedBy,
    ) -> Result<(), VaultError> {
        let mut tx = self.begin().await?;
        match self.select_in(&mut *tx, tree, selection, by).await {
            Ok(()) => Ok(tx.commit().await?),
            Err(VaultError::Refused(refusal)) => {
                let entry = self.selection_entry(Kind::Include, tree, selection, by);
                let mut entry = entry.because(refusal.code());
                entry.verdict = Verdict::Denied;
                tx.audit(&entry).await?;
                tx.commit().await?;
                Err(refusal.into())
            }
            Err(other) => Err(other),
        }
    }

    /// Who is excluded from what.
    ///
    /// # Errors
    /// The tree is unknown, or a row was edited.
    pub async fn exclusions(&self, tree: &TreeId) -> Result<Vec<(Slot, Exclusion)>, VaultError> {
        let mut tx = self.begin_read().await?;
        let owner = self.tree_in(&mut *tx, tree).await?;
        let mut found = Vec::new();
        for row in tx.slots(&owner.tree.start).await? {
            let row = self.derived.check_slot(row)?;
            let slot = row.slot;
            found.extend(row.exclusions.into_iter().map(|e| (slot.clone(), e)));
        }
        Ok(found)
    }

    async fn select_in(
        &self,
        tx: &mut dyn Transaction,
        tree: &TreeId,
        selection: &Selection,
        by: &SelectedBy,
    ) -> Result<(), VaultError> {
        let start = match by {
            SelectedBy::Agent(_) => self.living_tree(tx, tree).await?.tree.start,
            SelectedBy::Node(claims, worker) => {
                let row = self.entitled_tree(tx, claims, worker).await?;
                check_below(tree, selection, claims)?;
                row.tree.start
            }
        };
        let maker = by.maker();
        for slot in &selection.exclude {
            let row = self.slot_in(tx, &start, slot).await?;
            let exclusion = Exclusion {
                workflow_id: selection.node.clone(),
                subtree: selection.subtree,
                by: maker.clone(),
            };
            let mut exclusions = without(&row.exclusions, &selection.node, &maker);
            exclusions.push(exclusion);
            let entry = self.selection_entry(Kind::Exclude, tree, selection, by);
            self.put_exclusions(tx, row, exclusions, entry).await?;
        }
        let mut left = false;
        for slot in &selection.include {
            let row = self.slot_in(tx, &start, slot).await?;
            if let SelectedBy::Node(claims, _) = by {
                check_not_excluded(&row, claims)?;
            }
            let exclusions = without(&row.exclusions, &selection.node, &maker);
            left |= exclusions.iter().any(|e| e.workflow_id == selection.node);
            let entry = self.selection_entry(Kind::Include, tree, selection, by);
            self.put_exclusions(tx, row, exclusions, entry).await?;
        }
        if left {
            return Err(Refusal::ExcludedByOther.into());
        }
        Ok(())
    }

    async fn put_exclusions(
        &self,
        tx: &mut dyn Transaction,
        row: SlotRow,
        mut exclusions: Vec<Exclusion>,
        mut entry: Entry,
    ) -> Result<(), VaultError> {
        exclusions.sort();
        if exclusions == row.exclusions {
            return Ok(());
        }
        entry.slot = Some(row.slot.clone());
        let row = self
            .derived
            .seal_slot(row.start, row.slot, row.last, exclusions);
        tx.put_slot(&row).await?;
        tx.audit(&entry).await?;
        Ok(())
    }

    fn selection_entry(
        &self,
        kind: Kind,
        tree: &TreeId,
        selection: &Selection,
        by: &SelectedBy,
    ) -> Entry {
        let mut entry = self
            .entry(kind, Verdict::Succeeded, by.agent())
            .of_tree(tree);
        entry.node = Some(NodeRun {
            workflow_id: selection.node.clone(),
            run_id: None,
        });
        if let SelectedBy::Node(claims, _) = by {
            entry.activity = Some(claims.claims().activity.clone());
        }
        entry
    }

    /// The slot's row; an unwritten one where nothing was said about the slot yet.
    pub(crate) async fn slot_in(
        &self,
        tx: &mut dyn Transaction,
        start: &StartId,
        slot: &Slot,
    ) -> Result<SlotRow, VaultError> {
        if let Some(row) = tx.slot(start, slot).await? {
            return self.derived.check_slot(row);
        }
        // The first version of a slot writes its row: versions without one have lost it, and with
        // it who is excluded.
        let versions = tx.versions(start).await?;
        if versions.iter().any(|row| row.info.slot == *slot) {
            return Err(VaultError::tampered(
                "slot",
                format_args!("{slot} of tree {start}"),
            ));
        }
        let (start, slot) = (start.clone(), slot.clone());
        Ok(self.derived.seal_slot(start, slot, 0, Vec::new()))
    }
}

/// What is left when somebody lifts a node's exclusions.
fn without(exclusions: &[Exclusion], node: &WorkflowId, maker: &ExcludedBy) -> Vec<Exclusion> {
    let stays = |old: &&Exclusion| old.workflow_id != *node || !maker.may_lift(&old.by);
    exclusions.iter().filter(stays).cloned().collect()
}

/// A node selects for what is below it, never for itself or what is above it. Who is below cannot
/// be asked: a child may not have been started. Who is beside may therefore be excluded too, but
/// gets nothing by it that its own parent took away.
fn check_below(
    tree: &TreeId,
    selection: &Selection,
    claims: &ConfirmedClaims,
) -> Result<(), Refusal> {
    if claims.tree() != tree {
        return Err(Refusal::OtherTree);
    }
    let own = selection.node == claims.claims().workflow_id;
    if own || claims.ancestors().contains(&selection.node) {
        return Err(Refusal::NotBelow);
    }
    Ok(())
}

/// Nobody gives on what was taken from them. What a node only passes on, it may give.
fn check_not_excluded(row: &SlotRow, claims: &ConfirmedClaims) -> Result<(), Refusal> {
    let node = &claims.claims().workflow_id;
    let mut exclusions = row.exclusions.iter();
    if exclusions.any(|exclusion| exclusion.subtree && exclusion.covers(node, claims.ancestors())) {
        return Err(Refusal::Excluded);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> WorkflowId {
        text.parse().unwrap()
    }

    #[test]
    fn an_exclusion_covers_its_node_and_with_subtree_what_is_below() {
        let one = |subtree| {
            [Exclusion {
                workflow_id: id("b"),
                subtree,
                by: ExcludedBy::Operator,
            }]
        };
        assert!(excluded(&one(false), &id("b"), &[id("root")]));
        assert!(!excluded(&one(false), &id("c"), &[id("b"), id("root")]));
        assert!(excluded(&one(true), &id("c"), &[id("b"), id("root")]));
        assert!(excluded(
            &one(true),
            &id("d"),
            &[id("c"), id("b"), id("root")]
        ));
        assert!(!excluded(&one(true), &id("root"), &[]));
    }

    #[test]
    fn an_exclusion_is_lifted_by_its_maker_from_above_and_by_operators() {
        let node = |path: &[&str]| ExcludedBy::Node(path.iter().map(|text| id(text)).collect());
        let maker = node(&["b", "a", "root"]);
        for above in [&["b", "a", "root"][..], &["a", "root"], &["root"]] {
            assert!(node(above).may_lift(&maker), "{above:?}");
        }
        for other in [
            &["c", "a", "root"][..],
            &["c", "b", "a", "root"],
            &["a"],
            &["b", "root"],
        ] {
            assert!(!node(other).may_lift(&maker), "{other:?}");
        }
        assert!(ExcludedBy::Operator.may_lift(&maker));
        assert!(!maker.may_lift(&ExcludedBy::Operator));
    }
}
